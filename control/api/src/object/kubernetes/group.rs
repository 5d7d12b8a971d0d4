// SPDX-License-Identifier: Apache-2.0
//! Groups: who packets in VXLAN tunnels are from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whom a Group Policy ID stands for (draft-smith-vxlan-group-policy): the pods of a namespace with these labels and no others, of which there
/// need not be any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Group {
    /// The Group Policy ID, 1 to 65535.
    pub id: u16,
    /// Namespace of the pods.
    pub namespace: String,
    /// All their labels. No two groups have the same in one namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(deserialize_with = "super::lenient::labels")]
    pub labels: BTreeMap<String, String>,
}

crate::by_name!(Group);
