// SPDX-License-Identifier: Apache-2.0
//! Services: pod 1 is the client, pods 2 and 3 are backends on this node, others are beyond the uplink.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use podswitch_datapath::tables::{
    Action, Backends, Direction, Edit, Frontend, FrontendKey, Place, PortSpec, Rule, Service,
    Traffic,
};
use podswitch_datapath::wire::flow_key::map_ip;
use podswitch_datapath::wire::translate::Endpoint;
use podswitch_datapath::{PortId, WorkerId};

use crate::frames::{self, V4};
use crate::masquerade::{NODE4, hop, node_on, tcp, to_pod4, udp};
use crate::node::*;
use crate::world::{Out, World, gateway};

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// The service's address and port, its address outside, its port of the node, and what backends listen at.
pub(crate) const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 80);
pub(crate) const PUBLIC: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 80), 80);
pub(crate) const NODE_PORT: (Ipv4Addr, u16) = (NODE4, 30_080);
pub(crate) const TARGET: u16 = 8080;

pub(crate) fn end(at: (Ipv4Addr, u16)) -> Endpoint {
    Endpoint {
        address: map_ip(at.0.into()),
        port: at.1,
    }
}

pub(crate) fn service(cluster: &[(Ipv4Addr, u16)], local: &[(Ipv4Addr, u16)]) -> Service {
    let backends = |all: &[_]| Backends::new(all.iter().copied().map(end).collect());
    Service {
        name: "shop/web".into(),
        cluster: backends(cluster),
        local: backends(local),
        internal: Traffic::Cluster,
        external: Traffic::Cluster,
        affinity: None,
    }
}

/// Puts a service at all its places.
fn put(e: &mut Edit, service: Option<Service>) {
    let service = service.map(Arc::new);
    for (place, port, is_external) in [
        (Place::Address(VIP.0.into()), VIP.1, false),
        (Place::Address(PUBLIC.0.into()), PUBLIC.1, true),
        (Place::Node { v6: false }, NODE_PORT.1, true),
    ] {
        for protocol in [frames::TCP, frames::UDP] {
            let key = FrontendKey {
                place,
                protocol,
                port,
            };
            let frontend = service.as_ref().map(|service| Frontend {
                service: service.clone(),
                is_external,
                sources: None,
            });
            e.set_frontend(key, frontend);
        }
    }
}

/// Client, backends and uplink on workers of all kinds.
pub(crate) fn everywhere(test: impl Fn(&mut World)) {
    for workers in 0..8u8 {
        let (client, backends, uplink) = (workers & 1, workers >> 1 & 1, workers >> 2);
        let mut w = node_on(client, uplink);
        w.edit(|e| {
            for n in [2, 3] {
                e.set_port(PortSpec {
                    worker: WorkerId(backends),
                    ..pod(n)
                });
            }
        });
        test(&mut w);
        w.assert_no_leak();
    }
}

pub(crate) fn served(w: &mut World, service: Service) {
    w.edit(|e| put(e, Some(service)));
}

/// Another MTU for a pod's port, on the worker that it is on.
pub(crate) fn change_mtu(w: &mut World, n: u16, mtu: u32) {
    let worker = w.tables.port(PortId(n)).unwrap().worker;
    w.edit(|e| {
        e.set_port(PortSpec {
            worker,
            mtu,
            ..pod(n)
        });
    });
}

pub(crate) fn pod1(port: u16) -> (Ipv4Addr, u16) {
    (v4(1), port)
}

