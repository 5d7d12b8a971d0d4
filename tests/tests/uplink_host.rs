// SPDX-License-Identifier: Apache-2.0
//! A port on the node's NIC: the host, whose NIC it stays, notices nothing, whatever becomes of the switch.

use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use podswitch_tests::frames::parse_mac;
use podswitch_tests::kernel::{counter, offloads, set_sysctl};
use podswitch_tests::objects::{delete, set};
use podswitch_tests::programs::{bin_dir, foreign_program, run};
use podswitch_tests::raw::RawSocket;
use podswitch_tests::uplink::{NIC, NODE_V4, Session, Uplink};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// A host that answers within this has noticed nothing.
const STALL: Duration = Duration::from_secs(1);

fn removed() -> Value {
    delete(json!({"kind": "port", "name": "uplink"}))
}

/// The steering program on the NIC, by its name; in tap mode its filter.
fn program(netns: &Netns) -> Option<String> {
    let link = &netns.ip_json(&format!("link show dev {NIC}"))[0];
    let name = &link["xdp"]["prog"]["name"];
    let mut tc = netns.command("tc");
    let shown = run(
        tc.args(["filter", "show", "dev", NIC, "ingress"]),
        b"",
        HUNG,
    );
    let filter = "podswitch_nic";
    let filtered = shown.success("tc").contains(filter).then_some(filter);
    let name = name.as_str();
    assert!(name.is_none() || filtered.is_none(), "one of the two");
    name.or(filtered).map(str::to_owned)
}

fn state(node: &Node) -> Value {
    node.get("port", &json!({"name": "uplink"}))[0]["status"].clone()
}

/// Runs `podswitchctl teardown --config FILE`.
#[track_caller]
fn teardown(node: &Node) {
    let mut ctl = node.netns().command(bin_dir().join("podswitchctl"));
    let ctl = ctl.args(["teardown", "--config"]).arg(node.config_file());
    run(ctl, b"", HUNG).success("podswitchctl teardown");
}

/// Frames that the switch has received by the port.
fn received(node: &Node) -> u64 {
    let stats = node.stats();
    let ports = stats["ports"].as_array().expect("ports is a list");
    let port = ports.iter().find(|p| p["name"] == "uplink");
    port.and_then(|p| p["rx_packets"].as_u64()).unwrap_or(0)
}

/// What is the pod's arrives at the port.
#[track_caller]
fn steers(node: &Node, uplink: &Uplink, pod: &Pod) {
    let wire = RawSocket::open(&uplink.peer, NIC);
    let ends = uplink.ends(node, pod.v4());
    let before = received(node);
    eventually("the pod's frames come to the port", HUNG, || {
        wire.send(&ends.udp((4000, 9), 64, b"to the pod"));
        (received(node) > before).then_some(())
    });
}

fn host_notices_nothing(mode: &str) {
    let mut node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 2);
    let pod = node.pod();
    let session = Session::start(&node, &uplink);

    node.apply(&[set(uplink.port(mode))]);
    assert_eq!(program(node.netns()).as_deref(), Some("podswitch_nic"));
    let is = if mode == "auto" { "native" } else { mode };
    assert_eq!(state(&node)["mode"], is);
    session.goes_on("attach");
    steers(&node, &uplink, &pod);

    node.kill();
    session.goes_on("kill -9");
    node.start();
    session.goes_on("the start after it");
    steers(&node, &uplink, &pod);

    node.daemon().signal(Signal::SIGSTOP);
    session.goes_on("SIGSTOP");
    // More than all sockets have room for.
    let wire = RawSocket::open(&uplink.peer, NIC);
    let ends = uplink.ends(&node, pod.v4());
    for port in 0..10_000 {
        wire.send(&ends.udp((port, 9), 64, b"to the pod"));
    }
    session.goes_on("a stopped switch whose sockets are full");
    node.daemon().signal(Signal::SIGCONT);
    session.goes_on("SIGCONT");
    steers(&node, &uplink, &pod);

    node.terminate();
    assert_eq!(program(node.netns()).as_deref(), Some("podswitch_nic"));
    session.goes_on("SIGTERM");
    node.start();
    session.goes_on("the restart");
    steers(&node, &uplink, &pod);

    node.apply(&[removed()]);
    assert_eq!(program(node.netns()), None);
    session.goes_on("removal of the port");

    node.apply(&[set(uplink.port(mode))]);
    session.goes_on("the second attach");
    teardown(&node);
    assert_eq!(program(node.netns()), None);
    session.goes_on("teardown");

    let longest = session.end();
    assert!(longest < STALL, "a message took {longest:?}");
}

