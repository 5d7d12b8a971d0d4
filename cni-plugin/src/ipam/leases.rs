// SPDX-License-Identifier: Apache-2.0
//! Leases on disk, one file an address under `dataDir/NETWORK`, named by the address and holding its holder. A file
//! appears whole by rename and is on disk before the address is given away, so a crash at any step leaves a lease that
//! DEL and GC find, never an address given twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::ranges::{BuiltIn, RangeSet};
use crate::invocation::Invocation;
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

    fn parse(text: &str) -> Option<Lease> {
        let mut lines = text.lines();
        let (id, ifname) = (lines.next()?, lines.next()?);
        Some(Lease {
            container_id: id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }
}

/// The leases of one network.
pub struct Leases {
    dir: PathBuf,
}

/// Held while leases are read or changed; the kernel lets go when the process ends.
struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl Leases {
    pub(super) fn new(dir: PathBuf) -> Leases {
        Leases { dir }
    }

    /// Gives one address of each set to `holder`: a wanted one where a set has it, else the next free one.
    ///
    /// # Errors
    /// Code 101 when a set is exhausted, 7 when a wanted address is in no set or taken, 5 for I/O; nothing stays leased.
    pub fn allocate(
        &self,
        conf: &BuiltIn,
        holder: &Lease,
        wanted: &[IpAddr],
    ) -> Result<Vec<(IpNet, Option<IpAddr>)>, CniError> {
        if let Some(ip) = wanted
            .iter()
            .find(|ip| !conf.sets.iter().any(|s| s.contains(**ip)))
        {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("address {ip} was asked for and is in no range"),
            ));
        }
        let _lock = self.lock()?;
        let mut given = Vec::new();
        for (i, set) in conf.sets.iter().enumerate() {
            match self.allocate_one(i, set, holder, wanted) {
                Ok(ip) => given.push((IpNet::from(ip), None)),
                Err(e) => {
                    for (net, _) in &given {
                        // The error that matters is `e`; a lease left behind is what DEL releases.
                        let _ = fs::remove_file(self.path(net.addr()));
                    }
                    return Err(e);
                }
            }
        }
        Ok(given)
    }

    fn allocate_one(
        &self,
        index: usize,
        set: &RangeSet,
        holder: &Lease,
        wanted: &[IpAddr],
    ) -> Result<IpAddr, CniError> {
        if let Some(ip) = wanted.iter().find(|ip| set.contains(**ip)) {
            return match self.holder(*ip)? {
                None => self.write(*ip, holder).map(|()| *ip),
                Some(other) => {
                    let msg = format!(
                        "address {ip} was asked for and is held by container {}",
                        other.container_id
                    );
                    Err(CniError::new(Code::InvalidConfig, msg))
                }
            };
        }
        let last = fs::read_to_string(self.last_path(index))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        for ip in set.candidates(last) {
            if !self.path(ip).exists() {
                self.write(ip, holder)?;
                // Only spreads reuse out; losing it in a crash is harmless.
                let _ = fs::write(self.last_path(index), ip.to_string());
                return Ok(ip);
            }
        }
        let msg = format!(
            "no free address in {} of {}",
            set.describe(),
            self.dir.display()
        );
        Err(CniError::new(Code::Exhausted, msg).details("delete pods, widen the range, or run GC"))
    }

    /// Releases whatever `holder` holds.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn release(&self, holder: &Lease) -> Result<(), CniError> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        for (ip, lease) in self.all()? {
            if lease.as_ref() == Some(holder) {
                self.remove(ip)?;
            }
        }
        Ok(())
    }

    /// Addresses that `holder` holds.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn held(&self, holder: &Lease) -> Result<Vec<IpAddr>, CniError> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        Ok(self
            .all()?
            .into_iter()
            .filter(|(_, l)| l.as_ref() == Some(holder))
            .map(|(ip, _)| ip)
            .collect())
    }

    /// Releases everything but what `valid` holds; goes on after a failure.
    pub fn retain(&self, valid: &[Lease]) -> Vec<CniError> {
        if !self.dir.exists() {
            return Vec::new();
        }
        let all = self.lock().and_then(|lock| Ok((lock, self.all()?)));
        let (_lock, all) = match all {
            Ok(x) => x,
            Err(e) => return vec![e],
        };
        all.into_iter()
            .filter(|(_, lease)| !lease.as_ref().is_some_and(|l| valid.contains(l)))
            .filter_map(|(ip, _)| self.remove(ip).err())
            .collect()
    }

    /// Whether every set has an address left and the directory can be written.
    ///
    /// # Errors
    /// Code 50 naming the exhausted set or the failure.
    pub fn has_room(&self, conf: &BuiltIn) -> Result<(), CniError> {
        let unavailable = |e: CniError| CniError {
            code: Code::NotAvailable as u32,
            ..e
        };
        let _lock = self.lock().map_err(unavailable)?;
        let all = self.all().map_err(unavailable)?;
        for set in &conf.sets {
            let used = all.iter().filter(|(ip, _)| set.contains(*ip)).count();
            if used as u128 >= set.size() {
                let msg = format!(
                    "no free address in {} ({used} of {used} in use)",
                    set.describe()
                );
                return Err(CniError::new(Code::NotAvailable, msg)
                    .details("delete pods, widen the range, or run GC"));
            }
        }
        Ok(())
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.dir.join(ip.to_string())
    }

    fn last_path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{index}"))
    }

    fn lock(&self) -> Result<Lock, CniError> {
        fs::create_dir_all(&self.dir).map_err(|e| self.io(&self.dir, &e))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| self.io(&path, &e))?;
        file.lock().map_err(|e| self.io(&path, &e))?;
        Ok(Lock(file))
    }

    fn io(&self, path: &Path, e: &io::Error) -> CniError {
        CniError::io(format_args!("IPAM lease store {}", path.display()), e)
    }

    /// Every lease; a file that names no holder (never written by us) counts as taken by nobody known.
    fn all(&self) -> Result<Vec<(IpAddr, Option<Lease>)>, CniError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| self.io(&self.dir, &e))? {
            let entry = entry.map_err(|e| self.io(&self.dir, &e))?;
            let Some(ip) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<IpAddr>().ok())
            else {
                continue;
            };
            all.push((ip, self.holder(ip)?));
        }
        all.sort();
        Ok(all)
    }

    fn holder(&self, ip: IpAddr) -> Result<Option<Lease>, CniError> {
        let path = self.path(ip);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Lease::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io(&path, &e)),
        }
    }

    fn write(&self, ip: IpAddr, holder: &Lease) -> Result<(), CniError> {
        let path = self.path(ip);
        let temporary = self.dir.join("new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(format!("{}\n{}\n", holder.container_id, holder.ifname).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            self.sync_dir()
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            self.io(&path, &e)
        })
    }

    fn remove(&self, ip: IpAddr) -> Result<(), CniError> {
        let path = self.path(ip);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.io(&path, &e)),
            _ => self.sync_dir().map_err(|e| self.io(&self.dir, &e)),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    struct Fixture {
        dir: tempfile::TempDir,
        conf: BuiltIn,
    }

    impl Fixture {
        fn new(ranges: serde_json::Value) -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let section = json!({"type": "podswitch", "ranges": ranges, "dataDir": dir.path()});
            Fixture {
                conf: BuiltIn::parse(&section, &[]).unwrap(),
                dir,
            }
        }

        fn leases(&self) -> Leases {
            self.conf.leases("net")
        }

        fn add(&self, id: &str, wanted: &[&str]) -> Result<Vec<String>, CniError> {
            let wanted: Vec<_> = wanted.iter().map(|w| w.parse().unwrap()).collect();
            let given = self.leases().allocate(&self.conf, &holder(id), &wanted)?;
            Ok(given.into_iter().map(|(net, _)| net.to_string()).collect())
        }
    }

    fn holder(id: &str) -> Lease {
        Lease {
            container_id: id.into(),
            ifname: "eth0".into(),
        }
    }

    fn dual() -> Fixture {
        Fixture::new(json!([[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/125"}]]))
    }

    #[test]
    fn one_address_of_each_set_and_none_twice_until_exhausted() {
        let f = dual();
        let mut seen = HashSet::new();
        for i in 0..5 {
            let ips = f.add(&format!("c{i}"), &[]).unwrap();
            assert_eq!(ips.len(), 2);
            assert!(
                ips[0].ends_with("/32") && ips[1].ends_with("/128"),
                "{ips:?}"
            );
            assert!(ips.into_iter().all(|ip| seen.insert(ip)));
        }
        assert_eq!(f.leases().has_room(&f.conf).unwrap_err().code, 50);
        let e = f.add("one-more", &[]).unwrap_err();
        assert_eq!(e.code, 101);
        assert!(e.msg.contains("10.0.0.0/29"), "{e}");
        f.leases().release(&holder("c3")).unwrap();
        f.leases().has_room(&f.conf).unwrap();
        assert!(f.add("again", &[]).is_ok());
    }

    #[test]
    fn a_failure_in_the_second_set_gives_the_first_back() {
        let f = Fixture::new(json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/126"}]]));
        f.add("a", &[]).unwrap();
        f.add("b", &[]).unwrap();
        assert_eq!(f.add("c", &[]).unwrap_err().code, 101);
        assert!(f.leases().held(&holder("c")).unwrap().is_empty());
    }

    #[test]
    fn wanted_addresses_are_given_or_refused_by_name() {
        let f = dual();
        assert_eq!(f.add("a", &["10.0.0.5"]).unwrap()[0], "10.0.0.5/32");
        for (ip, word) in [
            ("10.0.0.5", "held"),
            ("10.9.0.5", "no range"),
            ("10.0.0.1", "no range"),
        ] {
            let e = f.add("b", &[ip]).unwrap_err();
            assert!(
                e.code == 7 && e.msg.contains(ip) && e.msg.contains(word),
                "{e}"
            );
        }
        assert!(f.leases().held(&holder("b")).unwrap().is_empty());
    }

    #[test]
    fn release_is_idempotent_and_gc_keeps_the_valid() {
        let f = dual();
        f.leases().release(&holder("never")).unwrap();
        for id in ["a", "b", "c"] {
            f.add(id, &[]).unwrap();
        }
        f.leases().release(&holder("a")).unwrap();
        f.leases().release(&holder("a")).unwrap();
        fs::write(f.dir.path().join("net/10.0.0.6"), "").unwrap();
        assert!(f.leases().retain(&[holder("b")]).is_empty());
        let left: Vec<_> = f
            .leases()
            .all()
            .unwrap()
            .into_iter()
            .map(|(_, l)| l)
            .collect();
        assert_eq!(left, [Some(holder("b")), Some(holder("b"))]);
    }

    #[test]
    fn concurrent_calls_never_share_an_address() {
        let f = Fixture::new(json!([[{"subnet": "10.0.0.0/24"}]]));
        let ips: Vec<String> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    let f = &f;
                    s.spawn(move || {
                        (0..25)
                            .flat_map(|i| f.add(&format!("c{t}-{i}"), &[]).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        });
        assert_eq!(ips.len(), 200);
        assert_eq!(ips.iter().collect::<HashSet<_>>().len(), 200);
    }
}
