// SPDX-License-Identifier: Apache-2.0
//! Another IPAM plugin, called by the specification (CNI spec 1.1.0, section 4): same environment, same configuration.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::conf::NetConf;
use crate::invocation::Invocation;
use crate::result::Attachment;
use crate::spec::{CniError, Code, Version};

/// The plugin named in `ipam.type`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegate {
    name: String,
}

impl Delegate {
    /// A delegate by its type name.
    ///
    /// # Errors
    /// Code 7 when the name could leave the plugin directories.
    pub fn new(name: &str) -> Result<Delegate, CniError> {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!(
                    "network configuration key \"ipam.type\" = \"{name}\": not the name of a plugin"
                ),
            ));
        }
        Ok(Delegate {
            name: name.to_owned(),
        })
    }

    fn find(&self, path: &[String]) -> Result<PathBuf, CniError> {
        path.iter()
            .map(|dir| PathBuf::from(dir).join(&self.name))
            .find(|p| p.is_file())
            .ok_or_else(|| {
                let msg = format!(
                    "IPAM plugin \"{}\" is in none of CNI_PATH=\"{}\"",
                    self.name,
                    path.join(":")
                );
                CniError::new(Code::InvalidConfig, msg)
                    .details("install it there, or use ipam.type \"podswitch\"")
            })
    }

    /// Allocates, and checks that addresses came back. After a failure, whatever it was, the plugin is told to release
    /// (section "Delegated plugin execution procedure").
    ///
    /// # Errors
    /// What the plugin said, prefixed by its name.
    pub fn add(&self, conf: &NetConf, call: &Invocation) -> Result<Attachment, CniError> {
        // A plugin that is not there has nothing to release.
        self.find(&call.path)?;
        let answer = self
            .run(conf, call, "ADD")
            .and_then(|answer| self.read(&answer));
        answer.map_err(|e| match self.run(conf, call, "DEL") {
            Ok(_) => e,
            Err(also) => e.and_undoing("its addresses", &also),
        })
    }

    fn read(&self, answer: &Value) -> Result<Attachment, CniError> {
        let what = format!("result of IPAM plugin \"{}\"", self.name);
        let result = Attachment::parse(&what, answer)?;
        if result.ips.is_empty() {
            return Err(CniError::new(
                Code::Decode,
                format!("{what}: it holds no address"),
            ));
        }
        Ok(result)
    }

    /// Runs one command in the plugin's own environment; the answer is null when nothing was printed, and when the
    /// version of the configuration does not have the command.
    ///
    /// # Errors
    /// What the plugin said, prefixed by its name, or code 5 when it could not be run.
    pub fn run(&self, conf: &NetConf, call: &Invocation, command: &str) -> Result<Value, CniError> {
        let newest = matches!(command, "STATUS" | "GC");
        if (newest && conf.version < Version::V1_1_0)
            || (command == "CHECK" && conf.version < Version::V0_4_0)
        {
            return Ok(Value::Null);
        }
        let program = self.find(&call.path)?;
        let failed =
            |e: std::io::Error| CniError::io(format_args!("IPAM plugin {}", program.display()), &e);
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        // Fed beside reading: neither side may wait for the other with its pipe full. A plugin that does not read its
        // input is within its rights.
        let output = thread::scope(|scope| {
            scope.spawn(|| stdin.map(|mut pipe| pipe.write_all(&conf.input)));
            child.wait_with_output()
        })
        .map_err(failed)?;
        if !output.status.success() {
            return Err(self.error(&output.stdout, &output.status.to_string()));
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|e| {
            CniError::new(
                Code::Decode,
                format!("result of IPAM plugin \"{}\": {e}", self.name),
            )
        })
    }

    fn error(&self, stdout: &[u8], status: &str) -> CniError {
        let said: Value = serde_json::from_slice(stdout).unwrap_or_default();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let code = said["code"].as_u64().and_then(|c| u32::try_from(c).ok());
        let Some(code) = code else {
            let text = String::from_utf8_lossy(stdout);
            let e = CniError::new(
                Code::Io,
                format!(
                    "IPAM plugin \"{}\" failed without an error object ({status})",
                    self.name
                ),
            );
            return e.details(text.trim().chars().take(200).collect::<String>());
        };
        CniError {
            code,
            msg: text("msg"),
            details: text("details"),
        }
        .context(format_args!("IPAM plugin \"{}\"", self.name))
    }
}