#[test]
fn the_hosts_connection_outlives_everything_in_native_mode() {
    host_notices_nothing("auto");
}

#[test]
fn the_hosts_connection_outlives_everything_in_generic_mode() {
    host_notices_nothing("generic");
}

#[test]
fn the_hosts_connection_outlives_everything_in_tap_mode() {
    host_notices_nothing("tap");
}

/// Whether the host's stack answers a SYN to the pod.
fn host_answers(node: &Node, uplink: &Uplink, pod: IpAddr, seen: impl Fn() -> bool) -> bool {
    let wire = RawSocket::open(&uplink.peer, NIC);
    let mac = Uplink::mac(&uplink.peer);
    wire.send(&uplink.ends(node, pod).syn((4000, 80)));
    let is_answer = |frame: &[u8]| {
        let is_ip = frame[12..14] == [0x08, 0x00] || frame[12..14] == [0x86, 0xdd];
        frame[..6] == mac && is_ip
    };
    // The frame was decided on, or the answer is there.
    let mut answered = false;
    eventually("the SYN is decided on", HUNG, || {
        while let Some(frame) = wire.try_receive() {
            answered |= is_answer(&frame);
        }
        (answered || seen()).then_some(())
    });
    answered
}

#[test]
fn a_dead_switchs_connections_are_not_reset_by_the_host() {
    let mut node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 1);
    let pod = node.pod();
    let pod_v4 = pod.v4();
    // The worst of hosts: it forwards, and refuses what it has no way for.
    set_sysctl(node.netns(), "net/ipv4/conf/all/forwarding", "1");
    node.netns().ip("route add prohibit default");
    let received_by_host = |netns: &Netns| counter(netns, "Ip", "InReceives");
    let misses = |node: &Node| node.drops().of("kernel_steering_miss");

    node.apply(&[set(uplink.port("auto"))]);
    let before = misses(&node);
    node.kill();
    // Nothing but this packet is on the wire; the program counts it, which the next daemon tells.
    let heard = received_by_host(node.netns());
    let wire = RawSocket::open(&uplink.peer, NIC);
    for _ in 0..3 {
        wire.send(&uplink.ends(&node, pod_v4).syn((4000, 80)));
    }
    node.start();
    eventually("the dead switch's packets were dropped", HUNG, || {
        (misses(&node) >= before + 3).then_some(())
    });
    assert_eq!(received_by_host(node.netns()), heard);
    let mac = Uplink::mac(&uplink.peer);
    while let Some(frame) = wire.try_receive() {
        let answers = frame[..6] == mac && frame[12..14] == [0x08, 0x00];
        assert!(!answers, "the host answered: {frame:02x?}");
    }
    // Without the port the same packet is the host's, which shows that it would have answered.
    node.apply(&[removed()]);
    assert!(host_answers(&node, &uplink, pod_v4, || false));
}

#[test]
fn addresses_are_the_switchs_as_long_as_they_are_pods() {
    let node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 1);
    set_sysctl(node.netns(), "net/ipv4/conf/all/forwarding", "1");
    node.netns().ip("route add prohibit default");
    node.apply(&[set(uplink.port("auto"))]);
    // One that comes after the port, and goes again.
    let pod = node.pod();
    steers(&node, &uplink, &pod);
    let before = received(&node);
    let arrived = || received(&node) > before;
    assert!(!host_answers(&node, &uplink, pod.v4(), arrived));
    let address = pod.v4();
    node.delete(&pod);
    assert!(host_answers(&node, &uplink, address, || false));
    // An address that moves from one port to another in one change.
    let port = |name: &str, last: u8, addresses: Value| {
        set(
            json!({"kind": "port", "name": name, "mac": format!("02:00:00:00:00:{last:02x}"),
            "addresses": addresses, "device": {"kind": "pcap", "record": node.dir().join(name)}}),
        )
    };
    let moved: IpAddr = "10.9.9.9".parse().unwrap();
    node.apply(&[port("one", 1, json!([moved]))]);
    node.apply(&[
        port("one", 1, json!(["10.9.9.8"])),
        port("two", 2, json!([moved])),
    ]);
    let before = received(&node);
    let arrived = || received(&node) > before;
    assert!(!host_answers(&node, &uplink, moved, arrived));
    // The node's own address stays the host's, even if somebody gives it to a pod.
    node.apply(&[port("two", 2, json!([NODE_V4]))]);
    assert!(host_answers(&node, &uplink, NODE_V4.into(), || false));
}

