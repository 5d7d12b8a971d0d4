// SPDX-License-Identifier: Apache-2.0
//! A node, a cluster's API, and the agent between them.

use serde_json::{Value, json};

use crate::agent::{Agent, attached, namespace, pod};
use crate::api_server::{ApiServer, recorded_list};
use crate::node::{Node, NodeConfig, Pod};
use crate::wait::{HUNG, eventually};

/// Kinds of the daemon's that come of the cluster's.
const KINDS: [&str; 4] = [
    "namespace",
    "pod",
    "network_policy",
    "cluster_network_policy",
];
/// A node whose pods are closed until they are described, a cluster's API, and the agent between them.
#[derive(Debug)]
pub struct Scene {
    // Declared, so dropped, in this order.
    /// The agent, while it runs.
    pub agent: Option<Agent>,
    /// The API.
    pub server: ApiServer,
    /// The node.
    pub node: Node,
}

impl Scene {
    /// An agent that is not started yet.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "a test says that it makes one")]
    pub fn new() -> Scene {
        let node = Node::new(NodeConfig {
            daemon: "[policy]\nexpect = true\n".to_owned(),
            ..NodeConfig::default()
        });
        let server = ApiServer::start(node.netns());
        server.set("namespaces", namespace("shop"));
        Scene {
            agent: None,
            server,
            node,
        }
    }

    /// One that is ready.
    #[track_caller]
    pub fn started() -> Scene {
        let mut scene = Scene::new();
        scene.start("");
        scene
    }

    /// Starts the agent, with more lines for its configuration, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, more: &str) {
        self.agent = Some(Agent::start(&self.node, &self.server, more));
        self.agent().ready();
    }

    /// The running agent.
    ///
    /// # Panics
    /// If none runs.
    #[track_caller]
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the agent runs")
    }

    /// The daemon's object of a pod of namespace `shop`.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Option<Value> {
        let filter = json!({"namespace": "shop", "name": name});
        let mut found = self.node.get("pod", &filter);
        found.pop().map(|entry| entry["object"].clone())
    }

    /// Waits until the daemon has a pod with this address.
    #[track_caller]
    pub fn has(&self, name: &str, address: &str) {
        eventually(&format!("{name} has {address}"), HUNG, || {
            let pod = self.pod(name)?;
            let addresses = pod["addresses"].as_array()?;
            addresses.contains(&json!(address)).then_some(())
        });
    }

    /// A pod comes, and the daemon hears of it.
    #[track_caller]
    pub fn follows(&self, name: &str, number: u8) {
        let address = format!("10.244.9.{number}");
        let object = pod(
            &format!("shop/{name}"),
            std::slice::from_ref(&address),
            &json!({}),
            0,
        );
        self.server.set("pods", object);
        self.has(name, &address);
    }

    /// Two pods of this node, attached and described.
    pub fn two_pods(&self) -> [Pod; 2] {
        ["web", "client"].map(|name| {
            let name = format!("shop/{name}");
            let pod = self.node.undescribed_pod(&name);
            let labels = json!({"app": name.rsplit('/').next()});
            self.server.set("pods", attached(&name, &pod, &labels));
            pod
        })
    }
}

/// What a node's daemon has of a cluster, by kind.
#[track_caller]
pub fn described(node: &Node) -> Vec<Vec<Value>> {
    let of = |kind: &&str| -> Vec<Value> {
        let all = node.get(kind, &json!({}));
        all.into_iter()
            .map(|entry| entry["object"].clone())
            .collect()
    };
    KINDS.iter().map(of).collect()
}

/// What `podswitchctl policy apply` makes of the recorded lists whose names end with `suffix`.
#[track_caller]
pub fn by_hand(suffix: &str) -> Vec<Vec<Value>> {
    let node = Node::new(NodeConfig::default());
    for plural in ["namespaces", "pods", "networkpolicies"] {
        let list = recorded_list(&format!("{plural}{suffix}"));
        if list["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
        {
            let ended = node
                .ctl()
                .run_with(&["policy", "apply", "-f", "-"], list.to_string().as_bytes());
            ended.success("policy apply");
        }
    }
    described(&node)
}
