// SPDX-License-Identifier: Apache-2.0
//! Ports.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Build;
use super::check::port_name;
use crate::ids::{PortId, VrfId};
use crate::tables::limits::MAX_PORTS;
use crate::tables::policy::{Action, RuleSet};
use crate::tables::route::{ANYBODY, Vrf, host};
use crate::tables::{OwnAddresses, PortEntry, PortKind, PortKindSpec, PortSpec, TableError};

/// The addresses of a routed port in one VRF.
fn addresses_in(spec: Option<&PortSpec>, vrf: VrfId) -> Option<&[IpAddr]> {
    match &spec?.kind {
        PortKindSpec::Routed { vrf: id, addresses } if *id == vrf => Some(addresses),
        PortKindSpec::Uplink { vrf: id, .. } | PortKindSpec::Tunnel { vrf: id, .. }
            if *id == vrf =>
        {
            Some(&[])
        }
        _ => None,
    }
}

impl Build {
    /// Takes out what goes, then puts in what comes, so that an address or a MAC address may move.
    pub(super) fn change_ports(
        &mut self,
        ports: &BTreeMap<PortId, Option<PortSpec>>,
    ) -> Result<(), TableError> {
        for (id, spec) in ports {
            if let Some(old) = self.tables.ports.get(id.index()).cloned().flatten() {
                self.detach(&old, spec.as_ref())?;
            }
        }
        for spec in ports.values().flatten() {
            self.attach(spec)?;
        }
        if self.tables.counts.ports > MAX_PORTS {
            let last = ports
                .values()
                .flatten()
                .next_back()
                .map(port_name)
                .unwrap_or_default();
            return Err(TableError::limit(
                last,
                "ports",
                self.tables.counts.ports,
                MAX_PORTS,
            ));
        }
        self.check_names(ports)
    }

    fn detach(&mut self, old: &PortEntry, spec: Option<&PortSpec>) -> Result<(), TableError> {
        if let PortKind::Tunnel(tunnel) = &old.kind {
            self.tables.tunnels.remove(tunnel.vni, u32::BITS as u8);
        }
        match &old.kind {
            PortKind::Routed { .. } | PortKind::Uplink { .. } | PortKind::Tunnel(_) => {
                let stay = addresses_in(spec, old.vrf);
                for address in old.addresses().iter() {
                    if !stay.is_some_and(|s| s.contains(&address)) {
                        self.remove_local(old.vrf, address);
                        self.station_unknown(old.id, address);
                    }
                }
                if stay.is_none() {
                    self.vrf_mut(old.vrf).ports -= 1;
                    self.forsake(old)?;
                }
            }
            PortKind::L2 { segment, .. } => self.leave(*segment, old),
        }
        if spec.is_none() {
            *self.tables.ports.get_mut(old.id.index()) = None;
            self.changed = true;
            self.tables.counts.ports -= 1;
            for entry in old.egress.rules().iter().chain(old.ingress.rules()) {
                self.tables
                    .rule_ids
                    .remove(entry.id.0, self.tables.generation);
            }
        }
        Ok(())
    }

    /// Frees what was behind a port in its VRF.
    fn forsake(&mut self, old: &PortEntry) -> Result<(), TableError> {
        let name = format!("port {} \"{}\" in VRF {}", old.id, old.name, old.vrf);
        let Some(behind) = self.behind(old.id).cloned() else {
            return Ok(());
        };
        let mut neighbor = None;
        behind
            .neighbors
            .visit(&mut |prefix, _| neighbor = Some(prefix.addr()));
        if let Some(address) = neighbor {
            let object = format!("neighbor {address} (vrf {}, port {})", old.vrf, old.id);
            return Err(TableError::dangling(
                object,
                name,
                "remove the neighbor too",
            ));
        }
        for link in &behind.links {
            if self.tables.links.get(*link).is_some_and(|l| l.routes > 0) {
                let object = self.route_by(old.vrf, |t| t.uses(&self.tables, *link));
                return Err(TableError::dangling(
                    object,
                    name,
                    "remove or change the route too",
                ));
            }
        }
        for link in behind.links {
            self.free_link(link);
        }
        *self.tables.behind.get_mut(old.id.index()) = None;
        Ok(())
    }

