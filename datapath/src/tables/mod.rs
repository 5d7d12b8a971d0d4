// SPDX-License-Identifier: Apache-2.0
//! What the workers share and only read: ports, routes, neighbors, L2 segments, peers, policy.
#![forbid(unsafe_code)]

mod edit;
mod error;
mod host_port;
pub mod limits;
mod lpm;
mod missing;
mod paged;
mod peers;
mod policy;
mod port;
mod route;
mod segment;
mod service;
mod stamps;
mod trie;
mod tunnel;
mod ways;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use edit::Edit;
pub use error::TableError;
pub use host_port::{HostPort, HostPortKey};
pub use peers::Peer;
pub use policy::{
    Action, Direction, DirectionPolicy, Judgement, PolicyAction, PolicyJudgement, PolicyRule,
    PortMatch, PortPolicy, Rule, RuleEntry, RuleSet, Tier, has_ports,
};
pub use port::{OwnAddresses, PortEntry, PortKind, PortKindSpec, PortSpec, Vlan, VlanSet};
pub use route::{Adjacency, Hop, NeighborKey, NextHop, Route, RouteKey};
pub use segment::{FdbKey, Member, Segment, SegmentSpec};
pub use service::{
    Backends, Client, Frontend, FrontendKey, MAX_BACKENDS, Place, Served, Service, Traffic,
};
pub use tunnel::{PathMtu, TunnelSpec, Underlay, Wrap};
pub use ways::Ways;

use crate::ids::{GroupId, PortId, RuleId, VrfId};
use crate::verdict::Reason;
use crate::wire::flow_key::map_v4;
use crate::wire::{FlowKey, MacAddr};
use paged::{Paged, Slab};
use peers::Peers;
use route::{Group, IpTrie, Link, Target, Vrf};
use service::Services;
use stamps::RouteStamps;
use trie::{Trie, allocation};

/// The addresses under which every pod sees its gateway. The same for all ports and VRFs, and as long as the switch
/// lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Gateway {
    /// Whether the address is the gateway's.
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => a == self.v4,
            IpAddr::V6(a) => a == self.v6,
        }
    }

    /// What a pod that comes to itself is shown as the source, as flow keys hold it: the IPv4 address, or that behind a prefix for local use.
    pub fn mask(&self, v4: bool) -> [u8; 16] {
        let mut mask = map_v4(self.v4.octets());
        if !v4 {
            mask[..LOCAL_USE.len()].copy_from_slice(&LOCAL_USE);
        }
        mask
    }
}

/// `64:ff9b:1::/96`, of the prefix for translation that is for local use (RFC 8215).
const LOCAL_USE: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0];

/// A snapshot of all tables. Never changes; an [`Edit`] makes the next one, which shares with this one whatever is
/// the same in both. A clone costs a few counts.
#[derive(Clone, Debug)]
pub struct Tables {
    generation: u64,
    gateway: Gateway,
    ports: Paged<Option<Arc<PortEntry>>, 64>,
    adjacencies: Slab<Adjacency, 32>,
    /// Of each adjacency by a tunnel, how packets are wrapped.
    wraps: Paged<Option<Arc<Wrap>>, 32>,
    groups: Slab<Arc<Group>, 16>,
    /// Tunnels by network identifier.
    tunnels: Trie<u32, PortId>,
    /// The UDP ports they end at.
    tunnel_ports: Arc<[u16]>,
    vrfs: Trie<u32, Arc<Vrf>>,
    links: Slab<Arc<Link>, 64>,
    segments: Trie<u32, Arc<Segment>>,
    peers: Peers,
    /// In order.
    host_ports: Arc<[HostPort]>,
    services: Services,
    /// Uplinks, and the node's own ports, by id.
    node_ports: Arc<[PortId]>,
    common_stamp: u32,
    route_stamps: RouteStamps,
    // What only edits need.
    /// Of each routed port, its static neighbors and links.
    behind: Paged<Option<Arc<Behind>>, 64>,
    rule_ids: Slab<(), 64>,
    /// The other ends of tunnels, each with its adjacencies.
    remotes: IpTrie<Arc<[u32]>>,
    counts: Counts,
}

/// What is behind a routed port.
#[derive(Clone, Debug, Default)]
struct Behind {
    /// Static neighbors.
    neighbors: IpTrie<MacAddr>,
    /// Indices of its links; the first is the one without an MTU.
    links: Vec<u32>,
}