/// Pod 1 sends; where it arrives, which is at a pod.
pub(crate) fn ask(w: &mut World, packet: &V4) -> u16 {
    match &w.send_one(1, &frame4(1, packet))[..] {
        [Out::Sent(port, _)] => *port,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_asks_a_service_and_is_answered_by_it() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        for (from, at) in [(5000, VIP), (5001, PUBLIC), (5002, NODE_PORT)] {
            for _ in 0..3 {
                let out = w.send_one(1, &frame4(1, &udp(pod1(from), at)));
                let asked = hop(udp(pod1(from), (v4(2), TARGET)));
                assert_eq!(out, sent(2, to_pod4(2, &asked)));
                let out = w.send_one(2, &frame4(2, &udp((v4(2), TARGET), pod1(from))));
                let answered = hop(udp(at, pod1(from)));
                assert_eq!(out, sent(1, to_pod4(1, &answered)));
            }
        }
        // Who asks the backend itself is answered by the backend.
        let out = w.send_one(1, &frame4(1, &udp(pod1(4001), (v4(2), TARGET))));
        let asked = hop(udp(pod1(4001), (v4(2), TARGET)));
        assert_eq!(out, sent(2, to_pod4(2, &asked)));
        let answer = udp((v4(2), TARGET), pod1(4001));
        let out = w.send_one(2, &frame4(2, &answer));
        assert_eq!(out, sent(1, to_pod4(1, &hop(answer))));
    });
}

/// A whole connection of pod 1's to a service that pod 2 serves.
fn converse(w: &mut World, from: u16) {
    for (asks, flags) in [
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (true, FIN | ACK),
        (false, FIN | ACK),
        (true, ACK),
    ] {
        let (n, sends, arrives) = match asks {
            true => (1, (pod1(from), VIP), (pod1(from), (v4(2), TARGET))),
            false => (2, ((v4(2), TARGET), pod1(from)), (VIP, pod1(from))),
        };
        let out = w.send_one(n, &frame4(n, &tcp(sends.0, sends.1, flags)));
        let expected = hop(tcp(arrives.0, arrives.1, flags));
        assert_eq!(out, sent(3 - n, to_pod4(3 - n, &expected)));
    }
}

#[test]
fn tcp_from_its_first_segment_to_its_last_and_again() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        converse(w, 4000);
        converse(w, 4000);
    });
}

#[test]
fn two_services_with_the_same_backends_are_told_apart() {
    everywhere(|w| {
        let both = [(v4(2), TARGET), (v4(3), TARGET)];
        served(w, service(&both, &[]));
        for from in 4000..4016 {
            let n = ask(w, &udp(pod1(from), VIP));
            assert_eq!(ask(w, &udp(pod1(from), PUBLIC)), 5 - n);
            for (n, at) in [(n, VIP), (5 - n, PUBLIC)] {
                let out = w.send_one(n, &frame4(n, &udp((v4(n), TARGET), pod1(from))));
                assert_eq!(out, sent(1, to_pod4(1, &hop(udp(at, pod1(from))))));
            }
            // There is no third one.
            let out = w.send_one(1, &frame4(1, &udp(pod1(from), NODE_PORT)));
            assert_eq!(out, dropped("service_clash"));
        }
    });
}

#[test]
fn policy_judges_the_backend() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        let rule = |port: u16| Rule {
            name: "no".to_owned(),
            priority: 1,
            source: None,
            destination: None,
            protocol: Some(frames::UDP),
            ports: Some(port..=port),
            action: Action::Deny,
        };
        w.edit(|e| {
            e.set_rule(PortId(2), Direction::Ingress, rule(VIP.1));
        });
        assert_eq!(ask(w, &udp(pod1(4000), VIP)), 2);
        w.edit(|e| {
            e.set_rule(PortId(2), Direction::Ingress, rule(TARGET));
        });
        let out = w.send_one(1, &frame4(1, &udp(pod1(4000), VIP)));
        assert_eq!(out, dropped("policy_denied_ingress"));
    });
}

/// What pod 1 gets for a packet that nobody takes.
fn told(w: &mut World, packet: &V4) {
    let out = w.send_one(1, &frame4(1, packet));
    let [Out::Sent(1, bytes)] = &out[..] else {
        panic!("{out:?}");
    };
    // Type, code and what is quoted.
    assert_eq!(bytes[34..36], [3, 3]);
    assert_eq!(bytes[42..62], packet.bytes()[..20]);
}

