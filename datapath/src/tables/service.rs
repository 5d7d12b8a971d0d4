// SPDX-License-Identifier: Apache-2.0
//! Services: addresses and ports that stand for whichever of several backends
//! ([Kubernetes: virtual IPs and service proxies](https://kubernetes.io/docs/reference/networking/virtual-ips/)).
//!
//! A backend is chosen for a connection by consistent hashing. Of few, each draws a lot for the connection and the largest wins (rendezvous hashing,
//! Thaler and Ravishankar 1998): one that goes moves its own connections alone, there is no table to keep, and to ask 100 costs less than a line of a
//! table that is not in a cache. For more than that there is a table (Maglev, Eisenbud and others, NSDI 2016, section 3.4): every backend has a random
//! order of all places, and they take turns in choosing the first of theirs that is still free. All have as many places, but for one, and few places have
//! another owner when one of them goes or comes. Where their number passes 128, or what a size of the table is for, connections that begin are spread
//! anew. All of it is made of addresses and ports alone, so every node chooses the same.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Tables;
use super::route::IpTrie;
use super::stamps::{BUCKETS, bucket};
use super::trie::{Trie, allocation};
use crate::ids::VrfId;
use crate::verdict::Reason;
use crate::wire::FlowKey;
use crate::wire::flow_key::to_ip;
use crate::wire::translate::Endpoint;

/// Most backends of which each draws a lot.
const FEW: usize = 128;
/// Table sizes: primes near powers of two.
const SIZES: [usize; 7] = [16_381, 32_749, 65_521, 131_071, 262_139, 524_287, 1_048_573];
/// Places for each backend, where a table may be so large: a backend that goes has few others' places move.
const PLACES: usize = 100;
/// Most backends of a service.
pub const MAX_BACKENDS: usize = u16::MAX as usize;
/// Of the hash of backends and clients. Not a secret, and the same on all nodes: who sends by several of them reaches the same backend.
const SEED: u64 = 0x243f_6a88_85a3_08d3;

/// Backends, and which of them a connection goes to.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    /// In order.
    ends: Box<[Endpoint]>,
    choice: Choice,
}

/// How one of several is chosen.
#[derive(Clone, Debug)]
enum Choice {
    /// The largest lot wins; what each draws by.
    Lots(Box<[u64]>),
    /// Whose each place of a table is.
    Places(Box<[u16]>),
}

impl Default for Choice {
    fn default() -> Choice {
        Choice::Lots(Box::default())
    }
}

impl Backends {
    /// Of these addresses and ports, of which at most [`MAX_BACKENDS`] count; one that comes twice counts once.
    pub fn new(mut ends: Vec<Endpoint>) -> Backends {
        ends.sort_unstable_by_key(|end| (end.address, end.port));
        ends.dedup();
        ends.truncate(MAX_BACKENDS);
        let choice = match ends.len() {
            0..=FEW => Choice::Lots(ends.iter().map(number).collect()),
            _ => Choice::Places(populate(&ends)),
        };
        Backends {
            ends: ends.into(),
            choice,
        }
    }

    /// All of them, in order.
    pub fn ends(&self) -> &[Endpoint] {
        &self.ends
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether this is one of them.
    pub fn has(&self, end: &Endpoint) -> bool {
        let key = |end: &Endpoint| (end.address, end.port);
        self.ends.binary_search_by_key(&key(end), key).is_ok()
    }

    /// The one for a connection with this hash; none where there are none.
    pub fn choose(&self, hash: u64) -> Option<&Endpoint> {
        match &self.choice {
            Choice::Lots(drawers) => {
                let lots = drawers.iter().map(|by| mix(hash ^ by));
                // The first of two that are equal.
                let largest = lots
                    .enumerate()
                    .reduce(|a, b| if b.1 > a.1 { b } else { a });
                self.ends.get(largest?.0)
            }
            Choice::Places(places) => {
                let place = (u128::from(mix(hash)) * places.len() as u128) >> 64;
                self.ends.get(usize::from(*places.get(place as usize)?))
            }
        }
    }

    fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        let mut bytes = |at: usize, bytes: usize| {
            if bytes > 0 {
                f(at, bytes);
            }
        };
        bytes(self.ends.as_ptr().addr(), size_of_val(&*self.ends));
        match &self.choice {
            Choice::Lots(by) => bytes(by.as_ptr().addr(), size_of_val(&**by)),
            Choice::Places(places) => bytes(places.as_ptr().addr(), size_of_val(&**places)),
        }
    }
}

