// SPDX-License-Identifier: Apache-2.0
//! `doctor` on machines made of files.

use std::path::Path;

use serde_json::Value;

use crate::common::{Daemon, Done, ctl};

/// Files of a machine on which podswitch could be installed.
const FILES: [(&str, &str); 5] = [
    ("proc/sys/kernel/osrelease", "6.12.1\n"),
    ("proc/self/status", "CapEff:\t000001ffffffffff\n"),
    (
        "proc/self/limits",
        "Max open files   1024  1048576  files\n",
    ),
    (
        "proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ),
    ("etc/cni/net.d/README.txt", "no configuration\n"),
];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn furnish(root: &Path) {
    FILES
        .iter()
        .for_each(|(path, text)| write(root, path, text));
}

/// Runs it below a folder, in which the daemon's socket is `s`.
fn doctor(root: &Path, more: &[&str]) -> Done {
    let root = root.to_str().unwrap();
    let words = ["doctor", "--root", root, "--socket", "/s"];
    ctl(&[words.as_slice(), more].concat())
}

#[test]
fn a_machine_that_is_ready_before_and_not_afterwards() {
    let root = tempfile::tempdir().unwrap();
    furnish(root.path());
    let before = doctor(root.path(), &[]).ok();
    assert!(
        before.contains("kernel") && before.contains("Linux 6.12.1"),
        "{before}"
    );
    assert!(!before.contains("error"), "{before}");
    let after = doctor(root.path(), &["--installed", "-o", "json"]);
    assert_eq!(after.code, 1);
    assert!(
        after.err.contains("3 errors keep podswitch from working"),
        "{}",
        after.err
    );
    let found: Vec<Value> = serde_json::from_str(&after.out).unwrap();
    let errors = found.iter().filter(|f| f["severity"] == "error");
    let checks: Vec<&str> = errors
        .map(|f| {
            assert!(f["hint"].is_string() && f["message"].is_string(), "{f}");
            f["check"].as_str().unwrap()
        })
        .collect();
    assert_eq!(checks, ["cni plugin", "cni configuration", "podswitchd"]);
}

#[test]
fn an_old_kernel_is_an_error_before_anything_is_installed() {
    let root = tempfile::tempdir().unwrap();
    furnish(root.path());
    write(root.path(), "proc/sys/kernel/osrelease", "5.10.0\n");
    let done = doctor(root.path(), &[]);
    assert!(
        done.out.contains("5.10.0 is older than 6.1"),
        "{}",
        done.out
    );
    done.fails(1, &["1 errors keep"]);
}

#[test]
fn what_the_daemon_says_of_itself_is_part_of_it() {
    let daemon = Daemon::furnished();
    furnish(daemon.directory());
    // A socket is enough to count as installed.
    let done = doctor(daemon.directory(), &[]);
    assert!(done.out.contains("version 9.9.9 answers"), "{}", done.out);
    assert!(
        done.out.contains("port db: interface psw2 does not exist"),
        "{}",
        done.out
    );
    done.fails(1, &["2 errors keep"]);
    let bin = daemon.directory().join("opt/cni/bin/podswitch");
    write(daemon.directory(), "opt/cni/bin/podswitch", "");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin, mode).unwrap();
    let conf = r#"{"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "podswitch"}]}"#;
    write(
        daemon.directory(),
        "etc/cni/net.d/05-podswitch.conflist",
        conf,
    );
    doctor(daemon.directory(), &[]).ok();
}
