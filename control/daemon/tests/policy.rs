// SPDX-License-Identifier: Apache-2.0
//! Network policy from the desired state to the tables, with changes that do not come about among them.

use std::collections::HashMap;
use std::net::IpAddr;

use podswitch_api::RpcError;
use podswitch_api::desired::{Bounds, Difference, Model};
use podswitch_api::method::Change;
use podswitch_api::object::{Key, NamespacedName, Object};
use podswitch_datapath::stage::{By, Said, explain};
use podswitch_datapath::tables::{Edit, Gateway, PortPolicy, Tables};
use podswitch_datapath::wire::{FlowKey, MacAddr, protocol};
use podswitch_datapath::{GroupId, Reason, VrfId, WorkerId};
use podswitchd::compile::{Compiler, table_error};
use podswitchd::names::Names;
use podswitchd::policy::Policies;
use serde_json::{Value, json};

/// What the engine does with a change, but for devices, store and workers.
struct World {
    model: Model,
    names: Names,
    policies: Policies,
    tables: Tables,
}

impl World {
    fn new(expect: bool) -> World {
        let gateway = Gateway {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            v4: [169, 254, 1, 1].into(),
            v6: "fe80::1".parse().unwrap(),
        };
        let bounds = Bounds {
            memory_ports: true,
            ..Bounds::default()
        };
        World {
            model: Model::new(bounds),
            names: Names::default(),
            policies: Policies::new(expect),
            tables: Tables::new(gateway),
        }
    }

    fn build(&mut self, differences: &[Difference]) -> Result<Tables, RpcError> {
        let mut edit = Edit::new(&self.tables, self.tables.generation());
        let before = HashMap::new();
        let compiler = Compiler {
            names: &self.names,
            state: self.model.state(),
            segments_before: &before,
            worker: &|_| WorkerId(0),
            nic: &|_| None,
            default_mtu: 1500,
        };
        for difference in differences {
            compiler.difference(&mut edit, difference)?;
        }
        self.policies.put(&mut edit, &self.names)?;
        edit.build().map_err(|e| table_error(&e))
    }

    /// Applies changes; `fails`: something behind the tables does not come about, such as the store.
    fn try_change(&mut self, changes: &[Change], fails: bool) -> Result<(), RpcError> {
        let applied = self.model.apply(changes)?;
        let differences = &applied.delta.differences;
        for key in differences.iter().map(Difference::key) {
            if let Key::Port { name } = key {
                self.names.assign(&name).unwrap();
            }
        }
        self.policies.change(differences);
        match self.build(differences) {
            Ok(tables) if !fails => {
                self.policies.commit();
                self.tables = tables;
                Ok(())
            }
            result => {
                self.policies.revert(differences);
                self.model.revert(&applied);
                self.tables = self.build(&[]).unwrap();
                self.policies.commit();
                result.map(drop)
            }
        }
    }

    #[track_caller]
    fn set(&mut self, object: Value) {
        self.try_change(&[set(object)], false).unwrap();
    }

    #[track_caller]
    fn delete(&mut self, key: Value) {
        let key = serde_json::from_value(key).unwrap();
        self.try_change(&[Change::Delete { key }], false).unwrap();
    }

    fn policy(&self, port: &str) -> &PortPolicy {
        &self
            .tables
            .port(self.names.id(port).unwrap())
            .unwrap()
            .policy
    }

    /// What becomes of TCP from one address to another.
    fn tcp(&self, from: &str, to: &str, port: u16) -> (Option<Reason>, By, By) {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let key = FlowKey::from_ip(VrfId(0), protocol::TCP, ip(from), ip(to), 40_000, port);
        let said = explain(&self.tables, VrfId(0), &key, None);
        let by = |said: Option<Said>| said.unwrap().by;
        (said.drop(), by(said.egress), by(said.ingress))
    }

    fn dropped(&self, from: &str, to: &str, port: u16) -> Option<Reason> {
        self.tcp(from, to, port).0
    }
}

fn set(object: Value) -> Change {
    let object: Object = serde_json::from_value(object).unwrap();
    Change::Set { object }
}

fn port(n: u8, pod: Value) -> Value {
    json!({"kind": "port", "name": format!("p{n}"), "device": {"kind": "memory"}, "mac": format!("02:00:00:00:01:{n:02x}"),
        "addresses": [format!("10.0.0.{n}")], "pod": pod})
}

