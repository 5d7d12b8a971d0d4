// SPDX-License-Identifier: Apache-2.0
//! What one Service alone can have, and who of several gets it: the oldest, then the first by name.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podswitch_api::object::{NamespacedName, Protocol};

/// Something that one port of one Service can have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Claim {
    /// A port of a virtual address.
    Address(Protocol, IpAddr, u16),
    /// A port of the node, of IPv4 or else of IPv6.
    NodePort(Protocol, bool, u16),
    /// A name that was cut.
    Name(String),
}

/// A port of a Service in one family, in the order in which they come first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Claimant {
    /// One that does not say when it was created comes last.
    pub(crate) is_undated: bool,
    pub(crate) created: String,
    pub(crate) service: NamespacedName,
    pub(crate) port: String,
    pub(crate) is_ipv6: bool,
}

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Claims(HashMap<Claim, BTreeSet<Arc<Claimant>>>);

impl Claims {
    /// Notes a claim. Those who made it already are touched if they have to stand back.
    pub(crate) fn add(
        &mut self,
        claim: Claim,
        by: &Arc<Claimant>,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        let all = self.0.entry(claim).or_default();
        if all.first().is_some_and(|first| by < first) {
            touched.extend(all.iter().map(|c| c.service.clone()));
        }
        all.insert(by.clone());
    }

    /// Forgets a claim. Those who stood back are touched.
    pub(crate) fn remove(
        &mut self,
        claim: &Claim,
        by: &Arc<Claimant>,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        let Some(all) = self.0.get_mut(claim) else {
            return;
        };
        let first = all.first() == Some(by);
        all.remove(by);
        if first {
            touched.extend(all.iter().map(|c| c.service.clone()));
        }
        if all.is_empty() {
            self.0.remove(claim);
        }
    }

    /// Who goes before, unless this one has it.
    pub(crate) fn before(&self, claim: &Claim, by: &Claimant) -> Option<&Claimant> {
        let first = self.0.get(claim)?.first()?;
        (**first != *by).then_some(first)
    }
}
