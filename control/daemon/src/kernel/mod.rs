// SPDX-License-Identifier: Apache-2.0
//! The interfaces behind ports: the host ends of pods' veths (`veth`), which are closed to the host, the node's NICs (`nic`),
//! which stay the host's, the way to the host's own stack (`host`) and beyond (`egress`), and sockets of the host that are led to pods (`sockets`).

pub mod egress;
pub mod host;
pub mod nic;
pub mod sockets;
pub mod veth;
pub mod zero_copy;

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use podswitch_api::object::{PortMapping, XdpMode};
use podswitch_datapath::Reason;
use podswitch_datapath::port::xdp::{Loader, XdpError, XdpHandle};
use podswitch_host::ports::Held;
use podswitch_host::{Error, Link, Socket, link, xdp};

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        n => format!(" ({n} more are held)"),
    }
}

/// Why an interface could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no such interface in the daemon's namespace.
    #[error("interface {0} does not exist in the network namespace of podswitchd")]
    Missing(String),
    /// One of this name is to be made.
    #[error("interface {name}, a {kind}, is there already and is not podswitch's")]
    Taken {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A route to these pods is somebody else's.
    #[error("the host has a route to {0} already")]
    RouteTaken(IpNet),
    /// This kernel forwards IPv6 by all interfaces or by none.
    #[error(
        "net.ipv6.conf.all.forwarding is 0, and this kernel cannot forward IPv6 by single interfaces"
    )]
    NoForwarding,
    /// A table of the host's nftables has the name of ours.
    #[error("the host's nftables have a table inet {0} already, which is not podswitch's")]
    TableTaken(&'static str),
    /// It is something else than a veth.
    #[error("interface {name} is a {kind}, not a veth")]
    NotVeth {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// It cannot be the node's NIC.
    #[error("interface {name} {what}")]
    NotNic {
        /// The interface.
        name: String,
        /// What it is.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The node is not in the VLAN that a NIC's frames are to be of.
    #[error(
        "interface {name} has no VLAN device with id {id} in the network namespace of podswitchd"
    )]
    NoVlan {
        /// The interface.
        name: String,
        /// The VLAN.
        id: u16,
    },
    /// Ports that were to be the switch's are somebody else's.
    #[error("ports {}-{} are reserved for masquerading, and {}/{} is held by a socket of the host at {}{}", range.start(), range.end(), first.local.port(), first.protocol, first.local.ip(), and_others(*others))]
    PortsHeld {
        /// The ports.
        range: RangeInclusive<u16>,
        /// One of the sockets.
        first: Held,
        /// How many more there are.
        others: usize,
    },
    /// A port that was to lead to a pod is a server's of the host.
    #[error("port {mapping} of the node cannot lead to a pod: a socket of the host waits there, at {}/{}", held.protocol, held.local)]
    PortServed {
        /// The port.
        mapping: PortMapping,
        /// The socket.
        held: Held,
    },
    /// Ports that were to be the switch's are given to whoever asks for any.
    #[error("ports {}-{} are reserved for masquerading, and the kernel gives port {port} to sockets that ask for any", range.start(), range.end())]
    PortsEphemeral {
        /// The ports.
        range: RangeInclusive<u16>,
        /// One of them.
        port: u16,
    },
    /// The driver of a NIC takes no program.
    #[error("the driver of interface {name} takes no XDP program: {source}")]
    NoNative {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: Error,
    },
    /// Queues of a NIC cannot be in zero-copy mode.
    #[error("interface {name} {what}")]
    ZeroCopy {
        /// The interface.
        name: String,
        /// Why not.
        what: String,
        /// What to do.
        hint: String,
    },
    /// What is about to be changed could not be noted.
    #[error("{0}")]
    NotNoted(String),
    /// The kernel refused.
    #[error(transparent)]
    Host(#[from] Error),
    /// A program could not be loaded or read.
    #[error(transparent)]
    Program(#[from] XdpError),
}

/// Takes interfaces.
pub struct Kernel {
    loader: Loader,
    default_mode: XdpMode,
}

impl Kernel {
    /// Loads nothing yet.
    pub fn new(default_mode: XdpMode) -> Kernel {
        Kernel {
            loader: Loader::new(),
            default_mode,
        }
    }
}

/// How frames come from an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// By AF_XDP, from a program in this mode.
    Xdp(xdp::Mode),
    /// By a tap device.
    Tap,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Means::Xdp(mode) => mode.fmt(f),
            Means::Tap => f.write_str("tap"),
        }
    }
}

