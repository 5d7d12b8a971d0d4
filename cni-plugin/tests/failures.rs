// SPDX-License-Identifier: Apache-2.0
//! ADD going wrong at each of its steps: by the daemon, by the kernel, by a full disk, by SIGKILL.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::Fault;
use common::{Call, Node, links, namespace, plugin};
use podswitch_api::ErrorCode;
use podswitch_host::link;
use podswitch_host::netns;
use serde_json::{Value, json};

/// System calls by which the plugin changes anything outside itself, as strace(1) names them.
const STEPS: [&str; 11] = [
    "sendto", "sendmsg", "write", "connect", "symlink", "unlink", "unlinkat", "mkdir", "flock",
    "setns", "bpf",
];

/// Executes a call that gets SIGKILL instead of the `n`th of these system calls (strace counts each by itself); true if
/// it came to that. The plugin has one thread.
fn killed_at(call: &Call<'_>, step: &str, n: u32) -> bool {
    let mut command = Command::new("strace");
    command.args(["--quiet=all", "--output=/dev/null"]);
    command.arg(format!("--trace={step}"));
    command.arg(format!("--inject={step}:signal=SIGKILL:when={n}"));
    command.arg(plugin());
    let reply = call.run_as(&mut command, call.conf.to_string().as_bytes());
    match reply.code {
        Some(0) => false,
        // strace ends as its child did.
        None | Some(137) => true,
        _ => panic!("{step} {n}: {reply:?}"),
    }
}

/// Kills the call that `prepare` makes for a container at every step in turn; `clean` must leave nothing each time.
/// Gives the number of steps.
fn killed_everywhere(
    prepare: fn(&Node, &str, &Path) -> Value,
    command: &str,
    clean: fn(&Node, &str),
) -> u32 {
    let node = Node::new();
    let mut steps = 0;
    for step in STEPS {
        for n in 1.. {
            let netns = namespace();
            let id = format!("{step}-{n}");
            let mut call = node.call(command, &id, netns.path());
            call.conf = prepare(&node, &id, netns.path());
            let killed = killed_at(&call, step, n);
            clean(&node, &id);
            let when = format!("{command} killed at {step} number {n}");
            assert_eq!(links(&netns), Vec::<String>::new(), "in the pod, {when}");
            node.assert_clean(&when);
            if !killed {
                break;
            }
            steps += 1;
        }
    }
    println!("{command} has {steps} steps");
    steps
}

fn nothing(node: &Node, _: &str, _: &Path) -> Value {
    node.conf()
}

fn attached(node: &Node, id: &str, netns: &Path) -> Value {
    node.call("ADD", id, netns).run().result();
    node.gc(&[]).conf
}

fn del(node: &Node, id: &str) {
    node.call("DEL", id, "").run().done();
}

fn gc(node: &Node, _: &str) {
    node.gc(&["another"]).run().done();
}

#[test]
fn add_killed_before_any_step_then_del_leaves_nothing() {
    let steps = killed_everywhere(nothing, "ADD", del);
    assert!(steps > 50, "only {steps} steps were seen");
}

#[test]
fn add_killed_before_any_step_then_gc_leaves_nothing() {
    let steps = killed_everywhere(nothing, "ADD", gc);
    assert!(steps > 50, "only {steps} steps were seen");
}

#[test]
fn del_killed_before_any_step_then_del_leaves_nothing() {
    let steps = killed_everywhere(attached, "DEL", del);
    assert!(steps >= 8, "only {steps} steps were seen");
}

#[test]
fn gc_killed_before_any_step_then_gc_leaves_nothing() {
    let steps = killed_everywhere(attached, "GC", gc);
    assert!(steps >= 8, "only {steps} steps were seen");
}

/// ADD fails with this code and takes everything back.
#[track_caller]
fn fails(node: &Node, code: u64, word: &str, when: &str) {
    let netns = namespace();
    node.call("ADD", "c1", netns.path()).run().error(code, word);
    assert_eq!(links(&netns), Vec::<String>::new(), "in the pod, {when}");
    node.assert_clean(when);
}

