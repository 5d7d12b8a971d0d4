// SPDX-License-Identifier: Apache-2.0
//! Neighbour entries: ARP and neighbour discovery (`man 7 rtnetlink`, `RTM_NEWNEIGH`).

use std::net::IpAddr;

use crate::error::Result;
use crate::link::{self, LinkId, check_mac, show_mac};
use crate::netlink::Socket;
use crate::netlink::message::{Request, attrs, family, ip, mac, u8_at, u16_at, u32_at};

/// A neighbour of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// Its address.
    pub ip: IpAddr,
    /// Its Ethernet address, once known.
    pub mac: Option<[u8; 6]>,
    /// Index of the interface.
    pub link: u32,
    /// `NUD_*` state (`include/uapi/linux/neighbour.h`).
    pub state: u16,
    /// `NTF_*` flags.
    pub flags: u8,
}

impl Neighbor {
    /// Heard from within the reachable time: the Ethernet address is right (`NUD_REACHABLE`).
    pub fn reachable(&self) -> bool {
        self.state & libc::NUD_REACHABLE != 0
    }

    /// Did not answer (`NUD_FAILED`).
    pub fn failed(&self) -> bool {
        self.state & libc::NUD_FAILED != 0
    }

    /// Set by hand: it is neither asked for nor forgotten.
    pub fn permanent(&self) -> bool {
        self.state & libc::NUD_PERMANENT != 0
    }
}

/// Sets a permanent entry, in place of what is known of that neighbour.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for a group MAC address; the kernel's refusal, naming neighbour and
/// interface.
pub fn set_permanent<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    ip: IpAddr,
    mac: [u8; 6],
) -> Result<()> {
    check_mac(mac)?;
    let link = link.into();
    let index = link::index(socket, link)?;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut request = request(libc::RTM_NEWNEIGH, flags, index, ip, libc::NUD_PERMANENT);
    request.attr(libc::NDA_LLADDR, &mac);
    let what = format!("setting neighbor {ip} at {} on {link}", show_mac(mac));
    socket.change(what, request)
}

/// Removes an entry.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is none.
pub fn delete<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, ip: IpAddr) -> Result<()> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let request = request(libc::RTM_DELNEIGH, 0, index, ip, 0);
    socket.change(format_args!("removing neighbor {ip} on {link}"), request)
}

/// The entries of one interface, IPv4 and IPv6, without those the kernel keeps for group addresses and those it answers
/// for as a proxy.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is no such interface.
pub fn list<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Vec<Neighbor>> {
    let link = link.into();
    let index = link::index(socket, link)?;
    let mut request = Request::new(libc::RTM_GETNEIGH, 0, &[0; 12]);
    request.u32(libc::NDA_IFINDEX, index);
    socket.dump(
        format_args!("listing the neighbors of {link}"),
        request,
        |payload| parse(payload).filter(|n| n.link == index),
    )
}

/// `struct ndmsg` and the neighbour's address.
fn request(kind: u16, flags: i32, link: u32, ip: IpAddr, state: u16) -> Request {
    let mut header = [0; 12];
    header[0] = family(ip);
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    let mut request = Request::new(kind, flags, &header);
    request.ip(libc::NDA_DST, ip);
    request
}

/// Reads the payload of an `RTM_NEWNEIGH` or `RTM_DELNEIGH`; `None` for entries that are no neighbours: of group
/// addresses, of the proxy's own list, of a bridge.
pub(crate) fn parse(payload: &[u8]) -> Option<Neighbor> {
    let (mut address, mut lladdr) = (None, None);
    for (kind, value) in attrs(payload.get(12..)?) {
        match kind {
            libc::NDA_DST => address = ip(value),
            libc::NDA_LLADDR => lladdr = mac(value),
            _ => {}
        }
    }
    let neighbor = Neighbor {
        ip: address?,
        mac: lladdr,
        link: u32_at(payload, 4)?,
        state: u16_at(payload, 8)?,
        flags: u8_at(payload, 10)?,
    };
    let of_ip = u8_at(payload, 0)? == family(neighbor.ip);
    (of_ip && neighbor.state & libc::NUD_NOARP == 0 && neighbor.flags & libc::NTF_PROXY == 0)
        .then_some(neighbor)
}
