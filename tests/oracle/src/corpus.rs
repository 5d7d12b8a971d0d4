// SPDX-License-Identifier: Apache-2.0
//! Manifests from files, and clusters in which they mean something.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Endpoint, Labels, NAMESPACE_NAME, NamedPort, Namespace, Pod, name};
use crate::generate::Rng;
use crate::selector::list;

/// The manifests of a YAML text: documents, and the items of lists.
pub fn manifests(text: &str) -> Result<Vec<Value>, serde_yaml_ng::Error> {
    let mut all = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document)?;
        let is_list = value["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
        match is_list {
            true => all.extend(list(&value["items"]).to_vec()),
            false => all.extend((!value.is_null()).then_some(value)),
        }
    }
    Ok(all)
}

/// The files of a folder and the folders in it that end with `.yaml`, by name: path and text.
pub fn files(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            let text = std::fs::read_to_string(&path)?;
            all.push((path.display().to_string(), text));
        }
    }
    all.sort();
    Ok(all)
}

/// Whether a manifest is a policy of a version that podswitch reads.
pub fn is_policy(manifest: &Value) -> bool {
    let kind = (manifest["apiVersion"].as_str(), manifest["kind"].as_str());
    matches!(
        kind,
        (Some("networking.k8s.io/v1"), Some("NetworkPolicy"))
            | (
                Some("policy.networking.k8s.io/v1alpha2"),
                Some("ClusterNetworkPolicy")
            )
    )
}

/// What policies ask of pods and namespaces.
#[derive(Debug, Default)]
struct Asked {
    pod_labels: Labels,
    namespace_labels: Labels,
    port_names: Vec<String>,
    addresses: Vec<ipnet::IpNet>,
}

impl Asked {
    fn of(&mut self, value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|v| self.of(v)),
            Value::Object(fields) => fields.iter().for_each(|(key, v)| self.field(key, v)),
            Value::String(text) => self.addresses.extend(text.parse::<ipnet::IpNet>()),
            _ => {}
        }
    }

    fn field(&mut self, key: &str, value: &Value) {
        match (key, value) {
            ("podSelector", _) => labels_of(value, &mut self.pod_labels),
            ("namespaceSelector" | "namespaces", _) => labels_of(value, &mut self.namespace_labels),
            ("port" | "destinationNamedPort", Value::String(name)) => {
                self.port_names.push(name.clone());
            }
            _ => self.of(value),
        }
    }
}

/// Labels that a selector tells apart.
fn labels_of(selector: &Value, into: &mut Labels) {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    into.extend(exact.map(|(key, value)| (key.clone(), text(value))));
    for expression in list(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values = list(&expression["values"]);
        into.extend(values.iter().map(|value| (key.clone(), text(value))));
        into.push((key, "something-else".to_owned()));
    }
}

/// A cluster with these policies, whose namespaces and pods have the labels and ports that the policies ask for, in random
/// combinations. Policies without a namespace are put into `default`.
pub fn cluster(rng: &mut Rng, policies: &[Value]) -> Cluster {
    let mut cluster = Cluster {
        node: vec![[172, 30, 0, 11].into()],
        ..Cluster::default()
    };
    let mut asked = Asked::default();
    for policy in policies {
        let mut policy = policy.clone();
        asked.of(&policy["spec"]);
        if policy["kind"] == "NetworkPolicy" {
            let namespace = policy["metadata"]["namespace"]
                .as_str()
                .unwrap_or("default")
                .to_owned();
            policy["metadata"]["namespace"] = json!(namespace);
            if cluster
                .network_policies
                .iter()
                .any(|p| name(p) == name(&policy))
            {
                policy["metadata"]["name"] =
                    json!(format!("policy-{}", cluster.network_policies.len()));
            }
            add_namespace(rng, &mut cluster, &asked, &namespace);
            cluster.network_policies.push(policy);
        } else {
            if cluster
                .cluster_policies
                .iter()
                .any(|p| name(p) == name(&policy))
            {
                policy["metadata"]["name"] =
                    json!(format!("policy-{}", cluster.cluster_policies.len()));
            }
            cluster.cluster_policies.push(policy);
        }
    }
    let named = asked
        .namespace_labels
        .iter()
        .filter(|(key, _)| key == NAMESPACE_NAME);
    for (_, name) in named {
        add_namespace(rng, &mut cluster, &asked, name);
    }
    for name in ["default", "other-1", "other-2"] {
        add_namespace(rng, &mut cluster, &asked, name);
    }
    for n in 0..24 {
        let pod = pod(rng, &cluster, &asked, n);
        if rng.percent(60) {
            cluster.endpoints.push(Endpoint {
                port: format!("port-{n}"),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                addresses: pod.addresses.clone(),
            });
        }
        cluster.pods.push(pod);
    }
    cluster
}

fn add_namespace(rng: &mut Rng, cluster: &mut Cluster, asked: &Asked, name: &str) {
    if cluster.namespace(name).is_none() {
        let mut labels = some(rng, &asked.namespace_labels);
        labels.retain(|(key, _)| key != NAMESPACE_NAME);
        let name = name.to_owned();
        cluster.namespaces.push(Namespace { name, labels });
    }
}

/// Some of the labels, of each key at most one.
fn some(rng: &mut Rng, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    rng.shuffle(&mut labels);
    let mut chosen = Labels::new();
    for (key, value) in labels {
        if rng.percent(70) && !chosen.iter().any(|(k, _)| *k == key) {
            chosen.push((key, value));
        }
    }
    chosen
}

fn pod(rng: &mut Rng, cluster: &Cluster, asked: &Asked, n: u8) -> Pod {
    let mut addresses = vec![[10, 244, 0, n].into()];
    // Addresses within the policies' blocks are worth more.
    let v4: Vec<_> = asked
        .addresses
        .iter()
        .filter(|a| a.addr().is_ipv4())
        .collect();
    if let Some(block) = rng.any(&v4)
        && let std::net::IpAddr::V4(first) = block.network()
        && block.prefix_len() <= 24
        && !matches!(first.octets()[0], 0 | 127 | 169 | 224..)
        && rng.percent(40)
    {
        let [a, b, c, _] = first.octets();
        addresses = vec![[a, b, c, n].into()];
    }
    addresses.push(std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n.into()).into());
    let mut ports: Vec<NamedPort> = Vec::new();
    for name in &asked.port_names {
        if rng.percent(60) && !ports.iter().any(|p| p.name == *name) {
            ports.push(NamedPort {
                name: name.clone(),
                protocol: rng.pick(&["TCP", "TCP", "UDP"]),
                number: rng.pick(&[80, 443, 8080, 5000]),
            });
        }
    }
    Pod {
        namespace: rng.one(&cluster.namespaces).name.clone(),
        name: format!("pod-{n}"),
        uid: format!("00000000-0000-4000-8000-{n:012x}"),
        labels: some(rng, &asked.pod_labels),
        addresses,
        ports,
        host_network: false,
    }
}
