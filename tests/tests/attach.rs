// SPDX-License-Identifier: Apache-2.0
//! Taking a device: what is there already stays, what is missing is named.

use podswitch_tests::objects::{delete, set};
use podswitch_tests::programs::{bin_dir, foreign_program, run};
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// The XDP program on a device, as ip(8) shows it.
fn program(node: &Node, device: &str) -> Value {
    node.netns().ip_json(&format!("link show dev {device}"))[0]["xdp"].clone()
}

#[test]
fn a_foreign_xdp_program_is_never_replaced() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let object = foreign_program(node.dir());
    node.netns()
        .ip("link add taken0 type veth peer name taken1");
    node.netns().ip("link set taken0 up");
    node.netns().ip(&format!(
        "link set dev taken0 xdp obj {} sec xdp",
        object.display()
    ));
    let before = program(&node, "taken0");
    assert!(before["prog"]["id"].is_u64(), "{before}");
    let port = json!({"kind": "port", "name": "taken", "mac": "02:00:00:00:00:09", "addresses": ["10.9.9.9"],
        "device": {"kind": "veth", "interface": "taken0"}});
    // Refused at once, or taken up as a port that does not work: in both cases with a word on why.
    match node.rpc("apply", &json!({"changes": [set(port)]})) {
        Err(refused) => assert!(refused.to_string().contains("taken0"), "{refused}"),
        Ok(_) => {
            let shown = node.get("port", &json!({"name": "taken"}));
            assert_eq!(shown[0]["status"]["state"], "faulted", "{shown:?}");
            let message = shown[0]["status"]["message"].as_str().unwrap_or_default();
            assert!(
                message.contains("taken0") && message.to_lowercase().contains("xdp"),
                "{message}"
            );
        }
    }
    assert_eq!(program(&node, "taken0"), before);
    node.kill();
    node.start();
    assert_eq!(program(&node, "taken0"), before, "after a restart");
    node.apply(&[delete(json!({"kind": "port", "name": "taken"}))]);
    assert_eq!(program(&node, "taken0"), before, "after the port has gone");
    let mut teardown = node.netns().command(bin_dir().join("podswitchctl"));
    run(
        teardown
            .args(["teardown", "--config"])
            .arg(node.config_file()),
        b"",
        HUNG,
    )
    .success("teardown");
    assert_eq!(program(&node, "taken0"), before, "after teardown");
    assert_eq!(
        node.netns().links(),
        ["taken0", "taken1"],
        "what is not ours stays"
    );
    drop((a, b));
}

#[test]
fn a_port_whose_interface_is_not_there_says_so() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let port = json!({"kind": "port", "name": "nowhere", "mac": "02:00:00:00:00:09", "addresses": ["10.9.9.9"],
        "device": {"kind": "veth", "interface": "nowhere0"}});
    match node.rpc("apply", &json!({"changes": [set(port)]})) {
        Err(refused) => assert!(refused.to_string().contains("nowhere0"), "{refused}"),
        Ok(_) => {
            let shown = node.get("port", &json!({"name": "nowhere"}));
            assert_eq!(shown[0]["status"]["state"], "faulted", "{shown:?}");
            assert!(
                shown[0]["status"]["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("nowhere0")),
                "{shown:?}"
            );
        }
    }
    ping(&a.netns, b.v4());
}

#[test]
fn the_probe_prints_every_feature() {
    let node = Node::without_daemon(NodeConfig::default());
    let mut command = node.netns().command(bin_dir().join("podswitchd"));
    let text = run(command.arg("--probe"), b"", HUNG)
        .success("podswitchd --probe")
        .to_lowercase();
    for feature in [
        "multi-buffer",
        "transmit metadata",
        "need-wakeup",
        "fragments",
        "huge pages",
        "vlan tags",
        "native xdp",
        "generic xdp",
        "traffic-control drop",
        "cores",
        "capabilities missing",
    ] {
        assert!(text.contains(feature), "{feature} is not in\n{text}");
    }
    assert_eq!(
        node.netns().links(),
        Vec::<String>::new(),
        "a probe leaves nothing"
    );
}

#[test]
fn capture_files_are_replayed_and_recorded() {
    let node = Node::new(NodeConfig::default());
    let pod = node.pod();
    let record = node.dir().join("out.pcap");
    let port = json!({"kind": "port", "name": "capture", "mac": "02:00:00:00:00:0a", "addresses": ["10.9.9.9"],
        "device": {"kind": "pcap", "record": record}});
    node.apply(&[set(port)]);
    // Nobody answers from a file; the requests are in it.
    assert!(podswitch_tests::traffic::ping_fails(
        &pod.netns,
        "10.9.9.9".parse().unwrap()
    ));
    node.apply(&[delete(json!({"kind": "port", "name": "capture"}))]);
    eventually("the file holds the requests", HUNG, || {
        let bytes = std::fs::read(&record).unwrap_or_default();
        let wanted = [10, 9, 9, 9];
        (bytes.len() > 24 && bytes.windows(4).any(|w| w == wanted)).then_some(())
    });
}
