// SPDX-License-Identifier: Apache-2.0
//! Connections, one table a worker: what was decided about them, how far they have come, and who began them.
//!
//! A [`FlowTable`] lives in a sealed memfd without pointers, so that a restarted switch can [adopt](FlowTable::adopt)
//! it. A connection has one entry for both directions; its key has the lower end first, and packets say which end they come
//! from (`from`: 0 the lower one, 1 the other). Buckets of eight slots: a lookup reads one line of tags and, on a match, one line of
//! entry; both can be asked for ahead of time ([`FlowTable::prefetch`], [`FlowTable::candidate`]). Nothing is ever moved.
//!
//! An entry says under which [stamp](Found::stamp) it was judged; whoever looks it up compares. No connection makes room for another
//! unless it is over: a table that is full, and a port that has its share, get no new entries ([`Refused`]). A port may have as many
//! connections as there is still room for (dynamic thresholds, Choudhury and Hahne, 1998): one that floods gets half of it.
//!
//! All words are read and written as relaxed atomics: whatever stands in adopted memory, and whoever else still has it
//! mapped, the worst result is a wrong entry, never a wrong address.
#![deny(unsafe_code)]

mod bindings;
mod fragments;
mod layout;
#[allow(unsafe_code, reason = "maps the memfd; docs/unsafe.md F1 to F3")]
mod memory;
mod state;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

pub use bindings::{Binder, BindingId, Bindings, Nat, Unbound};
pub use fragments::{FragmentId, Fragments};
pub use layout::Way;
pub use memory::random_seed;
pub use state::{Opening, Phase, Signal, State, Timeouts};

use crate::ids::{MAX_PORTS, PortId};
use crate::prefetch::prefetch;
use crate::wire::FlowKey;
use layout::{HEADER_LINES, Matches, Record, SLOTS, bucket, entry, header};
use memory::{Line, Memory};

/// Why a connection gets no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The table is full, or its places for this key are.
    Full,
    /// The port that began it has as many as it may have.
    Quota,
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

/// A worker's connections. Written by that worker alone.
#[derive(Debug)]
pub struct FlowTable {
    memory: Memory,
    mask: usize,
    seed: u64,
    timeouts: Timeouts,
    /// Entries, and those whose connection is not over.
    len: usize,
    live: usize,
    most: usize,
    /// Connections that are not over, by the port that began them.
    held: Box<[u32]>,
    quota: u32,
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
fn over_at(bucket: &Line, slot: usize) -> u32 {
    (get(&bucket.0[bucket::OVER + slot / 2]) >> (slot % 2 * 32)) as u32
}

/// Of these slots (a bit each), whose connection is over the longest or the soonest: stragglers of the others may still come.
#[inline]
fn oldest(bucket: &Line, slots: u8) -> Option<usize> {
    let first = over_at(bucket, slots.trailing_zeros() as usize % SLOTS);
    (0..SLOTS)
        .filter(|slot| slots >> slot & 1 != 0)
        .min_by_key(|&slot| over_at(bucket, slot).wrapping_sub(first) as i32)
}

#[inline(always)]
fn set_over(bucket: &Line, slot: usize, at: u32) {
    set_bits(
        &bucket.0[bucket::OVER + slot / 2],
        slot % 2 * 32,
        0xffff_ffff,
        at.into(),
    );
}

#[inline(always)]
fn tag_at(bucket: &Line, slot: usize) -> u16 {
    (get(&bucket.0[bucket::TAGS + slot / 4]) >> (slot % 4 * 16)) as u16
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

/// Whether `at` has come.
#[inline(always)]
fn is_past(at: u32, now: u32) -> bool {
    now.wrapping_sub(at) as i32 >= 0
}

/// Where a connection's entry may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(u32);

impl Candidate {
    /// There is no entry.
    pub const NONE: Candidate = Candidate(u32::MAX);
}

/// An entry as it was when it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    place: u32,
    record: Record,
}

impl Found {
    /// What it was judged under; to be judged again under anything else.
    #[inline(always)]
    pub fn stamp(&self) -> u32 {
        self.record.stamp
    }

