// SPDX-License-Identifier: Apache-2.0
//! Who is behind an address, as far as policy tells.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::route::IpTrie;
use super::stamps::AddressStamps;
use super::trie::{Trie, allocation};
use crate::ids::{CidrClass, GroupId, IdentityId, PeerClass};

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
    /// Addresses and groups that have it.
    pub(super) users: u32,
}

/// Peers by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub(super) addresses: IpTrie<IdentityId>,
    pub(super) identities: Trie<u32, Identity>,
    pub(super) cidrs: IpTrie<CidrClass>,
    /// Identities by group.
    pub(super) groups: Trie<u32, IdentityId>,
    /// Shared, as tables with others are made more often than peers come and go, and it has many pages.
    pub(super) stamps: Arc<AddressStamps>,
}

impl Peers {
    /// Who is behind an address as a flow key holds it.
    #[inline]
    pub(super) fn get(&self, address: &[u8; 16]) -> Peer {
        self.with(self.addresses.get_key(address).copied(), address)
    }

    /// Who is behind an address, as its packets say by their group, if that is known.
    pub(super) fn marked(&self, group: GroupId, address: &[u8; 16]) -> Option<Peer> {
        let identity = *self.groups.get_exact(group.get().into())?;
        Some(self.with(Some(identity), address))
    }

    #[inline]
    fn with(&self, identity: Option<IdentityId>, address: &[u8; 16]) -> Peer {
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
        self.groups.visit_allocations(f);
        allocation(&self.stamps, f);
        self.stamps.visit_allocations(f);
    }
}
