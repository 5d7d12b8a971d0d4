// SPDX-License-Identifier: Apache-2.0
//! Uplinks, and VXLAN tunnels over them: two nodes, A and B, whose frames are handed from one to the other.

use std::net::IpAddr;

use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{
    Action, Direction, NextHop, PortKindSpec, PortSpec, Route, Rule, TunnelSpec,
};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId, WorkerId};

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World, gateway};

pub(crate) const TUNNEL: u16 = 8;
const VNI: u32 = 0x00ab_cdef;
const NIC_MTU: u32 = 1500;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn nic(node: u8) -> MacAddr {
    MacAddr([2, 0, 1, 0, 0, node])
}

fn vtep(node: u8) -> MacAddr {
    MacAddr([2, 0, 2, 0, 0, node])
}

pub(crate) fn node_v4(node: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, node])
}

pub(crate) fn node_v6(node: u8) -> IpAddr {
    ip(&format!("2001:db8::{node}"))
}

fn uplink(node: u8) -> PortSpec {
    PortSpec {
        name: "uplink".to_owned(),
        mac: nic(node),
        mtu: NIC_MTU,
        check_source: false,
        kind: PortKindSpec::Uplink {
            vrf: VrfId(0),
            addresses: vec![node_v4(node), node_v6(node)],
            masquerade: None,
        },
        ..pod(UPLINK)
    }
}

pub(crate) fn tunnel(node: u8, group_policy: bool) -> PortSpec {
    PortSpec {
        name: "vxlan".to_owned(),
        mac: vtep(node),
        mtu: 65_535,
        check_source: false,
        kind: PortKindSpec::Tunnel {
            vrf: VrfId(0),
            tunnel: TunnelSpec {
                vni: VNI,
                port: 4789,
                underlay: VrfId(0),
                local_v4: None,
                local_v6: None,
                checksum_v6: true,
                group_policy,
            },
        },
        ..pod(TUNNEL)
    }
}

/// Node 1 with pod 1, node 2 with pod 2, each with a tunnel to the other's address on their common link.
fn node_with_tunnel(node: u8, other_end: IpAddr) -> World {
    node_on(node, other_end, [0; 3])
}

/// The same, with pod, uplink and tunnel on these workers of two.
pub(crate) fn node_on(node: u8, other_end: IpAddr, workers: [u8; 3]) -> World {
    let other = 3 - node;
    let mut w = World::new(2, gateway(), Rate::UNLIMITED);
    w.edit(|e| {
        for (mut port, worker) in [pod(node.into()), uplink(node), tunnel(node, false)]
            .into_iter()
            .zip(workers)
        {
            port.worker = WorkerId(worker);
            e.set_port(port);
        }
        for net in ["192.0.2.0/24", "2001:db8::/64"] {
            let on_link = Route::Unicast {
                port: PortId(UPLINK),
                via: None,
                mtu: None,
            };
            e.set_route(VrfId(0), net.parse().unwrap(), on_link);
        }
        e.set_neighbor(VrfId(0), PortId(UPLINK), other_end, nic(other));
        e.set_neighbor(VrfId(0), PortId(TUNNEL), other_end, vtep(other));
        for pod in [IpAddr::from(v4(other.into())), v6(other.into()).into()] {
            let through = Route::Unicast {
                port: PortId(TUNNEL),
                via: Some(other_end),
                mtu: None,
            };
            e.set_route(VrfId(0), pod.into(), through);
        }
    });
    w
}

pub(crate) fn pair(over: fn(u8) -> IpAddr) -> (World, World) {
    (node_with_tunnel(1, over(2)), node_with_tunnel(2, over(1)))
}

/// A packet as it leaves to the pod at the end: one hop less for each node.
pub(crate) fn arrived4(packet: &V4, to: u16) -> Vec<u8> {
    let packet = V4 {
        ttl: packet.ttl - 2,
        ..packet.clone()
    };
    frames::ethernet(mac(to), GATEWAY_MAC, 0x0800, &packet.bytes())
}

