// SPDX-License-Identifier: Apache-2.0
//! How much memory ports get: pure arithmetic, so that the daemon, the tests and the documentation say the same.
#![forbid(unsafe_code)]

use crate::frame::{CHUNK_SIZE, HEADROOM, MAX_SEGMENTS};

/// Entries of a socket's four rings; each is a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSizes {
    /// Receive descriptors (16 bytes each).
    pub rx: u32,
    /// Transmit descriptors (16 bytes each, and 16 more of kernel memory).
    pub tx: u32,
    /// Chunks to receive into (8 bytes each).
    pub fill: u32,
    /// Chunks sent (8 bytes each).
    pub completion: u32,
}

/// What one port may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortPlan {
    /// Most chunks the kernel holds for the port to receive into, received and not yet taken ones included.
    pub fill: u32,
    /// Most chunks the kernel holds for the port to transmit.
    pub transmit: u32,
    /// Most chunks that should wait in userspace to be sent by the port.
    pub backlog: u32,
    /// The socket's rings. Receive and completion ring hold as much as the kernel can put in under these caps, so
    /// neither ever overflows.
    pub rings: RingSizes,
}

/// Sizes of an arena and of the ports in it.
///
/// A port of MTU 1500 costs 216 chunks (864 KiB) of its arena, 128 bytes of kernel memory for every chunk of the arena
/// (`struct xdp_buff_xsk`, net/xdp/xsk_buff_pool.c; the array is rounded up to a power of two) and some 30 KiB of rings:
/// 1.4 MiB when the arena has 16 ports, all used. Chunks beyond the caps of [`PortPlan`] are the room for frames on their
/// way between ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaPlan {
    /// How many ports share the arena.
    pub ports: u32,
    /// How many chunks the arena has.
    pub chunks: u32,
    /// What each port may hold.
    pub port: PortPlan,
}

/// Fewest chunks a port receives into: what a pod may send while the worker serves others.
const FILL_FLOOR: u32 = 144;
/// Frames of the port's MTU that fit what it receives into.
const FILL_FRAMES: u32 = 11;
/// Kernel memory per chunk of the arena and socket bound to it.
const HEAD_BYTES: u64 = 128;
/// Chunks that a queue of a NIC receives into: full frames of 1500 bytes for 2.4 ms at 10 Gb/s, while the worker wakes or
/// serves its pods. Nobody slows a wire down, as a full fill ring does a pod.
const NIC_FILL: u32 = 2048;
/// Chunks that all of its queues receive into, when they are many; each then has fewer, but not below [`FILL_FLOOR`].
const NIC_FILL_ALL: u32 = 16_384;
/// Chunks that a NIC transmits, and that wait to be.
const NIC_TRANSMIT: u32 = 1024;
/// Transmit descriptors of a queue that only receives: the least that takes all options.
const NO_TRANSMIT: u32 = 64;

impl ArenaPlan {
    /// The plan for `ports` ports (at least one is assumed) whose pods send packets of up to `mtu` bytes.
    pub fn new(mtu: u32, ports: u32) -> ArenaPlan {
        let port = PortPlan::new(mtu);
        let ports = ports.max(1);
        let wanted = ports * (port.fill + port.fill / 2);
        // A little less is taken where that halves what the kernel allocates for each socket.
        let below = 1 << wanted.ilog2();
        let chunks = if below >= ports * (port.fill + port.fill / 4) {
            below
        } else {
            wanted
        };
        ArenaPlan {
            ports,
            chunks,
            port,
        }
    }

    /// How many ports the arena made after `earlier` others of the same worker is for: 3, 5, 8, then 16 each. Frames
    /// are copied between arenas and not within one, but an arena is paid for in full when its first port comes.
    pub fn ports_of_next(earlier: usize) -> u32 {
        match earlier {
            0 => 3,
            1 => 5,
            2 => 8,
            _ => 16,
        }
    }

    /// Bytes of memory when `open` of its ports are: the arena, what the kernel keeps for each chunk and socket, and
    /// the rings.
    pub fn bytes(&self, open: u32) -> u64 {
        let chunks = u64::from(self.chunks) * CHUNK_SIZE as u64;
        chunks + u64::from(open) * (heads(self.chunks) + self.port.rings.bytes())
    }
}

