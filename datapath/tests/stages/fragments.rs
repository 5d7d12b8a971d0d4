// SPDX-License-Identifier: Apache-2.0
//! Fragments that come, and fragments that are made.

use podswitch_datapath::PortId;
use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{Action, Direction, Rule};

use crate::frames::{self, V4};
use crate::node::*;
use crate::world::Out;

/// Puts the fragments back together: (header of the first, payload).
fn reassemble(out: Vec<Out>, port: u16, mtu: usize) -> (Vec<u8>, Vec<u8>) {
    let mut pieces: Vec<(usize, bool, Vec<u8>, Vec<u8>)> = out
        .into_iter()
        .map(|o| match o {
            Out::Sent(p, frame) if p == port => {
                let ip = &frame[14..];
                let header_len = usize::from(ip[0] & 15) * 4;
                let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                let field = u16::from_be_bytes([ip[6], ip[7]]);
                assert_eq!(len, ip.len(), "total length");
                assert!(len <= mtu);
                assert_eq!(frames::sum(&ip[..header_len], 0), 0xffff, "header checksum");
                (
                    usize::from(field & 0x1fff) * 8,
                    field & 0x2000 != 0,
                    frame[..14 + header_len].to_vec(),
                    ip[header_len..].to_vec(),
                )
            }
            other => panic!("{other:?}"),
        })
        .collect();
    pieces.sort();
    let mut payload = Vec::new();
    let last = pieces.len() - 1;
    for (i, (offset, more, _, data)) in pieces.iter().enumerate() {
        assert_eq!(*offset, payload.len(), "no gap, no overlap");
        assert_eq!(*more, i < last, "more fragments");
        payload.extend(data);
    }
    (pieces.swap_remove(0).2, payload)
}

#[test]
fn what_may_be_cut_is_cut() {
    for workers in [1, 2] {
        let mut w = node_of(workers, Rate::UNLIMITED);
        for len in [1253, 1400, 2600, 9000, 60_000] {
            let data: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let payload = frames::udp(v4(1).into(), v4(4).into(), 1, 2, &data);
            let p = V4 {
                flags: 0,
                ..V4::new(v4(1), v4(4), frames::UDP, payload.clone())
            };
            let out = w.send_one(1, &frame4(1, &p));
            assert_eq!(out.len(), payload.len().div_ceil(1256));
            let (header, got) = reassemble(out, 4, 1280);
            assert_eq!(got, payload);
            assert_eq!(header[..6], mac(4).0);
            assert_eq!(header[18..20], [0x12, 0x34], "identification");
            assert_eq!(header[22], 63, "TTL");
        }
        assert_eq!(w.counters().event(Event::Fragmented), 5);
        w.assert_no_leak();
    }
}

/// The checksum of a datagram whose sender left it unfinished covers all of it.
#[test]
fn a_partial_checksum_is_finished_before_cutting() {
    let mut w = node();
    let payload = frames::udp(v4(1).into(), v4(4).into(), 1, 2, &[5; 9001]);
    let mut partial = payload.clone();
    let sum = frames::pseudo(v4(1).into(), v4(4).into(), frames::UDP, payload.len());
    partial[6..8].copy_from_slice(&sum.to_be_bytes());
    let p = V4 {
        flags: 0,
        ..V4::new(v4(1), v4(4), frames::UDP, partial)
    };
    let out = w.send_one(1, &frame4(1, &p));
    assert_eq!(reassemble(out, 4, 1280).1, payload);
}

#[test]
fn a_fragment_is_cut_again_and_options_are_copied_by_their_flag() {
    let mut w = node();
    // No-operation, record route (not copied), router alert (copied).
    let options = vec![1, 7, 3, 4, 148, 4, 0, 0];
    let payload = vec![3; 4000];
    for (flags, more, offset) in [(0x2000 | 100, true, 800), (100, false, 800)] {
        let p = V4 {
            flags,
            options: options.clone(),
            ..V4::new(v4(1), v4(4), 99, payload.clone())
        };
        let out = w.send_one(1, &frame4(1, &p));
        assert_eq!(out.len(), 4);
        let mut got: Vec<u8> = Vec::new();
        let mut headers: Vec<_> = out
            .into_iter()
            .map(|o| match o {
                Out::Sent(4, f) => f,
                other => panic!("{other:?}"),
            })
            .collect();
        headers.sort_by_key(|f| u16::from_be_bytes([f[20], f[21]]) & 0x1fff);
        for (i, f) in headers.iter().enumerate() {
            let header_len = usize::from(f[14] & 15) * 4;
            let field = u16::from_be_bytes([f[20], f[21]]);
            assert_eq!(usize::from(field & 0x1fff) * 8, offset + got.len());
            assert_eq!(field & 0x2000 != 0, i < 3 || more);
            let want: &[u8] = if i == 0 { &options } else { &options[4..] };
            assert_eq!(&f[34..14 + header_len], want);
            assert_eq!(frames::sum(&f[14..14 + header_len], 0), 0xffff);
            got.extend(&f[14 + header_len..]);
        }
        assert_eq!(got, payload);
    }
}

