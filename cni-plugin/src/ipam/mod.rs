// SPDX-License-Identifier: Apache-2.0
//! Where addresses come from: the built-in ranges (written as host-local writes them) or another plugin, called by the
//! specification (CNI spec 1.1.0, section 4 "Plugin Delegation").

mod delegate;
mod leases;
mod ranges;

pub use delegate::Delegate;
pub use leases::{Lease, Leases};
pub use ranges::{BuiltIn, RangeConf};

use serde_json::Value;

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::result::{Attachment, Ip};
use crate::spec::{CniError, Code};

/// Type names of the built-in IPAM: the plugin's own, under either of its names.
const BUILT_IN: [&str; 2] = ["podswitch", "podswitch-cni"];

/// The `ipam` section, checked.
#[derive(Clone, Debug)]
pub enum Ipam {
    /// Addresses from ranges, leases on disk.
    BuiltIn(BuiltIn),
    /// Another plugin.
    Delegate(Delegate),
}

impl Ipam {
    /// Reads the section; `None` when it is empty (an attachment without addresses).
    ///
    /// # Errors
    /// Code 7 naming the key and value.
    pub fn parse(
        value: &Value,
        runtime_ranges: &[Vec<RangeConf>],
    ) -> Result<Option<Ipam>, CniError> {
        let bad = |why: &str| CniError::new(Code::InvalidConfig, format!("{value}: {why}"));
        let object = value.as_object().ok_or_else(|| bad("not an object"))?;
        if object.is_empty() {
            return Ok(None);
        }
        match object.get("type") {
            Some(Value::String(kind)) if BUILT_IN.contains(&kind.as_str()) => {
                Ok(Some(Ipam::BuiltIn(BuiltIn::parse(value, runtime_ranges)?)))
            }
            Some(Value::String(kind)) => Ok(Some(Ipam::Delegate(Delegate::new(kind)?))),
            Some(other) => Err(bad(&format!("type {other} is not a string"))),
            None => Err(bad(
                "key \"type\" is missing; \"podswitch\" is the built-in one",
            )),
        }
    }

    /// Allocates (ADD).
    ///
    /// # Errors
    /// Code 101 when a range is exhausted, what a delegate said, or I/O.
    pub fn add(&self, conf: &NetConf, call: &Invocation) -> Result<Attachment, CniError> {
        match self {
            Ipam::BuiltIn(b) => {
                let wanted = conf.wanted_ips(call.args.get("IP").map(String::as_str))?;
                let ips = b
                    .leases(&conf.name)
                    .allocate(b, &Lease::of(call), &wanted)?;
                let ips = ips
                    .into_iter()
                    .map(|(net, gateway)| Ip::new(net, gateway, None))
                    .collect();
                Ok(Attachment {
                    ips,
                    routes: b.routes.clone(),
                    ..Attachment::default()
                })
            }
            Ipam::Delegate(d) => d.add(conf, call),
        }
    }

    /// Releases (DEL); releasing what is not held is fine.
    ///
    /// # Errors
    /// I/O, or what a delegate said.
    pub fn del(&self, conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
        match self {
            Ipam::BuiltIn(b) => b.leases(&conf.name).release(&Lease::of(call)),
            Ipam::Delegate(d) => d.run(conf, call, "DEL").map(drop),
        }
    }

    /// Looks whether the attachment still holds its addresses (CHECK).
    ///
    /// # Errors
    /// Code 102 naming the address without a lease, or what a delegate said.
    pub fn check(&self, conf: &NetConf, call: &Invocation, ips: &[Ip]) -> Result<(), CniError> {
        match self {
            Ipam::BuiltIn(b) => {
                let held = b.leases(&conf.name).held(&Lease::of(call))?;
                for ip in ips {
                    if !held.contains(&ip.address.addr()) {
                        let msg = format!(
                            "address {} has no lease of container {}",
                            ip.address.addr(),
                            call.container_id
                        );
                        return Err(CniError::new(Code::Differs, msg));
                    }
                }
                Ok(())
            }
            Ipam::Delegate(d) => d.run(conf, call, "CHECK").map(drop),
        }
    }

    /// Says whether an address could be given (STATUS).
    ///
    /// # Errors
    /// Code 50 when a range set is exhausted, I/O, or what a delegate said.
    pub fn status(&self, conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
        match self {
            Ipam::BuiltIn(b) => b.leases(&conf.name).has_room(b),
            Ipam::Delegate(d) => d.run(conf, call, "STATUS").map(drop),
        }
    }

    /// Releases everything that is not in `valid` (GC).
    ///
    /// # Errors
    /// One for each failure.
    pub fn gc(&self, conf: &NetConf, call: &Invocation, valid: &[Lease]) -> Vec<CniError> {
        match self {
            Ipam::BuiltIn(b) => b.leases(&conf.name).retain(valid),
            Ipam::Delegate(d) => d.run(conf, call, "GC").err().into_iter().collect(),
        }
    }
}
