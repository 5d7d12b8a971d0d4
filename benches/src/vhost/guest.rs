// SPDX-License-Identifier: Apache-2.0
//! Two machines in one thread: one sends as fast as its queue is emptied, the other one takes what comes. Buffers stay where they are, and so do the descriptors:
//! a forwarder gives buffers back in the order in which it has taken them, as all of these do. Of each packet the machines touch what any driver has to, the header
//! in front of it, which is written or read, and the sender the packet's source port. The destination port is the buffer's.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use podswitch_datapath::worker::clock::{Clock, cycles};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use super::frontend::{Frontend, Place};
use super::load::{DESTINATIONS, HEADER, Load, PORTS, STAMP};
use crate::traffic::SERVICE;

/// Descriptors of a queue, and of one that superframes are sent by.
const SIZE: u16 = 1024;
const FEW: u16 = 256;
const _: () = assert!(SIZE.is_multiple_of(DESTINATIONS) && FEW.is_multiple_of(DESTINATIONS));
/// Where the header says how many buffers a packet fills.
const BUFFERS: usize = 10;
/// Bytes between buffers are a multiple of this.
const LINE: usize = 2048;
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
/// The first source port.
const FIRST_PORT: u16 = 1024;
/// How long nothing arrives when nothing is on its way any more, and how long that may take, in seconds.
const QUIET_FOR: f64 = 0.003;
const DRAINED: f64 = 2.0;

/// A queue whose buffers are all alike.
struct Queue {
    place: Place,
    buffers: usize,
    /// Bytes of each.
    room: usize,
    available: u16,
}

impl Queue {
    /// The parts of a queue at an offset, and where the next one may be.
    fn at(offset: usize, size: u16, room: usize) -> (Queue, usize) {
        let n = usize::from(size);
        let (available, used) = (offset + 16 * n, offset + 20 * n);
        let buffers = (offset + 32 * n).next_multiple_of(LINE);
        let room = room.next_multiple_of(LINE);
        let queue = Queue {
            place: Place {
                size,
                descriptors: offset as u64,
                available: available as u64,
                used: used as u64,
            },
            buffers,
            room,
            available: 0,
        };
        (queue, buffers + n * room)
    }

    fn size(&self) -> u16 {
        self.place.size
    }

    fn buffer(&self, index: u16) -> usize {
        self.buffers + usize::from(index % self.size()) * self.room
    }
}

/// A machine with one pair of queues.
pub(super) struct Machine {
    file: File,
    memory: MmapRegion,
    receive: Queue,
    send: Queue,
    frontend: Option<Frontend>,
}

impl Machine {
    /// All buffers to receive by are the device's as soon as it is connected.
    pub(super) fn new(load: &Load) -> Machine {
        let size = if load.is_whole() { FEW } else { SIZE };
        let (receive, next) = Queue::at(0, SIZE, load.buffer);
        let (send, bytes) = Queue::at(next, size, HEADER + load.frame.len());
        let file = File::from(memfd_create("machine", MemfdFlags::CLOEXEC).expect("a memfd"));
        ftruncate(&file, bytes as u64).expect("memory");
        let offset = FileOffset::new(file.try_clone().expect("a descriptor"), 0);
        let memory = MmapRegion::from_file(offset, bytes).expect("memory");
        let mut machine = Machine {
            file,
            memory,
            receive,
            send,
            frontend: None,
        };
        machine.describe(&machine.send, 0, HEADER + load.frame.len());
        machine.describe(&machine.receive, WRITE, load.buffer);
        let at = machine.receive.place.available as usize + INDEX;
        machine.words().store(SIZE, at, Release).expect("an index");
        machine.receive.available = SIZE;
        machine
    }

    /// Connects it to a forwarder.
    pub(super) fn connect(&mut self, path: &Path, features: u64) {
        let queues = [self.receive.place, self.send.place];
        self.frontend = Some(Frontend::start(path, &self.file, BASE, features, &queues));
    }

