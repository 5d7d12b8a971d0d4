// SPDX-License-Identifier: Apache-2.0
//! A worker's free chunks, and the only place outside the rings where frames come to be and end.

use std::sync::Arc;

use super::arena::{Arena, CHUNK_SIZE, HEADROOM, Owner};
use super::{Frame, MAX_SEGMENTS};
use crate::ids::{PortId, WorkerId};

/// A chunk and the bytes of it that matter, as a ring descriptor names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Which chunk of the arena.
    pub index: u32,
    /// Where its bytes begin, from the start of the chunk.
    pub offset: u16,
    /// How many bytes.
    pub len: u16,
}

/// Where an arena's chunks are, counted from their tags. The sum of all fields is the arena's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// All chunks.
    pub chunks: u32,
    /// On the free list.
    pub free: u32,
    /// Held as frames in userspace.
    pub user: u32,
    /// With the kernel, to receive into.
    pub fill: u32,
    /// With the kernel, to transmit.
    pub transmit: u32,
    /// With another worker.
    pub handoff: u32,
    /// Lost track of; not used again.
    pub quarantine: u32,
    /// Entries of the free list; differs from `free` only when a tag or the list is wrong.
    pub listed: u32,
}

struct Slot {
    arena: Arc<Arena>,
    free: Vec<u32>,
}

/// The free chunks of one worker's arenas.
///
/// Frames of other workers' arenas end up here too when this worker is done with them; [`Pool::foreign`] gives them to
/// the loop, which sends them home.
pub struct Pool {
    worker: WorkerId,
    slots: Vec<Slot>,
    foreign: Vec<Frame>,
}

impl Pool {
    /// An empty pool.
    pub fn new(worker: WorkerId) -> Pool {
        Pool {
            worker,
            slots: Vec::new(),
            foreign: Vec::with_capacity(4096),
        }
    }

    /// The worker it belongs to.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Takes over a fresh arena: all its chunks are free.
    ///
    /// # Panics
    /// When the arena is another worker's or is in a pool already.
    pub fn add_arena(&mut self, arena: Arc<Arena>) {
        assert_eq!(
            arena.worker(),
            self.worker,
            "an arena belongs to one worker"
        );
        assert!(self.slot(&arena).is_none(), "an arena is added once");
        let free = (0..arena.chunks()).rev().collect();
        self.slots.push(Slot { arena, free });
    }

    /// Gives an arena up when all its chunks are free or quarantined; false otherwise.
    pub fn remove_arena(&mut self, arena: &Arc<Arena>) -> bool {
        let Some(i) = self.slot(arena) else {
            return false;
        };
        let audit = self.audit_slot(&self.slots[i]);
        if audit.free + audit.quarantine != audit.chunks {
            return false;
        }
        self.slots.swap_remove(i);
        true
    }

    #[inline]
    fn slot(&self, arena: &Arc<Arena>) -> Option<usize> {
        self.slots.iter().position(|s| Arc::ptr_eq(&s.arena, arena))
    }

    /// Free chunks of an arena; 0 when it is not this pool's.
    pub fn free_chunks(&self, arena: &Arc<Arena>) -> u32 {
        self.slot(arena)
            .map_or(0, |i| self.slots[i].free.len() as u32)
    }

    /// Takes a free chunk for a ring; the caller sets its owner.
    #[inline]
    pub(crate) fn take(&mut self, arena: &Arc<Arena>) -> Option<u32> {
        let i = self.slot(arena)?;
        self.slots[i].free.pop()
    }

    /// Puts a chunk back that a ring returned.
    ///
    /// # Safety
    /// (U1) The caller holds the chunk (it came from a completion ring, or from [`Pool::take`]) and gives it up.
    #[inline]
    #[expect(dead_code, reason = "the AF_XDP rings return chunks through it")]
    pub(crate) unsafe fn put(&mut self, arena: &Arc<Arena>, chunk: u32) {
        if let Some(i) = self.slot(arena) {
            arena.set_owner(chunk, Owner::Free, PortId(0));
            self.slots[i].free.push(chunk);
        }
    }

    /// A frame of one empty segment behind [`HEADROOM`] bytes, or `None` when the arena has no free chunk.
    pub fn alloc(&mut self, arena: &Arc<Arena>) -> Option<Frame> {
        let chunk = self.take(arena)?;
        arena.set_owner(chunk, Owner::User, PortId(0));
        // SAFETY: (U1) the chunk came off the free list, so nobody else holds it.
        Some(unsafe { Frame::mint(arena, chunk, HEADROOM as u16, 0) })
    }

    /// A frame with these bytes, chained over several chunks when they are many; `None` when memory is short or the
    /// bytes need more than [`MAX_SEGMENTS`] chunks.
    pub fn alloc_bytes(&mut self, arena: &Arc<Arena>, bytes: &[u8]) -> Option<Frame> {
        self.gather(arena, bytes.len(), std::iter::once(bytes))
    }

    /// A copy of a frame in `arena`, segments repacked.
    pub fn copy(&mut self, frame: &Frame, arena: &Arc<Arena>) -> Option<Frame> {
        let mut copy = self.gather(arena, frame.len() as usize, frame.iter())?;
        copy.offload = frame.offload;
        Some(copy)
    }

    /// A frame in the same arena as `frame`, of `parts`, which have `total` bytes together; `None` as for
    /// [`Pool::alloc_bytes`], or when the arena is another worker's.
    pub fn gather_beside<'a>(
        &mut self,
        frame: &Frame,
        total: usize,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Frame> {
        let slot = self.slots.iter().find(|s| frame.is_of(&s.arena))?;
        let arena = slot.arena.clone();
        self.gather(&arena, total, parts)
    }

