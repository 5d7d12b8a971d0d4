// SPDX-License-Identifier: Apache-2.0
//! Two pods talk through the switch: both families, every MTU, both ways of attaching, offloads and checksums.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_tests::kernel::{counter, counter6, offloads};
use podswitch_tests::traffic::{
    Echo, IperfServer, iperf, ping, ping_once, tcp_connect, tcp_echo, udp_echo, udp_socket,
};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod};
use serde_json::json;

const WAIT: Duration = Duration::from_secs(2);

/// A payload in which no piece looks like another.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn node(mtu: u32) -> Node {
    Node::new(NodeConfig {
        mtu,
        ..NodeConfig::default()
    })
}

fn pod(node: &Node, mode: &str) -> Pod {
    node.pod_with(|conf| conf["mode"] = json!(mode))
}

#[track_caller]
fn assert_checksums_right(pod: &Pod) {
    assert_eq!(
        counter(&pod.netns, "Tcp", "InCsumErrors"),
        0,
        "TCP checksums"
    );
    assert_eq!(
        counter(&pod.netns, "Udp", "InCsumErrors"),
        0,
        "UDP checksums"
    );
    assert_eq!(
        counter(&pod.netns, "Icmp", "InCsumErrors"),
        0,
        "ICMP checksums"
    );
    assert_eq!(
        counter(&pod.netns, "IpExt", "InCsumErrors"),
        0,
        "IPv4 header checksums"
    );
    assert_eq!(
        counter6(&pod.netns, "Udp6InCsumErrors"),
        0,
        "UDP checksums over IPv6"
    );
    assert_eq!(
        counter6(&pod.netns, "Icmp6InCsumErrors"),
        0,
        "ICMPv6 checksums"
    );
}

/// TCP and UDP from one pod to another over one family.
#[track_caller]
fn exchange(from: &Pod, to: IpAddr, port: u16, mtu: usize) {
    let mut stream = tcp_connect(&from.netns, to, port, HUNG).expect("a TCP connection");
    for length in [1, 100, 4096, 1 << 20] {
        tcp_echo(&mut stream, &pattern(length));
    }
    let udp = udp_socket(&from.netns, to, port);
    // The last one is more than the device takes: it goes as fragments.
    for length in [0, 1, 17, 1400, mtu.min(9000) - 48, 20_000] {
        let bytes = pattern(length);
        let back = (0..10).any(|_| udp_echo(&udp, &bytes, WAIT));
        assert!(
            back,
            "a datagram of {length} bytes to {to} does not come back"
        );
    }
}

fn all_traffic(mode: &str, mtu: u32) {
    let node = node(mtu);
    let (a, b) = (pod(&node, mode), pod(&node, mode));
    assert_eq!(node.port(&a).expect("a port")["status"]["mode"], mode);
    let (server_a, server_b) = (Echo::start(&a.netns, 7), Echo::start(&b.netns, 7));
    let device = usize::try_from(mtu).unwrap();
    for (from, to, server) in [(&a, &b, &server_b), (&b, &a, &server_a)] {
        for (address, header) in [(to.v4(), 20), (to.v6(), 40)] {
            ping(&from.netns, address);
            // The largest that fits: an IPv4 packet ends at 65535 bytes, headers and all.
            assert!(
                ping_once(&from.netns, address, device - header - 8, 10),
                "a ping of {mtu} bytes to {address}"
            );
            exchange(from, address, server.port(), device);
        }
    }
    assert_checksums_right(&a);
    assert_checksums_right(&b);
}

#[test]
fn native_mode_mtu_1500() {
    all_traffic("native", 1500);
}

#[test]
fn native_mode_mtu_9000() {
    all_traffic("native", 9000);
}

#[test]
fn native_mode_mtu_65535() {
    all_traffic("native", 65_535);
}

#[test]
fn generic_mode_mtu_1500() {
    all_traffic("generic", 1500);
}

#[test]
fn generic_mode_mtu_9000() {
    all_traffic("generic", 9000);
}

#[test]
fn generic_mode_mtu_65535() {
    all_traffic("generic", 65_535);
}

#[test]
fn tap_mode_mtu_1500() {
    all_traffic("tap", 1500);
}

#[test]
fn tap_mode_mtu_65535() {
    all_traffic("tap", 65_535);
}

#[test]
fn pods_of_different_modes_talk() {
    let node = node(9000);
    let (a, b) = (pod(&node, "native"), pod(&node, "generic"));
    let (server_a, server_b) = (Echo::start(&a.netns, 7), Echo::start(&b.netns, 7));
    for address in [b.v4(), b.v6()] {
        exchange(&a, address, server_b.port(), 9000);
    }
    for address in [a.v4(), a.v6()] {
        exchange(&b, address, server_a.port(), 9000);
    }
    assert_checksums_right(&a);
    assert_checksums_right(&b);
}

