// SPDX-License-Identifier: Apache-2.0
//! Takes everything apart that podswitch made or changed in the network namespace of the caller, forgets the desired state, and
//! removes what podswitch-cni keeps in files.
//! What is there is read from the kernel, not taken from a record; the record says only how things were before.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use podswitch_api::DEFAULT_SOCKET;
use podswitch_api::limits::MAX_WORKERS;
use podswitch_api::method::TeardownReport;
use podswitch_api::object::HOST_POLLED;
use podswitch_host::ethtool::Ethtool;
use podswitch_host::{Error, Link, Socket, bpf, cgroup, link, nft, sysctl, tc, xdp};

use crate::config::Config;
use crate::plugin_files::{self, PluginFiles};
use crate::store::{self, OwnedInterface, SavedFeature, SavedSetting, Store, StoreError};

/// What the alias of an interface begins with that podswitch-cni made.
pub const ALIAS_PREFIX: &str = "podswitch:";
/// What the name of an interface that podswitch-cni makes begins with; 12 hexadecimal digits follow.
const NAME_PREFIX: &str = "psw";

/// Takes everything apart while no daemon runs. Doing it again, or where nothing is, does nothing.
///
/// # Errors
/// [`StoreError::Locked`] when a daemon runs after all, and what the system says when the state directory cannot be opened.
/// A state that cannot be read is no error: it is removed, and only what the kernel shows is taken apart.
pub fn teardown(config: &Config) -> Result<TeardownReport, StoreError> {
    match Store::open_existing(&config.state_dir) {
        Ok(store) => Ok(take_apart(store, config)),
        Err(e @ (StoreError::Damaged { .. } | StoreError::NewerSchema { .. })) => {
            let mut report = take_apart(None, config);
            match store::remove(&config.state_dir) {
                Ok(()) => report.removed(
                    "state",
                    format!("{} (unread: {e})", config.state_dir.display()),
                ),
                Err(e) => report.failed(
                    "state",
                    config.state_dir.display().to_string(),
                    e.to_string(),
                ),
            }
            Ok(report)
        }
        Err(e) => Err(e),
    }
}

/// Takes everything apart, with the state in hand. The daemon's sockets on the interfaces must be closed.
pub fn take_apart(store: Option<Store>, config: &Config) -> TeardownReport {
    let mut report = TeardownReport::default();
    let owned = match store.as_ref().map(Store::owned) {
        None => Vec::new(),
        Some(Ok(owned)) => owned,
        Some(Err(e)) => {
            report.failed(
                "state",
                "interfaces",
                format!("how they were before is not known: {e}"),
            );
            Vec::new()
        }
    };
    let files = PluginFiles::hold(Path::new(plugin_files::RUN), &mut report);
    let mut detached = BTreeSet::new();
    if let Err(e) = interfaces(&owned, &mut detached, &mut report) {
        report.failed("interface", "(all)", e.to_string());
    }
    cgroups(&owned, config, &mut report);
    remove_socket(&config.socket, &mut report);
    remove_bindings(config, &mut report);
    // The leases are the whole machine's. With the default socket its one daemon was ours; another may be one of several.
    let all = config.socket == Path::new(DEFAULT_SOCKET);
    let gone = |network: &str, holder: Option<&str>| {
        all || holder.is_some_and(|h| detached.contains(&alias(network, h)))
    };
    files.remove(gone, &mut report);
    if let Some(store) = store {
        let directory = config.state_dir.display().to_string();
        match store.destroy() {
            Ok(()) => report.removed("state", directory),
            Err(e) => report.failed("state", directory, e.to_string()),
        }
    }
    report
}

/// What podswitch-cni writes on the host end of a lease's holder (`CONTAINER/IFNAME`).
fn alias(network: &str, holder: &str) -> String {
    format!("{ALIAS_PREFIX}{network}:{}", holder.replace('/', ":"))
}

