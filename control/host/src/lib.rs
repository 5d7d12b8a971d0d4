// SPDX-License-Identifier: Apache-2.0
//! Linux interfaces podswitch needs: netlink, network namespaces, sysctl, ethtool.
//!
//! Everything here blocks and works in the network namespace of the calling thread, unless a namespace is
//! given. A [`Socket`] belongs to the namespace it was opened in for as long as it lives.
//!
//! | module | what it does |
//! |---|---|
//! | [`netlink`] | the rtnetlink socket: strict checking, the kernel's own error text |
//! | [`link`] | interfaces: look up, list, create (veth with both ends described at once), change, delete |
//! | [`addr`], [`route`], [`neigh`] | addresses, routes and neighbour entries |
//! | [`resolution`] | ARP and neighbour discovery by our own hand, beside the kernel's |
//! | [`xdp`] | attach, detach and read XDP programs, never replacing a foreign one |
//! | [`tc`] | clsact filters, and the drop filter that outlives the daemon |
//! | [`bpf`] | what is needed of bpf(2): load a program of a few instructions, describe a program by its id |
//! | [`cgroup`] | BPF programs of control groups, beside those of others |
//! | [`netns`] | network namespaces: open, enter, create, delete, identity |
//! | [`sysctl`], [`deaf`] | `/proc/sys/net`, and making an interface deaf to the host |
//! | [`nft`] | the host's nftables, by its own program |
//! | [`ethtool`] | driver, channels, rings, features and the driver's own counters |
//! | [`procfs`] | the backlog's drops per CPU |
//! | [`ports`] | TCP and UDP ports that are held, or may come to be |
//! | [`peer`] | who is at the other end of a unix socket |
//! | [`probe`] | what this kernel and this process can do |
//! | [`tap`] | devices that hand frames to a process |
//! | [`watch`] | notice links, addresses, neighbours and routes changing or going away |
//!
//! Errors name the interface, namespace, address or file they are about, and carry the text of the errno
//! ([`Error::errno`] gives the number).

#![deny(unsafe_code)]

pub mod addr;
pub mod bpf;
pub mod cgroup;
pub mod deaf;
mod error;
pub mod ethtool;
pub mod link;
pub mod neigh;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod peer;
pub mod ports;
pub mod probe;
pub mod procfs;
pub mod resolution;
pub mod route;
#[allow(
    unsafe_code,
    reason = "system calls neither std nor a dependency wraps; docs/unsafe.md, control/host"
)]
mod sys;
pub mod sysctl;
pub mod tap;
pub mod tc;
pub mod watch;
pub mod xdp;

pub use error::{Error, Result};
pub use link::{Link, LinkId};
pub use netlink::Socket;
