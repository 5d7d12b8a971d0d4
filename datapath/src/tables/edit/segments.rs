// SPDX-License-Identifier: Apache-2.0
//! L2 segments and their static FDB entries.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Build;
use super::check::segment_name;
use crate::ids::{PortId, VrfId};
use crate::tables::limits::{MAX_FDB_ENTRIES, MAX_SEGMENT_PORTS, MAX_SEGMENTS, MAX_VRFS};
use crate::tables::route::Vrf;
use crate::tables::segment::{OWN, fdb_bits};
use crate::tables::{
    FdbKey, Member, PortEntry, PortKind, PortSpec, Segment, SegmentSpec, TableError,
};

impl Build {
    fn segment_mut(&mut self, id: VrfId) -> Option<&mut Segment> {
        self.tables.segments.get_mut(id.0).map(Arc::make_mut)
    }

    pub(super) fn set_segments(
        &mut self,
        segments: &BTreeMap<VrfId, Option<SegmentSpec>>,
    ) -> Result<(), TableError> {
        for (id, spec) in segments {
            self.ids.insert(*id);
            let Some(spec) = spec else { continue };
            if self.tables.segment(*id).is_some_and(|s| *s.spec == *spec) {
                continue;
            }
            self.changed = true;
            match self.segment_mut(*id) {
                Some(segment) => segment.spec = Arc::new(spec.clone()),
                None => {
                    let segment = Arc::new(Segment::new(spec.clone()));
                    self.tables.segments.insert(id.0, u32::BITS as u8, segment);
                }
            }
        }
        Ok(())
    }

    /// Takes a port out of its segment.
    pub(super) fn leave(&mut self, id: VrfId, port: &PortEntry) {
        let Some(segment) = self.segment_mut(id) else {
            return;
        };
        segment.members = segment
            .members
            .iter()
            .filter(|m| m.port != port.id)
            .cloned()
            .collect();
        let own = fdb_bits(OWN, port.mac);
        if segment.fixed.get_exact(own) == Some(&port.id) {
            segment.fixed.remove(own, u64::BITS as u8);
        }
    }

    /// Puts a port into its segment.
    pub(super) fn join(&mut self, id: VrfId, port: &PortEntry) -> Result<(), TableError> {
        let name = format!("port {} \"{}\"", port.id, port.name);
        let PortKind::L2 {
            vlan, fixed_mac, ..
        } = &port.kind
        else {
            return Ok(());
        };
        let Some(segment) = self.segment_mut(id) else {
            return Err(TableError::dangling(
                name,
                format!("segment {id}"),
                "add the segment first",
            ));
        };
        if segment.members.len() >= MAX_SEGMENT_PORTS {
            let count = segment.members.len() + 1;
            return Err(TableError::limit(
                name,
                "ports in the segment",
                count,
                MAX_SEGMENT_PORTS,
            ));
        }
        let member = Member {
            port: port.id,
            vlan: vlan.clone(),
        };
        let at = segment.members.partition_point(|m| m.port < port.id);
        let mut members = segment.members.to_vec();
        members.insert(at, member);
        segment.members = members.into();
        if *fixed_mac {
            let own = fdb_bits(OWN, port.mac);
            if let Some(holder) = segment.fixed.insert(own, u64::BITS as u8, port.id) {
                let holder = format!("port {holder}");
                return Err(TableError::conflict(name, "MAC address", port.mac, holder));
            }
        }
        Ok(())
    }

    pub(super) fn remove_fdb(&mut self, fdb: &BTreeMap<FdbKey, Option<PortId>>) {
        for (key, port) in fdb {
            let Some(segment) = self.tables.segments.get_exact(key.segment.0) else {
                continue;
            };
            let bits = fdb_bits(key.vlan, key.mac);
            if port.is_some() || segment.fixed.get_exact(bits).is_none() {
                continue;
            }
            if let Some(segment) = self.segment_mut(key.segment) {
                segment.fixed.remove(bits, u64::BITS as u8);
                segment.entries -= 1;
                self.tables.counts.fdb_entries -= 1;
                self.changed = true;
            }
        }
    }

    pub(super) fn set_fdb(
        &mut self,
        fdb: &BTreeMap<FdbKey, Option<PortId>>,
    ) -> Result<(), TableError> {
        for (key, port) in fdb {
            let Some(port) = port else { continue };
            let Some(segment) = self.segment_mut(key.segment) else {
                let needs = format!("segment {}", key.segment);
                return Err(TableError::dangling(key, needs, "add the segment first"));
            };
            let old = segment
                .fixed
                .insert(fdb_bits(key.vlan, key.mac), u64::BITS as u8, *port);
            if old.is_none() {
                segment.entries += 1;
                self.tables.counts.fdb_entries += 1;
            }
            self.changed |= old != Some(*port);
            if self.tables.counts.fdb_entries > MAX_FDB_ENTRIES {
                let count = self.tables.counts.fdb_entries;
                return Err(TableError::limit(
                    key,
                    "FDB entries",
                    count,
                    MAX_FDB_ENTRIES,
                ));
            }
        }
        Ok(())
    }