/// What a pod's stack leaves uncut may be within the pod's own MTU and yet too large for its peer.
#[test]
fn generic_mode_towards_a_smaller_mtu() {
    let node = node(9000);
    let a = pod(&node, "generic");
    let b = node.pod_with(|conf| {
        conf["mode"] = json!("generic");
        conf["mtu"] = json!(1500);
    });
    let servers = [Echo::start(&a.netns, 7), Echo::start(&b.netns, 7)];
    for (from, to, server) in [(&a, b.v4(), &servers[1]), (&b, a.v6(), &servers[0])] {
        let mut stream = tcp_connect(&from.netns, to, server.port(), HUNG).expect("TCP");
        tcp_echo(&mut stream, &pattern(4 << 20));
    }
    let drops = node.drops();
    assert_eq!(drops.of("packet_too_big"), 0, "{drops:?}");
    assert_checksums_right(&a);
    assert_checksums_right(&b);
}

#[test]
fn pods_of_different_workers_talk() {
    let node = Node::new(NodeConfig {
        workers: vec![0, 1],
        ..NodeConfig::default()
    });
    let (a, b) = (node.pod(), node.pod());
    let worker = |pod: &Pod| node.port(pod).expect("a port")["status"]["worker"].clone();
    assert_ne!(
        worker(&a),
        worker(&b),
        "the daemon spreads ports over its workers"
    );
    let (server_a, server_b) = (Echo::start(&a.netns, 7), Echo::start(&b.netns, 7));
    for address in [b.v4(), b.v6()] {
        ping(&a.netns, address);
        exchange(&a, address, server_b.port(), 1500);
    }
    for address in [a.v4(), a.v6()] {
        exchange(&b, address, server_a.port(), 1500);
    }
    let stats = node.stats();
    assert!(
        stats["events"]["handoff_sent"].as_u64() > Some(0),
        "frames cross from one worker to the other: {stats}"
    );
    assert_checksums_right(&a);
    assert_checksums_right(&b);
}

#[test]
fn bulk_tcp_leaves_every_chunk_accounted_for() {
    let node = node(1500);
    let (a, b) = (node.pod(), node.pod());
    let server = IperfServer::start(&b.netns, 5201);
    for more in [&["-P", "4"][..], &["-R"]] {
        let report = iperf(&a.netns, b.v4(), &server, 2, more);
        let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
        assert!(
            received > 1 << 20,
            "iperf3 moved {received} bytes: {report}"
        );
    }
    let audit = node.rpc("audit", &json!({})).expect("audit");
    assert_eq!(audit["balanced"], true, "{audit}");
    assert_checksums_right(&a);
    assert_checksums_right(&b);
}

/// Features that a native XDP program on the peer takes from a veth in the kernel itself (NETIF_F_GSO_SOFTWARE).
fn forced_by_the_kernel(feature: &str) -> bool {
    feature.contains("segmentation") || feature == "tx-gso-list"
}

#[test]
fn offloads_in_the_pod_stay_on() {
    let node = node(1500);
    // What an ordinary veth has that nobody touched.
    let plain = Netns::new("plain");
    plain.ip("link add eth0 type veth peer name other");
    let before = offloads(&plain, "eth0");
    assert!(before["tx-checksumming"] && before["tcp-segmentation-offload"]);
    for mode in ["native", "generic", "tap"] {
        let pod = pod(&node, mode);
        let after = offloads(&pod.netns, "eth0");
        let changed = before
            .iter()
            .filter(|(name, on)| after.get(*name) != Some(*on))
            .map(|(name, _)| name.as_str());
        let changed: Vec<&str> = changed
            .filter(|f| mode != "native" || !forced_by_the_kernel(f))
            .collect();
        assert!(changed.is_empty(), "changed in {mode} mode: {changed:?}");
    }
}

#[test]
fn the_gateway_answers_pings() {
    let node = node(1500);
    let pod = node.pod();
    for family in ["-4", "-6"] {
        let routes = pod.netns.ip_json(&format!("{family} route show default"));
        let gateway = routes
            .first()
            .and_then(|r| r["gateway"].as_str())
            .expect("a default route with a gateway");
        ping(&pod.netns, gateway.parse().expect("an address"));
    }
}

#[test]
fn a_pod_has_what_the_result_says() {
    let node = node(4000);
    let pod = node.pod();
    let link = &pod.netns.ip_json("link show dev eth0")[0];
    assert_eq!(link["mtu"], 4000);
    assert_eq!(
        podswitch_tests::frames::parse_mac(link["address"].as_str().unwrap()),
        pod.mac()
    );
    let addresses = pod.netns.ip_json("address show dev eth0");
    let info = addresses[0]["addr_info"]
        .as_array()
        .expect("addresses")
        .clone();
    for (address, length) in [(pod.v4(), 32), (pod.v6(), 128)] {
        let ours = info
            .iter()
            .find(|a| a["local"] == address.to_string().as_str());
        let ours = ours.unwrap_or_else(|| panic!("{address} is not on eth0: {info:?}"));
        assert_eq!(ours["prefixlen"], length);
        assert!(
            ours.get("tentative").is_none() && ours.get("dadfailed").is_none(),
            "{ours}"
        );
    }
    assert!(pod.netns.path().exists());
    assert_eq!(pod.netns.links(), ["eth0"], "nothing else in the pod");
}
