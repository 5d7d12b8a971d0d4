// SPDX-License-Identifier: Apache-2.0
//! What one object must be by itself, whatever else there is.

mod kubernetes;
mod policy;
mod port;
mod route;
mod rule;
mod segment;
mod service;
mod value;

pub use service::check_service_address;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{ErrorCode, RpcError, cut};
use crate::limits::{Limits, MAX_NAME_LENGTH, MAX_SHOWN_LENGTH};
use crate::mac::MacAddr;
use crate::method::Gateway;
use crate::object::Object;

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            ipv4: Ipv4Addr::new(169, 254, 1, 1),
            ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            mac: MacAddr(*b"\x02podsw"),
        }
    }
}

impl Gateway {
    /// Whether this is one of its addresses.
    pub fn has(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.ipv4) || address == IpAddr::V6(self.ipv6)
    }
}

/// What the configuration says about objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How many there may be.
    pub limits: Limits,
    /// The switch's own addresses.
    pub gateway: Gateway,
    /// MTU of ports that name none, in bytes.
    pub default_mtu: u32,
    /// How many workers there are.
    pub workers: u8,
    /// Whether ports of the kind `memory` may be made.
    pub memory_ports: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            limits: Limits::MAX,
            gateway: Gateway::default(),
            default_mtu: 1500,
            workers: 1,
            memory_ports: false,
        }
    }
}

/// Judges one object by itself.
///
/// # Errors
/// `refused` or `limit`, with the object, the field, the value and what to do.
pub fn check_object(object: &Object, bounds: &Bounds) -> Result<(), RpcError> {
    match object {
        Object::Segment(o) => segment::segment(o, bounds),
        Object::Port(o) => port::port(o, bounds),
        Object::Neighbor(o) => route::neighbor(o, bounds),
        Object::Route(o) => route::route(o, bounds),
        Object::Fdb(o) => segment::fdb(o),
        Object::Rule(o) => rule::rule(o),
        Object::Namespace(o) => kubernetes::namespace(o),
        Object::Pod(o) => kubernetes::pod(o, bounds),
        Object::NetworkPolicy(o) => policy::network_policy(o),
        Object::ClusterNetworkPolicy(o) => policy::cluster_network_policy(o),
        Object::Group(o) => kubernetes::group(o),
        Object::Service(o) => service::service(o, bounds),
    }
    .map_err(|e| locate(e, object))
}

/// Names the object in an error of one of its fields. A name at fault may be long; it is cut.
fn locate(mut error: RpcError, object: &Object) -> RpcError {
    let key = object.key();
    let shown = cut(key.to_string(), MAX_SHOWN_LENGTH);
    error.message = format!("{shown}: {}", error.message);
    error.about(&key)
}

fn refuse(
    field: &str,
    value: impl Display,
    what: impl Display,
    hint: impl Into<String>,
) -> RpcError {
    let value: String = value.to_string().chars().take(MAX_NAME_LENGTH).collect();
    RpcError::new(ErrorCode::Refused, format!("{field} {value}: {what}"))
        .field(field)
        .value(value)
        .hint(hint)
}
