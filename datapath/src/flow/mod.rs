// SPDX-License-Identifier: Apache-2.0
//! Memory of flows, one table a worker: what was decided about a flow's packets, so that the next one is not judged
//! again.
//!
//! A [`FlowTable`] lives in a sealed memfd without pointers, so that a restarted switch can [adopt](FlowTable::adopt)
//! it. Buckets of eight slots: a lookup reads one line of tags and, on a match, one line of entry; both can be asked
//! for ahead of time ([`FlowTable::prefetch`], [`FlowTable::candidate`]). Nothing is ever moved. Here it is a
//! cache: a full bucket gives up the entry that was not seen for longest, and an entry counts only under the
//! generation of tables it was judged under.
//!
//! All words are read and written as relaxed atomics: whatever stands in adopted memory, and whoever else still has it
//! mapped, the worst result is a wrong entry, never a wrong address.
#![deny(unsafe_code)]

mod layout;
#[allow(unsafe_code, reason = "maps the memfd; docs/unsafe.md F1 to F3")]
mod memory;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

pub use memory::random_seed;

use crate::ids::{PortId, RuleId};
use crate::verdict::Reason;
use crate::wire::FlowKey;
use layout::{HEADER_LINES, Matches, Record, SLOTS, bucket, entry, header};
use memory::{Line, Memory};

/// One half of a decision: `None` lets the packet on; and the rule that decided, if one did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Half {
    /// Why the packets are dropped.
    pub drop: Option<Reason>,
    /// The policy rule that matched.
    pub rule: Option<RuleId>,
}

/// What was decided about a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Index of the way out among the adjacencies of the tables it was judged under.
    pub adjacency: u32,
    /// The sender's half: policy of the port the packets come from, route.
    pub egress: Half,
    /// The receiver's half: policy of the port they leave by.
    pub ingress: Half,
}

/// What became of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// A free slot was there.
    New,
    /// The flow had an entry, which was overwritten.
    Updated,
    /// The bucket was full; the entry not seen for longest made way.
    Evicted,
}

/// Why a table cannot be made or adopted.
#[derive(Debug, thiserror::Error)]
pub enum FlowTableError {
    /// A system call failed, or the file is of the wrong kind.
    #[error("flow table memory: {0}")]
    Memory(#[from] io::Error),
    /// More entries than a table can have.
    #[error("a flow table has at most {max} entries, not {entries}", max = FlowTable::MAX_ENTRIES)]
    TooLarge {
        /// Entries asked for.
        entries: usize,
    },
    /// The first eight bytes are not a flow table's.
    #[error("not a flow table: it begins with {found:#018x}")]
    NotAFlowTable {
        /// The first eight bytes.
        found: u64,
    },
    /// Made by a version of the switch that laid it out differently; start without it.
    #[error(
        "flow table of layout version {version} ({layout:#018x}); this switch reads version {} ({:#018x})",
        layout::VERSION,
        layout::LAYOUT
    )]
    OtherLayout {
        /// Its version.
        version: u64,
        /// Hash of its sizes and offsets.
        layout: u64,
    },
    /// The file's size is not what its header says.
    #[error("flow table of {buckets} buckets in a file of {lines} lines")]
    WrongSize {
        /// Buckets by the header.
        buckets: u64,
        /// 64-byte lines of the file.
        lines: usize,
    },
}

/// A worker's flows. Written by that worker alone.
#[derive(Debug)]
pub struct FlowTable {
    memory: Memory,
    mask: usize,
    seed: u64,
    live: usize,
    cursor: usize,
}

#[inline(always)]
fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

#[inline(always)]
fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// Replaces 16 or 32 bits of a word.
#[inline(always)]
fn set_bits(word: &AtomicU64, shift: usize, mask: u64, value: u64) {
    set(word, get(word) & !(mask << shift) | value << shift);
}

#[inline(always)]
fn seen_of(bucket: &Line, slot: usize) -> u32 {
    (get(&bucket.0[bucket::SEEN + slot / 2]) >> (slot % 2 * 32)) as u32
}

#[inline(always)]
fn set_seen(bucket: &Line, slot: usize, now: u32) {
    set_bits(
        &bucket.0[bucket::SEEN + slot / 2],
        slot % 2 * 32,
        0xffff_ffff,
        now.into(),
    );
}

#[inline(always)]
fn set_tag(bucket: &Line, slot: usize, tag: u16) {
    set_bits(
        &bucket.0[bucket::TAGS + slot / 4],
        slot % 4 * 16,
        0xffff,
        tag.into(),
    );
}

/// Slots of a bucket with this tag.
#[inline(always)]
fn slots_with(bucket: &Line, tag: u16) -> Matches {
    let tags = &bucket.0[bucket::TAGS..][..2];
    Matches::new([get(&tags[0]), get(&tags[1])], tag)
}

