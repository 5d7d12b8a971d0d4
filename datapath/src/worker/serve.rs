// SPDX-License-Identifier: Apache-2.0
//! One turn over everything a worker receives from.
//!
//! Serving a port: receive a burst, run the stages, put each packet where its verdict says ([`super::outlets`]), send
//! what the outboxes have got and kick each of those devices while it has kicks left in this turn, and charge the port the
//! cycles all that took.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::clock::{Clock, cycles};
use super::idle::Owed;
use super::outlets::{Outlets, Slot};
use super::schedule::Quantum;
use crate::counters::Event;
use crate::events::{Misses, Refusals};
use crate::flow::{FlowTable, Fragments, Nat};
use crate::frame::{BATCH_SIZE, Batch, Packet};
use crate::ids::PortId;
use crate::port::{Caps, Closed};
use crate::stage::{self, Context, Heard, Learned, Now, RateLimiter};
use crate::tables::Tables;

/// Time that a port or peer is given each round: less than a burst takes, so that shares are exact.
const QUANTUM: Duration = Duration::from_micros(1);
/// Time between two steps of ageing.
const AGEING_STEP: Duration = Duration::from_millis(1);
/// Buckets of the flow table, bindings, and places of the FDB, looked at in a step.
const AGED_AT_ONCE: usize = 8;
/// Ports that pay for the work of other workers in a step.
const SETTLED_AT_ONCE: usize = 16;
/// Packets that a burst may add to itself (fragments).
const EXTRA: usize = 1024;

/// What the ports of other workers can do, as far as it matters here.
const NO_CAPS: Caps = Caps {
    local_sender: false,
    superframes: false,
    takes_partial_checksum: false,
    joins_segments: false,
    takes_any_arena: false,
    takes_lent: false,
    max_segments: 0,
    vlan: None,
};

/// What a worker remembers from packet to packet.
pub(super) struct Memory {
    pub(super) flows: FlowTable,
    pub(super) fragments: Fragments,
    pub(super) nat: Nat,
    pub(super) fdb: Learned,
    pub(super) icmp: RateLimiter,
    pub(super) refusals: Refusals,
    pub(super) misses: Misses,
    pub(super) heard: Heard,
}

/// Everything that moves frames.
pub(super) struct Engine {
    clock: Clock,
    pub(super) memory: Memory,
    /// Until then (nanoseconds, monotonic) connections may be joined that began earlier.
    joins_until: u64,
    batch: Batch,
    extra: Vec<Packet>,
    pub(super) outlets: Outlets,
    quantum: Quantum,
    /// The port that is looked after next.
    cared_for: usize,
    aged: u64,
    /// The port that paid last for what other workers did.
    settled: usize,
}

impl Engine {
    pub(super) fn new(clock: Clock, memory: Memory, joins_until: u64, outlets: Outlets) -> Engine {
        Engine {
            clock,
            memory,
            joins_until,
            batch: Batch::new(),
            extra: Vec::with_capacity(EXTRA),
            outlets,
            quantum: Quantum::new(clock.cycles(QUANTUM)),
            cared_for: 0,
            aged: 0,
            settled: 0,
        }
    }

    /// One turn that began at `now` (cycles); whether there was anything to do.
    pub(super) fn turn(&mut self, tables: &Tables, mut now: u64) -> bool {
        let began = now;
        self.outlets.begin_turn();
        let served = self.round(tables, &mut now);
        let outlets = &mut self.outlets;
        outlets.peers.exchange_frames(&mut outlets.pool);
        let finished = self.finish(&mut now);
        if began.wrapping_sub(self.aged) > self.clock.cycles(AGEING_STEP) {
            self.aged = began;
            self.age(tables, began);
        }
        self.care();
        served | finished
    }

    /// A round of service; `now` moves on to its end. When all who have work are in debt, it adds what the smallest of
    /// these debts needs and goes around again.
    fn round(&mut self, tables: &Tables, now: &mut u64) -> bool {
        if self.serve_all(tables, 1, now) {
            return true;
        }
        match self.smallest_debt() {
            Some(rounds) => self.serve_all(tables, rounds, now),
            None => false,
        }
    }

    /// Adds quanta to every balance and serves whose is positive.
    fn serve_all(&mut self, tables: &Tables, rounds: i64, now: &mut u64) -> bool {
        let quantum = self.quantum;
        let mut served = false;
        for at in 0..self.outlets.slots.len() {
            let slot = &mut self.outlets.slots[at];
            if quantum.begin(&mut slot.balance, rounds) && slot.port.has_work() {
                served |= self.serve_port(tables, at, now);
            }
        }
        for at in 0..self.outlets.peers.0.len() {
            let peer = &mut self.outlets.peers.0[at];
            if quantum.begin(&mut peer.balance, rounds) && peer.incoming.has_packets() {
                served |= self.serve_peer(tables, at, now);
            }
        }
        served
    }

