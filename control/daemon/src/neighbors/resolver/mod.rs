// SPDX-License-Identifier: Apache-2.0
//! Which neighbours of one interface are wanted, what is known of them, and whom to ask when: a state machine after RFC
//! 4861, 7.3.2, for both families, without any input, output or clock of its own.
//!
//! An entry without an Ethernet address is *incomplete*: everyone is asked. One that has answered is *reachable*; after a
//! while it is asked again by itself (*probe*), and is lost when it does not answer. The kernel's own table is the other
//! source of Ethernet addresses.
//!
//! Queues and budgets: members of sets with several next hops are few and asked often; those known are asked by
//! themselves at a bounded rate; asking everyone is bounded far lower, as each question costs the whole link.

mod entry;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use podswitch_api::MacAddr;

use super::budget::Budget;
use entry::{Entry, Step};

pub use entry::{Source, State};

/// Neighbours of an interface that are known or looked for, at most.
pub const MAX: usize = 8192;
/// How many of them packets may have asked for.
pub const MAX_ON_DEMAND: usize = 4096;
/// How many may be probed as members of sets; 128 are asked 640 times a second. Others are kept alive only.
pub const MAX_FAST: usize = 128;
/// Questions to everyone, a second and at once.
const TO_ALL: (u32, u32) = (200, 20);
/// Questions to one that is known, a second and at once.
const TO_ONE: (u32, u32) = (2000, 200);

/// How closely a neighbour is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// Packets went there: looked for a few times, kept while it answers.
    OnDemand,
    /// The next hop of a route: looked for until found, kept alive.
    Keepalive,
    /// One of several next hops: its death is to be known within a second.
    Fast,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for an address: one neighbour by itself, or everyone.
    Ask {
        /// The address asked for.
        address: IpAddr,
        /// Whom; everyone when none.
        to: Option<MacAddr>,
    },
    /// A neighbour is at this Ethernet address, from now on.
    Resolved {
        /// The neighbour.
        address: IpAddr,
        /// Where it is.
        mac: MacAddr,
    },
    /// It is no longer known where a neighbour is, or no longer wanted.
    Lost {
        /// The neighbour.
        address: IpAddr,
    },
}

/// What a neighbour has said on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Its Ethernet address, if it said so.
    pub mac: Option<MacAddr>,
    /// It answered a question.
    pub answer: bool,
    /// What was known before is to be replaced.
    pub overrides: bool,
}

/// What the kernel's table says of a neighbour (`NUD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Set by hand: right until it is taken back.
    Permanent(MacAddr),
    /// Confirmed not long ago.
    Reachable(MacAddr),
    /// Known from earlier: to be confirmed (stale, delay, probe).
    Stale(MacAddr),
    /// It does not answer the kernel.
    Failed,
    /// Not in the table any more.
    Gone,
}

/// A neighbour as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its address.
    pub address: IpAddr,
    /// Where it is, while that is known.
    pub mac: Option<MacAddr>,
    /// Its state.
    pub state: State,
    /// Who said where it is.
    pub source: Source,
    /// How closely it is watched.
    pub probe: Probe,
    /// Since when it is known, or not known.
    pub since: Instant,
}

/// The neighbours of one interface.
#[derive(Debug)]
pub struct Resolver {
    entries: HashMap<IpAddr, Entry>,
    queues: [BTreeSet<(Instant, IpAddr)>; 3],
    to_one: Budget,
    to_all: Budget,
    on_demand: usize,
    fast: usize,
    random: u64,
    down: bool,
    actions: Vec<Action>,
}

/// Which queue an entry waits in.
const FAST: usize = 0;
const KNOWN: usize = 1;
const UNKNOWN: usize = 2;

impl Resolver {
    /// Wants nobody yet. Equal seeds make for equal pauses.
    pub fn new(seed: u64, now: Instant) -> Resolver {
        Resolver {
            entries: HashMap::new(),
            queues: Default::default(),
            to_one: Budget::new(TO_ONE, now),
            to_all: Budget::new(TO_ALL, now),
            on_demand: 0,
            fast: 0,
            // Never 0, and far from it: the first pauses shall differ too.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63,
            down: false,
            actions: Vec::new(),
        }
    }

    /// Wants a neighbour, or watches a wanted one otherwise. Gives false when there is no room: [`MAX`] are wanted
    /// already.
    pub fn want(&mut self, address: IpAddr, probe: Probe, now: Instant) -> bool {
        let old = self.take(address);
        if old.is_none() && self.entries.len() >= MAX && !self.evict() {
            return false;
        }
        let crowded = probe == Probe::Fast && self.fast >= MAX_FAST;
        let probe = if crowded { Probe::Keepalive } else { probe };
        let mut entry = old.unwrap_or_else(|| Entry::new(probe, now));
        if entry.probe != probe {
            entry.probe = probe;
            entry.rewatch(now, &mut self.random);
        }
        self.put(address, entry);
        true
    }

    /// Wants a neighbour no longer.
    pub fn unwant(&mut self, address: IpAddr) {
        if let Some(entry) = self.take(address) {
            self.forgotten(address, &entry);
        }
    }

    /// A packet could not leave because this neighbour is not known. Gives false when there is no room.
    pub fn demand(&mut self, address: IpAddr, now: Instant) -> bool {
        if let Some(mut entry) = self.take(address) {
            entry.demanded(now);
            self.put(address, entry);
            return true;
        }
        if (self.on_demand >= MAX_ON_DEMAND || self.entries.len() >= MAX) && !self.evict() {
            return false;
        }
        self.put(address, Entry::new(Probe::OnDemand, now));
        true
    }

