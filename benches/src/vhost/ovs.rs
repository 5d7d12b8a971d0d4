// SPDX-License-Identifier: Apache-2.0
//! Open vSwitch with DPDK: a bridge that learns MAC addresses (NORMAL), with connection tracking and as many rules as the switch has.

use std::cell::Cell;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use core_affinity::CoreId;
use nix::sys::signal::Signal;
use podswitch_tests::Netns;
use podswitch_tests::programs::{Running, run, target_dir};
use podswitch_tests::wait::{HUNG, eventually};

use super::acl;
use super::huge::HugePages;
use super::side::{Side, sockets};
use crate::traffic::{self, Family, GATEWAY_MAC};

/// The forwarder, in the root folder or in the one that its packages were unpacked into.
const DAEMON: &str = "usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// Huge pages that it takes: 262,144 buffers for each MTU, and its own.
const PAGES: u32 = 640;
const BRIDGE: &str = "bench";
/// How it is set up in turn: every packet's flow is put into the exact match cache, or none.
const WAYS: [&str; 2] = ["OVS with EMC", "OVS without EMC"];
const INVERSE_PROBABILITY: [&str; 2] = ["1", "0"];

/// A private Open vSwitch: database, control sockets and logs in a folder, devices in a network namespace.
pub(super) struct Ovs {
    daemon: Running,
    _database: Running,
    // Whoever cleans up after a benchmark that was interrupted ends what runs in it.
    _netns: Netns,
    folder: PathBuf,
    root: PathBuf,
    sockets: [PathBuf; 2],
    way: Cell<usize>,
    // After the programs, which have them.
    pages: Option<HugePages>,
}

/// Where it is installed, or unpacked.
pub(super) fn root() -> Option<PathBuf> {
    let roots = [PathBuf::from("/"), target_dir().join("openvswitch")];
    roots.into_iter().find(|r| r.join(DAEMON).is_file())
}

impl Ovs {
    /// Polls on a core of its own; its other threads are on the other one.
    ///
    /// # Panics
    /// When it cannot be started, or does not do as it is told.
    pub(super) fn new(root: PathBuf, folder: &Path, main: CoreId, core: CoreId) -> Ovs {
        let netns = Netns::new("ovs");
        let database = database(&root, folder, &netns);
        let pages = HugePages::set_aside(PAGES);
        let memory = match &pages {
            Some(_) => "--in-memory",
            None => "--no-huge -m 1024",
        };
        let setting = |name: &str, value: &str| format!("other_config:{name}={value}");
        let settings = [
            setting("dpdk-init", "true"),
            setting("dpdk-lcore-mask", &format!("{:#x}", 1u128 << main.id)),
            setting("pmd-cpu-mask", &format!("{:#x}", 1u128 << core.id)),
            // One word of the database.
            setting(
                "dpdk-extra",
                &format!("\"--no-pci --no-telemetry {memory}\""),
            ),
        ];
        vsctl(&root, folder, &["--no-wait", "init"]);
        let set = ["--no-wait", "set", "Open_vSwitch", "."];
        let words = set.into_iter().chain(settings.iter().map(String::as_str));
        vsctl(&root, folder, &words.collect::<Vec<_>>());
        let mut command = netns.command(root.join(DAEMON));
        command
            .arg(format!("unix:{}", folder.join("db.sock").display()))
            .arg(format!("--unixctl={}", folder.join("ctl").display()))
            .arg(format!("--log-file={}", folder.join("log").display()))
            .arg("-vconsole:off");
        let ovs = Ovs {
            daemon: Running::start(quiet(&mut command, folder)),
            _database: database,
            _netns: netns,
            folder: folder.to_path_buf(),
            root,
            sockets: sockets(folder),
            way: Cell::new(usize::MAX),
            pages,
        };
        ovs.make_bridge();
        ovs
    }

    fn make_bridge(&self) {
        let mut words = format!(
            "add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev fail-mode=secure other-config:disable-in-band=true"
        );
        for name in ["a", "b"] {
            write!(
                words,
                " -- add-port {BRIDGE} {name} -- set Interface {name} type=dpdkvhostuser"
            )
            .expect("a string grows");
        }
        self.vsctl(&words.split(' ').collect::<Vec<_>>());
        for name in ["a", "b"] {
            let error = self.vsctl(&["get", "Interface", name, "error"]);
            assert_eq!(error.trim(), "[]", "{}", self.log());
        }
        let at = format!(
            "unix:{}",
            self.folder.join(format!("{BRIDGE}.mgmt")).display()
        );
        let mut ofctl = program(&self.root, &self.folder, "usr/bin/ovs-ofctl");
        let ended = run(
            ofctl.args(["add-flows", &at, "-"]),
            rules().as_bytes(),
            HUNG,
        );
        ended.success("ovs-ofctl");
        // The receiver says nothing by which its port could be learned.
        let mac = GATEWAY_MAC.0.map(|byte| format!("{byte:02x}")).join(":");
        self.appctl(&["fdb/add", BRIDGE, "b", "0", &mac]);
    }

