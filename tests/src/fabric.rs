// SPDX-License-Identifier: Apache-2.0
//! Several nodes, numbered from 1, whose NICs are on one network: their addresses, and the objects that have their pods reach one another.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::kernel::{counter, counter6};
use crate::netns::Netns;
use crate::node::{Node, NodeConfig, Pod};
use crate::objects::set;
use crate::traffic::{Echo, ping, tcp_connect, tcp_echo};
use crate::uplink;
use crate::wait::HUNG;

/// The VXLAN network of the tunnels.
pub const VNI: u32 = 7;
/// A node's NIC.
pub const NIC: &str = "nic0";

/// MAC address of a node's NIC.
pub fn nic_mac(n: u8) -> String {
    format!("02:00:5e:00:01:{n:02x}")
}

/// MAC address of a node's end of tunnels.
pub fn vtep_mac(n: u8) -> String {
    format!("02:00:5e:00:02:{n:02x}")
}

/// A node's addresses on the network, IPv4 and IPv6.
pub fn node_at(n: u8) -> [String; 2] {
    [format!("192.0.2.{n}"), format!("2001:db8::{n}")]
}

/// Where a node's tunnels end: addresses of its own, reached by those on the network.
pub fn end_at(n: u8) -> [String; 2] {
    [format!("198.51.100.{n}"), format!("2001:db8:1::{n}")]
}

/// The pods' prefixes of a node.
pub fn pods_of(n: u8) -> [String; 2] {
    [format!("10.244.{n}.0/24"), format!("fd00:244:{n}::/64")]
}

/// The address, from its text.
///
/// # Panics
/// If it is none.
#[track_caller]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses of a pod, IPv4 and IPv6.
#[track_caller]
pub fn at(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4(), pod.v6()]
}

/// A node without a daemon yet, whose pods have the addresses of this number.
#[track_caller]
pub fn prepared(n: u8) -> Node {
    let [v4, v6] = pods_of(n);
    Node::without_daemon(NodeConfig {
        ipam: json!({"type": "podswitch", "ranges": [[{"subnet": v4}], [{"subnet": v6}]]}),
        ..NodeConfig::default()
    })
}

/// Gives a namespace's NIC, which is there, the addresses of this number, and brings it up as one on a real wire.
#[track_caller]
pub fn settle(netns: &Netns, n: u8) {
    address(netns, n);
    uplink::plug(netns, NIC);
}

/// Gives a namespace's NIC the addresses of this number.
#[track_caller]
pub fn address(netns: &Netns, n: u8) {
    let ([v4, v6], [end_v4, end_v6]) = (node_at(n), end_at(n));
    netns.ip(&format!("link set {NIC} address {}", nic_mac(n)));
    netns.ip(&format!("address add {v4}/24 dev {NIC}"));
    netns.ip(&format!("address add {v6}/64 dev {NIC} nodad"));
    netns.ip(&format!("address add {end_v4}/32 dev {NIC}"));
    netns.ip(&format!("address add {end_v6}/128 dev {NIC} nodad"));
}

/// Joins two namespaces by a wire that ends in the NIC of the first.
#[track_caller]
pub fn wire(node: &Netns, other: &Netns, end: &str) {
    let to = other.name();
    node.ip(&format!(
        "link add {NIC} type veth peer name {end} netns {to}"
    ));
}

/// The NIC's port, and the ways to other nodes on the network.
pub fn nic_port(others: &[u8]) -> Vec<Value> {
    let device = json!({"kind": "nic", "interface": NIC});
    let mut all = vec![set(
        json!({"kind": "port", "name": "uplink", "device": device}),
    )];
    for prefix in ["192.0.2.0/24", "2001:db8::/64"] {
        all.push(route(prefix, "uplink", None));
    }
    for n in others {
        for (via, end) in node_at(*n).into_iter().zip(end_at(*n)) {
            all.push(set(
                json!({"kind": "neighbor", "port": "uplink", "address": via, "mac": nic_mac(*n)}),
            ));
            all.push(route(&end, "uplink", Some(&via)));
        }
    }
    all
}

/// A route; of a single address when there is no length.
fn route(prefix: &str, port: &str, via: Option<&str>) -> Value {
    let whole = if prefix.contains(':') { "/128" } else { "/32" };
    let length = if prefix.contains('/') { "" } else { whole };
    let mut route = json!({"kind": "route", "prefix": format!("{prefix}{length}"), "port": port});
    if let Some(via) = via {
        route["via"] = json!(via);
    }
    set(route)
}

/// How packets of pods go from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the nodes' own addresses.
    Native,
    /// Through VXLAN over IPv4.
    Vxlan4,
    /// Through VXLAN over IPv6.
    Vxlan6,
}

