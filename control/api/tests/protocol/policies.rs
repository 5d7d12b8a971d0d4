// SPDX-License-Identifier: Apache-2.0
//! Objects of Kubernetes: what is read, what is refused, and objects for property tests.

use std::collections::BTreeMap;

use podswitch_api::Object;
use podswitch_api::desired::{Bounds, check_object};
use podswitch_api::object::kubernetes::*;
use podswitch_api::object::{ClusterNetworkPolicy, Namespace, NetworkPolicy, Pod};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Value, json};

fn word() -> BoxedStrategy<String> {
    proptest::sample::select(vec!["a", "b", "web-0"])
        .prop_map(str::to_owned)
        .boxed()
}

fn labels() -> BoxedStrategy<BTreeMap<String, String>> {
    proptest::collection::btree_map(word(), word(), 0..3).boxed()
}

fn selector() -> BoxedStrategy<LabelSelector> {
    let requirement = (word(), any::<bool>(), vec(word(), 1..3)).prop_map(|(key, r#in, values)| {
        let operator = if r#in { Operator::In } else { Operator::NotIn };
        Requirement {
            key,
            operator,
            values,
        }
    });
    (labels(), vec(requirement, 0..2))
        .prop_map(|(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        })
        .boxed()
}

fn peer() -> BoxedStrategy<NetworkPolicyPeer> {
    let block = NetworkPolicyPeer {
        ip_block: Some(IpBlock {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        }),
        ..NetworkPolicyPeer::default()
    };
    prop_oneof![
        Just(block),
        (selector(), of(selector())).prop_map(|(pods, namespace_selector)| NetworkPolicyPeer {
            pod_selector: Some(pods),
            namespace_selector,
            ..NetworkPolicyPeer::default()
        }),
        any::<bool>().prop_map(|_| NetworkPolicyPeer {
            unknown: true,
            ..NetworkPolicyPeer::default()
        }),
    ]
    .boxed()
}

fn network_policy() -> BoxedStrategy<NetworkPolicy> {
    let port = prop_oneof![
        (1u16..9000, 0u16..9).prop_map(|(first, more)| NetworkPolicyPort {
            port: Some(PolicyPort::Number(first)),
            end_port: Some(first + more),
            ..NetworkPolicyPort::default()
        }),
        Just(NetworkPolicyPort {
            port: Some(PolicyPort::Name("http".into())),
            ..NetworkPolicyPort::default()
        }),
    ];
    let rule = (vec(peer(), 0..3), vec(port, 0..3));
    (word(), word(), selector(), vec(rule, 0..3))
        .prop_map(|(namespace, name, pod_selector, rules)| NetworkPolicy {
            namespace,
            name,
            spec: NetworkPolicySpec {
                pod_selector,
                policy_types: vec![PolicyType::Ingress, PolicyType::Egress],
                ingress: rules
                    .iter()
                    .cloned()
                    .map(|(from, ports)| IngressRule { from, ports })
                    .collect(),
                egress: rules
                    .into_iter()
                    .map(|(to, ports)| EgressRule { to, ports })
                    .collect(),
            },
        })
        .boxed()
}

fn cluster_policy() -> BoxedStrategy<ClusterNetworkPolicy> {
    (word(), 0u16..1001, selector(), selector())
        .prop_map(
            |(name, priority, subject, namespaces)| ClusterNetworkPolicy {
                name,
                spec: ClusterNetworkPolicySpec {
                    tier: PolicyTier::Admin,
                    priority,
                    subject: Subject {
                        namespaces: Some(subject),
                        pods: None,
                    },
                    ingress: vec![ClusterIngressRule {
                        name: None,
                        action: ClusterAction::Pass,
                        from: vec![ClusterIngressPeer {
                            namespaces: Some(namespaces),
                            ..ClusterIngressPeer::default()
                        }],
                        protocols: Vec::new(),
                    }],
                    egress: Vec::new(),
                },
            },
        )
        .boxed()
}

/// Any object of Kubernetes.
pub(crate) fn object() -> BoxedStrategy<Object> {
    let pod = (word(), word(), labels(), 1u8..9, any::<bool>()).prop_map(
        |(namespace, name, labels, n, host_network)| Pod {
            namespace,
            name,
            uid: None,
            labels,
            addresses: vec![[10, 0, 0, n].into()],
            ports: vec![ContainerPort {
                name: "http".into(),
                container_port: 80,
                protocol: TransportProtocol::Tcp,
            }],
            host_network,
        },
    );
    prop_oneof![
        (word(), labels()).prop_map(|(name, labels)| Namespace { name, labels }.into()),
        pod.prop_map(Object::from),
        network_policy().prop_map(Object::from),
        cluster_policy().prop_map(Object::from),
        (1u16..5, word(), labels()).prop_map(|(id, namespace, labels)| {
            Group {
                id,
                namespace,
                labels,
            }
            .into()
        }),
    ]
    .boxed()
}

/// The object, if it is one that may be.
pub(crate) fn read(value: Value) -> Result<Object, String> {
    let object = Object::read(value).map_err(|e| e.to_string())?;
    check_object(&object, &Bounds::default()).map_err(|e| e.to_string())?;
    Ok(object)
}

pub(crate) fn policy(spec: Value) -> Value {
    json!({"kind": "network_policy", "namespace": "shop", "name": "p", "spec": spec})
}

/// A policy of the tier Admin for all pods, with these fields of its spec.
pub(crate) fn cluster(spec: Value) -> Value {
    let mut whole = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"kind": "cluster_network_policy", "name": "c", "spec": whole})
}

