// SPDX-License-Identifier: Apache-2.0
//! Tap devices that a process reads frames from which the kernel sends into them (Documentation/networking/tuntap.rst). One lives as long as its descriptor.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::{Error, Result};
use crate::netlink::Socket;
use crate::{deaf, link, sys};

const DEVICES: &str = "/dev/net/tun";
/// The kernel puts the first free number in.
const NAMES: &str = "pst%d";
/// Frames that may wait to be read: as many superframes as a fast sender has under way.
const QUEUE: u32 = 256;

/// A tap device.
#[derive(Debug)]
pub struct Tap {
    /// To be read from: it does not block, and a `struct virtio_net_hdr` of 10 bytes is in front of each frame.
    pub fd: OwnedFd,
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// Makes one in the calling thread's network namespace, that of `socket`, sets it up and closes it to the host. TCP comes in superframes, checksums
/// may be unfinished; everything else is as on a wire.
///
/// # Errors
/// [`Error::Io`] with ENOENT or ENXIO where the kernel has no tap devices; the kernel's refusal otherwise.
pub fn create(socket: &mut Socket) -> Result<Tap> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let device = options.open(DEVICES);
    let device = device.map_err(|e| Error::io(format_args!("opening {DEVICES}"), e))?;
    let fd = OwnedFd::from(device);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let name = sys::tun_attach(fd.as_fd(), NAMES, flags)
        .map_err(|e| Error::io("making a tap device", e))?;
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    sys::tun_offload(fd.as_fd(), offloads)
        .map_err(|e| Error::io(format_args!("TUNSETOFFLOAD of {name}"), e))?;
    deaf::deafen(socket, &name)?;
    link::set_queue_length(socket, name.as_str(), QUEUE)?;
    link::set_noarp(socket, name.as_str(), true)?;
    link::set_up(socket, name.as_str(), true)?;
    let index = link::index(socket, name.as_str())?;
    Ok(Tap { fd, index, name })
}
