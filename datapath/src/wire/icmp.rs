// SPDX-License-Identifier: Apache-2.0
//! ICMP (RFC 792) and ICMPv6 (RFC 4443): types, codes, and the echo reply.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum;
use super::eth::EthernetHeader;
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::parse::{Fragment, Kind, Parsed};
use super::protocol;

/// Length of the header that every message of both versions has, bytes.
pub const HEADER_LEN: usize = 8;
/// TTL and hop limit of what the switch sends by itself.
pub const TTL: u8 = 64;

/// Direction of a query message, one that carries an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// Echo or timestamp request.
    Request,
    /// Echo or timestamp reply.
    Reply,
}

/// ICMP types and codes (IANA "ICMP Type Numbers").
pub mod v4 {
    use super::Query;

    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp request.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;

    /// Codes of [`UNREACHABLE`].
    pub mod unreachable {
        /// No route to the network.
        pub const NET: u8 = 0;
        /// The host does not answer.
        pub const HOST: u8 = 1;
        /// Nobody listens at the port.
        pub const PORT: u8 = 3;
        /// Too big, and must not be fragmented.
        pub const FRAGMENTATION_NEEDED: u8 = 4;
        /// Administratively prohibited (RFC 1812 section 5.2.7.1).
        pub const PROHIBITED: u8 = 13;
    }

    /// The direction of a query message; `None` for other types.
    #[inline]
    pub fn query(kind: u8) -> Option<Query> {
        match kind {
            ECHO | TIMESTAMP => Some(Query::Request),
            ECHO_REPLY | TIMESTAMP_REPLY => Some(Query::Reply),
            _ => None,
        }
    }

    /// Whether a message of this type is known to be no error. Types nobody assigned count as errors, so that
    /// none is ever answered with one.
    #[inline]
    pub fn is_informational(kind: u8) -> bool {
        matches!(kind, ECHO_REPLY | ECHO | 9 | 10 | TIMESTAMP..=18 | 42 | 43)
    }
}

/// ICMPv6 types and codes (IANA "ICMPv6 type Numbers").
pub mod v6 {
    use super::Query;

    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement (RFC 4861).
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbor solicitation (RFC 4861).
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Neighbor advertisement (RFC 4861).
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// Redirect (RFC 4861).
    pub const REDIRECT: u8 = 137;

    /// Codes of [`UNREACHABLE`].
    pub mod unreachable {
        /// No route to the destination.
        pub const NO_ROUTE: u8 = 0;
        /// Administratively prohibited.
        pub const PROHIBITED: u8 = 1;
        /// The address does not answer.
        pub const ADDRESS: u8 = 3;
        /// Nobody listens at the port.
        pub const PORT: u8 = 4;
    }

    /// The direction of a query message; `None` for other types.
    #[inline]
    pub fn query(kind: u8) -> Option<Query> {
        match kind {
            ECHO => Some(Query::Request),
            ECHO_REPLY => Some(Query::Reply),
            _ => None,
        }
    }

    /// Whether the message is no error; redirects are not errors, but are never answered with one either
    /// (RFC 4443 section 2.4 e).
    #[inline]
    pub fn is_informational(kind: u8) -> bool {
        kind >= 128
    }
}

/// The header of every message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; ICMPv6's covers the pseudo-header too.
    pub checksum: U16,
    /// Identifier and sequence number, MTU, pointer or nothing, by type.
    pub rest: [u8; 4],
}

impl IcmpHeader {
    /// The header at the start of `data`, if 8 bytes are there.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if 8 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }
}

/// Whether the packet is an echo request, of either version, that [`echo_reply_in_place`] can answer.
#[inline]
pub fn is_echo_request(parsed: &Parsed) -> bool {
    parsed.icmp_code == 0
        && parsed.fragment == Fragment::NotFragment
        && match parsed.kind {
            Kind::Ipv4 => parsed.protocol == protocol::ICMP && parsed.icmp_type == v4::ECHO,
            Kind::Ipv6 => parsed.protocol == protocol::ICMPV6 && parsed.icmp_type == v6::ECHO,
            Kind::Arp | Kind::Other => false,
        }
}

/// Turns the echo request in `frame` (first segment; later ones need no change) into its reply: MAC and IP
/// addresses swapped, TTL or hop limit [`TTL`], type changed, checksums updated (RFC 1624). A wrong ICMP
/// checksum stays as wrong as it was, so the asker sees what the network did.
///
/// False, with the frame untouched, for anything but a whole echo request between unicast addresses, and for an
/// IPv6 request with extension headers.
pub fn echo_reply_in_place(frame: &mut [u8], parsed: &Parsed) -> bool {
    let (l3, l4) = (parsed.l3 as usize, parsed.l4 as usize);
    if !is_echo_request(parsed) || frame.len() < l4 + HEADER_LEN || l4 < l3 {
        return false;
    }
    let (link, packet) = frame.split_at_mut(l3);
    let (network, message) = packet.split_at_mut(l4 - l3);
    let Some(eth) = EthernetHeader::read_mut(link) else {
        return false;
    };
    if !eth.dst.is_unicast() {
        return false;
    }
    let reply = match parsed.kind {
        Kind::Ipv4 => {
            let Some(ip) = Ipv4Header::read_mut(network) else {
                return false;
            };
            if ipv4::is_multicast(ip.dst) || ipv4::is_limited_broadcast(ip.dst) || ip.src == [0; 4]
            {
                return false;
            }
            (ip.src, ip.dst) = (ip.dst, ip.src);
            ip.set_ttl(TTL);
            v4::ECHO_REPLY
        }
        _ => {
            let Some(ip) = Ipv6Header::read_mut(network) else {
                return false;
            };
            let extended = l4 - l3 != ipv6::HEADER_LEN;
            if extended || ipv6::is_multicast(&ip.dst) || ipv6::is_unspecified(&ip.src) {
                return false;
            }
            (ip.src, ip.dst) = (ip.dst, ip.src);
            ip.hop_limit = TTL;
            v6::ECHO_REPLY
        }
    };
    (eth.src, eth.dst) = (eth.dst, eth.src);
    if let Some(icmp) = IcmpHeader::read_mut(message) {
        let old = u16::from_be_bytes([icmp.kind, icmp.code]);
        let new = u16::from_be_bytes([reply, icmp.code]);
        icmp.checksum
            .set(checksum::update(icmp.checksum.get(), old, new));
        icmp.kind = reply;
    }
    true
}
