// SPDX-License-Identifier: Apache-2.0
//! What the rules of a port say: egress of the port a packet comes from, ingress of the port it leaves by.
//!
//! Rules speak of IP: other frames (ARP within a segment) are not judged. A denied packet is dropped silently.

use crate::counters::WorkerCounters;
use crate::flow::Half;
use crate::tables::{PortEntry, RuleSet};
use crate::verdict::Reason;
use crate::wire::{Fragment, Parsed};

/// Judges a packet as one from `port`.
#[inline]
pub(super) fn egress(port: &PortEntry, parsed: &Parsed) -> Half {
    let (by_rule, by_default) = (Reason::PolicyDeniedEgress, Reason::PolicyDefaultEgress);
    judge(&port.egress, parsed, by_rule, by_default)
}

/// Judges a packet as one to `port`.
#[inline]
pub(super) fn ingress(port: &PortEntry, parsed: &Parsed) -> Half {
    let (by_rule, by_default) = (Reason::PolicyDeniedIngress, Reason::PolicyDefaultIngress);
    judge(&port.ingress, parsed, by_rule, by_default)
}

#[inline]
fn judge(rules: &RuleSet, parsed: &Parsed, by_rule: Reason, by_default: Reason) -> Half {
    if !parsed.is_ip() {
        return Half::default();
    }
    let judgement = rules.judge(&parsed.key, parsed.fragment == Fragment::Later);
    let drop = match (judgement.allow, judgement.rule) {
        (true, _) => None,
        (false, Some(_)) => Some(by_rule),
        (false, None) => Some(by_default),
    };
    Half {
        drop,
        rule: judgement.rule,
    }
}

/// Counts a packet of `bytes` bytes for the rule that decided about it, and says why it is dropped, if it is.
#[inline(always)]
pub(super) fn enforce(counters: &WorkerCounters, half: Half, bytes: u32) -> Result<(), Reason> {
    if let Some(rule) = half.rule {
        counters.judged(rule, bytes.into());
    }
    half.drop.map_or(Ok(()), Err)
}
