// SPDX-License-Identifier: Apache-2.0
//! Masquerading: pods 1 and 2, an uplink of a node whose router is 192.0.2.254, and servers in the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{HostPortKey, PortSpec};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::wire::translate::Endpoint;
use podswitch_datapath::{PortId, VrfId, WorkerId};

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World, gateway};

const NIC: MacAddr = MacAddr([2, 0, 1, 0, 0, 1]);
const ROUTER: MacAddr = MacAddr([2, 0, 1, 0, 0, 254]);
pub(crate) const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SERVER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5);
/// Ports of each worker: few, so that they run out.
const PORTS: u16 = 8;

/// Pods and uplink on these workers of two.
pub(crate) fn node_on(pods: u8, uplink: u8) -> World {
    let mut w = World::new(2, gateway(), Rate::UNLIMITED);
    w.reserve_ports(PORTS);
    w.edit(|e| {
        for n in [1, 2] {
            e.set_port(PortSpec {
                worker: WorkerId(pods),
                ..pod(n)
            });
        }
        let except = vec!["198.51.100.0/24".parse().unwrap()];
        e.set_port(PortSpec {
            worker: WorkerId(uplink),
            ..nic(NIC, vec![NODE4.into(), NODE6.into()], Some(except))
        });
        for (prefix, router) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "fe80::fe")] {
            let router: IpAddr = router.parse().unwrap();
            e.set_neighbor(VrfId(0), PortId(UPLINK), router, ROUTER);
            e.set_route(VrfId(0), prefix.parse().unwrap(), via_uplink(router));
        }
    });
    w
}

/// Wherever pods and uplink are.
pub(crate) fn everywhere(test: impl Fn(&mut World)) {
    for (pods, uplink) in [(0, 0), (0, 1), (1, 0)] {
        let mut w = node_on(pods, uplink);
        test(&mut w);
        w.assert_no_leak();
    }
}

pub(crate) fn to_world4(packet: &V4) -> Vec<u8> {
    frames::ethernet(ROUTER, NIC, 0x0800, &packet.bytes())
}

pub(crate) fn from_world4(packet: &V4) -> Vec<u8> {
    frames::ethernet(NIC, ROUTER, 0x0800, &packet.bytes())
}

fn from_world6(packet: &V6) -> Vec<u8> {
    frames::ethernet(NIC, ROUTER, 0x86dd, &packet.bytes())
}

pub(crate) fn to_pod4(n: u16, packet: &V4) -> Vec<u8> {
    frames::ethernet(mac(n), GATEWAY_MAC, 0x0800, &packet.bytes())
}

/// A hop further.
pub(crate) fn hop(packet: V4) -> V4 {
    V4 {
        ttl: packet.ttl - 1,
        ..packet
    }
}

pub(crate) fn hop6(packet: V6) -> V6 {
    V6 {
        hop_limit: packet.hop_limit - 1,
        ..packet
    }
}

pub(crate) fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> V4 {
    let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, b"question");
    V4::new(src.0, dst.0, frames::UDP, data)
}

pub(crate) fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> V4 {
    let data = frames::tcp(src.0.into(), dst.0.into(), src.1, dst.1, flags, b"");
    V4::new(src.0, dst.0, frames::TCP, data)
}

/// The source port of a frame of TCP or UDP over IPv4.
fn sport(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// Has pod 1 ask; the port that it is known by.
fn ask(w: &mut World, from: u16, server: Ipv4Addr) -> u16 {
    let question = udp((v4(1), from), (server, 53));
    let port = sport(&only(w.send_one(1, &frame4(1, &question)), UPLINK));
    assert!((61_000..61_200).contains(&port), "{port}");
    port
}

#[test]
fn what_pods_begin_leaves_as_the_nodes_own_and_comes_back() {
    everywhere(|w| {
        for _ in 0..3 {
            let port = ask(w, 4000, SERVER4);
            let left = w.send_one(1, &frame4(1, &udp((v4(1), 4000), (SERVER4, 53))));
            let expected = hop(udp((NODE4, port), (SERVER4, 53)));
            assert_eq!(left, sent(UPLINK, to_world4(&expected)));
            let answer = udp((SERVER4, 53), (NODE4, port));
            let back = w.send_one(UPLINK, &from_world4(&answer));
            let expected = hop(udp((SERVER4, 53), (v4(1), 4000)));
            assert_eq!(back, sent(1, to_pod4(1, &expected)));
        }
    });
}

#[test]
fn tcp_from_its_first_segment_to_its_last() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN: u8 = 1;
    everywhere(|w| {
        let (pod, server) = ((v4(1), 4000), (SERVER4, 443));
        let syn = w.send_one(1, &frame4(1, &tcp(pod, server, SYN)));
        let node = (NODE4, sport(&only(syn, UPLINK)));
        for (from_pod, flags) in [
            (false, SYN | ACK),
            (true, ACK),
            (true, FIN | ACK),
            (false, FIN | ACK),
            (true, ACK),
        ] {
            let (out, expected) = match from_pod {
                true => (
                    w.send_one(1, &frame4(1, &tcp(pod, server, flags))),
                    sent(UPLINK, to_world4(&hop(tcp(node, server, flags)))),
                ),
                false => (
                    w.send_one(UPLINK, &from_world4(&tcp(server, node, flags))),
                    sent(1, to_pod4(1, &hop(tcp(server, pod, flags)))),
                ),
            };
            assert_eq!(out, expected, "{flags}");
        }
        // A stray reset does not leave as the pod's own.
        let stray = tcp((v4(1), 4001), server, 4);
        assert_eq!(w.send_one(1, &frame4(1, &stray)), dropped("nat_no_binding"));
    });
}

