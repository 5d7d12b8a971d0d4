// SPDX-License-Identifier: Apache-2.0
//! CHECK and STATUS: what is missing is found and named.

mod common;

use common::daemon::Fault;
use common::{Node, Pod};
use podswitch_api::method::{Change, HealthStatus, PortState};
use podswitch_api::{ErrorCode, Key};
use podswitch_host::route::Family;
use podswitch_host::{Socket, addr, link, netns, route, sysctl, tc};
use serde_json::json;

/// A rtnetlink socket in the node's namespace.
fn host(node: &Node) -> Socket {
    node.netns.socket().unwrap()
}

#[test]
fn check_finds_every_difference() {
    let node = Node::new();
    let in_pod = |pod: &Pod, what: &str| {
        let [v4, v6] = [pod.ips()[0].into(), pod.ips()[1].into()];
        pod.inside(|s| match what {
            "v4" => addr::delete(s, "eth0", v4),
            "v6" => addr::delete(s, "eth0", v6),
            "mtu" => link::set_mtu(s, "eth0", 1400),
            "mac" => link::set_mac(s, "eth0", [2, 0, 0, 0, 0, 9]),
            "down" => link::set_up(s, "eth0", false),
            "gone" => link::delete(s, "eth0"),
            "another" => link::rename(s, "eth0", "old")
                .and_then(|()| link::create(s, "eth0", "bridge").map(drop)),
            family => {
                let family = if family == "route4" {
                    Family::V4
                } else {
                    Family::V6
                };
                route::delete(s, &route::Route::default_for(family))
            }
        })
        .unwrap();
    };
    for (what, word) in [
        ("v4", "address 10."),
        ("v6", "address fd00:"),
        ("mtu", "MTU 1400"),
        ("mac", "02:00:00:00:00:09"),
        ("down", "down"),
        ("gone", "missing"),
        ("another", "other end"),
        ("route4", "0.0.0.0/0"),
        ("route6", "::/0"),
    ] {
        let pod = node.pod(what);
        node.again("CHECK", &pod).run().done();
        in_pod(&pod, what);
        node.again("CHECK", &pod).run().error(102, word);
        node.again("DEL", &pod).run().done();
    }
}

/// What CHECK says, its code, and what is done to a pod before.
type Break<'a> = (&'a str, u64, &'a dyn Fn(&Pod));

#[test]
fn check_finds_what_is_missing_on_the_node() {
    let node = Node::new();
    let forwarding = |pod: &Pod| {
        let key = sysctl::Key::ipv4_conf(&pod.host(), "forwarding").unwrap();
        let set = || sysctl::set(&key, "1").map(drop);
        node.netns.netns().run(set).unwrap().unwrap();
    };
    let port = |pod: &Pod| Change::delete(Key::Port { name: pod.host() });
    let steps: [Break<'_>; 7] = [
        ("is down", 102, &|p| {
            link::set_up(&mut host(&node), &p.host(), false).unwrap()
        }),
        ("missing", 102, &|p| {
            link::delete(&mut host(&node), &p.host()).unwrap()
        }),
        ("open", 102, &|p| {
            assert!(tc::remove_clsact(&mut host(&node), &p.host()).unwrap())
        }),
        ("open", 102, &forwarding),
        ("no port", 102, &|p| node.daemon.apply(&[port(p)])),
        ("no lease", 102, &|p| {
            let leases = node.dir.path().join("leases/net");
            std::fs::remove_file(leases.join(p.ips()[1].to_string())).unwrap();
        }),
        ("not exist", 3, &|p| {
            assert!(netns::delete(p.netns.name()).unwrap())
        }),
    ];
    for (i, (word, code, step)) in steps.into_iter().enumerate() {
        let pod = node.pod(&format!("c{i}"));
        step(&pod);
        node.again("CHECK", &pod).run().error(code, word);
        node.again("DEL", &pod).run().done();
    }
    node.assert_clean("after every DEL");
}

#[test]
fn check_asks_the_daemon() {
    let mut node = Node::new();
    let pod = node.pod("c1");
    let check = |node: &Node| node.again("CHECK", &pod).run();
    node.daemon.set_not_up(PortState::Down, 3);
    check(&node).done();
    node.daemon.set_not_up(PortState::Faulted, 1);
    check(&node).error(102, "the device failed");
    let mut port = node.daemon.ports().remove(0);
    let right = port.clone();
    port.addresses.pop();
    node.daemon.apply(&[Change::set(port.clone())]);
    check(&node).error(102, "has no address");
    port = right;
    port.mac = Some(podswitch_api::MacAddr([2, 0, 0, 0, 0, 9]));
    node.daemon.apply(&[Change::set(port)]);
    check(&node).error(102, "02:00:00:00:00:09");
    node.daemon.stop();
    check(&node).error(11, "is podswitchd running");
    let call = node.call("CHECK", "c1", pod.netns.path());
    call.run().error(7, "prevResult");
    call.with(|conf| conf["prevResult"] = json!({"ips": []}))
        .run()
        .error(102, "eth0");
}

#[test]
fn status_says_whether_an_add_could_be_served() {
    let mut node = Node::new();
    let small = |node: &Node| {
        let call = node.plain("STATUS");
        call.with(|c| c["ipam"]["ranges"] = json!([[{"subnet": "10.1.0.0/30"}]]))
            .run()
    };
    small(&node).done();
    assert_eq!(node.daemon.asked(), ["health"]);
    for health in [HealthStatus::Degraded, HealthStatus::Failing] {
        node.daemon.set_health(health);
        match health {
            HealthStatus::Failing => drop(small(&node).error(50, "worker 0: is gone")),
            _ => small(&node).done(),
        }
    }
    node.daemon.set_health(HealthStatus::Ok);
    let pod = node.pod_of("c", |c| {
        c.with(|c| c["ipam"]["ranges"] = json!([[{"subnet": "10.1.0.0/30"}]]))
    });
    small(&node).error(50, "10.1.0.0/30");
    node.again("DEL", &pod).run().done();
    small(&node).done();
    node.daemon
        .break_method("health", Fault::Refuse(ErrorCode::Internal));
    small(&node).error(50, "told to refuse");
    node.daemon.stop();
    small(&node).error(50, "is podswitchd running");
    let masq = node.plain("STATUS").with(|c| c["ipMasq"] = json!(true));
    masq.run().error(2, "ipMasq");
}
