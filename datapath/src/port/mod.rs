// SPDX-License-Identifier: Apache-2.0
//! Devices frames come from and go to, behind one enum so that the loop pays a branch, not a virtual call.
//!
//! | variant | what it is |
//! |---|---|
//! | `Xdp` | AF_XDP socket on the host end of a pod's veth |
//! | `Nic` | AF_XDP sockets on all queues of a NIC |
//! | `Tap` | a tap device in, that traffic control feeds, and a packet socket out: of a pod's veth or a NIC |
//! | `Vhost` | virtqueues of a virtual machine or a DPDK program |
//! | `Memory` | frames in memory, for tests and benches |
//! | `Pcap` | replays a capture file in, records one out |
//! | `Fault` | another port behind loss, duplication, reorder and corruption |

mod fault;
mod generator;
mod memory;
mod nic;
mod packet;
mod pcap;
mod tap;
pub mod vhost;
pub mod xdp;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub use fault::{FaultPlan, FaultPort, Faults, MAX_DELAY};
pub use generator::FrameSource;
pub use memory::{MEMORY_CAPS, MemoryDevice, MemoryHandle, MemoryPort};
pub use nic::NicPort;
pub use pcap::{
    Capture, MAX_REPLAY_BYTES, Pace, PcapError, PcapPort, PcapSpec, PcapStatus, RecordStatus,
};

pub use tap::{TapPort, Wire};

use crate::frame::{Arena, Batch, Frame, Pool};
use crate::ids::PortId;
use crate::verdict::Reason;
pub(crate) use packet::{is_marked as is_stream, is_whole, mark as mark_stream, mark_whole};
use vhost::{VhostDevice, VhostPort};
use xdp::{ClosingPort, XdpPort};

/// Chunks that may wait for a device which has no plan of its own.
const BACKLOG: u32 = 512;

/// What a port can do; asked once when it is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Frames from this port come from memory of this node, so a transport checksum that equals the pseudo-header sum
    /// is partial and is filled or passed on. Never true for a real wire: refilling would launder corruption.
    pub local_sender: bool,
    /// The sender leaves segmentation to its device: a TCP packet of it may be one or many segments, and nothing says how
    /// long they were to be. So it is with a pod's veth in generic XDP mode.
    pub superframes: bool,
    /// Transmit passes a partial checksum on to the receiver (AF_XDP transmit metadata, a virtio-net header).
    pub takes_partial_checksum: bool,
    /// Transmit sends TCP by a way of its own, on which segments of a connection leave together, checksums are passed on and
    /// frames may be of any arena ([`packet`]).
    pub joins_segments: bool,
    /// Transmit takes all frames so, of any arena: the kernel copies them.
    pub takes_any_arena: bool,
    /// Transmit takes frames with bytes that are lent ([`Pool::fetch`]).
    pub takes_lent: bool,
    /// Most segments of a frame it transmits.
    pub max_segments: u8,
    /// The VLAN that its frames are of: each has the tag on the wire, and none within the switch. `None`: they have no tag. Of uplinks.
    pub vlan: Option<u16>,
}

/// Whether the device under a port can be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Link {
    /// As far as the last transmission knows.
    #[default]
    Up,
    /// The interface is set down; frames wait, the next transmission looks again.
    Down,
    /// The interface was deleted; it does not come back.
    Gone,
}

