// SPDX-License-Identifier: Apache-2.0
//! The host's port: the node and its pods reach one another, whatever happens to the daemon, and nothing is left of it on the host.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use podswitch_tests::cluster::{namespace, network_policy};
use podswitch_tests::frames::{Ends, parse_mac};
use podswitch_tests::kernel::{set_sysctl, sysctl};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::programs::{bin_dir, run};
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{
    Echo, ping, ping_fails, tcp_connect, tcp_echo, udp_echo, udp_socket,
};
use podswitch_tests::uplink::{NIC, NODE_V4, PEER_V4, Uplink};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// The host's interface.
const HOST: &str = "podswitch0";
/// Addresses of the node on its loopback device.
const LOOPBACK: [&str; 2] = ["198.51.100.1", "2001:db8:51::1"];
/// How long something that must not happen is given to happen.
const QUIET: Duration = Duration::from_millis(400);

fn port() -> Value {
    json!({"kind": "port", "name": "host", "device": {"kind": "host", "pods": ["10.244.1.0/24", "fd00:244:1::/64"]}})
}

fn removed() -> Value {
    delete(json!({"kind": "port", "name": "host"}))
}

fn status(node: &Node) -> Value {
    let ports = node.get("port", &json!({"name": "host"}));
    ports.first().expect("the host's port")["status"].clone()
}

/// A node with addresses of its own beyond the link, and what the host had before anything of ours.
fn addressed() -> Node {
    let node = Node::new(NodeConfig::default());
    for address in LOOPBACK {
        node.netns().ip(&format!("address add {address} dev lo"));
    }
    node
}

/// Everything on the host that a port might change.
fn host(node: &Node) -> String {
    let script = "ip -o link | sed -E 's/id[ :][0-9]+//g'; ip -o address; ip route show table all; ip -6 route show table all; nft list ruleset; \
        grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward | sort";
    run(node.netns().command("sh").args(["-c", script]), b"", HUNG).success("looking at the host")
}

/// Says what is not as it was.
#[track_caller]
fn assert_same(node: &Node, before: &str) {
    let now = host(node);
    let beside = |a: &str, b: &str| -> Vec<String> {
        let others: HashSet<&str> = b.lines().collect();
        a.lines()
            .filter(|l| !others.contains(l))
            .map(str::to_owned)
            .collect()
    };
    let (more, less) = (beside(&now, before), beside(before, &now));
    assert!(now == before, "more: {more:#?}\nless: {less:#?}");
}

fn addresses() -> impl Iterator<Item = IpAddr> {
    LOOPBACK.into_iter().map(|a| a.parse().unwrap())
}

/// Ping and TCP, from one to the addresses of the other.
#[track_caller]
fn reaches(from: &Netns, server: &Echo, to: impl IntoIterator<Item = IpAddr>) {
    for address in to {
        ping(from, address);
        let mut stream = tcp_connect(from, address, server.port(), HUNG).expect("a connection");
        tcp_echo(&mut stream, &vec![7; 1 << 20]);
    }
}

/// UDP from one to an address of the other, which is the one that it answers from.
#[track_caller]
fn asks(from: &Netns, server: &Echo, to: IpAddr) {
    let socket = udp_socket(from, to, server.port());
    let echoed = (0..10).any(|_| udp_echo(&socket, &[7; 1400], Duration::from_secs(2)));
    assert!(echoed, "UDP to {to}");
}

