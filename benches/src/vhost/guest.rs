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
use super::load::{DESTINATIONS, HEADER, Load, PORTS, SIZE, STAMP};
use crate::traffic::SERVICE;

/// Descriptors of a queue that superframes are sent by; all others have [`SIZE`].
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
const QUIET_FOR: f64 = 0.01;
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
    /// What is written in front of each packet, and where the port is that changes from one to the next.
    header: u64,
    port: usize,
    /// How many such ports there are, and the next one, counted from the first.
    ports: u16,
    next: u16,
    /// The first buffer of the packet that was received last.
    newest: u16,
    /// All packets that were sent, and received.
    sent: u64,
    received: u64,
}

impl Machine {
    /// All buffers to receive by are the device's as soon as it is connected. It sends the load, or the answers to it.
    pub(super) fn new(load: &Load, answers: bool) -> Machine {
        let size = if load.is_whole() { FEW } else { SIZE };
        let (receive, next) = Queue::at(0, SIZE, load.buffer);
        let (frame, header) = match answers {
            true => (&load.answer, [0; HEADER]),
            false => (&load.frame, load.header),
        };
        let (send, bytes) = Queue::at(next, size, HEADER + frame.len());
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
            header: 0,
            port: HEADER + PORTS + if answers { 2 } else { 0 },
            ports: load.sources,
            next: 0,
            newest: 0,
            sent: 0,
            received: 0,
        };
        machine.describe(&machine.send, 0, HEADER + frame.len());
        machine.fill(&header, frame, load.destinations, answers);
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

    /// Puts a packet into every buffer to send by, each to a port of the second machine's, or from it.
    fn fill(&mut self, header: &[u8; HEADER], frame: &[u8], destinations: u16, answers: bool) {
        for n in 0..self.send.size() {
            let (words, at) = (self.words(), self.send.buffer(n));
            words.write_slice(header, at).expect("a buffer");
            words.write_slice(frame, at + HEADER).expect("a buffer");
            let port = (SERVICE + n % destinations).to_be_bytes();
            let at = at + HEADER + PORTS + if answers { 0 } else { 2 };
            words.write_slice(&port, at).expect("a buffer");
        }
        let [a, b, c, d, e, f, g, h, ..] = *header;
        self.header = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    }

    fn used(&self, queue: &Queue) -> u16 {
        let at = queue.place.used as usize + INDEX;
        self.words().load(at, Acquire).expect("an index")
    }

