// SPDX-License-Identifier: Apache-2.0
//! Where packets go: the worker's ports with their outboxes, and the rings to its peers.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::announce::Announcers;
use super::idle::Owed;
use super::peers::Peers;
use super::schedule::Balance;
use crate::counters::{Event, WorkerCounters};
use crate::frame::{Frame, Meta, Packet, Pool};
use crate::ids::{MAX_PORTS, PortId, PortSet, WorkerId};
use crate::port::{Caps, Closed, Link, Port, is_stream, mark_stream};
use crate::stage::segment;
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::wire::partial::{self, PartialChecksum};

/// A port of this worker.
pub(crate) struct Slot {
    pub(crate) id: PortId,
    pub(crate) port: Port,
    pub(crate) caps: Caps,
    pub(crate) balance: Balance,
    outbox: VecDeque<Frame>,
    /// Bytes and chunks of the frames in the outbox.
    waiting: (u64, u32),
    /// Chunks that may wait; beyond that frames are dropped.
    backlog: u32,
    /// The outbox has got frames in this burst.
    touched: bool,
    /// The device is to be kicked again, or did not take all.
    pub(crate) unfinished: bool,
    /// The port whose frames the outbox got last: it pays for what is left to do.
    pub(crate) fed_by: PortId,
    /// Cycles that other workers have spent on its frames, as far as it has paid for them.
    pub(crate) abroad: u64,
    /// Bytes that its device has refused so far.
    refused: u64,
    /// Transmit system calls left in a turn, and in which.
    kicks: u32,
    turn: u32,
    /// The worker's sleep would be ended by its device.
    pub(crate) watched: bool,
    /// Frames sent since the worker slept, no more than `u32::MAX`.
    pub(crate) sent: u32,
}

impl Slot {
    /// Bytes of frames that the device has refused since the last time.
    #[cold]
    fn newly_refused(&mut self) -> u64 {
        let refused = self.port.counters().tx_refused_bytes;
        refused - std::mem::replace(&mut self.refused, refused)
    }

    /// The worker is about to sleep.
    pub(crate) fn doze(&mut self) {
        self.port.doze(!self.outbox.is_empty());
    }

    /// What is left to do for the port and nothing announces.
    pub(crate) fn owed(&self) -> Owed {
        let short = self.unfinished || self.port.starved();
        match short || self.port.pending() > 0 {
            // Nobody waits for a device that is down.
            true if short && self.port.link() == Link::Up => Owed::Frames,
            true => Owed::Chunks,
            false => Owed::Nothing,
        }
    }
}

/// Ports by id, peers, and the memory and counters that sending needs.
pub(crate) struct Outlets {
    pub(crate) me: WorkerId,
    pub(crate) slots: Vec<Slot>,
    /// Place of each port among the slots.
    index: Box<[u16]>,
    touched: Vec<u16>,
    /// Ports whose descriptors alone tell that frames wait.
    announcers: Announcers,
    /// Ports that take TCP superframes now.
    pub(crate) superframes: PortSet,
    pub(crate) peers: Peers,
    pub(crate) pool: Pool,
    pub(crate) counters: Arc<WorkerCounters>,
    /// Most transmit system calls for a port in a turn.
    kicks: u32,
    /// The turn's number, to know what a slot has left of it.
    turn: u32,
}

const NOWHERE: u16 = u16::MAX;
const _: () = assert!(MAX_PORTS < NOWHERE as usize);

impl Outlets {
    pub(crate) fn new(
        me: WorkerId,
        peers: Peers,
        counters: Arc<WorkerCounters>,
        kicks: u32,
    ) -> Outlets {
        Outlets {
            me,
            slots: Vec::new(),
            index: vec![NOWHERE; MAX_PORTS].into(),
            touched: Vec::new(),
            announcers: Announcers::default(),
            superframes: PortSet::default(),
            peers,
            pool: Pool::new(me),
            counters,
            kicks: kicks.max(1),
            turn: 0,
        }
    }

