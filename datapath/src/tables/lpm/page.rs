// SPDX-License-Identifier: Apache-2.0
//! What is longer than /16, of one /16.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::code;
use super::list::{List, cleared};
use crate::blocks::{BLOCK, Block};
use crate::prefetch::prefetch_counts;
use crate::tables::paged::Slab;
use crate::tables::route::Target;
use crate::tables::trie::allocation;

/// With more prefixes and tails than this a page always has a block.
const FEW: usize = 2;
/// With more items than this a tail has a block.
const FEW_IN_TAIL: usize = 4;
/// Most tails with a block: their numbers have 15 bits.
const MAX_TAILS: usize = 1 << 15;

/// Numbers of the tails' blocks, under the numbers that stand in blocks of /24s.
pub(super) type Tails = Slab<u32, 256>;

/// Writes codes, in place if nobody else has the block. None: there is no other one to be had.
fn write(block: &mut Arc<Block>, at: usize, codes: &[u16]) -> Option<()> {
    match Arc::get_mut(block) {
        Some(own) => own.write(at, codes),
        None => {
            let mut all = block.read();
            all[at..at + codes.len()].copy_from_slice(codes);
            *block = Arc::new(Block::new(&all)?);
        }
    }
    Some(())
}

/// What is longer than /24, of one /24.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    /// The /24.
    pub(super) address: u32,
    /// Lengths 25 to 32, and addresses of ports.
    pub(super) list: List,
    /// Its number in [`Tails`], and a code for each address.
    block: Option<(u32, Arc<Block>)>,
}

impl Tail {
    /// What its slot in a block of /24s says.
    fn code(&self) -> u16 {
        match &self.block {
            Some((number, _)) => code::TAIL | *number as u16,
            None => code::SEARCH,
        }
    }

    /// After a change of the list: to what the block is to be.
    fn repaint(&mut self, tails: &mut Tails) {
        let drawn = self.draw(tails);
        if drawn.is_none()
            && let Some((number, _)) = self.block.take()
        {
            tails.remove(number, 0);
        }
    }

    /// None: without a block, as there are few items or no more blocks.
    fn draw(&mut self, tails: &mut Tails) -> Option<()> {
        if self.list.len() <= FEW_IN_TAIL {
            return None;
        }
        let mut codes = [code::NONE; BLOCK];
        self.list.paint(self.address, 24, 0, &mut codes);
        match &mut self.block {
            Some((number, block)) => {
                write(block, 0, &codes)?;
                *tails.get_mut(*number)? = block.number();
            }
            None => {
                let block = Block::new(&codes)?;
                let number = tails.insert(MAX_TAILS, 0, block.number())?;
                self.block = Some((number, Arc::new(block)));
            }
        }
        Some(())
    }
}

/// A /16 with something longer.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// The /16.
    address: u32,
    /// Lengths 17 to 24.
    pub(super) list: List,
    /// By address.
    tails: Arc<[Arc<Tail>]>,
    /// A code for each /24.
    block: Option<Arc<Block>>,
}

impl Page {
    pub(super) fn new(address: u32) -> Page {
        Page {
            address,
            list: List::default(),
            tails: Arc::default(),
            block: None,
        }
    }

    /// Asks for what a change copies.
    pub(super) fn prefetch(&self) {
        self.list.prefetch();
        prefetch_counts(&self.tails);
        if let Some(block) = &self.block {
            prefetch_counts(block);
            block.prefetch();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.len() == 0 && self.tails.is_empty()
    }

    /// The number of its block; without one its lists must be searched.
    pub(super) fn block(&self) -> Option<u32> {
        self.block.as_ref().map(|block| block.number())
    }

    /// How many blocks it has for an address.
    pub(super) fn blocks_of(&self, address: u32) -> isize {
        let tail = self.tail(address).is_some_and(|tail| tail.block.is_some());
        isize::from(tail) + isize::from(self.block.is_some())
    }

    pub(super) fn tails(&self) -> impl Iterator<Item = &Tail> {
        self.tails.iter().map(|tail| &**tail)
    }

    fn find(&self, address: u32) -> Result<usize, usize> {
        let key = cleared(address, 24);
        self.tails.binary_search_by_key(&key, |tail| tail.address)
    }

    /// The tail of an address.
    pub(super) fn tail(&self, address: u32) -> Option<&Tail> {
        Some(&self.tails[self.find(address).ok()?])
    }

    /// Sets where a prefix longer than /16 leads, or takes it out; returns what it was. `roomy`: has a block however little is in it.
    pub(super) fn set(
        &mut self,
        address: u32,
        length: u8,
        target: Option<Target>,
        tails: &mut Tails,
        roomy: bool,
    ) -> Option<Target> {
        let old = match length {
            ..=24 => self.list.set(address, length, target),
            _ => self.set_in_tail(address, length, target, tails),
        };
        if self.list.len() + self.tails.len() <= FEW && !roomy
            || self.draw(address, length.min(24)).is_none()
        {
            self.block = None;
        }
        old
    }

    fn set_in_tail(
        &mut self,
        address: u32,
        length: u8,
        target: Option<Target>,
        tails: &mut Tails,
    ) -> Option<Target> {
        let found = self.find(address);
        let at = match (found, target) {
            (Ok(at), _) => at,
            (Err(_), None) => return None,
            (Err(at), Some(_)) => {
                let tail = Tail {
                    address: cleared(address, 24),
                    list: List::default(),
                    block: None,
                };
                let (before, after) = self.tails.split_at(at);
                let tail = std::iter::once(Arc::new(tail));
                let all = before.iter().cloned().chain(tail);
                self.tails = all.chain(after.iter().cloned()).collect();
                at
            }
        };
        let tail = Arc::make_mut(&mut Arc::make_mut(&mut self.tails)[at]);
        let old = tail.list.set(address, length, target);
        tail.repaint(tails);
        if tail.list.len() == 0 {
            let (before, after) = (&self.tails[..at], &self.tails[at + 1..]);
            self.tails = before.iter().chain(after).cloned().collect();
        }
        old
    }

    /// Brings the block to what a changed prefix of up to /24 makes it; the whole block, if there was none.
    /// None: there is none to be had.
    fn draw(&mut self, address: u32, length: u8) -> Option<()> {
        let (address, length) = match self.block {
            Some(_) => (cleared(address, length), length),
            None => (self.address, 16),
        };
        let mut all = [code::NONE; BLOCK];
        let codes = &mut all[..1 << (24 - length)];
        self.list.paint(address, length, 8, codes);
        let from = self.tails.partition_point(|tail| tail.address < address);
        for tail in &self.tails[from..] {
            let at = (tail.address - address) as usize >> 8;
            match codes.get_mut(at) {
                Some(slot) => *slot = tail.code(),
                None => break,
            }
        }
        let at = (address - self.address) as usize >> 8;
        match &mut self.block {
            Some(block) => write(block, at, codes),
            None => {
                self.block = Some(Arc::new(Block::new(&all)?));
                Some(())
            }
        }
    }

    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.list.visit_allocations(f);
        if let Some(block) = &self.block {
            allocation(block, f);
            block.visit_allocations(f);
        }
        if !self.tails.is_empty() {
            allocation(&self.tails, f);
        }
        for tail in self.tails.iter() {
            allocation(tail, f);
            tail.list.visit_allocations(f);
            if let Some((_, block)) = &tail.block {
                allocation(block, f);
                block.visit_allocations(f);
            }
        }
    }
}
