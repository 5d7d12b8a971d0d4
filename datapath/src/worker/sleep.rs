// SPDX-License-Identifier: Apache-2.0
//! How a worker goes to sleep and is woken: one protocol for everything that another thread may bring it.
//!
//! The sleeper announces that it sleeps, fences, looks again, and only then waits. A waker makes its work visible,
//! fences, and looks whether the other sleeps. Of the two looks, at least one sees what the other side did: either the
//! sleeper finds the work, or the waker finds the sleeper and rings. Descriptors (sockets) need no announcement: the
//! wait itself looks at them.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::sync::{AtomicUsize, Ordering, fence};

const AWAKE: usize = 0;
const ASLEEP: usize = 1;

/// Whether a worker sleeps.
#[derive(Debug)]
pub(crate) struct Doze(AtomicUsize);

impl Doze {
    pub(crate) fn new() -> Doze {
        Doze(AtomicUsize::new(AWAKE))
    }

    /// For the sleeper: `look` says whether there is work, `wait` returns when rung. False when it found work and did
    /// not wait.
    pub(crate) fn sleep(&self, look: impl FnOnce() -> bool, wait: impl FnOnce()) -> bool {
        // Every change is a read-modify-write, so that the order of all of them is known to all.
        self.0.swap(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let quiet = !look();
        if quiet {
            wait();
        }
        self.0.swap(AWAKE, Ordering::Relaxed);
        quiet
    }

    /// For a waker, once its work is visible: calls `ring` when the worker sleeps and nobody else has rung.
    pub(crate) fn wake(&self, ring: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == ASLEEP
            && self.0.swap(AWAKE, Ordering::Relaxed) == ASLEEP
        {
            ring();
        }
    }

    fn is_asleep(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ASLEEP
    }
}

/// Wakes one worker.
#[derive(Debug)]
pub(crate) struct Waker {
    doze: Doze,
    bell: OwnedFd,
}

impl Waker {
    /// For a worker that is awake.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub(crate) fn new() -> io::Result<Waker> {
        Ok(Waker {
            doze: Doze::new(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Wakes the worker if it sleeps; to be called once what it is to see has been stored.
    #[inline]
    pub(crate) fn wake(&self) {
        self.doze.wake(|| {
            // A full counter is as good as one more.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        });
    }

    /// Whether the worker sleeps, or is about to.
    pub(crate) fn is_asleep(&self) -> bool {
        self.doze.is_asleep()
    }

    /// For the worker; see [`Doze::sleep`].
    pub(super) fn sleep(&self, look: impl FnOnce() -> bool, wait: impl FnOnce()) -> bool {
        let slept = self.doze.sleep(look, wait);
        if slept {
            let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        }
        slept
    }

    /// Readable once rung.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn rings_only_for_a_sleeper_and_once() {
        let doze = Doze::new();
        let rung = Cell::new(0);
        let ring = || rung.set(rung.get() + 1);
        doze.wake(ring);
        assert_eq!(rung.get(), 0);
        assert!(doze.sleep(
            || false,
            || {
                assert!(doze.is_asleep());
                doze.wake(ring);
                doze.wake(ring);
            }
        ));
        assert_eq!(rung.get(), 1);
        assert!(!doze.is_asleep());
        assert!(!doze.sleep(|| true, || unreachable!("there is work")));
        doze.wake(ring);
        assert_eq!(rung.get(), 1);
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_model {
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex};

    struct Model {
        doze: Doze,
        /// The eventfd.
        bell: (Mutex<bool>, Condvar),
        /// What two wakers bring: a ring's tail, the mailbox's flag.
        work: [AtomicUsize; 2],
    }

    impl Model {
        fn new() -> Arc<Model> {
            Arc::new(Model {
                doze: Doze::new(),
                bell: (Mutex::new(false), Condvar::new()),
                work: [AtomicUsize::new(0), AtomicUsize::new(0)],
            })
        }

        fn bring(&self, which: usize) {
            self.work[which].store(1, Ordering::Relaxed);
            self.doze.wake(|| {
                *self.bell.0.lock().unwrap() = true;
                self.bell.1.notify_one();
            });
        }

        fn done(&self) -> usize {
            self.work.iter().map(|w| w.load(Ordering::Relaxed)).sum()
        }

        /// A worker that sleeps until all of `wanted` has come; loom reports a sleep without end as a deadlock.
        fn worker(&self, wanted: usize) {
            loop {
                let seen = self.done();
                if seen == wanted {
                    break;
                }
                self.doze.sleep(
                    || self.done() > seen,
                    || {
                        let mut rung = self.bell.0.lock().unwrap();
                        while !*rung {
                            rung = self.bell.1.wait(rung).unwrap();
                        }
                        *rung = false;
                    },
                );
            }
        }
    }

    #[test]
    fn loom_a_sleeper_never_misses_work() {
        loom::model(|| {
            let model = Model::new();
            let other = model.clone();
            let waker = loom::thread::spawn(move || {
                other.bring(0);
            });
            model.worker(1);
            waker.join().unwrap();
        });
    }

    #[test]
    fn loom_nor_work_of_a_second_waker() {
        let mut builder = loom::model::Builder::new();
        // Three threads: every schedule with up to this many switches that no thread asked for.
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let model = Model::new();
            let wakers = [0, 1].map(|which| {
                let model = model.clone();
                loom::thread::spawn(move || model.bring(which))
            });
            model.worker(2);
            for waker in wakers {
                waker.join().unwrap();
            }
        });
    }
}
