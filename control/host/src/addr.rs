// SPDX-License-Identifier: Apache-2.0
//! Addresses of interfaces (`man 7 rtnetlink`, `RTM_NEWADDR`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::link::{self, LinkId};
use crate::netlink::Socket;
use crate::netlink::message::{Request, attrs, family, ip, u8_at, u32_at};

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address with its prefix length; host bits are kept.
    pub net: IpNet,
    /// Index of the interface.
    pub link: u32,
    /// `IFA_F_*` flags (`include/uapi/linux/if_addr.h`).
    pub flags: u32,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
}

impl Address {
    /// The address without its prefix length.
    pub fn ip(&self) -> IpAddr {
        self.net.addr()
    }

    /// It is more than the link's or the host's own (`RT_SCOPE_UNIVERSE`, `RT_SCOPE_SITE`).
    pub fn is_global(&self) -> bool {
        self.scope < libc::RT_SCOPE_LINK
    }

    /// Duplicate address detection has not finished; the address cannot be used yet.
    pub fn tentative(&self) -> bool {
        self.flags & libc::IFA_F_TENTATIVE != 0
    }

    /// Duplicate address detection found another owner.
    pub fn dad_failed(&self) -> bool {
        self.flags & libc::IFA_F_DADFAILED != 0
    }
}

/// How an address is to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Usable at once, without duplicate address detection (IPv6).
    pub nodad: bool,
    /// Makes no route to the prefix.
    pub noprefixroute: bool,
}

impl Options {
    fn flags(self) -> u32 {
        let nodad = if self.nodad { libc::IFA_F_NODAD } else { 0 };
        let noprefixroute = if self.noprefixroute {
            libc::IFA_F_NOPREFIXROUTE
        } else {
            0
        };
        nodad | noprefixroute
    }
}

/// Adds an address.
///
/// # Errors
/// [`Error::exists`] when the interface has it already; the kernel's refusal otherwise, naming address and interface.
pub fn add<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    net: IpNet,
    options: Options,
) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = request(libc::RTM_NEWADDR, flags, index, net);
    request.u32(libc::IFA_FLAGS, options.flags());
    socket.change(format_args!("adding address {net} to {link}"), request)
}

/// Removes an address.
///
/// # Errors
/// [`Error::is_gone`] when the interface does not have it.
pub fn delete<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, net: IpNet) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let request = request(libc::RTM_DELADDR, 0, index, net);
    socket.change(format_args!("removing address {net} from {link}"), request)
}

/// The addresses of one interface, IPv4 and IPv6.
///
/// # Errors
/// [`Error::is_gone`] when there is no such interface.
pub fn list<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Vec<Address>> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let mut header = [0; 8];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let request = Request::new(libc::RTM_GETADDR, 0, &header);
    // A kernel that ignores the index in a dump of all families gives everything.
    socket.dump(
        format_args!("listing the addresses of {link}"),
        request,
        |payload| parse(payload).filter(|a| a.link == index),
    )
}

/// The addresses of all interfaces, IPv4 and IPv6.
///
/// # Errors
/// When the kernel refuses.
pub fn all(socket: &mut Socket) -> Result<Vec<Address>> {
    let request = Request::new(libc::RTM_GETADDR, 0, &[0; 8]);
    socket.dump("listing addresses", request, parse)
}

fn request(kind: u16, flags: i32, link: u32, net: IpNet) -> Request {
    let mut header = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    let mut request = Request::new(kind, flags, &header);
    request
        .ip(libc::IFA_LOCAL, net.addr())
        .ip(libc::IFA_ADDRESS, net.addr());
    request
}

/// Reads the payload of an `RTM_NEWADDR` or `RTM_DELADDR`.
pub(crate) fn parse(payload: &[u8]) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    let mut flags = u32::from(u8_at(payload, 2)?);
    for (kind, value) in attrs(payload.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => address = ip(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's address where there is one; IFA_LOCAL is ours, and IPv6 leaves it out.
    Some(Address {
        net: IpNet::new(local.or(address)?, u8_at(payload, 1)?).ok()?,
        link: u32_at(payload, 4)?,
        flags,
        scope: u8_at(payload, 3)?,
    })
}

/// Adds an address unless the interface has it, and says whether it was added.
///
/// # Errors
/// As [`add`], but for an address that is there.
pub fn ensure<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    net: IpNet,
    options: Options,
) -> Result<bool> {
    match add(socket, link, net, options) {
        Ok(()) => Ok(true),
        Err(e) if Error::exists(&e) => Ok(false),
        Err(e) => Err(e),
    }
}