#[test]
fn node_and_pods_reach_one_another_and_nothing_is_left() {
    let node = addressed();
    let uplink = Uplink::new(&node, 1);
    let pod = node.pod();
    let before = host(&node);
    node.apply(&[set(port())]);
    let (on_pod, on_node) = (Echo::start(&pod.netns, 7), Echo::start(node.netns(), 8));
    reaches(node.netns(), &on_pod, [pod.v4(), pod.v6()]);
    let nic: IpAddr = NODE_V4.into();
    reaches(&pod.netns, &on_node, addresses().chain([nic]));
    for to in [pod.v4(), pod.v6()] {
        asks(node.netns(), &on_pod, to);
    }
    for to in [nic, LOOPBACK[1].parse().unwrap()] {
        asks(&pod.netns, &on_node, to);
    }
    // What is on the host is shown.
    let shown = status(&node)["on_host"].clone();
    for (kind, name) in [
        ("interface", HOST),
        ("neighbor", "169.254.1.1"),
        ("neighbor", "fe80::1"),
        ("route", "10.244.1.0/24 via 169.254.1.1"),
        ("route", "fd00:244:1::/64 via fe80::1"),
        ("sysctl", "addr_gen_mode 1"),
    ] {
        let is = |item: &Value| {
            let named = item["name"].as_str().is_some_and(|n| n.contains(name));
            item["kind"] == kind && named
        };
        let all = shown.as_array().expect("a list");
        assert!(all.iter().any(is), "{kind} {name}: {shown}");
    }
    let table = node.ctl().run(&["port", "list"]).success("port list");
    assert!(table.contains(&format!("host {HOST}")), "{table}");
    assert!(table.contains(LOOPBACK[1]), "{table}");
    // The node speaks to its pods from an address that others know, never from one of the loopback's while there is another.
    let way = &node.netns().ip_json(&format!("route get {}", pod.v4()))[0];
    assert_eq!(way["prefsrc"], NODE_V4.to_string(), "{way}");

    node.apply(&[removed()]);
    assert_same(&node, &before);
    assert!(ping_fails(&pod.netns, nic));
    drop(uplink);
}

#[test]
fn policies_let_the_node_in_and_nobody_in_its_guise() {
    let node = addressed();
    node.apply(&[set(namespace("shop", json!({})))]);
    let web = node.described_pod("shop/web", json!({"app": "web"}));
    let other = node.described_pod("shop/other", json!({}));
    node.apply(&[set(port())]);
    let server = Echo::start(&web.netns, 7);
    let connects = |from: &Netns, to: IpAddr, wait| tcp_connect(from, to, 7, wait).is_ok();
    for to in [web.v4(), web.v6()] {
        assert!(connects(&other.netns, to, HUNG));
    }
    node.apply(&[set(network_policy("shop/deny", json!({"podSelector": {}})))]);
    for to in [web.v4(), web.v6()] {
        assert!(
            connects(node.netns(), to, HUNG),
            "the kubelet's probe of {to}"
        );
        ping(node.netns(), to);
        assert!(!connects(&other.netns, to, QUIET));
    }
    assert!(node.drops().of("policy_isolated_ingress") > 0);
    // The node's address from a pod's port, and a pod's from the node's.
    let mac = |netns: &Netns, name: &str| {
        let links = netns.ip_json(&format!("link show dev {name}"));
        parse_mac(links[0]["address"].as_str().expect("a MAC address"))
    };
    let gateway = parse_mac("02:70:6f:64:73:77");
    let spoof = |netns: &Netns, interface: &str, from: IpAddr, to: IpAddr| {
        let before = node.drops();
        let ends = Ends {
            source_mac: mac(netns, interface),
            destination_mac: gateway,
            from,
            to,
        };
        let wire = RawSocket::open(netns, interface);
        eventually("it is dropped by name", HUNG, || {
            wire.send(&ends.syn((4000, 7)));
            (node.drops().of("spoofed_address") > before.of("spoofed_address")).then_some(())
        });
    };
    spoof(&other.netns, "eth0", LOOPBACK[0].parse().unwrap(), web.v4());
    spoof(node.netns(), HOST, other.v4(), web.v4());
    spoof(node.netns(), HOST, other.v6(), web.v6());
    // Nor anybody else: no route leads there.
    spoof(node.netns(), HOST, "203.0.113.9".parse().unwrap(), web.v4());
    drop(server);
}

