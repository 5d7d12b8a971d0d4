// SPDX-License-Identifier: Apache-2.0
//! Differences between two desired states.

use crate::object::{Key, Object};

/// One object that differs. At least one of `before` and `after` is there, and both have the same key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// As it was; `None`: it was not there.
    pub before: Option<Object>,
    /// As it is; `None`: it is no longer there.
    pub after: Option<Object>,
    key: Key,
}

impl Difference {
    /// The difference between two values of one key; `None` when neither is there.
    pub fn new(before: Option<Object>, after: Option<Object>) -> Option<Difference> {
        let key = after.as_ref().or(before.as_ref())?.key();
        Some(Difference { before, after, key })
    }

    /// Key of the object.
    pub fn key(&self) -> Key {
        self.key.clone()
    }
}

/// Differences between two desired states; every key comes at most once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// In the order of their keys.
    pub differences: Vec<Difference>,
}

impl Delta {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// How many objects differ.
    pub fn len(&self) -> usize {
        self.differences.len()
    }

    /// Objects that were not there before.
    pub fn added(&self) -> u64 {
        self.number(|d| d.before.is_none())
    }

    /// Objects that were there and are different now.
    pub fn changed(&self) -> u64 {
        self.number(|d| d.before.is_some() && d.after.is_some())
    }

    /// Objects that are no longer there.
    pub fn removed(&self) -> u64 {
        self.number(|d| d.after.is_none())
    }

    /// What undoes it.
    pub fn reversed(&self) -> Delta {
        let back = |d: &Difference| Difference {
            before: d.after.clone(),
            after: d.before.clone(),
            key: d.key.clone(),
        };
        Delta {
            differences: self.differences.iter().map(back).collect(),
        }
    }

    fn number(&self, which: impl Fn(&Difference) -> bool) -> u64 {
        self.differences.iter().filter(|d| which(d)).count() as u64
    }
}
