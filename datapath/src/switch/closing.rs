// SPDX-License-Identifier: Apache-2.0
//! Ports that are no longer served and not quite gone: ending their devices takes time that neither a worker nor control
//! has, so a thread of its own does it.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{SendError, Sender, TrySendError, unbounded};

use crate::ids::PortId;
use crate::port::Closed;
use crate::worker::mailbox::{Mailbox, Request};

#[derive(Default)]
struct Open {
    ports: Mutex<HashSet<PortId>>,
    changed: Condvar,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashSet<PortId>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long frames in transmission are waited for before their chunks are given up.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often a worker whose mailbox is full is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// A port that is closing; it is closed when this is dropped.
pub(crate) struct Closing {
    port: PortId,
    open: Arc<Open>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.open.lock().remove(&self.port);
        self.open.changed.notify_all();
    }
}

/// What is left of a port, to be ended.
struct Job {
    closed: Closed,
    closing: Closing,
    /// The worker that has the port's memory.
    mailbox: Arc<Mailbox>,
}

impl Job {
    fn run(self) {
        let Closed::Xdp(port) = self.closed else {
            // Files are written to their end.
            drop(self.closed);
            return;
        };
        let mut request = Request::Settle(port.finish(PATIENCE), self.closing);
        loop {
            match self.mailbox.leave(request) {
                Err(TrySendError::Full(same)) => request = same,
                // A worker that has ended has no pool to settle with.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// Ends devices.
pub(super) struct Closer {
    open: Arc<Open>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    pub(super) fn new() -> Closer {
        Closer {
            open: Arc::default(),
            jobs: None,
            thread: None,
        }
    }

    /// Ends what is left of a port.
    pub(super) fn close(&mut self, port: PortId, closed: Closed, mailbox: Arc<Mailbox>) {
        if matches!(closed, Closed::Nothing) {
            return;
        }
        self.open.lock().insert(port);
        let closing = Closing {
            port,
            open: self.open.clone(),
        };
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, todo) = unbounded::<Job>();
            let thread = std::thread::Builder::new().name("ps-closer".into());
            let work = move || todo.into_iter().for_each(Job::run);
            // Without a thread the channel has no receiver, and the job comes back below.
            self.thread = thread.spawn(work).ok();
            jobs
        });
        let job = Job {
            closed,
            closing,
            mailbox,
        };
        if let Err(SendError(job)) = jobs.send(job) {
            job.run();
        }
    }

    /// Waits until a port is closed; false when it is not within `limit`.
    pub(super) fn wait(&self, port: PortId, limit: Duration) -> bool {
        let ports = self.open.lock();
        let waited = self
            .open
            .changed
            .wait_timeout_while(ports, limit, |ports| ports.contains(&port));
        let (ports, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !ports.contains(&port)
    }

    /// Whether none is closing.
    pub(super) fn is_idle(&self) -> bool {
        self.open.lock().is_empty()
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}
