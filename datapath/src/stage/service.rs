// SPDX-License-Identifier: Apache-2.0
//! Services: what goes to one is led to a backend before anything else is decided, and what comes back is shown as the service's.
//!
//! The client's end knows: the worker of the port that the client is behind chooses a backend, binds the connection and translates both ways. From
//! then on the connection is that of client and backend; policy, routes, counters and the backend's own worker see no service.
//!
//! | packet | source | destination |
//! |---|---|---|
//! | asks, comes in | client, `s` | service, port |
//! | known as | client, `s` | backend, its port |
//! | answers, comes in | backend, its port | client, `s` |
//! | goes out to the client | service, port | client, `s` |
//!
//! A connection stays with its backend as long as it is bound, whatever becomes of the service. A packet that opens one goes to a backend that serves
//! now; so does what has no end of its own (UDP), when it is judged again because its backend serves no more.

use super::{Context, connection, hairpin, icmp_error, nat, outside, related};
use crate::flow::{BindingId, Conversation, Found, Opening, Phase};
use crate::frame::Packet;
use crate::tables::{Client, PortEntry, Served, Service};
use crate::verdict::{Reason, Verdict};
use crate::wire::icmp_error::IcmpError;
use crate::wire::translate::{self, Endpoint};
use crate::wire::{FlowKey, protocol};

/// Backends that are tried for a connection.
const TRIES: u64 = 8;

/// A backend, and the binding of the connection to it.
pub(super) type Led = (Endpoint, BindingId);

fn client(port: &PortEntry) -> Client {
    match port.is_outside() {
        true => Client::Outside,
        false => Client::Inside,
    }
}

/// Whom a packet is for whose connection's packets have this key, if it is to a service.
///
/// # Errors
/// Why nobody serves.
pub(super) fn find(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &Packet,
    outside: &FlowKey,
) -> Result<Option<Led>, Reason> {
    let known = ctx.nat.binder.bindings().find_led(outside);
    let known = known.or_else(|| ctx.nat.lead_kept(ctx.flows, outside, ctx.now.millis()));
    let known = known.map(|(id, inside)| (inside, id));
    let is_related = related::is_related(packet);
    if known.is_some() && (is_related || !opens(packet)) {
        return Ok(known);
    }
    if let Some((inside, _)) = known
        && is_open(ctx, outside, &inside)
    {
        // A late duplicate of what opened it.
        return Ok(known);
    }
    let served = match ctx.tables.service(outside, client(port)) {
        Some(served) => served?,
        None => return Ok(None),
    };
    if is_related || !translate::can_begin(&packet.meta.parsed) {
        return Err(Reason::ServiceUntranslatable);
    }
    if let Some((inside, _)) = known
        && served.backends.has(&inside)
        && !clashes(ctx, outside, &inside)
    {
        return Ok(known);
    }
    choose(ctx, port, packet, (outside, &served)).map(Some)
}

/// Whether a packet opens a connection of a protocol that says so.
fn opens(packet: &Packet) -> bool {
    let signal = connection::signal(packet);
    signal.protocol != protocol::UDP && signal.opening() == Opening::Opens
}

/// Chooses a backend and binds the connection to it.
fn choose(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &Packet,
    (outside, served): (&FlowKey, &Served<'_>),
) -> Result<Led, Reason> {
    if port.is_outside() {
        // Nobody loses his backend to somebody who wears his address.
        outside::check_source(ctx, port, packet)?;
    }
    let now = ctx.now.millis();
    let Served { service, backends } = served;
    let number = number(service);
    let stays = service.affinity.and_then(|timeout| {
        let stay = ctx.nat.affinity.get(&outside.src, number, timeout, now);
        stay.filter(|end| backends.has(end))
    });
    let candidates = (0..TRIES).filter_map(|n| served.choose(outside, n));
    let mut candidates = stays.into_iter().chain(candidates);
    let inside = candidates.find(|end| !clashes(ctx, outside, end));
    let inside = inside.ok_or(Reason::ServiceClash)?;
    let id = ctx.nat.binder.lead(ctx.flows, outside, inside, now);
    let id = id.map_err(|_| Reason::NatNoPort)?;
    if service.affinity.is_some() {
        ctx.nat.affinity.note(&outside.src, number, inside, now);
    }
    Ok((inside, id))
}

/// The connection of a client and a backend, and as what the client knows the backend in it: none where it is no binding's.
fn connection_to(
    ctx: &Context<'_>,
    outside: &FlowKey,
    inside: &Endpoint,
) -> Option<(Found, Option<Endpoint>)> {
    let key = outside.with_destination(inside);
    let conversation = Conversation::of(&key, ctx.flows.seed());
    let found = ctx.flows.find_now(&conversation, ctx.now.millis())?;
    let bindings = ctx.nat.binder.bindings();
    let bound = found.state().binding();
    let known_as = bound.and_then(|id| bindings.known_as(id, &key.reversed()));
    Some((found, known_as))
}

/// Whether the connection through this service is open already.
fn is_open(ctx: &Context<'_>, outside: &FlowKey, inside: &Endpoint) -> bool {
    let Some((found, known_as)) = connection_to(ctx, outside, inside) else {
        return false;
    };
    let phase = found.state().phase();
    let open = matches!(phase, Phase::TcpEstablished | Phase::TcpHalfClosed);
    open && known_as == Some(outside.destination())
}

/// Whether the client talks to a backend already, from the same port and not through this service: it could not be told which answer is to what.
fn clashes(ctx: &mut Context<'_>, outside: &FlowKey, inside: &Endpoint) -> bool {
    let Some((found, known_as)) = connection_to(ctx, outside, inside) else {
        return false;
    };
    let state = found.state();
    if state.binding().is_some() && known_as.is_none() {
        // The client was led elsewhere since, and comes back: it begins anew.
        ctx.flows.remove(&found);
        return false;
    }
    !state.phase().is_over() && known_as != Some(outside.destination())
}

/// What stands for a service: a hash of its name (FNV-1a).
fn number(service: &Service) -> u64 {
    let next = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    service.name.bytes().fold(0xcbf2_9ce4_8422_2325, next)
}

/// What becomes of a packet that nobody serves.
#[cold]
pub(super) fn refuse(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    reason: Reason,
) -> Verdict {
    match reason {
        Reason::ServiceNoBackend | Reason::ServiceNoPort => {
            icmp_error::refuse(ctx, port, packet, reason, IcmpError::PortUnreachable)
        }
        _ => Verdict::Drop(reason),
    }
}

/// Leads a packet without an end of its own anew, if the backend that it was led to serves no more. Returns whether it did.
///
/// # Errors
/// Why nobody serves.
pub(super) fn lead_anew(
    ctx: &mut Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
) -> Result<bool, Reason> {
    let key = packet.meta.parsed.key;
    if !packet.meta.is_led() || key.protocol() != protocol::UDP || related::is_related(packet) {
        return Ok(false);
    }
    let inside = key.destination();
    let Some(seen_as) = nat::led_from(ctx, packet) else {
        return Ok(false);
    };
    let outside = key.with_destination(&seen_as);
    let served = ctx.tables.service(&outside, client(port));
    let served = served.unwrap_or(Err(Reason::ServiceNoBackend))?;
    if served.backends.has(&inside) {
        return Ok(false);
    }
    let led = choose(ctx, port, packet, (&outside, &served))?;
    // Whoever came to himself is shown as himself again.
    hairpin::undo(packet);
    nat::lead_to(ctx, packet, &outside, &led.0, Some(led.1))?;
    Ok(true)
}
