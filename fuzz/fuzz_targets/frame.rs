// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a frame: through the parser and everything that answers, finishes or rewrites what it read. The input is
//! the frame. It is tried as it is and with the checksums that lie in the way made right.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use podswitch_datapath::wire::icmp_error::{self, IcmpError, MAX_FRAME};
use podswitch_datapath::wire::ipv4::{self, Ipv4Header};
use podswitch_datapath::wire::ipv6::{self, Ipv6Header};
use podswitch_datapath::wire::nd::Neighbor;
use podswitch_datapath::wire::{
    Fragment, Kind, MacAddr, Parsed, arp, checksum, eth, icmp, parse, partial, protocol,
};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fuzz_target!(|frame: &[u8]| {
    let frame = &frame[..frame.len().min(70_000)];
    try_whole(frame);
    let mut right = frame.to_vec();
    make_header_checksum_right(&mut right);
    try_whole(&right);
    make_icmpv6_checksum_right(&mut right);
    try_whole(&right);
});

/// The frame in one segment, and with only its first part in the first segment.
fn try_whole(frame: &[u8]) {
    let total = frame.len() as u32;
    let whole = parse(frame, total, true);
    check_tag_only_shifts(frame, &whole);
    if let Ok(p) = &whole {
        check_promises(frame, p);
        answer(frame, p);
        finish_checksum(frame, p);
        rewrite(frame, p);
    }
    for cut in [frame.len() / 2, frame.len() * 7 / 8, 34, 54, 74] {
        let first = &frame[..cut.min(frame.len())];
        if let Ok(p) = parse(first, total, true) {
            assert_eq!(Ok(p), whole, "a shorter first segment reads differently");
            answer(first, &p);
        }
    }
}

/// A tag sends the frame another way through the parser, which must come to the same end.
fn check_tag_only_shifts(frame: &[u8], whole: &Result<Parsed, podswitch_datapath::Reason>) {
    let tagged_already = frame.len() < 14 || eth::read_tag(frame, 12).is_some();
    if tagged_already {
        return;
    }
    let shifted = [&frame[..12], &[0x81, 0, 0xa1, 0x23], &frame[12..]].concat();
    match (whole, parse(&shifted, shifted.len() as u32, true)) {
        (Ok(a), Ok(b)) => {
            assert_eq!(b.vlan.vid(), Some(0x123));
            assert_eq!(
                *a,
                Parsed {
                    l3: b.l3 - 4,
                    l4: b.l4 - 4,
                    vlan: a.vlan,
                    ..b
                }
            );
        }
        (Err(a), Err(b)) => assert_eq!(*a, b),
        (a, b) => panic!("untagged {a:?}, tagged {b:?}"),
    }
}

fn check_promises(frame: &[u8], p: &Parsed) {
    assert!(p.frame_len() as usize <= frame.len().max(p.l3 as usize));
    assert!(p.l3 <= p.l4 && p.l4 as usize <= frame.len());
    if !matches!(p.kind, Kind::Ipv4 | Kind::Ipv6) {
        return;
    }
    assert_eq!(p.l4 as u32 + p.l4_len(), p.frame_len());
    assert_eq!(
        (p.key.protocol(), p.key.is_v4()),
        (p.protocol, p.kind == Kind::Ipv4)
    );
    assert_eq!(p.key.reversed().reversed(), p.key);
    let ports = p.key.sport | p.key.dport;
    assert!(p.fragment != Fragment::Later || ports == 0);
}

fn answer(frame: &[u8], p: &Parsed) {
    let mut copy = frame.to_vec();
    if icmp::echo_reply_in_place(&mut copy, p) && p.frame_len() as usize <= copy.len() {
        let reply = parse(&copy, copy.len() as u32, true).expect("an echo reply parses");
        assert_eq!(reply.key, p.key.reversed());
    }
    let mut copy = frame.to_vec();
    if !arp::reply_in_place(&mut copy, p.l3 as usize, MAC) {
        assert_eq!(copy, frame);
    }
    if let Some(neighbor) = Neighbor::read(frame, p) {
        assert!(!ipv6::is_multicast(&neighbor.target) && p.ttl == 255);
    }
    let errors = [
        IcmpError::NoRoute,
        IcmpError::TimeExceeded,
        IcmpError::TooBig { mtu: 1280 },
        IcmpError::ParameterProblem {
            code: 0,
            pointer: 40,
        },
    ];
    for error in errors {
        let source = match p.key.is_v4() {
            true => [10, 0, 0, 1].into(),
            false => [0xfd; 16].into(),
        };
        let mut out = [0; MAX_FRAME];
        let written = icmp_error::write(frame, p, error, MAC, source, &mut out);
        assert_eq!(
            written.is_some(),
            icmp_error::is_answerable(frame, p, error)
        );
        if let Some(len) = written {
            let own = parse(&out[..len], len as u32, true).expect("an error of ours parses");
            assert!(
                !icmp_error::is_answerable(&out[..len], &own, error),
                "error about an error"
            );
        }
    }
}

/// What is unfinished is finished, in one segment as in two, and stays so.
fn finish_checksum(frame: &[u8], p: &Parsed) {
    let Some(at) = partial::detect(frame, p) else {
        return;
    };
    let mut one = frame.to_vec();
    assert!(partial::fill(at, p.frame_len(), [&mut one[..]]));
    let mut two = frame.to_vec();
    let cut = (at.start as usize + 20)
        .max(p.frame_len() as usize / 2)
        .min(two.len());
    let (head, tail) = two.split_at_mut(cut);
    assert!(partial::fill(at, p.frame_len(), [head, tail]));
    assert_eq!(one, two);
    let again = parse(&one, one.len() as u32, true).expect("a finished frame parses");
    assert_eq!(again, *p);
    // Finishing is exact: what looks unfinished still can only be right already, or is a CRC that is zero.
    if let Some(at) = partial::detect(&one, p) {
        let mut third = one.clone();
        assert!(partial::fill(at, p.frame_len(), [&mut third[..]]));
        assert!(third == one || p.protocol == protocol::SCTP);
    }
}

/// One hop less leaves a packet that reads the same.
fn rewrite(frame: &[u8], p: &Parsed) {
    let mut copy = frame.to_vec();
    let packet = &mut copy[p.l3 as usize..];
    match p.kind {
        Kind::Ipv4 => Ipv4Header::read_mut(packet)
            .expect("parsed")
            .decrement_ttl(),
        Kind::Ipv6 => Ipv6Header::read_mut(packet)
            .expect("parsed")
            .decrement_hop_limit(),
        Kind::Arp | Kind::Other => return,
    }
    let hop = parse(&copy, copy.len() as u32, true).expect("one hop later");
    assert_eq!(
        hop,
        Parsed {
            ttl: p.ttl.saturating_sub(1),
            ..*p
        }
    );
}

fn make_header_checksum_right(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    let len = ((frame[14] & 15) as usize * 4).min(frame.len() - 14);
    ipv4::fill_checksum(&mut frame[14..14 + len]);
}

fn make_icmpv6_checksum_right(frame: &mut [u8]) {
    let Ok(p) = parse(frame, frame.len() as u32, true) else {
        return;
    };
    if p.kind != Kind::Ipv6 || p.protocol != protocol::ICMPV6 || p.fragment == Fragment::Later {
        return;
    }
    let message = &mut frame[p.l4 as usize..p.frame_len() as usize];
    message[2..4].fill(0);
    let pseudo = checksum::pseudo_v6(&p.key.src, &p.key.dst, p.protocol, message.len() as u32);
    let sum = !checksum::add(pseudo, checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
