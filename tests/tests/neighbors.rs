// SPDX-License-Identifier: Apache-2.0
//! The link behind the node's NIC: who is there is found out and followed, and so is what the kernel changes on the NIC.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use podswitch_tests::kernel::set_sysctl;
use podswitch_tests::objects::{delete, set};
use podswitch_tests::traffic::{ping, udp_socket};
use podswitch_tests::uplink::plug;
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

const NIC_MAC: &str = "02:00:00:00:01:01";
const PEER_MAC: &str = "02:00:00:00:01:02";
const MOVED_MAC: &str = "02:00:00:00:01:03";
const PEERS: [&str; 2] = ["192.0.2.2", "fd00:2::2"];
/// Behind the peer.
const BEYOND: [&str; 2] = ["203.0.113.9", "fd00:3::9"];
const PORT: u16 = 7000;

/// A node whose NIC leads to a peer, in a subnet of each family, and a pod on it.
struct Bed {
    // Declared, so dropped, in this order.
    node: Node,
    pod: Pod,
    peer: Netns,
}

impl Bed {
    fn new() -> Bed {
        Bed::with(&json!({}), NodeConfig::default())
    }

    /// With more fields of the NIC's device.
    fn with(device: &Value, config: NodeConfig) -> Bed {
        let mut node = Node::without_daemon(config);
        let peer = Netns::new("peer");
        let host = node.netns();
        host.ip(&format!(
            "link add nic0 address {NIC_MAC} type veth peer name peer0 address {PEER_MAC} netns {}",
            peer.name()
        ));
        host.ip("address add 192.0.2.1/24 dev nic0");
        host.ip("address add fd00:2::1/64 dev nic0 nodad");
        peer.ip("address add 192.0.2.2/24 dev peer0");
        peer.ip("address add fd00:2::2/64 dev peer0 nodad");
        peer.ip("address add 203.0.113.9/32 dev lo");
        peer.ip("address add fd00:3::9/128 dev lo nodad");
        plug(host, "nic0");
        plug(&peer, "peer0");
        node.start();
        let pod = node.pod();
        let bed = Bed { node, pod, peer };
        bed.open(device);
        bed
    }

    fn open(&self, device: &Value) {
        let mut whole = json!({"kind": "nic", "interface": "nic0"});
        for (key, value) in device.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let port = json!({"kind": "port", "name": "uplink", "device": whole});
        self.node.apply(&[set(port)]);
    }

    /// Routes to the subnets of the NIC, and to what is beyond the peer.
    fn route(&self) {
        let on_link = |prefix| json!({"kind": "route", "prefix": prefix, "port": "uplink"});
        let via =
            |prefix, via| json!({"kind": "route", "prefix": prefix, "port": "uplink", "via": via});
        self.node.apply(&[
            set(on_link("192.0.2.0/24")),
            set(on_link("fd00:2::/64")),
            set(via("203.0.113.0/24", "192.0.2.2")),
            set(via("fd00:3::/64", "fd00:2::2")),
        ]);
    }

    /// Whether a datagram of the pod's comes to an address of the peer's within this time, sent again and again.
    fn comes(&self, to: &str, within: Duration) -> bool {
        let to: IpAddr = to.parse().expect("an address");
        let server = self
            .peer
            .run(|| UdpSocket::bind((to, PORT)).expect("a socket"));
        let pause = Duration::from_millis(20);
        server.set_read_timeout(Some(pause)).expect("a timeout");
        let client = udp_socket(&self.pod.netns, to, PORT);
        let begun = Instant::now();
        while begun.elapsed() < within {
            // The switch may have answered an earlier one: unreachable.
            let _ = client.send(b"hello");
            if server.recv(&mut [0; 16]).is_ok() {
                return true;
            }
        }
        false
    }

    #[track_caller]
    fn must_come(&self, to: &str) {
        assert!(self.comes(to, HUNG), "nothing comes to {to}");
    }

    /// A neighbour as `get` shows it.
    fn neighbor(&self, address: &str) -> Option<Value> {
        self.node
            .get("neighbor", &json!({"address": address}))
            .pop()
    }

    /// Waits until a neighbour is at this MAC address, and returns its status.
    #[track_caller]
    fn until_at(&self, address: &str, mac: &str) -> Value {
        eventually(&format!("{address} is at {mac}"), HUNG, || {
            let found = self.neighbor(address)?;
            (found["object"]["mac"] == mac).then(|| found["status"].clone())
        })
    }

    fn port(&self) -> Value {
        self.node.get("port", &json!({"name": "uplink"}))[0]["status"].clone()
    }

