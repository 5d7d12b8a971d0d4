// SPDX-License-Identifier: Apache-2.0
//! Another port behind loss, duplication, reorder, corruption and delay, the same ones for the same seed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Port, PortCounters};
use crate::frame::{Batch, Frame, Pool};
use crate::ids::PortId;

/// Most frames that are delayed in one direction.
pub const MAX_DELAY: u32 = 1024;
/// Frames that may wait for the port behind; beyond that the outbox keeps them.
const READY: usize = 512;

/// What happens to the frames of one direction. Chances are in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// The frame is freed.
    pub loss: u32,
    /// A copy follows the frame.
    pub duplicate: u32,
    /// The next frame goes first.
    pub reorder: u32,
    /// One bit of the frame's first segment is flipped.
    pub corrupt: u32,
    /// The frame waits until this many have followed it, at most [`MAX_DELAY`]; in quiet times it goes on anyway.
    pub delay: u32,
}

/// The faults of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultPlan {
    /// The same seed and the same frames give the same faults.
    pub seed: u64,
    /// For frames that come in by the port.
    pub receive: Faults,
    /// For frames that go out of it.
    pub transmit: Faults,
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and every seed is good.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn chance(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < ppm.into()
    }
}

/// One direction: frames go in, and out some come, some time.
#[derive(Debug)]
struct Line {
    random: Random,
    faults: Faults,
    delayed: VecDeque<Frame>,
    overtaken: Option<Frame>,
    ready: VecDeque<Frame>,
    lost: u64,
}

impl Line {
    fn new(seed: u64, faults: Faults) -> Line {
        Line {
            random: Random(seed),
            faults,
            delayed: VecDeque::new(),
            overtaken: None,
            ready: VecDeque::new(),
            lost: 0,
        }
    }

    fn push(&mut self, mut frame: Frame, pool: &mut Pool, port: &Port) {
        let Line { random, faults, .. } = self;
        // Each chance is drawn for each frame, so that one fault's rate does not shift the others.
        let [loss, duplicate, reorder, corrupt] = [
            faults.loss,
            faults.duplicate,
            faults.reorder,
            faults.corrupt,
        ]
        .map(|f| random.chance(f));
        let bit = random.next();
        if loss {
            self.lost += 1;
            pool.free(frame);
            return;
        }
        let bytes = frame.bytes_mut();
        if corrupt && !bytes.is_empty() {
            let at = (bit >> 3) as usize % bytes.len();
            bytes[at] ^= 1 << (bit & 7);
        }
        let copy = duplicate.then(|| pool.copy(&frame, port.arena())).flatten();
        self.hold(frame, reorder);
        if let Some(copy) = copy {
            self.hold(copy, false);
        }
    }

    fn hold(&mut self, frame: Frame, reorder: bool) {
        if reorder && self.overtaken.is_none() {
            self.overtaken = Some(frame);
            return;
        }
        self.delayed.push_back(frame);
        self.delayed.extend(self.overtaken.take());
        while self.delayed.len() > self.faults.delay.min(MAX_DELAY) as usize {
            self.ready.extend(self.delayed.pop_front());
        }
    }

    /// Nothing follows: one held frame goes on.
    fn quiet(&mut self) {
        let frame = self.delayed.pop_front().or_else(|| self.overtaken.take());
        self.ready.extend(frame);
    }

    fn holds(&self) -> usize {
        self.delayed.len() + self.ready.len() + usize::from(self.overtaken.is_some())
    }

    fn close(self, pool: &mut Pool) {
        for frame in self
            .ready
            .into_iter()
            .chain(self.delayed)
            .chain(self.overtaken)
        {
            pool.free(frame);
        }
    }
}

/// A port behind faults, on its worker.
#[derive(Debug)]
pub struct FaultPort {
    inner: Port,
    receive: Line,
    transmit: Line,
    arrived: Batch,
    /// Frames freed because no chunk was free for what they were lent.
    no_memory: u64,
}

impl FaultPort {
    /// `inner` behind the faults of `plan`.
    pub fn new(inner: Port, plan: FaultPlan) -> FaultPort {
        FaultPort {
            inner,
            receive: Line::new(plan.seed, plan.receive),
            transmit: Line::new(!plan.seed, plan.transmit),
            arrived: Batch::new(),
            no_memory: 0,
        }
    }

    pub(super) fn inner(&self) -> &Port {
        &self.inner
    }

