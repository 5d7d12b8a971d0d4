// SPDX-License-Identifier: Apache-2.0
//! Packets that belong to a connection without having its key: ICMP errors about it, and later fragments.

use super::Context;
use super::connection::{Passage, may_go_on};
use crate::flow::{BindingId, Conversation, FragmentId};
use crate::frame::Packet;
use crate::tables::PortEntry;
use crate::wire::quoted::{is_icmp_error, quoted_key};
use crate::wire::{FlowKey, Fragment};

/// Whether a packet belongs to a connection, if to any, without having its key.
pub(super) fn is_related(packet: &Packet) -> bool {
    let parsed = &packet.meta.parsed;
    parsed.fragment == Fragment::Later || is_icmp_error(parsed)
}

/// Which packet a fragment is part of.
pub(super) fn fragment_id(packet: &Packet) -> FragmentId {
    let meta = &packet.meta;
    let id = (meta.parsed.fragment_id, meta.seen_as);
    FragmentId::new(&meta.parsed.key, id, meta.in_port)
}

/// The connection that a packet belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Related {
    /// The binding that its packets leave under, in this direction.
    pub(super) binding: Option<BindingId>,
}

/// Whether the packet belongs to a connection that may go on, and to which.
pub(super) fn of(ctx: &Context<'_>, passage: Passage<'_>, packet: &Packet) -> Option<Related> {
    let key = key(ctx, packet)?;
    let conversation = Conversation::of(&key, ctx.flows.seed());
    let found = ctx.flows.find_now(&conversation, ctx.now.millis())?;
    let (state, from) = (found.state(), conversation.from);
    let is_sender = |port: &PortEntry| passage.sender.is_some_and(|s| s.id == port.id);
    let itself = passage.receiver.is_some_and(|r| r.is_pod() && is_sender(r));
    may_go_on(ctx, passage, &key, &found, from).then(|| Related {
        // Of a pod that comes to itself both ends are known by others.
        binding: match itself {
            true => state.binding(),
            false => state.binding_of(from),
        },
    })
}

/// The key of a packet of the connection that this one refers to, in the same direction.
pub(super) fn key(ctx: &Context<'_>, packet: &Packet) -> Option<FlowKey> {
    let parsed = &packet.meta.parsed;
    if parsed.fragment == Fragment::Later {
        let ports = ctx.fragments.find(&fragment_id(packet), ctx.now.millis());
        return ports.map(|(sport, dport)| parsed.key.with_ports(sport, dport));
    }
    // The error goes to whoever sent the packet it is about (RFC 1122 section 3.2.2).
    let about = quoted_key(packet.frame.bytes(), parsed)?;
    // The quoted packet came the other way. Where it was to go need not be where the error comes from.
    (about.src == parsed.key.dst).then(|| about.reversed())
}
