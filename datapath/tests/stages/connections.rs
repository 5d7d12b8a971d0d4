// SPDX-License-Identifier: Apache-2.0
//! Connections under network policy: pod 1 is a client, pod 2 a server that pod 1 may reach at TCP and UDP port 80, SCTP port 80,
//! and by ICMP; pod 3 is in no policy. With one worker and with two: every end is judged by its own.

use std::sync::Arc;

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{
    Action, DirectionPolicy, Edit, PolicyAction, PolicyRule, PortMatch, PortPolicy, Rule, Tier,
};
use podswitch_datapath::tables::{Direction, PortKindSpec, PortSpec};
use podswitch_datapath::wire::tcp::flags::{ACK, FIN, RST, SYN};
use podswitch_datapath::{IdentityId, PeerClass, PolicyRuleId, PortId};

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::{Out, World};

pub(crate) const CLIENT: PeerClass = PeerClass(0);
pub(crate) const OTHER: PeerClass = PeerClass(1);
const SCTP: u8 = 132;
const SECOND: u64 = 1_000_000_000;

fn rule(id: u32, ports: &[(u8, u16)]) -> PolicyRule {
    let ports = ports.iter().map(|&(protocol, port)| PortMatch {
        protocol,
        ports: port..=port,
    });
    PolicyRule {
        id: PolicyRuleId(id),
        tier: Tier::Network,
        action: PolicyAction::Accept,
        any_peer: false,
        both: false,
        ports: ports.collect(),
    }
}

fn policy(rules: Vec<PolicyRule>, isolated: bool, class: PeerClass) -> Arc<DirectionPolicy> {
    let all = (0..rules.len() as u32).collect();
    Arc::new(DirectionPolicy::new(rules, isolated, &[(class, all)], &[]).unwrap())
}

fn open() -> Arc<DirectionPolicy> {
    policy(Vec::new(), false, CLIENT)
}

/// Pod 2 isolated both ways; what comes from pods of `class` to port 80, or as ICMP, may come in.
pub(crate) fn server(class: PeerClass) -> PortPolicy {
    let icmp = PolicyRule {
        ports: Vec::new(),
        ..rule(8, &[])
    };
    let service = rule(7, &[(frames::TCP, 80), (frames::UDP, 80), (SCTP, 80)]);
    PortPolicy::Judged {
        egress: policy(Vec::new(), true, CLIENT),
        ingress: policy(
            match class == CLIENT {
                true => vec![service],
                false => vec![service, icmp],
            },
            true,
            class,
        ),
    }
}

fn describe(e: &mut Edit) {
    for n in 1..=3 {
        e.set_peer(v4(n).into(), Some(IdentityId(n.into())));
        e.set_peer(v6(n).into(), Some(IdentityId(n.into())));
        let class = if n == 1 { CLIENT } else { OTHER };
        e.set_identity(IdentityId(n.into()), Some(class));
    }
    e.set_policy(PortId(2), server(CLIENT));
}

fn worlds() -> [World; 2] {
    [1, 2].map(|workers| {
        let mut w = node_of(workers, Rate::UNLIMITED);
        w.edit(describe);
        for worker in &w.workers {
            worker.counters.prepare_policy_rule(PolicyRuleId(7));
        }
        w
    })
}

/// A TCP segment between pods, of the server's port 80 and the client's 4000.
fn segment(from: u16, to: u16, bits: u8) -> V4 {
    let (sport, dport) = if to == 2 { (4000, 80) } else { (80, 4000) };
    segment_at(from, to, (sport, dport), bits)
}

fn segment_at(from: u16, to: u16, ports: (u16, u16), bits: u8) -> V4 {
    let (src, dst) = (v4(from), v4(to));
    let data = frames::tcp(src.into(), dst.into(), ports.0, ports.1, bits, &[]);
    V4::new(src, dst, frames::TCP, data)
}

/// What becomes of a packet: `Ok` when it arrives as it should.
fn pass(w: &mut World, from: u16, to: u16, packet: &V4) -> Result<(), String> {
    arrived(w.send_one(from, &frame4(from, packet)), to)
}

fn arrived(out: Vec<Out>, at: u16) -> Result<(), String> {
    match &out[..] {
        [Out::Sent(port, _)] if *port == at => Ok(()),
        [Out::Dropped(reason)] => Err((*reason).to_owned()),
        other => panic!("{other:?}"),
    }
}

