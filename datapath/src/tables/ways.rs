// SPDX-License-Identifier: Apache-2.0
//! Where packets of a VRF go.
#![forbid(unsafe_code)]

use super::Tables;
use super::route::{Hop, Target, Vrf};
use crate::verdict::Reason;
use crate::wire::FlowKey;

/// The ways of one VRF.
#[derive(Clone, Copy, Debug)]
pub struct Ways<'t> {
    pub(super) tables: &'t Tables,
    pub(super) vrf: Option<&'t Vrf>,
}

impl<'t> Ways<'t> {
    /// Asks for what [`route`](Ways::route) waits for longest, some time before.
    #[inline(always)]
    pub fn prefetch(&self, key: &FlowKey) {
        if let Some(vrf) = self.vrf {
            vrf.fib.prefetch_key(&key.dst);
        }
    }

    /// Where a packet to the key's destination address goes: to the port that has the address, else by the route of the longest
    /// prefix.
    #[inline(always)]
    pub fn route(&self, key: &FlowKey) -> Hop<'t> {
        let found = self.vrf.and_then(|vrf| vrf.fib.lookup_key(&key.dst));
        let hop = match found {
            Some(Target::Via(index)) => self.tables.resolved(index),
            Some(other) => self.other(other, key),
            None => None,
        };
        hop.unwrap_or(Hop::Drop(Reason::NoRoute))
    }

    /// Where what is no adjacency leads.
    #[inline(never)]
    fn other(&self, target: Target, key: &FlowKey) -> Option<Hop<'t>> {
        let tables = self.tables;
        match target {
            Target::Via(index) => tables.resolved(index),
            Target::OnLink(link) => match tables.links.get(link)?.station(&key.dst) {
                Some(station) => tables.resolved(station.adjacency),
                None => Some(Hop::Drop(Reason::NeighborUnresolved)),
            },
            Target::Group(group) => tables.chosen(group, || key.spread()),
            Target::Blackhole => Some(Hop::Drop(Reason::RouteBlackhole)),
            Target::Unreachable => Some(Hop::Drop(Reason::RouteUnreachable)),
            Target::Prohibit => Some(Hop::Drop(Reason::RouteProhibit)),
        }
    }
}
