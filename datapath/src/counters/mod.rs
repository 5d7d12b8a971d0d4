// SPDX-License-Identifier: Apache-2.0
//! Counters of one worker: written by that worker alone, read by control at any time.
//!
//! A counter is an `AtomicU64` that its one writer changes with a load and a store, both relaxed: no locked instruction
//! on the frame path, and a reader sees a value that was true a moment ago. Counters only grow; control takes the
//! difference when a port or rule number is used again ([`Baseline`]).
#![forbid(unsafe_code)]

mod traffic;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::{MAX_POLICY_RULES, MAX_PORTS, MAX_RULES, PolicyRuleId, PortId, RuleId};
use crate::port::{Link, PortCounters};
use crate::verdict::Reason;
use traffic::TrafficPages;

/// A counter with one writer.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    #[inline]
    fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    #[inline]
    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! events {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            /// Every one, in counter order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Stable snake_case name, as counters and metrics print it.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// One sentence for an operator.
            pub fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)* }
            }
        }
    };
}

events! {
    /// What happened in a table or a stage, other than a drop.
    Event {
        FlowHit = "flow_hit", "A packet passed by its connection's entry in the flow table.";
        FlowMiss = "flow_miss", "A packet was judged by the tables.";
        FlowInstall = "flow_install", "A connection was put into the flow table.";
        FlowRejudged = "flow_rejudged", "A connection was judged again because policy, routes or addresses changed.";
        FlowUncached = "flow_uncached", "A connection without policy found no room in the flow table and is judged packet by packet.";
        NatBound = "nat_bound", "A connection was bound to a port of the node, as which it leaves.";
        RouteLookup = "route_lookup", "A route was looked up.";
        FdbLearned = "fdb_learned", "A MAC address was learned.";
        FdbMoved = "fdb_moved", "A learned MAC address moved to another port.";
        FdbAged = "fdb_aged", "A learned MAC address aged out.";
        FdbFull = "fdb_full", "A MAC address was not learned: the segment is at its limit.";
        Flooded = "flooded", "A frame was flooded to its segment.";
        ArpReply = "arp_reply", "An ARP request was answered.";
        NdReply = "nd_reply", "A neighbor solicitation was answered.";
        EchoReply = "echo_reply", "An ICMP echo request to the gateway was answered.";
        IcmpError = "icmp_error", "An ICMP error was sent.";
        IcmpErrorLimited = "icmp_error_limited", "An ICMP error was not sent: over the rate limit.";
        ChecksumFilled = "checksum_filled", "A partial transport checksum was filled in.";
        Fragmented = "fragmented", "A packet was cut into IPv4 fragments.";
        Segmented = "segmented", "A TCP superframe of a pod in generic XDP mode was cut into segments.";
        Copied = "copied", "A frame was copied to another arena or for flooding.";
        HandoffSent = "handoff_sent", "A frame was given to another worker.";
        HandoffReceived = "handoff_received", "A frame came from another worker.";
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes of those frames, from the Ethernet header on, without FCS.
    pub bytes: u64,
}

impl Traffic {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Traffic) -> Traffic {
        Traffic {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    fn minus(self, other: Traffic) -> Traffic {
        Traffic {
            packets: self.packets.wrapping_sub(other.packets),
            bytes: self.bytes.wrapping_sub(other.bytes),
        }
    }
}

#[derive(Debug, Default)]
struct TrafficCells {
    packets: Cell,
    bytes: Cell,
}

impl TrafficCells {
    #[inline]
    fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    fn get(&self) -> Traffic {
        Traffic {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
        }
    }
}

#[derive(Debug)]
struct PortCells {
    rx: TrafficCells,
    tx: TrafficCells,
    cycles: Cell,
    drops: [Cell; Reason::COUNT],
    device: [Cell; PortCounters::FIELDS],
    link: Cell,
}

impl PortCells {
    fn new() -> Box<PortCells> {
        Box::new(PortCells {
            rx: TrafficCells::default(),
            tx: TrafficCells::default(),
            cycles: Cell::default(),
            drops: std::array::from_fn(|_| Cell::default()),
            device: std::array::from_fn(|_| Cell::default()),
            link: Cell::default(),
        })
    }
}

/// The counters of one worker. Its methods that change a counter are for that worker's thread.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[OnceLock<Box<PortCells>>]>,
    drops: [Cell; Reason::COUNT],
    rules: TrafficPages,
    policy_rules: TrafficPages,
    events: [Cell; Event::COUNT],
    flows: Cell,
    connections: Cell,
    learned: Cell,
}

impl Default for WorkerCounters {
    fn default() -> WorkerCounters {
        WorkerCounters::new()
    }
}

impl WorkerCounters {
    /// All zero, with room for no port and no rule yet.
    pub fn new() -> WorkerCounters {
        WorkerCounters {
            ports: (0..MAX_PORTS).map(|_| OnceLock::new()).collect(),
            drops: std::array::from_fn(|_| Cell::default()),
            rules: TrafficPages::new(MAX_RULES),
            policy_rules: TrafficPages::new(MAX_POLICY_RULES),
            events: std::array::from_fn(|_| Cell::default()),
            flows: Cell::default(),
            connections: Cell::default(),
            learned: Cell::default(),
        }
    }

    /// Makes room for a port; control does it before a worker hears of the port, so that the frame path never
    /// allocates. What is counted for a port without room appears in the totals only.
    pub fn prepare_port(&self, port: PortId) {
        if let Some(slot) = self.ports.get(port.index()) {
            slot.get_or_init(PortCells::new);
        }
    }

    /// Makes room for a rule; as [`WorkerCounters::prepare_port`].
    pub fn prepare_rule(&self, rule: RuleId) {
        self.rules.prepare(rule.index());
    }

    /// Makes room for a policy rule; as [`WorkerCounters::prepare_port`].
    pub fn prepare_policy_rule(&self, rule: PolicyRuleId) {
        self.policy_rules.prepare(rule.index());
    }

    #[inline]
    fn port(&self, port: PortId) -> Option<&PortCells> {
        self.ports.get(port.index())?.get().map(Box::as_ref)
    }

    /// Frames that came in by a port.
    #[inline]
    pub fn received(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(cells) = self.port(port) {
            cells.rx.add(packets, bytes);
        }
    }

    /// Frames that went out by a port.
    #[inline]
    pub fn transmitted(&self, port: PortId, packets: u64, bytes: u64) {
        if let Some(cells) = self.port(port) {
            cells.tx.add(packets, bytes);
        }
    }

    /// A frame of `port` (the port it came from) was dropped.
    #[inline]
    pub fn dropped(&self, port: PortId, reason: Reason) {
        self.drops[reason.index()].add(1);
        if let Some(cells) = self.port(port) {
            cells.drops[reason.index()].add(1);
        }
    }

    /// TSC cycles spent on behalf of a port.
    #[inline]
    pub fn spent(&self, port: PortId, cycles: u64) {
        if let Some(cells) = self.port(port) {
            cells.cycles.add(cycles);
        }
    }

    /// What was spent so far on behalf of a port.
    pub fn spent_on(&self, port: PortId) -> u64 {
        self.port(port).map_or(0, |cells| cells.cycles.get())
    }

    /// A rule decided over a packet.
    #[inline]
    pub fn judged(&self, rule: RuleId, bytes: u64) {
        self.rules.add(rule.index(), bytes);
    }

    /// A policy rule decided over a connection: let one begin, or denied a packet that would have begun one.
    #[inline]
    pub fn judged_by_policy(&self, rule: PolicyRuleId, bytes: u64) {
        self.policy_rules.add(rule.index(), bytes);
    }

    /// Something happened `n` times.
    #[inline]
    pub fn event(&self, event: Event, n: u64) {
        self.events[event as usize].add(n);
    }

    /// How many entries its flow table has now, how many of those are of connections that are not over, and how many
    /// learned MAC addresses it has.
    pub fn holds(&self, flows: usize, connections: usize, learned: usize) {
        self.flows.set(flows as u64);
        self.connections.set(connections as u64);
        self.learned.set(learned as u64);
    }

    /// Connections of its flow table that are not over, of a moment ago.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// What the device counted since it was opened, and whether it can be used.
    pub fn device(&self, port: PortId, counters: &PortCounters, link: Link) {
        if let Some(cells) = self.port(port) {
            cells.link.set(link as u64);
            for (cell, value) in cells.device.iter().zip(counters.to_array()) {
                cell.set(value);
            }
        }
    }

    /// The device is closed: its drops stay counted, the rest of its counters begin at zero again.
    pub fn device_closed(&self, port: PortId, last: &PortCounters) {
        self.device(port, &PortCounters::default(), Link::Up);
        for (reason, n) in last.drops() {
            self.drops[reason.index()].add(n);
            if let Some(cells) = self.port(port) {
                cells.drops[reason.index()].add(n);
            }
        }
    }

    /// Reads one rule's.
    pub fn rule(&self, rule: RuleId) -> Traffic {
        self.rules.get(rule.index())
    }

    /// Reads one policy rule's.
    pub fn policy_rule(&self, rule: PolicyRuleId) -> Traffic {
        self.policy_rules.get(rule.index())
    }

    /// Reads everything.
    pub fn snapshot(&self) -> Counters {
        let mut all = Counters::default();
        all.add(self);
        all
    }
}

/// One port's counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortStats {
    /// Came in.
    pub rx: Traffic,
    /// Went out.
    pub tx: Traffic,
    /// TSC cycles spent on frames that came in by it.
    pub cycles: u64,
    /// Dropped frames that came in by it, by [`Reason::index`].
    pub drops: [u64; Reason::COUNT],
    /// What the device itself counted.
    pub device: PortCounters,
    /// Whether it can be used, as far as its worker knows.
    pub link: Link,
}

