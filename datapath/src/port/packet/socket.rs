// SPDX-License-Identifier: Apache-2.0
//! System calls of a packet socket that only sends, with a `struct virtio_net_hdr` in front of each frame (packet(7),
//! net/packet/af_packet.c).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h).
pub(in crate::port) const VIRTIO_HEADER: usize = 10;
/// Most messages of one call.
pub(super) const MOST_MESSAGES: usize = 64;
/// Most pieces of all messages of one call; the kernel takes as many of each message.
pub(super) const MOST_PIECES: usize = 1024;
/// What may be under way to the device: some sixty superframes.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// A packet socket, bound to an interface, that hears nothing.
pub(super) struct PacketSocket {
    fd: OwnedFd,
    pieces: Vec<libc::iovec>,
    /// How many pieces each message has, while a burst is made.
    lengths: Vec<usize>,
    messages: Vec<libc::mmsghdr>,
    /// Where messages go whose frames have a tag. A superframe's EtherType the kernel takes from its virtio-net header, and so does not see the
    /// tag, unless it is told (`packet_snd`).
    tagged: Option<Box<libc::sockaddr_ll>>,
}

// SAFETY: (X6) the pointers in the lists mean something only while a `Burst` borrows the socket.
unsafe impl Send for PacketSocket {}

impl PacketSocket {
    /// A socket in the calling thread's network namespace. `direct`: frames pass the interface's traffic control by, as those of
    /// AF_XDP do, and a device that does not segment refuses superframes; otherwise the kernel segments for it.
    /// `tagged`: all frames have an 802.1Q tag.
    pub(super) fn open(interface: u32, direct: bool, tagged: bool) -> io::Result<PacketSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: (X5) no memory is passed. Protocol 0 receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: (X5) the kernel just returned it to us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set(
            &fd,
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            direct.into(),
        )?;
        set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
            .or_else(|_| set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER))?;
        bind(&fd, &address(interface, 0))?;
        let tag = (libc::ETH_P_8021Q as u16).to_be();
        Ok(PacketSocket {
            fd,
            pieces: Vec::with_capacity(MOST_PIECES),
            lengths: Vec::with_capacity(MOST_MESSAGES),
            messages: Vec::with_capacity(MOST_MESSAGES),
            tagged: tagged.then(|| Box::new(address(interface, tag))),
        })
    }

    /// Messages to be sent by as few calls as can be; empty so far.
    #[inline]
    pub(super) fn burst<'a>(&mut self) -> Burst<'_, 'a> {
        self.pieces.clear();
        self.lengths.clear();
        Burst {
            socket: self,
            begin: 0,
            bytes: PhantomData,
        }
    }
}

/// Messages that are put together piece by piece, whose bytes live as long as it does.
pub(super) struct Burst<'s, 'a> {
    socket: &'s mut PacketSocket,
    /// Where the pieces of the message begin that is being made.
    begin: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'s, 'a> Burst<'s, 'a> {
    /// Adds a piece to the message that is being made.
    #[inline]
    pub(super) fn piece(&mut self, bytes: &'a [u8]) {
        self.socket.pieces.push(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }

    /// Ends the message that is being made.
    #[inline]
    pub(super) fn end(&mut self) {
        let pieces = &self.socket.pieces;
        self.socket.lengths.push(pieces.len() - self.begin);
        self.begin = pieces.len();
    }

    /// All messages are there.
    pub(super) fn ready(self) -> Ready<'s, 'a> {
        let PacketSocket {
            pieces,
            lengths,
            messages,
            tagged,
            ..
        } = &mut *self.socket;
        messages.clear();
        let to = tagged.as_deref().map(std::ptr::from_ref);
        let mut at = pieces.as_mut_ptr();
        for &length in lengths.iter() {
            // SAFETY: (X6) a header of zeros and null pointers names nobody and nothing.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = at;
            message.msg_hdr.msg_iovlen = length as _;
            if let Some(to) = to {
                message.msg_hdr.msg_name = to.cast_mut().cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            }
            messages.push(message);
            // The lengths add up to the pieces.
            at = at.wrapping_add(length);
        }
        Ready {
            socket: self.socket,
            bytes: PhantomData,
        }
    }
}

/// Messages that can be sent.
pub(super) struct Ready<'s, 'a> {
    socket: &'s mut PacketSocket,
    bytes: PhantomData<&'a [u8]>,
}

impl Ready<'_, '_> {
    /// One call that sends the messages from number `from` on, on this thread. How many it sent, or the error number for the first.
    pub(super) fn send(&mut self, from: usize) -> Result<usize, i32> {
        let socket = &mut *self.socket;
        let Some(messages) = socket.messages.get_mut(from..) else {
            return Ok(0);
        };
        // SAFETY: (X6) the messages name pieces in `pieces`, which does not move while it is borrowed, those bytes that live as
        // long as `self`, and the socket's own address; the kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                socket.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) => Ok(sent),
            Err(_) => Err(io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)),
        }
    }
}

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let at: *const libc::c_int = &value;
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: (X5) `value` is live and `len` long; the kernel only reads it.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, at.cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An interface, with an EtherType in network byte order.
fn address(interface: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: interface as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn bind(fd: &OwnedFd, address: &libc::sockaddr_ll) -> io::Result<()> {
    let at = std::ptr::from_ref(address).cast::<libc::sockaddr>();
    let len = size_of_val(address) as libc::socklen_t;
    // SAFETY: (X5) `address` is live and `len` long.
    match unsafe { libc::bind(fd.as_raw_fd(), at, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