#[test]
fn later_fragments_are_routed_and_judged_without_ports() {
    let mut w = node();
    w.edit(|e| {
        let rule = |name: &str, priority, action, port| Rule {
            name: name.into(),
            priority,
            source: None,
            destination: None,
            protocol: Some(frames::UDP),
            ports: Some(port..=port),
            action,
        };
        e.set_rule(
            PortId(1),
            Direction::Egress,
            rule("no-dns", 1, Action::Deny, 53),
        );
        e.set_rule(
            PortId(3),
            Direction::Egress,
            rule("dns-only", 1, Action::Allow, 53),
        );
        e.set_rule(
            PortId(3),
            Direction::Egress,
            Rule {
                ports: None,
                ..rule("no-udp", 2, Action::Deny, 0)
            },
        );
    });
    for _ in 0..2 {
        for from in [1, 3] {
            let later = V4 {
                flags: 200,
                ..V4::new(v4(from), v4(2), frames::UDP, vec![0; 64])
            };
            let out = w.send_one(from, &frame4(from, &later));
            assert_eq!(out, sent(2, routed4(&later, mac(2))));
        }
        let first = V4 {
            flags: 0x2000,
            ..udp4(v4(1), v4(2), 53)
        };
        let first = V4 {
            payload: first.payload[..104].to_vec(),
            ..first
        };
        assert_eq!(
            w.send_one(1, &frame4(1, &first)),
            dropped("policy_denied_egress")
        );
    }
    assert_eq!(
        w.counters().event(Event::FlowHit),
        0,
        "what was denied is not remembered"
    );
}

/// A segment or superframe of 1400 bytes from pod 1 to pod 4, its checksum left to a device.
fn tcp_with(flags: u8) -> V4 {
    let mut message = frames::tcp(v4(1).into(), v4(4).into(), 1, 2, flags, &[5; 1400]);
    let sum = frames::pseudo(v4(1).into(), v4(4).into(), frames::TCP, message.len());
    message[16..18].copy_from_slice(&sum.to_be_bytes());
    V4::new(v4(1), v4(4), frames::TCP, message)
}

/// A port that takes superframes gets them whole, unless cutting them takes more than repeating headers.
#[test]
fn a_superframe_is_left_whole_for_a_port_that_takes_it() {
    const ACK: u8 = 0x10;
    const CWR: u8 = 0x80;
    let mut w = node();
    w.workers[0].superframes.set(PortId(4), true);
    let p = tcp_with(ACK);
    let out = only(w.send_one(1, &frame4(1, &p)), 4);
    let whole = frames::tcp(v4(1).into(), v4(4).into(), 1, 2, ACK, &[5; 1400]);
    let whole = V4::new(v4(1), v4(4), frames::TCP, whole);
    assert!(out == routed4(&whole, mac(4)), "{} bytes", out.len());
    assert!(w.send_one(1, &frame4(1, &tcp_with(ACK | CWR))).len() > 1);
    w.workers[0].superframes.set(PortId(4), false);
    assert!(w.send_one(1, &frame4(1, &p)).len() > 1);
    w.assert_no_leak();
}

/// A pod in generic XDP mode with a large MTU, whose peer has told it to send small segments.
#[test]
fn a_superframe_within_its_senders_mtu_is_cut() {
    let mut w = node();
    let p = frame4(1, &tcp_with(0x10));
    let out = w.send_one(1, &p);
    let lengths: Vec<usize> = out
        .iter()
        .map(|o| match o {
            Out::Sent(4, frame) => frame.len() - 54,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths.iter().sum::<usize>(), 1400);
    assert_eq!(lengths.iter().max(), Some(&1240));
    w.caps.superframes = false;
    let told = w.send_one(1, &p);
    assert!(matches!(told[..], [Out::Sent(1, _)]), "ICMP: {told:?}");
}

#[test]
fn without_memory_nothing_is_half_sent() {
    let mut w = node();
    let payload = frames::udp(v4(1).into(), v4(4).into(), 1, 2, &[5; 60_000]);
    let p = V4 {
        flags: 0,
        ..V4::new(v4(1), v4(4), frames::UDP, payload)
    };
    let state = &mut w.workers[0];
    let held: Vec<_> = (0..crate::world::CHUNKS - 40)
        .map(|_| state.pool.alloc(&state.arena).unwrap())
        .collect();
    assert_eq!(w.send_one(1, &frame4(1, &p)), dropped("no_memory"));
    let state = &mut w.workers[0];
    held.into_iter().for_each(|frame| state.pool.free(frame));
    w.assert_no_leak();
}
