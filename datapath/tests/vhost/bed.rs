// SPDX-License-Identifier: Apache-2.0
//! A guest with one pair of queues, and the port that serves it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use podswitch_datapath::frame::{Arena, Batch, Frame, Pool};
use podswitch_datapath::port::Port;
use podswitch_datapath::port::vhost::{
    Backend, GuestMemory, Region, VhostHandle, VhostPort, feature, vhost_device,
};
use podswitch_datapath::{PortId, WorkerId};

use crate::driver::{Driver, Guest, Part, WRITE};

pub(crate) const ID: PortId = PortId(0);
/// Chunks of the arena: more than the longest frame has.
const CHUNKS: u32 = 64;
/// Bytes of the header in front of each packet.
pub(crate) const HEADER: usize = 12;

/// What most tests agree on.
pub(crate) const USUAL: u64 = feature::VERSION_1
    | feature::MRG_RXBUF
    | feature::CSUM
    | feature::GUEST_CSUM
    | feature::INDIRECT_DESC;

pub(crate) struct Bed {
    pub(crate) guest: Guest,
    /// By the first the guest receives, by the second it sends.
    pub(crate) queues: [Driver; 2],
    pub(crate) handle: VhostHandle,
    pub(crate) port: Port,
    pub(crate) pool: Pool,
    pub(crate) arena: Arc<Arena>,
    features: u64,
    starts: u64,
}

impl Bed {
    pub(crate) fn new(features: u64, size: u16) -> Bed {
        let mut guest = Guest::new(1 << 20);
        let packed = features & feature::RING_PACKED != 0;
        let queues = [(); 2].map(|()| Driver::new(&mut guest, size, packed));
        let arena = Arc::new(Arena::new(WorkerId(0), CHUNKS).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let (handle, device) = vhost_device().unwrap();
        let port = VhostPort::open(device, arena.clone(), 512).unwrap();
        let mut bed = Bed {
            guest,
            queues,
            handle,
            port: Port::Vhost(Box::new(port)),
            pool,
            arena,
            features,
            starts: 0,
        };
        bed.start();
        bed
    }

    /// What its frontend has set up, with this memory.
    pub(crate) fn backend(&mut self, memory: &[Region]) -> Backend {
        self.starts += 2;
        let memory = Arc::new(GuestMemory::new(memory).unwrap());
        let queues = (self.starts..).zip(&self.queues);
        Backend {
            memory: Some(memory),
            features: self.features,
            log: None,
            inflight: None,
            queues: queues.map(|(start, q)| Some(q.queue(start))).collect(),
        }
    }

    /// The same with its memory in two regions, of which the second is in front of the first for the frontend.
    pub(crate) fn backend_of_halves(&mut self) -> Backend {
        let halves = self.guest.halves();
        let mut backend = self.backend(&halves);
        for queue in backend.queues.iter_mut().flatten() {
            let at = &mut queue.addresses;
            for at in [&mut at.descriptors, &mut at.available, &mut at.used] {
                *at += self.guest.bytes / 2;
            }
        }
        backend
    }

    /// The worker begins to serve both queues.
    pub(crate) fn start(&mut self) {
        let regions = [self.guest.region()];
        let backend = self.backend(&regions);
        self.publish(backend);
    }

    pub(crate) fn publish(&mut self, backend: Backend) {
        self.handle.publish(backend);
        assert!(self.receive().is_empty());
        assert!(self.handle.settle(Duration::ZERO));
    }

    /// New queues, as a driver has them after it has begun anew.
    pub(crate) fn begin_anew(&mut self) {
        let packed = self.features & feature::RING_PACKED != 0;
        let size = self.queues[0].size;
        self.guest = Guest::new(1 << 20);
        self.queues = [(); 2].map(|()| Driver::new(&mut self.guest, size, packed));
        self.start();
    }

    /// What has come in.
    pub(crate) fn receive(&mut self) -> Vec<Frame> {
        let mut frames = self.receive_lent();
        frames.retain_mut(|frame| self.pool.fetch(frame));
        self.port.release(&mut self.pool);
        frames
    }

    /// The same, with bytes that may still be the guest's until the port releases them.
    pub(crate) fn receive_lent(&mut self) -> Vec<Frame> {
        let mut batch = Batch::new();
        self.port.receive(ID, &mut self.pool, &mut batch, 64);
        batch.drain().map(|packet| packet.frame).collect()
    }

    /// The frames' bytes; their chunks are free again.
    pub(crate) fn bytes(&mut self, frames: Vec<Frame>) -> Vec<Vec<u8>> {
        let all = frames.into_iter().map(|frame| {
            let bytes: Vec<u8> = frame.iter().flatten().copied().collect();
            self.pool.free(frame);
            bytes
        });
        all.collect()
    }

    pub(crate) fn frame(&mut self, bytes: &[u8]) -> Frame {
        self.pool.alloc_bytes(&self.arena, bytes).unwrap()
    }

    /// Sends frames to the guest; how many are left.
    pub(crate) fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> usize {
        let mut outbox: VecDeque<Frame> = frames.into_iter().collect();
        self.port.transmit(ID, &mut self.pool, &mut outbox);
        let left = outbox.len();
        outbox.into_iter().for_each(|frame| self.pool.free(frame));
        left
    }

    /// Room in the guest with these bytes, cut into parts of these lengths.
    pub(crate) fn parts(&mut self, bytes: &[u8], lengths: &[usize]) -> Vec<Part> {
        let at = self.guest.room(bytes.len() as u64, 1);
        self.guest.write(at, bytes);
        let mut parts = Vec::new();
        let mut done = 0;
        for len in lengths.iter().copied().chain([usize::MAX]) {
            let len = len.min(bytes.len() - done);
            parts.push((at + done as u64, len as u32));
            done += len;
        }
        parts
    }

    /// The guest sends a packet whose header says nothing.
    pub(crate) fn guest_sends(&mut self, packet: &[u8]) {
        self.guest_sends_with([0; HEADER], packet);
    }

    pub(crate) fn guest_sends_with(&mut self, header: [u8; HEADER], packet: &[u8]) {
        let parts = self.parts(&[&header[..], packet].concat(), &[]);
        self.queues[1].offer(&self.guest, &parts[..1], 0, None);
    }

    /// The guest gives a buffer to receive into: where it is.
    pub(crate) fn guest_gives(&mut self, len: u32) -> u64 {
        let at = self.guest.room(len.into(), 1);
        self.queues[0].offer(&self.guest, &[(at, len)], WRITE, None);
        at
    }

    #[track_caller]
    pub(crate) fn assert_all_free(&self) {
        for audit in self.pool.audit() {
            assert_eq!(audit.free, audit.chunks, "{audit:?}");
        }
    }
}

/// A packet of this length that differs from others.
pub(crate) fn packet(len: usize, number: u32) -> Vec<u8> {
    let bytes = (0..len as u32).map(|i| (i.wrapping_mul(7) ^ (i >> 8) ^ number) as u8);
    bytes.collect()
}
