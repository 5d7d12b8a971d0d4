// SPDX-License-Identifier: Apache-2.0
//! A node whose pods talk to each other by established flows while another pod of it attacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use podswitch_datapath::PortId;
use podswitch_datapath::counters::{Counters, Event, PortStats};
use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::{FrameSource, MemoryDevice};
use podswitch_datapath::switch::SwitchConfig;
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::worker::clock::Clock;

use super::attack::Attack;
use super::flows::{Flows, Sender};
use super::node::{self, Counted, Policy, World};
use super::probe::count;
use crate::stats;
use crate::traffic::Family;
use crate::turned::{Lengths, Node, Pipeline, measure, turn_for};
use crate::valve::Valve;

/// Time before a sample, in which what was left in the rings is worked off.
pub const SETTLE: Duration = Duration::from_millis(10);

/// A load, and what disturbs it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Address family of both.
    pub family: Family,
    /// What the pod behind the last victim sends.
    pub attack: Attack,
    /// Pods that talk to each other; one less is a prime number, so that they do it evenly.
    pub victims: usize,
    /// Their flows.
    pub flows: usize,
    /// Connections that the flow table holds.
    pub entries: usize,
}

/// Frames that arrived at the victims.
#[derive(Debug, Default)]
struct Arrived {
    own: AtomicU64,
    /// Those of the attacker.
    foreign: AtomicU64,
}

/// The source of a victim's frames; those of the attacker that arrive are counted, and end.
#[derive(Debug)]
struct Victim {
    sender: Sender,
    /// Where the number of the sending pod stands, and the attacker's.
    number: usize,
    attacker: [u8; 2],
    arrived: Arc<Arrived>,
}

impl FrameSource for Victim {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        let from = frame.bytes().get(self.number..self.number + 2);
        if from == Some(&self.attacker) {
            count(&self.arrived.foreign);
            return false;
        }
        if from.is_some() {
            count(&self.arrived.own);
        }
        self.sender.write(frame)
    }

    fn ready(&self) -> usize {
        self.sender.ready()
    }

    fn received(&mut self, frames: usize) {
        self.sender.received(frames);
    }
}

/// What came of a slice of time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Frames a second that arrived from victim to victim.
    pub delivered: f64,
    /// Of a million that victims had, so many were lost before the worker took them.
    pub lost: f64,
    /// Frames a second that were taken from the attacker.
    pub taken: f64,
    /// Share of the worker's time that went into them.
    pub share: f64,
}

/// The node.
pub struct Siege {
    load: Load,
    node: Node,
    talk: Arc<Valve>,
    attack: Arc<Valve>,
    arrived: Arc<Arrived>,
}

impl Pipeline for Siege {
    fn turn(&mut self) {
        self.node.switch.turn();
    }

    fn packets(&mut self) -> u64 {
        self.node.received()
    }
}

impl Siege {
    /// With the flows established and nobody attacking; `frames` frames of the victims circle.
    ///
    /// # Panics
    /// When not every flow is a connection.
    pub fn start(load: Load, world: &World, frames: u32) -> Siege {
        let config = SwitchConfig {
            flow_entries: load.entries,
            ..SwitchConfig::default()
        };
        let flows = Flows::new(load.family, load.flows, load.victims);
        let (talk, attack) = (Valve::closed(), Valve::closed());
        let arrived = Arc::new(Arrived::default());
        let victim = |sender| {
            let victim = Victim {
                sender,
                // The last bytes of the source address.
                number: match load.family {
                    Family::V4 => 28,
                    Family::V6 => 36,
                },
                attacker: (load.victims as u16).to_be_bytes(),
                arrived: arrived.clone(),
            };
            let each = frames.div_ceil(load.victims as u32);
            MemoryDevice::circle(each, Box::new(victim))
        };
        let mut devices: Vec<_> = flows.senders(&talk).into_iter().map(victim).collect();
        let attacker = load.attack;
        devices.push(attacker.device(load.family, load.victims, load.victims, &attack));
        let mut node = node::start(config, Policy::Of(world), frames, devices);
        talk.free();
        node::establish(&mut node, &flows);
        assert_eq!(Counted::all(&node).flows(), load.flows as u64);
        Siege {
            load,
            node,
            talk,
            attack,
            arrived,
        }
    }

    /// Frames a second that the worker moves at most, with nobody attacking.
    pub fn capacity(&mut self, lengths: Lengths) -> f64 {
        measure(self, lengths.warm);
        let cycles: Vec<f64> = (0..lengths.rounds)
            .map(|_| measure(self, lengths.slice))
            .collect();
        Clock::get().hertz() as f64 / stats::median(&cycles)
    }