/// Whose each place is.
fn populate(ends: &[Endpoint]) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let wanted = ends.len() * PLACES;
    let fits = SIZES.iter().find(|size| **size >= wanted);
    let size = *fits.unwrap_or(&SIZES[SIZES.len() - 1]);
    let mut walks: Vec<(usize, usize)> = ends.iter().map(|end| walk(end, size)).collect();
    let mut places = vec![FREE; size];
    let mut free = size;
    loop {
        for (i, (at, step)) in walks.iter_mut().enumerate() {
            while places[*at] != FREE {
                *at = (*at + *step) % size;
            }
            places[*at] = i as u16;
            free -= 1;
            if free == 0 {
                return places.into();
            }
        }
    }
}

/// A number that stands for a backend.
fn number(end: &Endpoint) -> u64 {
    let key = FlowKey::new(VrfId(0), 0, end.address, [0; 16], end.port, 0);
    mix(key.hash(SEED))
}

/// Has every bit of a number depend on all of them (the finalizer of MurmurHash3, in public domain).
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// A backend's order of the places of a table: where it begins, and how far it is to the next. The size is a prime, so it comes by all of them.
fn walk(end: &Endpoint, size: usize) -> (usize, usize) {
    let hash = number(end);
    let (low, high) = (hash & 0xffff_ffff, hash >> 32);
    (
        (low % size as u64) as usize,
        (high % (size as u64 - 1)) as usize + 1,
    )
}

/// Which backends serve a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Traffic {
    /// Those of the cluster.
    #[default]
    Cluster,
    /// Those of this node alone.
    Local,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Backends of the cluster.
    pub cluster: Backends,
    /// Backends on this node.
    pub local: Backends,
    /// Which of them serve clients at its addresses inside the cluster.
    pub internal: Traffic,
    /// Which of them serve clients from outside; those inside are served by the cluster's at the same addresses.
    pub external: Traffic,
    /// For how long a client stays with its backend without a new connection, milliseconds.
    pub affinity: Option<u32>,
}

/// Where a service is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// At an address.
    Address(IpAddr),
    /// At every address of the node of a family: whether that is IPv6.
    Node {
        /// IPv6.
        v6: bool,
    },
}

/// An address and port of a service; VRF 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FrontendKey {
    /// Where.
    pub place: Place,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// What is at an address and port.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// The service.
    pub service: Arc<Service>,
    /// It is for clients outside, too.
    pub is_external: bool,
    /// Prefixes of clients; all are when there are none given.
    pub sources: Option<Arc<[IpNet]>>,
}

/// A client of services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// A pod, or the node itself.
    Inside,
    /// Whoever comes by an uplink.
    Outside,
}

impl Frontend {
    /// Who serves a client with this address.
    fn serve(&self, client: Client, address: &[u8; 16]) -> Result<&Backends, Reason> {
        let address = to_ip(address);
        let mut sources = self.sources.iter().flat_map(|all| all.iter());
        if self.sources.is_some() && !sources.any(|prefix| prefix.contains(&address)) {
            return Err(Reason::ServiceSourceDenied);
        }
        let service = &*self.service;
        let traffic = match (self.is_external, client) {
            (false, _) => service.internal,
            (true, Client::Inside) => Traffic::Cluster,
            (true, Client::Outside) => service.external,
        };
        let backends = match traffic {
            Traffic::Cluster => &service.cluster,
            Traffic::Local => &service.local,
        };
        match backends.is_empty() {
            false => Ok(backends),
            true if service.cluster.is_empty() && service.local.is_empty() => {
                Err(Reason::ServiceNoBackend)
            }
            true => Err(Reason::ServiceNoLocalBackend),
        }
    }
}

/// What is at an address: the protocol and port of each.
pub(super) type AtAddress = Arc<[(u8, u16, Frontend)]>;

/// Services by address and by port of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    pub(super) at: IpTrie<AtAddress>,
    pub(super) node_ports: Trie<u32, Frontend>,
    /// Buckets of addresses at which there is, or was, a service; those of the node's, when one is at ports of the node. What was is left: connections to it go on.
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) count: usize,
}

/// A bit for each bucket of addresses.
pub(super) type Filter = [u64; BUCKETS / 64];