    /// The device behind it, through any number of faults.
    pub(super) fn innermost(&self) -> &Port {
        match &self.inner {
            Port::Fault(port) => port.innermost(),
            device => device,
        }
    }

    pub(super) fn inner_mut(&mut self) -> &mut Port {
        &mut self.inner
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let budget = budget.min(batch.room());
        let want = budget.saturating_sub(self.receive.ready.len());
        if self.inner.receive(id, pool, &mut self.arrived, want) == 0 {
            self.receive.quiet();
        }
        for packet in self.arrived.drain() {
            let mut frame = packet.frame;
            match pool.fetch(&mut frame) {
                true => self.receive.push(frame, pool, &self.inner),
                false => {
                    self.no_memory += 1;
                    pool.free(frame);
                }
            }
        }
        let n = budget.min(self.receive.ready.len());
        for frame in self.receive.ready.drain(..n) {
            super::give(batch, frame, id, pool);
        }
        n
    }

    pub(super) fn transmit(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        outbox: &mut VecDeque<Frame>,
    ) -> usize {
        if outbox.is_empty() {
            self.transmit.quiet();
        }
        let n = outbox
            .len()
            .min(READY.saturating_sub(self.transmit.ready.len()));
        for frame in outbox.drain(..n) {
            self.transmit.push(frame, pool, &self.inner);
        }
        self.inner.transmit(id, pool, &mut self.transmit.ready);
        n
    }

    pub(super) fn kick(&mut self, calls: &mut u32) -> bool {
        self.inner.kick(calls) | (self.transmit.holds() > 0)
    }

    pub(super) fn pending(&self) -> u32 {
        self.inner.pending() + self.transmit.holds() as u32
    }

    pub(super) fn has_work(&self) -> bool {
        self.receive.holds() > 0 || self.inner.has_work()
    }

    pub(super) fn counters(&self) -> PortCounters {
        let inner = self.inner.counters();
        PortCounters {
            fault_injected: self.receive.lost + self.transmit.lost,
            rx_no_memory: inner.rx_no_memory + self.no_memory,
            ..inner
        }
    }

