// SPDX-License-Identifier: Apache-2.0
//! Pipelines on ports in memory that the benchmark turns itself, instead of a thread.

use std::sync::Arc;
use std::time::Duration;

use core_affinity::CoreId;
use podswitch_datapath::frame::{Arena, Pool};
use podswitch_datapath::port::{MemoryDevice, MemoryPort, Port};
use podswitch_datapath::switch::{
    Device, IdleConfig, MemoryPlan, Mode, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::worker::clock::{Clock, cycles};
use podswitch_datapath::{PortId, WorkerId};

use crate::bare::Bare;
use crate::{Settings, machine, traffic};

/// Largest packet of every port.
pub const MTU: u32 = 1500;

/// Something that moves frames when it is turned.
pub trait Pipeline {
    /// One turn.
    fn turn(&mut self);
    /// Frames received so far.
    fn packets(&mut self) -> u64;
    /// What another thread does between some turns.
    fn control(&mut self) {}
}

impl Pipeline for Bare {
    fn turn(&mut self) {
        Bare::turn(self);
    }

    fn packets(&mut self) -> u64 {
        self.packets
    }
}

/// Turns between two looks at the clock.
const TURNS: u32 = 16;

/// Turns it for about so many cycles; how many they were, without those of [`Pipeline::control`].
pub fn turn_for(pipeline: &mut dyn Pipeline, at_least: u64) -> u64 {
    let mut spent = 0;
    while spent < at_least {
        let start = cycles();
        for _ in 0..TURNS {
            pipeline.turn();
        }
        spent += cycles().wrapping_sub(start);
        pipeline.control();
    }
    spent
}

/// Turns it for about so many cycles; cycles a packet, without those of [`Pipeline::control`].
///
/// # Panics
/// When no frame moved.
pub fn measure(pipeline: &mut dyn Pipeline, at_least: u64) -> f64 {
    let before = pipeline.packets();
    let spent = turn_for(pipeline, at_least);
    let packets = pipeline.packets() - before;
    assert!(packets > 0, "no frame moved in {spent} cycles");
    spent as f64 / packets as f64
}

/// As many frames as the second-level cache has lines. Each takes one, beside those of its template, its owner tag and its
/// place in queues; and frames lie a chunk apart, so that only a few of the cache's sets are theirs.
pub fn frames_beyond_l2() -> u32 {
    const LINE: usize = 64;
    let lines = machine::l2_bytes() / LINE;
    (lines as u32).clamp(8 << 10, 64 << 10)
}

/// How long to measure in memory, in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Of a sample.
    pub slice: u64,
    /// Before the first one.
    pub warm: u64,
    /// Rounds of samples.
    pub rounds: usize,
}

impl Lengths {
    /// As the settings say.
    pub fn of(settings: Settings) -> Lengths {
        let cycles = |millis| Clock::get().cycles(Duration::from_millis(millis));
        Lengths {
            slice: cycles(settings.pick(40, 5)),
            warm: cycles(settings.pick(200, 20)),
            rounds: settings.pick(40, 5),
        }
    }

    /// A sample, in milliseconds.
    pub fn slice_millis(&self) -> u64 {
        Clock::get().nanoseconds(self.slice) / 1_000_000
    }
}

/// Keeps the calling thread to the last core.
pub fn stay_on_last_core() {
    if let Some((_, core)) = outer_cores() {
        core_affinity::set_for_current(core);
    }
}

/// Keeps the calling thread to the first core, and says which the last one is: for a worker that has a thread.
pub fn stay_on_first_core() -> Option<usize> {
    let (first, last) = outer_cores()?;
    core_affinity::set_for_current(first);
    Some(last.id)
}

/// The first and the last core that this process may use.
fn outer_cores() -> Option<(CoreId, CoreId)> {
    let cores = core_affinity::get_core_ids()?;
    Some((*cores.first()?, *cores.last()?))
}

/// Chunks of the share of one of `ports` ports, `frames` frames circling among them: these, and a little more, as a port's
/// plan has it.
fn chunks_per_port(frames: u32, ports: usize) -> u32 {
    let each = frames.div_ceil(ports as u32);
    each + each / 4
}

/// The bare loop over devices among which `frames` frames circle, with memory as a [`Node`] has it.
///
/// # Panics
/// When there is no memory.
pub fn bare(devices: Vec<MemoryDevice>, frames: u32) -> Bare {
    let chunks = chunks_per_port(frames, devices.len()) * devices.len() as u32;
    let arena = Arena::new(WorkerId(0), chunks);
    let arena = Arc::new(arena.expect("memory for the frames"));
    let mut pool = Pool::new(WorkerId(0));
    pool.add_arena(arena.clone());
    let port = |device| Port::Memory(MemoryPort::new(device, arena.clone()));
    let ports: Vec<Port> = devices.into_iter().map(port).collect();
    Bare::new(ports, pool)
}

/// A whole switch of one worker.
pub struct Node {
    /// The switch.
    pub switch: Switch,
}

/// One worker with a thread of its own, kept to a core, that never sleeps.
pub fn one_worker(core: Option<usize>) -> SwitchConfig {
    let worker = WorkerConfig {
        core,
        require_core: false,
    };
    SwitchConfig {
        workers: vec![worker],
        mode: Mode::Threads,
        idle: IdleConfig {
            latency: Duration::ZERO,
            ..IdleConfig::default()
        },
        ..SwitchConfig::default()
    }
}

impl Node {
    /// With room for `ports` ports among which `frames` frames circle, and empty tables. Its worker has no thread.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn start(config: SwitchConfig, ports: usize, frames: u32) -> Node {
        let mode = Mode::Inline;
        Node::start_as(SwitchConfig { mode, ..config }, ports, frames)
    }

    /// The same in the mode that `config` says.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn start_as(config: SwitchConfig, ports: usize, frames: u32) -> Node {
        let config = SwitchConfig {
            memory: MemoryPlan {
                // One arena: frames are not copied on their way.
                ports_per_arena: Some(ports as u32),
                chunks_per_port: Some(chunks_per_port(frames, ports)),
            },
            ..config
        };
        let switch = Switch::start(config, traffic::empty_tables()).expect("a switch");
        Node { switch }
    }

    /// Adds ports, numbered from 0. Each turns the worker, so nobody should send before all are there.
    ///
    /// # Panics
    /// When one cannot be added.
    pub fn add(&mut self, devices: Vec<MemoryDevice>) {
        for (n, device) in devices.into_iter().enumerate() {
            self.add_one(PortId(n as u16), device);
        }
    }

    /// Adds a port. A worker serves its ports in the order in which they were added.
    ///
    /// # Panics
    /// When it cannot be added.
    pub fn add_one(&mut self, id: PortId, device: MemoryDevice) {
        let spec = PortSpec {
            worker: Some(WorkerId(0)),
            mtu: MTU,
            device: Device::Memory(device),
            faults: None,
        };
        let added = self.switch.add_port(id, spec);
        added.expect("a memory port");
    }

    /// Frames received so far.
    pub fn received(&self) -> u64 {
        let counters = self.switch.counters();
        counters.ports.values().map(|p| p.rx.packets).sum()
    }

    /// Frames dropped so far, by reason; those that were dropped for no reason are absent.
    pub fn drops(&self) -> Vec<(Reason, u64)> {
        let counters = self.switch.counters();
        let drops = Reason::ALL.iter().copied().zip(counters.drops);
        drops.filter(|(_, n)| *n > 0).collect()
    }
}
