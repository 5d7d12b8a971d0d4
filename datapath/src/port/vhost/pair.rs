// SPDX-License-Identifier: Apache-2.0
//! Queues of a port, as the worker serves them.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use super::backend::{Backend, Queue, Shared, feature};
use super::cursor::{Cursor, total};
use super::memory::GuestMemory;
use super::packed::Packed;
use super::ring::{Buffer, Direction, MAX_PIECES, Piece, Position, Ring, RingFault};
use super::split::Split;
use crate::frame::{Arena, Batch, CHUNK_SIZE, Frame, HEADROOM, MAX_FRAME, Offload, Pool};
use crate::ids::PortId;
use crate::port::packet::{NEEDS_CHECKSUM, TCP_OVER_V4, TCP_OVER_V6, VIRTIO_HEADER};
use crate::port::{PortCounters, give};

/// Bytes of a chunk that a frame may have.
const ROOM: usize = CHUNK_SIZE - HEADROOM;
/// `struct virtio_net_hdr` with the number of buffers, and without it (virtio 1.2 sections 5.1.6 and 5.1.6.1).
const HEADER: usize = 12;
const LEGACY_HEADER: usize = VIRTIO_HEADER;

/// What was agreed on that matters for each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    /// Bytes in front of each packet.
    header: usize,
    mergeable: bool,
    features: u64,
}

impl Terms {
    pub(super) fn of(backend: &Backend) -> Terms {
        let mergeable = backend.has(feature::MRG_RXBUF);
        Terms {
            header: match mergeable || backend.has(feature::VERSION_1) {
                true => HEADER,
                false => LEGACY_HEADER,
            },
            mergeable,
            features: backend.features,
        }
    }

    /// The driver finishes checksums.
    pub(super) fn finishes_checksums(self) -> bool {
        self.features & feature::GUEST_CSUM != 0
    }

    /// The driver takes superframes of both families.
    pub(super) fn takes_superframes(self) -> bool {
        let wanted =
            feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::MRG_RXBUF;
        self.features & wanted == wanted
    }

    /// Whether the header in front of a packet of `len` bytes may say this of it; what it says is then in the offload.
    fn judge(self, header: &[u8; HEADER], len: u32) -> Option<Offload> {
        let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut offload = Offload::default();
        if header[0] & NEEDS_CHECKSUM != 0 {
            let (start, offset) = (number(6), number(8));
            let end = u32::from(start) + u32::from(offset) + 2;
            if end > len || self.features & feature::CSUM == 0 {
                return None;
            }
            offload.partial_checksum = true;
            (offload.csum_start, offload.csum_offset) = (start, offset);
        }
        let needed = match header[1] {
            0 => return Some(offload),
            TCP_OVER_V4 => feature::HOST_TSO4,
            TCP_OVER_V6 => feature::HOST_TSO6,
            _ => return None,
        };
        let agreed = self.features & needed != 0;
        (agreed && offload.partial_checksum && number(4) > 0).then_some(offload)
    }

    /// What is in front of a frame for the driver, in so many buffers.
    fn header(self, frame: &Frame, buffers: u16) -> [u8; HEADER] {
        let offload = &frame.offload;
        let mut header = [0; HEADER];
        if offload.partial_checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&offload.csum_start.to_le_bytes());
            header[8..10].copy_from_slice(&offload.csum_offset.to_le_bytes());
        }
        if crate::port::is_whole(frame) {
            header[1] = offload.gso_type;
            header[2..4].copy_from_slice(&offload.hdr_len.to_le_bytes());
            header[4..6].copy_from_slice(&offload.gso_size.to_le_bytes());
        }
        header[10..12].copy_from_slice(&buffers.to_le_bytes());
        header
    }
}

/// A queue that is served.
#[derive(Debug)]
pub(super) struct Served {
    /// Its index.
    pub(super) at: usize,
    queue: Queue,
    pub(super) ring: Ring,
    memory: Arc<GuestMemory>,
    /// It has given buffers back that the driver does not see yet.
    given: bool,
}

/// What is known of a queue that was served.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) at: usize,
    start: u64,
    stands: Position,
    call: Option<Arc<std::fs::File>>,
}

/// How an attempt to put a frame into a queue ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Done,
    /// No buffer is available, or not enough of them.
    Full,
    /// No buffer that the driver gives holds it.
    TooLong,
}

