// SPDX-License-Identifier: Apache-2.0
//! What a Service asks for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podswitch_api::desired::check_service_address;
use podswitch_api::limits::{MAX_AFFINITY_SECONDS, MAX_SERVICE_ADDRESSES, MAX_SERVICE_SOURCES};
use podswitch_api::object::{ExternalAddress, Protocol, TrafficPolicy};

use crate::Node;
use crate::claims::{Claim, Claimant};
use crate::compiler::Problem;
use crate::kubernetes::{Service, ServicePort};
use crate::names::object_name;
use crate::slice::protocol;

/// Timeout where a Service says none, as the API server has it.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// What a Service asks for, whoever serves it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) wanted: Vec<Wanted>,
    /// Port of the node that is asked for local endpoints.
    pub(crate) health_port: Option<u16>,
    pub(crate) problems: Vec<Problem>,
}

/// A port in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// Name of the object.
    pub(crate) name: String,
    /// Whether others could have that name.
    pub(crate) is_cut: bool,
    pub(crate) by: Arc<Claimant>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) address: IpAddr,
    pub(crate) external: Vec<ExternalAddress>,
    pub(crate) node_port: Option<u16>,
    pub(crate) internal: TrafficPolicy,
    pub(crate) outside: TrafficPolicy,
    pub(crate) affinity_seconds: Option<u32>,
}

impl Wanted {
    /// What it wants for itself.
    pub(crate) fn claims(&self) -> impl Iterator<Item = Claim> {
        let external = self.external.iter().map(|e| e.address);
        let addresses = std::iter::once(self.address).chain(external);
        let node_port = self.node_port.map(|port| self.node_port_claim(port));
        let name = self.is_cut.then(|| Claim::Name(self.name.clone()));
        addresses
            .map(|address| self.address_claim(address))
            .chain(node_port)
            .chain(name)
    }

    pub(crate) fn address_claim(&self, address: IpAddr) -> Claim {
        Claim::Address(self.protocol, address, self.port)
    }

    pub(crate) fn node_port_claim(&self, port: u16) -> Claim {
        Claim::NodePort(self.protocol, self.address.is_ipv4(), port)
    }
}

/// Reads a Service; one that is none of ours asks for nothing.
pub(crate) fn plan(o: &Service, node: &Node) -> Plan {
    let headless = ["", "None"].contains(&o.spec.cluster_ip.as_str());
    if o.metadata.is_not_ours() || headless || o.spec.kind == "ExternalName" {
        return Plan::default();
    }
    let mut reader = Reader {
        service: o,
        node,
        problems: Vec::new(),
    };
    let families = reader.families();
    let mut wanted = Vec::new();
    for (i, port) in o.spec.ports.iter().enumerate() {
        let Some(protocol) = reader.port(i, port) else {
            continue;
        };
        let of_family = |family| wanted_port(o, port, protocol, family);
        wanted.extend(families.iter().map(of_family));
    }
    let checked = o.spec.kind == "LoadBalancer" && o.spec.external_traffic_policy == "Local";
    Plan {
        wanted,
        health_port: Some(o.spec.health_check_node_port).filter(|port| checked && *port != 0),
        problems: reader.problems,
    }
}

/// The addresses of one family.
#[derive(Debug)]
struct Family {
    address: IpAddr,
    external: Vec<ExternalAddress>,
}

fn wanted_port(o: &Service, port: &ServicePort, protocol: Protocol, family: &Family) -> Wanted {
    let v4 = family.address.is_ipv4();
    let name = object_name(&o.metadata.key(), &port.name, v4);
    let node_port = Some(port.node_port).filter(|port| *port != 0);
    let local = |policy: &str, counts: bool| match counts && policy == "Local" {
        true => TrafficPolicy::Local,
        false => TrafficPolicy::Cluster,
    };
    let outside = ["NodePort", "LoadBalancer"].contains(&o.spec.kind.as_str())
        || !o.spec.external_ips.is_empty();
    Wanted {
        name: name.text,
        is_cut: name.is_cut,
        by: Arc::new(Claimant {
            is_undated: o.metadata.creation_timestamp.is_none(),
            created: o.metadata.creation_timestamp.clone().unwrap_or_default(),
            service: o.metadata.key(),
            port: port.name.clone(),
            is_ipv6: !v4,
        }),
        protocol,
        port: port.port,
        address: family.address,
        external: family.external.clone(),
        node_port,
        internal: local(&o.spec.internal_traffic_policy, true),
        outside: local(&o.spec.external_traffic_policy, outside),
        affinity_seconds: affinity(o),
    }
}

fn affinity(o: &Service) -> Option<u32> {
    let config = o.spec.session_affinity_config.client_ip;
    let seconds = config.timeout_seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS);
    (o.spec.session_affinity == "ClientIP").then_some(seconds.clamp(1, MAX_AFFINITY_SECONDS))
}

