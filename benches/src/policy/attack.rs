// SPDX-License-Identifier: Apache-2.0
//! What a pod floods its worker with: frames that are never the same again, as many as it takes.

use std::net::IpAddr;
use std::sync::Arc;

use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::{FrameSource, MemoryDevice};
use podswitch_datapath::verdict::Reason;
use podswitch_datapath::wire::checksum::{sum, update_bytes};
use podswitch_datapath::wire::protocol::{IPV6_FRAGMENT, UDP};
use podswitch_tests::frames::Ends;

use super::cluster::SERVICE;
use crate::stats::Random;
use crate::traffic::{self, Family, mac, overwrite};
use crate::valve::{Tap, Valve};

/// A kind of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// One in four random from its first byte on, two behind their Ethernet header, one behind its IP header.
    Headers,
    /// SYNs from random ports, one half to a port on which policy lets them reach pods, the other to random ones.
    Syns,
    /// Fragments of random packets: half of them first ones, of datagrams as the SYNs are, half of them later ones.
    Fragments,
    /// Datagrams with another pod's address or a random one, half of them also with a random MAC address.
    Spoofed,
}

impl Attack {
    /// All of them.
    pub const ALL: [Attack; 4] = [
        Attack::Headers,
        Attack::Syns,
        Attack::Fragments,
        Attack::Spoofed,
    ];

    /// For labels.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Headers => "random headers",
            Attack::Syns => "SYNs",
            Attack::Fragments => "fragments",
            Attack::Spoofed => "spoofed sources",
        }
    }

    /// Why most of its frames are dropped; each reason is met.
    pub fn reasons(self, family: Family) -> &'static [Reason] {
        match (self, family) {
            (Attack::Headers, Family::V4) => &[
                Reason::SourceMacInvalid,
                Reason::SpoofedMac,
                Reason::BadIpv4Version,
                Reason::PolicyIsolatedEgress,
            ],
            (Attack::Headers, Family::V6) => &[
                Reason::SourceMacInvalid,
                Reason::SpoofedMac,
                Reason::BadIpv6Version,
                Reason::PolicyIsolatedEgress,
            ],
            (Attack::Syns, _) => &[Reason::PolicyIsolatedEgress, Reason::FlowQuota],
            (Attack::Fragments, _) => &[Reason::PolicyIsolatedEgress, Reason::FragmentUnknown],
            (Attack::Spoofed, _) => &[Reason::SpoofedMac, Reason::SpoofedAddress],
        }
    }

    /// A frame to one of the victims, whose rest is written by [`Attacker`].
    fn template(self, from: usize, to: usize, victims: usize, family: Family) -> Vec<u8> {
        let ends = traffic::ends(from, to, family);
        match self {
            Attack::Headers => traffic::datagram(&ends, (0, 0)),
            Attack::Syns => ends.syn((0, 0)),
            Attack::Fragments => fragment(&ends),
            Attack::Spoofed => {
                let other = traffic::ends((to + 1) % victims, to, family);
                let spoofed = Ends {
                    source_mac: mac(from).0,
                    ..other
                };
                traffic::datagram(&spoofed, (0, 0))
            }
        }
    }

    /// A port that floods pods `0..victims` from pod `from` while the valve is open, and keeps nothing.
    pub fn device(
        self,
        family: Family,
        from: usize,
        victims: usize,
        valve: &Arc<Valve>,
    ) -> MemoryDevice {
        MemoryDevice::spring(Box::new(Attacker::new(self, family, from, victims, valve)))
    }
}

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes that a fragment carries.
const CARRIED: usize = 24;
/// The port that first fragments come from: what policy lets on is a connection for each of its pods and ports, not for
/// each fragment.
const CLIENT: u16 = 30_000;

/// A fragment of a UDP datagram of 1000 bytes, its identification, place and ports 0.
fn fragment(ends: &Ends) -> Vec<u8> {
    let mut carried = [0x5a; CARRIED];
    carried[..8].copy_from_slice(&[0, 0, 0, 0, 0x03, 0xe8, 0, 0]);
    match ends.from {
        IpAddr::V4(_) => ends.packet(UDP, &carried),
        IpAddr::V6(_) => {
            let header = [UDP, 0, 0, 0, 0, 0, 0, 0];
            ends.packet(IPV6_FRAGMENT, &[&header[..], &carried].concat())
        }
    }
}

