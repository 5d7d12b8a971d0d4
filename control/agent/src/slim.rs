// SPDX-License-Identifier: Apache-2.0
//! Objects of the Kubernetes API, as far as they matter, and what the core is told of them. Everything else is left out as it is read.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::IpAddr;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use kube::core::ObjectMeta;
use podswitch_api::object::{NamespacedName, Object};
use podswitch_policy::manifest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::core::{Fault, Identity, NodeFacts, Rank, Seen, Source, What, closed};

/// An object of the API that the core is told of.
pub trait Slim:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Its kind.
    const SOURCE: Source;

    /// What it says.
    fn what(&self, name: &NamespacedName) -> What;

    /// The object as the core is told of it.
    fn seen(&self) -> Box<Seen> {
        let identity = identity(self.meta());
        let what = self.what(&identity.name);
        Box::new(Seen { identity, what })
    }
}

/// Which object it is, in which version.
pub fn identity(meta: &ObjectMeta) -> Identity {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let version = meta.resource_version.as_ref();
    Identity {
        name: NamespacedName {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
        },
        uid: text(&meta.uid).into_boxed_str(),
        version: version.and_then(|v| v.parse().ok()),
    }
}

/// Declares a kind: where it is in the API, and its fields beside `metadata`.
macro_rules! slim {
    ($(#[$doc:meta])* $name:ident, $scope:ty, $group:literal, $version:literal, $plural:literal, { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Name, version and labels.
            pub metadata: ObjectMeta,
            $(
                /// As the API has it.
                #[serde(default)]
                pub $field: $type,
            )*
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($name).into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

slim!(
    /// A node.
    Node, ClusterResourceScope, "", "v1", "nodes", { spec: NodeSpec, status: NodeStatus }
);
slim!(
    /// A namespace.
    Namespace, ClusterResourceScope, "", "v1", "namespaces", {}
);
slim!(
    /// A pod.
    Pod, NamespaceResourceScope, "", "v1", "pods", { spec: PodSpec, status: PodStatus }
);
slim!(
    /// A Service.
    Service, NamespaceResourceScope, "", "v1", "services", { spec: Value, status: Value }
);
slim!(
    /// A part of a Service's endpoints.
    EndpointSlice, NamespaceResourceScope, "discovery.k8s.io", "v1", "endpointslices",
    { address_type: Value, endpoints: Value, ports: Value }
);
slim!(
    /// A NetworkPolicy.
    NetworkPolicy, NamespaceResourceScope, "networking.k8s.io", "v1", "networkpolicies", { spec: Value }
);
slim!(
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy, ClusterResourceScope, "policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", { spec: Value }
);

/// Of a node's spec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeSpec {
    #[serde(rename = "podCIDR", default)]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Option<Vec<String>>,
}

/// Of a node's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    #[serde(default)]
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct NodeAddress {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    address: String,
}

/// Of a pod's spec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_network: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<Vec<Container>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<ContainerPort>>,
}

/// A port is judged where the pod is made an object.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    container_port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
}

/// Of a pod's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PodIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
}

/// The label with a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

impl Slim for Node {
    const SOURCE: Source = Source::Node;

    /// What is no address or prefix is left out: the rest of the node is still to be reached.
    fn what(&self, _: &NamespacedName) -> What {
        let addresses = self.status.addresses.iter().flatten();
        let internal = addresses.filter(|a| a.kind == "InternalIP");
        let mut all: Vec<IpAddr> = Vec::new();
        for address in internal.filter_map(|a| a.address.parse().ok()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        let several = self.spec.pod_cidrs.as_ref().filter(|all| !all.is_empty());
        let pods = match several {
            Some(several) => several.iter(),
            None => self.spec.pod_cidr.as_slice().iter(),
        };
        let labels = self.metadata.labels.as_ref();
        What::Node(NodeFacts {
            addresses: all,
            pods: pods.filter_map(|p| p.parse().ok()).collect(),
            zone: labels.and_then(|l| l.get(ZONE)).cloned(),
        })
    }
}

impl Slim for Namespace {
    const SOURCE: Source = Source::Namespace;

    fn what(&self, _: &NamespacedName) -> What {
        object(Source::Namespace, &self.metadata, Map::new(), None)
    }
}

impl Slim for Pod {
    const SOURCE: Source = Source::Pod;

    fn what(&self, _: &NamespacedName) -> What {
        let fields = [part("spec", &self.spec), part("status", &self.status)];
        match object(
            Source::Pod,
            &self.metadata,
            fields.into_iter().collect(),
            None,
        ) {
            What::Object(Object::Pod(pod)) => {
                let created = self.metadata.creation_timestamp.as_ref();
                What::Pod {
                    object: pod,
                    rank: Rank {
                        stays: self.metadata.deletion_timestamp.is_none(),
                        created: created.map_or(0, |t| t.0.as_second()),
                    },
                }
            }
            other => other,
        }
    }
}

impl Slim for NetworkPolicy {
    const SOURCE: Source = Source::NetworkPolicy;

    fn what(&self, name: &NamespacedName) -> What {
        let closed = || closed::network_policy(name, &self.spec);
        let fields = Map::from_iter([("spec".to_owned(), self.spec.clone())]);
        object(Source::NetworkPolicy, &self.metadata, fields, Some(&closed))
    }
}

impl Slim for ClusterNetworkPolicy {
    const SOURCE: Source = Source::ClusterNetworkPolicy;

