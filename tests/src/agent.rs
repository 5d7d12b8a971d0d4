// SPDX-License-Identifier: Apache-2.0
//! A podswitch-agent of the test's own, and objects as the API writes them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::netns::Netns;
use crate::node::{Node, Pod};
use crate::programs::{Running, bin_dir, run};
use crate::wait::{HUNG, eventually};

/// Where it serves its health, in the node.
const LISTEN: &str = "127.0.0.1:9470";

/// A running agent; killed when dropped. If the test is failing its log is printed.
#[derive(Debug)]
pub struct Agent {
    running: Running,
    netns: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts it on the node called `n1`, with more lines for its configuration.
    ///
    /// # Panics
    /// If the program is missing.
    #[track_caller]
    pub fn start(node: &Node, server: &ApiServer, more: &str) -> Agent {
        Agent::start_as("n1", node, server, more)
    }

    /// Starts it on the node of this name.
    ///
    /// # Panics
    /// If the program is missing.
    #[track_caller]
    pub fn start_as(name: &str, node: &Node, server: &ApiServer, more: &str) -> Agent {
        let kubeconfig = node.dir().join("kubeconfig");
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
        std::fs::write(&kubeconfig, text.to_string()).expect("write the kubeconfig");
        let config = node.dir().join("podswitch-agent.toml");
        let text = format!(
            "socket = {:?}\n[log]\nlevel = \"debug\"\n[kubernetes]\nkubeconfig = {kubeconfig:?}\napi_server = {:?}\n{more}\n",
            node.socket(),
            server.url()
        );
        std::fs::write(&config, text).expect("write the agent's configuration");
        let log = node.dir().join("podswitch-agent.log");
        let out = File::options().create(true).append(true).open(&log);
        let out = out.expect("the agent's log");
        let err = out.try_clone().expect("the agent's log");
        let mut command = node.netns().command(program());
        command.arg("--config").arg(&config).env("NODE_NAME", name);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Agent {
            running: Running::start(&mut command),
            netns: node.netns().path().to_owned(),
            log,
        }
    }

    /// What it, and those before it on this node, have printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The answer to a GET: status and body; none while it does not listen.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let stream = Netns::at(&self.netns).run(|| TcpStream::connect(LISTEN));
        let mut stream = stream.ok()?;
        stream.set_read_timeout(Some(HUNG)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// If it does not become so, with its log.
    #[track_caller]
    pub fn ready(&self) {
        let ready = || {
            self.get("/readyz")
                .filter(|(status, _)| *status == 200)
                .map(drop)
        };
        eventually("the agent is ready", HUNG, ready);
    }

    /// The value of a line of its metrics, which is named with its labels.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        let mut lines = text.lines();
        lines.find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(mut self) {
        self.running.signal(Signal::SIGKILL);
        self.running.wait(HUNG);
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Panics
    /// If its exit status is not 0.
    #[track_caller]
    pub fn terminate(mut self) {
        self.running.signal(Signal::SIGTERM);
        assert_eq!(
            self.running.wait(HUNG),
            0,
            "the agent's status:\n{}",
            self.log()
        );
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.running.pid());
        let status = std::fs::read_to_string(&path).expect("the agent runs");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("VmHWM") << 10
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of podswitch-agent\n{}----", self.log());
        }
    }
}

/// The program.
///
/// # Panics
/// If it is missing.
#[track_caller]
pub fn program() -> PathBuf {
    let path = bin_dir().join("podswitch-agent");
    assert!(
        path.is_file(),
        "{} is missing: run 'cargo build --release', then the tests again",
        path.display()
    );
    path
}

/// Runs `podswitch-agent cleanup` with the configuration of a node's agent.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn cleanup(node: &Node) {
    let mut command = node.netns().command(program());
    let config = node.dir().join("podswitch-agent.toml");
    let ended = run(
        command.arg("cleanup").arg("--config").arg(config),
        b"",
        HUNG,
    );
    ended.success("podswitch-agent cleanup");
}

/// A Namespace.
pub fn namespace(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {}, "status": {"phase": "Active"}})
}

/// A Node with these addresses and these prefixes of pods.
pub fn node(name: &str, addresses: &[String], pods: &[String]) -> Value {
    let internal = addresses
        .iter()
        .map(|a| json!({"type": "InternalIP", "address": a}));
    let mut all: Vec<Value> = internal.collect();
    all.push(json!({"type": "Hostname", "address": name}));
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"podCIDR": pods.first(), "podCIDRs": pods}, "status": {"addresses": all}})
}

/// A Pod `namespace/name` that runs with these addresses, made at a second of a certain hour.
///
/// # Panics
/// If the name has no slash.
#[track_caller]
pub fn pod(name: &str, addresses: &[String], labels: &Value, second: u32) -> Value {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": labels,
            "creationTimestamp": format!("2026-11-22T08:00:{second:02}Z")},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips}})
}

/// The Pod object of a pod of this node, by its addresses.
#[track_caller]
pub fn attached(name: &str, pod: &Pod, labels: &Value) -> Value {
    let addresses = [pod.v4().to_string(), pod.v6().to_string()];
    self::pod(name, &addresses, labels, 0)
}

/// A NetworkPolicy `namespace/name`.
///
/// # Panics
/// If the name has no slash.
#[track_caller]
pub fn network_policy(name: &str, spec: &Value) -> Value {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    json!({"metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")}, "spec": spec})
}
