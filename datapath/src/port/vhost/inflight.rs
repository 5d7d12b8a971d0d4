// SPDX-License-Identifier: Apache-2.0
//! What a frontend keeps for its backend in case that ends in the middle of something (vhost-user, "Inflight I/O tracking"). The switch takes buffers and gives them back in order, so
//! what is under way is always what follows the last one that was given back: of a region only where that is matters. A split queue says so itself.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::memory::{PartError, map_part};
use super::ring::{Buffer, Position};
use super::sigbus::Mapping;

/// Bytes in front of the descriptors' states in a region (`QueueRegionSplit`, `QueueRegionPacked`), and of each state.
const SPLIT: (u64, u64) = (16, 16);
const PACKED: (u64, u64) = (32, 32);
/// Regions are apart by multiples of this.
const ALIGN: u64 = 64;
/// `version` of a region in use; before, it is 0.
const VERSION: u16 = 1;

/// Where the fields are in a region. Of a packed queue, `used_idx`, `old_used_idx`, `used_wrap_counter` and `old_used_wrap_counter` are in one word: they change at once.
const VERSION_AT: usize = 8;
const LENGTH_AT: usize = 10;
const USED_AT: usize = 16;
/// Where the descriptors' states begin, and what is noted of a buffer that is given back, in that of its first one: how many it has, its id, and what was written.
const STATES_AT: usize = PACKED.0 as usize;
const NUMBER_AT: usize = 6;
const ID_AT: usize = 16;
const WRITTEN_AT: usize = 20;
/// The wrap counter in a position.
const WRAP: u16 = 1 << 15;

/// Bytes of a region.
fn region_bytes(length: u16, packed: bool) -> u64 {
    let (front, each) = if packed { PACKED } else { SPLIT };
    (front + each * u64::from(length)).next_multiple_of(ALIGN)
}

/// Bytes of the regions of `queues` queues of `length` descriptors. All are 0 before a queue is served.
pub fn inflight_bytes(queues: u16, length: u16, packed: bool) -> u64 {
    region_bytes(length, packed) * u64::from(queues)
}

/// Regions for all queues of a port.
#[derive(Debug)]
pub struct Inflight {
    mapping: Mapping,
    /// Where they begin in there.
    offset: usize,
    queues: u16,
    length: u16,
    packed: bool,
}

impl Inflight {
    /// Those of `queues` queues of `length` descriptors, in a file from `offset` on.
    ///
    /// # Errors
    /// [`PartError`], when the file has no such part, or it cannot be mapped.
    pub fn new(
        file: &File,
        offset: u64,
        (queues, length): (u16, u16),
        packed: bool,
    ) -> Result<Inflight, PartError> {
        if !offset.is_multiple_of(8) {
            return Err(PartError::Wrong("its place is no multiple of 8"));
        }
        let bytes = inflight_bytes(queues, length, packed);
        let (mapping, offset) = map_part(file, offset, bytes)?;
        Ok(Inflight {
            mapping,
            offset,
            queues,
            length,
            packed,
        })
    }

    fn region(&self, queue: u16) -> usize {
        (region_bytes(self.length, self.packed) * u64::from(queue)) as usize
    }

    fn place<T>(&self, at: usize) -> *mut T {
        let all = inflight_bytes(self.queues, self.length, self.packed) as usize;
        assert!(at + size_of::<T>() <= all, "byte {at} of {all}");
        // SAFETY: (G3) checked right above.
        unsafe { self.mapping.base().as_ptr().add(self.offset + at).cast() }
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        let at: *mut u16 = self.place(at);
        assert!(at.is_aligned());
        // SAFETY: (G3, G4) within, aligned, and mapped as long as `self` lives.
        unsafe { AtomicU16::from_ptr(at) }
    }

    fn int(&self, at: usize) -> &AtomicU32 {
        let at: *mut u32 = self.place(at);
        assert!(at.is_aligned());
        // SAFETY: (G3, G4) as in `word`.
        unsafe { AtomicU32::from_ptr(at) }
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        let at: *mut u64 = self.place(at);
        assert!(at.is_aligned());
        // SAFETY: (G3, G4) as in `word`.
        unsafe { AtomicU64::from_ptr(at) }
    }

    /// Whether a part of it has gone: the file behind it was cut.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.mapping.is_lost()
    }
}

/// The region of a packed queue.
#[derive(Clone, Debug)]
pub(super) struct Track {
    all: Arc<Inflight>,
    region: usize,
}

impl Track {
    /// That of a queue of `length` descriptors; `None` when there is none for it.
    pub(super) fn new(all: &Arc<Inflight>, queue: usize, length: u16) -> Option<Track> {
        let queue = u16::try_from(queue).ok().filter(|n| *n < all.queues)?;
        (all.packed && length <= all.length).then(|| Track {
            all: all.clone(),
            region: all.region(queue),
        })
    }

