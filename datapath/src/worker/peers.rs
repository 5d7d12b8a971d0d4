// SPDX-License-Identifier: Apache-2.0
//! The other workers: rings to them and from them, and how to wake them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::schedule::Balance;
use super::sleep::Waker;
use crate::frame::{Packet, Pool};
use crate::handoff::{Incoming, Outgoing};
use crate::ids::WorkerId;

/// The rings between this worker and one other.
pub(crate) struct Peer {
    pub(crate) id: WorkerId,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    pub(crate) balance: Balance,
    /// Packets that may be under way from it.
    pub(crate) capacity: usize,
    pub(crate) waker: Arc<Waker>,
}

impl Peer {
    pub(crate) fn new(
        id: WorkerId,
        outgoing: Outgoing,
        incoming: Incoming,
        waker: Arc<Waker>,
    ) -> Peer {
        Peer {
            id,
            capacity: outgoing.credit() as usize,
            outgoing,
            incoming,
            balance: Balance::default(),
            waker,
        }
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
    /// is no such peer.
    pub(crate) fn send(&mut self, to: WorkerId, packet: Packet) -> Result<(), Packet> {
        match self.find(to) {
            Some(peer) => peer.outgoing.send(packet),
            None => Err(packet),
        }
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
            while let Some(frame) = peer.outgoing.take_return() {
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
