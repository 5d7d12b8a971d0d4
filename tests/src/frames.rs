// SPDX-License-Identifier: Apache-2.0
//! Frames made by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};

/// The broadcast MAC address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// Reads `02:00:00:00:00:01`.
///
/// # Panics
/// If it is something else.
#[track_caller]
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    bytes
        .try_into()
        .unwrap_or_else(|_| panic!("no MAC address: {text}"))
}

/// An IP packet of one of the two families, ready for a transport header.
fn ip(
    source: [u8; 6],
    destination: [u8; 6],
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(source, destination);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), ttl),
        _ => panic!("two families: {from} and {to}"),
    }
}

/// Ends of a packet: MAC and IP addresses.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub from: IpAddr,
    /// Destination address, of the same family.
    pub to: IpAddr,
}

impl Ends {
    /// A UDP datagram with right checksums.
    pub fn udp(&self, ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
        let step = ip(
            self.source_mac,
            self.destination_mac,
            self.from,
            self.to,
            ttl,
        )
        .udp(ports.0, ports.1);
        let mut frame = Vec::with_capacity(step.size(payload.len()));
        step.write(&mut frame, payload).expect("a datagram");
        frame
    }

    /// A TCP SYN with right checksums.
    pub fn syn(&self, ports: (u16, u16)) -> Vec<u8> {
        self.syn_with(ports, 0)
    }

    /// The same with so many bytes of data.
    pub fn syn_with(&self, ports: (u16, u16), data: usize) -> Vec<u8> {
        let step = ip(
            self.source_mac,
            self.destination_mac,
            self.from,
            self.to,
            64,
        );
        let step = step.tcp(ports.0, ports.1, 1, 64_240).syn();
        let mut frame = Vec::with_capacity(step.size(data));
        step.write(&mut frame, &vec![0; data]).expect("a SYN");
        frame
    }

    /// An ICMP or ICMPv6 echo request with right checksums.
    pub fn echo_request(&self, id: u16, sequence: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let step = ip(
            self.source_mac,
            self.destination_mac,
            self.from,
            self.to,
            ttl,
        );
        let mut frame = Vec::new();
        if self.from.is_ipv4() {
            step.icmpv4_echo_request(id, sequence)
                .write(&mut frame, payload)
                .expect("an echo request");
        } else {
            step.icmpv6_echo_request(id, sequence)
                .write(&mut frame, payload)
                .expect("an echo request");
        }
        frame
    }
}

/// Puts an IEEE 802.1Q tag into an untagged frame.
///
/// # Panics
/// If the VLAN id is above 4095.
#[track_caller]
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let vlan = VlanId::try_new(vlan).expect("a VLAN id").value();
    let mut out = frame[..12].to_vec();
    out.extend([0x81, 0x00]);
    out.extend(vlan.to_be_bytes());
    out.extend(&frame[12..]);
    out
}

/// An ARP packet (RFC 826) in a frame: `operation` 1 asks, 2 answers.
pub fn arp(
    ethernet: ([u8; 6], [u8; 6]),
    operation: u16,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let (source, destination) = ethernet;
    let mut frame = [destination, source].concat();
    frame.extend([0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

/// The MAC address that a multicast group is sent to (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> [u8; 6] {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15],
    ])
}

/// A neighbor solicitation (RFC 4861 section 4.3) for `target`; from the unspecified address it is a duplicate address
/// detection and carries no option.
pub fn neighbor_solicitation(source: [u8; 6], from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(target);
    let mut body = vec![0; 4];
    body.extend(target.octets());
    if !from.is_unspecified() {
        body.extend([1, 1]);
        body.extend(source);
    }
    let header = etherparse::icmpv6::TYPE_NEIGHBOR_SOLICITATION;
    icmpv6(
        source,
        multicast_mac(group),
        from,
        group,
        255,
        (header, 0),
        &body,
    )
}

/// An ICMPv6 message with a right checksum; `body` follows the checksum field.
pub fn icmpv6(
    source: [u8; 6],
    destination: [u8; 6],
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
    kind: (u8, u8),
    body: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend(body);
    let sum = icmpv6_checksum(from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [destination, source].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(
        u16::try_from(message.len())
            .expect("a short message")
            .to_be_bytes(),
    );
    frame.extend([58, hop_limit]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// RFC 4443 section 2.3; the checksum field of `message` is zero, or the result is 0 when it is right.
pub fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a short message");
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length.to_be_bytes(),
        &[0, 0, 0, 58],
    ]
    .concat();
    internet_checksum(&[&pseudo, message].concat())
}

/// RFC 1071.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// Writes the IPv4 header checksum anew after a change in an untagged frame.
pub fn fix_ipv4_checksum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let sum = internet_checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_is_what_a_parser_reads() {
        let from: Ipv6Addr = "fd00::1".parse().unwrap();
        let target: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        let frame = neighbor_solicitation([2, 0, 0, 0, 0, 1], from, target);
        let parsed = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = parsed.transport else {
            panic!("no ICMPv6")
        };
        assert!(icmp.is_checksum_valid(from.octets(), solicited_node(target).octets()));
        assert_eq!(icmp.type_u8(), 135);
        assert_eq!(&frame[..6], &[0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn a_tag_lies_behind_the_addresses() {
        let ends = Ends {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            from: "10.0.0.1".parse().unwrap(),
            to: "10.0.0.2".parse().unwrap(),
        };
        let plain = ends.udp((1, 2), 64, b"x");
        let frame = tagged(&plain, 7);
        assert_eq!(frame[12..16], [0x81, 0, 0, 7]);
        assert_eq!(frame[16..], plain[12..]);
    }
}
