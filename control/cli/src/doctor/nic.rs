// SPDX-License-Identifier: Apache-2.0
//! NICs: drivers, MTUs, who has them, and programs that are there already.

use std::path::Path;

use podswitch_host::Socket;
use podswitch_host::bpf;
use podswitch_host::link;

use super::{Finding, Machine, Severity};

/// Names of drivers that are known to have XDP of their own; others may have it, too.
const NATIVE: [&str; 24] = [
    "atlantic",
    "bnxt_en",
    "ena",
    "fec",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_core",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "veth",
    "virtio_net",
];
/// The least that IPv6 demands of a link (RFC 8200 section 5).
const MIN_MTU: u32 = 1280;

/// What is known of a NIC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Nic {
    name: String,
    driver: Option<String>,
    mtu: u32,
    has_link: bool,
    /// Bridge or bond that it belongs to.
    master: Option<String>,
    /// A program of somebody else's on it: its number and its name.
    foreign: Option<String>,
}

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut nics = nics(machine);
    if machine.is_real() {
        nics.iter_mut()
            .for_each(|nic| nic.foreign = foreign(&nic.name));
    }
    if nics.is_empty() {
        let message = "none with a driver: pods of other nodes are not reached by a NIC's port";
        return vec![Finding::new(Severity::Info, "nic", message)];
    }
    nics.iter().flat_map(judge).collect()
}

/// Interfaces with a device behind them.
fn nics(machine: &Machine) -> Vec<Nic> {
    let class = Path::new("/sys/class/net");
    let Ok(entries) = std::fs::read_dir(machine.path(class)) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let target = |path: std::path::PathBuf| {
        let link = std::fs::read_link(machine.path(path)).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    };
    let nic = |name: String| {
        let of = class.join(&name);
        machine.path(of.join("device")).exists().then(|| Nic {
            driver: target(of.join("device/driver")),
            mtu: machine
                .read(of.join("mtu"))
                .and_then(|t| t.parse().ok())
                .unwrap_or(0),
            has_link: machine.read(of.join("carrier")).as_deref() == Some("1"),
            master: target(of.join("master")),
            foreign: None,
            name,
        })
    };
    names.into_iter().filter_map(nic).collect()
}

/// A program of somebody else's on an interface of this machine.
fn foreign(name: &str) -> Option<String> {
    let mut socket = Socket::open().ok()?;
    let (mode, id) = link::get(&mut socket, name).ok()?.xdp.first()?;
    let program = bpf::info(id).ok();
    match program {
        Some(program) if program.is_ours() => None,
        Some(program) => Some(format!("{id} ({}, {mode:?})", program.name)),
        None => Some(format!("{id} ({mode:?})")),
    }
}

fn judge(nic: &Nic) -> Vec<Finding> {
    let check = format!("nic {}", nic.name);
    let driver = nic.driver.as_deref().unwrap_or("not known");
    let mut found = vec![match NATIVE.contains(&driver) {
        true => Finding::ok(
            &check,
            format!("driver {driver}, MTU {}: native XDP", nic.mtu),
        ),
        false => Finding::new(
            Severity::Info,
            &check,
            format!(
                "driver {driver}, MTU {}: it may have no XDP of its own",
                nic.mtu
            ),
        )
        .hint("where the port is refused in mode auto, give it mode generic, or tap"),
    }];
    let mut add = |severity, message: String, hint: &str| {
        found.push(Finding::new(severity, &check, message).hint(hint));
    };
    if nic.mtu < MIN_MTU {
        let hint = "raise it, or use no IPv6 by this NIC";
        add(
            Severity::Warning,
            format!("MTU {} is too small for IPv6", nic.mtu),
            hint,
        );
    }
    if let Some(master) = &nic.master {
        let message = format!("belongs to {master}: a port on it is refused");
        add(
            Severity::Warning,
            message,
            "use a NIC of its own for the switch's port",
        );
    }
    if let Some(program) = &nic.foreign {
        let message = format!("has an XDP program that is not podswitch's: {program}");
        let hint = "a port on it is refused; remove who attached it (ip link set dev NAME xdp off)";
        add(Severity::Error, message, hint);
    }
    if !nic.has_link {
        add(
            Severity::Info,
            "no link".to_owned(),
            "plug it in, or set it up",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tests::{machine, short};
    use super::*;

    #[test]
    fn nics_are_those_with_a_device() {
        let (_root, machine) = machine(&[
            ("/sys/class/net/eth0/mtu", "9000\n"),
            ("/sys/class/net/eth0/carrier", "1\n"),
            ("/sys/class/net/eth0/device/x", ""),
            ("/sys/class/net/eth1/mtu", "1000\n"),
            ("/sys/class/net/eth1/device/x", ""),
            ("/sys/class/net/lo/mtu", "65536\n"),
        ]);
        let link = |to: &str, at: &str| symlink(to, machine.path(at)).unwrap();
        link(
            "../../bus/pci/drivers/ice",
            "/sys/class/net/eth0/device/driver",
        );
        link(
            "../../bus/pci/drivers/r8169",
            "/sys/class/net/eth1/device/driver",
        );
        link("../br0", "/sys/class/net/eth1/master");
        let found = check(&machine);
        let (ok, info, warning) = (Severity::Ok, Severity::Info, Severity::Warning);
        assert_eq!(
            short(&found),
            [
                (ok, "nic eth0"),
                (info, "nic eth1"),
                (warning, "nic eth1"),
                (warning, "nic eth1"),
                (info, "nic eth1"),
            ]
        );
        assert_eq!(found[0].message, "driver ice, MTU 9000: native XDP");
        assert!(found[3].message.contains("br0"));
    }

    #[test]
    fn a_program_of_somebody_else_is_an_error() {
        let nic = Nic {
            name: "eth0".to_owned(),
            driver: Some("ice".to_owned()),
            mtu: 1500,
            has_link: true,
            foreign: Some("7 (cil_xdp, Driver)".to_owned()),
            ..Nic::default()
        };
        let found = judge(&nic);
        assert_eq!(short(&found)[1], (Severity::Error, "nic eth0"));
        assert!(found[1].message.contains("cil_xdp"));
    }

    #[test]
    fn a_machine_without_nics_is_no_error() {
        let (_root, machine) = machine(&[]);
        assert_eq!(short(&check(&machine)), [(Severity::Info, "nic")]);
    }
}
