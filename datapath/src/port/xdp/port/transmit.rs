// SPDX-License-Identifier: Apache-2.0
//! From frames to the transmit ring, and the calls that make the kernel send.

use std::collections::VecDeque;

use super::super::txmeta;
use super::{CHUNK_SHIFT, XdpPort};
use crate::frame::{Frame, METADATA_ROOM, Owner, Pool};
use crate::ids::PortId;
use crate::port::Link;
use crate::port::packet::is_marked;

const ETHERNET_HEADER: u32 = 14;

/// Why transmit calls stopped short, beside the sums in [`PortCounters`](crate::port::PortCounters).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KickCauses {
    /// EAGAIN after sending as many descriptors as one call may.
    pub budget: u64,
    /// EAGAIN without sending: the device's queue is stopped, the completion ring full or the send buffer used up. The
    /// latter two are ruled out by the port's plan.
    pub blocked: u64,
    /// The call succeeded and left descriptors: the completion ring was full (before Linux 6.18), or, in zero-copy mode, the device sends
    /// them by itself.
    pub completion_full: u64,
    /// EBUSY: the device dropped a frame (it is in the device's own statistics, and its chunk completes).
    pub device_dropped: u64,
    /// ENOBUFS or ENOMEM: the kernel had no memory for the frame.
    pub no_memory: u64,
    /// ENETDOWN: the interface is down.
    pub down: u64,
    /// ENXIO or EBADF: the socket is bound no more.
    pub gone: u64,
}

impl XdpPort {
    /// Moves as many whole frames as the transmit ring and the port's cap allow from `outbox` to the kernel, and says how
    /// many; those for the packet socket are sent. A frame that cannot be sent at all (shorter than an Ethernet header,
    /// another arena's, or the interface is gone) is freed and counted.
    pub fn transmit(&mut self, id: PortId, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        debug_assert_eq!(id, self.id);
        let mut sent = self.transmit_packets(pool, outbox);
        let (mut pushed, mut pending) = (0, self.pending());
        while let Some(frame) = outbox.front() {
            let segments = u32::from(frame.segments());
            // What the packet socket takes no more of waits in front.
            if self.packets.is_some() && is_marked(frame) && self.link != Link::Gone {
                break;
            }
            if !self.sendable(frame) {
                self.counters.tx_refused += 1;
                self.counters.tx_refused_bytes += u64::from(frame.len());
                if let Some(frame) = outbox.pop_front() {
                    pool.free(frame);
                }
                continue;
            }
            if pending + segments > self.plan.transmit || self.rings.tx.room(segments) < segments {
                self.counters.tx_full += 1;
                break;
            }
            if let Some(frame) = outbox.pop_front() {
                self.push(frame);
                pending += segments;
                pushed += 1;
            }
        }
        if pushed > 0 {
            self.rings.tx.publish();
        }
        sent += pushed;
        sent
    }

    /// Sends what the packet socket takes; how many frames.
    #[inline]
    fn transmit_packets(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        match &mut self.packets {
            Some(packets) if self.link != Link::Gone => {
                packets.transmit(pool, outbox, &mut self.link, &mut self.counters)
            }
            _ => 0,
        }
    }

    /// Whether the kernel can take the frame: it neither completes nor skips descriptors it finds invalid.
    #[inline]
    fn sendable(&self, frame: &Frame) -> bool {
        let checksum = !frame.offload.partial_checksum
            || !self.caps.takes_partial_checksum
            || txmeta::checksum(&frame.offload, frame.bytes().len() as u16).is_some();
        self.link != Link::Gone
            && frame.is_of(&self.arena)
            && frame.segments() <= self.caps.max_segments
            && frame.len() >= ETHERNET_HEADER
            && checksum
            && frame
                .chunks()
                .all(|c| c.len > 0 && usize::from(c.offset) >= METADATA_ROOM)
    }

    /// Puts a frame into the transmit ring, which has room for it.
    #[inline]
    fn push(&mut self, mut frame: Frame) {
        let mut options = 0;
        if frame.offload.partial_checksum && self.caps.takes_partial_checksum {
            let first = frame.bytes().len() as u16;
            if let Some(metadata) = txmeta::checksum(&frame.offload, first) {
                frame.write_metadata(&metadata);
                options = libc::XDP_TX_METADATA;
            }
        }
        let mut left = frame.segments();
        for chunk in frame.chunks() {
            left -= 1;
            let more = if left > 0 { libc::XDP_PKT_CONTD } else { 0 };
            self.arena.set_owner(chunk.index, Owner::Transmit, self.id);
            let pushed = self.rings.tx.push(libc::xdp_desc {
                addr: (u64::from(chunk.index) << CHUNK_SHIFT) + u64::from(chunk.offset),
                len: chunk.len.into(),
                options: options | more,
            });
            debug_assert!(pushed, "room was checked");
            options = 0;
        }
    }

    /// [`XdpPort::kick_within`] the configured number of system calls, for who has no turns.
    pub fn kick(&mut self) -> bool {
        self.kick_within(&mut self.kicks_per_turn.clone())
    }

    /// Has the kernel send what is in the transmit ring, with at most `calls` system calls, of which it takes what it
    /// makes; true when more waits and it is worth another call next turn.
    pub fn kick_within(&mut self, calls: &mut u32) -> bool {
        if self.link == Link::Gone {
            return false;
        }
        let mut waiting = self.rings.tx.waiting();
        while *calls > 0 {
            // A device that sends without copying takes them by itself, until it says that it has stopped.
            if waiting == 0 || !self.rings.tx.needs_wakeup() {
                return waiting > 0;
            }
            *calls -= 1;
            let errno = self.socket.kick();
            let left = self.rings.tx.waiting();
            self.counters.kicks += 1;
            if !self.judge(errno, left, left < waiting) {
                return self.link == Link::Up && left > 0;
            }
            waiting = left;
        }
        waiting > 0
    }

    /// Counts a kick's outcome; true when another kick right away may send more.
    pub(super) fn judge(&mut self, errno: i32, left: u32, progress: bool) -> bool {
        let causes = &mut self.causes;
        self.link = Link::Up;
        match errno {
            0 => {
                causes.completion_full += u64::from(left > 0);
                progress
            }
            libc::EAGAIN => {
                self.counters.kicks_again += 1;
                *(if progress {
                    &mut causes.budget
                } else {
                    &mut causes.blocked
                }) += 1;
                progress
            }
            libc::EBUSY => {
                causes.device_dropped += 1;
                true
            }
            libc::ENOBUFS | libc::ENOMEM => {
                causes.no_memory += 1;
                false
            }
            libc::ENETDOWN => {
                causes.down += 1;
                self.link = Link::Down;
                false
            }
            libc::ENXIO | libc::EBADF | libc::ENODEV => {
                causes.gone += 1;
                self.link = Link::Gone;
                false
            }
            _ => {
                self.counters.kicks_failed += 1;
                false
            }
        }
    }
}
