// SPDX-License-Identifier: Apache-2.0
//! Ports of the node that lead to pods (hostPort), as the runtime asks for them: `portMappings` of CNI, without any other plugin.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use podswitch_tests::cgroup::Cgroup;
use podswitch_tests::cni::Call;
use podswitch_tests::objects::{delete, set};
use podswitch_tests::programs::{bin_dir, run};
use podswitch_tests::traffic::{Echo, tcp_connect, tcp_echo, udp_echo, udp_is_refused, udp_socket};
use podswitch_tests::uplink::{NODE_V4, NODE_V6, PEER_V4, Session, Uplink};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// The pod's servers, and one where nobody is.
const ECHO: u16 = 7000;
const NOBODY: u16 = 7001;
/// Ports of the node.
const LED: u16 = 8080;
const LED_TO_NOBODY: u16 = 8081;

fn nodes() -> [IpAddr; 2] {
    [NODE_V4.into(), NODE_V6.into()]
}

fn mapping(protocol: &str, host_port: u16, container_port: u16) -> Value {
    json!({"hostPort": host_port, "containerPort": container_port, "protocol": protocol})
}

fn mapped(mappings: &[Value]) -> impl FnOnce(&mut Value) {
    let mappings = json!({"portMappings": mappings});
    move |conf| conf["runtimeConfig"] = mappings
}

/// An ADD of another pod.
fn call(node: &Node, netns: &Netns, change: impl FnOnce(&mut Value)) -> Call {
    let (id, path) = (node.container_id(), netns.path().to_string_lossy());
    let mut conf = node.conf();
    change(&mut conf);
    Call {
        stdin: conf.to_string().into_bytes(),
        ..node.call("ADD", &id, &path)
    }
}

/// The node's way to its pods.
fn host() -> Value {
    set(
        json!({"kind": "port", "name": "host", "device": {"kind": "host", "pods": ["10.244.1.0/24", "fd00:244:1::/64"]}}),
    )
}

/// Where the node's own processes come to ports of the node.
fn from_within() -> [IpAddr; 4] {
    let [v4, v6] = nodes();
    [
        v4,
        v6,
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ]
}

struct Bed {
    // Declared, so dropped, in this order.
    node: Node,
    pod: Pod,
    uplink: Uplink,
}

impl Bed {
    fn new(workers: &[u32]) -> Bed {
        Bed::of(NodeConfig {
            workers: workers.to_vec(),
            ..NodeConfig::default()
        })
    }

    /// One whose node has a way to its pods; processes are led to them that are in a group.
    fn with_host(cgroup: &Cgroup) -> Bed {
        let bed = Bed::of(NodeConfig {
            daemon: format!("cgroup = {:?}", cgroup.path()),
            ..NodeConfig::default()
        });
        bed.node.netns().ip("link set lo up");
        bed.node.apply(&[host()]);
        bed
    }

    fn of(config: NodeConfig) -> Bed {
        let node = Node::new(config);
        let uplink = Uplink::of_both_families(&node, 1);
        let [v4, v6] = Uplink::default_routes();
        node.apply(&[set(uplink.port("native")), v4, v6]);
        let pod = node.pod_with(mapped(&[
            mapping("tcp", LED, ECHO),
            mapping("udp", LED, ECHO),
            mapping("tcp", LED_TO_NOBODY, NOBODY),
            mapping("udp", LED_TO_NOBODY, NOBODY),
        ]));
        Bed { node, pod, uplink }
    }

    /// Whether a new connection from the peer is answered.
    fn answers(&self, to: IpAddr) -> bool {
        let client = udp_socket(&self.uplink.peer, to, LED);
        (0..20).any(|_| udp_echo(&client, b"anybody?", HUNG / 20))
    }
}

fn world_reaches_the_pod(bed: &Bed) {
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    reaches(&bed.uplink.peer);
}

/// Who is there reaches the pod's server, and hears of ports that nobody waits at.
fn reaches(from: &Netns) {
    for to in nodes() {
        let mut client = tcp_connect(from, to, LED, HUNG).expect("a connection to the pod");
        tcp_echo(&mut client, &vec![0x5a; 1 << 20]);
        let client = udp_socket(from, to, LED);
        assert!(udp_echo(&client, b"datagram", HUNG), "{to}");
        // In fragments, both ways.
        assert!(udp_echo(&client, &[7; 6000], HUNG), "{to}: a large one");
        // The pod's refusals come from where they were asked for.
        let refused = tcp_connect(from, to, LED_TO_NOBODY, HUNG).expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        assert!(udp_is_refused(from, to, LED_TO_NOBODY), "{to}");
    }
}

