// SPDX-License-Identifier: Apache-2.0
//! IPv4 prefixes and addresses of ports.
#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::code;
use super::list::{Item, LOCAL, List, cleared, overlap};
use super::page::{Page, Tails};
use crate::blocks::{self, Codes};
use crate::prefetch::{prefetch_counts, prefetch_slice};
use crate::tables::route::Target;
use crate::tables::trie::allocation;

/// A level of four bits. Whoever copies it, or drops a copy, asks for all of its counts before changing the first.
#[derive(Debug)]
struct Sixteen<T>([Option<Arc<T>>; 16]);

impl<T> Sixteen<T> {
    fn prefetch(&self) {
        self.0.iter().flatten().for_each(prefetch_counts);
    }
}

impl<T> Default for Sixteen<T> {
    fn default() -> Self {
        Sixteen([const { None }; 16])
    }
}

impl<T> Clone for Sixteen<T> {
    fn clone(&self) -> Self {
        self.prefetch();
        Sixteen(self.0.clone())
    }
}

impl<T> Drop for Sixteen<T> {
    fn drop(&mut self) {
        self.prefetch();
    }
}

impl<T> Deref for Sixteen<T> {
    type Target = [Option<Arc<T>>; 16];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> DerefMut for Sixteen<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Pages have blocks, however little is in them, while there are fewer blocks than one for so many items.
const ITEMS_A_BLOCK: usize = 16;

/// Four bits of an address, `shift` bits from its end.
#[inline(always)]
fn four(address: u32, shift: u32) -> usize {
    (address >> shift) as usize & 15
}

/// Eight bits of an address, `shift` bits from its end.
#[inline(always)]
fn eight(address: u32, shift: u32) -> u8 {
    (address >> shift) as u8
}

/// What is longer than /8, of one /8.
#[derive(Clone, Debug)]
struct Octet {
    /// Of each /16: the number of its page's block (or 0), and the code of the longest prefix of 9 to 16 bits;
    /// [`code::SEARCH`] where a page has no block.
    entries: [u32; 256],
    /// Lengths 9 to 16.
    list: List,
    pages: Sixteen<Sixteen<Page>>,
}

impl Octet {
    fn page(&self, address: u32) -> Option<&Page> {
        let group = self.pages[four(address, 20)].as_deref()?;
        group[four(address, 16)].as_deref()
    }

    /// Writes the entries of a prefix of 8 to 16 bits.
    fn repaint(&mut self, address: u32, length: u8) {
        let mut all = [code::NONE; 256];
        let codes = &mut all[..1 << (16 - length)];
        self.list.paint(address, length, 16, codes);
        for (n, code) in codes.iter().enumerate() {
            let of = address + ((n as u32) << 16);
            let (block, code) = match self.page(of).map(Page::block) {
                None => (0, *code),
                Some(Some(block)) => (block, *code),
                Some(None) => (0, code::SEARCH),
            };
            self.entries[usize::from(eight(of, 16))] = block << code::BITS | u32::from(code);
        }
    }

    fn is_empty(&self) -> bool {
        self.list.len() == 0 && self.pages.iter().all(Option::is_none)
    }

    fn pages(&self) -> impl Iterator<Item = (u32, &Page)> {
        let groups = (0..).zip(self.pages.iter());
        let groups = groups.filter_map(|(g, group)| Some((g << 20, group.as_deref()?)));
        groups.flat_map(|(high, group)| {
            let pages = (0..).zip(group.iter());
            pages.filter_map(move |(p, page)| Some((high | p << 16, page.as_deref()?)))
        })
    }
}

/// A table with something in it.
#[derive(Clone, Debug)]
struct Root {
    codes: Codes,
    /// Of each /8, the code of the longest prefix of up to 8 bits.
    base: [u16; 256],
    /// Lengths 0 to 8.
    list: List,
    octets: Sixteen<Sixteen<Octet>>,
    tails: Tails,
    items: usize,
    blocks: usize,
}

impl Root {
    fn new() -> Root {
        Root {
            codes: blocks::codes(),
            base: [code::NONE; 256],
            list: List::default(),
            octets: Default::default(),
            tails: Tails::default(),
            items: 0,
            blocks: 0,
        }
    }

    #[inline(always)]
    fn octet(&self, address: u32) -> Option<&Octet> {
        let row = self.octets[four(address, 28)].as_deref()?;
        row[four(address, 24)].as_deref()
    }

