// SPDX-License-Identifier: Apache-2.0
//! One small node, step by step.
use std::net::IpAddr;

use crate::ids::{PortId, VrfId, WorkerId};
use crate::tables::*;
use crate::verdict::Reason;
use crate::wire::{FlowKey, MacAddr, protocol};

pub(super) fn gateway() -> Gateway {
    Gateway {
        mac: MacAddr([2, 0x70, 0x6f, 0x64, 0x73, 0x77]),
        v4: [169, 254, 1, 1].into(),
        v6: "fe80::1".parse().unwrap(),
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

pub(super) fn routed(id: u16, vrf: u32, addresses: &[&str]) -> PortSpec {
    PortSpec {
        id: PortId(id),
        name: format!("pod-{id}"),
        worker: WorkerId(0),
        mac: mac(id as u8),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VrfId(vrf),
            addresses: addresses.iter().map(|a| ip(a)).collect(),
        },
        check_source: true,
        node: false,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

pub(super) fn key(vrf: u32, source: &str, destination: &str, dport: u16) -> FlowKey {
    FlowKey::from_ip(
        VrfId(vrf),
        protocol::TCP,
        ip(source),
        ip(destination),
        40_000,
        dport,
    )
}

pub(super) fn edit(tables: &Tables) -> Edit {
    Edit::new(tables, tables.generation())
}

fn hop<'a>(tables: &'a Tables, destination: &str) -> Hop<'a> {
    let source = if ip(destination).is_ipv4() {
        "10.0.0.1"
    } else {
        "fd00::1"
    };
    tables.route(VrfId(0), &key(0, source, destination, 80))
}

#[test]
fn pods_reach_one_another_and_what_routes_say() {
    let mut e = edit(&Tables::new(gateway()));
    e.set_port(routed(1, 0, &["10.0.0.1", "fd00::1"]));
    e.set_port(routed(2, 0, &["10.0.0.2", "fd00::2"]));
    e.set_port(PortSpec {
        mtu: 9000,
        ..routed(3, 0, &[])
    });
    let uplink = |via: Option<&str>| Route::Unicast {
        port: PortId(3),
        via: via.map(ip),
        mtu: None,
    };
    e.set_route(VrfId(0), "192.168.1.0/24".parse().unwrap(), uplink(None));
    e.set_route(
        VrfId(0),
        "0.0.0.0/0".parse().unwrap(),
        uplink(Some("192.168.1.1")),
    );
    e.set_route(VrfId(0), "10.0.0.0/24".parse().unwrap(), Route::Unreachable);
    e.set_route(VrfId(0), "fd00::/64".parse().unwrap(), Route::Blackhole);
    e.set_neighbor(VrfId(0), PortId(3), ip("192.168.1.1"), mac(99));
    let tables = e.build().unwrap();
    assert_eq!(tables.generation(), 2);

    let Hop::Adjacency(a) = hop(&tables, "10.0.0.2") else {
        panic!()
    };
    assert_eq!(
        (a.port, a.dst_mac, a.src_mac, a.mtu),
        (PortId(2), mac(2), gateway().mac, 1500)
    );
    let Hop::Adjacency(a6) = hop(&tables, "fd00::2") else {
        panic!()
    };
    assert_eq!(a6.port, PortId(2));
    let Hop::Adjacency(out) = hop(&tables, "8.8.8.8") else {
        panic!()
    };
    assert_eq!((out.port, out.dst_mac, out.mtu), (PortId(3), mac(99), 9000));
    assert_eq!(tables.adjacency(out.index), Some(out));
    assert_eq!(
        hop(&tables, "192.168.1.2"),
        Hop::Drop(Reason::NeighborUnresolved)
    );
    assert_eq!(
        hop(&tables, "10.0.0.9"),
        Hop::Drop(Reason::RouteUnreachable)
    );
    assert_eq!(hop(&tables, "fd00::9"), Hop::Drop(Reason::RouteBlackhole));
    assert_eq!(hop(&tables, "fd01::9"), Hop::Drop(Reason::NoRoute));
    let owner = tables.neighbor_owner(VrfId(0), ip("fd00::2")).unwrap();
    assert_eq!(&*owner.name, "pod-2");
    assert!(tables.neighbor_owner(VrfId(0), ip("10.0.0.9")).is_none());
    assert!(tables.neighbor_owner(VrfId(1), ip("10.0.0.2")).is_none());
    assert_eq!(tables.counts().routes, 4);
}
