// SPDX-License-Identifier: Apache-2.0
//! The hot path: one look at a frame's headers.

use super::eth::{self, MacAddr, ethertype};
use super::flow_key::{FlowKey, map_v4};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::{array_at, checksum, icmp, protocol, tcp, udp};
use crate::ids::VrfId;
use crate::verdict::Reason;

/// What kind of packet the frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// Anything else; only the Ethernet part was read.
    #[default]
    Other,
    /// IPv4, checked.
    Ipv4,
    /// IPv6, checked.
    Ipv6,
    /// ARP; the packet itself was not read.
    Arp,
}

/// Whether the packet is part of a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    NotFragment,
    /// The first fragment: it has the transport header, but not the whole payload.
    First,
    /// A fragment without the transport header.
    Later,
}

impl Fragment {
    /// From the offset of the fragment's data (any unit) and the more-fragments flag.
    #[inline]
    pub fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Fragment::NotFragment,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        }
    }
}

/// The 802.1Q tags of a frame, at most two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VlanTags {
    /// Tag control information of the outer tag, 0 without one.
    pub outer_tci: u16,
    /// Tag control information of the inner tag, 0 without one.
    pub inner_tci: u16,
    /// How many tags there are, 0 to 2.
    pub count: u8,
    /// The outer tag is an 802.1ad service tag.
    pub service: bool,
}

impl VlanTags {
    /// There is a tag (it may be a priority tag, VLAN identifier 0).
    #[inline]
    pub fn is_tagged(self) -> bool {
        self.count > 0
    }

    /// There are two tags.
    #[inline]
    pub fn is_stacked(self) -> bool {
        self.count > 1
    }

    /// VLAN identifier of the outer tag; `None` when untagged or only priority-tagged, which means the same
    /// (IEEE 802.1Q section 6.9).
    #[inline]
    pub fn vid(self) -> Option<u16> {
        match self.outer_tci & 0x0fff {
            0 => None,
            vid => Some(vid),
        }
    }
}

/// The Ethernet part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// EtherType (or 802.3 length) behind the tags.
    pub ethertype: u16,
    /// Tags.
    pub vlan: VlanTags,
    /// Offset of what the EtherType names.
    pub l3: u16,
}

/// What [`parse`] found. Offsets count from the start of the frame; numbers are in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// Addresses, ports and protocol, in VRF 0: put the key into the port's VRF with [`FlowKey::set_vrf`].
    /// All zero unless the kind is IPv4 or IPv6.
    pub key: FlowKey,
    /// Length of the packet from `l3` on, bytes: IPv4 total length, 40 + IPv6 payload length, or all there is.
    pub l3_len: u32,
    /// Identification shared by the fragments of one packet (IPv4: always, IPv6: with a fragment header), else 0.
    pub fragment_id: u32,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Tags.
    pub vlan: VlanTags,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header, or of the data of a later fragment.
    pub l4: u16,
    /// Offset of a fragment's data in the original packet, bytes.
    pub fragment_offset: u16,
    /// Kind of packet; the fields below and the ones above that speak of IP count for IPv4 and IPv6 only.
    pub kind: Kind,
    /// IP protocol behind all extension headers; equal to the key's.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN: type of service or traffic class.
    pub tos: u8,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// IPv4: the don't-fragment flag. IPv6: always true, routers never fragment.
    pub dont_fragment: bool,
    /// TCP control bits ([`tcp::flags`]); 0 for other protocols and later fragments.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type; 0 for other protocols and later fragments: ask for the protocol first.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
}

impl Parsed {
    /// Length of the frame without padding or trailer, bytes. What lies behind it is legal (Ethernet pads to 60
    /// bytes) but not part of the packet: trim the frame to this length before forwarding it elsewhere.
    #[inline]
    pub fn frame_len(&self) -> u32 {
        self.l3 as u32 + self.l3_len
    }

    /// Length of the transport header and its payload, bytes.
    #[inline]
    pub fn l4_len(&self) -> u32 {
        self.l3_len
            .saturating_sub(self.l4.saturating_sub(self.l3) as u32)
    }
}

/// Reads the Ethernet header and tags of `frame`.
///
/// # Errors
/// [`Reason::TruncatedEthernet`], [`Reason::TruncatedVlan`], [`Reason::SourceMacInvalid`]; for a tagged frame
/// [`Reason::VlanNotExpected`] unless `vlan_allowed`, and [`Reason::VlanStackTooDeep`] beyond two tags.
#[inline]
pub fn parse_link(frame: &[u8], vlan_allowed: bool) -> Result<Link, Reason> {
    let head: &[u8; 14] = frame.first_chunk().ok_or(Reason::TruncatedEthernet)?;
    let src = MacAddr([head[6], head[7], head[8], head[9], head[10], head[11]]);
    if !src.is_unicast() {
        return Err(Reason::SourceMacInvalid);
    }
    let ethertype = u16::from_be_bytes([head[12], head[13]]);
    if eth::is_tag(ethertype) {
        return parse_tags(frame, vlan_allowed);
    }
    Ok(Link {
        ethertype,
        vlan: VlanTags::default(),
        l3: eth::HEADER_LEN as u16,
    })
}

