// SPDX-License-Identifier: Apache-2.0
//! Rows of the objects of Kubernetes.

use std::collections::BTreeMap;

use podswitch_api::object::kubernetes::{LabelSelector, Operator, PolicyTier, PolicyType};
use podswitch_api::object::{ClusterNetworkPolicy, Group, Namespace, NetworkPolicy, Pod};

use super::objects::joined;
use super::table::Table;

fn labels(labels: &BTreeMap<String, String>) -> String {
    joined(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// As kubectl writes it.
fn selector(o: &LabelSelector) -> String {
    let equal = o.match_labels.iter().map(|(k, v)| format!("{k}={v}"));
    let other = o.match_expressions.iter().map(|r| {
        let values = joined(&r.values);
        match r.operator {
            Operator::In => format!("{} in ({values})", r.key),
            Operator::NotIn => format!("{} notin ({values})", r.key),
            Operator::Exists => r.key.clone(),
            Operator::DoesNotExist => format!("!{}", r.key),
        }
    });
    match joined(equal.chain(other)) {
        all if all.is_empty() => "all".to_owned(),
        some => some,
    }
}

pub(super) fn namespace(table: &mut Table, o: &Namespace) {
    table.row([o.name.clone(), labels(&o.labels)]);
}

pub(super) fn group(table: &mut Table, o: &Group) {
    table.row([o.id.to_string(), o.namespace.clone(), labels(&o.labels)]);
}

pub(super) fn pod(table: &mut Table, o: &Pod) {
    let ports = o.ports.iter().map(|p| {
        let protocol = p.protocol.number();
        format!("{}={}/{protocol}", p.name, p.container_port)
    });
    table.row([
        o.namespace.clone(),
        o.name.clone(),
        joined(&o.addresses),
        labels(&o.labels),
        joined(ports),
    ]);
}

pub(super) fn network_policy(table: &mut Table, o: &NetworkPolicy) {
    let directions = [
        (PolicyType::Ingress, "ingress"),
        (PolicyType::Egress, "egress"),
    ];
    let isolates = directions.iter().filter(|(d, _)| o.spec.isolates(*d));
    table.row([
        o.namespace.clone(),
        o.name.clone(),
        selector(&o.spec.pod_selector),
        joined(isolates.map(|(_, name)| name)),
        o.spec.ingress.len().to_string(),
        o.spec.egress.len().to_string(),
    ]);
}

pub(super) fn cluster_policy(table: &mut Table, o: &ClusterNetworkPolicy) {
    let tier = match o.spec.tier {
        PolicyTier::Admin => "Admin",
        PolicyTier::Baseline => "Baseline",
    };
    table.row([
        tier.to_owned(),
        o.spec.priority.to_string(),
        o.name.clone(),
        o.spec.ingress.len().to_string(),
        o.spec.egress.len().to_string(),
    ]);
}
