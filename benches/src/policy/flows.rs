// SPDX-License-Identifier: Apache-2.0
//! Flows of datagrams between the pods of a node, any to any: first each is opened by its client, then answered by its
//! server, and from then on every frame is of a flow by chance, in one of its directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::{FrameSource, MemoryDevice};
use podswitch_datapath::wire::checksum::add;

use super::cluster::SERVICE;
use crate::stats::Random;
use crate::traffic::{self, Family, overwrite};
use crate::valve::{Tap, Valve};

/// First port of clients.
const CLIENT: u16 = 20_000;
/// Where a UDP header has its checksum.
const CHECKSUM: usize = 6;

/// How often the last flows are waited for.
const PATIENCE: usize = 100;

/// What the sources send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Step {
    /// The first datagram of each flow.
    Open,
    /// The second one.
    Answer,
    /// Datagrams of any.
    Mix,
}

/// How far all sources have come.
#[derive(Debug)]
struct Course {
    step: AtomicU8,
    /// Sources that have been through all their flows in this step.
    done: AtomicUsize,
}

/// A load of flows.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Address family.
    pub family: Family,
    /// How many, two directions each.
    pub count: usize,
    /// Pods that they are between.
    pub pods: usize,
    course: Arc<Course>,
}

impl Flows {
    /// Between pods `0..pods`.
    ///
    /// # Panics
    /// When there are fewer than two for each pair of pods: either is the client of one.
    pub fn new(family: Family, count: usize, pods: usize) -> Flows {
        assert!(count >= pods * (pods - 1), "{count} flows of {pods} pods");
        let course = Course {
            step: AtomicU8::new(Step::Open as u8),
            done: AtomicUsize::new(0),
        };
        Flows {
            family,
            count,
            pods,
            course: Arc::new(course),
        }
    }

    /// The memory ports of the pods; `frames` frames in all circle among them while the valve is open.
    pub fn devices(&self, frames: u32, valve: &Arc<Valve>) -> Vec<MemoryDevice> {
        let each = frames.div_ceil(self.pods as u32);
        let senders = self.senders(valve).into_iter();
        let device = |sender| MemoryDevice::circle(each, Box::new(sender));
        senders.map(device).collect()
    }

    /// The sources of the pods' frames, for ports of another kind.
    pub fn senders(&self, valve: &Arc<Valve>) -> Vec<Sender> {
        let sender = |pod| Sender::new(self, pod, valve);
        (0..self.pods).map(sender).collect()
    }

    /// Flows between two pods.
    fn between(&self, one: usize, other: usize) -> usize {
        let (low, high) = (one.min(other), one.max(other));
        let pairs = self.pods * (self.pods - 1) / 2;
        let pair = low * self.pods - low * (low + 1) / 2 + high - low - 1;
        self.count / pairs + usize::from(pair < self.count % pairs)
    }

    /// Has every flow opened and answered. `turns` turns the pipeline for a while and says how many connections it has.
    ///
    /// # Panics
    /// When the sources do not come through.
    pub fn establish(&self, mut turns: impl FnMut() -> usize) {
        self.go_through(Step::Open, &mut turns);
        // The last ones are still on their way. Some may never get there: a flow table has not room for everything.
        for _ in 0..PATIENCE {
            if turns() >= self.count {
                break;
            }
        }
        self.go_through(Step::Answer, &mut turns);
        self.mix();
        turns();
    }

    fn go_through(&self, step: Step, turns: &mut impl FnMut() -> usize) {
        self.course.done.store(0, Ordering::Relaxed);
        self.course.step.store(step as u8, Ordering::Relaxed);
        let done = || self.course.done.load(Ordering::Relaxed);
        for _ in 0..self.count {
            if done() == self.pods {
                return;
            }
            turns();
        }
        panic!(
            "only {} of {} pods came through: {step:?}",
            done(),
            self.pods
        );
    }

    /// Lets the sources begin with any flow, for pipelines that know of none.
    pub fn mix(&self) {
        self.course.step.store(Step::Mix as u8, Ordering::Relaxed);
    }
}

/// What a pod sends to one other.
#[derive(Debug)]
struct Peer {
    /// A datagram with both ports 0.
    datagram: Vec<u8>,
    /// The sum that its checksum is made of.
    sum: u16,
    flows: u32,
    /// The pod is the client of flows with even numbers, or of the others.
    even: bool,
}

/// The source of a pod's frames.
#[derive(Debug)]
pub struct Sender {
    peers: Vec<Peer>,
    /// Where the transport header begins.
    l4: usize,
    random: Random,
    /// The next peer, and the one after it as many further. The number of peers is prime, so each comes once in a
    /// round; then the order is another one.
    at: usize,
    stride: usize,
    left: usize,
    /// The step that it is in, and the flow and peer that are next in it.
    step: u8,
    next: (u32, usize),
    /// It has been through all flows of the step.
    through: bool,
    course: Arc<Course>,
    tap: Tap,
}

impl Sender {
    fn new(flows: &Flows, pod: usize, valve: &Arc<Valve>) -> Sender {
        let l4 = match flows.family {
            Family::V4 => 34,
            Family::V6 => 54,
        };
        let peer = |to: usize| {
            let datagram = traffic::datagram(&traffic::ends(pod, to, flows.family), (0, 0));
            let checksum = &datagram[l4 + CHECKSUM..][..2];
            Peer {
                sum: !u16::from_be_bytes([checksum[0], checksum[1]]),
                datagram,
                flows: flows.between(pod, to) as u32,
                even: pod < to,
            }
        };
        Sender {
            // Each pod begins with the next one, so that none is sent to by all at once.
            peers: (1..flows.pods)
                .map(|n| peer((pod + n) % flows.pods))
                .collect(),
            l4,
            random: Random::new(pod as u64),
            at: 0,
            stride: 1,
            left: 0,
            step: Step::Open as u8,
            next: (0, 0),
            through: false,
            course: flows.course.clone(),
            tap: Tap::new(valve),
        }
    }

