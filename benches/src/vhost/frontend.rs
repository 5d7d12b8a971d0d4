// SPDX-License-Identifier: Apache-2.0
//! The messages by which a machine of the generator sets its queues up (vhost-user), and no more of them than that takes.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Requests (vhost-user, "Front-end message types").
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;

/// How long anything may take: a forwarder that sets up its memory does not listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the parts of a queue are in a machine's memory, and its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// A connection to a backend that serves both queues.
#[derive(Debug)]
pub(super) struct Frontend {
    stream: UnixStream,
    kicks: Vec<OwnedFd>,
}

impl Frontend {
    /// Connects as soon as somebody listens, and starts both queues with these features; all of `memory` is at `base` for the machine and for its frontend.
    ///
    /// # Panics
    /// When the backend does not do what it should.
    pub(super) fn start(
        path: &Path,
        memory: &File,
        base: u64,
        features: u64,
        queues: &[Place; 2],
    ) -> Frontend {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) => assert!(begun.elapsed() < PATIENCE, "{}: {e}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut frontend = Frontend {
            stream,
            kicks: Vec::new(),
        };
        frontend.say(GET_FEATURES, &[], &[]);
        let offered = u64::from_ne_bytes(frontend.answer());
        assert_eq!(offered & features, features, "features {offered:#x}");
        frontend.say(SET_OWNER, &[], &[]);
        frontend.say(SET_FEATURES, &features.to_ne_bytes(), &[]);
        let bytes = memory.metadata().expect("a memfd").len();
        let table = [1, base, bytes, base, 0].map(u64::to_ne_bytes).concat();
        frontend.say(SET_MEM_TABLE, &table, &[memory.as_fd()]);
        for (index, queue) in (0u32..).zip(queues) {
            frontend.start_queue(index, queue, base);
        }
        // Answered when all that was said before was heard.
        frontend.say(GET_FEATURES, &[], &[]);
        frontend.answer::<8>();
        frontend
    }

    fn start_queue(&mut self, index: u32, queue: &Place, base: u64) {
        let state = |n: u32| [index, n].map(u32::to_ne_bytes).concat();
        self.say(SET_VRING_NUM, &state(queue.size.into()), &[]);
        self.say(SET_VRING_BASE, &state(0), &[]);
        let at = [queue.descriptors, queue.used, queue.available].map(|at| base + at);
        let at = [at[0], at[1], at[2], 0].map(u64::to_ne_bytes).concat();
        self.say(SET_VRING_ADDR, &[&state(0)[..], &at].concat(), &[]);
        let number = u64::from(index).to_ne_bytes();
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (call, kick) = (bell().expect("an eventfd"), bell().expect("an eventfd"));
        self.say(SET_VRING_CALL, &number, &[call.as_fd()]);
        self.say(SET_VRING_KICK, &number, &[kick.as_fd()]);
        self.kicks.push(kick);
    }

    /// Says that there is something in a queue.
    pub(super) fn kick(&self, queue: usize) {
        let _ = rustix::io::write(&self.kicks[queue], &1u64.to_ne_bytes());
    }

    fn say(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
        let header = [request, 1, body.len() as u32]
            .map(u32::to_ne_bytes)
            .concat();
        let bytes = [&header[..], body].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let slices = [IoSlice::new(&bytes)];
        let sent = sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.expect("the backend listens"), bytes.len());
    }

    fn answer<const N: usize>(&mut self) -> [u8; N] {
        let (mut header, mut body) = ([0; 12], [0; N]);
        self.stream.read_exact(&mut header).expect("an answer");
        self.stream.read_exact(&mut body).expect("an answer");
        body
    }
}
