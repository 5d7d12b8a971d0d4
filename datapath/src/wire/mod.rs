// SPDX-License-Identifier: Apache-2.0
//! Byte layouts: checked views of the headers the switch reads and writes.
//!
//! Everything here is a view over `&[u8]` or a plain function: nothing owns memory, nothing allocates, and no
//! input, however broken, makes it panic. Integers in structs that this module returns are in host order;
//! integers in the `*Header` views are big-endian as on the wire and read with `.get()`.
//!
//! The hot path is [`parse::parse`]; [`partial`] knows the checksums that local pods leave unfinished;
//! [`icmp`], [`icmp_error`], [`arp`] and [`nd`] write the few answers the switch gives by itself.
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod eth;
pub mod flow_key;
pub mod icmp;
pub mod icmp_error;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod parse;
pub mod partial;
pub mod quoted;
pub mod sctp;
pub mod tcp;
pub mod translate;
pub mod udp;
pub mod vxlan;

pub use eth::MacAddr;
pub use flow_key::FlowKey;
pub use parse::{Fragment, Kind, Parsed, parse, parse_into};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200 section 4.4).
    pub const IPV6_ROUTE: u8 = 43;
    /// IPv6 fragment header (RFC 8200 section 4.5).
    pub const IPV6_FRAGMENT: u8 = 44;
    /// Encapsulating security payload (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 section 4.7).
    pub const IPV6_NO_NEXT: u8 = 59;
    /// IPv6 destination options (RFC 8200 section 4.6).
    pub const IPV6_DEST_OPTS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// The `N` bytes of `data` at `offset`, if they are all there.
#[inline(always)]
pub(crate) fn array_at<const N: usize>(data: &[u8], offset: usize) -> Option<&[u8; N]> {
    data.get(offset..)?.first_chunk::<N>()
}

/// The `N` bytes of `data` at `offset`, writable, if they are all there.
#[inline(always)]
pub(crate) fn array_at_mut<const N: usize>(data: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    data.get_mut(offset..)?.first_chunk_mut::<N>()
}

#[cfg(test)]
mod tests;