#[test]
fn who_is_served_by_nobody_is_told() {
    everywhere(|w| {
        served(w, service(&[], &[]));
        told(w, &udp(pod1(4000), VIP));
        told(w, &tcp(pod1(4000), VIP, SYN));
        served(w, service(&[(v4(2), TARGET)], &[]));
        // A port that no service has there; at the address outside it may be somebody else's.
        told(w, &udp(pod1(4000), (VIP.0, 81)));
        let out = w.send_one(1, &frame4(1, &udp(pod1(4000), (PUBLIC.0, 81))));
        assert!(matches!(out[..], [Out::Sent(UPLINK, _)]), "{out:?}");
        // Without the service its address is anybody's.
        w.edit(|e| put(e, None));
        let out = w.send_one(1, &frame4(1, &udp(pod1(4000), VIP)));
        assert!(matches!(out[..], [Out::Sent(UPLINK, _)]), "{out:?}");
    });
}

#[test]
fn connections_are_shared_out_and_stay_where_they_are() {
    everywhere(|w| {
        let both = [(v4(2), TARGET), (v4(3), TARGET)];
        served(w, service(&both, &[]));
        let go = |w: &mut World| -> Vec<u16> {
            let each = (4000..4020).map(|from| ask(w, &tcp(pod1(from), VIP, ACK)));
            each.collect()
        };
        let chosen = go(w);
        let of_two = chosen.iter().filter(|n| **n == 2).count();
        assert!((5..=15).contains(&of_two), "{chosen:?}");
        // One goes: what is open stays, what begins goes to the other.
        served(w, service(&both[..1], &[]));
        assert_eq!(go(w), chosen);
        for from in 4000..4020 {
            assert_eq!(ask(w, &tcp(pod1(from + 100), VIP, SYN)), 2);
        }
        // One that is over and begins anew goes to who serves now.
        let open = (4000..4020).zip(&chosen).find(|(_, n)| **n == 3).unwrap().0;
        assert_eq!(ask(w, &tcp(pod1(open), VIP, RST)), 3);
        assert_eq!(ask(w, &tcp(pod1(open), VIP, SYN)), 2);
        // What is open goes on without the service.
        w.edit(|e| put(e, None));
        let open = (4000..4020)
            .zip(&chosen)
            .rfind(|(_, n)| **n == 3)
            .unwrap()
            .0;
        assert_eq!(ask(w, &tcp(pod1(open), VIP, ACK)), 3);
    });
}

#[test]
fn datagrams_to_a_backend_that_went_go_to_another() {
    everywhere(|w| {
        let both = [(v4(2), TARGET), (v4(3), TARGET)];
        served(w, service(&both, &[]));
        let to = |n| (4000..4100).find(|from| ask(&mut *w, &udp(pod1(*from), VIP)) == n);
        let [two, three] = [2, 3].map({
            let mut to = to;
            move |n| to(n).unwrap()
        });
        served(w, service(&both[..1], &[]));
        assert_eq!(ask(w, &udp(pod1(three), VIP)), 2);
        assert_eq!(ask(w, &udp(pod1(two), VIP)), 2);
        let out = w.send_one(2, &frame4(2, &udp((v4(2), TARGET), pod1(three))));
        assert_eq!(out, sent(1, to_pod4(1, &hop(udp(VIP, pod1(three))))));
        // With nobody left, the sender is told.
        served(w, service(&[], &[]));
        told(w, &udp(pod1(two), VIP));
    });
}

