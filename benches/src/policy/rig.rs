// SPDX-License-Identifier: Apache-2.0
//! A node under full load whose worker has a thread, and the control that changes its tables meanwhile.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use podswitch_datapath::counters::Event;
use podswitch_datapath::port::MemoryDevice;
use podswitch_datapath::switch::SwitchConfig;
use podswitch_datapath::tables::{Action, PortKindSpec, PortSpec};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::worker::clock::cycles;
use podswitch_datapath::{PortId, VrfId};
use podswitch_policy::{Change, Update};

use super::cluster::{SERVICE, Size};
use super::control;
use super::flows::Flows;
use super::node::{self, Counted, Policy, World};
use super::probe::{Board, Caller, Clock, Turns, Uplink, Watch, Watched};
use crate::traffic::{self, Family};
use crate::turned::{MTU, Node, one_worker};
use crate::valve::Valve;

/// The pod that callers call; it has flows like the others.
pub const CALLED: usize = 0;
/// How often a node is made anew because its flow table has no place for some flow: by chance, for one in millions.
const ATTEMPTS: usize = 8;
/// Time for the worker to do what it has begun.
const BREATH: Duration = Duration::from_millis(2);

/// A load of established flows of IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many.
    pub flows: usize,
    /// Connections that the flow table holds.
    pub entries: usize,
    /// Frames that circle.
    pub frames: u32,
    /// The core that the worker is kept to.
    pub core: Option<usize>,
}

/// What became of a change, in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the compiler had said what is different.
    pub compiler: u64,
    /// From then until there were tables.
    pub tables: u64,
    /// Of the call that gave them to the worker.
    pub publish: u64,
    /// From before that call until a frame judged by them had left, or would have.
    pub worker: u64,
}

impl Times {
    /// From the change to the first frame judged by it.
    pub fn whole(&self) -> u64 {
        self.compiler + self.tables + self.worker
    }
}

/// The node, its load and its control.
pub struct Rig {
    /// The cluster. What its compiler said first is in force no longer once something has changed.
    pub world: World,
    /// The switch.
    pub node: Node,
    /// How long turns take.
    pub turns: Arc<Turns>,
    /// Nobody calls: the load is all there is.
    pub silent: bool,
    /// Connections put into the flow table until the flows were established.
    begun: u64,
    board: Arc<Board>,
    valve: Arc<Valve>,
    /// The pod of another node that does not change.
    witness: usize,
}

impl Rig {
    /// Its flows established, and sent as fast as the worker can.
    ///
    /// # Panics
    /// When the flows cannot be established.
    pub fn start(world: World, load: Load) -> Rig {
        for _ in 0..ATTEMPTS {
            let (turns, board, valve) = (Arc::default(), Arc::default(), Valve::closed());
            let witness = mesh(&world).next().expect("pods of the mesh");
            let parts = Parts {
                turns: &turns,
                board: &board,
                valve: &valve,
                witness: Caller::of(&world.cluster.pods[witness], SERVICE.0),
            };
            let node = parts.node(&world, load);
            let all = Counted::all(&node);
            if all.flows() < load.flows as u64 {
                continue;
            }
            assert!(all.judged() >= 2 * all.flows(), "{} judged", all.judged());
            let begun = all.event(Event::FlowInstall);
            return Rig {
                world,
                node,
                turns,
                silent: false,
                begun,
                board,
                valve,
                witness,
            };
        }
        panic!("{} flows have no place among {}", load.flows, load.entries);
    }

    /// Pods of other nodes that may change: each is let on to [`CALLED`] for being of the mesh, and for nothing else.
    pub fn changing(&self) -> Vec<usize> {
        let others = mesh(&self.world).filter(|pod| *pod != self.witness);
        others.collect()
    }

    /// Has a caller call, and waits until it is let on, or is not.
    ///
    /// # Panics
    /// When that does not come about.
    pub fn call(&self, caller: Caller, is_let_on: bool) {
        // The next pair may be one of the caller before.
        let pairs = self.board.pairs() + 1;
        self.board.ask(caller);
        self.board.wait(is_let_on.then_some(caller), pairs);
        self.board.hush();
    }

