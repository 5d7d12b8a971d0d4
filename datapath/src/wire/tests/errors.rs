// SPDX-License-Identifier: Apache-2.0
//! ICMP and ICMPv6 errors.

use std::net::IpAddr;

use proptest::prelude::*;

use super::frames::{
    SRC, V4, V6, eth, fragment, icmp, naive_pseudo, naive_sum, parse_all, tagged, udp,
};
use crate::wire::icmp_error::{IcmpError, MAX_FRAME, is_answerable, write};
use crate::wire::{MacAddr, protocol};

const GATEWAY: MacAddr = MacAddr([0xee; 6]);
const V4_GATEWAY: [u8; 4] = [169, 254, 1, 1];
const V6_GATEWAY: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const ALL: [IcmpError; 7] = [
    IcmpError::NoRoute,
    IcmpError::HostUnreachable,
    IcmpError::PortUnreachable,
    IcmpError::Prohibited,
    IcmpError::TimeExceeded,
    IcmpError::TooBig { mtu: 1400 },
    IcmpError::ParameterProblem {
        code: 0,
        pointer: 9,
    },
];

fn error_about(frame: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let parsed = parse_all(frame).unwrap();
    let source: IpAddr = match parsed.key.is_v4() {
        true => V4_GATEWAY.into(),
        false => V6_GATEWAY.into(),
    };
    let mut out = [0xaa; MAX_FRAME];
    let len = write(frame, &parsed, error, GATEWAY, source, &mut out);
    assert_eq!(len.is_some(), is_answerable(frame, &parsed, error));
    assert!(
        out[len.unwrap_or(0)..].iter().all(|b| *b == 0xaa),
        "wrote more than it said"
    );
    len.map(|len| out[..len].to_vec())
}

/// Type, code and the four bytes behind the checksum.
fn head(frame: &[u8]) -> (u8, u8, [u8; 4]) {
    let l4 = parse_all(frame).unwrap().l4 as usize;
    (
        frame[l4],
        frame[l4 + 1],
        *frame[l4 + 4..].first_chunk().unwrap(),
    )
}

/// What a host checks before it believes an error about a packet of `offending`.
fn check(error: &[u8], offending: &[u8]) {
    let (e, o) = (parse_all(error).unwrap(), parse_all(offending).unwrap());
    let (l3, l4) = (o.l3 as usize, e.l4 as usize);
    assert_eq!(
        (e.kind, e.l3, e.frame_len() as usize),
        (o.kind, o.l3, error.len())
    );
    assert_eq!((&error[..6], &error[6..12]), (&SRC.0[..], &GATEWAY.0[..]));
    assert_eq!(error[12..l3], offending[12..l3], "tags and EtherType");
    assert_eq!(e.key.dst, o.key.src);
    assert_eq!(e.ttl, 64);
    let (pseudo, limit, l3_header) = match o.key.is_v4() {
        true => (0, 576, 20),
        false => {
            let len = error.len() - l4;
            assert_eq!(e.key.src, V6_GATEWAY);
            (
                naive_pseudo(&e.key.src, &e.key.dst, protocol::ICMPV6, len),
                1280,
                40,
            )
        }
    };
    let covered = [&pseudo.to_be_bytes()[..], &error[l4..]].concat();
    assert_eq!(naive_sum(&covered), 0xffff, "checksum");
    let packet = &offending[l3..o.frame_len() as usize];
    let quoted = packet.len().min(limit - l3_header - 8);
    assert_eq!(&error[l4 + 8..], &packet[..quoted]);
    assert!(e.l3_len as usize <= limit);
}