    /// Where the last backend has stopped, or a position where none has begun, of which the region then tells; and where what it was about to show as used begins.
    pub(super) fn resume(&self, length: u16, from: Position) -> (u16, u16) {
        let word = |at: usize| self.all.word(self.region + at);
        if word(VERSION_AT).load(Ordering::Acquire) != VERSION {
            word(LENGTH_AT).store(length, Ordering::Relaxed);
            self.store(from.used, from.used);
            word(VERSION_AT).store(VERSION, Ordering::Release);
            return (from.used, from.used);
        }
        let all = self.all.long(self.region + USED_AT);
        let all = u64::from_le(all.load(Ordering::Acquire));
        let of = |at: u32, wrap: u32| {
            let wrap = if all >> wrap & 0xff == 0 { 0 } else { WRAP };
            (all >> at) as u16 & !WRAP | wrap
        };
        (of(0, 32), of(16, 40))
    }

    fn state(&self, slot: u16) -> usize {
        self.region + STATES_AT + PACKED.1 as usize * usize::from(slot)
    }

    /// Notes of a buffer, whose first descriptor is at `slot`, how it is given back.
    pub(super) fn note(&self, slot: u16, buffer: Buffer, written: u32) {
        let (state, all) = (self.state(slot), &self.all);
        let order = Ordering::Relaxed;
        let number = all.word(state + NUMBER_AT);
        number.store(buffer.descriptors.to_le(), order);
        all.word(state + ID_AT).store(buffer.id.to_le(), order);
        all.int(state + WRITTEN_AT).store(written.to_le(), order);
    }

    /// What was noted.
    pub(super) fn noted(&self, slot: u16) -> (Buffer, u32) {
        let (state, all) = (self.state(slot), &self.all);
        let word = |at: usize| u16::from_le(all.word(state + at).load(Ordering::Relaxed));
        let written = all.int(state + WRITTEN_AT).load(Ordering::Relaxed);
        let buffer = Buffer {
            id: word(ID_AT),
            descriptors: word(NUMBER_AT),
        };
        (buffer, u32::from_le(written))
    }

    /// All up to a position is about to be shown as used, behind an old one; when that is the same, it is.
    #[inline]
    pub(super) fn store(&self, new: u16, old: u16) {
        let all = self.all.long(self.region + USED_AT);
        all.store(words(new, old), Ordering::Release);
    }
}

/// Positions as a region has them.
#[inline]
fn words(new: u16, old: u16) -> u64 {
    let wrap = |at: u16| u64::from(at & WRAP != 0);
    let index = |at: u16| u64::from(at & !WRAP);
    (index(new) | index(old) << 16 | wrap(new) << 32 | wrap(old) << 40).to_le()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn track(file: &File) -> Track {
        let all = Inflight::new(file, 64, (4, 256), true).unwrap();
        Track::new(&Arc::new(all), 3, 256).unwrap()
    }

    fn file() -> File {
        let file = File::from(memfd_create("inflight", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, 64 + inflight_bytes(4, 256, true)).unwrap();
        file
    }

    fn position(at: u16) -> Position {
        Position {
            available: at,
            used: at,
        }
    }

    #[test]
    fn the_next_backend_goes_on_where_the_last_one_stopped() {
        let file = file();
        let first = WRAP | 7;
        let begun = track(&file).resume(256, position(first));
        assert_eq!(begun, (first, first));
        track(&file).store(200, 200);
        // What the frontend says is old.
        let resumed = track(&file).resume(256, position(WRAP));
        assert_eq!(resumed, (200, 200));
        track(&file).store(4, WRAP | 250);
        let resumed = track(&file).resume(256, position(WRAP));
        assert_eq!(resumed, (4, WRAP | 250), "it was about to show some");
    }

    #[test]
    fn what_is_noted_of_a_buffer_is_read_again() {
        let file = file();
        for slot in [0, 255] {
            let buffer = Buffer {
                id: 500 + slot,
                descriptors: 3,
            };
            track(&file).note(slot, buffer, 70_000);
            assert_eq!(track(&file).noted(slot), (buffer, 70_000));
        }
    }

    #[test]
    fn a_queue_that_has_no_region_has_none() {
        let all = Arc::new(Inflight::new(&file(), 64, (4, 256), true).unwrap());
        assert!(Track::new(&all, 4, 256).is_none());
        assert!(Track::new(&all, 0, 257).is_none());
        let split = Arc::new(Inflight::new(&file(), 64, (4, 256), false).unwrap());
        assert!(Track::new(&split, 0, 256).is_none());
        let text = Inflight::new(&file(), 64, (5, 256), true)
            .unwrap_err()
            .to_string();
        assert_eq!(text, "the file is shorter");
    }
}
