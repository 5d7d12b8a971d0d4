// SPDX-License-Identifier: Apache-2.0
//! One process at a time uses a state directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::StoreError;

/// Name of the lock file in the state directory. It holds the number of the process.
pub(super) const FILE: &str = "lock";

/// An flock(2) on a file of the state directory; it ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(super) fn take(directory: &Path) -> Result<Lock, StoreError> {
        let path = directory.join(FILE);
        loop {
            let io = |e: io::Error| StoreError::io(&path, "lock the state directory", e);
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(io)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(locked(directory, &mut file)),
                Err(e) => return Err(io(e.into())),
            }
            // Whoever had it may have removed the file meanwhile: then this is a lock on nothing.
            if !same_file(&file, &path) {
                continue;
            }
            write_pid(&mut file).map_err(io)?;
            return Ok(Lock { path, _file: file });
        }
    }

    /// Removes the file while it is still locked.
    pub(super) fn remove(self) -> Result<(), StoreError> {
        super::remove_file(&self.path)
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn locked(directory: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let pid = read.ok().and_then(|_| text.trim().parse().ok());
    StoreError::Locked {
        directory: directory.to_owned(),
        pid,
    }
}
