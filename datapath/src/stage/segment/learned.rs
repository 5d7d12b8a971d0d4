// SPDX-License-Identifier: Apache-2.0
//! Addresses a worker has learned: which MAC address was last seen behind which port of a segment.
//!
//! Each worker learns from the frames it sees, those handed to it included, so it knows the way back of everything
//! that reaches its ports. Open addressing with linear probing at no more than half load; memory is taken once.

use super::flood::FloodLimits;
use crate::ids::{PortId, VrfId};
use crate::stage::Now;
use crate::tables::Segment;
use crate::verdict::Reason;
use crate::wire::MacAddr;

/// Learned entries a worker holds by default.
pub const DEFAULT_ENTRIES: usize = 8192;

/// What an address is known by: segment, VLAN (0: none), MAC address (independent VLAN learning,
/// IEEE 802.1Q section 8.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Station {
    pub(super) segment: VrfId,
    pub(super) vlan: u16,
    pub(super) mac: MacAddr,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    station: Station,
    port: PortId,
    used: bool,
    seen: u32,
}

/// What became of an address that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learning {
    /// It was known there; its age begins anew.
    Known,
    /// It is new.
    New,
    /// It was known behind another port.
    Moved,
    /// It is new, and there is no room.
    Full,
}

/// A worker's learned addresses.
#[derive(Debug)]
pub struct Learned {
    slots: Box<[Slot]>,
    seed: u64,
    len: usize,
    cursor: usize,
    /// Entries of each segment that has any, sorted by segment; its memory is taken once.
    counts: Vec<(VrfId, u32)>,
    floods: FloodLimits,
}

/// A learned address, as displays show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnedEntry {
    /// Segment.
    pub segment: VrfId,
    /// VLAN, 0 for none.
    pub vlan: u16,
    /// MAC address.
    pub mac: MacAddr,
    /// The port it was last heard behind.
    pub port: PortId,
    /// Milliseconds since then.
    pub idle: u32,
}

