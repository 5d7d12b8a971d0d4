// SPDX-License-Identifier: Apache-2.0
//! The mapping under a flow table: a sealed memfd seen as cache lines of atomic words, so that no content of it and no
//! other process that still maps it can do more than make an entry wrong.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::memfd::Mapped;

/// 64 bytes, aligned to a cache line, every bit pattern valid.
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU64; 8]);

/// Bytes of a [`Line`].
pub(super) const LINE: usize = size_of::<Line>();

/// A memfd of a fixed size and its mapping.
#[derive(Debug)]
pub(super) struct Memory {
    mapped: Mapped,
    base: NonNull<Line>,
    lines: usize,
}

// SAFETY: (F1) the mapping belongs to no thread, and is only reached through atomics.
unsafe impl Send for Memory {}
// SAFETY: (F1) as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// A new zeroed memfd of `lines` lines, sealed and mapped.
    pub(super) fn create(name: &CStr, lines: usize) -> io::Result<Memory> {
        let bytes = lines.checked_mul(LINE).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Memory::of(Mapped::create(name, bytes)?))
    }

    /// Maps a memfd somebody else made.
    ///
    /// # Errors
    /// `InvalidData` when it is no memfd sealed against shrinking, or no whole number of lines long.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Memory> {
        let mapped = Mapped::adopt(fd)?;
        let bytes = mapped.bytes();
        if !bytes.is_multiple_of(LINE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{bytes} bytes long, which is no whole number of {LINE}-byte lines"),
            ));
        }
        Ok(Memory::of(mapped))
    }

    /// A file of `lines` lines that outlives the process, with what is in it; nothing, if it was not there.
    ///
    /// # Errors
    /// As [`Mapped::file`].
    pub(super) fn file(path: &Path, lines: usize) -> io::Result<Memory> {
        let bytes = lines.checked_mul(LINE).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Memory::of(Mapped::file(path, bytes)?))
    }

    fn of(mapped: Mapped) -> Memory {
        Memory {
            base: mapped.base().cast(),
            lines: mapped.bytes() / LINE,
            mapped,
        }
    }

    /// The memfd.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.mapped.fd()
    }

    /// All of it.
    #[inline(always)]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: (F1) the mapping is `lines` lines long, page aligned, and lives as long as `self`; a line is
        // atomics, for which every content is valid and every concurrent access is defined.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.lines) }
    }
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
