// SPDX-License-Identifier: Apache-2.0
//! What `stats` says of the tables: the numbers are those of the entries.

use std::net::UdpSocket;

use podswitch_tests::frames::{BROADCAST, Ends, arp, parse_mac};
use podswitch_tests::objects::{rule, set};
use podswitch_tests::raw::RawSocket;
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// One table as `stats` shows it.
fn table(node: &Node, name: &str) -> Value {
    let stats = node.stats();
    let tables = stats["tables"].as_array().expect("tables is a list");
    let found = tables.iter().find(|t| t["name"] == name);
    found
        .unwrap_or_else(|| panic!("no table {name}: {stats}"))
        .clone()
}

/// Waits until a table has so many entries.
#[track_caller]
fn has_entries(node: &Node, name: &str, wanted: u64) {
    eventually(&format!("{wanted} entries of {name}"), HUNG, || {
        (table(node, name)["entries"] == wanted).then_some(())
    });
}

#[test]
fn a_flow_is_one_entry_however_often_it_is_judged() {
    const FLOWS: u16 = 5;
    const ROUNDS: u16 = 4;
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let port = node.port_name(&b);
    let version = node.rpc("version", &json!({})).expect("version");
    let gateway = version["gateway"]["mac"].as_str().expect("a MAC address");
    let ends = Ends {
        source_mac: a.mac(),
        destination_mac: parse_mac(gateway),
        from: a.v4(),
        to: b.v4(),
    };
    // Somebody listens, so that nothing is answered.
    let listen = |n| UdpSocket::bind(("0.0.0.0", 9000 + n)).expect("a socket");
    let listeners: Vec<_> = b.netns.run(|| (0..FLOWS).map(listen).collect());
    let socket = RawSocket::open(&a.netns, "eth0");
    let before = table(&node, "flow");
    for round in 0..ROUNDS {
        for n in 0..FLOWS {
            socket.send(&ends.udp((4000, 9000 + n), 64, b"counted"));
        }
        for listener in &listeners {
            listener.recv(&mut [0; 64]).expect("a datagram");
        }
        // Under new tables every flow is judged again, and its entry overwritten.
        let tcp = json!({"protocol": "tcp"});
        let name = format!("rule-{round}");
        node.apply(&[set(rule(&name, &port, "ingress", "allow", &tcp))]);
    }
    let count = |table: &Value, what: &str| table[what].as_u64().expect("a count");
    has_entries(&node, "flow", count(&before, "entries") + u64::from(FLOWS));
    let flow = table(&node, "flow");
    let lookups = count(&flow, "lookups") - count(&before, "lookups");
    assert_eq!(lookups, u64::from(FLOWS * ROUNDS), "{before} {flow}");
    assert_eq!(table(&node, "policy")["entries"], ROUNDS);
    for name in ["policy", "neighbor", "fdb"] {
        let table = table(&node, name);
        let counted = table.get("lookups").or(table.get("hits"));
        assert_eq!(counted, None, "nobody counts lookups of {name}");
    }
}

/// A namespace with one end of a veth pair, the other end being a port of segment "lan".
fn station(node: &Node, number: u8) -> (Netns, Value) {
    let netns = Netns::new("station");
    let port = format!("seg{number}");
    node.netns().ip(&format!(
        "link add {port} type veth peer name eth0 address 02:00:00:00:01:{number:02x}"
    ));
    let place = netns.path().display();
    node.netns().ip(&format!("link set eth0 netns {place}"));
    node.netns().ip(&format!("link set {port} up"));
    netns.ip("link set eth0 up");
    let device = json!({"kind": "veth", "interface": port});
    let segment = json!({"name": "lan"});
    (
        netns,
        json!({"kind": "port", "name": port, "device": device, "segment": segment}),
    )
}

#[test]
fn learned_addresses_are_entries_of_the_fdb() {
    let node = Node::new(NodeConfig::default());
    let (one, first) = station(&node, 1);
    let (two, second) = station(&node, 2);
    let fixed =
        json!({"kind": "fdb", "segment": "lan", "mac": "02:00:00:00:01:09", "port": "seg1"});
    let lan = json!({"kind": "segment", "name": "lan", "id": 100});
    node.apply(&[set(lan), set(first), set(second), set(fixed)]);
    for (number, netns) in [(1, &one), (2, &two)] {
        let mac = [2, 0, 0, 0, 1, number];
        let address = [192, 0, 2, number].into();
        let hello = arp((mac, BROADCAST), 1, (mac, address), ([0; 6], address));
        RawSocket::open(netns, "eth0").send(&hello);
    }
    has_entries(&node, "fdb", 3);
}

#[test]
fn a_worker_that_wakes_too_slowly_for_the_budget_says_that_it_spins() {
    let node = Node::new(NodeConfig {
        daemon: "[idle]\nlatency_us = 1".to_owned(),
        ..NodeConfig::default()
    });
    let worker = &node.stats()["workers"][0];
    assert_eq!(worker["spins"], true);
    assert!(worker["wake_ns"].as_u64().expect("measured") > 1000);
    let health = node.rpc("health", &json!({})).expect("health");
    let problems = health["problems"].as_array().expect("a list");
    let notice = problems.iter().find(|p| p["severity"] == "notice");
    let notice = notice.unwrap_or_else(|| panic!("no notice: {health}"));
    assert_eq!(notice["subject"], "worker 0");
    let message = notice["message"].as_str().expect("a text");
    assert!(message.contains("idle.latency_us = 1"), "{message}");
}
