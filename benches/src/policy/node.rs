// SPDX-License-Identifier: Apache-2.0
//! A node of the cluster: a switch whose ports are its pods, with their policies or with none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podswitch_datapath::IdentityId;
use podswitch_datapath::counters::{Counters, Event};
use podswitch_datapath::port::MemoryDevice;
use podswitch_datapath::switch::SwitchConfig;
use podswitch_datapath::tables::{Action, Edit, PortSpec, Tables};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::worker::clock::{Clock, cycles};
use podswitch_policy::Update;

use super::cluster::{Cluster, Size};
use super::control::{self, Control};
use super::flows::Flows;
use crate::stats::Random;
use crate::traffic;
use crate::turned::{MTU, Node, Pipeline};

/// Seed of the cluster that is measured.
pub(super) const SEED: u64 = 2026;
/// Of a million frames, so many may belong to connections for which the flow table has no place, or no longer.
const UNLUCKY: u64 = 20;

/// The cluster, compiled for the node that its first pods are on.
#[derive(Debug)]
pub struct World {
    /// How large it is.
    pub size: Size,
    /// Its objects.
    pub cluster: Cluster,
    /// The compiler with all of them in it.
    pub control: Control,
    /// What the compiler said first: all there is.
    pub whole: Update,
}

impl World {
    /// Makes and compiles one.
    pub fn new(size: Size) -> World {
        let cluster = Cluster::new(size, SEED);
        let (control, whole) = Control::of(&cluster, size.local);
        World {
            size,
            cluster,
            control,
            whole,
        }
    }

    /// The identity of a pod.
    ///
    /// # Panics
    /// When the compiler gave it none.
    pub fn identity(&self, pod: usize) -> IdentityId {
        let address = self.addresses(pod)[0];
        let peers = &self.whole.peers;
        let at = peers.binary_search_by_key(&address, |(address, _)| *address);
        let identity = at.ok().and_then(|at| peers[at].1);
        IdentityId(identity.expect("a pod has an identity").0)
    }

    /// The addresses of a pod.
    pub fn addresses(&self, pod: usize) -> &[IpAddr] {
        &self.cluster.pods[pod].addresses
    }

    /// In a sentence, for reports.
    pub fn text(&self) -> String {
        let Size {
            namespaces,
            pods,
            policies,
            ..
        } = self.size;
        let identities = self.whole.identities.len();
        let rules = self.whole.endpoints.iter().filter_map(|(_, p)| p.as_ref());
        let rules: Vec<f64> = rules
            .flat_map(|p| [p.egress.rules.len() as f64, p.ingress.rules.len() as f64])
            .collect();
        format!(
            "{pods} pods in {namespaces} namespaces with {policies} NetworkPolicies: {} addresses of {identities} identities in
             {} classes, {} prefixes; {} rules in each direction of a port (median)",
            self.whole.peers.len(),
            classes(&self.whole),
            self.whole.cidrs.len(),
            crate::stats::median(&rules),
        )
    }
}

fn classes(update: &Update) -> usize {
    let classes = update.identities.iter().filter_map(|(_, class)| *class);
    classes.collect::<std::collections::BTreeSet<_>>().len()
}

/// What policy the ports have.
#[derive(Clone, Copy, Debug)]
pub enum Policy<'a> {
    /// That of the cluster.
    Of(&'a World),
    /// None: everything may pass, and the tables know no peers.
    None,
}

/// A switch with a port for each pod of the node. Ports without devices are described, too.
///
/// # Panics
/// When it cannot be made.
pub fn start(
    config: SwitchConfig,
    policy: Policy<'_>,
    frames: u32,
    devices: Vec<MemoryDevice>,
) -> Node {
    let mut node = Node::start(config, devices.len(), frames);
    let pods = match policy {
        Policy::Of(world) => world.size.local,
        Policy::None => devices.len(),
    };
    describe(&mut node, policy, pods, &[]);
    node.add(devices);
    node
}

/// Gives a node tables of its pods `0..pods`, and of other ports.
///
/// # Panics
/// When the tables refuse them, or the worker does not take them.
pub fn describe(node: &mut Node, policy: Policy<'_>, pods: usize, others: &[PortSpec]) {
    let mut edit = match policy {
        Policy::Of(world) => control::edit(&mut node.switch, &world.whole),
        Policy::None => node.switch.edit(),
    };
    let default = match policy {
        Policy::Of(_) => Action::Deny,
        Policy::None => Action::Allow,
    };
    let pods = (0..pods).map(|pod| traffic::port(pod, MTU, default));
    for port in pods.chain(others.iter().cloned()) {
        edit.set_port(port);
    }
    traffic::publish(&mut node.switch, edit);
}

/// Has every flow opened and answered between the pods of a node, whose valve is open.
///
/// # Panics
/// When the sources do not come through.
pub fn establish(node: &mut Node, flows: &Flows) {
    flows.establish(|| {
        for _ in 0..64 {
            node.switch.turn();
        }
        node.switch.counters().flows as usize
    });
    settle(node);
}

/// Turns the worker until what it receives is of ways it knows: a port that was charged for a core lost to others is served late, and
/// the last answers with it.
fn settle(node: &mut Node) {
    for _ in 0..1000 {
        let before = node.switch.counters();
        for _ in 0..1000 {
            node.switch.turn();
        }
        let lately = Counted::since(before, node);
        if lately.hit_rate() > 0.999 {
            return;
        }
    }
    panic!("flows do not become known");
}

/// Changes of tables, one after the other: a pod of another node goes or comes back, and now and then a port has another
/// policy that says the same.
#[derive(Debug)]
pub struct Churn {
    world: Arc<World>,
    random: Random,
    /// The pod that is gone.
    gone: Option<usize>,
    policies: bool,
    /// Changes so far.
    pub changes: usize,
}

