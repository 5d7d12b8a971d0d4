// SPDX-License-Identifier: Apache-2.0
//! The routes of a VRF and the addresses of its ports, by longest prefix.
//!
//! IPv4: a lookup reads three codes of 14 bits and takes the first that is one: of the /24 from a *block*, of the /16 from an *octet*, of
//! the /8 from the root. No code is pushed down from one of the three levels into the next, so a prefix, however short, changes at most
//! 256 codes of one level. Blocks lie in huge pages; everything else is shared between versions as a trie of four bits a level, so a
//! change copies a block, a few KiB and some eighty counts.
//!
//! The prefixes themselves are in sorted lists, one for each part of each level; codes are painted from them. What has no code
//! (few prefixes in a /16, targets with large indices, no memory for blocks) is looked up in the lists: slower, never wrong.
//!
//! | level | lengths | codes | in |
//! |---|---|---|---|
//! | root | 0 to 8 | 256 | the root |
//! | octet | 9 to 16 | 256, with the number of the block | an octet: a /8 |
//! | page | 17 to 24 | 256, or the number of a tail | a block: a /16 with more than a few of these |
//! | tail | 25 to 32, addresses of ports | 256 | a block: a /24 with more than a few of these |
//!
//! IPv6: the trie that other tables use. docs/design/0004-route-table.md has the reasons, and figures.
#![forbid(unsafe_code)]

mod code;
mod list;
mod page;
#[cfg(test)]
mod tests;
mod v4;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::route::{Target, net};
use super::trie::Trie;
use list::LOCAL;
use v4::V4;

/// What IPv6 holds under a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// Adjacency of the port whose address it is.
    local: Option<u32>,
    route: Option<Target>,
}

impl Entry {
    fn target(self) -> Option<Target> {
        self.local.map(Target::Via).or(self.route)
    }
}

/// Routes by prefix, and ports by address. An address of a port goes before all routes to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fib {
    v4: V4,
    v6: Trie<u128, Entry>,
}

impl Fib {
    /// Whether there is neither a route nor an address of a port.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.len() + self.v6.len() == 0
    }

    /// Where a packet to an address goes, as a flow key holds it (IPv4-mapped): to the port that has it, else by the
    /// longest prefix.
    #[inline(always)]
    pub(crate) fn lookup_key(&self, address: &[u8; 16]) -> Option<Target> {
        let bits = u128::from_be_bytes(*address);
        match bits >> 32 {
            0xffff => self.v4.lookup(bits as u32),
            _ => self.lookup_v6(bits),
        }
    }

    #[inline(never)]
    fn lookup_v6(&self, address: u128) -> Option<Target> {
        self.v6.lookup(address)?.target()
    }

    /// Asks for what [`lookup_key`](Fib::lookup_key) waits for longest, some time before.
    #[inline(always)]
    pub(crate) fn prefetch_key(&self, address: &[u8; 16]) {
        let bits = u128::from_be_bytes(*address);
        if bits >> 32 == 0xffff {
            self.v4.prefetch(bits as u32);
        }
    }

    /// As [`lookup_key`](Fib::lookup_key), of an address as it is.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(a) => self.v4.lookup(a.to_bits()),
            IpAddr::V6(a) => self.lookup_v6(a.to_bits()),
        }
    }

    /// The adjacency of the port that has this address.
    pub(crate) fn local(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(a) => match self.v4.get(a.to_bits(), LOCAL)? {
                Target::Via(adjacency) => Some(adjacency),
                _ => None,
            },
            IpAddr::V6(a) => self.v6.get_exact(a.to_bits())?.local,
        }
    }

    /// Gives an address to a port, or takes it away.
    pub(crate) fn set_local(&mut self, address: IpAddr, adjacency: Option<u32>) {
        match address {
            IpAddr::V4(a) => {
                self.v4.set(a.to_bits(), LOCAL, adjacency.map(Target::Via));
            }
            IpAddr::V6(a) => {
                self.change(a.to_bits(), 128, |entry| entry.local = adjacency);
            }
        }
    }

    /// Asks for what a change of a route copies, some time before it is made.
    pub(crate) fn prefetch_change(&self, prefix: IpNet) {
        if let IpNet::V4(p) = prefix {
            self.v4.prefetch_change(p.addr().to_bits(), p.prefix_len());
        }
    }

    /// The route of exactly this prefix.
    pub(crate) fn route(&self, prefix: IpNet) -> Option<Target> {
        match prefix {
            IpNet::V4(p) => self.v4.get(p.addr().to_bits(), p.prefix_len()),
            IpNet::V6(p) => self.v6.get(p.addr().to_bits(), p.prefix_len())?.route,
        }
    }

    /// Sets the route of a prefix, or takes it out. Bits beyond the length are zero.
    pub(crate) fn set_route(&mut self, prefix: IpNet, target: Option<Target>) {
        match prefix {
            IpNet::V4(p) => {
                self.v4.set(p.addr().to_bits(), p.prefix_len(), target);
            }
            IpNet::V6(p) => {
                let set = |entry: &mut Entry| entry.route = target;
                self.change(p.addr().to_bits(), p.prefix_len(), set);
            }
        }
    }

    fn change(&mut self, address: u128, length: u8, set: impl FnOnce(&mut Entry)) {
        let mut entry = self.v6.get(address, length).copied().unwrap_or_default();
        set(&mut entry);
        match entry.target() {
            Some(_) => self.v6.insert(address, length, entry),
            None => self.v6.remove(address, length),
        };
    }

    /// Calls `f` with every route, in no particular order.
    pub(crate) fn visit_routes(&self, f: &mut dyn FnMut(IpNet, Target)) {
        self.v4.visit_within(0, 0, &mut |item| {
            if item.length < LOCAL {
                let prefix = Ipv4Net::new_assert(item.address.into(), item.length);
                f(prefix.into(), item.target);
            }
        });
        self.v6.visit(&mut |address, length, entry| {
            if let Some(target) = entry.route {
                f(net(IpAddr::from(address.to_be_bytes()), length), target);
            }
        });
    }

    /// Calls `f` with address and size of every allocation of the table.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.v4.visit_allocations(f);
        self.v6.visit_allocations(f);
    }
}
