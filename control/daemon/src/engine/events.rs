// SPDX-License-Identifier: Apache-2.0
//! `events`: samples of what the workers refused, with names, in a bounded list. A request for those to come is put aside until there is
//! one, or its time is up; meanwhile the engine serves others.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podswitch_api::method::{DenyEvent, EventsParams, EventsResult, WhyParty};
use podswitch_api::object::{self, NamespacedName, Protocol};
use podswitch_api::rpc::Id;
use podswitch_api::{ErrorCode, RpcError};
use podswitch_datapath::events::Refusal;
use podswitch_datapath::tables::{Direction, has_ports};
use podswitch_datapath::wire::flow_key::to_ip;
use podswitch_datapath::{GroupId, PortId, Reason};

use super::stats::monotonic_ns;
use super::why::{own_rule, rule_ref};
use super::{Engine, answer, failed};
use crate::server::{Answer, ClientId};

/// Events that are kept.
const KEPT: usize = 4096;
/// Samples taken from the workers at a time.
const TAKEN_AT_ONCE: usize = 4096;
/// How often the workers are asked while somebody waits.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Events, the last ones of all that there were.
#[derive(Debug, Default)]
pub(super) struct Log {
    kept: VecDeque<DenyEvent>,
    /// Number of the last one.
    last: u64,
    waiting: Vec<Waiting>,
}

/// A request that was put aside.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    id: Id,
    params: EventsParams,
    until: Instant,
}

impl Log {
    fn add(&mut self, event: DenyEvent) {
        self.last += 1;
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(DenyEvent {
            number: self.last,
            ..event
        });
    }

    /// Those after `since`. A number of the future is of an earlier run of the daemon: then all there are.
    fn read(&self, params: &EventsParams) -> EventsResult {
        let asked = params.since.filter(|since| *since <= self.last);
        let gone = self.last - self.kept.len() as u64;
        let since = asked.unwrap_or(gone);
        let first = since.max(gone);
        let limit = params.limit.unwrap_or(EventsParams::MAX_LIMIT) as usize;
        let skip = (first - gone) as usize;
        let events: Vec<DenyEvent> = self.kept.iter().skip(skip).take(limit).cloned().collect();
        EventsResult {
            next: first + events.len() as u64,
            lost: first - since,
            events,
        }
    }

    /// Whether somebody waits for events.
    pub(super) fn is_followed(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets what a client waits for.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|w| w.client != client);
    }
}

fn check(params: &EventsParams) -> Result<(), RpcError> {
    let most = EventsParams::MAX_LIMIT;
    if let Some(limit) = params.limit
        && !(1..=most).contains(&limit)
    {
        return Err(out_of_range("limit", limit, 1, most));
    }
    let longest = EventsParams::MAX_WAIT_MS;
    match params.wait_ms {
        Some(wait) if wait > longest => Err(out_of_range("wait_ms", wait, 0, longest)),
        _ => Ok(()),
    }
}

fn out_of_range(field: &str, value: u32, least: u32, most: u32) -> RpcError {
    let message = format!("events: {field} {value} is out of range");
    RpcError::new(ErrorCode::InvalidParams, message)
        .field(format!("params.{field}"))
        .value(value)
        .hint(format!("choose {least} to {most}"))
}

impl Engine {
    /// The answer, unless there is nothing yet and the client waits: then it comes later.
    pub(super) fn events(
        &mut self,
        client: ClientId,
        id: &Id,
        params: EventsParams,
    ) -> Result<Option<Vec<u8>>, RpcError> {
        check(&params)?;
        self.collect_refusals();
        let found = self.events.read(&params);
        let wait = params.wait_ms.unwrap_or(0);
        if wait == 0 || !found.events.is_empty() || found.lost > 0 {
            return answer(id, &found).map(Some);
        }
        self.events.waiting.push(Waiting {
            client,
            id: id.clone(),
            params: EventsParams {
                // What the next answer is to begin with is settled now.
                since: Some(found.next),
                ..params
            },
            until: Instant::now() + Duration::from_millis(wait.into()),
        });
        Ok(None)
    }

