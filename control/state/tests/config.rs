// SPDX-License-Identifier: Apache-2.0
//! The configuration: what is read, what is refused, and that the documents tell the truth.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use podswitch_state::config::{Config, ConfigError};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every key of a TOML table as a path, with its value in TOML.
fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&path, inner, into),
            other => drop(into.insert(path, other.to_string())),
        }
    }
}

fn defaults() -> BTreeMap<String, String> {
    let table = toml::Table::try_from(Config::new(vec![1])).unwrap();
    let mut keys = BTreeMap::new();
    flatten("", &table, &mut keys);
    keys
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let text = document("podswitchd.example.toml");
    let config = Config::parse(&text).unwrap();
    assert_eq!(config, Config::new(vec![1]));
    assert_eq!(config.check(), []);
    let mut there = BTreeMap::new();
    flatten("", &toml::from_str(&text).unwrap(), &mut there);
    assert_eq!(there, defaults());
    // What has no default is there as a comment, and is a value of its key.
    let whole = Config::parse(&text.replace("\n# ", "\n")).unwrap();
    assert_eq!(whole.socket_group.as_deref(), Some("podswitch"));
    assert!(whole.memory.ports_per_arena.is_some() && whole.memory.chunks_per_port.is_some());
    assert!(whole.conntrack.entries_per_port.is_some());
    assert!(whole.masquerade.ports.is_some());
    assert_eq!(whole.check(), []);
}

#[test]
fn the_documentation_has_every_key_with_its_default() {
    let mut wanted = defaults();
    for optional in [
        "socket_group",
        "cgroup",
        "memory.ports_per_arena",
        "memory.chunks_per_port",
        "conntrack.entries_per_port",
        "masquerade.ports",
    ] {
        wanted.insert(optional.into(), "none".into());
    }
    wanted.insert("workers".into(), "none, must be given".into());
    let text = document("configuration.md");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells[1].trim_matches('`').to_owned();
        assert!(cells[3].len() > 3, "{key} has no description");
        assert!(
            found
                .insert(key.clone(), cells[2].trim_matches('`').to_owned())
                .is_none(),
            "{key} comes twice"
        );
    }
    assert_eq!(
        found, wanted,
        "docs/configuration.md differs from the defaults"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    for (text, key, line) in [
        ("workers = [1]\nsockett = \"/x\"\n", "sockett", "line 2"),
        (
            "workers = [1]\n[log]\nlevel = \"info\"\ncolour = true\n",
            "colour",
            "line 4",
        ),
        ("workers = [1]\n[nat]\nx = 1\n", "nat", "line 2"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(error.contains(key) && error.contains(line), "{error}");
    }
}

#[test]
fn a_list_is_no_table() {
    for (text, table) in [
        ("workers = [1]\nlog = [\"info\", \"json\"]", "log"),
        ("workers = [1]\nconntrack = []", "conntrack"),
        ("workers = [1]\n[[limits]]\nports = 1", "limits"),
        ("workers = [1]\ngateway = 1", "gateway"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(
            error.contains(table) && error.contains("fields by name"),
            "{error}"
        );
    }
}

#[test]
fn control_characters_are_refused_by_key() {
    for (line, key) in [
        ("socket = \"/run/a\\u0000b\"", "socket"),
        ("state_dir = \"/run/a\\nb\"", "state_dir"),
        ("socket_group = \"a\\u001Bb\"", "socket_group"),
    ] {
        let config = Config::parse(&format!("workers = [1]\n{line}")).unwrap();
        let problems = config.check();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].key, key);
        assert!(!problems[0].to_string().contains(char::is_control));
    }
}

