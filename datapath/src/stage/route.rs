// SPDX-License-Identifier: Apache-2.0
//! Where a packet goes: the owner of the address in the VRF, else the longest matching route.

use super::Context;
use crate::counters::Event;
use crate::frame::Packet;
use crate::tables::{Adjacency, Hop};
use crate::verdict::Reason;
use crate::wire::Parsed;

/// The way out, or why there is none.
pub(super) fn run<'a>(ctx: &Context<'a>, parsed: &Parsed) -> Result<&'a Adjacency, Reason> {
    ctx.counters.event(Event::RouteLookup, 1);
    match ctx.tables.route(parsed.key.vrf(), &parsed.key) {
        Hop::Adjacency(way) => Ok(way),
        Hop::Drop(reason) => Err(reason),
    }
}

/// Tells control for which neighbor a packet waits; the packet itself does not.
#[cold]
pub(super) fn note_missing(ctx: &mut Context<'_>, packet: &Packet) {
    let key = &packet.meta.parsed.key;
    if let Some(neighbor) = ctx.tables.missing_neighbor(key.vrf(), key) {
        ctx.misses.note(packet.meta.in_port, neighbor, ctx.now);
    }
}
