// SPDX-License-Identifier: Apache-2.0
//! How much of everything there may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a port, segment or rule, in bytes.
pub const MAX_NAME_LENGTH: usize = 128;
/// Longest interface name (Linux `IFNAMSIZ` less its terminating zero).
pub const MAX_INTERFACE_LENGTH: usize = 15;
/// Longest path or pod field, in bytes.
pub const MAX_TEXT_LENGTH: usize = 4096;
/// Longest message or hint of an error, in characters; what is longer is cut.
pub const MAX_MESSAGE_LENGTH: usize = 1024;
/// Longest field, key or value that an error repeats, in characters; what is longer is cut.
pub const MAX_SHOWN_LENGTH: usize = 256;
/// Largest VRF or segment id: 24 bits, as in a VXLAN network identifier (RFC 7348 section 5).
pub const MAX_VRF: u32 = (1 << 24) - 1;
/// Largest VLAN id that names a VLAN (IEEE 802.1Q table 9-2).
pub const MAX_VLAN: u16 = 4094;
/// Smallest MTU of a port: what IPv4 demands of every link (RFC 791); IPv6 needs 1280 (RFC 8200 section 5).
pub const MIN_MTU: u32 = 68;
/// Most UDP ports that tunnels end at, all together: what a NIC's program looks for.
pub const MAX_TUNNEL_PORTS: usize = 4;
/// Most next hops of a route.
pub const MAX_NEXT_HOPS: usize = 64;
/// Most virtual addresses of a service, of those inside the cluster and of those for clients outside each.
pub const MAX_SERVICE_ADDRESSES: usize = 64;
/// Most prefixes that may use one address of a service.
pub const MAX_SERVICE_SOURCES: usize = 256;
/// Most backends of a service, and most of them on this node.
pub const MAX_SERVICE_BACKENDS: usize = 65_535;
/// Longest that a client stays with its backend in silence, in seconds: a day, as in Kubernetes.
pub const MAX_AFFINITY_SECONDS: u32 = 86_400;
/// Largest MTU of a port: a veth takes no more.
pub const MAX_MTU: u32 = 65_535;
/// Smallest MTU of a port with an IPv6 address (RFC 8200 section 5).
pub const MIN_MTU_IPV6: u32 = 1280;
/// Most workers.
pub const MAX_WORKERS: usize = 64;
/// Most objects that one `get` returns, and its default.
pub const MAX_PAGE: u32 = 1000;
/// Longest request line the daemon reads unless configured otherwise, in bytes.
pub const DEFAULT_REQUEST_BYTES: usize = 16 << 20;
/// Longest reply line the client reads, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 20;

/// How many objects a desired state may hold. The defaults are also the most that can be configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub struct Limits {
    /// Ports.
    pub ports: u32,
    /// Addresses of one port.
    pub addresses_per_port: u32,
    /// VLANs of one trunk port.
    pub vlans_per_port: u32,
    /// Routes, all VRFs together.
    pub routes: u32,
    /// Neighbors, all VRFs together.
    pub neighbors: u32,
    /// L2 segments.
    pub segments: u32,
    /// Static FDB entries, all segments together.
    pub fdb_entries: u32,
    /// FDB entries of one segment, learned ones included.
    pub fdb_entries_per_segment: u32,
    /// Policy rules, all ports together.
    pub rules: u32,
    /// Kubernetes namespaces.
    pub namespaces: u32,
    /// Pods of the cluster.
    pub pods: u32,
    /// NetworkPolicies.
    pub network_policies: u32,
    /// ClusterNetworkPolicies.
    pub cluster_network_policies: u32,
    /// Groups.
    pub groups: u32,
    /// Services.
    pub services: u32,
    /// Backends of all services together, those on this node counted twice when they are listed twice.
    pub service_backends: u32,
}

impl Limits {
    /// The most that can be configured.
    pub const MAX: Limits = Limits {
        ports: 4096,
        addresses_per_port: 64,
        vlans_per_port: 4094,
        routes: 1 << 21,
        neighbors: 65_536,
        segments: 1024,
        fdb_entries: 65_536,
        fdb_entries_per_segment: 65_536,
        rules: 65_535,
        namespaces: 65_536,
        pods: 262_144,
        network_policies: 131_072,
        cluster_network_policies: 4096,
        groups: 65_535,
        services: 65_536,
        service_backends: 1_048_576,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::MAX
    }
}

crate::by_name!(Limits);