    fn words(&self) -> vm_memory::VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }

    /// Describes all buffers of a queue, as nobody has used any.
    fn describe(&self, queue: &Queue, flags: u16, length: usize) {
        let words = self.words();
        let place = queue.place;
        for n in 0..queue.size() {
            let at = place.descriptors as usize + 16 * usize::from(n);
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
    }

    /// Puts a packet into every buffer to send by, each for a destination port of its own.
    fn fill(&self, load: &Load) {
        for n in 0..self.send.size() {
            let (words, at) = (self.words(), self.send.buffer(n));
            words.write_slice(&load.header, at).expect("a buffer");
            words
                .write_slice(&load.frame, at + HEADER)
                .expect("a buffer");
            let port = SERVICE + n % load.destinations;
            words
                .write_slice(&port.to_be_bytes(), at + HEADER + PORTS + 2)
                .expect("a buffer");
        }
    }

    fn used(&self, queue: &Queue) -> u16 {
        let at = queue.place.used as usize + INDEX;
        self.words().load(at, Acquire).expect("an index")
    }

    /// Tells a forwarder that wants to be told.
    fn kick(&self) {
        for (index, queue) in [&self.receive, &self.send].into_iter().enumerate() {
            let at = queue.place.used as usize;
            let flags: u16 = self.words().load(at, Acquire).expect("flags");
            if flags & NO_NOTIFY == 0 {
                self.frontend.iter().for_each(|f| f.kick(index));
            }
        }
    }
}

/// Both machines, with nothing but frames of one length.
pub(super) struct Generator {
    machines: [Machine; 2],
    /// What is written in front of each packet.
    header: u64,
    sources: u16,
    /// The source port of the next packet, counted from the first.
    next: u16,
    /// The first buffer of the packet that was received last.
    last: u16,
    /// All packets that were sent, and received.
    sent: u64,
    received: u64,
}