    /// Refuses static entries whose port is not in their VLAN or that contradict a port's own address, and segments
    /// over their own limit, where anything of that kind may have changed.
    pub(super) fn check_segments(
        &self,
        segments: &BTreeMap<VrfId, Option<SegmentSpec>>,
        ports: &BTreeMap<PortId, Option<PortSpec>>,
        fdb: &BTreeMap<FdbKey, Option<PortId>>,
        before: &dyn Fn(PortId) -> Option<VrfId>,
    ) -> Result<(), TableError> {
        let now = |id: PortId| match self.tables.port(id)?.kind {
            PortKind::L2 { segment, .. } => Some(segment),
            _ => None,
        };
        let mut touched: Vec<VrfId> = segments.keys().copied().collect();
        touched.extend(ports.keys().filter_map(|id| before(*id)));
        touched.extend(ports.keys().filter_map(|id| now(*id)));
        touched.extend(fdb.keys().map(|key| key.segment));
        touched.sort_unstable();
        touched.dedup();
        for segment in touched.into_iter().filter_map(|id| self.tables.segment(id)) {
            self.check_segment(segment)?;
        }
        Ok(())
    }

    fn check_segment(&self, segment: &Segment) -> Result<(), TableError> {
        let (count, most) = (segment.fixed_len(), segment.spec.max_entries as usize);
        if count > most {
            let object = segment_name(&segment.spec);
            return Err(TableError::limit(
                object,
                "fixed MAC addresses",
                count,
                most,
            ));
        }
        for (key, port) in segment.entries() {
            let member = segment.member(port);
            if !member.is_some_and(|m| m.vlan.contains(key.vlan)) {
                let needs = format!(
                    "port {port} in VLAN {} of segment {}",
                    key.vlan, key.segment
                );
                return Err(TableError::dangling(
                    key,
                    needs,
                    "put the port there, or remove the entry",
                ));
            }
            if let Some(holder) = segment
                .fixed
                .get_exact(fdb_bits(OWN, key.mac))
                .filter(|p| **p != port)
            {
                let holder = format!("port {holder}");
                return Err(TableError::conflict(key, "MAC address", key.mac, holder));
            }
        }
        Ok(())
    }

    pub(super) fn remove_segments(
        &mut self,
        segments: &BTreeMap<VrfId, Option<SegmentSpec>>,
    ) -> Result<(), TableError> {
        for (id, spec) in segments {
            let Some(segment) = self.tables.segment(*id).filter(|_| spec.is_none()) else {
                continue;
            };
            let needs = segment_name(&segment.spec);
            if let Some(member) = segment.members().first() {
                let object = format!("port {}", member.port);
                return Err(TableError::dangling(
                    object,
                    needs,
                    "remove or move the port too",
                ));
            }
            if let Some((key, _)) = segment.entries().first() {
                return Err(TableError::dangling(key, needs, "remove the entry too"));
            }
            self.tables.segments.remove(id.0, u32::BITS as u8);
            self.changed = true;
        }
        Ok(())
    }

    /// Drops VRFs that became empty, and refuses ids that name both a VRF and a segment, and too many of either.
    pub(super) fn check_ids(&mut self) -> Result<(), TableError> {
        let (mut last_vrf, mut last_segment) = (String::new(), String::new());
        for id in std::mem::take(&mut self.ids) {
            let empty = |vrf: &&Arc<Vrf>| vrf.ports == 0 && vrf.fib.is_empty();
            if self.tables.vrfs.get_exact(id.0).filter(empty).is_some() {
                self.tables.vrfs.remove(id.0, u32::BITS as u8);
            }
            let vrf = self.tables.vrfs.get_exact(id.0).is_some();
            match self.tables.segment(id).map(|s| segment_name(&s.spec)) {
                Some(name) if vrf => {
                    let holder = "a VRF with ports or routes";
                    return Err(TableError::conflict(name, "id", id, holder));
                }
                Some(name) => last_segment = name,
                None if vrf => last_vrf = format!("VRF {id}"),
                None => {}
            }
        }
        let (vrfs, segments) = (self.tables.vrfs.len(), self.tables.segments.len());
        if vrfs > MAX_VRFS {
            return Err(TableError::limit(last_vrf, "VRFs", vrfs, MAX_VRFS));
        }
        if segments > MAX_SEGMENTS {
            return Err(TableError::limit(
                last_segment,
                "segments",
                segments,
                MAX_SEGMENTS,
            ));
        }
        self.tables.counts.vrfs = vrfs;
        Ok(())
    }
}
