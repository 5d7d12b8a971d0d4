// SPDX-License-Identifier: Apache-2.0
//! podswitchctl against a daemon: objects, files, counters, exit codes.

use crate::common::{Daemon, ctl};
use serde_json::{Value, json};

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn ports_are_listed_as_a_table() {
    let daemon = Daemon::furnished();
    let text = daemon.ctl(&["port", "list"]).ok();
    assert_eq!(
        text,
        "NAME   STATE    DEVICE  MODE    WORKER   MTU  MAC                VRF/SEGMENT      ADDRESSES         POD                 HOST PORTS\n\
         db     faulted  psw2    -            0  1500  02:00:00:00:00:02  0                10.0.0.2          -                   -\n\
         left   up       psw3    native       0  1500  -                  lab vlan 10      -                 -                   -\n\
         right  up       psw4    native       0  1500  -                  lab trunk 10,20  -                 -                   -\n\
         web    up       psw1    native       0  1500  02:00:00:00:00:01  0                10.0.0.1,fd00::1  default/web-0:eth0  -\n\
         db: interface psw2 does not exist\n"
    );
    let one = daemon.ctl(&["port", "list", "--address", "10.0.0.1"]).ok();
    assert_eq!(one.lines().count(), 2, "{one}");
}

#[test]
fn every_form_of_output_says_the_same() {
    let daemon = Daemon::furnished();
    let json = read(&daemon.ctl(&["port", "list", "-o", "json"]).ok());
    assert_eq!(json.as_array().unwrap().len(), 4);
    let yaml: Value =
        serde_yaml_ng::from_str(&daemon.ctl(&["-o", "yaml", "port", "list"]).ok()).unwrap();
    assert_eq!(json, yaml);
    let one = read(&daemon.ctl(&["port", "get", "web", "-o", "json"]).ok());
    assert_eq!(
        (&one["object"]["mac"], &one["status"]["state"]),
        (&json!("02:00:00:00:00:01"), &json!("up"))
    );
    let text = daemon.ctl(&["port", "get", "web"]).ok();
    assert!(
        text.contains("pod.container_id           0f3c\n")
            && text.contains("status.state               up\n"),
        "{text}"
    );
}

