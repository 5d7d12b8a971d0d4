// SPDX-License-Identifier: Apache-2.0
//! Where addresses come from: the built-in ranges (written as host-local writes them) or another plugin, called by the
//! specification (CNI spec 1.1.0, section 4 "Plugin Delegation").

mod delegate;
mod leases;
mod ranges;

pub use delegate::Delegate;
pub use leases::{Lease, Leases};
pub use ranges::{BuiltIn, RangeConf};

use serde_json::{Map, Value};

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::json::{invalid, take};
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
    /// Reads the section; `None` when it is absent or empty (an attachment without addresses).
    ///
    /// # Errors
    /// Code 7, or 2 for an unknown key of the built-in one, naming key and value.
    pub fn parse(
        conf: &Map<String, Value>,
        runtime_ranges: &[Vec<RangeConf>],
    ) -> Result<Option<Ipam>, CniError> {
        Self::read(conf, |section| BuiltIn::parse(section, runtime_ranges))
    }

    /// Reads as much as giving addresses back needs: which plugin, and where it keeps leases.
    ///
    /// # Errors
    /// Code 7 naming key and value.
    pub fn for_cleanup(conf: &Map<String, Value>) -> Result<Option<Ipam>, CniError> {
        Self::read(conf, BuiltIn::for_cleanup)
    }

    fn read(
        conf: &Map<String, Value>,
        built_in: impl Fn(&Map<String, Value>) -> Result<BuiltIn, CniError>,
    ) -> Result<Option<Ipam>, CniError> {
        let Some(section) = take::<Map<String, Value>>(conf, "ipam")?.filter(|s| !s.is_empty())
        else {
            return Ok(None);
        };
        let bad = |why: &str| invalid("ipam", &conf["ipam"], why);
        match section.get("type") {
            Some(Value::String(kind)) if BUILT_IN.contains(&kind.as_str()) => {
                Ok(Some(Ipam::BuiltIn(built_in(&section)?)))
            }
            Some(Value::String(kind)) => Ok(Some(Ipam::Delegate(Delegate::new(kind)?))),
            Some(_) => Err(bad("\"type\" is not a string")),
            None => Err(bad(
                "key \"type\" is missing; \"podswitch\" is the built-in one",
            )),
        }
    }

    /// Allocates (ADD). After an error nothing is allocated.
    ///
    /// # Errors
    /// Code 101 when a range is exhausted, what a delegate said, or I/O.
    pub fn add(&self, conf: &NetConf, call: &Invocation) -> Result<Attachment, CniError> {
        match self {
            Ipam::BuiltIn(b) => {
                let wanted = conf.wanted_ips(call)?;
                let ips = b
                    .leases(&conf.name)
                    .allocate(b, &Lease::of(call), &wanted)?;
                let ips = ips.into_iter().map(|ip| Ip {
                    address: ip.into(),
                    gateway: None,
                    interface: None,
                });
                Ok(Attachment {
                    ips: ips.collect(),
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
                match ips.iter().find(|ip| !held.contains(&ip.address.addr())) {
                    Some(ip) => Err(CniError::new(
                        Code::Differs,
                        format!(
                            "address {} has no lease of container {}",
                            ip.address.addr(),
                            call.container_id
                        ),
                    )),
                    None => Ok(()),
                }
            }
            Ipam::Delegate(d) => d.run(conf, call, "CHECK").map(drop),
        }
    }

    /// Says whether an address could be given (STATUS).
    ///
    /// # Errors
    /// Code 50 when a range set is exhausted or a lease cannot be written, or what a delegate said.
    pub fn status(&self, conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
        match self {
            Ipam::BuiltIn(b) => b.leases(&conf.name).has_room(b),
            Ipam::Delegate(d) => d.run(conf, call, "STATUS").map(drop),
        }
    }

    /// Releases everything that `keep` does not want kept (GC). A delegate judges by the configuration alone, which does not
    /// tell what could not be removed: it is asked only when `all_gone`, and else by a later GC.
    ///
    /// # Errors
    /// One for each failure.
    pub fn gc(
        &self,
        conf: &NetConf,
        call: &Invocation,
        all_gone: bool,
        keep: impl Fn(&Lease) -> bool,
    ) -> Vec<CniError> {
        match self {
            Ipam::BuiltIn(b) => b.leases(&conf.name).retain(keep),
            Ipam::Delegate(_) if !all_gone => Vec::new(),
            Ipam::Delegate(d) => d.run(conf, call, "GC").err().into_iter().collect(),
        }
    }
}
