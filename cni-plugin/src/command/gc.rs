// SPDX-License-Identifier: Apache-2.0
//! GC: removes every attachment of this network that is not in `cni.dev/valid-attachments`, goes on after a failure,
//! and reports all of them (CNI spec 1.1.0, section "GC").

use std::collections::BTreeSet;

use crate::attach::{self, host_name};
use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::ipam::Lease;
use crate::spec::{CniError, Code};
use crate::switch::Switch;

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let Some(valid) = &conf.valid else {
        let msg = "cni.dev/valid-attachments is missing: without it GC would remove every pod's attachment";
        return Err(CniError::new(Code::InvalidConfig, msg));
    };
    let keep: BTreeSet<String> = valid
        .iter()
        .map(|v| host_name(&v.container_id, &v.ifname))
        .collect();
    let leases: Vec<Lease> = valid
        .iter()
        .map(|v| Lease {
            container_id: v.container_id.clone(),
            ifname: v.ifname.clone(),
        })
        .collect();
    let mut failures = Vec::new();
    ports(conf, &keep, &mut failures);
    match attach::list(&conf.name) {
        Ok(names) => {
            let stale = names.into_iter().filter(|n| !keep.contains(n));
            failures.extend(stale.filter_map(|n| attach::delete_host(&n).err()));
        }
        Err(e) => failures.push(e),
    }
    // An address is free only when nothing can forward to it any more.
    if failures.is_empty()
        && let Some(ipam) = &conf.ipam
    {
        failures.extend(ipam.gc(conf, call, &leases));
    }
    report(failures)
}

/// Removes stale ports. Without the daemon there is nothing to do: it drops ports without an interface when it is back.
fn ports(conf: &NetConf, keep: &BTreeSet<String>, failures: &mut Vec<CniError>) {
    let mut run = || -> Result<(), CniError> {
        let mut switch = Switch::connect(conf)?;
        for port in switch.ports_of(&conf.name)? {
            if !keep.contains(&port.name)
                && let Err(e) = switch.delete_port(&port.name)
            {
                failures.push(e.context(format_args!("port {}", port.name)));
            }
        }
        Ok(())
    };
    match run() {
        Err(e) if e.code != Code::TryAgain as u32 => failures.push(e),
        _ => {}
    }
}

fn report(failures: Vec<CniError>) -> Result<(), CniError> {
    match failures.len() {
        0 => Ok(()),
        1 => failures.into_iter().next().map_or(Ok(()), Err),
        n => {
            let all: Vec<String> = failures.iter().map(ToString::to_string).collect();
            Err(CniError::new(
                Code::Cleanup,
                format!("{n} things could not be removed: {}", all.join("; ")),
            ))
        }
    }
}
