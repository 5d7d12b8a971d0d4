// SPDX-License-Identifier: Apache-2.0
//! Waiting for the thing itself, with a deadline.

use std::time::{Duration, Instant};

/// Long enough that reaching it means "hung" on the slowest machine.
pub const HUNG: Duration = Duration::from_secs(30);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value, and returns it.
///
/// # Panics
/// After `deadline`, naming `what` was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    match poll(deadline, look) {
        Some(value) => value,
        None => panic!("not within {deadline:?}: {what}"),
    }
}

/// Looks until `look` gives a value or the deadline has passed; the last look is after the deadline.
pub fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = Instant::now() >= end;
        if let Some(value) = look() {
            return Some(value);
        }
        if last {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