    #[inline(always)]
    fn lookup(&self, address: u32) -> Option<Target> {
        let base = self.base[usize::from(eight(address, 24))];
        let found = match self.octet(address) {
            Some(octet) => {
                let entry = octet.entries[usize::from(eight(address, 16))];
                let page = blocks::code(self.codes, entry >> code::BITS, eight(address, 8));
                let octet = entry as u16 & code::SEARCH;
                code::or(page, code::or(octet, base))
            }
            None => base,
        };
        match found >= code::SEARCH {
            true => self.rare(found, address),
            false => code::target(found),
        }
    }

    #[inline(always)]
    fn prefetch(&self, address: u32) {
        if let Some(octet) = self.octet(address) {
            let entry = octet.entries[usize::from(eight(address, 16))];
            blocks::prefetch(self.codes, entry >> code::BITS, eight(address, 8));
        }
    }

    /// Asks for what a change of a prefix longer than /16 copies.
    fn prefetch_change(&self, address: u32) -> Option<()> {
        self.octets.prefetch();
        let row = self.octets[four(address, 28)].as_ref()?;
        row.prefetch();
        let octet = row[four(address, 24)].as_ref()?;
        octet.pages.prefetch();
        prefetch_slice(&octet.entries);
        let group = octet.pages[four(address, 20)].as_ref()?;
        group.prefetch();
        group[four(address, 16)].as_ref()?.prefetch();
        Some(())
    }

    /// The rest of a lookup, where a block says that something longer than /24 is near, or that there is no code.
    #[inline(never)]
    fn rare(&self, found: u16, address: u32) -> Option<Target> {
        if found & code::TAIL != 0
            && let Some(number) = self.tails.get(u32::from(found & !code::TAIL))
        {
            let found = blocks::code(self.codes, *number, eight(address, 0));
            if found != code::NONE && found != code::SEARCH {
                return code::target(found);
            }
        }
        self.search(address).map(|item| item.target)
    }

    /// The longest prefix of an address, by the lists.
    fn search(&self, address: u32) -> Option<&Item> {
        let octet = self.octet(address);
        let page = octet.and_then(|octet| octet.page(address));
        let tail = page.and_then(|page| page.tail(address));
        let tail = tail.and_then(|tail| tail.list.covering(address, LOCAL));
        tail.or_else(|| page?.list.covering(address, 24))
            .or_else(|| octet?.list.covering(address, 16))
            .or_else(|| self.list.covering(address, 8))
    }

    fn get(&self, address: u32, length: u8) -> Option<Target> {
        let list = match length {
            ..=8 => &self.list,
            9..=16 => &self.octet(address)?.list,
            17..=24 => &self.octet(address)?.page(address)?.list,
            _ => &self.octet(address)?.page(address)?.tail(address)?.list,
        };
        list.get(address, length)
    }

    fn set(&mut self, address: u32, length: u8, target: Option<Target>) -> Option<Target> {
        if length <= 8 {
            let old = self.list.set(address, length, target);
            let (from, slots) = (usize::from(eight(address, 24)), 1 << (8 - length));
            let codes = &mut self.base[from..from + slots];
            self.list.paint(address, length, 24, codes);
            return old;
        }
        let row = &mut self.octets[four(address, 28)];
        let slot = &mut Arc::make_mut(row.get_or_insert_default())[four(address, 24)];
        let octet = slot.get_or_insert_with(|| {
            Arc::new(Octet {
                entries: [0; 256],
                list: List::default(),
                pages: Default::default(),
            })
        });
        let octet = Arc::make_mut(octet);
        let old = match length {
            ..=16 => {
                let old = octet.list.set(address, length, target);
                octet.repaint(address, length);
                old
            }
            _ => {
                let roomy = self.blocks * ITEMS_A_BLOCK < self.items;
                let (old, more) =
                    octet.set_in_page(address, length, target, &mut self.tails, roomy);
                self.blocks = self.blocks.saturating_add_signed(more);
                old
            }
        };
        if octet.is_empty() {
            *slot = None;
            if let Some(full) = row
                && full.iter().all(Option::is_none)
            {
                *row = None;
            }
        }
        old
    }

