// SPDX-License-Identifier: Apache-2.0
//! A whole switch whose worker is turned by the benchmark.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use podswitch_datapath::switch::{Device, MemoryPlan, Mode, PortSpec, Switch, SwitchConfig};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::{PortId, WorkerId};

use super::scenario::PORTS;
use super::{Pipeline, Scenario};
use crate::traffic;

const MTU: u32 = 1500;

/// Chunks of a port's share: what circles, and a little more, as a port's plan has it.
pub(super) fn chunks_per_port(frames: u32) -> u32 {
    let each = frames / PORTS as u32;
    each + each / 4
}

/// A switch with a worker without a thread.
pub struct Whole {
    switch: Switch,
}

impl Whole {
    /// With [`PORTS`] pods, of which those that the scenario says send.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(scenario: &Scenario, frames: u32) -> Whole {
        let config = SwitchConfig {
            mode: Mode::Inline,
            memory: MemoryPlan {
                // One arena: frames are not copied on their way.
                ports_per_arena: Some(PORTS as u32),
                chunks_per_port: Some(chunks_per_port(frames)),
            },
            ..SwitchConfig::default()
        };
        let mut switch = Switch::start(config, traffic::empty_tables()).expect("a switch");
        traffic::describe_pods(&mut switch, PORTS, MTU);
        // Adding a port turns the worker: nobody sends before all are there.
        let open = Arc::new(AtomicBool::new(false));
        for (pod, device) in scenario.devices(frames, &open).into_iter().enumerate() {
            let spec = PortSpec {
                worker: Some(WorkerId(0)),
                mtu: MTU,
                device: Device::Memory(device),
                faults: None,
            };
            let added = switch.add_port(PortId(pod as u16), spec);
            added.expect("a memory port");
        }
        open.store(true, Ordering::Relaxed);
        Whole { switch }
    }

    /// Sees to it that what was measured was the whole: every frame was forwarded, none dropped, and each was counted by
    /// a rule of its sender and one of its receiver.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        let counters = self.switch.counters();
        for (reason, dropped) in Reason::ALL.iter().zip(counters.drops) {
            assert_eq!(dropped, 0, "frames were dropped: {reason}");
        }
        let received: u64 = counters.ports.values().map(|p| p.rx.packets).sum();
        let sent: u64 = counters.ports.values().map(|p| p.tx.packets).sum();
        let judged: u64 = counters.rules.values().map(|r| r.packets).sum();
        assert_eq!((sent, judged), (received, 2 * received));
    }
}

impl Pipeline for Whole {
    fn turn(&mut self) {
        self.switch.turn();
    }

    fn packets(&mut self) -> u64 {
        let counters = self.switch.counters();
        counters.ports.values().map(|p| p.rx.packets).sum()
    }
}
