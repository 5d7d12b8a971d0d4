// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy and ClusterNetworkPolicy with real sockets: who may reach whom, and that `why` says the same.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::cluster::{cluster_policy, namespace, network_policy, pod_object};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::traffic::{
    Echo, ping, ping_once, tcp_connect, tcp_echo, udp_echo, udp_socket,
};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// How long something that must not happen is given to happen.
const QUIET: Duration = Duration::from_millis(400);

/// The port that every pod calls `web`, and another one; servers listen on both.
const WEB: u16 = 7001;
const OTHER: u16 = 7002;

/// Namespaces `shop` (team a) and `mon` (team b); pods web and client in `shop`, probe in `mon`. Two workers: ends are on different ones.
struct Scene {
    node: Node,
    web: Pod,
    client: Pod,
    probe: Pod,
    _echo: [Echo; 2],
}

impl Scene {
    fn new() -> Scene {
        Scene::with(NodeConfig {
            workers: vec![0, 1],
            ..NodeConfig::default()
        })
    }

    fn with(config: NodeConfig) -> Scene {
        let node = Node::new(config);
        node.apply(&[
            set(namespace("shop", json!({"team": "a"}))),
            set(namespace("mon", json!({"team": "b"}))),
        ]);
        let web = node.described_pod("shop/web", json!({"app": "web"}));
        let client = node.described_pod("shop/client", json!({"app": "client"}));
        let probe = node.described_pod("mon/probe", json!({"app": "client"}));
        let echo = [WEB, OTHER].map(|port| Echo::start(&web.netns, port));
        for address in [web.v4(), web.v6()] {
            ping(&client.netns, address);
            ping(&probe.netns, address);
        }
        Scene {
            node,
            web,
            client,
            probe,
            _echo: echo,
        }
    }

    fn policy(&self, name: &str, spec: Value) {
        self.node.apply(&[set(network_policy(name, spec))]);
    }

    /// TCP and UDP from a pod to the server are what they are to be in both families, and `why` agrees.
    #[track_caller]
    fn check(&self, from: &Pod, port: u16, allowed: bool) {
        for (source, to) in [(from.v4(), self.web.v4()), (from.v6(), self.web.v6())] {
            let wait = if allowed { HUNG } else { QUIET };
            let tcp = tcp_connect(&from.netns, to, port, wait).is_ok();
            assert_eq!(tcp, allowed, "TCP {port} from {source} to {to}");
            let why = self.node.why(source, to, "tcp", Some(port));
            assert_eq!(why["allowed"], json!(allowed), "{why}");
        }
    }

    #[track_caller]
    fn check_udp(&self, from: &Pod, port: u16, allowed: bool) {
        for to in [self.web.v4(), self.web.v6()] {
            let udp = match allowed {
                true => udp(&from.netns, to, port),
                false => udp_echo(&udp_socket(&from.netns, to, port), b"datagram", QUIET),
            };
            assert_eq!(udp, allowed, "UDP {port} to {to}");
        }
    }
}

fn udp(from: &Netns, to: IpAddr, port: u16) -> bool {
    let socket = udp_socket(from, to, port);
    (0..10).any(|_| udp_echo(&socket, b"datagram", Duration::from_secs(2)))
}

fn select(labels: Value) -> Value {
    json!({"matchLabels": labels})
}

