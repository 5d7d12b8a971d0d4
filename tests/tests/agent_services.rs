// SPDX-License-Identifier: Apache-2.0
//! Services of a Kubernetes cluster, from its API to real sockets: podswitch-agent and podswitchd in the place of kube-proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};

use podswitch_tests::agent::{Agent, attached, namespace, network_policy};
use podswitch_tests::api_server::ApiServer;
use podswitch_tests::objects::set;
use podswitch_tests::traffic::{Echo, tcp_connect, tcp_echo, udp_echo, udp_socket};
use podswitch_tests::uplink::{NODE_V4, Uplink};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
const VIP: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10)),
];
/// The Service `kubernetes`.
const API: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// A node whose pods are closed until they are described, and the API of a cluster.
struct Scene {
    // Declared, so dropped, in this order.
    agent: Option<Agent>,
    server: ApiServer,
    node: Node,
}

impl Scene {
    fn new() -> Scene {
        let node = Node::new(NodeConfig {
            daemon: "[policy]\nexpect = true\n".to_owned(),
            ..NodeConfig::default()
        });
        let server = ApiServer::start(node.netns());
        server.set("namespaces", namespace("shop"));
        let mut scene = Scene {
            agent: None,
            server,
            node,
        };
        let agent = Agent::start(&scene.node, &scene.server, "");
        agent.ready();
        scene.agent = Some(agent);
        scene
    }

    /// A pod of this node, attached and described.
    fn pod(&self, name: &str) -> Pod {
        let full = format!("shop/{name}");
        let pod = self.node.undescribed_pod(&full);
        self.server
            .set("pods", attached(&full, &pod, &json!({"app": name})));
        pod
    }