impl PortPlan {
    /// The plan for a port whose pod sends packets of up to `mtu` bytes.
    pub fn new(mtu: u32) -> PortPlan {
        let fill = FILL_FLOOR.max(segments(mtu) * FILL_FRAMES);
        let ring = fill.next_power_of_two();
        PortPlan {
            fill,
            transmit: fill,
            backlog: fill,
            rings: RingSizes {
                rx: ring,
                tx: ring,
                fill: ring,
                completion: ring,
            },
        }
    }
}

/// Sizes of a NIC's port: a socket for each queue, of which one transmits, in an arena of their own. Pods' sockets
/// would have to be charged for all of its chunks otherwise; frames are copied once on their way between it and them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NicPlan {
    /// How many queues it has.
    pub queues: u32,
    /// The queue that transmits.
    pub sender: u32,
    /// What that one may hold.
    pub sending: PortPlan,
    /// What each other one may hold.
    pub other: PortPlan,
}

impl NicPlan {
    /// The plan for a NIC of `queues` receive queues (at least one is assumed), of which these are to be in zero-copy mode. One of them transmits,
    /// if there are any, else the first queue.
    pub fn new(queues: u32, zero_copy: &[u32]) -> NicPlan {
        let queues = queues.max(1);
        let fill = (NIC_FILL_ALL / queues).clamp(FILL_FLOOR, NIC_FILL);
        let plan = |transmit: u32, descriptors: u32| PortPlan {
            fill,
            transmit,
            backlog: transmit,
            rings: RingSizes {
                rx: fill.next_power_of_two(),
                tx: descriptors,
                fill: fill.next_power_of_two(),
                completion: descriptors,
            },
        };
        NicPlan {
            queues,
            sender: zero_copy.iter().copied().min().unwrap_or(0),
            sending: plan(NIC_TRANSMIT, NIC_TRANSMIT),
            other: plan(0, NO_TRANSMIT),
        }
    }

    /// What a queue may hold.
    pub fn of(&self, queue: u32) -> PortPlan {
        match queue == self.sender {
            true => self.sending,
            false => self.other,
        }
    }

    /// How many chunks its arena has.
    pub fn chunks(&self) -> u32 {
        self.sending.fill * self.queues + self.sending.transmit + self.sending.backlog
    }

    /// Bytes of memory, as [`ArenaPlan::bytes`] counts them.
    pub fn bytes(&self) -> u64 {
        let others = self.other.rings.bytes() * u64::from(self.queues - 1);
        let rings = self.sending.rings.bytes() + others;
        u64::from(self.chunks()) * CHUNK_SIZE as u64
            + u64::from(self.queues) * heads(self.chunks())
            + rings
    }
}

/// Bytes that the kernel keeps for the chunks of an arena, for each socket.
fn heads(chunks: u32) -> u64 {
    (u64::from(chunks) * HEAD_BYTES).next_power_of_two()
}

impl RingSizes {
    /// Bytes of the rings, with what the kernel mirrors.
    fn bytes(&self) -> u64 {
        let page = |bytes: u32| u64::from(bytes).next_multiple_of(4096);
        // Each ring begins with three cache line pairs of indices; the kernel mirrors transmit descriptors.
        let ring = 384;
        page(ring + self.rx * 16)
            + page(ring + self.tx * 16)
            + page(ring + self.fill * 8)
            + page(ring + self.completion * 8)
            + u64::from(self.tx * 16)
    }
}

/// Ethernet header and two VLAN tags.
const LINK_HEADERS: u32 = 14 + 2 * 4;
/// Largest MTU whose frames fit a chunk each.
pub const MAX_CHUNK_MTU: u32 = (CHUNK_SIZE - HEADROOM) as u32 - LINK_HEADERS;

