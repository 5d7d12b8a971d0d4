// SPDX-License-Identifier: Apache-2.0
//! `podswitchd --probe`: what this kernel and machine offer, each feature tried.

use std::process::ExitCode;

use podswitch_datapath::port::xdp::Probe;
use podswitch_host::probe;

/// Prints the table; fails when something is missing that podswitch cannot do without.
pub fn print() -> ExitCode {
    let probe = Probe::run();
    println!("kernel {}", probe.release);
    for row in &probe.rows {
        println!("{:<28} {:<10} {}", row.feature, row.outcome, row.detail);
    }
    for (what, found) in machine() {
        println!("{what:<28} {found}");
    }
    match probe.features() {
        Ok(_) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("podswitchd: {refusal}");
            ExitCode::FAILURE
        }
    }
}

/// Facts about the machine that decide how well workers run.
fn machine() -> Vec<(&'static str, String)> {
    let show =
        |r: Result<String, podswitch_host::Error>| r.unwrap_or_else(|e| format!("not known: {e}"));
    vec![
        (
            "cores online",
            show(probe::online_cpus().map(|c| format!("{c:?}"))),
        ),
        (
            "cores isolated",
            show(probe::isolated_cpus().map(|c| format!("{c:?}"))),
        ),
        (
            "cores this process may use",
            show(probe::affinity().map(|c| format!("{c:?}"))),
        ),
        (
            "CPU quota",
            show(probe::cpu_quota().map(|q| {
                q.map_or("none".to_owned(), |q| {
                    format!("{:.2} cores: workers will be throttled", q.cpus())
                })
            })),
        ),
        (
            "BPF JIT",
            show(
                probe::bpf_jit()
                    .map(|on| if on { "on" } else { "off: steering is slow" }.to_owned()),
            ),
        ),
    ]
}
