// SPDX-License-Identifier: Apache-2.0
//! Addresses, routes and neighbours in namespaces of their own.

mod common;

use std::net::IpAddr;

use common::{POD_MAC, Pair};
use ipnet::IpNet;
use podswitch_host::addr::{self, Options};
use podswitch_host::route::{self, Family, Kind, Route};
use podswitch_host::{link, neigh};

const MAIN: u32 = 254;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pair() -> Pair {
    Pair::new("ps-host-addr")
}

#[test]
fn nodad_address_is_usable_at_once() {
    let mut p = pair();
    p.up();
    let options = Options {
        nodad: true,
        noprefixroute: false,
    };
    addr::add(&mut p.pod_socket, "eth0", net("fd00::2/128"), options).unwrap();
    addr::add(
        &mut p.pod_socket,
        "eth0",
        net("fd00::3/128"),
        Options::default(),
    )
    .unwrap();
    let found = addr::list(&mut p.pod_socket, "eth0").unwrap();
    let of = |text| found.iter().find(|a| a.net == net(text)).unwrap();
    assert!(!of("fd00::2/128").tentative());
    assert_ne!(of("fd00::2/128").flags & libc::IFA_F_NODAD, 0);
    assert!(
        of("fd00::3/128").tentative(),
        "without NODAD the kernel asks around first"
    );
    assert_eq!(of("fd00::2/128").link, p.eth0.index);
    // Usable: a socket can be bound to it now.
    let bound = p
        .pod
        .netns()
        .run(|| std::net::UdpSocket::bind("[fd00::2]:0").map(drop))
        .unwrap();
    bound.unwrap();
}

#[test]
fn noprefixroute_makes_no_route() {
    let mut p = pair();
    p.up();
    let quiet = Options {
        nodad: true,
        noprefixroute: true,
    };
    addr::add(&mut p.pod_socket, "eth0", net("10.1.0.2/24"), quiet).unwrap();
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap(),
        []
    );
    addr::add(
        &mut p.pod_socket,
        "eth0",
        net("10.2.0.2/24"),
        Options::default(),
    )
    .unwrap();
    let routes = route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap();
    assert_eq!(
        routes.iter().map(|r| r.dst).collect::<Vec<_>>(),
        [net("10.2.0.0/24")]
    );
}

#[test]
fn adding_and_removing_twice() {
    let mut p = pair();
    let address = net("10.1.0.2/32");
    addr::add(&mut p.pod_socket, "eth0", address, Options::default()).unwrap();
    let error = addr::add(&mut p.pod_socket, "eth0", address, Options::default()).unwrap_err();
    assert!(error.exists(), "{error}");
    assert!(
        error.to_string().contains("10.1.0.2/32") && error.to_string().contains("eth0"),
        "{error}"
    );
    assert!(!addr::ensure(&mut p.pod_socket, "eth0", address, Options::default()).unwrap());
    addr::delete(&mut p.pod_socket, "eth0", address).unwrap();
    assert!(
        addr::delete(&mut p.pod_socket, "eth0", address)
            .unwrap_err()
            .is_gone()
    );
    assert!(
        addr::list(&mut p.pod_socket, "no-such")
            .unwrap_err()
            .to_string()
            .contains("no-such")
    );
}

#[test]
fn route_through_an_onlink_gateway_with_an_mtu() {
    let mut p = pair();
    p.up();
    addr::add(
        &mut p.pod_socket,
        "eth0",
        net("10.1.0.2/32"),
        Options::default(),
    )
    .unwrap();
    let mut wanted = Route::default_for(Family::V4)
        .via(ip("169.254.1.1"))
        .dev(p.eth0.index)
        .onlink()
        .mtu(1450)
        .src(ip("10.1.0.2"));
    route::add(&mut p.pod_socket, &wanted).unwrap();
    wanted.scope = Some(libc::RT_SCOPE_UNIVERSE);
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap(),
        [wanted]
    );
    let error = route::add(&mut p.pod_socket, &wanted).unwrap_err();
    assert!(
        error.exists() && error.to_string().contains("0.0.0.0/0 via 169.254.1.1"),
        "{error}"
    );

    route::replace(&mut p.pod_socket, &wanted.mtu(1400)).unwrap();
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap(),
        [wanted.mtu(1400)]
    );
    route::delete(&mut p.pod_socket, &Route::default_for(Family::V4)).unwrap();
    assert!(
        route::delete(&mut p.pod_socket, &Route::default_for(Family::V4))
            .unwrap_err()
            .is_gone()
    );
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap(),
        []
    );
}

