// SPDX-License-Identifier: Apache-2.0
//! The desired state: its rules one by one, and its properties for any objects.
#![forbid(unsafe_code)]

mod arbitrary;

use podswitch_api::desired::{Bounds, DesiredState, Model, Query, check_object};
use podswitch_api::method::{Change, Filter, GetParams};
use podswitch_api::object::{Key, Kind, Object};
use podswitch_api::{ErrorCode, Limits, RpcError};
use proptest::prelude::*;
use serde_json::{Value, json};

fn object(value: Value) -> Object {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

fn set(value: Value) -> Change {
    Change::Set {
        object: object(value),
    }
}

fn delete(value: Value) -> Change {
    Change::Delete {
        key: serde_json::from_value(value).unwrap(),
    }
}

fn port(name: &str, n: u8) -> Value {
    json!({
        "kind": "port", "name": name, "device": {"kind": "veth", "interface": format!("psw{n}")},
        "mac": format!("02:00:00:00:00:{n:02x}"), "addresses": [format!("10.0.0.{n}"), format!("fd00::{n}")]
    })
}

fn l2_port(name: &str, n: u8, segment: Value) -> Value {
    json!({"kind": "port", "name": name, "device": {"kind": "veth", "interface": format!("psw{n}")}, "segment": segment})
}

fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    base.pointer_mut(parent).unwrap()[last] = value;
    base
}

fn rule(name: &str, port: &str) -> Value {
    json!({"kind": "rule", "name": name, "port": port, "direction": "ingress", "priority": 10, "action": "deny"})
}

fn model(changes: &[Change]) -> Model {
    let mut model = Model::new(Bounds::default());
    model.apply(changes).unwrap();
    model
}

#[track_caller]
fn refused(model: &mut Model, changes: &[Change], code: ErrorCode, words: &[&str]) -> RpcError {
    let (before, generation) = (model.state().clone(), model.generation());
    let error = model.apply(changes).unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    let text = error.to_string();
    words
        .iter()
        .for_each(|w| assert!(text.contains(w), "{text} lacks {w}"));
    assert!(
        error.data.as_ref().is_some_and(|d| d.hint.is_some()),
        "{error:?} has no hint"
    );
    assert_eq!(
        (model.state(), model.generation()),
        (&before, generation),
        "a refusal changed something"
    );
    error
}

