// SPDX-License-Identifier: Apache-2.0
//! What a frame is, found with etherparse's header readers and the RFCs' rules.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice,
    TcpHeaderSlice, UdpHeaderSlice,
};

/// Headers must lie within the first segment of a frame.
const FIRST_SEGMENT: usize = 4096 - 256;

/// A malformed frame.
#[derive(Debug)]
pub(crate) struct Malformed;

/// An IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// Must not be cut.
    pub(crate) whole: bool,
    /// (Offset of the data, more follow), for a fragment.
    pub(crate) fragment: Option<(usize, bool)>,
    /// Length of the IPv4 header, or of IPv6's with its extension headers.
    pub(crate) headers: usize,
    /// The packet, without padding.
    pub(crate) bytes: Vec<u8>,
    /// Segmentation offload: TCP, whose cutting the sender left to its device.
    pub(crate) superframe: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Ip(Ip),
    Arp(Vec<u8>),
    Other,
}

/// A frame.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) dst: [u8; 6],
    pub(crate) src: [u8; 6],
    /// Tag control information, outermost first.
    pub(crate) tags: Vec<u16>,
    /// The outermost tag is an 802.1ad one.
    pub(crate) service: bool,
    /// Tag protocol identifier of the second tag.
    pub(crate) inner_type: [u8; 2],
    pub(crate) content: Content,
    /// Bytes behind MAC addresses and tags, from the EtherType on, without padding of IP packets.
    pub(crate) rest: Vec<u8>,
}

impl Ip {
    pub(crate) fn is_later(&self) -> bool {
        self.fragment.is_some_and(|(offset, _)| offset > 0)
    }

    /// What is behind all IP headers.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.headers..]
    }

    /// Destination port, for the protocols that have one.
    pub(crate) fn port(&self) -> Option<u16> {
        let has_port = matches!(self.protocol, 6 | 17 | 132) && !self.is_later();
        has_port.then(|| u16::from_be_bytes([self.payload()[2], self.payload()[3]]))
    }

    /// (Type, code) of ICMP and ICMPv6.
    pub(crate) fn icmp(&self) -> Option<(u8, u8)> {
        let icmp = matches!(
            (self.protocol, self.dst),
            (1, IpAddr::V4(_)) | (58, IpAddr::V6(_))
        );
        (icmp && !self.is_later()).then(|| (self.payload()[0], self.payload()[1]))
    }
}

/// Reads a frame.
pub(crate) fn read(frame: &[u8]) -> Result<Packet, Malformed> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| Malformed)?;
    let src = ethernet.source();
    if src == [0; 6] || src[0] & 1 == 1 {
        return Err(Malformed);
    }
    let (mut ether_type, mut at) = (ethernet.ether_type(), 14);
    let service = ether_type == EtherType::PROVIDER_BRIDGING;
    let is_tag = |t| t == EtherType::VLAN_TAGGED_FRAME || t == EtherType::PROVIDER_BRIDGING;
    let mut tags = Vec::new();
    while is_tag(ether_type) {
        let tag = SingleVlanHeaderSlice::from_slice(&frame[at..]).map_err(|_| Malformed)?;
        tags.push(u16::from_be_bytes([tag.slice()[0], tag.slice()[1]]));
        (ether_type, at) = (tag.ether_type(), at + 4);
        if tags.len() > 2 {
            return Err(Malformed);
        }
    }
    let packet = &frame[at..];
    let content = match ether_type {
        EtherType::IPV4 => Content::Ip(ipv4(packet, FIRST_SEGMENT - at)?),
        EtherType::IPV6 => Content::Ip(ipv6(packet, FIRST_SEGMENT - at)?),
        EtherType::ARP => Content::Arp(packet.to_vec()),
        _ => Content::Other,
    };
    let mut rest = frame[at - 2..].to_vec();
    if let Content::Ip(ip) = &content {
        rest.truncate(2 + ip.bytes.len());
    }
    let inner_type = if tags.len() > 1 {
        [frame[16], frame[17]]
    } else {
        [0; 2]
    };
    Ok(Packet {
        dst: ethernet.destination(),
        src,
        tags,
        service,
        inner_type,
        content,
        rest,
    })
}

fn ipv4(packet: &[u8], first: usize) -> Result<Ip, Malformed> {
    let near = &packet[..packet.len().min(first)];
    let header = Ipv4HeaderSlice::from_slice(near).map_err(|_| Malformed)?;
    let headers = header.slice().len();
    let length = usize::from(header.total_len());
    let sum = crate::frames::sum(header.slice(), 0);
    let offset = usize::from(header.fragments_offset().value()) * 8;
    let right =
        sum == 0xffff && (headers..=packet.len()).contains(&length) && options(header.options());
    if !right {
        return Err(Malformed);
    }
    let (src, dst) = (header.source_addr(), header.destination_addr());
    let group = dst.is_multicast() || dst.is_broadcast();
    let src_right = match src.octets()[0] {
        0 => src.is_unspecified() && group,
        _ => !src.is_loopback() && !src.is_multicast() && !src.is_broadcast(),
    };
    if !src_right || dst.octets()[0] == 0 || dst.is_loopback() {
        return Err(Malformed);
    }
    let fragment = header
        .is_fragmenting_payload()
        .then(|| (offset, header.more_fragments()));
    let ip = Ip {
        src: src.into(),
        dst: dst.into(),
        protocol: header.protocol().0,
        ttl: header.ttl(),
        whole: header.dont_fragment(),
        fragment,
        headers,
        bytes: packet[..length].to_vec(),
        superframe: false,
    };
    fragment_and_transport(ip, first)
}

