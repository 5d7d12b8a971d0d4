// SPDX-License-Identifier: Apache-2.0
//! Memory of frames: an [`Arena`] of chunks, a worker's [`Pool`] over its arenas, the [`Frame`] that owns
//! chunks, and the [`Batch`] of packets a worker carries through the stages.
//!
//! A `Frame` exists if and only if userspace owns its chunks. Only the pool and the ring modules mint or consume one.

mod arena;
mod batch;
mod loan;
mod pool;
mod tag;
#[cfg(test)]
mod tests;

pub(crate) use arena::Link;
pub use arena::{Arena, CHUNK_SIZE, HEADROOM, MAX_CHUNKS, METADATA_ROOM, Owner};
pub use batch::{BATCH_SIZE, Batch, Course, Meta, Packet, SeenAs};
pub(crate) use loan::{Loan, Loans};
pub use pool::{Audit, Chunk, Pool};
pub(crate) use tag::MACS;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::wire::partial::PartialChecksum;

/// Most segments of a frame: what one AF_XDP transmit takes (`MAX_SKB_FRAGS + 1`).
pub const MAX_SEGMENTS: u8 = 18;
/// Bytes that come near together.
const CACHE_LINE: usize = 64;
/// Most bytes of a frame: Ethernet and one VLAN tag over a 65535-byte packet, within 18 segments.
pub const MAX_FRAME: u32 = 65_553;

/// What the sender left for hardware to do, in the shape of `struct virtio_net_hdr` (virtio 1.2 section 5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum at `csum_start + csum_offset` holds the pseudo-header sum only
    /// (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    pub partial_checksum: bool,
    /// VIRTIO_NET_HDR_GSO_*; 0 is none.
    pub gso_type: u8,
    /// Bytes of all headers before the payload that segmentation repeats.
    pub hdr_len: u16,
    /// Payload bytes of each segment. Without a kind (`gso_type` 0), what the sender has asked its segments to have at most; 0 where it has not.
    pub gso_size: u16,
    /// Where the checksummed bytes begin, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum lies, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// Where the checksum is that the sender left for its device.
    #[inline]
    pub fn checksum_field(&self) -> PartialChecksum {
        PartialChecksum {
            start: self.csum_start,
            offset: self.csum_offset,
        }
    }
}

/// An owned frame: one chunk or a chain of up to [`MAX_SEGMENTS`], sent all or none. Neither `Copy` nor `Clone`; a copy
/// is explicit ([`Pool::copy`]). It must end in [`Pool::free`] or in a port's transmit.
#[must_use = "a frame that is dropped loses its chunk: free or transmit it"]
pub struct Frame {
    arena: NonNull<Arena>,
    head: u32,
    len: u32,
    offset: u16,
    head_len: u16,
    segments: u8,
    /// What is behind the first chunk, which is the only one then, is not here.
    loan: Option<Loan>,
    /// Offload state of the frame.
    pub offload: Offload,
}

// SAFETY: (U1) a frame is the only holder of its chunks; the arena outlives it (U3).
unsafe impl Send for Frame {}

impl Frame {
    /// Mints a frame of one chunk.
    ///
    /// # Safety
    /// (U1) The caller holds `chunk` of `arena` and gives it up; (U3) the pool counts it as outstanding.
    #[inline]
    pub(crate) unsafe fn mint(arena: &Arc<Arena>, chunk: u32, offset: u16, len: u16) -> Frame {
        debug_assert!(usize::from(offset) + usize::from(len) <= CHUNK_SIZE);
        Frame {
            arena: NonNull::from(Arc::as_ref(arena)),
            head: chunk,
            len: len.into(),
            offset,
            head_len: len,
            segments: 1,
            loan: None,
            offload: Offload::default(),
        }
    }

    /// What follows its only chunk, `len` bytes, is lent.
    #[inline]
    pub(crate) fn lend(&mut self, loan: Loan, len: u32) {
        debug_assert!(self.segments == 1 && self.loan.is_none());
        self.loan = Some(loan);
        self.len += len;
    }

    /// What it has lent behind its only chunk, and how many bytes.
    #[inline]
    pub(crate) fn lent(&self) -> Option<(Loan, u32)> {
        let loan = self.loan?;
        Some((loan, self.len - u32::from(self.head_len)))
    }

