// SPDX-License-Identifier: Apache-2.0

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
            conf: BuiltIn::parse(section.as_object().unwrap(), &[]).unwrap(),
            dir,
        }
    }

    fn leases(&self) -> Leases {
        self.conf.leases("net")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("net").join(name)
    }

    fn add(&self, id: &str, wanted: &[&str]) -> Result<Vec<String>, CniError> {
        let wanted: Vec<_> = wanted.iter().map(|w| w.parse().unwrap()).collect();
        let given = self.leases().allocate(&self.conf, &holder(id), &wanted)?;
        Ok(given.iter().map(ToString::to_string).collect())
    }

    fn holders(&self) -> Vec<Option<Lease>> {
        self.leases().all().unwrap().into_values().collect()
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
fn an_address_is_not_given_again_at_once() {
    let f = Fixture::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.extend(f.add("c", &[]).unwrap());
        f.leases().release(&holder("c")).unwrap();
    }
    assert_eq!(seen[5], seen[0]);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 5);
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
fn who_holds_addresses_gets_no_others() {
    let f = dual();
    let first = f.add("a", &[]).unwrap();
    let e = f.add("a", &[]).unwrap_err();
    assert!(e.code == 4 && e.msg.contains(&first[0]), "{e}");
    assert_eq!(f.leases().held(&holder("a")).unwrap().len(), 2);
    let other = Lease {
        ifname: "net1".into(),
        ..holder("a")
    };
    f.leases().allocate(&f.conf, &other, &[]).unwrap();
}

#[test]
fn wanted_addresses_are_given_or_refused_by_name() {
    let f = dual();
    let given = f.add("a", &["fd00::5", "10.0.0.5"]).unwrap();
    assert_eq!(given, ["10.0.0.5", "fd00::5"]);
    for (wanted, word) in [
        (vec!["10.0.0.5"], "held by container a"),
        (vec!["10.9.0.5"], "no range"),
        (vec!["10.0.0.1"], "no range"),
        (vec!["10.0.0.3", "10.0.0.4"], "10.0.0.3 and 10.0.0.4"),
        (vec!["10.0.0.3", "fd00::5"], "fd00::5"),
    ] {
        let e = f.add("b", &wanted).unwrap_err();
        assert!(e.code == 7 && e.msg.contains(word), "{wanted:?}: {e}");
        assert!(f.leases().held(&holder("b")).unwrap().is_empty());
    }
}

#[test]
fn release_is_idempotent_and_gc_keeps_the_valid() {
    let f = dual();
    f.leases().release(&holder("never")).unwrap();
    assert!(!f.dir.path().join("net").exists());
    for id in ["a", "b", "c"] {
        f.add(id, &[]).unwrap();
    }
    f.leases().release(&holder("a")).unwrap();
    f.leases().release(&holder("a")).unwrap();
    assert!(f.leases().retain(|l| *l == holder("b")).is_empty());
    assert_eq!(f.holders(), [Some(holder("b")), Some(holder("b"))]);
}

#[test]
fn what_is_no_lease_is_taken_until_gc_and_in_nobodys_way() {
    let f = Fixture::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    f.add("a", &[]).unwrap();
    fs::write(f.file("10.0.0.3"), "an older program's").unwrap();
    symlink("nowhere", f.file("10.0.0.4")).unwrap();
    symlink("\u{0001}/\u{fffd}", f.file("10.0.0.5")).unwrap();
    fs::write(f.file("fd00::0001"), "").unwrap();
    fs::write(f.file("notes"), "").unwrap();
    assert_eq!(f.add("b", &[]).unwrap(), ["10.0.0.6"]);
    let e = f.add("c", &["10.0.0.3"]).unwrap_err();
    assert!(e.msg.contains("net/10.0.0.3"), "{e}");
    f.leases().release(&holder("a")).unwrap();
    f.leases().release(&holder("c")).unwrap();
    assert_eq!(f.holders().len(), 4);
    assert!(f.leases().retain(|l| *l == holder("b")).is_empty());
    assert_eq!(f.holders(), [Some(holder("b"))]);
    assert!(f.file("notes").exists() && f.file("fd00::0001").exists());
}

#[test]
fn every_failure_to_remove_is_reported_and_the_rest_goes() {
    let f = dual();
    f.add("a", &[]).unwrap();
    // A directory cannot be removed as a file is.
    for name in ["10.0.0.5", "10.0.0.6"] {
        fs::create_dir(f.file(name)).unwrap();
    }
    let failures = f.leases().retain(|_| false);
    assert_eq!(failures.len(), 2);
    assert!(failures[0].msg.contains("10.0.0.5") && failures[1].msg.contains("10.0.0.6"));
    assert_eq!(f.holders(), [None, None]);
}

#[test]
fn a_pointer_to_the_last_address_that_makes_no_sense_is_ignored() {
    for text in ["", "fd00::1", "10.9.9.9", "\u{fffd}\n", "10.0.0.6\n"] {
        let f = Fixture::new(json!([[{"subnet": "10.0.0.0/29"}]]));
        fs::create_dir(f.dir.path().join("net")).unwrap();
        fs::write(f.file("last_reserved_ip.0"), text).unwrap();
        assert_eq!(f.add("a", &[]).unwrap(), ["10.0.0.2"], "{text:?}");
    }
}

#[test]
fn concurrent_calls_never_share_an_address() {
    let f = Fixture::new(json!([[{"subnet": "10.0.0.0/24"}]]));
    let some = |t: u32| {
        let ids = (0..25).map(move |i| format!("c{t}-{i}"));
        ids.flat_map(|id| f.add(&id, &[]).unwrap())
            .collect::<Vec<_>>()
    };
    let ips: Vec<String> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8).map(|t| s.spawn(move || some(t))).collect();
        let ended = threads.into_iter().map(|t| t.join().unwrap());
        ended.flatten().collect()
    });
    assert_eq!(ips.len(), 200);
    assert_eq!(ips.iter().collect::<HashSet<_>>().len(), 200);
}

/// More leases than a daemon takes ports, and nothing that says where to go on.
#[test]
fn thousands_of_leases_in_wide_ranges_are_no_obstacle() {
    let f = Fixture::new(json!([[{"subnet": "10.0.0.0/8"}], [{"subnet": "fd00::/64"}]]));
    fs::create_dir(f.dir.path().join("net")).unwrap();
    for n in 2..10_002u32 {
        let [_, b, c, d] = n.to_be_bytes();
        symlink(format!("c{n}/eth0"), f.file(&format!("10.{b}.{c}.{d}"))).unwrap();
        symlink(format!("c{n}/eth0"), f.file(&format!("fd00::{n:x}"))).unwrap();
    }
    f.leases().has_room(&f.conf).unwrap();
    assert_eq!(f.add("new", &[]).unwrap(), ["10.0.39.18", "fd00::2712"]);
    assert_eq!(f.leases().held(&holder("c5000")).unwrap().len(), 2);
    f.leases().release(&holder("c5000")).unwrap();
    assert!(f.leases().retain(|l| *l == holder("new")).is_empty());
    assert_eq!(f.holders().len(), 2);
}
