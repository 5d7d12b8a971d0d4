// SPDX-License-Identifier: Apache-2.0
//! Echo and ARP replies, made in place.

use proptest::prelude::*;

use super::frames::{
    DST, SRC, V4, V6, eth, extension, icmp, naive_pseudo, naive_sum, parse_all, refresh_v4, tagged,
};
use crate::wire::arp::{self, ArpPacket};
use crate::wire::icmp::{echo_reply_in_place, is_echo_request};
use crate::wire::{MacAddr, protocol};

fn echo_v4(data: &[u8]) -> Vec<u8> {
    let payload = icmp(8, 0, [1, 2, 3, 4], data, 0);
    V4 {
        protocol: protocol::ICMP,
        ttl: 7,
        payload,
        ..V4::default()
    }
    .frame()
}

fn echo_v6(data: &[u8]) -> V6 {
    let v6 = V6::default();
    let pseudo = naive_pseudo(&v6.src, &v6.dst, protocol::ICMPV6, 8 + data.len());
    let payload = icmp(128, 0, [1, 2, 3, 4], data, pseudo);
    V6 {
        next_header: protocol::ICMPV6,
        hop_limit: 7,
        payload,
        ..v6
    }
}

fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let parsed = parse_all(frame).unwrap();
    let mut reply = frame.to_vec();
    let done = echo_reply_in_place(&mut reply, &parsed);
    assert!(done || reply == frame, "changed without an answer");
    done.then_some(reply)
}

