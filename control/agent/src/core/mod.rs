// SPDX-License-Identifier: Apache-2.0
//! What the cluster says, and what the daemon is therefore given: events in, changes out. Without input and output, time or threads.
//!
//! Of each object only its text for the daemon is kept. Whatever the order in which events come, twice or late, the objects are those
//! that the last state of the cluster makes.

mod claims;
pub(crate) mod closed;
mod input;
mod output;
mod record;
mod refusals;
mod services;
mod shelf;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::method::Change;
use podswitch_api::object::{Key, NamespacedName, Object};

pub use input::{Away, Fault, Identity, Input, NodeFacts, Rank, Seen, Source, What};
pub use refusals::Complaint;
pub use services::{Problem, ThisNode, Translated, Translator, Untranslated};
pub use ways::{Egress, HOST, Link, Mode, OVERLAY, UPLINK, WaysConfig};

use claims::Claims;
use record::{Record, key_of, text};
use refusals::Refusals;
use shelf::{Name, Shelf, State};

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
    /// What the translator knows of this node.
    node: Option<ThisNode>,
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
            node: None,
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
                let first = shelf.state() != State::Listed;
                self.whole |= first;
                self.stale |= first && source == Source::Node;
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

    /// The daemon has what [`Core::ports`] and [`Core::object`] said.
    pub fn replaced(&mut self) {
        self.whole = false;
        self.changed.clear();
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
            let translated = self.translator.set(source, &name, Some(&raw));
            return self.translated(translated);
        }
        let Some(new) = self.shelves[source as usize].get(&name) else {
            return;
        };
        let old = old.as_ref().map(|h| &h.value);
        if old == Some(&new.value) {
            return;
        }
        if let Record::Fault(fault) = &new.value {
            self.complaints.push(Complaint {
                source: Some(source),
                name: (*name).clone(),
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
            let translated = self.translator.set(source, name, None);
            return self.translated(translated);
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
        self.stale |= source == Source::Node;
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

    fn translated(&mut self, translated: Translated) {
        for problem in translated.problems {
            let held = self.shelves[problem.source as usize].get(&problem.name);
            self.complaints.push(Complaint {
                source: Some(problem.source),
                uid: held.map(|h| h.uid.clone()).unwrap_or_default(),
                name: problem.name,
                field: problem.field,
                message: problem.message,
                closed: false,
            });
        }
        for change in translated.changes {
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

    /// Prefixes of this node's pods, as its Node object has them.
    pub fn own_pods(&self) -> &[IpNet] {
        let own = NamespacedName {
            namespace: String::new(),
            name: self.config.node.clone(),
        };
        match self.shelves[Source::Node as usize].get(&own) {
            Some(held) => held.value.pods(),
            None => &[],
        }
    }

    /// Tells the translator of this node, if that has changed.
    fn tell_node(&mut self) {
        let nodes = &self.shelves[Source::Node as usize];
        let mut node = ThisNode {
            name: self.config.node.clone(),
            zone: None,
            pods: self.config.cluster.clone(),
        };
        for (name, held) in nodes.iter() {
            if let Record::Node(facts) = &held.value {
                node.pods.extend(facts.pods.iter().map(IpNet::trunc));
                if name.name == node.name {
                    node.zone.clone_from(&facts.zone);
                }
            }
        }
        node.pods.sort_unstable();
        node.pods.dedup();
        if self.node.as_ref() != Some(&node) {
            let translated = self.translator.node(&node);
            self.node = Some(node);
            self.translated(translated);
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
        self.tell_node();
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
