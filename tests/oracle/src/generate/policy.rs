// SPDX-License-Identifier: Apache-2.0
//! Policies, as manifests that an API server would take.

use serde_json::{Map, Value, json};

use super::Rng;
use super::address::{cidr, excepts};
use super::cluster::{NAMESPACE_KEYS, NAMESPACES, POD_KEYS, PORT_NAMES, PORTS, PROTOCOLS, VALUES};
use crate::cluster::NAMESPACE_NAME;

/// A NetworkPolicy.
pub(super) fn network_policy(rng: &mut Rng, namespace: &str, name: &str) -> Value {
    let mut spec = Map::new();
    spec.insert("podSelector".into(), selector(rng, &POD_KEYS, 40));
    let types: &[Value] = &[
        Value::Null,
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
        json!(["Egress", "Ingress"]),
    ];
    put(&mut spec, "policyTypes", rng.one(types).clone());
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = match rng.below(10) {
            0 | 1 => Value::Null,
            2 => json!([]),
            3 => json!([{}]),
            _ => (0..rng.within(1, 3)).map(|_| rule(rng, peers)).collect(),
        };
        put(&mut spec, field, rules);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

/// A field, unless it is to be absent.
fn put(into: &mut Map<String, Value>, field: &str, value: Value) {
    if !value.is_null() {
        into.insert(field.into(), value);
    }
}

fn rule(rng: &mut Rng, peers_field: &str) -> Value {
    let mut rule = Map::new();
    let peers = match rng.below(10) {
        0 => Value::Null,
        1 => json!([]),
        _ => (0..rng.within(1, 3)).map(|_| peer(rng)).collect(),
    };
    put(&mut rule, peers_field, peers);
    let ports = match rng.below(10) {
        0..=2 => Value::Null,
        3 => json!([]),
        _ => (0..rng.within(1, 3)).map(|_| port(rng)).collect(),
    };
    put(&mut rule, "ports", ports);
    Value::Object(rule)
}

fn peer(rng: &mut Rng) -> Value {
    let pods = selector(rng, &POD_KEYS, 25);
    let namespaces = namespace_selector(rng);
    match rng.below(24) {
        0..=5 => json!({ "podSelector": pods }),
        6..=9 => json!({ "namespaceSelector": namespaces }),
        10..=14 => json!({ "podSelector": pods, "namespaceSelector": namespaces }),
        15..=18 => json!({ "ipBlock": { "cidr": cidr(rng) } }),
        19..=22 => {
            let cidr = cidr(rng);
            json!({ "ipBlock": { "cidr": cidr, "except": excepts(rng, cidr) } })
        }
        // What a later version of Kubernetes may have.
        _ => match rng.percent(50) {
            true => json!({ "serviceSelector": pods }),
            false => json!({ "podSelector": pods, "nodeSelector": namespaces }),
        },
    }
}

fn port(rng: &mut Rng) -> Value {
    let mut port = Map::new();
    if rng.percent(70) {
        port.insert("protocol".into(), json!(rng.pick(&PROTOCOLS)));
    }
    match rng.below(12) {
        0..=4 => put(&mut port, "port", json!(rng.pick(&PORTS))),
        5..=7 => put(&mut port, "port", json!(rng.pick(&PORT_NAMES))),
        8..=10 => {
            let first = rng.pick(&PORTS);
            let last = first.saturating_add(rng.pick(&[0, 1, 10, 9000]));
            put(&mut port, "port", json!(first));
            put(&mut port, "endPort", json!(last));
        }
        _ => {}
    }
    if rng.percent(3) {
        port.insert("sourcePort".into(), json!(80));
    }
    Value::Object(port)
}

/// A selector, in so many of a hundred cases an empty one.
fn selector(rng: &mut Rng, keys: &[&str], empty: usize) -> Value {
    if rng.percent(empty) {
        return json!({});
    }
    let mut selector = Map::new();
    if rng.percent(60) {
        let mut labels = Map::new();
        for _ in 0..rng.within(1, 2) {
            let key = rng.pick(keys).to_owned();
            labels.insert(key, json!(rng.pick(&VALUES)));
        }
        selector.insert("matchLabels".into(), labels.into());
    }
    if selector.is_empty() || rng.percent(30) {
        let some = 0..rng.within(1, 2);
        let expressions = some.map(|_| expression(rng, keys, &VALUES)).collect();
        selector.insert("matchExpressions".into(), expressions);
    }
    Value::Object(selector)
}

fn expression(rng: &mut Rng, keys: &[&str], values: &[&str]) -> Value {
    let key = rng.pick(keys);
    match rng.pick(&["In", "NotIn", "Exists", "DoesNotExist"]) {
        operator @ ("In" | "NotIn") => {
            let some = 0..rng.within(1, 3);
            let values: Value = some.map(|_| rng.pick(values)).collect();
            json!({ "key": key, "operator": operator, "values": values })
        }
        operator => json!({ "key": key, "operator": operator }),
    }
}

/// A selector of namespaces, sometimes by their names.
fn namespace_selector(rng: &mut Rng) -> Value {
    match rng.below(6) {
        0 => json!({ "matchLabels": { NAMESPACE_NAME: rng.pick(&NAMESPACES) } }),
        1 => json!({ "matchExpressions": [expression(rng, &[NAMESPACE_NAME], &NAMESPACES)] }),
        _ => selector(rng, &NAMESPACE_KEYS, 25),
    }
}

/// A ClusterNetworkPolicy.
pub(super) fn cluster_policy(rng: &mut Rng, name: &str) -> Value {
    let subject = match rng.percent(50) {
        true => json!({ "namespaces": namespace_selector(rng) }),
        false => json!({ "pods": pods(rng) }),
    };
    let mut spec = Map::new();
    spec.insert("tier".into(), json!(rng.pick(&["Admin", "Baseline"])));
    spec.insert("priority".into(), json!(rng.pick(&[0, 1, 1, 1000])));
    spec.insert("subject".into(), subject);
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = match rng.below(4) {
            0 => Value::Null,
            _ => (0..rng.within(0, 4))
                .map(|_| cluster_rule(rng, peers))
                .collect(),
        };
        put(&mut spec, field, rules);
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "spec": spec,
    })
}

