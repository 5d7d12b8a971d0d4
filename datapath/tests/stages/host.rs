// SPDX-License-Identifier: Apache-2.0
//! The node's own port: its addresses, what it forwards, and who may claim to be whom.

use std::net::Ipv4Addr;

use podswitch_datapath::tables::{PortKindSpec, PortSpec, Route};
use podswitch_datapath::{PortId, VrfId};

use crate::frames::V4;
use crate::node::*;
use crate::world::{Out, World};

/// The node's port.
const HOST: u16 = 7;
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn host() -> PortSpec {
    PortSpec {
        node: true,
        ..pod(HOST)
    }
}

/// Pods with a node that is the way to everybody else.
fn world() -> World {
    let mut w = node();
    w.edit(|e| {
        e.set_port(host());
        for prefix in ["0.0.0.0/0", "::/0"] {
            let by_host = Route::Unicast {
                port: PortId(HOST),
                via: None,
                mtu: None,
            };
            e.set_route(VrfId(0), prefix.parse().unwrap(), by_host);
        }
    });
    w
}

fn refused(out: Vec<Out>, reason: &str) {
    let by_name = matches!(&out[..], [Out::Dropped(why)] if *why == reason);
    assert!(by_name, "{out:?}");
}

#[test]
fn what_no_pod_has_goes_to_the_node_and_comes_back_from_it() {
    let mut w = world();
    for _ in 0..3 {
        let out = udp4(v4(1), WORLD, 53);
        let sent_out = sent(HOST, routed4(&out, mac(HOST)));
        assert_eq!(w.send_one(1, &frame4(1, &out)), sent_out);
        let back = udp4(WORLD, v4(1), 4000);
        let came_in = sent(1, routed4(&back, mac(1)));
        assert_eq!(w.send_one(HOST, &frame4(HOST, &back)), came_in);
        let six = "2001:db8::9".parse().unwrap();
        let out = udp6(v6(1), six, 53);
        let sent_out = sent(HOST, routed6(&out, mac(HOST)));
        assert_eq!(w.send_one(1, &frame6(1, &out)), sent_out);
    }
    w.assert_no_leak();
}

#[test]
fn a_next_hop_beyond_the_node_that_it_does_not_tell_of_is_the_nodes_to_find() {
    let mut w = world();
    let beyond = "203.0.113.1".parse().unwrap();
    // What is on a link of the node, and what is behind a router there.
    for (prefix, via) in [("203.0.113.0/24", None), ("198.51.100.0/24", Some(beyond))] {
        let port = PortId(HOST);
        let route = Route::Unicast {
            port,
            via,
            mtu: None,
        };
        w.edit(|e| {
            e.set_route(VrfId(0), prefix.parse().unwrap(), route);
        });
    }
    for to in [[203, 0, 113, 1], [198, 51, 100, 5]] {
        let out = udp4(v4(1), to.into(), 53);
        let sent_out = sent(HOST, routed4(&out, mac(HOST)));
        assert_eq!(w.send_one(1, &frame4(1, &out)), sent_out);
    }
    w.assert_no_leak();
}

#[test]
fn the_node_wears_its_own_addresses_and_those_its_routes_lead_to() {
    let mut w = world();
    let probe = udp4(v4(HOST), v4(1), 80);
    let arrived = sent(1, routed4(&probe, mac(1)));
    assert_eq!(w.send_one(HOST, &frame4(HOST, &probe)), arrived);
    // A pod's address, from the node.
    let spoofed = udp4(v4(2), v4(1), 80);
    refused(w.send_one(HOST, &frame4(HOST, &spoofed)), "spoofed_address");
    // Another MAC address than the node's.
    refused(w.send_one(HOST, &frame4(3, &probe)), "spoofed_mac");
    // The node's address, and a stranger's, from a pod.
    refused(w.send_one(1, &frame4(1, &probe)), "spoofed_address");
    refused(
        w.send_one(1, &frame4(1, &udp4(WORLD, v4(2), 80))),
        "spoofed_address",
    );
    // Without a route by the node's port nobody is beyond it.
    w.edit(|e| {
        e.remove_route(VrfId(0), "0.0.0.0/0".parse().unwrap());
    });
    refused(
        w.send_one(HOST, &frame4(HOST, &udp4(WORLD, v4(1), 80))),
        "spoofed_address",
    );
    assert_eq!(
        w.send_one(HOST, &frame4(HOST, &probe)),
        sent(1, routed4(&probe, mac(1)))
    );
}

#[test]
fn nothing_is_routed_from_beyond_to_beyond() {
    let mut w = world();
    w.edit(|e| {
        e.set_port(PortSpec {
            kind: PortKindSpec::Uplink {
                vrf: VrfId(0),
                addresses: Vec::new(),
                masquerade: None,
            },
            mac: mac(UPLINK),
            ..pod(UPLINK)
        });
        let by_uplink = via_uplink("192.0.2.1".parse().unwrap());
        e.set_route(VrfId(0), "10.1.0.0/16".parse().unwrap(), by_uplink);
    });
    let other_node = Ipv4Addr::new(10, 1, 0, 1);
    // Neither what the node forwards, nor what comes by the uplink.
    let forwarded = udp4(WORLD, other_node, 80);
    let from_wire = udp4(other_node, WORLD, 80);
    let wire = |p: &V4| crate::frames::ethernet(mac(UPLINK), mac(0x901), 0x0800, &p.bytes());
    // The sender is told, so something goes back, but nothing on.
    let goes_to = |out: Vec<Out>, port: u16| {
        out.iter()
            .any(|o| matches!(o, Out::Sent(p, _) if *p == port))
    };
    assert!(!goes_to(
        w.send_one(HOST, &frame4(HOST, &forwarded)),
        UPLINK
    ));
    assert!(!goes_to(w.send_one(UPLINK, &wire(&from_wire)), HOST));
    // Back to the node whence it came: an address that no pod has.
    let nobody = udp4(v4(HOST), v4(99), 80);
    assert!(!matches!(
        &w.send_one(HOST, &frame4(HOST, &nobody))[..],
        [Out::Sent(HOST, frame)] if frame == &routed4(&nobody, mac(HOST))
    ));
    // The node's own goes out, and what went out by the node may come back by the wire.
    let own = udp4(v4(HOST), other_node, 80);
    assert!(matches!(
        w.send_one(HOST, &frame4(HOST, &own))[..],
        [Out::Sent(UPLINK, _)]
    ));
    let back = udp4(WORLD, v4(1), 80);
    assert_eq!(
        w.send_one(UPLINK, &wire(&back)),
        sent(1, routed4(&back, mac(1)))
    );
    // But never with the node's own address.
    refused(
        w.send_one(UPLINK, &wire(&udp4(v4(HOST), v4(1), 80))),
        "spoofed_address",
    );
}