#[test]
fn ingress_is_isolated_but_for_what_rules_allow() {
    let scene = Scene::new();
    scene.check(&scene.client, WEB, true);
    scene.policy("shop/deny", json!({"podSelector": {}}));
    for port in [WEB, OTHER] {
        scene.check(&scene.client, port, false);
        scene.check_udp(&scene.client, port, false);
    }
    assert!(!ping_once(&scene.client.netns, scene.web.v4(), 56, 1));
    assert!(scene.node.drops().of("policy_isolated_ingress") > 0);
    // By pod, and by the name of a port: TCP alone.
    let client = json!([{"podSelector": select(json!({"app": "client"}))}]);
    scene.policy(
        "shop/web",
        json!({"podSelector": select(json!({"app": "web"})), "ingress": [{"from": client, "ports": [{"port": "web"}]}]}),
    );
    scene.check(&scene.client, WEB, true);
    scene.check(&scene.client, OTHER, false);
    scene.check_udp(&scene.client, WEB, false);
    scene.check(&scene.probe, WEB, false);
    // By namespace, a range of ports, another protocol.
    let team_b = json!([{"namespaceSelector": select(json!({"team": "b"})), "podSelector": {}}]);
    scene.policy(
        "shop/mon",
        json!({"podSelector": {}, "ingress": [{"from": team_b,
            "ports": [{"protocol": "UDP", "port": 7000, "endPort": 7001}]}]}),
    );
    scene.check_udp(&scene.probe, WEB, true);
    scene.check_udp(&scene.probe, OTHER, false);
    scene.check(&scene.probe, WEB, false);
    // Labels that change count at once.
    scene.node.apply(&[set(namespace("mon", json!({})))]);
    scene.check_udp(&scene.probe, WEB, false);
    // Nobody selects it any more.
    for name in ["shop/deny", "shop/web", "shop/mon"] {
        scene.node.remove_policy(name);
    }
    scene.check(&scene.probe, OTHER, true);
    ping(&scene.client.netns, scene.web.v6());
}

#[test]
fn egress_is_isolated_but_for_what_rules_allow() {
    let scene = Scene::new();
    let web = json!([{"podSelector": select(json!({"app": "web"}))}]);
    scene.policy(
        "shop/out",
        json!({"podSelector": select(json!({"app": "client"})), "policyTypes": ["Egress"],
            "egress": [{"to": web, "ports": [{"port": "web"}, {"protocol": "UDP", "port": OTHER}]}]}),
    );
    scene.check(&scene.client, WEB, true);
    scene.check(&scene.client, OTHER, false);
    scene.check_udp(&scene.client, OTHER, true);
    scene.check_udp(&scene.client, WEB, false);
    scene.check(&scene.probe, OTHER, true);
    assert!(scene.node.drops().of("policy_isolated_egress") > 0);
    // The isolated pod is reached from anywhere, and answers.
    let _echo = Echo::start(&scene.client.netns, WEB);
    let reached = tcp_connect(&scene.web.netns, scene.client.v4(), WEB, HUNG);
    tcp_echo(&mut reached.expect("a connection"), b"both ways");
    ping(&scene.probe.netns, scene.client.v6());
}

