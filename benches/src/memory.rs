// SPDX-License-Identifier: Apache-2.0
//! Memory of ports: the daemon's and the kernel's.

use std::time::Duration;

use podswitch_tests::{Netns, Node};

use crate::Settings;
use crate::outcome::Outcome;
use crate::pods::{Sandbox, node};
use crate::process::{self, Kernel, Memory, PARTS};

/// Time for the kernel to free what is freed later (RCU, work items).
const SETTLE: Duration = Duration::from_secs(2);
/// Slab caches that are told of.
const SLABS: usize = 5;
const KIB: f64 = 1024.0;

/// The benchmark.
///
/// # Panics
/// When pods cannot be attached.
pub fn run(settings: Settings) -> Outcome {
    let counts: [usize; 2] = settings.pick([2, 100], [2, 10]);
    let mut outcome = Outcome::new(
        "memory",
        "Memory of ports",
        "Differences between before and after attaching pods by CNI, divided by their number. The pods' namespaces are made
         before; an ordinary veth pair in each is measured for comparison, and is part of what a port costs. Packet memory: what
         is allocated for the arenas' memfds, touched or not. Process: proportional set size without memfds. Kernel: slabs
         (SUnreclaim and SReclaimable), VmallocUsed, Percpu, KernelStack and PageTables of /proc/meminfo. Of the whole machine: anything else that allocates
         or frees meanwhile is in it.",
    );
    for count in counts {
        measure(&mut outcome, count);
    }
    outcome
}

/// What there is at a moment.
struct Snapshot {
    kernel: Kernel,
    process: Memory,
}

impl Snapshot {
    fn of(node: &Node) -> Snapshot {
        std::thread::sleep(SETTLE);
        Snapshot {
            kernel: Kernel::now(),
            process: process::memory(node.daemon().pid()),
        }
    }
}

fn measure(outcome: &mut Outcome, count: usize) {
    let per_port = |after: u64, before: u64| (after as f64 - before as f64) / count as f64 / KIB;
    let mut add = |what: &str, value: f64| {
        outcome.add_figure(&format!("{count} ports: {what}"), value, "KiB");
    };
    add("a veth pair alone, kernel", plain_veths(count));
    let node = node();
    let sandboxes = Sandbox::make(&node, count);
    let before = Snapshot::of(&node);
    add(
        "daemon without ports, resident",
        before.process.rss as f64 / KIB,
    );
    for (name, bytes) in &before.process.memfds {
        add(
            &format!("daemon without ports, {name}"),
            *bytes as f64 / KIB,
        );
    }
    for sandbox in &sandboxes {
        sandbox.add(&node);
    }
    let after = Snapshot::of(&node);
    let (p, q) = (&before.process, &after.process);
    add("a port, resident set (RSS)", per_port(q.rss, p.rss));
    add("a port, proportional set (PSS)", per_port(q.pss, p.pss));
    let mut packets = 0.0;
    for (name, bytes) in &q.memfds {
        let share = per_port(*bytes, p.memfds.get(name).copied().unwrap_or(0));
        add(&format!("a port, memfd {name}"), share);
        packets += share;
    }
    let own = per_port(q.own, p.own);
    add("a port, process without memfds", own);
    for part in PARTS {
        let share = per_port(after.kernel.parts[part], before.kernel.parts[part]);
        add(&format!("a port, kernel: {part}"), share);
    }
    for (name, bytes) in grown(&before.kernel, &after.kernel) {
        add(
            &format!("a port, slab {name}"),
            bytes as f64 / count as f64 / KIB,
        );
    }
    let kernel = per_port(after.kernel.sum(), before.kernel.sum());
    add("a port, kernel in all", kernel);
    add(
        "a port, all parts (memfds + process + kernel)",
        packets + own + kernel,
    );
    add(
        "a port, all memory of the machine in use",
        per_port(after.kernel.used, before.kernel.used),
    );
}

/// The slab caches that have grown most.
fn grown(before: &Kernel, after: &Kernel) -> Vec<(String, u64)> {
    let grown = after.slabs.iter().map(|(name, now)| {
        let then = before.slabs.get(name).copied().unwrap_or(0);
        (name.clone(), now.saturating_sub(then))
    });
    let mut grown: Vec<(String, u64)> = grown.filter(|(_, bytes)| *bytes > 0).collect();
    grown.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    grown.truncate(SLABS);
    grown
}

/// KiB of kernel memory of an ordinary veth pair into a namespace, both ends up.
fn plain_veths(count: usize) -> f64 {
    let node = Netns::new("plain");
    let pods: Vec<Netns> = (0..count).map(|_| Netns::new("pod")).collect();
    std::thread::sleep(SETTLE);
    let before = Kernel::now();
    for (n, pod) in pods.iter().enumerate() {
        node.ip(&format!(
            "link add veth{n} type veth peer name eth0 netns {}",
            pod.name()
        ));
        node.ip(&format!("link set veth{n} up"));
        pod.ip("link set eth0 up");
    }
    std::thread::sleep(SETTLE);
    let after = Kernel::now();
    (after.sum() as f64 - before.sum() as f64) / count as f64 / KIB
}
