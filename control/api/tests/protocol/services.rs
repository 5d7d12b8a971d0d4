// SPDX-License-Identifier: Apache-2.0
//! Services: what they must be to one another, and services for property tests.

use std::net::IpAddr;

use podswitch_api::ErrorCode;
use podswitch_api::desired::{Bounds, Model};
use podswitch_api::object::{Backend, ExternalAddress, Protocol, Service, TrafficPolicy};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::arbitrary::pick;
use super::common::*;

/// A packet is for one service, and what a port is reached at is no service's.
#[test]
fn no_two_services_are_reached_at_one_place() {
    let at = |name: &str, address: &str, rest: Value| {
        let mut service = service(name, address);
        let fields = rest.as_object().unwrap().clone();
        service.as_object_mut().unwrap().extend(fields);
        set(service)
    };
    let outside = |address: &str| json!({"external": [{"address": address}]});
    let mut m = model(&[
        set(port("a", 1)),
        at("web", "10.96.0.1", outside("192.0.2.1")),
        at("np", "10.96.0.2", json!({"node_port": 30_000})),
    ]);
    let c = ErrorCode::Conflict;
    for (second, words, field) in [
        (
            at("x", "10.96.0.1", json!({})),
            ["service x", "10.96.0.1", "service web"],
            "addresses",
        ),
        (
            at("x", "192.0.2.1", json!({})),
            ["service x", "192.0.2.1", "service web"],
            "addresses",
        ),
        (
            at("x", "10.96.0.3", outside("192.0.2.1")),
            ["service x", "192.0.2.1", "service web"],
            "external",
        ),
        (
            at("x", "10.96.0.3", json!({"node_port": 30_000})),
            ["service x", "30000", "service np"],
            "node_port",
        ),
        (
            at("x", "10.0.0.1", json!({})),
            ["service x", "10.0.0.1", "port a"],
            "addresses",
        ),
    ] {
        let error = refused(&mut m, &[second], c, &words);
        let data = error.data.unwrap();
        assert_eq!(data.field.as_deref(), Some(field), "{data:?}");
    }
    let mut taken = port("b", 2);
    taken["addresses"] = json!(["10.96.0.1"]);
    refused(&mut m, &[set(taken.clone())], c, &["port b", "service web"]);
    // Another VRF, another protocol, another port, the other family.
    taken["vrf"] = json!(7);
    let six = json!({"node_port": 30_000, "port": 81});
    m.apply(&[
        set(taken),
        at("udp", "10.96.0.1", json!({"protocol": "udp"})),
        at("other", "10.96.0.1", json!({"port": 81})),
        at("six", "fd00::96", six),
    ])
    .unwrap();
    // Two change places in one transaction; what one leaves another may take.
    m.apply(&[
        at("web", "10.96.0.2", json!({})),
        at("np", "10.96.0.1", json!({})),
    ])
    .unwrap();
    m.apply(&[
        delete(json!({"kind": "service", "name": "np"})),
        at("x", "10.96.0.1", json!({"node_port": 30_000})),
    ])
    .unwrap();
    assert_eq!(m.state().services.len(), 5);
}

#[test]
fn backends_of_all_services_are_counted_together() {
    let backends = |n: u16| {
        let one = |i: u16| json!({"address": "10.0.0.1", "port": i});
        json!((1..=n).map(one).collect::<Vec<Value>>())
    };
    let with_backends = |name: &str, address: &str, field: &str, n: u16| {
        let mut service = service(name, address);
        service[field] = backends(n);
        set(service)
    };
    let mut bounds = Bounds::default();
    bounds.limits.service_backends = 10;
    let mut m = Model::new(bounds);
    m.apply(&[
        with_backends("a", "10.96.0.1", "backends", 6),
        with_backends("b", "10.96.0.2", "local_backends", 4),
    ])
    .unwrap();
    // Also where no object is new.
    let more = [with_backends("b", "10.96.0.2", "local_backends", 5)];
    let words = ["11 service_backends", "10"];
    refused(&mut m, &more, ErrorCode::Limit, &words);
    m.apply(&[
        with_backends("a", "10.96.0.1", "backends", 5),
        with_backends("b", "10.96.0.2", "local_backends", 5),
    ])
    .unwrap();
    assert!(m.state().check_limits(&bounds.limits).is_ok());
    bounds.limits.service_backends = 9;
    assert!(m.state().check_limits(&bounds.limits).is_err());
}

/// A service, of few addresses and ports, so that several meet.
pub(crate) fn any_service() -> BoxedStrategy<Service> {
    let name = pick(&["a", "b", "shop/web:http:ipv4"]).prop_map(str::to_owned);
    let net = |v4: bool, n: u16| match v4 {
        true => IpAddr::from([10, 96, 0, n as u8]),
        false => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 96, n]),
    };
    let protocol = pick(&[Protocol::TCP, Protocol::SCTP]);
    let traffic = || pick(&[TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let affinity = of(1u32..86_401);
    let sources = pick(&[vec![], vec!["10.0.0.0/8"]]);
    let external = of((5u16..7, sources));
    let numbers = (80u16..82, of(30_000u16..30_002));
    (
        name,
        protocol,
        any::<bool>(),
        (1u16..4, external),
        numbers,
        [traffic(), traffic()],
        affinity,
        [0u16..4, 0u16..4],
    )
        .prop_map(
            move |(
                name,
                protocol,
                v4,
                (at, external),
                (port, node_port),
                traffic,
                affinity,
                counts,
            )| {
                let [internal_traffic, external_traffic] = traffic;
                let backends = |n: u16| {
                    let one = |i| Backend {
                        address: net(v4, 100 + i),
                        port: 8080,
                    };
                    (0..n).map(one).collect()
                };
                Service {
                    name,
                    protocol,
                    port,
                    addresses: vec![net(v4, at)],
                    external: external
                        .into_iter()
                        .map(|(n, sources)| ExternalAddress {
                            address: net(v4, n),
                            sources: match v4 {
                                true => sources.iter().map(|s| s.parse().unwrap()).collect(),
                                false => vec![],
                            },
                        })
                        .collect(),
                    node_port,
                    internal_traffic,
                    external_traffic,
                    affinity_seconds: affinity,
                    backends: backends(counts[0]),
                    local_backends: backends(counts[1]),
                }
            },
        )
        .boxed()
}
