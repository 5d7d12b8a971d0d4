// SPDX-License-Identifier: Apache-2.0
//! What can go wrong when an AF_XDP port is made or taken over; each error says what to do next.
#![forbid(unsafe_code)]

use std::io;

/// Why a port, its memory or its program could not be set up. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// A system call on a socket or a mapping failed.
    #[error("{call} for {what}: {source}{}", advice(call, source))]
    Call {
        /// The system call or socket option.
        call: &'static str,
        /// What it was for: an interface and queue, an arena.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A steering program could not be loaded or read.
    #[error("steering program {name}: {reason}{}", program_advice(reason))]
    Program {
        /// The program or its id.
        name: String,
        /// What the loader or the kernel said.
        reason: String,
    },
    /// What a predecessor left does not fit what was said about it.
    #[error("cannot take over {what}: {reason}; start it afresh")]
    Adopt {
        /// The socket or arena.
        what: String,
        /// The difference found.
        reason: String,
    },
}

impl XdpError {
    /// The failing call, with the error that the kernel just left in `errno`.
    pub(crate) fn last(call: &'static str, what: impl std::fmt::Display) -> XdpError {
        XdpError::call(call, what, io::Error::last_os_error())
    }

    pub(crate) fn call(
        call: &'static str,
        what: impl std::fmt::Display,
        source: io::Error,
    ) -> XdpError {
        XdpError::Call {
            call,
            what: what.to_string(),
            source,
        }
    }

    /// The kernel's error number, when a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            XdpError::Call { source, .. } => source.raw_os_error(),
            XdpError::Program { .. } | XdpError::Adopt { .. } => None,
        }
    }
}

fn advice(call: &str, error: &io::Error) -> &'static str {
    match (call, error.raw_os_error()) {
        ("socket(AF_XDP)", Some(libc::EAFNOSUPPORT)) => {
            "; the kernel needs CONFIG_XDP_SOCKETS (6.1 or later)"
        }
        (_, Some(libc::EPERM)) => "; run as root or grant CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        ("XDP_UMEM_REG", Some(libc::ENOBUFS)) => {
            "; the memory may not be pinned: grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK"
        }
        ("bind(AF_XDP)", Some(libc::EBUSY)) => {
            "; another AF_XDP socket has this queue: stop the program that holds it (see `ss --xdp`)"
        }
        ("bind(AF_XDP)", Some(libc::ENODEV)) => "; the interface is gone",
        ("bind(AF_XDP)", Some(libc::EINVAL)) => "; the interface has no such queue",
        (_, Some(libc::ENOMEM)) => "; the node is out of memory: use fewer or smaller arenas",
        (_, Some(libc::EMFILE)) => "; raise the limit of open files (RLIMIT_NOFILE)",
        _ => "",
    }
}

fn program_advice(reason: &str) -> &'static str {
    if reason.contains("Operation not permitted") || reason.contains("os error 1)") {
        "; run as root or grant CAP_BPF and CAP_NET_ADMIN"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_the_thing_and_the_remedy() {
        let e = XdpError::call(
            "bind(AF_XDP)",
            "interface 7 queue 0",
            io::Error::from_raw_os_error(libc::EBUSY),
        );
        let text = e.to_string();
        assert!(text.starts_with("bind(AF_XDP) for interface 7 queue 0: "));
        assert!(text.contains("another AF_XDP socket has this queue"));
        assert_eq!(e.errno(), Some(libc::EBUSY));
    }
}
