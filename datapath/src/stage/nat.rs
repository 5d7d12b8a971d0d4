// SPDX-License-Identifier: Apache-2.0
//! Network address translation. Masquerading: connections that pods begin and that leave by an uplink leave as the node's own, by ports that nobody
//! else on the node uses. Host ports: connections to ports of the node's addresses that lead to pods.
//!
//! Everything is judged, counted and known by the pod's own address. What leaves is translated last, by the worker of the pod's port; what comes
//! in is translated first, by the worker of the NIC, and only goes on as part of a connection that is bound. Nothing that was to be masqueraded
//! leaves as it is.

use super::connection::{self, Outcome, Passage};
use super::{Context, hairpin, related, service};
use crate::counters::Event;
use crate::flow::{BindingId, State};
use crate::frame::{Course, Packet, SeenAs};
use crate::ids::WorkerId;
use crate::tables::{Client, PortEntry, Tables};
use crate::verdict::Reason;
use crate::wire::flow_key::{FlowKey, map_ip};
use crate::wire::quoted::is_icmp_error;
use crate::wire::translate::{self, End, Endpoint};
use crate::wire::{Fragment, Parsed, protocol};

/// The end of a connection that is bound (0 the lower one of its key), and its binding.
pub(super) type Bound = (usize, BindingId);

/// Whether a packet's connection is to leave as the node's own if it begins there: a pod's by an uplink that masquerades, and whatever the node
/// takes for a service and hands on to another one, which would answer past it otherwise.
fn is_wanted(me: WorkerId, passage: &Passage<'_>, packet: &Packet) -> bool {
    let (Some(sender), Some(receiver)) = (passage.sender, passage.receiver) else {
        return false;
    };
    let own = sender.is_pod() && receiver.masquerades(&packet.meta.parsed.key.dst);
    let handed_on = packet.meta.is_led() && !sender.is_pod() && receiver.is_outside();
    sender.worker == me && (own || handed_on)
}

/// What a packet came in to, if that was an address of the node and this worker is to know under which binding.
fn owed(ctx: &Context<'_>, passage: &Passage<'_>, packet: &Packet) -> Option<SeenAs> {
    let seen_as = packet.meta.seen_as.filter(|_| !packet.meta.is_led())?;
    let mine = passage.receiver.is_some_and(|port| port.worker == ctx.me);
    let key = &packet.meta.parsed.key;
    (mine && !hairpin::answers(ctx.tables, key, seen_as)).then_some(seen_as)
}

/// Whether a packet that came in translated, and is of no known connection, may go on: as part of one that was bound before the switch was started
/// anew. `None` for other packets.
pub(super) fn goes_on(ctx: &Context<'_>, passage: &Passage<'_>, packet: &Packet) -> Option<bool> {
    let seen_as = owed(ctx, passage, packet)?;
    // Everybody may begin one to a host port.
    ctx.nat.has_port(seen_as.port()).then(|| {
        let key = &packet.meta.parsed.key;
        let seen_as = endpoint(ctx.tables, key, seen_as);
        let outside = seen_as.map(|seen_as| key.with_destination(&seen_as));
        outside.is_some_and(|outside| ctx.nat.binder.bindings().is_kept(&outside))
    })
}

/// The address of the node that a packet with this key was to; `None` when the node has it no longer.
fn endpoint(tables: &Tables, key: &FlowKey, seen_as: SeenAs) -> Option<Endpoint> {
    let own = tables.node_addresses(key.vrf());
    let mut own = own.filter(|a| a.is_ipv4() == key.is_v4()).map(map_ip);
    let address = own.find(|address| seen_as.is_at(address))?;
    Some(Endpoint {
        address,
        port: seen_as.port(),
    })
}

/// Binds a connection that begins with this packet, where one of its ends is to be bound.
///
/// # Errors
/// Why it cannot be.
pub(super) fn bind(
    ctx: &mut Context<'_>,
    passage: &Passage<'_>,
    packet: &Packet,
) -> Result<Option<Bound>, Reason> {
    let meta = &packet.meta;
    let (key, from) = (&meta.parsed.key, usize::from(meta.from_upper));
    let now = ctx.now.millis();
    if leads(ctx, passage, packet) {
        return bind_led(ctx, passage, packet).map(Some);
    }
    if let Some(seen_as) = owed(ctx, passage, packet) {
        let seen_as = endpoint(ctx.tables, key, seen_as).ok_or(Reason::NatNoBinding)?;
        let bound = key.reversed();
        let id = ctx.nat.binder.bind(ctx.flows, &bound, seen_as, now);
        let id = id.map_err(|_| Reason::NatNoPort)?;
        // The other end, unless both are the same.
        return Ok(Some((bound.is_from_upper().into(), id)));
    }
    if let Some(to) = kept(ctx, key) {
        let id = ctx.nat.binder.bind(ctx.flows, key, to, now);
        return id.map(|id| Some((from, id))).map_err(|_| Reason::NatNoPort);
    }
    if !is_wanted(ctx.me, passage, packet) {
        return Ok(None);
    }
    masquerade(ctx, passage, packet).map(|id| Some((from, id)))
}

