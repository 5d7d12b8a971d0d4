// SPDX-License-Identifier: Apache-2.0
//! The ways that agents make from the cluster's nodes: pods of several nodes reach one another, natively routed and through VXLAN, and the world by the node's
//! own stack.

use podswitch_tests::agent::{Agent, node};
use podswitch_tests::api_server::ApiServer;
use podswitch_tests::fabric::{NIC, assert_reach, at, node_at, pods_of, prepared, settle, wire};
use podswitch_tests::traffic::ping;
use podswitch_tests::uplink::plug;
use podswitch_tests::{HUNG, Netns, Node, Pod, eventually};
use serde_json::{Value, json};

/// A machine of the world's, on the nodes' network.
const WORLD: [&str; 2] = ["192.0.2.99", "2001:db8::99"];

/// A node with a pod, its agent, and what the agent takes for the cluster.
struct Member {
    // Declared, so dropped, in this order.
    agent: Agent,
    server: ApiServer,
    pod: Pod,
    node: Node,
}

/// Nodes on one bridge, and a machine of the world's.
struct Cluster {
    members: Vec<Member>,
    world: Netns,
    switch: Netns,
}

impl Cluster {
    /// Two nodes whose agents have this in their configuration.
    fn new(config: &str) -> Cluster {
        let switch = Netns::new("wire");
        switch.ip("link add bridge0 type bridge mcast_snooping 0");
        switch.ip("link set bridge0 up");
        let world = Netns::new("world");
        join(&world, &switch, "world");
        for (address, length) in WORLD.into_iter().zip(["24", "64 nodad"]) {
            let (length, more) = length.split_once(' ').unwrap_or((length, ""));
            world.ip(&format!("address add {address}/{length} dev {NIC} {more}"));
        }
        plug(&world, NIC);
        let mut cluster = Cluster {
            members: Vec::new(),
            world,
            switch,
        };
        for n in [1, 2] {
            let member = cluster.member(n, config);
            cluster.members.push(member);
        }
        cluster
    }

    fn member(&self, n: u8, config: &str) -> Member {
        let mut node = prepared(n);
        join(node.netns(), &self.switch, &format!("port{n}"));
        settle(node.netns(), n);
        node.start();
        let server = ApiServer::start(node.netns());
        for n in [1, 2] {
            server.set("nodes", object(n));
        }
        let agent = Agent::start_as(&format!("n{n}"), &node, &server, config);
        agent.ready();
        Member {
            agent,
            server,
            pod: node.pod(),
            node,
        }
    }

    fn assert_pods_reach(&self) {
        let [one, two] = &self.members[..] else {
            unreachable!("two were made");
        };
        assert_reach(&one.pod.netns, &two.pod.netns, at(&two.pod));
        assert_reach(&two.pod.netns, &one.pod.netns, at(&one.pod));
    }
}

fn join(netns: &Netns, switch: &Netns, end: &str) {
    wire(netns, switch, end);
    switch.ip(&format!("link set {end} master bridge0 up"));
}

fn object(n: u8) -> Value {
    node(&format!("n{n}"), &node_at(n), &pods_of(n))
}

fn config(mode: &str, egress: &str) -> String {
    format!(
        "[nodes]\nmode = \"{mode}\"\negress = \"{egress}\"\ninterface = \"{NIC}\"\ncluster_cidrs = [\"10.244.0.0/16\", \"fd00:244::/32\"]\n"
    )
}

/// Prefixes of the routes that a daemon has by a port.
fn prefixes(node: &Node, port: &str) -> Vec<String> {
    let routes = node.get("route", &json!({"port": port}));
    let prefix = |r: &Value| r["object"]["prefix"].as_str().map(str::to_owned);
    routes.iter().filter_map(prefix).collect()
}

