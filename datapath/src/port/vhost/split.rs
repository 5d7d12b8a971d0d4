// SPDX-License-Identifier: Apache-2.0
//! Split virtqueues (virtio 1.2 section 2.7): a table of descriptors, and two rings.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::log::DirtyLog;
use super::memory::{GuestMemory, Words};
use super::ring::{
    Buffer, DESCRIPTOR, Direction, Gather, INDIRECT, MAX_PIECES, MAX_QUEUE, NEXT, Piece, Position,
    RingFault,
};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, and `VIRTQ_USED_F_NO_NOTIFY`.
const SUPPRESSED: u16 = 1;
/// Where the index of either ring is, and where its entries begin.
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// Bytes of an entry of the ring of what was used.
const USED: usize = 8;

/// One of them.
#[derive(Debug)]
pub(super) struct Split {
    size: u16,
    descriptors: Words,
    available: Words,
    used: Words,
    /// `VIRTIO_F_EVENT_IDX`: both sides name the entry that they want to be told of.
    events: bool,
    /// The next entry to take, and how far the driver was seen to be.
    next: u16,
    seen: u16,
    /// The next entry to use, and up to where the driver sees them.
    filled: u16,
    published: u16,
    /// What was published when the driver was asked last whether it wants to be called.
    asked: u16,
    kicks: bool,
}

/// Where the parts of a queue are for the frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// The table of descriptors, or the ring of a packed queue.
    pub descriptors: u64,
    /// What is available, or the driver's event suppression.
    pub available: u64,
    /// What was used, or the device's event suppression.
    pub used: u64,
}

impl Split {
    /// A queue of `size` descriptors that goes on with entry number `next`, or where its memory says that it has used what was before; `None` when `size` is
    /// no power of two up to [`MAX_QUEUE`], or a part of the queue is not in memory, or not where it may be.
    pub(super) fn new(
        memory: &Arc<GuestMemory>,
        at: Addresses,
        size: u16,
        events: bool,
        next: Option<u16>,
    ) -> Option<Split> {
        if !size.is_power_of_two() || size > MAX_QUEUE {
            return None;
        }
        let n = usize::from(size);
        let used = Words::new(memory, at.used, ENTRIES + n * USED + 2, 4)?;
        let filled = used.load(INDEX, Relaxed);
        let next = next.unwrap_or(filled);
        Some(Split {
            size,
            descriptors: Words::new(memory, at.descriptors, n * DESCRIPTOR, 16)?,
            available: Words::new(memory, at.available, ENTRIES + n * 2 + 2, 2)?,
            used,
            events,
            next,
            seen: next,
            filled,
            published: filled,
            asked: filled,
            kicks: true,
        })
    }

    fn place(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Where the index of the ring of what is available is now.
    #[inline]
    fn look(&self) -> u16 {
        self.available.load(INDEX, Acquire)
    }

    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.seen != self.next || self.look() != self.next
    }

    #[inline]
    pub(super) fn take(
        &mut self,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<Option<Buffer>, RingFault> {
        if self.seen == self.next {
            let seen = self.look();
            if seen.wrapping_sub(self.next) > self.size {
                return Err(RingFault::Index {
                    from: self.next,
                    to: seen,
                    size: self.size,
                });
            }
            self.seen = seen;
            if seen == self.next {
                return Ok(None);
            }
        }
        let head = ENTRIES + 2 * self.place(self.next);
        let id = self.available.load(head, Relaxed);
        self.walk(id, direction, pieces)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(Buffer { id, descriptors: 1 }))
    }

    /// Follows a chain.
    #[inline]
    fn walk(
        &self,
        head: u16,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), RingFault> {
        let memory = self.descriptors.memory();
        let mut gather = Gather {
            memory,
            direction,
            pieces,
        };
        let mut index = head;
        let most = usize::from(self.size).min(MAX_PIECES);
        for _ in 0..most {
            if index >= self.size {
                return Err(RingFault::Descriptor {
                    index,
                    size: self.size,
                });
            }
            let at = usize::from(index) * DESCRIPTOR;
            let address = self.descriptors.load_long(at);
            let rest = self.descriptors.load_long(at + 8);
            let (len, flags) = (rest as u32, (rest >> 32) as u16);
            if flags & INDIRECT != 0 {
                // A chain may have one as its last descriptor (virtio 1.2 section 2.7.5.3.1).
                return match flags & NEXT {
                    0 => gather.table(address, len, true),
                    _ => Err(RingFault::Nested),
                };
            }
            gather.add(address, len, flags)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = (rest >> 48) as u16;
        }
        Err(RingFault::Endless { most })
    }

    #[inline]
    pub(super) fn go_back(&mut self, to: Position) {
        self.next = to.available;
    }

    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, written: u32) {
        let at = ENTRIES + USED * self.place(self.filled);
        self.used.store_int(at, buffer.id.into());
        self.used.store_int(at + 4, written);
        self.filled = self.filled.wrapping_add(1);
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        self.published = self.filled;
        self.used.store(INDEX, self.published, Release);
    }

    pub(super) fn wants_call(&mut self) -> bool {
        let (old, new) = (self.asked, self.published);
        if old == new {
            return false;
        }
        self.asked = new;
        // What was published is seen before what the driver wants is looked at (virtio 1.2 section 2.7.7.2).
        fence(SeqCst);
        if !self.events {
            return self.available.load(0, Relaxed) & SUPPRESSED == 0;
        }
        let event = self
            .available
            .load(ENTRIES + 2 * usize::from(self.size), Relaxed);
        is_passed(event, old, new)
    }

    pub(super) fn ask_for_kicks(&mut self, on: bool) {
        if self.kicks == on {
            return;
        }
        self.kicks = on;
        if self.events {
            // The driver kicks when it passes this entry; one that it has passed already is far ahead.
            let event = match on {
                true => self.next,
                false => self.next.wrapping_sub(1),
            };
            let at = ENTRIES + USED * usize::from(self.size);
            self.used.store(at, event, Relaxed);
        } else {
            let flags = if on { 0 } else { SUPPRESSED };
            self.used.store(0, flags, Relaxed);
        }
        fence(SeqCst);
    }

    #[inline]
    pub(super) fn position(&self) -> Position {
        Position {
            available: self.next,
            used: self.filled,
        }
    }

    pub(super) fn mark(&self, log: &DirtyLog) {
        self.used.mark(log);
    }

    #[inline]
    pub(super) fn prefetch(&self) {
        let id = self
            .available
            .load(ENTRIES + 2 * self.place(self.next), Relaxed);
        self.descriptors.prefetch(usize::from(id) * DESCRIPTOR);
    }
}

/// Whether going from `old` to `new` passes the entry `event` (`vring_need_event`, include/uapi/linux/virtio_ring.h).
pub(super) fn is_passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::is_passed;

    #[test]
    fn an_event_is_passed_by_the_step_over_it() {
        assert!(is_passed(5, 5, 6));
        assert!(!is_passed(5, 6, 7));
        assert!(!is_passed(7, 5, 7));
        assert!(is_passed(u16::MAX, u16::MAX, 0));
        assert!(is_passed(0, u16::MAX, 3));
    }
}
