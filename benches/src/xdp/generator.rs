// SPDX-License-Identifier: Apache-2.0
//! Sends frames from pods as fast as a core can.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use podswitch_datapath::frame::{Arena, Frame, Pool};
use podswitch_datapath::port::xdp::{
    Features, PortPlan, Queue, RingSizes, Umem, XdpConfig, XdpPort,
};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_host::netns::Netns;

/// Frames given to a pod's device at once.
const BURST: usize = 64;
/// Most that a pod's device may hold.
const RING: u32 = 512;

/// Which group of pods sends; none when it is neither's number.
pub(super) const QUIET: usize = usize::MAX;

/// A thread that sends from the pods of one of two groups.
pub(super) struct Generator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    sending: AtomicUsize,
    sent: AtomicU64,
    stop: AtomicBool,
}

/// A pod that sends: its end of the veth as an AF_XDP socket, which only transmits, so that no program is needed there.
pub(super) struct Sender {
    port: XdpPort,
    arena: Arc<Arena>,
    pool: Pool,
    outbox: VecDeque<Frame>,
    templates: Vec<Vec<u8>>,
    next: usize,
}

impl Sender {
    /// Sends `templates` in turn from a queue in a namespace.
    ///
    /// # Panics
    /// When the kernel gives no socket.
    pub(super) fn open(
        netns: &Netns,
        queue: Queue,
        features: Features,
        templates: Vec<Vec<u8>>,
    ) -> Sender {
        // The fill ring is not used: nothing is received here.
        let plan = PortPlan {
            fill: 1,
            transmit: RING,
            backlog: RING,
            rings: RingSizes {
                rx: 2,
                tx: RING,
                fill: 2,
                completion: RING,
            },
        };
        let arena = Arena::new(WorkerId(0), RING + BURST as u32 * 2);
        let arena = Arc::new(arena.expect("memory for the generator"));
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let config = XdpConfig {
            tx_budget: BURST as u32,
            ..XdpConfig::new(PortId(0), queue, plan)
        };
        let mut umem = Umem::new(arena.clone(), features);
        let inside = netns.enter().expect("the pod's namespace");
        let port = umem.open(&config).expect("an AF_XDP socket in the pod");
        drop(inside);
        Sender {
            port,
            arena,
            pool,
            outbox: VecDeque::with_capacity(BURST),
            templates,
            next: 0,
        }
    }

    /// Sends a burst; how many frames the device took.
    fn burst(&mut self) -> usize {
        while self.outbox.len() < BURST {
            let template = &self.templates[self.next];
            let Some(frame) = self.pool.alloc_bytes(&self.arena, template) else {
                break;
            };
            self.next = (self.next + 1) % self.templates.len();
            self.outbox.push_back(frame);
        }
        let sent = self
            .port
            .transmit(PortId(0), &mut self.pool, &mut self.outbox);
        self.port.kick();
        self.port.reclaim(&mut self.pool);
        sent
    }
}

impl Generator {
    /// A thread on `core` with groups of senders; it is quiet at first.
    ///
    /// # Panics
    /// When there is no thread to be had.
    pub(super) fn start(
        core: Option<core_affinity::CoreId>,
        mut groups: Vec<Vec<Sender>>,
    ) -> Generator {
        let shared = Arc::new(Shared {
            sending: AtomicUsize::new(QUIET),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let ours = shared.clone();
        let work = move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            while !ours.stop.load(Ordering::Relaxed) {
                let Some(group) = groups.get_mut(ours.sending.load(Ordering::Relaxed)) else {
                    std::thread::park();
                    continue;
                };
                let sent: usize = group.iter_mut().map(Sender::burst).sum();
                ours.sent.fetch_add(sent as u64, Ordering::Relaxed);
            }
        };
        let thread = std::thread::Builder::new().name("generator".into());
        Generator {
            shared,
            thread: Some(thread.spawn(work).expect("a thread")),
        }
    }

    /// Lets a group send, or with [`QUIET`] none.
    pub(super) fn send_from(&self, group: usize) {
        self.shared.sending.store(group, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Frames given to devices so far.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}
