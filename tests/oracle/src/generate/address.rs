// SPDX-License-Identifier: Apache-2.0
//! Addresses close together, so that prefixes cut between them, and the prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Rng;
use crate::cluster::Cluster;

/// The node's own addresses.
pub(super) const NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 30, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, 0x11)),
];

/// Hosts of each range that pods get addresses from.
const HOSTS: usize = 48;

/// An address that a pod may have.
pub(super) fn pod_address(rng: &mut Rng, v6: bool) -> IpAddr {
    let host = rng.below(HOSTS) as u16;
    let range = rng.below(2) as u16;
    match v6 {
        false => Ipv4Addr::new(10, 0, range as u8, host as u8).into(),
        true => Ipv6Addr::new(0xfd00, 0, 0, range, 0, 0, 0, host).into(),
    }
}

/// An address that no pod has yet.
pub(super) fn free_address(rng: &mut Rng, cluster: &Cluster, v6: bool) -> IpAddr {
    let taken = |address: &IpAddr| {
        cluster.pods.iter().any(|p| p.addresses.contains(address))
            || (cluster.endpoints.iter()).any(|e| e.addresses.contains(address))
    };
    loop {
        let address = pod_address(rng, v6);
        if !taken(&address) {
            return address;
        }
    }
}

/// An address of neither node nor pods, or close to them.
pub(super) fn world_address(rng: &mut Rng, v6: bool) -> IpAddr {
    let host = rng.below(4) as u16;
    match (v6, rng.below(3)) {
        (false, 0) => Ipv4Addr::new(192, 0, 2, host as u8).into(),
        (false, 1) => Ipv4Addr::new(11, 0, 0, host as u8).into(),
        (true, 0) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(),
        (true, 1) => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, host).into(),
        _ => pod_address(rng, v6),
    }
}

/// A prefix around some address of interest, as text; now and then with bits beyond its length.
pub(super) fn cidr(rng: &mut Rng) -> IpNet {
    let v6 = rng.percent(35);
    let address = match rng.percent(75) {
        true => pod_address(rng, v6),
        false => world_address(rng, v6),
    };
    let length = match v6 {
        false => rng.pick(&[32, 31, 30, 29, 28, 27, 24, 16, 8, 0]),
        true => rng.pick(&[128, 127, 126, 124, 123, 112, 64, 48, 0]),
    };
    prefix(rng, address, length)
}

/// Parts of a prefix; none if it has only one address.
pub(super) fn excepts(rng: &mut Rng, cidr: IpNet) -> Vec<IpNet> {
    if cidr.prefix_len() == cidr.max_prefix_len() {
        return Vec::new();
    }
    let mut parts = Vec::new();
    for _ in 0..rng.within(1, 3) {
        let v6 = cidr.addr().is_ipv6();
        let inside = (0..8)
            .map(|_| pod_address(rng, v6))
            .find(|a| cidr.contains(a));
        let longer = rng.within(1, 4) as u8;
        let length = match rng.percent(40) {
            true => cidr.max_prefix_len(),
            false => (cidr.prefix_len() + longer).min(cidr.max_prefix_len()),
        };
        parts.push(prefix(rng, inside.unwrap_or(cidr.addr()), length));
    }
    parts
}

fn prefix(rng: &mut Rng, address: IpAddr, length: u8) -> IpNet {
    let prefix = IpNet::new(address, length).expect("lengths fit their families");
    match rng.percent(90) {
        true => prefix.trunc(),
        false => prefix,
    }
}

/// The addresses at the edges of a prefix and right beside it.
pub(super) fn edges(cidr: IpNet) -> Vec<IpAddr> {
    let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
    let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
    let v6 = cidr.addr().is_ipv6();
    all.map(|n| match v6 {
        true => IpAddr::from(Ipv6Addr::from_bits(n)),
        false => Ipv4Addr::from_bits(n as u32).into(),
    })
    .to_vec()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}
