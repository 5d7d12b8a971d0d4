// SPDX-License-Identifier: Apache-2.0
//! The port against a kernel made of plain memory, which can do what the real one is not known to do: end a ring inside
//! a frame, send frames that are too long, name chunks it was never given.

use std::collections::VecDeque;
use std::fs::File;
use std::ptr::NonNull;
use std::time::Duration;

use proptest::prelude::*;

use super::super::plan::RingSizes;
use super::super::ring::{Consumer, Producer, Shared};
use super::super::socket::Queue;
use super::*;
use crate::frame::{BATCH_SIZE, Batch, Frame, Offload};
use crate::ids::WorkerId;
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

const ID: PortId = PortId(5);
const CHUNKS: u32 = 64;
const MORE: u32 = libc::XDP_PKT_CONTD;

/// One ring's words and slots, which stay where they are when this moves.
struct Memory<T> {
    words: Box<[AtomicU32; 3]>,
    slots: Vec<UnsafeCell<T>>,
}

impl<T: Copy> Memory<T> {
    fn new(size: u32, empty: T) -> Memory<T> {
        // The indices wrap during the tests.
        let start = u32::MAX - 20;
        Memory {
            words: Box::new([start, start, 1].map(AtomicU32::new)),
            slots: (0..size).map(|_| UnsafeCell::new(empty)).collect(),
        }
    }

    fn end(&self) -> Shared<T> {
        let [p, c, f] = self.words.each_ref().map(NonNull::from);
        let size = self.slots.len() as u32;
        // SAFETY: (X1, X2) the bed keeps the memory; the kernel's and the port's ends are of different sides.
        unsafe { Shared::new(p, c, f, NonNull::from(&self.slots[0]), size) }
    }
}

fn head(frame: &Frame) -> u32 {
    frame.chunks().next().unwrap().index
}

/// A port, and the other side of its rings.
struct Bed {
    port: XdpPort,
    pool: Pool,
    arena: Arc<Arena>,
    rx: Producer<libc::xdp_desc>,
    tx: Consumer<libc::xdp_desc>,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    memory: (
        Memory<libc::xdp_desc>,
        Memory<libc::xdp_desc>,
        Memory<u64>,
        Memory<u64>,
    ),
}

impl Bed {
    fn new(fill: u32, transmit: u32) -> Bed {
        Bed::of(fill, transmit, false)
    }

