// SPDX-License-Identifier: Apache-2.0
//! How long a frame takes from one machine to the other at an even pace.

use hdrhistogram::Histogram;
use podswitch_datapath::worker::clock::Clock;

use super::bed::{Beds, Kind, Slice};
use super::load::Load;
use super::{FLOWS, Plan};
use crate::outcome::Outcome;
use crate::stats::by_round;

/// Frames a second, and the share of them that must arrive for a sample to be of that pace.
const PACE: f64 = 1e6;
const ARRIVED: f64 = 0.99;
const PERCENTILES: [f64; 2] = [50.0, 99.0];

/// Measures it.
pub(super) fn run(plan: &Plan, outcome: &mut Outcome, problems: &mut Vec<String>) {
    let load = Load::datagrams(60, FLOWS);
    let kinds = [Kind::Switch, Kind::Testpmd];
    let mut names = Vec::new();
    let mut samples: Vec<Vec<(Slice, Histogram<u64>)>> = vec![Vec::new(), Vec::new()];
    for number in 0..plan.beds {
        let mut beds = Beds::new(number, &kinds, plan.cores, &load);
        let mut here = beds.delays(plan.rounds, plan.length, PACE);
        names = beds.names();
        for (all, more) in samples.iter_mut().zip(&mut here) {
            all.append(more);
        }
        problems.append(&mut beds.end());
    }
    let micros = 1e6 / Clock::get().hertz() as f64;
    for percentile in PERCENTILES {
        let times = samples.iter().map(|samples| {
            let times = samples
                .iter()
                .map(|(_, histogram)| histogram.value_at_percentile(percentile) as f64 * micros);
            times.collect::<Vec<f64>>()
        });
        let times: Vec<_> = times.collect();
        let what = format!("at 1 Mpps, p{percentile}");
        let added = by_round(&times[0], &times[1], |switch, io| switch - io);
        let label = format!("{what}: {} − {}", names[0], names[1]);
        outcome.add_comparison(&label, "us", added);
        for (name, times) in names.iter().zip(times) {
            outcome.add_series(&format!("{what}: {name}"), "us", times);
        }
    }
    for (name, samples) in names.iter().zip(&samples) {
        let rates = samples.iter().map(|(slice, _)| slice.rate / 1e3);
        let rates: Vec<f64> = rates.collect();
        if rates.iter().any(|rate| rate * 1e3 < ARRIVED * PACE) {
            problems.push(format!(
                "{name} had less than 1 Mpps to forward, or lost some"
            ));
        }
        outcome.add_series(&format!("at 1 Mpps: {name}: received"), "kpps", rates);
    }
}
