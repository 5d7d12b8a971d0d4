// SPDX-License-Identifier: Apache-2.0
//! How soon a change of network policy is in force under full load, and what it does to the traffic.

use std::time::Duration;

use podswitch_datapath::worker::clock::{Clock, cycles};

use super::changes::{Changes, Pods, Policies};
use super::cluster::Size;
use super::node::World;
use super::rig::{Load, Rig, Times};
use super::swap::RULES;
use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::{Rounds, quantile};
use crate::turned::{frames_beyond_l2, stay_on_first_core};

const UNIT: &str = "us";
/// What is said of the turns of a sample.
const SHARES: [(&str, f64); 4] = [
    ("median", 0.5),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("longest", 1.0),
];
/// What a pod's change is to take at most.
const AIM: f64 = 50.0;

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    let core = stay_on_first_core();
    let lengths = Lengths::of(settings);
    let size = settings.pick(Size::LARGE, Size::SMALL);
    let few = (10_000, 1 << 16);
    let many = settings.pick((1_000_000, 1 << 21), (100_000, 1 << 18));
    let world = World::new(size);
    let mut outcome = Outcome::new(
        "policy-update",
        "Changes of network policy under full load",
        &method(&world, lengths),
    );
    let mut first = Some(world);
    for (flows, entries) in [few, many] {
        let load = Load {
            flows,
            entries,
            frames: frames_beyond_l2(),
            core,
        };
        // What has changed is another world; each load has a new one.
        let world = first.take().unwrap_or_else(|| World::new(size));
        measure(&mut outcome, world, load, lengths);
    }
    outcome
}

fn measure(outcome: &mut Outcome, world: World, load: Load, lengths: Lengths) {
    let mut rig = Rig::start(world, load);
    let what = format!("{} flows", load.flows);
    for (relabel, kind) in [(false, "a pod more or less"), (true, "a pod's labels")] {
        let what = format!("{what}, {kind}");
        let mut pods = Pods::new(&rig, relabel);
        let found = Found::of(&mut rig, lengths, &mut pods);
        pods.bring_back(&mut rig);
        found.report(outcome, &what);
        let within = found.times.iter().filter(|t| micros(t.whole()) <= AIM);
        let share = within.count() as f64 / found.times.len() as f64 * 100.0;
        let label = format!("{what}: within {AIM} us");
        outcome.add_figure(&label, share, "% of the changes");
    }
    let mut policies = Policies::new(&mut rig);
    let found = Found::of(&mut rig, lengths, &mut policies);
    found.report(outcome, &format!("{what}, {RULES} rules for others"));
    policies.check(&rig);
    let (received, _) = rig.finish().traffic();
    let millions = received as f64 / 1e6;
    outcome.add_figure(&format!("{what}: frames, none lost"), millions, "million");
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    /// Time in which changes are timed, in cycles.
    times: u64,
    /// A sample of turns.
    slice: u64,
    /// Rounds of samples.
    rounds: usize,
}

impl Lengths {
    fn of(settings: Settings) -> Lengths {
        let cycles = |millis| Clock::get().cycles(Duration::from_millis(millis));
        Lengths {
            times: cycles(settings.pick(5000, 100)),
            slice: cycles(settings.pick(500, 50)),
            rounds: settings.pick(10, 2),
        }
    }
}

/// What was found about changes of a kind.
#[derive(Default)]
struct Found {
    times: Vec<Times>,
    /// Microseconds of turns while there are such changes, and while there are none; for each of [`SHARES`].
    turns: [Rounds; SHARES.len()],
}

impl Found {
    fn of<C: Changes>(rig: &mut Rig, lengths: Lengths, changes: &mut C) -> Found {
        let mut found = Found {
            times: make(rig, changes, lengths.times),
            ..Found::default()
        };
        rig.silent = true;
        for _ in 0..lengths.rounds {
            for changing in [true, false, false, true] {
                rig.turns.begin();
                match changing {
                    true => drop(make(rig, changes, lengths.slice)),
                    false => spin_until(cycles() + lengths.slice),
                }
                let turns = rig.turns.end();
                let turns: Vec<f64> = turns.into_iter().map(|t| micros(t.into())).collect();
                for (rounds, (_, share)) in found.turns.iter_mut().zip(SHARES) {
                    let side = match changing {
                        true => &mut rounds.a,
                        false => &mut rounds.b,
                    };
                    side.push(quantile(&turns, share));
                }
            }
        }
        rig.silent = false;
        found
    }

