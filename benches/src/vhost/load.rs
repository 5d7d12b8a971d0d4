// SPDX-License-Identifier: Apache-2.0
//! What the first machine sends to the second.

use std::net::IpAddr;

use podswitch_datapath::port::vhost::feature;
use podswitch_tests::frames::Ends;

use crate::traffic::{self, Family, SERVICE};

/// Where the ports are in a datagram or segment over IPv4: the source, then the destination.
pub(super) const PORTS: usize = 34;
/// Where a frame's payload begins that has room for a time.
pub(super) const STAMP: usize = 44;
/// Bytes of a datagram's headers, and of a TCP segment's.
const UDP: usize = 42;
const TCP: usize = 54;
/// Where the checksum of each is, from its header on.
const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;
/// TCP segments of a superframe, and the bytes of each.
const SEGMENTS: usize = 45;
const SEGMENT: u16 = 1448;
/// Flags and kinds of the header in front of a packet (virtio 1.2 section 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
const TCP_OVER_V4: u8 = 1;
/// Buffers to receive by.
pub(super) const SIZE: u16 = 1024;
/// Most destination ports; every queue is a multiple of it long.
pub(super) const DESTINATIONS: u16 = 64;
/// Bytes of the header in front of a packet.
pub(super) const HEADER: usize = 12;

/// A frame, and the flows in whose name it is sent.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// It, without ports.
    pub(super) frame: Vec<u8>,
    /// What the second machine answers, short and without ports.
    pub(super) answer: Vec<u8>,
    /// What is in front of it.
    pub(super) header: [u8; HEADER],
    /// Ports that it comes from and goes to. They have no common divisor, so that all flows come by when both go round.
    pub(super) sources: u16,
    /// See there.
    pub(super) destinations: u16,
    /// Bytes of a buffer to receive by.
    pub(super) buffer: usize,
    /// Most packets that are on their way, as a TCP sender sends no more than the receiver has room for.
    pub(super) window: u64,
    /// Features of virtio that are agreed on.
    pub(super) features: u64,
}

impl Load {
    /// Datagrams of a length.
    pub(super) fn datagrams(length: usize, flows: u32) -> Load {
        let frame = datagram(&ends(), length);
        let buffer = 2048;
        let features = feature::VERSION_1 | feature::MRG_RXBUF;
        Load::new(frame, [0; HEADER], flows, buffer, features)
    }

    /// TCP superframes of 64 KiB, to be cut by whoever cannot take them whole.
    pub(super) fn superframes(flows: u32) -> Load {
        let mut segment = vec![0; 20];
        segment[2..4].copy_from_slice(&SERVICE.to_be_bytes());
        // Sequence numbers, the length of the header in words, ACK, a window.
        segment[4..12].fill(1);
        (segment[12], segment[13]) = (5 << 4, 0x10);
        segment[14..16].fill(0xff);
        segment.resize(20 + SEGMENTS * usize::from(SEGMENT), 0x5a);
        let sum = pseudo_sum(&ends(), segment.len() as u32);
        segment[TCP_CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
        let frame = ends().packet(6, &segment);
        let mut header = [0; HEADER];
        (header[0], header[1]) = (NEEDS_CHECKSUM, TCP_OVER_V4);
        let numbers = [TCP as u16, SEGMENT, PORTS as u16, TCP_CHECKSUM as u16];
        for (at, number) in numbers.into_iter().enumerate() {
            header[2 + 2 * at..][..2].copy_from_slice(&number.to_le_bytes());
        }
        let features = feature::VERSION_1
            | feature::MRG_RXBUF
            | feature::CSUM
            | feature::GUEST_CSUM
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6;
        Load::new(frame, header, flows, 4096, features)
    }

    fn new(frame: Vec<u8>, header: [u8; HEADER], flows: u32, buffer: usize, features: u64) -> Load {
        let destinations = (1 << flows.trailing_zeros()).min(u32::from(DESTINATIONS));
        let sources = flows / destinations;
        assert!(sources % 2 == 1 && sources < 60_000, "{flows} flows");
        let window = match header[1] {
            0 => u64::MAX,
            _ => (usize::from(SIZE) / (HEADER + frame.len()).div_ceil(buffer)) as u64,
        };
        Load {
            frame,
            answer: datagram(&traffic::ends(1, 0, Family::V4), traffic::FRAME),
            header,
            sources: sources as u16,
            destinations: destinations as u16,
            buffer,
            window,
            features,
        }
    }

    /// How many flows there are.
    pub(super) fn flows(&self) -> u32 {
        u32::from(self.sources) * u32::from(self.destinations)
    }

    /// They are superframes.
    pub(super) fn is_whole(&self) -> bool {
        self.header[1] != 0
    }

    /// Sees to it that a packet is one of those that were sent: a router gives it other MAC addresses and one hop less.
    ///
    /// # Panics
    /// When it is not.
    pub(super) fn check(&self, header: &[u8], frame: &[u8], routed: bool) {
        let payload = if self.is_whole() { TCP } else { UDP };
        // A time may be in its place.
        let payload = payload.max(STAMP + 8);
        assert!(frame[payload..] == self.frame[payload..], "another payload");
        assert_eq!(frame[26..34], self.frame[26..34], "other addresses");
        // Whoever forwards may have its own idea of how long segments are to be.
        assert_eq!(header[..4], self.header[..4], "a header of another kind");
        let (mac, hops) = match routed {
            true => (traffic::mac(1).0, self.frame[22] - 1),
            false => (traffic::GATEWAY_MAC.0, self.frame[22]),
        };
        assert_eq!((&frame[..6], frame[22]), (&mac[..], hops));
    }
}

/// From the first machine to the second.
fn ends() -> Ends {
    traffic::ends(0, 1, Family::V4)
}

/// A datagram that has no checksum: its ports change.
fn datagram(ends: &Ends, length: usize) -> Vec<u8> {
    let mut frame = ends.udp((0, SERVICE), 64, &vec![0x5a; length - UDP]);
    frame[PORTS + UDP_CHECKSUM..][..2].fill(0);
    frame
}

/// The sum of a TCP segment's pseudo header, which is in the place of its checksum until that is finished.
fn pseudo_sum(ends: &Ends, length: u32) -> u16 {
    let words = |address: IpAddr| match address {
        IpAddr::V4(v4) => [v4.to_bits() >> 16, v4.to_bits() & 0xffff],
        IpAddr::V6(_) => panic!("of IPv4 alone"),
    };
    let all = [words(ends.from), words(ends.to), [6, length]].concat();
    let sum: u32 = all.into_iter().sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + sum) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_flows_come_by() {
        for (flows, sources) in [(10_000, 625), (1_000_000, 15_625)] {
            let load = Load::datagrams(60, flows);
            assert_eq!((load.flows(), load.sources), (flows, sources));
            let pairs = (0..flows).map(|n| {
                (
                    n % u32::from(load.sources),
                    n % u32::from(load.destinations),
                )
            });
            assert_eq!(pairs.collect::<HashSet<_>>().len() as u32, flows);
        }
    }

    #[test]
    fn frames_have_their_lengths() {
        assert_eq!(Load::datagrams(60, 10_000).frame.len(), 60);
        assert_eq!(Load::datagrams(1514, 10_000).frame.len(), 1514);
        let load = Load::superframes(10_000);
        assert_eq!((load.frame.len(), load.window), (65_214, 64));
        assert_eq!(load.header, [1, 1, 54, 0, 168, 5, 34, 0, 16, 0, 0, 0]);
    }
}
