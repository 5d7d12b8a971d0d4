// SPDX-License-Identifier: Apache-2.0
//! The objects of one kind of the API, as lists and events tell of them.
//!
//! A list is what there is. Events between lists come in the order of their versions; one that is not newer than all before it is
//! late, or comes a second time, and tells nothing new. A watch begins at the version of its list, so none is older than that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use podswitch_api::object::NamespacedName;

use super::input::Identity;

/// A name that several places share.
pub(super) type Name = Arc<NamespacedName>;

/// An object that is there.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) uid: Box<str>,
    pub(super) value: T,
}

/// What is known of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not all of it.
    Unlisted,
    /// Everything.
    Listed,
    /// It is none of the agent's business.
    Away,
}

/// The objects of a kind.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    items: HashMap<Name, Held<T>>,
    /// The newest version that an event or the last list told of.
    mark: Option<u64>,
    listing: Option<Listing>,
    state: State,
}

/// A list that is not complete.
#[derive(Debug, Default)]
struct Listing {
    seen: HashSet<Name>,
    mark: Option<u64>,
}

/// What became of an object: what it is called, and what there was before.
pub(super) type Replaced<T> = (Name, Option<Held<T>>);

impl<T> Shelf<T> {
    pub(super) fn new() -> Shelf<T> {
        Shelf {
            items: HashMap::new(),
            mark: None,
            listing: None,
            state: State::Unlisted,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, name: &NamespacedName) -> Option<&Held<T>> {
        self.items.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Held<T>)> {
        self.items.iter()
    }

    /// A list begins; one that was not complete is forgotten.
    pub(super) fn begin(&mut self) {
        self.listing = Some(Listing::default());
    }

    /// An object of the list. One that belongs to no list is not heard.
    pub(super) fn item(&mut self, identity: Identity, value: T) -> Option<Replaced<T>> {
        let listing = self.listing.as_mut()?;
        listing.mark = listing.mark.max(identity.version);
        let (name, old) = Self::put(&mut self.items, identity, value);
        listing.seen.insert(name.clone());
        Some((name, old))
    }

    /// The list is complete. What it did not name is gone, and returned.
    pub(super) fn end(&mut self) -> Vec<(Name, Held<T>)> {
        let Some(Listing { seen, mark }) = self.listing.take() else {
            return Vec::new();
        };
        self.mark = mark;
        self.state = State::Listed;
        let gone = self.items.extract_if(|name, _| !seen.contains(name));
        gone.collect()
    }

    /// An object as an event tells of it; none when the event is late. While a list is read events are not heard: those that matter come
    /// again behind it.
    pub(super) fn apply(&mut self, identity: Identity, value: T) -> Option<Replaced<T>> {
        self.advance(identity.version)
            .then(|| Self::put(&mut self.items, identity, value))
    }

    /// An object is gone, as an event tells; none when the event is late or there is none.
    pub(super) fn delete(&mut self, identity: &Identity) -> Option<(Name, Held<T>)> {
        if !self.advance(identity.version) {
            return None;
        }
        self.items.remove_entry(&identity.name)
    }

    /// Nobody may look. What was known stays.
    pub(super) fn away(&mut self) {
        self.listing = None;
        self.state = State::Away;
    }

    /// Whether an event of this version is news.
    fn advance(&mut self, version: Option<u64>) -> bool {
        if self.listing.is_some() || self.state != State::Listed {
            return false;
        }
        match (version, self.mark) {
            (Some(version), Some(mark)) if version <= mark => false,
            (None, _) => true,
            (version, _) => {
                self.mark = version;
                true
            }
        }
    }

    fn put(items: &mut HashMap<Name, Held<T>>, identity: Identity, value: T) -> Replaced<T> {
        let held = Held {
            uid: identity.uid,
            value,
        };
        match items.remove_entry(&identity.name) {
            Some((name, old)) => {
                items.insert(name.clone(), held);
                (name, Some(old))
            }
            None => {
                let name = Name::new(identity.name);
                items.insert(name.clone(), held);
                (name, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, version: u64) -> Identity {
        Identity {
            name: NamespacedName {
                namespace: "a".to_owned(),
                name: name.to_owned(),
            },
            uid: "u".into(),
            version: Some(version),
        }
    }

    fn names(shelf: &Shelf<u32>) -> Vec<(String, u32)> {
        let mut all: Vec<_> = shelf
            .iter()
            .map(|(n, h)| (n.name.clone(), h.value))
            .collect();
        all.sort();
        all
    }

    fn listed(items: &[(&str, u64, u32)]) -> Shelf<u32> {
        let mut shelf = Shelf::new();
        shelf.begin();
        for (name, version, value) in items {
            shelf.item(at(name, *version), *value);
        }
        shelf.end();
        shelf
    }

    #[test]
    fn a_list_is_what_there_is() {
        let mut shelf = listed(&[("x", 3, 1), ("y", 5, 2)]);
        assert_eq!(shelf.state(), State::Listed);
        shelf.begin();
        shelf.item(at("y", 4), 3);
        let gone = shelf.end();
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].0.name, "x");
        // A server that was restored from a backup has earlier versions.
        assert_eq!(names(&shelf), [("y".to_owned(), 3)]);
        assert!(shelf.apply(at("y", 5), 4).is_some());
    }

    #[test]
    fn late_events_and_second_ones_are_not_heard() {
        let mut shelf = listed(&[("x", 3, 1)]);
        assert!(shelf.apply(at("x", 3), 9).is_none(), "the list had it");
        assert!(shelf.apply(at("x", 4), 2).is_some());
        assert!(shelf.delete(&at("x", 5)).is_some());
        assert!(shelf.apply(at("x", 4), 2).is_none(), "it is gone since");
        assert!(shelf.apply(at("x", 6), 7).is_some(), "it is back");
        assert!(shelf.delete(&at("x", 5)).is_none());
        assert_eq!(names(&shelf), [("x".to_owned(), 7)]);
    }

    #[test]
    fn a_broken_list_removes_nothing() {
        let mut shelf = listed(&[("x", 3, 1), ("y", 4, 1)]);
        shelf.begin();
        shelf.item(at("x", 5), 2);
        assert!(shelf.delete(&at("x", 6)).is_none(), "not while a list runs");
        shelf.begin();
        shelf.away();
        assert_eq!(names(&shelf), [("x".to_owned(), 2), ("y".to_owned(), 1)]);
        assert!(shelf.end().is_empty(), "there is no list to end");
        assert_eq!(shelf.state(), State::Away);
    }
}
