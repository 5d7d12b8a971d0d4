// SPDX-License-Identifier: Apache-2.0
//! Making interfaces. Names and MAC addresses are in the request itself, so that nobody who watches links (udev,
//! network managers) ever sees another one, and the kernel marks the address as set by hand (`NET_ADDR_SET`).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{IfInfo, Link, check_mac, check_name, get, show_mac};
use crate::error::Result;
use crate::netlink::Socket;
use crate::netlink::message::Request;

/// `VETH_INFO_PEER` (`include/uapi/linux/veth.h`).
const VETH_INFO_PEER: u16 = 1;

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Its name, at most [`NAME_MAX`](super::NAME_MAX) bytes.
    pub name: &'a str,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its device MTU, bytes, 68 to 65535.
    pub mtu: u32,
}

/// A veth pair to be made; both ends are down.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The end in the socket's namespace.
    pub host: VethEnd<'a>,
    /// The other end.
    pub peer: VethEnd<'a>,
    /// The namespace the other end is made in; the socket's own when none.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// Receive queues, and as many transmit queues, of each end.
    pub queues: u32,
}

impl<'a> Veth<'a> {
    /// A pair with one queue each way.
    pub fn new(host: VethEnd<'a>, peer: VethEnd<'a>) -> Self {
        Veth {
            host,
            peer,
            peer_netns: None,
            queues: 1,
        }
    }

    /// Makes the other end in this network namespace.
    #[must_use]
    pub fn peer_in(mut self, netns: BorrowedFd<'a>) -> Self {
        self.peer_netns = Some(netns);
        self
    }
}

impl VethEnd<'_> {
    fn check(&self) -> Result<()> {
        check_name(self.name)?;
        check_mac(self.mac)
    }

    fn write(&self, queues: u32, request: &mut Request) {
        request
            .str(libc::IFLA_IFNAME, self.name)
            .attr(libc::IFLA_ADDRESS, &self.mac)
            .u32(libc::IFLA_MTU, self.mtu)
            .u32(libc::IFLA_NUM_RX_QUEUES, queues)
            .u32(libc::IFLA_NUM_TX_QUEUES, queues);
    }
}

/// Makes a veth pair, both ends or none, and gives the host end as the kernel then describes it
/// ([`Link::peer`] holds the index of the other end in its namespace).
///
/// # Errors
/// [`Error::exists`](crate::Error::exists) when either name is taken; [`Error::Invalid`](crate::Error::Invalid) for
/// a name or MAC address that cannot be; otherwise the kernel's refusal, naming both ends.
pub fn create_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<Link> {
    veth.host.check()?;
    veth.peer.check()?;
    let mut request = Request::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &IfInfo::default().bytes(),
    );
    veth.host.write(veth.queues, &mut request);
    request.nest(libc::IFLA_LINKINFO, |info| {
        info.str(libc::IFLA_INFO_KIND, "veth")
            .nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&IfInfo::default().bytes());
                    veth.peer.write(veth.queues, peer);
                    if let Some(netns) = veth.peer_netns {
                        peer.i32(libc::IFLA_NET_NS_FD, netns.as_raw_fd());
                    }
                });
            });
    });
    let what = format!(
        "creating the veth pair {} (MAC {}, MTU {}) and {} (MAC {}, MTU {})",
        veth.host.name,
        show_mac(veth.host.mac),
        veth.host.mtu,
        veth.peer.name,
        show_mac(veth.peer.mac),
        veth.peer.mtu,
    );
    socket.change(what, request)?;
    get(socket, veth.host.name)
}

/// Makes a device that needs no more than a kind and a name: "dummy", "bridge", "ifb".
///
/// # Errors
/// [`Error::is_unsupported`](crate::Error::is_unsupported) when the kernel does not know the kind;
/// [`Error::exists`](crate::Error::exists) when the name is taken.
pub fn create(socket: &mut Socket, name: &str, kind: &str) -> Result<Link> {
    check_name(name)?;
    let mut request = Request::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &IfInfo::default().bytes(),
    );
    request
        .str(libc::IFLA_IFNAME, name)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.str(libc::IFLA_INFO_KIND, kind);
        });
    socket.change(
        format_args!("creating the {kind} interface {name}"),
        request,
    )?;
    get(socket, name)
}
