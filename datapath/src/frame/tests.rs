// SPDX-License-Identifier: Apache-2.0
//! Frames and pools against what they must do.

use std::os::fd::OwnedFd;

use proptest::prelude::*;

use super::*;
use crate::ids::{PortId, WorkerId};

fn pool(chunks: u32) -> (Pool, Arc<Arena>) {
    let arena = Arc::new(Arena::new(WorkerId(0), chunks).unwrap());
    let mut pool = Pool::new(WorkerId(0));
    pool.add_arena(arena.clone());
    (pool, arena)
}

fn bytes(frame: &Frame) -> Vec<u8> {
    frame.iter().flatten().copied().collect()
}

#[test]
fn segments_can_be_changed_and_gathered_anew() {
    let (mut pool, arena) = pool(16);
    let content: Vec<u8> = (0..9000u32).map(|n| n as u8).collect();
    let mut frame = pool.alloc_bytes(&arena, &content).unwrap();
    frame.prefetch();
    for segment in frame.iter_mut() {
        segment.iter_mut().for_each(|b| *b ^= 0xff);
    }
    let changed: Vec<u8> = content.iter().map(|b| b ^ 0xff).collect();
    assert_eq!(bytes(&frame), changed);
    let parts = std::iter::once(&b"head"[..]).chain(frame.iter());
    let other = pool.gather_beside(&frame, 9004, parts).unwrap();
    assert!(other.is_of(&arena));
    assert_eq!(bytes(&other), [b"head", &changed[..]].concat());
    pool.free(frame);
    pool.free(other);
    assert_eq!(pool.free_chunks(&arena), 16);
}