/// The slot not seen for longest.
fn oldest(bucket: &Line, now: u32) -> usize {
    (0..SLOTS)
        .max_by_key(|&slot| now.wrapping_sub(seen_of(bucket, slot)))
        .unwrap_or(0)
}

/// Where a flow's entry may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(u32);

impl Candidate {
    /// There is no entry.
    pub const NONE: Candidate = Candidate(u32::MAX);
}

impl FlowTable {
    /// Most entries of a table.
    pub const MAX_ENTRIES: usize = layout::MAX_BUCKETS * SLOTS;

    /// A new, empty table with room for at least `entries` flows (rounded up to a power of two, at least 64): 72 bytes
    /// of memory for each, taken when used. Flows collide only by chance if at most about a third of them are live.
    ///
    /// # Errors
    /// [`FlowTableError::TooLarge`], or [`FlowTableError::Memory`] when the kernel has none.
    pub fn create(entries: usize, seed: u64) -> Result<FlowTable, FlowTableError> {
        if entries > Self::MAX_ENTRIES {
            return Err(FlowTableError::TooLarge { entries });
        }
        let buckets = entries
            .div_ceil(SLOTS)
            .next_power_of_two()
            .max(layout::MIN_BUCKETS);
        let memory = Memory::create(layout::lines(buckets))?;
        let head = &memory.lines()[0].0;
        set(&head[header::VERSION], layout::VERSION);
        set(&head[header::LAYOUT], layout::LAYOUT);
        set(&head[header::SEED], seed);
        set(&head[header::BUCKETS], buckets as u64);
        set(&head[header::MAGIC], layout::MAGIC);
        Ok(FlowTable {
            memory,
            mask: buckets - 1,
            seed,
            live: 0,
            cursor: 0,
        })
    }

    /// Goes on with the table in `memfd`, which another process made. Its entries stay, but none counts until judged
    /// again: the generations they name are of that process's tables.
    ///
    /// # Errors
    /// Anything that is not a flow table of this layout is refused by name, unchanged.
    pub fn adopt(memfd: OwnedFd) -> Result<FlowTable, FlowTableError> {
        let memory = Memory::adopt(memfd)?;
        let lines = memory.lines().len();
        let head = &memory.lines()[0].0;
        let found = get(&head[header::MAGIC]);
        if found != layout::MAGIC {
            return Err(FlowTableError::NotAFlowTable { found });
        }
        let (version, hash) = (get(&head[header::VERSION]), get(&head[header::LAYOUT]));
        if (version, hash) != (layout::VERSION, layout::LAYOUT) {
            return Err(FlowTableError::OtherLayout {
                version,
                layout: hash,
            });
        }
        let buckets = get(&head[header::BUCKETS]);
        let sound = buckets.is_power_of_two()
            && (layout::MIN_BUCKETS as u64..=layout::MAX_BUCKETS as u64).contains(&buckets)
            && layout::lines(buckets as usize) == lines;
        if !sound {
            return Err(FlowTableError::WrongSize { buckets, lines });
        }
        let mut table = FlowTable {
            mask: buckets as usize - 1,
            seed: get(&head[header::SEED]),
            live: 0,
            cursor: 0,
            memory,
        };
        table.distrust();
        Ok(table)
    }

    /// Takes every entry's generation away, and counts the entries.
    fn distrust(&mut self) {
        let mut live = 0;
        for index in 0..=self.mask {
            let empty = slots_with(self.bucket(index), 0).count();
            live += SLOTS - empty;
            if empty == SLOTS {
                continue;
            }
            for slot in 0..SLOTS {
                if let Some(entry) = self.entry(Self::place(index, slot)) {
                    let mut record = read_record(&entry.0);
                    record.generation = 0;
                    write_record(&entry.0, record);
                }
            }
        }
        self.live = live;
    }

    /// The memfd, for a successor.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Secret of the hash; stays with the memory.
    #[inline(always)]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many entries fit.
    pub fn capacity(&self) -> usize {
        (self.mask + 1) * SLOTS
    }

    /// How many entries there are, of any generation.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes of the memfd.
    pub fn bytes(&self) -> usize {
        self.memory.lines().len() * memory::LINE
    }

    #[inline(always)]
    fn index(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    #[inline(always)]
    fn bucket(&self, index: usize) -> &Line {
        &self.memory.lines()[HEADER_LINES + index]
    }

    /// Number of an entry, counted over all buckets.
    #[inline(always)]
    fn place(index: usize, slot: usize) -> usize {
        index * SLOTS + slot
    }

    #[inline(always)]
    fn entry(&self, place: usize) -> Option<&Line> {
        self.memory
            .lines()
            .get(HEADER_LINES + self.mask + 1 + place)
    }

    /// First of three steps of a lookup: the bucket is on its way. `hash` is [`FlowKey::hash`] under [`FlowTable::seed`].
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        memory::prefetch(self.bucket(self.index(hash)));
    }

