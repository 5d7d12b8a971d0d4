// SPDX-License-Identifier: Apache-2.0
//! The policy table: direction, prefixes, protocol, ports; allow, deny and defaults; a counter a rule.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::objects::{delete, rule, set};
use podswitch_tests::traffic::{Echo, ping, ping_fails, tcp_connect, udp_echo, udp_socket};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::json;

/// How long something that must not happen is given to happen.
const QUIET: Duration = Duration::from_millis(700);

const OPEN: u16 = 7001;
const SHUT: u16 = 7002;

struct Scene {
    node: Node,
    client: Pod,
    server: Pod,
    _open: Echo,
    _shut: Echo,
}

impl Scene {
    /// A client, and a server that listens on both ports.
    fn new() -> Scene {
        let node = Node::new(NodeConfig::default());
        let (client, server) = (node.pod(), node.pod());
        let (open, shut) = (
            Echo::start(&server.netns, OPEN),
            Echo::start(&server.netns, SHUT),
        );
        ping(&client.netns, server.v4());
        ping(&client.netns, server.v6());
        Scene {
            node,
            client,
            server,
            _open: open,
            _shut: shut,
        }
    }

    fn both(&self) -> [IpAddr; 2] {
        [self.server.v4(), self.server.v6()]
    }

    fn tcp(&self, to: IpAddr, port: u16) -> bool {
        tcp_connect(&self.client.netns, to, port, HUNG).is_ok()
    }

    fn tcp_blocked(&self, to: IpAddr, port: u16) -> bool {
        tcp_connect(&self.client.netns, to, port, QUIET).is_err()
    }

    fn udp(&self, to: IpAddr, port: u16) -> bool {
        let socket = udp_socket(&self.client.netns, to, port);
        (0..10).any(|_| udp_echo(&socket, b"datagram", Duration::from_secs(2)))
    }

    fn udp_blocked(&self, to: IpAddr, port: u16) -> bool {
        let socket = udp_socket(&self.client.netns, to, port);
        !udp_echo(&socket, b"datagram", QUIET)
    }
}

#[test]
fn a_rule_denies_one_port_and_another_stays_open() {
    let scene = Scene::new();
    let port = scene.node.port_name(&scene.server);
    let deny = json!({"protocol": "tcp", "ports": {"first": SHUT, "last": SHUT}});
    scene
        .node
        .apply(&[set(rule("deny-tcp", &port, "ingress", "deny", &deny))]);
    for to in scene.both() {
        let before = scene.node.rule_packets("deny-tcp");
        assert!(
            scene.tcp_blocked(to, SHUT),
            "TCP {SHUT} to {to} must be denied"
        );
        assert!(
            scene.node.rule_packets("deny-tcp") > before,
            "the rule counts what it denied"
        );
        assert!(scene.tcp(to, OPEN), "TCP {OPEN} to {to} stays open");
        assert!(
            scene.udp(to, SHUT),
            "UDP {SHUT} to {to} stays open: the rule says TCP"
        );
        ping(&scene.client.netns, to);
    }
    assert!(scene.node.drops().of("policy_denied_ingress") > 0);

    scene
        .node
        .apply(&[delete(json!({"kind": "rule", "name": "deny-tcp"}))]);
    for to in scene.both() {
        assert!(
            scene.tcp(to, SHUT),
            "without the rule TCP {SHUT} to {to} is open again"
        );
    }
}

#[test]
fn egress_rules_judge_the_sender() {
    let scene = Scene::new();
    let port = scene.node.port_name(&scene.client);
    let deny = json!({"protocol": "udp", "ports": {"first": 7002, "last": 7100}});
    scene
        .node
        .apply(&[set(rule("deny-udp", &port, "egress", "deny", &deny))]);
    for to in scene.both() {
        assert!(scene.udp_blocked(to, SHUT), "UDP {SHUT} to {to}");
        assert!(scene.udp(to, OPEN), "UDP {OPEN} to {to}: below the range");
        assert!(scene.tcp(to, SHUT), "TCP {SHUT} to {to}: another protocol");
    }
    assert!(scene.node.drops().of("policy_denied_egress") > 0);
    assert!(scene.node.rule_packets("deny-udp") > 0);
}

