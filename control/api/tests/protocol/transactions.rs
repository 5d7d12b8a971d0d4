// SPDX-License-Identifier: Apache-2.0
//! What objects must be to one another, and changes as a whole.

use podswitch_api::desired::{Bounds, DesiredState, Model};
use podswitch_api::{ErrorCode, Kind, Limits};
use serde_json::{Value, json};

use super::common::*;

#[test]
fn what_an_object_refers_to_must_be_there() {
    let mut m = model(&[
        set(port("a", 1)),
        set(json!({"kind": "segment", "name": "s", "id": 5})),
    ]);
    m.apply(&[set(l2_port(
        "l",
        2,
        json!({"name": "s", "vlan": {"access": 10}}),
    ))])
    .unwrap();
    let r = ErrorCode::Refused;
    refused(&mut m, &[set(rule("r", "b"))], r, &["rule r", "no port b"]);
    refused(
        &mut m,
        &[set(
            json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "b"}),
        )],
        r,
        &["no port b"],
    );
    refused(
        &mut m,
        &[set(
            json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "l"}),
        )],
        r,
        &["L2 segment s"],
    );
    refused(
        &mut m,
        &[set(
            json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "a", "vrf": 3}),
        )],
        r,
        &["VRF 0, not 3"],
    );
    refused(
        &mut m,
        &[set(l2_port("x", 3, json!({"name": "t"})))],
        r,
        &["no segment t"],
    );
    let fdb = |port: &str, vlan: Value| json!({"kind": "fdb", "segment": "s", "mac": "02:00:00:00:00:09", "port": port, "vlan": vlan});
    refused(
        &mut m,
        &[set(fdb("a", json!(10)))],
        r,
        &["not in segment s"],
    );
    refused(&mut m, &[set(fdb("l", json!(11)))], r, &["not in VLAN 11"]);
    refused(&mut m, &[set(fdb("l", Value::Null))], r, &["not in VLAN"]);
    m.apply(&[set(fdb("l", json!(10)))]).unwrap();
    let error = refused(
        &mut m,
        &[delete(json!({"kind": "segment", "name": "s"}))],
        ErrorCode::Conflict,
        &["1 ports are in it"],
    );
    assert_eq!(error.data.unwrap().key.as_deref(), Some("s"));
    // A port that changes must still suit what refers to it.
    let moved = l2_port("l", 2, json!({"name": "s", "vlan": {"access": 11}}));
    refused(&mut m, &[set(moved)], r, &["not in VLAN 10"]);
}

#[test]
fn what_is_unique_is_refused_twice() {
    let mut m = model(&[
        set(port("a", 1)),
        set(json!({"kind": "segment", "name": "s", "id": 5})),
    ]);
    let c = ErrorCode::Conflict;
    refused(
        &mut m,
        &[set(with(port("b", 2), "/addresses", json!(["10.0.0.1"])))],
        c,
        &["10.0.0.1", "port a"],
    );
    refused(
        &mut m,
        &[set(with(port("b", 2), "/mac", json!("02:00:00:00:00:01")))],
        c,
        &["02:00:00:00:00:01", "port a"],
    );
    refused(
        &mut m,
        &[set(with(port("b", 2), "/device/interface", json!("psw1")))],
        c,
        &["psw1", "port a"],
    );
    refused(
        &mut m,
        &[set(json!({"kind": "segment", "name": "t", "id": 5}))],
        c,
        &["id 5", "segment s"],
    );
    refused(
        &mut m,
        &[set(with(port("b", 2), "/vrf", json!(5)))],
        c,
        &["VRF 5", "segment s"],
    );
    let n =
        json!({"kind": "neighbor", "port": "a", "address": "10.0.0.1", "mac": "02:00:00:00:00:09"});
    refused(&mut m, &[set(n)], c, &["an address of port a"]);
    refused(
        &mut m,
        &[set(
            json!({"kind": "route", "prefix": "10.0.0.1/32", "type": "blackhole"}),
        )],
        c,
        &["an address of port a"],
    );
    m.apply(&[set(port("b", 2))]).unwrap();
    let r = json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "b", "via": "10.0.0.1"});
    refused(&mut m, &[set(r)], c, &["behind port a"]);
    // The same address and MAC address in another VRF are another station's.
    let other = with(with(port("a", 1), "/name", json!("c")), "/vrf", json!(9));
    m.apply(&[set(with(other, "/device/interface", json!("psw3")))])
        .unwrap();
    refused(
        &mut m,
        &[set(json!({"kind": "segment", "name": "t", "id": 9}))],
        c,
        &["id 9 is a VRF in use"],
    );
}

