// SPDX-License-Identifier: Apache-2.0
//! `get` and `audit`: what is configured, and what the switch knows of it.

use podswitch_api::desired::Query;
use podswitch_api::method::{
    ArenaAudit, AuditResult, Entry, FdbStatus, GetParams, GetResult, PortStatus, RuleStatus,
    SegmentStatus, ServiceStatus, Status,
};
use podswitch_api::object::{FdbEntry, Kind, Object, Port, Rule, Segment};
use podswitch_api::{MacAddr, RpcError};
use podswitch_datapath::VrfId;
use podswitch_datapath::frame::CHUNK_SIZE;
use podswitch_datapath::stage::LearnedEntry;

use super::Engine;
use super::guests::Guest;
use super::ports::switch_error;
use super::stats::rule_traffic;
use crate::kernel::Attached;

/// Learned addresses fetched from a worker at a time: its turn is that much longer.
const LEARNED_AT_ONCE: usize = 256;

impl Engine {
    pub(super) fn get(&mut self, params: &GetParams) -> Result<GetResult, RpcError> {
        let query = Query::new(params)?;
        let needs_learned = matches!(query.kind(), Kind::Fdb | Kind::Segment);
        let learned = if needs_learned {
            self.learned()?
        } else {
            Vec::new()
        };
        let found = match query.kind() {
            Kind::Neighbor => self.neighborhood.list(),
            _ => Vec::new(),
        };
        let page = match query.kind() {
            Kind::Neighbor => query.select(self.all_neighbors(&found).into_iter()),
            Kind::Route if self.neighborhood.known.has_routes() => query.select(self.all_routes()),
            Kind::Fdb => query.select(self.all_fdb(&learned).into_iter()),
            _ => query.run(self.model.state()),
        };
        let counters = matches!(query.kind(), Kind::Rule).then(|| self.switch.counters());
        let objects = page
            .objects
            .into_iter()
            .map(|object| {
                let status = match &object {
                    Object::Port(p) => self.port_status(p).map(Status::Port),
                    Object::Segment(s) => Some(Status::Segment(self.segment_status(s, &learned))),
                    Object::Fdb(f) => Some(Status::Fdb(self.fdb_status(f, &learned))),
                    Object::Rule(r) => counters
                        .as_ref()
                        .map(|c| Status::Rule(self.rule_status(r, c))),
                    Object::Route(r) => Some(Status::Route(self.route_status(r))),
                    Object::Neighbor(n) => Some(Status::Neighbor(self.neighbor_status(n, &found))),
                    Object::Service(s) => Some(Status::Service(ServiceStatus {
                        backends: s.backends.len() as u32,
                        local_backends: s.local_backends.len() as u32,
                    })),
                    Object::Namespace(_)
                    | Object::Pod(_)
                    | Object::NetworkPolicy(_)
                    | Object::ClusterNetworkPolicy(_)
                    | Object::Group(_) => None,
                };
                Entry { object, status }
            })
            .collect();
        Ok(GetResult {
            generation: self.model.generation(),
            objects,
            resume: page.resume,
        })
    }

