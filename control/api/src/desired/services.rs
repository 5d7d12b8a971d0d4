// SPDX-License-Identifier: Apache-2.0
//! What services must be to one another and to ports.

use super::index::Claim;
use super::relations::{View, conflict};
use crate::error::RpcError;
use crate::object::{Key, Service};

impl View<'_> {
    /// A packet is for one service, and for no port by itself.
    pub(super) fn service(&self, o: &Service) -> Result<(), RpcError> {
        let key = Key::Service {
            name: o.name.clone(),
        };
        let hint = "choose another, or delete that service first";
        for address in o.all_addresses() {
            let field = match o.addresses.contains(&address) {
                true => "addresses",
                false => "external",
            };
            let frontend = (o.protocol, address, o.port);
            if let Some(other) = self.index.frontends.other(&frontend, &o.name) {
                let (protocol, port) = (o.protocol, o.port);
                let what = format_args!("{protocol} port {port} of {address} is service {other}'s");
                return Err(conflict(&key, what, hint).field(field).value(address));
            }
            if let Some(port) = self.index.claims.of(&Claim::Address(0, address)).first() {
                let what = format_args!("address {address} is one of port {port}");
                let hint = "choose an address that nobody has";
                return Err(conflict(&key, what, hint).field(field).value(address));
            }
        }
        let Some(port) = o.node_port else {
            return Ok(());
        };
        let at = (o.protocol, o.is_ipv4(), port);
        match self.index.node_ports.other(&at, &o.name) {
            Some(other) => {
                let what = format_args!(
                    "{} port {port} of the node is service {other}'s",
                    o.protocol
                );
                Err(conflict(&key, what, hint).field("node_port").value(port))
            }
            None => Ok(()),
        }
    }
}