    fn vsctl(&self, words: &[&str]) -> String {
        vsctl(&self.root, &self.folder, words)
    }

    fn appctl(&self, words: &[&str]) -> String {
        let mut appctl = program(&self.root, &self.folder, "usr/bin/ovs-appctl");
        appctl.arg("-t").arg(self.folder.join("ctl")).args(words);
        run(&mut appctl, b"", HUNG).success("ovs-appctl")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Side for Ovs {
    fn names(&self) -> &'static [&'static str] {
        &WAYS
    }

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn run(&self, on: bool) {
        self.daemon.signal(match on {
            true => Signal::SIGCONT,
            false => Signal::SIGSTOP,
        });
    }

    fn set_up(&self, way: usize) {
        if self.way.replace(way) != way {
            let setting = INVERSE_PROBABILITY[way];
            let setting = format!("other_config:emc-insert-inv-prob={setting}");
            self.vsctl(&["set", "Open_vSwitch", ".", &setting]);
        }
    }

    /// All of them are connections that it tracks.
    fn begin(&mut self, flows: u32) {
        let tracked = self.appctl(&["dpctl/ct-get-nconns"]);
        let tracked = tracked.trim().parse::<u32>().expect("a number");
        assert!(tracked >= flows, "{tracked} connections of {flows} flows");
    }

    fn problem(&self) -> Option<String> {
        let none = self.pages.is_none();
        none.then(|| "OVS had no huge pages: it is slower without".into())
    }
}

/// A new database and who serves it.
fn database(root: &Path, folder: &Path, netns: &Netns) -> Running {
    let file = folder.join("conf.db");
    let mut tool = program(root, folder, "usr/bin/ovsdb-tool");
    tool.arg("create")
        .arg(&file)
        .arg(root.join("usr/share/openvswitch/vswitch.ovsschema"));
    run(&mut tool, b"", HUNG).success("ovsdb-tool");
    let mut server = netns.command(root.join("usr/sbin/ovsdb-server"));
    let socket = folder.join("db.sock");
    server
        .arg(&file)
        .arg(format!("--remote=punix:{}", socket.display()))
        .arg(format!("--unixctl={}", folder.join("db.ctl").display()))
        .arg("-vconsole:off");
    let running = Running::start(quiet(&mut server, folder));
    eventually("OVS's database listens", HUNG, || {
        socket.exists().then_some(())
    });
    running
}

/// A program that uses the folder for everything that it would leave elsewhere.
fn program(root: &Path, folder: &Path, path: &str) -> Command {
    let mut command = Command::new(root.join(path));
    at_home(&mut command, folder);
    command
}

fn at_home<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, folder);
    }
    command
}

fn quiet<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    at_home(command, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

fn vsctl(root: &Path, folder: &Path, words: &[&str]) -> String {
    let mut command = program(root, folder, "usr/bin/ovs-vsctl");
    command
        .arg(format!("--db=unix:{}", folder.join("db.sock").display()))
        .arg("--timeout=25")
        .args(words);
    run(&mut command, b"", HUNG).success("ovs-vsctl")
}

/// A connection that is known is let on; of those that are new, the ones that a rule allows.
fn rules() -> String {
    let [from, to] = [0, 1].map(|pod| traffic::address(pod, Family::V4));
    let mut text = String::from(
        "table=0,priority=100,ip,ct_state=-trk,actions=ct(table=1)\n\
         table=1,priority=900,ip,ct_state=+trk+inv,actions=drop\n\
         table=1,priority=800,ip,ct_state=+trk+est,actions=NORMAL\n",
    );
    let services = acl::SERVICES.map(|port| (from, port));
    let others = (0..acl::RULES - services.len()).map(acl::other);
    for (peer, port) in others.chain(services) {
        writeln!(
            text,
            "table=1,priority=500,udp,ct_state=+trk+new,nw_src={peer},nw_dst={to},tp_dst={port},actions=ct(commit),NORMAL"
        )
        .expect("a string grows");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_rules_as_the_switch_has() {
        let text = rules();
        let asked = text.lines().filter(|l| l.contains("+new")).count();
        assert_eq!(asked, acl::RULES);
    }
}
