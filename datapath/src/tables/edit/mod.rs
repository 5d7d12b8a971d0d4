// SPDX-License-Identifier: Apache-2.0
//! The next tables from the present ones.
#![forbid(unsafe_code)]

mod check;
mod host_ports;
mod links;
mod peers;
mod ports;
mod routes;
mod rules;
mod segments;
mod services;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Direction, FdbKey, Frontend, FrontendKey, HostPortKey, NeighborKey, PortKind, PortPolicy,
    PortSpec, Route, RouteKey, Rule, SegmentSpec, TableError, Tables, stamps,
};
use crate::ids::{CidrClass, GroupId, IdentityId, PeerClass, PortId, VrfId};
use crate::wire::MacAddr;
use crate::wire::translate::Endpoint;

/// Changes to tables. They are gathered, the last one of an object counts, and [`build`](Edit::build) judges the
/// result as a whole: the order of changes is of no matter, and if anything is wrong, nothing has happened.
#[derive(Clone, Debug)]
pub struct Edit {
    base: Tables,
    oldest: u64,
    ports: BTreeMap<PortId, Option<PortSpec>>,
    routes: BTreeMap<RouteKey, Option<Route>>,
    neighbors: BTreeMap<NeighborKey, Option<MacAddr>>,
    segments: BTreeMap<VrfId, Option<SegmentSpec>>,
    fdb: BTreeMap<FdbKey, Option<PortId>>,
    rules: BTreeMap<(PortId, Direction), BTreeMap<String, Option<Rule>>>,
    policies: BTreeMap<PortId, PortPolicy>,
    identities: BTreeMap<IdentityId, Option<PeerClass>>,
    peers: BTreeMap<IpAddr, Option<IdentityId>>,
    cidrs: BTreeMap<IpNet, Option<CidrClass>>,
    groups: BTreeMap<GroupId, Option<IdentityId>>,
    port_groups: BTreeMap<PortId, Option<GroupId>>,
    host_ports: BTreeMap<HostPortKey, Option<Endpoint>>,
    frontends: BTreeMap<FrontendKey, Option<Frontend>>,
}

impl Edit {
    /// An edit of `base`. `oldest` is the oldest generation that a worker may still have
    /// ([`Publisher::oldest`](crate::publish::Publisher::oldest) tells): indices of rules and adjacencies that went
    /// away by then are used again.
    pub fn new(base: &Tables, oldest: u64) -> Edit {
        Edit {
            base: base.clone(),
            oldest,
            ports: BTreeMap::new(),
            routes: BTreeMap::new(),
            neighbors: BTreeMap::new(),
            segments: BTreeMap::new(),
            fdb: BTreeMap::new(),
            rules: BTreeMap::new(),
            policies: BTreeMap::new(),
            identities: BTreeMap::new(),
            peers: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            groups: BTreeMap::new(),
            port_groups: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            frontends: BTreeMap::new(),
        }
    }

    /// Adds a port or replaces the one with its id; its rules, policy, neighbors and routes stay.
    pub fn set_port(&mut self, port: PortSpec) -> &mut Self {
        self.ports.insert(port.id, Some(port));
        self
    }

    /// Removes a port, its rules and its policy. Whatever else refers to it must go too.
    pub fn remove_port(&mut self, id: PortId) -> &mut Self {
        self.ports.insert(id, None);
        self
    }

    /// Adds a route or replaces the one of its prefix. Bits of the prefix beyond its length must be zero.
    pub fn set_route(&mut self, vrf: VrfId, prefix: IpNet, route: Route) -> &mut Self {
        self.routes.insert(RouteKey { vrf, prefix }, Some(route));
        self
    }

    /// Removes a route, if there is one.
    pub fn remove_route(&mut self, vrf: VrfId, prefix: IpNet) -> &mut Self {
        self.routes.insert(RouteKey { vrf, prefix }, None);
        self
    }

    /// Adds the MAC address of a station behind a port of the VRF, or replaces it.
    pub fn set_neighbor(
        &mut self,
        vrf: VrfId,
        port: PortId,
        address: IpAddr,
        mac: MacAddr,
    ) -> &mut Self {
        self.neighbors
            .insert(NeighborKey { vrf, port, address }, Some(mac));
        self
    }

    /// Removes a neighbor, if there is one.
    pub fn remove_neighbor(&mut self, vrf: VrfId, port: PortId, address: IpAddr) -> &mut Self {
        self.neighbors
            .insert(NeighborKey { vrf, port, address }, None);
        self
    }

    /// Adds a segment or replaces what it is set to; its ports and FDB entries stay.
    pub fn set_segment(&mut self, segment: SegmentSpec) -> &mut Self {
        self.segments.insert(segment.id, Some(segment));
        self
    }

    /// Removes a segment. Its ports and FDB entries must go too.
    pub fn remove_segment(&mut self, id: VrfId) -> &mut Self {
        self.segments.insert(id, None);
        self
    }

    /// Fixes a MAC address to a port of the segment in a VLAN (0: none).
    pub fn set_fdb(&mut self, segment: VrfId, vlan: u16, mac: MacAddr, port: PortId) -> &mut Self {
        self.fdb.insert(FdbKey { segment, vlan, mac }, Some(port));
        self
    }

    /// Removes a static FDB entry, if there is one.
    pub fn remove_fdb(&mut self, segment: VrfId, vlan: u16, mac: MacAddr) -> &mut Self {
        self.fdb.insert(FdbKey { segment, vlan, mac }, None);
        self
    }

    /// Adds a rule or replaces the one of its name. A rule that stays the same keeps its id, a changed one counts
    /// anew.
    pub fn set_rule(&mut self, port: PortId, direction: Direction, rule: Rule) -> &mut Self {
        let rules = self.rules.entry((port, direction)).or_default();
        rules.insert(rule.name.clone(), Some(rule));
        self
    }

