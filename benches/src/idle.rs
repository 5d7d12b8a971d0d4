// SPDX-License-Identifier: Apache-2.0
//! What quiet ports cost, and how long a frame waits for a worker that sleeps.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use podswitch_tests::Netns;

use crate::Settings;
use crate::outcome::Outcome;
use crate::pods::{Attached, Sandbox, node};
use crate::process::run_times;

/// Name of the worker's thread.
const WORKER: &str = "ps-worker-0";
const PORT: u16 = 9000;
/// Longer than the worker spins, so that it sleeps.
const QUIET: Duration = Duration::from_millis(5);
/// Datagrams in front of one that is to meet a worker that is awake, and the time between them: less than it spins.
const WAKING: u32 = 20;
const APART: Duration = Duration::from_micros(20);

/// The benchmark.
///
/// # Panics
/// When pods cannot be attached, or datagrams are lost.
pub fn run(settings: Settings) -> Outcome {
    let (seconds, probes) = settings.pick((15, 2000), (2, 100));
    let counts: [usize; 2] = settings.pick([2, 100], [2, 10]);
    let mut outcome = Outcome::new(
        "idle",
        "Idle: a quiet worker, and waking it",
        &format!(
            "podswitchd with one worker and default settings; pods attached by CNI, quiet. CPU: run time of the worker's thread
             (schedstat) in each of {seconds} seconds. Latency: from before a pod's send(2) to the kernel's receive timestamp on
             the other pod's datagram, after {} ms of quiet, when the worker sleeps, and right after {WAKING} others that were
             {} us apart, when it spins.",
            QUIET.as_millis(),
            APART.as_micros()
        ),
    );
    for count in counts {
        let node = node();
        let sandboxes = Sandbox::make(&node, count);
        let pods: Vec<Attached> = sandboxes.iter().map(|s| s.add(&node)).collect();
        // What came with attaching: neighbour discovery, router solicitations.
        std::thread::sleep(settings.pick(Duration::from_secs(10), Duration::from_secs(2)));
        let pid = node.daemon().pid();
        let (mut worker, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..seconds {
            let (before, start) = (run_times(pid), Instant::now());
            std::thread::sleep(Duration::from_secs(1));
            let (after, elapsed) = (run_times(pid), start.elapsed().as_nanos() as f64);
            let share = |ns: u64| ns as f64 / elapsed * 100.0;
            let all = |times: &std::collections::BTreeMap<String, u64>| times.values().sum::<u64>();
            assert!(after.contains_key(WORKER), "no thread {WORKER}: {after:?}");
            worker.push(share(after[WORKER] - before[WORKER]));
            whole.push(share(all(&after).saturating_sub(all(&before))));
        }
        let mean = worker.iter().sum::<f64>() / worker.len() as f64;
        outcome.add_figure(&format!("worker, {count} ports, mean"), mean, "% of a core");
        outcome.add_series(&format!("worker, {count} ports"), "% of a core", worker);
        outcome.add_series(
            &format!("whole daemon, {count} ports"),
            "% of a core",
            whole,
        );
        let probe = Probe::new([&sandboxes[0].netns, &sandboxes[1].netns], &pods[1]);
        for (name, waking) in [("asleep", 0), ("awake", WAKING)] {
            let samples = (0..probes).map(|_| probe.take(waking)).collect();
            outcome.add_distribution(
                &format!("one way, {count} ports, worker {name}"),
                "us",
                samples,
            );
        }
    }
    outcome
}

/// Two pods' sockets.
struct Probe {
    from: UdpSocket,
    to: UdpSocket,
    target: SocketAddr,
}

impl Probe {
    fn new([from, to]: [&Netns; 2], receiver: &Attached) -> Probe {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let target = SocketAddr::new(receiver.address(false), PORT);
        let from = from.run(|| UdpSocket::bind(any).expect("a UDP socket"));
        let to = to.run(|| UdpSocket::bind(target).expect("a UDP socket on the pod's address"));
        setsockopt(&to, sockopt::ReceiveTimestampns, &true).expect("receive timestamps");
        to.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a read timeout");
        Probe { from, to, target }
    }

    /// Microseconds one way, after some datagrams that wake the worker.
    fn take(&self, waking: u32) -> f64 {
        std::thread::sleep(QUIET);
        for _ in 0..waking {
            self.send();
            let next = Instant::now() + APART;
            while Instant::now() < next {
                std::hint::spin_loop();
            }
        }
        let sent = self.send();
        let mut received = Duration::ZERO;
        for _ in 0..=waking {
            received = self.receive();
        }
        (received.as_nanos() as f64 - sent.as_nanos() as f64) / 1e3
    }

    /// When it was sent, since 1970.
    fn send(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.from
            .send_to(&[0; 18], self.target)
            .expect("a datagram is sent");
        now.expect("it is later than 1970")
    }

    /// When the next one was received, since 1970.
    fn receive(&self) -> Duration {
        let mut bytes = [0; 64];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!(TimeSpec);
        let message = recvmsg::<()>(
            self.to.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .expect("no datagram is lost");
        let mut controls = message.cmsgs().expect("room for the timestamp");
        let stamp = controls.find_map(|c| match c {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        stamp.expect("a receive timestamp")
    }
}
