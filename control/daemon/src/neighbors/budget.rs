// SPDX-License-Identifier: Apache-2.0
//! How often something may be done: so many a second, and so many at once (the generic cell rate algorithm, ITU-T I.371).

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Budget {
    /// Between two at an even pace.
    pace: Duration,
    /// How far ahead of an even pace it may get.
    ahead: Duration,
    /// When the next one would be due at an even pace.
    next: Instant,
}

impl Budget {
    pub(super) fn new((per_second, at_once): (u32, u32), now: Instant) -> Budget {
        let pace = Duration::from_secs(1) / per_second;
        Budget {
            pace,
            ahead: pace * (at_once - 1),
            next: now,
        }
    }

    /// When the next one is allowed.
    pub(super) fn ready(&self) -> Instant {
        self.next.checked_sub(self.ahead).unwrap_or(self.next)
    }

    pub(super) fn allows(&self, now: Instant) -> bool {
        self.ready() <= now
    }

    pub(super) fn take(&mut self, now: Instant) {
        self.next = self.next.max(now) + self.pace;
    }
}
