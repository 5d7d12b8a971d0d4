// SPDX-License-Identifier: Apache-2.0
//! Routes, the addresses and next hops behind a port, and what a lookup yields.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::lpm::Fib;
use super::trie::Trie;
use crate::ids::{PortId, VrfId};
use crate::verdict::Reason;
use crate::wire::MacAddr;
use crate::wire::flow_key::{map_v4, unmap_v4};

/// What becomes of packets that a route matches; kinds as in ip-route(8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// Forwarded.
    Unicast {
        /// The port to leave by.
        port: PortId,
        /// Next hop, of the prefix's family, on the link behind the port; none: the destination itself is.
        via: Option<IpAddr>,
        /// Largest packet, bytes from the IP header on; none: the MTU of the port, which also caps it.
        mtu: Option<u32>,
    },
    /// Forwarded by one of several next hops, each flow by the same one as long as that is there (RFC 2992).
    Multipath {
        /// The next hops, two or more, in any order.
        hops: Arc<[NextHop]>,
        /// As of a unicast route.
        mtu: Option<u32>,
    },
    /// Dropped silently.
    Blackhole,
    /// Dropped and answered: host unreachable.
    Unreachable,
    /// Dropped and answered: administratively prohibited.
    Prohibit,
}

/// A next hop of a multipath route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The port to leave by.
    pub port: PortId,
    /// Its address, as of a unicast route.
    pub via: IpAddr,
    /// Its share of the flows: its weight of the sum of all, 1 to 255.
    pub weight: u8,
}

/// Name of a route, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouteKey {
    /// The VRF.
    pub vrf: VrfId,
    /// The destination; bits beyond the length are zero.
    pub prefix: IpNet,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} (vrf {})", self.prefix, self.vrf)
    }
}

/// Name of a neighbor, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NeighborKey {
    /// The VRF, which is the port's.
    pub vrf: VrfId,
    /// The port it is behind.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
}

impl fmt::Display for NeighborKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "neighbor {} (vrf {}, port {})",
            self.address, self.vrf, self.port
        )
    }
}

/// How a packet leaves: the link header and the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adjacency {
    /// Its index: stays the same while anything refers to it.
    pub index: u32,
    /// Largest packet, bytes from the IP header on: the port's MTU or, if smaller, the route's.
    pub mtu: u32,
    /// The port to leave by.
    pub port: PortId,
    /// Whether `dst_mac` is known.
    pub resolved: bool,
    /// By a tunnel: packets are wrapped ([`Tables::wrap`](super::Tables::wrap)).
    pub wrapped: bool,
    /// Destination MAC address: the station's.
    pub dst_mac: MacAddr,
    /// Source MAC address: the gateway's; of an uplink or tunnel the port's own.
    pub src_mac: MacAddr,
    /// The station's address.
    pub address: IpAddr,
    /// The pair of port and route MTU it belongs to.
    pub(crate) link: u32,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop<'a> {
    /// Out there.
    Adjacency(&'a Adjacency),
    /// Nowhere: [`NoRoute`](Reason::NoRoute), [`RouteBlackhole`](Reason::RouteBlackhole),
    /// [`RouteUnreachable`](Reason::RouteUnreachable), [`RouteProhibit`](Reason::RouteProhibit) or
    /// [`NeighborUnresolved`](Reason::NeighborUnresolved).
    Drop(Reason),
}

/// A route with what it refers to looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// By an adjacency.
    Via(u32),
    /// To the destination itself, on a link.
    OnLink(u32),
    /// By one of a group of next hops.
    Group(u32),
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A trie for each family.
#[derive(Clone, Debug)]
pub(crate) struct IpTrie<V> {
    pub(crate) v4: Trie<u32, V>,
    pub(crate) v6: Trie<u128, V>,
}

impl<V> Default for IpTrie<V> {
    fn default() -> Self {
        IpTrie {
            v4: Trie::default(),
            v6: Trie::default(),
        }
    }
}

