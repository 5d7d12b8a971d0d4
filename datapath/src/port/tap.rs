// SPDX-License-Identifier: Apache-2.0
//! A port without AF_XDP: traffic control sends an interface's frames into a tap device, where they are read with a `struct virtio_net_hdr` in front
//! (drivers/net/tun.c, virtio 1.2 section 5.1.6); all that leaves goes by a packet socket on the interface itself ([`packet`](super::packet)).
//!
//! AF_XDP gives each segment of a stream alone, or a whole of which nobody knows that it is one. Here a sender keeps its segmentation offload, the
//! kernel merges what comes in by a wire, and each superframe costs one call. Whatever a tap device is not said to take (segmentation of UDP, inner
//! packets of tunnels, SCTP's checksum, tags beside the frame), the kernel finishes before. Small packets cost a call each, too, and are slower so.
//!
//! The device goes with the last descriptor of it: frames that are sent to one that is gone are dropped.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::packet::{NEEDS_CHECKSUM, PacketWay, Taken, VIRTIO_HEADER};
use super::{Caps, Link, PortCounters, give};
use crate::frame::{Arena, Batch, CHUNK_SIZE, Frame, HEADROOM, MAX_FRAME, MAX_SEGMENTS, Pool};
use crate::ids::PortId;

/// Most bytes of a frame in a chunk.
const ROOM: usize = CHUNK_SIZE - HEADROOM;
/// A header, and chunks for the longest frame.
const PARTS: usize = 1 + MAX_SEGMENTS as usize;

const _: () = assert!(ROOM * MAX_SEGMENTS as usize >= MAX_FRAME as usize);

/// A port that reads from a tap device. Its worker's alone.
pub struct TapPort {
    tap: OwnedFd,
    arena: Arc<Arena>,
    caps: Caps,
    way: PacketWay,
    /// Chunks to read into, each a frame of all its room.
    rooms: VecDeque<Frame>,
    backlog: u32,
    /// A frame may wait.
    due: bool,
    starved: bool,
    link: Link,
    counters: PortCounters,
}

impl fmt::Debug for TapPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapPort")
            .field("due", &self.due)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// What a tap device gave.
enum Read {
    Frame(Frame),
    /// What makes no sense; it is counted.
    Nothing,
    /// No frame waits.
    Empty,
}