    fn of(fill: u32, transmit: u32, zero_copy: bool) -> Bed {
        let none = libc::xdp_desc {
            addr: 0,
            len: 0,
            options: 0,
        };
        let memory = (
            Memory::new(64, none),
            Memory::new(64, none),
            Memory::new(64, 0),
            Memory::new(64, 0),
        );
        let rings = Rings {
            rx: Consumer::new(memory.0.end()),
            tx: Producer::new(memory.1.end()),
            fill: Producer::new(memory.2.end()),
            completion: Consumer::new(memory.3.end()),
            mappings: Vec::new(),
        };
        let arena = Arc::new(Arena::new(WorkerId(0), CHUNKS).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let queue = Queue {
            interface: 1,
            queue: 0,
        };
        let null = File::open("/dev/null").unwrap();
        let port = XdpPort {
            id: ID,
            arena: arena.clone(),
            socket: Arc::new(Socket::from_fd(null.into(), queue, zero_copy, false)),
            rings,
            plan: PortPlan {
                fill,
                transmit,
                backlog: transmit,
                rings: RingSizes {
                    rx: 64,
                    tx: 64,
                    fill: 64,
                    completion: 64,
                },
            },
            caps: Caps {
                local_sender: true,
                superframes: false,
                takes_partial_checksum: true,
                joins_segments: false,
                takes_any_arena: false,
                takes_lent: false,
                max_segments: MAX_SEGMENTS,
                vlan: None,
            },
            packets: None,
            kicks_per_turn: 2,
            link: Link::Up,
            skipping: false,
            starved: false,
            untold: false,
            counters: PortCounters::default(),
            causes: KickCauses::default(),
        };
        Bed {
            port,
            pool,
            arena,
            rx: Producer::new(memory.0.end()),
            tx: Consumer::new(memory.1.end()),
            fill: Consumer::new(memory.2.end()),
            completion: Producer::new(memory.3.end()),
            memory,
        }
    }

    /// The kernel receives one segment into the next chunk it was given.
    fn arrives(&mut self, len: u32, options: u32) -> bool {
        let Some(addr) = self.fill.pop() else {
            return false;
        };
        self.fill.release();
        self.arrives_at(addr + 256, len, options);
        true
    }

    fn arrives_at(&mut self, addr: u64, len: u32, options: u32) {
        assert!(self.rx.push(libc::xdp_desc { addr, len, options }));
        self.rx.publish();
    }

    /// The kernel takes a descriptor to transmit and completes it.
    fn completes(&mut self) -> Option<libc::xdp_desc> {
        let desc = self.tx.pop()?;
        self.tx.release();
        assert!(self.completion.push(desc.addr));
        self.completion.publish();
        Some(desc)
    }

    fn receive(&mut self, budget: usize) -> Vec<Frame> {
        let mut batch = Batch::new();
        let n = self.port.receive(ID, &mut self.pool, &mut batch, budget);
        assert_eq!(n, batch.len());
        batch.drain().map(|p| p.frame).collect()
    }

    fn transmit(&mut self, frame: Frame) -> (usize, VecDeque<Frame>) {
        let mut outbox = VecDeque::from([frame]);
        (self.port.transmit(ID, &mut self.pool, &mut outbox), outbox)
    }

    #[track_caller]
    fn free(&mut self, frames: Vec<Frame>) {
        frames.into_iter().for_each(|f| self.pool.free(f));
    }

    fn check(&self, user: u32) {
        let a = self.pool.audit()[0];
        assert_eq!((a.free, a.refused), (a.listed, 0));
        assert_eq!(a.fill, self.port.filling());
        assert_eq!(a.transmit, self.port.pending());
        assert_eq!(a.user, user);
        assert_eq!(a.free + a.fill + a.transmit + a.user, CHUNKS);
    }
}

#[test]
fn the_fill_ring_is_kept_at_its_cap_and_says_when_it_cannot_be() {
    let mut bed = Bed::new(16, 16);
    bed.port.reclaim(&mut bed.pool);
    assert_eq!((bed.port.filling(), bed.port.starved()), (16, false));
    bed.port.reclaim(&mut bed.pool);
    assert_eq!(bed.port.filling(), 16);
    // Everything else is taken, so what is received is not replaced.
    let taken: Vec<Frame> = std::iter::from_fn(|| bed.pool.alloc(&bed.arena)).collect();
    for _ in 0..10 {
        assert!(bed.arrives(60, 0));
    }
    let frames = bed.receive(BATCH_SIZE);
    assert_eq!(frames.len(), 10);
    bed.port.reclaim(&mut bed.pool);
    bed.port.reclaim(&mut bed.pool);
    assert_eq!((bed.port.filling(), bed.port.starved()), (6, true));
    assert_eq!(bed.port.counters().fill_starved, 1);
    bed.free(taken);
    bed.port.reclaim(&mut bed.pool);
    assert_eq!((bed.port.filling(), bed.port.starved()), (16, false));
    bed.check(10);
    bed.free(frames);
}

#[test]
fn a_device_that_waits_for_chunks_is_told_before_the_worker_sleeps() {
    let mut bed = Bed::of(16, 16, true);
    let waits = |bed: &Bed, word: u32| bed.memory.2.words[2].store(word, Ordering::Relaxed);
    waits(&bed, 0);
    bed.port.reclaim(&mut bed.pool);
    assert!(!bed.port.has_work());
    // It found the ring empty when the chunks were on their way.
    waits(&bed, 1);
    assert!(bed.port.has_work());
    bed.port.reclaim(&mut bed.pool);
    // It was told; that it does not listen is no work.
    assert!(!bed.port.has_work());
    // In copy mode the word means nothing.
    let mut copied = Bed::new(16, 16);
    copied.port.reclaim(&mut copied.pool);
    assert!(!copied.port.has_work());
}

#[test]
fn what_a_device_may_still_write_to_is_not_used_again() {
    for (zero_copy, quarantined) in [(false, 0), (true, 16)] {
        let mut bed = Bed::of(16, 16, zero_copy);
        bed.port.reclaim(&mut bed.pool);
        let released = bed.port.close(ID, &mut bed.pool).finish(Duration::ZERO);
        let settled = released.settle(&mut bed.pool);
        let all = (settled.freed, settled.quarantined);
        assert_eq!(all, (16 - quarantined, quarantined));
    }
}

#[test]
fn a_budget_counts_frames_not_descriptors() {
    let mut bed = Bed::new(32, 16);
    bed.port.reclaim(&mut bed.pool);
    for _ in 0..3 {
        bed.arrives(3840, MORE);
        bed.arrives(100, 0);
    }
    bed.arrives(60, 0);
    let frames = bed.receive(2);
    assert_eq!(frames.iter().map(Frame::len).collect::<Vec<_>>(), [3940; 2]);
    assert_eq!(frames[1].segments(), 2);
    bed.check(4);
    let rest = bed.receive(BATCH_SIZE);
    assert_eq!(rest.iter().map(Frame::len).collect::<Vec<_>>(), [3940, 60]);
    assert!(!bed.port.has_work());
    bed.free(frames);
    bed.free(rest);
}

#[test]
fn a_frame_whose_end_is_not_there_yet_is_left_until_it_is() {
    let mut bed = Bed::new(32, 16);
    bed.port.reclaim(&mut bed.pool);
    bed.arrives(60, 0);
    bed.arrives(3840, MORE);
    bed.arrives(3840, MORE);
    let first = bed.receive(BATCH_SIZE);
    assert_eq!(first.len(), 1);
    assert!(bed.receive(BATCH_SIZE).is_empty());
    bed.check(1);
    bed.arrives(1, 0);
    let second = bed.receive(BATCH_SIZE);
    assert_eq!((second[0].len(), second[0].segments()), (7681, 3));
    bed.free(first);
    bed.free(second);
    bed.check(0);
}

#[test]
fn a_frame_of_more_segments_than_can_be_sent_is_freed_to_its_end() {
    let mut bed = Bed::new(40, 16);
    bed.port.reclaim(&mut bed.pool);
    for _ in 0..18 {
        bed.arrives(3840, MORE);
    }
    assert!(bed.receive(BATCH_SIZE).is_empty());
    bed.arrives(3840, MORE);
    assert!(bed.receive(BATCH_SIZE).is_empty());
    bed.arrives(3840, 0);
    bed.arrives(61, 0);
    let frames = bed.receive(BATCH_SIZE);
    assert_eq!(frames.iter().map(Frame::len).collect::<Vec<_>>(), [61]);
    assert_eq!(bed.port.counters().rx_too_long, 1);
    bed.check(1);
    bed.free(frames);
    bed.port.reclaim(&mut bed.pool);
    // Eighteen are the most and pass.
    for i in 0..18 {
        bed.arrives(3840, if i < 17 { MORE } else { 0 });
    }
    let frames = bed.receive(BATCH_SIZE);
    assert_eq!((frames[0].segments(), frames[0].len()), (18, 18 * 3840));
    bed.free(frames);
    bed.check(0);
}

#[test]
fn descriptors_that_make_no_sense_mint_no_frame() {
    let mut bed = Bed::new(16, 16);
    bed.port.reclaim(&mut bed.pool);
    let free = bed.pool.shelf(&bed.arena).unwrap().free();
    let mine = |bed: &mut Bed| {
        let addr = bed.fill.pop().unwrap();
        bed.fill.release();
        addr
    };
    // Not an address of the arena, not given to the kernel, another port's.
    bed.arrives_at(u64::from(CHUNKS) * 4096 + 256, 60, 0);
    bed.arrives_at(u64::MAX, 60, 0);
    let held = bed.pool.alloc(&bed.arena).unwrap();
    bed.arrives_at(u64::from(head(&held)) * 4096 + 256, 60, 0);
    bed.arena.set_owner(head(&held), Owner::Fill, PortId(6));
    bed.arrives_at(u64::from(head(&held)) * 4096 + 256, 60, 0);
    assert!(bed.receive(BATCH_SIZE).is_empty());
    assert_eq!(bed.port.counters().rx_invalid, 4);
    assert_eq!(bed.pool.shelf(&bed.arena).unwrap().free(), free - 1);
    bed.pool.free(held);
    // Its own chunk, but empty, beyond the chunk's end, or without room for metadata: the chunk comes back.
    let bad = [(256, 0), (256, 3841), (4095, 2), (8, 60), (256, u32::MAX)];
    for (offset, len) in bad {
        let addr = mine(&mut bed);
        bed.arrives_at(addr + offset, len, 0);
    }
    // Inside a chain, the rest of it is given back too.
    bed.arrives(3840, MORE);
    let addr = mine(&mut bed);
    bed.arrives_at(addr + 256, 0, MORE);
    bed.arrives(1, 0);
    assert!(bed.receive(BATCH_SIZE).is_empty());
    assert_eq!(bed.port.counters().rx_invalid, 10);
    assert_eq!(bed.pool.audit()[0].user, 0);
}

#[test]
fn frames_are_sent_whole_or_not_at_all_and_within_the_cap() {
    let mut bed = Bed::new(4, 20);
    let frame = |bed: &mut Bed, len| bed.pool.alloc_bytes(&bed.arena, &vec![7; len]).unwrap();
    let big = frame(&mut bed, 18 * 3840);
    assert_eq!(bed.transmit(big).0, 1);
    assert_eq!(bed.port.pending(), 18);
    let three = frame(&mut bed, 3 * 3840);
    let (sent, outbox) = bed.transmit(three);
    assert_eq!((sent, outbox.len()), (0, 1));
    assert_eq!(bed.port.counters().tx_full, 1);
    let two = frame(&mut bed, 2 * 3840);
    assert_eq!(bed.transmit(two).0, 1);
    bed.check(3);
    let sent: Vec<_> = std::iter::from_fn(|| bed.completes()).collect();
    let more: Vec<bool> = sent.iter().map(|d| d.options & MORE != 0).collect();
    let expected: Vec<bool> = (0..20).map(|i| i != 17 && i != 19).collect();
    assert_eq!(more, expected);
    assert!(sent.iter().all(|d| d.len == 3840 && d.addr % 4096 == 256));
    bed.port.reclaim(&mut bed.pool);
    assert_eq!(bed.port.pending(), 0);
    bed.free(outbox.into());
    bed.check(0);
}

#[test]
fn what_no_kernel_takes_is_freed_and_counted() {
    let mut bed = Bed::new(4, 20);
    let mut refused = 0;
    let mut refuse = |bed: &mut Bed, frame| {
        let (sent, outbox) = bed.transmit(frame);
        refused += 1;
        assert_eq!((sent, outbox.len(), bed.port.pending()), (0, 0, 0));
        assert_eq!(bed.port.counters().tx_refused, refused);
        assert_eq!(bed.pool.audit()[0].free, CHUNKS);
    };
    let frame = |bed: &mut Bed, len| bed.pool.alloc_bytes(&bed.arena, &vec![7; len]).unwrap();
    for len in [0, 13] {
        let short = frame(&mut bed, len);
        refuse(&mut bed, short);
    }
    let mut hollow = frame(&mut bed, 5000);
    assert!(hollow.pull_front(3840));
    refuse(&mut bed, hollow);
    let mut outside = frame(&mut bed, 60);
    outside.offload = Offload {
        partial_checksum: true,
        csum_start: 50,
        csum_offset: 16,
        ..Offload::default()
    };
    refuse(&mut bed, outside);
    bed.port.caps.max_segments = 1;
    let chained = frame(&mut bed, 5000);
    refuse(&mut bed, chained);
    bed.port.link = Link::Gone;
    let late = frame(&mut bed, 60);
    refuse(&mut bed, late);
    assert!(!bed.port.kick());
    assert_eq!(bed.port.counters().kicks, 0);
}

#[test]
fn a_partial_checksum_is_asked_for_in_front_of_the_first_segment_only() {
    let mut bed = Bed::new(4, 20);
    let mut frame = bed.pool.alloc_bytes(&bed.arena, &[7; 5000]).unwrap();
    frame.offload = Offload {
        partial_checksum: true,
        csum_start: 34,
        csum_offset: 16,
        ..Offload::default()
    };
    let head = head(&frame);
    assert_eq!(bed.transmit(frame).0, 1);
    let first = bed.completes().unwrap();
    assert_eq!(first.options, libc::XDP_TX_METADATA | MORE);
    assert_eq!(bed.completes().unwrap().options, 0);
    let at = bed.arena.at(head, 256 - 24);
    // SAFETY: (U1) the kernel of this test does not touch the chunk.
    let metadata = unsafe { std::slice::from_raw_parts(at.as_ptr(), 24) };
    assert_eq!(metadata[..8], 2u64.to_ne_bytes());
    assert_eq!(metadata[8..12], [34, 0, 16, 0].map(|b: u8| b));
    bed.port.reclaim(&mut bed.pool);
    // Without the feature the frame goes out as it is.
    bed.port.caps.takes_partial_checksum = false;
    let mut frame = bed.pool.alloc_bytes(&bed.arena, &[7; 60]).unwrap();
    frame.offload.partial_checksum = true;
    assert_eq!(bed.transmit(frame).0, 1);
    assert_eq!(bed.completes().unwrap().options, 0);
    bed.port.reclaim(&mut bed.pool);
    bed.check(0);
}

#[test]
fn every_answer_to_a_kick_is_counted_and_has_its_consequence() {
    let mut bed = Bed::new(4, 20);
    let port = &mut bed.port;
    for (errno, left, progress, again, link) in [
        (0, 0, true, true, Link::Up),
        (0, 3, false, false, Link::Up),
        (libc::EAGAIN, 3, true, true, Link::Up),
        (libc::EAGAIN, 3, false, false, Link::Up),
        (libc::EBUSY, 3, false, true, Link::Up),
        (libc::ENOBUFS, 3, false, false, Link::Up),
        (libc::ENOMEM, 3, false, false, Link::Up),
        (libc::ENETDOWN, 3, false, false, Link::Down),
        (libc::EINVAL, 3, false, false, Link::Up),
        (libc::ENXIO, 3, false, false, Link::Gone),
    ] {
        assert_eq!(port.judge(errno, left, progress), again, "errno {errno}");
        assert_eq!(port.link, link, "errno {errno}");
    }
    assert_eq!(
        port.kick_causes(),
        KickCauses {
            budget: 1,
            blocked: 1,
            completion_full: 1,
            device_dropped: 1,
            no_memory: 2,
            down: 1,
            gone: 1,
        }
    );
    assert_eq!(port.counters().kicks_again, 2);
    assert_eq!(port.counters().kicks_failed, 1);
}

#[test]
fn kicks_are_bounded_and_not_made_when_nobody_needs_one() {
    let mut bed = Bed::new(4, 20);
    assert!(!bed.port.kick());
    assert_eq!(bed.port.counters().kicks, 0);
    let frame = bed.pool.alloc_bytes(&bed.arena, &[7; 60]).unwrap();
    bed.transmit(frame);
    assert!(bed.port.has_work());
    // The descriptor is no socket: an error nobody expects ends the turn's kicks.
    bed.port.kick();
    assert_eq!(bed.port.counters().kicks, 1);
    assert_eq!(bed.port.counters().kicks_failed, 1);
    // A device that sends by itself is not called, but looked at again.
    bed.memory.1.words[2].store(0, Ordering::Relaxed);
    assert!(bed.port.kick());
    assert_eq!(bed.port.counters().kicks, 1);
}

/// What happens at a port and in its kernel.
#[derive(Clone, Debug)]
enum Step {
    Arrive { segments: u32, last: u32 },
    Receive { budget: usize },
    Send { which: usize },
    Free { which: usize },
    Complete { n: u32 },
    Reclaim,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..21u32, 1..3841u32).prop_map(|(segments, last)| Step::Arrive { segments, last }),
        4 => (1..3u32, 1..3841u32).prop_map(|(segments, last)| Step::Arrive { segments, last }),
        4 => (1..9usize).prop_map(|budget| Step::Receive { budget }),
        4 => (0..64usize).prop_map(|which| Step::Send { which }),
        2 => (0..64usize).prop_map(|which| Step::Free { which }),
        3 => (1..40u32).prop_map(|n| Step::Complete { n }),
        3 => Just(Step::Reclaim),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes and goes in whatever order, every chunk has one holder, caps hold, and frames arrive as sent.
    #[test]
    fn chunks_add_up_under_any_traffic(steps in steps()) {
        let mut bed = Bed::new(24, 20);
        let (mut held, mut expected) = (Vec::<Frame>::new(), VecDeque::new());
        let mut too_long = 0;
        for step in steps {
            match step {
                Step::Arrive { segments, last } => {
                    let whole = bed.fill.ready(segments) >= segments;
                    for i in 0..segments * u32::from(whole) {
                        let end = i + 1 == segments;
                        bed.arrives(if end { last } else { 3840 }, if end { 0 } else { MORE });
                    }
                    if whole && segments > 18 {
                        too_long += 1;
                    } else if whole {
                        expected.push_back((segments, (segments - 1) * 3840 + last));
                    }
                }
                Step::Receive { budget } => {
                    let frames = bed.receive(budget);
                    prop_assert!(frames.len() <= budget);
                    for frame in frames {
                        let is = (u32::from(frame.segments()), frame.len());
                        prop_assert_eq!(Some(is), expected.pop_front());
                        held.push(frame);
                    }
                }
                Step::Send { which } if !held.is_empty() => {
                    let frame = held.swap_remove(which % held.len());
                    let (fits, short) = (
                        bed.port.pending() + u32::from(frame.segments()) <= 20,
                        frame.len() < 14,
                    );
                    let (sent, outbox) = bed.transmit(frame);
                    prop_assert_eq!(sent == 1, fits && !short);
                    held.extend(outbox);
                }
                Step::Free { which } if !held.is_empty() => {
                    let frame = held.swap_remove(which % held.len());
                    bed.pool.free(frame);
                }
                Step::Complete { n } => {
                    for _ in 0..n {
                        bed.completes();
                    }
                }
                Step::Send { .. } | Step::Free { .. } => {}
                Step::Reclaim => bed.port.reclaim(&mut bed.pool),
            }
            prop_assert!(bed.port.filling() <= 24 && bed.port.pending() <= 20);
            let user = held.iter().map(|f| u32::from(f.segments())).sum();
            bed.check(user);
        }
        bed.receive(BATCH_SIZE).into_iter().for_each(|f| held.push(f));
        prop_assert_eq!(bed.port.counters().rx_too_long, too_long);
        prop_assert_eq!(bed.port.counters().rx_invalid, 0);
        bed.free(held);
        bed.check(0);
    }
}