fn refused(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

fn handshake(w: &mut World) {
    assert_eq!(pass(w, 1, 2, &segment(1, 2, SYN)), Ok(()));
    assert_eq!(pass(w, 2, 1, &segment(2, 1, SYN | ACK)), Ok(()));
    assert_eq!(pass(w, 1, 2, &segment(1, 2, ACK)), Ok(()));
}

#[test]
fn a_connection_that_may_be_passes_both_ways_until_it_ends() {
    for mut w in worlds() {
        handshake(&mut w);
        for _ in 0..3 {
            assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), Ok(()));
            assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), Ok(()));
        }
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, FIN | ACK)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, FIN | ACK)), Ok(()));
        assert_eq!(
            pass(&mut w, 2, 1, &segment(2, 1, ACK)),
            Ok(()),
            "the last one"
        );
        // The tuple may be used again at once, by the client alone.
        handshake(&mut w);
        let counters = w.counters();
        assert_eq!(counters.policy_rules[&PolicyRuleId(7)].packets, 2);
        assert_eq!(counters.event(Event::FlowRejudged), 0);
    }
}

#[test]
fn what_policy_does_not_name_is_denied_and_not_remembered() {
    for mut w in worlds() {
        let denied = refused("policy_isolated_ingress");
        assert_eq!(pass(&mut w, 3, 2, &segment(3, 2, SYN)), denied);
        let other = segment_at(1, 2, (4000, 81), SYN);
        assert_eq!(pass(&mut w, 1, 2, &other), denied);
        let away = segment_at(2, 3, (4000, 80), SYN);
        assert_eq!(
            pass(&mut w, 2, 3, &away),
            refused("policy_isolated_egress"),
            "isolated both ways"
        );
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 2), SYN)), Ok(()));
        let flows: usize = w.workers.iter().map(|s| s.flows.len()).sum();
        // The connection to pod 3, at each end; and those that the sender's end let on elsewhere.
        assert!(flows <= 2 * w.workers.len(), "{flows}");
        w.assert_no_leak();
    }
}

#[test]
fn strays_open_nothing() {
    for mut w in worlds() {
        for bits in [ACK, RST, RST | ACK, FIN | ACK, SYN | ACK, 0, SYN | FIN] {
            let stray = segment(1, 2, bits);
            assert_eq!(
                pass(&mut w, 1, 2, &stray),
                refused("no_connection"),
                "{bits:#x}"
            );
            let answer = segment(2, 1, ACK);
            assert_eq!(
                pass(&mut w, 2, 1, &answer),
                refused("policy_isolated_egress"),
                "after {bits:#x}"
            );
        }
        // Where no policy asks, it is for the pods to know.
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 2), ACK)), Ok(()));
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 3), RST)), Ok(()));
        // After a restart, what may begin may be joined.
        w.joins = true;
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), Ok(()));
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), Ok(()));
        let rst = segment_at(1, 2, (4001, 80), RST);
        assert_eq!(pass(&mut w, 1, 2, &rst), refused("no_connection"));
    }
}

#[test]
fn a_server_cannot_begin_where_it_answered() {
    for mut w in worlds() {
        handshake(&mut w);
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, RST)), Ok(()));
        assert_eq!(
            pass(&mut w, 2, 1, &segment(2, 1, SYN)),
            refused("policy_isolated_egress")
        );
    }
}

#[test]
fn a_change_of_policy_stops_what_is_no_longer_allowed_and_nothing_else() {
    for mut w in worlds() {
        handshake(&mut w);
        // Another policy that says the same about this connection.
        w.edit(|e| {
            e.set_policy(PortId(2), server(CLIENT));
        });
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), Ok(()));
        assert!(w.counters().event(Event::FlowRejudged) > 0);
        // The answer comes first: the connection is judged as it began, and its ACK alone would begin nothing.
        w.edit(|e| {
            e.set_policy(PortId(2), server(OTHER));
        });
        let denied = refused("policy_isolated_ingress");
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), denied);
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), denied);
        w.edit(|e| {
            e.set_policy(PortId(2), server(CLIENT));
        });
        assert_eq!(
            pass(&mut w, 1, 2, &segment(1, 2, ACK)),
            refused("no_connection"),
            "it is over"
        );
        handshake(&mut w);
        // No policy any more: everything may be.
        w.edit(|e| {
            e.set_policy(PortId(2), PortPolicy::None);
        });
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), Ok(()));
        assert_eq!(pass(&mut w, 3, 2, &segment(3, 2, SYN)), Ok(()));
    }
}

