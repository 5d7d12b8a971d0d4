// SPDX-License-Identifier: Apache-2.0
//! The kernel: its version, and what podswitchd says of its features, who tries each.

use std::path::{Path, PathBuf};
use std::process::Command;

use podswitch_host::probe::{self, Capability};

use super::{Finding, Machine, Severity};

/// The oldest one that podswitch is made for.
const FLOOR: (u32, u32) = (6, 1);

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut found = vec![version(
        machine.read("/proc/sys/kernel/osrelease").as_deref(),
    )];
    if machine.read("/proc/sys/net/core/bpf_jit_enable").as_deref() == Some("0") {
        let message = "BPF programs are interpreted: steering of packets is slow";
        found.push(
            Finding::new(Severity::Warning, "kernel", message)
                .hint("set net.core.bpf_jit_enable to 1"),
        );
    }
    if machine.is_real() {
        found.push(features());
    }
    found
}

fn version(release: Option<&str>) -> Finding {
    let Some(release) = release else {
        let message = "/proc/sys/kernel/osrelease cannot be read: the version is not known";
        return Finding::new(Severity::Warning, "kernel", message).hint("mount /proc");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    match version >= FLOOR {
        true => Finding::ok("kernel", format!("Linux {release}")),
        false => Finding::new(
            Severity::Error,
            "kernel",
            format!("Linux {release} is older than {}.{}", FLOOR.0, FLOOR.1),
        )
        .hint("boot a newer kernel"),
    }
}

/// podswitchd is asked, as it alone can try them.
fn features() -> Finding {
    let privileged = probe::capabilities().is_ok_and(|has| has.has(Capability::NetAdmin));
    if !privileged {
        let message = "not tried: that needs CAP_NET_ADMIN";
        return Finding::new(Severity::Info, "features", message)
            .hint("run podswitchctl doctor as root");
    }
    let Some(program) = podswitchd() else {
        let message = "podswitchd is neither beside podswitchctl nor in PATH: features of the kernel were not tried";
        return Finding::new(Severity::Info, "features", message)
            .hint("run podswitchd --probe where it is, as root");
    };
    let shown = program.display();
    match Command::new(&program).arg("--probe").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            said(&text, &shown.to_string())
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let message = text.trim().trim_start_matches("podswitchd: ").to_owned();
            Finding::new(Severity::Error, "features", message)
                .hint(format!("{shown} --probe has the whole table"))
        }
        Err(e) => Finding::new(
            Severity::Warning,
            "features",
            format!("{shown} --probe: {e}"),
        )
        .hint("see whether that program is whole"),
    }
}

/// What its table says is done without.
fn said(table: &str, program: &str) -> Finding {
    let lacks = |line: &&str| line.split_whitespace().any(|word| word == "fallback");
    match table.lines().filter(lacks).count() {
        0 => Finding::ok("features", "the kernel has all that podswitchd uses"),
        n => Finding::new(
            Severity::Info,
            "features",
            format!("the kernel lacks {n} of the features that podswitchd uses; it does without"),
        )
        .hint(format!(
            "{program} --probe says which, and what is done instead"
        )),
    }
}

/// The program beside this one, or in PATH.
fn podswitchd() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path));
    places
        .map(|place| place.join("podswitchd"))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, short};
    use super::*;

    #[test]
    fn old_kernels_are_errors() {
        for (release, severity) in [
            ("6.1.0-38-amd64", Severity::Ok),
            ("6.18.5", Severity::Ok),
            ("10.0.1", Severity::Ok),
            ("6.0.19", Severity::Error),
            ("5.15.0-101-generic", Severity::Error),
            ("odd", Severity::Error),
        ] {
            let (_root, machine) = machine(&[("/proc/sys/kernel/osrelease", release)]);
            assert_eq!(short(&check(&machine)), [(severity, "kernel")], "{release}");
        }
        let (_root, none) = machine(&[("/proc/sys/net/core/bpf_jit_enable", "0\n")]);
        let kernel = (Severity::Warning, "kernel");
        assert_eq!(short(&check(&none)), [kernel, kernel]);
    }

    #[test]
    fn what_is_done_without_is_counted() {
        let table = "kernel 6.6\nAF_XDP   available  used\nfrags    fallback   one chunk\n";
        assert_eq!(said(table, "x").severity, Severity::Info);
        assert!(said(table, "x").message.contains("lacks 1 "));
        assert_eq!(said("a  available  b\n", "x").severity, Severity::Ok);
    }
}
