// SPDX-License-Identifier: Apache-2.0
//! The recorded calls of real runtimes in `tests/data/cni`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One execution of a CNI plugin, as a shim in its place saw it.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    /// Seconds since 1970; orders the calls.
    pub time: f64,
    /// The node it was on, where there was more than one.
    #[serde(default)]
    pub node: Option<String>,
    /// Name of the plugin.
    pub plugin: String,
    /// The `CNI_*` part of its environment.
    pub env: BTreeMap<String, String>,
    /// Its standard input.
    pub stdin: Value,
    /// Its exit status.
    pub rc: i32,
    /// What it printed: an object, or an empty text.
    pub stdout: Value,
    /// True where the shim made the call fail without running the plugin.
    #[serde(default)]
    pub injected: bool,
}

impl Record {
    /// A variable; empty if it was not set.
    pub fn var(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }
}

/// The calls of one scenario in the order of time: `load("kubelet")` reads `tests/data/cni/kubelet.jsonl`.
///
/// # Panics
/// If there is no such file or a line is no record.
#[track_caller]
pub fn load(scenario: &str) -> Vec<Record> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/cni")
        .join(scenario)
        .with_extension("jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut records: Vec<Record> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let record = serde_json::from_str(line);
        records.push(record.unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), number + 1)));
    }
    records.sort_by(|a, b| a.time.total_cmp(&b.time));
    records
}