#[test]
fn a_default_of_deny_lets_through_what_rules_allow() {
    let scene = Scene::new();
    let mut object = scene.node.port(&scene.server).expect("a port")["object"].clone();
    object["ingress_default"] = json!("deny");
    let port = scene.node.port_name(&scene.server);
    scene.node.apply(&[set(object)]);
    eventually("the default is in force", HUNG, || {
        ping_fails(&scene.client.netns, scene.server.v4()).then_some(())
    });
    for to in scene.both() {
        assert!(scene.tcp_blocked(to, OPEN), "TCP to {to}");
        assert!(scene.udp_blocked(to, OPEN), "UDP to {to}");
    }
    assert!(scene.node.drops().of("policy_default_ingress") > 0);

    // Allowed by the address of the client alone; IPv6 stays shut.
    let allow = json!({"source": format!("{}/32", scene.client.v4()), "protocol": "tcp"});
    scene
        .node
        .apply(&[set(rule("allow-client", &port, "ingress", "allow", &allow))]);
    assert!(scene.tcp(scene.server.v4(), OPEN));
    assert!(scene.tcp_blocked(scene.server.v6(), OPEN));
    assert!(scene.udp_blocked(scene.server.v4(), OPEN));
    assert!(scene.node.rule_packets("allow-client") > 0);
}

#[test]
fn the_rule_of_lower_priority_number_decides() {
    let scene = Scene::new();
    let port = scene.node.port_name(&scene.server);
    let mut allow = rule(
        "allow",
        &port,
        "ingress",
        "allow",
        &json!({"protocol": "tcp"}),
    );
    let mut deny = rule(
        "deny",
        &port,
        "ingress",
        "deny",
        &json!({"protocol": "tcp"}),
    );
    (allow["priority"], deny["priority"]) = (json!(1), json!(2));
    scene.node.apply(&[set(deny.clone()), set(allow.clone())]);
    assert!(scene.tcp(scene.server.v4(), OPEN));
    (allow["priority"], deny["priority"]) = (json!(2), json!(1));
    scene.node.apply(&[set(deny), set(allow)]);
    assert!(scene.tcp_blocked(scene.server.v4(), OPEN));
}

#[test]
fn a_destination_prefix_is_looked_at() {
    let scene = Scene::new();
    let port = scene.node.port_name(&scene.client);
    for (name, prefix) in [
        ("one", format!("{}/32", scene.server.v4())),
        ("six", format!("{}/128", scene.server.v6())),
    ] {
        let deny = rule(
            name,
            &port,
            "egress",
            "deny",
            &json!({"destination": prefix}),
        );
        scene.node.apply(&[set(deny)]);
    }
    let other = scene.node.pod();
    for to in scene.both() {
        assert!(ping_fails(&scene.client.netns, to), "{to}");
    }
    ping(&scene.client.netns, other.v4());
    ping(&scene.client.netns, other.v6());
}

#[test]
fn a_list_of_changes_is_carried_out_whole_or_not_at_all() {
    let scene = Scene::new();
    let port = scene.node.port_name(&scene.server);
    let good = rule(
        "good",
        &port,
        "ingress",
        "deny",
        &json!({"protocol": "tcp"}),
    );
    let bad = rule("bad", "no-such-port", "ingress", "deny", &json!({}));
    let refused = scene
        .node
        .rpc("apply", &json!({"changes": [set(good), set(bad)]}))
        .expect_err("must be refused");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|m| m.contains("no-such-port")),
        "it names the value: {refused}"
    );
    assert!(
        scene.node.get("rule", &json!({})).is_empty(),
        "nothing of it is there"
    );
    assert!(scene.tcp(scene.server.v4(), OPEN));
}
