// SPDX-License-Identifier: Apache-2.0
//! `podswitchctl why`.

use podswitch_api::method::{Why, WhyParams};

use super::Context;
use crate::args::WhyArgs;
use crate::exit::{Failure, Result};
use crate::output;

/// Exits with 1 when the connection may not begin.
pub(super) fn why(context: &Context, args: WhyArgs) -> Result {
    let (protocol, port) = match (args.port, args.protocol) {
        (Some(arg), _) => (arg.protocol, Some(arg.port)),
        (None, Some(protocol)) => (protocol, None),
        (None, None) => return Err(Failure::Usage("give --port or --protocol".to_owned())),
    };
    let result = context.client()?.call::<Why>(&WhyParams {
        from: args.from.0,
        to: args.to.0,
        protocol,
        port,
        source_port: args.source_port,
        vrf: args.vrf,
        group: args.group,
    })?;
    output::print(context.output, &result, output::why)?;
    match &result.reason {
        None => Ok(()),
        Some(reason) => Err(Failure::Refused(format!(
            "the connection may not begin: {reason}"
        ))),
    }
}