    /// Rounds until the first of those who have work and may not be served may be.
    fn smallest_debt(&mut self) -> Option<i64> {
        let quantum = self.quantum;
        let ports = self.outlets.slots.iter();
        let ports = ports
            .filter(|s| s.balance.is_debt() && s.port.has_work())
            .map(|s| s.balance);
        let peers = self.outlets.peers.0.iter_mut();
        let peers = peers
            .filter_map(|p| (p.balance.is_debt() && p.incoming.has_packets()).then_some(p.balance));
        ports.chain(peers).map(|b| quantum.rounds_left(b)).min()
    }

    fn serve_port(&mut self, tables: &Tables, at: usize, now: &mut u64) -> bool {
        let outlets = &mut self.outlets;
        let slot = &mut outlets.slots[at];
        let (id, caps) = (slot.id, slot.caps);
        let n = slot
            .port
            .receive(id, &mut outlets.pool, &mut self.batch, BATCH_SIZE);
        slot.port.reclaim(&mut outlets.pool);
        if n > 0 {
            let bytes = self.batch.iter().map(|p| u64::from(p.frame.len())).sum();
            outlets.counters.received(id, n as u64, bytes);
            self.decide(tables, caps, *now, stage::run);
            self.dispatch(tables);
        }
        let outlets = &mut self.outlets;
        // What is no frame is work, too.
        let released = outlets.slots[at].port.release(&mut outlets.pool);
        if n == 0 && !released {
            return false;
        }
        let cost = self.lap(now);
        let slot = &mut self.outlets.slots[at];
        let charged = self.quantum.charge(&mut slot.balance, cost);
        self.outlets.counters.spent(id, charged);
        true
    }

    fn serve_peer(&mut self, tables: &Tables, at: usize, now: &mut u64) -> bool {
        let outlets = &mut self.outlets;
        let incoming = &mut outlets.peers.0[at].incoming;
        let mut from = [PortId(0); BATCH_SIZE];
        let mut n = 0;
        while n < from.len()
            && self.batch.room() > 0
            && let Some(packet) = incoming.receive()
        {
            from[n] = packet.meta.in_port;
            // There is room.
            let _ = self.batch.push_packet(packet);
            n += 1;
        }
        let from = &from[..n];
        outlets.counters.event(Event::HandoffReceived, n as u64);
        self.decide(tables, NO_CAPS, *now, stage::run_handoff);
        self.dispatch(tables);
        let cost = self.lap(now);
        let outlets = &mut self.outlets;
        let charged = self.quantum.charge(&mut outlets.peers.0[at].balance, cost);
        for run in from.chunk_by(PartialEq::eq) {
            let share = charged * run.len() as u64 / n as u64;
            outlets.counters.spent(run[0], share);
        }
        n > 0
    }

    /// Has some ports pay for what other workers have spent on their frames, so that it costs a port the same wherever its
    /// frames go.
    fn settle_abroad(&mut self) {
        let outlets = &mut self.outlets;
        if outlets.peers.0.is_empty() {
            return;
        }
        for _ in 0..outlets.slots.len().min(SETTLED_AT_ONCE) {
            self.settled = (self.settled + 1) % outlets.slots.len();
            let slot = &mut outlets.slots[self.settled];
            let abroad = outlets.peers.spent_on(slot.id);
            let cost = abroad.wrapping_sub(std::mem::replace(&mut slot.abroad, abroad));
            self.quantum.charge(&mut slot.balance, cost);
        }
    }

    /// Takes what peers have sent so far, whoever's turn it is.
    pub(super) fn drain_peers(&mut self, tables: &Tables) {
        let mut now = cycles();
        for at in 0..self.outlets.peers.0.len() {
            let bursts = self.outlets.peers.0[at].capacity / BATCH_SIZE + 1;
            for _ in 0..bursts {
                if !self.serve_peer(tables, at, &mut now) {
                    break;
                }
            }
        }
    }

    /// Cycles since `now`, which moves on.
    #[inline]
    fn lap(&self, now: &mut u64) -> u64 {
        let before = std::mem::replace(now, cycles());
        now.wrapping_sub(before)
    }

