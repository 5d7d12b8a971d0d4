// SPDX-License-Identifier: Apache-2.0
//! Hairpins: pod 1 comes to itself by a port of the node. It sees the gateway ask, or what stands for it over IPv6, and the node answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podswitch_datapath::stage::{By, explain};
use podswitch_datapath::tables::{
    Action, DirectionPolicy, Edit, HostPortKey, PortKindSpec, PortPolicy, PortSpec,
};
use podswitch_datapath::wire::FlowKey;
use podswitch_datapath::wire::flow_key::map_ip;
use podswitch_datapath::wire::translate::Endpoint;
use podswitch_datapath::{PeerClass, PortId, VrfId};

use crate::frames::{self, V4, V6};
use crate::masquerade::{NODE4, NODE6, everywhere, hop, hop6, node_on, tcp, to_pod4, udp};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World, gateway};

/// What the pod is shown over IPv6.
const MASK6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0xa9fe, 0x101);
/// Ports of the node, and where both lead.
const LED: u16 = 8080;
const ALSO_LED: u16 = 8082;
const SERVER: u16 = 80;
/// The pod's port that asks.
const ASKS: u16 = 4000;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;

fn lead(e: &mut Edit, lead: bool) {
    for (port, all, to) in [
        (LED, IpAddr::from(Ipv4Addr::UNSPECIFIED), v4(1).into()),
        (LED, Ipv6Addr::UNSPECIFIED.into(), v6(1).into()),
        (ALSO_LED, Ipv4Addr::UNSPECIFIED.into(), v4(1).into()),
    ] {
        let to = Endpoint {
            address: map_ip(to),
            port: SERVER,
        };
        for protocol in [frames::TCP, frames::UDP] {
            let key = HostPortKey {
                vrf: VrfId(0),
                protocol,
                port,
                address: all,
            };
            e.set_host_port(key, lead.then_some(to));
        }
    }
}

/// Pod 1 on the worker that it is on, changed.
fn change(w: &mut World, change: impl FnOnce(&mut PortSpec)) {
    let worker = w.tables.port(PortId(1)).unwrap().worker;
    let mut spec = PortSpec { worker, ..pod(1) };
    change(&mut spec);
    w.edit(|e| {
        e.set_port(spec);
    });
}

/// With ports for masquerading, and without.
fn led(test: impl Fn(&mut World)) {
    for ports in [0, 8] {
        everywhere(|w| {
            w.reserve_ports(ports);
            w.edit(|e| lead(e, true));
            test(w);
        });
    }
}

/// The four ends of a hairpin.
const POD: fn() -> (Ipv4Addr, u16) = || (v4(1), ASKS);
const AT_NODE: (Ipv4Addr, u16) = (NODE4, LED);
const SHOWN: fn() -> (Ipv4Addr, u16) = || (gateway().v4, ASKS);
const INSIDE: fn() -> (Ipv4Addr, u16) = || (v4(1), SERVER);

/// What becomes of a packet of pod 1's to itself.
fn comes_back(w: &mut World, packet: &V4, expected: V4) {
    let out = w.send_one(1, &frame4(1, packet));
    assert_eq!(out, sent(1, to_pod4(1, &hop(expected))));
}

fn ask(w: &mut World) {
    let question = udp(POD(), AT_NODE);
    comes_back(w, &question, udp(SHOWN(), INSIDE()));
}

#[test]
fn a_pod_reaches_itself_and_gets_its_answer_from_the_node() {
    led(|w| {
        for _ in 0..3 {
            ask(w);
            comes_back(w, &udp(INSIDE(), SHOWN()), udp(AT_NODE, POD()));
        }
    });
}

