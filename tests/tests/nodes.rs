// SPDX-License-Identifier: Apache-2.0
//! Pods of two nodes reach one another over the nodes' NICs: natively routed, through VXLAN over IPv4 and IPv6, and with a node whose other end is the
//! kernel's own VXLAN device. The wire is a veth pair without checksum offload, as a wire carries whole checksums.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::kernel::{counter, counter6};
use podswitch_tests::objects::set;
use podswitch_tests::traffic::{Echo, ping, ping_fails, tcp_connect, tcp_echo};
use podswitch_tests::uplink;
use podswitch_tests::{Netns, Node, NodeConfig, Pod};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(5);
const VNI: u32 = 7;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nic_mac(n: u8) -> String {
    format!("02:00:5e:00:01:{n:02x}")
}

fn vtep_mac(n: u8) -> String {
    format!("02:00:5e:00:02:{n:02x}")
}

fn node_v4(n: u8) -> String {
    format!("192.0.2.{n}")
}

fn node_v6(n: u8) -> String {
    format!("2001:db8::{n}")
}

/// Where a node's tunnels end: an address of its own, reached by its address on the link.
fn end_v4(n: u8) -> String {
    format!("198.51.100.{n}")
}

fn end_v6(n: u8) -> String {
    format!("2001:db8:1::{n}")
}

/// The pods' prefixes of a node.
fn pods_of(n: u8) -> [String; 2] {
    [format!("10.244.{n}.0/24"), format!("fd00:244:{n}::/64")]
}

/// A namespace's end of the wire, up and with the node's addresses.
fn settle(netns: &Netns, n: u8) {
    netns.ip(&format!("link set nic0 address {}", nic_mac(n)));
    netns.ip(&format!("address add {}/24 dev nic0", node_v4(n)));
    netns.ip(&format!("address add {}/64 dev nic0 nodad", node_v6(n)));
    netns.ip(&format!("address add {}/32 dev nic0", end_v4(n)));
    netns.ip(&format!("address add {}/128 dev nic0 nodad", end_v6(n)));
    uplink::plug(netns, "nic0");
}

/// Joins two namespaces by a wire: `nic0` in both.
fn wire(a: &Netns, b: &Netns) {
    a.ip(&format!(
        "link add nic0 type veth peer name nic0 netns {}",
        b.name()
    ));
}

fn prepared(n: u8) -> Node {
    let [v4, v6] = pods_of(n);
    Node::without_daemon(NodeConfig {
        ipam: json!({"type": "podswitch", "ranges": [[{"subnet": v4}], [{"subnet": v6}]]}),
        ..NodeConfig::default()
    })
}

/// The NIC's port, and what is on its link.
fn nic_port(other: u8) -> Vec<Value> {
    let neighbor = |address: String| {
        set(
            json!({"kind": "neighbor", "port": "uplink", "address": address, "mac": nic_mac(other)}),
        )
    };
    let device = json!({"kind": "nic", "interface": "nic0"});
    let mut all = vec![set(
        json!({"kind": "port", "name": "uplink", "device": device}),
    )];
    for prefix in ["192.0.2.0/24", "2001:db8::/64"] {
        all.push(set(
            json!({"kind": "route", "prefix": prefix, "port": "uplink"}),
        ));
    }
    let ends = [
        (node_v4(other), end_v4(other)),
        (node_v6(other), end_v6(other)),
    ];
    for (via, end) in ends {
        let prefix = format!("{end}/{}", if via.contains(':') { 128 } else { 32 });
        all.push(neighbor(via.clone()));
        all.push(set(
            json!({"kind": "route", "prefix": prefix, "port": "uplink", "via": via}),
        ));
    }
    all
}

/// Routes to the pods of another node by its own addresses.
fn native(other: u8) -> Vec<Value> {
    let hops = [node_v4(other), node_v6(other)];
    let routes = pods_of(other).into_iter().zip(hops);
    routes
        .map(|(prefix, via)| {
            set(json!({"kind": "route", "prefix": prefix, "port": "uplink", "via": via}))
        })
        .collect()
}

/// A tunnel to the other node, and the routes by it.
fn tunnel(n: u8, other: u8, remote: &str) -> Vec<Value> {
    let device = json!({"kind": "vxlan", "vni": VNI, "local": [end_v4(n), end_v6(n)]});
    let port = json!({"kind": "port", "name": "overlay", "device": device, "mac": vtep_mac(n)});
    let end =
        json!({"kind": "neighbor", "port": "overlay", "address": remote, "mac": vtep_mac(other)});
    let mut all = vec![set(port), set(end)];
    for prefix in pods_of(other) {
        all.push(set(
            json!({"kind": "route", "prefix": prefix, "port": "overlay", "via": remote}),
        ));
    }
    all
}

/// Echo and TCP, in both families, both ways; large enough for many segments.
#[track_caller]
fn assert_reach(a: &Netns, a_at: [IpAddr; 2], b: &Netns, b_at: [IpAddr; 2]) {
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i >> 3) as u8).collect();
    for (from, to, at) in [(a, b, b_at), (b, a, a_at)] {
        let echo = Echo::start(to, 7);
        for address in at {
            ping(from, address);
            let mut stream = tcp_connect(from, address, echo.port(), WAIT)
                .unwrap_or_else(|e| panic!("connect to {address}: {e}"));
            tcp_echo(&mut stream, &bytes);
        }
    }
}

fn at(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4(), pod.v6()]
}

