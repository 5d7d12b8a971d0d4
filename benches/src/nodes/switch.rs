// SPDX-License-Identifier: Apache-2.0
//! Two nodes with the switch.

use std::net::IpAddr;

use podswitch_tests::cluster::{namespace, network_policy};
use podswitch_tests::fabric::{VNI, nic_mac, vtep_mac};
use podswitch_tests::objects::set;
use podswitch_tests::{Netns, Node, NodeConfig, Pod};
use serde_json::{Value, json};

use super::side::{Forwarder, POLICIES, TCP, UDP, node, peer, pods_of, wire};

/// Objects of one transaction.
const AT_ONCE: usize = 100;

/// The two daemons and their pods.
pub struct Switches {
    // Pods go before their nodes.
    pods: [Pod; 2],
    nodes: [Node; 2],
}

impl Switches {
    /// Whose workers have a core, the same for both, and whose pods' ports are in a mode; NICs are so, too, in tap mode.
    ///
    /// # Panics
    /// When something cannot be made.
    pub fn new(core: usize, vxlan: bool, mode: &str) -> Switches {
        let prepared = |n: u8| {
            Node::without_daemon(NodeConfig {
                workers: vec![core as u32],
                // Both workers share the core: one that spins takes it from the other.
                daemon: format!("[idle]\nspin_us = 0\n[xdp]\nmode = \"{mode}\"\n"),
                ipam: json!({"type": "podswitch", "ranges": [[{"subnet": pods_of(n)}], [{"subnet": format!("fd00:244:{n}::/64")}]]}),
                ..NodeConfig::default()
            })
        };
        let mut nodes = [prepared(1), prepared(2)];
        wire(nodes[0].netns(), nodes[1].netns());
        for (at, (n, other)) in [(1, 2), (2, 1)].into_iter().enumerate() {
            nodes[at].start();
            nodes[at].apply(&link(n, other, vxlan, mode == "tap"));
            nodes[at].apply(&[set(namespace("default", json!({})))]);
        }
        let client = nodes[0].described_pod("default/client", json!({"app": "client"}));
        let server = nodes[1].described_pod("default/server", json!({"app": "server"}));
        let policies: Vec<Value> = (0..POLICIES).map(policy).collect();
        for some in policies.chunks(AT_ONCE) {
            nodes[1].apply(some);
        }
        Switches {
            pods: [client, server],
            nodes,
        }
    }
}

/// A node's NIC, and the way to the other one's pods.
fn link(n: u8, other: u8, vxlan: bool, tap: bool) -> Vec<Value> {
    let mode = if tap { "tap" } else { "native" };
    let nic = json!({"kind": "nic", "interface": "nic0", "mode": mode});
    let (to, mac) = (node(other), nic_mac(other));
    let mut all = vec![
        json!({"kind": "port", "name": "uplink", "device": nic}),
        json!({"kind": "route", "prefix": "192.0.2.0/24", "port": "uplink"}),
        json!({"kind": "neighbor", "port": "uplink", "address": to, "mac": mac}),
    ];
    let port = if vxlan { "overlay" } else { "uplink" };
    if vxlan {
        let device = json!({"kind": "vxlan", "vni": VNI, "local": [node(n)]});
        let (own, far) = (vtep_mac(n), vtep_mac(other));
        all.push(json!({"kind": "port", "name": port, "device": device, "mac": own}));
        all.push(json!({"kind": "neighbor", "port": port, "address": to, "mac": far}));
    }
    let prefix = pods_of(other);
    all.push(json!({"kind": "route", "prefix": prefix, "port": port, "via": to}));
    all.into_iter().map(set).collect()
}

/// Lets one peer on to the server.
fn policy(n: usize) -> Value {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [{"ipBlock": {"cidr": peer(n)}}],
            "ports": [{"protocol": "UDP", "port": UDP}, {"protocol": "TCP", "port": TCP}],
        }],
    });
    set(network_policy(&format!("default/allow-{n}"), spec))
}

impl Forwarder for Switches {
    fn pods(&self) -> [&Netns; 2] {
        [&self.pods[0].netns, &self.pods[1].netns]
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [self.pods[0].v4(), self.pods[1].v4()]
    }

    fn nodes(&self) -> [&Netns; 2] {
        [self.nodes[0].netns(), self.nodes[1].netns()]
    }
}
