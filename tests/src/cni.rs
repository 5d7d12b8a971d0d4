// SPDX-License-Identifier: Apache-2.0
//! Calling a CNI plugin by the contract (CNI specification 1.1.0, sections 2 and 5).

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::netns::Netns;
use crate::programs::{Ended, run};
use crate::wait::HUNG;

/// One execution of a plugin: what a runtime puts into its environment and standard input.
#[derive(Debug, Clone)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; empty where a runtime passes none.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`.
    pub path: PathBuf,
    /// Standard input, byte for byte.
    pub stdin: Vec<u8>,
    /// Variables of the call (`CNI_*`) that are to be missing altogether.
    pub unset: Vec<&'static str>,
}

impl Call {
    /// A call with the network configuration `conf`, for interface `eth0` of a container.
    pub fn new(command: &str, container: &str, netns: &str, path: PathBuf, conf: &Value) -> Call {
        Call {
            command: command.to_owned(),
            container: container.to_owned(),
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default".to_owned(),
            path,
            stdin: conf.to_string().into_bytes(),
            unset: Vec::new(),
        }
    }

    /// Puts the call into the environment of the plugin's command.
    pub fn environment(&self, command: &mut Command) {
        command.env("CNI_COMMAND", &self.command);
        command.env("CNI_CONTAINERID", &self.container);
        command.env("CNI_NETNS", &self.netns);
        command.env("CNI_IFNAME", &self.ifname);
        command.env("CNI_ARGS", &self.args);
        command.env("CNI_PATH", &self.path);
        for name in &self.unset {
            command.env_remove(name);
        }
    }

    /// A command that is this call of `plugin`, inside the namespace that plays the node.
    pub fn command(&self, node: &Netns, plugin: &std::path::Path) -> Command {
        let mut command = node.command(plugin);
        self.environment(&mut command);
        command
    }

    /// Executes it.
    ///
    /// # Panics
    /// If the plugin does not end in time.
    #[track_caller]
    pub fn execute(&self, node: &Netns, plugin: &std::path::Path) -> Reply {
        Reply {
            ended: run(&mut self.command(node, plugin), &self.stdin, HUNG),
            call: self.command.clone(),
        }
    }
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub struct Reply {
    ended: Ended,
    call: String,
}

impl Reply {
    /// Exit status.
    pub fn status(&self) -> i32 {
        self.ended.status
    }

    /// Standard output.
    pub fn stdout(&self) -> &str {
        &self.ended.stdout
    }

    /// The result of a call that must have succeeded; null when it prints nothing.
    ///
    /// # Panics
    /// If it failed, or printed anything but one JSON value.
    #[track_caller]
    pub fn result(&self) -> Value {
        let Ended {
            status,
            stdout,
            stderr,
        } = &self.ended;
        assert_eq!(
            *status, 0,
            "{} failed\nstdout: {stdout}\nstderr: {stderr}",
            self.call
        );
        if stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(stdout)
            .unwrap_or_else(|e| panic!("{} printed no JSON: {e}: {stdout}", self.call))
    }

    /// The error object of a call that must have failed (section 5 "Error").
    ///
    /// # Panics
    /// If it succeeded, or the object lacks what the specification asks for.
    #[track_caller]
    pub fn error(&self) -> CniError {
        let Ended {
            status,
            stdout,
            stderr,
        } = &self.ended;
        let shown = format!(
            "{}: status {status}\nstdout: {stdout}\nstderr: {stderr}",
            self.call
        );
        assert_ne!(*status, 0, "this must fail: {shown}");
        assert!(*status < 128, "ended by a signal: {shown}");
        let value: Value = serde_json::from_str(stdout)
            .unwrap_or_else(|e| panic!("no error object: {e}: {shown}"));
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let error = CniError {
            code: value["code"]
                .as_u64()
                .unwrap_or_else(|| panic!("no code: {shown}")),
            msg: text("msg"),
            details: text("details"),
            version: text("cniVersion"),
        };
        assert!(!error.msg.is_empty(), "no msg: {shown}");
        assert!(!error.version.is_empty(), "no cniVersion: {shown}");
        error
    }
}

/// A CNI error object.
#[derive(Debug, Clone)]
pub struct CniError {
    /// Code; 1 to 99 are the specification's.
    pub code: u64,
    /// Short message.
    pub msg: String,
    /// Longer message, often empty.
    pub details: String,
    /// Version of the object.
    pub version: String,
}

impl CniError {
    /// True if the message or its details contain a word.
    pub fn mentions(&self, word: &str) -> bool {
        self.msg.contains(word) || self.details.contains(word)
    }
}

/// The addresses of a result, without prefix lengths, in its order. Knows the shape before 0.3.0 no more than we do.
///
/// # Panics
/// If an address is no text.
#[track_caller]
pub fn addresses(result: &Value) -> Vec<std::net::IpAddr> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    let parse = |ip: &Value| {
        let text = ip["address"].as_str().expect("an address is text");
        text.split('/')
            .next()
            .and_then(|a| a.parse().ok())
            .unwrap_or_else(|| panic!("no address: {text}"))
    };
    ips.iter().map(parse).collect()
}

/// The interface of a result that lies in the sandbox.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn sandbox_interface(result: &Value) -> Value {
    let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
    let inside = |i: &&Value| i["sandbox"].as_str().is_some_and(|s| !s.is_empty());
    interfaces
        .iter()
        .find(inside)
        .cloned()
        .unwrap_or_else(|| panic!("no interface in a sandbox: {result}"))
}

/// The attachments a runtime still knows, as GC passes them (`cni.dev/valid-attachments`).
pub fn valid_attachments(containers: &[&str]) -> Value {
    containers
        .iter()
        .map(|id| json!({"containerID": id, "ifname": "eth0"}))
        .collect()
}
