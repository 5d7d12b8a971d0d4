// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: entering, leaving, naming, vanishing.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use podswitch_host::netns::{self, Named};
use podswitch_host::{Error, Socket, link};

fn namespace() -> Named {
    Named::unique("ps-host-ns").unwrap()
}

#[test]
fn a_guard_leads_back_also_when_nested() {
    let (a, b) = (namespace(), namespace());
    let here = || netns::current().unwrap().identity().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let start = here();
            let outer = a.netns().enter().unwrap();
            assert_eq!(here(), a.netns().identity().unwrap());
            let inner = b.netns().enter().unwrap();
            assert_eq!(here(), b.netns().identity().unwrap());
            drop(inner);
            assert_eq!(here(), a.netns().identity().unwrap());
            drop(outer);
            assert_eq!(here(), start);
            assert_ne!(start, a.netns().identity().unwrap());
        });
    });
    assert_ne!(a.netns().identity().unwrap(), b.netns().identity().unwrap());
}

#[test]
fn running_elsewhere_leaves_the_caller_where_it_is() {
    let a = namespace();
    let before = netns::current().unwrap().identity().unwrap();
    let inside = netns::run_in(a.path(), || netns::current().unwrap().identity().unwrap()).unwrap();
    assert_eq!(inside, a.netns().identity().unwrap());
    assert_eq!(netns::current().unwrap().identity().unwrap(), before);
    let panicked = std::panic::catch_unwind(|| a.netns().run(|| panic!("inside")));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "inside");
}

#[test]
fn a_new_namespace_has_its_loopback_up_and_nothing_else() {
    let a = namespace();
    let links = link::list(&mut a.socket().unwrap()).unwrap();
    assert_eq!(links.len(), 1);
    assert!(links[0].flags.loopback() && links[0].flags.up());
    assert!(a.path().starts_with(netns::DIRECTORY) && a.path().ends_with(a.name()));
}

#[test]
fn a_vanished_namespace_is_named() {
    let a = namespace();
    let path = a.path().to_owned();
    assert!(netns::delete(a.name()).unwrap());
    assert!(
        !netns::delete(a.name()).unwrap(),
        "a second time there is nothing to do"
    );
    for error in [
        netns::open(&path).unwrap_err(),
        netns::run_in(&path, || ()).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::NetnsGone { .. }) && error.is_gone(),
            "{error}"
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    // The handle still works; it holds the namespace.
    a.netns().run(Socket::open).unwrap().unwrap();
}

#[test]
fn a_name_without_its_mount_is_not_a_namespace() {
    // What is left when something else unmounts /run/netns/NAME.
    let name = format!("ps-host-ns-empty-{}", std::process::id());
    let path = netns::path(&name).unwrap();
    drop(namespace());
    fs::write(&path, "").unwrap();
    let opened = netns::open(&path);
    let deleted = netns::delete(&name);
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::NotNetns { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert!(deleted.unwrap() && !path.exists());
}

#[test]
fn other_files_are_no_network_namespaces() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = netns::open(file.path()).unwrap_err();
    assert!(error.to_string().contains("ordinary file"), "{error}");
    let error = netns::open("/proc/self/ns/mnt").unwrap_err();
    assert!(
        error.to_string().contains("another kind") && error.to_string().contains("/ns/mnt"),
        "{error}"
    );
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let error = netns::open(&pipe).unwrap_err();
    assert!(error.to_string().contains("pipe"), "{error}");
    let error = netns::open("/proc/4194305/ns/net").unwrap_err();
    assert!(matches!(error, Error::NetnsGone { .. }), "{error}");
}

#[test]
fn a_name_can_be_used_once() {
    let a = namespace();
    let error = Named::create(a.name()).unwrap_err();
    assert!(
        error.exists() && error.to_string().contains(a.name()),
        "{error}"
    );
    netns::open(a.path()).unwrap();
    for bad in ["", "..", "a/b"] {
        assert!(netns::create(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn dropping_a_named_namespace_removes_it() {
    let path = {
        let a = namespace();
        assert!(a.path().exists());
        a.path().to_owned()
    };
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_scratch_namespace_goes_with_its_work() {
    let before = netns::current().unwrap().identity().unwrap();
    let inside = || {
        let mut socket = podswitch_host::Socket::open().unwrap();
        let links = podswitch_host::link::list(&mut socket).unwrap();
        let own = netns::current().unwrap().identity().unwrap();
        (own, links.len())
    };
    let (own, links) = netns::in_scratch(inside).unwrap();
    assert_ne!(own, before);
    assert_eq!(links, 1, "a loopback and nothing else");
    assert_eq!(netns::current().unwrap().identity().unwrap(), before);
}
