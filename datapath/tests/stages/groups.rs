// SPDX-License-Identifier: Apache-2.0
//! Groups: packets in tunnels with group policy bear who they are from, and are judged by that. Node A has pod 1, node B pod 2, a server that only pods of
//! the class of clients may reach, at port 80. What B knows of pod 1's address is up to each test.

use std::net::IpAddr;

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::explain;
use podswitch_datapath::tables::{PortPolicy, PortSpec};
use podswitch_datapath::wire::FlowKey;
use podswitch_datapath::wire::tcp::flags::{ACK, SYN};
use podswitch_datapath::{GroupId, IdentityId, PortId, Reason, VrfId, WorkerId};

use crate::connections::{CLIENT, OTHER, server};
use crate::frames::{self, V4};
use crate::node::*;
use crate::tunnels::{TUNNEL, arrived4, node_on, node_v4, node_v6, tunnel};
use crate::world::{Out, World};

/// The group of clients, that of others, and one that B does not know.
pub(crate) const CLIENTS: u16 = 0x0107;
const OTHERS: u16 = 0x8002;
const UNKNOWN: u16 = 0xffff;
/// Identities on B.
const CLIENT_ID: IdentityId = IdentityId(1);
const OTHER_ID: IdentityId = IdentityId(2);
/// Where the VXLAN header is over IPv4.
const VXLAN: usize = 42;

fn group(number: u16) -> GroupId {
    GroupId::new(number).unwrap()
}

/// Whose packets pod 1's are, as its node says.
pub(crate) fn mark(a: &mut World, number: Option<u16>) {
    a.edit(|e| {
        e.set_group_of(PortId(1), number.and_then(GroupId::new));
    });
}

/// Who pod 1 is by its address, on B.
fn known_as(b: &mut World, identity: Option<IdentityId>) {
    b.edit(|e| {
        e.set_peer(v4(1).into(), identity);
        e.set_peer(v6(1).into(), identity);
    });
}

/// Whom packets marked with a number are from, on B.
fn means(b: &mut World, number: u16, identity: Option<IdentityId>) {
    b.edit(|e| {
        e.set_group(group(number), identity);
    });
}

fn set_option(w: &mut World, node: u8, group_policy: bool, worker: u8) {
    w.edit(|e| {
        e.set_port(PortSpec {
            worker: WorkerId(worker),
            ..tunnel(node, group_policy)
        });
    });
}

/// A and B, their pod, uplink and tunnel on these workers of two.
pub(crate) fn nodes_on(workers: [u8; 3], over: fn(u8) -> IpAddr) -> (World, World) {
    let mut a = node_on(1, over(2), workers);
    let mut b = node_on(2, over(1), workers);
    set_option(&mut a, 1, true, workers[2]);
    set_option(&mut b, 2, true, workers[2]);
    b.edit(|e| {
        e.set_identity(CLIENT_ID, Some(CLIENT));
        e.set_identity(OTHER_ID, Some(OTHER));
        e.set_policy(PortId(2), server(CLIENT));
    });
    means(&mut b, CLIENTS, Some(CLIENT_ID));
    means(&mut b, OTHERS, Some(OTHER_ID));
    (a, b)
}

/// With one worker, and with all ways to spread ports over two.
fn spread() -> impl Iterator<Item = [u8; 3]> {
    (0..8).map(|n| [n & 1, n >> 1 & 1, n >> 2])
}

fn request() -> V4 {
    udp4(v4(1), v4(2), 80)
}

fn answer() -> V4 {
    let data = frames::udp(v4(2).into(), v4(1).into(), 80, 4000, &[7; 100]);
    V4::new(v4(2), v4(1), frames::UDP, data)
}

fn wrapped(a: &mut World, packet: &V4) -> Vec<u8> {
    only(a.send_one(1, &frame4(1, packet)), UPLINK)
}

fn there(a: &mut World, b: &mut World, packet: &V4) -> Vec<Out> {
    let outer = wrapped(a, packet);
    b.send_one(UPLINK, &outer)
}

/// Whether an answer leaves B.
fn answers(b: &mut World, packet: &V4) -> Result<(), String> {
    match &b.send_one(2, &frame4(2, packet))[..] {
        [Out::Sent(UPLINK, _)] => Ok(()),
        [Out::Dropped(reason)] => Err((*reason).to_owned()),
        other => panic!("{other:?}"),
    }
}

