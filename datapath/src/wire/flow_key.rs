// SPDX-License-Identifier: Apache-2.0
//! What a flow is known by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::protocol;
use super::translate::Endpoint;
use crate::ids::VrfId;

/// Addresses, ports, protocol and VRF of a flow: 40 bytes, no padding, no pointers, equal if and only if the
/// bytes are equal. It lives in memory that a later process of the same machine maps again, so the layout is part
/// of that memory's version.
///
/// IPv4 addresses are stored IPv4-mapped (RFC 4291 section 2.5.5.2); [`parse`](super::parse::parse) refuses such
/// addresses in IPv6 headers, so an IPv6 packet can never wear an IPv4 flow's key. Ports are in host order and
/// 0 where there are none (other protocols, later fragments). An ICMP or ICMPv6 query carries its identifier in
/// the source port when it is a request and in the destination port when it is a reply, so that
/// [`reversed`](FlowKey::reversed) turns the key of one into that of the other; type and code are not in the key.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port, or identifier of an ICMP request.
    pub sport: u16,
    /// Destination port, or identifier of an ICMP reply.
    pub dport: u16,
    /// VRF or segment (upper 24 bits) and IP protocol (lower 8 bits).
    vrf_protocol: u32,
}

/// `a.b.c.d` as `::ffff:a.b.c.d`.
#[inline]
pub fn map_v4(a: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3],
    ]
}

/// The IPv4 address inside an IPv4-mapped one.
#[inline]
pub fn unmap_v4(a: &[u8; 16]) -> Option<[u8; 4]> {
    is_mapped(a).then(|| [a[12], a[13], a[14], a[15]])
}

/// Whether `a` lies in `::ffff:0:0/96`.
#[inline]
pub(crate) fn is_mapped(a: &[u8; 16]) -> bool {
    u128::from_be_bytes(*a) >> 32 == 0xffff
}

/// An address of a key as the standard library's type: IPv4-mapped ones become IPv4.
#[inline]
pub fn to_ip(a: &[u8; 16]) -> IpAddr {
    match unmap_v4(a) {
        Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        None => IpAddr::V6(Ipv6Addr::from(*a)),
    }
}

