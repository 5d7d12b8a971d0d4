// SPDX-License-Identifier: Apache-2.0
//! Changes of the desired state, all or nothing: judge, build tables, open ports, store, publish, close what went.
//! Everything up to the store can be undone; what comes after cannot fail.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use podswitch_api::desired::{Applied, Delta, DesiredState, Difference};
use podswitch_api::method::{ApplyParams, ApplyResult, CommitResult};
use podswitch_api::object::{Key, Kind, Object, Port, PortMapping};
use podswitch_api::{ErrorCode, RpcError};
use podswitch_datapath::tables::Tables;
use podswitch_datapath::{PortId, WorkerId};
use podswitch_host::ports;
use tracing::{error, info, warn};

use super::ports::kernel_error;
use super::{Engine, Transaction};
use crate::compile::{Compiler, table_error};
use crate::host_ports;
use crate::kernel::KernelError;
use crate::services;

impl Engine {
    pub(super) fn apply(&mut self, params: &ApplyParams) -> Result<ApplyResult, RpcError> {
        self.model.expect(params.expect_generation)?;
        let applied = self.model.apply(&params.changes)?;
        let changed = applied.delta.len() as u64;
        let generation = self.realise(applied)?;
        Ok(ApplyResult {
            generation,
            changed,
        })
    }

    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<CommitResult, RpcError> {
        self.model.expect(transaction.generation)?;
        let applied = self.model.replace(&transaction.kinds, &transaction.state)?;
        let d = &applied.delta;
        let (added, changed, removed) = (d.added(), d.changed(), d.removed());
        let generation = self.realise(applied)?;
        Ok(CommitResult {
            generation,
            added,
            changed,
            removed,
        })
    }

    /// Makes a judged change real, or takes it back.
    pub(super) fn realise(&mut self, applied: Applied) -> Result<u64, RpcError> {
        if applied.delta.is_empty() {
            return Ok(applied.generation);
        }
        let moves = self.moves(&applied.delta);
        let ready = self.prepare(&applied, &moves);
        match ready {
            Ok(tables) => {
                self.put_in_force(tables, &moves);
                self.steer(&applied.delta);
                self.settle_sockets_after(&applied.delta);
                self.close_ports(&moves);
                self.want_differences(&applied.delta.differences);
                info!(
                    generation = applied.generation,
                    added = applied.delta.added(),
                    changed = applied.delta.changed(),
                    removed = applied.delta.removed(),
                    "desired state changed"
                );
                Ok(applied.generation)
            }
            Err(e) => {
                self.model.revert(&applied);
                Err(e)
            }
        }
    }

    /// Everything that can fail, and is undone then: first what disturbs nobody. Tables are built before a device is
    /// touched, and devices that were not there are opened before those that are opened anew.
    fn prepare(&mut self, applied: &Applied, moves: &Moves) -> Result<Tables, RpcError> {
        self.refuse_served_ports(&applied.delta)?;
        let plan = self.plan(moves)?;
        // What was refused until now is named by what is in force until now: numbers of rules may be others' soon.
        self.collect_refusals();
        self.policies.change(&applied.delta.differences);
        let ready = self.compile(&applied.delta, &plan).and_then(|tables| {
            let opened = self.open_ports(moves, &plan)?;
            self.store.commit(applied).map_err(|e| {
                self.undo_ports(&opened, moves);
                RpcError::from(e)
            })?;
            Ok(tables)
        });
        if ready.is_err() {
            self.unplan(moves);
            self.policies.revert(&applied.delta.differences);
            self.settle_policies();
        }
        ready
    }

    /// Refuses that a port of the node comes to lead to a pod where a socket of the host waits, which would hear nothing any more.
    fn refuse_served_ports(&self, delta: &Delta) -> Result<(), RpcError> {
        let mut waiting = None;
        for difference in &delta.differences {
            let Some(Object::Port(port)) = &difference.after else {
                continue;
            };
            let led = match &difference.before {
                Some(Object::Port(before)) => before.host_ports.as_slice(),
                _ => &[],
            };
            for mapping in port.host_ports.iter().filter(|m| !led.contains(m)) {
                self.refuse_reserved_port(mapping)
                    .map_err(|e| e.about(&difference.key()))?;
                if waiting.is_none() {
                    waiting = Some(ports::waiting().map_err(|e| kernel_error(&e.into()))?);
                }
                let held = host_ports::holder(mapping, waiting.as_deref().unwrap_or_default());
                if let Some(held) = held.copied() {
                    let mapping = *mapping;
                    let e = kernel_error(&KernelError::PortServed { mapping, held });
                    return Err(e
                        .field("host_ports")
                        .value(mapping)
                        .about(&difference.key()));
                }
            }
        }
        Ok(())
    }

