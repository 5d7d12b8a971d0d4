// SPDX-License-Identifier: Apache-2.0
//! Any sequence of edits: as the model, as tables built from scratch, and without trace of what is gone.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::basic::{gateway, mac, routed};
use super::model::{Change, Model};
use crate::ids::{PortId, RuleId, VrfId, WorkerId};
use crate::tables::*;
use crate::wire::FlowKey;

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

fn route_change() -> impl Strategy<Value = Change> {
    let prefix = (address(), 0..=32u8, any::<bool>()).prop_map(|(a, cut, host)| {
        let most: u8 = if a.is_ipv4() { 32 } else { 128 };
        let length = if host { most } else { most.saturating_sub(cut) };
        IpNet::new_assert(a, length).trunc()
    });
    let via = proptest::option::of(address());
    let mtu = proptest::option::weighted(0.3, prop_oneof![Just(1400), Just(60_000)]);
    let unicast = (port(), via, mtu).prop_map(|(port, via, mtu)| Route::Unicast { port, via, mtu });
    let route = prop_oneof![
        6 => unicast,
        1 => Just(Route::Blackhole),
        1 => Just(Route::Unreachable),
        1 => Just(Route::Prohibit),
    ];
    (vrf(), prefix, proptest::option::weighted(0.7, route)).prop_map(|(vrf, prefix, mut route)| {
        // A next hop of the other family is wrong by itself, which other tests show.
        if let Some(Route::Unicast { via, .. }) = &mut route {
            *via = via.filter(|v| v.is_ipv4() == prefix.addr().is_ipv4());
        }
        Change::Route(RouteKey { vrf, prefix }, route)
    })
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

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => port_change(),
        5 => route_change(),
        3 => neighbor_change(),
        2 => segment_change(),
        2 => fdb_change(),
        3 => rule_change(),
    ]
}

fn as_set(tables: &Tables) -> Model {
    let mut model = Model::default();
    for p in tables.ports() {
        let kind = match &p.kind {
            PortKind::Routed { addresses } => PortKindSpec::Routed {
                vrf: p.vrf,
                addresses: addresses.iter().collect(),
            },
            PortKind::L2 {
                segment,
                vlan,
                fixed_mac,
            } => PortKindSpec::L2 {
                segment: *segment,
                vlan: vlan.clone(),
                fixed_mac: *fixed_mac,
            },
        };
        let spec = PortSpec {
            id: p.id,
            name: p.name.to_string(),
            worker: p.worker,
            mac: p.mac,
            mtu: p.mtu,
            kind,
            check_source: p.check_source,
            node: p.node,
            egress_default: p.egress.default_action(),
            ingress_default: p.ingress.default_action(),
        };
        model.ports.insert(p.id, spec);
        for (direction, set) in [
            (Direction::Egress, &p.egress),
            (Direction::Ingress, &p.ingress),
        ] {
            for entry in set.rules() {
                let key = (p.id, direction, entry.rule.name.clone());
                model.rules.insert(key, (*entry.rule).clone());
            }
        }
    }
    model.routes = tables.routes().into_iter().collect();
    model.neighbors = tables.neighbors().into_iter().collect();
    for segment in tables.segments() {
        model.segments.insert(segment.id(), (*segment.spec).clone());
        model.fdb.extend(segment.entries());
    }
    model
}

fn check_lookups(tables: &Tables, model: &Model) {
    for address in model.probes() {
        for vrf in [VrfId(0), VrfId(1), VrfId(5)] {
            let key = FlowKey::from_ip(vrf, 6, address, address, 1, 80);
            let got = match tables.route(vrf, &key) {
                Hop::Adjacency(a) => {
                    assert_eq!(a.src_mac, gateway().mac);
                    assert_eq!(tables.adjacency(a.index), Some(a));
                    Ok((a.port, a.dst_mac, a.mtu))
                }
                Hop::Drop(reason) => Err(reason),
            };
            assert_eq!(got, model.hop(vrf, address), "{address} in VRF {vrf}");
            let owner = tables.neighbor_owner(vrf, address).map(|p| p.id);
            assert_eq!(owner, model.owner(vrf, address).map(|p| p.id));
        }
    }
    for segment in tables.segments() {
        let members: BTreeSet<PortId> = segment.members().iter().map(|m| m.port).collect();
        let in_it = |p: &&PortSpec| matches!(&p.kind, PortKindSpec::L2 { segment: s, .. } if *s == segment.id());
        assert_eq!(
            members,
            model.ports.values().filter(in_it).map(|p| p.id).collect()
        );
        for (vlan, last) in [0, 7, 8]
            .into_iter()
            .flat_map(|v| (1..6).map(move |l| (v, l)))
        {
            let expected = model.fixed(segment.id(), vlan, mac(last));
            assert_eq!(segment.fixed(vlan, mac(last)), expected);
        }
    }
}

