// SPDX-License-Identifier: Apache-2.0
//! A port whose peer has virtqueues: a virtual machine, or a DPDK program with virtio-user, by the vhost-user protocol (docs/interop/vhost-user.rst of QEMU).
//!
//! The messages are another thread's affair: it hands the worker a whole [`Backend`] by a [`VhostHandle`], and what the worker served before goes as soon as
//! it has looked. The worker polls the queues; a driver is asked to say when it makes buffers available only while the worker sleeps.
//!
//! | module | |
//! |---|---|
//! | `memory`, `sigbus` | the guest's memory, and what happens when a part of it is taken away |
//! | `ring`, `split`, `packed` | virtqueues as their device sees them |
//! | `cursor`, `pair` | frames out of buffers, and into them |
//! | `backend` | what is handed to the worker, and what it says of it |
//!
//! Whatever the guest writes is copied before it is judged. A driver that breaks the rules has its port [broken](VhostHandle::take_broken) until its frontend sets
//! everything up anew; nobody else notices.

mod backend;
mod cursor;
mod memory;
mod packed;
mod pair;
mod ring;
mod sigbus;
mod split;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

pub use backend::{
    Backend, Broken, MAX_PAIRS, MAX_QUEUES, Queue, VhostDevice, VhostHandle, feature, vhost_device,
};
pub use memory::{GuestMemory, MAX_REGIONS, Region, RegionError};
pub use ring::{MAX_QUEUE, Position, RingFault};
pub use split::Addresses;

use super::{Caps, Link, PortCounters};
use crate::frame::{Arena, Batch, Frame, MAX_SEGMENTS, Pool};
use crate::ids::PortId;
use crate::wire::partial;
use pair::{Put, Room, Served, Take, Terms};

/// What the bell is known by among the descriptors of queues.
const BELL: u64 = u64::MAX;

/// A port of a guest. Its worker's alone.
pub struct VhostPort {
    device: VhostDevice,
    /// The version of the backend that is served.
    version: u64,
    arena: Arc<Arena>,
    backlog: u32,
    terms: Terms,
    memory: Option<Arc<GuestMemory>>,
    queues: Vec<Option<Served>>,
    /// Places of those queues among them that the driver receives by, and sends by.
    receiving: Vec<usize>,
    sending: Vec<usize>,
    /// Which of `sending` is served first.
    first: usize,
    /// Bell and kicks: readable when one of them was rung.
    bed: OwnedFd,
    /// Drivers were asked to kick.
    dozing: bool,
    starved: bool,
    room: Room,
    counters: PortCounters,
}

