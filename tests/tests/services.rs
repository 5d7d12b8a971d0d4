// SPDX-License-Identifier: Apache-2.0
//! Services, with real sockets: pods, and clients on the node's wire, reach backends on the node and beyond it by virtual addresses.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use podswitch_tests::objects::{delete, set};
use podswitch_tests::traffic::{Echo, tcp_connect, tcp_echo, udp_echo, udp_is_refused, udp_socket};
use podswitch_tests::uplink::{NODE_V4, NODE_V6, PEER_V4, PEER_V6, Uplink};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// What the service has: port, port of the node, and where its backends listen.
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const TARGET: u16 = 8080;
const VIP: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10)),
];
/// Its addresses on a load balancer.
const PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 80)),
];

fn node_addresses() -> [IpAddr; 2] {
    [NODE_V4.into(), NODE_V6.into()]
}

fn peer_addresses() -> [IpAddr; 2] {
    [PEER_V4.into(), PEER_V6.into()]
}

fn pod_addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4(), pod.v6()]
}

/// A service of all protocols and families, changed before it is given to the switch.
fn service(
    backends: &[[IpAddr; 2]],
    local: &[[IpAddr; 2]],
    change: impl Fn(&mut Value),
) -> Vec<Value> {
    let mut all = Vec::new();
    for (family, protocol) in [(0, "tcp"), (0, "udp"), (1, "tcp"), (1, "udp")] {
        let ends = |all: &[[IpAddr; 2]]| -> Vec<Value> {
            let of = all
                .iter()
                .map(|a| json!({"address": a[family], "port": TARGET}));
            of.collect()
        };
        let mut object = json!({
            "kind": "service", "name": format!("shop/web:{protocol}:{family}"), "protocol": protocol, "port": PORT,
            "addresses": [VIP[family]], "external": [{"address": PUBLIC[family]}], "node_port": NODE_PORT,
            "backends": ends(backends), "local_backends": ends(local),
        });
        change(&mut object);
        all.push(set(object));
    }
    all
}

fn plain(backends: &[[IpAddr; 2]]) -> Vec<Value> {
    service(backends, &[], |_| {})
}

/// Who is there is served by TCP and UDP, whole and in fragments.
fn reaches(from: &Netns, to: IpAddr, port: u16) {
    let mut client = tcp_connect(from, to, port, HUNG).expect("a connection to the service");
    tcp_echo(&mut client, &vec![0x5a; 1 << 20]);
    let client = udp_socket(from, to, port);
    assert!(udp_echo(&client, b"datagram", HUNG), "{to}");
    assert!(udp_echo(&client, &[7; 6000], HUNG), "{to}: a large one");
}

/// Who is there is told that nobody serves.
fn is_refused(from: &Netns, to: IpAddr, port: u16) {
    let refused = tcp_connect(from, to, port, HUNG).expect_err("nobody serves");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
    assert!(udp_is_refused(from, to, port), "{to}");
}

/// A server that says who it is to who connects, and who that was to the test.
struct Named(TcpListener);

impl Named {
    fn start(pod: &Pod) -> Named {
        let any = (Ipv6Addr::UNSPECIFIED, TARGET);
        let server = pod.netns.run(|| TcpListener::bind(any)).expect("a server");
        server
            .set_nonblocking(true)
            .expect("a non-blocking listener");
        Named(server)
    }

    /// The connection that has come, if one has.
    fn take(&self) -> Option<(TcpStream, IpAddr)> {
        let (stream, from) = self.0.accept().ok()?;
        stream.set_nonblocking(false).expect("a blocking stream");
        Some((stream, from.ip().to_canonical()))
    }
}

/// Which of the servers a new connection came to, both its ends, and whom the server saw.
fn come(
    from: &Netns,
    to: IpAddr,
    port: u16,
    servers: &[&Named],
) -> (usize, TcpStream, TcpStream, IpAddr) {
    let client = tcp_connect(from, to, port, HUNG).expect("a connection to the service");
    let (n, (served, seen)) = eventually("the connection arrives", HUNG, || {
        servers
            .iter()
            .enumerate()
            .find_map(|(n, s)| Some((n, s.take()?)))
    });
    (n, client, served, seen)
}

/// What one end says the other one hears.
fn says(mut one: &TcpStream, mut other: &TcpStream) {
    one.write_all(b"still here").expect("send");
    other.set_read_timeout(Some(HUNG)).expect("a timeout");
    let mut heard = [0; 10];
    other.read_exact(&mut heard).expect("what was said");
    assert_eq!(&heard, b"still here");
}

fn two_workers() -> NodeConfig {
    NodeConfig {
        workers: vec![0, 1],
        ..NodeConfig::default()
    }
}

