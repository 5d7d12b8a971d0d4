// SPDX-License-Identifier: Apache-2.0
//! UDP header (RFC 768).

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length, bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field.
pub const CHECKSUM_OFFSET: u16 = 6;

/// The whole header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port, 0 when unused.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Length of header and data, bytes, at least 8.
    pub length: U16,
    /// Checksum; 0 means none was computed (IPv4, and some tunnels over IPv6, RFC 6935).
    pub checksum: U16,
}

impl UdpHeader {
    /// The header at the start of `data`, if 8 bytes are there.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if 8 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }
}
