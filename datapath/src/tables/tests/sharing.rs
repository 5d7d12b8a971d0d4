// SPDX-License-Identifier: Apache-2.0
//! How much a change copies, counted in allocations that the new tables do not share with the old.
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::basic::{edit, gateway, ip, mac, routed};
use crate::ids::{IdentityId, PeerClass, PolicyRuleId, PortId, VrfId};
use crate::tables::*;

const UPLINK: PortId = PortId(0);

fn via(next_hop: &str) -> Route {
    Route::Unicast {
        port: UPLINK,
        via: Some(ip(next_hop)),
        mtu: None,
    }
}

/// Numbers without a pattern.
fn scattered(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i.wrapping_mul(0xd1b5_4a32_d192_ed03) >> 32)
}

/// Tables with an uplink, some pods and 50,000 routes of each family: a quarter of them prefixes, the others single
/// addresses, half of them scattered, half of them side by side.
fn large() -> Tables {
    let mut e = edit(&Tables::new(gateway()));
    e.set_port(routed(UPLINK.0, 0, &[]));
    e.set_neighbor(VrfId(0), UPLINK, ip("192.168.0.1"), mac(99));
    e.set_neighbor(VrfId(0), UPLINK, ip("fd01::1"), mac(99));
    for pod in 1..=100u16 {
        let v4 = format!("10.244.1.{pod}");
        let v6 = format!("fd00:244:1::{pod:x}");
        e.set_port(routed(pod, 0, &[&v4, &v6]));
    }
    for i in 0..50_000u64 {
        let random = scattered(i);
        let (v4, v6, length) = match i % 4 {
            0 => (random as u32, (random as u128) << 80, (24, 64)),
            1 | 2 => (
                random as u32,
                (random as u128) << 64 | random as u128,
                (32, 128),
            ),
            _ => (0x0a00_0000 + i as u32, 0xfd << 120 | i as u128, (32, 128)),
        };
        let v4 = IpNet::new_assert(Ipv4Addr::from(v4).into(), length.0).trunc();
        let v6 = IpNet::new_assert(Ipv6Addr::from(v6).into(), length.1).trunc();
        e.set_route(VrfId(0), v4, via("192.168.0.1"));
        e.set_route(VrfId(0), v6, via("fd01::1"));
    }
    e.build().unwrap()
}

fn allocations(tables: &Tables) -> HashMap<usize, usize> {
    let mut all = HashMap::new();
    tables.visit_allocations(&mut |address, bytes| {
        all.insert(address, bytes);
    });
    all
}

/// Bytes and number of allocations that only `new` has.
fn copied(old: &HashMap<usize, usize>, new: &Tables) -> (usize, usize) {
    let mut fresh = HashMap::new();
    new.visit_allocations(&mut |address, bytes| {
        if !old.contains_key(&address) {
            fresh.insert(address, bytes);
        }
    });
    (fresh.values().sum(), fresh.len())
}

#[test]
fn one_change_copies_a_few_kib_of_a_large_table() {
    let tables = large();
    assert!(tables.counts().routes > 99_000);
    let total = tables.memory();
    let before = allocations(&tables);
    let host = |address: &str| IpNet::from(ip(address));
    let mut most = BTreeMap::new();
    for i in 0..20u64 {
        let (v4, v6) = (
            Ipv4Addr::from(scattered(i + 7_000_000) as u32 >> 3 | 0x2000_0000),
            ip(&format!("fd02::{i:x}:7")),
        );
        let mut changes: Vec<(&str, Edit)> = Vec::new();
        let mut change = |name, f: &dyn Fn(&mut Edit)| {
            let mut e = edit(&tables);
            f(&mut e);
            changes.push((name, e));
        };
        change("IPv4 route", &|e| {
            e.set_route(VrfId(0), IpNet::from(IpAddr::V4(v4)), via("192.168.0.1"));
        });
        change("IPv6 route", &|e| {
            e.set_route(VrfId(0), IpNet::from(v6), via("fd01::1"));
        });
        change("default route", &|e| {
            e.set_route(VrfId(0), "0.0.0.0/0".parse().unwrap(), via("192.168.0.1"));
        });
        change("route gone", &|e| {
            e.remove_route(
                VrfId(0),
                host(&Ipv4Addr::from(0x0a00_0003 + 4 * i as u32).to_string()),
            );
        });
        change("route by another way", &|e| {
            let there = Ipv4Addr::from(0x0a00_0003 + 4 * i as u32);
            e.set_route(VrfId(0), host(&there.to_string()), Route::Blackhole);
        });
        change("pod", &|e| {
            e.set_port(routed(200, 0, &[&v4.to_string(), &v6.to_string()]));
        });
        change("neighbor", &|e| {
            e.set_neighbor(VrfId(0), UPLINK, ip("192.168.0.1"), mac(98));
        });
        for (name, e) in changes {
            let next = e.build().unwrap();
            let (bytes, count) = copied(&before, &next);
            assert!(count > 0, "{name}");
            let slot = most.entry(name).or_insert((0, 0));
            *slot = (*slot).max((bytes, count));
        }
    }
    println!(
        "{total} bytes for {} routes; copied at most {most:#?}",
        tables.counts().routes
    );
    assert!(total < 100_000 * 200, "{total} bytes");
    for (name, (bytes, count)) in most {
        assert!(
            bytes < 16 * 1024 && count < 60,
            "{name} copied {bytes} bytes in {count} pieces"
        );
    }
}

