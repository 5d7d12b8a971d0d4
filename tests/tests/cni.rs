// SPDX-License-Identifier: Apache-2.0
//! The plugin by the contract of CNI 1.1.0: commands, versions, chaining, capabilities, CHECK, GC, errors.

use podswitch_tests::cni::{addresses, sandbox_interface, valid_attachments};
use podswitch_tests::programs::run;
use podswitch_tests::traffic::{ping, ping_fails};
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::{Value, json};

/// Versions that the plugin speaks (0.2.0 and older have another shape of result).
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn version_names_every_version() {
    let node = Node::without_daemon(NodeConfig::default());
    let mut call = node.call("VERSION", "", "");
    call.stdin = br#"{"cniVersion":"1.0.0"}"#.to_vec();
    call.unset = vec![
        "CNI_CONTAINERID",
        "CNI_NETNS",
        "CNI_IFNAME",
        "CNI_ARGS",
        "CNI_PATH",
    ];
    let result = node.execute(&call).result();
    let supported = result["supportedVersions"]
        .as_array()
        .expect("a list")
        .clone();
    for version in VERSIONS {
        assert!(
            supported.contains(&json!(version)),
            "{version} in {supported:?}"
        );
    }
    assert!(
        !supported.contains(&json!("0.2.0")),
        "a shape that is not spoken"
    );
    assert!(result["cniVersion"].is_string());
}

#[test]
fn results_come_in_the_version_asked_for() {
    let node = Node::new(NodeConfig::default());
    for version in VERSIONS {
        let pod = node.pod_with(|conf| conf["cniVersion"] = json!(version));
        let result = &pod.result;
        assert_eq!(result["cniVersion"], version);
        let interfaces = result["interfaces"].as_array().expect("interfaces");
        let inside = sandbox_interface(result);
        assert_eq!(inside["name"], "eth0");
        assert_eq!(
            inside["sandbox"],
            pod.netns.path().to_string_lossy().as_ref()
        );
        for ip in result["ips"].as_array().expect("ips") {
            let at = usize::try_from(ip["interface"].as_u64().expect("an index")).unwrap();
            assert_eq!(
                interfaces[at], inside,
                "addresses belong to the interface in the pod"
            );
            // Up to 0.4.0 an address says its family, from 1.0.0 on it must not.
            assert_eq!(
                ip.get("version").is_some(),
                version.starts_with("0."),
                "{ip}"
            );
        }
        assert_eq!(addresses(result).len(), 2);
        let destinations: Vec<_> = result["routes"]
            .as_array()
            .expect("routes")
            .iter()
            .map(|r| r["dst"].clone())
            .collect();
        assert!(
            destinations.contains(&json!("0.0.0.0/0")) && destinations.contains(&json!("::/0")),
            "{result}"
        );
        node.delete(&pod);
    }
    let mut conf = node.conf();
    for version in ["0.2.0", "2.0.0", "one"] {
        conf["cniVersion"] = json!(version);
        let mut call = node.call("ADD", "c", "/run/netns/none");
        call.stdin = conf.to_string().into_bytes();
        let error = node.execute(&call).error();
        assert_eq!(error.code, 1, "{error:?}");
        assert!(error.mentions(version), "{error:?}");
    }
}

#[test]
fn del_is_idempotent_and_needs_neither_namespace_nor_result() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
    node.delete(&b);
    assert_eq!(b.netns.links(), Vec::<String>::new());
    assert!(node.port(&b).is_none());
    // As containerd does when it removes what it stopped.
    let call = node.call("DEL", &b.container, "");
    assert_eq!(
        node.execute(&call).result(),
        Value::Null,
        "DEL prints nothing"
    );
    node.delete(&b);
    // A container nobody has heard of, a namespace that is gone.
    let call = node.call("DEL", "never-seen", "/run/netns/not-there");
    node.execute(&call).result();
    // Without prevResult, the namespace still there.
    let call = node.call("DEL", &a.container, &a.netns.path().to_string_lossy());
    node.execute(&call).result();
    assert_eq!(a.netns.links(), Vec::<String>::new());
    assert_eq!(node.netns().links(), Vec::<String>::new());
    assert!(node.get("port", &json!({})).is_empty());
}

#[test]
fn gc_removes_all_that_is_not_valid_any_more() {
    let node = Node::new(NodeConfig::default());
    let (a, b, c) = (node.pod(), node.pod(), node.pod());
    let mut conf = node.conf();
    conf["cni.dev/valid-attachments"] = valid_attachments(&[&a.container, "another-network's"]);
    let mut call = node.call("GC", "", "");
    call.ifname = String::new();
    call.args = String::new();
    call.stdin = conf.to_string().into_bytes();
    assert_eq!(node.execute(&call).result(), Value::Null);
    assert!(node.port(&a).is_some());
    assert!(node.port(&b).is_none() && node.port(&c).is_none());
    assert_eq!(node.netns().links().len(), 1);
    node.execute_for("CHECK", &a).result();
    // Another network's attachments are none of this one's business.
    let mut other = conf.clone();
    other["name"] = json!("another-network");
    other["cni.dev/valid-attachments"] = json!([]);
    call.stdin = other.to_string().into_bytes();
    node.execute(&call).result();
    assert!(node.port(&a).is_some());
    conf["cni.dev/valid-attachments"] = json!([]);
    call.stdin = conf.to_string().into_bytes();
    node.execute(&call).result();
    assert!(node.get("port", &json!({})).is_empty());
    assert_eq!(node.netns().links(), Vec::<String>::new());
    // All addresses are free again: the first pod to come gets one, and everything works.
    let (d, e) = (node.pod(), node.pod());
    ping(&d.netns, e.v4());
}

