// SPDX-License-Identifier: Apache-2.0
//! A frontend that says what it is told to, and a guest behind it.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use podswitch_datapath::port::vhost::feature;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::driver::{Driver, GUEST, Guest, USER, WRITE};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the header in front of each packet.
const HEADER: usize = 12;
/// What most tests agree on.
pub(crate) const USUAL: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::PROTOCOL_FEATURES;
/// Protocol features: several queues, answers to everything, memory in slots.
pub(crate) const MQ: u64 = 1;
pub(crate) const REPLY_ACK: u64 = 1 << 3;
pub(crate) const SLOTS: u64 = 1 << 15;
/// And a log in a file, and what is in flight in one.
pub(crate) const LOG_SHMFD: u64 = 1 << 1;
pub(crate) const INFLIGHT_SHMFD: u64 = 1 << 12;

/// Requests (vhost-user, "Front-end message types").
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_LOG_BASE: u32 = 6;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const NET_SET_MTU: u32 = 20;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;
const NEED_REPLY: u32 = 8;

/// What speaks for a guest.
pub(crate) struct Frontend {
    pub(crate) stream: UnixStream,
    /// Everything is to be answered.
    acked: bool,
}

impl Frontend {
    pub(crate) fn new(stream: UnixStream) -> Frontend {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Frontend {
            stream,
            acked: false,
        }
    }

    /// Sends bytes, with descriptors.
    pub(crate) fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let bytes = [IoSlice::new(bytes)];
        // A connection that was ended is what some tests are about.
        let _ = sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL);
    }

    /// A message that is not answered.
    pub(crate) fn say(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
        let flags = 1 | if self.acked { NEED_REPLY } else { 0 };
        self.send(&message(request, flags, body), files);
        if self.acked {
            assert_eq!(self.answer(request), 0u64.to_ne_bytes(), "{request}");
        }
    }

    /// A message whose answer is.
    pub(crate) fn ask(&mut self, request: u32, body: &[u8]) -> Vec<u8> {
        self.send(&message(request, 1, body), &[]);
        self.answer(request)
    }

    pub(crate) fn ask_number(&mut self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[]).try_into().unwrap())
    }

    pub(crate) fn answer(&mut self, request: u32) -> Vec<u8> {
        self.answer_with(request).0
    }

    /// An answer, and the descriptor that came with it.
    pub(crate) fn answer_with(&mut self, request: u32) -> (Vec<u8>, Option<File>) {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut first = [IoSliceMut::new(&mut header)];
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        // libFuzzer's clock interrupts whoever waits.
        let receive = || recvmsg(&self.stream, &mut first, &mut control, flags);
        let received = rustix::io::retry_on_intr(receive).unwrap();
        assert_eq!(received.bytes, 12);
        let files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.flatten().next().map(File::from);
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (request, 5), "version 1, an answer");
        let mut body = vec![0; word(8) as usize];
        self.stream.read_exact(&mut body).unwrap();
        (body, file)
    }

    /// Whether the connection was ended.
    pub(crate) fn is_ended(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            // What was sent and not read there ends a connection so.
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Agrees on features, with these of the protocol.
    pub(crate) fn agree(&mut self, features: u64, protocol: u64) {
        let offered = self.ask_number(GET_FEATURES);
        assert_eq!(offered & features, features, "not all of them are offered");
        if features & feature::PROTOCOL_FEATURES != 0 {
            let offered = self.ask_number(GET_PROTOCOL_FEATURES);
            assert_eq!(offered & protocol, protocol, "not all of them are offered");
            self.say(SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
            self.acked = protocol & REPLY_ACK != 0;
        }
        self.say(SET_OWNER, &[], &[]);
        self.say(SET_FEATURES, &features.to_ne_bytes(), &[]);
    }

    /// All memory of a guest, in one message.
    pub(crate) fn tell_memory(&mut self, guest: &Guest) {
        let body = [&1u64.to_ne_bytes()[..], &region(guest)].concat();
        self.say(SET_MEM_TABLE, &body, &[guest.file.as_fd()]);
    }

    /// Sets a queue up, starts and enables it.
    pub(crate) fn start(&mut self, index: u32, driver: &Driver, base: u32) {
        self.set_up(index, driver, base);
        self.say(SET_VRING_ENABLE, &state(index, 1), &[]);
    }

    /// Sets a queue up and starts it.
    pub(crate) fn set_up(&mut self, index: u32, driver: &Driver, base: u32) {
        self.say(SET_VRING_NUM, &state(index, driver.size.into()), &[]);
        self.say(SET_VRING_BASE, &state(index, base), &[]);
        self.say(SET_VRING_ADDR, &addresses(index, driver), &[]);
        let number = u64::from(index).to_ne_bytes();
        self.say(SET_VRING_CALL, &number, &[driver.call.as_fd()]);
        self.say(SET_VRING_KICK, &number, &[driver.kick.as_fd()]);
    }
}

pub(crate) fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let words = [request, flags, body.len() as u32].map(u32::to_ne_bytes);
    [&words.concat()[..], body].concat()
}