#[test]
fn a_gateway_no_prefix_covers_needs_onlink() {
    let mut p = pair();
    p.up();
    addr::add(
        &mut p.pod_socket,
        "eth0",
        net("10.1.0.2/32"),
        Options::default(),
    )
    .unwrap();
    let route = Route::default_for(Family::V4)
        .via(ip("169.254.1.1"))
        .dev(p.eth0.index);
    let text = route::add(&mut p.pod_socket, &route)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("169.254.1.1") && text.contains("Nexthop has invalid gateway"),
        "{text}"
    );
}

#[test]
fn ipv6_routes_with_mtu_and_other_tables() {
    let mut p = pair();
    p.up();
    let nodad = Options {
        nodad: true,
        noprefixroute: true,
    };
    addr::add(&mut p.pod_socket, "eth0", net("fd00::2/128"), nodad).unwrap();
    let default = Route::default_for(Family::V6)
        .via(ip("fe80::1"))
        .dev(p.eth0.index)
        .onlink()
        .mtu(1400);
    route::add(&mut p.pod_socket, &default).unwrap();
    let mut other = Route::new(net("fd01::/64")).dev(p.eth0.index);
    other.table = 1000;
    route::add(&mut p.pod_socket, &other).unwrap();

    let found = route::list(&mut p.pod_socket, Family::V6, MAIN).unwrap();
    let found: Vec<_> = found.iter().filter(|r| r.dst.prefix_len() == 0).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].gateway, found[0].mtu, found[0].onlink),
        (Some(ip("fe80::1")), Some(1400), true)
    );
    let found = route::list(&mut p.pod_socket, Family::V6, 1000).unwrap();
    assert_eq!(
        found.iter().map(|r| r.dst).collect::<Vec<_>>(),
        [net("fd01::/64")]
    );
    assert_eq!(route::list(&mut p.pod_socket, Family::V6, 77).unwrap(), []);
    route::delete(&mut p.pod_socket, &other).unwrap();
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V6, 1000).unwrap(),
        []
    );
}

#[test]
fn link_scope_host_routes_and_blackholes() {
    let mut p = pair();
    p.up();
    // Host bits of a destination do not matter.
    let pod = Route::new(net("10.1.0.2/32")).dev(p.host.index);
    route::add(&mut p.node_socket, &pod).unwrap();
    let mut hole = Route::new(net("10.1.0.7/16"));
    hole.kind = Kind::Blackhole;
    route::add(&mut p.node_socket, &hole).unwrap();
    let found = route::list(&mut p.node_socket, Family::V4, MAIN).unwrap();
    let of = |text| found.iter().find(|r| r.dst == net(text)).unwrap();
    assert_eq!(of("10.1.0.2/32").scope, Some(libc::RT_SCOPE_LINK));
    assert_eq!(of("10.1.0.0/16").kind, Kind::Blackhole);
    route::delete(&mut p.node_socket, &hole).unwrap();
}

#[test]
fn ipv4_through_an_ipv6_next_hop() {
    let mut p = pair();
    p.up();
    let route = Route::new(net("10.5.0.0/24"))
        .via(ip("fe80::1"))
        .dev(p.eth0.index)
        .onlink();
    route::add(&mut p.pod_socket, &route).unwrap();
    assert_eq!(
        route::list(&mut p.pod_socket, Family::V4, MAIN).unwrap()[0].gateway,
        Some(ip("fe80::1"))
    );
}

