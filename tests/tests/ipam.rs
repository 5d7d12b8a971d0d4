// SPDX-License-Identifier: Apache-2.0
//! Addresses: the built-in IPAM, what a runtime asks for, delegates.

use std::path::Path;

use podswitch_tests::cni::addresses;
use podswitch_tests::traffic::ping;
use podswitch_tests::{Netns, Node, NodeConfig};
use serde_json::{Value, json};

#[test]
fn addresses_are_given_back_and_used_again() {
    let ipam = json!({"type": "podswitch", "ranges": [[{"subnet": "10.244.1.0/29"}], [{"subnet": "fd00:244:1::/125"}]]});
    let node = Node::new(NodeConfig {
        ipam,
        ..NodeConfig::default()
    });
    for _ in 0..3 {
        let mut pods = Vec::new();
        let error = loop {
            let netns = Netns::new("pod");
            let call = node.call("ADD", &node.container_id(), &netns.path().to_string_lossy());
            let reply = node.execute(&call);
            if reply.status() != 0 {
                assert_eq!(
                    netns.links(),
                    Vec::<String>::new(),
                    "a failed ADD leaves nothing in the pod"
                );
                break reply.error();
            }
            pods.push((netns, call, reply.result()));
            assert!(pods.len() <= 8, "more pods than addresses");
        };
        assert!(pods.len() >= 4, "{} pods in a /29", pods.len());
        assert!(
            error.mentions("10.244.1.0/29") || error.mentions("fd00:244:1::/125"),
            "it names the range: {error:?}"
        );
        let mut all: Vec<_> = pods
            .iter()
            .flat_map(|(_, _, result)| addresses(result))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * pods.len(), "every address once: {all:?}");
        let status = node.execute(&node.call("STATUS", "", "")).error();
        assert_eq!(status.code, 50, "exhausted: {status:?}");
        for (_, mut call, result) in pods {
            call.command = "DEL".to_owned();
            let mut conf = node.conf();
            conf["prevResult"] = result;
            call.stdin = conf.to_string().into_bytes();
            node.execute(&call).result();
        }
        assert_eq!(
            node.execute(&node.call("STATUS", "", "")).result(),
            Value::Null
        );
    }
}

#[test]
fn capabilities_are_heeded() {
    let node = Node::new(NodeConfig::default());
    let pod = node.pod_with(|conf| {
        conf["runtimeConfig"] = json!({
            "ips": ["10.244.1.77/24", "fd00:244:1::77"],
            "mac": "02:11:22:33:44:55",
            "dns": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]},
        });
    });
    assert_eq!(pod.v4(), "10.244.1.77".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(
        pod.v6(),
        "fd00:244:1::77".parse::<std::net::IpAddr>().unwrap()
    );
    assert_eq!(pod.mac(), [2, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert_eq!(pod.result["dns"]["nameservers"], json!(["10.96.0.10"]));
    assert_eq!(pod.result["dns"]["search"], json!(["svc.cluster.local"]));
    let ranged = node.pod_with(|conf| {
        conf["runtimeConfig"] =
            json!({"ipRanges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]]});
    });
    assert!(
        ranged.v4().to_string().starts_with("10.99.0."),
        "{}",
        ranged.v4()
    );
    assert!(
        ranged.v6().to_string().starts_with("fd00:99::"),
        "{}",
        ranged.v6()
    );
    ping(&ranged.netns, pod.v4());
    ping(&pod.netns, ranged.v6());
    // The same address once more is refused, by name.
    let netns = Netns::new("pod");
    let mut conf = node.conf();
    conf["runtimeConfig"] = json!({"ips": ["10.244.1.77"]});
    let mut call = node.call("ADD", &node.container_id(), &netns.path().to_string_lossy());
    call.stdin = conf.to_string().into_bytes();
    let error = node.execute(&call).error();
    assert!(error.mentions("10.244.1.77"), "{error:?}");
}

/// Writes an executable script.
fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("write a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .expect("make it executable");
}

#[test]
fn any_ipam_plugin_may_be_delegated_to() {
    // Debian's host-local, a real one; it speaks versions up to 1.0.0.
    let node = Node::new(NodeConfig {
        cni_version: "1.0.0".to_owned(),
        ..NodeConfig::default()
    });
    let ipam = json!({
        "type": "host-local",
        "dataDir": node.dir().join("leases"),
        "ranges": [[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd00:50::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let attach = |container: &str, netns: &Netns, command: &str, previous: Option<&Value>| {
        let mut conf = node.conf();
        conf["ipam"] = ipam.clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        let mut call = node.call(command, container, &netns.path().to_string_lossy());
        call.path = "/usr/lib/cni".into();
        call.stdin = conf.to_string().into_bytes();
        node.execute(&call)
    };
    let (a, b) = (Netns::new("pod"), Netns::new("pod"));
    let (result_a, result_b) = (
        attach("a", &a, "ADD", None).result(),
        attach("b", &b, "ADD", None).result(),
    );
    for to in addresses(&result_b) {
        assert!(
            to.to_string().starts_with("10.50.0.") || to.to_string().starts_with("fd00:50::"),
            "{to}"
        );
        ping(&a, to);
    }
    attach("a", &a, "CHECK", Some(&result_a)).result();
    attach("a", &a, "DEL", Some(&result_a)).result();
    attach("b", &b, "DEL", None).result();
    let leases = std::fs::read_dir(node.dir().join("leases/podnet"))
        .expect("host-local's leases")
        .flatten();
    let leases: Vec<_> = leases
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        !leases
            .iter()
            .any(|name| name.starts_with("10.") || name.starts_with("fd00")),
        "{leases:?}"
    );
    assert!(node.get("port", &json!({})).is_empty());

    // One that is not there, and one that fails: its own error comes through.
    let c = Netns::new("pod");
    let mut conf = node.conf();
    conf["ipam"] = json!({"type": "no-such-ipam"});
    let mut call = node.call("ADD", "c", &c.path().to_string_lossy());
    call.stdin = conf.to_string().into_bytes();
    let error = node.execute(&call).error();
    assert!(error.mentions("no-such-ipam"), "{error:?}");
    let plugins = node.dir().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    script(
        &plugins.join("fails"),
        "#!/bin/sh\ncat > /dev/null\necho '{\"cniVersion\":\"1.0.0\",\"code\":123,\"msg\":\"out of luck\"}'\nexit 1\n",
    );
    conf["ipam"] = json!({"type": "fails"});
    call.path = plugins;
    call.stdin = conf.to_string().into_bytes();
    let error = node.execute(&call).error();
    assert_eq!(
        (error.code, error.mentions("out of luck")),
        (123, true),
        "{error:?}"
    );
    assert_eq!(c.links(), Vec::<String>::new());
}
