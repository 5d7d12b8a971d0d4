// SPDX-License-Identifier: Apache-2.0
//! Rules compiled for lookup.
//!
//! Every rule is a bit, the first rule the lowest. Source address, destination address and (protocol, destination
//! port) are each looked up once, by binary search among the few ranges that the rules tell apart, and yield the set
//! of rules that match in that respect. The lowest bit that the three sets share is the rule. A set starts with a
//! summary, one bit for each of its words that is not zero, so that only words are read in which a rule can be found.
//!
//! The worst packet costs three binary searches among at most 2n+1 ranges and a walk over n/64 words, for n rules; a
//! miss is no dearer than a hit. Memory is at most n/8 bytes for each different prefix and port bound.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Action, Rule, has_ports};
use crate::wire::FlowKey;

const BITS: usize = u64::BITS as usize;
/// Most rules of a matcher: one bit of the summary for each word.
pub(crate) const MAX: usize = BITS * BITS;

/// Where a set starts in the pool.
type SetAt = u32;

/// An unsigned integer that rules give ranges of.
trait Point: Copy + Ord {
    const ZERO: Self;
    fn next(self) -> Option<Self>;
}

macro_rules! point {
    ($($int:ty),*) => {$(
        impl Point for $int {
            const ZERO: $int = 0;
            fn next(self) -> Option<$int> {
                self.checked_add(1)
            }
        }
    )*};
}
point!(u16, u32, u128);

/// Ranges of `K`, each with a set.
#[derive(Clone, Debug)]
struct Ranges<K> {
    /// Where ranges start, ascending, without the first, which starts at zero.
    starts: Box<[K]>,
    /// A set for each range.
    sets: Box<[SetAt]>,
}

impl<K: Point> Ranges<K> {
    #[inline]
    fn get(&self, key: K) -> SetAt {
        let range = self.starts.partition_point(|start| *start <= key);
        self.sets.get(range).copied().unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.sets)
    }
}

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
    /// All sets, each a summary and `words` words; the first one is empty.
    pool: Box<[u64]>,
    words: usize,
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
            words: pool.words,
            pool: pool.sets.into(),
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
        let set = |at: SetAt| self.pool.get(at as usize..)?.get(..=self.words);
        let (a, b, c) = (set(a)?, set(b)?, set(c)?);
        let mut summary = a.first()? & b.first()? & c.first()?;
        while summary != 0 {
            let word = summary.trailing_zeros() as usize;
            let shared = a.get(word + 1)? & b.get(word + 1)? & c.get(word + 1)?;
            if shared != 0 {
                return Some(word * BITS + shared.trailing_zeros() as usize);
            }
            summary &= summary - 1;
        }
        None
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        let transports = self
            .transports
            .iter()
            .map(|t| size_of::<Transport>() + t.ports.bytes());
        let v4 = self.source_v4.bytes() + self.destination_v4.bytes();
        let v6 = self.source_v6.bytes() + self.destination_v6.bytes();
        size_of_val(&*self.pool)
            + size_of_val(&*self.transport)
            + transports.sum::<usize>()
            + v4
            + v6
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

/// Ranges in the making: where they start and their sets.
struct Builder<K> {
    all: Vec<(K, SetAt)>,
    /// The set outside all prefixes.
    everywhere: SetAt,
}

impl<K: Point> Builder<K> {
    fn new(everywhere: SetAt) -> Builder<K> {
        Builder {
            all: vec![(K::ZERO, everywhere)],
            everywhere,
        }
    }

    /// A range with this set starts here, at or behind the last one's start.
    fn start(&mut self, at: K, set: SetAt) {
        self.all.pop_if(|(start, _)| *start == at);
        if self.all.last().is_none_or(|(_, last)| *last != set) {
            self.all.push((at, set));
        }
    }

    /// The innermost of the enclosing prefixes ends; behind it the next one goes on.
    fn end_of(&mut self, enclosing: &mut Vec<(K, Vec<u64>, SetAt)>) {
        let Some((end, ..)) = enclosing.pop() else {
            return;
        };
        let outer = enclosing.last().map(|(_, _, at)| *at);
        if let Some(next) = end.next() {
            self.start(next, outer.unwrap_or(self.everywhere));
        }
    }

    fn finish(self) -> Ranges<K> {
        Ranges {
            starts: self.all.iter().skip(1).map(|(start, _)| *start).collect(),
            sets: self.all.iter().map(|(_, set)| *set).collect(),
        }
    }
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
    let mut edges: BTreeMap<u16, Vec<(usize, bool)>> = BTreeMap::new();
    let mut present = pool.empty();
    for (bit, rule) in matching {
        match &rule.ports {
            None => set(&mut present, bit),
            Some(ports) => add_edges(&mut edges, ports, bit),
        }
        if rule.ports.is_none() || rule.action == Action::Allow {
            set(&mut later_fragment, bit);
        }
    }
    let mut ranges = Builder::new(pool.intern(&present));
    for (at, changes) in edges {
        for (bit, starts) in changes {
            match starts {
                true => set(&mut present, bit),
                false => clear(&mut present, bit),
            }
        }
        ranges.start(at, pool.intern(&present));
    }
    Transport {
        ports: ranges.finish(),
        later_fragment: pool.intern(&later_fragment),
    }
}

fn add_edges(
    edges: &mut BTreeMap<u16, Vec<(usize, bool)>>,
    ports: &RangeInclusive<u16>,
    bit: usize,
) {
    edges.entry(*ports.start()).or_default().push((bit, true));
    if let Some(behind) = ports.end().next() {
        edges.entry(behind).or_default().push((bit, false));
    }
}

fn set(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / BITS) {
        *word |= 1 << (bit % BITS);
    }
}

fn clear(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / BITS) {
        *word &= !(1 << (bit % BITS));
    }
}

/// Sets, each kept once.
struct Pool {
    words: usize,
    sets: Vec<u64>,
    known: HashMap<Box<[u64]>, SetAt>,
}

impl Pool {
    fn new(rules: usize) -> Pool {
        let mut pool = Pool {
            words: rules.div_ceil(BITS),
            sets: Vec::new(),
            known: HashMap::new(),
        };
        let empty = pool.empty();
        pool.intern(&empty);
        pool
    }

    fn empty(&self) -> Vec<u64> {
        vec![0; self.words]
    }

    fn intern(&mut self, set: &[u64]) -> SetAt {
        if let Some(at) = self.known.get(set) {
            return *at;
        }
        let at = self.sets.len() as SetAt;
        let used = set.iter().enumerate().filter(|(_, word)| **word != 0);
        self.sets.push(used.map(|(i, _)| 1 << i).sum());
        self.sets.extend_from_slice(set);
        self.known.insert(set.into(), at);
        at
    }
}
