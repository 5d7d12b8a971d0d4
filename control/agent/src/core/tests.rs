// SPDX-License-Identifier: Apache-2.0
//! Whatever events come, twice, late or with lists between them: the daemon has in the end what the last state of the cluster makes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use podswitch_api::Kind;
use podswitch_api::error::{ErrorCode, RpcError};
use podswitch_api::object::{Namespace, NetworkPolicy, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A cluster's object of few names, so that events meet.
#[derive(Clone, Debug)]
enum Thing {
    Pod {
        address: Option<u8>,
        second: Option<u8>,
        host: bool,
        created: i64,
        stays: bool,
    },
    Namespace(u8),
    Policy(u8),
    Node(u8),
}

impl Thing {
    fn source(&self) -> Source {
        match self {
            Thing::Pod { .. } => Source::Pod,
            Thing::Namespace(_) => Source::Namespace,
            Thing::Policy(_) => Source::NetworkPolicy,
            Thing::Node(_) => Source::Node,
        }
    }

    fn what(&self, name: &NamespacedName) -> What {
        match self {
            Thing::Pod {
                address,
                second,
                host,
                created,
                stays,
            } => What::Pod {
                object: Box::new(Pod {
                    namespace: "a".to_owned(),
                    name: name.name.clone(),
                    uid: None,
                    labels: BTreeMap::new(),
                    addresses: address.iter().chain(second).map(|n| at(*n)).collect(),
                    ports: Vec::new(),
                    host_network: *host,
                }),
                rank: Rank {
                    stays: *stays,
                    created: *created,
                },
            },
            Thing::Namespace(label) => What::Object(
                Namespace {
                    name: name.name.clone(),
                    labels: [("l".to_owned(), label.to_string())].into(),
                }
                .into(),
            ),
            Thing::Policy(0) => What::Fault(Box::new(Fault {
                field: "spec.egress".to_owned(),
                message: "no".to_owned(),
                closed: None,
            })),
            Thing::Policy(n) => What::Object(
                NetworkPolicy {
                    namespace: "a".to_owned(),
                    name: name.name.clone(),
                    spec: serde_json::from_value(
                        json!({"podSelector": {"matchLabels": {"l": n.to_string()}}}),
                    )
                    .unwrap(),
                }
                .into(),
            ),
            Thing::Node(n) => What::Node(NodeFacts {
                addresses: vec![Ipv4Addr::new(192, 0, 2, *n).into()],
                pods: vec![format!("10.{n}.0.0/16").parse().unwrap()],
                zone: None,
            }),
        }
    }
}

fn at(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn called(source: Source, n: u8) -> NamespacedName {
    let namespace = match source {
        Source::Pod | Source::NetworkPolicy => "a",
        _ => "",
    };
    NamespacedName {
        namespace: namespace.to_owned(),
        name: format!("n{n}"),
    }
}

/// One step of the cluster's history.
type Step = (u8, Thing, bool);

fn thing() -> impl Strategy<Value = Thing> {
    let address = || prop::option::of(1..4u8);
    let pod = (address(), address(), any::<bool>(), 0..3i64, any::<bool>());
    let pod = pod.prop_map(|(address, second, host, created, stays)| Thing::Pod {
        address,
        second: second.filter(|s| Some(*s) != address),
        host: host && created == 0,
        created,
        stays,
    });
    prop_oneof![
        4 => pod,
        1 => (0..3u8).prop_map(Thing::Namespace),
        1 => (0..3u8).prop_map(Thing::Policy),
        1 => (1..4u8).prop_map(Thing::Node),
    ]
}

/// What happens between two events of the history.
#[derive(Clone, Debug)]
enum Between {
    Nothing,
    /// An event comes again that came so many events ago.
    Again(usize),
    /// All of a kind is listed anew, perhaps after a list that broke off.
    List(u8, bool),
    /// A kind may not be read, and then again.
    Away(u8),
    /// The daemon is told.
    Tell,
    /// The daemon is gone and comes back.
    Lost,
    /// The daemon refuses what it is told next of this name.
    Refuse(u8),
    /// What it refused of the agent's own is tried again.
    Retry,
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        4 => Just(Between::Nothing),
        3 => (1..8usize).prop_map(Between::Again),
        2 => (0..7u8, any::<bool>()).prop_map(|(s, b)| Between::List(s, b)),
        1 => (0..7u8).prop_map(Between::Away),
        3 => Just(Between::Tell),
        1 => Just(Between::Lost),
        1 => (0..4u8).prop_map(Between::Refuse),
        1 => Just(Between::Retry),
    ]
}

/// The API server: all that is there, and the version.
#[derive(Default)]
struct Cluster {
    things: BTreeMap<(Source, NamespacedName), (u64, Thing)>,
    version: u64,
}

impl Cluster {
    fn seen(&self, source: Source, name: &NamespacedName) -> Box<Seen> {
        let (version, thing) = &self.things[&(source, name.clone())];
        Box::new(Seen {
            identity: identity(name, *version),
            what: thing.what(name),
        })
    }

    fn step(&mut self, (n, thing, delete): &Step) -> Option<Input> {
        let source = thing.source();
        let name = called(source, *n);
        let key = (source, name.clone());
        if *delete {
            self.things.remove(&key)?;
            self.version += 1;
            return Some(Input::Delete(source, identity(&name, self.version)));
        }
        self.version += 1;
        self.things.insert(key, (self.version, thing.clone()));
        Some(Input::Apply(source, self.seen(source, &name)))
    }

    fn list(&self, source: Source) -> Vec<Input> {
        let names = self.things.keys().filter(|(s, _)| *s == source);
        let items = names.map(|(_, name)| Input::Item(source, self.seen(source, name)));
        [Input::Begin(source)]
            .into_iter()
            .chain(items)
            .chain([Input::End(source)])
            .collect()
    }

    fn list_all(&self, core: &mut Core) {
        for source in Source::ALL {
            self.list(source).into_iter().for_each(|i| core.input(i));
        }
    }
}

fn identity(name: &NamespacedName, version: u64) -> Identity {
    Identity {
        name: name.clone(),
        uid: "u".into(),
        version: Some(version),
    }
}

fn core() -> Core {
    let config = WaysConfig {
        node: "n1".to_owned(),
        mode: Mode::Native,
        ..WaysConfig::default()
    };
    let mut core = Core::new(config, Box::new(Untranslated));
    core.set_link(Some(Link {
        interface: "eth0".to_owned(),
        nets: Vec::new(),
        gateways: Vec::new(),
    }));
    core
}

/// The daemon: what it was told. `refuses` is a name that it refuses once.
#[derive(Default)]
struct Daemon {
    objects: BTreeMap<Key, Object>,
    refuses: Option<u8>,
}

impl Daemon {
    fn tell(&mut self, core: &mut Core) {
        if !core.is_complete() {
            return;
        }
        if core.is_whole() {
            let kinds = core.kinds();
            self.objects.retain(|key, _| !kinds.contains(&key.kind()));
            for object in core.ports().into_iter().chain(objects(core)) {
                assert!(
                    self.objects
                        .insert(object.key(), object)
                        .is_none_or(|old| old.key().kind() == Kind::Port)
                );
            }
            core.replaced();
        }
        if core.ports_due() {
            let ports = core.ports().into_iter();
            self.objects.extend(ports.map(|port| (port.key(), port)));
        }
        loop {
            let changes = core.changes(2, 512);
            if changes.is_empty() {
                return;
            }
            for change in changes {
                let change = self.judge(core, change);
                match change {
                    Change::Set { object } => drop(self.objects.insert(object.key(), object)),
                    Change::Delete { key } => drop(self.objects.remove(&key)),
                }
            }
        }
    }

    fn judge(&mut self, core: &mut Core, change: Change) -> Change {
        match (&change, self.refuses) {
            (Change::Set { object }, Some(n))
                if object.key().short().ends_with(&format!("n{n}")) =>
            {
                self.refuses = None;
                let error = RpcError::new(ErrorCode::Refused, "no");
                core.refuse(&object.key(), &error)
            }
            _ => change,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_daemon_has_what_the_cluster_says(
        history in prop::collection::vec((0..4u8, thing(), any::<bool>()), 0..40),
        happens in prop::collection::vec(between(), 40),
    ) {
        let (mut cluster, mut core, mut daemon) = (Cluster::default(), core(), Daemon::default());
        cluster.list_all(&mut core);
        // A watch begins where its list ends: what was before that never comes again.
        let mut past: Vec<Input> = Vec::new();
        for (step, between) in history.iter().zip(happens) {
            if let Some(event) = cluster.step(step) {
                past.push(event.clone());
                core.input(event);
            }
            match between {
                Between::Nothing => {}
                Between::Again(ago) => {
                    if let Some(event) = past.len().checked_sub(ago).and_then(|i| past.get(i)) {
                        core.input(event.clone());
                    }
                }
                Between::List(n, broken) => {
                    let source = Source::ALL[usize::from(n)];
                    past.retain(|event| event.source() != source);
                    let list = cluster.list(source);
                    if broken {
                        list[..list.len() - 1].iter().for_each(|i| core.input(i.clone()));
                    }
                    list.into_iter().for_each(|i| core.input(i));
                }
                Between::Away(n) => {
                    let source = Source::ALL[usize::from(n)];
                    past.retain(|event| event.source() != source);
                    core.input(Input::Away(source, Away::Forbidden));
                    daemon.tell(&mut core);
                    cluster.list(source).into_iter().for_each(|i| core.input(i));
                }
                Between::Tell => daemon.tell(&mut core),
                Between::Lost => core.lost(),
                Between::Refuse(n) => daemon.refuses = Some(n),
                Between::Retry => core.retry(),
            }
        }
        daemon.tell(&mut core);
        // An object that was refused is the same as left out: compare with what this core says, and that with a new one's.
        let refused: Vec<Key> = daemon_refused(&core);
        let mut fresh = self::core();
        cluster.list_all(&mut fresh);
        fresh.is_whole();
        let expected: BTreeMap<Key, Object> = fresh
            .ports()
            .into_iter()
            .chain(objects(&fresh))
            .map(|o| (o.key(), o))
            .collect();
        let left_out = |key: &Key| refused.contains(key);
        daemon.objects.retain(|key, _| !left_out(key));
        // Ways stay when this node's own object is gone.
        let has_own = cluster.things.contains_key(&(Source::Node, called(Source::Node, 1)));
        let way = |key: &Key| matches!(key.kind(), Kind::Port | Kind::Route | Kind::Neighbor);
        let expected: BTreeMap<_, _> = expected.into_iter().filter(|(k, _)| !left_out(k)).collect();
        if !has_own {
            daemon.objects.retain(|key, _| !way(key));
        }
        prop_assert_eq!(&daemon.objects, &expected);
        hold_addresses(&cluster, &expected);
    }
}

fn objects(core: &Core) -> Vec<Object> {
    let keys = core.keys();
    keys.iter().filter_map(|key| core.object(key)).collect()
}

fn daemon_refused(core: &Core) -> Vec<Key> {
    let names = (0..4u8).flat_map(|n| {
        Source::ALL
            .into_iter()
            .filter_map(move |s| key_of(s, &called(s, n)))
    });
    names.filter(|key| core.refusals.is_refused(key)).collect()
}

/// No two pods have one address, and of those that claim it the one with the greatest rank has it.
fn hold_addresses(cluster: &Cluster, objects: &BTreeMap<Key, Object>) {
    for n in 1..4u8 {
        let claims = cluster
            .things
            .iter()
            .filter_map(|((_, name), (_, thing))| match thing {
                Thing::Pod {
                    address,
                    second,
                    host: false,
                    created,
                    stays,
                } => {
                    let claims = [address, second].into_iter().flatten().any(|a| *a == n);
                    claims.then(|| {
                        (
                            Rank {
                                stays: *stays,
                                created: *created,
                            },
                            name.clone(),
                        )
                    })
                }
                _ => None,
            });
        let owner = claims.max().map(|(_, name)| name);
        let has = objects.values().filter_map(|o| match o {
            Object::Pod(p) if !p.host_network && p.addresses.contains(&at(n)) => Some(p.key()),
            _ => None,
        });
        let has: Vec<NamespacedName> = has.collect();
        if let Some(owner) = owner {
            assert!(has.is_empty() || has == [owner], "{has:?}");
        } else {
            assert_eq!(has, []);
        }
    }
}

/// Makes a group of each Service, so that there is something to see.
#[derive(Debug, Default)]
struct Groups(Vec<ThisNode>);

impl Translator for Groups {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Group]
    }

    fn set(
        &mut self,
        source: Source,
        name: &NamespacedName,
        object: Option<&serde_json::Value>,
    ) -> Translated {
        let id = object.map_or(1, |o| o["id"].as_u64().unwrap_or(1));
        let group = podswitch_api::object::Group {
            id: u16::try_from(id).unwrap(),
            namespace: name.namespace.clone(),
            labels: BTreeMap::new(),
        };
        let change = match object {
            Some(_) => Change::set(Object::Group(group)),
            None => Change::delete(Key::Group { id: 7 }),
        };
        Translated {
            changes: vec![change],
            problems: vec![Problem {
                source,
                name: name.clone(),
                field: "spec".to_owned(),
                message: "so".to_owned(),
            }],
        }
    }

    fn node(&mut self, node: &ThisNode) -> Translated {
        self.0.push(node.clone());
        Translated::default()
    }
}

#[test]
fn a_translators_objects_are_the_agents() {
    let mut core = Core::new(WaysConfig::default(), Box::new(Groups::default()));
    Cluster::default().list_all(&mut core);
    let name = called(Source::Pod, 1);
    let seen = |version| Seen {
        identity: identity(&name, version),
        what: What::Raw(json!({"id": 7})),
    };
    let key = Key::Group { id: 7 };
    core.input(Input::Apply(Source::Service, Box::new(seen(1))));
    assert!(core.kinds().contains(&Kind::Group));
    assert!(core.keys().contains(&key) && core.object(&key).is_some());
    let complaints = core.complaints();
    assert_eq!(
        (complaints[0].source, &complaints[0].name),
        (Some(Source::Service), &name)
    );
    core.is_whole();
    core.replaced();
    core.input(Input::Delete(Source::Service, identity(&name, 2)));
    assert_eq!(core.changes(9, 999), [Change::delete(key)]);
}