struct Reader<'a> {
    service: &'a Service,
    node: &'a Node,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, field: impl Into<String>, message: String) {
        self.problems.push(Problem {
            kind: "Service",
            key: self.service.metadata.key(),
            field: field.into(),
            message,
        });
    }

    fn port(&mut self, i: usize, port: &ServicePort) -> Option<Protocol> {
        let protocol = protocol(port.protocol.as_deref());
        if protocol.is_none() {
            let named = port.protocol.as_deref().unwrap_or_default();
            let message =
                format!("protocol {named:?} is not one of TCP, UDP and SCTP; the port is left out");
            self.problem(format!("spec.ports[{i}].protocol"), message);
        } else if port.port == 0 {
            let message = "port 0 is none; it is left out".to_owned();
            self.problem(format!("spec.ports[{i}].port"), message);
            return None;
        }
        protocol
    }

    /// Addresses by family: those in the cluster, and those for clients outside that go with them.
    fn families(&mut self) -> Vec<Family> {
        let spec = &self.service.spec;
        let first = std::slice::from_ref(&spec.cluster_ip);
        let (field, inside) = match spec.cluster_ips.is_empty() {
            true => ("spec.clusterIP", first),
            false => ("spec.clusterIPs", spec.cluster_ips.as_slice()),
        };
        let mut families: Vec<Family> = Vec::new();
        for (i, text) in inside.iter().enumerate() {
            let Some(address) = self.address(&format!("{field}[{i}]"), text) else {
                continue;
            };
            let v4 = address.is_ipv4();
            if families.iter().all(|f| f.address.is_ipv4() != v4) {
                families.push(Family {
                    address,
                    external: Vec::new(),
                });
            }
        }
        for (field, external) in self.external() {
            let v4 = external.address.is_ipv4();
            let family = families.iter_mut().find(|f| f.address.is_ipv4() == v4);
            let message = match family {
                // kube-proxy does the same: without a cluster IP of the family there is nothing to go with.
                None => format!(
                    "{} is of a family in which the Service has no cluster IP; it is left out",
                    external.address
                ),
                Some(family) if family.address == external.address => {
                    format!(
                        "{} is the cluster IP; it is left out here",
                        external.address
                    )
                }
                Some(family) if family.external.len() == MAX_SERVICE_ADDRESSES => {
                    format!(
                        "{} is one more than {MAX_SERVICE_ADDRESSES} of a family; it is left out",
                        external.address
                    )
                }
                Some(family) => {
                    family.external.push(external);
                    continue;
                }
            };
            self.problem(field, message);
        }
        families
    }

    /// Addresses for clients outside, each once. One that is a load balancer's is for whom that is, also where it is among `externalIPs`.
    fn external(&mut self) -> Vec<(String, ExternalAddress)> {
        let service = self.service;
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, ingress) in service.status.load_balancer.ingress.iter().enumerate() {
            if ingress.ip.is_empty() || !["", "VIP"].contains(&ingress.ip_mode.as_str()) {
                continue;
            }
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            let Some(address) = self.address(&field, &ingress.ip) else {
                continue;
            };
            if !seen.insert(address) {
                continue;
            }
            if let Some(sources) = self.sources(address) {
                all.push((field, ExternalAddress { address, sources }));
            }
        }
        for (i, text) in service.spec.external_ips.iter().enumerate() {
            let field = format!("spec.externalIPs[{i}]");
            if let Some(address) = self.address(&field, text)
                && seen.insert(address)
            {
                let sources = Vec::new();
                all.push((field, ExternalAddress { address, sources }));
            }
        }
        all
    }

    /// Who may use an address of the load balancer's; nothing if nobody can be told, so that nobody may.
    fn sources(&mut self, address: IpAddr) -> Option<Vec<IpNet>> {
        let ranges = &self.service.spec.load_balancer_source_ranges;
        let mut sources = BTreeSet::new();
        for (i, text) in ranges.iter().enumerate() {
            // The API server lets white space pass.
            match text.trim().parse::<IpNet>() {
                Ok(net) => drop(sources.insert(net.trunc())),
                Err(_) => {
                    let field = format!("spec.loadBalancerSourceRanges[{i}]");
                    let message = format!("{text:?} is not a prefix; {address} is left out");
                    self.problem(field, message);
                    return None;
                }
            }
        }
        let field = "spec.loadBalancerSourceRanges";
        let given = !sources.is_empty();
        sources.retain(|net| net.addr().is_ipv4() == address.is_ipv4());
        if given && sources.is_empty() {
            let message =
                format!("none is of the family of {address}, which everybody may use therefore");
            self.problem(field, message);
        }
        if sources.len() > MAX_SERVICE_SOURCES {
            let message = format!(
                "{} are more than {MAX_SERVICE_SOURCES} of a family; {address} is left out",
                sources.len()
            );
            self.problem(field, message);
            return None;
        }
        Some(sources.into_iter().collect())
    }

    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let message = match text.parse::<IpAddr>() {
            Err(_) => format!("{text:?} is not an IP address; it is left out"),
            Ok(address) => match check_service_address(field, address) {
                Err(e) => format!("{}; it is left out", e.message),
                Ok(()) => match self.node.reserved.iter().find(|net| net.contains(&address)) {
                    Some(net) => {
                        format!("{address} is in {net}, which is not for Services; it is left out")
                    }
                    None => return Some(address),
                },
            },
        };
        self.problem(field, message);
        None
    }
}
