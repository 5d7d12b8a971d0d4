// SPDX-License-Identifier: Apache-2.0
//! Which values cannot be.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use podswitch_api::Limits;
use podswitch_api::limits::{MAX_MTU, MAX_WORKERS, MIN_MTU};

use super::Config;
use super::conntrack::MAX_TIMEOUT;

/// Longest path of a unix socket (`sun_path` less its terminating zero, unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Most chunks of an arena, as the datapath makes them (`podswitch_datapath::frame::MAX_CHUNKS`).
const MAX_ARENA_CHUNKS: u32 = 1 << 18;
/// Most ports that share an arena unless configured.
const PORTS_PER_ARENA: u32 = 16;

/// A value that cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The key, as a path: `memory.chunks_per_port`.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.message)
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &'static str, value: impl fmt::Display, message: impl Into<String>) {
        self.0.push(Problem {
            key,
            value: value.to_string(),
            message: message.into(),
        });
    }

    fn range(&mut self, key: &'static str, value: u32, range: RangeInclusive<u32>) {
        if !range.contains(&value) {
            self.add(
                key,
                value,
                format!("out of range; choose {} to {}", range.start(), range.end()),
            );
        }
    }

    fn power_of_two(&mut self, key: &'static str, value: u32, range: RangeInclusive<u32>) {
        if !value.is_power_of_two() || !range.contains(&value) {
            self.add(
                key,
                value,
                format!(
                    "choose a power of two from {} to {}",
                    range.start(),
                    range.end()
                ),
            );
        }
    }

    fn absolute(&mut self, key: &'static str, path: &Path) {
        if path.to_string_lossy().contains(char::is_control) {
            self.add(
                key,
                format_args!("{path:?}"),
                "has control characters; leave them out",
            );
        }
        if !path.is_absolute() {
            self.add(
                key,
                format_args!("{path:?}"),
                "not an absolute path; begin it with /",
            );
        }
    }
}

pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    paths(config, &mut problems);
    workers(config, &mut problems);
    problems.range("mtu", config.mtu, MIN_MTU..=MAX_MTU);
    gateway(config, &mut problems);
    problems.range("idle.spin_us", config.idle.spin_us, 0..=1_000_000);
    problems.range("idle.latency_us", config.idle.latency_us, 0..=1_000_000);
    memory(config, &mut problems);
    limits(config, &mut problems);
    problems.range("xdp.kick_budget", config.xdp.kick_budget, 1..=64);
    problems.range("xdp.watchdog_ms", config.xdp.watchdog_ms, 100..=60_000);
    problems.range(
        "icmp.errors_per_second",
        config.icmp.errors_per_second,
        0..=1_000_000,
    );
    conntrack(config, &mut problems);
    let deadline = config.policy.deadline_seconds;
    problems.range("policy.deadline_seconds", deadline, 1..=86_400);
    masquerade(config, &mut problems);
    problems.0
}

fn paths(config: &Config, problems: &mut Problems) {
    problems.absolute("socket", &config.socket);
    problems.absolute("state_dir", &config.state_dir);
    if let Some(cgroup) = &config.cgroup {
        problems.absolute("cgroup", cgroup);
    }
    let length = config.socket.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        let message = format!(
            "{length} bytes are too long for a unix socket; choose a path of at most {MAX_SOCKET_PATH} bytes"
        );
        problems.add("socket", format_args!("{:?}", config.socket), message);
    }
    if let Some(group) = &config.socket_group
        && (group.is_empty() || group.contains(char::is_control))
    {
        problems.add(
            "socket_group",
            format_args!("{group:?}"),
            "empty or with control characters; name a group, or leave it out",
        );
    }
}

fn workers(config: &Config, problems: &mut Problems) {
    let cores = &config.workers;
    if cores.is_empty() {
        problems.add("workers", "[]", "no worker; list at least one core");
    }
    if cores.len() > MAX_WORKERS {
        problems.add(
            "workers",
            format_args!("({} cores)", cores.len()),
            format!("too many; list at most {MAX_WORKERS}"),
        );
    }
    for (i, core) in cores.iter().enumerate() {
        if cores[..i].contains(core) {
            problems.add("workers", core, "the core comes twice; list each once");
        }
    }
}

