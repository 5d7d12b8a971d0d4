// SPDX-License-Identifier: Apache-2.0
//! dpdk-testpmd with one virtio-user device, as a DPDK pod has it: it answers ARP and pings over IPv4 for any address. It needs no hugepages.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::programs::Running;
use crate::wait::{HUNG, poll};

/// How the device is to be.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Path of the socket.
    pub socket: &'a Path,
    /// Its MAC address.
    pub mac: &'a str,
    /// It listens on the socket.
    pub server: bool,
    /// Its queues are packed ones.
    pub packed: bool,
    /// Pairs of queues.
    pub queues: u16,
}

/// A running testpmd; killed with SIGKILL when dropped.
#[derive(Debug)]
pub struct Testpmd {
    running: Running,
    log: PathBuf,
}

impl Testpmd {
    /// Starts it; what it prints is added to `log`. One that listens answers nobody until the switch has connected, and one that connects ends when
    /// nobody listens.
    #[track_caller]
    pub fn start(device: &Device<'_>, log: &Path) -> Testpmd {
        let out = File::options().create(true).append(true).open(log);
        let out = out.expect("testpmd's log");
        let err = out.try_clone().expect("testpmd's log");
        let flag = |is: bool| u8::from(is);
        let vdev = format!(
            "net_virtio_user0,path={},server={},packed_vq={},queues={},mac={}",
            device.socket.display(),
            flag(device.server),
            flag(device.packed),
            device.queues,
            device.mac
        );
        let queues = device.queues;
        // What it prints into a file would come when it has ended.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "dpdk-testpmd"])
            // Both of its threads on one core, beside the worker's.
            .args([
                "--lcores",
                "(0,1)@1",
                "--no-pci",
                "--no-huge",
                "--no-shconf",
            ])
            .args(["-m", "64", "--no-telemetry", "--vdev", &vdev, "--"])
            .args(["--forward-mode=icmpecho", "--auto-start"])
            .args(["--total-num-mbufs=2048"])
            .args([format!("--rxq={queues}"), format!("--txq={queues}")])
            // It ends when its input does.
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err);
        Testpmd {
            running: Running::start(&mut command),
            log: log.to_path_buf(),
        }
    }

    /// Waits until it forwards.
    ///
    /// # Panics
    /// If it ends or hangs before that, with its log.
    #[track_caller]
    pub fn forwards(mut self) -> Testpmd {
        let forwards = poll(HUNG, || {
            if let Some(status) = self.running.ended() {
                panic!("testpmd ended with status {status}:\n{}", self.log());
            }
            let last = self.log();
            last.trim_end()
                .ends_with("Press enter to exit")
                .then_some(())
        });
        assert!(forwards.is_some(), "testpmd hangs:\n{}", self.log());
        self
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(mut self) {
        self.running.signal(Signal::SIGKILL);
        self.running.wait(HUNG);
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }
}
