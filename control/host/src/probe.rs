// SPDX-License-Identifier: Apache-2.0
//! What this kernel and this process can do, read and never assumed: for `podswitchd --probe` and the checks at start.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys;

/// A capability the switch uses (`man 7 capabilities`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Interfaces, routes, XDP.
    NetAdmin,
    /// AF_XDP and AF_PACKET sockets.
    NetRaw,
    /// Locking memory beyond the limit.
    IpcLock,
    /// Namespaces.
    SysAdmin,
    /// Raising resource limits.
    SysResource,
    /// Loading BPF programs.
    Bpf,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 6] = [
        Capability::NetAdmin,
        Capability::NetRaw,
        Capability::IpcLock,
        Capability::SysAdmin,
        Capability::SysResource,
        Capability::Bpf,
    ];

    /// Number and name in `include/uapi/linux/capability.h`.
    fn entry(self) -> (u32, &'static str) {
        match self {
            Capability::NetAdmin => (12, "CAP_NET_ADMIN"),
            Capability::NetRaw => (13, "CAP_NET_RAW"),
            Capability::IpcLock => (14, "CAP_IPC_LOCK"),
            Capability::SysAdmin => (21, "CAP_SYS_ADMIN"),
            Capability::SysResource => (24, "CAP_SYS_RESOURCE"),
            Capability::Bpf => (39, "CAP_BPF"),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().1)
    }
}

/// The effective capabilities of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// True when it has this one.
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> capability.entry().0 & 1 != 0
    }
}

/// How much CPU time a control group leaves this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuQuota {
    /// CPU time per period, microseconds.
    pub quota_us: u64,
    /// Period, microseconds.
    pub period_us: u64,
    /// The file that says so.
    pub source: String,
}

impl CpuQuota {
    /// The quota in CPUs: 1.5 is one and a half.
    pub fn cpus(&self) -> f64 {
        self.quota_us as f64 / self.period_us as f64
    }
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path)
        .map_err(|source| Error::io(format_args!("reading {}", path.display()), source))
}

fn odd(path: &str, text: &str) -> Error {
    Error::answer(format_args!("reading {path}"), format!("{text:?}"))
}

/// The effective capabilities of this process.
///
/// # Errors
/// [`Error::Io`] without `/proc`; likewise for the other functions of this module.
pub fn capabilities() -> Result<Capabilities> {
    let path = "/proc/thread-self/status";
    let text = read(path)?;
    text.lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .map(Capabilities)
        .ok_or_else(|| odd(path, &text))
}

/// True when BPF programs are compiled to machine code.
///
/// # Errors
/// As [`capabilities`].
pub fn bpf_jit() -> Result<bool> {
    Ok(read("/proc/sys/net/core/bpf_jit_enable")?.trim() != "0")
}

/// The CPUs that are online, ascending.
///
/// # Errors
/// As [`capabilities`].
pub fn online_cpus() -> Result<Vec<usize>> {
    let path = "/sys/devices/system/cpu/online";
    let text = read(path)?;
    parse_cpu_list(text.trim()).ok_or_else(|| odd(path, &text))
}

/// The CPUs the scheduler leaves alone (`isolcpus=`), ascending; usually none.
///
/// # Errors
/// As [`capabilities`].
pub fn isolated_cpus() -> Result<Vec<usize>> {
    let path = "/sys/devices/system/cpu/isolated";
    let text = read(path)?;
    parse_cpu_list(text.trim()).ok_or_else(|| odd(path, &text))
}

/// The CPUs the calling thread may run on, ascending.
///
/// # Errors
/// [`Error::Io`] when the system call fails.
pub fn affinity() -> Result<Vec<usize>> {
    sys::affinity().map_err(|source| Error::io("reading the CPU affinity", source))
}

/// Reads the kernel's form of a set of CPUs: "0-3,8".
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last >= libc::CPU_SETSIZE as usize * 8 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The tightest CPU quota of this process's control group and of those above it (version 2's `cpu.max`, version 1's
/// `cpu.cfs_quota_us`); none when nothing limits it.
///
/// # Errors
/// As [`capabilities`].
pub fn cpu_quota() -> Result<Option<CpuQuota>> {
    let groups = read("/proc/self/cgroup")?;
    let mounts = read("/proc/self/mountinfo")?;
    let mut tightest: Option<CpuQuota> = None;
    for directory in cpu_directories(&groups, &mounts) {
        if let Some(quota) = quota_of(Path::new(&directory)).filter(|q| q.period_us > 0)
            && tightest.as_ref().is_none_or(|t| quota.cpus() < t.cpus())
        {
            tightest = Some(quota);
        }
    }
    Ok(tightest)
}

