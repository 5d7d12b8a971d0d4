// SPDX-License-Identifier: Apache-2.0
//! The other workers: rings to them and from them, and how to wake them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::schedule::Balance;
use super::sleep::Waker;
use crate::counters::WorkerCounters;
use crate::frame::{Frame, Packet, Pool};
use crate::handoff::{Incoming, Outgoing};
use crate::ids::{MAX_PORTS, PortId, WorkerId};

/// The rings between this worker and one other.
pub(crate) struct Peer {
    pub(crate) id: WorkerId,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    pub(crate) balance: Balance,
    /// Packets that may be under way from it.
    pub(crate) capacity: usize,
    /// Frames of each of this worker's ports that are with it.
    held: Box<[u32]>,
    /// What it has counted, of this worker's ports too.
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) waker: Arc<Waker>,
}

impl Peer {
    pub(crate) fn new(
        id: WorkerId,
        outgoing: Outgoing,
        incoming: Incoming,
        waker: Arc<Waker>,
        counters: Arc<WorkerCounters>,
    ) -> Peer {
        Peer {
            id,
            capacity: outgoing.credit() as usize,
            outgoing,
            incoming,
            balance: Balance::default(),
            held: vec![0; MAX_PORTS].into(),
            counters,
            waker,
        }
    }

    /// A port may have as many frames with the peer as others still may (dynamic thresholds, Choudhury and Hahne, 1998): one
    /// that floods gets half of them, and whoever comes next finds room.
    fn send(&mut self, packet: Packet) -> Result<(), Packet> {
        let port = packet.meta.in_port.index();
        if self.held[port] >= self.outgoing.credit() {
            return Err(packet);
        }
        self.outgoing.send(packet)?;
        self.held[port] += 1;
        Ok(())
    }

    fn take_return(&mut self) -> Option<Frame> {
        let frame = self.outgoing.take_return()?;
        // A peer passes chunks on as they are tagged.
        let port = frame
            .chunks()
            .next()
            .map(|c| frame.arena().owner(c.index).1);
        if let Some(held) = port.and_then(|port| self.held.get_mut(port.index())) {
            *held = held.saturating_sub(1);
        }
        Some(frame)
    }
}

/// Every other worker.
pub(crate) struct Peers(pub(crate) Vec<Peer>);

impl Peers {
    #[inline]
    fn find(&mut self, id: WorkerId) -> Option<&mut Peer> {
        self.0.iter_mut().find(|p| p.id == id)
    }

    /// Hands a packet of this worker's over; it is to be published. Gives it back when the peer has all it may have, or there
    /// is no such peer, or the packet's port has its share there.
    pub(crate) fn send(&mut self, to: WorkerId, packet: Packet) -> Result<(), Packet> {
        match self.find(to) {
            Some(peer) => peer.send(packet),
            None => Err(packet),
        }
    }

    /// Cycles that the peers have spent on a port's frames.
    pub(crate) fn spent_on(&self, port: PortId) -> u64 {
        let spent = self.0.iter().map(|peer| peer.counters.spent_on(port));
        spent.fold(0, u64::wrapping_add)
    }

    /// Shows the peers what was sent.
    #[inline]
    pub(crate) fn publish_packets(&mut self) {
        for peer in &mut self.0 {
            if peer.outgoing.publish() {
                peer.waker.wake();
            }
        }
    }

    /// Sends the frames home that this worker is done with, and takes back its own.
    #[inline]
    pub(crate) fn exchange_frames(&mut self, pool: &mut Pool) {
        if !pool.foreign().is_empty() {
            self.give_back(pool);
        }
        for peer in &mut self.0 {
            while let Some(frame) = peer.take_return() {
                pool.free(frame);
            }
        }
    }

    fn give_back(&mut self, pool: &mut Pool) {
        while let Some(frame) = pool.foreign().pop() {
            let Some(peer) = self.find(frame.arena().worker()) else {
                debug_assert!(false, "every worker is a peer: {frame:?}");
                break;
            };
            // It fits while the peer keeps to its credit; should it not, it goes next turn.
            if let Err(frame) = peer.incoming.give_back(frame) {
                pool.foreign().push(frame);
                break;
            }
        }
        for peer in &mut self.0 {
            if peer.incoming.publish() {
                peer.waker.wake();
            }
        }
    }

    /// Whether a peer has brought something.
    pub(crate) fn have_work(&mut self) -> bool {
        self.0
            .iter_mut()
            .any(|p| p.incoming.has_packets() || p.outgoing.has_returns())
    }
}
