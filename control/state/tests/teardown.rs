// SPDX-License-Identifier: Apache-2.0
//! Taking everything apart, in a network namespace of the test's own.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use podswitch_api::method::TeardownReport;
use podswitch_host::bpf::{self, Instruction, ProgramType};
use podswitch_host::ethtool::Ethtool;
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::netns::Named;
use podswitch_host::{Link, Socket, deaf, sysctl, tc, xdp};
use podswitch_state::config::Config;
use podswitch_state::store::{OwnedInterface, SavedFeature, SavedSetting, Store, StoreError};
use podswitch_state::teardown::teardown;

const XDP_DROP: u32 = 1;

fn config(directory: &Path) -> Config {
    Config {
        socket: directory.join("s.sock"),
        state_dir: directory.join("state"),
        ..Config::new(vec![0])
    }
}

fn veth(socket: &mut Socket, name: &str, number: u8) -> Link {
    let end = |name, last| VethEnd {
        name,
        mac: [2, 0, 0, 0, number, last],
        mtu: 1500,
    };
    let peer = format!("peer{number}");
    link::create_veth(socket, &Veth::new(end(name, 1), end(&peer, 2))).unwrap()
}

fn attach(socket: &mut Socket, index: u32, program: &str) {
    let program = bpf::load(
        ProgramType::Xdp,
        program,
        &[Instruction::return_value(XDP_DROP), Instruction::exit()],
    )
    .unwrap();
    xdp::attach(socket, index, program.as_fd(), xdp::Mode::Generic, None).unwrap();
}

/// Closes an interface as the daemon does; the record of how it was before.
fn close(socket: &mut Socket, found: &Link) -> OwnedInterface {
    let deafened = deaf::deafen(socket, &found.name).unwrap();
    let clsact = tc::ensure_clsact(socket, found.index).unwrap();
    tc::deny(socket, found.index).unwrap();
    attach(socket, found.index, "podswitch_test");
    let saved = |c: &sysctl::Change| SavedSetting {
        path: c.key.to_string(),
        before: c.before.clone(),
        after: c.after.clone(),
    };
    OwnedInterface {
        name: found.name.clone(),
        index: found.index,
        clsact,
        noarp: true,
        settings: deafened
            .changes
            .iter()
            .filter(|c| c.before != c.after)
            .map(saved)
            .collect(),
        features: vec![],
        tables: Vec::new(),
    }
}

fn names(socket: &mut Socket) -> Vec<String> {
    let mut names: Vec<String> = link::list(socket)
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .filter(|n| n != "lo")
        .collect();
    names.sort();
    names
}

fn all_settings(interface: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for entry in std::fs::read_dir(format!("/proc/sys/net/{family}/conf/{interface}")).unwrap()
        {
            let path = entry.unwrap().path();
            // Some can only be written, and stable_secret not read before it is set.
            if let Ok(value) = std::fs::read_to_string(&path) {
                all.push((path.display().to_string(), value));
            }
        }
    }
    all.sort();
    all
}

fn in_namespace(work: impl FnOnce(&mut Socket) + Send) {
    let namespace = Named::unique("ps-state").unwrap();
    namespace
        .netns()
        .run(|| work(&mut Socket::open().unwrap()))
        .unwrap();
}

fn nothing() -> TeardownReport {
    TeardownReport::default()
}

#[test]
fn nothing_of_ours_is_left_and_the_rest_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|socket| {
        // Two pods' host ends, one of which the plugin was killed over; an operator's own port; somebody else's interface.
        let pod = veth(socket, "psw0123456789ab", 1);
        link::set_alias(socket, pod.index, "podswitch:net:container:eth0").unwrap();
        veth(socket, "pswba9876543210", 2);
        let port = veth(socket, "port0", 3);
        let foreign = veth(socket, "pswfriend", 4);
        attach(socket, foreign.index, "somebody_else");
        let before = (
            all_settings("port0"),
            link::get(socket, port.index).unwrap().flags,
        );
        let mut store = Store::open(&config.state_dir).unwrap();
        close(socket, &pod);
        store.own(&[close(socket, &port)]).unwrap();
        drop(store);
        drop(UnixListener::bind(&config.socket).unwrap());

        let report = teardown(&config).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(names(socket), ["peer3", "peer4", "port0", "pswfriend"]);
        let after = link::get(socket, port.index).unwrap();
        assert_eq!((all_settings("port0"), after.flags), before);
        assert!(after.xdp.is_empty());
        assert!(
            !tc::remove_clsact(socket, port.index).unwrap(),
            "the clsact hooks are still there"
        );
        let friend = link::get(socket, foreign.index).unwrap();
        assert!(
            friend.xdp.generic.is_some(),
            "another's program was removed"
        );
        assert!(!config.socket.exists() && !config.state_dir.exists());
        for (kind, name) in [
            ("interface", "psw0123456789ab"),
            ("interface", "pswba9876543210"),
            ("xdp_program", "generic on port0"),
        ] {
            assert!(
                report
                    .removed
                    .iter()
                    .any(|i| i.kind == kind && i.name == name),
                "{kind} {name} is not in {report:?}"
            );
        }

        assert_eq!(teardown(&config).unwrap(), nothing());
    });
}

