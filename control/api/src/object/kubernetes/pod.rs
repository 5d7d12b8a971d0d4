// SPDX-License-Identifier: Apache-2.0
//! Namespaces and pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NamespacedName;
use crate::object::is_default;
use crate::object::rule::Protocol;

/// A namespace. That its label `kubernetes.io/metadata.name` is its name goes without saying.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(deserialize_with = "super::lenient::labels")]
    pub labels: BTreeMap<String, String>,
}

/// A pod of the cluster, on this node or another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, to tell it from a later pod of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(deserialize_with = "super::lenient::labels")]
    pub labels: BTreeMap<String, String>,
    /// Its addresses (`status.podIPs`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "crate::text::addresses")]
    pub addresses: Vec<IpAddr>,
    /// Ports of its containers that have a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// It has the node's network: its addresses are the node's, and policies do not know it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_network: bool,
}

/// A port of a container.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// Its name, by which policies may call it.
    pub name: String,
    /// Its number, not 0.
    pub container_port: u16,
    /// Its protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: TransportProtocol,
}

/// A transport protocol as Kubernetes writes it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(remote = "Self", rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl TransportProtocol {
    /// Its IANA number.
    pub fn number(self) -> Protocol {
        match self {
            TransportProtocol::Tcp => Protocol::TCP,
            TransportProtocol::Udp => Protocol::UDP,
            TransportProtocol::Sctp => Protocol::SCTP,
        }
    }
}

impl Pod {
    /// Its key.
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

crate::by_name!(Namespace, Pod, ContainerPort);
crate::by_word!(TransportProtocol);
