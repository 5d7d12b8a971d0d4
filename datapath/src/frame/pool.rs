// SPDX-License-Identifier: Apache-2.0
//! A worker's free chunks, and the only place outside the rings where frames come to be and end.

use std::convert::Infallible;
use std::sync::Arc;

use super::arena::{Arena, CHUNK_SIZE, HEADROOM, Owner};
use super::{Frame, Loans, MAX_SEGMENTS};
use crate::foreign::Foreign;
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

/// Where an arena's chunks are, counted from their tags. `free` to `closing` add up to `chunks`.
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
    /// Left with the kernel by ports that are closing.
    pub closing: u32,
    /// Entries of the free list; differs from `free` only when a tag or the list is wrong.
    pub listed: u32,
    /// Chunks given back a second time and refused; not 0 only when a holder is wrong.
    pub refused: u32,
}

/// One arena's free chunks.
pub(crate) struct Shelf {
    arena: Arc<Arena>,
    free: Vec<u32>,
    refused: u32,
}

impl Shelf {
    /// How many chunks are free.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Takes a free chunk and names its holder.
    #[inline]
    pub(crate) fn take(&mut self, owner: Owner, port: PortId) -> Option<u32> {
        let chunk = self.free.pop()?;
        self.arena.set_owner(chunk, owner, port);
        Some(chunk)
    }

    /// Puts a chunk back. A chunk that is free already is counted and otherwise left alone.
    ///
    /// # Safety
    /// (U1) The caller holds the chunk of this arena (it came from [`Shelf::take`], a frame or a ring) and gives it up.
    #[inline]
    pub(crate) unsafe fn put(&mut self, chunk: u32) {
        if self.arena.owner(chunk).0 == Owner::Free {
            self.refused += 1;
            return;
        }
        self.arena.set_owner(chunk, Owner::Free, PortId(0));
        self.free.push(chunk);
    }

    fn audit(&self) -> Audit {
        let mut audit = Audit {
            chunks: self.arena.chunks(),
            listed: self.free(),
            refused: self.refused,
            ..Audit::default()
        };
        for chunk in 0..self.arena.chunks() {
            *match self.arena.owner(chunk).0 {
                Owner::Free => &mut audit.free,
                Owner::User => &mut audit.user,
                Owner::Fill => &mut audit.fill,
                Owner::Transmit => &mut audit.transmit,
                Owner::Handoff => &mut audit.handoff,
                Owner::Quarantine => &mut audit.quarantine,
                Owner::Closing => &mut audit.closing,
            } += 1;
        }
        audit
    }
}

/// The free chunks of one worker's arenas.
///
/// Frames of other workers' arenas end up here too when this worker is done with them; [`Pool::foreign`] gives them to
/// the loop, which sends them home.
pub struct Pool {
    worker: WorkerId,
    shelves: Vec<Shelf>,
    foreign: Vec<Frame>,
    loans: Loans,
}

