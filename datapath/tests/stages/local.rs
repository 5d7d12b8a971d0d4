// SPDX-License-Identifier: Apache-2.0
//! ARP, neighbor discovery and the gateway's echo.

use std::net::{Ipv4Addr, Ipv6Addr};

use podswitch_datapath::counters::Event;
use podswitch_datapath::wire::MacAddr;

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::{GATEWAY_MAC, Out, World, gateway};

fn ask_arp(w: &mut World, from: u16, dst: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<Out> {
    let p = frames::arp(1, mac(from), sender, MacAddr::ZERO, target);
    let mut f = frames::ethernet(dst, mac(from), 0x0806, &p);
    f.resize(60, 0);
    w.send_one(from, &f)
}

fn arp_answer(to: u16, target: Ipv4Addr) -> Vec<Out> {
    arp_answer_by(GATEWAY_MAC, to, v4(to), target)
}

fn arp_answer_by(own: MacAddr, to: u16, asker: Ipv4Addr, target: Ipv4Addr) -> Vec<Out> {
    let p = frames::arp(2, own, target, mac(to), asker);
    let mut f = frames::ethernet(mac(to), own, 0x0806, &p);
    f.resize(60, 0);
    sent(to, f)
}

#[test]
fn arp_is_answered_for_the_gateway_and_other_pods() {
    let mut w = node();
    for target in [gateway().v4, v4(2), v4(3)] {
        for dst in [MacAddr::BROADCAST, GATEWAY_MAC] {
            assert_eq!(
                ask_arp(&mut w, 1, dst, v4(1), target),
                arp_answer(1, target)
            );
        }
    }
    assert_eq!(w.counters().event(Event::ArpReply), 6);
    w.assert_no_leak();
}

#[test]
fn arp_is_not_answered_for_ones_own_or_unknown_addresses() {
    let mut w = node();
    let all = MacAddr::BROADCAST;
    let unanswered = dropped("arp_unanswered");
    assert_eq!(
        ask_arp(&mut w, 1, all, v4(1), [203, 0, 113, 1].into()),
        unanswered,
        "no pod's"
    );
    assert_eq!(
        ask_arp(&mut w, 1, all, [0; 4].into(), v4(1)),
        unanswered,
        "probe"
    );
    assert_eq!(
        ask_arp(&mut w, 1, all, [0; 4].into(), v4(2)),
        unanswered,
        "probe for another's"
    );
    assert_eq!(
        ask_arp(&mut w, 1, all, v4(1), v4(1)),
        unanswered,
        "announcement"
    );
    assert_eq!(
        ask_arp(&mut w, 1, all, v4(2), v4(3)),
        dropped("spoofed_address")
    );
    assert_eq!(
        ask_arp(&mut w, 1, mac(3), v4(1), v4(3)),
        dropped("not_for_us")
    );
    let reply = frames::arp(2, mac(1), v4(1), mac(2), v4(2));
    assert_eq!(
        w.send_one(1, &frames::ethernet(GATEWAY_MAC, mac(1), 0x0806, &reply)),
        unanswered
    );
    let forged = frames::arp(1, mac(3), v4(1), mac(2), v4(2));
    let f = frames::ethernet(GATEWAY_MAC, mac(1), 0x0806, &forged);
    assert_eq!(w.send_one(1, &f), dropped("spoofed_mac"));
    for len in 0..28 {
        let f = frames::ethernet(GATEWAY_MAC, mac(1), 0x0806, &reply[..len]);
        assert_eq!(w.send_one(1, &f), unanswered);
    }
}

/// A second address of the asking port is its own too.
#[test]
fn arp_is_not_answered_for_a_second_own_address() {
    use podswitch_datapath::VrfId;
    use podswitch_datapath::tables::{PortKindSpec, PortSpec};
    let mut w = node();
    w.edit(|e| {
        let addresses = vec![v4(1).into(), v4(100).into()];
        e.set_port(PortSpec {
            kind: PortKindSpec::Routed {
                vrf: VrfId(0),
                addresses,
            },
            ..pod(1)
        });
    });
    let own = ask_arp(&mut w, 1, MacAddr::BROADCAST, v4(1), v4(100));
    assert_eq!(own, dropped("arp_unanswered"));
    assert_eq!(
        ask_arp(&mut w, 2, MacAddr::BROADCAST, v4(2), v4(100)),
        arp_answer(2, v4(100))
    );
}

pub(crate) fn solicitation(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
    own: Option<MacAddr>,
) -> V6 {
    let mut data = target.octets().to_vec();
    if let Some(mac) = own {
        data.extend([1, 1]);
        data.extend(mac.0);
    }
    let message = frames::icmpv6(src, dst, 135, 0, [0; 4], &data);
    V6 {
        hop_limit: 255,
        ..V6::new(src, dst, frames::ICMPV6, message)
    }
}

pub(crate) fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, MacAddr) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, MacAddr([0x33, 0x33, 0xff, a, b, c]))
}