/// The routes and neighbors of the host's interface.
fn ways(node: &Node) -> String {
    let all = [
        "route show",
        "-6 route show",
        "neighbor show",
        "-6 neighbor show",
    ];
    let shown = all.map(|what| node.netns().ip(&format!("{what} dev {HOST}")));
    shown.concat()
}

#[test]
fn a_connection_outlives_the_daemon_and_what_is_on_the_host_stays() {
    let mut node = addressed();
    let pod = node.pod();
    node.apply(&[set(port())]);
    let (on_pod, on_node) = (Echo::start(&pod.netns, 7), Echo::start(node.netns(), 8));
    let connect = |from: &Netns, to, server: &Echo| {
        tcp_connect(from, to, server.port(), HUNG).expect("a connection")
    };
    let mut out = connect(node.netns(), pod.v4(), &on_pod);
    let mut back = connect(&pod.netns, LOOPBACK[1].parse().unwrap(), &on_node);
    let index =
        |node: &Node| node.netns().ip_json(&format!("link show dev {HOST}"))[0]["ifindex"].clone();
    let (before, interface) = (ways(&node), index(&node));
    assert!(before.contains("10.244.1.0/24") && before.contains("fd00:244:1::/64"));
    for orderly in [false, true] {
        tcp_echo(&mut out, b"before");
        tcp_echo(&mut back, b"before");
        match orderly {
            true => node.terminate(),
            false => node.kill(),
        }
        assert_eq!(
            (ways(&node), index(&node)),
            (before.clone(), interface.clone())
        );
        assert!(
            ping_fails(node.netns(), pod.v4()),
            "nobody forwards meanwhile"
        );
        node.start();
        tcp_echo(&mut out, b"after");
        tcp_echo(&mut back, b"after");
        assert_eq!(
            (ways(&node), index(&node)),
            (before.clone(), interface.clone())
        );
    }
    // What somebody takes away is made anew.
    node.netns().ip(&format!("link delete {HOST}"));
    eventually("the interface is back", HUNG, || {
        (ways_if_any(&node) == before).then_some(())
    });
    tcp_echo(&mut out, b"on a new interface");
    // Down is down, and up again is as before.
    node.netns().ip(&format!("link set {HOST} down"));
    eventually("the port says so", HUNG, || {
        (status(&node)["state"] == "down").then_some(())
    });
    node.netns().ip(&format!("link set {HOST} up"));
    eventually("routes are back", HUNG, || {
        (ways_if_any(&node) == before).then_some(())
    });
    tcp_echo(&mut out, b"up again");
    node.terminate();
    teardown(&node);
    assert!(node.netns().links().is_empty());
}

fn teardown(node: &Node) {
    let mut ctl = node.netns().command(bin_dir().join("podswitchctl"));
    ctl.args(["teardown", "--config"]).arg(node.config_file());
    run(&mut ctl, b"", HUNG).success("podswitchctl teardown");
}

fn ways_if_any(node: &Node) -> String {
    match node.netns().try_ip(&format!("link show dev {HOST}")).status {
        0 => ways(node),
        _ => String::new(),
    }
}

