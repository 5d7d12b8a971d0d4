// SPDX-License-Identifier: Apache-2.0
//! Services.

use std::collections::HashSet;
use std::net::IpAddr;

use super::kubernetes::{length, port_number};
use super::value::{host_address, name, prefix};
use super::{Bounds, refuse};
use crate::error::RpcError;
use crate::limits::{
    MAX_AFFINITY_SECONDS, MAX_SERVICE_ADDRESSES, MAX_SERVICE_BACKENDS, MAX_SERVICE_SOURCES,
};
use crate::object::{Backend, ExternalAddress, Protocol, Service};

pub(super) fn service(o: &Service, bounds: &Bounds) -> Result<(), RpcError> {
    name("name", &o.name)?;
    if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&o.protocol) {
        let hint = "choose tcp, udp or sctp";
        return Err(refuse("protocol", o.protocol, "it has no ports", hint));
    }
    port_number("port", o.port)?;
    addresses(o, bounds)?;
    if let Some(port) = o.node_port {
        port_number("node_port", port)?;
    }
    if let Some(seconds) = o.affinity_seconds
        && !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)
    {
        let hint = format!("choose 1 to {MAX_AFFINITY_SECONDS}");
        return Err(refuse("affinity_seconds", seconds, "out of range", hint));
    }
    backends("backends", &o.backends, o.is_ipv4())?;
    backends("local_backends", &o.local_backends, o.is_ipv4())
}

/// The virtual addresses, each once.
fn addresses(o: &Service, bounds: &Bounds) -> Result<(), RpcError> {
    if o.addresses.is_empty() {
        let hint = "give at least one";
        return Err(refuse(
            "addresses",
            "[]",
            "no address to be reached at",
            hint,
        ));
    }
    length("addresses", o.addresses.len(), MAX_SERVICE_ADDRESSES)?;
    length("external", o.external.len(), MAX_SERVICE_ADDRESSES)?;
    let mut seen = HashSet::new();
    let mut virtual_address = |field: String, address: IpAddr| {
        host(&field, address, o.is_ipv4())?;
        if bounds.gateway.has(address) {
            let what = "the switch's own gateway address";
            return Err(refuse(&field, address, what, "choose another"));
        }
        match seen.insert(address) {
            true => Ok(()),
            false => Err(twice(&field, address)),
        }
    };
    for (i, address) in o.addresses.iter().enumerate() {
        virtual_address(format!("addresses[{i}]"), *address)?;
    }
    for (i, external) in o.external.iter().enumerate() {
        virtual_address(format!("external[{i}].address"), external.address)?;
        sources(&format!("external[{i}].sources"), external, o.is_ipv4())?;
    }
    Ok(())
}

fn sources(field: &str, o: &ExternalAddress, v4: bool) -> Result<(), RpcError> {
    length(field, o.sources.len(), MAX_SERVICE_SOURCES)?;
    for (i, source) in o.sources.iter().enumerate() {
        let field = format!("{field}[{i}]");
        prefix(&field, source)?;
        family(&field, source.addr(), v4)?;
    }
    Ok(())
}

fn backends(field: &str, all: &[Backend], v4: bool) -> Result<(), RpcError> {
    length(field, all.len(), MAX_SERVICE_BACKENDS)?;
    let mut seen = HashSet::with_capacity(all.len());
    for (i, backend) in all.iter().enumerate() {
        let field = |name: &str| format!("{field}[{i}]{name}");
        host(&field(".address"), backend.address, v4)?;
        port_number(&field(".port"), backend.port)?;
        if !seen.insert(backend) {
            return Err(twice(&field(""), backend));
        }
    }
    Ok(())
}

/// Judges an address of a service, or of who serves it, by itself: it is a host's, and known beyond a link.
///
/// # Errors
/// `refused`, with the field, the address and what it is instead.
pub fn check_service_address(field: &str, address: IpAddr) -> Result<(), RpcError> {
    host_address(field, address)?;
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if link_local {
        let hint = "give an address that is known beyond a link";
        return Err(refuse(field, address, "link-local", hint));
    }
    Ok(())
}

fn host(field: &str, address: IpAddr, v4: bool) -> Result<(), RpcError> {
    check_service_address(field, address)?;
    family(field, address, v4)
}

fn family(field: &str, address: IpAddr, v4: bool) -> Result<(), RpcError> {
    match address.is_ipv4() == v4 {
        true => Ok(()),
        false => {
            let what = "not of the family of the service's first address";
            let hint = "make it two services, one of each family";
            Err(refuse(field, address, what, hint))
        }
    }
}

fn twice(field: &str, value: impl std::fmt::Display) -> RpcError {
    refuse(field, value, "it is there twice", "leave one of them out")
}
