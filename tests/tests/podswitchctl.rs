// SPDX-License-Identifier: Apache-2.0
//! podswitchctl against the daemon of a node with pods: what it shows is what is, in every form; what it applies happens.

use podswitch_tests::objects::rule;
use podswitch_tests::traffic::{Echo, ping, tcp_connect};
use podswitch_tests::{HUNG, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// Every view and its options.
const VIEWS: [&[&str]; 9] = [
    &["port", "list"],
    &["route", "list"],
    &["neighbor", "list"],
    &["segment", "list"],
    &["fdb", "list"],
    &["rule", "list"],
    &["stats", "--section", "tables"],
    &["version"],
    &["audit"],
];

fn yaml(text: &str) -> Value {
    serde_json::to_value(serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text).unwrap()).unwrap()
}

/// Without what changes from one call to the next: counters, times, chunks that are just under way.
fn steady(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => map.values_mut().for_each(|v| *v = steady(v.take())),
        Value::Array(all) => all.iter_mut().for_each(|v| *v = steady(v.take())),
        Value::Number(_) => value = json!(0),
        _ => {}
    }
    value
}

#[test]
fn every_view_has_three_forms_that_agree() {
    let node = Node::new(NodeConfig::default());
    let pods = [node.pod(), node.pod()];
    ping(&pods[0].netns, pods[1].v4());
    let ctl = node.ctl();
    for words in VIEWS {
        let json = ctl.json(words);
        let text = ctl.run(&[&["-o", "yaml"], words].concat());
        assert_eq!(
            steady(yaml(&text.success("yaml"))),
            steady(json),
            "{words:?}"
        );
        let table = ctl.run(words).success("table");
        assert!(!table.trim().is_empty(), "{words:?}: {table:?}");
    }
    let table = ctl.run(&["port", "list"]).success("port list");
    let ports = ctl.json(&["port", "list"]);
    assert_eq!(ports.as_array().map(Vec::len), Some(2), "{ports}");
    for pod in &pods {
        let line = table.lines().find(|l| l.contains(&pod.v4().to_string()));
        let line = line.unwrap_or_else(|| panic!("{} is not in\n{table}", pod.v4()));
        assert!(
            line.contains(" up ") && line.contains(&pod.v6().to_string()),
            "{line}"
        );
    }
}

#[test]
fn top_shows_the_rates_of_what_happens() {
    let node = Node::new(NodeConfig::default());
    let pods = [node.pod(), node.pod()];
    let ports = node.ctl().json(&["port", "list"]);
    let name = ports[0]["object"]["name"].as_str().unwrap().to_owned();
    ping(&pods[0].netns, pods[1].v4());
    let top = node
        .ctl()
        .run(&["top", "-n", "2", "-i", "0.2"])
        .success("top");
    assert!(top.contains(&name), "{top}");
    let one = node
        .ctl()
        .run(&["top", "-n", "1", "-i", "0.2", "--port", "none"]);
    assert_ne!(one.status, 0, "{one:?}");
    assert!(one.stderr.contains("none"), "{one:?}");
}

#[test]
fn a_file_is_applied_and_an_impossible_one_changes_nothing() {
    let node = Node::new(NodeConfig::default());
    let (client, server) = (node.pod(), node.pod());
    let _echo = Echo::start(&server.netns, 7001);
    let ctl = node.ctl();
    let ports = ctl.json(&["port", "list", "--address", &server.v4().to_string()]);
    let port = ports[0]["object"]["name"].as_str().unwrap().to_owned();
    let reach = || tcp_connect(&client.netns, server.v4(), 7001, HUNG).is_ok();
    assert!(reach());
    let deny = |name: &str, port: &str| {
        let what = json!({"protocol": "tcp", "ports": {"first": 7001, "last": 7001}});
        rule(name, port, "ingress", "deny", &what)
    };
    let before = ctl.json(&["rule", "list"]);
    let file = format!(
        "{}\n---\n{}\n",
        deny("good", &port),
        deny("impossible", "nowhere")
    );
    let refused = ctl.run_with(&["apply", "-f", "-"], file.as_bytes());
    assert_ne!(refused.status, 0, "{refused:?}");
    for word in ["impossible", "nowhere"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    assert_eq!(ctl.json(&["rule", "list"]), before);
    assert!(reach());

    let file = deny("good", &port).to_string();
    ctl.run_with(&["apply", "-f", "-"], file.as_bytes())
        .success("apply");
    let blocked = || {
        tcp_connect(
            &client.netns,
            server.v4(),
            7001,
            std::time::Duration::from_millis(300),
        )
        .is_err()
    };
    eventually("the rule denies", HUNG, || blocked().then_some(()));
    let rules = ctl.json(&["rule", "list", "--port", &port]);
    assert_eq!(rules.as_array().map(Vec::len), Some(1), "{rules}");
    ctl.run(&["rule", "delete", "good"]).success("delete");
    eventually("it is open again", HUNG, || reach().then_some(()));
}

#[test]
fn a_service_is_kept_through_a_restart() {
    let mut node = Node::new(NodeConfig::default());
    let pod = node.pod();
    let (address, backend) = (pod.v4().to_string(), format!("{}:8080", pod.v4()));
    let add = |node: &Node, name: &str, address: &str| {
        let words = [
            "service",
            "add",
            name,
            "--port",
            "80",
            "--address",
            address,
            "--backend",
            &backend,
            "--local-backend",
            &backend,
            "--node-port",
            "30080",
            "--external-traffic",
            "local",
        ];
        node.ctl().run(&words)
    };
    add(&node, "shop/web:http:ipv4", "10.96.0.1").success("service add");
    let listed = node.ctl().json(&["service", "list"]);
    let status = json!({"kind": "service", "backends": 1, "local_backends": 1});
    assert_eq!(listed[0]["status"], status, "{listed}");
    // Neither a place that is taken nor a pod's address is a service's.
    for (address, words) in [("10.96.0.1", "shop/web:http:ipv4"), (&*address, "port ")] {
        let refused = add(&node, "other", address);
        assert_ne!(refused.status, 0, "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    node.terminate();
    node.start();
    assert_eq!(node.ctl().json(&["service", "list"]), listed);
    let name = "shop/web:http:ipv4";
    node.ctl()
        .run(&["service", "delete", name])
        .success("delete");
    assert_eq!(node.ctl().json(&["service", "list"]), json!([]));
}
