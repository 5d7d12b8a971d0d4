// SPDX-License-Identifier: Apache-2.0
//! Forwarders with two machines each, of which one runs at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use hdrhistogram::Histogram;
use tempfile::TempDir;

use super::guest::Generator;
use super::load::Load;
use super::ovs::Ovs;
use super::side::Side;
use super::switch::Whole;
use super::testpmd::Testpmd;

/// Seconds in which queues fill.
const SETTLE: f64 = 0.15;
/// How often each flow that is answered has come by before anything is measured, and how long that may take.
const KNOWN: u64 = 3;
const LEARNED: Duration = Duration::from_secs(120);

/// A forwarder that there is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The switch.
    Switch,
    /// dpdk-testpmd in mode `io`.
    Testpmd,
    /// Open vSwitch with DPDK, and where it is.
    Ovs(PathBuf),
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Packets a second that arrived.
    pub(super) rate: f64,
    /// Share that was lost of what was taken from the sender.
    pub(super) lost: f64,
}

/// A forwarder, and two machines on it.
struct Bed {
    side: Box<dyn Side>,
    generator: Generator,
}

impl Bed {
    fn new(side: Box<dyn Side>, load: &Load) -> Bed {
        let mut generator = Generator::new(load);
        generator.connect(side.sockets(), load.features);
        side.run(false);
        Bed { side, generator }
    }

    /// Sends until all flows are known.
    fn learn(&mut self, load: &Load) {
        self.side.run(true);
        self.side.set_up(0);
        let begun = Instant::now();
        let come_by = |generator: &mut Generator, times: u64| {
            while generator.drain().0 < times * u64::from(load.flows()) {
                assert!(begun.elapsed() < LEARNED, "flows come by too slowly");
                generator.run(0.25);
            }
        };
        come_by(&mut self.generator, 1);
        // TCP that is joined midway counts as answered.
        if !load.is_whole() {
            self.generator.answer(load.flows());
            come_by(&mut self.generator, KNOWN);
        }
        self.side.begin(load.flows());
        let (header, frame) = self.generator.last(load.frame.len());
        load.check(&header, &frame, self.side.routes());
        self.side.run(false);
    }

    /// Lets it run for a while; `measure` gets it when its queues are as full as `settle` makes them.
    fn slice(
        &mut self,
        way: usize,
        settle: impl FnOnce(&mut Generator),
        measure: impl FnOnce(&mut Generator) -> f64,
    ) -> Slice {
        self.side.run(true);
        self.side.set_up(way);
        let (sent, received) = self.generator.drain();
        settle(&mut self.generator);
        let rate = measure(&mut self.generator);
        let (all, arrived) = self.generator.drain();
        self.side.run(false);
        let lost = 1.0 - (arrived - received) as f64 / (all - sent) as f64;
        Slice { rate, lost }
    }
}

/// Forwarders that take turns.
pub(super) struct Beds {
    beds: Vec<Bed>,
    // After all that has files in it.
    _folder: TempDir,
}

impl Beds {
    /// Makes them, every other time in reverse order.
    ///
    /// # Panics
    /// When one of them cannot be made, or does not forward what it should.
    pub(super) fn new(number: usize, kinds: &[Kind], cores: (CoreId, CoreId), load: &Load) -> Beds {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |at: usize| {
            let path = folder.path().join(at.to_string());
            std::fs::create_dir(&path).expect("a folder");
            let (main, core) = cores;
            let side: Box<dyn Side> = match &kinds[at] {
                Kind::Switch => Box::new(Whole::pair(&path, core, load.flows())),
                Kind::Testpmd => Box::new(Testpmd::new(&path, main, core, load.is_whole())),
                Kind::Ovs(root) => Box::new(Ovs::new(root.clone(), &path, main, core)),
            };
            Bed::new(side, load)
        };
        let mut beds: Vec<Bed> = match number % 2 {
            0 => (0..kinds.len()).map(make).collect(),
            _ => {
                let mut beds: Vec<Bed> = (0..kinds.len()).rev().map(make).collect();
                beds.reverse();
                beds
            }
        };
        beds.iter_mut().for_each(|bed| bed.learn(load));
        Beds {
            beds,
            _folder: folder,
        }
    }

    /// Who takes part: each bed in each of its ways.
    fn ways(&self) -> Vec<(usize, usize)> {
        let ways = |at: usize| (0..self.beds[at].side.names().len()).map(move |way| (at, way));
        (0..self.beds.len()).flat_map(ways).collect()
    }

    /// What they are called.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let ways = self.ways().into_iter();
        ways.map(|(at, way)| self.beds[at].side.names()[way])
            .collect()
    }

    /// Samples of each in rounds of A B C C B A: as fast as they can, for so long each.
    pub(super) fn rates(&mut self, rounds: usize, length: Duration) -> Vec<Vec<Slice>> {
        self.rounds(rounds, |bed, way| {
            let settle = |generator: &mut Generator| {
                generator.run(SETTLE);
            };
            bed.slice(way, settle, |generator| generator.run(length.as_secs_f64()))
        })
    }

    /// The same at an even pace, packets a second, with the cycles that packets took from one machine to the other.
    pub(super) fn delays(
        &mut self,
        rounds: usize,
        length: Duration,
        rate: f64,
    ) -> Vec<Vec<(Slice, Histogram<u64>)>> {
        self.rounds(rounds, |bed, way| {
            let bounds = Histogram::new_with_bounds(1, 1 << 40, 3);
            let mut histogram = bounds.expect("three digits are allowed");
            let settle = |generator: &mut Generator| {
                generator.pace(rate, SETTLE, |_| ());
            };
            let slice = bed.slice(way, settle, |generator| {
                generator.pace(rate, length.as_secs_f64(), |cycles| {
                    histogram.saturating_record(cycles);
                })
            });
            (slice, histogram)
        })
    }

    fn rounds<T>(
        &mut self,
        rounds: usize,
        mut sample: impl FnMut(&mut Bed, usize) -> T,
    ) -> Vec<Vec<T>> {
        let ways = self.ways();
        let mut samples: Vec<Vec<T>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for n in (0..ways.len()).chain((0..ways.len()).rev()) {
                let (at, way) = ways[n];
                samples[n].push(sample(&mut self.beds[at], way));
            }
        }
        samples
    }

    /// Sees to it that all of them forwarded what they should; what is wrong with their figures otherwise.
    ///
    /// # Panics
    /// When one did not.
    pub(super) fn end(mut self) -> Vec<String> {
        self.beds.iter_mut().for_each(|bed| bed.side.end());
        let problems = self.beds.iter().filter_map(|bed| bed.side.problem());
        problems.collect()
    }
}
