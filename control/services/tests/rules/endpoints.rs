// SPDX-License-Identifier: Apache-2.0
//! Which endpoints serve.

use podswitch_services::Event;
use serde_json::{Value, json};

use super::common::*;

const WEB: &str = "shop/web:http:ipv4";

/// The backends of the cluster and of the node, by the last number of their addresses.
#[track_caller]
fn chosen(spec: Value, endpoints: Value) -> (Vec<u8>, Vec<u8>) {
    let all = given(
        &[service("web", "10.96.0.1", spec)],
        &[slice("web-1", "web", endpoints)],
    );
    let made = made(&all, WEB);
    let last = |all: &[podswitch_api::object::Backend]| {
        let numbers = all.iter().map(|b| match b.address {
            std::net::IpAddr::V4(a) => a.octets()[3],
            std::net::IpAddr::V6(_) => panic!("{b}"),
        });
        numbers.collect()
    };
    (last(&made.backends), last(&made.local_backends))
}

fn local() -> Value {
    json!({"internalTrafficPolicy": "Local"})
}

fn hinted(mut endpoint: Value, hints: Value) -> Value {
    endpoint["hints"] = hints;
    endpoint
}

fn zone(endpoint: Value, name: &str) -> Value {
    hinted(endpoint, json!({"forZones": [{"name": name}]}))
}

fn with_conditions(address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "conditions": conditions, "nodeName": "n1"})
}

#[test]
fn ready_endpoints_serve() {
    let endpoints = json!([
        endpoint("10.0.0.1", "n1"),
        endpoint("10.0.0.2", "n2"),
        with_conditions(
            "10.0.0.3",
            json!({"ready": false, "serving": false, "terminating": false})
        ),
        ending("10.0.0.4", "n1"),
    ]);
    assert_eq!(chosen(local(), endpoints.clone()), (vec![1, 2], vec![1]));
    // Those on this node are of no use where no policy says so.
    assert_eq!(chosen(json!({}), endpoints), (vec![1, 2], vec![]));
}

#[test]
fn conditions_that_are_not_said() {
    let endpoints = json!([
        with_conditions("10.0.0.1", json!(null)),
        with_conditions("10.0.0.2", json!({})),
        // Serving is yes, but it is not ready: it serves for want of others only.
        with_conditions("10.0.0.3", json!({"ready": false, "terminating": true})),
    ]);
    assert_eq!(chosen(json!({}), endpoints), (vec![1, 2], vec![]));
    let only = json!([with_conditions(
        "10.0.0.3",
        json!({"ready": false, "terminating": true})
    )]);
    assert_eq!(chosen(json!({}), only), (vec![3], vec![]));
    let gone = json!([with_conditions("10.0.0.3", json!({"ready": false}))]);
    assert_eq!(chosen(json!({}), gone), (vec![], vec![]));
}

/// For the cluster and for the node each by itself.
#[test]
fn endpoints_that_end_serve_for_want_of_ready_ones() {
    let here = ending("10.0.0.1", "n1");
    let both = json!([here, ending("10.0.0.2", "n2")]);
    assert_eq!(chosen(local(), both), (vec![1, 2], vec![1]));
    let other = json!([here, endpoint("10.0.0.2", "n2")]);
    assert_eq!(chosen(local(), other), (vec![2], vec![1]));
    let own = json!([here, endpoint("10.0.0.3", "n1")]);
    assert_eq!(chosen(local(), own), (vec![3], vec![3]));
}

#[test]
fn hints_for_zones_count_where_all_have_them() {
    let near = zone(endpoint("10.0.0.1", "n1"), "a");
    let far = zone(endpoint("10.0.0.2", "n2"), "b");
    assert_eq!(chosen(json!({}), json!([near, far])), (vec![1], vec![]));
    // Without one, none counts.
    let bare = endpoint("10.0.0.3", "n2");
    assert_eq!(
        chosen(json!({}), json!([near, far, bare])),
        (vec![1, 2, 3], vec![])
    );
    // One that is not ready may lack it.
    let last = ending("10.0.0.4", "n2");
    assert_eq!(
        chosen(json!({}), json!([near, far, last])),
        (vec![1], vec![])
    );
    // None is for this zone.
    let other = zone(endpoint("10.0.0.1", "n1"), "b");
    assert_eq!(chosen(json!({}), json!([other, far])), (vec![1, 2], vec![]));
    // Those on this node serve it wherever hints would have them.
    assert_eq!(
        chosen(
            local(),
            json!([other, zone(endpoint("10.0.0.5", "n2"), "a")])
        ),
        (vec![5], vec![1])
    );
}

#[test]
fn hints_for_nodes_go_before_those_for_zones() {
    let hints = |node: &str, zone: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
    let own = hinted(endpoint("10.0.0.1", "n1"), hints("n1", "a"));
    let next = hinted(endpoint("10.0.0.2", "n2"), hints("n2", "a"));
    let far = hinted(endpoint("10.0.0.3", "n3"), hints("n3", "b"));
    assert_eq!(
        chosen(json!({}), json!([own, next, far])),
        (vec![1], vec![])
    );
    assert_eq!(chosen(json!({}), json!([next, far])), (vec![2], vec![]));
    // One lacks the hint for nodes; zones count.
    let bare = zone(endpoint("10.0.0.4", "n1"), "a");
    assert_eq!(
        chosen(json!({}), json!([own, next, far, bare])),
        (vec![1, 2, 4], vec![])
    );
}