pub(crate) fn arrived6(packet: &V6, to: u16) -> Vec<u8> {
    let packet = V6 {
        hop_limit: packet.hop_limit - 2,
        ..packet.clone()
    };
    frames::ethernet(mac(to), GATEWAY_MAC, 0x86dd, &packet.bytes())
}

#[test]
fn pods_reach_one_another_through_the_tunnel() {
    for over in [node_v4, node_v6] {
        let (mut a, mut b) = pair(over);
        for _ in 0..3 {
            let p = udp4(v4(1), v4(2), 53);
            let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
            assert_eq!(b.send_one(UPLINK, &outer), sent(2, arrived4(&p, 2)));
            let p = udp6(v6(2), v6(1), 53);
            let outer = only(b.send_one(2, &frame6(2, &p)), UPLINK);
            assert_eq!(a.send_one(UPLINK, &outer), sent(1, arrived6(&p, 1)));
        }
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

#[test]
fn the_outer_headers_are_what_the_rfc_says() {
    let (mut a, _) = pair(node_v4);
    let mut p = udp4(v4(1), v4(2), 53);
    p.tos = 0b1011_1010;
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let inner_len = 14 + p.bytes().len();
    assert_eq!(outer.len(), 50 + inner_len);
    assert_eq!(outer[..6], nic(2).0);
    assert_eq!(outer[6..12], nic(1).0);
    let header = &outer[14..34];
    assert_eq!(frames::sum(header, 0), 0xffff, "IPv4 header checksum");
    assert_eq!(header[1], 0b10, "the ECN field alone is copied");
    assert_eq!(
        u16::from_be_bytes([header[2], header[3]]) as usize,
        outer.len() - 14
    );
    assert_eq!(header[6..8], [0x40, 0], "don't fragment");
    assert_eq!(header[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
    let udp = &outer[34..42];
    assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49_152);
    assert_eq!(udp[2..4], 4789u16.to_be_bytes());
    assert_eq!(
        u16::from_be_bytes([udp[4], udp[5]]) as usize,
        16 + inner_len
    );
    assert_eq!(udp[6..8], [0, 0]);
    assert_eq!(outer[42..50], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
    assert_eq!(outer[50..56], vtep(2).0);
    assert_eq!(outer[56..62], vtep(1).0);
    // Flows differ in their source port, packets of a flow do not.
    let sport = |frame: &[u8]| [frame[34], frame[35]];
    let again = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    assert_eq!(sport(&again), sport(&outer));
    let ports: std::collections::BTreeSet<_> = (0..64)
        .map(|n| {
            let p = udp4(v4(1), v4(2), 1000 + n);
            sport(&only(a.send_one(1, &frame4(1, &p)), UPLINK))
        })
        .collect();
    assert!(
        ports.len() > 32,
        "{} source ports for 64 flows",
        ports.len()
    );
}

/// Not the smallest one: the kernel's order says which of a NIC's addresses is the primary one.
#[test]
fn a_tunnel_begins_at_the_first_address() {
    let (mut a, _) = pair(node_v4);
    a.edit(|e| {
        let mut port = uplink(1);
        port.kind = PortKindSpec::Uplink {
            vrf: VrfId(0),
            addresses: vec![
                node_v6(1),
                node_v4(1),
                [192, 0, 2, 0].into(),
                ip("2001:db8::"),
            ],
            masquerade: None,
        };
        e.set_port(port);
    });
    let p = udp4(v4(1), v4(2), 53);
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    assert_eq!(outer[26..30], [192, 0, 2, 1]);
}

#[test]
fn over_ipv6_there_is_a_checksum_and_a_wrong_one_is_found() {
    let (mut a, mut b) = pair(node_v6);
    let p = udp4(v4(1), v4(2), 53);
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let udp = &outer[54..];
    let pseudo = frames::pseudo(node_v6(1), node_v6(2), frames::UDP, udp.len());
    assert_eq!(frames::sum(udp, pseudo.into()), 0xffff);
    b.caps.local_sender = false;
    let mut wrong = outer.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(b.send_one(UPLINK, &wrong), dropped("bad_udp_checksum"));
    // None at all is right: the other end is known (RFC 6936).
    let mut without = outer.clone();
    without[60..62].fill(0);
    assert_eq!(b.send_one(UPLINK, &without), sent(2, arrived4(&p, 2)));
}

#[test]
fn what_a_local_sender_left_unfinished_is_finished_also_behind_a_nic() {
    let (mut a, mut b) = pair(node_v6);
    let p = udp4(v4(1), v4(2), 53);
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let pseudo = frames::pseudo(v4(1).into(), v4(2).into(), frames::UDP, p.payload.len());
    // The inner packet's, and with it the outer one's as it is.
    let mut tunnelled = outer.clone();
    tunnelled[110..112].copy_from_slice(&pseudo.to_be_bytes());
    assert_eq!(b.send_one(UPLINK, &tunnelled), sent(2, arrived4(&p, 2)));
    // Of a packet from a host's own stack.
    let from = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let whole = udp4(from, v4(2), 53);
    let pseudo = frames::pseudo(from.into(), v4(2).into(), frames::UDP, whole.payload.len());
    let mut partial = whole.clone();
    partial.payload[6..8].copy_from_slice(&pseudo.to_be_bytes());
    let frame = frames::ethernet(nic(2), nic(1), 0x0800, &partial.bytes());
    let finished = sent(2, routed4(&whole, mac(2)));
    assert_eq!(b.send_one(UPLINK, &frame), finished);
    // From a real wire it is a wrong checksum, which the receiver is to find.
    b.caps.local_sender = false;
    assert_eq!(b.send_one(UPLINK, &tunnelled), dropped("bad_udp_checksum"));
    let unchanged = sent(2, routed4(&partial, mac(2)));
    assert_eq!(b.send_one(UPLINK, &frame), unchanged);
}

#[test]
fn who_is_no_other_end_is_not_heard() {
    let (mut a, mut b) = pair(node_v4);
    // A length that a fragment may have.
    let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &[7; 102]);
    let p = V4::new(v4(1), v4(2), frames::UDP, data);
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = outer.clone();
        change(&mut frame);
        let header: &mut [u8] = &mut frame[14..34];
        header[10..12].fill(0);
        let sum = !frames::sum(header, 0);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let cases: [(&str, Vec<u8>); 7] = [
        ("tunnel_peer_unknown", with(&|f| f[29] = 77)),
        ("tunnel_unknown", with(&|f| f[48] ^= 1)),
        ("tunnel_header_invalid", with(&|f| f[42] = 0)),
        ("tunnel_fragment", with(&|f| f[20] = 0x20)),
        ("not_for_us", with(&|f| f[37] ^= 1)),
        ("not_for_us", with(&|f| f[50] ^= 0x10)),
        ("not_for_us", with(&|f| f[5] ^= 0x10)),
    ];
    for (reason, frame) in cases {
        assert_eq!(b.send_one(UPLINK, &frame), dropped(reason));
    }
    assert_eq!(b.send_one(UPLINK, &outer), sent(2, arrived4(&p, 2)));
    b.assert_no_leak();
}

#[test]
fn nobody_wears_an_address_that_is_elsewhere() {
    let (mut a, mut b) = pair(node_v4);
    // From the wire, as a pod behind the tunnel, and as a pod of this node.
    for src in [1, 2] {
        let p = udp4(v4(src), v4(2), 53);
        let frame = frames::ethernet(nic(2), nic(1), 0x0800, &p.bytes());
        assert_eq!(b.send_one(UPLINK, &frame), dropped("spoofed_address"));
    }
    // Through the tunnel, as somebody on the wire.
    let p = udp4(v4(1), v4(2), 53);
    let mut outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let forged = udp4([192, 0, 2, 99].into(), v4(2), 53);
    let len = outer.len() - forged.bytes().len();
    outer.truncate(len);
    outer.extend(forged.bytes());
    assert_eq!(b.send_one(UPLINK, &outer), dropped("spoofed_address"));
    // From the wire, as itself.
    let p = udp4([192, 0, 2, 99].into(), v4(2), 53);
    let frame = frames::ethernet(nic(2), nic(1), 0x0800, &p.bytes());
    assert_eq!(b.send_one(UPLINK, &frame), sent(2, routed4(&p, mac(2))));
}

#[test]
fn congestion_in_the_underlay_is_told() {
    let (mut a, mut b) = pair(node_v4);
    for (inner, outer_ecn, result) in [
        (0b10, 0b11, Some(0b11)),
        (0, 0b11, None),
        (0b01, 0b10, Some(0b01)),
    ] {
        let mut p = udp4(v4(1), v4(2), 53);
        p.tos = 0b1011_1000 | inner;
        let mut outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
        outer[15] = outer_ecn;
        outer[24..26].fill(0);
        let sum = !frames::sum(&outer[14..34], 0);
        outer[24..26].copy_from_slice(&sum.to_be_bytes());
        let out = b.send_one(UPLINK, &outer);
        match result {
            Some(ecn) => {
                p.tos = 0b1011_1000 | ecn;
                assert_eq!(out, sent(2, arrived4(&p, 2)));
            }
            None => assert_eq!(out, dropped("tunnel_congestion")),
        }
    }
}

/// What fits is what the NIC takes, less the outer headers; what does not is told to the pod, or cut.
#[test]
fn the_mtu_is_what_is_left_of_the_underlay() {
    for (over, left) in [(node_v4 as fn(u8) -> IpAddr, 1450), (node_v6, 1430)] {
        let (mut a, mut b) = pair(over);
        let packet = |len: usize, flags: u16| {
            let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &vec![7; len - 28]);
            let mut p = V4::new(v4(1), v4(2), frames::UDP, data);
            p.flags = flags;
            p
        };
        let fits = packet(left, 0x4000);
        let outer = only(a.send_one(1, &frame4(1, &fits)), UPLINK);
        assert_eq!(outer.len(), 14 + 1500);
        assert_eq!(b.send_one(UPLINK, &outer), sent(2, arrived4(&fits, 2)));
        let error = only(a.send_one(1, &frame4(1, &packet(left + 1, 0x4000))), 1);
        assert_eq!(error[34..36], [3, 4], "fragmentation needed");
        assert_eq!(u16::from_be_bytes([error[40], error[41]]) as usize, left);
        let pieces = a.send_one(1, &frame4(1, &packet(left + 1, 0)));
        assert_eq!(pieces.len(), 2);
        for piece in pieces {
            let Out::Sent(UPLINK, outer) = piece else {
                panic!("{piece:?}");
            };
            assert!(matches!(b.send_one(UPLINK, &outer)[..], [Out::Sent(2, _)]));
        }
    }
}

/// What the first node learned of the way: what is left inside, as an error tells the pod; none when the packet still leaves.
fn learned(a: &mut World, len: usize) -> Option<u16> {
    let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &vec![7; len - 28]);
    let mut p = V4::new(v4(1), v4(2), frames::UDP, data);
    p.flags = 0x4000;
    match &a.send_one(1, &frame4(1, &p))[..] {
        [Out::Sent(UPLINK, _)] => None,
        [Out::Sent(1, error)] if error[34..36] == [3, 4] => {
            Some(u16::from_be_bytes([error[40], error[41]]))
        }
        other => panic!("{other:?}"),
    }
}

/// A router's error to the first node about its outer packet, whose IP header begins at 14.
fn too_big(outer: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &outer[14..14 + 64];
    let [a, b] = mtu.to_be_bytes();
    let (ethertype, packet) = match quoted[0] >> 4 {
        4 => {
            let message = frames::icmp(3, 4, [0, 0, a, b], quoted);
            let router = std::net::Ipv4Addr::new(203, 0, 113, 1);
            let to = std::net::Ipv4Addr::new(192, 0, 2, 1);
            (0x0800, V4::new(router, to, 1, message).bytes())
        }
        _ => {
            let (router, to) = ("2001:db8:9::1", "2001:db8::1");
            let (router, to) = (router.parse().unwrap(), to.parse().unwrap());
            let message = frames::icmpv6(router, to, 2, 0, [0, 0, a, b], quoted);
            (0x86dd, V6::new(router, to, 58, message).bytes())
        }
    };
    frames::ethernet(nic(1), nic(2), ethertype, &packet)
}

#[test]
fn routers_on_the_way_say_how_large_packets_may_be() {
    for (over, overhead, least) in [(node_v4 as fn(u8) -> IpAddr, 50, 576), (node_v6, 70, 1280)] {
        let (mut a, _) = pair(over);
        let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &[7; 1372]);
        let p = V4::new(v4(1), v4(2), frames::UDP, data);
        let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
        assert_eq!(learned(&mut a, 1400), None);
        let heard = dropped("tunnel_path_mtu");
        assert_eq!(a.send_one(UPLINK, &too_big(&outer, 1400)), heard);
        assert_eq!(learned(&mut a, 1400), Some(1400 - overhead));
        assert_eq!(learned(&mut a, usize::from(1400 - overhead)), None);
        // It does not grow by being told so, and does not fall below what every way takes.
        assert_eq!(a.send_one(UPLINK, &too_big(&outer, 1410)), heard);
        assert_eq!(learned(&mut a, 1400), Some(1400 - overhead));
        // A new route of the underlay does not make it forgotten.
        a.edit(|e| {
            e.set_neighbor(VrfId(0), PortId(UPLINK), over(2), nic(9));
        });
        assert_eq!(learned(&mut a, 1400), Some(1400 - overhead));
        assert_eq!(a.send_one(UPLINK, &too_big(&outer, 70)), heard);
        assert_eq!(learned(&mut a, 1400), Some(least - overhead));
        // The way may have changed after ten minutes.
        a.now += 601_000_000_000;
        assert_eq!(learned(&mut a, 1400), None);
        a.assert_no_leak();
    }
}