impl fmt::Debug for VhostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostPort")
            .field("version", &self.version)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl VhostPort {
    /// A port without queues so far. At most so many chunks (`backlog`) wait for the driver.
    ///
    /// # Errors
    /// When the kernel gives no epoll.
    pub fn open(device: VhostDevice, arena: Arc<Arena>, backlog: u32) -> io::Result<VhostPort> {
        let bed = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(BELL);
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&bed, &device.shared.bell, data, flags)?;
        Ok(VhostPort {
            device,
            version: 0,
            arena,
            backlog,
            terms: Terms::default(),
            memory: None,
            queues: Vec::new(),
            receiving: Vec::new(),
            sending: Vec::new(),
            first: 0,
            bed,
            dozing: false,
            starved: false,
            room: Room::default(),
            counters: PortCounters::default(),
        })
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(super) fn caps(&self) -> Caps {
        Caps {
            local_sender: true,
            superframes: true,
            takes_partial_checksum: true,
            joins_segments: true,
            takes_any_arena: true,
            max_segments: MAX_SEGMENTS,
            vlan: None,
        }
    }

    pub(super) fn backlog(&self) -> u32 {
        self.backlog
    }

    pub(super) fn link(&self) -> Link {
        match self.receiving.is_empty() {
            true => Link::Down,
            false => Link::Up,
        }
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.counters
    }

    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    #[inline]
    pub(super) fn takes_superframes(&self) -> bool {
        self.terms.takes_superframes()
    }

    /// Readable when a driver or the messages' side has something to say; what was said before the port [dozes](VhostPort::doze) is not.
    pub(super) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.bed.as_fd()
    }

    /// The worker is about to sleep: drivers are to kick from now on. Whoever sleeps looks for work once more first.
    pub(super) fn doze(&mut self, frames_wait: bool) {
        // What was announced before.
        let mut events = [MaybeUninit::<Event>::uninit(); 8];
        let at_once = Timespec::default();
        let _ = epoll::wait(&self.bed, &mut events, Some(&at_once));
        self.dozing = true;
        let receiving = self.receiving.iter().filter(|_| frames_wait);
        for &at in receiving.chain(&self.sending) {
            if let Some(queue) = &mut self.queues[at] {
                queue.ring.ask_for_kicks(true);
            }
        }
    }

    #[cold]
    fn wake(&mut self) {
        self.dozing = false;
        for queue in self.queues.iter_mut().flatten() {
            queue.ring.ask_for_kicks(false);
        }
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        let has_more = |at: &usize| self.queues[*at].as_ref().is_some_and(|q| q.ring.has_more());
        self.device.backend.is_due() || self.sending.iter().any(has_more)
    }

    /// Serves what is set up now, and does not ask for kicks any more.
    #[inline]
    fn look(&mut self) {
        if self.device.backend.is_due() {
            self.change();
        }
        if self.dozing {
            self.wake();
        }
    }

    #[cold]
    fn change(&mut self) {
        let published = self.device.backend.refresh();
        if published.version == self.version {
            return;
        }
        self.version = published.version;
        let backend = &published.backend;
        self.terms = Terms::of(backend);
        self.memory.clone_from(&backend.memory);
        let mut before = std::mem::take(&mut self.queues);
        self.receiving.clear();
        self.sending.clear();
        for (at, queue) in backend.queues.iter().enumerate().take(MAX_QUEUES) {
            let old = before.get_mut(at).and_then(Option::take);
            let new = queue
                .as_ref()
                .and_then(|queue| Served::new(backend, queue, old.as_ref()));
            let of = match at % 2 {
                0 => &mut self.receiving,
                _ => &mut self.sending,
            };
            if new.is_some() {
                of.push(at);
            }
            hear(&self.bed, at, old.as_ref(), new.as_ref());
            self.queues.push(new);
        }
        for (at, old) in before.iter().enumerate() {
            hear(&self.bed, at, old.as_ref(), None);
        }
        let ready = !self.receiving.is_empty();
        self.device.shared.ready.store(ready, Ordering::Relaxed);
    }

    /// A driver broke the rules: nothing of it is touched until its frontend has set everything up anew.
    #[cold]
    fn fail(&mut self, queue: usize, fault: RingFault) {
        let lost = self.memory.as_ref().is_some_and(|m| m.is_lost());
        let fault = if lost { RingFault::Lost } else { fault };
        for (at, old) in self.queues.iter().enumerate() {
            hear(&self.bed, at, old.as_ref(), None);
        }
        self.queues.clear();
        self.receiving.clear();
        self.sending.clear();
        self.memory = None;
        self.terms = Terms::default();
        self.device.shared.ready.store(false, Ordering::Relaxed);
        self.device.shared.set_broken(Broken { queue, fault });
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        self.look();
        let want = budget.min(batch.room());
        let mut taken = 0;
        let mut broken = None;
        for n in 0..self.sending.len() {
            let at = self.sending[(self.first + n) % self.sending.len()];
            let Some(queue) = &mut self.queues[at] else {
                continue;
            };
            let mut take = Take {
                id,
                terms: self.terms,
                arena: &self.arena,
                pool,
                batch,
                room: &mut self.room,
                counters: &mut self.counters,
                starved: &mut self.starved,
                taken,
            };
            let received = queue.receive(&mut take, want);
            taken = take.taken;
            if let Err(fault) = received {
                broken = Some((at, fault));
                break;
            }
            queue.finish(&mut self.counters);
            let position = queue.ring.position();
            self.device.shared.set_position(at, position);
        }
        self.first = self.first.wrapping_add(1);
        self.judge(broken);
        taken
    }

    /// Whether all is well with the guest.
    #[inline]
    fn judge(&mut self, broken: Option<(usize, RingFault)>) {
        let lost = || self.memory.as_ref().is_some_and(|m| m.is_lost());
        match broken {
            Some((at, fault)) => self.fail(at, fault),
            None if lost() => self.fail(0, RingFault::Lost),
            None => {}
        }
    }

    pub(super) fn transmit(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        self.look();
        let mut sent = 0;
        let mut broken = None;
        let finishes = self.terms.finishes_checksums();
        while let Some(mut frame) = outbox.pop_front() {
            let Some(at) = self.queue_for(&frame) else {
                self.refuse(frame, pool);
                continue;
            };
            if frame.offload.partial_checksum && !finishes {
                let (field, len) = (frame.offload.checksum_field(), frame.len());
                partial::fill(field, len, frame.iter_mut());
                frame.offload.partial_checksum = false;
            }
            let Some(queue) = &mut self.queues[at] else {
                self.refuse(frame, pool);
                continue;
            };
            match queue.send(&frame, self.terms, &mut self.room) {
                Ok(Put::Done) => {
                    sent += 1;
                    pool.free(frame);
                }
                Ok(Put::TooLong) => self.refuse(frame, pool),
                Ok(Put::Full) => {
                    self.counters.tx_full += 1;
                    outbox.push_front(frame);
                    break;
                }
                Err(fault) => {
                    broken = Some((at, fault));
                    outbox.push_front(frame);
                    break;
                }
            }
        }
        for &at in &self.receiving {
            if let Some(queue) = &mut self.queues[at] {
                queue.finish(&mut self.counters);
                let position = queue.ring.position();
                self.device.shared.set_position(at, position);
            }
        }
        self.judge(broken);
        sent
    }

    #[cold]
    fn refuse(&mut self, frame: Frame, pool: &mut Pool) {
        self.counters.tx_refused += 1;
        self.counters.tx_refused_bytes += u64::from(frame.len());
        pool.free(frame);
    }

    /// The queue by which a frame goes: always the same for a flow, while there are as many.
    #[inline]
    fn queue_for(&self, frame: &Frame) -> Option<usize> {
        match self.receiving[..] {
            [] => None,
            [only] => Some(only),
            ref several => Some(several[spread(frame.bytes()) as usize % several.len()]),
        }
    }

    pub(super) fn close(self) -> VhostDevice {
        self.device.shared.ready.store(false, Ordering::Relaxed);
        self.device
    }
}

