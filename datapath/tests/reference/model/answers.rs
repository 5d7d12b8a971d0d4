// SPDX-License-Identifier: Apache-2.0
//! What the switch says by itself: ARP, neighbor discovery, echo, ICMP errors; and what it changes in packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpPacketSlice, EtherType};
use podswitch_datapath::VrfId;
use podswitch_datapath::tables::PortSpec;

use super::packet::{Content, Ip, Packet};
use super::{Reference, dropped};
use crate::frames::{self, ICMP, ICMPV6, V4, V6};
use crate::setup::Setup;
use crate::world::Out;

/// ICMP errors.
#[derive(Clone, Copy)]
pub(super) enum Error {
    NoRoute,
    HostUnreachable,
    PortUnreachable,
    Prohibited,
    TimeExceeded,
    TooBig(u32),
}

impl Error {
    /// (Type, code) for IPv4.
    fn v4(self) -> (u8, u8) {
        match self {
            Error::NoRoute => (3, 0),
            Error::HostUnreachable => (3, 1),
            Error::PortUnreachable => (3, 3),
            Error::TooBig(_) => (3, 4),
            Error::Prohibited => (3, 13),
            Error::TimeExceeded => (11, 0),
        }
    }

    /// (Type, code) for IPv6.
    fn v6(self) -> (u8, u8) {
        match self {
            Error::NoRoute => (1, 0),
            Error::Prohibited => (1, 1),
            Error::HostUnreachable => (1, 3),
            Error::PortUnreachable => (1, 4),
            Error::TooBig(_) => (2, 0),
            Error::TimeExceeded => (3, 0),
        }
    }
}

/// An ARP packet for IPv4 over Ethernet.
pub(super) fn read_arp(bytes: &[u8]) -> Option<ArpPacketSlice<'_>> {
    let arp = ArpPacketSlice::from_slice(bytes).ok()?;
    let right = arp.hw_addr_type().0 == 1
        && arp.proto_addr_type() == EtherType::IPV4
        && (arp.hw_addr_size(), arp.proto_addr_size()) == (6, 4);
    right.then_some(arp)
}