    /// Frames that have come to the NIC's port.
    fn received(&self) -> u64 {
        let stats = self.node.rpc("stats", &json!({"port": "uplink"}));
        let stats = stats.expect("stats");
        stats["ports"][0]["rx_packets"].as_u64().expect("a number")
    }

    /// Where the peer has an address, as its kernel knows it.
    fn peer_knows(&self, address: &str) -> Option<String> {
        let all = self
            .peer
            .ip_json(&format!("neighbor show {address} dev peer0"));
        Some(all.first()?["lladdr"].as_str()?.to_owned())
    }
}

/// Pods with addresses of the NIC's own subnets.
fn in_the_subnet() -> NodeConfig {
    let ipam = json!({"type": "podswitch", "ranges": [
        [{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.120", "gateway": "192.0.2.99"}],
        [{"subnet": "fd00:2::/64", "rangeStart": "fd00:2::100", "rangeEnd": "fd00:2::120", "gateway": "fd00:2::99"}]
    ]});
    NodeConfig {
        ipam,
        ..NodeConfig::default()
    }
}

#[test]
fn destinations_on_the_link_are_found_when_packets_go_there() {
    let bed = Bed::new();
    bed.route();
    for address in PEERS {
        bed.must_come(address);
        let status = bed.until_at(address, PEER_MAC);
        assert_eq!(
            (&status["dynamic"], &status["kind"]),
            (&json!(true), &json!("neighbor"))
        );
        assert!(status["age_ms"].is_u64(), "{status}");
    }
    // One that is not there is nowhere.
    let absent = udp_socket(
        &bed.pod.netns,
        "192.0.2.77".parse().expect("an address"),
        PORT,
    );
    absent.send(b"hello").expect("send");
    assert_eq!(bed.neighbor("192.0.2.77"), None);
    // A configured one goes before what was found, and gives way to it.
    let configured =
        json!({"kind": "neighbor", "address": "192.0.2.2", "port": "uplink", "mac": MOVED_MAC});
    bed.node.apply(&[set(configured)]);
    assert_eq!(bed.until_at("192.0.2.2", MOVED_MAC)["dynamic"], false);
    assert!(!bed.comes("192.0.2.2", Duration::from_millis(500)));
    bed.node
        .apply(&[delete(json!({"kind": "neighbor", "address": "192.0.2.2"}))]);
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.must_come("192.0.2.2");
}

#[test]
fn next_hops_are_known_before_packets_come_and_followed_to_another_mac_address() {
    let bed = Bed::new();
    bed.route();
    for address in PEERS {
        bed.until_at(address, PEER_MAC);
    }
    for address in BEYOND {
        bed.must_come(address);
    }
    // The peer says so when its address changes.
    set_sysctl(&bed.peer, "net/ipv4/conf/peer0/arp_notify", "1");
    set_sysctl(&bed.peer, "net/ipv6/conf/peer0/ndisc_notify", "1");
    bed.peer.ip(&format!("link set peer0 address {MOVED_MAC}"));
    for (next_hop, beyond) in PEERS.into_iter().zip(BEYOND) {
        bed.until_at(next_hop, MOVED_MAC);
        bed.must_come(beyond);
    }
}

#[test]
fn a_next_hop_that_is_not_there_is_named_and_found_when_it_is_back() {
    let bed = Bed::new();
    bed.peer.ip("address del 192.0.2.2/24 dev peer0");
    bed.route();
    let named = |address: &str| {
        let health = bed.node.rpc("health", &json!({})).expect("health");
        let problems = health["problems"].as_array().expect("a list").clone();
        problems.iter().any(|p| {
            p["subject"] == "port uplink"
                && p["message"].as_str().is_some_and(|m| m.contains(address))
        })
    };
    eventually("the next hop is named", HUNG, || {
        named(PEERS[0]).then_some(())
    });
    assert!(!named(PEERS[1]));
    assert!(!bed.comes(BEYOND[0], Duration::from_millis(300)));
    bed.peer.ip("address add 192.0.2.2/24 dev peer0");
    // Packets that wait for it have it asked for.
    bed.must_come(BEYOND[0]);
    eventually("nothing is wrong", HUNG, || {
        (!named(PEERS[0])).then_some(())
    });
}

#[test]
fn a_dead_one_of_several_next_hops_leaves_the_set_within_a_second() {
    let bed = Bed::new();
    bed.peer.ip("address add 192.0.2.3/24 dev peer0");
    let hop = |via| json!({"via": via, "port": "uplink"});
    let route = json!({"kind": "route", "prefix": "203.0.113.0/24",
        "nexthops": [hop("192.0.2.2"), hop("192.0.2.3")]});
    bed.node.apply(&[set(route)]);
    bed.until_at("192.0.2.2", PEER_MAC);
    bed.until_at("192.0.2.3", PEER_MAC);
    bed.peer.ip("address del 192.0.2.3/24 dev peer0");
    let died = Instant::now();
    eventually("it is lost", HUNG, || {
        bed.neighbor("192.0.2.3").is_none().then_some(())
    });
    let took = died.elapsed();
    // What `ip` and `get` take comes on top of the 0.8 s.
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Every flow goes by the other one.
    let to: IpAddr = BEYOND[0].parse().expect("an address");
    let server = bed
        .peer
        .run(|| UdpSocket::bind((to, PORT)).expect("a socket"));
    server.set_read_timeout(Some(HUNG)).expect("a timeout");
    for _ in 0..32 {
        let client = udp_socket(&bed.pod.netns, to, PORT);
        client.send(b"hello").expect("send");
        server.recv(&mut [0; 16]).expect("a datagram");
    }
    assert!(bed.neighbor("192.0.2.2").is_some());
    bed.peer.ip("address add 192.0.2.3/24 dev peer0");
    bed.until_at("192.0.2.3", PEER_MAC);
}

#[test]
fn the_kernels_table_is_the_other_source() {
    let bed = Bed::new();
    bed.peer.ip("address add 192.0.2.3/32 dev lo");
    // Nobody answers for it on the link.
    set_sysctl(&bed.peer, "net/ipv4/conf/peer0/arp_ignore", "1");
    bed.node.netns().ip(&format!(
        "neighbor add 192.0.2.3 lladdr {PEER_MAC} dev nic0 nud permanent"
    ));
    bed.route();
    let via =
        json!({"kind": "route", "prefix": "198.51.100.0/24", "port": "uplink", "via": "192.0.2.3"});
    bed.node.apply(&[set(via)]);
    let status = bed.until_at("192.0.2.3", PEER_MAC);
    assert_eq!(
        (&status["source"], &status["state"]),
        (&json!("kernel"), &json!("permanent"))
    );
    bed.must_come("192.0.2.3");
    // Words of the command line.
    let text = bed
        .node
        .ctl()
        .run(&["neighbor", "list"])
        .success("neighbor list");
    assert!(
        text.lines()
            .any(|l| l.contains("192.0.2.3") && l.contains("permanent") && l.contains("kernel")),
        "{text}"
    );
}

#[test]
fn addresses_of_pods_are_announced_on_the_nics_own_subnet() {
    let bed = Bed::with(&json!({}), in_the_subnet());
    // The pod after this one will have the next addresses, and the peer looks for them already.
    let next = |address: IpAddr| match address {
        IpAddr::V4(a) => IpAddr::from((a.to_bits() + 1).to_be_bytes()),
        IpAddr::V6(a) => IpAddr::from((a.to_bits() + 1).to_be_bytes()),
    };
    let wanted = [next(bed.pod.v4()), next(bed.pod.v6())];
    for address in wanted {
        let socket = udp_socket(&bed.peer, address, PORT);
        socket.send(b"hello").expect("send");
    }
    let pod = bed.node.pod();
    assert_eq!([pod.v4(), pod.v6()], wanted);
    for address in wanted {
        eventually("the peer knows where the pod is", HUNG, || {
            let known = bed.peer_knows(&address.to_string());
            (known.as_deref() == Some(NIC_MAC)).then_some(())
        });
    }
}

#[test]
fn the_switch_answers_on_the_nics_link_for_its_pods() {
    let bed = Bed::with(&json!({}), in_the_subnet());
    bed.route();
    for address in [bed.pod.v4(), bed.pod.v6()] {
        // What was announced is forgotten.
        bed.peer.ip("neigh flush dev peer0");
        ping(&bed.peer, address);
        let known = bed.peer_knows(&address.to_string());
        assert_eq!(known.as_deref(), Some(NIC_MAC), "{address}");
    }
}

#[test]
fn a_link_that_goes_down_and_comes_back() {
    let bed = Bed::new();
    bed.route();
    bed.must_come(BEYOND[0]);
    bed.must_come(BEYOND[1]);
    bed.peer.ip("link set peer0 down");
    eventually("the port is down and nobody is there", HUNG, || {
        (bed.port()["state"] == "down" && bed.neighbor(PEERS[0]).is_none()).then_some(())
    });
    let message = bed.port()["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(message.contains("nic0"), "{message}");
    bed.peer.ip("link set peer0 up");
    bed.peer.ip("address replace fd00:2::2/64 dev peer0 nodad");
    eventually("the port is up", HUNG, || {
        (bed.port()["state"] == "up").then_some(())
    });
    bed.must_come(BEYOND[0]);
    bed.must_come(BEYOND[1]);
}

#[test]
fn mtu_and_mac_address_of_the_nic_are_followed() {
    let bed = Bed::new();
    bed.route();
    bed.must_come(BEYOND[0]);
    assert_eq!(bed.port()["mtu"], 1500);
    bed.node.netns().ip("link set nic0 mtu 1400");
    eventually("the port's MTU is the NIC's", HUNG, || {
        (bed.port()["mtu"] == 1400).then_some(())
    });
    // What does not fit is said to who sent it (RFC 1191), not dropped in silence.
    let large = |size: &str| {
        let mut ping = bed.pod.netns.command("ping");
        ping.args(["-c", "1", "-W", "1", "-M", "do", "-s", size, BEYOND[0]]);
        let out = ping.output().expect("ping");
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    eventually("the pod hears of the MTU", HUNG, || {
        large("1440").contains("1400").then_some(())
    });
    // Frames to the new address are the switch's, and no others.
    bed.node
        .netns()
        .ip(&format!("link set nic0 address {MOVED_MAC}"));
    bed.peer.ip(&format!(
        "neighbor replace 192.0.2.1 lladdr {MOVED_MAC} dev peer0 nud permanent"
    ));
    bed.peer.ip("route add 10.244.1.0/24 via 192.0.2.1");
    let before = bed.received();
    let to_pod = udp_socket(&bed.peer, bed.pod.v4(), PORT);
    eventually("a frame to the new address comes to the port", HUNG, || {
        let _ = to_pod.send(b"hello");
        (bed.received() > before).then_some(())
    });
    bed.must_come(BEYOND[0]);
}

#[test]
fn addresses_of_the_node_are_followed() {
    // The pod has an address of the NIC's subnet, which the host then takes for itself.
    let bed = Bed::with(&json!({}), in_the_subnet());
    let address = bed.pod.v4();
    let host = bed.node.netns();
    bed.peer.ip(&format!(
        "neighbor replace {address} lladdr {NIC_MAC} dev peer0 nud permanent"
    ));
    host.ip(&format!("address add {address}/32 dev nic0"));
    let server = host.run(|| UdpSocket::bind((address, PORT)).expect("a socket"));
    let pause = Duration::from_millis(20);
    server.set_read_timeout(Some(pause)).expect("a timeout");
    let client = udp_socket(&bed.peer, address, PORT);
    let comes = || {
        let _ = client.send(b"hello");
        server.recv(&mut [0; 16]).is_ok()
    };
    eventually("what is the node's comes to the host", HUNG, || {
        comes().then_some(())
    });
    host.ip(&format!("address del {address}/32 dev nic0"));
    eventually("what is the pod's comes to the switch", HUNG, || {
        let before = bed.received();
        (!comes() && bed.received() > before).then_some(())
    });
}

#[test]
fn the_kernels_routes_are_followed() {
    let bed = Bed::with(&json!({"routes": 254}), NodeConfig::default());
    let host = bed.node.netns();
    let table = |prefix: &str| {
        let all = bed.node.get("route", &json!({"prefix": prefix}));
        all.first().map(|r| r["status"].clone())
    };
    // The NIC's own subnets are there; what is behind the peer comes and goes.
    for address in PEERS {
        bed.must_come(address);
    }
    for (prefix, via, to) in [
        ("203.0.113.0/24", PEERS[0], BEYOND[0]),
        ("fd00:3::/64", PEERS[1], BEYOND[1]),
    ] {
        assert_eq!(table(prefix), None);
        host.ip(&format!("route add {prefix} via {via} dev nic0"));
        bed.must_come(to);
        let status = table(prefix).expect("the route");
        assert_eq!(
            (&status["dynamic"], &status["table"]),
            (&json!(true), &json!(254))
        );
        // A configured one of the same prefix goes before.
        let hole = json!({"kind": "route", "prefix": prefix, "type": "blackhole"});
        bed.node.apply(&[set(hole)]);
        assert_eq!(table(prefix).expect("the route")["dynamic"], false);
        assert!(!bed.comes(to, Duration::from_millis(300)));
        bed.node
            .apply(&[delete(json!({"kind": "route", "prefix": prefix}))]);
        bed.must_come(to);
        host.ip(&format!("route del {prefix} via {via} dev nic0"));
        eventually("the route is gone", HUNG, || {
            table(prefix).is_none().then_some(())
        });
        assert!(!bed.comes(to, Duration::from_millis(300)));
    }
    // A port that goes takes them along.
    bed.node
        .apply(&[delete(json!({"kind": "port", "name": "uplink"}))]);
    assert_eq!(bed.node.get("route", &json!({})), [] as [Value; 0]);
}
