// SPDX-License-Identifier: Apache-2.0
//! Bytes of a flow table's memfd. No pointers: a later process of the same machine maps it and goes on.
//!
//! | lines (64 B) | what |
//! |---|---|
//! | 0 | header: magic, version, layout hash, seed, number of buckets |
//! | 1 to 63 | zero |
//! | 64 .. 64 + B | buckets: 8 tags (16 bits each, 0 is empty), 8 times last seen (32 bits each), 16 bytes spare |
//! | 64 + B .. 64 + 9 B | entries, 8 for each bucket: [`FlowKey`] (40 B), [`Record`] (24 B) |

use super::memory::LINE;
use super::{Decision, Half};
use crate::ids::{PortId, RuleId};
use crate::verdict::Reason;
use crate::wire::FlowKey;

/// First word of the memfd.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"PODSWFLW");
/// Raised with every change of meaning of any bit.
pub(super) const VERSION: u64 = 1;
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
    pub(in super::super) const SEEN: usize = 2;
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
        bucket::SEEN,
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

    /// How many there are.
    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
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

/// No rule took part in a decision.
const NO_RULE: u32 = u32::MAX;

const _: () = assert!(Reason::COUNT < 255, "a reason fits a byte of a record");

/// What an entry holds behind the key: a decision, the port the packets come from, and the generation of the tables it
/// was judged under (0 never counts).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    adjacency: u32,
    egress_rule: u32,
    ingress_rule: u32,
    pub(super) generation: u32,
    pub(super) in_port: u16,
    /// 0 lets packets on; else one more than the reason's index.
    egress: u8,
    ingress: u8,
}

impl Record {
    #[inline]
    pub(super) fn new(in_port: PortId, generation: u32, decision: &Decision) -> Record {
        let code = |half: Half| half.drop.map_or(0, |reason| reason.index() as u8 + 1);
        let rule = |half: Half| half.rule.map_or(NO_RULE, |rule| rule.0);
        Record {
            adjacency: decision.adjacency,
            egress_rule: rule(decision.egress),
            ingress_rule: rule(decision.ingress),
            generation,
            in_port: in_port.0,
            egress: code(decision.egress),
            ingress: code(decision.ingress),
        }
    }

    /// `None` when it holds no reason's code: foreign memory.
    #[inline(always)]
    pub(super) fn decision(&self) -> Option<Decision> {
        let half = |code: u8, rule: u32| {
            let drop = match code {
                0 => None,
                _ => Some(*Reason::ALL.get(usize::from(code) - 1)?),
            };
            let rule = (rule != NO_RULE).then_some(RuleId(rule));
            Some(Half { drop, rule })
        };
        Some(Decision {
            adjacency: self.adjacency,
            egress: half(self.egress, self.egress_rule)?,
            ingress: half(self.ingress, self.ingress_rule)?,
        })
    }

    #[inline(always)]
    pub(super) fn to_words(self) -> [u64; 3] {
        [
            u64::from(self.adjacency) | u64::from(self.egress_rule) << 32,
            u64::from(self.ingress_rule) | u64::from(self.generation) << 32,
            u64::from(self.in_port) | u64::from(self.egress) << 16 | u64::from(self.ingress) << 24,
        ]
    }

    #[inline(always)]
    pub(super) fn from_words(words: [u64; 3]) -> Record {
        Record {
            adjacency: words[0] as u32,
            egress_rule: (words[0] >> 32) as u32,
            ingress_rule: words[1] as u32,
            generation: (words[1] >> 32) as u32,
            in_port: words[2] as u16,
            egress: (words[2] >> 16) as u8,
            ingress: (words[2] >> 24) as u8,
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
            assert_eq!(Matches::new([low, high], tag).count(), slots.len());
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
        assert_eq!(Matches::new([0, 0], 0).count(), 8);
    }

    #[test]
    fn decisions_survive_their_words() {
        for drop in Reason::ALL.iter().copied().map(Some).chain([None]) {
            for rule in [None, Some(RuleId(0)), Some(RuleId(65_535))] {
                let decision = Decision {
                    adjacency: 0x0102_0304,
                    egress: Half { drop, rule },
                    ingress: Half {
                        drop: None,
                        rule: Some(RuleId(7)),
                    },
                };
                let record = Record::new(PortId(4095), 0x8000_0001, &decision);
                let read = Record::from_words(record.to_words());
                assert_eq!(read, record);
                assert_eq!(read.decision(), Some(decision));
            }
        }
        let strange = Record::from_words([0, 0, 255 << 24]);
        assert_eq!(strange.decision(), None);
    }
}
