// SPDX-License-Identifier: Apache-2.0
//! For want of which neighbor a packet has no way.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::route::Target;
use super::{NeighborKey, Tables};
use crate::ids::VrfId;
use crate::wire::FlowKey;
use crate::wire::flow_key::to_ip;

impl Tables {
    /// The neighbor that is to be known for a packet to leave of which [`Tables::route`] says
    /// [`NeighborUnresolved`](crate::Reason::NeighborUnresolved); `None` when that is not what it says.
    pub fn missing_neighbor(&self, vrf: VrfId, key: &FlowKey) -> Option<NeighborKey> {
        let target = self.vrfs.get_exact(vrf.0)?.fib.lookup_key(&key.dst)?;
        let neighbor = |link: u32, address: IpAddr| {
            let link = self.links.get(link)?;
            Some(NeighborKey {
                vrf,
                port: link.port,
                address,
            })
        };
        match target {
            Target::Via(index) => {
                let hop = self.adjacencies.get(index).filter(|a| !a.resolved)?;
                neighbor(hop.link, hop.address)
            }
            Target::OnLink(link) => {
                let station = self.links.get(link)?.station(&key.dst);
                let known = station.and_then(|s| self.adjacencies.get(s.adjacency));
                match known.is_some_and(|a| a.resolved) {
                    true => None,
                    false => neighbor(link, to_ip(&key.dst)),
                }
            }
            // All of them are asked for as long as there is the group.
            Target::Group(group) => {
                let group = self.groups.get(group)?;
                let hops = group.adjacencies.iter();
                let hop = hops.filter_map(|a| self.adjacencies.get(*a)).next()?;
                let resolved = |a: &u32| self.adjacencies.get(*a).is_some_and(|a| a.resolved);
                match group.adjacencies.iter().any(resolved) {
                    true => None,
                    false => neighbor(hop.link, hop.address),
                }
            }
            Target::Blackhole | Target::Unreachable | Target::Prohibit => None,
        }
    }
}