/// Key of a port of the node.
pub(super) fn node_port(v6: bool, protocol: u8, port: u16) -> u32 {
    u32::from(v6) << 24 | u32::from(protocol) << 16 | u32::from(port)
}

impl Services {
    /// What is at a packet's destination: an address of services, or of the node.
    fn find(&self, key: &FlowKey, is_node: impl FnOnce() -> bool) -> Found<'_> {
        let wanted = (key.protocol(), key.dport);
        if let Some(all) = self.at.get_key(&key.dst) {
            let same = all.iter().find(|(p, port, _)| (*p, *port) == wanted);
            if let Some((_, _, frontend)) = same {
                return Found::Frontend(frontend);
            }
            if all.iter().any(|(_, _, f)| !f.is_external) {
                return Found::NoPort;
            }
            // An external address may be the node's own.
        }
        let node = self
            .node_ports
            .get_exact(node_port(!key.is_v4(), wanted.0, wanted.1));
        match node.filter(|_| is_node()) {
            Some(frontend) => Found::Frontend(frontend),
            None => Found::Nothing,
        }
    }

    /// Whether there may be, or may have been, a service at an address.
    #[inline(always)]
    fn may_be_at(&self, address: &[u8; 16]) -> bool {
        let Some(filter) = &self.filter else {
            return false;
        };
        let at = bucket(address);
        filter[at / 64 % filter.len()] >> (at % 64) & 1 != 0
    }

    /// Notes that there is a service at an address.
    pub(super) fn mark(&mut self, address: &[u8; 16]) {
        if self.may_be_at(address) {
            return;
        }
        let at = bucket(address);
        let fresh = || Arc::new([0; BUCKETS / 64]);
        let filter = Arc::make_mut(self.filter.get_or_insert_with(fresh));
        filter[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        let of = |frontend: &Frontend, f: &mut dyn FnMut(usize, usize)| {
            allocation(&frontend.service, f);
            allocation(&frontend.service.name, f);
            frontend.service.cluster.visit_allocations(f);
            frontend.service.local.visit_allocations(f);
            frontend.sources.iter().for_each(|s| allocation(s, f));
        };
        self.at.visit_allocations(f);
        self.at.visit(&mut |_, all| {
            allocation(all, f);
            all.iter().for_each(|(_, _, frontend)| of(frontend, f));
        });
        self.node_ports.visit_allocations(f);
        self.node_ports.visit(&mut |_, _, frontend| of(frontend, f));
        self.filter.iter().for_each(|filter| allocation(filter, f));
    }
}

enum Found<'t> {
    Frontend(&'t Frontend),
    /// An address of services, and none has this port.
    NoPort,
    Nothing,
}

/// A service that a packet is for, and the backends that serve its sender.
#[derive(Clone, Copy, Debug)]
pub struct Served<'t> {
    /// The service.
    pub service: &'t Service,
    /// Who may serve; at least one.
    pub backends: &'t Backends,
}

impl Served<'_> {
    /// The backend for a new connection whose packets have this key: the `nth` choice, from 0 on.
    pub fn choose(&self, key: &FlowKey, nth: u64) -> Option<Endpoint> {
        let key = match self.service.affinity {
            // All of a client's go to the same.
            Some(_) => key.with_ports(0, key.dport),
            None => *key,
        };
        self.backends.choose(key.hash(SEED ^ nth)).copied()
    }
}

impl Tables {
    /// Whether there may be a service at an address, or once was: false says that there is none.
    #[inline(always)]
    pub fn may_be_service(&self, address: &[u8; 16]) -> bool {
        self.services.may_be_at(address)
    }

    /// The service that a packet with this key is for, if it is for one, and who serves its sender.
    ///
    /// # Errors
    /// Why nobody does.
    pub fn service(&self, key: &FlowKey, client: Client) -> Option<Result<Served<'_>, Reason>> {
        if key.vrf() != VrfId(0) {
            return None;
        }
        let is_node = || {
            let address = to_ip(&key.dst);
            self.node_addresses(key.vrf()).any(|own| own == address)
        };
        match self.services.find(key, is_node) {
            Found::Frontend(frontend) => Some(frontend.serve(client, &key.src).map(|backends| {
                let service = &*frontend.service;
                Served { service, backends }
            })),
            Found::NoPort => Some(Err(Reason::ServiceNoPort)),
            Found::Nothing => None,
        }
    }
}