impl Learned {
    /// Room for `entries` addresses (at least 64). `seed` is a secret, so that nobody can choose addresses that meet.
    pub fn new(entries: usize, seed: u64) -> Learned {
        let empty = Slot {
            station: Station {
                segment: VrfId(0),
                vlan: 0,
                mac: MacAddr::ZERO,
            },
            port: PortId(0),
            used: false,
            seen: 0,
        };
        let slots = (entries.max(64) * 2).next_power_of_two();
        Learned {
            slots: vec![empty; slots].into_boxed_slice(),
            seed,
            len: 0,
            cursor: 0,
            counts: Vec::with_capacity(slots / 2),
            floods: FloodLimits::new(),
        }
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every address known, of aged ones too.
    pub fn entries(&self, now: Now) -> impl Iterator<Item = LearnedEntry> {
        self.slots
            .iter()
            .filter(|slot| slot.used)
            .map(move |slot| LearnedEntry {
                segment: slot.station.segment,
                vlan: slot.station.vlan,
                mac: slot.station.mac,
                port: slot.port,
                idle: now.millis().wrapping_sub(slot.seen),
            })
    }

    /// Whether one more frame may be flooded in the segment; `limit` says by which limit.
    pub(super) fn flood(&mut self, segment: &Segment, limit: Reason, now: Now) -> bool {
        self.floods.take(segment, limit, now)
    }

    fn home(&self, s: &Station) -> usize {
        let [a, b, c, d, e, f] = s.mac.0;
        let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let place = u64::from(s.segment.0) << 16 | u64::from(s.vlan);
        let product = u128::from(mac ^ self.seed)
            * u128::from(place ^ self.seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15);
        (product as u64 ^ (product >> 64) as u64) as usize & (self.slots.len() - 1)
    }

    fn next(&self, i: usize) -> usize {
        (i + 1) & (self.slots.len() - 1)
    }

    /// The slot of a station, or the free one where it would go.
    fn probe(&self, s: &Station) -> usize {
        let mut i = self.home(s);
        // At most half of the slots are used, so a free one ends the loop.
        while self.slots[i].used && self.slots[i].station != *s {
            i = self.next(i);
        }
        i
    }

    fn count(&mut self, segment: VrfId) -> Option<&mut u32> {
        let at = self.counts.binary_search_by_key(&segment, |c| c.0).ok()?;
        Some(&mut self.counts[at].1)
    }

    /// Notes that `station` was seen behind `port`; the segment keeps at most `most` addresses on this worker.
    pub(super) fn learn(
        &mut self,
        station: Station,
        port: PortId,
        now: u32,
        most: usize,
    ) -> Learning {
        let i = self.probe(&station);
        let slot = &mut self.slots[i];
        if slot.used {
            slot.seen = now;
            if slot.port == port {
                return Learning::Known;
            }
            slot.port = port;
            return Learning::Moved;
        }
        let counted = self.count(station.segment).map_or(0, |n| *n);
        if counted as usize >= most || self.len == self.slots.len() / 2 {
            return Learning::Full;
        }
        match self.count(station.segment) {
            Some(n) => *n += 1,
            None => {
                // There are never more segments than entries, so this does not grow the memory.
                let at = self.counts.partition_point(|c| c.0 < station.segment);
                self.counts.insert(at, (station.segment, 1));
            }
        }
        self.slots[i] = Slot {
            station,
            port,
            used: true,
            seen: now,
        };
        self.len += 1;
        Learning::New
    }

    /// The port behind which `station` was seen no longer than `ageing` ago.
    pub(super) fn find(&self, station: &Station, now: u32, ageing: u32) -> Option<PortId> {
        let slot = &self.slots[self.probe(station)];
        (slot.used && now.wrapping_sub(slot.seen) <= ageing).then_some(slot.port)
    }

    /// Frees a slot and moves later ones of the same run up, so that every run stays without gaps.
    fn remove(&mut self, mut gap: usize) {
        let segment = self.slots[gap].station.segment;
        if let Ok(at) = self.counts.binary_search_by_key(&segment, |c| c.0) {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.remove(at);
            }
        }
        self.len -= 1;
        let mut i = gap;
        loop {
            self.slots[gap].used = false;
            loop {
                i = self.next(i);
                if !self.slots[i].used {
                    return;
                }
                let home = self.home(&self.slots[i].station);
                // The entry may move to the gap unless its home lies behind the gap.
                let mask = self.slots.len() - 1;
                if (i.wrapping_sub(home) & mask) >= (i.wrapping_sub(gap) & mask) {
                    break;
                }
            }
            self.slots[gap] = self.slots[i];
            gap = i;
        }
    }

    /// Looks at the next `slots` places and frees what was not seen for longer than `ageing` says of its segment
    /// (`None`: the segment is gone). Returns how many were freed.
    pub(super) fn free_old(
        &mut self,
        now: u32,
        slots: usize,
        ageing: impl Fn(VrfId) -> Option<u32>,
    ) -> usize {
        let before = self.len;
        for _ in 0..slots.min(self.slots.len()) {
            if self.len == 0 {
                break;
            }
            let slot = self.slots[self.cursor];
            let old = |limit| now.wrapping_sub(slot.seen) > limit;
            if slot.used && ageing(slot.station.segment).is_none_or(old) {
                // Another entry may have moved here: the same place is looked at again.
                self.remove(self.cursor);
            } else {
                self.cursor = self.next(self.cursor);
            }
        }
        before - self.len
    }

