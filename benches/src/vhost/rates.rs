// SPDX-License-Identifier: Apache-2.0
//! Frames and bytes a second.

use super::bed::{Beds, Kind, Slice};
use super::load::Load;
use super::{FLOWS, Plan};
use crate::outcome::Outcome;
use crate::stats::{by_round, median};

/// Many flows.
const MANY: u32 = 1_000_000;
/// Share of long frames that may be lost by a forwarder that is said to lose none.
const NOTHING: f64 = 0.001;

/// What is sent, by whom it is forwarded, and what is counted.
struct Case {
    what: &'static str,
    load: Load,
    kinds: Vec<Kind>,
    /// Bytes are counted, and not frames.
    bytes: bool,
}

/// Measures all of it.
pub(super) fn run(plan: &Plan, outcome: &mut Outcome, problems: &mut Vec<String>) {
    let io = vec![Kind::Switch, Kind::Testpmd];
    let all: Vec<Kind> = io.iter().cloned().chain(plan.ovs.clone()).collect();
    let case = |what, load, kinds: &[Kind], bytes| Case {
        what,
        load,
        kinds: kinds.to_vec(),
        bytes,
    };
    let cases = [
        case(
            "60-byte frames",
            Load::datagrams(60, FLOWS),
            &all[..],
            false,
        ),
        case(
            "60-byte frames, 1000000 flows",
            Load::datagrams(60, MANY),
            &all,
            false,
        ),
        case("1514-byte frames", Load::datagrams(1514, FLOWS), &io, true),
        case("64 KiB superframes", Load::superframes(FLOWS), &io, true),
    ];
    for case in cases {
        let (names, samples) = samples(plan, &case, problems);
        report(outcome, &case, &names, &samples);
        let lossless = case
            .bytes
            .then(|| names.iter().zip(&samples).nth(1))
            .flatten();
        if let Some((name, slices)) = lossless
            && slices.iter().any(|slice| slice.lost > NOTHING)
        {
            problems.push(format!("{name} lost some of the {}", case.what));
        }
    }
}

/// By who forwarded.
fn samples(
    plan: &Plan,
    case: &Case,
    problems: &mut Vec<String>,
) -> (Vec<&'static str>, Vec<Vec<Slice>>) {
    let (mut names, mut samples) = (Vec::new(), Vec::new());
    for number in 0..plan.beds {
        let mut beds = Beds::new(number, &case.kinds, plan.cores, &case.load);
        let mut here = beds.rates(plan.rounds, plan.length);
        names = beds.names();
        samples.resize_with(here.len(), Vec::new);
        for (all, more) in samples.iter_mut().zip(&mut here) {
            all.append(more);
        }
        problems.append(&mut beds.end());
    }
    (names, samples)
}

/// The switch is the first of them.
fn report(outcome: &mut Outcome, case: &Case, names: &[&str], samples: &[Vec<Slice>]) {
    let what = case.what;
    let (unit, scale) = match case.bytes {
        true => ("GB/s", 1e9 / case.load.frame.len() as f64),
        false => ("kpps", 1e3),
    };
    let rate = |slices: &Vec<Slice>| -> Vec<f64> {
        let rates = slices.iter().map(|slice| slice.rate / scale);
        rates.collect()
    };
    let rates: Vec<Vec<f64>> = samples.iter().map(rate).collect();
    for (name, slices) in names.iter().zip(samples) {
        let lost = slices.iter().map(|slice| slice.lost * 100.0);
        let label = format!("{what}: {name}: lost of what was taken");
        outcome.add_series(&label, "%", lost.collect());
    }
    for (name, rates) in names.iter().zip(&rates) {
        outcome.add_series(&format!("{what}: {name}"), unit, rates.clone());
    }
    let mut ratio = |name: &str, to: &[f64]| {
        let ratios = by_round(&rates[0], to, |switch, other| switch / other);
        outcome.add_comparison(&format!("{what}: switch / {name}"), "ratio", ratios);
    };
    for (name, rates) in names.iter().zip(&rates).skip(1) {
        ratio(name, rates);
    }
    let ovs = names
        .iter()
        .zip(&rates)
        .filter(|(name, _)| name.contains("OVS"));
    if let Some((_, best)) = ovs.max_by(|a, b| median(a.1).total_cmp(&median(b.1))) {
        ratio("the better OVS", best);
    }
    if !case.bytes {
        let added = by_round(&rates[0], &rates[1], |switch, io| 1e6 / switch - 1e6 / io);
        let label = format!("{what}: switch − {}", names[1]);
        outcome.add_comparison(&label, "ns a packet", added);
    }
}
