// SPDX-License-Identifier: Apache-2.0
//! What happens when the daemon goes, how it comes back, and what is left when everything is taken apart.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::kernel::{counter, set_sysctl};
use podswitch_tests::objects::{rule, set};
use podswitch_tests::programs::{bin_dir, run};
use podswitch_tests::traffic::{Echo, ping, ping_fails, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::json;

#[test]
fn after_kill_and_start_the_pods_talk_without_help() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let server = Echo::start(&b.netns, 7);
    let port = node.port_name(&b);
    let deny = json!({"protocol": "tcp", "ports": {"first": 8, "last": 8}});
    node.apply(&[set(rule("deny", &port, "ingress", "deny", &deny))]);
    let mut stream = tcp_connect(&a.netns, b.v4(), server.port(), HUNG).expect("a connection");
    tcp_echo(&mut stream, b"before");
    let before = [a.result.clone(), node.port(&a).unwrap()["object"].clone()];

    node.kill();
    assert!(
        ping_fails(&a.netns, b.v4()),
        "nobody forwards while the daemon is away"
    );
    node.start();

    ping(&a.netns, b.v4());
    ping(&b.netns, a.v6());
    tcp_echo(&mut stream, b"the old connection goes on");
    assert_eq!(
        node.port(&a).unwrap()["object"],
        before[1],
        "the port is what it was"
    );
    assert_eq!(
        node.get("rule", &json!({})).len(),
        1,
        "the rule is still there"
    );
    assert!(tcp_connect(&a.netns, b.v4(), 8, Duration::from_millis(700)).is_err());
    node.execute_for("CHECK", &a).result();
    let c = node.pod();
    ping(&c.netns, a.v4());
}

#[test]
fn many_kills_in_a_row_lose_nothing() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    for _ in 0..5 {
        ping(&a.netns, b.v4());
        node.kill();
        node.start();
    }
    ping(&a.netns, b.v6());
    assert_eq!(node.get("port", &json!({})).len(), 2);
}

#[test]
fn what_no_longer_exists_is_cleaned_up_at_the_start() {
    let mut node = Node::new(NodeConfig::default());
    let (a, mut b, c) = (node.pod(), node.pod(), node.pod());
    node.kill();
    // The pod dies with its namespace, and nobody calls the plugin.
    b.netns.delete();
    node.start();
    eventually("the port of the dead pod is gone", HUNG, || {
        node.get("port", &json!({"container_id": b.container}))
            .is_empty()
            .then_some(())
    });
    assert_eq!(node.get("port", &json!({})).len(), 2);
    assert_eq!(node.netns().links().len(), 2, "{:?}", node.netns().links());
    ping(&a.netns, c.v4());
}

#[test]
fn a_port_that_never_opened_goes_with_its_interface_too() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let host_end = node.host_end(&b);
    node.kill();
    // Something else has the name of the pod's interface by the time the daemon is back.
    node.netns().ip(&format!("link delete {host_end}"));
    node.netns().ip(&format!("link add {host_end} type bridge"));
    node.start();
    let port = node.port(&b).expect("its interface is there");
    assert_eq!(port["status"]["state"], "faulted", "{port}");
    node.netns().ip(&format!("link delete {host_end}"));
    eventually("its port is gone", HUNG, || {
        node.port(&b).is_none().then_some(())
    });
    assert!(node.port(&a).is_some());
}

const HOST4: &str = "198.51.100.1";
const HOST6: &str = "2001:db8:51::1";

/// A node that forwards and has addresses of its own, so that a frame that leaks into its stack is seen.
fn forwarding_node() -> Node {
    let node = Node::new(NodeConfig::default());
    set_sysctl(node.netns(), "net/ipv4/conf/all/forwarding", "1");
    set_sysctl(node.netns(), "net/ipv6/conf/all/forwarding", "1");
    node.netns().ip(&format!("address add {HOST4}/32 dev lo"));
    node.netns().ip(&format!("address add {HOST6}/128 dev lo"));
    node
}

