// SPDX-License-Identifier: Apache-2.0
//! `health`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podswitch_api::method::{
    HealthResult, HealthStatus, PortState, Problem, Severity, WorkerHealth,
};
use podswitch_datapath::WorkerId;
use podswitch_datapath::switch::{self, Pinning, Waiting};

use super::Engine;
use super::stats::core;
use crate::host_ports;

/// A worker that has not taken a turn for longer, without sleeping, is in trouble.
const SILENT: Duration = Duration::from_secs(2);

/// When each worker was last seen to have taken a turn.
#[derive(Debug, Default)]
pub(super) struct Pulse(BTreeMap<WorkerId, (u64, Instant)>);

impl Pulse {
    /// Looks; to be called about once a second.
    pub(super) fn feel(&mut self, workers: &[switch::WorkerHealth]) {
        let now = Instant::now();
        for w in workers {
            let last = self.0.entry(w.id).or_insert((w.cycles.turns, now));
            if last.0 != w.cycles.turns || w.asleep {
                *last = (w.cycles.turns, now);
            }
        }
    }

    /// How long a worker has not been seen to take a turn; none for one that sleeps.
    fn age(&self, w: &switch::WorkerHealth) -> Duration {
        match self.0.get(&w.id) {
            Some((turns, at)) if *turns == w.cycles.turns && !w.asleep => at.elapsed(),
            _ => Duration::ZERO,
        }
    }
}

impl Engine {
    pub(super) fn health(&self) -> HealthResult {
        let mut problems = Vec::new();
        let states = self.switch.workers();
        let workers: Vec<WorkerHealth> = states
            .iter()
            .map(|w| self.worker_health(w, &mut problems))
            .collect();
        self.port_problems(&mut problems);
        self.neighbor_problems(&mut problems);
        self.host_problems(&mut problems);
        self.deaf_servers(&mut problems);
        self.socket_problems(&mut problems);
        self.zero_copy_problems(&mut problems);
        problems.extend(self.start_problems.iter().cloned());
        let dead = states.iter().any(|w| !w.alive);
        let all_silent = !workers.is_empty() && workers.iter().all(|w| !w.alive);
        let worst = problems.iter().map(|p| p.severity).max();
        HealthResult {
            status: match worst {
                _ if dead || all_silent => HealthStatus::Failing,
                Some(Severity::Error | Severity::Warning) => HealthStatus::Degraded,
                Some(Severity::Notice) | None => HealthStatus::Ok,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.model.generation(),
            ports_up: self
                .ports
                .values()
                .filter(|p| p.state == PortState::Up)
                .count() as u32,
            ports: self.ports.len() as u32,
            workers,
            problems,
        }
    }

    fn worker_health(&self, w: &switch::WorkerHealth, problems: &mut Vec<Problem>) -> WorkerHealth {
        let age = self.pulse.age(w);
        let silent = age > SILENT;
        let subject = format!("worker {}", w.id);
        let mut add = |severity, message: &str, hint: &str| {
            problems.push(problem(severity, &subject, message, hint));
        };
        if !w.alive {
            add(
                Severity::Error,
                "its thread has ended, its ports are dead",
                "restart podswitchd, and report its log",
            );
        } else if silent {
            add(
                Severity::Warning,
                "it has not run for seconds",
                "see what else runs on its core",
            );
        }
        if let Pinning::Refused(core) = w.pinning {
            add(
                Severity::Warning,
                &format!("it could not be pinned to core {core}"),
                "let the process use that core (cpuset, taskset), or configure another",
            );
        }
        if let Waiting::WakesTooSlowly(measured) = w.waiting {
            add(
                Severity::Notice,
                &format!(
                    "it never sleeps: waking it took {} us, above idle.latency_us = {}",
                    measured.as_micros(),
                    self.config.idle.latency_us
                ),
                "raise idle.latency_us, or leave it the core to itself",
            );
        }
        if let Some(message) = nearly_full(w.connections, self.config.conntrack.entries) {
            add(
                Severity::Warning,
                &message,
                "see which pod opens so many (podswitchctl top), or raise conntrack.entries",
            );
        }
        WorkerHealth {
            id: w.id.0,
            core: core(w.pinning),
            alive: w.alive && !silent,
            sleeping: w.asleep,
            heartbeat_age_ms: age.as_millis() as u64,
            generation: w.cycles.generation,
        }
    }

    /// Servers of the host that hear nothing, as their port has come to lead to a pod before they came.
    fn deaf_servers(&self, problems: &mut Vec<Problem>) {
        let ports = || self.model.state().ports.iter();
        if ports().all(|(_, port)| port.host_ports.is_empty()) {
            return;
        }
        let Ok(waiting) = podswitch_host::ports::waiting() else {
            return;
        };
        for (name, port) in ports() {
            for mapping in &port.host_ports {
                if let Some(held) = host_ports::holder(mapping, &waiting) {
                    problems.push(problem(
                        Severity::Warning,
                        &format!("port {name}"),
                        &format!("the host's socket at {}/{} hears nothing by a NIC: port {mapping} of the node leads to the pod", held.protocol, held.local),
                        "end what waits there, or choose another port of the node (hostPort) for the pod",
                    ));
                }
            }
        }
    }

    /// Ports that are not up, and pods that nobody has described in time.
    fn port_problems(&self, problems: &mut Vec<Problem>) {
        for (name, live) in &self.ports {
            if live.state != PortState::Up {
                let message = live.message.as_deref().unwrap_or("its device is not open");
                problems.push(problem(
                    Severity::Warning,
                    &format!("port {name}"),
                    message,
                    "podswitchctl port list shows its state",
                ));
            }
        }
        let deadline = Duration::from_secs(self.config.policy.deadline_seconds.into());
        for (name, since) in self.policies.pending() {
            let waited = since.elapsed();
            if waited < deadline {
                continue;
            }
            let pod = self.policies.compiler().pod_behind(name);
            let pod = pod.map_or_else(|| "?".to_owned(), ToString::to_string);
            let message = format!(
                "closed (policy_pending) for {} s: pod {pod} or its namespace is not described",
                waited.as_secs()
            );
            problems.push(problem(
                Severity::Error,
                &format!("port {name}"),
                &message,
                "see why the agent does not send it; policy.expect = false opens such pods",
            ));
        }
    }
}

/// What is wrong with a flow table of `entries` in which so many connections are, if something is.
fn nearly_full(connections: u64, entries: u32) -> Option<String> {
    let entries = u64::from(entries);
    let full = connections.saturating_mul(10) >= entries.saturating_mul(9);
    full.then(|| {
        format!(
            "its flow table is nearly full: {connections} of {entries} connections; new ones of pods with network policy are \
             refused when it is (flow_table_full)"
        )
    })
}

pub(super) fn problem(severity: Severity, subject: &str, message: &str, hint: &str) -> Problem {
    Problem {
        severity,
        subject: subject.to_owned(),
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_tenths_of_a_flow_table_are_nearly_all() {
        assert_eq!(nearly_full(900, 1024), None);
        let message = nearly_full(922, 1024).unwrap();
        assert!(message.contains("922 of 1024"), "{message}");
        assert!(nearly_full(1 << 24, 1 << 24).is_some());
    }
}