#[test]
fn an_add_that_the_daemon_fails_is_taken_back() {
    let mut node = Node::new();
    for method in ["version", "apply"] {
        for (fault, code) in [
            (Fault::Refuse(ErrorCode::Busy), 11),
            (Fault::Refuse(ErrorCode::Unavailable), 11),
            (Fault::Refuse(ErrorCode::Limit), 100),
            (Fault::Close, 11),
            (Fault::CloseAfter, 11),
        ] {
            node.daemon.break_method(method, fault);
            let when = format!("{method} with {fault:?}");
            fails(&node, code, "podswitchd", &when);
            node.daemon.heal();
        }
    }
    node.daemon.stop();
    fails_without_daemon(&node);
}

fn fails_without_daemon(node: &Node) {
    let netns = namespace();
    let reply = node.call("ADD", "c1", netns.path()).run();
    reply.error(11, &node.dir.path().join("s").to_string_lossy());
    assert!(links(&netns).is_empty() && node.leases().is_empty());
}

#[test]
fn a_port_whose_answer_was_lost_is_taken_back() {
    let node = Node::new();
    node.daemon.break_once("apply", Fault::CloseAfter);
    fails(&node, 11, "closed by the daemon", "after the lost answer");
    assert_eq!(node.daemon.asked(), ["version", "apply", "get", "apply"]);
}

#[test]
fn a_port_that_an_add_cannot_take_back_keeps_its_addresses() {
    let node = Node::new();
    let netns = namespace();
    node.daemon.break_once("apply", Fault::CloseAfter);
    node.daemon
        .break_method("get", Fault::Refuse(ErrorCode::Busy));
    let reply = node.call("ADD", "c1", netns.path()).run();
    reply.error(11, "could not be taken back");
    assert!(links(&netns).is_empty());
    assert_eq!((node.daemon.ports().len(), node.leases().len()), (1, 2));
    node.daemon.heal();
    node.call("DEL", "c1", "").run().done();
    node.assert_clean("after DEL");
}

#[test]
fn an_address_of_another_port_is_the_daemons_to_refuse() {
    let node = Node::new();
    let pod = node.pod("a");
    let lease = node
        .dir
        .path()
        .join("leases/net")
        .join(pod.ips()[0].to_string());
    std::fs::remove_file(lease).unwrap();
    let netns = namespace();
    let add = node.call("ADD", "b", netns.path());
    let add = add.with(|conf| conf["runtimeConfig"] = json!({"ips": [pod.ips()[0].to_string()]}));
    add.run().error(100, &pod.ips()[0].to_string());
    assert!(links(&netns).is_empty());
    assert_eq!(node.leases(), pod.ips()[1..]);
    assert_eq!(node.daemon.ports().len(), 1);
}

#[test]
fn a_namespace_that_vanishes_leaves_nothing() {
    let node = Node::new();
    for (method, replaced) in [("version", false), ("version", true), ("apply", false)] {
        let netns = namespace();
        let name = netns.name().to_owned();
        node.daemon.before(method, move || {
            assert!(netns::delete(&name).unwrap());
            if replaced {
                netns::create(&name).unwrap();
            }
        });
        let reply = node.call("ADD", "c1", netns.path()).run();
        match (method, replaced) {
            ("version", false) => drop(reply.error(3, "does not exist")),
            ("version", true) => drop(reply.error(3, "taken the place")),
            // Held open by the plugin, it lives to the end of the ADD; the pair goes with it.
            _ => drop(reply.result()),
        }
        if method == "version" {
            node.assert_clean("after the failed ADD");
        }
        node.call("DEL", "c1", "").run().done();
        node.assert_clean("after DEL");
    }
}

