// SPDX-License-Identifier: Apache-2.0
//! The mapping under a flow table: a sealed memfd seen as cache lines of atomic words, so that no content of it and no
//! other process that still maps it can do more than make an entry wrong.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// 64 bytes, aligned to a cache line, every bit pattern valid.
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU64; 8]);

/// Bytes of a [`Line`].
pub(super) const LINE: usize = size_of::<Line>();
/// From this size on huge pages are asked for.
const HUGE_PAGE: usize = 2 << 20;
/// The memfd can neither shrink (a shrunk mapping faults) nor grow, and these seals stay.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// A memfd of a fixed size and its mapping.
#[derive(Debug)]
pub(super) struct Memory {
    fd: OwnedFd,
    base: NonNull<Line>,
    lines: usize,
}

// SAFETY: (F1) the mapping belongs to no thread, and is only reached through atomics.
unsafe impl Send for Memory {}

impl Memory {
    /// A new zeroed memfd of `lines` lines, sealed and mapped.
    pub(super) fn create(lines: usize) -> io::Result<Memory> {
        // SAFETY: (F2) plain system call with a NUL-terminated name; the result is checked.
        let fd = unsafe {
            libc::memfd_create(
                c"podswitch-flows".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: (F2) `fd` was just returned to us and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let bytes = libc::off_t::try_from(lines * LINE).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: (F2) plain system call on our own descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: (F2) plain system call on our own descriptor.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Memory::map(fd, lines)
    }

    /// Maps a memfd somebody else made.
    ///
    /// # Errors
    /// `InvalidData` when it is no memfd sealed against shrinking, or no whole number of lines long.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Memory> {
        // SAFETY: (F2) plain system call on a descriptor we own.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a memfd sealed against shrinking",
            ));
        }
        let file = std::fs::File::from(fd);
        let bytes = file.metadata()?.len();
        let lines = usize::try_from(bytes).unwrap_or(usize::MAX) / LINE;
        if lines == 0 || (lines * LINE) as u64 != bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{bytes} bytes long, which is no whole number of {LINE}-byte lines"),
            ));
        }
        Memory::map(file.into(), lines)
    }

    fn map(fd: OwnedFd, lines: usize) -> io::Result<Memory> {
        let bytes = lines * LINE;
        // SAFETY: (F1) a new shared mapping at an address the kernel chooses, of a file that cannot shrink.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if bytes >= HUGE_PAGE {
            // Fewer TLB misses where the kernel allows it for shared memory; works without.
            // SAFETY: (F1) advice about our own mapping; it changes no content.
            unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
        }
        let base = NonNull::new(base.cast::<Line>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Memory { fd, base, lines })
    }

    /// The memfd.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// All of it.
    #[inline(always)]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: (F1) the mapping is `lines` lines long, page aligned, and lives as long as `self`; a line is
        // atomics, for which every content is valid and every concurrent access is defined.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.lines) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: (F1) our own mapping; `lines` borrows `self`, so no reference into it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.lines * LINE) };
    }
}

/// Asks the processor to bring a line near.
#[inline(always)]
pub(super) fn prefetch(line: &Line) {
    prefetch_words(&line.0);
}

/// The same for the words of a line.
#[inline(always)]
pub(super) fn prefetch_words(words: &[AtomicU64; 8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: (F3) a hint about valid memory; it reads nothing architecturally.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(words).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

/// A number from the kernel's random source, for a table's seed.
///
/// # Errors
/// What getrandom(2) said.
pub fn random_seed() -> io::Result<u64> {
    let mut seed = [0u8; 8];
    // SAFETY: (F2) writes at most 8 bytes into a buffer of 8.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if got != seed.len() as isize {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(seed))
}
