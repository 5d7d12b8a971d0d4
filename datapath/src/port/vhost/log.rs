// SPDX-License-Identifier: Apache-2.0
//! Which pages of a guest its device has written to since they were looked at, while the guest moves to another machine (vhost-user, "Migration").

use std::fs::File;
use std::sync::atomic::{AtomicU8, Ordering};

use super::memory::{PartError, map_part};
use super::sigbus::Mapping;

/// Most bytes of a log: pages of guests whose addresses are below 32 TiB. All ports share the addresses of one process.
pub const MAX_LOG: u64 = 1 << 30;
/// Bytes of a page, whatever the processor's are (vhost-user, "Migration").
const PAGE: u64 = 4096;

/// A bit for each page of the guest, shared with its frontend, which takes them back as it copies the pages.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    /// Where it begins in there.
    offset: usize,
    bytes: u64,
}

impl DirtyLog {
    /// The log in `bytes` bytes of a file from `offset` on.
    ///
    /// # Errors
    /// [`PartError`], when the file has no such part, or it cannot be mapped.
    pub fn new(file: &File, offset: u64, bytes: u64) -> Result<DirtyLog, PartError> {
        if !(1..=MAX_LOG).contains(&bytes) {
            return Err(PartError::Wrong("it has 1 byte to 1 GiB"));
        }
        let (mapping, offset) = map_part(file, offset, bytes)?;
        Ok(DirtyLog {
            mapping,
            offset,
            bytes,
        })
    }

    /// Notes that `len` bytes from `guest` on were written, after they were. What the log has no bit for is nobody's concern.
    pub(super) fn mark(&self, guest: u64, len: u64) {
        let Some(last) = len.checked_sub(1) else {
            return;
        };
        let pages = self.bytes.saturating_mul(8);
        let last = guest.saturating_add(last) / PAGE;
        for page in guest / PAGE..=last.min(pages.saturating_sub(1)) {
            self.byte(page / 8)
                .fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    fn byte(&self, at: u64) -> &AtomicU8 {
        assert!(at < self.bytes, "byte {at} of {}", self.bytes);
        // SAFETY: (G3, G4) checked right above, and mapped as long as `self` lives.
        unsafe { AtomicU8::from_ptr(self.mapping.base().as_ptr().add(self.offset + at as usize)) }
    }

    /// Whether a part of it has gone: the file behind it was cut.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.mapping.is_lost()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file(bytes: u64) -> File {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, bytes).unwrap();
        file
    }

    fn marked(file: &File, offset: u64, marks: &[(u64, u64)]) -> Vec<u64> {
        let log = DirtyLog::new(file, offset, 3).unwrap();
        marks.iter().for_each(|(at, len)| log.mark(*at, *len));
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, offset - 1).unwrap();
        let all = (0..40).filter(|n| bytes[n / 8] & 1 << (n % 8) != 0);
        all.map(|n| n as u64).collect()
    }

    #[test]
    fn a_page_is_marked_once_any_byte_of_it_is_written() {
        let at = |page: u64| page + 8;
        assert_eq!(marked(&file(5000), 100, &[(4096, 0)]), []);
        assert_eq!(marked(&file(5000), 100, &[(4096, 1)]), [at(1)]);
        assert_eq!(marked(&file(5000), 100, &[(4095, 2)]), [at(0), at(1)]);
        let several = [(8191, 8193), (7 * 4096, 2 * 4096)];
        let expected = [at(1), at(2), at(3), at(7), at(8)];
        assert_eq!(marked(&file(5000), 100, &several), expected);
    }

    #[test]
    fn pages_behind_the_log_are_left_out() {
        assert_eq!(marked(&file(5000), 100, &[(23 * 4096, 1 << 40)]), [31]);
        assert_eq!(marked(&file(5000), 100, &[(24 * 4096, 4096)]), []);
        assert_eq!(marked(&file(5000), 100, &[(u64::MAX, u64::MAX)]), []);
    }

    #[test]
    fn a_log_that_its_file_does_not_hold_is_refused() {
        let short = DirtyLog::new(&file(4096), 4000, 97).unwrap_err();
        assert_eq!(short.to_string(), "the file is shorter");
        for bytes in [0, MAX_LOG + 1] {
            let sparse = file(MAX_LOG + 4096);
            let wrong = DirtyLog::new(&sparse, 0, bytes).unwrap_err();
            assert_eq!(wrong.to_string(), "it has 1 byte to 1 GiB");
        }
    }
}