#[test]
fn blocks_match_addresses_of_pods_too_and_have_exceptions() {
    let scene = Scene::new();
    let except = |pod: &Pod| json!([format!("{}/32", pod.v4())]);
    let block = |except: Value| {
        json!({"podSelector": select(json!({"app": "web"})),
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": except}}]}]})
    };
    scene.policy("shop/block", block(except(&scene.probe)));
    let tcp = |pod: &Pod, wait| tcp_connect(&pod.netns, scene.web.v4(), WEB, wait).is_ok();
    assert!(tcp(&scene.client, HUNG) && !tcp(&scene.probe, QUIET));
    assert!(tcp_connect(&scene.client.netns, scene.web.v6(), WEB, QUIET).is_err());
    // A second policy whose block overlaps: they are united.
    let both = json!([{"ipBlock": {"cidr": format!("{}/32", scene.probe.v4())}}, {"ipBlock": {"cidr": "::/0"}}]);
    scene.policy(
        "shop/more",
        json!({"podSelector": {}, "ingress": [{"from": both}]}),
    );
    assert!(tcp(&scene.client, HUNG) && tcp(&scene.probe, HUNG));
    assert!(tcp_connect(&scene.client.netns, scene.web.v6(), WEB, HUNG).is_ok());
}

#[test]
fn cluster_policies_come_before_and_after() {
    let scene = Scene::new();
    let tier = |tier: &str, priority: u16, rules: Value| json!({"tier": tier, "priority": priority, "subject": {"namespaces": select(json!({"team": "a"}))}, "ingress": rules});
    let all = json!([{"namespaces": {}}]);
    let clients = json!([{"pods": {"namespaceSelector": {}, "podSelector": select(json!({"app": "client"}))}}]);
    let set_cluster = |name: &str, spec: Value| {
        scene.node.apply(&[set(cluster_policy(name, spec))]);
    };
    set_cluster(
        "base",
        tier("Baseline", 1, json!([{"action": "Deny", "from": all}])),
    );
    scene.check(&scene.client, WEB, false);
    scene.policy(
        "shop/own",
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
    );
    scene.check(&scene.client, WEB, true);
    scene.check(&scene.probe, WEB, false);
    let accept = json!([{"name": "probes", "action": "Accept", "from": clients, "protocols": [{"tcp": {"destinationPort": {"number": OTHER}}}]}]);
    set_cluster("admin", tier("Admin", 10, accept));
    scene.check(&scene.probe, OTHER, true);
    let why = scene
        .node
        .why(scene.probe.v4(), scene.web.v4(), "tcp", Some(OTHER));
    let rule = json!({"kind": "cluster_network_policy", "name": "admin", "direction": "ingress", "index": 0, "rule": "probes"});
    assert_eq!(why["ingress"]["policy"], rule, "{why}");
    set_cluster(
        "first",
        tier(
            "Admin",
            9,
            json!([{"action": "Deny", "from": clients, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]}]),
        ),
    );
    scene.check(&scene.client, WEB, false);
    scene.check_udp(&scene.client, WEB, true);
    set_cluster(
        "zeroth",
        tier("Admin", 0, json!([{"action": "Pass", "from": clients}])),
    );
    scene.check(&scene.client, WEB, true);
    scene.check(&scene.probe, OTHER, false);
}

#[test]
fn a_change_stops_what_is_no_longer_allowed_with_its_next_packet_and_nothing_else() {
    let scene = Scene::new();
    let from = |labels: Value| json!({"podSelector": select(json!({"app": "web"})), "ingress": [{"from": [{"podSelector": select(labels), "namespaceSelector": {}}]}]});
    scene.policy("shop/web", from(json!({"app": "client"})));
    let mut streams = Vec::new();
    for pod in [&scene.client, &scene.probe] {
        for to in [scene.web.v4(), scene.web.v6()] {
            let mut stream = tcp_connect(&pod.netns, to, WEB, HUNG).expect("a connection");
            tcp_echo(&mut stream, b"before");
            streams.push(stream);
        }
    }
    // Other policies, the same in other words, more pods: nobody notices.
    scene.policy(
        "shop/more",
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 9}]}]}),
    );
    scene.policy("shop/web", from(json!({"app": "client"})));
    let late = scene
        .node
        .described_pod("shop/late", json!({"app": "client"}));
    scene.node.delete(&late);
    for stream in &mut streams {
        tcp_echo(stream, b"during");
    }
    // The probe gets another label.
    let relabelled = pod_object("mon/probe", &scene.probe, json!({"app": "stranger"}));
    scene.node.apply(&[set(relabelled)]);
    let before = scene.node.drops();
    for (at, stream) in streams.iter_mut().enumerate() {
        if at < 2 {
            tcp_echo(stream, b"after");
        } else {
            use std::io::{Read, Write};
            stream.set_read_timeout(Some(QUIET)).expect("a timeout");
            stream.write_all(b"after").expect("room in the socket");
            let mut byte = [0];
            assert!(stream.read(&mut byte).is_err(), "it must be stopped");
        }
    }
    assert!(
        scene.node.drops().of("policy_isolated_ingress") > before.of("policy_isolated_ingress")
    );
}

