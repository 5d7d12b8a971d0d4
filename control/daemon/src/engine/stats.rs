// SPDX-License-Identifier: Apache-2.0
//! `stats`.

use std::collections::BTreeMap;

use podswitch_api::ErrorCode;
use podswitch_api::RpcError;
use podswitch_api::method::{
    PolicyRuleStats, PortStats, RuleStats, Section, StatsParams, StatsResult, TableStats,
    WorkerStats,
};
use podswitch_api::object::kubernetes::ClusterAction;
use podswitch_api::object::{self, Rule};
use podswitch_datapath::counters::{Counters, Event, Traffic};
use podswitch_datapath::switch::{Pinning, Waiting};
use podswitch_datapath::tables::Direction;
use podswitch_datapath::worker::clock::Clock;
use podswitch_datapath::{PolicyRuleId, Reason};
use podswitch_policy::{Direction as Way, PolicyKey, RuleName};
use tracing::debug;

use super::Engine;
use super::ports::LivePort;
use super::why::rule_ref;

type Drops = BTreeMap<String, u64>;

impl Engine {
    pub(super) fn stats(&mut self, params: &StatsParams) -> Result<StatsResult, RpcError> {
        if let Some(port) = &params.port
            && !self.model.state().ports.contains_key(port)
        {
            return Err(
                RpcError::new(ErrorCode::NotFound, format!("there is no port {port}"))
                    .field("port")
                    .value(port),
            );
        }
        let counters = self.switch.counters();
        let kernel = self.kernel_drops();
        let of = |name: &str| params.port.as_deref().is_none_or(|p| p == name);
        let wants = |section| params.wants(section);
        let mut result = StatsResult {
            time_ns: monotonic_ns(),
            generation: self.switch.tables().generation(),
            ..StatsResult::default()
        };
        if wants(Section::Ports) {
            let ports = self.ports.iter().filter(|(name, _)| of(name));
            result.ports = ports
                .map(|(name, live)| port_stats(name, live, &counters, kernel.get(name)))
                .collect();
        }
        if wants(Section::Drops) {
            result.drops = named(&counters.drops);
            result.kernel_drops = sum(kernel.values());
            if let Some(backlog) = backlog_drops().filter(|n| *n > 0) {
                result
                    .kernel_drops
                    .insert(Reason::KernelBacklog.name().to_owned(), backlog);
            }
        }
        if wants(Section::Workers) {
            result.workers = self.worker_stats();
        }
        if wants(Section::Rules) {
            let rules = self.model.state().rules.values().filter(|r| of(&r.port));
            result.rules = rules.map(|r| self.rule_stats(r, &counters)).collect();
        }
        if wants(Section::Policies) {
            result.policies = self.policy_stats(params.port.as_deref(), &counters);
        }
        if wants(Section::Tables) {
            result.tables = self.table_stats(&counters);
            let with = |e: &Event| (e.name().to_owned(), counters.event(*e));
            result.events = Event::ALL
                .iter()
                .map(with)
                .filter(|(_, n)| *n > 0)
                .collect();
        }
        Ok(result)
    }

    /// What the kernel dropped on each port: at its socket, at its programs, at the device.
    fn kernel_drops(&self) -> BTreeMap<String, Drops> {
        let mut all = BTreeMap::new();
        for (name, live) in &self.ports {
            let Some(attached) = &live.attached else {
                continue;
            };
            let mut drops = Drops::new();
            let mut add = |reason: Reason, n: u64| {
                if n > 0 {
                    drops.insert(reason.name().to_owned(), n);
                }
            };
            let mut refused = 0;
            if let Ok(Some(socket)) = self.switch.kernel_drops(live.id) {
                refused = socket.rx_ring_full + socket.fill_ring_empty + socket.rx_dropped;
                add(Reason::KernelRxRingFull, socket.rx_ring_full);
                add(Reason::KernelFillRingEmpty, socket.fill_ring_empty);
                add(Reason::KernelRxDropped, socket.rx_dropped);
                add(Reason::KernelTxInvalid, socket.tx_invalid);
            }
            match attached.drops(refused) {
                Ok(list) => list.into_iter().for_each(|(reason, n)| add(reason, n)),
                Err(e) => {
                    debug!(port = name, error = %e, "the kernel's counters of the port could not be read")
                }
            }
            all.insert(name.clone(), drops);
        }
        all
    }

    fn worker_stats(&self) -> Vec<WorkerStats> {
        let clock = Clock::get();
        let busy_ns = |c: u64| clock.nanoseconds(c);
        self.switch
            .workers()
            .iter()
            .map(|w| WorkerStats {
                id: w.id.0,
                core: core(w.pinning),
                ports: w.ports as u32,
                connections: w.connections,
                turns: w.cycles.turns,
                busy_ns: busy_ns(w.cycles.busy),
                idle_ns: busy_ns(w.cycles.idle),
                sleeps: w.cycles.sleeps,
                spins: w.waiting != Waiting::Sleeps,
                wake_ns: w.wake_latency.map(|latency| latency.as_nanos() as u64),
                stalls: w.cycles.stalls,
                stalled_ns: busy_ns(w.cycles.stalled),
            })
            .collect()
    }

    fn rule_stats(&self, rule: &Rule, counters: &Counters) -> RuleStats {
        let traffic = rule_traffic(self, rule, counters);
        RuleStats {
            name: rule.name.clone(),
            port: rule.port.clone(),
            direction: rule.direction,
            action: rule.action,
            packets: traffic.packets,
            bytes: traffic.bytes,
        }
    }

