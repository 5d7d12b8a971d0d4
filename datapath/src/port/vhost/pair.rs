// SPDX-License-Identifier: Apache-2.0
//! Queues of a port, as the worker serves them.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use super::backend::{Backend, Broken, Queue, Shared, feature};
use super::inflight::Track;
use super::log::DirtyLog;
use super::memory::GuestMemory;
use super::packed::Packed;
use super::ring::{Buffer, Position, Ring, RingFault};
use super::split::Split;
use crate::frame::{Frame, Offload};
use crate::port::PortCounters;
use crate::port::packet::{NEEDS_CHECKSUM, TCP_OVER_V4, TCP_OVER_V6, VIRTIO_HEADER};

/// `struct virtio_net_hdr` with the number of buffers, and without it (virtio 1.2 sections 5.1.6 and 5.1.6.1).
pub(super) const HEADER: usize = 12;
const LEGACY_HEADER: usize = VIRTIO_HEADER;

/// Shortest segments that a packet is cut into: no driver asks for less (`TCP_MIN_SND_MSS`, include/net/tcp.h).
const SMALLEST: u16 = 48;

/// What was agreed on that matters for each packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    /// Bytes in front of each packet.
    pub(super) header: usize,
    pub(super) mergeable: bool,
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
    #[inline]
    pub(super) fn judge(self, header: &[u8; HEADER], len: u32) -> Option<Offload> {
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
        offload.gso_size = number(4);
        (agreed && offload.partial_checksum && offload.gso_size >= SMALLEST).then_some(offload)
    }

    /// What is in front of a frame for the driver, in so many buffers.
    #[inline]
    pub(super) fn header(self, frame: &Frame, buffers: u16) -> ([u8; 8], [u8; 4]) {
        let offload = &frame.offload;
        let mut first = 0;
        let mut last = u32::from(buffers) << 16;
        if offload.partial_checksum {
            first |= u64::from(NEEDS_CHECKSUM) | u64::from(offload.csum_start) << 48;
            last |= u32::from(offload.csum_offset);
        }
        if crate::port::is_whole(frame) {
            first |= u64::from(offload.gso_type) << 8
                | u64::from(offload.hdr_len) << 16
                | u64::from(offload.gso_size) << 32;
        }
        // In two words, not field by field: what is written so and read at once has the processor wait.
        (first.to_le_bytes(), last.to_le_bytes())
    }
}

/// A queue that is served.
#[derive(Debug)]
pub(super) struct Served {
    /// Its index.
    pub(super) at: usize,
    queue: Queue,
    pub(super) ring: Ring,
    pub(super) memory: Arc<GuestMemory>,
    /// Where what is written is to be noted.
    pub(super) log: Option<Arc<DirtyLog>>,
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
            log: backend.log.clone(),
            given: false,
        })
    }

    /// It is served from now on; before, it was only seen that it can be.
    pub(super) fn begin(&mut self, backend: &Backend, before: Option<&Before>) {
        let goes_on = before.is_some_and(|b| b.start == self.queue.start);
        let tracks = backend.inflight.as_ref();
        let track = tracks.and_then(|all| Track::new(all, self.at, self.queue.size));
        match (&mut self.ring, track) {
            (Ring::Packed(ring), Some(track)) if goes_on => ring.follow(track),
            (Ring::Packed(ring), Some(track)) => ring.resume(track),
            _ => {}
        }
    }

    pub(super) fn ask_for_kicks(&mut self, on: bool) {
        self.ring.ask_for_kicks(on);
        self.mark_ring();
    }

    #[inline]
    fn mark_ring(&self) {
        if let Some(log) = &self.log {
            self.ring.mark(log);
        }
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

    /// Its driver has done this.
    #[cold]
    pub(super) fn broken(&self, fault: RingFault) -> Broken {
        Broken {
            queue: self.at,
            fault,
        }
    }

    /// What the driver sends by it is given back unread (vhost-user, "Ring states").
    #[inline]
    pub(super) fn is_disabled(&self) -> bool {
        self.queue.disabled
    }

    /// What it is heard by.
    pub(super) fn kick(&self) -> Option<&Arc<std::fs::File>> {
        self.queue.kick.as_ref()
    }

    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, written: u32) {
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
        self.mark_ring();
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
}
