// SPDX-License-Identifier: Apache-2.0
//! The end of a port, in an order that never lets userspace reuse a chunk the kernel may still write or read.
//!
//! 1. The worker stops using the rings and tags what the kernel holds as closing ([`XdpPort::close`](super::XdpPort)).
//! 2. Another thread (closing waits for an RCU grace period, some milliseconds) collects completions for a while, then
//!    unmaps the rings and closes the socket ([`ClosingPort::finish`]). The last reference gone, the kernel unbinds the
//!    socket and waits until no receive is under way (`xsk_release`, `xsk_unbind_dev`, net/xdp/xsk.c): chunks it had to
//!    receive into are ours again, wherever in its queues they were, and so are transmit descriptors it had not taken.
//!    Those it had taken and not completed are in socket buffers that may point at the chunk (devices with
//!    `IFF_TX_SKB_NO_LINEAR`): these are quarantined.
//! 3. The worker settles: free, or quarantined ([`Released::settle`]).
//!
//! While another process may have the socket (a duplicate was made), closing ours ends nothing and all is quarantined. So it is
//! after zero-copy mode: the kernel takes a device's chunks back from a work item, some time after the socket is closed
//! (`xp_release_deferred`, net/xdp/xsk_buff_pool.c), and tells nobody.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::socket::{Rings, Socket};
use crate::frame::{Arena, CHUNK_SIZE, Pool};
use crate::ids::PortId;

/// A port that its worker has given up and whose sockets, one for each queue, are still open.
pub struct ClosingPort {
    id: PortId,
    arena: Arc<Arena>,
    queues: Vec<(Arc<Socket>, Rings)>,
    /// Chunks in transmission when the worker gave the port up.
    sending: Vec<u32>,
}

/// A port whose socket is closed; its chunks are still to be settled by the worker.
#[must_use = "the port's chunks stay out of use until this is settled"]
#[derive(Debug)]
pub struct Released {
    id: PortId,
    arena: Arc<Arena>,
    lost: Lost,
}

#[derive(Debug)]
enum Lost {
    /// The kernel may still use all of them.
    All,
    /// It may still read these.
    Some(HashSet<u32>),
}

/// Where a released port's chunks went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// Back to the free list.
    pub freed: u32,
    /// Never to be used again.
    pub quarantined: u32,
}

impl fmt::Debug for ClosingPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosingPort")
            .field("id", &self.id)
            .field("queues", &self.queues.len())
            .field("sending", &self.sending.len())
            .finish_non_exhaustive()
    }
}

impl ClosingPort {
    pub(super) fn new(
        id: PortId,
        arena: Arc<Arena>,
        queues: Vec<(Arc<Socket>, Rings)>,
        sending: Vec<u32>,
    ) -> ClosingPort {
        ClosingPort {
            id,
            arena,
            queues,
            sending,
        }
    }

    /// The port.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Waits up to `patience` for frames in transmission, then closes the sockets; blocks for some milliseconds at least.
    /// They must not be polled any more (epoll).
    pub fn finish(mut self, patience: Duration) -> Released {
        // What is not waited for is given up with the rest.
        let patience = match self.queues.iter().any(|(socket, _)| socket.is_zero_copy()) {
            true => Duration::ZERO,
            false => patience,
        };
        let deadline = Instant::now() + patience;
        let mut sending: HashSet<u32> = self.sending.into_iter().collect();
        let chunk = |addr: u64| (addr / CHUNK_SIZE as u64) as u32;
        for desc in self.queues.iter().flat_map(|q| q.1.tx.untaken()) {
            sending.remove(&chunk(desc.addr));
        }
        loop {
            for (_, rings) in &mut self.queues {
                while let Some(addr) = rings.completion.pop() {
                    sending.remove(&chunk(addr));
                }
            }
            if sending.is_empty() || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let closed = self.queues.into_iter().map(|(socket, rings)| {
            drop(rings);
            let held = socket.is_duplicated() || socket.is_zero_copy();
            Arc::into_inner(socket).is_some() && !held
        });
        // Each is closed, also after one that is not, or that a device still has the chunks of.
        let lost = match closed.fold(true, |all, closed| all & closed) {
            true => Lost::Some(sending),
            false => Lost::All,
        };
        Released {
            id: self.id,
            arena: self.arena,
            lost,
        }
    }
}

impl Released {
    /// The port.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Puts the port's chunks where they belong. `pool` is that of the arena's worker.
    pub fn settle(self, pool: &mut Pool) -> Settled {
        let quarantine = |chunk| match &self.lost {
            Lost::All => true,
            Lost::Some(chunks) => chunks.contains(&chunk),
        };
        // SAFETY: (U1, X3) the sockets are closed and were the only ones, so the kernel holds no chunk of it but those in
        // `lost`.
        let (freed, quarantined) = unsafe { pool.finish_closing(&self.arena, self.id, quarantine) };
        Settled { freed, quarantined }
    }
}
