// SPDX-License-Identifier: Apache-2.0
//! IPv6 header and extension headers (RFC 8200).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::parse::{Fragment, Part};
use super::{array_at, protocol};
use crate::verdict::Reason;

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 40;
/// Smallest MTU of a link, and the most an error message may fill (RFC 4443 section 2.4 c), bytes.
pub const MIN_MTU: usize = 1280;
/// Most extension headers the switch reads in one packet.
pub const MAX_EXTENSIONS: usize = 8;
/// Length of an authentication header without a check value (RFC 4302 section 2), bytes.
const AH_MIN_LEN: usize = 12;

/// The fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits, 6), traffic class (8 bits), flow label (20 bits).
    pub version_class_label: U32,
    /// Everything behind this header, extension headers included, bytes.
    pub payload_length: U16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Ipv6Header {
    /// The header at the start of `data`, if 40 bytes are there. Nothing is judged.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if 40 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// Version field; 6 when well-formed.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// Sets DSCP and ECN.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = self.version_class_label.get() & !(0xff << 20);
        self.version_class_label.set(word | u32::from(class) << 20);
    }

    /// Takes one hop off the hop limit; at 0 nothing changes.
    #[inline]
    pub fn decrement_hop_limit(&mut self) {
        self.hop_limit = self.hop_limit.saturating_sub(1);
    }
}

/// What the extension headers lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// Protocol of the upper layer, or ESP, or "no next header", or a protocol the switch does not know. In a later
    /// fragment: what the fragment header names, which may be an extension header.
    pub protocol: u8,
    /// Offset of the upper layer from the start of the IPv6 header, bytes.
    pub offset: u16,
    /// Which part of a packet this is; an atomic fragment (RFC 6946) is a whole one. 0 identifies without a fragment
    /// header.
    pub part: Part,
}

/// Walks the chain of extension headers.
///
/// `packet` starts with the IPv6 header and holds as many bytes as can be read; `packet_len` is 40 + payload length,
/// bytes. Reads hop-by-hop options (first place only), destination options (twice at most), routing, fragment and
/// authentication headers (once each), and stops at anything else: ESP and "no next header" are the end of what can
/// be read, and mobility, HIP and Shim6 headers count as upper-layer protocols.
///
/// # Errors
/// [`Reason::BadIpv6Extension`] when a header runs past the packet, stands where or repeats when it must not, or the
/// chain is longer than [`MAX_EXTENSIONS`]; [`Reason::Ipv6RoutingHeader`] for a type 0 routing header (RFC 5095);
/// [`Reason::BadFragment`] for a fragment that is not a multiple of 8 bytes though more follow, or ends beyond 65535.
pub fn walk(packet: &[u8], packet_len: usize, next_header: u8) -> Result<Upper, Reason> {
    let mut upper = Upper {
        protocol: next_header,
        offset: HEADER_LEN as u16,
        part: Part::default(),
    };
    let mut offset = HEADER_LEN;
    let mut seen = Seen::default();
    for place in 0..=MAX_EXTENSIONS {
        upper.offset = offset as u16;
        if !is_extension(upper.protocol) || upper.part.fragment == Fragment::Later {
            return Ok(upper);
        }
        if place == MAX_EXTENSIONS || !seen.may_follow(upper.protocol, place) {
            return Err(Reason::BadIpv6Extension);
        }
        let head: &[u8; 8] = array_at(packet, offset).ok_or(Reason::BadIpv6Extension)?;
        let len = extension_len(upper.protocol, head[1]);
        if upper.protocol == protocol::IPV6_FRAGMENT {
            upper.part = read_fragment(head, packet_len.saturating_sub(offset + len))?;
        }
        if upper.protocol == protocol::IPV6_ROUTE && head[2] == 0 {
            return Err(Reason::Ipv6RoutingHeader);
        }
        let shortest = if upper.protocol == protocol::AH {
            AH_MIN_LEN
        } else {
            8
        };
        offset += len;
        if offset > packet_len || len < shortest {
            return Err(Reason::BadIpv6Extension);
        }
        upper.protocol = head[0];
    }
    Err(Reason::BadIpv6Extension)
}

/// Length of an extension header of type `next_header` that states `length` in its second byte, bytes.
#[inline]
fn extension_len(next_header: u8, length: u8) -> usize {
    match next_header {
        protocol::IPV6_FRAGMENT => 8,
        protocol::AH => (length as usize + 2) * 4,
        _ => (length as usize + 1) * 8,
    }
}

