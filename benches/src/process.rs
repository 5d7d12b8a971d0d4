// SPDX-License-Identifier: Apache-2.0
//! What /proc says of a process.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::machine::kilobytes;

/// Nanoseconds that a process's threads have run, by name (`comm`), from `/proc/PID/task/*/schedstat`.
///
/// # Panics
/// When there is no such process.
pub fn run_times(pid: i32) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let ran = read("schedstat");
        let ran = ran.split_whitespace().next().and_then(|n| n.parse().ok());
        // A thread may end between the two.
        if let Some(ran) = ran {
            let ran: u64 = ran;
            *times.entry(read("comm").trim().to_owned()).or_insert(0) += ran;
        }
    }
    times
}

/// Memory of a process, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Resident set size (`VmRSS`).
    pub rss: u64,
    /// Proportional set size (`Pss` of smaps_rollup).
    pub pss: u64,
    /// Proportional set size of mappings that are no memfd's.
    pub own: u64,
    /// Memory allocated for each memfd it has open, by name: also what it has not touched itself.
    pub memfds: BTreeMap<String, u64>,
}

/// Memory of a process.
///
/// # Panics
/// When there is no such process.
pub fn memory(pid: i32) -> Memory {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}"))
            .expect("the process runs, and we are root")
    };
    Memory {
        rss: kilobytes(&read("status"), "VmRSS").unwrap_or(0) << 10,
        pss: kilobytes(&read("smaps_rollup"), "Pss").unwrap_or(0) << 10,
        own: own_pss(&read("smaps")),
        memfds: memfds(pid),
    }
}

/// Adds up `Pss` of the mappings in smaps that are no memfd's.
fn own_pss(smaps: &str) -> u64 {
    let (mut sum, mut ours) = (0, true);
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            ours = !line.contains("/memfd:");
        } else if ours && first == "Pss:" {
            sum += kilobytes(line, "Pss").unwrap_or(0) << 10;
        }
    }
    sum
}

/// Bytes allocated for each open memfd.
fn memfds(pid: i32) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut seen = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let Some(name) = target.strip_prefix("/memfd:") else {
            continue;
        };
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if !seen.contains(&metadata.ino()) {
            seen.push(metadata.ino());
            let name = name.trim_end_matches(" (deleted)").to_owned();
            *found.entry(name).or_insert(0) += metadata.blocks() * 512;
        }
    }
    found
}

/// Memory of the whole machine, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kernel {
    /// By name: parts of /proc/meminfo that the kernel uses for itself.
    pub parts: BTreeMap<&'static str, u64>,
    /// All that is in use: not free, and not a cache of files.
    pub used: u64,
    /// Bytes in the objects of each cache of /proc/slabinfo; empty where it cannot be read.
    pub slabs: BTreeMap<String, u64>,
}

/// What the kernel uses for itself, by /proc/meminfo; the first two are its slab caches.
pub const PARTS: [&str; 6] = [
    "SUnreclaim",
    "SReclaimable",
    "VmallocUsed",
    "Percpu",
    "KernelStack",
    "PageTables",
];

impl Kernel {
    /// Now.
    pub fn now() -> Kernel {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let slabinfo = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let bytes = |name: &str| kilobytes(&meminfo, name).unwrap_or(0) << 10;
        let free = bytes("MemFree") + bytes("Buffers") + bytes("Cached") + bytes("SReclaimable");
        Kernel {
            parts: PARTS.into_iter().map(|name| (name, bytes(name))).collect(),
            used: (bytes("MemTotal") + bytes("Shmem")).saturating_sub(free),
            slabs: slabs(&slabinfo),
        }
    }

    /// All parts together.
    pub fn sum(&self) -> u64 {
        self.parts.values().sum()
    }
}

fn slabs(slabinfo: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in slabinfo.lines().skip(2) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, _, objects, size, ..] = words[..]
            && let (Ok(objects), Ok(size)) = (objects.parse::<u64>(), size.parse::<u64>())
        {
            found.insert(name.to_owned(), objects * size);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_memfds_are_left_out() {
        let smaps = "55d0-55d1 r-xp 00000000 08:01 1 /usr/bin/x\nRss: 8 kB\nPss:  4 kB\nPss_Dirty: 4 kB\n\
             7f00-7f01 rw-s 00000000 00:01 2 /memfd:podswitch-arena (deleted)\nPss: 400 kB\n\
             7f02-7f03 rw-p 00000000 00:00 0\nPss: 3 kB\n";
        assert_eq!(own_pss(smaps), 7 << 10);
    }

    #[test]
    fn slabs_are_objects_times_size() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
             kmalloc-64  10 12 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n";
        assert_eq!(slabs(text), [("kmalloc-64".to_owned(), 768)].into());
    }

    #[test]
    fn this_process_has_memory_and_runs() {
        let pid = std::process::id() as i32;
        let memory = memory(pid);
        assert!(memory.rss > 0 && memory.pss > 0 && memory.own <= memory.pss + (1 << 20));
        assert!(run_times(pid).values().sum::<u64>() > 0);
        let kernel = Kernel::now();
        assert!(kernel.used > 0 && kernel.sum() > 0);
    }
}
