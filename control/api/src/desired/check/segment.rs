// SPDX-License-Identifier: Apache-2.0
//! L2 segments and their static FDB entries.

use super::value::{name, unicast, vlan};
use super::{Bounds, refuse};
use crate::error::RpcError;
use crate::limits::MAX_VRF;
use crate::object::{FdbEntry, Segment};

pub(super) fn segment(o: &Segment, bounds: &Bounds) -> Result<(), RpcError> {
    name("name", &o.name)?;
    if o.id == 0 || o.id > MAX_VRF {
        return Err(refuse(
            "id",
            o.id,
            "out of range",
            format!("choose 1 to {MAX_VRF}"),
        ));
    }
    if !(1..=1_000_000).contains(&o.ageing_seconds) {
        return Err(refuse(
            "ageing_seconds",
            o.ageing_seconds,
            "out of range",
            "choose 1 to 1000000",
        ));
    }
    let most = bounds.limits.fdb_entries_per_segment;
    if o.max_entries == 0 || o.max_entries > most {
        return Err(refuse(
            "max_entries",
            o.max_entries,
            "out of range",
            format!("choose 1 to {most}"),
        ));
    }
    Ok(())
}

pub(super) fn fdb(o: &FdbEntry) -> Result<(), RpcError> {
    name("segment", &o.segment)?;
    name("port", &o.port)?;
    o.vlan.map_or(Ok(()), |id| vlan("vlan", id))?;
    unicast(o.mac)
}
