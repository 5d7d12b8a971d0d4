// SPDX-License-Identifier: Apache-2.0
//! `podswitchctl doctor` on this machine, beside a node without a daemon and with one.

use podswitch_tests::programs::run as run_program;
use podswitch_tests::{HUNG, Node, NodeConfig};
use serde_json::Value;

/// Findings of this check, by their severity.
fn severities(found: &Value, check: &str) -> Vec<String> {
    let all = found.as_array().expect("a list of findings").iter();
    let of = all.filter(|f| f["check"] == check);
    of.filter_map(|f| f["severity"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn a_machine_is_looked_at_before_and_afterwards() {
    let mut node = Node::without_daemon(NodeConfig::default());
    let bin = node.dir().join("cni-bin");
    let conf = node.dir().join("cni-conf");
    for folder in [&bin, &conf] {
        std::fs::create_dir(folder).expect("a folder of the test's own");
    }
    let words = |more: &[&str]| -> Vec<String> {
        let [bin, conf] = [&bin, &conf].map(|f| f.display().to_string());
        let all = [
            "doctor",
            "-o",
            "json",
            "--cni-bin-dir",
            &bin,
            "--cni-conf-dir",
            &conf,
        ];
        all.iter().chain(more).map(|w| (*w).to_owned()).collect()
    };
    let run = |node: &Node, more: &[&str]| {
        let words = words(more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = node.ctl().run(&words);
        let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        (ended.status, found)
    };
    let (status, before) = run(&node, &[]);
    assert_eq!(status, 0, "{before:#}");
    assert_eq!(severities(&before, "kernel"), ["ok"]);
    assert_eq!(severities(&before, "podswitchd"), ["info"]);
    assert_eq!(severities(&before, "cni plugin"), ["info"]);
    let (status, missing) = run(&node, &["--installed"]);
    assert_eq!(status, 1, "{missing:#}");
    assert_eq!(severities(&missing, "podswitchd"), ["error"]);

    // Somebody else's rules, as two kinds of kube-proxy have them.
    for (script, severity) in [
        ("table ip nat {\n chain KUBE-SERVICES {\n }\n}", "warning"),
        ("delete table ip nat", "ok"),
        ("add table ip kube-proxy", "warning"),
    ] {
        let mut nft = node.netns().command("nft");
        run_program(nft.arg(script), b"", HUNG).success(script);
        let (_, found) = run(&node, &[]);
        assert_eq!(severities(&found, "kube-proxy"), [severity], "{script}");
    }

    node.start();
    let plugin = podswitch_tests::programs::bin_dir().join("podswitch-cni");
    std::os::unix::fs::symlink(plugin, bin.join("podswitch")).expect("a link");
    let text = serde_json::to_string(&node.conf()).expect("JSON");
    std::fs::write(conf.join("05-podswitch.conf"), text).expect("a file");
    let (status, after) = run(&node, &["--installed"]);
    assert_eq!(status, 0, "{after:#}");
    for check in ["podswitchd", "cni plugin", "cni configuration"] {
        assert_eq!(severities(&after, check)[0], "ok", "{after:#}");
    }
}
