// SPDX-License-Identifier: Apache-2.0
//! Routes and neighbors.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Build;
use crate::ids::{PortId, VrfId};
use crate::tables::limits::{MAX_GROUPS, MAX_NEIGHBORS, MAX_ROUTES};
use crate::tables::route::{Adjacency, Group, Target, host};
use crate::tables::{
    NeighborKey, NextHop, PortEntry, PortKind, Route, RouteKey, TableError, Tables,
};
use crate::wire::MacAddr;

/// As many routes are looked for in memory together.
const FEW_ROUTES: usize = 4;

impl Target {
    /// Whether it uses a link.
    pub(super) fn uses(self, tables: &Tables, link: u32) -> bool {
        let by = |index| tables.adjacency(index).is_some_and(|a| a.link == link);
        match self {
            Target::Via(index) => by(index),
            Target::OnLink(own) => own == link,
            Target::Group(group) => {
                let group = tables.groups.get(group);
                group.is_some_and(|g| g.adjacencies.iter().any(|a| by(*a)))
            }
            Target::Blackhole | Target::Unreachable | Target::Prohibit => false,
        }
    }

    /// Whether a packet may leave by an adjacency.
    fn has_hop(self, tables: &Tables, adjacency: u32) -> bool {
        match self {
            Target::Via(index) => index == adjacency,
            Target::Group(group) => {
                let group = tables.groups.get(group);
                group.is_some_and(|g| g.adjacencies.contains(&adjacency))
            }
            _ => false,
        }
    }
}

impl Build {
    fn route(&self, key: &RouteKey) -> Option<Target> {
        let vrf = self.tables.vrfs.get_exact(key.vrf.0)?;
        vrf.fib.route(key.prefix)
    }

    /// Gives up what routes refer to that go or become others, and takes out those that go; all of them, unless the others can be changed
    /// `in_place`.
    pub(super) fn remove_routes(
        &mut self,
        routes: &BTreeMap<RouteKey, Option<Route>>,
        in_place: bool,
    ) {
        // Of many changes in one edit, most of what is to be copied has been.
        let few = routes.len() <= FEW_ROUTES;
        for key in routes.keys().filter(|_| few) {
            if let Some(vrf) = self.tables.vrfs.get_exact(key.vrf.0) {
                vrf.fib.prefetch_change(key.prefix);
            }
        }
        for (key, new) in routes {
            let Some(target) = self.route(key) else {
                continue;
            };
            if *new == self.tables.untargeted(target) {
                continue;
            }
            self.release(key.vrf, target);
            if new.is_some() && in_place {
                continue;
            }
            self.vrf_mut(key.vrf).fib.set_route(key.prefix, None);
            self.tables.counts.routes -= 1;
            self.ways_changed(key.prefix);
        }
    }

    /// Puts in routes that are not there or are to be others.
    pub(super) fn set_routes(
        &mut self,
        routes: &BTreeMap<RouteKey, Option<Route>>,
    ) -> Result<(), TableError> {
        for (key, route) in routes {
            let Some(new) = route else { continue };
            let old = self.route(key);
            if old.is_some_and(|old| self.tables.untargeted(old) == *route) {
                continue;
            }
            let target = self.target(key, new)?;
            let fib = &mut self.vrf_mut(key.vrf).fib;
            fib.set_route(key.prefix, Some(target));
            self.tables.counts.routes += usize::from(old.is_none());
            self.ways_changed(key.prefix);
            if self.tables.counts.routes > MAX_ROUTES {
                return Err(TableError::limit(
                    key,
                    "routes",
                    self.tables.counts.routes,
                    MAX_ROUTES,
                ));
            }
        }
        Ok(())
    }

    /// Looks up what a route refers to, and counts the reference.
    fn target(&mut self, key: &RouteKey, route: &Route) -> Result<Target, TableError> {
        match route {
            Route::Unicast {
                port,
                via: Some(via),
                mtu,
            } => self.via(key, *port, *via, *mtu).map(Target::Via),
            Route::Unicast {
                port,
                via: None,
                mtu,
            } => self.on_link(key, *port, *mtu),
            Route::Multipath { hops, mtu } => self.group(key, hops, *mtu),
            Route::Blackhole => Ok(Target::Blackhole),
            Route::Unreachable => Ok(Target::Unreachable),
            Route::Prohibit => Ok(Target::Prohibit),
        }
    }

    fn on_link(
        &mut self,
        key: &RouteKey,
        port: PortId,
        mtu: Option<u32>,
    ) -> Result<Target, TableError> {
        let entry = self.routed_port(key, port, key.vrf)?;
        if entry.tunnel().is_some() {
            let needs = format!("a next hop behind port {port} \"{}\"", entry.name);
            let hint = "name the other end of the tunnel as next hop";
            return Err(TableError::dangling(key, needs, hint));
        }
        let link = self.link(port, key.vrf, mtu)?;
        if let Some(link) = self.link_mut(link) {
            link.routes += 1;
        }
        Ok(Target::OnLink(link))
    }

