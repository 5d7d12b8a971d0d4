// SPDX-License-Identifier: Apache-2.0
//! Frames to drivers.
#![forbid(unsafe_code)]

use super::cursor::{Cursor, total};
use super::log::DirtyLog;
use super::pair::{HEADER, Served, Terms};
use super::ring::{Buffer, Direction, MAX_PIECES, Piece, RingFault};
use crate::frame::{Frame, Pool};

/// Most frames that buffers are looked up for before the first is written.
const GROUP: usize = 32;

/// Buffers to be filled; kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pieces: Vec<Piece>,
    /// And how much is written into each.
    buffers: Vec<(Buffer, u32)>,
    pub(super) places: Vec<Place>,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Which of the queues.
    pub(super) queue: usize,
    /// Buffers and pieces of it; none when it is to be refused.
    buffers: (usize, usize),
    pieces: (usize, usize),
}

impl Place {
    pub(super) fn is_none(self) -> bool {
        self.buffers.0 == self.buffers.1
    }
}

impl Plan {
    /// It has as many frames, or pieces, as are looked up at a time.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.places.len() >= GROUP || self.pieces.len() >= MAX_PIECES
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.buffers.clear();
        self.places.clear();
    }

    /// Looks up buffers for a frame; false when no buffer is available, or not enough of them.
    #[inline]
    pub(super) fn add(
        &mut self,
        frame: &Frame,
        number: usize,
        queue: &mut Served,
        terms: Terms,
    ) -> Result<bool, RingFault> {
        let stand = queue.ring.position();
        let (first_buffer, first_piece) = (self.buffers.len(), self.pieces.len());
        let wanted = terms.header as u64 + u64::from(frame.len());
        let mut found = 0;
        let mut fits = true;
        while fits && found < wanted {
            let begin = self.pieces.len();
            let Some(buffer) = queue.ring.take(Direction::ToGuest, &mut self.pieces)? else {
                self.back_to(first_buffer, first_piece);
                queue.ring.go_back(stand);
                return Ok(false);
            };
            let here = total(&self.pieces[begin..]);
            let pieces = self.pieces.len() - first_piece;
            fits = here >= terms.header as u64
                && (terms.mergeable || here >= wanted)
                && pieces <= MAX_PIECES;
            let part = here.min(wanted - found) as u32;
            self.buffers.push((buffer, part));
            found += here;
        }
        if !fits {
            self.back_to(first_buffer, first_piece);
            queue.ring.go_back(stand);
        }
        if let Some(first) = self.pieces.get(first_piece)
            && let Some(here) = queue.memory.at(first.address, first.len as usize)
        {
            here.prefetch_to_write();
        }
        queue.ring.prefetch();
        self.places.push(Place {
            queue: number,
            buffers: (first_buffer, self.buffers.len()),
            pieces: (first_piece, self.pieces.len()),
        });
        Ok(true)
    }

    /// Notes that a frame is to be refused.
    #[cold]
    pub(super) fn add_none(&mut self) {
        self.places.push(Place {
            queue: 0,
            buffers: (0, 0),
            pieces: (0, 0),
        });
    }

    fn back_to(&mut self, buffers: usize, pieces: usize) {
        self.buffers.truncate(buffers);
        self.pieces.truncate(pieces);
    }

    /// Writes a frame where it goes, and gives these buffers back.
    #[inline]
    pub(super) fn write(
        &self,
        place: Place,
        frame: &Frame,
        queue: &mut Served,
        terms: Terms,
        pool: &mut Pool,
    ) -> Result<(), RingFault> {
        let buffers = &self.buffers[place.buffers.0..place.buffers.1];
        let pieces = &self.pieces[place.pieces.0..place.pieces.1];
        let (first, last) = terms.header(frame, buffers.len() as u16);
        let mut cursor = Cursor::new(&queue.memory, pieces);
        match cursor.next(terms.header)? {
            Some(all) if all.len() == HEADER => {
                let (front, back) = all.split(first.len());
                front.set(&first);
                back.set(&last);
            }
            Some(part) => {
                let mut header = [0; HEADER];
                header[..first.len()].copy_from_slice(&first);
                header[first.len()..].copy_from_slice(&last);
                part.copy_from(&header[..part.len()]);
                cursor.write(&header[part.len()..terms.header])?;
            }
            None => {}
        }
        match frame.lent() {
            None if frame.segments() == 1 => {
                cursor.write(frame.bytes())?;
            }
            None => {
                for segment in frame.iter() {
                    cursor.write(segment)?;
                }
            }
            Some((loan, len)) => {
                cursor.write(frame.bytes())?;
                for piece in pool.loans().pieces(loan, len as usize) {
                    cursor.write_over(piece)?;
                }
            }
        }
        if let Some(log) = &queue.log {
            mark(log, pieces, terms.header as u64 + u64::from(frame.len()));
        }
        for (buffer, written) in buffers {
            queue.give(*buffer, *written);
        }
        Ok(())
    }
}

/// Notes that the first `len` bytes of these pieces were written.
#[cold]
fn mark(log: &DirtyLog, pieces: &[Piece], mut len: u64) {
    for piece in pieces {
        let here = len.min(piece.len.into());
        log.mark(piece.address, here);
        len -= here;
    }
}
