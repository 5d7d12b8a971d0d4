// SPDX-License-Identifier: Apache-2.0
//! Desired state and counters of a node, by bare JSON on its control socket, as `docs/control-protocol.md` writes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::ctl::Wire;
use crate::node::{Node, Pod};

/// A change that adds or replaces an object.
pub fn set(object: Value) -> Value {
    json!({"op": "set", "object": object})
}

/// A change that removes the object with this key.
pub fn delete(key: Value) -> Value {
    json!({"op": "delete", "key": key})
}

/// A rule of one port; `more` holds the conditions that are not "any".
pub fn rule(name: &str, port: &str, direction: &str, action: &str, more: &Value) -> Value {
    let mut rule = json!({"kind": "rule", "name": name, "port": port, "direction": direction, "priority": 100,
        "action": action});
    for (key, value) in more.as_object().into_iter().flatten() {
        rule[key] = value.clone();
    }
    rule
}

impl Node {
    /// Calls a method of the control protocol on a connection of its own.
    #[track_caller]
    pub fn rpc(&self, method: &str, params: &Value) -> Result<Value, Value> {
        Wire::connect(&self.socket()).call(method, params)
    }

    /// Carries out changes.
    ///
    /// # Panics
    /// If the daemon refuses them.
    #[track_caller]
    pub fn apply(&self, changes: &[Value]) -> Value {
        let applied = self.rpc("apply", &json!({"changes": changes}));
        applied.unwrap_or_else(|e| panic!("apply {}: {e}", json!(changes)))
    }

    /// Objects of a kind that a filter lets through, as `get` returns them (`object` and `status`).
    ///
    /// # Panics
    /// If the daemon refuses, or there is more than one page.
    #[track_caller]
    pub fn get(&self, kind: &str, filter: &Value) -> Vec<Value> {
        let result = self.rpc("get", &json!({"kind": kind, "filter": filter}));
        let result = result.unwrap_or_else(|e| panic!("get {kind} {filter}: {e}"));
        assert!(
            result.get("continue").is_none(),
            "more than one page of {kind}"
        );
        result["objects"]
            .as_array()
            .expect("objects is a list")
            .clone()
    }

    /// The port of a pod, if the daemon has one: `object` and `status`.
    ///
    /// # Panics
    /// If it has more than one.
    #[track_caller]
    pub fn port(&self, pod: &Pod) -> Option<Value> {
        let mut ports = self.get("port", &json!({"container_id": pod.container}));
        assert!(ports.len() <= 1, "one pod, many ports: {ports:?}");
        ports.pop()
    }

    /// The name of a pod's port.
    ///
    /// # Panics
    /// If the daemon has none.
    #[track_caller]
    pub fn port_name(&self, pod: &Pod) -> String {
        let port = self.port(pod).expect("the daemon has a port of the pod");
        port["object"]["name"]
            .as_str()
            .expect("a port's name")
            .to_owned()
    }

    /// The host end of a pod's veth.
    ///
    /// # Panics
    /// If the daemon has no port of the pod.
    #[track_caller]
    pub fn host_end(&self, pod: &Pod) -> String {
        let port = self.port(pod).expect("the daemon has a port of the pod");
        port["object"]["device"]["interface"]
            .as_str()
            .expect("a port's interface")
            .to_owned()
    }

    /// All counters.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[track_caller]
    pub fn stats(&self) -> Value {
        self.rpc("stats", &json!({})).expect("stats")
    }

    /// Drops of the whole switch by reason, the kernel's too; reasons that have not happened are 0.
    #[track_caller]
    pub fn drops(&self) -> Drops {
        let stats = self.stats();
        let mut all = BTreeMap::new();
        for table in ["drops", "kernel_drops"] {
            for (reason, count) in stats[table].as_object().into_iter().flatten() {
                all.insert(reason.clone(), count.as_u64().expect("a count"));
            }
        }
        Drops(all)
    }

    /// Frames that a rule has decided.
    ///
    /// # Panics
    /// If there is no such rule.
    #[track_caller]
    pub fn rule_packets(&self, name: &str) -> u64 {
        let stats = self.stats();
        let rules = stats["rules"].as_array().expect("rules is a list");
        let rule = rules
            .iter()
            .find(|r| r["name"] == name)
            .unwrap_or_else(|| panic!("no rule {name}: {stats}"));
        rule["packets"].as_u64().expect("a count")
    }
}

/// Drops by reason at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops(BTreeMap<String, u64>);

impl Drops {
    /// The count of one reason.
    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// The sum of all reasons.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Reasons that have grown since an earlier moment, and by how much.
    pub fn since(&self, earlier: &Drops) -> BTreeMap<String, u64> {
        let grown = self
            .0
            .iter()
            .map(|(reason, count)| (reason.clone(), count - earlier.of(reason)));
        grown.filter(|(_, count)| *count > 0).collect()
    }
}
