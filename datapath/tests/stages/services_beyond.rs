// SPDX-License-Identifier: Apache-2.0
//! Services and who is beyond the node: clients that come by the uplink, backends that are reached by it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use podswitch_datapath::VrfId;
use podswitch_datapath::tables::{Frontend, FrontendKey, HostPortKey, Place, Service, Traffic};

use crate::frames::{self, V4};
use crate::masquerade::{NODE4, from_world4, hop, node_on, tcp, to_pod4, to_world4, udp};
use crate::node::*;
use crate::services::{
    ACK, NODE_PORT, PUBLIC, SYN, TARGET, VIP, ask, change_mtu, end, everywhere, pod1, served,
    service,
};
use crate::world::{Out, World};

/// A client beyond the uplink.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A backend on another node, which is not masqueraded for pods, and one that is.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 77), TARGET);
const BEYOND: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 99), TARGET);

fn left(out: Vec<Out>) -> (Vec<u8>, u16) {
    let [Out::Sent(UPLINK, bytes)] = &out[..] else {
        panic!("{out:?}");
    };
    (bytes.clone(), u16::from_be_bytes([bytes[34], bytes[35]]))
}

#[test]
fn a_backend_on_another_node_answers_as_the_service() {
    everywhere(|w| {
        for (from, backend) in [(4000, ELSEWHERE), (4001, BEYOND)] {
            let masqueraded = backend == BEYOND;
            served(w, service(&[backend], &[]));
            for _ in 0..3 {
                let out = w.send_one(1, &frame4(1, &udp(pod1(from), VIP)));
                let (frame, port) = left(out);
                let seen = match masqueraded {
                    true => (NODE4, port),
                    false => pod1(from),
                };
                assert_eq!(frame, to_world4(&hop(udp(seen, backend))));
                assert_eq!(port != from, masqueraded);
                let out = w.send_one(UPLINK, &from_world4(&udp(backend, seen)));
                assert_eq!(out, sent(1, to_pod4(1, &hop(udp(VIP, pod1(from))))));
            }
        }
    });
}

#[test]
fn who_comes_from_outside_is_served_here_with_his_own_address() {
    everywhere(|w| {
        for external in [Traffic::Cluster, Traffic::Local] {
            let web = [(v4(2), TARGET)];
            served(
                w,
                Service {
                    external,
                    ..service(&web, &web)
                },
            );
            for (client, at) in [((CLIENT, 777), PUBLIC), ((CLIENT, 778), NODE_PORT)] {
                for _ in 0..2 {
                    let out = w.send_one(UPLINK, &from_world4(&udp(client, at)));
                    let asked = hop(udp(client, (v4(2), TARGET)));
                    assert_eq!(out, sent(2, to_pod4(2, &asked)));
                    let out = w.send_one(2, &frame4(2, &udp((v4(2), TARGET), client)));
                    assert_eq!(out, sent(UPLINK, to_world4(&hop(udp(at, client)))));
                }
            }
        }
    });
}

#[test]
fn who_comes_from_outside_is_served_elsewhere_as_the_nodes_own() {
    everywhere(|w| {
        served(w, service(&[ELSEWHERE], &[]));
        for (client, at) in [((CLIENT, 777), PUBLIC), ((CLIENT, 778), NODE_PORT)] {
            for _ in 0..2 {
                let out = w.send_one(UPLINK, &from_world4(&udp(client, at)));
                let (frame, port) = left(out);
                assert_eq!(frame, to_world4(&hop(udp((NODE4, port), ELSEWHERE))));
                assert!(port >= 61_000, "{port}");
                let out = w.send_one(UPLINK, &from_world4(&udp(ELSEWHERE, (NODE4, port))));
                assert_eq!(out, sent(UPLINK, to_world4(&hop(udp(at, client)))));
            }
        }
    });
}

fn in_two(packet: &V4) -> [V4; 2] {
    let whole = packet.payload.clone();
    let (first, rest) = whole.split_at(16);
    [
        V4 {
            payload: first.to_vec(),
            flags: 0x2000,
            ..packet.clone()
        },
        V4 {
            payload: rest.to_vec(),
            flags: 2,
            ..packet.clone()
        },
    ]
}

