// SPDX-License-Identifier: Apache-2.0
//! Objects of Kubernetes are taken and refused as the API server takes and refuses them, and refused by the very field.

use jsonschema::Validator;
use podswitch_api::desired::{Bounds, check_object};
use podswitch_api::rpc::parse_request;
use podswitch_api::{Object, schema};
use serde_json::{Value, json};

use super::policies::{cluster, policy, read};
use super::strict::objects;

fn x(times: usize) -> String {
    "x".repeat(times)
}

fn namespace(name: &str) -> Value {
    json!({"kind": "namespace", "name": name})
}

fn labelled(key: &str, value: &str) -> Value {
    json!({"kind": "namespace", "name": "shop", "labels": {key: value}})
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({"kind": "pod", "namespace": namespace, "name": name})
}

fn pod_port(name: &str) -> Value {
    json!({"kind": "pod", "namespace": "shop", "name": "web",
        "ports": [{"name": "http", "containerPort": 1}, {"name": name, "containerPort": 80}]})
}

fn ingress(rule: Value) -> Value {
    policy(json!({"ingress": [rule]}))
}

/// A rule for what goes out to two peers, the second of which is given.
fn to(action: &str, peer: Value) -> Value {
    cluster(json!({"egress": [{"action": action, "to": [{"namespaces": {}}, peer]}]}))
}

/// A rule for two protocols, the second of which is given.
fn protocol(protocol: Value) -> Value {
    let first = json!({"tcp": {"destinationPort": {"number": 80}}});
    cluster(
        json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [first, protocol]}]}),
    )
}

fn range(start: u16, end: u16) -> Value {
    protocol(json!({"udp": {"destinationPort": {"range": {"start": start, "end": end}}}}))
}

fn named(rule: &str) -> Value {
    cluster(json!({"ingress": [{"name": rule, "action": "Deny", "from": [{"namespaces": {}}]}]}))
}

