// SPDX-License-Identifier: Apache-2.0
//! Frames a second between pods on veths, against a bare forwarder on the same sockets.

mod bed;
pub(crate) mod generator;
mod side;

use std::time::Duration;

use core_affinity::CoreId;
use podswitch_datapath::port::xdp::{Features, Probe};
use podswitch_datapath::worker::clock::{Clock, cycles};

use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::{Rounds, by_round, median};
use crate::traffic::{Family, Flow, frame};
use bed::Bed;
use generator::{Generator, QUIET, Sender};
use side::{Plain, Side, Whole, Work};

/// Pairs of a sending and a receiving pod.
const PAIRS: usize = 2;
/// Flows of each pair.
const FLOWS: u16 = 500;
/// Time for queues to fill after a change of sides, and to run dry.
const SETTLE: Duration = Duration::from_millis(300);
/// Share of its time that a forwarder's core must be at work, with frames dropped before it, for a sample to say something
/// about the forwarder and not about the generator.
const SATURATED: f64 = 0.95;

const SWITCH: usize = 0;
const BARE: usize = 1;

/// A pair of beds with a forwarder on each, and the generator for both.
struct Arena {
    sides: [Box<dyn Side>; 2],
    generator: Generator,
    beds: [Bed; 2],
}

/// What a slice of time has shown.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// Frames a second at the receivers.
    rate: f64,
    /// Frames a second that the generator gave to its devices.
    offered: f64,
    /// Frames a second that the kernel dropped at the forwarder's sockets.
    dropped: f64,
    /// Frames a second that the forwarder dropped.
    own_drops: f64,
    /// Share of the time in which the forwarder moved frames.
    busy: f64,
}

/// What has been counted at a moment.
struct Look {
    cycles: u64,
    received: u64,
    sent: u64,
    work: Work,
}

impl Arena {
    /// `first` is the side whose pods are made first.
    fn new(first: usize, cores: (CoreId, CoreId), features: Features) -> Arena {
        let mut beds: Vec<Bed> = (0..2).map(|_| Bed::new(2 * PAIRS)).collect();
        if first == BARE {
            beds.reverse();
        }
        let [mut switch_bed, mut bare_bed]: [Bed; 2] =
            beds.try_into().unwrap_or_else(|_| unreachable!("two beds"));
        let groups = [&mut switch_bed, &mut bare_bed].map(senders);
        let whole = Whole::new(&mut switch_bed, cores.1, features);
        let plain = Plain::new(&mut bare_bed, cores.1, features);
        Arena {
            sides: [Box::new(whole), Box::new(plain)],
            generator: Generator::start(cores.0, groups.into()),
            beds: [switch_bed, bare_bed],
        }
    }

    fn received(&mut self, side: usize) -> u64 {
        let pods = self.beds[side].pods.iter_mut();
        pods.skip(1).step_by(2).map(bed::Pod::received).sum()
    }

    /// Lets one side run under load for a while.
    fn slice(&mut self, side: usize, length: Duration) -> Slice {
        self.sides[side].run(true);
        self.generator.send_from(side);
        std::thread::sleep(SETTLE);
        let before = self.look(side);
        std::thread::sleep(length);
        let after = self.look(side);
        self.generator.send_from(QUIET);
        std::thread::sleep(SETTLE);
        self.sides[side].run(false);
        let passed = (after.cycles - before.cycles) as f64;
        let seconds = passed / Clock::get().hertz() as f64;
        let per_second = |now: u64, then: u64| (now - then) as f64 / seconds;
        let (now, then) = (after.work, before.work);
        Slice {
            rate: per_second(after.received, before.received),
            offered: per_second(after.sent, before.sent),
            dropped: per_second(now.kernel_drops, then.kernel_drops),
            own_drops: per_second(now.own_drops, then.own_drops),
            busy: (now.busy - then.busy) as f64 / passed,
        }
    }

    fn look(&mut self, side: usize) -> Look {
        Look {
            cycles: cycles(),
            received: self.received(side),
            sent: self.generator.sent(),
            work: self.sides[side].work(),
        }
    }
}

