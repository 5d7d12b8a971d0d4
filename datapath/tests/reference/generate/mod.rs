// SPDX-License-Identifier: Apache-2.0
//! Random tables and random frames: valid ones, odd ones, broken ones.

mod packets;
mod tables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podswitch_datapath::VrfId;
use podswitch_datapath::wire::MacAddr;

pub(crate) use packets::frame;
pub(crate) use tables::setup;

use crate::world::gateway;

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

pub(crate) fn mac(n: u64) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n as u8])
}

const VRFS: [VrfId; 2] = [VrfId(0), VrfId(9)];
const SEGMENTS: [VrfId; 2] = [VrfId(100), VrfId(101)];
const PORTS: [u16; 5] = [53, 80, 443, 4000, 5000];

fn pod_v4(n: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n as u8)
}

fn pod_v6(n: u64) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n as u16)
}

/// An address that means something to the tables, or nothing.
fn address(r: &mut Random, v6: bool) -> IpAddr {
    let n = 1 + r.below(8);
    match (r.below(12), v6) {
        (0, false) => gateway().v4.into(),
        (0, true) => gateway().v6.into(),
        (1, false) => Ipv4Addr::new(203, 0, 113, r.below(4) as u8).into(),
        (1, true) => Ipv6Addr::new(0x2001, 0xdb8, r.below(3) as u16, 0, 0, 0, 0, 1).into(),
        (2, false) => Ipv4Addr::new(198, 51, 100 + r.below(4) as u8, 7).into(),
        (2, true) => Ipv6Addr::new(0x2001, 0xdb8, 0x51, r.below(3) as u16, 0, 0, 0, 7).into(),
        (3, false) => (*r.of(&[
            [224, 0, 0, 5],
            [255; 4],
            [127, 0, 0, 1],
            [0; 4],
            [240, 0, 0, 1],
            [10, 0, 0, 255],
        ]))
        .into(),
        (3, true) => {
            let odd = [
                "ff02::1",
                "ff02::1:ff00:1",
                "::",
                "::1",
                "fe80::5",
                "ff01::1",
                "::ffff:10.0.0.1",
            ];
            r.of(&odd).parse::<Ipv6Addr>().expect("an address").into()
        }
        (_, false) => pod_v4(n).into(),
        (_, true) => pod_v6(n).into(),
    }
}
