// SPDX-License-Identifier: Apache-2.0
//! AF_XDP: ports on the host ends of pods' veths and on the node's NICs.
//!
//! | module | what it is |
//! |---|---|
//! | `plan` | how many chunks and ring entries ports and arenas get |
//! | `probe` | what this kernel can do, each feature tried |
//! | `umem` | an arena as the memory of its ports' sockets; opens and adopts ports |
//! | `port` | the port: receive, transmit, kick, reclaim |
//! | `close` | the end of a port, in an order that loses no chunk and reuses none too early |
//! | `program` | the BPF program that steers frames to the socket |
//! | `nic` | the one of a NIC, which leaves to the host what is not the switch's |
//! | `loader` | loads them |
//! | `socket` | system calls of the socket |
//! | `ring` | one end of a ring in shared memory |
//! | `txmeta` | partial checksums passed on |
//!
//! Why the raw interface and no library: `docs/design/0002-af-xdp-raw-abi.md`.

mod bpf;
mod close;
mod error;
mod host;
mod loader;
mod nic;
mod plan;
mod port;
mod probe;
mod program;
mod ring;
mod socket;
mod txmeta;
mod umem;

pub use super::Link;
pub use close::{ClosingPort, Released, Settled};
pub use error::XdpError;
pub use host::HostSockets;
pub use loader::Loader;
pub use nic::{HostPort, MAX_OVERLAY_PORTS, MAX_RESERVED, NIC_STEERING_NAME, NicSteering, Roles};
pub use plan::{ArenaPlan, MAX_CHUNK_MTU, NicPlan, PortPlan, RingSizes, segments};
pub use port::{Handover, KickCauses, XdpHandle, XdpPort};
pub use probe::{Features, KERNEL_FLOOR, Outcome, Probe, ProbeRow, Refusal};
pub use program::{STEERING_NAME, Steering, SteeringCounters};
pub use socket::{DEFAULT_TX_BUDGET, KernelDrops, Queue, Socket};
pub use umem::{Umem, XdpConfig};
