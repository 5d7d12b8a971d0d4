// SPDX-License-Identifier: Apache-2.0
//! What is left to pods of a worker that another pod floods.

use podswitch_datapath::verdict::Reason;

use super::attack::Attack;
use super::cluster::Size;
use super::node::World;
use super::siege::{Load, SETTLE, Siege};
use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::{self, Rounds};
use crate::traffic::Family;
use crate::turned::{Lengths, frames_beyond_l2, stay_on_last_core};
use crate::valve::RING;

/// Pods that talk to each other.
const VICTIMS: usize = 30;
/// Of what the worker can move, so much is offered to it.
const OFFERED: f64 = 0.5;
/// Least share of that which arrives when nobody attacks, or the machine did something else meanwhile.
const CLEAN: f64 = 0.99;

fn loads() -> impl Iterator<Item = Load> {
    let load = |family, attack| Load {
        family,
        attack,
        victims: VICTIMS,
        flows: 10_000,
        entries: 1 << 16,
    };
    let families = [Family::V4, Family::V6].into_iter();
    families.flat_map(move |family| Attack::ALL.map(|attack| load(family, attack)))
}

/// Samples of one load, those with the attack and those without.
#[derive(Default)]
struct Samples {
    delivered: Rounds,
    lost: Rounds,
    taken: Vec<f64>,
    share: Vec<f64>,
}

impl Samples {
    fn take(siege: &mut Siege, lengths: Lengths) -> Samples {
        let mut samples = Samples::default();
        for _ in 0..lengths.rounds {
            samples.delivered.take(|attacked| {
                let sample = siege.sample(attacked, lengths.slice);
                match attacked {
                    true => {
                        samples.lost.a.push(sample.lost);
                        samples.taken.push(sample.taken / 1e3);
                        samples.share.push(sample.share * 100.0);
                    }
                    false => samples.lost.b.push(sample.lost),
                }
                sample.delivered / 1e3
            });
        }
        samples
    }

    fn report(self, outcome: &mut Outcome, what: &str) {
        const RATE: &str = "thousand a second";
        const LOST: &str = "of a million";
        let label = |side: &str| format!("{what}: {side}");
        let sides = ("victims, attacked", "victims, left alone");
        outcome.add_rounds(what, sides, RATE, self.delivered);
        outcome.add_series(&label("lost, attacked"), LOST, self.lost.a);
        outcome.add_series(&label("lost, left alone"), LOST, self.lost.b);
        outcome.add_series(&label("attacker"), RATE, self.taken);
        outcome.add_series(&label("attacker, worker's time"), "%", self.share);
    }
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    stay_on_last_core();
    let lengths = Lengths::of(settings);
    let frames = frames_beyond_l2();
    let world = World::new(settings.pick(Size::LARGE, Size::SMALL));
    let mut outcome = Outcome::new(
        "floods",
        "Established flows while another pod floods the worker",
        &method(&world, frames, lengths),
    );
    for load in loads() {
        let what = format!("{}, {}", load.family, load.attack.name());
        let mut siege = Siege::start(load, &world, frames);
        let offered = siege.capacity(lengths) * OFFERED;
        siege.storm();
        siege.pace(offered);
        let samples = Samples::take(&mut siege, lengths);
        siege.check();
        let clean = stats::median(&samples.delivered.b) * 1e3 / offered;
        if clean < CLEAN {
            outcome.problem = Some(format!(
                "{what}: only {clean:.3} of what victims had arrived although nobody attacked"
            ));
        }
        samples.report(&mut outcome, &what);
        outcome.add_figure(
            &format!("{what}: victims offered"),
            offered / 1e3,
            "thousand a second",
        );
        report_drops(&mut outcome, &what, &siege);
    }
    outcome
}

/// What became of the attacker's frames.
fn report_drops(outcome: &mut Outcome, what: &str, siege: &Siege) {
    let attacker = siege.attacker();
    let all = attacker.rx.packets;
    let mut add = |name: &str, frames: u64| {
        let share = frames as f64 / all as f64 * 100.0;
        outcome.add_figure(&format!("{what}: {name}"), share, "% of its frames");
    };
    for reason in Reason::ALL {
        // Of what is random, some are dropped for almost any reason.
        let dropped = attacker.dropped(*reason);
        if dropped * 1000 >= all {
            add(&format!("dropped, {reason}"), dropped);
        }
    }
    add("let on by policy", all - attacker.dropped_all());
}

fn method(world: &World, frames: u32, lengths: Lengths) -> String {
    format!(
        "A worker's own turns on {VICTIMS} memory ports, each a pod that is isolated in both directions; {}. They talk any to any by
         established flows of the shortest UDP datagrams, {frames} of which circle, and have half of what the worker moved before,
         when they had all it could take: frames come to each port at an even pace by the time-stamp counter, wait in a ring of {RING},
         and are lost when that is full. One more pod has as many frames as the worker takes, each of them new. One thread
         measures with it and without, in rounds of A B B A; a sample is the frames of victims that arrived in {} ms, and the {} ms
         before that do not count. Without attack every frame must be one of a known connection; no frame of a victim is dropped.",
        world.text(),
        lengths.slice_millis(),
        SETTLE.as_millis()
    )
}
