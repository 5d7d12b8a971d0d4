// SPDX-License-Identifier: Apache-2.0
//! What happens to a packet: one decision a file, in this order.
//!
//! | stage | decides | where |
//! |---|---|---|
//! | [`wire::parse`](crate::wire::parse()) and [`trim`] | what it is; malformed ones end | worker of the port it came from |
//! | [`source`] | whether it wears the sender's own addresses | 〃 |
//! | destination MAC | the gateway's, or a group's (ARP, ND); others end | 〃 |
//! | [`service`] | which backend serves what goes to a service | 〃 |
//! | flow table | known flow: skip to the way out | 〃 |
//! | [`local`] | ARP, ND and echo for the gateway are answered; groups end | 〃 |
//! | [`policy`] egress | may the sender send it | 〃 |
//! | [`route`] | where to | 〃 |
//! | way out | TTL, MTU; what cannot go on is answered ([`icmp_error`]) or cut ([`fragment`], [`superframe`]) | 〃 |
//! | [`policy`] ingress | may the receiver have it | worker of the port it leaves by |
//! | [`rewrite`] | MAC addresses, TTL | worker of the port it came from |
//! | [`nat`], [`hairpin`] | what leaves as the node's own | 〃 |
//! | [`tunnel`] | outer headers of what leaves by a tunnel | 〃 |
//!
//! What comes from beyond this node by an uplink or tunnel is looked at by [`outside`] instead of [`source`]: unwrapped if it came through a tunnel, and let in only from
//! where its sender is.
//!
//! Frames of L2 ports go through `wire::parse`, [`source`] and [`segment`], which switches by MAC address and asks
//! [`policy`] too. A frame that leaves by another worker's port is given to that worker rewritten, and judged for
//! ingress there ([`run_handoff`]). TTL and MTU come before ingress policy so that it makes no difference how many
//! workers there are.
//!
//! A packet is known by its flow under one generation of the tables. Later fragments have no ports and are judged each
//! time; what ends at the switch is never in the flow table.
#![forbid(unsafe_code)]

mod connection;
mod explain;
mod fragment;
mod hairpin;
mod heard;
mod icmp_error;
mod limit;
mod local;
mod nat;
mod outside;
mod path_mtu;
mod policy;
mod related;
mod rewrite;
mod route;
pub mod segment;
mod service;
mod source;
mod superframe;
mod trim;
mod tunnel;

pub use explain::{By, Explained, Said, explain};
pub use heard::Heard;
pub use limit::{Rate, RateLimiter};
pub use segment::{Learned, LearnedEntry};
use source::Own;

use crate::counters::{Event, WorkerCounters};
use crate::events::{Misses, Refusals};
use crate::flow::{Candidate, Conversation, FlowTable, Found, Fragments, Nat};
use crate::frame::{BATCH_SIZE, Batch, Course, Meta, Packet, Pool};
use crate::ids::{PortSet, WorkerId};
use crate::port::Caps;
use crate::tables::{Adjacency, Direction, PortEntry, PortKind, Tables};
use crate::verdict::{Reason, Verdict};
use crate::wire::Fragment;
use crate::wire::eth::EthernetHeader;
use crate::wire::icmp_error::IcmpError;
use crate::wire::parse::{parse_any, parse_plain_ipv4, parse_plain_ipv6};
use connection::{Outcome, Passage};

/// Monotonic time, nanoseconds; read once a burst. From the same clock as long as the flow memory lives
/// (CLOCK_MONOTONIC).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Now(pub u64);

impl Now {
    /// Milliseconds; wraps around after 49 days. The unit of the flow table's and the FDB's times.
    #[inline]
    pub fn millis(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }
}

/// What the stages work with: the worker's own things, and the tables of this turn.
pub struct Context<'a> {
    /// Tables.
    pub tables: &'a Tables,
    /// Counters.
    pub counters: &'a WorkerCounters,
    /// Connections.
    pub flows: &'a mut FlowTable,
    /// First fragments.
    pub fragments: &'a mut Fragments,
    /// By what others know ends of connections.
    pub nat: &'a mut Nat,
    /// Samples of what was refused.
    pub refusals: &'a mut Refusals,
    /// Neighbors that packets could not leave for.
    pub misses: &'a mut Misses,
    /// Tunnels heard of late.
    pub heard: &'a mut Heard,
    /// Learned MAC addresses and the segments' flood limits.
    pub fdb: &'a mut Learned,
    /// Limit of ICMP errors.
    pub icmp: &'a mut RateLimiter,
    /// Free chunks.
    pub pool: &'a mut Pool,
    /// Ports of this worker that take TCP superframes longer than their MTU.
    pub superframes: &'a PortSet,
    /// Packets that came to be here (fragments); dispatched after the batch, in order. Never grown: it takes as many
    /// as it has capacity.
    pub extra: &'a mut Vec<Packet>,
    /// Time of this burst.
    pub now: Now,
    /// The worker.
    pub me: WorkerId,
    /// What the port that the batch came from can do; of no matter for a handoff.
    pub caps: Caps,
    /// Connections that began before the flow table did may be joined, where policy allows new ones: after a restart.
    pub joins: bool,
}

