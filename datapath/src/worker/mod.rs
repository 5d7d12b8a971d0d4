// SPDX-License-Identifier: Apache-2.0
//! A worker: the loop that serves its ports.
//!
//! A turn takes the newest tables, gives every port and every ring from a peer its share (`schedule`, `serve`),
//! exchanges frames with the peers, finishes what transmit queues did not take, ages a little, and looks at the mailbox
//! when a flag says so (`answer`). After turns without work for a while the worker sleeps (`idle`, `sleep`).

mod announce;
mod answer;
pub mod clock;
pub(crate) mod health;
pub(crate) mod idle;
pub(crate) mod mailbox;
mod outlets;
pub(crate) mod peers;
mod schedule;
mod serve;
pub(crate) mod sleep;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::WorkerCounters;
use crate::events::{Misses, Refusals};
use crate::flow::{FlowTable, Fragments, Nat};
use crate::ids::WorkerId;
use crate::publish::Reader;
use crate::stage::{Heard, Learned, RateLimiter};
use crate::tables::Tables;
use clock::{Clock, cycles};
use health::{Stats, WorkerCycles};
use idle::{Bed, IdleConfig, Owed};
use mailbox::Inbox;
use outlets::Outlets;
use peers::Peers;
use serve::{Engine, Memory};
use sleep::Waker;

/// A port that sent so many frames since the worker slept is not watched until it sleeps again: as long as it is, the
/// kernel looks for sleepers after each frame it sends (`sock_def_write_space`, `ep_poll_callback`), which costs as much
/// as all that the worker does for the frame.
const BUSY_FRAMES: u32 = 1024;
/// Not running for longer than this while awake is a stall.
const STALL: Duration = Duration::from_millis(1);

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) id: WorkerId,
    pub(crate) tables: Reader<Tables>,
    pub(crate) flows: FlowTable,
    pub(crate) fragments: Fragments,
    pub(crate) nat: Nat,
    pub(crate) refusals: Refusals,
    pub(crate) misses: Misses,
    /// For how long connections may be joined that began before the worker did.
    pub(crate) joins_for: Duration,
    pub(crate) fdb: Learned,
    pub(crate) icmp: RateLimiter,
    pub(crate) peers: Peers,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) inbox: Inbox,
    pub(crate) waker: Arc<Waker>,
    /// How long to spin before sleeping, and how long a frame may wait then.
    pub(crate) idle: IdleConfig,
    /// Most transmit system calls for a port in a turn.
    pub(crate) kicks: u32,
}

/// A worker; its methods are for its thread.
pub(crate) struct Worker {
    tables: Reader<Tables>,
    engine: Engine,
    inbox: Inbox,
    waker: Arc<Waker>,
    bed: Bed,
    /// Cycles to spin before sleeping; `None` never sleeps.
    spin: Option<u64>,
    clock: Clock,
    /// When the last turn ended, and when there was work last.
    ended: u64,
    worked: u64,
    counts: WorkerCycles,
    stats: Arc<Stats>,
    stopping: bool,
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> io::Result<Worker> {
        let clock = Clock::get();
        let bed = Bed::new(&parts.waker, parts.idle.latency)?;
        let now = cycles();
        Ok(Worker {
            engine: Engine::new(
                clock,
                Memory {
                    flows: parts.flows,
                    fragments: parts.fragments,
                    nat: parts.nat,
                    fdb: parts.fdb,
                    icmp: parts.icmp,
                    refusals: parts.refusals,
                    misses: parts.misses,
                    heard: Heard::default(),
                },
                clock.monotonic(now) + parts.joins_for.as_nanos() as u64,
                Outlets::new(parts.id, parts.peers, parts.counters, parts.kicks),
            ),
            tables: parts.tables,
            inbox: parts.inbox,
            waker: parts.waker,
            bed,
            spin: Some(clock.cycles(parts.idle.spin)),
            clock,
            ended: now,
            worked: now,
            counts: WorkerCycles::default(),
            stats: parts.stats,
            stopping: false,
        })
    }

    /// Takes turns, and sleeps, until told to stop.
    pub(crate) fn run(mut self) {
        self.ended = cycles();
        while !self.stopping {
            if self.turn() {
                continue;
            }
            match self.spin {
                Some(spin) if self.ended.wrapping_sub(self.worked) > spin => self.sleep(),
                _ => std::hint::spin_loop(),
            }
        }
    }

    /// One turn; false when there was nothing to do.
    pub(crate) fn turn(&mut self) -> bool {
        let began = cycles();
        let tables = self.tables.refresh();
        self.counts.generation = tables.generation();
        let mut worked = self.engine.turn(tables, began);
        if let Some(slot) = self.engine.cared_for()
            && slot.watched
            && slot.sent >= BUSY_FRAMES
        {
            self.bed.unwatch(&slot.port);
            slot.watched = false;
        }
        if self.inbox.knocked() {
            self.answer();
            worked = true;
        }
        self.account(began, worked);
        worked
    }

    fn account(&mut self, began: u64, worked: bool) {
        let counts = &mut self.counts;
        let ended = cycles();
        let spent = ended.wrapping_sub(began);
        counts.turns += 1;
        if worked {
            counts.busy += spent;
            self.worked = ended;
            self.bed.worked();
        } else {
            // From the end of the turn before: the loop itself is all there is to do.
            let spent = ended.wrapping_sub(self.ended);
            counts.idle += spent;
            if spent > self.clock.cycles(STALL) {
                counts.stalls += 1;
                counts.stalled += spent;
            }
        }
        self.ended = ended;
        self.stats.write(counts);
    }

    /// Sleeps until there is work, unless there is when looked at again.
    fn sleep(&mut self) {
        let mut owed = self.engine.settle();
        for slot in &mut self.engine.outlets.slots {
            slot.sent = 0;
            slot.doze();
            slot.watched = slot.watched || self.bed.watch(&slot.port).is_ok();
            // What cannot be watched is looked at from time to time.
            if !slot.watched {
                owed = Owed::Frames;
            }
        }
        self.tables.rest();
        let due = self.engine.due_in();
        let Worker {
            engine, inbox, bed, ..
        } = self;
        let slept = self.waker.sleep(
            || inbox.has_knock() || engine.has_work(),
            || bed.wait(owed, due),
        );
        match slept {
            true => self.counts.sleeps += 1,
            false => self.counts.sleeps_averted += 1,
        }
        self.ended = cycles();
    }
}
