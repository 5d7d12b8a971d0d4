// SPDX-License-Identifier: Apache-2.0
//! Memory of a guest, as its frontend describes it (vhost-user, "Memory region description"), and the only code that reads and writes it.
//!
//! The guest changes it whenever it likes. So no reference points there: bytes are copied out before they are judged, and words of the rings are atomics.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::sigbus::Mapping;

/// Most regions of a guest: what a vhost-user frontend may name in one message (8), and as many as it may add. Each access looks for one among them.
pub const MAX_REGIONS: usize = 64;
/// Most bytes of all regions of a guest: addresses are many, but all ports share them.
pub const MAX_MEMORY: u64 = 4 << 40;

/// A region, as the frontend describes it.
#[derive(Debug)]
pub struct Region {
    /// Where it is for the guest.
    pub guest: u64,
    /// Where it is for the frontend, which names the rings so.
    pub user: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// What holds it.
    pub file: File,
}

/// Why a region is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Its numbers.
    #[error("region of {bytes} bytes at {guest:#x} and offset {offset:#x}: {what}")]
    Wrong {
        /// Where it is for the guest.
        guest: u64,
        /// Bytes of it.
        bytes: u64,
        /// Where it begins in the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// More regions than [`MAX_REGIONS`].
    #[error("{0} regions; at most {MAX_REGIONS} are taken")]
    Many(usize),
    /// More memory than [`MAX_MEMORY`].
    #[error("{0} bytes of memory; at most {MAX_MEMORY} are taken")]
    Much(u64),
    /// The kernel's word.
    #[error("region of {bytes} bytes at {guest:#x}: {source}")]
    Map {
        /// Where it is for the guest.
        guest: u64,
        /// Bytes of it.
        bytes: u64,
        /// What mmap or fstat said.
        source: io::Error,
    },
}

/// A region that is mapped.
#[derive(Clone, Debug)]
struct Mapped {
    guest: u64,
    user: u64,
    bytes: u64,
    /// Where it begins in `mapping`.
    offset: usize,
    mapping: Arc<Mapping>,
}

impl Mapped {
    fn new(region: &Region) -> Result<Mapped, RegionError> {
        let Region {
            guest,
            user,
            bytes,
            offset,
            ref file,
        } = *region;
        let wrong = |what| RegionError::Wrong {
            guest,
            bytes,
            offset,
            what,
        };
        let map = |source| RegionError::Map {
            guest,
            bytes,
            source,
        };
        if bytes == 0 || guest.checked_add(bytes).is_none() || user.checked_add(bytes).is_none() {
            return Err(wrong("no such range of addresses"));
        }
        let meta = file.metadata().map_err(map)?;
        let end = offset.checked_add(bytes).filter(|end| *end <= meta.size());
        let end = end.ok_or_else(|| wrong("the file is shorter"))?;
        // A page of the file, which may be a huge one, is mapped whole or not at all.
        let page = meta.blksize().max(4096);
        let begin = offset - offset % page;
        let whole = end.checked_next_multiple_of(page).map(|end| end - begin);
        let whole = whole.and_then(|n| isize::try_from(n).ok());
        let whole = whole.ok_or_else(|| wrong("too long"))?;
        Ok(Mapped {
            guest,
            user,
            bytes,
            offset: (offset - begin) as usize,
            mapping: Arc::new(Mapping::new(file, begin, whole as usize).map_err(map)?),
        })
    }

    /// The address here of `len` bytes that begin `within` the region, and how many of them are in it.
    #[inline]
    fn at(&self, within: u64, len: u64) -> (NonNull<u8>, u64) {
        debug_assert!(within < self.bytes);
        // SAFETY: (G3) `within` is below the region's bytes, which end within the mapping.
        let at = unsafe { self.mapping.base().add(self.offset + within as usize) };
        (at, len.min(self.bytes - within))
    }
}

/// Whether regions of so many bytes are not too much together.
fn enough(all: impl Iterator<Item = u64>) -> Result<(), RegionError> {
    let sum = all.fold(0, u64::saturating_add);
    match sum <= MAX_MEMORY {
        true => Ok(()),
        false => Err(RegionError::Much(sum)),
    }
}

/// All memory of a guest that its frontend has told of.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Box<[Mapped]>,
}

impl GuestMemory {
    /// Maps the regions.
    ///
    /// # Errors
    /// [`RegionError`], naming the first that cannot be one.
    pub fn new(regions: &[Region]) -> Result<GuestMemory, RegionError> {
        if regions.len() > MAX_REGIONS {
            return Err(RegionError::Many(regions.len()));
        }
        enough(regions.iter().map(|r| r.bytes))?;
        let regions = regions.iter().map(Mapped::new);
        Ok(GuestMemory {
            regions: regions.collect::<Result<_, _>>()?,
        })
    }

    /// The same memory with one more region.
    ///
    /// # Errors
    /// [`RegionError`], as for [`GuestMemory::new`].
    pub fn with(&self, region: &Region) -> Result<GuestMemory, RegionError> {
        let most = self.regions.len() + 1;
        if most > MAX_REGIONS {
            return Err(RegionError::Many(most));
        }
        enough(self.regions.iter().map(|r| r.bytes).chain([region.bytes]))?;
        let more = Mapped::new(region)?;
        let regions = self.regions.iter().cloned().chain([more]);
        Ok(GuestMemory {
            regions: regions.collect(),
        })
    }