impl Pool {
    /// An empty pool.
    pub fn new(worker: WorkerId) -> Pool {
        Pool {
            worker,
            shelves: Vec::new(),
            foreign: Vec::with_capacity(4096),
            loans: Loans::default(),
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
        self.shelve(arena, |_, _| Owner::Free);
    }

    /// Takes over an arena from a process that is gone, by its chunks' tags: what that process held is free, what the
    /// kernel holds for one of `ports` stays so (those ports are adopted next), what it holds for others is quarantined.
    ///
    /// # Panics
    /// When the arena is another worker's or is in a pool already.
    pub fn adopt_arena(&mut self, arena: Arc<Arena>, ports: &[PortId]) {
        self.shelve(arena, |owner, port| match owner {
            Owner::Free | Owner::User | Owner::Handoff => Owner::Free,
            Owner::Fill | Owner::Transmit if ports.contains(&port) => owner,
            Owner::Fill | Owner::Transmit | Owner::Closing | Owner::Quarantine => Owner::Quarantine,
        });
    }

    fn shelve(&mut self, arena: Arc<Arena>, becomes: impl Fn(Owner, PortId) -> Owner) {
        assert_eq!(
            arena.worker(),
            self.worker,
            "an arena belongs to one worker"
        );
        assert!(self.index(&arena).is_none(), "an arena is added once");
        let mut free = Vec::with_capacity(arena.chunks() as usize);
        for chunk in (0..arena.chunks()).rev() {
            let (owner, port) = arena.owner(chunk);
            match becomes(owner, port) {
                Owner::Free => {
                    arena.set_owner(chunk, Owner::Free, PortId(0));
                    free.push(chunk);
                }
                other => arena.set_owner(chunk, other, port),
            }
        }
        self.shelves.push(Shelf {
            arena,
            free,
            refused: 0,
        });
    }

    /// Gives an arena up when all its chunks are free or quarantined; false otherwise.
    pub fn remove_arena(&mut self, arena: &Arc<Arena>) -> bool {
        let Some(i) = self.index(arena) else {
            return false;
        };
        let audit = self.shelves[i].audit();
        if audit.free + audit.quarantine != audit.chunks {
            return false;
        }
        self.shelves.swap_remove(i);
        true
    }

    #[inline]
    fn index(&self, arena: &Arc<Arena>) -> Option<usize> {
        self.shelves
            .iter()
            .position(|s| Arc::ptr_eq(&s.arena, arena))
    }

    /// The free chunks of one of this worker's arenas.
    #[inline]
    pub(crate) fn shelf(&mut self, arena: &Arc<Arena>) -> Option<&mut Shelf> {
        self.shelves
            .iter_mut()
            .find(|s| Arc::ptr_eq(&s.arena, arena))
    }

    /// The free chunks of the arena a frame is of, when it is this worker's.
    #[inline]
    fn home(&mut self, frame: &Frame) -> Option<&mut Shelf> {
        let arena: *const Arena = frame.arena();
        self.shelves
            .iter_mut()
            .find(|s| Arc::as_ptr(&s.arena) == arena)
    }

    /// Free chunks of an arena; 0 when it is not this pool's.
    pub fn free_chunks(&self, arena: &Arc<Arena>) -> u32 {
        self.index(arena).map_or(0, |i| self.shelves[i].free())
    }

    /// A frame of one empty segment behind [`HEADROOM`] bytes, or `None` when the arena has no free chunk.
    pub fn alloc(&mut self, arena: &Arc<Arena>) -> Option<Frame> {
        self.alloc_segment(arena, 0)
    }

    /// A frame of one segment of `len` bytes, whatever they are, behind [`HEADROOM`] bytes; `None` when the arena has no free chunk.
    ///
    /// # Panics
    /// When a chunk has no room for them.
    #[inline]
    pub(crate) fn alloc_segment(&mut self, arena: &Arc<Arena>, len: u16) -> Option<Frame> {
        let Ok(frame) = self.alloc_filled(arena, len, |_| Ok::<(), Infallible>(()));
        frame
    }

    /// A frame of one segment of `len` bytes that `fill` writes, behind [`HEADROOM`] bytes; `Ok(None)` when the arena has no free chunk. It is made when its bytes are there,
    /// so that it need not be moved from one place in memory to another.
    ///
    /// # Errors
    /// What `fill` says; the chunk is free again.
    ///
    /// # Panics
    /// When a chunk has no room for them.
    #[inline(always)]
    pub(crate) fn alloc_filled<E>(
        &mut self,
        arena: &Arc<Arena>,
        len: u16,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Frame>, E> {
        assert!(usize::from(len) <= CHUNK_SIZE - HEADROOM, "{len} bytes");
        let Some(shelf) = self.shelf(arena) else {
            return Ok(None);
        };
        let Some(chunk) = shelf.take(Owner::User, PortId(0)) else {
            return Ok(None);
        };
        let at = arena.at(chunk, HEADROOM);
        // SAFETY: (U1, U4) the chunk came off the free list, so nobody else holds it, and has room for as many bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len.into()) };
        if let Err(e) = fill(bytes) {
            // SAFETY: (U1) nobody else has it.
            unsafe { shelf.put(chunk) };
            return Err(e);
        }
        // SAFETY: (U1) as above; (U3) the shelf counts it as outstanding.
        Ok(Some(unsafe {
            Frame::mint(arena, chunk, HEADROOM as u16, len)
        }))
    }

    /// What is lent of the frames of this burst.
    #[inline]
    pub(crate) fn loans(&mut self) -> &mut Loans {
        &mut self.loans
    }

    /// Copies what of a frame's bytes is still where its sender has them into chunks of its arena. False, and nothing changed, when chunks are short.
    #[must_use]
    #[inline]
    pub fn fetch(&mut self, frame: &mut Frame) -> bool {
        frame.lent().is_none() || self.fetch_lent(frame)
    }

    #[cold]
    fn fetch_lent(&mut self, frame: &mut Frame) -> bool {
        let Some((loan, len)) = frame.take_lent() else {
            return true;
        };
        let loans = std::mem::take(&mut self.loans);
        let pieces = loans.pieces(loan, len as usize);
        let copied = self.append(frame, len as usize, pieces);
        self.loans = loans;
        if !copied {
            frame.lend(loan, len);
        }
        copied
    }

    /// Copies `total` bytes behind a frame of one chunk; false, and nothing changed, when chunks are short.
    pub(crate) fn append<'a>(
        &mut self,
        frame: &mut Frame,
        total: usize,
        pieces: impl Iterator<Item = Foreign<'a>>,
    ) -> bool {
        const ROOM: usize = CHUNK_SIZE - HEADROOM;
        debug_assert_eq!(frame.segments(), 1);
        let before = frame.len() as u16;
        // In front of the frame there may be more than there was.
        let here = (CHUNK_SIZE - usize::from(frame.offset) - usize::from(before)).min(total);
        let needed = (total - here).div_ceil(ROOM);
        let Some(arena) = self.home(frame).map(|shelf| shelf.arena.clone()) else {
            return false;
        };
        let free = self.free_chunks(&arena) as usize;
        if free < needed
            || needed >= usize::from(MAX_SEGMENTS)
            || !frame.resize(before + here as u16)
        {
            return false;
        }
        let mut rest = total - here;
        let mut tail = frame.head();
        while rest > 0 {
            let len = rest.min(ROOM);
            // There are as many.
            let Some(more) = self.alloc_segment(&arena, len as u16) else {
                break;
            };
            tail = frame.chain(tail, more);
            rest -= len;
        }
        let mut into = frame.iter_mut();
        let mut room = into.next().map(|head| &mut head[usize::from(before)..]);
        for mut piece in pieces {
            while piece.len() > 0 {
                match room.take() {
                    Some([]) => room = into.next(),
                    None => return true,
                    Some(here) => {
                        let (now, later) = piece.split(here.len());
                        let (to, left) = here.split_at_mut(now.len());
                        now.copy_to(to);
                        (piece, room) = (later, Some(left));
                    }
                }
            }
        }
        true
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
        let arena = self.home(frame)?.arena.clone();
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
        let shelf = self.shelf(arena)?;
        if needed > usize::from(MAX_SEGMENTS) || (shelf.free() as usize) < needed {
            return None;
        }
        let mut take = || shelf.take(Owner::User, PortId(0));
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
        let Some(shelf) = self.home(&frame) else {
            return;
        };
        for chunk in frame.own_chunks() {
            // SAFETY: (U1) the frame held its chunks and ends here.
            unsafe { shelf.put(chunk.index) };
        }
    }

    /// Shortens a frame to its first `len` bytes (an Ethernet trailer); chunks no longer needed are freed. A frame of
    /// another worker's arena keeps them: they go home with it.
    pub fn truncate(&mut self, frame: &mut Frame, len: u32) {
        if len >= frame.len() || frame.arena().worker() != self.worker {
            return;
        }
        frame.cut_lent(len);
        if len >= frame.len() {
            return;
        }
        let spare = frame.cut(len);
        let Some(shelf) = self.home(frame) else {
            return;
        };
        for chunk in spare {
            // SAFETY: (U1) the frame held these chunks and has given them up.
            unsafe { shelf.put(chunk) };
        }
    }

    /// Frames of other workers that this worker has ended.
    pub fn foreign(&mut self) -> &mut Vec<Frame> {
        &mut self.foreign
    }

    /// Where every chunk of each arena is.
    pub fn audit(&self) -> Vec<Audit> {
        self.shelves.iter().map(Shelf::audit).collect()
    }

    /// Tags every chunk that the kernel holds for `port` as left behind by a port that is closing, and says how many.
    pub(crate) fn start_closing(&mut self, arena: &Arc<Arena>, port: PortId) -> u32 {
        let mut n = 0;
        for chunk in 0..arena.chunks() {
            let (owner, of) = arena.owner(chunk);
            if of == port && matches!(owner, Owner::Fill | Owner::Transmit) {
                arena.set_owner(chunk, Owner::Closing, port);
                n += 1;
            }
        }
        n
    }

    /// Settles the chunks that `port` left behind: free, or quarantined where `lost` says so. Says how many of each.
    ///
    /// # Safety
    /// (U1, X3) The kernel holds none of them any more but those that are `lost`.
    pub(crate) unsafe fn finish_closing(
        &mut self,
        arena: &Arc<Arena>,
        port: PortId,
        lost: impl Fn(u32) -> bool,
    ) -> (u32, u32) {
        let (mut freed, mut quarantined) = (0, 0);
        let Some(shelf) = self.shelf(arena) else {
            return (0, 0);
        };
        for chunk in 0..arena.chunks() {
            if arena.owner(chunk) != (Owner::Closing, port) {
                continue;
            }
            if lost(chunk) {
                arena.set_owner(chunk, Owner::Quarantine, port);
                quarantined += 1;
            } else {
                // SAFETY: (U1) the caller says that the kernel has let go of it.
                unsafe { shelf.put(chunk) };
                freed += 1;
            }
        }
        (freed, quarantined)
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
        for shelf in &self.shelves {
            let audit = shelf.audit();
            if audit.free != audit.chunks {
                // (U3) somebody may still hold a frame or the kernel a chunk: the mapping stays.
                std::mem::forget(shelf.arena.clone());
            }
        }
    }
}
