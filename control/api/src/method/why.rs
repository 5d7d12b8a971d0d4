// SPDX-License-Identifier: Apache-2.0
//! `why`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::object::kubernetes::NamespacedName;
use crate::object::{Direction, Kind, Protocol};

/// Parameters of `why`: a new connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyParams {
    /// Who begins it.
    pub from: WhyEnd,
    /// Whom it is for.
    pub to: WhyEnd,
    /// Its protocol.
    pub protocol: Protocol,
    /// Destination port, of TCP, UDP and SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source port, where a rule might look at it; any other when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// VRF of both, 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<u32>,
    /// Group that its packets are marked with, in a tunnel with group policy; by others it is not heeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
}

/// An end of a connection; exactly one field.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyEnd {
    /// A pod, on this node or another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<NamespacedName>,
    /// The station behind a port of the switch, by the port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// An address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "crate::text::optional_address")]
    pub address: Option<IpAddr>,
}

/// Result of `why`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyResult {
    /// Whether the connection may begin.
    pub allowed: bool,
    /// If not: the reason, as counters name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who begins it.
    pub from: WhyParty,
    /// Whom it is for.
    pub to: WhyParty,
    /// Where that port of the node leads, if it leads to a pod; everything below is about that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<WhyLed>,
    /// What the sender's end says; absent where the sender is behind no port of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<WhyJudgement>,
    /// Where it goes.
    pub route: WhyRoute,
    /// What the receiver's end says; absent where there is no way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<WhyJudgement>,
}

/// One of the two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyParty {
    /// The address that was asked about.
    pub address: IpAddr,
    /// The pod that has it, as policies see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<NamespacedName>,
    /// The port of the switch it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Where a port of the node, or a service, leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyLed {
    /// The pod's end.
    pub to: WhyParty,
    /// Its port.
    pub container_port: u16,
    /// Name of the service. Another connection may go to another of its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// What decided at one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum DecidedBy {
    /// The pod is closed until its labels and policies are here.
    Pending,
    /// A `rule` of the port.
    Rule,
    /// A rule of a policy.
    Policy,
    /// NetworkPolicies isolate the pod, and none of their rules accepts the connection.
    Isolation,
    /// A pod and itself, or a pod and its node: always allowed.
    Exempt,
    /// Nothing else does: the default of the port.
    Default,
}

/// What one end says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyJudgement {
    /// Whether it lets the connection begin.
    pub allowed: bool,
    /// Name of the port whose end it is.
    pub port: String,
    /// What decided.
    pub by: DecidedBy,
    /// The `rule` of the port that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule of a policy that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRuleRef>,
    /// NetworkPolicies that isolate the pod in this direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<NamespacedName>,
    /// Number of the peer's identity, where it is a known pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_identity: Option<u32>,
    /// The group by which the peer was judged, and not by its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_group: Option<u16>,
}

/// A rule of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PolicyRuleRef {
    /// `network_policy` or `cluster_network_policy`.
    pub kind: Kind,
    /// Namespace of a NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the policy.
    pub name: String,
    /// Its list: `ingress` or `egress`.
    pub direction: Direction,
    /// Place of the rule in that list, from 0.
    pub index: u32,
    /// The rule's own name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl std::fmt::Display for PolicyRuleRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.namespace, self.kind) {
            (Some(namespace), _) => write!(f, "NetworkPolicy {namespace}/{}", self.name)?,
            (None, _) => write!(f, "ClusterNetworkPolicy {}", self.name)?,
        }
        write!(f, ", {} rule {}", self.direction.name(), self.index)?;
        match &self.rule {
            Some(rule) => write!(f, " ({rule})"),
            None => Ok(()),
        }
    }
}

/// Where it goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WhyRoute {
    /// Name of the port it leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// MAC address it is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Largest packet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Why there is no way out, as counters name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

crate::by_name!(
    WhyParams,
    WhyEnd,
    WhyResult,
    WhyParty,
    WhyLed,
    WhyJudgement,
    PolicyRuleRef,
    WhyRoute
);
crate::by_word!(DecidedBy);
