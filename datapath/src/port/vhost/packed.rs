// SPDX-License-Identifier: Apache-2.0
//! Packed virtqueues (virtio 1.2 section 2.8): one ring of descriptors, which both sides write.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::inflight::Track;
use super::log::DirtyLog;
use super::memory::{GuestMemory, Words};
use super::ring::{
    Buffer, DESCRIPTOR, Direction, Gather, INDIRECT, MAX_PIECES, MAX_QUEUE, NEXT, Piece, Position,
    RingFault, WRITE,
};
use super::split::{Addresses, is_passed};

/// `VIRTQ_DESC_F_AVAIL` and `VIRTQ_DESC_F_USED`.
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// The wrap counter, in what names a place in the ring (virtio 1.2 section 2.8.14).
const WRAP: u16 = 1 << 15;
/// Where the length, the id and the flags are in a descriptor.
const LEN: usize = 8;
const ID: usize = 12;
const FLAGS: usize = 14;
/// Where the flags are in a structure of event suppression, and its bytes.
const EVENT_FLAGS: usize = 2;
const EVENT: usize = 4;
/// `RING_EVENT_FLAGS_ENABLE`, `_DISABLE` and `_DESC`.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// A place in the ring, and the wrap counter of whoever is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct At {
    index: u16,
    wrap: bool,
}

impl At {
    fn of(bits: u16) -> At {
        At {
            index: bits & !WRAP,
            wrap: bits & WRAP != 0,
        }
    }

