// SPDX-License-Identifier: Apache-2.0
//! One thread for all ports that have a frontend: it looks whether a worker is held up when it calls a driver, and whether a port's own thread is in the middle of a message.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use podswitch_datapath::port::vhost::Calls;
use tracing::warn;

/// How often it looks. A worker may be held up twice as long.
const LOOK: Duration = Duration::from_millis(10);
/// How long a message that has come as a whole may take; longer than a worker may take to see what is new.
const HUNG: Duration = Duration::from_secs(6);

/// What is looked at of a connection.
#[derive(Debug)]
pub(crate) struct Watched {
    calls: Mutex<Calls>,
    stream: UnixStream,
    /// Since when a message is being taken.
    busy: Mutex<Option<Instant>>,
}

impl Watched {
    pub(crate) fn new(calls: Calls, stream: UnixStream) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            calls: Mutex::new(calls),
            stream,
            busy: Mutex::new(None),
        });
        PATROL.add(&watched);
        watched
    }

    /// Does what takes a message, which is given up if it takes too long.
    pub(crate) fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        *lock(&self.busy) = Some(Instant::now());
        let done = work();
        *lock(&self.busy) = None;
        done
    }

    /// Ends the connection, wherever its thread is.
    pub(crate) fn give_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn look(&self) {
        lock(&self.calls).look();
        if lock(&self.busy).is_some_and(|since| since.elapsed() > HUNG) {
            self.give_up();
        }
    }
}

pub(crate) fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that is to be looked at.
struct Patrol {
    /// And whether there is a thread that does.
    all: Mutex<(Vec<Weak<Watched>>, bool)>,
    more: Condvar,
}

static PATROL: Patrol = Patrol {
    all: Mutex::new((Vec::new(), false)),
    more: Condvar::new(),
};

impl Patrol {
    fn add(&'static self, watched: &Arc<Watched>) {
        let mut all = lock(&self.all);
        all.0.push(Arc::downgrade(watched));
        self.more.notify_one();
        if !all.1 {
            let thread = thread::Builder::new().name("vhost-patrol".into());
            match thread.spawn(|| self.run()) {
                Ok(_) => all.1 = true,
                Err(e) => {
                    warn!(error = %e, "nobody looks whether a frontend holds a worker up; tried again with the next one")
                }
            }
        }
    }

    fn run(&self) {
        loop {
            let mut all = lock(&self.all);
            while all.0.is_empty() {
                all = self.more.wait(all).unwrap_or_else(PoisonError::into_inner);
            }
            all.0.retain(|watched| watched.strong_count() > 0);
            let now = all.0.clone();
            drop(all);
            now.iter()
                .filter_map(Weak::upgrade)
                .for_each(|watched| watched.look());
            thread::sleep(LOOK);
        }
    }
}