/// Has a connection that begins with this packet leave as the node's own.
fn masquerade(
    ctx: &mut Context<'_>,
    passage: &Passage<'_>,
    packet: &Packet,
) -> Result<BindingId, Reason> {
    let parsed = &packet.meta.parsed;
    if !translate::can_begin(parsed) {
        return Err(Reason::NatNotTranslatable);
    }
    let v4 = parsed.key.is_v4();
    let address = passage.receiver.and_then(|out| out.first_address(v4));
    // A tunnel has none: answers come by the uplink all the same.
    let mut of_uplinks = ctx.tables.uplinks();
    let address = address.or_else(|| of_uplinks.find_map(|uplink| uplink.first_address(v4)));
    let address = map_ip(address.ok_or(Reason::NatNoAddress)?);
    let now = ctx.now.millis();
    let binder = &mut ctx.nat.binder;
    let id = binder.masquerade(ctx.flows, &parsed.key, address, now);
    let id = id.map_err(|_| Reason::NatNoPort)?;
    ctx.counters.event(Event::NatBound, 1);
    Ok(id)
}

/// Whether this worker has led a packet to a backend.
fn leads(ctx: &Context<'_>, passage: &Passage<'_>, packet: &Packet) -> bool {
    packet.meta.is_led() && passage.sender.is_some_and(|port| port.worker == ctx.me)
}

/// The binding of what goes to a service.
fn led(packet: &Packet) -> Option<BindingId> {
    let seen_as = packet.meta.seen_as.filter(|_| packet.meta.is_led())?;
    Some(BindingId::new(seen_as.binding()))
}

/// What a packet that was led to a backend came to.
pub(super) fn led_from(ctx: &Context<'_>, packet: &Packet) -> Option<Endpoint> {
    let back = packet.meta.parsed.key.reversed();
    ctx.nat.binder.bindings().known_as(led(packet)?, &back)
}

/// Binds a connection to a service: the backend's end, and the client's where it is to be masqueraded.
fn bind_led(
    ctx: &mut Context<'_>,
    passage: &Passage<'_>,
    packet: &Packet,
) -> Result<Bound, Reason> {
    let id = led(packet).ok_or(Reason::NatNoBinding)?;
    let key = packet.meta.parsed.key;
    let other = match is_wanted(ctx.me, passage, packet) {
        true => Some(masquerade(ctx, passage, packet)?),
        false => None,
    };
    let back = key.reversed();
    match ctx.nat.binder.claim(id, &back, other) {
        // The other end, unless both are the same.
        true => Ok((back.is_from_upper().into(), id)),
        false => Err(Reason::NatNoBinding),
    }
}

/// The binding of an answer from a service's backend whose connection is not known, and was bound before the switch was started anew.
pub(super) fn answers_kept(
    ctx: &mut Context<'_>,
    passage: &Passage<'_>,
    key: &FlowKey,
) -> Option<BindingId> {
    let receiver = passage.receiver?;
    let mine = receiver.worker == ctx.me;
    let kept = |ctx: &mut Context<'_>| ctx.nat.kept_from(ctx.flows, key, ctx.now.millis());
    mine.then(|| kept(ctx)).flatten()
}

/// What a pod is known as, whose packet is of no known connection, but of one to a host port that was bound before the switch was started anew.
pub(super) fn kept(ctx: &Context<'_>, key: &FlowKey) -> Option<Endpoint> {
    let bindings = ctx.nat.binder.bindings();
    ctx.tables.host_ports_of(key).find_map(|host| {
        let own = ctx.tables.node_addresses(key.vrf());
        let of_family = own.filter(|a| a.is_ipv4() == key.is_v4());
        let mut at = of_family.filter(|a| host.address.is_unspecified() || host.address == *a);
        at.find_map(|address| {
            let seen_as = Endpoint {
                address: map_ip(address),
                port: host.port,
            };
            let outside = key.reversed().with_destination(&seen_as);
            bindings.is_kept(&outside).then_some(seen_as)
        })
    })
}