#[test]
fn objects_of_every_kind_are_added_shown_and_deleted() {
    let daemon = Daemon::furnished();
    for (words, kind, key) in [
        (
            "port add new --interface psw9 --mode generic --mac 02:00:00:00:00:09 --address 10.0.0.9 --mtu 1400 --egress-default deny --host-port 8080:80 --host-port udp/192.0.2.1:53:5353",
            "port",
            "new",
        ),
        (
            "port add l2 --replay /in.pcap --record /out.pcap --segment lab --trunk 30,10",
            "port",
            "l2",
        ),
        (
            "port add up --nic eth7 --mode native --vlan 7 --vrf 3",
            "port",
            "up",
        ),
        (
            "port add other --nic eth8 --routes 254 --zero-copy 4,5 --zero-copy-shared",
            "port",
            "other",
        ),
        (
            "port add overlay --vxlan 42 --mac 02:00:00:00:00:0a --local 192.0.2.1 --local 2001:db8::1 --udp-port 8472 --udp6-zero-checksum --group-policy",
            "port",
            "overlay",
        ),
        (
            "port add vm --vhost-user /run/vm --queues 4 --gid 107 --mac 02:00:00:00:00:0b --address 10.0.0.11",
            "port",
            "vm",
        ),
        (
            "port add dpdk --vhost-user /run/dpdk --client --segment lab",
            "port",
            "dpdk",
        ),
        (
            "port add host --host --pods 10.244.1.0/24 --pods fd00::/64 --egress eth0 --except 10.0.0.0/8",
            "port",
            "host",
        ),
        (
            "route add 10.8.0.0/16 --nexthop 10.9.9.1@web --nexthop 10.9.9.2@web*3 --mtu 1300",
            "route",
            "10.8.0.0/16",
        ),
        (
            "route add 10.9.0.0/16 --port web --via 10.0.0.1 --mtu 1300",
            "route",
            "10.9.0.0/16",
        ),
        (
            "route add ::/0 --type prohibit --vrf 3",
            "route",
            "::/0 --vrf 3",
        ),
        (
            "neighbor add 10.9.0.1 --mac 02:00:00:00:00:aa --port web",
            "neighbor",
            "10.9.0.1",
        ),
        (
            "segment add other --id 9 --ageing 60 --no-learn --unknown-unicast drop --broadcast-limit 5 --max-entries 9",
            "segment",
            "other",
        ),
        (
            "fdb add lab 02:00:00:00:00:bb --port left --vlan 10",
            "fdb",
            "lab 02:00:00:00:00:bb --vlan 10",
        ),
        (
            "rule add web-in --port web --direction ingress --action allow --source 10.0.0.0/8 --protocol udp --ports 53-54",
            "rule",
            "web-in",
        ),
        (
            "group add 7 --namespace shop --label app=web --label example.com/tier=",
            "group",
            "7",
        ),
        (
            "service add shop/web:http:ipv4 --port 80 --address 10.96.0.1 --external 192.0.2.1=198.51.100.0/24,203.0.113.0/24 --external 192.0.2.2 --node-port 30080 --external-traffic local --affinity 10800 --backend 10.244.1.2:8080 --backend 10.244.2.2:8080 --local-backend 10.244.1.2:8080",
            "service",
            "shop/web:http:ipv4",
        ),
        (
            "rule add esp --port web --direction egress --action deny --protocol 50 --priority 7",
            "rule",
            "esp",
        ),
    ] {
        let split = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        let added = daemon.ctl(&split(words)).ok();
        assert!(added.contains("set, generation"), "{added}");
        assert!(
            daemon
                .ctl(&split(words))
                .ok()
                .contains("is like that already"),
            "{words}"
        );
        let get = [&[kind, "get"], split(key).as_slice(), &["-o", "json"]].concat();
        let shown = read(&daemon.ctl(&get).ok());
        let listed = read(&daemon.ctl(&[kind, "list", "-o", "json"]).ok());
        assert!(
            listed.as_array().unwrap().contains(&shown),
            "{shown} is not in {listed}"
        );
        let delete = [&[kind, "delete"], split(key).as_slice()].concat();
        assert!(
            daemon.ctl(&delete).ok().contains("deleted, generation"),
            "{delete:?}"
        );
        daemon
            .ctl(&delete)
            .fails(1, &["there is no", &format!("podswitchctl {kind} list")]);
        daemon
            .ctl(&get)
            .fails(1, &["there is no", &format!("podswitchctl {kind} list")]);
        daemon
            .ctl(&[delete, vec!["--ignore-not-found"]].concat())
            .ok();
    }
}

#[test]
fn flags_become_fields() {
    let daemon = Daemon::furnished();
    let words = "rule add r --port web --direction egress --action deny --priority 7 --destination fd00::/8 --protocol icmpv6";
    daemon.ctl(&words.split(' ').collect::<Vec<_>>()).ok();
    let shown = read(&daemon.ctl(&["rule", "get", "r", "-o", "json"]).ok());
    assert_eq!(
        shown["object"],
        json!({"kind": "rule", "name": "r", "port": "web", "direction": "egress", "priority": 7, "destination": "fd00::/8",
            "protocol": "icmpv6", "action": "deny"})
    );
    let words = "port add p --interface psw9 --segment lab --trunk 30,10,20 --ingress-default deny";
    daemon.ctl(&words.split(' ').collect::<Vec<_>>()).ok();
    let shown = read(&daemon.ctl(&["port", "get", "p", "-o", "json"]).ok());
    assert_eq!(
        shown["object"]["segment"],
        json!({"name": "lab", "vlan": {"trunk": [10, 20, 30]}})
    );
    assert_eq!(shown["object"]["ingress_default"], "deny");
    let deleted = daemon.ctl(&["port", "delete", "web"]).ok();
    assert!(
        deleted.contains("with 2 objects that hung on it"),
        "{deleted}"
    );
}