#[test]
fn a_node_without_a_zone_heeds_no_hints_for_zones() {
    let endpoints = json!([
        zone(endpoint("10.0.0.1", "n1"), "a"),
        zone(endpoint("10.0.0.2", "n2"), "b")
    ]);
    let mut all = given(
        &[service("web", "10.96.0.1", json!({}))],
        &[slice("web-1", "web", endpoints)],
    );
    assert_eq!(made(&all, WEB).backends.len(), 1);
    let mut elsewhere = node();
    elsewhere.zone = None;
    assert_eq!(all.set_node(elsewhere.clone()).changes.len(), 1);
    assert_eq!(made(&all, WEB).backends.len(), 2);
    assert!(all.set_node(elsewhere).changes.is_empty());
}

#[test]
fn an_endpoint_in_several_slices_is_one() {
    let spec = local();
    let all = given(
        &[service("web", "10.96.0.1", spec)],
        &[
            slice(
                "web-1",
                "web",
                json!([endpoint("10.0.0.1", "n2"), endpoint("10.0.0.2", "n2")]),
            ),
            // It counts as on this node, as one of them says so.
            slice(
                "web-2",
                "web",
                json!([endpoint("10.0.0.1", "n1"), endpoint("10.0.0.3", "n2")]),
            ),
        ],
    );
    let made = made(&all, WEB);
    assert_eq!(
        texts(&made.backends),
        ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    );
    assert_eq!(texts(&made.local_backends), ["10.0.0.1:8080"]);
}

#[test]
fn a_port_has_the_endpoints_of_its_name_and_protocol() {
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}, {"name": "x", "port": 9}]);
    let mut endpoints = slice("dns-1", "dns", json!([endpoint("10.0.0.1", "n1")]));
    endpoints["ports"] = json!([{"name": "dns", "protocol": "UDP", "port": 5353}, {"name": "dns-tcp", "protocol": "TCP", "port": 5354},
        {"name": "x", "protocol": "UDP", "port": 9}, {"name": "x", "protocol": "TCP"}]);
    let all = given(
        &[service("dns", "10.96.0.10", json!({"ports": ports}))],
        &[endpoints],
    );
    assert_eq!(
        texts(&made(&all, "shop/dns:dns:ipv4").backends),
        ["10.0.0.1:5353"]
    );
    assert_eq!(
        texts(&made(&all, "shop/dns:dns-tcp:ipv4").backends),
        ["10.0.0.1:5354"]
    );
    assert_eq!(made(&all, "shop/dns:x:ipv4").backends, []);
    assert_eq!(
        problems(&all),
        ["EndpointSlice shop/dns-1: ports[3]: port \"x\" has no number; the port is left out"]
    );
}

#[test]
fn what_is_no_endpoint_is_left_out_and_said() {
    let endpoints = json!([
        endpoint("10.0.0.1", "n1"), endpoint("fd00::1", "n1"), endpoint("127.0.0.1", "n1"), endpoint("169.254.0.1", "n1"),
        {"addresses": []}, endpoint("here", "n1")
    ]);
    let all = given(
        &[service("web", "10.96.0.1", json!({}))],
        &[slice("web-1", "web", endpoints)],
    );
    assert_eq!(texts(&made(&all, WEB).backends), ["10.0.0.1:8080"]);
    let found = problems(&all);
    assert_eq!(found.len(), 5, "{found:#?}");
    for (problem, words) in
        found
            .iter()
            .zip(["fd00::1", "127.0.0.1", "169.254.0.1", "\"\"", "\"here\""])
    {
        assert!(
            problem.contains(words) && problem.ends_with("left out"),
            "{problem}"
        );
    }
}

#[test]
fn a_slice_may_come_first_go_to_another_service_and_be_none_of_ours() {
    let mut all = given(
        &[],
        &[slice("s", "web", json!([endpoint("10.0.0.1", "n1")]))],
    );
    assert_eq!(all.objects().count(), 0);
    let web = service("web", "10.96.0.1", json!({}));
    assert_eq!(set_service(&mut all, &web).changes.len(), 1);
    assert_eq!(made(&all, WEB).backends.len(), 1);
    set_service(&mut all, &service("other", "10.96.0.2", json!({})));
    let moved = slice("s", "other", json!([endpoint("10.0.0.1", "n1")]));
    assert_eq!(set_slice(&mut all, &moved).changes.len(), 2);
    assert_eq!(made(&all, WEB).backends.len(), 0);
    assert_eq!(made(&all, "shop/other:http:ipv4").backends.len(), 1);
    let mut not_ours = moved.clone();
    not_ours["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    assert_eq!(set_slice(&mut all, &not_ours).changes.len(), 1);
    set_slice(&mut all, &moved);
    let mut fqdn = moved.clone();
    fqdn["addressType"] = json!("FQDN");
    assert_eq!(set_slice(&mut all, &fqdn).changes.len(), 1);
    set_slice(&mut all, &moved);
    assert_eq!(all.apply([Event::NoSlice(&key("s"))]).changes.len(), 1);
    assert!(all.apply([Event::NoSlice(&key("s"))]).changes.is_empty());
    assert_eq!(made(&all, "shop/other:http:ipv4").backends.len(), 0);
}
