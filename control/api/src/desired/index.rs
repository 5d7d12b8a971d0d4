// SPDX-License-Identifier: Apache-2.0
//! Who holds what must be unique, and what refers to what; kept in step with the objects so that a change is judged by what
//! it touches, not by everything there is. During a transaction several objects may hold one thing; at its end none may.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use crate::mac::MacAddr;
use crate::object::{
    Device, Group, HOST_MAC, HOST_POLLED, Key, Object, Port, Protocol, RouteKey, Service,
};

/// Something that one port alone may hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Claim {
    /// An address in a VRF.
    Address(u32, IpAddr),
    /// A MAC address in a VRF.
    RoutedMac(u32, MacAddr),
    /// A MAC address in a segment.
    SegmentMac(String, MacAddr),
    /// An interface.
    Interface(String),
    /// To be the way to the node's own stack.
    Host,
    /// A file that is written.
    Recording(String),
    /// Network identifier of a tunnel.
    Vni(u32),
    /// A socket where a frontend is met.
    Socket(String),
}

/// Pods that a group stands for: their namespace and labels.
pub(super) type GroupPods = (String, BTreeMap<String, String>);

/// The pods that a group stands for.
pub(super) fn group_pods(o: &Group) -> GroupPods {
    (o.namespace.clone(), o.labels.clone())
}

/// A multimap whose empty entries are gone.
#[derive(Clone, Debug)]
pub(super) struct Holders<K>(HashMap<K, Vec<String>>);

impl<K> Default for Holders<K> {
    fn default() -> Self {
        Holders(HashMap::new())
    }
}

impl<K: Hash + Eq> Holders<K> {
    pub(super) fn of(&self, key: &K) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// A holder other than `name`.
    pub(super) fn other(&self, key: &K, name: &str) -> Option<&str> {
        self.of(key).iter().map(String::as_str).find(|h| *h != name)
    }

    fn add(&mut self, key: K, name: &str) {
        self.0.entry(key).or_default().push(name.to_owned());
    }

    fn remove(&mut self, key: &K, name: &str) {
        if let Some(holders) = self.0.get_mut(key) {
            if let Some(at) = holders.iter().position(|h| h == name) {
                holders.swap_remove(at);
            }
            if holders.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Ports by what they claim.
    pub(super) claims: Holders<Claim>,
    /// Ports by the ports of the node that lead to them: VRF, protocol, number.
    pub(super) host_ports: Holders<(u32, Protocol, u16)>,
    /// Segments by id.
    pub(super) segment_ids: Holders<u32>,
    /// Groups by the pods they stand for.
    pub(super) group_pods: Holders<GroupPods>,
    /// Services by what packets to them bear: protocol, address, port.
    pub(super) frontends: Holders<(Protocol, IpAddr, u16)>,
    /// Services by the node's port: protocol, whether it is of IPv4, number.
    pub(super) node_ports: Holders<(Protocol, bool, u16)>,
    /// Services by address.
    pub(super) service_addresses: Holders<IpAddr>,
    /// Backends of all services together.
    pub(super) service_backends: usize,
    /// What refers to a port, by its name.
    ports: HashMap<String, BTreeSet<Key>>,
    /// What refers to a segment, by its name.
    segments: HashMap<String, BTreeSet<Key>>,
    /// How many FDB entries a segment has, by its name.
    fixed: HashMap<String, usize>,
    /// Routed ports, routes and neighbors by VRF.
    vrfs: HashMap<u32, usize>,
    /// Routes by VRF and next hop.
    next_hops: HashMap<(u32, IpAddr), BTreeSet<RouteKey>>,
}

impl Index {
    /// Neighbors, routes, FDB entries and rules that refer to the port.
    pub(super) fn of_port<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.ports.get(name).into_iter().flatten()
    }

    /// Ports and FDB entries that refer to the segment.
    pub(super) fn of_segment<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.segments.get(name).into_iter().flatten()
    }

    /// How many FDB entries the segment has.
    pub(super) fn fixed_entries(&self, segment: &str) -> usize {
        self.fixed.get(segment).copied().unwrap_or_default()
    }

    /// Routes by way of this address.
    pub(super) fn routes_via(&self, vrf: u32, address: IpAddr) -> impl Iterator<Item = &RouteKey> {
        self.next_hops.get(&(vrf, address)).into_iter().flatten()
    }

    /// Whether a routed port, route or neighbor is in the VRF.
    pub(super) fn vrf_in_use(&self, vrf: u32) -> bool {
        self.vrfs.contains_key(&vrf)
    }

    /// Notes an object that was put in.
    pub(super) fn add(&mut self, object: &Object) {
        self.update(object, true);
    }

    /// Forgets an object that was taken out.
    pub(super) fn remove(&mut self, object: &Object) {
        self.update(object, false);
    }

