// SPDX-License-Identifier: Apache-2.0
//! Sets of rules: every rule is a bit, the first rule the lowest.
//!
//! A set starts with a summary, one bit for each of its words that is not zero, so that only words are read in which
//! a rule can be found. Equal sets are kept once.
#![forbid(unsafe_code)]

use std::collections::HashMap;

pub(super) const BITS: usize = u64::BITS as usize;
/// Most rules of a set: one bit of the summary for each word.
pub(crate) const MAX: usize = BITS * BITS;

/// Where a set starts in the pool. 0 is the empty set.
pub(super) type SetAt = u32;

/// Sets of the same rules.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    /// Each a summary and `words` words; the first one is empty.
    pool: Box<[u64]>,
    words: usize,
}

impl Sets {
    /// A set: its summary, then its words.
    #[inline(always)]
    pub(super) fn get(&self, at: SetAt) -> Option<&[u64]> {
        self.pool.get(at as usize..)?.get(..=self.words)
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.pool)
    }
}

/// Lowest bit of a set that is the outcome of others: `word` yields its words, `summary` has a bit for each that may
/// not be zero.
#[inline(always)]
pub(super) fn lowest(
    mut summary: u64,
    mut word: impl FnMut(usize) -> Option<u64>,
) -> Option<usize> {
    while summary != 0 {
        let at = summary.trailing_zeros() as usize;
        let bits = word(at)?;
        if bits != 0 {
            return Some(at * BITS + bits.trailing_zeros() as usize);
        }
        summary &= summary - 1;
    }
    None
}

/// Adds a rule to the words of a set.
pub(super) fn set(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / BITS) {
        *word |= 1 << (bit % BITS);
    }
}

/// Takes a rule out of the words of a set.
pub(super) fn clear(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / BITS) {
        *word &= !(1 << (bit % BITS));
    }
}

/// Sets in the making, each kept once.
pub(super) struct Pool {
    words: usize,
    sets: Vec<u64>,
    known: HashMap<Box<[u64]>, SetAt>,
}

impl Pool {
    /// For sets of at most [`MAX`] rules.
    pub(super) fn new(rules: usize) -> Pool {
        let mut pool = Pool {
            words: rules.min(MAX).div_ceil(BITS),
            sets: Vec::new(),
            known: HashMap::new(),
        };
        let empty = pool.empty();
        pool.intern(&empty);
        pool
    }

    /// The words of an empty set.
    pub(super) fn empty(&self) -> Vec<u64> {
        vec![0; self.words]
    }

    /// The place of a set of these words.
    pub(super) fn intern(&mut self, set: &[u64]) -> SetAt {
        if let Some(at) = self.known.get(set) {
            return *at;
        }
        let at = self.sets.len() as SetAt;
        let used = set.iter().enumerate().filter(|(_, word)| **word != 0);
        self.sets.push(used.map(|(i, _)| 1 << i).sum());
        self.sets.extend_from_slice(set);
        self.known.insert(set.into(), at);
        at
    }

    pub(super) fn finish(self) -> Sets {
        Sets {
            pool: self.sets.into(),
            words: self.words,
        }
    }
}