/// How much is in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Ports.
    pub ports: usize,
    /// VRFs with a port.
    pub vrfs: usize,
    /// Routes; addresses of ports do not count.
    pub routes: usize,
    /// Static neighbors.
    pub neighbors: usize,
    /// L2 segments.
    pub segments: usize,
    /// Static FDB entries; fixed MAC addresses of ports do not count.
    pub fdb_entries: usize,
    /// Static rules.
    pub rules: usize,
    /// Addresses of peers.
    pub peers: usize,
    /// Identities.
    pub identities: usize,
    /// Prefixes with a CIDR class.
    pub cidrs: usize,
    /// Groups.
    pub groups: usize,
    /// Addresses and ports of services.
    pub frontends: usize,
}

impl Tables {
    /// Tables without anything in them, of generation 1.
    pub fn new(gateway: Gateway) -> Tables {
        Tables {
            generation: 1,
            gateway,
            ports: Paged::default(),
            adjacencies: Slab::default(),
            wraps: Paged::default(),
            groups: Slab::default(),
            tunnels: Trie::default(),
            tunnel_ports: Arc::default(),
            vrfs: Trie::default(),
            links: Slab::default(),
            segments: Trie::default(),
            peers: Peers::default(),
            host_ports: Arc::default(),
            services: Services::default(),
            node_ports: Arc::default(),
            common_stamp: 1,
            route_stamps: RouteStamps::default(),
            behind: Paged::default(),
            rule_ids: Slab::default(),
            remotes: IpTrie::default(),
            counts: Counts::default(),
        }
    }