#[test]
fn a_peer_that_changes_is_judged_again() {
    let changes: [fn(&mut Edit); 4] = [
        // Relabelled: another identity.
        |e| {
            e.set_peer(v4(1).into(), Some(IdentityId(3)));
        },
        // Gone: nobody is known at the address.
        |e| {
            e.set_peer(v4(1).into(), None);
        },
        // Its namespace was relabelled: its identity is of another class.
        |e| {
            e.set_identity(IdentityId(1), Some(OTHER));
        },
        |e| {
            e.set_policy(PortId(2), PortPolicy::Pending);
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        for mut w in worlds() {
            handshake(&mut w);
            w.edit(change);
            let reason = match n {
                3 => "policy_pending",
                _ => "policy_isolated_ingress",
            };
            assert_eq!(
                pass(&mut w, 1, 2, &segment(1, 2, ACK)),
                refused(reason),
                "{n}"
            );
        }
    }
}

#[test]
fn a_pod_that_nobody_has_described_is_closed() {
    for mut w in worlds() {
        w.edit(|e| {
            e.set_policy(PortId(3), PortPolicy::Pending);
        });
        let pending = refused("policy_pending");
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 2), SYN)), pending);
        assert_eq!(pass(&mut w, 3, 1, &segment_at(3, 1, (1, 2), SYN)), pending);
        w.edit(|e| {
            e.set_policy(
                PortId(3),
                PortPolicy::Judged {
                    egress: open(),
                    ingress: open(),
                },
            );
        });
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 2), SYN)), Ok(()));
    }
}

#[test]
fn udp_and_echoes_are_answered_for_a_while() {
    for mut w in worlds() {
        let ask = udp4(v4(1), v4(2), 80);
        let data = frames::udp(v4(2).into(), v4(1).into(), 80, 4000, &[7; 100]);
        let answer = V4::new(v4(2), v4(1), frames::UDP, data);
        let denied = refused("policy_isolated_egress");
        assert_eq!(pass(&mut w, 2, 1, &answer), denied);
        assert_eq!(pass(&mut w, 1, 2, &ask), Ok(()));
        w.now += 29 * SECOND;
        assert_eq!(pass(&mut w, 2, 1, &answer), Ok(()));
        w.now += 119 * SECOND;
        assert_eq!(pass(&mut w, 2, 1, &answer), Ok(()));
        w.now += 121 * SECOND;
        assert_eq!(pass(&mut w, 2, 1, &answer), denied);

        w.edit(|e| {
            e.set_policy(PortId(2), server(OTHER));
        });
        let echo = |from, to, kind, id: u8| {
            let data = frames::icmp(kind, 0, [0, id, 0, 1], &[1; 56]);
            V4::new(v4(from), v4(to), frames::ICMP, data)
        };
        assert_eq!(pass(&mut w, 3, 2, &echo(3, 2, 8, 5)), Ok(()));
        assert_eq!(pass(&mut w, 2, 3, &echo(2, 3, 0, 5)), Ok(()));
        assert_eq!(pass(&mut w, 2, 3, &echo(2, 3, 0, 6)), denied, "never asked");
        assert_eq!(pass(&mut w, 2, 3, &echo(2, 3, 8, 5)), denied, "its own");
        w.assert_no_leak();
    }
}

#[test]
fn errors_about_a_connection_pass_and_others_do_not() {
    for mut w in worlds() {
        let ask = udp4(v4(1), v4(2), 80);
        assert_eq!(pass(&mut w, 1, 2, &ask), Ok(()));
        let error = |about: &V4, to| {
            let quoted = about.bytes()[..28].to_vec();
            let data = frames::icmp(3, 3, [0; 4], &quoted);
            V4::new(v4(2), v4(to), frames::ICMP, data)
        };
        let denied = refused("policy_isolated_egress");
        assert_eq!(pass(&mut w, 2, 1, &error(&ask, 1)), Ok(()));
        let never = udp4(v4(1), v4(2), 81);
        assert_eq!(pass(&mut w, 2, 1, &error(&never, 1)), denied);
        assert_eq!(
            pass(&mut w, 2, 3, &error(&ask, 3)),
            denied,
            "not to who asked"
        );
        // From a router on the way, to the server: about its answer.
        let data = frames::udp(v4(2).into(), v4(1).into(), 80, 4000, &[7; 100]);
        let answer = V4::new(v4(2), v4(1), frames::UDP, data);
        let outside = "192.0.2.77".parse().unwrap();
        let data = frames::icmp(11, 0, [0; 4], &answer.bytes()[..28]);
        let exceeded = V4::new(outside, v4(2), frames::ICMP, data);
        let frame = frames::ethernet(
            crate::world::GATEWAY_MAC,
            mac(0x901),
            0x0800,
            &exceeded.bytes(),
        );
        assert_eq!(arrived(w.send_one(UPLINK, &frame), 2), Ok(()));
        w.assert_no_leak();
    }
}

