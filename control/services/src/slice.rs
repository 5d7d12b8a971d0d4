// SPDX-License-Identifier: Apache-2.0
//! Endpoints of an EndpointSlice.

use std::net::IpAddr;

use podswitch_api::desired::check_service_address;
use podswitch_api::object::{NamespacedName, Protocol};

use crate::compiler::Problem;
use crate::kubernetes::{self, EndpointSlice, Hint, SERVICE_NAME};

/// What matters of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slice {
    pub(crate) service: NamespacedName,
    pub(crate) is_ipv4: bool,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) problems: Vec<Problem>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

/// An endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) node: Option<Box<str>>,
    pub(crate) zones: Box<[Box<str>]>,
    pub(crate) nodes: Box<[Box<str>]>,
    pub(crate) is_ready: bool,
    /// Serving and terminating: for want of a ready one.
    pub(crate) is_ending: bool,
}

/// The protocol by its name in Kubernetes, TCP when it is left out.
pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::TCP),
        "UDP" => Some(Protocol::UDP),
        "SCTP" => Some(Protocol::SCTP),
        _ => None,
    }
}

/// What a slice says; nothing if it is none of ours, as those of FQDNs are.
pub(crate) fn read(o: &EndpointSlice) -> Option<Slice> {
    let service = o.metadata.labels.get(SERVICE_NAME)?;
    let is_ipv4 = match o.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        _ => return None,
    };
    if service.is_empty() || o.metadata.is_not_ours() {
        return None;
    }
    let mut slice = Slice {
        service: NamespacedName {
            namespace: o.metadata.namespace.clone(),
            name: service.clone(),
        },
        is_ipv4,
        ports: Vec::with_capacity(o.ports.len()),
        endpoints: Vec::with_capacity(o.endpoints.len()),
        problems: Vec::new(),
    };
    let problem = |field: String, message: String| Problem {
        kind: "EndpointSlice",
        key: o.metadata.key(),
        field,
        message,
    };
    for (i, port) in o.ports.iter().enumerate() {
        match read_port(port) {
            Ok(port) => slice.ports.push(port),
            Err(message) => slice.problems.push(problem(format!("ports[{i}]"), message)),
        }
    }
    for (i, endpoint) in o.endpoints.iter().enumerate() {
        match read_endpoint(endpoint, is_ipv4) {
            Ok(endpoint) => slice.endpoints.push(endpoint),
            Err(message) => {
                let field = format!("endpoints[{i}].addresses");
                slice.problems.push(problem(field, message));
            }
        }
    }
    Some(slice)
}

fn read_port(o: &kubernetes::EndpointPort) -> Result<Port, String> {
    let protocol = protocol(o.protocol.as_deref()).ok_or_else(|| {
        let named = o.protocol.as_deref().unwrap_or_default();
        format!("protocol {named:?} is not one of TCP, UDP and SCTP; the port is left out")
    })?;
    // All ports of an endpoint is nothing that a Service could lead to.
    let number = o.port.filter(|port| *port != 0);
    let number =
        number.ok_or_else(|| format!("port {:?} has no number; the port is left out", o.name))?;
    Ok(Port {
        name: o.name.clone(),
        protocol,
        number,
    })
}

fn read_endpoint(o: &kubernetes::Endpoint, v4: bool) -> Result<Endpoint, String> {
    let text = o.addresses.first().map_or("", String::as_str);
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address; the endpoint is left out"))?;
    if address.is_ipv4() != v4 {
        return Err(format!(
            "{address} is not of the slice's addressType; the endpoint is left out"
        ));
    }
    check_service_address("address", address)
        .map_err(|e| format!("{}; the endpoint is left out", e.message))?;
    let names = |hints: &[Hint]| hints.iter().map(|h| h.name.as_str().into()).collect();
    let is = |condition: Option<bool>, otherwise| condition.unwrap_or(otherwise);
    let c = o.conditions;
    Ok(Endpoint {
        address,
        node: o.node_name.as_deref().map(Box::from),
        zones: names(&o.hints.for_zones),
        nodes: names(&o.hints.for_nodes),
        is_ready: is(c.ready, true),
        is_ending: is(c.serving, true) && is(c.terminating, false),
    })
}