#[test]
fn a_client_stays_with_its_backend_until_it_was_silent() {
    everywhere(|w| {
        let both = [(v4(2), TARGET), (v4(3), TARGET)];
        let with_affinity = |all: &[_]| Service {
            affinity: Some(10_000),
            ..service(all, &[])
        };
        served(w, with_affinity(&both));
        let first = ask(w, &tcp(pod1(4000), VIP, SYN));
        for from in 4001..4020 {
            assert_eq!(ask(w, &tcp(pod1(from), VIP, SYN)), first);
        }
        // It goes to the other one when its own goes, and stays there when that is back, until the time is over.
        let (own, other) = match first {
            2 => (both[0], both[1]),
            _ => (both[1], both[0]),
        };
        served(w, with_affinity(&[other]));
        assert_eq!(ask(w, &tcp(pod1(5000), VIP, SYN)), 5 - first);
        served(w, with_affinity(&both));
        w.now += 9_000_000_000;
        assert_eq!(ask(w, &tcp(pod1(5001), VIP, SYN)), 5 - first);
        w.now += 9_000_000_000;
        assert_eq!(ask(w, &tcp(pod1(5002), VIP, SYN)), 5 - first);
        w.now += 11_000_000_000;
        assert_eq!(ask(w, &tcp(pod1(5003), VIP, SYN)), first, "{own:?}");
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    everywhere(|w| {
        served(w, service(&[(v4(1), TARGET)], &[]));
        let shown = (gateway().v4, 4000);
        for _ in 0..2 {
            let out = w.send_one(1, &frame4(1, &udp(pod1(4000), VIP)));
            let asked = hop(udp(shown, (v4(1), TARGET)));
            assert_eq!(out, sent(1, to_pod4(1, &asked)));
            let out = w.send_one(1, &frame4(1, &udp((v4(1), TARGET), shown)));
            assert_eq!(out, sent(1, to_pod4(1, &hop(udp(VIP, pod1(4000))))));
        }
    });
}

/// The source port of what leaves by the uplink.
/// A datagram in two fragments.
#[test]
fn errors_speak_of_the_service() {
    let error = |src: Ipv4Addr, dst: Ipv4Addr, about: &V4| {
        let message = frames::icmp(3, 3, [0; 4], &about.bytes());
        V4::new(src, dst, frames::ICMP, message)
    };
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        ask(w, &udp(pod1(4000), VIP));
        // Nobody is at the backend's port.
        let got = hop(udp(pod1(4000), (v4(2), TARGET)));
        let out = w.send_one(2, &frame4(2, &error(v4(2), v4(1), &got)));
        let about = hop(udp(pod1(4000), VIP));
        let expected = hop(error(VIP.0, v4(1), &about));
        assert_eq!(out, sent(1, to_pod4(1, &expected)));
        // The client is gone when the answer comes.
        let got = hop(udp(VIP, pod1(4000)));
        let out = w.send_one(1, &frame4(1, &error(v4(1), VIP.0, &got)));
        let about = hop(udp((v4(2), TARGET), pod1(4000)));
        let expected = hop(error(v4(1), v4(2), &about));
        assert_eq!(out, sent(2, to_pod4(2, &expected)));
        // About what nobody sent.
        let stray = hop(udp(VIP, pod1(4444)));
        let out = w.send_one(1, &frame4(1, &error(v4(1), VIP.0, &stray)));
        assert_eq!(out, dropped("service_untranslatable"));
        // A packet that can go no further is quoted as it was sent.
        let last = V4 {
            ttl: 1,
            ..udp(pod1(4000), VIP)
        };
        let out = w.send_one(1, &frame4(1, &last));
        let [Out::Sent(1, bytes)] = &out[..] else {
            panic!("{out:?}");
        };
        assert_eq!(bytes[42..62], last.bytes()[..20]);
    });
}

#[test]
fn many_begin_in_one_burst() {
    everywhere(|w| {
        let both = [(v4(2), TARGET), (v4(3), TARGET)];
        served(w, service(&both, &[]));
        let frames: Vec<_> = (4000..4048)
            .map(|from| frame4(1, &udp(pod1(from), VIP)))
            .collect();
        let out = w.send(1, &frames);
        assert!(
            out.iter().all(|o| matches!(o, Out::Sent(2 | 3, _))),
            "{out:?}"
        );
        for from in 4000..4048 {
            let n = ask(w, &udp(pod1(from), VIP));
            let out = w.send_one(n, &frame4(n, &udp((v4(n), TARGET), pod1(from))));
            assert_eq!(out, sent(1, to_pod4(1, &hop(udp(VIP, pod1(from))))));
        }
    });
}

