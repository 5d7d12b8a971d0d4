// SPDX-License-Identifier: Apache-2.0
//! What comes out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podswitch_api::object::NamespacedName;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u32);

        impl From<u32> for $name {
            fn from(n: u32) -> $name {
                $name(n)
            }
        }
    };
}

id!(
    /// Who a peer is, as far as policies can tell. Dense; free numbers are used again.
    IdentityId
);
id!(
    /// The selectors in use that an identity matches. Dense; free numbers are used again.
    ClassId
);
id!(
    /// The ipBlocks in use that an address is in. Dense; free numbers are used again.
    CidrClassId
);
id!(
    /// A rule of a policy in one direction. Dense; free numbers are used again.
    RuleId
);

/// Which way connections pass a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// Which rules are looked at first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// ClusterNetworkPolicies of tier Admin.
    Admin,
    /// NetworkPolicies.
    Network,
    /// ClusterNetworkPolicies of tier Baseline.
    Baseline,
}

/// What a rule does with a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
    /// The rest of the tier is not looked at.
    Pass,
}

/// Names a policy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyKey {
    /// A NetworkPolicy.
    Network(NamespacedName),
    /// A ClusterNetworkPolicy.
    Cluster(String),
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyKey::Network(name) => name.fmt(f),
            PolicyKey::Cluster(name) => f.write_str(name),
        }
    }
}

/// Names a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleName {
    /// Its policy.
    pub policy: PolicyKey,
    /// Its list: ingress or egress.
    pub direction: Direction,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Its own name, where policies name their rules.
    pub name: Option<String>,
}

/// Destination ports of a protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortSpec {
    /// IANA number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

/// A rule of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleSpec {
    /// The policy's rule that it comes from; several may come from one.
    pub id: RuleId,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
    /// It is for every peer, known or not.
    pub any_peer: bool,
    /// It is for peers that are of one of its classes and have one of its classes of addresses; else either will do.
    pub both: bool,
    /// The ports it is for; empty: every port and every protocol.
    pub ports: Vec<PortSpec>,
}

/// The rules of a port in one direction. Ports with the same ones share it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectionSpec {
    /// In the order in which they are looked at.
    pub rules: Vec<RuleSpec>,
    /// NetworkPolicies that isolate the pod: what no rule of [`Tier::Network`] accepts is denied. Empty: not isolated.
    pub isolated_by: Vec<PolicyKey>,
    /// For each class of identities that is a peer of some rule: which rules, by their places, ascending.
    pub classes: Vec<(ClassId, Vec<u32>)>,
    /// The same for classes of addresses.
    pub cidr_classes: Vec<(CidrClassId, Vec<u32>)>,
}

/// The policy of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointPolicy {
    /// What the pod may send.
    pub egress: Arc<DirectionSpec>,
    /// What the pod may get.
    pub ingress: Arc<DirectionSpec>,
    /// The group that the pod is of.
    pub group: Option<u16>,
}

impl EndpointPolicy {
    /// Whether both are the same, not merely equal.
    pub fn is(&self, other: &EndpointPolicy) -> bool {
        Arc::ptr_eq(&self.egress, &other.egress)
            && Arc::ptr_eq(&self.ingress, &other.ingress)
            && self.group == other.group
    }
}

/// The pod behind a port of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its namespace and name.
    pub pod: NamespacedName,
    /// Its UID, where it is known.
    pub uid: Option<String>,
    /// The port's addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is different. Each thing comes once; `None` where there is nothing any more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Who is behind an address.
    pub peers: Vec<(IpAddr, Option<IdentityId>)>,
    /// Classes of identities.
    pub identities: Vec<(IdentityId, Option<ClassId>)>,
    /// Classes of addresses, by longest prefix.
    pub cidrs: Vec<(IpNet, Option<CidrClassId>)>,
    /// Who packets of a group are from.
    pub groups: Vec<(u16, Option<IdentityId>)>,
    /// Policies of ports by name. `None`: the port's pod is not described (no Pod object of its UID, or no Namespace), or the port is gone.
    pub endpoints: Vec<(String, Option<EndpointPolicy>)>,
    /// Rules whose number was given out or is free again.
    pub rules: Vec<(RuleId, Option<Arc<RuleName>>)>,
}

impl Update {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Update::default()
    }
}