fn isolated() -> Vec<Out> {
    dropped("policy_isolated_ingress")
}

#[test]
fn packets_of_a_pod_with_a_group_bear_it() {
    for (over, at) in [(node_v4 as fn(u8) -> IpAddr, 42), (node_v6, 62)] {
        let (mut a, _) = nodes_on([0; 3], over);
        let header = |frame: &[u8]| frame[at..at + 4].to_vec();
        assert_eq!(header(&wrapped(&mut a, &request())), [8, 0, 0, 0]);
        mark(&mut a, Some(CLIENTS));
        for _ in 0..2 {
            let outer = wrapped(&mut a, &request());
            assert_eq!(header(&outer), [0x88, 0, 1, 7]);
            if at == 62 {
                let udp = &outer[54..];
                let pseudo = frames::pseudo(node_v6(1), node_v6(2), frames::UDP, udp.len());
                assert_eq!(frames::sum(udp, pseudo.into()), 0xffff, "UDP checksum");
            }
        }
        // Another version of the port is the same pod.
        a.edit(|e| {
            let mut port = pod(1);
            port.mtu = 1400;
            e.set_port(port);
        });
        assert_eq!(header(&wrapped(&mut a, &request())), [0x88, 0, 1, 7]);
        set_option(&mut a, 1, false, 0);
        assert_eq!(header(&wrapped(&mut a, &request())), [8, 0, 0, 0]);
        set_option(&mut a, 1, true, 0);
        mark(&mut a, None);
        assert_eq!(header(&wrapped(&mut a, &request())), [8, 0, 0, 0]);
        a.assert_no_leak();
    }
}

#[test]
fn a_marked_packet_is_judged_by_its_group_and_not_by_its_address() {
    for over in [node_v4 as fn(u8) -> IpAddr, node_v6] {
        for workers in spread() {
            let (mut a, mut b) = nodes_on(workers, over);
            let arrives = sent(2, arrived4(&request(), 2));
            // Nobody knows the address; the wrong one; and the right one.
            for (by_address, number, out) in [
                (None, None, isolated()),
                (None, Some(OTHERS), isolated()),
                (Some(CLIENT_ID), Some(OTHERS), isolated()),
                (Some(CLIENT_ID), None, arrives.clone()),
                (Some(OTHER_ID), None, isolated()),
                (Some(OTHER_ID), Some(CLIENTS), arrives.clone()),
                (None, Some(CLIENTS), arrives.clone()),
            ] {
                known_as(&mut b, by_address);
                mark(&mut a, number);
                for _ in 0..3 {
                    let got = there(&mut a, &mut b, &request());
                    assert_eq!(got, out, "{workers:?}: {by_address:?} {number:?}");
                }
            }
            assert_eq!(answers(&mut b, &answer()), Ok(()));
            a.assert_no_leak();
            b.assert_no_leak();
        }
    }
}

#[test]
fn known_connections_are_not_judged_by_packet() {
    for workers in spread() {
        let (mut a, mut b) = nodes_on(workers, node_v4);
        mark(&mut a, Some(CLIENTS));
        for _ in 0..2 {
            there(&mut a, &mut b, &request());
            assert_eq!(answers(&mut b, &answer()), Ok(()));
        }
        let misses = |w: &World| w.counters().event(Event::FlowMiss);
        let before = misses(&b);
        for _ in 0..5 {
            there(&mut a, &mut b, &request());
            assert_eq!(answers(&mut b, &answer()), Ok(()));
        }
        assert_eq!(misses(&b), before, "{workers:?}");
        assert_eq!(b.counters().event(Event::FlowRejudged), 0);
    }
}

#[test]
fn a_number_that_nobody_knows_leaves_it_to_the_address() {
    let (mut a, mut b) = nodes_on([0; 3], node_v4);
    mark(&mut a, Some(UNKNOWN));
    assert_eq!(there(&mut a, &mut b, &request()), isolated());
    known_as(&mut b, Some(CLIENT_ID));
    let arrives = sent(2, arrived4(&request(), 2));
    assert_eq!(there(&mut a, &mut b, &request()), arrives);
    // As it comes to be known, what is under way is judged by it.
    means(&mut b, UNKNOWN, Some(OTHER_ID));
    assert!(answers(&mut b, &answer()).is_err());
    assert_eq!(there(&mut a, &mut b, &request()), isolated());
    means(&mut b, UNKNOWN, None);
    assert_eq!(there(&mut a, &mut b, &request()), arrives);
    // 0 is no group.
    let mut outer = wrapped(&mut a, &request());
    outer[VXLAN + 2..VXLAN + 4].fill(0);
    assert_eq!(b.send_one(UPLINK, &outer), arrives);
}

