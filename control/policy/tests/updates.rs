// SPDX-License-Identifier: Apache-2.0
//! What updates say, change by change: a mirror of the switch's tables is kept by them and asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::object::{
    ClusterNetworkPolicy, Group, Namespace, NamespacedName, NetworkPolicy, Pod,
};
use podswitch_policy::{
    Action, Change, CidrClassId, ClassId, Compiler, Direction, DirectionSpec, Endpoint,
    EndpointPolicy, IdentityId, PolicyKey, RuleSpec, Tier, Update,
};
use serde_json::{Value, json};

/// The tables, as updates make them.
#[derive(Default)]
struct Mirror {
    compiler: Compiler,
    peers: BTreeMap<IpAddr, IdentityId>,
    identities: BTreeMap<IdentityId, ClassId>,
    cidrs: BTreeMap<IpNet, CidrClassId>,
    groups: BTreeMap<u16, IdentityId>,
    endpoints: BTreeMap<String, Option<EndpointPolicy>>,
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, changes: Vec<(K, Option<V>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

fn key(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Said {
    Accept,
    Deny,
    Isolated,
    Nothing,
}

impl Mirror {
    fn apply(&mut self, change: Change<'_>) -> Update {
        let update = self.compiler.apply([change]);
        set(&mut self.peers, update.peers.clone());
        set(&mut self.identities, update.identities.clone());
        set(&mut self.cidrs, update.cidrs.clone());
        set(&mut self.groups, update.groups.clone());
        self.endpoints.extend(update.endpoints.clone());
        for identity in self.peers.values().chain(self.groups.values()) {
            assert!(self.identities.contains_key(identity), "{update:?}");
        }
        update
    }

    fn namespace(&mut self, name: &str, labels: Value) -> Update {
        let o = Namespace {
            name: name.into(),
            labels: serde_json::from_value(labels).unwrap(),
        };
        self.apply(Change::Namespace(name, Some(&o)))
    }

    fn pod(&mut self, name: &str, address: &str, rest: Value) -> Update {
        let key = key(name);
        let mut whole =
            json!({"namespace": key.namespace, "name": key.name, "addresses": [address]});
        for (field, value) in rest.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let o: Pod = serde_json::from_value(whole).unwrap();
        self.apply(Change::Pod(&key, Some(&o)))
    }

    fn policy(&mut self, name: &str, spec: Value) -> Update {
        let key = key(name);
        let o = NetworkPolicy {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        self.apply(Change::NetworkPolicy(&key, Some(&o)))
    }

    fn cluster(&mut self, name: &str, spec: Value) -> Update {
        let o = ClusterNetworkPolicy {
            name: name.into(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        self.apply(Change::ClusterNetworkPolicy(name, Some(&o)))
    }

    fn group(&mut self, id: u16, of: Option<(&str, Value)>) -> Update {
        let group = of.map(|(namespace, labels)| Group {
            id,
            namespace: namespace.into(),
            labels: serde_json::from_value(labels).unwrap(),
        });
        self.apply(Change::Group(id, group.as_ref()))
    }

    /// The group of the pod behind a port, as it was said last.
    fn group_of(&self, port: &str) -> Option<u16> {
        self.endpoints[port].as_ref()?.group
    }

    fn endpoint(&mut self, port: &str, pod: &str, address: &str) -> Update {
        let endpoint = Endpoint {
            pod: key(pod),
            uid: None,
            addresses: vec![address.parse().unwrap()],
        };
        self.apply(Change::Endpoint(port, Some(endpoint)))
    }

    fn spec(&self, port: &str, direction: Direction) -> &DirectionSpec {
        let policy = self.endpoints[port].as_ref().expect("a described pod");
        match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        }
    }

    /// What a port's policy says to a connection with a peer.
    fn ask(&self, port: &str, direction: Direction, peer: &str, to: (u8, u16)) -> Said {
        let identity = self.peers.get(&peer.parse().unwrap());
        self.ask_about(port, direction, (identity, peer), to)
    }

    /// The same of ingress from a peer by its group, whose address nobody knows.
    fn ask_group(&self, port: &str, group: u16, to: (u8, u16)) -> Said {
        let identity = self.groups.get(&group);
        self.ask_about(port, Ingress, (identity, "198.51.100.1"), to)
    }

    fn ask_about(
        &self,
        port: &str,
        direction: Direction,
        (identity, peer): (Option<&IdentityId>, &str),
        to: (u8, u16),
    ) -> Said {
        let spec = self.spec(port, direction);
        let peer: IpAddr = peer.parse().unwrap();
        let class = identity.and_then(|i| self.identities.get(i));
        let covering = self.cidrs.iter().filter(|(p, _)| p.contains(&peer));
        let cidr = covering.max_by_key(|(p, _)| p.prefix_len()).map(|(_, c)| c);
        let lists = spec.classes.iter().filter(|(c, _)| Some(c) == class);
        let by_class: Vec<u32> = lists.flat_map(|(_, l)| l).copied().collect();
        let lists = spec.cidr_classes.iter().filter(|(c, _)| Some(c) == cidr);
        let by_cidr: Vec<u32> = lists.flat_map(|(_, l)| l).copied().collect();
        let matches = |(at, rule): &(usize, &RuleSpec)| {
            let at = *at as u32;
            let (class, cidr) = (by_class.contains(&at), by_cidr.contains(&at));
            let peer = match rule.both {
                true => class && cidr,
                false => rule.any_peer || class || cidr,
            };
            let port = rule.ports.is_empty()
                || rule
                    .ports
                    .iter()
                    .any(|p| p.protocol == to.0 && (p.first..=p.last).contains(&to.1));
            peer && port
        };
        let rules = || {
            spec.rules
                .iter()
                .enumerate()
                .filter(matches)
                .map(|(_, r)| r)
        };
        let first = rules().next();
        let first = match first {
            Some(r) if r.tier == Tier::Admin && r.action == Action::Pass => {
                rules().find(|r| r.tier != Tier::Admin)
            }
            other => other,
        };
        match first {
            Some(r) if r.tier == Tier::Baseline && !spec.isolated_by.is_empty() => Said::Isolated,
            Some(r) => match r.action {
                Action::Accept => Said::Accept,
                Action::Deny => Said::Deny,
                Action::Pass => Said::Nothing,
            },
            None if !spec.isolated_by.is_empty() => Said::Isolated,
            None => Said::Nothing,
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
use Direction::{Egress, Ingress};

/// Namespaces `shop` (team a) and `mon`, pods web (local), db (local), client, probe in `mon`.
fn cluster() -> Mirror {
    let mut m = Mirror::default();
    m.namespace("shop", json!({"team": "a"}));
    m.namespace("mon", json!({}));
    m.pod(
        "shop/web",
        "10.0.0.1",
        json!({"labels": {"app": "web"}, "ports": [{"name": "http", "containerPort": 8080}]}),
    );
    m.pod(
        "shop/db",
        "10.0.0.2",
        json!({"labels": {"app": "db"}, "ports": [{"name": "http", "containerPort": 9090}]}),
    );
    m.pod(
        "shop/client",
        "10.0.1.1",
        json!({"labels": {"app": "client"}}),
    );
    m.pod(
        "mon/probe",
        "10.0.1.2",
        json!({"labels": {"app": "client"}}),
    );
    m.endpoint("p-web", "shop/web", "10.0.0.1");
    m.endpoint("p-db", "shop/db", "10.0.0.2");
    m
}

#[test]
fn a_port_without_policies_says_nothing() {
    let m = cluster();
    assert_eq!(
        m.ask("p-web", Ingress, "10.0.1.1", (TCP, 80)),
        Said::Nothing
    );
    assert_eq!(m.endpoints.len(), 2);
}

#[test]
fn selectors_namespaces_ports_and_blocks() {
    let mut m = cluster();
    m.policy(
        "shop/web",
        json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "http"}, {"port": 53, "protocol": "UDP"}]},
                {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mon"}}}], "ports": [{"port": 9000, "endPort": 9010}]},
                {"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}}]},
            ]}),
    );
    let ask = |peer, to| m.ask("p-web", Ingress, peer, to);
    assert_eq!(ask("10.0.1.1", (TCP, 8080)), Said::Accept, "by name");
    assert_eq!(ask("10.0.1.1", (UDP, 53)), Said::Accept);
    assert_eq!(ask("10.0.1.1", (TCP, 53)), Said::Isolated);
    assert_eq!(
        ask("10.0.1.2", (TCP, 8080)),
        Said::Isolated,
        "of another namespace"
    );
    assert_eq!(ask("10.0.1.2", (TCP, 9010)), Said::Accept);
    assert_eq!(ask("10.0.1.2", (TCP, 9011)), Said::Isolated);
    assert_eq!(ask("10.0.0.2", (1, 0)), Said::Accept, "a pod in the block");
    assert_eq!(
        ask("10.0.1.9", (TCP, 8080)),
        Said::Isolated,
        "in the exception"
    );
    assert_eq!(m.ask("p-web", Egress, "10.0.1.1", (TCP, 1)), Said::Nothing);
    assert_eq!(m.ask("p-db", Ingress, "10.0.1.1", (TCP, 1)), Said::Nothing);
    let by = &m.spec("p-web", Ingress).isolated_by;
    assert_eq!(by[..], [PolicyKey::Network(key("shop/web"))]);
}

#[test]
fn a_named_port_is_what_the_receiver_means_by_it() {
    let mut m = cluster();
    m.policy(
        "shop/out",
        json!({"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]}),
    );
    assert_eq!(
        m.ask("p-web", Egress, "10.0.0.2", (TCP, 9090)),
        Said::Accept
    );
    assert_eq!(
        m.ask("p-web", Egress, "10.0.0.2", (TCP, 8080)),
        Said::Isolated
    );
    assert_eq!(m.ask("p-db", Egress, "10.0.0.1", (TCP, 8080)), Said::Accept);
    assert_eq!(
        m.ask("p-db", Egress, "10.0.1.1", (TCP, 8080)),
        Said::Isolated
    );
    // A third number of that name comes and goes.
    m.pod(
        "shop/client",
        "10.0.1.1",
        json!({"ports": [{"name": "http", "containerPort": 7}]}),
    );
    assert_eq!(m.ask("p-db", Egress, "10.0.1.1", (TCP, 7)), Said::Accept);
    m.pod(
        "shop/client",
        "10.0.1.1",
        json!({"ports": [{"name": "http", "containerPort": 7, "protocol": "UDP"}]}),
    );
    assert_eq!(m.ask("p-db", Egress, "10.0.1.1", (TCP, 7)), Said::Isolated);
    assert_eq!(
        m.ask("p-db", Egress, "10.0.1.1", (UDP, 7)),
        Said::Isolated,
        "another protocol"
    );
}

#[test]
fn a_named_port_within_a_block_is_that_of_the_pod_with_the_address() {
    let mut m = cluster();
    m.policy(
        "shop/out",
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{"ipBlock": {"cidr": "10.0.0.0/23", "except": ["10.0.1.0/24"]}}],
            "ports": [{"port": "http"}]}]}),
    );
    let ask = |m: &Mirror, peer, port| m.ask("p-web", Egress, peer, (TCP, port));
    assert_eq!(ask(&m, "10.0.0.2", 9090), Said::Accept);
    assert_eq!(ask(&m, "10.0.0.2", 8080), Said::Isolated);
    assert_eq!(ask(&m, "10.0.0.7", 9090), Said::Isolated, "nobody's");
    m.pod(
        "mon/far",
        "10.0.1.9",
        json!({"ports": [{"name": "http", "containerPort": 9090}]}),
    );
    assert_eq!(ask(&m, "10.0.1.9", 9090), Said::Isolated, "excepted");
    m.pod(
        "mon/far",
        "10.0.0.9",
        json!({"ports": [{"name": "http", "containerPort": 9090}]}),
    );
    assert_eq!(ask(&m, "10.0.0.9", 9090), Said::Accept);
}

#[test]
fn tiers_are_asked_in_their_order() {
    let mut m = cluster();
    let client = json!([{"pods": {"podSelector": {"matchLabels": {"app": "client"}}}}]);
    m.cluster(
        "base",
        json!({"tier": "Baseline", "priority": 0, "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": client}]}),
    );
    let ask = |m: &Mirror, port| m.ask("p-web", Ingress, "10.0.1.1", (TCP, port));
    assert_eq!(ask(&m, 1), Said::Deny);
    m.policy(
        "shop/web",
        json!({"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 1}]}]}),
    );
    assert_eq!(ask(&m, 1), Said::Accept);
    assert_eq!(ask(&m, 2), Said::Isolated);
    m.cluster("pass", json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {"matchLabels": {"team": "a"}}},
        "ingress": [{"action": "Pass", "from": client, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 2}}}}]},
            {"action": "Deny", "from": client}]}));
    assert_eq!(
        (ask(&m, 1), ask(&m, 2), ask(&m, 3)),
        (Said::Accept, Said::Isolated, Said::Deny)
    );
    m.namespace("shop", json!({}));
    assert_eq!(ask(&m, 3), Said::Isolated, "no subject of it any more");
    // A peer that is not known: what accepts matches nothing, what denies or passes denies everything.
    let first = |action: &str| {
        json!({"tier": "Admin", "priority": 4, "subject": {"namespaces": {}}, "ingress": [{"action": action,
            "from": [{"planets": {}}, {"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 2}}}]}]})
    };
    for (action, said) in [
        ("Accept", Said::Accept),
        ("Deny", Said::Deny),
        ("Pass", Said::Deny),
    ] {
        m.cluster("first", first(action));
        assert_eq!(ask(&m, 1), said, "{action}");
    }
}

#[test]
fn addresses_move_and_never_carry_who_was_there_before() {
    let mut m = cluster();
    m.policy(
        "shop/web",
        json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}),
    );
    let ask = |m: &Mirror| m.ask("p-web", Ingress, "10.0.1.1", (TCP, 1));
    assert_eq!(ask(&m), Said::Accept);
    // Somebody else claims it, and goes.
    m.pod(
        "shop/other",
        "10.0.1.1",
        json!({"labels": {"app": "other"}}),
    );
    assert_eq!(ask(&m), Said::Isolated);
    m.apply(Change::Pod(&key("shop/other"), None));
    assert_eq!(ask(&m), Said::Accept);
    m.apply(Change::Pod(&key("shop/client"), None));
    assert_eq!(ask(&m), Said::Isolated);
    assert!(!m.peers.contains_key(&"10.0.1.1".parse().unwrap()));
    // A port of this node knows better.
    m.pod(
        "shop/client",
        "10.0.0.2",
        json!({"labels": {"app": "client"}}),
    );
    assert_eq!(
        m.ask("p-web", Ingress, "10.0.0.2", (TCP, 1)),
        Said::Isolated
    );
    assert_eq!(
        m.compiler.pod_of(&"10.0.0.2".parse().unwrap()),
        Some(&key("shop/db"))
    );
}

#[test]
fn a_pod_is_described_by_its_object_and_its_namespace() {
    let mut m = Mirror::default();
    let endpoint = |uid: &str| Endpoint {
        pod: key("shop/web"),
        uid: Some(uid.into()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    let said = |u: Update| {
        u.endpoints
            .iter()
            .map(|(_, p)| p.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        said(m.apply(Change::Endpoint("p", Some(endpoint("u1"))))),
        [false]
    );
    assert!(said(m.pod("shop/web", "10.0.0.1", json!({"uid": "u0"}))).is_empty());
    assert!(
        said(m.namespace("shop", json!({}))).is_empty(),
        "a pod of another UID"
    );
    assert!(m.peers.is_empty());
    assert_eq!(
        said(m.pod("shop/web", "10.0.0.1", json!({"uid": "u1"}))),
        [true]
    );
    assert!(m.compiler.is_described("p") && m.peers.len() == 1);
    assert_eq!(said(m.apply(Change::Namespace("shop", None))), [false]);
    assert!(m.peers.is_empty(), "who is not described is nobody");
    assert_eq!(said(m.namespace("shop", json!({}))), [true]);
    assert_eq!(said(m.apply(Change::Endpoint("p", None))), [false]);
    assert!(!m.compiler.is_described("p"));
}

#[test]
fn updates_say_only_what_differs() {
    let mut m = cluster();
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}, {"ipBlock": {"cidr": "1.0.0.0/8"}}]}]});
    assert!(!m.policy("shop/web", spec.clone()).is_empty());
    assert!(m.policy("shop/web", spec).is_empty(), "the same again");
    assert!(
        m.pod(
            "shop/client",
            "10.0.1.1",
            json!({"labels": {"app": "client"}})
        )
        .is_empty()
    );
    // One pod more of a kind that is there: its address, nothing else.
    let update = m.pod(
        "shop/client-2",
        "10.0.1.3",
        json!({"labels": {"app": "client", "hash": "x"}}),
    );
    assert_eq!(
        update,
        Update {
            peers: update.peers.clone(),
            ..Update::default()
        }
    );
    assert_eq!(update.peers.len(), 1);
    assert_eq!(m.ask("p-web", Ingress, "10.0.1.3", (TCP, 1)), Said::Accept);
    // A policy that selects nobody here changes nothing here, but for labels that it looks at.
    assert!(m.policy("mon/all", json!({"ingress": []})).is_empty());
    let update = m.apply(Change::Pod(&key("shop/client-2"), None));
    assert_eq!(update.peers, [("10.0.1.3".parse().unwrap(), None)]);
    let update = m.apply(Change::NetworkPolicy(&key("shop/web"), None));
    assert!(update.rules.iter().all(|(_, name)| name.is_none()) && !update.rules.is_empty());
    assert_eq!(update.cidrs.len(), 1);
}