    /// Its state.
    #[inline(always)]
    pub fn state(&self) -> State {
        self.record.state
    }

    /// How packets from end `from` leave, if that is known.
    #[inline(always)]
    pub fn way(&self, from: usize) -> Option<Way> {
        self.record.way(from)
    }

    /// The port that the end which began it is behind.
    pub fn begun_at(&self) -> PortId {
        self.record.in_port(self.record.state.origin())
    }
}

/// Which connection a packet belongs to, and which of its ends it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conversation<'a> {
    /// The packet's own key.
    pub key: &'a FlowKey,
    /// [`FlowKey::is_from_upper`]: 0 from the lower end, 1 from the other.
    pub from: usize,
    /// [`FlowKey::conversation_hash`] under [`FlowTable::seed`].
    pub hash: u64,
}

impl<'a> Conversation<'a> {
    /// Of a packet with this key.
    pub fn of(key: &'a FlowKey, seed: u64) -> Conversation<'a> {
        let from = key.is_from_upper();
        Conversation {
            key,
            from: from.into(),
            hash: key.conversation_hash(from, seed),
        }
    }
}

/// An expiry is written anew when it has moved by this, milliseconds: a line less to write for most packets.
const GRAIN: u32 = 64;

impl FlowTable {
    /// Most connections of a table.
    pub const MAX_ENTRIES: usize = layout::MAX_BUCKETS * SLOTS / 2;

    /// A new, empty table for at most `entries` connections (at least 32): 144 to 288 bytes of memory for each.
    ///
    /// # Errors
    /// [`FlowTableError::TooLarge`], or [`FlowTableError::Memory`] when the kernel has none.
    pub fn create(
        entries: usize,
        seed: u64,
        timeouts: Timeouts,
    ) -> Result<FlowTable, FlowTableError> {
        if entries > Self::MAX_ENTRIES {
            return Err(FlowTableError::TooLarge { entries });
        }
        // Twice the slots: a connection then finds none among its sixteen one time in several hundred, with the table full.
        let buckets = (entries * 2)
            .div_ceil(SLOTS)
            .next_power_of_two()
            .max(layout::MIN_BUCKETS);
        let memory = Memory::create(c"podswitch-flows", layout::lines(buckets))?;
        let head = &memory.lines()[0].0;
        set(&head[header::VERSION], layout::VERSION);
        set(&head[header::LAYOUT], layout::LAYOUT);
        set(&head[header::SEED], seed);
        set(&head[header::BUCKETS], buckets as u64);
        set(&head[header::MAGIC], layout::MAGIC);
        Ok(Self::over(memory, buckets, entries, seed, timeouts))
    }

    fn over(
        memory: Memory,
        buckets: usize,
        entries: usize,
        seed: u64,
        timeouts: Timeouts,
    ) -> FlowTable {
        FlowTable {
            memory,
            mask: buckets - 1,
            seed,
            timeouts,
            len: 0,
            live: 0,
            most: entries.clamp(layout::MIN_BUCKETS * SLOTS / 2, buckets * SLOTS / 2),
            held: vec![0; MAX_PORTS].into(),
            quota: u32::MAX,
            cursor: 0,
        }
    }

    /// Goes on with the table in `memfd`, which another process made. Its connections stay, but each is to be judged
    /// again: the stamps they carry are of that process's tables.
    ///
    /// # Errors
    /// Anything that is not a flow table of this layout is refused by name, unchanged.
    pub fn adopt(memfd: OwnedFd, timeouts: Timeouts) -> Result<FlowTable, FlowTableError> {
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
        let seed = get(&head[header::SEED]);
        let mut table = Self::over(memory, buckets as usize, usize::MAX, seed, timeouts);
        table.distrust();
        Ok(table)
    }