/// True if anything the pod sends gets into the node's stack, by every way that a pod has.
fn reaches_the_host(node: &Node, pod: &Netns) -> bool {
    let netns = node.netns();
    let host_v4: IpAddr = HOST4.parse().unwrap();
    let seen = |netns| counter(netns, "Ip", "InReceives") + counter(netns, "Icmp", "InMsgs");
    let before = (
        seen(netns),
        podswitch_tests::kernel::counter6(netns, "Ip6InReceives"),
    );
    let answered = !ping_fails(pod, host_v4) || !ping_fails(pod, HOST6.parse().unwrap());
    // With the host end's own MAC address as the next hop no lookup of the switch would be needed.
    let host_end = node.netns().ip_json("link show type veth");
    for link in &host_end {
        let mac = link["address"].as_str().expect("a MAC address");
        pod.try_ip(&format!(
            "neighbor replace {HOST4} lladdr {mac} dev eth0 nud permanent"
        ));
        pod.try_ip(&format!("route replace {HOST4} dev eth0"));
        let _ = podswitch_tests::traffic::ping_once(pod, host_v4, 56, 1);
        pod.try_ip(&format!("route delete {HOST4} dev eth0"));
    }
    let after = (
        seen(netns),
        podswitch_tests::kernel::counter6(netns, "Ip6InReceives"),
    );
    answered || after != before
}

/// The host end hears nothing and says nothing of its own.
#[track_caller]
fn assert_deaf(node: &Node, host_end: &str) {
    let addresses = node
        .netns()
        .ip_json(&format!("address show dev {host_end}"));
    assert_eq!(
        addresses[0]["addr_info"].as_array().map(Vec::len),
        Some(0),
        "{addresses:?}"
    );
    let sysctl = |name: &str| podswitch_tests::kernel::sysctl(node.netns(), name);
    assert_eq!(
        sysctl(&format!("net/ipv6/conf/{host_end}/disable_ipv6")).as_deref(),
        Some("1")
    );
    assert_eq!(
        sysctl(&format!("net/ipv4/conf/{host_end}/forwarding")).as_deref(),
        Some("0")
    );
    assert_ne!(
        sysctl(&format!("net/ipv6/conf/{host_end}/accept_ra")).as_deref(),
        Some("1")
    );
    let flags = &node.netns().ip_json(&format!("link show dev {host_end}"))[0]["flags"];
    assert!(
        flags
            .as_array()
            .is_some_and(|f| f.iter().any(|flag| flag == "NOARP")),
        "{flags}"
    );
}

#[test]
fn the_host_end_is_deaf_whether_the_daemon_runs_or_not() {
    let mut node = forwarding_node();
    let (a, b) = (node.pod(), node.pod());
    let host_end = node.host_end(&a);
    ping(&a.netns, b.v4());
    assert_deaf(&node, &host_end);
    assert!(!reaches_the_host(&node, &a.netns), "with the daemon");

    node.terminate();
    assert_deaf(&node, &host_end);
    assert!(!reaches_the_host(&node, &a.netns), "after SIGTERM");
    assert!(ping_fails(&a.netns, b.v4()), "ports stay, closed");

    node.start();
    ping(&a.netns, b.v4());
    node.kill();
    assert!(!reaches_the_host(&node, &a.netns), "after SIGKILL");

    // Even when somebody takes the program off.
    for mode in ["xdp", "xdpgeneric", "xdpdrv"] {
        node.netns()
            .try_ip(&format!("link set dev {host_end} {mode} off"));
    }
    let link = &node.netns().ip_json(&format!("link show dev {host_end}"))[0];
    assert!(link.get("xdp").is_none(), "the program is off: {link}");
    assert!(!reaches_the_host(&node, &a.netns), "without the program");
    node.start();
    ping(&a.netns, b.v4());

    // An ordinary veth is not deaf, and the look at it shows it.
    let plain = Netns::new("plain");
    node.netns().ip(&format!(
        "link add plain0 type veth peer name eth0 netns {}",
        plain.name()
    ));
    node.netns().ip("address add 192.0.2.1/24 dev plain0");
    node.netns().ip("link set plain0 up");
    plain.ip("address add 192.0.2.2/24 dev eth0");
    plain.ip("link set eth0 up");
    plain.ip("route add default via 192.0.2.1");
    assert!(reaches_the_host(&node, &plain));
}

