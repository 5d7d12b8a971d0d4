// SPDX-License-Identifier: Apache-2.0
//! Routing, anti-spoofing, policy, the flow table.

use podswitch_datapath::counters::Event;
use podswitch_datapath::tables::{
    Action, Direction, NeighborKey, PortKindSpec, PortSpec, Route, Rule,
};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, Reason, VrfId};

use crate::frames::{self, V4, V6};
use crate::node::*;
use crate::world::GATEWAY_MAC;

#[test]
fn pods_reach_one_another_cold_and_warm() {
    let mut w = node();
    for _ in 0..3 {
        let p = udp4(v4(1), v4(2), 53);
        assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
        let p = udp6(v6(1), v6(2), 53);
        assert_eq!(w.send_one(1, &frame6(1, &p)), sent(2, routed6(&p, mac(2))));
        let p = udp4(v4(1), [203, 0, 113, 9].into(), 53);
        assert_eq!(
            w.send_one(1, &frame4(1, &p)),
            sent(UPLINK, routed4(&p, mac(0x901)))
        );
    }
    let counters = w.counters();
    assert_eq!(counters.event(Event::FlowMiss), 3);
    assert_eq!(counters.event(Event::FlowHit), 6);
    assert_eq!(counters.event(Event::FlowInstall), 3);
    w.assert_no_leak();
}

#[test]
fn a_pod_reaches_itself_through_the_switch() {
    let mut w = node();
    let p = udp4(v4(1), v4(1), 53);
    assert_eq!(w.send_one(1, &frame4(1, &p)), sent(1, routed4(&p, mac(1))));
}

#[test]
fn a_change_of_tables_counts_for_the_next_packet() {
    let mut w = node();
    let p = udp4(v4(1), v4(2), 53);
    assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
    w.edit(|e| {
        e.set_port(PortSpec {
            mac: mac(0x222),
            ..pod(2)
        });
    });
    assert_eq!(
        w.send_one(1, &frame4(1, &p)),
        sent(2, routed4(&p, mac(0x222)))
    );
    w.edit(|e| {
        e.remove_port(PortId(2));
    });
    assert_eq!(
        w.send_one(1, &frame4(1, &p)),
        sent(UPLINK, routed4(&p, mac(0x901)))
    );
    w.edit(|e| {
        e.remove_port(PortId(1));
    });
    assert_eq!(w.send_one(1, &frame4(1, &p)), dropped("port_gone"));
    w.assert_no_leak();
}

#[test]
fn vrfs_never_meet() {
    let mut w = node();
    w.edit(|e| {
        e.set_port(PortSpec {
            kind: PortKindSpec::Routed {
                vrf: VrfId(5),
                addresses: vec![v4(1).into(), v4(20).into()],
            },
            ..pod(20)
        });
    });
    let to_2 = udp4(v4(20), v4(2), 53);
    let to_1 = udp4(v4(20), v4(1), 53);
    assert!(
        matches!(only(w.send_one(20, &frame4(20, &to_2)), 20)[34..36], [3, 0]),
        "no route"
    );
    assert_eq!(
        w.send_one(20, &frame4(20, &to_1)),
        sent(20, routed4(&to_1, mac(20)))
    );
}

#[test]
fn destination_mac_must_be_the_gateways() {
    let mut w = node();
    let p = udp4(v4(1), v4(2), 53).bytes();
    // A packet of the same flow is in the flow table already.
    w.send_one(1, &frames::ethernet(GATEWAY_MAC, mac(1), 0x0800, &p));
    let other = frames::ethernet(mac(2), mac(1), 0x0800, &p);
    assert_eq!(w.send_one(1, &other), dropped("not_for_us"));
    for group in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        let f = frames::ethernet(group, mac(1), 0x0800, &p);
        assert_eq!(w.send_one(1, &f), dropped("multicast_not_routed"));
    }
    for dst in ["224.0.0.5", "255.255.255.255"] {
        let p = udp4(v4(1), dst.parse().unwrap(), 53);
        assert_eq!(
            w.send_one(1, &frame4(1, &p)),
            dropped("multicast_not_routed")
        );
    }
    let mld = V6::new(
        "fe80::5".parse().unwrap(),
        "ff02::16".parse().unwrap(),
        frames::ICMPV6,
        vec![143; 8],
    );
    let f = frames::ethernet(
        MacAddr([0x33, 0x33, 0, 0, 0, 0x16]),
        mac(1),
        0x86dd,
        &mld.bytes(),
    );
    assert_eq!(w.send_one(1, &f), dropped("multicast_not_routed"));
    let f = frames::ethernet(GATEWAY_MAC, mac(1), 0x88cc, &[0; 46]);
    assert_eq!(w.send_one(1, &f), dropped("ethertype_unknown"));
    let f = frames::tagged(&frame4(1, &udp4(v4(1), v4(2), 53)), 5);
    assert_eq!(w.send_one(1, &f), dropped("vlan_not_expected"));
    w.assert_no_leak();
}

