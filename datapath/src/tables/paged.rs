// SPDX-License-Identifier: Apache-2.0
//! Persistent arrays: an array in shared pages, and a slab of stable indices on top of it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::trie::allocation;

/// An array in pages of `N`; a change copies one page and the list of pages. Absent elements read as the default.
#[derive(Clone, Debug)]
pub(crate) struct Paged<T, const N: usize> {
    pages: Arc<[Arc<[T]>]>,
}

impl<T, const N: usize> Default for Paged<T, N> {
    fn default() -> Self {
        Paged {
            pages: Arc::default(),
        }
    }
}

impl<T: Clone + Default, const N: usize> Paged<T, N> {
    /// The element, if its page exists.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.pages.get(index / N)?.get(index % N)
    }

    /// The element for writing; its page comes into being if need be.
    pub(crate) fn get_mut(&mut self, index: usize) -> &mut T {
        let page = index / N;
        if page >= self.pages.len() {
            let fresh = (self.pages.len()..=page).map(|_| (0..N).map(|_| T::default()).collect());
            self.pages = self.pages.iter().cloned().chain(fresh).collect();
        }
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.pages)[page])[index % N]
    }

    /// Every element of every page with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pages.iter().flat_map(|p| p.iter()).enumerate()
    }

    /// Every element, with its index, of pages that `other` does not share.
    pub(crate) fn iter_unshared<'a>(
        &'a self,
        other: &'a Paged<T, N>,
    ) -> impl Iterator<Item = (usize, &'a T)> {
        let whole = Arc::ptr_eq(&self.pages, &other.pages);
        let pages = self.pages.iter().enumerate().filter(move |(n, page)| {
            let shared = |theirs| Arc::ptr_eq(*page, theirs);
            !whole && !other.pages.get(*n).is_some_and(shared)
        });
        pages.flat_map(|(n, page)| page.iter().enumerate().map(move |(i, t)| (n * N + i, t)))
    }

    /// Calls `f` with address and size of every allocation of the array itself.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        allocation(&self.pages, f);
        self.pages.iter().for_each(|p| allocation(p, f));
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
enum Slot<T> {
    Used(T),
    /// Freed by the tables of generation `since`; the next freed one is `next`.
    Free {
        next: u32,
        since: u64,
    },
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::Free {
            next: NONE,
            since: 0,
        }
    }
}

/// Elements under indices that never change. An index is used again, oldest first, once no reader has tables from
/// before it was freed.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T, const N: usize> {
    slots: Paged<Slot<T>, N>,
    used: usize,
    /// First index that was never used.
    fresh: u32,
    oldest_free: u32,
    newest_free: u32,
}

impl<T, const N: usize> Default for Slab<T, N> {
    fn default() -> Self {
        Slab {
            slots: Paged::default(),
            used: 0,
            fresh: 0,
            oldest_free: NONE,
            newest_free: NONE,
        }
    }
}

impl<T: Clone, const N: usize> Slab<T, N> {
    /// How many elements.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// The element.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize)? {
            Slot::Used(item) => Some(item),
            Slot::Free { .. } => None,
        }
    }

    /// The element for writing.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.get(index)?;
        match self.slots.get_mut(index as usize) {
            Slot::Used(item) => Some(item),
            Slot::Free { .. } => None,
        }
    }

    /// Puts an element in. `oldest` is the oldest generation that a reader may still have. None if there are
    /// `limit` elements, or fewer but the rest was freed too recently.
    pub(crate) fn insert(&mut self, limit: usize, oldest: u64, item: T) -> Option<u32> {
        let index = match self.slots.get(self.oldest_free as usize) {
            Some(&Slot::Free { next, since }) if self.oldest_free != NONE && since <= oldest => {
                let index = std::mem::replace(&mut self.oldest_free, next);
                if next == NONE {
                    self.newest_free = NONE;
                }
                index
            }
            _ if (self.fresh as usize) < limit => {
                self.fresh += 1;
                self.fresh - 1
            }
            _ => return None,
        };
        *self.slots.get_mut(index as usize) = Slot::Used(item);
        self.used += 1;
        Some(index)
    }

    /// Takes an element out by tables of `generation`.
    pub(crate) fn remove(&mut self, index: u32, generation: u64) -> Option<T> {
        let item = self.get(index)?.clone();
        *self.slots.get_mut(index as usize) = Slot::Free {
            next: NONE,
            since: generation,
        };
        match self.newest_free {
            NONE => self.oldest_free = index,
            newest => {
                if let Slot::Free { next, .. } = self.slots.get_mut(newest as usize) {
                    *next = index;
                }
            }
        }
        self.newest_free = index;
        self.used -= 1;
        Some(item)
    }

    /// Every element with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().filter_map(|(i, slot)| match slot {
            Slot::Used(item) => Some((i as u32, item)),
            Slot::Free { .. } => None,
        })
    }

    /// The indices of elements that `before` does not have. Costs little where the two share most.
    pub(crate) fn added<'a>(&'a self, before: &'a Slab<T, N>) -> impl Iterator<Item = u32> + 'a {
        let unshared = self.slots.iter_unshared(&before.slots);
        let used = unshared.filter(|(_, slot)| matches!(slot, Slot::Used(_)));
        let indices = used.map(|(index, _)| index as u32);
        indices.filter(|index| before.get(*index).is_none())
    }

    /// Calls `f` with address and size of every allocation of the slab itself.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.slots.visit_allocations(f);
    }
}