#[test]
fn connections_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let other: IpAddr = v4(3).into();
    for (client, backend, answers_first) in [(0, 0, true), (0, 1, false), (1, 0, true)] {
        let open = || {
            let mut w = node_on(client, 0);
            w.reserve_ports_in(dir.path(), 8);
            w.joins = true;
            w.edit(|e| {
                for n in [2, 3] {
                    e.set_port(PortSpec {
                        worker: WorkerId(backend),
                        ..pod(n)
                    });
                }
            });
            w
        };
        let mut w = open();
        served(&mut w, service(&[(v4(2), TARGET)], &[]));
        ask(&mut w, &tcp(pod1(4000), VIP, SYN));
        drop(w);
        // Meanwhile another pod has come to serve.
        let mut w = open();
        served(&mut w, service(&[(v4(3), TARGET)], &[]));
        let answer = |w: &mut World| {
            let answer = tcp((v4(2), TARGET), pod1(4000), SYN | ACK);
            let out = w.send_one(2, &frame4(2, &answer));
            let expected = hop(tcp(VIP, pod1(4000), SYN | ACK));
            assert_eq!(out, sent(1, to_pod4(1, &expected)), "not {other}");
        };
        if answers_first {
            answer(&mut w);
        }
        assert_eq!(ask(&mut w, &tcp(pod1(4000), VIP, ACK)), 2);
        answer(&mut w);
        w.assert_no_leak();
    }
}

#[test]
fn a_backend_that_comes_back_is_reached_again() {
    everywhere(|w| {
        let (one, other) = ((v4(2), TARGET), (v4(3), TARGET));
        for backends in [[one], [other], [one], [other]] {
            served(w, service(&backends, &[]));
            let n = if backends == [one] { 2 } else { 3 };
            assert_eq!(ask(w, &udp(pod1(4000), VIP)), n);
            let out = w.send_one(n, &frame4(n, &udp((v4(n), TARGET), pod1(4000))));
            assert_eq!(out, sent(1, to_pod4(1, &hop(udp(VIP, pod1(4000))))));
            assert_eq!(ask(w, &tcp(pod1(4000), VIP, SYN)), n);
        }
    });
}

#[test]
fn a_duplicate_of_what_opened_a_connection_moves_it_nowhere() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        for (n, packet) in [
            (1, tcp(pod1(4000), VIP, SYN)),
            (2, tcp((v4(2), TARGET), pod1(4000), SYN | ACK)),
            (1, tcp(pod1(4000), VIP, ACK)),
        ] {
            w.send_one(n, &frame4(n, &packet));
        }
        served(w, service(&[(v4(3), TARGET)], &[]));
        assert_eq!(ask(w, &tcp(pod1(4000), VIP, SYN)), 2);
        assert_eq!(ask(w, &tcp(pod1(4000), VIP, ACK)), 2);
    });
}

#[test]
fn an_answer_that_is_cut_is_the_services_in_all_its_pieces() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        change_mtu(w, 1, 1280);
        assert_eq!(ask(w, &udp(pod1(4000), VIP)), 2);
        let answer = |from: (Ipv4Addr, u16)| {
            let data = frames::udp(from.0.into(), v4(1).into(), from.1, 4000, &[7; 1400]);
            V4 {
                flags: 0,
                ..V4::new(from.0, v4(1), frames::UDP, data)
            }
        };
        let out = w.send_one(2, &frame4(2, &answer((v4(2), TARGET))));
        let whole = answer(VIP).payload;
        let mut found = vec![None; whole.len()];
        for piece in &out {
            let Out::Sent(1, bytes) = piece else {
                panic!("{out:?}");
            };
            assert_eq!(bytes[26..30], VIP.0.octets(), "the service's address");
            let at = usize::from(u16::from_be_bytes([bytes[20], bytes[21]]) & 0x1fff) * 8;
            let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]])) - 20;
            for (i, byte) in bytes[34..34 + len].iter().enumerate() {
                found[at + i] = Some(*byte);
            }
        }
        let found: Option<Vec<u8>> = found.into_iter().collect();
        assert_eq!(found, Some(whole));
    });
}