    /// Every port may be kicked again, and those are asked that would not tell.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let (index, slots) = (&self.index, &mut self.slots);
        self.announcers.ask(|id| {
            let at = index.get(id.index()).map_or(NOWHERE, |at| *at);
            if let Some(slot) = slots.get_mut(usize::from(at)) {
                slot.port.announce();
            }
        });
    }

    /// Takes over a port that has not received yet.
    ///
    /// # Errors
    /// When it cannot be asked whether frames wait.
    pub(crate) fn add(&mut self, id: PortId, port: Port) -> io::Result<()> {
        if let Some(fd) = port.announcer() {
            self.announcers.add(id, fd)?;
        }
        self.index[id.index()] = self.slots.len() as u16;
        let abroad = self.peers.spent_on(id);
        self.superframes.set(id, port.takes_superframes());
        self.slots.push(Slot {
            id,
            caps: port.caps(),
            backlog: port.backlog(),
            outbox: VecDeque::with_capacity(port.backlog() as usize),
            waiting: (0, 0),
            port,
            balance: Balance::default(),
            touched: false,
            unfinished: true,
            fed_by: id,
            abroad,
            refused: 0,
            kicks: self.kicks,
            turn: self.turn,
            watched: true,
            sent: 0,
        });
        self.touched.reserve(self.slots.len());
        Ok(())
    }

    /// Gives a port up; frames that wait for it are dropped.
    pub(crate) fn remove(&mut self, id: PortId) -> Option<Closed> {
        let at = self.at(id)?;
        let mut slot = self.slots.swap_remove(at);
        self.superframes.set(id, false);
        self.index[id.index()] = NOWHERE;
        if let Some(moved) = self.slots.get(at) {
            self.index[moved.id.index()] = at as u16;
        }
        for frame in slot.outbox.drain(..) {
            self.counters.dropped(id, Reason::PortGone);
            self.pool.free(frame);
        }
        if let Some(fd) = slot.port.announcer() {
            self.announcers.remove(fd);
        }
        let last = slot.port.counters();
        let closed = slot.port.close(id, &mut self.pool);
        self.counters.device_closed(id, &last);
        Some(closed)
    }

    #[inline]
    pub(crate) fn at(&self, id: PortId) -> Option<usize> {
        match *self.index.get(id.index())? {
            NOWHERE => None,
            at => Some(at.into()),
        }
    }

    /// Does what the stages decided for a packet.
    #[inline]
    pub(crate) fn dispatch(&mut self, tables: &Tables, frame: Frame, meta: &Meta) {
        match meta.verdict {
            Verdict::Forward(out) => self.forward(tables, frame, meta, out),
            Verdict::Reply => self.forward(tables, frame, meta, meta.in_port),
            Verdict::Flood => self.flood(tables, frame, meta),
            Verdict::Drop(reason) => self.discard(frame, meta, reason),
            Verdict::Continue => {
                debug_assert!(false, "the stages end with a verdict");
                self.discard(frame, meta, Reason::NoRoute);
            }
        }
    }

    #[inline]
    fn forward(&mut self, tables: &Tables, frame: Frame, meta: &Meta, out: PortId) {
        if let Some(at) = self.at(out) {
            self.put(at, frame, meta);
            return;
        }
        match tables.port(out) {
            Some(port) if port.worker != self.me => self.hand_over(frame, meta, port.worker),
            Some(_) => self.discard(frame, meta, Reason::PortDown),
            None => self.discard(frame, meta, Reason::PortGone),
        }
    }

    fn hand_over(&mut self, mut frame: Frame, meta: &Meta, to: WorkerId) {
        // A packet that came from a peer goes no further: the port has moved on while it was under way.
        if frame.arena().worker() != self.me {
            return self.discard(frame, meta, Reason::PortGone);
        }
        if !self.pool.fetch(&mut frame) {
            return self.discard(frame, meta, Reason::NoMemory);
        }
        match self.peers.send(to, Packet { frame, meta: *meta }) {
            Ok(()) => self.counters.event(Event::HandoffSent, 1),
            Err(packet) => self.discard(packet.frame, meta, Reason::HandoffFull),
        }
    }

    #[inline]
    fn discard(&mut self, frame: Frame, meta: &Meta, reason: Reason) {
        self.counters.dropped(meta.in_port, reason);
        self.pool.free(frame);
    }

    /// A copy for every port the frame goes to; ports of other workers get theirs over the rings.
    fn flood(&mut self, tables: &Tables, mut frame: Frame, meta: &Meta) {
        let counters = self.counters.clone();
        if !self.pool.fetch(&mut frame) {
            return self.discard(frame, meta, Reason::NoMemory);
        }
        let packet = Packet { frame, meta: *meta };
        for copy in segment::members(tables, &counters, self.me, &packet) {
            if let Verdict::Drop(reason) = copy.verdict {
                counters.dropped(meta.in_port, reason);
                continue;
            }
            let Some(frame) = copy_beside(&mut self.pool, &packet.frame) else {
                counters.dropped(meta.in_port, Reason::NoMemory);
                continue;
            };
            counters.event(Event::Copied, 1);
            let mut meta = *meta;
            meta.verdict = copy.verdict;
            let mut packet = Packet { frame, meta };
            match segment::set_tag(&mut packet, copy.tag) {
                true => self.forward(tables, packet.frame, &packet.meta, copy.port),
                false => self.discard(packet.frame, &packet.meta, Reason::NoMemory),
            }
        }
        self.pool.free(packet.frame);
    }

    /// Puts a packet into the outbox of one of this worker's ports.
    #[inline]
    fn put(&mut self, at: usize, mut frame: Frame, meta: &Meta) {
        let slot = &mut self.slots[at];
        if slot.waiting.1 >= slot.backlog {
            return self.discard(frame, meta, Reason::TxQueueFull);
        }
        if !slot.caps.takes_lent && !self.pool.fetch(&mut frame) {
            return self.discard(frame, meta, Reason::NoMemory);
        }
        if slot.caps.joins_segments && !meta.is_sealed() {
            mark_stream(&mut frame, &meta.parsed);
        }
        // By a packet socket, whose kernel finishes checksums and reads chunks of any arena, however many.
        let stream = is_stream(&frame);
        if !stream && frame.segments() > slot.caps.max_segments {
            return self.discard(frame, meta, Reason::FrameTooLong);
        }
        let anywhere = stream || slot.caps.takes_any_arena;
        if frame.offload.partial_checksum && !stream {
            let field = frame.offload.checksum_field();
            // What a device is asked for is an Internet checksum.
            if !slot.caps.takes_partial_checksum || field.is_crc32c() {
                if !self.pool.fetch(&mut frame) {
                    return self.discard(frame, meta, Reason::NoMemory);
                }
                fill_checksum(&mut frame, field, meta);
                self.counters.event(Event::ChecksumFilled, 1);
            }
        }
        if !anywhere && !frame.is_of(slot.port.arena()) {
            let Some(copy) = self.pool.copy(&frame, slot.port.arena()) else {
                return self.discard(frame, meta, Reason::NoMemory);
            };
            self.counters.event(Event::Copied, 1);
            self.pool.free(std::mem::replace(&mut frame, copy));
        }
        if let Some(vlan) = slot.caps.vlan
            && !frame.push_tag(vlan)
        {
            return self.discard(frame, meta, Reason::NoMemory);
        }
        slot.waiting.0 += u64::from(frame.len());
        slot.waiting.1 += u32::from(frame.segments());
        slot.fed_by = meta.in_port;
        slot.outbox.push_back(frame);
        if !slot.touched {
            slot.touched = true;
            self.touched.push(at as u16);
        }
    }

    /// Sends what this burst has put into outboxes and rings.
    #[inline]
    pub(crate) fn flush_touched(&mut self) {
        while let Some(at) = self.touched.pop() {
            self.slots[at as usize].touched = false;
            self.flush(at.into());
        }
        self.peers.publish_packets();
    }

    /// Sends what waits for a port, as far as the device takes it. Returns how many frames it took.
    #[inline]
    pub(crate) fn flush(&mut self, at: usize) -> usize {
        let slot = &mut self.slots[at];
        slot.port.reclaim(&mut self.pool);
        let waiting = slot.outbox.len();
        let sent = slot
            .port
            .transmit(slot.id, &mut self.pool, &mut slot.outbox);
        let refused = match waiting - slot.outbox.len() > sent {
            true => slot.newly_refused(),
            false => 0,
        };
        keep_waiting(slot, &mut self.pool, &self.counters);
        let left = slot.outbox.iter().fold((0, 0), |(bytes, chunks), frame| {
            (
                bytes + u64::from(frame.len()),
                chunks + u32::from(frame.segments()),
            )
        });
        self.counters
            .transmitted(slot.id, sent as u64, slot.waiting.0 - left.0 - refused);
        slot.waiting = left;
        if slot.caps.joins_segments {
            self.superframes.set(slot.id, slot.port.takes_superframes());
        }
        slot.sent = slot.sent.saturating_add(sent as u32);
        if slot.turn != self.turn {
            (slot.turn, slot.kicks) = (self.turn, self.kicks);
        }
        slot.unfinished = slot.port.kick(&mut slot.kicks) || !slot.outbox.is_empty();
        sent
    }
}

