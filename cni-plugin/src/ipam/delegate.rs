// SPDX-License-Identifier: Apache-2.0
//! Another IPAM plugin, called by the specification (CNI spec 1.1.0, section 4): same environment, same configuration.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("type \"{name}\" is not the name of a plugin"),
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

    /// Allocates, and checks that addresses came back; gives them back when they make no sense.
    ///
    /// # Errors
    /// What the plugin said, prefixed by its name.
    pub fn add(&self, conf: &NetConf, call: &Invocation) -> Result<Attachment, CniError> {
        let answer = self.run(conf, call, "ADD")?;
        let read = || {
            let result =
                Attachment::parse(&format!("result of IPAM plugin \"{}\"", self.name), &answer)?;
            if result.ips.is_empty() {
                return Err(CniError::new(
                    Code::Decode,
                    format!("IPAM plugin \"{}\" gave no address", self.name),
                ));
            }
            Ok(result)
        };
        read().inspect_err(|_| {
            // The allocation cannot be used; the error about it matters more than one about releasing it.
            let _ = self.run(conf, call, "DEL");
        })
    }

    /// Runs one command; the answer is null when the plugin printed nothing.
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
            .env("CNI_CONTAINERID", &call.container_id)
            .env("CNI_NETNS", &call.netns)
            .env("CNI_IFNAME", &call.ifname)
            .env("CNI_ARGS", &call.raw_args)
            .env("CNI_PATH", call.path.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let input = Value::Object(conf.raw.clone()).to_string();
        let fed = child
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            return Err(self.error(&output.stdout, &output.status.to_string()));
        }
        // A plugin that succeeds without reading its input is within its rights.
        if let Err(e) = fed
            && e.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(failed(e));
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
        let said: Value = serde_json::from_slice(stdout).unwrap_or(Value::Null);
        let text = |key: &str| {
            said.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match said
            .get("code")
            .and_then(Value::as_u64)
            .and_then(|c| u32::try_from(c).ok())
        {
            Some(code) => CniError {
                code,
                msg: text("msg"),
                details: text("details"),
            }
            .context(format_args!("IPAM plugin \"{}\"", self.name)),
            None => CniError::new(
                Code::Io,
                format!(
                    "IPAM plugin \"{}\" failed without an error object ({status})",
                    self.name
                ),
            ),
        }
    }
}
