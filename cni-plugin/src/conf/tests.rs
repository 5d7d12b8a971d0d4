// SPDX-License-Identifier: Apache-2.0

use super::*;
use serde_json::json;

fn parse_for(value: &Value, command: Command) -> Result<NetConf, CniError> {
    NetConf::parse(value.to_string().as_bytes(), command)
}

fn parse(value: Value) -> Result<NetConf, CniError> {
    parse_for(&value, Command::Add)
}

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "k8s-net", "type": "podswitch", "socket": "/tmp/s", "mtu": 9000,
           "ipam": {"type": "podswitch", "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]]}})
}

/// An ADD with these `CNI_ARGS`.
fn call(args: &str) -> Invocation {
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/n"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args),
    ];
    Invocation::read(|n| {
        let found = vars.iter().find(|(k, _)| *k == n);
        found.map(|(_, v)| (*v).to_owned())
    })
    .unwrap()
}

#[test]
fn the_documented_configuration_is_read() {
    let conf = parse(base()).unwrap();
    assert_eq!(conf.name, "k8s-net");
    assert_eq!(conf.mtu, Some(9000));
    assert!(matches!(conf.ipam, Some(Ipam::BuiltIn(_))));
}

/// What the documentation says.
const DOCUMENT: &str = include_str!("../../../docs/cni.md");

#[test]
fn the_documents_example_is_a_configuration() {
    let example = DOCUMENT.split("```json\n").nth(1).unwrap();
    let list: Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let mut conf = list["plugins"][0].clone();
    for key in ["cniVersion", "name"] {
        conf[key] = list[key].clone();
    }
    assert!(matches!(parse(conf).unwrap().ipam, Some(Ipam::BuiltIn(_))));
}

#[test]
fn every_key_is_documented() {
    for key in KEYS {
        let named = format!("`{key}`");
        assert!(DOCUMENT.contains(&named), "{key} is missing in docs/cni.md");
    }
}

#[test]
fn every_bad_key_is_named_with_its_value() {
    for (key, value, code) in [
        ("cniVersion", json!("9.9.9"), 1),
        ("cniVersion", json!(1), 7),
        ("name", json!(""), 7),
        ("name", json!("../../etc"), 7),
        ("mtu", json!(67), 7),
        ("mtu", json!(70_000), 7),
        ("mtu", json!(-5), 7),
        ("mtu", json!("big"), 7),
        ("vrf", json!(1 << 24), 7),
        ("mode", json!("fast"), 7),
        ("ingressDefault", json!("maybe"), 7),
        ("mtuu", json!(1500), 2),
        ("ipMasq", json!(true), 2),
        ("socket", json!("run/s"), 7),
        ("socket", json!("/run/\u{0}s"), 7),
        ("socket", json!(format!("/{}", "s".repeat(107))), 7),
        ("ipam", json!([]), 7),
        ("ipam", json!({"ranges": []}), 7),
        (
            "ipam",
            json!({"type": "podswitch", "ranges": [[{"subnet": "10.0.0.0/33"}]]}),
            7,
        ),
        ("ipam", json!({"type": "podswitch", "range": []}), 2),
        ("runtimeConfig", json!({"ips": 5}), 7),
        ("prevResult", json!({"ips": [{"address": "x"}]}), 6),
        ("prevResult", json!("none"), 6),
    ] {
        let mut conf = base();
        conf[key] = value.clone();
        let e = parse(conf).unwrap_err();
        assert_eq!(e.code, code, "{key}: {e}");
        assert!(e.msg.contains(key), "{key}: {e}");
    }
}