#[test]
fn sources_are_the_ports_own() {
    let mut w = node();
    let good = udp4(v4(1), v4(2), 53);
    let f = frames::ethernet(GATEWAY_MAC, mac(3), 0x0800, &good.bytes());
    assert_eq!(w.send_one(1, &f), dropped("spoofed_mac"));
    let f = frame4(1, &udp4(v4(3), v4(2), 53));
    assert_eq!(w.send_one(1, &f), dropped("spoofed_address"));
    let f = frame6(1, &udp6(v6(3), v6(2), 53));
    assert_eq!(w.send_one(1, &f), dropped("spoofed_address"));
    // Link-local addresses are for the link.
    let f = frame6(1, &udp6("fe80::1:1".parse().unwrap(), v6(2), 53));
    assert_eq!(w.send_one(1, &f), dropped("link_local_not_routed"));
    let f = frame6(1, &udp6(v6(1), "fe80::77".parse().unwrap(), 53));
    assert_eq!(w.send_one(1, &f), dropped("link_local_not_routed"));
    // The uplink may bring any source.
    let p = udp4([203, 0, 113, 1].into(), v4(2), 53);
    let f = frames::ethernet(GATEWAY_MAC, mac(0x999), 0x0800, &p.bytes());
    assert_eq!(w.send_one(UPLINK, &f), sent(2, routed4(&p, mac(2))));
}

#[test]
fn padding_goes() {
    let mut w = node();
    let p = V4::new(
        v4(1),
        v4(2),
        frames::UDP,
        frames::udp(v4(1).into(), v4(2).into(), 1, 2, &[]),
    );
    let mut f = frame4(1, &p);
    f.resize(60, 0xee);
    assert_eq!(w.send_one(1, &f), sent(2, routed4(&p, mac(2))));
    f.resize(9000, 0xee);
    assert_eq!(w.send_one(1, &f), sent(2, routed4(&p, mac(2))));
    w.assert_no_leak();
}

#[test]
fn options_and_extension_headers_pass_source_routes_do_not() {
    let mut w = node();
    let mut p = udp4(v4(1), v4(2), 53);
    p.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
    p.options = vec![131, 7, 4, 10, 0, 0, 3, 0];
    assert_eq!(w.send_one(1, &frame4(1, &p)), dropped("ipv4_source_route"));
    let mut p = udp6(v6(1), v6(2), 53);
    p.extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0])];
    assert_eq!(w.send_one(1, &frame6(1, &p)), sent(2, routed6(&p, mac(2))));
    p.extensions = vec![(43, vec![0, 0, 0, 0, 0, 0, 0])];
    assert_eq!(
        w.send_one(1, &frame6(1, &p)),
        dropped("ipv6_routing_header")
    );
}

