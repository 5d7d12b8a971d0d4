// SPDX-License-Identifier: Apache-2.0
//! ClusterNetworkPolicy v1alpha2.

use serde_json::Value;

use super::network_policy::is_in;
use super::traffic::Traffic;
use super::{Decision, RuleRef, Side, Subject};
use crate::cluster::{Cluster, Labels, name};
use crate::selector::{list, matches};

/// The first rule that matches decides: "policies with lower priority values have higher precedence", and "a rule that appears
/// at the top" of a policy "would take the highest precedence". Among policies of one priority "the implementation can apply
/// any"; podswitch takes them by name. None if nothing matches or the rule says Pass, which "skips all further
/// ClusterNetworkPolicy rules in the current tier".
pub(super) fn judge(
    cluster: &Cluster,
    tier: &str,
    subject: &Subject,
    other: &Side,
    traffic: &Traffic,
) -> Option<Decision> {
    let mut policies: Vec<&Value> = cluster.cluster_policies.iter().collect();
    policies.retain(|p| p["spec"]["tier"] == tier && is_subject(&p["spec"]["subject"], subject));
    policies.sort_by_key(|p| (p["spec"]["priority"].as_u64(), name(p)));
    let (rules_field, peers_field) = subject.way.fields();
    for policy in policies {
        for (index, rule) in list(&policy["spec"][rules_field]).iter().enumerate() {
            let policy = name(policy);
            match says(rule, peers_field, other, traffic) {
                Some("Accept") => return Some(Decision::Accepted(vec![RuleRef { policy, index }])),
                Some("Deny") => return Some(Decision::Denied(RuleRef { policy, index })),
                Some("Pass") => return None,
                _ => {}
            }
        }
    }
    None
}

fn is_subject(selector: &Value, subject: &Subject) -> bool {
    match (&selector["namespaces"], &selector["pods"]) {
        (Value::Null, Value::Null) => false,
        (Value::Null, pods) => is_pod(pods, &subject.pod.labels, subject.namespace),
        (namespaces, _) => matches(namespaces, subject.namespace),
    }
}

fn is_pod(pods: &Value, pod: &Labels, namespace: &Labels) -> bool {
    matches(&pods["namespaceSelector"], namespace) && matches(&pods["podSelector"], pod)
}

/// What a rule says to a connection, if it is for it.
fn says<'a>(rule: &'a Value, peers: &str, other: &Side, traffic: &Traffic) -> Option<&'a str> {
    let action = rule["action"].as_str()?;
    let by_peer: Vec<Option<bool>> = (list(&rule[peers]).iter())
        .map(|peer| is_peer(peer, peers, other))
        .collect();
    let by_protocol: Vec<Option<bool>> = (list(&rule["protocols"]).iter())
        .map(|protocol| is_protocol(protocol, traffic))
        .collect();
    // "For 'Accept' rules, 'fail closed' means: 'treat the rule as matching no traffic'. For 'Deny' and 'Pass' rules,
    // 'fail closed' means: 'treat the rule as a Deny all rule'." It is said of peers; protocols are taken alike.
    if by_peer.contains(&None) || by_protocol.contains(&None) {
        return (action != "Accept").then_some("Deny");
    }
    let matches = by_peer.contains(&Some(true))
        && (by_protocol.is_empty() || by_protocol.contains(&Some(true)));
    matches.then_some(action)
}

/// The one field of an object that must have one.
fn only_field(value: &Value) -> Option<(&str, &Value)> {
    let mut fields = value.as_object()?.iter();
    match (fields.next(), fields.next()) {
        (Some((key, value)), None) => Some((key.as_str(), value)),
        _ => None,
    }
}

/// Whether the other end is this peer; `None` if podswitch does not know what the peer means.
fn is_peer(peer: &Value, peers: &str, other: &Side) -> Option<bool> {
    match only_field(peer)? {
        ("namespaces", selector) => {
            let pod = other.pod.as_ref();
            Some(pod.is_some_and(|(_, namespace)| matches(selector, namespace)))
        }
        ("pods", pods) => {
            let pod = other.pod.as_ref();
            Some(pod.is_some_and(|(pod, namespace)| is_pod(pods, &pod.labels, namespace)))
        }
        // Peers of ingress have no such field.
        ("networks", cidrs) if peers == "to" => {
            Some(list(cidrs).iter().any(|cidr| is_in(cidr, other.address)))
        }
        _ => None,
    }
}

/// Whether it is this protocol and port; `None` if podswitch does not know what the entry means.
fn is_protocol(entry: &Value, traffic: &Traffic) -> Option<bool> {
    let (kind, of) = only_field(entry)?;
    let protocol = match kind {
        "destinationNamedPort" => return Some(traffic.is_to(of.as_str()?)),
        "tcp" => "TCP",
        "udp" => "UDP",
        "sctp" => "SCTP",
        _ => return None,
    };
    let ("destinationPort", port) = only_field(of)? else {
        return None;
    };
    let within = match only_field(port)? {
        ("number", number) => traffic.is_within(number, number),
        ("range", range) => traffic.is_within(&range["start"], &range["end"]),
        _ => return None,
    };
    Some(traffic.protocol == Some(protocol) && within)
}
