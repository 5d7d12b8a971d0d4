// SPDX-License-Identifier: Apache-2.0
//! Frames of connections.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder};
use podswitch_datapath::wire::MacAddr;
use podswitch_oracle::generate::Packet;

/// What a frame is to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// The first one, from who asks.
    First,
    /// The answer to it.
    Answer,
    /// A later one, from who asked.
    Later,
}

/// A frame of a packet's connection; `own` is the asking side's port or identifier.
pub(crate) fn frame(packet: &Packet, own: u16, part: Part, from: MacAddr, to: MacAddr) -> Vec<u8> {
    let there = (packet.source, packet.destination, own, packet.port);
    let (source, destination, sport, dport) = match part {
        Part::Answer => (there.1, there.0, there.3, there.2),
        Part::First | Part::Later => there,
    };
    let builder = PacketBuilder::ethernet2(from.0, to.0);
    let ip = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => builder.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => builder.ipv6(a.octets(), b.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut bytes = Vec::new();
    let written = match packet.protocol {
        6 => {
            let tcp = ip.tcp(sport, dport, 1, 1000);
            match part {
                Part::First => tcp.syn(),
                Part::Answer => tcp.syn().ack(2),
                Part::Later => tcp.ack(2),
            }
            .write(&mut bytes, &[])
        }
        17 => ip.udp(sport, dport).write(&mut bytes, b"data"),
        1 if part == Part::Answer => ip.icmpv4_echo_reply(own, 1).write(&mut bytes, b"data"),
        1 => ip.icmpv4_echo_request(own, 1).write(&mut bytes, b"data"),
        58 if part == Part::Answer => ip.icmpv6_echo_reply(own, 1).write(&mut bytes, b"data"),
        58 => ip.icmpv6_echo_request(own, 1).write(&mut bytes, b"data"),
        132 => ip.write(&mut bytes, IpNumber::SCTP, &sctp(sport, dport, part)),
        other => ip.write(&mut bytes, IpNumber(other), &[0; 16]),
    };
    written.expect("room in memory");
    bytes
}

/// An SCTP packet (RFC 9260) with INIT, INIT ACK or DATA, its CRC left out.
fn sctp(sport: u16, dport: u16, part: Part) -> Vec<u8> {
    let (kind, tag) = match part {
        Part::First => (1, 0u32),
        Part::Answer => (2, 7),
        Part::Later => (0, 7),
    };
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 3, 0, 20]);
    bytes.extend([0, 0, 0, 7, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}
