// SPDX-License-Identifier: Apache-2.0
//! A port whose peer has virtqueues: a virtual machine, or a DPDK program with virtio-user, by the vhost-user protocol (docs/interop/vhost-user.rst of QEMU).
//!
//! The messages are another thread's affair: it hands the worker a whole [`Backend`] by a [`VhostHandle`], and what the worker served before goes as soon as
//! it has looked. The worker polls the queues; a driver is asked to say when it makes buffers available only while the worker sleeps.
//!
//! | module | |
//! |---|---|
//! | `memory`, `sigbus` | the guest's memory, and what happens when a part of it is taken away |
//! | `log`, `inflight` | which pages were written to, for a guest that moves; where a packed queue stands, for the next backend |
//! | `ring`, `split`, `packed` | virtqueues as their device sees them |
//! | `nudge` | calls that a frontend has the worker wait in |
//! | `pair` | a queue that is served, and what was agreed on |
//! | `cursor`, `take`, `put` | frames out of buffers, and into them |
//! | `backend` | what is handed to the worker, and what it says of it |
//!
//! Whatever the guest writes is copied before it is judged. A driver that breaks the rules has its port [broken](VhostHandle::take_broken) until its frontend sets
//! everything up anew; nobody else notices.

mod backend;
mod cursor;
mod inflight;
mod log;
mod memory;
mod nudge;
mod packed;
mod pair;
mod put;
mod ring;
mod sigbus;
mod split;
mod take;

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
pub use inflight::{Inflight, inflight_bytes};
pub use log::{DirtyLog, MAX_LOG};
pub use memory::{GuestMemory, MAX_MEMORY, MAX_REGIONS, PartError, Region, RegionError};
pub use ring::{MAX_QUEUE, Position, RingFault};
pub use split::Addresses;

use super::{Caps, Link, PortCounters};
use crate::frame::{Arena, Batch, Frame, MAX_SEGMENTS, Pool};
use crate::ids::PortId;
use crate::wire::partial;
use backend::Backing;
use pair::{Before, Served, Terms};
use put::Plan;
use take::{Copied, Take, Taken};

