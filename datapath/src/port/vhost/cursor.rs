// SPDX-License-Identifier: Apache-2.0
//! The bytes of buffers, one after another.
#![forbid(unsafe_code)]

use super::memory::GuestMemory;
use super::ring::{Piece, RingFault};
use crate::foreign::Foreign;

/// A place in the pieces of one buffer or several.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    memory: &'a GuestMemory,
    pieces: &'a [Piece],
    /// What is left of the first of `pieces`.
    left: Piece,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(memory: &'a GuestMemory, pieces: &'a [Piece]) -> Cursor<'a> {
        let (left, pieces) = match pieces {
            [first, others @ ..] => (*first, others),
            [] => (Piece::default(), pieces),
        };
        Cursor {
            memory,
            pieces,
            left,
        }
    }

    /// Goes on by at most `most` bytes, which lie together; none at the end.
    ///
    /// # Errors
    /// [`RingFault::Outside`], when they are no memory.
    #[inline]
    pub(super) fn next(&mut self, most: usize) -> Result<Option<Foreign<'a>>, RingFault> {
        while self.left.len == 0 {
            let Some((first, others)) = self.pieces.split_first() else {
                return Ok(None);
            };
            (self.left, self.pieces) = (*first, others);
        }
        let (at, len) = (self.left.address, (self.left.len as usize).min(most));
        let Some(here) = self.memory.at(at, len) else {
            return Err(outside(at, len));
        };
        // A piece that would go past the last address is not all memory, and found to be so when it is read.
        self.left.address = at.wrapping_add(here.len() as u64);
        self.left.len -= here.len() as u32;
        Ok(Some(here))
    }

    /// Where the bytes are that are left, and how many.
    pub(super) fn left(&self) -> impl Iterator<Item = (u64, u32)> {
        let all = std::iter::once(&self.left).chain(self.pieces);
        all.map(|piece| (piece.address, piece.len))
    }

    /// Fills `to`, as far as there are bytes; how many there were.
    #[inline]
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, RingFault> {
        let mut done = 0;
        while done < to.len()
            && let Some(here) = self.next(to.len() - done)?
        {
            here.copy_to(&mut to[done..done + here.len()]);
            done += here.len();
        }
        Ok(done)
    }

    /// Writes all of `from`, as far as there is room; how much there was.
    #[inline]
    pub(super) fn write(&mut self, from: &[u8]) -> Result<usize, RingFault> {
        let mut done = 0;
        while done < from.len()
            && let Some(here) = self.next(from.len() - done)?
        {
            here.copy_from(&from[done..done + here.len()]);
            done += here.len();
        }
        Ok(done)
    }

    /// Writes all of what somebody else has, as far as there is room.
    #[inline]
    pub(super) fn write_over(&mut self, mut from: Foreign<'_>) -> Result<(), RingFault> {
        while from.len() > 0
            && let Some(here) = self.next(from.len())?
        {
            let (now, later) = from.split(here.len());
            here.copy_over(now);
            from = later;
        }
        Ok(())
    }
}

#[cold]
fn outside(address: u64, len: usize) -> RingFault {
    RingFault::Outside {
        address,
        len: len as u32,
    }
}

/// Bytes of all pieces.
#[inline]
pub(super) fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.len)).sum()
}
