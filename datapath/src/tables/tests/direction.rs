// SPDX-License-Identifier: Apache-2.0
//! Compiled policies against a walk over the rules as given.
use proptest::prelude::*;

use crate::ids::{CidrClass, PeerClass, PolicyRuleId};
use crate::tables::*;
use crate::wire::protocol;

/// A rule, and the peer classes and CIDR classes that it is for.
type Row = (PolicyRule, Vec<u32>, Vec<u32>);

#[derive(Clone, Debug)]
struct Policy {
    rules: Vec<Row>,
    isolated: bool,
}

impl Policy {
    fn compiled(&self) -> DirectionPolicy {
        let rules = self.rules.iter().map(|(rule, ..)| rule.clone()).collect();
        let classes = |of: fn(&Row) -> &Vec<u32>| {
            let mut all: Vec<(u32, Vec<u32>)> = Vec::new();
            for (n, rule) in self.rules.iter().enumerate() {
                for class in of(rule) {
                    match all.iter_mut().find(|(c, _)| c == class) {
                        Some((_, numbers)) => numbers.push(n as u32),
                        None => all.push((*class, vec![n as u32])),
                    }
                }
            }
            all
        };
        let peers = classes(|(_, peers, _)| peers).into_iter();
        let peers: Vec<_> = peers.map(|(c, of)| (PeerClass(c), of)).collect();
        let cidrs = classes(|(.., cidrs)| cidrs).into_iter();
        let cidrs: Vec<_> = cidrs.map(|(c, of)| (CidrClass(c), of)).collect();
        DirectionPolicy::new(rules, self.isolated, &peers, &cidrs).unwrap()
    }

    /// The first rule of a tier that matches.
    fn first(&self, tier: Tier, peer: &Peer, protocol: u8, dport: u16) -> Option<&PolicyRule> {
        let has_ports = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&protocol);
        let found = self.rules.iter().find(|(rule, peers, cidrs)| {
            let by_class = peer.class.is_some_and(|class| peers.contains(&class.0));
            let by_cidr = peer.cidr.is_some_and(|class| cidrs.contains(&class.0));
            let by_peer = match rule.both {
                true => by_class && by_cidr,
                false => by_class || by_cidr,
            };
            let by_peer = rule.any_peer || by_peer;
            let mut ports = rule.ports.iter();
            let by_port = rule.ports.is_empty()
                || has_ports && ports.any(|p| p.protocol == protocol && p.ports.contains(&dport));
            rule.tier == tier && by_peer && by_port
        });
        found.map(|(rule, ..)| rule)
    }

    /// Tier by tier.
    fn judge(&self, peer: &Peer, protocol: u8, dport: u16) -> PolicyJudgement {
        for tier in [Tier::Admin, Tier::Network, Tier::Baseline] {
            match self.first(tier, peer, protocol, dport) {
                Some(rule) if rule.action == PolicyAction::Accept => {
                    return PolicyJudgement::Accept(rule.id);
                }
                Some(rule) if rule.action == PolicyAction::Deny => {
                    return PolicyJudgement::Deny(rule.id);
                }
                None if tier == Tier::Network && self.isolated => return PolicyJudgement::Isolated,
                _ => {}
            }
        }
        PolicyJudgement::NoMatch
    }
}

fn protocols() -> impl Strategy<Value = u8> {
    const KNOWN: [u8; 4] = [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP];
    prop_oneof![4 => Just(protocol::TCP), 2 => proptest::sample::select(&KNOWN[..]), 1 => Just(99)]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0..12u16, 1 => Just(u16::MAX), 1 => Just(u16::MAX - 1)]
}

fn rule() -> impl Strategy<Value = Row> {
    let ports = (protocols(), port(), port()).prop_map(|(protocol, a, b)| PortMatch {
        protocol,
        ports: a.min(b)..=a.max(b),
    });
    let classes = || proptest::collection::btree_set(0..6u32, 0..4);
    (
        0..3usize,
        0..3usize,
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.3),
        proptest::collection::vec(ports, 0..4),
        classes(),
        classes(),
    )
        .prop_map(|(tier, action, any_peer, both, ports, peers, cidrs)| {
            let tier = [Tier::Admin, Tier::Network, Tier::Baseline][tier];
            let action =
                match [PolicyAction::Accept, PolicyAction::Deny, PolicyAction::Pass][action] {
                    PolicyAction::Pass if tier == Tier::Network => PolicyAction::Accept,
                    action => action,
                };
            let rule = PolicyRule {
                id: PolicyRuleId(0),
                tier,
                action,
                any_peer,
                both,
                ports,
            };
            (rule, Vec::from_iter(peers), Vec::from_iter(cidrs))
        })
}

