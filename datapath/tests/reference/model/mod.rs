// SPDX-License-Identifier: Apache-2.0
//! A switch as simple as can be: lists, linear searches, copies. Written from the RFCs and from what the switch is to do,
//! to be compared with it.

mod answers;
mod packet;
mod segment;

use std::collections::HashMap;
use std::net::IpAddr;

use podswitch_datapath::port::Caps;
use podswitch_datapath::tables::{Action, Direction, PortKindSpec, PortSpec, Route};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId};

use crate::setup::Setup;
use crate::world::Out;
use answers::Error;
use packet::{Content, Ip, Packet};

/// What is learned by a worker: (segment, VLAN, MAC) -> (port, when, milliseconds).
type Learned = HashMap<(VrfId, u16, [u8; 6]), (PortId, u64)>;

pub(crate) struct Reference {
    pub(crate) setup: Setup,
    /// By worker.
    learned: HashMap<u8, Learned>,
    /// Milliseconds.
    pub(crate) now: u64,
}

/// Where a packet goes.
enum Way {
    /// Port, MAC address, MTU.
    To(PortId, MacAddr, u32),
    Nowhere(&'static str, Option<Error>),
}

fn dropped(reason: &'static str) -> Vec<Out> {
    vec![Out::Dropped(reason)]
}

impl Reference {
    pub(crate) fn new(setup: Setup) -> Reference {
        Reference {
            setup,
            learned: HashMap::new(),
            now: 1000,
        }
    }

    /// What comes of a frame from a port with these capabilities.
    pub(crate) fn send(&mut self, port: u16, frame: &[u8], caps: Caps) -> Vec<Out> {
        let Some(port) = self.setup.port(PortId(port)).cloned() else {
            return dropped("port_gone");
        };
        let Ok(mut packet) = packet::read(frame) else {
            return dropped("malformed");
        };
        if caps.local_sender
            && let Content::Ip(ip) = &mut packet.content
        {
            let unfinished = answers::finish_checksum(ip);
            ip.superframe = unfinished && ip.protocol == 6 && caps.superframes;
            packet.rest[2..].copy_from_slice(&ip.bytes);
        }
        match &port.kind {
            PortKindSpec::L2 { .. } => self.switch(&port, &packet),
            PortKindSpec::Routed { vrf, .. } if packet.tags.is_empty() => {
                // ICMP errors quote what came, not what was made of it.
                let original = packet::read(frame).expect("read before");
                self.route(&port, *vrf, &packet, &original)
            }
            PortKindSpec::Routed { .. } => dropped("malformed"),
            PortKindSpec::Uplink { .. } | PortKindSpec::Tunnel { .. } => {
                unreachable!("the model has ports of this node alone")
            }
        }
    }

    fn route(&self, port: &PortSpec, vrf: VrfId, packet: &Packet, original: &Packet) -> Vec<Out> {
        if let Some(reason) = spoofed(port, packet) {
            return dropped(reason);
        }
        let gateway = self.setup.gateway;
        let to_gateway = packet.dst == gateway.mac.0;
        let group = packet.dst[0] & 1 == 1;
        let ip = match &packet.content {
            _ if !to_gateway && !group => return dropped("not_for_us"),
            Content::Other => return dropped("ethertype_unknown"),
            Content::Arp(arp) => return self.arp(port, vrf, packet, arp),
            Content::Ip(ip) => ip,
        };
        if matches!(ip.icmp(), Some((133..=137, _))) && ip.dst.is_ipv6() {
            return self.neighbor_discovery(port, vrf, packet, ip);
        }
        let broadcast = matches!(ip.dst, IpAddr::V4(a) if a.is_broadcast());
        if group || ip.dst.is_multicast() || broadcast {
            return dropped("multicast_not_routed");
        }
        if gateway.owns(ip.dst) {
            return self.to_the_gateway(port, packet, ip, original);
        }
        if is_link_local(ip.src) || is_link_local(ip.dst) {
            return dropped("link_local_not_routed");
        }
        if let Some(reason) = self.policy(port, Direction::Egress, ip) {
            return dropped(reason);
        }
        let (out, mac, mtu) = match self.way(vrf, ip.dst) {
            Way::To(out, mac, mtu) => (out, mac, mtu),
            Way::Nowhere(reason, None) => return dropped(reason),
            Way::Nowhere(reason, Some(error)) => return self.error(port, original, error, reason),
        };
        if ip.ttl <= 1 {
            return self.error(port, original, Error::TimeExceeded, "ttl_exceeded");
        }
        let too_big = ip.bytes.len() > mtu as usize;
        let superframe = too_big && ip.superframe;
        if too_big && ip.whole && !superframe {
            return self.error(port, original, Error::TooBig(mtu), "packet_too_big");
        }
        let receiver = self.setup.port(out).expect("a port that routes name");
        if let Some(reason) = self.policy(receiver, Direction::Ingress, ip) {
            return dropped(reason);
        }
        let pieces = match too_big {
            true if superframe => answers::segments(ip, mtu as usize),
            true => answers::cut(ip, mtu as usize),
            false => vec![ip.bytes.clone()],
        };
        let ether_type: &[u8] = if ip.dst.is_ipv4() {
            &[8, 0]
        } else {
            &[0x86, 0xdd]
        };
        let sent = pieces.into_iter().map(|mut piece| {
            answers::one_hop_less(&mut piece);
            let frame = [&mac.0, &gateway.mac.0, ether_type, &piece].concat();
            Out::Sent(out.0, frame)
        });
        sent.collect()
    }

