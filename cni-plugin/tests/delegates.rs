// SPDX-License-Identifier: Apache-2.0
//! Addresses from another IPAM plugin: Debian's host-local, and scripts that fail in every way.

mod common;

use std::path::{Path, PathBuf};

use common::daemon::Fault;
use common::{Call, Node, links, namespace};
use podswitch_api::ErrorCode;
use serde_json::{Value, json};

/// Lets host-local give the addresses. Debian's speaks CNI 1.0.0 at most.
fn host_local<'a>(call: Call<'a>) -> Call<'a> {
    let leases = call.node.dir.path().join("leases");
    call.path("/usr/bin:/usr/lib/cni").with(|conf| {
        conf["cniVersion"] = json!("1.0.0");
        conf["ipam"] = json!({
            "type": "host-local", "dataDir": leases,
            "ranges": [[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd00:50::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.50.0.1"}],
        });
    })
}

/// A script that notes what it is called for and then does as `body` says; with the folder it notes in.
fn script(node: &Node, body: &str) -> (PathBuf, PathBuf) {
    let notes = node.dir.path().join("notes");
    std::fs::create_dir_all(&notes).unwrap();
    let text = format!(
        "#!/bin/sh\nN={}\necho \"$CNI_COMMAND\" >> $N/commands\nenv > $N/env-$CNI_COMMAND\n{body}\n",
        notes.display()
    );
    (node.script("fake", &text), notes)
}

fn fake<'a>(call: Call<'a>, path: &Path) -> Call<'a> {
    call.path(path)
        .with(|conf| conf["ipam"] = json!({"type": "fake", "anything": [1]}))
}

fn commands(notes: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(notes.join("commands")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const ANSWER: &str = r#"cat > $N/input-$CNI_COMMAND
[ "$CNI_COMMAND" != ADD ] || echo '{"ips": [{"address": "10.60.0.5/24", "gateway": "10.60.0.1"}], "routes": null,
    "dns": {"nameservers": ["10.60.0.53"]}}'"#;

#[test]
fn host_local_gives_and_takes_back() {
    let node = Node::new();
    let (a, b) = (node.pod_of("a", host_local), node.pod_of("b", host_local));
    for pod in [&a, &b] {
        let there: Vec<_> = pod.addresses().iter().map(|a| a.ip()).collect();
        assert_eq!(there, pod.ips());
        node.again("CHECK", pod).path("/usr/lib/cni").run().done();
    }
    assert_eq!(a.ips()[0].to_string(), "10.50.0.2");
    assert_eq!(
        a.result["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "10.0.0.0/8", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"}])
    );
    assert_eq!(node.leases().len(), 4);
    std::fs::remove_file(
        node.dir
            .path()
            .join("leases/net")
            .join(a.ips()[0].to_string()),
    )
    .unwrap();
    std::fs::remove_file(
        node.dir
            .path()
            .join("leases/net")
            .join(a.ips()[1].to_string()),
    )
    .unwrap();
    node.again("CHECK", &a)
        .path("/usr/lib/cni")
        .run()
        .error(999, "host-local");
    node.again("DEL", &a).path("/usr/lib/cni").run().done();
    let again = host_local(node.call("DEL", "b", ""));
    again.run().done();
    again.run().done();
    node.assert_clean("after DEL");
}

#[test]
fn an_add_that_fails_later_gives_host_locals_addresses_back() {
    let node = Node::new();
    node.daemon
        .break_method("apply", Fault::Refuse(ErrorCode::Limit));
    let netns = namespace();
    host_local(node.call("ADD", "a", netns.path()))
        .run()
        .error(100, "told to refuse");
    assert!(links(&netns).is_empty());
    node.assert_clean("after the failed ADD");
}

