// SPDX-License-Identifier: Apache-2.0
//! IPv6 packets, good and bad.

use super::frames::{V6, V6_DST, extension, fragment, icmp, naive_pseudo, parse_all, tcp, udp};
use crate::verdict::Reason;
use crate::wire::{Fragment, Kind, Parsed, ipv6, parse, protocol};

const UDP: u8 = protocol::UDP;
const HBH: u8 = protocol::HOP_BY_HOP;
const ROUTE: u8 = protocol::IPV6_ROUTE;
const FRAGMENT: u8 = protocol::IPV6_FRAGMENT;
const OPTS: u8 = protocol::IPV6_DEST_OPTS;
const AH: u8 = protocol::AH;

/// A packet whose payload is these parts; the first is of type `next_header`.
fn chain(next_header: u8, parts: &[&[u8]]) -> Vec<u8> {
    V6 {
        next_header,
        payload: parts.concat(),
        ..V6::default()
    }
    .frame()
}

fn ok(frame: &[u8]) -> Parsed {
    parse_all(frame).unwrap()
}

/// A routing header of two units.
fn routing(next: u8, kind: u8, segments_left: u8) -> Vec<u8> {
    let mut r = extension(next, 3);
    r[2] = kind;
    r[3] = segments_left;
    r[8..24].copy_from_slice(&[0xfd; 16]);
    r
}

/// An authentication header of `words` 32-bit words.
fn authentication(next: u8, words: usize) -> Vec<u8> {
    let mut a = vec![0; words * 4];
    a[0] = next;
    a[1] = (words - 2) as u8;
    a
}

#[test]
fn tcp_with_all_fields() {
    let frame = V6 {
        next_header: protocol::TCP,
        hop_limit: 9,
        class: 0xb9,
        payload: tcp(4711, 443, 0x18, &[], b"abc"),
        ..V6::default()
    }
    .frame();
    let p = ok(&frame);
    assert_eq!(
        (p.kind, p.ethertype, p.protocol),
        (Kind::Ipv6, 0x86dd, protocol::TCP)
    );
    assert_eq!(
        (p.l3, p.l4, p.l3_len, p.l4_len(), p.frame_len()),
        (14, 54, 63, 23, 77)
    );
    assert_eq!(
        (p.ttl, p.tos, p.fragment_id, p.dont_fragment),
        (9, 0xb9, 0, true)
    );
    assert_eq!((p.tcp_flags, p.key.sport, p.key.dport), (0x18, 4711, 443));
    assert_eq!((p.key.src, p.key.dst), (V6::default().src, V6_DST));
    assert!(!p.key.is_v4());
}

#[test]
fn lengths_and_padding() {
    let mut frame = V6::default().frame();
    let len = frame.len() as u32;
    frame.extend_from_slice(&[0; 7]);
    assert_eq!(ok(&frame).frame_len(), len);
    assert_eq!(parse(&frame, len - 1, true), Err(Reason::TruncatedIpv6));
    frame[14] = 0x50;
    assert_eq!(parse_all(&frame), Err(Reason::BadIpv6Version));
    // A payload length of zero (a jumbogram's, RFC 2675) leaves no room for the UDP header.
    let mut jumbo = V6::default().frame();
    jumbo[18..20].fill(0);
    assert_eq!(parse_all(&jumbo), Err(Reason::TruncatedTransport));
}

#[test]
fn extension_headers_are_walked() {
    let u = udp(7, 8, b"");
    let frame = chain(
        HBH,
        &[
            &extension(OPTS, 1),
            &extension(ROUTE, 2),
            &routing(AH, 4, 1),
            &authentication(OPTS, 4),
            &extension(UDP, 33),
            &u,
        ],
    );
    let p = ok(&frame);
    assert_eq!((p.protocol, p.key.protocol(), p.key.dport), (UDP, UDP, 8));
    assert_eq!(p.l4, 14 + 40 + 8 + 16 + 24 + 16 + 264);
    assert_eq!(p.l4_len(), 8);
}

#[test]
fn terminal_headers_are_opaque() {
    for next in [
        protocol::ESP,
        protocol::IPV6_NO_NEXT,
        135,
        139,
        140,
        4,
        41,
        253,
    ] {
        let p = ok(&chain(next, &[&[0xff; 3]]));
        assert_eq!((p.protocol, p.l4, p.key.dport), (next, 54, 0));
        let p = ok(&chain(OPTS, &[&extension(next, 1), &[0xff; 3]]));
        assert_eq!((p.protocol, p.l4), (next, 62));
    }
    let p = ok(&chain(protocol::ICMP, &[&[8]]));
    assert_eq!((p.protocol, p.icmp_type), (protocol::ICMP, 0));
}

