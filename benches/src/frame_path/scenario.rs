// SPDX-License-Identifier: Apache-2.0
//! Which flows there are.

use std::fmt;
use std::sync::Arc;

use podswitch_datapath::port::MemoryDevice;

use crate::stats::Random;
use crate::traffic::{Family, Flow, Templates, frame};
use crate::valve::Valve;

/// Pods, each on a port of its own.
pub const PORTS: usize = 32;
/// How often each flow comes in a port's sequence of frames, so that it is none that a cache or predictor learns.
const REPEATS: usize = 4;

/// Who sends to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// Two pods talk to each other, the others are quiet.
    TwoPods,
    /// Every pod sends to one other.
    Pairs,
    /// Every pod sends to every other one.
    All,
}

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Address family.
    pub family: Family,
    /// Flows, over all pods; a conversation's two directions count as one.
    pub flows: usize,
    /// Who sends to whom.
    pub spread: Spread,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flows, s) = (self.flows, if self.flows == 1 { "" } else { "s" });
        let spread = match self.spread {
            Spread::TwoPods => "2 pods",
            Spread::Pairs => "pod to pod",
            Spread::All => "any to any",
        };
        write!(f, "{}, {flows} flow{s}, {spread}", self.family)
    }
}

/// What is measured.
pub fn scenarios() -> Vec<Scenario> {
    let loads = [
        (1, Spread::TwoPods),
        (PORTS, Spread::Pairs),
        (10_000, Spread::Pairs),
        (10_000, Spread::All),
    ];
    let families = [Family::V4, Family::V6];
    let all = families.into_iter().flat_map(|family| {
        loads.into_iter().map(move |(flows, spread)| Scenario {
            family,
            flows,
            spread,
        })
    });
    all.collect()
}

impl Scenario {
    /// How many pods send.
    pub fn senders(&self) -> usize {
        match self.spread {
            Spread::TwoPods => 2,
            Spread::Pairs | Spread::All => PORTS,
        }
    }

    /// The flows that pod `from` sends.
    pub fn flows_from(&self, from: usize) -> Vec<Flow> {
        let flow = |to, port| Flow { from, to, port };
        match self.spread {
            // The other direction has the ports the other way round in real life; a datagram is all that matters here.
            Spread::TwoPods if from < 2 => vec![flow(1 - from, 20_000)],
            Spread::TwoPods => Vec::new(),
            Spread::Pairs | Spread::All => (from..self.flows)
                .step_by(PORTS)
                .enumerate()
                .map(|(n, _)| {
                    let to = match self.spread {
                        Spread::All => (from + 1 + n % (PORTS - 1)) % PORTS,
                        _ => from ^ 1,
                    };
                    flow(to, 20_000 + n as u16)
                })
                .collect(),
        }
    }

    /// The memory ports of the pods; `frames` frames in all circle among them while the valve is
    /// open.
    pub fn devices(&self, frames: u32, valve: &Arc<Valve>) -> Vec<MemoryDevice> {
        let each = frames / self.senders() as u32;
        let device = |pod: usize| {
            let mut sequence: Vec<Flow> = Vec::new();
            for _ in 0..REPEATS {
                sequence.extend(self.flows_from(pod));
            }
            Random::new(pod as u64).shuffle(&mut sequence);
            let frames = if sequence.is_empty() { 0 } else { each };
            let templates = sequence.iter().map(|&f| frame(f, self.family));
            MemoryDevice::circle(frames, Box::new(Templates::new(templates, valve)))
        };
        (0..PORTS).map(device).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_as_many_flows_as_said() {
        for scenario in scenarios() {
            let all: Vec<Flow> = (0..PORTS).flat_map(|p| scenario.flows_from(p)).collect();
            let expected = scenario.flows.max(scenario.senders());
            assert_eq!(all.len(), expected, "{scenario}");
            let distinct: BTreeSet<_> = all.iter().map(|f| (f.from, f.to, f.port)).collect();
            assert_eq!(distinct.len(), expected, "{scenario}");
            assert!(all.iter().all(|f| f.from != f.to && f.to < PORTS));
        }
    }
}