#[test]
fn ipv6_too() {
    everywhere(|w| {
        let packet = |src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16)| {
            let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, b"question");
            V6::new(src.0, dst.0, frames::UDP, data)
        };
        let question = packet((v6(1), 4000), (SERVER6, 53));
        let out = only(w.send_one(1, &frame6(1, &question)), UPLINK);
        let port = u16::from_be_bytes([out[54], out[55]]);
        let expected = hop6(packet((NODE6, port), (SERVER6, 53)));
        assert_eq!(
            out,
            frames::ethernet(ROUTER, NIC, 0x86dd, &expected.bytes())
        );
        let back = w.send_one(UPLINK, &from_world6(&packet((SERVER6, 53), (NODE6, port))));
        let expected = hop6(packet((SERVER6, 53), (v6(1), 4000)));
        assert_eq!(
            back,
            sent(
                1,
                frames::ethernet(mac(1), GATEWAY_MAC, 0x86dd, &expected.bytes())
            )
        );
    });
}

#[test]
fn pings_go_by_their_identifier() {
    everywhere(|w| {
        let echo = |kind: u8, src, dst, id: u16| {
            let [a, b] = id.to_be_bytes();
            V4::new(
                src,
                dst,
                frames::ICMP,
                frames::icmp(kind, 0, [a, b, 0, 1], &[9; 56]),
            )
        };
        let out = only(
            w.send_one(1, &frame4(1, &echo(8, v4(1), SERVER4, 77))),
            UPLINK,
        );
        let id = u16::from_be_bytes([out[38], out[39]]);
        assert!((61_000..61_200).contains(&id));
        assert_eq!(out, to_world4(&hop(echo(8, NODE4, SERVER4, id))));
        let back = w.send_one(UPLINK, &from_world4(&echo(0, SERVER4, NODE4, id)));
        assert_eq!(back, sent(1, to_pod4(1, &hop(echo(0, SERVER4, v4(1), 77)))));
        // An answer that nobody asked for has no identifier of ours to bear.
        let answer = frame4(1, &echo(0, v4(1), SERVER4, 99));
        assert_eq!(w.send_one(1, &answer), dropped("nat_not_translatable"));
    });
}

#[test]
fn errors_about_masqueraded_packets_reach_the_pod_and_speak_of_what_it_sent() {
    everywhere(|w| {
        let port = ask(w, 4000, SERVER4);
        let router = Ipv4Addr::new(192, 0, 2, 254);
        let error = |about: &V4, to: Ipv4Addr, src: Ipv4Addr| {
            let quoted = about.bytes();
            V4::new(
                src,
                to,
                frames::ICMP,
                frames::icmp(3, 4, [0, 0, 5, 0], &quoted),
            )
        };
        let sent_out = hop(udp((NODE4, port), (SERVER4, 53)));
        let meant = hop(udp((v4(1), 4000), (SERVER4, 53)));
        let out = w.send_one(UPLINK, &from_world4(&error(&sent_out, NODE4, router)));
        assert_eq!(out, sent(1, to_pod4(1, &hop(error(&meant, v4(1), router)))));
        // The pod complains about the answer: the server sees the node complain about what it sent to the node.
        let answer = hop(udp((SERVER4, 53), (v4(1), 4000)));
        let seen = hop(udp((SERVER4, 53), (NODE4, port)));
        let out = w.send_one(1, &frame4(1, &error(&answer, SERVER4, v4(1))));
        assert_eq!(
            out,
            sent(UPLINK, to_world4(&hop(error(&seen, SERVER4, NODE4))))
        );
        // About nothing that is known.
        let stray = udp((SERVER4, 53), (v4(1), 4444));
        let out = w.send_one(1, &frame4(1, &error(&stray, SERVER4, v4(1))));
        assert_eq!(out, dropped("nat_no_binding"));
        let stray = udp((NODE4, port + 1), (SERVER4, 53));
        let out = w.send_one(UPLINK, &from_world4(&error(&stray, NODE4, router)));
        assert_eq!(out, dropped("nat_no_binding"));
    });
}