/// An address as keys hold it.
#[inline]
pub fn map_ip(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => map_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Set the uses of the hash's seed apart; nothing secret. About half of their bits are set, none is a rotation of another.
const K: [u64; 6] = [
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0x8cb9_2ba7_2f3d_8dd7,
    0xa3b1_9535_4a39_b70d,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
];

/// Both halves of the 128-bit product, folded into one word.
#[inline(always)]
fn fold_mul(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
fn hash_words(ends: [u64; 4], rest: u64, seed: u64) -> u64 {
    let turned = seed.rotate_left(32);
    let x = fold_mul(ends[0] ^ seed ^ K[0], ends[1] ^ turned ^ K[1]);
    let y = fold_mul(ends[2] ^ seed ^ K[2], ends[3] ^ turned ^ K[3]);
    fold_mul(x ^ rest ^ seed ^ K[4], y ^ turned ^ K[5])
}

impl FlowKey {
    /// A key from its parts; only 24 bits of `vrf` count.
    #[inline]
    pub fn new(
        vrf: VrfId,
        protocol: u8,
        src: [u8; 16],
        dst: [u8; 16],
        sport: u16,
        dport: u16,
    ) -> Self {
        FlowKey {
            src,
            dst,
            sport,
            dport,
            vrf_protocol: vrf.0 << 8 | protocol as u32,
        }
    }

    /// As [`FlowKey::new`] of mapped addresses without a VRF, built in whole words: what reads words of it soon after need
    /// not wait for narrower stores.
    #[inline(always)]
    pub(crate) fn new_v4(protocol: u8, src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Self {
        let mapped = |[a, b, c, d]: [u8; 4]| u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]);
        let (s, d) = (sport.to_ne_bytes(), dport.to_ne_bytes());
        let [v, w, x, y] = u32::from(protocol).to_ne_bytes();
        let rest = u64::from_ne_bytes([s[0], s[1], d[0], d[1], v, w, x, y]);
        zerocopy::transmute!([0, mapped(src), 0, mapped(dst), rest])
    }

    /// A key from its parts; IPv4 addresses are mapped.
    pub fn from_ip(
        vrf: VrfId,
        protocol: u8,
        src: IpAddr,
        dst: IpAddr,
        sport: u16,
        dport: u16,
    ) -> Self {
        Self::new(vrf, protocol, map_ip(src), map_ip(dst), sport, dport)
    }

    /// VRF or segment, 24 bits.
    #[inline]
    pub fn vrf(&self) -> VrfId {
        VrfId(self.vrf_protocol >> 8)
    }

    /// Puts the key into a VRF or segment; only 24 bits of `vrf` count.
    #[inline(always)]
    pub fn set_vrf(&mut self, vrf: VrfId) {
        // The whole word, for the hash that follows.
        let words: [u64; 5] = zerocopy::transmute!(*self);
        let [ports @ .., _, _, _, _] = words[4].to_ne_bytes();
        let [a, b, c, d] = (vrf.0 << 8 | self.protocol() as u32).to_ne_bytes();
        let [e, f, g, h] = ports;
        let rest = u64::from_ne_bytes([e, f, g, h, a, b, c, d]);
        *self = zerocopy::transmute!([words[0], words[1], words[2], words[3], rest]);
    }

    /// IP protocol.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.vrf_protocol as u8
    }

    /// Whether the source, and so the packet, is IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        is_mapped(&self.src)
    }

    /// The key with other ports.
    #[inline]
    pub fn with_ports(&self, sport: u16, dport: u16) -> Self {
        FlowKey {
            sport,
            dport,
            ..*self
        }
    }

    /// A hash of the flow that is the same in every process, to choose one of several ways by.
    #[inline]
    pub fn spread(&self) -> u64 {
        self.conversation_hash(self.is_from_upper(), 0)
    }

    /// The key of the opposite direction.
    #[inline]
    pub fn reversed(&self) -> Self {
        FlowKey {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            vrf_protocol: self.vrf_protocol,
        }
    }

    /// Where packets with this key go.
    #[inline]
    pub fn destination(&self) -> Endpoint {
        Endpoint {
            address: self.dst,
            port: self.dport,
        }
    }

    /// The key of a packet to another address and port.
    #[inline]
    pub fn with_destination(&self, to: &Endpoint) -> Self {
        FlowKey {
            dst: to.address,
            dport: to.port,
            ..*self
        }
    }

    /// Whether the source end is the upper one of the two: an order of ends (address and port) that has no meaning but is always
    /// the same, so that both directions of a conversation name the same end first. False if both ends are the same.
    #[inline(always)]
    pub fn is_from_upper(&self) -> bool {
        let w: [u64; 5] = zerocopy::transmute!(*self);
        // Without branches: which end is the upper one is as good as random.
        let (first, second) = (w[0] != w[2], w[1] != w[3]);
        (first & (w[0] > w[2]))
            | (!first & second & (w[1] > w[3]))
            | (!first & !second & (self.sport > self.dport))
    }

    /// The word of ports, protocol and VRF with the ports turned around if the packet comes from end 1.
    #[inline(always)]
    pub(crate) fn turn_ports(word: u64, from: usize) -> u64 {
        let bytes = word.to_ne_bytes();
        let [a, b, c, d, rest @ ..] = bytes;
        let [w, x, y, z] = rest;
        let turned = u64::from_ne_bytes([c, d, a, b, w, x, y, z]);
        match from {
            0 => word,
            _ => turned,
        }
    }

    /// The [`hash`](FlowKey::hash) of the key with its lower end first: the same for both directions. `from_upper` is
    /// [`FlowKey::is_from_upper`].
    #[inline(always)]
    pub fn conversation_hash(&self, from_upper: bool, seed: u64) -> u64 {
        let w: [u64; 5] = zerocopy::transmute!(*self);
        let turn = usize::from(from_upper) << 1;
        hash_words(
            [w[turn], w[1 ^ turn], w[2 ^ turn], w[3 ^ turn]],
            Self::turn_ports(w[4], from_upper.into()),
            seed,
        )
    }

    /// A 64-bit hash under a secret seed, every bit of it usable.
    ///
    /// Three folded 64x64 -> 128 bit multiplications, the first two in parallel, over the five words of the key.
    /// Both factors of each depend on the seed. That is the point: where one factor is a word of the key against a
    /// public constant, whoever chooses addresses can make it zero and have any number of flows collide under every
    /// seed. Here a factor that is zero, or a difference that cancels, needs knowledge of the seed, which is drawn
    /// at random once per flow table and never leaves the process. It is not a message authentication code.
    #[inline]
    pub fn hash(&self, seed: u64) -> u64 {
        let w: [u64; 5] = zerocopy::transmute!(*self);
        hash_words([w[0], w[1], w[2], w[3]], w[4], seed)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol() {
            protocol::ICMP => "icmp",
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::ICMPV6 => "icmpv6",
            protocol::SCTP => "sctp",
            _ => "ip",
        };
        write!(f, "{name}")?;
        if name == "ip" {
            write!(f, "/{}", self.protocol())?;
        }
        let end = |f: &mut fmt::Formatter<'_>, a: &[u8; 16], port: u16| match to_ip(a) {
            IpAddr::V4(a) => write!(f, "{a}:{port}"),
            IpAddr::V6(a) => write!(f, "[{a}]:{port}"),
        };
        f.write_str(" ")?;
        end(f, &self.src, self.sport)?;
        f.write_str(" -> ")?;
        end(f, &self.dst, self.dport)?;
        write!(f, " vrf {}", self.vrf())
    }
}