    fn what(&self, name: &NamespacedName) -> What {
        let closed = || closed::cluster_network_policy(name, &self.spec);
        let fields = Map::from_iter([("spec".to_owned(), self.spec.clone())]);
        object(
            Source::ClusterNetworkPolicy,
            &self.metadata,
            fields,
            Some(&closed),
        )
    }
}

impl Slim for Service {
    const SOURCE: Source = Source::Service;

    fn what(&self, _: &NamespacedName) -> What {
        raw(self)
    }
}

impl Slim for EndpointSlice {
    const SOURCE: Source = Source::EndpointSlice;

    fn what(&self, _: &NamespacedName) -> What {
        raw(self)
    }
}

fn part<T: Serialize>(name: &str, value: &T) -> (String, Value) {
    // Structures of texts and numbers can be written.
    let value = serde_json::to_value(value).unwrap_or_default();
    (name.to_owned(), value)
}

/// The object that the project's own reader of manifests makes; what it does not read, `podswitchctl policy apply` would not either.
fn object(
    source: Source,
    meta: &ObjectMeta,
    fields: Map<String, Value>,
    closed: Option<&dyn Fn() -> Object>,
) -> What {
    let mut whole = json!({"apiVersion": source.api_version(), "kind": source.kind(),
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid, "labels": meta.labels}});
    if let Value::Object(whole) = &mut whole {
        whole.extend(fields);
    }
    match manifest::read(&whole).map(|mut all| all.pop()) {
        Ok(Some(object)) => What::Object(object),
        Ok(None) => What::Fault(Box::new(Fault {
            field: String::new(),
            message: "it is empty".to_owned(),
            closed: None,
        })),
        Err(e) => What::Fault(Box::new(Fault {
            message: e.to_string(),
            field: e.field,
            closed: closed.map(|closed| closed()),
        })),
    }
}

/// The object as the API writes it, without what only the API server needs.
fn raw<T: Slim + Serialize>(object: &T) -> What {
    let mut object = object.clone();
    object.meta_mut().managed_fields = None;
    match serde_json::to_value(&object) {
        Ok(value) => What::Raw(value),
        Err(_) => What::Raw(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Slim>(value: Value) -> Seen {
        *serde_json::from_value::<T>(value).unwrap().seen()
    }

    fn pod(change: impl FnOnce(&mut Value)) -> (podswitch_api::object::Pod, Rank) {
        let mut value = json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "resourceVersion": "17",
                "creationTimestamp": "2026-11-22T08:25:42Z", "labels": {"app": "web"},
                "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i",
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]}],
                "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
                    {"ports": [{"name": "gone", "containerPort": 8}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]},
        });
        change(&mut value);
        match read::<Pod>(value).what {
            What::Pod { object, rank } => (*object, rank),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pods_in_every_phase() {
        let (running, rank) = pod(|_| {});
        assert_eq!(running.addresses.len(), 2);
        let names: Vec<&str> = running.ports.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["http", "side"]);
        assert_eq!((rank.stays, rank.created), (true, 1_795_335_942));
        let (going, rank) =
            pod(|p| p["metadata"]["deletionTimestamp"] = json!("2026-11-22T09:00:00Z"));
        assert_eq!(going, running, "its address is its own until it is gone");
        assert!(!rank.stays);
        for phase in ["Succeeded", "Failed"] {
            assert!(
                pod(|p| p["status"]["phase"] = json!(phase))
                    .0
                    .addresses
                    .is_empty()
            );
        }
        assert!(
            pod(|p| p["status"] = json!({"phase": "Pending"}))
                .0
                .addresses
                .is_empty()
        );
        assert!(
            pod(|p| p["spec"]["hostNetwork"] = json!(true))
                .0
                .host_network
        );
    }

    #[test]
    fn a_policy_that_is_not_read_names_the_field_and_fails_closed() {
        let seen = read::<NetworkPolicy>(json!({"metadata": {"name": "p", "namespace": "shop"},
            "spec": {"podSelector": {}, "ingress": [{"strange": 1}]}}));
        let What::Fault(fault) = seen.what else {
            panic!("{seen:?}");
        };
        assert_eq!(fault.field, "spec.ingress[0].strange");
        assert!(fault.message.contains("strange"), "{}", fault.message);
        assert!(fault.closed.is_some());
    }

    #[test]
    fn nodes_and_services() {
        let seen = read::<Node>(json!({"metadata": {"name": "n1", "labels": {ZONE: "z"}},
            "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]}}));
        let What::Node(facts) = seen.what else {
            panic!("{seen:?}");
        };
        assert_eq!(facts.pods.len(), 1);
        assert_eq!(facts.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(facts.zone.as_deref(), Some("z"));
        let seen = read::<Service>(
            json!({"metadata": {"name": "s", "namespace": "a", "managedFields": []},
            "spec": {"clusterIP": "10.96.0.1"}}),
        );
        let What::Raw(raw) = seen.what else {
            panic!("{seen:?}");
        };
        assert_eq!(raw["spec"]["clusterIP"], "10.96.0.1");
        assert!(raw["metadata"].get("managedFields").is_none());
    }
}
