// SPDX-License-Identifier: Apache-2.0
//! Partial checksums: found, finished, and left alone.

use proptest::prelude::*;

use super::frames::{
    V4, V4_DST, V4_SRC, V6, V6_DST, V6_SRC, extension, fragment, naive_pseudo, naive_sum,
    parse_all, sctp, tcp, udp,
};
use crate::wire::partial::{self, PartialChecksum};
use crate::wire::{Parsed, parse, protocol, sctp as layout};

/// `l4` with the pseudo-header's sum in its checksum field, as a kernel leaves it to a device.
fn left_partial(v6: bool, protocol: u8, mut l4: Vec<u8>) -> Vec<u8> {
    let pseudo = pseudo(v6, protocol, l4.len());
    let at = if protocol == protocol::TCP { 16 } else { 6 };
    l4[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    l4
}

fn pseudo(v6: bool, protocol: u8, len: usize) -> u16 {
    match v6 {
        true => naive_pseudo(&V6_SRC, &V6_DST, protocol, len),
        false => naive_pseudo(&V4_SRC, &V4_DST, protocol, len),
    }
}

fn frame(v6: bool, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    match v6 {
        true => V6 {
            next_header: protocol,
            payload,
            ..V6::default()
        }
        .frame(),
        false => V4 {
            protocol,
            payload,
            ..V4::default()
        }
        .frame(),
    }
}

fn detect(frame: &[u8]) -> Option<PartialChecksum> {
    partial::detect(frame, &parse_all(frame).unwrap())
}

/// What a receiver computes over the transport part: all ones when the checksum is right.
fn receiver_sum(v6: bool, protocol: u8, l4: &[u8]) -> u16 {
    let pseudo = pseudo(v6, protocol, l4.len()).to_be_bytes();
    naive_sum(&[&pseudo[..], l4].concat())
}

/// Cuts `frame` into segments, finishes it, and puts it together again.
fn fill_cut(frame: &[u8], parsed: &Parsed, partial: PartialChecksum, sizes: &[usize]) -> Vec<u8> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let mut rest = frame;
    // The first segment holds all headers.
    for size in [100].iter().chain(sizes) {
        let (head, tail) = rest.split_at((*size).min(rest.len()));
        segments.push(head.to_vec());
        rest = tail;
    }
    segments.push(rest.to_vec());
    let slices = segments.iter_mut().map(|s| &mut s[..]);
    assert!(partial::fill(partial, parsed.frame_len(), slices));
    segments.concat()
}

#[test]
fn found_where_a_kernel_leaves_it() {
    for (v6, l4) in [(false, 34), (true, 54)] {
        let t = frame(
            v6,
            protocol::TCP,
            left_partial(v6, protocol::TCP, tcp(1, 2, 2, &[], b"abc")),
        );
        assert_eq!(
            detect(&t),
            Some(PartialChecksum {
                start: l4,
                offset: 16
            })
        );
        let u = frame(
            v6,
            protocol::UDP,
            left_partial(v6, protocol::UDP, udp(1, 2, b"abc")),
        );
        assert_eq!(
            detect(&u),
            Some(PartialChecksum {
                start: l4,
                offset: 6
            })
        );
        let s = frame(v6, protocol::SCTP, sctp(1, 2, b"abcd"));
        assert_eq!(
            detect(&s),
            Some(PartialChecksum {
                start: l4,
                offset: 8
            })
        );
        assert!(detect(&s).unwrap().is_crc32c());
        assert!(!detect(&u).unwrap().is_crc32c());
    }
}

#[test]
fn padding_is_no_part_of_it() {
    let mut f = frame(
        false,
        protocol::UDP,
        left_partial(false, protocol::UDP, udp(1, 2, b"a")),
    );
    let len = f.len();
    f.resize(60, 0xff);
    let parsed = parse_all(&f).unwrap();
    let partial = partial::detect(&f, &parsed).unwrap();
    assert!(partial::fill(partial, parsed.frame_len(), [&mut f[..]]));
    assert_eq!(receiver_sum(false, protocol::UDP, &f[34..len]), 0xffff);
}

