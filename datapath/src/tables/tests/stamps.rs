// SPDX-License-Identifier: Apache-2.0
//! Stamps: whatever a connection was judged by cannot change without one of its stamps growing, and what has nothing to
//! do with it lets them be.
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::basic::{edit, gateway, ip, mac, routed};
use super::changes::{group, policies};
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
        check_ways(address, (old, was), (new, now));
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
    let class = |model: &Model, id| model.identities.get(id).copied();
    let mut known = was.identified();
    let other = |id| class(now, id).is_some_and(|now| Some(now) != class(was, id));
    let everybody = rest(was) != rest(now) || known.any(other);
    let short = |key: &RouteKey| stamps::parts(key.prefix).is_none();
    let everybody = everybody || changed_routes(was, now).iter().any(short);
    let grew = new.common_stamp() > old.common_stamp();
    assert_eq!(grew, everybody);
    assert!(grew || new.common_stamp() == old.common_stamp());
}

/// What is behind an address counts for who sends to it, wherever it changes.
fn check_ways(address: IpAddr, (old, was): (&Tables, &Model), (new, now): (&Tables, &Model)) {
    let stamps = |tables: &Tables| (tables.common_stamp(), tables.route_stamp(&key(address)));
    let (before, after) = (stamps(old), stamps(new));
    assert!(after.1 >= before.1);
    // A neighbor's MAC address is looked up for every packet.
    let same_neighbors = was.neighbors == now.neighbors;
    let differs = |vrf| way(was, vrf, address) != way(now, vrf, address);
    if same_neighbors && [VrfId(0), VrfId(1), VrfId(5)].into_iter().any(differs) {
        assert!(after.0 > before.0 || after.1 > before.1, "{address}");
    }
    let part = stamps::part(&key(address));
    let beside = |prefix: &IpNet| stamps::parts(*prefix).is_some_and(|p| !p.contains(&part));
    let changed = changed_routes(was, now);
    // A next hop that nobody knows comes and goes with routes by it.
    let hops = [was, now].into_iter().flat_map(|model| {
        let routes = changed.iter().filter_map(|key| model.routes.get(key));
        routes.filter_map(|route| match route {
            Route::Unicast { via, .. } => via.map(IpNet::from),
            _ => None,
        })
    });
    let mut changed = changed.iter().map(|key| key.prefix).chain(hops);
    if rest(was) == rest(now) && same_neighbors && changed.all(|prefix| beside(&prefix)) {
        assert_eq!(after.1, before.1, "{address}");
    }
}

fn changed_routes(was: &Model, now: &Model) -> Vec<RouteKey> {
    let all = was.routes.keys().chain(now.routes.keys());
    let changed = all.filter(|key| was.routes.get(key) != now.routes.get(key));
    changed.copied().collect()
}

/// What is everybody's business: not names, checks, rules, policies, peers, new identities; nor routes and neighbors, which are those
/// of the addresses they are for.
fn rest(model: &Model) -> Model {
    let mut rest = model.clone();
    for port in rest.ports.values_mut() {
        port.name = String::new();
        port.check_source = false;
        (port.egress_default, port.ingress_default) = Default::default();
    }
    rest.routes.clear();
    rest.neighbors.clear();
    rest.rules.clear();
    rest.policies.clear();
    rest.peers.clear();
    rest.identities.clear();
    rest
}