    /// The adjacency of a next hop, with one more route by it.
    fn via(
        &mut self,
        key: &RouteKey,
        port: PortId,
        address: IpAddr,
        mtu: Option<u32>,
    ) -> Result<u32, TableError> {
        let entry = self.routed_port(key, port, key.vrf)?;
        if entry.tunnel().is_none() && address.is_ipv4() != key.prefix.addr().is_ipv4() {
            let problem = "is not of the prefix's address family";
            return Err(TableError::invalid(key, "next hop", address, problem));
        }
        let link = self.link(port, key.vrf, mtu)?;
        let adjacency = self.station(link, address)?;
        if let Some(link) = self.link_mut(link) {
            link.routes += 1;
        }
        if self.add_routes(link, address, 1) == 1 {
            let hops = &mut self.vrf_mut(key.vrf).next_hops;
            let mut all = hops
                .get(host(address))
                .map(|a| a.to_vec())
                .unwrap_or_default();
            all.push(adjacency);
            hops.insert(host(address), all.into());
        }
        self.hops.insert(adjacency);
        Ok(adjacency)
    }

    /// A group of next hops, with one more route by it; routes with the same next hops share one.
    fn group(
        &mut self,
        key: &RouteKey,
        hops: &Arc<[NextHop]>,
        mtu: Option<u32>,
    ) -> Result<Target, TableError> {
        let is = |g: &Group| g.vrf == key.vrf && g.mtu == mtu && g.hops == *hops;
        let known = self.tables.groups.iter().find(|(_, g)| is(g));
        if let Some(index) = known.map(|(index, _)| index) {
            if let Some(group) = self.tables.groups.get_mut(index) {
                Arc::make_mut(group).routes += 1;
            }
            return Ok(Target::Group(index));
        }
        let mut adjacencies = Vec::with_capacity(hops.len());
        for hop in hops.iter() {
            adjacencies.push(self.via(key, hop.port, hop.via, mtu)?);
        }
        let group = Arc::new(Group {
            vrf: key.vrf,
            hops: hops.clone(),
            mtu,
            adjacencies: adjacencies.into(),
            routes: 1,
        });
        let groups = &mut self.tables.groups;
        let index = groups.insert(MAX_GROUPS, self.oldest, group);
        index.map(Target::Group).ok_or_else(|| {
            TableError::limit(key, "groups of next hops", groups.len() + 1, MAX_GROUPS)
        })
    }

    /// Uncounts what a route referred to.
    fn release(&mut self, vrf: VrfId, target: Target) {
        match target {
            Target::Via(adjacency) => self.release_hop(vrf, adjacency),
            Target::OnLink(index) => self.release_link(index),
            Target::Group(index) => self.release_group(index),
            Target::Blackhole | Target::Unreachable | Target::Prohibit => {}
        }
    }

    fn release_group(&mut self, index: u32) {
        let Some(group) = self.tables.groups.get_mut(index).map(Arc::make_mut) else {
            return;
        };
        group.routes -= 1;
        if group.routes > 0 {
            return;
        }
        let generation = self.tables.generation;
        let group = self.tables.groups.remove(index, generation);
        for group in group.iter() {
            for adjacency in group.adjacencies.iter() {
                self.release_hop(group.vrf, *adjacency);
            }
        }
    }

    fn release_link(&mut self, index: u32) {
        if let Some(link) = self.link_mut(index) {
            link.routes -= 1;
            self.idle.insert(index);
        }
    }

    fn release_hop(&mut self, vrf: VrfId, adjacency: u32) {
        let Some(&Adjacency {
            port,
            address,
            link,
            ..
        }) = self.tables.adjacency(adjacency)
        else {
            return;
        };
        self.release_link(link);
        if self.add_routes(link, address, -1) > 0 {
            return;
        }
        self.loose.insert((port, address));
        let hops = &mut self.vrf_mut(vrf).next_hops;
        let rest: Arc<[u32]> = match hops.get(host(address)) {
            Some(all) => all.iter().copied().filter(|a| *a != adjacency).collect(),
            None => return,
        };
        match rest.is_empty() {
            true => hops.remove(host(address)),
            false => hops.insert(host(address), rest),
        };
    }

    /// Counts routes by a station; returns how many there are now.
    fn add_routes(&mut self, link: u32, address: IpAddr, change: i32) -> u32 {
        let Some(link) = self.link_mut(link) else {
            return 0;
        };
        let Some(station) = link.stations.get_mut(address) else {
            return 0;
        };
        station.routes = station.routes.saturating_add_signed(change);
        station.routes
    }

