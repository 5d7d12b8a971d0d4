// SPDX-License-Identifier: Apache-2.0
//! What the kernel says about a namespace: counters, offloads, sysctls.

use std::collections::BTreeMap;
use std::path::Path;

use crate::netns::Netns;
use crate::programs::run;
use crate::wait::HUNG;

/// A counter of `/proc/net/snmp` or `/proc/net/netstat`, such as `Tcp` `InCsumErrors`.
///
/// # Panics
/// If the kernel has no such counter.
#[track_caller]
pub fn counter(netns: &Netns, group: &str, name: &str) -> u64 {
    let found = netns.run(|| {
        ["snmp", "netstat"].iter().find_map(|file| {
            let text =
                std::fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).ok()?;
            lookup(&text, group, name)
        })
    });
    found.unwrap_or_else(|| panic!("no counter {group} {name}"))
}

/// The files hold pairs of lines: names, then values, both starting with the group.
fn lookup(text: &str, group: &str, name: &str) -> Option<u64> {
    let prefix = format!("{group}:");
    let mut lines = text.lines().filter(|l| l.starts_with(&prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// A counter of `/proc/net/snmp6`, such as `Udp6InErrors`.
///
/// # Panics
/// If the kernel has no such counter.
#[track_caller]
pub fn counter6(netns: &Netns, name: &str) -> u64 {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6"));
    let line = text
        .lines()
        .find(|l| l.split_whitespace().next() == Some(name));
    let value = line.and_then(|l| l.split_whitespace().nth(1));
    value
        .unwrap_or_else(|| panic!("no counter {name}"))
        .parse()
        .expect("a number")
}

/// Offloads of a device as `ethtool -k` prints them: feature -> on.
///
/// # Panics
/// If there is no such device.
#[track_caller]
pub fn offloads(netns: &Netns, device: &str) -> BTreeMap<String, bool> {
    let text = run(netns.command("ethtool").args(["-k", device]), b"", HUNG).success("ethtool -k");
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        Some((name.to_owned(), value.starts_with("on")))
    });
    pairs.collect()
}

/// A sysctl of the namespace, such as `net/ipv4/ip_forward`; none if the kernel has no such file.
pub fn sysctl(netns: &Netns, name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name);
    let text = netns.run(|| std::fs::read_to_string(path).ok())?;
    Some(text.trim().to_owned())
}

/// Sets a sysctl of the namespace.
///
/// # Panics
/// If the kernel refuses.
#[track_caller]
pub fn set_sysctl(netns: &Netns, name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    netns
        .run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn snmp_lines_pair_names_with_values() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 2 64\nTcp: InErrs InCsumErrors\nTcp: 1 7\n";
        assert_eq!(lookup(text, "Tcp", "InCsumErrors"), Some(7));
        assert_eq!(lookup(text, "Ip", "DefaultTTL"), Some(64));
        assert_eq!(lookup(text, "Udp", "InErrs"), None);
        assert_eq!(lookup(text, "Tcp", "None"), None);
    }
}
