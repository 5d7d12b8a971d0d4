// SPDX-License-Identifier: Apache-2.0
//! What can go wrong, and about which interface, namespace, address or file.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use crate::xdp::Mode;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, naming what it happened to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request made over netlink.
    #[error("{what}: {}{}", io::Error::from_raw_os_error(*errno), Said(message))]
    Netlink {
        /// What was asked of the kernel, with the names in it.
        what: String,
        /// The errno, positive.
        errno: i32,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`), when it gave one.
        message: Option<String>,
    },
    /// A system call or a file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the names in it.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The kernel's answer was not of the documented shape.
    #[error("{what}: the kernel's answer cannot be read: {why}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A name, address or other argument cannot be right; nothing was asked of the kernel.
    #[error("{what} {value:?}: {why}")]
    Invalid {
        /// What kind of value it is: "interface name", "prefix length", ...
        what: &'static str,
        /// The value.
        value: String,
        /// Why it cannot be right.
        why: String,
    },
    /// The file at this path exists and is not a network namespace.
    #[error("{path}: not a network namespace: {why}")]
    NotNetns {
        /// The path that was opened.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// The network namespace is gone.
    #[error("network namespace {path} does not exist (any more)")]
    NetnsGone {
        /// The path that was opened.
        path: PathBuf,
    },
    /// The XDP program there is not ours and is left alone.
    #[error(
        "{link}: XDP program {program} is attached in {mode} mode and is not podswitch's; it is left alone: detach it first if podswitch is to use this interface"
    )]
    ForeignXdp {
        /// The interface.
        link: String,
        /// Name and id of the program found.
        program: String,
        /// The mode it is attached in.
        mode: Mode,
    },
    /// The XDP program is attached in another mode than the one named.
    #[error(
        "{link}: the XDP program is attached in {attached} mode, not in {asked} mode; name the mode it was attached in"
    )]
    XdpMode {
        /// The interface.
        link: String,
        /// The mode the kernel reports.
        attached: Mode,
        /// The mode that was asked for.
        asked: Mode,
    },
}

/// The kernel's explanation in brackets, or nothing.
struct Said<'a>(&'a Option<String>);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

impl Error {
    pub(crate) fn io(what: impl Display, source: io::Error) -> Self {
        Error::Io {
            what: what.to_string(),
            source,
        }
    }

    pub(crate) fn answer(what: impl Display, why: impl Into<String>) -> Self {
        Error::Answer {
            what: what.to_string(),
            why: why.into(),
        }
    }

    pub(crate) fn invalid(
        what: &'static str,
        value: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Error::Invalid {
            what,
            value: value.into(),
            why: why.into(),
        }
    }

    /// The errno behind the failure, positive, if the operating system gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Netlink { errno, .. } => Some(*errno),
            Error::Io { source, .. } => source.raw_os_error(),
            Error::NetnsGone { .. } => Some(libc::ENOENT),
            _ => None,
        }
    }

    /// True when the thing asked about does not exist: interface, address, route, filter, file, namespace, process.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::ENXIO | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }

    /// True when the thing to be made exists already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// True when the kernel cannot do this at all: the feature is not built in or the device lacks it.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EAFNOSUPPORT)
        )
    }
}
