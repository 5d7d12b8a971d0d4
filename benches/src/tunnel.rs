// SPDX-License-Identifier: Apache-2.0
//! What VXLAN, masquerading and services cost, on ports in memory.

use ipnet::Ipv4Net;

use crate::Settings;
use crate::outcome::Outcome;
use crate::pair::{BACKENDS, Flows, Over, PODS, Pair, SERVICES, devices};
use crate::stats::{self, by_round};
use crate::turned::{self, Lengths, Pipeline, frames_beyond_l2, measure, stay_on_last_core};
use crate::valve::Valve;

const FLOWS: usize = 10_000;
/// Pods of the other node that they are with.
const REMOTES: usize = 32;
const UNIT: &str = "cycles a packet";

const V6: Over = Over::V6 { checksum: true };
const V6_PLAIN: Over = Over::V6 { checksum: false };
/// How packets go out and come in, what differs from native routing, and how many of two packets do.
const SIDES: [((Over, Over), &str); 9] = [
    ((Over::Native, Over::Native), "native"),
    ((Over::V4, Over::Native), "push, IPv4"),
    ((Over::Native, Over::V4), "pop, IPv4"),
    ((V6, Over::Native), "push, IPv6"),
    ((Over::Native, V6), "pop, IPv6"),
    ((V6_PLAIN, Over::Native), "push, IPv6 without checksum"),
    ((Over::Native, V6_PLAIN), "pop, IPv6 without checksum"),
    ((Over::Masqueraded, Over::Native), "masqueraded"),
    ((Over::Served, Over::Native), "to services"),
];
/// What comes in from the NIC to the bare loop.
const BARE: [Over; 2] = [Over::Native, Over::V4];

fn flows() -> Flows {
    let pods = |net: Ipv4Net| net.hosts().take(REMOTES).collect();
    Flows {
        to: pods(PODS[0]),
        from: pods(PODS[1]),
        count: FLOWS / 2,
    }
}

/// The benchmark.
pub fn run(settings: Settings) -> Outcome {
    stay_on_last_core();
    let lengths = Lengths::of(settings);
    let (frames, flows) = (frames_beyond_l2(), flows());
    let mut pairs = SIDES.map(|(over, _)| Pair::new(&flows, over, frames));
    let mut loops = BARE.map(|back| {
        let nothing = (Over::Native, Over::Native);
        let devices = devices(&flows, back, nothing, frames, &Valve::open(), None);
        turned::bare(devices.into(), frames)
    });
    let pairs_too = pairs.iter_mut().map(|p| p as &mut dyn Pipeline);
    let loops_too = loops.iter_mut().map(|l| l as &mut dyn Pipeline);
    let mut all: Vec<&mut dyn Pipeline> = pairs_too.chain(loops_too).collect();
    for side in &mut all {
        measure(*side, lengths.warm);
    }
    let taken: [Vec<f64>; SIDES.len() + BARE.len()] =
        stats::rounds(lengths.rounds, |n| measure(all[n], lengths.slice));
    drop(all);
    pairs.iter().for_each(Pair::check);
    let mut outcome = Outcome::new(
        "tunnel",
        "VXLAN, masquerading and services in memory: cycles a packet",
        &method(frames, lengths),
    );
    for n in 1..SIDES.len() {
        // One packet of two is another one.
        let added = by_round(&taken[n], &taken[0], |a, b| 2.0 * (a - b));
        outcome.add_comparison(&format!("{}: added to a packet", SIDES[n].1), UNIT, added);
        let ratio = by_round(&taken[n], &taken[0], |a, b| a / b);
        outcome.add_comparison(
            &format!("{}: both directions together / native", SIDES[n].1),
            "ratio",
            ratio,
        );
    }
    let longer = by_round(&taken[SIDES.len() + 1], &taken[SIDES.len()], |a, b| {
        2.0 * (a - b)
    });
    outcome.add_comparison("bare loop, 110 bytes − 60 bytes", UNIT, longer);
    let bare = ["bare loop, native", "bare loop, wrapped frames come in"];
    let labels = SIDES.iter().map(|(_, label)| *label).chain(bare);
    for (label, samples) in labels.zip(taken) {
        outcome.add_series(label, UNIT, samples);
    }
    outcome
}

fn method(frames: u32, lengths: Lengths) -> String {
    format!(
        "A worker's own turns on two memory ports: a pod, and a NIC with another node behind it. {FLOWS} established flows of 60-byte IPv4 datagrams, half of them to {REMOTES} pods of that node and half from {REMOTES} others; {frames} frames circle, so that each has left the second-level cache when it comes
         back. Natively routed both ways; wrapped on the way out (push) or on the way in (pop) alone, over IPv4 or IPv6; masqueraded on the way out; or, on the way out, to one of {SERVICES} services with {BACKENDS} backends each, a flow to each. So one packet of two differs from native routing, and what is added to it
         is twice the difference. A wrapped frame is 50 or 70 bytes longer where it comes in; what that costs the memory port itself shows the bare loop. One thread turns all of them in rounds of A B C … C B A; a sample is the cycles of the time-stamp counter of {} ms.",
        lengths.slice_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_carries_frames_there_and_back() {
        let flows = flows();
        for (over, what) in SIDES {
            let mut pair = Pair::new(&flows, over, 1 << 13);
            while pair.packets() < 50 * FLOWS as u64 {
                (0..100).for_each(|_| pair.turn());
            }
            println!("{what}");
            pair.check();
        }
    }
}
