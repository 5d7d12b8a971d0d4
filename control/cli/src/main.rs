// SPDX-License-Identifier: Apache-2.0
//! Command line client of podswitchd.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line: parsing, help, completions and man pages come from these definitions |
//! | [`command`] | what each command does |
//! | [`input`] | reads the files of `apply` and `policy` |
//! | [`output`] | tables, JSON and YAML |
//! | [`exit`] | errors and exit codes |
#![forbid(unsafe_code)]

mod args;
mod command;
mod doctor;
mod exit;
mod input;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => return exit::usage(&e),
    };
    exit::report(command::run(args))
}