#[test]
fn the_world_reaches_a_pod_by_ports_of_the_node_by_one_worker() {
    let bed = Bed::new(&[0]);
    let session = Session::start(&bed.node, &bed.uplink);
    world_reaches_the_pod(&bed);
    session.goes_on("connections to pods");
    session.end();
    // Who asks why is told where the port leads.
    let asked = json!({"from": {"address": PEER_V4}, "to": {"address": NODE_V4}, "protocol": "udp", "port": LED});
    let why = bed.node.rpc("why", &asked).expect("why");
    assert_eq!(why["allowed"], true, "{why}");
    assert_eq!(
        why["leads_to"]["to"]["address"],
        json!(bed.pod.v4()),
        "{why}"
    );
    assert_eq!(why["leads_to"]["container_port"], ECHO, "{why}");
    // The pod sees who it is.
    let server = bed.pod.netns.run(|| UdpSocket::bind(("0.0.0.0", ECHO)));
    let server = server.expect("a socket");
    server.set_read_timeout(Some(HUNG)).expect("a timeout");
    let client = udp_socket(&bed.uplink.peer, NODE_V4.into(), LED);
    client.send(b"who am I?").expect("send");
    let (_, from) = server.recv_from(&mut [0; 16]).expect("the datagram");
    assert_eq!(from, client.local_addr().unwrap());
    assert_eq!(from.ip(), IpAddr::from(PEER_V4));
}

#[test]
fn the_world_reaches_a_pod_by_ports_of_the_node_by_two_workers() {
    world_reaches_the_pod(&Bed::new(&[0, 1]));
}

/// Connections to the port of the node from a namespace go on when the switch is killed.
fn outlive_kill_9(bed: &mut Bed, from: fn(&Bed) -> &Netns) {
    let clients = nodes().map(|to| {
        let mut client = tcp_connect(from(bed), to, LED, HUNG).expect("a connection");
        tcp_echo(&mut client, b"before");
        client
    });
    bed.node.kill();
    bed.node.start();
    for mut client in clients {
        tcp_echo(&mut client, b"after the switch was killed");
    }
}

#[test]
fn a_connection_to_a_port_of_the_node_goes_on_after_kill_9() {
    let mut bed = Bed::new(&[0]);
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    outlive_kill_9(&mut bed, |bed| &bed.uplink.peer);
    assert!(nodes().into_iter().all(|to| bed.answers(to)));
}

/// What a pod says first after that comes from where it was asked, also where no ports are reserved for masquerading.
#[test]
fn a_pod_that_speaks_first_after_kill_9_is_still_behind_the_port_of_the_node() {
    let mut bed = Bed::new(&[0]);
    let any = Ipv6Addr::UNSPECIFIED;
    let server = bed.pod.netns.run(|| TcpListener::bind((any, ECHO)));
    let server = server.expect("a server in the pod");
    let ends = nodes().map(|to| {
        let client = tcp_connect(&bed.uplink.peer, to, LED, HUNG).expect("a connection");
        client.set_read_timeout(Some(HUNG)).expect("a timeout");
        let (pods_end, _) = server.accept().expect("the connection");
        (client, pods_end)
    });
    bed.node.kill();
    bed.node.start();
    for (mut client, mut pods_end) in ends {
        pods_end.write_all(b"first").expect("send");
        let mut heard = [0; 5];
        client.read_exact(&mut heard).expect("what the pod said");
        assert_eq!(&heard, b"first");
    }
}

