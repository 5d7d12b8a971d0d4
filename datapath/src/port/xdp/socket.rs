// SPDX-License-Identifier: Apache-2.0
//! System calls of an AF_XDP socket: options, binding, mapping of the rings, statistics, the transmit kick
//! (include/uapi/linux/if_xdp.h, net/xdp/xsk.c).

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::XdpError;
use super::plan::RingSizes;
use super::ring::{Consumer, Producer, Shared};
use crate::frame::{Arena, CHUNK_SIZE, METADATA_ROOM};

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): most descriptors one transmit call handles in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Descriptors one transmit call handles when that option is not there (`TX_BATCH_SIZE`).
pub const DEFAULT_TX_BUDGET: u32 = 32;
/// What the kernel may charge a socket for one chunk in transmission (`skb->truesize` of a 4 KiB frame is below it).
const SEND_BUFFER_PER_CHUNK: u32 = 8192;

/// A queue of an interface in the network namespace the socket was made in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Queue {
    /// Interface index.
    pub interface: u32,
    /// Queue of it, from 0.
    pub queue: u32,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} queue {}", self.interface, self.queue)
    }
}

/// What a socket's kernel counters say was dropped on its queue, since the socket was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelDrops {
    /// Frames that found no chunk in the fill ring (`rx_fill_ring_empty_descs`).
    pub fill_ring_empty: u64,
    /// Frames that found the receive ring full (`rx_ring_full`).
    pub rx_ring_full: u64,
    /// Frames dropped otherwise: too few chunks for all of a long frame, or too long without multi-buffer support
    /// (`rx_dropped` without those counted above).
    pub rx_dropped: u64,
    /// Transmit descriptors the kernel refused (`tx_invalid_descs`).
    pub tx_invalid: u64,
}

impl KernelDrops {
    /// Field by field sum.
    pub fn plus(&self, other: &KernelDrops) -> KernelDrops {
        KernelDrops {
            fill_ring_empty: self.fill_ring_empty + other.fill_ring_empty,
            rx_ring_full: self.rx_ring_full + other.rx_ring_full,
            rx_dropped: self.rx_dropped + other.rx_dropped,
            tx_invalid: self.tx_invalid + other.tx_invalid,
        }
    }
}

/// One AF_XDP socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    queue: Queue,
    /// It is to be bound in zero-copy mode, or not at all; otherwise in copy mode.
    zero_copy: bool,
    /// Somebody else may hold a duplicate, so closing ours need not end the kernel's use of the chunks.
    duplicated: AtomicBool,
}

/// What UMEM registration depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registration {
    pub(super) tx_metadata: bool,
}

/// How a socket is bound.
pub(super) enum Sharing<'a> {
    /// The socket registered the memory itself.
    Own { segments: bool },
    /// The memory is that of another bound socket, whose flags are inherited.
    With(&'a Socket),
}