/// Stops a packet that begins no connection, if it was to be masqueraded or came in translated, and nothing is known of what it belongs to.
pub(super) fn keep_in(
    ctx: &Context<'_>,
    passage: &Passage<'_>,
    packet: &Packet,
    outcome: &mut Outcome,
) {
    if owed(ctx, passage, packet).is_some() {
        outcome.ingress.drop = outcome.ingress.drop.or(Some(Reason::NatNoBinding));
    } else if is_wanted(ctx.me, passage, packet) {
        outcome.egress.drop = outcome.egress.drop.or(Some(Reason::NatNoBinding));
    }
}

/// The state of a connection that begins.
pub(super) fn state(state: State, bound: Option<Bound>) -> State {
    match bound {
        Some((end, id)) => state.bound(end, id),
        None => state,
    }
}

/// The key of the connection that a packet belongs to: its own, or that of what it refers to.
fn connection_key(ctx: &Context<'_>, packet: &Packet) -> Option<FlowKey> {
    match related::is_related(packet) {
        true => related::key(ctx, packet),
        false => Some(packet.meta.parsed.key),
    }
}

/// Translates a packet to a service's backend that leaves, if it is to be masqueraded.
#[inline(never)]
pub(super) fn leave_led(ctx: &mut Context<'_>, packet: &mut Packet) -> Result<(), Reason> {
    let next = led(packet).and_then(|id| ctx.nat.binder.bindings().next(id));
    match next {
        Some(id) => leave(ctx, packet, id),
        None => Ok(()),
    }
}

/// Translates a packet that leaves under a binding, its checksum finished or not.
#[inline(never)]
pub(super) fn leave(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    id: BindingId,
) -> Result<(), Reason> {
    let key = connection_key(ctx, packet).ok_or(Reason::NatNoBinding)?;
    let Some(to) = ctx.nat.binder.bindings().known_as(id, &key) else {
        return hairpin::leave(ctx, packet, id, &key);
    };
    let (parsed, partial) = (packet.meta.parsed, packet.frame.offload.partial_checksum);
    let bytes = packet.frame.bytes_mut();
    // What an error quotes went to the end that is bound.
    let quoted =
        !is_icmp_error(&parsed) || translate::set_quoted_end(bytes, &parsed, End::Destination, &to);
    match quoted && translate::set_end(bytes, &parsed, End::Source, &to, partial) {
        true => Ok(()),
        false => Err(Reason::NatNotTranslatable),
    }
}

/// Translates a packet from outside to an address of the node, and what an error quotes: to whom it really is.
///
/// # Errors
/// [`Reason::NotForUs`] and [`Reason::NatNoBinding`], the packet unchanged; [`Reason::NatNotTranslatable`].
#[inline(never)]
pub(super) fn arrive(
    ctx: &mut Context<'_>,
    uplink: &PortEntry,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let outside = connection_key(ctx, packet).ok_or(Reason::NotForUs)?;
    if ctx.nat.has_port(outside.dport) {
        let inside = ctx.nat.find(&outside).ok_or(Reason::NatNoBinding)?;
        return lead_to(ctx, packet, &outside, &inside, None);
    }
    if ctx.tables.may_be_service(&outside.dst) && lead_served(ctx, uplink, packet, &outside)? {
        return Ok(());
    }
    let inside = ctx.tables.host_port(&outside).ok_or(Reason::NotForUs)?;
    lead_to(ctx, packet, &outside, &inside, None)
}

/// Leads a packet from outside, if it is to the address of a service, to a backend.
///
/// # Errors
/// Why nobody serves.
#[inline(never)]
pub(super) fn arrive_at(
    ctx: &mut Context<'_>,
    uplink: &PortEntry,
    packet: &mut Packet,
) -> Result<(), Reason> {
    match connection_key(ctx, packet) {
        Some(outside) => lead_served(ctx, uplink, packet, &outside).map(drop),
        None => Ok(()),
    }
}

/// Leads a packet whose connection's packets have this key to a backend, if it is to a service. Returns whether it did.
fn lead_served(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    outside: &FlowKey,
) -> Result<bool, Reason> {
    let Some((inside, id)) = service::find(ctx, port, packet, outside)? else {
        return Ok(false);
    };
    lead_to(ctx, packet, outside, &inside, Some(id))?;
    Ok(true)
}