#[test]
fn tcp_from_its_first_segment_to_its_last_and_again() {
    led(|w| {
        for _ in 0..2 {
            for (asks, flags) in [
                (true, SYN),
                (false, SYN | ACK),
                (true, ACK),
                (true, FIN | ACK),
                (false, FIN | ACK),
                (true, ACK),
            ] {
                let ([src, dst], [from, to]) = match asks {
                    true => ([POD(), AT_NODE], [SHOWN(), INSIDE()]),
                    false => ([INSIDE(), SHOWN()], [AT_NODE, POD()]),
                };
                comes_back(w, &tcp(src, dst, flags), tcp(from, to, flags));
            }
        }
    });
}

#[test]
fn ipv6_too() {
    let packet = |src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16)| {
        let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, b"question");
        V6::new(src.0, dst.0, frames::UDP, data)
    };
    let (pod, node) = ((v6(1), ASKS), (NODE6, LED));
    let (shown, inside) = ((MASK6, ASKS), (v6(1), SERVER));
    led(|w| {
        for _ in 0..2 {
            for ([src, dst], [from, to]) in [
                ([pod, node], [shown, inside]),
                ([inside, shown], [node, pod]),
            ] {
                let out = w.send_one(1, &frame6(1, &packet(src, dst)));
                let expected = hop6(packet(from, to)).bytes();
                let expected = frames::ethernet(mac(1), GATEWAY_MAC, 0x86dd, &expected);
                assert_eq!(out, sent(1, expected));
            }
        }
    });
}

#[test]
fn errors_speak_of_what_the_pod_has_sent_and_got() {
    let error = |src: Ipv4Addr, dst: Ipv4Addr, about: &V4| {
        let message = frames::icmp(3, 3, [0; 4], &about.bytes());
        V4::new(src, dst, frames::ICMP, message)
    };
    led(|w| {
        ask(w);
        // Nobody is at the pod's port.
        let (got, asked) = (hop(udp(SHOWN(), INSIDE())), hop(udp(POD(), AT_NODE)));
        comes_back(
            w,
            &error(v4(1), gateway().v4, &got),
            error(NODE4, v4(1), &asked),
        );
        // Who asked is gone when the answer comes.
        comes_back(w, &udp(INSIDE(), SHOWN()), udp(AT_NODE, POD()));
        let (got, answered) = (hop(udp(AT_NODE, POD())), hop(udp(INSIDE(), SHOWN())));
        comes_back(
            w,
            &error(v4(1), NODE4, &got),
            error(gateway().v4, v4(1), &answered),
        );
        // About what nobody sent.
        let stray = hop(udp((gateway().v4, 4444), INSIDE()));
        let out = w.send_one(1, &frame4(1, &error(v4(1), gateway().v4, &stray)));
        assert_eq!(out, dropped("gateway_unhandled"));
        let stray = hop(udp(AT_NODE, (v4(1), 4444)));
        let out = w.send_one(1, &frame4(1, &error(v4(1), NODE4, &stray)));
        assert_eq!(out, dropped("nat_no_binding"));
    });
}

#[test]
fn errors_over_ipv6_too() {
    let packet = |src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16)| {
        let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, b"question");
        V6::new(src.0, dst.0, frames::UDP, data)
    };
    let error = |src: Ipv6Addr, dst: Ipv6Addr, about: &V6| {
        let message = frames::icmpv6(src, dst, 1, 4, [0; 4], &about.bytes());
        V6::new(src, dst, frames::ICMPV6, message)
    };
    let (pod, node) = ((v6(1), ASKS), (NODE6, LED));
    let (shown, inside) = ((MASK6, ASKS), (v6(1), SERVER));
    led(|w| {
        w.send_one(1, &frame6(1, &packet(pod, node)));
        let (got, asked) = (hop6(packet(shown, inside)), hop6(packet(pod, node)));
        let out = w.send_one(1, &frame6(1, &error(v6(1), MASK6, &got)));
        let expected = hop6(error(NODE6, v6(1), &asked)).bytes();
        let expected = frames::ethernet(mac(1), GATEWAY_MAC, 0x86dd, &expected);
        assert_eq!(out, sent(1, expected));
        let stray = w.send_one(1, &frame6(1, &packet(inside, (MASK6, ASKS + 1))));
        assert_eq!(stray, dropped("nat_no_binding"));
    });
}