    /// Forgets what was learned behind a port: it is gone, or another one now.
    pub fn forget_port(&mut self, port: PortId) {
        // An entry may move behind the place looked at (a run may go on at the beginning), so until none is left.
        while let Some(first) = self.slots.iter().position(|s| s.used && s.port == port) {
            for i in first..self.slots.len() {
                while self.slots[i].used && self.slots[i].port == port {
                    self.remove(i);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn station(segment: u32, n: u16) -> Station {
        Station {
            segment: VrfId(segment),
            vlan: 0,
            mac: MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]),
        }
    }

    #[test]
    fn limits_hold_and_old_addresses_stay() {
        let mut l = Learned::new(64, 9);
        for n in 0..10 {
            let want = if n < 5 { Learning::New } else { Learning::Full };
            assert_eq!(l.learn(station(1, n), PortId(1), 0, 5), want);
        }
        assert_eq!(l.learn(station(1, 0), PortId(2), 0, 5), Learning::Moved);
        assert_eq!(l.learn(station(2, 0), PortId(2), 0, 5), Learning::New);
        for n in 100..200 {
            l.learn(station(3, n), PortId(2), 0, usize::MAX);
        }
        assert_eq!(l.len(), 64);
        assert_eq!(l.find(&station(1, 4), 0, 0), Some(PortId(1)));
        l.forget_port(PortId(2));
        assert_eq!(l.len(), 4);
        assert_eq!(l.find(&station(1, 0), 0, 0), None);
    }

    #[test]
    fn a_gone_segment_is_forgotten() {
        let mut l = Learned::new(64, 9);
        l.learn(station(1, 1), PortId(1), 0, 5);
        l.learn(station(2, 1), PortId(1), 0, 5);
        let freed = l.free_old(0, usize::MAX, |s| (s == VrfId(1)).then_some(100));
        assert_eq!((freed, l.len()), (1, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Learn(u32, u16, u16),
        Find(u32, u16),
        Age,
        Forget(u16),
        Tick(u32),
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn behaves_as_a_map(seed: u64, steps in proptest::collection::vec(prop_oneof![
            8 => (0u32..3, 0u16..30, 0u16..4).prop_map(|(s, n, p)| Step::Learn(s, n, p)),
            4 => (0u32..3, 0u16..30).prop_map(|(s, n)| Step::Find(s, n)),
            1 => Just(Step::Age),
            1 => (0u16..4).prop_map(Step::Forget),
            3 => (0u32..40).prop_map(Step::Tick),
        ], 0..300)) {
            let ageing = |s: VrfId| Some(50 + s.0 * 10);
            let mut l = Learned::new(64, seed);
            let mut model: HashMap<(u32, u16), (PortId, u32)> = HashMap::new();
            let mut now = u32::MAX - 100;
            for step in steps {
                match step {
                    Step::Learn(s, n, p) => {
                        let others = model.keys().filter(|k| k.0 == s).count();
                        let want = match model.get(&(s, n)) {
                            Some(e) if e.0 == PortId(p) => Learning::Known,
                            Some(_) => Learning::Moved,
                            None if others >= 20 || model.len() >= 64 => Learning::Full,
                            None => Learning::New,
                        };
                        prop_assert_eq!(l.learn(station(s, n), PortId(p), now, 20), want);
                        if want != Learning::Full {
                            model.insert((s, n), (PortId(p), now));
                        }
                    }
                    Step::Find(s, n) => {
                        let limit = ageing(VrfId(s)).unwrap();
                        let want = model.get(&(s, n)).filter(|e| now.wrapping_sub(e.1) <= limit).map(|e| e.0);
                        prop_assert_eq!(l.find(&station(s, n), now, limit), want);
                    }
                    Step::Age => {
                        // Twice round: an entry that moved behind the cursor is met the second time.
                        l.free_old(now, usize::MAX, ageing);
                        l.free_old(now, usize::MAX, ageing);
                        model.retain(|k, e| now.wrapping_sub(e.1) <= 50 + k.0 * 10);
                    }
                    Step::Forget(p) => {
                        l.forget_port(PortId(p));
                        model.retain(|_, e| e.0 != PortId(p));
                    }
                    Step::Tick(n) => now = now.wrapping_add(n),
                }
                prop_assert_eq!(l.len(), model.len());
            }
        }
    }
}
