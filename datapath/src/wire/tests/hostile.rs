// SPDX-License-Identifier: Apache-2.0
//! Frames cut, bent and made up: nothing panics, nothing is written where it should not, and both ways of parsing
//! say the same.

use proptest::prelude::*;

use super::frames::*;
use crate::verdict::Reason;
use crate::wire::icmp_error::{self, IcmpError, MAX_FRAME};
use crate::wire::nd::Neighbor;
use crate::wire::parse::{parse_any, parse_into};
use crate::wire::{Fragment, Kind, MacAddr, Parsed, arp, icmp, partial, protocol};

/// One valid frame of every kind the switch reads.
fn valid() -> Vec<Vec<u8>> {
    let v4 = |protocol, payload| V4 {
        protocol,
        payload,
        ..V4::default()
    };
    let v6 = |next_header, payload| V6 {
        next_header,
        payload,
        ..V6::default()
    };
    let echo = |kind, pseudo| icmp(kind, 0, [0, 7, 0, 1], b"ping", pseudo);
    let pseudo = naive_pseudo(&V6_SRC, &V6_DST, protocol::ICMPV6, 12);
    let mut solicitation = vec![1, 1, 2, 0, 0, 0, 0, 2];
    solicitation.splice(0..0, V6_DST);
    let nd_pseudo = naive_pseudo(&V6_SRC, &V6_DST, protocol::ICMPV6, 32);
    let solicitation = icmp(135, 0, [0; 4], &solicitation, nd_pseudo);
    let chain = [
        &extension(protocol::IPV6_ROUTE, 1)[..],
        &[protocol::IPV6_FRAGMENT, 2, 4, 1, 0, 0, 0, 0],
        &V6_DST,
        &fragment(protocol::IPV6_DEST_OPTS, 0, true, 9),
        &extension(protocol::TCP, 2),
        &tcp(1, 2, 2, &[1, 1, 1, 1], &[0; 16]),
    ]
    .concat();
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend_from_slice(&[2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let frames = vec![
        v4(
            protocol::TCP,
            tcp(4000, 80, 0x12, &[2, 4, 5, 0xb4], b"data"),
        )
        .frame(),
        v4(protocol::UDP, udp(4000, 53, b"query")).frame(),
        v4(protocol::SCTP, sctp(1, 2, b"chunk")).frame(),
        v4(protocol::ICMP, echo(8, 0)).frame(),
        V4 {
            options: vec![7, 7, 4, 0, 0, 0, 0, 0],
            ..V4::default()
        }
        .frame(),
        V4 {
            flags_fragment: 0x2000,
            payload: udp(1, 2, &[0; 24]),
            ..V4::default()
        }
        .frame(),
        V4 {
            flags_fragment: 0x0010,
            payload: vec![1; 9],
            ..V4::default()
        }
        .frame(),
        v6(protocol::TCP, tcp(4000, 443, 0x18, &[], b"data")).frame(),
        v6(protocol::UDP, udp(4000, 53, b"query")).frame(),
        v6(protocol::ICMPV6, echo(128, pseudo)).frame(),
        V6 {
            hop_limit: 255,
            ..v6(protocol::ICMPV6, solicitation)
        }
        .frame(),
        v6(protocol::HOP_BY_HOP, chain).frame(),
        eth(0x0806, &arp),
    ];
    let tags: Vec<_> = frames
        .iter()
        .map(|f| tagged(f, &[(0x88a8, 5), (0x8100, 6)]))
        .collect();
    [frames, tags].concat()
}

/// Does with a frame what the switch may do with one, and holds the results to what they promise.
fn exercise(frame: &[u8], total_len: u32) -> Result<Parsed, Reason> {
    let untouched = Parsed {
        fragment_id: 0x5eed,
        ..Parsed::default()
    };
    let (mut out, mut slow) = (untouched, untouched);
    let result = parse_into(frame, total_len, true, &mut out);
    assert_eq!(parse_any(frame, total_len, true, &mut slow), result);
    assert_eq!(out, slow);
    if let Err(reason) = result {
        assert_eq!(out, untouched);
        return Err(reason);
    }
    // Everything but tagged frames is the same where tags are not allowed.
    let mut strict = untouched;
    let tagless = parse_into(frame, total_len, false, &mut strict);
    match out.vlan.is_tagged() {
        true => assert_eq!(tagless, Err(Reason::VlanNotExpected)),
        false => assert_eq!((tagless, strict), (Ok(()), out)),
    }
    check_promises(&out, frame, total_len);
    write_answers(frame, &out);
    Ok(out)
}

fn check_promises(p: &Parsed, frame: &[u8], total_len: u32) {
    assert!(p.l3 as usize <= frame.len() && p.l3 <= p.l4);
    assert!(p.frame_len() <= total_len.max(p.l3 as u32));
    if !matches!(p.kind, Kind::Ipv4 | Kind::Ipv6) {
        return;
    }
    assert!(p.l4 as u32 <= p.frame_len());
    assert_eq!(p.key.protocol(), p.protocol);
    assert_eq!(p.key.is_v4(), p.kind == Kind::Ipv4);
    assert_eq!(p.l4 as u32 + p.l4_len(), p.frame_len());
    if p.fragment == Fragment::Later {
        assert_eq!(
            (p.key.sport, p.key.dport, p.tcp_flags, p.icmp_type),
            (0, 0, 0, 0)
        );
    }
}

fn write_answers(frame: &[u8], p: &Parsed) {
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let mut copy = frame.to_vec();
    if !icmp::echo_reply_in_place(&mut copy, p) {
        assert_eq!(copy, frame);
    }
    copy.copy_from_slice(frame);
    if !arp::reply_in_place(&mut copy, p.l3 as usize, mac) {
        assert_eq!(copy, frame);
    }
    copy.copy_from_slice(frame);
    if let Some(at) = partial::detect(frame, p) {
        assert_eq!(at.start, p.l4);
        let whole = p.frame_len() as usize <= frame.len();
        assert_eq!(partial::fill(at, p.frame_len(), [&mut copy[..]]), whole);
    }
    let _ = Neighbor::read(frame, p);
    let mut out = [0; MAX_FRAME];
    for error in [IcmpError::TimeExceeded, IcmpError::TooBig { mtu: 1280 }] {
        let v4 = icmp_error::write(frame, p, error, mac, [10, 0, 0, 1].into(), &mut out);
        let v6 = icmp_error::write(frame, p, error, mac, V6_DST.into(), &mut out);
        let answered = v4.or(v6);
        assert_eq!(
            answered.is_some(),
            icmp_error::is_answerable(frame, p, error)
        );
        if let Some(len) = answered {
            let own = parse_all(&out[..len]).expect("an error of ours parses");
            assert!(
                !icmp_error::is_answerable(&out[..len], &own, error),
                "error about an error"
            );
        }
    }
}

#[test]
fn cut_at_every_length() {
    for frame in valid() {
        let total = frame.len() as u32;
        let whole = exercise(&frame, total).unwrap();
        for len in 0..frame.len() {
            // The frame ends there; ARP's end is for ArpPacket to judge.
            let cut = exercise(&frame[..len], len as u32);
            assert!(
                cut.is_err() || whole.kind == Kind::Arp,
                "{len} of {frame:02x?}"
            );
            // Only the first segment does: then all headers are there, or it is refused.
            if let Ok(p) = exercise(&frame[..len], total) {
                assert_eq!(p, whole);
            }
        }
        // Anything behind the packet is padding.
        let mut padded = frame.clone();
        padded.extend_from_slice(&[0xff; 30]);
        let p = exercise(&padded, total + 30).unwrap();
        if whole.kind != Kind::Arp {
            assert_eq!(p, whole);
        }
    }
}

#[test]
fn every_byte_takes_every_value() {
    for frame in valid() {
        let untagged_v4 = frame[12..14] == [8, 0];
        for at in 0..frame.len() {
            for value in 0..=255 {
                let mut bent = frame.clone();
                bent[at] = value;
                let _ = exercise(&bent, bent.len() as u32);
                if untagged_v4 && (15..34).contains(&at) {
                    refresh_v4(&mut bent);
                    let _ = exercise(&bent, bent.len() as u32);
                }
            }
        }
    }
}

#[test]
fn lengths_beyond_all_reason() {
    for frame in valid() {
        for total in [0, 1, 13, 14, 65_535, 65_549, u32::MAX] {
            let _ = exercise(&frame, total);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(frame in prop::collection::vec(any::<u8>(), 0..300), total: u32) {
        let _ = exercise(&frame, frame.len() as u32);
        let _ = exercise(&frame, total);
    }

    #[test]
    fn any_bytes_behind_a_valid_beginning(
        which in 0usize..26,
        keep in 14usize..80,
        rest in prop::collection::vec(any::<u8>(), 0..200),
        refresh: bool,
    ) {
        let mut frame = valid().swap_remove(which);
        frame.truncate(keep);
        frame.extend_from_slice(&rest);
        if refresh && frame.len() >= 74 && frame[12..14] == [8, 0] {
            refresh_v4(&mut frame);
        }
        let _ = exercise(&frame, frame.len() as u32);
    }

    /// Tags move everything behind them and change nothing else.
    #[test]
    fn a_tag_only_shifts(which in 0usize..13, at in 14usize..80, value: u8, tci: u16) {
        let mut frame = valid().swap_remove(which);
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        let shifted = tagged(&frame, &[(0x8100, tci)]);
        match (exercise(&frame, frame.len() as u32), exercise(&shifted, shifted.len() as u32)) {
            (Ok(a), Ok(b)) => {
                let back = Parsed { l3: b.l3 - 4, l4: b.l4 - 4, vlan: a.vlan, ..b };
                prop_assert_eq!(a, back);
            }
            (a, b) => prop_assert_eq!(a, b),
        }
    }
}
