// SPDX-License-Identifier: Apache-2.0
//! The way for any frame: one check after the other, each with its reason.

use super::{Fragment, Kind, Parsed, Part, parse_link};
use crate::ids::VrfId;
use crate::verdict::Reason;
use crate::wire::eth::ethertype;
use crate::wire::flow_key::{FlowKey, map_v4};
use crate::wire::icmp::{self, Query};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{array_at, protocol, sctp, tcp, udp};

/// [`parse_into`](super::parse_into) for any frame.
#[cold]
#[inline(never)]
pub(crate) fn parse_any(
    frame: &[u8],
    total_len: u32,
    vlan_allowed: bool,
    out: &mut Parsed,
) -> Result<(), Reason> {
    let link = parse_link(frame, vlan_allowed)?;
    let mut parsed = Parsed {
        l3_len: total_len.saturating_sub(link.l3 as u32),
        ethertype: link.ethertype,
        vlan: link.vlan,
        l3: link.l3,
        l4: link.l3,
        ..Parsed::default()
    };
    match link.ethertype {
        ethertype::IPV4 => parse_ipv4(frame, &mut parsed)?,
        ethertype::IPV6 => parse_ipv6(frame, &mut parsed)?,
        ethertype::ARP => parsed.kind = Kind::Arp,
        _ => {}
    }
    *out = parsed;
    Ok(())
}

fn parse_ipv4(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    let packet = frame.get(parsed.l3 as usize..).unwrap_or_default();
    let ip = Ipv4Header::read(packet).ok_or(Reason::TruncatedIpv4)?;
    let header_len = check_ipv4_header(ip, packet)?;
    let total_length = ip.total_length.get() as u32;
    if total_length < header_len as u32 {
        return Err(Reason::BadIpv4HeaderLength);
    }
    if total_length > parsed.l3_len {
        return Err(Reason::TruncatedIpv4);
    }
    ipv4::check_addresses(ip.src, ip.dst)?;

    let field = ip.flags_fragment.get();
    let part = Part::new(
        (field & ipv4::flags::OFFSET) * 8,
        field & ipv4::flags::MF != 0,
        total_length - header_len as u32,
    )?;
    parsed.kind = Kind::Ipv4;
    parsed.l3_len = total_length;
    parsed.l4 = parsed.l3 + header_len as u16;
    parsed.protocol = ip.protocol;
    parsed.ttl = ip.ttl;
    parsed.tos = ip.tos;
    parsed.fragment = part.fragment;
    parsed.fragment_id = ip.id.get() as u32;
    parsed.fragment_offset = part.offset;
    parsed.dont_fragment = field & ipv4::flags::DF != 0;
    parsed.key = FlowKey::new(VrfId(0), ip.protocol, map_v4(ip.src), map_v4(ip.dst), 0, 0);
    parse_transport(frame, parsed)
}

/// Checks version, length, checksum and options of the header that `packet` starts with; returns its length.
fn check_ipv4_header(ip: &Ipv4Header, packet: &[u8]) -> Result<usize, Reason> {
    if ip.version() != 4 {
        return Err(Reason::BadIpv4Version);
    }
    let header_len = ip.header_len();
    if header_len < ipv4::HEADER_LEN {
        return Err(Reason::BadIpv4HeaderLength);
    }
    let header = packet.get(..header_len).ok_or(Reason::TruncatedIpv4)?;
    if !ipv4::checksum_is_valid(header) {
        return Err(Reason::BadIpv4Checksum);
    }
    ipv4::check_options(&header[ipv4::HEADER_LEN..])?;
    Ok(header_len)
}

fn parse_ipv6(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    let packet = frame.get(parsed.l3 as usize..).unwrap_or_default();
    let ip = Ipv6Header::read(packet).ok_or(Reason::TruncatedIpv6)?;
    if ip.version() != 6 {
        return Err(Reason::BadIpv6Version);
    }
    let packet_len = ipv6::HEADER_LEN as u32 + ip.payload_length.get() as u32;
    if packet_len > parsed.l3_len {
        return Err(Reason::TruncatedIpv6);
    }
    ipv6::check_addresses(&ip.src, &ip.dst)?;
    let upper = ipv6::walk(packet, packet_len as usize, ip.next_header)?;

    parsed.kind = Kind::Ipv6;
    parsed.l3_len = packet_len;
    parsed.l4 = parsed.l3 + upper.offset;
    parsed.protocol = upper.protocol;
    parsed.ttl = ip.hop_limit;
    parsed.tos = ip.traffic_class();
    parsed.fragment = upper.part.fragment;
    parsed.fragment_id = upper.part.id;
    parsed.fragment_offset = upper.part.offset;
    parsed.dont_fragment = true;
    parsed.key = FlowKey::new(VrfId(0), upper.protocol, ip.src, ip.dst, 0, 0);
    parse_transport(frame, parsed)
}

