// SPDX-License-Identifier: Apache-2.0
//! First packets of connections, aimed at the edges of what a cluster's policies say.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Rng;
use super::address::{edges, world_address};
use super::cluster::{GROUPS, PORTS};
use crate::cluster::Cluster;

/// The first packet of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes to; of the same family.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Destination port, if the protocol has ports.
    pub port: u16,
    /// The group that it is marked with; what its receiver believes.
    pub group: Option<u16>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            1 | 58 => "ICMP",
            _ => "protocol",
        };
        let Packet {
            source,
            destination,
            ..
        } = self;
        write!(
            f,
            "{source} -> {destination} {protocol} ({}) port {} group {:?}",
            self.protocol, self.port, self.group
        )
    }
}

/// Ports and addresses at which some verdict of a cluster may change.
#[derive(Clone, Debug, Default)]
pub struct Aim {
    ports: Vec<u16>,
    /// Of pods attached here, of all pods, of prefixes' edges.
    addresses: [Vec<IpAddr>; 3],
}

impl Aim {
    /// Those of a cluster.
    pub fn at(cluster: &Cluster) -> Aim {
        let mut aim = Aim::default();
        for policy in cluster
            .network_policies
            .iter()
            .chain(&cluster.cluster_policies)
        {
            aim.collect(&policy["spec"]);
        }
        for pod in &cluster.pods {
            aim.ports.extend(pod.ports.iter().map(|p| p.number));
            aim.addresses[1].extend(&pod.addresses);
        }
        for endpoint in &cluster.endpoints {
            aim.addresses[0].extend(&endpoint.addresses);
        }
        if aim.ports.is_empty() {
            aim.ports.extend(PORTS);
        }
        aim.addresses[2].extend(&cluster.node);
        aim
    }

    /// Numbers and prefixes anywhere in a value.
    fn collect(&mut self, value: &Value) {
        match value {
            Value::Number(number) => {
                let number = number.as_u64().and_then(|n| u16::try_from(n).ok());
                self.ports.extend(number);
            }
            Value::String(text) => {
                let cidr = text.parse::<IpNet>().ok();
                self.addresses[2].extend(cidr.into_iter().flat_map(edges));
            }
            Value::Array(values) => values.iter().for_each(|v| self.collect(v)),
            Value::Object(fields) => fields.values().for_each(|v| self.collect(v)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// A packet, most often one that some pod here sends or gets.
    pub fn packet(&self, rng: &mut Rng) -> Packet {
        let here = self.address(rng, 90, |_| true);
        let other = self.address(rng, 45, |a| a.is_ipv4() == here.is_ipv4());
        let (source, destination) = match rng.percent(50) {
            true => (here, other),
            false => (other, here),
        };
        let icmp = if here.is_ipv4() { 1 } else { 58 };
        let protocol = match rng.below(20) {
            0..=9 => 6,
            10..=13 => 17,
            14..=16 => 132,
            17..=18 => icmp,
            _ => 47,
        };
        let port = match rng.below(10) {
            0 => rng.number() as u16,
            1..=6 => rng.pick(&self.ports),
            7 | 8 => rng.pick(&self.ports).wrapping_add(1),
            _ => rng.pick(&self.ports).wrapping_sub(1),
        };
        let has_ports = matches!(protocol, 6 | 17 | 132);
        Packet {
            source,
            destination,
            protocol,
            port: if has_ports { port } else { 0 },
            group: None,
        }
    }

    /// The same, in a third of all cases marked with a group that may be there.
    pub fn marked(&self, rng: &mut Rng) -> Packet {
        let group = rng.percent(33).then(|| rng.pick(&GROUPS));
        Packet {
            group,
            ..self.packet(rng)
        }
    }

    /// An address, in so many of a hundred cases of a pod that is attached here.
    fn address(&self, rng: &mut Rng, here: usize, fits: impl Fn(&IpAddr) -> bool) -> IpAddr {
        loop {
            let of = match (rng.percent(here), rng.below(10)) {
                (true, _) => &self.addresses[0],
                (false, 0..=4) => &self.addresses[1],
                (false, 5..=8) => &self.addresses[2],
                _ => &Vec::new(),
            };
            let address = match rng.any(of) {
                Some(address) => *address,
                None => {
                    let v6 = rng.percent(40);
                    world_address(rng, v6)
                }
            };
            if fits(&address) {
                return address;
            }
        }
    }
}
