// SPDX-License-Identifier: Apache-2.0
//! `stats`. All counters begin at 0 with the daemon and only grow; the difference of two readings over the difference of their
//! `time_ns` is a rate.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::why::PolicyRuleRef;
use crate::object::kubernetes::ClusterAction;
use crate::object::{Action, Direction};

/// A part of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum Section {
    /// `ports`.
    Ports,
    /// `drops` and `kernel_drops`.
    Drops,
    /// `workers`.
    Workers,
    /// `rules`.
    Rules,
    /// `policies`.
    Policies,
    /// `tables`.
    Tables,
}

/// Parameters of `stats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct StatsParams {
    /// Name of one port: ports, rules and policies are those of this port. `not_found` when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Parts to answer with, all when absent; the others are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sections: Option<Vec<Section>>,
}

impl StatsParams {
    /// Whether the answer has this part.
    pub fn wants(&self, section: Section) -> bool {
        self.sections.as_ref().is_none_or(|s| s.contains(&section))
    }
}

/// Result of `stats`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct StatsResult {
    /// When it was read: nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Generation of the tables that the workers use.
    pub generation: u64,
    /// Every port.
    #[serde(default)]
    pub ports: Vec<PortStats>,
    /// Frames dropped by the switch, by reason; reasons that never occurred are left out.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Frames the kernel dropped on our ports, by reason; reasons that never occurred are left out.
    #[serde(default)]
    pub kernel_drops: BTreeMap<String, u64>,
    /// Every worker.
    #[serde(default)]
    pub workers: Vec<WorkerStats>,
    /// Every rule.
    #[serde(default)]
    pub rules: Vec<RuleStats>,
    /// Every rule of a policy that some port of this node has.
    #[serde(default)]
    pub policies: Vec<PolicyRuleStats>,
    /// What else happened in the switch, by name (`flow_hit`, `handoff_sent`, `icmp_error`, ...); part of `tables`. What
    /// never happened is left out.
    #[serde(default)]
    pub events: BTreeMap<String, u64>,
    /// Every table.
    #[serde(default)]
    pub tables: Vec<TableStats>,
}

/// Counters of a port.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortStats {
    /// Name of the port.
    pub name: String,
    /// Worker that owns it.
    pub worker: u8,
    /// Frames taken from the device.
    pub rx_packets: u64,
    /// Bytes of these frames.
    pub rx_bytes: u64,
    /// Frames given to the device.
    pub tx_packets: u64,
    /// Bytes of these frames.
    pub tx_bytes: u64,
    /// Frames that came from the port and were dropped by the switch, by reason; reasons that never occurred are left out.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Frames the kernel dropped on the port, by reason; reasons that never occurred are left out.
    #[serde(default)]
    pub kernel_drops: BTreeMap<String, u64>,
    /// Calls that asked the kernel to transmit.
    pub kicks: u64,
    /// Those of them that it answered with "again".
    pub kicks_again: u64,
}

/// Counters of a worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct WorkerStats {
    /// Index into the configured list.
    pub id: u8,
    /// The core it is pinned to; absent when it could not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u32>,
    /// Ports it owns.
    pub ports: u32,
    /// Connections it tracks.
    #[serde(default)]
    pub connections: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Nanoseconds spent in turns that found work.
    pub busy_ns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// It looks for work all the time and never sleeps: the latency budget is 0, or below `wake_ns`.
    #[serde(default)]
    pub spins: bool,
    /// Median nanoseconds that waking it took at the start; absent when the budget is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_ns: Option<u64>,
    /// Nanoseconds spent in turns that found nothing to do.
    pub idle_ns: u64,
    /// Times the core was taken away from it for over a millisecond.
    pub stalls: u64,
    /// Nanoseconds lost so.
    pub stalled_ns: u64,
}

/// Counters of a rule.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RuleStats {
    /// Name of the rule.
    pub name: String,
    /// Port it protects.
    pub port: String,
    /// Direction.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// Frames it decided.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// Counters of a rule of a policy, over all ports that have it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PolicyRuleStats {
    /// The rule.
    pub rule: PolicyRuleRef,
    /// What it does.
    pub action: ClusterAction,
    /// Connections it let begin, or packets that would have begun one and that it denied. One that is judged again after a change
    /// counts again.
    pub connections: u64,
    /// Bytes of the packets that were judged.
    pub bytes: u64,
}

/// Size and use of a table.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TableStats {
    /// Name of the table: `flow`, `route`, `neighbor`, `fdb`, `policy`, `peer`, `identity`, `cidr`.
    pub name: String,
    /// Entries in it; in `flow` and `fdb` those of all workers, what they learned for themselves included.
    pub entries: u64,
    /// Entries it has room for, all workers together; absent where the configured limits say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Lookups in it; absent where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookups: Option<u64>,
    /// Lookups that found something; absent with `lookups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
}

crate::by_name!(
    StatsParams,
    StatsResult,
    PortStats,
    WorkerStats,
    RuleStats,
    PolicyRuleStats,
    TableStats
);

crate::by_word!(Section);
