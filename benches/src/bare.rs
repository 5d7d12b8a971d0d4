// SPDX-License-Identifier: Apache-2.0
//! The least that can be between ports: what the switch is compared with.

use std::collections::VecDeque;

use nix::poll::{PollFd, PollFlags, poll};
use podswitch_datapath::PortId;
use podswitch_datapath::frame::{BATCH_SIZE, Batch, Frame, Pool};
use podswitch_datapath::port::Port;

/// Most transmit system calls for a port at a time, as a switch makes by default.
const KICKS: u32 = 4;

/// A port and the frames that wait for it.
struct Slot {
    port: Port,
    outbox: VecDeque<Frame>,
    /// The device did not take all, or is to be kicked again.
    unfinished: bool,
}

/// A loop that receives a batch from each port and sends it out of a fixed other one: 0 and 1 are each other's, 2 and 3,
/// and so on. It looks into no frame.
pub struct Bare {
    slots: Vec<Slot>,
    pool: Pool,
    batch: Batch,
    /// The port that is looked after next.
    cared_for: usize,
    /// Frames received.
    pub packets: u64,
    /// Frames that found the queue of their port full.
    pub dropped: u64,
}

impl Bare {
    /// Over an even number of ports, at least two, whose memory is in the pool.
    pub fn new(ports: impl IntoIterator<Item = Port>, pool: Pool) -> Bare {
        let slot = |port: Port| Slot {
            outbox: VecDeque::with_capacity(port.backlog() as usize + BATCH_SIZE),
            port,
            unfinished: false,
        };
        Bare {
            slots: ports.into_iter().map(slot).collect(),
            pool,
            batch: Batch::new(),
            cared_for: 0,
            packets: 0,
            dropped: 0,
        }
    }

    /// One round over all ports; whether a frame came in.
    pub fn turn(&mut self) -> bool {
        let before = self.packets;
        for at in 0..self.slots.len() {
            if self.slots[at].port.has_work() {
                self.serve(at);
            }
        }
        for at in 0..self.slots.len() {
            if self.slots[at].unfinished {
                self.flush(at);
            }
        }
        self.care();
        self.packets > before
    }

    /// As a worker does each turn: chunks back and forth for one port, which may have none left to receive into.
    fn care(&mut self) {
        self.cared_for = (self.cared_for + 1) % self.slots.len();
        self.slots[self.cared_for].port.reclaim(&mut self.pool);
    }

    fn serve(&mut self, at: usize) {
        let port = &mut self.slots[at].port;
        let id = PortId(at as u16);
        let n = port.receive(id, &mut self.pool, &mut self.batch, BATCH_SIZE);
        port.reclaim(&mut self.pool);
        if n == 0 {
            return;
        }
        self.packets += n as u64;
        let out = &mut self.slots[at ^ 1];
        let backlog = out.port.backlog() as usize;
        for packet in self.batch.drain() {
            if out.outbox.len() < backlog {
                out.outbox.push_back(packet.frame);
            } else {
                self.dropped += 1;
                self.pool.free(packet.frame);
            }
        }
        self.flush(at ^ 1);
    }

    fn flush(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.port.reclaim(&mut self.pool);
        slot.port
            .transmit(PortId(at as u16), &mut self.pool, &mut slot.outbox);
        let mut kicks = KICKS;
        slot.unfinished = slot.port.kick(&mut kicks) || !slot.outbox.is_empty();
    }

    /// Waits as a worker does that has been quiet for a while: on all sockets, shortly while chunks are owed.
    pub fn sleep(&mut self) {
        let mut owed = false;
        for slot in &mut self.slots {
            slot.port.reclaim(&mut self.pool);
            owed |= slot.unfinished || slot.port.pending() > 0 || slot.port.starved();
        }
        let fds = self.slots.iter().flat_map(|s| s.port.wait_fds());
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout: u8 = if owed { 1 } else { 50 };
        // A signal ends it early; the loop looks at everything anyway.
        let _ = poll(&mut fds, timeout);
    }

    /// Closes the ports; what is left of them is dropped here.
    pub fn close(mut self) {
        for (at, slot) in self.slots.into_iter().enumerate() {
            for frame in slot.outbox {
                self.pool.free(frame);
            }
            drop(slot.port.close(PortId(at as u16), &mut self.pool));
        }
    }
}