#[test]
fn specs_are_read_as_kubernetes_writes_them() {
    let spec = json!({
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
            "ports": [{"protocol": "SCTP", "port": 80, "endPort": 90}, {"port": "http"}]}],
        "egress": [{"to": [{"namespaceSelector": {}, "podSelector": {}}]}, {}],
    });
    let Object::NetworkPolicy(read_policy) = read(policy(spec.clone())).unwrap() else {
        panic!("another kind")
    };
    assert_eq!(serde_json::to_value(&read_policy.spec).unwrap(), spec);
    assert!(read_policy.spec.isolates(PolicyType::Egress));
    let spec = json!({
        "tier": "Baseline", "priority": 1000, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}},
        "egress": [{"name": "n", "action": "Deny", "to": [{"networks": ["::/0"]}, {"nodes": {}}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}, {"udp": {"destinationPort": {"number": 53}}}, {"destinationNamedPort": "web"}]}],
    });
    let Object::ClusterNetworkPolicy(read_policy) = read(cluster(spec.clone())).unwrap() else {
        panic!("another kind")
    };
    assert_eq!(serde_json::to_value(&read_policy.spec).unwrap(), spec);
}

#[test]
fn without_types_a_policy_isolates_ingress_and_egress_if_it_speaks_of_it() {
    for (spec, egress) in [
        (json!({}), false),
        (json!({"egress": [{}]}), true),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), false),
    ] {
        let Object::NetworkPolicy(o) = read(policy(spec)).unwrap() else {
            panic!("another kind")
        };
        assert!(o.spec.isolates(PolicyType::Ingress));
        assert_eq!(o.spec.isolates(PolicyType::Egress), egress);
    }
}

#[test]
fn kinds_of_peers_that_are_not_known_are_kept_as_such() {
    let spec =
        json!({"ingress": [{"from": [{"serviceSelector": {}}], "ports": [{"portRange": "1-2"}]}]});
    let object = read(policy(spec)).unwrap();
    let Object::NetworkPolicy(o) = &object else {
        panic!("another kind")
    };
    assert!(o.spec.ingress[0].from[0].unknown && o.spec.ingress[0].ports[0].unknown);
    // Whatever it says of itself.
    let spec = json!({"ingress": [{"from": [{"unknown": false, "serviceSelector": {}, "podSelector": {}}]}]});
    let Object::NetworkPolicy(lying) = read(policy(spec)).unwrap() else {
        panic!("another kind")
    };
    assert!(lying.spec.ingress[0].from[0].unknown);
    // It stays so when it is stored and read again.
    let again = Object::read(serde_json::to_value(&object).unwrap()).unwrap();
    assert_eq!(again, object);
    let spec = json!({"ingress": [{"action": "Deny", "from": [{"planets": {}}], "protocols": [{"quic": {}}]}]});
    let Object::ClusterNetworkPolicy(o) = read(cluster(spec)).unwrap() else {
        panic!("another kind")
    };
    assert!(o.spec.ingress[0].from[0].unknown && o.spec.ingress[0].protocols[0].unknown);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let peer = |peer: Value| policy(json!({"ingress": [{"from": [peer]}]}));
    let port = |port: Value| policy(json!({"egress": [{"ports": [port]}]}));
    let rule = |peer: Value| cluster(json!({"egress": [{"action": "Deny", "to": [peer]}]}));
    for (value, wanted) in [
        (policy(json!({"podSelectors": {}})), "podSelectors"),
        (peer(json!({})), "spec.ingress[0].from[0]"),
        (
            peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            "ipBlock",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}})),
            "11.0.0.0/9",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
            "except[0] 10.0.0.0/8",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            "10.0.0.0/33",
        ),
        (
            peer(json!({"podSelector": {"matchLabels": {"a b": "c"}}})),
            "a b",
        ),
        (
            peer(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
            "values",
        ),
        (
            peer(
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
            ),
            "values",
        ),
        (
            peer(
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}}),
            ),
            "Near",
        ),
        (port(json!({"port": 0})), "port 0"),
        (port(json!({"port": "http", "endPort": 90})), "endPort"),
        (port(json!({"endPort": 90})), "endPort 90"),
        (port(json!({"port": 90, "endPort": 80})), "endPort 80"),
        (port(json!({"protocol": "ICMP"})), "ICMP"),
        (port(json!({"port": "HTTP"})), "HTTP"),
        (cluster(json!({"priority": 1001})), "1001"),
        (cluster(json!({"subject": {}})), "spec.subject"),
        (
            cluster(json!({"subject": {"namespaces": {}, "pods": {}}})),
            "spec.subject",
        ),
        (
            cluster(json!({"ingress": [{"action": "Deny", "from": []}]})),
            "spec.ingress[0].from",
        ),
        (
            rule(json!({"networks": ["::ffff:10.0.0.0/104"]})),
            "IPv4-mapped",
        ),
        (rule(json!({"networks": ["::/0"], "nodes": {}})), "one of"),
        (
            json!({"kind": "pod", "namespace": "Shop", "name": "p"}),
            "Shop",
        ),
        (
            json!({"kind": "pod", "namespace": "shop", "name": "p", "addresses": ["10.0.0.1", "10.0.0.1"]}),
            "twice",
        ),
        (
            json!({"kind": "pod", "namespace": "shop", "name": "p", "addresses": ["127.0.0.1"]}),
            "loopback",
        ),
        (
            json!({"kind": "pod", "namespace": "shop", "name": "p", "ports": [{"name": "p", "containerPort": 0}]}),
            "containerPort",
        ),
        (
            json!({"kind": "namespace", "name": "shop", "labels": {"a": "b c"}}),
            "b c",
        ),
        (json!({"kind": "namespace", "name": ""}), "not a name"),
    ] {
        let error = read(value.clone()).expect_err(&value.to_string());
        assert!(error.contains(wanted), "{error}: not about {wanted}");
    }
}
