// SPDX-License-Identifier: Apache-2.0
//! Links, the stations behind them, and their adjacencies.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use super::Build;
use crate::ids::{PortId, VrfId};
use crate::tables::limits::{MAX_ADJACENCIES, MAX_LINKS};
use crate::tables::route::{ANYBODY, Link, Station, host};
use crate::tables::{Adjacency, Behind, TableError};
use crate::wire::MacAddr;

impl Build {
    pub(super) fn behind(&self, port: PortId) -> Option<&Behind> {
        self.tables.behind.get(port.index())?.as_deref()
    }

    pub(super) fn behind_mut(&mut self, port: PortId) -> &mut Behind {
        Arc::make_mut(
            self.tables
                .behind
                .get_mut(port.index())
                .get_or_insert_default(),
        )
    }

    pub(super) fn link_mut(&mut self, link: u32) -> Option<&mut Link> {
        self.tables.links.get_mut(link).map(Arc::make_mut)
    }

    /// Indices of a port's links.
    pub(super) fn links_of(&self, port: PortId) -> Vec<u32> {
        self.behind(port)
            .map(|b| b.links.clone())
            .unwrap_or_default()
    }

    /// The MAC address of a station behind a port: of its own, or of a static neighbor. The node's own stack is the way to whoever is
    /// beyond it.
    pub(super) fn known(&self, port: PortId, address: IpAddr) -> Option<MacAddr> {
        match self.tables.port(port) {
            Some(entry) if entry.addresses().contains(address) => Some(entry.mac),
            Some(entry) if entry.node && address.is_unspecified() => Some(entry.mac),
            _ => self.behind(port)?.neighbors.get(host(address)).copied(),
        }
    }

    /// The link of a port and route MTU. A new one knows all stations behind the port.
    pub(super) fn link(
        &mut self,
        port: PortId,
        vrf: VrfId,
        mtu: Option<u32>,
    ) -> Result<u32, TableError> {
        let links = self.links_of(port);
        let has = |link: &&u32| self.tables.links.get(**link).is_some_and(|l| l.mtu == mtu);
        if let Some(link) = links.iter().find(has) {
            return Ok(*link);
        }
        let link = Link {
            port,
            vrf,
            mtu,
            routes: 0,
            stations: Default::default(),
        };
        let object = format!("port {port} with route MTU {mtu:?}");
        let index = self
            .tables
            .links
            .insert(MAX_LINKS, self.oldest, Arc::new(link))
            .ok_or_else(|| {
                TableError::limit(object, "links", self.tables.links.len() + 1, MAX_LINKS)
            })?;
        self.behind_mut(port).links.push(index);
        let mut addresses: Vec<IpAddr> = Vec::new();
        if let Some(port) = self.tables.port(port) {
            addresses.extend(port.addresses().iter());
            addresses.extend(ANYBODY.into_iter().filter(|_| port.node));
        }
        if let Some(behind) = self.behind(port) {
            behind
                .neighbors
                .visit(&mut |prefix, _| addresses.push(prefix.addr()));
        }
        for address in addresses {
            self.station(index, address)?;
        }
        Ok(index)
    }

    /// The adjacency of an address behind a link.
    pub(super) fn station(&mut self, link: u32, address: IpAddr) -> Result<u32, TableError> {
        let Some(entry) = self.tables.links.get(link) else {
            return Err(TableError::dangling(
                address,
                format!("link {link}"),
                "add its port first",
            ));
        };
        if let Some(station) = entry.stations.get(host(address)) {
            return Ok(station.adjacency);
        }
        let blank = Adjacency {
            index: 0,
            mtu: 0,
            port: entry.port,
            resolved: false,
            wrapped: false,
            dst_mac: MacAddr::ZERO,
            src_mac: MacAddr::ZERO,
            address,
            link,
        };
        let object = format!("{address} behind port {}", entry.port);
        let adjacencies = &mut self.tables.adjacencies;
        let adjacency = adjacencies
            .insert(MAX_ADJACENCIES, self.oldest, blank)
            .ok_or_else(|| {
                TableError::limit(
                    object,
                    "adjacencies",
                    adjacencies.len() + 1,
                    MAX_ADJACENCIES,
                )
            })?;
        if let Some(link) = self.link_mut(link) {
            link.stations.insert(
                host(address),
                Station {
                    adjacency,
                    routes: 0,
                },
            );
        }
        self.stale.insert(adjacency);
        Ok(adjacency)
    }

