// SPDX-License-Identifier: Apache-2.0
//! Services: what they are to the tables and to the programs of NICs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use podswitch_api::desired::Difference;
use podswitch_api::object::{self, Object, TrafficPolicy};
use podswitch_datapath::port::xdp::HostPort;
use podswitch_datapath::tables::{Backends, Edit, Frontend, FrontendKey, Place, Service, Traffic};
use podswitch_datapath::wire::flow_key::map_ip;
use podswitch_datapath::wire::translate::Endpoint;

fn of(object: Option<&Object>) -> Option<&object::Service> {
    match object {
        Some(Object::Service(service)) => Some(service),
        _ => None,
    }
}

/// Puts what differs into an edit: all that goes first, as an address may go from one service to another.
pub fn put<'a>(edit: &mut Edit, all: impl Iterator<Item = &'a Difference> + Clone) {
    for service in all.clone().filter_map(|d| of(d.before.as_ref())) {
        for key in places(service).map(|(key, _)| key) {
            edit.set_frontend(key, None);
        }
    }
    for service in all.filter_map(|d| of(d.after.as_ref())) {
        let compiled = Arc::new(compile(service));
        for (key, sources) in places(service) {
            let is_external = sources.is_some();
            let sources = sources.filter(|all| !all.is_empty()).map(Arc::from);
            let frontend = Frontend {
                service: compiled.clone(),
                is_external,
                sources,
            };
            edit.set_frontend(key, Some(frontend));
        }
    }
}

/// Where a service is, and who may use it there; none at its addresses inside the cluster.
fn places(
    service: &object::Service,
) -> impl Iterator<Item = (FrontendKey, Option<&[IpNet]>)> + use<'_> {
    let inside = service.addresses.iter().map(|a| (Place::Address(*a), None));
    let external = service.external.iter();
    let outside = external.map(|e| (Place::Address(e.address), Some(&*e.sources)));
    let all = inside.chain(outside);
    let all = all.map(|(place, sources)| (place, service.port, sources));
    let v6 = !service.is_ipv4();
    let everybody: &[IpNet] = &[];
    let node = service.node_port.into_iter();
    let node = node.map(move |port| (Place::Node { v6 }, port, Some(everybody)));
    all.chain(node).map(|(place, port, sources)| {
        let key = FrontendKey {
            place,
            protocol: service.protocol.0,
            port,
        };
        (key, sources)
    })
}

fn compile(service: &object::Service) -> Service {
    let backends = |all: &[object::Backend]| {
        let ends = all.iter().map(|backend| Endpoint {
            address: map_ip(backend.address),
            port: backend.port,
        });
        Backends::new(ends.collect())
    };
    let traffic = |policy| match policy {
        TrafficPolicy::Cluster => Traffic::Cluster,
        TrafficPolicy::Local => Traffic::Local,
    };
    Service {
        name: service.name.as_str().into(),
        cluster: backends(&service.backends),
        local: backends(&service.local_backends),
        internal: traffic(service.internal_traffic),
        external: traffic(service.external_traffic),
        affinity: service.affinity_seconds.map(|seconds| seconds * 1000),
    }
}

/// Addresses of a service that clients outside come to.
pub fn external_addresses(service: &object::Service) -> BTreeSet<IpAddr> {
    service.external.iter().map(|e| e.address).collect()
}

/// Ports of those addresses, and of the node's, that lead to a service.
pub fn host_ports(service: &object::Service) -> BTreeSet<HostPort> {
    let all = places(service).filter(|(_, sources)| sources.is_some());
    let of_key = all.map(|(key, _)| HostPort {
        address: match key.place {
            Place::Address(address) => address,
            Place::Node { v6: false } => Ipv4Addr::UNSPECIFIED.into(),
            Place::Node { v6: true } => Ipv6Addr::UNSPECIFIED.into(),
        },
        protocol: key.protocol,
        port: key.port,
    });
    of_key.collect()
}