fn ask_nd(w: &mut World, from: u16, src: Ipv6Addr, target: Ipv6Addr) -> Vec<Out> {
    let (group, group_mac) = solicited_node(target);
    let own = (!src.is_unspecified()).then(|| mac(from));
    let p = solicitation(src, group, target, own);
    w.send_one(
        from,
        &frames::ethernet(group_mac, mac(from), 0x86dd, &p.bytes()),
    )
}

fn nd_answer(to: u16, src: Ipv6Addr, target: Ipv6Addr, flags: u8) -> Vec<Out> {
    nd_answer_by((gateway().v6, GATEWAY_MAC), to, src, target, flags)
}

fn nd_answer_by(
    (own, own_mac): (Ipv6Addr, MacAddr),
    to: u16,
    src: Ipv6Addr,
    target: Ipv6Addr,
    flags: u8,
) -> Vec<Out> {
    let mut data = target.octets().to_vec();
    data.extend([2, 1]);
    data.extend(own_mac.0);
    let message = frames::icmpv6(own, src, 136, 0, [flags, 0, 0, 0], &data);
    let p = V6 {
        hop_limit: 255,
        ..V6::new(own, src, frames::ICMPV6, message)
    };
    sent(to, frames::ethernet(mac(to), own_mac, 0x86dd, &p.bytes()))
}

const NIC: MacAddr = MacAddr([2, 0, 0, 0, 0x0e, 1]);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Pods of a node with a NIC; the node has one IPv6 address on it, or none.
fn on_a_wire(address: Option<Ipv6Addr>) -> World {
    let mut w = node();
    w.edit(|e| {
        e.set_port(nic(
            NIC,
            address.map(Into::into).into_iter().collect(),
            None,
        ));
    });
    w
}

#[test]
fn on_a_wire_arp_is_answered_for_pods_alone() {
    let mut w = on_a_wire(None);
    let asker = Ipv4Addr::new(192, 0, 2, 9);
    for dst in [MacAddr::BROADCAST, NIC] {
        let answer = ask_arp(&mut w, UPLINK, dst, asker, v4(1));
        assert_eq!(answer, arp_answer_by(NIC, UPLINK, asker, v4(1)));
    }
    let unanswered = dropped("arp_unanswered");
    for (what, sender, target) in [
        ("the gateway", asker, gateway().v4),
        ("nobody's", asker, [203, 0, 113, 1].into()),
        ("a probe", [0; 4].into(), v4(1)),
        ("an announcement", v4(1), v4(1)),
    ] {
        let answer = ask_arp(&mut w, UPLINK, MacAddr::BROADCAST, sender, target);
        assert_eq!(answer, unanswered, "{what}");
    }
    let elsewhere = ask_arp(&mut w, UPLINK, GATEWAY_MAC, asker, v4(1));
    assert_eq!(elsewhere, unanswered, "to another station");
    w.assert_no_leak();
}

