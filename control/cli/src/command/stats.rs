// SPDX-License-Identifier: Apache-2.0
//! Counters, and their rates.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};

use podswitch_api::method::{PortStats, Section, Stats, StatsParams, StatsResult, WorkerStats};
use serde::Serialize;

use super::Context;
use crate::args::{Format, StatsArgs, TopArgs};
use crate::exit::Result;
use crate::output;

pub(super) fn stats(context: &Context, args: StatsArgs) -> Result {
    let sections = match args.section.as_slice() {
        [] => None,
        some => Some(some.iter().map(|s| (*s).into()).collect()),
    };
    let result = context.client()?.call::<Stats>(&StatsParams {
        port: args.port,
        sections,
    })?;
    output::print(context.output, &result, output::stats)
}

/// What happened per second between two looks.
#[derive(Debug, Serialize)]
pub(crate) struct Rates {
    /// Seconds between the looks, by the daemon's clock.
    pub(crate) interval_seconds: f64,
    pub(crate) ports: Vec<PortRates>,
    pub(crate) drops: BTreeMap<String, f64>,
    pub(crate) kernel_drops: BTreeMap<String, f64>,
    pub(crate) workers: Vec<WorkerRates>,
}

/// Rates of a port, per second.
#[derive(Debug, Serialize)]
pub(crate) struct PortRates {
    pub(crate) name: String,
    pub(crate) rx_packets: f64,
    pub(crate) rx_bytes: f64,
    pub(crate) tx_packets: f64,
    pub(crate) tx_bytes: f64,
    pub(crate) drops: f64,
    pub(crate) kernel_drops: f64,
}

/// Rates of a worker.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerRates {
    pub(crate) id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) core: Option<u32>,
    /// Part of the time spent on work, 0 to 1.
    pub(crate) busy: f64,
    pub(crate) sleeps: f64,
}

impl Rates {
    /// The difference of two looks. What was not there at the first one counts from 0.
    pub(crate) fn between(before: &StatsResult, after: &StatsResult) -> Rates {
        let seconds = (after.time_ns.saturating_sub(before.time_ns) as f64 / 1e9).max(1e-9);
        let rate = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
        let reasons = |a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>| {
            b.iter()
                .map(|(k, n)| (k.clone(), rate(a.get(k).copied().unwrap_or(0), *n)))
                .collect()
        };
        let total = |counts: &BTreeMap<String, u64>| {
            counts.values().fold(0u64, |a, b| a.saturating_add(*b))
        };
        let port = |b: &PortStats| {
            let none = PortStats::default();
            let a = before
                .ports
                .iter()
                .find(|a| a.name == b.name)
                .unwrap_or(&none);
            PortRates {
                name: b.name.clone(),
                rx_packets: rate(a.rx_packets, b.rx_packets),
                rx_bytes: rate(a.rx_bytes, b.rx_bytes),
                tx_packets: rate(a.tx_packets, b.tx_packets),
                tx_bytes: rate(a.tx_bytes, b.tx_bytes),
                drops: rate(total(&a.drops), total(&b.drops)),
                kernel_drops: rate(total(&a.kernel_drops), total(&b.kernel_drops)),
            }
        };
        let worker = |b: &WorkerStats| {
            let none = WorkerStats::default();
            let a = before
                .workers
                .iter()
                .find(|a| a.id == b.id)
                .unwrap_or(&none);
            let busy = b.busy_ns.saturating_sub(a.busy_ns) as f64 / (seconds * 1e9);
            WorkerRates {
                id: b.id,
                core: b.core,
                busy: busy.min(1.0),
                sleeps: rate(a.sleeps, b.sleeps),
            }
        };
        Rates {
            interval_seconds: seconds,
            ports: after.ports.iter().map(port).collect(),
            drops: reasons(&before.drops, &after.drops),
            kernel_drops: reasons(&before.kernel_drops, &after.kernel_drops),
            workers: after.workers.iter().map(worker).collect(),
        }
    }
}

/// On a terminal each look replaces the one before; elsewhere they follow one another.
pub(super) fn top(context: &Context, args: TopArgs) -> Result {
    let sections = Some(vec![Section::Ports, Section::Drops, Section::Workers]);
    let params = StatsParams {
        port: args.port,
        sections,
    };
    let mut client = context.client()?;
    let mut before = client.call::<Stats>(&params)?;
    let live = context.output == Format::Table && stdout().is_terminal();
    let mut looks = 0;
    while args.count.is_none_or(|count| looks < count) {
        std::thread::sleep(args.interval);
        let after = client.call::<Stats>(&params)?;
        show(
            context.output,
            &Rates::between(&before, &after),
            live,
            looks,
        )?;
        before = after;
        looks += 1;
    }
    Ok(())
}

fn show(format: Format, rates: &Rates, live: bool, looks: u64) -> Result {
    match format {
        // One object a line, and one document a look, for whoever reads along.
        Format::Json => {
            output::write(&(serde_json::to_string(rates).map_err(std::io::Error::other)? + "\n"))
        }
        Format::Yaml => output::write(&format!("---\n{}", output::yaml(rates)?)),
        // ECMA-48: cursor home, erase the display.
        Format::Table if live => output::write(&format!("\x1b[H\x1b[2J{}", output::rates(rates))),
        Format::Table if looks > 0 => output::write(&format!("\n{}", output::rates(rates))),
        Format::Table => output::write(&output::rates(rates)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let port = |rx| PortStats {
            name: "a".into(),
            rx_packets: rx,
            drops: BTreeMap::from([("x".into(), rx / 2)]),
            ..PortStats::default()
        };
        let look = |time_ns, rx, busy_ns| StatsResult {
            time_ns,
            ports: vec![port(rx)],
            drops: BTreeMap::from([("x".into(), rx / 2)]),
            workers: vec![WorkerStats {
                busy_ns,
                ..WorkerStats::default()
            }],
            ..StatsResult::default()
        };
        let rates = Rates::between(
            &look(1_000_000_000, 100, 0),
            &look(3_000_000_000, 300, 500_000_000),
        );
        assert_eq!(
            (
                rates.interval_seconds,
                rates.ports[0].rx_packets,
                rates.ports[0].drops
            ),
            (2.0, 100.0, 50.0)
        );
        assert_eq!((rates.drops["x"], rates.workers[0].busy), (50.0, 0.25));
        // A daemon that started anew counts from 0: no rate is below 0.
        let again = Rates::between(&look(5, 300, 9), &look(1_000_000_005, 3, 0));
        assert_eq!(
            (again.ports[0].rx_packets, again.workers[0].busy),
            (0.0, 0.0)
        );
    }
}
