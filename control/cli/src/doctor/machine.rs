// SPDX-License-Identifier: Apache-2.0
//! Capabilities, limits and file systems.

use podswitch_host::probe::{self, Capabilities, Capability};

use super::{Finding, Machine, Severity};

/// Open files that a full node may need: 5 a port, and some for the rest.
const FILES: u64 = 5 * 4096 + 1024;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let status = machine.read("/proc/self/status").unwrap_or_default();
    let has = capabilities(&status);
    let limits = machine.read("/proc/self/limits").unwrap_or_default();
    let mounts = machine.read("/proc/self/mountinfo").unwrap_or_default();
    let memory = machine.read("/proc/meminfo").unwrap_or_default();
    let mut found = vec![
        privileges(has),
        locked_memory(has, &limits),
        open_files(&limits),
        control_groups(&mounts),
        bpf_files(&mounts),
        huge_pages(&memory),
    ];
    if machine.is_real()
        && let Ok(Some(quota)) = probe::cpu_quota()
    {
        let message = format!(
            "{} leaves {:.2} cores: workers will be throttled",
            quota.source,
            quota.cpus()
        );
        found.push(
            Finding::new(Severity::Warning, "cpu", message)
                .hint("run podswitchd in a control group without a CPU limit"),
        );
    }
    found
}

fn capabilities(status: &str) -> Capabilities {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    Capabilities(bits.unwrap_or(0))
}

fn privileges(has: Capabilities) -> Finding {
    // Limits are raised to the hard one alone, for which nobody needs CAP_SYS_RESOURCE.
    let needed = Capability::ALL
        .iter()
        .filter(|c| **c != Capability::SysResource);
    let lacking = needed.filter(|c| !has.has(**c));
    let names: Vec<String> = lacking.map(ToString::to_string).collect();
    match names.is_empty() {
        true => Finding::ok("capabilities", "all that podswitchd uses"),
        false => Finding::new(
            Severity::Warning,
            "capabilities",
            format!("this process lacks {}", names.join(", ")),
        )
        .hint("run podswitchctl doctor as podswitchd runs, as root mostly, to see what that lacks"),
    }
}

/// The hard limit of a line of `/proc/PID/limits`; nothing where there is none.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn locked_memory(has: Capabilities, limits: &str) -> Finding {
    if has.has(Capability::IpcLock) {
        return Finding::ok("locked memory", "not limited, by CAP_IPC_LOCK");
    }
    match hard_limit(limits, "Max locked memory") {
        None => Finding::ok("locked memory", "not limited"),
        Some(bytes) => Finding::new(
            Severity::Warning,
            "locked memory",
            format!("limited to {bytes} bytes; packet memory is pinned and may take more"),
        )
        .hint("grant CAP_IPC_LOCK, or raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity of systemd)"),
    }
}

fn open_files(limits: &str) -> Finding {
    match hard_limit(limits, "Max open files") {
        Some(files) if files < FILES => Finding::new(
            Severity::Warning,
            "open files",
            format!("{files} at most; a node with all ports needs up to {FILES}"),
        )
        .hint("raise the hard limit (LimitNOFILE= of systemd), or lower limits.ports"),
        Some(files) => Finding::ok("open files", format!("{files} at most")),
        None => Finding::ok("open files", "not limited"),
    }
}

/// Whether a file system of this type is mounted (proc_pid_mountinfo(5)), and where.
fn mounted<'m>(mounts: &'m str, kind: &str) -> Option<&'m str> {
    mounts.lines().find_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (rest.split(' ').next() == Some(kind)).then_some(at)
    })
}

fn control_groups(mounts: &str) -> Finding {
    match mounted(mounts, "cgroup2") {
        Some(at) => Finding::ok("cgroup2", format!("mounted at {at}")),
        None => Finding::new(
            Severity::Warning,
            "cgroup2",
            "not mounted: processes of the node do not reach pods by ports of the node",
        )
        .hint("mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"),
    }
}

fn bpf_files(mounts: &str) -> Finding {
    match mounted(mounts, "bpf") {
        Some(at) => Finding::ok("bpf file system", format!("mounted at {at}")),
        None => Finding::new(
            Severity::Info,
            "bpf file system",
            "not mounted; podswitch keeps nothing there",
        ),
    }
}

fn huge_pages(memory: &str) -> Finding {
    let line = memory
        .lines()
        .find_map(|l| l.strip_prefix("HugePages_Free:"));
    let free = line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    let message = match free {
        0 => "none reserved; podswitch needs none".to_owned(),
        n => format!("{n} free"),
    };
    Finding::new(Severity::Info, "huge pages", message)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, short};
    use super::*;

    const MOUNTS: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n31 23 0:27 / /sys/fs/bpf rw - bpf bpf rw\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            1024                 524288               files     \n\
        Max locked memory         8388608              8388608              bytes     \n";

    #[test]
    fn a_machine_that_has_everything() {
        let (_root, machine) = machine(&[
            ("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            ("/proc/self/limits", LIMITS),
            ("/proc/self/mountinfo", MOUNTS),
            ("/proc/meminfo", "HugePages_Free:       3\n"),
        ]);
        let found = check(&machine);
        let worse: Vec<_> = found
            .iter()
            .filter(|f| f.severity > Severity::Info)
            .collect();
        assert!(worse.is_empty(), "{worse:?}");
        assert_eq!(found[5].message, "3 free");
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let (_root, machine) = machine(&[
            ("/proc/self/status", "CapEff:\t0000000000003000\n"),
            ("/proc/self/limits", &LIMITS.replace("524288", "4096  ")),
        ]);
        let found = check(&machine);
        let warned = |check| (Severity::Warning, check);
        assert_eq!(
            short(&found)[..4],
            [
                warned("capabilities"),
                warned("locked memory"),
                warned("open files"),
                warned("cgroup2")
            ]
        );
        assert!(
            found[0].message.contains("CAP_SYS_ADMIN") && !found[0].message.contains("CAP_NET_RAW")
        );
        assert!(found[1].message.contains("8388608"));
        assert!(found[..4].iter().all(|f| f.hint.is_some()));
    }
}