/// What is attached to an interface.
pub enum Attached {
    /// To the host end of a pod's veth.
    Veth(Box<veth::Attached>),
    /// To a NIC.
    Nic(Box<nic::Attached>),
}

impl Attached {
    /// The interface's index.
    pub fn ifindex(&self) -> u32 {
        match self {
            Attached::Veth(a) => a.ifindex,
            Attached::Nic(a) => a.ifindex,
        }
    }

    /// Index of the device by which the host has its addresses there: the interface, or the VLAN device on it.
    pub fn host_device(&self) -> u32 {
        match self {
            Attached::Veth(a) => a.ifindex,
            Attached::Nic(a) => a.device,
        }
    }

    /// Whether it is on an interface of this index, or has to do with it: the VLAN device on a NIC.
    pub fn is_on(&self, index: u32) -> bool {
        [self.ifindex(), self.host_device()].contains(&index)
    }

    /// How its frames come.
    pub fn means(&self) -> Means {
        match self {
            Attached::Veth(a) => a.means(),
            Attached::Nic(a) => a.means(),
        }
    }

    /// Steers an interface's frames to its AF_XDP sockets, one for each queue, or into its tap device, from now on.
    ///
    /// # Errors
    /// [`KernelError`] when the map cannot be written, or the filter not be attached.
    pub fn connect(&mut self, sockets: &[XdpHandle]) -> Result<(), KernelError> {
        for (queue, handle) in sockets.iter().enumerate() {
            // A socket that is gone belongs to a port that is being closed.
            if let Some(socket) = handle.socket() {
                self.insert(queue as u32, socket.as_fd())?;
            }
        }
        match self {
            Attached::Veth(a) => a.open(),
            Attached::Nic(a) => a.open(),
        }
    }

    fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        match self {
            Attached::Veth(a) => a.insert(queue, socket),
            Attached::Nic(a) => a.insert(queue, socket),
        }
    }

    /// Steers nothing to sockets any more; what was steered is dropped, and the program stays.
    pub fn disconnect(&mut self) {
        match self {
            Attached::Veth(a) => a.disconnect(),
            Attached::Nic(a) => a.disconnect(),
        }
    }

    /// What the kernel dropped on an interface beside the frames that its AF_XDP sockets have counted as `refused`.
    ///
    /// # Errors
    /// [`KernelError`] when something cannot be read; the interface may have gone.
    pub fn drops(&self, refused: u64) -> Result<Vec<(Reason, u64)>, KernelError> {
        match self {
            Attached::Veth(a) => a.drops(refused),
            Attached::Nic(a) => a.drops(),
        }
    }
}

/// The interface of this name.
fn find(socket: &mut Socket, interface: &str) -> Result<Link, KernelError> {
    let found = link::find(socket, interface)?;
    found.ok_or_else(|| KernelError::Missing(interface.to_owned()))
}

/// Attaches a program where none is or in the place of one of ours; one of ours in another mode goes first.
fn install(
    socket: &mut Socket,
    link: &Link,
    program: BorrowedFd<'_>,
    mode: xdp::Mode,
) -> Result<(), Error> {
    match xdp::install(socket, link.index, program, mode) {
        Err(Error::XdpMode { attached, .. }) => {
            xdp::detach(socket, link.index, attached)?;
            xdp::install(socket, link.index, program, mode).map(drop)
        }
        other => other.map(drop),
    }
}

/// Takes a program of ours off an interface that is to be without one.
fn detach(socket: &mut Socket, link: &Link) -> Result<(), Error> {
    match link.xdp.first() {
        Some((mode, _)) => xdp::detach(socket, link.index, mode).map(drop),
        None => Ok(()),
    }
}

/// Frames for which a tap device had no room.
fn tap_drops(socket: &mut Socket, tap: u32) -> Result<(Reason, u64), Error> {
    let stats = link::get(socket, tap)?.stats;
    Ok((Reason::KernelTapFull, stats.tx_dropped))
}