#[test]
fn errors_about_ipv6_connections_pass() {
    for mut w in worlds() {
        let ask = udp6(v6(1), v6(2), 80);
        assert_eq!(arrived(w.send_one(1, &frame6(1, &ask)), 2), Ok(()));
        for (about, expected) in [
            (ask, Ok(())),
            (udp6(v6(1), v6(2), 81), refused("policy_isolated_egress")),
        ] {
            let quoted = about.bytes()[..48].to_vec();
            let data = frames::icmpv6(v6(2), v6(1), 1, 4, [0; 4], &quoted);
            let error = V6::new(v6(2), v6(1), frames::ICMPV6, data);
            assert_eq!(arrived(w.send_one(2, &frame6(2, &error)), 1), expected);
        }
    }
}

#[test]
fn a_pod_that_gets_an_address_does_not_get_its_connections() {
    for mut w in worlds() {
        handshake(&mut w);
        // The client goes, and another pod has its address, its labels and all.
        let worker = w.tables.port(PortId(1)).unwrap().worker;
        w.edit(|e| {
            e.remove_port(PortId(1));
        });
        let successor = PortSpec {
            worker,
            mac: mac(1),
            kind: pod(1).kind,
            ..pod(6)
        };
        w.edit(|e| {
            e.set_port(successor);
        });
        let stray = frame4(1, &segment(1, 2, ACK));
        assert_eq!(arrived(w.send_one(6, &stray), 2), refused("no_connection"));
        let syn = frame4(1, &segment(1, 2, SYN));
        assert_eq!(arrived(w.send_one(6, &syn), 2), Ok(()));
    }
}

#[test]
fn later_fragments_go_as_the_first_did() {
    for mut w in worlds() {
        let fragments = |from, port: u16, id| {
            let whole = udp4(v4(from), v4(2), port);
            let first = V4 {
                flags: 0x2000,
                id,
                payload: whole.payload[..56].to_vec(),
                ..whole
            };
            let later = V4 {
                flags: 7,
                id,
                ..V4::new(v4(from), v4(2), frames::UDP, vec![7; 52])
            };
            (first, later)
        };
        let unknown = refused("fragment_unknown");
        let (first, later) = fragments(1, 80, 1);
        assert_eq!(pass(&mut w, 1, 2, &later), unknown, "before the first");
        assert_eq!(pass(&mut w, 1, 2, &first), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &later), Ok(()));
        let (first, later) = fragments(1, 80, 2);
        assert_eq!(pass(&mut w, 1, 2, &later), unknown, "of another packet");
        assert_eq!(pass(&mut w, 1, 2, &first), Ok(()), "known by now");
        assert_eq!(pass(&mut w, 1, 2, &later), Ok(()));
        let (first, later) = fragments(3, 80, 3);
        assert_eq!(
            pass(&mut w, 3, 2, &first),
            refused("policy_isolated_ingress")
        );
        assert_eq!(pass(&mut w, 3, 2, &later), unknown);
        w.assert_no_leak();
    }
}

#[test]
fn sctp_begins_with_init() {
    for mut w in worlds() {
        let chunk = |from: u16, to: u16, kind: u8| {
            let (sport, dport): (u16, u16) = if to == 2 { (4000, 80) } else { (80, 4000) };
            let mut data = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
            data.extend([0; 8]);
            data.extend([kind, 0, 0, 4]);
            V4::new(v4(from), v4(to), SCTP, data)
        };
        assert_eq!(
            pass(&mut w, 1, 2, &chunk(1, 2, 0)),
            refused("no_connection")
        );
        assert_eq!(pass(&mut w, 1, 2, &chunk(1, 2, 1)), Ok(()));
        assert_eq!(pass(&mut w, 2, 1, &chunk(2, 1, 2)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &chunk(1, 2, 10)), Ok(()));
        assert_eq!(pass(&mut w, 2, 1, &chunk(2, 1, 11)), Ok(()));
        w.now += 200 * SECOND;
        assert_eq!(pass(&mut w, 2, 1, &chunk(2, 1, 0)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &chunk(1, 2, 6)), Ok(()), "aborted");
        w.now += 11 * SECOND;
        assert_eq!(
            pass(&mut w, 2, 1, &chunk(2, 1, 0)),
            refused("policy_isolated_egress")
        );
    }
}

