// SPDX-License-Identifier: Apache-2.0
//! Ports in memory: one whose frames a test injects and collects, and one that makes frames by itself for benches.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::generator::{FrameSource, Generator};
use super::{Caps, PortCounters, give};
use crate::frame::{Arena, Batch, Frame, MAX_SEGMENTS, Pool};
use crate::ids::PortId;

/// What a memory port says it can do: a local sender, whose partial checksums the switch fills.
pub const MEMORY_CAPS: Caps = Caps {
    local_sender: true,
    superframes: false,
    takes_partial_checksum: false,
    joins_segments: false,
    takes_any_arena: false,
    takes_lent: false,
    max_segments: MAX_SEGMENTS,
    vlan: None,
};

/// A memory port to be added to a switch.
#[derive(Debug)]
pub struct MemoryDevice {
    kind: Kind,
    caps: Caps,
}

#[derive(Debug)]
enum Kind {
    Pipe(Pipe),
    Generator(Generator),
}

impl MemoryDevice {
    /// A port and the handle that plays what is connected to it. Each direction holds `capacity` frames; when the
    /// handle does not collect, the port's transmit queue is full.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn pipe(capacity: usize) -> io::Result<(MemoryDevice, MemoryHandle)> {
        let (to_switch, input) = bounded(capacity);
        let (output, from_switch) = bounded(capacity);
        let bell = Arc::new(Bell::new()?);
        let device = MemoryDevice {
            kind: Kind::Pipe(Pipe {
                input,
                output,
                bell: bell.clone(),
            }),
            caps: MEMORY_CAPS,
        };
        let handle = MemoryHandle {
            to_switch,
            from_switch,
            bell,
        };
        Ok((device, handle))
    }

    /// A port that holds `frames` frames of `source`, and receives them oldest first. A frame sent out of it is written
    /// anew and goes to the end of that queue. So the frames circle through memory as through a device's rings, and none is
    /// written shortly before it is received. One that is dropped is missing from then on.
    pub fn circle(frames: u32, source: Box<dyn FrameSource>) -> MemoryDevice {
        MemoryDevice {
            kind: Kind::Generator(Generator::circle(frames, source)),
            caps: MEMORY_CAPS,
        }
    }

    /// A port whose frames `source` writes when they are received; what is sent out of it is gone.
    pub fn spring(source: Box<dyn FrameSource>) -> MemoryDevice {
        MemoryDevice {
            kind: Kind::Generator(Generator::spring(source)),
            caps: MEMORY_CAPS,
        }
    }

    /// The same with other capabilities.
    #[must_use]
    pub fn with_caps(mut self, caps: Caps) -> MemoryDevice {
        self.caps = caps;
        self
    }
}

/// Wakes a sleeping worker: an eventfd that is written once until it is looked at.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    fd: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        Ok(Bell {
            rung: AtomicBool::new(false),
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: it is written once until it is read.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    fn silence(&self) {
        if self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        }
    }
}

/// What is connected to a [`MemoryDevice::pipe`] port.
#[derive(Debug)]
pub struct MemoryHandle {
    to_switch: Sender<Vec<u8>>,
    from_switch: Receiver<Vec<u8>>,
    bell: Arc<Bell>,
}

impl MemoryHandle {
    /// Sends a frame into the switch; false when the port's receive queue is full or the port is gone.
    pub fn send(&self, frame: &[u8]) -> bool {
        let sent = self.to_switch.try_send(frame.to_vec()).is_ok();
        if sent {
            self.bell.ring();
        }
        sent
    }

    /// A frame the switch has sent, if there is one.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.from_switch.try_recv().ok()
    }

    /// Waits for a frame from the switch; `None` when none came in time or the port is gone and drained.
    pub fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        self.from_switch.recv_timeout(limit).ok()
    }
}

#[derive(Debug)]
struct Pipe {
    input: Receiver<Vec<u8>>,
    output: Sender<Vec<u8>>,
    bell: Arc<Bell>,
}

/// A memory port on its worker.
#[derive(Debug)]
pub struct MemoryPort {
    arena: Arc<Arena>,
    kind: Kind,
    caps: Caps,
    counters: PortCounters,
}

impl MemoryPort {
    /// A port whose frames live in `arena`.
    pub fn new(device: MemoryDevice, arena: Arc<Arena>) -> MemoryPort {
        MemoryPort {
            arena,
            kind: device.kind,
            caps: device.caps,
            counters: PortCounters::default(),
        }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(super) fn caps(&self) -> Caps {
        self.caps
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let budget = budget.min(batch.room());
        match &mut self.kind {
            Kind::Pipe(pipe) => {
                pipe.bell.silence();
                let mut n = 0;
                while n < budget {
                    let Ok(bytes) = pipe.input.try_recv() else {
                        break;
                    };
                    match pool.alloc_bytes(&self.arena, &bytes) {
                        Some(frame) => {
                            give(batch, frame, id, pool);
                            n += 1;
                        }
                        None => self.counters.rx_no_memory += 1,
                    }
                }
                n
            }
            Kind::Generator(generator) => generator.receive(id, &self.arena, pool, batch, budget),
        }
    }

    pub(super) fn transmit(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        match &mut self.kind {
            Kind::Pipe(pipe) => {
                let mut n = 0;
                while let Some(frame) = outbox.front() {
                    if pipe.output.is_full() {
                        self.counters.tx_full += outbox.len() as u64;
                        break;
                    }
                    // Nobody else sends, so there is room; a handle that is gone collects nothing.
                    let _ = pipe
                        .output
                        .try_send(frame.iter().flatten().copied().collect());
                    if let Some(frame) = outbox.pop_front() {
                        pool.free(frame);
                    }
                    n += 1;
                }
                n
            }
            Kind::Generator(generator) => {
                let n = outbox.len();
                for frame in outbox.drain(..) {
                    generator.sent(frame, pool);
                }
                n
            }
        }
    }

    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Pipe(pipe) => Some(pipe.bell.fd.as_fd()),
            Kind::Generator(_) => None,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        match &self.kind {
            Kind::Pipe(pipe) => !pipe.input.is_empty(),
            Kind::Generator(generator) => generator.has_work(),
        }
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.counters
    }

    pub(super) fn close(self, pool: &mut Pool) {
        if let Kind::Generator(generator) = self.kind {
            generator.close(pool);
        }
    }
}
