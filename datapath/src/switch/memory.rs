// SPDX-License-Identifier: Apache-2.0
//! Which arena a port gets its memory from.

use std::sync::Arc;

use super::{Device, MemoryPlan, PortSpec};
use crate::frame::{Arena, MAX_CHUNKS};
use crate::port::xdp::{ArenaPlan, Features, NicPlan, Umem};

/// An arena and how much of it is spoken for.
pub(super) struct Plot {
    pub(super) arena: Arc<Arena>,
    /// The sockets that have it as their memory.
    pub(super) umem: Umem,
    pub(super) ports: u32,
    /// It is for one port, and goes with it: a NIC may still write to its memory for a moment after it was closed.
    pub(super) alone: bool,
    /// Chunks that no port's share covers.
    left: u32,
}

impl Plot {
    pub(super) fn new(arena: Arc<Arena>, alone: bool, features: Features) -> Plot {
        Plot {
            alone,
            umem: Umem::new(arena.clone(), features),
            left: arena.chunks(),
            arena,
            ports: 0,
        }
    }

    pub(super) fn has_room(&self, share: Share) -> bool {
        self.alone == share.alone && self.left >= share.chunks
    }

    pub(super) fn take(&mut self, share: Share) {
        self.left -= share.chunks;
        self.ports += 1;
    }

    pub(super) fn give_back(&mut self, share: Share) {
        if !self.alone {
            self.left += share.chunks;
        }
        self.ports -= 1;
    }
}

/// What a port takes of an arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Share {
    pub(super) chunks: u32,
    /// The arena is for this port alone.
    pub(super) alone: bool,
}

impl Share {
    /// A pod's: what it receives into, and half of that for frames on their way. A NIC has an arena of its own.
    pub(super) fn of(plan: &MemoryPlan, spec: &PortSpec) -> Share {
        let usual = || ArenaPlan::new(spec.mtu, 1).chunks;
        match spec.device {
            Device::Nic { queues, .. } => Share {
                chunks: NicPlan::new(queues, &[]).chunks(),
                alone: true,
            },
            Device::Xdp { .. }
            | Device::Tap { .. }
            | Device::Vhost(_)
            | Device::Memory(_)
            | Device::Pcap(_) => Share {
                chunks: plan
                    .chunks_per_port
                    .unwrap_or_else(usual)
                    .clamp(1, MAX_CHUNKS),
                alone: false,
            },
        }
    }

    /// Chunks of a worker's next arena, made for a port with this share, when it has `earlier` ones for several.
    pub(super) fn next_arena(self, plan: &MemoryPlan, earlier: usize) -> u32 {
        if self.alone {
            return self.chunks;
        }
        let usual = || ArenaPlan::ports_of_next(earlier);
        let ports = plan.ports_per_arena.unwrap_or_else(usual);
        let chunks = self.chunks.saturating_mul(ports.max(1));
        chunks.clamp(self.chunks, MAX_CHUNKS)
    }
}
