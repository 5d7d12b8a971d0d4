// SPDX-License-Identifier: Apache-2.0
//! Changes to draw from, few enough objects that they meet often.
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use proptest::prelude::*;

use super::basic::{gateway, mac, routed};
use super::model::Change;
use crate::ids::{CidrClass, GroupId, IdentityId, PeerClass, PortId, VrfId, WorkerId};
use crate::tables::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (0..2u8, 1..5u8).prop_map(|(a, b)| IpAddr::from([10, 0, a, b])),
        2 => (1..5u16).prop_map(|b| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, b])),
    ]
}

fn vrf() -> impl Strategy<Value = VrfId> {
    prop_oneof![4 => Just(VrfId(0)), 1 => Just(VrfId(1))]
}

fn port() -> impl Strategy<Value = PortId> {
    (0..5u16).prop_map(PortId)
}

fn vlan() -> impl Strategy<Value = Vlan> {
    prop_oneof![
        Just(Vlan::None),
        Just(Vlan::Access(7)),
        Just(Vlan::Trunk(VlanSet::new([7, 8]).unwrap())),
    ]
}

fn kind() -> impl Strategy<Value = PortKindSpec> {
    let addresses = proptest::collection::btree_set(address(), 0..3);
    prop_oneof![
        4 => (vrf(), addresses).prop_map(|(vrf, addresses)| PortKindSpec::Routed {
            vrf,
            addresses: addresses.into_iter().collect(),
        }),
        2 => (segment(), vlan(), any::<bool>()).prop_map(|(segment, vlan, fixed_mac)| PortKindSpec::L2 {
            segment,
            vlan,
            fixed_mac,
        }),
    ]
}

fn segment() -> impl Strategy<Value = VrfId> {
    prop_oneof![1 => Just(VrfId(1)), 3 => Just(VrfId(5))]
}

fn port_change() -> impl Strategy<Value = Change> {
    let spec = (
        port(),
        0..20u8,
        1..6u8,
        prop_oneof![Just(1500), Just(9000)],
        kind(),
        any::<bool>(),
    );
    (spec, proptest::bool::weighted(0.85)).prop_map(|((id, name, last, mtu, kind, deny), there)| {
        let spec = PortSpec {
            id,
            // The same as another port's now and then.
            name: format!("pod-{}", if name == 0 { 0 } else { id.0 }),
            worker: WorkerId(last % 2),
            mac: mac(last),
            mtu,
            kind,
            check_source: !deny,
            node: last % 3 == 0,
            egress_default: if deny { Action::Deny } else { Action::Allow },
            ingress_default: Action::Allow,
        };
        Change::Port(id, there.then_some(spec))
    })
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0..=32u8, any::<bool>()).prop_map(|(a, cut, host)| {
        let most: u8 = if a.is_ipv4() { 32 } else { 128 };
        let length = if host { most } else { most.saturating_sub(cut) };
        IpNet::new_assert(a, length).trunc()
    })
}

fn route_change() -> impl Strategy<Value = Change> {
    let via = proptest::option::of(address());
    let mtu = proptest::option::weighted(0.3, prop_oneof![Just(1400), Just(60_000)]);
    let unicast = (port(), via, mtu).prop_map(|(port, via, mtu)| Route::Unicast { port, via, mtu });
    let route = prop_oneof![
        6 => unicast,
        1 => Just(Route::Blackhole),
        1 => Just(Route::Unreachable),
        1 => Just(Route::Prohibit),
    ];
    (vrf(), prefix(), proptest::option::weighted(0.7, route)).prop_map(
        |(vrf, prefix, mut route)| {
            // A next hop of the other family is wrong by itself, which other tests show.
            if let Some(Route::Unicast { via, .. }) = &mut route {
                *via = via.filter(|v| v.is_ipv4() == prefix.addr().is_ipv4());
            }
            Change::Route(RouteKey { vrf, prefix }, route)
        },
    )
}

fn neighbor_change() -> impl Strategy<Value = Change> {
    let address = address().prop_filter("gateway", |a| !gateway().owns(*a));
    (
        vrf(),
        port(),
        address,
        proptest::option::weighted(0.7, 20..23u8),
    )
        .prop_map(|(vrf, port, address, last)| {
            Change::Neighbor(NeighborKey { vrf, port, address }, last.map(mac))
        })
}

fn segment_change() -> impl Strategy<Value = Change> {
    (segment(), proptest::bool::weighted(0.8), 1..5u32).prop_map(|(id, there, max_entries)| {
        let spec = SegmentSpec {
            id,
            name: format!("segment-{id}"),
            ageing_seconds: 300,
            learn: true,
            flood_unknown: true,
            unknown_unicast_limit: 10,
            broadcast_limit: 10,
            max_entries,
        };
        Change::Segment(id, there.then_some(spec))
    })
}

