// SPDX-License-Identifier: Apache-2.0
//! What several integration tests need.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::Named;
use podswitch_host::{Link, Socket};

pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Longer than anything here takes on a busy machine; reaching it means "hung".
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Waits until a descriptor is readable; says whether it became so in this time.
pub fn readable(fd: &impl AsRawFd, within: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: H3: one whole pollfd, for the length of the call.
    let ready = unsafe { libc::poll(&mut poll, 1, within.as_millis() as libc::c_int) };
    assert!(ready >= 0, "{}", io::Error::last_os_error());
    ready > 0
}

/// A namespace that plays the node, one that plays a pod, and a veth between them: `host0` and `eth0`, both down.
pub struct Pair {
    pub node: Named,
    pub pod: Named,
    pub node_socket: Socket,
    pub pod_socket: Socket,
    pub host: Link,
    pub eth0: Link,
}

impl Pair {
    pub fn new(prefix: &str) -> Self {
        let (node, pod) = (
            Named::unique(prefix).unwrap(),
            Named::unique(prefix).unwrap(),
        );
        let (mut node_socket, mut pod_socket) = (node.socket().unwrap(), pod.socket().unwrap());
        let end = |name, mac| VethEnd {
            name,
            mac,
            mtu: 1500,
        };
        let veth =
            Veth::new(end("host0", HOST_MAC), end("eth0", POD_MAC)).peer_in(pod.netns().as_fd());
        let host = link::create_veth(&mut node_socket, &veth).unwrap();
        let eth0 = link::get(&mut pod_socket, "eth0").unwrap();
        Pair {
            node,
            pod,
            node_socket,
            pod_socket,
            host,
            eth0,
        }
    }

    pub fn up(&mut self) {
        link::set_up(&mut self.node_socket, &self.host, true).unwrap();
        link::set_up(&mut self.pod_socket, &self.eth0, true).unwrap();
    }
}

/// Every frame of one interface of the calling thread's namespace, both ways.
pub struct Capture(File);

impl Capture {
    pub fn open(interface: u32) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: H1: plain integers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: H5: the kernel made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: H3: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface as i32;
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: H3: one whole address and its size.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
        if bound < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Capture(fd.into()))
        }
    }

    /// The next frame, if one comes in this time.
    pub fn next(&mut self, within: Duration) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        while readable(&self.0, within) {
            match self.0.read(&mut frame) {
                Ok(length) => {
                    frame.truncate(length);
                    return Some(frame);
                }
                // Said once after binding to an interface that is down.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(e) => panic!("reading a captured frame: {e}"),
            }
        }
        None
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }
}