#[test]
fn ports_with_the_same_policies_share_their_rules() {
    let mut m = cluster();
    m.pod("shop/web-2", "10.0.0.3", json!({"labels": {"app": "web"}}));
    m.endpoint("p-web-2", "shop/web-2", "10.0.0.3");
    m.policy("shop/web", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {}}]}]}));
    let of = |m: &Mirror, port: &str| m.endpoints[port].clone().unwrap().ingress;
    assert!(std::sync::Arc::ptr_eq(&of(&m, "p-web"), &of(&m, "p-web-2")));
    assert!(!std::sync::Arc::ptr_eq(&of(&m, "p-web"), &of(&m, "p-db")));
    m.policy("shop/web", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "http"}]}]}));
    assert!(
        !std::sync::Arc::ptr_eq(&of(&m, "p-web"), &of(&m, "p-web-2")),
        "only one has such a port"
    );
}

fn from_clients() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})
}

/// A group has the identity that a pod with its labels would have, also where there is none.
#[test]
fn a_group_is_who_its_labels_say() {
    let mut m = cluster();
    let ask = |m: &Mirror, group| m.ask_group("p-web", group, (TCP, 80));
    // Nothing looks at labels yet.
    m.group(7, Some(("shop", json!({"app": "client", "new": "yes"}))));
    m.group(8, Some(("shop", json!({"app": "other"}))));
    m.group(9, Some(("mon", json!({"app": "client"}))));
    m.group(10, Some(("nowhere", json!({"app": "client"}))));
    assert_eq!(ask(&m, 7), Said::Nothing);
    m.policy("shop/web", from_clients());
    assert_eq!(ask(&m, 7), Said::Accept, "no pod is like that");
    assert_eq!(
        [8, 9, 10, 11].map(|group| ask(&m, group)),
        [Said::Isolated; 4]
    );
    // Labels of namespaces count, of those that come later too.
    m.policy(
        "shop/web",
        json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}},
                "podSelector": {"matchExpressions": [{"key": "new", "operator": "DoesNotExist"}]}}]}]}),
    );
    assert_eq!([7, 9, 10].map(|group| ask(&m, group)), [Said::Isolated; 3]);
    m.namespace("nowhere", json!({"team": "b"}));
    m.namespace("mon", json!({"team": "b"}));
    m.namespace("shop", json!({"team": "b"}));
    assert_eq!(
        [7, 8, 9, 10].map(|g| ask(&m, g)),
        [Said::Isolated, Said::Accept, Said::Accept, Said::Accept]
    );
    // A group that means others, and one that goes.
    let update = m.group(7, Some(("shop", json!({"app": "client"}))));
    assert_eq!(update.groups.len(), 1);
    assert_eq!(ask(&m, 7), Said::Accept);
    assert_eq!(m.group(9, None).groups, [(9, None)]);
    assert_eq!(ask(&m, 9), Said::Isolated);
    assert!(
        m.group(9, None).is_empty()
            && m.group(8, Some(("shop", json!({"app": "other"}))))
                .is_empty()
    );
    // Identities of groups are kept as long as these are there.
    for id in [7, 8, 10] {
        m.group(id, None);
    }
    assert!(m.groups.is_empty());
    let of_pods: std::collections::BTreeSet<_> = m.peers.values().collect();
    assert_eq!(m.identities.len(), of_pods.len());
}

