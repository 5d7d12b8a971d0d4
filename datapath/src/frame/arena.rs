// SPDX-License-Identifier: Apache-2.0
//! The memory behind frames: one memfd mapped once, cut into chunks, registered as the UMEM of up to 32 ports.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::ids::{PortId, WorkerId};

/// Bytes of one chunk. 4096 lets a 64 KiB frame fit the 18 descriptors that AF_XDP can transmit
/// (`MAX_SKB_FRAGS + 1`, net/xdp/xsk.c).
pub const CHUNK_SIZE: usize = 4096;
/// Bytes kept free in front of every frame for encapsulation and transmit metadata
/// (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
pub const HEADROOM: usize = 256;
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
}

impl Owner {
    fn from_bits(bits: u16) -> Owner {
        match bits {
            0 => Owner::Free,
            1 => Owner::User,
            2 => Owner::Fill,
            3 => Owner::Transmit,
            4 => Owner::Handoff,
            _ => Owner::Quarantine,
        }
    }
}

/// First page of the memfd; read by whoever adopts the memory.
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
    memfd: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
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

/// Byte offsets of the parts of an arena's memfd: (tags, links, data, total).
fn layout(chunks: u32) -> (usize, usize, usize, usize) {
    let n = chunks as usize;
    let page = |x: usize| x.next_multiple_of(4096);
    let tags = HEADER_BYTES;
    let links = page(tags + n * size_of::<u16>());
    let data = page(links + n * size_of::<Link>());
    (tags, links, data, data + n * CHUNK_SIZE)
}

impl Arena {
    /// Makes an arena of `chunks` chunks for one worker. Pages are touched when they are used or pinned by a socket.
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
        let (tags, links, data, bytes) = layout(chunks);
        // SAFETY: (U2) plain system call with a NUL-terminated name; the result is checked.
        let fd = unsafe { libc::memfd_create(c"podswitch-arena".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: (U2) `fd` was just returned to us and nobody else has it.
        let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: (U2) plain system call on our own descriptor.
        if unsafe { libc::ftruncate(memfd.as_raw_fd(), bytes as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: (U2) a fresh shared mapping of our own memfd; the kernel chooses the address.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: (U2) the offsets are inside the mapping of `bytes` bytes, and page aligned.
        let (tags, links_ptr, data_ptr) = unsafe {
            (
                base.add(tags).cast(),
                base.add(links).cast(),
                base.add(data),
            )
        };
        let header = Header {
            magic: MAGIC,
            version: LAYOUT_VERSION,
            chunk_size: CHUNK_SIZE as u32,
            chunks,
            worker: worker.0.into(),
            links_offset: links as u64,
            data_offset: data as u64,
        };
        // SAFETY: (U2) the first page is ours, aligned and large enough for the header.
        unsafe { base.cast::<Header>().write(header) };
        Ok(Arena {
            memfd,
            base,
            bytes,
            data: data_ptr,
            tags,
            links: links_ptr,
            chunks,
            worker,
        })
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
    pub fn memfd(&self) -> &OwnedFd {
        &self.memfd
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

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: (U3) the last Arc goes only after every chunk is back or the pool leaked a count on purpose.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
