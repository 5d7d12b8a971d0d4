// SPDX-License-Identifier: Apache-2.0
//! Who is behind an address, as far as policy tells.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::route::IpTrie;
use super::trie::{Trie, allocation};
use crate::ids::{CidrClass, IdentityId, PeerClass};

/// Who is behind an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// Its identity, if it is known.
    pub identity: Option<IdentityId>,
    /// The selectors that the identity matches.
    pub class: Option<PeerClass>,
    /// The ipBlocks that the address is in.
    pub cidr: Option<CidrClass>,
}

/// An identity in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) class: PeerClass,
    /// Addresses that have it.
    pub(super) addresses: u32,
}

/// Peers by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub(super) addresses: IpTrie<IdentityId>,
    pub(super) identities: Trie<u32, Identity>,
    pub(super) cidrs: IpTrie<CidrClass>,
    pub(super) stamps: AddressStamps,
}

impl Peers {
    /// Who is behind an address as a flow key holds it.
    #[inline]
    pub(super) fn get(&self, address: &[u8; 16]) -> Peer {
        let identity = self.addresses.get_key(address).copied();
        let known = identity.and_then(|id| self.identities.get_exact(id.0));
        Peer {
            identity,
            class: known.map(|known| known.class),
            cidr: self.cidrs.lookup_key(address).copied(),
        }
    }

    pub(super) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.addresses.visit_allocations(f);
        self.identities.visit_allocations(f);
        self.cidrs.visit_allocations(f);
        self.stamps.visit_allocations(f);
    }
}

const PAGES: usize = 128;
const PAGE: usize = 1024;

/// A stamp for each of 131,072 buckets of addresses; 0 until something changes. So many, because a pod that comes or goes has all
/// connections judged again whose addresses share its bucket, and a busy pod has many.
#[derive(Clone, Debug)]
pub(super) struct AddressStamps {
    pages: [Option<Arc<[u32; PAGE]>>; PAGES],
}

impl Default for AddressStamps {
    fn default() -> AddressStamps {
        AddressStamps {
            pages: [const { None }; PAGES],
        }
    }
}

impl AddressStamps {
    /// The stamp of an address as a flow key holds it.
    #[inline]
    pub(super) fn get(&self, address: &[u8; 16]) -> u32 {
        let (page, at) = bucket(address);
        match self.pages.get(page) {
            Some(Some(page)) => page.get(at).copied().unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn set(&mut self, address: &[u8; 16], stamp: u32) {
        let (page, at) = bucket(address);
        if let Some(page) = self.pages.get_mut(page) {
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            if let Some(slot) = Arc::make_mut(page).get_mut(at) {
                *slot = stamp;
            }
        }
    }

    fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        self.pages
            .iter()
            .flatten()
            .for_each(|page| allocation(page, f));
    }
}

/// Page, and place in it. Addresses that differ in their last bits alone fall into different buckets.
#[inline]
pub(super) fn bucket(address: &[u8; 16]) -> (usize, usize) {
    let bits = u128::from_be_bytes(*address);
    let high = ((bits >> 64) as u64).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7);
    let mixed = (bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high;
    let bucket = (mixed >> (u64::BITS - (PAGES * PAGE).ilog2())) as usize;
    (bucket / PAGE, bucket % PAGE)
}
