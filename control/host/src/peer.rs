// SPDX-License-Identifier: Apache-2.0
//! Who is at the other end of a unix socket.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::sys;

/// Supplementary groups of the process that connected (`SO_PEERGROUPS`, net/core/sock.c), as they were then.
///
/// # Errors
/// [`Error::Io`] when the socket is not a connected unix socket.
pub fn groups(socket: impl AsFd) -> Result<Vec<u32>> {
    sys::peer_groups(socket.as_fd())
        .map_err(|source| Error::io("reading the groups of a peer", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_our_own_socket_are_ours() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Groups:"))
            .unwrap();
        let mut ours: Vec<u32> = line
            .split_whitespace()
            .map(|g| g.parse().unwrap())
            .collect();
        let mut read = groups(&a).unwrap();
        ours.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, ours);
        assert!(groups(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