#[test]
fn a_port_of_the_node_leads_to_one_port() {
    let to =
        |name: &str, n: u8, mapping: Value| with(port(name, n), "/host_ports", json!([mapping]));
    let web = json!({"host_port": 8080, "container_port": 80});
    let at = |ip: &str| json!({"host_ip": ip, "host_port": 8080, "container_port": 80});
    let mut m = model(&[set(to("a", 1, web.clone()))]);
    for taken in [web.clone(), at("192.0.2.1"), at("::"), at("2001:db8::1")] {
        let words = ["8080:80", "leads to port a"];
        refused(
            &mut m,
            &[set(to("b", 2, taken))],
            ErrorCode::Conflict,
            &words,
        );
    }
    // Of another protocol or VRF it is another port.
    let udp = json!({"protocol": "udp", "host_port": 8080, "container_port": 80});
    let elsewhere = with(to("c", 3, web), "/vrf", json!(9));
    m.apply(&[set(to("b", 2, udp)), set(elsewhere)]).unwrap();
    // A tunnel's is nobody else's.
    let tunnel = |udp_port: u16| {
        json!({"kind": "port", "name": "t", "mac": "02:00:00:00:00:07",
        "device": {"kind": "vxlan", "vni": 7, "udp_port": udp_port}})
    };
    let c = ErrorCode::Conflict;
    refused(
        &mut m,
        &[set(tunnel(8080))],
        c,
        &["8080", "leads to port b"],
    );
    m.apply(&[set(tunnel(4789))]).unwrap();
    let own = json!({"protocol": "udp", "host_port": 4789, "container_port": 80});
    refused(&mut m, &[set(to("b", 2, own))], c, &["4789", "tunnel t"]);
    // It goes from one to the other in one transaction.
    m.apply(&[
        set(to("b", 2, at("192.0.2.1"))),
        set(to("a", 1, at("192.0.2.2"))),
    ])
    .unwrap();
    m.apply(&[
        delete(json!({"kind": "port", "name": "a"})),
        set(to("b", 2, at("192.0.2.2"))),
    ])
    .unwrap();
}

/// Packets of a pod bear one number, and a number stands for the same pods at both ends.
#[test]
fn no_two_groups_have_the_same_pods() {
    let group = |id: u16, namespace: &str, labels: Value| {
        set(json!({"kind": "group", "id": id, "namespace": namespace, "labels": labels}))
    };
    let web = || json!({"app": "web", "tier": "front"});
    let mut m = model(&[group(7, "shop", web()), group(8, "shop", json!({}))]);
    let c = ErrorCode::Conflict;
    for (second, words) in [
        (
            group(9, "shop", web()),
            ["group 9", "app=web,tier=front", "group 7"],
        ),
        (
            group(9, "shop", json!({})),
            ["group 9", "without labels", "group 8"],
        ),
    ] {
        let error = refused(&mut m, &[second], c, &words);
        let data = error.data.unwrap();
        assert_eq!(data.key.as_deref(), Some("9"));
    }
    // Other labels and other namespaces are other pods.
    m.apply(&[
        group(9, "shop", json!({"app": "web"})),
        group(10, "mon", web()),
        group(65_535, "mon", json!({})),
    ])
    .unwrap();
    // Two change places in one transaction; a number that is set again is another group.
    m.apply(&[
        group(7, "shop", json!({"app": "web"})),
        group(9, "shop", web()),
    ])
    .unwrap();
    m.apply(&[group(7, "shop", json!({"app": "db"}))]).unwrap();
    assert_eq!(m.state().groups.len(), 5);
    m.apply(&[
        delete(json!({"kind": "group", "id": 9})),
        group(11, "shop", web()),
    ])
    .unwrap();
    let ids: Vec<u16> = m.state().groups.keys().copied().collect();
    assert_eq!(ids, [7, 8, 10, 11, 65_535]);
}

#[test]
fn a_transaction_is_judged_as_a_whole() {
    let mut m = model(&[set(port("a", 1)), set(port("b", 2))]);
    // Two ports swap addresses; neither order would do one by one.
    let a = with(port("a", 1), "/addresses", json!(["10.0.0.2"]));
    let b = with(port("b", 2), "/addresses", json!(["10.0.0.1"]));
    let applied = m.apply(&[set(a.clone()), set(b)]).unwrap();
    assert_eq!(
        (
            applied.generation,
            applied.delta.changed(),
            applied.delta.len()
        ),
        (2, 2, 2)
    );
    // A rule may come before its port.
    m.apply(&[set(rule("r", "c")), set(port("c", 3))]).unwrap();
    // One bad change undoes the good ones.
    let error = refused(
        &mut m,
        &[set(port("d", 4)), set(port("", 5))],
        ErrorCode::Refused,
        &["name"],
    );
    assert_eq!(
        error.data.unwrap().field.as_deref(),
        Some("params.changes[1].object.name")
    );
    // What is set as it was changes nothing.
    let same = m.apply(&[set(a)]).unwrap();
    assert_eq!((same.generation, same.delta.len()), (3, 0));
}

