// SPDX-License-Identifier: Apache-2.0
//! All objects, by key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::delta::{Delta, Difference};
use crate::error::{ErrorCode, RpcError};
use crate::limits::Limits;
use crate::object::{
    ClusterNetworkPolicy, FdbEntry, FdbKey, Group, Key, Kind, Namespace, NamespacedName, Neighbor,
    NeighborKey, NetworkPolicy, Object, Pod, Port, Route, RouteKey, Rule, Segment, Service,
};

/// All objects of a desired state. Written as the list of its objects.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Object>", try_from = "Vec<Object>")]
pub struct DesiredState {
    /// Segments by name.
    pub segments: BTreeMap<String, Segment>,
    /// Ports by name.
    pub ports: BTreeMap<String, Port>,
    /// Neighbors.
    pub neighbors: BTreeMap<NeighborKey, Neighbor>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Static FDB entries.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Rules by name.
    pub rules: BTreeMap<String, Rule>,
    /// Kubernetes namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Pods of the cluster.
    pub pods: BTreeMap<NamespacedName, Pod>,
    /// NetworkPolicies.
    pub network_policies: BTreeMap<NamespacedName, NetworkPolicy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_network_policies: BTreeMap<String, ClusterNetworkPolicy>,
    /// Groups by their number.
    pub groups: BTreeMap<u16, Group>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
}

/// Two objects of a list have one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} comes twice; leave one of them out")]
pub struct DuplicateKey(pub Key);

impl DesiredState {
    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Object> {
        match key {
            Key::Segment { name } => self.segments.get(name).cloned().map(Object::from),
            Key::Port { name } => self.ports.get(name).cloned().map(Object::from),
            Key::Neighbor(key) => self.neighbors.get(key).cloned().map(Object::from),
            Key::Route(key) => self.routes.get(key).cloned().map(Object::from),
            Key::Fdb(key) => self.fdb.get(key).cloned().map(Object::from),
            Key::Rule { name } => self.rules.get(name).cloned().map(Object::from),
            Key::Namespace { name } => self.namespaces.get(name).cloned().map(Object::from),
            Key::Pod(key) => self.pods.get(key).cloned().map(Object::from),
            Key::NetworkPolicy(key) => self.network_policies.get(key).cloned().map(Object::from),
            Key::ClusterNetworkPolicy { name } => {
                let policies = &self.cluster_network_policies;
                policies.get(name).cloned().map(Object::from)
            }
            Key::Group { id } => self.groups.get(id).cloned().map(Object::from),
            Key::Service { name } => self.services.get(name).cloned().map(Object::from),
        }
    }

    /// Whether there is an object with this key.
    pub fn contains(&self, key: &Key) -> bool {
        match key {
            Key::Segment { name } => self.segments.contains_key(name),
            Key::Port { name } => self.ports.contains_key(name),
            Key::Neighbor(key) => self.neighbors.contains_key(key),
            Key::Route(key) => self.routes.contains_key(key),
            Key::Fdb(key) => self.fdb.contains_key(key),
            Key::Rule { name } => self.rules.contains_key(name),
            Key::Namespace { name } => self.namespaces.contains_key(name),
            Key::Pod(key) => self.pods.contains_key(key),
            Key::NetworkPolicy(key) => self.network_policies.contains_key(key),
            Key::ClusterNetworkPolicy { name } => self.cluster_network_policies.contains_key(name),
            Key::Group { id } => self.groups.contains_key(id),
            Key::Service { name } => self.services.contains_key(name),
        }
    }

    /// Whether this very object is there.
    pub fn holds(&self, object: &Object) -> bool {
        match object {
            Object::Segment(o) => self.segments.get(&o.name) == Some(o),
            Object::Port(o) => self.ports.get(&o.name) == Some(&**o),
            Object::Neighbor(o) => self.neighbors.get(&o.key()) == Some(o),
            Object::Route(o) => self.routes.get(&o.key()) == Some(o),
            Object::Fdb(o) => self.fdb.get(&o.key()) == Some(o),
            Object::Rule(o) => self.rules.get(&o.name) == Some(o),
            Object::Namespace(o) => self.namespaces.get(&o.name) == Some(o),
            Object::Pod(o) => self.pods.get(&o.key()) == Some(&**o),
            Object::NetworkPolicy(o) => self.network_policies.get(&o.key()) == Some(&**o),
            Object::ClusterNetworkPolicy(o) => {
                self.cluster_network_policies.get(&o.name) == Some(&**o)
            }
            Object::Group(o) => self.groups.get(&o.id) == Some(o),
            Object::Service(o) => self.services.get(&o.name) == Some(&**o),
        }
    }

