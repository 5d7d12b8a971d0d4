// SPDX-License-Identifier: Apache-2.0
//! SCTP common header (RFC 9260 section 3.1) and its CRC32c (RFC 9260 appendix A).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::byteorder::little_endian;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the common header, bytes.
pub const HEADER_LEN: usize = 12;
/// Offset of the checksum field.
pub const CHECKSUM_OFFSET: u16 = 8;

/// The common header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// Source port.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Verification tag.
    pub tag: U32,
    /// CRC32c of the packet with this field zero; its bytes go least significant first.
    pub checksum: little_endian::U32,
}

impl SctpHeader {
    /// The header at the start of `data`, if 12 bytes are there.
    #[inline]
    pub fn read(data: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(data).ok().map(|(h, _)| h)
    }

    /// The writable header at the start of `data`, if 12 bytes are there.
    #[inline]
    pub fn read_mut(data: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(data).ok().map(|(h, _)| h)
    }
}

/// Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: what byte `b`, followed by `k` zero bytes, does to the register.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 {
                crc >> 1 ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        t[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let prev = t[k - 1][byte];
            t[k][byte] = prev >> 8 ^ t[0][(prev & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    t
}

/// CRC32c over slices one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// Nothing fed yet.
    #[inline]
    pub fn new() -> Self {
        Crc32c(u32::MAX)
    }

    /// Appends `data`, eight bytes a step.
    pub fn push(&mut self, data: &[u8]) {
        let mut crc = self.0;
        let (blocks, rest) = data.as_chunks::<8>();
        for block in blocks {
            let x = u64::from_le_bytes(*block) ^ crc as u64;
            let b = x.to_le_bytes();
            crc = TABLES[7][b[0] as usize]
                ^ TABLES[6][b[1] as usize]
                ^ TABLES[5][b[2] as usize]
                ^ TABLES[4][b[3] as usize]
                ^ TABLES[3][b[4] as usize]
                ^ TABLES[2][b[5] as usize]
                ^ TABLES[1][b[6] as usize]
                ^ TABLES[0][b[7] as usize];
        }
        for byte in rest {
            crc = crc >> 8 ^ TABLES[0][(crc as u8 ^ byte) as usize];
        }
        self.0 = crc;
    }

    /// The CRC of what was fed.
    #[inline]
    pub fn get(self) -> u32 {
        !self.0
    }
}

/// CRC32c of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.push(data);
    crc.get()
}