#[test]
fn every_field_out_of_its_range_is_refused_by_name() {
    let segment = json!({"kind": "segment", "name": "s", "id": 5});
    let route = json!({"kind": "route", "prefix": "10.1.0.0/16", "port": "a"});
    let neighbor =
        json!({"kind": "neighbor", "port": "a", "address": "10.0.0.9", "mac": "02:00:00:00:00:09"});
    let fdb = json!({"kind": "fdb", "segment": "s", "mac": "02:00:00:00:00:09", "port": "a"});
    let rule = rule("r", "a");
    let l2 = l2_port("l", 1, json!({"name": "s"}));
    let cases = [
        (port("", 1), "name"),
        (port("a b", 1), "name"),
        (port(&"x".repeat(129), 1), "name"),
        (
            with(port("a", 1), "/device/interface", json!("a/b")),
            "device.interface",
        ),
        (
            with(port("a", 1), "/device/interface", json!("sixteen-bytes-xx")),
            "device.interface",
        ),
        (
            with(port("a", 1), "/device", json!({"kind": "memory"})),
            "device",
        ),
        (
            with(port("a", 1), "/device", json!({"kind": "pcap"})),
            "device",
        ),
        (
            with(
                port("a", 1),
                "/device",
                json!({"kind": "pcap", "replay": "in"}),
            ),
            "device.replay",
        ),
        (
            with(
                port("a", 1),
                "/device",
                json!({"kind": "pcap", "replay": "/f", "record": "/f"}),
            ),
            "device.record",
        ),
        (
            with(port("a", 1), "/mac", json!("ff:ff:ff:ff:ff:ff")),
            "mac",
        ),
        (
            with(port("a", 1), "/mac", json!("02:70:6f:64:73:77")),
            "mac",
        ),
        (with(port("a", 1), "/mac", Value::Null), "mac"),
        (
            with(port("a", 1), "/addresses", json!(["169.254.1.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["fe80::1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["127.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["0.0.0.0"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["224.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["255.255.255.255"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["::ffff:10.0.0.1"])),
            "addresses",
        ),
        (
            with(port("a", 1), "/addresses", json!(["10.0.0.1", "10.0.0.1"])),
            "addresses",
        ),
        (with(port("a", 1), "/vrf", json!(1 << 24)), "vrf"),
        (with(port("a", 1), "/mtu", json!(67)), "mtu"),
        (with(port("a", 1), "/mtu", json!(65536)), "mtu"),
        (with(port("a", 1), "/mtu", json!(1279)), "mtu"),
        (with(port("a", 1), "/worker", json!(1)), "worker"),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "", "ifname": "eth0"}),
            ),
            "pod.container_id",
        ),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "c", "ifname": ""}),
            ),
            "pod.ifname",
        ),
        (
            with(
                port("a", 1),
                "/pod",
                json!({"container_id": "c\n", "ifname": "eth0"}),
            ),
            "pod.container_id",
        ),
        (
            with(l2.clone(), "/addresses", json!(["10.0.0.1"])),
            "addresses",
        ),
        (with(l2.clone(), "/vrf", json!(1)), "vrf"),
        (
            with(l2.clone(), "/segment/vlan", json!({"access": 0})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"access": 4095})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"trunk": []})),
            "segment.vlan",
        ),
        (
            with(l2.clone(), "/segment/vlan", json!({"trunk": [2, 1]})),
            "segment.vlan",
        ),
        (
            with(l2, "/segment/vlan", json!({"trunk": [1, 1]})),
            "segment.vlan",
        ),
        (with(segment.clone(), "/id", json!(0)), "id"),
        (with(segment.clone(), "/id", json!(1 << 24)), "id"),
        (
            with(segment.clone(), "/ageing_seconds", json!(0)),
            "ageing_seconds",
        ),
        (with(segment, "/max_entries", json!(0)), "max_entries"),
        (
            with(route.clone(), "/prefix", json!("10.1.0.1/16")),
            "prefix",
        ),
        (
            with(route.clone(), "/prefix", json!("224.0.0.0/4")),
            "prefix",
        ),
        (
            with(route.clone(), "/prefix", json!("169.254.1.1/32")),
            "prefix",
        ),
        (with(route.clone(), "/port", Value::Null), "port"),
        (with(route.clone(), "/type", json!("blackhole")), "port"),
        (with(route.clone(), "/via", json!("fd00::9")), "via"),
        (with(route.clone(), "/via", json!("169.254.1.1")), "via"),
        (with(route, "/mtu", json!(20)), "mtu"),
        (
            with(neighbor.clone(), "/mac", json!("01:00:00:00:00:01")),
            "mac",
        ),
        (
            with(neighbor.clone(), "/address", json!("169.254.1.1")),
            "address",
        ),
        (with(neighbor, "/vrf", json!(1 << 24)), "vrf"),
        (with(fdb.clone(), "/mac", json!("00:00:00:00:00:00")), "mac"),
        (with(fdb, "/vlan", json!(4095)), "vlan"),
        (with(rule.clone(), "/source", json!("10.0.0.1/8")), "source"),
        (
            with(
                with(rule.clone(), "/source", json!("10.0.0.0/8")),
                "/destination",
                json!("fd00::/8"),
            ),
            "destination",
        ),
        (
            with(rule.clone(), "/ports", json!({"first": 1, "last": 2})),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/ports", json!({"first": 2, "last": 1})),
                "/protocol",
                json!("tcp"),
            ),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/ports", json!({"first": 1, "last": 1})),
                "/protocol",
                json!("icmp"),
            ),
            "ports",
        ),
        (
            with(
                with(rule.clone(), "/source", json!("fd00::/8")),
                "/protocol",
                json!("icmp"),
            ),
            "protocol",
        ),
        (
            with(
                with(rule, "/source", json!("10.0.0.0/8")),
                "/protocol",
                json!("icmpv6"),
            ),
            "protocol",
        ),
    ];
    for (value, field) in cases {
        let o = object(value.clone());
        let error = check_object(&o, &Bounds::default()).unwrap_err();
        let data = error.data.clone().unwrap();
        assert_eq!(data.field.as_deref(), Some(field), "{error} for {value}");
        assert_eq!(data.kind.as_deref(), Some(o.kind().name()));
        assert!(data.hint.is_some() && data.key.is_some(), "{error:?}");
        assert!(
            error.message.starts_with(o.kind().name()) && error.message.contains(field),
            "{error}"
        );
    }
}

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
fn get_pages_and_filters() {
    let mut changes: Vec<Change> = (1..=9).map(|n| set(port(&format!("p{n}"), n))).collect();
    changes.push(set(rule("r", "p1")));
    let m = model(&changes);
    let mut params = GetParams {
        limit: Some(4),
        ..GetParams::all(Kind::Port)
    };
    let mut seen = Vec::new();
    loop {
        let page = Query::new(&params).unwrap().run(m.state());
        let selected = Query::new(&params)
            .unwrap()
            .select(m.state().objects(Kind::Port));
        assert_eq!(page, selected);
        seen.extend(page.objects.iter().map(Object::key));
        match page.resume {
            None => break,
            resume => params.resume = resume,
        }
    }
    assert_eq!(seen, m.state().keys(Kind::Port).collect::<Vec<Key>>());
    let filter = Filter {
        address: Some("10.0.0.3".parse().unwrap()),
        ..Filter::default()
    };
    let page = Query::new(&GetParams {
        filter,
        ..GetParams::all(Kind::Port)
    })
    .unwrap()
    .run(m.state());
    assert_eq!(page.objects.len(), 1);
    let wrong = Filter {
        prefix: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::default()
    };
    for bad in [
        GetParams {
            filter: wrong,
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            limit: Some(0),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            limit: Some(1001),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            resume: Some("x".into()),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            resume: Some(r#"{"kind":"rule","name":"r"}"#.into()),
            ..GetParams::all(Kind::Port)
        },
    ] {
        assert_eq!(
            Query::new(&bad).unwrap_err().code(),
            Some(ErrorCode::InvalidParams)
        );
    }
}

/// What `apply` must come to, without an index: cascades by searching, and judgement by loading from scratch.
fn naive(state: &DesiredState, changes: &[Change]) -> Result<DesiredState, RpcError> {
    let mut state = state.clone();
    for change in changes {
        match change {
            Change::Set { object } => {
                check_object(object, &Bounds::default())?;
                state.insert(object.clone());
            }
            Change::Delete { key } => {
                state.remove(key);
                let gone = |o: &Object| match (key, o) {
                    (Key::Port { name }, Object::Neighbor(o)) => o.port == *name,
                    (Key::Port { name }, Object::Route(o)) => o.port.as_ref() == Some(name),
                    (Key::Port { name }, Object::Fdb(o)) => o.port == *name,
                    (Key::Port { name }, Object::Rule(o)) => o.port == *name,
                    (Key::Segment { name }, Object::Fdb(o)) => o.segment == *name,
                    _ => false,
                };
                let keys: Vec<Key> = state.iter().filter(gone).map(|o| o.key()).collect();
                keys.iter().for_each(|k| drop(state.remove(k)));
            }
        }
    }
    Model::load(state, 0, Bounds::default()).map(|m| m.state().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_is_written_and_read(state in arbitrary::state()) {
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<DesiredState>(&text).unwrap(), state);
    }

    #[test]
    fn differences_lead_from_one_state_to_the_other(a in arbitrary::state(), b in arbitrary::state()) {
        let delta = a.diff(&b);
        let mut patched = a.clone();
        patched.patch(&delta);
        prop_assert_eq!(&patched, &b);
        patched.patch(&delta.reversed());
        prop_assert_eq!(&patched, &a);
        prop_assert!(a.diff(&a).is_empty());
        prop_assert_eq!(delta.added() + delta.changed() + delta.removed(), delta.len() as u64);
    }

    #[test]
    fn judging_never_panics(port in arbitrary::wild_port(), object in arbitrary::object()) {
        drop(check_object(&Object::from(port.clone()), &Bounds::default()));
        drop(check_object(&object, &Bounds::default()));
        let mut model = Model::new(Bounds::default());
        drop(model.apply(&[Change::set(port), Change::Set { object }]));
    }

    #[test]
    fn transactions_equal_a_naive_model(batches in prop::collection::vec(prop::collection::vec(arbitrary::change(), 1..6), 1..20)) {
        let mut model = Model::new(Bounds::default());
        for changes in &batches {
            let before = model.state().clone();
            match (model.apply(changes), naive(&before, changes)) {
                (Ok(applied), Ok(after)) => {
                    prop_assert_eq!(model.state(), &after);
                    prop_assert_eq!(&applied.delta, &before.diff(&after));
                    model.revert(&applied);
                    prop_assert_eq!(model.state(), &before);
                    drop(model.apply(changes).unwrap());
                }
                (Err(_), Err(_)) => prop_assert_eq!(model.state(), &before),
                (ours, reference) => prop_assert!(false, "{:?}: model {:?}, reference {:?}", changes, ours, reference),
            }
        }
    }

    #[test]
    fn replacing_comes_to_the_new_state(a in arbitrary::state(), b in arbitrary::state()) {
        let mut model = Model::new(Bounds::default());
        for state in [&a, &b] {
            let before = model.state().clone();
            match (model.replace(&Kind::ALL, state), Model::load(state.clone(), 0, Bounds::default())) {
                (Ok(applied), Ok(_)) => {
                    prop_assert_eq!(model.state(), state);
                    prop_assert_eq!(applied.delta, before.diff(state));
                }
                (Err(_), Err(_)) => prop_assert_eq!(model.state(), &before),
                (ours, reference) => prop_assert!(false, "model {:?}, reference {:?}", ours, reference.map(|_| ())),
            }
        }
    }
}
