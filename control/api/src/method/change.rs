// SPDX-License-Identifier: Apache-2.0
//! `apply`, `begin`, `put`, `commit`, `abort`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{Key, Kind, Object};

/// One change of the desired state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    remote = "Self",
    tag = "op",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Change {
    /// Adds the object, or replaces the one with its key whole.
    Set {
        /// The object.
        object: Object,
    },
    /// Removes the object with this key; one that is not there is no error. A port takes its routes, neighbors, FDB entries and rules
    /// with it, a segment its FDB entries.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Change {
    /// A `set`.
    pub fn set(object: impl Into<Object>) -> Change {
        Change::Set {
            object: object.into(),
        }
    }

    /// A `delete`.
    pub fn delete(key: Key) -> Change {
        Change::Delete { key }
    }
}

/// Parameters of `apply`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ApplyParams {
    /// Carried out in this order, and judged as a whole at the end.
    pub changes: Vec<Change>,
    /// Refuse with `conflict` unless the desired state has this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_generation: Option<u64>,
}

/// Result of `apply`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ApplyResult {
    /// Generation of the desired state now; it grows by one with every request that changes anything.
    pub generation: u64,
    /// How many objects are not what they were.
    pub changed: u64,
}

/// Parameters of `begin`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct BeginParams {
    /// Refuse with `conflict`, now and at `commit`, unless the desired state has this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Kinds that are replaced; objects of others stay as they are at `commit`. All kinds when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<Kind>>,
}

/// Result of `begin`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct BeginResult {
    /// Names the transaction, on this connection alone. It is forgotten when the connection closes.
    pub transaction: u64,
    /// Generation of the desired state now.
    pub generation: u64,
}

/// Parameters of `put`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PutParams {
    /// The transaction.
    pub transaction: u64,
    /// Objects of the replaced kinds, in any order; a key may come once in a transaction.
    pub objects: Vec<Object>,
}

/// Result of `put`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PutResult {
    /// Objects in the transaction so far.
    pub objects: u64,
}

/// Parameters of `commit` and `abort`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TransactionParams {
    /// The transaction.
    pub transaction: u64,
}

/// Result of `commit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct CommitResult {
    /// Generation of the desired state now.
    pub generation: u64,
    /// Objects that were not there before.
    pub added: u64,
    /// Objects that were there and differed.
    pub changed: u64,
    /// Objects that are no longer there.
    pub removed: u64,
}

/// Result of `abort`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct AbortResult {}

crate::by_name!(
    Change,
    ApplyParams,
    ApplyResult,
    BeginParams,
    BeginResult,
    PutParams,
    PutResult,
    TransactionParams,
    CommitResult,
    AbortResult
);