#[track_caller]
fn assert_checksums_right(netns: &Netns) {
    assert_eq!(counter(netns, "Tcp", "InCsumErrors"), 0, "TCP checksums");
    assert_eq!(counter6(netns, "Udp6InCsumErrors"), 0, "UDP checksums");
}

/// Two nodes with a pod each; `between` makes the objects of a node from its number and the other's.
fn two_nodes(between: impl Fn(u8, u8) -> Vec<Value>) {
    let (mut a, mut b) = (prepared(1), prepared(2));
    wire(a.netns(), b.netns());
    for (node, n, other) in [(&mut a, 1, 2), (&mut b, 2, 1)] {
        settle(node.netns(), n);
        node.start();
        node.apply(&[nic_port(other), between(n, other)].concat());
    }
    let (one, two) = (a.pod(), b.pod());
    assert_reach(&one.netns, at(&one), &two.netns, at(&two));
    assert_checksums_right(&one.netns);
    assert_checksums_right(&two.netns);
    // The host's own traffic passes beside it.
    ping(a.netns(), ip(&node_v4(2)));
    ping(b.netns(), ip(&node_v6(1)));
    // Policy holds on the other node, too.
    let deny = json!({"kind": "rule", "name": "deny", "port": port_of(&b, &two), "direction": "ingress",
        "priority": 1, "action": "deny", "source": one.v4().to_string() + "/32"});
    b.apply(&[set(deny)]);
    assert!(ping_fails(&one.netns, two.v4()));
    ping(&one.netns, two.v6());
    // A node that is killed and comes back.
    b.kill();
    assert!(ping_fails(&one.netns, two.v6()));
    ping(a.netns(), ip(&node_v4(2)));
    b.start();
    ping(&one.netns, two.v6());
}

/// The name of a pod's port.
fn port_of(node: &Node, pod: &Pod) -> String {
    let ports = node.get("port", &json!({}));
    let address = pod.v4().to_string();
    let of = |port: &&Value| {
        let all = port["object"]["addresses"].as_array();
        all.is_some_and(|all| all.iter().any(|a| a == &json!(address)))
    };
    let port = ports.iter().find(of).expect("the pod's port");
    port["object"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn pods_of_two_nodes_natively_routed() {
    two_nodes(|_, other| native(other));
}

#[test]
fn pods_of_two_nodes_through_vxlan_over_ipv4() {
    two_nodes(|n, other| tunnel(n, other, &end_v4(other)));
}

#[test]
fn pods_of_two_nodes_through_vxlan_over_ipv6() {
    two_nodes(|n, other| tunnel(n, other, &end_v6(other)));
}

/// Ways differ by destination: IPv4 natively, IPv6 through the tunnel.
#[test]
fn native_routing_and_vxlan_side_by_side() {
    two_nodes(|n, other| {
        let mut all = tunnel(n, other, &end_v6(other));
        all.retain(|change| change["object"]["prefix"] != json!(pods_of(other)[0]));
        all.push(native(other).remove(0));
        all
    });
}

/// A node where the kernel's VXLAN device does it, as flannel sets it up.
fn kernel_node(n: u8, other: u8, over_v6: bool) -> Netns {
    let netns = Netns::new("flannel");
    let [v4, v6] = pods_of(n).map(|net| net.replace("0/24", "1").replace("::/64", "::1"));
    let [to_v4, to_v6] = pods_of(other);
    let (local, remote) = match over_v6 {
        true => (end_v6(n), end_v6(other)),
        false => (end_v4(n), end_v4(other)),
    };
    let far = vtep_mac(other);
    netns.ip(&format!("address add {v4}/32 dev lo"));
    netns.ip(&format!("address add {v6}/128 dev lo nodad"));
    netns.ip(&format!(
        "link add vx0 address {} type vxlan id {VNI} dstport 4789 local {local} nolearning",
        vtep_mac(n)
    ));
    netns.ip("link set vx0 up");
    for (gateway, net, src) in [("169.254.7.1", to_v4, v4), ("fe80::7", to_v6, v6)] {
        netns.ip(&format!(
            "neighbor add {gateway} lladdr {far} dev vx0 nud permanent"
        ));
        netns.ip(&format!(
            "route add {net} via {gateway} dev vx0 onlink src {src}"
        ));
    }
    let mut bridge = netns.command("bridge");
    let words = ["fdb", "add", &far, "dev", "vx0", "dst", &remote];
    let added = bridge.args(words).output().expect("bridge");
    assert!(added.status.success(), "{added:?}");
    netns
}

fn beside_the_kernel(over_v6: bool) {
    let mut node = prepared(1);
    let kernel = kernel_node(2, 1, over_v6);
    wire(node.netns(), &kernel);
    settle(&kernel, 2);
    kernel.ip(&format!("route add {} via {}", end_v4(1), node_v4(1)));
    kernel.ip(&format!("route add {} via {}", end_v6(1), node_v6(1)));
    settle(node.netns(), 1);
    node.start();
    let remote = if over_v6 { end_v6(2) } else { end_v4(2) };
    node.apply(&[nic_port(2), tunnel(1, 2, &remote)].concat());
    let pod = node.pod();
    let far = [ip("10.244.2.1"), ip("fd00:244:2::1")];
    assert_reach(&pod.netns, at(&pod), &kernel, far);
    assert_checksums_right(&pod.netns);
    assert_checksums_right(&kernel);
}

#[test]
fn a_node_whose_other_end_is_the_kernels_vxlan_over_ipv4() {
    beside_the_kernel(false);
}

#[test]
fn a_node_whose_other_end_is_the_kernels_vxlan_over_ipv6() {
    beside_the_kernel(true);
}
