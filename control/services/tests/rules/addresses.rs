// SPDX-License-Identifier: Apache-2.0
//! What a Service is reached at, and under which policies.

use podswitch_api::object::TrafficPolicy;
use podswitch_services::{Event, Health};
use serde_json::{Value, json};

use super::common::*;

const WEB: &str = "shop/web:http:ipv4";

fn balanced(spec: Value, ingress: Value) -> Value {
    let mut o = service("web", "10.96.0.1", json!({"type": "LoadBalancer"}));
    o["spec"]["ports"][0]["nodePort"] = json!(30_080);
    merge(&mut o["spec"], spec);
    o["status"]["loadBalancer"]["ingress"] = ingress;
    o
}

#[test]
fn who_is_none_of_ours() {
    let labelled = |label: &str| {
        let mut o = service("web", "10.96.0.1", json!({}));
        o["metadata"]["labels"] = json!({label: "x"});
        o
    };
    for o in [
        service("web", "None", json!({})),
        service("web", "", json!({"clusterIPs": null})),
        service("web", "10.96.0.1", json!({"type": "ExternalName"})),
        labelled("service.kubernetes.io/service-proxy-name"),
        labelled("service.kubernetes.io/headless"),
    ] {
        let all = given(std::slice::from_ref(&o), &[]);
        assert_eq!(all.objects().count(), 0, "{o}");
        assert_eq!(problems(&all), [""; 0]);
    }
}

#[test]
fn a_service_of_two_families_is_two_objects() {
    let spec = json!({"clusterIPs": ["10.96.0.1", "fd00:96::1"], "externalIPs": ["192.0.2.1", "2001:db8::1"]});
    let mut six = slice("web-6", "web", json!([endpoint("fd00::1", "n1")]));
    six["addressType"] = json!("IPv6");
    let all = given(
        &[service("web", "10.96.0.1", spec)],
        &[
            six,
            slice("web-4", "web", json!([endpoint("10.0.0.1", "n1")])),
        ],
    );
    let (v4, v6) = (made(&all, WEB), made(&all, "shop/web:http:ipv6"));
    assert_eq!(texts(&v4.backends), ["10.0.0.1:8080"]);
    assert_eq!(texts(&v6.backends), ["[fd00::1]:8080"]);
    assert_eq!(v4.external[0].address.to_string(), "192.0.2.1");
    assert_eq!(v6.external[0].address.to_string(), "2001:db8::1");
    assert_eq!(v6.addresses[0].to_string(), "fd00:96::1");
}

#[test]
fn addresses_of_another_family_than_the_services_are_left_out() {
    let spec = json!({"externalIPs": ["2001:db8::1"]});
    let all = given(&[service("web", "10.96.0.1", spec)], &[]);
    assert_eq!(made(&all, WEB).external, []);
    assert!(problems(&all)[0].contains("spec.externalIPs[0]: 2001:db8::1 is of a family"));
}

#[test]
fn a_load_balancers_addresses_are_for_whom_it_says() {
    let ranges = json!({"externalIPs": ["192.0.2.9", "192.0.2.1"], "loadBalancerSourceRanges": [" 203.0.113.7/24", "198.51.100.0/24", "2001:db8::/32"]});
    let ingress = json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "lb"}]);
    let all = given(&[balanced(ranges, ingress)], &[]);
    let made = made(&all, WEB);
    let shown: Vec<(String, Vec<String>)> = made
        .external
        .iter()
        .map(|e| {
            (
                e.address.to_string(),
                e.sources.iter().map(|s| s.to_string()).collect(),
            )
        })
        .collect();
    let sources = || vec!["198.51.100.0/24".to_owned(), "203.0.113.0/24".to_owned()];
    assert_eq!(
        shown,
        [
            ("192.0.2.1".to_owned(), sources()),
            ("192.0.2.2".to_owned(), sources()),
            ("192.0.2.9".to_owned(), vec![]),
        ]
    );
    assert_eq!(made.node_port, Some(30_080));
    assert_eq!(problems(&all), [""; 0]);
}

