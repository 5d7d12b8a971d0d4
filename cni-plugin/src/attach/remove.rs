// SPDX-License-Identifier: Apache-2.0
//! DEL's and GC's part in the kernel. The pod's end goes with the host's.

use podswitch_host::{Socket, link};

use super::{Link, alias_of, host_error, is_host_name, lock};
use crate::spec::CniError;

/// Removes an attachment's pair; one that is not there is fine, one of another attachment stays.
///
/// # Errors
/// Code 104 naming what the kernel refused.
pub fn delete(link: &Link) -> Result<(), CniError> {
    let run = || {
        let mut socket = Socket::open()?;
        let alias = link.alias();
        match link::find(&mut socket, &link.host)? {
            Some(found) if is_ours(&found, |a| a == alias) => {
                link::delete_if_exists(&mut socket, &found).map(drop)
            }
            _ => Ok(()),
        }
    };
    run().map_err(host_error)
}

/// Removes a host end by name.
///
/// # Errors
/// Code 104 naming what the kernel refused.
pub fn delete_host(name: &str) -> Result<(), CniError> {
    let run = || link::delete_if_exists(&mut Socket::open()?, name).map(drop);
    run().map_err(host_error)
}

/// Host ends of a network in this namespace, and those whose making was cut short before they said whose they are.
///
/// # Errors
/// Code 104 when they cannot be listed.
pub fn list(network: &str) -> Result<Vec<String>, CniError> {
    let _lock = lock()?;
    let ours = alias_of(network, "");
    let all = Socket::open()
        .and_then(|mut s| link::list(&mut s))
        .map_err(host_error)?;
    let names = all
        .into_iter()
        .filter(|l| is_host_name(&l.name) && is_ours(l, |a| a.starts_with(&ours)))
        .map(|l| l.name);
    Ok(names.collect())
}

/// A plugin that was killed between making the pair and saying whose it is leaves one without an alias.
fn is_ours(link: &podswitch_host::Link, alias: impl Fn(&str) -> bool) -> bool {
    link.kind.as_deref() == Some("veth") && link.alias.as_deref().is_none_or(alias)
}
