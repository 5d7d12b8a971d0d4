// SPDX-License-Identifier: Apache-2.0
//! Samples of what was refused, for those who ask why: a bounded queue from each worker to control. When it is full, or a port has
//! had its share of a second, packets are dropped and counted as ever, and no sample is taken.
#![forbid(unsafe_code)]

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::ids::{PolicyRuleId, PortId, RuleId};
use crate::stage::{Now, Rate, RateLimiter};
use crate::tables::Direction;
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
