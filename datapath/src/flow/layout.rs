// SPDX-License-Identifier: Apache-2.0
//! What stands where in a flow table's memory. All of it is words of 64 bits in native byte order: one process of one
//! machine writes it, another of the same machine may read it again.
//!
//! The first page is the header. Then come the buckets, a line each: eight tags of 16 bits (0 is an empty slot), eight
//! times of 32 bits at which the slots' connections are over, and how many connections of this bucket stand in the
//! next one. Then the entries, a line each, eight to a bucket: the key with its lower end first, and a [`Record`].
#![forbid(unsafe_code)]

use super::memory::LINE;
use super::state::State;
use crate::ids::{MAX_PORTS, MAX_RULES, PortId, RuleId};
use crate::tables::limits::MAX_ADJACENCIES;
use crate::wire::FlowKey;

/// First word of the memfd.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"PODSWFLW");
/// Raised with every change of meaning of any bit.
pub(super) const VERSION: u64 = 4;
/// Slots of a bucket.
pub(super) const SLOTS: usize = 8;
/// Lines in front of the buckets, one page.
pub(super) const HEADER_LINES: usize = 4096 / LINE;
/// Fewest and most buckets.
pub(super) const MIN_BUCKETS: usize = 8;
pub(super) const MAX_BUCKETS: usize = 1 << 23;

/// Words of the header line.
pub(super) mod header {
    pub(in super::super) const MAGIC: usize = 0;
    pub(in super::super) const VERSION: usize = 1;
    pub(in super::super) const LAYOUT: usize = 2;
    pub(in super::super) const SEED: usize = 3;
    pub(in super::super) const BUCKETS: usize = 4;
}

/// Words of a bucket line.
pub(super) mod bucket {
    /// Two words of four tags each.
    pub(in super::super) const TAGS: usize = 0;
    /// Four words of two times each.
    pub(in super::super) const OVER: usize = 2;
    /// Connections of this bucket that stand in the next one.
    pub(in super::super) const SPILLED: usize = 6;
}

/// Words of an entry line.
pub(super) mod entry {
    pub(in super::super) const KEY: usize = 0;
    pub(in super::super) const RECORD: usize = 5;
}

/// FNV-1a over sizes and offsets, so that a change of a struct that nobody thought of still refuses old memory.
pub(super) const LAYOUT: u64 = {
    let facts = [
        LINE,
        SLOTS,
        HEADER_LINES,
        bucket::TAGS,
        bucket::OVER,
        bucket::SPILLED,
        entry::KEY,
        entry::RECORD,
        size_of::<FlowKey>(),
        std::mem::offset_of!(FlowKey, src),
        std::mem::offset_of!(FlowKey, dst),
        std::mem::offset_of!(FlowKey, sport),
        std::mem::offset_of!(FlowKey, dport),
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < facts.len() {
        hash = (hash ^ facts[i] as u64).wrapping_mul(0x100_0000_01b3);
        i += 1;
    }
    hash
};

const _: () = assert!(size_of::<FlowKey>() == entry::RECORD * 8);

/// Lines of a table with so many buckets.
pub(super) const fn lines(buckets: usize) -> usize {
    HEADER_LINES + buckets * (1 + SLOTS)
}

/// Where a tag stands among the tags of a bucket: slots 0 to 3 are bits 0, 16, 32, 48; slots 4 to 7 the bits above.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Matches(u64);

impl Matches {
    /// Compares a tag with eight, four a word.
    #[inline(always)]
    pub(super) fn new(words: [u64; 2], tag: u16) -> Matches {
        let spread = u64::from(tag) * 0x0001_0001_0001_0001;
        Matches(zero_lanes(words[0] ^ spread) >> 15 | zero_lanes(words[1] ^ spread) >> 14)
    }

    /// The first match.
    #[inline(always)]
    pub(super) fn first(self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        (self.0 != 0).then_some((bit & 1) << 2 | (bit >> 4))
    }
}

impl Iterator for Matches {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let slot = self.first();
        self.0 &= self.0.wrapping_sub(1);
        slot
    }
}

/// Bit 15 of every 16-bit lane that is zero.
#[inline(always)]
fn zero_lanes(x: u64) -> u64 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    // No lane carries into the next: each term is below 0x8000.
    !(((x & LOW) + LOW) | x | LOW)
}

/// A tag of a hash: its upper 16 bits, never 0.
#[inline(always)]
pub(super) fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// How the packets of one direction of a connection leave. Every bit pattern is a valid one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Index of the way out among the adjacencies, below [`MAX_ADJACENCIES`]; for packets that another worker sent, the
    /// port they leave by.
    pub adjacency: u32,
    /// The port the packets come from.
    pub in_port: PortId,
    /// The sender's own rule that let them on, if one did.
    pub egress: Option<RuleId>,
    /// The receiver's own rule that let them on, if one did.
    pub ingress: Option<RuleId>,
}

/// No rule took part in a decision.
const NO_RULE: u16 = u16::MAX;
const PORT_BITS: u32 = MAX_PORTS.trailing_zeros();
const ADJACENCY_BITS: u32 = MAX_ADJACENCIES.trailing_zeros();
/// The way is known.
const KNOWN: u32 = 1 << 31;

