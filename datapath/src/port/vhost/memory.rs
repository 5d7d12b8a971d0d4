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

use super::log::DirtyLog;
use super::sigbus::Mapping;
use crate::foreign::Foreign;
use crate::frame::{Loan, Loans};

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

/// Why a part of a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Its numbers.
    #[error("{0}")]
    Wrong(&'static str),
    /// The kernel's word.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Maps `bytes` bytes of a file from `offset` on, and what else is in the first and the last of its pages, which may be huge ones; and where they begin in there.
///
/// # Errors
/// [`PartError`]
pub(super) fn map_part(
    file: &File,
    offset: u64,
    bytes: u64,
) -> Result<(Mapping, usize), PartError> {
    let meta = file.metadata()?;
    let end = offset.checked_add(bytes).filter(|end| *end <= meta.size());
    let end = end.ok_or(PartError::Wrong("the file is shorter"))?;
    // A page is mapped whole or not at all.
    let page = meta.blksize().max(4096);
    let begin = offset - offset % page;
    let whole = end.checked_next_multiple_of(page).map(|end| end - begin);
    let whole = whole.and_then(|n| isize::try_from(n).ok());
    let whole = whole.ok_or(PartError::Wrong("too long"))?;
    let mapping = Mapping::new(file, begin, whole as usize)?;
    Ok((mapping, (offset - begin) as usize))
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
        if bytes == 0 || guest.checked_add(bytes).is_none() || user.checked_add(bytes).is_none() {
            return Err(wrong("no such range of addresses"));
        }
        let (mapping, offset) = map_part(file, offset, bytes).map_err(|e| match e {
            PartError::Wrong(what) => wrong(what),
            PartError::System(source) => RegionError::Map {
                guest,
                bytes,
                source,
            },
        })?;
        Ok(Mapped {
            guest,
            user,
            bytes,
            offset,
            mapping: Arc::new(mapping),
        })
    }

    /// As many of `len` bytes that begin `within` the region as are in it.
    #[inline]
    fn at(&self, within: u64, len: u64) -> Foreign<'_> {
        debug_assert!(within < self.bytes);
        // SAFETY: (G3) `within` is below the region's bytes, which end within the mapping.
        let at = unsafe { self.mapping.base().add(self.offset + within as usize) };
        let len = len.min(self.bytes - within) as usize;
        // SAFETY: (G1, G3) what is in the region is mapped as long as this is; (G4) a guest's.
        unsafe { Foreign::new(at, len) }
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

    /// The first of `len` bytes from `guest` on: as many as lie in one region, none when they are no memory.
    #[inline]
    pub(super) fn at(&self, guest: u64, len: usize) -> Option<Foreign<'_>> {
        let holds = |r: &&Mapped| guest.wrapping_sub(r.guest) < r.bytes;
        let region = self.regions.iter().find(holds)?;
        Some(region.at(guest - region.guest, len as u64))
    }

    /// Copies bytes from `guest` on; false when not all of them are memory, of which some may have been copied.
    #[inline]
    pub(super) fn read(&self, guest: u64, mut to: &mut [u8]) -> bool {
        let mut guest = guest;
        while !to.is_empty() {
            let Some(here) = self.at(guest, to.len()) else {
                return false;
            };
            let (now, later) = to.split_at_mut(here.len());
            here.copy_to(now);
            to = later;
            // It does not wrap within a region; behind the last address there is none.
            guest = guest.wrapping_add(here.len() as u64);
        }
        true
    }

    /// What lies together of `len` bytes from `guest` on, as far as it is memory.
    #[inline]
    fn all(&self, guest: u64, len: u32) -> impl Iterator<Item = Foreign<'_>> {
        let (mut guest, mut left) = (guest, len as usize);
        std::iter::from_fn(move || {
            let here = self.at(guest, left).filter(|_| left > 0)?;
            guest = guest.wrapping_add(here.len() as u64);
            left -= here.len();
            Some(here)
        })
    }

    /// Lends what is at these addresses, all of which is memory; `None` when there is no number for it.
    #[inline]
    pub(super) fn lend(
        self: &Arc<GuestMemory>,
        pieces: impl Iterator<Item = (u64, u32)>,
        loans: &mut Loans,
    ) -> Option<Loan> {
        let pieces = pieces.flat_map(|(at, len)| self.all(at, len));
        // SAFETY: (G1) they are this memory's, which is kept.
        unsafe { loans.lend(|| self.clone(), pieces) }
    }
}

/// A part of a ring: a few words that lie together in one region, by an address of the frontend's.
#[derive(Clone, Debug)]
pub(super) struct Words {
    at: NonNull<u8>,
    bytes: usize,
    /// Where they are for the guest.
    guest: u64,
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
        let here = region.at(user - region.user, bytes as u64);
        let fits = here.len() == bytes && here.base().addr().get().is_multiple_of(align);
        fits.then(|| Words {
            at: here.base(),
            bytes,
            guest: region.guest + (user - region.user),
            memory: memory.clone(),
        })
    }

    /// The memory that they are in.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Notes that any of them may have been written.
    #[cold]
    pub(super) fn mark(&self, log: &DirtyLog) {
        log.mark(self.guest, self.bytes as u64);
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