    /// The rules of policies, of one port or all.
    fn policy_stats(&self, port: Option<&str>, counters: &Counters) -> Vec<PolicyRuleStats> {
        let mut named: Vec<(PolicyRuleId, &RuleName)> = match port {
            None => self.policies.rules().collect(),
            Some(port) => self.policies.rules_of(port),
        };
        named.sort_unstable_by_key(|(_, name)| *name);
        let of_rule = |(id, name)| {
            let traffic = counters.policy_rules.get(&id).copied().unwrap_or_default();
            PolicyRuleStats {
                rule: rule_ref(name),
                action: self.action_of(name),
                connections: traffic.packets,
                bytes: traffic.bytes,
            }
        };
        named.into_iter().map(of_rule).collect()
    }

    /// What a rule does: those of NetworkPolicies only accept.
    fn action_of(&self, name: &RuleName) -> ClusterAction {
        let PolicyKey::Cluster(policy) = &name.policy else {
            return ClusterAction::Accept;
        };
        let policies = &self.model.state().cluster_network_policies;
        let action = policies
            .get(policy)
            .and_then(|policy| match name.direction {
                Way::Ingress => policy.spec.ingress.get(name.index).map(|r| r.action),
                Way::Egress => policy.spec.egress.get(name.index).map(|r| r.action),
            });
        action.unwrap_or(ClusterAction::Deny)
    }

    fn table_stats(&self, counters: &Counters) -> Vec<TableStats> {
        let counts = self.switch.tables().counts();
        let table = |name: &str, entries: u64, uses: Option<(u64, u64)>| TableStats {
            name: name.to_owned(),
            entries,
            capacity: None,
            lookups: uses.map(|(lookups, _)| lookups),
            hits: uses.map(|(_, hits)| hits),
        };
        let (hits, misses) = (
            counters.event(Event::FlowHit),
            counters.event(Event::FlowMiss),
        );
        let routed = counters.event(Event::RouteLookup);
        let unrouted = counters.dropped(Reason::NoRoute);
        let workers = self.config.workers.len() as u64;
        vec![
            TableStats {
                capacity: Some(u64::from(self.config.conntrack.entries) * workers),
                ..table("flow", counters.flows, Some((hits + misses, hits)))
            },
            table(
                "route",
                counts.routes as u64,
                Some((routed, routed.saturating_sub(unrouted))),
            ),
            // Nobody counts the lookups of these: it would cost every packet, and rules have counters of their own.
            table("neighbor", counts.neighbors as u64, None),
            table("fdb", counts.fdb_entries as u64 + counters.learned, None),
            table("policy", counts.rules as u64, None),
            table("peer", counts.peers as u64, None),
            table("identity", counts.identities as u64, None),
            table("cidr", counts.cidrs as u64, None),
            table("group", counts.groups as u64, None),
        ]
    }
}

/// What a rule has counted since it was added.
pub(super) fn rule_traffic(engine: &Engine, rule: &Rule, counters: &Counters) -> Traffic {
    let direction = match rule.direction {
        object::Direction::Ingress => Direction::Ingress,
        object::Direction::Egress => Direction::Egress,
    };
    let tables = engine.switch.tables();
    let entry = engine
        .names
        .id(&rule.port)
        .and_then(|id| tables.port(id))
        .and_then(|port| {
            let set = match direction {
                Direction::Ingress => &port.ingress,
                Direction::Egress => &port.egress,
            };
            set.rules()
                .iter()
                .find(|e| e.rule.name == rule.name)
                .map(|e| e.id)
        });
    entry
        .and_then(|id| counters.rules.get(&id).copied())
        .unwrap_or_default()
}

pub(super) fn core(pinning: Pinning) -> Option<u32> {
    match pinning {
        Pinning::Pinned(core) => Some(core as u32),
        _ => None,
    }
}

fn port_stats(
    name: &str,
    live: &LivePort,
    counters: &Counters,
    kernel: Option<&Drops>,
) -> PortStats {
    let c = counters.ports.get(&live.id).cloned().unwrap_or_default();
    PortStats {
        name: name.to_owned(),
        worker: live.worker.0,
        rx_packets: c.rx.packets,
        rx_bytes: c.rx.bytes,
        tx_packets: c.tx.packets,
        tx_bytes: c.tx.bytes,
        drops: named(&c.drops),
        kernel_drops: kernel.cloned().unwrap_or_default(),
        kicks: c.device.kicks,
        kicks_again: c.device.kicks_again,
    }
}

/// Drops by the names of their reasons, those that occurred.
fn named(drops: &[u64; Reason::COUNT]) -> Drops {
    let with = |r: &Reason| (r.name().to_owned(), drops[r.index()]);
    Reason::ALL
        .iter()
        .map(with)
        .filter(|(_, n)| *n > 0)
        .collect()
}

fn sum<'a>(all: impl Iterator<Item = &'a Drops>) -> Drops {
    let mut total = Drops::new();
    for drops in all {
        for (reason, n) in drops {
            *total.entry(reason.clone()).or_default() += n;
        }
    }
    total
}

fn backlog_drops() -> Option<u64> {
    podswitch_host::procfs::softnet()
        .ok()
        .map(|cpus| cpus.iter().map(|c| u64::from(c.dropped)).sum())
}

pub(super) fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(t.tv_nsec as u64)
}
