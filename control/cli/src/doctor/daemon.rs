// SPDX-License-Identifier: Apache-2.0
//! podswitchd: whether it answers, and what it says of itself.

use std::path::Path;

use podswitch_api::method::{self, Health, HealthResult, NoParams, Version};
use podswitch_api::{Client, ClientError, PROTOCOL_VERSION};

use super::{Finding, Severity};

pub(super) fn check(
    socket: &Path,
    installed: bool,
    connect: impl FnOnce() -> Result<Client, ClientError>,
) -> Vec<Finding> {
    let asked = connect().and_then(|mut client| {
        let version = client.call::<Version>(&NoParams {})?;
        Ok((version, client.call::<Health>(&NoParams {})?))
    });
    let (version, health) = match asked {
        Ok(answers) => answers,
        Err(ClientError::NotRunning { .. }) if !installed => {
            let message = format!("nobody listens at {}", socket.display());
            return vec![Finding::new(Severity::Info, "podswitchd", message)];
        }
        Err(e) => {
            return vec![
                Finding::new(Severity::Error, "podswitchd", e.to_string())
                    .hint("start it, and see its log; --socket names another socket"),
            ];
        }
    };
    let mut found = vec![match version.protocol == PROTOCOL_VERSION {
        true => Finding::ok("podswitchd", format!("version {} answers", version.version)),
        false => Finding::new(
            Severity::Error,
            "podswitchd",
            format!(
                "speaks protocol {}, podswitchctl {PROTOCOL_VERSION}",
                version.protocol
            ),
        )
        .hint("use podswitchctl of the same version"),
    }];
    found.extend(problems(&health));
    found
}

/// What it says of its own health.
fn problems(health: &HealthResult) -> impl Iterator<Item = Finding> {
    health.problems.iter().map(|problem| {
        let severity = match problem.severity {
            method::Severity::Notice => Severity::Info,
            method::Severity::Error => Severity::Error,
            method::Severity::Warning => Severity::Warning,
        };
        let message = format!("{}: {}", problem.subject, problem.message);
        let finding = Finding::new(severity, "podswitchd", message);
        match problem.hint.clone() {
            Some(hint) => finding.hint(hint),
            None => finding,
        }
    })
}
