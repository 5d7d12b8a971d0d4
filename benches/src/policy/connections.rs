// SPDX-License-Identifier: Apache-2.0
//! Connections a second under network policy.

use podswitch_datapath::counters::{Counters, Event};
use podswitch_datapath::switch::SwitchConfig;
use podswitch_datapath::worker::clock::{Clock, cycles};

use super::cluster::Size;
use super::conversations::{self, Script};
use super::node::{self, Counted, Policy, World};
use crate::Settings;
use crate::bare::Bare;
use crate::outcome::Outcome;
use crate::stats::{self, by_round, round_means};
use crate::traffic::Family;
use crate::turned::{self, Lengths, Node, Pipeline, frames_beyond_l2, measure, stay_on_last_core};
use crate::valve::Valve;

/// A node whose pods talk; what it counts as packets are connections that were judged and put into the flow table.
struct Talking {
    node: Node,
    before: Counters,
}

impl Pipeline for Talking {
    fn turn(&mut self) {
        self.node.switch.turn();
    }

    fn packets(&mut self) -> u64 {
        self.node.switch.counters().events[Event::FlowInstall as usize]
    }
}

impl Talking {
    /// Turned until there are as many connections in the table as there ever will be: most of them over, and kept for
    /// stragglers until their time has come or another connection takes their place.
    fn start(load: Load, policy: Policy<'_>, frames: u32) -> Talking {
        let config = SwitchConfig {
            flow_entries: load.entries,
            ..SwitchConfig::default()
        };
        let valve = Valve::closed();
        let pods = Size::LARGE.local;
        let devices = conversations::devices(load.family, load.script, pods, frames, &valve);
        let mut node = node::start(config, policy, frames, devices);
        valve.free();
        settle(&mut node, frames);
        let before = node.switch.counters();
        Talking { node, before }
    }

    /// Sees to it that what was measured was the whole: each connection was judged at both of its ends, none of its segments
    /// was dropped, and it had all of them.
    fn check(&self, load: Load, frames: u32, policed: bool) {
        let all = Counted::all(&self.node);
        all.check_nothing_lost();
        let opened = all.event(Event::FlowInstall);
        assert_eq!(all.judged(), if policed { 2 * opened } else { 0 });
        let counted = Counted::since(self.before.clone(), &self.node);
        let opened = counted.event(Event::FlowInstall);
        let (received, _) = counted.traffic();
        // Those that had begun, and those that have not ended.
        let missing = received.abs_diff(opened * load.script.length() as u64);
        let most = u64::from(frames) * load.script.length() as u64;
        assert!(
            missing <= most,
            "{received} segments of {opened} connections"
        );
    }
}

/// Turns a node until the number of its connections grows no more.
fn settle(node: &mut Node, frames: u32) {
    /// A look is at so many frames for each that circles.
    const FRAMES: u64 = 32;
    let patience = Clock::get().hertz() * 30;
    let start = cycles();
    let (mut before, mut calm) = (0, 0);
    while calm < 3 {
        let until = node.received() + u64::from(frames) * FRAMES;
        while node.received() < until {
            (0..64).for_each(|_| {
                node.switch.turn();
            });
        }
        let now = node.switch.counters().flows;
        calm = if now <= before + before / 1000 {
            calm + 1
        } else {
            0
        };
        before = before.max(now);
        let waited = cycles().wrapping_sub(start);
        assert!(waited < patience, "the number of connections grows: {now}");
    }
}

/// The bare loop, in connections.
struct BareConnections(Bare, Script);

impl Pipeline for BareConnections {
    fn turn(&mut self) {
        self.0.turn();
    }

    fn packets(&mut self) -> u64 {
        self.0.packets / self.1.length() as u64
    }
}

fn bare(load: Load, frames: u32) -> BareConnections {
    let pods = Size::LARGE.local;
    let devices = conversations::devices(load.family, load.script, pods, frames, &Valve::open());
    BareConnections(turned::bare(devices, frames), load.script)
}

/// A load.
#[derive(Clone, Copy, Debug)]
struct Load {
    family: Family,
    script: Script,
    entries: usize,
}

