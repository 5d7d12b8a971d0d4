// SPDX-License-Identifier: Apache-2.0
//! What each command does.

mod events;
mod generate;
mod object;
mod plugin;
mod policy;
mod service;
mod stats;
mod why;

use std::time::Duration;

use podswitch_api::method::{
    Apply, ApplyParams, Audit, Health, HealthStatus, NoParams, Teardown, Version, VersionResult,
};
use podswitch_api::{Client, ClientError, PROTOCOL_VERSION};
use podswitch_state::config::Config;
use serde::Serialize;

use crate::args::{ApplyArgs, Args, Command, Format, TeardownArgs};
use crate::exit::{Failure, Result};
use crate::{input, output};

pub(crate) use stats::Rates;

/// Options of every command.
#[derive(Debug)]
pub(crate) struct Context {
    socket: std::path::PathBuf,
    output: Format,
    timeout: Duration,
}

impl Context {
    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    pub(crate) fn output(&self) -> Format {
        self.output
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::connect_timeout(&self.socket, self.timeout)?)
    }
}

/// Carries out a command line.
pub(crate) fn run(args: Args) -> Result {
    let context = Context {
        socket: args.socket,
        output: args.output,
        timeout: args.timeout,
    };
    match args.command {
        Command::Port(c) => object::port(&context, c),
        Command::Fdb(c) => object::fdb(&context, c),
        Command::Route(c) => object::route(&context, c),
        Command::Neighbor(c) => object::neighbor(&context, c),
        Command::Segment(c) => object::segment(&context, c),
        Command::Rule(c) => object::rule(&context, c),
        Command::Policy(c) => policy::policy(&context, c),
        Command::Group(c) => object::group(&context, c),
        Command::Service(c) => service::service(&context, c),
        Command::Why(a) => why::why(&context, a),
        Command::Stats(a) => stats::stats(&context, a),
        Command::Events(a) => events::events(&context, a),
        Command::Top(a) => stats::top(&context, a),
        Command::Apply(a) => apply(&context, &a),
        Command::Version => version(&context),
        Command::Health => health(&context),
        Command::Doctor(a) => crate::doctor::doctor(&context, a),
        Command::InstallPlugin(a) => plugin::install(&a),
        Command::Audit => audit(&context),
        Command::Teardown(a) => teardown(&context, &a),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::man(&directory),
    }
}

fn apply(context: &Context, args: &ApplyArgs) -> Result {
    let changes = input::changes(&args.file)?;
    let mut client = context.client()?;
    if !args.replace {
        let result = client.call::<Apply>(&ApplyParams {
            changes,
            expect_generation: args.expect_generation,
        })?;
        return output::print(context.output, &result, |r| {
            format!("{} changed, generation {}\n", r.changed, r.generation)
        });
    }
    let kinds = match args.kind.as_slice() {
        [] => None,
        kinds => Some(kinds.iter().map(|k| (*k).into()).collect()),
    };
    let result = client.replace(kinds, input::objects(&args.file, changes)?)?;
    output::print(context.output, &result, |r| {
        format!(
            "{} added, {} changed, {} removed, generation {}\n",
            r.added, r.changed, r.removed, r.generation
        )
    })
}

/// Versions of this program and of the daemon.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) client: ClientVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) daemon: Option<VersionResult>,
}

/// Version of this program.
#[derive(Debug, Serialize)]
pub(crate) struct ClientVersion {
    pub(crate) version: &'static str,
    pub(crate) protocol: u32,
}

/// Says its own version even when the daemon does not.
fn version(context: &Context) -> Result {
    let daemon = context
        .client()
        .and_then(|mut c| Ok(c.call::<Version>(&NoParams {})?));
    let (daemon, failure) = match daemon {
        Ok(v) => (Some(v), None),
        Err(e) => (None, Some(e)),
    };
    let client = ClientVersion {
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
    };
    output::print(
        context.output,
        &Versions { client, daemon },
        output::version,
    )?;
    failure.map_or(Ok(()), Err)
}

fn health(context: &Context) -> Result {
    let result = context.client()?.call::<Health>(&NoParams {})?;
    output::print(context.output, &result, output::health)?;
    match result.status {
        HealthStatus::Ok => Ok(()),
        _ => Err(Failure::Refused(
            "not everything works; see above".to_owned(),
        )),
    }
}

fn audit(context: &Context) -> Result {
    let result = context.client()?.call::<Audit>(&NoParams {})?;
    output::print(context.output, &result, output::audit)?;
    match result.balanced {
        true => Ok(()),
        false => Err(Failure::Refused(
            "chunks of packet memory are unaccounted for; please report this with the output above"
                .to_owned(),
        )),
    }
}

/// Asks the daemon, or does it itself where none listens.
fn teardown(context: &Context, args: &TeardownArgs) -> Result {
    let config = Config::load(&args.config)?;
    let report = match Client::connect_timeout(&config.socket, context.timeout) {
        Ok(mut client) => client.call::<Teardown>(&NoParams {})?,
        Err(ClientError::NotRunning { .. }) => podswitch_state::teardown::teardown(&config)?,
        Err(e) => return Err(e.into()),
    };
    output::print(context.output, &report, output::teardown)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Failure::Refused(
            "something was left behind; see above, and run it again when that is mended".to_owned(),
        )),
    }
}