/// Directories whose quota binds this process: its group and all above it, in each hierarchy that has the controller.
fn cpu_directories(groups: &str, mounts: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version2 = id == "0" && controllers.is_empty();
        if !version2 && !controllers.split(',').any(|c| c == "cpu") {
            continue;
        }
        let wanted = |m: &Mount<'_>| {
            if version2 {
                m.kind == "cgroup2"
            } else {
                m.kind == "cgroup" && m.options.split(',').any(|o| o == "cpu")
            }
        };
        let Some(mount) = mounts.lines().filter_map(parse_mount).find(wanted) else {
            continue;
        };
        // The mount may show only a part of the hierarchy.
        let below = group
            .strip_prefix(mount.root.trim_end_matches('/'))
            .unwrap_or(group);
        let mut path = Path::new(below.trim_start_matches('/'));
        loop {
            found.push(
                Path::new(mount.point)
                    .join(path)
                    .to_string_lossy()
                    .into_owned(),
            );
            match path.parent() {
                Some(parent) => path = parent,
                None => break,
            }
        }
    }
    found
}

/// A line of `/proc/self/mountinfo` (`man 5 proc_pid_mountinfo`).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let mut right = right.split(' ');
    Some(Mount {
        root: left.next()?,
        point: left.next()?,
        kind: right.next()?,
        options: right.nth(1)?,
    })
}

fn quota_of(directory: &Path) -> Option<CpuQuota> {
    let number = |name: &str| {
        fs::read_to_string(directory.join(name))
            .ok()?
            .trim()
            .parse::<i64>()
            .ok()
    };
    let file = directory.join("cpu.max");
    if let Ok(text) = fs::read_to_string(&file) {
        let (quota, period) = text.trim().split_once(' ')?;
        let (quota_us, period_us) = (quota.parse().ok()?, period.parse().ok()?);
        return Some(CpuQuota {
            quota_us,
            period_us,
            source: file.display().to_string(),
        });
    }
    let quota_us = number("cpu.cfs_quota_us").and_then(|n| u64::try_from(n).ok())?;
    let period_us = number("cpu.cfs_period_us").and_then(|n| u64::try_from(n).ok())?;
    Some(CpuQuota {
        quota_us,
        period_us,
        source: directory.join("cpu.cfs_quota_us").display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_cpu_list(""), Some(vec![]));
        for bad in ["a", "3-1", "0-", "1-99999999999"] {
            assert_eq!(parse_cpu_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn control_group_directories_of_both_versions() {
        let v2 = cpu_directories(
            "0::/a/b\n",
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(
            v2,
            ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"]
        );
        let v1 = cpu_directories(
            "5:cpu,cpuacct:/x\n4:memory:/y\n",
            "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(v1, ["/sys/fs/cgroup/cpu/x", "/sys/fs/cgroup/cpu/"]);
        let part = cpu_directories(
            "0::/pod/c\n",
            "30 23 0:26 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(part, ["/sys/fs/cgroup/c", "/sys/fs/cgroup/"]);
    }

    #[test]
    fn quotas_of_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(quota_of(dir.path()), None);
        fs::write(dir.path().join("cpu.cfs_quota_us"), "-1\n").unwrap();
        fs::write(dir.path().join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota_of(dir.path()), None);
        fs::write(dir.path().join("cpu.cfs_quota_us"), "50000\n").unwrap();
        assert_eq!(quota_of(dir.path()).unwrap().cpus(), 0.5);
        fs::write(dir.path().join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota_of(dir.path()), None);
        fs::write(dir.path().join("cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota_of(dir.path()).unwrap().cpus(), 1.5);
    }

    #[test]
    fn this_process() {
        let online = online_cpus().unwrap();
        let allowed = affinity().unwrap();
        assert!(!allowed.is_empty() && allowed.iter().all(|c| online.contains(c)));
        capabilities().unwrap();
        bpf_jit().unwrap();
        cpu_quota().unwrap();
        isolated_cpus().unwrap();
    }
}