    /// The next peer and flow of a step that goes through all of them.
    fn sweep(&mut self, step: u8) -> (usize, u32) {
        if step != self.step {
            (self.step, self.next, self.through) = (step, (0, 0), false);
        }
        let most = self.peers.iter().map(|p| p.flows).max().unwrap_or(0);
        loop {
            let (n, at) = self.next;
            if n >= most {
                self.next = (0, 0);
                if !std::mem::replace(&mut self.through, true) {
                    self.course.done.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            self.next = match at + 1 < self.peers.len() {
                true => (n, at + 1),
                false => (n + 1, 0),
            };
            let peer = &self.peers[at];
            let is_client = (n % 2 == 0) == peer.even;
            if n < peer.flows && is_client == (step == Step::Open as u8) {
                return (at, n);
            }
        }
    }

    /// Any peer and flow.
    #[inline]
    fn any(&mut self) -> (usize, u32) {
        let bits = self.random.bits();
        if self.left == 0 {
            self.left = self.peers.len();
            self.at = (bits >> 32) as usize % self.left;
            self.stride = 1 + (bits >> 48) as usize % (self.left - 1).max(1);
        }
        self.left -= 1;
        self.at += self.stride;
        if self.at >= self.peers.len() {
            self.at -= self.peers.len();
        }
        let flows = u64::from(self.peers[self.at].flows);
        (self.at, (((bits & 0xffff_ffff) * flows) >> 32) as u32)
    }
}

impl FrameSource for Sender {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        let step = self.course.step.load(Ordering::Relaxed);
        let (at, n) = match step == Step::Mix as u8 {
            true => self.any(),
            false => self.sweep(step),
        };
        let peer = &self.peers[at];
        let service = SERVICE.0 + n as u16 % (SERVICE.1 - SERVICE.0 + 1);
        let client = CLIENT + n as u16;
        let (source, destination) = match (n % 2 == 0) == peer.even {
            true => (client, service),
            false => (service, client),
        };
        if !overwrite(frame, &peer.datagram) {
            return false;
        }
        let Some(header) = frame.bytes_mut()[self.l4..].first_chunk_mut::<8>() else {
            return false;
        };
        header[..2].copy_from_slice(&source.to_be_bytes());
        header[2..4].copy_from_slice(&destination.to_be_bytes());
        let checksum = match !add(add(peer.sum, source), destination) {
            // Zero would say that there is none (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        header[CHECKSUM..].copy_from_slice(&checksum.to_be_bytes());
        true
    }

    fn ready(&self) -> usize {
        self.tap.ready()
    }

    fn received(&mut self, frames: usize) {
        self.tap.take(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_tests::frames::internet_checksum;

    #[test]
    fn pairs_share_all_flows() {
        let flows = Flows::new(Family::V4, 10_000, 32);
        let all: usize = (0..32)
            .flat_map(|a| (a + 1..32).map(move |b| (a, b)))
            .map(|(a, b)| flows.between(a, b))
            .sum();
        assert_eq!(all, 10_000);
        assert_eq!(flows.between(3, 9), flows.between(9, 3));
    }

    #[test]
    fn a_sweep_has_each_flow_once_and_a_mix_has_all_of_them() {
        let flows = Flows::new(Family::V4, 300, 4);
        let mut sender = Sender::new(&flows, 1, &Valve::open());
        for (step, expected) in [(Step::Open, 75), (Step::Answer, 75)] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..expected {
                assert!(seen.insert(sender.sweep(step as u8)));
            }
            let before = flows.course.done.load(Ordering::Relaxed);
            assert!(!seen.insert(sender.sweep(step as u8)), "begun again");
            assert_eq!(flows.course.done.load(Ordering::Relaxed), before + 1);
        }
        let mixed: std::collections::BTreeSet<_> = (0..5000).map(|_| sender.any()).collect();
        assert_eq!(mixed.len(), 150);
    }

    #[test]
    fn checksums_are_right() {
        use podswitch_datapath::frame::{Arena, Pool};
        for family in [Family::V4, Family::V6] {
            let arena = Arc::new(Arena::new(podswitch_datapath::WorkerId(0), 8).unwrap());
            let mut pool = Pool::new(podswitch_datapath::WorkerId(0));
            pool.add_arena(arena.clone());
            let mut frame = pool.alloc(&arena).unwrap();
            let flows = Flows::new(family, 3000, 32);
            let mut sender = Sender::new(&flows, 5, &Valve::open());
            for _ in 0..1000 {
                assert!(sender.write(&mut frame));
                let bytes = frame.bytes();
                let l3 = bytes.len() - sender.l4;
                let addresses = match family {
                    Family::V4 => &bytes[26..34],
                    Family::V6 => &bytes[22..54],
                };
                let pseudo = [addresses, &[0, 17], &(l3 as u16).to_be_bytes()].concat();
                assert_eq!(
                    internet_checksum(&[&pseudo, &bytes[sender.l4..]].concat()),
                    0
                );
            }
            pool.free(frame);
        }
    }
}