    /// Connections that pods begin leave by reserved ports: what comes to one is an answer.
    fn refuse_reserved_port(&self, mapping: &PortMapping) -> Result<(), RpcError> {
        let reserved = self.config.masquerade.ports.map(RangeInclusive::from);
        match reserved.filter(|range| range.contains(&mapping.host_port)) {
            Some(range) => {
                let (first, last) = (range.start(), range.end());
                let what = format!(
                    "port {mapping} of the node is one of those by which pods are masqueraded, {first}-{last}"
                );
                Err(RpcError::new(ErrorCode::Conflict, what)
                    .field("host_ports")
                    .value(mapping)
                    .hint("choose another port of the node (hostPort), or other `masquerade.ports` in the configuration"))
            }
            None => Ok(()),
        }
    }

    /// After a change that did not come about, things of network policy may have other numbers than the tables know.
    fn settle_policies(&mut self) {
        if !self.policies.is_owed() {
            return;
        }
        let mut edit = self.switch.edit();
        let put = self.policies.put(&mut edit, &self.names);
        match put.and_then(|()| edit.build().map_err(|e| table_error(&e))) {
            Ok(tables) => self.publish(tables),
            Err(e) => warn!(error = %e, "network policy goes into the tables with the next change"),
        }
    }

    /// Gives the workers new tables. Frames are let in of new ports once every worker has them.
    fn put_in_force(&mut self, tables: Tables, moves: &Moves) {
        self.disconnect(moves);
        self.publish(tables);
        if !moves.open.is_empty() {
            self.await_tables();
        }
        for port in &moves.open {
            self.connect(&port.name);
        }
    }

    /// Gives the workers the tables that were compiled last.
    pub(super) fn publish(&mut self, tables: Tables) {
        for rule in self.policies.commit() {
            self.switch.begin_policy_rule(rule);
        }
        self.switch.publish(tables);
    }

    /// A frame received under tables that do not know its port would be dropped.
    pub(super) fn await_tables(&mut self) {
        if let Err(e) = self.switch.wait_for_tables() {
            warn!(error = %e, "not every worker has the new tables yet");
        }
    }

    /// The tables after these differences, which the model has taken already.
    pub(super) fn compile(&mut self, delta: &Delta, plan: &Plan) -> Result<Tables, RpcError> {
        let mut edit = self.switch.edit();
        let all = with_dependents(delta, self.model.state());
        let segments_before = segments_before(&all);
        let compiler = Compiler {
            names: &self.names,
            state: self.model.state(),
            segments_before: &segments_before,
            worker: &|id| plan.get(&id).copied().unwrap_or_else(|| self.worker_of(id)),
            nic: &|port| self.nics.get(port),
            default_mtu: self.config.mtu,
        };
        for difference in all.iter() {
            compiler.difference(&mut edit, difference)?;
        }
        // One may have gone from a port to another.
        all.iter()
            .for_each(|d| host_ports::put(&mut edit, &d.before, false));
        all.iter()
            .for_each(|d| host_ports::put(&mut edit, &d.after, true));
        services::put(&mut edit, all.iter());
        let known = &self.neighborhood.known;
        known.amend(&mut edit, &all, self.model.state(), &self.names);
        self.policies.put(&mut edit, &self.names)?;
        edit.build().map_err(|e| table_error(&e))
    }

    /// Puts the whole desired state into force when the daemon starts.
    pub(super) fn compile_all(&mut self) {
        let state = self.model.state();
        self.policies.load(state);
        let objects = Kind::ALL
            .into_iter()
            .filter(|kind| is_of_tables(*kind))
            .flat_map(|kind| state.objects(kind));
        let whole = Delta {
            differences: objects
                .filter_map(|object| Difference::new(None, Some(object)))
                .collect(),
        };
        match self.compile(&whole, &Plan::new()) {
            Ok(tables) => {
                self.publish(tables);
                self.want_differences(&whole.differences);
            }
            // The store holds only what was in force once; a limit of the configuration may have shrunk since.
            Err(e) => {
                error!(error = %e, "the stored desired state does not fit the tables; all ports stay closed")
            }
        }
    }
}