#[test]
fn marks_are_believed_where_it_is_said_so() {
    let (mut a, mut b) = nodes_on([0; 3], node_v4);
    mark(&mut a, Some(CLIENTS));
    let outer = wrapped(&mut a, &request());
    // Without G, whatever stands there is nothing.
    let mut unflagged = outer.clone();
    unflagged[VXLAN] &= 0x7f;
    assert_eq!(b.send_one(UPLINK, &unflagged), isolated());
    // From somebody else.
    let mut forged = outer.clone();
    forged[29] = 77;
    frames::fill_header_checksum(&mut forged[14..34]);
    assert_eq!(b.send_one(UPLINK, &forged), dropped("tunnel_peer_unknown"));
    // "Policy was applied" is no reason not to apply it.
    let mut applied = outer.clone();
    applied[VXLAN + 1] |= 0x48;
    applied[VXLAN + 2..VXLAN + 4].copy_from_slice(&OTHERS.to_be_bytes());
    assert_eq!(b.send_one(UPLINK, &applied), isolated());
    // The tunnel does not have it: ignored, as all that RFC 7348 reserves.
    set_option(&mut b, 2, false, 0);
    assert_eq!(b.send_one(UPLINK, &outer), isolated());
    known_as(&mut b, Some(CLIENT_ID));
    assert_eq!(b.send_one(UPLINK, &applied).len(), 1);
    assert_ne!(b.send_one(UPLINK, &applied), isolated());
}

/// What a pod itself wraps and sends to the node is no tunnel's packet, whatever it says.
#[test]
fn a_pod_cannot_mark_its_packets() {
    let (mut a, mut b) = nodes_on([0; 3], node_v4);
    mark(&mut a, Some(CLIENTS));
    let outer = wrapped(&mut a, &request());
    let data = &outer[VXLAN..];
    let IpAddr::V4(node) = node_v4(2) else {
        unreachable!("it is")
    };
    let own = frames::udp(v4(2).into(), node.into(), 50_000, 4789, data);
    let out = b.send_one(2, &frame4(2, &V4::new(v4(2), node, frames::UDP, own)));
    assert!(!matches!(out[..], [Out::Sent(2, _)]), "{out:?}");
    assert_eq!(there(&mut a, &mut b, &request()).len(), 1);
}

/// Changes under a connection that was let in by its group: what comes of its next answer and of its next packet.
#[test]
fn what_a_group_was_believed_for_is_judged_again() {
    type Change = fn(&mut World, worker: u8);
    let changes: [(&str, Change); 6] = [
        ("the group means others", |b, _| {
            means(b, CLIENTS, Some(OTHER_ID))
        }),
        ("nobody knows the group", |b, _| means(b, CLIENTS, None)),
        ("its identity is of another class", |b, _| {
            b.edit(|e| {
                e.set_identity(CLIENT_ID, Some(OTHER));
            });
        }),
        ("the policy is for others", |b, _| {
            b.edit(|e| {
                e.set_policy(PortId(2), server(OTHER));
            });
        }),
        ("the tunnel has no group policy", |b, worker| {
            set_option(b, 2, false, worker)
        }),
        ("the pod waits to be described", |b, _| {
            b.edit(|e| {
                e.set_policy(PortId(2), PortPolicy::Pending);
            });
        }),
    ];
    for workers in spread() {
        for answer_first in [true, false] {
            for (what, change) in changes {
                let case = format!("{what}, {workers:?}, answer first: {answer_first}");
                let (mut a, mut b) = nodes_on(workers, node_v4);
                mark(&mut a, Some(CLIENTS));
                let arrives = sent(2, arrived4(&request(), 2));
                assert_eq!(there(&mut a, &mut b, &request()), arrives);
                assert_eq!(answers(&mut b, &answer()), Ok(()));
                change(&mut b, workers[2]);
                if answer_first {
                    assert!(answers(&mut b, &answer()).is_err(), "{case}");
                }
                assert_ne!(there(&mut a, &mut b, &request()), arrives, "{case}");
                assert!(answers(&mut b, &answer()).is_err(), "{case}");
                a.assert_no_leak();
                b.assert_no_leak();
            }
        }
    }
}

