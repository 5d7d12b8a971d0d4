// SPDX-License-Identifier: Apache-2.0
//! Calls that the plugin must refuse, by name and with the codes of CNI 1.1.0.

use podswitch_tests::{Netns, Node, NodeConfig};
use serde_json::{Value, json};

#[test]
fn bad_calls_are_refused_by_name() {
    let node = Node::new(NodeConfig::default());
    let netns = Netns::new("pod");
    let path = netns.path().to_string_lossy().into_owned();
    let good = || node.call("ADD", "bad-calls", &path);
    let refused = |call: &podswitch_tests::cni::Call, code: u64, named: &str| {
        let error = node.execute(call).error();
        assert_eq!(error.code, code, "{named}: {error:?}");
        assert!(error.mentions(named), "{named}: {error:?}");
        assert_eq!(netns.links(), Vec::<String>::new(), "{named}");
    };
    for variable in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let mut call = good();
        call.unset = vec![variable];
        refused(&call, 4, variable);
    }
    let mut call = good();
    call.command = "DANCE".to_owned();
    refused(&call, 4, "DANCE");
    call = good();
    call.container = "../../etc".to_owned();
    refused(&call, 4, "CNI_CONTAINERID");
    for ifname in ["a-name-of-sixteen", "a/b", "..", "a b", ""] {
        call = good();
        call.ifname = ifname.to_owned();
        refused(&call, 4, "CNI_IFNAME");
    }
    call = good();
    call.netns = "/run/netns/not-there".to_owned();
    let error = node.execute(&call).error();
    assert!(error.mentions("/run/netns/not-there"), "{error:?}");
    call.netns = "/etc/hostname".to_owned();
    let error = node.execute(&call).error();
    assert!(
        error.mentions("/etc/hostname"),
        "a file that is no namespace: {error:?}"
    );

    for (stdin, code) in [
        (&b""[..], 6),
        (b"{", 6),
        (b"[]", 6),
        (b"\xff\xfe", 6),
        (b"{\"cniVersion\":7}", 7),
    ] {
        call = good();
        call.stdin = stdin.to_vec();
        let error = node.execute(&call).error();
        assert!(
            [code, 7].contains(&error.code),
            "{:?}: {error:?}",
            String::from_utf8_lossy(stdin)
        );
    }
    let changes: [(&str, Value); 8] = [
        ("mtu", json!("big")),
        ("mtu", json!(70_000)),
        ("mtu", json!(-1)),
        ("socket", json!(7)),
        (
            "ipam",
            json!({"type": "podswitch", "ranges": [[{"subnet": "10.0.0.1/33"}]]}),
        ),
        ("ipam", json!({"type": "podswitch", "ranges": "all"})),
        ("ipam", json!({"type": "../evil"})),
        ("mode", json!("turbo")),
    ];
    for (key, value) in changes {
        call = good();
        let mut conf = node.conf();
        conf[key] = value;
        call.stdin = conf.to_string().into_bytes();
        refused(&call, 7, key);
    }
    // As large as a runtime's input never is: refused, or read to the end, but not hung.
    call = good();
    let mut conf = node.conf();
    conf["args"] = json!({"x": "y".repeat(20 << 20)});
    call.stdin = conf.to_string().into_bytes();
    node.execute(&call).error();
    assert!(node.get("port", &json!({})).is_empty());
}
