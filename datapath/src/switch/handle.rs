// SPDX-License-Identifier: Apache-2.0
//! Control's end of a worker.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::SwitchError;
use super::memory::Plot;
use crate::counters::WorkerCounters;
use crate::events::Refusal;
use crate::ids::WorkerId;
use crate::worker::health::{Heartbeat, Pinning, Stats, Waiting, WorkerHealth, run_delay};
use crate::worker::mailbox::{Mailbox, Request};

/// A worker, from control's side. Dropping it ends the worker's thread.
pub(super) struct Handle {
    pub(super) id: WorkerId,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) stats: Arc<Stats>,
    /// Samples of what it refused.
    pub(super) refused: Receiver<Refusal>,
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) plots: Vec<Plot>,
    pub(super) wake_latency: Option<Duration>,
    pub(super) waiting: Waiting,
}

/// A request that is not answered yet.
pub(super) struct Pending<T> {
    pub(super) worker: WorkerId,
    answer: Receiver<T>,
}

impl<T> Pending<T> {
    pub(super) fn wait(self, limit: Duration) -> Result<T, SwitchError> {
        self.answer
            .recv_timeout(limit)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => SwitchError::Busy {
                    worker: self.worker,
                    waited: limit,
                },
                RecvTimeoutError::Disconnected => SwitchError::Gone(self.worker),
            })
    }
}

impl Handle {
    /// Leaves a request that is not answered.
    pub(super) fn leave(&self, request: Request) -> Result<(), SwitchError> {
        self.mailbox.leave(request).map_err(|error| match error {
            TrySendError::Full(_) => SwitchError::Busy {
                worker: self.id,
                waited: Duration::ZERO,
            },
            TrySendError::Disconnected(_) => SwitchError::Gone(self.id),
        })
    }

    /// Leaves a request.
    pub(super) fn post<T>(
        &self,
        request: impl FnOnce(Sender<T>) -> Request,
    ) -> Result<Pending<T>, SwitchError> {
        let (sender, answer) = bounded(1);
        self.leave(request(sender))?;
        Ok(Pending {
            worker: self.id,
            answer,
        })
    }

    /// Leaves a request with a worker that has a thread, and waits for the answer.
    pub(super) fn ask<T>(
        &self,
        limit: Duration,
        request: impl FnOnce(Sender<T>) -> Request,
    ) -> Result<T, SwitchError> {
        self.post(request)?.wait(limit)
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        Heartbeat::new(self.stats.clone(), self.mailbox.clone())
    }

    pub(super) fn health(&self, ports: usize) -> WorkerHealth {
        let tid = self.stats.tid.get().copied();
        let alive = self.thread.as_ref().is_none_or(|t| !t.is_finished());
        WorkerHealth {
            id: self.id,
            pinning: self.stats.pinning.get().copied().unwrap_or(Pinning::Free),
            tid,
            alive,
            asleep: alive && self.mailbox.waker().is_asleep(),
            waiting: self.waiting,
            wake_latency: self.wake_latency,
            ports,
            connections: self.counters.connections(),
            cycles: self.stats.read(),
            run_delay: tid.and_then(run_delay),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was printed when it happened, and the thread's ports went with it.
            let _ = thread.join();
        }
    }
}
