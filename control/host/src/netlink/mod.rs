// SPDX-License-Identifier: Apache-2.0
//! The rtnetlink socket (`man 7 rtnetlink`): one request at a time, answered before the call returns.

pub(crate) mod message;

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Error, Result};
use message::{Message, Request, attr, i32_at, messages, string};

/// Larger than any datagram of rtnetlink: a dump's are at most 32 KiB (`af_netlink.c`, `netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Times a dump is started again when the kernel says that it changed in the middle.
const DUMP_TRIES: u32 = 8;
/// The kernel's explanation, a string (`include/uapi/linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// An rtnetlink socket in the network namespace its opener was in.
///
/// Requests are checked strictly by the kernel (`NETLINK_GET_STRICT_CHK`), so a filter it does not know is an error
/// and not ignored, and refusals carry the kernel's explanation (`NETLINK_EXT_ACK`).
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("fd", &self.inner.as_raw_fd())
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel gives no socket (file descriptors exhausted, no netlink).
    pub fn open() -> Result<Self> {
        let failed = |source| Error::io("opening an rtnetlink socket", source);
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        inner.bind_auto().map_err(failed)?;
        inner.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        inner.set_ext_ack(true).map_err(failed)?;
        inner.set_cap_ack(true).map_err(failed)?;
        inner.set_netlink_get_strict_chk(true).map_err(failed)?;
        Ok(Socket {
            inner,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Sends a request that changes something and waits for the kernel's acknowledgement.
    pub(crate) fn change(&mut self, what: impl Display, mut request: Request) -> Result<()> {
        request.add_flag(libc::NLM_F_ACK);
        self.transact(&what, &mut request, &mut |_| {}).map(drop)
    }

    /// Asks for one object; `read` gets the payload of the answer.
    pub(crate) fn get<T>(
        &mut self,
        what: impl Display,
        request: Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T> {
        let found = self.get_optional(&what, request, read)?;
        found.ok_or_else(|| Error::answer(&what, "it is empty or too short"))
    }

    /// Like [`get`](Socket::get), for objects whose absence the kernel tells by acknowledging without an answer.
    pub(crate) fn get_optional<T>(
        &mut self,
        what: impl Display,
        mut request: Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        request.add_flag(libc::NLM_F_ACK);
        let mut found = None;
        self.transact(&what, &mut request, &mut |message| {
            found = read(message.payload)
        })?;
        Ok(found)
    }

    /// Asks for all objects of a kind; `read` gives `None` for those not wanted. The list is consistent: when the
    /// kernel reports that it changed while being read, it is read again.
    pub(crate) fn dump<T>(
        &mut self,
        what: impl Display,
        mut request: Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        request.add_flag(libc::NLM_F_DUMP);
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let steady = self.transact(&what, &mut request, &mut |message| {
                found.extend(read(message.payload))
            })?;
            if steady {
                return Ok(found);
            }
        }
        Err(Error::answer(
            &what,
            format!("it changed under each of {DUMP_TRIES} readings; try again"),
        ))
    }

    /// Sends and receives until the request is answered. Gives false for a dump that was interrupted by a change.
    fn transact(
        &mut self,
        what: &dyn Display,
        request: &mut Request,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let dump = request.has_flag(libc::NLM_F_DUMP);
        self.inner
            .send(request.finish(self.sequence), 0)
            .map_err(|source| Error::io(what, source))?;
        let mut steady = true;
        loop {
            self.receive(what)?;
            for message in messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                steady &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => return refusal(what, message).map_or(Ok(steady), Err),
                    libc::NLMSG_DONE if dump => {
                        return refusal(what, message).map_or(Ok(steady), Err);
                    }
                    libc::NLMSG_NOOP | libc::NLMSG_DONE => {}
                    _ => each(message),
                }
            }
        }
    }

    fn receive(&mut self, what: &dyn Display) -> Result<()> {
        loop {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(Error::answer(what, format!("a datagram of {length} bytes")));
                }
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::io(what, source)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Reads the error of an `NLMSG_ERROR` or `NLMSG_DONE` (`man 7 netlink`); none when it is an acknowledgement.
///
/// `NLMSG_ERROR` holds the errno and the header of the request (the payload is left out: `NETLINK_CAP_ACK`),
/// `NLMSG_DONE` the errno alone; attributes follow either when the kernel has something to say.
fn refusal(what: &dyn Display, message: Message<'_>) -> Option<Error> {
    let errno = i32_at(message.payload, 0).unwrap_or(0).wrapping_neg();
    if errno == 0 {
        return None;
    }
    let is_error = i32::from(message.kind) == libc::NLMSG_ERROR;
    let attributes_at = 4 + if is_error { message::HEADER } else { 0 };
    let said = (i32::from(message.flags) & libc::NLM_F_ACK_TLVS != 0)
        .then(|| attr(message.payload.get(attributes_at..)?, NLMSGERR_ATTR_MSG))
        .flatten()
        .map(string);
    Some(Error::Netlink {
        what: what.to_string(),
        errno,
        message: said,
    })
}
