// SPDX-License-Identifier: Apache-2.0
//! IPv4 header (RFC 791).

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum;
use crate::verdict::Reason;

/// Length without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the header checksum in it.
pub const CHECKSUM_AT: usize = 10;
/// Largest datagram every host takes and every error message keeps within (RFC 1812 section 4.3.2.3), bytes.
pub const MIN_REASSEMBLY: usize = 576;

/// Bits of [`Ipv4Header::flags_fragment`].
pub mod flags {
    /// Don't fragment.
    pub const DF: u16 = 0x4000;
    /// More fragments.
    pub const MF: u16 = 0x2000;
    /// Fragment offset, in units of 8 bytes.
    pub const OFFSET: u16 = 0x1fff;
}

/// Option types, with the copied and class bits (IANA "IP Option Numbers").
pub mod option {
    /// End of the list.
    pub const END: u8 = 0;
    /// One byte of padding.
    pub const NOP: u8 = 1;
    /// Loose source route (RFC 791).
    pub const LSRR: u8 = 131;
    /// Strict source route (RFC 791).
    pub const SSRR: u8 = 137;
}

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4), header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_length: U16,
    /// Identification.
    pub id: U16,
    /// See [`flags`].
    pub flags_fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Ipv4Header {
    /// The header at the start of `data`, if its fixed 20 bytes are there. Nothing is judged.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if its fixed 20 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// Version field; 4 when well-formed.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Length with options as the header states it, 0 to 60 bytes; below 20 is malformed.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether it is a fragment, first or later.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (flags::MF | flags::OFFSET) != 0
    }

    /// Takes one hop off the TTL and keeps the checksum right (RFC 1624). The TTL must be above 1: a router does
    /// not forward a packet whose TTL would become 0 (RFC 1812 section 5.3.1). At 0 nothing changes.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        let Some(ttl) = self.ttl.checked_sub(1) else {
            return;
        };
        self.ttl = ttl;
        // The word of TTL and protocol is 0x100 less, so the checksum is that much more, with the carry brought round. An
        // old checksum of 0xfeff gives 0, not 0xffff.
        let sum = u32::from(self.checksum.get()) + 0x100;
        self.checksum.set((sum + u32::from(sum >= 0xffff)) as u16);
    }

    /// Sets the type of service and keeps the checksum right.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        let word = |tos: u8| u16::from_be_bytes([self.version_ihl, tos]);
        let new = checksum::update(self.checksum.get(), word(self.tos), word(tos));
        self.checksum.set(new);
        self.tos = tos;
    }

    /// Sets the TTL and keeps the checksum right.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let word = |ttl: u8, protocol: u8| u16::from_be_bytes([ttl, protocol]);
        let new = checksum::update(
            self.checksum.get(),
            word(self.ttl, self.protocol),
            word(ttl, self.protocol),
        );
        self.checksum.set(new);
        self.ttl = ttl;
    }
}

/// Whether the checksum of `header` (all of it, options included) is right.
#[inline]
pub fn checksum_is_valid(header: &[u8]) -> bool {
    checksum::sum(header) == 0xffff
}

/// Computes and stores the checksum of `header` (all of it, options included; at least 20 bytes, else nothing happens).
pub fn fill_checksum(header: &mut [u8]) {
    if let Some(h) = Ipv4Header::read_mut(header) {
        h.checksum.set(0);
        let sum = checksum::sum(header);
        if let Some(h) = Ipv4Header::read_mut(header) {
            h.checksum.set(!sum);
        }
    }
}

/// Walks the options, the bytes between the fixed header and the payload.
///
/// # Errors
/// [`Reason::Ipv4SourceRoute`] for a loose or strict source route (RFC 7126 sections 4.3 and 4.4),
/// [`Reason::BadIpv4Options`] for a length below 2 or beyond the header.
pub fn check_options(mut options: &[u8]) -> Result<(), Reason> {
    while let [kind, rest @ ..] = options {
        match *kind {
            option::END => break,
            option::NOP => options = rest,
            option::LSRR | option::SSRR => return Err(Reason::Ipv4SourceRoute),
            _ => {
                let len = *rest.first().ok_or(Reason::BadIpv4Options)? as usize;
                if len < 2 {
                    return Err(Reason::BadIpv4Options);
                }
                options = options.get(len..).ok_or(Reason::BadIpv4Options)?;
            }
        }
    }
    Ok(())
}

/// 224.0.0.0/4.
#[inline]
pub fn is_multicast(a: [u8; 4]) -> bool {
    a[0] & 0xf0 == 0xe0
}

/// 255.255.255.255.
#[inline]
pub fn is_limited_broadcast(a: [u8; 4]) -> bool {
    a == [255; 4]
}

/// Neither multicast nor anything else that [`check_addresses`] looks at twice.
#[inline(always)]
pub(super) fn is_plain(a: [u8; 4]) -> bool {
    (a[0].wrapping_sub(1) < 223) & (a[0] != 127)
}

/// Whether a packet with these addresses may be on a link (RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7).
///
/// The source must not be multicast, limited broadcast, 127.0.0.0/8 or 0.0.0.0/8, except that a host without an
/// address may send from 0.0.0.0 to the limited broadcast address or a multicast group (DHCP, RFC 2131; IGMP, RFC
/// 3376). The destination must not be in 0.0.0.0/8 or 127.0.0.0/8. Other addresses of 240.0.0.0/4 pass,
/// as in Linux: they are reserved, not invalid. Directed broadcasts need the tables and are not judged here.
pub fn check_addresses(src: [u8; 4], dst: [u8; 4]) -> Result<(), Reason> {
    if dst[0] == 0 || dst[0] == 127 {
        return Err(Reason::DestinationAddressInvalid);
    }
    let invalid = match src[0] {
        0 => src != [0; 4] || !(is_multicast(dst) || is_limited_broadcast(dst)),
        127 => true,
        _ => is_multicast(src) || is_limited_broadcast(src),
    };
    if invalid {
        Err(Reason::SourceAddressInvalid)
    } else {
        Ok(())
    }
}
