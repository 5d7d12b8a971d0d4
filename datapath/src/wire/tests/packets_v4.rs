// SPDX-License-Identifier: Apache-2.0
//! IPv4 packets, good and bad.

use super::frames::{V4, eth, icmp, parse_all, refresh_v4, sctp, tcp, udp};
use crate::verdict::Reason;
use crate::wire::flow_key::map_v4;
use crate::wire::{Fragment, Kind, Parsed, ipv4, parse, protocol};

fn reason(packet: &V4) -> Option<Reason> {
    parse_all(&packet.frame()).err()
}

fn parsed(packet: &V4) -> Parsed {
    parse_all(&packet.frame()).unwrap()
}

#[test]
fn tcp_with_all_fields() {
    let p = parsed(&V4 {
        protocol: protocol::TCP,
        ttl: 3,
        tos: 0xb8,
        id: 77,
        payload: tcp(4711, 80, 0x12, &[2, 4, 5, 0xb4], b"x"),
        ..V4::default()
    });
    assert_eq!(
        (p.kind, p.ethertype, p.protocol),
        (Kind::Ipv4, 0x0800, protocol::TCP)
    );
    assert_eq!(
        (p.l3, p.l4, p.l3_len, p.l4_len(), p.frame_len()),
        (14, 34, 45, 25, 59)
    );
    assert_eq!(
        (p.ttl, p.tos, p.fragment_id, p.dont_fragment),
        (3, 0xb8, 77, true)
    );
    assert_eq!((p.fragment, p.fragment_offset), (Fragment::NotFragment, 0));
    assert_eq!((p.tcp_flags, p.icmp_type, p.icmp_code), (0x12, 0, 0));
    assert_eq!(
        (p.key.src, p.key.dst),
        (map_v4([10, 1, 2, 3]), map_v4([10, 4, 5, 6]))
    );
    assert_eq!(
        (p.key.sport, p.key.dport, p.key.protocol()),
        (4711, 80, protocol::TCP)
    );
    assert_eq!(p.key.vrf().0, 0);
}

#[test]
fn padding_is_reported_and_not_counted() {
    let mut frame = V4 {
        payload: udp(1, 2, b"z"),
        ..V4::default()
    }
    .frame();
    let len = frame.len() as u32;
    frame.resize(60, 0xee);
    let p = parse_all(&frame).unwrap();
    assert_eq!((p.frame_len(), p.l4_len()), (len, 9));
}

#[test]
fn later_segments_count_in_the_length() {
    let whole = V4 {
        payload: udp(1, 2, &[7; 9000]),
        ..V4::default()
    }
    .frame();
    let first = &whole[..2000];
    let p = parse(first, whole.len() as u32, false).unwrap();
    assert_eq!((p.l3_len as usize, p.key.dport), (whole.len() - 14, 2));
    assert_eq!(
        parse(first, whole.len() as u32 - 1, false),
        Err(Reason::TruncatedIpv4)
    );
}

#[test]
fn versions_and_header_lengths() {
    for (byte, want) in [
        (0x65, Reason::BadIpv4Version),
        (0x05, Reason::BadIpv4Version),
        (0x44, Reason::BadIpv4HeaderLength),
        (0x40, Reason::BadIpv4HeaderLength),
    ] {
        let mut frame = V4::default().frame();
        frame[14] = byte;
        assert_eq!(parse_all(&frame), Err(want), "{byte:02x}");
    }
    // A header beyond the frame, and one beyond the total length.
    let mut frame = V4 {
        payload: udp(1, 2, &[]),
        ..V4::default()
    }
    .frame();
    frame[14] = 0x4f;
    assert_eq!(parse_all(&frame), Err(Reason::TruncatedIpv4));
    let mut frame = V4 {
        options: vec![1; 8],
        payload: udp(1, 2, &[]),
        ..V4::default()
    }
    .frame();
    frame[17] = 27;
    refresh_v4(&mut frame);
    assert_eq!(parse_all(&frame), Err(Reason::BadIpv4HeaderLength));
    let mut frame = V4::default().frame();
    frame[16..18].fill(0);
    refresh_v4(&mut frame);
    assert_eq!(parse_all(&frame), Err(Reason::BadIpv4HeaderLength));
}

#[test]
fn every_bit_of_the_header_is_under_the_checksum() {
    let frame = V4 {
        options: vec![1, 1, 1, 0],
        ..V4::default()
    }
    .frame();
    for bit in 0..24 * 8 {
        let mut bad = frame.clone();
        bad[14 + bit / 8] ^= 1 << (bit % 8);
        let got = parse_all(&bad).unwrap_err();
        if bit >= 8 {
            assert_eq!(got, Reason::BadIpv4Checksum, "bit {bit}");
        }
    }
}