    /// A neighbour has said something.
    pub fn heard(&mut self, address: IpAddr, said: Said, now: Instant) {
        if self.down {
            return;
        }
        self.told(address, |entry, random| entry.heard(said, now, random));
    }

    /// The kernel's table says something. It is to be told anew once the link is up again.
    pub fn kernel(&mut self, address: IpAddr, kernel: Kernel, now: Instant) {
        if self.down {
            return;
        }
        self.told(address, |entry, random| entry.kernel(kernel, now, random));
    }

    /// The link is down: nobody is there, and nobody is asked until it is up.
    pub fn link_down(&mut self, now: Instant) {
        self.down = true;
        for address in self.addresses() {
            self.told(address, |entry, _| entry.link_down(now));
        }
    }

    /// The link is up: those known before are taken to be where they were and asked, but for members of sets, which are to
    /// answer first; everyone else is looked for.
    pub fn link_up(&mut self, now: Instant) {
        if std::mem::take(&mut self.down) {
            for address in self.addresses() {
                self.told(address, |entry, _| entry.link_up(now));
            }
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.entries.keys().copied().collect()
    }

    /// Asks whom it is time to ask, and gives up on those who did not answer.
    pub fn tick(&mut self, now: Instant) {
        if self.down {
            return;
        }
        for queue in [FAST, KNOWN, UNKNOWN] {
            while let Some(&(due, address)) = self.queues[queue].first() {
                if due > now || !self.may_ask(queue, now) {
                    break;
                }
                self.step(address, now);
            }
        }
    }

    /// When to call [`Resolver::tick`] next.
    pub fn next(&self) -> Option<Instant> {
        if self.down {
            return None;
        }
        let first = |queue: usize| self.queues[queue].first().map(|(due, _)| *due);
        let waits = [
            first(FAST),
            first(KNOWN).map(|due| due.max(self.to_one.ready())),
            first(UNKNOWN).map(|due| due.max(self.to_all.ready())),
        ];
        waits.into_iter().flatten().min()
    }

    /// What has become to be done since the last call, in order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One neighbour.
    pub fn get(&self, address: IpAddr) -> Option<View> {
        self.entries.get(&address).map(|e| e.view(address))
    }

    /// Every neighbour, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = View> {
        self.entries.iter().map(|(address, e)| e.view(*address))
    }

    fn may_ask(&self, queue: usize, now: Instant) -> bool {
        match queue {
            KNOWN => self.to_one.allows(now),
            UNKNOWN => self.to_all.allows(now),
            _ => true,
        }
    }

    fn step(&mut self, address: IpAddr, now: Instant) {
        let Some(mut entry) = self.take(address) else {
            return;
        };
        let known = entry.mac().is_some();
        match entry.due(now) {
            Step::Ask(to) => {
                let budget = match to {
                    Some(_) => &mut self.to_one,
                    None => &mut self.to_all,
                };
                budget.take(now);
                self.actions.push(Action::Ask { address, to });
            }
            Step::Wait => {}
            Step::Forget => return self.forgotten(address, &entry),
        }
        if known && entry.mac().is_none() {
            self.actions.push(Action::Lost { address });
        }
        self.put(address, entry);
    }

    fn told(&mut self, address: IpAddr, tell: impl FnOnce(&mut Entry, &mut u64)) {
        let Some(mut entry) = self.take(address) else {
            return;
        };
        let before = entry.mac();
        tell(&mut entry, &mut self.random);
        match entry.mac() {
            Some(mac) if before != Some(mac) => {
                self.actions.push(Action::Resolved { address, mac });
            }
            None if before.is_some() => self.actions.push(Action::Lost { address }),
            _ => {}
        }
        self.put(address, entry);
    }

    fn forgotten(&mut self, address: IpAddr, entry: &Entry) {
        if entry.mac().is_some() {
            self.actions.push(Action::Lost { address });
        }
    }

    /// Makes room by forgetting the neighbour that no packet has asked for the longest, one that is not known if there is
    /// one. Next hops of routes are never forgotten.
    fn evict(&mut self) -> bool {
        let on_demand = self.entries.iter();
        let oldest = on_demand
            .filter(|(_, e)| e.probe == Probe::OnDemand)
            .min_by_key(|(_, e)| (e.mac().is_some(), e.last_demand));
        let Some(address) = oldest.map(|(address, _)| *address) else {
            return false;
        };
        self.unwant(address);
        true
    }

    /// Takes an entry out, to be changed and put back.
    fn take(&mut self, address: IpAddr) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        self.queues[queue(&entry)].remove(&(entry.due, address));
        self.on_demand -= usize::from(entry.probe == Probe::OnDemand);
        self.fast -= usize::from(entry.probe == Probe::Fast);
        Some(entry)
    }

    fn put(&mut self, address: IpAddr, entry: Entry) {
        self.queues[queue(&entry)].insert((entry.due, address));
        self.on_demand += usize::from(entry.probe == Probe::OnDemand);
        self.fast += usize::from(entry.probe == Probe::Fast);
        self.entries.insert(address, entry);
    }
}

fn queue(entry: &Entry) -> usize {
    match (entry.probe, entry.mac()) {
        (Probe::Fast, _) => FAST,
        (_, Some(_)) => KNOWN,
        (_, None) => UNKNOWN,
    }
}

/// A pause between `least` and twice that, so that neighbours of one time are not asked at one time (xorshift64).
fn jitter(least: Duration, random: &mut u64) -> Duration {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    least + least.mul_f64((*random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests;
