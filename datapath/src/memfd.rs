// SPDX-License-Identifier: Apache-2.0
//! Sealed memfds mapped into this process: what a successor can take over, and what lies in huge pages where it is large enough.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};

/// Bytes of a huge page; on machines with others the kernel does less.
const HUGE_PAGE: usize = 2 << 20;
/// The memfd can neither shrink (a shrunk mapping faults) nor grow, and these seals stay.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A memfd that cannot shrink, mapped whole and shared. Nothing is read or written through it but by who asks for its base.
#[derive(Debug)]
pub(crate) struct Mapped {
    fd: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
    /// Addresses that were reserved: the mapping is a part of them, the rest is without access.
    reserved: (NonNull<u8>, usize),
}

// SAFETY: (M1) the mapping belongs to no thread; who reads and writes it answers for how.
unsafe impl Send for Mapped {}
// SAFETY: (M1) as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// A new zeroed memfd.
    ///
    /// # Errors
    /// What memfd_create, ftruncate, fcntl or mmap said.
    pub(crate) fn create(name: &CStr, bytes: usize) -> io::Result<Mapped> {
        let mapped = Mapped::map(sealed(name, bytes)?, bytes)?;
        mapped.take_huge_pages();
        Ok(mapped)
    }

    /// One that somebody else made. Its pages are as large as they were made.
    ///
    /// # Errors
    /// `InvalidData` when it is not sealed against shrinking, or empty; otherwise what fstat or mmap said.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Mapped> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        // What is no memfd has no seals at all.
        let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(wrong("not a memfd sealed against shrinking"));
        }
        match usize::try_from(rustix::fs::fstat(&fd)?.st_size) {
            Ok(0) | Err(_) => Err(wrong("an empty memfd")),
            Ok(bytes) => Mapped::map(fd, bytes),
        }
    }

    /// A file that outlives the process, in a directory that nobody but the superuser writes to. Made, or cut, to this size, with all of its room
    /// taken at once: a page that is not there when it is written would end the process.
    ///
    /// # Errors
    /// What open, ftruncate, fallocate or mmap said; `StorageFull` when there is no room.
    pub(crate) fn file(path: &Path, bytes: usize) -> io::Result<Mapped> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::fs::fstat(&fd)?.st_size as u64 != bytes as u64 {
            // What is in it is of another size, and nobody's.
            rustix::fs::ftruncate(&fd, 0)?;
            rustix::fs::ftruncate(&fd, bytes as u64)?;
        }
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64)?;
        let mapped = Mapped::map(fd, bytes)?;
        mapped.collapse();
        Ok(mapped)
    }

    /// Maps it at a multiple of a huge page, so that what is one in the file can be one here.
    fn map(fd: OwnedFd, bytes: usize) -> io::Result<Mapped> {
        let (none, read_write) = (libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE);
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let span = bytes
            .checked_add(HUGE_PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: (M2) new addresses that the kernel chooses, without access.
        let room = unsafe { libc::mmap(null_mut(), span, none, reserve, -1, 0) };
        if room == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let room = NonNull::new(room.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let reserved = (room, span);
        let before = room.addr().get().next_multiple_of(HUGE_PAGE) - room.addr().get();
        // SAFETY: (M2) less than a huge page behind the first of the addresses.
        let base = unsafe { room.add(before) };
        let at = base.as_ptr().cast();
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: (M2) replaces a part of what was just reserved; the file does not shrink (M1).
        let mapped = unsafe { libc::mmap(at, bytes, read_write, shared, fd.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            release(reserved);
            return Err(error);
        }
        Ok(Mapped {
            fd,
            base,
            bytes,
            reserved,
        })
    }

    /// Writes to all of a memfd that nobody knows yet, and asks for huge pages.
    fn take_huge_pages(&self) {
        // The kernel does not collapse what is empty.
        for at in (0..self.whole_huge_pages()).step_by(HUGE_PAGE) {
            // SAFETY: (M1) inside the mapping, which nobody else knows yet.
            unsafe { self.base.add(at).write_volatile(0) };
        }
        self.collapse();
    }

    /// Asks for huge pages: a packet meets several places of this memory, and the processor knows the addresses of few pages.
    /// Nothing depends on it: where the kernel or the file system has none to give, or is older than Linux 6.1, pages are small.
    fn collapse(&self) {
        let whole = self.whole_huge_pages();
        if whole > 0 {
            // Unlike MADV_HUGEPAGE this works with `shmem_enabled` at `never`, as distributions have it (madvise(2)).
            // SAFETY: (M1) our own mapping; it changes no content.
            unsafe { libc::madvise(self.base.as_ptr().cast(), whole, libc::MADV_COLLAPSE) };
        }
    }

    /// Bytes of it that can lie in huge pages.
    fn whole_huge_pages(&self) -> usize {
        self.bytes / HUGE_PAGE * HUGE_PAGE
    }

    /// The memfd.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where it is mapped: at a multiple of a huge page.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of it.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn sealed(name: &CStr, bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

/// Gives addresses back, with what is mapped there.
fn release((room, span): (NonNull<u8>, usize)) {
    // SAFETY: (M1, M2) what was reserved for one mapping, all of it, and nobody has a pointer into it any longer.
    unsafe { libc::munmap(room.as_ptr().cast(), span) };
}

impl Drop for Mapped {
    fn drop(&mut self) {
        release(self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A line of this process's smaps for the mapping at `base`, in KiB.
    fn smaps(base: NonNull<u8>, line: &str) -> u64 {
        let all = fs::read_to_string("/proc/self/smaps").unwrap();
        let begin = format!("{:x}-", base.as_ptr().addr());
        let mut lines = all.lines().skip_while(|l| !l.starts_with(&begin));
        let line = lines.find_map(|l| l.strip_prefix(line)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_is_large_lies_in_huge_pages_and_is_zero() {
        let bytes = 2 * HUGE_PAGE + 12345;
        let mapped = Mapped::create(c"podswitch-test", bytes).unwrap();
        assert_eq!(mapped.base().as_ptr().addr() % HUGE_PAGE, 0);
        // SAFETY: (M1) all of the mapping, which nobody writes.
        let content = unsafe { std::slice::from_raw_parts(mapped.base().as_ptr(), bytes) };
        assert!(content.iter().all(|byte| *byte == 0));
        // A fragmented node may have none; then this says nothing.
        let huge = smaps(mapped.base(), "ShmemPmdMapped:");
        assert!(huge == 0 || huge == 4096, "{huge} KiB");
    }

    #[test]
    fn a_file_in_memory_lies_in_huge_pages_and_keeps_what_is_in_it() {
        let path = Path::new("/dev/shm").join(format!("podswitch-memfd-{}", std::process::id()));
        let bytes = 2 * HUGE_PAGE;
        let mapped = Mapped::file(&path, bytes).unwrap();
        let huge = smaps(mapped.base(), "ShmemPmdMapped:");
        // SAFETY: (M1) inside the mapping, which nobody else has.
        unsafe { mapped.base().add(bytes - 1).write_volatile(7) };
        drop(mapped);
        let again = Mapped::file(&path, bytes).unwrap();
        fs::remove_file(&path).unwrap();
        // SAFETY: (M1) all of the mapping, which nobody writes.
        let content = unsafe { std::slice::from_raw_parts(again.base().as_ptr(), bytes) };
        assert_eq!(content[bytes - 1], 7);
        assert!(content[..bytes - 1].iter().all(|byte| *byte == 0));
        // A fragmented node may have none; then this says nothing.
        assert!(huge == 0 || huge == 4096, "{huge} KiB");
    }

    #[test]
    fn nothing_stays_mapped() {
        let maps = || {
            let all = fs::read_to_string("/proc/self/maps").unwrap();
            all.lines()
                .filter(|line| line.contains("podswitch-one-page"))
                .count()
        };
        let mapped = Mapped::create(c"podswitch-one-page", 100).unwrap();
        assert_eq!(maps(), 1);
        drop(mapped);
        assert_eq!(maps(), 0);
    }

    #[test]
    fn what_could_shrink_or_is_empty_is_refused() {
        let refused = |fd: OwnedFd| Mapped::adopt(fd).unwrap_err().to_string();
        let memfd = || rustix::fs::memfd_create(c"x", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(refused(memfd()).contains("sealed"));
        assert!(refused(fs::File::open("/dev/null").unwrap().into()).contains("sealed"));
        let empty = memfd();
        rustix::fs::fcntl_add_seals(&empty, SEALS).unwrap();
        assert!(refused(empty).contains("empty"));
    }
}