#[test]
fn left_alone() {
    // UDP without a checksum, in both versions.
    assert_eq!(
        detect(&frame(false, protocol::UDP, udp(1, 2, b"abc"))),
        None
    );
    assert_eq!(detect(&frame(true, protocol::UDP, udp(1, 2, b"abc"))), None);
    // A finished checksum, or any other value.
    let mut t = left_partial(false, protocol::TCP, tcp(1, 2, 2, &[], b"abc"));
    t[17] ^= 1;
    assert_eq!(detect(&frame(false, protocol::TCP, t)), None);
    // UDP shorter than its packet.
    let mut u = left_partial(false, protocol::UDP, udp(1, 2, b"abc"));
    u.push(0);
    assert_eq!(detect(&frame(false, protocol::UDP, u)), None);
    // SCTP with a CRC, and protocols without checksums.
    let mut s = sctp(1, 2, b"abcd");
    s[11] = 1;
    assert_eq!(detect(&frame(false, protocol::SCTP, s)), None);
    assert_eq!(detect(&frame(false, 47, vec![0; 40])), None);
    assert_eq!(detect(&super::frames::eth(0x0806, &[0; 46])), None);
}

#[test]
fn never_on_fragments() {
    let l4 = left_partial(false, protocol::UDP, udp(1, 2, &[0; 16]));
    for flags_fragment in [0x2000, 0x2003, 0x0003] {
        let f = V4 {
            flags_fragment,
            payload: l4.clone(),
            ..V4::default()
        }
        .frame();
        assert_eq!(detect(&f), None, "{flags_fragment:04x}");
    }
    let l4 = left_partial(true, protocol::UDP, udp(1, 2, &[0; 16]));
    let payload = [fragment(protocol::UDP, 0, true, 9), l4].concat();
    let f = V6 {
        next_header: protocol::IPV6_FRAGMENT,
        payload,
        ..V6::default()
    }
    .frame();
    assert_eq!(detect(&f), None);
}

#[test]
fn behind_options_and_extension_headers() {
    let l4 = left_partial(false, protocol::TCP, tcp(1, 2, 2, &[], b"abc"));
    let options = vec![1; 8];
    let f = V4 {
        protocol: protocol::TCP,
        options,
        payload: l4,
        ..V4::default()
    }
    .frame();
    assert_eq!(detect(&f).unwrap().start, 42);

    let l4 = left_partial(true, protocol::TCP, tcp(1, 2, 2, &[], b"abc"));
    let payload = [extension(protocol::TCP, 1), l4].concat();
    let f = V6 {
        next_header: protocol::IPV6_DEST_OPTS,
        payload,
        ..V6::default()
    }
    .frame();
    assert_eq!(detect(&f).unwrap().start, 62);
}