    /// A station's MAC address became known or changed.
    pub(super) fn station_known(
        &mut self,
        port: PortId,
        address: IpAddr,
    ) -> Result<(), TableError> {
        for link in self.links_of(port) {
            let adjacency = self.station(link, address)?;
            self.stale.insert(adjacency);
        }
        self.rewrap(host(address));
        Ok(())
    }

    /// A station's MAC address may be unknown from now on.
    pub(super) fn station_unknown(&mut self, port: PortId, address: IpAddr) {
        self.loose.insert((port, address));
        self.rewrap(host(address));
        for link in self.links_of(port) {
            let link = self.tables.links.get(link);
            if let Some(station) = link.and_then(|l| l.stations.get(host(address))) {
                self.stale.insert(station.adjacency);
                if station.routes > 0 {
                    self.hops.insert(station.adjacency);
                }
            }
        }
    }

    /// Marks every adjacency of a port.
    pub(super) fn port_changed(&mut self, port: PortId) {
        for link in self.links_of(port) {
            if let Some(link) = self.tables.links.get(link) {
                link.stations.visit(&mut |_, station| {
                    self.stale.insert(station.adjacency);
                });
            }
        }
    }

    /// Frees a link and all behind it; nothing may use it. Connections that know what is no more by its index are judged again: their
    /// route or their port has changed.
    pub(super) fn free_link(&mut self, link: u32) {
        let generation = self.tables.generation;
        let Some(link) = self.tables.links.remove(link, generation) else {
            return;
        };
        link.stations.visit(&mut |prefix, station| {
            self.tables
                .adjacencies
                .remove(station.adjacency, generation);
            self.unwrap(prefix, station.adjacency);
        });
    }

    /// Frees the stations and links that nothing uses any more.
    pub(super) fn drop_loose(&mut self) {
        let generation = self.tables.generation;
        for (port, address) in std::mem::take(&mut self.loose) {
            if self.known(port, address).is_some() {
                continue;
            }
            for link in self.links_of(port) {
                let unused = |l: &Arc<Link>| {
                    l.stations
                        .get(host(address))
                        .filter(|s| s.routes == 0)
                        .map(|s| s.adjacency)
                };
                if let Some(adjacency) = self.tables.links.get(link).and_then(unused) {
                    self.tables.adjacencies.remove(adjacency, generation);
                    self.unwrap(host(address), adjacency);
                    // Connections to it, by a route without a next hop, know by its index what is no more.
                    self.ways_changed(host(address));
                    if let Some(link) = self.link_mut(link) {
                        link.stations.remove(host(address));
                    }
                }
            }
        }
        for link in std::mem::take(&mut self.idle) {
            let unused = |l: &&Arc<Link>| l.routes == 0 && l.mtu.is_some();
            if let Some(port) = self.tables.links.get(link).filter(unused).map(|l| l.port) {
                self.free_link(link);
                self.behind_mut(port).links.retain(|l| *l != link);
            }
        }
    }

    /// Brings the adjacencies up to date that were marked; those by tunnels last, as they depend on others.
    pub(super) fn refresh_adjacencies(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        let by_tunnel = |index: &u32| {
            let port = self.tables.adjacency(*index).map(|a| a.port);
            let port = port.and_then(|port| self.tables.port(port));
            port.is_some_and(|p| p.tunnel().is_some())
        };
        let (tunnels, others): (Vec<u32>, Vec<u32>) = stale.into_iter().partition(by_tunnel);
        for index in others.into_iter().chain(tunnels) {
            self.refresh_adjacency(index);
        }
    }

    fn refresh_adjacency(&mut self, index: u32) {
        let Some(old) = self.tables.adjacency(index).copied() else {
            return;
        };
        let Some(port) = self.tables.port(old.port).cloned() else {
            return;
        };
        let route_mtu = self.tables.links.get(old.link).and_then(|l| l.mtu);
        let mac = self.known(old.port, old.address);
        // The node's own stack takes what is for anybody beyond it, also if a route names who.
        let mac = mac.or(port.node.then_some(port.mac));
        let mut new = Adjacency {
            index,
            mtu: port.mtu.min(route_mtu.unwrap_or(u32::MAX)),
            resolved: mac.is_some(),
            dst_mac: mac.unwrap_or(MacAddr::ZERO),
            wrapped: port.tunnel().is_some(),
            src_mac: port.router_mac(self.tables.gateway.mac),
            ..old
        };
        if let Some(tunnel) = port.tunnel() {
            new.mtu = new.mtu.min(self.wrap(index, old.address, tunnel));
        }
        if new != old
            && let Some(slot) = self.tables.adjacencies.get_mut(index)
        {
            *slot = new;
        }
    }
}
