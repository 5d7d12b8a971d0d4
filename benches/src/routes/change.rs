// SPDX-License-Identifier: Apache-2.0
//! Prefixes that change while a worker forwards by the table.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use podswitch_datapath::port::MemoryDevice;
use podswitch_datapath::worker::clock::{self, cycles};
use podswitch_datapath::{PortId, VrfId};

use super::table::{self, Public, ROUTERS, by};
use crate::Settings;
use crate::outcome::Outcome;
use crate::pair::{Flows, Over, POD, UPLINK, devices, set_pod};
use crate::policy::probe::{Clock, Turns};
use crate::stats::{Random, Rounds, quantile};
use crate::traffic;
use crate::turned::{Node, frames_beyond_l2, one_worker};
use crate::valve::Valve;

/// The port that notes the worker's turns.
const CLOCK: PortId = PortId(3);
const FLOWS: usize = 10_000;
/// Changes a second where they are few: what the public table has at a busy time.
const PACED: f64 = 100.0;
/// Time for the worker to do what it has begun.
const BREATH: Duration = Duration::from_millis(2);

/// What a change took, in cycles.
#[derive(Clone, Copy, Debug)]
struct Times {
    build: u64,
    publish: u64,
    /// Freeing what it replaced, once it is in force.
    free: u64,
}

/// A switch under full load whose routes change.
struct Rig {
    node: Node,
    turns: Arc<Turns>,
    valve: Arc<Valve>,
    /// The prefixes, and the router of each as it is now; none while it is withdrawn.
    prefixes: Vec<(Ipv4Net, Option<u32>)>,
    random: Random,
    /// The prefix that is withdrawn.
    gone: Option<usize>,
}

impl Rig {
    /// Its flows go to addresses all over the table.
    fn start(public: &Public, core: Option<usize>, frames: u32) -> Rig {
        let mut node = Node::start_as(one_worker(core), 3, frames);
        let mut edit = node.switch.edit();
        set_pod(&mut edit);
        table::set_link(&mut edit, UPLINK);
        table::set_prefixes(&mut edit, public, UPLINK);
        traffic::publish(&mut node.switch, edit);
        let mut random = Random::new(11);
        let remotes = public.announced(FLOWS, &mut random);
        let remotes: Vec<_> = remotes.into_iter().map(Ipv4Addr::from).collect();
        let (to, from) = remotes.split_at(FLOWS / 2);
        let flows = Flows {
            to: to.into(),
            from: from.into(),
            count: FLOWS / 2,
        };
        let (turns, valve) = (Arc::default(), Valve::closed());
        let served = Arc::new(AtomicBool::new(false));
        node.add_one(
            CLOCK,
            MemoryDevice::spring(Box::new(Clock::new(&served, &turns))),
        );
        let native = (Over::Native, Over::Native);
        let [pod, nic] = devices(&flows, native.1, native, frames, &valve, Some(&served));
        node.add_one(POD, pod);
        node.add_one(UPLINK, nic);
        valve.free();
        let prefixes = public.prefixes.iter().map(|(p, r)| (*p, Some(*r)));
        Rig {
            node,
            turns,
            valve,
            prefixes: prefixes.collect(),
            random,
            gone: None,
        }
    }

    /// Moves a prefix to another router; or withdraws one, and announces it again with the next change.
    fn change(&mut self, withdraw: bool) -> Times {
        let at = match self.gone.take() {
            Some(gone) => gone,
            None => self.random.below(self.prefixes.len()),
        };
        let (prefix, router) = &mut self.prefixes[at];
        *router = match *router {
            Some(_) if withdraw => None,
            Some(router) => Some((router + 1) % ROUTERS),
            None => Some(at as u32 % ROUTERS),
        };
        let (prefix, router) = (IpNet::V4(*prefix), *router);
        self.gone = router.is_none().then_some(at);
        let began = cycles();
        let mut edit = self.node.switch.edit();
        match router {
            Some(router) => edit.set_route(VrfId(0), prefix, by(UPLINK, router)),
            None => edit.remove_route(VrfId(0), prefix),
        };
        let tables = edit.build().expect("tables");
        let built = cycles();
        self.node.switch.publish(tables);
        let published = cycles();
        self.node.switch.reclaim();
        Times {
            build: built - began,
            publish: published - built,
            free: cycles() - published,
        }
    }

    /// Makes changes for so many cycles: as many as there can be, or so many a second.
    fn change_for(&mut self, length: u64, a_second: Option<f64>, withdraw: bool) -> Vec<Times> {
        let every = a_second.map_or(0, |n| (clock::Clock::get().hertz() as f64 / n) as u64);
        let (begin, mut times) = (cycles(), Vec::new());
        let end = begin + length;
        while cycles() < end {
            times.push(self.change(withdraw));
            let next = begin + every * times.len() as u64;
            while cycles() < next.min(end) {
                std::hint::spin_loop();
            }
        }
        times
    }

    /// Ends the load, and sees to it that no frame was lost.
    fn finish(&mut self) -> u64 {
        self.valve.close();
        let mut received = None;
        while received.replace(self.node.received()) != Some(self.node.received()) {
            self.node.switch.wait_for_tables().expect("the worker runs");
            std::thread::sleep(BREATH);
        }
        // Those of a withdrawn prefix alone.
        let unrouted = |(reason, _): &(podswitch_datapath::Reason, u64)| {
            !matches!(reason, podswitch_datapath::Reason::NoRoute)
        };
        let drops: Vec<_> = self.node.drops().into_iter().filter(unrouted).collect();
        assert_eq!(drops, [], "frames were dropped");
        received.unwrap_or(0)
    }
}

