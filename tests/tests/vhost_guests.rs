// SPDX-License-Identifier: Apache-2.0
//! Virtual machines as pods: two of QEMU's with Debian's kernel, whose NICs are ports of the switch by vhost-user, and a pod beside them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use podswitch_tests::guest::{Guest, GuestNic, Wire};
use podswitch_tests::objects::{delete, rule, set};
use podswitch_tests::traffic::{Echo, ping, tcp_connect, tcp_echo};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// A frame with a packet of 1500 bytes.
const LARGEST: u64 = 1514;
const GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::1"];

/// What a machine is known by.
#[derive(Clone, Copy)]
struct Name {
    port: &'static str,
    mac: &'static str,
    addresses: [&'static str; 2],
}

const ONE: Name = Name {
    port: "one",
    mac: "02:00:00:00:05:01",
    addresses: ["10.244.5.1", "fd00:244:5::1"],
};
const TWO: Name = Name {
    port: "two",
    mac: "02:00:00:00:05:02",
    addresses: ["10.244.5.2", "fd00:244:5::2"],
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(node: &Node, name: Name) -> PathBuf {
    node.dir().join(format!("{}.sock", name.port))
}

fn add(node: &Node, name: Name) {
    let device = json!({"kind": "vhost_user", "socket": socket(node, name), "queues": 2});
    node.apply(&[set(json!({"kind": "port", "name": name.port, "device": device, "mac": name.mac, "addresses": name.addresses}))]);
}

/// The NIC of a machine.
fn nic(node: &Node, name: Name, queues: u32, properties: &'static str) -> GuestNic {
    GuestNic {
        wire: Wire::VhostUser(socket(node, name)),
        mac: name.mac,
        queues,
        properties,
    }
}

/// A machine on its port, with an echo server for TCP on port 7.
fn boot(node: &Node, name: Name, queues: u32, properties: &'static str) -> Guest {
    let nic = nic(node, name, queues, properties);
    let mut guest = Guest::boot_pod(node.netns(), &[nic]);
    guest.run("ip link set eth0 up");
    let [v4, v6] = name.addresses;
    guest.run(&format!("ip address add {v4}/32 dev eth0"));
    guest.run(&format!("ip address add {v6}/128 dev eth0 nodad"));
    guest.run(&format!(
        "ip route add default via {} dev eth0 onlink",
        GATEWAY[0]
    ));
    guest.run(&format!("ip route add default via {} dev eth0", GATEWAY[1]));
    guest.run("tcp-echo 7 & true");
    guest.eventually("tcp-echo ::1 7 1 2>/dev/null");
    guest
}

fn status(node: &Node, name: Name) -> Value {
    let ports = node.get("port", &json!({}));
    let mut ports = ports.into_iter();
    let port = ports.find(|p| p["object"]["name"] == name.port);
    port.expect("the port")["status"].clone()
}

fn wait_until_up(node: &Node, name: Name) {
    eventually(&format!("port {} is up", name.port), HUNG, || {
        (status(node, name)["state"] == "up").then_some(())
    });
}

/// Bytes of a frame to a machine, on average, while `work` was done.
fn average(node: &Node, name: Name, work: impl FnOnce()) -> u64 {
    let sent = || {
        let stats = node.stats();
        let ports = stats["ports"].as_array().expect("ports").clone();
        let port = ports.into_iter().find(|p| p["name"] == name.port);
        let port = port.expect("the port");
        let number = |what: &str| port[what].as_u64().expect("a counter");
        (number("tx_packets"), number("tx_bytes"))
    };
    let before = sent();
    work();
    let after = sent();
    (after.1 - before.1) / (after.0 - before.0).max(1)
}

/// Bytes of a machine's to a server and back.
fn echo_by(guest: &mut Guest, to: &str, bytes: u32) {
    guest.run(&format!("timeout 60 tcp-echo {to} 7 {bytes}"));
}

/// Pings and TCP in both families, from each to each.
fn all_talk(one: &mut Guest, two: &mut Guest, pod: &Pod) {
    let server = Echo::start(&pod.netns, 7);
    let addresses = [pod.v4().to_string(), pod.v6().to_string()];
    for (at, ping_by) in [(0, "ping -c 1 -w 20"), (1, "ping6 -c 1 -w 20")] {
        one.run(&format!("{ping_by} {}", TWO.addresses[at]));
        two.run(&format!("{ping_by} {}", ONE.addresses[at]));
        one.run(&format!("{ping_by} {}", addresses[at]));
        for name in [ONE, TWO] {
            let address = ip(name.addresses[at]);
            ping(&pod.netns, address);
            let mut stream = tcp_connect(&pod.netns, address, 7, HUNG).expect("a connection");
            tcp_echo(&mut stream, &vec![7; 300_000]);
        }
        echo_by(one, TWO.addresses[at], 300_000);
        echo_by(two, &addresses[at], 300_000);
    }
    drop(server);
}

#[test]
fn virtual_machines_are_pods() {
    let mut node = Node::new(NodeConfig::default());
    let pod = node.pod();
    for name in [ONE, TWO] {
        add(&node, name);
    }
    // One with packed queues, one with several pairs of them.
    let (mut one, mut two) = thread::scope(|scope| {
        let one = scope.spawn(|| boot(&node, ONE, 1, ",packed=on"));
        let two = boot(&node, TWO, 2, "");
        (one.join().expect("a machine"), two)
    });
    for name in [ONE, TWO] {
        wait_until_up(&node, name);
    }
    for (name, own) in [(ONE, "ring_packed"), (TWO, "mq")] {
        let status = status(&node, name);
        let features = status["features"].as_array().expect("features");
        for feature in [
            "csum",
            "guest_csum",
            "guest_tso4",
            "host_tso4",
            "mrg_rxbuf",
            "event_idx",
            own,
        ] {
            assert!(
                features.iter().any(|f| f == feature),
                "{feature}: {features:?}"
            );
        }
    }
    all_talk(&mut one, &mut two, &pod);

    // Superframes go from one to the other as they are.
    let before = segmented(&node);
    for at in 0..2 {
        let size = average(&node, TWO, || {
            echo_by(&mut one, TWO.addresses[at], 4_000_000)
        });
        assert!(size > LARGEST, "{size} bytes a frame");
    }
    assert_eq!(segmented(&node), before);

    cut_off(&node, &mut one, &pod);
    over_the_death_of_the_switch(&mut node, &mut two, &pod);
    moved_while_it_talks(&node, two, &pod);
}

fn segmented(node: &Node) -> u64 {
    node.stats()["events"]["segmented"].as_u64().unwrap_or(0)
}

/// A policy holds for a machine as for any pod.
fn cut_off(node: &Node, one: &mut Guest, pod: &Pod) {
    let deny = rule("no", TWO.port, "ingress", "deny", &json!({}));
    node.apply(&[set(deny)]);
    let before = node.drops();
    let (status, _) = one.try_run(&format!("ping -c 1 -w 2 {}", TWO.addresses[0]));
    assert_ne!(status, 0);
    let (status, _) = one.try_run(&format!("timeout 3 tcp-echo {} 7 1", TWO.addresses[1]));
    assert_ne!(status, 0);
    assert!(tcp_connect(&pod.netns, ip(TWO.addresses[0]), 7, HUNG / 20).is_err());
    let drops = node.drops().since(&before);
    assert!(drops.contains_key("policy_denied_ingress"), "{drops:?}");
    node.apply(&[delete(json!({"kind": "rule", "name": "no"}))]);
    one.run(&format!("ping -c 1 -w 20 {}", TWO.addresses[0]));
}

/// A connection goes on when the next switch is there, and nobody tells the machine.
fn over_the_death_of_the_switch(node: &mut Node, two: &mut Guest, pod: &Pod) {
    let mut stream = tcp_connect(&pod.netns, ip(TWO.addresses[0]), 7, HUNG).expect("a connection");
    tcp_echo(&mut stream, b"before");
    for _ in 0..2 {
        node.kill();
        node.start();
        wait_until_up(node, TWO);
        tcp_echo(&mut stream, b"after");
    }
    two.run(&format!("ping -c 1 -w 20 {}", pod.v4()));
}

/// A machine moves to another QEMU on another port, and a connection of it goes on: what the switch writes into its memory meanwhile goes with it.
fn moved_while_it_talks(node: &Node, two: Guest, pod: &Pod) {
    let later = Name {
        port: "later",
        ..TWO
    };
    let device = json!({"kind": "vhost_user", "socket": socket(node, later), "queues": 2});
    // The MAC address is still the other port's.
    let port =
        json!({"kind": "port", "name": later.port, "device": device, "mac": "02:00:00:00:05:03"});
    node.apply(&[set(port)]);
    let mut stream = tcp_connect(&pod.netns, ip(TWO.addresses[0]), 7, HUNG).expect("a connection");
    let (moved, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let echoes = [const { AtomicU32::new(0) }; 2];
    let mut two = thread::scope(|scope| {
        let talk = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                tcp_echo(&mut stream, &vec![7; 100_000]);
                echoes[usize::from(moved.load(Ordering::Relaxed))].fetch_add(1, Ordering::Relaxed);
            }
        });
        let two = two.move_to(node.netns(), &[nic(node, later, 2, "")]);
        // Its addresses move with it.
        node.apply(&[
            delete(json!({"kind": "port", "name": TWO.port})),
            set(json!({"kind": "port", "name": later.port, "device": device, "mac": later.mac, "addresses": later.addresses})),
        ]);
        moved.store(true, Ordering::Relaxed);
        wait_until_up(node, later);
        ping(&pod.netns, ip(TWO.addresses[1]));
        eventually("the connection goes on", HUNG, || {
            (echoes[1].load(Ordering::Relaxed) > 3).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        talk.join().expect("a connection that goes on");
        two
    });
    let echoes = echoes.map(AtomicU32::into_inner);
    assert!(echoes[0] > 0 && echoes[1] > 0, "{echoes:?}");
    two.run(&format!("ping -c 1 -w 20 {}", pod.v4()));
}
