// SPDX-License-Identifier: Apache-2.0
//! Bad input on the control socket and in the configuration, slow and dead clients, a full disk.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use podswitch_tests::ctl::Wire;
use podswitch_tests::disk::Disk;
use podswitch_tests::objects::{delete, rule, set};
use podswitch_tests::programs::{Ended, Running, bin_dir, run};
use podswitch_tests::traffic::ping;
use podswitch_tests::{HUNG, Netns, Node, NodeConfig, eventually};
use serde_json::{Value, json};

#[test]
fn broken_requests_are_answered_by_the_book() {
    let node = Node::new(NodeConfig::default());
    let lines: [(&[u8], i64); 12] = [
        (b"{", -32700),
        (b"nonsense", -32700),
        (b"\xff\xfe\x00", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b"\"text\"", -32600),
        (br#"{"jsonrpc":"1.0","id":1,"method":"version"}"#, -32600),
        (br#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (br#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (br#"{"jsonrpc":"2.0","id":1,"method":"dance"}"#, -32601),
        (
            br#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":"all"}}"#,
            -32602,
        ),
        (
            br#"{"jsonrpc":"2.0","id":1,"method":"get","params":{"kind":"port","extra":1}}"#,
            -32602,
        ),
    ];
    let mut wire = Wire::connect(&node.socket());
    for (line, code) in lines {
        let shown = String::from_utf8_lossy(line);
        wire.send(&[line, b"\n"].concat()).expect("send");
        let answer = wire
            .line()
            .unwrap_or_else(|| panic!("the connection was closed after {shown}"));
        assert_eq!(answer["error"]["code"], code, "{shown}: {answer}");
        assert!(
            answer["error"]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty()),
            "{shown}: {answer}"
        );
    }
    // The same connection still works, and so do requests that arrive in pieces or many at once.
    let request = br#"{"jsonrpc":"2.0","id":"x","method":"version"}"#;
    for piece in request.chunks(7) {
        wire.send(piece).expect("send");
    }
    wire.send(b"\n").expect("send");
    assert_eq!(wire.line().expect("an answer")["id"], "x");
    let many: Vec<u8> = std::iter::repeat_n([&request[..], b"\n"].concat(), 50)
        .flatten()
        .collect();
    wire.send(&many).expect("send");
    for _ in 0..50 {
        assert!(wire.line().expect("an answer")["result"]["version"].is_string());
    }
}

#[test]
fn values_out_of_range_are_refused_by_name_and_change_nothing() {
    let node = Node::new(NodeConfig::default());
    let pod = node.pod();
    let port = node.port_name(&pod);
    let veth = json!({"kind": "veth", "interface": "none0"});
    let bad: [(Value, &str); 12] = [
        (json!({"kind": "port", "name": "", "device": veth}), "name"),
        (
            json!({"kind": "port", "name": "x", "device": {"kind": "veth", "interface": "a-name-of-sixteen"}}),
            "interface",
        ),
        (
            json!({"kind": "port", "name": "x", "device": veth, "mac": "02:00"}),
            "02:00",
        ),
        (
            json!({"kind": "port", "name": "x", "device": veth, "mac": "01:00:5e:00:00:01", "addresses": ["10.0.0.1"]}),
            "mac",
        ),
        (
            json!({"kind": "port", "name": "x", "device": veth, "addresses": ["10.0.0.256"]}),
            "10.0.0.256",
        ),
        (
            json!({"kind": "port", "name": "x", "device": veth, "mtu": 65_536}),
            "mtu",
        ),
        (
            json!({"kind": "port", "name": "x", "device": veth, "color": "red"}),
            "color",
        ),
        (
            json!({"kind": "segment", "name": "s", "id": 16_777_216}),
            "id",
        ),
        (
            json!({"kind": "route", "prefix": "10.0.0.0/33"}),
            "10.0.0.0/33",
        ),
        (
            json!({"kind": "rule", "name": "r", "port": port, "direction": "up", "priority": 1, "action": "deny"}),
            "up",
        ),
        (
            rule(
                "r",
                &port,
                "ingress",
                "deny",
                &json!({"protocol": "tcp", "ports": {"first": 9, "last": 8}}),
            ),
            "ports",
        ),
        (
            rule(
                "r",
                &port,
                "ingress",
                "deny",
                &json!({"ports": {"first": 1, "last": 70_000}}),
            ),
            "70000",
        ),
    ];
    let before: Vec<Value> = ["port", "segment", "route", "rule"]
        .map(|k| json!(node.get(k, &json!({}))))
        .into();
    for (object, named) in bad {
        let refused = node
            .rpc("apply", &json!({"changes": [set(object.clone())]}))
            .expect_err("must be refused");
        assert!(
            refused.to_string().contains(named),
            "{object}: the error must name {named}: {refused}"
        );
    }
    let taken = json!({"kind": "port", "name": "thief", "device": veth, "mac": "02:00:00:00:00:01",
        "addresses": [pod.v4().to_string()]});
    let refused = node
        .rpc("apply", &json!({"changes": [set(taken)]}))
        .expect_err("a taken address");
    assert!(
        refused.to_string().contains(&pod.v4().to_string()),
        "{refused}"
    );
    let after: Vec<Value> = ["port", "segment", "route", "rule"]
        .map(|k| json!(node.get(k, &json!({}))))
        .into();
    assert_eq!(before, after);
}

#[test]
fn a_request_of_100_megabytes_is_refused_and_harms_nobody() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    let memory = || resident(node.daemon().pid());
    let before = memory();
    let mut wire = Wire::connect(&node.socket());
    let piece = vec![b'x'; 1 << 20];
    // The server may close the connection at any moment: that is its right.
    let all_sent = (0..100).all(|_| wire.send(&piece).is_ok()) && wire.send(b"\n").is_ok();
    if let Some(answer) = wire.line() {
        assert_eq!(answer["error"]["code"], -32008, "{answer}");
    } else {
        assert!(!all_sent, "everything was read, and nothing was said");
    }
    assert!(
        memory() < before + (64 << 20),
        "from {before} to {} bytes",
        memory()
    );
    ping(&a.netns, b.v4());
    assert!(node.rpc("version", &json!({})).is_ok());
}

