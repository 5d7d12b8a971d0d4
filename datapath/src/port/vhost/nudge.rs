// SPDX-License-Identifier: Apache-2.0
//! Drivers are called by eventfds that their frontends share with us, and a frontend can have a write to one wait: it takes `O_NONBLOCK` away, which belongs to the open file,
//! and fills the counter. So a worker says when it calls, and whoever watches it sends it a signal when it does not come back from that, which ends the call with `EINTR`.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

/// A signal that is ignored where nobody handles it, so that one too late does no harm.
const SIGNAL: libc::c_int = libc::SIGURG;

static INSTALL: Once = Once::new();

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// Which thread is calling, as the kernel numbers it, and below it how many calls there were; no thread: nobody is.
#[derive(Debug, Default)]
pub(super) struct Calling(AtomicU64);

impl Calling {
    /// Rings for a driver; false when that was broken off. A full counter is as good as one more.
    pub(super) fn ring(&self, bell: BorrowedFd<'_>) -> bool {
        let thread = THREAD.with(|own| {
            if own.get() == 0 {
                own.set(rustix::thread::gettid().as_raw_nonzero().get() as u32);
            }
            own.get()
        });
        let count = (self.0.load(Ordering::Relaxed) as u32).wrapping_add(1);
        let now = u64::from(thread) << 32 | u64::from(count);
        self.0.store(now, Ordering::Relaxed);
        let rung = rustix::io::write(bell, &1u64.to_ne_bytes());
        self.0.store(count.into(), Ordering::Relaxed);
        !matches!(rung, Err(Errno::INTR))
    }

    /// What is to be given to the next look. A worker that has been in the same call since the last one is sent the signal.
    pub(super) fn look(&self, last: u64) -> u64 {
        INSTALL.call_once(install);
        let now = self.0.load(Ordering::Relaxed);
        let thread = now >> 32;
        if thread != 0 && now == last {
            // SAFETY: (G5) a signal whose handler does nothing, to a thread of this process, or to none.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    libc::getpid(),
                    thread as libc::pid_t,
                    SIGNAL,
                )
            };
        }
        now
    }
}

/// A system call that waits is broken off, not begun anew.
fn install() {
    // SAFETY: (G5) zeros are a valid sigaction, without SA_RESTART, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut());
    }
}

extern "C" fn handle(_: libc::c_int) {}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_call_that_waits_is_broken_off() {
        let calling = Arc::new(Calling::default());
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        assert!(calling.ring(bell.as_fd()));
        let mut last = calling.look(0);
        assert_eq!(calling.look(last), last, "nobody calls");
        rustix::io::read(&bell, &mut [0; 8]).unwrap();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (end, ended) = channel();
        let other = (calling.clone(), bell.clone());
        std::thread::spawn(move || end.send(other.0.ring(other.1.as_fd())));
        let rung = loop {
            last = calling.look(last);
            if let Ok(rung) = ended.recv_timeout(Duration::from_millis(5)) {
                break rung;
            }
        };
        assert!(!rung);
        assert!(calling.ring(eventfd(0, EventfdFlags::CLOEXEC).unwrap().as_fd()));
    }
}