    /// Second step, some time after the first: the likely entry is on its way.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Candidate {
        let index = self.index(hash);
        let Some(slot) = slots_with(self.bucket(index), layout::tag(hash)).first() else {
            return Candidate::NONE;
        };
        let place = Self::place(index, slot);
        if let Some(entry) = self.entry(place) {
            memory::prefetch(entry);
        }
        Candidate(place as u32)
    }

    /// Third step: what was decided for packets of this key from this port under `generation`. Notes that the flow lives;
    /// `now` is in any unit that [`FlowTable::age`] gets too.
    #[inline(always)]
    pub fn lookup(
        &mut self,
        candidate: Candidate,
        key: &FlowKey,
        in_port: PortId,
        generation: u32,
        now: u32,
    ) -> Option<Decision> {
        if candidate == Candidate::NONE {
            return None;
        }
        let place = candidate.0 as usize;
        let (place, record) = match self.record(place, key, in_port) {
            Some(record) => (place, record),
            None => self.search(key.hash(self.seed), key, in_port)?,
        };
        if record.generation != generation || generation == 0 {
            return None;
        }
        let (bucket, slot) = (self.bucket((place / SLOTS) & self.mask), place % SLOTS);
        if seen_of(bucket, slot) != now {
            set_seen(bucket, slot, now);
        }
        record.decision()
    }

    /// The record in a place, if it is this flow's.
    #[inline(always)]
    fn record(&self, place: usize, key: &FlowKey, in_port: PortId) -> Option<Record> {
        let words = &self.entry(place)?.0;
        let wanted: [u64; 5] = zerocopy::transmute!(*key);
        let differs = (0..5).fold(0, |d, i| d | (get(&words[entry::KEY + i]) ^ wanted[i]));
        let record = read_record(words);
        (differs == 0 && record.in_port == in_port.0).then_some(record)
    }

    /// As [`FlowTable::record`], wherever it is: another flow in the bucket has the same tag.
    #[cold]
    fn search(&self, hash: u64, key: &FlowKey, in_port: PortId) -> Option<(usize, Record)> {
        let index = self.index(hash);
        let mut slots = slots_with(self.bucket(index), layout::tag(hash));
        slots.find_map(|slot| {
            let place = Self::place(index, slot);
            Some((place, self.record(place, key, in_port)?))
        })
    }

    /// Remembers a decision for [`FlowTable::lookup`]; `hash` is that of `key`.
    pub fn insert(
        &mut self,
        key: &FlowKey,
        in_port: PortId,
        hash: u64,
        generation: u32,
        now: u32,
        decision: &Decision,
    ) -> Inserted {
        let index = self.index(hash);
        let bucket = self.bucket(index);
        let (slot, outcome) = match self.search(hash, key, in_port) {
            Some((place, _)) => (place % SLOTS, Inserted::Updated),
            None => match slots_with(bucket, 0).next() {
                Some(slot) => (slot, Inserted::New),
                None => (oldest(bucket, now), Inserted::Evicted),
            },
        };
        let Some(entry) = self.entry(Self::place(index, slot)) else {
            return Inserted::Evicted;
        };
        let words = &entry.0;
        let key: [u64; 5] = zerocopy::transmute!(*key);
        for (i, word) in key.into_iter().enumerate() {
            set(&words[entry::KEY + i], word);
        }
        write_record(words, Record::new(in_port, generation, decision));
        set_tag(bucket, slot, layout::tag(hash));
        set_seen(bucket, slot, now);
        self.live += usize::from(outcome == Inserted::New);
        outcome
    }

    /// Looks at the next `buckets` buckets and frees entries not seen for more than `idle`. Called a little at a time,
    /// it comes around. Returns how many were freed.
    pub fn age(&mut self, now: u32, idle: u32, buckets: usize) -> usize {
        let mut freed = 0;
        for _ in 0..buckets.min(self.mask + 1) {
            let bucket = self.bucket(self.cursor);
            for slot in 0..SLOTS {
                let tag = get(&bucket.0[bucket::TAGS + slot / 4]) >> (slot % 4 * 16) & 0xffff;
                if tag != 0 && now.wrapping_sub(seen_of(bucket, slot)) > idle {
                    set_tag(bucket, slot, 0);
                    freed += 1;
                }
            }
            self.cursor = (self.cursor + 1) & self.mask;
        }
        self.live = self.live.saturating_sub(freed);
        freed
    }
}

#[inline(always)]
fn read_record(words: &[AtomicU64; 8]) -> Record {
    Record::from_words(std::array::from_fn(|i| get(&words[entry::RECORD + i])))
}

#[inline(always)]
fn write_record(words: &[AtomicU64; 8], record: Record) {
    for (i, word) in record.to_words().into_iter().enumerate() {
        set(&words[entry::RECORD + i], word);
    }
}

#[cfg(test)]
mod tests;
