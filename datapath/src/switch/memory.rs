// SPDX-License-Identifier: Apache-2.0
//! Which arena a port gets its memory from.

use std::sync::Arc;

use super::MemoryPlan;
use crate::frame::{Arena, MAX_CHUNKS};
use crate::port::xdp::{ArenaPlan, Features, Umem};

/// An arena and how much of it is spoken for.
pub(super) struct Plot {
    pub(super) arena: Arc<Arena>,
    /// The sockets that have it as their memory.
    pub(super) umem: Umem,
    pub(super) ports: u32,
    /// Chunks that no port's share covers.
    left: u32,
}

impl Plot {
    pub(super) fn new(arena: Arc<Arena>, features: Features) -> Plot {
        Plot {
            umem: Umem::new(arena.clone(), features),
            left: arena.chunks(),
            arena,
            ports: 0,
        }
    }

    pub(super) fn has_room(&self, share: u32) -> bool {
        self.left >= share
    }

    pub(super) fn take(&mut self, share: u32) {
        self.left -= share;
        self.ports += 1;
    }

    pub(super) fn give_back(&mut self, share: u32) {
        self.left += share;
        self.ports -= 1;
    }
}

/// Chunks a port's share of its arena has: what it receives into, and half of that for frames on their way.
pub(super) fn share(plan: &MemoryPlan, mtu: u32) -> u32 {
    let usual = || ArenaPlan::new(mtu, 1).chunks;
    plan.chunks_per_port
        .unwrap_or_else(usual)
        .clamp(1, MAX_CHUNKS)
}

/// Chunks of a worker's next arena, made for a port with this share, when it has `earlier` ones.
pub(super) fn next_arena(plan: &MemoryPlan, share: u32, earlier: usize) -> u32 {
    let usual = || ArenaPlan::ports_of_next(earlier);
    let ports = plan.ports_per_arena.unwrap_or_else(usual);
    share.saturating_mul(ports.max(1)).clamp(share, MAX_CHUNKS)
}
