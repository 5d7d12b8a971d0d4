// SPDX-License-Identifier: Apache-2.0
//! Tunnels: how packets to the other ends are wrapped and which way they go.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Build;
use super::check::port_name;
use crate::ids::PortId;
use crate::tables::route::{Target, host};
use crate::tables::{
    PortKindSpec, PortSpec, Route, RouteKey, TableError, TunnelSpec, Underlay, Wrap,
};
use crate::verdict::Reason;
use crate::wire::vxlan::Template;

impl Build {
    /// Enters a tunnel under its network identifier.
    pub(super) fn attach_tunnel(
        &mut self,
        spec: &PortSpec,
        tunnel: &TunnelSpec,
    ) -> Result<(), TableError> {
        if let Some(holder) = self.tables.tunnel(tunnel.vni) {
            let holder = format!("port {} \"{}\"", holder.id, holder.name);
            let name = port_name(spec);
            return Err(TableError::conflict(name, "VNI", tunnel.vni, holder));
        }
        self.tables
            .tunnels
            .insert(tunnel.vni, u32::BITS as u8, spec.id);
        Ok(())
    }

    /// Lists the UDP ports that tunnels end at.
    pub(super) fn list_tunnel_ports(&mut self) {
        let mut ports = Vec::new();
        let tables = &self.tables;
        tables.tunnels.visit(&mut |_, _, id| {
            let tunnel = tables.port(*id).and_then(|port| port.tunnel());
            ports.extend(tunnel.map(|t| t.port));
        });
        ports.sort_unstable();
        ports.dedup();
        if *ports != *self.tables.tunnel_ports {
            self.tables.tunnel_ports = ports.into();
        }
    }

    /// Marks the tunnels' other ends inside a prefix: the way to them may have changed.
    pub(super) fn rewrap(&mut self, prefix: IpNet) {
        let (remotes, stale) = (&self.tables.remotes, &mut self.stale);
        remotes.visit_within(prefix, &mut |_, all| stale.extend(all.iter()));
    }

    /// Marks the other ends that changed ports and routes may concern.
    pub(super) fn rewrap_changed(
        &mut self,
        ports: &BTreeMap<PortId, Option<PortSpec>>,
        routes: &BTreeMap<RouteKey, Option<Route>>,
    ) {
        if !ports.is_empty() {
            self.list_tunnel_ports();
        }
        if self.tables.remotes.is_empty() {
            return;
        }
        let carries = |p: &PortSpec| matches!(p.kind, PortKindSpec::Uplink { .. });
        if ports.values().flatten().any(carries) {
            let (remotes, stale) = (&self.tables.remotes, &mut self.stale);
            remotes.visit(&mut |_, all| stale.extend(all.iter()));
        }
        for key in routes.keys() {
            self.rewrap(key.prefix);
        }
    }

    /// Brings the wrapping of an adjacency by a tunnel up to date. Returns the largest packet that fits into what its way takes.
    pub(super) fn wrap(&mut self, adjacency: u32, remote: IpAddr, tunnel: &TunnelSpec) -> u32 {
        let way = self.underlay(remote, tunnel);
        let (out, mtu) = self.way_out(way);
        let local = tunnel.local(remote).or_else(|| {
            let out = self.tables.port(out?)?;
            out.first_address(remote.is_ipv4())
        });
        let template = local.and_then(|local| {
            Template::new(local, remote, tunnel.port, tunnel.vni, tunnel.checksum_v6)
        });
        let overhead = template.as_ref().map_or(0, |t| u32::from(t.overhead()));
        // Of an adjacency that was there already it is known on: it leads to the same end.
        let path = self.tables.wrap(adjacency).map(|old| old.path.clone());
        let wrap = Some(Arc::new(Wrap {
            template,
            way,
            group_policy: tunnel.group_policy,
            path: path.unwrap_or_default(),
        }));
        if self.tables.wrap(adjacency) != wrap.as_deref() {
            *self.tables.wraps.get_mut(adjacency as usize) = wrap;
        }
        self.depend(adjacency, remote);
        mtu.saturating_sub(overhead)
    }

    /// The way of packets to a tunnel's other end, which does not lead into a tunnel.
    fn underlay(&mut self, remote: IpAddr, tunnel: &TunnelSpec) -> Underlay {
        let vrf = self.tables.vrfs.get_exact(tunnel.underlay.0);
        let way = match vrf.and_then(|vrf| vrf.fib.lookup(remote)) {
            Some(Target::Via(index)) => Underlay::Adjacency(index),
            Some(Target::Group(group)) => Underlay::Group(group),
            Some(Target::OnLink(link)) => {
                let link = self.tables.links.get(link);
                match link.and_then(|l| l.stations.get(host(remote))) {
                    Some(station) => Underlay::Adjacency(station.adjacency),
                    None => Underlay::Drop(Reason::NeighborUnresolved),
                }
            }
            _ => Underlay::Drop(Reason::NoRoute),
        };
        let (out, _) = self.way_out(way);
        let tunnelled = out
            .and_then(|port| self.tables.port(port))
            .is_some_and(|port| port.tunnel().is_some());
        match tunnelled {
            true => Underlay::Drop(Reason::NoRoute),
            false => way,
        }
    }

    /// The port that a way leads out of (of a group the first one's), and the largest packet that all of it takes.
    fn way_out(&self, way: Underlay) -> (Option<PortId>, u32) {
        let adjacency = |index| self.tables.adjacency(index).map(|a| (a.port, a.mtu));
        let members = match way {
            Underlay::Adjacency(index) => vec![index],
            Underlay::Group(group) => {
                let group = self.tables.groups.get(group);
                group.map(|g| g.adjacencies.to_vec()).unwrap_or_default()
            }
            Underlay::Drop(_) => Vec::new(),
        };
        let all: Vec<(PortId, u32)> = members.into_iter().filter_map(adjacency).collect();
        let mtu = all.iter().map(|(_, mtu)| *mtu).min();
        (all.first().map(|(port, _)| *port), mtu.unwrap_or(u32::MAX))
    }

    /// Notes that an adjacency depends on the way to an address.
    fn depend(&mut self, adjacency: u32, remote: IpAddr) {
        let known = self.tables.remotes.get(host(remote));
        if known.is_some_and(|all| all.contains(&adjacency)) {
            return;
        }
        let all = known.iter().flat_map(|all| all.iter().copied());
        let all: Arc<[u32]> = all.chain([adjacency]).collect();
        self.tables.remotes.insert(host(remote), all);
    }

    /// Forgets how packets by an adjacency that is gone were wrapped.
    pub(super) fn unwrap(&mut self, remote: IpNet, adjacency: u32) {
        if self.tables.wrap(adjacency).is_some() {
            *self.tables.wraps.get_mut(adjacency as usize) = None;
        }
        let Some(all) = self.tables.remotes.get(remote) else {
            return;
        };
        let rest: Arc<[u32]> = all.iter().copied().filter(|a| *a != adjacency).collect();
        match rest.is_empty() {
            true => self.tables.remotes.remove(remote),
            false => self.tables.remotes.insert(remote, rest),
        };
    }
}
