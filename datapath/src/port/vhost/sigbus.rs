// SPDX-License-Identifier: Apache-2.0
//! Files of other processes, mapped: whoever has one may cut it, and a page that is no longer in the file raises SIGBUS where it is touched.
//!
//! The signal's handler puts zeroed memory of our own in the place of the whole mapping and notes that it is [lost](Mapping::is_lost); what was touching it goes
//! on, and reads zeros. A fault anywhere else goes to the handler that was there before.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Most mappings of all ports at a time.
const MOST: usize = 16384;

/// A mapping that the handler knows.
struct Watched {
    /// Where it begins; 0: the place is free, [`TAKEN`]: not yet to be looked at.
    base: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicBool,
}

const FREE: usize = 0;
const TAKEN: usize = 1;

static WATCHED: [Watched; MOST] = [const {
    Watched {
        base: AtomicUsize::new(FREE),
        bytes: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];

static INSTALL: Once = Once::new();
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A part of a file of somebody else's, mapped shared, to be read and written; unmapped when it is dropped. What is in it changes at any time.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    place: &'static Watched,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

// SAFETY: (G1) the mapping belongs to no thread, and is only reached by raw copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: (G1) as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes from `offset` on, which the file has; both are multiples of its pages.
    ///
    /// # Errors
    /// `OutOfMemory` when all ports together have too many mappings; otherwise what mmap(2) said.
    pub(super) fn new(file: &File, offset: u64, bytes: usize) -> io::Result<Mapping> {
        INSTALL.call_once(install);
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let place = take_place().ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, fd) = (libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd());
        // SAFETY: (G1) new addresses that the kernel chooses.
        let base = unsafe { libc::mmap(null_mut(), bytes, protection, flags, fd, offset) };
        let base = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => base,
            _ => {
                let error = io::Error::last_os_error();
                place.base.store(FREE, Ordering::Release);
                return Err(error);
            }
        };
        place.bytes.store(bytes, Ordering::Relaxed);
        place.lost.store(false, Ordering::Relaxed);
        place.base.store(base.addr().get(), Ordering::Release);
        Ok(Mapping { base, bytes, place })
    }

    /// Where it begins.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether a page of it was not there when it was touched: all of it is zeroed memory of our own since.
    pub(super) fn is_lost(&self) -> bool {
        self.place.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First: the addresses may be somebody else's as soon as they are free.
        self.place.base.store(FREE, Ordering::Release);
        // SAFETY: (G1) what was mapped, or put in its place, of which nobody has a pointer any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn take_place() -> Option<&'static Watched> {
    let order = Ordering::Relaxed;
    WATCHED.iter().find(|place| {
        place
            .base
            .compare_exchange(FREE, TAKEN, order, order)
            .is_ok()
    })
}

fn install() {
    // SAFETY: (G2) zeros are a valid sigaction, the kernel writes the one before, and the handler keeps to what is allowed in one.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before);
        // Set before the handler can run.
        let _ = BEFORE.set(before);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, null_mut());
    }
}

/// Async-signal-safe: atomics and system calls alone.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: (G2) the kernel gives SIGBUS's handler the address that was touched.
    let at = unsafe { (*info).si_addr() }.addr();
    let found = WATCHED.iter().find_map(|place| {
        let base = place.base.load(Ordering::Acquire);
        let bytes = place.bytes.load(Ordering::Relaxed);
        (base > TAKEN && at.wrapping_sub(base) < bytes).then_some((place, base, bytes))
    });
    match found {
        Some((place, base, bytes)) if replace(base, bytes) => {
            place.lost.store(true, Ordering::Relaxed);
        }
        _ => pass_on(signal, info, context),
    }
}

/// Puts zeroed memory in the place of a mapping; false when the kernel gives none.
fn replace(base: usize, bytes: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let at = std::ptr::with_exposed_provenance_mut(base);
    // SAFETY: (G1, G2) the addresses of a mapping that is watched, and so still ours; errno is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let mapped = libc::mmap(at, bytes, protection, flags, -1, 0);
        *errno = before;
        mapped != libc::MAP_FAILED
    }
}

/// As if this handler were not there.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |b| b.sa_sigaction);
    match (before, handler) {
        (Some(before), handler)
            if handler != libc::SIG_DFL
                && handler != libc::SIG_IGN
                && before.sa_flags & libc::SA_SIGINFO != 0 =>
        {
            // SAFETY: (G2) the kernel had this address as a handler with these arguments.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        // Returning has the access made again, which ends the process as it would have.
        // SAFETY: (G2) a plain default.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
        },
    }
}
