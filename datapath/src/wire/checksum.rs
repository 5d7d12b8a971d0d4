// SPDX-License-Identifier: Apache-2.0
//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A `u16` here is the number a big-endian header field holds. "Sum" is the folded one's complement sum, not
//! complemented; "checksum" is its complement, ready for the field.

/// One's complement sum of `a` and `b`.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Folds an accumulator of native-endian words into 16 bits and puts them in network order.
#[inline(always)]
fn fold_native(acc: u64) -> u16 {
    // Adding a number to itself with its halves swapped leaves the end-around sum of the halves in the upper one.
    let acc = (acc.wrapping_add(acc.rotate_left(32)) >> 32) as u32;
    u16::from_be((acc.wrapping_add(acc.rotate_left(16)) >> 16) as u16)
}

/// Sum of `data` as native-endian 64-bit words with end-around carry, which folds to the sum of 16-bit words; the rest
/// is padded with zeros.
#[inline]
fn sum_native(data: &[u8]) -> u64 {
    let (mut acc, mut carries) = (0u64, 0u64);
    let (blocks, rest) = data.as_chunks::<64>();
    for block in blocks {
        // A chain of carries within a block is what processors have an instruction for.
        let mut carry = false;
        for word in block.as_chunks::<8>().0 {
            (acc, carry) = acc.carrying_add(u64::from_ne_bytes(*word), carry);
        }
        carries += carry as u64;
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        carries += u32::from_ne_bytes(*word) as u64;
    }
    carries += match *rest {
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]) as u64,
        [a, b] => u16::from_ne_bytes([a, b]) as u64,
        [a] => u16::from_ne_bytes([a, 0]) as u64,
        _ => 0,
    };
    let (acc, carry) = acc.overflowing_add(carries);
    acc + carry as u64
}

/// Sum of `data` taken as big-endian 16-bit words; an odd last byte is padded with zero (RFC 1071 section 1).
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    fold_native(sum_native(data))
}

/// Sum of a few bytes as native-endian 32-bit words, far from the end of 64 bits.
#[inline(always)]
fn sum_few<const N: usize>(data: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(4) && N <= 64) };
    let words = data.as_chunks::<4>().0;
    words.iter().map(|w| u32::from_ne_bytes(*w) as u64).sum()
}

/// [`sum`] of a few bytes whose number the compiler knows, a multiple of 4 up to 64.
#[inline(always)]
pub fn sum_fixed<const N: usize>(data: &[u8; N]) -> u16 {
    fold_native(sum_few(data))
}

/// A sum over several slices that lie one behind the other, of any lengths: a slice that starts at an odd
/// offset counts with its bytes swapped (RFC 1071 section 2 B).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u16,
    odd: bool,
}

impl Sum {
    /// Starts from `initial`, a pseudo-header sum for example.
    #[inline]
    pub fn new(initial: u16) -> Self {
        Sum {
            acc: initial,
            odd: false,
        }
    }

    /// Appends `data`.
    #[inline]
    pub fn push(&mut self, data: &[u8]) {
        let part = sum(data);
        self.acc = add(self.acc, if self.odd { part.swap_bytes() } else { part });
        self.odd ^= !data.len().is_multiple_of(2);
    }

    /// The sum so far.
    #[inline]
    pub fn get(self) -> u16 {
        self.acc
    }

    /// The checksum so far: the complement of the sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.acc
    }
}

/// Sum of the IPv4 pseudo-header (RFC 9293 section 3.1); `length` is that of the transport header and data, bytes.
#[inline]
pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], protocol: u8, length: u32) -> u16 {
    pseudo_tail(
        u32::from_ne_bytes(src) as u64 + u32::from_ne_bytes(dst) as u64,
        protocol,
        length,
    )
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1); `length` is that of the upper-layer packet, bytes.
#[inline]
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], protocol: u8, length: u32) -> u16 {
    pseudo_tail(sum_few(src) + sum_few(dst), protocol, length)
}

#[inline]
fn pseudo_tail(addresses: u64, protocol: u8, length: u32) -> u16 {
    fold_native(addresses + length.to_be() as u64 + (protocol as u16).to_be() as u64)
}

/// The checksum after one 16-bit word of what it covers changed from `old` to `new` (RFC 1624 equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// The checksum after a run of bytes at an even offset changed from `old` to `new` (RFC 1624 equation 3).
/// The runs need not be equally long as long as the words behind them keep their parity.
#[inline]
pub fn update_bytes(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    !add(add(!checksum, !sum(old)), sum(new))
}