/// How many packets ahead headers are asked for.
const AHEAD: usize = 6;
/// How many packets later its bucket of the flow table is looked at.
const BEHIND: usize = 6;
/// How many packets later what may be to a service is led to a backend: its binding is on its way meanwhile.
const LED: usize = BEHIND / 2;

/// Decides about a batch of frames that one port received: every packet ends with a verdict other than
/// [`Verdict::Continue`]. [`Verdict::Reply`] leaves by the port it came from; [`Verdict::Flood`] is carried out with
/// [`segment::members`]. A packet that was turned into an ICMP error is counted as dropped here; all other drops, and
/// all traffic, are counted by the caller.
pub fn run(ctx: &mut Context<'_>, batch: &mut Batch) {
    let Some(in_port) = batch.first().map(|p| p.meta.in_port) else {
        return;
    };
    let Some(port) = ctx.tables.port(in_port) else {
        for packet in batch.iter_mut() {
            packet.meta.verdict = Verdict::Drop(Reason::PortGone);
        }
        return;
    };
    debug_assert!(batch.iter().all(|p| p.meta.in_port == in_port));
    match &port.kind {
        PortKind::Routed { .. } => run_routed::<false>(ctx, port, batch),
        PortKind::Uplink { .. } => run_routed::<true>(ctx, port, batch),
        // It has no device.
        PortKind::Tunnel(_) => {
            for packet in batch.iter_mut() {
                packet.meta.verdict = Verdict::Drop(Reason::NotForUs);
            }
        }
        PortKind::L2 { .. } => {
            for packet in batch.iter_mut() {
                packet.meta.verdict = segment::run(ctx, port, packet);
            }
        }
    }
}

/// `UPLINK`: the port is one.
fn run_routed<const UPLINK: bool>(ctx: &mut Context<'_>, port: &PortEntry, batch: &mut Batch) {
    let tables = ctx.tables;
    let candidates = arrive_all::<UPLINK>(ctx, port, batch);
    let (mut hits, mut misses) = (0, 0);
    for (i, candidate) in candidates.into_iter().enumerate().take(batch.len()) {
        if let Some(later) = batch.get(i + AHEAD) {
            // Headers of a whole batch do not stay in the first cache: chunks are apart by its size.
            later.frame.prefetch();
        }
        let packet = &mut batch[i];
        if !matches!(packet.meta.verdict, Verdict::Continue) {
            continue;
        }
        let port = match UPLINK {
            true => outside::port_of(tables, port, packet),
            false => port,
        };
        let found = find(ctx, packet, candidate);
        // Only what comes out of a tunnel is marked.
        let alike = |found: &Found| !UPLINK || connection::is_marked_alike(found, packet);
        let known = found.filter(alike);
        packet.meta.verdict = match known.and_then(|found| go_on(ctx, port, packet, &found)) {
            Some((way, outcome)) => {
                hits += 1;
                leave(ctx, port, packet, way, &outcome)
            }
            None => {
                misses += 1;
                leave_judged(ctx, port, packet, found)
            }
        };
    }
    ctx.counters.event(Event::FlowHit, hits);
    ctx.counters.event(Event::FlowMiss, misses);
}