    /// Why policy drops the packet.
    fn policy(&self, port: &PortSpec, direction: Direction, ip: &Ip) -> Option<&'static str> {
        let mut rules: Vec<_> = self
            .setup
            .rules
            .iter()
            .filter(|(id, d, _)| (*id, *d) == (port.id, direction))
            .map(|(_, _, rule)| rule)
            .collect();
        rules.sort_by_key(|rule| (rule.priority, rule.name.clone()));
        let hit = rules.into_iter().find(|rule| {
            let ports = rule
                .ports
                .as_ref()
                .is_none_or(|ports| match (ip.port(), ip.protocol) {
                    (Some(port), _) => ports.contains(&port),
                    // A later fragment: its first fragment is judged by port.
                    (None, 6 | 17 | 132) => rule.action == Action::Allow,
                    (None, _) => false,
                });
            ports
                && rule.source.is_none_or(|net| net.contains(&ip.src))
                && rule.destination.is_none_or(|net| net.contains(&ip.dst))
                && rule.protocol.is_none_or(|protocol| protocol == ip.protocol)
        });
        let (default, by_rule, by_default) = match direction {
            Direction::Egress => (
                port.egress_default,
                "policy_denied_egress",
                "policy_default_egress",
            ),
            Direction::Ingress => (
                port.ingress_default,
                "policy_denied_ingress",
                "policy_default_ingress",
            ),
        };
        match hit {
            Some(rule) => (rule.action == Action::Deny).then_some(by_rule),
            None => (default == Action::Deny).then_some(by_default),
        }
    }

    /// The owner of the address, else the route with the longest prefix.
    fn way(&self, vrf: VrfId, dst: IpAddr) -> Way {
        if let Some(owner) = self.owner(vrf, dst) {
            return Way::To(owner.id, owner.mac, owner.mtu);
        }
        let matching = self
            .setup
            .routes
            .iter()
            .filter(|(v, net, _)| *v == vrf && net.contains(&dst));
        let Some((_, _, route)) = matching.max_by_key(|(_, net, _)| net.prefix_len()) else {
            return Way::Nowhere("no_route", Some(Error::NoRoute));
        };
        match route {
            Route::Blackhole => Way::Nowhere("route_blackhole", None),
            Route::Unreachable => Way::Nowhere("route_unreachable", Some(Error::HostUnreachable)),
            Route::Prohibit => Way::Nowhere("route_prohibit", Some(Error::Prohibited)),
            Route::Multipath { .. } => unreachable!("the model has one way to everywhere"),
            Route::Unicast { port, via, mtu } => {
                let hop = via.unwrap_or(dst);
                let port = self.setup.port(*port).expect("a port that routes name");
                let mtu = mtu.unwrap_or(port.mtu).min(port.mtu);
                let own = Setup::addresses(port).contains(&hop).then_some(port.mac);
                let neighbor = self
                    .setup
                    .neighbors
                    .iter()
                    .find(|n| (n.0, n.1, n.2) == (vrf, port.id, hop));
                match own.or(neighbor.map(|n| n.3)) {
                    Some(mac) => Way::To(port.id, mac, mtu),
                    None => Way::Nowhere("neighbor_unresolved", Some(Error::HostUnreachable)),
                }
            }
        }
    }

    /// The port whose own address it is.
    fn owner(&self, vrf: VrfId, address: IpAddr) -> Option<&PortSpec> {
        self.setup.ports.iter().find(|p| {
            let in_vrf = matches!(p.kind, PortKindSpec::Routed { vrf: v, .. } if v == vrf);
            in_vrf && Setup::addresses(p).contains(&address)
        })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Why the sender may not send this, where that is checked.
fn spoofed(port: &PortSpec, packet: &Packet) -> Option<&'static str> {
    if !port.check_source {
        return None;
    }
    if packet.src != port.mac.0 {
        return Some("spoofed_mac");
    }
    if matches!(port.kind, PortKindSpec::L2 { .. }) {
        return None;
    }
    let own = Setup::addresses(port);
    match &packet.content {
        Content::Ip(ip) => {
            let mine = own.contains(&ip.src) || is_link_local(ip.src) || ip.src.is_unspecified();
            (!mine).then_some("spoofed_address")
        }
        Content::Arp(arp) => match answers::read_arp(arp) {
            Some(arp) if arp.sender_hw_addr() != port.mac.0 => Some("spoofed_mac"),
            Some(arp) => {
                let sender = IpAddr::from(
                    <[u8; 4]>::try_from(arp.sender_protocol_addr()).expect("four bytes"),
                );
                let probe = sender.is_unspecified() && arp.operation().0 == 1;
                (!probe && !own.contains(&sender)).then_some("spoofed_address")
            }
            None => None,
        },
        Content::Other => None,
    }
}