proptest! {
    #[test]
    fn echo_replies(data in prop::collection::vec(any::<u8>(), 0..200), tag: bool) {
        for frame in [echo_v4(&data), echo_v6(&data).frame()] {
            let frame = if tag { tagged(&frame, &[(0x8100, 5)]) } else { frame };
            let reply = answer(&frame).unwrap();
            let (asked, told) = (parse_all(&frame).unwrap(), parse_all(&reply).unwrap());
            prop_assert_eq!(asked.key.reversed(), told.key);
            prop_assert_eq!(told.ttl, 64);
            prop_assert_eq!(&reply[..6], &SRC.0);
            prop_assert_eq!(&reply[6..12], &DST.0);
            prop_assert_eq!(&reply[12..asked.l3 as usize], &frame[12..asked.l3 as usize]);
            let l4 = asked.l4 as usize;
            prop_assert_eq!(&reply[l4 + 4..], &frame[l4 + 4..]);
            let pseudo = match told.protocol {
                protocol::ICMP => 0,
                _ => naive_pseudo(&told.key.src, &told.key.dst, protocol::ICMPV6, reply.len() - l4),
            };
            let message = [&pseudo.to_be_bytes()[..], &reply[l4..]].concat();
            prop_assert_eq!(naive_sum(&message), 0xffff);
            prop_assert_eq!(reply[l4], if told.protocol == protocol::ICMP { 0 } else { 129 });
        }
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut frame = echo_v4(b"abcd");
    frame[45] ^= 1;
    let reply = answer(&frame).unwrap();
    assert_ne!(naive_sum(&reply[34..]), 0xffff);
}

#[test]
fn only_the_first_segment_is_needed() {
    let frame = echo_v4(&[7; 3000]);
    let parsed = parse_all(&frame).unwrap();
    let mut first = frame[..1000].to_vec();
    assert!(echo_reply_in_place(&mut first, &parsed));
    assert_eq!(
        [&first[..], &frame[1000..]].concat(),
        answer(&frame).unwrap()
    );
}

#[test]
fn not_answered() {
    let cases: [(&str, Vec<u8>); 9] = [
        (
            "reply",
            V4 {
                protocol: 1,
                payload: icmp(0, 0, [0; 4], &[], 0),
                ..V4::default()
            }
            .frame(),
        ),
        (
            "code",
            V4 {
                protocol: 1,
                payload: icmp(8, 1, [0; 4], &[], 0),
                ..V4::default()
            }
            .frame(),
        ),
        ("udp", V4::default().frame()),
        (
            "broadcast",
            V4 {
                dst: [255; 4],
                protocol: 1,
                payload: icmp(8, 0, [0; 4], &[], 0),
                ..V4::default()
            }
            .frame(),
        ),
        (
            "multicast",
            V4 {
                dst: [224, 0, 0, 1],
                protocol: 1,
                payload: icmp(8, 0, [0; 4], &[], 0),
                ..V4::default()
            }
            .frame(),
        ),
        (
            "first fragment",
            V4 {
                flags_fragment: 0x2000,
                protocol: 1,
                payload: icmp(8, 0, [0; 4], &[], 0),
                ..V4::default()
            }
            .frame(),
        ),
        (
            "v6 multicast",
            V6 {
                dst: [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                ..echo_v6(&[])
            }
            .frame(),
        ),
        (
            "v6 extended",
            V6 {
                next_header: protocol::IPV6_DEST_OPTS,
                payload: [extension(protocol::ICMPV6, 1), echo_v6(&[]).payload].concat(),
                ..V6::default()
            }
            .frame(),
        ),
        ("other", eth(0x88cc, &[8, 0, 0, 0, 0, 0, 0, 0])),
    ];
    for (name, frame) in cases {
        assert_eq!(answer(&frame), None, "{name}");
    }
    let mut group = echo_v4(&[]);
    group[0] |= 1;
    assert_eq!(answer(&group), None, "multicast MAC address");
    // Found by fuzzing: the reply had a source address that no station has.
    let mut zero = echo_v4(&[]);
    zero[..6].fill(0);
    assert_eq!(answer(&zero), None, "zero MAC address");
    let mut cut = echo_v4(&[]);
    let parsed = parse_all(&cut).unwrap();
    assert!(is_echo_request(&parsed));
    cut.truncate(41);
    assert!(
        !echo_reply_in_place(&mut cut, &parsed),
        "shorter than it was"
    );
}

#[test]
fn options_stay_in_the_reply() {
    let payload = icmp(8, 0, [1, 2, 3, 4], b"abcd", 0);
    let frame = V4 {
        protocol: 1,
        options: vec![1, 1, 1, 0],
        payload,
        ..V4::default()
    }
    .frame();
    let reply = answer(&frame).unwrap();
    assert_eq!(reply[34..38], [1, 1, 1, 0]);
    assert!(parse_all(&reply).is_ok());
    let mut again = reply.clone();
    refresh_v4(&mut again);
    assert_eq!(again, reply);
}

const OWN: [u8; 4] = [169, 254, 1, 1];

fn arp_packet(operation: u16, sender_ip: [u8; 4], target_ip: [u8; 4]) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend_from_slice(&operation.to_be_bytes());
    p.extend_from_slice(&SRC.0);
    p.extend_from_slice(&sender_ip);
    p.extend_from_slice(&[0; 6]);
    p.extend_from_slice(&target_ip);
    p
}

#[test]
fn arp_replies() {
    let mac = MacAddr([0xee; 6]);
    let request = eth(
        0x0806,
        &[arp_packet(1, [10, 0, 0, 1], OWN), vec![0; 18]].concat(),
    );
    for (frame, l3) in [
        (request.clone(), 14),
        (tagged(&request, &[(0x8100, 9)]), 18),
    ] {
        let mut reply = frame.clone();
        assert!(arp::reply_in_place(&mut reply, l3, mac));
        assert_eq!((&reply[..6], &reply[6..12]), (&SRC.0[..], &mac.0[..]));
        assert_eq!(reply[12..l3], frame[12..l3]);
        assert_eq!(reply.len(), frame.len());
        let p = ArpPacket::read(&reply[l3..]).unwrap();
        assert_eq!(
            (p.operation.get(), p.sender_mac, p.sender_ip),
            (2, mac, OWN)
        );
        assert_eq!((p.target_mac, p.target_ip), (SRC, [10, 0, 0, 1]));
    }
    let mut reply = eth(0x0806, &arp_packet(2, [10, 0, 0, 1], OWN));
    let before = reply.clone();
    assert!(!arp::reply_in_place(&mut reply, 14, mac));
    assert!(!arp::reply_in_place(&mut reply, 15, mac));
    assert!(!arp::reply_in_place(&mut reply, usize::MAX, mac));
    assert_eq!(reply, before);
}

#[test]
fn arp_kinds() {
    let read = |p: &[u8]| ArpPacket::read(p).copied();
    let probe = read(&arp_packet(1, [0; 4], OWN)).unwrap();
    assert!(probe.is_probe() && probe.is_request() && !probe.is_announcement());
    let announcement = read(&arp_packet(1, OWN, OWN)).unwrap();
    assert!(announcement.is_announcement() && !announcement.is_probe());
    let whole = arp_packet(1, OWN, [10, 0, 0, 9]);
    assert!(!read(&whole).unwrap().is_announcement());
    for len in 0..whole.len() {
        assert!(read(&whole[..len]).is_none(), "{len}");
    }
    for byte in 0..6 {
        let mut bad = whole.clone();
        bad[byte] ^= 1;
        assert!(read(&bad).is_none(), "byte {byte}");
    }
}
