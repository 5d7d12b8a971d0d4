// SPDX-License-Identifier: Apache-2.0
//! Published examples and hand-written frames.

use crate::wire::{checksum, eth::MacAddr, sctp};

#[test]
fn rfc_1071_section_3_example() {
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::sum(&data), 0xddf2);
}

#[test]
fn rfc_1624_section_4_example() {
    // The checksum whose update by equation 2 would have given 0xffff.
    assert_eq!(checksum::update(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn rfc_3720_appendix_b4_crc32c() {
    let ascending: [u8; 32] = std::array::from_fn(|i| i as u8);
    let descending: [u8; 32] = std::array::from_fn(|i| 31 - i as u8);
    assert_eq!(sctp::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(sctp::crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(sctp::crc32c(&ascending), 0x46dd_794e);
    assert_eq!(sctp::crc32c(&descending), 0x113f_db5c);
    assert_eq!(sctp::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn mac_address_text() {
    let mac = MacAddr([0x02, 0, 0x5e, 0xab, 0xcd, 0x01]);
    assert_eq!(mac.to_string(), "02:00:5e:ab:cd:01");
    assert_eq!("02:00:5E:ab:CD:01".parse(), Ok(mac));
    for bad in [
        "",
        "02:00:5e:ab:cd",
        "02:00:5e:ab:cd:1",
        "02-00-5e-ab-cd-01",
        "02:00:5e:ab:cd:0g",
        "02:00:5e:ab:cd:01 ",
    ] {
        assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
    }
    assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
    assert!(MacAddr::ZERO.is_zero() && !MacAddr::ZERO.is_unicast());
}