#[test]
fn bad_chains() {
    let bad = Err(Reason::BadIpv6Extension);
    let u = udp(7, 8, b"");
    // Hop-by-hop anywhere but first, and what must not repeat.
    assert_eq!(
        parse_all(&chain(OPTS, &[&extension(HBH, 1), &extension(UDP, 1), &u])),
        bad
    );
    assert_eq!(
        parse_all(&chain(HBH, &[&extension(HBH, 1), &extension(UDP, 1), &u])),
        bad
    );
    let twice = [&routing(ROUTE, 4, 0)[..], &routing(UDP, 4, 0), &u];
    assert_eq!(parse_all(&chain(ROUTE, &twice)), bad);
    let twice = [&authentication(AH, 4)[..], &authentication(UDP, 4), &u];
    assert_eq!(parse_all(&chain(AH, &twice)), bad);
    let twice = [
        &fragment(FRAGMENT, 0, false, 1)[..],
        &fragment(UDP, 0, false, 1),
        &u,
    ];
    assert_eq!(parse_all(&chain(FRAGMENT, &twice)), bad);
    let (o, last) = (extension(OPTS, 1), extension(UDP, 1));
    assert!(parse_all(&chain(OPTS, &[&o, &last, &u])).is_ok());
    assert_eq!(parse_all(&chain(OPTS, &[&o, &o, &last, &u])), bad);
    // An authentication header shorter than its fixed part.
    assert_eq!(parse_all(&chain(AH, &[&authentication(UDP, 2), &u])), bad);
    assert!(parse_all(&chain(AH, &[&authentication(UDP, 3), &u])).is_ok());
    // Past the packet: the second byte counts in units of 8.
    let mut long = extension(UDP, 1);
    long[1] = 2;
    assert_eq!(parse_all(&chain(OPTS, &[&long, &u])), bad);
    long[1] = 255;
    assert_eq!(parse_all(&chain(OPTS, &[&long, &u])), bad);
    assert_eq!(parse_all(&chain(OPTS, &[&[UDP, 0, 0]])), bad);
    assert_eq!(parse_all(&chain(OPTS, &[])), bad);
    // Within the packet, but in a later segment.
    let frame = chain(OPTS, &[&extension(UDP, 100), &u]);
    assert_eq!(
        parse(&frame[..700], frame.len() as u32, true),
        Err(Reason::TruncatedTransport)
    );
    let two = chain(OPTS, &[&extension(OPTS, 100), &extension(UDP, 1), &u]);
    assert_eq!(parse(&two[..700], two.len() as u32, true), bad);
}

#[test]
fn routing_headers() {
    let u = udp(7, 8, b"");
    for (kind, left) in [(0, 0), (0, 1)] {
        let frame = chain(ROUTE, &[&routing(UDP, kind, left), &u]);
        assert_eq!(parse_all(&frame), Err(Reason::Ipv6RoutingHeader));
    }
    for kind in [2, 3, 4, 253] {
        assert_eq!(
            ok(&chain(ROUTE, &[&routing(UDP, kind, 1), &u])).key.dport,
            8
        );
    }
}

#[test]
fn final_destinations() {
    let u = udp(7, 8, b"");
    let end = |frame: &[u8]| {
        let p = ok(frame);
        ipv6::final_destination(&frame[14..], (p.l4 - p.l3) as usize)
    };
    assert_eq!(end(&V6::default().frame()), Some(V6_DST));
    assert_eq!(end(&chain(OPTS, &[&extension(UDP, 1), &u])), Some(V6_DST));
    assert_eq!(end(&chain(ROUTE, &[&routing(UDP, 4, 0), &u])), Some(V6_DST));
    assert_eq!(
        end(&chain(ROUTE, &[&routing(UDP, 4, 1), &u])),
        Some([0xfd; 16])
    );
    assert_eq!(
        end(&chain(
            HBH,
            &[&extension(ROUTE, 1), &routing(UDP, 2, 1), &u]
        )),
        Some([0xfd; 16])
    );
    assert_eq!(end(&chain(ROUTE, &[&routing(UDP, 3, 1), &u])), None);
}

#[test]
fn fragments() {
    let first = ok(&chain(
        FRAGMENT,
        &[
            &fragment(UDP, 0, true, 0xdead_beef),
            &udp(7, 8, &[0; 64])[..16],
        ],
    ));
    assert_eq!(
        (first.fragment, first.fragment_id),
        (Fragment::First, 0xdead_beef)
    );
    assert_eq!((first.key.dport, first.l4), (8, 62));

    let later = ok(&chain(
        FRAGMENT,
        &[&fragment(UDP, 1232, false, 5), &[1, 2, 3]],
    ));
    assert_eq!(
        (later.fragment, later.fragment_offset),
        (Fragment::Later, 1232)
    );
    assert_eq!((later.key.dport, later.protocol, later.l4), (0, UDP, 62));

    // An atomic fragment is a whole packet.
    let atomic = ok(&chain(
        FRAGMENT,
        &[&fragment(UDP, 0, false, 6), &udp(7, 8, b"abc")],
    ));
    assert_eq!(
        (atomic.fragment, atomic.key.dport, atomic.fragment_id),
        (Fragment::NotFragment, 8, 6)
    );

    // Headers behind the fragment header belong to the first fragment; a later one may be all data.
    let opts = ok(&chain(
        FRAGMENT,
        &[
            &fragment(OPTS, 0, true, 7),
            &extension(UDP, 1),
            &udp(7, 8, b""),
        ],
    ));
    assert_eq!((opts.protocol, opts.key.dport), (UDP, 8));
    let rest = ok(&chain(
        FRAGMENT,
        &[&fragment(OPTS, 80, false, 7), &[0xff; 5]],
    ));
    assert_eq!(
        (rest.protocol, rest.fragment, rest.l4),
        (OPTS, Fragment::Later, 62)
    );
}

