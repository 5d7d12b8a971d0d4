// SPDX-License-Identifier: Apache-2.0

use std::io;
use std::time::Duration;

use crate::flow::FlowTableError;
use crate::ids::{MAX_PORTS, MAX_WORKERS, PortId, WorkerId};
use crate::port::PcapError;
use crate::port::xdp::XdpError;

/// Why the switch cannot do what it was asked. Nothing has changed then, but where a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// None, or more than there can be.
    #[error("{0} workers are configured; a switch has 1 to {MAX_WORKERS}")]
    Workers(usize),
    /// A worker could not be started.
    #[error("worker {worker}: {what}: {source}")]
    Start {
        /// Which.
        worker: WorkerId,
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Fewer ports for masquerading than workers.
    #[error("ports {}-{} for masquerading are fewer than the {workers} workers; each needs some of its own", ports.start(), ports.end())]
    NatPorts {
        /// The ports.
        ports: std::ops::RangeInclusive<u16>,
        /// How many workers there are.
        workers: usize,
    },
    /// A worker's flow table could not be made.
    #[error("worker {worker}: {source}")]
    Flows {
        /// Which.
        worker: WorkerId,
        /// Why.
        source: FlowTableError,
    },
    /// A worker has to stay on its core and cannot.
    #[error(
        "worker {worker} cannot be pinned to core {core}: it does not exist, or the process may not use it (cpuset, \
         taskset); choose another core, or do not require it"
    )]
    Core {
        /// Which.
        worker: WorkerId,
        /// The core.
        core: usize,
    },
    /// No such worker.
    #[error("there is no worker {0}; workers are numbered from 0")]
    NoWorker(WorkerId),
    /// A worker has not answered for long.
    #[error(
        "worker {worker} has not answered within {waited:?}: its core is taken by something else, or it hangs"
    )]
    Busy {
        /// Which.
        worker: WorkerId,
        /// How long it was given.
        waited: Duration,
    },
    /// A worker's thread has ended.
    #[error("worker {0} has ended; its ports are dead until the switch is restarted")]
    Gone(WorkerId),
    /// The number is in use.
    #[error("port {0} exists already")]
    PortExists(PortId),
    /// The port with that number was removed and the kernel still holds its memory.
    #[error("port {port} is still closing after {waited:?}; use another number or try again")]
    PortClosing {
        /// Which.
        port: PortId,
        /// How long it was given.
        waited: Duration,
    },
    /// No such port.
    #[error("there is no port {0}")]
    NoPort(PortId),
    /// The number is too large.
    #[error("port number {0} is too large; they are below {MAX_PORTS}")]
    PortNumber(PortId),
    /// Memory for ports could not be made.
    #[error("memory of {chunks} chunks for ports of worker {worker}: {source}")]
    Memory {
        /// For whom.
        worker: WorkerId,
        /// How much.
        chunks: u32,
        /// Why.
        source: io::Error,
    },
    /// A socket cannot be opened.
    #[error("port {port}: {source}")]
    Xdp {
        /// Which.
        port: PortId,
        /// Why.
        source: XdpError,
    },
    /// The packet socket beside a tap device cannot be opened.
    #[error("port {port}: a packet socket: {source}")]
    Tap {
        /// Which.
        port: PortId,
        /// Why.
        source: io::Error,
    },
    /// What a guest's port waits by cannot be opened.
    #[error("port {port}: an epoll: {source}")]
    Vhost {
        /// Which.
        port: PortId,
        /// Why.
        source: io::Error,
    },
    /// A port's kernel statistics cannot be read.
    #[error("port {port}: XDP_STATISTICS: {source}")]
    Statistics {
        /// Which.
        port: PortId,
        /// Why.
        source: io::Error,
    },
    /// A capture file cannot be used.
    #[error("port {port}: {source}")]
    Pcap {
        /// Which.
        port: PortId,
        /// Why.
        source: PcapError,
    },
    /// The worker cannot wait for the port's frames.
    #[error("port {port}: epoll: {source}")]
    Wait {
        /// Which.
        port: PortId,
        /// Why.
        source: io::Error,
    },
}