    fn octets(&self) -> impl Iterator<Item = (u32, &Octet)> {
        let rows = (0..).zip(self.octets.iter());
        let rows = rows.filter_map(|(r, row)| Some((r << 28, row.as_deref()?)));
        rows.flat_map(|(high, row)| {
            let octets = (0..).zip(row.iter());
            octets.filter_map(move |(o, octet)| Some((high | o << 24, octet.as_deref()?)))
        })
    }
}

impl Octet {
    /// Returns what it was, and how many blocks more there are.
    fn set_in_page(
        &mut self,
        address: u32,
        length: u8,
        target: Option<Target>,
        tails: &mut Tails,
        roomy: bool,
    ) -> (Option<Target>, isize) {
        let of = cleared(address, 16);
        let group = &mut self.pages[four(address, 20)];
        let slot = &mut Arc::make_mut(group.get_or_insert_default())[four(address, 16)];
        let page = Arc::make_mut(slot.get_or_insert_with(|| Arc::new(Page::new(of))));
        let (before, had) = (page.blocks_of(address), page.block());
        let old = page.set(address, length, target, tails, roomy);
        let more = page.blocks_of(address) - before;
        if page.is_empty() {
            *slot = None;
            if let Some(full) = group
                && full.iter().all(Option::is_none)
            {
                *group = None;
            }
        }
        match (had, self.page(of).and_then(Page::block)) {
            // The code of what is shorter stays.
            (Some(_), Some(block)) => {
                let entry = &mut self.entries[usize::from(eight(of, 16))];
                *entry = block << code::BITS | (*entry & u32::from(code::SEARCH));
            }
            _ => self.repaint(of, 16),
        }
        (old, more)
    }
}

/// IPv4 prefixes and the addresses of ports, each with a target. A clone is a count; a change after it copies a few KiB
/// and shares the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct V4(Option<Arc<Root>>);

impl V4 {
    /// How many prefixes and addresses of ports.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |root| root.items)
    }

    /// Where the address of a port or the longest prefix leads.
    #[inline(always)]
    pub(super) fn lookup(&self, address: u32) -> Option<Target> {
        self.0.as_ref()?.lookup(address)
    }

    /// Asks for what a lookup of the address waits for longest.
    #[inline(always)]
    pub(super) fn prefetch(&self, address: u32) {
        if let Some(root) = &self.0 {
            root.prefetch(address);
        }
    }

    /// Asks for what a change copies, some time before it is made.
    pub(super) fn prefetch_change(&self, address: u32, length: u8) {
        if let Some(root) = self.0.as_ref().filter(|_| length > 16) {
            root.prefetch_change(address);
        }
    }

    /// Where exactly this prefix leads, or under the length [`LOCAL`] this address of a port.
    pub(super) fn get(&self, address: u32, length: u8) -> Option<Target> {
        self.0.as_ref()?.get(address, length)
    }

    /// Sets it or, without a target, takes it out; returns what it was. Bits beyond the length are zero.
    pub(super) fn set(
        &mut self,
        address: u32,
        length: u8,
        target: Option<Target>,
    ) -> Option<Target> {
        debug_assert_eq!(cleared(address, length), address);
        if target.is_none() {
            self.get(address, length)?;
        }
        let root = Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(Root::new())));
        let old = root.set(address, length, target);
        root.items += usize::from(target.is_some());
        root.items -= usize::from(old.is_some());
        if root.items == 0 {
            self.0 = None;
        }
        old
    }

    /// Calls `f` with every item that a prefix covers, in no particular order.
    pub(super) fn visit_within(&self, address: u32, length: u8, f: &mut dyn FnMut(&Item)) {
        let Some(root) = &self.0 else { return };
        let within = (address, length);
        let mut visit = |list: &List| list.within(address, length).iter().for_each(&mut *f);
        visit(&root.list);
        for (at, octet) in root.octets().filter(|(at, _)| overlap((*at, 8), within)) {
            debug_assert_eq!(at, cleared(at, 8));
            visit(&octet.list);
            for (of, page) in octet.pages() {
                let of = at | of;
                if overlap((of, 16), within) {
                    visit(&page.list);
                    let tails = page.tails();
                    let tails = tails.filter(|tail| overlap((tail.address, 24), within));
                    tails.for_each(|tail| visit(&tail.list));
                }
            }
        }
    }

    /// Calls `f` with address and size of every allocation of the table.
    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        let Some(root) = &self.0 else { return };
        allocation(root, f);
        root.list.visit_allocations(f);
        root.tails.visit_allocations(f);
        root.octets
            .iter()
            .flatten()
            .for_each(|row| allocation(row, f));
        for row in root.octets.iter().flatten() {
            for octet in row.iter().flatten() {
                allocation(octet, f);
                octet.list.visit_allocations(f);
                for group in octet.pages.iter().flatten() {
                    allocation(group, f);
                    for page in group.iter().flatten() {
                        allocation(page, f);
                        page.visit_allocations(f);
                    }
                }
            }
        }
    }
}