#[test]
fn a_foreign_program_stays_and_the_port_opens_when_it_is_gone() {
    let mut node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 1);
    let object = foreign_program(node.dir());
    let attach = format!("link set dev {NIC} xdp obj {} sec xdp", object.display());
    node.netns().ip(&attach);
    let id = |netns: &Netns| {
        netns.ip_json(&format!("link show dev {NIC}"))[0]["xdp"]["prog"]["id"].clone()
    };
    let foreign = id(node.netns());
    assert!(foreign.is_u64(), "{foreign}");
    let refused = node.rpc("apply", &json!({"changes": [set(uplink.port("auto"))]}));
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("foreign") && refused.contains(NIC),
        "{refused}"
    );
    assert_eq!(id(node.netns()), foreign);
    assert!(node.get("port", &json!({})).is_empty());
    teardown(&node);
    assert_eq!(id(node.netns()), foreign, "teardown leaves it, too");

    // A stored port whose NIC has got one meanwhile waits until it is gone.
    node.kill();
    node.netns().ip(&format!("link set dev {NIC} xdp off"));
    node.start();
    node.apply(&[set(uplink.port("auto"))]);
    node.kill();
    node.netns().ip(&format!("link set dev {NIC} xdp off"));
    node.netns().ip(&attach);
    let foreign = id(node.netns());
    node.start();
    let status = state(&node);
    assert_eq!(status["state"], "faulted", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("foreign"), "{message}");
    assert_eq!(id(node.netns()), foreign);
    node.netns().ip(&format!("link set dev {NIC} xdp off"));
    eventually("the port opens", HUNG, || {
        (state(&node)["state"] == "up").then_some(())
    });
    assert_eq!(program(node.netns()).as_deref(), Some("podswitch_nic"));
}

const TAGS: &str = "rx-vlan-offload";

#[test]
fn what_is_turned_off_is_put_back() {
    let mut node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 1);
    let before = offloads(node.netns(), NIC);
    assert!(before[TAGS]);
    let attached = |node: &Node| {
        let mut expected = before.clone();
        expected.insert(TAGS.into(), false);
        assert_eq!(offloads(node.netns(), NIC), expected);
    };
    node.apply(&[set(uplink.port("auto"))]);
    attached(&node);
    // A restart does not take what it finds for how it was.
    node.terminate();
    node.start();
    attached(&node);
    node.apply(&[removed()]);
    assert_eq!(offloads(node.netns(), NIC), before);
    // Neither addresses nor settings nor filters of the host's are touched.
    let settings = |netns: &Netns| {
        let script = format!(
            "grep -rs . /proc/sys/net/ipv[46]/conf/{NIC} | sort; tc qdisc show dev {NIC}; ip -o address show dev {NIC}"
        );
        let shown = run(netns.command("sh").args(["-c", &script]), b"", HUNG);
        let shown = shown.success("reading the interface's settings");
        assert!(shown.contains("forwarding") && shown.contains(&NODE_V4.to_string()));
        // Duplicate address detection ends when it does.
        shown.replace(" tentative", "")
    };
    let host = settings(node.netns());
    node.apply(&[set(uplink.port("auto"))]);
    assert_eq!(settings(node.netns()), host);
    // Another mode is another program; the host's settings stay noted.
    node.apply(&[set(uplink.port("generic"))]);
    assert_eq!(state(&node)["mode"], "generic");
    attached(&node);
    // So with a filter instead of one, and back.
    for mode in ["tap", "native", "tap"] {
        node.apply(&[set(uplink.port(mode))]);
        assert_eq!(state(&node)["mode"], mode);
        assert_eq!(program(node.netns()).as_deref(), Some("podswitch_nic"));
    }
    node.kill();
    teardown(&node);
    assert_eq!(offloads(node.netns(), NIC), before);
    assert_eq!(program(node.netns()), None);
    assert_eq!(settings(node.netns()), host);
}

