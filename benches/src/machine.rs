// SPDX-License-Identifier: Apache-2.0
//! What the figures were taken on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use podswitch_datapath::worker::clock::Clock;
use podswitch_tests::programs::repository;
use serde::Serialize;

/// A machine, and how the programs were built.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// `model name` of /proc/cpuinfo.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: Vec<usize>,
    /// Size of each cache level of core 0, as sysfs says it.
    pub caches: BTreeMap<String, String>,
    /// `hypervisor` is among the processor's flags: other guests take part in what is measured.
    pub virtual_machine: bool,
    /// Time-stamp counter, cycles a second.
    pub tsc_hertz: u64,
    /// Memory, kB.
    pub memory_kb: u64,
    /// Kernel release.
    pub kernel: String,
    /// Those of its parameters that change how fast it is.
    pub kernel_parameters: String,
    /// `rustc --version`.
    pub rustc: String,
    /// The release profile of Cargo.toml.
    pub profile: String,
    /// The environment variable RUSTFLAGS.
    pub rustflags: String,
    /// Version of podswitch.
    pub version: String,
    /// Load average over a minute when the run began: what else the machine was doing.
    pub load: f64,
    /// Seconds since 1970 when the run began.
    pub time: u64,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let load = read("/proc/loadavg");
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: cores.into_iter().map(|c| c.id).collect(),
            caches: caches(),
            virtual_machine: flags.split_whitespace().any(|f| f == "hypervisor"),
            tsc_hertz: Clock::get().hertz(),
            memory_kb: kilobytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            kernel_parameters: parameters(&read("/proc/cmdline")),
            rustc: rustc(),
            profile: release_profile(&read_manifest()),
            rustflags: std::env::var("RUSTFLAGS").unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            load: load
                .split_whitespace()
                .next()
                .and_then(|l| l.parse().ok())
                .unwrap_or(f64::NAN),
            time: time.map_or(0, |t| t.as_secs()),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn read_manifest() -> String {
    fs::read_to_string(repository().join("Cargo.toml")).unwrap_or_default()
}

/// The first `name : value` of /proc/cpuinfo.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// A line `Name:   123 kB` of /proc/meminfo and its kind.
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    })
}

/// What of a kernel's command line concerns speed; the rest is nobody's business.
fn parameters(command_line: &str) -> String {
    const WANTED: [&str; 8] = [
        "mitigations",
        "isolcpus",
        "nohz_full",
        "rcu_nocbs",
        "idle",
        "intel_idle.max_cstate",
        "processor.max_cstate",
        "preempt",
    ];
    let wanted = |word: &&str| word.split('=').next().is_some_and(|w| WANTED.contains(&w));
    let words: Vec<&str> = command_line.split_whitespace().filter(wanted).collect();
    words.join(" ")
}

fn caches() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for index in 0..8 {
        let dir = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let part = |name: &str| read(&format!("{dir}/{name}")).trim().to_owned();
        let (level, kind, size) = (part("level"), part("type"), part("size"));
        if !size.is_empty() {
            found.insert(format!("L{level} {kind}"), size);
        }
    }
    found
}

/// Bytes of the second-level cache of core 0; 1 MiB when the kernel does not tell.
pub fn l2_bytes() -> usize {
    let caches = caches();
    let size = caches.iter().find(|(name, _)| name.starts_with("L2"));
    size.and_then(|(_, size)| cache_bytes(size))
        .unwrap_or(1 << 20)
}

fn cache_bytes(size: &str) -> Option<usize> {
    let (number, unit) = size.split_at(size.len().checked_sub(1)?);
    let number: usize = number.parse().ok()?;
    match unit {
        "K" => Some(number << 10),
        "M" => Some(number << 20),
        _ => None,
    }
}

fn rustc() -> String {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(
        |e| format!("unknown: {e}"),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}

/// The lines of `[profile.release]`.
fn release_profile(manifest: &str) -> String {
    let lines = manifest
        .lines()
        .skip_while(|l| l.trim() != "[profile.release]");
    let lines = lines.skip(1).take_while(|l| !l.starts_with('['));
    let lines: Vec<&str> = lines.map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\n";
        assert_eq!(field(cpuinfo, "model name").unwrap(), "Some CPU @ 2.50GHz");
        let meminfo = "MemTotal:       24684012 kB\nSlab:   77 kB\nHugePages_Total: 0\n";
        assert_eq!(kilobytes(meminfo, "Slab"), Some(77));
        assert_eq!(kilobytes(meminfo, "Mem"), None);
        assert_eq!(cache_bytes("1024K"), Some(1 << 20));
        assert_eq!(cache_bytes(""), None);
        let line = "quiet mitigations=auto secret=1 nohz_full=1\n";
        assert_eq!(parameters(line), "mitigations=auto nohz_full=1");
        let manifest = "[a]\nb = 1\n[profile.release]\nlto = \"thin\"\n\npanic = \"abort\"\n[c]\n";
        assert_eq!(
            release_profile(manifest),
            "lto = \"thin\", panic = \"abort\""
        );
    }

    #[test]
    fn this_machine_describes_itself() {
        let machine = Machine::this();
        assert!(!machine.cores.is_empty() && machine.tsc_hertz > 1_000_000);
        assert!(machine.rustc.starts_with("rustc "), "{}", machine.rustc);
        assert!(machine.profile.contains("lto"), "{}", machine.profile);
    }
}