/// Pods of a large cluster: 300,000 addresses of both families, 110 pods a node.
fn cluster() -> Tables {
    let mut e = edit(&Tables::new(gateway()));
    for id in 0..5_000 {
        e.set_identity(IdentityId(id), Some(PeerClass(id % 700)));
    }
    for n in 0..150_000 {
        e.set_peer(pod_v4(n), Some(IdentityId(n % 5_000)));
        e.set_peer(pod_v6(n), Some(IdentityId(n % 5_000)));
    }
    e.build().unwrap()
}

fn pod_v4(n: u32) -> IpAddr {
    IpAddr::from([10, (n / 28_160) as u8, (n / 110) as u8, (n % 110) as u8])
}

fn pod_v6(n: u32) -> IpAddr {
    let (node, pod) = ((n / 110) as u16, (n % 110) as u16);
    IpAddr::from([0xfd00, 0x10, 0x244, node, 0, 0, 0, pod])
}

#[test]
fn one_peer_copies_a_few_kib_of_a_large_cluster() {
    let tables = cluster();
    assert_eq!(tables.counts().peers, 300_000);
    assert!(tables.memory() < 300_000 * 16, "{} bytes", tables.memory());
    let before = allocations(&tables);
    for i in 0..50 {
        let n = (scattered(i) % 150_000) as u32;
        let mut changes = Vec::new();
        for address in [pod_v4(n), pod_v6(n), pod_v4(n + 150_000)] {
            for identity in [None, Some(IdentityId((n + 1) % 5_000))] {
                let mut e = edit(&tables);
                e.set_peer(address, identity);
                changes.push(e);
            }
        }
        let mut e = edit(&tables);
        e.set_identity(IdentityId(9_999), Some(PeerClass(1)));
        changes.push(e);
        for e in changes {
            let (bytes, count) = copied(&before, &e.build().unwrap());
            assert!(
                bytes < 24 * 1024 && count < 20,
                "{bytes} bytes in {count} pieces"
            );
        }
    }
}

#[test]
fn ports_share_a_policy() {
    let rules = (0..1000).map(|id| PolicyRule {
        id: PolicyRuleId(id),
        tier: Tier::Network,
        action: PolicyAction::Accept,
        any_peer: false,
        both: false,
        ports: Vec::new(),
    });
    let classes: Vec<_> = (0..1000).map(|n| (PeerClass(n), vec![n])).collect();
    let policy = DirectionPolicy::new(rules.collect(), true, &classes, &[]);
    let policy = Arc::new(policy.unwrap());
    let mut e = edit(&Tables::new(gateway()));
    let mut memory = Vec::new();
    for pod in 0..110 {
        let (egress, ingress) = (policy.clone(), policy.clone());
        e.set_port(routed(pod, 0, &[]));
        e.set_policy(PortId(pod), PortPolicy::Judged { egress, ingress });
        if [0, 109].contains(&pod) {
            memory.push(e.clone().build().unwrap().memory());
        }
    }
    assert!(memory[0] > 1000 * size_of::<PolicyRule>() + 1000 * 16 * 8);
    assert!(memory[1] - memory[0] < 110 * 1500, "{memory:?}");
}

#[test]
fn small_tables_are_small() {
    assert!(Tables::new(gateway()).memory() < 4096);
    let mut e = edit(&Tables::new(gateway()));
    for pod in 0..110u16 {
        e.set_port(routed(
            pod,
            0,
            &[&format!("10.244.1.{pod}"), &format!("fd00::{pod:x}")],
        ));
    }
    let tables = e.build().unwrap();
    println!("{} bytes for 110 pods", tables.memory());
    assert!(tables.memory() < 110 * 1500, "{} bytes", tables.memory());
}