fn loads(settings: Settings) -> Vec<Load> {
    let entries = settings.pick(1 << 20, 1 << 17);
    let scripts = [Script::Whole, Script::Handshake, Script::Refused];
    let families = [Family::V4, Family::V6].into_iter();
    let load = |family, script| Load {
        family,
        script,
        entries,
    };
    families
        .flat_map(|family| scripts.map(|script| load(family, script)))
        .collect()
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    stay_on_last_core();
    let lengths = Lengths::of(settings);
    let frames = frames_beyond_l2();
    let world = World::new(settings.pick(Size::LARGE, Size::SMALL));
    let mut outcome = Outcome::new(
        "connections",
        "TCP connections under network policy",
        &method(&world, frames, lengths, loads(settings)[0].entries),
    );
    for load in loads(settings) {
        let what = format!("{}, {}", load.family, load.script.name());
        let mut policed = Talking::start(load, Policy::Of(&world), frames);
        let mut free = Talking::start(load, Policy::None, frames);
        let mut plain = bare(load, frames);
        measure(&mut plain, lengths.warm);
        let mut sides: [&mut dyn Pipeline; 3] = [&mut policed, &mut plain, &mut free];
        let [with, bare, without] =
            stats::rounds(lengths.rounds, |n| measure(sides[n], lengths.slice));
        policed.check(load, frames, true);
        free.check(load, frames, false);
        outcome.add_figure(
            &format!("{what}: connections in the table"),
            policed.node.switch.counters().flows as f64,
            "connections",
        );
        report(&mut outcome, &what, with, bare, without);
    }
    outcome
}

/// Adds what was measured, each in cycles a connection.
fn report(outcome: &mut Outcome, what: &str, with: Vec<f64>, bare: Vec<f64>, without: Vec<f64>) {
    const UNIT: &str = "cycles a connection";
    let hertz = Clock::get().hertz() as f64;
    let rates = round_means(&with).iter().map(|c| hertz / c / 1e3).collect();
    let label = |side: &str| format!("{what}: {side}");
    outcome.add_comparison(&label("connections, policy"), "thousand a second", rates);
    let ratio = |a: &[f64], b: &[f64]| by_round(a, b, |a, b| a / b);
    outcome.add_comparison(
        &label("rate with policy / without"),
        "ratio",
        ratio(&without, &with),
    );
    outcome.add_comparison(&label("switch / bare loop"), "ratio", ratio(&with, &bare));
    outcome.add_series(&label("switch, policy"), UNIT, with);
    outcome.add_series(&label("switch, no policy"), UNIT, without);
    outcome.add_series(&label("bare loop"), UNIT, bare);
}

fn method(world: &World, frames: u32, lengths: Lengths, entries: usize) -> String {
    format!(
        "A worker's own turns on {} memory ports, each a pod that is isolated in both directions, any to any; {}. {frames} TCP
         conversations at a time, each in a frame of its own that the pod which gets it turns into the next segment. Every
         conversation is between other ports than those before, and is judged at both ends. The flow table
         holds {entries} connections and is as full as it gets before the first sample. Counted are connections judged, let on and
         put into the table; no segment is dropped. Against it: the same switch without policy and peers, and a loop over the same ports that
         sends each frame out of a fixed port. One thread turns all three in rounds of A B C C B A; a sample is the cycles of
         the time-stamp counter of {} ms, over the connections opened.",
        Size::LARGE.local,
        world.text(),
        lengths.slice_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_judged_and_end() {
        let world = World::new(Size::SMALL);
        let frames = 1024;
        for load in loads(Settings { quick: true }) {
            let load = Load {
                entries: 1 << 15,
                ..load
            };
            for policy in [Policy::Of(&world), Policy::None] {
                let mut talking = Talking::start(load, policy, frames);
                (0..500).for_each(|_| talking.turn());
                talking.check(load, frames, matches!(policy, Policy::Of(_)));
            }
            let mut plain = bare(load, frames);
            (0..100).for_each(|_| plain.turn());
            assert!(plain.packets() > 1000);
        }
    }
}
