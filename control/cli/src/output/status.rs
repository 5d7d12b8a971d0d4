// SPDX-License-Identifier: Apache-2.0
//! Counters, rates, health and the rest as tables.

use std::collections::BTreeMap;

use podswitch_api::method::{
    AuditResult, HealthResult, HealthStatus, PolicyRuleStats, Severity, StatsResult, TeardownReport,
};

use super::{Table, sections};
use crate::command::{Rates, Versions};

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0, |a, b| a.saturating_add(*b))
}

fn reasons(counts: &BTreeMap<String, u64>) -> Table {
    let mut table = Table::new(&["REASON", "FRAMES"]);
    counts
        .iter()
        .for_each(|(reason, n)| table.row([reason.clone(), n.to_string()]));
    table
}

pub(crate) fn stats(stats: &StatsResult) -> String {
    let mut ports = Table::new(&[
        "NAME",
        "WORKER",
        "RX",
        "RX-BYTES",
        "TX",
        "TX-BYTES",
        "DROPPED",
        "KERNEL-DROPPED",
        "KICKS",
        "KICKS-AGAIN",
    ]);
    for p in &stats.ports {
        ports.row([
            p.name.clone(),
            p.worker.to_string(),
            p.rx_packets.to_string(),
            p.rx_bytes.to_string(),
            p.tx_packets.to_string(),
            p.tx_bytes.to_string(),
            sum(&p.drops).to_string(),
            sum(&p.kernel_drops).to_string(),
            p.kicks.to_string(),
            p.kicks_again.to_string(),
        ]);
    }
    let mut workers = Table::new(&[
        "WORKER", "CORE", "PORTS", "TURNS", "BUSY", "SLEEPS", "STALLS",
    ]);
    for w in &stats.workers {
        let busy = percent(w.busy_ns, w.busy_ns.saturating_add(w.idle_ns));
        let core = w.core.map(|c| c.to_string()).unwrap_or_default();
        workers.row([
            w.id.to_string(),
            core,
            w.ports.to_string(),
            w.turns.to_string(),
            busy,
            w.sleeps.to_string(),
            w.stalls.to_string(),
        ]);
    }
    let mut rules = Table::new(&["NAME", "PORT", "DIRECTION", "ACTION", "PACKETS", "BYTES"]);
    for r in &stats.rules {
        let (direction, action) = (r.direction.name().to_owned(), r.action.name().to_owned());
        rules.row([
            r.name.clone(),
            r.port.clone(),
            direction,
            action,
            r.packets.to_string(),
            r.bytes.to_string(),
        ]);
    }
    let mut tables = Table::new(&["TABLE", "ENTRIES", "CAPACITY", "LOOKUPS", "HITS"]);
    for t in &stats.tables {
        tables.row([
            t.name.clone(),
            t.entries.to_string(),
            t.capacity.map(|n| n.to_string()).unwrap_or_default(),
            t.lookups.map(|n| n.to_string()).unwrap_or_default(),
            t.hits.map(|n| n.to_string()).unwrap_or_default(),
        ]);
    }
    sections(vec![
        ("Ports", ports),
        ("Dropped", reasons(&stats.drops)),
        ("Dropped by the kernel", reasons(&stats.kernel_drops)),
        ("Workers", workers),
        ("Rules", rules),
        ("Policies", policies(&stats.policies)),
        ("Tables", tables),
    ])
}

/// Rules of policies with their counters.
pub(super) fn policies(rules: &[PolicyRuleStats]) -> Table {
    let mut table = Table::new(&[
        "POLICY",
        "DIRECTION",
        "RULE",
        "ACTION",
        "CONNECTIONS",
        "BYTES",
    ]);
    for r in rules {
        let (rule, action) = (&r.rule, format!("{:?}", r.action).to_lowercase());
        let own = rule.rule.iter().map(|name| format!(" {name}"));
        table.row([
            match &rule.namespace {
                Some(namespace) => format!("{namespace}/{}", rule.name),
                None => rule.name.clone(),
            },
            rule.direction.name().to_owned(),
            rule.index.to_string() + &own.collect::<String>(),
            action,
            r.connections.to_string(),
            r.bytes.to_string(),
        ]);
    }
    table
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1}%", part as f64 / whole as f64 * 100.0),
    }
}

