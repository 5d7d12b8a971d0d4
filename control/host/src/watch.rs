// SPDX-License-Identifier: Apache-2.0
//! Notices of links, addresses, neighbours and routes changing (`RTNLGRP_*`, `include/uapi/linux/rtnetlink.h`), for a
//! readiness loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};

use crate::addr::{self, Address};
use crate::error::{Error, Result};
use crate::link::{self, Link};
use crate::neigh::{self, Neighbor};
use crate::netlink::message::{messages, u8_at};
use crate::route::{self, Entry};

const RECEIVE_BUFFER: usize = 64 * 1024;
/// Asked-for size of the socket's own buffer, bytes; the kernel gives less where `net.core.rmem_max` says so.
const SOCKET_BUFFER: u32 = 1024 * 1024;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Interfaces.
    Links,
    /// Their addresses.
    Addresses,
    /// Neighbour entries; those of group addresses are not told.
    Neighbors,
    /// Routes of every table. The kernel is silent about those that go, or whose next hops die, with an interface that
    /// goes down: who keeps a copy of a table reads it anew after a change of a link.
    Routes,
}

impl Topic {
    fn groups(self) -> i32 {
        match self {
            Topic::Links => libc::RTMGRP_LINK,
            Topic::Addresses => libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR,
            Topic::Neighbors => libc::RTMGRP_NEIGH,
            Topic::Routes => libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Topic::Links => "links",
            Topic::Addresses => "addresses",
            Topic::Neighbors => "neighbors",
            Topic::Routes => "routes",
        }
    }
}

/// Something that happened in the network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface is new, or something about it is.
    LinkChanged(Link),
    /// An interface is gone: deleted, or moved to another namespace.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// An address is new, or its flags are.
    AddressChanged(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A neighbour entry is new, or its state or Ethernet address is.
    NeighborChanged(Neighbor),
    /// A neighbour entry is gone.
    NeighborGone(Neighbor),
    /// A route is new, or its next hops are.
    RouteChanged(Box<Entry>),
    /// A route is gone, or (IPv6) one of its next hops.
    RouteGone(Box<Entry>),
    /// Notices were lost: read everything anew.
    Resync,
}

/// A socket that becomes readable when something happens. It never blocks.
pub struct Watch {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
    what: String,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("fd", &self.inner.as_raw_fd())
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches the network namespace of the calling thread from now on. Read the present state after opening, so that
    /// nothing falls in between.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel gives no socket.
    pub fn open(topics: &[Topic]) -> Result<Self> {
        let names: Vec<&str> = topics.iter().map(|t| t.name()).collect();
        let what = names.join(" and ");
        let failed = |source| Error::io(format_args!("watching {what} over rtnetlink"), source);
        let groups = topics.iter().fold(0, |all, topic| all | topic.groups());
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        inner.set_rx_buf_sz(SOCKET_BUFFER).map_err(failed)?;
        inner
            .bind(&SocketAddr::new(0, groups.cast_unsigned()))
            .map_err(failed)?;
        inner.set_non_blocking(true).map_err(failed)?;
        Ok(Watch {
            inner,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
            what,
        })
    }

    /// Gives everything that happened since the last call to `each`, and returns when nothing is left.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket fails; lost notices are no failure but [`Event::Resync`].
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> Result<()> {
        loop {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => each(Event::Resync),
                Ok(_) => messages(&self.buffer)
                    .filter_map(|m| read(m.kind, m.payload))
                    .for_each(&mut each),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => each(Event::Resync),
                Err(source) => {
                    let what = format_args!("reading notices of {}", self.what);
                    return Err(Error::io(what, source));
                }
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

fn read(kind: u16, payload: &[u8]) -> Option<Event> {
    // Bridges report their ports' state as links of their own family.
    let plain = u8_at(payload, 0).map(i32::from) == Some(libc::AF_UNSPEC);
    match kind {
        libc::RTM_NEWLINK if plain => link::parse(payload).map(Event::LinkChanged),
        libc::RTM_DELLINK if plain => link::parse(payload).map(|l| Event::LinkGone {
            index: l.index,
            name: l.name,
        }),
        libc::RTM_NEWADDR => addr::parse(payload).map(Event::AddressChanged),
        libc::RTM_DELADDR => addr::parse(payload).map(Event::AddressGone),
        libc::RTM_NEWNEIGH => neigh::parse(payload).map(Event::NeighborChanged),
        libc::RTM_DELNEIGH => neigh::parse(payload).map(Event::NeighborGone),
        libc::RTM_NEWROUTE => route::parse(payload).map(|e| Event::RouteChanged(Box::new(e))),
        libc::RTM_DELROUTE => route::parse(payload).map(|e| Event::RouteGone(Box::new(e))),
        _ => None,
    }
}
