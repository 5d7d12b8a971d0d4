// SPDX-License-Identifier: Apache-2.0
//! podswitchd killed, and started again, while the disk under its state is full.
#![forbid(unsafe_code)]

use podswitch_tests::disk::Disk;
use podswitch_tests::objects::{rule, set};
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Node, NodeConfig, eventually};
use serde_json::{Value, json};

#[test]
fn killed_and_started_on_a_full_disk_it_serves_what_was_acknowledged() {
    let mut node = Node::without_daemon(NodeConfig::default());
    // Declared after the node, so unmounted before the node's folder is deleted.
    let disk = Disk::mount(node.state_dir(), "24M");
    node.start();
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
    let port = node.port_name(&b);
    let filler = disk.fill();
    let mut acknowledged = 0;
    let refused = eventually("a change is refused", HUNG, || {
        let many: Vec<Value> = (0..2000)
            .map(|n| {
                set(rule(
                    &format!("{acknowledged}-{n}"),
                    &port,
                    "ingress",
                    "allow",
                    &json!({}),
                ))
            })
            .collect();
        let answer = node.rpc("apply", &json!({"changes": many}));
        acknowledged += usize::from(answer.is_ok());
        answer.err()
    });
    assert_eq!(refused["code"], -32004, "{refused}");
    let rules = node.get("rule", &json!({})).len();
    assert_eq!(rules, 2000 * acknowledged);

    for _ in 0..2 {
        node.kill();
        node.start();
        ping(&a.netns, b.v4());
        ping(&b.netns, a.v6());
        assert_eq!(node.get("rule", &json!({})).len(), rules);
        assert_eq!(node.get("port", &json!({})).len(), 2);
    }
    // What it cannot store it refuses, and says why.
    let more: Vec<Value> = (0..2000)
        .map(|n| {
            set(rule(
                &format!("more-{n}"),
                &port,
                "ingress",
                "allow",
                &json!({}),
            ))
        })
        .collect();
    let error = node.rpc("apply", &json!({"changes": more})).unwrap_err();
    assert_eq!(error["code"], -32004, "{error}");

    std::fs::remove_file(filler).unwrap();
    node.apply(&more);
    let c = node.pod();
    ping(&c.netns, a.v4());
}
