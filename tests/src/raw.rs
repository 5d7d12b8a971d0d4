// SPDX-License-Identifier: Apache-2.0
//! Raw frames in and out of a device (packet(7)), for what an ordinary socket would not send.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    socket,
};

use crate::netns::Netns;
use crate::wait::poll;

/// What the kernel says of a frame that leaves (packet(7)).
const PACKET_OUTGOING: u8 = 4;
/// Largest frame: a jumbo packet of 65535 bytes and its Ethernet header with tags.
const LARGEST: usize = 65_535 + 64;

/// An AF_PACKET socket bound to one device of a namespace.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
}

impl RawSocket {
    /// Opens it; it sees every frame that the device receives from now on. What leaves by the device is passed over.
    ///
    /// # Panics
    /// If there is no such device.
    #[track_caller]
    pub fn open(netns: &Netns, device: &str) -> RawSocket {
        netns.run(|| {
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            );
            let fd = fd.expect("a raw socket needs root");
            let address = link_address(device)
                .unwrap_or_else(|| panic!("no device {device} in the namespace"));
            bind(fd.as_raw_fd(), &address).expect("bind a raw socket");
            RawSocket { fd }
        })
    }

    /// Sends a frame as it is, from its Ethernet header on.
    ///
    /// # Panics
    /// If the kernel refuses it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        if let Err(error) = self.try_send(frame) {
            panic!("sending {} bytes: {error}", frame.len());
        }
    }

    /// Sends a frame as it is; the kernel refuses those below 14 bytes and those above the MTU.
    pub fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN | Errno::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next frame seen, if there is one.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; LARGEST];
        loop {
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => {}
                Ok((length, _)) => {
                    buffer.truncate(length);
                    return Some(buffer);
                }
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return None,
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }

    /// The first frame within `deadline` that `wanted` takes; the others are passed over.
    pub fn receive(&self, deadline: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        poll(deadline, || {
            while let Some(frame) = self.try_receive() {
                if wanted(&frame) {
                    return Some(frame);
                }
            }
            None
        })
    }

    /// Forgets what has been seen up to now.
    pub fn clear(&self) {
        while self.try_receive().is_some() {}
    }
}

/// The packet-socket address of a device of the current namespace.
fn link_address(device: &str) -> Option<LinkAddr> {
    let all = nix::ifaddrs::getifaddrs().expect("getifaddrs");
    let mut ours = all.filter(|a| a.interface_name == device);
    ours.find_map(|a| a.address.as_ref().and_then(|s| s.as_link_addr().copied()))
}
