// SPDX-License-Identifier: Apache-2.0
//! Attaching and detaching pods.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use podswitch_tests::{HUNG, Node};

use crate::Settings;
use crate::outcome::Outcome;
use crate::ping::Ping;
use crate::pods::{Sandbox, node};

/// Calls at once, as a kubelet that starts many pods makes.
const AT_ONCE: usize = 4;

/// The benchmark.
///
/// # Panics
/// When a call fails or a pod does not answer.
pub fn run(settings: Settings) -> Outcome {
    let count = settings.pick(100, 8);
    let mut outcome = Outcome::new(
        "cni",
        "CNI: attaching and detaching pods",
        &format!(
            "podswitch-cni is executed by the CNI contract, in the node's namespace, with the built-in IPAM and both address
             families. {count} pods are attached to a node with one, one after the other; in every second of them IPv4 is pinged
             first, in the others IPv6: from before the plugin is executed to the first echo reply from the other pod, with a
             request a millisecond. Then rates of {count} pods without pings: one after the other, and {AT_ONCE} at once."
        ),
    );
    let node = node();
    let target = Sandbox::make(&node, 1);
    let first = target[0].add(&node);
    let pods = Sandbox::make(&node, count);
    let (mut adds, mut pings) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (n, pod) in pods.iter().enumerate() {
        let v6 = n % 2 == 1;
        let to = first.address(v6);
        // Opened first: a runtime's pod would have its socket from its own start.
        let ping = pod.netns.run(|| Ping::open(v6));
        let start = Instant::now();
        let added = pod.add(&node);
        ping.first_answer(to, HUNG);
        pings[usize::from(v6)].push(milliseconds(start.elapsed()));
        adds.push(milliseconds(added.took));
    }
    outcome.add_distribution("ADD", "ms", adds);
    let [v4, v6] = pings;
    outcome.add_distribution("ADD to first ping answered, IPv4", "ms", v4);
    outcome.add_distribution("ADD to first ping answered, IPv6", "ms", v6);
    let deletes = pods.iter().map(|p| milliseconds(p.delete(&node))).collect();
    outcome.add_distribution("DEL", "ms", deletes);
    for at_once in [1, AT_ONCE] {
        let mut rate = |verb: &str, call: fn(&Sandbox, &Node)| {
            let start = Instant::now();
            for_each(&pods, at_once, |pod| call(pod, &node));
            let rate = pods.len() as f64 / start.elapsed().as_secs_f64();
            outcome.add_figure(
                &format!("{verb} of {count} pods, {at_once} at once"),
                rate,
                "a second",
            );
        };
        rate("ADD", |pod, node| drop(pod.add(node)));
        rate("DEL", |pod, node| {
            pod.delete(node);
        });
    }
    outcome
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Calls `work` for each pod, so many at once.
fn for_each(pods: &[Sandbox], at_once: usize, work: impl Fn(&Sandbox) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(pod);
                }
            });
        }
    });
}
