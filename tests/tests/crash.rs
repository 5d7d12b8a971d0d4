// SPDX-License-Identifier: Apache-2.0
//! The plugin killed at every step, namespaces that vanish under it, calls that come all at once.

use std::path::PathBuf;
use std::time::Duration;

use podswitch_tests::cni::{Call, addresses, valid_attachments};
use podswitch_tests::programs::{Running, bin_dir, run};
use podswitch_tests::traffic::ping;
use podswitch_tests::wait::poll;
use podswitch_tests::{HUNG, Netns, Node, NodeConfig};
use serde_json::{Value, json};

/// System calls by which the plugin changes anything outside itself, as strace(1) names them.
const STEPS: [&str; 12] = [
    "sendto", "sendmsg", "write", "connect", "symlink", "rename", "unlink", "unlinkat", "mkdir",
    "flock", "setns", "bpf",
];

/// Runs a call under strace, which sends SIGKILL instead of the `n`th system call of this name (it counts each by
/// itself); true if that happened.
fn killed_at(node: &Node, call: &Call, step: &str, n: u32) -> bool {
    let plugin = call.command(node.netns(), &bin_dir().join("podswitch-cni"));
    let mut command = node.netns().command("strace");
    command.args(["--quiet=all", "--output=/dev/null"]);
    command.arg(format!("--trace={step}"));
    command.arg(format!("--inject={step}:signal=SIGKILL:when={n}"));
    command.arg(bin_dir().join("podswitch-cni"));
    for (name, value) in plugin.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let ended = run(&mut command, &call.stdin, HUNG);
    match ended.status {
        0 => false,
        137 => true,
        other => panic!(
            "{step} number {n}: status {other}: {} {}",
            ended.stdout, ended.stderr
        ),
    }
}

/// Runs `kill_at` for every step, by name and number, for as long as it kills; gives how often it did.
fn at_every_step(mut kill_at: impl FnMut(&str, u32) -> bool) -> u32 {
    let mut steps = 0;
    for step in STEPS {
        for n in 1.. {
            if !kill_at(step, n) {
                break;
            }
            steps += 1;
        }
    }
    steps
}

/// Nothing of an attachment anywhere: interfaces, leases, ports.
#[track_caller]
fn assert_gone(node: &Node, netns: &Netns, when: &str) {
    assert_eq!(netns.links(), Vec::<String>::new(), "in the pod, {when}");
    assert_eq!(
        node.netns().links(),
        Vec::<String>::new(),
        "on the node, {when}"
    );
    assert_eq!(node.leases(), Vec::<String>::new(), "leases, {when}");
    assert_eq!(
        node.get("port", &json!({})),
        Vec::<Value>::new(),
        "ports, {when}"
    );
}

/// Kills ADD at each of its steps in turn and cleans up after each with `clean`.
fn killed_everywhere(clean: impl Fn(&Node, &Call)) {
    let node = Node::new(NodeConfig::default());
    let steps = at_every_step(|step, n| {
        let netns = Netns::new("pod");
        let call = node.call("ADD", &node.container_id(), &netns.path().to_string_lossy());
        let killed = killed_at(&node, &call, step, n);
        clean(&node, &call);
        assert_gone(&node, &netns, &format!("ADD killed at {step} number {n}"));
        killed
    });
    assert!(steps > 40, "only {steps} steps were seen");
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
}

#[test]
fn add_killed_at_any_step_then_del_leaves_nothing() {
    killed_everywhere(|node, call| {
        let mut call = call.clone();
        call.command = "DEL".to_owned();
        node.execute(&call).result();
    });
}

#[test]
fn add_killed_at_any_step_then_gc_leaves_nothing() {
    killed_everywhere(|node, _| {
        let mut conf = node.conf();
        conf["cni.dev/valid-attachments"] = json!([]);
        let mut call = node.call("GC", "", "");
        call.stdin = conf.to_string().into_bytes();
        node.execute(&call).result();
    });
}

#[test]
fn del_killed_at_any_step_then_del_leaves_nothing() {
    let node = Node::new(NodeConfig::default());
    let steps = at_every_step(|step, n| {
        let pod = node.pod();
        let call = node.call("DEL", &pod.container, &pod.netns.path().to_string_lossy());
        let killed = killed_at(&node, &call, step, n);
        node.execute(&call).result();
        assert_gone(
            &node,
            &pod.netns,
            &format!("DEL killed at {step} number {n}"),
        );
        killed
    });
    assert!(steps > 5, "only {steps} steps were seen");
}

