// SPDX-License-Identifier: Apache-2.0
//! One object of a manifest.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podswitch_api::object::kubernetes::{
    ClusterNetworkPolicySpec, ContainerPort, NetworkPolicySpec, TransportProtocol,
};
use podswitch_api::object::{
    ClusterNetworkPolicy, Key, Namespace, NamespacedName, NetworkPolicy, Object, Pod,
};
use podswitch_api::strict;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ManifestError;

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// An object of one of the known kinds, in its version.
pub(super) struct Document<'a> {
    kind: &'static str,
    value: &'a Value,
    /// Its place, empty or with a dot at its end.
    at: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(remote = "Self")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
struct PodSpec {
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: u16,
    protocol: Option<TransportProtocol>,
}

#[derive(Deserialize, Default)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct PodIp {
    ip: Option<String>,
}

podswitch_api::by_name!(read: Metadata, PodSpec, Container, Port, PodStatus, PodIp);

impl<'a> Document<'a> {
    pub(super) fn new(kind: &'static str, value: &'a Value, at: &'a str) -> Document<'a> {
        Document { kind, value, at }
    }

    /// Its key.
    pub(super) fn key(&self) -> Result<Key, ManifestError> {
        let metadata = self.metadata()?;
        Ok(match self.kind {
            "Namespace" => Key::Namespace {
                name: self.name(&metadata)?,
            },
            "Pod" => Key::Pod(self.namespaced(&metadata)?),
            "NetworkPolicy" => Key::NetworkPolicy(self.namespaced(&metadata)?),
            _ => Key::ClusterNetworkPolicy {
                name: self.name(&metadata)?,
            },
        })
    }

    /// The object.
    pub(super) fn object(&self) -> Result<Object, ManifestError> {
        let metadata = self.metadata()?;
        Ok(match self.key()? {
            Key::Pod(key) => self.pod(key, metadata)?.into(),
            Key::NetworkPolicy(NamespacedName { namespace, name }) => NetworkPolicy {
                namespace,
                name,
                spec: self
                    .policy::<Option<NetworkPolicySpec>>()?
                    .unwrap_or_default(),
            }
            .into(),
            Key::ClusterNetworkPolicy { name } => ClusterNetworkPolicy {
                name,
                spec: self.policy::<ClusterNetworkPolicySpec>()?,
            }
            .into(),
            key => Namespace {
                name: key.short(),
                labels: metadata.labels.unwrap_or_default(),
            }
            .into(),
        })
    }

    fn pod(&self, key: NamespacedName, metadata: Metadata) -> Result<Pod, ManifestError> {
        let spec: PodSpec = self.part("spec")?.unwrap_or_default();
        let status: PodStatus = self.part("status")?.unwrap_or_default();
        // A sidecar: it runs as long as the pod does.
        let sidecar = |c: &Container| c.restart_policy.as_deref() == Some("Always");
        let init = spec.init_containers.unwrap_or_default();
        let init = init.into_iter().filter(sidecar);
        let running = spec.containers.unwrap_or_default().into_iter().chain(init);
        let mut ports: Vec<ContainerPort> = Vec::new();
        for port in running.flat_map(|c| c.ports.unwrap_or_default()) {
            let Some(name) = port.name.filter(|name| !name.is_empty()) else {
                continue;
            };
            let port = ContainerPort {
                name,
                container_port: port.container_port,
                protocol: port.protocol.unwrap_or_default(),
            };
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        Ok(Pod {
            namespace: key.namespace,
            name: key.name,
            uid: metadata.uid.filter(|uid| !uid.is_empty()),
            labels: metadata.labels.unwrap_or_default(),
            addresses: self.addresses(status)?,
            ports,
            host_network: spec.host_network.unwrap_or_default(),
        })
    }

    /// Addresses, unless the pod is over: they may be somebody else's then.
    fn addresses(&self, status: PodStatus) -> Result<Vec<IpAddr>, ManifestError> {
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Ok(Vec::new());
        }
        let ips = status.pod_ips.unwrap_or_default();
        let texts: Vec<(String, String)> = match ips.is_empty() {
            true => Vec::from_iter(status.pod_ip.map(|ip| ("status.podIP".to_owned(), ip))),
            false => {
                let ips = ips.into_iter().enumerate();
                let field = |i| format!("status.podIPs[{i}].ip");
                ips.filter_map(|(i, ip)| Some((field(i), ip.ip?))).collect()
            }
        };
        let mut addresses = Vec::new();
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            let Ok(address) = text.parse() else {
                return Err(self.wrong(&field, &Value::from(text)).because(
                    "not an IP address",
                    "write one such as 10.244.1.7 or fd00::7",
                ));
            };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The spec of a policy.
    fn policy<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        let spec = self.value.get("spec").map(without_nulls);
        self.read("spec", spec.as_ref().unwrap_or(&Value::Null))
    }

    fn metadata(&self) -> Result<Metadata, ManifestError> {
        Ok(self.part("metadata")?.unwrap_or_default())
    }

    fn name(&self, metadata: &Metadata) -> Result<String, ManifestError> {
        // A namespace where there can be none: it is meant to be something else.
        match (&metadata.namespace, self.kind) {
            (Some(namespace), "Namespace" | "ClusterNetworkPolicy") if !namespace.is_empty() => {
                let what = format!("a {} is in no namespace", self.kind);
                return Err(self
                    .wrong("metadata.namespace", &Value::from(namespace.as_str()))
                    .because(what, "leave it out"));
            }
            _ => {}
        }
        match &metadata.name {
            Some(name) if !name.is_empty() => Ok(name.clone()),
            _ => Err(self
                .wrong("metadata.name", &Value::Null)
                .because("it has no name", "give it one")),
        }
    }

    fn namespaced(&self, metadata: &Metadata) -> Result<NamespacedName, ManifestError> {
        let given = metadata.namespace.as_deref().filter(|n| !n.is_empty());
        Ok(NamespacedName {
            namespace: given.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            name: self.name(metadata)?,
        })
    }

    /// A part of the document, unless it is not there.
    fn part<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, ManifestError> {
        match self.value.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.read(field, value).map(Some),
        }
    }

    fn read<T: DeserializeOwned>(&self, field: &str, value: &Value) -> Result<T, ManifestError> {
        strict::read(value).map_err(|mut error| {
            let rest = error.path.as_str();
            let dot = if rest.is_empty() || rest.starts_with('[') {
                ""
            } else {
                "."
            };
            error.path = format!("{field}{dot}{rest}");
            ManifestError::read(self.label(), self.at, error)
        })
    }

    fn wrong(&self, field: &str, value: &Value) -> ManifestError {
        ManifestError::new(self.label(), self.at, field).value(value)
    }

    /// Kind and name, as far as there is one.
    fn label(&self) -> String {
        let metadata = self.value.get("metadata");
        let text = |field| metadata.and_then(|m| m.get(field)).and_then(Value::as_str);
        match (text("namespace"), text("name"), self.kind) {
            (_, None, kind) => kind.to_owned(),
            (_, Some(name), kind @ ("Namespace" | "ClusterNetworkPolicy")) => {
                format!("{kind} {name}")
            }
            (namespace, Some(name), kind) => {
                format!("{kind} {}/{name}", namespace.unwrap_or(DEFAULT_NAMESPACE))
            }
        }
    }
}

/// A field that is null is not there: `from:` without a value is no list of peers. Items of lists are left as they are.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let there = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(there.map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