#[test]
fn bytes_of_every_length_survive_chaining_and_copying() {
    let (mut pool, arena) = pool(64);
    let data: Vec<u8> = (0..MAX_FRAME).map(|i| (i * 7 + i / 251) as u8).collect();
    for len in [
        0,
        1,
        60,
        1514,
        3839,
        3840,
        3841,
        7680,
        7681,
        65_549,
        data.len(),
    ] {
        let frame = pool.alloc_bytes(&arena, &data[..len]).unwrap();
        assert_eq!(frame.len() as usize, len);
        assert_eq!(usize::from(frame.segments()), len.div_ceil(3840).max(1));
        assert_eq!(bytes(&frame), &data[..len]);
        let copy = pool.copy(&frame, &arena).unwrap();
        assert_eq!(bytes(&copy), &data[..len]);
        pool.free(frame);
        pool.free(copy);
    }
    let audit = pool.audit()[0];
    assert_eq!((audit.free, audit.listed), (64, 64));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_lost() {
    let (mut pool, arena) = pool(4);
    assert!(pool.alloc_bytes(&arena, &[0; 3840 * 5]).is_none());
    assert!(pool.alloc_bytes(&arena, &[0; 3840 * 19]).is_none());
    let frames: Vec<_> = (0..4).map(|_| pool.alloc(&arena).unwrap()).collect();
    assert!(pool.alloc(&arena).is_none());
    assert_eq!(pool.audit()[0].user, 4);
    frames.into_iter().for_each(|f| pool.free(f));
    assert_eq!(pool.audit()[0].free, 4);
    assert!(Arena::new(WorkerId(0), 0).is_err());
    assert!(Arena::new(WorkerId(0), MAX_CHUNKS_PLUS_ONE).is_err());
}
const MAX_CHUNKS_PLUS_ONE: u32 = MAX_CHUNKS + 1;

#[test]
fn truncating_frees_what_is_cut_off() {
    let (mut pool, arena) = pool(8);
    let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    for len in [9_999u32, 7_680, 3_841, 3_840, 60, 1] {
        let mut frame = pool.alloc_bytes(&arena, &data).unwrap();
        pool.truncate(&mut frame, len);
        assert_eq!(bytes(&frame), &data[..len as usize]);
        assert_eq!(pool.audit()[0].user, len.div_ceil(3840));
        pool.free(frame);
    }
    assert_eq!(pool.audit()[0].listed, 8);
}

#[test]
fn headroom_is_given_and_taken_back() {
    let (mut pool, arena) = pool(1);
    let mut frame = pool.alloc_bytes(&arena, b"payload").unwrap();
    let room = (HEADROOM - METADATA_ROOM) as u16;
    assert!(!frame.push_front(room + 1));
    assert!(frame.push_front(room));
    assert!(!frame.push_front(1));
    assert_eq!(frame.len(), 7 + u32::from(room));
    assert!(frame.pull_front(room));
    assert!(!frame.pull_front(8));
    assert_eq!(frame.bytes(), b"payload");
    assert!(frame.resize(3840) && !frame.resize(3841));
    pool.free(frame);
}

#[test]
fn another_workers_frame_waits_to_go_home() {
    let (mut home, arena) = pool(2);
    let frame = home.alloc_bytes(&arena, b"x").unwrap();
    let mut away = Pool::new(WorkerId(1));
    away.free(frame);
    assert_eq!(home.audit()[0].user, 1);
    let frame = away.foreign().pop().unwrap();
    home.free(frame);
    assert_eq!(home.audit()[0].free, 2);
}

#[test]
fn a_chunk_given_back_twice_is_refused_and_counted() {
    let (mut pool, arena) = pool(4);
    let shelf = pool.shelf(&arena).unwrap();
    let chunk = shelf.take(Owner::Fill, PortId(3)).unwrap();
    assert_eq!(arena.owner(chunk), (Owner::Fill, PortId(3)));
    // SAFETY: (U1) taken above; the second call is the mistake under test, which the tag catches.
    unsafe {
        shelf.put(chunk);
        shelf.put(chunk);
    }
    let audit = pool.audit()[0];
    assert_eq!((audit.free, audit.listed, audit.refused), (4, 4, 1));
}

#[test]
fn a_closing_port_gives_back_all_but_what_is_lost() {
    let (mut pool, arena) = pool(8);
    let shelf = pool.shelf(&arena).unwrap();
    let mine: Vec<u32> = [Owner::Fill, Owner::Fill, Owner::Transmit]
        .into_iter()
        .map(|owner| shelf.take(owner, PortId(1)).unwrap())
        .collect();
    let other = shelf.take(Owner::Fill, PortId(2)).unwrap();
    assert_eq!(pool.start_closing(&arena, PortId(1)), 3);
    let audit = pool.audit()[0];
    assert_eq!((audit.free, audit.closing, audit.fill), (4, 3, 1));
    assert!(!pool.remove_arena(&arena));
    // SAFETY: (U1) no kernel in this test.
    let settled = unsafe { pool.finish_closing(&arena, PortId(1), |c| c == mine[2]) };
    assert_eq!(settled, (2, 1));
    let audit = pool.audit()[0];
    assert_eq!((audit.free, audit.quarantine, audit.listed), (6, 1, 6));
    assert_eq!(arena.owner(other), (Owner::Fill, PortId(2)));
    // SAFETY: (U1) taken above.
    unsafe { pool.shelf(&arena).unwrap().put(other) };
    assert!(pool.remove_arena(&arena));
}

fn adopt(arena: &Arena) -> std::io::Result<Arena> {
    // SAFETY: (U5) the tests do not touch the first mapping's chunks afterwards.
    unsafe { Arena::adopt(arena.memfd().try_clone_to_owned().unwrap()) }
}

#[test]
fn an_adopted_arena_frees_what_its_process_held_and_keeps_what_the_kernel_holds() {
    let (mut first, arena) = pool(16);
    let frame = first.alloc_bytes(&arena, b"left behind").unwrap();
    let shelf = first.shelf(&arena).unwrap();
    let kept = shelf.take(Owner::Fill, PortId(1)).unwrap();
    let gone = shelf.take(Owner::Transmit, PortId(2)).unwrap();
    let adopted = Arc::new(adopt(&arena).unwrap());
    assert_eq!((adopted.chunks(), adopted.worker()), (16, WorkerId(0)));
    let mut second = Pool::new(WorkerId(0));
    second.adopt_arena(adopted.clone(), &[PortId(1)]);
    let audit = second.audit()[0];
    assert_eq!((audit.free, audit.listed, audit.fill), (14, 14, 1));
    assert_eq!(adopted.owner(kept), (Owner::Fill, PortId(1)));
    assert_eq!(adopted.owner(gone).0, Owner::Quarantine);
    assert_eq!(bytes(&frame), b"left behind");
}

#[test]
fn what_is_no_arena_is_refused_by_name() {
    let refuse = |fd: OwnedFd| {
        // SAFETY: (U5) nobody else uses it.
        unsafe { Arena::adopt(fd) }.unwrap_err().to_string()
    };
    let memfd = |seal: bool, bytes: &[u8]| {
        use rustix::fs::{MemfdFlags, SealFlags};
        let fd = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&fd, bytes).unwrap();
        if seal {
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        }
        fd
    };
    let (_, arena) = pool(2);
    let mut good = vec![0u8; 4096 * 5];
    rustix::io::pread(arena.memfd(), &mut good[..], 0).unwrap();
    let spoilt = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert!(refuse(memfd(false, &good)).contains("sealed"));
    assert!(refuse(memfd(true, &[0; 64])).contains("magic"));
    assert!(refuse(memfd(true, b"short")).contains("magic"));
    assert!(refuse(memfd(true, &spoilt(8, 9))).contains("layout version 9"));
    assert!(refuse(memfd(true, &spoilt(12, 1))).contains("unexpected layout"));
    assert!(refuse(memfd(true, &spoilt(16, 0))).contains("0 chunks"));
    assert!(refuse(memfd(true, &good[..8192])).contains("8192 bytes long"));
}