#[test]
fn options() {
    let with = |options: &[u8]| {
        reason(&V4 {
            options: options.to_vec(),
            ..V4::default()
        })
    };
    // Record route, timestamp, router alert, padding, end of list with rubbish behind it.
    assert_eq!(with(&[7, 7, 4, 0, 0, 0, 0, 1]), None);
    assert_eq!(with(&[68, 4, 5, 0]), None);
    assert_eq!(with(&[148, 4, 0, 0]), None);
    assert_eq!(with(&[1, 1, 1, 1]), None);
    assert_eq!(with(&[0, 131, 99, 99]), None);
    assert_eq!(
        with(&[131, 7, 4, 10, 0, 0, 1, 0]),
        Some(Reason::Ipv4SourceRoute)
    );
    assert_eq!(with(&[1, 137, 3, 4]), Some(Reason::Ipv4SourceRoute));
    assert_eq!(with(&[7, 1, 0, 0]), Some(Reason::BadIpv4Options));
    assert_eq!(with(&[7, 0, 0, 0]), Some(Reason::BadIpv4Options));
    assert_eq!(with(&[7, 5, 0, 0]), Some(Reason::BadIpv4Options));
    assert_eq!(with(&[1, 1, 1, 7]), Some(Reason::BadIpv4Options));
    let longest = V4 {
        options: vec![1; 40],
        ..V4::default()
    };
    assert_eq!(
        (parsed(&longest).l4, parsed(&longest).key.dport),
        (74, 2000)
    );
}

#[test]
fn addresses() {
    let with = |src, dst| {
        reason(&V4 {
            src,
            dst,
            ..V4::default()
        })
    };
    let (src, dst) = (V4::default().src, V4::default().dst);
    for bad in [
        [224, 0, 0, 1],
        [239, 255, 255, 255],
        [255; 4],
        [127, 0, 0, 1],
        [127, 255, 255, 255],
        [0; 4],
        [0, 0, 0, 1],
    ] {
        assert_eq!(
            with(bad, dst),
            Some(Reason::SourceAddressInvalid),
            "{bad:?}"
        );
    }
    for bad in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1]] {
        assert_eq!(
            with(src, bad),
            Some(Reason::DestinationAddressInvalid),
            "{bad:?}"
        );
    }
    for good in [
        [224, 0, 0, 1],
        [255; 4],
        [240, 0, 0, 1],
        [1, 0, 0, 0],
        [223, 255, 255, 255],
    ] {
        assert_eq!(with(src, good), None, "{good:?}");
    }
    for good in [
        [240, 0, 0, 1],
        [255, 255, 255, 254],
        [126, 0, 0, 1],
        [128, 0, 0, 1],
    ] {
        assert_eq!(with(good, dst), None, "{good:?}");
    }
    // A host without an address.
    assert_eq!(with([0; 4], [255; 4]), None);
    assert_eq!(with([0; 4], [224, 0, 0, 22]), None);
    assert_eq!(
        with([0, 0, 0, 1], [255; 4]),
        Some(Reason::SourceAddressInvalid)
    );
}

#[test]
fn address_checks_agree_with_the_fast_test() {
    for first in 0..=255u8 {
        let a = [first, 0, 0, 1];
        if ipv4::is_plain(a) {
            assert_eq!(ipv4::check_addresses(a, a), Ok(()), "{first}");
        }
    }
}

#[test]
fn fragments() {
    let first = parsed(&V4 {
        protocol: protocol::TCP,
        flags_fragment: 0x2000,
        payload: tcp(1, 2, 2, &[], &[0; 4]),
        ..V4::default()
    });
    assert_eq!(
        (first.fragment, first.key.dport, first.tcp_flags),
        (Fragment::First, 2, 2)
    );

    let later = V4 {
        flags_fragment: 0x2003,
        payload: vec![9; 16],
        ..V4::default()
    };
    let p = parsed(&later);
    assert_eq!(
        (p.fragment, p.fragment_offset, p.fragment_id),
        (Fragment::Later, 24, 0x1234)
    );
    assert_eq!((p.key.sport, p.key.dport, p.l4), (0, 0, 34));
    assert!(!p.dont_fragment);

    let last = V4 {
        flags_fragment: 0x0003,
        payload: vec![9; 3],
        ..V4::default()
    };
    assert_eq!(parsed(&last).fragment, Fragment::Later);
}