#[test]
fn pods_are_served_at_all_addresses_of_a_service_by_one_worker_and_by_two() {
    for config in [NodeConfig::default(), two_workers()] {
        let node = Node::new(config);
        let (client, backend) = (node.pod(), node.pod());
        node.apply(&plain(&[pod_addresses(&backend)]));
        let _echo = Echo::start(&backend.netns, TARGET);
        for to in VIP.into_iter().chain(PUBLIC) {
            reaches(&client.netns, to, PORT);
        }
        // And itself.
        for to in VIP {
            reaches(&backend.netns, to, PORT);
        }
    }
}

#[test]
fn who_is_served_by_nobody_hears_so() {
    let node = Node::new(two_workers());
    let (client, backend) = (node.pod(), node.pod());
    node.apply(&plain(&[]));
    for to in VIP.into_iter().chain(PUBLIC) {
        is_refused(&client.netns, to, PORT);
    }
    node.apply(&plain(&[pod_addresses(&backend)]));
    for to in VIP {
        // The backend's own refusal, and a port that no service has.
        is_refused(&client.netns, to, PORT);
        is_refused(&client.netns, to, PORT + 1);
    }
    let drops = node.drops();
    assert!(
        drops.of("service_no_backend") >= 8 && drops.of("service_no_port") >= 4,
        "{drops:?}"
    );
}

#[test]
fn connections_outlive_their_service_and_new_ones_go_to_who_serves() {
    let node = Node::new(two_workers());
    let (client, one, other) = (node.pod(), node.pod(), node.pod());
    let both = [pod_addresses(&one), pod_addresses(&other)];
    node.apply(&plain(&both));
    let servers = [&Named::start(&one), &Named::start(&other)];
    let mut open = Vec::new();
    for to in VIP {
        for _ in 0..20 {
            let (n, asks, served, seen) = come(&client.netns, to, PORT, &servers);
            assert!(pod_addresses(&client).contains(&seen), "{seen}");
            open.push((n, asks, served));
        }
    }
    let first = open.iter().filter(|(n, ..)| *n == 0).count();
    assert!((5..=35).contains(&first), "{first} of 40 went to the first");
    // One of the two does not serve any more.
    node.apply(&plain(&both[..1]));
    for to in VIP {
        for _ in 0..10 {
            assert_eq!(come(&client.netns, to, PORT, &servers).0, 0);
        }
    }
    for (_, client, served) in &open {
        says(client, served);
        says(served, client);
    }
    let names = ["tcp:0", "udp:0", "tcp:1", "udp:1"]
        .map(|n| json!({"kind": "service", "name": format!("shop/web:{n}")}));
    node.apply(&names.map(delete));
    for (_, client, served) in &open {
        says(served, client);
        says(client, served);
    }
}

#[test]
fn a_connection_to_a_service_goes_on_after_kill_9_with_the_backend_it_has() {
    let mut node = Node::new(two_workers());
    let (client, one, other) = (node.pod(), node.pod(), node.pod());
    node.apply(&plain(&[pod_addresses(&one)]));
    let servers = [&Named::start(&one)];
    let connect = |to| come(&client.netns, to, PORT, &servers);
    let open = VIP.map(|to| [connect(to), connect(to)]);
    node.kill();
    node.start();
    // Another pod has come to serve instead.
    node.apply(&plain(&[pod_addresses(&other)]));
    for [(_, client, served, _), (_, another, serves_it, _)] in &open {
        says(client, served);
        says(served, client);
        // Who is served hears first.
        says(serves_it, another);
        says(another, serves_it);
    }
}

#[test]
fn a_client_with_affinity_stays() {
    let node = Node::new(NodeConfig::default());
    let (client, one, other) = (node.pod(), node.pod(), node.pod());
    let both = [pod_addresses(&one), pod_addresses(&other)];
    node.apply(&service(&both, &[], |o| o["affinity_seconds"] = json!(600)));
    let servers = [&Named::start(&one), &Named::start(&other)];
    for to in VIP {
        let first = come(&client.netns, to, PORT, &servers).0;
        for _ in 0..10 {
            assert_eq!(come(&client.netns, to, PORT, &servers).0, first);
        }
    }
}

/// A node with a wire, whose service has one backend on the node and one elsewhere, behind the other end of the wire.
struct Bed {
    node: Node,
    backend: Pod,
    uplink: Uplink,
    elsewhere: Netns,
}

/// Who is elsewhere.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 0x77)),
];