/// A pod is of the group with all its labels and no others, whatever policies look at.
#[test]
fn pods_of_this_node_are_of_groups() {
    let mut m = cluster();
    assert_eq!(m.group_of("p-web"), None);
    m.group(7, Some(("shop", json!({"app": "web"}))));
    m.group(8, Some(("shop", json!({"app": "db", "more": "x"}))));
    m.group(9, Some(("mon", json!({"app": "db"}))));
    assert_eq!([m.group_of("p-web"), m.group_of("p-db")], [Some(7), None]);
    let labels = json!({"labels": {"app": "db", "more": "x"}});
    m.pod("shop/db", "10.0.0.2", labels.clone());
    assert_eq!(m.group_of("p-db"), Some(8));
    // One after another, two groups change places.
    m.group(7, Some(("shop", json!({"app": "db", "more": "x"}))));
    m.group(8, Some(("shop", json!({"app": "web"}))));
    assert_eq!(
        [m.group_of("p-web"), m.group_of("p-db")],
        [Some(8), Some(7)]
    );
    let update = m.group(7, None);
    assert_eq!(update.endpoints.len(), 1);
    assert_eq!([m.group_of("p-web"), m.group_of("p-db")], [Some(8), None]);
    // It says nothing else of the port.
    let rules = |m: &Mirror| m.spec("p-web", Ingress) as *const DirectionSpec;
    let before = rules(&m);
    m.group(8, Some(("shop", json!({}))));
    assert_eq!((m.group_of("p-web"), rules(&m)), (None, before));
    m.group(7, Some(("shop", json!({"app": "web"}))));
    assert_eq!(m.group_of("p-web"), Some(7));
    // Policies that look at labels change nothing about it.
    m.policy("shop/web", from_clients());
    assert_eq!(m.group_of("p-web"), Some(7));
    // Who is not described is nobody.
    m.apply(Change::Namespace("shop", None));
    assert_eq!(m.endpoints["p-web"], None);
    m.namespace("shop", json!({}));
    assert_eq!(m.group_of("p-web"), Some(7));
    m.pod(
        "shop/web",
        "10.0.0.1",
        json!({"labels": {"app": "web"}, "host_network": true}),
    );
    assert_eq!(m.endpoints["p-web"], None);
}
