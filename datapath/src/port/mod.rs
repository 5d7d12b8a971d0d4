// SPDX-License-Identifier: Apache-2.0
//! Devices frames come from and go to, behind one enum so that the loop pays a branch, not a virtual call.
//!
//! | variant | what it is |
//! |---|---|
//! | `Xdp` | AF_XDP socket on the host end of a pod's veth |
//! | `Memory` | frames in memory, for tests and benches |
//! | `Pcap` | replays a capture file in, records one out |
//! | `Fault` | another port behind loss, duplication, reorder and corruption |

use crate::verdict::Reason;

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
    /// Times the fill ring could not be kept full for want of free chunks.
    fill_starved,
    /// Received frames freed because they had more segments or bytes than a frame holds.
    rx_too_long,
    /// Received frames freed because no chunk was free to hold them.
    rx_no_memory,
    /// Frames lost on purpose.
    fault_injected,
}

impl PortCounters {
    /// How many of them are drops under a [`Reason`].
    pub const DROPS: usize = 3;

    /// Those that are drops of received frames, which no stage has seen.
    pub fn drops(&self) -> [(Reason, u64); Self::DROPS] {
        [
            (Reason::FrameTooLong, self.rx_too_long),
            (Reason::NoMemory, self.rx_no_memory),
            (Reason::FaultInjected, self.fault_injected),
        ]
    }

    /// Field by field sum.
    pub fn plus(&self, other: &PortCounters) -> PortCounters {
        let (a, b) = (self.to_array(), other.to_array());
        PortCounters::from_array(std::array::from_fn(|i| a[i].wrapping_add(b[i])))
    }
}
