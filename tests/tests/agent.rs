// SPDX-License-Identifier: Apache-2.0
//! podswitch-agent, as a process, between a Kubernetes API server that answers as a real one did and the real podswitchd: the daemon has what the cluster
//! says, whatever fails on the way, and keeps it while nobody says anything.

use std::net::{Ipv4Addr, Ipv6Addr};

use podswitch_tests::agent::{Agent, attached, cleanup, namespace, network_policy, pod};
use podswitch_tests::agent_scene::{Scene, by_hand, described};
use podswitch_tests::api_server::{ApiServer, Of, RECORDED, recorded};
use podswitch_tests::objects::set;
use podswitch_tests::traffic::{ping, ping_once};
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::{Value, json};

/// Kinds that are watched.
const WATCHED: [&str; 7] = [
    "nodes",
    "namespaces",
    "pods",
    "services",
    "endpointslices",
    "networkpolicies",
    "clusternetworkpolicies",
];

/// Whether two addresses of a pod answer another.
fn reach(from: &Pod, to: &Pod) {
    ping(&from.netns, to.v4());
    ping(&from.netns, to.v6());
}

#[track_caller]
fn is_cut(from: &Pod, to: &Pod) {
    for address in [to.v4(), to.v6()] {
        eventually(&format!("{address} is cut off"), HUNG, || {
            (!ping_once(&from.netns, address, 56, 1)).then_some(())
        });
    }
}

#[test]
fn the_recorded_cluster() {
    let node = Node::new(NodeConfig::default());
    let server = ApiServer::with_recorded(node.netns(), "-before");
    // An object that the cluster does not have, and one that is none of the cluster's.
    node.apply(&[
        set(json!({"kind": "namespace", "name": "gone"})),
        set(json!({"kind": "route", "prefix": "10.9.0.0/16", "type": "blackhole"})),
    ]);
    let agent = Agent::start(&node, &server, "");
    agent.ready();
    assert_eq!(described(&node), by_hand("-before"));
    assert_eq!(
        node.get("route", &json!({})).len(),
        1,
        "routes are not the agent's here"
    );
    // Everything that happened, in the order of the versions.
    let mut lines: Vec<(u64, &str, String)> = Vec::new();
    for plural in RECORDED {
        for line in recorded(&format!("watch/{plural}.jsonl")).lines() {
            let event: Value = serde_json::from_str(line).expect("an event");
            let version = event["object"]["metadata"]["resourceVersion"].as_str();
            let version = version.and_then(|v| v.parse().ok()).expect("a version");
            lines.push((version, plural, line.to_owned()));
        }
    }
    lines.sort();
    let scenario = 816;
    for (_, plural, line) in lines.iter().filter(|(version, ..)| *version <= scenario) {
        server.replay(plural, line);
    }
    let expected = by_hand("");
    eventually("the daemon has the scenario", HUNG, || {
        (described(&node) == expected).then_some(())
    });
    for (_, plural, line) in lines
        .iter()
        .filter(|(version, ..)| *version > scenario && *version <= 933)
    {
        server.replay(plural, line);
    }
    let expected = by_hand("-after");
    eventually("the daemon has what is left", HUNG, || {
        (described(&node) == expected).then_some(())
    });
    for kind in ["Pod", "NetworkPolicy"] {
        let line = format!("podswitch_agent_events_total{{kind=\"{kind}\",type=\"apply\"}}");
        assert!(agent.metric(&line).is_some_and(|n| n > 0.0), "{line}");
    }
    agent.terminate();
    assert_eq!(
        described(&node),
        expected,
        "an agent that ends takes nothing away"
    );
}

#[test]
fn a_policy_is_in_force_as_soon_as_the_cluster_has_it() {
    let scene = Scene::started();
    let [web, client] = scene.two_pods();
    reach(&client, &web);
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]});
    scene
        .server
        .set("networkpolicies", network_policy("shop/closed", &spec));
    is_cut(&client, &web);
    let mut open = spec.clone();
    open["ingress"] = json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]);
    scene
        .server
        .set("networkpolicies", network_policy("shop/closed", &open));
    reach(&client, &web);
    // The client is somebody else now.
    scene.server.set(
        "pods",
        attached("shop/client", &client, &json!({"app": "other"})),
    );
    is_cut(&client, &web);
    scene.server.delete("networkpolicies", "shop", "closed");
    reach(&client, &web);
}

