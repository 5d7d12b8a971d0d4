// SPDX-License-Identifier: Apache-2.0
//! The two that are compared: the switch, and the bare loop, each on pods of its own.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use podswitch_datapath::frame::{Arena, Pool};
use podswitch_datapath::port::Port;
use podswitch_datapath::port::xdp::{
    ArenaPlan, Features, KernelDrops, Steering, Umem, XdpConfig, XdpHandle,
};
use podswitch_datapath::switch::{
    Device, IdleConfig, MemoryPlan, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::worker::clock::{Clock, cycles};
use podswitch_datapath::{PortId, WorkerId};

use super::bed::{Bed, MTU};
use crate::bare::Bare;
use crate::traffic;

/// What a forwarder has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Work {
    /// Cycles of turns that moved frames.
    pub(super) busy: u64,
    /// Frames that the kernel dropped at the sockets, for want of a chunk or room in the receive ring.
    pub(super) kernel_drops: u64,
    /// Frames that it dropped itself.
    pub(super) own_drops: u64,
}

/// A forwarder on a core of its own.
pub(super) trait Side {
    /// Lets it run, or rest.
    fn run(&self, on: bool);
    /// What it has done.
    fn work(&self) -> Work;
}

fn kernel_drops(handles: &[XdpHandle]) -> u64 {
    let drops = |handle: &XdpHandle| handle.socket()?.kernel_drops().ok();
    let sum = |d: KernelDrops| d.fill_ring_empty + d.rx_ring_full + d.rx_dropped;
    handles.iter().filter_map(drops).map(sum).sum()
}

/// The switch.
pub(super) struct Whole {
    switch: Switch,
    handles: Vec<XdpHandle>,
    _steering: Vec<Steering>,
}

impl Whole {
    /// On all pods of a bed.
    ///
    /// # Panics
    /// When a port cannot be made.
    pub(super) fn new(bed: &mut Bed, core: CoreId, features: Features) -> Whole {
        let pods = bed.pods.len();
        let config = SwitchConfig {
            workers: vec![WorkerConfig {
                core: Some(core.id),
                require_core: true,
            }],
            features,
            // It sleeps while the other one runs, however long waking takes here.
            idle: IdleConfig {
                latency: Duration::from_secs(3600),
                ..IdleConfig::default()
            },
            memory: MemoryPlan {
                ports_per_arena: Some(pods as u32),
                chunks_per_port: None,
            },
            ..SwitchConfig::default()
        };
        let mut switch = Switch::start(config, traffic::empty_tables()).expect("a switch");
        traffic::describe_pods(&mut switch, pods, MTU);
        let (mut handles, mut steering) = (Vec::new(), Vec::new());
        for pod in 0..pods {
            let spec = PortSpec {
                worker: Some(WorkerId(0)),
                mtu: MTU,
                device: Device::Xdp {
                    queue: bed.pods[pod].queue,
                    superframes: false,
                },
                faults: None,
            };
            let inside = bed.node.netns().enter().expect("the node's namespace");
            let mut added = switch
                .add_port(PortId(pod as u16), spec)
                .expect("an AF_XDP port");
            drop(inside);
            let handle = added.xdp.remove(0);
            let socket = handle.socket().expect("an open socket");
            steering.push(bed.steer(pod, socket.as_fd()));
            handles.push(handle);
        }
        Whole {
            switch,
            handles,
            _steering: steering,
        }
    }
}

impl Side for Whole {
    /// It rests by itself.
    fn run(&self, _on: bool) {}

    fn work(&self) -> Work {
        Work {
            busy: self.switch.workers()[0].cycles.busy,
            kernel_drops: kernel_drops(&self.handles),
            own_drops: self.switch.counters().drops.iter().sum(),
        }
    }
}

/// The bare loop.
pub(super) struct Plain {
    handles: Vec<XdpHandle>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _steering: Vec<Steering>,
}

#[derive(Default)]
struct Shared {
    running: AtomicBool,
    stop: AtomicBool,
    busy: AtomicU64,
    dropped: AtomicU64,
}

impl Plain {
    /// On all pods of a bed, with sockets and memory as the switch makes them.
    ///
    /// # Panics
    /// When a port cannot be made.
    pub(super) fn new(bed: &mut Bed, core: CoreId, features: Features) -> Plain {
        let pods = bed.pods.len();
        let defaults = SwitchConfig::default();
        let plan = ArenaPlan::new(MTU, 1);
        let arena = Arena::new(WorkerId(0), plan.chunks * pods as u32);
        let arena = Arc::new(arena.expect("memory for the ports"));
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let mut umem = Umem::new(arena, features);
        let (mut handles, mut steering, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for pod in 0..pods {
            let mut config = XdpConfig::new(PortId(pod as u16), bed.pods[pod].queue, plan.port);
            config.kicks_per_turn = defaults.kicks_per_turn;
            let inside = bed.node.netns().enter().expect("the node's namespace");
            let mut port = umem.open(&config).expect("an AF_XDP port");
            drop(inside);
            port.reclaim(&mut pool);
            steering.push(bed.steer(pod, port.socket()));
            handles.push(port.handle());
            ports.push(Port::Xdp(Box::new(port)));
        }
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let work = move || {
            core_affinity::set_for_current(core);
            forward(Bare::new(ports, pool), &ours);
        };
        let thread = std::thread::Builder::new().name("bare".into());
        Plain {
            handles,
            shared,
            thread: Some(thread.spawn(work).expect("a thread")),
            _steering: steering,
        }
    }
}

/// Turns the loop while it is to run; it keeps accounts, spins and sleeps as a worker does.
fn forward(mut bare: Bare, shared: &Shared) {
    let spin = Clock::get().cycles(IdleConfig::default().spin);
    let mut worked_at = cycles();
    while !shared.stop.load(Ordering::Relaxed) {
        if !shared.running.load(Ordering::Relaxed) {
            std::thread::park();
            continue;
        }
        let began = cycles();
        let worked = bare.turn();
        let ended = cycles();
        if worked {
            worked_at = ended;
            let busy = shared.busy.load(Ordering::Relaxed) + ended.wrapping_sub(began);
            shared.busy.store(busy, Ordering::Relaxed);
            shared.dropped.store(bare.dropped, Ordering::Relaxed);
        } else if ended.wrapping_sub(worked_at) > spin {
            bare.sleep();
        } else {
            std::hint::spin_loop();
        }
    }
    bare.close();
}

impl Side for Plain {
    fn run(&self, on: bool) {
        self.shared.running.store(on, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    fn work(&self) -> Work {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Work {
            busy: load(&self.shared.busy),
            kernel_drops: kernel_drops(&self.handles),
            own_drops: load(&self.shared.dropped),
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}
