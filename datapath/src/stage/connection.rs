// SPDX-License-Identifier: Apache-2.0
//! Connections: which one a packet belongs to, whether that may go on, and what becomes of a packet that belongs to none.
//!
//! A packet of a known connection whose stamp is that of the present tables passes without a judgement. If the stamp differs, the connection
//! is judged again as it began: in its original direction, at those of its ends that are behind this worker's ports. A connection
//! that may not go on is forgotten. One that came through a tunnel with group policy remembers the group that its sender's packets bear, as answers do not
//! say it; when they bear another one, it is judged again, too.
//!
//! A packet of no connection is judged as the first of one. Where network policy was asked, it must also be one that opens one, and the table must
//! have room; where it was not, the table is a cache, and what does not fit is judged packet by packet. Errors about a known
//! connection, and later fragments of a packet whose first fragment passed, pass as that connection does. What was denied is never remembered.

use super::policy::{self, End, Half, Standing};
use super::{Context, nat, related};
use crate::counters::Event;
use crate::events::Refusal;
use crate::flow::{BindingId, Conversation, Found, Opening, Refused, Signal, State, Way};
use crate::frame::Packet;
use crate::ids::GroupId;
use crate::tables::{Direction, PortEntry, Tables};
use crate::verdict::Reason;
use crate::wire::{FlowKey, Fragment, array_at, protocol, sctp};

/// The ports of a packet's way. An end is judged by the worker of its port.
#[derive(Clone, Copy)]
pub(super) struct Passage<'t> {
    /// The port it came from; none if that is gone.
    pub(super) sender: Option<&'t PortEntry>,
    /// The port it leaves by; none where there is no way out.
    pub(super) receiver: Option<&'t PortEntry>,
    /// What [`Way::adjacency`] is.
    pub(super) adjacency: u32,
    /// The group that packets from the sender are marked with.
    pub(super) group: Option<GroupId>,
}

impl Passage<'_> {
    /// The group, where the sender's marks are believed: a tunnel may have lost its group policy since.
    fn believed(&self) -> Option<GroupId> {
        let believes = self.sender.is_some_and(PortEntry::has_group_policy);
        self.group.filter(|_| believes)
    }
}

/// What becomes of a packet: first its sender's end speaks, then its receiver's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) egress: Half,
    pub(super) ingress: Half,
    /// The binding that it leaves under.
    pub(super) binding: Option<BindingId>,
}

