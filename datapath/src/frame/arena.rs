// SPDX-License-Identifier: Apache-2.0
//! The memory behind frames: one memfd mapped once, cut into chunks, registered as the UMEM of up to 32 ports.

use std::ffi::c_void;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use zerocopy::FromBytes;

use crate::ids::{PortId, WorkerId};
use crate::memfd::Mapped;

/// Bytes of one chunk. 4096 lets a 64 KiB frame fit the 18 descriptors that AF_XDP can transmit
/// (`MAX_SKB_FRAGS + 1`, net/xdp/xsk.c).
pub const CHUNK_SIZE: usize = 4096;
/// Bytes kept free in front of every frame for encapsulation and transmit metadata
/// (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
pub const HEADROOM: usize = 256;
/// The first bytes of every chunk are never part of a frame: AF_XDP takes transmit metadata from in front of a frame's
/// bytes (`struct xsk_tx_metadata`, include/uapi/linux/if_xdp.h), and refuses frames without that room.
pub const METADATA_ROOM: usize = 24;
/// Most chunks of one arena: 128 bytes of kernel memory each, for every socket bound to it.
pub const MAX_CHUNKS: u32 = 1 << 18;

const MAGIC: u64 = u64::from_be_bytes(*b"PODSWMEM");
const LAYOUT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 4096;

/// Who holds a chunk. Kept in the arena's memory so that whoever adopts it after a crash can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Owner {
    /// On the free list of the arena's worker.
    Free = 0,
    /// Part of a frame in userspace.
    User = 1,
    /// Given to the kernel to receive into (fill ring, or received and not yet taken).
    Fill = 2,
    /// Given to the kernel to transmit (transmit ring, or sent and not yet completed).
    Transmit = 3,
    /// On its way to, or held by, another worker.
    Handoff = 4,
    /// Not accounted for after a port went away; never used again while this process lives.
    Quarantine = 5,
    /// Left with the kernel by a port that is closing; free once its socket is.
    Closing = 6,
}

impl Owner {
    fn from_bits(bits: u16) -> Owner {
        match bits {
            0 => Owner::Free,
            1 => Owner::User,
            2 => Owner::Fill,
            3 => Owner::Transmit,
            4 => Owner::Handoff,
            6 => Owner::Closing,
            _ => Owner::Quarantine,
        }
    }
}

/// First page of the memfd; read by whoever adopts the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes)]
#[repr(C)]
struct Header {
    magic: u64,
    version: u32,
    chunk_size: u32,
    chunks: u32,
    worker: u32,
    links_offset: u64,
    data_offset: u64,
}

/// Where a chunk's bytes are and which chunk follows it in its frame.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Link {
    pub(crate) next: u32,
    pub(crate) offset: u16,
    pub(crate) len: u16,
}

/// One arena's mapping. Shared by its worker, by control (which binds sockets to it), and by workers that read frames
/// handed to them.
#[derive(Debug)]
pub struct Arena {
    mapped: Mapped,
    data: NonNull<u8>,
    tags: NonNull<AtomicU16>,
    links: NonNull<Link>,
    chunks: u32,
    worker: WorkerId,
}

// SAFETY: (U1) an arena's chunk and link are touched only by the holder of the chunk (a Frame, or the pool or ring
// code that holds its index), holders hand chunks over through synchronised rings; tags are atomics.
unsafe impl Send for Arena {}
// SAFETY: (U1) as above.
unsafe impl Sync for Arena {}

/// Where the parts of an arena begin in its memfd, in bytes; each is page aligned and none overlap.
struct Layout {
    tags: usize,
    links: usize,
    data: usize,
    total: usize,
}

impl Layout {
    fn of(chunks: u32) -> Layout {
        let n = chunks as usize;
        let page = |x: usize| x.next_multiple_of(4096);
        let tags = HEADER_BYTES;
        let links = page(tags + n * size_of::<u16>());
        let data = page(links + n * size_of::<Link>());
        Layout {
            tags,
            links,
            data,
            total: data + n * CHUNK_SIZE,
        }
    }

    fn header(&self, worker: WorkerId, chunks: u32) -> Header {
        Header {
            magic: MAGIC,
            version: LAYOUT_VERSION,
            chunk_size: CHUNK_SIZE as u32,
            chunks,
            worker: worker.0.into(),
            links_offset: self.links as u64,
            data_offset: self.data as u64,
        }
    }
}

