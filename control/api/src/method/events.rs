// SPDX-License-Identifier: Apache-2.0
//! `events`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::why::{PolicyRuleRef, WhyParty};
use crate::object::kubernetes::NamespacedName;
use crate::object::{Direction, Protocol};

/// Parameters of `events`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct EventsParams {
    /// `next` of the answer before; everything the daemon still has when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Most events to return, 1 to 1000 (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Milliseconds to wait for an event when there is none, up to 60000; 0, the default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
}

/// Result of `events`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct EventsResult {
    /// Events, oldest first.
    pub events: Vec<DenyEvent>,
    /// `since` of the next request.
    pub next: u64,
    /// Events after `since` that the daemon no longer had.
    pub lost: u64,
}

/// A packet that was refused: of no connection, and none may begin with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DenyEvent {
    /// Its number in this run of the daemon, from 1.
    pub number: u64,
    /// When: milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Why, as counters name it.
    pub reason: String,
    /// Which end refused it: that of the sender (`egress`) or of the receiver (`ingress`).
    pub direction: Direction,
    /// Who sent it.
    pub from: WhyParty,
    /// Whom it was for.
    pub to: WhyParty,
    /// Its protocol.
    pub protocol: Protocol,
    /// Destination port, of TCP, UDP and SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source port, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The group that it was marked with, in a tunnel with group policy, where the receiver refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
    /// The `rule` of the port that denied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule of a policy that denied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRuleRef>,
    /// NetworkPolicies that isolate the pod in this direction, where that is the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<NamespacedName>,
}

impl EventsParams {
    /// Most events that one answer has.
    pub const MAX_LIMIT: u32 = 1000;
    /// Longest wait, milliseconds.
    pub const MAX_WAIT_MS: u32 = 60_000;
}

crate::by_name!(EventsParams, EventsResult, DenyEvent);
