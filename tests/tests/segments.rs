// SPDX-License-Identifier: Apache-2.0
//! L2 segments: learning, flooding and its limits, VLANs, fixed addresses.

use std::net::IpAddr;
use std::time::Duration;

use podswitch_host::{Socket, tc};
use podswitch_tests::frames::{BROADCAST, Ends, tagged};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::programs::run;
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{Echo, ping, ping_fails, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// Long enough for a frame that is to come, short enough to wait for one that is not.
const QUIET: Duration = Duration::from_millis(700);

/// A station on a segment: a namespace with one end of a veth pair, the other end being a port.
struct Station {
    netns: Netns,
    port: String,
    mac: [u8; 6],
    address: IpAddr,
}

/// Makes a station with address 192.0.2.`number` and its port object, whose XDP program runs in `mode`; the daemon is not
/// told yet.
fn station(node: &Node, number: u8, mode: &str, segment: &Value) -> (Station, Value) {
    let netns = Netns::new("station");
    let port = format!("seg{number}");
    let mac = [2, 0, 0, 0, 1, number];
    let text = format!("02:00:00:00:01:{number:02x}");
    let pod = netns.path().display();
    node.netns().ip(&format!(
        "link add {port} type veth peer name eth0 address {text}"
    ));
    node.netns().ip(&format!("link set eth0 netns {pod}"));
    node.netns().ip(&format!("link set {port} up"));
    netns.ip(&format!("address add 192.0.2.{number}/24 dev eth0"));
    netns.ip("link set eth0 up");
    let device = json!({"kind": "veth", "interface": port, "mode": mode});
    let object = json!({"kind": "port", "name": port, "device": device, "segment": segment});
    let address = IpAddr::from([192, 0, 2, number]);
    (
        Station {
            netns,
            port,
            mac,
            address,
        },
        object,
    )
}

/// A node with one segment and stations of these memberships.
fn scene(segment: &Value, memberships: &[Value]) -> (Node, Vec<Station>) {
    scene_in("auto", segment, memberships)
}

/// As [`scene`], with XDP programs in `mode`.
fn scene_in(mode: &str, segment: &Value, memberships: &[Value]) -> (Node, Vec<Station>) {
    let node = Node::new(NodeConfig::default());
    let mut changes = vec![set(segment.clone())];
    let mut stations = Vec::new();
    for (number, membership) in (1..).zip(memberships) {
        let (station, object) = station(&node, number, mode, membership);
        stations.push(station);
        changes.push(set(object));
    }
    node.apply(&changes);
    for station in &stations {
        eventually("the port is up", HUNG, || {
            let ports = node.get("port", &json!({"name": station.port}));
            (ports[0]["status"]["state"] == "up").then_some(())
        });
    }
    (node, stations)
}

fn lan(more: &Value) -> Value {
    let mut segment = json!({"kind": "segment", "name": "lan", "id": 100});
    for (key, value) in more.as_object().into_iter().flatten() {
        segment[key] = value.clone();
    }
    segment
}

fn frame(from: &Station, destination: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let to = IpAddr::from([192, 0, 2, 200]);
    Ends {
        source_mac: from.mac,
        destination_mac: destination,
        from: from.address,
        to,
    }
    .udp((1, 2), 64, payload)
}

#[test]
fn stations_talk_and_addresses_are_learned() {
    let member = json!({"name": "lan"});
    let (node, s) = scene(&lan(&json!({})), &[member.clone(), member.clone(), member]);
    ping(&s[0].netns, s[1].address);
    ping(&s[2].netns, s[1].address);
    let learned = node.get("fdb", &json!({"segment": "lan"}));
    for station in &s {
        let text = station.mac.map(|b| format!("{b:02x}")).join(":");
        let entry = learned.iter().find(|e| e["object"]["mac"] == text.as_str());
        let entry = entry.unwrap_or_else(|| panic!("{text} is not learned: {learned:?}"));
        assert_eq!(entry["object"]["port"], station.port.as_str());
        assert_eq!(entry["status"]["dynamic"], true);
    }
    // What is known goes to its port alone.
    let third = RawSocket::open(&s[2].netns, "eth0");
    let second = RawSocket::open(&s[1].netns, "eth0");
    let raw = RawSocket::open(&s[0].netns, "eth0");
    raw.send(&frame(&s[0], s[1].mac, b"to the second alone"));
    raw.send(&frame(&s[0], BROADCAST, b"to everybody there"));
    assert!(
        second
            .receive(HUNG, |f| f.ends_with(b"to the second alone"))
            .is_some()
    );
    let first = third
        .receive(HUNG, |f| f.ends_with(b"alone") || f.ends_with(b"there"))
        .expect("the broadcast");
    assert!(
        first.ends_with(b"to everybody there"),
        "a frame to another station came here"
    );
}

#[test]
fn segments_and_vlans_are_apart() {
    let access = |vlan: u16| json!({"name": "lan", "vlan": {"access": vlan}});
    let trunk = json!({"name": "lan", "vlan": {"trunk": [10, 20]}});
    let (node, s) = scene(
        &lan(&json!({})),
        &[access(10), access(10), access(20), trunk],
    );
    ping(&s[0].netns, s[1].address);
    assert!(
        ping_fails(&s[0].netns, s[2].address),
        "VLAN 10 must not reach VLAN 20"
    );
    // The trunk sees both, with their tags; from it, the tag decides.
    let trunk = RawSocket::open(&s[3].netns, "eth0");
    let at_10 = RawSocket::open(&s[0].netns, "eth0");
    let from_10 = RawSocket::open(&s[1].netns, "eth0");
    // The kernel takes a tag off before any socket sees the frame: a port that writes a file shows it.
    let record = node.dir().join("trunk.pcap");
    let member = json!({"name": "lan", "vlan": {"trunk": [10]}});
    let device = json!({"kind": "pcap", "record": record});
    node.apply(&[set(
        json!({"kind": "port", "name": "file", "device": device, "segment": member}),
    )]);
    from_10.send(&frame(&s[1], BROADCAST, b"from VLAN ten"));
    let seen = trunk.receive(HUNG, |f| f.ends_with(b"from VLAN ten"));
    assert!(seen.is_some(), "the trunk sees VLAN 10");
    node.apply(&[delete(json!({"kind": "port", "name": "file"}))]);
    let tag = [0x81, 0, 0, 10, 8, 0];
    eventually("the file holds the frame with its tag", HUNG, || {
        let bytes = std::fs::read(&record).unwrap_or_default();
        let at = bytes.windows(13).position(|w| w == b"from VLAN ten")?;
        // In front of the payload: MAC addresses, tag and type, IPv4 and UDP headers.
        (bytes[at - 34..at - 28] == tag).then_some(())
    });
    trunk.send(&tagged(&frame(&s[3], s[1].mac, b"to VLAN ten"), 10));
    let seen = from_10.receive(HUNG, |f| f.ends_with(b"to VLAN ten"));
    assert!(seen.is_some_and(|f| f[12..14] == [8, 0]), "without a tag");
    let astray = at_10.receive(QUIET, |f| f.ends_with(b"to VLAN ten"));
    assert!(astray.is_none(), "a known address is not flooded");
    let at_20 = RawSocket::open(&s[2].netns, "eth0");
    let before = node.drops();
    trunk.send(&tagged(&frame(&s[3], BROADCAST, b"in VLAN thirty"), 30));
    trunk.send(&frame(&s[3], BROADCAST, b"without a tag"));
    trunk.send(&tagged(&frame(&s[3], BROADCAST, b"in VLAN twenty"), 20));
    let first = at_20
        .receive(HUNG, |f| {
            f.windows(3).any(|w| w == b"in ") || f.ends_with(b"tag")
        })
        .expect("VLAN 20");
    assert!(first.ends_with(b"in VLAN twenty"));
    assert_eq!(
        first[12..14],
        [8, 0],
        "the tag is taken off for an access port"
    );
    eventually("both are counted", HUNG, || {
        (node
            .drops()
            .since(&before)
            .get("vlan_not_expected")
            .copied()
            .unwrap_or(0)
            >= 2)
            .then_some(())
    });
}

/// In generic XDP mode stations leave the cutting of TCP to a device that is not there. How often the switch cuts, when the veth that leads to
/// the other station segments or does not.
fn superframes_cut(tso: &str) -> u64 {
    let member = json!({"name": "lan"});
    let (node, s) = scene_in("generic", &lan(&json!({})), &[member.clone(), member]);
    let mut ethtool = node.netns().command("ethtool");
    let set = ethtool.args(["-K", &s[1].port, "tso", tso]);
    run(set, b"", HUNG).success("ethtool -K");
    let server = Echo::start(&s[1].netns, 7);
    let mut stream = tcp_connect(&s[0].netns, s[1].address, server.port(), HUNG).expect("TCP");
    let bytes: Vec<u8> = (0..4u32 << 20).map(|i| (i >> 9) as u8 ^ i as u8).collect();
    tcp_echo(&mut stream, &bytes);
    let stats = node.stats();
    assert_eq!(node.drops().of("packet_too_big"), 0, "{stats}");
    // What never happened is left out.
    stats["events"]["segmented"].as_u64().unwrap_or(0)
}

#[test]
fn tcp_between_stations_in_generic_mode_stays_whole() {
    assert_eq!(superframes_cut("on"), 0);
}

/// The first superframe is refused and lost, which TCP makes good.
#[test]
fn tcp_to_a_station_whose_device_does_not_segment_is_cut() {
    assert!(superframes_cut("off") > 0);
}

/// A VLAN device in a pod leaves its tag to the veth, beside the frame.
#[test]
fn tags_left_to_the_device_count() {
    let access = json!({"name": "lan", "vlan": {"access": 10}});
    let trunk = json!({"name": "lan", "vlan": {"trunk": [10, 20]}});
    let plain = json!({"name": "lan"});
    let members = [access.clone(), access, trunk, plain.clone(), plain];
    let (node, s) = scene_in("native", &lan(&json!({})), &members);
    let leave_tag = |station: &Station, vlan| {
        station.netns.run(|| {
            let mut socket = Socket::open().expect("rtnetlink");
            tc::push_tag(&mut socket, "eth0", vlan).expect("a filter");
        });
    };
    let [first, other, trunk, plain, last] =
        [0, 1, 2, 3, 4].map(|i| RawSocket::open(&s[i].netns, "eth0"));
    leave_tag(&s[2], 10);
    trunk.send(&frame(&s[2], BROADCAST, b"in VLAN ten"));
    let seen = first.receive(HUNG, |f| f.ends_with(b"in VLAN ten"));
    assert!(seen.is_some_and(|f| f[12..14] == [8, 0]), "without a tag");
    // Never as if there were no tag.
    let before = node.drops();
    for (station, from) in [(&s[0], &first), (&s[3], &plain)] {
        leave_tag(station, 20);
        from.send(&frame(station, BROADCAST, b"in VLAN twenty"));
    }
    eventually("both are counted", HUNG, || {
        let dropped = node.drops().since(&before);
        (dropped.get("vlan_not_expected") >= Some(&2)).then_some(())
    });
    for socket in [&other, &last] {
        while let Some(frame) = socket.try_receive() {
            assert!(!frame.ends_with(b"in VLAN twenty"), "{frame:02x?}");
        }
    }
}

#[test]
fn floods_are_limited() {
    let limits = json!({"broadcast_limit": 50, "unknown_unicast": "drop"});
    let member = json!({"name": "lan"});
    let (node, s) = scene(&lan(&limits), &[member.clone(), member]);
    let (first, second) = (
        RawSocket::open(&s[0].netns, "eth0"),
        RawSocket::open(&s[1].netns, "eth0"),
    );
    let before = node.drops();
    first.send(&frame(&s[0], [2, 7, 7, 7, 7, 7], b"to an unknown address"));
    let mut sent = 0;
    // A few at a time: what the kernel has no room for never reaches the limit.
    eventually("the limits are counted", HUNG, || {
        for _ in 0..50 {
            first.send(&frame(&s[0], BROADCAST, b"one of many broadcasts"));
        }
        sent += 50;
        let grown = node.drops().since(&before);
        let [unknown, broadcast] = ["unknown_unicast_limit", "broadcast_limit"]
            .map(|reason| grown.get(reason).copied().unwrap_or(0));
        assert!(unknown <= 1, "{grown:?}");
        (unknown == 1 && broadcast > 500).then_some(())
    });
    let mut arrived = 0;
    while let Some(frame) = second.try_receive() {
        assert!(
            !frame.ends_with(b"unknown address"),
            "unknown unicast is off"
        );
        arrived += usize::from(frame.ends_with(b"broadcasts"));
    }
    assert!(
        arrived > 0 && arrived + 500 <= sent,
        "{arrived} of {sent} broadcasts arrived"
    );
}

#[test]
fn learned_addresses_age() {
    let member = json!({"name": "lan"});
    let (node, s) = scene(
        &lan(&json!({"ageing_seconds": 1})),
        &[member.clone(), member],
    );
    ping(&s[0].netns, s[1].address);
    for station in &s {
        station.netns.ip("link set eth0 down");
    }
    eventually("learned addresses are forgotten", HUNG, || {
        node.get("fdb", &json!({"segment": "lan"}))
            .is_empty()
            .then_some(())
    });
}

#[test]
fn a_fixed_address_is_not_learned_elsewhere() {
    let member = json!({"name": "lan"});
    let (node, s) = scene(&lan(&json!({})), &[member.clone(), member.clone(), member]);
    let text = s[0].mac.map(|b| format!("{b:02x}")).join(":");
    let fixed = json!({"kind": "fdb", "segment": "lan", "mac": text, "port": s[0].port});
    node.apply(&[set(fixed)]);
    let thief = RawSocket::open(&s[1].netns, "eth0");
    let before = node.drops();
    let mut stolen = frame(&s[0], BROADCAST, b"in the first one's name");
    thief.send(&stolen);
    stolen[..6].copy_from_slice(&s[2].mac);
    thief.send(&stolen);
    eventually("the move is refused", HUNG, || {
        (node
            .drops()
            .since(&before)
            .get("fdb_move")
            .copied()
            .unwrap_or(0)
            >= 2)
            .then_some(())
    });
    let entries = node.get("fdb", &json!({"segment": "lan", "mac": text}));
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["object"]["port"], s[0].port.as_str());
    ping(&s[2].netns, s[0].address);
}

#[test]
fn a_segment_and_routed_pods_never_meet() {
    let member = json!({"name": "lan"});
    let (node, s) = scene(&lan(&json!({})), &[member]);
    let pod = node.pod();
    let at_station = RawSocket::open(&s[0].netns, "eth0");
    let at_pod = RawSocket::open(&pod.netns, "eth0");
    at_pod.send(&frame(
        &Station {
            netns: Netns::at("/none"),
            port: String::new(),
            mac: pod.mac(),
            address: pod.v4(),
        },
        BROADCAST,
        b"broadcast of a pod",
    ));
    at_station.send(&frame(&s[0], BROADCAST, b"broadcast of a station"));
    at_station.send(&frame(&s[0], pod.mac(), b"unicast of a station"));
    let none =
        |socket: &RawSocket, text: &[u8]| socket.receive(QUIET, |f| f.ends_with(text)).is_none();
    assert!(none(&at_station, b"of a pod") && none(&at_pod, b"of a station"));
}
