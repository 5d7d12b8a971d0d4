// SPDX-License-Identifier: Apache-2.0
//! Tables: longest prefix wins, kinds of routes, transactions, and changes under traffic that lose no frame.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podswitch_tests::ctl::Wire;
use podswitch_tests::frames::Ends;
use podswitch_tests::objects::{delete, rule, set};
use podswitch_tests::raw::RawSocket;
use podswitch_tests::traffic::{Echo, ping, udp_socket};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod};
use serde_json::{Value, json};

/// Pods that come say hello by multicast, which ends at the switch.
const HARMLESS: [&str; 3] = ["multicast_not_routed", "nd_unanswered", "arp_unanswered"];

/// Sends bursts of numbered datagrams to an echo server and waits for every one of each burst to come back; returns how
/// many were sent.
///
/// # Panics
/// If one does not come back.
fn no_loss(from: &Pod, to: std::net::IpAddr, port: u16, until: &AtomicBool) -> u64 {
    const BURST: u64 = 16;
    let socket = udp_socket(&from.netns, to, port);
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut sent = 0;
    while !until.load(Ordering::Relaxed) {
        for number in sent..sent + BURST {
            socket.send(&number.to_be_bytes()).expect("send");
        }
        let mut missing: Vec<u64> = (sent..sent + BURST).collect();
        while !missing.is_empty() {
            let mut back = [0; 8];
            socket
                .recv(&mut back)
                .unwrap_or_else(|e| panic!("lost after {sent}: {missing:?}: {e}"));
            missing.retain(|number| *number != u64::from_be_bytes(back));
        }
        sent += BURST;
    }
    sent
}

/// A port as it is set, for a change that says all of it again.
fn object(node: &Node, name: &str) -> Value {
    node.get("port", &json!({"name": name}))[0]["object"].clone()
}

/// Changes of every table, again and again for some seconds; returns how many requests were carried out.
fn change_everything(node: &Node, port: &str, other: &str) -> u64 {
    let mut wire = Wire::connect(&node.socket());
    let ports = [port, other].map(|name| object(node, name));
    // What is allowed by name stays so whatever the ports' defaults are.
    let standing = [port, other].into_iter().flat_map(|port| {
        ["ingress", "egress"].map(|direction| {
            let name = format!("all-{direction}-{port}");
            set(rule(
                &name,
                port,
                direction,
                "allow",
                &json!({"priority": 1}),
            ))
        })
    });
    let record = node.dir().join("record.pcap");
    let member = json!({"kind": "port", "name": "member", "segment": {"name": "fixed"},
        "device": {"kind": "pcap", "record": record}});
    let segment = json!({"kind": "segment", "name": "fixed", "id": 1000});
    let mut changes: Vec<Value> = standing.collect();
    changes.extend([set(segment), set(member)]);
    wire.call("apply", &json!({"changes": changes}))
        .expect("apply");
    let end = Instant::now() + Duration::from_secs(4);
    let mut rounds: u64 = 0;
    while Instant::now() < end {
        let number = rounds % 50;
        let odd = rounds % 2 == 1;
        let route = |n: u64| json!({"kind": "route", "prefix": format!("172.{}.{n}.0/24", 16 + n % 16), "port": other});
        let neighbor = |n: u64| json!({"kind": "neighbor", "address": format!("172.16.0.{}", 1 + n), "port": other, "mac": format!("02:00:00:00:01:{n:02x}")});
        let fdb = |n: u64| json!({"kind": "fdb", "segment": "fixed", "mac": format!("02:00:00:00:02:{n:02x}"), "port": "member"});
        let key = |mut object: Value, keys: &[&str]| {
            let all = object.as_object_mut().expect("an object");
            all.retain(|field, _| keys.contains(&field.as_str()));
            delete(object)
        };
        let rules = [("ingress", port), ("egress", other)].map(|(direction, port)| {
            let range = json!({"protocol": "tcp", "ports": {"first": 1000 + number, "last": 2000}});
            set(rule(
                &format!("{direction}-{number}"),
                port,
                direction,
                "deny",
                &range,
            ))
        });
        let mut changes = vec![
            set(route(number)),
            set(neighbor(number)),
            set(fdb(number)),
            set(json!({"kind": "segment", "name": "s", "id": 1 + number})),
        ];
        changes.extend(rules);
        for mut object in ports.clone() {
            for default in ["ingress_default", "egress_default"] {
                object[default] = json!(if odd { "deny" } else { "allow" });
            }
            changes.push(set(object));
        }
        if odd {
            changes.extend([
                key(route(number - 1), &["kind", "prefix"]),
                key(neighbor(number - 1), &["kind", "address"]),
                key(fdb(number - 1), &["kind", "segment", "mac"]),
                delete(json!({"kind": "rule", "name": format!("ingress-{}", number - 1)})),
            ]);
        }
        wire.call("apply", &json!({"changes": changes}))
            .expect("apply");
        rounds += 1;
    }
    rounds
}

