// SPDX-License-Identifier: Apache-2.0
//! Pods, the tables that describe them, and the frames they send.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::FrameSource;
use podswitch_datapath::switch::Switch;
use podswitch_datapath::tables::{
    Action, Direction, Edit, Gateway, PortKindSpec, PortSpec, Rule, Tables,
};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId, WorkerId};
use podswitch_tests::frames::Ends;

use crate::valve::{Tap, Valve};

/// The gateway's address on every port.
pub const GATEWAY_MAC: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 1]);
/// What the pods listen on; rules allow it.
pub const SERVICE: u16 = 9000;
/// Rules of each port and direction. All but the last are about something else.
const RULES: u16 = 16;
/// IPv4 frames are this long, bytes, without the frame check sequence.
pub const FRAME: usize = 60;

/// Address family of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A conversation's packets in one direction, between pods by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Sender.
    pub from: usize,
    /// Receiver.
    pub to: usize,
    /// Source port.
    pub port: u16,
}

/// A pod's MAC address.
pub fn mac(pod: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, (pod >> 8) as u8, pod as u8])
}

/// A pod's address.
pub fn address(pod: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, (pod >> 8) as u8, pod as u8).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, pod as u16).into(),
    }
}

/// MAC and IP addresses of what pod `from` sends to pod `to`.
pub fn ends(from: usize, to: usize, family: Family) -> Ends {
    Ends {
        source_mac: mac(from).0,
        destination_mac: GATEWAY_MAC.0,
        from: address(from, family),
        to: address(to, family),
    }
}

/// A UDP datagram of a flow.
pub fn frame(flow: Flow, family: Family) -> Vec<u8> {
    datagram(&ends(flow.from, flow.to, family), (flow.port, SERVICE))
}

/// A UDP datagram, checksums filled: 60 bytes for IPv4, 62 (no payload) for IPv6, the shortest there is.
pub fn datagram(ends: &Ends, ports: (u16, u16)) -> Vec<u8> {
    let headers = 14 + 8 + if ends.from.is_ipv4() { 20 } else { 40 };
    let payload = vec![0x5a; FRAME.saturating_sub(headers)];
    ends.udp(ports, 64, &payload)
}

/// Frames that come in turn, each as often as the others.
#[derive(Debug)]
pub struct Templates {
    frames: Box<[Vec<u8>]>,
    next: usize,
    tap: Tap,
}

impl Templates {
    /// These frames, while the valve is open.
    pub fn new(frames: impl Iterator<Item = Vec<u8>>, valve: &Arc<Valve>) -> Templates {
        Templates {
            frames: frames.collect(),
            next: 0,
            tap: Tap::new(valve),
        }
    }
}

impl FrameSource for Templates {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        let Some(bytes) = self.frames.get(self.next % self.frames.len().max(1)) else {
            return false;
        };
        self.next = self.next.wrapping_add(1);
        overwrite(frame, bytes)
    }

    fn ready(&self) -> usize {
        self.tap.ready()
    }

    fn received(&mut self, frames: usize) {
        self.tap.take(frames);
    }
}

/// Makes a frame these bytes; false when they do not fit.
#[inline]
pub fn overwrite(frame: &mut Frame, bytes: &[u8]) -> bool {
    let fits = frame.resize(bytes.len() as u16);
    if fits {
        frame.bytes_mut().copy_from_slice(bytes);
    }
    fits
}

/// Tables without pods.
pub fn empty_tables() -> Tables {
    Tables::new(Gateway {
        mac: GATEWAY_MAC,
        v4: Ipv4Addr::new(169, 254, 1, 1),
        v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    })
}

/// The name of a pod's port.
pub fn port_name(pod: usize) -> String {
    format!("pod-{pod}")
}

/// The pod of a port's name.
pub fn port_number(name: &str) -> Option<usize> {
    name.strip_prefix("pod-")?.parse().ok()
}

/// A pod's port: routed, source checked; `default` becomes of what nothing else decides about.
pub fn port(pod: usize, mtu: u32, default: Action) -> PortSpec {
    PortSpec {
        id: PortId(pod as u16),
        name: port_name(pod),
        worker: WorkerId(0),
        mac: mac(pod),
        mtu,
        kind: PortKindSpec::Routed {
            vrf: VrfId(0),
            addresses: vec![address(pod, Family::V4), address(pod, Family::V6)],
        },
        check_source: true,
        node: false,
        egress_default: default,
        ingress_default: default,
    }
}

/// Publishes an edit to a switch, and waits until its workers have it.
///
/// # Panics
/// When the tables refuse it, or the workers do not take them.
pub fn publish(switch: &mut Switch, edit: Edit) {
    let tables = edit.build().expect("tables");
    switch.publish(tables);
    switch.wait_for_tables().expect("the workers take tables");
}

/// Describes pods `0..count` to a switch: everything denied but what a rule allows, and 16 rules in each direction of which
/// the last one allows the pods' service.
///
/// # Panics
/// When the tables refuse them, or the workers do not take the tables.
pub fn describe_pods(switch: &mut Switch, count: usize, mtu: u32) {
    let mut edit = switch.edit();
    for pod in 0..count {
        edit.set_port(port(pod, mtu, Action::Deny));
        for direction in [Direction::Egress, Direction::Ingress] {
            for rule in rules() {
                edit.set_rule(PortId(pod as u16), direction, rule);
            }
        }
    }
    publish(switch, edit);
}

fn rules() -> impl Iterator<Item = Rule> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    (1..=RULES).map(|n| {
        let last = n == RULES;
        Rule {
            name: format!("rule-{n}"),
            priority: n.into(),
            source: None,
            destination: None,
            protocol: Some(if last || n % 2 == 0 { UDP } else { TCP }),
            ports: Some(if last {
                SERVICE..=SERVICE
            } else {
                n * 100..=n * 100 + 50
            }),
            action: if last { Action::Allow } else { Action::Deny },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_short_as_can_be() {
        let flow = Flow {
            from: 1,
            to: 300,
            port: 5000,
        };
        assert_eq!(frame(flow, Family::V4).len(), 60);
        assert_eq!(frame(flow, Family::V6).len(), 62);
        assert_ne!(mac(1), mac(257));
        let allowing: Vec<Rule> = rules().filter(|r| r.action == Action::Allow).collect();
        assert_eq!(allowing.len(), 1);
        assert!(rules().all(|r| r.action == Action::Allow || !r.ports.unwrap().contains(&SERVICE)));
    }
}
