// SPDX-License-Identifier: Apache-2.0
//! Rules compiled for lookup.
//!
//! Every rule is a bit, the first rule the lowest. Source address, destination address and (protocol, destination
//! port) are each looked up once, by binary search among the few ranges that the rules tell apart, and yield the set
//! of rules that match in that respect. The lowest bit that the three sets share is the rule.
//!
//! The worst packet costs three binary searches among at most 2n+1 ranges and a walk over n/64 words, for n rules; a
//! miss is no dearer than a hit. Memory is at most n/8 bytes for each different prefix and port bound.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::ranges::{Builder, Point, Ranges, by_port};
use super::sets::{MAX, Pool, SetAt, Sets, lowest, set};
use super::{Action, Rule, has_ports};
use crate::wire::FlowKey;

/// What a packet's protocol leaves.
#[derive(Clone, Debug)]
struct Transport {
    ports: Ranges<u16>,
    /// For fragments without ports.
    later_fragment: SetAt,
}

/// Rules of a port and direction, compiled.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    sets: Sets,
    /// Index into `transports` by protocol.
    transport: Box<[u8; 256]>,
    transports: Box<[Transport]>,
    source_v4: Ranges<u32>,
    destination_v4: Ranges<u32>,
    source_v6: Ranges<u128>,
    destination_v6: Ranges<u128>,
}

impl Matcher {
    /// Of at most [`MAX`] rules, the first one first.
    pub(super) fn new<'a>(rules: impl Iterator<Item = &'a Rule>) -> Matcher {
        let rules: Vec<&Rule> = rules.take(MAX).collect();
        let mut pool = Pool::new(rules.len());
        let (transport, transports) = compile_transports(&rules, &mut pool);
        let source = |rule: &Rule| rule.source;
        let destination = |rule: &Rule| rule.destination;
        Matcher {
            transport,
            transports,
            source_v4: compile_side(&rules, &mut pool, source, v4),
            destination_v4: compile_side(&rules, &mut pool, destination, v4),
            source_v6: compile_side(&rules, &mut pool, source, v6),
            destination_v6: compile_side(&rules, &mut pool, destination, v6),
            sets: pool.finish(),
        }
    }

    /// Index of the first rule that matches.
    #[inline]
    pub(super) fn first(&self, key: &FlowKey, later_fragment: bool) -> Option<usize> {
        let class = *self.transport.get(key.protocol() as usize)?;
        let transport = self.transports.get(class as usize)?;
        let by_port = match later_fragment {
            false => transport.ports.get(key.dport),
            true => transport.later_fragment,
        };
        if by_port == 0 {
            return None;
        }
        let (source, destination) = (u128::from_be_bytes(key.src), u128::from_be_bytes(key.dst));
        let (by_source, by_destination) = match source >> 32 {
            0xffff => (
                self.source_v4.get(source as u32),
                self.destination_v4.get(destination as u32),
            ),
            _ => (
                self.source_v6.get(source),
                self.destination_v6.get(destination),
            ),
        };
        self.lowest(by_port, by_source, by_destination)
    }

    /// Lowest bit that three sets share.
    #[inline]
    fn lowest(&self, a: SetAt, b: SetAt, c: SetAt) -> Option<usize> {
        let (a, b, c) = (self.sets.get(a)?, self.sets.get(b)?, self.sets.get(c)?);
        let summary = a.first()? & b.first()? & c.first()?;
        lowest(summary, |word| {
            Some(a.get(word + 1)? & b.get(word + 1)? & c.get(word + 1)?)
        })
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        let transports = self
            .transports
            .iter()
            .map(|t| size_of::<Transport>() + t.ports.bytes());
        let v4 = self.source_v4.bytes() + self.destination_v4.bytes();
        let v6 = self.source_v6.bytes() + self.destination_v6.bytes();
        self.sets.bytes() + size_of_val(&*self.transport) + transports.sum::<usize>() + v4 + v6
    }
}

