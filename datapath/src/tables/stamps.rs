// SPDX-License-Identifier: Apache-2.0
//! Stamps of parts of the address space.
//!
//! Who is behind an address changes one by one, so addresses lie in buckets by chance ([`bucket`]). Ways change by prefix: what a long prefix covers
//! is in few [`parts`] that lie together, and what shares no leading bits is most likely in others.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;

use super::trie::allocation;

const PAGE: usize = 1024;
const BUCKET_PAGES: usize = 128;
/// Buckets of addresses.
pub(super) const BUCKETS: usize = BUCKET_PAGES * PAGE;
const PART_PAGES: usize = 4;
const PART_BITS: u32 = (PART_PAGES * PAGE).ilog2();

/// A stamp for each of 131,072 buckets. So many, because a pod that comes or goes has all connections judged again whose addresses share
/// its bucket, and a busy pod has many.
pub(super) type AddressStamps = Stamps<BUCKET_PAGES>;

/// A stamp for each of 4096 parts: few enough to stay in a processor's caches.
pub(super) type RouteStamps = Stamps<PART_PAGES>;

/// Stamps in shared pages; 0 until something changes.
#[derive(Clone, Debug)]
pub(super) struct Stamps<const PAGES: usize> {
    pages: [Option<Arc<[u32; PAGE]>>; PAGES],
}

impl<const PAGES: usize> Default for Stamps<PAGES> {
    fn default() -> Self {
        Stamps {
            pages: [const { None }; PAGES],
        }
    }
}

impl<const PAGES: usize> Stamps<PAGES> {
    #[inline]
    pub(super) fn get(&self, at: usize) -> u32 {
        match self.pages.get(at / PAGE) {
            Some(Some(page)) => page[at % PAGE],
            _ => 0,
        }
    }

    pub(super) fn set(&mut self, range: Range<usize>, stamp: u32) {
        for (n, page) in self.pages.iter_mut().enumerate() {
            let within = |at: usize| at.saturating_sub(n * PAGE).min(PAGE);
            let (from, to) = (within(range.start), within(range.end));
            if from < to {
                let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[from..to].fill(stamp);
            }
        }
    }

    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        let pages = self.pages.iter().flatten();
        pages.for_each(|page| allocation(page, f));
    }
}

/// The bucket of an address as a flow key holds it. Addresses that differ in their last bits alone fall into different buckets.
#[inline]
pub(super) fn bucket(address: &[u8; 16]) -> usize {
    let bits = u128::from_be_bytes(*address);
    let high = ((bits >> 64) as u64).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7);
    let mixed = (bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high;
    (mixed >> (u64::BITS - BUCKETS.ilog2())) as usize
}

/// The part of an address as a flow key holds it. Of IPv4 and IPv6 both are worked out: nobody foresees which it is.
#[inline]
pub(super) fn part(address: &[u8; 16]) -> usize {
    let bits = u128::from_be_bytes(*address);
    let (v4, v6) = (part_v4(bits as u32), part_v6((bits >> 64) as u64));
    std::hint::select_unpredictable(bits >> 32 == 0xffff, v4, v6)
}

/// By the /24. The later half of its bits, whatever the earlier half adds to them, stands for what is next to each other.
#[inline]
fn part_v4(address: u32) -> usize {
    const { assert!(2 * PART_BITS == 24) };
    ((address >> 8 ^ address >> 20) & ((1 << PART_BITS) - 1)) as usize
}

/// By the /64: three bits each for its /24, /32, /48 and itself.
#[inline]
fn part_v6(network: u64) -> usize {
    // A bit of a product depends on no higher bits: turned round, the bits of an address on no later octets.
    let mixed = network.swap_bytes().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let three = |length: u32| (mixed >> (length - 3)) as usize & 7;
    three(24) << 9 | three(32) << 6 | three(48) << 3 | three(64)
}

/// The parts of all addresses that a prefix covers. None: they may be in any.
pub(super) fn parts(prefix: IpNet) -> Option<Range<usize>> {
    let (part, bits) = match prefix {
        IpNet::V4(p) => {
            let bits = 24u32.saturating_sub(p.prefix_len().into());
            (part_v4(p.network().to_bits()), bits)
        }
        IpNet::V6(p) => {
            let bits = match p.prefix_len() {
                64.. => 0,
                48.. => 3,
                32.. => 6,
                24.. => 9,
                _ => PART_BITS,
            };
            (part_v6((p.network().to_bits() >> 64) as u64), bits)
        }
    };
    let first = part >> bits << bits;
    (bits < PART_BITS).then_some(first..first + (1 << bits))
}