#[test]
fn changing_tables_under_traffic_loses_no_frame() {
    for workers in [vec![0], vec![0, 1]] {
        let node = Node::new(NodeConfig {
            workers,
            ..NodeConfig::default()
        });
        let (a, b) = (node.pod(), node.pod());
        let server = Echo::start(&b.netns, 7);
        ping(&a.netns, b.v4());
        ping(&a.netns, b.v6());
        let (port_a, port_b) = (node.port_name(&a), node.port_name(&b));
        let before = node.drops();
        let done = AtomicBool::new(false);
        let (sent, rounds) = std::thread::scope(|scope| {
            let senders = [b.v4(), b.v6()].map(|to| {
                let (a, port, done) = (&a, server.port(), &done);
                scope.spawn(move || no_loss(a, to, port, done))
            });
            // Pods come and go beside it, and the daemon's ports with them.
            let pods = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let pod = node.pod();
                    node.delete(&pod);
                }
            });
            let rounds = change_everything(&node, &port_b, &port_a);
            done.store(true, Ordering::Relaxed);
            pods.join().expect("pods come and go");
            (senders.map(|s| s.join().expect("no loss")), rounds)
        });
        assert!(
            sent.iter().all(|n| *n > 100) && rounds > 20,
            "{sent:?} datagrams, {rounds} changes"
        );
        let grown = node.drops().since(&before);
        let lost: Vec<_> = grown
            .iter()
            .filter(|(reason, _)| !HARMLESS.contains(&reason.as_str()))
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}

#[test]
fn a_refused_change_of_a_port_and_one_that_says_what_is_interrupt_nothing() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let server = Echo::start(&b.netns, 7);
    ping(&a.netns, b.v4());
    let port = node.port_name(&b);
    let now = object(&node, &port);
    let with = |field: &str, value: Value| {
        let mut changed = now.clone();
        changed[field] = value;
        set(changed)
    };
    let missing = set(json!({"kind": "port", "name": "nowhere", "vrf": 9,
        "mac": "02:00:00:00:00:09", "addresses": ["10.9.9.9"],
        "device": {"kind": "veth", "interface": "missing0"}}));
    // More than one port can have, though not more than all can.
    let rules = (0..4200).map(|n| format!("r{n}"));
    let rules = rules.map(|name| set(rule(&name, &port, "ingress", "allow", &json!({}))));
    let too_many: Vec<Value> = std::iter::once(with("mtu", json!(1400)))
        .chain(rules)
        .collect();
    let opened = || node.log().matches("port opened").count();
    let before = (node.drops(), opened());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| no_loss(&a, b.v4(), server.port(), &done));
        for _ in 0..20 {
            let refused = [with("mtu", json!(1400)), missing.clone()];
            node.rpc("apply", &json!({"changes": refused}))
                .expect_err("there is no missing0");
            let worker = [with("worker", json!(0)), with("worker", Value::Null)];
            for change in worker {
                node.apply(&[change]);
            }
        }
        let refused = node.rpc("apply", &json!({"changes": too_many}));
        assert_eq!(refused.expect_err("too many rules")["code"], -32001);
        done.store(true, Ordering::Relaxed);
        assert!(sender.join().expect("no loss") > 100);
    });
    assert_eq!(opened(), before.1, "no port was opened anew");
    let mut grown = node.drops().since(&before.0);
    grown.retain(|reason, _| !HARMLESS.contains(&reason.as_str()));
    assert!(grown.is_empty(), "{grown:?}");
    // A change that is one does open it.
    node.apply(&[with("mtu", json!(1400))]);
    assert_eq!(opened(), before.1 + 1);
    ping(&a.netns, b.v4());
}

/// Sends a datagram from `a` through the gateway to an address; true if it arrives at `at`.
fn arrives(a: &Pod, raw: &RawSocket, gateway: [u8; 6], at: &RawSocket, to: &str) -> bool {
    at.clear();
    let to: std::net::IpAddr = to.parse().unwrap();
    let from = if to.is_ipv4() { a.v4() } else { a.v6() };
    let ends = Ends {
        source_mac: a.mac(),
        destination_mac: gateway,
        from,
        to,
    };
    raw.send(&ends.udp((1, 2), 64, b"routed by prefix"));
    at.receive(Duration::from_millis(700), |f| {
        f.ends_with(b"routed by prefix")
    })
    .is_some()
}