impl<V: Clone> IpTrie<V> {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.len() + self.v6.len() == 0
    }

    /// Longest match of an address as a flow key holds it (IPv4-mapped).
    #[inline]
    pub(crate) fn lookup_key(&self, address: &[u8; 16]) -> Option<&V> {
        let bits = u128::from_be_bytes(*address);
        match bits >> 32 {
            0xffff => self.v4.lookup(bits as u32),
            _ => self.v6.lookup(bits),
        }
    }

    /// Exact match of such an address.
    #[inline]
    pub(crate) fn get_key(&self, address: &[u8; 16]) -> Option<&V> {
        let bits = u128::from_be_bytes(*address);
        match bits >> 32 {
            0xffff => self.v4.get_exact(bits as u32),
            _ => self.v6.get_exact(bits),
        }
    }

    pub(crate) fn get(&self, prefix: IpNet) -> Option<&V> {
        match prefix {
            IpNet::V4(p) => self.v4.get(p.addr().to_bits(), p.prefix_len()),
            IpNet::V6(p) => self.v6.get(p.addr().to_bits(), p.prefix_len()),
        }
    }

    /// The value of one address, for writing.
    pub(crate) fn get_mut(&mut self, address: IpAddr) -> Option<&mut V> {
        match address {
            IpAddr::V4(a) => self.v4.get_mut(a.to_bits()),
            IpAddr::V6(a) => self.v6.get_mut(a.to_bits()),
        }
    }

    pub(crate) fn insert(&mut self, prefix: IpNet, value: V) -> Option<V> {
        match prefix {
            IpNet::V4(p) => self.v4.insert(p.addr().to_bits(), p.prefix_len(), value),
            IpNet::V6(p) => self.v6.insert(p.addr().to_bits(), p.prefix_len(), value),
        }
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) -> Option<V> {
        match prefix {
            IpNet::V4(p) => self.v4.remove(p.addr().to_bits(), p.prefix_len()),
            IpNet::V6(p) => self.v6.remove(p.addr().to_bits(), p.prefix_len()),
        }
    }

    /// Calls `f` with every prefix that this one covers.
    pub(crate) fn visit_within<'a>(&'a self, prefix: IpNet, f: &mut dyn FnMut(IpNet, &'a V)) {
        match prefix {
            IpNet::V4(p) => {
                let f =
                    &mut |key: u32, length, v| f(net(IpAddr::from(key.to_be_bytes()), length), v);
                self.v4.visit_within(p.addr().to_bits(), p.prefix_len(), f);
            }
            IpNet::V6(p) => {
                let f =
                    &mut |key: u128, length, v| f(net(IpAddr::from(key.to_be_bytes()), length), v);
                self.v6.visit_within(p.addr().to_bits(), p.prefix_len(), f);
            }
        }
    }

    /// Calls `f` with every prefix, in no particular order.
    pub(crate) fn visit<'a>(&'a self, f: &mut dyn FnMut(IpNet, &'a V)) {
        self.visit_within(net(IpAddr::from([0; 4]), 0), f);
        self.visit_within(net(IpAddr::from([0; 16]), 0), f);
    }

    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.v4.visit_allocations(f);
        self.v6.visit_allocations(f);
    }
}

/// A prefix; the length is the family's at most.
pub(super) fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new_assert(address, length)
}

/// The prefix of one address.
pub(crate) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The routes of a VRF and the addresses of its ports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vrf {
    pub(crate) fib: Fib,
    /// Next hops in use, each with its adjacencies.
    pub(crate) next_hops: IpTrie<Arc<[u32]>>,
    /// Ports in it.
    pub(crate) ports: usize,
}

/// A port together with the MTU of routes that leave by it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) port: PortId,
    pub(crate) vrf: VrfId,
    pub(crate) mtu: Option<u32>,
    /// On-link routes to it.
    pub(crate) routes: usize,
    /// Addresses behind it that are known, or next hops.
    pub(crate) stations: IpTrie<Station>,
}

impl Link {
    /// Who takes packets to an address, as a flow key holds it, that is on the link: the address's own station, or behind the node's port
    /// the node.
    #[inline]
    pub(crate) fn station(&self, address: &[u8; 16]) -> Option<&Station> {
        let anybody = || match unmap_v4(address) {
            Some(_) => map_v4([0; 4]),
            None => [0; 16],
        };
        let own = self.stations.get_key(address);
        own.or_else(|| self.stations.get_key(&anybody()))
    }
}

/// What the node is called as the station that takes packets to whoever is beyond it.
pub(crate) const ANYBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// An address behind a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Station {
    pub(crate) adjacency: u32,
    /// Routes by it.
    pub(crate) routes: u32,
}

/// The next hops of multipath routes.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) vrf: VrfId,
    pub(crate) hops: Arc<[NextHop]>,
    pub(crate) mtu: Option<u32>,
    /// The adjacency of each.
    pub(crate) adjacencies: Arc<[u32]>,
    /// Routes by it.
    pub(crate) routes: usize,
}

impl Group {
    /// The next hop for a flow of this hash among those that `is_there`: the one that wins a draw among all (rendezvous hashing, Thaler
    /// and Ravishankar, 1998), so that one which goes or comes moves only its own share of the flows.
    pub(crate) fn choose(&self, hash: u64, is_there: impl Fn(u32) -> bool) -> Option<u32> {
        let drawn = self.hops.iter().zip(self.adjacencies.iter());
        let lots = drawn.filter(|(_, a)| is_there(**a));
        let lots = lots.map(|(hop, a)| (lot(hop, hash), *a));
        lots.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, a)| a)
    }
}

/// What a next hop draws for a flow: exponentially distributed with its weight as rate, so that the smallest of all is its own with
/// the probability of its share.
fn lot(hop: &NextHop, hash: u64) -> f64 {
    let address = match hop.via {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    let salt = address as u64 ^ (address >> 64) as u64 ^ u64::from(hop.port.0) << 48;
    // A finalizer spreads neighboring addresses over all bits (the 64-bit mix of MurmurHash3).
    let mut x = hash ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^= x >> 33;
    let uniform = ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(hop.weight.max(1))
}