#[test]
fn a_port_takes_what_hangs_on_it_with_it() {
    let mut m = model(&[
        set(port("a", 1)),
        set(port("b", 2)),
        set(rule("r", "a")),
        set(rule("q", "b")),
        set(json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "a"})),
        set(
            json!({"kind": "neighbor", "port": "a", "address": "10.1.0.1", "mac": "02:00:00:00:00:09"}),
        ),
    ]);
    let before = m.state().clone();
    let applied = m
        .apply(&[delete(json!({"kind": "port", "name": "a"}))])
        .unwrap();
    assert_eq!((applied.delta.removed(), m.state().len()), (4, 2));
    m.revert(&applied);
    assert_eq!((m.state(), m.generation()), (&before, 1));
    // Deleting what is not there is no error, and no change.
    let nothing = m
        .apply(&[delete(json!({"kind": "port", "name": "zz"}))])
        .unwrap();
    assert_eq!((nothing.generation, nothing.delta.len()), (1, 0));
}

#[test]
fn replacing_kinds_leaves_the_others() {
    let mut m = model(&[
        set(port("a", 1)),
        set(port("b", 2)),
        set(rule("r", "a")),
        set(rule("q", "b")),
    ]);
    let new = DesiredState::try_from(vec![object(rule("q", "a")), object(rule("p", "b"))]).unwrap();
    let applied = m.replace(&[Kind::Rule], &new).unwrap();
    let d = &applied.delta;
    assert_eq!(
        (d.added(), d.changed(), d.removed(), m.state().ports.len()),
        (1, 1, 1, 2)
    );
    // A rule that is to stay does not vanish with its port: that is an error.
    let only_rules = m.replace(&Kind::ALL, &new).unwrap_err();
    assert_eq!(only_rules.code(), Some(ErrorCode::Refused), "{only_rules}");
    assert_eq!(m.state().len(), 4);
    m.replace(&Kind::ALL, &DesiredState::default()).unwrap();
    assert!(m.state().is_empty());
}

#[test]
fn limits_hold_at_the_end_of_a_transaction() {
    let limits = Limits {
        ports: 2,
        rules: 1,
        addresses_per_port: 2,
        ..Limits::MAX
    };
    let mut m = Model::new(Bounds {
        limits,
        ..Bounds::default()
    });
    m.apply(&[set(port("a", 1)), set(port("b", 2)), set(rule("r", "a"))])
        .unwrap();
    refused(
        &mut m,
        &[set(port("c", 3))],
        ErrorCode::Limit,
        &["3 ports", "limit of 2", "limits.ports"],
    );
    refused(
        &mut m,
        &[set(rule("q", "a"))],
        ErrorCode::Limit,
        &["2 rules", "limit of 1"],
    );
    refused(
        &mut m,
        &[set(with(
            port("a", 1),
            "/addresses",
            json!(["10.0.0.7", "10.0.0.8", "10.0.0.9"]),
        ))],
        ErrorCode::Limit,
        &["3"],
    );
    m.apply(&[
        set(port("c", 3)),
        delete(json!({"kind": "port", "name": "a"})),
    ])
    .unwrap();
}

#[test]
fn loading_judges_a_stored_state() {
    let state =
        DesiredState::try_from(vec![object(with(port("a", 1), "/worker", json!(7)))]).unwrap();
    let m = Model::load(state.clone(), 12, Bounds::default()).unwrap();
    assert_eq!((m.generation(), m.state()), (12, &state));
    let bad = DesiredState::try_from(vec![object(rule("r", "a"))]).unwrap();
    assert_eq!(
        Model::load(bad, 1, Bounds::default()).unwrap_err().code(),
        Some(ErrorCode::Refused)
    );
}

#[test]
fn a_port_does_not_take_the_next_hop_of_a_route_by_another_port() {
    let route = json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "a", "via": "10.0.0.2"});
    let mut m = model(&[set(port("a", 1)), set(route)]);
    refused(
        &mut m,
        &[set(port("b", 2))],
        ErrorCode::Conflict,
        &["10.0.0.2", "10.1.0.0/16"],
    );
    let gone = delete(json!({"kind": "route", "prefix": "10.1.0.0/16"}));
    m.apply(&[gone, set(port("b", 2))]).unwrap();
}
