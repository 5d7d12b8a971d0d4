// SPDX-License-Identifier: Apache-2.0
//! Answers `why`: from the tables that the workers have, by the stages' own judgement.

use std::net::IpAddr;

use podswitch_api::method::{
    DecidedBy, PolicyRuleRef, WhyEnd, WhyJudgement, WhyLed, WhyParams, WhyParty, WhyResult,
    WhyRoute,
};
use podswitch_api::object::{self, Kind, NamespacedName, Port};
use podswitch_api::{ErrorCode, MacAddr, RpcError};
use podswitch_datapath::stage::{By, Said, explain};
use podswitch_datapath::tables::{Direction, Tables};
use podswitch_datapath::wire::FlowKey;
use podswitch_datapath::wire::flow_key::to_ip;
use podswitch_datapath::{GroupId, PortId, RuleId, VrfId};
use podswitch_policy::{PolicyKey, RuleName};

use super::Engine;

/// Source port of a connection that names none: one that clients take.
const SOME_PORT: u16 = 49_152;

impl Engine {
    pub(super) fn why(&self, params: &WhyParams) -> Result<WhyResult, RpcError> {
        if params.protocol.has_ports() != params.port.is_some() {
            let (what, hint) = match params.port {
                Some(_) => ("has no ports", "leave `port` out"),
                None => ("needs a destination port", "give `port`"),
            };
            let message = format!("why: protocol {} {what}", params.protocol);
            return Err(RpcError::new(ErrorCode::InvalidParams, message)
                .field("params.port")
                .hint(hint));
        }
        let vrf = VrfId(params.vrf.unwrap_or(0));
        let from = self.addresses_of("from", &params.from)?;
        let to = self.addresses_of("to", &params.to)?;
        let pairs = from.iter().flat_map(|f| to.iter().map(move |t| (*f, *t)));
        let mut pairs = pairs.filter(|(f, t)| f.is_ipv4() == t.is_ipv4());
        let (from, to) = pairs.next().ok_or_else(|| {
            let message = "why: the two have no addresses of the same family".to_owned();
            RpcError::new(ErrorCode::Refused, message).hint("ask about addresses of one family")
        })?;
        let sport = match params.port {
            Some(_) => params.source_port.unwrap_or(SOME_PORT),
            None => 0,
        };
        let dport = params.port.unwrap_or(0);
        let key = FlowKey::from_ip(vrf, params.protocol.0, from, to, sport, dport);
        let tables = self.switch.tables();
        let group = params.group.map(marked).transpose()?;
        let explained = explain(tables, vrf, &key, group);
        let judge = |said, direction| self.judgement(tables, said, direction);
        Ok(WhyResult {
            allowed: explained.drop().is_none(),
            reason: explained.drop().map(|reason| reason.name().to_owned()),
            from: self.party(tables, vrf, from),
            to: self.party(tables, vrf, to),
            leads_to: explained.led_to.map(|led| WhyLed {
                to: self.party(tables, vrf, to_ip(&led.address)),
                container_port: led.port,
                service: explained.service.map(str::to_owned),
            }),
            egress: explained.egress.map(|s| judge(s, Direction::Egress)),
            route: match explained.route {
                Ok(way) => WhyRoute {
                    port: self.names.name(way.port).map(str::to_owned),
                    mac: Some(MacAddr(way.dst_mac.0)),
                    mtu: Some(way.mtu),
                    reason: None,
                },
                Err(reason) => WhyRoute {
                    port: None,
                    mac: None,
                    mtu: None,
                    reason: Some(reason.name().to_owned()),
                },
            },
            ingress: explained.ingress.map(|s| judge(s, Direction::Ingress)),
        })
    }

    /// The addresses that an end may mean.
    fn addresses_of(&self, field: &str, end: &WhyEnd) -> Result<Vec<IpAddr>, RpcError> {
        let state = self.model.state();
        match (&end.pod, &end.port, end.address) {
            (None, None, Some(address)) => Ok(vec![address]),
            (None, Some(name), None) => match state.ports.get(name) {
                Some(port) if !port.addresses.is_empty() => Ok(port.addresses.clone()),
                Some(_) => Err(refused(field, format!("port {name} has no addresses"))),
                None => Err(not_found(field, format!("there is no port {name}"))),
            },
            (Some(pod), None, None) => {
                let mut addresses = Vec::new();
                addresses.extend(state.pods.get(pod).into_iter().flat_map(|p| &p.addresses));
                let behind = |port: &&Port| {
                    let of = port.pod.as_ref();
                    of.is_some_and(|p| p.namespace == pod.namespace && p.name == pod.name)
                };
                let ports = state.ports.values().filter(behind);
                addresses.extend(ports.flat_map(|p| &p.addresses));
                match addresses.is_empty() {
                    true => Err(not_found(
                        field,
                        format!("no address of pod {pod} is known"),
                    )),
                    false => Ok(addresses),
                }
            }
            _ => {
                let message = format!("why: {field} must be one of pod, port and address");
                Err(RpcError::new(ErrorCode::InvalidParams, message)
                    .field(format!("params.{field}"))
                    .hint("give exactly one of them"))
            }
        }
    }

