// SPDX-License-Identifier: Apache-2.0
//! Packets of a tunnel heard before are told by their outer headers alone: what becomes of a packet must not hang on it.

use std::net::IpAddr;

use podswitch_datapath::{PortId, VrfId};

use crate::node::*;
use crate::tunnels::{TUNNEL, node_v4, node_v6, pair};
use crate::world::{Out, World};
use crate::{frames, groups};

/// Ethernet, IPv4, UDP, VXLAN.
const OUTER: usize = 50;

/// What becomes of a frame where nothing was heard under these tables, and where another connection's packet was.
fn both(fresh: &mut World, primed: &mut World, prime: &[u8], frame: &[u8]) -> [Vec<Out>; 2] {
    // Other tables, though the same.
    fresh.edit(|_| {});
    let out = fresh.send_one(UPLINK, frame);
    assert_eq!(primed.send_one(UPLINK, prime).len(), 1);
    [out, primed.send_one(UPLINK, frame)]
}

fn with_checksum(frame: &mut [u8]) {
    if let Some(header) = frame.get_mut(14..34) {
        header[10..12].fill(0);
        let sum = !frames::sum(header, 0);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn what_was_heard_before_makes_no_difference() {
    let (a, fresh) = pair(node_v4);
    let (_, primed) = pair(node_v4);
    assert_no_difference(a, fresh, primed, 53);
}

#[test]
fn what_was_heard_before_makes_no_difference_to_groups() {
    let (mut a, fresh) = groups::nodes_on([0; 3], node_v4);
    let (_, primed) = groups::nodes_on([0; 3], node_v4);
    groups::mark(&mut a, Some(groups::CLIENTS));
    assert_no_difference(a, fresh, primed, 80);
}

fn assert_no_difference(mut a: World, mut fresh: World, mut primed: World, dport: u16) {
    let mut wrapped = |dport| {
        only(
            a.send_one(1, &frame4(1, &udp4(v4(1), v4(2), dport))),
            UPLINK,
        )
    };
    let (prime, outer) = (wrapped(54), wrapped(dport));
    let bits = (0..OUTER).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)));
    let mut let_on = 0;
    for ((at, bit), mend) in bits.flat_map(|flip| [(flip, false), (flip, true)]) {
        let mut frame = outer.clone();
        frame[at] ^= bit;
        if mend {
            with_checksum(&mut frame);
        }
        let [out, again] = both(&mut fresh, &mut primed, &prime, &frame);
        assert_eq!(out, again, "byte {at}, bit {bit:#x}, mended {mend}");
        let_on += usize::from(matches!(out[..], [Out::Sent(..)]));
    }
    // Source MAC address, identification, TTL, source port, what the RFC has ignored: not a few.
    assert!(let_on > 100, "{let_on}");
    for len in 0..outer.len() {
        let [out, again] = both(&mut fresh, &mut primed, &prime, &outer[..len]);
        assert_eq!(out, again, "{len} bytes of {}", outer.len());
    }
    for padded in 1..40 {
        let frame = [&outer[..], &vec![0; padded]].concat();
        let [out, again] = both(&mut fresh, &mut primed, &prime, &frame);
        assert_eq!(out, again, "{padded} bytes more");
    }
    fresh.assert_no_leak();
    primed.assert_no_leak();
}

#[test]
fn who_is_no_other_end_any_more_is_not_heard_any_more() {
    let reason = "tunnel_peer_unknown";
    for over in [node_v4 as fn(u8) -> IpAddr, node_v6] {
        let (mut a, mut b) = pair(over);
        let outer = only(a.send_one(1, &frame4(1, &udp4(v4(1), v4(2), 53))), UPLINK);
        for _ in 0..3 {
            assert_ne!(b.send_one(UPLINK, &outer), dropped(reason));
        }
        b.edit(|e| {
            for pod in [IpAddr::from(v4(1)), v6(1).into()] {
                e.remove_route(VrfId(0), pod.into());
            }
            e.remove_neighbor(VrfId(0), PortId(TUNNEL), over(1));
        });
        assert_eq!(b.send_one(UPLINK, &outer), dropped(reason));
        b.assert_no_leak();
    }
}