impl Default for PortStats {
    fn default() -> PortStats {
        PortStats {
            rx: Traffic::default(),
            tx: Traffic::default(),
            cycles: 0,
            drops: [0; Reason::COUNT],
            device: PortCounters::default(),
            link: Link::Up,
        }
    }
}

impl PortStats {
    /// Adds one worker's cells and returns the drops that only the device has counted so far.
    fn add(&mut self, cells: &PortCells) -> [(Reason, u64); PortCounters::DROPS] {
        self.rx = self.rx.plus(cells.rx.get());
        self.tx = self.tx.plus(cells.tx.get());
        self.cycles = self.cycles.wrapping_add(cells.cycles.get());
        for (sum, cell) in self.drops.iter_mut().zip(&cells.drops) {
            *sum = sum.wrapping_add(cell.get());
        }
        let device = PortCounters::from_array(std::array::from_fn(|i| cells.device[i].get()));
        let drops = device.drops();
        add_drops(&mut self.drops, drops);
        self.device = self.device.plus(&device);
        let link = match cells.link.get() {
            0 => Link::Up,
            1 => Link::Down,
            _ => Link::Gone,
        };
        self.link = self.link.max(link);
        drops
    }

    fn since(&self, before: &PortStats) -> PortStats {
        PortStats {
            rx: self.rx.minus(before.rx),
            tx: self.tx.minus(before.tx),
            cycles: self.cycles.wrapping_sub(before.cycles),
            drops: std::array::from_fn(|i| self.drops[i].wrapping_sub(before.drops[i])),
            device: self.device,
            link: self.link,
        }
    }

