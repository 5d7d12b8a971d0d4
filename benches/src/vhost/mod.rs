// SPDX-License-Identifier: Apache-2.0
//! Frames a second between two virtual machines' queues, against a forwarder of DPDK's that does nothing with them.

mod frontend;
mod guest;
mod side;

use std::time::Duration;

use core_affinity::CoreId;
use podswitch_datapath::worker::clock::Clock;

use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::{Rounds, by_round};
use crate::traffic::{self, Family, Flow};
use guest::{Count, Generator};
use side::{Side, Testpmd, Whole};

/// Flows from one machine to the other.
const FLOWS: u32 = 10_000;
/// Frames, with what they are called.
const LENGTHS: [(usize, &str); 2] = [(60, "60-byte frames"), (1514, "1514-byte frames")];
const MTU: u32 = 1500;
/// Time in which queues fill, and flows become known.
const SETTLE: Duration = Duration::from_millis(150);

/// A forwarder, and two machines on it.
struct Bed<S> {
    side: S,
    generator: Generator,
}

impl<S: Side> Bed<S> {
    fn new(side: S, frame: &[u8]) -> Bed<S> {
        let mut generator = Generator::new(frame, FLOWS);
        generator.connect(side.sockets());
        side.run(false);
        Bed { side, generator }
    }

    /// Lets it run for a while.
    fn slice(&mut self, length: Duration) -> Count {
        let cycles = |time: Duration| (time.as_secs_f64() * Clock::get().hertz() as f64) as u64;
        self.side.run(true);
        self.generator.run(cycles(SETTLE));
        let count = self.generator.run(cycles(length));
        self.side.run(false);
        count
    }
}

/// A datagram from the first machine to the second.
fn frame(length: usize) -> Vec<u8> {
    let flow = Flow {
        from: 0,
        to: 1,
        port: 1024,
    };
    match length {
        traffic::FRAME => traffic::frame(flow, Family::V4),
        length => traffic::ends(0, 1, Family::V4).udp(
            (flow.port, traffic::SERVICE),
            64,
            &vec![0x5a; length - 42],
        ),
    }
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
    let (beds, rounds) = settings.pick((3, 8), (1, 2));
    let length = settings.pick(Duration::from_millis(400), Duration::from_millis(100));
    let mut outcome = Outcome::new(
        "vhost",
        "vhost-user: frames a second from one machine to another, one core",
        &format!(
            "Two machines in one thread on core {}, which only turns their queues (split, 1024 descriptors, mergeable buffers; no calls), send UDP datagrams of {FLOWS} flows
             from one to the other, as fast as they are taken. Core {} forwards: a switch worker with routed ports, sources checked, 16 rules a port and
             direction and connection tracking, or dpdk-testpmd in mode io, which gives what it gets on one port to the other. Counted at the receiving queue for {} ms a
             sample, in rounds of A B B A; everything is made anew {beds} times, in alternating order. The machines' memory is in pages of 4 KiB.",
            first.id,
            last.id,
            length.as_millis()
        ),
    );
    core_affinity::set_for_current(first);
    for (bytes, what) in LENGTHS {
        let mut rates = Rounds::default();
        let mut taken = [Vec::new(), Vec::new()];
        for n in 0..beds {
            let (mut rounds_here, huge) = one_bed(
                n,
                (first, last),
                &frame(bytes),
                (rounds, length),
                &mut taken,
            );
            rates.a.append(&mut rounds_here.a);
            rates.b.append(&mut rounds_here.b);
            if !huge {
                outcome.problem =
                    Some("dpdk-testpmd had no huge pages: it is slower without".into());
            }
        }
        let added = by_round(&rates.a, &rates.b, |switch, io| 1e6 / switch - 1e6 / io);
        let label = format!("{what}: switch − testpmd io");
        outcome.add_comparison(&label, "ns a packet", added);
        for (name, sent) in ["switch", "testpmd io"].into_iter().zip(taken) {
            let label = format!("{what}: {name}: taken from the sender / received");
            outcome.add_series(&label, "times the rate", sent);
        }
        outcome.add_rounds(what, ("switch", "testpmd io"), "kpps", rates);
    }
    outcome
}

/// Rounds with forwarders and machines that are made for them; whether testpmd had huge pages.
fn one_bed(
    number: usize,
    (main, core): (CoreId, CoreId),
    frame: &[u8],
    (rounds, length): (usize, Duration),
    taken: &mut [Vec<f64>; 2],
) -> (Rounds, bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let [ours, theirs] = ["switch", "testpmd"].map(|name| folder.path().join(name));
    for path in [&ours, &theirs] {
        std::fs::create_dir(path).expect("a folder");
    }
    let switch = || Bed::new(Whole::new(&ours, core, MTU), frame);
    let testpmd = || Bed::new(Testpmd::new(&theirs, main, core), frame);
    let (mut switch, mut testpmd) = match number % 2 {
        0 => {
            let first = switch();
            (first, testpmd())
        }
        _ => {
            let first = testpmd();
            (switch(), first)
        }
    };
    switch.slice(length);
    testpmd.slice(length);
    check(&switch.generator, frame, true);
    check(&testpmd.generator, frame, false);
    let before = switch.side.drops();
    let mut rates = Rounds::default();
    for _ in 0..rounds {
        rates.take(|is_switch| {
            let count = match is_switch {
                true => switch.slice(length),
                false => testpmd.slice(length),
            };
            taken[usize::from(!is_switch)].push(count.sent / count.received);
            count.received / 1e3
        });
    }
    // What is lost for want of room at the receiver is no verdict.
    assert_eq!(switch.side.drops(), before, "the switch judges frames");
    (rates, testpmd.side.has_huge_pages())
}

/// The last packet is one of those that were sent; the switch gives it other MAC addresses and one hop less.
fn check(generator: &Generator, frame: &[u8], routed: bool) {
    let received = generator.received(frame.len());
    let payload = 42;
    assert_eq!(received[payload..], frame[payload..], "another payload");
    assert_eq!(received[26..34], frame[26..34], "other addresses");
    let (mac, hops) = match routed {
        true => (traffic::mac(1).0, frame[22] - 1),
        false => (traffic::GATEWAY_MAC.0, frame[22]),
    };
    assert_eq!((&received[..6], received[22]), (&mac[..], hops));
}