#[test]
fn the_longest_prefix_wins() {
    let node = Node::new(NodeConfig::default());
    let (a, b, c) = (node.pod(), node.pod(), node.pod());
    ping(&a.netns, b.v4());
    let neighbors = a.netns.ip_json("-4 neighbor show dev eth0");
    let gateway =
        podswitch_tests::frames::parse_mac(neighbors[0]["lladdr"].as_str().expect("a MAC address"));
    let (raw, at_b, at_c) = (
        RawSocket::open(&a.netns, "eth0"),
        RawSocket::open(&b.netns, "eth0"),
        RawSocket::open(&c.netns, "eth0"),
    );
    let (port_b, port_c) = (node.port_name(&b), node.port_name(&c));
    // The pods are routers for these prefixes.
    let route = |prefix: &str, port: &str, via: std::net::IpAddr| {
        set(json!({"kind": "route", "prefix": prefix, "port": port, "via": via}))
    };
    node.apply(&[
        route("10.99.0.0/16", &port_b, b.v4()),
        route("10.99.1.0/24", &port_c, c.v4()),
        set(json!({"kind": "route", "prefix": "10.99.1.7/32", "type": "blackhole"})),
        route("2001:db8:99::/48", &port_b, b.v6()),
        route("2001:db8:99:1::/64", &port_c, c.v6()),
    ]);
    assert!(arrives(&a, &raw, gateway, &at_b, "10.99.0.1"));
    assert!(arrives(&a, &raw, gateway, &at_b, "10.99.255.1"));
    assert!(arrives(&a, &raw, gateway, &at_c, "10.99.1.1"));
    assert!(arrives(&a, &raw, gateway, &at_b, "2001:db8:99:2::1"));
    assert!(arrives(&a, &raw, gateway, &at_c, "2001:db8:99:1::1"));
    // On the link itself, the address needs a neighbor entry.
    node.apply(&[set(
        json!({"kind": "route", "prefix": "10.98.0.0/16", "port": port_b}),
    )]);
    assert!(!arrives(&a, &raw, gateway, &at_b, "10.98.0.9"));
    assert!(node.drops().of("neighbor_unresolved") > 0);
    let mac = b.mac().map(|byte| format!("{byte:02x}")).join(":");
    let neighbor = json!({"kind": "neighbor", "address": "10.98.0.9", "port": port_b, "mac": mac});
    node.apply(&[set(neighbor)]);
    assert!(arrives(&a, &raw, gateway, &at_b, "10.98.0.9"));

    let before = node.drops();
    assert!(!arrives(&a, &raw, gateway, &at_c, "10.99.1.7"));
    assert_eq!(node.drops().since(&before).get("route_blackhole"), Some(&1));
    node.apply(&[delete(json!({"kind": "route", "prefix": "10.99.1.0/24"}))]);
    assert!(arrives(&a, &raw, gateway, &at_b, "10.99.1.1"));
    node.apply(&[delete(json!({"kind": "route", "prefix": "10.99.0.0/16"}))]);
    assert!(!arrives(&a, &raw, gateway, &at_b, "10.99.0.1"));
    assert!(node.drops().of("no_route") > 0);
}

#[test]
fn a_whole_desired_state_comes_in_pieces_and_only_differences_change() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let port = node.port_name(&b);
    let named = |n: u32| {
        rule(
            &format!("r{n}"),
            &port,
            "ingress",
            "allow",
            &json!({"protocol": "tcp"}),
        )
    };
    let all = |numbers: std::ops::Range<u32>| -> Result<Value, Value> {
        let mut wire = Wire::connect(&node.socket());
        let begun = wire.call("begin", &json!({"kinds": ["rule"]}))?;
        let objects: Vec<Value> = numbers.map(named).collect();
        for piece in objects.chunks(100) {
            wire.call(
                "put",
                &json!({"transaction": begun["transaction"], "objects": piece}),
            )?;
        }
        wire.call("commit", &json!({"transaction": begun["transaction"]}))
    };
    let first = all(0..250).expect("commit");
    assert_eq!(
        (&first["added"], &first["changed"], &first["removed"]),
        (&json!(250), &json!(0), &json!(0))
    );
    let second = all(50..260).expect("commit");
    assert_eq!(
        (&second["added"], &second["changed"], &second["removed"]),
        (&json!(10), &json!(0), &json!(50))
    );
    let third = all(50..260).expect("commit");
    assert_eq!(third["generation"], second["generation"], "nothing changed");
    assert_eq!(node.get("rule", &json!({})).len(), 210);
    assert_eq!(
        node.get("port", &json!({})).len(),
        2,
        "other kinds stay as they are"
    );
    ping(&a.netns, b.v4());

    // A transaction dies with its connection, and with a generation that has passed.
    let mut wire = Wire::connect(&node.socket());
    let begun = wire
        .call("begin", &json!({"kinds": ["rule"]}))
        .expect("begin");
    drop(wire);
    let mut wire = Wire::connect(&node.socket());
    wire.call("commit", &json!({"transaction": begun["transaction"]}))
        .expect_err("another connection's transaction");
    assert_eq!(node.get("rule", &json!({})).len(), 210);
    let generation = third["generation"].as_u64().expect("a number");
    let stale = json!({"changes": [], "expect_generation": generation - 1});
    let refused = node
        .rpc("apply", &stale)
        .expect_err("a generation that has passed");
    assert_eq!(refused["code"], -32003, "{refused}");
}