/// Routes to the pods of other nodes by their own addresses.
pub fn native(others: &[u8]) -> Vec<Value> {
    let routes = others
        .iter()
        .flat_map(|n| pods_of(*n).into_iter().zip(node_at(*n)));
    routes
        .map(|(prefix, via)| route(&prefix, "uplink", Some(&via)))
        .collect()
}

/// A tunnel to other nodes over IPv4 or IPv6, and the routes by it.
pub fn tunnel(n: u8, others: &[u8], over_v6: bool) -> Vec<Value> {
    let device = json!({"kind": "vxlan", "vni": VNI, "local": end_at(n)});
    let mut all = vec![set(
        json!({"kind": "port", "name": "overlay", "device": device, "mac": vtep_mac(n)}),
    )];
    for other in others {
        let end = &end_at(*other)[usize::from(over_v6)];
        all.push(set(
            json!({"kind": "neighbor", "port": "overlay", "address": end, "mac": vtep_mac(*other)}),
        ));
        all.extend(pods_of(*other).map(|prefix| route(&prefix, "overlay", Some(end))));
    }
    all
}

/// The same as a tunnel with group policy.
pub fn grouped_tunnel(n: u8, others: &[u8], over_v6: bool) -> Vec<Value> {
    let mut all = tunnel(n, others, over_v6);
    for change in &mut all {
        if change["object"]["kind"] == "port" {
            change["object"]["device"]["group_policy"] = json!(true);
        }
    }
    all
}

/// A node where the kernel's VXLAN device does it, as flannel sets it up, with more options of that device. It has the first addresses of the pods' prefixes
/// itself.
#[track_caller]
pub fn kernel_node(n: u8, other: u8, over_v6: bool, options: &str) -> Netns {
    let netns = Netns::new("flannel");
    let [v4, v6] = pods_of(n).map(|net| net.replace("0/24", "1").replace("::/64", "::1"));
    let [to_v4, to_v6] = pods_of(other);
    let family = usize::from(over_v6);
    let (local, remote) = (&end_at(n)[family], &end_at(other)[family]);
    let far = vtep_mac(other);
    netns.ip(&format!("address add {v4}/32 dev lo"));
    netns.ip(&format!("address add {v6}/128 dev lo nodad"));
    netns.ip(&format!(
        "link add vx0 address {} type vxlan id {VNI} dstport 4789 local {local} nolearning {options}",
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
    let words = ["fdb", "add", &far, "dev", "vx0", "dst", remote];
    let added = bridge.args(words).output().expect("bridge");
    assert!(added.status.success(), "{added:?}");
    netns
}

/// Gives a namespace on the network the way to where a node's tunnels end.
#[track_caller]
pub fn reach_ends(netns: &Netns, n: u8) {
    for (end, via) in end_at(n).into_iter().zip(node_at(n)) {
        netns.ip(&format!("route add {end} via {via}"));
    }
}

/// Everything that node `n` needs to reach the pods of the others.
pub fn objects(n: u8, others: &[u8], way: Way) -> Vec<Value> {
    let mut all = nic_port(others);
    all.extend(match way {
        Way::Native => native(others),
        Way::Vxlan4 => tunnel(n, others, false),
        Way::Vxlan6 => tunnel(n, others, true),
    });
    all
}

/// The same objects, with the port on the NIC in a mode.
#[must_use]
pub fn in_mode(mut objects: Vec<Value>, mode: &str) -> Vec<Value> {
    let devices = objects.iter_mut();
    let devices = devices.filter_map(|change| change.pointer_mut("/object/device"));
    for device in devices.filter(|device| device["kind"] == "nic") {
        device["mode"] = json!(mode);
    }
    objects
}

/// Echo and TCP, in both families, from one to the other; large enough for many segments.
#[track_caller]
pub fn assert_reach(from: &Netns, to: &Netns, to_at: [IpAddr; 2]) {
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i >> 3) as u8).collect();
    let echo = Echo::start(to, 7);
    for address in to_at {
        ping(from, address);
        let stream = tcp_connect(from, address, echo.port(), HUNG);
        let mut stream = stream.unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        tcp_echo(&mut stream, &bytes);
    }
}

/// No checksum was wrong that came to the namespace.
#[track_caller]
pub fn assert_checksums_right(netns: &Netns) {
    assert_eq!(counter(netns, "Tcp", "InCsumErrors"), 0, "TCP checksums");
    assert_eq!(counter6(netns, "Udp6InCsumErrors"), 0, "UDP checksums");
}

/// The name of a pod's port.
#[track_caller]
pub fn port_of(node: &Node, pod: &Pod) -> String {
    let ports = node.get("port", &json!({}));
    let address = json!(pod.v4());
    let of = |port: &&Value| {
        let all = port["object"]["addresses"].as_array();
        all.is_some_and(|all| all.contains(&address))
    };
    let port = ports.iter().find(of).expect("the pod's port");
    port["object"]["name"].as_str().expect("a name").to_owned()
}