fn cluster_rule(rng: &mut Rng, peers_field: &str) -> Value {
    let action = rng.pick(&["Accept", "Deny", "Pass"]);
    let mut rule = Map::new();
    rule.insert("action".into(), json!(action));
    if rng.percent(30) {
        rule.insert("name".into(), json!(format!("rule {}", rng.below(3))));
    }
    let some = 0..rng.within(1, 3);
    let peers: Vec<Value> = some
        .map(|_| cluster_peer(rng, action, peers_field))
        .collect();
    // "There are no namedPorts for networks/nodes/domainNames."
    let nameless = |peer: &Value| {
        ["networks", "nodes", "domainNames"]
            .iter()
            .any(|f| !peer[f].is_null())
    };
    let named = !peers.iter().any(nameless);
    rule.insert(peers_field.into(), peers.into());
    if rng.percent(50) {
        let some = 0..rng.within(1, 3);
        let protocols: Value = some.map(|_| cluster_protocol(rng, named)).collect();
        rule.insert("protocols".into(), protocols);
    }
    Value::Object(rule)
}

fn pods(rng: &mut Rng) -> Value {
    let pods = selector(rng, &POD_KEYS, 25);
    match rng.percent(80) {
        true => json!({ "podSelector": pods, "namespaceSelector": namespace_selector(rng) }),
        false => json!({ "podSelector": pods }),
    }
}

fn cluster_peer(rng: &mut Rng, action: &str, field: &str) -> Value {
    match rng.below(20) {
        0..=6 => json!({ "namespaces": namespace_selector(rng) }),
        7..=13 => json!({ "pods": pods(rng) }),
        14..=18 if field == "to" => {
            let some = 0..rng.within(1, 3);
            let cidrs: Value = some.map(|_| json!(cidr(rng))).collect();
            json!({ "networks": cidrs })
        }
        14..=18 => json!({ "namespaces": namespace_selector(rng) }),
        // What is not known is rare: it denies everything, or nothing.
        _ => match rng.below(8) {
            0 => json!({ "services": {} }),
            1 => json!({}),
            2 if field == "to" => json!({ "nodes": {} }),
            3 if field == "to" && action == "Accept" => json!({ "domainNames": ["*.example.org"] }),
            _ => json!({ "namespaces": {} }),
        },
    }
}

fn cluster_protocol(rng: &mut Rng, named: bool) -> Value {
    let protocol = rng.pick(&["tcp", "udp", "sctp"]);
    let first = rng.pick(&PORTS);
    match rng.below(10) {
        0..=2 if named => json!({ "destinationNamedPort": rng.pick(&PORT_NAMES) }),
        3..=5 if first < 60_000 => {
            let last = first + rng.pick(&[1, 10, 5000]);
            json!({ protocol: { "destinationPort": { "range": { "start": first, "end": last } } } })
        }
        6 if rng.percent(20) => {
            let strange = [
                json!({ "icmp": { "type": 8 } }),
                json!({}),
                json!({ protocol: {} }),
            ];
            rng.one(&strange).clone()
        }
        _ => json!({ protocol: { "destinationPort": { "number": first } } }),
    }
}
