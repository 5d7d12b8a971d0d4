// SPDX-License-Identifier: Apache-2.0
//! Control groups of a test's own: what is attached to one concerns nobody else, and goes with it.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use podswitch_host::cgroup;
use tempfile::TempDir;

use crate::programs::run;
use crate::wait::{HUNG, poll};

/// A control group of version 2, below that of the test's process, which threads can be put into. Dropping it removes it. It is seen by a mount of its
/// own: a daemon in a namespace does not see those below `/sys`.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    mount: TempDir,
}

impl Cgroup {
    /// Makes one, empty.
    ///
    /// # Panics
    /// If cgroup2 is not mounted, or this process must not make groups.
    #[track_caller]
    pub fn new() -> Cgroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").expect("the groups of this process");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pst-{}-{next}", process::id());
        let mount = tempfile::tempdir().expect("a temporary folder");
        let own = mount.path().join(own.expect("a group of version 2"));
        let mut command = Command::new("mount");
        let command = command.args(["-t", "cgroup2", "none"]).arg(mount.path());
        run(command, b"", HUNG).success("mount");
        let path = own.join(name);
        let made = Cgroup { path, mount };
        fs::create_dir(&made.path).expect("a control group");
        fs::write(made.path.join("cgroup.type"), "threaded").expect("a group of threads");
        made
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does some work on a thread in it, as are those that the work starts.
    ///
    /// # Panics
    /// If a thread cannot be put into it, or the closure panics.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            fs::write(self.path.join("cgroup.threads"), "0").expect("a thread in the group");
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// How many programs of podswitch's are on it for the network namespace of the calling thread.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[track_caller]
    pub fn programs(&self) -> usize {
        let group = cgroup::open(&self.path).expect("the group");
        let netns = cgroup::netns_cookie().expect("a cookie");
        cgroup::ours(group.as_fd(), netns)
            .expect("its programs")
            .len()
    }
}

impl Default for Cgroup {
    fn default() -> Cgroup {
        Cgroup::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A thread that has been joined is in it for a moment more.
        let mut failed = None;
        let mut remove = || fs::remove_dir(&self.path).map_err(|e| failed = Some(e));
        if poll(HUNG, || remove().ok()).is_none() {
            eprintln!("{} stays: {failed:?}", self.path.display());
        }
        let mut command = Command::new("umount");
        run(command.arg("-l").arg(self.mount.path()), b"", HUNG);
    }
}