    /// Takes every entry's stamp and ways away, and counts the entries. Those that are not where their key belongs go.
    fn distrust(&mut self) {
        for index in 0..=self.mask {
            set(&self.bucket(index).0[bucket::SPILLED], 0);
        }
        for index in 0..=self.mask {
            for slot in 0..SLOTS {
                if tag_at(self.bucket(index), slot) == 0 {
                    continue;
                }
                let place = Self::place(index, slot);
                let (home, mut record) = (self.home(place), self.record(place));
                if home & !1 != index & !1 {
                    set_tag(self.bucket(index), slot, 0);
                    continue;
                }
                record.stamp = 0;
                record.forget_ways();
                self.write(place, record);
                self.spilled(home, index, 1);
                self.count(&record, 1);
            }
        }
    }

    /// The most connections that any one port may have begun, besides its share of what is free.
    pub fn set_quota(&mut self, quota: u32) {
        self.quota = quota;
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

    /// How many connections fit.
    pub fn capacity(&self) -> usize {
        self.most
    }

    /// How many entries there are, those of connections that are over included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of them are of connections that are not over: the table is full when that is its capacity.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Connections that are not over and were begun at `port`.
    pub fn held_by(&self, port: PortId) -> u32 {
        self.held.get(port.index()).copied().unwrap_or(0)
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
    fn words(&self, place: usize) -> &[AtomicU64; 8] {
        let place = place & (self.mask << 3 | (SLOTS - 1));
        &self.memory.lines()[HEADER_LINES + self.mask + 1 + place].0
    }

    #[inline(always)]
    fn record(&self, place: usize) -> Record {
        let words = self.words(place);
        Record::from_words([
            get(&words[entry::RECORD]),
            get(&words[entry::RECORD + 1]),
            get(&words[entry::RECORD + 2]),
        ])
    }

    fn write(&self, place: usize, record: Record) {
        let words = self.words(place);
        for (i, word) in record.to_words().into_iter().enumerate() {
            set(&words[entry::RECORD + i], word);
        }
    }

    /// The key of an entry, its lower end first.
    fn key(&self, place: usize) -> FlowKey {
        let words = self.words(place);
        let key: [u64; 5] = std::array::from_fn(|i| get(&words[entry::KEY + i]));
        zerocopy::transmute!(key)
    }

    /// The bucket that an entry's key belongs into.
    fn home(&self, place: usize) -> usize {
        self.index(self.key(place).hash(self.seed))
    }

    /// First of three steps of a lookup: the bucket is on its way. `hash` is that of a [`Conversation`].
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(self.index(hash)));
    }

    /// Second step, some time after the first: the likely entry is on its way.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Candidate {
        let index = self.index(hash);
        let bucket = self.bucket(index);
        let place = match slots_with(bucket, layout::tag(hash)).first() {
            Some(slot) => Self::place(index, slot),
            None if get(&bucket.0[bucket::SPILLED]) != 0 => {
                let next = index ^ 1;
                match slots_with(self.bucket(next), layout::tag(hash)).first() {
                    Some(slot) => Self::place(next, slot),
                    None => return self.no_candidate(index),
                }
            }
            None => return self.no_candidate(index),
        };
        prefetch(self.words(place));
        Candidate(place as u32)
    }

    /// As [`FlowTable::candidate`], where there is none: what an entry would be written over is on its way, should there come to be one.
    #[cold]
    fn no_candidate(&self, index: usize) -> Candidate {
        let bucket = self.bucket(index);
        let empty = slots_with(bucket, 0).first();
        if let Some(slot) = empty.or_else(|| oldest(bucket, u8::MAX)) {
            prefetch(self.words(Self::place(index, slot)));
        }
        Candidate::NONE
    }