#[test]
fn errors_of_the_switch_quote_what_came_in() {
    everywhere(|w| {
        let port = ask(w, 4000, SERVER4);
        let answer = V4 {
            ttl: 1,
            ..udp((SERVER4, 53), (NODE4, port))
        };
        let out = only(w.send_one(UPLINK, &from_world4(&answer)), UPLINK);
        assert_eq!(out[34], 11, "time exceeded");
        assert_eq!(out[26..34], [NODE4.octets(), SERVER4.octets()].concat());
        assert_eq!(out[42..][..28], answer.bytes()[..28]);
    });
}

#[test]
fn fragments_go_as_their_first_one() {
    everywhere(|w| {
        let pieces = |src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)| {
            let data = frames::udp(src.0.into(), dst.0.into(), src.1, dst.1, &[5; 1992]);
            [(0, 1000), (1000, 2000)].map(|(begin, end)| V4 {
                flags: (begin / 8) as u16 | if end < data.len() { 0x2000 } else { 0 },
                ..V4::new(src.0, dst.0, frames::UDP, data[begin..end].to_vec())
            })
        };
        let [first, later] = pieces((v4(1), 4000), (SERVER4, 53));
        assert_eq!(
            w.send_one(1, &frame4(1, &later)),
            dropped("nat_no_binding"),
            "too early"
        );
        let out = only(w.send_one(1, &frame4(1, &first)), UPLINK);
        let port = sport(&out);
        let expected = pieces((NODE4, port), (SERVER4, 53)).map(|p| to_world4(&hop(p)));
        assert_eq!(out, expected[0]);
        assert_eq!(
            w.send_one(1, &frame4(1, &later)),
            sent(UPLINK, expected[1].clone())
        );
        let [first, later] = pieces((SERVER4, 53), (NODE4, port));
        assert_eq!(
            w.send_one(UPLINK, &from_world4(&later)),
            dropped("not_for_us")
        );
        let expected = pieces((SERVER4, 53), (v4(1), 4000)).map(|p| to_pod4(1, &hop(p)));
        for (piece, expected) in [first, later].iter().zip(expected) {
            assert_eq!(w.send_one(UPLINK, &from_world4(piece)), sent(1, expected));
        }
    });
}

#[test]
fn what_is_excepted_and_what_others_begin_stays_as_it_is() {
    everywhere(|w| {
        let excepted = udp((v4(1), 4000), (Ipv4Addr::new(198, 51, 100, 7), 53));
        let out = w.send_one(1, &frame4(1, &excepted));
        assert_eq!(out, sent(UPLINK, to_world4(&hop(excepted))));
        let begun_outside = udp((SERVER4, 999), (v4(1), 80));
        let out = w.send_one(UPLINK, &from_world4(&begun_outside));
        assert_eq!(out, sent(1, to_pod4(1, &hop(begun_outside))));
        let answer = udp((v4(1), 80), (SERVER4, 999));
        let out = w.send_one(1, &frame4(1, &answer));
        assert_eq!(out, sent(UPLINK, to_world4(&hop(answer))));
    });
}

#[test]
fn nobody_else_comes_in_by_a_binding() {
    everywhere(|w| {
        let port = ask(w, 4000, SERVER4);
        for (server, from, to) in [
            (Ipv4Addr::new(203, 0, 113, 6), 53, port),
            (SERVER4, 54, port),
            (SERVER4, 53, port ^ 1),
        ] {
            let stray = udp((server, from), (NODE4, to));
            assert_eq!(
                w.send_one(UPLINK, &from_world4(&stray)),
                dropped("nat_no_binding")
            );
        }
        // To another MAC address than the NIC's.
        let answer = udp((SERVER4, 53), (NODE4, port)).bytes();
        let elsewhere = frames::ethernet(mac(7), ROUTER, 0x0800, &answer);
        assert_eq!(w.send_one(UPLINK, &elsewhere), dropped("not_for_us"));
    });
}

