// SPDX-License-Identifier: Apache-2.0
//! Objects of Kubernetes, as far as network policy needs them, with their specs as Kubernetes writes them.

mod cluster_network_policy;
mod group;
mod lenient;
mod network_policy;
mod pod;
mod selector;

pub use cluster_network_policy::{
    ClusterAction, ClusterEgressPeer, ClusterEgressRule, ClusterIngressPeer, ClusterIngressRule,
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, DestinationPort, NamespacedPods, PolicyTier,
    PortNumbers, ProtocolMatch, Subject, TransportMatch,
};
pub use group::Group;
pub use network_policy::{
    EgressRule, IngressRule, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec, PolicyPort, PolicyType,
};
pub use pod::{ContainerPort, Namespace, Pod, TransportProtocol};
pub use selector::{LabelSelector, Operator, Requirement};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Key of an object of a namespace.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: String,
    /// The object's name in it.
    pub name: String,
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

crate::by_name!(NamespacedName);
