// SPDX-License-Identifier: Apache-2.0
//! ICMP and ICMPv6 error messages: what is sent, about what, and about what never.

use std::net::IpAddr;

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32};

use super::checksum;
use super::eth::{EthernetHeader, MacAddr};
use super::icmp::{self, IcmpHeader};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::parse::{Fragment, Kind, Parsed};
use super::protocol;

/// Most bytes that [`write()`] needs: the largest IPv6 error and an Ethernet header with two tags.
pub const MAX_FRAME: usize = ipv6::MIN_MTU + 22;

/// Type of service of IPv4 errors: precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// What went wrong with a packet; each has its type and code in both versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// No route: network unreachable, or no route to destination.
    NoRoute,
    /// The last hop does not answer: host or address unreachable.
    HostUnreachable,
    /// Nobody listens at the port.
    PortUnreachable,
    /// Filtered: communication administratively prohibited.
    Prohibited,
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
    /// The way on takes packets of at most `mtu` bytes (RFC 1191 section 4, RFC 8201).
    TooBig {
        /// MTU of the next hop, bytes; IPv4 errors carry at most 65535.
        mtu: u32,
    },
    /// A header field is wrong.
    ParameterProblem {
        /// Code, by version.
        code: u8,
        /// Offset of the wrong byte in the packet; IPv4 errors carry at most 255.
        pointer: u32,
    },
}

impl IcmpError {
    fn v4(self) -> (u8, u8, [u8; 4]) {
        use icmp::v4::{self, unreachable};
        match self {
            IcmpError::NoRoute => (v4::UNREACHABLE, unreachable::NET, [0; 4]),
            IcmpError::HostUnreachable => (v4::UNREACHABLE, unreachable::HOST, [0; 4]),
            IcmpError::PortUnreachable => (v4::UNREACHABLE, unreachable::PORT, [0; 4]),
            IcmpError::Prohibited => (v4::UNREACHABLE, unreachable::PROHIBITED, [0; 4]),
            IcmpError::TimeExceeded => (v4::TIME_EXCEEDED, 0, [0; 4]),
            IcmpError::TooBig { mtu } => {
                let mtu = mtu.min(u16::MAX as u32) as u16;
                let [high, low] = mtu.to_be_bytes();
                (
                    v4::UNREACHABLE,
                    unreachable::FRAGMENTATION_NEEDED,
                    [0, 0, high, low],
                )
            }
            IcmpError::ParameterProblem { code, pointer } => (
                v4::PARAMETER_PROBLEM,
                code,
                [pointer.min(255) as u8, 0, 0, 0],
            ),
        }
    }

