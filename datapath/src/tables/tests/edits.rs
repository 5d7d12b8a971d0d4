// SPDX-License-Identifier: Apache-2.0
//! Any sequence of edits: as the model, as tables built from scratch, and without trace of what is gone.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::basic::{gateway, mac};
use super::changes::{change, group, policies, start};
use super::model::{Change, Model};
use super::stamps::check_stamps;
use crate::ids::{IdentityId, PortId, RuleId, VrfId};
use crate::tables::*;
use crate::wire::FlowKey;

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
            _ => unreachable!("the model has ports of this node alone"),
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
        let policy = policies().iter().position(|policy| policy.is(&p.policy));
        if let Some(policy) = policy.filter(|policy| *policy > 0) {
            model.policies.insert(p.id, policy);
        }
    }
    model.routes = tables.routes().into_iter().collect();
    model.neighbors = tables.neighbors().into_iter().collect();
    for segment in tables.segments() {
        model.segments.insert(segment.id(), (*segment.spec).clone());
        model.fdb.extend(segment.entries());
    }
    as_set_peers(tables, &mut model);
    model
}

fn as_set_peers(tables: &Tables, model: &mut Model) {
    let peers = &tables.peers;
    peers.addresses.visit(&mut |prefix, identity| {
        model.peers.insert(prefix.addr(), *identity);
    });
    peers.groups.visit(&mut |number, _, identity| {
        let number = u16::try_from(number).unwrap();
        model.groups.insert(group(number), *identity);
    });
    peers.identities.visit(&mut |id, _, identity| {
        let id = IdentityId(id);
        model.identities.insert(id, identity.class);
        let has = model.identified().filter(|of| **of == id).count();
        assert_eq!(identity.users as usize, has);
    });
    peers.cidrs.visit(&mut |prefix, class| {
        model.cidrs.insert(prefix, *class);
    });
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
        let key = FlowKey::from_ip(VrfId(0), 6, address, address, 1, 80).src;
        assert_eq!(tables.peer(&key), model.peer(address), "{address}");
        for group in [1, 2, 3, u16::MAX].map(group) {
            let got = tables.marked_peer(group, &key);
            assert_eq!(got, model.marked_peer(group, address), "{address}");
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

/// Tables and what they should be.
pub(super) type Version = (Tables, Model);

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
                check_stamps(&versions, (&next, &expected));
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