    /// Gives every received buffer back; `seen` gets the first one of each packet.
    #[inline]
    fn take(&mut self, mut seen: impl FnMut(&vm_memory::VolatileSlice<'_>, usize)) {
        let used = self.used(&self.receive);
        let available = used.wrapping_add(SIZE);
        let new = available.wrapping_sub(self.receive.available);
        if new == 0 {
            return;
        }
        let words = self.memory.as_volatile_slice();
        let mut n = 0;
        while n < new {
            let index = self.receive.available.wrapping_add(n);
            let at = self.receive.buffer(index);
            let buffers: u16 = words.load(at + BUFFERS, Relaxed).expect("a buffer");
            assert!((1..=new - n).contains(&buffers), "half a packet");
            seen(&words, at);
            self.received += 1;
            self.newest = index;
            n += buffers;
        }
        let at = self.receive.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        self.receive.available = available;
    }

    /// How many buffers to send by are free.
    #[inline]
    fn free(&self) -> u16 {
        let available = self.used(&self.send).wrapping_add(self.send.size());
        available.wrapping_sub(self.send.available)
    }

    /// Sends so many packets, each in the name of the next flow; `stamp` gets the buffer of each.
    #[inline]
    fn post(&mut self, packets: u16, mut stamp: impl FnMut(&vm_memory::VolatileSlice<'_>, usize)) {
        if packets == 0 {
            return;
        }
        let old = self.send.available;
        let words = self.memory.as_volatile_slice();
        for n in 0..packets {
            let buffer = self.send.buffer(old.wrapping_add(n));
            words.store(self.header, buffer, Relaxed).expect("a buffer");
            let port = FIRST_PORT + self.next;
            let at = buffer + self.port;
            words.store(port.to_be(), at, Relaxed).expect("a buffer");
            stamp(&words, buffer);
            self.next = match self.next + 1 {
                next if next == self.ports => 0,
                next => next,
            };
        }
        let available = old.wrapping_add(packets);
        let at = self.send.place.available as usize + INDEX;
        words.store(available, at, Release).expect("an index");
        self.send.available = available;
        self.sent += u64::from(packets);
    }

    /// The packet that was received last, to see that it is what it should be: what is in front of it, and its bytes.
    fn last(&self, length: usize) -> (Vec<u8>, Vec<u8>) {
        let mut packet = Vec::with_capacity(HEADER + length);
        let mut index = self.newest;
        while packet.len() < HEADER + length {
            let room = self.receive.room.min(HEADER + length - packet.len());
            let mut part = vec![0; room];
            let at = self.receive.buffer(index);
            let read = self.words().read_slice(&mut part, at);
            read.expect("a buffer");
            packet.append(&mut part);
            index = index.wrapping_add(1);
        }
        let frame = packet.split_off(HEADER);
        (packet, frame)
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
    sender: Machine,
    receiver: Machine,
    window: u64,
    /// Packets that are known not to arrive any more.
    lost: u64,
}

impl Generator {
    /// The first machine sends this.
    pub(super) fn new(load: &Load) -> Generator {
        Generator {
            sender: Machine::new(load, false),
            receiver: Machine::new(load, true),
            window: load.window,
            lost: 0,
        }
    }

    /// Connects both machines to a forwarder, by the socket of each.
    pub(super) fn connect(&mut self, [from, to]: [&Path; 2], features: u64) {
        self.sender.connect(from, features);
        self.receiver.connect(to, features);
    }

    /// Has so many flows answered by the second machine, one packet each.
    pub(super) fn answer(&mut self, flows: u32) {
        let wanted = self.receiver.sent + u64::from(flows);
        while self.receiver.sent < wanted {
            let left = (wanted - self.receiver.sent).min(SIZE.into()) as u16;
            self.receiver
                .post(left.min(self.receiver.free()), |_, _| ());
            self.sender.take(|_, _| ());
            self.kick();
        }
        self.drain();
    }

    /// Sends and receives for so many seconds; how many packets a second arrived.
    pub(super) fn run(&mut self, seconds: f64) -> f64 {
        let watch = Watch::start(seconds);
        let before = self.receiver.received;
        let mut quiet = Watch::start(QUIET_FOR);
        let seconds = loop {
            let seen = self.receiver.received;
            for _ in 0..64 {
                self.receiver.take(|_, _| ());
                let (sent, here) = (self.sender.sent, self.receiver.received + self.lost);
                let more = self.window.saturating_sub(sent.saturating_sub(here));
                let free = self.sender.free();
                self.sender
                    .post(free.min(more.min(SIZE.into()) as u16), |_, _| ());
            }
            self.kick();
            // What was taken and has not come for so long is lost, unless it comes after all.
            let left = self.sender.send.size() - self.sender.free();
            // What has arrived may not have been given back so far.
            let away = self.sender.sent.saturating_sub(self.receiver.received);
            let missing = away.saturating_sub(left.into());
            if self.receiver.received != seen {
                quiet = Watch::start(QUIET_FOR);
                self.lost = self.lost.min(missing);
            } else if quiet.over().is_some() {
                self.lost = missing;
            }
            if let Some(seconds) = watch.over() {
                break seconds;
            }
        };
        (self.receiver.received - before) as f64 / seconds
    }

    /// The same at an even pace, packets a second; notes the cycles that each packet has taken from one machine to the other.
    pub(super) fn pace(&mut self, rate: f64, seconds: f64, mut note: impl FnMut(u64)) -> f64 {
        let (sender, receiver) = (&mut self.sender, &mut self.receiver);
        let watch = Watch::start(seconds);
        let apart = Clock::get().hertz() as f64 / rate;
        let before = receiver.received;
        let mut due = 0.0;
        let seconds = loop {
            for _ in 0..64 {
                let now = cycles() - watch.begun;
                if now as f64 >= due && sender.free() > 0 {
                    due += apart;
                    sender.post(1, |words, at| {
                        let stamp = at + HEADER + STAMP;
                        words.store(cycles(), stamp, Relaxed).expect("a buffer");
                    });
                }
                receiver.take(|words, at| {
                    let at = at + HEADER + STAMP;
                    let sent: u64 = words.load(at, Relaxed).expect("a buffer");
                    note(cycles().saturating_sub(sent));
                });
            }
            sender.kick();
            receiver.kick();
            if let Some(seconds) = watch.over() {
                break seconds;
            }
        };
        (receiver.received - before) as f64 / seconds
    }

    /// Receives until nothing is on its way any more; all packets that were sent by the first machine so far, and all that the second one received.
    ///
    /// # Panics
    /// When packets stay with a sender.
    pub(super) fn drain(&mut self) -> (u64, u64) {
        let (all, mut quiet) = (Watch::start(DRAINED), Watch::start(QUIET_FOR));
        while quiet.over().is_none() {
            let before = self.received();
            let mut left = 0;
            for machine in [&mut self.sender, &mut self.receiver] {
                machine.take(|_, _| ());
                machine.kick();
                left += machine.send.size() - machine.free();
            }
            if self.received() != before || left > 0 {
                quiet = Watch::start(QUIET_FOR);
            }
            assert!(
                all.over().is_none(),
                "a forwarder leaves {left} packets where they are"
            );
        }
        self.lost = self.sender.sent - self.receiver.received;
        (self.sender.sent, self.receiver.received)
    }

    fn received(&self) -> u64 {
        self.sender.received + self.receiver.received
    }

    fn kick(&self) {
        self.sender.kick();
        self.receiver.kick();
    }

    /// The packet that the second machine received last, and what is in front of it.
    pub(super) fn last(&self, length: usize) -> (Vec<u8>, Vec<u8>) {
        self.receiver.last(length)
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