impl Served {
    /// A queue of a backend that goes on where it was served before, if it was; `None` when it is not where the frontend says.
    pub(super) fn new(backend: &Backend, at: usize, before: Option<&Before>) -> Option<Served> {
        let memory = backend.memory.as_ref()?;
        let queue = backend.queues.get(at)?.as_ref()?;
        let before = before.filter(|b| b.start == queue.start);
        let before = before.map(|b| b.stands);
        let events = backend.has(feature::EVENT_IDX);
        let (places, size) = (queue.addresses, queue.size);
        let ring = match backend.has(feature::RING_PACKED) {
            true => {
                let from = before.unwrap_or(queue.from);
                Ring::Packed(Packed::new(memory, places, size, events, from)?)
            }
            // Its own memory says where it stands. What a frontend remembers may be older: of a backend that was killed, it knows nothing.
            false => {
                let next = before.map(|at| at.available);
                Ring::Split(Split::new(memory, places, size, events, next)?)
            }
        };
        Some(Served {
            at,
            queue: queue.clone(),
            ring,
            memory: memory.clone(),
            given: false,
        })
    }

    /// What is to be known of it when it has been set up anew. Nothing of its memory is held any more.
    pub(super) fn into_before(self) -> Before {
        Before {
            at: self.at,
            start: self.queue.start,
            stands: self.ring.position(),
            call: self.queue.call,
        }
    }

    /// Calls the driver once without being asked, if it is called by something else than before: what was given back meanwhile, also by a backend that was killed,
    /// may never have been announced.
    ///
    /// # Errors
    /// [`RingFault::Call`]
    pub(super) fn greet(&self, before: Option<&Before>, shared: &Shared) -> Result<(), RingFault> {
        let before = before.and_then(|b| b.call.as_ref());
        if let Some(call) = &self.queue.call
            && before.is_none_or(|b| !Arc::ptr_eq(b, call))
            && !shared.calling.ring(call.as_fd())
        {
            return Err(RingFault::Call);
        }
        Ok(())
    }

    /// What it is heard by.
    pub(super) fn kick(&self) -> Option<&Arc<std::fs::File>> {
        self.queue.kick.as_ref()
    }

    #[inline]
    fn give(&mut self, buffer: Buffer, written: u32) {
        self.ring.give(buffer, written);
        self.given = true;
    }

    /// The driver sees what was given back, and is called if it wants to be; the messages' side sees where the queue stands.
    #[inline]
    pub(super) fn finish(
        &mut self,
        counters: &mut PortCounters,
        shared: &Shared,
    ) -> Result<(), RingFault> {
        if !std::mem::take(&mut self.given) {
            return Ok(());
        }
        self.ring.publish();
        shared.set_position(self.at, self.ring.position());
        if self.ring.wants_call()
            && let Some(call) = &self.queue.call
        {
            counters.kicks += 1;
            if !shared.calling.ring(call.as_fd()) {
                return Err(RingFault::Call);
            }
        }
        Ok(())
    }

    /// Takes frames that the driver sends, until there are `want` of them. All buffers are looked up before the first is read, so that the processor can fetch them side by side.
    #[inline]
    pub(super) fn receive(&mut self, take: &mut Take<'_>, want: usize) -> Result<(), RingFault> {
        let want = want - take.taken;
        let Room { pieces, found, .. } = &mut *take.room;
        pieces.clear();
        found.clear();
        // A driver that describes its packets in very many pieces has fewer of them taken at a time.
        while found.len() < want && pieces.len() < MAX_PIECES {
            let (stand, begin) = (self.ring.position(), pieces.len());
            let Some(buffer) = self.ring.take(Direction::FromGuest, pieces)? else {
                break;
            };
            if let Some(first) = pieces.get(begin) {
                self.memory.prefetch(first.address);
            }
            self.ring.prefetch();
            found.push(Found {
                buffer,
                stand,
                begin,
                end: pieces.len(),
            });
        }
        for n in 0..take.room.found.len() {
            let found = take.room.found[n];
            match take.copy(&self.memory, found)? {
                Copied::Frame(frame) => {
                    give(take.batch, frame, take.id, take.pool);
                    take.taken += 1;
                }
                Copied::Nothing => {}
                Copied::NoRoom => {
                    self.ring.go_back(found.stand);
                    break;
                }
            }
            self.give(found.buffer, 0);
        }
        Ok(())
    }

