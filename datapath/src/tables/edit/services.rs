// SPDX-License-Identifier: Apache-2.0
//! Addresses and ports of services.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Build;
use crate::ids::VrfId;
use crate::tables::TableError;
use crate::tables::limits::MAX_FRONTENDS;
use crate::tables::route::host;
use crate::tables::service::{AtAddress, Frontend, FrontendKey, Place, Service, node_port};
use crate::tables::stamps::bucket;
use crate::wire::flow_key::map_ip;
use crate::wire::protocol;

impl Build {
    pub(super) fn set_frontends(
        &mut self,
        changes: &BTreeMap<FrontendKey, Option<Frontend>>,
    ) -> Result<(), TableError> {
        for (key, frontend) in changes {
            check(key)?;
            let old = match key.place {
                Place::Address(address) => self.set_at_address(key, address, frontend.as_ref()),
                Place::Node { v6 } => {
                    let at = node_port(v6, key.protocol, key.port);
                    let all = &mut self.tables.services.node_ports;
                    match frontend {
                        Some(frontend) => all.insert(at, u32::BITS as u8, frontend.clone()),
                        None => all.remove(at, u32::BITS as u8),
                    }
                }
            };
            let count = &mut self.tables.services.count;
            *count = *count + usize::from(frontend.is_some()) - usize::from(old.is_some());
            if let Some(old) = old {
                self.backends_changed(&old.service, frontend.as_ref().map(|f| &*f.service));
            }
        }
        if self.tables.services.count != 0 {
            // A pod that comes to itself answers to it.
            for v4 in [true, false] {
                let mask = self.tables.gateway().mask(v4);
                self.tables.services.mark(&mask);
            }
        }
        let count = self.tables.services.count;
        match changes.iter().rfind(|(_, frontend)| frontend.is_some()) {
            Some((key, _)) if count > MAX_FRONTENDS => {
                let what = "addresses and ports of services";
                Err(TableError::limit(name(key), what, count, MAX_FRONTENDS))
            }
            _ => Ok(()),
        }
    }

    /// Notes the addresses of the node, when a service is at ports of the node.
    pub(super) fn mark_node_addresses(&mut self) {
        if self.tables.services.node_ports.len() == 0 {
            return;
        }
        let own: Vec<_> = self.tables.node_addresses(VrfId(0)).map(map_ip).collect();
        for address in &own {
            self.tables.services.mark(address);
        }
    }

    /// Returns what was there.
    fn set_at_address(
        &mut self,
        key: &FrontendKey,
        address: IpAddr,
        frontend: Option<&Frontend>,
    ) -> Option<Frontend> {
        let services = &mut self.tables.services;
        let mut all: Vec<_> = services
            .at
            .get(host(address))
            .map_or(Vec::new(), |all| all.to_vec());
        let wanted = (key.protocol, key.port);
        let place = all.binary_search_by_key(&wanted, |(protocol, port, _)| (*protocol, *port));
        let old = match (place, frontend) {
            (Ok(at), Some(new)) => Some(std::mem::replace(&mut all[at].2, new.clone())),
            (Ok(at), None) => Some(all.remove(at).2),
            (Err(at), Some(new)) => {
                all.insert(at, (key.protocol, key.port, new.clone()));
                None
            }
            (Err(_), None) => return None,
        };
        match all.is_empty() {
            true => services.at.remove(host(address)),
            false => services.at.insert(host(address), AtAddress::from(all)),
        };
        if frontend.is_some() {
            services.mark(&map_ip(address));
        }
        old
    }

    /// Has connections judged again whose backend serves no more: what has no end of its own goes to another one.
    fn backends_changed(&mut self, old: &Service, new: Option<&Service>) {
        let stamp = self.stamp();
        let serves = |end| new.is_some_and(|new| new.cluster.has(end) || new.local.has(end));
        let ends = old.cluster.ends().iter().chain(old.local.ends());
        for end in ends.filter(|end| !serves(end)) {
            let at = bucket(&end.address);
            Arc::make_mut(&mut self.tables.peers.stamps).set(at..at + 1, stamp);
        }
    }
}

fn name(key: &FrontendKey) -> String {
    match key.place {
        Place::Address(address) => format!("service at {address} port {}", key.port),
        Place::Node { .. } => format!("service at port {} of the node", key.port),
    }
}

fn check(key: &FrontendKey) -> Result<(), TableError> {
    if !matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        let problem = "is none of TCP, UDP and SCTP";
        return Err(TableError::invalid(
            name(key),
            "protocol",
            key.protocol,
            problem,
        ));
    }
    match key.port {
        0 => Err(TableError::invalid(name(key), "port", 0, "is 0")),
        _ => Ok(()),
    }
}
