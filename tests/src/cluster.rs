// SPDX-License-Identifier: Apache-2.0
//! A cluster as the control protocol takes it: namespaces, pods and policies, for the pods of a test's node.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::node::{Node, Pod};
use crate::objects::{delete, set};

/// A namespace with labels.
pub fn namespace(name: &str, labels: Value) -> Value {
    json!({"kind": "namespace", "name": name, "labels": labels})
}

/// A NetworkPolicy `namespace/name`.
///
/// # Panics
/// If that has no slash.
#[track_caller]
pub fn network_policy(name: &str, spec: Value) -> Value {
    let (namespace, name) = split(name);
    json!({"kind": "network_policy", "namespace": namespace, "name": name, "spec": spec})
}

/// A ClusterNetworkPolicy.
pub fn cluster_policy(name: &str, spec: Value) -> Value {
    json!({"kind": "cluster_network_policy", "name": name, "spec": spec})
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').expect("namespace/name")
}

impl Node {
    /// A pod of Kubernetes, attached as its runtime would, and not described to the daemon.
    #[track_caller]
    pub fn undescribed_pod(&self, name: &str) -> Pod {
        let (namespace, name) = split(name);
        self.pod_called(|call| {
            call.args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
            );
        })
    }

    /// A pod of Kubernetes with labels, described to the daemon. Its namespace is to be there.
    #[track_caller]
    pub fn described_pod(&self, name: &str, labels: Value) -> Pod {
        let pod = self.undescribed_pod(name);
        self.apply(&[set(pod_object(name, &pod, labels))]);
        pod
    }

    /// Removes a policy by its kind and name.
    #[track_caller]
    pub fn remove_policy(&self, name: &str) {
        let (namespace, name) = split(name);
        let key = json!({"kind": "network_policy", "namespace": namespace, "name": name});
        self.apply(&[delete(key)]);
    }

    /// What `why` says.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[track_caller]
    pub fn why(&self, from: IpAddr, to: IpAddr, protocol: &str, port: Option<u16>) -> Value {
        let mut params =
            json!({"from": {"address": from}, "to": {"address": to}, "protocol": protocol});
        if let Some(port) = port {
            params["port"] = json!(port);
        }
        let why = self.rpc("why", &params);
        why.unwrap_or_else(|e| panic!("why {params}: {e}"))
    }
}

/// The Pod object of a pod, with a port called `web`, 7001.
#[track_caller]
pub fn pod_object(name: &str, pod: &Pod, labels: Value) -> Value {
    let (namespace, short) = split(name);
    json!({
        "kind": "pod", "namespace": namespace, "name": short, "uid": format!("uid-{short}"), "labels": labels,
        "addresses": [pod.v4(), pod.v6()],
        "ports": [{"name": "web", "containerPort": 7001}],
    })
}
