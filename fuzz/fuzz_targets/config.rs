// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a configuration file: read, judged, written again, and read with a list where a table is meant.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use podswitch_api::Limits;
use podswitch_api::limits::{MAX_MTU, MAX_WORKERS, MIN_MTU};
use podswitch_state::config::Config;
use toml::{Table, Value};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Config::parse(text) {
        Err(message) => assert!(!message.is_empty(), "an error without a word"),
        Ok(config) => {
            let again = toml::to_string(&config).expect("a configuration can be written");
            assert_eq!(Config::parse(&again).as_ref(), Ok(&config));
            judge(&config);
            let table: Table = toml::from_str(text).expect("a configuration is a table");
            refuse_lists(&table);
        }
    }
});

/// Every problem names its key; where there is none, the values can be used as they are.
fn judge(config: &Config) {
    let problems = config.check();
    for problem in &problems {
        let said = problem.to_string();
        assert!(
            said.starts_with(problem.key),
            "{said} does not name its key"
        );
        assert!(!problem.message.is_empty());
    }
    let bounds = config.bounds();
    if !problems.is_empty() {
        return;
    }
    for path in [&config.socket, &config.state_dir] {
        assert!(path.is_absolute() && !path.to_string_lossy().contains('\0'));
    }
    assert!((1..=MAX_WORKERS).contains(&config.workers.len()));
    assert_eq!(usize::from(bounds.workers), config.workers.len());
    assert!((MIN_MTU..=MAX_MTU).contains(&bounds.default_mtu));
    let (l, most) = (bounds.limits, Limits::MAX);
    assert!(l.ports <= most.ports && l.routes <= most.routes && l.rules <= most.rules);
    assert!(config.conntrack.entries.is_power_of_two());
}

/// Fields are read by name, never by their order.
fn refuse_lists(table: &Table) {
    for (key, value) in table {
        if let Value::Table(inner) = value {
            let mut bad = table.clone();
            let list = inner.iter().map(|(_, v)| v.clone()).collect();
            bad.insert(key.clone(), Value::Array(list));
            let text = toml::to_string(&bad).expect("a table can be written");
            let refused = Config::parse(&text).expect_err(&text);
            assert!(refused.contains(key), "{refused} does not name {key}");
        }
    }
}
