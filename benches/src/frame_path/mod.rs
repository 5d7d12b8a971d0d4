// SPDX-License-Identifier: Apache-2.0
//! Cycles a packet of the whole pipeline, on ports in memory.

mod scenario;
mod whole;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use podswitch_datapath::WorkerId;
use podswitch_datapath::frame::{Arena, Pool};
use podswitch_datapath::port::{MemoryPort, Port};
use podswitch_datapath::worker::clock::{Clock, cycles};

pub use scenario::{PORTS, Scenario, Spread, scenarios};
pub use whole::Whole;

use crate::bare::Bare;
use crate::outcome::Outcome;
use crate::stats::{Rounds, by_round};
use crate::{Settings, machine};

/// Something that moves frames when it is turned.
pub trait Pipeline {
    /// One turn.
    fn turn(&mut self);
    /// Frames received so far.
    fn packets(&mut self) -> u64;
}

impl Pipeline for Bare {
    fn turn(&mut self) {
        Bare::turn(self);
    }

    fn packets(&mut self) -> u64 {
        self.packets
    }
}

/// The bare loop, on ports as [`Whole`] has them.
///
/// # Panics
/// When there is no memory.
pub fn bare(scenario: &Scenario, frames: u32) -> Bare {
    let devices = scenario.devices(frames, &Arc::new(AtomicBool::new(true)));
    let chunks = whole::chunks_per_port(frames) * devices.len() as u32;
    let arena = Arena::new(WorkerId(0), chunks);
    let arena = Arc::new(arena.expect("memory for the frames"));
    let mut pool = Pool::new(WorkerId(0));
    pool.add_arena(arena.clone());
    let port = |device| Port::Memory(MemoryPort::new(device, arena.clone()));
    let ports: Vec<Port> = devices.into_iter().map(port).collect();
    Bare::new(ports, pool)
}

/// Turns between two looks at the clock.
const TURNS: u32 = 16;

/// Turns it for about so many cycles; cycles a packet.
///
/// # Panics
/// When no frame moved.
pub fn measure(pipeline: &mut dyn Pipeline, at_least: u64) -> f64 {
    let before = pipeline.packets();
    let start = cycles();
    let mut spent = 0;
    while spent < at_least {
        for _ in 0..TURNS {
            pipeline.turn();
        }
        spent = cycles().wrapping_sub(start);
    }
    let packets = pipeline.packets() - before;
    assert!(packets > 0, "no frame moved in {spent} cycles");
    spent as f64 / packets as f64
}

/// As many frames as the second-level cache has lines. Each takes one, beside those of its template, its owner tag and its
/// place in queues; and frames lie a chunk apart, so that only a few of the cache's sets are theirs.
pub fn frames_beyond_l2() -> u32 {
    const LINE: usize = 64;
    let lines = machine::l2_bytes() / LINE;
    (lines as u32).clamp(8 << 10, 64 << 10)
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    let clock = Clock::get();
    let slice = clock.cycles(settings.pick(Duration::from_millis(40), Duration::from_millis(5)));
    let warm = clock.cycles(settings.pick(Duration::from_millis(200), Duration::from_millis(20)));
    let rounds = settings.pick(40, 5);
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
            clock.nanoseconds(slice) / 1_000_000
        ),
    );
    if let Some(core) = core_affinity::get_core_ids().and_then(|c| c.last().copied()) {
        core_affinity::set_for_current(core);
    }
    for scenario in scenarios() {
        let mut whole = Whole::new(&scenario, frames);
        let mut plain = bare(&scenario, frames);
        measure(&mut whole, warm);
        measure(&mut plain, warm);
        let mut taken = Rounds::default();
        for _ in 0..rounds {
            taken.take(|first| match first {
                true => measure(&mut whole, slice),
                false => measure(&mut plain, slice),
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
