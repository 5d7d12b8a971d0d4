// SPDX-License-Identifier: Apache-2.0
//! The bytes of buffers, one after another.
#![forbid(unsafe_code)]

use super::memory::GuestMemory;
use super::ring::{Piece, RingFault};

/// A place in the pieces of one buffer or several.
pub(super) struct Cursor<'a> {
    memory: &'a GuestMemory,
    pieces: &'a [Piece],
    /// What is left of the first of `pieces`.
    left: Piece,
}

impl<'a> Cursor<'a> {
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

    /// Goes on by at most `most` bytes, which lie together: where they begin and how many they are. None at the end.
    #[inline]
    fn next(&mut self, most: usize) -> Option<(u64, usize)> {
        while self.left.len == 0 {
            let (first, others) = self.pieces.split_first()?;
            (self.left, self.pieces) = (*first, others);
        }
        let len = (self.left.len as usize).min(most);
        let at = self.left.address;
        // A piece that would go past the last address is not all memory, and found to be so when it is read.
        self.left.address = at.wrapping_add(len as u64);
        self.left.len -= len as u32;
        Some((at, len))
    }

    /// Fills `to`, as far as there are bytes; how many there were.
    #[inline]
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, RingFault> {
        let mut done = 0;
        while done < to.len()
            && let Some((address, len)) = self.next(to.len() - done)
        {
            if !self.memory.read(address, &mut to[done..done + len]) {
                return Err(outside(address, len));
            }
            done += len;
        }
        Ok(done)
    }

    /// Writes all of `from`, as far as there is room; how much there was.
    #[inline]
    pub(super) fn write(&mut self, from: &[u8]) -> Result<usize, RingFault> {
        let mut done = 0;
        while done < from.len()
            && let Some((address, len)) = self.next(from.len() - done)
        {
            if !self.memory.write(address, &from[done..done + len]) {
                return Err(outside(address, len));
            }
            done += len;
        }
        Ok(done)
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
