// SPDX-License-Identifier: Apache-2.0
//! What has been found out about the links of NICs, and how it goes into the tables beside the desired state: what that
//! says of the same neighbour or prefix wins.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_api::desired::{DesiredState, Difference};
use podswitch_api::object::{self, NeighborKey, Object, Port, RouteKey};
use podswitch_datapath::tables::{Edit, NextHop, Route};
use podswitch_datapath::{PortId, VrfId, wire};

use super::import::{Hop, Imported};
use super::resolver::Probe;
use super::service::Change;
use crate::names::Names;

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    neighbors: BTreeMap<(PortId, IpAddr), Found>,
    /// By prefix, of each of the kernel's routing tables.
    routes: BTreeMap<IpNet, BTreeMap<u32, Imported>>,
}

/// Where a neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    vrf: VrfId,
    mac: MacAddr,
}

impl Known {
    /// Takes a neighbour in, or out.
    pub fn note_neighbor(&mut self, change: &Change) {
        let key = (change.port, change.address);
        match change.mac {
            Some(mac) => drop(self.neighbors.insert(
                key,
                Found {
                    vrf: change.vrf,
                    mac,
                },
            )),
            None => drop(self.neighbors.remove(&key)),
        }
    }

    /// Takes the route of a prefix in, or out; what it was before.
    pub fn note_route(
        &mut self,
        table: u32,
        prefix: IpNet,
        route: Option<Imported>,
    ) -> Option<Imported> {
        let of_prefix = self.routes.entry(prefix).or_default();
        let before = match route {
            Some(route) => of_prefix.insert(table, route),
            None => of_prefix.remove(&table),
        };
        if of_prefix.is_empty() {
            self.routes.remove(&prefix);
        }
        before
    }

    /// Puts a neighbour into the tables as it is known, unless the desired state has it.
    pub fn put_neighbor(
        &self,
        edit: &mut Edit,
        at: (VrfId, PortId, IpAddr),
        state: &DesiredState,
        names: &Names,
    ) {
        let (vrf, port, address) = at;
        if is_desired(state, names, at) {
            return;
        }
        match self.neighbors.get(&(port, address)) {
            Some(found) => edit.set_neighbor(vrf, port, address, wire::MacAddr(found.mac.0)),
            None => edit.remove_neighbor(vrf, port, address),
        };
    }

    /// Puts a prefix into the tables as it is known, unless the desired state has it; as it is without the port `gone`.
    pub fn put_route(
        &self,
        edit: &mut Edit,
        prefix: IpNet,
        state: &DesiredState,
        gone: Option<PortId>,
    ) {
        let key = RouteKey { vrf: 0, prefix };
        if state.routes.contains_key(&key) {
            return;
        }
        match self.route(prefix, gone) {
            Some(route) => edit.set_route(VrfId(0), prefix, route),
            None => edit.remove_route(VrfId(0), prefix),
        };
    }

    /// The route of a prefix: that of the table with the smallest number which has one.
    fn route(&self, prefix: IpNet, gone: Option<PortId>) -> Option<Route> {
        let (_, imported) = self.routes.get(&prefix)?.first_key_value()?;
        let hops = imported.hops.iter();
        compiled(hops.filter(|hop| Some(hop.port) != gone), imported.mtu)
    }

