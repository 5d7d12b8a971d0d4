// SPDX-License-Identifier: Apache-2.0
//! `podswitchctl events`.

use std::time::Duration;

use podswitch_api::method::{DenyEvent, Events, EventsParams, EventsResult};

use super::Context;
use crate::args::{EventsArgs, Format};
use crate::exit::Result;
use crate::output;

/// Longest time that one answer is waited for; half of `--timeout` if that is less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows what the daemon still has; then, with `--follow`, what comes, until interrupted.
pub(super) fn events(context: &Context, args: EventsArgs) -> Result {
    let mut client = context.client()?;
    let mut ask = |since, wait: Duration| {
        client.call::<Events>(&EventsParams {
            since,
            limit: None,
            wait_ms: Some(wait.as_millis() as u32),
        })
    };
    let mut all = Vec::new();
    let mut since = None;
    loop {
        let found = ask(since, Duration::ZERO)?;
        say_lost(&found);
        since = Some(found.next);
        if found.events.is_empty() {
            break;
        }
        all.extend(found.events);
    }
    if !args.follow {
        return output::print(context.output, &all, |all| output::events(all));
    }
    show(context.output, &all)?;
    let wait = PATIENCE.min(context.timeout / 2);
    loop {
        let found = ask(since, wait)?;
        say_lost(&found);
        since = Some(found.next);
        show(context.output, &found.events)?;
    }
}

fn say_lost(found: &EventsResult) {
    if found.lost > 0 {
        eprintln!(
            "podswitchctl: {} events came faster than they were read, and are lost",
            found.lost
        );
    }
}

/// One object a line, or one document an event, for whoever reads along.
fn show(format: Format, events: &[DenyEvent]) -> Result {
    for event in events {
        let text = match format {
            Format::Table => output::events(std::slice::from_ref(event)),
            Format::Json => serde_json::to_string(event).map_err(std::io::Error::other)? + "\n",
            Format::Yaml => format!("---\n{}", output::yaml(event)?),
        };
        output::write(&text)?;
    }
    Ok(())
}
