// SPDX-License-Identifier: Apache-2.0
//! The port itself: frames between an AF_XDP socket's rings and the worker.
//!
//! Every chunk the kernel holds for a port is counted by ring positions alone, which a successor finds in the shared
//! words: chunks to receive into are `fill pushed - received taken`, chunks in transmission are `transmit pushed -
//! completed taken`. Both stay within the port's plan, so that no pod holds its neighbours' chunks, and the receive and
//! completion rings are as large as the caps, so that neither can overflow.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::close::ClosingPort;
use super::error::XdpError;
use super::plan::PortPlan;
use super::probe::Features;
use super::socket::{KernelDrops, Rings, Socket};
use super::umem::XdpConfig;
use crate::frame::{Arena, CHUNK_SIZE, MAX_SEGMENTS, Owner, Pool};
use crate::ids::PortId;
use crate::port::packet::{PacketWay, Taken};
use crate::port::{Caps, Link, PortCounters};

mod receive;
mod transmit;

pub use transmit::KickCauses;

const CHUNK_SHIFT: u32 = CHUNK_SIZE.trailing_zeros();

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
    /// By which TCP is sent, if it is not by the socket.
    packets: Option<Box<PacketWay>>,
    kicks_per_turn: u32,
    link: Link,
    /// Inside a received frame that is too long: its descriptors are given back until it ends.
    skipping: bool,
    /// The fill ring is below its cap for want of free chunks.
    starved: bool,
    /// Chunks were given since the device was last told to look at the fill ring.
    untold: bool,
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

impl XdpPort {
    pub(super) fn new(
        config: &XdpConfig,
        arena: Arc<Arena>,
        socket: Arc<Socket>,
        rings: Rings,
        features: Features,
    ) -> Result<XdpPort, XdpError> {
        let packets = match config.joins_segments && features.joined_segments {
            true => {
                let tagged = config.vlan.is_some();
                let way =
                    PacketWay::open(config.queue.interface, config.wire, tagged, Taken::Marked);
                let way = way.map_err(|e| XdpError::call("a packet socket", config.queue, e))?;
                Some(Box::new(way))
            }
            false => None,
        };
        Ok(XdpPort {
            id: config.id,
            arena,
            socket,
            rings,
            plan: config.plan,
            caps: Caps {
                local_sender: config.local_sender,
                superframes: config.superframes,
                takes_partial_checksum: features.tx_metadata && !config.wire,
                joins_segments: packets.is_some(),
                takes_any_arena: false,
                takes_lent: false,
                max_segments: match features.segments && !config.zero_copy {
                    true => MAX_SEGMENTS,
                    false => 1,
                },
                vlan: config.vlan,
            },
            packets,
            kicks_per_turn: config.kicks_per_turn.max(1),
            link: Link::Up,
            skipping: false,
            starved: false,
            untold: false,
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
        let rings = socket.map(&config.plan.rings)?;
        let port = XdpPort::new(config, arena, socket, rings, features)?;
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

    /// Whether the device itself writes to its chunks and reads from them.
    #[inline]
    pub fn is_zero_copy(&self) -> bool {
        self.socket.is_zero_copy()
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
            self.untold = true;
        }
        if self.socket.is_zero_copy() {
            self.tell_of_chunks();
        }
        let starved = given < wanted;
        self.counters.fill_starved += u64::from(starved && !self.starved);
        self.starved = starved;
    }

    /// Has a device that waits for chunks look at those it was given. In copy mode the kernel looks by itself.
    #[inline]
    fn tell_of_chunks(&mut self) {
        if self.rings.fill.needs_wakeup() && self.rings.fill.waiting() > 0 {
            self.untold = false;
            self.socket.wake_receive();
        }
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

    /// See [`Port::takes_superframes`](crate::port::Port::takes_superframes).
    #[inline]
    pub fn takes_superframes(&self) -> bool {
        let packets = self.packets.as_ref();
        packets.is_some_and(|packets| packets.takes_whole())
    }

    /// Whether the kernel has fewer chunks to receive into than it should, for want of free ones. A worker whose ports
    /// are starved must not sleep without a deadline: completions that would help wake nobody.
    #[inline]
    pub fn starved(&self) -> bool {
        self.starved
    }

    /// Readable when frames have arrived. The kernel also transmits when this is polled (`xsk_poll`).
    #[inline]
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether a turn would find something to do: frames received, frames to send, or chunks to take back.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.rings.rx.is_empty()
            || !self.rings.completion.is_empty()
            || (self.link == Link::Up && self.rings.tx.waiting() > 0)
            || (self.untold && self.socket.is_zero_copy() && self.rings.fill.needs_wakeup())
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
    pub fn close(self, id: PortId, pool: &mut Pool) -> ClosingPort {
        let arena = self.arena.clone();
        XdpPort::close_all(id, &arena, vec![self], pool)
    }

    /// The same for all queues of a port, whose memory is `arena`.
    pub(in crate::port) fn close_all(
        id: PortId,
        arena: &Arc<Arena>,
        mut queues: Vec<XdpPort>,
        pool: &mut Pool,
    ) -> ClosingPort {
        for queue in &mut queues {
            debug_assert_eq!(id, queue.id);
            queue.link = Link::Gone;
            queue.reclaim(pool);
            queue.give_up_received(pool);
        }
        let sending = (0..arena.chunks())
            .filter(|&c| arena.owner(c) == (Owner::Transmit, id))
            .collect();
        pool.start_closing(arena, id);
        let ends = queues.into_iter().map(|q| (q.socket, q.rings)).collect();
        ClosingPort::new(id, arena.clone(), ends, sending)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
