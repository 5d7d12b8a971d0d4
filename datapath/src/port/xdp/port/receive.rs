// SPDX-License-Identifier: Apache-2.0
//! From the receive ring to frames: chains gathered, what makes no sense given back and counted.

use super::{CHUNK_SHIFT, XdpPort};
use crate::frame::{Batch, CHUNK_SIZE, Chunk, Frame, MAX_SEGMENTS, METADATA_ROOM, Owner, Pool};
use crate::ids::PortId;

/// A received frame, as its descriptors say.
enum Chain {
    /// So many descriptors.
    Whole(u32),
    /// Its end is not in the ring yet.
    Unfinished,
    /// More descriptors than a frame has segments.
    TooLong,
}

impl XdpPort {
    /// Receives up to `budget` frames into `batch`, as far as it has room; says how many.
    pub fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        debug_assert_eq!(id, self.id);
        let want = budget.min(batch.room());
        let mut taken = 0;
        while taken < want && self.rings.rx.ready(1) > 0 {
            let first = self.rings.rx.peek(0);
            let chained = first.options & libc::XDP_PKT_CONTD != 0;
            let frame = if !chained && !self.skipping {
                self.rings.rx.advance(1);
                self.mint(&first, pool)
            } else if self.skipping {
                self.skip(pool);
                None
            } else {
                match self.measure() {
                    Chain::Whole(n) => self.gather(n, pool),
                    Chain::Unfinished => break,
                    Chain::TooLong => {
                        self.counters.rx_too_long += 1;
                        self.skipping = true;
                        None
                    }
                }
            };
            let Some(frame) = frame else { continue };
            // The kernel has written its first bytes on the sender's core.
            frame.prefetch();
            match batch.push(frame, self.id) {
                Ok(()) => taken += 1,
                Err(frame) => pool.free(frame),
            }
        }
        self.rings.rx.release();
        taken
    }

    /// How far the frame at the head of the receive ring goes. The kernel publishes a frame whole (`xsk_flush`), so
    /// an unfinished one is left until it is, and never delays what is behind it for longer than that.
    fn measure(&mut self) -> Chain {
        let ready = self.rings.rx.ready(MAX_SEGMENTS.into());
        for i in 0..ready.min(MAX_SEGMENTS.into()) {
            if self.rings.rx.peek(i).options & libc::XDP_PKT_CONTD == 0 {
                return Chain::Whole(i + 1);
            }
        }
        if ready < u32::from(MAX_SEGMENTS) {
            Chain::Unfinished
        } else {
            Chain::TooLong
        }
    }

    /// Takes `n` descriptors as one frame.
    fn gather(&mut self, n: u32, pool: &mut Pool) -> Option<Frame> {
        let mut frame: Option<Frame> = None;
        let mut tail = 0;
        let mut whole = true;
        for _ in 0..n {
            let Some(desc) = self.rings.rx.pop() else {
                break;
            };
            let Some(chunk) = self.check(&desc, pool) else {
                whole = false;
                continue;
            };
            match &mut frame {
                None => frame = Some(self.hold(chunk)),
                Some(frame) => {
                    self.arena.set_owner(chunk.index, Owner::User, PortId(0));
                    // SAFETY: (U1) `check` found the chunk to be this port's, and the kernel gave it back through the
                    // receive ring; (U4) it checked offset + len.
                    unsafe { frame.append(tail, chunk) };
                }
            }
            tail = chunk.index;
        }
        if whole {
            return frame;
        }
        if let Some(frame) = frame {
            pool.free(frame);
        }
        None
    }

    /// Gives descriptors of a frame that is too long back, up to its end or the ring's.
    fn skip(&mut self, pool: &mut Pool) {
        while let Some(desc) = self.rings.rx.pop() {
            if let Some(frame) = self.mint(&desc, pool) {
                pool.free(frame);
            }
            if desc.options & libc::XDP_PKT_CONTD == 0 {
                self.skipping = false;
                return;
            }
        }
    }

    /// Gives everything in the receive ring back unread.
    pub(super) fn give_up_received(&mut self, pool: &mut Pool) {
        while let Some(desc) = self.rings.rx.pop() {
            if let Some(frame) = self.mint(&desc, pool) {
                pool.free(frame);
            }
        }
        self.rings.rx.release();
    }

    #[inline]
    fn mint(&mut self, desc: &libc::xdp_desc, pool: &mut Pool) -> Option<Frame> {
        let chunk = self.check(desc, pool)?;
        Some(self.hold(chunk))
    }

    /// A frame of a chunk that [`XdpPort::check`] let pass.
    #[inline]
    fn hold(&self, chunk: Chunk) -> Frame {
        self.arena.set_owner(chunk.index, Owner::User, PortId(0));
        // SAFETY: (U1) `check` found the chunk to be this port's, and the kernel gave it back through the receive ring;
        // (U3) the pool counts it by its tag; (U4) `check` compared offset + len with the chunk.
        unsafe { Frame::mint(&self.arena, chunk.index, chunk.offset, chunk.len) }
    }

    /// What a receive descriptor names, when it is a chunk this port gave to the kernel and bytes inside it.
    #[inline]
    fn check(&mut self, desc: &libc::xdp_desc, pool: &mut Pool) -> Option<Chunk> {
        let index = desc.addr >> CHUNK_SHIFT;
        let offset = (desc.addr & (CHUNK_SIZE as u64 - 1)) as u32;
        if index >= self.arena.chunks().into()
            || self.arena.owner(index as u32) != (Owner::Fill, self.id)
        {
            self.counters.rx_invalid += 1;
            return None;
        }
        let index = index as u32;
        let end = offset.checked_add(desc.len);
        if desc.len == 0
            || (offset as usize) < METADATA_ROOM
            || end.is_none_or(|end| end > CHUNK_SIZE as u32)
        {
            self.counters.rx_invalid += 1;
            self.put_back(index, pool);
            return None;
        }
        Some(Chunk {
            index,
            offset: offset as u16,
            len: desc.len as u16,
        })
    }

    fn put_back(&self, chunk: u32, pool: &mut Pool) {
        if let Some(shelf) = pool.shelf(&self.arena) {
            // SAFETY: (U1) the kernel gave the chunk back through the receive ring.
            unsafe { shelf.put(chunk) };
        }
    }
}
