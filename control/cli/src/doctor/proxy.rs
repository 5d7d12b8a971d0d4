// SPDX-License-Identifier: Apache-2.0
//! kube-proxy: its rules in nftables, iptables and IPVS.

use std::process::Command;

use super::{Finding, Machine, Severity};

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let run = |program: &str, arguments: &[&str]| match machine.is_real() {
        true => output(program, arguments),
        false => String::new(),
    };
    let tables = run("nft", &["list", "tables"]);
    // iptables keeps its chains there, too, but for the old kind, which would load a table to look at it: it is asked where that is there already.
    let mut chains = run("nft", &["list", "chains"]);
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        let names = machine.read(names).unwrap_or_default();
        if names.lines().any(|name| name == "nat") {
            chains += &run(program, &["-t", "nat"]);
        }
    }
    let servers = machine.read("/proc/net/ip_vs").unwrap_or_default();
    vec![judge(&tables, &chains, &servers)]
}

/// What a program prints; nothing if it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let done = output.ok().filter(|o| o.status.success());
    done.map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default()
}

fn judge(tables: &str, chains: &str, servers: &str) -> Finding {
    let nftables = tables
        .lines()
        .any(|l| l.split(' ').next_back() == Some("kube-proxy"));
    let of_iptables = ["chain KUBE-SERVICES ", ":KUBE-SERVICES "];
    let mut lines = chains.lines().map(str::trim_start);
    let iptables = lines.any(|l| of_iptables.iter().any(|name| l.starts_with(name)));
    // Three lines of headings.
    let ipvs = servers.lines().nth(3).is_some();
    let modes = [
        (nftables, "nftables"),
        (iptables, "iptables"),
        (ipvs, "IPVS"),
    ];
    let found: Vec<&str> = modes.iter().filter(|m| m.0).map(|m| m.1).collect();
    match found.is_empty() {
        true => Finding::ok("kube-proxy", "no rules of it"),
        false => Finding::new(
            Severity::Warning,
            "kube-proxy",
            format!(
                "has rules on this node ({}); packets of pods do not pass them",
                found.join(", ")
            ),
        )
        .hint("where podswitch serves Services, take kube-proxy away, and its rules (kube-proxy --cleanup)"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, short};
    use super::*;

    const SERVERS: &str = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n\
        \x20 -> RemoteAddress:Port Forward Weight ActiveConn InActConn";

    #[test]
    fn rules_of_every_kind_are_found() {
        for (tables, chains, servers, words) in [
            ("table ip kube-proxy\n", "", "", "(nftables)"),
            (
                "table ip nat\n",
                ":KUBE-SERVICES - [0:0]\n",
                "",
                "(iptables)",
            ),
            (
                "",
                "table ip nat {\n\tchain KUBE-SERVICES {\n\t}\n}\n",
                "",
                "(iptables)",
            ),
            (
                "",
                "",
                &*format!("{SERVERS}\nTCP  0A600001:01BB rr\n"),
                "(IPVS)",
            ),
        ] {
            let found = judge(tables, chains, servers);
            assert_eq!(found.severity, Severity::Warning);
            assert!(found.message.contains(words), "{found:?}");
        }
        let none = judge(
            "table inet podswitch\n",
            ":PREROUTING ACCEPT [0:0]\n",
            SERVERS,
        );
        assert_eq!(none.severity, Severity::Ok);
    }

    #[test]
    fn the_kernels_list_of_virtual_servers_is_read() {
        let server = format!("{SERVERS}\nTCP  0A600001:01BB rr\n");
        let (_root, machine) = machine(&[("/proc/net/ip_vs", &server)]);
        assert_eq!(short(&check(&machine)), [(Severity::Warning, "kube-proxy")]);
    }
}