#[test]
fn a_list_is_no_object() {
    for (pointer, key) in [
        ("/ipam", "ipam"),
        ("/ipam/ranges/0/0", "ipam.ranges[0][0]"),
        ("/ipam/routes/0", "ipam.routes[0]"),
        ("/dns", "dns"),
        ("/runtimeConfig", "runtimeConfig"),
        ("/runtimeConfig/dns", "runtimeConfig.dns"),
        (
            "/runtimeConfig/ipRanges/0/0",
            "runtimeConfig.ipRanges[0][0]",
        ),
        ("/prevResult", "prevResult"),
        ("/prevResult/dns", "prevResult: dns"),
        ("/prevResult/interfaces/0", "prevResult: interfaces[0]"),
        ("/prevResult/ips/0", "prevResult: ips[0]"),
        ("/prevResult/routes/0", "prevResult: routes[0]"),
    ] {
        let mut conf = base();
        conf["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8"}]);
        conf["dns"] = json!({"nameservers": ["10.0.0.1"]});
        conf["runtimeConfig"] =
            json!({"dns": {"servers": ["::1"]}, "ipRanges": [[{"subnet": "10.9.0.0/24"}]]});
        conf["prevResult"] = json!({"dns": {}, "interfaces": [{"name": "lo"}], "ips": [{"address": "10.0.0.1/8"}],
            "routes": [{"dst": "::/0"}]});
        parse(conf.clone()).unwrap();
        let place = conf.pointer_mut(pointer).unwrap();
        let list: Value = place.as_object().unwrap().values().cloned().collect();
        let begins: String = list.to_string().chars().take(60).collect();
        *place = list;
        let e = parse(conf).unwrap_err();
        assert!(e.msg.contains(&begins), "{pointer}: {e}");
        assert!(e.code == 6 || e.code == 7, "{pointer}: {e}");
        assert!(e.msg.contains(key), "{pointer}: {e}");
    }
    let mut conf = base();
    conf["cni.dev/valid-attachments"] = json!([["c", "eth0"]]);
    let e = parse_for(&conf, Command::Gc).unwrap_err();
    assert!(e.msg.contains("cni.dev/valid-attachments"), "{e}");
}

#[test]
fn a_word_is_no_object() {
    for key in ["mode", "egressDefault", "ingressDefault"] {
        let word = if key == "mode" { "native" } else { "deny" };
        let mut conf = base();
        conf[key] = json!(word);
        parse(conf.clone()).unwrap();
        conf[key] = json!({word: null});
        let e = parse(conf).unwrap_err();
        assert!(e.code == 7 && e.msg.contains(key), "{e}");
    }
}

#[test]
fn a_key_that_comes_twice_is_refused_by_name_but_keeps_no_pod_from_going() {
    for text in [
        r#"{"cniVersion": "1.1.0", "name": "n", "mtu": 1400, "mtu": 1500}"#,
        r#"{"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "x", "a": [{"mtu": 1, "mtu": 2}]}}"#,
    ] {
        for command in [Command::Add, Command::Check, Command::Status] {
            let e = NetConf::parse(text.as_bytes(), command).unwrap_err();
            assert_eq!(e.code, 6);
            assert!(e.msg.contains("\"mtu\""), "{e}");
        }
        for command in [Command::Del, Command::Gc] {
            NetConf::parse(text.as_bytes(), command).unwrap();
        }
    }
}