/// A node with two pods, an uplink and its own port, and a peer elsewhere.
fn node() -> Tables {
    let mut e = edit(&Tables::new(gateway()));
    e.set_port(routed(1, 0, &["10.0.0.1"]));
    e.set_port(routed(2, 0, &["10.0.0.2"]));
    e.set_port(routed(3, 0, &[]));
    e.set_port(PortSpec {
        node: true,
        ..routed(4, 0, &[])
    });
    e.set_route(VrfId(0), "10.6.0.0/24".parse().unwrap(), on_link(4));
    e.set_route(VrfId(0), "10.7.0.0/24".parse().unwrap(), on_link(3));
    e.set_neighbor(VrfId(0), PortId(3), ip("10.7.0.9"), mac(97));
    e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(99));
    e.set_policy(PortId(1), policies()[2].clone());
    e.set_identity(IdentityId(0), Some(PeerClass(0)));
    e.set_identity(IdentityId(1), Some(PeerClass(0)));
    e.set_identity(IdentityId(2), Some(PeerClass(0)));
    e.set_group(group(5), Some(IdentityId(2)));
    e.set_peer(ip("10.9.0.1"), Some(IdentityId(0)));
    e.set_cidr("192.0.2.0/24".parse().unwrap(), Some(CidrClass(0)));
    e.build().unwrap()
}

fn on_link(port: u16) -> Route {
    Route::Unicast {
        port: PortId(port),
        via: None,
        mtu: None,
    }
}

/// The stamps of all; of ports 1 and 2; of a peer, of somebody else; of the ways to three addresses.
fn stamps(tables: &Tables) -> [u32; 8] {
    let port = |id| tables.port(PortId(id)).map_or(0, |p| p.stamp);
    let address = |a| tables.address_stamp(&key(ip(a)));
    let way = |a| tables.route_stamp(&key(ip(a)));
    [
        tables.common_stamp(),
        port(1),
        port(2),
        address("10.9.0.1"),
        address("10.9.0.2"),
        way("10.7.0.9"),
        way("10.6.0.9"),
        way("fd00:8::9"),
    ]
}