    fn party(&self, tables: &Tables, vrf: VrfId, address: IpAddr) -> WhyParty {
        let port = tables.neighbor_owner(vrf, address);
        WhyParty {
            address,
            pod: self.policies.compiler().pod_of(&address).cloned(),
            port: port.map(|p| p.name.to_string()),
        }
    }

    fn judgement(&self, tables: &Tables, said: Said, direction: Direction) -> WhyJudgement {
        let port = tables.port(said.port).map(|p| p.name.to_string());
        let port = port.unwrap_or_default();
        let policy = match said.by {
            By::Policy(id) => self.policies.rule(id).map(rule_ref),
            _ => None,
        };
        let own = match said.by {
            By::Rule(id) => own_rule(tables, said.port, direction, id),
            _ => None,
        };
        let isolated_by = self.isolated_by(&port, direction);
        WhyJudgement {
            allowed: said.drop.is_none(),
            port,
            by: match said.by {
                By::Pending => DecidedBy::Pending,
                By::Rule(_) => DecidedBy::Rule,
                By::Policy(_) => DecidedBy::Policy,
                By::Isolation => DecidedBy::Isolation,
                By::Exempt => DecidedBy::Exempt,
                By::Default => DecidedBy::Default,
            },
            rule: own,
            policy,
            isolated_by,
            peer_identity: said.peer.identity.map(|id| id.0),
            peer_group: said.by_group.map(GroupId::get),
        }
    }

    /// NetworkPolicies that isolate the pod behind a port in a direction.
    pub(super) fn isolated_by(&self, port: &str, direction: Direction) -> Vec<NamespacedName> {
        let policy = self.policies.compiler().policy_of(port);
        let of_direction = policy.map(|p| match direction {
            Direction::Egress => p.egress,
            Direction::Ingress => p.ingress,
        });
        let keys = of_direction.iter().flat_map(|spec| &spec.isolated_by);
        keys.filter_map(|key| match key {
            PolicyKey::Network(name) => Some(name.clone()),
            PolicyKey::Cluster(_) => None,
        })
        .collect()
    }
}

fn marked(number: u16) -> Result<GroupId, RpcError> {
    GroupId::new(number).ok_or_else(|| {
        let message = "why: group 0 stands for nobody".to_owned();
        RpcError::new(ErrorCode::InvalidParams, message)
            .field("params.group")
            .value(number)
            .hint(format!("choose 1 to {}, or leave it out", u16::MAX))
    })
}

/// The name of a port's own rule.
pub(super) fn own_rule(
    tables: &Tables,
    port: PortId,
    direction: Direction,
    id: RuleId,
) -> Option<String> {
    let port = tables.port(port)?;
    let rules = match direction {
        Direction::Egress => &port.egress,
        Direction::Ingress => &port.ingress,
    };
    let entry = rules.rules().iter().find(|entry| entry.id == id)?;
    Some(entry.rule.name.clone())
}

/// A rule as the protocol names it.
pub(super) fn rule_ref(name: &RuleName) -> PolicyRuleRef {
    let (kind, namespace, policy) = match &name.policy {
        PolicyKey::Network(NamespacedName { namespace, name }) => {
            (Kind::NetworkPolicy, Some(namespace.clone()), name.clone())
        }
        PolicyKey::Cluster(name) => (Kind::ClusterNetworkPolicy, None, name.clone()),
    };
    PolicyRuleRef {
        kind,
        namespace,
        name: policy,
        direction: match name.direction {
            podswitch_policy::Direction::Ingress => object::Direction::Ingress,
            podswitch_policy::Direction::Egress => object::Direction::Egress,
        },
        index: name.index as u32,
        rule: name.name.clone(),
    }
}

fn refused(field: &str, message: String) -> RpcError {
    RpcError::new(ErrorCode::Refused, format!("why: {message}"))
        .field(format!("params.{field}"))
        .hint("ask about an address")
}

fn not_found(field: &str, message: String) -> RpcError {
    RpcError::new(ErrorCode::NotFound, format!("why: {message}"))
        .field(format!("params.{field}"))
        .hint("`podswitchctl port list` shows the ports of this node with their pods")
}
