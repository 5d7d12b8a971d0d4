// SPDX-License-Identifier: Apache-2.0
//! Frames that drivers send. What of them a stage may read, the headers, is copied into a chunk before it is judged; of a long one, whose headers are plain, the rest stays
//! where the driver has put it until the burst is over, and so do all buffers of it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::cursor::{Cursor, total};
use super::memory::GuestMemory;
use super::pair::{HEADER, Served, Terms};
use super::ring::{Buffer, Direction, MAX_PIECES, Piece, Position, RingFault};
use crate::frame::{Arena, Batch, Frame, MAX_FRAME, Pool};
use crate::ids::PortId;
use crate::port::{PortCounters, give};
use crate::wire::protocol;

/// Shorter frames are copied whole.
const LONG: usize = 512;
/// What is copied of a longer one: more than all headers of plain TCP have.
const HEAD: usize = 192;

/// Buffers with frames of a burst; kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pieces: Vec<Piece>,
    pub(super) found: Vec<Found>,
}

/// A buffer with a frame of the driver's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) buffer: Buffer,
    /// Which of the queues it is of.
    pub(super) queue: u16,
    /// Where the queue stood in front of it.
    pub(super) stand: Position,
    /// Which of the pieces are its.
    begin: u32,
    end: u32,
}

impl Taken {
    /// Looks up the buffers of up to `want` frames in all. All are before the first is read, so that the processor can fetch them side by side.
    #[inline]
    pub(super) fn look_up(
        &mut self,
        queue: &mut Served,
        number: usize,
        want: usize,
    ) -> Result<(), RingFault> {
        // A driver that describes its packets in very many pieces has fewer of them taken at a time.
        while self.found.len() < want && self.pieces.len() < MAX_PIECES {
            let (stand, begin) = (queue.ring.position(), self.pieces.len());
            let taken = queue.ring.take(Direction::FromGuest, &mut self.pieces)?;
            let Some(buffer) = taken else {
                break;
            };
            if let Some(first) = self.pieces.get(begin)
                && let Some(here) = queue.memory.at(first.address, first.len as usize)
            {
                here.prefetch();
            }
            queue.ring.prefetch();
            self.found.push(Found {
                buffer,
                queue: number as u16,
                stand,
                begin: begin as u32,
                end: self.pieces.len() as u32,
            });
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.found.clear();
    }

    /// Has the queues stand in front of the buffer number `from` again, and of those after it.
    #[cold]
    pub(super) fn go_back(&mut self, from: usize, queues: &mut [Served]) {
        for found in self.found.drain(from..).rev() {
            queues[usize::from(found.queue)].ring.go_back(found.stand);
        }
    }

    #[inline]
    pub(super) fn pieces(&self, found: Found) -> &[Piece] {
        &self.pieces[found.begin as usize..found.end as usize]
    }
}

/// What taking frames needs.
pub(super) struct Take<'a> {
    pub(super) id: PortId,
    pub(super) terms: Terms,
    pub(super) arena: &'a Arc<Arena>,
    pub(super) pool: &'a mut Pool,
    pub(super) batch: &'a mut Batch,
    pub(super) counters: &'a mut PortCounters,
}

/// What became of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Copied {
    Frame,
    /// What is no frame; it is counted.
    Nothing,
    /// Chunks are short.
    NoRoom,
}

