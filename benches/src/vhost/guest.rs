// SPDX-License-Identifier: Apache-2.0
//! Two machines in one thread: one sends as fast as its queue is emptied, the other one takes what comes. Buffers stay where they are, and so do the descriptors:
//! a forwarder gives buffers back in the order in which it has taken them, as all of these do. Of each packet the machines touch what any driver has to, the header
//! in front of it, which is written or read, and the sender the packet's source port.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use podswitch_datapath::worker::clock::{Clock, cycles};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use super::frontend::{Frontend, Place};

/// Descriptors of a queue.
const SIZE: u16 = 1024;
/// Bytes of the header in front of a packet (virtio 1.2 section 5.1.6).
const HEADER: usize = 12;
/// Where it says how many buffers the packet fills.
const BUFFERS: usize = 10;
/// Bytes of a buffer.
const BUFFER: usize = 2048;
/// Where all memory is for a machine, and for its frontend.
const BASE: u64 = 1 << 30;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, and the flag of a descriptor that the device writes to.
const QUIET: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`
const NO_NOTIFY: u16 = 1;
const WRITE: u16 = 2;
/// Where the index is in either ring, and its entries.
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// Where the source port is in an IPv4 datagram, and the checksum.
const SOURCE_PORT: usize = 34;
const CHECKSUM: usize = 40;
/// The first source port.
const FIRST_PORT: u16 = 1024;

/// A queue whose buffers are all alike.
struct Queue {
    place: Place,
    buffers: usize,
    available: u16,
}

impl Queue {
    /// The parts of a queue at an offset, and where the next one may be.
    fn at(offset: usize) -> (Queue, usize) {
        let n = usize::from(SIZE);
        let (available, used) = (offset + 16 * n, offset + 20 * n);
        let buffers = offset + 32 * n;
        let queue = Queue {
            place: Place {
                size: SIZE,
                descriptors: offset as u64,
                available: available as u64,
                used: used as u64,
            },
            buffers,
            available: 0,
        };
        (queue, buffers + n * BUFFER)
    }

    fn buffer(&self, index: u16) -> usize {
        self.buffers + usize::from(index) * BUFFER
    }
}

/// A machine with one pair of queues.
struct Machine {
    file: File,
    memory: MmapRegion,
    receive: Queue,
    send: Queue,
}

impl Machine {
    fn new() -> Machine {
        let (receive, next) = Queue::at(0);
        let (send, bytes) = Queue::at(next);
        let file = File::from(memfd_create("machine", MemfdFlags::CLOEXEC).expect("a memfd"));
        ftruncate(&file, bytes as u64).expect("memory");
        let offset = FileOffset::new(file.try_clone().expect("a descriptor"), 0);
        let memory = MmapRegion::from_file(offset, bytes).expect("memory");
        Machine {
            file,
            memory,
            receive,
            send,
        }
    }

    fn words(&self) -> vm_memory::VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }

    /// Describes all buffers of a queue, as nobody has used any.
    fn describe(&mut self, sends: bool, length: usize) {
        let queue = if sends { &self.send } else { &self.receive };
        let words = self.words();
        let place = queue.place;
        for n in 0..SIZE {
            let at = place.descriptors as usize + 16 * usize::from(n);
            let flags = if sends { 0 } else { WRITE };
            let address = BASE + queue.buffer(n) as u64;
            let rest = u64::from(length as u32) | u64::from(flags) << 32;
            words.write_obj(address, at).expect("a descriptor");
            words.write_obj(rest, at + 8).expect("a descriptor");
            let entry = place.available as usize + ENTRIES + 2 * usize::from(n);
            words.write_obj(n, entry).expect("an entry");
        }
        words
            .write_obj(QUIET, place.available as usize)
            .expect("flags");
        words
            .write_obj(0u16, place.available as usize + INDEX)
            .expect("an index");
        words
            .write_obj(0u32, place.used as usize)
            .expect("an index");
        let queue = if sends {
            &mut self.send
        } else {
            &mut self.receive
        };
        queue.available = 0;
    }

    /// All buffers to receive by are the device's; how many there are.
    fn give_all(&self) -> u16 {
        let at = self.receive.place.available as usize + INDEX;
        self.words().store(SIZE, at, Release).expect("an index");
        SIZE
    }

    fn used(&self, queue: &Queue) -> u16 {
        let at = queue.place.used as usize + INDEX;
        self.words().load(at, Acquire).expect("an index")
    }
}

/// What has been counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Packets a second that the second machine received.
    pub(super) received: f64,
    /// Packets a second that were taken from the first.
    pub(super) sent: f64,
}

/// Both machines, with nothing but frames of one length.
pub(super) struct Generator {
    machines: [Machine; 2],
    frontends: [Option<Frontend>; 2],
    flows: u32,
    next: u32,
}

impl Generator {
    /// The first one sends `frame` by so many flows, which differ by source port, at most 60,000 of them.
    pub(super) fn new(frame: &[u8], flows: u32) -> Generator {
        let mut machines = [Machine::new(), Machine::new()];
        let mut frame = frame.to_vec();
        // None: ports change.
        frame[CHECKSUM..CHECKSUM + 2].fill(0);
        let sender = &mut machines[0];
        for n in 0..SIZE {
            let at = sender.send.buffer(n) + HEADER;
            sender.words().write_slice(&frame, at).expect("a buffer");
        }
        for (machine, length) in machines.iter_mut().zip([frame.len(), 0]) {
            machine.describe(true, HEADER + length);
            machine.describe(false, BUFFER);
            machine.receive.available = machine.give_all();
        }
        Generator {
            machines,
            frontends: [None, None],
            flows,
            next: 0,
        }
    }

    /// Connects both machines to a forwarder, by the socket of each.
    pub(super) fn connect(&mut self, paths: [&Path; 2]) {
        for (at, path) in paths.into_iter().enumerate() {
            let machine = &self.machines[at];
            let queues = [machine.receive.place, machine.send.place];
            let frontend = Frontend::start(path, &machine.file, BASE, &queues);
            self.frontends[at] = Some(frontend);
        }
    }

    /// Sends and receives for so many cycles.
    pub(super) fn run(&mut self, length: u64) -> Count {
        let begun = cycles();
        let (mut received, mut sent) = (0u64, 0u64);
        let end = loop {
            for _ in 0..64 {
                received += self.take();
                sent += self.send();
            }
            self.kick();
            let now = cycles();
            if now - begun >= length {
                break now;
            }
        };
        let seconds = (end - begun) as f64 / Clock::get().hertz() as f64;
        Count {
            received: received as f64 / seconds,
            sent: sent as f64 / seconds,
        }
    }

    /// Tells a forwarder that wants to be told.
    fn kick(&self) {
        for (machine, frontend) in self.machines.iter().zip(&self.frontends) {
            for (index, queue) in [&machine.receive, &machine.send].into_iter().enumerate() {
                let at = queue.place.used as usize;
                let flags: u16 = machine.words().load(at, Acquire).expect("flags");
                if flags & NO_NOTIFY == 0 {
                    frontend.iter().for_each(|f| f.kick(index));
                }
            }
        }
    }

    /// Gives every received buffer back.
    fn take(&mut self) -> u64 {
        let machine = &mut self.machines[1];
        let used = machine.used(&machine.receive);
        let available = used.wrapping_add(SIZE);
        let new = available.wrapping_sub(machine.receive.available);
        if new == 0 {
            return 0;
        }
        let words = machine.words();
        for n in 0..new {
            let index = machine.receive.available.wrapping_add(n) % SIZE;
            let at = machine.receive.buffer(index) + BUFFERS;
            let buffers: u16 = words.load(at, Relaxed).expect("a buffer");
            assert_eq!(buffers, 1, "a packet in several buffers");
        }
        let at = machine.receive.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        machine.receive.available = available;
        new.into()
    }

    /// Sends by every buffer that is free again, each in the name of the next flow.
    fn send(&mut self) -> u64 {
        let machine = &self.machines[0];
        let used = machine.used(&machine.send);
        let available = used.wrapping_add(SIZE);
        let old = machine.send.available;
        let new = available.wrapping_sub(old);
        if new == 0 {
            return 0;
        }
        let words = machine.words();
        for n in 0..new {
            let buffer = machine.send.buffer(old.wrapping_add(n) % SIZE);
            words.store(0u64, buffer, Relaxed).expect("a buffer");
            let at = buffer + HEADER + SOURCE_PORT;
            let port = FIRST_PORT.wrapping_add(self.next as u16);
            words.store(port.to_be(), at, Relaxed).expect("a buffer");
            self.next = (self.next + 1) % self.flows;
        }
        let at = machine.send.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        self.machines[0].send.available = available;
        new.into()
    }

    /// The packet that was received last, to see that it is what it should be.
    pub(super) fn received(&self, length: usize) -> Vec<u8> {
        let machine = &self.machines[1];
        let last = machine.used(&machine.receive).wrapping_sub(1) % SIZE;
        let mut packet = vec![0; length];
        let at = machine.receive.buffer(last) + HEADER;
        machine
            .words()
            .read_slice(&mut packet, at)
            .expect("a buffer");
        packet
    }
}