#[test]
fn a_file_is_applied_whole_or_not_at_all() {
    let daemon = Daemon::furnished();
    let file = daemon.directory().join("objects.yaml");
    let path = file.to_str().unwrap();
    let rule = |name: &str, port: &str| {
        format!(
            "---\nkind: rule\nname: {name}\nport: {port}\ndirection: egress\npriority: 1\naction: allow\n"
        )
    };
    std::fs::write(&file, rule("one", "web") + &rule("two", "nowhere")).unwrap();
    daemon.ctl(&["apply", "-f", path]).fails(
        1,
        &["rule two", "no port nowhere", "set the port before it"],
    );
    std::fs::write(&file, rule("one", "web") + &rule("two", "db")).unwrap();
    assert_eq!(
        daemon.ctl(&["apply", "-f", path]).ok(),
        "2 changed, generation 2\n"
    );
    assert_eq!(
        daemon
            .ctl(&["apply", "-f", path, "--expect-generation", "2"])
            .ok(),
        "0 changed, generation 2\n"
    );
    daemon
        .ctl(&["apply", "-f", path, "--expect-generation", "7"])
        .fails(1, &["generation 2, not 7"]);
    assert_eq!(
        daemon
            .ctl(&["apply", "-f", path, "--replace", "--kind", "rule"])
            .ok(),
        "0 added, 0 changed, 1 removed, generation 3\n"
    );
    daemon
        .ctl(&["apply", "-f", path, "--replace"])
        .fails(1, &["no port"]);
    // What is listed can be applied again.
    let listed = daemon.ctl(&["port", "list", "-o", "yaml"]).ok();
    assert_eq!(
        daemon.ctl_with(&["apply", "-f", "-"], &listed).ok(),
        "0 changed, generation 3\n"
    );
    let change = r#"{"op": "delete", "key": {"kind": "rule", "name": "one"}}"#;
    assert_eq!(
        read(
            &daemon
                .ctl_with(&["apply", "-f", "-", "-o", "json"], change)
                .ok()
        ),
        json!({"generation": 4, "changed": 1})
    );
    daemon
        .ctl_with(&["apply", "--replace", "-f", "-"], change)
        .fails(2, &["rule one", "leave the object out"]);
}

#[test]
fn a_file_that_makes_no_sense_is_named() {
    let daemon = Daemon::furnished();
    daemon
        .ctl(&["apply", "-f", "/nowhere.yaml"])
        .fails(2, &["/nowhere.yaml"]);
    for (text, words) in [
        ("", vec!["-: no object"]),
        ("a: b: c", vec!["not YAML", "line 1"]),
        ("{\"kind\": \"port\",", vec!["neither JSON"]),
        ("kind: port\nname: a\n", vec!["document 1", "device"]),
        (
            "- kind: segment\n  name: a\n  id: 1\n- kind: segment\n  name: b\n  id: 2\n  colour: red\n",
            vec!["item 2", "colour"],
        ),
    ] {
        daemon
            .ctl_with(&["apply", "-f", "-"], text)
            .fails(2, &words);
    }
}