    /// After differences of the desired state have gone into an edit: puts back what they had hidden, and takes out what is
    /// behind a port that goes.
    pub fn amend(
        &self,
        edit: &mut Edit,
        differences: &[Difference],
        state: &DesiredState,
        names: &Names,
    ) {
        for difference in differences {
            match (&difference.before, &difference.after) {
                (Some(Object::Neighbor(n)), _) => {
                    if let Some(port) = names.id(&n.port)
                        && self.neighbors.contains_key(&(port, n.address))
                    {
                        self.put_neighbor(edit, (VrfId(n.vrf), port, n.address), state, names);
                    }
                }
                (Some(Object::Route(r)), None)
                    if r.vrf == 0 && self.routes.contains_key(&r.prefix) =>
                {
                    self.put_route(edit, r.prefix, state, None);
                }
                (Some(Object::Port(before)), after) if !is_same_nic(before, after.as_ref()) => {
                    if let Some(port) = names.id(&before.name) {
                        self.leave(edit, port, state);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes everything out of the tables that is behind a port.
    fn leave(&self, edit: &mut Edit, port: PortId, state: &DesiredState) {
        let of_port = self.neighbors.range((port, IpAddr::from([0; 4]))..);
        for ((_, address), found) in of_port.take_while(|((p, _), _)| *p == port) {
            edit.remove_neighbor(found.vrf, port, *address);
        }
        let by_port = |tables: &BTreeMap<u32, Imported>| {
            let mut hops = tables.values().flat_map(|route| &route.hops);
            hops.any(|hop| hop.port == port)
        };
        for (prefix, _) in self.routes.iter().filter(|(_, tables)| by_port(tables)) {
            self.put_route(edit, *prefix, state, Some(port));
        }
    }

    /// Whether there are routes of the kernel's.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The kernel's table that a prefix is taken from.
    pub fn table_of(&self, prefix: IpNet) -> Option<u32> {
        self.routes.get(&prefix)?.first_key_value().map(|(t, _)| *t)
    }

    /// Prefixes in force that the desired state does not have, with the table that each is from, in order.
    pub fn routes_beside<'a>(
        &'a self,
        state: &'a DesiredState,
    ) -> impl Iterator<Item = (IpNet, u32, &'a Imported)> {
        let hidden = |prefix| state.routes.contains_key(&RouteKey { vrf: 0, prefix });
        let all = self.routes.iter();
        all.filter(move |(prefix, _)| !hidden(**prefix))
            .filter_map(|(prefix, tables)| {
                let (table, route) = tables.first_key_value()?;
                Some((*prefix, *table, route))
            })
    }
}

/// How closely the next hops of a route of the kernel's are to be watched.
pub fn probe(route: &Imported) -> Probe {
    match route.hops.len() {
        0 | 1 => Probe::Keepalive,
        _ => Probe::Fast,
    }
}

/// A route by these next hops, as the tables have it.
fn compiled<'a>(hops: impl Iterator<Item = &'a Hop>, mtu: Option<u32>) -> Option<Route> {
    let hops: Vec<&Hop> = hops.collect();
    let several = hops.iter().filter_map(|hop| {
        Some(NextHop {
            port: hop.port,
            via: hop.via?,
            weight: hop.weight,
        })
    });
    let several: Arc<[NextHop]> = several.collect();
    Some(match (&several[..], &hops[..]) {
        (_, []) => return None,
        ([_, _, ..], _) => Route::Multipath { hops: several, mtu },
        (_, [first, ..]) => Route::Unicast {
            port: first.port,
            via: first.via,
            mtu,
        },
    })
}

/// Whether the desired state has the neighbour, behind the same port.
fn is_desired(state: &DesiredState, names: &Names, at: (VrfId, PortId, IpAddr)) -> bool {
    let (VrfId(vrf), port, address) = at;
    let desired = state.neighbors.get(&NeighborKey { vrf, address });
    desired.is_some_and(|n| names.id(&n.port) == Some(port))
}

/// Whether what is behind a port stays when it changes so.
fn is_same_nic(before: &Port, after: Option<&Object>) -> bool {
    match after {
        Some(Object::Port(after)) => {
            after.device.is_nic() == before.device.is_nic() && after.vrf == before.vrf
        }
        _ => false,
    }
}

/// The neighbours that a route of the desired state wants behind ports, by the ports' names.
pub fn next_hops(route: &object::Route) -> impl Iterator<Item = (&str, IpAddr, Probe)> {
    let probe = match route.nexthops.is_empty() {
        true => Probe::Keepalive,
        false => Probe::Fast,
    };
    route
        .hops()
        .map(move |(via, port)| (port.as_str(), via, probe))
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
