// SPDX-License-Identifier: Apache-2.0
//! What the Kubernetes texts say about one connection, read from the manifests for each connection anew.
//!
//! The texts: the reference of NetworkPolicy v1 (networking.k8s.io), the concept page about it, and the field texts of
//! ClusterNetworkPolicy v1alpha2 (policy.networking.k8s.io). Sentences in quotes are theirs.

mod cluster_policy;
mod network_policy;
mod traffic;

use std::fmt;
use std::net::IpAddr;

use crate::cluster::{Cluster, Labels, Pod};
use traffic::Traffic;

/// One end of a connection.
#[derive(Clone, PartialEq, Debug)]
pub enum Peer {
    /// A pod of the cluster network.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Which of its addresses.
        address: IpAddr,
    },
    /// Anything else with an address: outside, another node, a pod in another node's network.
    World(IpAddr),
    /// The node that the pods are on, and pods in its network.
    Node(IpAddr),
}

impl Peer {
    /// Who is behind an address.
    pub fn behind(cluster: &Cluster, address: IpAddr) -> Peer {
        if cluster.node.contains(&address) {
            return Peer::Node(address);
        }
        match cluster.owner(address) {
            Some(pod) => Peer::pod(pod, address),
            None => Peer::World(address),
        }
    }

    /// A pod, by one of its addresses.
    pub fn pod(pod: &Pod, address: IpAddr) -> Peer {
        Peer::Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            address,
        }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        match self {
            Peer::Pod { address, .. } | Peer::World(address) | Peer::Node(address) => *address,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Pod {
                namespace,
                name,
                address,
            } => write!(f, "pod {namespace}/{name} ({address})"),
            Peer::World(address) => write!(f, "{address}"),
            Peer::Node(address) => write!(f, "node ({address})"),
        }
    }
}

/// A rule of a policy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleRef {
    /// The policy: `namespace/name` of a NetworkPolicy, `name` of a ClusterNetworkPolicy.
    pub policy: String,
    /// Its place among the policy's rules of the direction.
    pub index: usize,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.policy, self.index)
    }
}

/// What one end says, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Policy has no say: this end is no pod, or the texts let it pass whatever policies say.
    Exempt(&'static str),
    /// It passes, by any of these rules.
    Accepted(Vec<RuleRef>),
    /// It is dropped, by this rule.
    Denied(RuleRef),
    /// It is dropped: these NetworkPolicies select the pod, and none of them accepts it.
    Isolated(Vec<String>),
    /// No policy says anything; it passes.
    Default,
}

impl Decision {
    /// Whether the connection passes this end.
    pub fn passes(&self) -> bool {
        !matches!(self, Decision::Denied(_) | Decision::Isolated(_))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Exempt(why) => write!(f, "passes: {why}"),
            Decision::Accepted(rules) => {
                let rules: Vec<String> = rules.iter().map(RuleRef::to_string).collect();
                write!(f, "accepted by {}", rules.join(", "))
            }
            Decision::Denied(rule) => write!(f, "denied by {rule}"),
            Decision::Isolated(policies) => write!(f, "isolated by {}", policies.join(", ")),
            Decision::Default => f.write_str("passes: no policy says anything"),
        }
    }
}

/// What both ends say to a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The source.
    pub egress: Decision,
    /// The destination.
    pub ingress: Decision,
}

impl Verdict {
    /// Whether the connection may be.
    pub fn passes(&self) -> bool {
        self.egress.passes() && self.ingress.passes()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "egress {}; ingress {}", self.egress, self.ingress)
    }
}

/// Which end of a connection a policy is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Egress,
    Ingress,
}

impl Way {
    /// The field with a policy's rules, and the field with a rule's peers.
    fn fields(self) -> (&'static str, &'static str) {
        match self {
            Way::Egress => ("egress", "to"),
            Way::Ingress => ("ingress", "from"),
        }
    }
}

/// One end as policies see it.
#[derive(Clone, Debug)]
struct Side<'a> {
    address: IpAddr,
    /// A pod that selectors can match, and the labels of its namespace.
    pod: Option<(&'a Pod, Labels)>,
}

/// What the policies of a cluster say to a connection: who asks whom, IP protocol, destination port (of protocols that
/// have ports).
pub fn allowed(
    cluster: &Cluster,
    source: &Peer,
    destination: &Peer,
    protocol: u8,
    port: u16,
) -> Verdict {
    if let Some(why) = exempt(source, destination) {
        return Verdict {
            egress: Decision::Exempt(why),
            ingress: Decision::Exempt(why),
        };
    }
    let (from, to) = (side(cluster, source), side(cluster, destination));
    let traffic = Traffic::new(protocol, port, &to);
    Verdict {
        egress: judge(cluster, Way::Egress, &from, &to, &traffic),
        ingress: judge(cluster, Way::Ingress, &to, &from, &traffic),
    }
}

fn exempt(source: &Peer, destination: &Peer) -> Option<&'static str> {
    if let (
        Peer::Pod {
            namespace, name, ..
        },
        Peer::Pod {
            namespace: other_namespace,
            name: other_name,
            ..
        },
    ) = (source, destination)
        && (namespace, name) == (other_namespace, other_name)
    {
        return Some("a pod cannot block access to itself");
    }
    match (source, destination) {
        (Peer::Node(_), _) | (_, Peer::Node(_)) => {
            Some("traffic to and from the node where a Pod is running is always allowed")
        }
        _ => None,
    }
}

fn side<'a>(cluster: &'a Cluster, peer: &Peer) -> Side<'a> {
    let mut side = Side {
        address: peer.address(),
        pod: None,
    };
    let Peer::Pod {
        namespace, name, ..
    } = peer
    else {
        return side;
    };
    let pod = cluster.pod(namespace, name);
    // "Host-networked pods are not included in this type of peer."
    if let Some(pod) = pod.filter(|pod| !pod.host_network) {
        side.pod = Some((pod, cluster.namespace_labels(namespace)));
    }
    side
}

/// Tier by tier: Admin, NetworkPolicy, Baseline; "if a given connection wasn't allowed or denied by any of the tiers, the
/// default kubernetes policy is applied, which says that all pods can communicate with each other".
fn judge(cluster: &Cluster, way: Way, subject: &Side, other: &Side, traffic: &Traffic) -> Decision {
    let Some((pod, namespace)) = &subject.pod else {
        return Decision::Exempt("no pod of the cluster network");
    };
    let subject = Subject {
        pod,
        namespace,
        way,
    };
    cluster_policy::judge(cluster, "Admin", &subject, other, traffic)
        .or_else(|| network_policy::judge(cluster, &subject, other, traffic))
        .or_else(|| cluster_policy::judge(cluster, "Baseline", &subject, other, traffic))
        .unwrap_or(Decision::Default)
}

/// The pod whose policies are asked, in one direction.
struct Subject<'a> {
    pod: &'a Pod,
    namespace: &'a Labels,
    way: Way,
}
