// SPDX-License-Identifier: Apache-2.0
//! Completions and man pages, from the definitions of the command line.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;
use crate::exit::{Failure, Result};
use crate::output;

pub(super) fn completions(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "podswitchctl", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

pub(super) fn man(directory: &Path) -> Result {
    std::fs::create_dir_all(directory).map_err(|e| Failure::file(directory, e))?;
    clap_mangen::generate_to(Args::command(), directory).map_err(|e| Failure::file(directory, e))
}