/// Every so often it is a policy that changes, if any does: once in five seconds.
const POLICY_EVERY: usize = 1000;

impl Churn {
    /// In the tables of a cluster; of pods alone, or also of the policies of this node's.
    pub fn new(world: &Arc<World>, policies: bool) -> Churn {
        Churn {
            world: world.clone(),
            random: Random::new(SEED),
            gone: None,
            policies,
            changes: 0,
        }
    }

    /// The next tables.
    ///
    /// # Panics
    /// When they are refused.
    pub fn next(&mut self, edit: Edit) -> Tables {
        self.changes += 1;
        let mut edit = edit;
        match self.policies && self.changes % POLICY_EVERY == 1 {
            true => self.swap_policy(&mut edit),
            false => self.toggle_pod(&mut edit),
        }
        edit.build().expect("tables")
    }

    fn toggle_pod(&mut self, edit: &mut Edit) {
        let (pod, identity) = match self.gone.take() {
            Some(pod) => (pod, Some(self.world.identity(pod))),
            None => {
                let Size { local, pods, .. } = self.world.size;
                let pod = local + self.random.below(pods - local);
                self.gone = Some(pod);
                (pod, None)
            }
        };
        for address in self.world.addresses(pod) {
            edit.set_peer(*address, identity);
        }
    }

    /// Gives a port the same policy, compiled anew: what it has is judged again.
    fn swap_policy(&mut self, edit: &mut Edit) {
        let ports = &self.world.whole.endpoints;
        let (name, policy) = &ports[self.changes / POLICY_EVERY % ports.len()];
        control::set_policy(edit, name, policy.as_ref());
    }
}

/// What was counted between two moments.
#[derive(Clone, Debug)]
pub struct Counted {
    before: Counters,
    after: Counters,
}

impl Counted {
    /// Everything that a node has counted.
    pub fn all(node: &Node) -> Counted {
        Counted::since(Counters::default(), node)
    }

    /// What it has counted since then.
    pub fn since(before: Counters, node: &Node) -> Counted {
        Counted {
            before,
            after: node.switch.counters(),
        }
    }

    /// How often something happened.
    pub fn event(&self, event: Event) -> u64 {
        self.after.events[event as usize] - self.before.events[event as usize]
    }

    /// Connections known in the end.
    pub fn flows(&self) -> u64 {
        self.after.flows
    }

    /// Frames that were dropped for a reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.after.drops[reason.index()] - self.before.drops[reason.index()]
    }

    /// Frames received and sent by all ports.
    pub fn traffic(&self) -> (u64, u64) {
        let sum = |counters: &Counters| {
            let ports = counters.ports.values();
            ports.fold((0, 0), |(rx, tx), p| (rx + p.rx.packets, tx + p.tx.packets))
        };
        let (before, after) = (sum(&self.before), sum(&self.after));
        (after.0 - before.0, after.1 - before.1)
    }

    /// Decisions of policy rules.
    pub fn judged(&self) -> u64 {
        let sum = |c: &Counters| c.policy_rules.values().map(|t| t.packets).sum::<u64>();
        sum(&self.after) - sum(&self.before)
    }

    /// Share of the packets that passed by their connection's entry.
    pub fn hit_rate(&self) -> f64 {
        let (hits, misses) = (self.event(Event::FlowHit), self.event(Event::FlowMiss));
        hits as f64 / (hits + misses).max(1) as f64
    }

    /// Sees to it that nothing was dropped, but for a few frames of connections without a place, and that what was not dropped
    /// was sent.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check_nothing_lost(&self) {
        let (received, sent) = self.traffic();
        let mut lost = 0;
        for reason in Reason::ALL {
            let dropped = self.dropped(*reason);
            // No place for a connection, or the last segments of one that was over and whose place another one has.
            let unlucky = matches!(
                reason,
                Reason::FlowTableFull | Reason::NoConnection | Reason::PolicyIsolatedEgress
            );
            let most = if unlucky {
                received * UNLUCKY / 1_000_000
            } else {
                0
            };
            assert!(
                dropped <= most,
                "{dropped} of {received} frames were dropped: {reason}"
            );
            lost += dropped;
        }
        assert_eq!(sent + lost, received);
    }
}

/// A node of which flows are established.
pub struct Established {
    /// The node.
    pub node: Node,
    churn: Option<Churn>,
    changed: u64,
    before: Counters,
}

/// From one change of the tables to the next: of 150,000 pods one in 12 minutes comes or goes.
const CHANGE_EVERY: Duration = Duration::from_millis(5);

impl Established {
    /// Over a node whose flows are established, and whose tables change if they are of a cluster that changes.
    pub fn new(node: Node, churn: Option<Churn>) -> Established {
        let before = node.switch.counters();
        Established {
            node,
            churn,
            changed: 0,
            before,
        }
    }

    /// Changes of its tables.
    pub fn changes(&self) -> usize {
        self.churn.as_ref().map_or(0, |churn| churn.changes)
    }

    /// What it has counted since it was established.
    pub fn counted(&self) -> Counted {
        Counted::since(self.before.clone(), &self.node)
    }
}

impl Pipeline for Established {
    fn turn(&mut self) {
        self.node.switch.turn();
    }

    fn packets(&mut self) -> u64 {
        self.node.received()
    }

    fn control(&mut self) {
        let Some(churn) = &mut self.churn else {
            return;
        };
        let now = cycles();
        if now.wrapping_sub(self.changed) >= Clock::get().cycles(CHANGE_EVERY) {
            self.changed = now;
            let tables = churn.next(self.node.switch.edit());
            self.node.switch.publish(tables);
        }
    }
}
