// SPDX-License-Identifier: Apache-2.0
//! The ways to other nodes and to the world, from the cluster's nodes.
//!
//! | port | what | when |
//! |---|---|---|
//! | `uplink` | the node's NIC | always |
//! | `host` | the node's own stack, the way to the world if so configured | this node has prefixes of pods |
//! | `overlay` | the VXLAN tunnel | mode `vxlan` |

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podswitch_api::object::{
    Action, Device, HOST_INTERFACE, Key, Neighbor, Object, Port, Route, RouteKind, XdpMode,
};
use podswitch_api::{Kind, MacAddr};
use serde::{Deserialize, Serialize};

use super::input::NodeFacts;

/// Name of the NIC's port.
pub const UPLINK: &str = "uplink";
/// Name of the port of the node's own stack.
pub const HOST: &str = "host";
/// Name of the tunnel's port.
pub const OVERLAY: &str = "overlay";

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// How packets of pods get to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Mode {
    /// Routed, by the other node's own address.
    Native,
    /// Through VXLAN.
    Vxlan,
    /// The agent makes no ways.
    #[default]
    None,
}

/// How packets of pods get to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Egress {
    /// By the node's own stack, masqueraded there.
    #[default]
    Host,
    /// By the NIC, masqueraded by the switch, along the kernel's routes.
    Uplink,
    /// Not at all.
    None,
}

podswitch_api::by_word!(Mode, Egress);

/// What the configuration says about ways.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WaysConfig {
    /// Name of this node's Node object.
    pub node: String,
    /// The way to other nodes.
    pub mode: Mode,
    /// The way to the world.
    pub egress: Egress,
    /// Prefixes of all pods of the cluster: what goes there is never masqueraded.
    pub cluster: Vec<IpNet>,
    /// Prefixes of the addresses of Services, which processes of the node reach by the switch.
    pub services: Vec<IpNet>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub udp_port: u16,
    /// VRF of the NIC in mode `vxlan`: other ends of the tunnel are neighbors in VRF 0 under the addresses that nodes have on the link.
    pub underlay_vrf: u32,
    /// How the program is attached to the NIC.
    pub xdp: XdpMode,
}

/// This node's NIC, as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its name.
    pub interface: String,
    /// Subnets on it.
    pub nets: Vec<IpNet>,
    /// Next hops of the default routes by it.
    pub gateways: Vec<IpAddr>,
}

/// Objects by key.
pub(super) type Objects = BTreeMap<Key, Object>;

/// The objects that make the ways; none while this node or its NIC is not known, or when there are to be none.
pub(super) fn compute<'n>(
    config: &WaysConfig,
    link: Option<&Link>,
    nodes: impl Iterator<Item = (&'n str, &'n NodeFacts)>,
) -> Option<Objects> {
    let link = link.filter(|_| config.mode != Mode::None)?;
    let mut own = None;
    // By name, so that everybody finds the same when two nodes have one prefix.
    let mut others = BTreeMap::new();
    for (name, facts) in nodes {
        match name == config.node {
            true => own = Some(facts),
            false => {
                others.insert(name, facts);
            }
        }
    }
    let mut ways = Ways {
        config,
        link,
        own: own?,
        objects: Objects::new(),
    };
    ways.uplink();
    ways.host();
    match config.mode {
        Mode::Native => others.values().for_each(|other| ways.native(other)),
        Mode::Vxlan => {
            ways.overlay();
            others.values().for_each(|other| ways.tunnel(other));
        }
        Mode::None => {}
    }
    Some(ways.objects)
}

/// Kinds whose objects are all made here. Ports are not: most are the CNI plugin's.
pub(super) const KINDS: [Kind; 2] = [Kind::Neighbor, Kind::Route];

struct Ways<'a> {
    config: &'a WaysConfig,
    link: &'a Link,
    own: &'a NodeFacts,
    objects: Objects,
}

