// SPDX-License-Identifier: Apache-2.0
//! Errors and exit codes.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use podswitch_api::ClientError;
use podswitch_state::config::ConfigError;
use podswitch_state::store::StoreError;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: the daemon refused, or what was asked for is not so.
    Refused(String),
    /// 2: the command line or a file of it makes no sense.
    Usage(String),
    /// 3: the daemon cannot be reached.
    Unreachable(String),
    /// Whoever read the output wants no more of it.
    OutputClosed,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// What `--help` says about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  refused by the daemon, not found, not healthy (health, doctor), a connection that may not begin (why), or something was left behind;
     nothing was changed by a refusal
  2  the command line, or a file it names, makes no sense
  3  the daemon cannot be reached or does not answer";

impl Failure {
    pub(crate) fn file(path: &Path, error: impl fmt::Display) -> Failure {
        Failure::Usage(format!("{}: {error}", path.display()))
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        match e {
            ClientError::Rpc(e) => Failure::Refused(e.to_string()),
            e => Failure::Unreachable(e.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Failure {
        Failure::Usage(e.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        Failure::Refused(e.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Refused(format!("cannot write: {e}")),
        }
    }
}

/// Help and version go to standard output and are no failure.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { 2 } else { 0 };
    // Nobody is left to tell when this fails.
    drop(error.print());
    ExitCode::from(code)
}

/// Says what went wrong, and with which exit code.
pub(crate) fn report(result: Result) -> ExitCode {
    let (code, message) = match result {
        Ok(()) | Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Refused(m)) => (1, m),
        Err(Failure::Usage(m)) => (2, m),
        Err(Failure::Unreachable(m)) => (3, m),
    };
    eprintln!("podswitchctl: {message}");
    ExitCode::from(code)
}
