// SPDX-License-Identifier: Apache-2.0
//! The way for plain packets: untagged TCP or UDP, no options, no extension headers, no fragments, nothing wrong.
//!
//! Every check is a value, not a branch, and a false one only says "not plain": what is special or wrong
//! is for [`parse_any`](super::parse_any) to find. Whatever passes here must come out there the same, which the tests
//! check.

use super::{Fragment, Kind, Parsed, VlanTags};
use crate::ids::VrfId;
use crate::wire::eth::{self, ethertype};
use crate::wire::flow_key::FlowKey;
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{array_at, checksum, protocol, tcp, udp};

const L3: usize = eth::HEADER_LEN;

/// Reads a plain IPv4 packet into `out`; false, with `out` untouched, for anything else.
#[inline(always)]
pub(crate) fn parse_plain_ipv4(frame: &[u8], total_len: u32, out: &mut Parsed) -> bool {
    const L4: usize = L3 + ipv4::HEADER_LEN;
    let Some(head) = frame.first_chunk::<{ L4 + udp::HEADER_LEN }>() else {
        return false;
    };
    let Some(header) = array_at::<{ ipv4::HEADER_LEN }>(head, L3) else {
        return false;
    };
    let ip: &Ipv4Header = zerocopy::transmute_ref!(header);
    let l3_len = ip.total_length.get() as u32;
    let plain = eth::is_from_one(head, ethertype::IPV4)
        & (ip.version_ihl == 0x45)
        & !ip.is_fragment()
        & (checksum::sum_fixed(header) == 0xffff)
        & (l3_len >= (ipv4::HEADER_LEN + udp::HEADER_LEN) as u32)
        & (L3 as u32 + l3_len <= total_len)
        & ipv4::is_plain(ip.src)
        & ipv4::is_plain(ip.dst);
    if !plain {
        return false;
    }
    let l4_len = l3_len - ipv4::HEADER_LEN as u32;
    let Some(transport) = Transport::read(frame, L4, ip.protocol, l4_len) else {
        return false;
    };
    let (sport, dport) = (transport.sport, transport.dport);
    *out = Parsed {
        key: FlowKey::new_v4(ip.protocol, ip.src, ip.dst, sport, dport),
        l3_len,
        fragment_id: ip.id.get() as u32,
        ethertype: ethertype::IPV4,
        vlan: VlanTags::default(),
        l3: L3 as u16,
        l4: L4 as u16,
        fragment_offset: 0,
        kind: Kind::Ipv4,
        fragment: Fragment::NotFragment,
        protocol: ip.protocol,
        ttl: ip.ttl,
        tos: ip.tos,
        dont_fragment: ip.flags_fragment.get() & ipv4::flags::DF != 0,
        tcp_flags: transport.tcp_flags,
        icmp_type: 0,
        icmp_code: 0,
    };
    true
}

/// Reads a plain IPv6 packet into `out`; false, with `out` untouched, for anything else.
#[inline(always)]
pub(crate) fn parse_plain_ipv6(frame: &[u8], total_len: u32, out: &mut Parsed) -> bool {
    const L4: usize = L3 + ipv6::HEADER_LEN;
    let Some(head) = frame.first_chunk::<{ L4 + udp::HEADER_LEN }>() else {
        return false;
    };
    let Some(header) = array_at::<{ ipv6::HEADER_LEN }>(head, L3) else {
        return false;
    };
    let ip: &Ipv6Header = zerocopy::transmute_ref!(header);
    let l4_len = ip.payload_length.get() as u32;
    let l3_len = ipv6::HEADER_LEN as u32 + l4_len;
    let plain = eth::is_from_one(head, ethertype::IPV6)
        & (ip.version() == 6)
        & (l4_len >= udp::HEADER_LEN as u32)
        & (L3 as u32 + l3_len <= total_len)
        & ipv6::is_plain(&ip.src)
        & ipv6::is_plain(&ip.dst);
    if !plain {
        return false;
    }
    let Some(transport) = Transport::read(frame, L4, ip.next_header, l4_len) else {
        return false;
    };
    let (sport, dport) = (transport.sport, transport.dport);
    *out = Parsed {
        key: FlowKey::new(VrfId(0), ip.next_header, ip.src, ip.dst, sport, dport),
        l3_len,
        fragment_id: 0,
        ethertype: ethertype::IPV6,
        vlan: VlanTags::default(),
        l3: L3 as u16,
        l4: L4 as u16,
        fragment_offset: 0,
        kind: Kind::Ipv6,
        fragment: Fragment::NotFragment,
        protocol: ip.next_header,
        ttl: ip.hop_limit,
        tos: ip.traffic_class(),
        dont_fragment: true,
        tcp_flags: transport.tcp_flags,
        icmp_type: 0,
        icmp_code: 0,
    };
    true
}

/// What a TCP or UDP header says.
struct Transport {
    sport: u16,
    dport: u16,
    tcp_flags: u8,
}

impl Transport {
    /// The header at `l4` of a packet that has `l4_len` (8 or more) bytes from there on; `None` when it is wrong, not
    /// in `frame`, or neither TCP nor UDP.
    #[inline(always)]
    fn read(frame: &[u8], l4: usize, protocol: u8, l4_len: u32) -> Option<Self> {
        let (ports, header_len, most, tcp_flags) = if protocol == protocol::TCP {
            let head = array_at::<{ tcp::HEADER_LEN }>(frame, l4)?;
            let ports = [head[0], head[1], head[2], head[3]];
            (ports, (head[12] >> 4) as u32 * 4, tcp::HEADER_LEN, head[13])
        } else if protocol == protocol::UDP {
            let head = array_at::<{ udp::HEADER_LEN }>(frame, l4)?;
            let ports = [head[0], head[1], head[2], head[3]];
            (
                ports,
                u16::from_be_bytes([head[4], head[5]]) as u32,
                udp::HEADER_LEN,
                0,
            )
        } else {
            return None;
        };
        let right = (header_len >= most as u32) & (header_len <= l4_len);
        right.then(|| Transport {
            sport: u16::from_be_bytes([ports[0], ports[1]]),
            dport: u16::from_be_bytes([ports[2], ports[3]]),
            tcp_flags,
        })
    }
}
