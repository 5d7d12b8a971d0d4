// SPDX-License-Identifier: Apache-2.0
//! A virtqueue as its device sees it, split or packed: what the driver makes available is taken, and given back as used.
//!
//! All that the driver writes is read once and judged as it was read. What makes no sense is a [`RingFault`]: nothing of the ring is touched afterwards.
#![forbid(unsafe_code)]

use super::log::DirtyLog;
use super::memory::GuestMemory;
use super::packed::Packed;
use super::split::Split;

/// Most descriptors of a queue (virtio 1.2 section 2.7: 32768 is the most of a split one).
pub const MAX_QUEUE: u16 = 1 << 15;
/// Most pieces of a buffer, in a chain or an indirect table. A driver may use more of them in a table than its queue has descriptors, as Linux does.
pub(super) const MAX_PIECES: usize = 1024;

/// `VIRTQ_DESC_F_NEXT`: the buffer goes on in another descriptor.
pub(super) const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes there.
pub(super) const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: a table of descriptors is there.
pub(super) const INDIRECT: u16 = 4;
/// Bytes of a descriptor of either kind.
pub(super) const DESCRIPTOR: usize = 16;

/// What a driver did that no driver may. The queue is broken until it is set up anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingFault {
    /// A descriptor's bytes, or an indirect table's, are not all memory.
    #[error("{len} bytes at {address:#x} are not memory of the guest")]
    Outside {
        /// Where they begin for the guest.
        address: u64,
        /// How many.
        len: u32,
    },
    /// The number of a descriptor.
    #[error("descriptor {index} of {size}")]
    Descriptor {
        /// The number.
        index: u16,
        /// How many the queue has.
        size: u16,
    },
    /// A chain that does not end.
    #[error("a chain of more than {most} descriptors, or one that runs in a circle")]
    Endless {
        /// How many it may have.
        most: usize,
    },
    /// More buffers were made available than there are.
    #[error("the index of what is available went from {from} to {to} in a queue of {size}")]
    Index {
        /// Where it was.
        from: u16,
        /// Where it is.
        to: u16,
        /// How many descriptors the queue has.
        size: u16,
    },
    /// An indirect table.
    #[error("an indirect table of {len} bytes")]
    Table {
        /// Bytes that it has, as its descriptor says.
        len: u32,
    },
    /// A table where none may be: within another, or with more of the chain behind it.
    #[error("an indirect table within a chain or a table")]
    Nested,
    /// A buffer to write into where one to read belongs, or the other way round.
    #[error("a buffer for the other direction")]
    Direction,
    /// The worker was held up when it called the driver.
    #[error("its eventfd lets nobody write to it")]
    Call,
    /// A part of the guest's memory was taken away while it was in use.
    #[error("the file behind the guest's memory was cut")]
    Lost,
}

/// A piece of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Piece {
    pub(super) address: u64,
    pub(super) len: u32,
}

/// A buffer that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buffer {
    /// The number that it is given back by.
    pub(super) id: u16,
    /// Descriptors of the ring that it has.
    pub(super) descriptors: u16,
}

/// Who writes into a queue's buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// The driver: the device reads them.
    FromGuest,
    /// The device.
    ToGuest,
}

/// Gathers the pieces of one buffer.
pub(super) struct Gather<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) direction: Direction,
    pub(super) pieces: &'a mut Vec<Piece>,
}

