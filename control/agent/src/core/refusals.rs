// SPDX-License-Identifier: Apache-2.0
//! Objects that the daemon does not take. Each is left out until it changes; in the place of a policy stands what fails closed.

use std::collections::HashMap;

use podswitch_api::object::{Key, NamespacedName, Object};

use super::input::Source;

/// An object of the API that is not in force as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// Its kind; none for an object that the agent made by itself.
    pub source: Option<Source>,
    /// Its name; the namespace is empty where there is none.
    pub name: NamespacedName,
    /// Its UID.
    pub uid: Box<str>,
    /// The field at fault, as a path; empty when none is known.
    pub field: String,
    /// What is wrong, with the value and what to do.
    pub message: String,
    /// Something stands in its place that fails closed.
    pub closed: bool,
}

#[derive(Debug)]
struct Refusal {
    /// What stands in its place.
    closed: Option<Object>,
    /// What was said about it.
    message: String,
    /// It is tried again as it is.
    again: bool,
}

/// What is known of refused objects.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<Key, Refusal>);

impl Refusals {
    /// What is to be given to the daemon in the place of an object; the outer `Option` is none for one that was not refused.
    pub(super) fn instead(&self, key: &Key) -> Option<Option<&Object>> {
        let refusal = self.0.get(key).filter(|r| !r.again)?;
        Some(refusal.closed.as_ref())
    }

    pub(super) fn is_refused(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|r| !r.again)
    }

    /// An object is refused, or what stood in its place. Whether that is to be said: it was not before, in these words.
    pub(super) fn add(&mut self, key: Key, closed: Option<Object>, message: &str) -> bool {
        let refusal = Refusal {
            closed,
            message: message.to_owned(),
            again: false,
        };
        let before = self.0.insert(key, refusal);
        before.is_none_or(|before| before.message != message)
    }

    /// The object has changed, is gone or is taken; whether it was refused.
    pub(super) fn forget(&mut self, key: &Key) -> bool {
        self.0.remove(key).is_some()
    }

    /// Those that `which` says are tried again as they are.
    pub(super) fn try_again(&mut self, which: impl Fn(&Key) -> bool) -> Vec<Key> {
        let refused = self.0.iter_mut().filter(|(key, _)| which(key));
        let again = refused.map(|(key, refusal)| {
            refusal.again = true;
            key.clone()
        });
        again.collect()
    }

    pub(super) fn any(&self, which: impl Fn(&Key) -> bool) -> bool {
        self.0.keys().any(which)
    }

    /// How many are refused.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The daemon took what was tried again.
    pub(super) fn taken(&mut self) {
        self.0.retain(|_, refusal| !refusal.again);
    }
}
