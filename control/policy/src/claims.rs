// SPDX-License-Identifier: Apache-2.0
//! Who has an address: a port of this node before all others, then the pod whose object was set last.

use std::collections::HashMap;
use std::net::IpAddr;

use podswitch_api::object::NamespacedName;

/// Who claims an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Claimant {
    /// A port of this node, by name.
    Port(String),
    /// A Pod object.
    Pod(NamespacedName),
}

#[derive(Debug)]
struct Claim {
    claimant: Claimant,
    since: u64,
}

/// Claims by address.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    of: HashMap<IpAddr, Vec<Claim>>,
    now: u64,
}

impl Claims {
    /// A claim, the newest of all.
    pub(crate) fn add(&mut self, address: IpAddr, claimant: &Claimant) {
        self.remove(address, claimant);
        self.now += 1;
        self.of.entry(address).or_default().push(Claim {
            claimant: claimant.clone(),
            since: self.now,
        });
    }

    /// A claim is given up.
    pub(crate) fn remove(&mut self, address: IpAddr, claimant: &Claimant) {
        if let Some(claims) = self.of.get_mut(&address) {
            claims.retain(|c| c.claimant != *claimant);
            if claims.is_empty() {
                self.of.remove(&address);
            }
        }
    }

    /// Who has it.
    pub(crate) fn owner(&self, address: &IpAddr) -> Option<&Claimant> {
        let rank = |claim: &&Claim| (matches!(claim.claimant, Claimant::Port(_)), claim.since);
        let claims = self.of.get(address)?;
        claims.iter().max_by_key(rank).map(|c| &c.claimant)
    }
}