#[test]
fn bad_fragments() {
    let bad = Some(Reason::BadFragment);
    let with = |protocol, flags_fragment, payload: Vec<u8>| {
        reason(&V4 {
            protocol,
            flags_fragment,
            payload,
            ..V4::default()
        })
    };
    // More follow, but no multiple of 8.
    assert_eq!(with(protocol::UDP, 0x2001, vec![0; 9]), bad);
    // Ends beyond 65535 ("ping of death"); the last byte that fits does.
    assert_eq!(with(protocol::UDP, 0x1fff, vec![0; 8]), bad);
    assert_eq!(with(protocol::UDP, 0x1fff, vec![0; 7]), None);
    // Overlaps the transport header of the first one.
    assert_eq!(with(protocol::TCP, 0x0001, vec![0; 8]), bad);
    assert_eq!(with(protocol::TCP, 0x0002, vec![0; 8]), bad);
    assert_eq!(with(protocol::TCP, 0x0003, vec![0; 8]), None);
    assert_eq!(with(protocol::SCTP, 0x0001, vec![0; 8]), bad);
    assert_eq!(with(protocol::SCTP, 0x0002, vec![0; 8]), None);
    assert_eq!(with(protocol::UDP, 0x0001, vec![0; 8]), None);
    // A first fragment without its transport header.
    assert_eq!(
        with(protocol::TCP, 0x2000, tcp(1, 2, 2, &[], &[])[..16].to_vec()),
        bad
    );
    assert_eq!(
        with(
            protocol::TCP,
            0x2000,
            tcp(1, 2, 2, &[0; 8], &[])[..24].to_vec()
        ),
        bad
    );
    assert_eq!(
        with(protocol::SCTP, 0x2000, sctp(1, 2, &[])[..8].to_vec()),
        bad
    );
    // What a first UDP fragment states is the length of the whole datagram.
    assert_eq!(
        with(protocol::UDP, 0x2000, udp(1, 2, &[0; 100])[..16].to_vec()),
        None
    );
}

#[test]
fn transport_headers() {
    let with = |protocol, payload: Vec<u8>| {
        reason(&V4 {
            protocol,
            payload,
            ..V4::default()
        })
    };
    let short = Some(Reason::TruncatedTransport);
    let bad = Some(Reason::BadTransportHeader);
    assert_eq!(with(protocol::TCP, vec![0; 19]), short);
    assert_eq!(with(protocol::UDP, vec![0; 7]), short);
    assert_eq!(with(protocol::SCTP, vec![0; 11]), short);
    assert_eq!(with(protocol::ICMP, vec![0; 7]), short);
    assert_eq!(with(protocol::UDP, vec![]), short);
    let mut offset = tcp(1, 2, 2, &[], &[]);
    offset[12] = 0x40;
    assert_eq!(with(protocol::TCP, offset.clone()), bad);
    offset[12] = 0x60;
    assert_eq!(with(protocol::TCP, offset), bad);
    let length = |n: u16| {
        let mut u = udp(1, 2, b"abcd");
        u[4..6].copy_from_slice(&n.to_be_bytes());
        u
    };
    assert_eq!(with(protocol::UDP, length(7)), bad);
    assert_eq!(with(protocol::UDP, length(0)), bad);
    assert_eq!(with(protocol::UDP, length(13)), bad);
    assert_eq!(with(protocol::UDP, length(8)), None);
    assert_eq!(with(protocol::UDP, length(12)), None);
    // Others are not looked into.
    assert_eq!(with(47, vec![]), None);
    assert_eq!(with(protocol::ICMPV6, vec![1]), None);
    let p = parsed(&V4 {
        protocol: protocol::SCTP,
        payload: sctp(5, 6, &[]),
        ..V4::default()
    });
    assert_eq!((p.key.sport, p.key.dport), (5, 6));
}

#[test]
fn a_header_outside_the_first_segment_is_truncated() {
    let frame = V4 {
        payload: udp(1, 2, &[0; 64]),
        ..V4::default()
    }
    .frame();
    let total = frame.len() as u32;
    assert_eq!(
        parse(&frame[..41], total, false),
        Err(Reason::TruncatedTransport)
    );
    assert!(parse(&frame[..42], total, false).is_ok());
}

#[test]
fn icmp_identifiers_make_directions_mirror() {
    let with = |kind, src, dst| {
        let payload = icmp(kind, 0, [0xab, 0xcd, 0, 1], b"data", 0);
        parsed(&V4 {
            src,
            dst,
            protocol: protocol::ICMP,
            payload,
            ..V4::default()
        })
    };
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    for (request, reply) in [(8, 0), (13, 14)] {
        let (there, back) = (with(request, a, b), with(reply, b, a));
        assert_eq!(
            (there.key.sport, there.key.dport, there.icmp_type),
            (0xabcd, 0, request)
        );
        assert_eq!(
            (back.key.sport, back.key.dport, back.icmp_type),
            (0, 0xabcd, reply)
        );
        assert_eq!(there.key.reversed(), back.key);
    }
    let error = with(3, a, b);
    assert_eq!(
        (error.key.sport, error.key.dport, error.icmp_type),
        (0, 0, 3)
    );
}

#[test]
fn an_ethertype_without_a_packet() {
    assert_eq!(parse_all(&eth(0x0800, &[])), Err(Reason::TruncatedIpv4));
    assert_eq!(parse_all(&eth(0x86dd, &[])), Err(Reason::TruncatedIpv6));
}