/// Measures changes, each alone and what they do to the traffic.
pub fn measure(outcome: &mut Outcome, settings: Settings, public: &Public, core: Option<usize>) {
    let cycles_of = |millis| clock::Clock::get().cycles(Duration::from_millis(millis));
    let mut rig = Rig::start(public, core, frames_beyond_l2());
    std::thread::sleep(Duration::from_millis(settings.pick(500, 100)));
    for (withdraw, what) in [(false, "another next hop"), (true, "withdrawn, announced")] {
        let times = rig.change_for(cycles_of(settings.pick(5000, 300)), Some(2000.0), withdraw);
        let of = |f: fn(&Times) -> u64| times.iter().map(|t| micros(f(t))).collect();
        for (part, samples) in [
            ("edit and build", of(|t| t.build)),
            ("publish", of(|t| t.publish)),
            ("until it is in force", of(|t| t.build + t.publish)),
            ("freeing what it replaced", of(|t| t.free)),
            ("all", of(|t| t.build + t.publish + t.free)),
        ] {
            outcome.add_distribution(&format!("a prefix, {what}: {part}"), "us", samples);
        }
    }
    let rounds = settings.pick(10, 2);
    let slice = cycles_of(settings.pick(500, 100));
    for (rate, what) in [
        (Some(PACED), "100 changes a second"),
        (None, "changes all the time"),
    ] {
        load(outcome, &mut rig, (what, rate), (rounds, slice));
    }
    let received = rig.finish() as f64 / 1e6;
    outcome.add_figure(
        "frames while routes changed, none lost",
        received,
        "million",
    );
}

/// The worker's rate and its turns with changes and without.
fn load(
    outcome: &mut Outcome,
    rig: &mut Rig,
    (what, rate): (&str, Option<f64>),
    (rounds, slice): (usize, u64),
) {
    const TURNS: [(&str, f64); 3] = [("median", 0.5), ("p99.9", 0.999), ("longest", 1.0)];
    let mut rates = Rounds::default();
    let mut turns: [Rounds; TURNS.len()] = Default::default();
    let (mut changes, mut time) = (0, 0);
    for _ in 0..rounds {
        rates.take(|changing| {
            rig.turns.begin();
            let (before, began) = (rig.node.received(), cycles());
            match changing {
                true => {
                    changes += rig.change_for(slice, rate, false).len();
                    time += slice;
                }
                false => while cycles() < began + slice {},
            }
            let took = clock::Clock::get().nanoseconds(cycles() - began) as f64;
            let frames = (rig.node.received() - before) as f64;
            let taken: Vec<f64> = rig
                .turns
                .end()
                .into_iter()
                .map(|t| micros(t.into()))
                .collect();
            for (rounds, (_, share)) in turns.iter_mut().zip(TURNS) {
                let side = if changing {
                    &mut rounds.a
                } else {
                    &mut rounds.b
                };
                side.push(quantile(&taken, share));
            }
            frames / took * 1e6
        });
    }
    let seconds = clock::Clock::get().nanoseconds(time) as f64 / 1e9;
    outcome.add_figure(
        &format!("{what}: made"),
        changes as f64 / seconds,
        "changes a second",
    );
    outcome.add_rounds(&format!("{what}: rate"), ("changes", "none"), "kpps", rates);
    for (rounds, (share, _)) in turns.into_iter().zip(TURNS) {
        outcome.add_rounds(
            &format!("{what}: turn, {share}"),
            ("changes", "none"),
            "us",
            rounds,
        );
    }
}

fn micros(cycles: u64) -> f64 {
    clock::Clock::get().nanoseconds(cycles) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_datapath::tables::{Hop, Tables};
    use podswitch_datapath::wire::FlowKey;
    use std::net::IpAddr;

    /// The routers of some addresses under the tables.
    fn routers(tables: &Tables, addresses: &[Ipv4Addr]) -> Vec<Option<IpAddr>> {
        let key = |a: &Ipv4Addr| {
            let from = IpAddr::from([10, 0, 0, 0]);
            FlowKey::from_ip(VrfId(0), 17, from, (*a).into(), 1, 2)
        };
        let hop = |a| match tables.route(VrfId(0), &key(a)) {
            Hop::Adjacency(way) => Some(way.address),
            Hop::Drop(_) => None,
        };
        addresses.iter().map(hop).collect()
    }

    #[test]
    fn routes_change_under_load_and_no_frame_is_lost() {
        let one = |n: u32| {
            (
                Ipv4Net::new_assert(Ipv4Addr::from(n << 8 | 1 << 24), 24),
                n % ROUTERS,
            )
        };
        let public = Public {
            prefixes: (0..500).map(one).collect(),
        };
        let mut rig = Rig::start(&public, None, 1024);
        let length = clock::Clock::get().cycles(Duration::from_millis(20));
        assert!(!rig.change_for(length, Some(1000.0), false).is_empty());
        rig.change_for(length, None, true);
        while rig.gone.is_some() {
            rig.change(true);
        }
        let now: Vec<Ipv4Addr> = rig.prefixes.iter().map(|(p, _)| p.network()).collect();
        let expected: Vec<_> = rig
            .prefixes
            .iter()
            .map(|(_, r)| r.map(|r| table::router(r).into()))
            .collect();
        assert_eq!(routers(rig.node.switch.tables(), &now), expected);
        assert!(rig.finish() > 1000);
    }
}
