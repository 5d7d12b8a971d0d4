// SPDX-License-Identifier: Apache-2.0
//! Peers, groups, and the policies and groups of ports.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Build;
use crate::ids::{CidrClass, GroupId, IdentityId, PeerClass, PortId};
use crate::tables::limits::{MAX_CIDRS, MAX_IDENTITIES, MAX_PEERS};
use crate::tables::peers::Identity;
use crate::tables::route::host;
use crate::tables::stamps::bucket;
use crate::tables::{PortPolicy, PortSpec, TableError};
use crate::wire::flow_key::map_v4;

fn identity_name(id: IdentityId) -> String {
    format!("identity {id}")
}

fn peer_name(address: IpAddr) -> String {
    format!("peer {address}")
}

/// Refuses too many of something, in the name of the last one that was set.
fn at_most<K, V>(
    limit: usize,
    what: &'static str,
    count: usize,
    changes: &BTreeMap<K, Option<V>>,
    name: impl Fn(&K) -> String,
) -> Result<(), TableError> {
    match changes.iter().rfind(|(_, value)| value.is_some()) {
        Some((key, _)) if count > limit => Err(TableError::limit(name(key), what, count, limit)),
        _ => Ok(()),
    }
}

impl Build {
    pub(super) fn set_identities(&mut self, identities: &BTreeMap<IdentityId, Option<PeerClass>>) {
        for (id, class) in identities {
            let Some(class) = *class else { continue };
            let known = &mut self.tables.peers.identities;
            let old = known.get_exact(id.0).copied();
            if old.is_some_and(|old| old.class == class) {
                continue;
            }
            let users = old.map_or(0, |old| old.users);
            let new = Identity { class, users };
            known.insert(id.0, u32::BITS as u8, new);
            // What has the identity already is somebody else from now on; for a new one nobody has been judged.
            self.changed |= users > 0;
            self.tables.counts.identities += usize::from(old.is_none());
        }
    }

    pub(super) fn set_peers(
        &mut self,
        peers: &BTreeMap<IpAddr, Option<IdentityId>>,
    ) -> Result<(), TableError> {
        let stamp = self.stamp();
        for (address, identity) in peers {
            let table = &mut self.tables.peers;
            let old = table.addresses.get(host(*address)).copied();
            if old == *identity {
                continue;
            }
            match identity {
                Some(id) => table.addresses.insert(host(*address), *id),
                None => table.addresses.remove(host(*address)),
            };
            let key = match address {
                IpAddr::V4(a) => map_v4(a.octets()),
                IpAddr::V6(a) => a.octets(),
            };
            let at = bucket(&key);
            Arc::make_mut(&mut table.stamps).set(at..at + 1, stamp);
            let count = &mut self.tables.counts.peers;
            *count += usize::from(old.is_none());
            *count -= usize::from(identity.is_none());
            if let Some(known) = old.and_then(|id| self.identity_mut(id)) {
                known.users -= 1;
            }
            let Some(id) = *identity else { continue };
            let Some(known) = self.identity_mut(id) else {
                let (name, needs) = (peer_name(*address), identity_name(id));
                return Err(TableError::dangling(name, needs, "add the identity first"));
            };
            known.users += 1;
        }
        let count = self.tables.counts.peers;
        at_most(MAX_PEERS, "peers", count, peers, |a| peer_name(*a))
    }

    fn identity_mut(&mut self, id: IdentityId) -> Option<&mut Identity> {
        self.tables.peers.identities.get_mut(id.0)
    }

    /// Frees identities; nobody may have them.
    pub(super) fn remove_identities(
        &mut self,
        identities: &BTreeMap<IdentityId, Option<PeerClass>>,
    ) -> Result<(), TableError> {
        for (id, class) in identities {
            let known = &mut self.tables.peers.identities;
            let Some(old) = known.get_exact(id.0).filter(|_| class.is_none()) else {
                continue;
            };
            if old.users > 0 {
                let (name, needs) = (self.user_of(*id), identity_name(*id));
                let hint = "remove that too, or give it another identity";
                return Err(TableError::dangling(name, needs, hint));
            }
            known.remove(id.0, u32::BITS as u8);
            self.tables.counts.identities -= 1;
        }
        let count = self.tables.counts.identities;
        at_most(MAX_IDENTITIES, "identities", count, identities, |id| {
            identity_name(*id)
        })
    }