#[test]
fn the_pseudo_header_has_the_end_of_a_source_route() {
    let mut l4 = tcp(1, 2, 2, &[], b"abc");
    let end = [0xfd; 16];
    let sum = naive_pseudo(&V6_SRC, &end, protocol::TCP, l4.len());
    l4[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut route = extension(protocol::TCP, 3);
    route[2..4].copy_from_slice(&[4, 1]);
    route[8..24].copy_from_slice(&end);
    let payload = [route, l4].concat();
    let f = V6 {
        next_header: protocol::IPV6_ROUTE,
        payload,
        ..V6::default()
    }
    .frame();
    assert_eq!(detect(&f).unwrap().start, 78);
}

#[test]
fn udp_never_gets_a_zero_checksum() {
    // Data chosen so that the finished sum is all ones and its complement zero.
    let mut u = left_partial(false, protocol::UDP, udp(1, 2, &[0, 0]));
    let rest = !receiver_sum(false, protocol::UDP, &[&u[..6], &[0, 0], &u[8..]].concat());
    u[8..10].copy_from_slice(&rest.to_be_bytes());
    let mut f = frame(false, protocol::UDP, u);
    let parsed = parse_all(&f).unwrap();
    let partial = partial::detect(&f, &parsed).unwrap();
    assert!(partial::fill(partial, parsed.frame_len(), [&mut f[..]]));
    assert_eq!(f[40..42], [0xff, 0xff]);
    assert_eq!(receiver_sum(false, protocol::UDP, &f[34..]), 0xffff);
}

#[test]
fn short_segments_change_nothing() {
    let f = frame(true, protocol::SCTP, sctp(1, 2, &[7; 64]));
    let parsed = parse_all(&f).unwrap();
    let partial = partial::detect(&f, &parsed).unwrap();
    let mut cut = f[..f.len() - 1].to_vec();
    assert!(!partial::fill(partial, parsed.frame_len(), [&mut cut[..]]));
    assert_eq!(cut, f[..f.len() - 1]);
    assert!(!partial::fill(partial, parsed.frame_len(), []));
    assert!(!partial::fill(partial, 3, [&mut cut[..]]));
    let mut tiny = [0; 10];
    assert!(!partial::fill(
        partial,
        parsed.frame_len(),
        [&mut tiny[..], &mut cut[..]]
    ));
    // The field itself lies in the second segment.
    let (head, tail) = cut.split_at_mut(60);
    assert!(!partial::fill(partial, 70, [head, tail]));
    assert_eq!(cut, f[..f.len() - 1]);
}

proptest! {
    #[test]
    fn finished_sums_are_what_the_receiver_wants(
        v6: bool,
        is_tcp: bool,
        data in prop::collection::vec(any::<u8>(), 0..4000),
        padding in 0usize..20,
        sizes in prop::collection::vec(0usize..700, 0..6),
    ) {
        let (protocol, l4) = match is_tcp {
            true => (protocol::TCP, tcp(1, 2, 0x18, &[1, 1, 8, 10], &data)),
            false => (protocol::UDP, udp(1, 2, &data)),
        };
        let mut f = frame(v6, protocol, left_partial(v6, protocol, l4));
        let len = f.len();
        f.resize(len + padding, 0x5a);
        let parsed = parse_all(&f).unwrap();
        let partial = partial::detect(&f, &parsed).unwrap();
        let done = fill_cut(&f, &parsed, partial, &sizes);
        prop_assert_eq!(receiver_sum(v6, protocol, &done[parsed.l4 as usize..len]), 0xffff);
        prop_assert_eq!(&done[len..], &f[len..]);
        prop_assert!(parse(&done, done.len() as u32, false).is_ok());
        // Only the field differs.
        let field = partial.start as usize + partial.offset as usize;
        let mut undone = done.clone();
        undone[field..field + 2].copy_from_slice(&f[field..field + 2]);
        prop_assert_eq!(undone, f);
    }

    #[test]
    fn finished_crcs_are_right(
        v6: bool,
        data in prop::collection::vec(any::<u8>(), 0..3000),
        sizes in prop::collection::vec(0usize..700, 0..6),
    ) {
        let f = frame(v6, protocol::SCTP, sctp(1, 2, &data));
        let parsed = parse_all(&f).unwrap();
        let partial = partial::detect(&f, &parsed).unwrap();
        let done = fill_cut(&f, &parsed, partial, &sizes);
        let l4 = parsed.l4 as usize;
        let want = layout::crc32c(&f[l4..]);
        let header = layout::SctpHeader::read(&done[l4..]).unwrap();
        prop_assert_eq!(header.checksum.get(), want);
    }

    /// A finished checksum that happens to equal the pseudo-header's sum survives being finished again.
    #[test]
    fn finishing_a_finished_checksum_changes_nothing(v6: bool, data in prop::collection::vec(any::<u8>(), 2..200)) {
        let mut data = data;
        data.resize(data.len() / 2 * 2, 0);
        let mut l4 = left_partial(v6, protocol::TCP, tcp(1, 2, 2, &[], &data));
        // Make the rest cancel, so that the field is right as it stands.
        let at = l4.len() - 2;
        l4[at..].fill(0);
        let missing = !receiver_sum(v6, protocol::TCP, &l4);
        l4[at..].copy_from_slice(&missing.to_be_bytes());
        prop_assert_eq!(receiver_sum(v6, protocol::TCP, &l4), 0xffff);
        let mut f = frame(v6, protocol::TCP, l4);
        let before = f.clone();
        let parsed = parse_all(&f).unwrap();
        let partial = partial::detect(&f, &parsed).unwrap();
        prop_assert!(partial::fill(partial, parsed.frame_len(), [&mut f[..]]));
        prop_assert_eq!(f, before);
    }
}
