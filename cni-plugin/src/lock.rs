// SPDX-License-Identifier: Apache-2.0
//! A lock between plugins that run at the same time. It is a file, as nothing else of a plugin outlives it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How often the file is opened anew before that counts as a failure. `podswitchctl teardown` removes it once.
const ATTEMPTS: u32 = 100;

/// Held until dropped; the kernel lets go when the process ends.
#[derive(Debug)]
pub(crate) struct Lock(
    #[expect(dead_code, reason = "the lock lives as long as the open file")] File,
);

impl Lock {
    /// Waits until nobody else holds it. The file and its folder are made when they are missing.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn take(path: &Path) -> io::Result<Lock> {
        let mut gone = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true);
            let file = match options.open(path) {
                // The folder was removed just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    gone = e;
                    continue;
                }
                opened => opened?,
            };
            file.lock()?;
            // Whoever had it may have removed the file: then this is a lock on nothing.
            if is_at(&file, path)? {
                return Ok(Lock(file));
            }
        }
        Err(gone)
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Two that each hold "the" lock would be one too many.
    #[test]
    fn a_lock_removed_while_somebody_waits_for_it_is_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let first = Lock::take(&path).unwrap();
        let waiting = {
            let path = path.clone();
            thread::spawn(move || Lock::take(&path).unwrap())
        };
        // Until it waits on the file that is going to be removed (proc_locks(5)).
        let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
        let waits = |line: &str| line.contains("->") && line.contains(&inode);
        let locks = || fs::read_to_string("/proc/locks").unwrap();
        while !locks().lines().any(waits) {
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        drop(first);
        let second = waiting.join().unwrap();
        let (send, receive) = mpsc::channel();
        let third = thread::spawn(move || send.send(Lock::take(&path).unwrap()).unwrap());
        let early = receive.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "both hold it");
        drop(second);
        third.join().unwrap();
        receive.recv().unwrap();
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        Lock::take(&dir.path().join("file/lock")).unwrap_err();
        let dangling = dir.path().join("lock");
        std::os::unix::fs::symlink("no/such/folder", &dangling).unwrap();
        let error = Lock::take(&dangling).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
