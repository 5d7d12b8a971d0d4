// SPDX-License-Identifier: Apache-2.0
//! Stamps: whatever a connection was judged by cannot change without one of its stamps growing, and what has nothing to
//! do with it lets them be.
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::basic::{edit, gateway, ip, mac, routed};
use super::changes::policies;
use super::edits::Version;
use super::model::Model;
use crate::ids::{CidrClass, IdentityId, PeerClass, PortId, VrfId, WorkerId};
use crate::tables::*;
use crate::wire::FlowKey;
use crate::wire::flow_key::map_v4;

fn key(address: IpAddr) -> [u8; 16] {
    FlowKey::from_ip(VrfId(0), 6, address, address, 0, 0).src
}

/// The way to an address: port and worker included.
fn way(model: &Model, vrf: VrfId, address: IpAddr) -> impl PartialEq + use<> {
    let hop = model.hop(vrf, address);
    hop.map(|hop| (hop, model.ports.get(&hop.0).map(|p| p.worker)))
}

/// What a port is, with its rules and policy.
fn port(model: &Model, id: PortId) -> impl PartialEq + use<> {
    let rules = model.rules.iter().filter(|((port, ..), _)| *port == id);
    let rules: Vec<_> = rules
        .map(|(key, rule)| (key.clone(), rule.clone()))
        .collect();
    let policy = model.policies.get(&id).copied();
    (model.ports.get(&id).cloned(), rules, policy)
}

/// Of the newest tables, those before them first to last.
pub(super) fn check_stamps(before: &[Version], (new, now): (&Tables, &Model)) {
    let (old, was) = before.last().unwrap();
    check_common((old, was), (new, now));
    for entry in new.ports() {
        let of = |(tables, _): &Version| tables.port(entry.id).map(|p| p.stamp);
        let latest = before.iter().filter_map(of).max();
        let same = old.port(entry.id).is_some() && port(was, entry.id) == port(now, entry.id);
        match same {
            true => assert_eq!(Some(entry.stamp), latest),
            false => assert!(Some(entry.stamp) > latest, "port {}", entry.id),
        }
    }
    let probes: BTreeSet<IpAddr> = was.probes().union(&now.probes()).copied().collect();
    for address in probes {
        let stamps = |tables: &Tables| (tables.common_stamp(), tables.address_stamp(&key(address)));
        let (before, after) = (stamps(old), stamps(new));
        assert!(after.1 >= before.1);
        if was.peer(address) != now.peer(address) {
            assert!(after > before, "{address}");
        }
        if was.peers.get(&address) != now.peers.get(&address) {
            assert!(after.1 > before.1, "{address}");
        }
        if was.peers == now.peers {
            assert_eq!(after.1, before.1, "{address}");
        }
    }
}

fn check_common((old, was): (&Tables, &Model), (new, now): (&Tables, &Model)) {
    let mut probes = was.probes().into_iter().chain(now.probes());
    let differs = |address| {
        [VrfId(0), VrfId(1), VrfId(5)]
            .into_iter()
            .any(|vrf| way(was, vrf, address) != way(now, vrf, address))
    };
    // A neighbor's MAC address is looked up for every packet.
    let same_neighbors = was.neighbors == now.neighbors;
    if same_neighbors && probes.any(differs) {
        assert!(new.common_stamp() > old.common_stamp());
    }
    // Names, checks, rules, policies, peers and new identities are nobody else's business.
    let rest = |model: &Model| {
        let mut rest = model.clone();
        for port in rest.ports.values_mut() {
            port.name = String::new();
            (port.check_source, port.node) = (false, false);
            (port.egress_default, port.ingress_default) = Default::default();
        }
        rest.neighbors.clear();
        rest.rules.clear();
        rest.policies.clear();
        rest.peers.clear();
        rest.identities.clear();
        rest
    };
    let class = |model: &Model, id| model.identities.get(id).copied();
    let mut known = was.peers.values();
    let other = |id| class(now, id).is_some_and(|now| Some(now) != class(was, id));
    let everybody = rest(was) != rest(now) || known.any(other);
    let grew = new.common_stamp() > old.common_stamp();
    // One that goes may take along what connections know its adjacency by.
    assert!(grew == everybody || grew && !same_neighbors);
    assert!(new.common_stamp() >= old.common_stamp());
}

/// A node with two pods and an uplink, and a peer elsewhere.
fn node() -> Tables {
    let mut e = edit(&Tables::new(gateway()));
    e.set_port(routed(1, 0, &["10.0.0.1"]));
    e.set_port(routed(2, 0, &["10.0.0.2"]));
    e.set_port(routed(3, 0, &[]));
    e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(99));
    e.set_policy(PortId(1), policies()[2].clone());
    e.set_identity(IdentityId(0), Some(PeerClass(0)));
    e.set_identity(IdentityId(1), Some(PeerClass(0)));
    e.set_peer(ip("10.9.0.1"), Some(IdentityId(0)));
    e.set_cidr("192.0.2.0/24".parse().unwrap(), Some(CidrClass(0)));
    e.build().unwrap()
}

/// The stamps of all, of ports 1 and 2, of a peer and of somebody else.
fn stamps(tables: &Tables) -> [u32; 5] {
    let port = |id| tables.port(PortId(id)).map_or(0, |p| p.stamp);
    let address = |a| tables.address_stamp(&key(ip(a)));
    let (peer, other) = (address("10.9.0.1"), address("10.9.0.2"));
    [tables.common_stamp(), port(1), port(2), peer, other]
}

