// SPDX-License-Identifier: Apache-2.0
//! A real container runtime, Debian's containerd, loads our network configuration and makes pods over CRI.

use std::path::PathBuf;

use podswitch_tests::containerd::{Containerd, conflist};
use podswitch_tests::cri::PortMapping;
use podswitch_tests::kernel::counter;
use podswitch_tests::objects::set;
use podswitch_tests::programs::bin_dir;
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo};
use podswitch_tests::uplink::{NODE_V4, PEER_V4, Uplink};
use podswitch_tests::{HUNG, Node, NodeConfig, eventually};
use serde_json::{Value, json};

fn start(node: &Node) -> Containerd {
    let plugin: PathBuf = bin_dir().join("podswitch-cni");
    let mut conf = node.conf();
    conf["capabilities"] = json!({"portMappings": true});
    Containerd::start(node.netns(), &conflist(&conf), &[("podswitch", &plugin)])
}

fn node() -> Node {
    // containerd 1.6 speaks versions up to 1.0.0.
    Node::new(NodeConfig {
        cni_version: "1.0.0".to_owned(),
        ..NodeConfig::default()
    })
}

/// Nothing of any pod: interfaces, ports, leases, namespaces.
#[track_caller]
fn assert_nothing_left(node: &Node, containerd: &Containerd) {
    eventually("no namespace is left", HUNG, || {
        containerd.netns_left().is_empty().then_some(())
    });
    assert_eq!(node.netns().links(), Vec::<String>::new(), "interfaces");
    assert_eq!(node.get("port", &json!({})), Vec::<Value>::new(), "ports");
    assert_eq!(node.leases(), Vec::<String>::new(), "leases");
}

#[test]
fn pods_get_addresses_talk_and_leave_nothing_behind() {
    let node = node();
    let containerd = start(&node);
    let pods = ["a", "b", "c"].map(|name| containerd.pod(name));
    let namespaces = [&pods[0], &pods[1], &pods[2]].map(|pod| containerd.netns(pod));
    for (pod, netns) in pods.iter().zip(&namespaces) {
        assert_eq!(pod.ips.len(), 2, "{pod:?}");
        assert!(pod.ips[0].is_ipv4() && pod.ips[1].is_ipv6(), "{pod:?}");
        let ports = node.get("port", &json!({"container_id": pod.id}));
        assert_eq!(ports.len(), 1, "the port names the sandbox");
        assert_eq!(ports[0]["object"]["pod"]["namespace"], "default");
        assert_eq!(netns.links(), ["eth0"]);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        for address in &pods[to].ips {
            ping(&namespaces[from], *address);
        }
    }
    let server = Echo::start(&namespaces[1], 7);
    for address in &pods[1].ips {
        let mut stream =
            tcp_connect(&namespaces[0], *address, server.port(), HUNG).expect("a connection");
        tcp_echo(&mut stream, &vec![5; 1 << 20]);
    }
    for netns in &namespaces {
        assert_eq!(counter(netns, "Tcp", "InCsumErrors"), 0);
    }
    drop(server);
    // Stop, then remove: the second DEL comes without a namespace and without a result.
    for pod in &pods {
        containerd.cri().stop(&pod.id).expect("StopPodSandbox");
        containerd.cri().remove(&pod.id).expect("RemovePodSandbox");
    }
    assert_nothing_left(&node, &containerd);
}

#[test]
fn a_port_of_the_node_leads_to_a_pod_that_asked_for_it() {
    let node = node();
    let uplink = Uplink::new(&node, 1);
    let way = json!({"kind": "route", "prefix": "0.0.0.0/0", "port": "uplink", "via": PEER_V4});
    node.apply(&[set(uplink.port("native")), set(way)]);
    let containerd = start(&node);
    let mapping = PortMapping {
        container_port: 7,
        host_port: 8080,
    };
    let pod = containerd.try_pod_with("web", 0, &[mapping]);
    let pod = pod.expect("a pod with a hostPort");
    let _server = Echo::start(&containerd.netns(&pod), 7);
    let mut stream = tcp_connect(&uplink.peer, NODE_V4.into(), 8080, HUNG).expect("a connection");
    tcp_echo(&mut stream, &vec![5; 1 << 20]);
    containerd.cri().stop(&pod.id).expect("StopPodSandbox");
    containerd.cri().remove(&pod.id).expect("RemovePodSandbox");
    let refused = tcp_connect(&uplink.peer, NODE_V4.into(), 8080, HUNG).expect_err("it is gone");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_pod_that_failed_is_tried_again() {
    let mut node = node();
    let containerd = start(&node);
    let first = containerd.pod("first");
    node.terminate();
    let refused = containerd
        .try_pod("second", 0)
        .expect_err("the daemon is away");
    assert!(
        refused.contains(&*node.socket().to_string_lossy()),
        "the runtime shows our message: {refused}"
    );
    assert_eq!(
        containerd.netns_left().len(),
        1,
        "the failed sandbox is cleaned up"
    );
    assert_eq!(
        node.leases().len(),
        2,
        "so is its lease: {:?}",
        node.leases()
    );
    node.start();
    let second = containerd.pod("second");
    let netns = containerd.netns(&first);
    for address in &second.ips {
        ping(&netns, *address);
    }
    // A pod stopped while the daemon is away is gone when it is back.
    node.kill();
    containerd.cri().stop(&second.id).expect("StopPodSandbox");
    containerd
        .cri()
        .remove(&second.id)
        .expect("RemovePodSandbox");
    node.start();
    eventually("the port is gone", HUNG, || {
        (node.get("port", &json!({})).len() == 1).then_some(())
    });
    containerd.cri().stop(&first.id).expect("StopPodSandbox");
    containerd
        .cri()
        .remove(&first.id)
        .expect("RemovePodSandbox");
    assert_nothing_left(&node, &containerd);
}