#[test]
fn what_is_no_nic_is_refused_by_name() {
    let node = Node::new(NodeConfig::default());
    let netns = node.netns();
    let uplink = Uplink::new(&node, 1);
    netns.ip("link add br0 type bridge");
    netns.ip("link add member0 type veth peer name member1");
    netns.ip("link set member0 master br0");
    netns.ip(&format!("link add link {NIC} name above0 type macvlan"));
    let pod = node.pod();
    let host_end = node.host_end(&pod);
    for (interface, words) in [
        ("br0", &["is a bridge"][..]),
        ("member0", &["member of the bridge br0"]),
        ("above0", &["is a macvlan"]),
        ("lo", &["loopback"]),
        ("nowhere0", &["does not exist"]),
        (&host_end, &["belongs to port"]),
    ] {
        let mut port = uplink.port("auto");
        port["device"]["interface"] = json!(interface);
        let refused = node.rpc("apply", &json!({"changes": [set(port)]}));
        let refused = refused.expect_err(interface).to_string();
        let all = words.iter().chain([&interface]);
        assert!(all.clone().all(|w| refused.contains(w)), "{refused}");
    }
    for (queues, shared, words) in [
        (
            json!([0, 7]),
            false,
            &["has no queue 7", "device.zero_copy_queues"][..],
        ),
        (
            json!([0]),
            false,
            &["driven by veth", "which queues", "zero_copy_shared"],
        ),
        (
            json!([0]),
            true,
            &[
                "driven by veth",
                "no zero-copy mode",
                "leave `zero_copy_queues` out",
            ],
        ),
    ] {
        let mut direct = uplink.port("auto");
        direct["device"]["zero_copy_queues"] = queues;
        direct["device"]["zero_copy_shared"] = json!(shared);
        let refused = node.rpc("apply", &json!({"changes": [set(direct)]}));
        let refused = refused.unwrap_err().to_string();
        assert!(words.iter().all(|w| refused.contains(w)), "{refused}");
    }
    let mut tagged = uplink.port("auto");
    tagged["device"]["vlan"] = json!(7);
    let refused = node.rpc("apply", &json!({"changes": [set(tagged)]}));
    let refused = refused.unwrap_err().to_string();
    let add = format!("ip link add link {NIC} name vlan7 type vlan id 7");
    let words = [NIC, "no VLAN device with id 7", "device.vlan", &add];
    assert!(words.iter().all(|w| refused.contains(w)), "{refused}");
    assert_eq!(program(netns), None);
    node.apply(&[set(uplink.port("native"))]);
    assert_eq!(state(&node)["queues"], json!(["copy"]));
    let mut second = uplink.port("auto");
    second["name"] = json!("second");
    let refused = node.rpc("apply", &json!({"changes": [set(second)]}));
    assert!(refused.unwrap_err().to_string().contains("uplink"));
}

#[test]
fn generic_mode_is_for_who_asks() {
    let node = Node::new(NodeConfig::default());
    let netns = node.netns();
    // A veth takes no program in its driver when its other end has more queues (`veth_xdp_set`).
    netns.ip("link add few0 numrxqueues 1 type veth peer name many0 numtxqueues 2");
    let mut more = netns.command("ethtool");
    run(more.args(["-L", "many0", "tx", "2"]), b"", HUNG).success("ethtool -L");
    let before = offloads(netns, "few0");
    let port = |mode: &str| {
        set(json!({"kind": "port", "name": "uplink",
            "device": {"kind": "nic", "interface": "few0", "mode": mode}}))
    };
    for mode in ["auto", "native"] {
        let refused = node.rpc("apply", &json!({"changes": [port(mode)]}));
        let refused = refused.expect_err(mode).to_string();
        assert!(
            refused.contains("few0") && refused.contains("generic"),
            "{refused}"
        );
        assert_eq!(offloads(netns, "few0"), before);
        let link = &netns.ip_json("link show dev few0")[0];
        assert!(link["xdp"].is_null(), "{link}");
        assert!(node.get("port", &json!({})).is_empty());
    }
    node.apply(&[port("generic")]);
    assert_eq!(state(&node)["mode"], "generic");
}

#[test]
fn a_nic_that_goes_and_comes_back_is_taken_again() {
    let node = Node::new(NodeConfig::default());
    let uplink = Uplink::new(&node, 1);
    let mac = parse_mac("02:00:00:00:00:77");
    node.apply(&[set(uplink.port("auto"))]);
    let mtu = state(&node)["mtu"].clone();
    assert_eq!(mtu, 1500);
    node.netns().ip(&format!("link delete {NIC}"));
    eventually("the port says that its NIC is gone", HUNG, || {
        (state(&node)["state"] == "faulted").then_some(())
    });
    let peer = uplink.peer.name();
    node.netns().ip(&format!(
        "link add {NIC} address 02:00:00:00:00:77 mtu 1400 type veth peer name {NIC} netns {peer}"
    ));
    node.netns().ip(&format!("link set {NIC} up"));
    uplink.peer.ip(&format!("link set {NIC} up"));
    eventually("the port opens again", HUNG, || {
        (state(&node)["state"] == "up").then_some(())
    });
    assert_eq!(state(&node)["mtu"], 1400);
    let pod = node.pod();
    assert_eq!(Uplink::mac(node.netns()), mac);
    steers(&node, &uplink, &pod);
}