#[test]
fn errors_of_the_switch_quote_what_the_pod_sent() {
    led(|w| {
        for (src, dst) in [(POD(), AT_NODE), (INSIDE(), SHOWN())] {
            let last = V4 {
                ttl: 1,
                ..udp(src, dst)
            };
            let out = only(w.send_one(1, &frame4(1, &last)), 1);
            assert_eq!(out[34], 11, "time exceeded");
            assert_eq!(
                out[26..34],
                [gateway().v4.octets(), v4(1).octets()].concat()
            );
            assert_eq!(out[42..][..28], last.bytes()[..28]);
            ask(w);
        }
    });
}

#[test]
fn fragments_of_both_directions_with_one_identification_keep_apart() {
    let pieces = |src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)| {
        let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, &[5; 1992]);
        [(0, 1000), (1000, 2000)].map(|(begin, end)| V4 {
            flags: (begin / 8) as u16 | if end < data.len() { 0x2000 } else { 0 },
            ..V4::new(src.0, dst.0, frames::UDP, data[begin..end].to_vec())
        })
    };
    led(|w| {
        let asked = pieces(POD(), AT_NODE).into_iter();
        let asked = asked.zip(pieces(SHOWN(), INSIDE()));
        let answered = pieces(INSIDE(), SHOWN()).into_iter();
        let answered = answered.zip(pieces(AT_NODE, POD()));
        for (asked, answered) in asked.zip(answered) {
            for (packet, expected) in [asked, answered] {
                comes_back(w, &packet, expected);
            }
        }
    });
}

#[test]
fn checksums_that_the_pod_left_unfinished_are_finished() {
    led(|w| {
        for ([src, dst], [from, to]) in [
            ([POD(), AT_NODE], [SHOWN(), INSIDE()]),
            ([INSIDE(), SHOWN()], [AT_NODE, POD()]),
        ] {
            let mut packet = udp(src, dst);
            let len = packet.payload.len();
            let pseudo = frames::pseudo(src.0.into(), dst.0.into(), frames::UDP, len);
            packet.payload[6..8].copy_from_slice(&pseudo.to_be_bytes());
            comes_back(w, &packet, udp(from, to));
        }
    });
}

#[test]
fn policy_lets_a_pod_reach_itself_and_its_own_rules_do_as_ever() {
    let none = || {
        let nobody = DirectionPolicy::new(Vec::new(), true, &[(PeerClass(0), Vec::new())], &[]);
        Arc::new(nobody.unwrap())
    };
    led(|w| {
        w.edit(|e| {
            let (egress, ingress) = (none(), none());
            e.set_policy(PortId(1), PortPolicy::Judged { egress, ingress });
        });
        ask(w);
        comes_back(w, &udp(INSIDE(), SHOWN()), udp(AT_NODE, POD()));
        let key = FlowKey::from_ip(VrfId(0), frames::UDP, v4(1).into(), NODE4.into(), ASKS, LED);
        let why = explain(&w.tables, VrfId(0), &key, None);
        assert_eq!(why.drop(), None);
        let by = [why.egress, why.ingress].map(|said| said.map(|s| (s.port, s.by)));
        assert_eq!(by, [Some((PortId(1), By::Exempt)); 2]);
        assert_eq!(why.led_to.map(|to| to.port), Some(SERVER));
        w.edit(|e| {
            e.set_policy(PortId(1), PortPolicy::Pending);
        });
        let question = frame4(1, &udp(POD(), AT_NODE));
        assert_eq!(w.send_one(1, &question), dropped("policy_pending"));
        w.edit(|e| {
            e.set_policy(PortId(1), PortPolicy::None);
        });
        change(w, |port| port.ingress_default = Action::Deny);
        assert_eq!(w.send_one(1, &question), dropped("policy_default_ingress"));
    });
}