    /// Answers those for whom there is something now, and those whose time is up.
    pub(super) fn answer_followers(&mut self) {
        self.collect_refusals();
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.events.waiting) {
            let found = self.events.read(&waiting.params);
            if found.events.is_empty() && now < waiting.until {
                self.events.waiting.push(waiting);
                continue;
            }
            let bytes = answer(&waiting.id, &found).unwrap_or_else(|e| failed(&waiting.id, &e));
            self.answers.send(Answer::Line {
                client: waiting.client,
                bytes,
            });
        }
    }

    /// Takes the workers' samples and names what they are about, by what is in force now.
    pub(super) fn collect_refusals(&mut self) {
        let refusals = self.switch.refusals(TAKEN_AT_ONCE);
        if refusals.is_empty() {
            return;
        }
        let now = (wall_ns(), monotonic_ns());
        for refusal in refusals {
            let event = self.name_event(&refusal, now);
            self.events.add(event);
        }
    }

    /// `now`: the time of day and the monotonic clock, nanoseconds.
    fn name_event(&self, refusal: &Refusal, now: (u64, u64)) -> DenyEvent {
        let key = &refusal.key;
        let has_ports = has_ports(key.protocol());
        let ago = now.1.saturating_sub(refusal.at);
        let end_port = match refusal.direction {
            Direction::Egress => Some(refusal.in_port),
            Direction::Ingress => refusal.out_port,
        };
        let tables = self.switch.tables();
        let rule = end_port.zip(refusal.rule);
        let isolated = matches!(
            refusal.reason,
            Reason::PolicyIsolatedEgress | Reason::PolicyIsolatedIngress
        );
        let end_name = end_port.and_then(|port| self.names.name(port));
        let isolated_by = end_name
            .filter(|_| isolated)
            .map(|port| self.isolated_by(port, refusal.direction));
        DenyEvent {
            number: 0,
            time_ms: now.0.saturating_sub(ago) / 1_000_000,
            reason: refusal.reason.name().to_owned(),
            direction: match refusal.direction {
                Direction::Ingress => object::Direction::Ingress,
                Direction::Egress => object::Direction::Egress,
            },
            from: self.event_party(&key.src, key.vrf().0, Some(refusal.in_port)),
            to: self.event_party(&key.dst, key.vrf().0, refusal.out_port),
            protocol: Protocol(key.protocol()),
            port: has_ports.then_some(key.dport),
            source_port: has_ports.then_some(key.sport),
            group: refusal.group.map(GroupId::get),
            rule: rule.and_then(|(port, id)| own_rule(tables, port, refusal.direction, id)),
            policy: refusal
                .policy
                .and_then(|id| self.policies.rule(id))
                .map(rule_ref),
            isolated_by: isolated_by.unwrap_or_default(),
        }
    }

    fn event_party(&self, address: &[u8; 16], vrf: u32, port: Option<PortId>) -> WhyParty {
        let address = to_ip(address);
        let name = port.and_then(|port| self.names.name(port));
        WhyParty {
            address,
            pod: self.pod_at(vrf, &address, name),
            port: name.map(str::to_owned),
        }
    }

    /// The pod behind a port or, where the port is no pod's, the one that has the address.
    fn pod_at(
        &self,
        vrf: u32,
        address: &std::net::IpAddr,
        port: Option<&str>,
    ) -> Option<NamespacedName> {
        let compiler = self.policies.compiler();
        let behind = port.and_then(|port| compiler.pod_behind(port));
        // Pods of the cluster are in the default VRF.
        let elsewhere = || compiler.pod_of(address).filter(|_| vrf == 0);
        behind.or_else(elsewhere).cloned()
    }
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |t| t.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ms: u64) -> DenyEvent {
        let party = WhyParty {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            pod: None,
            port: None,
        };
        DenyEvent {
            number: 0,
            time_ms,
            reason: "policy_isolated_ingress".into(),
            direction: object::Direction::Ingress,
            from: party.clone(),
            to: party,
            protocol: Protocol::TCP,
            port: Some(80),
            source_port: Some(1),
            group: None,
            rule: None,
            policy: None,
            isolated_by: Vec::new(),
        }
    }

    fn read(log: &Log, since: Option<u64>, limit: Option<u32>) -> (Vec<u64>, u64, u64) {
        let params = EventsParams {
            since,
            limit,
            wait_ms: None,
        };
        let found = log.read(&params);
        let numbers = found.events.iter().map(|e| e.number).collect();
        (numbers, found.next, found.lost)
    }

    #[test]
    fn a_cursor_sees_every_event_once() {
        let mut log = Log::default();
        assert_eq!(read(&log, None, None), (vec![], 0, 0));
        (0..5).for_each(|n| log.add(event(n)));
        assert_eq!(read(&log, None, Some(3)), (vec![1, 2, 3], 3, 0));
        assert_eq!(read(&log, Some(3), Some(3)), (vec![4, 5], 5, 0));
        assert_eq!(read(&log, Some(5), None), (vec![], 5, 0));
        log.add(event(5));
        assert_eq!(read(&log, Some(5), None), (vec![6], 6, 0));
        assert_eq!(read(&log, Some(0), Some(1)), (vec![1], 1, 0));
    }

    #[test]
    fn what_is_no_longer_there_is_counted_as_lost() {
        let mut log = Log::default();
        let more = KEPT as u64 + 10;
        (0..more).for_each(|n| log.add(event(n)));
        assert_eq!(log.kept.len(), KEPT);
        assert_eq!(read(&log, Some(4), Some(1)), (vec![11], 11, 6));
        // Who comes new has lost nothing, nor who has a number of an earlier run.
        assert_eq!(read(&log, None, Some(1)), (vec![11], 11, 0));
        assert_eq!(read(&log, Some(more + 1), Some(1)), (vec![11], 11, 0));
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        for (params, field) in [
            (r#"{"limit": 0}"#, "params.limit"),
            (r#"{"limit": 1001}"#, "params.limit"),
            (r#"{"wait_ms": 60001}"#, "params.wait_ms"),
        ] {
            let params: EventsParams = serde_json::from_str(params).unwrap();
            let error = check(&params).unwrap_err();
            assert_eq!(error.data.unwrap().field.as_deref(), Some(field));
        }
    }
}