#[test]
fn a_transaction_of_a_generation_that_has_passed_is_refused() {
    let node = Node::new(NodeConfig::default());
    let blackhole =
        |n: u8| json!({"kind": "route", "prefix": format!("10.9.{n}.0/24"), "type": "blackhole"});
    let generation = node.apply(&[set(blackhole(0))])["generation"].clone();
    let current = generation.as_u64().expect("a number");
    let mut wire = Wire::connect(&node.socket());
    let begin = |generation: u64| json!({"kinds": ["route"], "generation": generation});
    for other in [current - 1, current + 1] {
        let refused = wire.call("begin", &begin(other)).expect_err("not this one");
        assert_eq!(refused["code"], -32003, "{refused}");
    }
    // Right at `begin`, passed at `commit`.
    let begun = wire.call("begin", &begin(current)).expect("begin");
    let put = json!({"transaction": begun["transaction"], "objects": [blackhole(1)]});
    wire.call("put", &put).expect("put");
    node.apply(&[set(blackhole(2))]);
    let commit = json!({"transaction": begun["transaction"]});
    let refused = wire.call("commit", &commit).expect_err("it has passed");
    assert_eq!(refused["code"], -32003, "{refused}");
    let prefixes: Vec<Value> = node.get("route", &json!({}));
    let prefixes: Vec<&Value> = prefixes.iter().map(|r| &r["object"]["prefix"]).collect();
    assert_eq!(prefixes, ["10.9.0.0/24", "10.9.2.0/24"]);
    // It is over, and another one may follow.
    let over = wire.call("commit", &commit).expect_err("it is over");
    assert_eq!(over["code"], -32002, "{over}");
    let begun = wire.call("begin", &begin(current + 1)).expect("begin");
    wire.call("commit", &json!({"transaction": begun["transaction"]}))
        .expect("commit");
    assert!(node.get("route", &json!({})).is_empty());
}

#[test]
fn transactions_are_bounded_by_connection_and_in_all() {
    let node = Node::new(NodeConfig::default());
    let begin = |wire: &mut Wire| wire.call("begin", &json!({"kinds": ["rule"]}));
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(&node.socket())).collect();
    for wire in &mut wires {
        for _ in 0..4 {
            begin(wire).expect("four of each");
        }
        assert_eq!(begin(wire).expect_err("a fifth")["code"], -32001);
    }
    let mut late = Wire::connect(&node.socket());
    let refused = begin(&mut late).expect_err("a seventeenth");
    assert_eq!(refused["code"], -32005, "{refused}");
    wires.pop();
    podswitch_tests::eventually("there is room again", HUNG, || begin(&mut late).ok());
}

#[test]
fn a_pod_whose_link_is_down_holds_up_nobody() {
    // A pod that is frozen while frames are on their way to it must not hold up the others.
    let node = Node::new(NodeConfig::default());
    let (a, b, c) = (node.pod(), node.pod(), node.pod());
    b.netns.ip("link set eth0 down");
    let raw = RawSocket::open(&a.netns, "eth0");
    ping(&a.netns, c.v4());
    let neighbors = a.netns.ip_json("-4 neighbor show dev eth0");
    let gateway =
        podswitch_tests::frames::parse_mac(neighbors[0]["lladdr"].as_str().expect("a MAC address"));
    let ends = Ends {
        source_mac: a.mac(),
        destination_mac: gateway,
        from: a.v4(),
        to: b.v4(),
    };
    let frame = ends.udp((1, 2), 64, &[0; 1000]);
    for _ in 0..20_000 {
        raw.send(&frame);
    }
    ping(&a.netns, c.v4());
    b.netns.ip("link set eth0 up");
    b.netns.ip(&format!(
        "route replace default via {} dev eth0 onlink",
        gateway_v4(&c)
    ));
    podswitch_tests::eventually("the port works again", HUNG, || {
        podswitch_tests::traffic::ping_once(&a.netns, b.v4(), 56, 1).then_some(())
    });
    let audit = node.rpc("audit", &json!({})).expect("audit");
    assert_eq!(audit["balanced"], true, "{audit}");
}

fn gateway_v4(pod: &Pod) -> String {
    let routes = pod.netns.ip_json("-4 route show default");
    routes[0]["gateway"].as_str().expect("a gateway").to_owned()
}