    /// Third step: the entry of a conversation that is not over at `now` (milliseconds, wrapping).
    #[inline(always)]
    pub fn find(
        &self,
        candidate: Candidate,
        conversation: &Conversation<'_>,
        now: u32,
    ) -> Option<Found> {
        if candidate == Candidate::NONE {
            return None;
        }
        let mut place = candidate.0 as usize;
        if !self.is_at(place, conversation) {
            place = self.search(conversation)?;
        }
        let (bucket, slot) = (self.bucket((place / SLOTS) & self.mask), place % SLOTS);
        if is_past(over_at(bucket, slot), now) {
            return None;
        }
        Some(Found {
            place: place as u32,
            record: self.record(place),
        })
    }

    /// All three steps at once.
    pub fn find_now(&self, conversation: &Conversation<'_>, now: u32) -> Option<Found> {
        self.find(self.candidate(conversation.hash), conversation, now)
    }

    /// Whether the entry in a place is this conversation's.
    #[inline(always)]
    fn is_at(&self, place: usize, conversation: &Conversation<'_>) -> bool {
        let words = self.words(place);
        let key: [u64; 5] = zerocopy::transmute!(*conversation.key);
        // Its ends stand the other way round in the entry if it comes from the upper one.
        let turn = conversation.from << 1 & 2;
        let ends = (0..4).fold(0, |d, i| {
            d | (get(&words[entry::KEY + (i ^ turn)]) ^ key[i])
        });
        let rest = FlowKey::turn_ports(key[4], conversation.from);
        ends | (get(&words[entry::KEY + 4]) ^ rest) == 0
    }

    /// As [`FlowTable::candidate`], for an entry that is not the first with its tag.
    #[cold]
    fn search(&self, conversation: &Conversation<'_>) -> Option<usize> {
        let index = self.index(conversation.hash);
        [index, index ^ 1].into_iter().find_map(|index| {
            let mut slots = slots_with(self.bucket(index), layout::tag(conversation.hash));
            slots.find_map(|slot| {
                let place = Self::place(index, slot);
                self.is_at(place, conversation).then_some(place)
            })
        })
    }

    /// A packet of the connection was let on at `now`: it lives on, in `state`.
    #[inline(always)]
    pub fn seen(&mut self, found: &Found, state: State, now: u32) {
        let place = found.place as usize;
        if state != found.record.state {
            self.change(place, found.record, state);
        } else if state.phase().is_over() {
            return;
        }
        let (bucket, slot) = (self.bucket((place / SLOTS) & self.mask), place % SLOTS);
        let at = now.wrapping_add(self.timeouts.of(state.phase()));
        let changed = state.phase() != found.record.state.phase();
        if changed || at.wrapping_sub(over_at(bucket, slot)) >= GRAIN {
            set_over(bucket, slot, at);
        }
    }

    #[cold]
    fn change(&mut self, place: usize, before: Record, state: State) {
        let mut record = before;
        record.state = state;
        // What it counts for may change.
        self.count(&before, -1);
        self.count(&record, 1);
        self.write(place, record);
    }

    /// The connection was judged again, under `stamp`, and may go on: all ways but this one have to be found again.
    pub fn judged(&mut self, found: &mut Found, stamp: u32, from: usize, way: Way) {
        if found.record.stamp != stamp {
            found.record.forget_ways();
        }
        let before = self.record(found.place as usize);
        found.record.state = before.state;
        found.record.stamp = stamp;
        found.record.set_way(from, way);
        self.count(&before, -1);
        self.count(&found.record, 1);
        self.write(found.place as usize, found.record);
    }

