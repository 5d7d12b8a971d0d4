// SPDX-License-Identifier: Apache-2.0
//! Bindings: by which address and port somebody outside knows one end of a connection (RFC 2663 section 2.6).
//!
//! A [`Bindings`] belongs to one worker, that of the end which is bound: it alone writes, through its [`Binder`]. Every worker reads, because what
//! comes in by a NIC is translated before it is known whose it is. A line holds one binding: the key of the packets that come from outside, the real
//! address and port, and a number that changes with every writing, so that a reader who meets a writer knows it.
//!
//! A service's client is bound the same way: a line has the key of its packets to the service, and the backend. Both ends of a connection may be
//! bound, where what goes to a service leaves masqueraded; the flow table then names the service's binding, and that names the other.
//!
//! A binding is as good as the connection in the flow table that names it; one that no connection names is a place to be used again. Ports are
//! chosen by a hash of the end alone, so that an end is known by the same port to all it talks to (RFC 4787 section 4.1) unless that is taken.
#![forbid(unsafe_code)]

mod affinity;
mod line;

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use self::affinity::Affinity;
use self::line::{Binding, WORDS};
use super::memory::{Line, Memory};
use super::{Conversation, FlowTable, get, is_past, set};
use crate::prefetch::prefetch;
use crate::wire::FlowKey;
use crate::wire::translate::Endpoint;

/// Number of a binding among its worker's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindingId(pub(super) u32);

