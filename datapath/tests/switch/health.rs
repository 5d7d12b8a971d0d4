// SPDX-License-Identifier: Apache-2.0
//! What a switch says of its workers.

use podswitch_datapath::switch::{Pinning, SwitchConfig, SwitchError, Waiting, WorkerConfig};
use podswitch_datapath::tables::Tables;
use podswitch_datapath::{WorkerId, switch::Switch};

use crate::node::*;

fn on_core(core: usize, require_core: bool) -> SwitchConfig {
    SwitchConfig {
        workers: vec![WorkerConfig {
            core: Some(core),
            require_core,
        }],
        ..threads(1)
    }
}

/// A core that this process may use.
fn some_core() -> usize {
    core_affinity::get_core_ids().unwrap()[0].id
}

/// A core that no machine has.
const NO_CORE: usize = 1000;

#[test]
fn a_worker_is_pinned_to_its_core() {
    let core = some_core();
    let switch = start(on_core(core, true));
    let health = switch.workers()[0];
    assert_eq!(health.pinning, Pinning::Pinned(core));
    assert!(health.alive);
    let tid = health.tid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let allowed = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
    assert_eq!(
        allowed.unwrap().split_whitespace().nth(1),
        Some(&*core.to_string())
    );
    let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
    assert_eq!(name, "ps-worker-0\n");
    assert!(health.run_delay.is_some());
}

#[test]
fn a_core_that_is_refused_is_reported() {
    let switch = start(on_core(NO_CORE, false));
    assert_eq!(switch.workers()[0].pinning, Pinning::Refused(NO_CORE));
    let error = Switch::start(on_core(NO_CORE, true), Tables::new(gateway()));
    let error = error.err().unwrap();
    assert!(matches!(
        error,
        SwitchError::Core {
            worker: WorkerId(0),
            core: NO_CORE
        }
    ));
    assert!(error.to_string().contains("core 1000"), "{error}");
}

#[test]
fn the_number_of_workers_is_checked() {
    for n in [0, 65] {
        let error = Switch::start(inline(n), Tables::new(gateway()))
            .err()
            .unwrap();
        assert!(matches!(error, SwitchError::Workers(k) if k == n));
    }
}

#[test]
fn inline_workers_have_no_thread() {
    let mut switch = start(inline(2));
    pod(&mut switch, 0, 1);
    let health = switch.workers()[1];
    assert_eq!((health.pinning, health.tid), (Pinning::Inline, None));
    assert_eq!((health.ports, health.asleep), (1, false));
    assert_eq!(health.waiting, Waiting::Spins);
    settle(&mut switch);
    let turns = switch.workers()[1].cycles.turns;
    assert!(!switch.turn());
    let after = switch.workers()[1].cycles;
    assert_eq!(after.turns, turns + 1);
    assert!(after.idle > 0);
}