/// Chunks that a frame around a packet of `mtu` bytes takes when it is received: Ethernet header and two VLAN tags on
/// top, split after what a chunk holds behind its headroom.
pub fn segments(mtu: u32) -> u32 {
    let per_chunk = (CHUNK_SIZE - HEADROOM) as u32;
    mtu.saturating_add(LINK_HEADERS)
        .div_ceil(per_chunk)
        .clamp(1, MAX_SEGMENTS.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_the_mtu() {
        for (mtu, expected) in [
            (0, 1),
            (68, 1),
            (1500, 1),
            (MAX_CHUNK_MTU, 1),
            (MAX_CHUNK_MTU + 1, 2),
            (9000, 3),
            (65_535, 18),
            (u32::MAX, 18),
        ] {
            assert_eq!(segments(mtu), expected, "MTU {mtu}");
        }
    }

    #[test]
    fn rings_hold_what_the_caps_allow() {
        for mtu in [68, 1500, 9000, 65_535] {
            let plan = PortPlan::new(mtu);
            for size in [
                plan.rings.rx,
                plan.rings.tx,
                plan.rings.fill,
                plan.rings.completion,
            ] {
                assert!(size.is_power_of_two());
            }
            assert!(plan.rings.fill >= plan.fill && plan.rings.rx >= plan.fill);
            assert!(plan.rings.tx >= plan.transmit && plan.rings.completion >= plan.transmit);
            assert!(plan.fill >= 2 * segments(mtu) && plan.transmit >= 2 * segments(mtu));
        }
    }

    #[test]
    fn every_port_can_be_filled_with_room_to_spare() {
        for mtu in [1500, 9000, 65_535] {
            for ports in [1, 4, 16, 32] {
                let plan = ArenaPlan::new(mtu, ports);
                assert!(plan.chunks >= ports * plan.port.fill + plan.port.transmit / 4);
                assert!(plan.chunks <= crate::frame::MAX_CHUNKS);
            }
        }
        assert_eq!(ArenaPlan::new(1500, 0), ArenaPlan::new(1500, 1));
    }

    #[test]
    fn a_nic_of_many_queues_has_room_for_all_and_a_bound() {
        for queues in [0, 1, 2, 8, 16, 64, 128] {
            let plan = NicPlan::new(queues, &[]);
            assert_eq!(plan.queues, queues.max(1));
            for queue in 0..plan.queues {
                let p = plan.of(queue);
                assert!(p.rings.rx >= p.fill && p.rings.fill >= p.fill && p.fill >= FILL_FLOOR);
                assert!(p.rings.tx >= p.transmit && p.rings.completion >= p.transmit);
                assert!(p.rings.tx >= 32, "the least transmit budget");
            }
            assert!(plan.chunks() >= plan.queues * plan.sending.fill + plan.sending.transmit);
            assert!(plan.chunks() <= crate::frame::MAX_CHUNKS);
            let most = if queues <= 8 { 128 << 20 } else { 5 << 27 };
            assert!(
                plan.bytes() <= most,
                "{queues} queues: {} bytes",
                plan.bytes()
            );
        }
        assert_eq!(NicPlan::new(1, &[]).chunks(), 4096);
    }

    #[test]
    fn a_queue_that_is_not_copied_sends() {
        let plan = NicPlan::new(4, &[3, 2]);
        assert_eq!(plan.sender, 2);
        let sends = |queue: &u32| plan.of(*queue).transmit > 0;
        assert_eq!((0..4).filter(sends).collect::<Vec<_>>(), [2]);
        assert_eq!(NicPlan::new(4, &[]).sender, 0);
        assert_eq!(plan.chunks(), NicPlan::new(4, &[]).chunks());
    }

    #[test]
    fn two_ports_and_a_hundred_cost_two_mebibytes_each_at_most() {
        for (mtu, wanted) in [
            (1500u32, 2u32),
            (1500, 4),
            (1500, 5),
            (1500, 9),
            (1500, 17),
            (1500, 100),
            (65_535, 100),
        ] {
            let (mut left, mut bytes, mut arenas) = (wanted, 0, 0);
            while left > 0 {
                let plan = ArenaPlan::new(mtu, ArenaPlan::ports_of_next(arenas));
                let open = left.min(plan.ports);
                bytes += plan.bytes(open);
                left -= open;
                arenas += 1;
            }
            let per_port = bytes / u64::from(wanted);
            assert!(
                per_port <= 2 << 20,
                "{wanted} ports of MTU {mtu}: {per_port} bytes each"
            );
        }
    }
}
