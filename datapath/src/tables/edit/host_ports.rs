// SPDX-License-Identifier: Apache-2.0
//! Ports of the node that lead to pods.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Build;
use crate::ids::PortId;
use crate::tables::limits::MAX_HOST_PORTS;
use crate::tables::{HostPort, HostPortKey, PortEntry, PortSpec, TableError};
use crate::wire::protocol;
use crate::wire::translate::Endpoint;

impl Build {
    pub(super) fn set_host_ports(
        &mut self,
        changes: &BTreeMap<HostPortKey, Option<Endpoint>>,
    ) -> Result<(), TableError> {
        if changes.is_empty() {
            return Ok(());
        }
        let old = self.tables.host_ports.iter();
        let mut all: BTreeMap<HostPortKey, Endpoint> = old.map(|h| (h.key, h.to)).collect();
        for (key, to) in changes {
            match to {
                Some(to) => {
                    check(key, to)?;
                    all.insert(*key, *to);
                }
                None => {
                    all.remove(key);
                }
            }
        }
        if all.len() > MAX_HOST_PORTS {
            let (what, count) = ("ports of the node that lead to pods", all.len());
            return Err(TableError::limit("host ports", what, count, MAX_HOST_PORTS));
        }
        let all = all.into_iter().map(|(key, to)| HostPort { key, to });
        self.tables.host_ports = all.collect();
        Ok(())
    }

    /// Notes which of the changed ports have addresses of the node; of most nothing is to be noted.
    pub(super) fn note_node_ports(&mut self, changed: &BTreeMap<PortId, Option<PortSpec>>) {
        let is_node = |port: &PortEntry| port.node || port.uplink().is_some();
        for id in changed.keys() {
            let place = self.tables.node_ports.binary_search(id);
            if place.is_ok() == self.tables.port(*id).is_some_and(is_node) {
                continue;
            }
            let mut all = self.tables.node_ports.to_vec();
            match place {
                Ok(at) => drop(all.remove(at)),
                Err(at) => all.insert(at, *id),
            }
            self.tables.node_ports = all.into();
        }
    }
}

fn check(key: &HostPortKey, to: &Endpoint) -> Result<(), TableError> {
    let object = format!("port {} of the node", key.port);
    if !matches!(key.protocol, protocol::TCP | protocol::UDP) {
        let problem = "is neither TCP nor UDP";
        return Err(TableError::invalid(
            object,
            "protocol",
            key.protocol,
            problem,
        ));
    }
    if key.port == 0 || to.port == 0 {
        return Err(TableError::invalid(object, "port", 0, "is 0"));
    }
    Ok(())
}
