// SPDX-License-Identifier: Apache-2.0
//! The port itself: frames between an AF_XDP socket's rings and the worker.
//!
//! Every chunk the kernel holds for a port is counted by ring positions alone, which a successor finds in the shared
//! words: chunks to receive into are `fill pushed - received taken`, chunks in transmission are `transmit pushed -
//! completed taken`. Both stay within the port's plan, so that no pod holds its neighbours' chunks, and the receive and
//! completion rings are as large as the caps, so that neither can overflow.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::close::ClosingPort;
use super::error::XdpError;
use super::plan::PortPlan;
use super::probe::Features;
use super::socket::{KernelDrops, Rings, Socket};
use super::txmeta;
use super::umem::XdpConfig;
use crate::frame::{
    Arena, Batch, CHUNK_SIZE, Chunk, Frame, MAX_SEGMENTS, METADATA_ROOM, Owner, Pool,
};
use crate::ids::PortId;
use crate::port::{Caps, Link, PortCounters};

const CHUNK_SHIFT: u32 = CHUNK_SIZE.trailing_zeros();
const ETHERNET_HEADER: u32 = 14;

/// Why transmit calls stopped short, beside the sums in [`PortCounters`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KickCauses {
    /// EAGAIN after sending as many descriptors as one call may.
    pub budget: u64,
    /// EAGAIN without sending: the device's queue is stopped, the completion ring full or the send buffer used up. The
    /// latter two are ruled out by the port's plan.
    pub blocked: u64,
    /// The call succeeded and left descriptors: the completion ring was full (before Linux 6.18).
    pub completion_full: u64,
    /// EBUSY: the device dropped a frame (it is in the device's own statistics, and its chunk completes).
    pub device_dropped: u64,
    /// ENOBUFS or ENOMEM: the kernel had no memory for the frame.
    pub no_memory: u64,
    /// ENETDOWN: the interface is down.
    pub down: u64,
    /// ENXIO or EBADF: the socket is bound no more.
    pub gone: u64,
}

/// What a successor needs of a port.
#[derive(Debug)]
pub struct Handover {
    /// The socket; its memory is the arena's memfd.
    pub socket: OwnedFd,
}

/// A reader of a port's kernel statistics, for another thread than the port's worker. It does not keep the socket open.
#[derive(Clone, Debug)]
pub struct XdpHandle {
    socket: Weak<Socket>,
}

impl XdpHandle {
    /// The socket, while the port has it.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.upgrade()
    }
}

/// An AF_XDP port. Its worker's alone.
pub struct XdpPort {
    id: PortId,
    arena: Arc<Arena>,
    socket: Arc<Socket>,
    rings: Rings,
    plan: PortPlan,
    caps: Caps,
    kicks_per_turn: u32,
    link: Link,
    /// Inside a received frame that is too long: its descriptors are given back until it ends.
    skipping: bool,
    /// The fill ring is below its cap for want of free chunks.
    starved: bool,
    counters: PortCounters,
    causes: KickCauses,
}