#[cold]
fn parse_tags(frame: &[u8], vlan_allowed: bool) -> Result<Link, Reason> {
    if !vlan_allowed {
        return Err(Reason::VlanNotExpected);
    }
    let outer = eth::read_tag(frame, 12).ok_or(Reason::TruncatedVlan)?;
    let mut vlan = VlanTags {
        outer_tci: outer.tci,
        inner_tci: 0,
        count: 1,
        service: outer.tpid == ethertype::SERVICE_VLAN,
    };
    if !eth::is_tag(outer.ethertype) {
        return Ok(Link {
            ethertype: outer.ethertype,
            vlan,
            l3: 18,
        });
    }
    let inner = eth::read_tag(frame, 16).ok_or(Reason::TruncatedVlan)?;
    if eth::is_tag(inner.ethertype) {
        return Err(Reason::VlanStackTooDeep);
    }
    vlan.inner_tci = inner.tci;
    vlan.count = 2;
    Ok(Link {
        ethertype: inner.ethertype,
        vlan,
        l3: 22,
    })
}

/// Reads the headers of a frame.
///
/// `frame` is the first segment, which must hold all headers; `total_len` is the length of all segments, bytes.
/// `vlan_allowed` is false on ports that take no tags.
///
/// Checked: lengths, the IPv4 header checksum and options, the IPv6 extension headers, fragment offsets, addresses
/// that may not be on a link ([`ipv4::check_addresses`], [`ipv6::check_addresses`]), and that the transport header
/// is there. Not checked: transport checksums, and anything that needs a table.
///
/// # Errors
/// The reason to drop the frame for; each variant of the "Parsing" group of [`Reason`] says when.
#[inline]
pub fn parse(frame: &[u8], total_len: u32, vlan_allowed: bool) -> Result<Parsed, Reason> {
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
    Ok(parsed)
}

#[inline]
fn parse_ipv4(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    let l3 = parsed.l3 as usize;
    let head: &[u8; 20] = array_at(frame, l3).ok_or(Reason::TruncatedIpv4)?;
    let ip: Ipv4Header = zerocopy::transmute!(*head);
    if ip.version() != 4 {
        return Err(Reason::BadIpv4Version);
    }
    let header_len = ip.header_len();
    let total_length = ip.total_length.get() as u32;
    if header_len < ipv4::HEADER_LEN || total_length < header_len as u32 {
        return Err(Reason::BadIpv4HeaderLength);
    }
    if total_length > parsed.l3_len {
        return Err(Reason::TruncatedIpv4);
    }
    if header_len == ipv4::HEADER_LEN {
        if checksum::sum(head) != 0xffff {
            return Err(Reason::BadIpv4Checksum);
        }
    } else {
        check_long_header(frame, l3, header_len)?;
    }
    ipv4::check_addresses(ip.src, ip.dst)?;

    parsed.kind = Kind::Ipv4;
    parsed.l3_len = total_length;
    parsed.l4 = (l3 + header_len) as u16;
    parsed.protocol = ip.protocol;
    parsed.ttl = ip.ttl;
    parsed.tos = ip.tos;
    parsed.key = FlowKey::new(VrfId(0), ip.protocol, map_v4(ip.src), map_v4(ip.dst), 0, 0);
    let field = ip.flags_fragment.get();
    parsed.dont_fragment = field & ipv4::flags::DF != 0;
    parsed.fragment_id = ip.id.get() as u32;
    if field & (ipv4::flags::MF | ipv4::flags::OFFSET) != 0 {
        let more = field & ipv4::flags::MF != 0;
        let offset = (field & ipv4::flags::OFFSET) as u32 * 8;
        let data_len = parsed.l4_len();
        if more && !data_len.is_multiple_of(8) || offset + data_len > 65535 {
            return Err(Reason::BadFragment);
        }
        parsed.fragment_offset = offset as u16;
        parsed.fragment = Fragment::new(offset as u16, more);
    }
    parse_transport(frame, parsed)
}

/// The checksum and the options of a header longer than 20 bytes.
#[cold]
fn check_long_header(frame: &[u8], l3: usize, header_len: usize) -> Result<(), Reason> {
    let header = frame
        .get(l3..l3 + header_len)
        .ok_or(Reason::TruncatedIpv4)?;
    if !ipv4::checksum_is_valid(header) {
        return Err(Reason::BadIpv4Checksum);
    }
    ipv4::check_options(header.get(ipv4::HEADER_LEN..).unwrap_or_default())
}

