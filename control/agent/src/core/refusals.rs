// SPDX-License-Identifier: Apache-2.0
//! Objects that the daemon does not take. Each is left out until it changes; in the place of a policy stands what fails closed.

use std::collections::HashMap;

use podswitch_api::object::{Key, Object};

use super::input::Source;

/// An object of the API that is not in force as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// Its kind; none for an object that the agent made by itself.
    pub source: Option<Source>,
    /// The object.
    pub key: Key,
    /// Its UID.
    pub uid: Box<str>,
    /// The field at fault, as a path; empty when none is known.
    pub field: String,
    /// What is wrong, with the value and what to do.
    pub message: String,
    /// Something stands in its place that fails closed.
    pub closed: bool,
}

/// What is known of refused objects: what stands in the place of each.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<Key, Option<Object>>);

impl Refusals {
    /// What is to be given to the daemon in the place of an object; the outer `Option` is none for one that was not refused.
    pub(super) fn instead(&self, key: &Key) -> Option<Option<&Object>> {
        self.0.get(key).map(Option::as_ref)
    }

    pub(super) fn is_refused(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// An object is refused, or what stood in its place.
    pub(super) fn add(&mut self, key: Key, closed: Option<Object>) {
        self.0.insert(key, closed);
    }

    /// The object has changed, or is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Forgets those that `which` says; whether there were any.
    pub(super) fn forget_all(&mut self, which: impl Fn(&Key) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|key, _| !which(key));
        self.0.len() != before
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
