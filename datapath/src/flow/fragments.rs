// SPDX-License-Identifier: Apache-2.0
//! Which ports the first fragment of a packet had, for the fragments that follow: these carry none.
//!
//! Only packets whose first fragment was let on are here. Places are few and short-lived, and shared as connections are: a port may
//! have as many as there are free, and gives up its own oldest one before it is refused.
#![forbid(unsafe_code)]

use crate::frame::SeenAs;
use crate::ids::{MAX_PORTS, PortId};
use crate::wire::FlowKey;

/// Places of a set.
const WAYS: usize = 8;
/// Milliseconds after which the rest of a packet has come or never will (`IP_FRAG_TIME` of Linux, 30 s).
const LIFETIME: u32 = 30_000;

/// What the fragments of one packet share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentId {
    /// Addresses, protocol and VRF; its ports are 0.
    key: FlowKey,
    /// Identification.
    id: u32,
    /// What they were to before they were translated: two packets that a pod sends to itself may look the same from then on.
    seen_as: Option<SeenAs>,
    /// The port the fragments come from.
    in_port: PortId,
}

impl FragmentId {
    /// Of a fragment with this key, whatever ports it has, and this identification.
    pub fn new(key: &FlowKey, (id, seen_as): (u32, Option<SeenAs>), in_port: PortId) -> FragmentId {
        FragmentId {
            key: key.with_ports(0, 0),
            id,
            seen_as,
            in_port,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: FragmentId,
    ports: (u16, u16),
    since: u32,
}

/// A worker's fragmented packets.
#[derive(Debug)]
pub struct Fragments {
    sets: Box<[[Option<Entry>; WAYS]]>,
    seed: u64,
    used: usize,
    held: Box<[u32]>,
    cursor: usize,
}

impl Fragments {
    /// Room for `packets` packets, at least 64, rounded up to a power of two; `seed` is a secret.
    pub fn new(packets: usize, seed: u64) -> Fragments {
        let sets = packets.div_ceil(WAYS).next_power_of_two().max(8);
        Fragments {
            sets: vec![[None; WAYS]; sets].into(),
            seed,
            used: 0,
            held: vec![0; MAX_PORTS].into(),
            cursor: 0,
        }
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn set_of(&self, id: &FragmentId) -> usize {
        let mixed = id
            .key
            .hash(self.seed ^ u64::from(id.id) << 16 ^ u64::from(id.in_port.0));
        mixed as usize & (self.sets.len() - 1)
    }

    /// Notes the ports (source, destination) of a packet whose first fragment was let on. False when there is no room for it.
    pub fn note(&mut self, id: &FragmentId, ports: (u16, u16), now: u32) -> bool {
        let at = self.set_of(id);
        self.free_old(at, now);
        let entry = Entry {
            id: *id,
            ports,
            since: now,
        };
        let known = self.sets[at].iter_mut().flatten().find(|e| e.id == *id);
        if let Some(known) = known {
            *known = entry;
            return true;
        }
        let free = self.sets.len() * WAYS - self.used;
        let held = self.held.get(id.in_port.index()).copied().unwrap_or(0) as usize;
        let place = self.sets[at].iter().position(Option::is_none);
        let place = match place.filter(|_| held < free) {
            Some(place) => place,
            None => match self.oldest_of(at, id.in_port, now) {
                Some(place) => place,
                None => return false,
            },
        };
        self.clear(at, place);
        self.sets[at][place] = Some(entry);
        self.used += 1;
        if let Some(held) = self.held.get_mut(id.in_port.index()) {
            *held += 1;
        }
        true
    }

    /// A port's own oldest packet in a set.
    fn oldest_of(&self, at: usize, port: PortId, now: u32) -> Option<usize> {
        let own = |place: &usize| self.sets[at][*place].filter(|e| e.id.in_port == port);
        (0..WAYS)
            .filter(|place| own(place).is_some())
            .max_by_key(|place| own(place).map(|e| now.wrapping_sub(e.since)))
    }

    /// The ports of the packet that a later fragment belongs to.
    pub fn find(&self, id: &FragmentId, now: u32) -> Option<(u16, u16)> {
        let entry = self.sets[self.set_of(id)]
            .iter()
            .flatten()
            .find(|e| e.id == *id)?;
        (now.wrapping_sub(entry.since) < LIFETIME).then_some(entry.ports)
    }

    fn clear(&mut self, at: usize, place: usize) {
        if let Some(old) = self.sets[at][place].take() {
            self.used -= 1;
            if let Some(held) = self.held.get_mut(old.id.in_port.index()) {
                *held = held.saturating_sub(1);
            }
        }
    }

    fn free_old(&mut self, at: usize, now: u32) {
        for place in 0..WAYS {
            let old = |e: &Entry| now.wrapping_sub(e.since) >= LIFETIME;
            if self.sets[at][place].as_ref().is_some_and(old) {
                self.clear(at, place);
            }
        }
    }

    /// Frees what is old in the next set. Called often, it comes around.
    pub fn age(&mut self, now: u32) {
        if self.used > 0 {
            self.free_old(self.cursor, now);
            self.cursor = (self.cursor + 1) & (self.sets.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VrfId;

    fn id(n: u32, port: u16) -> FragmentId {
        let key = FlowKey::new(VrfId(0), 17, [1; 16], [2; 16], 5, 6);
        FragmentId::new(&key, (n, None), PortId(port))
    }

    #[test]
    fn later_fragments_find_the_ports_of_the_first_for_a_while() {
        let mut fragments = Fragments::new(64, 7);
        assert!(fragments.note(&id(1, 3), (10, 20), u32::MAX - 5));
        assert_eq!(fragments.find(&id(1, 3), 5), Some((10, 20)));
        assert_eq!(fragments.find(&id(2, 3), 5), None);
        assert_eq!(fragments.find(&id(1, 4), 5), None, "another port's");
        assert!(fragments.note(&id(1, 3), (11, 20), 6));
        assert_eq!(fragments.find(&id(1, 3), 7), Some((11, 20)), "sent again");
        assert_eq!(fragments.len(), 1);
        assert_eq!(fragments.find(&id(1, 3), 6 + LIFETIME), None);
        (0..8).for_each(|_| fragments.age(6 + LIFETIME));
        assert!(fragments.is_empty());
    }

    #[test]
    fn one_port_cannot_take_the_room_of_the_others() {
        let mut fragments = Fragments::new(4096, 7);
        for n in 0..100_000 {
            fragments.note(&id(n, 1), (1, 2), 0);
        }
        assert!(fragments.held[1] <= 2048, "{}", fragments.held[1]);
        (0..500).for_each(|n| {
            fragments.note(&id(n, 2), (3, 4), 1);
        });
        let known = |f: &Fragments| (0..500).filter(|&n| f.find(&id(n, 2), 2).is_some()).count();
        let noted = known(&fragments);
        assert!(noted > 400, "{noted} of 500");
        // The flood goes on, and takes nobody else's place.
        for n in 0..100_000 {
            fragments.note(&id(n, 1), (1, 2), 2);
        }
        assert_eq!(known(&fragments), noted);
    }
}