    /// Removes a rule, if there is one.
    pub fn remove_rule(&mut self, port: PortId, direction: Direction, name: &str) -> &mut Self {
        self.rules
            .entry((port, direction))
            .or_default()
            .insert(name.to_owned(), None);
        self
    }

    /// Gives a port its policy by peer; it stays until another one is set or the port is removed.
    pub fn set_policy(&mut self, port: PortId, policy: PortPolicy) -> &mut Self {
        self.policies.insert(port, policy);
        self
    }

    /// Adds an identity or changes which selectors it matches. None: it is freed; no peer and no group may have it any more.
    pub fn set_identity(&mut self, id: IdentityId, class: Option<PeerClass>) -> &mut Self {
        self.identities.insert(id, class);
        self
    }

    /// Says who is behind an address: an identity that there is. None: nobody known.
    pub fn set_peer(&mut self, address: IpAddr, identity: Option<IdentityId>) -> &mut Self {
        self.peers.insert(address, identity);
        self
    }

    /// Says which ipBlocks the addresses of a prefix are in, but for those of longer ones. Bits of the prefix beyond its
    /// length must be zero. None: that of the next shorter prefix.
    pub fn set_cidr(&mut self, prefix: IpNet, class: Option<CidrClass>) -> &mut Self {
        self.cidrs.insert(prefix, class);
        self
    }

    /// Says who packets marked with a group are from: an identity that there is. None: nobody knows.
    pub fn set_group(&mut self, group: GroupId, identity: Option<IdentityId>) -> &mut Self {
        self.groups.insert(group, identity);
        self
    }

    /// Says which group a port's packets are marked with; it stays until another one is set or the port is removed.
    pub fn set_group_of(&mut self, port: PortId, group: Option<GroupId>) -> &mut Self {
        self.port_groups.insert(port, group);
        self
    }

    /// Leads a port of the node to one of a pod. None: to nobody.
    pub fn set_host_port(&mut self, key: HostPortKey, to: Option<Endpoint>) -> &mut Self {
        self.host_ports.insert(key, to);
        self
    }

    /// Puts a service at an address and port. None: there is none.
    pub fn set_frontend(&mut self, key: FrontendKey, frontend: Option<Frontend>) -> &mut Self {
        self.frontends.insert(key, frontend);
        self
    }

    /// The next tables.
    pub fn build(self) -> Result<Tables, TableError> {
        self.check_values()?;
        let before = self.base.ports.clone();
        let mut tables = self.base;
        tables.generation += 1;
        let was_in = |id: PortId| match before.get(id.index())?.as_deref()?.kind {
            PortKind::L2 { segment, .. } => Some(segment),
            _ => None,
        };
        let mut build = Build {
            tables,
            oldest: self.oldest,
            stale: BTreeSet::new(),
            loose: BTreeSet::new(),
            idle: BTreeSet::new(),
            hops: BTreeSet::new(),
            ids: BTreeSet::new(),
            changed: false,
        };
        // A port that goes is asked for routes by it.
        build.remove_routes(&self.routes, self.ports.is_empty());
        build.remove_neighbors(&self.neighbors);
        build.remove_fdb(&self.fdb);
        build.set_segments(&self.segments)?;
        build.change_ports(&self.ports)?;
        build.set_neighbors(&self.neighbors)?;
        build.set_routes(&self.routes)?;
        build.set_fdb(&self.fdb)?;
        build.change_rules(&self.rules)?;
        build.set_policies(&self.policies, &self.ports)?;
        build.set_port_groups(&self.port_groups);
        build.set_identities(&self.identities);
        build.set_peers(&self.peers)?;
        build.set_groups(&self.groups)?;
        build.remove_identities(&self.identities)?;
        build.set_cidrs(&self.cidrs)?;
        build.set_host_ports(&self.host_ports)?;
        build.note_node_ports(&self.ports);
        build.set_frontends(&self.frontends)?;
        build.mark_node_addresses();
        build.rewrap_changed(&self.ports, &self.routes);
        build.check_segments(&self.segments, &self.ports, &self.fdb, &was_in)?;
        build.remove_segments(&self.segments)?;
        build.check_next_hops(&self.routes)?;
        build.drop_loose();
        build.refresh_adjacencies();
        build.check_ids()?;
        if build.changed {
            build.tables.common_stamp = build.stamp();
        }
        Ok(build.tables)
    }
}

/// Tables in the making.
struct Build {
    tables: Tables,
    /// Oldest generation that a worker may still have.
    oldest: u64,
    /// Adjacencies whose MAC address or MTU may have changed.
    stale: BTreeSet<u32>,
    /// Addresses behind ports that may not be needed any more.
    loose: BTreeSet<(PortId, IpAddr)>,
    /// Links that routes may not use any more.
    idle: BTreeSet<u32>,
    /// Next hops (adjacencies) that may not be on the link any more.
    hops: BTreeSet<u32>,
    /// Ids whose use as VRF or segment changed.
    ids: BTreeSet<VrfId>,
    /// Whether anything changed that no port and no address stands for: every connection is judged again.
    changed: bool,
}

impl Build {
    /// What is stamped with when it changes: grows with every edit.
    fn stamp(&self) -> u32 {
        self.tables.generation as u32
    }

    /// The ways to the addresses of a prefix may be others than before: connections with one of them are judged again.
    fn ways_changed(&mut self, prefix: IpNet) {
        let stamp = self.stamp();
        match stamps::parts(prefix) {
            Some(parts) => self.tables.route_stamps.set(parts, stamp),
            None => self.changed = true,
        }
    }
}
