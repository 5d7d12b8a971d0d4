// SPDX-License-Identifier: Apache-2.0
//! VXLAN tunnels: how packets to another node are wrapped, and which way these go.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::VrfId;
use crate::verdict::Reason;
use crate::wire::vxlan::Template;

/// A VXLAN tunnel as control sets it (RFC 7348).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelSpec {
    /// Network identifier, 24 bits; no two tunnels have the same.
    pub vni: u32,
    /// UDP port on both ends, not 0.
    pub port: u16,
    /// VRF of the outer packets: that of the uplinks they pass.
    pub underlay: VrfId,
    /// This end's IPv4 address; none: the first one of the uplink that leads to the other end.
    pub local_v4: Option<Ipv4Addr>,
    /// This end's IPv6 address; none: as above.
    pub local_v6: Option<Ipv6Addr>,
    /// Over IPv6: write UDP checksums. Without them the other ends must take packets that have none (RFC 6935).
    pub checksum_v6: bool,
    /// Packets are marked with the group of their sender, and marks of the other ends are believed.
    pub group_policy: bool,
}

impl TunnelSpec {
    /// This end's address for another end of the same family, if it is fixed.
    pub(crate) fn local(&self, remote: IpAddr) -> Option<IpAddr> {
        match remote {
            IpAddr::V4(_) => self.local_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.local_v6.map(IpAddr::V6),
        }
    }
}

/// How packets get to the other end of a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrap {
    /// Their outer headers; none where this node has no address for them.
    pub template: Option<Template>,
    /// Which way they go.
    pub way: Underlay,
    /// They are marked with the group of their sender.
    pub group_policy: bool,
    /// What is known of that way beyond the first hop.
    pub path: Arc<PathMtu>,
}

/// The largest outer packet that the way to the other end of a tunnel takes, as a router on it has said; forgotten after a while, as the way may change
/// (RFC 1191 section 6.3, RFC 8201 section 5.3). Workers write it when they hear of it, and all of them see it, by whichever tables they have.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU64);

/// Ten minutes, in the time's unit below.
const FORGOTTEN_AFTER: u64 = 600_000_000_000 >> UNIT;
/// Bits of a nanosecond clock that are left out: the unit is about a millisecond.
const UNIT: u32 = 20;
/// Bits of the word that hold the number of bytes; the time is above them.
const BYTES: u32 = u16::BITS;

impl PathMtu {
    /// What is known at a time (nanoseconds).
    #[inline]
    pub fn get(&self, now: u64) -> Option<u32> {
        // One word, and nothing else hangs on it.
        let word = self.0.load(Ordering::Relaxed);
        let age = (now >> UNIT).saturating_sub(word >> BYTES);
        (word != 0 && age < FORGOTTEN_AFTER).then_some(word as u32 & u32::from(u16::MAX))
    }

    /// Notes what a router has said; what would make packets larger again is no news of this kind. Of two workers that hear at once
    /// one is late, as if its packet had come first.
    pub fn learn(&self, mtu: u16, now: u64) {
        if self.get(now).is_none_or(|known| u32::from(mtu) <= known) {
            let word = (now >> UNIT) << BYTES | u64::from(mtu);
            self.0.store(word, Ordering::Relaxed);
        }
    }
}

/// What has been learned does not make one way another.
impl PartialEq for PathMtu {
    fn eq(&self, _: &PathMtu) -> bool {
        true
    }
}

impl Eq for PathMtu {}

/// The way of outer packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Underlay {
    /// By this adjacency.
    Adjacency(u32),
    /// By one of a group of next hops.
    Group(u32),
    /// None.
    Drop(Reason),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_a_way_takes_is_known_for_ten_minutes_and_does_not_grow() {
        let path = PathMtu::default();
        assert_eq!(path.get(0), None);
        path.learn(1400, SECOND);
        assert_eq!(path.get(2 * SECOND), Some(1400));
        path.learn(1450, 2 * SECOND);
        assert_eq!(path.get(3 * SECOND), Some(1400));
        path.learn(1300, 300 * SECOND);
        assert_eq!(path.get(890 * SECOND), Some(1300));
        // Said again, it is news.
        path.learn(1300, 890 * SECOND);
        assert_eq!(path.get(1480 * SECOND), Some(1300));
        assert_eq!(path.get(1500 * SECOND), None);
        path.learn(1450, 1500 * SECOND);
        assert_eq!(path.get(1501 * SECOND), Some(1450));
    }
}
