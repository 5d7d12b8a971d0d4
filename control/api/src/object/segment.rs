// SPDX-License-Identifier: Apache-2.0
//! L2 segments and their forwarding databases.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::FdbKey;
use crate::mac::MacAddr;

/// An L2 segment: the ports that name it switch by MAC address among themselves (IEEE 802.1Q clause 8).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Segment {
    /// Unique name: 1 to 128 characters of `A-Z a-z 0-9 . _ : / -`.
    pub name: String,
    /// Unique number, 1 to 16777215, shared with VRFs: no routed port may use it as its `vrf`.
    pub id: u32,
    /// Seconds after which a learned address that sent nothing is forgotten, 1 to 1000000 (IEEE 802.1Q table 8-6: 300).
    #[serde(default = "Segment::default_ageing")]
    pub ageing_seconds: u32,
    /// Whether ports without a MAC address of their own learn.
    #[serde(default = "Segment::default_learn")]
    pub learn: bool,
    /// What becomes of a frame to an unknown address.
    #[serde(default)]
    pub unknown_unicast: UnknownUnicast,
    /// Most frames to unknown addresses flooded per second; 0: none.
    #[serde(default = "Segment::default_flood_limit")]
    pub unknown_unicast_limit: u32,
    /// Most broadcast and multicast frames flooded per second; 0: none.
    #[serde(default = "Segment::default_flood_limit")]
    pub broadcast_limit: u32,
    /// Most FDB entries, learned and static together.
    #[serde(default = "Segment::default_max_entries")]
    pub max_entries: u32,
}

impl Segment {
    /// A segment with all defaults.
    pub fn new(name: impl Into<String>, id: u32) -> Segment {
        Segment {
            name: name.into(),
            id,
            ageing_seconds: Self::default_ageing(),
            learn: Self::default_learn(),
            unknown_unicast: UnknownUnicast::default(),
            unknown_unicast_limit: Self::default_flood_limit(),
            broadcast_limit: Self::default_flood_limit(),
            max_entries: Self::default_max_entries(),
        }
    }

    fn default_ageing() -> u32 {
        300
    }

    fn default_learn() -> bool {
        true
    }

    fn default_flood_limit() -> u32 {
        1000
    }

    fn default_max_entries() -> u32 {
        4096
    }
}

/// What becomes of a frame to an address the segment does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum UnknownUnicast {
    /// Sent out of every other port of the segment, up to the limit.
    #[default]
    Flood,
    /// Dropped.
    Drop,
}

/// A MAC address of a segment, fixed to a port: it is neither learned elsewhere nor forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct FdbEntry {
    /// Name of the segment.
    pub segment: String,
    /// The VLAN; none for untagged frames of ports without VLANs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The MAC address.
    pub mac: MacAddr,
    /// Name of the port it is behind.
    pub port: String,
}

impl FdbEntry {
    /// Its key.
    pub fn key(&self) -> FdbKey {
        FdbKey {
            segment: self.segment.clone(),
            vlan: self.vlan,
            mac: self.mac,
        }
    }
}

crate::by_name!(Segment, FdbEntry);

crate::by_word!(UnknownUnicast);