impl Bed {
    fn new() -> Bed {
        let node = Node::new(NodeConfig {
            daemon: "[masquerade]\nports = { first = 61000, last = 61999 }".to_owned(),
            ..two_workers()
        });
        let uplink = Uplink::of_both_families(&node, 1);
        let [v4, v6] = Uplink::default_routes();
        node.apply(&[set(uplink.port("native")), v4, v6]);
        let peer = &uplink.peer;
        for (to, node) in PUBLIC.into_iter().zip(node_addresses()) {
            peer.ip(&format!("route add {to} via {node}"));
        }
        for (to, node) in ["10.244.1.0/24", "fd00:244:1::/64"]
            .iter()
            .zip(node_addresses())
        {
            peer.ip(&format!("route add {to} via {node}"));
        }
        let elsewhere = Netns::new("elsewhere");
        peer.ip(&format!(
            "link add eth1 type veth peer name eth0 netns {}",
            elsewhere.name()
        ));
        for (netns, interface, host) in [(peer, "eth1", "1"), (&elsewhere, "eth0", "77")] {
            netns.ip(&format!("address add 198.51.100.{host}/24 dev {interface}"));
            netns.ip(&format!(
                "address add fd00:51::{host}/64 dev {interface} nodad"
            ));
            netns.ip(&format!("link set {interface} up"));
        }
        elsewhere.ip("route add default via 198.51.100.1");
        elsewhere.ip("route add default via fd00:51::1");
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/all/forwarding");
            peer.run(|| std::fs::write(path, "1")).expect("a router");
        }
        Bed {
            backend: node.pod(),
            node,
            uplink,
            elsewhere,
        }
    }

    /// Where clients on the wire come to.
    fn outside() -> impl Iterator<Item = (IpAddr, u16)> {
        let public = PUBLIC.into_iter().map(|to| (to, PORT));
        public.chain(node_addresses().into_iter().map(|to| (to, NODE_PORT)))
    }
}

#[test]
fn who_comes_by_the_wire_is_served_by_a_pod_of_the_node_with_his_own_address() {
    let bed = Bed::new();
    let web = [pod_addresses(&bed.backend)];
    for policy in ["cluster", "local"] {
        bed.node.apply(&service(&web, &web, |o| {
            o["external_traffic"] = json!(policy)
        }));
        {
            let server = Named::start(&bed.backend);
            for (to, port) in Bed::outside() {
                let (_, asks, served, seen) = come(&bed.uplink.peer, to, port, &[&server]);
                assert!(peer_addresses().contains(&seen), "{seen}");
                says(&asks, &served);
                says(&served, &asks);
            }
        }
        let _echo = Echo::start(&bed.backend.netns, TARGET);
        for (to, port) in Bed::outside() {
            reaches(&bed.uplink.peer, to, port);
        }
    }
    // Two objects have one address; that the one goes does not take it from the other.
    let udp = ["udp:0", "udp:1"];
    let udp = udp.map(|n| delete(json!({"kind": "service", "name": format!("shop/web:{n}")})));
    bed.node.apply(&udp);
    let _echo = Echo::start(&bed.backend.netns, TARGET);
    for to in PUBLIC {
        tcp_connect(&bed.uplink.peer, to, PORT, HUNG / 10).expect("TCP is still served");
    }
    // The node's own ports are the node's.
    for to in node_addresses() {
        assert!(udp_is_refused(&bed.uplink.peer, to, NODE_PORT + 1));
    }
}

#[test]
fn who_comes_by_the_wire_is_served_elsewhere_as_from_the_node() {
    let bed = Bed::new();
    bed.node.apply(&plain(&[ELSEWHERE]));
    let any = (Ipv6Addr::UNSPECIFIED, TARGET);
    let server = bed
        .elsewhere
        .run(|| TcpListener::bind(any))
        .expect("a server");
    server
        .set_nonblocking(true)
        .expect("a non-blocking listener");
    let server = Named(server);
    for (to, port) in Bed::outside() {
        let (_, asks, served, seen) = come(&bed.uplink.peer, to, port, &[&server]);
        assert!(node_addresses().contains(&seen), "{seen}");
        says(&asks, &served);
        says(&served, &asks);
    }
    drop(server);
    let _echo = Echo::start(&bed.elsewhere, TARGET);
    for (to, port) in Bed::outside() {
        reaches(&bed.uplink.peer, to, port);
    }
    // A pod is served there as itself.
    for to in VIP {
        reaches(&bed.backend.netns, to, PORT);
    }
}

