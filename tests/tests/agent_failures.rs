// SPDX-License-Identifier: Apache-2.0
//! podswitch-agent while an API server fails in every way that one does: the daemon keeps what it has, and in the end has what the cluster says.

use std::collections::BTreeMap;

use podswitch_tests::agent::{Agent, pod};
use podswitch_tests::agent_scene::{Scene, by_hand, described};
use podswitch_tests::api_server::{ApiServer, Of, recorded, recorded_list};
use podswitch_tests::objects::set;
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// Addresses of a pod answer another.
fn reach(from: &Pod, to: &Pod) {
    ping(&from.netns, to.v4());
    ping(&from.netns, to.v6());
}

#[test]
fn lists_come_in_pages_where_streams_are_refused() {
    let mut scene = Scene::new();
    for n in 0..1200u32 {
        let address = format!("10.{}.{}.{}", 100, n / 250, n % 250 + 1);
        let object = pod(&format!("shop/p{n}"), &[address], &json!({}), 0);
        scene.server.set("pods", object);
    }
    scene.start("");
    assert!(scene.pod("p1199").is_some());
    let requests = scene.server.requests();
    let of_pods = |word: &str| {
        requests
            .iter()
            .filter(|r| r.contains("/pods?") && r.contains(word))
            .count()
    };
    assert_eq!(of_pods("sendInitialEvents"), 1, "it is asked for once");
    assert_eq!(of_pods("continue="), 2);
    // With a server that streams, nothing is listed.
    let node = Node::new(NodeConfig::default());
    let server = ApiServer::with_recorded(node.netns(), "");
    server.stream_lists();
    Agent::start(&node, &server, "").ready();
    assert_eq!(described(&node), by_hand(""));
    assert!(!server.requests().iter().any(|r| r.contains("limit=")));
}

#[test]
fn a_compacted_version_is_listed_anew() {
    let scene = Scene::started();
    scene.follows("a", 1);
    for (round, as_event) in [(0, false), (1, true)] {
        // What happens while nobody watches is seen in the list alone.
        scene.server.fail("pods", Of::Both, 500, "{}", None);
        scene.server.reset("pods");
        let errors = "podswitch_agent_api_connected{kind=\"Pod\"}";
        eventually("the watch is broken", HUNG, || {
            (scene.agent().metric(errors) == Some(0.0)).then_some(())
        });
        if round == 0 {
            scene.server.delete("pods", "shop", "a");
        }
        scene.server.set(
            "pods",
            pod(
                "shop/b",
                &[format!("10.244.8.{}", round + 1)],
                &json!({}),
                0,
            ),
        );
        scene.server.compact("pods", as_event);
        scene.server.lift("pods");
        scene.has("b", &format!("10.244.8.{}", round + 1));
        eventually("a is gone", HUNG, || scene.pod("a").is_none().then_some(()));
        scene.follows("c", 3 + round);
    }
}

#[test]
fn errors_are_waited_out() {
    let throttled = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too many", "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": 1}, "code": 429});
    let mut scene = Scene::new();
    // At the start, and later.
    scene
        .server
        .fail("pods", Of::List, 429, &throttled.to_string(), Some(2));
    scene.server.fail(
        "namespaces",
        Of::List,
        504,
        &recorded("errors/504.json"),
        Some(2),
    );
    scene
        .server
        .fail("networkpolicies", Of::List, 503, "not yet", Some(1));
    scene.start("");
    scene.follows("a", 1);
    scene.server.fail(
        "pods",
        Of::Watch,
        504,
        &recorded("errors/504.json"),
        Some(2),
    );
    scene.server.fail("pods", Of::Watch, 500, "oops", Some(1));
    scene.server.reset("pods");
    eventually("the errors are over", HUNG, || {
        (scene.server.faults("pods") == 0).then_some(())
    });
    scene.follows("b", 2);
    for code in [429, 504] {
        let line = format!("podswitch_agent_api_errors_total{{kind=\"Pod\",code=\"{code}\"}}");
        assert!(
            scene.agent().metric(&line).is_some_and(|n| n >= 1.0),
            "{line}"
        );
    }
    assert!(scene.pod("a").is_some());
}

#[test]
fn a_kind_that_may_not_be_read_is_left_as_it_is() {
    let mut scene = Scene::new();
    let policy = json!({"kind": "network_policy", "namespace": "shop", "name": "kept", "spec": {"podSelector": {}}});
    scene.node.apply(&[set(policy)]);
    scene.server.fail(
        "networkpolicies",
        Of::Both,
        403,
        &recorded("errors/403.json"),
        None,
    );
    scene.agent = Some(Agent::start(&scene.node, &scene.server, ""));
    scene.follows("a", 1);
    let ready = scene.agent().get("/readyz").map(|(status, _)| status);
    assert_eq!(ready, Some(503), "policies may be missing");
    assert_eq!(scene.node.get("network_policy", &json!({})).len(), 1);
    assert!(
        scene
            .agent()
            .log()
            .contains("networkpolicies.networking.k8s.io is forbidden")
    );
    scene.server.lift("networkpolicies");
    eventually("it is the cluster's again", 2 * HUNG, || {
        scene
            .node
            .get("network_policy", &json!({}))
            .is_empty()
            .then_some(())
    });
    scene.agent().ready();
}