#[test]
fn sigterm_leaves_everything_in_place_for_the_next_one() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let links = node.netns().links();
    node.terminate();
    assert_eq!(node.netns().links(), links);
    for link in node.netns().ip_json("link show type veth") {
        assert!(link.get("xdp").is_some(), "the program stays: {link}");
    }
    assert!(!node.socket().exists(), "the socket goes");
    node.start();
    ping(&a.netns, b.v4());
    ping(&b.netns, a.v6());
}

/// Runs `podswitchctl teardown --config FILE`.
#[track_caller]
fn teardown(node: &Node) {
    let mut command = node.netns().command(bin_dir().join("podswitchctl"));
    run(
        command
            .args(["teardown", "--config"])
            .arg(node.config_file()),
        b"",
        HUNG,
    )
    .success("podswitchctl teardown");
}

/// Nothing of ours in the node's namespace or on its disk.
#[track_caller]
fn assert_nothing_left(node: &Node) {
    assert_eq!(node.netns().links(), Vec::<String>::new(), "interfaces");
    assert!(!node.socket().exists(), "the socket");
    let state: Vec<_> = std::fs::read_dir(node.state_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(state.is_empty(), "state: {state:?}");
}

#[test]
fn teardown_of_a_running_daemon_leaves_nothing() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
    teardown(&node);
    assert_nothing_left(&node);
    assert_eq!(
        a.netns.links(),
        Vec::<String>::new(),
        "the pod's end goes with the host's"
    );
    teardown(&node);
}

#[test]
fn teardown_without_a_daemon_leaves_nothing() {
    for how in ["terminated", "killed"] {
        let mut node = Node::new(NodeConfig::default());
        let (a, b) = (node.pod(), node.pod());
        ping(&a.netns, b.v4());
        if how == "killed" {
            node.kill()
        } else {
            node.terminate()
        }
        teardown(&node);
        assert_nothing_left(&node);
        // A new start begins from nothing.
        node.start();
        assert!(node.get("port", &json!({})).is_empty());
        let c = node.pod();
        let d = node.pod();
        ping(&c.netns, d.v4());
    }
}

#[test]
fn an_interface_deleted_under_the_switch_harms_nobody_else() {
    let node = Node::new(NodeConfig::default());
    let (a, b, c) = (node.pod(), node.pod(), node.pod());
    ping(&a.netns, b.v4());
    let host_end = node.host_end(&b);
    let server = Echo::start(&c.netns, 7);
    let mut stream = tcp_connect(&a.netns, c.v4(), server.port(), HUNG).expect("a connection");
    node.netns().ip(&format!("link delete {host_end}"));
    tcp_echo(&mut stream, &vec![3; 1 << 20]);
    assert!(ping_fails(&a.netns, b.v4()));
    eventually("the port is no longer up", HUNG, || {
        let up = node.port(&b).is_some_and(|p| p["status"]["state"] == "up");
        (!up).then_some(())
    });
    ping(&a.netns, c.v6());
    node.delete(&b);
    assert!(node.port(&b).is_none());
    let audit = node.rpc("audit", &json!({})).expect("audit");
    assert_eq!(audit["balanced"], true, "{audit}");
    let d = node.pod();
    ping(&d.netns, a.v4());
}

#[test]
fn a_pods_namespace_that_vanishes_harms_nobody_else() {
    let node = Node::new(NodeConfig::default());
    let (a, mut b, c) = (node.pod(), node.pod(), node.pod());
    ping(&a.netns, b.v4());
    b.netns.delete();
    eventually("the host end goes with the namespace", HUNG, || {
        (node.netns().links().len() == 2).then_some(())
    });
    ping(&a.netns, c.v4());
    let d = node.pod();
    ping(&d.netns, c.v6());
}