#[test]
fn errors_and_fragments_belong_to_their_connections() {
    let scene = Scene::new();
    // Both are isolated both ways, and may talk UDP and ICMP to each other from the client's side.
    let web = json!([{"podSelector": select(json!({"app": "web"}))}]);
    let client = json!([{"podSelector": select(json!({"app": "client"}))}]);
    scene.policy(
        "shop/all",
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
    );
    scene.policy("shop/out", json!({"podSelector": select(json!({"app": "client"})), "policyTypes": ["Egress"], "egress": [{"to": web}]}));
    scene.policy(
        "shop/in",
        json!({"podSelector": select(json!({"app": "web"})), "ingress": [{"from": client}]}),
    );
    for to in [scene.web.v4(), scene.web.v6()] {
        // Nobody listens there: the error comes through to the socket.
        let socket = udp_socket(&scene.client.netns, to, 7009);
        socket.set_read_timeout(Some(HUNG)).expect("a timeout");
        let refused = eventually("the port to be unreachable", HUNG, || {
            socket
                .send(b"datagram")
                .err()
                .or_else(|| socket.recv(&mut [0; 16]).err())
                .filter(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        // In three fragments there, and three back.
        eventually("a large ping", HUNG, || {
            ping_once(&scene.client.netns, to, 4000, 1).then_some(())
        });
        let socket = udp_socket(&scene.client.netns, to, WEB);
        assert!(
            (0..10).any(|_| udp_echo(&socket, &[7; 4000], Duration::from_secs(2))),
            "{to}"
        );
    }
    let socket = udp_socket(&scene.web.netns, scene.client.v4(), WEB);
    assert!(!udp_echo(&socket, &[7; 4000], QUIET), "the other way");
    assert!(scene.node.drops().of("policy_isolated_egress") > 0);
    assert!(scene.node.drops().of("fragment_unknown") > 0);
}

#[test]
fn a_pod_is_closed_until_it_is_described_where_that_is_expected() {
    let node = Node::new(NodeConfig {
        daemon: "[policy]\nexpect = true\n".to_owned(),
        ..NodeConfig::default()
    });
    node.apply(&[set(namespace("shop", json!({})))]);
    let (a, b) = (
        node.undescribed_pod("shop/a"),
        node.undescribed_pod("shop/b"),
    );
    assert!(!ping_once(&a.netns, b.v4(), 56, 1));
    assert!(node.drops().of("policy_pending") > 0);
    node.apply(&[set(pod_object("shop/a", &a, json!({})))]);
    assert!(
        !ping_once(&a.netns, b.v4(), 56, 1),
        "one of them is not enough"
    );
    let why = node.why(a.v4(), b.v4(), "icmp", None);
    assert_eq!(
        (&why["reason"], &why["ingress"]["by"]),
        (&json!("policy_pending"), &json!("pending")),
        "{why}"
    );
    node.apply(&[set(pod_object("shop/b", &b, json!({})))]);
    ping(&a.netns, b.v4());
    // A pod of the same name that came later is another one, until its own object is there.
    node.delete(&b);
    let c = node.pod_called(|call| {
        call.args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=b;K8S_POD_UID=other".to_owned();
    });
    assert!(!ping_once(&a.netns, c.v4(), 56, 1));
    let mut object = pod_object("shop/b", &c, json!({}));
    object["uid"] = json!("other");
    node.apply(&[set(object)]);
    ping(&a.netns, c.v4());
    node.apply(&[delete(json!({"kind": "namespace", "name": "shop"}))]);
    assert!(
        !ping_once(&a.netns, c.v4(), 56, 1),
        "nothing is known of the namespace"
    );
}

#[test]
fn after_a_restart_policies_hold_and_connections_go_on() {
    let mut scene = Scene::new();
    let client = json!([{"podSelector": select(json!({"app": "client"}))}]);
    scene.policy(
        "shop/web",
        json!({"podSelector": select(json!({"app": "web"})), "ingress": [{"from": client}]}),
    );
    let mut stream =
        tcp_connect(&scene.client.netns, scene.web.v4(), WEB, HUNG).expect("a connection");
    tcp_echo(&mut stream, b"before");
    scene.node.kill();
    scene.node.start();
    tcp_echo(&mut stream, b"after");
    scene.check(&scene.client, OTHER, true);
    scene.check(&scene.probe, WEB, false);
}
