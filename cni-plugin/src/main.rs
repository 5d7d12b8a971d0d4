// SPDX-License-Identifier: Apache-2.0
//! CNI plugin that attaches pods to podswitch: environment and standard input in, JSON on standard output.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::process::ExitCode;

use podswitch_cni::command;
use podswitch_cni::conf::{MAX_BYTES, NetConf};
use podswitch_cni::spec::{CniError, Version};

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_BYTES + 1)
        .read_to_end(&mut input);
    let result = read
        .map_err(|e| CniError::io("standard input", &e))
        .and_then(|_| command::run(|name| std::env::var(name).ok(), &input));
    let (output, code) = match result {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(e) => {
            let version = NetConf::version_of(&input).unwrap_or(Version::LATEST);
            (Some(e.to_json(version)), ExitCode::FAILURE)
        }
    };
    match output.map_or(Ok(()), |text| writeln!(std::io::stdout().lock(), "{text}")) {
        Ok(()) => code,
        Err(e) => {
            eprintln!("podswitch-cni: standard output: {e}");
            ExitCode::FAILURE
        }
    }
}
