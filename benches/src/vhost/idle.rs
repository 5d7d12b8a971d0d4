// SPDX-License-Identifier: Apache-2.0
//! What machines cost that say nothing.

use std::time::{Duration, Instant};

use podswitch_datapath::switch::IdleConfig;

use super::guest::Machine;
use super::load::Load;
use super::switch::Whole;
use super::{FLOWS, Plan};
use crate::outcome::Outcome;
use crate::process::run_times;

/// Machines.
const GUESTS: usize = 32;
/// The threads of a switch: its worker, and those that hear what frontends say, and look after them.
const THREADS: [&str; 3] = ["ps-worker-0", "vhost-user", "vhost-patrol"];

/// Measures it, with the settings that a daemon has when nobody says otherwise.
pub(super) fn run(plan: &Plan, outcome: &mut Outcome) {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, core) = plan.cores;
    let idle = IdleConfig::default();
    let switch = Whole::new(folder.path(), core, GUESTS, 0, idle);
    let load = Load::datagrams(60, FLOWS);
    let connect = |path: &std::path::PathBuf| {
        let mut machine = Machine::new(&load, false);
        machine.connect(path, load.features);
        machine
    };
    let machines: Vec<Machine> = switch.ports().iter().map(connect).collect();
    std::thread::sleep(Duration::from_secs(1));
    let pid = std::process::id() as i32;
    let mut shares = THREADS.map(|_| Vec::new());
    let mut all = Vec::new();
    for _ in 0..plan.seconds {
        let (before, start) = (run_times(pid), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let (after, elapsed) = (run_times(pid), start.elapsed().as_nanos() as f64);
        let share = THREADS.map(|name| {
            let ran = |times: &std::collections::BTreeMap<String, u64>| times.get(name).copied();
            let (before, after) = (ran(&before), ran(&after));
            let (before, after) = before
                .zip(after)
                .unwrap_or_else(|| panic!("no thread {name}"));
            (after - before) as f64 / elapsed * 100.0
        });
        all.push(share.iter().sum());
        for (shares, share) in shares.iter_mut().zip(share) {
            shares.push(share);
        }
    }
    drop((machines, switch));
    outcome.add_series(&format!("{GUESTS} quiet guests"), "% of a core", all);
    for (name, shares) in THREADS.into_iter().zip(shares) {
        let label = format!("{GUESTS} quiet guests: {name}");
        outcome.add_series(&label, "% of a core", shares);
    }
}