/// A sender in each first pod of a pair.
fn senders(bed: &mut Bed) -> Vec<Sender> {
    let open = |from: usize| {
        let flow = Flow {
            from,
            to: from + 1,
            port: 20_000,
        };
        let pod = &mut bed.pods[from];
        let interface = pod.own_index();
        Sender::open(pod.netns.netns(), interface, frame(flow, Family::V4), FLOWS)
    };
    (0..2 * PAIRS).step_by(2).map(open).collect()
}

/// The benchmark.
///
/// # Panics
/// Without two cores or AF_XDP.
pub fn run(settings: Settings) -> Outcome {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, .., last] = cores[..] else {
        panic!("two cores are needed: one sends, one forwards");
    };
    let features = Probe::run().features();
    let features = features.unwrap_or_else(|e| panic!("this kernel has no AF_XDP for us: {e}"));
    let (arenas, rounds) = settings.pick((4, 10), (2, 2));
    let length = settings.pick(Duration::from_millis(400), Duration::from_millis(200));
    let mut outcome = Outcome::new(
        "xdp",
        "AF_XDP on veths: 60-byte frames a second, one core",
        &format!(
            "{PAIRS} pods send 60-byte UDP datagrams ({FLOWS} flows each, in random order) to {PAIRS} others, as fast as core {}
             can (an XDP program on live frames); it also runs the kernel's receive path of the forwarder's sockets. Core {} forwards: a switch worker with
             16 rules a port and direction, or a loop on the same kind of sockets, rings, arena and batch that sends each
             frame out of a fixed port unread. Its system calls also run the receivers' stack, which drops the frames first
             thing. Counted at the receivers' eth0 for {} ms a sample, in rounds of A B B A; the pods are made anew
             {arenas} times, in alternating order.",
            first.id,
            last.id,
            length.as_millis()
        ),
    );
    core_affinity::set_for_current(first);
    let mut rates = Rounds::default();
    let mut slices: [Vec<Slice>; 2] = [Vec::new(), Vec::new()];
    for n in 0..arenas {
        let mut arena = Arena::new(n % 2, (first, last), features);
        for side in [SWITCH, BARE] {
            arena.slice(side, length);
        }
        for _ in 0..rounds {
            rates.take(|is_switch| {
                let side = if is_switch { SWITCH } else { BARE };
                let slice = arena.slice(side, length);
                slices[side].push(slice);
                slice.rate / 1e3
            });
        }
    }
    evidence(&mut outcome, &slices);
    let added = by_round(&rates.a, &rates.b, |switch, bare| 1e6 / switch - 1e6 / bare);
    outcome.add_comparison("switch − bare forwarder", "ns a packet", added);
    outcome.add_rounds("", ("switch", "bare forwarder"), "kpps", rates);
    outcome
}

/// Shows that the forwarding core was what limited the rate.
fn evidence(outcome: &mut Outcome, slices: &[Vec<Slice>; 2]) {
    for (name, slices) in ["switch", "bare forwarder"].into_iter().zip(slices) {
        let of = |f: fn(&Slice) -> f64| slices.iter().map(f).collect::<Vec<f64>>();
        let busy = of(|s| s.busy * 100.0);
        let ahead = of(|s| s.offered / s.rate);
        let dropped = of(|s| s.dropped / 1e3);
        let saturated = |s: &&Slice| s.busy >= SATURATED && s.dropped > 0.0 && s.offered > s.rate;
        let share = slices.iter().filter(saturated).count() as f64 / slices.len() as f64;
        let (busy_median, dropped_median) = (median(&busy), median(&dropped));
        outcome.add_series(&format!("{name}: its core at work"), "% of time", busy);
        outcome.add_series(
            &format!("{name}: dropped before its sockets"),
            "kpps dropped",
            dropped,
        );
        let own = of(|s| s.own_drops / 1e3);
        outcome.add_series(&format!("{name}: dropped by itself"), "kpps dropped", own);
        outcome.add_series(
            &format!("{name}: generator / received"),
            "times the rate",
            ahead,
        );
        outcome.add_figure(
            &format!("{name}: samples in which it was the bottleneck"),
            share * 100.0,
            "%",
        );
        if share < 0.9 {
            outcome.problem = Some(format!(
                "the generator does not saturate the {name}: its core is at work {busy_median:.1} % of the time, and \
                 {dropped_median:.1} kpps are dropped before it"
            ));
        }
    }
}
