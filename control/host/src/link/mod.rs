// SPDX-License-Identifier: Apache-2.0
//! Network interfaces: look up, list, create, change, delete (`man 7 rtnetlink`, `include/uapi/linux/if_link.h`).

mod change;
mod create;
mod read;

use std::fmt;

use crate::error::{Error, Result};
use crate::netlink::message::Request;
use crate::xdp;

pub use change::{
    delete, delete_if_exists, rename, set_alias, set_mac, set_mtu, set_netns, set_noarp,
    set_queue_length, set_up,
};
pub use create::{Veth, VethEnd, create, create_veth};
pub use read::{find, find_vlan, get, index, list, peer};

pub(crate) use read::parse;

/// Longest name of an interface, in bytes: `IFNAMSIZ` less the terminating NUL.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Which interface: by name, or by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkId<'a> {
    /// The interface of this name.
    Name(&'a str),
    /// The interface of this index, in the namespace of the socket.
    Index(u32),
}

impl<'a> From<&'a str> for LinkId<'a> {
    fn from(name: &'a str) -> Self {
        LinkId::Name(name)
    }
}

impl<'a> From<&'a String> for LinkId<'a> {
    fn from(name: &'a String) -> Self {
        LinkId::Name(name)
    }
}

impl From<u32> for LinkId<'_> {
    fn from(index: u32) -> Self {
        LinkId::Index(index)
    }
}

impl From<&Link> for LinkId<'_> {
    fn from(link: &Link) -> Self {
        LinkId::Index(link.index)
    }
}

impl fmt::Display for LinkId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkId::Name(name) => write!(f, "interface {name}"),
            LinkId::Index(index) => write!(f, "interface with index {index}"),
        }
    }
}

impl LinkId<'_> {
    /// A request about this interface, with a clean `ifinfomsg` but for the index.
    fn request(&self, kind: u16, flags: i32, change: IfInfo) -> Result<Request> {
        match self {
            LinkId::Index(index) => Ok(Request::new(
                kind,
                flags,
                &IfInfo {
                    index: *index,
                    ..change
                }
                .bytes(),
            )),
            LinkId::Name(name) => {
                check_name(name)?;
                let mut request = Request::new(kind, flags, &change.bytes());
                request.str(libc::IFLA_IFNAME, name);
                Ok(request)
            }
        }
    }
}

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in its network namespace, never 0.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; none for devices without one.
    pub mac: Option<[u8; 6]>,
    /// Largest layer-3 packet, bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: Flags,
    /// What made it: "veth", "bridge", ...; none for hardware and loopback.
    pub kind: Option<String>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// The device it is tied to: a veth's other end, a VLAN's parent.
    pub peer: Option<Peer>,
    /// Of a VLAN device (IEEE 802.1Q, no service VLAN) its id, 1 to 4094.
    pub vlan: Option<u16>,
    /// Receive queues allocated.
    pub rx_queues: u32,
    /// Transmit queues allocated.
    pub tx_queues: u32,
    /// XDP programs attached.
    pub xdp: xdp::Attached,
    /// Counters since the device was made.
    pub stats: Stats,
}

/// The device an interface is tied to (`IFLA_LINK`, `IFLA_LINK_NETNSID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its index, in its own network namespace.
    pub index: u32,
    /// The id of its namespace as seen from this one; none when it is this one.
    pub nsid: Option<i32>,
}

/// `IFF_*` flags of an interface (`include/uapi/linux/if.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    fn has(self, flag: i32) -> bool {
        self.0 & flag.cast_unsigned() != 0
    }

    /// Set up by the administrator.
    pub fn up(self) -> bool {
        self.has(libc::IFF_UP)
    }

    /// Has a carrier: for a veth, its other end is up too.
    pub fn lower_up(self) -> bool {
        self.has(libc::IFF_LOWER_UP)
    }

    /// Neither ARP nor neighbour discovery.
    pub fn noarp(self) -> bool {
        self.has(libc::IFF_NOARP)
    }

    /// A loopback device.
    pub fn loopback(self) -> bool {
        self.has(libc::IFF_LOOPBACK)
    }

    /// Takes frames for any address.
    pub fn promisc(self) -> bool {
        self.has(libc::IFF_PROMISC)
    }
}

/// Counters of an interface (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets transmitted.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets not transmitted because of an error.
    pub tx_errors: u64,
    /// Packets received and dropped for want of room or a taker.
    pub rx_dropped: u64,
    /// Packets dropped on their way out.
    pub tx_dropped: u64,
    /// Packets missed because the device's ring was full.
    pub rx_missed: u64,
    /// Packets no protocol took.
    pub rx_nohandler: u64,
}

/// `struct ifinfomsg`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IfInfo {
    pub(crate) index: u32,
    pub(crate) flags: u32,
    pub(crate) change: u32,
}

impl IfInfo {
    pub(crate) fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[4..8].copy_from_slice(&self.index.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.change.to_ne_bytes());
        bytes
    }
}

/// Refuses what the kernel would refuse or reinterpret as a name of an interface
/// (`net/core/dev.c`, `dev_valid_name`; a `%` would be taken for a template).
///
/// # Errors
/// [`Error::Invalid`] naming the name and what is wrong with it.
pub fn check_name(name: &str) -> Result<()> {
    let bad = |why: String| Err(Error::invalid("interface name", name, why));
    if name.is_empty() {
        return bad("is empty".into());
    }
    if name.len() > NAME_MAX {
        return bad(format!(
            "is {} bytes long; Linux allows at most {NAME_MAX}",
            name.len()
        ));
    }
    if name == "." || name == ".." {
        return bad("cannot be a directory's name".into());
    }
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    match name.chars().find(|&c| forbidden(c)) {
        Some(c) => bad(format!("contains {c:?}")),
        None => Ok(()),
    }
}

/// Prints a MAC address as six pairs of hexadecimal digits.
pub(crate) fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Refuses a MAC address an interface cannot have: all zero, or a group address.
pub(crate) fn check_mac(mac: [u8; 6]) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid("MAC address", show_mac(mac), why));
    if mac == [0; 6] {
        return bad("is all zero");
    }
    if mac[0] & 1 != 0 {
        return bad("is a group address; the lowest bit of the first byte must be 0");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_refuses_are_named() {
        for good in ["lo", "eth0.5", "a23456789012345", "psÿ"] {
            check_name(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "a\tb",
            "eth%d",
            "sixteen-bytes-ab",
        ] {
            let text = check_name(bad).expect_err(bad).to_string();
            assert!(text.contains(&format!("{bad:?}")), "{text}");
        }
    }

    #[test]
    fn group_and_zero_addresses_are_refused() {
        assert!(check_mac([2, 0, 0, 0, 0, 1]).is_ok());
        for bad in [[0; 6], [1, 0, 0x5e, 0, 0, 1], [0xff; 6]] {
            let text = check_mac(bad).unwrap_err().to_string();
            assert!(text.contains(&show_mac(bad)), "{text}");
        }
    }
}
