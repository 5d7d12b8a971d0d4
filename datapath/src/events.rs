// SPDX-License-Identifier: Apache-2.0
//! What workers tell control, through bounded queues: samples of what was refused, for those who ask why, and neighbors that packets
//! wait for. When a queue is full, or a port has had its share of a second, packets are dropped and counted as ever, and nothing is told.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

use crate::ids::{GroupId, PolicyRuleId, PortId, RuleId};
use crate::stage::{Now, Rate, RateLimiter};
use crate::tables::{Direction, NeighborKey};
use crate::verdict::Reason;
use crate::wire::FlowKey;

/// Samples that wait for control at most, of each worker.
const ROOM: usize = 1024;
/// Samples of packets from one port.
const OF_A_PORT: Rate = Rate {
    per_second: 10,
    burst: 10,
};

/// A packet that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// When, nanoseconds of the monotonic clock.
    pub at: u64,
    /// The packet's key.
    pub key: FlowKey,
    /// The port it came from.
    pub in_port: PortId,
    /// The port it would have left by, where that was known.
    pub out_port: Option<PortId>,
    /// The end that refused it: the sender's ([`Direction::Egress`]) or the receiver's.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// The port's own rule that denied it, if one did.
    pub rule: Option<RuleId>,
    /// The policy rule that denied it, if one did.
    pub policy: Option<PolicyRuleId>,
    /// The group that it was marked with, where the receiver's end looked at that.
    pub group: Option<GroupId>,
}

/// A worker's end.
#[derive(Debug)]
pub struct Refusals {
    queue: Sender<Refusal>,
    limit: RateLimiter,
}

/// A queue of samples.
pub fn refusals() -> (Refusals, Receiver<Refusal>) {
    let (queue, samples) = bounded(ROOM);
    let limit = RateLimiter::new(OF_A_PORT);
    (Refusals { queue, limit }, samples)
}

impl Refusals {
    /// Takes a sample, if there is room and the port has had fewer than its share.
    #[cold]
    pub(crate) fn note(&mut self, refusal: Refusal) {
        if self.limit.allow(refusal.in_port, Now(refusal.at)) {
            // Nobody reads fast enough: the counters have it.
            let _ = self.queue.try_send(refusal);
        }
    }
}

/// Neighbors that wait for control at most, of all workers.
const MISSES: usize = 1024;
/// Neighbors that packets from one port may ask for.
const MISSES_OF_A_PORT: Rate = Rate {
    per_second: 100,
    burst: 100,
};
/// A neighbor that was told is not told again for so long, nanoseconds.
const TOLD_FOR: u64 = 100_000_000;
/// Neighbors of which a worker remembers when it told them; a power of two.
const REMEMBERED: usize = 64;

/// A worker's end of the queue of neighbors without which packets could not leave.
#[derive(Debug)]
pub struct Misses {
    queue: Sender<NeighborKey>,
    bell: Arc<Bell>,
    limit: RateLimiter,
    told: [Option<(NeighborKey, u64)>; REMEMBERED],
}

/// Control's end of that queue, of all workers. Its descriptor becomes readable when there is something to read.
#[derive(Clone, Debug)]
pub struct MissReader {
    queue: Receiver<NeighborKey>,
    sender: Sender<NeighborKey>,
    bell: Arc<Bell>,
}

/// Rung once for any number of neighbors until they are read.
#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl MissReader {
    /// A queue without a worker's end.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<MissReader> {
        let (sender, queue) = bounded(MISSES);
        let bell = Arc::new(Bell {
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            rung: AtomicBool::new(false),
        });
        Ok(MissReader {
            queue,
            sender,
            bell,
        })
    }

    /// A worker's end.
    pub fn worker(&self) -> Misses {
        Misses {
            queue: self.sender.clone(),
            bell: self.bell.clone(),
            limit: RateLimiter::new(MISSES_OF_A_PORT),
            told: [None; REMEMBERED],
        }
    }

    /// The neighbors that packets have waited for since they were read last, some more than once. Never waits.
    pub fn read(&self) -> Vec<NeighborKey> {
        // Whoever puts something in after the flag is taken back rings again; what was put in before is seen below.
        let _ = rustix::io::read(&self.bell.fd, &mut [0u8; 8]);
        self.bell.rung.swap(false, Ordering::AcqRel);
        self.queue.try_iter().take(MISSES).collect()
    }
}

impl AsFd for MissReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

impl Misses {
    /// A packet from this port could not leave because a neighbor is not known.
    #[cold]
    pub(crate) fn note(&mut self, in_port: PortId, neighbor: NeighborKey, now: Now) {
        let slot = &mut self.told[place(&neighbor)];
        let told = slot.is_some_and(|(n, at)| n == neighbor && now.0 < at.saturating_add(TOLD_FOR));
        if told || !self.limit.allow(in_port, now) || self.queue.try_send(neighbor).is_err() {
            return;
        }
        *slot = Some((neighbor, now.0));
        if !self.bell.rung.swap(true, Ordering::AcqRel) {
            // A full counter is as good as one more.
            let _ = rustix::io::write(&self.bell.fd, &1u64.to_ne_bytes());
        }
    }
}

/// Where a neighbor is remembered: neighboring addresses at different places.
fn place(neighbor: &NeighborKey) -> usize {
    let bits = match neighbor.address {
        std::net::IpAddr::V4(a) => u128::from(a.to_bits()),
        std::net::IpAddr::V6(a) => a.to_bits(),
    };
    bits as usize % REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VrfId;

    fn neighbor(last: u8) -> NeighborKey {
        NeighborKey {
            vrf: VrfId(0),
            port: PortId(1),
            address: [10, 0, 0, last].into(),
        }
    }

    fn is_readable(reader: &MissReader) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(reader, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn a_neighbor_is_told_once_in_a_while_and_rings_once() {
        let reader = MissReader::new().unwrap();
        let mut worker = reader.worker();
        assert!(!is_readable(&reader));
        for at in 0..1000 {
            worker.note(PortId(2), neighbor(9), Now(at));
        }
        worker.note(PortId(2), neighbor(10), Now(1000));
        assert!(is_readable(&reader));
        assert_eq!(reader.read(), [neighbor(9), neighbor(10)]);
        assert!(!is_readable(&reader));
        worker.note(PortId(2), neighbor(9), Now(TOLD_FOR));
        assert!(is_readable(&reader));
        assert_eq!(reader.read(), [neighbor(9)]);
    }

    #[test]
    fn a_port_that_asks_for_everybody_leaves_room_for_others() {
        let reader = MissReader::new().unwrap();
        let mut worker = reader.worker();
        for last in 0..=255 {
            worker.note(PortId(2), neighbor(last), Now(1));
        }
        worker.note(PortId(3), neighbor(200), Now(1));
        let read = reader.read();
        assert_eq!(read.len(), 101);
        assert_eq!(read.last(), Some(&neighbor(200)));
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let reader = MissReader::new().unwrap();
        let mut worker = reader.worker();
        for port in 0..40 {
            for last in 0..100 {
                worker.note(
                    PortId(port),
                    neighbor(last),
                    Now(u64::from(port) * TOLD_FOR),
                );
            }
        }
        assert_eq!(reader.read().len(), MISSES);
        assert!(reader.read().is_empty());
    }
}
