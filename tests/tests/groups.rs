// SPDX-License-Identifier: Apache-2.0
//! Who packets in tunnels are from (VXLAN Group Policy): of pods of two nodes that know nothing of each other's addresses, and beside the kernel's VXLAN
//! device.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use podswitch_tests::cluster::{namespace, network_policy, pod_object};
use podswitch_tests::fabric::{
    grouped_tunnel, ip, kernel_node, nic_port, prepared, reach_ends, settle, wire,
};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::traffic::{Echo, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, Node};
use serde_json::{Value, json};

/// How long something that must not happen is given to happen.
const QUIET: Duration = Duration::from_millis(400);
const WEB: u16 = 7001;
const CLIENTS: u16 = 7;
const OTHERS: u16 = 0x8008;
const SERVERS: u16 = 9;

fn group(id: u16, app: &str) -> Value {
    set(json!({"kind": "group", "id": id, "namespace": "shop", "labels": {"app": app}}))
}

/// What all nodes know of the cluster: no pods of others.
fn cluster() -> Vec<Value> {
    vec![
        set(namespace("shop", json!({}))),
        group(CLIENTS, "client"),
        group(OTHERS, "other"),
        group(SERVERS, "web"),
        set(network_policy(
            "shop/web",
            json!({"podSelector": {"matchLabels": {"app": "web"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}),
        )),
    ]
}

/// A node on the wire, with a tunnel to another one.
fn start(node: &mut Node, n: u8, other: u8) {
    settle(node.netns(), n);
    node.start();
    let objects = [
        nic_port(&[other]),
        grouped_tunnel(n, &[other], false),
        cluster(),
    ];
    node.apply(&objects.concat());
}

#[track_caller]
fn connects(from: &Netns, to: IpAddr) -> TcpStream {
    let mut stream = tcp_connect(from, to, WEB, HUNG).expect("a connection");
    tcp_echo(&mut stream, b"as long as it may");
    stream
}

fn is_kept_out(from: &Netns, to: IpAddr) -> bool {
    tcp_connect(from, to, WEB, QUIET).is_err()
}

/// Whether nothing comes back of an open connection any more.
fn is_cut(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(QUIET)).expect("a timeout");
    stream.write_all(b"x").expect("a buffer");
    stream.read(&mut [0]).is_err()
}

#[test]
fn a_pod_that_another_node_knows_nothing_of_is_known_by_its_group() {
    let (mut a, mut b) = (prepared(1), prepared(2));
    wire(a.netns(), b.netns(), "nic0");
    start(&mut a, 1, 2);
    start(&mut b, 2, 1);
    let web = b.described_pod("shop/web", json!({"app": "web"}));
    let client = a.described_pod("shop/client", json!({"app": "client"}));
    let other = a.described_pod("shop/other", json!({"app": "other"}));
    let stranger = a.described_pod("shop/stranger", json!({"app": "client", "more": "labels"}));
    let _echo = Echo::start(&web.netns, WEB);

    let mut open = connects(&client.netns, web.v4());
    connects(&client.netns, web.v6());
    for kept_out in [&other, &stranger] {
        assert!(is_kept_out(&kept_out.netns, web.v4()));
    }
    // What has been refused says by which group, and `why` judges by that.
    let events = b.rpc("events", &json!({})).expect("events");
    let events = events["events"].as_array().expect("a list");
    let of = |pod: IpAddr| {
        let event = events.iter().find(|e| e["from"]["address"] == json!(pod));
        event.expect("an event")["group"].clone()
    };
    assert_eq!(of(other.v4()), json!(OTHERS));
    assert_eq!(of(stranger.v4()), Value::Null);
    for (group, allowed) in [(CLIENTS, true), (OTHERS, false)] {
        let params = json!({"from": {"address": client.v4()}, "to": {"address": web.v4()},
            "protocol": "tcp", "port": WEB, "group": group});
        let why = b.rpc("why", &params).expect("an answer");
        assert_eq!(why["allowed"], json!(allowed), "{why}");
        assert_eq!(why["ingress"]["peer_group"], json!(group), "{why}");
    }

    // Nothing is forgotten by a restart: the open connection goes on by what its packets say.
    b.kill();
    b.start();
    tcp_echo(&mut open, b"and on it goes");
    // The client has other labels: its node says so, and this one judges again.
    a.apply(&[set(pod_object(
        "shop/client",
        &client,
        json!({"app": "other"}),
    ))]);
    assert!(is_cut(&mut open) && is_kept_out(&client.netns, web.v4()));
    a.apply(&[set(pod_object(
        "shop/client",
        &client,
        json!({"app": "client"}),
    ))]);
    let mut open = connects(&client.netns, web.v4());
    // The number stands for others.
    b.apply(&[
        delete(json!({"kind": "group", "id": OTHERS})),
        group(CLIENTS, "other"),
    ]);
    assert!(is_cut(&mut open) && is_kept_out(&client.netns, web.v4()));
}

/// Gives a namespace these rules of nftables, and no others.
fn nft(netns: &Netns, rules: &str) {
    let script = format!("flush ruleset\ntable inet t {{\n{rules}\n}}\n");
    let mut nft = netns.command("nft");
    let nft = nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut running = nft.spawn().expect("nft");
    let mut input = running.stdin.take().expect("a pipe");
    input.write_all(script.as_bytes()).expect("a reader");
    drop(input);
    assert!(running.wait().expect("an end").success(), "{script}");
}

/// What leaves by the tunnel is marked, and what comes is heard only with a mark.
fn marks(sent: u16, heard: u16) -> String {
    format!(
        "chain out {{ type route hook output priority 0; ip daddr 10.244.1.0/24 meta mark set {sent}; ip6 daddr fd00:244:1::/64 meta mark set {sent}; }}
        chain in {{ type filter hook input priority 0; iifname vx0 meta mark != {heard} drop; }}"
    )
}

#[test]
fn marks_are_those_of_the_kernels_device() {
    let mut node = prepared(1);
    let kernel = kernel_node(2, 1, false, "gbp");
    wire(node.netns(), &kernel, "nic0");
    settle(&kernel, 2);
    reach_ends(&kernel, 1);
    start(&mut node, 1, 2);
    let web = node.described_pod("shop/web", json!({"app": "web"}));
    let _echo = Echo::start(&web.netns, WEB);
    assert!(is_kept_out(&kernel, web.v4()), "not marked");
    nft(&kernel, &marks(CLIENTS, SERVERS));
    let mut open = connects(&kernel, web.v4());
    connects(&kernel, web.v6());
    // The other way round; the pod is in a policy for what comes alone.
    let _far = Echo::start(&kernel, WEB);
    connects(&web.netns, ip("10.244.2.1"));
    nft(&kernel, &marks(OTHERS, SERVERS));
    assert!(is_cut(&mut open) && is_kept_out(&kernel, web.v4()));
    nft(&kernel, &marks(CLIENTS, OTHERS));
    assert!(is_kept_out(&kernel, web.v4()), "the pod's mark is another");
}
