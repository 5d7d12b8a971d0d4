// SPDX-License-Identifier: Apache-2.0
//! What would become of a new connection, and why: the stages' own judgement and route, asked without a packet.

use std::net::IpAddr;

use super::policy::{self, End, Half, Standing};
use crate::ids::{GroupId, PolicyRuleId, PortId, RuleId, VrfId};
use crate::tables::{Adjacency, Client, Direction, Hop, Peer, PortEntry, PortPolicy, Tables};
use crate::verdict::Reason;
use crate::wire::FlowKey;
use crate::wire::translate::Endpoint;

/// What decided at one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The pod is closed until it is described.
    Pending,
    /// A rule of the port.
    Rule(RuleId),
    /// A policy's rule.
    Policy(PolicyRuleId),
    /// NetworkPolicies isolate the pod, and none accepts it.
    Isolation,
    /// A pod and itself, or a pod and its node.
    Exempt,
    /// Nothing else does, and the port's default action says so.
    Default,
}

/// What one end says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// The port of that end.
    pub port: PortId,
    /// Why it is dropped; `None` lets it on.
    pub drop: Option<Reason>,
    /// What decided.
    pub by: By,
    /// Who the other end is to it.
    pub peer: Peer,
    /// The group that says so, and not the address.
    pub by_group: Option<GroupId>,
}

/// What would become of a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explained<'t> {
    /// The sender's end; none where nothing is known of the port it comes from.
    pub egress: Option<Said>,
    /// The way out, or why there is none.
    pub route: Result<&'t Adjacency, Reason>,
    /// The receiver's end; none without a way out.
    pub ingress: Option<Said>,
    /// Whom the service, or the port of the node, leads to that the connection is to, if it is to one.
    pub led_to: Option<Endpoint>,
    /// The name of the service that it is to.
    pub service: Option<&'t str>,
    /// Why a service that it is to does not serve it.
    pub unserved: Option<Reason>,
}

impl Explained<'_> {
    /// Why the first packet would be dropped.
    pub fn drop(&self) -> Option<Reason> {
        let said = |said: Option<Said>| said.and_then(|s| s.drop);
        self.unserved
            .or(said(self.egress))
            .or(self.route.err())
            .or(said(self.ingress))
    }
}

/// Asks the tables about the first packet of a connection, which comes from the port that has its source address, or that a packet to it
/// would leave by, marked with a group if there is one. Whether the flow table has room, and what is on its way already, is not asked.
pub fn explain<'t>(
    tables: &'t Tables,
    vrf: VrfId,
    key: &FlowKey,
    group: Option<GroupId>,
) -> Explained<'t> {
    let way = |key: &FlowKey| match tables.route(vrf, key) {
        Hop::Adjacency(way) => Ok(way),
        Hop::Drop(reason) => Err(reason),
    };
    let source: IpAddr = crate::wire::flow_key::to_ip(&key.src);
    let back = || tables.port(way(&key.reversed()).ok()?.port);
    let sender = tables.neighbor_owner(vrf, source).or_else(back);
    let client = match sender.is_some_and(PortEntry::is_outside) {
        true => Client::Outside,
        false => Client::Inside,
    };
    let service = tables.service(key, client);
    let chosen = service.and_then(|served| served.ok()?.choose(key, 0));
    let led_to = chosen.or_else(|| tables.host_port(key));
    let unserved = service.and_then(Result::err);
    let key = &led_to.map_or(*key, |to| key.with_destination(&to));
    let route = way(key);
    let receiver = route.ok().and_then(|way| tables.port(way.port));
    let group = group.filter(|_| sender.is_some_and(PortEntry::has_group_policy));
    let said = |direction, port: Option<&'t PortEntry>, other, group| {
        let end = End {
            direction,
            port: port?,
            other,
            group,
        };
        Some(said(tables, end, key))
    };
    Explained {
        egress: said(Direction::Egress, sender, receiver, None),
        route,
        ingress: said(Direction::Ingress, receiver, sender, group),
        led_to,
        service: service.and_then(|served| Some(&*served.ok()?.service.name)),
        unserved,
    }
}

fn said(tables: &Tables, end: End<'_>, key: &FlowKey) -> Said {
    let half = policy::judge(tables, end, key, false, Standing::New);
    Said {
        port: end.port.id,
        drop: half.drop,
        by: by(end, key, half),
        peer: end.peer(tables, key),
        by_group: end.group.filter(|_| end.marked(tables, key).is_some()),
    }
}

fn by(end: End<'_>, key: &FlowKey, half: Half) -> By {
    let isolated = matches!(
        half.drop,
        Some(Reason::PolicyIsolatedEgress | Reason::PolicyIsolatedIngress)
    );
    match (half.rule, half.policy) {
        _ if matches!(end.port.policy, PortPolicy::Pending) => By::Pending,
        (Some(rule), _) => By::Rule(rule),
        (None, Some(rule)) => By::Policy(rule),
        (None, None) if isolated => By::Isolation,
        (None, None) if end.policy().is_some() && end.is_exempt(key) => By::Exempt,
        (None, None) => By::Default,
    }
}
