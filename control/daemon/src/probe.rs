// SPDX-License-Identifier: Apache-2.0
//! What this kernel and machine offer, each feature tried: at start, and for `podswitchd --probe`.

use std::process::ExitCode;

use podswitch_api::object::XdpMode;
use podswitch_datapath::port::xdp::{Outcome, Probe, ProbeRow};
use podswitch_host::link::{self, Veth, VethEnd};
use podswitch_host::{Link, Socket, netns, probe, tc};

use crate::kernel::{Kernel, KernelError};

/// The datapath's table, and what taking a pod's veth needs, tried on one in a namespace of its own.
pub fn run() -> Probe {
    let mut probe = Probe::run();
    let rows =
        netns::in_scratch(|| scratch_veth().map(|(mut socket, link)| rows(&mut socket, &link)));
    probe.rows.extend(match rows {
        Ok(Ok(rows)) => rows,
        Ok(Err(e)) | Err(e) => vec![row("veth", Outcome::Refused, e.to_string())],
    });
    probe
}

fn row(feature: &'static str, outcome: Outcome, detail: String) -> ProbeRow {
    ProbeRow {
        feature,
        outcome,
        detail,
    }
}

fn scratch_veth() -> podswitch_host::Result<(Socket, Link)> {
    let mut socket = Socket::open()?;
    let end = |name, last| VethEnd {
        name,
        mac: [2, 0, 0, 0, 0, last],
        mtu: 1500,
    };
    let link = link::create_veth(&mut socket, &Veth::new(end("probe0", 1), end("probe1", 2)))?;
    Ok((socket, link))
}

fn rows(socket: &mut Socket, link: &Link) -> Vec<ProbeRow> {
    let wall = match tc::deny(socket, link.index) {
        Ok(_) => (
            Outcome::Available,
            "drops what the host would see".to_owned(),
        ),
        Err(e) => (Outcome::Refused, e.to_string()),
    };
    let mut kernel = Kernel::new(XdpMode::Auto);
    let mut attach = |mode| kernel.attach(link, mode).map(|_| ());
    let (native, generic) = (attach(XdpMode::Native), attach(XdpMode::Generic));
    let [native, generic] = modes(native, generic);
    vec![
        row("traffic-control drop", wall.0, wall.1),
        row("native XDP on veth", native.0, native.1),
        row("generic XDP on veth", generic.0, generic.1),
    ]
}

/// One of the two modes is enough.
fn modes(
    native: Result<(), KernelError>,
    generic: Result<(), KernelError>,
) -> [(Outcome, String); 2] {
    let without = |e: &KernelError, other_works: bool, instead: &str| match other_works {
        true => (Outcome::Fallback, format!("{instead} ({e})")),
        false => (Outcome::Refused, e.to_string()),
    };
    let used = |mode: &str| (Outcome::Available, format!("ports of mode {mode}"));
    [
        match &native {
            Ok(()) => used("native and auto"),
            Err(e) => without(e, generic.is_ok(), "ports of mode auto use generic mode"),
        },
        match &generic {
            Ok(()) => used("generic"),
            Err(e) => without(e, native.is_ok(), "ports of mode generic are refused"),
        },
    ]
}

/// Prints the table; fails when something is missing that podswitch cannot do without.
pub fn print() -> ExitCode {
    let probe = run();
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
    let missing = |has: probe::Capabilities| {
        let lacking = probe::Capability::ALL.iter().filter(|c| !has.has(**c));
        let names: Vec<String> = lacking.map(ToString::to_string).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    vec![
        (
            "capabilities missing",
            show(probe::capabilities().map(missing)),
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mode_is_enough_and_none_is_refused() {
        let refused = || Err(KernelError::Missing("probe0".to_owned()));
        let outcomes = |native, generic| modes(native, generic).map(|m| m.0);
        let available = Outcome::Available;
        assert_eq!(outcomes(Ok(()), Ok(())), [available; 2]);
        assert_eq!(outcomes(refused(), Ok(())), [Outcome::Fallback, available]);
        assert_eq!(outcomes(Ok(()), refused()), [available, Outcome::Fallback]);
        assert_eq!(outcomes(refused(), refused()), [Outcome::Refused; 2]);
        let [native, _] = modes(refused(), Ok(()));
        assert!(native.1.contains("probe0"), "{}", native.1);
    }
}
