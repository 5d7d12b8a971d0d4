// SPDX-License-Identifier: Apache-2.0
//! The store under a process that is killed in the middle of writing, and on a disk that is full.
//!
//! The test runs itself again as the writer, in a mount namespace of its own where it needs a small disk.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use podswitch_api::desired::{Bounds, Model};
use podswitch_api::method::Change;
use podswitch_api::object::{Key, Object};
use podswitch_state::store::{Store, StoreError};
use serde_json::json;

const ROLE: &str = "PODSWITCH_TEST_STORE_ROLE";
const PLACE: &str = "PODSWITCH_TEST_STORE_DIRECTORY";
const KILLS: u32 = 25;
const PORTS: u64 = 50;

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("writer") => writer(Path::new(&std::env::var_os(PLACE).unwrap())),
        Ok("full_disk") => full_disk(Path::new(&std::env::var_os(PLACE).unwrap())),
        _ => {
            killed_in_the_middle();
            println!("test killed_in_the_middle ... ok");
            on_a_full_disk();
            println!("test on_a_full_disk ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// In round `n` every port has the MTU 1000 + n % 1000; the set is consistent if and only if all have the same.
fn round(n: u64) -> Vec<Change> {
    (0..PORTS)
        .map(|i| {
            let port = json!({
                "kind": "port", "name": format!("p{i}"), "device": {"kind": "veth", "interface": format!("psw{i}")},
                "mac": format!("02:00:00:00:00:{i:02x}"), "mtu": 1000 + n % 1000
            });
            Change::Set { object: serde_json::from_value(port).unwrap() }
        })
        .collect()
}

fn opened(directory: &Path) -> (Store, Model) {
    let store = Store::open(directory).unwrap();
    let stored = store.load().unwrap();
    (
        store,
        Model::load(stored.state, stored.generation, Bounds::default()).unwrap(),
    )
}

/// Writes rounds until it is killed, and says each that is on disk.
fn writer(directory: &Path) {
    let (mut store, mut model) = opened(directory);
    let mut out = std::io::stdout();
    loop {
        let applied = model.apply(&round(model.generation() + 1)).unwrap();
        store.commit(&applied).unwrap();
        writeln!(out, "{}", applied.generation).unwrap();
    }
}

fn start(role: &str, directory: &Path, mut command: Command) -> Child {
    command
        .env(ROLE, role)
        .env(PLACE, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn killed_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = 0;
    for kill in 0..KILLS {
        let mut child = start(
            "writer",
            dir.path(),
            Command::new(std::env::current_exe().unwrap()),
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Another number of rounds each time, so that the kill falls into every part of one.
        for _ in 0..kill % 5 {
            said = lines.next().unwrap().unwrap().parse().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        said = lines
            .map_while(Result::ok)
            .filter_map(|l| l.parse().ok())
            .last()
            .unwrap_or(said);
        check(dir.path(), said);
    }
    assert!(said > u64::from(KILLS), "the writer wrote nothing");
}

/// The file holds one whole round, and none that was said to be on disk is lost.
fn check(directory: &Path, said: u64) {
    let (_store, model) = opened(directory);
    let found = model.generation();
    assert!(
        found == said || found == said + 1,
        "round {said} was on disk, round {found} is"
    );
    let mtus: Vec<Option<u32>> = model.state().ports.values().map(|p| p.mtu).collect();
    let wanted = if found == 0 {
        vec![]
    } else {
        vec![Some(1000 + (found % 1000) as u32); PORTS as usize]
    };
    assert_eq!(mtus, wanted, "round {found} is not whole");
}

fn on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        "mount -t tmpfs -o size=2m tmpfs \"$0\"; exec \"$1\"",
    ]);
    command
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap());
    let output = start("full_disk", dir.path(), command)
        .wait_with_output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the small disk was not mounted"
    );
}

/// Fills the disk beside the store: writing fails by name, nothing changes, and it goes on once there is room.
fn full_disk(directory: &Path) {
    let state = directory.join("state");
    let (mut store, mut model) = opened(&state);
    store.commit(&model.apply(&round(1)).unwrap()).unwrap();
    let ballast = directory.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let mut refusals = 0;
    // Pages that are free in the file take some rounds before it has to grow.
    while refusals < 3 {
        let before = store.load().unwrap();
        let many: Vec<Change> = (0..400)
            .map(|n| big_rule(model.generation() * 1000 + n))
            .collect();
        let applied = model.apply(&many).unwrap();
        if let Err(error) = store.commit(&applied) {
            assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
            assert!(error.to_string().contains("nothing was changed"), "{error}");
            model.revert(&applied);
            refusals += 1;
            assert_eq!(
                store.load().unwrap(),
                before,
                "a refused write changed something"
            );
        }
    }
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    store
        .commit(
            &model
                .apply(&[Change::delete(Key::Port { name: "p0".into() })])
                .unwrap(),
        )
        .unwrap();
    drop(store);
    let (_store, again) = opened(&state);
    assert_eq!(
        (again.state(), again.generation()),
        (model.state(), model.generation())
    );
}

fn big_rule(n: u64) -> Change {
    let rule = json!({
        "kind": "rule", "name": format!("{n}-{}", "x".repeat(100)), "port": "p1", "direction": "egress", "priority": 1, "action": "deny"
    });
    let object: Object = serde_json::from_value(rule).unwrap();
    Change::Set { object }
}
