// SPDX-License-Identifier: Apache-2.0
//! What a worker carries through the stages: packets, a batch at a time.
#![forbid(unsafe_code)]

use super::Frame;
use crate::ids::PortId;
use crate::verdict::Verdict;
use crate::wire::Parsed;

/// Most packets of one turn of one port.
pub const BATCH_SIZE: usize = 64;

/// What the stages learned about a frame.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The port the frame came from; stays the same across a handoff.
    pub in_port: PortId,
    /// Set by a stage once the packet's fate is known.
    pub verdict: Verdict,
    /// Headers and flow key; meaningful once the parse stage has run without a drop.
    pub parsed: Parsed,
    /// Keyed hash of the flow key.
    pub hash: u64,
}

/// A frame and what is known about it.
#[derive(Debug)]
pub struct Packet {
    /// The bytes.
    pub frame: Frame,
    /// The knowledge.
    pub meta: Meta,
}

/// Up to [`BATCH_SIZE`] packets; its memory is taken once.
#[derive(Debug)]
pub struct Batch {
    packets: Vec<Packet>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch {
            packets: Vec::with_capacity(BATCH_SIZE),
        }
    }

    /// How many more packets fit.
    #[inline]
    pub fn room(&self) -> usize {
        BATCH_SIZE - self.packets.len()
    }

    /// Adds a frame that came from `in_port`; gives it back when the batch is full.
    #[inline]
    pub fn push(&mut self, frame: Frame, in_port: PortId) -> Result<(), Frame> {
        self.push_packet(Packet {
            frame,
            meta: Meta {
                in_port,
                verdict: Verdict::Continue,
                parsed: Parsed::default(),
                hash: 0,
            },
        })
        .map_err(|p| p.frame)
    }

    /// Adds a packet with its knowledge (handoff); gives it back when the batch is full.
    #[inline]
    pub fn push_packet(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.packets.len() == BATCH_SIZE {
            return Err(packet);
        }
        self.packets.push(packet);
        Ok(())
    }

    /// Takes every packet out.
    #[inline]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Packet> {
        self.packets.drain(..)
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl std::ops::Deref for Batch {
    type Target = [Packet];
    #[inline]
    fn deref(&self) -> &[Packet] {
        &self.packets
    }
}

impl std::ops::DerefMut for Batch {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Packet] {
        &mut self.packets
    }
}
