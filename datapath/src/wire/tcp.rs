// SPDX-License-Identifier: Apache-2.0
//! TCP header (RFC 9293 section 3.1).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length without options, bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the checksum field.
pub const CHECKSUM_OFFSET: u16 = 16;

/// Control bits, as in byte 13 of the header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgment number.
    pub ack: U32,
    /// Data offset in 32-bit words (upper 4 bits), reserved bits.
    pub offset_reserved: u8,
    /// Control bits, see [`flags`].
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: U16,
    /// Checksum.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

impl TcpHeader {
    /// The header at the start of `data`, if its fixed 20 bytes are there.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if its fixed 20 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// Length with options as the header states it, 0 to 60 bytes; below 20 is malformed.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.offset_reserved >> 4) as usize * 4
    }
}
