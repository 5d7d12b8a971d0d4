// SPDX-License-Identifier: Apache-2.0
//! The thread that keeps watch over the links of all NICs: it asks for neighbours, hears what they say, follows the
//! kernel's tables, and reports what has changed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_datapath::events::MissReader;
use podswitch_datapath::{PortId, VrfId};
use podswitch_host::Error;
use podswitch_host::resolution::Socket;
use rustix::event::{EventfdFlags, eventfd};

use super::import::Imported;
use super::resolver::{Probe, View};
use super::watcher::Work;

/// What the engine wants of the thread.
#[derive(Debug)]
pub enum Command {
    /// Watch the link of a NIC.
    Open(Open),
    /// Watch it no longer: all its neighbours are lost.
    Close(PortId),
    /// Neighbours that are wanted behind a port, all of them.
    Want(PortId, BTreeMap<IpAddr, Probe>),
    /// An address has come to this node: announce it on the links that it is on.
    Announce(VrfId, IpAddr),
    /// An address has left this node.
    Retire(VrfId, IpAddr),
    /// Tell what is known.
    List(Sender<Vec<Listed>>),
}

/// A NIC to be watched.
#[derive(Debug)]
pub struct Open {
    /// Its port.
    pub port: PortId,
    /// The VRF of its neighbours.
    pub vrf: VrfId,
    /// The socket to ask by, on its interface.
    pub socket: Socket,
    /// The kernel's routing table to take routes from.
    pub table: Option<u32>,
}

/// A neighbour, and the port that it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The port.
    pub port: PortId,
    /// What is known.
    pub view: View,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Neighbours, in order.
    Neighbors(Vec<Change>),
    /// Prefixes of a routing table of the kernel's.
    Routes {
        /// The table's number.
        table: u32,
        /// Each prefix with its route; none: no longer.
        changes: Vec<(IpNet, Option<Imported>)>,
    },
}

/// A neighbour that is somewhere else now, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The port it is behind.
    pub port: PortId,
    /// The VRF.
    pub vrf: VrfId,
    /// Its address.
    pub address: IpAddr,
    /// Where it is.
    pub mac: Option<MacAddr>,
}

/// The engine's end. The thread ends when it is dropped.
#[derive(Debug)]
pub struct Service {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Service {
    /// Starts the thread, which tells `report` what has changed until that gives false.
    ///
    /// # Errors
    /// When the kernel gives no sockets, eventfd or thread.
    pub fn start(
        misses: MissReader,
        report: impl Fn(Report) -> bool + Send + 'static,
    ) -> Result<Service, StartError> {
        let (commands, inbox) = channel();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = Arc::new(eventfd(0, flags).map_err(io::Error::from)?);
        let work = Work::new(inbox, bell.clone(), misses, Box::new(report))?;
        let thread = thread::Builder::new()
            .name("neighbors".into())
            .spawn(move || work.run())?;
        Ok(Service {
            commands,
            bell,
            thread,
        })
    }

    /// Whether the thread still does its work; when it has ended, the log says why.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Gives a command.
    pub fn send(&self, command: Command) {
        // A thread that has ended has said why.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// What is known; nothing when the thread does not answer in this time.
    pub fn list(&self, within: Duration) -> Vec<Listed> {
        let (answer, listed) = channel();
        self.send(Command::List(answer));
        listed.recv_timeout(within).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The thread finds that nobody has commands for it any more.
        let (commands, _) = channel();
        self.commands = commands;
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// Why links cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel gives no socket.
    #[error(transparent)]
    Host(#[from] Error),
    /// The kernel gives no eventfd or thread.
    #[error("watching neighbors: {0}")]
    System(#[from] io::Error),
}