    fn report(&self, outcome: &mut Outcome, what: &str) {
        let mut add = |part: &str, of: fn(&Times) -> u64| {
            let times = self.times.iter().map(|t| micros(of(t))).collect();
            outcome.add_distribution(&format!("{what}: {part}"), UNIT, times);
        };
        add("to the first frame judged", Times::whole);
        add("compiler", |t| t.compiler);
        add("tables", |t| t.tables);
        add("worker", |t| t.worker);
        add("publishing", |t| t.publish);
        for (rounds, (share, _)) in self.turns.iter().zip(SHARES) {
            let sides = ("changes", "none");
            outcome.add_rounds(
                &format!("{what}: turn, {share}"),
                sides,
                UNIT,
                rounds.clone(),
            );
        }
    }
}

/// Makes changes for so many cycles, at least one; what each took.
fn make<C: Changes>(rig: &mut Rig, changes: &mut C, cycles_in_all: u64) -> Vec<Times> {
    let every = Clock::get().cycles(C::EVERY);
    let mut next = cycles();
    let end = next + cycles_in_all;
    let mut times = Vec::new();
    while next < end {
        times.push(changes.next(rig));
        next = (next + every).max(cycles());
        spin_until(next.min(end));
    }
    times
}

/// As control waits between two changes, and in their place.
fn spin_until(end: u64) {
    while cycles() < end {
        std::hint::spin_loop();
    }
}

fn micros(cycles: u64) -> f64 {
    Clock::get().nanoseconds(cycles) as f64 / 1e3
}

fn method(world: &World, lengths: Lengths) -> String {
    format!(
        "A worker with a thread and a core of its own, under the load of policy-path: IPv4, {} memory ports, any to any, each frame of an
         established flow by chance, as many as the worker can take; control on another core; {}. A pod more or less: a pod of another
         node goes and comes back. A pod's labels: it loses the one that policy lets it on for and gets it back. {} of these a second. Rules for others:
         the policy of one port, {RULES} rules, is replaced by another one, up to {} times a second. Times are from the change until
         a frame that is let on under one of the two tables and refused under the other was judged by the new ones: the compiler,
         building tables, the worker. Such frames come by an uplink that is served first in a turn. Turns: those of {} ms with
         changes that are not waited for, and without, in rounds of A B B A. No frame is lost but those that policy refuses.",
        Size::LARGE.local,
        world.text(),
        1000 / Pods::EVERY.as_millis(),
        1000 / Policies::EVERY.as_millis(),
        Clock::get().nanoseconds(lengths.slice) / 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_policies_change_under_load_and_no_frame_is_lost() {
        let load = Load {
            flows: 2000,
            entries: 1 << 14,
            frames: 1024,
            core: None,
        };
        let mut rig = Rig::start(World::new(Size::SMALL), load);
        let lengths = Lengths {
            times: Clock::get().cycles(Duration::from_millis(10)),
            slice: Clock::get().cycles(Duration::from_millis(10)),
            rounds: 1,
        };
        for relabel in [false, true] {
            let mut pods = Pods::new(&rig, relabel);
            let found = Found::of(&mut rig, lengths, &mut pods);
            pods.bring_back(&mut rig);
            assert!(found.times.iter().all(|t| t.worker > 0));
        }
        let mut policies = Policies::new(&mut rig);
        let found = Found::of(&mut rig, lengths, &mut policies);
        assert!(found.times.iter().all(|t| t.worker > 0));
        assert!(found.turns.iter().all(|r| r.a.len() == 2 && r.b.len() == 2));
        policies.check(&rig);
        let all = rig.finish();
        assert!(all.hit_rate() > 0.5, "{}", all.hit_rate());
    }
}