#[test]
fn bad_fragments() {
    let bad = Err(Reason::BadFragment);
    let with = |next, offset, more, data: &[u8]| {
        parse_all(&chain(FRAGMENT, &[&fragment(next, offset, more, 1), data]))
    };
    assert_eq!(with(UDP, 8, true, &[0; 7]), bad);
    assert_eq!(with(UDP, 65528, false, &[0; 8]), bad);
    assert!(with(UDP, 65528, false, &[0; 7]).is_ok());
    assert_eq!(with(protocol::TCP, 8, false, &[0; 8]), bad);
    assert_eq!(with(protocol::TCP, 0, true, &[0; 16]), bad);
    assert_eq!(with(protocol::ICMPV6, 0, true, &[]), bad);
    // RFC 7112: the first fragment has all headers; here the options run out of it.
    let mut options = extension(UDP, 1);
    options[1] = 9;
    assert_eq!(with(OPTS, 0, true, &options), Err(Reason::BadIpv6Extension));
}

#[test]
fn addresses() {
    let with = |src, dst| {
        parse_all(
            &V6 {
                src,
                dst,
                ..V6::default()
            }
            .frame(),
        )
        .err()
    };
    let (src, dst) = (V6::default().src, V6_DST);
    let last = |n: u8| {
        let mut a = [0; 16];
        a[15] = n;
        a
    };
    let group = |scope: u8| {
        let mut a = last(1);
        a[..2].copy_from_slice(&[0xff, scope]);
        a
    };
    let mut mapped = last(1);
    mapped[10..12].fill(0xff);
    let mut compatible = last(1);
    compatible[12] = 10;
    let mut embedded = mapped;
    embedded[..4].copy_from_slice(&[0, 0x64, 0xff, 0x9b]);

    for bad in [last(1), last(0), mapped, group(2), group(0xe)] {
        assert_eq!(
            with(bad, dst),
            Some(Reason::SourceAddressInvalid),
            "{bad:x?}"
        );
    }
    for bad in [last(0), last(1), mapped, group(0), group(1), group(0x11)] {
        assert_eq!(
            with(src, bad),
            Some(Reason::DestinationAddressInvalid),
            "{bad:x?}"
        );
    }
    for good in [group(2), group(0x15), compatible, embedded, last(2)] {
        assert_eq!(with(src, good), None, "{good:x?}");
    }
    // Duplicate address detection and the like: no source, towards a group.
    assert_eq!(with(last(0), group(2)), None);
    assert_eq!(with(last(1), group(2)), Some(Reason::SourceAddressInvalid));
    assert_eq!(with(mapped, group(2)), Some(Reason::SourceAddressInvalid));
}

#[test]
fn address_predicates() {
    let link_local = |a, b| ipv6::is_link_local(&[a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(link_local(0xfe, 0x80) && link_local(0xfe, 0xbf));
    assert!(!link_local(0xfe, 0xc0) && !link_local(0xfd, 0x80));
    let group = ipv6::solicited_node(&V6_DST);
    assert_eq!(
        group,
        [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0x56, 0x78]
    );
    assert!(ipv6::is_multicast(&group) && ipv6::is_unspecified(&[0; 16]));
}

#[test]
fn icmp_identifiers_make_directions_mirror() {
    let with = |kind: u8, src: [u8; 16], dst: [u8; 16]| {
        let pseudo = naive_pseudo(&src, &dst, protocol::ICMPV6, 12);
        let payload = icmp(kind, 0, [0xab, 0xcd, 0, 1], b"data", pseudo);
        ok(&V6 {
            src,
            dst,
            next_header: protocol::ICMPV6,
            payload,
            ..V6::default()
        }
        .frame())
    };
    let (a, b) = (V6::default().src, V6_DST);
    let (there, back) = (with(128, a, b), with(129, b, a));
    assert_eq!(
        (there.key.sport, there.key.dport, there.icmp_type),
        (0xabcd, 0, 128)
    );
    assert_eq!(there.key.reversed(), back.key);
    assert_eq!(with(135, a, b).key.sport, 0);
}
