// SPDX-License-Identifier: Apache-2.0
//! Which neighbours are wanted behind which port, and how closely they are to be watched: counted, as several things may
//! want one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::resolver::Probe;

/// Wanted neighbours by the name of their port.
#[derive(Debug, Default)]
pub struct Wants {
    /// How many want it kept alive, and how many as a member of a set.
    counts: BTreeMap<(String, IpAddr), Count>,
    changed: BTreeSet<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    keepalive: u32,
    fast: u32,
}

impl Count {
    fn of(&mut self, probe: Probe) -> &mut u32 {
        match probe {
            Probe::Fast => &mut self.fast,
            Probe::Keepalive | Probe::OnDemand => &mut self.keepalive,
        }
    }

    fn probe(self) -> Option<Probe> {
        match self {
            Count { fast: 1.., .. } => Some(Probe::Fast),
            Count { keepalive: 1.., .. } => Some(Probe::Keepalive),
            _ => None,
        }
    }
}

impl Wants {
    /// Something more wants a neighbour.
    pub fn add(&mut self, port: &str, address: IpAddr, probe: Probe) {
        self.change(port, address, |count| *count.of(probe) += 1);
    }

    /// Something that wanted it wants it no longer.
    pub fn remove(&mut self, port: &str, address: IpAddr, probe: Probe) {
        self.change(port, address, |count| {
            let n = count.of(probe);
            *n = n.saturating_sub(1);
        });
    }

    fn change(&mut self, port: &str, address: IpAddr, change: impl FnOnce(&mut Count)) {
        let key = (port.to_owned(), address);
        let mut count = self.counts.get(&key).copied().unwrap_or_default();
        let before = count.probe();
        change(&mut count);
        if count.probe() != before {
            self.changed.insert(port.to_owned());
        }
        match count.probe() {
            Some(_) => self.counts.insert(key, count),
            None => self.counts.remove(&key),
        };
    }

    /// The neighbours behind a port.
    pub fn of(&self, port: &str) -> BTreeMap<IpAddr, Probe> {
        let least = (port.to_owned(), IpAddr::from([0; 4]));
        let of_port = self.counts.range(least..);
        of_port
            .take_while(|((name, _), _)| name == port)
            .filter_map(|((_, address), count)| Some((*address, count.probe()?)))
            .collect()
    }

    /// Ports whose neighbours are others than when this was called last.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_neighbor_is_watched_as_closely_as_anybody_wants() {
        let mut wants = Wants::default();
        wants.add("eth0", A, Probe::Keepalive);
        wants.add("eth0", A, Probe::Fast);
        wants.add("eth0", B, Probe::Keepalive);
        wants.add("eth1", B, Probe::Fast);
        assert_eq!(
            wants.of("eth0"),
            BTreeMap::from([(A, Probe::Fast), (B, Probe::Keepalive)])
        );
        assert_eq!(
            wants.take_changed(),
            BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()])
        );
        // Once more is no change, nor is one less of two.
        wants.add("eth0", B, Probe::Keepalive);
        wants.remove("eth0", B, Probe::Keepalive);
        wants.remove("eth0", A, Probe::Keepalive);
        assert_eq!(wants.take_changed(), BTreeSet::new());
        wants.remove("eth0", A, Probe::Fast);
        wants.remove("eth0", A, Probe::Fast);
        assert_eq!(wants.of("eth0"), BTreeMap::from([(B, Probe::Keepalive)]));
        assert_eq!(wants.take_changed(), BTreeSet::from(["eth0".to_owned()]));
        assert_eq!(wants.of("eth"), BTreeMap::new());
    }
}
