// SPDX-License-Identifier: Apache-2.0
//! From a pod over a wire to a pod on another node, against the kernel doing the same.
//!
//! | module | |
//! |---|---|
//! | [`side`] | two nodes and what is between them |
//! | [`switch`], [`kernel`] | who forwards |

pub mod kernel;
pub mod side;
pub mod switch;

use std::time::Duration;

use podswitch_datapath::worker::clock::{Clock, cycles};
use podswitch_tests::traffic::{IperfServer, iperf};

use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::{self, by_round};
use crate::xdp::generator::{Generator, QUIET};
use kernel::{Kernels, Rules};
use side::{FLOWS, POLICIES, Side, TCP};
use switch::Switches;

/// After the load has changed, before anything is counted.
const SETTLE: Duration = Duration::from_millis(150);
/// Names of the sides, in order.
const LABELS: [&str; 5] = [
    "switch",
    "kernel, sets",
    "kernel, list of rules",
    "switch, pods in generic XDP mode",
    "switch, pods and NICs in tap mode",
];
/// Those that datagrams are sent through: the generator's frames pass a program in generic mode by, and are refused by a veth without one.
const DATAGRAMS: usize = 3;
/// What is compared to what.
const RATIOS: [(usize, usize); 4] = [(0, 1), (0, 2), (3, 1), (4, 1)];

/// A sample of datagrams.
#[derive(Clone, Copy)]
struct Slice {
    received: f64,
    offered: f64,
}

/// All of them, by one way over the wire.
fn sides(core: usize, vxlan: bool, flowtable: bool) -> Vec<Side> {
    let sets = Rules::Sets { flowtable };
    vec![
        Side::new(LABELS[0], Box::new(Switches::new(core, vxlan, "native"))),
        Side::new(LABELS[1], Box::new(Kernels::new(core, vxlan, sets))),
        Side::new(LABELS[2], Box::new(Kernels::new(core, vxlan, Rules::List))),
        Side::new(LABELS[3], Box::new(Switches::new(core, vxlan, "generic"))),
        Side::new(LABELS[4], Box::new(Switches::new(core, vxlan, "tap"))),
    ]
}

/// The benchmark.
///
/// # Panics
/// Without two cores, or when something cannot be made.
pub fn run(settings: Settings) -> Outcome {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, .., last] = cores[..] else {
        panic!("two cores are needed: one sends, one forwards");
    };
    let flowtable = kernel::has_flowtable();
    let method = method(flowtable);
    let mut outcome = Outcome::new("nodes", "From node to node: against the kernel", &method);
    for (vxlan, what) in [(false, "native"), (true, "VXLAN")] {
        let sides = sides(last.id, vxlan, flowtable);
        let some = &sides[..DATAGRAMS];
        let senders = some.iter().map(|side| vec![side.sender()]).collect();
        let generator = Generator::start(first, senders);
        datagrams(&mut outcome, what, some, (&generator, settings));
        drop(generator);
        sides.iter().for_each(Side::check);
        streams(&mut outcome, what, &sides, settings);
    }
    outcome
}

fn datagrams(
    outcome: &mut Outcome,
    what: &str,
    sides: &[Side],
    (generator, settings): (&Generator, Settings),
) {
    let length = settings.pick(Duration::from_millis(400), Duration::from_millis(200));
    let sample = |n: usize| slice(generator, sides, n, length);
    (0..sides.len()).for_each(|n| {
        sample(n);
    });
    let mut ahead: [Vec<f64>; DATAGRAMS] = Default::default();
    let taken: [Vec<f64>; DATAGRAMS] = stats::rounds(settings.pick(10, 3), |n| {
        let slice = sample(n);
        ahead[n].push(slice.offered / slice.received.max(1.0));
        slice.received / 1e3
    });
    let what = format!("{what}, 60-byte datagrams");
    report(outcome, &what, "kpps", taken);
    for (label, samples) in LABELS.iter().zip(ahead) {
        outcome.add_series(
            &format!("{what}: {label}: sent / received"),
            "times the rate",
            samples,
        );
    }
}

/// Lets one side run under load.
fn slice(generator: &Generator, sides: &[Side], n: usize, length: Duration) -> Slice {
    generator.send_from(n);
    std::thread::sleep(SETTLE);
    let look = || (cycles(), sides[n].received(), generator.sent());
    let before = look();
    std::thread::sleep(length);
    let after = look();
    generator.send_from(QUIET);
    std::thread::sleep(SETTLE);
    let seconds = Clock::get().nanoseconds(after.0 - before.0) as f64 / 1e9;
    Slice {
        received: (after.1 - before.1) as f64 / seconds,
        offered: (after.2 - before.2) as f64 / seconds,
    }
}

fn streams(outcome: &mut Outcome, what: &str, sides: &[Side], settings: Settings) {
    let seconds = settings.pick(2, 1);
    sides.iter().for_each(Side::merge);
    let servers: Vec<IperfServer> = sides
        .iter()
        .map(|s| IperfServer::start(s.server(), TCP))
        .collect();
    let taken: [Vec<f64>; LABELS.len()] = stats::rounds(settings.pick(3, 1), |n| {
        let said = iperf(
            sides[n].client(),
            sides[n].server_at(),
            &servers[n],
            seconds,
            &[],
        );
        let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.expect("iperf3 says what was received") / 1e9
    });
    report(outcome, &format!("{what}, one TCP stream"), "Gbit/s", taken);
}

fn report<const N: usize>(outcome: &mut Outcome, what: &str, unit: &str, taken: [Vec<f64>; N]) {
    for (of, to) in RATIOS.into_iter().filter(|(of, to)| (*of).max(*to) < N) {
        let ratio = by_round(&taken[of], &taken[to], |a, b| a / b);
        let label = format!("{what}: {} / {}", LABELS[of], LABELS[to]);
        outcome.add_comparison(&label, "ratio", ratio);
    }
    for (label, samples) in LABELS.iter().zip(taken) {
        outcome.add_series(&format!("{what}: {label}"), unit, samples);
    }
}

fn method(flowtable: bool) -> String {
    let flowtable = match flowtable {
        true => "a flowtable on both nodes",
        false => {
            "no flowtable, which this kernel has not, but connection tracking that lets established flows on first"
        }
    };
    format!(
        "A pod on each of two nodes (namespaces) that a veth without offloads joins, as a wire; {POLICIES} policies let one peer each on to the receiver, the last
         one the sender. The switch: two podswitchd, both workers on the last core, NetworkPolicies; for the stream once more with the pods' ports in generic XDP mode, and with all ports in tap mode. The kernel: routes, its VXLAN device, and either {flowtable}, a verdict map by pod and a set, or a list of rules from the top for each packet; what the sender's veth receives is steered to the last core, and all that follows happens there. 60-byte datagrams of {FLOWS} flows, which were answered once,
         sent as fast as the first core can (an XDP program on live frames), counted at the receiver's eth0 and dropped there. One TCP stream of iperf3, unpinned, as its receiver
         counts it, with receive offload (GRO) on the NICs, as real ones have it. In rounds of A B C D D C B A."
    )
}