impl Gather<'_> {
    /// A piece, with the flags of its descriptor. One without bytes counts, too: they are work.
    #[inline]
    pub(super) fn add(&mut self, address: u64, len: u32, flags: u16) -> Result<(), RingFault> {
        let to_guest = flags & WRITE != 0;
        if to_guest != (self.direction == Direction::ToGuest) {
            return Err(RingFault::Direction);
        }
        self.pieces.push(Piece { address, len });
        Ok(())
    }

    /// A table of descriptors, the first of which is first; `chained`: each names the next, else they follow each other.
    #[cold]
    pub(super) fn table(&mut self, address: u64, len: u32, chained: bool) -> Result<(), RingFault> {
        let count = len as usize / DESCRIPTOR;
        let whole = (len as usize).is_multiple_of(DESCRIPTOR);
        if count == 0 || count > MAX_PIECES || !whole {
            return Err(RingFault::Table { len });
        }
        let mut next = 0;
        for _ in 0..count {
            let at = address.wrapping_add((next * DESCRIPTOR) as u64);
            let mut bytes = [0; DESCRIPTOR];
            if !self.memory.read(at, &mut bytes) {
                return Err(RingFault::Outside { address, len });
            }
            let entry = u128::from_le_bytes(bytes);
            let (at, len) = (entry as u64, (entry >> 64) as u32);
            let flags = match chained {
                true => (entry >> 96) as u16,
                // The id is in between (virtio 1.2 section 2.8.13), and of the flags only this one means anything here.
                false => (entry >> 112) as u16 & WRITE,
            };
            if flags & INDIRECT != 0 {
                return Err(RingFault::Nested);
            }
            self.add(at, len, flags)?;
            match chained {
                true if flags & NEXT == 0 => return Ok(()),
                true => next = usize::from((entry >> 112) as u16),
                false => next += 1,
            }
            if next >= count && chained {
                return Err(RingFault::Descriptor {
                    index: next as u16,
                    size: count as u16,
                });
            }
        }
        match chained {
            true => Err(RingFault::Endless { most: count }),
            false => Ok(()),
        }
    }
}

/// Where a queue stands, so that it can go back there, or another device go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The next that is taken: of a split queue a count of buffers, of a packed one the place of a descriptor, with the driver's wrap counter in the top bit.
    pub available: u16,
    /// The next that is used, in the same way; of a split queue it stands in the queue itself.
    pub used: u16,
}

/// A virtqueue.
#[derive(Debug)]
pub(super) enum Ring {
    Split(Split),
    Packed(Packed),
}

/// Does the same with either.
macro_rules! either {
    ($ring:expr, $r:ident => $do:expr) => {
        match $ring {
            Ring::Split($r) => $do,
            Ring::Packed($r) => $do,
        }
    };
}

impl Ring {
    /// Whether a buffer is available.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        either!(self, r => r.has_more())
    }

    /// Takes the next buffer and puts its pieces behind those of `pieces`; `None` when none is available.
    #[inline]
    pub(super) fn take(
        &mut self,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<Option<Buffer>, RingFault> {
        either!(self, r => r.take(direction, pieces))
    }

    /// What was taken since the ring stood here is available again; nothing of it was given back.
    #[inline]
    pub(super) fn go_back(&mut self, to: Position) {
        either!(self, r => r.go_back(to));
    }

    /// Gives a buffer back, with so many bytes written. The driver sees it with [`Ring::publish`].
    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, written: u32) {
        either!(self, r => r.give(buffer, written));
    }

    /// The driver sees what was given back, all of it at once.
    #[inline]
    pub(super) fn publish(&mut self) {
        either!(self, r => r.publish());
    }

    /// Whether the driver wants to be called for what was published since it was asked last.
    #[inline]
    pub(super) fn wants_call(&mut self) -> bool {
        either!(self, r => r.wants_call())
    }

    /// Asks the driver to say, or not to say, when it makes buffers available. Whoever then sleeps looks again first.
    #[inline]
    pub(super) fn ask_for_kicks(&mut self, on: bool) {
        either!(self, r => r.ask_for_kicks(on));
    }

    /// Where it stands.
    #[inline]
    pub(super) fn position(&self) -> Position {
        either!(self, r => r.position())
    }

    /// Notes what the device may have written of the queue itself.
    #[cold]
    pub(super) fn mark(&self, log: &DirtyLog) {
        either!(self, r => r.mark(log));
    }

    /// Asks the processor for what [`Ring::take`] is going to read.
    #[inline]
    pub(super) fn prefetch(&self) {
        either!(self, r => r.prefetch());
    }
}
