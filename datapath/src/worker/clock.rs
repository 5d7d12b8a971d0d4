// SPDX-License-Identifier: Apache-2.0
//! Time on the frame path: the processor's cycle counter, read once a burst.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The time-stamp counter; on other machines than x86-64, nanoseconds.
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: (U21) reads a register; every x86-64 processor has it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    monotonic()
}

/// CLOCK_MONOTONIC in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How cycles become nanoseconds, measured once a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Nanoseconds per cycle, 32 bits of it behind the point.
    scale: u64,
    /// A moment in cycles, and in nanoseconds of CLOCK_MONOTONIC.
    at: (u64, u64),
}

/// How long the counter is compared with the system's clock: good to some parts in 100,000.
const CALIBRATION: Duration = Duration::from_millis(10);

impl Clock {
    /// The process's clock; the first call takes 10 ms.
    pub fn get() -> Clock {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| {
            let (began, at) = (Instant::now(), (cycles(), monotonic()));
            while began.elapsed() < CALIBRATION {
                std::hint::spin_loop();
            }
            let (passed, elapsed) = (cycles().wrapping_sub(at.0), monotonic() - at.1);
            Clock {
                scale: ((u128::from(elapsed) << 32) / u128::from(passed.max(1))) as u64,
                at,
            }
        })
    }

    /// Nanoseconds of so many cycles.
    #[inline]
    pub fn nanoseconds(self, cycles: u64) -> u64 {
        ((u128::from(cycles) * u128::from(self.scale)) >> 32) as u64
    }

    /// What CLOCK_MONOTONIC says, in nanoseconds, when the counter says `cycles`.
    #[inline]
    pub fn monotonic(self, cycles: u64) -> u64 {
        self.at.1 + self.nanoseconds(cycles.saturating_sub(self.at.0))
    }

    /// Cycles of a time.
    pub fn cycles(self, time: Duration) -> u64 {
        ((time.as_nanos() << 32) / u128::from(self.scale.max(1))) as u64
    }

    /// Cycles a second.
    pub fn hertz(self) -> u64 {
        self.cycles(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways() {
        let clock = Clock::get();
        assert_eq!(clock, Clock::get());
        for time in [Duration::from_micros(5), Duration::from_secs(100)] {
            let back = clock.nanoseconds(clock.cycles(time));
            assert!(u128::from(back).abs_diff(time.as_nanos()) < 10);
        }
        assert!(clock.hertz() > 1_000_000);
    }

    #[test]
    fn keeps_up_with_the_system() {
        let clock = Clock::get();
        let (before, now, after) = (monotonic(), clock.monotonic(cycles()), monotonic());
        // Generous: a machine may take the core away while it calibrates.
        let slack = 1_000_000_000;
        assert!(
            before < now + slack && now < after + slack,
            "{before} {now} {after}"
        );
        let from = cycles();
        while monotonic() - after < 2_000_000 {
            std::hint::spin_loop();
        }
        assert!(clock.nanoseconds(cycles() - from) > 1_000_000);
    }
}