#[test]
fn two_ways_to_one_port_of_the_pod_are_told_apart_by_who_asks() {
    led(|w| {
        ask(w);
        let by = |from: u16| udp((v4(1), from), (NODE4, ALSO_LED));
        let other = frame4(1, &by(ASKS));
        assert_eq!(w.send_one(1, &other), dropped("nat_hairpin"));
        let shown = udp((gateway().v4, ASKS + 1), INSIDE());
        comes_back(w, &by(ASKS + 1), shown);
        // The first goes on undisturbed, and gives the way free when it is over.
        comes_back(w, &udp(INSIDE(), SHOWN()), udp(AT_NODE, POD()));
        w.now += 200_000_000_000;
        comes_back(w, &by(ASKS), udp(SHOWN(), INSIDE()));
        let answer = udp((NODE4, ALSO_LED), POD());
        comes_back(w, &udp(INSIDE(), SHOWN()), answer);
    });
}

#[test]
fn a_socket_that_speaks_to_itself_hears_the_node() {
    led(|w| {
        for _ in 0..3 {
            comes_back(w, &udp(INSIDE(), AT_NODE), udp(AT_NODE, INSIDE()));
        }
    });
}

#[test]
fn an_address_of_the_pod_reaches_its_other_one() {
    let second: Ipv4Addr = [10, 0, 9, 1].into();
    led(|w| {
        change(w, |port| {
            port.kind = PortKindSpec::Routed {
                vrf: VrfId(0),
                addresses: vec![v4(1).into(), v6(1).into(), second.into()],
            };
        });
        comes_back(w, &udp((second, ASKS), AT_NODE), udp(SHOWN(), INSIDE()));
        let answer = udp(AT_NODE, (second, ASKS));
        comes_back(w, &udp(INSIDE(), SHOWN()), answer);
        // The first address would look the same.
        let question = frame4(1, &udp(POD(), AT_NODE));
        assert_eq!(w.send_one(1, &question), dropped("nat_hairpin"));
    });
}

#[test]
fn nobody_else_comes_in_by_the_gateway() {
    led(|w| {
        ask(w);
        for (from, to) in [(SERVER, ASKS + 1), (SERVER + 1, ASKS)] {
            let stray = udp((v4(1), from), (gateway().v4, to));
            let out = only(w.send_one(1, &frame4(1, &stray)), 1);
            assert_eq!(out[34..36], [3, 3], "port unreachable");
        }
        let other = udp((v4(2), SERVER), SHOWN());
        let out = only(w.send_one(2, &frame4(2, &other)), 2);
        assert_eq!(out[34..36], [3, 3], "port unreachable");
        let stray = tcp(INSIDE(), SHOWN(), ACK);
        let out = w.send_one(1, &frame4(1, &stray));
        assert_eq!(out, dropped("gateway_unhandled"));
        // Nor by what led here and does so no more.
        w.edit(|e| lead(e, false));
        let out = w.send_one(1, &frame4(1, &udp(POD(), AT_NODE)));
        assert!(!matches!(out[..], [Out::Sent(1, _)]), "{out:?}");
    });
}

#[test]
fn connections_go_on_after_a_restart_whoever_speaks_first() {
    for asks_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let mut w = node_on(0, 1);
            w.reserve_ports_in(dir.path(), 0);
            w.edit(|e| lead(e, true));
            w
        };
        comes_back(
            &mut start(),
            &tcp(POD(), AT_NODE, SYN),
            tcp(SHOWN(), INSIDE(), SYN),
        );
        let mut w = start();
        for asks in [asks_first, !asks_first, asks_first] {
            let ([src, dst], [from, to]) = match asks {
                true => ([POD(), AT_NODE], [SHOWN(), INSIDE()]),
                false => ([INSIDE(), SHOWN()], [AT_NODE, POD()]),
            };
            comes_back(&mut w, &tcp(src, dst, ACK), tcp(from, to, ACK));
        }
    }
}
