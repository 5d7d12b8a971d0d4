// SPDX-License-Identifier: Apache-2.0
//! What a worker carries through the stages: packets, a batch at a time.

use std::num::NonZeroU16;

use super::Frame;
use crate::ids::{GroupId, PortId};
use crate::verdict::Verdict;
use crate::wire::Parsed;

/// Most packets of one turn of one port.
pub const BATCH_SIZE: usize = 64;

/// An address of the node, as far as it has to be told from its others, and a port: small, so that a packet is two cache lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenAs {
    // As halves, so that nothing has to be left free behind the port.
    address: [u16; 2],
    port: NonZeroU16,
}

impl SeenAs {
    /// Of an address as flow keys hold it, and a port or the identifier of an ICMP query; none of 0.
    pub fn new(address: &[u8; 16], port: u16) -> Option<SeenAs> {
        Some(SeenAs {
            address: fold(address),
            port: NonZeroU16::new(port)?,
        })
    }

    /// Of what a service's client is bound by: the number of its binding and the service's port.
    pub fn led(binding: u32, port: u16) -> Option<SeenAs> {
        Some(SeenAs {
            address: [binding as u16, (binding >> 16) as u16],
            port: NonZeroU16::new(port)?,
        })
    }

    /// The number of the binding, where it is one's.
    pub fn binding(self) -> u32 {
        u32::from(self.address[0]) | u32::from(self.address[1]) << 16
    }

    /// The port, or the identifier of an ICMP query.
    pub fn port(self) -> u16 {
        self.port.get()
    }

    /// Whether it can be this address.
    pub fn is_at(&self, address: &[u8; 16]) -> bool {
        fold(address) == self.address
    }
}

/// Differs for all IPv4 addresses.
fn fold(address: &[u8; 16]) -> [u16; 2] {
    let words = address.as_chunks::<4>().0;
    let folded = words.iter().fold(0, |sum: u32, word| {
        sum.rotate_left(7) ^ u32::from_be_bytes(*word)
    });
    [folded as u16, (folded >> 16) as u16]
}

const _: () = assert!(size_of::<Packet>() <= 128);

/// What the stages learned about a frame.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The port the frame came from; stays the same across a handoff.
    pub in_port: PortId,
    /// Set by a stage once the packet's fate is known.
    pub verdict: Verdict,
    /// Headers and flow key; meaningful once the frame was parsed without a drop.
    pub parsed: Parsed,
    /// Keyed hash of the conversation ([`FlowKey::conversation_hash`](crate::wire::FlowKey::conversation_hash)).
    pub hash: u64,
    /// What its destination was before it was translated; from then on the packet is to whom it really is.
    pub seen_as: Option<SeenAs>,
    /// The group that it was marked with in the tunnel it came through, if that is believed there.
    pub group: Option<GroupId>,
    /// What the frame is to what was parsed.
    pub course: Course,
    /// Which end of the conversation it comes from ([`FlowKey::is_from_upper`](crate::wire::FlowKey::is_from_upper)).
    pub from_upper: bool,
}

/// What a packet's frame is to what was parsed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Course {
    /// The same.
    #[default]
    Plain,
    /// The same; it may be to a service, which has not been looked at yet.
    ToLead,
    /// The same; its destination was a service's, and [`Meta::seen_as`] names the binding, of the worker of the port it came from.
    Led,
    /// Another: nothing is left to decide, whoever's port it leaves by.
    Sealed,
}

impl Meta {
    /// Whether its destination was a service's.
    #[inline(always)]
    pub fn is_led(&self) -> bool {
        self.course == Course::Led
    }

    /// Whether nothing about it is left to decide.
    #[inline(always)]
    pub fn is_sealed(&self) -> bool {
        self.course == Course::Sealed
    }
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
        let n = self.packets.len();
        let (true, Some(place)) = (
            n < BATCH_SIZE,
            self.packets.spare_capacity_mut().first_mut(),
        ) else {
            return Err(frame);
        };
        // Made where it stays.
        place.write(Packet {
            frame,
            meta: Meta {
                in_port,
                verdict: Verdict::Continue,
                parsed: Parsed::default(),
                hash: 0,
                seen_as: None,
                group: None,
                course: Course::Plain,
                from_upper: false,
            },
        });
        // SAFETY: (U1) packet n was just written.
        unsafe { self.packets.set_len(n + 1) };
        Ok(())
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

    /// Gives `f` every packet in order: the frame, and what is known about it where it lies. Moving whole packets would
    /// cost about as much as a lookup.
    #[inline]
    pub fn take_each(&mut self, mut f: impl FnMut(Frame, &Meta)) {
        let n = self.packets.len();
        // SAFETY: (U1) nothing is in the batch any more when the first frame is moved out, so each frame has one holder;
        // should `f` panic, the rest is leaked.
        unsafe { self.packets.set_len(0) };
        let first = self.packets.as_ptr();
        for i in 0..n {
            // SAFETY: (U1) the first n packets are initialised and stay where they are: `f` cannot reach the batch. Each
            // frame is read once, and what is left of a packet needs no drop.
            let (frame, meta) = unsafe {
                let packet = first.add(i);
                (std::ptr::read(&raw const (*packet).frame), &(*packet).meta)
            };
            f(frame, meta);
        }
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
