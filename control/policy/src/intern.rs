// SPDX-License-Identifier: Apache-2.0
//! Small numbers for things: the same thing has the same number as long as somebody uses it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Things in use, each with how many use it.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    numbers: HashMap<Arc<T>, u32>,
    slots: Vec<Option<(Arc<T>, usize)>>,
    free: BTreeSet<u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner {
            numbers: HashMap::new(),
            slots: Vec::new(),
            free: BTreeSet::new(),
        }
    }
}

impl<T: Hash + Eq> Interner<T> {
    /// The thing's number, for one user more; whether it is new.
    pub(crate) fn acquire(&mut self, thing: T) -> (u32, bool) {
        if let Some(&number) = self.numbers.get(&thing) {
            if let Some(Some((_, users))) = self.slots.get_mut(number as usize) {
                *users += 1;
            }
            return (number, false);
        }
        let thing = Arc::new(thing);
        let number = self.free.pop_first().unwrap_or(self.slots.len() as u32);
        if number as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[number as usize] = Some((thing.clone(), 1));
        self.numbers.insert(thing, number);
        (number, true)
    }

    /// One user more of a thing in use.
    pub(crate) fn share(&mut self, number: u32) {
        if let Some(Some((_, users))) = self.slots.get_mut(number as usize) {
            *users += 1;
        }
    }

    /// One user fewer; whether it was the last one. Then the thing stays until it is [freed](Interner::free).
    pub(crate) fn release(&mut self, number: u32) -> bool {
        match self.slots.get_mut(number as usize) {
            Some(Some((_, users))) => {
                *users = users.saturating_sub(1);
                *users == 0
            }
            _ => false,
        }
    }

    /// Gives the number of a thing without users up; false if somebody uses it (again).
    pub(crate) fn free(&mut self, number: u32) -> bool {
        match self.slots.get_mut(number as usize) {
            Some(slot @ Some(_)) => {
                if slot.as_ref().is_some_and(|(_, users)| *users > 0) {
                    return false;
                }
                if let Some((thing, _)) = slot.take() {
                    self.numbers.remove(&thing);
                    self.free.insert(number);
                }
                true
            }
            _ => false,
        }
    }

    /// The thing of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&Arc<T>> {
        let (thing, _) = self.slots.get(number as usize)?.as_ref()?;
        Some(thing)
    }

    /// Every thing with its number and users.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>, usize)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(n, slot)| {
            let (thing, users) = slot.as_ref()?;
            Some((n as u32, thing, *users))
        })
    }
}

/// How many use what.
#[derive(Clone, Debug)]
pub(crate) struct Counted<T>(HashMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Counted(HashMap::new())
    }
}

impl<T: Hash + Eq> Counted<T> {
    /// One more; whether it is the first.
    pub(crate) fn add(&mut self, thing: T) -> bool {
        let users = self.0.entry(thing).or_insert(0);
        *users += 1;
        *users == 1
    }

    /// One fewer; whether it was the last.
    pub(crate) fn remove(&mut self, thing: &T) -> bool {
        let Some(users) = self.0.get_mut(thing) else {
            return false;
        };
        *users -= 1;
        let last = *users == 0;
        if last {
            self.0.remove(thing);
        }
        last
    }

    pub(crate) fn contains<Q: Hash + Eq + ?Sized>(&self, thing: &Q) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        self.0.contains_key(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_again_once_they_are_free() {
        let mut i = Interner::default();
        assert_eq!(i.acquire("a"), (0, true));
        assert_eq!(i.acquire("b"), (1, true));
        assert_eq!(i.acquire("a"), (0, false));
        assert!(!i.release(0));
        assert!(i.release(0));
        assert_eq!(i.acquire("a"), (0, false), "not freed yet");
        assert!(!i.free(0));
        assert!(i.release(0) && i.free(0));
        assert_eq!(i.get(0), None);
        assert_eq!(i.acquire("c"), (0, true));
        assert_eq!(i.iter().count(), 2);
    }
}