    /// The routed port of this id in this VRF.
    fn routed_port(
        &self,
        object: impl ToString,
        id: PortId,
        vrf: VrfId,
    ) -> Result<&PortEntry, TableError> {
        let Some(port) = self.tables.port(id) else {
            return Err(TableError::dangling(
                object,
                format!("port {id}"),
                "add the port first",
            ));
        };
        let name = || format!("port {id} \"{}\"", port.name);
        match port.kind {
            PortKind::L2 { .. } => {
                let hint = "that port is in an L2 segment; name a routed one";
                Err(TableError::dangling(
                    object,
                    format!("{} to be routed", name()),
                    hint,
                ))
            }
            _ if port.vrf != vrf => {
                let hint = "use the port's own VRF";
                Err(TableError::dangling(
                    object,
                    format!("{} to be in VRF {vrf}, not {}", name(), port.vrf),
                    hint,
                ))
            }
            PortKind::Routed { .. } | PortKind::Uplink { .. } | PortKind::Tunnel(_) => Ok(port),
        }
    }

    /// A route of the VRF, for errors.
    pub(super) fn route_by(&self, vrf: VrfId, is: impl Fn(Target) -> bool) -> String {
        let mut name = format!("a route (vrf {vrf})");
        if let Some(table) = self.tables.vrfs.get_exact(vrf.0) {
            table.fib.visit_routes(&mut |prefix, target| {
                if is(target) {
                    name = RouteKey { vrf, prefix }.to_string();
                }
            });
        }
        name
    }

    /// Refuses next hops that are not on the link of their port: neither a known station there nor, by the longest
    /// match, inside an on-link route by that port.
    pub(super) fn check_next_hops(
        &mut self,
        routes: &BTreeMap<RouteKey, Option<Route>>,
    ) -> Result<(), TableError> {
        for key in routes.keys() {
            if let Some(vrf) = self.tables.vrfs.get_exact(key.vrf.0) {
                vrf.next_hops
                    .visit_within(key.prefix, &mut |_, all| self.hops.extend(all.iter()));
            }
        }
        for index in &self.hops {
            let Some(hop) = self.tables.adjacency(*index) else {
                continue;
            };
            let Some(link) = self.tables.links.get(hop.link) else {
                continue;
            };
            let used = link
                .stations
                .get(host(hop.address))
                .is_some_and(|s| s.routes > 0);
            // Next hops behind an uplink are asked for.
            let outside = |p: &PortEntry| p.uplink().is_some();
            if !used
                || self.known(hop.port, hop.address).is_some()
                || self.tables.port(hop.port).is_some_and(outside)
            {
                continue;
            }
            let vrf = self.tables.vrfs.get_exact(link.vrf.0);
            let by = match vrf.and_then(|v| v.fib.lookup(hop.address)) {
                Some(Target::OnLink(link)) => self.tables.links.get(link).map(|l| l.port),
                _ => None,
            };
            if by != Some(hop.port) {
                let object = self.route_by(link.vrf, |t| t.has_hop(&self.tables, *index));
                let needs = format!("next hop {} on the link of port {}", hop.address, hop.port);
                let hint =
                    "add a neighbor for it, or an on-link route that covers it, by that port";
                return Err(TableError::dangling(object, needs, hint));
            }
        }
        Ok(())
    }

    pub(super) fn remove_neighbors(&mut self, neighbors: &BTreeMap<NeighborKey, Option<MacAddr>>) {
        for (key, mac) in neighbors {
            let in_vrf = self.tables.port(key.port).is_some_and(|p| p.vrf == key.vrf);
            let there = self
                .behind(key.port)
                .is_some_and(|b| b.neighbors.get(host(key.address)).is_some());
            if mac.is_none() && in_vrf && there {
                self.behind_mut(key.port)
                    .neighbors
                    .remove(host(key.address));
                self.tables.counts.neighbors -= 1;
                self.station_unknown(key.port, key.address);
            }
        }
    }

    pub(super) fn set_neighbors(
        &mut self,
        neighbors: &BTreeMap<NeighborKey, Option<MacAddr>>,
    ) -> Result<(), TableError> {
        for (key, mac) in neighbors {
            let Some(mac) = mac else { continue };
            let port = self.routed_port(key, key.port, key.vrf)?;
            if port.addresses().contains(key.address) {
                let holder = format!("port {} \"{}\" itself", port.id, port.name);
                return Err(TableError::conflict(key, "address", key.address, holder));
            }
            let old = self
                .behind(key.port)
                .and_then(|b| b.neighbors.get(host(key.address)));
            if old == Some(mac) {
                continue;
            }
            let new_at_node = port.node && old.is_none();
            self.tables.counts.neighbors += usize::from(old.is_none());
            if self.tables.counts.neighbors > MAX_NEIGHBORS {
                let count = self.tables.counts.neighbors;
                return Err(TableError::limit(key, "neighbors", count, MAX_NEIGHBORS));
            }
            if new_at_node {
                // Until now the node itself took what is for it.
                self.ways_changed(host(key.address));
            }
            self.behind_mut(key.port)
                .neighbors
                .insert(host(key.address), *mac);
            self.station_known(key.port, key.address)?;
        }
        Ok(())
    }
}