#[test]
fn on_a_wire_solicitations_are_answered_for_pods_alone() {
    let asker: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let mut w = on_a_wire(Some(NODE6));
    let answer = nd_answer_by((NODE6, NIC), UPLINK, asker, v6(1), 0x40);
    assert_eq!(ask_nd(&mut w, UPLINK, asker, v6(1)), answer, "solicited");
    let still_there = solicitation(asker, v6(1), v6(1), Some(mac(UPLINK)));
    let frame = frames::ethernet(NIC, mac(UPLINK), 0x86dd, &still_there.bytes());
    assert_eq!(w.send_one(UPLINK, &frame), answer, "by unicast");
    let unanswered = dropped("nd_unanswered");
    for (what, src, target) in [
        ("the gateway", asker, gateway().v6),
        ("nobody's", asker, "2001:db8::77".parse().unwrap()),
        ("duplicate address detection", Ipv6Addr::UNSPECIFIED, v6(1)),
    ] {
        assert_eq!(ask_nd(&mut w, UPLINK, src, target), unanswered, "{what}");
    }
    w.assert_no_leak();
    // It has no address to speak from.
    let mut w = on_a_wire(None);
    assert_eq!(ask_nd(&mut w, UPLINK, asker, v6(1)), unanswered);
}

#[test]
fn nd_is_answered_for_the_gateway_and_other_pods() {
    let mut w = node();
    let link_local: Ipv6Addr = "fe80::ff:fe00:1".parse().unwrap();
    for src in [v6(1), link_local] {
        let own = ask_nd(&mut w, 1, src, gateway().v6);
        assert_eq!(
            own,
            nd_answer(1, src, gateway().v6, 0xe0),
            "router, solicited, override"
        );
        assert_eq!(
            ask_nd(&mut w, 1, src, v6(2)),
            nd_answer(1, src, v6(2), 0xc0),
            "proxy"
        );
        // Unicast, to find out whether it is still there (RFC 4861 section 7.3.3).
        let p = solicitation(src, v6(2), v6(2), Some(mac(1)));
        assert_eq!(
            w.send_one(1, &frame6(1, &p)),
            nd_answer(1, src, v6(2), 0xc0)
        );
    }
    assert_eq!(w.counters().event(Event::NdReply), 6);
    w.assert_no_leak();
}

#[test]
fn nd_is_not_answered_in_duplicate_address_detection_nor_for_unknown_addresses() {
    let mut w = node();
    let unanswered = dropped("nd_unanswered");
    let none = Ipv6Addr::UNSPECIFIED;
    let link_local: Ipv6Addr = "fe80::ff:fe00:1".parse().unwrap();
    for target in [v6(1), v6(2), link_local, gateway().v6] {
        assert_eq!(ask_nd(&mut w, 1, none, target), unanswered, "{target}");
    }
    assert_eq!(ask_nd(&mut w, 1, v6(1), v6(1)), unanswered);
    assert_eq!(
        ask_nd(&mut w, 1, v6(1), "fd00::dead".parse().unwrap()),
        unanswered
    );
    assert_eq!(ask_nd(&mut w, 1, v6(3), v6(2)), dropped("spoofed_address"));
    let (group, group_mac) = solicited_node(v6(2));
    let forged = solicitation(v6(1), group, v6(2), Some(mac(3)));
    let f = frames::ethernet(group_mac, mac(1), 0x86dd, &forged.bytes());
    assert_eq!(w.send_one(1, &f), dropped("spoofed_mac"));
    let far = V6 {
        hop_limit: 254,
        ..solicitation(v6(1), group, v6(2), None)
    };
    let f = frames::ethernet(group_mac, mac(1), 0x86dd, &far.bytes());
    assert_eq!(w.send_one(1, &f), unanswered);
}