    /// Frames dropped for a reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops[reason.index()]
    }

    /// Frames dropped for any reason.
    pub fn dropped_all(&self) -> u64 {
        self.drops.iter().sum()
    }
}

fn add_drops(sums: &mut [u64; Reason::COUNT], drops: [(Reason, u64); PortCounters::DROPS]) {
    for (reason, n) in drops {
        sums[reason.index()] = sums[reason.index()].wrapping_add(n);
    }
}

/// Counters of one worker, or the sum over several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// By port; ports that were never prepared are absent.
    pub ports: BTreeMap<PortId, PortStats>,
    /// Dropped frames by [`Reason::index`], of ports that are gone too.
    pub drops: [u64; Reason::COUNT],
    /// By rule; rules that never matched are absent.
    pub rules: BTreeMap<RuleId, Traffic>,
    /// By policy rule: what it let begin, or denied; rules that never decided are absent.
    pub policy_rules: BTreeMap<PolicyRuleId, Traffic>,
    /// By `Event as usize`.
    pub events: [u64; Event::COUNT],
    /// Entries of the flow tables, of a moment ago; those of connections that are over included.
    pub flows: u64,
    /// MAC addresses that the workers have learned, each for itself, of a moment ago.
    pub learned: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            ports: BTreeMap::new(),
            drops: [0; Reason::COUNT],
            rules: BTreeMap::new(),
            policy_rules: BTreeMap::new(),
            events: [0; Event::COUNT],
            flows: 0,
            learned: 0,
        }
    }
}