#[test]
fn events_that_come_twice_or_late() {
    let scene = Scene::started();
    scene.follows("a", 1);
    let old = scene.server.object("pods", "shop", "a");
    scene.follows("a", 2);
    let new = scene.server.object("pods", "shop", "a");
    scene.server.send("pods", "MODIFIED", &old);
    scene.server.send("pods", "DELETED", &old);
    scene.server.send("pods", "MODIFIED", &new);
    scene.server.bookmark("pods");
    scene.follows("b", 3);
    scene.has("a", "10.244.9.2");
    scene.server.delete("pods", "shop", "a");
    scene.server.send("pods", "MODIFIED", &new);
    scene.follows("c", 4);
    assert_eq!(scene.pod("a"), None);
}

#[test]
fn an_address_is_that_of_the_pod_that_lives() {
    let scene = Scene::started();
    let address = ["10.244.9.1".to_owned()];
    let addresses = |name: &str| scene.pod(name).map(|p| p["addresses"].clone());
    let old = pod("shop/old", &address, &json!({}), 1);
    scene.server.set("pods", old.clone());
    scene.has("old", &address[0]);
    let mut new = pod("shop/new", &address, &json!({}), 2);
    scene.server.set("pods", new.clone());
    scene.has("new", &address[0]);
    eventually("old has it no longer", HUNG, || {
        (addresses("old") == Some(Value::Null)).then_some(())
    });
    // An older object that says something once more does not get it back; only when the newer one is over it does.
    let mut again = old;
    again["metadata"]["labels"] = json!({"a": "b"});
    scene.server.set("pods", again);
    scene.follows("other", 2);
    assert_eq!(addresses("old"), Some(Value::Null));
    new["status"]["phase"] = json!("Succeeded");
    scene.server.set("pods", new);
    scene.has("old", &address[0]);
    assert_eq!(addresses("new"), Some(Value::Null));
}

#[test]
fn a_daemon_that_comes_back_gets_everything() {
    let mut scene = Scene::started();
    let [web, client] = scene.two_pods();
    reach(&client, &web);
    for orderly in [true, false] {
        match orderly {
            true => scene.node.terminate(),
            false => scene.node.kill(),
        }
        let name = format!("p{orderly}");
        let object = pod(
            &format!("shop/{name}"),
            &["10.244.9.1".to_owned()],
            &json!({}),
            u32::from(orderly),
        );
        scene.server.set("pods", object);
        scene.node.start();
        eventually("the daemon has what has come meanwhile", HUNG, || {
            scene.pod(&name)
        });
        reach(&client, &web);
    }
    // One that has forgotten everything but its pods.
    let gone = described(&scene.node);
    scene.node.terminate();
    std::fs::remove_dir_all(scene.node.state_dir()).expect("the daemon's state");
    scene.node.start();
    eventually("all of it is back", HUNG, || {
        (described(&scene.node) == gone).then_some(())
    });
}

#[test]
fn an_agent_that_comes_back_finds_what_has_changed() {
    let mut scene = Scene::started();
    let [web, client] = scene.two_pods();
    scene.follows("a", 1);
    scene.agent.take().expect("the agent runs").kill();
    reach(&client, &web);
    scene.server.delete("pods", "shop", "a");
    scene.server.set(
        "pods",
        pod("shop/b", &["10.244.9.1".to_owned()], &json!({}), 0),
    );
    let ports = scene.node.get("port", &json!({})).len();
    scene.start("");
    assert_eq!(scene.pod("a"), None);
    scene.has("b", "10.244.9.1");
    assert_eq!(
        scene.node.get("port", &json!({})).len(),
        ports,
        "ports are not the agent's"
    );
    reach(&client, &web);
}