/// Resident memory of a process in bytes.
fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .next()
        .and_then(|n| n.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

#[test]
fn slow_dead_and_many_clients_do_not_stall_the_others() {
    let node = Node::new(NodeConfig::default());
    let (a, b) = (node.pod(), node.pod());
    // One that never finishes its line, one that never reads its answers, one that is gone in the middle.
    let mut unfinished = Wire::connect(&node.socket());
    unfinished.send(br#"{"jsonrpc":"2.0","#).expect("send");
    let mut deaf = Wire::connect(&node.socket());
    let ask = [
        &br#"{"jsonrpc":"2.0","id":1,"method":"stats","params":{}}"#[..],
        b"\n",
    ]
    .concat();
    deaf.send(&ask.repeat(200)).ok();
    let mut gone = Wire::connect(&node.socket());
    gone.send(br#"{"jsonrpc":"2.0","id":1,"method":"begin"}"#)
        .expect("send");
    drop(gone);
    for _ in 0..50 {
        assert!(node.rpc("version", &json!({})).is_ok());
    }
    let c = node.pod();
    ping(&a.netns, b.v4());
    ping(&c.netns, b.v4());
    // Far more than anybody needs: the daemon bounds them and goes on.
    let mut many = Vec::new();
    for _ in 0..2000 {
        match std::os::unix::net::UnixStream::connect(node.socket()) {
            Ok(stream) => many.push(stream),
            Err(_) => break,
        }
    }
    ping(&a.netns, c.v4());
    drop(many);
    eventually("there is room again", HUNG, || {
        let stream = std::os::unix::net::UnixStream::connect(node.socket()).ok()?;
        drop(stream);
        let mut wire = Wire::connect(&node.socket());
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "version"});
        wire.send(format!("{request}\n").as_bytes()).ok()?;
        wire.line()
            .filter(|a| a.get("result").is_some())
            .map(|_| ())
    });
}

#[test]
fn the_socket_is_not_for_everybody() {
    let node = Node::new(NodeConfig::default());
    let mode = std::fs::metadata(node.socket())
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o660);
    // Somebody who may open it by its mode, but is neither root nor of its group, is refused by credentials.
    std::fs::set_permissions(node.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(node.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // The program may lie where only root may look: it is opened before root is given up.
    let copy = node.dir().join("ctl");
    std::fs::copy(bin_dir().join("podswitchctl"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    command
        .arg(copy)
        .arg("--socket")
        .arg(node.socket())
        .args(["port", "list"]);
    let ended = run(&mut command, b"", HUNG);
    assert_ne!(ended.status, 0, "{ended:?}");
    assert!(
        ended.stderr.contains("user 65534"),
        "it names who asked: {ended:?}"
    );
}

#[test]
fn members_of_the_sockets_group_are_served() {
    const GROUP: u32 = 54_321;
    let node = Node::new(NodeConfig {
        daemon: format!("socket_group = \"{GROUP}\""),
        ..NodeConfig::default()
    });
    std::fs::set_permissions(node.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = node.dir().join("ctl");
    std::fs::copy(bin_dir().join("podswitchctl"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let list = |who: &[&str]| {
        let mut command = Command::new("setpriv");
        command.arg("--reuid=65534").args(who);
        command.arg(&copy).arg("--socket").arg(node.socket());
        run(command.args(["port", "list"]), b"", HUNG)
    };
    let primary = format!("--regid={GROUP}");
    list(&[&primary, "--clear-groups"]).success("of the group");
    let supplementary = format!("--groups=7,{GROUP}");
    list(&["--regid=65534", &supplementary]).success("with the group");
    // By the mode of the socket, and with that out of the way by its own look at them, others are kept out.
    let other = ["--regid=65534", "--groups=7,54322"];
    assert_ne!(list(&other).status, 0);
    std::fs::set_permissions(node.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let refused = list(&other);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("user 65534"), "{refused:?}");
}

/// Soft and hard limit of a process's open files.
fn open_files(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = text.lines().find(|l| l.starts_with("Max open files"));
    let mut words = line.expect("the limit").split_whitespace().skip(3);
    let mut next = || words.next().and_then(|w| w.parse().ok()).expect("a number");
    (next(), next())
}

/// prlimit(1) on open files of a process, as `SOFT:HARD` or one of them.
fn limit_open_files(pid: i32, limit: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}")]);
    run(&mut command, b"", HUNG).success("prlimit");
}

#[test]
fn open_files_are_raised_to_what_is_allowed_and_too_few_are_said() {
    let node = Node::without_daemon(NodeConfig {
        daemon: "[limits]\nports = 100".to_owned(),
        ..NodeConfig::default()
    });
    let started = |limits: &str| {
        let log = std::fs::File::create(node.log_file()).unwrap();
        let mut command = node.netns().command("prlimit");
        command
            .arg(format!("--nofile={limits}"))
            .arg(bin_dir().join("podswitchd"))
            .arg("--config")
            .arg(node.config_file());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let running = Running::start(&mut command);
        let health = eventually("it is ready", HUNG, || {
            node.log().contains("podswitchd is ready").then_some(())?;
            Some(node.rpc("health", &json!({})).expect("health"))
        });
        (running, health.to_string())
    };
    let (running, health) = started("128:2048");
    assert_eq!(open_files(running.pid()), (2048, 2048));
    assert!(!health.contains("limits.ports"), "{health}");
    // A port costs no more of them than is reckoned with.
    let count = || {
        std::fs::read_dir(format!("/proc/{}/fd", running.pid()))
            .unwrap()
            .count()
    };
    let before = count();
    let pods: Vec<_> = (0..4).map(|_| node.pod()).collect();
    assert!(
        count() <= before + 5 * pods.len() + 4,
        "{before}, {}",
        count()
    );
    drop(running);

    let (_running, health) = started("128:700");
    for named in ["limits.ports", "700", "LimitNOFILE"] {
        assert!(health.contains(named), "{named}: {health}");
    }
    assert!(node.log().contains("700"), "{}", node.log());
}

#[test]
fn a_client_that_came_when_descriptors_had_run_out_is_served_later() {
    let node = Node::new(NodeConfig::default());
    let pid = node.daemon().pid();
    node.rpc("version", &json!({})).expect("it is ready");
    // More of them may not be opened, those that are open stay.
    limit_open_files(pid, "3:");
    let mut wire = Wire::connect(&node.socket());
    eventually("accepting fails", HUNG, || {
        node.log()
            .contains("accepting a client failed")
            .then_some(())
    });
    limit_open_files(pid, "1024:");
    let version = wire.call("version", &json!({})).expect("an answer");
    assert!(version["version"].is_string());
}

#[test]
fn what_is_not_used_is_freed_also_when_somebody_asks_all_the_time() {
    let node = Node::new(NodeConfig::default());
    let mut wire = Wire::connect(&node.socket());
    let mut arenas = || {
        let audit = wire.call("audit", &json!({})).expect("audit");
        audit["arenas"].as_array().expect("a list").len()
    };
    let pod = node.pod();
    assert_eq!(arenas(), 1);
    node.delete(&pod);
    eventually("memory without ports is freed", HUNG, || {
        (arenas() == 0).then_some(())
    });
}

#[test]
fn logs_are_json_when_asked_for() {
    let mut node = Node::new(NodeConfig {
        daemon: "[log]\nformat = \"json\"\nlevel = \"debug\"".to_owned(),
        ..NodeConfig::default()
    });
    let pod = node.pod();
    node.delete(&pod);
    node.rpc("apply", &json!({"changes": 1}))
        .expect_err("no list");
    node.rpc("commit", &json!({"transaction": 99}))
        .expect_err("no such transaction");
    node.terminate();
    let log = node.log();
    assert!(log.lines().count() > 5, "{log}");
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let level = entry["level"].as_str().unwrap_or_default();
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
            "{line}"
        );
        assert!(
            entry["message"].as_str().is_some_and(|m| !m.is_empty()),
            "{line}"
        );
        assert!(entry["timestamp"].is_string(), "{line}");
    }
}

/// Runs `podswitchd --check --config FILE` with a text.
fn check(node: &Node, text: &str) -> Ended {
    let file = node.dir().join("checked.toml");
    std::fs::write(&file, text).unwrap();
    run(
        Command::new(bin_dir().join("podswitchd"))
            .args(["--check", "--config"])
            .arg(file),
        b"",
        HUNG,
    )
}

#[test]
fn the_configuration_is_checked() {
    let node = Node::without_daemon(NodeConfig::default());
    let good = std::fs::read_to_string(node.config_file()).unwrap();
    check(&node, &good).success("--check");
    for (line, named) in [
        ("sokcet = \"/x\"", "sokcet"),
        ("[wrokers]\nx = 1", "wrokers"),
    ] {
        let ended = check(&node, &format!("{good}\n{line}\n"));
        assert_ne!(ended.status, 0, "{line}");
        assert!(ended.stderr.contains(named), "{line}: {}", ended.stderr);
    }
    for (from, to, named) in [
        ("workers = [0]", "workers = [4000]", "4000"),
        ("workers = [0]", "workers = []", "workers"),
        ("workers = [0]", "workers = \"all of them\"", "workers"),
        ("workers = [0]", "workers = [0, 0]", "0"),
        ("workers = [0]", "workers = [", "workers"),
    ] {
        let ended = check(&node, &good.replace(from, to));
        assert_ne!(ended.status, 0, "{to}");
        assert!(ended.stderr.contains(named), "{to}: {}", ended.stderr);
    }
    let mut missing = Command::new(bin_dir().join("podswitchd"));
    let ended = run(
        missing.args(["--check", "--config", "/nonexistent/podswitchd.toml"]),
        b"",
        HUNG,
    );
    assert_ne!(ended.status, 0);
    assert!(
        ended.stderr.contains("/nonexistent/podswitchd.toml"),
        "{}",
        ended.stderr
    );
    assert!(
        !node.socket().exists() && !node.state_dir().exists(),
        "a check touches nothing"
    );
}

#[test]
fn a_full_disk_under_the_store_refuses_changes_and_loses_none() {
    let mut node = Node::without_daemon(NodeConfig::default());
    // Declared after the node, so unmounted before the node's folder is deleted.
    let disk = Disk::mount(node.state_dir(), "24M");
    node.start();
    let (a, b) = (node.pod(), node.pod());
    ping(&a.netns, b.v4());
    let port = node.port_name(&b);
    let filler = disk.fill();
    // The store may hold some room of its own: sooner or later it is full.
    let refused = eventually("a change is refused", HUNG, || {
        let many: Vec<_> = (0..2000)
            .map(|n| set(rule(&format!("{n}"), &port, "ingress", "allow", &json!({}))))
            .collect();
        node.rpc("apply", &json!({"changes": many}))
            .err()
            .or_else(|| {
                let none: Vec<_> = (0..2000)
                    .map(|n| delete(json!({"kind": "rule", "name": n.to_string()})))
                    .collect();
                node.rpc("apply", &json!({"changes": none})).err()
            })
    });
    assert_eq!(refused["code"], -32004, "{refused}");
    let rules = node.get("rule", &json!({"name": "1"}));
    ping(&a.netns, b.v6());

    // Killed with the disk full, it comes back with what was acknowledged.
    node.kill();
    std::fs::remove_file(filler).unwrap();
    node.start();
    ping(&a.netns, b.v4());
    assert_eq!(node.get("rule", &json!({"name": "1"})).len(), rules.len());
    node.apply(&[set(rule("after", &port, "ingress", "allow", &json!({})))]);
    let c = node.pod();
    ping(&c.netns, a.v4());
}

/// Uses up the room that the store has of its own: until there is none for a single route.
fn exhaust(node: &Node) {
    for size in [2000, 200, 20, 1] {
        let mut number = 0;
        eventually("a change is refused", HUNG, || {
            number += size;
            let many: Vec<_> = (number..number + size)
                .map(|n| format!("2001:db8:{size:x}:{n:x}::/64"))
                .map(|prefix| set(json!({"kind": "route", "prefix": prefix, "type": "blackhole"})))
                .collect();
            node.rpc("apply", &json!({"changes": many})).err()
        });
    }
}

/// What podswitch may change of an interface: settings, flags, programs, filters.
fn appearance(node: &Node, interface: &str) -> Vec<String> {
    let mut all = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let dir = format!("/proc/sys/net/{family}/conf/{interface}");
        let read = || -> Vec<String> {
            let files = std::fs::read_dir(&dir).expect("its settings").flatten();
            let text = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
            files
                .map(|f| format!("{:?} {}", f.path(), text(f.path())))
                .collect()
        };
        all.extend(node.netns().run(read));
    }
    all.sort();
    let link = &node.netns().ip_json(&format!("link show dev {interface}"))[0];
    all.push(format!("{} {}", link["flags"], link["xdp"]));
    for words in [&["qdisc", "show"][..], &["filter", "show"]] {
        let mut command = node.netns().command("tc");
        command.args(words).args(["dev", interface]);
        if words[0] == "filter" {
            command.arg("ingress");
        }
        let ended = run(&mut command, b"", HUNG);
        all.push(ended.stdout);
    }
    all
}

#[test]
fn a_refused_port_leaves_somebody_elses_veth_as_it_was() {
    let mut node = Node::without_daemon(NodeConfig::default());
    let disk = Disk::mount(node.state_dir(), "24M");
    node.start();
    let plain = Netns::new("plain");
    node.netns().ip(&format!(
        "link add plain0 type veth peer name eth0 netns {}",
        plain.name()
    ));
    node.netns().ip("link set plain0 up");
    plain.ip("link set eth0 up");
    let before = appearance(&node, "plain0");
    let port = |name: &str, interface: &str, address: &str| {
        set(json!({"kind": "port", "name": name, "addresses": [address],
            "mac": "02:00:00:00:00:09", "vrf": 5, "device": {"kind": "veth", "interface": interface}}))
    };
    let filler = disk.fill();
    exhaust(&node);
    let refused = node
        .rpc(
            "apply",
            &json!({"changes": [port("p", "plain0", "10.0.0.9")]}),
        )
        .expect_err("how it was cannot be noted");
    assert_eq!(refused["code"], -32004, "{refused}");
    assert_eq!(appearance(&node, "plain0"), before);

    // Refused for what comes after it in the same request.
    std::fs::remove_file(filler).unwrap();
    let mut other = port("q", "missing0", "10.0.0.10");
    other["object"]["mac"] = json!("02:00:00:00:00:0a");
    let both = json!({"changes": [port("p", "plain0", "10.0.0.9"), other]});
    let refused = node.rpc("apply", &both).expect_err("there is no missing0");
    assert!(refused.to_string().contains("missing0"), "{refused}");
    assert_eq!(appearance(&node, "plain0"), before);

    node.apply(&[port("p", "plain0", "10.0.0.9")]);
    assert_ne!(appearance(&node, "plain0"), before);
    // Killed and started, it still knows how it was.
    node.kill();
    node.start();
    node.rpc("teardown", &json!({})).expect("teardown");
    assert_eq!(appearance(&node, "plain0"), before);
}

#[test]
fn a_pod_that_ends_while_the_disk_is_full_is_removed_later() {
    let mut node = Node::without_daemon(NodeConfig::default());
    let disk = Disk::mount(node.state_dir(), "24M");
    node.start();
    let (mut a, b) = (node.pod(), node.pod());
    let filler = disk.fill();
    exhaust(&node);
    a.netns.delete();
    let state = || node.port(&a).map(|p| p["status"].clone());
    eventually("the port is faulted", HUNG, || {
        let message = state()?["message"].as_str()?.to_owned();
        message.contains("could not be removed").then_some(())
    });
    std::fs::remove_file(filler).unwrap();
    eventually("the port is removed", HUNG, || {
        state().is_none().then_some(())
    });
    assert_eq!(node.get("port", &json!({})).len(), 1);
    ping(&b.netns, node.pod().v4());
}

#[test]
fn a_table_over_its_limit_is_refused_whole() {
    let node = Node::new(NodeConfig {
        daemon: "[limits]\nrules = 100".to_owned(),
        ..NodeConfig::default()
    });
    let (a, b) = (node.pod(), node.pod());
    let port = node.port_name(&b);
    let rules = |count: u32| -> Vec<Value> {
        (0..count)
            .map(|n| rule(&format!("{n}"), &port, "ingress", "allow", &json!({})))
            .collect()
    };
    let sets = |count: u32| -> Vec<Value> { rules(count).into_iter().map(set).collect() };
    node.apply(&sets(100));
    node.apply(
        &(0..100)
            .map(|n| delete(json!({"kind": "rule", "name": n.to_string()})))
            .collect::<Vec<_>>(),
    );
    let refused = node
        .rpc("apply", &json!({"changes": sets(101)}))
        .expect_err("101 rules");
    assert_eq!(refused["code"], -32001, "{refused}");
    assert!(
        refused.to_string().contains("100"),
        "it names the limit: {refused}"
    );
    assert!(node.get("rule", &json!({})).is_empty());

    let mut wire = Wire::connect(&node.socket());
    let begun = wire
        .call("begin", &json!({"kinds": ["rule"]}))
        .expect("begin");
    let put = wire.call(
        "put",
        &json!({"transaction": begun["transaction"], "objects": rules(101)}),
    );
    let refused = put.err().or_else(|| {
        wire.call("commit", &json!({"transaction": begun["transaction"]}))
            .err()
    });
    assert_eq!(refused.expect("101 rules")["code"], -32001);
    assert!(node.get("rule", &json!({})).is_empty());
    ping(&a.netns, b.v4());
}
