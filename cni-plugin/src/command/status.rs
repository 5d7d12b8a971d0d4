// SPDX-License-Identifier: Apache-2.0
//! STATUS: could an ADD be served now? Code 50 and the reason when not (CNI spec 1.1.0, section "STATUS"); a runtime
//! shows the message as the node's condition.

use podswitch_api::method::HealthStatus;

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::spec::{CniError, Code};
use crate::switch::Switch;

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let unavailable = |e: CniError| CniError {
        code: Code::NotAvailable as u32,
        ..e
    };
    let health = Switch::connect(conf)
        .and_then(|mut s| s.health())
        .map_err(|e| unavailable(e.into()))?;
    if health.status == HealthStatus::Failing {
        let problems: Vec<_> = health
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.subject, p.message))
            .collect();
        let msg = format!("podswitchd cannot serve: {}", problems.join("; "));
        return Err(CniError::new(Code::NotAvailable, msg).details("podswitchctl health says more"));
    }
    conf.ipam
        .as_ref()
        .map_or(Ok(()), |ipam| ipam.status(conf, call))
}
