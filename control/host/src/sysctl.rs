// SPDX-License-Identifier: Apache-2.0
//! Kernel settings under `/proc/sys` (`man 5 proc`). Those under `net` are the calling thread's network namespace's.
//!
//! A key is a list of path segments, so that an interface with a dot in its name stays one segment.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where a container may have the host's `/proc/sys` to write to, as its own is read-only unless it is privileged. Those under `net` are of
/// the reader's network namespace there, too.
const WRITABLE: &str = "/host/proc/sys";

/// A setting: `Key::new(&["net", "ipv4", "conf", "eth0.5", "forwarding"])`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(PathBuf);

impl Key {
    /// The setting with these path segments below `/proc/sys`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a segment that is no file name.
    pub fn new(segments: &[&str]) -> Result<Self> {
        let mut path = PathBuf::from("/proc/sys");
        for segment in segments {
            if segment.is_empty()
                || *segment == "."
                || *segment == ".."
                || segment.contains(['/', '\0'])
            {
                return Err(Error::invalid(
                    "sysctl path segment",
                    *segment,
                    "must be a file name",
                ));
            }
            path.push(segment);
        }
        Ok(Key(path))
    }

    /// `net.ipv4.conf.INTERFACE.NAME`.
    ///
    /// # Errors
    /// As [`new`](Key::new).
    pub fn ipv4_conf(interface: &str, name: &str) -> Result<Self> {
        Key::new(&["net", "ipv4", "conf", interface, name])
    }

    /// `net.ipv6.conf.INTERFACE.NAME`.
    ///
    /// # Errors
    /// As [`new`](Key::new).
    pub fn ipv6_conf(interface: &str, name: &str) -> Result<Self> {
        Key::new(&["net", "ipv6", "conf", interface, name])
    }
}

impl Key {
    /// The file to write to.
    fn writable(&self) -> PathBuf {
        let below = self.0.strip_prefix("/proc/sys").unwrap_or(&self.0);
        let elsewhere = Path::new(WRITABLE).join(below);
        match elsewhere.exists() {
            true => elsewhere,
            false => self.0.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// What became of a setting, enough to put it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub key: Key,
    /// Its value before.
    pub before: String,
    /// Its value now.
    pub after: String,
}

impl Change {
    /// Puts the value from before back.
    ///
    /// # Errors
    /// As [`set`].
    pub fn restore(&self) -> Result<()> {
        set(&self.key, &self.before).map(drop)
    }
}

/// Reads a setting, without its trailing newline.
///
/// # Errors
/// [`Error::is_gone`] when the kernel has no such setting.
pub fn get(key: &Key) -> Result<String> {
    fs::read_to_string(&key.0)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| Error::io(format_args!("reading {key}"), source))
}

/// Sets a setting. A value that is there already is not written again, so a read-only `/proc/sys` does no harm then.
///
/// # Errors
/// [`Error::is_gone`] when the kernel has no such setting; EROFS where `/proc/sys` is mounted read-only; EINVAL for a
/// value the kernel does not take. The message names the file and the value.
pub fn set(key: &Key, value: &str) -> Result<Change> {
    let before = get(key)?;
    if before != value {
        let failed = |source: io::Error| {
            Error::io(
                format_args!("setting {key} to {value:?} (it is {before:?})"),
                source,
            )
        };
        let mut file = OpenOptions::new()
            .write(true)
            .open(key.writable())
            .map_err(failed)?;
        file.write_all(value.as_bytes()).map_err(failed)?;
    }
    Ok(Change {
        key: key.clone(),
        before,
        after: value.to_owned(),
    })
}

/// Like [`set`], with `None` when the kernel has no such setting.
///
/// # Errors
/// As [`set`] otherwise.
pub fn set_if_present(key: &Key, value: &str) -> Result<Option<Change>> {
    match set(key, value) {
        Ok(change) => Ok(Some(change)),
        Err(e) if e.is_gone() => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_stay_in_their_segment() {
        let key = Key::ipv4_conf("eth0.5", "forwarding").unwrap();
        assert_eq!(key.to_string(), "/proc/sys/net/ipv4/conf/eth0.5/forwarding");
    }

    #[test]
    fn segments_cannot_lead_elsewhere() {
        for bad in ["", ".", "..", "a/b", "../../self", "a\0"] {
            assert!(Key::ipv4_conf(bad, "forwarding").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn missing_settings_are_named() {
        let key = Key::ipv4_conf("ps-no-such-if", "forwarding").unwrap();
        assert_eq!(set_if_present(&key, "0").unwrap(), None);
        let error = set(&key, "0").unwrap_err();
        assert!(error.is_gone());
        assert!(
            error.to_string().contains("ps-no-such-if/forwarding"),
            "{error}"
        );
    }
}
