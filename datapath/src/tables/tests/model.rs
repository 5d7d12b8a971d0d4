// SPDX-License-Identifier: Apache-2.0
//! Tables as plain maps, searched from end to end: what [`Edit`](crate::tables::Edit) has to agree with.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::basic::gateway;
use super::changes::policies;
use crate::ids::{CidrClass, GroupId, IdentityId, PeerClass, PortId, VrfId};
use crate::tables::*;
use crate::verdict::Reason;
use crate::wire::MacAddr;

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Port(PortId, Option<PortSpec>),
    Route(RouteKey, Option<Route>),
    Neighbor(NeighborKey, Option<MacAddr>),
    Segment(VrfId, Option<SegmentSpec>),
    Fdb(FdbKey, Option<PortId>),
    Rule(PortId, Direction, String, Option<Rule>),
    /// By its number among [`policies`].
    Policy(PortId, usize),
    Peer(IpAddr, Option<IdentityId>),
    Identity(IdentityId, Option<PeerClass>),
    Cidr(IpNet, Option<CidrClass>),
    Group(GroupId, Option<IdentityId>),
}

impl Change {
    pub(super) fn apply(&self, edit: &mut Edit) {
        match self.clone() {
            Change::Port(_, Some(spec)) => edit.set_port(spec),
            Change::Port(id, None) => edit.remove_port(id),
            Change::Route(key, Some(route)) => edit.set_route(key.vrf, key.prefix, route),
            Change::Route(key, None) => edit.remove_route(key.vrf, key.prefix),
            Change::Neighbor(k, Some(mac)) => edit.set_neighbor(k.vrf, k.port, k.address, mac),
            Change::Neighbor(k, None) => edit.remove_neighbor(k.vrf, k.port, k.address),
            Change::Segment(_, Some(spec)) => edit.set_segment(spec),
            Change::Segment(id, None) => edit.remove_segment(id),
            Change::Fdb(k, Some(port)) => edit.set_fdb(k.segment, k.vlan, k.mac, port),
            Change::Fdb(k, None) => edit.remove_fdb(k.segment, k.vlan, k.mac),
            Change::Rule(port, direction, _, Some(rule)) => edit.set_rule(port, direction, rule),
            Change::Rule(port, direction, name, None) => edit.remove_rule(port, direction, &name),
            Change::Policy(port, policy) => edit.set_policy(port, policies()[policy].clone()),
            Change::Peer(address, identity) => edit.set_peer(address, identity),
            Change::Identity(id, class) => edit.set_identity(id, class),
            Change::Cidr(prefix, class) => edit.set_cidr(prefix, class),
            Change::Group(group, identity) => edit.set_group(group, identity),
        };
    }
}

/// Everything that control set.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Model {
    pub(super) ports: BTreeMap<PortId, PortSpec>,
    pub(super) routes: BTreeMap<RouteKey, Route>,
    pub(super) neighbors: BTreeMap<NeighborKey, MacAddr>,
    pub(super) segments: BTreeMap<VrfId, SegmentSpec>,
    pub(super) fdb: BTreeMap<FdbKey, PortId>,
    pub(super) rules: BTreeMap<(PortId, Direction, String), Rule>,
    pub(super) policies: BTreeMap<PortId, usize>,
    pub(super) peers: BTreeMap<IpAddr, IdentityId>,
    pub(super) identities: BTreeMap<IdentityId, PeerClass>,
    pub(super) cidrs: BTreeMap<IpNet, CidrClass>,
    pub(super) groups: BTreeMap<GroupId, IdentityId>,
}

fn put<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: &Option<V>) {
    match value {
        Some(value) => map.insert(key.clone(), value.clone()),
        None => map.remove(key),
    };
}

impl Model {
    /// With changes, of which the last of each object counts; none if the result is not allowed.
    pub(super) fn changed(&self, changes: &[Change]) -> Option<Model> {
        let mut next = self.clone();
        let mut ports = BTreeMap::new();
        for change in changes {
            match change {
                Change::Port(id, spec) => {
                    put(&mut next.ports, id, spec);
                    ports.insert(*id, spec.is_some());
                }
                Change::Route(key, route) => put(&mut next.routes, key, route),
                Change::Neighbor(key, mac) => put(&mut next.neighbors, key, mac),
                Change::Segment(id, spec) => put(&mut next.segments, id, spec),
                Change::Fdb(key, port) => put(&mut next.fdb, key, port),
                Change::Rule(..) => {}
                Change::Policy(port, policy) => {
                    let policy = (*policy > 0).then_some(*policy);
                    put(&mut next.policies, port, &policy);
                }
                Change::Peer(address, identity) => put(&mut next.peers, address, identity),
                Change::Identity(id, class) => put(&mut next.identities, id, class),
                Change::Cidr(prefix, class) => put(&mut next.cidrs, prefix, class),
                Change::Group(group, identity) => put(&mut next.groups, group, identity),
            }
        }
        // A port takes its rules along, and its policy even if it is set in the same breath.
        let goes = |port: &PortId| ports.get(port) == Some(&false);
        next.rules.retain(|(port, ..), _| !goes(port));
        next.policies.retain(|port, _| !goes(port));
        for change in changes {
            if let Change::Rule(port, direction, name, rule) = change {
                put(&mut next.rules, &(*port, *direction, name.clone()), rule);
            }
        }
        next.allowed().then_some(next)
    }

