// SPDX-License-Identifier: Apache-2.0
//! A whole switch whose worker is turned by the benchmark.

use podswitch_datapath::switch::SwitchConfig;

use super::Scenario;
use super::scenario::PORTS;
use crate::traffic;
use crate::turned::{MTU, Node, Pipeline};
use crate::valve::Valve;

/// A switch with a worker without a thread.
pub struct Whole(Node);

impl Whole {
    /// With [`PORTS`] pods, of which those that the scenario says send.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(scenario: &Scenario, frames: u32) -> Whole {
        let mut node = Node::start(SwitchConfig::default(), PORTS, frames);
        traffic::describe_pods(&mut node.switch, PORTS, MTU);
        let valve = Valve::closed();
        node.add(scenario.devices(frames, &valve));
        valve.free();
        Whole(node)
    }

    /// Sees to it that what was measured was the whole: every frame was forwarded, none dropped, and each was counted by
    /// a rule of its sender and one of its receiver.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        assert_eq!(self.0.drops(), [], "frames were dropped");
        let counters = self.0.switch.counters();
        let received: u64 = counters.ports.values().map(|p| p.rx.packets).sum();
        let sent: u64 = counters.ports.values().map(|p| p.tx.packets).sum();
        let judged: u64 = counters.rules.values().map(|r| r.packets).sum();
        assert_eq!((sent, judged), (received, 2 * received));
    }
}

impl Pipeline for Whole {
    fn turn(&mut self) {
        self.0.switch.turn();
    }

    fn packets(&mut self) -> u64 {
        self.0.received()
    }
}
