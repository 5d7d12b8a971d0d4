// SPDX-License-Identifier: Apache-2.0
//! Packets that belong to a connection without having its key: ICMP errors about it, and later fragments.

use super::Context;
use super::connection::{Passage, may_go_on};
use crate::flow::{Conversation, FragmentId};
use crate::frame::Packet;
use crate::wire::quoted::{is_icmp_error, quoted_key};
use crate::wire::{FlowKey, Fragment};

/// Whether the packet is an ICMP error.
pub(super) fn is_error(packet: &Packet) -> bool {
    is_icmp_error(&packet.meta.parsed)
}

/// Which packet a fragment is part of.
pub(super) fn fragment_id(packet: &Packet) -> FragmentId {
    let meta = &packet.meta;
    FragmentId::new(&meta.parsed.key, meta.parsed.fragment_id, meta.in_port)
}

/// Whether the packet belongs to a connection that may go on.
pub(super) fn of(ctx: &Context<'_>, passage: Passage<'_>, packet: &Packet) -> bool {
    let parsed = &packet.meta.parsed;
    if parsed.fragment == Fragment::Later {
        let ports = ctx.fragments.find(&fragment_id(packet), ctx.now.millis());
        return ports.is_some_and(|(sport, dport)| {
            is_known(ctx, passage, &parsed.key.with_ports(sport, dport))
        });
    }
    // The error goes to whoever sent the packet it is about (RFC 1122 section 3.2.2).
    quoted_key(packet.frame.bytes(), parsed).is_some_and(|about| {
        // The quoted packet came the other way. Where it was to go need not be where the error comes from.
        about.src == parsed.key.dst && is_known(ctx, passage, &about.reversed())
    })
}

/// Whether a packet with this key, on this passage, would be one of a connection that may go on.
fn is_known(ctx: &Context<'_>, passage: Passage<'_>, key: &FlowKey) -> bool {
    let conversation = Conversation::of(key, ctx.flows.seed());
    let Some(found) = ctx.flows.find_now(&conversation, ctx.now.millis()) else {
        return false;
    };
    may_go_on(ctx, passage, key, &found, conversation.from)
}