/// Takes every interface apart; the aliases of those deleted are added to `detached`.
fn interfaces(
    owned: &[OwnedInterface],
    detached: &mut BTreeSet<String>,
    report: &mut TeardownReport,
) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    for found in link::list(&mut socket)? {
        if is_ours(&found) {
            match link::delete_if_exists(&mut socket, found.index) {
                Ok(was_there) => {
                    detached.extend(found.alias);
                    // Else its other end was deleted with the pod meanwhile.
                    if was_there {
                        report.removed("interface", found.name);
                    }
                }
                Err(e) => report.failed("interface", found.name, e.to_string()),
            }
            continue;
        }
        let before = owned
            .iter()
            .find(|o| o.name == found.name && o.index == found.index);
        let mut work = Work {
            socket: &mut socket,
            link: &found,
            report,
        };
        work.restore(before);
    }
    let host = owned.iter().find(|o| o.name == HOST_POLLED);
    if let Some(before) = host {
        add(report, put_back_host(before));
    }
    Ok(())
}

/// Puts back what was changed of the host's for the way to its own stack: settings that nobody else has changed since, and our own
/// tables. The interface itself may be gone.
fn put_back_host(before: &OwnedInterface) -> TeardownReport {
    let mut report = TeardownReport::default();
    for table in &before.tables {
        let deleted = nft::delete_table(table);
        note(
            &mut report,
            "nftables",
            &format!("table inet {table}"),
            deleted,
        );
    }
    for setting in before.settings.iter().rev() {
        note(
            &mut report,
            "sysctl",
            &setting.path,
            restore_setting(setting),
        );
    }
    report
}

fn add(report: &mut TeardownReport, done: TeardownReport) {
    report.removed.extend(done.removed);
    report.failed.extend(done.failed);
}

/// Takes our programs off every control group that is noted, and that which would be used now.
fn cgroups(owned: &[OwnedInterface], config: &Config, report: &mut TeardownReport) {
    let noted = owned.iter().filter(|o| is_cgroup(o));
    let mut all: BTreeSet<PathBuf> = noted.map(|o| PathBuf::from(&o.name)).collect();
    all.extend(config.cgroup.clone().or_else(|| cgroup::root().ok()));
    for path in all {
        add(report, put_back_cgroup(&path));
    }
}

/// Whether a note is of a control group that our programs are on: it is noted under its path, which no interface can be called.
fn is_cgroup(note: &OwnedInterface) -> bool {
    note.name.starts_with('/')
}

/// Takes our programs off a control group.
fn put_back_cgroup(path: &Path) -> TeardownReport {
    let mut report = TeardownReport::default();
    let removed = cgroup::remove_ours(path).map(|count| count > 0);
    note(&mut report, "cgroup", &path.display().to_string(), removed);
    report
}

/// Puts one interface that is not ours back as it was before it was taken: a veth's end before it was closed to the host, a NIC
/// before its features were changed. Of the way to the host's own stack: what was changed for it elsewhere on the host, control groups under their
/// own paths.
pub fn put_back(before: &OwnedInterface) -> TeardownReport {
    if before.name == HOST_POLLED {
        return put_back_host(before);
    }
    if is_cgroup(before) {
        return put_back_cgroup(Path::new(&before.name));
    }
    let mut report = TeardownReport::default();
    let restored = Socket::open().and_then(|mut socket| {
        if let Some(link) = link::find(&mut socket, before.index)? {
            let mut work = Work {
                socket: &mut socket,
                link: &link,
                report: &mut report,
            };
            work.restore(Some(before));
        }
        Ok(())
    });
    if let Err(e) = restored {
        report.failed("interface", &before.name, e.to_string());
    }
    report
}

/// What stands beside the socket about masqueraded connections, of every worker that there was.
fn remove_bindings(config: &Config, report: &mut TeardownReport) {
    for worker in 0..MAX_WORKERS {
        let path = config.bindings_file(worker);
        match fs::remove_file(&path) {
            Ok(()) => report.removed("file", path.display().to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => report.failed("file", path.display().to_string(), e.to_string()),
        }
    }
}

/// A veth that podswitch-cni made, or was killed while it made it.
fn is_ours(link: &Link) -> bool {
    let hash = link.name.strip_prefix(NAME_PREFIX);
    let named = hash.is_some_and(|h| h.len() == 12 && h.bytes().all(|b| b.is_ascii_hexdigit()));
    match &link.alias {
        Some(alias) => alias.starts_with(ALIAS_PREFIX),
        None => named && link.kind.as_deref() == Some("veth"),
    }
}

/// Notes something done; `false`: there was nothing to do. What went with its interface is gone, too.
fn note(report: &mut TeardownReport, kind: &str, name: &str, result: Result<bool, Error>) {
    match result {
        Ok(true) => report.removed(kind, name),
        Ok(false) => {}
        Err(e) if e.is_gone() => {}
        Err(e) => report.failed(kind, name, e.to_string()),
    }
}

/// Putting one interface back that is not ours.
struct Work<'a> {
    socket: &'a mut Socket,
    link: &'a Link,
    report: &'a mut TeardownReport,
}

