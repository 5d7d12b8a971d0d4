// SPDX-License-Identifier: Apache-2.0
//! `audit` and `teardown`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the chunks of one arena are. A chunk is in exactly one place, so the places add up to `chunks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ArenaAudit {
    /// Number of the arena.
    pub id: u32,
    /// Chunks in it.
    pub chunks: u64,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Owned by nobody.
    pub free: u64,
    /// Lent to the kernel for frames to come, received ones that were not taken yet included.
    pub fill: u64,
    /// In a worker's hands: on their way, in a backlog, or between workers.
    pub held: u64,
    /// Given to the kernel to send, sent ones that were not reclaimed yet included.
    pub tx: u64,
    /// Set aside because nobody can say where they are.
    pub quarantined: u64,
    /// `chunks` less all of the above: not 0 is a leak, below 0 a chunk that was counted twice.
    pub unaccounted: i64,
}

/// Result of `audit`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct AuditResult {
    /// Nothing is unaccounted for.
    pub balanced: bool,
    /// Every arena.
    pub arenas: Vec<ArenaAudit>,
}

/// Something that was taken apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TeardownItem {
    /// What it was: `interface`, `route`, `neighbor`, `nftables`, `xdp_program`, `filter`, `qdisc`, `sysctl`, `flag`, `socket`, `state`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Something that could not be taken apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TeardownFailure {
    /// What it is.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why it is still there, and what to do.
    pub message: String,
}

/// Result of `teardown`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TeardownReport {
    /// What is gone.
    pub removed: Vec<TeardownItem>,
    /// What is not. Empty means that nothing was left behind.
    pub failed: Vec<TeardownFailure>,
}

impl TeardownReport {
    /// Nothing was left behind.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// Notes something gone.
    pub fn removed(&mut self, kind: &str, name: impl Into<String>) {
        self.removed.push(TeardownItem {
            kind: kind.to_owned(),
            name: name.into(),
        });
    }

    /// Notes something left.
    pub fn failed(&mut self, kind: &str, name: impl Into<String>, message: impl Into<String>) {
        self.failed.push(TeardownFailure {
            kind: kind.to_owned(),
            name: name.into(),
            message: message.into(),
        });
    }
}

crate::by_name!(
    ArenaAudit,
    AuditResult,
    TeardownItem,
    TeardownFailure,
    TeardownReport
);
