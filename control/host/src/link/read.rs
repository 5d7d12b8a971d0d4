// SPDX-License-Identifier: Apache-2.0
//! Looking up interfaces.

use super::{Flags, IfInfo, Link, LinkId, Peer, Stats};
use crate::error::Result;
use crate::netlink::Socket;
use crate::netlink::message::{Request, attr, attrs, i32_at, mac, string, u32_at, u64_at};
use crate::xdp;

/// `include/uapi/linux/if_link.h`.
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;

/// The interface of this name or index.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when there is none; the error names it.
pub fn get<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Link> {
    let link = link.into();
    let request = link.request(libc::RTM_GETLINK, 0, IfInfo::default())?;
    socket.get(format_args!("looking up {link}"), request, parse)
}

/// Like [`get`], with `None` when there is no such interface.
///
/// # Errors
/// Whatever else the kernel answers.
pub fn find<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<Option<Link>> {
    match get(socket, link) {
        Ok(link) => Ok(Some(link)),
        Err(e) if e.is_gone() => Ok(None),
        Err(e) => Err(e),
    }
}

/// What an interface is tied to, such as the other end of a veth, as its own network namespace describes it
/// (`IFLA_TARGET_NETNSID`, `net/core/rtnetlink.c`); `None` for an interface that is tied to none.
///
/// # Errors
/// [`Error::is_gone`](crate::Error::is_gone) when it is gone; EACCES without `CAP_NET_ADMIN` over its namespace.
pub fn peer(socket: &mut Socket, link: &Link) -> Result<Option<Link>> {
    let Some(peer) = link.peer else {
        return Ok(None);
    };
    let mut request = LinkId::Index(peer.index).request(libc::RTM_GETLINK, 0, IfInfo::default())?;
    if let Some(nsid) = peer.nsid {
        request.i32(libc::IFLA_TARGET_NETNSID, nsid);
    }
    let what = format_args!("looking up what {} is tied to", link.name);
    socket.get(what, request, parse).map(Some)
}

/// The index of an interface; asks the kernel only when it is known by name.
///
/// # Errors
/// As [`get`].
pub fn index<'a>(socket: &mut Socket, link: impl Into<LinkId<'a>>) -> Result<u32> {
    match link.into() {
        LinkId::Index(index) => Ok(index),
        name @ LinkId::Name(_) => get(socket, name).map(|l| l.index),
    }
}

/// The VLAN device of this id on top of an interface, in the same namespace; `None` when there is none.
///
/// # Errors
/// As [`list`].
pub fn find_vlan(socket: &mut Socket, parent: &Link, id: u16) -> Result<Option<Link>> {
    let is_on = |peer: &Peer| peer.index == parent.index && peer.nsid.is_none();
    let mut all = list(socket)?.into_iter();
    Ok(all.find(|l| l.vlan == Some(id) && l.peer.as_ref().is_some_and(is_on)))
}

/// All interfaces of the socket's namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let request = Request::new(libc::RTM_GETLINK, 0, &IfInfo::default().bytes());
    socket.dump("listing interfaces", request, parse)
}

/// Reads the payload of an `RTM_NEWLINK` or `RTM_DELLINK`.
pub(crate) fn parse(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        mac: None,
        mtu: 0,
        flags: Flags(u32_at(payload, 8)?),
        kind: None,
        alias: None,
        master: None,
        peer: None,
        vlan: None,
        rx_queues: 0,
        tx_queues: 0,
        xdp: xdp::Attached::default(),
        stats: Stats::default(),
    };
    let mut peer_index = None;
    let mut peer_nsid = None;
    for (kind, value) in attrs(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = string(value),
            libc::IFLA_ADDRESS => link.mac = mac(value),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_LINK => peer_index = u32_at(value, 0),
            libc::IFLA_LINK_NETNSID => peer_nsid = i32_at(value, 0),
            libc::IFLA_MASTER => link.master = u32_at(value, 0),
            libc::IFLA_IFALIAS => link.alias = Some(string(value)),
            libc::IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(value, 0)?,
            libc::IFLA_NUM_TX_QUEUES => link.tx_queues = u32_at(value, 0)?,
            libc::IFLA_LINKINFO => {
                link.kind = attr(value, libc::IFLA_INFO_KIND).map(string);
                if link.kind.as_deref() == Some("vlan") {
                    link.vlan = attr(value, libc::IFLA_INFO_DATA).and_then(vlan);
                }
            }
            libc::IFLA_XDP => link.xdp = xdp::parse(value),
            libc::IFLA_STATS64 => link.stats = stats(value),
            _ => {}
        }
    }
    // The kernel gives a device without another one its own index, or 0.
    link.peer = peer_index
        .filter(|&i| i != 0 && (i != link.index || peer_nsid.is_some()))
        .map(|index| Peer {
            index,
            nsid: peer_nsid,
        });
    Some(link)
}

/// Reads what is particular to a VLAN device: the id of an 802.1Q one.
fn vlan(value: &[u8]) -> Option<u16> {
    // A kernel that does not say knows no other.
    let protocol = attr(value, IFLA_VLAN_PROTOCOL).and_then(|p| p.first_chunk());
    let protocol = protocol.map_or(libc::ETH_P_8021Q as u16, |p| u16::from_be_bytes(*p));
    let id = attr(value, IFLA_VLAN_ID)?.first_chunk()?;
    (protocol == libc::ETH_P_8021Q as u16).then(|| u16::from_ne_bytes(*id))
}

/// Reads `struct rtnl_link_stats64`; a field an older kernel lacks is 0.
fn stats(value: &[u8]) -> Stats {
    let field = |n: usize| u64_at(value, n * 8).unwrap_or(0);
    Stats {
        rx_packets: field(0),
        tx_packets: field(1),
        rx_bytes: field(2),
        tx_bytes: field(3),
        rx_errors: field(4),
        tx_errors: field(5),
        rx_dropped: field(6),
        tx_dropped: field(7),
        rx_missed: field(15),
        rx_nohandler: field(23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::HEADER;

    /// What the kernel says of a device of this kind, with these attributes of its own.
    fn told(kind: &str, own: &[(u16, &[u8])]) -> Link {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &IfInfo::default().bytes());
        request
            .u32(libc::IFLA_LINK, 2)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.str(libc::IFLA_INFO_KIND, kind)
                    .nest(libc::IFLA_INFO_DATA, |data| {
                        for (number, value) in own {
                            data.attr(*number, value);
                        }
                    });
            });
        parse(&request.finish(0)[HEADER..]).unwrap()
    }

    #[test]
    fn a_vlan_device_has_its_id_and_no_other_device_has_one() {
        let id = 100u16.to_ne_bytes();
        let of = |protocol: u16| [(5, protocol.to_be_bytes()), (1, id)];
        let vlan = |kind, own: &[(u16, [u8; 2])]| {
            let own: Vec<(u16, &[u8])> = own.iter().map(|(n, v)| (*n, &v[..])).collect();
            told(kind, &own).vlan
        };
        assert_eq!(vlan("vlan", &of(0x8100)), Some(100));
        assert_eq!(vlan("vlan", &[(1, id)]), Some(100));
        assert_eq!(vlan("vlan", &of(0x88a8)), None, "a service VLAN");
        assert_eq!(vlan("vlan", &[]), None);
        assert_eq!(vlan("macvlan", &of(0x8100)), None);
        let on = told("vlan", &[(1, &id[..])]).peer.unwrap();
        assert_eq!((on.index, on.nsid), (2, None));
    }
}
