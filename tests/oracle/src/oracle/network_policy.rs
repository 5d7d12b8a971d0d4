// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy v1.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::traffic::Traffic;
use super::{Decision, RuleRef, Side, Subject, Way};
use crate::cluster::{Cluster, name};
use crate::selector::{list, matches};

/// "v1.NetworkPolicy always makes a final decision for selected pods." None if no policy selects the pod in this direction.
pub(super) fn judge(
    cluster: &Cluster,
    subject: &Subject,
    other: &Side,
    traffic: &Traffic,
) -> Option<Decision> {
    let (rules_field, peers_field) = subject.way.fields();
    let mut isolated_by = Vec::new();
    let mut accepted_by = Vec::new();
    for policy in &cluster.network_policies {
        let spec = &policy["spec"];
        let selects = policy["metadata"]["namespace"] == *subject.pod.namespace
            && matches(&spec["podSelector"], &subject.pod.labels);
        if !selects || !affects(spec, subject.way) {
            continue;
        }
        isolated_by.push(name(policy));
        for (index, rule) in list(&spec[rules_field]).iter().enumerate() {
            let peers = list(&rule[peers_field]);
            // "If this field is empty or missing, this rule matches all sources."
            let by_peer =
                peers.is_empty() || peers.iter().any(|peer| is_peer(peer, subject, other));
            let ports = list(&rule["ports"]);
            // "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)."
            let by_port = ports.is_empty() || ports.iter().any(|port| is_port(port, traffic));
            if by_peer && by_port {
                let policy = name(policy);
                accepted_by.push(RuleRef { policy, index });
            }
        }
    }
    match (isolated_by.is_empty(), accepted_by.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Decision::Isolated(isolated_by)),
        (false, false) => Some(Decision::Accepted(accepted_by)),
    }
}

/// Whether a policy is about a direction. "If this field is not specified, it will default based on the existence of ingress
/// or egress rules; policies that contain an egress section are assumed to affect egress, and all policies (whether or not they
/// contain an ingress section) are assumed to affect ingress." An empty egress section is not kept by the API server.
fn affects(spec: &Value, way: Way) -> bool {
    let types = list(&spec["policyTypes"]);
    match (types.is_empty(), way) {
        (true, Way::Ingress) => true,
        (true, Way::Egress) => !list(&spec["egress"]).is_empty(),
        (false, Way::Ingress) => types.iter().any(|t| t == "Ingress"),
        (false, Way::Egress) => types.iter().any(|t| t == "Egress"),
    }
}

/// Fields that are there.
fn fields(value: &Value) -> Vec<&str> {
    let there = value.as_object().into_iter().flatten();
    let there = there.filter(|(_, value)| !value.is_null());
    there.map(|(key, _)| key.as_str()).collect()
}

fn is_peer(peer: &Value, subject: &Subject, other: &Side) -> bool {
    let fields = fields(peer);
    const KNOWN: [&str; 3] = ["podSelector", "namespaceSelector", "ipBlock"];
    // A rule allows; with what cannot be read in it, it must not allow more than was meant.
    if fields.is_empty() || !fields.iter().all(|field| KNOWN.contains(field)) {
        return false;
    }
    if fields.contains(&"ipBlock") {
        return in_block(&peer["ipBlock"], other.address);
    }
    let Some((pod, namespace)) = &other.pod else {
        return false;
    };
    let by_namespace = match fields.contains(&"namespaceSelector") {
        true => matches(&peer["namespaceSelector"], namespace),
        // "Otherwise it selects the Pods matching PodSelector in the policy's own Namespace."
        false => pod.namespace == subject.pod.namespace,
    };
    // Without a podSelector "it selects all Pods in the Namespaces selected by NamespaceSelector".
    by_namespace && matches(&peer["podSelector"], &pod.labels)
}

/// Whether an address is in a block and in none of its exceptions.
fn in_block(block: &Value, address: IpAddr) -> bool {
    let excepted = list(&block["except"]);
    is_in(&block["cidr"], address) && !excepted.iter().any(|except| is_in(except, address))
}

/// Whether an address is in a CIDR, of which bits beyond the prefix do not matter.
pub(super) fn is_in(cidr: &Value, address: IpAddr) -> bool {
    let cidr = cidr.as_str().and_then(|text| text.parse::<IpNet>().ok());
    cidr.is_some_and(|cidr| cidr.contains(&address))
}

fn is_port(entry: &Value, traffic: &Traffic) -> bool {
    const KNOWN: [&str; 3] = ["protocol", "port", "endPort"];
    if !fields(entry).iter().all(|field| KNOWN.contains(field)) {
        return false;
    }
    // "If not specified, this field defaults to TCP."
    let protocol = entry["protocol"].as_str().unwrap_or("TCP");
    if traffic.protocol != Some(protocol) {
        return false;
    }
    match (&entry["port"], &entry["endPort"]) {
        // "If this field is not provided, this matches all port names and numbers."
        (Value::Null, _) => true,
        (Value::String(name), _) => traffic.is_to(name),
        (number, Value::Null) => traffic.is_within(number, number),
        (first, last) => traffic.is_within(first, last),
    }
}
