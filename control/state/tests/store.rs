// SPDX-License-Identifier: Apache-2.0
//! The store: what is written is read, one process at a time, and damage is named.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use podswitch_api::desired::{Applied, Bounds, Delta, DesiredState, Model};
use podswitch_api::method::Change;
use podswitch_api::object::{Key, Object};
use podswitch_api::{ErrorCode, RpcError};
use podswitch_state::store::{
    OwnedInterface, SavedFeature, SavedSetting, Store, StoreError, Stored,
};
use proptest::prelude::*;
use serde_json::json;

fn port(n: u8) -> Object {
    serde_json::from_value(json!({
        "kind": "port", "name": format!("p{n}"), "device": {"kind": "veth", "interface": format!("psw{n}")},
        "mac": format!("02:00:00:00:00:{n:02x}"), "addresses": [format!("10.0.0.{n}"), format!("fd00::{n}")],
        "pod": {"namespace": "default", "name": "x", "container_id": "c", "ifname": "eth0"}
    }))
    .unwrap()
}

fn rule(name: &str, port: u8) -> Object {
    serde_json::from_value(json!({
        "kind": "rule", "name": name, "port": format!("p{port}"), "direction": "egress", "priority": 1, "action": "deny"
    }))
    .unwrap()
}

fn set(object: Object) -> Change {
    Change::Set { object }
}

fn model_of(stored: Stored) -> Model {
    Model::load(stored.state, stored.generation, Bounds::default()).unwrap()
}

#[test]
fn what_is_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("a/b");
    let mut store = Store::open(&directory).unwrap();
    assert_eq!(store.load().unwrap(), Stored::default());
    let mut model = Model::new(Bounds::default());
    store
        .commit(
            &model
                .apply(&[set(port(1)), set(port(2)), set(rule("r", 1))])
                .unwrap(),
        )
        .unwrap();
    store
        .commit(
            &model
                .apply(&[Change::delete(Key::Port { name: "p1".into() })])
                .unwrap(),
        )
        .unwrap();
    store
        .commit(&model.apply(&[set(rule("q", 2))]).unwrap())
        .unwrap();
    let wanted = Stored {
        state: model.state().clone(),
        generation: 3,
    };
    assert_eq!(store.load().unwrap(), wanted);
    drop(store);
    let store = Store::open_existing(&directory).unwrap().unwrap();
    assert_eq!(store.load().unwrap(), wanted);
    assert_eq!(model_of(store.load().unwrap()).state(), model.state());
    let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&directory), mode(&directory.join("state.redb"))),
        (0o700, 0o600)
    );
    store.destroy().unwrap();
    assert!(!directory.exists());
    assert!(Store::open_existing(&directory).unwrap().is_none());
}

#[test]
fn a_foreign_file_in_the_directory_stays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes"), "mine").unwrap();
    Store::open(dir.path()).unwrap().destroy().unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes"]);
}

#[test]
fn two_at_once_are_refused_and_the_first_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(
        matches!(error, StoreError::Locked { pid: Some(p), .. } if p == pid),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&format!("process {pid}"))
            && error.to_string().contains("state_dir"),
        "{error}"
    );
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn what_was_changed_in_the_kernel_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let setting = SavedSetting {
        path: "/proc/sys/net/ipv4/conf/psw1/forwarding".into(),
        before: "1".into(),
        after: "0".into(),
    };
    let one = OwnedInterface {
        name: "psw1".into(),
        index: 7,
        clsact: true,
        noarp: true,
        settings: vec![setting],
        features: vec![],
        tables: Vec::new(),
    };
    let two = OwnedInterface {
        name: "psw2".into(),
        index: 8,
        clsact: false,
        noarp: false,
        settings: vec![],
        features: vec![SavedFeature {
            name: "rx-lro".into(),
            before: true,
        }],
        tables: vec!["podswitch".into()],
    };
    store.own(&[one.clone(), two.clone()]).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.owned().unwrap(), [one, two.clone()]);
    store.disown(&["psw1", "psw9"]).unwrap();
    assert_eq!(store.owned().unwrap(), [two]);
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let file = dir.path().join("state.redb");
    let database = redb::Database::open(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction
        .open_table(meta)
        .unwrap()
        .insert("schema", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 2, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("state.redb") && error.to_string().contains("schema 2"),
        "{error}"
    );
    let database = redb::Database::open(&file).unwrap();
    let meta = redb::ReadableDatabase::begin_read(&database)
        .unwrap()
        .open_table(meta)
        .unwrap();
    assert_eq!(meta.get("schema").unwrap().unwrap().value(), 2);
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(file.join("state")).unwrap_err();
    assert!(
        matches!(error, StoreError::Io { .. }) && error.to_string().contains("file/state"),
        "{error}"
    );
    let rpc = RpcError::from(error);
    assert_eq!(rpc.code(), Some(ErrorCode::Store));
}

/// A file with some content, and that content.
fn sample(directory: &Path) -> Stored {
    let mut store = Store::open(directory).unwrap();
    let mut model = Model::new(Bounds::default());
    let changes: Vec<Change> = (1..40).map(|n| set(port(n))).collect();
    store.commit(&model.apply(&changes).unwrap()).unwrap();
    store.load().unwrap()
}

#[test]
fn what_is_no_store_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.redb");
    for content in [
        b"hello".to_vec(),
        vec![0; 100_000],
        b"redb\x1a\x0a\xa9\x0d\x0a and no more".to_vec(),
    ] {
        std::fs::write(&file, &content).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(
            error.to_string().contains("state.redb") && error.to_string().contains("move it away"),
            "{error}"
        );
        assert_eq!(
            std::fs::read(&file).unwrap(),
            content,
            "a file that was refused was changed"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed or cut off: the file is read as it was, or refused by name. Never a panic, never other objects.
    #[test]
    fn damage_is_never_taken_for_state(at in 0.0f64..1.0, bytes in prop::collection::vec(any::<u8>(), 1..64), cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let wanted = sample(dir.path());
        let file = dir.path().join("state.redb");
        let mut content = std::fs::read(&file).unwrap();
        let at = (at * content.len() as f64) as usize;
        if cut {
            content.truncate(at);
        } else {
            content.iter_mut().skip(at).zip(&bytes).for_each(|(old, new)| *old = *new);
        }
        std::fs::write(&file, &content).unwrap();
        match Store::open(dir.path()).and_then(|s| s.load()) {
            // A damaged last commit gives way to the one before it, which is the empty file's.
            Ok(found) => prop_assert!(found == wanted || found == Stored::default(), "{:?}", found),
            Err(StoreError::Damaged { .. } | StoreError::NewerSchema { .. }) => {}
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_difference_is_stored(names in prop::collection::vec((1u8..20, any::<bool>()), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut state = DesiredState::default();
        for (generation, (n, there)) in names.into_iter().enumerate() {
            let mut next = state.clone();
            match there {
                true => drop(next.insert(port(n))),
                false => drop(next.remove(&port(n).key())),
            }
            let delta: Delta = state.diff(&next);
            store.commit(&Applied { generation: generation as u64 + 1, delta }).unwrap();
            state = next;
            prop_assert_eq!(&store.load().unwrap().state, &state);
        }
    }
}