impl Work<'_> {
    fn restore(&mut self, before: Option<&OwnedInterface>) {
        self.programs();
        self.filters(before.is_some_and(|b| b.clsact));
        let Some(before) = before else { return };
        for setting in before.settings.iter().rev() {
            let result = restore_setting(setting);
            self.note("sysctl", &setting.path, result);
        }
        // With a program attached, a driver may refuse them.
        for feature in before.features.iter().rev() {
            let result = restore_feature(&self.link.name, feature);
            let name = format!("{} on {}", feature.name, self.link.name);
            self.note("feature", &name, result);
        }
        if before.noarp && self.link.flags.noarp() {
            let result = link::set_noarp(self.socket, self.link.index, false).map(|()| true);
            let name = format!("{} noarp", self.link.name);
            self.note("flag", &name, result);
        }
    }

    fn note(&mut self, kind: &str, name: &str, result: Result<bool, Error>) {
        note(self.report, kind, name, result);
    }

    fn programs(&mut self) {
        for mode in [xdp::Mode::Native, xdp::Mode::Generic] {
            let Some(id) = self.link.xdp.in_mode(mode) else {
                continue;
            };
            let result = match bpf::info(id) {
                Ok(program) if program.is_ours() => xdp::detach(self.socket, self.link.index, mode),
                Ok(_) => Ok(false),
                Err(e) => Err(e),
            };
            let name = format!("{} on {}", mode, self.link.name);
            self.note("xdp_program", &name, result);
        }
    }

    fn filters(&mut self, clsact: bool) {
        let mut left = 0;
        for direction in [tc::Direction::Ingress, tc::Direction::Egress] {
            for name in [tc::DENY_NAME, tc::NIC_NAME] {
                let result = tc::remove(self.socket, self.link.index, direction, name);
                let what = format!("{direction} on {}", self.link.name);
                self.note("filter", &what, result.map(|n| n > 0));
            }
            left += tc::list(self.socket, self.link.index, direction).map_or(1, |f| f.len());
        }
        if clsact && left == 0 {
            let result = tc::remove_clsact(self.socket, self.link.index);
            self.note("qdisc", &format!("clsact on {}", self.link.name), result);
        }
    }
}

/// Puts a setting back, unless somebody else changed it since.
fn restore_setting(setting: &SavedSetting) -> Result<bool, Error> {
    let key = setting.key()?;
    if sysctl::get(&key)? != setting.after || setting.before == setting.after {
        return Ok(false);
    }
    sysctl::set(&key, &setting.before).map(|_| true)
}

/// Puts a feature back, unless somebody else did.
fn restore_feature(interface: &str, feature: &SavedFeature) -> Result<bool, Error> {
    let ethtool = Ethtool::open()?;
    let features = ethtool.features(interface)?;
    if features
        .get(&feature.name)
        .is_none_or(|f| f.active == feature.before)
    {
        return Ok(false);
    }
    ethtool.set_features(interface, &[(&feature.name, feature.before)])?;
    Ok(true)
}

fn remove_socket(path: &Path, report: &mut TeardownReport) {
    let shown = path.display().to_string();
    match fs::symlink_metadata(path) {
        Ok(m) if m.file_type().is_socket() => match fs::remove_file(path) {
            Ok(()) => report.removed("socket", shown),
            Err(e) => report.failed("socket", shown, e.to_string()),
        },
        Ok(_) => report.failed(
            "socket",
            shown,
            "it is no socket, so it is not podswitch's; see `socket` in the configuration",
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => report.failed("socket", shown, e.to_string()),
    }
}
