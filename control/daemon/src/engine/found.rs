// SPDX-License-Identifier: Apache-2.0
//! `get` and `health`: what was found out about the links of NICs, beside what is configured.

use std::collections::BTreeMap;
use std::iter::Peekable;

use podswitch_api::method::{
    NeighborSource, NeighborState, NeighborStatus, Problem, RouteStatus, Severity,
};
use podswitch_api::object::{Kind, Neighbor, NeighborKey, NextHop, Object, Route, RouteKind};

use super::Engine;
use super::health::problem;
use crate::neighbors::import::Hop;
use crate::neighbors::resolver::{Probe, Source, State, View};
use crate::neighbors::service::Listed;

/// Next hops that are named when they are not there.
const NAMED: usize = 16;
/// A next hop is not missed before so many questions.
const MISSED_AFTER: u32 = 3;

impl Engine {
    /// Desired neighbours and those that were found, in the order of their keys; a desired one hides what was found of it.
    pub(super) fn all_neighbors(&self, found: &[Listed]) -> Vec<Object> {
        let state = self.model.state();
        let mut all: BTreeMap<(NeighborKey, String), Neighbor> = BTreeMap::new();
        for listed in found {
            let port = self.names.name(listed.port).map(str::to_owned);
            let vrf = port
                .as_ref()
                .and_then(|p| state.ports.get(p))
                .map(|p| p.vrf);
            let (Some(port), Some(vrf), Some(mac)) = (port, vrf, listed.view.mac) else {
                continue;
            };
            let neighbor = Neighbor {
                vrf,
                port,
                address: listed.view.address,
                mac,
            };
            if !state.neighbors.contains_key(&neighbor.key()) {
                all.insert((neighbor.key(), neighbor.port.clone()), neighbor);
            }
        }
        for (key, neighbor) in &state.neighbors {
            all.insert((*key, neighbor.port.clone()), neighbor.clone());
        }
        all.into_values().map(Object::from).collect()
    }

    pub(super) fn neighbor_status(&self, neighbor: &Neighbor, found: &[Listed]) -> NeighborStatus {
        let port = self.names.id(&neighbor.port);
        let desired = self.model.state().neighbors.contains_key(&neighbor.key());
        let same = |l: &&Listed| Some(l.port) == port && l.view.address == neighbor.address;
        match found.iter().find(same).filter(|_| !desired) {
            Some(listed) => found_neighbor(&listed.view),
            None => NeighborStatus {
                dynamic: false,
                state: None,
                source: None,
                age_ms: None,
            },
        }
    }

    /// Desired routes and those of the kernel's that are in force, in the order of their keys.
    pub(super) fn all_routes(&self) -> impl Iterator<Item = Object> {
        let state = self.model.state();
        let beside = self.neighborhood.known.routes_beside(state);
        let beside = beside.map(|(prefix, _, route)| {
            let name = |hop: &Hop| self.names.name(hop.port).map(str::to_owned);
            let several = route.hops.iter().filter_map(|hop| {
                Some(NextHop {
                    via: hop.via?,
                    port: name(hop)?,
                    weight: hop.weight,
                })
            });
            let several: Vec<NextHop> = several.collect();
            let one = route.hops.first().filter(|_| several.len() < 2);
            Object::from(Route {
                vrf: 0,
                prefix,
                kind: RouteKind::Unicast,
                via: one.and_then(|hop| hop.via),
                port: one.and_then(name),
                nexthops: match one {
                    Some(_) => Vec::new(),
                    None => several,
                },
                mtu: route.mtu,
            })
        });
        merged(state.objects(Kind::Route), beside)
    }

    pub(super) fn route_status(&self, route: &Route) -> RouteStatus {
        let desired = self.model.state().routes.contains_key(&route.key());
        let table = (!desired && route.vrf == 0)
            .then(|| self.neighborhood.known.table_of(route.prefix))
            .flatten();
        RouteStatus {
            dynamic: table.is_some(),
            table,
        }
    }

    /// Next hops that do not answer.
    pub(super) fn neighbor_problems(&self, problems: &mut Vec<Problem>) {
        if self.neighborhood.is_blind() {
            problems.push(problem(
                Severity::Error,
                "neighbors",
                "the links of NICs are no longer watched: neighbors that go or move are not noticed",
                "see the log of podswitchd for the reason, and restart it",
            ));
        }
        let mut missing: BTreeMap<&str, Vec<View>> = BTreeMap::new();
        for listed in self.neighborhood.list() {
            let (view, name) = (listed.view, self.names.name(listed.port));
            let missed = matches!(view.state, State::Incomplete(asked) if asked >= MISSED_AFTER);
            if let Some(name) = name.filter(|_| missed && view.probe != Probe::OnDemand) {
                missing.entry(name).or_default().push(view);
            }
        }
        for (port, mut views) in missing {
            views.sort_by_key(|v| v.address);
            let named: Vec<String> = views
                .iter()
                .take(NAMED)
                .map(|v| v.address.to_string())
                .collect();
            let more = match views.len().saturating_sub(NAMED) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            problems.push(problem(
                Severity::Warning,
                &format!("port {port}"),
                &format!("no answer from next hops {}{more}: packets by them are dropped (neighbor_unresolved)", named.join(", ")),
                "see whether they are up and on this link (arping, ndisc6), or remove the routes by them",
            ));
        }
    }
}

fn found_neighbor(view: &View) -> NeighborStatus {
    NeighborStatus {
        dynamic: true,
        state: match view.state {
            State::Reachable => Some(NeighborState::Reachable),
            State::Probing(_) => Some(NeighborState::Probe),
            State::Permanent => Some(NeighborState::Permanent),
            State::Incomplete(_) => None,
        },
        source: Some(match view.source {
            Source::Wire => NeighborSource::Wire,
            Source::Kernel => NeighborSource::Kernel,
        }),
        age_ms: Some(view.since.elapsed().as_millis() as u64),
    }
}

/// Two lists in the order of their keys as one.
fn merged(
    a: impl Iterator<Item = Object>,
    b: impl Iterator<Item = Object>,
) -> impl Iterator<Item = Object> {
    let (mut a, mut b): (Peekable<_>, Peekable<_>) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if y.key() < x.key() => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}
