// SPDX-License-Identifier: Apache-2.0
//! Help, completions and man pages: every command and option is in each of them.

use std::process::{Command, Stdio};

use crate::common::{Daemon, ctl};

const KINDS: [&str; 8] = [
    "port", "fdb", "route", "neighbor", "segment", "rule", "group", "service",
];
const OTHERS: [&str; 14] = [
    "stats",
    "events",
    "why",
    "top",
    "apply",
    "policy",
    "version",
    "health",
    "doctor",
    "install-plugin",
    "audit",
    "teardown",
    "completions",
    "man",
];

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = ctl(&["--help"]).ok();
    for command in KINDS.iter().chain(&OTHERS) {
        assert!(
            help.lines().any(|l| l.trim_start().starts_with(command)),
            "{command} is not in {help}"
        );
        let own = ctl(&[command, "--help"]).ok();
        assert!(
            own.contains("Usage: podswitchctl") && own.contains("--socket"),
            "{own}"
        );
    }
    for code in [
        "0  done",
        "1  refused",
        "2  the command line",
        "3  the daemon cannot be reached",
    ] {
        assert!(help.contains(code), "{code} is not in {help}");
    }
    for kind in KINDS {
        let help = ctl(&[kind, "--help"]).ok();
        for verb in ["list", "get", "add", "delete"] {
            assert!(
                help.contains(&format!("\n  {verb} ")),
                "{kind} {verb} is not in {help}"
            );
        }
    }
    let help = ctl(&["policy", "--help"]).ok();
    for verb in ["apply", "delete", "list"] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}: {help}");
    }
    assert!(ctl(&["--version"]).ok().starts_with("podswitchctl "));
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ctl(&["completions", shell]).ok();
        for word in [
            "neighbor",
            "ingress-default",
            "podswitchctl",
            "ignore-not-found",
        ] {
            assert!(
                script.contains(word),
                "{word} is not in the script for {shell}"
            );
        }
    }
    // Too long for an argument.
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("podswitchctl.bash");
    std::fs::write(&script, ctl(&["completions", "bash"]).ok()).unwrap();
    let checked = Command::new("bash")
        .arg("-n")
        .arg(&script)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(checked.success(), "bash does not take its script");
}

#[test]
fn man_pages_are_written_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("man1");
    ctl(&["man", place.to_str().unwrap()]).ok();
    let page = |name: &str| {
        std::fs::read_to_string(place.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    assert!(page("podswitchctl.1").contains("Exit codes"));
    for command in OTHERS {
        assert!(
            page(&format!("podswitchctl-{command}.1")).contains(".TH"),
            "{command}"
        );
    }
    for kind in KINDS {
        for verb in ["list", "get", "add", "delete"] {
            page(&format!("podswitchctl-{kind}-{verb}.1"));
        }
    }
    for verb in ["apply", "delete", "list"] {
        page(&format!("podswitchctl-policy-{verb}.1"));
    }
    assert!(page("podswitchctl-rule-add.1").contains("Destination ports"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    ctl(&["man", file.to_str().unwrap()]).fails(2, &["file"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let daemon = Daemon::furnished();
    let command = format!(
        "{} --socket {} stats -o json | true",
        env!("CARGO_BIN_EXE_podswitchctl"),
        daemon.socket().display()
    );
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &command])
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
