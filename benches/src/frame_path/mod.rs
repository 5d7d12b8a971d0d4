// SPDX-License-Identifier: Apache-2.0
//! Cycles a packet of the whole pipeline, on ports in memory.

mod scenario;
mod whole;

pub use scenario::{PORTS, Scenario, Spread, scenarios};
pub use whole::Whole;

use crate::Settings;
use crate::bare::Bare;
use crate::outcome::Outcome;
use crate::stats::{Rounds, by_round};
use crate::turned::{self, Lengths, frames_beyond_l2, measure, stay_on_last_core};
use crate::valve::Valve;

/// The bare loop, on ports as [`Whole`] has them.
///
/// # Panics
/// When there is no memory.
pub fn bare(scenario: &Scenario, frames: u32) -> Bare {
    turned::bare(scenario.devices(frames, &Valve::open()), frames)
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    let lengths = Lengths::of(settings);
    let frames = frames_beyond_l2();
    let mut outcome = Outcome::new(
        "frame-path",
        "Frame path in memory: cycles a packet",
        &format!(
            "A worker's own turns (poll, stages, counters, flush, ageing) on {PORTS} memory ports, 16 rules in each direction
             of each, sources checked; against a loop over the same ports, arena and batch size that only sends each
             frame out of a fixed port. {frames} frames circle, so that each has left the second-level cache when it comes
             back. Shortest UDP datagrams: 60 bytes (IPv4), 62 (IPv6). One thread turns both in rounds of A B B A;
             a sample is the cycles of the time-stamp counter of {} ms, over the frames moved.",
            lengths.slice_millis()
        ),
    );
    stay_on_last_core();
    for scenario in scenarios() {
        let mut whole = Whole::new(&scenario, frames);
        let mut plain = bare(&scenario, frames);
        measure(&mut whole, lengths.warm);
        measure(&mut plain, lengths.warm);
        let mut taken = Rounds::default();
        for _ in 0..lengths.rounds {
            taken.take(|first| match first {
                true => measure(&mut whole, lengths.slice),
                false => measure(&mut plain, lengths.slice),
            });
        }
        whole.check();
        let added = by_round(&taken.a, &taken.b, |a, b| a - b);
        let unit = "cycles a packet";
        outcome.add_comparison(&format!("{scenario}: switch − bare loop"), unit, added);
        let what = scenario.to_string();
        outcome.add_rounds(&what, ("switch", "bare loop"), unit, taken);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turned::Pipeline;

    #[test]
    fn every_scenario_moves_frames_both_ways() {
        for scenario in scenarios() {
            let mut whole = Whole::new(&scenario, 1024);
            let mut plain = bare(&scenario, 1024);
            for pipeline in [&mut whole as &mut dyn Pipeline, &mut plain] {
                for _ in 0..200 {
                    pipeline.turn();
                }
                assert!(
                    pipeline.packets() >= 1024,
                    "{scenario}: {}",
                    pipeline.packets()
                );
            }
            whole.check();
        }
    }
}
