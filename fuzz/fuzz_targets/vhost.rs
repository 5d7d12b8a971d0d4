// SPDX-License-Identifier: Apache-2.0
//! Virtqueues in memory that says anything, with a log of written pages and a region for what is in flight in the same memory. Input: a byte that chooses what was agreed on, then what is in the memory of the guest, from its beginning.
#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use podswitch_datapath::frame::{Arena, Batch, Pool};
use podswitch_datapath::port::Port;
use podswitch_datapath::port::vhost::{
    Addresses, Backend, DirtyLog, GuestMemory, Inflight, Position, Queue, Region, VhostHandle,
    VhostPort, feature, vhost_device,
};
use podswitch_datapath::{PortId, WorkerId};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const ID: PortId = PortId(0);
/// Bytes of the guest's memory, and descriptors of a queue.
const BYTES: u64 = 1 << 14;
const SIZE: u16 = 8;
/// Parts of the first queue, by which the guest receives; the second one's are as far behind.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 128;
const USED: u64 = 192;
const SECOND: u64 = 512;
const CHUNKS: u32 = 64;
/// A frame that the guest receives.
const FRAME: [u8; 200] = [0x5a; 200];

struct Bed {
    file: File,
    memory: Arc<GuestMemory>,
    log: Arc<DirtyLog>,
    /// In the guest's memory, too.
    inflight: Arc<Inflight>,
    handle: VhostHandle,
    port: Port,
    pool: Pool,
    arena: Arc<Arena>,
    starts: u64,
}

impl Bed {
    fn new() -> Bed {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
        ftruncate(&file, BYTES).expect("memory");
        let region = Region {
            guest: 0,
            user: 0,
            bytes: BYTES,
            offset: 0,
            file: file.try_clone().expect("a descriptor"),
        };
        let arena = Arc::new(Arena::new(WorkerId(0), CHUNKS).expect("memory"));
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let (handle, device) = vhost_device().expect("eventfds");
        let port = VhostPort::open(device, arena.clone(), 512).expect("an epoll");
        let log = DirtyLog::new(&file, BYTES - 1, 1).expect("a log");
        let inflight = Inflight::new(&file, BYTES / 2, (2, SIZE), true).expect("regions");
        Bed {
            memory: Arc::new(GuestMemory::new(&[region]).expect("a region")),
            log: Arc::new(log),
            inflight: Arc::new(inflight),
            file,
            handle,
            port: Port::Vhost(Box::new(port)),
            pool,
            arena,
            starts: 0,
        }
    }

    fn queue(&mut self, offset: u64, packed: bool) -> Option<Queue> {
        self.starts += 1;
        let begin = if packed { 1 << 15 } else { 0 };
        Some(Queue {
            size: SIZE,
            addresses: Addresses {
                descriptors: DESCRIPTORS + offset,
                available: AVAILABLE + offset,
                used: USED + offset,
            },
            from: Position {
                available: begin,
                used: begin,
            },
            start: self.starts,
            disabled: false,
            call: None,
            kick: None,
        })
    }

    fn serve(&mut self, choice: u8, content: &[u8]) {
        // Nothing of the input before is left.
        let mut memory = vec![0; BYTES as usize];
        let length = content.len().min(memory.len());
        memory[..length].copy_from_slice(&content[..length]);
        self.file.write_all_at(&memory, 0).expect("memory");
        let mut features = feature::VERSION_1 | feature::CSUM | feature::GUEST_CSUM;
        for (bit, feature) in [
            feature::RING_PACKED,
            feature::EVENT_IDX,
            feature::MRG_RXBUF,
            feature::HOST_TSO4 | feature::HOST_TSO6,
            feature::GUEST_TSO4 | feature::GUEST_TSO6,
        ]
        .into_iter()
        .enumerate()
        {
            features |= if choice & 1 << bit != 0 { feature } else { 0 };
        }
        let packed = features & feature::RING_PACKED != 0;
        let queues = vec![self.queue(0, packed), self.queue(SECOND, packed)];
        self.handle.publish(Backend {
            memory: Some(self.memory.clone()),
            features,
            log: (choice & 1 << 5 != 0).then(|| self.log.clone()),
            inflight: (choice & 1 << 6 != 0).then(|| self.inflight.clone()),
            queues,
        });
        for _ in 0..2 {
            let mut batch = Batch::new();
            self.port.receive(ID, &mut self.pool, &mut batch, 32);
            let mut outbox: VecDeque<_> = batch.drain().map(|packet| packet.frame).collect();
            // Every other one goes on as it is.
            for frame in outbox.iter_mut().step_by(2) {
                if self.pool.fetch(frame) {
                    let length: usize = frame.iter().map(<[u8]>::len).sum();
                    assert_eq!(length, frame.len() as usize);
                }
            }
            outbox.extend(self.pool.alloc_bytes(&self.arena, &FRAME));
            self.port.transmit(ID, &mut self.pool, &mut outbox);
            outbox.into_iter().for_each(|frame| self.pool.free(frame));
            self.port.release(&mut self.pool);
        }
        // Nothing of what was taken is kept, however it ended.
        let all: Vec<_> = (0..CHUNKS)
            .filter_map(|_| self.pool.alloc(&self.arena))
            .collect();
        assert_eq!(all.len(), CHUNKS as usize, "chunks are lost");
        all.into_iter().for_each(|frame| self.pool.free(frame));
        self.handle.take_broken();
    }
}

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(Bed::new());
}

fuzz_target!(|input: &[u8]| {
    if let Some((choice, content)) = input.split_first() {
        BED.with(|bed| bed.borrow_mut().serve(*choice, content));
    }
});