#[test]
fn ports_that_run_out_are_said_and_come_back() {
    everywhere(|w| {
        let begin = |w: &mut World, n: u16| {
            w.send_one(1, &frame4(1, &udp((v4(1), 4000 + n), (SERVER4, 53))))
        };
        let mut ports: Vec<u16> = (0..PORTS)
            .map(|n| sport(&only(begin(w, n), UPLINK)))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), usize::from(PORTS));
        assert_eq!(begin(w, PORTS), dropped("nat_no_port"));
        // Elsewhere they are all free, and after a while of silence here, too.
        ask(w, 4000 + PORTS, Ipv4Addr::new(203, 0, 113, 6));
        w.now += 31_000_000_000;
        assert!(matches!(begin(w, PORTS)[..], [Out::Sent(UPLINK, _)]));
    });
}

#[test]
fn what_has_no_ports_does_not_leave() {
    everywhere(|w| {
        let esp = V4::new(v4(1), SERVER4, 50, vec![1; 64]);
        assert_eq!(
            w.send_one(1, &frame4(1, &esp)),
            dropped("nat_not_translatable")
        );
    });
}

#[test]
fn without_an_address_or_ports_nothing_leaves() {
    let mut w = node_on(0, 0);
    w.edit(|e| {
        e.set_port(nic(NIC, vec![NODE6.into()], Some(Vec::new())));
    });
    let question = frame4(1, &udp((v4(1), 4000), (SERVER4, 53)));
    assert_eq!(w.send_one(1, &question), dropped("nat_no_address"));
    let mut w = node_on(0, 0);
    w.reserve_ports(0);
    assert_eq!(w.send_one(1, &question), dropped("nat_no_port"));
}

#[test]
fn connections_go_on_after_a_restart() {
    const ACK: u8 = 16;
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let mut w = node_on(0, 1);
        w.reserve_ports_in(dir.path(), PORTS);
        w
    };
    let (pod, server) = ((v4(1), 4000), (SERVER4, 443));
    let mut w = start();
    let syn = w.send_one(1, &frame4(1, &tcp(pod, server, 2)));
    let node = (NODE4, sport(&only(syn, UPLINK)));
    drop(w);
    let mut w = start();
    // The pod only listens; then it answers, by the same port.
    for _ in 0..2 {
        let out = w.send_one(UPLINK, &from_world4(&tcp(server, node, ACK)));
        assert_eq!(out, sent(1, to_pod4(1, &hop(tcp(server, pod, ACK)))));
    }
    let out = w.send_one(1, &frame4(1, &tcp(pod, server, ACK)));
    assert_eq!(out, sent(UPLINK, to_world4(&hop(tcp(node, server, ACK)))));
    let out = w.send_one(UPLINK, &from_world4(&tcp(server, node, ACK)));
    assert_eq!(out, sent(1, to_pod4(1, &hop(tcp(server, pod, ACK)))));
    // Not by a port that was none's.
    let stray = tcp(server, (NODE4, node.1 ^ 1), ACK);
    assert_eq!(
        w.send_one(UPLINK, &from_world4(&stray)),
        dropped("nat_no_binding")
    );
}

/// The node's port 8080 leads to port 80 of pod 1; 8081 of the first address alone to port 81 of pod 2.
const HOST_PORTS: [(u16, Ipv4Addr, u16, u16); 2] =
    [(8080, Ipv4Addr::UNSPECIFIED, 1, 80), (8081, NODE4, 2, 81)];

fn host_port(port: u16, address: Ipv4Addr) -> HostPortKey {
    HostPortKey {
        vrf: VrfId(0),
        protocol: frames::UDP,
        port,
        address: address.into(),
    }
}

fn with_host_ports(w: &mut World) {
    w.edit(|e| {
        for (port, address, pod, target) in HOST_PORTS {
            let to = Endpoint {
                address: v4(pod).to_ipv6_mapped().octets(),
                port: target,
            };
            e.set_host_port(host_port(port, address), Some(to));
        }
    });
}