impl BindingId {
    /// By its number; any may be asked for.
    pub fn new(number: u32) -> BindingId {
        BindingId(number)
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Why an end cannot be bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unbound {
    /// Every port that was tried is taken for this destination.
    NoPort,
    /// There is no room for another binding, or none for one so like others.
    NoRoom,
}

/// Lines that a binding may be in, from where its hash says.
const WINDOW: usize = 8;
/// Ports that are tried for a connection.
const TRIES: u64 = 64;
const MIN_LINES: usize = 64;
/// Most that a connection's state can name.
pub(super) const MAX_LINES: usize = 1 << 20;

/// Milliseconds for which bindings of the process before are kept without a sign of their connections.
const KEEP: u32 = 3_600_000;
/// First words of a file of bindings.
const MAGIC: u64 = u64::from_be_bytes(*b"PODSWNAT");
const VERSION: u64 = 2;
/// Bindings of late whose connections may not be remembered yet: as many as there are packets in a burst.
/// Each packet may have two made.
const FRESH: usize = 2 * crate::frame::BATCH_SIZE;
/// Lines in front of the bindings.
const HEADER_LINES: usize = 1;

/// Lines for the bindings of so many connections.
fn lines(connections: usize) -> usize {
    (connections * 2)
        .next_power_of_two()
        .clamp(MIN_LINES, MAX_LINES)
}

/// A worker's bindings, to be read.
#[derive(Debug)]
pub struct Bindings {
    memory: Memory,
    mask: usize,
    seed: u64,
    ports: RangeInclusive<u16>,
}

impl Bindings {
    /// None yet; room for those of `connections`. `ports` are the worker's own: nobody else on the node uses them; they may be none. `seed` is a secret.
    ///
    /// # Errors
    /// What memfd_create or mmap said.
    pub fn create(
        connections: usize,
        ports: RangeInclusive<u16>,
        seed: u64,
    ) -> io::Result<Bindings> {
        let lines = lines(connections);
        Ok(Bindings {
            memory: Memory::create(c"podswitch-bindings", HEADER_LINES + lines)?,
            mask: lines - 1,
            seed,
            ports,
        })
    }

    /// As [`Bindings::create`], in a file that outlives the process. What is in it is kept if it is of the same form and the same ports, and of this
    /// boot of the machine: connections go on by their ports. Two processes at a time must not have it.
    ///
    /// # Errors
    /// What open, fallocate or mmap said.
    pub fn in_file(
        path: &Path,
        connections: usize,
        ports: RangeInclusive<u16>,
        seed: u64,
        boot: u64,
    ) -> io::Result<Bindings> {
        let lines = lines(connections);
        let memory = Memory::file(path, HEADER_LINES + lines)?;
        let mut bindings = Bindings {
            memory,
            mask: lines - 1,
            seed,
            ports,
        };
        bindings.take_over(boot);
        Ok(bindings)
    }

    /// Keeps what a process before has left, or begins anew.
    fn take_over(&mut self, boot: u64) {
        let head = &self.memory.lines()[0].0;
        let ports = u64::from(*self.ports.start()) << 16 | u64::from(*self.ports.end());
        let form = [MAGIC, VERSION, self.mask as u64, ports, boot];
        let same = form.iter().zip(head).all(|(v, word)| get(word) == *v);
        if same {
            self.seed = get(&head[form.len()]);
            (0..=self.mask).for_each(|at| line::keep(&self.line(at).0));
            return;
        }
        (0..=self.mask).for_each(|at| line::clear(&self.line(at).0));
        set(&head[form.len()], self.seed);
        form.iter().zip(head).for_each(|(v, word)| set(word, *v));
    }

    fn line(&self, at: usize) -> &Line {
        &self.memory.lines()[HEADER_LINES + (at & self.mask)]
    }

    fn window(&self, outside: &FlowKey) -> impl Iterator<Item = usize> + use<> {
        let (first, mask) = (outside.hash(self.seed) as usize, self.mask);
        (0..WINDOW).map(move |i| (first + i) & mask)
    }

    /// Whom packets with this key from outside are really for, and the number of the binding.
    pub fn find(&self, outside: &FlowKey) -> Option<(BindingId, Endpoint)> {
        self.find_of(outside, |_| true)
    }

    fn find_of(
        &self,
        outside: &FlowKey,
        is_one: impl Fn(&Binding) -> bool,
    ) -> Option<(BindingId, Endpoint)> {
        self.window(outside).find_map(|at| {
            let binding = self.at(at).filter(&is_one)?;
            (binding.outside == *outside).then_some((BindingId(at as u32), binding.inside))
        })
    }

    /// What packets with this key from outside are bound by is on its way.
    #[inline(always)]
    pub fn prefetch(&self, outside: &FlowKey) {
        prefetch(self.line(outside.hash(self.seed) as usize));
    }

    /// The backend that packets with this key, which are to a service, are led to, and the number of the binding.
    pub fn find_led(&self, outside: &FlowKey) -> Option<(BindingId, Endpoint)> {
        self.find_of(outside, |binding| binding.service)
    }

    /// By which address and port the bound end of a connection is known to the other one, if this is the binding of the connection whose packets
    /// from the bound end have this key.
    #[inline]
    pub fn known_as(&self, id: BindingId, key: &FlowKey) -> Option<Endpoint> {
        let binding = self.at(id.0 as usize)?;
        (binding.inner() == *key).then(|| binding.outside.destination())
    }

    /// The binding of the other end of a connection whose one end this is of.
    #[inline]
    pub fn next(&self, id: BindingId) -> Option<BindingId> {
        line::next(&self.line(id.0 as usize).0).map(BindingId)
    }

    /// Whether packets with this key from outside belong to a connection that a process before this one bound.
    pub fn is_kept(&self, outside: &FlowKey) -> bool {
        let found = self.find(outside);
        found.is_some_and(|(id, _)| line::is_kept(&self.line(id.0 as usize).0))
    }

    fn at(&self, at: usize) -> Option<Binding> {
        line::read(&self.line(at).0)
    }

    /// The binding of a connection that a process before this one bound, by the key of packets from the bound end; `kept` is what
    /// [`Bindings::kept`] was at first.
    fn kept_from(&self, kept: &[(u64, u32)], key: &FlowKey) -> Option<Binding> {
        let hash = key.hash(self.seed);
        let first = kept.partition_point(|(h, _)| *h < hash);
        let same = kept.get(first..)?.iter().take_while(|(h, _)| *h == hash);
        let mut same = same.filter(|(_, at)| line::is_kept(&self.line(*at as usize).0));
        same.find_map(|(_, at)| {
            let binding = self.at(*at as usize)?;
            (binding.inner() == *key).then_some(binding)
        })
    }

    /// Connections to services that a process before this one bound: the hash of the key of packets from the bound end, and the number; in order.
    fn kept(&self) -> Vec<(u64, u32)> {
        let kept = |at: &usize| line::is_kept(&self.line(*at).0);
        let known = |at: usize| {
            let binding = self.at(at).filter(|b| b.service)?;
            Some((binding.inner().hash(self.seed), at as u32))
        };
        let mut all: Vec<_> = (0..=self.mask).filter(kept).filter_map(known).collect();
        all.sort_unstable();
        all
    }

    /// How many there are, those that no connection names any more included. Looks at every line.
    pub fn count(&self) -> usize {
        (0..=self.mask).filter(|at| self.at(*at).is_some()).count()
    }
}

/// Makes a worker's bindings; the only one who does.
#[derive(Debug)]
pub struct Binder {
    bindings: Arc<Bindings>,
    /// Until then (milliseconds) bindings of the process before are kept, of whose connections nothing was seen; not known at first.
    keep_until: Option<u32>,
    /// The line that is looked at next for whether a connection still names it.
    cursor: usize,
    /// Lines made of late for services, and where the next one is noted.
    fresh: ([u32; FRESH], usize),
}

/// Who has to make room for a binding, besides what nothing names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim {
    /// Not what the process before has left.
    spare: bool,
    /// Another end that packets from outside of the same key were for.
    replace: bool,
}

impl Binder {
    /// The one binder of these bindings.
    pub fn new(bindings: Arc<Bindings>) -> Binder {
        Binder {
            bindings,
            keep_until: None,
            cursor: 0,
            fresh: ([u32::MAX; FRESH], 0),
        }
    }

