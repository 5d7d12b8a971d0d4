// SPDX-License-Identifier: Apache-2.0
//! Address resolution by our own hand: ARP (RFC 826) and neighbour discovery (RFC 4861) on one interface, beside the
//! kernel, which keeps getting its own copy of every frame.

mod filter;
mod message;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::error::{Error, Result};
use crate::link::{self, LinkId};
use crate::netlink::Socket as Netlink;
use crate::sys;

pub use message::{Heard, Message, parse};

/// Longer than any of these messages; a frame that fills it is not one.
const FRAME: usize = 2048;
/// Frames read in one call, so that a flood of requests cannot hold its caller.
const AT_ONCE: usize = 1024;

/// A packet socket (`man 7 packet`) that hears ARP and neighbour discovery of one interface, and speaks both. It never
/// blocks.
#[derive(Debug)]
pub struct Socket {
    file: File,
    link: u32,
}

impl Socket {
    /// Opens one on an interface of the calling thread's network namespace, for frames of no VLAN, which those of a VLAN are on the VLAN's
    /// device.
    ///
    /// # Errors
    /// [`Error::is_gone`] when there is no such interface; EPERM without `CAP_NET_RAW`.
    pub fn open<'a>(link: impl Into<LinkId<'a>>) -> Result<Self> {
        let link = link.into();
        let index = link::index(&mut Netlink::open()?, link)?;
        let file = sys::packet_socket(index, &filter::program()).map_err(|source| {
            Error::io(
                format_args!("opening a socket for address resolution on {link}"),
                source,
            )
        })?;
        Ok(Socket {
            file: file.into(),
            link: index,
        })
    }

    /// Index of the interface.
    pub fn link(&self) -> u32 {
        self.link
    }

    /// Sends a message from an interface whose Ethernet address is `own`, and says whether the interface took it: it does
    /// not when it is down or its queue is full.
    ///
    /// # Errors
    /// [`Error::is_gone`] when the interface is gone.
    pub fn send(&mut self, own: [u8; 6], message: &Message) -> Result<bool> {
        let frame = message.frame(own);
        match self.file.write(&frame) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::ENETDOWN)) => Ok(false),
            Err(source) => Err(Error::io(
                format_args!("asking on the interface with index {}", self.link),
                source,
            )),
        }
    }

    /// Gives what was heard since the last call to `each`, as an interface whose Ethernet address is `own`, and returns
    /// when nothing is left or much was read; the descriptor stays readable then.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket fails. An interface that is down or gone is no failure: nothing is heard of it.
    pub fn receive(&mut self, own: [u8; 6], mut each: impl FnMut(Heard)) -> Result<()> {
        let mut frame = [0; FRAME];
        for _ in 0..AT_ONCE {
            match self.file.read(&mut frame) {
                Ok(length) if length < FRAME => parse(&frame[..length], own).map_or((), &mut each),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Said once, when the interface goes down or away.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(source) => {
                    return Err(Error::io(
                        format_args!("listening on the interface with index {}", self.link),
                        source,
                    ));
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