impl TapPort {
    /// A port of the frames of `tap`, which does not block and has the virtio-net header of 10 bytes, and whose own frames leave by the interface with this index
    /// in the calling thread's network namespace: a NIC, or the host end of a pod's veth. At most so many chunks (`backlog`) wait for it.
    ///
    /// # Errors
    /// What the kernel said about the packet socket.
    pub fn open(
        tap: OwnedFd,
        arena: Arc<Arena>,
        interface: u32,
        nic: Option<Wire>,
        backlog: u32,
    ) -> io::Result<TapPort> {
        let vlan = nic.and_then(|nic| nic.vlan);
        let way = PacketWay::open(interface, nic.is_some(), vlan.is_some(), Taken::All)?;
        Ok(TapPort {
            tap,
            arena,
            caps: Caps {
                local_sender: nic.is_none_or(|nic| nic.local_sender),
                superframes: true,
                takes_partial_checksum: true,
                joins_segments: true,
                takes_any_arena: true,
                takes_lent: false,
                max_segments: MAX_SEGMENTS,
                vlan,
            },
            way,
            rooms: VecDeque::with_capacity(MAX_SEGMENTS.into()),
            backlog,
            due: true,
            starved: false,
            link: Link::Up,
            counters: PortCounters::default(),
        })
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(super) fn caps(&self) -> Caps {
        self.caps
    }

    pub(super) fn backlog(&self) -> u32 {
        self.backlog
    }

    pub(super) fn link(&self) -> Link {
        self.link
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.counters
    }

    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    #[inline]
    pub(super) fn takes_superframes(&self) -> bool {
        self.way.takes_whole()
    }

    /// Readable when frames wait.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// The descriptor is readable.
    #[inline]
    pub(super) fn announce(&mut self) {
        self.due = self.link != Link::Gone;
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.due
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let want = budget.min(batch.room());
        let mut taken = 0;
        while taken < want && self.due {
            if !self.refill(pool) {
                // It stays readable, so it is announced again.
                self.due = false;
                break;
            }
            match self.read() {
                Ok(Read::Frame(frame)) => {
                    give(batch, frame, id, pool);
                    taken += 1;
                }
                Ok(Read::Nothing) | Err(Errno::INTR) => {}
                Ok(Read::Empty) | Err(Errno::AGAIN) => self.due = false,
                // The device was deleted.
                Err(_) => {
                    self.due = false;
                    self.link = Link::Gone;
                }
            }
        }
        taken
    }

    /// Makes sure that the longest frame has room; false when chunks are short.
    #[inline]
    fn refill(&mut self, pool: &mut Pool) -> bool {
        let wanted = usize::from(MAX_SEGMENTS);
        while self.rooms.len() < wanted
            && let Some(mut room) = pool.alloc(&self.arena)
        {
            // It is a chunk without a byte so far.
            let _ = room.resize(ROOM as u16);
            self.rooms.push_back(room);
        }
        let starved = self.rooms.len() < wanted;
        self.counters.fill_starved += u64::from(starved && !self.starved);
        self.starved = starved;
        !starved
    }

    /// Reads one frame.
    fn read(&mut self) -> Result<Read, Errno> {
        let mut header = [0; VIRTIO_HEADER];
        let len = {
            let rooms = self.rooms.iter_mut().map(Frame::bytes_mut);
            let mut parts = std::iter::once(&mut header[..]).chain(rooms);
            let mut parts: [IoSliceMut<'_>; PARTS] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            rustix::io::readv(&self.tap, &mut parts)?
        };
        let Some(len) = len.checked_sub(VIRTIO_HEADER).filter(|len| *len > 0) else {
            self.counters.rx_invalid += u64::from(len > 0);
            return Ok(if len > 0 { Read::Nothing } else { Read::Empty });
        };
        if len > MAX_FRAME as usize {
            self.counters.rx_too_long += 1;
            return Ok(Read::Nothing);
        }
        let Some(mut frame) = self.gather(len) else {
            return Ok(Read::Nothing);
        };
        let number = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (start, offset) = (number(6), number(8));
        let field = u32::from(start) + u32::from(offset);
        if header[0] & NEEDS_CHECKSUM != 0 && field + 2 <= frame.len() {
            frame.offload.partial_checksum = true;
            (frame.offload.csum_start, frame.offload.csum_offset) = (start, offset);
        }
        Ok(Read::Frame(frame))
    }

    /// The frame of so many bytes that were read.
    fn gather(&mut self, len: usize) -> Option<Frame> {
        let mut left = len;
        let mut next = || {
            let mut room = self.rooms.pop_front()?;
            let _ = room.resize(left.min(ROOM) as u16);
            left = left.saturating_sub(ROOM);
            Some((room, left))
        };
        let (mut frame, mut left) = next()?;
        let mut tail = frame.head();
        while left > 0
            && let Some((room, more)) = next()
        {
            tail = frame.chain(tail, room);
            left = more;
        }
        Some(frame)
    }

    pub(super) fn transmit(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        let sent = match self.link {
            Link::Gone => 0,
            Link::Up | Link::Down => {
                self.way
                    .transmit(pool, outbox, &mut self.link, &mut self.counters)
            }
        };
        if self.link == Link::Gone {
            for frame in outbox.drain(..) {
                self.counters.tx_refused += 1;
                self.counters.tx_refused_bytes += u64::from(frame.len());
                pool.free(frame);
            }
        }
        sent
    }

    pub(super) fn close(self, pool: &mut Pool) -> OwnedFd {
        self.rooms.into_iter().for_each(|room| pool.free(room));
        self.tap
    }
}

/// What a NIC is behind a tap device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// See [`Caps::local_sender`].
    pub local_sender: bool,
    /// See [`Caps::vlan`].
    pub vlan: Option<u16>,
}
