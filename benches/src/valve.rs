// SPDX-License-Identifier: Apache-2.0
//! When sources of frames may send, and how fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use podswitch_datapath::worker::clock::{Clock, cycles};

/// Frames that wait at a tap at most: what a port's receive ring takes. Beyond it they are lost.
pub const RING: u64 = 512;

const CLOSED: u64 = u64::MAX;
const FREE: u64 = 0;
/// Bits behind the point of a pace.
const FRACTION: u32 = 12;

/// Opens and closes the taps of many sources at once.
#[derive(Debug)]
pub struct Valve {
    /// Cycles from frame to frame of each tap, [`FRACTION`] bits of it behind the point.
    pace: AtomicU64,
    /// When it was opened last.
    since: AtomicU64,
    /// Frames that were lost at its taps.
    lost: AtomicU64,
}

impl Valve {
    /// A closed one.
    pub fn closed() -> Arc<Valve> {
        Arc::new(Valve {
            pace: AtomicU64::new(CLOSED),
            since: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// An open one.
    pub fn open() -> Arc<Valve> {
        let valve = Valve::closed();
        valve.free();
        valve
    }

    /// Lets everything through.
    pub fn free(&self) {
        self.set(FREE);
    }

    /// Lets nothing through.
    pub fn close(&self) {
        self.set(CLOSED);
    }

    /// Lets so many frames a second through at each tap, from now on.
    ///
    /// # Panics
    /// When that is none, or more than one a cycle.
    pub fn pace(&self, frames_a_second: f64) {
        let cycles = Clock::get().hertz() as f64 / frames_a_second;
        let pace = (cycles * f64::from(1 << FRACTION)) as u64;
        assert!((1..CLOSED).contains(&pace), "{frames_a_second} a second");
        self.set(pace);
    }

    /// Frames that were lost so far because their tap had been left alone for too long; a tap notes them when the next ones are
    /// taken.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn set(&self, pace: u64) {
        self.since.store(cycles(), Ordering::Relaxed);
        self.pace.store(pace, Ordering::Relaxed);
    }

    /// Frames that each tap has been due since it was opened, if that is limited.
    fn due(&self, since: u64) -> Option<u64> {
        match self.pace.load(Ordering::Relaxed) {
            CLOSED => Some(0),
            FREE => None,
            pace => {
                let passed = cycles().wrapping_sub(since);
                Some(((u128::from(passed) << FRACTION) / u128::from(pace)) as u64)
            }
        }
    }
}

/// A source's end of a valve.
#[derive(Clone, Debug)]
pub struct Tap {
    valve: Arc<Valve>,
    since: u64,
    /// Frames taken since then, and those lost.
    taken: u64,
}

impl Tap {
    /// Of this valve.
    pub fn new(valve: &Arc<Valve>) -> Tap {
        Tap {
            valve: valve.clone(),
            since: 0,
            taken: 0,
        }
    }

    /// Frames that may be taken now.
    #[inline]
    pub fn ready(&self) -> usize {
        let since = self.valve.since.load(Ordering::Relaxed);
        let taken = if since == self.since { self.taken } else { 0 };
        match self.valve.due(since) {
            Some(due) => due.saturating_sub(taken).min(RING) as usize,
            None => usize::MAX,
        }
    }

    /// So many were taken.
    #[inline]
    pub fn take(&mut self, frames: usize) {
        let since = self.valve.since.load(Ordering::Relaxed);
        if since != self.since {
            (self.since, self.taken) = (since, 0);
        }
        let Some(due) = self.valve.due(since) else {
            return;
        };
        // What was beyond the ring is lost.
        let lost = due.saturating_sub(RING).saturating_sub(self.taken);
        if lost > 0 {
            self.valve.lost.fetch_add(lost, Ordering::Relaxed);
        }
        self.taken += lost + frames as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_tap_gives_what_the_valve_lets_through() {
        let valve = Valve::closed();
        let mut tap = Tap::new(&valve);
        assert_eq!(tap.ready(), 0);
        valve.free();
        assert_eq!(tap.ready(), usize::MAX);
        tap.take(1000);
        valve.pace(1e9);
        while tap.ready() < RING as usize {}
        assert_eq!(tap.ready() as u64, RING, "no more than the ring takes");
        assert_eq!(valve.lost(), 0);
        while valve.due(tap.valve.since.load(Ordering::Relaxed)) < Some(2 * RING) {}
        tap.take(RING as usize);
        assert!(valve.lost() >= RING, "{} lost", valve.lost());
        valve.close();
        assert_eq!(tap.ready(), 0);
    }

    #[test]
    fn a_paced_tap_keeps_its_pace() {
        let valve = Valve::closed();
        let mut tap = Tap::new(&valve);
        valve.pace(1e5);
        let start = Instant::now();
        let mut taken = 0;
        while taken < 500 {
            let ready = tap.ready().min(64);
            tap.take(ready);
            taken += ready;
        }
        let least = (taken - 64) as f64 / 1e5;
        assert!(start.elapsed().as_secs_f64() >= least);
    }
}