/// A port of a guest. Its worker's alone.
pub struct VhostPort {
    device: VhostDevice,
    arena: Arc<Arena>,
    backlog: u32,
    terms: Terms,
    /// What is served is in.
    backing: Backing,
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
    /// What the frames of this burst came in, and whether there is one: between [`VhostPort::receive`] and [`VhostPort::release`].
    burst: Taken,
    under_way: bool,
    plan: Plan,
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
            backing: Backing::default(),
            receiving: Vec::new(),
            sending: Vec::new(),
            first: 0,
            bed,
            dozing: false,
            starved: false,
            burst: Taken::default(),
            under_way: false,
            plan: Plan::default(),
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
            takes_lent: true,
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
            queue.ask_for_kicks(true);
        }
    }

    #[cold]
    fn wake(&mut self) {
        self.dozing = false;
        for queue in self.receiving.iter_mut().chain(&mut self.sending) {
            queue.ask_for_kicks(false);
        }
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.device.backend.is_due() || self.sending.iter().any(|q| q.ring.has_more())
    }

    /// Serves what is set up now, and does not ask for kicks any more. Not in the middle of a burst, which has bytes and buffers of what was set up before.
    #[inline]
    fn look(&mut self) {
        if !self.under_way && self.device.backend.is_due() {
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
        self.backing = Backing::default();
        let backend = self.device.backend.refresh();
        self.terms = Terms::of(backend);
        self.backing = Backing::of(backend);
        for at in 0..backend.queues.len().min(MAX_QUEUES) {
            let old = before.iter().find(|queue| queue.at == at);
            let Some(mut queue) = Served::new(backend, at, old) else {
                continue;
            };
            queue.begin(backend, old);
            queue.ask_for_kicks(false);
            if let Err(fault) = queue.greet(old, &self.device.shared) {
                return self.fail(queue.broken(fault));
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
        self.burst.clear();
        self.backing = Backing::default();
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
        self.under_way = true;
        let (before, want) = (batch.len(), budget.min(batch.room()));
        let broken = match self.look_up(want) {
            Ok(()) => self.copy_all(id, pool, batch).err(),
            broken => broken.err(),
        };
        self.judge(broken);
        batch.len() - before
    }

    #[inline]
    fn look_up(&mut self, want: usize) -> Result<(), Broken> {
        self.burst.clear();
        let queues = self.sending.len();
        for n in 0..queues {
            let number = (self.first + n) % queues;
            let queue = &mut self.sending[number];
            let looked = self.burst.look_up(queue, number, want);
            looked.map_err(|fault| queue.broken(fault))?;
        }
        self.first = self.first.wrapping_add(1);
        Ok(())
    }

    /// Copies what was looked up, as far as there are chunks.
    #[inline]
    fn copy_all(&mut self, id: PortId, pool: &mut Pool, batch: &mut Batch) -> Result<(), Broken> {
        let mut take = Take {
            id,
            terms: self.terms,
            arena: &self.arena,
            pool,
            batch,
            counters: &mut self.counters,
        };
        for n in 0..self.burst.found.len() {
            let found = self.burst.found[n];
            let queue = &self.sending[usize::from(found.queue)];
            if queue.is_disabled() {
                take.counters.rx_disabled += 1;
                continue;
            }
            match take.copy(&queue.memory, self.burst.pieces(found)) {
                Ok(Copied::Frame) => self.starved = false,
                Ok(Copied::Nothing) => {}
                Ok(Copied::NoRoom) => {
                    take.counters.fill_starved += u64::from(!self.starved);
                    self.starved = true;
                    self.burst.go_back(n, &mut self.sending);
                    break;
                }
                Err(fault) => return Err(queue.broken(fault)),
            }
        }
        Ok(())
    }

    /// Gives the buffers of a burst back: no frame has anything of theirs any more. Whether there were any.
    #[inline]
    pub(super) fn release(&mut self, pool: &mut Pool) -> bool {
        pool.loans().clear();
        self.under_way = false;
        if self.burst.found.is_empty() {
            return false;
        }
        for found in self.burst.found.drain(..) {
            self.sending[usize::from(found.queue)].give(found.buffer, 0);
        }
        let broken = self.finish(true);
        self.judge(broken);
        true
    }

    /// Drivers see what was given back.
    #[inline]
    fn finish(&mut self, sending: bool) -> Option<Broken> {
        let queues = match sending {
            true => &mut self.sending,
            false => &mut self.receiving,
        };
        let mut broken = None;
        for queue in queues {
            if let Err(fault) = queue.finish(&mut self.counters, &self.device.shared) {
                broken = broken.or(Some(queue.broken(fault)));
            }
        }
        broken
    }

    /// Whether all is well with the guest. Whatever looks wrong in memory that is gone, it is that.
    #[inline]
    fn judge(&mut self, broken: Option<Broken>) {
        let lost = self.backing.is_lost().then(|| Broken {
            queue: broken.map_or(0, |b| b.queue),
            fault: RingFault::Lost,
        });
        if let Some(broken) = lost.or(broken) {
            self.fail(broken);
        }
    }

    pub(super) fn transmit(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        self.look();
        if self.receiving.is_empty() {
            while let Some(frame) = outbox.pop_front() {
                self.refuse(frame, pool);
            }
            return 0;
        }
        let mut sent = 0;
        let mut broken = None;
        while broken.is_none() && !outbox.is_empty() {
            broken = self.plan(pool, outbox).err();
            if self.plan.places.is_empty() {
                self.counters.tx_full += u64::from(broken.is_none());
                break;
            }
            let put = self.put(pool, outbox, &mut sent);
            broken = put.err().or(broken);
        }
        let broken = broken.or(self.finish(false));
        self.judge(broken);
        sent
    }

    /// Looks up buffers for the first frames that wait. They are to be written to, one after another: the processor fetches them side by side.
    #[inline]
    fn plan(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> Result<(), Broken> {
        self.plan.clear();
        let finishes = self.terms.finishes_checksums();
        for frame in outbox {
            if self.plan.is_full() {
                break;
            }
            if !finishes && !fill_checksum(frame, pool) {
                self.plan.add_none();
                continue;
            }
            let number = self.queue_for(frame);
            let queue = &mut self.receiving[number];
            match self.plan.add(frame, number, queue, self.terms) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => return Err(queue.broken(fault)),
            }
        }
        Ok(())
    }

    /// Writes the frames that there is a plan for.
    #[inline]
    fn put(
        &mut self,
        pool: &mut Pool,
        outbox: &mut VecDeque<Frame>,
        sent: &mut usize,
    ) -> Result<(), Broken> {
        for n in 0..self.plan.places.len() {
            let (place, Some(frame)) = (self.plan.places[n], outbox.pop_front()) else {
                break;
            };
            if place.is_none() {
                self.refuse(frame, pool);
                continue;
            }
            let queue = &mut self.receiving[place.queue];
            if let Err(fault) = self.plan.write(place, &frame, queue, self.terms, pool) {
                outbox.push_front(frame);
                return Err(queue.broken(fault));
            }
            pool.free(frame);
            *sent += 1;
        }
        Ok(())
    }

    #[cold]
    fn refuse(&mut self, frame: Frame, pool: &mut Pool) {
        self.counters.tx_refused += 1;
        self.counters.tx_refused_bytes += u64::from(frame.len());
        pool.free(frame);
    }

    /// Which of the queues that the driver receives by a frame goes by: always the same for a flow, while there are as many.
    #[inline]
    fn queue_for(&self, frame: &Frame) -> usize {
        match self.receiving.len() {
            0 | 1 => 0,
            several => spread(frame.bytes()) as usize % several,
        }
    }

    pub(super) fn close(self) -> VhostDevice {
        self.device.shared.ready.store(false, Ordering::Relaxed);
        self.device
    }
}

/// Finishes a checksum that was left to the device; false when chunks are short for what it covers.
#[inline]
fn fill_checksum(frame: &mut Frame, pool: &mut Pool) -> bool {
    if !frame.offload.partial_checksum {
        return true;
    }
    if !pool.fetch(frame) {
        return false;
    }
    let (field, len) = (frame.offload.checksum_field(), frame.len());
    partial::fill(field, len, frame.iter_mut());
    frame.offload.partial_checksum = false;
    true
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