/// The flow table knows no types: another ICMPv6 message between the same addresses must not show the way out.
#[test]
fn nd_ends_at_the_switch_whatever_is_known_of_the_flow() {
    let mut w = node();
    let error = frames::icmpv6(v6(1), v6(2), 1, 0, [0; 4], &[0; 48]);
    let p = V6::new(v6(1), v6(2), frames::ICMPV6, error);
    assert_eq!(w.send_one(1, &frame6(1, &p)), sent(2, routed6(&p, mac(2))));
    let p = solicitation(v6(1), v6(2), v6(2), Some(mac(1)));
    assert_eq!(
        w.send_one(1, &frame6(1, &p)),
        nd_answer(1, v6(1), v6(2), 0xc0)
    );
}

#[test]
fn other_neighbor_discovery_ends() {
    let mut w = node();
    let send = |w: &mut World, kind: u8, dst: &str, data: &[u8]| {
        let dst: Ipv6Addr = dst.parse().unwrap();
        let message = frames::icmpv6(v6(1), dst, kind, 0, [0; 4], data);
        let p = V6 {
            hop_limit: 255,
            ..V6::new(v6(1), dst, frames::ICMPV6, message)
        };
        let to = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
        w.send_one(1, &frames::ethernet(to, mac(1), 0x86dd, &p.bytes()))
    };
    assert_eq!(
        send(&mut w, 133, "ff02::2", &[]),
        dropped("nd_unanswered"),
        "router solicitation"
    );
    assert_eq!(
        send(&mut w, 134, "ff02::1", &[0; 8]),
        dropped("nd_unanswered"),
        "router advertisement"
    );
    assert_eq!(
        send(&mut w, 137, "ff02::1", &[0; 32]),
        dropped("nd_unanswered"),
        "redirect"
    );
    let own = send(&mut w, 136, "ff02::1", &v6(1).octets());
    assert_eq!(own, dropped("nd_unanswered"));
    let others = send(&mut w, 136, "ff02::1", &v6(2).octets());
    assert_eq!(others, dropped("spoofed_address"));
}

#[test]
fn the_gateway_answers_echo_and_nothing_else() {
    let mut w = node();
    for len in [0, 56, 1472, 9000, 40_000] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let id = [0xab, 0xcd, 0, 1];
        let ask = V4 {
            ttl: 1,
            ..V4::new(
                v4(1),
                gateway().v4,
                frames::ICMP,
                frames::icmp(8, 0, id, &data),
            )
        };
        let answer = V4 {
            ttl: 64,
            ..V4::new(
                gateway().v4,
                v4(1),
                frames::ICMP,
                frames::icmp(0, 0, id, &data),
            )
        };
        let want = frames::ethernet(mac(1), GATEWAY_MAC, 0x0800, &answer.bytes());
        assert_eq!(w.send_one(1, &frame4(1, &ask)), sent(1, want));
        for src in [v6(1), "fe80::9".parse().unwrap()] {
            let (to, back) = (gateway().v6, src);
            let ask = V6::new(
                src,
                to,
                frames::ICMPV6,
                frames::icmpv6(src, to, 128, 0, id, &data),
            );
            let answer = V6::new(
                to,
                back,
                frames::ICMPV6,
                frames::icmpv6(to, back, 129, 0, id, &data),
            );
            let want = frames::ethernet(mac(1), GATEWAY_MAC, 0x86dd, &answer.bytes());
            assert_eq!(w.send_one(1, &frame6(1, &ask)), sent(1, want));
        }
    }
    let syn = frames::tcp(v4(1).into(), gateway().v4.into(), 1, 80, 2, &[]);
    let f = frame4(1, &V4::new(v4(1), gateway().v4, frames::TCP, syn));
    assert_eq!(w.send_one(1, &f), dropped("gateway_unhandled"));
    // A traceroute to the gateway ends there.
    let f = frame4(1, &udp4(v4(1), gateway().v4, 33434));
    assert_eq!(only(w.send_one(1, &f), 1)[34..36], [3, 3]);
    w.assert_no_leak();
}
