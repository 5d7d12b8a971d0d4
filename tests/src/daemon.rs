// SPDX-License-Identifier: Apache-2.0
//! A podswitchd of the test's own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::netns::Netns;
use crate::programs::{Running, bin_dir};
use crate::wait::{HUNG, poll};

/// A running daemon; killed with SIGKILL when dropped.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    log: PathBuf,
}

impl Daemon {
    /// Starts `podswitchd --config CONFIG` in the node's namespace and waits until its socket takes connections. What
    /// it prints is added to `log`.
    ///
    /// # Panics
    /// If it ends or hangs before that, with its log.
    #[track_caller]
    pub fn start(node: &Netns, config: &Path, socket: &Path, log: &Path) -> Daemon {
        let mut daemon = Daemon::spawn(node, config, log);
        let listens = poll(HUNG, || {
            if let Some(status) = daemon.running.ended() {
                panic!("podswitchd ended with status {status}:\n{}", daemon.log());
            }
            UnixStream::connect(socket).ok()
        });
        assert!(
            listens.is_some(),
            "podswitchd does not listen on {}:\n{}",
            socket.display(),
            daemon.log()
        );
        daemon
    }

    /// Starts it and waits for nothing.
    #[track_caller]
    pub fn spawn(node: &Netns, config: &Path, log: &Path) -> Daemon {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the daemon's log");
        let err = out.try_clone().expect("the daemon's log");
        let mut command = node.command(bin_dir().join("podswitchd"));
        command
            .arg("--config")
            .arg(config)
            .env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Daemon {
            running: Running::start(&mut command),
            log: log.to_path_buf(),
        }
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(mut self) {
        self.running.signal(Signal::SIGKILL);
        self.running.wait(HUNG);
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Panics
    /// If its exit status is not 0.
    #[track_caller]
    pub fn terminate(mut self) {
        self.running.signal(Signal::SIGTERM);
        let status = self.running.wait(HUNG);
        assert_eq!(
            status,
            0,
            "podswitchd's exit status after SIGTERM:\n{}",
            self.log()
        );
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits until it ends and returns its status.
    #[track_caller]
    pub fn wait(mut self) -> i32 {
        self.running.wait(HUNG)
    }
}