    /// Services and endpoints of `web`, one slice a family, with these pods.
    fn serve(&self, pods: &[&Pod], change: impl Fn(&mut Value)) {
        let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": PORT, "protocol": protocol});
        let mut service = json!({"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-11-30T10:00:00Z"},
            "spec": {"type": "ClusterIP", "clusterIP": VIP[0], "clusterIPs": VIP, "ipFamilies": ["IPv4", "IPv6"],
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": [port("TCP"), port("UDP")]}});
        change(&mut service);
        self.server.set("services", service);
        for (family, address) in [("IPv4", Pod::v4 as fn(&Pod) -> IpAddr), ("IPv6", Pod::v6)] {
            let endpoint = |pod: &&Pod| {
                json!({"addresses": [address(pod)], "nodeName": "n1",
                    "conditions": {"ready": true, "serving": true, "terminating": false}})
            };
            let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
            let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": TARGET, "protocol": protocol});
            self.server.set("endpointslices", json!({
                "metadata": {"name": format!("web-{}", family.to_lowercase()), "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": family, "endpoints": endpoints, "ports": [port("TCP"), port("UDP")]}));
        }
    }

    /// Waits until podswitchd has so many backends of each object of `web`.
    #[track_caller]
    fn has(&self, objects: usize, backends: usize) {
        eventually("podswitchd has the service", HUNG, || {
            let all = self.node.get("service", &json!({}));
            let right =
                |o: &&Value| o["object"]["backends"].as_array().map_or(0, Vec::len) == backends;
            (all.len() == objects && all.iter().all(|o| right(&o))).then_some(())
        });
    }
}

fn reaches(from: &Netns, to: IpAddr) {
    let mut client = tcp_connect(from, to, PORT, HUNG).expect("a connection to the service");
    tcp_echo(&mut client, &vec![0x5a; 1 << 16]);
    assert!(
        udp_echo(&udp_socket(from, to, PORT), b"datagram", HUNG),
        "{to}"
    );
}

fn is_refused(from: &Netns, to: IpAddr) {
    let error = tcp_connect(from, to, PORT, HUNG).expect_err("nobody serves");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
}

#[test]
fn a_service_is_reached_as_its_endpoints_come_and_go() {
    let scene = Scene::new();
    let [client, one, other] = ["client", "one", "other"].map(|name| scene.pod(name));
    let _first = Echo::start(&one.netns, TARGET);
    scene.serve(&[], |_| {});
    scene.has(4, 0);
    for to in VIP {
        is_refused(&client.netns, to);
    }
    scene.serve(&[&one], |_| {});
    scene.has(4, 1);
    for to in VIP {
        reaches(&client.netns, to);
        // And itself.
        reaches(&one.netns, to);
    }
    scene.serve(&[&one, &other], |_| {});
    scene.has(4, 2);
    // A pod that is ending serves no more.
    scene.serve(&[&other], |_| {});
    scene.has(4, 1);
    for to in VIP {
        is_refused(&client.netns, to);
    }
    let _second = Echo::start(&other.netns, TARGET);
    for to in VIP {
        reaches(&client.netns, to);
    }
    scene.server.delete("services", "shop", "web");
    scene.has(0, 0);
}

#[test]
fn a_network_policy_is_about_the_pods_behind_a_service() {
    let scene = Scene::new();
    let [client, web] = ["client", "web"].map(|name| scene.pod(name));
    let _echo = Echo::start(&web.netns, TARGET);
    scene.serve(&[&web], |_| {});
    scene.has(4, 1);
    for to in VIP {
        reaches(&client.netns, to);
    }
    let allow = |app: &str, port: u16| {
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": port}]}]});
        scene
            .server
            .set("networkpolicies", network_policy("shop/only", &spec));
    };
    allow("somebody-else", TARGET);
    for to in VIP {
        eventually("the policy is in force", HUNG, || {
            tcp_connect(&client.netns, to, PORT, HUNG / 50)
                .is_err()
                .then_some(())
        });
    }
    // It names the port of the pods, not that of the Service.
    allow("client", TARGET);
    for to in VIP {
        eventually("the policy lets the client in", HUNG, || {
            tcp_connect(&client.netns, to, PORT, HUNG / 50).ok()
        });
    }
}

/// Whether an answer has as many bytes as it says.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let mut lines = head.lines().filter_map(|l| l.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, n)| n.trim().parse::<usize>().ok());
    body.len() >= length.unwrap_or_default()
}

/// The answer to a GET: status and text.
fn get(from: &Netns, to: IpAddr, port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream: TcpStream = tcp_connect(from, to, port, HUNG).ok()?;
    stream.set_read_timeout(Some(HUNG)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let (mut answer, mut piece) = (String::new(), [0; 4096]);
    // A server may leave the connection open.
    while !is_whole(&answer) {
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        answer += std::str::from_utf8(&piece[..n]).ok()?;
    }
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

#[test]
fn the_api_server_is_reached_by_its_own_service() {
    let scene = Scene::new();
    let uplink = Uplink::of_both_families(&scene.node, 1);
    let host = json!({"kind": "port", "name": "host",
        "device": {"kind": "host", "pods": ["10.244.1.0/24", "fd00:244:1::/64", "10.96.0.0/16"]}});
    scene.node.netns().ip("link set lo up");
    scene.node.apply(&[set(host)]);
    let client = scene.pod("client");
    scene.server.set(
        "services",
        json!({"metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": API, "clusterIPs": [API], "ipFamilies": ["IPv4"],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}}),
    );
    scene.server.set("endpointslices", json!({"metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [NODE_V4], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": scene.server.port(), "protocol": "TCP"}]}));
    scene.has(1, 1);
    for from in [&client.netns, scene.node.netns()] {
        let answer = get(from, API, 443, "/api/v1/namespaces?limit=10");
        let drops = scene.node.drops();
        let (status, body) =
            answer.unwrap_or_else(|| panic!("{}: no answer: {drops:?}", from.name()));
        assert!(status == 200 && body.contains("shop"), "{status}: {body}");
    }
    drop(uplink);
}

#[test]
fn load_balancers_are_told_whether_a_pod_is_here() {
    const CHECK: u16 = 31_000;
    let scene = Scene::new();
    let web = scene.pod("web");
    let node = scene.node.netns();
    node.ip("link set lo up");
    let local = |o: &mut Value| {
        o["spec"]["type"] = json!("LoadBalancer");
        o["spec"]["externalTrafficPolicy"] = json!("Local");
        o["spec"]["healthCheckNodePort"] = json!(CHECK);
    };
    let answers = |status: u16, number: usize| {
        eventually("the answer to the load balancer", HUNG, || {
            let (is, text) = get(node, Ipv4Addr::LOCALHOST.into(), CHECK, "/")?;
            let says = text.contains(&format!("\"localEndpoints\":{number}"));
            (is == status && says).then_some(())
        });
    };
    scene.serve(&[&web], local);
    answers(200, 1);
    scene.serve(&[], local);
    answers(503, 0);
    scene.server.delete("services", "shop", "web");
    eventually("nobody answers any more", HUNG, || {
        tcp_connect(node, Ipv4Addr::LOCALHOST.into(), CHECK, HUNG)
            .is_err()
            .then_some(())
    });
}

#[test]
fn what_a_service_cannot_have_is_said_on_it() {
    let scene = Scene::new();
    let web = scene.pod("web");
    scene.serve(&[&web], |o| {
        o["spec"]["externalIPs"] = json!(["203.0.113.7"])
    });
    scene.has(4, 1);
    // Another one, younger, wants the same address and port.
    scene.server.set("services", json!({"metadata": {"name": "late", "namespace": "shop", "creationTimestamp": "2026-11-30T11:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11"], "ipFamilies": ["IPv4"],
            "externalIPs": ["203.0.113.7"], "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}]}}));
    let event = eventually("an event on the Service", HUNG, || {
        let all = scene.server.created();
        all.into_iter().find(|e| e["regarding"]["name"] == "late")
    });
    assert_eq!(event["regarding"]["kind"], "Service", "{event}");
    let note = event["note"].as_str().unwrap_or_default();
    assert!(
        note.contains("spec.externalIPs") && note.contains("shop/web"),
        "{note}"
    );
    let late = scene
        .node
        .get("service", &json!({"name": "shop/late:tcp:ipv4"}));
    assert_eq!(late.len(), 1);
    assert_eq!(late[0]["object"].get("external"), None);
}