#[test]
fn wrong_types_and_words_are_refused_with_their_line() {
    for (text, word) in [
        ("workers = 1", "workers"),
        ("workers = [-1]", "workers"),
        ("workers = [\"a\"]", "workers"),
        ("socket = \"/x\"", "workers"),
        ("workers = [1]\nsocket_mode = \"0888\"", "0888"),
        ("workers = [1]\nsocket_mode = 660", "socket_mode"),
        ("workers = [1]\nsocket_mode = \"1777\"", "1777"),
        ("workers = [1]\nlog.level = \"loud\"", "loud"),
        ("workers = [1]\nlog.level.info = {}", "level"),
        ("workers = [1]\ngateway.ipv4 = \"fe80::1\"", "ipv4"),
        ("workers = [1]\ngateway.mac = \"1\"", "MAC"),
        ("workers = [1]\nxdp.mode = \"zero\"", "zero"),
        ("workers = [1]\nworkers = [2]", "workers"),
        ("workers = [", "line 1"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(
            error.contains(word) && error.contains("line"),
            "{error} lacks {word}"
        );
    }
}

#[test]
fn values_that_cannot_be_are_all_named() {
    let long = format!("socket = \"/{}\"", "x".repeat(120));
    for (text, key) in [
        ("workers = []", "workers"),
        ("workers = [1, 2, 1]", "workers"),
        (long.as_str(), "socket"),
        ("socket = \"run/x\"", "socket"),
        ("state_dir = \"state\"", "state_dir"),
        ("socket_group = \"\"", "socket_group"),
        ("mtu = 67", "mtu"),
        ("gateway.ipv4 = \"0.0.0.0\"", "gateway.ipv4"),
        ("gateway.ipv6 = \"fd00::1\"", "gateway.ipv6"),
        ("gateway.mac = \"ff:ff:ff:ff:ff:ff\"", "gateway.mac"),
        ("idle.spin_us = 1000001", "idle.spin_us"),
        ("idle.latency_us = 1000001", "idle.latency_us"),
        ("memory.ports_per_arena = 0", "memory.ports_per_arena"),
        ("memory.chunks_per_port = 63", "memory.chunks_per_port"),
        ("memory.chunks_per_port = 262144", "memory.chunks_per_port"),
        ("memory.chunks_per_port = 16385", "memory.chunks_per_port"),
        (
            "memory = {chunks_per_port = 1025, ports_per_arena = 256}",
            "memory.chunks_per_port",
        ),
        ("limits.clients = 0", "limits.clients"),
        ("limits.request_bytes = 10", "limits.request_bytes"),
        ("limits.ports = 4097", "limits.ports"),
        ("limits.rules = 65537", "limits.rules"),
        ("xdp.kick_budget = 0", "xdp.kick_budget"),
        ("xdp.watchdog_ms = 0", "xdp.watchdog_ms"),
        ("icmp.errors_per_second = 1000001", "icmp.errors_per_second"),
        ("conntrack.entries = 1000", "conntrack.entries"),
        (
            "conntrack.entries_per_port = 0",
            "conntrack.entries_per_port",
        ),
        ("conntrack.fragments = 63", "conntrack.fragments"),
        ("conntrack.join_seconds = 3601", "conntrack.join_seconds"),
        ("conntrack.tcp_syn_sent = 0", "conntrack.tcp_syn_sent"),
        ("conntrack.other = 1400001", "conntrack.other"),
        ("policy.deadline_seconds = 0", "policy.deadline_seconds"),
    ] {
        let workers = if text.starts_with("workers") {
            ""
        } else {
            "workers = [1]\n"
        };
        let problems = Config::parse(&format!("{workers}{text}")).unwrap().check();
        assert_eq!(
            problems.iter().map(|p| p.key).collect::<Vec<_>>(),
            [key],
            "{text}: {problems:?}"
        );
        assert!(problems[0].to_string().starts_with(key) && !problems[0].value.is_empty());
    }
    let several = Config::parse("workers = []\nmtu = 1\nconntrack.entries = 3")
        .unwrap()
        .check();
    assert_eq!(several.len(), 3, "{several:?}");
}

#[test]
fn an_arena_may_be_as_large_as_the_datapath_makes_them() {
    for memory in [
        "{chunks_per_port = 16384}",
        "{chunks_per_port = 262144, ports_per_arena = 1}",
        "{chunks_per_port = 256, ports_per_arena = 1024}",
    ] {
        let config = Config::parse(&format!("workers = [1]\nmemory = {memory}")).unwrap();
        assert_eq!(config.check(), [], "{memory}");
    }
}

#[test]
fn a_file_is_read_and_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("c.toml");
    let missing = Config::load(&path).unwrap_err();
    assert!(matches!(missing, ConfigError::Read { .. }) && missing.to_string().contains("c.toml"));
    std::fs::write(&path, "workers = [3]\nmtu = 9000\n").unwrap();
    assert_eq!(
        Config::load(&path).unwrap(),
        Config {
            mtu: 9000,
            ..Config::new(vec![3])
        }
    );
    std::fs::write(&path, "workers = []\nmtu = 9\n").unwrap();
    let invalid = Config::load(&path).unwrap_err().to_string();
    assert!(
        invalid.contains("c.toml") && invalid.contains("workers") && invalid.contains("mtu = 9"),
        "{invalid}"
    );
    std::fs::write(&path, "x").unwrap();
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("c.toml")
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(
        Config::load(&path).unwrap_err(),
        ConfigError::Read { .. }
    ));
    std::fs::write(&path, "#".repeat(2 << 20)).unwrap();
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("longer")
    );
}