#[test]
fn a_port_of_the_node_goes_with_its_pod_and_leads_to_the_next() {
    let bed = Bed::new(&[0]);
    let echo = Echo::start(&bed.pod.netns, ECHO);
    assert!(bed.answers(NODE_V4.into()));
    // As long as it is taken nobody else gets it.
    let late = Netns::new("late");
    let call = call(&bed.node, &late, mapped(&[mapping("udp", LED, ECHO)]));
    let error = bed.node.execute(&call).error();
    assert!(
        error.mentions("8080") && error.mentions("leads to port"),
        "{error:?}"
    );
    bed.node.delete(&bed.pod);
    drop(echo);
    // The host's again: it says that nobody is there.
    assert!(udp_is_refused(&bed.uplink.peer, NODE_V4.into(), LED));
    let only_v4 =
        json!({"hostIP": NODE_V4, "hostPort": LED, "containerPort": ECHO, "protocol": "udp"});
    let next = bed.node.pod_with(mapped(&[only_v4]));
    let _echo = Echo::start(&next.netns, ECHO);
    assert!(bed.answers(NODE_V4.into()));
    assert!(!udp_echo(
        &udp_socket(&bed.uplink.peer, NODE_V6.into(), LED),
        b"?",
        HUNG / 50
    ));
}

#[test]
fn pods_reach_each_other_by_ports_of_the_node() {
    let bed = Bed::new(&[0]);
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    let other = bed.node.pod();
    for to in nodes() {
        let mut client = tcp_connect(&other.netns, to, LED, HUNG).expect("a connection");
        tcp_echo(&mut client, b"from the pod beside");
    }
}

#[test]
fn a_pod_reaches_itself_by_ports_of_the_node() {
    let mut bed = Bed::new(&[0]);
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    reaches(&bed.pod.netns);
    let asked = json!({"from": {"address": bed.pod.v4()}, "to": {"address": NODE_V4}, "protocol": "tcp", "port": LED});
    let why = bed.node.rpc("why", &asked).expect("why");
    let led = &why["leads_to"];
    assert_eq!(
        (&why["allowed"], &led["container_port"]),
        (&json!(true), &json!(ECHO)),
        "{why}"
    );
    assert_eq!(led["to"], why["from"], "{why}");
    outlive_kill_9(&mut bed, |bed| &bed.pod.netns);
    assert_eq!(bed.node.drops().of("nat_hairpin"), 0);
}

#[test]
fn a_port_that_a_server_of_the_host_has_is_refused_and_a_later_one_is_told_of() {
    let bed = Bed::new(&[0]);
    let listen = |port: u16| {
        let made = bed.node.netns().run(|| TcpListener::bind((NODE_V4, port)));
        made.expect("a listener")
    };
    let server = listen(9090);
    let netns = Netns::new("refused");
    let call = call(&bed.node, &netns, mapped(&[mapping("tcp", 9090, ECHO)]));
    let error = bed.node.execute(&call).error();
    let named = [
        "tcp/9090:7000",
        "a socket of the host waits there",
        "tcp/192.0.2.1:9090",
    ];
    assert!(named.iter().all(|word| error.mentions(word)), "{error:?}");
    assert_eq!(
        bed.node
            .get("port", &json!({"container_id": call.container})),
        Vec::<Value>::new()
    );
    drop(server);
    assert_eq!(bed.node.execute(&call).status(), 0);
    let _late = listen(9090);
    let health = bed.node.ctl().run(&["health"]).stdout;
    assert!(
        health.contains("192.0.2.1:9090 hears nothing by a NIC"),
        "{health}"
    );
}

/// A connection of the host's own from a port of the node that leads to a pod.
fn from_led_port(bed: &Bed, to: SocketAddr) -> TcpStream {
    bed.node.netns().run(|| {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        );
        let fd = fd.expect("a socket");
        let own = SocketAddr::new(NODE_V4.into(), LED);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(own)).expect("the port is free to the host");
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("a connection");
        TcpStream::from(fd)
    })
}

#[test]
fn what_the_host_began_by_such_a_port_itself_stays_the_hosts() {
    let bed = Bed::new(&[0]);
    let _pods = Echo::start(&bed.pod.netns, ECHO);
    let worlds = Echo::start(&bed.uplink.peer, 7007);
    let to = SocketAddr::new(PEER_V4.into(), worlds.port());
    let mut own = from_led_port(&bed, to);
    tcp_echo(&mut own, b"the host's own");
    let mut pods = tcp_connect(&bed.uplink.peer, NODE_V4.into(), LED, HUNG).expect("the pod");
    tcp_echo(&mut pods, b"the pod's");
    tcp_echo(&mut own, b"the host's own, still");
}