/// A change, and which stamps grow by it.
type Change = (&'static str, [u8; 8], fn(&mut Edit));

fn set(e: &mut Edit, prefix: &str) {
    e.set_route(VrfId(0), prefix.parse().unwrap(), Route::Blackhole);
}

/// Changes of [`node`].
const CHANGES: &[Change] = &[
    ("what is there already", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_port(routed(1, 0, &["10.0.0.1"]));
        e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(99));
        e.set_policy(PortId(1), policies()[2].clone());
        e.set_identity(IdentityId(0), Some(PeerClass(0)));
        e.set_peer(ip("10.9.0.1"), Some(IdentityId(0)));
        e.set_peer(ip("10.9.0.2"), None);
        e.set_cidr("192.0.2.0/24".parse().unwrap(), Some(CidrClass(0)));
        e.set_cidr("192.0.3.0/24".parse().unwrap(), None);
    }),
    ("another identity", [0, 0, 0, 1, 0, 0, 0, 0], |e| {
        e.set_peer(ip("10.9.0.1"), Some(IdentityId(1)));
    }),
    ("a peer gone", [0, 0, 0, 1, 0, 0, 0, 0], |e| {
        e.set_peer(ip("10.9.0.1"), None);
    }),
    (
        "identities that nobody has",
        [0, 0, 0, 0, 0, 0, 0, 0],
        |e| {
            e.set_identity(IdentityId(7), Some(PeerClass(1)));
            e.set_identity(IdentityId(1), Some(PeerClass(1)));
        },
    ),
    ("an identity freed", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_identity(IdentityId(1), None);
    }),
    (
        "an identity that somebody has",
        [1, 0, 0, 0, 0, 0, 0, 0],
        |e| {
            e.set_identity(IdentityId(0), Some(PeerClass(1)));
        },
    ),
    ("an ipBlock", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_cidr("192.0.2.0/25".parse().unwrap(), Some(CidrClass(0)));
    }),
    ("a group", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_group(group(7), Some(IdentityId(1)));
    }),
    ("a group as it is", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_group(group(5), Some(IdentityId(2)));
        e.set_group(group(6), None);
    }),
    ("a group gone", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_group(group(5), None);
    }),
    ("an identity of a group", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_identity(IdentityId(2), Some(PeerClass(1)));
    }),
    ("the group of a port", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_group_of(PortId(1), Some(group(5)));
    }),
    ("a policy", [0, 1, 0, 0, 0, 0, 0, 0], |e| {
        e.set_policy(PortId(1), PortPolicy::Pending);
    }),
    ("no policy", [0, 1, 0, 0, 0, 0, 0, 0], |e| {
        e.set_policy(PortId(1), PortPolicy::None);
    }),
    ("the node's own port", [1, 1, 0, 0, 0, 0, 0, 0], |e| {
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { node: true, ..spec });
    }),
    ("a default", [0, 1, 0, 0, 0, 0, 0, 0], |e| {
        let egress_default = Action::Deny;
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec {
            egress_default,
            ..spec
        });
    }),
    ("a static rule", [0, 1, 0, 0, 0, 0, 0, 0], |e| {
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
    ("another worker", [1, 1, 0, 0, 0, 0, 0, 0], |e| {
        let worker = WorkerId(1);
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { worker, ..spec });
    }),
    ("another MTU", [1, 1, 0, 0, 0, 0, 0, 0], |e| {
        let spec = routed(1, 0, &["10.0.0.1"]);
        e.set_port(PortSpec { mtu: 1400, ..spec });
    }),
    ("a port gone", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.remove_port(PortId(1));
    }),
    ("a route", [0, 0, 0, 0, 0, 1, 0, 0], |e| {
        set(e, "10.7.0.0/26")
    }),
    ("a route that is there", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_route(VrfId(0), "10.7.0.0/24".parse().unwrap(), on_link(3));
    }),
    ("another way", [0, 0, 0, 0, 0, 0, 1, 0], |e| {
        set(e, "10.6.0.0/24")
    }),
    ("a route gone", [0, 0, 0, 0, 0, 0, 1, 0], |e| {
        e.remove_route(VrfId(0), "10.6.0.0/24".parse().unwrap());
    }),
    ("a route that covers two", [0, 0, 0, 0, 0, 1, 1, 0], |e| {
        set(e, "10.0.0.0/13")
    }),
    ("a short route", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        set(e, "0.0.0.0/0")
    }),
    ("an IPv6 route", [0, 0, 0, 0, 0, 0, 0, 1], |e| {
        set(e, "fd00:8::/48")
    }),
    ("another IPv6 route", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        set(e, "fd00:9::/64")
    }),
    ("a short IPv6 route", [1, 0, 0, 0, 0, 0, 0, 0], |e| {
        set(e, "fc00::/7")
    }),
    ("a route of another VRF", [0, 0, 0, 0, 0, 1, 0, 0], |e| {
        e.set_route(VrfId(7), "10.7.0.0/24".parse().unwrap(), Route::Blackhole);
    }),
    ("a neighbor", [0, 0, 0, 0, 0, 0, 0, 0], |e| {
        e.set_neighbor(VrfId(0), PortId(3), ip("192.168.0.1"), mac(98));
        e.set_neighbor(VrfId(0), PortId(3), ip("10.7.0.8"), mac(98));
    }),
    ("a neighbor gone", [0, 0, 0, 0, 0, 1, 0, 0], |e| {
        e.remove_neighbor(VrfId(0), PortId(3), ip("10.7.0.9"));
    }),
    (
        "a neighbor that the node stood for",
        [0, 0, 0, 0, 0, 0, 1, 0],
        |e| {
            e.set_neighbor(VrfId(0), PortId(4), ip("10.6.0.9"), mac(98));
        },
    ),
];

#[test]
fn a_change_makes_its_own_stamp_grow_and_no_other() {
    let old = node();
    let before = stamps(&old);
    for (name, expected, change) in CHANGES {
        let mut e = edit(&old);
        change(&mut e);
        let after = stamps(&e.build().unwrap());
        let grown: [u8; 8] = std::array::from_fn(|n| u8::from(after[n] > before[n]));
        assert_eq!(grown, *expected, "{name}");
    }
}