impl Take<'_> {
    /// Puts a frame of the bytes that are in these pieces now into the batch.
    #[inline(always)]
    pub(super) fn copy(
        &mut self,
        memory: &Arc<GuestMemory>,
        pieces: &[Piece],
    ) -> Result<Copied, RingFault> {
        let headed = self.terms.header;
        let Some(len @ 1..) = total(pieces).checked_sub(headed as u64) else {
            return Ok(self.invalid());
        };
        if len > MAX_FRAME.into() {
            self.counters.rx_too_long += 1;
            return Ok(Copied::Nothing);
        }
        let len = len as usize;
        let mut cursor = Cursor::new(memory, pieces);
        let mut header = [0; HEADER];
        match cursor.next(headed)? {
            Some(all) if all.len() == HEADER => header = all.first(),
            Some(part) => {
                part.copy_to(&mut header[..part.len()]);
                cursor.read(&mut header[part.len()..headed])?;
            }
            None => {}
        }
        if len >= LONG {
            return self.copy_long(memory, cursor, len, &header);
        }
        let offload = match says_nothing(&header) {
            true => None,
            false => match self.terms.judge(&header, len as u32) {
                Some(offload) => Some(offload),
                None => return Ok(self.invalid()),
            },
        };
        let fill = |bytes: &mut [u8]| cursor.read(bytes).map(drop);
        let Some(frame) = self.pool.alloc_filled(self.arena, len as u16, fill)? else {
            return Ok(Copied::NoRoom);
        };
        give(self.batch, frame, self.id, self.pool);
        // Rarely, so that most frames are made where they stay.
        if let Some((offload, packet)) = offload.zip(self.batch.last_mut()) {
            packet.frame.offload = offload;
        }
        Ok(Copied::Frame)
    }

    #[cold]
    fn invalid(&mut self) -> Copied {
        self.counters.rx_invalid += 1;
        Copied::Nothing
    }

    /// As [`copy`](Take::copy), of a long frame behind its header.
    #[inline(never)]
    fn copy_long(
        &mut self,
        memory: &Arc<GuestMemory>,
        mut cursor: Cursor<'_>,
        len: usize,
        header: &[u8; HEADER],
    ) -> Result<Copied, RingFault> {
        let Some(offload) = self.terms.judge(header, len as u32) else {
            return Ok(self.invalid());
        };
        let fill = |bytes: &mut [u8]| cursor.read(bytes).map(drop);
        let head = self.pool.alloc_filled(self.arena, HEAD as u16, fill)?;
        let Some(mut frame) = head else {
            return Ok(Copied::NoRoom);
        };
        let rest = self.rest(&mut frame, memory, cursor, len - HEAD);
        if !matches!(rest, Ok(true)) {
            self.pool.free(frame);
            return rest.map(|_| Copied::NoRoom);
        }
        frame.offload = offload;
        give(self.batch, frame, self.id, self.pool);
        Ok(Copied::Frame)
    }

    /// What follows the head of a long frame, `left` bytes: lent if its headers are plain, else copied. False when chunks are short.
    fn rest(
        &mut self,
        frame: &mut Frame,
        memory: &Arc<GuestMemory>,
        mut cursor: Cursor<'_>,
        left: usize,
    ) -> Result<bool, RingFault> {
        let mut check = cursor.clone();
        while let Some(here) = check.next(usize::MAX)? {
            here.prefetch_all();
        }
        if !is_plain(frame.bytes()) {
            let pieces = std::iter::from_fn(|| cursor.next(usize::MAX).ok().flatten());
            return Ok(self.pool.append(frame, left, pieces));
        }
        let loan = memory.lend(cursor.left(), self.pool.loans());
        loan.into_iter()
            .for_each(|loan| frame.lend(loan, left as u32));
        Ok(loan.is_some())
    }
}

/// Whether nothing was left to the device.
#[inline]
fn says_nothing(header: &[u8; HEADER]) -> bool {
    header[..2] == [0; 2]
}

/// Whether these are Ethernet, IP and TCP or UDP, with nothing in between, so that all headers are within [`HEAD`].
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let is = |protocol: u8| protocol == protocol::TCP || protocol == protocol::UDP;
    match *bytes {
        // No fragment.
        [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            8,
            0,
            0x45,
            _,
            _,
            _,
            _,
            _,
            flags,
            offset,
            _,
            protocol,
            ..,
        ] => flags & 0x3f == 0 && offset == 0 && is(protocol),
        [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            0x86,
            0xdd,
            _,
            _,
            _,
            _,
            _,
            _,
            next,
            ..,
        ] => is(next),
        _ => false,
    }
}
