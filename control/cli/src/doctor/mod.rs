// SPDX-License-Identifier: Apache-2.0
//! `doctor`: what of this machine keeps podswitch from working, before it is installed and afterwards.
//!
//! Each check looks at files below a root and at what programs say, and judges that by itself; nothing is changed.

mod cni;
mod daemon;
mod kernel;
mod machine;
mod nic;
mod proxy;

use std::fmt;
use std::path::{Path, PathBuf};

use podswitch_api::Client;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::command::Context;
use crate::exit::{Failure, Result};
use crate::output;

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// Something will not work, or not well.
    Warning,
    /// podswitch does not work so.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// What was looked at: `kernel`, `nic eth0`, ...
    pub(crate) check: String,
    /// What it is.
    pub(crate) message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            severity,
            check: check.into(),
            message: message.into(),
            hint: None,
        }
    }

    fn ok(check: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Ok, check, message)
    }

    fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }
}

/// Where to look.
#[derive(Clone, Debug)]
struct Machine {
    /// `/`, or where a test has its files.
    root: PathBuf,
    cni_conf_dir: PathBuf,
    cni_bin_dir: PathBuf,
}

impl Machine {
    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let path = absolute.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A small file, without white space at its ends; nothing if it cannot be read.
    fn read(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read_to_string(self.path(absolute)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Whether it is this machine, of which the kernel and programs can be asked, too.
    fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// Looks at everything; fails when there is an error.
pub(crate) fn doctor(context: &Context, args: DoctorArgs) -> Result {
    let machine = Machine {
        root: args.root,
        cni_conf_dir: args.cni_conf_dir,
        cni_bin_dir: args.cni_bin_dir,
    };
    let cni = cni::look(&machine);
    let socket = context.socket();
    let installed = args.installed || cni.is_installed() || machine.path(socket).exists();
    let mut found = kernel::check(&machine);
    found.extend(machine::check(&machine));
    found.extend(nic::check(&machine));
    found.extend(proxy::check(&machine));
    found.extend(cni.judge(&machine, installed));
    let client = || Client::connect_timeout(machine.path(socket), context.timeout());
    found.extend(daemon::check(socket, installed, client));
    output::print(context.output(), &found, |all| text(all))?;
    let errors = found.iter().filter(|f| f.severity == Severity::Error);
    match errors.count() {
        0 => Ok(()),
        n => Err(Failure::Refused(format!(
            "{n} errors keep podswitch from working; see above"
        ))),
    }
}

/// A finding a line, what to do below it.
fn text(all: &[Finding]) -> String {
    let width = all.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let line = |f: &Finding| {
        let found = format!("{:<8} {:<width$} {}\n", f.severity, f.check, f.message);
        let hint = f.hint.as_ref();
        let hint = hint.map(|h| format!("{:<8} {:<width$} -> {h}\n", "", ""));
        found + &hint.unwrap_or_default()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of these files, below a folder of its own.
    pub(super) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine {
            root: root.path().to_owned(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
        };
        for (path, text) in files {
            let path = machine.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (root, machine)
    }

    /// Severity and what was looked at.
    pub(super) fn short(found: &[Finding]) -> Vec<(Severity, &str)> {
        found
            .iter()
            .map(|f| (f.severity, f.check.as_str()))
            .collect()
    }

    #[test]
    fn hints_are_below_what_was_found() {
        let all = [
            Finding::ok("kernel", "6.18"),
            Finding::new(Severity::Error, "nic eth0", "bad").hint("mend it"),
        ];
        assert_eq!(
            text(&all),
            "ok       kernel   6.18\nerror    nic eth0 bad\n                  -> mend it\n"
        );
    }
}
