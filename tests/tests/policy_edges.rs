// SPDX-License-Identifier: Apache-2.0
//! Network policy at its edges: the node's own traffic, protocols that the kernel has no sockets for, floods, and what an operator is told.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::cluster::{namespace, network_policy};
use podswitch_tests::frames::Ends;
use podswitch_tests::objects::set;
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{Echo, ping, ping_once, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// How long something that must not happen is given to happen.
const QUIET: Duration = Duration::from_millis(400);
/// The gateway's MAC address, as configured by default.
const GATEWAY: [u8; 6] = *b"\x02podsw";
const WEB: u16 = 7001;

fn node() -> Node {
    let node = Node::new(NodeConfig {
        workers: vec![0, 1],
        ..NodeConfig::default()
    });
    node.apply(&[set(namespace("shop", json!({})))]);
    node
}

fn app(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

fn mac_of(netns: &Netns, link: &str) -> String {
    let links = netns.ip_json(&format!("link show {link}"));
    links[0]["address"]
        .as_str()
        .expect("a MAC address")
        .to_owned()
}

/// Makes the node a station of the switch: `node0` with `address` in the node's namespace, behind a port that is marked so.
fn attach_node(node: &Node, address: &str) {
    let netns = node.netns();
    netns.ip("link add psnode type veth peer name node0");
    netns.ip(&format!("address add {address}/32 dev node0"));
    netns.ip("link set node0 up");
    netns.ip("link set psnode up");
    netns.ip("route add 169.254.1.1 dev node0 scope link");
    netns.ip(&format!(
        "route add 10.244.1.0/24 via 169.254.1.1 dev node0 src {address}"
    ));
    node.apply(&[set(json!({
        "kind": "port", "name": "node", "node": true, "device": {"kind": "veth", "interface": "psnode"},
        "mac": mac_of(netns, "node0"), "addresses": [address],
    }))]);
}

#[test]
fn the_node_reaches_isolated_pods_and_they_it() {
    let node = node();
    let pod = node.described_pod("shop/web", json!({}));
    let other = node.described_pod("shop/other", json!({}));
    attach_node(&node, "192.0.2.1");
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    node.apply(&[set(network_policy("shop/deny", spec))]);
    assert!(!ping_once(&other.netns, pod.v4(), 56, 1));
    ping(node.netns(), pod.v4());
    let _echo = Echo::start(&pod.netns, WEB);
    let mut probe = tcp_connect(node.netns(), pod.v4(), WEB, HUNG).expect("a probe");
    tcp_echo(&mut probe, b"are you well");
    ping(&pod.netns, IpAddr::from([192, 0, 2, 1]));
    // What only looks like the node is not the node: its address does not come from its port.
    let raw = RawSocket::open(&other.netns, "eth0");
    let ends = Ends {
        source_mac: other.mac(),
        destination_mac: GATEWAY,
        from: IpAddr::from([192, 0, 2, 1]),
        to: pod.v4(),
    };
    let before = node.drops();
    raw.send(&ends.syn((4000, WEB)));
    eventually("the lie to be found out", HUNG, || {
        (node.drops().of("spoofed_address") > before.of("spoofed_address")).then_some(())
    });
    let why = node.why(IpAddr::from([192, 0, 2, 1]), pod.v4(), "tcp", Some(WEB));
    assert_eq!(why["ingress"]["by"], json!("exempt"), "{why}");
}

/// An SCTP packet with one chunk and nothing in it.
fn sctp(from: &Pod, to: &Pod, ports: (u16, u16), chunk: u8) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0; 8]);
    payload.extend([chunk, 0, 0, 4]);
    let ends = Ends {
        source_mac: from.mac(),
        destination_mac: GATEWAY,
        from: from.v4(),
        to: to.v4(),
    };
    ends.packet(132, &payload)
}

