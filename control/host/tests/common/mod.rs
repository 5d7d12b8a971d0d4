// SPDX-License-Identifier: Apache-2.0
//! What several integration tests need.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine; reaching it means "hung".
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::yield_now();
    }
}

/// Waits until a descriptor is readable; says whether it became so in this time.
pub fn readable(fd: &impl AsRawFd, within: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one whole pollfd, for the length of the call.
    let ready = unsafe { libc::poll(&mut poll, 1, within.as_millis() as libc::c_int) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    ready > 0
}