/// Whether a packet of a pod's may be one to be led to somebody else.
#[inline(always)]
pub(super) fn may_lead(tables: &Tables, key: &FlowKey) -> bool {
    tables.has_host_ports() || tables.may_be_service(&key.dst)
}

/// Leads a packet of a pod's to a service or a host port, or an answer to itself, to whom it is for.
///
/// # Errors
/// Why it cannot be; the packet is unchanged, but for [`Reason::NatNotTranslatable`].
#[inline(never)]
pub(super) fn lead(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let Some(outside) = connection_key(ctx, packet) else {
        let key = &packet.meta.parsed.key;
        return match ctx.tables.service(key, Client::Inside) {
            Some(_) => Err(Reason::ServiceUntranslatable),
            None => Ok(()),
        };
    };
    let answers = outside.dst == hairpin::mask(ctx.tables, &outside);
    let led = match !answers && ctx.tables.may_be_service(&outside.dst) {
        true => service::find(ctx, port, packet, &outside)?,
        false => None,
    };
    let inside = match (led, answers) {
        (Some((inside, _)), _) => Some(inside),
        (None, true) => hairpin::asker(ctx, port, &outside),
        (None, false) => ctx.tables.host_port(&outside),
    };
    let Some(inside) = inside else {
        // What else is to the gateway's address is for the switch itself; over IPv6 the mask is nobody's.
        return match answers && !outside.is_v4() {
            true => Err(Reason::NatNoBinding),
            false => Ok(()),
        };
    };
    if !answers && port.addresses().contains_key(&inside.address) {
        hairpin::put_on(ctx, port, packet, &outside, &inside)?;
    }
    lead_to(ctx, packet, &outside, &inside, led.map(|(_, id)| id))
}

/// Translates a packet that has come in, and what an error quotes; `bound` to a service's backend.
pub(super) fn lead_to(
    ctx: &mut Context<'_>,
    packet: &mut Packet,
    outside: &FlowKey,
    inside: &Endpoint,
    bound: Option<BindingId>,
) -> Result<(), Reason> {
    // Its later fragments come in as it did.
    connection::note_first_fragment(ctx, packet);
    let seen_as = match bound {
        Some(id) => SeenAs::led(id.number(), outside.dport),
        None => SeenAs::new(&packet.meta.parsed.key.dst, outside.dport),
    };
    let parsed = packet.meta.parsed;
    let bytes = packet.frame.bytes_mut();
    let quoted =
        !is_icmp_error(&parsed) || translate::set_quoted_end(bytes, &parsed, End::Source, inside);
    if !(quoted && set_destination(packet, inside)) {
        return Err(Reason::NatNotTranslatable);
    }
    packet.meta.seen_as = seen_as;
    packet.meta.course = match bound {
        Some(_) => Course::Led,
        None => Course::Plain,
    };
    Ok(())
}

/// Makes a packet what it was before it was translated on its way in; for whoever quotes it.
#[cold]
pub(super) fn undo(ctx: &Context<'_>, packet: &mut Packet) {
    let tables = ctx.tables;
    let led_from = led_from(ctx, packet);
    let Some(seen_as) = packet.meta.seen_as.take() else {
        return;
    };
    let key = &packet.meta.parsed.key;
    let was_led = std::mem::take(&mut packet.meta.course) == Course::Led;
    let came_to = match hairpin::answers(tables, key, seen_as) {
        _ if was_led => led_from,
        true => Some(Endpoint {
            address: hairpin::mask(tables, key),
            port: seen_as.port(),
        }),
        false => endpoint(tables, key, seen_as),
    };
    if has_ports(&packet.meta.parsed) && matches!(key.protocol(), protocol::TCP | protocol::UDP) {
        hairpin::undo(packet);
    }
    if let Some(came_to) = came_to {
        // It went the other way, so all of it is there.
        let _ = set_destination(packet, &came_to);
    }
}

fn set_destination(packet: &mut Packet, to: &Endpoint) -> bool {
    let parsed = &mut packet.meta.parsed;
    let partial = packet.frame.offload.partial_checksum;
    let bytes = packet.frame.bytes_mut();
    if !translate::set_end(bytes, parsed, End::Destination, to, partial) {
        return false;
    }
    match has_ports(parsed) {
        true => parsed.key = parsed.key.with_destination(to),
        false => parsed.key.dst = to.address,
    }
    true
}

/// Whether the key of a packet has ports or an identifier that are its own.
fn has_ports(parsed: &Parsed) -> bool {
    parsed.fragment != Fragment::Later && !is_icmp_error(parsed)
}
