// SPDX-License-Identifier: Apache-2.0
//! Uplinks whose frames are of a VLAN: the tag is on the wire alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podswitch_datapath::tables::PortSpec;
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId};

use crate::frames::{self, V4, V6};
use crate::local::{solicitation, solicited_node};
use crate::node::*;
use crate::tunnels::{arrived4, arrived6, node_v4, node_v6, pair};
use crate::world::{GATEWAY_MAC, Out, World};
use crate::{masquerade, tunnels};

const VLAN: u16 = 100;
const NIC: MacAddr = MacAddr([2, 0, 0, 0, 0x0e, 1]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);
const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

/// Pods of a node with a NIC, whose frames are of this VLAN, and a router behind it.
fn on_vlan(vlan: Option<u16>) -> World {
    let mut w = node();
    w.edit(|e| {
        e.set_port(nic(NIC, vec![NODE4.into(), NODE6.into()], None));
        for (prefix, router) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "fe80::fe")] {
            let router: IpAddr = router.parse().unwrap();
            e.set_neighbor(VrfId(0), PortId(UPLINK), router, ROUTER);
            e.set_route(VrfId(0), prefix.parse().unwrap(), via_uplink(router));
        }
    });
    w.caps.vlan = vlan;
    w
}

/// On the wire, with the VLAN's tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    frames::tagged(frame, VLAN)
}

fn from_router4(packet: &V4) -> Vec<u8> {
    frames::ethernet(NIC, ROUTER, 0x0800, &packet.bytes())
}

fn from_router6(packet: &V6) -> Vec<u8> {
    frames::ethernet(NIC, ROUTER, 0x86dd, &packet.bytes())
}

/// As it leaves to the router: a hop less, from the NIC.
fn to_router4(packet: &V4) -> Vec<u8> {
    let mut frame = tagged(&routed4(packet, ROUTER));
    frame[6..12].copy_from_slice(&NIC.0);
    frame
}

fn to_router6(packet: &V6) -> Vec<u8> {
    let mut frame = tagged(&routed6(packet, ROUTER));
    frame[6..12].copy_from_slice(&NIC.0);
    frame
}

/// Twice each: the second packet of a flow goes another way through the stages.
#[test]
fn what_leaves_has_the_tag_and_what_comes_loses_it() {
    let mut w = on_vlan(Some(VLAN));
    for _ in 0..2 {
        let (out, back) = (udp4(v4(1), PEER4, 53), udp4(PEER4, v4(1), 4000));
        let left = w.send_one(1, &frame4(1, &out));
        assert_eq!(left, sent(UPLINK, to_router4(&out)));
        let mut frame = tagged(&from_router4(&back));
        assert_eq!(w.send_one(UPLINK, &frame), sent(1, routed4(&back, mac(1))));
        // Whatever the priority; and what Ethernet pads goes.
        frame[14] |= 0xf0;
        frame.extend([0; 9]);
        assert_eq!(w.send_one(UPLINK, &frame), sent(1, routed4(&back, mac(1))));
        let (out, back) = (udp6(v6(1), PEER6, 53), udp6(PEER6, v6(1), 4000));
        let left = w.send_one(1, &frame6(1, &out));
        assert_eq!(left, sent(UPLINK, to_router6(&out)));
        let frame = tagged(&from_router6(&back));
        assert_eq!(w.send_one(UPLINK, &frame), sent(1, routed6(&back, mac(1))));
    }
    // Between pods there is no tag.
    let p = udp4(v4(1), v4(2), 53);
    assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
    w.assert_no_leak();
}

#[test]
fn what_is_not_of_the_vlan_is_dropped_by_name() {
    let untagged = from_router4(&udp4(PEER4, v4(1), 4000));
    let service = |frame: &[u8]| {
        let mut frame = tagged(frame);
        frame[12..14].copy_from_slice(&[0x88, 0xa8]);
        frame
    };
    let wrong = dropped("vlan_not_expected");
    let mut w = on_vlan(Some(VLAN));
    for (what, frame) in [
        ("no tag", untagged.clone()),
        ("a priority alone", frames::tagged(&untagged, 0xe000)),
        ("another VLAN", frames::tagged(&untagged, VLAN + 1)),
        ("a service tag", service(&untagged)),
        ("another tag within", tagged(&frames::tagged(&untagged, 7))),
        ("the same within", tagged(&tagged(&untagged))),
        ("within a service tag", service(&tagged(&untagged))),
        ("cut within the tag", tagged(&untagged)[..15].to_vec()),
    ] {
        assert_eq!(w.send_one(UPLINK, &frame), wrong, "{what}");
    }
    // Without a VLAN a tag that has only a priority is none (IEEE 802.1Q, 6.9).
    let mut w = on_vlan(None);
    let arrived = sent(1, routed4(&udp4(PEER4, v4(1), 4000), mac(1)));
    assert_eq!(w.send_one(UPLINK, &untagged), arrived);
    let priority = frames::tagged(&untagged, 0xe000);
    assert_eq!(w.send_one(UPLINK, &priority), arrived);
    for (what, frame) in [
        ("of a VLAN", tagged(&untagged)),
        ("a service tag", service(&untagged)),
        ("two priorities", frames::tagged(&priority, 0)),
        ("a VLAN within", frames::tagged(&tagged(&untagged), 0)),
    ] {
        assert_eq!(w.send_one(UPLINK, &frame), wrong, "{what}");
    }
    w.assert_no_leak();
}

