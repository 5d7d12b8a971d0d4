// SPDX-License-Identifier: Apache-2.0
//! dpdk-testpmd, which moves every packet to the other port and looks at none.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use core_affinity::CoreId;
use nix::sys::signal::Signal;
use podswitch_tests::Netns;
use podswitch_tests::programs::Running;

use super::huge::HugePages;
use super::side::{Side, sockets};

/// Huge pages that it needs, and the memory that it takes of them, MiB.
const PAGES: u32 = 160;
const MEMORY: &str = "256";

/// dpdk-testpmd in mode `io`, between two devices of its vhost driver.
pub(super) struct Testpmd {
    running: Running,
    // Whoever cleans up after a benchmark that was interrupted ends what runs in it.
    _netns: Netns,
    sockets: [PathBuf; 2],
    // After the program, which has them.
    pages: Option<HugePages>,
}

impl Testpmd {
    /// On a core of its own; its main thread, which only waits, is on the other one. For superframes it has devices that take them whole, with what is said of
    /// their checksums and segments handed on, and buffers that hold one each.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(super) fn new(folder: &Path, main: CoreId, core: CoreId, superframes: bool) -> Testpmd {
        let sockets = sockets(folder);
        let pages = HugePages::set_aside(PAGES);
        let memory: &[&str] = match &pages {
            Some(_) => &["--in-memory", "-m", MEMORY],
            None => &["--no-huge", "--no-shconf", "-m", MEMORY],
        };
        let (kind, buffers): (_, &[&str]) = match superframes {
            true => (
                ",tso=1,legacy-ol-flags=1",
                &["--mbuf-size=65535", "--total-num-mbufs=2048"],
            ),
            false => ("", &["--total-num-mbufs=32768"]),
        };
        let netns = Netns::new("testpmd");
        let mut command = netns.command("dpdk-testpmd");
        command
            .arg("--lcores")
            .arg(format!("0@{},1@{}", main.id, core.id))
            .args(["--no-pci", "--no-telemetry"])
            .args(memory);
        for (n, path) in sockets.iter().enumerate() {
            let device = format!("net_vhost{n},iface={},queues=1{kind}", path.display());
            command.args(["--vdev", &device]);
        }
        command
            .args(["--", "--forward-mode=io", "--auto-start", "--nb-cores=1"])
            .arg("--no-lsc-interrupt")
            .args(buffers)
            // It ends when its input does.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Testpmd {
            running: Running::start(&mut command),
            _netns: netns,
            sockets,
            pages,
        }
    }
}

impl Side for Testpmd {
    fn names(&self) -> &'static [&'static str] {
        &["testpmd io"]
    }

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn run(&self, on: bool) {
        self.running.signal(match on {
            true => Signal::SIGCONT,
            false => Signal::SIGSTOP,
        });
    }

    fn problem(&self) -> Option<String> {
        let none = self.pages.is_none();
        none.then(|| "dpdk-testpmd had no huge pages: it is slower without".into())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.running.signal(Signal::SIGKILL);
        let _ = self.running.wait(Duration::from_secs(20));
    }
}
