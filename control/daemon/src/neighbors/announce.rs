// SPDX-License-Identifier: Apache-2.0
//! Addresses that have come to this node, to be announced on a link: a few times each, at a bounded rate. Without input,
//! output or a clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::budget::Budget;

/// Announcements of an address, and how far apart (RFC 4861, 10: MAX_NEIGHBOR_ADVERTISEMENT, RETRANS_TIMER; RFC 5227, 1.1,
/// has two, two seconds apart).
const TIMES: u32 = 3;
const APART: Duration = Duration::from_secs(1);
/// Announcements a second, and at once.
const RATE: (u32, u32) = (200, 50);

/// What is to be announced.
#[derive(Debug)]
pub struct Announcements {
    waiting: BTreeSet<(Instant, IpAddr)>,
    /// When each is due, and how often yet.
    left: BTreeMap<IpAddr, (Instant, u32)>,
    budget: Budget,
}

impl Announcements {
    /// None.
    pub fn new(now: Instant) -> Announcements {
        Announcements {
            waiting: BTreeSet::new(),
            left: BTreeMap::new(),
            budget: Budget::new(RATE, now),
        }
    }

    /// An address is here from now on.
    pub fn add(&mut self, address: IpAddr, now: Instant) {
        self.put(address, now, TIMES);
    }

    /// An address is here no longer.
    pub fn remove(&mut self, address: IpAddr) {
        if let Some((due, _)) = self.left.remove(&address) {
            self.waiting.remove(&(due, address));
        }
    }

    /// When to call [`Announcements::due`] next.
    pub fn next(&self) -> Option<Instant> {
        let (due, _) = self.waiting.first()?;
        Some((*due).max(self.budget.ready()))
    }

    /// An address that is to be announced now.
    pub fn due(&mut self, now: Instant) -> Option<IpAddr> {
        let (due, address) = *self.waiting.first()?;
        if due > now || !self.budget.allows(now) {
            return None;
        }
        self.budget.take(now);
        let left = self.left.get(&address).map_or(1, |(_, left)| *left);
        match left {
            0 | 1 => self.remove(address),
            more => self.put(address, now + APART, more - 1),
        }
        Some(address)
    }

    fn put(&mut self, address: IpAddr, due: Instant, times: u32) {
        self.remove(address);
        self.left.insert(address, (due, times));
        self.waiting.insert((due, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u16) -> IpAddr {
        let [a, b] = last.to_be_bytes();
        IpAddr::from([10, 0, a, b])
    }

    fn pass(all: &mut Announcements, from: Instant, until: Instant) -> Vec<(u128, IpAddr)> {
        let mut seen = Vec::new();
        let mut now = from;
        while let Some(next) = all.next().filter(|next| *next <= until) {
            now = now.max(next);
            while let Some(address) = all.due(now) {
                seen.push(((now - from).as_millis(), address));
            }
        }
        seen
    }

    #[test]
    fn each_address_is_announced_three_times() {
        let now = Instant::now();
        let mut all = Announcements::new(now);
        assert_eq!((all.next(), all.due(now)), (None, None));
        all.add(ip(1), now);
        all.add(ip(2), now);
        all.remove(ip(2));
        let seen = pass(&mut all, now, now + Duration::from_secs(60));
        assert_eq!(seen, [(0, ip(1)), (1000, ip(1)), (2000, ip(1))]);
        assert_eq!(all.next(), None);
    }

    #[test]
    fn one_that_comes_again_begins_anew() {
        let now = Instant::now();
        let mut all = Announcements::new(now);
        all.add(ip(1), now);
        pass(&mut all, now, now + Duration::from_millis(1500));
        let later = now + Duration::from_millis(1500);
        all.add(ip(1), later);
        let seen = pass(&mut all, later, later + Duration::from_secs(60));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn many_are_spread() {
        let now = Instant::now();
        let mut all = Announcements::new(now);
        (0..1000).for_each(|n| all.add(ip(n), now));
        let seen = pass(&mut all, now, now + Duration::from_secs(60));
        assert_eq!(seen.len(), 3000);
        let of_second = |s: u128| seen.iter().filter(|(at, _)| at / 1000 == s).count();
        assert!((0..16).all(|s| of_second(s) <= 250), "{:?}", of_second(0));
    }
}