    /// Makes a change, as the daemon does, after which a caller is let on that was not, or the other way round. Unless `silent`, it calls until it is so; before, it
    /// does not: the uplink has a port's share of the worker's time, and saves it for that.
    ///
    /// # Panics
    /// When the tables refuse it, or the caller is not judged anew.
    pub fn change(
        &mut self,
        change: Change<'_>,
        caller: Caller,
        is_let_on: bool,
    ) -> (Times, Update) {
        let began = cycles();
        let update = self.world.control.apply([change]);
        let compiled = cycles();
        let edit = control::edit(&mut self.node.switch, &update);
        let tables = edit.build().expect("tables");
        let built = cycles();
        let (let_on, pairs) = (is_let_on.then_some(caller), self.board.pairs());
        if !self.silent {
            assert!(!self.board.says(let_on), "it is so already");
            self.board.ask(caller);
        }
        self.node.switch.publish(tables);
        let published = cycles();
        let judged = match self.silent {
            true => published,
            false => self.board.wait(let_on, pairs),
        };
        self.board.hush();
        let times = Times {
            compiler: compiled - began,
            tables: built - compiled,
            publish: published - built,
            worker: judged.saturating_sub(built),
        };
        (times, update)
    }

    /// Stops the load, and sees to it that no frame was lost since the start but those of callers that policy refused, and
    /// that every flow has kept its place.
    ///
    /// # Panics
    /// When that is not so.
    pub fn finish(&mut self) -> Counted {
        self.valve.close();
        let mut received = None;
        while received.replace(self.node.received()) != Some(self.node.received()) {
            self.node.switch.wait_for_tables().expect("the worker runs");
            std::thread::sleep(BREATH);
        }
        let (all, calls) = (Counted::all(&self.node), self.board.calls());
        for reason in Reason::ALL {
            let expected = match reason {
                Reason::PolicyIsolatedIngress => calls.refused,
                _ => 0,
            };
            let dropped = all.dropped(*reason);
            assert_eq!(dropped, expected, "frames dropped: {reason}");
        }
        let (received, sent) = all.traffic();
        assert_eq!(received - sent, calls.refused, "frames lost");
        // Whoever is let on anew has a new connection; the witness has one.
        let callers = all.event(Event::FlowInstall) - self.begun;
        let most = calls.answers + 1;
        assert!(callers <= most, "{callers} connections, {most} of callers");
        assert!(all.event(Event::FlowRejudged) > 0, "nothing judged again");
        all
    }
}

/// Pods of other nodes that are of the mesh.
fn mesh(world: &World) -> impl Iterator<Item = usize> {
    let pods = world.cluster.pods.iter().enumerate();
    let mesh = pods.filter(|(_, pod)| pod.labels.contains_key("mesh"));
    mesh.map(|(n, _)| n).skip_while(|n| *n < world.size.local)
}

/// What a node is made of.
struct Parts<'a> {
    turns: &'a Arc<Turns>,
    board: &'a Arc<Board>,
    valve: &'a Arc<Valve>,
    witness: Caller,
}

impl Parts<'_> {
    /// A node whose flows are established as far as its flow table has a place for them. Ports are served in this order: the clock,
    /// the uplink, so that its frames are the first ones of a turn, the pods.
    fn node(&self, world: &World, load: Load) -> Node {
        let pods = Size::LARGE.local;
        let (uplink, clock) = (PortId(pods as u16), PortId(pods as u16 + 1));
        let config = SwitchConfig {
            flow_entries: load.entries,
            ..one_worker(load.core)
        };
        let mut node = Node::start_as(config, pods + 2, load.frames);
        node::describe(&mut node, Policy::Of(world), pods, &[wire(uplink)]);
        let served = Arc::new(AtomicBool::new(false));
        let spring = |source| MemoryDevice::spring(source);
        node.add_one(clock, spring(Box::new(Clock::new(&served, self.turns))));
        let calls = Uplink::new(self.board, CALLED, self.witness, self.valve, &served);
        node.add_one(uplink, spring(Box::new(calls)));
        let flows = Flows::new(Family::V4, load.flows, pods);
        let each = load.frames.div_ceil(pods as u32);
        let senders = flows.senders(self.valve).into_iter().enumerate();
        let devices = senders.map(|(pod, sender)| {
            let watch = (pod == CALLED).then(|| Watch::new(self.board, self.witness));
            let served = served.clone();
            let source = Watched {
                sender,
                served,
                watch,
            };
            MemoryDevice::circle(each, Box::new(source))
        });
        node.add(devices.collect());
        self.valve.free();
        flows.establish(|| {
            std::thread::sleep(BREATH);
            node.switch.counters().flows as usize
        });
        node
    }
}

/// A port that other nodes are behind.
fn wire(id: PortId) -> PortSpec {
    PortSpec {
        name: "uplink".into(),
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: Vec::new(),
        },
        check_source: false,
        ..traffic::port(id.index(), MTU, Action::Allow)
    }
}
