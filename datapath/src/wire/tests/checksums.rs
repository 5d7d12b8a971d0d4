// SPDX-License-Identifier: Apache-2.0
//! Sums against the slow way of computing them.

use proptest::prelude::*;

use super::frames::{naive_pseudo, naive_sum};
use crate::wire::checksum::{self, Sum};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::sctp::{Crc32c, crc32c};

/// Zero has two forms in one's complement; only the sum of nothing but zeros has the first.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

/// CRC32c a bit at a time.
fn naive_crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= *byte as u32;
        for _ in 0..8 {
            crc = if crc & 1 != 0 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Cuts `data` at `cuts` (any numbers) into slices one behind the other.
fn pieces<'a>(mut data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    for cut in cuts {
        let (head, tail) = data.split_at(cut % (data.len() + 1));
        out.push(head);
        data = tail;
    }
    out.push(data);
    out
}

#[test]
fn every_length_and_alignment() {
    let data: Vec<u8> = (0..600u32).map(|i| (i * 37 + i / 7) as u8).collect();
    for start in 0..9 {
        for end in start..data.len() {
            let part = &data[start..end];
            assert_eq!(checksum::sum(part), naive_sum(part), "{start}..{end}");
        }
    }
}

#[test]
fn all_ones_do_not_overflow() {
    for len in [1, 2, 3, 64, 65_535, 1 << 20] {
        let data = vec![0xff; len];
        assert_eq!(checksum::sum(&data), naive_sum(&data), "{len}");
    }
}

#[test]
fn fixed_size_sum_is_the_same_sum() {
    let data: [u8; 20] = std::array::from_fn(|i| (i * 73 + 5) as u8);
    assert_eq!(checksum::sum_fixed(&data), naive_sum(&data));
    assert_eq!(checksum::sum_fixed(&[0xff; 64]), 0xffff);
    assert_eq!(checksum::sum_fixed(&[0; 20]), 0);
}

#[test]
fn ttl_decrement_keeps_every_checksum_right() {
    // All checksums that a change of the identification can bring about, and so the ones where carries wrap.
    for id in 0..=u16::MAX {
        let [high, low] = id.to_be_bytes();
        let mut header = [
            0x45, 0, 0, 20, high, low, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ipv4::fill_checksum(&mut header);
        Ipv4Header::read_mut(&mut header).unwrap().decrement_ttl();
        assert_eq!(header[8], 63);
        assert!(ipv4::checksum_is_valid(&header), "id {id}");
        assert_eq!(naive_sum(&header), 0xffff, "id {id}");
    }
}

#[test]
fn a_ttl_of_zero_stays() {
    let mut header = [
        0x45, 0, 0, 20, 0, 0, 0, 0, 0, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    ipv4::fill_checksum(&mut header);
    let before = header;
    Ipv4Header::read_mut(&mut header).unwrap().decrement_ttl();
    assert_eq!(header, before);
}

#[test]
fn fill_checksum_leaves_what_is_too_short() {
    let mut short = [7; 19];
    ipv4::fill_checksum(&mut short);
    assert_eq!(short, [7; 19]);
}

proptest! {
    #[test]
    fn sum_is_the_naive_sum(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert_eq!(checksum::sum(&data), naive_sum(&data));
    }

    #[test]
    fn sum_over_pieces_is_the_sum_of_the_whole(
        data in prop::collection::vec(any::<u8>(), 0..500),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        initial: u16,
    ) {
        let mut sum = Sum::new(initial);
        for piece in pieces(&data, &cuts) {
            sum.push(piece);
        }
        prop_assert!(same(sum.get(), checksum::add(initial, naive_sum(&data))));
        prop_assert_eq!(sum.checksum(), !sum.get());
    }

    #[test]
    fn pseudo_headers(src: [u8; 16], dst: [u8; 16], protocol: u8, len in 0u32..200_000) {
        let (s4, d4) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
        let v4 = naive_pseudo(&s4, &d4, protocol, len as usize);
        let v6 = naive_pseudo(&src, &dst, protocol, len as usize);
        prop_assert_eq!(checksum::pseudo_v4(s4, d4, protocol, len), v4);
        prop_assert_eq!(checksum::pseudo_v6(&src, &dst, protocol, len), v6);
    }

    #[test]
    fn updates_are_what_a_new_computation_gives(
        mut data in prop::collection::vec(any::<u8>(), 2..200),
        at: prop::sample::Index,
        new: [u8; 4],
    ) {
        // A field of the covered data that is not zero, as the version of every IP header is not.
        data[0] = 0x45;
        data.resize(data.len() / 2 * 2 + 4, 0);
        let words = data.len() / 2 - 1;
        let at = 2 * at.index(words - 1).max(1);
        let before = !naive_sum(&data);
        let old: [u8; 4] = data[at..].first_chunk().copied().unwrap_or([0; 4]);
        let word = |b: [u8; 4]| u16::from_be_bytes([b[0], b[1]]);

        let mut one = data.clone();
        one[at..at + 2].copy_from_slice(&new[..2]);
        prop_assert_eq!(checksum::update(before, word(old), word(new)), !naive_sum(&one));

        if at + 4 <= data.len() {
            let mut two = data.clone();
            two[at..at + 4].copy_from_slice(&new);
            prop_assert_eq!(checksum::update_bytes(before, &old, &new), !naive_sum(&two));
        }
    }

    #[test]
    fn crc_over_pieces_is_the_naive_crc(
        data in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let mut crc = Crc32c::new();
        for piece in pieces(&data, &cuts) {
            crc.push(piece);
        }
        prop_assert_eq!(crc.get(), naive_crc(&data));
        prop_assert_eq!(crc32c(&data), naive_crc(&data));
    }
}
