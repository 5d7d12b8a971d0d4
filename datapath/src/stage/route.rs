// SPDX-License-Identifier: Apache-2.0
//! Where a packet goes: the owner of the address in the VRF, else the longest matching route.

use super::Context;
use crate::counters::Event;
use crate::ids::PortId;
use crate::tables::{Adjacency, Hop};
use crate::verdict::Reason;
use crate::wire::{FlowKey, Parsed};

/// The way out, or why there is none.
pub(super) fn run<'a>(ctx: &Context<'a>, parsed: &Parsed) -> Result<&'a Adjacency, Reason> {
    ctx.counters.event(Event::RouteLookup, 1);
    match ctx.tables.route(parsed.key.vrf(), &parsed.key) {
        Hop::Adjacency(way) => Ok(way),
        Hop::Drop(reason) => Err(reason),
    }
}

/// Tells control for which neighbor a packet waits, that came in by a port; the packet itself does not. Whether that neighbor is asked for.
#[cold]
pub(super) fn note_missing(ctx: &mut Context<'_>, in_port: PortId, key: &FlowKey) -> bool {
    let Some(neighbor) = ctx.tables.missing_neighbor(key.vrf(), key) else {
        return false;
    };
    ctx.misses.note(in_port, neighbor, ctx.now);
    let port = ctx.tables.port(neighbor.port);
    port.is_some_and(|port| port.uplink().is_some())
}