    /// Grows by one with every edit.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The gateway's addresses.
    #[inline]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// A port.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(id.index())?.as_deref()
    }

    /// Every port, by id.
    pub fn ports(&self) -> impl Iterator<Item = &PortEntry> {
        self.ports.iter().filter_map(|(_, port)| port.as_deref())
    }

    /// An adjacency by the index that [`route`](Tables::route) gave, if it still exists.
    #[inline]
    pub fn adjacency(&self, index: u32) -> Option<&Adjacency> {
        self.adjacencies.get(index)
    }

    /// Where a packet to the key's destination address goes in a VRF: to the port that has the address, else by the
    /// route of the longest prefix.
    #[inline]
    pub fn route(&self, vrf: VrfId, key: &FlowKey) -> Hop<'_> {
        self.ways(vrf).route(key)
    }

    /// The ways of a VRF, for many packets.
    #[inline]
    pub fn ways(&self, vrf: VrfId) -> Ways<'_> {
        let vrf = self.vrfs.get_exact(vrf.0);
        Ways {
            tables: self,
            vrf: vrf.map(|vrf| &**vrf),
        }
    }

    /// The way of a flow by a group of next hops.
    fn chosen(&self, group: u32, hash: impl Fn() -> u64) -> Option<Hop<'_>> {
        let there = |index| self.adjacencies.get(index).is_some_and(|a| a.resolved);
        match self.groups.get(group)?.choose(hash(), there) {
            Some(index) => self.resolved(index),
            None => Some(Hop::Drop(Reason::NeighborUnresolved)),
        }
    }

    /// How packets by a tunnel's adjacency are wrapped.
    #[inline]
    pub fn wrap(&self, adjacency: u32) -> Option<&Wrap> {
        self.wraps.get(adjacency as usize)?.as_deref()
    }

    /// The adjacencies by tunnels whose other end has this address.
    pub fn to_other_end(&self, remote: IpAddr) -> &[u32] {
        let all = self.remotes.get(route::host(remote));
        all.map_or(&[], |all| all)
    }

    /// The way of a wrapped packet; `hash` is that of the flow inside.
    #[inline]
    pub fn underlay(&self, wrap: &Wrap, hash: u64) -> Hop<'_> {
        let hop = match wrap.way {
            Underlay::Adjacency(index) => self.resolved(index),
            Underlay::Group(group) => self.chosen(group, || hash),
            Underlay::Drop(reason) => Some(Hop::Drop(reason)),
        };
        hop.unwrap_or(Hop::Drop(Reason::NoRoute))
    }

    /// The tunnel of a network identifier.
    #[inline]
    pub fn tunnel(&self, vni: u32) -> Option<&PortEntry> {
        self.port(*self.tunnels.get_exact(vni)?)
    }

    /// The ports that are tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = PortId> + use<> {
        let mut all = Vec::new();
        self.tunnels.visit(&mut |_, _, id| all.push(*id));
        all.into_iter()
    }

    /// Whether there is any tunnel.
    #[inline]
    pub fn has_tunnels(&self) -> bool {
        !self.tunnel_ports.is_empty()
    }

    /// Whether some tunnel ends at this UDP port.
    #[inline]
    pub fn is_tunnel_port(&self, port: u16) -> bool {
        self.tunnel_ports.contains(&port)
    }

    /// The UDP ports that tunnels end at, ascending.
    pub fn tunnel_ports(&self) -> &[u16] {
        &self.tunnel_ports
    }

    /// Whether an address, as a flow key holds it, is a neighbor on a port.
    #[inline]
    pub fn is_neighbor(&self, port: PortId, address: &[u8; 16]) -> bool {
        let behind = self.behind.get(port.index()).and_then(|b| b.as_deref());
        behind.is_some_and(|b| b.neighbors.get_key(address).is_some())
    }

    #[inline(always)]
    fn resolved(&self, index: u32) -> Option<Hop<'_>> {
        let adjacency = self.adjacencies.get(index)?;
        Some(match adjacency.resolved {
            true => Hop::Adjacency(adjacency),
            false => Hop::Drop(Reason::NeighborUnresolved),
        })
    }

    /// Who is behind an address as a flow key holds it.
    #[inline]
    pub fn peer(&self, address: &[u8; 16]) -> Peer {
        self.peers.get(address)
    }

    /// Who is behind an address whose packets are marked with a group; `None` where nobody knows what that stands for. Blocks are those of the
    /// address all the same.
    pub fn marked_peer(&self, group: GroupId, address: &[u8; 16]) -> Option<Peer> {
        self.peers.marked(group, address)
    }

    /// Grows whenever something changes that the stamps of neither ports nor addresses stand for: the way to a port, routes of
    /// short prefixes, segments, whom identities, groups and ipBlocks match.
    ///
    /// Of all stamps: a connection was judged under what holds now if and only if the wrapping sum of this one, of those
    /// of its two ports, and of both kinds of its two addresses, is the same.
    #[inline]
    pub fn common_stamp(&self) -> u32 {
        self.common_stamp
    }

    /// Grows whenever the identity behind the address changes; some other addresses share it.
    #[inline]
    pub fn address_stamp(&self, address: &[u8; 16]) -> u32 {
        self.peers.stamps.get(stamps::bucket(address))
    }

    /// Grows whenever the way to the address changes by a route of its own VRF, unless [`common_stamp`](Tables::common_stamp) does; some other
    /// addresses, and the same one of other VRFs, share it.
    #[inline]
    pub fn route_stamp(&self, address: &[u8; 16]) -> u32 {
        self.route_stamps.get(stamps::part(address))
    }

    /// The port that has this address as its own.
    pub fn neighbor_owner(&self, vrf: VrfId, address: IpAddr) -> Option<&PortEntry> {
        let local = self.vrfs.get_exact(vrf.0)?.fib.local(address)?;
        self.port(self.adjacency(local)?.port)
    }

    /// An L2 segment.
    #[inline]
    pub fn segment(&self, id: VrfId) -> Option<&Segment> {
        self.segments.get_exact(id.0).map(|s| &**s)
    }

    /// Every L2 segment, in no particular order.
    pub fn segments(&self) -> Vec<&Segment> {
        let mut all = Vec::with_capacity(self.segments.len());
        self.segments
            .visit(&mut |_, _, segment| all.push(&**segment));
        all
    }

    /// Every route, in no particular order.
    pub fn routes(&self) -> Vec<(RouteKey, Route)> {
        let mut all = Vec::with_capacity(self.counts.routes);
        self.vrfs.visit(&mut |vrf, _, table| {
            let vrf = VrfId(vrf);
            table.fib.visit_routes(&mut |prefix, target| {
                if let Some(route) = self.untargeted(target) {
                    all.push((RouteKey { vrf, prefix }, route));
                }
            });
        });
        all
    }

    /// Every static neighbor, in no particular order.
    pub fn neighbors(&self) -> Vec<(NeighborKey, MacAddr)> {
        let mut all = Vec::with_capacity(self.counts.neighbors);
        for port in self.ports() {
            let Some(Some(behind)) = self.behind.get(port.id.index()) else {
                continue;
            };
            behind.neighbors.visit(&mut |prefix, mac| {
                let key = NeighborKey {
                    vrf: port.vrf,
                    port: port.id,
                    address: prefix.addr(),
                };
                all.push((key, *mac));
            });
        }
        all
    }

    /// The ids of all rules, ascending.
    pub fn rule_ids(&self) -> impl Iterator<Item = RuleId> {
        self.rule_ids.iter().map(|(id, ())| RuleId(id))
    }

    /// The ids of rules that `before` does not have.
    pub(crate) fn added_rule_ids(&self, before: &Tables) -> Vec<RuleId> {
        self.rule_ids.added(&before.rule_ids).map(RuleId).collect()
    }

    /// How much is in them.
    pub fn counts(&self) -> Counts {
        Counts {
            rules: self.rule_ids.len(),
            segments: self.segments.len(),
            frontends: self.services.count,
            ..self.counts
        }
    }

    /// A route as control set it.
    fn untargeted(&self, target: Target) -> Option<Route> {
        Some(match target {
            Target::Via(index) => {
                let adjacency = self.adjacencies.get(index)?;
                let link = self.links.get(adjacency.link)?;
                Route::Unicast {
                    port: link.port,
                    via: Some(adjacency.address),
                    mtu: link.mtu,
                }
            }
            Target::OnLink(link) => {
                let link = self.links.get(link)?;
                Route::Unicast {
                    port: link.port,
                    via: None,
                    mtu: link.mtu,
                }
            }
            Target::Group(group) => {
                let group = self.groups.get(group)?;
                Route::Multipath {
                    hops: group.hops.clone(),
                    mtu: group.mtu,
                }
            }
            Target::Blackhole => Route::Blackhole,
            Target::Unreachable => Route::Unreachable,
            Target::Prohibit => Route::Prohibit,
        })
    }

    /// Calls `f` with address and size in bytes of every allocation of the tables; what is shared inside them comes
    /// more than once.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.ports.visit_allocations(f);
        for (_, port) in self.ports.iter() {
            let Some(port) = port else { continue };
            allocation(port, f);
            allocation(&port.egress, f);
            allocation(&port.ingress, f);
            allocation(&port.name, f);
            port.egress.visit_allocations(f);
            port.ingress.visit_allocations(f);
            port.policy.visit_allocations(f);
        }
        self.adjacencies.visit_allocations(f);
        self.wraps.visit_allocations(f);
        self.wraps.iter().for_each(|(_, wrap)| {
            if let Some(wrap) = wrap {
                allocation(wrap, f);
                allocation(&wrap.path, f);
            }
        });
        self.groups.visit_allocations(f);
        for (_, group) in self.groups.iter() {
            allocation(group, f);
            allocation(&group.hops, f);
            allocation(&group.adjacencies, f);
        }
        self.tunnels.visit_allocations(f);
        allocation(&self.tunnel_ports, f);
        self.remotes.visit_allocations(f);
        self.vrfs.visit_allocations(f);
        self.vrfs.visit(&mut |_, _, vrf| {
            allocation(vrf, f);
            vrf.fib.visit_allocations(f);
            vrf.next_hops.visit_allocations(f);
        });
        self.links.visit_allocations(f);
        for (_, link) in self.links.iter() {
            allocation(link, f);
            link.stations.visit_allocations(f);
        }
        self.segments.visit_allocations(f);
        self.segments.visit(&mut |_, _, segment| {
            allocation(segment, f);
            segment.visit_allocations(f);
        });
        self.peers.visit_allocations(f);
        self.route_stamps.visit_allocations(f);
        self.behind.visit_allocations(f);
        for (_, behind) in self.behind.iter() {
            let Some(behind) = behind else { continue };
            allocation(behind, f);
            behind.neighbors.visit_allocations(f);
        }
        self.rule_ids.visit_allocations(f);
        self.services.visit_allocations(f);
    }

    /// Bytes of memory that the tables take, without the allocator's own.
    pub fn memory(&self) -> usize {
        let mut seen = std::collections::HashMap::new();
        self.visit_allocations(&mut |address, bytes| {
            seen.insert(address, bytes);
        });
        size_of::<Tables>() + seen.values().sum::<usize>()
    }
}