/// A change, and which stamps grow by it.
type Change = (&'static str, [u8; 5], fn(&mut Edit));

/// Changes of [`node`].
const CHANGES: &[Change] = &[
    ("what is there already", [0, 0, 0, 0, 0], |e| {
        e.set_port(routed(1, 0, &["10.0.0.1"]));
        e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(99));
        e.set_policy(PortId(1), policies()[2].clone());
        e.set_identity(IdentityId(0), Some(PeerClass(0)));
        e.set_peer(ip("10.9.0.1"), Some(IdentityId(0)));
        e.set_peer(ip("10.9.0.2"), None);
        e.set_cidr("192.0.2.0/24".parse().unwrap(), Some(CidrClass(0)));
        e.set_cidr("192.0.3.0/24".parse().unwrap(), None);
    }),
    ("another identity", [0, 0, 0, 1, 0], |e| {
        e.set_peer(ip("10.9.0.1"), Some(IdentityId(1)));
    }),
    ("a peer gone", [0, 0, 0, 1, 0], |e| {
        e.set_peer(ip("10.9.0.1"), None);
    }),
    ("identities that nobody has", [0, 0, 0, 0, 0], |e| {
        e.set_identity(IdentityId(7), Some(PeerClass(1)));
        e.set_identity(IdentityId(1), Some(PeerClass(1)));
    }),
    ("an identity freed", [0, 0, 0, 0, 0], |e| {
        e.set_identity(IdentityId(1), None);
    }),
    ("an identity that somebody has", [1, 0, 0, 0, 0], |e| {
        e.set_identity(IdentityId(0), Some(PeerClass(1)));
    }),
    ("an ipBlock", [1, 0, 0, 0, 0], |e| {
        e.set_cidr("192.0.2.0/25".parse().unwrap(), Some(CidrClass(0)));
    }),
    ("a policy", [0, 1, 0, 0, 0], |e| {
        e.set_policy(PortId(1), PortPolicy::Pending);
    }),
    ("no policy", [0, 1, 0, 0, 0], |e| {
        e.set_policy(PortId(1), PortPolicy::None);
    }),
    ("the node's own port", [1, 1, 0, 0, 0], |e| {
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { node: true, ..spec });
    }),
    ("a default", [0, 1, 0, 0, 0], |e| {
        let egress_default = Action::Deny;
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec {
            egress_default,
            ..spec
        });
    }),
    ("a static rule", [0, 1, 0, 0, 0], |e| {
        let rule = Rule {
            name: "web".into(),
            priority: 1,
            source: None,
            destination: None,
            protocol: None,
            ports: None,
            action: Action::Deny,
        };
        e.set_rule(PortId(1), Direction::Ingress, rule);
    }),
    ("another worker", [1, 1, 0, 0, 0], |e| {
        let worker = WorkerId(1);
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { worker, ..spec });
    }),
    ("another MTU", [1, 1, 0, 0, 0], |e| {
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { mtu: 1400, ..spec });
    }),
    ("a port gone", [1, 0, 0, 0, 0], |e| {
        e.remove_port(PortId(1));
    }),
    ("a route", [1, 0, 0, 0, 0], |e| {
        let prefix = "10.0.0.0/24".parse().unwrap();
        e.set_route(VrfId(0), prefix, Route::Blackhole);
    }),
    ("a neighbor", [0, 0, 0, 0, 0], |e| {
        e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(98));
    }),
];

#[test]
fn a_change_makes_its_own_stamp_grow_and_no_other() {
    let old = node();
    let before = stamps(&old);
    for (name, expected, change) in CHANGES {
        let mut e = edit(&old);
        change(&mut e);
        let after = stamps(&e.build().unwrap());
        let grown: [u8; 5] = std::array::from_fn(|n| u8::from(after[n] > before[n]));
        assert_eq!(grown, *expected, "{name}");
    }
}

/// A policy outlives a change of its port and goes with it.
#[test]
fn a_policy_stays_as_long_as_its_port() {
    let port = |tables: &Tables| {
        let port = tables.port(PortId(1)).unwrap();
        let policy = policies().iter().position(|p| p.is(&port.policy));
        (policy, port.stamp)
    };
    let mut e = edit(&node());
    e.set_port(routed(1, 1, &["10.0.0.7"]));
    let moved = e.build().unwrap();
    assert_eq!(port(&moved).0, Some(2));
    let mut e = edit(&moved);
    e.set_policy(PortId(1), policies()[3].clone());
    e.remove_port(PortId(1));
    let gone = e.build().unwrap();
    assert!(gone.port(PortId(1)).is_none());
    let mut e = edit(&gone);
    e.set_port(routed(1, 0, &["10.0.0.1"]));
    let back = e.build().unwrap();
    assert_eq!(port(&back).0, Some(0));
    assert!(port(&back).1 > port(&moved).1);
}

/// Neighbouring addresses are rebound together often, distant ones seldom: neither may share their buckets much.
#[test]
fn addresses_spread_over_the_buckets() {
    let v6 = |n: u32| {
        let mut address = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        address[6..8].copy_from_slice(&((n / 110) as u16).to_be_bytes());
        address[15] = (n % 110) as u8;
        address
    };
    let v4 = |n: u32| map_v4([10, (n / 28_160) as u8, (n / 110) as u8, (n % 110) as u8]);
    for address in [&v4 as &dyn Fn(u32) -> [u8; 16], &v6] {
        let mut counts = std::collections::HashMap::new();
        for n in 0..40_960 {
            *counts.entry(peers::bucket(&address(n))).or_insert(0) += 1;
        }
        assert!(counts.len() > 4000, "{}", counts.len());
        assert!(
            counts.values().all(|count| *count < 40),
            "{:?}",
            counts.values().max()
        );
    }
}