/// What a test does with frames; numbers are reduced to what exists.
#[derive(Clone, Debug)]
enum Step {
    Alloc { len: usize, seed: u8 },
    Copy { which: usize },
    Push { which: usize, n: u16 },
    Pull { which: usize, n: u16 },
    Resize { which: usize, len: u16 },
    Truncate { which: usize, len: u32 },
    Write { which: usize, seed: u8 },
    Free { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..64usize;
    let step = prop_oneof![
        3 => (0..MAX_FRAME as usize + 4000, any::<u8>())
            .prop_map(|(len, seed)| Step::Alloc { len, seed }),
        3 => (0..3000usize, any::<u8>()).prop_map(|(len, seed)| Step::Alloc { len, seed }),
        2 => which.clone().prop_map(|which| Step::Copy { which }),
        2 => (which.clone(), 0..300u16).prop_map(|(which, n)| Step::Push { which, n }),
        2 => (which.clone(), 0..4096u16).prop_map(|(which, n)| Step::Pull { which, n }),
        1 => (which.clone(), 0..4097u16).prop_map(|(which, len)| Step::Resize { which, len }),
        2 => (which.clone(), 1..MAX_FRAME).prop_map(|(which, len)| Step::Truncate { which, len }),
        2 => (which.clone(), any::<u8>()).prop_map(|(which, seed)| Step::Write { which, seed }),
        4 => which.prop_map(|which| Step::Free { which }),
    ];
    prop::collection::vec(step, 1..120)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8)
        .collect()
}

/// A frame and the bytes it must hold. Bytes that `push_front` and `resize` uncover are whatever was there, so the model
/// takes them over from the frame once and holds it to them afterwards.
struct Held {
    frame: Frame,
    model: Vec<u8>,
    /// How far the frame begins behind the start of its chunk.
    front: usize,
}