    /// Puts an object in; the one it replaces comes back.
    pub fn insert(&mut self, object: Object) -> Option<Object> {
        match object {
            Object::Segment(o) => self.segments.insert(o.name.clone(), o).map(Object::from),
            Object::Port(o) => self.ports.insert(o.name.clone(), *o).map(Object::from),
            Object::Neighbor(o) => self.neighbors.insert(o.key(), o).map(Object::from),
            Object::Route(o) => self.routes.insert(o.key(), o).map(Object::from),
            Object::Fdb(o) => self.fdb.insert(o.key(), o).map(Object::from),
            Object::Rule(o) => self.rules.insert(o.name.clone(), o).map(Object::from),
            Object::Namespace(o) => {
                let replaced = self.namespaces.insert(o.name.clone(), o);
                replaced.map(Object::from)
            }
            Object::Pod(o) => self.pods.insert(o.key(), *o).map(Object::from),
            Object::NetworkPolicy(o) => {
                let replaced = self.network_policies.insert(o.key(), *o);
                replaced.map(Object::from)
            }
            Object::ClusterNetworkPolicy(o) => {
                let policies = &mut self.cluster_network_policies;
                policies.insert(o.name.clone(), *o).map(Object::from)
            }
            Object::Group(o) => self.groups.insert(o.id, o).map(Object::from),
            Object::Service(o) => self.services.insert(o.name.clone(), *o).map(Object::from),
        }
    }