    fn bits(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    /// So many descriptors further, which are at most as many as there are.
    fn plus(self, n: u16, size: u16) -> At {
        let index = self.index + n;
        match index < size {
            true => At { index, ..self },
            false => At {
                index: index - size,
                wrap: !self.wrap,
            },
        }
    }

    fn flags(self) -> usize {
        usize::from(self.index) * DESCRIPTOR + FLAGS
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    ring: Words,
    /// Event suppression of the driver and of the device.
    driver: Words,
    device: Words,
    events: bool,
    next: At,
    /// Where the next buffer is given back, and how many descriptors were since the driver was asked whether it wants to be called.
    filled: At,
    since: u16,
    /// What was given back and the driver does not see yet, with how much was written. Nothing of it is in the queue.
    given: Vec<(At, Buffer, u32)>,
    /// Where it stands, for the next backend.
    track: Option<Track>,
    kicks: bool,
}

impl Packed {
    /// A queue of `size` descriptors that goes on from a position; `None` when there are none or more than [`MAX_QUEUE`], a part of it
    /// is not in memory or not where it may be, or the position is not in it.
    pub(super) fn new(
        memory: &Arc<GuestMemory>,
        at: Addresses,
        size: u16,
        events: bool,
        from: Position,
    ) -> Option<Packed> {
        let (next, filled) = (At::of(from.available), At::of(from.used));
        let size_is_one = (1..=MAX_QUEUE).contains(&size);
        if !size_is_one || next.index >= size || filled.index >= size {
            return None;
        }
        Some(Packed {
            size,
            ring: Words::new(memory, at.descriptors, usize::from(size) * DESCRIPTOR, 16)?,
            driver: Words::new(memory, at.available, EVENT, 4)?,
            device: Words::new(memory, at.used, EVENT, 4)?,
            events,
            next,
            filled,
            since: 0,
            given: Vec::new(),
            track: None,
            kicks: true,
        })
    }

    /// Goes on where the last backend of these buffers has stopped, by what the frontend keeps of it, and keeps that up to date; where it stands, if nothing is kept.
    pub(super) fn resume(&mut self, track: Track) {
        let (new, old) = track.resume(self.size, self.position());
        let (new, old) = (At::of(new), At::of(old));
        if new.index < self.size && old.index < self.size {
            (self.next, self.filled) = (new, new);
            // It was about to show some. The first is shown last: if it is not, the driver has looked at none of them.
            if old != new && self.is_available(old) {
                self.given = self.noted(&track, old, new);
            }
        }
        self.show();
        self.follow(track);
    }

    /// The buffers from one place to another, as the last backend was about to give them back.
    fn noted(&self, track: &Track, from: At, to: At) -> Vec<(At, Buffer, u32)> {
        let mut given = Vec::new();
        let mut at = from;
        // A frontend may have written anything there.
        for _ in 0..self.size {
            if at == to {
                break;
            }
            let (buffer, written) = track.noted(at.index);
            if !(1..=self.size).contains(&buffer.descriptors) {
                break;
            }
            given.push((at, buffer, written));
            at = at.plus(buffer.descriptors, self.size);
        }
        given
    }

    /// Keeps where it stands up to date; it goes on where it is.
    pub(super) fn follow(&mut self, track: Track) {
        let at = self.filled.bits();
        track.store(at, at);
        self.track = Some(track);
    }

    #[inline]
    fn is_available(&self, at: At) -> bool {
        let flags = self.ring.load(at.flags(), Acquire);
        (flags & AVAILABLE != 0) == at.wrap && (flags & USED != 0) != at.wrap
    }

    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.is_available(self.next)
    }

    #[inline]
    pub(super) fn take(
        &mut self,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<Option<Buffer>, RingFault> {
        if !self.is_available(self.next) {
            return Ok(None);
        }
        let memory = self.ring.memory();
        let mut gather = Gather {
            memory,
            direction,
            pieces,
        };
        let most = self.size.min(MAX_PIECES as u16);
        for count in 1..=most {
            let index = self.next.plus(count - 1, self.size).index;
            let at = usize::from(index) * DESCRIPTOR;
            let address = self.ring.load_long(at);
            let rest = self.ring.load_long(at + LEN);
            let (len, id, flags) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            match flags & INDIRECT {
                0 => gather.add(address, len, flags)?,
                _ if count == 1 && flags & NEXT == 0 => gather.table(address, len, false)?,
                _ => return Err(RingFault::Nested),
            }
            if flags & NEXT == 0 {
                self.next = self.next.plus(count, self.size);
                return Ok(Some(Buffer {
                    id,
                    descriptors: count,
                }));
            }
        }
        Err(RingFault::Endless { most: most.into() })
    }

    #[inline]
    pub(super) fn go_back(&mut self, to: Position) {
        self.next = At::of(to.available);
    }

    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, written: u32) {
        let at = self.filled;
        self.given.push((at, buffer, written));
        self.filled = at.plus(buffer.descriptors, self.size);
        self.since = self.since.saturating_add(buffer.descriptors);
    }

    /// The frontend knows of all of them before the first is in the queue, so that the next backend can finish what this one has begun.
    #[inline]
    pub(super) fn publish(&mut self) {
        let Some((first, ..)) = self.given.first() else {
            return;
        };
        let (old, new) = (first.bits(), self.filled.bits());
        if let Some(track) = &self.track {
            for (at, buffer, written) in &self.given {
                track.note(at.index, *buffer, *written);
            }
            track.store(new, old);
        }
        self.show();
        if let Some(track) = &self.track {
            track.store(new, new);
        }
    }

    /// Writes what was given back into the queue. The driver looks at them in order, and the first one is the last that it sees.
    #[inline]
    fn show(&mut self) {
        for (at, buffer, written) in self.given.drain(..).rev() {
            let base = usize::from(at.index) * DESCRIPTOR;
            self.ring.store_int(base + LEN, written);
            self.ring.store(base + ID, buffer.id, Relaxed);
            let both = if at.wrap { AVAILABLE | USED } else { 0 };
            let flags = both | if written > 0 { WRITE } else { 0 };
            self.ring.store(at.flags(), flags, Release);
        }
    }

    pub(super) fn wants_call(&mut self) -> bool {
        let since = std::mem::take(&mut self.since);
        if since == 0 {
            return false;
        }
        // What was published is seen before what the driver wants is looked at.
        fence(SeqCst);
        match self.driver.load(EVENT_FLAGS, Acquire) {
            DISABLE => false,
            DESC if self.events => {
                let event = At::of(self.driver.load(0, Relaxed));
                let new = self.filled.index;
                // In the round before, it is that much behind.
                let event = match event.wrap == self.filled.wrap {
                    true => event.index,
                    false => event.index.wrapping_sub(self.size),
                };
                is_passed(event, new.wrapping_sub(since), new)
            }
            _ => true,
        }
    }

    pub(super) fn ask_for_kicks(&mut self, on: bool) {
        if self.kicks == on {
            return;
        }
        self.kicks = on;
        let flags = match on {
            false => DISABLE,
            true if self.events => {
                self.device.store(0, self.next.bits(), Relaxed);
                DESC
            }
            true => ENABLE,
        };
        self.device.store(EVENT_FLAGS, flags, Release);
        fence(SeqCst);
    }

    #[inline]
    pub(super) fn position(&self) -> Position {
        Position {
            available: self.next.bits(),
            used: self.filled.bits(),
        }
    }

    pub(super) fn mark(&self, log: &DirtyLog) {
        self.ring.mark(log);
        self.device.mark(log);
    }

    #[inline]
    pub(super) fn prefetch(&self) {
        self.ring.prefetch(self.next.flags());
    }
}