/// A policy, and a group, outlive a change of their port and go with it.
#[test]
fn a_policy_stays_as_long_as_its_port() {
    let port = |tables: &Tables| {
        let port = tables.port(PortId(1)).unwrap();
        let policy = policies().iter().position(|p| p.is(&port.policy));
        (policy, port.stamp, port.group)
    };
    let mut e = edit(&node());
    e.set_port(routed(1, 1, &["10.0.0.7"]));
    e.set_group_of(PortId(1), Some(group(5)));
    let mut e = edit(&e.build().unwrap());
    e.set_port(routed(1, 1, &["10.0.0.8"]));
    let moved = e.build().unwrap();
    assert_eq!(port(&moved).0, Some(2));
    assert_eq!(port(&moved).2, Some(group(5)));
    let mut e = edit(&moved);
    e.set_policy(PortId(1), policies()[3].clone());
    e.set_group_of(PortId(1), Some(group(6)));
    e.remove_port(PortId(1));
    let gone = e.build().unwrap();
    assert!(gone.port(PortId(1)).is_none());
    let mut e = edit(&gone);
    e.set_port(routed(1, 0, &["10.0.0.1"]));
    let back = e.build().unwrap();
    assert_eq!(port(&back).0, Some(0));
    assert_eq!(port(&back).2, None);
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
            *counts.entry(stamps::bucket(&address(n))).or_insert(0) += 1;
        }
        assert!(counts.len() > 4000, "{}", counts.len());
        assert!(
            counts.values().all(|count| *count < 40),
            "{:?}",
            counts.values().max()
        );
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

proptest! {
    #[test]
    fn what_a_prefix_covers_is_in_its_parts(address in address(), length in 0..=128u8, other in any::<u128>()) {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = IpNet::new_assert(address, length.min(most)).trunc();
        let covered = match (prefix.hostmask(), prefix.network()) {
            (IpAddr::V4(mask), IpAddr::V4(first)) => IpAddr::from((first.to_bits() | mask.to_bits() & other as u32).to_be_bytes()),
            (IpAddr::V6(mask), IpAddr::V6(first)) => IpAddr::from((first.to_bits() | mask.to_bits() & other).to_be_bytes()),
            _ => unreachable!("of one family"),
        };
        if let Some(parts) = stamps::parts(prefix) {
            prop_assert!(parts.end <= 4096);
            prop_assert!(parts.contains(&stamps::part(&key(covered))), "{covered} of {prefix}");
        }
    }
}

/// Pods of one node are in one prefix; nodes are numbered, and so are networks.
#[test]
fn networks_next_to_each_other_are_in_different_parts() {
    let distinct = |addresses: &mut dyn Iterator<Item = [u8; 16]>| {
        let parts: BTreeSet<usize> = addresses.map(|a| stamps::part(&a)).collect();
        parts.len()
    };
    assert_eq!(
        distinct(&mut (0..=255).map(|n| map_v4([10, 244, n, 7]))),
        256
    );
    let v4 = |n: u32| map_v4(((n << 8) | 1).to_be_bytes());
    assert_eq!(distinct(&mut (0..1 << 16).map(v4)), 4096);
    let v6 = |at: u32| move |n: u128| ((0xfd00_u128 << 112) | n << at).to_be_bytes();
    assert_eq!(distinct(&mut (0..256).map(v6(64))), 8, "nodes in a /48");
    assert!(distinct(&mut (0..256).map(v6(80))) > 32, "/48s in a /32");
    assert!(distinct(&mut (0..1 << 16).map(v6(96))) > 400, "/32s");
}

#[test]
fn a_stamp_of_a_range_stays_in_it() {
    for range in [
        0..1,
        5..9,
        1000..1030,
        1023..1024,
        0..4096,
        2048..4096,
        7..7,
    ] {
        let mut stamps = stamps::RouteStamps::default();
        stamps.set(range.clone(), 3);
        for at in 0..4096 {
            assert_eq!(
                stamps.get(at),
                if range.contains(&at) { 3 } else { 0 },
                "{at}"
            );
        }
    }
}