/// What must not move while it stays: adjacencies, and ids of rules with since when.
type Stable = (
    BTreeMap<(PortId, VrfId, IpAddr, Option<u32>), u32>,
    BTreeMap<String, (RuleId, u64, Rule)>,
);

fn stable(tables: &Tables) -> Stable {
    let mut adjacencies = BTreeMap::new();
    for (index, adjacency) in tables.adjacencies.iter() {
        assert_eq!(index, adjacency.index);
        let link = tables.links.get(adjacency.link).unwrap();
        let key = (adjacency.port, link.vrf, adjacency.address, link.mtu);
        assert_eq!(
            adjacencies.insert(key, index),
            None,
            "one adjacency for one purpose"
        );
    }
    let mut rules = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for port in tables.ports() {
        for (direction, set) in [("e", &port.egress), ("i", &port.ingress)] {
            for entry in set.rules() {
                assert!(ids.insert(entry.id), "an id of its own");
                let key = format!("{} {direction} {}", port.id, entry.rule.name);
                rules.insert(key, (entry.id, entry.since, (*entry.rule).clone()));
            }
        }
    }
    assert_eq!(ids.len(), tables.counts().rules);
    (adjacencies, rules)
}

fn check_stable(old: &Tables, new: &Tables, oldest: u64) {
    let ((old_adjacencies, old_rules), (new_adjacencies, new_rules)) = (stable(old), stable(new));
    let taken: BTreeSet<u32> = old_adjacencies.values().copied().collect();
    for (key, index) in &new_adjacencies {
        match old_adjacencies.get(key) {
            Some(old) => assert_eq!(old, index),
            None => assert!(!taken.contains(index), "used again too soon"),
        }
    }
    let taken: BTreeSet<RuleId> = old_rules.values().map(|(id, ..)| *id).collect();
    for (key, new_rule) in &new_rules {
        match old_rules.get(key).filter(|old| old.2 == new_rule.2) {
            Some(old) => assert_eq!(old, new_rule),
            None => {
                assert!(!taken.contains(&new_rule.0), "used again too soon");
                assert_eq!(new_rule.1, new.generation());
                assert!(oldest <= new_rule.1);
            }
        }
    }
}

/// Tables, what they should be, and the oldest generation in use when they were made.
type Version = (Tables, Model);

fn check(batches: &[(Vec<Change>, u64)]) {
    let mut versions: Vec<Version> = vec![(Tables::new(gateway()), Model::default())];
    for (changes, back) in batches {
        let (tables, model) = versions.last().unwrap().clone();
        let oldest = tables.generation().saturating_sub(*back).max(1);
        let mut edit = Edit::new(&tables, oldest);
        changes.iter().for_each(|change| change.apply(&mut edit));
        match (edit.build(), model.changed(changes)) {
            (Ok(next), Some(expected)) => {
                assert_eq!(as_set(&next), expected);
                check_lookups(&next, &expected);
                check_stable(&tables, &next, oldest);
                versions.push((next, expected));
            }
            (Err(_), None) => {}
            (Ok(_), None) => panic!("not refused: {changes:#?}"),
            (Err(error), Some(_)) => panic!("refused: {error}: {changes:#?}"),
        }
    }
    for (tables, model) in &versions {
        assert_eq!(&as_set(tables), model, "versions do not change later");
        check_lookups(tables, model);
    }
    let (last, model) = versions.last().unwrap();
    let mut edit = Edit::new(&Tables::new(gateway()), 1);
    model
        .changes()
        .iter()
        .for_each(|change| change.apply(&mut edit));
    let fresh = edit.build().unwrap();
    assert_eq!(fresh.counts(), last.counts());
    assert_eq!(
        stable(&fresh).0.keys().collect::<Vec<_>>(),
        stable(last).0.keys().collect::<Vec<_>>()
    );
    assert_eq!(fresh.links.len(), last.links.len());
    let hops = |t: &Tables| {
        let mut all = Vec::new();
        t.vrfs
            .visit(&mut |vrf, _, v| v.next_hops.visit(&mut |p, h| all.push((vrf, p, h.len()))));
        all
    };
    assert_eq!(hops(&fresh), hops(last));
}

/// Three routed ports, and two in a segment.
fn start() -> Vec<Change> {
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
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn edits_as_model_and_as_built_from_scratch(
        batches in proptest::collection::vec((proptest::collection::vec(change(), 1..5), 0..3u64), 1..40),
    ) {
        let mut batches = batches;
        batches.insert(0, (start(), 0));
        check(&batches);
    }
}
