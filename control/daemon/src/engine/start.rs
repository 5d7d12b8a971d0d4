// SPDX-License-Identifier: Apache-2.0
//! What the switch is started with, and what is wrong with the machine from the beginning.

use std::time::Duration;

use podswitch_api::method::{Problem, Severity};
use podswitch_datapath::port::xdp::Features;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::switch::{IdleConfig, MemoryPlan, SwitchConfig, WorkerConfig};
use podswitch_host::probe;
use podswitch_state::config::Config;
use rustix::process::{Resource, getrlimit};
use tracing::warn;

/// Descriptors of one port: its AF_XDP socket, the steering program and its two maps, with one to spare.
const PER_PORT: u64 = 5;
/// Descriptors of everything else but ports and clients: the store, memory, workers, links, logs.
const OTHERS: u64 = 256;

/// The switch's configuration after the daemon's.
pub(super) fn switch_config(config: &Config, features: Features) -> SwitchConfig {
    let per_second = config.icmp.errors_per_second;
    SwitchConfig {
        workers: config
            .workers
            .iter()
            .map(|core| WorkerConfig {
                core: Some(*core as usize),
                require_core: false,
            })
            .collect(),
        idle: IdleConfig {
            spin: Duration::from_micros(config.idle.spin_us.into()),
            latency: Duration::from_micros(config.idle.latency_us.into()),
        },
        memory: MemoryPlan {
            ports_per_arena: config.memory.ports_per_arena,
            chunks_per_port: config.memory.chunks_per_port,
        },
        flow_entries: config.flow.entries as usize,
        icmp_errors: Rate {
            per_second,
            burst: (per_second / 2).max(1),
        },
        features,
        kicks_per_turn: config.xdp.kick_budget,
        ..SwitchConfig::default()
    }
}

/// Throttled or shared cores cost every packet, and too few descriptors the last ports: found at the start and said, in the log and in `health`.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |subject: &str, message: String, hint: &str| {
        warn!(subject, message, "the machine limits the switch");
        problems.push(Problem {
            severity: Severity::Notice,
            subject: subject.to_owned(),
            message,
            hint: Some(hint.to_owned()),
        });
    };
    if let Ok(Some(quota)) = probe::cpu_quota()
        && quota.cpus() < config.workers.len() as f64 + 1.0
    {
        let message = format!(
            "the control group allows {:.2} cores for {} workers and control",
            quota.cpus(),
            config.workers.len()
        );
        add(
            "workers",
            message,
            "remove the CPU limit from podswitchd's container",
        );
    }
    if let Ok(allowed) = probe::affinity() {
        for core in config
            .workers
            .iter()
            .filter(|c| !allowed.contains(&(**c as usize)))
        {
            let message =
                format!("core {core} is not among those this process may use: {allowed:?}");
            add(
                "workers",
                message,
                "widen the process's CPU set (cpuset, taskset)",
            );
        }
    }
    let limits = &config.limits;
    let wanted = u64::from(limits.ports) * PER_PORT + u64::from(limits.clients) + OTHERS;
    if let Some(most) = getrlimit(Resource::Nofile).maximum
        && most < wanted
    {
        add(
            "limits.ports",
            format!(
                "{} ports may need {wanted} open files, and this process may have {most}",
                limits.ports
            ),
            "raise the hard limit of open files (LimitNOFILE= of systemd, ulimit -Hn), or lower limits.ports",
        );
    }
    problems
}
