// SPDX-License-Identifier: Apache-2.0
//! The commands by the contract: results and versions, chaining, DEL in every shape, GC.

mod common;

use std::process::Command;

use common::daemon::Fault;
use common::{Node, Pod, links, namespace, plugin};
use podswitch_api::ErrorCode;
use podswitch_host::route::Family;
use podswitch_host::{Socket, link, route};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A rtnetlink socket in the node's namespace.
fn host(node: &Node) -> Socket {
    node.netns.socket().unwrap()
}

#[test]
fn results_have_the_shape_of_the_version_asked_for() {
    let node = Node::new();
    for version in VERSIONS {
        let id = format!("c-{version}");
        let pod = node.pod_of(&id, |c| c.with(|conf| conf["cniVersion"] = json!(version)));
        let old = version < "1.0.0";
        let newest = version == "1.1.0";
        assert_eq!(pod.result["cniVersion"], version);
        assert_eq!(pod.result["interfaces"][1].get("mtu").is_some(), newest);
        for ip in pod.result["ips"].as_array().unwrap() {
            assert_eq!(ip["interface"], 1);
            assert_eq!(ip.get("version").is_some(), old, "{ip}");
        }
        if version >= "0.4.0" {
            node.again("CHECK", &pod).run().done();
        } else {
            node.again("CHECK", &pod).run().error(1, "0.4.0");
        }
        if !newest {
            let call = node.plain("STATUS");
            call.with(|conf| conf["cniVersion"] = json!(version))
                .run()
                .error(1, "1.1.0");
        }
        node.again("DEL", &pod).run().done();
    }
    node.assert_clean("after every version's DEL");
    for version in [json!("0.2.0"), json!("1.2.0"), json!("one")] {
        let call = node.call("ADD", "c", "/nowhere");
        let error = call.with(|conf| conf["cniVersion"] = version.clone()).run();
        assert_eq!(
            error.error(1, version.as_str().unwrap())["cniVersion"],
            "1.1.0"
        );
    }
}

#[test]
fn an_error_is_in_the_version_asked_for() {
    let node = Node::new();
    let call = node.call("ADD", "c", "/nowhere");
    let error = call.with(|conf| conf["cniVersion"] = json!("0.4.0")).run();
    assert_eq!(error.error(3, "/nowhere")["cniVersion"], "0.4.0");
}

#[test]
fn version_needs_nothing_but_the_command() {
    let node = Node::new();
    let mut command = Command::new(plugin());
    let names = [
        "CNI_CONTAINERID",
        "CNI_NETNS",
        "CNI_IFNAME",
        "CNI_ARGS",
        "CNI_PATH",
    ];
    for name in names {
        command.env_remove(name);
    }
    let reply = node
        .plain("VERSION")
        .run_as(&mut command, b"{\"cniVersion\":\"0.4.0\"}");
    assert_eq!(
        reply.result(),
        json!({"cniVersion": "0.4.0", "supportedVersions": VERSIONS})
    );
}

