// SPDX-License-Identifier: Apache-2.0
//! Peers: who is behind an address, and what is refused.
use ipnet::IpNet;

use super::basic::{edit, gateway, ip};
use super::changes::group;
use super::refused::{Case, refused};
use crate::ids::{CidrClass, IdentityId, PeerClass, PortId};
use crate::tables::limits::*;
use crate::tables::*;
use crate::wire::flow_key::map_v4;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Two identities, one of which two addresses have, and nested blocks.
fn cluster() -> Tables {
    let mut e = edit(&super::refused::node());
    e.set_identity(IdentityId(0), Some(PeerClass(5)));
    e.set_identity(IdentityId(1), Some(PeerClass(6)));
    e.set_peer(ip("10.9.0.1"), Some(IdentityId(0)));
    e.set_peer(ip("fd09::1"), Some(IdentityId(0)));
    e.set_cidr(net("10.0.0.0/8"), Some(CidrClass(1)));
    e.set_cidr(net("10.9.0.0/24"), Some(CidrClass(2)));
    e.set_cidr(net("::/0"), Some(CidrClass(3)));
    e.set_group(group(7), Some(IdentityId(1)));
    e.build().unwrap()
}

#[test]
fn addresses_have_an_identity_and_the_longest_block() {
    let peer = |t: &Tables, address| match ip(address) {
        std::net::IpAddr::V4(a) => t.peer(&map_v4(a.octets())),
        std::net::IpAddr::V6(a) => t.peer(&a.octets()),
    };
    let of = |identity: Option<(u32, u32)>, cidr: Option<u32>| Peer {
        identity: identity.map(|(id, _)| IdentityId(id)),
        class: identity.map(|(_, class)| PeerClass(class)),
        cidr: cidr.map(CidrClass),
    };
    let tables = cluster();
    let counts = tables.counts();
    assert_eq!((counts.peers, counts.identities, counts.cidrs), (2, 2, 3));
    assert_eq!(peer(&tables, "10.9.0.1"), of(Some((0, 5)), Some(2)));
    assert_eq!(peer(&tables, "10.9.0.2"), of(None, Some(2)));
    assert_eq!(peer(&tables, "10.9.1.1"), of(None, Some(1)));
    // A block of every IPv6 address is none of IPv4 ones.
    assert_eq!(peer(&tables, "11.0.0.1"), of(None, None));
    assert_eq!(peer(&tables, "fd09::1"), of(Some((0, 5)), Some(3)));

    let mut e = edit(&tables);
    e.set_identity(IdentityId(0), Some(PeerClass(7)));
    e.set_peer(ip("fd09::1"), Some(IdentityId(1)));
    e.set_cidr(net("10.9.0.0/24"), None);
    let next = e.build().unwrap();
    assert_eq!(peer(&next, "10.9.0.1"), of(Some((0, 7)), Some(1)));
    assert_eq!(peer(&next, "fd09::1"), of(Some((1, 6)), Some(3)));

    // An identity goes together with the last who has it.
    let mut e = edit(&next);
    e.set_identity(IdentityId(0), None);
    e.set_peer(ip("10.9.0.1"), None);
    let last = e.build().unwrap();
    assert_eq!(peer(&last, "10.9.0.1"), of(None, Some(1)));
    assert_eq!((last.counts().peers, last.counts().identities), (1, 1));
    assert_eq!(peer(&tables, "10.9.0.1"), of(Some((0, 5)), Some(2)));
}

#[test]
fn a_group_says_who_it_is_whatever_the_address_says() {
    let tables = cluster();
    let marked = |t: &Tables, number, octets| t.marked_peer(group(number), &map_v4(octets));
    for (octets, cidr) in [([10, 9, 0, 1], Some(2)), ([11, 0, 0, 1], None)] {
        let peer = Peer {
            identity: Some(IdentityId(1)),
            class: Some(PeerClass(6)),
            cidr: cidr.map(CidrClass),
        };
        assert_eq!(marked(&tables, 7, octets), Some(peer));
        assert_eq!(marked(&tables, 8, octets), None);
    }
    // Nobody else has its identity, and it can go with it.
    let mut e = edit(&tables);
    e.set_group(group(7), None);
    e.set_identity(IdentityId(1), None);
    e.set_group(group(8), Some(IdentityId(0)));
    let next = e.build().unwrap();
    assert_eq!(marked(&next, 7, [10, 9, 0, 1]), None);
    let peer = marked(&next, 8, [11, 0, 0, 1]).unwrap();
    assert_eq!(peer.class, Some(PeerClass(5)));
    let counts = next.counts();
    assert_eq!((counts.groups, counts.identities), (1, 1));
}