#[test]
fn traffic_that_stays_on_the_node_goes_nowhere_else() {
    let bed = Bed::new();
    let only_here = |o: &mut Value| {
        o["external_traffic"] = json!("local");
        o["internal_traffic"] = json!("local");
    };
    bed.node.apply(&service(&[ELSEWHERE], &[], only_here));
    let _echo = Echo::start(&bed.elsewhere, TARGET);
    for (to, port) in Bed::outside() {
        let client = udp_socket(&bed.uplink.peer, to, port);
        assert!(!udp_echo(&client, b"?", HUNG / 50), "{to}");
    }
    for to in VIP {
        let client = udp_socket(&bed.backend.netns, to, PORT);
        assert!(!udp_echo(&client, b"?", HUNG / 50), "{to}");
    }
    assert!(bed.node.drops().of("service_no_local_backend") >= 6);
    // Who is inside is served at the addresses outside.
    for to in PUBLIC {
        reaches(&bed.backend.netns, to, PORT);
    }
}

#[test]
fn only_clients_that_are_let_in_are_served_at_a_load_balancers_address() {
    let bed = Bed::new();
    let web = [pod_addresses(&bed.backend)];
    let _echo = Echo::start(&bed.backend.netns, TARGET);
    let sources = |v4: &'static str, v6: &'static str| {
        move |o: &mut Value| {
            let address = o["external"][0]["address"].as_str().expect("an address");
            let prefix = if address.contains(':') { v6 } else { v4 };
            o["external"][0]["sources"] = json!([prefix]);
        }
    };
    bed.node
        .apply(&service(&web, &[], sources("192.0.2.0/24", "fd00:2::/64")));
    for to in PUBLIC {
        reaches(&bed.uplink.peer, to, PORT);
    }
    bed.node.apply(&service(
        &web,
        &[],
        sources("198.51.100.0/24", "2001:db8:7::/64"),
    ));
    for to in PUBLIC {
        let client = udp_socket(&bed.uplink.peer, to, PORT);
        assert!(!udp_echo(&client, b"?", HUNG / 50), "{to}");
    }
    for to in node_addresses() {
        reaches(&bed.uplink.peer, to, NODE_PORT);
    }
    assert!(bed.node.drops().of("service_source_denied") >= 2);
}

#[test]
fn processes_of_the_node_reach_services() {
    let bed = Bed::new();
    let prefixes = [
        "10.244.1.0/24",
        "fd00:244:1::/64",
        "10.96.0.0/12",
        "fd00:10:96::/112",
    ];
    let host =
        json!({"kind": "port", "name": "host", "device": {"kind": "host", "pods": prefixes}});
    bed.node.apply(&[set(host)]);
    bed.node.apply(&plain(&[pod_addresses(&bed.backend)]));
    {
        let _echo = Echo::start(&bed.backend.netns, TARGET);
        for to in VIP {
            reaches(bed.node.netns(), to, PORT);
        }
    }
    // Also where who serves is no pod of this node.
    bed.node.apply(&plain(&[ELSEWHERE]));
    let _echo = Echo::start(&bed.elsewhere, TARGET);
    for to in VIP {
        reaches(bed.node.netns(), to, PORT);
    }
}

#[test]
fn policy_is_about_the_backend_and_why_says_who_serves() {
    let node = Node::new(two_workers());
    let (client, backend) = (node.pod(), node.pod());
    node.apply(&plain(&[pod_addresses(&backend)]));
    let _echo = Echo::start(&backend.netns, TARGET);
    let asked = json!({"from": {"address": client.v4()}, "to": {"address": VIP[0]}, "protocol": "tcp", "port": PORT});
    let why = node.rpc("why", &asked).expect("why");
    assert_eq!(why["allowed"], true, "{why}");
    let led = &why["leads_to"];
    assert_eq!(led["service"], "shop/web:tcp:0", "{why}");
    assert_eq!(led["to"]["address"], json!(backend.v4()), "{why}");
    assert_eq!(led["container_port"], TARGET, "{why}");
    let deny = |port: u16| {
        let rule = json!({"kind": "rule", "name": "no", "port": node.port_name(&backend), "direction": "ingress",
            "priority": 1, "protocol": "tcp", "ports": {"first": port, "last": port}, "action": "deny"});
        node.apply(&[set(rule)]);
    };
    deny(PORT);
    reaches(&client.netns, VIP[0], PORT);
    deny(TARGET);
    let why = node.rpc("why", &asked).expect("why");
    assert_eq!(why["reason"], "policy_denied_ingress", "{why}");
    let denied = || node.drops().of("policy_denied_ingress");
    let before = denied();
    assert!(tcp_connect(&client.netns, VIP[0], PORT, HUNG / 50).is_err());
    assert!(denied() > before);
    node.apply(&plain(&[]));
    let why = node.rpc("why", &asked).expect("why");
    assert_eq!(why["reason"], "service_no_backend", "{why}");
}