fn gateway(config: &Config, problems: &mut Problems) {
    let g = &config.gateway;
    let v4 = g.ipv4;
    if v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast() {
        problems.add(
            "gateway.ipv4",
            v4,
            "not the address of a host; 169.254.1.1 meets no pod's",
        );
    }
    if !g.ipv6.is_unicast_link_local() {
        problems.add(
            "gateway.ipv6",
            g.ipv6,
            "not link-local (RFC 4861 section 4.2); choose one of fe80::/64, such as fe80::1",
        );
    }
    if !g.mac.is_unicast() {
        problems.add(
            "gateway.mac",
            g.mac,
            "not a station's address; choose a unicast one, such as 02:70:6f:64:73:77",
        );
    }
}

fn memory(config: &Config, problems: &mut Problems) {
    let m = &config.memory;
    if let Some(ports) = m.ports_per_arena {
        problems.range("memory.ports_per_arena", ports, 1..=1024);
    }
    if let Some(chunks) = m.chunks_per_port {
        let ports = m.ports_per_arena.unwrap_or(PORTS_PER_ARENA);
        let all = u64::from(chunks) * u64::from(ports);
        if all > u64::from(MAX_ARENA_CHUNKS) {
            let message = format!(
                "{all} chunks, with {ports} ports, are too many for an arena, which has at most {MAX_ARENA_CHUNKS}; choose \
                 fewer, or fewer memory.ports_per_arena"
            );
            problems.add("memory.chunks_per_port", chunks, message);
        } else {
            let range = 64..=MAX_ARENA_CHUNKS;
            problems.range("memory.chunks_per_port", chunks, range);
        }
    }
}

fn conntrack(config: &Config, problems: &mut Problems) {
    let c = &config.conntrack;
    problems.power_of_two("conntrack.entries", c.entries, 1024..=1 << 24);
    if let Some(of_a_port) = c.entries_per_port {
        problems.range("conntrack.entries_per_port", of_a_port, 1..=1 << 24);
    }
    problems.range("conntrack.fragments", c.fragments, 64..=1 << 20);
    problems.range("conntrack.join_seconds", c.join_seconds, 0..=3600);
    for (key, seconds) in c.timeouts() {
        problems.range(key, seconds, 1..=MAX_TIMEOUT);
    }
}

fn masquerade(config: &Config, problems: &mut Problems) {
    let Some(ports) = config.masquerade.ports else {
        return;
    };
    let key = "masquerade.ports";
    if ports.first < 1024 || ports.last < ports.first {
        let message = "choose a first port of 1024 or more, and a last one not below it";
        return problems.add(key, ports, message);
    }
    let (count, workers) = (
        usize::from(ports.last - ports.first) + 1,
        config.workers.len(),
    );
    if count < workers {
        let message = format!(
            "{count} ports are fewer than the {workers} workers; each needs some of its own"
        );
        problems.add(key, ports, message);
    }
}

fn limits(config: &Config, problems: &mut Problems) {
    let (l, most) = (&config.limits, Limits::MAX);
    problems.range("limits.clients", l.clients, 1..=1024);
    problems.range("limits.request_bytes", l.request_bytes, 4096..=1 << 28);
    for (key, value, most) in [
        ("limits.ports", l.ports, most.ports),
        (
            "limits.addresses_per_port",
            l.addresses_per_port,
            most.addresses_per_port,
        ),
        (
            "limits.vlans_per_port",
            l.vlans_per_port,
            most.vlans_per_port,
        ),
        ("limits.routes", l.routes, most.routes),
        ("limits.neighbors", l.neighbors, most.neighbors),
        ("limits.segments", l.segments, most.segments),
        ("limits.fdb_entries", l.fdb_entries, most.fdb_entries),
        (
            "limits.fdb_entries_per_segment",
            l.fdb_entries_per_segment,
            most.fdb_entries_per_segment,
        ),
        ("limits.rules", l.rules, most.rules),
        ("limits.namespaces", l.namespaces, most.namespaces),
        ("limits.pods", l.pods, most.pods),
        (
            "limits.network_policies",
            l.network_policies,
            most.network_policies,
        ),
        (
            "limits.cluster_network_policies",
            l.cluster_network_policies,
            most.cluster_network_policies,
        ),
        ("limits.groups", l.groups, most.groups),
        ("limits.services", l.services, most.services),
        (
            "limits.service_backends",
            l.service_backends,
            most.service_backends,
        ),
    ] {
        problems.range(key, value, 1..=most);
    }
}