    /// What it makes.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// Binds the source of a connection whose first packet has this key to one of the worker's ports on an address of the node; finds the binding
    /// again if the connection had one.
    ///
    /// # Errors
    /// [`Unbound`].
    pub fn masquerade(
        &mut self,
        flows: &FlowTable,
        key: &FlowKey,
        address: [u8; 16],
        now: u32,
    ) -> Result<BindingId, Unbound> {
        let first = *self.bindings.ports.start();
        let ports = self.bindings.ports.len() as u64;
        let mut end = key.with_ports(key.sport, 0);
        end.dst = [0; 16];
        let hash = end.hash(self.bindings.seed);
        // Odd, so that every port of a power of two comes once; of others nearly every.
        let step = hash >> 32 | 1;
        let mut refused = Unbound::NoPort;
        // What the process before has left makes room last.
        for spare in [true, false] {
            let claim = Claim {
                spare,
                replace: false,
            };
            for n in 0..TRIES.min(ports) {
                let offset = ((hash & 0xffff_ffff) + n.wrapping_mul(step)) % ports;
                let to = Endpoint {
                    address,
                    port: first + offset as u16,
                };
                let binding = Binding::new(key, to, false);
                match self.bind_to(flows, &binding, now, claim) {
                    Ok(id) => return Ok(id),
                    Err(why) => refused = why,
                }
            }
        }
        Err(refused)
    }

    /// Binds the source of a connection whose packets have this key to an address and port.
    ///
    /// # Errors
    /// [`Unbound::NoPort`]: to the other end somebody else is known by these.
    pub fn bind(
        &mut self,
        flows: &FlowTable,
        key: &FlowKey,
        to: Endpoint,
        now: u32,
    ) -> Result<BindingId, Unbound> {
        let claim = Claim {
            spare: false,
            replace: false,
        };
        self.bind_to(flows, &Binding::new(key, to, false), now, claim)
    }