impl Socket {
    /// A socket in the calling thread's network namespace, for `queue`, not bound yet.
    pub(super) fn open(queue: Queue, zero_copy: bool) -> Result<Socket, XdpError> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: (X5) no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
        if fd < 0 {
            return Err(XdpError::last("socket(AF_XDP)", queue));
        }
        // SAFETY: (X5) the kernel just returned it to us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Socket::from_fd(fd, queue, zero_copy, false))
    }

    pub(super) fn from_fd(fd: OwnedFd, queue: Queue, zero_copy: bool, duplicated: bool) -> Socket {
        Socket {
            fd,
            queue,
            zero_copy,
            duplicated: AtomicBool::new(duplicated),
        }
    }

    /// The queue it is for.
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// Whether the device itself writes to its chunks and reads from them, once it is bound.
    #[inline]
    pub(super) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether it is bound in zero-copy mode, by the kernel's word (`XDP_OPTIONS`).
    ///
    /// # Errors
    /// What getsockopt(2) said.
    pub fn bound_zero_copy(&self) -> io::Result<bool> {
        let none = libc::xdp_options { flags: 0 };
        // SAFETY: (X5) the structure is an integer.
        let options = unsafe { self.get(libc::SOL_XDP, libc::XDP_OPTIONS, none) }?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// A second descriptor of the same socket, for a successor or whoever keeps it for one.
    ///
    /// # Errors
    /// What fcntl(2) said.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        let fd = self.fd.try_clone()?;
        self.duplicated.store(true, Ordering::Relaxed);
        Ok(fd)
    }

    pub(super) fn is_duplicated(&self) -> bool {
        self.duplicated.load(Ordering::Relaxed)
    }

    /// The caller knows that every duplicate is closed.
    pub(super) fn set_sole(&self) {
        self.duplicated.store(false, Ordering::Relaxed);
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let at: *const T = value;
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: (X5) `value` is live and `len` long; the kernel only reads it.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, at.cast(), len) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn set_xdp<T>(&self, name: libc::c_int, call: &'static str, value: &T) -> Result<(), XdpError> {
        self.set(libc::SOL_XDP, name, value)
            .map_err(|e| XdpError::call(call, self.queue, e))
    }

    /// # Safety
    /// (X5) Every bit pattern of `T` is valid.
    unsafe fn get<T>(&self, level: libc::c_int, name: libc::c_int, mut value: T) -> io::Result<T> {
        let at: *mut T = &mut value;
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: (X5) `value` is live and `len` long; the kernel writes no more than that.
        let result =
            unsafe { libc::getsockopt(self.fd.as_raw_fd(), level, name, at.cast(), &mut len) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        if len as usize != size_of::<T>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{len} bytes, not {}", size_of::<T>()),
            ));
        }
        Ok(value)
    }

    /// Registers an arena as memory of this socket; the kernel pins all its pages.
    pub(super) fn register(
        &self,
        arena: &Arena,
        registration: Registration,
    ) -> Result<(), XdpError> {
        let (addr, len) = arena.umem_area();
        let (flags, tx_metadata_len) = if registration.tx_metadata {
            (libc::XDP_UMEM_TX_METADATA_LEN, METADATA_ROOM as u32)
        } else {
            (0, 0)
        };
        let request = libc::xdp_umem_reg {
            addr: addr as u64,
            len,
            chunk_size: CHUNK_SIZE as u32,
            headroom: 0,
            flags,
            tx_metadata_len,
        };
        self.set_xdp(libc::XDP_UMEM_REG, "XDP_UMEM_REG", &request)
    }

    /// Makes the rings.
    pub(super) fn size_rings(&self, sizes: &RingSizes) -> Result<(), XdpError> {
        for (name, call, entries) in [
            (libc::XDP_UMEM_FILL_RING, "XDP_UMEM_FILL_RING", sizes.fill),
            (
                libc::XDP_UMEM_COMPLETION_RING,
                "XDP_UMEM_COMPLETION_RING",
                sizes.completion,
            ),
            (libc::XDP_RX_RING, "XDP_RX_RING", sizes.rx),
            (libc::XDP_TX_RING, "XDP_TX_RING", sizes.tx),
        ] {
            self.set_xdp(name, call, &entries)?;
        }
        Ok(())
    }

    /// Makes the send buffer too large to be what limits transmission of `chunks` chunks: the caller's cap is.
    pub(super) fn size_send_buffer(&self, chunks: u32) -> Result<(), XdpError> {
        let bytes = i32::try_from(chunks.saturating_mul(SEND_BUFFER_PER_CHUNK)).unwrap_or(i32::MAX);
        self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes))
            .map_err(|e| XdpError::call("SO_SNDBUF", self.queue, e))
    }

    /// Lets one kick handle `descriptors` of them; false when the kernel has no such option.
    pub(super) fn set_tx_budget(&self, descriptors: u32) -> Result<bool, XdpError> {
        match self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &descriptors) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
            Err(e) => Err(XdpError::call("XDP_MAX_TX_SKB_BUDGET", self.queue, e)),
        }
    }

    /// Binds the socket to its queue.
    pub(super) fn bind(&self, sharing: Sharing<'_>) -> Result<(), XdpError> {
        let (flags, shared_fd) = match sharing {
            Sharing::Own { segments } => {
                let copying = match self.zero_copy {
                    true => libc::XDP_ZEROCOPY,
                    false => libc::XDP_COPY,
                };
                let segments = if segments { libc::XDP_USE_SG } else { 0 };
                (copying | libc::XDP_USE_NEED_WAKEUP | segments, 0)
            }
            // Also in the same mode (`xp_assign_dev_shared`, net/xdp/xsk_buff_pool.c).
            Sharing::With(other) => {
                debug_assert_eq!(self.zero_copy, other.zero_copy);
                (libc::XDP_SHARED_UMEM, other.fd.as_raw_fd() as u32)
            }
        };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: self.queue.interface,
            sxdp_queue_id: self.queue.queue,
            sxdp_shared_umem_fd: shared_fd,
        };
        let at = std::ptr::from_ref(&address).cast::<libc::sockaddr>();
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: (X5) `address` is live and `len` long.
        if unsafe { libc::bind(self.fd.as_raw_fd(), at, len) } < 0 {
            return Err(XdpError::last("bind(AF_XDP)", self.queue));
        }
        match self.bound_zero_copy() {
            Ok(zero_copy) if zero_copy == self.zero_copy => Ok(()),
            Ok(_) => {
                let other = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
                Err(XdpError::call("bind(AF_XDP)", self.queue, other))
            }
            Err(e) => Err(XdpError::call("XDP_OPTIONS", self.queue, e)),
        }
    }

    /// Maps the four rings, whose sizes are those the socket was made with.
    pub(super) fn map(&self, sizes: &RingSizes) -> Result<Rings, XdpError> {
        let offsets = self
            .mmap_offsets()
            .map_err(|e| XdpError::call("XDP_MMAP_OFFSETS", self.queue, e))?;
        let map = |which: u64, at: &libc::xdp_ring_offset, entries: u32, slot: usize| {
            Mapping::new(self, which, at.desc as usize + entries as usize * slot)
        };
        let desc = size_of::<libc::xdp_desc>();
        let rx = map(libc::XDP_PGOFF_RX_RING as u64, &offsets.rx, sizes.rx, desc)?;
        let tx = map(libc::XDP_PGOFF_TX_RING as u64, &offsets.tx, sizes.tx, desc)?;
        let fill = map(libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, sizes.fill, 8)?;
        let completion = map(
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            &offsets.cr,
            sizes.completion,
            8,
        )?;
        // SAFETY: (X1, X2) the mappings are kept beside the ends and are as long as the sizes need; the kernel has told
        // where the words lie; there is one userspace end of each ring (X4).
        unsafe {
            Ok(Rings {
                rx: Consumer::new(rx.ring(&offsets.rx, sizes.rx)),
                tx: Producer::new(tx.ring(&offsets.tx, sizes.tx)),
                fill: Producer::new(fill.ring(&offsets.fr, sizes.fill)),
                completion: Consumer::new(completion.ring(&offsets.cr, sizes.completion)),
                mappings: vec![rx, tx, fill, completion],
            })
        }
    }

    fn mmap_offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        let none = || libc::xdp_ring_offset {
            producer: 0,
            consumer: 0,
            desc: 0,
            flags: 0,
        };
        let empty = libc::xdp_mmap_offsets {
            rx: none(),
            tx: none(),
            fr: none(),
            cr: none(),
        };
        // SAFETY: (X5) the structure is integers only.
        unsafe { self.get(libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, empty) }
    }

    /// What the kernel has dropped on this queue.
    ///
    /// # Errors
    /// What getsockopt(2) said.
    pub fn kernel_drops(&self) -> io::Result<KernelDrops> {
        let empty = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        // SAFETY: (X5) the structure is integers only.
        let raw = unsafe { self.get(libc::SOL_XDP, libc::XDP_STATISTICS, empty) }?;
        Ok(KernelDrops {
            fill_ring_empty: raw.rx_fill_ring_empty_descs,
            rx_ring_full: raw.rx_ring_full,
            rx_dropped: raw.rx_dropped.saturating_sub(raw.rx_fill_ring_empty_descs),
            tx_invalid: raw.tx_invalid_descs,
        })
    }

    /// Whether the descriptor is an AF_XDP socket at all.
    pub(super) fn is_xdp(&self) -> bool {
        // SAFETY: (X5) an integer.
        let domain = unsafe { self.get(libc::SOL_SOCKET, libc::SO_DOMAIN, 0i32) };
        domain.is_ok_and(|d| d == libc::AF_XDP)
    }

    /// One transmit call: the kernel sends what is in the transmit ring, up to its budget, on this thread.
    /// The error number, or 0.
    #[inline]
    pub(super) fn kick(&self) -> i32 {
        // SAFETY: (X5) no memory is passed.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result >= 0 {
            return 0;
        }
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    }
}

