// SPDX-License-Identifier: Apache-2.0
//! Random tables.

use std::net::{IpAddr, Ipv4Addr};

use podswitch_datapath::tables::{
    Action, Direction, PortKindSpec, PortSpec, Route, Rule, SegmentSpec, Vlan, VlanSet,
};
use podswitch_datapath::{PortId, WorkerId};

use super::{PORTS, Random, SEGMENTS, VRFS, address, mac, pod_v4, pod_v6};
use crate::setup::Setup;
use crate::world::gateway;

fn rule(r: &mut Random, name: usize) -> Rule {
    let v6 = r.once_in(2);
    let net = |r: &mut Random| {
        let address = address(r, v6);
        let most = if v6 { 128 } else { 32 };
        let len = if r.once_in(2) {
            most
        } else {
            r.below(most + 1) as u8 as u64
        };
        ipnet::IpNet::new(address, len as u8)
            .expect("a length")
            .trunc()
    };
    let low = *r.of(&PORTS);
    let protocol = (!r.once_in(3)).then(|| *r.of(&[1, 6, 17, 58, 132, 99]));
    let ports = (protocol.is_none_or(|p| matches!(p, 6 | 17 | 132)) && r.once_in(2))
        .then(|| low..=low.saturating_add(r.below(500) as u16));
    Rule {
        name: format!("rule-{name}"),
        priority: r.below(3) as u32,
        source: r.once_in(3).then(|| net(r)),
        destination: r.once_in(3).then(|| net(r)),
        protocol,
        ports,
        action: if r.once_in(2) {
            Action::Allow
        } else {
            Action::Deny
        },
    }
}

fn action(r: &mut Random) -> Action {
    if r.once_in(4) {
        Action::Deny
    } else {
        Action::Allow
    }
}

/// Tables that hold together.
pub(crate) fn setup(r: &mut Random, workers: u8) -> Setup {
    loop {
        let setup = try_setup(r, workers);
        if setup.is_valid() {
            return setup;
        }
    }
}

fn try_setup(r: &mut Random, workers: u8) -> Setup {
    let mut gateway = gateway();
    if r.once_in(2) {
        gateway.v4 = [10, 0, 255, 1].into();
        gateway.v6 = "fd00::ffff".parse().expect("an address");
    }
    let mut setup = Setup {
        gateway,
        ports: Vec::new(),
        routes: Vec::new(),
        neighbors: Vec::new(),
        segments: Vec::new(),
        fdb: Vec::new(),
        rules: Vec::new(),
    };
    for id in SEGMENTS {
        setup.segments.push(SegmentSpec {
            id,
            name: format!("segment-{id}"),
            ageing_seconds: 1 + r.below(3) as u32,
            learn: !r.once_in(6),
            flood_unknown: !r.once_in(5),
            unknown_unicast_limit: 1_000_000,
            broadcast_limit: 1_000_000,
            max_entries: if r.once_in(3) {
                1 + r.below(4) as u32
            } else {
                1000
            },
        });
    }
    for n in 1..=7 {
        let port = port(r, n, workers);
        setup.ports.push(port);
    }
    for _ in 0..r.below(6) {
        fib(r, &mut setup);
    }
    for n in 0..r.below(12) {
        let port = PortId(1 + r.below(7) as u16);
        let direction = if r.once_in(2) {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let rule = rule(r, n as usize);
        setup.rules.push((port, direction, rule));
    }
    for n in 0..r.below(3) {
        let (port, vlan) = (PortId(1 + r.below(7) as u16), *r.of(&[0, 10, 20]));
        setup
            .fdb
            .push((*r.of(&SEGMENTS), vlan, mac(0x20 + n), port));
    }
    setup
}

fn port(r: &mut Random, n: u64, workers: u8) -> PortSpec {
    let kind = if n <= 4 || r.once_in(4) {
        let mut addresses: Vec<IpAddr> = vec![pod_v4(n).into(), pod_v6(n).into()];
        if r.once_in(4) {
            addresses.push(pod_v4(n + 100).into());
        }
        if r.once_in(6) {
            addresses.remove(0);
        }
        PortKindSpec::Routed {
            vrf: if r.once_in(6) { VRFS[1] } else { VRFS[0] },
            addresses,
        }
    } else {
        let vlan = match r.below(4) {
            0 => Vlan::None,
            1 => Vlan::Access(*r.of(&[10, 20])),
            _ => Vlan::Trunk(
                VlanSet::new([10, 20].into_iter().take(1 + r.below(2) as usize)).expect("VLANs"),
            ),
        };
        PortKindSpec::L2 {
            segment: SEGMENTS[usize::from(r.once_in(5))],
            vlan,
            fixed_mac: r.once_in(3),
        }
    };
    PortSpec {
        id: PortId(n as u16),
        name: format!("port-{n}"),
        worker: WorkerId(r.below(workers.into()) as u8),
        mac: mac(n),
        mtu: *r.of(&[1500, 1500, 1280, 9000, 65535]),
        kind,
        check_source: !r.once_in(3),
        node: false,
        egress_default: action(r),
        ingress_default: action(r),
    }
}

fn fib(r: &mut Random, setup: &mut Setup) {
    let v6 = r.once_in(2);
    let nets: &[&str] = match v6 {
        false => &[
            "0.0.0.0/0",
            "198.51.100.0/24",
            "198.51.101.0/24",
            "198.51.0.0/16",
            "203.0.113.0/24",
            "10.0.0.2/32",
            "203.0.113.1/32",
        ],
        true => &[
            "::/0",
            "2001:db8::/32",
            "2001:db8:51::/48",
            "2001:db8:51::/64",
            "2001:db8:51:1::/64",
            "fd00::2/128",
        ],
    };
    let net = r.of(nets).parse().expect("a prefix");
    let vrf = VRFS[usize::from(r.once_in(4))];
    let port = PortId(1 + r.below(7) as u16);
    let hop: IpAddr = match v6 {
        false => Ipv4Addr::new(192, 0, 2, 1).into(),
        true => "2001:db8:ff::1".parse().expect("an address"),
    };
    let route = match r.below(6) {
        0 => Route::Blackhole,
        1 => Route::Unreachable,
        2 => Route::Prohibit,
        3 => Route::Unicast {
            port,
            via: None,
            mtu: None,
        },
        _ => Route::Unicast {
            port,
            via: Some(hop),
            mtu: r.once_in(2).then(|| *r.of(&[1280, 1400, 576])),
        },
    };
    setup.routes.retain(|(v, n, _)| (*v, *n) != (vrf, net));
    setup.routes.push((vrf, net, route));
    setup
        .neighbors
        .retain(|n| (n.0, n.1, n.2) != (vrf, port, hop));
    setup.neighbors.push((vrf, port, hop, mac(0x90)));
    if r.once_in(3) {
        let station = address(r, v6);
        setup
            .neighbors
            .retain(|n| (n.0, n.1, n.2) != (vrf, port, station));
        setup.neighbors.push((vrf, port, station, mac(0x91)));
    }
}
