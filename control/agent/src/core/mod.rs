// SPDX-License-Identifier: Apache-2.0
//! What the cluster says, and what the daemon is therefore given: events in, changes out. Without input and output, time or threads.
//!
//! Of each object only its text for the daemon is kept. Whatever the order in which events come, twice or late, the objects are those
//! that the last state of the cluster makes.

mod claims;
pub(crate) mod closed;
mod input;
mod record;
mod refusals;
mod services;
mod shelf;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use podswitch_api::Kind;
use podswitch_api::error::RpcError;
use podswitch_api::method::Change;
use podswitch_api::object::{Key, NamespacedName, Object};

pub use input::{Away, Fault, Identity, Input, NodeFacts, Rank, Seen, Source, What};
pub use refusals::Complaint;
pub use services::{Translator, Untranslated};
pub use ways::{Egress, HOST, Link, Mode, OVERLAY, UPLINK, WaysConfig};

use claims::Claims;
use record::{Record, key_of, kind_of, text};
use refusals::Refusals;
use shelf::{Held, Name, Shelf, State};

/// About how long an object is as text, in bytes: policies may be long, everything else is not.
pub(crate) fn weight(object: &Object) -> usize {
    match object {
        Object::NetworkPolicy(_) | Object::ClusterNetworkPolicy(_) => text(object).len(),
        _ => 256,
    }
}

/// The state of the cluster and what it makes of the daemon's.
#[derive(Debug)]
pub struct Core {
    shelves: [Shelf<Record>; Source::ALL.len()],
    claims: Claims,
    config: WaysConfig,
    link: Option<Link>,
    /// Ways to other nodes; none while they are not known.
    ways: Option<ways::Objects>,
    translator: Box<dyn Translator>,
    translated: HashMap<Key, Object>,
    refusals: Refusals,
    complaints: Vec<Complaint>,
    /// What the daemon may have otherwise. Not kept while everything is to be replaced.
    changed: HashSet<Key>,
    /// Everything is to be replaced.
    whole: bool,
    /// Nodes have changed since the ways were made.
    stale: bool,
    /// Ports are to be set again.
    ports_due: bool,
    /// Kinds that may not be read.
    forbidden: BTreeSet<Source>,
}

impl Core {
    /// Nothing is known yet.
    pub fn new(config: WaysConfig, translator: Box<dyn Translator>) -> Core {
        Core {
            shelves: std::array::from_fn(|_| Shelf::new()),
            claims: Claims::default(),
            config,
            link: None,
            ways: None,
            translator,
            translated: HashMap::new(),
            refusals: Refusals::default(),
            complaints: Vec::new(),
            changed: HashSet::new(),
            whole: true,
            stale: false,
            ports_due: false,
            forbidden: BTreeSet::new(),
        }
    }

    /// Something has happened.
    pub fn input(&mut self, input: Input) {
        let source = input.source();
        let shelf = &mut self.shelves[source as usize];
        match input {
            Input::Begin(_) => shelf.begin(),
            Input::Item(_, seen) => {
                let Seen { identity, what } = *seen;
                let (record, raw) = Record::of(what);
                let old = shelf.item(identity, record);
                self.put(source, old, raw);
            }
            Input::End(_) => {
                self.forbidden.remove(&source);
                // What the daemon has of a kind that was none of the agent's business, nobody knows.
                self.whole |= shelf.state() != State::Listed;
                for (name, old) in shelf.end() {
                    self.gone(source, &name, &old.value);
                }
            }
            Input::Apply(_, seen) => {
                let Seen { identity, what } = *seen;
                let (record, raw) = Record::of(what);
                let old = shelf.apply(identity, record);
                self.put(source, old, raw);
            }
            Input::Delete(_, identity) => {
                if let Some((name, old)) = shelf.delete(&identity) {
                    self.gone(source, &name, &old.value);
                }
            }
            Input::Away(_, away) => {
                shelf.away();
                if away == Away::Forbidden {
                    self.forbidden.insert(source);
                }
            }
        }
        if source == Source::Node {
            self.stale = true;
        }
    }

    /// This node's NIC, as the kernel has it now; none keeps what was known.
    pub fn set_link(&mut self, link: Option<Link>) {
        if link.is_some() && link != self.link {
            self.link = link;
            self.stale = true;
        }
    }

    /// Whether each kind has been listed once, or is none of the agent's business.
    pub fn is_complete(&self) -> bool {
        self.shelves.iter().all(|s| s.state() != State::Unlisted)
    }