impl Outcome {
    /// Of a packet of a known connection.
    #[inline(always)]
    pub(super) fn of_way(way: &Way, binding: Option<BindingId>) -> Outcome {
        let half = |rule| Half {
            rule,
            ..Half::default()
        };
        Outcome {
            egress: half(way.egress),
            ingress: half(way.ingress),
            binding,
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.egress.drop.is_none() && self.ingress.drop.is_none()
    }

    /// Policy ends the connection. What a port's own rules deny in one direction says nothing about the other.
    fn is_ended(&self) -> bool {
        let ends = |half: &Half| {
            half.drop
                .is_some_and(|reason| half.stateful || reason == Reason::PolicyPending)
        };
        ends(&self.egress) || ends(&self.ingress)
    }

    fn is_stateful(&self) -> bool {
        self.egress.stateful || self.ingress.stateful
    }

    /// Drops the packet at the end that asked for a connection.
    fn refuse(&mut self, reason: Reason) {
        match self.egress.stateful {
            true => self.egress.drop = Some(reason),
            false => self.ingress.drop = Some(reason),
        }
    }
}

/// What of a packet moves its connection's state.
#[inline(always)]
pub(super) fn signal(packet: &Packet) -> Signal {
    let parsed = &packet.meta.parsed;
    let bits = match parsed.protocol {
        protocol::SCTP => first_chunk(packet),
        _ => parsed.tcp_flags,
    };
    Signal {
        protocol: parsed.protocol,
        bits,
    }
}

#[cold]
fn first_chunk(packet: &Packet) -> u8 {
    let parsed = &packet.meta.parsed;
    if parsed.fragment == Fragment::Later {
        return 0;
    }
    let at = usize::from(parsed.l4) + sctp::HEADER_LEN;
    array_at::<1>(packet.frame.bytes(), at).map_or(0, |[kind]| *kind)
}

/// The stamp of a connection whose packets pass these two ports, in either direction.
#[inline(always)]
pub(super) fn stamp(
    tables: &Tables,
    one: Option<&PortEntry>,
    other: Option<&PortEntry>,
    key: &FlowKey,
) -> u32 {
    let of = |port: Option<&PortEntry>| port.map_or(0, |p| p.stamp);
    tables
        .common_stamp()
        .wrapping_add(of(one))
        .wrapping_add(of(other))
        .wrapping_add(tables.address_stamp(&key.src))
        .wrapping_add(tables.address_stamp(&key.dst))
        .wrapping_add(tables.route_stamp(&key.src))
        .wrapping_add(tables.route_stamp(&key.dst))
}

/// Judges a packet that is not simply let on: of no connection (`found` is none), or of one that is to be judged again or whose
/// way is not known. Remembers what came of it if `install`.
#[cold]
#[inline(never)]
pub(super) fn decide(
    ctx: &mut Context<'_>,
    passage: Passage<'_>,
    packet: &Packet,
    found: Option<Found>,
    install: bool,
) -> Outcome {
    let signal = signal(packet);
    let found = found.filter(|f| !f.state().begins_anew(signal) && is_of(f, packet));
    let outcome = match found {
        Some(found) => go_on(ctx, passage, packet, found, signal),
        None => begin(ctx, passage, packet, signal, install),
    };
    for (direction, half) in [
        (Direction::Egress, outcome.egress),
        (Direction::Ingress, outcome.ingress),
    ] {
        if let Some(rule) = half.policy {
            let bytes = packet.frame.len().into();
            ctx.counters.judged_by_policy(rule, bytes);
        }
        if let Some(reason) = half.drop {
            // What the sender's end denies never gets to the receiver's.
            if direction == Direction::Egress || outcome.egress.drop.is_none() {
                note(ctx, passage, packet, direction, reason, half);
            }
        }
    }
    outcome
}

/// Whether it is the packet's connection, and not that of a port which had the same address before.
fn is_of(found: &Found, packet: &Packet) -> bool {
    let from = usize::from(packet.meta.from_upper);
    let known = match from == found.state().origin() {
        true => Some(found.begun_at()),
        false => found.way(from).map(|way| way.in_port),
    };
    known.is_none_or(|port| port == packet.meta.in_port)
}

fn note(
    ctx: &mut Context<'_>,
    passage: Passage<'_>,
    packet: &Packet,
    direction: Direction,
    reason: Reason,
    half: Half,
) {
    ctx.refusals.note(Refusal {
        at: ctx.now.0,
        key: packet.meta.parsed.key,
        in_port: packet.meta.in_port,
        out_port: passage.receiver.map(|port| port.id),
        direction,
        reason,
        rule: half.rule,
        policy: half.policy,
        group: passage
            .believed()
            .filter(|_| direction == Direction::Ingress),
    });
}

/// Both ends that this worker judges: those behind its ports, and tunnels, whose packets every worker wraps and only the uplink's unwraps.
fn judge_both(
    ctx: &Context<'_>,
    passage: Passage<'_>,
    key: &FlowKey,
    later: bool,
    standing: Standing,
) -> Outcome {
    let half = |direction, port: Option<&PortEntry>, other, group| match port {
        Some(port) if port.worker == ctx.me || port.tunnel().is_some() => {
            let end = End {
                direction,
                port,
                other,
                group,
            };
            policy::judge(ctx.tables, end, key, later, standing)
        }
        _ => Half::default(),
    };
    let (sender, receiver) = (passage.sender, passage.receiver);
    Outcome {
        egress: half(Direction::Egress, sender, receiver, None),
        ingress: half(Direction::Ingress, receiver, sender, passage.believed()),
        binding: None,
    }
}

/// A packet of a known connection.
fn go_on(
    ctx: &mut Context<'_>,
    passage: Passage<'_>,
    packet: &Packet,
    mut found: Found,
    signal: Signal,
) -> Outcome {
    let meta = &packet.meta;
    let (key, from) = (&meta.parsed.key, usize::from(meta.from_upper));
    let now = stamp(ctx.tables, passage.sender, passage.receiver, key);
    let same = is_marked_alike(&found, packet);
    if found.stamp() != now || !same {
        ctx.counters.event(Event::FlowRejudged, 1);
        let group = if same {
            found.state().group()
        } else {
            meta.group
        };
        let again = judge_as_begun(ctx, passage, key, (&found, group), from);
        if again.is_ended() {
            ctx.flows.remove(&found);
            return again;
        }
    }
    let mut outcome = judge_both(ctx, passage, key, false, Standing::Known);
    outcome.binding = found.state().binding_of(from);
    if !outcome.is_allowed() {
        // The connection may go on, this direction of it may not (the port's own rules).
        return outcome;
    }
    let way = way(passage, packet, &outcome);
    ctx.flows.judged(&mut found, now, from, way);
    let mut state = found.state().next(from, signal);
    if !same {
        state = state.marked(meta.group);
    }
    ctx.flows.seen(&found, state, ctx.now.millis());
    outcome
}

/// Whether a packet says of the end that began its connection what the connection was judged by; from the other end it says nothing of that.
#[inline(always)]
pub(super) fn is_marked_alike(found: &Found, packet: &Packet) -> bool {
    let (meta, state) = (&packet.meta, found.state());
    usize::from(meta.from_upper) != state.origin() || state.group() == meta.group
}

/// Judges a connection again, as a new one in the direction in which it began, with the group that the end which began it has.
fn judge_as_begun(
    ctx: &Context<'_>,
    passage: Passage<'_>,
    key: &FlowKey,
    (found, group): (&Found, Option<GroupId>),
    from: usize,
) -> Outcome {
    let passage = Passage { group, ..passage };
    if from == found.state().origin() {
        return judge_both(ctx, passage, key, false, Standing::New);
    }
    judge_turned(ctx, passage, key)
}

/// Judges the connection of a packet as a new one in the other direction.
fn judge_turned(ctx: &Context<'_>, passage: Passage<'_>, key: &FlowKey) -> Outcome {
    let turned = Passage {
        sender: passage.receiver,
        receiver: passage.sender,
        ..passage
    };
    let turned = judge_both(ctx, turned, &key.reversed(), false, Standing::New);
    // What stops it there stops this packet at the same port.
    Outcome {
        egress: turned.ingress,
        ingress: turned.egress,
        binding: None,
    }
}

fn way(passage: Passage<'_>, packet: &Packet, outcome: &Outcome) -> Way {
    Way {
        adjacency: passage.adjacency,
        in_port: packet.meta.in_port,
        egress: outcome.egress.rule,
        ingress: outcome.ingress.rule,
    }
}

/// A packet of no connection.
fn begin(
    ctx: &mut Context<'_>,
    passage: Passage<'_>,
    packet: &Packet,
    signal: Signal,
    install: bool,
) -> Outcome {
    let meta = &packet.meta;
    let parsed = &meta.parsed;
    let later = parsed.fragment == Fragment::Later;
    let is_related = related::is_related(packet);
    let known = match is_related {
        true => related::of(ctx, passage, packet),
        false => None,
    };
    let standing = match known {
        Some(_) => Standing::Known,
        None if later => Standing::Unknowable,
        None => Standing::New,
    };
    if !is_related {
        // Of a connection to a service that left masqueraded, both ends are bound.
        let goes_on = nat::goes_on(ctx, &passage, packet);
        let binding = nat::answers_kept(ctx, &passage, &parsed.key);
        if goes_on.is_some() || binding.is_some() {
            let outcome = go_on_bound(ctx, passage, &parsed.key, goes_on.unwrap_or(true));
            return Outcome { binding, ..outcome };
        }
    }
    let mut outcome = judge_both(ctx, passage, &parsed.key, later, standing);
    outcome.binding = known.and_then(|known| known.binding);
    if is_related && known.is_none() {
        nat::keep_in(ctx, &passage, packet, &mut outcome);
    }
    if is_related || !outcome.is_allowed() {
        return outcome;
    }
    let opening = signal.opening();
    let opens = match opening {
        Opening::Opens => true,
        Opening::Joins => !outcome.is_stateful() || ctx.joins,
        Opening::Ends => false,
    };
    if outcome.is_stateful() && !opens {
        outcome.refuse(Reason::NoConnection);
        return outcome;
    }
    if !opens {
        nat::keep_in(ctx, &passage, packet, &mut outcome);
    } else if install && passage.receiver.is_some() {
        remember(ctx, passage, packet, signal, &mut outcome);
    }
    outcome
}

/// An answer within a connection that was bound when the flow table was another. Its next packet from inside makes it known again.
fn go_on_bound(ctx: &Context<'_>, passage: Passage<'_>, key: &FlowKey, goes_on: bool) -> Outcome {
    let mut outcome = judge_turned(ctx, passage, key);
    if !goes_on || outcome.is_stateful() && !ctx.joins {
        outcome.ingress.drop = Some(Reason::NatNoBinding);
    }
    outcome
}

/// Remembers a connection that begins with this packet.
fn remember(
    ctx: &mut Context<'_>,
    passage: Passage<'_>,
    packet: &Packet,
    signal: Signal,
    outcome: &mut Outcome,
) {
    let meta = &packet.meta;
    let key = &meta.parsed.key;
    let conversation = Conversation {
        key,
        from: meta.from_upper.into(),
        hash: meta.hash,
    };
    let bound = match nat::bind(ctx, &passage, packet) {
        Ok(bound) => bound,
        Err(reason) => return outcome.refuse(reason),
    };
    let stamp = stamp(ctx.tables, passage.sender, passage.receiver, key);
    let way = way(passage, packet, outcome);
    let state = nat::state(State::first(signal).marked(meta.group), bound);
    outcome.binding = state.binding_of(conversation.from);
    let now = ctx.now.millis();
    let refused = match ctx.flows.insert(&conversation, way, stamp, state, now) {
        Ok(()) => return ctx.counters.event(Event::FlowInstall, 1),
        Err(Refused::Full) => Reason::FlowTableFull,
        Err(Refused::Quota) => Reason::FlowQuota,
    };
    match outcome.is_stateful() || bound.is_some() {
        true => outcome.refuse(refused),
        false => ctx.counters.event(Event::FlowUncached, 1),
    }
}

/// Notes the ports of a packet whose first fragment passed, for those to come.
pub(super) fn note_first_fragment(ctx: &mut Context<'_>, packet: &Packet) {
    let meta = &packet.meta;
    if meta.parsed.fragment == Fragment::First {
        let id = related::fragment_id(packet);
        let ports = (meta.parsed.key.sport, meta.parsed.key.dport);
        ctx.fragments.note(&id, ports, ctx.now.millis());
    }
}

/// Whether a connection that was found may go on under the present tables; for packets that only refer to it.
pub(super) fn may_go_on(
    ctx: &Context<'_>,
    passage: Passage<'_>,
    key: &FlowKey,
    found: &Found,
    from: usize,
) -> bool {
    let now = stamp(ctx.tables, passage.sender, passage.receiver, key);
    let as_begun = (found, found.state().group());
    found.stamp() == now || !judge_as_begun(ctx, passage, key, as_begun, from).is_ended()
}