    fn gather<'a>(
        &mut self,
        arena: &Arc<Arena>,
        total: usize,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Frame> {
        const PAYLOAD: usize = CHUNK_SIZE - HEADROOM;
        let needed = total.div_ceil(PAYLOAD).max(1);
        let slot = self.slot(arena)?;
        if needed > usize::from(MAX_SEGMENTS) || self.slots[slot].free.len() < needed {
            return None;
        }
        let free = &mut self.slots[slot].free;
        let mut take = || {
            let chunk = free.pop()?;
            arena.set_owner(chunk, Owner::User, PortId(0));
            Some(chunk)
        };
        let seg_len = |i: usize| total.saturating_sub(i * PAYLOAD).min(PAYLOAD) as u16;
        let head = take()?;
        // SAFETY: (U1) the chunk came off the free list, so nobody else holds it.
        let mut frame = unsafe { Frame::mint(arena, head, HEADROOM as u16, seg_len(0)) };
        let mut tail = head;
        for i in 1..needed {
            let index = take()?;
            let chunk = Chunk {
                index,
                offset: HEADROOM as u16,
                len: seg_len(i),
            };
            // SAFETY: (U1) off the free list; (U4) HEADROOM + PAYLOAD is the chunk.
            unsafe { frame.append(tail, chunk) };
            tail = index;
        }
        scatter(&frame, parts);
        Some(frame)
    }

    /// Ends a frame: its chunks are free again, or it waits to go home when it is another worker's.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if frame.arena().worker() != self.worker {
            self.foreign.push(frame);
            return;
        }
        let arena: *const Arena = frame.arena();
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|s| Arc::as_ptr(&s.arena) == arena)
        else {
            return;
        };
        for chunk in frame.chunks() {
            slot.arena.set_owner(chunk.index, Owner::Free, PortId(0));
            slot.free.push(chunk.index);
        }
    }

    /// Shortens a frame to its first `len` bytes (an Ethernet trailer); chunks no longer needed are freed. A frame of
    /// another worker's arena keeps them: they go home with it.
    pub fn truncate(&mut self, frame: &mut Frame, len: u32) {
        if len >= frame.len() || frame.arena().worker() != self.worker {
            return;
        }
        let arena: *const Arena = frame.arena();
        let spare = frame.cut(len);
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|s| Arc::as_ptr(&s.arena) == arena)
        else {
            return;
        };
        for chunk in spare {
            slot.arena.set_owner(chunk, Owner::Free, PortId(0));
            slot.free.push(chunk);
        }
    }

    /// Frames of other workers that this worker has ended.
    pub fn foreign(&mut self) -> &mut Vec<Frame> {
        &mut self.foreign
    }

    /// Where every chunk of each arena is.
    pub fn audit(&self) -> Vec<Audit> {
        self.slots.iter().map(|s| self.audit_slot(s)).collect()
    }

    fn audit_slot(&self, slot: &Slot) -> Audit {
        let mut audit = Audit {
            chunks: slot.arena.chunks(),
            listed: slot.free.len() as u32,
            ..Audit::default()
        };
        for chunk in 0..slot.arena.chunks() {
            *match slot.arena.owner(chunk).0 {
                Owner::Free => &mut audit.free,
                Owner::User => &mut audit.user,
                Owner::Fill => &mut audit.fill,
                Owner::Transmit => &mut audit.transmit,
                Owner::Handoff => &mut audit.handoff,
                Owner::Quarantine => &mut audit.quarantine,
            } += 1;
        }
        audit
    }

    /// Marks every chunk that a closed port held as never to be used again, and says how many.
    pub fn quarantine(&mut self, arena: &Arc<Arena>, port: PortId) -> u32 {
        let mut n = 0;
        for chunk in 0..arena.chunks() {
            let (owner, of) = arena.owner(chunk);
            if of == port && matches!(owner, Owner::Fill | Owner::Transmit) {
                arena.set_owner(chunk, Owner::Quarantine, port);
                n += 1;
            }
        }
        n
    }
}

/// Copies `parts` into a frame's segments, which are together at least as long.
fn scatter<'a>(frame: &Frame, parts: impl Iterator<Item = &'a [u8]>) {
    let mut into = frame.chunks();
    let mut room: Option<(std::ptr::NonNull<u8>, usize)> = None;
    for mut part in parts {
        while !part.is_empty() {
            let (at, left) = match room {
                Some(r) if r.1 > 0 => r,
                _ => match into.next() {
                    Some(c) => (
                        frame.arena().at(c.index, c.offset.into()),
                        usize::from(c.len),
                    ),
                    None => return,
                },
            };
            let n = left.min(part.len());
            // SAFETY: (U1, U4) `at..at+left` is inside a chunk that only this new frame holds; `part` is other memory.
            room = unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), at.as_ptr(), n);
                Some((at.add(n), left - n))
            };
            part = &part[n..];
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slot in &self.slots {
            let audit = self.audit_slot(slot);
            if audit.free != audit.chunks {
                // (U3) somebody may still hold a frame or the kernel a chunk: the mapping stays.
                std::mem::forget(slot.arena.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let data: Vec<u8> = (0..super::super::MAX_FRAME)
            .map(|i| (i * 7 + i / 251) as u8)
            .collect();
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
    const MAX_CHUNKS_PLUS_ONE: u32 = super::super::MAX_CHUNKS + 1;

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
        assert!(frame.push_front(HEADROOM as u16));
        assert!(!frame.push_front(1));
        assert_eq!(frame.len(), 263);
        assert!(frame.pull_front(HEADROOM as u16));
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
}