/// Ports whose device is to be opened or closed.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// New ones, or ones with another device.
    pub(super) open: Vec<Port>,
    /// Gone ones.
    pub(super) close: Vec<Port>,
    /// As they were before, of those that are opened anew.
    pub(super) reopen: Vec<Port>,
}

/// Which workers are to serve the ports that a change opens.
pub(super) type Plan = HashMap<PortId, WorkerId>;

impl Engine {
    fn moves(&self, delta: &Delta) -> Moves {
        let mut moves = Moves::default();
        for difference in &delta.differences {
            let port = |o: &Option<Object>| match o {
                Some(Object::Port(p)) => Some((**p).clone()),
                _ => None,
            };
            match (port(&difference.before), port(&difference.after)) {
                (None, Some(new)) => moves.open.push(new),
                (Some(old), None) => moves.close.push(old),
                (Some(old), Some(new)) if self.device_differs(&old, &new) => {
                    moves.reopen.push(old);
                    moves.open.push(new);
                }
                _ => {}
            }
        }
        moves
    }

    /// Whether a change of the port needs its device opened anew. What only says what is so already needs nothing.
    fn device_differs(&self, old: &Port, new: &Port) -> bool {
        let mtu = |p: &Port| p.mtu.unwrap_or(self.config.mtu);
        let serves = self.ports.get(&new.name).map(|p| p.worker.0);
        let moves = new.worker.is_some() && new.worker != serves;
        // What the program of a NIC knows is of one VRF.
        let steers = new.device.is_nic() && old.vrf != new.vrf;
        // What of the node's addresses is its ports' was found out when it was opened.
        let has = |p: &Port| (p.vrf, p.addresses.clone());
        let named = new.device.is_host() && has(old) != has(new);
        old.device != new.device || mtu(old) != mtu(new) || moves || steers || named
    }
}

/// Objects refer to a segment by name, tables by its id: when the id changes, they are compiled again.
fn with_dependents<'a>(delta: &'a Delta, state: &DesiredState) -> Cow<'a, [Difference]> {
    let renumbered: Vec<&str> = delta
        .differences
        .iter()
        .filter_map(|d| match (&d.before, &d.after) {
            (Some(Object::Segment(a)), Some(Object::Segment(b))) if a.id != b.id => {
                Some(a.name.as_str())
            }
            _ => None,
        })
        .collect();
    if renumbered.is_empty() {
        return Cow::Borrowed(&delta.differences);
    }
    let touched = |o: &Object| match o {
        Object::Port(p) => p
            .segment
            .as_ref()
            .is_some_and(|s| renumbered.contains(&s.name.as_str())),
        Object::Fdb(f) => renumbered.contains(&f.segment.as_str()),
        _ => false,
    };
    let known: HashSet<Key> = delta.differences.iter().map(Difference::key).collect();
    let objects = [Kind::Port, Kind::Fdb]
        .into_iter()
        .flat_map(|kind| state.objects(kind));
    let dependents = objects
        .filter(|o| touched(o) && !known.contains(&o.key()))
        .filter_map(|o| Difference::new(Some(o.clone()), Some(o)));
    let all = delta.differences.iter().cloned().chain(dependents);
    Cow::Owned(all.collect())
}

/// Ids that segments had before differences of them.
fn segments_before(delta: &[Difference]) -> HashMap<&str, u32> {
    let before = delta.iter().filter_map(|d| match &d.before {
        Some(Object::Segment(s)) => Some((s.name.as_str(), s.id)),
        _ => None,
    });
    before.collect()
}

/// Whether objects of a kind are in the tables by themselves; the others are what network policy is made of.
fn is_of_tables(kind: Kind) -> bool {
    match kind {
        Kind::Segment
        | Kind::Port
        | Kind::Neighbor
        | Kind::Route
        | Kind::Fdb
        | Kind::Rule
        | Kind::Service => true,
        Kind::Namespace
        | Kind::Pod
        | Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::Group => false,
    }
}
