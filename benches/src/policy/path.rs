// SPDX-License-Identifier: Apache-2.0
//! What network policy costs an established flow, in a large cluster whose tables change all the time.

use std::sync::Arc;

use podswitch_datapath::counters::Event;
use podswitch_datapath::switch::SwitchConfig;

use super::cluster::Size;
use super::flows::Flows;
use super::node::{self, Churn, Established, Policy, World};
use crate::Settings;
use crate::bare::Bare;
use crate::outcome::Outcome;
use crate::stats::{self, by_round};
use crate::traffic::Family;
use crate::turned::{self, Lengths, Pipeline, frames_beyond_l2, measure, stay_on_last_core};
use crate::valve::Valve;

const UNIT: &str = "cycles a packet";

/// A load.
#[derive(Clone, Copy, Debug)]
struct Load {
    family: Family,
    flows: usize,
    /// Connections that the flow table holds.
    entries: usize,
    /// Policies of the node's pods change, too.
    policies: bool,
}

impl Load {
    fn text(&self) -> String {
        let what = match self.policies {
            true => ", policies change",
            false => "",
        };
        format!("{}, {} flows{what}", self.family, self.flows)
    }
}

fn loads(settings: Settings) -> Vec<Load> {
    let few = (10_000, 1 << 16, true);
    let (flows, entries) = settings.pick((1_000_000, 1 << 21), (100_000, 1 << 18));
    let sizes = [few, (flows, entries, false), (flows, entries, true)];
    let families = [Family::V4, Family::V6].into_iter();
    let load = |family, (flows, entries, policies)| Load {
        family,
        flows,
        entries,
        policies,
    };
    families
        .flat_map(|family| sizes.map(|size| load(family, size)))
        .collect()
}

/// A node under a load, its flows established.
fn established(load: Load, world: Option<&Arc<World>>, frames: u32) -> Established {
    let config = SwitchConfig {
        flow_entries: load.entries,
        ..SwitchConfig::default()
    };
    let flows = Flows::new(load.family, load.flows, Size::LARGE.local);
    let valve = Valve::closed();
    let policy = match world {
        Some(world) => Policy::Of(world),
        None => Policy::None,
    };
    let mut node = node::start(config, policy, frames, flows.devices(frames, &valve));
    valve.free();
    node::establish(&mut node, &flows);
    Established::new(node, world.map(|world| Churn::new(world, load.policies)))
}

/// The bare loop on the same ports.
fn bare(load: Load, frames: u32) -> Bare {
    let flows = Flows::new(load.family, load.flows, Size::LARGE.local);
    flows.mix();
    turned::bare(flows.devices(frames, &Valve::open()), frames)
}

/// Sees to it that what was measured was the whole: all flows are connections, each judged by a policy rule of its client
/// and one of its server, and their packets passed as such.
fn check(node: &Established, load: Load, policed: bool) {
    let all = node::Counted::all(&node.node);
    all.check_nothing_lost();
    let (known, most) = (all.flows(), load.flows as u64);
    let least = most - most / 10_000;
    assert!((least..=most).contains(&known), "{known} flows");
    let judged = if policed { 2 * known } else { 0 };
    assert!(all.judged() >= judged, "{} judgements", all.judged());
    let measured = node.counted();
    assert!(measured.hit_rate() > 0.9, "{} hits", measured.hit_rate());
    assert_eq!(node.changes() > 0, policed);
    let rejudged = measured.event(Event::FlowRejudged);
    let as_it_should = match (policed, load.policies) {
        (false, _) => rejudged == 0,
        (true, true) => rejudged > 0,
        // Of pods that come and go few have flows here.
        (true, false) => true,
    };
    assert!(as_it_should, "{rejudged} flows were judged again");
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    stay_on_last_core();
    let lengths = Lengths::of(settings);
    let frames = frames_beyond_l2();
    let world = Arc::new(World::new(settings.pick(Size::LARGE, Size::SMALL)));
    let mut outcome = Outcome::new(
        "policy-path",
        "Established flows under network policy: cycles a packet",
        &method(&world, frames, lengths),
    );
    for load in loads(settings) {
        let mut policed = established(load, Some(&world), frames);
        let mut free = established(load, None, frames);
        let mut plain = bare(load, frames);
        let mut sides: [&mut dyn Pipeline; 3] = [&mut policed, &mut plain, &mut free];
        for side in &mut sides {
            measure(*side, lengths.warm);
        }
        let [with, bare, without] =
            stats::rounds(lengths.rounds, |n| measure(sides[n], lengths.slice));
        check(&policed, load, true);
        check(&free, load, false);
        let what = load.text();
        let ratio = |a: &[f64], b: &[f64]| by_round(a, b, |a, b| a / b);
        // A rate is the inverse of what a packet costs.
        outcome.add_comparison(
            &format!("{what}: rate with policy / without"),
            "ratio",
            ratio(&without, &with),
        );
        outcome.add_comparison(
            &format!("{what}: switch / bare loop"),
            "ratio",
            ratio(&with, &bare),
        );
        let added = by_round(&with, &bare, |a, b| a - b);
        outcome.add_comparison(&format!("{what}: switch − bare loop"), UNIT, added);
        outcome.add_series(&format!("{what}: switch, policy"), UNIT, with);
        outcome.add_series(&format!("{what}: switch, no policy"), UNIT, without);
        outcome.add_series(&format!("{what}: bare loop"), UNIT, bare);
    }
    outcome
}

fn method(world: &World, frames: u32, lengths: Lengths) -> String {
    format!(
        "A worker's own turns on {} memory ports, each a pod that is isolated in both directions, any to any, each frame of
         a flow by chance, in either direction; {}. Every 5 ms, between turns and not in the figure, a pod of another node goes or
         comes back, and where policies change, once in five seconds, first of all, a port's policy is compiled anew. Against it: the same switch without policy, peers and
         changes; and a loop over the same ports that sends each frame out of a fixed port. {frames} frames circle. Shortest UDP
         datagrams. One thread turns all three in rounds of A B C C B A; a sample is the cycles of the time-stamp
         counter of {} ms, over the frames moved.",
        Size::LARGE.local,
        world.text(),
        lengths.slice_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_established_with_and_without_policy() {
        let world = Arc::new(World::new(Size::SMALL));
        for family in [Family::V4, Family::V6] {
            let load = Load {
                family,
                flows: 2000,
                entries: 1 << 14,
                policies: true,
            };
            for world in [Some(&world), None] {
                let mut node = established(load, world, 2048);
                for _ in 0..500 {
                    node.turn();
                    node.control();
                }
                check(&node, load, world.is_some());
            }
            let mut plain = bare(load, 2048);
            (0..100).for_each(|_| Pipeline::turn(&mut plain));
            assert!(plain.packets > 2048);
        }
    }
}