#[test]
fn a_change_of_something_else_leaves_it_as_it_is() {
    for workers in spread() {
        let (mut a, mut b) = nodes_on(workers, node_v4);
        mark(&mut a, Some(CLIENTS));
        let arrives = sent(2, arrived4(&request(), 2));
        assert_eq!(there(&mut a, &mut b, &request()), arrives);
        for by_address in [Some(OTHER_ID), None, Some(CLIENT_ID), Some(OTHER_ID)] {
            known_as(&mut b, by_address);
            means(&mut b, OTHERS, Some(OTHER_ID));
            // Judged again by what answers do not say.
            assert_eq!(answers(&mut b, &answer()), Ok(()), "{workers:?}");
            assert_eq!(there(&mut a, &mut b, &request()), arrives, "{workers:?}");
        }
        assert!(b.counters().event(Event::FlowRejudged) > 0);
    }
}

/// Its labels have changed on its node, which this one need not know by its address.
#[test]
fn a_sender_that_comes_to_have_another_group_is_judged_again() {
    for workers in spread() {
        let (mut a, mut b) = nodes_on(workers, node_v4);
        let arrives = sent(2, arrived4(&request(), 2));
        for number in [Some(OTHERS), Some(UNKNOWN), None] {
            mark(&mut a, Some(CLIENTS));
            assert_eq!(there(&mut a, &mut b, &request()), arrives);
            assert_eq!(answers(&mut b, &answer()), Ok(()));
            mark(&mut a, number);
            assert_eq!(there(&mut a, &mut b, &request()), isolated());
            assert!(answers(&mut b, &answer()).is_err(), "{workers:?}");
        }
        // One that may go on is remembered by the other group from then on.
        means(&mut b, UNKNOWN, Some(CLIENT_ID));
        mark(&mut a, Some(CLIENTS));
        assert_eq!(there(&mut a, &mut b, &request()), arrives);
        mark(&mut a, Some(UNKNOWN));
        for _ in 0..2 {
            assert_eq!(there(&mut a, &mut b, &request()), arrives);
        }
        means(&mut b, CLIENTS, None);
        assert_eq!(answers(&mut b, &answer()), Ok(()), "{workers:?}");
        means(&mut b, UNKNOWN, None);
        assert!(answers(&mut b, &answer()).is_err(), "{workers:?}");
    }
}

#[test]
fn a_connection_begun_here_does_not_care_who_answers() {
    for workers in spread() {
        let (mut a, mut b) = nodes_on(workers, node_v4);
        // The server of before begins now, at A, which is in no policy.
        b.edit(|e| {
            e.set_policy(PortId(2), PortPolicy::None);
        });
        let open = tcp(2, 1, (5000, 90), SYN);
        let outer = only(b.send_one(2, &frame4(2, &open)), UPLINK);
        assert!(matches!(a.send_one(UPLINK, &outer)[..], [Out::Sent(1, _)]));
        for number in [Some(OTHERS), None, Some(CLIENTS), Some(UNKNOWN)] {
            mark(&mut a, number);
            let before = b.counters().event(Event::FlowRejudged);
            let answer = tcp(1, 2, (90, 5000), SYN | ACK);
            for _ in 0..2 {
                let outer = wrapped(&mut a, &answer);
                let out = b.send_one(UPLINK, &outer);
                assert!(matches!(out[..], [Out::Sent(2, _)]), "{number:?}: {out:?}");
            }
            assert_eq!(b.counters().event(Event::FlowRejudged), before);
        }
    }
}

fn tcp(from: u16, to: u16, (sport, dport): (u16, u16), bits: u8) -> V4 {
    let (src, dst) = (v4(from), v4(to));
    let data = frames::tcp(src.into(), dst.into(), sport, dport, bits, &[]);
    V4::new(src, dst, frames::TCP, data)
}

