// SPDX-License-Identifier: Apache-2.0
//! L2 segments.

use podswitch_datapath::tables::{Direction, PortKindSpec, PortSpec, SegmentSpec, Vlan};
use podswitch_datapath::{PortId, VrfId};

use super::packet::{Content, Packet};
use super::{Reference, answers, dropped, spoofed};
use crate::world::Out;

/// (Segment, VLANs, MAC is fixed) of an L2 port.
fn l2(port: &PortSpec) -> Option<(VrfId, &Vlan, bool)> {
    match &port.kind {
        PortKindSpec::L2 {
            segment,
            vlan,
            fixed_mac,
        } => Some((*segment, vlan, *fixed_mac)),
        _ => None,
    }
}

/// The VLAN (0: none) of a frame from a port; absent if it takes no such frames.
fn vlan_in(vlan: &Vlan, packet: &Packet) -> Option<u16> {
    let tag = packet.tags.first().map_or(0, |tci| tci & 0xfff);
    match vlan {
        _ if packet.service => None,
        Vlan::Trunk(set) => (tag != 0 && set.contains(tag)).then_some(tag),
        _ if packet.tags.len() > 1 || tag != 0 => None,
        Vlan::Access(vlan) => Some(*vlan),
        Vlan::None => Some(0),
    }
}

fn is_member(vlan: &Vlan, id: u16) -> bool {
    match vlan {
        Vlan::None => id == 0,
        Vlan::Access(own) => *own == id,
        Vlan::Trunk(set) => set.contains(id),
    }
}

/// Segmentation offload: the sender's stack left the cutting to its device.
fn is_superframe(packet: &Packet) -> bool {
    match &packet.content {
        Content::Ip(ip) => ip.superframe,
        _ => false,
    }
}

/// The segments of a superframe, with its MAC addresses and tags.
fn segments(packet: &Packet, mtu: u32) -> Vec<Packet> {
    let Content::Ip(ip) = &packet.content else {
        unreachable!("a superframe is IP");
    };
    let pieces = answers::segments(ip, mtu as usize).into_iter();
    let pieces = pieces.map(|bytes| Packet {
        rest: [&packet.rest[..2], &bytes].concat(),
        ..packet.clone()
    });
    pieces.collect()
}

impl Reference {
    pub(super) fn switch(&mut self, port: &PortSpec, packet: &Packet) -> Vec<Out> {
        if let Some(reason) = spoofed(port, packet) {
            return dropped(reason);
        }
        let (id, vlan, _) = l2(port).expect("an L2 port");
        let segment = self
            .setup
            .segments
            .iter()
            .find(|s| s.id == id)
            .expect("its segment")
            .clone();
        if packet.dst[..5] == [1, 0x80, 0xc2, 0, 0] && packet.dst[5] < 16 {
            return dropped("link_local_control");
        }
        let Some(vlan) = vlan_in(vlan, packet) else {
            return dropped("vlan_not_expected");
        };
        if self
            .fixed(id, vlan, packet.src)
            .is_some_and(|fixed| fixed != port.id)
        {
            return dropped("fdb_move");
        }
        self.learn(port.worker.0, &segment, port, vlan, packet.src);
        if let Content::Ip(ip) = &packet.content
            && let Some(reason) = self.policy(port, Direction::Egress, ip)
        {
            return dropped(reason);
        }
        if packet.dst[0] & 1 == 0 {
            if let Some(out) = self.find(port.worker.0, &segment, vlan, packet.dst) {
                return match out.id == port.id {
                    true => dropped("same_port"),
                    false => self.deliver_known(port, &out, packet, &segment, vlan),
                };
            }
            if !segment.flood_unknown {
                return dropped("unknown_unicast_limit");
            }
        }
        let others: Vec<PortSpec> = self
            .setup
            .ports
            .iter()
            .filter(|p| p.id != port.id)
            .filter(|p| l2(p).is_some_and(|(s, v, _)| s == id && is_member(v, vlan)))
            .cloned()
            .collect();
        // A superframe is cut for the smallest MTU, and every segment flooded for itself.
        let members = self.setup.ports.iter();
        let members = members.filter(|p| l2(p).is_some_and(|(s, _, _)| s == id));
        let mtu = members.map(|p| p.mtu).min().expect("the sender is one");
        let pieces = match is_superframe(packet) && packet.rest.len() - 2 > mtu as usize {
            true => segments(packet, mtu),
            false => vec![packet.clone()],
        };
        let mut outs = Vec::new();
        for out in &others {
            for piece in &pieces {
                outs.push(self.deliver(port, out, piece, &segment, vlan));
            }
        }
        outs
    }