#[test]
fn types_and_codes() {
    let v4 = V4::default().frame();
    let v6 = V6::default().frame();
    let both = |e| {
        (
            head(&error_about(&v4, e).unwrap()),
            head(&error_about(&v6, e).unwrap()),
        )
    };
    let none = [0; 4];
    assert_eq!(both(IcmpError::NoRoute), ((3, 0, none), (1, 0, none)));
    assert_eq!(
        both(IcmpError::HostUnreachable),
        ((3, 1, none), (1, 3, none))
    );
    assert_eq!(
        both(IcmpError::PortUnreachable),
        ((3, 3, none), (1, 4, none))
    );
    assert_eq!(both(IcmpError::Prohibited), ((3, 13, none), (1, 1, none)));
    assert_eq!(both(IcmpError::TimeExceeded), ((11, 0, none), (3, 0, none)));
    let mtu = IcmpError::TooBig { mtu: 0x1_0506 };
    assert_eq!(
        both(mtu),
        ((3, 4, [0, 0, 0xff, 0xff]), (2, 0, [0, 1, 5, 6]))
    );
    let mtu = IcmpError::TooBig { mtu: 1450 };
    assert_eq!(
        both(mtu),
        ((3, 4, [0, 0, 5, 0xaa]), (2, 0, [0, 0, 5, 0xaa]))
    );
    let pointer = IcmpError::ParameterProblem {
        code: 1,
        pointer: 300,
    };
    assert_eq!(
        both(pointer),
        ((12, 1, [255, 0, 0, 0]), (4, 1, [0, 0, 1, 44]))
    );
}

proptest! {
    #[test]
    fn errors_are_well_formed(
        len in 0usize..3000,
        which in 0usize..7,
        tags in 0usize..3,
        padding in 0usize..40,
    ) {
        let payload = udp(1, 2, &vec![0x5c; len]);
        let tags = &[(0x88a8, 9), (0x8100, 0x2007)][..tags];
        let frames = [V4 { payload: payload.clone(), ..V4::default() }.frame(), V6 { payload, ..V6::default() }.frame()];
        for frame in frames {
            let mut frame = tagged(&frame, tags);
            frame.resize(frame.len() + padding, 0);
            let error = error_about(&frame, ALL[which]).unwrap();
            check(&error, &frame);
        }
    }
}

#[test]
fn ipv4_errors_have_precedence_and_are_not_fragmented() {
    let error = error_about(&V4::default().frame(), IcmpError::TimeExceeded).unwrap();
    let parsed = parse_all(&error).unwrap();
    assert_eq!(
        (parsed.tos, parsed.dont_fragment, parsed.fragment_id),
        (0xc0, true, 0)
    );
}

#[test]
fn only_the_first_segment_is_quoted() {
    let whole = V6 {
        payload: udp(1, 2, &[3; 5000]),
        ..V6::default()
    }
    .frame();
    let parsed = parse_all(&whole).unwrap();
    let mut out = [0; MAX_FRAME];
    let error = IcmpError::TooBig { mtu: 1500 };
    let len = write(
        &whole[..200],
        &parsed,
        error,
        GATEWAY,
        V6_GATEWAY.into(),
        &mut out,
    )
    .unwrap();
    assert_eq!(len, 14 + 40 + 8 + 186);
    assert_eq!(out[62..len], whole[14..200]);
}