/// Packets heard before are told by their outer headers, in which the group differs from packet to packet.
#[test]
fn each_packet_of_a_tunnel_has_a_group_of_its_own() {
    let (mut a, mut b) = nodes_on([0; 3], node_v4);
    let packet = |sport: u16| {
        let data = frames::udp(v4(1).into(), v4(2).into(), sport, 80, &[7; 100]);
        V4::new(v4(1), v4(2), frames::UDP, data)
    };
    for sport in 1000..1030 {
        let number = [Some(CLIENTS), Some(OTHERS), None, Some(UNKNOWN)][usize::from(sport) % 4];
        mark(&mut a, number);
        let out = there(&mut a, &mut b, &packet(sport));
        match number {
            Some(CLIENTS) => assert_eq!(out, sent(2, arrived4(&packet(sport), 2))),
            _ => assert_eq!(out, isolated(), "{number:?}"),
        }
    }
    // In one batch.
    mark(&mut a, Some(CLIENTS));
    let one = wrapped(&mut a, &packet(2000));
    mark(&mut a, Some(OTHERS));
    let other = wrapped(&mut a, &packet(2001));
    let out = b.send(UPLINK, &[one.clone(), other.clone(), one, other]);
    let arrives = Out::Sent(2, arrived4(&packet(2000), 2));
    let denied = isolated().remove(0);
    assert_eq!(out, [arrives.clone(), arrives, denied.clone(), denied]);
    b.assert_no_leak();
}

#[test]
fn fragments_and_errors_follow_the_connection_that_a_group_let_in() {
    for workers in spread() {
        let (mut a, mut b) = nodes_on(workers, node_v4);
        mark(&mut a, Some(CLIENTS));
        let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 80, &[7; 2000]);
        let mut large = V4::new(v4(1), v4(2), frames::UDP, data);
        large.flags = 0;
        let cut = |a: &mut World| -> Vec<Vec<u8>> {
            let pieces = a.send_one(1, &frame4(1, &large));
            let outer = |out| match out {
                Out::Sent(UPLINK, frame) => frame,
                other => panic!("{other:?}"),
            };
            let mut pieces: Vec<_> = pieces.into_iter().map(outer).collect();
            // The first one is the longest.
            pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
            pieces
        };
        let pieces = cut(&mut a);
        assert_eq!(pieces.len(), 2);
        for piece in &pieces {
            assert_eq!(piece[VXLAN..VXLAN + 4], [0x88, 0, 1, 7]);
            let out = b.send_one(UPLINK, piece);
            assert!(matches!(out[..], [Out::Sent(2, _)]), "{workers:?}: {out:?}");
        }
        // Pod 2 says that nobody is there, about what has come.
        let quoted = request().bytes();
        let error = frames::icmp(3, 3, [0; 4], &quoted);
        let error = V4::new(v4(2), v4(1), 1, error);
        assert_eq!(answers(&mut b, &error), Ok(()), "{workers:?}");
        means(&mut b, CLIENTS, Some(OTHER_ID));
        assert!(answers(&mut b, &error).is_err(), "{workers:?}");
        let out = b.send_one(UPLINK, &pieces[0]);
        assert_eq!(out, isolated(), "{workers:?}");
        b.assert_no_leak();
    }
}

#[test]
fn why_says_what_a_group_decides() {
    let (_, mut b) = nodes_on([0; 3], node_v4);
    known_as(&mut b, Some(OTHER_ID));
    let key = FlowKey::from_ip(VrfId(0), frames::UDP, v4(1).into(), v4(2).into(), 4000, 80);
    let ask = |b: &World, number: Option<u16>| {
        let why = explain(&b.tables, VrfId(0), &key, number.map(group));
        let ingress = why.ingress.unwrap();
        (why.drop(), ingress.peer.identity, ingress.by_group)
    };
    let no = Some(Reason::PolicyIsolatedIngress);
    assert_eq!(ask(&b, None), (no, Some(OTHER_ID), None));
    let clients = Some(group(CLIENTS));
    assert_eq!(ask(&b, Some(CLIENTS)), (None, Some(CLIENT_ID), clients));
    assert_eq!(ask(&b, Some(UNKNOWN)), (no, Some(OTHER_ID), None));
    set_option(&mut b, 2, false, 0);
    assert_eq!(ask(&b, Some(CLIENTS)), (no, Some(OTHER_ID), None));
    assert_eq!(
        b.tables.port(PortId(TUNNEL)).map(|p| p.has_group_policy()),
        Some(false)
    );
}
