// SPDX-License-Identifier: Apache-2.0
//! Leases on disk: a symbolic link for each address under `dataDir/NETWORK`, called by the address, that leads to its
//! holder (`10.244.1.5 -> CONTAINER/IFNAME`). A link is made, read and removed by one system call each, so it is whole or
//! not there, whenever a process is killed or a disk is full.
//!
//! Nothing is synced to the disk: a lease is needed for as long as the pod's namespace lives, and that is never longer
//! than the kernel does. For the same reason leases are under `/run` unless configured otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::ranges::{BuiltIn, RangeSet};
use crate::invocation::Invocation;
use crate::lock::Lock;
use crate::spec::{CniError, Code};

/// Who holds an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lease {
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
}

impl Lease {
    /// The attachment a call is about.
    pub fn of(call: &Invocation) -> Lease {
        Lease {
            container_id: call.container_id.clone(),
            ifname: call.ifname.clone(),
        }
    }

    /// Neither part can hold a slash.
    fn target(&self) -> String {
        format!("{}/{}", self.container_id, self.ifname)
    }

    fn parse(target: &Path) -> Option<Lease> {
        let (container_id, ifname) = target.to_str()?.split_once('/')?;
        Some(Lease {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }
}

/// The leases of one network.
pub struct Leases {
    dir: PathBuf,
}

/// Every address in use. What is no lease of ours under an address's name is taken, by nobody known.
type Taken = BTreeMap<IpAddr, Option<Lease>>;

impl Leases {
    pub(super) fn new(dir: PathBuf) -> Leases {
        Leases { dir }
    }

    /// Gives one address of each set to `holder`: a wanted one where a set has it, else the next free one.
    ///
    /// # Errors
    /// Code 101 when a set is exhausted, 7 when a wanted address cannot be had, 4 when `holder` has addresses already, 5
    /// for I/O; nothing stays leased.
    pub fn allocate(
        &self,
        conf: &BuiltIn,
        holder: &Lease,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, CniError> {
        let wanted = one_of_each(conf, wanted)?;
        let _lock = self.lock()?;
        let taken = self.all()?;
        if let Some((ip, _)) = taken.iter().find(|(_, l)| l.as_ref() == Some(holder)) {
            let msg = format!(
                "CNI_CONTAINERID=\"{}\": its interface {} holds address {ip} already",
                holder.container_id, holder.ifname
            );
            return Err(CniError::new(Code::InvalidEnvironment, msg)
                .details("DEL the attachment before another ADD"));
        }
        let mut given = Vec::new();
        for (i, (set, wanted)) in conf.sets.iter().zip(wanted).enumerate() {
            let lease = match wanted {
                Some(ip) => self.lease_wanted(ip, holder, &taken),
                None => self.lease_next(i, set, holder, &taken),
            };
            match lease {
                Ok(ip) => given.push(ip),
                Err(e) => {
                    let undone = given.iter().filter_map(|ip| self.remove(*ip).err());
                    return Err(undone.fold(e, |e, also| e.and_undoing("an address", &also)));
                }
            }
        }
        Ok(given)
    }

    fn lease_wanted(&self, ip: IpAddr, holder: &Lease, taken: &Taken) -> Result<IpAddr, CniError> {
        let by = match taken.get(&ip) {
            None if self.make(ip, holder)? => return Ok(ip),
            Some(Some(other)) => format!("container {}", other.container_id),
            _ => self.path(ip).display().to_string(),
        };
        let msg = format!("address {ip} was asked for and is held by {by}");
        Err(CniError::new(Code::InvalidConfig, msg))
    }

    fn lease_next(
        &self,
        index: usize,
        set: &RangeSet,
        holder: &Lease,
        taken: &Taken,
    ) -> Result<IpAddr, CniError> {
        let last = fs::read_to_string(self.last_path(index))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        for ip in set.candidates(last).filter(|ip| !taken.contains_key(ip)) {
            if self.make(ip, holder)? {
                // Only spreads reuse out; losing it is harmless.
                let _ = fs::write(self.last_path(index), ip.to_string());
                return Ok(ip);
            }
        }
        let (set, dir) = (set.describe(), self.dir.display());
        let msg = format!("no free address in {set}; leases are in {dir}");
        Err(CniError::new(Code::Exhausted, msg).details("delete pods, widen the range, or run GC"))
    }

    /// Releases whatever `holder` holds.
    ///
    /// # Errors
    /// Code 5 naming each file that could not be removed.
    pub fn release(&self, holder: &Lease) -> Result<(), CniError> {
        CniError::all(self.remove_if(|lease| lease == Some(holder)))
    }

    /// Releases everything but what `keep` wants kept, and what is no lease at all; goes on after a failure.
    pub fn retain(&self, keep: impl Fn(&Lease) -> bool) -> Vec<CniError> {
        self.remove_if(|lease| !lease.is_some_and(&keep))
    }

    fn remove_if(&self, stale: impl Fn(Option<&Lease>) -> bool) -> Vec<CniError> {
        let remove = || -> Result<Vec<CniError>, CniError> {
            if !self.exists()? {
                return Ok(Vec::new());
            }
            let _lock = self.lock()?;
            let all = self.all()?.into_iter();
            let stale = all.filter(|(_, lease)| stale(lease.as_ref()));
            Ok(stale.filter_map(|(ip, _)| self.remove(ip).err()).collect())
        };
        remove().unwrap_or_else(|e| vec![e])
    }

    /// Addresses that `holder` holds.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn held(&self, holder: &Lease) -> Result<Vec<IpAddr>, CniError> {
        if !self.exists()? {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let all = self.all()?.into_iter();
        let held = all.filter(|(_, l)| l.as_ref() == Some(holder));
        Ok(held.map(|(ip, _)| ip).collect())
    }

    /// Whether every set has an address left and a lease can be written.
    ///
    /// # Errors
    /// Code 50 naming the exhausted set or the failure.
    pub fn has_room(&self, conf: &BuiltIn) -> Result<(), CniError> {
        let unavailable = |e: CniError| CniError {
            code: Code::NotAvailable as u32,
            ..e
        };
        let _lock = self.lock().map_err(unavailable)?;
        let taken = self.names().map_err(unavailable)?;
        for set in &conf.sets {
            let used = taken.iter().filter(|ip| set.contains(**ip)).count();
            if used as u128 >= set.size() {
                let set = set.describe();
                let msg = format!("no free address in {set}: all {used} are in use");
                return Err(CniError::new(Code::NotAvailable, msg)
                    .details("delete pods, widen the range, or run GC"));
            }
        }
        self.try_writing().map_err(unavailable)
    }

    /// A full or read-only file system shows only when something is made on it.
    fn try_writing(&self) -> Result<(), CniError> {
        let path = self.dir.join("probe");
        match symlink("probe", &path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(&path, &e)),
            _ => fs::remove_file(&path).map_err(|e| io_error(&path, &e)),
        }
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.dir.join(ip.to_string())
    }

    fn last_path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{index}"))
    }

    fn exists(&self) -> Result<bool, CniError> {
        self.dir.try_exists().map_err(|e| io_error(&self.dir, &e))
    }

    /// Held while leases are read or changed.
    fn lock(&self) -> Result<Lock, CniError> {
        let path = self.dir.join("lock");
        Lock::take(&path).map_err(|e| io_error(&path, &e))
    }

    /// Addresses that have a file, whatever it is.
    fn names(&self) -> Result<Vec<IpAddr>, CniError> {
        let mut all = Vec::new();
        let entries = fs::read_dir(&self.dir).map_err(|e| io_error(&self.dir, &e))?;
        for entry in entries {
            let name = entry.map_err(|e| io_error(&self.dir, &e))?.file_name();
            let name = name.to_str().unwrap_or_default();
            // Another spelling of an address is nothing of ours.
            all.extend(
                name.parse::<IpAddr>()
                    .ok()
                    .filter(|ip| ip.to_string() == name),
            );
        }
        Ok(all)
    }

    /// Every address in use. A file that cannot be read is no reason to fail all the others.
    fn all(&self) -> Result<Taken, CniError> {
        let holder = |ip| {
            let target = fs::read_link(self.path(ip)).ok();
            target.and_then(|t| Lease::parse(&t))
        };
        let names = self.names()?.into_iter();
        Ok(names.map(|ip| (ip, holder(ip))).collect())
    }

    /// Makes a lease; false when there is something under its name already.
    fn make(&self, ip: IpAddr, holder: &Lease) -> Result<bool, CniError> {
        let path = self.path(ip);
        match symlink(holder.target(), &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(io_error(&path, &e)),
        }
    }

    fn remove(&self, ip: IpAddr) -> Result<(), CniError> {
        let path = self.path(ip);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&path, &e)),
            _ => Ok(()),
        }
    }
}

/// Which wanted address each set is to give.
fn one_of_each(conf: &BuiltIn, wanted: &[IpAddr]) -> Result<Vec<Option<IpAddr>>, CniError> {
    let refused = |why: String| Err(CniError::new(Code::InvalidConfig, why));
    let mut of_set = vec![None; conf.sets.len()];
    for ip in wanted {
        let Some(i) = conf.sets.iter().position(|s| s.contains(*ip)) else {
            return refused(format!("address {ip} was asked for and is in no range"));
        };
        if let Some(other) = of_set[i].replace(*ip) {
            return refused(format!(
                "addresses {other} and {ip} were asked for of one set of ranges ({}), which gives one",
                conf.sets[i].describe()
            ));
        }
    }
    Ok(of_set)
}

fn io_error(path: &Path, e: &io::Error) -> CniError {
    CniError::io(format_args!("IPAM lease store {}", path.display()), e)
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