macro_rules! port_counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counters that a port keeps itself, since it was opened.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct PortCounters { $($(#[$doc])* pub $field: u64,)* }

        impl PortCounters {
            /// How many counters there are.
            pub const FIELDS: usize = [$(stringify!($field),)*].len();
            /// Their names, in the order of [`PortCounters::to_array`].
            pub const NAMES: [&'static str; Self::FIELDS] = [$(stringify!($field),)*];

            /// The values in a fixed order.
            pub fn to_array(&self) -> [u64; Self::FIELDS] {
                [$(self.$field,)*]
            }

            /// The other way round.
            pub fn from_array(values: [u64; Self::FIELDS]) -> PortCounters {
                let [$($field,)*] = values;
                PortCounters { $($field,)* }
            }
        }
    };
}

port_counters! {
    /// Transmit system calls.
    kicks,
    /// Kicks answered EAGAIN: budget, send buffer or completion ring full.
    kicks_again,
    /// Kicks answered with an error that is not EAGAIN, EBUSY or ENOBUFS.
    kicks_failed,
    /// Frames the port took no more of because its transmit queue was full.
    tx_full,
    /// TCP segments sent together with others of their connection, as one superframe.
    tx_joined,
    /// Times the fill ring could not be kept full for want of free chunks.
    fill_starved,
    /// Received frames freed because they had more segments or bytes than a frame holds.
    rx_too_long,
    /// Received frames freed because no chunk was free to hold them.
    rx_no_memory,
    /// Packets given back unread, as their queue was disabled.
    rx_disabled,
    /// Descriptors from the kernel that named no chunk it was given, or bytes outside one.
    rx_invalid,
    /// Frames freed instead of sent: no device takes them (too short, no room for metadata) or the device is gone.
    tx_refused,
    /// Bytes of those frames.
    tx_refused_bytes,
    /// Frames lost on purpose.
    fault_injected,
    /// Frames sent that were not recorded: the disk was too slow, or recording has stopped.
    record_lost,
}

impl PortCounters {
    /// How many of them are drops under a [`Reason`].
    pub const DROPS: usize = 5;

    /// Those that are drops of frames, which no stage has seen or can do anything about.
    pub fn drops(&self) -> [(Reason, u64); Self::DROPS] {
        [
            (Reason::FrameTooLong, self.rx_too_long),
            (Reason::NoMemory, self.rx_no_memory),
            (Reason::QueueDisabled, self.rx_disabled),
            (Reason::TxLinkError, self.tx_refused),
            (Reason::FaultInjected, self.fault_injected),
        ]
    }

    /// Field by field sum.
    pub fn plus(&self, other: &PortCounters) -> PortCounters {
        let (a, b) = (self.to_array(), other.to_array());
        PortCounters::from_array(std::array::from_fn(|i| a[i].wrapping_add(b[i])))
    }
}

/// A device. Its methods are for the worker that it belongs to; frames it is given are of its arena.
#[derive(Debug)]
pub enum Port {
    /// AF_XDP.
    Xdp(Box<XdpPort>),
    /// AF_XDP on every queue of a NIC.
    Nic(Box<NicPort>),
    /// A tap device and a packet socket.
    Tap(Box<TapPort>),
    /// Virtqueues.
    Vhost(Box<VhostPort>),
    /// Frames in memory.
    Memory(MemoryPort),
    /// Capture files.
    Pcap(Box<PcapPort>),
    /// Another port behind faults.
    Fault(Box<FaultPort>),
}

/// What is left of a port; control drops it, which may take time.
#[derive(Debug)]
#[must_use = "dropping it closes files and waits for them: on the control thread"]
pub enum Closed {
    /// Nothing.
    Nothing,
    /// Sockets to be closed; their chunks are settled afterwards ([`xdp::Released::settle`]).
    Xdp(Box<ClosingPort>),
    /// Files, of which one may still be written.
    Pcap(Box<PcapPort>),
    /// A device that goes with its descriptor.
    Tap(OwnedFd),
    /// The end of a guest's port, with memory of the guest.
    Vhost(Box<VhostDevice>),
}

impl Port {
    /// The memory its frames live in.
    #[inline]
    pub fn arena(&self) -> &Arc<Arena> {
        match self {
            Port::Xdp(p) => p.arena(),
            Port::Nic(p) => p.arena(),
            Port::Tap(p) => p.arena(),
            Port::Vhost(p) => p.arena(),
            Port::Memory(p) => p.arena(),
            Port::Pcap(p) => p.arena(),
            Port::Fault(p) => p.inner().arena(),
        }
    }

    /// What it can do.
    #[inline]
    pub fn caps(&self) -> Caps {
        match self {
            Port::Xdp(p) => p.caps(),
            Port::Nic(p) => p.caps(),
            Port::Tap(p) => p.caps(),
            Port::Vhost(p) => p.caps(),
            Port::Memory(p) => p.caps(),
            Port::Pcap(p) => p.caps(),
            // It keeps frames.
            Port::Fault(p) => Caps {
                takes_lent: false,
                ..p.inner().caps()
            },
        }
    }

    /// Adds up to `budget` frames that have come in to `batch` and says how many.
    #[inline]
    pub fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        match self {
            Port::Xdp(p) => p.receive(id, pool, batch, budget),
            Port::Nic(p) => p.receive(id, pool, batch, budget),
            Port::Tap(p) => p.receive(id, pool, batch, budget),
            Port::Vhost(p) => p.receive(id, pool, batch, budget),
            Port::Memory(p) => p.receive(id, pool, batch, budget),
            Port::Pcap(p) => p.receive(id, pool, batch, budget),
            Port::Fault(p) => p.receive(id, pool, batch, budget),
        }
    }

    /// The frames that were received last are on their way, dropped, or [fetched](Pool::fetch): what they came in goes back to the sender. To be called after each
    /// [`Port::receive`]. Whether there was anything, also where no frame has come of it.
    #[inline]
    pub fn release(&mut self, pool: &mut Pool) -> bool {
        match self {
            Port::Vhost(p) => p.release(pool),
            Port::Fault(p) => p.inner_mut().release(pool),
            Port::Xdp(_) | Port::Nic(_) | Port::Tap(_) | Port::Memory(_) | Port::Pcap(_) => false,
        }
    }

    /// Whether it takes TCP superframes longer than its MTU, which it or its device cuts ([`packet`]); may change with each transmission.
    #[inline]
    pub fn takes_superframes(&self) -> bool {
        match self {
            Port::Xdp(p) => p.takes_superframes(),
            Port::Nic(p) => p.takes_superframes(),
            Port::Tap(p) => p.takes_superframes(),
            Port::Vhost(p) => p.takes_superframes(),
            Port::Memory(_) | Port::Pcap(_) => false,
            Port::Fault(p) => p.inner().takes_superframes(),
        }
    }

    /// Takes as many frames off the front of `outbox` as its transmit queue has room for and says how many.
    #[inline]
    pub fn transmit(&mut self, id: PortId, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        match self {
            Port::Xdp(p) => p.transmit(id, pool, outbox),
            Port::Nic(p) => p.transmit(id, pool, outbox),
            Port::Tap(p) => p.transmit(pool, outbox),
            Port::Vhost(p) => p.transmit(pool, outbox),
            Port::Memory(p) => p.transmit(pool, outbox),
            Port::Pcap(p) => p.transmit(pool, outbox),
            Port::Fault(p) => p.transmit(id, pool, outbox),
        }
    }

    /// Makes the device send what it was given, with at most `calls` system calls, of which it takes what it makes. True
    /// when more is left to do, so that it is to be called again next turn.
    #[inline]
    pub fn kick(&mut self, calls: &mut u32) -> bool {
        match self {
            Port::Xdp(p) => p.kick_within(calls),
            Port::Nic(p) => p.kick(calls),
            Port::Memory(_) | Port::Tap(_) | Port::Vhost(_) => false,
            Port::Pcap(p) => p.kick(),
            Port::Fault(p) => p.kick(calls),
        }
    }

    /// Takes back chunks of frames that were sent, and gives the device chunks to receive into.
    #[inline]
    pub fn reclaim(&mut self, pool: &mut Pool) {
        match self {
            Port::Xdp(p) => p.reclaim(pool),
            Port::Nic(p) => p.reclaim(pool),
            Port::Memory(_) | Port::Pcap(_) | Port::Tap(_) | Port::Vhost(_) => {}
            Port::Fault(p) => p.inner_mut().reclaim(pool),
        }
    }

    /// Frames or descriptors the device has been given to send and has not finished.
    #[inline]
    pub fn pending(&self) -> u32 {
        match self {
            Port::Xdp(p) => p.pending(),
            Port::Nic(p) => p.pending(),
            Port::Memory(_) | Port::Pcap(_) | Port::Tap(_) | Port::Vhost(_) => 0,
            Port::Fault(p) => p.pending(),
        }
    }

    /// Whether the device has fewer chunks to receive into than it should, for want of free ones. A worker must not sleep
    /// for long then: chunks that come back wake nobody.
    #[inline]
    pub fn starved(&self) -> bool {
        match self {
            Port::Xdp(p) => p.starved(),
            Port::Nic(p) => p.starved(),
            Port::Tap(p) => p.starved(),
            Port::Vhost(p) => p.starved(),
            Port::Memory(_) | Port::Pcap(_) => false,
            Port::Fault(p) => p.inner().starved(),
        }
    }

    /// Most chunks that should wait for the device to take them, so that a slow receiver does not hold the others'.
    pub fn backlog(&self) -> u32 {
        match self {
            Port::Xdp(p) => p.plan().backlog,
            Port::Nic(p) => p.backlog(),
            Port::Tap(p) => p.backlog(),
            Port::Vhost(p) => p.backlog(),
            Port::Memory(_) | Port::Pcap(_) => BACKLOG,
            Port::Fault(p) => p.inner().backlog(),
        }
    }

    /// Whether the device can be used.
    pub fn link(&self) -> Link {
        match self {
            Port::Xdp(p) => p.link(),
            Port::Nic(p) => p.link(),
            Port::Tap(p) => p.link(),
            Port::Vhost(p) => p.link(),
            Port::Memory(_) | Port::Pcap(_) => Link::Up,
            Port::Fault(p) => p.inner().link(),
        }
    }

    /// Each is readable when frames wait; none when a worker need not wake for this device.
    pub fn wait_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let device = match self {
            Port::Fault(p) => p.innermost(),
            port => port,
        };
        let (one, queues) = match device {
            Port::Xdp(p) => (Some(p.wait_fd()), &[][..]),
            Port::Nic(p) => (None, p.queues()),
            Port::Tap(p) => (Some(p.descriptor()), &[][..]),
            Port::Vhost(p) => (Some(p.wait_fd()), &[][..]),
            Port::Memory(p) => (p.wait_fd(), &[][..]),
            Port::Pcap(_) | Port::Fault(_) => (None, &[][..]),
        };
        one.into_iter().chain(queues.iter().map(XdpPort::wait_fd))
    }

    /// Its descriptor, if nothing else tells that frames wait: when it is readable, [`Port::announce`] is to be called.
    pub fn announcer(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Port::Tap(p) => Some(p.descriptor()),
            Port::Fault(p) => p.inner().announcer(),
            Port::Xdp(_) | Port::Nic(_) | Port::Vhost(_) | Port::Memory(_) | Port::Pcap(_) => None,
        }
    }

    /// Its [announcer](Port::announcer) is readable.
    #[inline]
    pub fn announce(&mut self) {
        match self {
            Port::Tap(p) => p.announce(),
            Port::Fault(p) => p.inner_mut().announce(),
            Port::Xdp(_) | Port::Nic(_) | Port::Vhost(_) | Port::Memory(_) | Port::Pcap(_) => {}
        }
    }

    /// The worker is about to sleep, and will look once more whether frames wait: from now on its [descriptors](Port::wait_fds) have to say so. `frames_wait`:
    /// frames wait for the device, too, which says when it takes more.
    #[inline]
    pub fn doze(&mut self, frames_wait: bool) {
        match self {
            Port::Vhost(p) => p.doze(frames_wait),
            Port::Fault(p) => p.inner_mut().doze(frames_wait),
            Port::Xdp(_) | Port::Nic(_) | Port::Tap(_) | Port::Memory(_) | Port::Pcap(_) => {}
        }
    }

    /// Time until frames will wait that no descriptor announces; `None` when none are expected.
    pub fn due_in(&self) -> Option<Duration> {
        match self {
            Port::Xdp(_) | Port::Nic(_) | Port::Tap(_) | Port::Vhost(_) | Port::Memory(_) => None,
            Port::Pcap(p) => p.due_in(),
            Port::Fault(p) => p.inner().due_in(),
        }
    }

    /// Whether frames wait now.
    #[inline]
    pub fn has_work(&self) -> bool {
        match self {
            Port::Xdp(p) => p.has_work(),
            Port::Nic(p) => p.has_work(),
            Port::Tap(p) => p.has_work(),
            Port::Vhost(p) => p.has_work(),
            Port::Memory(p) => p.has_work(),
            Port::Pcap(p) => p.due_in() == Some(Duration::ZERO),
            Port::Fault(p) => p.has_work(),
        }
    }

    /// What the device has counted.
    pub fn counters(&self) -> PortCounters {
        match self {
            Port::Xdp(p) => p.counters(),
            Port::Nic(p) => p.counters(),
            Port::Tap(p) => p.counters(),
            Port::Vhost(p) => p.counters(),
            Port::Memory(p) => p.counters(),
            Port::Pcap(p) => p.counters(),
            Port::Fault(p) => p.counters(),
        }
    }

    /// Gives its chunks back to the pool and the rest to control.
    pub fn close(self, id: PortId, pool: &mut Pool) -> Closed {
        match self {
            Port::Xdp(p) => Closed::Xdp(Box::new(p.close(id, pool))),
            Port::Nic(p) => Closed::Xdp(Box::new(p.close(id, pool))),
            Port::Tap(p) => Closed::Tap(p.close(pool)),
            Port::Vhost(p) => Closed::Vhost(Box::new(p.close())),
            Port::Memory(p) => {
                p.close(pool);
                Closed::Nothing
            }
            Port::Pcap(p) => Closed::Pcap(p),
            Port::Fault(p) => p.close(id, pool),
        }
    }
}

/// Puts a frame into a batch that has room for it.
#[inline]
fn give(batch: &mut Batch, frame: Frame, id: PortId, pool: &mut Pool) {
    if let Err(frame) = batch.push(frame, id) {
        pool.free(frame);
    }
}