    /// Puts an object in whose key is new.
    ///
    /// # Errors
    /// [`DuplicateKey`] when the key is there already; nothing is changed then.
    pub fn insert_new(&mut self, object: Object) -> Result<(), DuplicateKey> {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
            match map.entry(key) {
                Entry::Vacant(e) => {
                    e.insert(value);
                    true
                }
                Entry::Occupied(_) => false,
            }
        }
        let key = object.key();
        let new = match object {
            Object::Segment(o) => put(&mut self.segments, o.name.clone(), o),
            Object::Port(o) => put(&mut self.ports, o.name.clone(), *o),
            Object::Neighbor(o) => put(&mut self.neighbors, o.key(), o),
            Object::Route(o) => put(&mut self.routes, o.key(), o),
            Object::Fdb(o) => put(&mut self.fdb, o.key(), o),
            Object::Rule(o) => put(&mut self.rules, o.name.clone(), o),
            Object::Namespace(o) => put(&mut self.namespaces, o.name.clone(), o),
            Object::Pod(o) => put(&mut self.pods, o.key(), *o),
            Object::NetworkPolicy(o) => put(&mut self.network_policies, o.key(), *o),
            Object::ClusterNetworkPolicy(o) => {
                put(&mut self.cluster_network_policies, o.name.clone(), *o)
            }
            Object::Group(o) => put(&mut self.groups, o.id, o),
            Object::Service(o) => put(&mut self.services, o.name.clone(), *o),
        };
        if new { Ok(()) } else { Err(DuplicateKey(key)) }
    }

    /// Takes the object with this key out.
    pub fn remove(&mut self, key: &Key) -> Option<Object> {
        match key {
            Key::Segment { name } => self.segments.remove(name).map(Object::from),
            Key::Port { name } => self.ports.remove(name).map(Object::from),
            Key::Neighbor(key) => self.neighbors.remove(key).map(Object::from),
            Key::Route(key) => self.routes.remove(key).map(Object::from),
            Key::Fdb(key) => self.fdb.remove(key).map(Object::from),
            Key::Rule { name } => self.rules.remove(name).map(Object::from),
            Key::Namespace { name } => self.namespaces.remove(name).map(Object::from),
            Key::Pod(key) => self.pods.remove(key).map(Object::from),
            Key::NetworkPolicy(key) => self.network_policies.remove(key).map(Object::from),
            Key::ClusterNetworkPolicy { name } => {
                self.cluster_network_policies.remove(name).map(Object::from)
            }
            Key::Group { id } => self.groups.remove(id).map(Object::from),
            Key::Service { name } => self.services.remove(name).map(Object::from),
        }
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Segment => self.segments.len(),
            Kind::Port => self.ports.len(),
            Kind::Neighbor => self.neighbors.len(),
            Kind::Route => self.routes.len(),
            Kind::Fdb => self.fdb.len(),
            Kind::Rule => self.rules.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Pod => self.pods.len(),
            Kind::NetworkPolicy => self.network_policies.len(),
            Kind::ClusterNetworkPolicy => self.cluster_network_policies.len(),
            Kind::Group => self.groups.len(),
            Kind::Service => self.services.len(),
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        Kind::ALL.iter().map(|k| self.count(*k)).sum()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys of a kind, in order.
    pub fn keys(&self, kind: Kind) -> Box<dyn Iterator<Item = Key> + '_> {
        match kind {
            Kind::Segment => Box::new(
                self.segments
                    .keys()
                    .map(|name| Key::Segment { name: name.clone() }),
            ),
            Kind::Port => Box::new(
                self.ports
                    .keys()
                    .map(|name| Key::Port { name: name.clone() }),
            ),
            Kind::Neighbor => Box::new(self.neighbors.keys().map(|k| Key::Neighbor(*k))),
            Kind::Route => Box::new(self.routes.keys().map(|k| Key::Route(*k))),
            Kind::Fdb => Box::new(self.fdb.keys().map(|k| Key::Fdb(k.clone()))),
            Kind::Rule => Box::new(
                self.rules
                    .keys()
                    .map(|name| Key::Rule { name: name.clone() }),
            ),
            Kind::Namespace => {
                let names = self.namespaces.keys().cloned();
                Box::new(names.map(|name| Key::Namespace { name }))
            }
            Kind::Pod => Box::new(self.pods.keys().cloned().map(Key::Pod)),
            Kind::NetworkPolicy => Box::new(
                self.network_policies
                    .keys()
                    .cloned()
                    .map(Key::NetworkPolicy),
            ),
            Kind::ClusterNetworkPolicy => {
                let names = self.cluster_network_policies.keys().cloned();
                Box::new(names.map(|name| Key::ClusterNetworkPolicy { name }))
            }
            Kind::Group => Box::new(self.groups.keys().map(|id| Key::Group { id: *id })),
            Kind::Service => {
                let names = self.services.keys().cloned();
                Box::new(names.map(|name| Key::Service { name }))
            }
        }
    }

    /// Objects of a kind, in the order of their keys.
    pub fn objects(&self, kind: Kind) -> Box<dyn Iterator<Item = Object> + '_> {
        match kind {
            Kind::Segment => Box::new(self.segments.values().cloned().map(Object::from)),
            Kind::Port => Box::new(self.ports.values().cloned().map(Object::from)),
            Kind::Neighbor => Box::new(self.neighbors.values().cloned().map(Object::from)),
            Kind::Route => Box::new(self.routes.values().cloned().map(Object::from)),
            Kind::Fdb => Box::new(self.fdb.values().cloned().map(Object::from)),
            Kind::Rule => Box::new(self.rules.values().cloned().map(Object::from)),
            Kind::Namespace => Box::new(self.namespaces.values().cloned().map(Object::from)),
            Kind::Pod => Box::new(self.pods.values().cloned().map(Object::from)),
            Kind::NetworkPolicy => {
                Box::new(self.network_policies.values().cloned().map(Object::from))
            }
            Kind::ClusterNetworkPolicy => {
                let policies = &self.cluster_network_policies;
                Box::new(policies.values().cloned().map(Object::from))
            }
            Kind::Group => Box::new(self.groups.values().cloned().map(Object::from)),
            Kind::Service => Box::new(self.services.values().cloned().map(Object::from)),
        }
    }

    /// All objects, those that others refer to first.
    pub fn iter(&self) -> impl Iterator<Item = Object> + '_ {
        Kind::ALL.into_iter().flat_map(|k| self.objects(k))
    }

    /// Refuses a state that holds more of a kind than the limits allow.
    ///
    /// # Errors
    /// `limit`, naming the kind, the number and the limit.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), RpcError> {
        self.check_counts(limits)?;
        let backends = self.services.values().map(Service::count_backends).sum();
        at_most("service_backends", backends, limits.service_backends)
    }

    /// The same but for what objects have inside.
    pub(super) fn check_counts(&self, limits: &Limits) -> Result<(), RpcError> {
        for kind in Kind::ALL {
            let (field, most) = match kind {
                Kind::Segment => ("segments", limits.segments),
                Kind::Port => ("ports", limits.ports),
                Kind::Neighbor => ("neighbors", limits.neighbors),
                Kind::Route => ("routes", limits.routes),
                Kind::Fdb => ("fdb_entries", limits.fdb_entries),
                Kind::Rule => ("rules", limits.rules),
                Kind::Namespace => ("namespaces", limits.namespaces),
                Kind::Pod => ("pods", limits.pods),
                Kind::NetworkPolicy => ("network_policies", limits.network_policies),
                Kind::ClusterNetworkPolicy => {
                    ("cluster_network_policies", limits.cluster_network_policies)
                }
                Kind::Group => ("groups", limits.groups),
                Kind::Service => ("services", limits.services),
            };
            let there = self.count(kind);
            at_most(field, there, most)?;
        }
        Ok(())
    }

    /// What makes `other` out of this state.
    pub fn diff(&self, other: &DesiredState) -> Delta {
        let mut delta = Delta::default();
        diff_maps(&self.segments, &other.segments, &mut delta);
        diff_maps(&self.ports, &other.ports, &mut delta);
        diff_maps(&self.neighbors, &other.neighbors, &mut delta);
        diff_maps(&self.routes, &other.routes, &mut delta);
        diff_maps(&self.fdb, &other.fdb, &mut delta);
        diff_maps(&self.rules, &other.rules, &mut delta);
        diff_maps(&self.namespaces, &other.namespaces, &mut delta);
        diff_maps(&self.pods, &other.pods, &mut delta);
        let policies = &self.network_policies;
        diff_maps(policies, &other.network_policies, &mut delta);
        let policies = &self.cluster_network_policies;
        diff_maps(policies, &other.cluster_network_policies, &mut delta);
        diff_maps(&self.groups, &other.groups, &mut delta);
        diff_maps(&self.services, &other.services, &mut delta);
        delta
    }

    /// Carries out differences without judging them.
    pub fn patch(&mut self, delta: &Delta) {
        for difference in &delta.differences {
            match &difference.after {
                Some(object) => drop(self.insert(object.clone())),
                None => drop(self.remove(&difference.key())),
            }
        }
    }
}

