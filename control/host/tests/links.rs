// SPDX-License-Identifier: Apache-2.0
//! Interfaces in namespaces of their own.

mod common;

use std::os::fd::AsFd;

use common::{HOST_MAC, POD_MAC};
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::{self, Named};

fn namespace() -> Named {
    Named::unique("ps-host-link").unwrap()
}

fn end(name: &str, mac: [u8; 6], mtu: u32) -> VethEnd<'_> {
    VethEnd { name, mac, mtu }
}

#[test]
fn veth_into_another_namespace_has_names_macs_and_mtus() {
    let (node, pod) = (namespace(), namespace());
    let (mut node_socket, mut pod_socket) = (node.socket().unwrap(), pod.socket().unwrap());
    let veth = Veth::new(end("host0", HOST_MAC, 9000), end("eth0", POD_MAC, 1400))
        .peer_in(pod.netns().as_fd());
    let host = link::create_veth(&mut node_socket, &veth).unwrap();

    let pod_end = link::get(&mut pod_socket, "eth0").unwrap();
    assert_eq!(
        (host.name.as_str(), host.mac, host.mtu),
        ("host0", Some(HOST_MAC), 9000)
    );
    assert_eq!((pod_end.mac, pod_end.mtu), (Some(POD_MAC), 1400));
    assert_eq!(host.kind.as_deref(), Some("veth"));
    assert_eq!((host.rx_queues, host.tx_queues), (1, 1));
    assert_eq!((pod_end.rx_queues, pod_end.tx_queues), (1, 1));
    assert!(!host.flags.up() && !pod_end.flags.up());
    let peer = host.peer.unwrap();
    assert_eq!(peer.index, pod_end.index);
    assert!(peer.nsid.is_some(), "the other end is in another namespace");
    assert!(link::find(&mut node_socket, "eth0").unwrap().is_none());

    let other = link::peer(&mut node_socket, &host).unwrap().unwrap();
    assert_eq!((other.index, other.name), (pod_end.index, pod_end.name));
    let lo = link::get(&mut node_socket, "lo").unwrap();
    assert_eq!(link::peer(&mut node_socket, &lo).unwrap(), None);

    link::set_up(&mut node_socket, "host0", true).unwrap();
    assert!(!link::get(&mut node_socket, &host).unwrap().flags.lower_up());
    link::set_up(&mut pod_socket, "eth0", true).unwrap();
    let flags = link::get(&mut node_socket, &host).unwrap().flags;
    assert!(flags.up() && flags.lower_up());
}

#[test]
fn both_ends_in_one_namespace_and_many_queues() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    let mut veth = Veth::new(end("a", HOST_MAC, 1500), end("b", POD_MAC, 1500));
    veth.queues = 2;
    let a = link::create_veth(&mut socket, &veth).unwrap();
    let b = link::get(&mut socket, "b").unwrap();
    assert_eq!((a.rx_queues, b.tx_queues), (2, 2));
    assert_eq!(
        a.peer,
        Some(link::Peer {
            index: b.index,
            nsid: None
        })
    );
    let names: Vec<_> = link::list(&mut socket)
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert_eq!(names, ["lo", "b", "a"]);
}

#[test]
fn a_name_that_is_taken_leaves_nothing_behind() {
    let (node, pod) = (namespace(), namespace());
    let (mut node_socket, mut pod_socket) = (node.socket().unwrap(), pod.socket().unwrap());
    let peer = end("eth0", POD_MAC, 1500);
    let veth = Veth::new(end("one", HOST_MAC, 1500), peer).peer_in(pod.netns().as_fd());
    link::create_veth(&mut node_socket, &veth).unwrap();
    let again = Veth {
        host: end("two", HOST_MAC, 1500),
        ..veth
    };
    let error = link::create_veth(&mut node_socket, &again).unwrap_err();
    assert!(error.exists(), "{error}");
    assert!(
        error.to_string().contains("two") && error.to_string().contains("eth0"),
        "{error}"
    );
    assert!(link::find(&mut node_socket, "two").unwrap().is_none());
    assert_eq!(link::list(&mut pod_socket).unwrap().len(), 2);
}

#[test]
fn deleting_twice() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    link::create_veth(
        &mut socket,
        &Veth::new(end("a", HOST_MAC, 1500), end("b", POD_MAC, 1500)),
    )
    .unwrap();
    assert!(link::delete_if_exists(&mut socket, "a").unwrap());
    assert!(!link::delete_if_exists(&mut socket, "a").unwrap());
    assert!(
        link::find(&mut socket, "b").unwrap().is_none(),
        "the other end goes with it"
    );
    let error = link::delete(&mut socket, "a").unwrap_err();
    assert!(error.is_gone());
    assert!(
        error.to_string().contains("interface a") && error.to_string().contains("No such device"),
        "{error}"
    );
}