    fn attach(&mut self, spec: &PortSpec) -> Result<(), TableError> {
        let old = self.tables.ports.get(spec.id.index()).cloned().flatten();
        let rules = |set: Option<&Arc<RuleSet>>, default: Action| match set {
            Some(set) if set.default_action() == default => set.clone(),
            Some(set) => Arc::new(set.with_default(default)),
            None => Arc::new(RuleSet::new(default, Vec::new())),
        };
        let (vrf, kind) = match &spec.kind {
            PortKindSpec::Routed { vrf, addresses } => (
                *vrf,
                PortKind::Routed {
                    addresses: OwnAddresses::new(addresses),
                },
            ),
            PortKindSpec::Uplink {
                vrf,
                addresses,
                masquerade,
            } => (
                *vrf,
                PortKind::Uplink {
                    addresses: OwnAddresses::new(addresses),
                    first: [true, false]
                        .map(|v4| addresses.iter().find(|a| a.is_ipv4() == v4).copied()),
                    masquerade: masquerade.as_deref().map(Arc::from),
                },
            ),
            PortKindSpec::Tunnel { vrf, tunnel } => (*vrf, PortKind::Tunnel(*tunnel)),
            PortKindSpec::L2 {
                segment,
                vlan,
                fixed_mac,
            } => {
                let (segment, vlan, fixed_mac) = (*segment, vlan.clone(), *fixed_mac);
                (
                    segment,
                    PortKind::L2 {
                        segment,
                        vlan,
                        fixed_mac,
                    },
                )
            }
        };
        let mut entry = PortEntry {
            id: spec.id,
            name: spec.name.as_str().into(),
            worker: spec.worker,
            mac: spec.mac,
            mtu: spec.mtu,
            vrf,
            kind,
            egress: rules(old.as_ref().map(|p| &p.egress), spec.egress_default),
            ingress: rules(old.as_ref().map(|p| &p.ingress), spec.ingress_default),
            policy: old.as_ref().map(|p| p.policy.clone()).unwrap_or_default(),
            group: old.as_ref().and_then(|p| p.group),
            check_source: spec.check_source,
            node: spec.node,
            stamp: self.stamp(),
        };
        match &old {
            Some(old) if entry.is_set_as(old) => entry.stamp = old.stamp,
            Some(old) => self.changed |= !entry.leads_as(old),
            None => self.changed = true,
        }
        let entry = Arc::new(entry);
        self.tables.counts.ports += usize::from(old.is_none());
        *self.tables.ports.get_mut(spec.id.index()) = Some(entry.clone());
        match &spec.kind {
            PortKindSpec::Routed { vrf, addresses } => {
                self.attach_routed(spec, &entry, *vrf, addresses, old.as_deref())
            }
            PortKindSpec::Uplink { vrf, .. } => {
                self.attach_routed(spec, &entry, *vrf, &[], old.as_deref())
            }
            PortKindSpec::Tunnel { vrf, tunnel } => {
                self.attach_tunnel(spec, tunnel)?;
                self.attach_routed(spec, &entry, *vrf, &[], old.as_deref())
            }
            PortKindSpec::L2 { segment, .. } => self.join(*segment, &entry),
        }
    }

    fn attach_routed(
        &mut self,
        spec: &PortSpec,
        entry: &PortEntry,
        vrf: VrfId,
        addresses: &[IpAddr],
        old: Option<&PortEntry>,
    ) -> Result<(), TableError> {
        if self.behind(spec.id).is_none() {
            self.vrf_mut(vrf).ports += 1;
        }
        let link = self.link(spec.id, vrf, None)?;
        for address in addresses {
            if self
                .behind(spec.id)
                .is_some_and(|b| b.neighbors.get(host(*address)).is_some())
            {
                let holder = format!("neighbor {address} (vrf {vrf}, port {})", spec.id);
                return Err(TableError::conflict(
                    port_name(spec),
                    "address",
                    address,
                    holder,
                ));
            }
            self.station_known(spec.id, *address)?;
            let adjacency = self.station(link, *address)?;
            self.set_local(spec, vrf, *address, adjacency)?;
        }
        for anybody in ANYBODY {
            match (entry.node, old.is_some_and(|old| old.node)) {
                (true, _) => self.station_known(spec.id, anybody)?,
                (false, true) => self.station_unknown(spec.id, anybody),
                (false, false) => {}
            }
        }
        if old.is_some_and(|old| !entry.leads_as(old)) {
            self.port_changed(spec.id);
        }
        Ok(())
    }

    fn set_local(
        &mut self,
        spec: &PortSpec,
        vrf: VrfId,
        address: IpAddr,
        adjacency: u32,
    ) -> Result<(), TableError> {
        let vrf_of = self.tables.vrfs.get_exact(vrf.0);
        match vrf_of.and_then(|vrf| vrf.fib.local(address)) {
            Some(index) if index == adjacency => return Ok(()),
            Some(index) => {
                let holder = self
                    .tables
                    .adjacency(index)
                    .and_then(|a| self.tables.port(a.port));
                let holder = holder.map(|p| format!("port {} \"{}\"", p.id, p.name));
                let holder = holder.unwrap_or_default();
                return Err(TableError::conflict(
                    port_name(spec),
                    "address",
                    address,
                    holder,
                ));
            }
            None => {}
        }
        let table = self.vrf_mut(vrf);
        table.fib.set_local(address, Some(adjacency));
        // What was a next hop behind another port, by an on-link route there, is a pod now.
        let by = table.next_hops.get(host(address)).cloned();
        self.hops.extend(by.iter().flat_map(|all| all.iter()));
        Ok(())
    }

    fn remove_local(&mut self, vrf: VrfId, address: IpAddr) {
        self.vrf_mut(vrf).fib.set_local(address, None);
    }

    /// A VRF, for change; it is made if need be and goes when it is found empty.
    pub(super) fn vrf_mut(&mut self, id: VrfId) -> &mut Vrf {
        self.ids.insert(id);
        Arc::make_mut(self.tables.vrfs.get_or_insert(id.0))
    }

    fn check_names(&self, ports: &BTreeMap<PortId, Option<PortSpec>>) -> Result<(), TableError> {
        if ports.values().flatten().next().is_none() {
            return Ok(());
        }
        let mut names: HashMap<&str, PortId> = HashMap::with_capacity(self.tables.counts.ports);
        for port in self.tables.ports() {
            if let Some(holder) = names.insert(&port.name, port.id) {
                let object = format!("port {}", port.id);
                let holder = format!("port {holder}");
                return Err(TableError::conflict(object, "name", &port.name, holder));
            }
        }
        Ok(())
    }
}
