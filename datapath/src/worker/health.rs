// SPDX-License-Identifier: Apache-2.0
//! How a worker is doing: written by the worker, read by control.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::mailbox::Mailbox;
use crate::ids::WorkerId;

/// Whether a worker's thread stays on its core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinning {
    /// It is pinned to this core.
    Pinned(usize),
    /// No core was configured for it.
    Free,
    /// This core was configured and the system refused it: it does not exist, or is outside the process's CPU set.
    Refused(usize),
    /// The worker has no thread of its own; whoever calls turns it.
    Inline,
}

/// How a worker waits when it is quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// It sleeps after spinning for a while.
    Sleeps,
    /// It always spins, as the configured latency is 0.
    Spins,
    /// It always spins, as waking it takes longer (this median) than the configured latency.
    WakesTooSlowly(Duration),
}

macro_rules! stats {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What a worker counts of itself.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $($field: AtomicU64,)*
            pub(crate) tid: OnceLock<i32>,
            pub(crate) pinning: OnceLock<Pinning>,
        }

        /// What a worker has counted of itself since it began.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct WorkerCycles { $($(#[$doc])* pub $field: u64,)* }

        impl Stats {
            pub(crate) fn read(&self) -> WorkerCycles {
                WorkerCycles { $($field: self.$field.load(Ordering::Relaxed),)* }
            }

            /// Replaces all; for the worker.
            #[inline]
            pub(crate) fn write(&self, values: &WorkerCycles) {
                $(self.$field.store(values.$field, Ordering::Relaxed);)*
            }
        }
    };
}

stats! {
    /// Turns of its loop.
    turns,
    /// Cycles of turns that moved frames or did what control asked.
    busy,
    /// Cycles of turns that found nothing to do.
    idle,
    /// Times it went to sleep.
    sleeps,
    /// Times it found work when it looked again before sleeping.
    sleeps_averted,
    /// Times it did not run for over a millisecond although it was not asleep: the core was taken away.
    stalls,
    /// Cycles lost so.
    stalled,
    /// Generation of the tables it works with.
    generation,
}

/// How a worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkerHealth {
    /// Which worker.
    pub id: WorkerId,
    /// Whether it stays on its core.
    pub pinning: Pinning,
    /// Its thread, as /proc/self/task names it; absent without a thread.
    pub tid: Option<i32>,
    /// False when its thread has ended: its ports are dead.
    pub alive: bool,
    /// Whether it sleeps now.
    pub asleep: bool,
    /// How it waits when it is quiet.
    pub waiting: Waiting,
    /// Median time from waking it to its first look at its work, measured when it was started; absent without a thread.
    pub wake_latency: Option<Duration>,
    /// Ports it serves.
    pub ports: usize,
    /// Connections that it tracks and that are not over, of a moment ago.
    pub connections: u64,
    /// Its own counts.
    pub cycles: WorkerCycles,
    /// Nanoseconds its thread was ready to run and did not, by /proc/self/task/*/schedstat.
    pub run_delay: Option<u64>,
}

/// A worker's heartbeat, for another thread.
#[derive(Clone)]
pub struct Heartbeat {
    stats: Arc<Stats>,
    mailbox: Arc<Mailbox>,
}

impl Heartbeat {
    pub(crate) fn new(stats: Arc<Stats>, mailbox: Arc<Mailbox>) -> Heartbeat {
        Heartbeat { stats, mailbox }
    }

    /// How many turns of its loop the worker has taken. When this stands still, it sleeps, has ended or hangs.
    pub fn turns(&self) -> u64 {
        self.stats.turns.load(Ordering::Relaxed)
    }

    /// Has it take a turn, also if it sleeps.
    pub fn wake(&self) {
        self.mailbox.waker().wake();
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heartbeat({})", self.turns())
    }
}

/// Nanoseconds a thread of this process has waited for a core, if the kernel tells.
pub(crate) fn run_delay(tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}
