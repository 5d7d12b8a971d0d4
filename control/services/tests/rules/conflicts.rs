// SPDX-License-Identifier: Apache-2.0
//! Several Services want one thing.

use podswitch_services::Event;
use serde_json::json;

use super::common::*;

fn created(mut o: serde_json::Value, at: &str) -> serde_json::Value {
    o["metadata"]["creationTimestamp"] = json!(at);
    o
}

#[test]
fn the_oldest_gets_an_address_and_the_next_one_when_it_goes() {
    let want = |name: &str, own: &str| service(name, own, json!({"externalIPs": ["192.0.2.1"]}));
    let young = created(want("a", "10.96.0.1"), "2026-11-22T08:26:05Z");
    let old = want("b", "10.96.0.2");
    let same = want("c", "10.96.0.3");
    let mut all = given(&[young, same, old], &[]);
    let has = |all: &podswitch_services::Services, name: &str| {
        made(all, &format!("shop/{name}:http:ipv4")).external.len() == 1
    };
    assert_eq!(["a", "b", "c"].map(|n| has(&all, n)), [false, true, false]);
    let found = problems(&all);
    assert_eq!(
        found,
        [
            "Service shop/a: spec.externalIPs, status.loadBalancer: port 80 of 192.0.2.1, tcp, is that of Service shop/b, which goes first; it is left out",
            "Service shop/c: spec.externalIPs, status.loadBalancer: port 80 of 192.0.2.1, tcp, is that of Service shop/b, which goes first; it is left out",
        ]
    );
    // One goes: its object, and those of the next ones are different.
    let update = all.apply([Event::NoService(&key("b"))]);
    assert_eq!(update.changes.len(), 2, "{:?}", update.changes);
    assert_eq!(["a", "c"].map(|n| has(&all, n)), [false, true]);
    // An older one comes back.
    let update = set_service(&mut all, &want("b", "10.96.0.2"));
    assert_eq!(update.changes.len(), 2);
    assert_eq!(update.problems.len(), 2, "{:?}", update.problems);
    assert_eq!(["a", "b", "c"].map(|n| has(&all, n)), [false, true, false]);
}

#[test]
fn a_port_of_the_node_and_a_cluster_ip_are_one_services_too() {
    let ports =
        json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30_080}]});
    let all = given(
        &[
            service("a", "10.96.0.1", ports.clone()),
            service("b", "10.96.0.2", ports),
            service("c", "10.96.0.1", json!({})),
            service("d", "10.96.0.4", json!({"externalIPs": ["10.96.0.2"]})),
        ],
        &[],
    );
    assert_eq!(made(&all, "shop/a:http:ipv4").node_port, Some(30_080));
    assert_eq!(made(&all, "shop/b:http:ipv4").node_port, None);
    assert!(!objects(&all).contains_key("shop/c:http:ipv4"));
    assert_eq!(made(&all, "shop/d:http:ipv4").external, []);
    let found = problems(&all);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].contains("spec.ports.nodePort: port 30080 of the node"),
        "{found:#?}"
    );
}

#[test]
fn other_ports_and_protocols_of_an_address_may_be_others() {
    let shared = |port: u16, protocol: &str| json!({"externalIPs": ["192.0.2.1"], "ports": [{"name": "p", "port": port, "protocol": protocol}]});
    let all = given(
        &[
            service("a", "10.96.0.1", shared(80, "TCP")),
            service("b", "10.96.0.2", shared(81, "TCP")),
            service("c", "10.96.0.3", shared(80, "UDP")),
        ],
        &[],
    );
    assert_eq!(problems(&all), [""; 0]);
    assert!(all.objects().all(|o| o.external.len() == 1));
}

#[test]
fn long_names_are_cut_and_stay_apart() {
    let long = |end: &str| format!("{}{end}", "s".repeat(62));
    let mut one = service(&long("a"), "10.96.0.1", json!({}));
    let mut two = service(&long("b"), "10.96.0.2", json!({}));
    for o in [&mut one, &mut two] {
        o["metadata"]["namespace"] = json!("n".repeat(63));
    }
    let all = given(&[one, two], &[]);
    let names: Vec<String> = objects(&all).into_keys().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names
            .iter()
            .all(|n| n.len() <= 128 && n.ends_with(":http:ipv4")),
        "{names:?}"
    );
}
