// SPDX-License-Identifier: Apache-2.0
//! How much a change copies, counted in allocations that the new tables do not share with the old.
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::basic::{edit, gateway, ip, mac, routed};
use crate::ids::{PortId, VrfId};
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