#[test]
fn the_nodes_addresses_are_followed() {
    let node = addressed();
    let uplink = Uplink::new(&node, 1);
    let (pod, other) = (node.pod(), node.pod());
    node.apply(&[set(port())]);
    let nic: IpAddr = NODE_V4.into();
    ping(&pod.netns, nic);
    let moved: IpAddr = "192.0.2.77".parse().unwrap();
    assert!(ping_fails(&pod.netns, moved));
    node.netns()
        .ip(&format!("address add {moved}/24 dev {NIC}"));
    ping(&pod.netns, moved);
    // The source of the node's routes goes, and another takes its place.
    node.netns()
        .ip(&format!("address delete {nic}/24 dev {NIC}"));
    eventually("the address is no longer the node's", HUNG, || {
        let known = status(&node)["addresses"].clone();
        let has = |a: IpAddr| known.as_array().unwrap().contains(&json!(a));
        (!has(nic) && addresses().all(has)).then_some(())
    });
    ping(node.netns(), pod.v4());
    assert!(ping_fails(&pod.netns, nic));
    for address in addresses() {
        ping(&pod.netns, address);
    }
    // One that is a pod's stays the pod's.
    node.netns()
        .ip(&format!("address add {}/32 dev lo", other.v4()));
    node.netns().ip("address add 192.0.2.78/24 dev eth0");
    ping(&pod.netns, "192.0.2.78".parse().unwrap());
    ping(&pod.netns, other.v4());
    assert_eq!(status(&node)["state"], "up");
    drop(uplink);
}

#[test]
fn addresses_may_be_named() {
    let node = addressed();
    let pod = node.pod();
    let mut named = port();
    named["addresses"] = json!([LOOPBACK[0]]);
    node.apply(&[set(named)]);
    ping(&pod.netns, LOOPBACK[0].parse().unwrap());
    assert!(ping_fails(&pod.netns, LOOPBACK[1].parse().unwrap()));
    node.apply(&[set(port())]);
    ping(&pod.netns, LOOPBACK[1].parse().unwrap());
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let mut node = addressed();
    let refused = |node: &Node, object: Value| {
        let answer = node.rpc("apply", &json!({"changes": [set(object)]}));
        answer.expect_err("a refusal").to_string()
    };
    let netns = node.netns();
    netns.ip(&format!("link add {HOST} type bridge"));
    let before = host(&node);
    let why = refused(&node, port());
    assert!(why.contains(HOST) && why.contains("bridge"), "{why}");
    assert_same(&node, &before);
    // A veth is none the less somebody else's.
    netns.ip(&format!("link delete {HOST}"));
    netns.ip(&format!("link add {HOST} type veth peer name other0"));
    let before = host(&node);
    assert!(refused(&node, port()).contains(HOST));
    assert_same(&node, &before);
    netns.ip(&format!("link delete {HOST}"));
    // A route to the pods that somebody else has.
    netns.ip("link add cni0 type bridge");
    netns.ip("link set cni0 up");
    netns.ip("route add 10.244.1.0/24 dev cni0");
    let before = host(&node);
    assert!(refused(&node, port()).contains("10.244.1.0/24"));
    assert_same(&node, &before);
    assert!(node.get("port", &json!({})).is_empty());
    netns.ip("link delete cni0");
    node.apply(&[set(port())]);
    // There is one.
    let mut second = port();
    second["name"] = json!("second");
    second["device"]["interface"] = json!("second0");
    let why = refused(&node, second);
    assert!(why.contains("host"), "{why}");
    // Another name, another MTU, other pods: the same port.
    let mut other = port();
    other["device"]["interface"] = json!("node0");
    other["device"]["pods"] = json!(["10.244.0.0/16"]);
    other["mtu"] = json!(9000);
    node.apply(&[set(other)]);
    let links = node.netns().ip_json("link show dev node0");
    assert_eq!(links[0]["mtu"], 9000);
    assert!(!node.netns().links().contains(&HOST.to_owned()));
    let routes = node.netns().ip("route show dev node0");
    assert!(
        routes.contains("10.244.0.0/16") && !routes.contains("10.244.1.0/24"),
        "{routes}"
    );
    // Something else has the name when the daemon comes back: it waits until that is gone.
    node.apply(&[set(port())]);
    node.kill();
    node.netns().ip(&format!("link delete {HOST}"));
    node.netns().ip(&format!("link add {HOST} type bridge"));
    node.start();
    assert_eq!(status(&node)["state"], "faulted");
    let message = status(&node)["message"].to_string();
    assert!(message.contains(HOST), "{message}");
    node.netns().ip(&format!("link delete {HOST}"));
    eventually("the port opens", HUNG, || {
        (status(&node)["state"] == "up").then_some(())
    });
    let pod = node.pod();
    ping(&pod.netns, LOOPBACK[0].parse().unwrap());
    ping(node.netns(), pod.v6());
}

