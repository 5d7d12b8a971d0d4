// SPDX-License-Identifier: Apache-2.0
//! Pods talk to a world that knows nothing of them: what they begin leaves as the node's own, by ports that are nobody else's.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;

use podswitch_tests::kernel::set_sysctl;
use podswitch_tests::objects::set;
use podswitch_tests::traffic::{
    Echo, ping, ping_once, tcp_connect, tcp_echo, udp_echo, udp_is_refused, udp_socket,
};
use podswitch_tests::uplink::{NIC, NODE_V4, NODE_V6, PEER_V4, PEER_V6, Session, Uplink};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod};
use serde_json::{Value, json};

const PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// The world's, too; not masqueraded.
const EXCEPTED: &str = "198.51.100.9";

fn config(workers: &[u32]) -> NodeConfig {
    let (first, last) = (PORTS.start(), PORTS.end());
    NodeConfig {
        workers: workers.to_vec(),
        daemon: format!("[masquerade]\nports = {{ first = {first}, last = {last} }}"),
        ..NodeConfig::default()
    }
}

struct Bed {
    // Declared, so dropped, in this order.
    node: Node,
    pod: Pod,
    uplink: Uplink,
}

impl Bed {
    fn new(workers: &[u32]) -> Bed {
        let node = Node::new(config(workers));
        let uplink = Uplink::of_both_families(&node, 1);
        uplink.peer.ip(&format!("address add {EXCEPTED}/32 dev lo"));
        let pod = node.pod();
        let bed = Bed { node, pod, uplink };
        let [v4, v6] = Uplink::default_routes();
        bed.node.apply(&[set(masquerading()), v4, v6]);
        for to in WORLD {
            ping(&bed.pod.netns, to());
        }
        bed
    }

    /// Has the pod connect to a listener of the world; both ends, and who the world thinks it is.
    fn connect(&self, to: IpAddr) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = self
            .uplink
            .peer
            .run(|| TcpListener::bind((to, 0)).expect("a listener"));
        let port = listener.local_addr().expect("its address").port();
        let client =
            tcp_connect(&self.pod.netns, to, port, HUNG).expect("a connection to the world");
        let (server, from) = listener.accept().expect("the connection");
        (client, server, from)
    }
}

fn masquerading() -> Value {
    let device =
        json!({"kind": "nic", "interface": NIC, "masquerade": true, "except": ["198.51.100.0/24"]});
    json!({"kind": "port", "name": "uplink", "device": device})
}

const WORLD: [fn() -> IpAddr; 2] = [|| PEER_V4.into(), || PEER_V6.into()];

#[track_caller]
fn is_node(from: SocketAddr) {
    let node: IpAddr = match from.ip().is_ipv4() {
        true => NODE_V4.into(),
        false => NODE_V6.into(),
    };
    assert_eq!(from.ip(), node, "the world sees the node");
    assert!(PORTS.contains(&from.port()), "by a reserved port: {from}");
}

fn talks(bed: &Bed) {
    let echo = Echo::start(&bed.uplink.peer, 7000);
    for to in WORLD.map(|to| to()) {
        let (mut client, server, from) = bed.connect(to);
        is_node(from);
        assert_ne!(client.local_addr().unwrap().ip(), from.ip());
        drop(server);
        client = tcp_connect(&bed.pod.netns, to, echo.port(), HUNG).expect("a connection");
        tcp_echo(&mut client, &vec![0x5a; 1 << 20]);
        let udp = udp_socket(&bed.pod.netns, to, echo.port());
        assert!(udp_echo(&udp, b"datagram", HUNG));
        // In fragments, both ways.
        assert!(udp_echo(&udp, &[7; 6000], HUNG), "{to}: a large datagram");
        assert!(ping_once(&bed.pod.netns, to, 4000, 5), "{to}: a large ping");
        // The world's refusal is the pod's to see.
        assert!(udp_is_refused(&bed.pod.netns, to, 7001), "{to}");
    }
}

#[test]
fn pods_reach_the_world_as_the_node_by_one_worker() {
    let bed = Bed::new(&[0]);
    let session = Session::start(&bed.node, &bed.uplink);
    talks(&bed);
    session.goes_on("pods' connections");
    session.end();
}

#[test]
fn pods_reach_the_world_as_the_node_by_two_workers() {
    talks(&Bed::new(&[0, 1]));
}

#[test]
fn what_is_excepted_leaves_as_the_pods_own() {
    let bed = Bed::new(&[0]);
    let to: IpAddr = EXCEPTED.parse().unwrap();
    let server = bed
        .uplink
        .peer
        .run(|| UdpSocket::bind((to, 7000)).expect("a socket"));
    server.set_read_timeout(Some(HUNG)).expect("a timeout");
    udp_socket(&bed.pod.netns, to, 7000)
        .send(b"from the pod")
        .expect("send");
    let (_, from) = server.recv_from(&mut [0; 16]).expect("the datagram");
    assert_eq!(from.ip(), bed.pod.v4());
}

#[test]
fn a_pod_that_only_listens_goes_on_after_kill_9() {
    let mut bed = Bed::new(&[0]);
    let (mut client, mut server, _) = bed.connect(PEER_V4.into());
    client.set_read_timeout(Some(HUNG)).expect("a timeout");
    let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 7) as u8).collect();
    // What fits the buffers of both ends.
    let (half, rest) = bytes.split_at(1 << 14);
    server.write_all(half).expect("the first part");
    let mut got = vec![0; half.len()];
    client.read_exact(&mut got).expect("the first part");
    bed.node.kill();
    let rest_sent = rest.to_vec();
    let sender = std::thread::spawn(move || server.write_all(&rest_sent).map(|()| server));
    bed.node.start();
    let mut more = vec![0; rest.len()];
    client
        .read_exact(&mut more)
        .expect("the rest, after the switch was killed");
    assert!(got == half && more == rest, "what was sent");
    // Both ways, by the same connection.
    let mut server = sender.join().unwrap().expect("the server's end");
    client.write_all(b"thanks").expect("send");
    let mut thanks = [0; 6];
    server.set_read_timeout(Some(HUNG)).expect("a timeout");
    server.read_exact(&mut thanks).expect("the pod's thanks");
}

#[track_caller]
fn refusal(node: &Node) -> String {
    let refused = node.rpc("apply", &json!({"changes": [set(masquerading())]}));
    refused
        .expect_err("ports that are not the switch's alone")
        .to_string()
}

#[test]
fn ports_that_are_not_the_switchs_alone_are_refused() {
    let node = Node::new(config(&[0]));
    let _uplink = Uplink::new(&node, 1);
    let held = node
        .netns()
        .run(|| TcpListener::bind((NODE_V4, 61_500)).expect("a listener"));
    let error = refusal(&node);
    assert!(
        error.contains("61500/tcp is held by a socket of the host at 192.0.2.1"),
        "{error}"
    );
    drop(held);
    set_sysctl(node.netns(), "net/ipv4/ip_local_port_range", "32768 61001");
    let error = refusal(&node);
    assert!(error.contains("the kernel gives port 61000"), "{error}");
    assert!(
        error.contains("net.ipv4.ip_local_reserved_ports"),
        "{error}"
    );
    set_sysctl(
        node.netns(),
        "net/ipv4/ip_local_reserved_ports",
        "61000-61001",
    );
    node.apply(&[set(masquerading())]);

    let none = Node::new(NodeConfig::default());
    let _uplink = Uplink::new(&none, 1);
    let error = refusal(&none);
    assert!(
        error.contains("no ports are reserved") && error.contains("masquerade.ports"),
        "{error}"
    );
}
