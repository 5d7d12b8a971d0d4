// SPDX-License-Identifier: Apache-2.0
//! Services (core/v1) and EndpointSlices (discovery.k8s.io/v1), as the API server writes them, as far as they matter. Unknown fields are ignored, and null is as absent.

use std::collections::BTreeMap;

use podswitch_api::object::NamespacedName;
use serde::{Deserialize, Deserializer};

/// Label: the Service is another proxy's.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label: nothing is to be proxied.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of an EndpointSlice: its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Reads null as the default.
fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// What both kinds have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// When it was created (RFC 3339, UTC).
    pub creation_timestamp: Option<String>,
}

impl Metadata {
    /// Namespace and name.
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Whether its labels say that it is not for this proxy.
    pub(crate) fn is_not_ours(&self) -> bool {
        self.labels.contains_key(PROXY_NAME) || self.labels.contains_key(HEADLESS)
    }
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name and labels.
    pub metadata: Metadata,
    /// What is asked for.
    pub spec: ServiceSpec,
    /// What a load balancer gave.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// Spec of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// The first of `cluster_ips`, or `None`.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    /// Virtual addresses, one a family at most.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    /// The ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// Addresses that somebody else leads to the nodes.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    /// Who may use a load balancer's addresses.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<String>,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub external_traffic_policy: String,
    /// Port of the node at which a load balancer asks for local endpoints; 0: none.
    #[serde(deserialize_with = "nullable")]
    pub health_check_node_port: u16,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity: String,
    /// Its timeout.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity_config: SessionAffinityConfig,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, empty where there is one port alone.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// Port at the virtual addresses.
    pub port: u16,
    /// Port of the node; 0: none.
    #[serde(deserialize_with = "nullable")]
    pub node_port: u16,
}

/// `sessionAffinityConfig`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// Of `ClientIP`.
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub client_ip: ClientIpConfig,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds of silence.
    pub timeout_seconds: Option<u32>,
}

/// Status of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// The load balancer.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerStatus,
}

/// What a load balancer gave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Where it is reached.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<Ingress>,
}

/// An entrance of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// Its address; empty where it has a name.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
    /// `VIP`, as without one: packets come with this destination. `Proxy`: they come to a node's or a pod's own address.
    #[serde(deserialize_with = "nullable")]
    pub ip_mode: String,
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name and labels.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Who serves.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// At which ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses, of which the first one counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Whether it serves.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
    /// Its node.
    pub node_name: Option<String>,
    /// For whom it is meant.
    #[serde(deserialize_with = "nullable")]
    pub hints: Hints,
}

/// Conditions of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// New connections may go to it; unknown is yes.
    pub ready: Option<bool>,
    /// It answers, terminating or not; unknown is yes.
    pub serving: Option<bool>,
    /// It is about to end; unknown is no.
    pub terminating: Option<bool>,
}

/// Hints of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Zones whose traffic it is for.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
    /// Nodes whose traffic it is for.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
}

/// A zone or a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// Its name.
    pub name: String,
}

/// A port of all endpoints of a slice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The name of the Service's port.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// Its number; none: not said.
    pub port: Option<u16>,
}
