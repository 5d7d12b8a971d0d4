// SPDX-License-Identifier: Apache-2.0
//! What the policy compiler has said and the tables do not have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_policy::{CidrClassId, ClassId, IdentityId, RuleId, Update};

/// Updates one after another: the last word about each thing. What a change said that did not come about is gone as soon as the
/// compiler was told the reverse, so that what the tables refused is not asked of them again.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub(super) peers: BTreeMap<IpAddr, Option<IdentityId>>,
    pub(super) identities: BTreeMap<IdentityId, Option<ClassId>>,
    pub(super) cidrs: BTreeMap<IpNet, Option<CidrClassId>>,
    pub(super) groups: BTreeMap<u16, Option<IdentityId>>,
    /// Ports whose rules or group may differ; the compiler knows them.
    pub(super) ports: BTreeSet<String>,
    /// Rules that got a number.
    pub(super) rules: BTreeSet<RuleId>,
}

impl Owed {
    pub(super) fn add(&mut self, update: Update) {
        self.peers.extend(update.peers);
        self.identities.extend(update.identities);
        self.cidrs.extend(update.cidrs);
        self.groups.extend(update.groups);
        self.ports
            .extend(update.endpoints.into_iter().map(|(port, _)| port));
        for (rule, name) in update.rules {
            match name {
                Some(_) => self.rules.insert(rule),
                None => self.rules.remove(&rule),
            };
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
            && self.identities.is_empty()
            && self.cidrs.is_empty()
            && self.groups.is_empty()
            && self.ports.is_empty()
            && self.rules.is_empty()
    }
}