    #[inline]
    fn decide(
        &mut self,
        tables: &Tables,
        caps: Caps,
        now: u64,
        stages: fn(&mut Context<'_>, &mut Batch),
    ) {
        let now = Now(self.clock.monotonic(now));
        let memory = &mut self.memory;
        let mut context = Context {
            tables,
            counters: &self.outlets.counters,
            flows: &mut memory.flows,
            fragments: &mut memory.fragments,
            nat: &mut memory.nat,
            fdb: &mut memory.fdb,
            icmp: &mut memory.icmp,
            refusals: &mut memory.refusals,
            misses: &mut memory.misses,
            heard: &mut memory.heard,
            pool: &mut self.outlets.pool,
            superframes: &self.outlets.superframes,
            extra: &mut self.extra,
            now,
            me: self.outlets.me,
            caps,
            joins: now.0 < self.joins_until,
        };
        stages(&mut context, &mut self.batch);
    }

    /// Puts the burst and what it added where their verdicts say, and sends it.
    #[inline]
    fn dispatch(&mut self, tables: &Tables) {
        let outlets = &mut self.outlets;
        self.batch
            .take_each(|frame, meta| outlets.dispatch(tables, frame, meta));
        for packet in self.extra.drain(..) {
            outlets.dispatch(tables, packet.frame, &packet.meta);
        }
        self.outlets.flush_touched();
    }

    /// Goes on with ports whose device did not take all; who filled them pays.
    fn finish(&mut self, now: &mut u64) -> bool {
        let mut moved = false;
        for at in 0..self.outlets.slots.len() {
            let slot = &self.outlets.slots[at];
            if !slot.unfinished {
                continue;
            }
            let (by, pending) = (slot.fed_by, slot.port.pending());
            let sent = self.outlets.flush(at);
            moved |= sent > 0 || self.outlets.slots[at].port.pending() != pending;
            let cost = self.lap(now);
            // A port of another worker pays at home.
            let charged = match self.outlets.at(by) {
                Some(at) => {
                    let payer = &mut self.outlets.slots[at];
                    self.quantum.charge(&mut payer.balance, cost)
                }
                None => cost,
            };
            self.outlets.counters.spent(by, charged);
        }
        moved
    }

    fn age(&mut self, tables: &Tables, now: u64) {
        let now = Now(self.clock.monotonic(now));
        let memory = &mut self.memory;
        memory.flows.age(now.millis(), AGED_AT_ONCE);
        memory.fragments.age(now.millis());
        let nat = &mut memory.nat;
        nat.age(&memory.flows, now.millis(), AGED_AT_ONCE);
        memory
            .fdb
            .age(tables, now, AGED_AT_ONCE, &self.outlets.counters);
        self.publish_sizes();
        self.settle_abroad();
    }

    /// Says how full the worker's own tables are.
    fn publish_sizes(&self) {
        let counters = &self.outlets.counters;
        let flows = &self.memory.flows;
        counters.holds(flows.len(), flows.live(), self.memory.fdb.len());
    }

    /// The port that was looked after last.
    #[inline]
    pub(super) fn cared_for(&mut self) -> Option<&mut Slot> {
        self.outlets.slots.get_mut(self.cared_for.checked_sub(1)?)
    }

    /// Looks after one port: chunks back and forth, and what its device has counted.
    #[inline]
    fn care(&mut self) {
        if self.cared_for >= self.outlets.slots.len() {
            self.cared_for = 0;
        }
        if !self.outlets.slots.is_empty() {
            self.care_for(self.cared_for);
            self.cared_for += 1;
        }
    }

    fn care_for(&mut self, at: usize) {
        let outlets = &mut self.outlets;
        let slot = &mut outlets.slots[at];
        slot.port.reclaim(&mut outlets.pool);
        let (counters, link) = (slot.port.counters(), slot.port.link());
        outlets.counters.device(slot.id, &counters, link);
    }

    /// Looks after every port before sleeping, and says what will be left to do that nothing announces.
    pub(super) fn settle(&mut self) -> Owed {
        self.publish_sizes();
        let mut owed = Owed::Nothing;
        for at in 0..self.outlets.slots.len() {
            self.care_for(at);
            let slot = &self.outlets.slots[at];
            owed = owed.max(slot.owed());
        }
        owed
    }

    /// Time until a port has frames that no descriptor announces.
    pub(super) fn due_in(&self) -> Option<Duration> {
        self.outlets
            .slots
            .iter()
            .filter_map(|s| s.port.due_in())
            .min()
    }

    /// Whether a port or a peer has something.
    pub(super) fn has_work(&mut self) -> bool {
        self.outlets.peers.have_work() || self.outlets.slots.iter().any(|s| s.port.has_work())
    }

    /// Forgets what was learned behind a port, and gives the port up.
    pub(super) fn remove_port(&mut self, id: PortId) -> Option<Closed> {
        self.memory.fdb.forget_port(id);
        self.outlets.remove(id)
    }
}
