// SPDX-License-Identifier: Apache-2.0
//! Devices frames come from and go to, behind one enum so that the loop pays a branch, not a virtual call.
//!
//! | variant | what it is |
//! |---|---|
//! | `Xdp` | AF_XDP socket on the host end of a pod's veth |
//! | `Memory` | frames in memory, for tests and benches |
//! | `Pcap` | replays a capture file in, records one out |
//! | `Fault` | another port behind loss, duplication, reorder and corruption |

/// What a port can do; asked once when it is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Frames from this port come from memory of this node, so a transport checksum that equals the pseudo-header sum
    /// is partial and is filled or passed on. Never true for a wire: refilling would launder corruption.
    pub local_sender: bool,
    /// Transmit passes a partial checksum on to the receiver (AF_XDP transmit metadata, a virtio-net header).
    pub takes_partial_checksum: bool,
    /// Most segments of a frame it transmits.
    pub max_segments: u8,
}

/// Counters that a port keeps itself, since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCounters {
    /// Transmit system calls.
    pub kicks: u64,
    /// Kicks answered EAGAIN: budget, send buffer or completion ring full.
    pub kicks_again: u64,
    /// Kicks answered with an error that is not EAGAIN, EBUSY or ENOBUFS.
    pub kicks_failed: u64,
    /// Frames the port took no more of because its transmit queue was full.
    pub tx_full: u64,
    /// Times the fill ring could not be kept full for want of free chunks.
    pub fill_starved: u64,
}