#[test]
fn kinds_of_a_definition_come_and_go_with_it() {
    let mut scene = Scene::new();
    let policy = "clusternetworkpolicies";
    let here = |scene: &Scene| scene.node.get("cluster_network_policy", &json!({})).len();
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    scene.node.apply(&[set(
        json!({"kind": "cluster_network_policy", "name": "old", "spec": spec}),
    )]);
    scene
        .server
        .fail(policy, Of::Both, 404, "404 page not found\n", None);
    scene.start("");
    scene.follows("a", 1);
    assert_eq!(here(&scene), 1, "a server that starts may say so, too");
    eventually(
        "without a definition there are no policies",
        2 * HUNG,
        || (here(&scene) == 0).then_some(()),
    );
    scene.server.load(policy, &recorded_list(policy));
    scene.server.lift(policy);
    eventually("the policies are here", 2 * HUNG, || {
        (here(&scene) > 0).then_some(())
    });
}

#[test]
fn a_server_that_knows_nothing_takes_nothing_away() {
    let scene = Scene::started();
    scene.follows("a", 1);
    let code = "podswitch_agent_api_errors_total{kind=\"Pod\",code=\"404\"}";
    scene
        .server
        .fail("pods", Of::Both, 404, "404 page not found\n", None);
    scene.server.reset("pods");
    eventually("it knows no pods", HUNG, || {
        scene.agent().metric(code).filter(|n| *n >= 3.0)
    });
    assert!(scene.pod("a").is_some());
    scene.server.lift("pods");
    scene.follows("b", 2);
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    /// A number below `sides` (xorshift64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn pods_come_and_go_while_everything_fails() {
    let mut scene = Scene::started();
    let Scene { server, node, .. } = &mut scene;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for step in 0..2000u32 {
        let name = format!("p{}", dice.roll(40));
        let address = format!(
            "10.{}.{}.{}",
            200 + step / 65_536,
            step / 256 % 256,
            step % 256
        );
        let there = server
            .objects("pods")
            .iter()
            .any(|p| p["metadata"]["name"] == name.as_str());
        match dice.roll(3) {
            0 if there => server.delete("pods", "shop", &name),
            _ => server.set(
                "pods",
                pod(
                    &format!("shop/{name}"),
                    &[address],
                    &json!({"step": step.to_string()}),
                    0,
                ),
            ),
        }
        match dice.roll(200) {
            0 => server.reset("pods"),
            1 => server.compact("pods", true),
            2 => {
                server.compact("pods", false);
                server.reset("pods");
            }
            3 if server.faults("pods") == 0 => {
                server.fail("pods", Of::Both, 504, &recorded("errors/504.json"), Some(1))
            }
            4 => server.bookmark("pods"),
            5 => {
                node.kill();
                node.start();
            }
            _ => {}
        }
    }
    let brief = |p: &Value, name: &str, addresses: Value| {
        (p[name].as_str().unwrap_or("").to_owned(), addresses)
    };
    let expected: BTreeMap<String, Value> = server
        .objects("pods")
        .iter()
        .map(|p| brief(&p["metadata"], "name", json!([p["status"]["podIP"]])))
        .collect();
    eventually("the daemon has the pods that are left", 2 * HUNG, || {
        let pods = node.get("pod", &json!({}));
        let found = pods
            .iter()
            .map(|p| brief(&p["object"], "name", p["object"]["addresses"].clone()));
        (found.collect::<BTreeMap<String, Value>>() == expected).then_some(())
    });
}

#[test]
fn a_server_that_is_away_takes_nothing_with_it() {
    let mut scene = Scene::started();
    let [web, client] = scene.two_pods();
    scene.follows("a", 1);
    scene.server.stop(scene.node.netns());
    let connected = |scene: &Scene, value: f64| {
        let all = ["Pod", "Node", "NetworkPolicy"].into_iter().all(|kind| {
            let line = format!("podswitch_agent_api_connected{{kind=\"{kind}\"}}");
            scene.agent().metric(&line) == Some(value)
        });
        all.then_some(())
    };
    eventually("the agent knows", HUNG, || connected(&scene, 0.0));
    assert_eq!(
        scene.agent().get("/readyz").map(|(status, _)| status),
        Some(200)
    );
    reach(&client, &web);
    // A daemon that comes back meanwhile gets what the agent knows.
    scene.node.kill();
    scene.server.delete("pods", "shop", "a");
    scene.node.start();
    reach(&client, &web);
    assert!(scene.pod("a").is_some());
    scene.server.start_again(scene.node.netns());
    eventually("a is gone", 2 * HUNG, || {
        scene.pod("a").is_none().then_some(())
    });
    scene.follows("b", 2);
}
