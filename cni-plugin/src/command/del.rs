// SPDX-License-Identifier: Apache-2.0
//! DEL: port, interface or socket's folder, addresses, in this order, so that an address is free only after nothing forwards to it.
//! Idempotent; works without a namespace, without `prevResult`, for a container never seen, and without the daemon
//! (which drops ports whose interface or folder has gone when it is back).

use crate::attach::{self, Link};
use crate::conf::NetConf;
use crate::guest;
use crate::invocation::Invocation;
use crate::spec::CniError;
use crate::switch::{Switch, unless_away};

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let link = Link::of(conf, call);
    let port = unless_away(Switch::connect(conf).and_then(|mut s| s.detach(&link)));
    let interface = attach::delete(&link);
    let guest = conf.guest.as_ref();
    let guest = guest.map_or(Ok(()), |guest| guest::part(guest, &link));
    // A port that stays keeps its addresses: two pods must never share one. The runtime calls again.
    CniError::all(
        [port.map_err(CniError::from), interface, guest]
            .into_iter()
            .filter_map(Result::err)
            .collect(),
    )?;
    conf.ipam
        .as_ref()
        .map_or(Ok(()), |ipam| ipam.del(conf, call))
}