/// What the reference bridge plugin answered to a recorded ADD.
fn bridge_result() -> Value {
    json!({"cniVersion": "1.1.0",
        "interfaces": [{"mac": "32:9f:34:ec:34:b4", "name": "cni0"}, {"mac": "ce:af:42:5a:08:fa", "name": "veth2195147c"},
            {"mac": "3a:3a:b6:ca:0e:3e", "name": "eth0", "sandbox": "/run/netns/t1"}],
        "ips": [{"address": "10.244.2.12/24", "gateway": "10.244.2.1", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.2.1"}]})
}

#[test]
fn a_chain_keeps_the_earlier_result() {
    let node = Node::new();
    let pod = node.pod_of("c1", |c| {
        c.ifname("net1")
            .with(|conf| conf["prevResult"] = bridge_result())
    });
    let result = &pod.result;
    for key in ["interfaces", "ips", "routes"] {
        let (all, before) = (result[key].as_array().unwrap(), bridge_result());
        let before = before[key].as_array().unwrap();
        assert_eq!(&all[..before.len()], before);
        assert_eq!(all.len(), before.len() + 2, "{key}");
    }
    assert_eq!(result["interfaces"][4]["name"], "net1");
    for ip in &result["ips"].as_array().unwrap()[1..] {
        assert_eq!(ip["interface"], 4);
    }
    node.again("CHECK", &pod).ifname("net1").run().done();
    node.again("DEL", &pod).ifname("net1").run().done();
    node.assert_clean("after the chain's DEL");
    // The interface of this name is another plugin's work.
    let call = node
        .call("ADD", "c1", "/run/netns/t1")
        .with(|conf| conf["prevResult"] = bridge_result());
    call.run().error(4, "CNI_IFNAME");
}

#[test]
fn add_refuses_what_is_there_already() {
    let node = Node::new();
    let pod = node.pod("c1");
    let add = |id: &str| node.call("ADD", id, pod.netns.path());
    add("c2").run().error(4, "eth0");
    add("c1").run().error(4, "eth0");
    add("c1").ifname("lo").run().error(4, "lo");
    // Another namespace, the same container: the stale attachment is named, and DEL clears the way.
    let fresh = namespace();
    let again = node.call("ADD", "c1", fresh.path());
    again.run().error(4, "podswitch:net:c1:eth0");
    assert_eq!(
        node.leases(),
        pod.ips(),
        "the attachment that works is untouched"
    );
    node.again("CHECK", &pod).run().done();
    node.call("DEL", "c1", fresh.path()).run().done();
    again.run().result();
    assert_eq!(links(&fresh), ["eth0"]);
}

#[test]
fn the_nodes_own_namespace_is_no_pod() {
    let node = Node::new();
    let reply = node.call("ADD", "c1", node.netns.path()).run();
    reply.error(4, "CNI_NETNS");
    node.assert_clean("after the refusal");
    let routes = route::list(&mut host(&node), Family::V4, 254).unwrap();
    assert_eq!(routes, []);
}

#[test]
fn del_succeeds_however_often_and_with_however_little() {
    let node = Node::new();
    let (a, b, c) = (node.pod("a"), node.pod("b"), node.pod("c"));
    // As containerd calls it over CRI: stop with everything, remove with neither namespace nor result.
    node.again("DEL", &a).run().done();
    assert_eq!(links(&a.netns), Vec::<String>::new());
    node.call("DEL", "a", "").run().done();
    // Nothing but the name, the namespace still there.
    node.call("DEL", "b", "").args("junk").run().done();
    assert_eq!(links(&b.netns), Vec::<String>::new());
    // The namespace has gone before.
    let Pod { netns, .. } = c;
    drop(netns);
    node.call("DEL", "c", "/run/netns/gone").run().done();
    node.call("DEL", "never-seen", "").run().done();
    node.assert_clean("after every DEL");
}

#[test]
fn del_is_not_stopped_by_what_only_add_needs() {
    let node = Node::new();
    let pod = node.pod("c1");
    let del = node.again("DEL", &pod).with(|conf| {
        conf["mtu"] = json!("huge");
        conf["later-key"] = json!(1);
        conf["prevResult"] = json!({"ips": "none"});
        conf["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/40"}]]);
        conf["runtimeConfig"] = json!({"portMappings": [{}]});
    });
    del.run().done();
    node.assert_clean("after DEL");
}

#[test]
fn del_and_gc_work_without_the_daemon() {
    let mut node = Node::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    node.daemon.stop();
    node.again("DEL", &a).run().done();
    assert_eq!(links(&a.netns), Vec::<String>::new());
    assert_eq!(node.leases().len(), 2);
    node.gc(&[]).run().done();
    assert_eq!(links(&b.netns), Vec::<String>::new());
    assert!(node.leases().is_empty());
    assert_eq!(node.daemon.ports().len(), 2, "the daemon was not there");
    node.daemon.listen();
    node.again("DEL", &a).run().done();
    node.gc(&[]).run().done();
    node.assert_clean("after the daemon is back");
}

/// Refusals of a daemon that is there, and the code that tells them.
const REFUSALS: [(ErrorCode, u64); 3] = [
    (ErrorCode::Store, 100),
    (ErrorCode::Busy, 11),
    (ErrorCode::Unavailable, 11),
];

#[test]
fn a_port_that_stays_keeps_its_addresses() {
    let node = Node::new();
    for (fault, code) in REFUSALS {
        for method in ["get", "apply"] {
            let pod = node.pod("a");
            node.daemon.break_method(method, Fault::Refuse(fault));
            node.again("DEL", &pod).run().error(code, "told to refuse");
            assert_eq!(links(&pod.netns), Vec::<String>::new());
            assert_eq!(node.leases(), pod.ips(), "{method} refused with {fault:?}");
            node.daemon.heal();
            node.again("DEL", &pod).run().done();
            node.assert_clean("after another DEL");
        }
    }
}

#[test]
fn nobody_takes_what_only_has_the_same_name() {
    let node = Node::new();
    let pod = node.pod("a");
    // Another network with the same container and interface, as after a change of the network's name.
    let other = |command| {
        node.call(command, "a", "")
            .with(|conf| conf["name"] = json!("other"))
    };
    other("DEL").run().done();
    other("GC")
        .with(|conf| conf["cni.dev/valid-attachments"] = json!([]))
        .run()
        .done();
    node.again("CHECK", &pod).run().done();
    // An interface of that name that is nobody's veth.
    link::delete(&mut host(&node), pod.host().as_str()).unwrap();
    link::create(&mut host(&node), &pod.host(), "bridge").unwrap();
    node.again("DEL", &pod).run().done();
    node.gc(&[]).run().done();
    assert_eq!(node.links(), [pod.host()]);
}

#[test]
fn gc_removes_what_is_not_valid_of_its_own_network() {
    let node = Node::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let other = node.pod_of("o", |c| {
        c.with(|conf| {
            conf["name"] = json!("net2");
            conf["ipam"]["ranges"] = json!([[{"subnet": "10.2.0.0/24"}]]);
        })
    });
    node.gc(&["a", "b", "unknown"]).run().done();
    assert_eq!(node.daemon.ports().len(), 3);
    node.gc(&["a"]).run().done();
    assert_eq!(links(&b.netns), Vec::<String>::new());
    assert_eq!(node.daemon.ports().len(), 2);
    for pod in [&a, &other] {
        node.again("CHECK", pod).run().done();
    }
    // A front of another network's name is not its name.
    node.gc(&[])
        .with(|conf| conf["name"] = json!("ne"))
        .run()
        .done();
    node.again("CHECK", &a).run().done();
    let missing = node.plain("GC").run();
    missing.error(7, "cni.dev/valid-attachments");
    node.again("CHECK", &a).run().done();
    // libcni writes an empty list as null.
    let null = node
        .plain("GC")
        .with(|c| c["cni.dev/valid-attachments"] = Value::Null);
    null.run().done();
    assert_eq!(links(&a.netns), Vec::<String>::new());
    node.again("CHECK", &other).run().done();
    node.again("DEL", &other).run().done();
    node.assert_clean("after GC and DEL");
}

#[test]
fn gc_goes_on_and_reports_every_failure() {
    let node = Node::new();
    let pods: Vec<Pod> = ["a", "b", "c"].iter().map(|id| node.pod(id)).collect();
    for (fault, code) in REFUSALS {
        node.daemon.break_method("apply", Fault::Refuse(fault));
        let error = node.gc(&["c"]).run();
        error.error(103, "2 things");
        for pod in &pods[..2] {
            error.error(103, &pod.host());
            let left = links(&pod.netns);
            assert_eq!(left, [""; 0], "interfaces go all the same");
        }
        let kept = node.leases().len();
        assert_eq!(kept, 6, "a port that stays keeps its addresses: {fault:?}");
        node.daemon.heal();
        node.daemon.break_method("get", Fault::Refuse(fault));
        node.gc(&["c"]).run().error(code, "told to refuse");
        assert_eq!(node.leases().len(), 6, "ports not known: {fault:?}");
        node.daemon.heal();
    }
    node.gc(&["c"]).run().done();
    assert_eq!(node.leases(), pods[2].ips());
    node.again("CHECK", &pods[2]).run().done();
}

#[test]
fn bad_calls_are_refused_by_name_and_change_nothing() {
    let node = Node::new();
    let netns = namespace();
    let add = || node.call("ADD", "c1", netns.path());
    add().ifname("a b").run().error(4, "CNI_IFNAME");
    add().args("novalue").run().error(4, "CNI_ARGS");
    node.call("ADD", "../x", netns.path())
        .run()
        .error(4, "CNI_CONTAINERID");
    node.call("ADD", "c1", "").run().error(4, "CNI_NETNS");
    node.call("ADD", "c1", "/etc/hostname")
        .run()
        .error(3, "/etc/hostname");
    node.call("DANCE", "c1", "").run().error(4, "DANCE");
    for (input, code) in [
        (&b""[..], 6),
        (b"{", 6),
        (b"[]", 6),
        (b"\xff\xfe", 6),
        (b"{\"cniVersion\":7}", 7),
    ] {
        add()
            .run_as(&mut Command::new(plugin()), input)
            .error(code, "");
    }
    let big = vec![b' '; 5 << 20];
    add()
        .run_as(&mut Command::new(plugin()), &big)
        .error(6, "larger");
    for (key, value, code) in [
        ("mtu", json!(70_000), 7),
        ("socket", json!("relative"), 7),
        ("colour", json!("red"), 2),
        ("ipam", json!({"type": "../evil"}), 7),
    ] {
        let call = add().with(|conf| conf[key] = value.clone());
        let error = call.run().error(code, key);
        let shown = value.to_string().replace('{', "");
        let shown = shown.trim_end_matches('}').rsplit(':').next().unwrap();
        assert!(error["msg"].as_str().unwrap().contains(shown), "{error}");
    }
    assert!(links(&netns).is_empty());
    assert_eq!(
        node.daemon.asked(),
        [""; 0],
        "the daemon was not even asked"
    );
    node.assert_clean("after refusals");
}