#[test]
fn names_longer_than_15_bytes_are_refused_by_name() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    let long = "sixteen-bytes-ab";
    let veth = Veth::new(end(long, HOST_MAC, 1500), end("b", POD_MAC, 1500));
    for error in [
        link::create_veth(&mut socket, &veth).unwrap_err(),
        link::create_veth(
            &mut socket,
            &Veth {
                host: veth.peer,
                peer: veth.host,
                ..veth
            },
        )
        .unwrap_err(),
        link::get(&mut socket, long).unwrap_err(),
        link::rename(&mut socket, "lo", long).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.contains(long) && text.contains("16 bytes") && text.contains("15"),
            "{text}"
        );
    }
    assert_eq!(link::list(&mut socket).unwrap().len(), 1);
}

#[test]
fn every_change_shows() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    let veth = Veth::new(end("a.1", HOST_MAC, 1500), end("b", POD_MAC, 1500));
    let a = link::create_veth(&mut socket, &veth).unwrap();
    link::set_mtu(&mut socket, "a.1", 65535).unwrap();
    link::set_mac(&mut socket, a.index, [0x02, 0, 0, 0, 0, 0x09]).unwrap();
    link::set_noarp(&mut socket, &a, true).unwrap();
    link::set_alias(&mut socket, &a, "podswitch: pod default/web").unwrap();
    link::rename(&mut socket, "a.1", "a.2").unwrap();
    let now = link::get(&mut socket, a.index).unwrap();
    assert_eq!((now.name.as_str(), now.mtu), ("a.2", 65535));
    assert_eq!(now.mac, Some([0x02, 0, 0, 0, 0, 0x09]));
    assert_eq!(now.alias.as_deref(), Some("podswitch: pod default/web"));
    assert!(now.flags.noarp());
    link::set_noarp(&mut socket, &a, false).unwrap();
    link::set_alias(&mut socket, &a, "").unwrap();
    let now = link::get(&mut socket, a.index).unwrap();
    assert!(!now.flags.noarp());
    assert_eq!(now.alias, None);
}

#[test]
fn refusals_carry_the_kernels_words_and_the_interface() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    link::create_veth(
        &mut socket,
        &Veth::new(end("a", HOST_MAC, 1500), end("b", POD_MAC, 1500)),
    )
    .unwrap();
    let error = link::set_mtu(&mut socket, "a", 70_000).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EINVAL));
    let text = error.to_string();
    assert!(
        text.contains("interface a") && text.contains("70000"),
        "{text}"
    );
    assert!(
        text.contains("Invalid argument") && text.contains("mtu greater than device maximum"),
        "{text}"
    );
    assert!(link::set_mac(&mut socket, "a", [0xff; 6]).is_err());
    assert_eq!(link::get(&mut socket, "a").unwrap().mac, Some(HOST_MAC));
}

#[test]
fn devices_of_other_kinds() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    assert_eq!(
        link::create(&mut socket, "br0", "bridge")
            .unwrap()
            .kind
            .as_deref(),
        Some("bridge")
    );
    let error = link::create(&mut socket, "x0", "no-such-kind").unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("x0"),
        "{error}"
    );
}

#[test]
fn moving_to_another_namespace() {
    let (node, other) = (namespace(), namespace());
    let mut socket = node.socket().unwrap();
    link::create_veth(
        &mut socket,
        &Veth::new(end("a", HOST_MAC, 1500), end("b", POD_MAC, 1500)),
    )
    .unwrap();
    link::set_netns(&mut socket, "b", other.netns().as_fd()).unwrap();
    assert!(link::find(&mut socket, "b").unwrap().is_none());
    assert_eq!(
        link::get(&mut other.socket().unwrap(), "b").unwrap().mac,
        Some(POD_MAC)
    );
}

#[test]
fn the_end_in_a_deleted_namespace_goes_with_it() {
    let node = namespace();
    let mut socket = node.socket().unwrap();
    let pod = namespace();
    let veth = Veth::new(end("a", HOST_MAC, 1500), end("eth0", POD_MAC, 1500))
        .peer_in(pod.netns().as_fd());
    link::create_veth(&mut socket, &veth).unwrap();
    let path = pod.path().to_owned();
    drop(pod);
    assert!(netns::open(&path).is_err());
    common::eventually("the veth is gone", || {
        link::find(&mut socket, "a").unwrap().is_none()
    });
}