#[test]
fn permanent_neighbors() {
    let mut p = pair();
    p.up();
    for address in [ip("10.1.0.2"), ip("fd00::2")] {
        neigh::set_permanent(&mut p.node_socket, "host0", address, [2, 0, 0, 0, 0, 9]).unwrap();
        neigh::set_permanent(&mut p.node_socket, "host0", address, POD_MAC).unwrap();
        let found = neigh::list(&mut p.node_socket, "host0").unwrap();
        let entry = found.iter().find(|n| n.ip == address).unwrap();
        assert_eq!(
            (entry.mac, entry.permanent(), entry.link),
            (Some(POD_MAC), true, p.host.index)
        );
        neigh::delete(&mut p.node_socket, "host0", address).unwrap();
    }
    assert!(
        neigh::delete(&mut p.node_socket, "host0", ip("10.1.0.2"))
            .unwrap_err()
            .is_gone()
    );
    assert_eq!(neigh::list(&mut p.node_socket, "host0").unwrap(), []);
    let error =
        neigh::set_permanent(&mut p.node_socket, "host0", ip("10.1.0.2"), [0xff; 6]).unwrap_err();
    assert!(error.to_string().contains("ff:ff:ff:ff:ff:ff"), "{error}");
    link::delete(&mut p.node_socket, "host0").unwrap();
    let error = neigh::set_permanent(&mut p.node_socket, p.host.index, ip("10.1.0.2"), POD_MAC)
        .unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("10.1.0.2"),
        "{error}"
    );
}

/// Runs iproute2 in the node's namespace.
fn ip_route(p: &Pair, arguments: &str) {
    let run = || {
        std::process::Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
    };
    let output = p.node.netns().run(run).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

#[test]
fn all_next_hops_of_a_route() {
    let mut p = pair();
    p.up();
    for (family, dst, hops) in [
        (Family::V4, "10.9.0.0/16", ["10.1.0.2", "10.1.0.3"]),
        (Family::V6, "fd09::/48", ["fe80::2", "fe80::3"]),
    ] {
        let version = if family == Family::V4 { "-4" } else { "-6" };
        let [a, b] = hops;
        ip_route(
            &p,
            &format!(
                "{version} route add {dst} mtu 1400 \
                 nexthop via {a} dev host0 weight 3 onlink nexthop via {b} dev host0 onlink"
            ),
        );
        let index = p.host.index;
        let of = |entries: Vec<route::Entry>| entries.into_iter().find(|e| e.route.dst == net(dst));
        let entry = of(route::entries(&mut p.node_socket, family, MAIN).unwrap()).unwrap();
        let hop = |gateway, weight| route::NextHop {
            gateway: Some(ip(gateway)),
            link: index,
            weight,
            dead: false,
        };
        assert_eq!(entry.next_hops, [hop(a, 3), hop(b, 1)]);
        assert_eq!(
            (entry.route.gateway, entry.route.link, entry.route.mtu),
            (None, None, Some(1400))
        );
        let single = route::list(&mut p.node_socket, family, MAIN).unwrap();
        assert!(single.iter().all(|r| r.dst != net(dst)), "{single:?}");
        // Without a carrier next hops are there and dead.
        link::set_up(&mut p.pod_socket, &p.eth0, false).unwrap();
        common::eventually("its next hops are dead", || {
            of(route::entries(&mut p.node_socket, family, MAIN).unwrap())
                .is_some_and(|e| e.next_hops.len() == 2 && e.next_hops.iter().all(|h| h.dead))
        });
        link::set_up(&mut p.pod_socket, &p.eth0, true).unwrap();
        common::eventually("the link is back", || {
            link::get(&mut p.node_socket, "host0")
                .unwrap()
                .flags
                .lower_up()
        });
    }
}

#[test]
fn routes_that_lead_nowhere_have_no_next_hop() {
    let mut p = pair();
    for (kind, number) in [
        (Kind::Blackhole, 1),
        (Kind::Unreachable, 2),
        (Kind::Prohibit, 3),
    ] {
        let mut route = Route::new(net(&format!("10.{number}.0.0/16")));
        route.kind = kind;
        route::add(&mut p.node_socket, &route).unwrap();
        let entries = route::entries(&mut p.node_socket, Family::V4, MAIN).unwrap();
        let entry = entries.iter().find(|e| e.route.dst == route.dst).unwrap();
        assert_eq!((entry.route.kind, &entry.next_hops[..]), (kind, &[][..]));
    }
}