/// Numbers the rules, so that none has its index as its id.
fn policy(mut rules: Vec<Row>, isolated: bool) -> Policy {
    rules.sort_by_key(|(rule, ..)| rule.tier);
    for (n, (rule, ..)) in rules.iter_mut().enumerate() {
        rule.id = PolicyRuleId(60_000 - n as u32);
    }
    Policy { rules, isolated }
}

fn peer() -> impl Strategy<Value = Peer> {
    // Classes from 6 on are in no rule, those from 8 on beyond every array.
    let class = || proptest::option::weighted(0.8, 0..9u32);
    (class(), class()).prop_map(|(class, cidr)| Peer {
        identity: None,
        class: class.map(PeerClass),
        cidr: cidr.map(CidrClass),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn compiled_policies_judge_as_a_walk(
        rules in proptest::collection::vec(rule(), 0..200),
        isolated in any::<bool>(),
        queries in proptest::collection::vec((peer(), protocols(), port()), 1..60),
    ) {
        let policy = policy(rules, isolated);
        let compiled = policy.compiled();
        prop_assert_eq!(compiled.is_empty(), policy.rules.is_empty() && !isolated);
        for (peer, protocol, dport) in queries {
            let expected = policy.judge(&peer, protocol, dport);
            prop_assert_eq!(compiled.judge(&peer, protocol, dport), expected, "{:?}", (peer, protocol, dport));
        }
    }
}

/// Tiers that end inside, at the end of and between the pieces that rules are compiled in.
fn ten_thousand(admin: usize, network: usize) -> Policy {
    let rule = |n: usize| {
        let tier = match n {
            _ if n < admin => Tier::Admin,
            _ if n < admin + network => Tier::Network,
            _ => Tier::Baseline,
        };
        let first = (n % 7_919) as u16;
        let ports = PortMatch {
            protocol: protocol::TCP,
            ports: first..=first.saturating_add((n % 5) as u16),
        };
        let rule = PolicyRule {
            id: PolicyRuleId(0),
            tier,
            action: match n % 3 {
                0 => PolicyAction::Deny,
                1 if tier != Tier::Network => PolicyAction::Pass,
                _ => PolicyAction::Accept,
            },
            any_peer: n.is_multiple_of(997),
            both: n.is_multiple_of(7),
            ports: if n % 501 == 500 {
                Vec::new()
            } else {
                vec![ports]
            },
        };
        (rule, vec![(n % 613) as u32, 700], vec![(n % 211) as u32])
    };
    policy((0..10_000).map(rule).collect(), admin.is_multiple_of(2))
}

#[test]
fn ten_thousand_rules_judge_as_a_walk() {
    for (admin, network) in [
        (0, 10_000),
        (100, 9_000),
        (4096, 4096),
        (4097, 10),
        (9_999, 1),
    ] {
        let policy = ten_thousand(admin, network);
        let compiled = policy.compiled();
        assert_eq!(compiled.rules().len(), 10_000);
        let mut said = std::collections::BTreeSet::new();
        for n in 0..4_000u32 {
            let peer = Peer {
                identity: None,
                class: (!n.is_multiple_of(5)).then_some(PeerClass(n * 7 % 720)),
                cidr: (!n.is_multiple_of(3)).then_some(CidrClass(n * 5 % 230)),
            };
            let protocol = if n.is_multiple_of(17) {
                protocol::ICMP
            } else {
                protocol::TCP
            };
            let dport = (n * 31 % 8_000) as u16;
            let judgement = compiled.judge(&peer, protocol, dport);
            assert_eq!(
                judgement,
                policy.judge(&peer, protocol, dport),
                "{peer:?} {dport}"
            );
            said.insert(format!("{judgement:?}"));
        }
        assert!(said.len() > 50, "{said:?}");
    }
}

fn one(tier: Tier, action: PolicyAction, any_peer: bool) -> PolicyRule {
    PolicyRule {
        id: PolicyRuleId(1),
        tier,
        action,
        any_peer,
        both: false,
        ports: Vec::new(),
    }
}

#[test]
fn passing_goes_on_behind_the_tier() {
    let judge = |rules: Vec<PolicyRule>, isolated| {
        let rules = rules.into_iter().zip(0..);
        let rules = rules.map(|(rule, id)| PolicyRule {
            id: PolicyRuleId(id),
            ..rule
        });
        let policy = DirectionPolicy::new(rules.collect(), isolated, &[], &[]).unwrap();
        policy.judge(&Peer::default(), protocol::UDP, 53)
    };
    let pass = one(Tier::Admin, PolicyAction::Pass, true);
    let deny = one(Tier::Admin, PolicyAction::Deny, true);
    let network = one(Tier::Network, PolicyAction::Accept, true);
    let other = one(Tier::Network, PolicyAction::Accept, false);
    let baseline = one(Tier::Baseline, PolicyAction::Deny, true);
    let passing = one(Tier::Baseline, PolicyAction::Pass, true);
    type J = PolicyJudgement;
    let cases = [
        (vec![], false, J::NoMatch),
        (vec![], true, J::Isolated),
        (vec![&pass, &deny], false, J::NoMatch),
        (vec![&pass, &deny], true, J::Isolated),
        (vec![&deny, &pass, &network], true, J::Deny(PolicyRuleId(0))),
        (
            vec![&pass, &deny, &network],
            true,
            J::Accept(PolicyRuleId(2)),
        ),
        (vec![&pass, &other, &baseline], true, J::Isolated),
        (
            vec![&pass, &other, &baseline],
            false,
            J::Deny(PolicyRuleId(2)),
        ),
        (vec![&other, &passing, &baseline], false, J::NoMatch),
        (vec![&network, &baseline], true, J::Accept(PolicyRuleId(0))),
    ];
    for (rules, isolated, expected) in cases {
        let rules = rules.into_iter().cloned().collect();
        assert_eq!(judge(rules, isolated), expected);
    }
}

#[test]
fn policies_that_are_refused() {
    let rule = || one(Tier::Network, PolicyAction::Accept, false);
    let ports = |rule: PolicyRule, protocol, ports| PolicyRule {
        ports: vec![PortMatch { protocol, ports }],
        ..rule
    };
    #[expect(clippy::reversed_empty_ranges, reason = "what is to be refused")]
    let backwards = ports(rule(), 6, 9..=8);
    let of = |class: u32, rules: &[u32]| vec![(PeerClass(class), rules.to_vec())];
    let cases = [
        (
            "policy rule 1: tier network is behind a rule of tier baseline; sort by tier",
            vec![one(Tier::Baseline, PolicyAction::Deny, true), rule()],
            vec![],
        ),
        (
            "policy rule 1: action pass is not for tier network; use accept or deny",
            vec![one(Tier::Network, PolicyAction::Pass, true)],
            vec![],
        ),
        (
            "policy rule 1: ports 9-8 end before they begin",
            vec![backwards],
            vec![],
        ),
        (
            "policy rule 1048576: id 1048576 is not below 1048576",
            vec![PolicyRule {
                id: PolicyRuleId(1 << 20),
                ..rule()
            }],
            vec![],
        ),
        (
            "policy rule 1: 65536 policy rules of one port and direction, \
             but the switch holds at most 65535; remove some first",
            vec![rule(); 65_536],
            vec![],
        ),
        (
            "peer class: number 4294967295 is not below 262144",
            vec![rule()],
            of(u32::MAX, &[0]),
        ),
        (
            "peer class 3: rule 1 is not below 1, the number of rules",
            vec![rule()],
            of(3, &[1]),
        ),
        (
            "peer class: number 3 is there twice; name each class once",
            vec![rule()],
            [of(3, &[0]), of(3, &[0])].concat(),
        ),
    ];
    for (expected, rules, peers) in cases {
        let error = DirectionPolicy::new(rules, false, &peers, &[]).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    // A protocol without ports is no error, but nothing matches.
    let icmp = ports(
        one(Tier::Network, PolicyAction::Accept, true),
        protocol::ICMP,
        0..=65_535,
    );
    let policy = DirectionPolicy::new(vec![icmp], false, &[], &[]).unwrap();
    let judgement = policy.judge(&Peer::default(), protocol::ICMP, 0);
    assert_eq!(judgement, PolicyJudgement::NoMatch);
}