impl Socket {
    /// Has a device that ran out of chunks to receive into look at the fill ring again (`XDP_WAKEUP_RX`).
    #[cold]
    pub(super) fn wake_receive(&self) {
        // SAFETY: (X5) no memory is passed.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Userspace's ends of a socket's rings, and the mappings they lie in, which live as long.
pub(super) struct Rings {
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) tx: Producer<libc::xdp_desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    #[allow(dead_code, reason = "held, not read: dropping it unmaps the rings")]
    pub(super) mappings: Vec<Mapping>,
}

/// One ring's memory. It holds a reference on the socket: the kernel keeps the socket until it is unmapped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: (X2) a mapping belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(socket: &Socket, which: u64, bytes: usize) -> Result<Mapping, XdpError> {
        // SAFETY: (X2) a new shared mapping at an address the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut::<c_void>(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.fd.as_raw_fd(),
                which as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(XdpError::last("mmap of a ring", socket.queue));
        }
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Mapping { base, bytes }),
            None => Err(XdpError::last("mmap of a ring", socket.queue)),
        }
    }

    /// # Safety
    /// (X1, X2) `at` is what the kernel said about this ring and the mapping was made for `size` slots of `T`; the
    /// mapping outlives the ring's end.
    unsafe fn ring<T: Copy>(&self, at: &libc::xdp_ring_offset, size: u32) -> Shared<T> {
        // SAFETY: (X2) the offsets are inside the mapping and aligned, as the kernel laid them out.
        unsafe {
            Shared::new(
                self.base.add(at.producer as usize).cast(),
                self.base.add(at.consumer as usize).cast(),
                self.base.add(at.flags as usize).cast(),
                self.base.add(at.desc as usize).cast(),
                size,
            )
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: (X2) the ring's end goes with the mapping.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
