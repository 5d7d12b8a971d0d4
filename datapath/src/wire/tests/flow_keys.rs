// SPDX-License-Identifier: Apache-2.0
//! The flow key: layout, mirror, hash.

use std::collections::HashSet;

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::ids::VrfId;
use crate::wire::FlowKey;
use crate::wire::flow_key::{map_v4, to_ip, unmap_v4};

fn key(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> FlowKey {
    FlowKey::new(VrfId(0), 6, map_v4(src), map_v4(dst), sport, dport)
}

#[test]
fn layout_is_fixed() {
    let k = FlowKey::new(VrfId(0x0a_0b_0c), 17, [1; 16], [2; 16], 0x0304, 0x0506);
    let bytes = k.as_bytes();
    assert_eq!((size_of::<FlowKey>(), align_of::<FlowKey>()), (40, 8));
    assert_eq!((&bytes[..16], &bytes[16..32]), (&[1; 16][..], &[2; 16][..]));
    assert_eq!(bytes[32..34], 0x0304u16.to_ne_bytes());
    assert_eq!(bytes[34..36], 0x0506u16.to_ne_bytes());
    assert_eq!(bytes[36..40], 0x0a0b_0c11u32.to_ne_bytes());
    assert_eq!(FlowKey::read_from_bytes(bytes), Ok(k));
}

#[test]
fn text() {
    let k = key([10, 0, 0, 1], [10, 0, 0, 2], 1, 2);
    assert_eq!(k.to_string(), "tcp 10.0.0.1:1 -> 10.0.0.2:2 vrf 0");
    let src = "fd00::1".parse().unwrap();
    let dst = "fd00::2".parse().unwrap();
    let k = FlowKey::from_ip(VrfId(7), 47, src, dst, 0, 0);
    assert_eq!(format!("{k:?}"), "ip/47 [fd00::1]:0 -> [fd00::2]:0 vrf 7");
}

#[test]
fn vrf_and_protocol_do_not_touch_each_other() {
    let mut k = key([1; 4], [2; 4], 3, 4);
    k.set_vrf(VrfId(0xff_ffff));
    assert_eq!((k.vrf(), k.protocol()), (VrfId(0xff_ffff), 6));
    k.set_vrf(VrfId(0x0100_0005));
    assert_eq!((k.vrf(), k.protocol()), (VrfId(5), 6), "only 24 bits count");
}

/// What clusters have: addresses and ports one beside the other. Every part of the hash that a table may use must
/// spread them about as well as chance would.
#[test]
fn neighboring_keys_spread() {
    for seed in [0, 1, 0x1234_5678_9abc_def0] {
        let mut low = vec![0u32; 1 << 12];
        let mut high = vec![0u32; 1 << 12];
        let mut tags = HashSet::new();
        let mut count = 0u32;
        for a in 0..64u8 {
            for b in 0..64u8 {
                for port in 0..16u16 {
                    let h = key([10, 1, 0, a], [10, 1, 1, b], 32768 + port, 80).hash(seed);
                    low[h as usize & 0xfff] += 1;
                    high[(h >> 52) as usize] += 1;
                    tags.insert(h);
                    count += 1;
                }
            }
        }
        assert_eq!(tags.len() as u32, count, "64 bits do not collide");
        let mean = count as f64 / low.len() as f64;
        for buckets in [&low, &high] {
            // Chi-squared over the degrees of freedom is 1 on average, with a deviation of 0.022 here.
            let chi: f64 = buckets
                .iter()
                .map(|n| (*n as f64 - mean).powi(2) / mean)
                .sum();
            let ratio = chi / (buckets.len() - 1) as f64;
            assert!((0.85..1.15).contains(&ratio), "seed {seed:x}: {ratio}");
        }
    }
}

/// A key that makes one factor of an unkeyed multiplication zero collides under every seed; here it must not.
#[test]
fn no_word_of_the_key_silences_the_others() {
    let mut seen = HashSet::new();
    for word in 0..4 {
        for constant in [
            0,
            u64::MAX,
            0x9e37_79b9_7f4a_7c15,
            0xd1b5_4a32_d192_ed03,
            0x8cb9_2ba7_2f3d_8dd7,
            0xa3b1_9535_4a39_b70d,
        ] {
            for other in 1..65u64 {
                let mut words = [other; 5];
                words[word] = constant;
                let k: FlowKey = zerocopy::transmute!(words);
                seen.insert(k.hash(0x0123_4567_89ab_cdef));
            }
        }
    }
    assert_eq!(seen.len(), 4 * 6 * 64);
}

proptest! {
    #[test]
    fn every_bit_counts(bytes: [u8; 40], bit in 0usize..320, seed: u64) {
        let k = FlowKey::read_from_bytes(&bytes[..]).unwrap();
        let mut other = bytes;
        other[bit / 8] ^= 1 << (bit % 8);
        let o = FlowKey::read_from_bytes(&other[..]).unwrap();
        prop_assert_ne!(k, o);
        prop_assert_ne!(k.hash(seed), o.hash(seed));
        // Nowhere near all bits changing or staying: 64 coins, 8 deviations off.
        let flipped = (k.hash(seed) ^ o.hash(seed)).count_ones();
        prop_assert!((1..64).contains(&flipped));
        prop_assert_ne!(k.hash(seed), k.hash(seed ^ 1));
    }

    #[test]
    fn reversed_twice_is_the_key(bytes: [u8; 40]) {
        let k = FlowKey::read_from_bytes(&bytes[..]).unwrap();
        let r = k.reversed();
        prop_assert_eq!((r.src, r.dst, r.sport, r.dport), (k.dst, k.src, k.dport, k.sport));
        prop_assert_eq!((r.vrf(), r.protocol()), (k.vrf(), k.protocol()));
        prop_assert_eq!(r.reversed(), k);
    }

    #[test]
    fn addresses_round_trip(v4: [u8; 4], v6: [u8; 16]) {
        prop_assert_eq!(unmap_v4(&map_v4(v4)), Some(v4));
        prop_assert_eq!(to_ip(&map_v4(v4)), std::net::IpAddr::from(v4));
        if unmap_v4(&v6).is_none() {
            prop_assert_eq!(to_ip(&v6), std::net::IpAddr::from(v6));
        }
    }
}
