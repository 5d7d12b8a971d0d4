// SPDX-License-Identifier: Apache-2.0
//! Event by event comes to the same as all at once, in any order, and all of it is what the control protocol takes.

use std::collections::BTreeMap;

use podswitch_api::desired::{Bounds, DesiredState, Model, check_object};
use podswitch_api::method::Change;
use podswitch_api::object::Object;
use podswitch_services::kubernetes::{EndpointSlice, Service};
use podswitch_services::{Event, Services};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::common::*;

/// What is said of one of a few objects: how it is now, or that it is gone.
#[derive(Clone, Debug)]
enum Said {
    Service(u8, Option<Value>),
    Slice(u8, Option<Value>),
}

fn pick(values: &[&'static str]) -> BoxedStrategy<&'static str> {
    proptest::sample::select(values.to_vec()).boxed()
}

fn a_service() -> impl Strategy<Value = Value> {
    let kind = pick(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let ips = prop_oneof![
        4 => Just(json!(["10.96.0.1"])),
        2 => Just(json!(["10.96.0.2", "fd00:96::1"])),
        1 => Just(json!(["None"])),
    ];
    let outside = vec(
        pick(&["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.244.0.1", "x"]),
        0..3,
    );
    let ingress = vec(
        (pick(&["192.0.2.1", "192.0.2.3"]), pick(&["VIP", "Proxy"])),
        0..3,
    );
    let ranges = vec(pick(&["10.0.0.0/8", "fd00::/8", "y"]), 0..3);
    let policy = || pick(&["Cluster", "Local"]);
    let port = (
        pick(&["http", "dns"]),
        pick(&["TCP", "UDP"]),
        80u16..82,
        of(30_000u16..30_002),
    );
    (
        (kind, ips, vec(port, 1..3)),
        (outside, ingress, ranges),
        (policy(), policy(), pick(&["None", "ClientIP"])),
        of(pick(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
        any::<[bool; 2]>(),
    )
        .prop_map(|((kind, ips, ports), (outside, ingress, ranges), (inside, external, affinity), created, [labelled, checked])| {
            // The API server sees to it that ports differ in their names.
            let mut named = BTreeMap::new();
            for (name, protocol, port, node) in ports {
                named.insert(name, json!({"name": name, "protocol": protocol, "port": port, "nodePort": node}));
            }
            let ingress: Vec<Value> = ingress.iter().map(|(ip, mode)| json!({"ip": ip, "ipMode": mode})).collect();
            let labels = match labelled && checked {
                true => json!({"service.kubernetes.io/service-proxy-name": "x"}),
                false => json!(null),
            };
            json!({"metadata": {"labels": labels, "creationTimestamp": created},
                "spec": {"type": kind, "clusterIP": ips[0], "clusterIPs": ips, "ports": named.into_values().collect::<Vec<Value>>(),
                    "externalIPs": outside, "loadBalancerSourceRanges": ranges, "internalTrafficPolicy": inside,
                    "externalTrafficPolicy": external, "sessionAffinity": affinity, "healthCheckNodePort": if checked { 32_000 } else { 0 }},
                "status": {"loadBalancer": {"ingress": ingress}}})
        })
}

fn a_slice() -> impl Strategy<Value = Value> {
    let address = |v4: bool, n: u8| match v4 {
        true => format!("10.0.0.{n}"),
        false => format!("fd00::{n}"),
    };
    let hints = (vec(pick(&["a", "b"]), 0..2), vec(pick(&["n1", "n2"]), 0..2));
    let endpoint = (
        0u8..4,
        of(pick(&["n1", "n2"])),
        any::<[Option<bool>; 3]>(),
        hints,
    );
    let port = (
        pick(&["http", "dns"]),
        pick(&["TCP", "UDP"]),
        of(8080u16..8082),
    );
    (0u8..4, any::<bool>(), vec(endpoint, 0..4), vec(port, 0..3)).prop_map(move |(service, v4, endpoints, ports)| {
        let names = |all: Vec<&str>| all.into_iter().map(|name| json!({"name": name})).collect::<Vec<Value>>();
        let endpoints: Vec<Value> = endpoints
            .into_iter()
            .map(|(n, node, [ready, serving, terminating], (zones, nodes))| {
                json!({"addresses": [address(v4, n)], "nodeName": node, "hints": {"forZones": names(zones), "forNodes": names(nodes)},
                    "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            })
            .collect();
        let ports: Vec<Value> = ports.into_iter().map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port})).collect();
        json!({"metadata": {"labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "addressType": if v4 { "IPv4" } else { "IPv6" }, "endpoints": endpoints, "ports": ports})
    })
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        3 => (0u8..4, of(a_service())).prop_map(|(n, o)| Said::Service(n, o)),
        4 => (0u8..5, of(a_slice())).prop_map(|(n, o)| Said::Slice(n, o)),
    ]
}

fn named(mut o: Value, name: String) -> Value {
    o["metadata"]["namespace"] = json!("shop");
    o["metadata"]["name"] = json!(name);
    o
}

/// Tells it, and what comes of it.
fn tell(all: &mut Services, said: &Said) -> podswitch_services::Update {
    match said {
        Said::Service(n, Some(o)) => set_service(all, &named(o.clone(), format!("s{n}"))),
        Said::Service(n, None) => all.apply([Event::NoService(&key(&format!("s{n}")))]),
        Said::Slice(n, Some(o)) => set_slice(all, &named(o.clone(), format!("e{n}"))),
        Said::Slice(n, None) => all.apply([Event::NoSlice(&key(&format!("e{n}")))]),
    }
}

/// All at once, as it is in the end.
fn from_scratch(events: &[Said]) -> Services {
    let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
    for said in events {
        match said {
            Said::Service(n, o) => services.insert(n, o),
            Said::Slice(n, o) => slices.insert(n, o),
        };
    }
    let read: Vec<Service> = services
        .iter()
        .filter_map(|(n, o)| Some(read_service(&named(o.as_ref()?.clone(), format!("s{n}")))))
        .collect();
    let ends: Vec<EndpointSlice> = slices
        .iter()
        .filter_map(|(n, o)| Some(read_slice(&named(o.as_ref()?.clone(), format!("e{n}")))))
        .collect();
    let mut all = Services::new(node());
    // The other way round.
    let events = ends.iter().map(Event::Slice);
    all.apply(events.chain(read.iter().rev().map(Event::Service)));
    all
}

proptest! {
    #[test]
    fn event_by_event_is_as_all_at_once(events in vec(said(), 0..40), again in vec(0usize..40, 0..5)) {
        let mut all = Services::new(node());
        let mut followed = BTreeMap::new();
        let mut model = Model::new(Bounds::default());
        for said in &events {
            let update = tell(&mut all, said);
            follow(&mut followed, &update);
            prop_assert_eq!(&followed, &objects(&all));
            // Each step is one that podswitchd takes.
            prop_assert!(model.apply(&update.changes).is_ok(), "{:?}", update.changes);
        }
        let whole = from_scratch(&events);
        prop_assert_eq!(&followed, &objects(&whole));
        prop_assert_eq!(problems(&all), problems(&whole));
        for n in 0..4 {
            prop_assert_eq!(all.health(&key(&format!("s{n}"))), whole.health(&key(&format!("s{n}"))));
        }
        // What is said again of what is so already changes nothing.
        for at in again {
            let last = events.iter().rev().nth(at);
            let is_last = |said: &Said| match said {
                Said::Service(n, _) => !events.iter().rev().take(at).any(|s| matches!(s, Said::Service(m, _) if m == n)),
                Said::Slice(n, _) => !events.iter().rev().take(at).any(|s| matches!(s, Said::Slice(m, _) if m == n)),
            };
            if let Some(said) = last.filter(|said| is_last(said)) {
                let update = tell(&mut all, said);
                prop_assert!(update.changes.is_empty() && update.problems.is_empty(), "{update:?}");
            }
        }
        for object in followed.values() {
            prop_assert!(check_object(&Object::from(object.clone()), &Bounds::default()).is_ok(), "{object:?}");
        }
        let state: DesiredState = model.state().clone();
        prop_assert_eq!(state.services, followed);
        // In the end nothing is left.
        for n in 0..5 {
            tell(&mut all, &Said::Service(n, None));
            tell(&mut all, &Said::Slice(n, None));
        }
        prop_assert_eq!(all.objects().count(), 0);
        prop_assert_eq!(problems(&all).len(), 0);
    }
}

/// Work is counted in objects that are said to be different: one slice, one Service.
#[test]
fn a_change_of_one_of_many_is_one_change() {
    let services: Vec<Value> = (0..500u32)
        .map(|n| {
            service(
                &format!("s{n}"),
                &format!("10.96.{}.{}", n / 250, n % 250 + 1),
                json!({}),
            )
        })
        .collect();
    let of = |n: u32, end: &str| {
        slice(
            &format!("e{n}"),
            &format!("s{n}"),
            json!([endpoint(&format!("10.1.0.{end}"), "n1")]),
        )
    };
    let slices: Vec<Value> = (0..500).map(|n| of(n, "1")).collect();
    let mut all = given(&services, &slices);
    assert_eq!(all.objects().count(), 500);
    let update = set_slice(&mut all, &of(77, "2"));
    let names: Vec<String> = update
        .changes
        .iter()
        .map(|c| match c {
            Change::Set { object } => object.key().short(),
            Change::Delete { key } => key.short(),
        })
        .collect();
    assert_eq!(names, ["shop/s77:http:ipv4"]);
}