/// Refused for what is wrong in this field.
#[track_caller]
fn refused(value: Value, field: &str) {
    let object = Object::read(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
    let error = check_object(&object, &Bounds::default()).expect_err(&value.to_string());
    let data = error.data.clone().unwrap();
    assert_eq!(data.field.as_deref(), Some(field), "{error}");
    assert!(error.message.contains(field), "{error}");
}

#[test]
fn names_and_labels_are_as_long_as_they_may_be() {
    for good in [
        namespace(&x(63)),
        namespace("0-a"),
        pod(&x(63), &x(253)),
        pod("a", "a.0-b.c"),
        labelled(&x(63), &x(63)),
        labelled(&format!("{}/{}", x(253), x(63)), ""),
        labelled("example.com/A_b.c-D", "A_b.c-D"),
        pod_port(&x(15)),
        pod_port("8-a-0"),
        named(&"ß".repeat(100)),
    ] {
        read(good.clone()).unwrap_or_else(|e| panic!("{e}: {good}"));
    }
    for bad in [&x(64), "a.b", "a-", "-a", "A", "a_b", ""] {
        refused(namespace(bad), "name");
        refused(pod(bad, "a"), "namespace");
    }
    for bad in [&x(254), "a..b", "a.", ".a", "a-.b", "a.-b", "A", "a_b", ""] {
        refused(pod("a", bad), "name");
    }
    let long = [x(64), format!("{}/a", x(254)), format!("a/{}", x(64))];
    let odd = [
        "/a", "a/", "a/b/c", "A/a", "a_b/a", "a..b/a", "-a", "a-", "",
    ];
    for bad in long.iter().map(String::as_str).chain(odd) {
        refused(labelled(bad, ""), "labels");
    }
    for bad in [&x(64), "-", "a b", "_a"] {
        refused(labelled("app", bad), "labels.app");
    }
    for bad in [&x(16), "a--b", "-a", "a-", "80", "A", "a_b", ""] {
        refused(pod_port(bad), "ports[1].name");
        refused(
            ingress(json!({"ports": [{"port": bad}]})),
            "spec.ingress[0].ports[0].port",
        );
    }
    refused(named(&x(101)), "spec.ingress[0].name");
}

#[test]
fn what_the_api_server_lets_in_is_taken() {
    for good in [
        policy(json!({"policyTypes": ["Egress", "Egress"]})),
        ingress(json!({"ports": [{"port": 80, "endPort": 80}]})),
        ingress(json!({"from": [{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.9.9/9"]}}]})),
        // A name is whatever a pod may have, and more.
        protocol(json!({"destinationNamedPort": "No such Port!"})),
        protocol(json!({"destinationNamedPort": x(300)})),
        range(1, 2),
        to("Deny", json!({"domainNames": ["example.com"]})),
        to("Pass", json!({"nodes": {}})),
        // Whoever sent these knew no field that was there.
        to("Accept", json!({})),
        cluster(json!({"ingress": [{"action": "Deny", "from": [{}]}]})),
        protocol(json!({})),
        protocol(json!({"tcp": {}})),
        protocol(json!({"sctp": {"destinationPort": {}}})),
    ] {
        let object = read(good.clone()).unwrap_or_else(|e| panic!("{e}: {good}"));
        let again = Object::read(serde_json::to_value(&object).unwrap());
        assert_eq!(again, Ok(object));
    }
}

#[test]
fn what_the_api_server_keeps_out_is_refused_by_its_field() {
    let values = json!([{"key": "a", "operator": "In", "values": ["b", "c d"]}]);
    for (bad, field) in [
        (
            ingress(
                json!({"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]}),
            ),
            "spec.ingress[0].from[1].ipBlock.except[0]",
        ),
        (
            ingress(
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "::/0"]}}]}),
            ),
            "spec.ingress[0].from[0].ipBlock.except[1]",
        ),
        (
            policy(json!({"podSelector": {"matchExpressions": values}})),
            "spec.podSelector.matchExpressions[0].values[1]",
        ),
        (
            policy(json!({"policyTypes": ["Egress", "Egress", "Ingress"]})),
            "spec.policyTypes",
        ),
        (ingress(json!({"from": [{}]})), "spec.ingress[0].from[0]"),
        (
            to(
                "Accept",
                json!({"networks": ["10.0.0.0/8", "::ffff:10.0.0.0/104"]}),
            ),
            "spec.egress[0].to[1].networks[1]",
        ),
        (
            to("Accept", json!({"networks": []})),
            "spec.egress[0].to[1].networks",
        ),
        (
            to("Accept", json!({"domainNames": []})),
            "spec.egress[0].to[1].domainNames",
        ),
        (
            to("Deny", json!({"namespaces": {}, "nodes": {}})),
            "spec.egress[0].to[1]",
        ),
        (
            range(80, 80),
            "spec.ingress[0].protocols[1].udp.destinationPort.range.end",
        ),
        (
            protocol(json!({"tcp": {"destinationPort": {"number": 0}}})),
            "spec.ingress[0].protocols[1].tcp.destinationPort.number",
        ),
        (
            json!({"kind": "pod", "namespace": "a", "name": "a", "addresses": ["10.0.0.1", "::1"]}),
            "addresses[1]",
        ),
    ] {
        refused(bad, field);
    }
    let error = read(to("Deny", json!({"pods": {}}))).unwrap_err();
    assert!(error.contains("podSelector"), "{error}");
}

/// The objects, by their path, that may have a field which nobody knows: to the reader, and to the schema.
fn open(request: &Value, schema: &Validator) -> (Vec<String>, Vec<String>) {
    let mut all = Vec::new();
    objects(request, "", "", &mut all);
    let (mut read, mut valid) = (Vec::new(), Vec::new());
    for (pointer, path) in all {
        let mut strange = request.clone();
        strange.pointer_mut(&pointer).unwrap()["strange"] = json!("x");
        if parse_request(strange.to_string().as_bytes()).is_ok() {
            read.push(path.clone());
        }
        if schema.is_valid(&strange) {
            valid.push(path);
        }
    }
    (read, valid)
}

#[test]
fn the_schema_allows_unknown_fields_where_the_reader_does() {
    let port = json!({"tcp": {"destinationPort": {"range": {"start": 1, "end": 2}}}});
    let pods = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {}}}});
    let objects = [
        policy(
            json!({"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "::/0"}}], "ports": [{"port": 1}]}]}),
        ),
        cluster(
            json!({"ingress": [{"action": "Deny", "from": [pods], "protocols": [port]}],
            "egress": [{"action": "Deny", "to": [{"networks": ["::/0"]}]}]}),
        ),
    ];
    let changes = objects.map(|object| json!({"op": "set", "object": object}));
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": "apply", "params": {"changes": changes}});
    let schema = jsonschema::validator_for(&schema::definition("request_apply")).unwrap();
    assert!(schema.is_valid(&request));
    let (read, valid) = open(&request, &schema);
    assert_eq!(read, valid);
    let of = |change: usize, place: &str| format!(".params.changes[{change}].object.spec.{place}");
    let wanted = [
        of(0, "egress[0].ports[0]"),
        of(0, "egress[0].to[0]"),
        of(0, "ingress[0].from[0]"),
        of(1, "egress[0].to[0]"),
        of(1, "ingress[0].from[0]"),
        // A label.
        of(1, "ingress[0].from[0].pods.podSelector.matchLabels"),
        of(1, "ingress[0].protocols[0]"),
    ];
    assert_eq!(read, wanted);
}
