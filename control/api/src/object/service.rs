// SPDX-License-Identifier: Apache-2.0
//! Services: virtual addresses, and whom packets to them go to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use super::rule::Protocol;
use crate::schema::Prefix;

/// One port of a Kubernetes Service in one address family: every address and prefix in it is of that family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Service {
    /// Unique name: 1 to 128 characters of `A-Z a-z 0-9 . _ : / -`, such as `shop/web:http:ipv4`.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: Protocol,
    /// Port at its addresses, 1 to 65535.
    pub port: u16,
    /// Virtual addresses inside the cluster (`clusterIPs`), 1 to 64.
    #[serde(deserialize_with = "crate::text::addresses")]
    pub addresses: Vec<IpAddr>,
    /// Addresses for clients outside (those of a load balancer, `externalIPs`), up to 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<ExternalAddress>,
    /// Port of every address of the node, 1 to 65535 (`nodePort`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Which backends serve `addresses` (`internalTrafficPolicy`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal_traffic: TrafficPolicy,
    /// Which backends serve clients from outside at `external` and `node_port` (`externalTrafficPolicy`). Clients inside the cluster get those of the
    /// whole cluster there all the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external_traffic: TrafficPolicy,
    /// A client stays with its backend until it has been silent for so many seconds, 1 to 86400 (`sessionAffinity` ClientIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Whom traffic may go to that is for the whole cluster, up to 65536.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Whom traffic may go to that is for this node alone, up to 65536; all of them are on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_backends: Vec<Backend>,
}

impl Service {
    /// All its virtual addresses, those for clients outside last.
    pub fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let external = self.external.iter().map(|e| e.address);
        self.addresses.iter().copied().chain(external)
    }

    /// How many backends it has, those of the cluster and those of this node each by themselves.
    pub fn count_backends(&self) -> usize {
        self.backends.len() + self.local_backends.len()
    }

    /// Whether it is of IPv4; else it is of IPv6.
    pub fn is_ipv4(&self) -> bool {
        self.addresses.first().is_some_and(IpAddr::is_ipv4)
    }
}

/// An address of a service for clients outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ExternalAddress {
    /// The address.
    #[serde(deserialize_with = "crate::text::address")]
    pub address: IpAddr,
    /// Who may use it (`loadBalancerSourceRanges`), up to 256 prefixes; everybody when left out or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Prefix>")]
    #[serde(deserialize_with = "crate::text::prefixes")]
    pub sources: Vec<IpNet>,
}

/// Which backends serve.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum TrafficPolicy {
    /// `backends`.
    #[default]
    Cluster,
    /// `local_backends`.
    Local,
}

impl TrafficPolicy {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            TrafficPolicy::Cluster => "cluster",
            TrafficPolicy::Local => "local",
        }
    }
}

/// Who serves.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Backend {
    /// Its address.
    #[serde(deserialize_with = "crate::text::address")]
    pub address: IpAddr,
    /// The port it listens at, 1 to 65535.
    pub port: u16,
}

impl From<SocketAddr> for Backend {
    fn from(at: SocketAddr) -> Backend {
        Backend {
            address: at.ip(),
            port: at.port(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

crate::by_name!(Service, ExternalAddress, Backend);

crate::by_word!(TrafficPolicy);
