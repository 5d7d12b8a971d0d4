// SPDX-License-Identifier: Apache-2.0
//! What the daemon is to have, and what becomes of what it refuses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podswitch_api::Kind;
use podswitch_api::error::RpcError;
use podswitch_api::method::Change;
use podswitch_api::object::{Key, NamespacedName, Object};

use super::input::{Rank, Source};
use super::record::{Record, key_of, kind_of, name_of};
use super::refusals::Complaint;
use super::shelf::{Held, Name};
use super::{Core, closed, ways, weight};

impl Core {
    /// Kinds of which all objects are the agent's.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = BTreeSet::new();
        let listed = |source: &Source| self.is_listed(*source);
        for source in Source::ALL.into_iter().filter(listed) {
            kinds.extend(kind_of(source));
        }
        if self.ways.is_some() {
            kinds.extend(ways::KINDS);
        }
        if self.is_listed(Source::Service) && self.is_listed(Source::EndpointSlice) {
            kinds.extend(self.translator.kinds());
        }
        kinds.into_iter().collect()
    }

    /// Ports that the agent makes, those that were refused before, too.
    pub fn ports(&self) -> Vec<Object> {
        let ways = self.ways.iter().flatten();
        let ports = ways.filter(|(key, _)| matches!(key, Key::Port { .. }));
        ports.map(|(_, object)| object.clone()).collect()
    }

    /// Whether ports are to be set again, although not everything is to be replaced. It counts as done.
    pub fn ports_due(&mut self) -> bool {
        self.refresh();
        std::mem::take(&mut self.ports_due)
    }

    /// The daemon has a port. What refers to it may be there now.
    pub fn accepted(&mut self, port: &Key) {
        if self.refusals.forget(port) {
            self.mark_behind(port);
        }
    }

    /// The keys of all objects of [`Core::kinds`]. Some may have no object.
    pub fn keys(&self) -> Vec<Key> {
        let listed = Source::ALL.into_iter().filter(|s| self.is_listed(*s));
        let described = listed.flat_map(|source| {
            let names = self.shelves[source as usize].iter().map(|(name, _)| name);
            names.filter_map(move |name| key_of(source, name))
        });
        let ways = self.ways.iter().flat_map(|ways| ways.keys().cloned());
        let ways = ways.filter(|key| !matches!(key, Key::Port { .. }));
        let kinds = self.kinds();
        let translated = self.translated.keys().cloned();
        let translated = translated.filter(|key| kinds.contains(&key.kind()));
        described.chain(ways).chain(translated).collect()
    }

    /// Some of what has changed, at most so many changes and about so many bytes; they count as done. Empty when nothing has.
    pub fn changes(&mut self, most: usize, bytes: usize) -> Vec<Change> {
        self.refresh();
        let (mut changes, mut length) = (Vec::new(), 0);
        let keys: Vec<Key> = self.changed.iter().take(most).cloned().collect();
        for key in keys {
            if length >= bytes {
                break;
            }
            let change = self.change(&key);
            if let Change::Set { object } = &change {
                length += weight(object);
            }
            self.changed.remove(&key);
            changes.push(change);
        }
        changes
    }

    /// The daemon has refused an object, or what stood in its place. The change that is to be made instead.
    pub fn refuse(&mut self, key: &Key, error: &RpcError) -> Change {
        let at = error.data.as_ref().and_then(|d| d.field.as_deref());
        let at = at.unwrap_or_default();
        let closed = match self.refusals.is_refused(key) {
            true => None,
            false => self.object(key).and_then(|o| closed::instead_of(&o, at)),
        };
        let source = Source::ALL
            .into_iter()
            .find(|s| kind_of(*s) == Some(key.kind()));
        let held = source.and_then(|s| self.held(s, key));
        let complaint = Complaint {
            source,
            name: name_of(key),
            uid: held.map(|h| h.uid.clone()).unwrap_or_default(),
            field: at.to_owned(),
            message: error.to_string(),
            closed: closed.is_some(),
        };
        let new = !self.refusals.is_refused(key);
        if self.refusals.add(key.clone(), closed, &complaint.message) {
            self.complaints.push(complaint);
        }
        if new && matches!(key, Key::Port { .. }) {
            self.mark_behind(key);
        }
        self.change(key)
    }

    /// The daemon has everything but what it refuses.
    pub fn settled(&mut self) {
        self.refusals.taken();
    }

    /// Refused objects of the agent's own are tried again: what they need may be there now.
    pub fn retry(&mut self) {
        let own = |key: &Key| matches!(key.kind(), Kind::Route | Kind::Neighbor);
        for key in self.refusals.try_again(own) {
            self.mark(key);
        }
        self.ports_due |= self.refusals.any(|key| matches!(key, Key::Port { .. }));
    }

    /// What refers to a port is to be set, or to be removed.
    fn mark_behind(&mut self, port: &Key) {
        let Key::Port { name } = port else { return };
        let ways = self.ways.iter().flatten();
        let behind = ways.filter(|(_, object)| match object {
            Object::Route(o) => o.ports().any(|p| p == name),
            Object::Neighbor(o) => o.port == *name,
            _ => false,
        });
        let keys: Vec<Key> = behind.map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| self.mark(key));
    }

    /// What makes the daemon's object with this key right.
    fn change(&self, key: &Key) -> Change {
        match self.object(key) {
            Some(object) => Change::set(object),
            None => Change::delete(key.clone()),
        }
    }

    /// The object that the daemon is to have; none when it is to have none.
    pub fn object(&self, key: &Key) -> Option<Object> {
        if let Some(instead) = self.refusals.instead(key) {
            return instead.cloned();
        }
        let (source, held) = match key {
            Key::Namespace { .. } => (Source::Namespace, self.held(Source::Namespace, key)?),
            Key::Pod(_) => (Source::Pod, self.held(Source::Pod, key)?),
            Key::NetworkPolicy(_) => (
                Source::NetworkPolicy,
                self.held(Source::NetworkPolicy, key)?,
            ),
            Key::ClusterNetworkPolicy { .. } => {
                let source = Source::ClusterNetworkPolicy;
                (source, self.held(source, key)?)
            }
            Key::Route(_) | Key::Neighbor(_) | Key::Port { .. } => return self.way(key),
            _ => return self.translated.get(key).cloned(),
        };
        match &held.value {
            Record::Text(text) => serde_json::from_str(text).ok(),
            Record::Pod { text, .. } => self.pod(key, text),
            Record::Fault(fault) => fault.closed.clone(),
            Record::Node(_) | Record::Name => {
                debug_assert!(false, "{source:?} has objects");
                None
            }
        }
    }

    /// A pod without the addresses that are another's.
    fn pod(&self, key: &Key, text: &str) -> Option<Object> {
        let mut object: Object = serde_json::from_str(text).ok()?;
        if let (Object::Pod(pod), Key::Pod(name)) = (&mut object, key)
            && !pod.host_network
        {
            pod.addresses.retain(|address| self.owns(name, address));
        }
        Some(object)
    }

    /// Whether an address is this pod's and not that of another that claims it.
    fn owns(&self, name: &NamespacedName, address: &IpAddr) -> bool {
        let pods = &self.shelves[Source::Pod as usize];
        let rank = |name: &Name| match pods.get(name).map(|h| &h.value) {
            Some(Record::Pod { rank, .. }) => (*rank, name.clone()),
            _ => (Rank::default(), name.clone()),
        };
        match self.claims.of(address) {
            [] | [_] => true,
            many => many
                .iter()
                .max_by_key(|n| rank(n))
                .is_some_and(|n| **n == *name),
        }
    }

    /// A way, unless its port is refused.
    fn way(&self, key: &Key) -> Option<Object> {
        let object = self.ways.as_ref()?.get(key)?;
        let refused = |port: &String| self.refusals.is_refused(&Key::Port { name: port.clone() });
        let without = match object {
            Object::Route(o) => o.ports().any(refused),
            Object::Neighbor(o) => refused(&o.port),
            _ => false,
        };
        (!without).then(|| object.clone())
    }

    fn held(&self, source: Source, key: &Key) -> Option<&Held<Record>> {
        let shelf = &self.shelves[source as usize];
        match key {
            Key::Pod(name) | Key::NetworkPolicy(name) => shelf.get(name),
            Key::Namespace { .. } | Key::ClusterNetworkPolicy { .. } => shelf.get(&name_of(key)),
            _ => None,
        }
    }
}
