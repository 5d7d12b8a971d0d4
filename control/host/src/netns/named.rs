// SPDX-License-Identifier: Apache-2.0
//! Network namespaces with a name: a mount at `/run/netns/NAME`, where `ip netns` looks for them (`man 8 ip-netns`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CURRENT, Netns, open};
use crate::error::{Error, Result};
use crate::netlink::Socket;
use crate::{link, sys};

/// Where named network namespaces are.
pub const DIRECTORY: &str = "/run/netns";

/// The path of the network namespace of this name.
///
/// # Errors
/// [`Error::Invalid`] for what cannot be a file name.
pub fn path(name: &str) -> Result<PathBuf> {
    if name.is_empty()
        || name == "."
        || name == ".."
        || name.contains(['/', '\0'])
        || name.len() > 255
    {
        return Err(Error::invalid(
            "network namespace name",
            name,
            "must be a file name",
        ));
    }
    Ok(Path::new(DIRECTORY).join(name))
}

/// Makes a network namespace of this name with its loopback device up. It stays until [`delete`].
///
/// # Errors
/// [`Error::exists`] when the name is taken; EPERM without `CAP_SYS_ADMIN`. After an error nothing is left.
pub fn create(name: &str) -> Result<Netns> {
    let path = path(name)?;
    let failed = |source| Error::io(format_args!("creating network namespace {name}"), source);
    share_directory().map_err(failed)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed)?;
    let made = mount_new(&path).map_err(failed).and_then(|()| {
        let netns = open(&path)?;
        netns.run(|| link::set_up(&mut Socket::open()?, "lo", true))??;
        Ok(netns)
    });
    made.inspect_err(|_| {
        // Nothing may be mounted there yet; the file has to go either way.
        let _ = sys::umount_detach(&path);
        let _ = fs::remove_file(&path);
    })
}

/// Removes a named network namespace, and says whether it was there. What uses it goes on with it.
///
/// # Errors
/// [`Error::Io`] naming it when the kernel refuses.
pub fn delete(name: &str) -> Result<bool> {
    let path = path(name)?;
    let failed = |source| Error::io(format_args!("deleting network namespace {name}"), source);
    match sys::umount_detach(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        // EINVAL: a file on which nothing is mounted.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        Err(e) => return Err(failed(e)),
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(failed(e)),
    }
}

/// A named network namespace that is deleted when this is dropped.
#[derive(Debug)]
pub struct Named {
    name: String,
    netns: Netns,
}

impl Named {
    /// Makes it; see [`create`].
    ///
    /// # Errors
    /// As [`create`].
    pub fn create(name: &str) -> Result<Self> {
        Ok(Named {
            name: name.into(),
            netns: create(name)?,
        })
    }

    /// Makes one with a name nobody else has: prefix, process id and a number.
    ///
    /// # Errors
    /// As [`create`].
    pub fn unique(prefix: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Named::create(&format!("{prefix}-{}-{number}", std::process::id()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace itself.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its path under [`DIRECTORY`].
    pub fn path(&self) -> &Path {
        self.netns.path()
    }

    /// Opens an rtnetlink socket in it.
    ///
    /// # Errors
    /// As [`Netns::run`] and [`Socket::open`].
    pub fn socket(&self) -> Result<Socket> {
        self.netns.run(Socket::open)?
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(e) = delete(&self.name) {
            eprintln!("podswitch: {e}");
        }
    }
}

/// Makes [`DIRECTORY`] a shared mount, as `ip netns` does, so that names made in one mount namespace are seen, and go
/// away, in the others.
fn share_directory() -> io::Result<()> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory)?;
    // Two processes at this at once would stack mounts.
    let lock = File::open(directory)?;
    lock.lock()?;
    let share = || sys::mount(Path::new("none"), directory, libc::MS_SHARED | libc::MS_REC);
    match share() {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(directory, directory, libc::MS_BIND | libc::MS_REC)?;
            share()
        }
        other => other,
    }
}

/// Mounts a new network namespace on an existing file.
fn mount_new(path: &Path) -> io::Result<()> {
    super::in_new(|| sys::mount(Path::new(CURRENT), path, libc::MS_BIND))?
}