fn v4(prefix: IpNet) -> Option<(u32, u32)> {
    match prefix {
        IpNet::V4(p) => Some((p.network().to_bits(), p.broadcast().to_bits())),
        IpNet::V6(_) => None,
    }
}

fn v6(prefix: IpNet) -> Option<(u128, u128)> {
    match prefix {
        IpNet::V6(p) => Some((p.network().to_bits(), p.broadcast().to_bits())),
        IpNet::V4(_) => None,
    }
}

/// The sets of one side in one family: `bounds` yields first and last address of a prefix of that family.
fn compile_side<K: Point>(
    rules: &[&Rule],
    pool: &mut Pool,
    side: impl Fn(&Rule) -> Option<IpNet>,
    bounds: impl Fn(IpNet) -> Option<(K, K)>,
) -> Ranges<K> {
    let mut everywhere = pool.empty();
    let mut prefixes: BTreeMap<(K, std::cmp::Reverse<K>), Vec<usize>> = BTreeMap::new();
    for (bit, rule) in rules.iter().enumerate() {
        match side(rule).map(&bounds) {
            None => set(&mut everywhere, bit),
            Some(Some((first, last))) => {
                prefixes
                    .entry((first, std::cmp::Reverse(last)))
                    .or_default()
                    .push(bit);
            }
            Some(None) => {}
        }
    }
    // Prefixes nest or are apart: walk them in order of their start, the wider first, and keep those that enclose.
    let mut ranges = Builder::new(pool.intern(&everywhere));
    let mut enclosing: Vec<(K, Vec<u64>, SetAt)> = Vec::new();
    for ((first, last), bits) in prefixes {
        while enclosing.last().is_some_and(|(end, ..)| *end < first) {
            ranges.end_of(&mut enclosing);
        }
        let mut own = enclosing
            .last()
            .map_or(&everywhere, |(_, set, _)| set)
            .clone();
        bits.into_iter().for_each(|bit| set(&mut own, bit));
        let at = pool.intern(&own);
        ranges.start(first, at);
        enclosing.push((last.0, own, at));
    }
    while !enclosing.is_empty() {
        ranges.end_of(&mut enclosing);
    }
    ranges.finish()
}

/// For each protocol that the rules tell apart, and for all others, what rules match by port.
fn compile_transports(rules: &[&Rule], pool: &mut Pool) -> (Box<[u8; 256]>, Box<[Transport]>) {
    let mut index = Box::new([0; 256]);
    let mut transports: Vec<Transport> = Vec::new();
    let mut other = None;
    for protocol in 0..=u8::MAX {
        let named = rules.iter().any(|rule| rule.protocol == Some(protocol));
        let by_ports = has_ports(protocol) && rules.iter().any(|rule| rule.ports.is_some());
        let class = match other {
            Some(class) if !named && !by_ports => class,
            _ => {
                transports.push(compile_ports(rules, protocol, pool));
                (transports.len() - 1) as u8
            }
        };
        if !named && !by_ports {
            other = Some(class);
        }
        if let Some(slot) = index.get_mut(protocol as usize) {
            *slot = class;
        }
    }
    (index, transports.into())
}

fn compile_ports(rules: &[&Rule], protocol: u8, pool: &mut Pool) -> Transport {
    let all = rules.iter().enumerate();
    let matching: Vec<(usize, &Rule)> = all
        .filter(|(_, rule)| rule.protocol.is_none_or(|p| p == protocol))
        .filter(|(_, rule)| rule.ports.is_none() || has_ports(protocol))
        .map(|(bit, rule)| (bit, *rule))
        .collect();
    let mut later_fragment = pool.empty();
    let mut always = pool.empty();
    for (bit, rule) in &matching {
        if rule.ports.is_none() {
            set(&mut always, *bit);
        }
        if rule.ports.is_none() || rule.action == Action::Allow {
            set(&mut later_fragment, *bit);
        }
    }
    let limited = matching
        .iter()
        .filter_map(|(bit, rule)| Some((*bit, rule.ports.as_ref()?)));
    Transport {
        ports: by_port(pool, &always, limited),
        later_fragment: pool.intern(&later_fragment),
    }
}
