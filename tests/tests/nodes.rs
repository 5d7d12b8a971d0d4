// SPDX-License-Identifier: Apache-2.0
//! Pods of several nodes, and DPDK programs, reach one another over the nodes' NICs: natively routed, through VXLAN over IPv4 and IPv6, and with a node whose other
//! end is the kernel's own VXLAN device. The wire is a bridge or a veth pair without checksum offload, as a wire carries whole checksums.

use std::net::IpAddr;

use podswitch_tests::fabric::{
    Way, address, assert_checksums_right, assert_reach, at, in_mode, ip, kernel_node, native,
    nic_port, node_at, objects, port_of, prepared, reach_ends, settle, tunnel, wire,
};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::testpmd::{Device, Testpmd};
use podswitch_tests::traffic::{ping, ping_once};
use podswitch_tests::{HUNG, Netns, Node, Pod, eventually};
use serde_json::{Value, json};

/// Whether nothing comes from one address to another, for a second.
fn is_cut(from: &Netns, to: IpAddr) -> bool {
    !ping_once(from, to, 56, 1)
}

/// Nodes whose NICs are on one bridge, with a pod each.
struct Nodes {
    // Declared, so dropped, in this order.
    all: Vec<(Node, Pod)>,
    _switch: Netns,
}

impl Nodes {
    /// As many nodes; `of` makes the objects of a node from its number and the others'.
    fn new(count: u8, of: impl Fn(u8, &[u8]) -> Vec<Value>) -> Nodes {
        let switch = Netns::new("wire");
        switch.ip("link add bridge0 type bridge mcast_snooping 0");
        switch.ip("link set bridge0 up");
        let start = |n| {
            let mut node = prepared(n);
            let end = format!("port{n}");
            wire(node.netns(), &switch, &end);
            switch.ip(&format!("link set {end} master bridge0 up"));
            settle(node.netns(), n);
            node.start();
            let others: Vec<u8> = (1..=count).filter(|other| *other != n).collect();
            node.apply(&of(n, &others));
            let pod = node.pod();
            (node, pod)
        };
        Nodes {
            all: (1..=count).map(start).collect(),
            _switch: switch,
        }
    }

    /// Every pod reaches every other, and their checksums are right.
    #[track_caller]
    fn assert_all_reach(&self) {
        for (i, (_, from)) in self.all.iter().enumerate() {
            for (j, (_, to)) in self.all.iter().enumerate() {
                if i != j {
                    assert_reach(&from.netns, &to.netns, at(to));
                }
            }
        }
        for (_, pod) in &self.all {
            assert_checksums_right(&pod.netns);
        }
    }
}

fn three_nodes(of: impl Fn(u8, &[u8]) -> Vec<Value>) {
    let mut nodes = Nodes::new(3, of);
    nodes.assert_all_reach();
    let [(a, one), (b, two), (c, three)] = &mut nodes.all[..] else {
        unreachable!("three were made");
    };
    // The host's own traffic passes beside it.
    ping(a.netns(), ip(&node_at(2)[0]));
    ping(c.netns(), ip(&node_at(1)[1]));
    // Policy of a receiving node holds for whom it names.
    let deny = json!({"kind": "rule", "name": "deny", "port": port_of(b, two), "direction": "ingress",
        "priority": 1, "action": "deny", "source": one.v4().to_string() + "/32"});
    b.apply(&[set(deny)]);
    assert!(is_cut(&one.netns, two.v4()));
    ping(&one.netns, two.v6());
    ping(&three.netns, two.v4());
    // A node that is killed and comes back: its pods are cut off, and nobody else's.
    b.kill();
    assert!(is_cut(&one.netns, two.v6()));
    ping(&one.netns, three.v4());
    ping(&three.netns, one.v6());
    ping(a.netns(), ip(&node_at(2)[0]));
    b.start();
    ping(&one.netns, two.v6());
    ping(&three.netns, two.v4());
    assert!(is_cut(&one.netns, two.v4()));
}

#[test]
fn pods_of_three_nodes_natively_routed() {
    three_nodes(|n, others| objects(n, others, Way::Native));
}

#[test]
fn pods_of_three_nodes_through_vxlan_over_ipv4() {
    three_nodes(|n, others| objects(n, others, Way::Vxlan4));
}

#[test]
fn pods_of_three_nodes_through_vxlan_over_ipv6() {
    three_nodes(|n, others| objects(n, others, Way::Vxlan6));
}

/// Ways differ by destination: IPv4 natively, IPv6 through the tunnel.
#[test]
fn native_routing_and_vxlan_side_by_side() {
    let of = |n, others: &[u8]| {
        let native_v4 = native(others);
        let native_v4 = native_v4.into_iter().step_by(2);
        let mut tunnel = tunnel(n, others, true);
        let by_v4 = |change: &Value| {
            let prefix = change["object"]["prefix"].as_str();
            prefix.is_some_and(|p| !p.contains(':'))
        };
        tunnel.retain(|change| !by_v4(change));
        nic_port(others)
            .into_iter()
            .chain(native_v4)
            .chain(tunnel)
            .collect()
    };
    let nodes = Nodes::new(2, of);
    nodes.assert_all_reach();
    for (node, _) in &nodes.all {
        counts_both_ways(node, "overlay");
    }
}