    /// Puts a frame into buffers of the driver's.
    #[inline]
    pub(super) fn send(
        &mut self,
        frame: &Frame,
        terms: Terms,
        room: &mut Room,
    ) -> Result<Put, RingFault> {
        room.pieces.clear();
        room.buffers.clear();
        let stand = self.ring.position();
        let wanted = terms.header as u64 + u64::from(frame.len());
        let mut found = 0;
        while found < wanted {
            let begin = room.pieces.len();
            let buffer = self.ring.take(Direction::ToGuest, &mut room.pieces)?;
            let here = total(&room.pieces[begin..]);
            let put = match buffer {
                Some(_) if !terms.mergeable && here < wanted => Put::TooLong,
                Some(_) if here < terms.header as u64 => Put::TooLong,
                Some(buffer) => {
                    let part = here.min(wanted - found) as u32;
                    room.buffers.push((buffer, part));
                    found += here;
                    continue;
                }
                None => Put::Full,
            };
            self.ring.go_back(stand);
            return Ok(put);
        }
        let header = terms.header(frame, room.buffers.len() as u16);
        let mut cursor = Cursor::new(&self.memory, &room.pieces);
        cursor.write(&header[..terms.header])?;
        for segment in frame.iter() {
            cursor.write(segment)?;
        }
        for (buffer, written) in room.buffers.drain(..) {
            self.give(buffer, written);
        }
        Ok(Put::Done)
    }
}

/// Buffers that are being read or filled; kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Room {
    pieces: Vec<Piece>,
    /// Buffers of one frame to the driver, and how much is written into each.
    buffers: Vec<(Buffer, u32)>,
    /// Buffers of frames from the driver.
    found: Vec<Found>,
}

/// A buffer with a frame of the driver's.
#[derive(Clone, Copy, Debug)]
struct Found {
    buffer: Buffer,
    /// Where the queue stood in front of it.
    stand: Position,
    /// Which of the pieces are its.
    begin: usize,
    end: usize,
}

/// What taking frames needs.
pub(super) struct Take<'a> {
    pub(super) id: PortId,
    pub(super) terms: Terms,
    pub(super) arena: &'a Arc<Arena>,
    pub(super) pool: &'a mut Pool,
    pub(super) batch: &'a mut Batch,
    pub(super) room: &'a mut Room,
    pub(super) counters: &'a mut PortCounters,
    pub(super) starved: &'a mut bool,
    /// Frames that were taken so far.
    pub(super) taken: usize,
}

enum Copied {
    Frame(Frame),
    /// What is no frame; it is counted.
    Nothing,
    /// Chunks are short.
    NoRoom,
}

impl Take<'_> {
    /// A frame of the bytes that are in a buffer now.
    #[inline]
    fn copy(&mut self, memory: &GuestMemory, found: Found) -> Result<Copied, RingFault> {
        let headed = self.terms.header as u64;
        let pieces = &self.room.pieces[found.begin..found.end];
        let Some(len @ 1..) = total(pieces).checked_sub(headed) else {
            self.counters.rx_invalid += 1;
            return Ok(Copied::Nothing);
        };
        if len > MAX_FRAME.into() {
            self.counters.rx_too_long += 1;
            return Ok(Copied::Nothing);
        }
        let mut cursor = Cursor::new(memory, pieces);
        let mut header = [0; HEADER];
        cursor.read(&mut header[..self.terms.header])?;
        let Some(offload) = self.terms.judge(&header, len as u32) else {
            self.counters.rx_invalid += 1;
            return Ok(Copied::Nothing);
        };
        let Some(mut frame) = fill(self.pool, self.arena, &mut cursor, len as usize)? else {
            self.counters.fill_starved += u64::from(!*self.starved);
            *self.starved = true;
            return Ok(Copied::NoRoom);
        };
        *self.starved = false;
        frame.offload = offload;
        Ok(Copied::Frame(frame))
    }
}

/// A frame of the next `len` bytes; `None` when chunks are short.
#[inline]
fn fill(
    pool: &mut Pool,
    arena: &Arc<Arena>,
    cursor: &mut Cursor<'_>,
    len: usize,
) -> Result<Option<Frame>, RingFault> {
    let Some(mut frame) = part(pool, arena, cursor, len)? else {
        return Ok(None);
    };
    let mut tail = frame.head();
    while (frame.len() as usize) < len {
        let left = len - frame.len() as usize;
        match part(pool, arena, cursor, left) {
            Ok(Some(more)) => tail = frame.chain(tail, more),
            short => {
                pool.free(frame);
                return short;
            }
        }
    }
    Ok(Some(frame))
}

/// A frame of one chunk with as many of the next `most` bytes as it holds.
#[inline]
fn part(
    pool: &mut Pool,
    arena: &Arc<Arena>,
    cursor: &mut Cursor<'_>,
    most: usize,
) -> Result<Option<Frame>, RingFault> {
    let Some(mut part) = pool.alloc(arena) else {
        return Ok(None);
    };
    // It has no byte so far, and room for these.
    let _ = part.resize(most.min(ROOM) as u16);
    match cursor.read(part.bytes_mut()) {
        Ok(_) => Ok(Some(part)),
        Err(fault) => {
            pool.free(part);
            Err(fault)
        }
    }
}