const _: () = assert!(
    MAX_PORTS.is_power_of_two()
        && MAX_ADJACENCIES.is_power_of_two()
        && PORT_BITS + ADJACENCY_BITS <= 31
);
const _: () = assert!(MAX_RULES <= NO_RULE as usize);

/// What an entry holds behind the key. Directions are told apart by the end they come from: 0 the lower one of the key,
/// 1 the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Of each direction: adjacency, port it comes from, [`KNOWN`].
    ways: [u32; 2],
    /// Of each direction: egress rule, ingress rule.
    rules: [u32; 2],
    /// What the connection was judged under.
    pub(super) stamp: u32,
    pub(super) state: State,
}

impl Record {
    /// Of a connection whose first packet came from end `from`.
    pub(super) fn new(from: usize, way: Way, stamp: u32, state: State) -> Record {
        let mut record = Record {
            ways: [0; 2],
            rules: [u32::MAX; 2],
            stamp,
            state: state.begun_by(from),
        };
        record.set_way(from, way);
        record
    }

    /// The way of packets from end `from`, if it is known.
    #[inline(always)]
    pub(super) fn way(&self, from: usize) -> Option<Way> {
        let (way, rules) = (self.ways[from & 1], self.rules[from & 1]);
        let rule = |bits: u32| match bits as u16 {
            NO_RULE => None,
            rule => Some(RuleId(rule.into())),
        };
        (way & KNOWN != 0).then_some(Way {
            adjacency: way >> PORT_BITS & ((1 << ADJACENCY_BITS) - 1),
            in_port: self.in_port(from),
            egress: rule(rules),
            ingress: rule(rules >> 16),
        })
    }

    /// The port that packets from end `from` came from last; 0 if none ever did.
    #[inline(always)]
    pub(super) fn in_port(&self, from: usize) -> PortId {
        PortId((self.ways[from & 1] & (MAX_PORTS as u32 - 1)) as u16)
    }

    pub(super) fn set_way(&mut self, from: usize, way: Way) {
        let rule = |rule: Option<RuleId>| rule.map_or(NO_RULE, |r| r.0 as u16) as u32;
        self.ways[from & 1] = way.adjacency << PORT_BITS & !KNOWN
            | (u32::from(way.in_port.0) & (MAX_PORTS as u32 - 1))
            | KNOWN;
        self.rules[from & 1] = rule(way.egress) | rule(way.ingress) << 16;
    }

    /// The ways have to be found again; which ports packets came from stays.
    pub(super) fn forget_ways(&mut self) {
        self.ways = self.ways.map(|way| way & !KNOWN);
    }

    #[inline(always)]
    pub(super) fn to_words(self) -> [u64; 3] {
        let pair = |[low, high]: [u32; 2]| u64::from(low) | u64::from(high) << 32;
        [
            pair(self.ways),
            pair(self.rules),
            pair([self.stamp, self.state.to_bits()]),
        ]
    }

    #[inline(always)]
    pub(super) fn from_words(words: [u64; 3]) -> Record {
        let pair = |word: u64| [word as u32, (word >> 32) as u32];
        let [stamp, state] = pair(words[2]);
        Record {
            ways: pair(words[0]),
            rules: pair(words[1]),
            stamp,
            state: State::from_bits(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_finds_exactly_the_equal_lanes() {
        let low = 0x8000 | 0x0001 << 16 | 0x7fff << 32 | 0xffff << 48;
        let high = 0x0001 | 0x1234 << 16;
        let slots = |tag| {
            let mut slots: Vec<usize> = Matches::new([low, high], tag).collect();
            slots.sort();
            slots
        };
        assert_eq!(slots(0x8000), [0]);
        assert_eq!(slots(0x0001), [1, 4]);
        assert_eq!(slots(0x7fff), [2]);
        assert_eq!(slots(0xffff), [3]);
        assert_eq!(slots(0x1234), [5]);
        assert_eq!(slots(0x8001), []);
        assert_eq!(slots(0), [6, 7]);
        assert_eq!(Matches::new([0, 0], 0).count(), 8, "all");
    }

    #[test]
    fn ways_survive_their_words() {
        let rules = [None, Some(RuleId(0)), Some(RuleId(MAX_RULES as u32 - 1))];
        for (egress, ingress) in rules.into_iter().flat_map(|e| rules.map(|i| (e, i))) {
            for adjacency in [0, 1, MAX_ADJACENCIES as u32 - 1] {
                let way = Way {
                    adjacency,
                    in_port: PortId(MAX_PORTS as u16 - 1),
                    egress,
                    ingress,
                };
                let mut record = Record::new(1, way, 0x8000_0001, State::default());
                assert_eq!(record.way(0), None);
                assert_eq!(record.way(1), Some(way));
                let back = Way {
                    in_port: PortId(3),
                    ..way
                };
                record.set_way(0, back);
                let mut read = Record::from_words(record.to_words());
                assert_eq!(read, record);
                assert_eq!((read.way(0), read.way(1)), (Some(back), Some(way)));
                read.forget_ways();
                assert_eq!((read.way(0), read.way(1)), (None, None));
                assert_eq!(read.in_port(1), way.in_port);
            }
        }
    }
}
