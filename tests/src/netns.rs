// SPDX-License-Identifier: Apache-2.0
//! Named network namespaces (ip-netns(8)) that are deleted when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::programs::{Ended, run};
use crate::wait::HUNG;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name no other test, in this process or another, has: `pst-PID-N-ROLE`.
pub fn unique(role: &str) -> String {
    format!(
        "pst-{}-{}-{role}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A network namespace of our own, or one that somebody else made and owns.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    /// Set when it is ours to delete.
    name: Option<String>,
}

impl Netns {
    /// Makes one with a unique name and its loopback device up.
    ///
    /// # Panics
    /// If the kernel refuses, which mostly means: not root.
    #[track_caller]
    pub fn new(role: &str) -> Netns {
        let name = unique(role);
        let made = run(Command::new("ip").args(["netns", "add", &name]), b"", HUNG);
        made.success("ip netns add (network namespaces need root)");
        let netns = Netns {
            path: Path::new("/run/netns").join(&name),
            name: Some(name),
        };
        netns.ip("link set lo up");
        netns
    }

    /// A namespace that somebody else owns, by a path such as `/proc/PID/ns/net`; dropping leaves it alone.
    pub fn at(path: impl Into<PathBuf>) -> Netns {
        Netns {
            path: path.into(),
            name: None,
        }
    }

    /// The file that holds it, as `CNI_NETNS` wants it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in `/run/netns`.
    ///
    /// # Panics
    /// For a namespace made by [`Netns::at`].
    pub fn name(&self) -> &str {
        self.name
            .as_deref()
            .expect("a namespace of our own has a name")
    }

    /// Runs a closure on a thread inside the namespace. Sockets it makes stay in the namespace wherever they are used.
    ///
    /// # Panics
    /// If the namespace is gone, or the closure panics.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file =
            File::open(&self.path).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
        let inside = move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command that will run inside. A named namespace also gets its own `/sys`, as a node has.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command;
        match &self.name {
            Some(name) => {
                command = Command::new("ip");
                command.args(["netns", "exec", name]);
            }
            None => {
                command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", self.path.display()))
                    .arg("--");
            }
        }
        command.arg(program);
        command
    }

    /// Runs `ip WORDS` inside and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.try_ip(words).success(&format!("ip {words}"))
    }

    /// Runs `ip WORDS` inside.
    #[track_caller]
    pub fn try_ip(&self, words: &str) -> Ended {
        run(self.command("ip").args(words.split_whitespace()), b"", HUNG)
    }

    /// Runs `ip -json WORDS` inside; an empty list if it prints nothing.
    ///
    /// # Panics
    /// If it fails or prints no JSON.
    #[track_caller]
    pub fn ip_json(&self, words: &str) -> Vec<serde_json::Value> {
        let text = self.ip(&format!("-json {words}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -json {words}: {e}: {text}"))
    }

    /// Names of its network devices but loopback, sorted.
    pub fn links(&self) -> Vec<String> {
        let links = self.ip_json("link show");
        let names = links.iter().filter_map(|l| l["ifname"].as_str());
        let mut names: Vec<String> = names.filter(|n| *n != "lo").map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Deletes its name now; the namespace lives on while something else holds it.
    pub fn delete(&mut self) {
        if let Some(name) = self.name.take() {
            let gone = run(
                Command::new("ip").args(["netns", "delete", &name]),
                b"",
                HUNG,
            );
            if gone.status != 0 && self.path.exists() {
                eprintln!("ip netns delete {name}: {}", gone.stderr);
            }
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.delete();
    }
}
