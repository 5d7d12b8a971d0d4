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

use super::{Context, connection, icmp_error, nat, related};
use crate::flow::{BindingId, Conversation, Opening};
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
    let known = ctx.nat.binder.bindings().find(outside);
    let known = known.or_else(|| ctx.nat.lead_kept(ctx.flows, outside, ctx.now.millis()));
    let known = known.map(|(id, inside)| (inside, id));
    let is_related = related::is_related(packet);
    if known.is_some() && (is_related || !opens(packet)) {
        return Ok(known);
    }
    let served = match ctx.tables.service(outside, client(port)) {
        Some(served) => served?,
        None => return Ok(None),
    };
    if is_related || !translate::can_begin(&packet.meta.parsed) {
        return Err(Reason::ServiceUntranslatable);
    }
    match known.filter(|(inside, _)| served.backends.has(inside)) {
        Some(known) => Ok(Some(known)),
        None => choose(ctx, outside, &served).map(Some),
    }
}

/// Whether a packet opens a connection of a protocol that says so.
fn opens(packet: &Packet) -> bool {
    let signal = connection::signal(packet);
    signal.protocol != protocol::UDP && signal.opening() == Opening::Opens
}

/// Chooses a backend and binds the connection to it.
fn choose(ctx: &mut Context<'_>, outside: &FlowKey, served: &Served<'_>) -> Result<Led, Reason> {
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

/// Whether the client talks to a backend already, from the same port and not through this service: it could not be told which answer is to what.
fn clashes(ctx: &Context<'_>, outside: &FlowKey, inside: &Endpoint) -> bool {
    let key = outside.with_destination(inside);
    let conversation = Conversation::of(&key, ctx.flows.seed());
    let Some(found) = ctx.flows.find_now(&conversation, ctx.now.millis()) else {
        return false;
    };
    let state = found.state();
    let bound = state.binding();
    let as_this = Endpoint {
        address: outside.dst,
        port: outside.dport,
    };
    let bindings = ctx.nat.binder.bindings();
    let known_as = bound.and_then(|id| bindings.known_as(id, &key.reversed()));
    !state.phase().is_over() && known_as != Some(as_this)
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
    let inside = Endpoint {
        address: key.dst,
        port: key.dport,
    };
    let Some(seen_as) = nat::led_from(ctx, packet) else {
        return Ok(false);
    };
    let outside = key.with_destination(&seen_as);
    let served = ctx.tables.service(&outside, client(port));
    let served = served.unwrap_or(Err(Reason::ServiceNoBackend))?;
    if served.backends.has(&inside) {
        return Ok(false);
    }
    let led = choose(ctx, &outside, &served)?;
    nat::lead_to(ctx, packet, &outside, &led.0, Some(led.1))?;
    Ok(true)
}