    fn v6(self) -> (u8, u8, [u8; 4]) {
        use icmp::v6::{self, unreachable};
        match self {
            IcmpError::NoRoute => (v6::UNREACHABLE, unreachable::NO_ROUTE, [0; 4]),
            IcmpError::HostUnreachable => (v6::UNREACHABLE, unreachable::ADDRESS, [0; 4]),
            IcmpError::PortUnreachable => (v6::UNREACHABLE, unreachable::PORT, [0; 4]),
            IcmpError::Prohibited => (v6::UNREACHABLE, unreachable::PROHIBITED, [0; 4]),
            IcmpError::TimeExceeded => (v6::TIME_EXCEEDED, 0, [0; 4]),
            IcmpError::TooBig { mtu } => (v6::PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
            IcmpError::ParameterProblem { code, pointer } => {
                (v6::PARAMETER_PROBLEM, code, pointer.to_be_bytes())
            }
        }
    }
}

/// Whether an error about this packet may be sent at all (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC
/// 4443 section 2.4 e).
///
/// Never about an ICMP error (or an unassigned ICMP type, or a redirect), a later fragment, a packet from an address
/// that is not a single host's, or one to a multicast or broadcast address of either layer. The one exception is
/// IPv6's packet too big, which path MTU discovery needs for multicast. Later IPv6 fragments are refused too: they
/// may be the rest of an error. Directed IPv4 broadcasts are the caller's to know.
pub fn is_answerable(frame: &[u8], parsed: &Parsed, error: IcmpError) -> bool {
    let Some(eth) = EthernetHeader::read(frame) else {
        return false;
    };
    if parsed.fragment == Fragment::Later {
        return false;
    }
    let packet = frame.get(parsed.l3 as usize..).unwrap_or_default();
    match parsed.kind {
        Kind::Ipv4 => {
            let Some(ip) = Ipv4Header::read(packet) else {
                return false;
            };
            let error_about_error =
                parsed.protocol == protocol::ICMP && !icmp::v4::is_informational(parsed.icmp_type);
            let single_host = !matches!(ip.src[0], 0 | 127 | 224..=255);
            let group = eth.dst.is_multicast()
                || ipv4::is_multicast(ip.dst)
                || ipv4::is_limited_broadcast(ip.dst);
            single_host && !group && !error_about_error
        }
        Kind::Ipv6 => {
            let Some(ip) = Ipv6Header::read(packet) else {
                return false;
            };
            let error_about_error = parsed.protocol == protocol::ICMPV6
                && (!icmp::v6::is_informational(parsed.icmp_type)
                    || parsed.icmp_type == icmp::v6::REDIRECT);
            let single_host = !ipv6::is_multicast(&ip.src) && !ipv6::is_unspecified(&ip.src);
            let group = eth.dst.is_multicast() || ipv6::is_multicast(&ip.dst);
            let group_allowed = matches!(error, IcmpError::TooBig { .. });
            single_host && (!group || group_allowed) && !error_about_error
        }
        Kind::Arp | Kind::Other => false,
    }
}

/// Writes the frame that tells the sender of `frame` (its first segment) about `error`, from `mac` and `source`, into
/// `out`, tagged as the offending frame was; returns its length.
///
/// The message quotes as much of the packet as fits 576 bytes (IPv4, RFC 1812 section 4.3.2.3) or 1280 (IPv6, RFC 4443
/// section 2.4 c) and the first segment holds. `None`, with `out` untouched, when [`is_answerable`] says no, `source` is
/// of the other version, or `out` is too small; [`MAX_FRAME`] bytes always do.
pub fn write(
    frame: &[u8],
    parsed: &Parsed,
    error: IcmpError,
    mac: MacAddr,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    if !is_answerable(frame, parsed, error) {
        return None;
    }
    let l3 = parsed.l3 as usize;
    let end = (parsed.frame_len() as usize).min(frame.len());
    let quoted = frame.get(l3..end)?;
    let (ip_len, limit) = match source {
        IpAddr::V4(_) => (ipv4::HEADER_LEN, ipv4::MIN_REASSEMBLY),
        IpAddr::V6(_) => (ipv6::HEADER_LEN, ipv6::MIN_MTU),
    };
    let quoted = &quoted[..quoted.len().min(limit - ip_len - icmp::HEADER_LEN)];
    let message_len = icmp::HEADER_LEN + quoted.len();
    let out = out.get_mut(..l3 + ip_len + message_len)?;
    let (link, packet) = out.split_at_mut(l3);
    let (network, message) = packet.split_at_mut(ip_len);

    let pseudo = match (source, parsed.kind) {
        (IpAddr::V4(source), Kind::Ipv4) => {
            write_ipv4(
                network,
                source.octets(),
                Ipv4Header::read(quoted)?.src,
                message_len,
            );
            0
        }
        (IpAddr::V6(source), Kind::Ipv6) => {
            let dst = Ipv6Header::read(quoted)?.src;
            write_ipv6(network, source.octets(), dst, message_len);
            checksum::pseudo_v6(&source.octets(), &dst, protocol::ICMPV6, message_len as u32)
        }
        _ => return None,
    };
    link.copy_from_slice(frame.get(..l3)?);
    if let Some(eth) = EthernetHeader::read_mut(link) {
        eth.dst = eth.src;
        eth.src = mac;
    }
    let (kind, code, rest) = if source.is_ipv4() {
        error.v4()
    } else {
        error.v6()
    };
    let (head, body) = message.split_at_mut(icmp::HEADER_LEN);
    body.copy_from_slice(quoted);
    let mut header = IcmpHeader {
        kind,
        code,
        checksum: U16::ZERO,
        rest,
    };
    let mut sum = checksum::Sum::new(pseudo);
    sum.push(header.as_bytes());
    sum.push(body);
    header.checksum.set(sum.checksum());
    head.copy_from_slice(header.as_bytes());
    Some(out.len())
}

/// An IPv4 header without options, not to be fragmented (so its identification may be 0, RFC 6864 section 4.1).
fn write_ipv4(out: &mut [u8], src: [u8; 4], dst: [u8; 4], payload_len: usize) {
    let header = Ipv4Header {
        version_ihl: 0x45,
        tos: TOS,
        total_length: U16::new((ipv4::HEADER_LEN + payload_len) as u16),
        id: U16::ZERO,
        flags_fragment: U16::new(ipv4::flags::DF),
        ttl: icmp::TTL,
        protocol: protocol::ICMP,
        checksum: U16::ZERO,
        src,
        dst,
    };
    out.copy_from_slice(header.as_bytes());
    ipv4::fill_checksum(out);
}

fn write_ipv6(out: &mut [u8], src: [u8; 16], dst: [u8; 16], payload_len: usize) {
    let header = Ipv6Header {
        version_class_label: U32::new(6 << 28),
        payload_length: U16::new(payload_len as u16),
        next_header: protocol::ICMPV6,
        hop_limit: icmp::TTL,
        src,
        dst,
    };
    out.copy_from_slice(header.as_bytes());
}