    /// What all workers have learned; of an address that several know, what was heard last.
    fn learned(&mut self) -> Result<Vec<LearnedEntry>, RpcError> {
        let mut all: Vec<LearnedEntry> = Vec::new();
        let mut from = None;
        loop {
            let page = self
                .switch
                .learned(from, LEARNED_AT_ONCE)
                .map_err(|e| switch_error(&e))?;
            all.extend(page.entries.into_iter().map(|(_, e)| e));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        all.sort_by_key(|e| (e.segment, e.vlan, e.mac.0, e.idle));
        all.dedup_by_key(|e| (e.segment, e.vlan, e.mac.0));
        Ok(all)
    }

    /// Static and learned entries, in the order of their keys; a static one hides a learned one.
    fn all_fdb(&self, learned: &[LearnedEntry]) -> Vec<Object> {
        let state = self.model.state();
        let mut all = state.fdb.clone();
        for entry in learned {
            if let Some(found) = self.learned_object(entry) {
                all.entry(found.key()).or_insert(found);
            }
        }
        all.into_values().map(Object::from).collect()
    }

    fn learned_object(&self, entry: &LearnedEntry) -> Option<FdbEntry> {
        let segment = self
            .model
            .state()
            .segments
            .values()
            .find(|s| VrfId(s.id) == entry.segment)?;
        Some(FdbEntry {
            segment: segment.name.clone(),
            vlan: (entry.vlan != 0).then_some(entry.vlan),
            mac: MacAddr(entry.mac.0),
            port: self.names.name(entry.port)?.to_owned(),
        })
    }

    fn port_status(&self, port: &Port) -> Option<PortStatus> {
        let live = self.ports.get(&port.name)?;
        Some(PortStatus {
            state: live.state,
            id: live.id.0,
            worker: live.worker.0,
            mtu: self.mtu_of(port),
            mode: live.attached.as_ref().map(|a| a.means().to_string()),
            queues: match port.device.is_nic() {
                true => live.queues(),
                false => Vec::new(),
            },
            features: live.guest.as_ref().map(Guest::features).unwrap_or_default(),
            ifindex: live.attached.as_ref().map(Attached::ifindex),
            message: live.message.clone(),
            addresses: match self.nics.get(&port.name).filter(|_| port.device.is_host()) {
                Some(host) => host.addresses.clone(),
                None => Vec::new(),
            },
            on_host: live.on_host.clone(),
        })
    }

    fn segment_status(&self, segment: &Segment, learned: &[LearnedEntry]) -> SegmentStatus {
        let state = self.model.state();
        let member = |p: &&Port| p.segment.as_ref().is_some_and(|m| m.name == segment.name);
        let heard = learned
            .iter()
            .filter(|e| e.segment == VrfId(segment.id))
            .count() as u32;
        let fixed = state
            .fdb
            .values()
            .filter(|f| f.segment == segment.name)
            .count() as u32;
        SegmentStatus {
            ports: state.ports.values().filter(member).count() as u32,
            entries: fixed + heard,
            learned: heard,
        }
    }

    fn fdb_status(&self, entry: &FdbEntry, learned: &[LearnedEntry]) -> FdbStatus {
        if self.model.state().fdb.contains_key(&entry.key()) {
            return FdbStatus {
                dynamic: false,
                age_ms: None,
            };
        }
        let found = learned.iter().find(|l| {
            self.learned_object(l)
                .is_some_and(|o| o.key() == entry.key())
        });
        FdbStatus {
            dynamic: true,
            age_ms: found.map(|l| u64::from(l.idle)),
        }
    }

    fn rule_status(
        &self,
        rule: &Rule,
        counters: &podswitch_datapath::counters::Counters,
    ) -> RuleStatus {
        let traffic = rule_traffic(self, rule, counters);
        RuleStatus {
            packets: traffic.packets,
            bytes: traffic.bytes,
        }
    }

    pub(super) fn audit(&mut self) -> Result<AuditResult, RpcError> {
        let mut arenas = Vec::new();
        for (_, of_worker) in self.switch.audit().map_err(|e| switch_error(&e))? {
            for a in of_worker {
                // A chunk in a receive or completion ring still has the tag it was given to the kernel under.
                let counted = a.free + a.user + a.fill + a.transmit + a.handoff + a.quarantine;
                arenas.push(ArenaAudit {
                    id: arenas.len() as u32,
                    chunks: a.chunks.into(),
                    chunk_size: CHUNK_SIZE as u32,
                    free: a.free.into(),
                    fill: a.fill.into(),
                    held: (a.user + a.handoff).into(),
                    tx: a.transmit.into(),
                    quarantined: a.quarantine.into(),
                    unaccounted: i64::from(a.chunks) - i64::from(counted) + i64::from(a.free)
                        - i64::from(a.listed),
                });
            }
        }
        Ok(AuditResult {
            balanced: arenas.iter().all(|a| a.unaccounted == 0),
            arenas,
        })
    }
}