#[test]
fn never_answered_v4() {
    let icmp_of = |kind| V4 {
        protocol: 1,
        payload: icmp(kind, 0, [0; 4], &[0; 28], 0),
        ..V4::default()
    };
    for kind in [3, 4, 5, 11, 12, 1, 2, 6, 7, 19, 41, 200] {
        assert_eq!(
            error_about(&icmp_of(kind).frame(), ALL[0]),
            None,
            "type {kind}"
        );
    }
    for kind in [0, 8, 13, 14] {
        assert!(
            error_about(&icmp_of(kind).frame(), ALL[0]).is_some(),
            "type {kind}"
        );
    }
    for (name, packet) in [
        (
            "later fragment",
            V4 {
                flags_fragment: 3,
                ..V4::default()
            },
        ),
        (
            "multicast",
            V4 {
                dst: [224, 0, 0, 5],
                ..V4::default()
            },
        ),
        (
            "broadcast",
            V4 {
                dst: [255; 4],
                ..V4::default()
            },
        ),
        (
            "no source",
            V4 {
                src: [0; 4],
                dst: [255; 4],
                ..V4::default()
            },
        ),
        (
            "source of class E",
            V4 {
                src: [240, 0, 0, 1],
                ..V4::default()
            },
        ),
    ] {
        for error in ALL {
            assert_eq!(
                error_about(&packet.frame(), error),
                None,
                "{name} {error:?}"
            );
        }
    }
    let first = V4 {
        flags_fragment: 0x2000,
        payload: udp(1, 2, &[0; 8]),
        ..V4::default()
    };
    assert!(error_about(&first.frame(), ALL[4]).is_some());
    let mut group = V4::default().frame();
    group[..6].fill(0xff);
    assert_eq!(error_about(&group, ALL[0]), None, "link broadcast");
}

#[test]
fn never_answered_v6() {
    let icmp_of = |kind| V6 {
        next_header: 58,
        payload: icmp(kind, 0, [0; 4], &[0; 48], 0),
        ..V6::default()
    };
    for kind in [1, 2, 3, 4, 5, 100, 127, 137] {
        assert_eq!(
            error_about(&icmp_of(kind).frame(), ALL[5]),
            None,
            "type {kind}"
        );
    }
    for kind in [128, 129, 135, 200] {
        assert!(
            error_about(&icmp_of(kind).frame(), ALL[5]).is_some(),
            "type {kind}"
        );
    }
    let mut group = [0; 16];
    (group[0], group[1], group[15]) = (0xff, 0x0e, 9);
    let multicast = V6 {
        dst: group,
        ..V6::default()
    }
    .frame();
    let mut link = V6::default().frame();
    link[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 9]);
    for frame in [multicast, link] {
        for error in ALL {
            let allowed = matches!(error, IcmpError::TooBig { .. });
            assert_eq!(error_about(&frame, error).is_some(), allowed, "{error:?}");
        }
    }
    let nowhere = V6 {
        src: [0; 16],
        dst: group,
        ..V6::default()
    }
    .frame();
    let payload = [fragment(17, 8, false, 1), vec![0; 8]].concat();
    let later = V6 {
        next_header: 44,
        payload,
        ..V6::default()
    }
    .frame();
    for error in ALL {
        assert_eq!(error_about(&nowhere, error), None, "from nowhere");
        assert_eq!(error_about(&later, error), None, "later fragment");
    }
}

#[test]
fn nothing_is_written_for_nothing() {
    let frame = V4::default().frame();
    let parsed = parse_all(&frame).unwrap();
    let mut out = [0xaa; MAX_FRAME];
    let other = write(
        &frame,
        &parsed,
        ALL[0],
        GATEWAY,
        V6_GATEWAY.into(),
        &mut out,
    );
    assert_eq!(
        (other, &out[..]),
        (None, &[0xaa; MAX_FRAME][..]),
        "other version"
    );
    let mut small = [0xaa; 14 + 20 + 8 + 34];
    assert_eq!(
        write(
            &frame,
            &parsed,
            ALL[0],
            GATEWAY,
            V4_GATEWAY.into(),
            &mut small
        ),
        None
    );
    assert_eq!(small, [0xaa; 14 + 20 + 8 + 34]);
    assert_eq!(
        write(&[], &parsed, ALL[0], GATEWAY, V4_GATEWAY.into(), &mut out),
        None
    );
    let arp = eth(0x0806, &[0; 46]);
    let parsed = parse_all(&arp).unwrap();
    assert_eq!(
        write(&arp, &parsed, ALL[0], GATEWAY, V4_GATEWAY.into(), &mut out),
        None
    );
    assert_eq!(out, [0xaa; MAX_FRAME]);
}