/// Whether options can be read and none is a source route.
fn options(mut options: &[u8]) -> bool {
    while let Some(kind) = options.first() {
        let len = match kind {
            0 => return true,
            1 => 1,
            131 | 137 => return false,
            _ => match options.get(1) {
                Some(len) if *len >= 2 => usize::from(*len),
                _ => return false,
            },
        };
        match options.get(len..) {
            Some(rest) => options = rest,
            None => return false,
        }
    }
    true
}

fn ipv6(packet: &[u8], first: usize) -> Result<Ip, Malformed> {
    let near = &packet[..packet.len().min(first)];
    let header = Ipv6HeaderSlice::from_slice(near).map_err(|_| Malformed)?;
    let length = 40 + usize::from(header.payload_length());
    let (src, dst) = (header.source_addr(), header.destination_addr());
    let never = |a: std::net::Ipv6Addr| {
        a.is_unspecified() || a.is_loopback() || a.to_ipv4_mapped().is_some()
    };
    let narrow = dst.is_multicast() && dst.octets()[1] & 15 < 2;
    let src_right =
        !src.is_multicast() && (!never(src) || src.is_unspecified() && dst.is_multicast());
    if length > packet.len() || never(dst) || narrow || !src_right {
        return Err(Malformed);
    }
    let mut ip = Ip {
        src: src.into(),
        dst: dst.into(),
        protocol: header.next_header().0,
        ttl: header.hop_limit(),
        whole: true,
        fragment: None,
        headers: 40,
        bytes: packet[..length].to_vec(),
        superframe: false,
    };
    let mut seen = Vec::new();
    while matches!(ip.protocol, 0 | 43 | 44 | 51 | 60) && !ip.is_later() {
        let kind = ip.protocol;
        let before = seen.iter().filter(|k| **k == kind).count();
        let may_be = match kind {
            0 => seen.is_empty(),
            60 => before < 2,
            _ => before == 0,
        };
        if !may_be || seen.len() == 8 {
            return Err(Malformed);
        }
        seen.push(kind);
        let rest = near.get(ip.headers..).ok_or(Malformed)?;
        // Whole headers may reach behind the first segment, the first eight bytes of each must not.
        if rest.len() < 8 {
            return Err(Malformed);
        }
        let whole = ip.bytes.get(ip.headers..).ok_or(Malformed)?;
        let len;
        (ip.protocol, len) = match kind {
            44 => {
                let f = Ipv6FragmentHeaderSlice::from_slice(whole).map_err(|_| Malformed)?;
                let offset = usize::from(f.fragment_offset().value()) * 8;
                ip.fragment = f
                    .is_fragmenting_payload()
                    .then(|| (offset, f.more_fragments()));
                (f.next_header().0, 8)
            }
            51 => {
                let a = IpAuthHeaderSlice::from_slice(whole).map_err(|_| Malformed)?;
                (a.next_header().0, a.slice().len())
            }
            _ => {
                let e = Ipv6RawExtHeaderSlice::from_slice(whole).map_err(|_| Malformed)?;
                if kind == 43 && e.slice()[2] == 0 {
                    return Err(Malformed);
                }
                (e.next_header().0, e.slice().len())
            }
        };
        ip.headers += len;
        if kind == 44 {
            check_fragment(&ip)?;
        }
    }
    fragment_and_transport(ip, first)
}

/// A fragment has a multiple of eight bytes unless it is the last, and ends within 65535.
fn check_fragment(ip: &Ip) -> Result<(), Malformed> {
    match ip.fragment {
        Some((_, true)) if !ip.payload().len().is_multiple_of(8) => Err(Malformed),
        Some((offset, _)) if offset + ip.payload().len() > 65535 => Err(Malformed),
        _ => Ok(()),
    }
}

fn fragment_and_transport(ip: Ip, first: usize) -> Result<Ip, Malformed> {
    if matches!(ip.dst, IpAddr::V4(_)) {
        check_fragment(&ip)?;
    }
    let offset = ip.fragment.map_or(0, |(offset, _)| offset);
    if offset > 0 {
        // RFC 1858: the transport header comes in the first fragment alone.
        let overlaps = match ip.protocol {
            6 => offset < 20,
            132 => offset < 12,
            _ => false,
        };
        return if overlaps { Err(Malformed) } else { Ok(ip) };
    }
    let near = first.min(ip.bytes.len()).saturating_sub(ip.headers);
    let least = match (IpNumber(ip.protocol), ip.dst) {
        (IpNumber::TCP, _) => 20,
        (IpNumber::UDP, _) => 8,
        (IpNumber::SCTP, _) => 12,
        (IpNumber::ICMP, IpAddr::V4(_)) | (IpNumber::IPV6_ICMP, IpAddr::V6(_)) => 8,
        _ => 0,
    };
    let data = ip.payload();
    let right = near >= least
        && match IpNumber(ip.protocol) {
            IpNumber::TCP => TcpHeaderSlice::from_slice(data).is_ok(),
            IpNumber::UDP => UdpHeaderSlice::from_slice(data).is_ok_and(|u| {
                u.length() >= 8 && (ip.fragment.is_some() || usize::from(u.length()) <= data.len())
            }),
            _ => true,
        };
    if right { Ok(ip) } else { Err(Malformed) }
}
