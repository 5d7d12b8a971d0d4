// SPDX-License-Identifier: Apache-2.0
//! What stands in the place of a policy that cannot be honoured: it allows nothing that the policy could have denied. A selector that
//! is not understood selects everybody.

use podswitch_api::object::kubernetes::{
    ClusterAction, ClusterEgressPeer, ClusterEgressRule, ClusterIngressPeer, ClusterIngressRule,
    ClusterNetworkPolicySpec, NamespacedPods, NetworkPolicySpec, PolicyTier, PolicyType, Subject,
};
use podswitch_api::object::{ClusterNetworkPolicy, NamespacedName, NetworkPolicy, Object};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// In the place of a NetworkPolicy: the pods it selects are isolated in the directions it isolates, and nothing is allowed.
pub(crate) fn network_policy(name: &NamespacedName, spec: &Value) -> Object {
    let types = field::<Vec<PolicyType>>(spec, "policyTypes");
    // Without types, rules of egress make it one of egress, too (NetworkPolicySpec, networking.k8s.io/v1).
    let egress = spec.get("egress").is_some_and(|rules| !rules.is_null());
    NetworkPolicy {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        spec: NetworkPolicySpec {
            pod_selector: field(spec, "podSelector").unwrap_or_default(),
            policy_types: match types {
                Some(types) if !types.is_empty() => types,
                Some(_) if !egress => vec![PolicyType::Ingress],
                _ if !egress && spec.get("policyTypes").is_none() => vec![PolicyType::Ingress],
                _ => vec![PolicyType::Ingress, PolicyType::Egress],
            },
            ingress: Vec::new(),
            egress: Vec::new(),
        },
    }
    .into()
}

/// In the place of a ClusterNetworkPolicy: in directions in which it has a rule that may deny, everything is denied to its subject. One that
/// only accepts is left out: a policy without rules.
pub(crate) fn cluster_network_policy(name: &NamespacedName, spec: &Value) -> Object {
    let denies = |direction| match spec.get(direction) {
        None | Some(Value::Null) => false,
        Some(Value::Array(rules)) => rules.iter().any(|rule| rule["action"] != "Accept"),
        Some(_) => true,
    };
    let everybody = Subject {
        namespaces: None,
        pods: Some(NamespacedPods::default()),
    };
    let one = |s: &Subject| s.namespaces.is_some() != s.pods.is_some();
    ClusterNetworkPolicy {
        name: name.name.clone(),
        spec: ClusterNetworkPolicySpec {
            tier: field(spec, "tier").unwrap_or(PolicyTier::Admin),
            priority: field(spec, "priority").filter(|p| *p <= 1000).unwrap_or(0),
            subject: field(spec, "subject").filter(one).unwrap_or(everybody),
            ingress: Vec::from_iter(denies("ingress").then(|| ClusterIngressRule {
                name: None,
                action: ClusterAction::Deny,
                from: vec![ClusterIngressPeer {
                    unknown: true,
                    ..ClusterIngressPeer::default()
                }],
                protocols: Vec::new(),
            })),
            egress: Vec::from_iter(denies("egress").then(|| ClusterEgressRule {
                name: None,
                action: ClusterAction::Deny,
                to: vec![ClusterEgressPeer {
                    unknown: true,
                    ..ClusterEgressPeer::default()
                }],
                protocols: Vec::new(),
            })),
        },
    }
    .into()
}

/// In the place of an object that the daemon has refused; none for what is no policy. `field` is where the fault is: what has it is not
/// taken over.
pub(super) fn instead_of(object: &Object, at: &str) -> Option<Object> {
    let at = at.trim_start_matches("spec.");
    let faulty = |name: &str| at.starts_with(name);
    let spec = |spec: serde_json::Result<Value>, names: &[&str]| {
        let mut spec = spec.ok()?;
        for name in names.iter().filter(|name| faulty(name)) {
            spec.as_object_mut()?.remove(*name);
        }
        Some(spec)
    };
    match object {
        Object::NetworkPolicy(o) => {
            let spec = spec(serde_json::to_value(&o.spec), &["podSelector"])?;
            Some(network_policy(&o.key(), &spec))
        }
        Object::ClusterNetworkPolicy(o) => {
            let names = ["subject", "priority", "tier"];
            let spec = spec(serde_json::to_value(&o.spec), &names)?;
            let name = NamespacedName {
                namespace: String::new(),
                name: o.name.clone(),
            };
            Some(cluster_network_policy(&name, &spec))
        }
        _ => None,
    }
}

fn field<T: DeserializeOwned>(spec: &Value, name: &str) -> Option<T> {
    serde_json::from_value(spec.get(name)?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use podswitch_api::desired::{Bounds, check_object};
    use serde_json::json;

    use super::*;

    fn name() -> NamespacedName {
        NamespacedName {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        }
    }

    #[test]
    fn a_network_policy_isolates_whom_it_selects() {
        let spec =
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"strange": 1}]});
        let Object::NetworkPolicy(closed) = network_policy(&name(), &spec) else {
            panic!("another kind");
        };
        assert_eq!(closed.spec.pod_selector.match_labels["app"], "web");
        assert_eq!(closed.spec.policy_types, [PolicyType::Ingress]);
        assert!(closed.spec.ingress.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_everybody_and_both_directions() {
        for spec in [
            json!({"podSelector": {"strange": 1}, "policyTypes": ["Sideways"]}),
            json!({"podSelector": {"strange": 1}, "egress": []}),
        ] {
            let Object::NetworkPolicy(closed) = network_policy(&name(), &spec) else {
                panic!("another kind");
            };
            assert!(closed.spec.pod_selector.match_labels.is_empty());
            assert_eq!(closed.spec.policy_types.len(), 2, "{spec}");
        }
    }

    #[test]
    fn a_cluster_policy_denies_where_it_may_deny() {
        let spec = json!({"tier": "Baseline", "priority": 7000, "subject": {},
            "ingress": [{"action": "Accept"}], "egress": [{"action": "Accept"}, {"action": "Deny"}]});
        let closed = cluster_network_policy(&name(), &spec);
        check_object(&closed, &Bounds::default()).unwrap();
        let Object::ClusterNetworkPolicy(closed) = closed else {
            panic!("another kind");
        };
        assert_eq!(closed.spec.tier, PolicyTier::Baseline);
        assert!(closed.spec.ingress.is_empty());
        assert_eq!(closed.spec.egress.len(), 1);
    }

    #[test]
    fn a_faulty_selector_is_not_taken_over() {
        let spec = json!({"podSelector": {"matchLabels": {"": "web"}}, "egress": [{}]});
        let policy = NetworkPolicy {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        let refusal = check_object(&policy.clone().into(), &Bounds::default()).unwrap_err();
        let field = refusal.data.and_then(|d| d.field).unwrap_or_default();
        let closed = instead_of(&policy.into(), &field).unwrap();
        check_object(&closed, &Bounds::default()).unwrap();
    }
}
