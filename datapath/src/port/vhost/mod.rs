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
//! | `nudge` | calls that a frontend has the worker wait in |
//! | `cursor`, `pair` | frames out of buffers, and into them |
//! | `backend` | what is handed to the worker, and what it says of it |
//!
//! Whatever the guest writes is copied before it is judged. A driver that breaks the rules has its port [broken](VhostHandle::take_broken) until its frontend sets
//! everything up anew; nobody else notices.

mod backend;
mod cursor;
mod memory;
mod nudge;
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
    Backend, Broken, Calls, MAX_PAIRS, MAX_QUEUES, Queue, VhostDevice, VhostHandle, feature,
    vhost_device,
};
pub use memory::{GuestMemory, MAX_MEMORY, MAX_REGIONS, Region, RegionError};
pub use ring::{MAX_QUEUE, Position, RingFault};
pub use split::Addresses;

use super::{Caps, Link, PortCounters};
use crate::frame::{Arena, Batch, Frame, MAX_SEGMENTS, Pool};
use crate::ids::PortId;
use crate::wire::partial;
use pair::{Before, Put, Room, Served, Take, Terms};

/// A port of a guest. Its worker's alone.
pub struct VhostPort {
    device: VhostDevice,
    arena: Arc<Arena>,
    backlog: u32,
    terms: Terms,
    memory: Option<Arc<GuestMemory>>,
    /// Queues that the driver receives by, and sends by.
    receiving: Vec<Served>,
    sending: Vec<Served>,
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
        listen(&bed, device.shared.bell.as_fd())?;
        Ok(VhostPort {
            device,
            arena,
            backlog,
            terms: Terms::default(),
            memory: None,
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
        let receiving = self.receiving.iter_mut().filter(|_| frames_wait);
        for queue in receiving.chain(&mut self.sending) {
            queue.ring.ask_for_kicks(true);
        }
    }

    #[cold]
    fn wake(&mut self) {
        self.dozing = false;
        for queue in self.receiving.iter_mut().chain(&mut self.sending) {
            queue.ring.ask_for_kicks(false);
        }
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.device.backend.is_due() || self.sending.iter().any(|q| q.ring.has_more())
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
        // What was served is let go of first: whoever set it up frees it, as soon as it sees that the new one was fetched.
        let before = self.take_queues();
        let before: Vec<Before> = before.into_iter().map(Served::into_before).collect();
        self.memory = None;
        let backend = self.device.backend.refresh();
        self.terms = Terms::of(backend);
        self.memory.clone_from(&backend.memory);
        for at in 0..backend.queues.len().min(MAX_QUEUES) {
            let old = before.iter().find(|queue| queue.at == at);
            let Some(mut queue) = Served::new(backend, at, old) else {
                continue;
            };
            queue.ring.ask_for_kicks(false);
            if let Err(fault) = queue.greet(old, &self.device.shared) {
                return self.fail(Broken { queue: at, fault });
            }
            self.device.shared.set_position(at, queue.ring.position());
            if let Some(kick) = queue.kick() {
                // One that cannot be waited for is not heard; the worker looks again by itself.
                let _ = listen(&self.bed, kick.as_fd());
            }
            match at % 2 {
                0 => self.receiving.push(queue),
                _ => self.sending.push(queue),
            }
        }
        let ready = !self.receiving.is_empty();
        self.device.shared.ready.store(ready, Ordering::Relaxed);
    }

    /// Takes all queues away; their kicks wake the worker no more.
    #[cold]
    fn take_queues(&mut self) -> Vec<Served> {
        let all = self.receiving.drain(..).chain(self.sending.drain(..));
        let all: Vec<Served> = all.collect();
        for kick in all.iter().filter_map(Served::kick) {
            let _ = epoll::delete(&self.bed, kick.as_fd());
        }
        all
    }

    /// A driver broke the rules: nothing of it is touched until its frontend has set everything up anew.
    #[cold]
    fn fail(&mut self, broken: Broken) {
        drop(self.take_queues());
        self.memory = None;
        self.terms = Terms::default();
        self.device.shared.ready.store(false, Ordering::Relaxed);
        self.device.shared.set_broken(broken);
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
        let queues = self.sending.len();
        for n in 0..queues {
            let queue = &mut self.sending[(self.first + n) % queues];
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
            let finish = |()| queue.finish(&mut self.counters, &self.device.shared);
            if let Err(fault) = received.and_then(finish) {
                let queue = queue.at;
                broken = Some(Broken { queue, fault });
                break;
            }
        }
        self.first = self.first.wrapping_add(1);
        self.judge(broken);
        taken
    }

    /// Whether all is well with the guest. Whatever looks wrong in memory that is gone, it is that.
    #[inline]
    fn judge(&mut self, broken: Option<Broken>) {
        let lost = self.memory.as_ref().is_some_and(|m| m.is_lost());
        let lost = lost.then(|| Broken {
            queue: broken.map_or(0, |b| b.queue),
            fault: RingFault::Lost,
        });
        if let Some(broken) = lost.or(broken) {
            self.fail(broken);
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
            let queue = &mut self.receiving[at];
            if frame.offload.partial_checksum && !finishes {
                let (field, len) = (frame.offload.checksum_field(), frame.len());
                partial::fill(field, len, frame.iter_mut());
                frame.offload.partial_checksum = false;
            }
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
                    let queue = queue.at;
                    broken = Some(Broken { queue, fault });
                    outbox.push_front(frame);
                    break;
                }
            }
        }
        for queue in &mut self.receiving {
            if let Err(fault) = queue.finish(&mut self.counters, &self.device.shared) {
                let queue = queue.at;
                broken = broken.or(Some(Broken { queue, fault }));
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

    /// Which of the queues that the driver receives by a frame goes by: always the same for a flow, while there are as many.
    #[inline]
    fn queue_for(&self, frame: &Frame) -> Option<usize> {
        match self.receiving.len() {
            0 => None,
            1 => Some(0),
            several => Some(spread(frame.bytes()) as usize % several),
        }
    }

    pub(super) fn close(self) -> VhostDevice {
        self.device.shared.ready.store(false, Ordering::Relaxed);
        self.device
    }
}

/// Has an eventfd wake the worker, each time that it is rung.
fn listen(bed: &OwnedFd, event: BorrowedFd<'_>) -> io::Result<()> {
    let flags = EventFlags::IN | EventFlags::ET;
    Ok(epoll::add(bed, event, EventData::new_u64(0), flags)?)
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