    /// Takes the loan off, and the bytes with it.
    pub(crate) fn take_lent(&mut self) -> Option<(Loan, u32)> {
        let lent = self.lent()?;
        self.loan = None;
        self.len = self.head_len.into();
        Some(lent)
    }

    #[inline]
    pub(crate) fn arena(&self) -> &Arena {
        // SAFETY: (U3) the arena outlives every frame of it.
        unsafe { self.arena.as_ref() }
    }

    /// Whether the frame's chunks are chunks of this arena, so that a port bound to it can send them without a copy.
    #[inline]
    pub fn is_of(&self, arena: &Arc<Arena>) -> bool {
        std::ptr::eq(self.arena.as_ptr(), Arc::as_ptr(arena))
    }

    /// Bytes in all segments.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many chunks it owns, 1 to [`MAX_SEGMENTS`].
    #[inline]
    pub fn segments(&self) -> u8 {
        self.segments
    }

    /// The first segment's bytes; every header the switch reads is in it.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let at = self.arena().at(self.head, self.offset.into());
        // SAFETY: (U1, U4) this frame is the chunk's only holder, and offset + head_len is within the chunk.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), self.head_len.into()) }
    }

    /// The first segment's bytes, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let at = self.arena().at(self.head, self.offset.into());
        // SAFETY: (U1, U4) as in `bytes`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), self.head_len.into()) }
    }

    /// Writes transmit metadata into the bytes right in front of the frame, which must not have used them up.
    pub(crate) fn write_metadata(&mut self, metadata: &[u8; METADATA_ROOM]) {
        let Some(before) = usize::from(self.offset).checked_sub(METADATA_ROOM) else {
            return;
        };
        let at = self.arena().at(self.head, before);
        // SAFETY: (U1, U4) this frame is the chunk's only holder, and before + METADATA_ROOM is where its bytes begin.
        unsafe { std::ptr::copy_nonoverlapping(metadata.as_ptr(), at.as_ptr(), METADATA_ROOM) };
    }

    /// Every segment's bytes in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks().map(|c| {
            let at = self.arena().at(c.index, c.offset.into());
            // SAFETY: (U1, U4) this frame holds every chunk of its chain; offset + len is within the chunk.
            unsafe { std::slice::from_raw_parts(at.as_ptr(), c.len.into()) }
        })
    }

    /// Calls `f` with every segment's bytes in order, to be changed, until it returns false.
    pub fn for_each_mut(&mut self, mut f: impl FnMut(&mut [u8]) -> bool) {
        for c in self.chunks() {
            let at = self.arena().at(c.index, c.offset.into());
            // SAFETY: (U1, U4) as in `iter`; `&mut self` is exclusive and each chunk comes once.
            if !f(unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), c.len.into()) }) {
                return;
            }
        }
    }

    /// Every segment's bytes in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let this = &*self;
        this.chunks().map(move |c| {
            let at = this.arena().at(c.index, c.offset.into());
            // SAFETY: (U1, U4) as in `iter`; `&mut self` is exclusive for as long as the slices live, and no chunk
            // comes twice in a chain.
            unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), c.len.into()) }
        })
    }

    /// Asks the processor to bring the headers near: another core wrote them.
    #[inline]
    pub fn prefetch(&self) {
        let at = self.arena().at(self.head, self.offset.into());
        crate::prefetch::prefetch(at.as_ptr());
    }

    /// Asks the processor to bring near what [`push_front`](Frame::push_front) of up to two cache lines adds.
    #[inline]
    pub fn prefetch_front(&self) {
        for lines in [1, 2] {
            let before = usize::from(self.offset).saturating_sub(lines * CACHE_LINE);
            crate::prefetch::prefetch(self.arena().at(self.head, before).as_ptr());
        }
    }

    /// The chunks of the chain in order, as ring descriptors name them.
    #[inline]
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        debug_assert!(self.loan.is_none(), "lent bytes are in no chunk");
        self.own_chunks()
    }

    /// Those that it has, whatever else is lent.
    #[inline]
    pub(super) fn own_chunks(&self) -> impl Iterator<Item = Chunk> {
        let mut next = Chunk {
            index: self.head,
            offset: self.offset,
            len: self.head_len,
        };
        let mut left = self.segments;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let this = next;
            left -= 1;
            if left > 0 {
                let following = self.arena().link(this.index).next;
                let link = self.arena().link(following);
                next = Chunk {
                    index: following,
                    offset: link.offset,
                    len: link.len,
                };
            }
            Some(this)
        })
    }

    /// Adds `n` bytes in front (encapsulation, a VLAN tag); their content is what was there before.
    /// False, and nothing changed, when the headroom is too small.
    #[must_use]
    pub fn push_front(&mut self, n: u16) -> bool {
        if usize::from(n) + METADATA_ROOM > self.offset.into() {
            return false;
        }
        self.offset -= n;
        self.head_len += n;
        self.len += u32::from(n);
        true
    }

    /// Takes `n` bytes off the front. False, and nothing changed, when the first segment is shorter.
    #[must_use]
    pub fn pull_front(&mut self, n: u16) -> bool {
        if n > self.head_len {
            return false;
        }
        self.offset += n;
        self.head_len -= n;
        self.len -= u32::from(n);
        true
    }

    /// Sets the length of a frame of one segment. False, and nothing changed, when it does not fit the chunk or the
    /// frame has more segments.
    #[must_use]
    pub fn resize(&mut self, len: u16) -> bool {
        if self.segments != 1 || usize::from(self.offset) + usize::from(len) > CHUNK_SIZE {
            return false;
        }
        self.head_len = len;
        self.len = len.into();
        self.loan = None;
        true
    }

    /// Appends a chunk to the chain.
    ///
    /// # Safety
    /// (U1) The caller holds `chunk` of the same arena and gives it up; (U4) offset + len is within the chunk.
    pub(crate) unsafe fn append(&mut self, tail: u32, chunk: Chunk) {
        debug_assert!(self.segments < MAX_SEGMENTS);
        let arena = self.arena();
        arena.set_link(
            chunk.index,
            Link {
                next: u32::MAX,
                offset: chunk.offset,
                len: chunk.len,
            },
        );
        let mut before = if tail == self.head {
            Link {
                next: 0,
                offset: self.offset,
                len: self.head_len,
            }
        } else {
            arena.link(tail)
        };
        before.next = chunk.index;
        arena.set_link(tail, before);
        self.segments += 1;
        self.len += u32::from(chunk.len);
    }

    /// Adds the chunk of `next`, a frame of one chunk, behind the chain's last one, whose number `tail` is; that of the new last one.
    ///
    /// # Panics
    /// When `next` is of another arena, or the frame has all segments it may have.
    pub(crate) fn chain(&mut self, tail: u32, next: Frame) -> u32 {
        assert!(self.arena == next.arena && self.segments < MAX_SEGMENTS);
        let chunk = Chunk {
            index: next.head,
            offset: next.offset,
            len: next.head_len,
        };
        // SAFETY: (U1) `next` held its one chunk, of the same arena, and ends here; (U4) its bytes are within the chunk.
        unsafe { self.append(tail, chunk) };
        chunk.index
    }

    /// Number of the first chunk.
    #[inline]
    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    /// Shortens what is lent so that the frame has `len` bytes, or as many as are in its chunk.
    pub(super) fn cut_lent(&mut self, len: u32) {
        if self.loan.is_some() {
            let own = u32::from(self.head_len);
            self.len = len.clamp(own, self.len);
            self.loan = self.loan.filter(|_| self.len > own);
        }
    }

    /// Shortens a frame to its first `len` bytes and returns the chunks cut off, head first, for the pool.
    /// The first segment keeps at least one byte.
    pub(crate) fn cut(&mut self, len: u32) -> impl Iterator<Item = u32> + use<> {
        debug_assert!(self.loan.is_none(), "lent bytes are cut off first");
        let mut kept = 0;
        let mut segments = 0;
        let mut spare = [0u32; MAX_SEGMENTS as usize];
        let mut spares = 0;
        let mut last = None;
        for c in self.chunks() {
            if kept < len.max(1) {
                let n = (len.max(1) - kept).min(c.len.into());
                kept += n;
                segments += 1;
                last = Some(Chunk { len: n as u16, ..c });
            } else if spares < spare.len() {
                spare[spares] = c.index;
                spares += 1;
            }
        }
        if let Some(last) = last {
            if last.index == self.head {
                self.head_len = last.len;
            } else {
                let link = self.arena().link(last.index);
                self.arena().set_link(
                    last.index,
                    Link {
                        len: last.len,
                        ..link
                    },
                );
            }
        }
        self.len = kept;
        self.segments = segments;
        spare.into_iter().take(spares)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame({} bytes, {} segments, chunk {})",
            self.len, self.segments, self.head
        )
    }
}