/// Where the packet ends up: what its pseudo-headers have as destination (RFC 8200 section 8.1). That is the destination
/// address, or with a routing header that still has segments left, the last of them: type 2 (RFC 6275 section 6.4) and
/// type 4 (RFC 8754 section 2) have it in the same place. `None` for other such routing headers.
///
/// `packet` starts with an IPv6 header whose upper layer [`walk`] found at `upper`.
pub fn final_destination(packet: &[u8], upper: usize) -> Option<[u8; 16]> {
    let ip = Ipv6Header::read(packet)?;
    let (mut next, mut offset) = (ip.next_header, HEADER_LEN);
    while offset < upper {
        let head: &[u8; 4] = array_at(packet, offset)?;
        if next == protocol::IPV6_ROUTE && head[3] > 0 {
            let known = matches!(head[2], 2 | 4);
            return array_at(packet, offset + 8).copied().filter(|_| known);
        }
        offset += extension_len(next, head[1]);
        next = head[0];
    }
    Some(ip.dst)
}

/// Whether a next-header value is an extension header that [`walk`] reads.
#[inline]
pub fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::IPV6_ROUTE
            | protocol::IPV6_FRAGMENT
            | protocol::AH
            | protocol::IPV6_DEST_OPTS
    )
}

/// Extension headers met so far (RFC 8200 section 4.1).
#[derive(Default)]
struct Seen {
    routing: bool,
    fragment: bool,
    authentication: bool,
    destination: u8,
}

impl Seen {
    fn may_follow(&mut self, next_header: u8, place: usize) -> bool {
        let once = |seen: &mut bool| !std::mem::replace(seen, true);
        match next_header {
            protocol::HOP_BY_HOP => place == 0,
            protocol::IPV6_ROUTE => once(&mut self.routing),
            protocol::IPV6_FRAGMENT => once(&mut self.fragment),
            protocol::AH => once(&mut self.authentication),
            _ => {
                self.destination += 1;
                self.destination <= 2
            }
        }
    }
}

/// Reads a fragment header in front of `len` bytes.
fn read_fragment(head: &[u8; 8], len: usize) -> Result<Part, Reason> {
    let field = u16::from_be_bytes([head[2], head[3]]);
    let id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    Ok(Part {
        id,
        ..Part::new(field & 0xfff8, field & 1 != 0, len as u32)?
    })
}

/// ff00::/8.
#[inline]
pub fn is_multicast(a: &[u8; 16]) -> bool {
    a[0] == 0xff
}

/// fe80::/10.
#[inline]
pub fn is_link_local(a: &[u8; 16]) -> bool {
    a[0] == 0xfe && a[1] & 0xc0 == 0x80
}

/// `::`.
#[inline]
pub fn is_unspecified(a: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == 0
}

/// The solicited-node multicast address of `a` (RFC 4291 section 2.7.1).
#[inline]
pub fn solicited_node(a: &[u8; 16]) -> [u8; 16] {
    [
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15],
    ]
}

/// Neither multicast nor anything else that [`check_addresses`] looks at twice: all that begins with eight zero
/// bytes or 0xff.
#[inline(always)]
pub(super) fn is_plain(a: &[u8; 16]) -> bool {
    let high = (u128::from_be_bytes(*a) >> 64) as u64;
    (high != 0) & (high >> 56 != 0xff)
}

/// Whether a packet with these addresses may be on a link (RFC 4291 sections 2.5 to 2.7).
///
/// The source must not be multicast or `::1`, and `::` only towards multicast (duplicate address detection, router
/// solicitation, MLD). The destination must not be `::`, `::1` or multicast of scope 0 or 1. Neither may be
/// IPv4-mapped: such addresses exist in sockets, not on links, and would pass for IPv4 in a flow key.
pub fn check_addresses(src: &[u8; 16], dst: &[u8; 16]) -> Result<(), Reason> {
    let (src, dst) = (u128::from_be_bytes(*src), u128::from_be_bytes(*dst));
    let is_multicast = |a: u128| a >> 120 == 0xff;
    let scope = |a: u128| a >> 112 & 0xf;
    // `::`, `::1` or IPv4-mapped.
    let never_on_link = |a: u128| a <= 1 || a >> 32 == 0xffff;
    if never_on_link(dst) || is_multicast(dst) && scope(dst) < 2 {
        return Err(Reason::DestinationAddressInvalid);
    }
    let unspecified_towards_group = src == 0 && is_multicast(dst);
    if is_multicast(src) || never_on_link(src) && !unspecified_towards_group {
        return Err(Reason::SourceAddressInvalid);
    }
    Ok(())
}
