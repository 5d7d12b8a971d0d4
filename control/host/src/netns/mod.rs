// SPDX-License-Identifier: Apache-2.0
//! Network namespaces (`man 7 network_namespaces`): open, enter on one thread, identify, create and delete by name.

mod named;

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::{Error, Result};
use crate::sys;

pub use named::{DIRECTORY, Named, create, delete, path};

/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// The calling thread's own namespace; `/proc/self` would be the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It lives at least as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// What tells one network namespace from another while it lives: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number of the namespace file system.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
}

impl Netns {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    pub fn identity(&self) -> Result<Identity> {
        let data = self
            .file
            .metadata()
            .map_err(|source| Error::io(self.path.display(), source))?;
        Ok(Identity {
            dev: data.dev(),
            ino: data.ino(),
        })
    }

    /// Puts the calling thread into this namespace until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] naming the namespace; EPERM without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<Guard> {
        let before = current()?;
        sys::setns_net(self.file.as_fd()).map_err(|source| {
            Error::io(
                format_args!("entering network namespace {}", self.path.display()),
                source,
            )
        })?;
        Ok(Guard {
            before,
            not_send: PhantomData,
        })
    }

    /// Runs `work` in this namespace on a thread of its own; the calling thread stays where it is. A panic goes on in
    /// the caller.
    ///
    /// # Errors
    /// As [`enter`](Netns::enter), and when no thread can be started.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || self.enter().map(|_guard| work()))
                .map_err(|source| Error::io("starting a thread", source))?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps the calling thread in another network namespace; dropping it leads back.
///
/// If the kernel refuses the way back, the process is aborted: what the thread would do next would hit the wrong
/// namespace's interfaces.
#[derive(Debug)]
pub struct Guard {
    before: Netns,
    // The namespace is the thread's, so the guard must not leave it.
    not_send: PhantomData<*const ()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(e) = sys::setns_net(self.before.as_fd()) {
            eprintln!(
                "podswitch: cannot return to the network namespace this thread came from: {e}"
            );
            std::process::abort();
        }
    }
}

/// Opens the network namespace behind a path: `/run/netns/NAME`, `/proc/PID/ns/net`, ...
///
/// # Errors
/// [`Error::NetnsGone`] when there is no such file; [`Error::NotNetns`] when the file is something else;
/// [`Error::Io`] otherwise.
pub fn open(path: impl AsRef<Path>) -> Result<Netns> {
    let path = path.as_ref();
    let failed = |source: io::Error| match source.raw_os_error() {
        // ESRCH: the process of a /proc path is being reaped.
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH) => Error::NetnsGone { path: path.into() },
        _ => Error::io(
            format_args!("opening network namespace {}", path.display()),
            source,
        ),
    };
    let wrong = |why| {
        Err(Error::NotNetns {
            path: path.into(),
            why,
        })
    };
    // A path from elsewhere may be anything: opening a pipe must not wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    if sys::filesystem_magic(&file).map_err(failed)? != NSFS_MAGIC {
        return wrong(
            "it is an ordinary file; the namespace that was mounted here may have been removed",
        );
    }
    if sys::namespace_kind(&file).map_err(failed)? != libc::CLONE_NEWNET {
        return wrong("it is a namespace of another kind");
    }
    Ok(Netns {
        file,
        path: path.into(),
    })
}

/// The network namespace of the calling thread.
///
/// # Errors
/// [`Error::Io`] when `/proc` is not there.
pub fn current() -> Result<Netns> {
    open(CURRENT)
}

/// [`open`] and [`Netns::run`].
///
/// # Errors
/// As both.
pub fn run_in<T: Send>(path: impl AsRef<Path>, work: impl FnOnce() -> T + Send) -> Result<T> {
    open(path)?.run(work)
}

/// Runs `work` on a thread in a network namespace made for it, which has no name and goes with the thread, whatever is
/// in it.
///
/// # Errors
/// [`Error::Io`] without CAP_SYS_ADMIN, or when no thread can be started. A panic of `work` goes on here.
pub fn in_scratch<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    in_new(work).map_err(|source| Error::io("making a network namespace", source))
}

fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let work = || sys::unshare_net().map(|()| work());
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