#[test]
fn ports_of_the_node_lead_to_pods() {
    everywhere(|w| {
        with_host_ports(w);
        for (port, _, pod, target) in HOST_PORTS {
            for _ in 0..2 {
                let question = udp((SERVER4, 999), (NODE4, port));
                let out = w.send_one(UPLINK, &from_world4(&question));
                let expected = hop(udp((SERVER4, 999), (v4(pod), target)));
                assert_eq!(out, sent(pod, to_pod4(pod, &expected)));
                let answer = udp((v4(pod), target), (SERVER4, 999));
                let out = w.send_one(pod, &frame4(pod, &answer));
                let expected = hop(udp((NODE4, port), (SERVER4, 999)));
                assert_eq!(out, sent(UPLINK, to_world4(&expected)));
            }
        }
        // What leads nowhere is not the switch's; what the pod begins itself is masqueraded.
        let stray = udp((SERVER4, 999), (NODE4, 8082));
        assert_eq!(
            w.send_one(UPLINK, &from_world4(&stray)),
            dropped("not_for_us")
        );
        let own = udp((v4(1), 80), (SERVER4, 53));
        let port = sport(&only(w.send_one(1, &frame4(1, &own)), UPLINK));
        assert!((61_000..61_200).contains(&port), "{port}");
    });
}

#[test]
fn pods_reach_each_other_by_ports_of_the_node() {
    everywhere(|w| {
        with_host_ports(w);
        for _ in 0..2 {
            let question = frame4(1, &udp((v4(1), 999), (NODE4, 8081)));
            let expected = hop(udp((v4(1), 999), (v4(2), 81)));
            assert_eq!(w.send_one(1, &question), sent(2, to_pod4(2, &expected)));
            let answer = frame4(2, &udp((v4(2), 81), (v4(1), 999)));
            let expected = hop(udp((NODE4, 8081), (v4(1), 999)));
            assert_eq!(w.send_one(2, &answer), sent(1, to_pod4(1, &expected)));
        }
    });
}

#[test]
fn a_host_port_that_is_taken_away_leads_nowhere() {
    let mut w = node_on(0, 0);
    with_host_ports(&mut w);
    w.edit(|e| {
        for (port, address, ..) in HOST_PORTS {
            e.set_host_port(host_port(port, address), None);
        }
    });
    assert!(!w.tables.has_host_ports());
    let question = udp((SERVER4, 999), (NODE4, 8080));
    assert_eq!(
        w.send_one(UPLINK, &from_world4(&question)),
        dropped("not_for_us")
    );
}

#[test]
fn who_came_by_a_host_port_is_answered_by_it_after_a_restart() {
    const ACK: u8 = 16;
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let mut w = node_on(0, 1);
        w.reserve_ports_in(dir.path(), PORTS);
        w.edit(|e| {
            let key = HostPortKey {
                protocol: frames::TCP,
                ..host_port(8080, Ipv4Addr::UNSPECIFIED)
            };
            let to = Endpoint {
                address: v4(1).to_ipv6_mapped().octets(),
                port: 80,
            };
            e.set_host_port(key, Some(to));
        });
        w
    };
    let (pod, node, client) = ((v4(1), 80), (NODE4, 8080), (SERVER4, 999));
    let mut w = start();
    let out = w.send_one(UPLINK, &from_world4(&tcp(client, node, 2)));
    assert_eq!(out, sent(1, to_pod4(1, &hop(tcp(client, pod, 2)))));
    drop(w);
    // The pod is the first to speak.
    let out = start().send_one(1, &frame4(1, &tcp(pod, client, ACK)));
    assert_eq!(out, sent(UPLINK, to_world4(&hop(tcp(node, client, ACK)))));
}

#[test]
fn checksums_that_a_sender_left_unfinished_stay_so_and_are_finished() {
    everywhere(|w| {
        for (pod_speaks, port) in [(true, 0), (false, ask(w, 4000, SERVER4))] {
            let (src, dst) = match pod_speaks {
                true => ((v4(1), 4000), (SERVER4, 53)),
                false => ((SERVER4, 53), (NODE4, port)),
            };
            let mut packet = udp(src, dst);
            let len = packet.payload.len();
            let pseudo = frames::pseudo(src.0.into(), dst.0.into(), frames::UDP, len);
            packet.payload[6..8].copy_from_slice(&pseudo.to_be_bytes());
            let out = match pod_speaks {
                true => only(w.send_one(1, &frame4(1, &packet)), UPLINK),
                false => only(w.send_one(UPLINK, &from_world4(&packet)), 1),
            };
            let expected = match pod_speaks {
                true => to_world4(&hop(udp((NODE4, sport(&out)), dst))),
                false => to_pod4(1, &hop(udp(src, (v4(1), 4000)))),
            };
            assert_eq!(out, expected);
        }
    });
}
