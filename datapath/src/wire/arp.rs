// SPDX-License-Identifier: Apache-2.0
//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::eth::{EthernetHeader, MacAddr, ethertype};

/// Length of the packet, bytes.
pub const PACKET_LEN: usize = 28;

/// Operation codes.
pub mod op {
    /// Who has the target address?
    pub const REQUEST: u16 = 1;
    /// The sender has its address.
    pub const REPLY: u16 = 2;
}

/// The packet for hardware type Ethernet and protocol type IPv4.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    /// 1: Ethernet.
    pub hardware: U16,
    /// EtherType of the protocol, IPv4.
    pub protocol: U16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// See [`op`].
    pub operation: U16,
    /// Sender's MAC address.
    pub sender_mac: MacAddr,
    /// Sender's IPv4 address.
    pub sender_ip: [u8; 4],
    /// Target's MAC address, anything in a request.
    pub target_mac: MacAddr,
    /// Target's IPv4 address.
    pub target_ip: [u8; 4],
}

impl ArpPacket {
    /// The packet at the start of `data` (a frame from its L3 offset on), if it is whole and maps IPv4 to Ethernet.
    /// The operation is not judged.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        let (p, _) = Self::ref_from_prefix(data).ok()?;
        let expected = p.hardware.get() == 1
            && p.protocol.get() == ethertype::IPV4
            && p.hardware_len == 6
            && p.protocol_len == 4;
        expected.then_some(p)
    }

    /// Asks who has the target address.
    #[inline]
    pub fn is_request(&self) -> bool {
        self.operation.get() == op::REQUEST
    }

    /// A request without a sender address: is the target address free? (RFC 5227 section 2.1.1)
    /// Answering one for a pod's own address would deny the pod its address.
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.is_request() && self.sender_ip == [0; 4]
    }

    /// Sender and target address are equal: an announcement, nothing to answer (RFC 5227 section 2.3).
    #[inline]
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

/// Turns the request in `frame` (L3 offset `l3`) into the reply "`target_ip` is at `mac`", addressed to the asker.
/// The frame keeps its tags and its length. False, with the frame untouched, when there is no request there.
pub fn reply_in_place(frame: &mut [u8], l3: usize, mac: MacAddr) -> bool {
    let request = match frame.get(l3..).and_then(ArpPacket::read) {
        Some(p) if p.is_request() && l3 >= super::eth::HEADER_LEN => *p,
        _ => return false,
    };
    let reply = ArpPacket {
        operation: U16::new(op::REPLY),
        sender_mac: mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
        ..request
    };
    if let Some(eth) = EthernetHeader::read_mut(frame) {
        eth.dst = eth.src;
        eth.src = mac;
    }
    if let Some(out) = super::array_at_mut::<PACKET_LEN>(frame, l3) {
        *out = zerocopy::transmute!(reply);
    }
    true
}
