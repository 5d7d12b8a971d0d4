// SPDX-License-Identifier: Apache-2.0
//! L2 segments.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::port::Vlan;
use super::trie::{Trie, allocation};
use crate::ids::{PortId, VrfId};
use crate::wire::MacAddr;

/// A segment as control sets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentSpec {
    /// Its id, 1 to 2^24 - 1; not that of a VRF in use.
    pub id: VrfId,
    /// Unique name, for errors and displays; 1 to 128 bytes.
    pub name: String,
    /// Seconds after which a learned address that sent nothing is forgotten, 1 to 1,000,000.
    pub ageing_seconds: u32,
    /// Whether ports whose MAC is not fixed learn.
    pub learn: bool,
    /// Whether frames to unknown addresses are flooded.
    pub flood_unknown: bool,
    /// Most frames to unknown addresses flooded, per second.
    pub unknown_unicast_limit: u32,
    /// Most broadcast and multicast frames flooded, per second.
    pub broadcast_limit: u32,
    /// Most FDB entries, learned and static together; 1 to 65,536.
    pub max_entries: u32,
}

/// A segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What control set.
    pub spec: Arc<SegmentSpec>,
    pub(crate) members: Arc<[Member]>,
    /// Ports under [`fdb_bits`] of their static entries and, in no VLAN but [`OWN`], of their fixed MAC addresses.
    pub(crate) fixed: Trie<u64, PortId>,
    /// Static entries that control set.
    pub(crate) entries: usize,
}

/// A port of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// Its VLANs.
    pub vlan: Vlan,
}

/// Name of a static FDB entry, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FdbKey {
    /// The segment.
    pub segment: VrfId,
    /// The VLAN, 0 for none.
    pub vlan: u16,
    /// The MAC address, unicast.
    pub mac: MacAddr,
}

impl fmt::Display for FdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fdb entry {} (segment {}, vlan {})",
            self.mac, self.segment, self.vlan
        )
    }
}

impl Segment {
    pub(crate) fn new(spec: SegmentSpec) -> Segment {
        Segment {
            spec: Arc::new(spec),
            members: Arc::default(),
            fixed: Trie::default(),
            entries: 0,
        }
    }

    /// Its id.
    pub fn id(&self) -> VrfId {
        self.spec.id
    }

    /// Its ports, by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A port of it.
    pub fn member(&self, port: PortId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&port, |m| m.port).ok()?;
        self.members.get(at)
    }

    /// The port a MAC address is fixed to in a VLAN (0: none): by a static entry, or as the port's own address, which
    /// counts in every VLAN. Whether the port is in that VLAN is for the caller to see.
    #[inline]
    pub fn fixed(&self, vlan: u16, mac: MacAddr) -> Option<PortId> {
        let port = self.fixed.get_exact(fdb_bits(vlan, mac));
        port.or_else(|| self.fixed.get_exact(fdb_bits(OWN, mac)))
            .copied()
    }

    /// How many MAC addresses are fixed: static entries and the ports' own; counts against `max_entries`.
    pub fn fixed_len(&self) -> usize {
        self.fixed.len()
    }

    /// The static entries that control set, in no particular order.
    pub fn entries(&self) -> Vec<(FdbKey, PortId)> {
        let mut all = Vec::with_capacity(self.entries);
        self.fixed.visit(&mut |bits, _, port| {
            let key = fdb_key(self.id(), bits);
            if key.vlan != OWN {
                all.push((key, *port));
            }
        });
        all
    }

    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        allocation(&self.spec, f);
        allocation(&self.members, f);
        self.fixed.visit_allocations(f);
    }
}

/// No VLAN: marks a port's own MAC address.
pub(crate) const OWN: u16 = u16::MAX;

pub(crate) fn fdb_bits(vlan: u16, mac: MacAddr) -> u64 {
    let [a, b, c, d, e, g] = mac.0;
    let [h, l] = vlan.to_be_bytes();
    mix(u64::from_be_bytes([h, l, a, b, c, d, e, g]))
}

fn fdb_key(segment: VrfId, bits: u64) -> FdbKey {
    let [h, l, mac @ ..] = unmix(bits).to_be_bytes();
    FdbKey {
        segment,
        vlan: u16::from_be_bytes([h, l]),
        mac: MacAddr(mac),
    }
}

/// Spreads keys evenly, whatever they have in common, so that the trie is as flat as can be. One to one.
fn mix(bits: u64) -> u64 {
    (bits ^ bits >> 32).wrapping_mul(SPREAD)
}

fn unmix(bits: u64) -> u64 {
    let bits = bits.wrapping_mul(GATHER);
    bits ^ bits >> 32
}

/// Odd, so that multiplying by it can be undone.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Its inverse modulo 2^64 (Newton's iteration doubles the right bits each time).
const GATHER: u64 = {
    let mut inverse = SPREAD;
    let mut i = 0;
    while i < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(SPREAD.wrapping_mul(inverse)));
        i += 1;
    }
    inverse
};
const _: () = assert!(SPREAD.wrapping_mul(GATHER) == 1);
