// SPDX-License-Identifier: Apache-2.0
//! Which descriptors are taken from a frontend. A worker writes to some and maps others, and must not wait for anybody when it does.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstatfs, readlink};

/// File systems whose files are memory (linux/magic.h): of any other, a page that is touched may have to be read from somewhere first.
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// Why a descriptor is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no eventfd.
    #[error("descriptor of {}, not an eventfd", .0.display())]
    NotEvent(PathBuf),
    /// It is not memory.
    #[error(
        "memory in {}, on a file system of type {kind:#x}: a worker would have to wait for it. Only memfds and files on tmpfs or hugetlbfs are taken (memory-backend-memfd, or memory-backend-file on /dev/shm)",
        path.display()
    )]
    NotMemory {
        /// What it is.
        path: PathBuf,
        /// The magic number of its file system.
        kind: u64,
    },
    /// The kernel's word.
    #[error("descriptor that cannot be looked at: {0}")]
    System(#[from] io::Error),
}

/// What a descriptor is open on, as the kernel names it.
fn name(file: &File) -> io::Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let name = readlink(link, Vec::new())?.into_string();
    Ok(PathBuf::from(name.unwrap_or_else(|e| {
        e.into_cstring().to_string_lossy().into_owned()
    })))
}

/// Takes an eventfd, by which nobody waits from now on.
///
/// # Errors
/// [`FileError`], when it is none.
pub(crate) fn event(file: File) -> Result<File, FileError> {
    let name = name(&file)?;
    if name.as_os_str() != "anon_inode:[eventfd]" {
        return Err(FileError::NotEvent(name));
    }
    let flags = fcntl_getfl(&file).map_err(io::Error::from)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    Ok(file)
}

/// Sees that a file is memory.
///
/// # Errors
/// [`FileError`], when it is not.
pub(crate) fn check_memory(file: &File) -> Result<(), FileError> {
    let kind = fstatfs(file.as_fd()).map_err(io::Error::from)?.f_type as u64;
    match kind {
        TMPFS | HUGETLBFS => Ok(()),
        kind => Err(FileError::NotMemory {
            path: name(file)?,
            kind,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn an_eventfd_is_one_that_nobody_waits_for() {
        let file = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let mut file = event(file).unwrap();
        file.write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        // Full: a write would wait without the flag.
        let full = file.write_all(&1u64.to_ne_bytes()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_no_eventfd_is_refused_by_its_name() {
        for file in [
            File::open("/dev/null").unwrap(),
            File::from(memfd_create("x", MemfdFlags::CLOEXEC).unwrap()),
            File::from(rustix::pipe::pipe().unwrap().1),
        ] {
            let refused = event(file).unwrap_err();
            assert!(matches!(refused, FileError::NotEvent(_)), "{refused}");
        }
        let timer = rustix::time::timerfd_create(
            rustix::time::TimerfdClockId::Monotonic,
            rustix::time::TimerfdFlags::CLOEXEC,
        );
        let text = event(File::from(timer.unwrap())).unwrap_err().to_string();
        assert_eq!(text, "descriptor of anon_inode:[timerfd], not an eventfd");
    }

    #[test]
    fn memory_is_what_is_never_waited_for() {
        let memory = File::from(memfd_create("x", MemfdFlags::CLOEXEC).unwrap());
        check_memory(&memory).unwrap();
        check_memory(&tempfile::tempfile_in("/dev/shm").unwrap()).unwrap();
        let other = File::open("/proc/self/maps").unwrap();
        let text = check_memory(&other).unwrap_err().to_string();
        assert!(
            text.contains("/maps, on a file system of type 0x9fa0"),
            "{text}"
        );
        let (end, _) = std::os::unix::net::UnixStream::pair().unwrap();
        end.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        assert!(check_memory(&File::from(std::os::fd::OwnedFd::from(end))).is_err());
    }
}