impl Ways<'_> {
    fn add(&mut self, object: impl Into<Object>) {
        let object = object.into();
        self.objects.insert(object.key(), object);
    }

    fn uplink(&mut self) {
        let by_uplink = self.config.egress == Egress::Uplink;
        let device = Device::Nic {
            interface: self.link.interface.clone(),
            mode: self.config.xdp,
            vlan: None,
            routes: by_uplink.then_some(MAIN_TABLE),
            masquerade: by_uplink,
            except: match by_uplink {
                true => self.config.cluster.clone(),
                false => Vec::new(),
            },
            zero_copy_queues: Vec::new(),
            zero_copy_shared: false,
        };
        let vrf = self.underlay_vrf();
        self.add(Port {
            vrf,
            ..port(UPLINK, device)
        });
        if vrf != 0 {
            let (nets, gateways) = (self.link.nets.clone(), self.link.gateways.clone());
            for net in nets {
                self.add(by(UPLINK, net.trunc(), None, vrf));
            }
            for gateway in gateways {
                self.add(by(UPLINK, everything(gateway), Some(gateway), vrf));
            }
        }
    }

    fn underlay_vrf(&self) -> u32 {
        match self.config.mode {
            Mode::Vxlan => self.config.underlay_vrf,
            Mode::Native | Mode::None => 0,
        }
    }

    fn host(&mut self) {
        let pods: Vec<IpNet> = self.own.pods.iter().map(IpNet::trunc).collect();
        if pods.is_empty() {
            return;
        }
        let has = |v4: bool| pods.iter().any(|p| p.addr().is_ipv4() == v4);
        let services = self.config.services.iter();
        let services = services.filter(|p| has(p.addr().is_ipv4())).copied();
        let all: Vec<IpNet> = pods.iter().copied().chain(services).collect();
        let by_host = self.config.egress == Egress::Host;
        self.add(port(
            HOST,
            Device::Host {
                interface: HOST_INTERFACE.to_owned(),
                mode: XdpMode::Auto,
                pods: all.clone(),
                egress: Vec::from_iter(by_host.then(|| self.link.interface.clone())),
                masquerade: true,
                except: match by_host {
                    true => self.config.cluster.clone(),
                    false => Vec::new(),
                },
            },
        ));
        for prefix in pods.into_iter().filter(|_| by_host) {
            self.add(by(HOST, everything(prefix.addr()), None, 0));
        }
        for prefix in all {
            // Addresses that no pod and no Service has are nobody's.
            self.add(Route {
                kind: RouteKind::Unreachable,
                port: None,
                ..by("", prefix, None, 0)
            });
        }
    }

    fn native(&mut self, other: &NodeFacts) {
        for prefix in &other.pods {
            let v4 = prefix.addr().is_ipv4();
            if let Some(via) = other.addresses.iter().find(|a| a.is_ipv4() == v4) {
                self.add(by(UPLINK, prefix.trunc(), Some(*via), 0));
            }
        }
    }

    fn overlay(&mut self) {
        let Some(mac) = end_mac(self.own) else { return };
        let local = [true, false].into_iter().filter_map(|v4| self.end(v4));
        let device = Device::Vxlan {
            vni: self.config.vni,
            udp_port: self.config.udp_port,
            local: local.collect(),
            underlay_vrf: self.underlay_vrf(),
            udp6_zero_checksum: false,
            group_policy: false,
        };
        self.add(Port {
            mac: Some(mac),
            ..port(OVERLAY, device)
        });
    }

    /// This end's address of a family.
    fn end(&self, v4: bool) -> Option<IpAddr> {
        first(self.own, v4)
    }

    /// Both ends have to choose the same family: one is heard by the address that the other knows.
    fn tunnel(&mut self, other: &NodeFacts) {
        let common = [true, false].into_iter().find_map(|v4| {
            self.end(v4)?;
            first(other, v4)
        });
        let (Some(end), Some(mac), Some(_)) = (common, end_mac(other), end_mac(self.own)) else {
            return;
        };
        if other.pods.is_empty() {
            return;
        }
        self.add(Neighbor {
            vrf: 0,
            port: OVERLAY.to_owned(),
            address: end,
            mac,
        });
        for prefix in &other.pods {
            self.add(by(OVERLAY, prefix.trunc(), Some(end), 0));
        }
    }
}

fn first(node: &NodeFacts, v4: bool) -> Option<IpAddr> {
    let mut addresses = node.addresses.iter().copied();
    addresses.find(|a| a.is_ipv4() == v4)
}

fn port(name: &str, device: Device) -> Port {
    Port {
        name: name.to_owned(),
        device,
        mac: None,
        addresses: Vec::new(),
        vrf: 0,
        mtu: None,
        worker: None,
        egress_default: Action::default(),
        ingress_default: Action::default(),
        segment: None,
        node: false,
        pod: None,
        host_ports: Vec::new(),
    }
}

