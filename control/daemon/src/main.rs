// SPDX-License-Identifier: Apache-2.0
//! podswitchd: the switch of one node.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use podswitch_state::config::Config;
use podswitchd::{daemon, logging, probe, watchdog};

/// Polls the frames of a node's pods and virtual machines on dedicated cores, and switches, routes and filters them.
///
/// SIGTERM stops it and leaves ports and programs in place, closed, for a successor; `podswitchctl teardown` removes
/// them.
#[derive(Parser, Debug)]
#[command(name = "podswitchd", version)]
struct Arguments {
    /// Configuration file (TOML); docs/configuration.md describes every key.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["probe", "watchdog"])]
    config: Option<PathBuf>,
    /// Only check the configuration: nothing is started.
    #[arg(long, requires = "config")]
    check: bool,
    /// Only print what this kernel and machine offer, and what is used instead of what is missing.
    #[arg(long, conflicts_with = "check")]
    probe: bool,
    /// End the parent process when standard input brings no byte for so many milliseconds; podswitchd starts this by itself.
    #[arg(long, value_name = "MILLISECONDS", hide = true, exclusive = true)]
    watchdog: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.probe {
        return probe::print();
    }
    if let Some(limit) = arguments.watchdog {
        return watchdog::run(Duration::from_millis(limit.into()));
    }
    let Some(path) = arguments.config else {
        return ExitCode::FAILURE;
    };
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("podswitchd: {e}");
            return ExitCode::FAILURE;
        }
    };
    let machine = daemon::check_machine(&config);
    if arguments.check {
        for problem in &machine {
            eprintln!("podswitchd: {problem}");
        }
        if machine.is_empty() {
            println!("{} is right", path.display());
        }
        return if machine.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    logging::init(&config.log);
    if let Some(problem) = machine.first() {
        tracing::error!("{problem}");
        return ExitCode::FAILURE;
    }
    match daemon::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "podswitchd cannot run");
            ExitCode::FAILURE
        }
    }
}
