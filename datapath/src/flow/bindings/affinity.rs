// SPDX-License-Identifier: Apache-2.0
//! Which backend of a service a client stays with (`sessionAffinity: ClientIP` of Kubernetes).
#![forbid(unsafe_code)]

use crate::wire::translate::Endpoint;

/// Clients that are remembered.
const CLIENTS: usize = 1 << 16;
/// Places that a client may be in.
const SET: usize = 8;

/// A client of a service, and how it was served last.
#[derive(Clone, Copy, Debug)]
struct Stay {
    client: [u8; 16],
    service: u64,
    backend: Endpoint,
    /// Milliseconds.
    last: u32,
}

/// Where clients stay. The one that is silent the longest makes room for another.
#[derive(Debug)]
pub struct Affinity {
    seed: u64,
    /// Comes into being with the first client.
    sets: Vec<[Option<Stay>; SET]>,
}

impl Affinity {
    /// Nobody yet. `seed` is a secret.
    pub(super) fn new(seed: u64) -> Affinity {
        Affinity {
            seed,
            sets: Vec::new(),
        }
    }

    fn set(&self, client: &[u8; 16], service: u64) -> usize {
        let words = u128::from_be_bytes(*client);
        let mixed = (words as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ ((words >> 64) as u64 ^ service).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7);
        (mixed >> (u64::BITS - (CLIENTS / SET).ilog2())) as usize
    }

    /// Where a client of a service (a number that stands for it) stays, if it was served there within `timeout` milliseconds.
    pub fn get(&self, client: &[u8; 16], service: u64, timeout: u32, now: u32) -> Option<Endpoint> {
        let set = self.sets.get(self.set(client, service))?;
        let mut stays = set.iter().flatten();
        let stay = stays.find(|s| s.client == *client && s.service == service)?;
        (now.wrapping_sub(stay.last) < timeout).then_some(stay.backend)
    }

    /// Notes that a client was served by a backend.
    pub fn note(&mut self, client: &[u8; 16], service: u64, backend: Endpoint, now: u32) {
        if self.sets.is_empty() {
            self.sets = vec![[None; SET]; CLIENTS / SET];
        }
        let at = self.set(client, service);
        let Some(set) = self.sets.get_mut(at) else {
            return;
        };
        let same =
            |s: &Option<Stay>| s.is_some_and(|s| s.client == *client && s.service == service);
        let silent = |s: &Option<Stay>| s.map_or(u32::MAX, |s| now.wrapping_sub(s.last));
        let place = match set.iter().position(same) {
            Some(at) => Some(at),
            None => (0..SET).max_by_key(|at| silent(&set[*at])),
        };
        if let Some(place) = place.and_then(|at| set.get_mut(at)) {
            *place = Some(Stay {
                client: *client,
                service,
                backend,
                last: now,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(n: u8) -> Endpoint {
        Endpoint {
            address: [n; 16],
            port: n.into(),
        }
    }

    #[test]
    fn a_client_stays_until_it_was_silent_for_the_timeout() {
        let mut affinity = Affinity::new(7);
        let client = [1; 16];
        assert_eq!(affinity.get(&client, 1, 1000, 0), None);
        affinity.note(&client, 1, end(5), u32::MAX - 10);
        let at = |affinity: &Affinity, now: u32| affinity.get(&client, 1, 1000, now);
        // The clock wraps around.
        assert_eq!(at(&affinity, 900), Some(end(5)));
        assert_eq!(at(&affinity, 989), None);
        assert_eq!(affinity.get(&client, 2, 1000, 0), None, "another service");
        affinity.note(&client, 1, end(6), 989);
        assert_eq!(at(&affinity, 1900), Some(end(6)));
    }

    #[test]
    fn the_longest_silent_makes_room() {
        let mut affinity = Affinity::new(7);
        let client = |n: u32| {
            let mut client = [0; 16];
            client[..4].copy_from_slice(&n.to_be_bytes());
            client
        };
        let same: Vec<_> = {
            let of = |n: &u32| affinity.set(&client(*n), 1) == affinity.set(&client(0), 1);
            (0..).filter(of).take(SET + 1).collect()
        };
        for (i, n) in same.iter().enumerate() {
            affinity.note(&client(*n), 1, end(1), i as u32);
        }
        let stays = |n: u32| affinity.get(&client(n), 1, 1000, 20).is_some();
        assert!(!stays(same[0]));
        assert!(same[1..].iter().all(|n| stays(*n)));
    }
}