#[test]
fn the_node_reaches_its_pods_and_they_it_but_what_it_forwards_does_not() {
    for mut w in worlds() {
        let node: PortSpec = PortSpec {
            node: true,
            check_source: false,
            worker: w.tables.port(PortId(2)).unwrap().worker,
            kind: PortKindSpec::Routed {
                vrf: podswitch_datapath::VrfId(0),
                addresses: vec![v4(5).into()],
            },
            ..pod(5)
        };
        w.edit(|e| {
            e.set_port(node);
        });
        let probe = segment_at(5, 2, (4000, 8080), SYN);
        assert_eq!(pass(&mut w, 5, 2, &probe), Ok(()));
        let answer = segment_at(2, 5, (8080, 4000), SYN | ACK);
        assert_eq!(pass(&mut w, 2, 5, &answer), Ok(()));
        let to_node = segment_at(2, 5, (4000, 443), SYN);
        assert_eq!(pass(&mut w, 2, 5, &to_node), Ok(()));
        // The same port, but not the node's own address: it forwards for somebody.
        let src: std::net::Ipv4Addr = "192.0.2.9".parse().unwrap();
        let data = frames::tcp(src.into(), v4(2).into(), 4000, 80, SYN, &[]);
        let forwarded = V4::new(src, v4(2), frames::TCP, data);
        assert_eq!(
            pass(&mut w, 5, 2, &forwarded),
            refused("policy_isolated_ingress")
        );
        // The node's address from another port is not the node.
        let frame = frames::ethernet(
            crate::world::GATEWAY_MAC,
            mac(0x901),
            0x0800,
            &probe.bytes(),
        );
        assert_eq!(
            arrived(w.send_one(UPLINK, &frame), 2),
            refused("policy_isolated_ingress")
        );
    }
}

#[test]
fn rules_of_the_port_come_before_policy_and_each_packet_meets_them() {
    for mut w in worlds() {
        handshake(&mut w);
        let own = |action| Rule {
            name: "own".into(),
            priority: 1,
            source: Some(ipnet::IpNet::from(std::net::IpAddr::from(v4(3)))),
            destination: None,
            protocol: Some(frames::TCP),
            ports: None,
            action,
        };
        w.edit(|e| {
            e.set_rule(PortId(2), Direction::Ingress, own(Action::Allow));
        });
        assert_eq!(pass(&mut w, 3, 2, &segment_at(3, 2, (9, 9), SYN)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), Ok(()), "untouched");
        let deny = Rule {
            source: None,
            ..own(Action::Deny)
        };
        w.edit(|e| {
            e.set_rule(PortId(2), Direction::Ingress, deny);
        });
        assert_eq!(
            pass(&mut w, 1, 2, &segment(1, 2, ACK)),
            refused("policy_denied_ingress")
        );
        assert_eq!(
            pass(&mut w, 2, 1, &segment(2, 1, ACK)),
            Ok(()),
            "the other way"
        );
    }
}

#[test]
fn a_full_table_refuses_new_connections_by_name_and_keeps_the_old() {
    for mut w in worlds() {
        handshake(&mut w);
        let mut reasons = std::collections::BTreeMap::new();
        for port in 5000..9000 {
            let syn = segment_at(1, 2, (port, 80), SYN);
            if let Err(reason) = pass(&mut w, 1, 2, &syn) {
                *reasons.entry(reason).or_insert(0) += 1;
            }
        }
        assert_eq!(
            reasons.keys().collect::<Vec<_>>(),
            ["flow_quota"],
            "{reasons:?}"
        );
        assert!(reasons["flow_quota"] > 3000);
        assert_eq!(pass(&mut w, 2, 1, &segment(2, 1, ACK)), Ok(()));
        assert_eq!(pass(&mut w, 1, 2, &segment(1, 2, ACK)), Ok(()));
        // Where no policy asks for a connection, there need be none.
        assert_eq!(pass(&mut w, 1, 3, &segment_at(1, 3, (1, 2), SYN)), Ok(()));
        w.assert_no_leak();
    }
}