#[test]
fn check_finds_what_is_missing() {
    let mut node = Node::new(NodeConfig::default());
    let breaks: [(&str, &str); 4] = [
        ("-4 address delete ADDRESS4/32 dev eth0", "ADDRESS4"),
        ("-6 address delete ADDRESS6/128 dev eth0", "ADDRESS6"),
        ("-4 route delete default", "0.0.0.0/0"),
        // The host end goes with it, and is looked at first.
        ("link delete eth0", "interface"),
    ];
    for (breaking, named) in breaks {
        let pod = node.pod();
        node.execute_for("CHECK", &pod).result();
        let fill = |text: &str| {
            text.replace("ADDRESS4", &pod.v4().to_string())
                .replace("ADDRESS6", &pod.v6().to_string())
        };
        pod.netns.ip(&fill(breaking));
        let error = node.execute_for("CHECK", &pod).error();
        assert!(
            error.mentions(&fill(named)),
            "after '{}': {error:?}",
            fill(breaking)
        );
        node.delete(&pod);
    }
    let pod = node.pod();
    let port = node.port_name(&pod);
    node.apply(&[podswitch_tests::objects::delete(
        json!({"kind": "port", "name": port}),
    )]);
    node.execute_for("CHECK", &pod).error();
    node.delete(&pod);

    let pod = node.pod();
    node.terminate();
    assert_eq!(
        node.execute_for("CHECK", &pod).error().code,
        11,
        "the daemon is away: try again"
    );
    node.start();
    node.execute_for("CHECK", &pod).result();
}

#[test]
fn without_the_daemon_add_is_to_be_tried_again_and_del_works() {
    let mut node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    node.terminate();
    let netns = Netns::new("pod");
    let id = node.container_id();
    let call = node.call("ADD", &id, &netns.path().to_string_lossy());
    let error = node.execute(&call).error();
    assert_eq!(error.code, 11, "{error:?}");
    assert!(
        error.mentions(&node.socket().to_string_lossy()),
        "it names the socket: {error:?}"
    );
    assert_eq!(netns.links(), Vec::<String>::new());
    // As a runtime does after a failed ADD: DEL without prevResult.
    node.execute(&node.call("DEL", &id, &netns.path().to_string_lossy()))
        .result();
    node.delete(&b);
    assert_eq!(b.netns.links(), Vec::<String>::new());
    let status = node.execute(&node.call("STATUS", "", "")).error();
    assert!([50, 51].contains(&status.code), "{status:?}");

    node.start();
    eventually("the daemon learns of the DEL", HUNG, || {
        (node.get("port", &json!({})).len() == 1).then_some(())
    });
    let result = node.execute(&call).result();
    assert_eq!(addresses(&result).len(), 2);
    ping(&netns, a.v4());
}

/// Pings that leave by a device and with its address; true if one is answered.
fn ping_through(from: &Netns, device: &str, to: std::net::IpAddr) -> bool {
    let mut ping = from.command("ping");
    ping.args(["-n", "-q", "-c", "3", "-I", device]);
    run(ping.arg(to.to_string()), b"", HUNG).status == 0
}

#[test]
fn a_second_interface_is_an_attachment_of_its_own() {
    let node = Node::new(NodeConfig::default());
    let (pod, other) = (node.pod(), node.pod());
    let mut conf = node.conf();
    conf["name"] = json!("second");
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/24"}]]);
    let mut call = node.call("ADD", &pod.container, &pod.netns.path().to_string_lossy());
    call.ifname = "net1".to_owned();
    call.stdin = conf.to_string().into_bytes();
    let result = node.execute(&call).result();
    assert_eq!(pod.netns.links(), ["eth0", "net1"]);
    // Its traffic goes its own way when it is bound to it.
    assert!(ping_through(&pod.netns, "net1", other.v4()));
    assert!(ping_through(&pod.netns, "eth0", other.v4()));
    conf["prevResult"] = result;
    call.command = "DEL".to_owned();
    call.stdin = conf.to_string().into_bytes();
    node.execute(&call).result();
    assert_eq!(pod.netns.links(), ["eth0"]);
    ping(&other.netns, pod.v4());
    // The same interface twice is an error and changes nothing.
    let call = node.call("ADD", &pod.container, &pod.netns.path().to_string_lossy());
    let error = node.execute(&call).error();
    assert!(error.mentions("eth0"), "{error:?}");
    ping(&other.netns, pod.v6());
}

#[test]
fn later_plugins_of_a_chain_pass_the_result_on() {
    let node = Node::new(NodeConfig::default());
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["10.0.0.53"]},
    });
    let pod = node.pod_with(|conf| conf["prevResult"] = previous.clone());
    let interfaces = pod.result["interfaces"].as_array().expect("interfaces");
    assert_eq!(
        interfaces[0]["name"], "lo",
        "what was there comes first: {}",
        pod.result
    );
    let ips = pod.result["ips"].as_array().expect("ips");
    assert_eq!(ips.len(), 3, "{}", pod.result);
    for ip in &ips[1..] {
        let at = usize::try_from(ip["interface"].as_u64().expect("an index")).unwrap();
        assert_eq!(
            interfaces[at]["name"], "eth0",
            "indices are those of the whole list: {}",
            pod.result
        );
    }
    assert_eq!(pod.result["dns"]["nameservers"], json!(["10.0.0.53"]));
    node.execute_for("CHECK", &pod).result();
    node.delete(&pod);
}

#[test]
fn attachments_of_two_networks_do_not_mix() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (
        node.pod_with(|c| c["vrf"] = json!(1)),
        node.pod_with(|c| c["vrf"] = json!(2)),
    );
    let c = node.pod_with(|c| c["vrf"] = json!(1));
    ping(&a.netns, c.v4());
    assert!(ping_fails(&a.netns, b.v4()), "VRF 1 must not reach VRF 2");
}
