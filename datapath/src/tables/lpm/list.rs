// SPDX-License-Identifier: Apache-2.0
//! Prefixes of a part of the address space, as a sorted array: what blocks are painted from.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::code;
use crate::prefetch::{prefetch_counts, prefetch_slice};
use crate::tables::route::Target;
use crate::tables::trie::allocation;

/// The length under which the address of a port stands: it goes before a route to the same address.
pub(super) const LOCAL: u8 = 33;

/// A prefix, and where it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) address: u32,
    pub(super) length: u8,
    pub(super) target: Target,
}

impl Item {
    fn key(&self) -> (u32, u8) {
        (self.address, self.length)
    }
}

/// Without the bits beyond a length.
pub(super) fn cleared(address: u32, length: u8) -> u32 {
    let rest = 32 - u32::from(length.min(32));
    address.checked_shr(rest).map_or(0, |high| high << rest)
}

/// Leading bits that two addresses share.
fn common(a: u32, b: u32) -> u8 {
    (a ^ b).leading_zeros() as u8
}

/// Whether one of two prefixes covers the other.
pub(super) fn overlap(a: (u32, u8), b: (u32, u8)) -> bool {
    common(a.0, b.0) >= a.1.min(b.1).min(32)
}

/// Items by address, shorter ones first: what a prefix covers stands right behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct List(Arc<[Item]>);

impl List {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Asks for all of it.
    pub(super) fn prefetch(&self) {
        prefetch_counts(&self.0);
        prefetch_slice(&self.0);
    }

    fn find(&self, address: u32, length: u8) -> Result<usize, usize> {
        self.0.binary_search_by_key(&(address, length), Item::key)
    }

    pub(super) fn get(&self, address: u32, length: u8) -> Option<Target> {
        let at = self.find(address, length).ok()?;
        Some(self.0[at].target)
    }

    /// Sets where a prefix leads, or takes it out; returns what it was.
    pub(super) fn set(
        &mut self,
        address: u32,
        length: u8,
        target: Option<Target>,
    ) -> Option<Target> {
        let found = self.find(address, length);
        let old = found.ok().map(|at| self.0[at].target);
        let (Ok(at) | Err(at)) = found;
        let (before, after) = (&self.0[..at], &self.0[at + usize::from(old.is_some())..]);
        let item = |target| Item {
            address,
            length,
            target,
        };
        if let (Some(_), Some(target)) = (old, target) {
            Arc::make_mut(&mut self.0)[at].target = target;
        } else if old.is_some() || target.is_some() {
            let items = before.iter().copied().chain(target.map(item));
            self.0 = items.chain(after.iter().copied()).collect();
        }
        old
    }

    /// The longest item of a length up to `most` that covers the address.
    pub(super) fn covering(&self, address: u32, most: u8) -> Option<&Item> {
        let mut last = (cleared(address, most), most);
        loop {
            // What covers the address and comes before this one covers both, so it is no longer than what they share.
            let before = self.0.partition_point(|item| item.key() <= last);
            let item = self.0.get(before.checked_sub(1)?)?;
            let shared = common(item.address, address);
            if shared >= item.length.min(32) {
                return Some(item);
            }
            last = (cleared(address, shared), shared);
        }
    }

    /// What a prefix covers, itself too.
    pub(super) fn within(&self, address: u32, length: u8) -> &[Item] {
        let last = address | u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let from = self
            .0
            .partition_point(|item| item.key() < (address, length));
        let rest = &self.0[from..];
        &rest[..rest.partition_point(|item| item.address <= last)]
    }

    /// Writes the codes of a prefix's slots of `1 << shift` addresses; there are as many as `codes` is long.
    pub(super) fn paint(&self, address: u32, length: u8, shift: u32, codes: &mut [u16]) {
        let below = self.covering(address, length);
        codes.fill(below.map_or(code::NONE, |item| code::of(item.target)));
        for item in self.within(address, length) {
            let at = (item.address - address) as usize >> shift;
            let slots = (1usize << (32 - item.length.min(32))) >> shift;
            codes[at..at + slots].fill(code::of(item.target));
        }
    }

    /// Calls `f` with address and size of the allocation, if there is one.
    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        if self.len() > 0 {
            allocation(&self.0, f);
        }
    }
}
