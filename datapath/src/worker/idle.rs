// SPDX-License-Identifier: Apache-2.0
//! Waiting for work: spin for a while, then sleep on the descriptors of all ports and the worker's bell.
#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::sleep::Waker;
use crate::port::Port;

/// How long a worker waits for work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdleConfig {
    /// How long it looks for more after the last work before it sleeps.
    pub spin: Duration,
    /// How long a frame may wait for the worker to wake. 0: the worker never sleeps. Otherwise it sleeps unless waking
    /// it was measured to take longer.
    pub latency: Duration,
}

impl Default for IdleConfig {
    fn default() -> IdleConfig {
        IdleConfig {
            spin: Duration::from_micros(50),
            latency: Duration::from_micros(500),
        }
    }
}

/// What is left to do in a sleep and nothing announces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Owed {
    /// Nothing.
    Nothing,
    /// Chunks that a device gives back, and nobody waits for.
    Chunks,
    /// Frames may wait: for a device that takes no more, or that has no chunk to receive them into.
    Frames,
}

/// First and longest sleep while something is owed: nothing tells when it is there.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(1);

/// The descriptors a worker sleeps on, and for how long.
pub(crate) struct Bed {
    epoll: OwnedFd,
    nap: Duration,
    /// How long a frame may wait.
    latency: Duration,
}

impl Bed {
    pub(crate) fn new(waker: &Waker, latency: Duration) -> io::Result<Bed> {
        let bed = Bed {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            nap: SHORTEST,
            latency,
        };
        bed.add(waker.bell())?;
        Ok(bed)
    }

    /// Wakes for this descriptor too, while it is open.
    fn add(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(0), EventFlags::IN)?;
        Ok(())
    }

    /// Wakes for a port's device too, if it has descriptors.
    pub(crate) fn watch(&self, port: &Port) -> io::Result<()> {
        let watched = port.wait_fds().try_for_each(|fd| self.add(fd));
        if watched.is_err() {
            self.unwatch(port);
        }
        watched
    }

    /// Wakes for it no more.
    #[cold]
    pub(crate) fn unwatch(&self, port: &Port) {
        for fd in port.wait_fds() {
            // It may not have been watched.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// There was work: the next sleep is short again.
    pub(crate) fn worked(&mut self) {
        self.nap = SHORTEST;
    }

    /// Waits for a descriptor, until `due` at most. With something owed it waits for a millisecond first, then longer each
    /// time, but while frames may wait never beyond the latency budget.
    pub(crate) fn wait(&mut self, owed: Owed, due: Option<Duration>) {
        let limit = match owed {
            Owed::Nothing => LONGEST,
            Owed::Chunks => self.nap,
            Owed::Frames => self.nap.min(self.latency),
        };
        self.nap = (self.nap * 2).min(LONGEST);
        let limit = due.map_or(limit, |due| due.min(limit));
        let timeout = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        // A signal or an error ends the sleep early; the loop looks at everything anyway.
        let mut events = [MaybeUninit::<Event>::uninit(); 1];
        let _ = epoll::wait(&self.epoll, &mut events, Some(&timeout));
    }
}
