// SPDX-License-Identifier: Apache-2.0
//! The node these tests run on: pods 1 to 3 routed, 4 with a small MTU, 9 an uplink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{Action, Edit, PortKindSpec, PortSpec, Route};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId, WorkerId};

use crate::frames::{self, V4, V6};
use crate::world::{GATEWAY_MAC, Out, World, gateway};

pub(crate) const UPLINK: u16 = 9;

pub(crate) fn mac(n: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8])
}

pub(crate) fn v4(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8)
}

pub(crate) fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
}

pub(crate) fn pod(n: u16) -> PortSpec {
    PortSpec {
        id: PortId(n),
        name: format!("pod-{n}"),
        worker: WorkerId(0),
        mac: mac(n),
        mtu: 1500,
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: vec![v4(n).into(), v6(n).into()],
        },
        check_source: true,
        node: false,
        egress_default: Action::Allow,
        ingress_default: Action::Allow,
    }
}

/// The node's NIC, on which the node has these addresses.
pub(crate) fn nic(
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    masquerade: Option<Vec<IpNet>>,
) -> PortSpec {
    PortSpec {
        name: "uplink".to_owned(),
        mac,
        check_source: false,
        kind: PortKindSpec::Uplink {
            vrf: VrfId(0),
            addresses,
            masquerade,
        },
        ..pod(UPLINK)
    }
}

pub(crate) fn via_uplink(next_hop: IpAddr) -> Route {
    Route::Unicast {
        port: PortId(UPLINK),
        via: Some(next_hop),
        mtu: None,
    }
}

/// Ports on workers in turn.
pub(crate) fn node_of(workers: u8, icmp: Rate) -> World {
    let mut world = World::new(workers, gateway(), icmp);
    world.edit(|e| {
        for n in [1, 2, 3, 4, UPLINK] {
            let mut port = pod(n);
            port.worker = WorkerId(n as u8 % workers);
            match n {
                4 => port.mtu = 1280,
                UPLINK => {
                    port.check_source = false;
                    port.kind = PortKindSpec::Routed {
                        vrf: VrfId(0),
                        addresses: Vec::new(),
                    };
                }
                _ => {}
            }
            e.set_port(port);
        }
        routes(e);
    });
    world
}

fn routes(e: &mut Edit) {
    let hop = |text: &str| text.parse::<IpAddr>().unwrap();
    let net = |text: &str| text.parse().unwrap();
    e.set_neighbor(VrfId(0), PortId(UPLINK), hop("192.0.2.1"), mac(0x901));
    e.set_route(VrfId(0), net("0.0.0.0/0"), via_uplink(hop("192.0.2.1")));
    e.set_route(VrfId(0), net("198.51.100.0/24"), Route::Blackhole);
    e.set_route(VrfId(0), net("198.51.101.0/24"), Route::Unreachable);
    e.set_route(VrfId(0), net("198.51.102.0/24"), Route::Prohibit);
    let on_link = Route::Unicast {
        port: PortId(UPLINK),
        via: None,
        mtu: None,
    };
    e.set_route(VrfId(0), net("198.51.103.0/24"), on_link);
}

pub(crate) fn node() -> World {
    node_of(1, Rate::UNLIMITED)
}

/// A frame of pod `from` to the gateway's MAC.
pub(crate) fn frame4(from: u16, packet: &V4) -> Vec<u8> {
    frames::ethernet(GATEWAY_MAC, mac(from), 0x0800, &packet.bytes())
}

/// A frame of pod `from` to the gateway's MAC.
pub(crate) fn frame6(from: u16, packet: &V6) -> Vec<u8> {
    frames::ethernet(GATEWAY_MAC, mac(from), 0x86dd, &packet.bytes())
}

/// UDP between IPv4 addresses, 100 bytes of data.
pub(crate) fn udp4(src: Ipv4Addr, dst: Ipv4Addr, dport: u16) -> V4 {
    let data = frames::udp(src.into(), dst.into(), 4000, dport, &[7; 100]);
    V4::new(src, dst, frames::UDP, data)
}

/// UDP between IPv6 addresses, 100 bytes of data.
pub(crate) fn udp6(src: Ipv6Addr, dst: Ipv6Addr, dport: u16) -> V6 {
    let data = frames::udp(src.into(), dst.into(), 4000, dport, &[7; 100]);
    V6::new(src, dst, frames::UDP, data)
}

/// The same packet as it leaves to `mac`: one hop less.
pub(crate) fn routed4(packet: &V4, to: MacAddr) -> Vec<u8> {
    let packet = V4 {
        ttl: packet.ttl - 1,
        ..packet.clone()
    };
    frames::ethernet(to, GATEWAY_MAC, 0x0800, &packet.bytes())
}

/// The same packet as it leaves to `mac`: one hop less.
pub(crate) fn routed6(packet: &V6, to: MacAddr) -> Vec<u8> {
    let packet = V6 {
        hop_limit: packet.hop_limit - 1,
        ..packet.clone()
    };
    frames::ethernet(to, GATEWAY_MAC, 0x86dd, &packet.bytes())
}

pub(crate) fn dropped(reason: &'static str) -> Vec<Out> {
    vec![Out::Dropped(reason)]
}

pub(crate) fn sent(port: u16, frame: Vec<u8>) -> Vec<Out> {
    vec![Out::Sent(port, frame)]
}

/// The one frame that was sent.
pub(crate) fn only(out: Vec<Out>, port: u16) -> Vec<u8> {
    match <[Out; 1]>::try_from(out) {
        Ok([Out::Sent(p, frame)]) if p == port => frame,
        other => panic!("not one frame out of port {port}: {other:?}"),
    }
}