#[test]
fn what_somebody_else_changed_since_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|socket| {
        let port = veth(socket, "port0", 1);
        let owned = close(socket, &port);
        let key = sysctl::Key::ipv4_conf("port0", "arp_ignore").unwrap();
        sysctl::set(&key, "2").unwrap();
        // One of the same name that was there before it is another interface.
        let stale = OwnedInterface {
            index: port.index + 100,
            name: "peer1".into(),
            ..owned.clone()
        };
        Store::open(&config.state_dir)
            .unwrap()
            .own(&[owned, stale])
            .unwrap();
        assert!(teardown(&config).unwrap().is_clean());
        assert_eq!(sysctl::get(&key).unwrap(), "2");
        assert_eq!(names(socket), ["peer1", "port0"]);
    });
}

#[test]
fn a_nic_has_its_features_back_unless_somebody_gave_them_back() {
    const TAGS: &str = "rx-vlan-hw-parse";
    const GRO: &str = "rx-gro";
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|socket| {
        let nic = veth(socket, "nic0", 1);
        let ethtool = Ethtool::open().unwrap();
        let is_on = |feature: &str| ethtool.features("nic0").unwrap()[feature].active;
        assert!(is_on(TAGS) && !is_on(GRO));
        // Of two that were turned off, somebody has turned the second on since.
        ethtool
            .set_features("nic0", &[(TAGS, false), (GRO, true)])
            .unwrap();
        attach(socket, nic.index, "podswitch_nic");
        let changed = [TAGS, GRO].map(|name| SavedFeature {
            name: name.into(),
            before: true,
        });
        let owned = OwnedInterface {
            name: "nic0".into(),
            index: nic.index,
            clsact: false,
            noarp: false,
            settings: vec![],
            features: changed.into(),
            tables: Vec::new(),
        };
        let mut store = Store::open(&config.state_dir).unwrap();
        store.own(&[owned]).unwrap();
        drop(store);
        let report = teardown(&config).unwrap();
        assert!(report.is_clean(), "{report:?}");
        let restored = format!("{report:?}");
        assert!(
            restored.contains(TAGS) && !restored.contains(GRO),
            "{restored}"
        );
        assert!(is_on(TAGS) && is_on(GRO));
        assert!(xdp::query(socket, "nic0").unwrap().is_empty());
    });
}

#[test]
fn a_state_that_cannot_be_read_is_removed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|socket| {
        let pod = veth(socket, "psw0123456789ab", 1);
        close(socket, &pod);
        std::fs::create_dir(&config.state_dir).unwrap();
        std::fs::write(config.state_dir.join("state.redb"), "damaged").unwrap();
        let report = teardown(&config).unwrap();
        assert!(
            report.is_clean() && report.removed.iter().any(|i| i.kind == "state"),
            "{report:?}"
        );
        assert_eq!(names(socket), Vec::<String>::new());
        assert!(!config.state_dir.exists());
    });
}

#[test]
fn a_running_daemon_is_left_alone_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|socket| {
        veth(socket, "psw0123456789ab", 1);
        let store = Store::open(&config.state_dir).unwrap();
        let error = teardown(&config).unwrap_err();
        assert!(
            matches!(error, StoreError::Locked { pid: Some(_), .. }),
            "{error:?}"
        );
        assert_eq!(names(socket), ["peer1", "psw0123456789ab"]);
        drop(store);
    });
}

#[test]
fn what_cannot_be_removed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    in_namespace(|_| {
        std::fs::write(&config.socket, "a file").unwrap();
        let report = teardown(&config).unwrap();
        assert!(!report.is_clean());
        assert_eq!(
            (
                report.failed[0].kind.as_str(),
                report.failed[0].name.as_str()
            ),
            ("socket", config.socket.to_str().unwrap())
        );
        assert!(config.socket.exists());
    });
}