#[test]
fn a_policy_that_cannot_be_honoured_blocks_no_other() {
    let scene = Scene::started();
    let [web, client] = scene.two_pods();
    reach(&client, &web);
    // The API server would refuse most of these; who knows what a later one takes.
    let selects = json!({"matchLabels": {"app": "web"}});
    let bad = json!({"podSelector": selects, "ingress": [{"from": [], "strange": true}]});
    scene
        .server
        .set("networkpolicies", network_policy("shop/unread", &bad));
    scene.follows("a", 1);
    is_cut(&client, &web);
    scene.server.delete("networkpolicies", "shop", "unread");
    reach(&client, &web);
    // This one is read, and the daemon refuses it.
    let bad =
        json!({"podSelector": selects, "ingress": [{"ports": [{"port": 80, "endPort": 79}]}]});
    scene
        .server
        .set("networkpolicies", network_policy("shop/refused", &bad));
    scene.follows("b", 2);
    is_cut(&client, &web);
    for (name, field) in [
        ("unread", "spec.ingress[0].strange"),
        ("refused", "spec.ingress[0].ports[0].endPort"),
    ] {
        let event = eventually("an event on the policy", HUNG, || {
            let created = scene.server.created();
            created.into_iter().find(|e| e["regarding"]["name"] == name)
        });
        let note = event["note"].as_str().expect("a note");
        assert!(note.contains(field), "{note}");
        assert_eq!(event["regarding"]["uid"], format!("uid-{name}").as_str());
    }
    let good = json!({"podSelector": selects, "ingress": [{}]});
    scene
        .server
        .set("networkpolicies", network_policy("shop/refused", &good));
    reach(&client, &web);
}

#[test]
fn refused_objects_are_left_out_of_a_whole_state() {
    let mut scene = Scene::new();
    let bad = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 79}]}]});
    for n in 0..20 {
        scene.server.set(
            "networkpolicies",
            network_policy(&format!("shop/bad{n}"), &bad),
        );
        let looped = pod(
            &format!("shop/bad{n}"),
            &[format!("127.0.0.{}", n + 1)],
            &json!({}),
            0,
        );
        scene.server.set("pods", looped);
        let good = pod(
            &format!("shop/good{n}"),
            &[format!("10.244.9.{}", n + 1)],
            &json!({}),
            0,
        );
        scene.server.set("pods", good);
    }
    scene.start("");
    assert_eq!(scene.node.get("pod", &json!({})).len(), 20);
    let policies = scene.node.get("network_policy", &json!({}));
    assert_eq!(policies.len(), 20, "each has one in its place");
    assert_eq!(
        scene.agent().metric("podswitch_agent_refused_objects"),
        Some(40.0)
    );
}

#[test]
fn nothing_is_replaced_before_every_kind_is_known() {
    let mut scene = Scene::new();
    scene
        .node
        .apply(&[set(json!({"kind": "namespace", "name": "kept"}))]);
    scene.server.fail("services", Of::List, 500, "oops", None);
    let dir = scene.node.dir().join("cni");
    std::fs::create_dir(&dir).expect("a folder");
    let template = scene.node.dir().join("template");
    let conf = json!({"cniVersion": "1.1.0", "name": "podnet", "plugins": [scene.node.conf()]});
    std::fs::write(&template, conf.to_string()).expect("write the template");
    let cni = format!("[cni]\ntemplate = {template:?}\ndir = {dir:?}\n");
    scene.agent = Some(Agent::start(&scene.node, &scene.server, &cni));
    let errors = "podswitch_agent_api_errors_total{kind=\"Service\",code=\"500\"}";
    eventually("services cannot be read", HUNG, || {
        scene.agent().metric(errors).filter(|n| *n >= 3.0)
    });
    assert_eq!(
        scene.agent().get("/healthz").map(|(status, _)| status),
        Some(200)
    );
    assert_eq!(
        scene.agent().get("/readyz").map(|(status, _)| status),
        Some(503)
    );
    let elsewhere = scene.agent().get("/elsewhere").map(|(status, _)| status);
    assert_eq!(elsewhere, Some(404));
    let namespaces = || scene.node.get("namespace", &json!({})).len();
    assert_eq!(namespaces(), 1);
    let files = || std::fs::read_dir(&dir).expect("the folder").count();
    assert_eq!(files(), 0, "the runtime is not told yet");
    scene.server.lift("services");
    scene.agent().ready();
    assert_eq!(
        scene.node.get("namespace", &json!({}))[0]["object"]["name"],
        "shop"
    );
    let written = eventually("the runtime is told", HUNG, || {
        std::fs::read_to_string(dir.join("10-podswitch.conflist")).ok()
    });
    assert_eq!(written, conf.to_string());
    scene.agent.take().expect("the agent runs").terminate();
    assert_eq!(files(), 1, "it stays");
    cleanup(&scene.node);
    assert_eq!(files(), 0);
    assert!(WATCHED.iter().all(|plural| {
        let asked = format!("/{plural}?");
        scene.server.requests().iter().any(|r| r.contains(&asked))
    }));
}