fn by(port: &str, prefix: IpNet, via: Option<IpAddr>, vrf: u32) -> Route {
    Route {
        vrf,
        prefix,
        kind: RouteKind::Unicast,
        via,
        port: Some(port.to_owned()),
        nexthops: Vec::new(),
        mtu: None,
    }
}

/// The prefix of all addresses of a family.
fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// MAC address of a node's end of the tunnel, which every node finds by itself: locally administered (IEEE 802-2014 section 8.4), then
/// the node's IPv4 address, or 40 bits of a hash (FNV-1a) of its IPv6 address.
fn end_mac(node: &NodeFacts) -> Option<MacAddr> {
    match first(node, true).or_else(|| first(node, false))? {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Some(MacAddr([0x02, 0x70, a, b, c, d]))
        }
        IpAddr::V6(address) => {
            let hash = |h: u64, byte: &u8| (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            let hash = address.octets().iter().fold(0xcbf2_9ce4_8422_2325, hash);
            let [a, b, c, d, e, ..] = hash.to_be_bytes();
            Some(MacAddr([0x06, a, b, c, d, e]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(addresses: &[&str], pods: &[&str]) -> NodeFacts {
        NodeFacts {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            pods: pods.iter().map(|p| p.parse().unwrap()).collect(),
            zone: None,
        }
    }

    fn texts(config: &WaysConfig) -> Vec<String> {
        let one = facts(&["192.0.2.1", "2001:db8::1"], &["10.244.1.0/24"]);
        let two = facts(
            &["2001:db8::2", "192.0.2.2"],
            &["10.244.2.0/24", "fd00:2::/64"],
        );
        let link = Link {
            interface: "eth0".to_owned(),
            nets: vec!["192.0.2.1/24".parse().unwrap()],
            gateways: vec!["192.0.2.254".parse().unwrap()],
        };
        let nodes = [("n1", &one), ("n2", &two)];
        let ways = compute(config, Some(&link), nodes.into_iter()).unwrap();
        ways.keys().map(Key::to_string).collect()
    }

    fn config(mode: Mode) -> WaysConfig {
        WaysConfig {
            node: "n1".to_owned(),
            mode,
            udp_port: 4789,
            vni: 7,
            underlay_vrf: 1,
            ..WaysConfig::default()
        }
    }

    #[test]
    fn native() {
        let expected = [
            "port host",
            "port uplink",
            "route vrf 0 0.0.0.0/0",
            "route vrf 0 10.244.1.0/24",
            "route vrf 0 10.244.2.0/24",
            "route vrf 0 fd00:2::/64",
        ];
        let mut found = texts(&config(Mode::Native));
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn vxlan() {
        let expected = [
            "neighbor vrf 0 192.0.2.2",
            "port host",
            "port overlay",
            "port uplink",
            "route vrf 0 0.0.0.0/0",
            "route vrf 0 10.244.1.0/24",
            "route vrf 0 10.244.2.0/24",
            "route vrf 0 fd00:2::/64",
            "route vrf 1 0.0.0.0/0",
            "route vrf 1 192.0.2.0/24",
        ];
        let mut found = texts(&config(Mode::Vxlan));
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn without_this_node_there_are_no_ways() {
        let two = facts(&["192.0.2.2"], &["10.244.2.0/24"]);
        let link = Link {
            interface: "eth0".to_owned(),
            nets: Vec::new(),
            gateways: Vec::new(),
        };
        let nodes = || [("n2", &two)].into_iter();
        assert_eq!(compute(&config(Mode::Native), Some(&link), nodes()), None);
        assert_eq!(compute(&config(Mode::None), Some(&link), nodes()), None);
        assert_eq!(compute(&config(Mode::Native), None, nodes()), None);
    }

    #[test]
    fn every_node_finds_the_same_mac() {
        let v4 = end_mac(&facts(&["2001:db8::2", "192.0.2.2"], &[]));
        assert_eq!(v4, Some(MacAddr([2, 0x70, 192, 0, 2, 2])));
        let v6 = end_mac(&facts(&["2001:db8::2"], &[])).unwrap();
        assert!(v6.is_unicast());
        assert_ne!(Some(v6), end_mac(&facts(&["2001:db8::3"], &[])));
        assert_eq!(end_mac(&facts(&[], &[])), None);
    }
}