impl Generator {
    /// The first machine sends this.
    pub(super) fn new(load: &Load) -> Generator {
        let machines = [Machine::new(load), Machine::new(load)];
        machines[0].fill(load);
        let [a, b, c, d, e, f, g, h, ..] = load.header;
        Generator {
            machines,
            header: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            sources: load.sources,
            next: 0,
            last: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Connects both machines to a forwarder, by the socket of each.
    pub(super) fn connect(&mut self, paths: [&Path; 2], features: u64) {
        for (machine, path) in self.machines.iter_mut().zip(paths) {
            machine.connect(path, features);
        }
    }

    /// Sends and receives for so many seconds; how many packets a second arrived.
    pub(super) fn run(&mut self, seconds: f64) -> f64 {
        let watch = Watch::start(seconds);
        let before = self.received;
        let seconds = loop {
            for _ in 0..64 {
                self.take(|_, _| ());
                let free = self.free();
                self.post(free, |_, _| ());
            }
            self.kick();
            if let Some(seconds) = watch.over() {
                break seconds;
            }
        };
        (self.received - before) as f64 / seconds
    }

    /// The same at an even pace, packets a second; notes the cycles that each packet has taken from one machine to the other.
    pub(super) fn pace(&mut self, rate: f64, seconds: f64, mut note: impl FnMut(u64)) -> f64 {
        let watch = Watch::start(seconds);
        let apart = Clock::get().hertz() as f64 / rate;
        let before = self.received;
        let mut due = 0.0;
        let seconds = loop {
            for _ in 0..64 {
                let now = cycles() - watch.begun;
                if now as f64 >= due && self.free() > 0 {
                    due += apart;
                    self.post(1, |words, at| {
                        let stamp = at + HEADER + STAMP;
                        words.store(cycles(), stamp, Relaxed).expect("a buffer");
                    });
                }
                self.take(|words, at| {
                    let at = at + HEADER + STAMP;
                    let sent: u64 = words.load(at, Relaxed).expect("a buffer");
                    note(cycles().saturating_sub(sent));
                });
            }
            self.kick();
            if let Some(seconds) = watch.over() {
                break seconds;
            }
        };
        (self.received - before) as f64 / seconds
    }

    /// Receives until nothing is on its way any more; all packets that were sent so far, and all that were received.
    ///
    /// # Panics
    /// When packets stay with the sender.
    pub(super) fn drain(&mut self) -> (u64, u64) {
        let (all, mut quiet) = (Watch::start(DRAINED), Watch::start(QUIET_FOR));
        while quiet.over().is_none() {
            let before = self.received;
            self.take(|_, _| ());
            self.kick();
            if self.received != before || self.free() < self.machines[0].send.size() {
                quiet = Watch::start(QUIET_FOR);
            }
            assert!(all.over().is_none(), "a forwarder does not take packets");
        }
        (self.sent, self.received)
    }

    fn kick(&self) {
        self.machines.iter().for_each(Machine::kick);
    }

    /// Gives every received buffer back; `seen` gets the first one of each packet.
    #[inline]
    fn take(&mut self, mut seen: impl FnMut(&vm_memory::VolatileSlice<'_>, usize)) {
        let machine = &mut self.machines[1];
        let used = machine.used(&machine.receive);
        let available = used.wrapping_add(SIZE);
        let new = available.wrapping_sub(machine.receive.available);
        if new == 0 {
            return;
        }
        let words = machine.words();
        let mut n = 0;
        while n < new {
            let index = machine.receive.available.wrapping_add(n);
            let at = machine.receive.buffer(index);
            let buffers: u16 = words.load(at + BUFFERS, Relaxed).expect("a buffer");
            assert!((1..=new - n).contains(&buffers), "half a packet");
            seen(&words, at);
            self.received += 1;
            self.last = index;
            n += buffers;
        }
        let at = machine.receive.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        machine.receive.available = available;
    }

    /// How many buffers to send by are free.
    #[inline]
    fn free(&self) -> u16 {
        let machine = &self.machines[0];
        let available = machine
            .used(&machine.send)
            .wrapping_add(machine.send.size());
        available.wrapping_sub(machine.send.available)
    }

    /// Sends so many packets, each in the name of the next flow; `stamp` gets the buffer of each.
    #[inline]
    fn post(&mut self, packets: u16, mut stamp: impl FnMut(&vm_memory::VolatileSlice<'_>, usize)) {
        if packets == 0 {
            return;
        }
        let machine = &self.machines[0];
        let old = machine.send.available;
        let words = machine.words();
        for n in 0..packets {
            let buffer = machine.send.buffer(old.wrapping_add(n));
            words.store(self.header, buffer, Relaxed).expect("a buffer");
            let port = FIRST_PORT + self.next;
            let at = buffer + HEADER + PORTS;
            words.store(port.to_be(), at, Relaxed).expect("a buffer");
            stamp(&words, buffer);
            self.next = match self.next + 1 {
                next if next == self.sources => 0,
                next => next,
            };
        }
        let available = old.wrapping_add(packets);
        let at = machine.send.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        self.machines[0].send.available = available;
        self.sent += u64::from(packets);
    }

    /// The packet that was received last, to see that it is what it should be: what is in front of it, and its bytes.
    pub(super) fn received(&self, length: usize) -> (Vec<u8>, Vec<u8>) {
        let machine = &self.machines[1];
        let mut packet = Vec::with_capacity(HEADER + length);
        let mut index = self.last;
        while packet.len() < HEADER + length {
            let room = machine.receive.room.min(HEADER + length - packet.len());
            let mut part = vec![0; room];
            let at = machine.receive.buffer(index);
            let read = machine.words().read_slice(&mut part, at);
            read.expect("a buffer");
            packet.append(&mut part);
            index = index.wrapping_add(1);
        }
        let frame = packet.split_off(HEADER);
        (packet, frame)
    }
}

/// A stretch of time.
struct Watch {
    begun: u64,
    length: u64,
}

impl Watch {
    fn start(seconds: f64) -> Watch {
        Watch {
            begun: cycles(),
            length: (seconds * Clock::get().hertz() as f64) as u64,
        }
    }

    /// The seconds that it has been, once it is over.
    #[inline]
    fn over(&self) -> Option<f64> {
        let passed = cycles() - self.begun;
        (passed >= self.length).then(|| passed as f64 / Clock::get().hertz() as f64)
    }
}