    /// Leads packets with this key, which are to a service, to a backend, whomever they went to before.
    ///
    /// # Errors
    /// [`Unbound::NoRoom`].
    pub fn lead(
        &mut self,
        flows: &FlowTable,
        outside: &FlowKey,
        inside: Endpoint,
        now: u32,
    ) -> Result<BindingId, Unbound> {
        let key = outside.with_destination(&inside).reversed();
        let binding = Binding::new(&key, outside.destination(), true);
        let claim = |spare| Claim {
            spare,
            replace: true,
        };
        let id = self.bind_to(flows, &binding, now, claim(true));
        let id = id.or_else(|_| self.bind_to(flows, &binding, now, claim(false)))?;
        let (fresh, next) = &mut self.fresh;
        fresh[*next % FRESH] = id.0;
        *next = (*next + 1) % FRESH;
        Ok(id)
    }

    /// Says that a connection names a binding from here on, and which binding its other end has. False if packets from the bound end do not have this key.
    pub fn claim(&mut self, id: BindingId, key: &FlowKey, other: Option<BindingId>) -> bool {
        let words = &self.bindings.line(id.0 as usize).0;
        let Some(binding) = line::read(words).filter(|binding| binding.inner() == *key) else {
            return false;
        };
        if line::is_kept(words) || line::next(words) != other.map(|id| id.0) {
            line::write(words, &binding);
            other.iter().for_each(|other| line::chain(words, other.0));
        }
        true
    }

    fn bind_to(
        &mut self,
        flows: &FlowTable,
        binding: &Binding,
        now: u32,
        claim: Claim,
    ) -> Result<BindingId, Unbound> {
        let (mut empty, mut free) = (None, None);
        for at in self.bindings.window(&binding.outside) {
            match self.bindings.at(at) {
                None => empty = empty.or(Some(at)),
                Some(there) if there == *binding => {
                    let words = &self.bindings.line(at).0;
                    if line::is_kept(words) {
                        // From here on it is as good as its connection.
                        line::write(words, binding);
                    }
                    return Ok(BindingId(at as u32));
                }
                // Whether it is free is of no matter any more.
                Some(there) if there.outside != binding.outside && empty.or(free).is_some() => {}
                Some(there) => {
                    let same = there.outside == binding.outside;
                    let replaced = same && claim.replace;
                    let named = !replaced && self.is_held(flows, (at, &there), now, claim);
                    if same && named {
                        return Err(Unbound::NoPort);
                    }
                    if same {
                        // Never two of the same key.
                        line::clear(&self.bindings.line(at).0);
                    }
                    if !named {
                        free = free.or(Some(at));
                    }
                }
            }
        }
        let at = empty.or(free).ok_or(Unbound::NoRoom)?;
        line::write(&self.bindings.line(at).0, binding);
        Ok(BindingId(at as u32))
    }

    /// Whether a line cannot be used for another binding.
    fn is_held(
        &self,
        flows: &FlowTable,
        (at, there): (usize, &Binding),
        now: u32,
        claim: Claim,
    ) -> bool {
        claim.spare && self.is_still_kept(at, now)
            || self.fresh.0.contains(&(at as u32))
            || self.is_named(flows, at, there, now)
    }

    /// Whether a connection names a binding, itself or by that of its other end.
    fn is_named(&self, flows: &FlowTable, at: usize, binding: &Binding, now: u32) -> bool {
        let key = binding.inner();
        let found = flows.find_now(&Conversation::of(&key, flows.seed()), now);
        let Some(named) = found.and_then(|found| found.state().binding()) else {
            return false;
        };
        let at = BindingId(at as u32);
        named == at || self.bindings.next(named) == Some(at)
    }

    fn is_still_kept(&self, at: usize, now: u32) -> bool {
        line::is_kept(&self.bindings.line(at).0)
            && self.keep_until.is_none_or(|until| !is_past(until, now))
    }

    /// Whether what the process before has left counts no more.
    fn has_kept_enough(&self, now: u32) -> bool {
        self.keep_until.is_some_and(|until| is_past(until, now))
    }