#[test]
fn sources_that_nobody_can_tell_let_nobody_in() {
    let ingress = json!([{"ip": "192.0.2.1"}]);
    let all = given(
        &[balanced(
            json!({"loadBalancerSourceRanges": ["anywhere"]}),
            ingress.clone(),
        )],
        &[],
    );
    assert_eq!(made(&all, WEB).external, []);
    assert!(problems(&all)[0].contains("\"anywhere\" is not a prefix; 192.0.2.1 is left out"));
    let many: Vec<String> = (0..257)
        .map(|i| format!("10.{}.{}.0/24", i / 256, i % 256))
        .collect();
    let all = given(
        &[balanced(
            json!({"loadBalancerSourceRanges": many}),
            ingress.clone(),
        )],
        &[],
    );
    assert_eq!(made(&all, WEB).external, []);
    assert!(problems(&all)[0].contains("257 are more than 256"));
    // As kube-proxy does; but it is said.
    let all = given(
        &[balanced(
            json!({"loadBalancerSourceRanges": ["fd00::/8"]}),
            ingress,
        )],
        &[],
    );
    assert_eq!(made(&all, WEB).external.len(), 1);
    assert!(problems(&all)[0].contains("everybody may use"));
}

#[test]
fn addresses_that_cannot_be_are_left_out_and_said() {
    let spec = json!({"externalIPs": ["127.0.0.1", "224.0.0.1", "fe80::1", "10.244.1.7", "010.0.0.1", "10.96.0.1", "192.0.2.1"]});
    let all = given(&[service("web", "10.96.0.1", spec)], &[]);
    let external = made(&all, WEB).external;
    assert_eq!(external.len(), 1);
    assert_eq!(external[0].address.to_string(), "192.0.2.1");
    let found = problems(&all);
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(
        found[3].contains("10.244.1.7 is in 10.244.0.0/16"),
        "{found:#?}"
    );
}

#[test]
fn policies_affinity_and_protocols() {
    let spec = json!({"type": "NodePort", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"name": "http", "port": 80, "nodePort": 30_080}, {"name": "u", "protocol": "UDP", "port": 80, "nodePort": 30_080},
            {"name": "s", "protocol": "SCTP", "port": 81}, {"name": "x", "protocol": "DCCP", "port": 82}]});
    let all = given(&[service("web", "10.96.0.1", spec)], &[]);
    let web = made(&all, WEB);
    assert_eq!(
        (web.internal_traffic, web.external_traffic),
        (TrafficPolicy::Local, TrafficPolicy::Local)
    );
    assert_eq!(
        (web.node_port, web.affinity_seconds),
        (Some(30_080), Some(60))
    );
    assert_eq!(made(&all, "shop/web:u:ipv4").protocol.to_string(), "udp");
    assert_eq!(made(&all, "shop/web:s:ipv4").protocol.to_string(), "sctp");
    assert_eq!(all.objects().count(), 3);
    assert!(problems(&all)[0].contains("spec.ports[3].protocol: protocol \"DCCP\""));
    // Without a way in from outside there is no policy for it.
    let inside = json!({"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"});
    let all = given(&[service("web", "10.96.0.1", inside)], &[]);
    let web = made(&all, WEB);
    assert_eq!(
        (web.external_traffic, web.affinity_seconds),
        (TrafficPolicy::Cluster, Some(10_800))
    );
}

#[test]
fn a_port_without_a_name() {
    let spec = json!({"ports": [{"port": 80}]});
    let mut unnamed = slice("web-1", "web", json!([endpoint("10.0.0.1", "n1")]));
    unnamed["ports"] = json!([{"name": "", "protocol": "TCP", "port": 8080}]);
    let all = given(&[service("web", "10.96.0.1", spec)], &[unnamed]);
    assert_eq!(
        texts(&made(&all, "shop/web::ipv4").backends),
        ["10.0.0.1:8080"]
    );
}

#[test]
fn a_load_balancer_is_told_of_ready_endpoints_here() {
    let spec =
        |policy: &str| json!({"externalTrafficPolicy": policy, "healthCheckNodePort": 32_000});
    let o = balanced(spec("Local"), json!([]));
    let mut six = slice("web-6", "web", json!([endpoint("fd00::1", "n1")]));
    six["addressType"] = json!("IPv6");
    let four = json!([
        endpoint("10.0.0.1", "n1"),
        endpoint("10.0.0.2", "n1"),
        ending("10.0.0.3", "n1"),
        endpoint("10.0.0.4", "n2")
    ]);
    let mut all = given(&[o], &[six, slice("web-4", "web", four)]);
    let health = Health {
        port: 32_000,
        local_ready: 2,
    };
    assert_eq!(all.health(&key("web")), Some(health));
    assert_eq!(all.health_checks().count(), 1);
    all.apply([Event::NoSlice(&key("web-4"))]);
    assert_eq!(all.health(&key("web")).unwrap().local_ready, 1);
    // Nobody asks where the policy is another one.
    set_service(&mut all, &balanced(spec("Cluster"), json!([])));
    assert_eq!(all.health(&key("web")), None);
    assert_eq!(all.health(&key("nobody")), None);
}
