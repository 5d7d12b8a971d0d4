// SPDX-License-Identifier: Apache-2.0
//! A cluster as lists of what is in it.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Value, json};

/// Keys and values; each key once.
pub type Labels = Vec<(String, String)>;

/// The label that every namespace has, whether its manifest says so or not.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A Namespace.
#[derive(Clone, PartialEq, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// As its manifest has them.
    pub labels: Labels,
}

/// A container's port with a name.
#[derive(Clone, PartialEq, Debug)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The number.
    pub number: u16,
}

/// A Pod.
#[derive(Clone, PartialEq, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
    /// Of this very pod; another one of the same name has another.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, the node's if it is in the node's network.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// It is in the node's network.
    pub host_network: bool,
}

/// A port of the switch with a pod behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// The port's name.
    pub port: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The port's addresses.
    pub addresses: Vec<IpAddr>,
}

/// Pods that a number stands for.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The number.
    pub id: u16,
    /// The pods' namespace.
    pub namespace: String,
    /// All their labels; no two groups have the same ones in a namespace.
    pub labels: Labels,
}

/// What a node knows of its cluster. Lists are in the order in which their objects changed last.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cluster {
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// Pods of all nodes.
    pub pods: Vec<Pod>,
    /// Manifests of NetworkPolicies.
    pub network_policies: Vec<Value>,
    /// Manifests of ClusterNetworkPolicies.
    pub cluster_policies: Vec<Value>,
    /// Whom numbers in packets stand for.
    pub groups: Vec<Group>,
    /// What is attached to this node's switch.
    pub endpoints: Vec<Endpoint>,
    /// The node's own addresses.
    pub node: Vec<IpAddr>,
}

impl Cluster {
    /// The namespace of a name.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|n| n.name == name)
    }

    /// The labels of a namespace that selectors see. Of one that is not heard of yet, nothing is known but its name.
    pub fn namespace_labels(&self, name: &str) -> Labels {
        let mut labels = self
            .namespace(name)
            .map_or(Labels::new(), |n| n.labels.clone());
        labels.retain(|(key, _)| key != NAMESPACE_NAME);
        labels.push((NAMESPACE_NAME.to_owned(), name.to_owned()));
        labels
    }

    /// The pod of a name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|p| p.namespace == namespace && p.name == name)
    }

    /// Who has an address: podswitch takes a port of its own first, then what it was told last. None for the node's own
    /// addresses and pods in its network.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        let endpoints = self.endpoints.iter().rev();
        let mut endpoints = endpoints.filter(|e| e.addresses.contains(&address));
        if let Some(endpoint) = endpoints.next() {
            return self.described(endpoint);
        }
        let mut pods = self.pods.iter().rev();
        pods.find(|pod| !pod.host_network && pod.addresses.contains(&address))
    }

    /// The group of a number.
    pub fn group(&self, id: u16) -> Option<&Group> {
        self.groups.iter().find(|g| g.id == id)
    }

    /// The group of these pods.
    pub fn group_of(&self, namespace: &str, labels: &Labels) -> Option<u16> {
        let mut groups = self.groups.iter();
        let of = groups.find(|g| g.namespace == namespace && g.labels == *labels);
        of.map(|g| g.id)
    }

    /// The endpoint of a pod, if it is attached here and both mean the same pod.
    pub fn endpoint(&self, pod: &Pod) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|e| e.namespace == pod.namespace && e.name == pod.name && e.uid == pod.uid)
    }

    /// The pod behind an endpoint, if podswitch knows all that policy asks for: the pod of this very uid, and its namespace.
    pub fn described(&self, endpoint: &Endpoint) -> Option<&Pod> {
        let pod = self.pod(&endpoint.namespace, &endpoint.name)?;
        self.namespace(&pod.namespace)?;
        (pod.uid == endpoint.uid && !pod.host_network).then_some(pod)
    }
}

impl Namespace {
    /// As the API server has it.
    pub fn manifest(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": self.name, "labels": object(&self.labels) },
        })
    }
}

impl Pod {
    /// As the API server has it.
    pub fn manifest(&self) -> Value {
        let port = |p: &NamedPort| json!({ "name": p.name, "containerPort": p.number, "protocol": p.protocol });
        // In one container no two ports have the same name.
        let containers = self.ports.iter().enumerate();
        let containers = containers.map(|(n, p)| json!({ "name": format!("c{n}"), "image": "registry.example/pod", "ports": [port(p)] }));
        let mut containers: Vec<Value> = containers.collect();
        containers.push(json!({ "name": "last", "image": "registry.example/pod" }));
        let ips: Vec<Value> = self.addresses.iter().map(|a| json!({ "ip": a })).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": self.uid, "labels": object(&self.labels),
            },
            "spec": {
                "hostNetwork": self.host_network,
                "containers": containers,
            },
            "status": { "phase": "Running", "podIPs": ips },
        })
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn object(labels: &Labels) -> Value {
    let pair = |(key, value): &(String, String)| (key.clone(), Value::from(value.as_str()));
    Value::Object(labels.iter().map(pair).collect())
}

/// The name of a manifest, with its namespace if it has one.
pub fn name(manifest: &Value) -> String {
    let text = |field: &str| manifest["metadata"][field].as_str();
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        (_, None) => String::new(),
    }
}