/// What waits for a device does so longer than what it came in stays with the switch. It may wait in as many chunks as the port's backlog has.
#[inline]
fn keep_waiting(slot: &mut Slot, pool: &mut Pool, counters: &WorkerCounters) {
    let (mut at, mut chunks) = (0, 0);
    while let Some(frame) = slot.outbox.get_mut(at) {
        let lost = match frame.lent().is_some() && chunks >= slot.backlog {
            true => Some(Reason::TxQueueFull),
            false => (!pool.fetch(frame)).then_some(Reason::NoMemory),
        };
        let Some(reason) = lost else {
            chunks += u32::from(frame.segments());
            at += 1;
            continue;
        };
        if let Some(frame) = slot.outbox.remove(at) {
            slot.waiting.0 -= u64::from(frame.len());
            counters.dropped(slot.fed_by, reason);
            pool.free(frame);
        }
    }
}

/// A copy in the same arena.
fn copy_beside(pool: &mut Pool, frame: &Frame) -> Option<Frame> {
    let mut copy = pool.gather_beside(frame, frame.len() as usize, frame.iter())?;
    copy.offload = frame.offload;
    Some(copy)
}

/// Finishes the checksum that the sender left for its device.
#[inline]
fn fill_checksum(frame: &mut Frame, field: PartialChecksum, meta: &Meta) {
    partial::fill(field, meta.parsed.frame_len(), frame.iter_mut());
    frame.offload.partial_checksum = false;
}
