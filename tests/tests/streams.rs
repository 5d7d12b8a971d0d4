// SPDX-License-Identifier: Apache-2.0
//! TCP streams of pods: the segments of a burst leave together, for the stack of a pod on this node whole, for a wire cut again into
//! segments that fit it; and nothing is changed on the way.

use std::net::IpAddr;

use podswitch_tests::fabric::{
    NIC, Way, assert_checksums_right, at, in_mode, objects, prepared, settle, wire,
};
use podswitch_tests::programs::run;
use podswitch_tests::traffic::{Echo, IperfServer, iperf, ping, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod};
use serde_json::json;

/// A frame with a packet of 1500 bytes.
const LARGEST: u64 = 1514;

/// Packets and bytes that a namespace's interface has received.
fn received(netns: &Netns, interface: &str) -> (u64, u64) {
    let links = netns.ip_json(&format!("-s link show dev {interface}"));
    let rx = &links[0]["stats64"]["rx"];
    let number = |what: &str| rx[what].as_u64().expect("a counter");
    (number("packets"), number("bytes"))
}

/// Bytes of a frame, on average, while `work` was done.
fn average(netns: &Netns, interface: &str, work: impl FnOnce()) -> u64 {
    let before = received(netns, interface);
    work();
    let after = received(netns, interface);
    (after.1 - before.1) / (after.0 - before.0).max(1)
}

/// Bytes there and back in both families.
fn echo(from: &Pod, to: &Pod) {
    let bytes: Vec<u8> = (0..4_000_000u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect();
    let server = Echo::start(&to.netns, 7);
    for address in at(to) {
        ping(&from.netns, address);
        let mut stream =
            tcp_connect(&from.netns, address, server.port(), HUNG).expect("a connection");
        tcp_echo(&mut stream, &bytes);
    }
}

/// As fast as it goes, for a second.
fn stream(from: &Pod, to: &Pod, address: IpAddr) {
    let server = IperfServer::start(&to.netns, 9001);
    iperf(&from.netns, address, &server, 1, &[]);
}

/// A pod on a port in an XDP mode.
fn pod(node: &Node, mode: &str) -> Pod {
    node.pod_with(|conf| conf["mode"] = json!(mode))
}

/// Superframes that the switch has cut itself.
fn cut(node: &Node) -> u64 {
    // What never happened is left out.
    let stats = node.stats();
    stats["events"]["segmented"].as_u64().unwrap_or(0)
}

fn from_pod_to_pod(mode: &str) {
    let node = Node::new(NodeConfig::default());
    let (from, to) = (pod(&node, mode), pod(&node, mode));
    echo(&from, &to);
    for address in at(&to) {
        let size = average(&to.netns, "eth0", || stream(&from, &to, address));
        assert!(size > LARGEST, "{size} bytes a frame");
    }
    assert_eq!(cut(&node), 0);
    for pod in [&from, &to] {
        assert_checksums_right(&pod.netns);
    }
}

#[test]
fn from_pod_to_pod_segments_arrive_together() {
    from_pod_to_pod("native");
}

/// In generic XDP mode a pod hands over superframes, which stay what they are; so in tap mode.
#[test]
fn from_pod_to_pod_superframes_stay_whole() {
    from_pod_to_pod("generic");
    from_pod_to_pod("tap");
}

/// Two nodes with a pod each whose NICs are on one bridge, where the first one's end is `port1`. `tso`: the NICs segment.
fn two_nodes(switch: &Netns, mode: &str, tso: bool) -> [(Node, Pod); 2] {
    switch.ip("link add bridge0 type bridge mcast_snooping 0");
    switch.ip("link set bridge0 up");
    [(1, 2), (2, 1)].map(|(n, other)| {
        let mut node = prepared(n);
        let end = format!("port{n}");
        wire(node.netns(), switch, &end);
        switch.ip(&format!("link set {end} master bridge0 up"));
        settle(node.netns(), n);
        if tso {
            let mut ethtool = node.netns().command("ethtool");
            let on = ethtool.args(["-K", NIC, "tx", "on", "tso", "on"]);
            run(on, b"", HUNG).success("ethtool -K");
        }
        node.start();
        let nic = if mode == "tap" { mode } else { "auto" };
        node.apply(&in_mode(objects(n, &[other], Way::Native), nic));
        let pod = pod(&node, mode);
        (node, pod)
    })
}

fn over_a_wire(mode: &str, tso: bool) {
    let switch = Netns::new("wire");
    let [(one, from), (_two, to)] = two_nodes(&switch, mode, tso);
    echo(&from, &to);
    echo(&to, &from);
    for address in at(&to) {
        let mut on_wire = 0;
        let size = average(&to.netns, "eth0", || {
            on_wire = average(&switch, "port1", || stream(&from, &to, address));
        });
        assert!(size > LARGEST, "{size} bytes a frame for the pod");
        assert_eq!(on_wire > LARGEST, tso, "{on_wire} bytes a frame");
    }
    assert_eq!(cut(&one), 0);
    for pod in [&from, &to] {
        assert_checksums_right(&pod.netns);
    }
}

#[test]
fn over_a_nic_that_does_not_segment() {
    over_a_wire("native", false);
}

#[test]
fn over_a_nic_that_segments() {
    over_a_wire("native", true);
}

#[test]
fn superframes_over_a_nic_that_does_not_segment() {
    over_a_wire("generic", false);
}

#[test]
fn superframes_over_a_nic_that_segments() {
    over_a_wire("generic", true);
}

#[test]
fn by_tap_devices_over_a_nic_that_does_not_segment() {
    over_a_wire("tap", false);
}

#[test]
fn by_tap_devices_over_a_nic_that_segments() {
    over_a_wire("tap", true);
}