#[inline]
fn parse_ipv6(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    let l3 = parsed.l3 as usize;
    let head: &[u8; 40] = array_at(frame, l3).ok_or(Reason::TruncatedIpv6)?;
    let ip: Ipv6Header = zerocopy::transmute!(*head);
    if ip.version() != 6 {
        return Err(Reason::BadIpv6Version);
    }
    let packet_len = ipv6::HEADER_LEN as u32 + ip.payload_length.get() as u32;
    if packet_len > parsed.l3_len {
        return Err(Reason::TruncatedIpv6);
    }
    ipv6::check_addresses(&ip.src, &ip.dst)?;

    parsed.kind = Kind::Ipv6;
    parsed.l3_len = packet_len;
    parsed.l4 = parsed.l3 + ipv6::HEADER_LEN as u16;
    parsed.protocol = ip.next_header;
    parsed.ttl = ip.hop_limit;
    parsed.tos = ip.traffic_class();
    parsed.dont_fragment = true;
    if ipv6::is_extension(ip.next_header) {
        let packet = frame.get(l3..).unwrap_or_default();
        let upper = ipv6::walk(packet, packet_len as usize, ip.next_header)?;
        parsed.l4 = parsed.l3 + upper.offset;
        parsed.protocol = upper.protocol;
        parsed.fragment = upper.fragment;
        parsed.fragment_id = upper.fragment_id;
        parsed.fragment_offset = upper.fragment_offset;
    }
    parsed.key = FlowKey::new(VrfId(0), parsed.protocol, ip.src, ip.dst, 0, 0);
    parse_transport(frame, parsed)
}

/// Ports, flags, type and code. A later fragment has none of them and only must not reach into the header that
/// the first fragment brought (RFC 1858 section 3).
#[inline]
fn parse_transport(frame: &[u8], parsed: &mut Parsed) -> Result<(), Reason> {
    if parsed.fragment == Fragment::Later {
        let overlaps = match parsed.protocol {
            protocol::TCP => parsed.fragment_offset < tcp::HEADER_LEN as u16,
            protocol::SCTP => parsed.fragment_offset < super::sctp::HEADER_LEN as u16,
            _ => false,
        };
        return if overlaps {
            Err(Reason::BadFragment)
        } else {
            Ok(())
        };
    }
    match parsed.protocol {
        protocol::TCP => {
            let head: &[u8; tcp::HEADER_LEN] = transport_header(frame, parsed)?;
            let header_len = (head[12] >> 4) as u32 * 4;
            if header_len < tcp::HEADER_LEN as u32 || header_len > parsed.l4_len() {
                return Err(broken(parsed, Reason::BadTransportHeader));
            }
            parsed.tcp_flags = head[13];
            set_ports(parsed, [head[0], head[1], head[2], head[3]]);
        }
        protocol::UDP => {
            let head: &[u8; udp::HEADER_LEN] = transport_header(frame, parsed)?;
            let length = u16::from_be_bytes([head[4], head[5]]) as u32;
            let whole = parsed.fragment == Fragment::NotFragment;
            if length < udp::HEADER_LEN as u32 || whole && length > parsed.l4_len() {
                return Err(Reason::BadTransportHeader);
            }
            set_ports(parsed, [head[0], head[1], head[2], head[3]]);
        }
        protocol::SCTP => {
            let head: &[u8; super::sctp::HEADER_LEN] = transport_header(frame, parsed)?;
            set_ports(parsed, [head[0], head[1], head[2], head[3]]);
        }
        protocol::ICMP if parsed.kind == Kind::Ipv4 => {
            let head = transport_header(frame, parsed)?;
            set_icmp(parsed, head, icmp::v4::query(head[0]));
        }
        protocol::ICMPV6 if parsed.kind == Kind::Ipv6 => {
            let head = transport_header(frame, parsed)?;
            set_icmp(parsed, head, icmp::v6::query(head[0]));
        }
        _ => {}
    }
    Ok(())
}

/// The first `N` bytes of the transport header, if packet and frame hold them.
#[inline(always)]
fn transport_header<'a, const N: usize>(
    frame: &'a [u8],
    parsed: &Parsed,
) -> Result<&'a [u8; N], Reason> {
    if parsed.l4_len() < N as u32 {
        return Err(broken(parsed, Reason::TruncatedTransport));
    }
    array_at(frame, parsed.l4 as usize).ok_or(Reason::TruncatedTransport)
}

/// A first fragment without its whole transport header hides what filters look at (RFC 1858 section 3, RFC 7112):
/// there the fault is the fragmentation.
#[cold]
fn broken(parsed: &Parsed, otherwise: Reason) -> Reason {
    if parsed.fragment == Fragment::First {
        Reason::BadFragment
    } else {
        otherwise
    }
}

#[inline(always)]
fn set_ports(parsed: &mut Parsed, ports: [u8; 4]) {
    parsed.key.sport = u16::from_be_bytes([ports[0], ports[1]]);
    parsed.key.dport = u16::from_be_bytes([ports[2], ports[3]]);
}

#[inline]
fn set_icmp(parsed: &mut Parsed, head: &[u8; icmp::HEADER_LEN], query: Option<icmp::Query>) {
    parsed.icmp_type = head[0];
    parsed.icmp_code = head[1];
    let id = u16::from_be_bytes([head[4], head[5]]);
    match query {
        Some(icmp::Query::Request) => parsed.key.sport = id,
        Some(icmp::Query::Reply) => parsed.key.dport = id,
        None => {}
    }
}
