// SPDX-License-Identifier: Apache-2.0
//! From one virtual machine's queues to another's, against forwarders of DPDK's: one that does nothing with frames, and Open vSwitch with connection tracking.

mod acl;
mod bed;
mod frontend;
mod guest;
mod huge;
mod idle;
mod latency;
mod load;
mod ovs;
mod rates;
mod side;
mod switch;
mod testpmd;

use std::time::Duration;

use core_affinity::CoreId;

use crate::Settings;
use crate::outcome::Outcome;
use bed::Kind;

/// Flows from one machine to the other, where nothing else is said.
const FLOWS: u32 = 10_000;

/// What is measured with, and for how long.
struct Plan {
    /// The machines' core, and the forwarder's.
    cores: (CoreId, CoreId),
    /// How often everything is made anew, and how many rounds it is measured in.
    beds: usize,
    rounds: usize,
    /// Time of a sample.
    length: Duration,
    /// Samples of a second each of what quiet machines cost.
    seconds: usize,
    /// Open vSwitch, where it is there.
    ovs: Option<Kind>,
}

/// The benchmark.
///
/// # Panics
/// Without two cores or dpdk-testpmd.
pub fn run(settings: Settings) -> Outcome {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, .., last] = cores[..] else {
        panic!("two cores are needed: one has the machines, one forwards");
    };
    let (beds, rounds) = settings.pick((3, 5), (1, 1));
    let plan = Plan {
        cores: (first, last),
        beds,
        rounds,
        length: settings.pick(Duration::from_millis(400), Duration::from_millis(100)),
        seconds: settings.pick(15, 2),
        ovs: ovs::root().map(Kind::Ovs),
    };
    let mut outcome = Outcome::new(
        "vhost",
        "vhost-user: from one machine to another, one core",
        &method(&plan),
    );
    core_affinity::set_for_current(first);
    // This thread's, and whatever it starts. As another user things are as they are.
    let _ = rustix::process::setpriority_process(None, -20);
    let mut problems = Vec::new();
    if plan.ovs.is_none() {
        problems.push(
            "OVS with DPDK is not there (scripts/install bench), and was not measured".into(),
        );
    }
    rates::run(&plan, &mut outcome, &mut problems);
    latency::run(&plan, &mut outcome, &mut problems);
    idle::run(&plan, &mut outcome);
    problems.sort();
    problems.dedup();
    outcome.problem = (!problems.is_empty()).then(|| problems.join("; "));
    outcome
}

fn method(plan: &Plan) -> String {
    let (first, last) = plan.cores;
    format!(
        "Two machines in one thread on core {}, which only turns their queues (split, 1024 descriptors, mergeable buffers; no calls), send datagrams of {FLOWS} or a million flows
         from one to the other, as fast as they are taken. Core {} forwards: a switch worker with routed ports, sources checked, {rules} rules a port and
         direction and connection tracking; dpdk-testpmd in mode io, which gives what it gets on one port to the other; or Open vSwitch with DPDK: NORMAL, connection tracking
         and {rules} rules that new connections are asked by, each packet's flow put into its exact match cache (EMC), or none. Superframes are TCP's, {FLOWS} flows, given whole to whoever
         forwards and taken whole from it, in buffers of 4096 bytes. Counted at the receiving queue for {} ms a
         sample, in rounds of A B C C B A; everything is made anew {} times, in alternating order. What was lost is counted when nothing is on its way any more. At 1 Mpps: each
         frame bears the time at which it was sent. Quiet guests: run time of the switch's threads (schedstat) in each of {} seconds. The machines' memory is in pages of 4 KiB. All run at nice -20.",
        first.id,
        last.id,
        plan.length.as_millis(),
        plan.beds,
        plan.seconds,
        rules = acl::RULES,
    )
}
