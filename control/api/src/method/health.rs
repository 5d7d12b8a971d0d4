// SPDX-License-Identifier: Apache-2.0
//! `version` and `health`.

use std::net::{Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;

/// Result of `version`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct VersionResult {
    /// Version of the daemon (Semantic Versioning 2.0.0).
    pub version: String,
    /// Version of this protocol.
    pub protocol: u32,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Release of the kernel it runs on, as `uname -r` prints it.
    pub kernel: String,
    /// The gateway of every routed port.
    pub gateway: Gateway,
    /// MTU of a port that names none, in bytes.
    pub mtu: u32,
}

/// The gateway every routed port has, the same on all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Gateway {
    /// IPv4 address, on no subnet of a pod.
    pub ipv4: Ipv4Addr,
    /// IPv6 address, link-local.
    pub ipv6: Ipv6Addr,
    /// MAC address of both.
    pub mac: MacAddr,
}

/// Whether everything works.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum HealthStatus {
    /// Everything.
    Ok,
    /// Something does not, the rest goes on: `problems` says what.
    Degraded,
    /// No frame passes, or nothing can be changed.
    Failing,
}

/// How bad a problem is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; does not change `status`.
    Notice,
    /// Something does not work: `degraded`.
    Warning,
    /// What must work does not: of a worker, `failing`, else `degraded`.
    Error,
}

/// Something that does not work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `worker 1`, `port a`, `store`.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A worker's signs of life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WorkerHealth {
    /// Index into the configured list.
    pub id: u8,
    /// The core it is pinned to; absent when it could not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u32>,
    /// Its thread runs, and was heard of lately.
    pub alive: bool,
    /// It sleeps until there is work.
    pub sleeping: bool,
    /// Milliseconds since it was last heard of.
    pub heartbeat_age_ms: u64,
    /// Generation of the tables it uses.
    pub generation: u64,
}

/// Result of `health`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct HealthResult {
    /// The worst of what follows.
    pub status: HealthStatus,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Generation of the desired state.
    pub generation: u64,
    /// Every worker.
    pub workers: Vec<WorkerHealth>,
    /// Ports that are up, of all ports.
    pub ports_up: u32,
    /// All ports.
    pub ports: u32,
    /// What does not work; empty when all is well.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

crate::by_name!(VersionResult, Gateway, Problem, WorkerHealth, HealthResult);

crate::by_word!(HealthStatus, Severity);
