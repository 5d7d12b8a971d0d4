// SPDX-License-Identifier: Apache-2.0
//! Explicit congestion notification of tunnelled packets (RFC 6040). The field is the two low bits of the type of service or
//! traffic class.

/// Bits of the field.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The outer field for an inner type of service: the same (normal mode, RFC 6040 section 4.1).
#[inline(always)]
pub fn encapsulate(inner: u8) -> u8 {
    inner & MASK
}

/// The type of service with which a packet leaves its tunnel, the ECN field alone changed; `None` when it is to be dropped: congestion was
/// met, and the packet's ends do not know of ECN (RFC 6040 section 4.2, figure 4).
#[inline(always)]
pub fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => None,
        (ECT0 | ECT1, CE) => Some(inner | CE),
        (ECT0, ECT1) => Some(inner & !MASK | ECT1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: inner. Columns: outer Not-ECT, ECT(0), ECT(1), CE (RFC 6040 figure 4).
    #[test]
    fn what_leaves_a_tunnel_is_what_the_rfc_says() {
        let outer = [NOT_ECT, ECT0, ECT1, CE];
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
            (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in table {
            for (outer, out) in outer.into_iter().zip(row) {
                for dscp in [0, 0b1011_1000] {
                    let got = decapsulate(dscp | inner, 0b0010_1000 | outer);
                    assert_eq!(got, out.map(|ecn| dscp | ecn), "{inner:02b} in {outer:02b}");
                }
            }
        }
    }

    #[test]
    fn the_outer_header_copies_it() {
        for tos in 0..=255 {
            assert_eq!(encapsulate(tos), tos & 3);
        }
    }
}
