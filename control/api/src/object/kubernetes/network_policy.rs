// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy (networking.k8s.io/v1).

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lenient::by_known_name;
use super::{LabelSelector, NamespacedName, TransportProtocol};
use crate::object::is_default;
use crate::schema::Prefix;

/// A NetworkPolicy: isolates the pods it selects, and names what they may do all the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Its namespace, whose pods it selects from.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: NetworkPolicySpec,
}

/// What a NetworkPolicy says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// Pods of the namespace that it selects.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// Directions in which these are isolated. None: ingress, and egress if there are egress rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_types: Vec<PolicyType>,
    /// What may come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// What may go out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// A direction in which a policy isolates.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self")]
pub enum PolicyType {
    /// What comes to the pod.
    Ingress,
    /// What the pod sends.
    Egress,
}

/// What may come in: from any of the peers, to any of the ports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct IngressRule {
    /// Peers; none: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<NetworkPolicyPeer>,
    /// Ports of the pod; none: all, of all protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// What may go out: to any of the peers, to any of their ports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct EgressRule {
    /// Peers; none: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<NetworkPolicyPeer>,
    /// Ports of the peer; none: all, of all protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// Peers: pods of the policy's own namespace (`podSelector`), all pods of some namespaces (`namespaceSelector`), some pods of some namespaces (both),
/// or addresses (`ipBlock`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct NetworkPolicyPeer {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
    /// It has fields that are not known: it is nobody.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: bool,
}

/// Addresses in a prefix and in none of its exceptions.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct IpBlock {
    /// The prefix. Bits beyond its length count as zero.
    #[schemars(with = "Prefix")]
    #[serde(deserialize_with = "crate::text::prefix")]
    pub cidr: IpNet,
    /// Prefixes within it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Prefix>")]
    #[serde(deserialize_with = "crate::text::prefixes")]
    pub except: Vec<IpNet>,
}

/// Ports of a protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct NetworkPolicyPort {
    /// The protocol, TCP if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: TransportProtocol,
    /// Its number, or its name in the pod that is reached; none: all ports of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PolicyPort>,
    /// The last port of a range that begins with the number `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// It has fields that are not known: it is no port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: bool,
}

/// A port by number or by name.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(untagged)]
pub enum PolicyPort {
    /// By number.
    Number(u16),
    /// By the name that a container of the pod has given it.
    Name(String),
}

impl NetworkPolicy {
    /// Its key.
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl NetworkPolicySpec {
    /// Whether the selected pods are isolated in a direction.
    pub fn isolates(&self, direction: PolicyType) -> bool {
        match (&self.policy_types[..], direction) {
            ([], PolicyType::Ingress) => true,
            ([], PolicyType::Egress) => !self.egress.is_empty(),
            (types, direction) => types.contains(&direction),
        }
    }
}

crate::by_name!(
    NetworkPolicy,
    NetworkPolicySpec,
    IngressRule,
    EgressRule,
    IpBlock
);
by_known_name!(NetworkPolicyPeer, NetworkPolicyPort);
crate::by_word!(PolicyType);