/// Nodes that come, get another address and go.
fn nodes_are_followed(cluster: &Cluster, port: &str) {
    let Member {
        server,
        node,
        agent,
        ..
    } = &cluster.members[0];
    let ports = node.get("port", &json!({})).len();
    let has = |prefix: &str, expected: bool| {
        let what = format!("{prefix} by {port} is there: {expected}");
        eventually(&what, HUNG, || {
            let found = prefixes(node, port).iter().any(|p| p == prefix);
            (found == expected).then_some(())
        });
    };
    let [v4, v6] = pods_of(3);
    server.set("nodes", object(3));
    has(&v4, true);
    has(&v6, true);
    // Only the prefixes of one family are left.
    server.set(
        "nodes",
        self::node("n3", &node_at(3), std::slice::from_ref(&v4)),
    );
    has(&v6, false);
    has(&v4, true);
    server.delete("nodes", "", "n3");
    has(&v4, false);
    // Without an object of its own, a node keeps its ways.
    server.delete("nodes", "", "n1");
    server.set("nodes", object(3));
    server.set("nodes", object(1));
    has(&v4, true);
    assert_eq!(node.get("port", &json!({})).len(), ports);
    assert!(agent.metric("podswitch_agent_refused_objects") == Some(0.0));
}

#[test]
fn natively_routed_and_the_world_by_the_host() {
    let cluster = Cluster::new(&config("native", "host"));
    cluster.assert_pods_reach();
    for member in &cluster.members {
        for address in WORLD {
            ping(&member.pod.netns, address.parse().expect("an address"));
        }
        // The node and its pods.
        ping(member.node.netns(), member.pod.v4());
    }
    ping(&cluster.world, node_at(1)[0].parse().expect("an address"));
    nodes_are_followed(&cluster, "uplink");
    cluster.assert_pods_reach();
}

#[test]
fn through_vxlan_and_the_world_by_the_host() {
    let cluster = Cluster::new(&config("vxlan", "host"));
    cluster.assert_pods_reach();
    for member in &cluster.members {
        for address in WORLD {
            ping(&member.pod.netns, address.parse().expect("an address"));
        }
    }
    nodes_are_followed(&cluster, "overlay");
    cluster.assert_pods_reach();
}

#[test]
fn a_nic_that_is_not_there_yet_blocks_nothing_else() {
    let config = config("native", "none").replace(NIC, "later0");
    let mut node = prepared(1);
    node.start();
    let server = ApiServer::start(node.netns());
    server.set("nodes", object(1));
    server.set("nodes", object(2));
    server.set("namespaces", podswitch_tests::agent::namespace("shop"));
    let agent = Agent::start(&node, &server, &config);
    agent.ready();
    assert_eq!(node.get("namespace", &json!({})).len(), 1);
    assert_eq!(node.get("port", &json!({})).len(), 0);
    node.netns()
        .ip("link add later0 type veth peer name later1");
    node.netns().ip("address add 192.0.2.1/24 dev later0");
    node.netns().ip("link set later1 up");
    plug(node.netns(), "later0");
    eventually("the ways are there", HUNG, || {
        (prefixes(&node, "uplink") == pods_of(2)).then_some(())
    });
}

/// A node that claims an address of a pod of another for its own pods: the daemon refuses the route, at a start and later.
#[test]
fn a_route_that_cannot_be_blocks_no_other() {
    let mut node = prepared(1);
    node.netns()
        .ip(&format!("link add {NIC} type veth peer name other"));
    node.netns().ip("link set other up");
    settle(node.netns(), 1);
    node.start();
    let pods = [node.pod(), node.pod()];
    let server = ApiServer::start(node.netns());
    let claims = |n: u8, pod: &Pod| {
        let prefixes = [format!("{}/32", pod.v4()), format!("10.244.{n}.0/24")];
        self::node(&format!("n{n}"), &node_at(n), &prefixes)
    };
    server.set("nodes", object(1));
    server.set("nodes", claims(3, &pods[0]));
    let agent = Agent::start(&node, &server, &config("native", "none"));
    agent.ready();
    assert_eq!(prefixes(&node, "uplink"), ["10.244.3.0/24"]);
    server.set("nodes", claims(4, &pods[1]));
    eventually("the other route is there", HUNG, || {
        (prefixes(&node, "uplink") == ["10.244.3.0/24", "10.244.4.0/24"]).then_some(())
    });
    let refused = |count: f64| {
        let metric = "podswitch_agent_refused_objects";
        let now = || agent.metric(metric).filter(|n| *n == count);
        eventually("routes are refused", HUNG, now);
    };
    refused(2.0);
    // The pod is gone; the route is tried again by itself.
    node.delete(&pods[0]);
    let route = format!("{}/32", pods[0].v4());
    eventually("the route is there", HUNG, || {
        prefixes(&node, "uplink").contains(&route).then_some(())
    });
    refused(1.0);
}