/// Pods on every kind of port, on two nodes whose NICs are in different modes, too.
fn ports_of_every_kind(way: Way) {
    const MODES: [&str; 3] = ["native", "generic", "tap"];
    let nodes = Nodes::new(2, |n, others| {
        in_mode(
            objects(n, others, way),
            ["generic", "tap"][usize::from(n) - 1],
        )
    });
    let pods_of = |node: &Node| MODES.map(|mode| node.pod_with(|conf| conf["mode"] = json!(mode)));
    let [(one, _), (two, _)] = &nodes.all[..] else {
        unreachable!("two were made");
    };
    let (here, there) = (pods_of(one), pods_of(two));
    for a in &here {
        for b in &there {
            assert_reach(&a.netns, &b.netns, at(b));
            assert_reach(&b.netns, &a.netns, at(a));
        }
    }
    for pod in here.iter().chain(&there) {
        assert_checksums_right(&pod.netns);
    }
}

#[test]
fn pods_on_ports_of_every_kind_natively_routed() {
    ports_of_every_kind(Way::Native);
}

#[test]
fn pods_on_ports_of_every_kind_through_vxlan_over_ipv4() {
    ports_of_every_kind(Way::Vxlan4);
}

#[test]
fn pods_on_ports_of_every_kind_through_vxlan_over_ipv6() {
    ports_of_every_kind(Way::Vxlan6);
}

/// A DPDK program behind a port of the first node, which answers pings, and a pod of the second.
fn a_dpdk_pod_and_a_pod_of_another_node(way: Way) {
    const DPDK: &str = "10.244.1.200";
    const MAC: &str = "02:00:00:00:00:0b";
    let nodes = Nodes::new(2, |n, others| objects(n, others, way));
    let [(here, beside), (there, pod)] = &nodes.all[..] else {
        unreachable!("two were made");
    };
    let socket = here.dir().join("dpdk.sock");
    here.apply(&[set(
        json!({"kind": "port", "name": "dpdk", "mac": MAC, "addresses": [DPDK],
        "device": {"kind": "vhost_user", "socket": socket}}),
    )]);
    let device = Device {
        socket: &socket,
        mac: MAC,
        server: false,
        packed: way == Way::Vxlan6,
        queues: 1,
    };
    let _testpmd = Testpmd::start(&device, &here.dir().join("testpmd.log")).forwards();
    let dpdk = ip(DPDK);
    ping(&pod.netns, dpdk);
    // Up to the longest packet that goes through a tunnel of either family.
    for size in [0, 1000, 1350] {
        let answered = || ping_once(&pod.netns, dpdk, size, 1).then_some(());
        eventually(&format!("{size} bytes come back"), HUNG, answered);
    }
    // What receives the requests, and what receives the answers.
    for (node, port, from) in [
        (here, "dpdk".to_owned(), pod.v4()),
        (there, port_of(there, pod), dpdk),
    ] {
        let deny = json!({"kind": "rule", "name": "deny", "port": port, "direction": "ingress",
            "priority": 1, "action": "deny", "source": format!("{from}/32")});
        let before = node.drops();
        node.apply(&[set(deny)]);
        assert!(is_cut(&pod.netns, dpdk), "{port}");
        let drops = node.drops().since(&before);
        assert!(
            drops.contains_key("policy_denied_ingress"),
            "{port}: {drops:?}"
        );
        // Nobody else is meant.
        ping(&beside.netns, dpdk);
        node.apply(&[delete(json!({"kind": "rule", "name": "deny"}))]);
        ping(&pod.netns, dpdk);
    }
}

#[test]
fn a_dpdk_pod_natively_routed() {
    a_dpdk_pod_and_a_pod_of_another_node(Way::Native);
}

#[test]
fn a_dpdk_pod_through_vxlan_over_ipv4() {
    a_dpdk_pod_and_a_pod_of_another_node(Way::Vxlan4);
}

#[test]
fn a_dpdk_pod_through_vxlan_over_ipv6() {
    a_dpdk_pod_and_a_pod_of_another_node(Way::Vxlan6);
}

/// A port counts what comes by it and what leaves.
#[track_caller]
fn counts_both_ways(node: &Node, port: &str) {
    let stats = node.stats();
    let ports = stats["ports"].as_array().expect("ports is a list");
    let port = ports.iter().find(|p| p["name"] == port).expect("the port");
    let count = |what: &str| port[what].as_u64().unwrap_or(0);
    assert!(count("rx_packets") > 0 && count("tx_packets") > 0, "{port}");
}

fn beside_the_kernel(over_v6: bool, mode: &str) {
    let mut node = prepared(1);
    let kernel = kernel_node(2, 1, over_v6, "");
    wire(node.netns(), &kernel, "nic0");
    match over_v6 {
        // A veth without a wire: it leaves checksums to the other end, those inside of the tunnel, too.
        true => {
            address(&kernel, 2);
            kernel.ip("link set nic0 up");
        }
        false => settle(&kernel, 2),
    }
    reach_ends(&kernel, 1);
    settle(node.netns(), 1);
    node.start();
    let objects = [nic_port(&[2]), tunnel(1, &[2], over_v6)].concat();
    node.apply(&in_mode(objects, mode));
    let pod = node.pod();
    let far = [ip("10.244.2.1"), ip("fd00:244:2::1")];
    assert_reach(&pod.netns, &kernel, far);
    assert_reach(&kernel, &pod.netns, at(&pod));
    assert_checksums_right(&pod.netns);
    assert_checksums_right(&kernel);
}

#[test]
fn a_node_whose_other_end_is_the_kernels_vxlan_over_ipv4() {
    beside_the_kernel(false, "auto");
}

#[test]
fn a_node_whose_other_end_is_the_kernels_vxlan_over_ipv6() {
    beside_the_kernel(true, "auto");
}

/// Where the wire leaves segmentation to the other end, the kernel's tunnels have superframes; a tap device is given their segments.
#[test]
fn a_node_in_tap_mode_whose_other_end_is_the_kernels_vxlan() {
    beside_the_kernel(true, "tap");
}