/// Writes the frames of an attack.
#[derive(Debug)]
struct Attacker {
    attack: Attack,
    family: Family,
    /// One for each victim.
    templates: Vec<Vec<u8>>,
    random: Random,
    tap: Tap,
}

impl Attacker {
    fn new(
        attack: Attack,
        family: Family,
        from: usize,
        victims: usize,
        valve: &Arc<Valve>,
    ) -> Attacker {
        let template = |to| attack.template(from, to, victims, family);
        Attacker {
            attack,
            family,
            templates: (0..victims).map(template).collect(),
            random: Random::new(from as u64),
            tap: Tap::new(valve),
        }
    }

    /// Length of the IP header.
    fn ip(&self) -> usize {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let random = self.random.bits().to_be_bytes();
            part.copy_from_slice(&random[..part.len()]);
        }
    }

    /// Makes the checksum of an IPv4 header right.
    fn finish(&self, frame: &mut [u8]) {
        if self.family == Family::V4 {
            let header = &mut frame[ETHERNET..][..20];
            header[10..12].fill(0);
            let checksum = !sum(header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    /// Whether one of two things happens that are equally likely.
    fn half(&mut self) -> bool {
        self.random.bits() & 1 == 0
    }

    /// A port that policy allows, or any.
    fn service(&mut self) -> [u8; 2] {
        let bits = self.random.bits();
        let among = SERVICE.1 - SERVICE.0 + 1;
        let port = match bits & 1 {
            0 => SERVICE.0 + (bits >> 8) as u16 % among,
            _ => (bits >> 8) as u16,
        };
        port.to_be_bytes()
    }

    fn headers(&mut self, frame: &mut [u8]) {
        match self.random.bits() & 3 {
            0 => self.fill(frame),
            1 => {
                let (at, ip) = (ETHERNET + self.ip(), self.ip());
                self.fill(&mut frame[at..]);
                let protocol = self.random.bits() as u8;
                let packet = &mut frame[at - ip..];
                match self.family {
                    Family::V4 => packet[9] = protocol,
                    Family::V6 => packet[6] = protocol,
                }
                self.finish(frame);
            }
            _ => self.fill(&mut frame[ETHERNET..]),
        }
    }

    /// Writes random ports where there were none yet; the checksum stands so far into the transport header.
    fn ports(&mut self, frame: &mut [u8], checksum: usize) {
        let header = &mut frame[ETHERNET + self.ip()..];
        let ([a, b], [c, d]) = ((self.random.bits() as u16).to_be_bytes(), self.service());
        let ports = [a, b, c, d];
        header[..4].copy_from_slice(&ports);
        let field = &mut header[checksum..checksum + 2];
        let updated = update_bytes(u16::from_be_bytes([field[0], field[1]]), &[0; 4], &ports);
        field.copy_from_slice(&updated.to_be_bytes());
    }

    fn fragment(&mut self, frame: &mut [u8]) {
        let packet = &mut frame[ETHERNET..];
        let bits = self.random.bits();
        // In units of 8 bytes; fragments of one packet lie behind its transport header.
        let offset = match self.half() {
            true => 0,
            false => 1 + (bits >> 32) as u16 % 100,
        };
        let id = bits as u32;
        match self.family {
            Family::V4 => {
                packet[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                packet[6..8].copy_from_slice(&(offset | 0x2000).to_be_bytes());
            }
            Family::V6 => {
                packet[42..44].copy_from_slice(&(offset << 3 | 1).to_be_bytes());
                packet[44..48].copy_from_slice(&id.to_be_bytes());
            }
        }
        if offset == 0 {
            let at = packet.len() - CARRIED;
            packet[at..at + 2].copy_from_slice(&CLIENT.to_be_bytes());
            packet[at + 2..at + 4].copy_from_slice(&self.service());
        }
        self.finish(frame);
    }

    /// Who looks at the source never gets to the UDP checksum, which is not that of a random one.
    fn spoof(&mut self, frame: &mut [u8]) {
        self.ports(frame, 6);
        if self.half() {
            self.fill(&mut frame[6..12]);
            // Of one station, and not of a kind that pods here have.
            frame[6] = 6;
        }
        if self.half() {
            let packet = &mut frame[ETHERNET..];
            let address = match self.family {
                Family::V4 => &mut packet[13..16],
                Family::V6 => &mut packet[16..24],
            };
            self.fill(address);
            // Beyond all pods of this node.
            address[0] |= 0x80;
            self.finish(frame);
        }
    }
}

impl FrameSource for Attacker {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        let to = self.random.below(self.templates.len());
        if !overwrite(frame, &self.templates[to]) {
            return false;
        }
        let bytes = frame.bytes_mut();
        match self.attack {
            Attack::Headers => self.headers(bytes),
            Attack::Syns => self.ports(bytes, 16),
            Attack::Fragments => self.fragment(bytes),
            Attack::Spoofed => self.spoof(bytes),
        }
        true
    }

    fn ready(&self) -> usize {
        self.tap.ready()
    }

    fn received(&mut self, frames: usize) {
        self.tap.take(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_datapath::WorkerId;
    use podswitch_datapath::frame::{Arena, Pool};
    use podswitch_tests::frames::internet_checksum;
    use std::collections::BTreeSet;

    const FRAMES: usize = 2000;
    const ATTACKER: usize = 9;
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    /// What an attack begins with.
    fn frames(attack: Attack, family: Family) -> Vec<Vec<u8>> {
        let arena = Arc::new(Arena::new(WorkerId(0), 8).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        let mut frame = pool.alloc(&arena).unwrap();
        let mut attacker = Attacker::new(attack, family, ATTACKER, 9, &Valve::open());
        let frames = (0..FRAMES).map(|_| {
            assert!(attacker.write(&mut frame));
            frame.bytes().to_vec()
        });
        let frames = frames.collect();
        pool.free(frame);
        frames
    }

    fn is_header_sound(frame: &[u8], family: Family) -> bool {
        family == Family::V6 || internet_checksum(&frame[14..34]) == 0
    }

    #[test]
    fn hardly_a_frame_comes_twice() {
        for family in FAMILIES {
            for attack in Attack::ALL {
                let different: BTreeSet<_> = frames(attack, family).into_iter().collect();
                assert!(
                    different.len() > FRAMES * 9 / 10,
                    "{attack:?}: {}",
                    different.len()
                );
            }
        }
    }

    #[test]
    fn syns_are_sound() {
        for family in FAMILIES {
            let (l4, addresses) = match family {
                Family::V4 => (34, 26..34),
                Family::V6 => (54, 22..54),
            };
            let mut allowed = 0;
            for frame in frames(Attack::Syns, family) {
                assert!(is_header_sound(&frame, family));
                let length = (frame.len() - l4) as u16;
                let pseudo = [&frame[addresses.clone()], &[0, 6], &length.to_be_bytes()].concat();
                assert_eq!(internet_checksum(&[&pseudo, &frame[l4..]].concat()), 0);
                let to = u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]);
                allowed += usize::from((SERVICE.0..=SERVICE.1).contains(&to));
            }
            assert!(
                (FRAMES * 2 / 5..FRAMES * 3 / 5).contains(&allowed),
                "{allowed}"
            );
        }
    }

    #[test]
    fn half_of_the_fragments_are_first_ones() {
        for family in FAMILIES {
            let mut first = 0;
            for frame in frames(Attack::Fragments, family) {
                assert!(is_header_sound(&frame, family));
                let (place, more) = match family {
                    Family::V4 => (u16::from_be_bytes([frame[20], frame[21]]), 0x2000),
                    Family::V6 => (u16::from_be_bytes([frame[56], frame[57]]), 1),
                };
                assert_eq!(place & more, more, "more follow");
                first += usize::from(place == more);
            }
            assert!((FRAMES * 2 / 5..FRAMES * 3 / 5).contains(&first), "{first}");
        }
    }

    #[test]
    fn no_spoofed_source_is_the_own_one() {
        for family in FAMILIES {
            let source = match family {
                Family::V4 => 26..30,
                Family::V6 => 22..38,
            };
            let own = traffic::frame(
                traffic::Flow {
                    from: ATTACKER,
                    to: 0,
                    port: 0,
                },
                family,
            );
            let mut stolen = 0;
            for frame in frames(Attack::Spoofed, family) {
                assert!(is_header_sound(&frame, family));
                assert_ne!(frame[source.clone()], own[source.clone()]);
                stolen += usize::from(frame[6..12] == own[6..12]);
            }
            assert!(
                (FRAMES * 2 / 5..FRAMES * 3 / 5).contains(&stolen),
                "{stolen}"
            );
        }
    }
}
