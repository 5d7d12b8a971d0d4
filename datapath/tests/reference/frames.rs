// SPDX-License-Identifier: Apache-2.0
//! Frames for tests, byte by byte, from the RFCs' pictures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podswitch_datapath::wire::MacAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// One's complement sum (RFC 1071), as simple as can be.
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo-header.
pub(crate) fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u16 {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(a) => bytes.extend(a.octets()),
            IpAddr::V6(a) => bytes.extend(a.octets()),
        }
    }
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend(u32::from(protocol).to_be_bytes());
    sum(&bytes, 0)
}

/// An IPv4 packet to be; `bytes` makes it.
#[derive(Clone, Debug)]
pub(crate) struct V4 {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and fragment offset as in the header.
    pub(crate) flags: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl V4 {
    pub(crate) fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> V4 {
        V4 {
            src,
            dst,
            protocol,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            flags: 0x4000,
            options: Vec::new(),
            payload,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut p = vec![0x40 | (header_len / 4) as u8, self.tos];
        p.extend(((header_len + self.payload.len()) as u16).to_be_bytes());
        p.extend(self.id.to_be_bytes());
        p.extend(self.flags.to_be_bytes());
        p.extend([self.ttl, self.protocol, 0, 0]);
        p.extend(self.src.octets());
        p.extend(self.dst.octets());
        p.extend(&self.options);
        let checksum = !sum(&p, 0);
        p[10..12].copy_from_slice(&checksum.to_be_bytes());
        p.extend(&self.payload);
        p
    }
}

/// An IPv6 packet to be; `extensions` are (next header of its kind, bytes from the length on).
#[derive(Clone, Debug)]
pub(crate) struct V6 {
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    /// Each (its protocol number, the header without its first byte).
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

impl V6 {
    pub(crate) fn new(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, payload: Vec<u8>) -> V6 {
        V6 {
            src,
            dst,
            protocol,
            hop_limit: 64,
            extensions: Vec::new(),
            payload,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (i, (_, rest)) in self.extensions.iter().enumerate() {
            body.push(self.extensions.get(i + 1).map_or(self.protocol, |e| e.0));
            body.extend(rest);
        }
        body.extend(&self.payload);
        let first = self.extensions.first().map_or(self.protocol, |e| e.0);
        let mut p = vec![0x60, 0, 0, 0];
        p.extend((body.len() as u16).to_be_bytes());
        p.extend([first, self.hop_limit]);
        p.extend(self.src.octets());
        p.extend(self.dst.octets());
        p.extend(body);
        p
    }
}

/// Makes the header checksum of an IPv4 packet right.
pub(crate) fn fill_header_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let checksum = !sum(&packet[..len], 0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// An Ethernet frame.
pub(crate) fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = dst.0.to_vec();
    f.extend(src.0);
    f.extend(ethertype.to_be_bytes());
    f.extend(payload);
    f
}

/// The frame with an 802.1Q tag.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut f = frame[..12].to_vec();
    f.extend([0x81, 0]);
    f.extend(tci.to_be_bytes());
    f.extend(&frame[12..]);
    f
}

/// A UDP datagram with its checksum.
pub(crate) fn udp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len();
    let mut p = sport.to_be_bytes().to_vec();
    p.extend(dport.to_be_bytes());
    p.extend((len as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(data);
    let checksum = match !sum(&p, pseudo(src, dst, UDP, len).into()) {
        0 => 0xffff,
        c => c,
    };
    p[6..8].copy_from_slice(&checksum.to_be_bytes());
    p
}

/// A TCP segment without options and with its checksum.
pub(crate) fn tcp(
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    flags: u8,
    data: &[u8],
) -> Vec<u8> {
    let mut p = sport.to_be_bytes().to_vec();
    p.extend(dport.to_be_bytes());
    p.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    p.extend(data);
    let checksum = !sum(&p, pseudo(src, dst, TCP, p.len()).into());
    p[16..18].copy_from_slice(&checksum.to_be_bytes());
    p
}

/// An ICMP message; `rest` are bytes 4 to 7.
pub(crate) fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0];
    p.extend(rest);
    p.extend(data);
    let checksum = !sum(&p, 0);
    p[2..4].copy_from_slice(&checksum.to_be_bytes());
    p
}

/// An ICMPv6 message; `rest` are bytes 4 to 7.
pub(crate) fn icmpv6(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    data: &[u8],
) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0];
    p.extend(rest);
    p.extend(data);
    let start = pseudo(src.into(), dst.into(), ICMPV6, p.len());
    let checksum = !sum(&p, start.into());
    p[2..4].copy_from_slice(&checksum.to_be_bytes());
    p
}

/// An ARP packet.
pub(crate) fn arp(
    op: u16,
    sender_mac: MacAddr,
    sender: Ipv4Addr,
    target_mac: MacAddr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend(op.to_be_bytes());
    p.extend(sender_mac.0);
    p.extend(sender.octets());
    p.extend(target_mac.0);
    p.extend(target.octets());
    p
}