impl Held {
    fn first(&self) -> usize {
        self.frame.bytes().len()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Push { n, .. } => {
                let may = usize::from(n) + METADATA_ROOM <= self.front;
                assert_eq!(self.frame.push_front(n), may);
                if may {
                    self.front -= usize::from(n);
                    let uncovered = self.frame.bytes()[..usize::from(n)].to_vec();
                    self.model.splice(0..0, uncovered);
                }
            }
            Step::Pull { n, .. } => {
                let may = usize::from(n) <= self.first();
                assert_eq!(self.frame.pull_front(n), may);
                if may {
                    self.front += usize::from(n);
                    self.model.drain(..usize::from(n));
                }
            }
            Step::Resize { len, .. } => {
                let may = self.frame.segments() == 1 && self.front + usize::from(len) <= CHUNK_SIZE;
                assert_eq!(self.frame.resize(len), may);
                if may {
                    let kept = self.model.len().min(len.into());
                    self.model.truncate(kept);
                    self.model.extend_from_slice(&self.frame.bytes()[kept..]);
                }
            }
            Step::Write { seed, .. } => {
                self.model = pattern(self.model.len(), seed);
                let mut rest = self.model.as_slice();
                self.frame.for_each_mut(|segment| {
                    let (now, later) = rest.split_at(segment.len());
                    segment.copy_from_slice(now);
                    rest = later;
                    true
                });
                assert!(rest.is_empty());
            }
            Step::Alloc { .. } | Step::Copy { .. } | Step::Truncate { .. } | Step::Free { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to frames, each holds exactly its bytes, and no chunk is lost or held twice.
    #[test]
    fn frames_hold_their_bytes_and_chunks_add_up(steps in steps()) {
        const CHUNKS: u32 = 96;
        let (mut pool, arena) = pool(CHUNKS);
        let mut held: Vec<Held> = Vec::new();
        for step in &steps {
            let i = match *step {
                Step::Copy { which } | Step::Free { which } => which,
                Step::Push { which, .. } | Step::Pull { which, .. } => which,
                Step::Resize { which, .. } | Step::Truncate { which, .. } => which,
                Step::Write { which, .. } => which,
                Step::Alloc { .. } => 0,
            } % held.len().max(1);
            let used: u32 = held.iter().map(|h| u32::from(h.frame.segments())).sum();
            let fits = |len: usize| {
                let needed = len.div_ceil(CHUNK_SIZE - HEADROOM).max(1) as u32;
                needed <= MAX_SEGMENTS.into() && needed <= CHUNKS - used
            };
            match *step {
                Step::Alloc { len, seed } => {
                    let model = pattern(len, seed);
                    let frame = pool.alloc_bytes(&arena, &model);
                    prop_assert_eq!(frame.is_some(), fits(len));
                    held.extend(frame.map(|frame| Held { frame, model, front: HEADROOM }));
                }
                _ if held.is_empty() => {}
                Step::Copy { .. } => {
                    let model = held[i].model.clone();
                    let copy = pool.copy(&held[i].frame, &arena);
                    prop_assert_eq!(copy.is_some(), fits(model.len()));
                    held.extend(copy.map(|frame| Held { frame, model, front: HEADROOM }));
                }
                Step::Truncate { len, .. } => {
                    let first_empty = held[i].first() == 0;
                    let h = &mut held[i];
                    if !first_empty {
                        pool.truncate(&mut h.frame, len);
                        h.model.truncate(len as usize);
                    }
                }
                Step::Free { .. } => pool.free(held.swap_remove(i).frame),
                ref step => held[i].take(step),
            }
            for h in &held {
                prop_assert_eq!(h.frame.len() as usize, h.model.len());
                prop_assert_eq!(bytes(&h.frame), h.model.as_slice());
            }
            let mut chunks: Vec<u32> = held.iter().flat_map(|h| h.frame.chunks()).map(|c| c.index).collect();
            let audit = pool.audit()[0];
            prop_assert_eq!((audit.user as usize, audit.free), (chunks.len(), audit.listed));
            prop_assert_eq!(audit.user + audit.free, CHUNKS);
            prop_assert_eq!(audit.refused, 0);
            chunks.sort_unstable();
            chunks.dedup();
            prop_assert_eq!(chunks.len() as u32, audit.user);
        }
        held.into_iter().for_each(|h| pool.free(h.frame));
        prop_assert_eq!(pool.audit()[0].listed, CHUNKS);
    }
}