#[test]
fn a_delegate_gets_what_the_plugin_got() {
    let node = Node::new();
    let (path, notes) = script(&node, ANSWER);
    let pod = node.pod_of("c1", |c| fake(c, &path));
    assert_eq!(
        pod.ips(),
        ["10.60.0.5".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(pod.result["dns"]["nameservers"], json!(["10.60.0.53"]));
    for command in ["CHECK", "DEL"] {
        node.again(command, &pod).path(&path).run().done();
    }
    fake(node.plain("STATUS"), &path).run().done();
    let gc = fake(node.gc(&["x"]), &path);
    gc.run().done();
    assert_eq!(commands(&notes), ["ADD", "CHECK", "DEL", "STATUS", "GC"]);
    let read = |name: &str| std::fs::read_to_string(notes.join(name)).unwrap();
    assert_eq!(read("input-ADD"), pod.conf.to_string(), "byte for byte");
    assert_eq!(read("input-GC"), gc.conf.to_string());
    for line in [
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
        &format!("CNI_NETNS={}", pod.netns.path().display()),
        &format!("CNI_PATH={}", path.display()),
    ] {
        assert!(read("env-ADD").lines().any(|l| l == line), "{line}");
    }
    // Commands the configuration's version does not have are not passed on.
    let old = fake(node.call("DEL", "c1", ""), &path).with(|c| c["cniVersion"] = json!("0.3.1"));
    old.run().done();
    assert_eq!(commands(&notes).len(), 6);
}

#[test]
fn whatever_a_delegate_does_wrong_is_told_and_it_is_asked_to_release() {
    let node = Node::new();
    let netns = namespace();
    for (body, code, word) in [
        (
            "cat >&2; echo '{\"code\": 123, \"msg\": \"out of luck\", \"details\": \"sorry\"}'; exit 1",
            123,
            "out of luck",
        ),
        ("echo no json; exit 3", 5, "no json"),
        ("kill -9 $$", 5, "signal: 9"),
        ("echo no json", 6, "fake"),
        ("exit 0", 6, "fake"),
        ("echo '{\"ips\": []}'", 6, "no address"),
        ("echo '{\"ips\": [{\"address\": \"10.0.0.1\"}]}'", 6, "fake"),
        (
            "echo '{\"ips\": [{\"address\": \"10.0.0.1/24\"}], \"routes\": [{\"dst\": \"10.1.0.0/16\", \"advmss\": 9}]}'",
            2,
            "advmss",
        ),
        (
            "echo '{\"ips\": [{\"address\": \"224.0.0.1/24\"}]}'",
            100,
            "224.0.0.1",
        ),
    ] {
        let body = format!("[ \"$CNI_COMMAND\" = ADD ] || exit 0\n{body}");
        let (path, notes) = script(&node, &body);
        let add = fake(node.call("ADD", "c1", netns.path()), &path);
        add.run().error(code, word);
        assert_eq!(commands(&notes), ["ADD", "DEL"], "{body}");
        assert!(links(&netns).is_empty(), "{body}");
        node.assert_clean(&body);
        std::fs::remove_dir_all(notes).unwrap();
    }
}

#[test]
fn errors_of_a_delegate_come_through_on_every_command() {
    let node = Node::new();
    let (path, _) = script(&node, ANSWER);
    let pod = node.pod_of("c1", |c| fake(c, &path));
    let fail = "echo '{\"code\": 77, \"msg\": \"not today\"}'; exit 1";
    let (path, notes) = script(&node, fail);
    for (call, code) in [
        (node.again("CHECK", &pod), 77),
        (node.again("DEL", &pod), 77),
        (fake(node.plain("STATUS"), &path), 77),
        (fake(node.gc(&[]), &path), 77),
    ] {
        call.path(&path).run().error(code, "not today");
    }
    // What could not be taken back is never said to need no DEL.
    std::fs::remove_dir_all(&notes).unwrap();
    let unknown = "echo '{\"code\": 3, \"msg\": \"who?\"}'; exit 1";
    let (path, _) = script(&node, unknown);
    let netns = namespace();
    let error = fake(node.call("ADD", "c2", netns.path()), &path).run();
    error.error(103, "who?");
    assert!(links(&netns).is_empty());
}

/// It could not be told to keep the addresses of what is left.
#[test]
fn a_delegate_collects_only_when_everything_else_has() {
    let node = Node::new();
    let (path, notes) = script(&node, ANSWER);
    let pod = node.pod_of("c1", |c| fake(c, &path));
    let gc = fake(node.gc(&[]), &path);
    for method in ["get", "apply"] {
        for (fault, code) in [(ErrorCode::Busy, 11), (ErrorCode::Store, 100)] {
            node.daemon.break_method(method, Fault::Refuse(fault));
            gc.run().error(code, "told to refuse");
            node.daemon.heal();
            assert_eq!(commands(&notes), ["ADD"], "{method} refused with {fault:?}");
        }
    }
    gc.run().done();
    assert_eq!(commands(&notes), ["ADD", "GC"]);
    assert!(links(&pod.netns).is_empty());
}

#[test]
fn a_delegate_that_is_not_there_is_named() {
    let node = Node::new();
    let netns = namespace();
    for (kind, path) in [
        ("no-such", "/usr/lib/cni"),
        ("host-local", ""),
        ("cni", "/usr/lib"),
    ] {
        let add = node.call("ADD", "c1", netns.path()).path(path);
        let add = add.with(|conf| conf["ipam"] = json!({"type": kind}));
        let error: Value = add.run().error(7, kind);
        assert!(error["msg"].as_str().unwrap().contains(path), "{error}");
    }
    assert!(links(&netns).is_empty());
}

/// Neither side may wait for the other with its pipe full.
#[test]
fn a_delegate_may_talk_much_before_it_listens() {
    let node = Node::new();
    let body = "[ \"$CNI_COMMAND\" = ADD ] || exit 0\nprintf '%200000s' ''\ncat > /dev/null\n\
                echo '{\"ips\": [{\"address\": \"10.60.0.5/24\"}]}'";
    let (path, _) = script(&node, body);
    let pod = node.pod_of("c1", |c| {
        fake(c, &path).with(|conf| conf["args"] = json!({"x": "y".repeat(300_000)}))
    });
    assert_eq!(pod.ips().len(), 1);
}