/// Refuses more of something than a limit allows.
pub(super) fn at_most(field: &str, there: usize, most: u32) -> Result<(), RpcError> {
    if there <= most as usize {
        return Ok(());
    }
    let message = format!("{there} {field} are more than the limit of {most}; nothing was changed");
    let hint = format!("leave some out, or raise `limits.{field}` in the configuration");
    Err(RpcError::new(ErrorCode::Limit, message)
        .field(field)
        .value(there)
        .hint(hint))
}

/// Walks two maps in step and notes where they differ.
fn diff_maps<K: Ord, V: Clone + PartialEq + Into<Object>>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    delta: &mut Delta,
) {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let a = if order.is_le() {
            old.next().map(|(_, v)| v)
        } else {
            None
        };
        let b = if order.is_ge() {
            new.next().map(|(_, v)| v)
        } else {
            None
        };
        if a != b {
            let object = |v: &V| v.clone().into();
            delta
                .differences
                .extend(Difference::new(a.map(object), b.map(object)));
        }
    }
}

impl From<DesiredState> for Vec<Object> {
    fn from(state: DesiredState) -> Vec<Object> {
        state.iter().collect()
    }
}

impl TryFrom<Vec<Object>> for DesiredState {
    type Error = DuplicateKey;

    fn try_from(objects: Vec<Object>) -> Result<Self, DuplicateKey> {
        let mut state = DesiredState::default();
        for object in objects {
            state.insert_new(object)?;
        }
        Ok(state)
    }
}