/// `struct vhost_vring_state`.
pub(crate) fn state(index: u32, number: u32) -> Vec<u8> {
    [index, number].map(u32::to_ne_bytes).concat()
}

/// `struct vhost_vring_addr`.
pub(crate) fn addresses(index: u32, driver: &Driver) -> Vec<u8> {
    let user = |at: u64| at - GUEST + USER;
    let all = [driver.descriptors, driver.used, driver.available].map(user);
    let all = [all[0], all[1], all[2], 0].map(u64::to_ne_bytes).concat();
    [&state(index, 0)[..], &all].concat()
}

/// A memory region: for the guest, bytes, for the frontend, in the file.
pub(crate) fn region(guest: &Guest) -> Vec<u8> {
    let told = guest.region();
    let words = [told.guest, told.bytes, told.user, told.offset];
    words.map(u64::to_ne_bytes).concat()
}

/// A guest with one pair of queues.
pub(crate) struct Machine {
    pub(crate) memory: Guest,
    /// It receives by the first and sends by the second.
    pub(crate) queues: [Driver; 2],
    buffer: u64,
}

impl Machine {
    pub(crate) fn new(packed: bool) -> Machine {
        let mut memory = Guest::new(1 << 20);
        let queues = [(); 2].map(|()| Driver::new(&mut memory, 64, packed));
        let buffer = memory.room(4096, 4096);
        Machine {
            memory,
            queues,
            buffer,
        }
    }

    /// Sets everything up, with memory in one message.
    pub(crate) fn boot(&self, frontend: &mut Frontend, features: u64) {
        frontend.agree(features, REPLY_ACK | MQ | SLOTS);
        self.begin(frontend, features);
    }

    /// The same once features were agreed on.
    pub(crate) fn begin(&self, frontend: &mut Frontend, features: u64) {
        frontend.tell_memory(&self.memory);
        let base = match features & feature::RING_PACKED {
            0 => 0,
            _ => 0x8000_8000,
        };
        self.start(frontend, [base, base]);
    }

    pub(crate) fn start(&self, frontend: &mut Frontend, bases: [u32; 2]) {
        for (index, (queue, base)) in self.queues.iter().zip(bases).enumerate() {
            frontend.start(index as u32, queue, base);
        }
    }

    /// Sends a frame and waits until it is back.
    pub(crate) fn echo(&mut self, number: u8) {
        self.send(number);
        self.has_back(number);
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, number: u8) {
        let out = [&[0; HEADER][..], &[number; 60]].concat();
        self.memory.write(self.buffer, &out);
        let part = (self.buffer, out.len() as u32);
        self.queues[1].offer(&self.memory, &[part], 0, None);
    }

    /// Sends a frame that nobody gets, and waits until its buffer is back.
    pub(crate) fn send_and_have_back(&mut self) {
        self.send(0xff);
        let begun = Instant::now();
        while self.queues[1].used(&self.memory).is_none() {
            assert!(begun.elapsed() < PATIENCE, "it is not given back");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until the frame that was sent is back.
    pub(crate) fn has_back(&mut self, number: u8) {
        let frame = [number; 60];
        let room = self.buffer + 2048;
        self.queues[0].offer(&self.memory, &[(room, 1500)], WRITE, None);
        let begun = Instant::now();
        let (mut sent, mut back) = (false, None);
        while !sent || back.is_none() {
            sent = sent || self.queues[1].used(&self.memory).is_some();
            back = back.or_else(|| self.queues[0].used(&self.memory));
            assert!(begun.elapsed() < PATIENCE, "sent {sent}, back {back:?}");
            thread::sleep(Duration::from_micros(200));
        }
        let bytes = self.memory.read(room, HEADER + frame.len());
        assert_eq!(&bytes[HEADER..], frame, "frame {number}");
    }
}