impl Counters {
    /// Adds what a worker has counted.
    pub fn add(&mut self, worker: &WorkerCounters) {
        for (i, slot) in worker.ports.iter().enumerate() {
            if let Some(cells) = slot.get() {
                let port = self.ports.entry(PortId(i as u16)).or_default();
                let device = port.add(cells);
                add_drops(&mut self.drops, device);
            }
        }
        for (sum, cell) in self.drops.iter_mut().zip(&worker.drops) {
            *sum = sum.wrapping_add(cell.get());
        }
        for (rule, traffic) in worker.rules.iter() {
            let sum = self.rules.entry(RuleId(rule)).or_default();
            *sum = sum.plus(traffic);
        }
        for (rule, traffic) in worker.policy_rules.iter() {
            let sum = self.policy_rules.entry(PolicyRuleId(rule)).or_default();
            *sum = sum.plus(traffic);
        }
        for (sum, cell) in self.events.iter_mut().zip(&worker.events) {
            *sum = sum.wrapping_add(cell.get());
        }
        self.flows += worker.flows.get();
        self.learned += worker.learned.get();
    }

    /// Frames dropped for a reason, of all ports.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops[reason.index()]
    }

    /// How often an event happened.
    pub fn event(&self, event: Event) -> u64 {
        self.events[event as usize]
    }
}

/// What had been counted for a port or rule number when it was last given out; numbers are used again, counters never
/// go back.
#[derive(Debug, Default)]
pub struct Baseline {
    ports: BTreeMap<PortId, PortStats>,
    rules: BTreeMap<RuleId, Traffic>,
    policy_rules: BTreeMap<PolicyRuleId, Traffic>,
}