#[test]
fn sctp_is_judged_by_its_ports_and_followed_by_its_chunks() {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const DATA: u8 = 0;
    let node = node();
    let web = node.described_pod("shop/web", json!({"app": "web"}));
    let client = node.described_pod("shop/client", json!({"app": "client"}));
    let spec = json!({"podSelector": app("web"), "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": app("client")}], "ports": [{"protocol": "SCTP", "port": 80}]}]});
    node.apply(&[set(network_policy("shop/web", spec))]);
    let [at_web, at_client] = [&web, &client].map(|pod| RawSocket::open(&pod.netns, "eth0"));
    let is_sctp = |frame: &[u8]| frame.len() > 46 && frame[12..14] == [8, 0] && frame[23] == 132;
    let arrives = |at: &RawSocket, wait| at.receive(wait, is_sctp).is_some();
    at_client.send(&sctp(&client, &web, (4000, 80), DATA));
    assert!(!arrives(&at_web, QUIET), "data of no association");
    assert!(node.drops().of("no_connection") > 0);
    at_client.send(&sctp(&client, &web, (4000, 81), INIT));
    assert!(!arrives(&at_web, QUIET), "another port");
    at_web.send(&sctp(&web, &client, (80, 4000), INIT_ACK));
    assert!(!arrives(&at_client, QUIET), "nobody asked");
    at_client.send(&sctp(&client, &web, (4000, 80), INIT));
    assert!(arrives(&at_web, HUNG));
    at_web.send(&sctp(&web, &client, (80, 4000), INIT_ACK));
    assert!(arrives(&at_client, HUNG));
}

#[test]
fn a_flood_from_one_pod_leaves_the_connections_of_another_alone() {
    let node = Node::new(NodeConfig {
        daemon: "[conntrack]\nentries = 1024\n".to_owned(),
        ..NodeConfig::default()
    });
    node.apply(&[set(namespace("shop", json!({})))]);
    let web = node.described_pod("shop/web", json!({"app": "web"}));
    let client = node.described_pod("shop/client", json!({"app": "client"}));
    let flooder = node.described_pod("shop/flooder", json!({"app": "client"}));
    let spec =
        json!({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("client")}]}]});
    node.apply(&[set(network_policy("shop/web", spec))]);
    let _echo = Echo::start(&web.netns, WEB);
    let mut stream = tcp_connect(&client.netns, web.v4(), WEB, HUNG).expect("a connection");
    tcp_echo(&mut stream, b"before");
    let raw = RawSocket::open(&flooder.netns, "eth0");
    let ends = Ends {
        source_mac: flooder.mac(),
        destination_mac: GATEWAY,
        from: flooder.v4(),
        to: web.v4(),
    };
    // Datagrams: a SYN that is refused is over at once, and holds nothing. Few of a burst get as far as the switch.
    let mut ports = (1024..u16::MAX).cycle();
    eventually("its share to be used up", HUNG, || {
        for port in ports.by_ref().take(100) {
            raw.send(&ends.udp((port, 9), 64, b"flood"));
        }
        (node.drops().of("flow_quota") > 0).then_some(())
    });
    tcp_echo(&mut stream, b"after");
    // New ones of the others find room.
    let mut other = tcp_connect(&client.netns, web.v6(), WEB, HUNG).expect("a connection");
    tcp_echo(&mut other, b"too");
}

#[test]
fn an_operator_applies_manifests_and_is_told_who_was_refused_by_what() {
    let node = Node::new(NodeConfig::default());
    let (web, client) = (
        node.undescribed_pod("shop/web"),
        node.undescribed_pod("shop/client"),
    );
    let pod = |name: &str, pod: &Pod| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{containers: []}}\nstatus: {{phase: Running, podIPs: [{{ip: {}}}]}}\n---\n",
            pod.v4()
        )
    };
    let file = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n{}{}{}",
        pod("web", &web),
        pod("client", &client),
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {podSelector: {matchLabels: {app: web}}}\n",
    );
    let ctl = node.ctl();
    ctl.run_with(&["policy", "apply", "-f", "-"], file.as_bytes())
        .success("policy apply");
    assert!(!ping_once(&client.netns, web.v4(), 56, 1));
    let why = ctl.run(&[
        "why",
        "--from",
        "shop/client",
        "--to",
        "shop/web",
        "--port",
        "443",
    ]);
    assert_eq!(why.status, 1);
    assert!(
        why.stdout.contains("isolated by NetworkPolicy shop/deny"),
        "{why:?}"
    );
    let event = eventually("an event", HUNG, || {
        let events = node
            .rpc("events", &json!({"wait_ms": 1000}))
            .expect("events");
        let mut all = events["events"]
            .as_array()
            .expect("a list")
            .clone()
            .into_iter();
        all.find(|e| e["reason"] == "policy_isolated_ingress")
    });
    assert_eq!(
        event["from"]["pod"],
        json!({"namespace": "shop", "name": "client"}),
        "{event}"
    );
    assert_eq!(event["to"]["pod"]["name"], json!("web"), "{event}");
    assert_eq!(
        event["isolated_by"],
        json!([{"namespace": "shop", "name": "deny"}]),
        "{event}"
    );
    ctl.run_with(&["policy", "delete", "-f", "-"], file.as_bytes())
        .success("policy delete");
    ping(&client.netns, web.v4());
}