    /// Frees the next lines, a few at a time, whose connection is over.
    pub fn age(&mut self, flows: &FlowTable, now: u32, lines: usize) {
        self.keep_until.get_or_insert(now.wrapping_add(KEEP));
        for _ in 0..lines {
            let at = self.cursor;
            self.cursor = (at + 1) & self.bindings.mask;
            prefetch(self.bindings.line(self.cursor));
            if let Some(binding) = self.bindings.at(at)
                && !self.is_still_kept(at, now)
                && !self.fresh.0.contains(&(at as u32))
                && !self.is_named(flows, at, &binding, now)
            {
                line::clear(&self.bindings.line(at).0);
            }
        }
    }
}

/// What a worker has to do with bindings: it makes its own, and reads everybody's.
#[derive(Debug)]
pub struct Nat {
    /// Makes the worker's own.
    pub binder: Binder,
    /// Which backends clients stay with.
    pub affinity: Affinity,
    all: Arc<[Arc<Bindings>]>,
    /// Of each worker, what [`Bindings::kept`] was at first.
    kept: Arc<[Vec<(u64, u32)>]>,
}

impl Nat {
    /// One for each worker, of these bindings in the order of the workers.
    pub fn of_workers(all: Arc<[Arc<Bindings>]>) -> Vec<Nat> {
        let kept: Arc<[_]> = all.iter().map(|bindings| bindings.kept()).collect();
        let nat = |own: &Arc<Bindings>| Nat {
            binder: Binder::new(own.clone()),
            affinity: Affinity::new(own.seed),
            all: all.clone(),
            kept: kept.clone(),
        };
        all.iter().map(nat).collect()
    }

    /// Leads packets with this key, which are to a service, to where a process before this one did. A client may be another worker's than it was.
    pub fn lead_kept(
        &mut self,
        flows: &FlowTable,
        outside: &FlowKey,
        now: u32,
    ) -> Option<(BindingId, Endpoint)> {
        let mut kept = self
            .all
            .iter()
            .zip(&*self.kept)
            .filter(|(_, kept)| !kept.is_empty());
        let inside = kept.find_map(|(bindings, _)| {
            let (id, inside) = bindings.find_led(outside)?;
            line::is_kept(&bindings.line(id.0 as usize).0).then_some(inside)
        })?;
        let id = self.binder.lead(flows, outside, inside, now).ok()?;
        Some((id, inside))
    }

    /// The binding of a connection to a service that a process before this one bound, by the key of packets from the backend.
    pub fn kept_from(&mut self, flows: &FlowTable, key: &FlowKey, now: u32) -> Option<BindingId> {
        let mut all = self.all.iter().zip(&*self.kept);
        let binding = all.find_map(|(bindings, kept)| bindings.kept_from(kept, key))?;
        if let Some((id, inside)) = self.binder.bindings().find_led(&binding.outside)
            && inside == binding.inside
        {
            // It stays kept until a packet from outside has it named.
            return Some(id);
        }
        let led = self
            .binder
            .lead(flows, &binding.outside, binding.inside, now);
        led.ok()
    }

    /// Whether a process before this one bound a connection to a service, by the key of packets from the backend.
    pub fn is_kept_from(&self, key: &FlowKey) -> bool {
        let mut all = self.all.iter().zip(&*self.kept);
        all.any(|(bindings, kept)| bindings.kept_from(kept, key).is_some())
    }

    /// Frees the next lines, a few at a time, whose connection is over.
    pub fn age(&mut self, flows: &FlowTable, now: u32, lines: usize) {
        self.binder.age(flows, now, lines);
        if !self.kept.is_empty() && self.binder.has_kept_enough(now) {
            self.kept = Arc::default();
        }
    }

    /// Whether a port is one that a worker masquerades by.
    pub fn has_port(&self, port: u16) -> bool {
        self.all.iter().any(|b| b.ports.contains(&port))
    }

    /// Whom packets with this key from outside, to a port that a worker masquerades by, are really for.
    pub fn find(&self, outside: &FlowKey) -> Option<Endpoint> {
        let mut all = self.all.iter();
        let bindings = all.find(|b| b.ports.contains(&outside.dport))?;
        bindings.find(outside).map(|(_, inside)| inside)
    }
}

const _: () = assert!(WORDS == 8);

#[cfg(test)]
mod tests;