impl Baseline {
    /// `port` begins anew; what `workers` have counted under its number is not its own.
    pub fn begin_port<'a>(
        &mut self,
        port: PortId,
        workers: impl IntoIterator<Item = &'a WorkerCounters>,
    ) {
        let mut before = PortStats::default();
        for worker in workers {
            if let Some(cells) = worker.port(port) {
                before.add(cells);
            }
        }
        self.ports.insert(port, before);
    }

    /// `port` is gone: [`Baseline::apply`] leaves it out.
    pub fn end_port(&mut self, port: PortId) {
        self.ports.remove(&port);
    }

    /// `rule` begins anew; as [`Baseline::begin_port`].
    pub fn begin_rule<'a>(
        &mut self,
        rule: RuleId,
        workers: impl IntoIterator<Item = &'a WorkerCounters>,
    ) {
        let before = workers
            .into_iter()
            .fold(Traffic::default(), |sum, w| sum.plus(w.rule(rule)));
        self.rules.insert(rule, before);
    }

    /// `rule` begins anew; as [`Baseline::begin_port`].
    pub fn begin_policy_rule<'a>(
        &mut self,
        rule: PolicyRuleId,
        workers: impl IntoIterator<Item = &'a WorkerCounters>,
    ) {
        let before = workers
            .into_iter()
            .fold(Traffic::default(), |sum, w| sum.plus(w.policy_rule(rule)));
        self.policy_rules.insert(rule, before);
    }

    /// Makes `counters` count since each number was given out; ports that are not in use are left out.
    pub fn apply(&self, counters: &mut Counters) {
        counters.ports.retain(|id, stats| {
            let before = self.ports.get(id);
            if let Some(before) = before {
                *stats = stats.since(before);
            }
            before.is_some()
        });
        for (id, before) in &self.rules {
            if let Some(traffic) = counters.rules.get_mut(id) {
                *traffic = traffic.minus(*before);
            }
        }
        counters.rules.retain(|_, traffic| traffic.packets > 0);
        for (id, before) in &self.policy_rules {
            if let Some(traffic) = counters.policy_rules.get_mut(id) {
                *traffic = traffic.minus(*before);
            }
        }
        counters.policy_rules.retain(|_, t| t.packets > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PortId = PortId(7);
    const R: RuleId = RuleId(2050);

    #[test]
    fn counts_by_port_reason_rule_and_event() {
        let c = WorkerCounters::new();
        c.prepare_port(P);
        c.prepare_rule(R);
        c.received(P, 2, 120);
        c.transmitted(P, 1, 60);
        c.dropped(P, Reason::NoRoute);
        c.dropped(P, Reason::NoRoute);
        c.spent(P, 99);
        c.judged(R, 60);
        c.event(Event::FlowMiss, 2);
        let s = c.snapshot();
        let port = &s.ports[&P];
        assert_eq!((port.rx.packets, port.rx.bytes), (2, 120));
        assert_eq!((port.tx.packets, port.tx.bytes), (1, 60));
        assert_eq!(port.dropped(Reason::NoRoute), 2);
        assert_eq!(port.dropped_all(), 2);
        assert_eq!(port.cycles, 99);
        assert_eq!(
            s.rules[&R],
            Traffic {
                packets: 1,
                bytes: 60
            }
        );
        assert_eq!(s.event(Event::FlowMiss), 2);
        assert_eq!(s.dropped(Reason::NoRoute), 2);
    }

    #[test]
    fn unknown_ports_count_in_the_totals_only() {
        let c = WorkerCounters::new();
        c.dropped(PortId(u16::MAX), Reason::PortGone);
        c.dropped(P, Reason::PortGone);
        c.received(P, 1, 1);
        c.judged(RuleId(u32::MAX), 1);
        c.prepare_port(PortId(u16::MAX));
        c.prepare_rule(RuleId(u32::MAX));
        let s = c.snapshot();
        assert!(s.ports.is_empty() && s.rules.is_empty());
        assert_eq!(s.dropped(Reason::PortGone), 2);
    }

    #[test]
    fn sums_over_workers_and_counts_from_a_baseline() {
        let (a, b) = (WorkerCounters::new(), WorkerCounters::new());
        for c in [&a, &b] {
            c.prepare_port(P);
            c.prepare_rule(R);
            c.received(P, 1, 100);
            c.dropped(P, Reason::NoMemory);
            c.judged(R, 10);
        }
        let sum = |base: &Baseline| {
            let mut s = a.snapshot();
            s.add(&b);
            base.apply(&mut s);
            s
        };
        let mut base = Baseline::default();
        assert!(sum(&base).ports.is_empty(), "not given out");
        base.begin_port(P, []);
        assert_eq!(sum(&base).ports[&P].rx.packets, 2);
        base.begin_port(P, [&a, &b]);
        base.begin_rule(R, [&a, &b]);
        b.received(P, 5, 500);
        a.judged(R, 11);
        let s = sum(&base);
        assert_eq!(
            s.ports[&P].rx,
            Traffic {
                packets: 5,
                bytes: 500
            }
        );
        assert_eq!(s.ports[&P].dropped_all(), 0);
        assert_eq!(
            s.rules[&R],
            Traffic {
                packets: 1,
                bytes: 11
            }
        );
        assert_eq!(s.dropped(Reason::NoMemory), 2);
        base.end_port(P);
        assert!(sum(&base).ports.is_empty());
    }

    #[test]
    fn what_workers_hold_is_added_up_and_replaced() {
        let (a, b) = (WorkerCounters::new(), WorkerCounters::new());
        a.holds(9, 9, 9);
        a.holds(3, 2, 1);
        b.holds(4, 4, 0);
        assert_eq!((a.connections(), b.connections()), (2, 4));
        let mut s = a.snapshot();
        s.add(&b);
        assert_eq!((s.flows, s.learned), (7, 1));
    }

    #[test]
    fn device_counters_replace_and_add_their_drops() {
        let c = WorkerCounters::new();
        c.prepare_port(P);
        let device = PortCounters {
            kicks: 3,
            fault_injected: 4,
            ..PortCounters::default()
        };
        c.device(P, &device, Link::Up);
        c.device(P, &device, Link::Gone);
        let s = c.snapshot();
        assert_eq!(s.ports[&P].device, device);
        assert_eq!(s.ports[&P].link, Link::Gone);
        assert_eq!(s.ports[&P].dropped(Reason::FaultInjected), 4);
        assert_eq!(s.dropped(Reason::FaultInjected), 4);
        c.device_closed(P, &device);
        let s = c.snapshot();
        assert_eq!(s.ports[&P].device, PortCounters::default());
        assert_eq!(s.ports[&P].link, Link::Up);
        assert_eq!(s.ports[&P].dropped(Reason::FaultInjected), 4);
        assert_eq!(s.dropped(Reason::FaultInjected), 4);
    }

    #[test]
    fn event_names_are_unique() {
        let names: std::collections::HashSet<_> = Event::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), Event::COUNT);
    }
}