#[test]
fn errors_about_what_no_tunnel_sent_change_nothing() {
    for over in [node_v4 as fn(u8) -> IpAddr, node_v6] {
        let (mut a, _) = pair(over);
        let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &[7; 1372]);
        let p = V4::new(v4(1), v4(2), frames::UDP, data);
        let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
        let v6 = outer[14] >> 4 == 6;
        let (source, destination, udp) = if v6 { (37, 53, 54) } else { (29, 33, 34) };
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = outer.clone();
            change(&mut frame);
            frame
        };
        let mut wrong_sum = too_big(&outer, 1400);
        *wrong_sum.last_mut().unwrap() ^= 1;
        for frame in [
            too_big(&with(&|f| f[source] ^= 8), 1400),
            too_big(&with(&|f| f[destination] ^= 8), 1400),
            too_big(&with(&|f| f[udp] = 0x10), 1400),
            too_big(&with(&|f| f[udp + 3] ^= 1), 1400),
            // It would have fitted.
            too_big(&outer, 1500),
            wrong_sum,
        ] {
            assert_eq!(a.send_one(UPLINK, &frame), dropped("not_for_us"));
        }
        assert_eq!(learned(&mut a, 1400), None);
        a.assert_no_leak();
    }
}

/// An error about a packet that came through a tunnel goes back through it.
#[test]
fn errors_go_back_through_the_tunnel() {
    let (mut a, mut b) = pair(node_v4);
    b.edit(|e| {
        let mut small = pod(2);
        small.mtu = 1280;
        e.set_port(small);
    });
    let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &[7; 1300]);
    let mut p = V4::new(v4(1), v4(2), frames::UDP, data);
    p.flags = 0x4000;
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    let back = only(b.send_one(UPLINK, &outer), UPLINK);
    assert_eq!(
        back[26..34],
        [192, 0, 2, 2, 192, 0, 2, 1],
        "outer addresses"
    );
    let error = only(a.send_one(UPLINK, &back), 1);
    assert_eq!(error[26..30], [192, 0, 2, 2], "from the node");
    assert_eq!(error[34..36], [3, 4], "fragmentation needed");
    assert_eq!(u16::from_be_bytes([error[40], error[41]]), 1280);
}