    /// Has the attacker send until it has its share of all there is, while the victims send all they can.
    pub fn storm(&mut self) {
        /// For each connection in the table, that many frames.
        const FRAMES: usize = 4;
        self.attack.free();
        while self.attacker().rx.packets < (self.load.entries * FRAMES) as u64 {
            (0..64).for_each(|_| self.turn());
        }
        self.attack.close();
    }

    /// From now on victims have so many frames a second, all together.
    pub fn pace(&mut self, frames_a_second: f64) {
        self.talk.pace(frames_a_second / self.load.victims as f64);
    }

    /// Measures for so many cycles, with the attacker sending as much as is taken from it or nothing.
    ///
    /// # Panics
    /// When a victim's packet did not pass by its connection's entry although nobody attacked.
    pub fn sample(&mut self, attacked: bool, slice: u64) -> Sample {
        match attacked {
            true => self.attack.free(),
            false => self.attack.close(),
        }
        let (counters, attacker) = (self.node.switch.counters(), self.attacker());
        let settled = turn_for(self, Clock::get().cycles(SETTLE));
        let before = self.victims();
        let spent = turn_for(self, slice);
        let after = self.victims();
        let (own, lost) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
        let after = self.attacker();
        if !attacked {
            self.check_known(counters);
        }
        let seconds = |cycles: u64| cycles as f64 / Clock::get().hertz() as f64;
        Sample {
            delivered: own / seconds(spent),
            lost: lost / (own + lost) * 1e6,
            taken: (after.rx.packets - attacker.rx.packets) as f64 / seconds(settled + spent),
            share: (after.cycles - attacker.cycles) as f64 / (settled + spent) as f64,
        }
    }

    /// Frames of victims that arrived, and that were lost before the worker took them.
    fn victims(&self) -> (u64, u64) {
        (self.arrived.own.load(Ordering::Relaxed), self.talk.lost())
    }

    /// What was counted for the attacker.
    pub fn attacker(&self) -> PortStats {
        self.port(self.load.victims)
    }

    fn port(&self, pod: usize) -> PortStats {
        let counters = self.node.switch.counters();
        counters.ports[&PortId(pod as u16)].clone()
    }

    /// Sees to it that every packet since then was one of a connection that was known and needed no judgement.
    fn check_known(&self, before: Counters) {
        let counted = Counted::since(before, &self.node);
        let (received, _) = counted.traffic();
        assert!(received > 0, "no frame moved");
        assert_eq!(counted.event(Event::FlowMiss), 0, "unknown connections");
        assert_eq!(counted.event(Event::FlowHit), received);
    }

    /// Sees to it that what was measured was the whole: what victims sent has arrived, and what the attacker sent was dropped
    /// for the reasons that there are for it, but for what policy lets on, which has arrived too.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        let mut sent = 0;
        for victim in 0..self.load.victims {
            let port = self.port(victim);
            for reason in Reason::ALL {
                let dropped = port.dropped(*reason);
                assert_eq!(dropped, 0, "frames of a victim were dropped: {reason}");
            }
            sent += port.rx.packets;
        }
        assert_eq!(self.victims().0, sent, "frames of victims that arrived");
        let attacker = self.attacker();
        let dropped = attacker.dropped_all();
        let foreign = self.arrived.foreign.load(Ordering::Relaxed);
        assert_eq!(attacker.rx.packets, dropped + foreign);
        let mut usual = 0;
        for reason in self.load.attack.reasons(self.load.family) {
            let dropped = attacker.dropped(*reason);
            assert!(dropped > 0, "no frame of the attack was dropped: {reason}");
            usual += dropped;
        }
        assert!(
            usual * 10 > dropped * 9,
            "{usual} of {dropped} were dropped as they should"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Size;
    use super::*;

    #[test]
    fn a_flood_is_dropped_and_its_neighbours_lose_nothing() {
        let world = World::new(Size::SMALL);
        for family in [Family::V4, Family::V6] {
            for attack in Attack::ALL {
                let load = Load {
                    family,
                    attack,
                    victims: 6,
                    flows: 60,
                    entries: 1024,
                };
                let mut siege = Siege::start(load, &world, 600);
                siege.storm();
                siege.check();
                let before = siege.node.switch.counters();
                (0..50).for_each(|_| siege.turn());
                siege.check_known(before);
                siege.check();
            }
        }
    }
}
