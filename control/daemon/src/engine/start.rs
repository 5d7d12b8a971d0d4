// SPDX-License-Identifier: Apache-2.0
//! What the switch is started with, and what is wrong with the machine from the beginning.

use std::time::Duration;

use podswitch_api::method::{Problem, Severity};
use podswitch_datapath::flow::{Phase, Timeouts};
use podswitch_datapath::port::xdp::Features;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::switch::{IdleConfig, MemoryPlan, SwitchConfig, WorkerConfig};
use podswitch_host::probe;
use podswitch_state::config::{Config, ConntrackConfig};
use rustix::process::{Resource, getrlimit};
use tracing::warn;

/// Descriptors of one port: its AF_XDP socket, the steering program and its two maps, with one to spare.
const PER_PORT: u64 = 5;
/// Descriptors of everything else but ports and clients: the store, memory, workers, links, logs.
const OTHERS: u64 = 256;

/// The switch's configuration after the daemon's. Connections that began before may be joined where there were ports before.
pub(super) fn switch_config(config: &Config, features: Features, had_ports: bool) -> SwitchConfig {
    let joins_for = match had_ports {
        true => Duration::from_secs(config.conntrack.join_seconds.into()),
        false => Duration::ZERO,
    };
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
        flow_entries: config.conntrack.entries as usize,
        flow_timeouts: timeouts(&config.conntrack),
        flow_quota: config.conntrack.entries_per_port.unwrap_or(u32::MAX),
        joins_for,
        nat_ports: config.masquerade.ports.map(Into::into),
        nat_files: (0..config.workers.len())
            .map(|worker| config.bindings_file(worker))
            .collect(),
        fragment_entries: config.conntrack.fragments as usize,
        icmp_errors: Rate {
            per_second,
            burst: (per_second / 2).max(1),
        },
        features,
        kicks_per_turn: config.xdp.kick_budget,
        ..SwitchConfig::default()
    }
}

fn timeouts(config: &ConntrackConfig) -> Timeouts {
    let mut timeouts = Timeouts::default();
    for (phase, seconds) in [
        (Phase::TcpSynSent, config.tcp_syn_sent),
        (Phase::TcpSynReceived, config.tcp_syn_received),
        (Phase::TcpEstablished, config.tcp_established),
        (Phase::TcpHalfClosed, config.tcp_half_closed),
        (Phase::TcpTimeWait, config.tcp_time_wait),
        (Phase::TcpClosed, config.tcp_closed),
        (Phase::UdpNew, config.udp),
        (Phase::UdpReplied, config.udp_replied),
        (Phase::Icmp, config.icmp),
        (Phase::SctpNew, config.sctp_new),
        (Phase::SctpEstablished, config.sctp_established),
        (Phase::SctpClosed, config.sctp_closed),
        (Phase::Other, config.other),
    ] {
        timeouts.set(phase, seconds.saturating_mul(1000));
    }
    timeouts
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says_of_connections_is_what_the_switch_gets() {
        let mut config = Config::new(vec![0]);
        let phases = [Phase::TcpSynSent, Phase::TcpEstablished, Phase::Other];
        let switch = switch_config(&config, Features::default(), true);
        for phase in phases {
            let usual = Timeouts::default().of(phase);
            assert_eq!(switch.flow_timeouts.of(phase), usual, "{phase:?}");
        }
        assert_eq!(
            (switch.flow_quota, switch.joins_for),
            (u32::MAX, Duration::from_secs(60))
        );
        config.conntrack.entries_per_port = Some(7);
        config.conntrack.other = 1_400_000;
        config.conntrack.udp = 2;
        let switch = switch_config(&config, Features::default(), false);
        assert_eq!(switch.flow_timeouts.of(Phase::Other), Timeouts::MAX);
        assert_eq!(switch.flow_timeouts.of(Phase::UdpNew), 2000);
        assert_eq!((switch.flow_quota, switch.joins_for), (7, Duration::ZERO));
    }
}
