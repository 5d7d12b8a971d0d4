// SPDX-License-Identifier: Apache-2.0
//! What control asks of a worker. The worker looks at its mailbox only when a flag says so.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::sleep::Waker;
use crate::frame::{Arena, Audit};
use crate::ids::PortId;
use crate::port::xdp::Released;
use crate::port::{Closed, Port};
use crate::stage::LearnedEntry;
use crate::switch::Closing;

/// Requests that wait for a worker at most.
const ROOM: usize = 64;

/// A request; each is answered once it is done.
pub(crate) enum Request {
    /// Take over a fresh arena.
    AddArena(Arc<Arena>, Sender<()>),
    /// Give an arena up if all its chunks are free; whether it was.
    RemoveArena(Arc<Arena>, Sender<bool>),
    /// Serve a port.
    AddPort(PortId, Box<Port>, Sender<io::Result<()>>),
    /// Serve it no more.
    RemovePort(PortId, Sender<Option<Closed>>),
    /// The socket of a port that was given up is closed: put its chunks where they belong.
    Settle(Released, Closing),
    /// A port is to go: forget what was learned behind it. What this worker had for it when this was asked is in the ring
    /// to the port's worker when this is answered.
    Forget(PortId, Sender<()>),
    /// Nothing; the answer says when it was given, in cycles.
    Pass(Sender<u64>),
    /// Where the chunks of each arena are.
    Audit(Sender<Vec<Audit>>),
    /// Learned addresses from this place on, at most so many, and the place of the next.
    Learned(usize, usize, Sender<(Vec<LearnedEntry>, Option<usize>)>),
    /// Waking takes too long: spin.
    NeverSleep,
}

/// Control's end.
pub(crate) struct Mailbox {
    requests: Sender<Request>,
    flags: Arc<Flags>,
    waker: Arc<Waker>,
}

/// The worker's end.
pub(crate) struct Inbox {
    requests: Receiver<Request>,
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    knock: AtomicBool,
    stop: AtomicBool,
}

pub(crate) fn mailbox(waker: Arc<Waker>) -> (Mailbox, Inbox) {
    let (sender, requests) = bounded(ROOM);
    let flags = Arc::<Flags>::default();
    let mailbox = Mailbox {
        requests: sender,
        flags: flags.clone(),
        waker,
    };
    (mailbox, Inbox { requests, flags })
}

impl Mailbox {
    /// Leaves a request; gives it back when the worker has not looked for long, or has ended.
    pub(crate) fn leave(&self, request: Request) -> Result<(), TrySendError<Request>> {
        self.requests.try_send(request)?;
        self.knock();
        Ok(())
    }

    /// Makes the worker take a turn.
    pub(crate) fn knock(&self) {
        self.flags.knock.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Makes the worker end after its turn.
    pub(crate) fn stop(&self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        self.knock();
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Inbox {
    /// Whether somebody has knocked; the worker then looks at every request.
    #[inline]
    pub(crate) fn knocked(&self) -> bool {
        let knock = &self.flags.knock;
        knock.load(Ordering::Relaxed) && knock.swap(false, Ordering::Acquire)
    }

    /// The same, without taking note.
    pub(crate) fn has_knock(&self) -> bool {
        self.flags.knock.load(Ordering::Relaxed)
    }

    /// Whether the worker is to end; to be asked after a knock.
    pub(crate) fn stopped(&self) -> bool {
        self.flags.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn next(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}
