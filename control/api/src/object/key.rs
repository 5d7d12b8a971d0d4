// SPDX-License-Identifier: Apache-2.0
//! Keys of objects.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use super::kubernetes::NamespacedName;
use crate::mac::MacAddr;
use crate::schema::Prefix;

/// The kinds of objects, in the order in which they depend on one another: whatever an object refers to has an earlier kind.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Kind {
    /// L2 segments.
    Segment,
    /// Ports.
    Port,
    /// Neighbors.
    Neighbor,
    /// Routes.
    Route,
    /// FDB entries.
    Fdb,
    /// Policy rules.
    Rule,
    /// Kubernetes namespaces.
    Namespace,
    /// Pods of the cluster.
    Pod,
    /// NetworkPolicies.
    NetworkPolicy,
    /// ClusterNetworkPolicies.
    ClusterNetworkPolicy,
    /// Groups: whom packets in VXLAN tunnels are from.
    Group,
    /// Services.
    Service,
}

impl Kind {
    /// Every kind, in the order of dependence.
    pub const ALL: [Kind; 12] = [
        Kind::Segment,
        Kind::Port,
        Kind::Neighbor,
        Kind::Route,
        Kind::Fdb,
        Kind::Rule,
        Kind::Namespace,
        Kind::Pod,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::Group,
        Kind::Service,
    ];

    /// Name as in `kind` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Port => "port",
            Kind::Route => "route",
            Kind::Neighbor => "neighbor",
            Kind::Segment => "segment",
            Kind::Fdb => "fdb",
            Kind::Rule => "rule",
            Kind::Namespace => "namespace",
            Kind::Pod => "pod",
            Kind::NetworkPolicy => "network_policy",
            Kind::ClusterNetworkPolicy => "cluster_network_policy",
            Kind::Group => "group",
            Kind::Service => "service",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Key of a route.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RouteKey {
    /// The VRF, 0 by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vrf: u32,
    /// The destination prefix.
    #[schemars(with = "Prefix")]
    #[serde(deserialize_with = "crate::text::prefix")]
    pub prefix: IpNet,
}

/// Key of a neighbor.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NeighborKey {
    /// The VRF, 0 by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vrf: u32,
    /// The neighbor's address.
    #[serde(deserialize_with = "crate::text::address")]
    pub address: IpAddr,
}

/// Key of an FDB entry.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct FdbKey {
    /// Name of the segment.
    pub segment: String,
    /// The VLAN; none for untagged frames of ports without VLANs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The MAC address.
    pub mac: MacAddr,
}

/// Names one object.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(
    remote = "Self",
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Key {
    /// An L2 segment.
    Segment {
        /// Its name.
        name: String,
    },
    /// A port.
    Port {
        /// Its name.
        name: String,
    },
    /// A neighbor.
    Neighbor(NeighborKey),
    /// A route.
    Route(RouteKey),
    /// An FDB entry.
    Fdb(FdbKey),
    /// A policy rule.
    Rule {
        /// Its name.
        name: String,
    },
    /// A Kubernetes namespace.
    Namespace {
        /// Its name.
        name: String,
    },
    /// A pod.
    Pod(NamespacedName),
    /// A NetworkPolicy.
    NetworkPolicy(NamespacedName),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy {
        /// Its name.
        name: String,
    },
    /// A group.
    Group {
        /// Its Group Policy ID.
        id: u16,
    },
    /// A service.
    Service {
        /// Its name.
        name: String,
    },
}

impl Key {
    /// The kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Key::Port { .. } => Kind::Port,
            Key::Route(_) => Kind::Route,
            Key::Neighbor(_) => Kind::Neighbor,
            Key::Segment { .. } => Kind::Segment,
            Key::Fdb(_) => Kind::Fdb,
            Key::Rule { .. } => Kind::Rule,
            Key::Namespace { .. } => Kind::Namespace,
            Key::Pod(_) => Kind::Pod,
            Key::NetworkPolicy(_) => Kind::NetworkPolicy,
            Key::ClusterNetworkPolicy { .. } => Kind::ClusterNetworkPolicy,
            Key::Group { .. } => Kind::Group,
            Key::Service { .. } => Kind::Service,
        }
    }

    /// The key without its kind, as messages write it.
    pub fn short(&self) -> String {
        match self {
            Key::Port { name }
            | Key::Segment { name }
            | Key::Rule { name }
            | Key::Namespace { name }
            | Key::ClusterNetworkPolicy { name }
            | Key::Service { name } => name.clone(),
            Key::Pod(key) | Key::NetworkPolicy(key) => key.to_string(),
            Key::Group { id } => id.to_string(),
            Key::Route(RouteKey { vrf, prefix }) => format!("vrf {vrf} {prefix}"),
            Key::Neighbor(NeighborKey { vrf, address }) => format!("vrf {vrf} {address}"),
            Key::Fdb(FdbKey {
                segment,
                vlan: None,
                mac,
            }) => format!("{segment} {mac}"),
            Key::Fdb(FdbKey {
                segment,
                vlan: Some(vlan),
                mac,
            }) => format!("{segment} vlan {vlan} {mac}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.short())
    }
}

crate::by_name!(RouteKey, NeighborKey, FdbKey, Key);

crate::by_word!(Kind);