#[test]
fn an_interface_deleted_under_the_plugin_is_no_obstacle_to_taking_back() {
    let node = Node::new();
    let mut socket = node.netns.socket().unwrap();
    let host = podswitch_cni::attach::host_name("c1", "eth0");
    node.daemon
        .before("apply", move || link::delete(&mut socket, &host).unwrap());
    node.daemon
        .break_method("apply", Fault::Refuse(ErrorCode::Unavailable));
    fails(&node, 11, "told to refuse", "with the interface gone");
}

/// A file system of five files, gone when dropped.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(path: &Path) -> Tiny {
        std::fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,nr_inodes=5", "tmpfs"]);
        assert!(mount.arg(path).status().unwrap().success());
        Tiny(path.to_owned())
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_under_the_leases_is_named_and_del_works_on_it() {
    const FULL: &str = "No space left on device";
    let node = Node::new();
    let disk = Tiny::mount(&node.dir.path().join("leases"));
    // Two folders, the lock, and one family's lease and pointer: there is no room for the other's.
    fails(&node, 5, FULL, "on the full disk");
    node.plain("STATUS").run().done();
    let v4 = |conf: &mut Value| conf["ipam"]["ranges"] = json!([[{"subnet": "10.1.0.0/24"}]]);
    let pod = node.pod_of("c2", |c| c.with(v4));
    node.plain("STATUS").run().error(50, FULL);
    fails_with_nothing(&node, FULL);
    node.again("CHECK", &pod).run().done();
    node.again("DEL", &pod).run().done();
    node.assert_clean("after DEL");
    let pod = node.pod_of("c3", |c| c.with(v4));
    node.gc(&[]).run().done();
    assert!(links(&pod.netns).is_empty());
    node.assert_clean("after GC");
    drop(disk);
}

fn fails_with_nothing(node: &Node, word: &str) {
    let netns = namespace();
    node.call("ADD", "c1", netns.path()).run().error(5, word);
    assert!(links(&netns).is_empty());
    assert_eq!(node.leases().len(), 1);
}

#[test]
fn a_result_that_nobody_takes_is_a_failure_that_del_clears() {
    let node = Node::new();
    let netns = namespace();
    let add = node.call("ADD", "c1", netns.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" > /dev/full"]).arg(plugin());
    let reply = add.run_as(&mut shell, add.conf.to_string().as_bytes());
    assert_eq!(reply.code, Some(1), "{reply:?}");
    assert!(reply.stderr.contains("standard output"), "{reply:?}");
    node.call("DEL", "c1", "").run().done();
    assert!(links(&netns).is_empty());
    node.assert_clean("after DEL");
}

#[test]
fn calls_all_at_once_do_not_disturb_each_other() {
    const PODS: usize = 16;
    let node = Node::new();
    let pods: Vec<common::Pod> = std::thread::scope(|scope| {
        let node = &node;
        let adding: Vec<_> = (0..PODS)
            .map(|i| scope.spawn(move || node.pod(&format!("c{i}"))))
            .collect();
        adding.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let all: BTreeSet<_> = pods.iter().flat_map(|p| p.ips()).collect();
    assert_eq!(all.len(), 2 * PODS);
    let (going, staying) = pods.split_at(PODS / 2);
    let ids: Vec<String> = (0..PODS).map(|i| format!("c{i}")).collect();
    std::thread::scope(|scope| {
        let (node, ids) = (&node, &ids);
        for (gone, stays) in going.iter().zip(staying) {
            scope.spawn(move || node.again("DEL", gone).run().done());
            scope.spawn(move || node.again("CHECK", stays).run().done());
        }
        // New ones come while a collection that knows them runs beside.
        scope.spawn(move || drop(node.pod("new")));
        let known: Vec<&str> = ids.iter().map(String::as_str).chain(["new"]).collect();
        scope.spawn(move || node.gc(&known).run().done());
    });
    node.call("DEL", "new", "").run().done();
    assert_eq!(node.daemon.ports().len(), PODS / 2);
    let left: BTreeSet<_> = staying.iter().flat_map(|p| p.ips()).collect();
    assert_eq!(node.leases().into_iter().collect::<BTreeSet<_>>(), left);
}
