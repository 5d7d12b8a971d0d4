// SPDX-License-Identifier: Apache-2.0
//! A NIC: AF_XDP sockets on all of its queues, in one memory, behind one port.
//!
//! Frames are received from the queues in turn. All are sent by one queue: a device may overtake between queues, and
//! the frames of a connection, which all come from one worker, have to stay in order. Copying a frame to the kernel costs
//! the worker more than its device takes to send it, so one queue is enough for one worker; one that is not copied from, if there is any.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::xdp::{ClosingPort, XdpHandle, XdpPort};
use super::{Caps, Link, PortCounters};
use crate::frame::{Arena, Batch, Frame, Pool};
use crate::ids::PortId;

/// A port on a NIC. Its worker's alone.
#[derive(Debug)]
pub struct NicPort {
    /// By their numbers; at least one.
    queues: Vec<XdpPort>,
    /// The one that frames are sent by.
    sender: usize,
    /// Who is received from first, next time.
    turn: usize,
}

impl NicPort {
    /// A port of these queues, which have one number and one memory, and of which the `sender`th sends; `None` without that one.
    pub fn new(queues: Vec<XdpPort>, sender: u32) -> Option<NicPort> {
        let sender = sender as usize;
        let first = queues.get(sender)?;
        let one_memory = |q: &XdpPort| Arc::ptr_eq(q.arena(), first.arena());
        debug_assert!(queues.iter().all(one_memory));
        Some(NicPort {
            queues,
            sender,
            turn: 0,
        })
    }

    #[inline]
    fn sender(&self) -> &XdpPort {
        &self.queues[self.sender]
    }

    #[inline]
    fn sender_mut(&mut self) -> &mut XdpPort {
        &mut self.queues[self.sender]
    }

    pub(super) fn queues(&self) -> &[XdpPort] {
        &self.queues
    }

    /// For reading the kernel's statistics elsewhere, and for the steering program's map: one for each queue.
    pub fn handles(&self) -> Vec<XdpHandle> {
        self.queues.iter().map(XdpPort::handle).collect()
    }

    #[inline]
    pub(super) fn arena(&self) -> &Arc<Arena> {
        self.sender().arena()
    }

    #[inline]
    pub(super) fn caps(&self) -> Caps {
        self.sender().caps()
    }

    #[inline]
    pub(super) fn takes_superframes(&self) -> bool {
        self.sender().takes_superframes()
    }

    pub(super) fn backlog(&self) -> u32 {
        self.sender().plan().backlog
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let (mut taken, mut last) = (0, self.turn);
        for step in 0..self.queues.len() {
            let at = (self.turn + step) % self.queues.len();
            let got = self.queues[at].receive(id, pool, batch, budget - taken);
            if got > 0 {
                (taken, last) = (taken + got, at);
            }
            if taken == budget {
                break;
            }
        }
        // Whoever used the budget up is last next time.
        self.turn = (last + 1) % self.queues.len();
        taken
    }

    #[inline]
    pub(super) fn transmit(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        outbox: &mut VecDeque<Frame>,
    ) -> usize {
        self.sender_mut().transmit(id, pool, outbox)
    }

    #[inline]
    pub(super) fn kick(&mut self, calls: &mut u32) -> bool {
        self.sender_mut().kick_within(calls)
    }

    pub(super) fn reclaim(&mut self, pool: &mut Pool) {
        self.queues.iter_mut().for_each(|q| q.reclaim(pool));
    }

    #[inline]
    pub(super) fn pending(&self) -> u32 {
        self.sender().pending()
    }

    pub(super) fn starved(&self) -> bool {
        self.queues.iter().any(XdpPort::starved)
    }

    #[inline]
    pub(super) fn link(&self) -> Link {
        self.sender().link()
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        self.queues.iter().any(XdpPort::has_work)
    }

    pub(super) fn counters(&self) -> PortCounters {
        let each = self.queues.iter().map(XdpPort::counters);
        each.fold(PortCounters::default(), |sum, c| sum.plus(&c))
    }

    pub(super) fn close(self, id: PortId, pool: &mut Pool) -> ClosingPort {
        let arena = self.arena().clone();
        XdpPort::close_all(id, &arena, self.queues, pool)
    }
}