/// The world: an address beyond the peer on the node's link, in each family, and one that is excepted.
const WORLD: [&str; 2] = ["203.0.113.9", "2001:db8:77::9"];
const EXCEPTED: &str = "203.0.113.99";
/// The node's address on the link.
const NODE_V6: &str = "2001:db8:2::1";

/// A node on a link with the way to the world, and a stack that forwards nothing.
fn at_the_edge() -> (Node, Uplink) {
    let node = addressed();
    let uplink = Uplink::new(&node, 1);
    for name in ["all", "default"] {
        set_sysctl(
            node.netns(),
            &format!("net/ipv4/conf/{name}/forwarding"),
            "0",
        );
    }
    let ends = [(node.netns(), NODE_V6), (&uplink.peer, "2001:db8:2::9")];
    for (end, address) in ends {
        end.ip(&format!("address add {address}/64 dev {NIC} nodad"));
    }
    for address in WORLD.into_iter().chain([EXCEPTED]) {
        uplink.peer.ip(&format!("address add {address} dev lo"));
    }
    node.netns().ip(&format!("route add default via {PEER_V4}"));
    node.netns().ip("route add default via 2001:db8:2::9");
    eventually("addresses of the link are the node's own", HUNG, || {
        let tentative = node.netns().ip("-6 address show tentative");
        tentative.trim().is_empty().then_some(())
    });
    (node, uplink)
}

fn by_host(prefix: &str) -> Value {
    set(json!({"kind": "route", "prefix": prefix, "port": "host"}))
}

fn with_egress(interfaces: &[&str], masquerade: bool) -> Value {
    let mut port = port();
    port["device"]["egress"] = json!(interfaces);
    port["device"]["masquerade"] = json!(masquerade);
    port
}

/// From which address somebody in the world is asked.
#[track_caller]
fn seen_as(world: &Netns, from: &Netns, to: &str) -> IpAddr {
    let to: IpAddr = to.parse().unwrap();
    let listener = world
        .run(|| TcpListener::bind((to, 0)))
        .expect("a listener");
    let port = listener.local_addr().unwrap().port();
    let stream = eventually("a connection to the world", HUNG, || {
        tcp_connect(from, to, port, Duration::from_secs(2)).ok()
    });
    let (mut other, peer) = listener.accept().expect("the connection");
    let mut stream = stream;
    let bytes = vec![7; 100_000];
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&bytes).expect("writing to the world"));
        let mut back = vec![0; bytes.len()];
        other.read_exact(&mut back).expect("reading in the world");
        assert!(back == bytes);
    });
    peer.ip()
}