/// Has a queue's kick wake the worker, and no longer that of the one before it.
fn hear(bed: &OwnedFd, at: usize, old: Option<&Served>, new: Option<&Served>) {
    let (old, new) = (old.and_then(Served::kick), new.and_then(Served::kick));
    let same = |a: &Arc<_>, b: &Arc<_>| Arc::ptr_eq(a, b);
    if old
        .zip(new)
        .is_some_and(|(old, new): (&Arc<std::fs::File>, &Arc<std::fs::File>)| same(old, new))
    {
        return;
    }
    if let Some(old) = old {
        let _ = epoll::delete(bed, old.as_fd());
    }
    if let Some(new) = new {
        // One that cannot be waited for is not heard; the worker looks again by itself.
        let data = EventData::new_u64(at as u64);
        let _ = epoll::add(bed, new.as_fd(), data, EventFlags::IN | EventFlags::ET);
    }
}

/// A number that is the same for all frames of a flow, from addresses and, where there are any, ports.
fn spread(bytes: &[u8]) -> u32 {
    const ETHERTYPE: usize = 12;
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    let kind = bytes.get(ETHERTYPE..ETHERTYPE + 2);
    let (addresses, ports) = match kind {
        // Without options, and no fragment.
        Some([0x08, 0x00]) => {
            let plain = bytes.get(14) == Some(&0x45) && word(20) & 0xff3f == 0;
            (26..34, plain.then_some(34))
        }
        Some([0x86, 0xdd]) => {
            let plain = matches!(bytes.get(20), Some(6 | 17 | 132));
            (22..54, plain.then_some(54))
        }
        _ => (0..12, None),
    };
    let words = addresses.step_by(4).chain(ports).map(word);
    let mixed = words.fold(0u64, |sum, word| {
        (sum ^ u64::from(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    (mixed >> 32) as u32 ^ mixed as u32
}