    /// A peer or group that has the identity, for errors.
    fn user_of(&self, id: IdentityId) -> String {
        let mut name = "a peer".to_owned();
        let peers = &self.tables.peers;
        peers.groups.visit(&mut |group, _, identity| {
            if *identity == id {
                name = format!("group {group}");
            }
        });
        peers.addresses.visit(&mut |prefix, identity| {
            if *identity == id {
                name = peer_name(prefix.addr());
            }
        });
        name
    }

    /// Who packets marked with groups are from. Few change, and connections do not say in their stamps by which they were judged: all are
    /// judged again.
    pub(super) fn set_groups(
        &mut self,
        groups: &BTreeMap<GroupId, Option<IdentityId>>,
    ) -> Result<(), TableError> {
        for (group, identity) in groups {
            let known = &mut self.tables.peers.groups;
            let number = u32::from(group.get());
            let old = known.get_exact(number).copied();
            if old == *identity {
                continue;
            }
            match identity {
                Some(id) => known.insert(number, u32::BITS as u8, *id),
                None => known.remove(number, u32::BITS as u8),
            };
            self.changed = true;
            let count = &mut self.tables.counts.groups;
            *count += usize::from(old.is_none());
            *count -= usize::from(identity.is_none());
            if let Some(known) = old.and_then(|id| self.identity_mut(id)) {
                known.users -= 1;
            }
            let Some(id) = *identity else { continue };
            let Some(known) = self.identity_mut(id) else {
                let (name, needs) = (format!("group {group}"), identity_name(id));
                return Err(TableError::dangling(name, needs, "add the identity first"));
            };
            known.users += 1;
        }
        Ok(())
    }

    /// Gives ports their groups; those of ports that are gone are gone.
    pub(super) fn set_port_groups(&mut self, groups: &BTreeMap<PortId, Option<GroupId>>) {
        for (id, group) in groups {
            let Some(old) = self.tables.port(*id).filter(|old| old.group != *group) else {
                continue;
            };
            let mut port = old.clone();
            port.group = *group;
            *self.tables.ports.get_mut(id.index()) = Some(Arc::new(port));
        }
    }

    pub(super) fn set_cidrs(
        &mut self,
        cidrs: &BTreeMap<IpNet, Option<CidrClass>>,
    ) -> Result<(), TableError> {
        for (prefix, class) in cidrs {
            let table = &mut self.tables.peers.cidrs;
            let old = table.get(*prefix).copied();
            if old == *class {
                continue;
            }
            match class {
                Some(class) => table.insert(*prefix, *class),
                None => table.remove(*prefix),
            };
            self.changed = true;
            let count = &mut self.tables.counts.cidrs;
            *count += usize::from(old.is_none());
            *count -= usize::from(class.is_none());
        }
        let count = self.tables.counts.cidrs;
        at_most(MAX_CIDRS, "CIDRs", count, cidrs, |cidr| {
            format!("CIDR {cidr}")
        })
    }

    /// Gives ports their policies; those of ports that go in the same edit go along.
    pub(super) fn set_policies(
        &mut self,
        policies: &BTreeMap<PortId, PortPolicy>,
        ports: &BTreeMap<PortId, Option<PortSpec>>,
    ) -> Result<(), TableError> {
        for (id, policy) in policies {
            let Some(old) = self.tables.port(*id) else {
                let goes = ports.get(id).is_some_and(Option::is_none);
                if goes || matches!(policy, PortPolicy::None) {
                    continue;
                }
                let (name, needs) = ("policy", format!("port {id}"));
                return Err(TableError::dangling(name, needs, "add the port first"));
            };
            if old.policy.is(policy) {
                continue;
            }
            let mut port = old.clone();
            port.policy = policy.clone();
            port.stamp = self.stamp();
            *self.tables.ports.get_mut(id.index()) = Some(Arc::new(port));
        }
        Ok(())
    }
}