#[test]
fn what_is_long_or_has_control_characters_is_not_repeated_whole() {
    for name in ["x".repeat(1 << 20), "a\u{1b}[2J\n\u{0}".to_owned()] {
        for key in ["name", "mode", "cniVersion", "socket", "ipam", "mtu", &name] {
            let mut conf = base();
            conf[key] = name.clone().into();
            let e = parse(conf).unwrap_err();
            assert!(e.msg.len() < 2048, "{}", e.msg.len());
            assert!(!e.to_string().contains(char::is_control), "{e}");
        }
    }
    let deep = format!("{}1{}", "[".repeat(1 << 18), "]".repeat(1 << 18));
    let text = format!(r#"{{"cniVersion": "1.1.0", "name": "n", "args": {deep}}}"#);
    for command in [Command::Add, Command::Del] {
        assert_eq!(
            NetConf::parse(text.as_bytes(), command).unwrap_err().code,
            6
        );
    }
}

#[test]
fn what_every_runtime_puts_in_is_no_unknown_key() {
    let mut conf = base();
    for (key, value) in [
        ("cniVersions", json!(["1.0.0", "1.1.0"])),
        ("capabilities", json!({"dns": true})),
        ("runtimeConfig", json!({})),
        ("args", json!({"anything": [1]})),
        ("ipMasq", json!(false)),
        ("cni.dev/future", json!({})),
        ("prevResult", Value::Null),
    ] {
        conf[key] = value;
    }
    parse(conf).unwrap();
}

#[test]
fn cleaning_up_needs_only_what_it_uses() {
    let mut conf = base();
    for (key, value) in [
        ("mtuu", json!(1500)),
        ("mtu", json!("big")),
        ("mode", json!("fast")),
        ("socket", json!(5)),
        ("runtimeConfig", json!({"ips": 5, "portMappings": [1]})),
        ("prevResult", json!({"ips": [{"address": "x"}]})),
        (
            "ipam",
            json!({"type": "podswitch", "ranges": "gone", "dataDir": "/d", "old": 1}),
        ),
        ("cni.dev/valid-attachments", json!([])),
    ] {
        conf[key] = value;
    }
    for command in [Command::Del, Command::Gc] {
        let read = parse_for(&conf, command).unwrap();
        assert!(matches!(read.ipam, Some(Ipam::BuiltIn(_))));
    }
    for (key, value) in [("name", json!("a/b")), ("ipam", json!({"type": 5}))] {
        let mut conf = base();
        conf[key] = value;
        assert_eq!(parse_for(&conf, Command::Del).unwrap_err().code, 7);
    }
}

#[test]
fn no_list_of_attachments_is_not_an_empty_one() {
    let valid = |value: Option<Value>| {
        let mut conf = base();
        if let Some(v) = value {
            conf["cni.dev/valid-attachments"] = v;
        }
        parse_for(&conf, Command::Gc).map(|c| c.valid)
    };
    assert_eq!(valid(None).unwrap(), None);
    assert_eq!(valid(Some(json!([]))).unwrap(), Some(vec![]));
    assert_eq!(valid(Some(Value::Null)).unwrap(), Some(vec![]));
    let one = valid(Some(json!([{"containerID": "c", "ifname": "eth0"}]))).unwrap();
    assert_eq!(one.unwrap().len(), 1);
    for bad in [json!({}), json!([{"containerID": "c"}]), json!(["c"])] {
        assert_eq!(valid(Some(bad)).unwrap_err().code, 7);
    }
}

#[test]
fn what_is_no_object_is_a_decode_failure() {
    for text in ["", "[]", "5", "{", "\u{1}", "\"a\""] {
        let e = NetConf::parse(text.as_bytes(), Command::Add).unwrap_err();
        assert_eq!(e.code, 6, "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        NetConf::parse(deep.as_bytes(), Command::Add)
            .unwrap_err()
            .code,
        6
    );
}

#[test]
fn wanted_addresses_are_named_once_and_the_older_way_gives_way() {
    let ips = |conf: &NetConf, args: &str| {
        let ips = conf.wanted_ips(&call(args)).unwrap();
        ips.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut conf = base();
    conf["runtimeConfig"] = json!({"ips": ["10.244.1.7/24", "fd00:244:1::7", "::ffff:10.244.1.7"]});
    conf["args"] = json!({"cni": {"ips": ["10.244.1.7"]}});
    let conf = parse(conf).unwrap();
    assert_eq!(ips(&conf, "IP=10.244.1.9"), ["10.244.1.7", "fd00:244:1::7"]);
    let plain = parse(base()).unwrap();
    assert_eq!(
        ips(&plain, "IP=10.244.1.9/24,fd00::9"),
        ["10.244.1.9", "fd00::9"]
    );
    assert!(ips(&plain, "IP=;IgnoreUnknown=1").is_empty());
    let e = plain.wanted_ips(&call("IP=nine")).unwrap_err();
    assert!(
        e.code == 4 && e.msg.contains("CNI_ARGS") && e.msg.contains("nine"),
        "{e}"
    );
    let mut conf = base();
    conf["runtimeConfig"] = json!({"ips": ["10.0.0.1/55"]});
    let e = parse(conf).unwrap().wanted_ips(&call("")).unwrap_err();
    assert!(
        e.code == 7 && e.msg.contains("runtimeConfig.ips") && e.msg.contains("/55"),
        "{e}"
    );
}

#[test]
fn the_runtimes_dns_goes_before_the_configurations() {
    let mut conf = base();
    conf["dns"] = json!({"nameservers": ["10.0.0.53"], "search": null});
    assert_eq!(
        parse(conf.clone()).unwrap().result_dns().nameservers,
        ["10.0.0.53"]
    );
    conf["runtimeConfig"] = json!({"dns": {"Servers": ["9.9.9.9"], "Options": null}});
    assert_eq!(
        parse(conf.clone()).unwrap().result_dns().nameservers,
        ["9.9.9.9"]
    );
    conf["runtimeConfig"] = json!({"dns": {"Servers": [], "Searches": null}});
    assert_eq!(parse(conf).unwrap().result_dns().nameservers, ["10.0.0.53"]);
}

#[test]
fn a_network_may_be_of_virtual_machines() {
    let with = |more: Value| {
        let mut conf = base();
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    };
    assert_eq!(parse(base()).unwrap().guest, None);
    assert_eq!(parse(with(json!({"port": "veth"}))).unwrap().guest, None);
    let plain = parse(with(json!({"port": "vhost-user"}))).unwrap().guest;
    assert_eq!(plain.unwrap(), VhostUser::default());
    let all = json!({"port": "vhost-user", "vhostUser": {"mode": "client", "path": "/run/v", "queues": 4,
        "gid": 107, "danDir": "/run/kata-containers/dans"}});
    let read = parse(with(all.clone())).unwrap().guest.unwrap();
    assert_eq!(
        (read.mode, read.queues, read.gid),
        (SocketMode::Client, 4, Some(107))
    );
    // Cleaning up knows where, whatever else is wrong.
    let mut broken = with(all);
    broken["vhostUser"]["queues"] = json!("many");
    let left = parse_for(&broken, Command::Del).unwrap().guest.unwrap();
    assert_eq!(left.path, PathBuf::from("/run/v"));
    assert_eq!(left.dan, Some("/run/kata-containers/dans".into()));
    let left = parse_for(&base(), Command::Gc).unwrap().guest.unwrap();
    assert_eq!(left.path, PathBuf::from(FOLDER));
    for (more, named) in [
        (json!({"port": "tap"}), "port"),
        (json!({"vhostUser": {"queues": 2}}), "vhostUser"),
        (json!({"port": "vhost-user", "mode": "native"}), "mode"),
        (
            json!({"port": "vhost-user", "vhostUser": {"queue": 2}}),
            "queue",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"queues": 0}}),
            "vhostUser.queues",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"queues": 33}}),
            "33",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"mode": "both"}}),
            "both",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"path": "run"}}),
            "vhostUser.path",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"path": format!("/{}", "x".repeat(80))}}),
            "at most 80",
        ),
        (
            json!({"port": "vhost-user", "vhostUser": {"danDir": "dans"}}),
            "vhostUser.danDir",
        ),
        (
            json!({"runtimeConfig": {"CNIDeviceInfoFile": "info"}}),
            "CNIDeviceInfoFile",
        ),
    ] {
        let e = parse(with(more.clone())).unwrap_err();
        assert!(e.code == 7 && e.msg.contains(named), "{more}: {e}");
    }
}