    /// The same memory without the region that is there, for the guest and for the frontend; `None` when there is none.
    pub fn without(&self, guest: u64, user: u64, bytes: u64) -> Option<GuestMemory> {
        let is = |r: &Mapped| (r.guest, r.user, r.bytes) == (guest, user, bytes);
        let at = self.regions.iter().position(is)?;
        let mut regions = self.regions.to_vec();
        regions.remove(at);
        Some(GuestMemory {
            regions: regions.into(),
        })
    }

    /// Whether a part of it has gone: a file behind it was cut.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.regions.iter().any(|r| r.mapping.is_lost())
    }

    /// Calls `each` with every piece of `len` bytes from `guest` on, which lie in one region after another; false when not all of them are memory, of
    /// which nothing is known before `each` has had a part.
    #[inline]
    fn pieces(&self, guest: u64, len: usize, mut each: impl FnMut(NonNull<u8>, usize)) -> bool {
        let (mut guest, mut left) = (guest, len as u64);
        while left > 0 {
            let holds = |r: &&Mapped| guest.wrapping_sub(r.guest) < r.bytes;
            let Some(region) = self.regions.iter().find(holds) else {
                return false;
            };
            let (at, here) = region.at(guest - region.guest, left);
            each(at, here as usize);
            left -= here;
            // It does not wrap within a region; behind the last address there is none.
            guest = guest.wrapping_add(here);
        }
        true
    }

    /// Copies bytes from `guest` on; false when not all of them are memory.
    #[inline]
    pub(super) fn read(&self, guest: u64, to: &mut [u8]) -> bool {
        let mut done = 0;
        let len = to.len();
        let to = to.as_mut_ptr();
        self.pieces(guest, len, |from, here| {
            // SAFETY: (G3, G4) `here` bytes of the region; `done + here` is at most `len`, which is the slice's.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(done), here) };
            done += here;
        })
    }

    /// Copies bytes to `guest`; false when not all of it is memory.
    #[inline]
    pub(super) fn write(&self, guest: u64, from: &[u8]) -> bool {
        let mut done = 0;
        self.pieces(guest, from.len(), |to, here| {
            let from = &from[done..done + here];
            // SAFETY: (G3, G4) `here` bytes of the region, and of the slice.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), here) };
            done += here;
        })
    }

    /// Asks the processor for the first bytes at an address.
    #[inline]
    pub(super) fn prefetch(&self, guest: u64) {
        self.pieces(guest, 1, |at, _| crate::prefetch::prefetch(at.as_ptr()));
    }
}

/// A part of a ring: a few words that lie together in one region, by an address of the frontend's.
#[derive(Clone, Debug)]
pub(super) struct Words {
    at: NonNull<u8>,
    bytes: usize,
    /// Kept for as long as the words are looked at.
    memory: Arc<GuestMemory>,
}

// SAFETY: (G1, G4) guest memory belongs to no thread, and is reached by atomics alone.
unsafe impl Send for Words {}

impl Words {
    /// `bytes` bytes at an address of the frontend's; `None` when they are not in one region or the address is no multiple of `align`, which is at least 2.
    pub(super) fn new(
        memory: &Arc<GuestMemory>,
        user: u64,
        bytes: usize,
        align: usize,
    ) -> Option<Words> {
        let holds = |r: &&Mapped| user.wrapping_sub(r.user) < r.bytes;
        let region = memory.regions.iter().find(holds)?;
        let (at, here) = region.at(user - region.user, bytes as u64);
        let fits = here == bytes as u64 && at.addr().get().is_multiple_of(align);
        fits.then(|| Words {
            at,
            bytes,
            memory: memory.clone(),
        })
    }

    /// The memory that they are in.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    #[inline]
    fn place<T>(&self, offset: usize) -> *mut T {
        let within = offset <= self.bytes && size_of::<T>() <= self.bytes - offset;
        assert!(within, "offset {offset} of {}", self.bytes);
        // SAFETY: (G3) checked right above.
        unsafe { self.at.as_ptr().add(offset).cast() }
    }

    /// The word of 16 bits at an even offset.
    #[inline]
    fn word(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2), "offset {offset}");
        // SAFETY: (G3, G4) within, aligned as both parts of the sum are, and mapped as long as `self` lives.
        unsafe { AtomicU16::from_ptr(self.place(offset)) }
    }

    #[inline]
    pub(super) fn load(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.word(offset).load(order))
    }

    #[inline]
    pub(super) fn store(&self, offset: usize, value: u16, order: Ordering) {
        self.word(offset).store(value.to_le(), order);
    }

    /// The words of 64 bits at an offset that is a multiple of 8 as the place of the first one is.
    #[inline]
    fn long(&self, offset: usize) -> &AtomicU64 {
        let at: *mut u64 = self.place(offset);
        assert!(at.is_aligned(), "offset {offset}");
        // SAFETY: (G3, G4) within, aligned, and mapped as long as `self` lives.
        unsafe { AtomicU64::from_ptr(at) }
    }

    #[inline]
    pub(super) fn load_long(&self, offset: usize) -> u64 {
        u64::from_le(self.long(offset).load(Ordering::Relaxed))
    }

    /// Stores 32 bits at an offset that is a multiple of 4 as the place of the first one is.
    #[inline]
    pub(super) fn store_int(&self, offset: usize, value: u32) {
        let at: *mut u32 = self.place(offset);
        assert!(at.is_aligned(), "offset {offset}");
        // SAFETY: (G3, G4) within, aligned, and mapped as long as `self` lives.
        unsafe { AtomicU32::from_ptr(at) }.store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn prefetch(&self, offset: usize) {
        if offset < self.bytes {
            crate::prefetch::prefetch(self.place::<u8>(offset));
        }
    }
}