#[test]
fn who_asks_on_the_vlan_is_answered_there() {
    let mut w = on_vlan(Some(VLAN));
    let asker = Ipv4Addr::new(192, 0, 2, 9);
    let request = frames::arp(1, ROUTER, asker, MacAddr::ZERO, v4(1));
    let request = frames::ethernet(MacAddr::BROADCAST, ROUTER, 0x0806, &request);
    let answer = frames::arp(2, NIC, v4(1), ROUTER, asker);
    let answer = frames::ethernet(ROUTER, NIC, 0x0806, &answer);
    let answered = w.send_one(UPLINK, &tagged(&request));
    assert_eq!(answered, sent(UPLINK, tagged(&answer)));

    let asker: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let (group, group_mac) = solicited_node(v6(1));
    let question = solicitation(asker, group, v6(1), Some(ROUTER));
    let frame = frames::ethernet(group_mac, ROUTER, 0x86dd, &question.bytes());
    let answer = only(w.send_one(UPLINK, &tagged(&frame)), UPLINK);
    assert_eq!(answer[..6], ROUTER.0);
    assert_eq!(answer[12..18], [0x81, 0, 0, VLAN as u8, 0x86, 0xdd]);
    // An advertisement (RFC 4861 section 4.4) of the pod's address.
    assert_eq!(answer[18 + 40], 136);
    assert_eq!(answer[18 + 40 + 8..18 + 40 + 24], v6(1).octets());
    w.assert_no_leak();
}

#[test]
fn errors_and_fragments_are_of_the_vlan() {
    let mut w = on_vlan(Some(VLAN));
    w.edit(|e| {
        e.set_port(PortSpec {
            mtu: 1280,
            ..pod(1)
        });
    });
    // What the pod does not take is told to who sent it, by the node's address.
    let large = frames::udp(PEER4.into(), v4(1).into(), 53, 4000, &[7; 1400]);
    let large = V4::new(PEER4, v4(1), frames::UDP, large);
    let error = only(w.send_one(UPLINK, &tagged(&from_router4(&large))), UPLINK);
    assert_eq!(error[12..18], [0x81, 0, 0, VLAN as u8, 8, 0]);
    assert_eq!(error[18 + 12..18 + 16], NODE4.octets());
    assert_eq!(error[18 + 20..18 + 22], [3, 4], "fragmentation needed");
    let next_hop_mtu = u16::from_be_bytes([error[18 + 26], error[18 + 27]]);
    assert_eq!(next_hop_mtu, 1280);
    // The MTU counts from the IP header on: 1500 bytes fit with the tag, one more does not.
    let of = |len: usize, flags: u16| {
        let data = frames::udp(v4(2).into(), PEER4.into(), 4000, 53, &vec![7; len - 28]);
        V4 {
            flags,
            ..V4::new(v4(2), PEER4, frames::UDP, data)
        }
    };
    let fits = of(1500, 0x4000);
    let left = w.send_one(2, &frame4(2, &fits));
    assert_eq!(left, sent(UPLINK, to_router4(&fits)));
    let told = only(w.send_one(2, &frame4(2, &of(1501, 0x4000))), 2);
    assert_eq!(told[14 + 20..14 + 22], [3, 4]);
    let pieces = w.send_one(2, &frame4(2, &of(3000, 0)));
    assert_eq!(pieces.len(), 3);
    for piece in pieces {
        let Out::Sent(UPLINK, frame) = piece else {
            panic!("{piece:?}");
        };
        assert_eq!(frame[12..18], [0x81, 0, 0, VLAN as u8, 8, 0]);
        assert!(frame.len() <= 1518);
    }
    w.assert_no_leak();
}

#[test]
fn tunnels_lead_through_it() {
    for over in [node_v4, node_v6] {
        let (mut a, mut b) = pair(over);
        (a.caps.vlan, b.caps.vlan) = (Some(VLAN), Some(VLAN));
        for _ in 0..2 {
            let p = udp4(v4(1), v4(2), 53);
            let outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
            assert_eq!(outer[12..16], [0x81, 0, 0, VLAN as u8]);
            assert_eq!(outer[..6], tunnels::nic(2).0);
            assert_eq!(b.send_one(UPLINK, &outer), sent(2, arrived4(&p, 2)));
            let p = udp6(v6(2), v6(1), 53);
            let outer = only(b.send_one(2, &frame6(2, &p)), UPLINK);
            assert_eq!(a.send_one(UPLINK, &outer), sent(1, arrived6(&p, 1)));
        }
        // A tag within the tunnel is none of the pods'.
        let p = udp4(v4(1), v4(2), 53);
        let mut outer = only(a.send_one(1, &frame4(1, &p)), UPLINK);
        outer.drain(12..16);
        assert_eq!(b.send_one(UPLINK, &outer), dropped("vlan_not_expected"));
        a.assert_no_leak();
        b.assert_no_leak();
    }
}

/// Wherever pods and uplink are: frames go untagged from worker to worker.
#[test]
fn masqueraded_connections_leave_and_come_back_by_it() {
    masquerade::everywhere(|w| {
        w.caps.vlan = Some(VLAN);
        let question = masquerade::udp((v4(1), 4000), (PEER4, 53));
        let left = only(w.send_one(1, &frame4(1, &question)), UPLINK);
        assert_eq!(left[12..18], [0x81, 0, 0, VLAN as u8, 8, 0]);
        assert_eq!(left[18 + 12..18 + 16], NODE4.octets());
        let port = u16::from_be_bytes([left[38], left[39]]);
        let answer = masquerade::udp((PEER4, 53), (NODE4, port));
        let back = w.send_one(UPLINK, &tagged(&masquerade::from_world4(&answer)));
        let expected = masquerade::udp((PEER4, 53), (v4(1), 4000));
        let mut expected = routed4(&expected, mac(1));
        expected[6..12].copy_from_slice(&GATEWAY_MAC.0);
        assert_eq!(back, sent(1, expected));
    });
}