#[test]
fn counters_are_shown() {
    let daemon = Daemon::furnished();
    let text = daemon.ctl(&["stats"]).ok();
    for part in [
        "Ports\nNAME",
        "Dropped\nREASON",
        "spoofed_mac     500",
        "Dropped by the kernel",
        "Workers\n",
        "25.0%",
        "no-ssh",
        "Policies\n",
        "shop/db  ingress       0  accept            7    518\n",
        "Tables\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json = read(&daemon.ctl(&["stats", "-o", "json"]).ok());
    assert_eq!(json["rules"][0]["packets"], 4);
    daemon
        .ctl(&["stats", "--port", "web", "--section", "ports,rules"])
        .ok();
    daemon
        .ctl(&["stats", "--port", "nowhere"])
        .fails(1, &["no such port"]);
}

#[test]
fn rates_follow_one_another_without_a_terminal() {
    let daemon = Daemon::furnished();
    let text = daemon
        .ctl(&["top", "--interval", "0.1", "--count", "2"])
        .ok();
    assert_eq!(text.matches("Rates over 1.0 s").count(), 2, "{text}");
    assert!(
        !text.contains('\x1b')
            && text.contains("1500")
            && text.contains("720.0k")
            && text.contains("spoofed_mac"),
        "{text}"
    );
    let json = daemon
        .ctl(&["top", "-i", "0.1", "-n", "3", "-o", "json"])
        .ok();
    let looks: Vec<Value> = json.lines().map(read).collect();
    assert_eq!(
        (looks.len(), &looks[2]["ports"][0]["rx_packets"]),
        (3, &json!(1500.0))
    );
    assert_eq!(looks[0]["workers"][0]["busy"], 0.25);
}

#[test]
fn versions_health_audit_and_teardown_are_told() {
    let daemon = Daemon::furnished();
    let text = daemon.ctl(&["version"]).ok();
    assert!(
        text.contains("podswitchd   9.9.9") && text.contains("169.254.1.1"),
        "{text}"
    );
    let health = daemon.ctl(&["health"]);
    assert!(
        health.out.contains("degraded: 3 of 4 ports up")
            && health.out.contains("warning: port db: interface psw2"),
        "{health:?}"
    );
    health.fails(1, &["not everything works"]);
    assert!(
        daemon
            .ctl(&["audit"])
            .ok()
            .contains("every chunk is accounted for")
    );
    let config = daemon.directory().join("c.toml");
    let text = format!(
        "socket = {:?}\nstate_dir = {:?}\nworkers = [0]\n",
        daemon.socket(),
        daemon.directory().join("state")
    );
    std::fs::write(&config, text).unwrap();
    let teardown = daemon.ctl(&["teardown", "--config", config.to_str().unwrap()]);
    assert_eq!(
        teardown.out,
        "removed interface psw1\nleft    interface psw2: it is stuck\n"
    );
    teardown.fails(1, &["left behind"]);
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    for words in [
        &["port", "list"][..],
        &["stats"],
        &["top"],
        &["health"],
        &["audit"],
        &["port", "delete", "a"],
    ] {
        ctl(&[&["--socket", "/nowhere/s"], words].concat())
            .fails(3, &["/nowhere/s", "is podswitchd running"]);
    }
    let version = ctl(&["--socket", "/nowhere/s", "version", "-o", "json"]);
    assert_eq!(read(&version.out)["client"]["protocol"], 1);
    version.fails(3, &["/nowhere/s"]);
    ctl(&["teardown", "--config", "/nowhere.toml"]).fails(2, &["/nowhere.toml", "--config"]);
}

#[test]
fn wrong_words_are_usage_errors() {
    for (words, hint) in [
        (&["port", "lits"][..], "list"),
        (&["port", "add", "a"], "--interface"),
        (
            &["port", "add", "a", "--interface", "x", "--replay", "/f"],
            "cannot be used with",
        ),
        (
            &["port", "add", "a", "--interface", "x", "--mac", "1"],
            "six hexadecimal bytes",
        ),
        (
            &["port", "add", "a", "--interface", "x", "--vlan", "3"],
            "--segment",
        ),
        (
            &[
                "rule",
                "add",
                "r",
                "--port",
                "a",
                "--direction",
                "up",
                "--action",
                "deny",
            ],
            "ingress",
        ),
        (
            &[
                "rule",
                "add",
                "r",
                "--port",
                "a",
                "--direction",
                "egress",
                "--action",
                "deny",
                "--ports",
                "9-8",
            ],
            "lower one first",
        ),
        (
            &[
                "rule",
                "add",
                "r",
                "--port",
                "a",
                "--direction",
                "egress",
                "--action",
                "deny",
                "--protocol",
                "ipx",
            ],
            "tcp, udp",
        ),
        (&["route", "add", "10.0.0.0"], "invalid"),
        (&["top", "--interval", "0"], "0.1 to 3600"),
        (&["top", "--count", "0"], "0"),
        (&["apply"], "--file"),
        (&["apply", "-f", "x", "--kind", "rule"], "--replace"),
        (&["port", "list", "-o", "xml"], "table"),
        (&["--timeout", "never", "port", "list"], "seconds"),
    ] {
        ctl(words).fails(2, &[hint]);
    }
}

/// None is taken and then forgotten.
#[test]
fn an_option_of_one_kind_of_port_is_refused_for_every_other() {
    let devices = [
        ("--interface x", "interface"),
        ("--nic x", "nic"),
        ("--host --pods 10.0.0.0/8", "host"),
        ("--vxlan 7", "vxlan"),
        ("--vhost-user /f", "vhost_user"),
        ("--replay /f", "replay"),
    ];
    for (option, of) in [
        ("--routes 254", "nic"),
        ("--masquerade", "nic"),
        ("--zero-copy 1", "nic"),
        ("--zero-copy-shared", "nic"),
        ("--pods 10.1.0.0/16", "host"),
        ("--egress x", "host"),
        ("--no-masquerade", "host"),
        ("--udp-port 8472", "vxlan"),
        ("--local 192.0.2.1", "vxlan"),
        ("--underlay-vrf 1", "vxlan"),
        ("--udp6-zero-checksum", "vxlan"),
        ("--group-policy", "vxlan"),
        ("--client", "vhost_user"),
        ("--queues 2", "vhost_user"),
        ("--gid 107", "vhost_user"),
    ] {
        for (device, _) in devices.iter().filter(|(_, name)| *name != of) {
            let words = format!("port add a {device} {option}");
            let words: Vec<&str> = words.split(' ').collect();
            let flag = option.split(' ').next().unwrap();
            ctl(&words).fails(2, &["cannot be used with", flag]);
        }
    }
    for device in [
        "--interface x",
        "--vxlan 7",
        "--vhost-user /f",
        "--replay /f",
    ] {
        let words = format!("port add a {device} --except 10.0.0.0/8");
        ctl(&words.split(' ').collect::<Vec<_>>()).fails(2, &["cannot be used with", "--except"]);
    }
}

#[test]
fn groups_are_listed_as_a_table() {
    let daemon = Daemon::start();
    for words in [
        "group add 7 --namespace shop --label tier=front --label app=web",
        "group add 65535 --namespace mon",
    ] {
        daemon.ctl(&words.split(' ').collect::<Vec<_>>()).ok();
    }
    assert_eq!(
        daemon.ctl(&["group", "list"]).ok(),
        "   ID  NAMESPACE  LABELS\n\
         \x20   7  shop       app=web,tier=front\n\
         65535  mon        -\n"
    );
    let one = daemon.ctl(&["group", "list", "--namespace", "mon"]).ok();
    assert_eq!(one.lines().count(), 2, "{one}");
    for (words, code, text) in [
        (
            "group add 8 --namespace shop --label app=web --label tier=front",
            1,
            "group 7",
        ),
        ("group add 0 --namespace shop", 1, "choose 1 to 65535"),
        ("group add 65536 --namespace shop", 2, "65536"),
        ("group add 8 --namespace shop --label app", 2, "KEY=VALUE"),
        (
            "group add 8 --namespace shop --label a=b --label a=c",
            2,
            "label a comes twice",
        ),
    ] {
        let done = daemon.ctl(&words.split(' ').collect::<Vec<_>>());
        done.fails(code, &[text]);
    }
}

#[test]
fn services_are_listed_as_a_table() {
    let daemon = Daemon::start();
    for words in [
        "service add shop/dns:dns:ipv6 --protocol udp --port 53 --address fd00:96::a --internal-traffic local",
        "service add shop/web:http:ipv4 --port 80 --address 10.96.0.1 --external 192.0.2.1=198.51.100.0/24 --node-port 30080 --external-traffic local --affinity 10800 --backend 10.244.1.2:8080 --backend 10.244.2.2:8080 --local-backend 10.244.1.2:8080",
    ] {
        daemon.ctl(&words.split(' ').collect::<Vec<_>>()).ok();
    }
    assert_eq!(
        daemon.ctl(&["service", "list"]).ok(),
        "NAME                PROTOCOL  PORT  ADDRESSES    EXTERNAL  NODE PORT  INTERNAL TRAFFIC  EXTERNAL TRAFFIC  AFFINITY  BACKENDS  LOCAL\n\
         shop/dns:dns:ipv6   udp         53  fd00:96::a          -          -  local             cluster           -                0      0\n\
         shop/web:http:ipv4  tcp         80  10.96.0.1   192.0.2.1      30080  cluster           local             10800 s          2      1\n"
    );
    let at = daemon.ctl(&["service", "list", "--address", "192.0.2.1"]);
    assert_eq!(at.ok().lines().count(), 2);
    for (words, code, text) in [
        ("service add x --port 80", 2, "--address"),
        (
            "service add x --port 80 --address 10.96.0.1",
            1,
            "service shop/web:http:ipv4",
        ),
        (
            "service add x --port 80 --address 10.96.0.9 --backend 10.0.0.1",
            2,
            "10.0.0.1",
        ),
        (
            "service add x --port 80 --address 10.96.0.9 --external 192.0.2.1=here",
            2,
            "192.0.2.1=198.51.100.0/24",
        ),
        (
            "service add x --port 0 --address 10.96.0.9",
            1,
            "choose 1 to 65535",
        ),
    ] {
        let done = daemon.ctl(&words.split(' ').collect::<Vec<_>>());
        done.fails(code, &[text]);
    }
}

#[test]
fn why_says_who_decides_and_exits_by_the_verdict() {
    let daemon = Daemon::start();
    let ask = |port| {
        daemon.ctl(&[
            "why", "--from", "shop/a", "--to", "10.0.0.2", "--port", port,
        ])
    };
    let out = ask("443/tcp").ok();
    for words in [
        "ALLOWED",
        "pod shop/a",
        "out of port web to 02:00:00:00:00:02",
        "the port's default",
    ] {
        assert!(out.contains(words), "{words} is not in {out}");
    }
    assert!(!out.contains("group"), "{out}");
    let words = "why --from shop/a --to 10.0.0.2 --port 443 --group 7";
    let out = daemon.ctl(&words.split(' ').collect::<Vec<_>>()).ok();
    assert!(
        out.contains("the port's default; the peer is known by group 7"),
        "{out}"
    );
    let done = ask("22");
    let by = "isolated by NetworkPolicy shop/deny";
    assert!(
        done.out.contains("DENIED (policy_isolated_ingress)") && done.out.contains(by),
        "{done:?}"
    );
    done.fails(1, &["policy_isolated_ingress"]);
    let done = daemon.ctl(&["why", "--from", "nobody", "--to", "10.0.0.2", "--port", "1"]);
    done.fails(2, &["nobody", "NAMESPACE/NAME"]);
    let done = daemon.ctl(&["why", "--from", "::1", "--to", "::2", "--port", "1/quic"]);
    done.fails(2, &["quic"]);
    daemon
        .ctl(&[
            "why",
            "--from",
            "::1",
            "--to",
            "::2",
            "--protocol",
            "icmpv6",
        ])
        .ok();
    daemon
        .ctl(&["why", "--from", "::1", "--to", "::2"])
        .fails(2, &["--port"]);
}

#[test]
fn events_say_who_was_refused_and_why() {
    let daemon = Daemon::furnished();
    let done = daemon.ctl(&["events"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("1 events"), "{done:?}");
    assert_eq!(
        done.out,
        "2025-11-28T08:31:03.123Z  policy_isolated_ingress  tcp  shop/a (10.0.0.1:40112) -> port web ([fd00::2]:443)  \
         group 7  ingress isolated by shop/deny\n\
         2025-11-28T08:31:03.123Z  policy_denied_egress  tcp  shop/a (10.0.0.1:40112) -> port web ([fd00::2]:443)  \
         by ClusterNetworkPolicy no-web, egress rule 1\n"
    );
    let json = read(&daemon.ctl(&["events", "-o", "json"]).out);
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(json[1]["policy"]["name"], "no-web");
}