/// Ports, flags, type and code. A later fragment has none of them and only must not reach into the header that
/// the first fragment brought (RFC 1858 section 3).
fn parse_transport(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    if parsed.fragment == Fragment::Later {
        let header_len = match parsed.protocol {
            protocol::TCP => tcp::HEADER_LEN,
            protocol::SCTP => sctp::HEADER_LEN,
            _ => 0,
        };
        if (parsed.fragment_offset as usize) < header_len {
            return Err(Reason::BadFragment);
        }
        return Ok(());
    }
    match (parsed.protocol, parsed.kind) {
        (protocol::TCP, _) => {
            let head: &[u8; tcp::HEADER_LEN] = transport_header(frame, parsed)?;
            let header_len = (head[12] >> 4) as u32 * 4;
            if header_len < tcp::HEADER_LEN as u32 {
                return Err(Reason::BadTransportHeader);
            }
            if header_len > parsed.l4_len() {
                return Err(cut_short(parsed, Reason::BadTransportHeader));
            }
            parsed.tcp_flags = head[13];
            set_ports(parsed, head);
        }
        (protocol::UDP, _) => {
            let head: &[u8; udp::HEADER_LEN] = transport_header(frame, parsed)?;
            let length = u16::from_be_bytes([head[4], head[5]]) as u32;
            let whole = parsed.fragment == Fragment::NotFragment;
            if length < udp::HEADER_LEN as u32 || whole && length > parsed.l4_len() {
                return Err(Reason::BadTransportHeader);
            }
            set_ports(parsed, head);
        }
        (protocol::SCTP, _) => {
            let head: &[u8; sctp::HEADER_LEN] = transport_header(frame, parsed)?;
            set_ports(parsed, head);
        }
        (protocol::ICMP, Kind::Ipv4) => {
            let head = transport_header(frame, parsed)?;
            set_icmp(parsed, head, icmp::v4::query(head[0]));
        }
        (protocol::ICMPV6, Kind::Ipv6) => {
            let head = transport_header(frame, parsed)?;
            set_icmp(parsed, head, icmp::v6::query(head[0]));
        }
        _ => {}
    }
    Ok(())
}

/// The first `N` bytes of the transport header, if packet and frame hold them.
fn transport_header<'a, const N: usize>(
    frame: &'a [u8],
    parsed: &Parsed,
) -> Result<&'a [u8; N], Reason> {
    if parsed.l4_len() < N as u32 {
        return Err(cut_short(parsed, Reason::TruncatedTransport));
    }
    array_at(frame, parsed.l4 as usize).ok_or(Reason::TruncatedTransport)
}

/// A first fragment without its whole transport header hides what filters look at (RFC 1858 section 3, RFC 7112):
/// there the fault is the fragmentation.
fn cut_short(parsed: &Parsed, otherwise: Reason) -> Reason {
    match parsed.fragment {
        Fragment::First => Reason::BadFragment,
        _ => otherwise,
    }
}

/// TCP, UDP and SCTP begin alike.
fn set_ports<const N: usize>(parsed: &mut Parsed, head: &[u8; N]) {
    parsed.key.sport = u16::from_be_bytes([head[0], head[1]]);
    parsed.key.dport = u16::from_be_bytes([head[2], head[3]]);
}

/// Type, code, and the identifier of a query in the place that [`FlowKey`] gives it.
fn set_icmp(parsed: &mut Parsed, head: &[u8; icmp::HEADER_LEN], query: Option<Query>) {
    parsed.icmp_type = head[0];
    parsed.icmp_code = head[1];
    let id = u16::from_be_bytes([head[4], head[5]]);
    match query {
        Some(Query::Request) => parsed.key.sport = id,
        Some(Query::Reply) => parsed.key.dport = id,
        None => {}
    }
}
