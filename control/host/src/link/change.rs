// SPDX-License-Identifier: Apache-2.0
//! Changing and deleting interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{IfInfo, LinkId, check_mac, check_name, show_mac};
use crate::error::{Error, Result};
use crate::netlink::Socket;

/// Longest `IFLA_IFALIAS`, bytes: `IFALIASZ` less the NUL (`include/linux/if.h`).
const ALIAS_MAX: usize = 255;

/// Sets the interface up or down.
///
/// # Errors
/// The kernel's refusal, naming the interface; likewise for the other functions of this module.
pub fn set_up<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, up: bool) -> Result<()> {
    let word = if up { "up" } else { "down" };
    set_flag(socket, link.into(), libc::IFF_UP, up, word)
}

/// Turns ARP and neighbour discovery off (`true`) or on.
///
/// # Errors
/// As [`set_up`].
pub fn set_noarp<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, noarp: bool) -> Result<()> {
    let word = if noarp { "noarp" } else { "arp" };
    set_flag(socket, link.into(), libc::IFF_NOARP, noarp, word)
}

fn set_flag(socket: &mut Socket, link: LinkId<'_>, flag: i32, on: bool, word: &str) -> Result<()> {
    let flag = flag.cast_unsigned();
    let change = IfInfo {
        index: 0,
        flags: if on { flag } else { 0 },
        change: flag,
    };
    let request = link.request(libc::RTM_NEWLINK, 0, change)?;
    socket.change(format_args!("setting {link} {word}"), request)
}

/// Sets how many frames may wait to be sent by the device.
///
/// # Errors
/// As [`set_up`].
pub fn set_queue_length<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    frames: u32,
) -> Result<()> {
    let link = link.into();
    let mut request = link.request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.u32(libc::IFLA_TXQLEN, frames);
    let what = format_args!("setting the queue length of {link} to {frames}");
    socket.change(what, request)
}

/// Sets the device MTU, bytes.
///
/// # Errors
/// As [`set_up`].
pub fn set_mtu<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, mtu: u32) -> Result<()> {
    let link = link.into();
    let mut request = link.request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.u32(libc::IFLA_MTU, mtu);
    socket.change(format_args!("setting the MTU of {link} to {mtu}"), request)
}

/// Sets the Ethernet address.
///
/// # Errors
/// As [`set_up`], and [`Error::Invalid`] for a group address or all zeros.
pub fn set_mac<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, mac: [u8; 6]) -> Result<()> {
    check_mac(mac)?;
    let link = link.into();
    let mut request = link.request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.attr(libc::IFLA_ADDRESS, &mac);
    socket.change(
        format_args!("setting the MAC address of {link} to {}", show_mac(mac)),
        request,
    )
}

/// Gives the interface another name. Kernels before 6.0 want it down.
///
/// # Errors
/// As [`set_up`]; [`Error::exists`] when the name is taken.
pub fn rename<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, name: &str) -> Result<()> {
    check_name(name)?;
    let link = link.into();
    // By name, IFLA_IFNAME already says which interface; the new name needs the index.
    let index = super::index(socket, link)?;
    let mut request = LinkId::Index(index).request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.str(libc::IFLA_IFNAME, name);
    socket.change(format_args!("renaming {link} to {name}"), request)
}

/// Sets the free text that goes with an interface (`ip link set dev X alias TEXT`); empty removes it.
///
/// # Errors
/// As [`set_up`], and [`Error::Invalid`] above 255 bytes.
pub fn set_alias<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>, alias: &str) -> Result<()> {
    if alias.len() > ALIAS_MAX {
        let why = format!(
            "is {} bytes long; Linux allows at most {ALIAS_MAX}",
            alias.len()
        );
        return Err(Error::invalid("interface alias", alias, why));
    }
    let link = link.into();
    let mut request = link.request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.attr(libc::IFLA_IFALIAS, alias.as_bytes());
    socket.change(
        format_args!("setting the alias of {link} to {alias:?}"),
        request,
    )
}

/// Moves the interface to another network namespace.
///
/// # Errors
/// As [`set_up`]; [`Error::exists`] when the name is taken over there.
pub fn set_netns<'a>(
    socket: &mut Socket,
    link: impl Into<LinkId<'a>>,
    netns: BorrowedFd<'_>,
) -> Result<()> {
    let link = link.into();
    let mut request = link.request(libc::RTM_NEWLINK, 0, IfInfo::default())?;
    request.i32(libc::IFLA_NET_NS_FD, netns.as_raw_fd());
    socket.change(
        format_args!("moving {link} to another network namespace"),
        request,
    )
}

/// Deletes the interface; the other end of a veth goes with it.
///
/// # Errors
/// [`Error::is_gone`] when there is none, and as [`set_up`].
pub fn delete<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<()> {
    let link = link.into();
    let request = link.request(libc::RTM_DELLINK, 0, IfInfo::default())?;
    socket.change(format_args!("deleting {link}"), request)
}

/// Deletes the interface if it is there, and says whether it was.
///
/// # Errors
/// As [`set_up`].
pub fn delete_if_exists<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<bool> {
    match delete(socket, link) {
        Ok(()) => Ok(true),
        Err(e) if e.is_gone() => Ok(false),
        Err(e) => Err(e),
    }
}
