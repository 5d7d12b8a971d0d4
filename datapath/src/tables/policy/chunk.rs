// SPDX-License-Identifier: Apache-2.0
//! Policy rules compiled for lookup, at most [`MAX`](super::sets::MAX) of them.
//!
//! Every rule is a bit, the first rule the lowest. The peer's class, its CIDR class and (protocol, destination port)
//! yield a set of rules each; the lowest bit that the third shares with one of the others is the rule; rules in the set `both`
//! must be in all three. The set of any class has the rules for every peer in it.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use super::PolicyRule;
use super::ranges::{Ranges, by_port};
use super::sets::{BITS, Pool, SetAt, Sets, lowest, set};
use crate::wire::protocol;

/// Number of a set of rules by peer.
pub(super) type Slot = u32;
/// The slot of peers for which no rules are but those for every peer.
pub(super) const ANY_PEER: Slot = 0;

/// What is looked up.
pub(super) struct Query {
    pub(super) class: Slot,
    pub(super) cidr: Slot,
    pub(super) protocol: u8,
    pub(super) dport: u16,
}

#[derive(Debug)]
pub(super) struct Chunk {
    sets: Sets,
    /// Sets by slot.
    by_peer: Box<[SetAt]>,
    /// Of TCP, UDP and SCTP.
    by_port: [Ranges<u16>; 3],
    /// The set of all other protocols.
    portless: SetAt,
    /// Rules that the peer's class and its CIDR class must both have.
    both: SetAt,
}

impl Chunk {
    /// Of rules of which the first one is number `start`, and the numbers of the rules of each slot, ascending.
    pub(super) fn new(rules: &[PolicyRule], start: usize, slots: &[Vec<u32>]) -> Chunk {
        let mut pool = Pool::new(rules.len());
        let (mut any_peer, mut portless) = (pool.empty(), pool.empty());
        let mut both = pool.empty();
        for (bit, rule) in rules.iter().enumerate() {
            if rule.any_peer {
                set(&mut any_peer, bit);
            }
            if rule.ports.is_empty() {
                set(&mut portless, bit);
            }
            if rule.both {
                set(&mut both, bit);
            }
        }
        let everybody = pool.intern(&any_peer);
        let by_peer = slots.iter().map(|numbers| {
            let at = |number| numbers.partition_point(|n| (*n as usize) < number);
            let numbers = numbers.get(at(start)..at(start + rules.len()));
            let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) else {
                return everybody;
            };
            let mut own = any_peer.clone();
            for number in numbers {
                set(&mut own, *number as usize - start);
            }
            pool.intern(&own)
        });
        let by_peer = by_peer.collect();
        let mut ranges = |protocol| {
            let all = rules.iter().enumerate();
            let limited: Vec<(usize, RangeInclusive<u16>)> = all
                .flat_map(|(bit, rule)| ports(rule, protocol).into_iter().map(move |p| (bit, p)))
                .collect();
            by_port(
                &mut pool,
                &portless,
                limited.iter().map(|(bit, p)| (*bit, p)),
            )
        };
        let by_port = [protocol::TCP, protocol::UDP, protocol::SCTP].map(&mut ranges);
        Chunk {
            by_peer,
            by_port,
            portless: pool.intern(&portless),
            both: pool.intern(&both),
            sets: pool.finish(),
        }
    }

    /// The first rule from a bit on that matches.
    #[inline]
    pub(super) fn first(&self, query: &Query, from: usize) -> Option<usize> {
        let [tcp, udp, sctp] = &self.by_port;
        let by_port = match query.protocol {
            protocol::TCP => tcp.get(query.dport),
            protocol::UDP => udp.get(query.dport),
            protocol::SCTP => sctp.get(query.dport),
            _ => self.portless,
        };
        let by_peer = |slot: Slot| self.sets.get(*self.by_peer.get(slot as usize)?);
        let (class, cidr) = (by_peer(query.class)?, by_peer(query.cidr)?);
        let (by_port, both) = (self.sets.get(by_port)?, self.sets.get(self.both)?);
        let (first, rest) = (from / BITS, u64::MAX << (from % BITS));
        let summary = (class.first()? | cidr.first()?) & by_port.first()?;
        let beginning = u64::MAX.checked_shl(first as u32).unwrap_or(0);
        lowest(summary & beginning, |word| {
            let at = word + 1;
            let (class, cidr) = (class.get(at)?, cidr.get(at)?);
            let shared = ((class | cidr) & !both.get(at)? | class & cidr) & by_port.get(at)?;
            Some(if word == first { shared & rest } else { shared })
        })
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        let ranges: usize = self.by_port.iter().map(Ranges::bytes).sum();
        self.sets.bytes() + size_of_val(&*self.by_peer) + ranges
    }
}

/// The ports of a rule in a protocol, apart from one another.
fn ports(rule: &PolicyRule, protocol: u8) -> Vec<RangeInclusive<u16>> {
    let of = rule.ports.iter().filter(|p| p.protocol == protocol);
    let mut all: Vec<_> = of.map(|p| p.ports.clone()).collect();
    all.sort_unstable_by_key(|ports| *ports.start());
    let mut apart: Vec<RangeInclusive<u16>> = Vec::with_capacity(all.len());
    for ports in all {
        match apart.last_mut() {
            Some(last) if ports.start() <= last.end() => {
                *last = *last.start()..=*ports.end().max(last.end());
            }
            _ => apart.push(ports),
        }
    }
    apart
}