#[test]
fn check_notices_a_port_of_the_node_that_leads_nowhere() {
    let bed = Bed::new(&[0]);
    assert_eq!(bed.node.execute_for("CHECK", &bed.pod).status(), 0);
    let ports = bed.node.get("port", &json!({}));
    let mut port = ports
        .into_iter()
        .map(|entry| entry["object"].clone())
        .find(|port| port["host_ports"].is_array())
        .expect("the pod's port");
    port["host_ports"].as_array_mut().unwrap().remove(0);
    bed.node.apply(&[set(port)]);
    let error = bed.node.execute_for("CHECK", &bed.pod).error();
    assert!(error.mentions("tcp/8080:7000"), "{error:?}");
    eventually("the host answers for itself", HUNG, || {
        let refused = tcp_connect(&bed.uplink.peer, NODE_V4.into(), LED, HUNG);
        (refused.err()?.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

/// The node's own processes reach the pod, and think that they talk to the node.
fn node_reaches_the_pod(node: &Netns) {
    for to in from_within() {
        let mut client = tcp_connect(node, to, LED, HUNG).expect("a connection to the pod");
        tcp_echo(&mut client, &vec![0x5a; 1 << 18]);
        let named = client.peer_addr().expect("the other end");
        assert_eq!(named, SocketAddr::new(to, LED));
        let client = udp_socket(node, to, LED);
        assert!(udp_echo(&client, b"datagram", HUNG), "{to}");
        assert_eq!(client.peer_addr().expect("the other end").ip(), to);
        let client = loose(node, to);
        assert_eq!(asks(&client, to), SocketAddr::new(to, LED));
        let refused = tcp_connect(node, to, LED_TO_NOBODY, HUNG).expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        assert!(udp_is_refused(node, to, LED_TO_NOBODY), "{to}");
    }
    // A socket of IPv6 that means an address of IPv4.
    let mapped = IpAddr::from(NODE_V4.to_ipv6_mapped());
    let mut client = tcp_connect(node, mapped, LED, HUNG).expect("a connection to the pod");
    tcp_echo(&mut client, b"mapped");
    assert_eq!(client.peer_addr().expect("the other end").ip(), mapped);
    assert_eq!(asks(&loose(node, mapped), mapped).ip(), mapped);
}

/// A UDP socket that is not connected.
fn loose(from: &Netns, to: IpAddr) -> UdpSocket {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = from.run(|| UdpSocket::bind((any, 0))).expect("a socket");
    socket.set_read_timeout(Some(HUNG)).expect("a timeout");
    socket
}

/// Who answers.
fn asks(client: &UdpSocket, to: IpAddr) -> SocketAddr {
    client.send_to(b"anybody?", (to, LED)).expect("send");
    client.recv_from(&mut [0; 16]).expect("an answer").1
}

#[test]
fn processes_of_the_node_reach_pods_by_ports_of_the_node() {
    let cgroup = Cgroup::new();
    let mut bed = Bed::with_host(&cgroup);
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    cgroup.run(|| node_reaches_the_pod(bed.node.netns()));
    let on_host = &bed.node.get("port", &json!({"name": "host"}))[0]["status"]["on_host"];
    let group = json!({"kind": "cgroup", "name": cgroup.path()});
    assert!(on_host.as_array().unwrap().contains(&group), "{on_host}");
    // Processes elsewhere are left alone, be it in another namespace or another group.
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let other = Netns::new("other");
    other.ip("link set lo up");
    for refused in [
        cgroup.run(|| tcp_connect(&other, local, LED, HUNG)),
        tcp_connect(bed.node.netns(), local, LED, HUNG),
    ] {
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    // While nobody serves the pod, who asks waits; and who asked before knows whom.
    let (mut before, loose) = cgroup.run(|| {
        let netns = bed.node.netns();
        let stream = tcp_connect(netns, local, LED, HUNG).expect("a connection to the pod");
        let loose = loose(netns, local);
        assert_eq!(asks(&loose, local).ip(), local);
        (stream, loose)
    });
    bed.node.kill();
    bed.node.netns().run(|| assert_eq!(cgroup.programs(), 8));
    loose.send_to(b"anybody?", (local, LED)).expect("send");
    bed.node.start();
    tcp_echo(&mut before, b"after the switch was killed");
    assert_eq!(before.peer_addr().expect("the other end").ip(), local);
    assert_eq!(asks(&loose, local), SocketAddr::new(local, LED));
    bed.node.netns().run(|| assert_eq!(cgroup.programs(), 8));
    cgroup.run(|| node_reaches_the_pod(bed.node.netns()));
}

#[test]
fn a_port_of_the_node_that_goes_leads_no_process_of_the_node() {
    let cgroup = Cgroup::new();
    let bed = Bed::with_host(&cgroup);
    let node = bed.node.netns();
    let is_refused = || {
        let refused = from_within().map(|to| tcp_connect(node, to, LED, HUNG));
        let refused = refused.map(|r| r.expect_err("nobody is there").kind());
        refused == [ErrorKind::ConnectionRefused; 4]
    };
    let programs = || node.run(|| cgroup.programs());
    assert_eq!(programs(), 8);
    let _echo = Echo::start(&bed.pod.netns, ECHO);
    // What waits at a loopback address is reached there.
    let server = node.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, LED)));
    cgroup.run(|| {
        let local = Ipv4Addr::LOCALHOST.into();
        let client = tcp_connect(node, local, LED, HUNG).expect("the server");
        let (_, from) = server.as_ref().unwrap().accept().expect("the client");
        assert_eq!(Ok(from), client.local_addr().map_err(|e| e.kind()));
        let mut client = tcp_connect(node, NODE_V4.into(), LED, HUNG).expect("the pod");
        tcp_echo(&mut client, b"the pod");
    });
    drop(server);
    // Nobody is led from an address that is not the node's.
    let elsewhere = Ipv4Addr::new(198, 51, 100, 7);
    let foreign =
        json!({"hostIP": elsewhere, "hostPort": 8090, "containerPort": ECHO, "protocol": "tcp"});
    let other = bed.node.pod_with(mapped(&[foreign]));
    let _other = Echo::start(&other.netns, ECHO);
    let led = cgroup.run(|| tcp_connect(node, elsewhere.into(), 8090, HUNG));
    assert_eq!(
        led.expect_err("no way there").kind(),
        ErrorKind::NetworkUnreachable
    );
    bed.node.delete(&other);
    // Without a way to pods nobody is led, and health says so; with one again they are.
    bed.node
        .apply(&[delete(json!({"kind": "port", "name": "host"}))]);
    assert_eq!(programs(), 0);
    assert!(cgroup.run(is_refused));
    let health = bed.node.ctl().run(&["health"]).stdout;
    assert!(health.contains("no port of kind `host`"), "{health}");
    bed.node.apply(&[host()]);
    cgroup.run(|| node_reaches_the_pod(node));
    bed.node.delete(&bed.pod);
    assert_eq!(programs(), 0);
    assert!(cgroup.run(is_refused));
}

#[test]
fn two_nodes_share_a_group_and_teardown_leaves_the_others_alone() {
    let cgroup = Cgroup::new();
    let beds = [(); 2].map(|()| Bed::with_host(&cgroup));
    let _echos = beds.each_ref().map(|bed| Echo::start(&bed.pod.netns, ECHO));
    for bed in &beds {
        cgroup.run(|| node_reaches_the_pod(bed.node.netns()));
    }
    let [gone, stays] = &beds;
    let mut teardown = gone.node.netns().command(bin_dir().join("podswitchctl"));
    let config = gone.node.config_file();
    let teardown = teardown.args(["teardown", "--config"]).arg(config);
    let report = run(teardown, b"", HUNG).success("teardown");
    let path = cgroup.path().display().to_string();
    assert!(
        report.contains("cgroup") && report.contains(&path),
        "{report}"
    );
    gone.node.netns().run(|| assert_eq!(cgroup.programs(), 0));
    cgroup.run(|| node_reaches_the_pod(stays.node.netns()));
}

#[test]
fn a_group_that_is_not_there_is_told_of() {
    let nowhere = "/sys/fs/cgroup/there/is/no/such/group";
    let bed = Bed::of(NodeConfig {
        daemon: format!("cgroup = {nowhere:?}"),
        ..NodeConfig::default()
    });
    bed.node.apply(&[host()]);
    let health = bed.node.ctl().run(&["health"]).stdout;
    let says = ["processes of the node do not reach pods", nowhere];
    assert!(says.iter().all(|words| health.contains(words)), "{health}");
}
