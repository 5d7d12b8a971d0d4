// SPDX-License-Identifier: Apache-2.0
//! Notices of links, addresses, neighbours and routes.

mod common;

use common::{DEADLINE, POD_MAC, Pair, readable};
use podswitch_host::route::{self, Route};
use podswitch_host::watch::{Event, Topic, Watch};
use podswitch_host::{addr, link, neigh};

fn pair() -> Pair {
    Pair::new("ps-host-watch")
}

const ALL: [Topic; 4] = [
    Topic::Links,
    Topic::Addresses,
    Topic::Neighbors,
    Topic::Routes,
];

fn watch(p: &Pair, topics: &[Topic]) -> Watch {
    let open = || Watch::open(topics);
    p.node.netns().run(open).unwrap().unwrap()
}

/// Reads notices until one fits.
#[track_caller]
fn wait_for(watch: &mut Watch, mut fits: impl FnMut(&Event) -> bool) {
    let mut seen = Vec::new();
    while !seen.iter().any(&mut fits) {
        assert!(readable(watch, DEADLINE), "only {seen:?}");
        watch.drain(|event| seen.push(event)).unwrap();
    }
}

#[test]
fn changes_and_deletion_are_told() {
    let mut p = pair();
    let mut watch = watch(&p, &ALL);
    watch
        .drain(|event| panic!("nothing has happened yet: {event:?}"))
        .unwrap();
    link::set_mtu(&mut p.node_socket, "host0", 1400).unwrap();
    wait_for(
        &mut watch,
        |e| matches!(e, Event::LinkChanged(l) if l.name == "host0" && l.mtu == 1400),
    );
    let index = p.host.index;
    link::delete(&mut p.node_socket, "host0").unwrap();
    wait_for(
        &mut watch,
        |e| matches!(e, Event::LinkGone { index: i, name } if *i == index && name == "host0"),
    );
}

#[test]
fn an_interface_goes_with_the_pods_namespace() {
    let p = pair();
    let mut watch = watch(&p, &ALL);
    let Pair {
        node: _node,
        pod,
        node_socket,
        pod_socket,
        host,
        ..
    } = p;
    drop((pod, pod_socket, node_socket));
    wait_for(
        &mut watch,
        |e| matches!(e, Event::LinkGone { index, .. } if *index == host.index),
    );
}

#[test]
fn addresses_come_and_go() {
    let mut p = pair();
    let mut watch = watch(&p, &ALL);
    let net = "10.1.0.1/24".parse().unwrap();
    addr::add(&mut p.node_socket, "host0", net, addr::Options::default()).unwrap();
    wait_for(
        &mut watch,
        |e| matches!(e, Event::AddressChanged(a) if a.net == net),
    );
    addr::delete(&mut p.node_socket, "host0", net).unwrap();
    wait_for(
        &mut watch,
        |e| matches!(e, Event::AddressGone(a) if a.net == net),
    );
}

#[test]
fn lost_notices_ask_for_a_resync() {
    let mut p = pair();
    let mut watch = watch(&p, &ALL);
    for round in 0..4000 {
        link::set_mtu(&mut p.node_socket, "host0", 1400 + round % 2).unwrap();
    }
    wait_for(&mut watch, |e| *e == Event::Resync);
    // And goes on afterwards.
    link::delete(&mut p.node_socket, "host0").unwrap();
    wait_for(&mut watch, |e| matches!(e, Event::LinkGone { .. }));
}

#[test]
fn neighbors_come_and_go() {
    let mut p = pair();
    p.up();
    let mut watch = watch(&p, &[Topic::Neighbors]);
    for address in ["10.1.0.2", "fd00::2"] {
        let ip = address.parse().unwrap();
        let index = p.host.index;
        neigh::set_permanent(&mut p.node_socket, "host0", ip, POD_MAC).unwrap();
        wait_for(&mut watch, |e| {
            matches!(e, Event::NeighborChanged(n)
                if (n.ip, n.mac, n.link) == (ip, Some(POD_MAC), index) && n.permanent())
        });
        neigh::delete(&mut p.node_socket, "host0", ip).unwrap();
        wait_for(
            &mut watch,
            |e| matches!(e, Event::NeighborGone(n) if n.ip == ip && n.link == index),
        );
    }
}

#[test]
fn a_neighbor_that_does_not_answer_is_told_as_failed() {
    let mut p = pair();
    p.up();
    let net = "10.1.0.1/24".parse().unwrap();
    addr::add(&mut p.node_socket, "host0", net, addr::Options::default()).unwrap();
    let mut watch = watch(&p, &[Topic::Neighbors]);
    let send = || {
        let socket = std::net::UdpSocket::bind("10.1.0.1:0")?;
        socket.send_to(b"?", "10.1.0.77:9")
    };
    p.node.netns().run(send).unwrap().unwrap();
    let silent: std::net::IpAddr = "10.1.0.77".parse().unwrap();
    wait_for(
        &mut watch,
        |e| matches!(e, Event::NeighborChanged(n) if n.ip == silent && n.failed() && n.mac.is_none()),
    );
}

#[test]
fn routes_come_and_go() {
    let mut p = pair();
    p.up();
    let mut watch = watch(&p, &[Topic::Routes]);
    for (dst, via) in [("10.9.0.0/16", "10.1.0.2"), ("fd09::/48", "fe80::2")] {
        let route = Route::new(dst.parse().unwrap())
            .via(via.parse().unwrap())
            .dev(p.host.index)
            .onlink();
        let same = |e: &route::Entry| e.route.dst == route.dst && e.next_hops.len() == 1;
        route::add(&mut p.node_socket, &route).unwrap();
        wait_for(
            &mut watch,
            |e| matches!(e, Event::RouteChanged(entry) if same(entry)),
        );
        route::delete(&mut p.node_socket, &route).unwrap();
        wait_for(
            &mut watch,
            |e| matches!(e, Event::RouteGone(entry) if same(entry)),
        );
    }
}

#[test]
fn only_what_was_asked_for_is_told() {
    let mut p = pair();
    let mut watch = watch(&p, &[Topic::Addresses]);
    link::set_mtu(&mut p.node_socket, "host0", 1400).unwrap();
    let net = "10.1.0.1/24".parse().unwrap();
    addr::add(&mut p.node_socket, "host0", net, addr::Options::default()).unwrap();
    assert!(readable(&watch, DEADLINE));
    let mut seen = Vec::new();
    watch.drain(|event| seen.push(event)).unwrap();
    assert!(
        matches!(&seen[..], [Event::AddressChanged(a)] if a.net == net),
        "{seen:?}"
    );
}
