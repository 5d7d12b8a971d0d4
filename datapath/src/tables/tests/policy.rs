// SPDX-License-Identifier: Apache-2.0
//! Compiled rules against a scan of the rules as written.
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::ids::{RuleId, VrfId};
use crate::tables::{Action, Judgement, Rule, RuleEntry, RuleSet};
use crate::wire::flow_key::to_ip;
use crate::wire::{FlowKey, protocol};

fn matches(rule: &Rule, key: &FlowKey, later_fragment: bool) -> bool {
    let transport = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&key.protocol());
    rule.source.is_none_or(|net| net.contains(&to_ip(&key.src)))
        && rule
            .destination
            .is_none_or(|net| net.contains(&to_ip(&key.dst)))
        && rule.protocol.is_none_or(|p| p == key.protocol())
        && rule.ports.as_ref().is_none_or(|ports| {
            transport
                && match later_fragment {
                    true => rule.action == Action::Allow,
                    false => ports.contains(&key.dport),
                }
        })
}

/// The first match of a scan in the order of priority and name.
fn scan(default: Action, rules: &[Rule], key: &FlowKey, later_fragment: bool) -> Judgement {
    let hits = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| matches(rule, key, later_fragment));
    match hits.min_by_key(|(_, rule)| (rule.priority, rule.name.clone())) {
        Some((at, rule)) => Judgement {
            allow: rule.action == Action::Allow,
            rule: Some(RuleId(at as u32)),
        },
        None => Judgement {
            allow: default == Action::Allow,
            rule: None,
        },
    }
}

fn compiled(default: Action, rules: &[Rule]) -> RuleSet {
    let entry = |(at, rule): (usize, &Rule)| RuleEntry {
        id: RuleId(at as u32),
        since: 1,
        rule: Arc::new(rule.clone()),
    };
    RuleSet::new(default, rules.iter().enumerate().map(entry).collect())
}

/// Addresses from a small part of each family, and its ends.
fn addresses(v6: bool) -> BoxedStrategy<IpAddr> {
    match v6 {
        false => prop_oneof![
            (0..4u32, 0..8u32).prop_map(|(a, b)| IpAddr::V4((a << 30 | b).into())),
            Just(IpAddr::V4(u32::MAX.into())),
        ]
        .boxed(),
        true => prop_oneof![
            (0..4u128, 0..8u128).prop_map(|(a, b)| IpAddr::V6((a << 126 | b).into())),
            Just(IpAddr::V6(u128::MAX.into())),
        ]
        .boxed(),
    }
}

fn prefixes(v6: bool) -> impl Strategy<Value = Option<IpNet>> {
    let most = if v6 { 128 } else { 32u8 };
    let length = prop_oneof![0..=3u8, most - 4..=most];
    let prefix = (addresses(v6), length).prop_map(|(a, l)| IpNet::new_assert(a, l).trunc());
    proptest::option::weighted(0.6, prefix)
}

fn protocols() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(protocol::TCP),
        Just(protocol::UDP),
        Just(protocol::SCTP),
        Just(protocol::ICMP),
        Just(99u8)
    ]
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![0..6u16, Just(u16::MAX), Just(u16::MAX - 1)]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let range = || (ports(), ports()).prop_map(|(a, b)| RangeInclusive::new(a.min(b), a.max(b)));
    let rule = any::<bool>().prop_flat_map(move |v6| {
        (
            0..4u32,
            prefixes(v6),
            prefixes(v6),
            proptest::option::of(protocols()),
            proptest::option::of(range()),
            any::<bool>(),
        )
    });
    proptest::collection::vec(rule, 0..150).prop_map(|all| {
        let named = |(at, (priority, source, destination, protocol, ports, allow))| Rule {
            name: format!("rule-{}", at * 7919 % 151),
            priority,
            source,
            destination,
            protocol,
            ports,
            action: if allow { Action::Allow } else { Action::Deny },
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

fn keys() -> impl Strategy<Value = (FlowKey, bool)> {
    any::<bool>()
        .prop_flat_map(|v6| {
            (
                addresses(v6),
                addresses(v6),
                protocols(),
                ports(),
                any::<bool>(),
            )
        })
        .prop_map(|(source, destination, protocol, port, later)| {
            let port = if later { 0 } else { port };
            (
                FlowKey::from_ip(VrfId(0), protocol, source, destination, 1, port),
                later,
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn compiled_rules_judge_as_a_scan(
        rules in rules(),
        keys in proptest::collection::vec(keys(), 1..60),
        deny in any::<bool>(),
    ) {
        let default = if deny { Action::Deny } else { Action::Allow };
        let set = compiled(default, &rules);
        for (key, later) in keys {
            prop_assert_eq!(set.judge(&key, later), scan(default, &rules, &key, later), "{}", key);
        }
    }
}
