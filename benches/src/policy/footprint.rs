// SPDX-License-Identifier: Apache-2.0
//! Memory for the pods of a large cluster, and for connections.

use std::thread;

use podswitch_datapath::switch::SwitchConfig;

use super::cluster::{Cluster, Size};
use super::control::Control;
use super::flows::Flows;
use super::node::{self, Counted, Policy, SEED, World};
use crate::Settings;
use crate::outcome::Outcome;
use crate::process::{self, Memory};
use crate::traffic::Family;
use crate::turned::{Node, frames_beyond_l2};
use crate::valve::Valve;

const MIB: f64 = (1 << 20) as f64;
/// Name of the memfd of a flow table.
const FLOWS: &str = "podswitch-flows";

/// The benchmark.
///
/// # Panics
/// When there are not as many flows as there should be.
pub fn run(settings: Settings) -> Outcome {
    let frames = frames_beyond_l2();
    let size = settings.pick(Size::LARGE, Size::SMALL);
    let (pods, world) = Pods::measure(size);
    let grown = pods.compiler + pods.tables;
    assert!(
        grown > pods.counted,
        "memory that was freed before was used again"
    );
    let mut outcome = Outcome::new(
        "policy-memory",
        "Memory of network policy and connections",
        &method(&world),
    );
    pods.report(&mut outcome, size.pods);
    let flows = settings.pick(1_000_000, 100_000);
    // As few entries as have room for all, and twice as many.
    let least = usize::next_power_of_two(flows);
    for entries in [least, 2 * least] {
        Held::measure(&world, flows, entries, frames).report(&mut outcome);
    }
    outcome
}

/// This process's memory.
fn memory() -> Memory {
    process::memory(std::process::id() as i32)
}

/// Bytes for all pods of a cluster.
struct Pods {
    /// By which the process has grown with the objects, as they came from the API.
    objects: f64,
    /// With the compiler, and what it said of all of them at once.
    compiler: f64,
    /// With the tables of the switch.
    tables: f64,
    /// What the tables take, by their own account.
    counted: f64,
}

impl Pods {
    fn measure(size: Size) -> (Pods, World) {
        let mut last = memory().own;
        let mut grown = || {
            let before = std::mem::replace(&mut last, memory().own);
            last as f64 - before as f64
        };
        let cluster = Cluster::new(size, SEED);
        let objects = grown();
        let (control, whole) = Control::of(&cluster, size.local);
        let compiler = grown();
        let world = World {
            size,
            cluster,
            control,
            whole,
        };
        let mut node = Node::start(SwitchConfig::default(), size.local, 0);
        let empty = node.switch.tables().memory();
        grown();
        // A thread of its own has memory of its own, in which nothing was freed.
        thread::scope(|scope| {
            let describe = || node::describe(&mut node, Policy::Of(&world), size.local, &[]);
            scope.spawn(describe).join().expect("tables");
        });
        let tables = grown();
        let counted = (node.switch.tables().memory() - empty) as f64;
        let pods = Pods {
            objects,
            compiler,
            tables,
            counted,
        };
        (pods, world)
    }

    fn report(&self, outcome: &mut Outcome, pods: usize) {
        let parts = [
            ("tables, by their own account", self.counted),
            ("tables, growth of the process", self.tables),
            ("compiler, growth of the process", self.compiler),
            ("objects, growth of the process", self.objects),
        ];
        for (part, bytes) in parts {
            let label = |what: &str| format!("{pods} pods: {what}{part}");
            outcome.add_figure(&label(""), bytes / MIB, "MiB");
            outcome.add_figure(&label("a pod, "), bytes / pods as f64, "bytes");
        }
    }
}

/// A flow table with established flows in it.
struct Held {
    flows: u64,
    entries: usize,
    /// Memory allocated for it.
    bytes: u64,
}

impl Held {
    fn measure(world: &World, count: usize, entries: usize, frames: u32) -> Held {
        let config = SwitchConfig {
            flow_entries: entries,
            ..SwitchConfig::default()
        };
        let taken = || memory().memfds.get(FLOWS).copied().unwrap_or(0);
        let before = taken();
        let flows = Flows::new(Family::V4, count, Size::LARGE.local);
        let valve = Valve::closed();
        let devices = flows.devices(frames, &valve);
        let mut node = node::start(config, Policy::Of(world), frames, devices);
        valve.free();
        node::establish(&mut node, &flows);
        let held = Held {
            flows: Counted::all(&node).flows(),
            entries,
            bytes: taken().saturating_sub(before),
        };
        held.check(&node, count as u64);
        held
    }

    /// Sees to it that the flows are there, each judged at both of its ends. A few may have found no place.
    fn check(&self, node: &Node, count: u64) {
        let least = count - count / 100;
        assert!(
            (least..=count).contains(&self.flows),
            "{} flows",
            self.flows
        );
        let judged = Counted::all(node).judged();
        assert!(judged >= 2 * self.flows, "{judged} judgements");
    }

    fn report(&self, outcome: &mut Outcome) {
        let label = |what: &str| format!("a flow table of {} entries: {what}", self.entries);
        let bytes = self.bytes as f64;
        outcome.add_figure(&label("flows held"), self.flows as f64, "flows");
        outcome.add_figure(&label("memory"), bytes / MIB, "MiB");
        outcome.add_figure(&label("a flow"), bytes / self.flows as f64, "bytes");
        outcome.add_figure(&label("an entry"), bytes / self.entries as f64, "bytes");
    }
}

fn method(world: &World) -> String {
    format!(
        "One process: {}. All of it, policies too, over the number of pods. Growth of the process: by how much its proportional
         set without memfds grows with the objects of the cluster, then with the compiler that takes them all at once and what it
         says of them, then with the tables of the switch, which a thread with memory of its own builds, and counters of policy rules; with
         what the allocator keeps of what was given back in between. By their own account: every allocation of the tables
         once, without the allocator's own. A flow table: what is allocated for its memfd once that many flows of IPv4 are
         established under policy, over the flows that have found a place; an entry is one of the connections that it takes.",
        world.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_flows_take_memory() {
        let (pods, world) = Pods::measure(Size::SMALL);
        // Two addresses of each, at least, with its identity.
        let least = Size::SMALL.pods * 2 * size_of::<u32>();
        assert!(pods.counted > least as f64, "{}", pods.counted);
        let held = Held::measure(&world, 2000, 1 << 12, 1024);
        assert_eq!(held.entries, 1 << 12);
        assert!(held.flows > 1900);
    }
}