#[test]
fn peers_that_are_refused() {
    let cases: &[Case] = &[
        (
            "peer 10.9.0.9 needs identity 7; add the identity first",
            |e| {
                e.set_peer(ip("10.9.0.9"), Some(IdentityId(7)));
            },
        ),
        (
            "peer fd09::1 needs identity 0; remove that too, or give it another identity",
            |e| {
                e.set_peer(ip("10.9.0.1"), None);
                e.set_identity(IdentityId(0), None);
            },
        ),
        (
            "group 7 needs identity 1; remove that too, or give it another identity",
            |e| {
                e.set_identity(IdentityId(1), None);
            },
        ),
        (
            "group 65535 needs identity 7; add the identity first",
            |e| {
                e.set_group(group(u16::MAX), Some(IdentityId(7)));
            },
        ),
        (
            "peer ::ffff:10.9.0.9: address ::ffff:10.9.0.9/128 is IPv4-mapped; write it as IPv4",
            |e| {
                e.set_peer(ip("::ffff:10.9.0.9"), Some(IdentityId(0)));
            },
        ),
        ("identity 262144: number 262144 is not below 262144", |e| {
            e.set_identity(IdentityId(262_144), Some(PeerClass(0)));
        }),
        ("identity 9: peer class 262144 is not below 262144", |e| {
            e.set_identity(IdentityId(9), Some(PeerClass(262_144)));
        }),
        (
            "CIDR 10.9.0.1/24: prefix 10.9.0.1/24 has bits beyond its length; write 10.9.0.0/24",
            |e| {
                e.set_cidr(net("10.9.0.1/24"), Some(CidrClass(0)));
            },
        ),
        ("CIDR 10.8.0.0/16: class 262144 is not below 262144", |e| {
            e.set_cidr(net("10.8.0.0/16"), Some(CidrClass(262_144)));
        }),
        ("policy needs port 8; add the port first", |e| {
            e.set_policy(PortId(8), PortPolicy::Pending);
        }),
    ];
    refused(&cluster(), cases);
}

#[test]
fn more_peers_than_the_switch_holds() {
    let mut full = cluster();
    full.counts.peers = MAX_PEERS;
    full.counts.identities = MAX_IDENTITIES;
    full.counts.cidrs = MAX_CIDRS;
    let cases: &[Case] = &[
        (
            "peer 10.9.0.9: 1048577 peers, but the switch holds at most 1048576; remove some first",
            |e| {
                e.set_peer(ip("10.9.0.9"), Some(IdentityId(0)));
            },
        ),
        (
            "identity 9: 262145 identities, but the switch holds at most 262144; remove some first",
            |e| {
                e.set_identity(IdentityId(9), Some(PeerClass(0)));
            },
        ),
        (
            "CIDR 10.8.0.0/16: 262145 CIDRs, but the switch holds at most 262144; remove some first",
            |e| {
                e.set_cidr(net("10.8.0.0/16"), Some(CidrClass(0)));
            },
        ),
    ];
    refused(&full, cases);
    // What comes takes the place of what goes.
    let mut e = edit(&full);
    e.set_peer(ip("10.9.0.9"), Some(IdentityId(1)));
    e.set_peer(ip("fd09::1"), None);
    e.set_cidr(net("10.8.0.0/16"), Some(CidrClass(0)));
    e.set_cidr(net("::/0"), None);
    let next = e.build().unwrap().counts();
    assert_eq!((next.peers, next.cidrs), (MAX_PEERS, MAX_CIDRS));
}

#[test]
fn nobody_is_known_at_first() {
    let tables = Tables::new(gateway());
    assert_eq!(tables.peer(&map_v4([10, 0, 0, 1])), Peer::default());
    assert_eq!(tables.address_stamp(&map_v4([10, 0, 0, 1])), 0);
}
