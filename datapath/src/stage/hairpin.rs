// SPDX-License-Identifier: Apache-2.0
//! Hairpinning (RFC 4787 section 6): a pod that comes to itself by a port of the node.
//!
//! No stack takes a packet from outside whose source is its own, so the pod is shown a mask as the source, an address that nobody else ever speaks
//! from by TCP or UDP: the gateway's, and over IPv6 the IPv4 gateway's behind a prefix for local use (RFC 8215), as an answer to a link-local address
//! would come from the pod's own one. The port stays the pod's own, so that this needs no ports of the node. The connection is known by the pod's own
//! addresses at both ends, and bound as any to a port of the node: what is to the mask belongs to such a one, or ends at the switch.
//!
//! | packet | source | destination |
//! |---|---|---|
//! | asks, comes in | pod, `s` | node, host port |
//! | known as | pod, `s` | pod, container port |
//! | goes out | mask, `s` | pod, container port |
//! | answers, comes in | pod, container port | mask, `s` |
//! | known as | pod, container port | pod, `s` |
//! | goes out | node, host port | pod, `s` |

use super::{Context, connection, nat};
use crate::flow::{BindingId, Conversation};
use crate::frame::{Packet, SeenAs};
use crate::tables::{PortEntry, Tables};
use crate::verdict::Reason;
use crate::wire::FlowKey;
use crate::wire::flow_key::map_ip;
use crate::wire::quoted::is_icmp_error;
use crate::wire::translate::{self, End, Endpoint};

/// What a pod that comes to itself is shown, of the family of a packet.
pub(super) fn mask(tables: &Tables, key: &FlowKey) -> [u8; 16] {
    tables.gateway().mask(key.is_v4())
}

/// Whether a packet that was translated on its way in was to the mask.
pub(super) fn answers(tables: &Tables, key: &FlowKey, seen_as: SeenAs) -> bool {
    seen_as.is_at(&mask(tables, key))
}

/// The pod's addresses of the family of a packet.
fn own<'a>(port: &'a PortEntry, key: &FlowKey) -> impl Iterator<Item = [u8; 16]> + use<'a> {
    let v4 = key.is_v4();
    let own = port.addresses().iter().filter(move |a| a.is_ipv4() == v4);
    own.map(map_ip)
}

/// Which end of the pod's own a packet with this key to the mask is really for, if to any.
pub(super) fn asker(ctx: &Context<'_>, port: &PortEntry, key: &FlowKey) -> Option<Endpoint> {
    let ends = own(port, key).map(|address| Endpoint {
        address,
        port: key.dport,
    });
    let mut bound = ends.filter(|end| {
        let inner = key.with_destination(end);
        let live = binding(ctx, &inner).is_some_and(|id| is_of(ctx, id, &inner));
        live || nat::kept(ctx, &inner).is_some() || ctx.nat.is_kept_from(&inner)
    });
    bound.next()
}

/// The binding of the connection that packets with this key belong to.
fn binding(ctx: &Context<'_>, key: &FlowKey) -> Option<BindingId> {
    let conversation = Conversation::of(key, ctx.flows.seed());
    let found = ctx.flows.find_now(&conversation, ctx.now.millis())?;
    found.state().binding()
}

/// Whether packets with this key are from the bound end of a binding.
fn is_of(ctx: &Context<'_>, id: BindingId, key: &FlowKey) -> bool {
    ctx.nat.binder.bindings().known_as(id, key).is_some()
}

/// Shows the pod the mask as the source of a packet that came in as `outside`. Its key stays the pod's.
///
/// # Errors
/// [`Reason::NatHairpin`], the packet unchanged; [`Reason::NatNotTranslatable`].
pub(super) fn put_on(
    ctx: &Context<'_>,
    port: &PortEntry,
    packet: &mut Packet,
    outside: &FlowKey,
    inside: &Endpoint,
) -> Result<(), Reason> {
    if !is_unique(ctx, port, packet, outside, inside) {
        return Err(Reason::NatHairpin);
    }
    let shown = Endpoint {
        address: mask(ctx.tables, outside),
        port: outside.sport,
    };
    match set_source(packet, &shown) {
        true => Ok(()),
        false => Err(Reason::NatNotTranslatable),
    }
}

/// Whether no other connection of the pod to itself would look the same to it.
fn is_unique(
    ctx: &Context<'_>,
    port: &PortEntry,
    packet: &Packet,
    outside: &FlowKey,
    inside: &Endpoint,
) -> bool {
    let known_as = Endpoint {
        address: outside.dst,
        port: outside.dport,
    };
    let answer = outside.with_destination(inside).reversed();
    own(port, outside).all(|asker| {
        let end = Endpoint {
            address: asker,
            port: outside.sport,
        };
        let answer = answer.with_destination(&end);
        let conversation = Conversation::of(&answer, ctx.flows.seed());
        let Some(found) = ctx.flows.find_now(&conversation, ctx.now.millis()) else {
            return true;
        };
        let (state, bindings) = (found.state(), ctx.nat.binder.bindings());
        let bound = state.binding();
        let bound = bound.and_then(|id| bindings.known_as(id, &answer));
        match asker == outside.src {
            true => bound == Some(known_as) || state.begins_anew(connection::signal(packet)),
            false => bound.is_none() || state.phase().is_over(),
        }
    })
}

/// Writes over the source of a packet, whose key stays.
fn set_source(packet: &mut Packet, to: &Endpoint) -> bool {
    let partial = packet.frame.offload.partial_checksum;
    let parsed = packet.meta.parsed;
    translate::set_end(packet.frame.bytes_mut(), &parsed, End::Source, to, partial)
}

/// Readies what leaves from the end that is not bound: an error about an answer, which went to the mask. `key` is that of what the end sends.
///
/// # Errors
/// [`Reason::NatNoBinding`]: the binding is not of a connection of a pod to itself with this key; [`Reason::NatNotTranslatable`].
pub(super) fn leave(
    ctx: &Context<'_>,
    packet: &mut Packet,
    id: BindingId,
    key: &FlowKey,
) -> Result<(), Reason> {
    if !is_of(ctx, id, &key.reversed()) {
        return Err(Reason::NatNoBinding);
    }
    let parsed = packet.meta.parsed;
    let shown = Endpoint {
        address: mask(ctx.tables, key),
        port: key.sport,
    };
    let bytes = packet.frame.bytes_mut();
    let done = !is_icmp_error(&parsed)
        || translate::set_quoted_end(bytes, &parsed, End::Destination, &shown);
    match done {
        true => Ok(()),
        false => Err(Reason::NatNotTranslatable),
    }
}

/// Makes the source of a packet of TCP or UDP what its key says; for whoever quotes it.
pub(super) fn undo(packet: &mut Packet) {
    let key = packet.meta.parsed.key;
    let source = Endpoint {
        address: key.src,
        port: key.sport,
    };
    // It went the other way, so all of it is there.
    let _ = set_source(packet, &source);
}
