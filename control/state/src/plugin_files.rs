// SPDX-License-Identifier: Apache-2.0
//! What podswitch-cni keeps in files: a lock, and leases where its built-in IPAM has them by default. Every network namespace
//! of the machine shares them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use podswitch_api::method::TeardownReport;

/// Folder of the lock and the leases.
pub(crate) const RUN: &str = "/run/podswitch";
/// The lock in it, and the one in each network's folder: podswitch-cni holds them while it makes a pair, or changes leases.
const CNI_LOCK: &str = "cni.lock";
const LEASES_LOCK: &str = "lock";
/// Leases in it: `ipam/NETWORK/ADDRESS`, a symbolic link to `CONTAINER/IFNAME`.
const LEASES: &str = "ipam";
/// How long a plugin may hold a lock. It needs milliseconds; one that takes this long hangs or was stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// The files, with no plugin in the middle of making an interface.
pub(crate) struct PluginFiles<'a> {
    run: &'a Path,
    lock: Option<File>,
}

impl<'a> PluginFiles<'a> {
    /// Waits for a plugin that is making an interface. One that comes later opens the lock anew after
    /// [`PluginFiles::remove`].
    pub(crate) fn hold(run: &'a Path, report: &mut TeardownReport) -> PluginFiles<'a> {
        let lock = hold(&run.join(CNI_LOCK), false, report);
        PluginFiles { run, lock }
    }

    /// Removes the leases that `gone` says are nobody's any more, by network and holder; then folders without a lease, and the
    /// lock. Neither of these is reported: they come and go with calls of the plugin.
    pub(crate) fn remove(
        self,
        gone: impl Fn(&str, Option<&str>) -> bool,
        report: &mut TeardownReport,
    ) {
        let leases = self.run.join(LEASES);
        for entry in fs::read_dir(&leases).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let network = name.to_string_lossy();
            let folder = entry.path();
            if !folder.is_dir() {
                continue;
            }
            // Also made where it is missing: no plugin begins anything meanwhile.
            let Some(_lock) = hold(&folder.join(LEASES_LOCK), true, report) else {
                continue;
            };
            let removed = |ip: &str| report.removed("lease", format!("{network} {ip}"));
            if let Err(e) = network_leases(&folder, |holder| gone(&network, holder), removed) {
                report.failed("lease", folder.display().to_string(), e.to_string());
            }
        }
        // Whatever is not empty has something in it that is not ours, or is in use.
        let _ = fs::remove_dir(leases);
        if self.lock.is_some() {
            let path = self.run.join(CNI_LOCK);
            if let Err(e) = fs::remove_file(&path) {
                report.failed("lock", path.display().to_string(), e.to_string());
            }
        }
        let _ = fs::remove_dir(self.run);
    }
}

/// Removes leases of one network, and its folder when none is left. The folder is locked.
fn network_leases(
    folder: &Path,
    gone: impl Fn(Option<&str>) -> bool,
    mut removed: impl FnMut(&str),
) -> io::Result<()> {
    let mut bookkeeping = Vec::new();
    let mut kept = false;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.parse::<IpAddr>().is_err() {
            if name.starts_with("last_reserved_ip.") || name == "probe" {
                bookkeeping.push(path);
            }
            continue;
        }
        let holder = fs::read_link(&path).ok();
        if gone(holder.as_deref().and_then(Path::to_str)) {
            fs::remove_file(&path)?;
            removed(name);
        } else {
            kept = true;
        }
    }
    if kept {
        return Ok(());
    }
    for path in bookkeeping.iter().chain([&folder.join(LEASES_LOCK)]) {
        fs::remove_file(path)?;
    }
    // Somebody else's file in it is left to them.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Takes a lock; `None` when there is none, or when it cannot be had, which is reported.
fn hold(path: &Path, make: bool, report: &mut TeardownReport) -> Option<File> {
    take(path, make).unwrap_or_else(|e| {
        let why = match e.kind() {
            io::ErrorKind::WouldBlock => format!(
                "a podswitch-cni has held it for {} s: end that, and call teardown again",
                PATIENCE.as_secs()
            ),
            _ => e.to_string(),
        };
        report.failed("lock", path.display().to_string(), why);
        None
    })
}

fn take(path: &Path, make: bool) -> io::Result<Option<File>> {
    let end = Instant::now() + PATIENCE;
    let mut options = OpenOptions::new();
    options.write(true).create(make).truncate(false);
    loop {
        let file = match options.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(Some(file)),
            // Another teardown has removed it meanwhile.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn lease(run: &Path, network: &str, address: &str, holder: &str) {
        let folder = run.join(LEASES).join(network);
        fs::create_dir_all(&folder).unwrap();
        symlink(holder, folder.join(address)).unwrap();
        for name in [LEASES_LOCK, "last_reserved_ip.0"] {
            fs::write(folder.join(name), "").unwrap();
        }
    }

    fn remove(run: &Path, gone: impl Fn(&str, Option<&str>) -> bool) -> TeardownReport {
        let mut report = TeardownReport::default();
        let files = PluginFiles::hold(run, &mut report);
        files.remove(gone, &mut report);
        report
    }

    #[test]
    fn nothing_is_left_of_what_is_gone_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        assert_eq!(remove(&run, |_, _| true), TeardownReport::default());
        assert!(!run.exists());
        for (network, address, holder) in [
            ("pods", "10.0.0.1", "a/eth0"),
            ("pods", "fd00::1", "a/eth0"),
            ("other", "10.0.0.1", "a/eth0"),
            ("other", "10.0.0.2", "b/eth0"),
        ] {
            lease(&run, network, address, holder);
        }
        fs::write(run.join(LEASES).join("file"), "").unwrap();
        fs::write(run.join(CNI_LOCK), "").unwrap();
        let report = remove(&run, |network, holder| {
            (network, holder) == ("pods", Some("a/eth0"))
        });
        assert!(report.is_clean(), "{report:?}");
        let mut names: Vec<_> = report.removed.iter().map(|r| r.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["pods 10.0.0.1", "pods fd00::1"]);
        assert!(!run.join(CNI_LOCK).exists() && !run.join("ipam/pods").exists());
        assert_eq!(fs::read_dir(run.join("ipam/other")).unwrap().count(), 4);

        fs::remove_file(run.join(LEASES).join("file")).unwrap();
        // What is under an address's name and no lease, too.
        fs::write(run.join("ipam/other/10.0.0.3"), "").unwrap();
        assert!(remove(&run, |_, _| true).is_clean());
        assert!(!run.exists());
    }

    #[test]
    fn a_plugin_is_waited_for_and_one_that_hangs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        let path = run.join(CNI_LOCK);
        let plugin = File::create(&path).unwrap();
        plugin.lock().unwrap();
        let done = thread::scope(|scope| {
            let tearing = scope.spawn(|| remove(run, |_, _| true));
            thread::sleep(Duration::from_millis(100));
            assert!(path.exists());
            drop(plugin);
            tearing.join().unwrap()
        });
        assert!(done.is_clean() && !run.exists());

        fs::create_dir(run).unwrap();
        let plugin = File::create(&path).unwrap();
        plugin.lock().unwrap();
        let report = remove(run, |_, _| true);
        assert_eq!(report.failed[0].name, path.display().to_string());
        assert!(report.failed[0].message.contains("5 s"), "{report:?}");
        assert!(path.exists());
    }
}