    /// Kinds that may not be read.
    pub fn forbidden(&self) -> impl Iterator<Item = Source> + '_ {
        self.forbidden.iter().copied()
    }

    /// How many objects of a kind are known.
    pub fn count(&self, source: Source) -> usize {
        self.shelves[source as usize].len()
    }

    /// How many objects are refused.
    pub fn refused(&self) -> usize {
        self.refusals.len()
    }

    /// What is to be said about objects that are not in force as written; each is said once.
    pub fn complaints(&mut self) -> Vec<Complaint> {
        std::mem::take(&mut self.complaints)
    }

    /// Whether everything is to be replaced, rather than changes applied.
    pub fn is_whole(&mut self) -> bool {
        self.refresh();
        self.whole
    }

    /// Nothing is known of the daemon's state any more: all of it is to be replaced.
    pub fn lost(&mut self) {
        self.whole = true;
        self.changed.clear();
    }

    /// The daemon has what [`Core::ports`] and [`Core::objects`] said.
    pub fn replaced(&mut self) {
        self.whole = false;
        self.changed.clear();
    }

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
            key: key.clone(),
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
            Key::Namespace { name } | Key::ClusterNetworkPolicy { name } => {
                shelf.get(&NamespacedName {
                    namespace: String::new(),
                    name: name.clone(),
                })
            }
            _ => None,
        }
    }

    fn is_listed(&self, source: Source) -> bool {
        self.shelves[source as usize].state() == State::Listed
    }

    /// An object is there; `old` is none when an event was late.
    fn put(
        &mut self,
        source: Source,
        old: Option<shelf::Replaced<Record>>,
        raw: Option<serde_json::Value>,
    ) {
        let Some((name, old)) = old else { return };
        if let Some(raw) = raw {
            let changes = self.translator.set(source, &name, Some(&raw));
            return self.translated(changes);
        }
        let Some(new) = self.shelves[source as usize].get(&name) else {
            return;
        };
        let old = old.as_ref().map(|h| &h.value);
        if old == Some(&new.value) {
            return;
        }
        if let (Record::Fault(fault), Some(key)) = (&new.value, key_of(source, &name)) {
            self.complaints.push(Complaint {
                source: Some(source),
                key,
                uid: new.uid.clone(),
                field: fault.field.clone(),
                message: fault.message.clone(),
                closed: fault.closed.is_some(),
            });
        }
        let now = new.value.addresses().to_vec();
        self.claim(&name, old.map_or(&[], Record::addresses), &now);
        self.touch(source, &name);
    }

    /// An object is gone.
    fn gone(&mut self, source: Source, name: &Name, old: &Record) {
        if *old == Record::Name {
            let changes = self.translator.set(source, name, None);
            return self.translated(changes);
        }
        self.claim(name, old.addresses(), &[]);
        self.touch(source, name);
    }

    /// A pod's addresses are others than before. Whoever else claims one may have it now, or no longer.
    fn claim(&mut self, name: &Name, before: &[IpAddr], now: &[IpAddr]) {
        for address in before.iter().filter(|a| !now.contains(a)) {
            self.claims.remove(*address, name);
        }
        for address in now {
            self.claims.add(*address, name);
        }
        for address in before.iter().chain(now) {
            let others: Vec<Name> = self.claims.of(address).to_vec();
            for other in others.iter().filter(|other| *other != name) {
                self.touch(Source::Pod, other);
            }
        }
    }

    /// The daemon's object of this name is no longer right.
    fn touch(&mut self, source: Source, name: &NamespacedName) {
        if let Some(key) = key_of(source, name) {
            self.refusals.forget(&key);
            // What comes of a kind that is not the agent's goes to the daemon with the whole of it.
            if self.is_listed(source) {
                self.mark(key);
            }
        }
    }

    fn mark(&mut self, key: Key) {
        if !self.whole {
            self.changed.insert(key);
        }
    }

    fn translated(&mut self, changes: Vec<Change>) {
        for change in changes {
            let key = match change {
                Change::Set { object } => {
                    let key = object.key();
                    self.translated.insert(key.clone(), object);
                    key
                }
                Change::Delete { key } => {
                    self.translated.remove(&key);
                    key
                }
            };
            self.refusals.forget(&key);
            self.mark(key);
        }
    }

    /// Makes the ways anew where nodes have changed.
    fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) || !self.is_listed(Source::Node) {
            return;
        }
        let nodes = &self.shelves[Source::Node as usize];
        let facts = nodes.iter().filter_map(|(name, held)| match &held.value {
            Record::Node(facts) => Some((name.name.as_str(), facts)),
            _ => None,
        });
        let made = ways::compute(&self.config, self.link.as_ref(), facts);
        let own = NamespacedName {
            namespace: String::new(),
            name: self.config.node.clone(),
        };
        let zone = match nodes.get(&own).map(|held| &held.value) {
            Some(Record::Node(facts)) => facts.zone.clone(),
            _ => None,
        };
        let changes = self.translator.zone(zone.as_deref());
        self.translated(changes);
        // A Node object of this node that is not there takes no ways away.
        let Some(made) = made else { return };
        let Some(before) = self.ways.replace(made) else {
            self.lost();
            return;
        };
        let now = self.ways.take().unwrap_or_default();
        let differs = |key: &&Key| before.get(*key) != now.get(*key);
        let keys: BTreeSet<&Key> = before.keys().chain(now.keys()).filter(differs).collect();
        for key in keys {
            self.refusals.forget(key);
            match key {
                Key::Port { .. } => self.ports_due = true,
                key => self.mark(key.clone()),
            }
        }
        self.ways = Some(now);
    }
}