/// Finishes the transport checksum if the sender left it to its device: it holds the sum of the pseudo-header (SCTP: 0).
/// Whether that was so.
pub(super) fn finish_checksum(ip: &mut Ip) -> bool {
    let len = ip.payload().len();
    let at = match ip.protocol {
        _ if ip.fragment.is_some() => return false,
        6 => 16,
        17 if usize::from(u16::from_be_bytes([ip.payload()[4], ip.payload()[5]])) == len => 6,
        132 => {
            let unfinished = ip.payload()[8..12] == [0; 4];
            if unfinished {
                let crc = crc32c(ip.payload());
                let at = ip.headers + 8;
                ip.bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            return unfinished;
        }
        _ => return false,
    };
    let Some(dst) = final_destination(ip) else {
        return false;
    };
    let pseudo = frames::pseudo(ip.src, dst, ip.protocol, len);
    let field = u16::from_be_bytes([ip.payload()[at], ip.payload()[at + 1]]);
    if field != pseudo || ip.protocol == 17 && field == 0 {
        return false;
    }
    // The field takes part: it is the pseudo-header's share.
    let mut checksum = !frames::sum(ip.payload(), 0);
    if ip.protocol == 17 && checksum == 0 {
        checksum = 0xffff;
    }
    let at = ip.headers + at;
    ip.bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// The destination of the pseudo-header: with segments left in a routing header of type 2 or 4, the address in it.
fn final_destination(ip: &Ip) -> Option<IpAddr> {
    if ip.dst.is_ipv4() {
        return Some(ip.dst);
    }
    let (mut kind, mut at) = (ip.bytes[6], 40);
    while at < ip.headers {
        let head = &ip.bytes[at..];
        if kind == 43 && head[3] > 0 {
            let address: [u8; 16] = head.get(8..24)?.try_into().ok()?;
            return matches!(head[2], 2 | 4).then(|| address.into());
        }
        at += match kind {
            44 => 8,
            51 => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        kind = head[0];
    }
    Some(ip.dst)
}

/// CRC32c (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Takes one hop off the TTL or hop limit.
pub(super) fn one_hop_less(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return;
    }
    packet[8] -= 1;
    frames::fill_header_checksum(packet);
}

/// The TCP segments of a superframe, each a packet of at most `mtu` bytes.
pub(super) fn segments(ip: &Ip, mtu: usize) -> Vec<Vec<u8>> {
    let tcp_header = usize::from(ip.payload()[12] >> 4) * 4;
    let headers = ip.headers + tcp_header;
    let data: Vec<&[u8]> = ip.bytes[headers..].chunks(mtu - headers).collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    for (i, piece) in data.iter().enumerate() {
        let mut bytes = [&ip.bytes[..headers], piece].concat();
        let v4 = ip.dst.is_ipv4();
        let len = (bytes.len() - if v4 { 0 } else { 40 }) as u16;
        let length_at = if v4 { 2 } else { 4 };
        bytes[length_at..length_at + 2].copy_from_slice(&len.to_be_bytes());
        if v4 {
            let id = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(i as u16);
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            frames::fill_header_checksum(&mut bytes);
        }
        let tcp = &mut bytes[ip.headers..];
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(at);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        // FIN and PSH on the last segment alone, CWR on the first.
        let last = i + 1 == data.len();
        tcp[13] &= if last { 0xff } else { !0x09 } & if i == 0 { 0xff } else { !0x80 };
        tcp[16..18].fill(0);
        let dst = final_destination(ip).expect("checksums are known to be unfinished");
        let pseudo = frames::pseudo(ip.src, dst, ip.protocol, tcp.len());
        let checksum = !frames::sum(tcp, pseudo.into());
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        pieces.push(bytes);
        at += piece.len() as u32;
    }
    pieces
}

/// The fragments of an IPv4 packet that is longer than `mtu`.
pub(super) fn cut(ip: &Ip, mtu: usize) -> Vec<Vec<u8>> {
    let (offset, more_follow) = ip.fragment.unwrap_or((0, false));
    let mut pieces = Vec::new();
    let mut header = ip.bytes[..ip.headers].to_vec();
    let mut data = ip.payload();
    let mut at = offset;
    while !data.is_empty() {
        let room = (mtu - header.len()) / 8 * 8;
        let last = header.len() + data.len() <= mtu || data.len() <= room;
        let (piece, rest) = data.split_at(if last { data.len() } else { room });
        let mut bytes = [&header[..], piece].concat();
        bytes[0] = 0x40 | (header.len() / 4) as u8;
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let more = !rest.is_empty() || more_follow;
        let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        frames::fill_header_checksum(&mut bytes);
        pieces.push(bytes);
        at += piece.len();
        data = rest;
        if pieces.len() == 1 {
            header = copied_options(&header);
        }
    }
    pieces
}

/// The header with those options only that every fragment carries.
fn copied_options(header: &[u8]) -> Vec<u8> {
    let mut kept = header[..20].to_vec();
    let mut at = 20;
    while at < header.len() && header[at] != 0 {
        let len = if header[at] == 1 {
            1
        } else {
            usize::from(header[at + 1])
        };
        if header[at] >= 128 {
            kept.extend(&header[at..at + len]);
        }
        at += len;
    }
    kept.resize(kept.len().next_multiple_of(4), 0);
    kept
}

impl Reference {
    /// Whether the gateway's MAC address is the answer.
    fn answers_for(&self, port: &PortSpec, vrf: VrfId, target: IpAddr) -> bool {
        self.setup.gateway.owns(target)
            || self
                .owner(vrf, target)
                .is_some_and(|owner| owner.id != port.id)
    }

    pub(super) fn arp(
        &self,
        port: &PortSpec,
        vrf: VrfId,
        packet: &Packet,
        bytes: &[u8],
    ) -> Vec<Out> {
        let unanswered = dropped("arp_unanswered");
        let Some(arp) = read_arp(bytes) else {
            return unanswered;
        };
        let (sender, target) = (arp.sender_protocol_addr(), arp.target_protocol_addr());
        let target = Ipv4Addr::from(<[u8; 4]>::try_from(target).expect("four bytes"));
        let asks = arp.operation().0 == 1 && sender != [0; 4] && sender != target.octets();
        if !asks || !self.answers_for(port, vrf, target.into()) {
            return unanswered;
        }
        let mac = self.setup.gateway.mac.0;
        let mut answer = [&packet.src[..], &mac, &packet.rest].concat();
        answer[20..22].copy_from_slice(&[0, 2]);
        answer[22..28].copy_from_slice(&mac);
        answer[28..32].copy_from_slice(&target.octets());
        answer[32..38].copy_from_slice(arp.sender_hw_addr());
        answer[38..42].copy_from_slice(sender);
        vec![Out::Sent(port.id.0, answer)]
    }

    pub(super) fn neighbor_discovery(
        &self,
        port: &PortSpec,
        vrf: VrfId,
        packet: &Packet,
        ip: &Ip,
    ) -> Vec<Out> {
        let unanswered = dropped("nd_unanswered");
        let Some(message) = Neighbor::read(ip) else {
            return unanswered;
        };
        if port.check_source {
            if message.link_address.is_some_and(|mac| mac != port.mac.0) {
                return dropped("spoofed_mac");
            }
            let own = message.target.is_unicast_link_local()
                || Setup::addresses(port).contains(&message.target.into());
            if !message.asks && !own {
                return dropped("spoofed_address");
            }
        }
        let dad = ip.src.is_unspecified();
        if !message.asks || dad || !self.answers_for(port, vrf, message.target.into()) {
            return unanswered;
        }
        let (gateway, IpAddr::V6(asker)) = (self.setup.gateway, ip.src) else {
            unreachable!()
        };
        let flags = if message.target == gateway.v6 {
            0xe0
        } else {
            0xc0
        };
        let data = [&message.target.octets()[..], &[2, 1], &gateway.mac.0].concat();
        let message = frames::icmpv6(gateway.v6, asker, 136, 0, [flags, 0, 0, 0], &data);
        let answer = V6 {
            hop_limit: 255,
            ..V6::new(gateway.v6, asker, ICMPV6, message)
        };
        let frame = [
            &packet.src[..],
            &gateway.mac.0,
            &[0x86, 0xdd],
            &answer.bytes(),
        ]
        .concat();
        vec![Out::Sent(port.id.0, frame)]
    }

    pub(super) fn to_the_gateway(
        &self,
        port: &PortSpec,
        packet: &Packet,
        ip: &Ip,
        original: &Packet,
    ) -> Vec<Out> {
        let echo = match ip.dst {
            IpAddr::V4(_) => ip.icmp() == Some((8, 0)),
            IpAddr::V6(_) => ip.icmp() == Some((128, 0)) && ip.headers == 40,
        };
        if ip.protocol == 17 {
            return self.error(port, original, Error::PortUnreachable, "gateway_unhandled");
        }
        if !echo || ip.fragment.is_some() {
            return dropped("gateway_unhandled");
        }
        let mut answer = ip.bytes.clone();
        let (old, new) = if ip.dst.is_ipv4() {
            answer[12..20].rotate_left(4);
            answer[8] = 64;
            frames::fill_header_checksum(&mut answer);
            (0x0800, 0x0000)
        } else {
            answer[8..40].rotate_left(16);
            answer[7] = 64;
            (0x8000, 0x8100)
        };
        answer[ip.headers] = (new >> 8) as u8;
        // RFC 1624: HC' = ~(~HC + ~m + m').
        let checksum = u16::from_be_bytes([answer[ip.headers + 2], answer[ip.headers + 3]]);
        let add = |a: u16, b: u16| {
            let sum = u32::from(a) + u32::from(b);
            (sum % 0x10000 + sum / 0x10000) as u16
        };
        let checksum = !add(add(!checksum, !old), new);
        answer[ip.headers + 2..ip.headers + 4].copy_from_slice(&checksum.to_be_bytes());
        let frame = [&packet.src[..], &packet.dst, &packet.rest[..2], &answer].concat();
        vec![Out::Sent(port.id.0, frame)]
    }

    /// The error for the packet as it came, or silence for those who are never answered.
    pub(super) fn error(
        &self,
        port: &PortSpec,
        packet: &Packet,
        error: Error,
        reason: &'static str,
    ) -> Vec<Out> {
        let Content::Ip(ip) = &packet.content else {
            unreachable!()
        };
        let gateway = self.setup.gateway;
        let on_link = Setup::addresses(port).contains(&ip.src);
        let first = ip.bytes.len().min(4096 - 256 - 14);
        let answer = match (ip.src, ip.dst) {
            (IpAddr::V4(src), _) => {
                let informational = ip
                    .icmp()
                    .is_none_or(|(t, _)| matches!(t, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43));
                let single = !matches!(src.octets()[0], 0 | 127 | 224..=255);
                if ip.is_later()
                    || !informational
                    || !single
                    || gateway.v4.is_link_local() && !on_link
                {
                    return dropped(reason);
                }
                let (kind, code) = error.v4();
                let rest = match error {
                    Error::TooBig(mtu) => [0, 0, (mtu >> 8) as u8, mtu as u8],
                    _ => [0; 4],
                };
                let message = frames::icmp(kind, code, rest, &ip.bytes[..first.min(548)]);
                let mut answer = V4 {
                    id: 0,
                    ..V4::new(gateway.v4, src, ICMP, message)
                }
                .bytes();
                answer[1] = 0xc0;
                frames::fill_header_checksum(&mut answer);
                answer
            }
            (IpAddr::V6(src), _) => {
                let informational = ip.icmp().is_none_or(|(t, _)| t >= 128 && t != 137);
                let on_link = on_link || src.is_unicast_link_local();
                let beyond = gateway.v6.is_unicast_link_local() && !on_link;
                if ip.is_later() || !informational || src.is_unspecified() || beyond {
                    return dropped(reason);
                }
                let (kind, code) = error.v6();
                let rest = match error {
                    Error::TooBig(mtu) => mtu.to_be_bytes(),
                    _ => [0; 4],
                };
                let message = frames::icmpv6(
                    gateway.v6,
                    src,
                    kind,
                    code,
                    rest,
                    &ip.bytes[..first.min(1232)],
                );
                V6::new(gateway.v6, src, ICMPV6, message).bytes()
            }
        };
        let frame = [&packet.src[..], &gateway.mac.0, &packet.rest[..2], &answer].concat();
        vec![Out::Sent(port.id.0, frame)]
    }
}

/// A neighbor solicitation or advertisement that RFC 4861 section 7.1 lets stand.
struct Neighbor {
    asks: bool,
    target: Ipv6Addr,
    link_address: Option<[u8; 6]>,
}

impl Neighbor {
    fn read(ip: &Ip) -> Option<Neighbor> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip.src, ip.dst) else {
            return None;
        };
        let data = ip.payload();
        let sum = frames::sum(
            data,
            frames::pseudo(ip.src, ip.dst, ICMPV6, data.len()).into(),
        );
        let (kind, code) = ip.icmp()?;
        let right = ip.ttl == 255
            && ip.fragment.is_none()
            && code == 0
            && sum == 0xffff
            && data.len() >= 24;
        if !right || !matches!(kind, 135 | 136) {
            return None;
        }
        let asks = kind == 135;
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&data[8..24]).expect("sixteen bytes"));
        let mut link_address = None;
        let mut options = &data[24..];
        while !options.is_empty() {
            let len = usize::from(*options.get(1)?) * 8;
            let option = options.get(..len).filter(|o| !o.is_empty())?;
            if option[0] == if asks { 1 } else { 2 } && len == 8 && link_address.is_none() {
                link_address = Some(option[2..8].try_into().expect("six bytes"));
            }
            options = &options[len..];
        }
        let solicited_node = dst.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
        let sound = if asks {
            !src.is_unspecified() || link_address.is_none() && solicited_node
        } else {
            !src.is_unspecified() && (data[4] & 0x40 == 0 || !dst.is_multicast())
        };
        (sound && !target.is_multicast()).then_some(Neighbor {
            asks,
            target,
            link_address,
        })
    }
}