fn fdb_change() -> impl Strategy<Value = Change> {
    let key = (segment(), prop_oneof![Just(0), Just(7), Just(8)], 1..6u8);
    (key, proptest::option::weighted(0.7, port())).prop_map(|((segment, vlan, last), port)| {
        Change::Fdb(
            FdbKey {
                segment,
                vlan,
                mac: mac(last),
            },
            port,
        )
    })
}

fn rule_change() -> impl Strategy<Value = Change> {
    (
        port(),
        any::<bool>(),
        0..3u8,
        proptest::option::weighted(0.7, 0..3u32),
    )
        .prop_map(|(port, egress, name, priority)| {
            let direction = if egress {
                Direction::Egress
            } else {
                Direction::Ingress
            };
            let name = format!("rule-{name}");
            let rule = priority.map(|priority| Rule {
                name: name.clone(),
                priority,
                source: None,
                destination: None,
                protocol: Some(6),
                ports: Some(80..=81),
                action: Action::Deny,
            });
            Change::Rule(port, direction, name, rule)
        })
}

fn identity() -> impl Strategy<Value = IdentityId> {
    (0..4u32).prop_map(IdentityId)
}

fn peer_change() -> impl Strategy<Value = Change> {
    (address(), proptest::option::weighted(0.7, identity()))
        .prop_map(|(address, identity)| Change::Peer(address, identity))
}

fn identity_change() -> impl Strategy<Value = Change> {
    let class = (0..3u32).prop_map(PeerClass);
    (identity(), proptest::option::weighted(0.85, class))
        .prop_map(|(identity, class)| Change::Identity(identity, class))
}

fn cidr_change() -> impl Strategy<Value = Change> {
    let class = (0..3u32).prop_map(CidrClass);
    (prefix(), proptest::option::weighted(0.7, class))
        .prop_map(|(prefix, class)| Change::Cidr(prefix, class))
}

pub(super) fn group(number: u16) -> GroupId {
    GroupId::new(number).unwrap()
}

fn group_change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![Just(1u16), Just(2), Just(u16::MAX)];
    (number, proptest::option::weighted(0.7, identity()))
        .prop_map(|(number, identity)| Change::Group(group(number), identity))
}

/// Policies by number: none, not known yet, and compiled ones.
pub(super) fn policies() -> &'static [PortPolicy] {
    static ALL: LazyLock<Vec<PortPolicy>> = LazyLock::new(|| {
        let direction = |isolated| {
            let policy = DirectionPolicy::new(Vec::new(), isolated, &[], &[]);
            Arc::new(policy.unwrap())
        };
        let (open, closed) = (direction(false), direction(true));
        let judged =
            |egress: &Arc<DirectionPolicy>, ingress: &Arc<DirectionPolicy>| PortPolicy::Judged {
                egress: egress.clone(),
                ingress: ingress.clone(),
            };
        vec![
            PortPolicy::None,
            PortPolicy::Pending,
            judged(&open, &closed),
            judged(&closed, &closed),
        ]
    });
    &ALL
}

fn policy_change() -> impl Strategy<Value = Change> {
    (port(), 0..policies().len()).prop_map(|(port, policy)| Change::Policy(port, policy))
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => port_change(),
        5 => route_change(),
        3 => neighbor_change(),
        2 => segment_change(),
        2 => fdb_change(),
        3 => rule_change(),
        2 => policy_change(),
        4 => peer_change(),
        2 => identity_change(),
        1 => cidr_change(),
        1 => group_change(),
    ]
}

/// Three routed ports, two in a segment, and three identities.
pub(super) fn start() -> Vec<Change> {
    let segment = SegmentSpec {
        id: VrfId(5),
        name: "segment-5".into(),
        ageing_seconds: 300,
        learn: true,
        flood_unknown: true,
        unknown_unicast_limit: 10,
        broadcast_limit: 10,
        max_entries: 4,
    };
    let l2 = |vlan| PortKindSpec::L2 {
        segment: VrfId(5),
        vlan,
        fixed_mac: false,
    };
    let trunk = l2(Vlan::Trunk(VlanSet::new([7, 8]).unwrap()));
    let untagged = l2(Vlan::None);
    let ports = [
        routed(0, 0, &["10.0.0.1"]),
        routed(1, 0, &["10.0.0.2", "fd00::2"]),
        routed(2, 1, &["10.0.0.1"]),
        PortSpec {
            kind: trunk,
            ..routed(3, 0, &[])
        },
        PortSpec {
            kind: untagged,
            ..routed(4, 0, &[])
        },
    ];
    let mut all = vec![Change::Segment(VrfId(5), Some(segment))];
    all.extend(ports.into_iter().map(|p| Change::Port(p.id, Some(p))));
    all.extend((0..3).map(|n| Change::Identity(IdentityId(n), Some(PeerClass(n)))));
    all
}