#[test]
fn partial_checksums_are_finished_and_complete_ones_left() {
    let mut w = node();
    let whole = udp4(v4(1), v4(2), 53);
    let mut partial = whole.clone();
    let sum = frames::pseudo(
        v4(1).into(),
        v4(2).into(),
        frames::UDP,
        partial.payload.len(),
    );
    partial.payload[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(
        w.send_one(1, &frame4(1, &partial)),
        sent(2, routed4(&whole, mac(2)))
    );
    let mut wrong = whole.clone();
    wrong.payload[6] ^= 0x55;
    assert_eq!(
        w.send_one(1, &frame4(1, &wrong)),
        sent(2, routed4(&wrong, mac(2)))
    );
    w.caps.local_sender = false;
    assert_eq!(
        w.send_one(1, &frame4(1, &partial)),
        sent(2, routed4(&partial, mac(2)))
    );
}

fn rule(name: &str, action: Action, port: u16) -> Rule {
    Rule {
        name: name.into(),
        priority: 10,
        source: None,
        destination: None,
        protocol: Some(frames::UDP),
        ports: Some(port..=port),
        action,
    }
}

#[test]
fn policy_of_both_ends_with_counters() {
    let mut w = node();
    w.edit(|e| {
        e.set_rule(
            PortId(1),
            Direction::Egress,
            rule("no-dns", Action::Deny, 53),
        );
        e.set_rule(
            PortId(2),
            Direction::Ingress,
            rule("no-ntp", Action::Deny, 123),
        );
        e.set_rule(
            PortId(2),
            Direction::Ingress,
            rule("http", Action::Allow, 80),
        );
        e.set_port(PortSpec {
            ingress_default: Action::Deny,
            ..pod(2)
        });
        e.set_port(PortSpec {
            egress_default: Action::Deny,
            ..pod(3)
        });
    });
    for _ in 0..2 {
        let try_port = |w: &mut crate::world::World, from: u16, dport| {
            w.send_one(from, &frame4(from, &udp4(v4(from), v4(2), dport)))
        };
        assert_eq!(try_port(&mut w, 1, 53), dropped("policy_denied_egress"));
        assert_eq!(try_port(&mut w, 1, 123), dropped("policy_denied_ingress"));
        assert_eq!(try_port(&mut w, 1, 81), dropped("policy_default_ingress"));
        assert_eq!(try_port(&mut w, 3, 80), dropped("policy_default_egress"));
        let p = udp4(v4(1), v4(2), 80);
        assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
    }
    let counters = w.counters();
    for (port, ingress, name) in [(1, false, "no-dns"), (2, true, "no-ntp"), (2, true, "http")] {
        let entry = w.tables.port(PortId(port)).unwrap();
        let rules = if ingress {
            &entry.ingress
        } else {
            &entry.egress
        };
        let id = rules
            .rules()
            .iter()
            .find(|r| r.rule.name == name)
            .unwrap()
            .id;
        assert_eq!(
            (counters.rules[&id].packets, counters.rules[&id].bytes),
            (2, 2 * 142),
            "{name}"
        );
    }
    assert_eq!(counters.dropped(Reason::PolicyDeniedEgress), 2);
}

#[test]
fn a_batch_keeps_every_packet_apart() {
    let mut w = node();
    let frames: Vec<_> = (0..64u16)
        .map(|i| match i % 4 {
            0 => frame4(1, &udp4(v4(1), v4(2), 1000 + i)),
            1 => frame6(1, &udp6(v6(1), v6(2), 1000 + i)),
            2 => frame4(1, &udp4(v4(3), v4(2), 1000 + i)),
            _ => vec![0; 5],
        })
        .collect();
    for _ in 0..2 {
        let out = w.send(1, &frames);
        let count = |want: &crate::world::Out| out.iter().filter(|o| *o == want).count();
        assert_eq!(out.len(), 64);
        assert_eq!(count(&dropped("spoofed_address")[0]), 16);
        assert_eq!(count(&dropped("truncated_ethernet")[0]), 16);
        for i in (0..64).step_by(4) {
            let p = udp4(v4(1), v4(2), 1000 + i);
            assert_eq!(count(&sent(2, routed4(&p, mac(2)))[0]), 1);
        }
    }
    assert_eq!(w.counters().event(Event::FlowHit), 32);
    w.assert_no_leak();
}

#[test]
fn control_is_told_for_which_neighbors_packets_wait() {
    let mut w = node();
    let gone = "192.0.2.2".parse().unwrap();
    w.edit(|e| {
        let on_link = Route::Unicast {
            port: PortId(UPLINK),
            via: None,
            mtu: None,
        };
        e.set_route(VrfId(0), "192.0.2.0/24".parse().unwrap(), on_link);
        e.set_route(
            VrfId(0),
            "203.0.113.0/24".parse().unwrap(),
            via_uplink(gone),
        );
    });
    let told = |address: std::net::IpAddr| NeighborKey {
        vrf: VrfId(0),
        port: PortId(UPLINK),
        address,
    };
    // A destination on a link, and a next hop for two destinations.
    let on_link = "198.51.103.7".parse().unwrap();
    for dst in [
        on_link,
        "203.0.113.7".parse().unwrap(),
        "203.0.113.8".parse().unwrap(),
    ] {
        w.send_one(1, &frame4(1, &udp4(v4(1), dst, 53)));
    }
    assert_eq!(w.missed(), [told(on_link.into()), told(gone)]);
    // Known neighbors, and routes that lead nowhere, are not asked for.
    for dst in ["8.8.8.8", "198.51.100.1", "198.51.101.1", "198.51.102.1"] {
        w.send_one(1, &frame4(1, &udp4(v4(1), dst.parse().unwrap(), 53)));
    }
    // Nor is anybody by a packet that may not be sent.
    w.edit(|e| {
        e.set_port(PortSpec {
            egress_default: Action::Deny,
            ..pod(2)
        });
    });
    let denied = udp4(v4(2), "198.51.103.9".parse().unwrap(), 53);
    assert_eq!(
        w.send_one(2, &frame4(2, &denied)),
        dropped("policy_default_egress")
    );
    assert_eq!(w.missed(), []);
}
