// SPDX-License-Identifier: Apache-2.0
//! The ranges that rules tell apart, each with the set of rules that match in it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::sets::{Pool, SetAt, clear, set};

/// An unsigned integer that rules give ranges of.
pub(super) trait Point: Copy + Ord {
    const ZERO: Self;
    fn next(self) -> Option<Self>;
}

macro_rules! point {
    ($($int:ty),*) => {$(
        impl Point for $int {
            const ZERO: $int = 0;
            fn next(self) -> Option<$int> {
                self.checked_add(1)
            }
        }
    )*};
}
point!(u16, u32, u128);

/// Ranges of `K`, each with a set.
#[derive(Clone, Debug)]
pub(super) struct Ranges<K> {
    /// Where ranges start, ascending, without the first, which starts at zero.
    starts: Box<[K]>,
    /// A set for each range.
    sets: Box<[SetAt]>,
}

impl<K: Point> Ranges<K> {
    #[inline]
    pub(super) fn get(&self, key: K) -> SetAt {
        let range = self.starts.partition_point(|start| *start <= key);
        self.sets.get(range).copied().unwrap_or(0)
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.sets)
    }
}

/// Ranges in the making: where they start and their sets.
pub(super) struct Builder<K> {
    all: Vec<(K, SetAt)>,
    /// The set outside all prefixes.
    everywhere: SetAt,
}

impl<K: Point> Builder<K> {
    pub(super) fn new(everywhere: SetAt) -> Builder<K> {
        Builder {
            all: vec![(K::ZERO, everywhere)],
            everywhere,
        }
    }

    /// A range with this set starts here, at or behind the last one's start.
    pub(super) fn start(&mut self, at: K, set: SetAt) {
        self.all.pop_if(|(start, _)| *start == at);
        if self.all.last().is_none_or(|(_, last)| *last != set) {
            self.all.push((at, set));
        }
    }

    /// The innermost of the enclosing prefixes ends; behind it the next one goes on.
    pub(super) fn end_of(&mut self, enclosing: &mut Vec<(K, Vec<u64>, SetAt)>) {
        let Some((end, ..)) = enclosing.pop() else {
            return;
        };
        let outer = enclosing.last().map(|(_, _, at)| *at);
        if let Some(next) = end.next() {
            self.start(next, outer.unwrap_or(self.everywhere));
        }
    }

    pub(super) fn finish(self) -> Ranges<K> {
        Ranges {
            starts: self.all.iter().skip(1).map(|(start, _)| *start).collect(),
            sets: self.all.iter().map(|(_, set)| *set).collect(),
        }
    }
}

/// The sets of rules by port: those of `always`, and each rule of `limited` within its ports. The ranges of one rule
/// are apart from one another.
pub(super) fn by_port<'a>(
    pool: &mut Pool,
    always: &[u64],
    limited: impl Iterator<Item = (usize, &'a RangeInclusive<u16>)>,
) -> Ranges<u16> {
    let mut edges: BTreeMap<u16, Vec<(usize, bool)>> = BTreeMap::new();
    for (bit, ports) in limited {
        edges.entry(*ports.start()).or_default().push((bit, true));
        if let Some(behind) = ports.end().next() {
            edges.entry(behind).or_default().push((bit, false));
        }
    }
    let mut present = always.to_vec();
    let mut ranges = Builder::new(pool.intern(&present));
    for (at, changes) in edges {
        for (bit, starts) in changes {
            match starts {
                true => set(&mut present, bit),
                false => clear(&mut present, bit),
            }
        }
        ranges.start(at, pool.intern(&present));
    }
    ranges.finish()
}