#[test]
fn fragments_go_where_their_datagram_goes() {
    everywhere(|w| {
        // Handed on, as the node's own.
        served(w, service(&[ELSEWHERE], &[]));
        let asks = udp((CLIENT, 777), NODE_PORT);
        let [first, rest] = in_two(&asks);
        let (frame, port) = left(w.send_one(UPLINK, &from_world4(&first)));
        let expected = udp((NODE4, port), ELSEWHERE);
        let [head, tail] = in_two(&expected).map(hop);
        assert_eq!(frame, to_world4(&head));
        let out = w.send_one(UPLINK, &from_world4(&rest));
        assert_eq!(out, sent(UPLINK, to_world4(&tail)));
        let answers = in_two(&udp(ELSEWHERE, (NODE4, port)));
        let expected = in_two(&udp(NODE_PORT, (CLIENT, 777))).map(hop);
        for (answer, expected) in answers.iter().zip(expected) {
            let out = w.send_one(UPLINK, &from_world4(answer));
            assert_eq!(out, sent(UPLINK, to_world4(&expected)));
        }
        // To a pod and back.
        served(w, service(&[(v4(2), TARGET)], &[]));
        let asks = in_two(&udp(pod1(4000), VIP));
        let arrives = in_two(&udp(pod1(4000), (v4(2), TARGET))).map(hop);
        for (packet, expected) in asks.iter().zip(arrives) {
            let out = w.send_one(1, &frame4(1, packet));
            assert_eq!(out, sent(2, to_pod4(2, &expected)));
        }
        let answers = in_two(&udp((v4(2), TARGET), pod1(4000)));
        let arrive = in_two(&udp(VIP, pod1(4000))).map(hop);
        for (packet, expected) in answers.iter().zip(arrive) {
            let out = w.send_one(2, &frame4(2, packet));
            assert_eq!(out, sent(1, to_pod4(1, &expected)));
        }
    });
}

#[test]
fn who_must_be_served_here_and_cannot_is_not() {
    everywhere(|w| {
        let only_here = Service {
            internal: Traffic::Local,
            external: Traffic::Local,
            ..service(&[ELSEWHERE], &[])
        };
        served(w, only_here);
        let out = w.send_one(UPLINK, &from_world4(&udp((CLIENT, 777), PUBLIC)));
        assert_eq!(out, dropped("service_no_local_backend"));
        let out = w.send_one(1, &frame4(1, &udp(pod1(4000), VIP)));
        assert_eq!(out, dropped("service_no_local_backend"));
        // Whoever is inside is served by anybody at the addresses outside.
        left(w.send_one(1, &frame4(1, &udp(pod1(4000), PUBLIC))));
    });
}

#[test]
fn clients_are_restricted() {
    everywhere(|w| {
        let service = Arc::new(service(&[(v4(2), TARGET)], &[]));
        let key = FrontendKey {
            place: Place::Address(PUBLIC.0.into()),
            protocol: frames::UDP,
            port: PUBLIC.1,
        };
        let prefix: ipnet::IpNet = "198.51.100.0/24".parse().unwrap();
        let frontend = Frontend {
            service,
            is_external: true,
            sources: Some([prefix].into()),
        };
        w.edit(|e| {
            e.set_frontend(key, Some(frontend));
        });
        let out = w.send_one(UPLINK, &from_world4(&udp((CLIENT, 777), PUBLIC)));
        assert!(matches!(out[..], [Out::Sent(2, _)]), "{out:?}");
        let stranger = udp((Ipv4Addr::new(203, 0, 113, 9), 777), PUBLIC);
        let out = w.send_one(UPLINK, &from_world4(&stranger));
        assert_eq!(out, dropped("service_source_denied"));
        let out = w.send_one(1, &frame4(1, &udp(pod1(4000), PUBLIC)));
        assert_eq!(out, dropped("service_source_denied"));
    });
}

