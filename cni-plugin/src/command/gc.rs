// SPDX-License-Identifier: Apache-2.0
//! GC: removes every attachment of this network that is not in `cni.dev/valid-attachments`, goes on after a failure,
//! and reports all of them (CNI spec 1.1.0, section "GC").

use std::collections::BTreeSet;

use crate::attach::{self, host_name};
use crate::conf::NetConf;
use crate::guest;
use crate::invocation::Invocation;
use crate::ipam::Lease;
use crate::spec::{CniError, Code};
use crate::switch::{Switch, unless_away};

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let Some(valid) = &conf.valid else {
        let msg = "cni.dev/valid-attachments is missing: without it GC would remove every pod's attachment";
        return Err(CniError::new(Code::InvalidConfig, msg));
    };
    let mut keep: BTreeSet<String> = valid
        .iter()
        .map(|v| host_name(&v.container_id, &v.ifname))
        .collect();
    let mut failures = Vec::new();
    let ports = ports(conf, &keep, &mut failures);
    let interfaces = interfaces(conf, &keep, &mut failures);
    let folders = folders(conf, &keep, &mut failures);
    // An address is free only when nothing can forward to it any more.
    let unsure = ports.is_none() || interfaces.is_none() || folders.is_none();
    let stays = ports.into_iter().chain(interfaces).chain(folders);
    let stays: Vec<String> = stays.flatten().collect();
    let all_gone = !unsure && stays.is_empty();
    keep.extend(stays);
    let holds = |l: &Lease| unsure || keep.contains(&host_name(&l.container_id, &l.ifname));
    if let Some(ipam) = &conf.ipam {
        failures.extend(ipam.gc(conf, call, all_gone, holds));
    }
    CniError::all(failures)
}

/// Removes stale ports, and tells which could not be removed; `None` when it is not known which there are. Without the
/// daemon there is nothing to do: it drops ports without an interface when it is back.
fn ports(
    conf: &NetConf,
    keep: &BTreeSet<String>,
    failures: &mut Vec<CniError>,
) -> Option<Vec<String>> {
    let listed = Switch::connect(conf).and_then(|mut s| Ok((s.ports_of(&conf.name)?, s)));
    let (ports, mut switch) = match listed {
        Ok(listed) => listed,
        Err(e) if e.is_unreachable() => return Some(Vec::new()),
        Err(e) => {
            failures.push(e.into());
            return None;
        }
    };
    let names = ports.into_iter().map(|p| p.name);
    Some(remove(names, keep, failures, "port", |name| {
        Ok(unless_away(switch.delete_port(name))?)
    }))
}

/// Removes stale interfaces, and tells which could not be removed; `None` when it is not known which there are.
fn interfaces(
    conf: &NetConf,
    keep: &BTreeSet<String>,
    failures: &mut Vec<CniError>,
) -> Option<Vec<String>> {
    match attach::list(&conf.name) {
        Ok(names) => Some(remove(
            names.into_iter(),
            keep,
            failures,
            "interface",
            attach::delete_host,
        )),
        Err(e) => {
            failures.push(e);
            None
        }
    }
}

/// The same with folders of virtual machines.
fn folders(
    conf: &NetConf,
    keep: &BTreeSet<String>,
    failures: &mut Vec<CniError>,
) -> Option<Vec<String>> {
    let Some(guest) = &conf.guest else {
        return Some(Vec::new());
    };
    match guest::list(guest, &conf.name) {
        Ok(names) => Some(remove(
            names.into_iter(),
            keep,
            failures,
            "folder",
            |name| guest::remove(guest, name),
        )),
        Err(e) => {
            failures.push(e);
            None
        }
    }
}

fn remove(
    names: impl Iterator<Item = String>,
    keep: &BTreeSet<String>,
    failures: &mut Vec<CniError>,
    what: &str,
    mut delete: impl FnMut(&str) -> Result<(), CniError>,
) -> Vec<String> {
    let mut left = Vec::new();
    for name in names.filter(|n| !keep.contains(n)) {
        if let Err(e) = delete(&name) {
            failures.push(e.context(format_args!("{what} {name}")));
            left.push(name);
        }
    }
    left
}