    /// Remembers a connection that began with a packet of this conversation, and replaces what there was.
    ///
    /// # Errors
    /// [`Refused`]; what there was of this conversation is forgotten all the same.
    pub fn insert(
        &mut self,
        conversation: &Conversation<'_>,
        way: Way,
        stamp: u32,
        state: State,
        now: u32,
    ) -> Result<(), Refused> {
        if let Some(place) = self.search(conversation) {
            self.free(place);
        }
        let free = self.most.saturating_sub(self.live);
        let held = self.held_by(way.in_port) as usize;
        if free == 0 {
            return Err(Refused::Full);
        }
        if held >= free.min(self.quota as usize) {
            return Err(Refused::Quota);
        }
        let home = self.index(conversation.hash);
        let (index, slot) = self.room(home, now).ok_or(Refused::Full)?;
        let place = Self::place(index, slot);
        let mut key: [u64; 5] = zerocopy::transmute!(*conversation.key);
        if conversation.from == 1 {
            key = [
                key[2],
                key[3],
                key[0],
                key[1],
                FlowKey::turn_ports(key[4], 1),
            ];
        }
        let record = Record::new(conversation.from, way, stamp, state);
        let words = self.words(place);
        for (i, word) in key.into_iter().enumerate() {
            set(&words[entry::KEY + i], word);
        }
        self.write(place, record);
        let bucket = self.bucket(index);
        set_tag(bucket, slot, layout::tag(conversation.hash));
        let at = now.wrapping_add(self.timeouts.of(record.state.phase()));
        set_over(bucket, slot, at);
        self.spilled(home, index, 1);
        self.count(&record, 1);
        Ok(())
    }

    /// A place for an entry of bucket `home`: an empty one, or that of a connection that is over.
    fn room(&mut self, home: usize, now: u32) -> Option<(usize, usize)> {
        for index in [home, home ^ 1] {
            if let Some(slot) = slots_with(self.bucket(index), 0).next() {
                return Some((index, slot));
            }
            let mut left = u8::MAX;
            while let Some(slot) = oldest(self.bucket(index), left) {
                let phase = || self.record(Self::place(index, slot)).state.phase();
                if is_past(over_at(self.bucket(index), slot), now) || phase().is_over() {
                    self.free(Self::place(index, slot));
                    return Some((index, slot));
                }
                left &= !(1 << slot);
            }
        }
        None
    }

    /// Forgets a connection.
    pub fn remove(&mut self, found: &Found) {
        self.free(found.place as usize);
    }

    fn free(&mut self, place: usize) {
        let (index, slot) = ((place / SLOTS) & self.mask, place % SLOTS);
        if tag_at(self.bucket(index), slot) == 0 {
            return;
        }
        let (home, record) = (self.home(place), self.record(place));
        set_tag(self.bucket(index), slot, 0);
        self.spilled(home, index, -1);
        self.count(&record, -1);
    }

    /// An entry of bucket `home` came into bucket `index` or left it.
    fn spilled(&self, home: usize, index: usize, by: i64) {
        if home != index {
            let word = &self.bucket(home).0[bucket::SPILLED];
            set(word, get(word).saturating_add_signed(by));
        }
    }

    /// An entry came or went.
    fn count(&mut self, record: &Record, by: isize) {
        self.len = self.len.saturating_add_signed(by);
        if record.state.phase().is_over() {
            return;
        }
        self.live = self.live.saturating_add_signed(by);
        let begun_at = record.in_port(record.state.origin());
        if let Some(held) = self.held.get_mut(begun_at.index()) {
            *held = held.saturating_add_signed(by as i32);
        }
    }

    /// Looks at the next `buckets` buckets and frees the entries whose time has come. Called a little at a time, it comes
    /// around. Returns how many were freed.
    pub fn age(&mut self, now: u32, buckets: usize) -> usize {
        let before = self.len;
        for _ in 0..buckets.min(self.mask + 1) {
            let index = self.cursor;
            for slot in 0..SLOTS {
                let bucket = self.bucket(index);
                if tag_at(bucket, slot) != 0 && is_past(over_at(bucket, slot), now) {
                    self.free(Self::place(index, slot));
                }
            }
            self.cursor = (self.cursor + 1) & self.mask;
        }
        before - self.len
    }
}

#[cfg(test)]
mod tests;
