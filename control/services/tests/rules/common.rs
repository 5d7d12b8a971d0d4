// SPDX-License-Identifier: Apache-2.0
//! Services and slices in short.

use std::collections::BTreeMap;

use podswitch_api::method::Change;
use podswitch_api::object::{Key, NamespacedName, Object, Service as Made};
use podswitch_services::kubernetes::{EndpointSlice, Service};
use podswitch_services::{Event, Node, Services, Update};
use serde_json::{Value, json};

pub(crate) fn key(name: &str) -> NamespacedName {
    NamespacedName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

/// Node `n1` of zone `a`.
pub(crate) fn node() -> Node {
    Node {
        name: "n1".to_owned(),
        zone: Some("a".to_owned()),
        reserved: vec!["10.244.0.0/16".parse().unwrap()],
    }
}

/// A Service with fields of its spec.
pub(crate) fn service(name: &str, address: &str, spec: Value) -> Value {
    let mut o = json!({"metadata": {"namespace": "shop", "name": name, "creationTimestamp": "2026-11-22T08:26:04Z"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
        "status": {"loadBalancer": {}}});
    merge(&mut o["spec"], spec);
    o
}

pub(crate) fn merge(into: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().unwrap() {
        into[name] = value.clone();
    }
}

/// A slice of port 8080, named `http`.
pub(crate) fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
}

/// A ready endpoint on a node.
pub(crate) fn endpoint(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": node})
}

/// An endpoint that is about to end but still serves.
pub(crate) fn ending(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": node})
}

pub(crate) fn read_service(o: &Value) -> Service {
    serde_json::from_value(o.clone()).unwrap_or_else(|e| panic!("{e}: {o}"))
}

pub(crate) fn read_slice(o: &Value) -> EndpointSlice {
    serde_json::from_value(o.clone()).unwrap_or_else(|e| panic!("{e}: {o}"))
}

pub(crate) fn set_service(all: &mut Services, o: &Value) -> Update {
    all.apply([Event::Service(&read_service(o))])
}

pub(crate) fn set_slice(all: &mut Services, o: &Value) -> Update {
    all.apply([Event::Slice(&read_slice(o))])
}

/// All that these say, at once.
pub(crate) fn given(services: &[Value], slices: &[Value]) -> Services {
    let mut all = Services::new(node());
    let services: Vec<Service> = services.iter().map(read_service).collect();
    let slices: Vec<EndpointSlice> = slices.iter().map(read_slice).collect();
    let events = services.iter().map(Event::Service);
    all.apply(events.chain(slices.iter().map(Event::Slice)));
    all
}

pub(crate) fn objects(all: &Services) -> BTreeMap<String, Made> {
    all.objects().map(|o| (o.name.clone(), o.clone())).collect()
}

/// The object of this name.
#[track_caller]
pub(crate) fn made(all: &Services, name: &str) -> Made {
    let found = objects(all);
    let there: Vec<&String> = found.keys().collect();
    found
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {there:?}"))
        .clone()
}

/// Backends as text.
pub(crate) fn texts(backends: &[podswitch_api::object::Backend]) -> Vec<String> {
    backends.iter().map(|b| b.to_string()).collect()
}

/// Problems as text, in order.
pub(crate) fn problems(all: &Services) -> Vec<String> {
    let mut found: Vec<String> = all.problems().map(|p| p.to_string()).collect();
    found.sort();
    found
}

/// Carries changes out.
pub(crate) fn follow(objects: &mut BTreeMap<String, Made>, update: &Update) {
    for change in &update.changes {
        match change {
            Change::Set {
                object: Object::Service(o),
            } => drop(objects.insert(o.name.clone(), (**o).clone())),
            Change::Delete {
                key: Key::Service { name },
            } => assert!(objects.remove(name).is_some(), "{name} was not there"),
            other => panic!("{other:?}"),
        }
    }
}