    /// What comes of a frame to the port that has its destination: a superframe that is too large is cut.
    fn deliver_known(
        &mut self,
        from: &PortSpec,
        out: &PortSpec,
        packet: &Packet,
        segment: &SegmentSpec,
        vlan: u16,
    ) -> Vec<Out> {
        let too_big = packet.rest.len() - 2 > out.mtu as usize;
        if !too_big || !is_superframe(packet) {
            return vec![self.deliver(from, out, packet, segment, vlan)];
        }
        let pieces = segments(packet, out.mtu);
        let outs = pieces
            .iter()
            .map(|piece| self.deliver(from, out, piece, segment, vlan));
        let mut outs: Vec<_> = outs.collect();
        // Its own worker judges the whole, another one what it gets; tags are looked at first.
        let by_tag = outs[0] == Out::Dropped("vlan_not_expected");
        if matches!(outs[0], Out::Dropped(_)) && (out.worker == from.worker || by_tag) {
            outs.truncate(1);
        }
        outs
    }

    /// The port that a MAC address is fixed to: by an entry for the VLAN, or as the port's own, in every VLAN.
    fn fixed(&self, segment: VrfId, vlan: u16, mac: [u8; 6]) -> Option<PortId> {
        let entry = self
            .setup
            .fdb
            .iter()
            .find(|e| (e.0, e.1, e.2.0) == (segment, vlan, mac))
            .map(|e| e.3);
        let own = || {
            self.fixed_ports(segment)
                .find(|p| p.mac.0 == mac)
                .map(|p| p.id)
        };
        entry.or_else(own)
    }

    fn fixed_ports(&self, segment: VrfId) -> impl Iterator<Item = &PortSpec> {
        let ports = self.setup.ports.iter();
        ports.filter(move |p| l2(p).is_some_and(|(s, _, fixed)| fixed && s == segment))
    }

    fn learn(
        &mut self,
        worker: u8,
        segment: &SegmentSpec,
        port: &PortSpec,
        vlan: u16,
        mac: [u8; 6],
    ) {
        let fixed_mac = l2(port).is_none_or(|(_, _, fixed)| fixed);
        if fixed_mac || !segment.learn || self.fixed(segment.id, vlan, mac).is_some() {
            return;
        }
        let entries = self.setup.fdb.iter().filter(|e| e.0 == segment.id).count();
        let fixed = entries + self.fixed_ports(segment.id).count();
        let room = (segment.max_entries as usize).saturating_sub(fixed);
        let learned = self.learned.entry(worker).or_default();
        let present = learned.keys().filter(|k| k.0 == segment.id).count();
        let key = (segment.id, vlan, mac);
        if learned.contains_key(&key) || present < room {
            learned.insert(key, (port.id, self.now));
        }
    }

    fn find(&self, worker: u8, segment: &SegmentSpec, vlan: u16, mac: [u8; 6]) -> Option<PortSpec> {
        let learned = || {
            let (port, when) = self.learned.get(&worker)?.get(&(segment.id, vlan, mac))?;
            (self.now - when <= u64::from(segment.ageing_seconds) * 1000).then_some(*port)
        };
        let port = self.fixed(segment.id, vlan, mac).or_else(learned)?;
        let port = self.setup.port(port)?;
        let member = l2(port).is_some_and(|(s, v, _)| s == segment.id && is_member(v, vlan));
        member.then(|| port.clone())
    }

    /// What comes of a frame on its way to `out`.
    fn deliver(
        &mut self,
        from: &PortSpec,
        out: &PortSpec,
        packet: &Packet,
        segment: &SegmentSpec,
        vlan: u16,
    ) -> Out {
        let (_, out_vlan, _) = l2(out).expect("an L2 port");
        let trunk = matches!(out_vlan, Vlan::Trunk(_));
        let inner = packet.tags.get(1);
        if packet.rest.len() - 2 > out.mtu as usize {
            return Out::Dropped("packet_too_big");
        }
        if inner.is_some() && !trunk {
            return Out::Dropped("vlan_not_expected");
        }
        if out.worker != from.worker {
            self.learn(out.worker.0, segment, from, vlan, packet.src);
        }
        if let Content::Ip(ip) = &packet.content
            && let Some(reason) = self.policy(out, Direction::Ingress, ip)
        {
            return Out::Dropped(reason);
        }
        let mut frame = [packet.dst, packet.src].concat();
        if trunk {
            let priority = packet.tags.first().map_or(0, |tci| tci & 0xf000);
            frame.extend([0x81, 0]);
            frame.extend((priority | vlan).to_be_bytes());
            if let Some(tci) = inner {
                frame.extend(packet.inner_type);
                frame.extend(tci.to_be_bytes());
            }
        }
        frame.extend(&packet.rest);
        Out::Sent(out.id.0, frame)
    }
}