#[test]
fn the_switch_is_no_router_between_others() {
    let (mut a, _) = pair(node_v4);
    let p = udp4([192, 0, 2, 50].into(), v4(2), 53);
    let frame = frames::ethernet(nic(1), nic(7), 0x0800, &p.bytes());
    a.edit(|e| {
        let host = IpAddr::from([192, 0, 2, 50]);
        e.set_neighbor(VrfId(0), PortId(UPLINK), host, nic(7));
    });
    let error = only(a.send_one(UPLINK, &frame), UPLINK);
    assert_eq!(error[..12], [nic(7).0, nic(1).0].concat()[..]);
    assert_eq!(error[26..34], [192, 0, 2, 1, 192, 0, 2, 50]);
    assert_eq!(error[34..36], [3, 0], "network unreachable");
}

/// A tunnel has no worker of its own: packets by it are wrapped by the sender's and unwrapped by the uplink's, and its rules hold for both.
#[test]
fn rules_of_a_tunnel_hold_on_every_worker() {
    let rule = |name: &str, port| Rule {
        name: name.into(),
        priority: 1,
        source: None,
        destination: None,
        protocol: Some(frames::UDP),
        ports: Some(port..=port),
        action: Action::Deny,
    };
    for workers in (0..8).map(|n| [n & 1, n >> 1 & 1, n >> 2]) {
        let mut a = node_on(1, node_v4(2), workers);
        let mut b = node_on(2, node_v4(1), workers);
        a.edit(|e| {
            e.set_rule(PortId(TUNNEL), Direction::Ingress, rule("to", 123));
        });
        b.edit(|e| {
            e.set_rule(PortId(TUNNEL), Direction::Egress, rule("from", 53));
        });
        for _ in 0..2 {
            let p = udp4(v4(1), v4(2), 80);
            let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
            assert_eq!(b.send_one(UPLINK, &outer), sent(2, arrived4(&p, 2)));
            let p = udp4(v4(1), v4(2), 123);
            let out = a.send_one(1, &frame4(1, &p));
            assert_eq!(out, dropped("policy_denied_ingress"), "{workers:?}");
            let p = udp4(v4(1), v4(2), 53);
            let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
            let out = b.send_one(UPLINK, &outer);
            assert_eq!(out, dropped("policy_denied_egress"), "{workers:?}");
        }
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

/// The next hop's MAC address is looked up for every packet: when it changes, packets of known flows follow.
#[test]
fn the_underlay_changes_under_known_flows() {
    let (mut a, _) = pair(node_v4);
    let p = udp4(v4(1), v4(2), 53);
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    assert_eq!(outer[..6], nic(2).0);
    a.edit(|e| {
        e.set_neighbor(VrfId(0), PortId(UPLINK), node_v4(2), nic(9));
    });
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    assert_eq!(outer[..6], nic(9).0);
    a.edit(|e| {
        e.remove_neighbor(VrfId(0), PortId(UPLINK), node_v4(2));
    });
    assert_eq!(
        a.send_one(1, &frame4(1, &p)),
        dropped("neighbor_unresolved")
    );
    let missed: Vec<_> = a.missed().iter().map(|m| (m.port.0, m.address)).collect();
    assert_eq!(missed, [(UPLINK, node_v4(2))]);
    // By a router from now on.
    a.edit(|e| {
        let router = IpAddr::from([192, 0, 2, 254]);
        e.set_neighbor(VrfId(0), PortId(UPLINK), router, nic(10));
        let via = Route::Unicast {
            port: PortId(UPLINK),
            via: Some(router),
            mtu: Some(1400),
        };
        e.set_route(VrfId(0), node_v4(2).into(), via);
    });
    let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
    assert_eq!(outer[..6], nic(10).0);
    let data = frames::udp(v4(1).into(), v4(2).into(), 4000, 53, &[7; 1350 - 28 + 1]);
    let mut large = V4::new(v4(1), v4(2), frames::UDP, data);
    large.flags = 0x4000;
    let error = only(a.send_one(1, &frame4(1, &large)), 1);
    assert_eq!(u16::from_be_bytes([error[40], error[41]]), 1350);
}

fn multipath(weights: &[u8]) -> Route {
    let hops = weights.iter().enumerate().map(|(n, weight)| NextHop {
        port: PortId(UPLINK),
        via: IpAddr::from([192, 0, 2, 101 + n as u8]),
        weight: *weight,
    });
    Route::Multipath {
        hops: hops.collect(),
        mtu: None,
    }
}

/// To which next hop each of 120 flows goes.
fn spread(w: &mut World) -> Vec<u8> {
    let flows = (0..120).map(|n| {
        let p = udp4(v4(1), [203, 0, 113, 9].into(), 1000 + n);
        only(w.send_one(1, &frame4(1, &p)), UPLINK)[5]
    });
    flows.collect()
}

#[test]
fn flows_are_spread_over_next_hops_and_leave_one_that_is_dead() {
    let (mut w, _) = pair(node_v4);
    let hop = |n: u8| IpAddr::from([192, 0, 2, 101 + n]);
    w.edit(|e| {
        e.set_route(
            VrfId(0),
            "203.0.113.0/24".parse().unwrap(),
            multipath(&[1, 1, 2]),
        );
        for n in 0..3 {
            e.set_neighbor(VrfId(0), PortId(UPLINK), hop(n), nic(101 + n));
        }
    });
    let before = spread(&mut w);
    let share = |flows: &[u8], n: u8| flows.iter().filter(|f| **f == 101 + n).count();
    assert!(
        (15..45).contains(&share(&before, 0)),
        "{}",
        share(&before, 0)
    );
    assert!(
        (15..45).contains(&share(&before, 1)),
        "{}",
        share(&before, 1)
    );
    assert!(
        (45..75).contains(&share(&before, 2)),
        "{}",
        share(&before, 2)
    );
    assert_eq!(spread(&mut w), before, "known flows stay");
    w.edit(|e| {
        e.remove_neighbor(VrfId(0), PortId(UPLINK), hop(1));
    });
    let without = spread(&mut w);
    for (now, was) in without.iter().zip(&before) {
        match was {
            102 => assert_ne!(*now, 102),
            was => assert_eq!(now, was, "a flow of another next hop has moved"),
        }
    }
    w.edit(|e| {
        e.set_neighbor(VrfId(0), PortId(UPLINK), hop(1), nic(102));
    });
    // New flows are spread as before; known ones stay until they are judged again.
    assert_eq!(spread(&mut w), without);
    w.edit(|e| {
        e.set_route(
            VrfId(0),
            "203.0.113.128/25".parse().unwrap(),
            Route::Blackhole,
        );
    });
    assert_eq!(spread(&mut w), before);
    w.edit(|e| {
        for n in 0..3 {
            e.remove_neighbor(VrfId(0), PortId(UPLINK), hop(n));
        }
    });
    let p = udp4(v4(1), [203, 0, 113, 9].into(), 999);
    assert_eq!(
        w.send_one(1, &frame4(1, &p)),
        dropped("neighbor_unresolved")
    );
}

#[test]
fn a_tunnel_goes_over_several_next_hops() {
    let (mut w, _) = pair(node_v4);
    w.edit(|e| {
        e.set_route(VrfId(0), node_v4(2).into(), multipath(&[1, 1]));
        for n in 0..2 {
            let hop = IpAddr::from([192, 0, 2, 101 + n]);
            e.set_neighbor(VrfId(0), PortId(UPLINK), hop, nic(101 + n));
        }
    });
    let mut seen = [0; 2];
    for n in 0..100 {
        let p = udp4(v4(1), v4(2), 1000 + n);
        let outer = only(w.send_one(1, &frame4(1, &p)), UPLINK);
        seen[usize::from(outer[5] - 101)] += 1;
    }
    assert!(seen.iter().all(|n| *n > 25), "{seen:?}");
}