    fn update(&mut self, object: &Object, add: bool) {
        match object {
            Object::Segment(o) => match add {
                true => self.segment_ids.add(o.id, &o.name),
                false => self.segment_ids.remove(&o.id, &o.name),
            },
            Object::Port(o) => self.update_port(o, add),
            Object::Neighbor(o) => {
                count(&mut self.vrfs, &o.vrf, add);
                refer(&mut self.ports, &o.port, Key::Neighbor(o.key()), add);
            }
            Object::Route(o) => {
                count(&mut self.vrfs, &o.vrf, add);
                for port in o.ports() {
                    refer(&mut self.ports, port, Key::Route(o.key()), add);
                }
                for (via, _) in o.hops() {
                    refer(&mut self.next_hops, &(o.vrf, via), o.key(), add);
                }
            }
            Object::Fdb(o) => {
                refer(&mut self.ports, &o.port, Key::Fdb(o.key()), add);
                refer(&mut self.segments, &o.segment, Key::Fdb(o.key()), add);
                count(&mut self.fixed, &o.segment, add);
            }
            Object::Rule(o) => refer(
                &mut self.ports,
                &o.port,
                Key::Rule {
                    name: o.name.clone(),
                },
                add,
            ),
            Object::Group(o) => match add {
                true => self.group_pods.add(group_pods(o), &o.id.to_string()),
                false => self.group_pods.remove(&group_pods(o), &o.id.to_string()),
            },
            Object::Service(o) => self.update_service(o, add),
            // They refer to nothing here.
            Object::Namespace(_)
            | Object::Pod(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterNetworkPolicy(_) => {}
        }
    }

    fn update_service(&mut self, o: &Service, add: bool) {
        for address in o.all_addresses() {
            let key = (o.protocol, address, o.port);
            match add {
                true => self.frontends.add(key, &o.name),
                false => self.frontends.remove(&key, &o.name),
            }
            match add {
                true => self.service_addresses.add(address, &o.name),
                false => self.service_addresses.remove(&address, &o.name),
            }
        }
        if let Some(port) = o.node_port {
            let key = (o.protocol, o.is_ipv4(), port);
            match add {
                true => self.node_ports.add(key, &o.name),
                false => self.node_ports.remove(&key, &o.name),
            }
        }
        let backends = o.count_backends();
        self.service_backends = match add {
            true => self.service_backends + backends,
            false => self.service_backends.saturating_sub(backends),
        };
    }

    fn update_port(&mut self, o: &Port, add: bool) {
        for claim in claims(o) {
            match add {
                true => self.claims.add(claim, &o.name),
                false => self.claims.remove(&claim, &o.name),
            }
        }
        for mapping in &o.host_ports {
            let key = (o.vrf, mapping.protocol, mapping.host_port);
            match add {
                true => self.host_ports.add(key, &o.name),
                false => self.host_ports.remove(&key, &o.name),
            }
        }
        match &o.segment {
            Some(membership) => refer(
                &mut self.segments,
                &membership.name,
                Key::Port {
                    name: o.name.clone(),
                },
                add,
            ),
            None => count(&mut self.vrfs, &o.vrf, add),
        }
    }
}

/// Everything a port claims for itself.
pub(super) fn claims(o: &Port) -> Vec<Claim> {
    // First, as it says most.
    let host = o.device.is_host().then_some(Claim::Host);
    let addresses = o.addresses.iter().map(|a| Claim::Address(o.vrf, *a));
    let mut claims: Vec<Claim> = host.into_iter().chain(addresses).collect();
    let mac = o.mac.or(o.device.is_host().then_some(HOST_MAC));
    claims.extend(mac.map(|mac| match &o.segment {
        Some(membership) => Claim::SegmentMac(membership.name.clone(), mac),
        None => Claim::RoutedMac(o.vrf, mac),
    }));
    claims.extend(o.device.interface().map(|i| Claim::Interface(i.to_owned())));
    match &o.device {
        Device::Pcap {
            record: Some(file), ..
        } => claims.push(Claim::Recording(file.clone())),
        Device::Vxlan { vni, .. } => claims.push(Claim::Vni(*vni)),
        Device::VhostUser { socket, .. } => claims.push(Claim::Socket(socket.clone())),
        Device::Host { .. } => claims.push(Claim::Interface(HOST_POLLED.to_owned())),
        _ => {}
    }
    claims
}

fn refer<N, K: Ord>(map: &mut HashMap<N::Owned, BTreeSet<K>>, name: &N, key: K, add: bool)
where
    N: ToOwned<Owned: Hash + Eq + Borrow<N>> + Hash + Eq + ?Sized,
{
    if add {
        map.entry(name.to_owned()).or_default().insert(key);
    } else if let Some(keys) = map.get_mut(name) {
        keys.remove(&key);
        if keys.is_empty() {
            map.remove(name);
        }
    }
}

fn count<K: Hash + Eq + Clone>(map: &mut HashMap<K, usize>, key: &K, add: bool) {
    if add {
        *map.entry(key.clone()).or_default() += 1;
    } else if let Some(n) = map.get_mut(key) {
        *n = n.saturating_sub(1);
        if *n == 0 {
            map.remove(key);
        }
    }
}