/// What comes before the flow table for each packet, and where its flow entry may be, which is on its way then. Entries are asked for
/// between the headers of later packets: all at once, they would wait for each other.
#[inline(always)]
fn arrive_all<const UPLINK: bool>(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    batch: &mut Batch,
) -> [Candidate; BATCH_SIZE] {
    let own = Own::of(port);
    // Who leaves through a tunnel gets headers in front.
    let wraps = !UPLINK && ctx.tables.has_tunnels();
    let mut candidates = [Candidate::NONE; BATCH_SIZE];
    for i in 0..batch.len() + BEHIND {
        if let Some(later) = batch.get(i + AHEAD) {
            later.frame.prefetch();
            if wraps {
                later.frame.prefetch_front();
            }
        }
        if let Some(packet) = batch.get_mut(i) {
            packet.meta.verdict = match UPLINK {
                true => outside::arrive(ctx, port, packet),
                false => arrive(ctx, port, &own, packet),
            };
        }
        if !UPLINK
            && let Some(packet) = i.checked_sub(LED).and_then(|i| batch.get_mut(i))
            && packet.meta.course == Course::ToLead
        {
            packet.meta.course = Course::Plain;
            packet.meta.verdict = lead(ctx, port, packet);
        }
        if let Some(earlier) = i.checked_sub(BEHIND)
            && let Some(packet) = batch.get(earlier)
        {
            candidates[earlier] = candidate(ctx, packet);
        }
    }
    candidates
}

/// The entry of a packet's connection.
#[inline(always)]
fn find(ctx: &Context<'_>, packet: &Packet, candidate: Candidate) -> Option<Found> {
    let meta = &packet.meta;
    let conversation = Conversation {
        key: &meta.parsed.key,
        from: meta.from_upper.into(),
        hash: meta.hash,
    };
    ctx.flows.find(candidate, &conversation, ctx.now.millis())
}

/// The way out of a packet whose connection needs no judgement: judged under these tables, way known, not over.
#[inline(always)]
fn go_on<'t>(
    ctx: &mut Context<'t>,
    port: &PortEntry,
    packet: &Packet,
    found: &Found,
) -> Option<(&'t Adjacency, Outcome)> {
    let meta = &packet.meta;
    let from = usize::from(meta.from_upper);
    let way = found.way(from)?;
    let adjacency = ctx.tables.adjacency(way.adjacency)?;
    if !adjacency.resolved {
        return None;
    }
    let out = ctx.tables.port(adjacency.port);
    let stamp = connection::stamp(ctx.tables, Some(port), out, &meta.parsed.key);
    if (way.in_port != port.id) | (stamp != found.stamp()) {
        return None;
    }
    keep(ctx, packet, found, from)?;
    Some((
        adjacency,
        Outcome::of_way(&way, found.state().binding_of(from)),
    ))
}

/// Notes that the connection of a packet lives; `None` when the packet begins it anew.
#[inline(always)]
fn keep(ctx: &mut Context<'_>, packet: &Packet, found: &Found, from: usize) -> Option<()> {
    let signal = connection::signal(packet);
    let mut state = found.state();
    if !state.stays(from, signal) {
        if state.begins_anew(signal) {
            return None;
        }
        state = state.next(from, signal);
    }
    ctx.flows.seen(found, state, ctx.now.millis());
    if packet.meta.parsed.fragment != Fragment::NotFragment {
        connection::note_first_fragment(ctx, packet);
    }
    Some(())
}

/// Parsing, anti-spoofing, destination MAC. `Continue` for a packet to be routed, whose flow entry is on its way.
#[inline(always)]
fn arrive(ctx: &mut Context<'_>, port: &PortEntry, own: &Own<'_>, packet: &mut Packet) -> Verdict {
    let (bytes, len) = (packet.frame.bytes(), packet.frame.len());
    let parsed = &mut packet.meta.parsed;
    // The rest is there once for each kind, so that the compiler knows the kind in it.
    if parse_plain_ipv4(bytes, len, parsed) {
        return admit(ctx, port, own, packet);
    }
    if parse_plain_ipv6(bytes, len, parsed) {
        return admit(ctx, port, own, packet);
    }
    arrive_other(ctx, port, own, packet)
}