impl fmt::Debug for XdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpPort")
            .field("id", &self.id)
            .field("queue", &self.socket.queue())
            .field("link", &self.link)
            .field("filling", &self.filling())
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

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
    pub(super) fn new(
        config: &XdpConfig,
        arena: Arc<Arena>,
        socket: Arc<Socket>,
        features: Features,
    ) -> Result<XdpPort, XdpError> {
        let rings = socket.map(&config.plan.rings)?;
        Ok(XdpPort {
            id: config.id,
            arena,
            socket,
            rings,
            plan: config.plan,
            caps: Caps {
                local_sender: true,
                takes_partial_checksum: features.tx_metadata,
                max_segments: if features.segments { MAX_SEGMENTS } else { 1 },
            },
            kicks_per_turn: config.kicks_per_turn.max(1),
            link: Link::Up,
            skipping: false,
            starved: false,
            counters: PortCounters::default(),
            causes: KickCauses::default(),
        })
    }

    pub(super) fn adopt(
        config: &XdpConfig,
        arena: Arc<Arena>,
        socket: Arc<Socket>,
        features: Features,
    ) -> Result<XdpPort, XdpError> {
        let port = XdpPort::new(config, arena, socket, features)?;
        let (fill, transmit) = port.tagged();
        let wrong = |what: &str, tagged: u32, held: u32| XdpError::Adopt {
            what: config.queue.to_string(),
            reason: format!(
                "{tagged} chunks are tagged as {what} by port {}, the rings say {held}",
                config.id
            ),
        };
        if fill < port.filling() {
            return Err(wrong("to receive", fill, port.filling()));
        }
        if transmit < port.pending() {
            return Err(wrong("in transmission", transmit, port.pending()));
        }
        Ok(port)
    }

    /// Chunks tagged as held by the kernel for this port: to receive, to transmit.
    fn tagged(&self) -> (u32, u32) {
        let (mut fill, mut transmit) = (0, 0);
        for chunk in 0..self.arena.chunks() {
            match self.arena.owner(chunk) {
                (Owner::Fill, id) if id == self.id => fill += 1,
                (Owner::Transmit, id) if id == self.id => transmit += 1,
                _ => {}
            }
        }
        (fill, transmit)
    }

    /// Chunks tagged as the kernel's that the rings do not account for: a predecessor died between tagging and pushing
    /// them. They stay out of use until the port closes.
    pub fn unaccounted(&self) -> u32 {
        let (fill, transmit) = self.tagged();
        (fill - self.filling().min(fill)) + (transmit - self.pending().min(transmit))
    }

    /// The memory its frames lie in.
    #[inline]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// What it can do.
    #[inline]
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// What it may hold.
    pub fn plan(&self) -> &PortPlan {
        &self.plan
    }

    /// Whether the device can be used, as far as the last kick knows.
    #[inline]
    pub fn link(&self) -> Link {
        self.link
    }

    /// For reading the kernel's statistics elsewhere.
    pub fn handle(&self) -> XdpHandle {
        XdpHandle {
            socket: Arc::downgrade(&self.socket),
        }
    }

    /// What the kernel has dropped on the port's queue. A system call.
    ///
    /// # Errors
    /// What getsockopt(2) said.
    pub fn kernel_drops(&self) -> std::io::Result<KernelDrops> {
        self.socket.kernel_drops()
    }

    /// The socket, to be put into a steering program's map.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What a successor needs to go on with this port's rings. The kernel then keeps the socket until the successor is
    /// done too.
    ///
    /// # Errors
    /// What fcntl(2) said.
    pub fn handover(&self) -> std::io::Result<Handover> {
        Ok(Handover {
            socket: self.socket.duplicate()?,
        })
    }

    /// Says that no other process has this port's socket any more, so that its chunks are free once it is closed.
    ///
    /// # Safety
    /// (X3) It is so.
    pub unsafe fn assume_sole(&mut self) {
        self.socket.set_sole();
    }

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
            if let Some(chunk) = self.check(&desc, pool) {
                pool.free(self.hold(chunk));
            }
            if desc.options & libc::XDP_PKT_CONTD == 0 {
                self.skipping = false;
                return;
            }
        }
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

    /// Moves as many whole frames as the transmit ring and the port's cap allow from `outbox` to the kernel, and says how
    /// many. A frame that cannot be sent at all (shorter than an Ethernet header, another arena's, or the interface is
    /// gone) is freed and counted.
    pub fn transmit(&mut self, id: PortId, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        debug_assert_eq!(id, self.id);
        let mut sent = 0;
        let mut pending = self.pending();
        while let Some(frame) = outbox.front() {
            let segments = u32::from(frame.segments());
            if !self.sendable(frame) {
                self.counters.tx_refused += 1;
                if let Some(frame) = outbox.pop_front() {
                    pool.free(frame);
                }
                continue;
            }
            if pending + segments > self.plan.transmit || self.rings.tx.room(segments) < segments {
                self.counters.tx_full += 1;
                break;
            }
            if let Some(frame) = outbox.pop_front() {
                self.push(frame);
                pending += segments;
                sent += 1;
            }
        }
        if sent > 0 {
            self.rings.tx.publish();
        }
        sent
    }

    /// Whether the kernel can take the frame: it neither completes nor skips descriptors it finds invalid.
    #[inline]
    fn sendable(&self, frame: &Frame) -> bool {
        let checksum = !frame.offload.partial_checksum
            || !self.caps.takes_partial_checksum
            || txmeta::checksum(&frame.offload, frame.bytes().len() as u16).is_some();
        self.link != Link::Gone
            && frame.is_of(&self.arena)
            && frame.segments() <= self.caps.max_segments
            && frame.len() >= ETHERNET_HEADER
            && checksum
            && frame
                .chunks()
                .all(|c| c.len > 0 && usize::from(c.offset) >= METADATA_ROOM)
    }

    /// Puts a frame into the transmit ring, which has room for it.
    #[inline]
    fn push(&mut self, mut frame: Frame) {
        let mut options = 0;
        if frame.offload.partial_checksum && self.caps.takes_partial_checksum {
            let first = frame.bytes().len() as u16;
            if let Some(metadata) = txmeta::checksum(&frame.offload, first) {
                frame.write_metadata(&metadata);
                options = libc::XDP_TX_METADATA;
            }
        }
        let mut left = frame.segments();
        for chunk in frame.chunks() {
            left -= 1;
            let more = if left > 0 { libc::XDP_PKT_CONTD } else { 0 };
            self.arena.set_owner(chunk.index, Owner::Transmit, self.id);
            let pushed = self.rings.tx.push(libc::xdp_desc {
                addr: (u64::from(chunk.index) << CHUNK_SHIFT) + u64::from(chunk.offset),
                len: chunk.len.into(),
                options: options | more,
            });
            debug_assert!(pushed, "room was checked");
            options = 0;
        }
    }

    /// Has the kernel send what is in the transmit ring, with at most the configured number of system calls; true when
    /// more waits and it is worth another call next turn.
    pub fn kick(&mut self) -> bool {
        if self.link == Link::Gone {
            return false;
        }
        let mut waiting = self.rings.tx.waiting();
        for _ in 0..self.kicks_per_turn {
            if waiting == 0 || !self.rings.tx.needs_wakeup() {
                return false;
            }
            let errno = self.socket.kick();
            let left = self.rings.tx.waiting();
            self.counters.kicks += 1;
            if !self.judge(errno, left, left < waiting) {
                return self.link == Link::Up && left > 0;
            }
            waiting = left;
        }
        waiting > 0
    }

    /// Counts a kick's outcome; true when another kick right away may send more.
    fn judge(&mut self, errno: i32, left: u32, progress: bool) -> bool {
        let causes = &mut self.causes;
        self.link = Link::Up;
        match errno {
            0 => {
                causes.completion_full += u64::from(left > 0);
                progress
            }
            libc::EAGAIN => {
                self.counters.kicks_again += 1;
                *(if progress {
                    &mut causes.budget
                } else {
                    &mut causes.blocked
                }) += 1;
                progress
            }
            libc::EBUSY => {
                causes.device_dropped += 1;
                true
            }
            libc::ENOBUFS | libc::ENOMEM => {
                causes.no_memory += 1;
                false
            }
            libc::ENETDOWN => {
                causes.down += 1;
                self.link = Link::Down;
                false
            }
            libc::ENXIO | libc::EBADF | libc::ENODEV => {
                causes.gone += 1;
                self.link = Link::Gone;
                false
            }
            _ => {
                self.counters.kicks_failed += 1;
                false
            }
        }
    }

    /// Takes what was sent back into the pool, and gives the kernel free chunks to receive into, up to the port's cap.
    pub fn reclaim(&mut self, pool: &mut Pool) {
        let Some(shelf) = pool.shelf(&self.arena) else {
            return;
        };
        while let Some(addr) = self.rings.completion.pop() {
            let chunk = addr >> CHUNK_SHIFT;
            if chunk < self.arena.chunks().into()
                && self.arena.owner(chunk as u32) == (Owner::Transmit, self.id)
            {
                // SAFETY: (U1) the port gave the chunk to the kernel, which gave it back through the completion ring.
                unsafe { shelf.put(chunk as u32) };
            } else {
                self.counters.rx_invalid += 1;
            }
        }
        self.rings.completion.release();
        if self.link == Link::Gone {
            return;
        }
        let held = self
            .rings
            .fill
            .position()
            .wrapping_sub(self.rings.rx.position());
        let wanted = self.plan.fill.saturating_sub(held);
        let mut given = 0;
        while given < wanted && self.rings.fill.room(1) > 0 {
            let Some(chunk) = shelf.take(Owner::Fill, self.id) else {
                break;
            };
            let pushed = self.rings.fill.push(u64::from(chunk) << CHUNK_SHIFT);
            debug_assert!(pushed, "room was checked");
            given += 1;
        }
        if given > 0 {
            self.rings.fill.publish();
        }
        let starved = given < wanted;
        self.counters.fill_starved += u64::from(starved && !self.starved);
        self.starved = starved;
    }

    /// Chunks given to the kernel to receive into and not taken back, received ones included.
    #[inline]
    pub fn filling(&self) -> u32 {
        self.rings
            .fill
            .position()
            .wrapping_sub(self.rings.rx.position())
    }

    /// Descriptors given to the kernel to transmit and not completed.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.rings
            .tx
            .position()
            .wrapping_sub(self.rings.completion.position())
    }

    /// Whether the kernel has fewer chunks to receive into than it should, for want of free ones. A worker whose ports
    /// are starved must not sleep without a deadline: completions that would help wake nobody.
    #[inline]
    pub fn starved(&self) -> bool {
        self.starved
    }

    /// Readable when frames have arrived. The kernel also transmits when this is polled (`xsk_poll`).
    #[inline]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    /// Whether a turn would find something to do: frames received, frames to send, or chunks to take back.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.rings.rx.is_empty()
            || !self.rings.completion.is_empty()
            || (self.link == Link::Up && self.rings.tx.waiting() > 0)
    }

    /// Its counters.
    #[inline]
    pub fn counters(&self) -> PortCounters {
        self.counters
    }

    /// Why kicks stopped short.
    pub fn kick_causes(&self) -> KickCauses {
        self.causes
    }

    /// Takes the port out of service on its worker: what the rings give back is free at once, what the kernel still
    /// holds stays accounted for until [`ClosingPort::finish`] has closed the socket on another thread.
    pub fn close(mut self, id: PortId, pool: &mut Pool) -> ClosingPort {
        debug_assert_eq!(id, self.id);
        self.link = Link::Gone;
        self.reclaim(pool);
        while let Some(desc) = self.rings.rx.pop() {
            if let Some(chunk) = self.check(&desc, pool) {
                pool.free(self.hold(chunk));
            }
        }
        self.rings.rx.release();
        let sending = (0..self.arena.chunks())
            .filter(|&c| self.arena.owner(c) == (Owner::Transmit, self.id))
            .collect();
        pool.start_closing(&self.arena, self.id);
        ClosingPort::new(self.id, self.arena, self.socket, self.rings, sending)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "port_tests.rs"]
mod tests;
