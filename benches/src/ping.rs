// SPDX-License-Identifier: Apache-2.0
//! Echo requests (RFC 792, RFC 4443 section 4) from the calling thread's namespace.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use podswitch_tests::frames::internet_checksum;

/// Time between requests.
const EVERY_MS: i64 = 1;
/// `eb` in ASCII: marks our requests.
const IDENTIFIER: [u8; 2] = *b"eb";

/// A raw ICMP or ICMPv6 socket.
#[derive(Debug)]
pub struct Ping {
    fd: OwnedFd,
    v6: bool,
}

impl Ping {
    /// In the calling thread's namespace.
    ///
    /// # Panics
    /// When the kernel gives none, which mostly means: not root.
    pub fn open(v6: bool) -> Ping {
        let (family, protocol) = match v6 {
            false => (AddressFamily::Inet, SockProtocol::Icmp),
            true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        let fd = fd.expect("a raw socket (needs root)");
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(EVERY_MS),
        )
        .expect("a receive timeout");
        Ping { fd, v6 }
    }

    /// Sends requests until one is answered.
    ///
    /// # Panics
    /// When none is within `limit`.
    pub fn first_answer(&self, to: IpAddr, limit: Duration) {
        let end = Instant::now() + limit;
        let mut sequence = 0;
        while Instant::now() < end {
            self.request(to, sequence);
            sequence = sequence.wrapping_add(1);
            if self.answered() {
                return;
            }
        }
        panic!("{to} answers no ping within {limit:?}");
    }

    fn request(&self, to: IpAddr, sequence: u16) {
        let [high, low] = sequence.to_be_bytes();
        let kind = if self.v6 { 128 } else { 8 };
        let mut message = [kind, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], high, low];
        if !self.v6 {
            // For ICMPv6 the kernel does it.
            let sum = internet_checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let fd = self.fd.as_raw_fd();
        // There may be no route yet; the next request comes soon.
        let _ = match to {
            IpAddr::V4(to) => sendto(
                fd,
                &message,
                &SockaddrIn::from(std::net::SocketAddrV4::new(to, 0)),
                MsgFlags::empty(),
            ),
            IpAddr::V6(to) => sendto(
                fd,
                &message,
                &SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0)),
                MsgFlags::empty(),
            ),
        };
    }

    /// Whether an echo reply to us comes before the timeout.
    fn answered(&self) -> bool {
        let mut bytes = [0; 256];
        while let Ok(length) = recv(self.fd.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            // A raw IPv4 socket gives the IP header too.
            let header = if self.v6 {
                0
            } else {
                usize::from(bytes[0] & 0xf) * 4
            };
            let message = bytes.get(header..length).unwrap_or_default();
            let kind = if self.v6 { 129 } else { 0 };
            if message.first() == Some(&kind) && message.get(4..6) == Some(&IDENTIFIER) {
                return true;
            }
        }
        false
    }
}