impl Arena {
    /// Makes an arena of `chunks` chunks for one worker. Where the kernel has huge pages, they are taken from the node at once; the
    /// others when they are first used, all of them when a socket registers the arena.
    ///
    /// # Errors
    /// `InvalidInput` when `chunks` is 0 or above [`MAX_CHUNKS`]; otherwise what memfd_create, ftruncate or mmap said.
    pub fn new(worker: WorkerId, chunks: u32) -> io::Result<Arena> {
        if chunks == 0 || chunks > MAX_CHUNKS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an arena has 1 to {MAX_CHUNKS} chunks, not {chunks}"),
            ));
        }
        let layout = Layout::of(chunks);
        let mapped = Mapped::create(c"podswitch-arena", layout.total)?;
        // SAFETY: (U2) the first page is the header's, and nobody else has the memfd yet.
        unsafe {
            mapped
                .base()
                .cast::<Header>()
                .write(layout.header(worker, chunks));
        }
        Ok(Arena::over(mapped, worker, chunks))
    }

    /// Maps an arena that another process made, tags and all. A [`Pool`](super::Pool) takes it over with
    /// [`Pool::adopt_arena`](super::Pool::adopt_arena).
    ///
    /// # Errors
    /// `InvalidData`, naming what differs, when the memfd is not sealed or its header is not that of an arena of this
    /// version; otherwise what fstat or mmap said.
    ///
    /// # Safety
    /// (U5) Whoever used the arena before has ended or will not touch it again.
    pub unsafe fn adopt(memfd: OwnedFd) -> io::Result<Arena> {
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mapped = Mapped::adopt(memfd)?;
        let mut bytes = [0u8; size_of::<Header>()];
        let read = rustix::io::pread(mapped.fd(), &mut bytes, 0)?;
        let header = Header::read_from_bytes(&bytes)
            .ok()
            .filter(|h| read == bytes.len() && h.magic == MAGIC)
            .ok_or_else(|| wrong("not an arena: no magic number".into()))?;
        if header.version != LAYOUT_VERSION {
            return Err(wrong(format!(
                "arena layout version {}, this program knows {LAYOUT_VERSION}",
                header.version
            )));
        }
        let worker = u8::try_from(header.worker)
            .map(WorkerId)
            .map_err(|_| wrong(format!("worker {}", header.worker)))?;
        if header.chunks == 0 || header.chunks > MAX_CHUNKS {
            return Err(wrong(format!("{} chunks", header.chunks)));
        }
        let layout = Layout::of(header.chunks);
        if header != layout.header(worker, header.chunks) {
            return Err(wrong(format!("unexpected layout {header:?}")));
        }
        if mapped.bytes() != layout.total {
            return Err(wrong(format!(
                "{} bytes long, its header says {}",
                mapped.bytes(),
                layout.total
            )));
        }
        Ok(Arena::over(mapped, worker, header.chunks))
    }

    /// The mapping is as long as an arena of so many chunks.
    fn over(mapped: Mapped, worker: WorkerId, chunks: u32) -> Arena {
        let (layout, base) = (Layout::of(chunks), mapped.base());
        // SAFETY: (U2) the offsets are inside the mapping, and page aligned.
        let (tags, links, data) = unsafe {
            (
                base.add(layout.tags).cast(),
                base.add(layout.links).cast(),
                base.add(layout.data),
            )
        };
        Arena {
            mapped,
            data,
            tags,
            links,
            chunks,
            worker,
        }
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The worker whose pool holds its free chunks.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The memfd behind it, for a successor process.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.mapped.fd()
    }

    /// Start of the chunk area and its length in bytes, as `XDP_UMEM_REG` takes them.
    pub fn umem_area(&self) -> (*mut c_void, u64) {
        (
            self.data.as_ptr().cast(),
            u64::from(self.chunks) * CHUNK_SIZE as u64,
        )
    }

    /// Who holds a chunk and for which port. Exact only on the arena's own worker.
    ///
    /// # Panics
    /// When `chunk` is not below [`Arena::chunks`].
    pub fn owner(&self, chunk: u32) -> (Owner, PortId) {
        let bits = self.tag(chunk).load(Ordering::Relaxed);
        (Owner::from_bits(bits >> 12), PortId(bits & 0xfff))
    }

    #[inline]
    pub(crate) fn set_owner(&self, chunk: u32, owner: Owner, port: PortId) {
        self.tag(chunk)
            .store(((owner as u16) << 12) | (port.0 & 0xfff), Ordering::Relaxed);
    }

    #[inline]
    fn tag(&self, chunk: u32) -> &AtomicU16 {
        assert!(chunk < self.chunks, "chunk {chunk} of {}", self.chunks);
        // SAFETY: (U2) bounds checked above; the tag array lives as long as the mapping.
        unsafe { self.tags.add(chunk as usize).as_ref() }
    }

    /// Pointer to a byte of a chunk. `offset` may equal [`CHUNK_SIZE`] (one past the end).
    #[inline]
    pub(crate) fn at(&self, chunk: u32, offset: usize) -> NonNull<u8> {
        assert!(
            chunk < self.chunks && offset <= CHUNK_SIZE,
            "chunk {chunk} offset {offset}"
        );
        // SAFETY: (U2) bounds checked above.
        unsafe { self.data.add(chunk as usize * CHUNK_SIZE + offset) }
    }

    /// The chunk's link, of a chunk the caller holds.
    #[inline]
    pub(crate) fn link(&self, chunk: u32) -> Link {
        assert!(chunk < self.chunks, "chunk {chunk} of {}", self.chunks);
        // SAFETY: (U1, U2) bounds checked; the caller holds the chunk, so nobody writes its link meanwhile.
        unsafe { self.links.add(chunk as usize).read() }
    }

    #[inline]
    pub(crate) fn set_link(&self, chunk: u32, link: Link) {
        assert!(chunk < self.chunks, "chunk {chunk} of {}", self.chunks);
        // SAFETY: (U1, U2) bounds checked; the caller holds the chunk, so nobody reads its link meanwhile.
        unsafe { self.links.add(chunk as usize).write(link) }
    }
}