/// As [`arrive`], for what is not plain TCP or UDP.
#[cold]
#[inline(never)]
fn arrive_other(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    own: &Own<'_>,
    packet: &mut Packet,
) -> Verdict {
    let (bytes, len) = (packet.frame.bytes(), packet.frame.len());
    match parse_any(bytes, len, false, &mut packet.meta.parsed) {
        Ok(()) => admit(ctx, port, own, packet),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// What follows parsing.
#[inline(always)]
fn admit(ctx: &mut Context<'_>, port: &PortEntry, own: &Own<'_>, packet: &mut Packet) -> Verdict {
    let bytes = packet.frame.bytes();
    let parsed = &mut packet.meta.parsed;
    parsed.key.set_vrf(port.vrf);
    if let Err(reason) = own.check(bytes, parsed) {
        return Verdict::Drop(reason);
    }
    let Some(eth) = EthernetHeader::read(bytes) else {
        return Verdict::Drop(Reason::TruncatedEthernet);
    };
    let (dst, to_gateway) = (eth.dst, eth.dst == ctx.tables.gateway().mac);
    let is_ip = parsed.is_ip();
    if is_ip {
        let unfinished = trim::unfinished(ctx.caps, &packet.frame, parsed);
        trim::finish(ctx.pool, &mut packet.frame, parsed, unfinished);
    }
    if to_gateway && is_ip && !local::is_neighbor_discovery(parsed) {
        if nat::may_lead(ctx.tables, &packet.meta.parsed.key) {
            let bindings = ctx.nat.binder.bindings();
            bindings.prefetch(&packet.meta.parsed.key);
            packet.meta.course = Course::ToLead;
            return Verdict::Continue;
        }
        seek(ctx.flows, &mut packet.meta);
        return Verdict::Continue;
    }
    if to_gateway || dst.is_multicast() {
        let ends = local::run(ctx, port, packet);
        return ends.unwrap_or(Verdict::Drop(Reason::MulticastNotRouted));
    }
    Verdict::Drop(Reason::NotForUs)
}

/// Leads a packet of a pod's that is to a service or a port of the node to whom it is for.
#[inline(never)]
fn lead(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet) -> Verdict {
    if let Err(reason) = nat::lead(ctx, port, packet) {
        return service::refuse(ctx, port, packet, reason);
    }
    seek(ctx.flows, &mut packet.meta);
    Verdict::Continue
}

/// Finds out by what the flow table knows a packet's conversation, and asks for its bucket.
#[inline(always)]
fn seek(flows: &FlowTable, meta: &mut Meta) {
    let key = &meta.parsed.key;
    meta.from_upper = key.is_from_upper();
    meta.hash = key.conversation_hash(meta.from_upper, flows.seed());
    flows.prefetch(meta.hash);
}

/// Where the flow entry of a packet may be; it is on its way. Later fragments have none.
#[inline(always)]
fn candidate(ctx: &Context<'_>, packet: &Packet) -> Candidate {
    let meta = &packet.meta;
    let ended = matches!(meta.verdict, Verdict::Drop(_) | Verdict::Reply);
    if ended || !meta.parsed.is_ip() || meta.parsed.fragment == Fragment::Later {
        return Candidate::NONE;
    }
    let candidate = ctx.flows.candidate(meta.hash);
    if candidate == Candidate::NONE {
        prefetch_route(ctx, packet);
    }
    candidate
}

/// A packet of no known connection will be routed.
#[cold]
#[inline(never)]
fn prefetch_route(ctx: &Context<'_>, packet: &Packet) {
    let key = &packet.meta.parsed.key;
    ctx.tables.ways(key.vrf()).prefetch(key);
}

/// The way out of a packet that is not simply let on: what it is for the switch itself, then both ends and the route.
#[cold]
#[inline(never)]
fn leave_judged(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    mut found: Option<Found>,
) -> Verdict {
    match service::lead_anew(ctx, port, packet) {
        Ok(false) => {}
        Ok(true) => found = find_anew(ctx, packet),
        Err(reason) => return service::refuse(ctx, port, packet, reason),
    }
    if let Some(verdict) = local::run(ctx, port, packet) {
        return verdict;
    }
    if outside::is_by_way(port)
        && let Err(reason) = outside::check_source(ctx, port, packet)
    {
        return Verdict::Drop(reason);
    }
    let way = route::run(ctx, &packet.meta.parsed);
    let way = outside::check_way(ctx, port, packet, way);
    let passage = Passage {
        sender: Some(port),
        receiver: way.ok().and_then(|way| ctx.tables.port(way.port)),
        adjacency: way.map_or(0, |way| way.index),
        group: packet.meta.group,
    };
    // What ends here, or is to be cut, begins no connection.
    let fits = |way: &Adjacency| packet.meta.parsed.l3_len <= path_mtu::of(ctx, way);
    let install = packet.meta.parsed.ttl > 1
        && way.is_ok_and(|way| {
            fits(way) || superframe::is_one(ctx.caps, packet) || may_be_cut(packet)
        });
    let outcome = connection::decide(ctx, passage, packet, found, install);
    if outcome.is_allowed() {
        connection::note_first_fragment(ctx, packet);
    }
    match way {
        Ok(way) => leave(ctx, port, packet, way, &outcome),
        Err(reason) => {
            let bytes = packet.frame.len();
            let denied = policy::enforce(ctx.counters, &outcome.egress, bytes);
            if denied.is_ok()
                && reason == Reason::NeighborUnresolved
                && route::note_missing(ctx, packet.meta.in_port, &packet.meta.parsed.key)
            {
                // It is not known yet that nobody answers.
                return Verdict::Drop(reason);
            }
            stop(ctx, port, packet, denied.err().unwrap_or(reason))
        }
    }
}

/// The entry of a packet's connection, after its key has changed.
#[cold]
fn find_anew(ctx: &Context<'_>, packet: &mut Packet) -> Option<Found> {
    seek(ctx.flows, &mut packet.meta);
    let candidate = ctx.flows.candidate(packet.meta.hash);
    find(ctx, packet, candidate)
}

/// Whether a packet may be cut into fragments.
fn may_be_cut(packet: &Packet) -> bool {
    !packet.meta.parsed.dont_fragment
}

/// The way out of a packet whose both ends have spoken.
#[inline(always)]
fn leave(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    way: &Adjacency,
    outcome: &Outcome,
) -> Verdict {
    let bytes = packet.frame.len();
    if let Err(reason) = policy::enforce(ctx.counters, &outcome.egress, bytes) {
        return Verdict::Drop(reason);
    }
    let parsed = &packet.meta.parsed;
    if parsed.ttl <= 1 {
        let error = IcmpError::TimeExceeded;
        return icmp_error::refuse(ctx, port, packet, Reason::TtlExceeded, error);
    }
    let mtu = path_mtu::of(ctx, way).min(superframe::longest(ctx.caps, packet));
    if parsed.l3_len > mtu {
        return leave_in_pieces(ctx, port, packet, outcome, (way, mtu));
    }
    if let Err(reason) = policy::enforce(ctx.counters, &outcome.ingress, bytes) {
        return Verdict::Drop(reason);
    }
    if let Err(reason) = ready(ctx, packet, way, outcome) {
        return Verdict::Drop(reason);
    }
    send(ctx, packet, way)
}

/// Writes into a packet what is different behind the switch.
#[inline(always)]
fn ready(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    way: &Adjacency,
    outcome: &Outcome,
) -> Result<(), Reason> {
    rewrite::run(packet, way);
    match outcome.binding {
        Some(binding) => nat::leave(ctx, packet, binding),
        None if packet.meta.is_led() => nat::leave_led(ctx, packet),
        None => Ok(()),
    }
}

/// Sends a packet, readied for its way: wrapped where that leads through a tunnel.
#[inline(always)]
fn send(ctx: &mut Context<'_>, packet: &mut Packet, way: &Adjacency) -> Verdict {
    match way.wrapped {
        true => tunnel::wrap(ctx, packet, way),
        false => Verdict::Forward(way.port),
    }
}

/// As [`leave`], for a packet larger than the way out takes.
#[cold]
#[inline(never)]
fn leave_in_pieces(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    outcome: &Outcome,
    (way, mtu): (&Adjacency, u32),
) -> Verdict {
    let superframe = superframe::is_one(ctx.caps, packet);
    if !may_be_cut(packet) && !superframe {
        let error = IcmpError::TooBig { mtu };
        return icmp_error::refuse(ctx, port, packet, Reason::PacketTooBig, error);
    }
    if let Err(reason) = policy::enforce(ctx.counters, &outcome.ingress, packet.frame.len()) {
        return Verdict::Drop(reason);
    }
    if let Err(reason) = ready(ctx, packet, way, outcome) {
        return Verdict::Drop(reason);
    }
    let (verdict, begin) = (Verdict::Forward(way.port), ctx.extra.len());
    let cut = match superframe {
        true if superframe::leaves_whole(ctx, packet, mtu, way.port) => return verdict,
        true => superframe::cut(ctx, packet, mtu, verdict),
        false => fragment::cut(ctx, packet, mtu, verdict),
    };
    match cut {
        Ok(()) if way.wrapped => wrap_pieces(ctx, packet, way, begin),
        Ok(()) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Wraps a packet and the pieces cut off it, those of [`Context::extra`] from `begin` on.
fn wrap_pieces(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    way: &Adjacency,
    begin: usize,
) -> Verdict {
    let mut pieces = std::mem::take(ctx.extra);
    for piece in pieces.iter_mut().skip(begin) {
        piece.meta.verdict = tunnel::wrap(ctx, piece, way);
    }
    *ctx.extra = pieces;
    tunnel::wrap(ctx, packet, way)
}

/// A packet that policy or route does not let on.
#[cold]
fn stop(ctx: &mut Context<'_>, port: &PortEntry, packet: &mut Packet, reason: Reason) -> Verdict {
    match icmp_error::of_route(reason) {
        Some(error) => icmp_error::refuse(ctx, port, packet, reason, error),
        None => Verdict::Drop(reason),
    }
}

/// Decides about packets that other workers gave to this one, each with the verdict to forward it out of a port of this
/// worker: the receiver's end, and learning in L2 segments. Nothing is rewritten.
pub fn run_handoff(ctx: &mut Context<'_>, batch: &mut Batch) {
    for packet in batch.iter_mut() {
        seek(ctx.flows, &mut packet.meta);
    }
    let mut candidates = [Candidate::NONE; BATCH_SIZE];
    for (packet, place) in batch.iter().zip(&mut candidates) {
        *place = candidate(ctx, packet);
    }
    for (packet, candidate) in batch.iter_mut().zip(candidates) {
        let Verdict::Forward(out) = packet.meta.verdict else {
            continue;
        };
        let out = ctx.tables.port(out).filter(|out| out.worker == ctx.me);
        packet.meta.verdict = match out {
            None => Verdict::Drop(Reason::PortGone),
            Some(_) if packet.meta.is_sealed() => continue,
            Some(out) => receive(ctx, out, packet, candidate),
        };
    }
}

/// The receiver's end for a packet from another worker.
fn receive(
    ctx: &mut Context<'_>,
    out: &PortEntry,
    packet: &mut Packet,
    candidate: Candidate,
) -> Verdict {
    let outcome = if matches!(out.kind, PortKind::L2 { .. }) {
        segment::learn_handed_over(ctx, out, packet);
        Outcome {
            ingress: policy::judge_frame(out, Direction::Ingress, &packet.meta.parsed),
            ..Outcome::default()
        }
    } else {
        receive_routed(ctx, out, packet, candidate)
    };
    let let_in = policy::enforce(ctx.counters, &outcome.ingress, packet.frame.len());
    let shown = let_in.and_then(|()| match outcome.binding {
        // An answer of a service's, whose client is this worker's.
        Some(binding) => nat::leave(ctx, packet, binding),
        None => Ok(()),
    });
    match shown {
        Ok(()) => Verdict::Forward(out.id),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The port stands where a sender's way has the adjacency: a sender whose tables are newer may mean another one.
fn receive_routed(
    ctx: &mut Context<'_>,
    out: &PortEntry,
    packet: &Packet,
    candidate: Candidate,
) -> Outcome {
    let meta = &packet.meta;
    let (sender, from) = (ctx.tables.port(meta.in_port), usize::from(meta.from_upper));
    let found = find(ctx, packet, candidate);
    let known = found.and_then(|found| {
        let way = found.way(from)?;
        let stamp = connection::stamp(ctx.tables, sender, Some(out), &meta.parsed.key);
        let same = way.in_port == meta.in_port
            && way.adjacency == u32::from(out.id.0)
            && stamp == found.stamp()
            && connection::is_marked_alike(&found, packet);
        same.then_some(())?;
        keep(ctx, packet, &found, from)?;
        Some(Outcome::of_way(&way, found.state().binding_of(from)))
    });
    if let Some(outcome) = known {
        ctx.counters.event(Event::FlowHit, 1);
        return outcome;
    }
    ctx.counters.event(Event::FlowMiss, 1);
    let passage = Passage {
        sender,
        receiver: Some(out),
        adjacency: out.id.0.into(),
        group: meta.group,
    };
    let outcome = connection::decide(ctx, passage, packet, found, true);
    if outcome.is_allowed() {
        connection::note_first_fragment(ctx, packet);
    }
    outcome
}

/// Makes a packet's frame these bytes, which fit one chunk. False, with the frame's content undefined, when its first
/// chunk has no room for them.
fn replace(pool: &mut Pool, packet: &mut Packet, bytes: &[u8]) -> bool {
    let Ok(len) = u16::try_from(bytes.len()) else {
        return false;
    };
    let frame = &mut packet.frame;
    pool.truncate(frame, len.into());
    if !frame.resize(len) {
        return false;
    }
    frame.offload = Default::default();
    frame.bytes_mut().copy_from_slice(bytes);
    true
}
