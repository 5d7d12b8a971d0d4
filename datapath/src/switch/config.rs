// SPDX-License-Identifier: Apache-2.0
//! What a switch is started with, and what a port is made of.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::flow::Timeouts;
use crate::ids::WorkerId;
use crate::port::vhost::VhostDevice;
use crate::port::xdp::{Features, Queue};
use crate::port::{FaultPlan, MemoryDevice, PcapSpec, Wire};
use crate::stage::Rate;
pub use crate::worker::idle::IdleConfig;

/// What a switch is started with.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// One for each worker, at least one.
    pub workers: Vec<WorkerConfig>,
    /// Whether workers have threads.
    pub mode: Mode,
    /// How they wait for work.
    pub idle: IdleConfig,
    /// How much memory the ports of pods get; a NIC's has an arena of its own
    /// ([`NicPlan`](crate::port::xdp::NicPlan)).
    pub memory: MemoryPlan,
    /// What the kernel's AF_XDP can do ([`Probe`](crate::port::xdp::Probe)).
    pub features: Features,
    /// Most transmit system calls for a port in a turn.
    pub kicks_per_turn: u32,
    /// Connections each worker tracks at most.
    pub flow_entries: usize,
    /// How long each may be silent.
    pub flow_timeouts: Timeouts,
    /// Most of them that any one port may have begun, besides its share of what is free.
    pub flow_quota: u32,
    /// For how long after the start connections may be joined that began earlier, where policy allows new ones: the flow tables of
    /// before are gone.
    pub joins_for: Duration,
    /// Ports that nobody else on the node uses, as which masqueraded connections leave; shared out evenly among the workers.
    pub nat_ports: Option<RangeInclusive<u16>>,
    /// For each worker a file that outlives the process, where it stands which connection left by which of them; written to by the superuser alone,
    /// and by one switch at a time. Of a worker that has none, a start knows nothing of it.
    pub nat_files: Vec<PathBuf>,
    /// Packets in fragments that each worker follows at a time.
    pub fragment_entries: usize,
    /// MAC addresses each worker learns at most.
    pub fdb_entries: usize,
    /// ICMP errors to each port.
    pub icmp_errors: Rate,
    /// Frames that a worker may have with each other worker.
    pub handoff_frames: usize,
    /// How long a worker may take to answer.
    pub answer_within: Duration,
}

impl Default for SwitchConfig {
    /// One worker that is not pinned.
    fn default() -> SwitchConfig {
        SwitchConfig {
            workers: vec![WorkerConfig::default()],
            mode: Mode::Threads,
            idle: IdleConfig::default(),
            memory: MemoryPlan::default(),
            features: Features::default(),
            kicks_per_turn: 4,
            flow_entries: 1 << 16,
            flow_timeouts: Timeouts::default(),
            flow_quota: u32::MAX,
            joins_for: Duration::ZERO,
            nat_ports: None,
            nat_files: Vec::new(),
            fragment_entries: 4096,
            fdb_entries: crate::stage::segment::DEFAULT_ENTRIES,
            icmp_errors: Rate {
                per_second: 100,
                burst: 50,
            },
            handoff_frames: 512,
            answer_within: Duration::from_secs(5),
        }
    }
}

/// Whether workers have threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Each has its own.
    #[default]
    Threads,
    /// None has; [`Switch::turn`](super::Switch::turn) turns them all.
    Inline,
}

/// A worker to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkerConfig {
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Refuse to start when it cannot be pinned; otherwise it runs anyway and its health says so.
    pub require_core: bool,
}

/// How much memory the ports of pods get; a NIC's has an arena of its own
/// ([`NicPlan`](crate::port::xdp::NicPlan)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryPlan {
    /// Ports that share an arena. `None`: what `ArenaPlan` says.
    pub ports_per_arena: Option<u32>,
    /// Chunks (4 KiB) of a port's share of its arena. `None`: what its MTU asks for.
    pub chunks_per_port: Option<u32>,
}

/// A port to be added.
#[derive(Debug)]
pub struct PortSpec {
    /// The worker that is to serve it; the one with the fewest ports when absent.
    pub worker: Option<WorkerId>,
    /// Largest packet, bytes from the IP header on.
    pub mtu: u32,
    /// What is behind it.
    pub device: Device,
    /// Faults to put in front of it.
    pub faults: Option<FaultPlan>,
}

/// What is behind a port.
#[derive(Debug)]
pub enum Device {
    /// AF_XDP on a queue of an interface in the calling thread's network namespace.
    Xdp {
        /// The interface and its queue.
        queue: Queue,
        /// The sender leaves segmentation to the device, as it does where the interface's XDP program is in generic mode.
        superframes: bool,
    },
    /// AF_XDP on every queue of a NIC, which stays the host's, in the calling thread's network namespace.
    Nic {
        /// The interface's index.
        interface: u32,
        /// How many receive queues it has.
        queues: u32,
        /// Those among them, from 0 on, that are to be in zero-copy mode, or the port is refused: what the host receives by them hangs on the
        /// worker. All others are in copy mode.
        zero_copy: Vec<u32>,
        /// See [`Caps::local_sender`](crate::port::Caps::local_sender): the host of this machine is, or another one on it.
        local_sender: bool,
        /// See [`Caps::vlan`](crate::port::Caps::vlan).
        vlan: Option<u16>,
    },
    /// A tap device that gets the frames of an interface, by which all that leaves goes, in the calling thread's network namespace.
    Tap {
        /// The device; it has a virtio-net header of 10 bytes and does not block.
        tap: OwnedFd,
        /// The interface's index.
        interface: u32,
        /// The interface is a NIC, and not the host end of a pod's veth.
        wire: Option<Wire>,
    },
    /// Virtqueues that a frontend has set up, or will have.
    Vhost(VhostDevice),
    /// Memory.
    Memory(MemoryDevice),
    /// Capture files.
    Pcap(PcapSpec),
}
