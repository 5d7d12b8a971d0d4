// SPDX-License-Identifier: Apache-2.0
//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2).

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LabelSelector;
use super::lenient::by_known_name;
use crate::object::is_default;
use crate::schema::Prefix;

/// A ClusterNetworkPolicy: what administrators say before (tier Admin) or after (tier Baseline) all NetworkPolicies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: ClusterNetworkPolicySpec,
}

/// What a ClusterNetworkPolicy says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ClusterNetworkPolicySpec {
    /// Before or after NetworkPolicies.
    pub tier: PolicyTier,
    /// 0 to 1000; lower ones are looked at first, then names.
    pub priority: u16,
    /// The pods it is for.
    pub subject: Subject,
    /// What becomes of what comes in; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ClusterIngressRule>,
    /// What becomes of what goes out; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ClusterEgressRule>,
}

/// Before or after NetworkPolicies.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self")]
pub enum PolicyTier {
    /// Before them.
    Admin,
    /// After them, for pods that none isolates.
    Baseline,
}

/// Pods: all of some namespaces, or some of some namespaces; exactly one field.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Subject {
    /// All pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
}

/// Some pods of some namespaces.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPods {
    /// The namespaces; an empty selector: all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// The pods.
    pub pod_selector: LabelSelector,
}

/// What becomes of a connection that a rule matches.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self")]
pub enum ClusterAction {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
    /// The rest of the tier is not asked.
    Pass,
}

/// A rule for what comes in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ClusterIngressRule {
    /// Its name, up to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of the connection.
    pub action: ClusterAction,
    /// Peers, at least one.
    pub from: Vec<ClusterIngressPeer>,
    /// Protocols and ports; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
}

/// A rule for what goes out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ClusterEgressRule {
    /// Its name, up to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of the connection.
    pub action: ClusterAction,
    /// Peers, at least one.
    pub to: Vec<ClusterEgressPeer>,
    /// Protocols and ports; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
}

/// Peers that something comes from; exactly one field. With none it is as `unknown`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct ClusterIngressPeer {
    /// All pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// It is of a kind that is not known: its rule matches nothing if it accepts, and denies everything if not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: bool,
}

/// Peers that something goes to; exactly one field. With none it is as `unknown`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct ClusterEgressPeer {
    /// All pods of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// Nodes by label. Not known to this podswitch: as `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Prefixes of addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Prefix>>")]
    #[serde(deserialize_with = "crate::text::optional_prefixes")]
    pub networks: Option<Vec<IpNet>>,
    /// Names of hosts. Not known to this podswitch: as `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
    /// It is of a kind that is not known: its rule matches nothing if it accepts, and denies everything if not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: bool,
}

/// A protocol with its ports; exactly one field. With none it is as `unknown`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct ProtocolMatch {
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TransportMatch>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<TransportMatch>,
    /// SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<TransportMatch>,
    /// A port by its name in the pod that is reached, with the protocol it has there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
    /// It is of a kind that is not known: its rule matches nothing if it accepts, and denies everything if not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: bool,
}

/// Ports of one protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct TransportMatch {
    /// Ports of the receiver. Without, it says something that is not known: as `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<DestinationPort>,
}

/// A port or a range of ports; exactly one field. With none it is as `unknown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DestinationPort {
    /// One port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// A range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PortNumbers>,
}

/// A range of ports, its ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortNumbers {
    /// First port.
    pub start: u16,
    /// Last port, above the first.
    pub end: u16,
}

crate::by_name!(
    ClusterNetworkPolicy,
    ClusterNetworkPolicySpec,
    Subject,
    NamespacedPods,
    ClusterIngressRule,
    ClusterEgressRule,
    TransportMatch,
    DestinationPort,
    PortNumbers
);
by_known_name!(ClusterIngressPeer, ClusterEgressPeer, ProtocolMatch);
crate::by_word!(PolicyTier, ClusterAction);