#[test]
fn the_hosts_stack_is_the_way_to_the_world_and_is_left_as_it_was() {
    let (mut node, uplink) = at_the_edge();
    let pod = node.pod();
    let world = &uplink.peer;
    let before = host(&node);
    let words = "port add host --host --pods 10.244.1.0/24 --pods fd00:244:1::/64 --egress eth0 --except 203.0.113.96/28";
    let words: Vec<&str> = words.split(' ').collect();
    node.ctl().run(&words).success("port add");
    node.apply(&[by_host("0.0.0.0/0"), by_host("::/0")]);
    let node_sees = |node: &Node| {
        let [v4, v6] = WORLD.map(|to| seen_as(world, &pod.netns, to));
        assert_eq!(v4, IpAddr::from(NODE_V4));
        assert_eq!(v6, NODE_V6.parse::<IpAddr>().unwrap());
        let ping_v4: IpAddr = WORLD[0].parse().unwrap();
        ping(&pod.netns, ping_v4);
        ping(node.netns(), pod.v4());
    };
    node_sees(&node);
    // Who is excepted sees the pod itself, to whom there has to be a way back.
    world.ip(&format!("route add 10.244.1.0/24 via {NODE_V4}"));
    world.ip(&format!("route add fd00:244:1::/64 via {NODE_V6}"));
    assert_eq!(seen_as(world, &pod.netns, EXCEPTED), pod.v4());
    // Nothing but the two interfaces forwards.
    let forwards = |interface: &str| {
        sysctl(
            node.netns(),
            &format!("net/ipv4/conf/{interface}/forwarding"),
        )
    };
    let host_end = node.host_end(&pod);
    for (interface, expected) in [("all", "0"), (&host_end, "0"), (NIC, "1"), (HOST, "1")] {
        assert_eq!(
            forwards(interface).as_deref(),
            Some(expected),
            "{interface}"
        );
    }
    let shown = status(&node)["on_host"].to_string();
    for what in ["table inet podswitch", "conf/eth0/forwarding 1 (was 0)"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    // What is on the host outlives the daemon, and how it was is not forgotten.
    let with_port = host(&node);
    node.kill();
    assert_same(&node, &with_port);
    node.start();
    assert_same(&node, &with_port);
    node_sees(&node);
    node.apply(&[set(with_egress(&[NIC], false))]);
    assert_eq!(seen_as(world, &pod.netns, WORLD[0]), pod.v4());
    assert_eq!(seen_as(world, &pod.netns, WORLD[1]), pod.v6());
    assert!(!host(&node).contains("table inet podswitch"));
    // Nobody forwards any more.
    node.apply(&[set(port())]);
    assert_eq!(
        sysctl(node.netns(), "net/ipv4/conf/eth0/forwarding").as_deref(),
        Some("0")
    );
    node.apply(&[removed()]);
    assert_same(&node, &before);
    node.apply(&[set(with_egress(&[NIC], true))]);
    node.apply(&[removed()]);
    assert_same(&node, &before);
    // Nor does a teardown leave anything, whatever became of the interface.
    node.delete(&pod);
    let before = host(&node);
    node.apply(&[set(with_egress(&[NIC], true))]);
    node.kill();
    node.netns().ip(&format!("link delete {HOST}"));
    assert_ne!(host(&node), before);
    teardown(&node);
    assert_same(&node, &before);
}

#[test]
fn what_the_host_cannot_do_is_refused_by_name() {
    let (node, _uplink) = at_the_edge();
    let refused = |egress: &[&str]| {
        let changes = json!({"changes": [set(with_egress(egress, true))]});
        node.rpc("apply", &changes)
            .expect_err("a refusal")
            .to_string()
    };
    let before = host(&node);
    let why = refused(&[NIC, "nowhere0"]);
    assert!(why.contains("nowhere0"), "{why}");
    assert!(refused(&[HOST]).contains(HOST));
    assert_same(&node, &before);
    let nft = |words: &str| {
        let mut nft = node.netns().command("nft");
        run(nft.args(words.split(' ')), b"", HUNG).success("nft");
    };
    nft("add table inet podswitch");
    let before = host(&node);
    let why = refused(&[NIC]);
    assert!(why.contains("table inet podswitch"), "{why}");
    assert_same(&node, &before);
    nft("delete table inet podswitch");
    // A chain of somebody else's that drops is named, as no table of ours can overrule it.
    nft("add table ip fw");
    nft("add chain ip fw forward { type filter hook forward priority 0 ; policy drop ; }");
    node.apply(&[set(with_egress(&[NIC], true))]);
    let health = node.rpc("health", &json!({})).expect("health").to_string();
    assert!(health.contains("ip fw forward"), "{health}");
    nft("delete table inet podswitch");
    let health = node.rpc("health", &json!({})).expect("health").to_string();
    assert!(health.contains("table inet podswitch"), "{health}");
}