pub(crate) fn rates(rates: &Rates) -> String {
    let mut ports = Table::new(&[
        "PORT",
        "RX/S",
        "RX-BIT/S",
        "TX/S",
        "TX-BIT/S",
        "DROPPED/S",
        "KERNEL-DROPPED/S",
    ]);
    for p in &rates.ports {
        ports.row([
            p.name.clone(),
            short(p.rx_packets),
            short(p.rx_bytes * 8.0),
            short(p.tx_packets),
            short(p.tx_bytes * 8.0),
            short(p.drops),
            short(p.kernel_drops),
        ]);
    }
    let mut drops = Table::new(&["REASON", "FRAMES/S"]);
    for (reason, rate) in rates
        .drops
        .iter()
        .chain(&rates.kernel_drops)
        .filter(|(_, rate)| **rate > 0.0)
    {
        drops.row([reason.clone(), short(*rate)]);
    }
    let mut workers = Table::new(&["WORKER", "CORE", "BUSY", "SLEEPS/S"]);
    for w in &rates.workers {
        let core = w.core.map(|c| c.to_string()).unwrap_or_default();
        workers.row([
            w.id.to_string(),
            core,
            format!("{:.1}%", w.busy * 100.0),
            short(w.sleeps),
        ]);
    }
    let interval = format!("Rates over {:.1} s\n\n", rates.interval_seconds);
    interval
        + &sections(vec![
            ("Ports", ports),
            ("Dropped", drops),
            ("Workers", workers),
        ])
}

/// A number of at most six characters.
fn short(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    match units.iter().find(|(from, _)| value >= *from) {
        Some((1e4, unit)) => format!("{:.1}{unit}", value / 1e3),
        Some((from, unit)) => format!("{:.2}{unit}", value / from),
        None => format!("{value:.0}"),
    }
}

pub(crate) fn version(v: &Versions) -> String {
    let mut text = format!(
        "podswitchctl {} (protocol {})\n",
        v.client.version, v.client.protocol
    );
    if let Some(d) = &v.daemon {
        text += &format!("podswitchd   {} (protocol {})\n", d.version, d.protocol);
        text += &format!(
            "running for {} s as process {}, on kernel {}\n",
            d.uptime_seconds, d.pid, d.kernel
        );
        text += &format!(
            "gateway {} and {} at {}, MTU {}\n",
            d.gateway.ipv4, d.gateway.ipv6, d.gateway.mac, d.mtu
        );
    }
    text
}

pub(crate) fn health(h: &HealthResult) -> String {
    let status = match h.status {
        HealthStatus::Ok => "ok",
        HealthStatus::Degraded => "degraded",
        HealthStatus::Failing => "failing",
    };
    let mut text = format!(
        "{status}: {} of {} ports up, generation {}, podswitchd {} running for {} s\n",
        h.ports_up, h.ports, h.generation, h.version, h.uptime_seconds
    );
    let mut workers = Table::new(&["WORKER", "CORE", "STATE", "HEARD", "GENERATION"]);
    for w in &h.workers {
        let state = match (w.alive, w.sleeping) {
            (false, _) => "dead",
            (true, true) => "asleep",
            (true, false) => "awake",
        };
        let core = w.core.map(|c| c.to_string()).unwrap_or_default();
        workers.row([
            w.id.to_string(),
            core,
            state.to_owned(),
            format!("{} ms ago", w.heartbeat_age_ms),
            w.generation.to_string(),
        ]);
    }
    text += &workers.text();
    for p in &h.problems {
        let severity = match p.severity {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let hint = p
            .hint
            .as_ref()
            .map(|h| format!("; {h}"))
            .unwrap_or_default();
        text += &format!("{severity}: {}: {}{hint}\n", p.subject, p.message);
    }
    text
}

pub(crate) fn audit(a: &AuditResult) -> String {
    let mut table = Table::new(&[
        "ARENA",
        "CHUNKS",
        "SIZE",
        "FREE",
        "FILL",
        "HELD",
        "TX",
        "QUARANTINED",
        "UNACCOUNTED",
    ]);
    for a in &a.arenas {
        table.row([
            a.id.to_string(),
            a.chunks.to_string(),
            a.chunk_size.to_string(),
            a.free.to_string(),
            a.fill.to_string(),
            a.held.to_string(),
            a.tx.to_string(),
            a.quarantined.to_string(),
            a.unaccounted.to_string(),
        ]);
    }
    let verdict = if a.balanced {
        "every chunk is accounted for\n"
    } else {
        "chunks are unaccounted for\n"
    };
    table.text() + verdict
}

pub(crate) fn teardown(report: &TeardownReport) -> String {
    let mut text = String::new();
    for item in &report.removed {
        // What others own is put back as it was.
        let done = match item.kind.as_str() {
            "sysctl" | "flag" => "restored",
            _ => "removed",
        };
        text += &format!("{done} {} {}\n", item.kind, item.name);
    }
    for item in &report.failed {
        text += &format!("left    {} {}: {}\n", item.kind, item.name, item.message);
    }
    match report.removed.is_empty() && report.failed.is_empty() {
        true => "nothing was there\n".to_owned(),
        false => text,
    }
}