    /// As changes of empty tables.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut all = Vec::new();
        all.extend(
            self.rules
                .iter()
                .map(|((p, d, n), r)| Change::Rule(*p, *d, n.clone(), Some(r.clone()))),
        );
        all.extend(self.policies.iter().map(|(p, n)| Change::Policy(*p, *n)));
        all.extend(self.peers.iter().map(|(a, i)| Change::Peer(*a, Some(*i))));
        all.extend(
            self.identities
                .iter()
                .map(|(i, c)| Change::Identity(*i, Some(*c))),
        );
        all.extend(self.cidrs.iter().map(|(p, c)| Change::Cidr(*p, Some(*c))));
        all.extend(self.groups.iter().map(|(g, i)| Change::Group(*g, Some(*i))));
        all.extend(self.fdb.iter().map(|(k, p)| Change::Fdb(*k, Some(*p))));
        all.extend(
            self.routes
                .iter()
                .map(|(k, r)| Change::Route(*k, Some(r.clone()))),
        );
        all.extend(
            self.neighbors
                .iter()
                .map(|(k, m)| Change::Neighbor(*k, Some(*m))),
        );
        all.extend(
            self.ports
                .iter()
                .map(|(k, p)| Change::Port(*k, Some(p.clone()))),
        );
        all.extend(
            self.segments
                .iter()
                .map(|(k, s)| Change::Segment(*k, Some(s.clone()))),
        );
        all
    }

    fn routed(&self, port: PortId, vrf: VrfId) -> Option<&PortSpec> {
        self.ports
            .get(&port)
            .filter(|p| matches!(p.kind, PortKindSpec::Routed { vrf: v, .. } if v == vrf))
    }

    fn own(&self, port: PortId, address: IpAddr) -> bool {
        match &self.ports[&port].kind {
            PortKindSpec::Routed { addresses, .. } => addresses.contains(&address),
            _ => false,
        }
    }

    /// The port that owns an address.
    pub(super) fn owner(&self, vrf: VrfId, address: IpAddr) -> Option<&PortSpec> {
        self.ports.values().find(|p| match &p.kind {
            PortKindSpec::Routed { vrf: v, addresses } => *v == vrf && addresses.contains(&address),
            _ => false,
        })
    }

    fn longest(&self, vrf: VrfId, address: IpAddr) -> Option<(&RouteKey, &Route)> {
        let covers = |key: &RouteKey| key.vrf == vrf && key.prefix.contains(&address);
        self.routes
            .iter()
            .filter(|(key, _)| covers(key))
            .max_by_key(|(key, _)| key.prefix.prefix_len())
    }

    fn known(&self, vrf: VrfId, port: PortId, address: IpAddr) -> Option<MacAddr> {
        match self.own(port, address) {
            true => Some(self.ports[&port].mac),
            false => self
                .neighbors
                .get(&NeighborKey { vrf, port, address })
                .copied(),
        }
    }

    /// Port, MAC address and MTU, or why not.
    pub(super) fn hop(
        &self,
        vrf: VrfId,
        address: IpAddr,
    ) -> Result<(PortId, MacAddr, u32), Reason> {
        if let Some(port) = self.owner(vrf, address) {
            return Ok((port.id, port.mac, port.mtu));
        }
        match self.longest(vrf, address).ok_or(Reason::NoRoute)?.1 {
            Route::Unicast { port, via, mtu } => {
                let spec = &self.ports[port];
                // The node's own stack takes what is for anybody beyond it.
                let node = spec.node.then_some(spec.mac);
                let mac = self.known(vrf, *port, via.unwrap_or(address)).or(node);
                let most = spec.mtu.min(mtu.unwrap_or(u32::MAX));
                mac.map(|mac| (*port, mac, most))
                    .ok_or(Reason::NeighborUnresolved)
            }
            Route::Blackhole => Err(Reason::RouteBlackhole),
            Route::Unreachable => Err(Reason::RouteUnreachable),
            Route::Prohibit => Err(Reason::RouteProhibit),
            Route::Multipath { .. } => unreachable!("the model has one way to everywhere"),
        }
    }

    /// The port of a MAC address.
    pub(super) fn fixed(&self, segment: VrfId, vlan: u16, mac: MacAddr) -> Option<PortId> {
        let entry = self.fdb.get(&FdbKey { segment, vlan, mac });
        entry.copied().or_else(|| self.fixed_owner(segment, mac))
    }

    fn fixed_owner(&self, segment: VrfId, mac: MacAddr) -> Option<PortId> {
        let is = |p: &&PortSpec| match p.kind {
            PortKindSpec::L2 {
                segment: s,
                fixed_mac,
                ..
            } => s == segment && fixed_mac && p.mac == mac,
            _ => false,
        };
        self.ports.values().find(is).map(|p| p.id)
    }

    fn allowed(&self) -> bool {
        self.ports_allowed()
            && self.routes_allowed()
            && self
                .neighbors
                .keys()
                .all(|k| self.routed(k.port, k.vrf).is_some() && !self.own(k.port, k.address))
            && self.segments.keys().all(|id| self.segment_allowed(*id))
            && self
                .fdb
                .keys()
                .all(|k| self.segments.contains_key(&k.segment))
            && self
                .rules
                .keys()
                .all(|(port, ..)| self.ports.contains_key(port))
            && self.policies.keys().all(|p| self.ports.contains_key(p))
            && self.identified().all(|i| self.identities.contains_key(i))
    }

    /// The identities that addresses and groups have.
    pub(super) fn identified(&self) -> impl Iterator<Item = &IdentityId> {
        self.peers.values().chain(self.groups.values())
    }

    fn ports_allowed(&self) -> bool {
        let mut names = BTreeSet::new();
        let mut taken = BTreeSet::new();
        self.ports.values().all(|port| {
            names.insert(&port.name)
                && match &port.kind {
                    PortKindSpec::Routed { vrf, addresses } => addresses
                        .iter()
                        .all(|a| !gateway().owns(*a) && taken.insert((*vrf, *a))),
                    PortKindSpec::L2 { segment, .. } => self.segments.contains_key(segment),
                    _ => unreachable!("the model has ports of this node alone"),
                }
        })
    }

    fn routes_allowed(&self) -> bool {
        self.routes.iter().all(|(key, route)| {
            let Route::Unicast { port, via, .. } = route else {
                return true;
            };
            if self.routed(*port, key.vrf).is_none() {
                return false;
            }
            let Some(via) = via else { return true };
            let on_link = matches!(
                self.longest(key.vrf, *via),
                Some((_, Route::Unicast { port: p, via: None, .. })) if p == port
            );
            self.known(key.vrf, *port, *via).is_some()
                || on_link && self.owner(key.vrf, *via).is_none()
        })
    }

    fn segment_allowed(&self, id: VrfId) -> bool {
        let vrf = self.routes.keys().any(|k| k.vrf == id)
            || self
                .ports
                .values()
                .any(|p| matches!(p.kind, PortKindSpec::Routed { vrf, .. } if vrf == id));
        let fixed: Vec<MacAddr> = self
            .ports
            .values()
            .filter(|p| matches!(p.kind, PortKindSpec::L2 { segment, fixed_mac: true, .. } if segment == id))
            .map(|p| p.mac)
            .collect();
        let entries: Vec<_> = self.fdb.iter().filter(|(k, _)| k.segment == id).collect();
        let member = |key: &FdbKey, port: &PortId| {
            self.ports.get(port).is_some_and(|p| match &p.kind {
                PortKindSpec::L2 { segment, vlan, .. } => *segment == id && vlan.contains(key.vlan),
                _ => false,
            })
        };
        !vrf && fixed.len() == fixed.iter().collect::<BTreeSet<_>>().len()
            && fixed.len() + entries.len() <= self.segments[&id].max_entries as usize
            && entries.iter().all(|(key, port)| {
                member(key, port) && self.fixed_owner(id, key.mac).is_none_or(|p| p == **port)
            })
    }

    /// Who is behind an address.
    pub(super) fn peer(&self, address: IpAddr) -> Peer {
        self.with(self.peers.get(&address).copied(), address)
    }

    /// Who is behind an address by a group.
    pub(super) fn marked_peer(&self, group: GroupId, address: IpAddr) -> Option<Peer> {
        let identity = *self.groups.get(&group)?;
        Some(self.with(Some(identity), address))
    }

    fn with(&self, identity: Option<IdentityId>, address: IpAddr) -> Peer {
        let covers = self.cidrs.iter().filter(|(p, _)| p.contains(&address));
        Peer {
            identity,
            class: identity.and_then(|id| self.identities.get(&id).copied()),
            cidr: covers
                .max_by_key(|(prefix, _)| prefix.prefix_len())
                .map(|(_, class)| *class),
        }
    }

    /// All addresses that anything names, and some beside.
    pub(super) fn probes(&self) -> BTreeSet<IpAddr> {
        let mut all: BTreeSet<IpAddr> = self.neighbors.keys().map(|k| k.address).collect();
        let ends = |net: &IpNet| [net.network(), net.broadcast()];
        all.extend(self.routes.keys().flat_map(|k| ends(&k.prefix)));
        all.extend(self.cidrs.keys().flat_map(ends));
        all.extend(self.peers.keys());
        for port in self.ports.values() {
            if let PortKindSpec::Routed { addresses, .. } = &port.kind {
                all.extend(addresses);
            }
        }
        all
    }
}