fn pod_ref(name: &str) -> Value {
    json!({"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "container_id": name, "ifname": "eth0"})
}

fn pod(name: &str, n: u8, labels: Value) -> Value {
    json!({"kind": "pod", "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": labels,
        "addresses": [format!("10.0.0.{n}")]})
}

fn namespace() -> Value {
    json!({"kind": "namespace", "name": "shop"})
}

fn allow_web() -> Value {
    json!({"kind": "network_policy", "namespace": "shop", "name": "db", "spec": {
        "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}]}})
}

/// Ports of pods web, db and other, all described, and a policy for db.
fn shop(expect: bool) -> World {
    let mut world = World::new(expect);
    world.set(namespace());
    for (n, name) in [(1, "web"), (2, "db"), (3, "other")] {
        world.set(port(n, pod_ref(name)));
        world.set(pod(name, n, json!({"app": name})));
    }
    world.set(allow_web());
    world
}

const WEB: &str = "10.0.0.1";
const DB: &str = "10.0.0.2";
const OTHER: &str = "10.0.0.3";

#[test]
fn policies_judge_by_who_the_peer_is() {
    let world = shop(true);
    let (drop, egress, ingress) = world.tcp(WEB, DB, 5432);
    assert_eq!((drop, egress), (None, By::Default));
    let By::Policy(rule) = ingress else {
        panic!("{ingress:?}")
    };
    let name = world.policies.rule(rule).unwrap();
    assert_eq!(
        (name.policy.to_string().as_str(), name.index),
        ("shop/db", 0)
    );
    let isolated = Some(Reason::PolicyIsolatedIngress);
    assert_eq!(world.dropped(WEB, DB, 80), isolated);
    assert_eq!(
        world.tcp(OTHER, DB, 5432),
        (isolated, By::Default, By::Isolation)
    );
    assert_eq!(world.dropped(DB, OTHER, 80), None);
}

#[test]
fn what_nobody_describes_is_closed_where_somebody_is_expected_to() {
    for expect in [true, false] {
        let mut world = World::new(expect);
        let is = |world: &World| match world.policy("p1") {
            PortPolicy::None => "none",
            PortPolicy::Pending => "pending",
            PortPolicy::Judged { .. } => "judged",
        };
        let undescribed = if expect { "pending" } else { "none" };
        let waits = |world: &World| world.policies.pending().count();
        world.set(port(1, pod_ref("web")));
        assert_eq!((is(&world), waits(&world)), (undescribed, expect.into()));
        world.set(pod("web", 1, json!({})));
        assert_eq!(is(&world), undescribed, "its namespace is not here");
        world.set(namespace());
        assert_eq!((is(&world), waits(&world)), ("judged", 0));
        let mut another = pod("web", 1, json!({}));
        another["uid"] = json!("uid-later");
        world.set(another);
        assert_eq!((is(&world), waits(&world)), (undescribed, expect.into()));
        world.set(pod("web", 1, json!({})));
        assert_eq!(is(&world), "judged");
        world.delete(json!({"kind": "pod", "namespace": "shop", "name": "web"}));
        assert_eq!(is(&world), undescribed);
        // A port without a pod of Kubernetes has no policy, nor has one in another VRF or one that goes.
        world.set(port(1, json!({"container_id": "x", "ifname": "eth0"})));
        assert_eq!((is(&world), waits(&world)), ("none", 0));
        let mut elsewhere = port(1, pod_ref("web"));
        elsewhere["vrf"] = json!(7);
        world.set(elsewhere);
        assert_eq!((is(&world), waits(&world)), ("none", 0));
        world.set(port(1, pod_ref("web")));
        assert_eq!(is(&world), undescribed);
        world.delete(json!({"kind": "port", "name": "p1"}));
        assert_eq!(waits(&world), 0);
    }
}

#[test]
fn ports_with_the_same_policies_share_them() {
    let mut world = shop(true);
    world.set(port(4, pod_ref("db-2")));
    world.set(pod("db-2", 4, json!({"app": "db"})));
    let ingress = |port: &str| match world.policy(port) {
        PortPolicy::Judged { ingress, .. } => ingress.clone(),
        other => panic!("{other:?}"),
    };
    let (one, other) = (ingress("p2"), ingress("p4"));
    assert!(std::sync::Arc::ptr_eq(&one, &other));
    assert!(one.is_isolated() && !ingress("p1").is_isolated());
}

#[test]
fn a_change_that_does_not_come_about_leaves_everything_as_it_was() {
    let everybody = json!({"kind": "network_policy", "namespace": "shop", "name": "db", "spec": {
        "podSelector": {}, "ingress": [{}]}});
    let key = NamespacedName {
        namespace: "shop".into(),
        name: "web".into(),
    };
    let changes = [
        vec![set(everybody)],
        vec![set(pod("other", 3, json!({"app": "web"})))],
        vec![Change::Delete { key: Key::Pod(key) }],
        vec![
            set(port(9, pod_ref("new"))),
            set(pod("new", 9, json!({"app": "web"}))),
        ],
    ];
    let mut world = shop(true);
    let verdicts = |world: &World| {
        let ways = [(WEB, DB), (OTHER, DB), (DB, WEB), (WEB, OTHER)];
        ways.map(|(from, to)| [80, 5432].map(|port| world.dropped(from, to, port)))
    };
    let before = verdicts(&world);
    for change in &changes {
        world.try_change(change, true).unwrap();
        assert_eq!(verdicts(&world), before, "{change:?}");
    }
    // And all of it can still happen.
    for change in &changes {
        world.try_change(change, false).unwrap();
    }
    assert_eq!(world.dropped(OTHER, DB, 80), None);
}

#[test]
fn what_the_tables_refused_is_not_asked_of_them_again() {
    let mut world = shop(true);
    let rules = vec![json!({}); 10_000];
    let policy = |n: u32| {
        set(
            json!({"kind": "network_policy", "namespace": "shop", "name": format!("large-{n}"),
            "spec": {"podSelector": {"matchLabels": {"app": "other"}}, "ingress": rules}}),
        )
    };
    let too_many: Vec<Change> = (0..7).map(policy).collect();
    let refused = world.try_change(&too_many, false).unwrap_err();
    assert!(refused.message.contains("rules of one port"), "{refused}");
    assert_eq!(refused.data.unwrap().key.as_deref(), Some("p3"));
    world.set(pod("other", 3, json!({"app": "web"})));
    assert_eq!(world.dropped(OTHER, DB, 5432), None);
}

/// Groups, from the desired state to the tables: who packets are from, and what those of a pod of this node bear.
#[test]
fn groups_go_into_the_tables_and_out_of_them() {
    let group = |id: u16, labels: Value| json!({"kind": "group", "id": id, "namespace": "shop", "labels": labels});
    let mut world = shop(true);
    world.set(group(7, json!({"app": "web"})));
    world.set(group(8, json!({"app": "nobody"})));
    let of = |world: &World, port: &str| {
        let id = world.names.id(port).unwrap();
        world.tables.port(id).unwrap().group.map(GroupId::get)
    };
    let who = |world: &World, number: u16| {
        let address = FlowKey::from_ip(
            VrfId(0),
            6,
            [10, 9, 9, 9].into(),
            [10, 9, 9, 9].into(),
            0,
            0,
        )
        .src;
        let peer = world
            .tables
            .marked_peer(GroupId::new(number).unwrap(), &address);
        peer.map(|peer| peer.class)
    };
    let class = |world: &World, address: [u8; 4]| {
        let key = FlowKey::from_ip(VrfId(0), 6, address.into(), address.into(), 0, 0);
        world.tables.peer(&key.src).class
    };
    assert_eq!(
        ["p1", "p2", "p3"].map(|port| of(&world, port)),
        [Some(7), None, None]
    );
    assert_eq!(who(&world, 7), Some(class(&world, [10, 0, 0, 1])));
    assert_ne!(who(&world, 8), who(&world, 7));
    assert_eq!(who(&world, 9), None);
    // What does not come about changes nothing.
    let changes = [
        set(group(7, json!({"app": "db"}))),
        Change::Delete {
            key: Key::Group { id: 8 },
        },
        set(group(9, json!({"app": "web"}))),
    ];
    let before = [7, 8, 9].map(|number| who(&world, number));
    let stays = |world: &World| {
        assert_eq!([7, 8, 9].map(|number| who(world, number)), before);
        assert_eq!(
            ["p1", "p2", "p3"].map(|port| of(world, port)),
            [Some(7), None, None]
        );
    };
    world.try_change(&changes, true).unwrap();
    stays(&world);
    world.try_change(&changes, false).unwrap();
    assert_eq!(
        ["p1", "p2", "p3"].map(|port| of(&world, port)),
        [Some(9), Some(7), None]
    );
    assert_eq!(who(&world, 8), None);
    assert_eq!(who(&world, 9), Some(class(&world, [10, 0, 0, 1])));
    // A daemon that starts has them at once.
    let mut again = Policies::new(true);
    again.load(world.model.state());
    let mut edit = Edit::new(&world.tables, world.tables.generation());
    again.put(&mut edit, &world.names).unwrap();
    let tables = edit.build().unwrap();
    assert_eq!(tables.counts().groups, 2);
}
