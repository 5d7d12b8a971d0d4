// SPDX-License-Identifier: Apache-2.0
//! Pods on a node with a running podswitchd, attached by the CNI contract.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podswitch_tests::cni::addresses;
use podswitch_tests::programs::bin_dir;
use podswitch_tests::{Netns, Node, NodeConfig};
use serde_json::Value;
use std::net::IpAddr;

/// A node whose one worker has the last core.
///
/// # Panics
/// When the daemon does not start.
pub fn node() -> Node {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let last = cores.last().map_or(0, |c| c.id);
    Node::new(NodeConfig {
        workers: vec![last as u32],
        ..NodeConfig::default()
    })
}

/// A namespace for a pod, and the id of its container.
pub struct Sandbox {
    /// The namespace.
    pub netns: Netns,
    container: String,
}

/// An attached pod.
pub struct Attached {
    /// What ADD printed.
    pub result: Value,
    /// From before the plugin was started to after it had ended.
    pub took: Duration,
}

impl Attached {
    /// Its address of a family.
    ///
    /// # Panics
    /// When it has none.
    pub fn address(&self, v6: bool) -> IpAddr {
        let all = addresses(&self.result);
        let ours = all.into_iter().find(|a| a.is_ipv6() == v6);
        ours.expect("an address of each family")
    }
}

impl Sandbox {
    /// Makes so many.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn make(node: &Node, count: usize) -> Vec<Sandbox> {
        let sandbox = |_| Sandbox {
            netns: Netns::new("pod"),
            container: node.container_id(),
        };
        (0..count).map(sandbox).collect()
    }

    /// ADD.
    ///
    /// # Panics
    /// When it fails.
    pub fn add(&self, node: &Node) -> Attached {
        let (printed, took) = self.call(node, "ADD");
        let result = serde_json::from_slice(&printed).expect("ADD prints JSON");
        Attached { result, took }
    }

    /// DEL; what it took.
    ///
    /// # Panics
    /// When it fails.
    pub fn delete(&self, node: &Node) -> Duration {
        self.call(node, "DEL").1
    }

    /// Executes the plugin as a runtime does: by itself, in the node's namespace.
    fn call(&self, node: &Node, verb: &str) -> (Vec<u8>, Duration) {
        let plugin = bin_dir().join("podswitch-cni");
        let netns = self.netns.path().to_string_lossy().into_owned();
        let call = node.call(verb, &self.container, &netns);
        node.netns().run(|| {
            let mut command = Command::new(&plugin);
            call.environment(&mut command);
            execute(&mut command, &call.stdin, &plugin)
        })
    }
}

fn execute(command: &mut Command, stdin: &[u8], plugin: &Path) -> (Vec<u8>, Duration) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", plugin.display()));
    if let Some(mut input) = child.stdin.take() {
        input.write_all(stdin).expect("the plugin reads its input");
    }
    let output = child.wait_with_output().expect("the plugin ends");
    let took = start.elapsed();
    assert!(
        output.status.success(),
        "the plugin failed: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.stdout, took)
}