#[test]
fn an_address_of_the_nodes_that_is_a_services_has_its_other_ports() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        // Another service has the node's address as one of its own.
        let key = FrontendKey {
            place: Place::Address(NODE4.into()),
            protocol: frames::UDP,
            port: 443,
        };
        let frontend = Frontend {
            service: Arc::new(service(&[(v4(3), TARGET)], &[])),
            is_external: true,
            sources: None,
        };
        w.edit(|e| {
            e.set_frontend(key, Some(frontend));
        });
        for (at, n) in [((NODE4, 443), 3), (NODE_PORT, 2)] {
            let out = w.send_one(UPLINK, &from_world4(&udp((CLIENT, 777), at)));
            assert!(matches!(out[..], [Out::Sent(to, _)] if to == n), "{out:?}");
        }
    });
}

#[test]
fn a_host_port_beside_services_is_judged_again_as_ever() {
    everywhere(|w| {
        served(w, service(&[(v4(2), TARGET)], &[]));
        let at_node = (NODE4, 5353);
        let key = HostPortKey {
            vrf: VrfId(0),
            protocol: frames::UDP,
            port: at_node.1,
            address: NODE4.into(),
        };
        w.edit(|e| {
            e.set_host_port(key, Some(end((v4(2), 53))));
        });
        let ask = |w: &mut World| {
            let out = w.send_one(UPLINK, &from_world4(&udp((CLIENT, 777), at_node)));
            let asked = hop(udp((CLIENT, 777), (v4(2), 53)));
            assert_eq!(out, sent(2, to_pod4(2, &asked)));
            let out = w.send_one(2, &frame4(2, &udp((v4(2), 53), (CLIENT, 777))));
            assert_eq!(
                out,
                sent(UPLINK, to_world4(&hop(udp(at_node, (CLIENT, 777)))))
            );
        };
        ask(w);
        ask(w);
        change_mtu(w, 2, 1400);
        ask(w);
    });
}

#[test]
fn nobody_loses_a_backend_to_who_wears_his_address() {
    everywhere(|w| {
        let web = [(v4(2), TARGET)];
        served(w, service(&web, &[]));
        assert_eq!(ask(w, &tcp(pod1(4000), PUBLIC, SYN)), 2);
        // From outside another backend would serve.
        let here = Service {
            external: Traffic::Local,
            ..service(&web, &[(v4(3), TARGET)])
        };
        served(w, here);
        let spoofed = tcp(pod1(4000), PUBLIC, SYN);
        let out = w.send_one(UPLINK, &from_world4(&spoofed));
        assert_eq!(out, dropped("spoofed_address"));
        assert_eq!(ask(w, &tcp(pod1(4000), PUBLIC, ACK)), 2);
    });
}

#[test]
fn an_answer_to_who_was_handed_on_is_the_services_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for (client, uplink) in [(0, 0), (0, 1)] {
        let open = || {
            let mut w = node_on(client, uplink);
            w.reserve_ports_in(dir.path(), 8);
            w.joins = true;
            served(&mut w, service(&[ELSEWHERE], &[]));
            w
        };
        let mut w = open();
        let out = w.send_one(UPLINK, &from_world4(&tcp((CLIENT, 777), NODE_PORT, SYN)));
        let (_, port) = left(out);
        drop(w);
        let mut w = open();
        for _ in 0..2 {
            let answer = tcp(ELSEWHERE, (NODE4, port), SYN | ACK);
            let out = w.send_one(UPLINK, &from_world4(&answer));
            let expected = hop(tcp(NODE_PORT, (CLIENT, 777), SYN | ACK));
            assert_eq!(out, sent(UPLINK, to_world4(&expected)));
        }
        let out = w.send_one(UPLINK, &from_world4(&tcp((CLIENT, 777), NODE_PORT, ACK)));
        let expected = hop(tcp((NODE4, port), ELSEWHERE, ACK));
        assert_eq!(out, sent(UPLINK, to_world4(&expected)));
        w.assert_no_leak();
    }
}
