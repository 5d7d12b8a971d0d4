// SPDX-License-Identifier: Apache-2.0
//! The messages: what is sent, and what those that are heard say. Built and read by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::{Icmpv6PayloadSlice, NdpOptionSlice, NeighborAdvertisementHeader};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};

/// RFC 4861, 7.1: a packet that a router has forwarded has less.
const HOP_LIMIT: u8 = 255;
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Types of options (RFC 4861, 4.6.1), and their length in units of 8 bytes.
const SOURCE_ADDRESS: [u8; 2] = [1, 1];
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// Something to say on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// "Who has `target`?": an ARP request to everyone or to `to` (RFC 826; RFC 1122, 2.3.2.1).
    Request {
        /// The address asked for.
        target: Ipv4Addr,
        /// Our own address; unspecified when there is none, which makes it a probe (RFC 5227, 2.1.1).
        from: Ipv4Addr,
        /// Who is asked; everyone when none.
        to: Option<[u8; 6]>,
    },
    /// The same for IPv6: a neighbour solicitation (RFC 4861, 4.3) to the solicited-node group or to `to`.
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Our own address.
        from: Ipv6Addr,
        /// Who is asked; the group when none.
        to: Option<[u8; 6]>,
    },
    /// "`address` is here": an ARP announcement (RFC 5227, 2.3), or an unsolicited neighbour advertisement that overrides
    /// (RFC 4861, 7.2.6).
    Announcement {
        /// The address that is here.
        address: IpAddr,
    },
}

impl Message {
    /// The frame, sent from `own`.
    pub fn frame(&self, own: [u8; 6]) -> Vec<u8> {
        match *self {
            Message::Request { target, from, to } => arp(own, to, from, target),
            Message::Solicitation { target, from, to } => solicitation(own, to, from, target),
            Message::Announcement {
                address: IpAddr::V4(address),
            } => arp(own, None, address, address),
            Message::Announcement {
                address: IpAddr::V6(address),
            } => advertisement(own, address),
        }
    }
}

fn arp(own: [u8; 6], to: Option<[u8; 6]>, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: own,
        sender_ipv4: from.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    let builder = PacketBuilder::ethernet2(own, to.unwrap_or(BROADCAST));
    let mut frame = Vec::with_capacity(64);
    let written = builder.arp(packet.into()).write(&mut frame);
    written.expect("a vector takes everything");
    frame
}

fn solicitation(own: [u8; 6], to: Option<[u8; 6]>, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let destination = to.map_or_else(|| solicited_node(target), |_| target);
    let link = to.unwrap_or_else(|| group_mac(destination));
    icmpv6(
        (own, link),
        (from, destination),
        Icmpv6Type::NeighborSolicitation,
        target,
        SOURCE_ADDRESS,
    )
}

fn advertisement(own: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let flags = NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    };
    icmpv6(
        (own, group_mac(ALL_NODES)),
        (address, ALL_NODES),
        Icmpv6Type::NeighborAdvertisement(flags),
        address,
        TARGET_ADDRESS,
    )
}

/// A message about `target` with our link-layer address as its option.
fn icmpv6(
    (own, to): ([u8; 6], [u8; 6]),
    (source, destination): (Ipv6Addr, Ipv6Addr),
    kind: Icmpv6Type,
    target: Ipv6Addr,
    option: [u8; 2],
) -> Vec<u8> {
    let payload = [&target.octets()[..], &option, &own].concat();
    let (source, destination) = (source.octets(), destination.octets());
    let builder = PacketBuilder::ethernet2(own, to).ipv6(source, destination, HOP_LIMIT);
    let mut frame = Vec::with_capacity(96);
    let written = builder.icmpv6(kind).write(&mut frame, &payload);
    written.expect("32 bytes fit a packet, and a vector takes everything");
    frame
}

/// The group an address's owner listens to (RFC 4291, 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet address of a group (RFC 2464, 7).
fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// What somebody on the link has said about an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The address.
    pub address: IpAddr,
    /// Its Ethernet address; an answer over IPv6 may leave it out (RFC 4861, 4.4).
    pub mac: Option<[u8; 6]>,
    /// It answers a question of ours: the way there and back works. An ARP reply to us, or the solicited flag.
    pub answer: bool,
    /// What was known before is to be replaced; always for ARP, the override flag else.
    pub overrides: bool,
}

/// Reads a frame that an interface with the Ethernet address `own` has received, tag taken off; `None` for what says
/// nothing about a neighbour: other protocols, frames for others, probes for an address in use, our own words, and
/// messages that are not valid (RFC 826; RFC 4861, 7.1.1 and 7.1.2; RFC 1812, 3.3.2: no group address is believed).
pub fn parse(frame: &[u8], own: [u8; 6]) -> Option<Heard> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let to_us = frame.get(..6)? == own;
    if !to_us && frame[0] & 1 == 0 {
        return None;
    }
    let heard = match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            let arp = arp.to_packet().try_eth_ipv4().ok()?;
            let reply = arp.operation == ArpOperation::REPLY;
            (reply || arp.operation == ArpOperation::REQUEST).then(|| Heard {
                address: arp.sender_ipv4_addr().into(),
                mac: Some(arp.sender_mac),
                answer: reply && to_us,
                overrides: true,
            })
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            let sound = header.hop_limit() == HOP_LIMIT
                && icmp.code_u8() == 0
                && icmp.is_checksum_valid(source.octets(), destination.octets());
            sound
                .then(|| neighbor_discovery(&icmp, source, destination))
                .flatten()
        }
        _ => None,
    }?;
    let mac_fits = heard.mac.is_none_or(|mac| is_of_one(mac) && mac != own);
    (is_address_of_one(heard.address) && mac_fits).then_some(heard)
}

fn neighbor_discovery(
    icmp: &Icmpv6Slice<'_>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<Heard> {
    match (icmp.payload_slice().ok()?, icmp.icmp_type()) {
        (Icmpv6PayloadSlice::NeighborSolicitation(s), _) => {
            let options: Vec<_> = s.options_iterator().collect::<Result<_, _>>().ok()?;
            let mac = options.iter().find_map(|option| match option {
                NdpOptionSlice::SourceLinkLayerAddress(o) => mac(o.link_layer_address()),
                _ => None,
            });
            let asked_rightly = !s.target_address().is_multicast();
            // Without the option it does not say where its sender is.
            (asked_rightly && mac.is_some()).then_some(Heard {
                address: source.into(),
                mac,
                answer: false,
                overrides: true,
            })
        }
        (
            Icmpv6PayloadSlice::NeighborAdvertisement(a),
            Icmpv6Type::NeighborAdvertisement(flags),
        ) => {
            let options: Vec<_> = a.options_iterator().collect::<Result<_, _>>().ok()?;
            let mac = options.iter().find_map(|option| match option {
                NdpOptionSlice::TargetLinkLayerAddress(o) => mac(o.link_layer_address()),
                _ => None,
            });
            let answered_rightly = !(destination.is_multicast() && flags.solicited);
            answered_rightly.then_some(Heard {
                address: a.target_address().into(),
                mac,
                answer: flags.solicited,
                overrides: flags.r#override,
            })
        }
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

fn is_of_one(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Whether one interface of the link can have this address.
fn is_address_of_one(address: IpAddr) -> bool {
    let nobody = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    let everyone = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !nobody && !everyone
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