/// The aim is a cluster of 150,000 pods, 10,000 Services and 50,000 policies in 512 MiB.
#[test]
#[ignore = "takes minutes: run it by name"]
fn a_large_cluster_fits() {
    let mut scene = Scene::new();
    let (pods, services, policies) = (150_000u32, 10_000, 50_000);
    for n in 0..500 {
        scene.server.set("namespaces", namespace(&format!("ns{n}")));
    }
    for n in 0..pods {
        let addresses = [
            Ipv4Addr::from(0x0a64_0000 + n).to_string(),
            Ipv6Addr::from((0xfd00_0009 << 96) + u128::from(n) + 1).to_string(),
        ];
        let labels = json!({"app": format!("app-{}", n % 5000), "pod-template-hash": format!("h{n:x}"), "tier": "backend",
            "app.kubernetes.io/name": format!("app-{}", n % 5000), "app.kubernetes.io/part-of": format!("part-{}", n % 700)});
        let name = format!("ns{}/app-{}-{n:x}", n % 500, n % 5000);
        scene.server.set("pods", pod(&name, &addresses, &labels, 0));
    }
    for n in 0..services {
        let (namespace, name) = (format!("ns{}", n % 500), format!("svc-{n}"));
        let metadata = json!({"namespace": namespace, "name": name, "uid": name});
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
        let service = json!({"metadata": metadata, "spec": {"ports": ports, "clusterIPs": [format!("10.96.{}.{}", n / 256, n % 256)]}});
        scene.server.set("services", service);
        let endpoints: Vec<Value> = (0..15)
            .map(|i| json!({"addresses": [format!("10.100.{}.{}", n % 256, i)], "conditions": {"ready": true}}))
            .collect();
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
        scene.server.set("endpointslices", slice);
    }
    for n in 0..policies {
        let app =
            |m: u32| json!({"podSelector": {"matchLabels": {"app": format!("app-{}", m % 5000)}}});
        let spec = json!({"podSelector": app(n)["podSelector"], "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [app(n + 1), app(n + 2)], "ports": [{"port": 8080}]}],
            "egress": [{"to": [app(n + 3), {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]});
        scene.server.set(
            "networkpolicies",
            network_policy(&format!("ns{}/p{n}", n % 500), &spec),
        );
    }
    scene.agent = Some(Agent::start(&scene.node, &scene.server, ""));
    let ready = || {
        scene
            .agent()
            .get("/readyz")
            .filter(|(status, _)| *status == 200)
    };
    eventually("the agent is ready", 10 * HUNG, ready);
    let refused = scene.agent().metric("podswitch_agent_refused_objects");
    assert_eq!(refused, Some(0.0));
    let fits = |scene: &Scene| {
        let memory = scene.agent().memory() >> 20;
        eprintln!("{memory} MiB");
        assert!(memory < 512, "{memory} MiB");
    };
    fits(&scene);
    scene.follows("late", 1);
    // A daemon that comes back is given all of it again.
    scene.node.terminate();
    scene.node.start();
    let connected = "podswitch_agent_commits_total{method=\"commit\"}";
    eventually("the daemon has all of it again", 10 * HUNG, || {
        scene.agent().metric(connected).filter(|n| *n >= 2.0)
    });
    fits(&scene);
}