#[test]
fn a_namespace_that_vanishes_in_mid_add_leaves_nothing() {
    let node = Node::new(NodeConfig::default());
    // The namespace goes at another moment of the call in each round.
    for round in 0..25u32 {
        let mut netns = Netns::new("pod");
        let id = node.container_id();
        let path = netns.path().to_string_lossy().into_owned();
        let call = node.call("ADD", &id, &path);
        let (deleted, reply) = std::thread::scope(|scope| {
            let adding = scope.spawn(|| node.execute(&call));
            // A pause of its own length, not a wait for anything: it only moves the moment.
            let _ = poll(Duration::from_millis(2 * u64::from(round)), || None::<()>);
            netns.delete();
            (true, adding.join().expect("the plugin ends"))
        });
        assert!(deleted);
        if reply.status() != 0 {
            reply.error();
        }
        node.execute(&node.call("DEL", &id, "")).result();
        assert_eq!(node.leases(), Vec::<String>::new(), "round {round}");
        assert_eq!(
            node.get("port", &json!({})),
            Vec::<Value>::new(),
            "round {round}"
        );
        podswitch_tests::eventually("the host end goes", HUNG, || {
            node.netns().links().is_empty().then_some(())
        });
    }
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
}

#[test]
fn calls_all_at_once_do_not_disturb_each_other() {
    const PODS: usize = 24;
    let node = Node::new(NodeConfig::default());
    let pods: Vec<_> = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..PODS).map(|_| scope.spawn(|| node.pod())).collect();
        adding
            .into_iter()
            .map(|thread| thread.join().expect("ADD"))
            .collect()
    });
    let mut all: Vec<_> = pods.iter().flat_map(|pod| addresses(&pod.result)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * PODS, "every address once");
    for pair in pods.windows(2) {
        ping(&pair[0].netns, pair[1].v4());
        ping(&pair[1].netns, pair[0].v6());
    }
    // Half of them go while as many come, and a GC that knows all of the others runs beside.
    let (going, staying) = pods.split_at(PODS / 2);
    let keep: Vec<&str> = pods.iter().map(|p| p.container.as_str()).collect();
    let mut conf = node.conf();
    conf["cni.dev/valid-attachments"] = valid_attachments(&keep);
    std::thread::scope(|scope| {
        for pod in going {
            scope.spawn(|| node.delete(pod));
            scope.spawn(|| node.execute_for("CHECK", &staying[0]).result());
        }
    });
    assert_eq!(node.get("port", &json!({})).len(), staying.len());
    assert_eq!(node.leases().len(), 2 * staying.len());
    for pair in staying.windows(2) {
        ping(&pair[0].netns, pair[1].v4());
    }
    let mut gc = node.call("GC", "", "");
    gc.stdin = conf.to_string().into_bytes();
    node.execute(&gc).result();
    assert_eq!(node.get("port", &json!({})).len(), staying.len());
}

#[test]
fn a_hundred_pods_come_and_go() {
    const PODS: usize = 100;
    let node = Node::new(NodeConfig::default());
    let pods: Vec<_> = (0..PODS).map(|_| node.pod()).collect();
    assert_eq!(node.get("port", &json!({})).len(), PODS);
    for at in 0..PODS {
        ping(&pods[at].netns, pods[(at * 7 + 13) % PODS].v4());
    }
    let audit = node.rpc("audit", &json!({})).expect("audit");
    assert_eq!(audit["balanced"], true, "{audit}");
    for pod in &pods {
        node.delete(pod);
    }
    assert_eq!(node.netns().links(), Vec::<String>::new());
    assert_eq!(node.leases(), Vec::<String>::new());
    assert!(node.get("port", &json!({})).is_empty());
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v6());
}

/// A pipe in the place of standard output that nobody reads must not make a half-made pod.
#[test]
fn a_caller_that_goes_away_leaves_a_pod_that_del_removes() {
    let node = Node::new(NodeConfig::default());
    let netns = Netns::new("pod");
    let call = node.call("ADD", &node.container_id(), &netns.path().to_string_lossy());
    let stdin = node.dir().join("stdin");
    std::fs::write(&stdin, &call.stdin).unwrap();
    let full = PathBuf::from("/dev/full");
    let mut command = call.command(node.netns(), &bin_dir().join("podswitch-cni"));
    command.stdin(std::fs::File::open(stdin).unwrap());
    command.stdout(std::fs::File::options().write(true).open(full).unwrap());
    command.stderr(std::process::Stdio::null());
    let status = Running::start(&mut command).wait(HUNG);
    assert_ne!(status, 0, "a result that cannot be written is a failure");
    let mut call = call;
    call.command = "DEL".to_owned();
    node.execute(&call).result();
    assert_gone(&node, &netns, "after DEL");
}
