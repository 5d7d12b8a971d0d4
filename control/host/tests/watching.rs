// SPDX-License-Identifier: Apache-2.0
//! Notices of links and addresses.

mod common;

use common::{DEADLINE, Pair, readable};
use podswitch_host::watch::{Event, Watch};
use podswitch_host::{addr, link};

fn pair() -> Pair {
    Pair::new("ps-host-watch")
}

fn watch(p: &Pair) -> Watch {
    p.node.netns().run(Watch::open).unwrap().unwrap()
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
    let mut watch = watch(&p);
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
    let mut watch = watch(&p);
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
    let mut watch = watch(&p);
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
    let mut watch = watch(&p);
    for round in 0..4000 {
        link::set_mtu(&mut p.node_socket, "host0", 1400 + round % 2).unwrap();
    }
    wait_for(&mut watch, |e| *e == Event::Resync);
    // And goes on afterwards.
    link::delete(&mut p.node_socket, "host0").unwrap();
    wait_for(&mut watch, |e| matches!(e, Event::LinkGone { .. }));
}