    pub(super) fn close(self, id: PortId, pool: &mut Pool) -> super::Closed {
        self.receive.close(pool);
        self.transmit.close(pool);
        self.inner.close(id, pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Arena;
    use crate::ids::WorkerId;
    use crate::port::{MemoryDevice, MemoryHandle, MemoryPort};
    use std::sync::Arc;

    const ID: PortId = PortId(3);

    struct Bench {
        port: FaultPort,
        handle: MemoryHandle,
        pool: Pool,
        arena: Arc<Arena>,
    }

    fn bench(plan: FaultPlan) -> Bench {
        let arena = Arc::new(Arena::new(WorkerId(0), 4096).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let (device, handle) = MemoryDevice::pipe(4096).unwrap();
        let inner = Port::Memory(MemoryPort::new(device, arena.clone()));
        let port = FaultPort::new(inner, plan);
        Bench {
            port,
            handle,
            pool,
            arena,
        }
    }

    impl Bench {
        /// Sends `n` numbered frames in by the port and returns what the switch gets.
        fn receive(&mut self, n: u32) -> Vec<Vec<u8>> {
            let mut batch = Batch::new();
            let mut got = Vec::new();
            let mut sent = 0;
            while sent < n || self.port.has_work() {
                if sent < n {
                    assert!(self.handle.send(&sent.to_be_bytes()));
                    sent += 1;
                }
                self.port.receive(ID, &mut self.pool, &mut batch, 64);
                for packet in batch.drain() {
                    got.push(packet.frame.bytes().to_vec());
                    self.pool.free(packet.frame);
                }
            }
            got
        }

        /// Sends `n` numbered frames out of the port and returns what arrives.
        fn transmit(&mut self, n: u32) -> Vec<Vec<u8>> {
            let mut outbox = VecDeque::new();
            for i in 0..n {
                outbox.extend(self.pool.alloc_bytes(&self.arena, &i.to_be_bytes()));
                self.port.transmit(ID, &mut self.pool, &mut outbox);
            }
            while self.port.kick(&mut 1) {
                self.port.transmit(ID, &mut self.pool, &mut outbox);
            }
            std::iter::from_fn(|| self.handle.receive()).collect()
        }

        fn close(mut self) {
            drop(self.port.close(ID, &mut self.pool));
            let audit = self.pool.audit()[0];
            assert_eq!((audit.free, audit.listed), (4096, 4096));
        }
    }

    fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
        frames
            .iter()
            .map(|f| u32::from_be_bytes(f[..].try_into().unwrap()))
            .collect()
    }

    fn both(faults: Faults, n: u32, check: impl Fn(Vec<Vec<u8>>, PortCounters)) {
        let plan = FaultPlan {
            seed: 42,
            receive: faults,
            transmit: faults,
        };
        let mut b = bench(plan);
        let got = b.receive(n);
        check(got, b.port.counters());
        b.close();
        let mut b = bench(plan);
        let got = b.transmit(n);
        check(got, b.port.counters());
        b.close();
    }

    #[test]
    fn without_faults_nothing_changes() {
        both(Faults::default(), 500, |got, counters| {
            assert_eq!(numbers(&got), (0..500).collect::<Vec<_>>());
            assert_eq!(counters.fault_injected, 0);
        });
    }

    #[test]
    fn loses_about_its_share_and_counts_it() {
        let faults = Faults {
            loss: 100_000,
            ..Faults::default()
        };
        both(faults, 4000, |got, counters| {
            // 400 expected, standard deviation 19: six of them is one in 5e8, and the seed is fixed.
            assert!(
                (286..=514).contains(&counters.fault_injected),
                "{counters:?}"
            );
            assert_eq!(got.len() as u64, 4000 - counters.fault_injected);
            assert!(numbers(&got).is_sorted());
        });
    }

    #[test]
    fn duplicates_follow_their_original() {
        let faults = Faults {
            duplicate: 250_000,
            ..Faults::default()
        };
        both(faults, 2000, |got, _| {
            assert!((2380..=2620).contains(&got.len()), "{}", got.len());
            let mut once = numbers(&got);
            assert!(once.is_sorted());
            once.dedup();
            assert_eq!(once, (0..2000).collect::<Vec<_>>());
        });
    }

    #[test]
    fn reorder_swaps_neighbours_and_loses_none() {
        let faults = Faults {
            reorder: 300_000,
            ..Faults::default()
        };
        both(faults, 1000, |got, _| {
            let got = numbers(&got);
            assert!(!got.is_sorted());
            assert!(
                got.iter()
                    .enumerate()
                    .all(|(i, &n)| n.abs_diff(i as u32) <= 1)
            );
            let mut all = got;
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
        });
    }

    #[test]
    fn corruption_flips_one_bit() {
        let faults = Faults {
            corrupt: 1_000_000,
            ..Faults::default()
        };
        both(faults, 300, |got, _| {
            for (i, n) in numbers(&got).into_iter().enumerate() {
                assert_eq!((n ^ i as u32).count_ones(), 1);
            }
        });
    }

    #[test]
    fn delay_holds_frames_until_others_follow_or_it_is_quiet() {
        let faults = Faults {
            delay: 10,
            ..Faults::default()
        };
        both(faults, 100, |got, _| {
            assert_eq!(numbers(&got), (0..100).collect::<Vec<_>>());
        });
        let mut b = bench(FaultPlan {
            receive: faults,
            ..FaultPlan::default()
        });
        let mut batch = Batch::new();
        for i in 0..10u32 {
            b.handle.send(&i.to_be_bytes());
        }
        assert_eq!(b.port.receive(ID, &mut b.pool, &mut batch, 64), 0);
        assert!(b.port.has_work());
        b.close();
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults {
            loss: 50_000,
            duplicate: 50_000,
            reorder: 50_000,
            corrupt: 50_000,
            delay: 3,
        };
        let run = |seed| {
            let mut b = bench(FaultPlan {
                seed,
                receive: faults,
                transmit: faults,
            });
            let got = b.receive(500);
            b.close();
            got
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn every_kind_of_closing_frees_what_is_held() {
        let faults = Faults {
            reorder: 500_000,
            delay: 50,
            ..Faults::default()
        };
        let mut b = bench(FaultPlan {
            seed: 1,
            receive: faults,
            transmit: faults,
        });
        let mut outbox = VecDeque::new();
        let mut batch = Batch::new();
        for i in 0..40u32 {
            b.handle.send(&i.to_be_bytes());
            b.port.receive(ID, &mut b.pool, &mut batch, 64);
            outbox.extend(b.pool.alloc_bytes(&b.arena, &i.to_be_bytes()));
            b.port.transmit(ID, &mut b.pool, &mut outbox);
        }
        for packet in batch.drain() {
            b.pool.free(packet.frame);
        }
        assert!(b.port.pending() > 0);
        b.close();
    }
}
