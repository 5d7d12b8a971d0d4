// SPDX-License-Identifier: Apache-2.0
//! The commands of the specification, one a file.

mod add;
mod check;
mod del;
mod gc;
mod status;

use serde_json::json;

use crate::conf::NetConf;
use crate::invocation::{Command, Invocation};
use crate::spec::{CniError, Code, Version};

/// Runs what the environment asks for. The answer, if there is one, is the JSON for standard output.
///
/// # Errors
/// An error object of the specification.
pub fn run(var: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<Option<String>, CniError> {
    let call = Invocation::read(var)?;
    if call.command == Command::Version {
        return version(input).map(Some);
    }
    let conf = NetConf::parse(input, call.command)?;
    let since = match call.command {
        Command::Check => Version::V0_4_0,
        Command::Status | Command::Gc => Version::V1_1_0,
        _ => Version::V0_3_0,
    };
    if conf.version < since {
        let msg = format!(
            "cniVersion {} has no {:?}; it came with {since}",
            conf.version, call.command
        );
        return Err(CniError::new(Code::IncompatibleVersion, msg));
    }
    match call.command {
        Command::Add => add::run(&conf, &call).map(|result| Some(result.to_string())),
        Command::Del => del::run(&conf, &call).map(|()| None),
        Command::Check => check::run(&conf, &call).map(|()| None),
        Command::Status => status::run(&conf, &call).map(|()| None),
        Command::Gc => gc::run(&conf, &call).map(|()| None),
        Command::Version => Ok(None),
    }
}

/// Section "VERSION": the input holds at most a `cniVersion`, which is repeated.
fn version(input: &[u8]) -> Result<String, CniError> {
    let blank = input.iter().all(u8::is_ascii_whitespace);
    let value: serde_json::Value = match serde_json::from_slice(input) {
        Ok(v) => v,
        Err(_) if blank => json!({}),
        Err(e) => return Err(CniError::new(Code::Decode, format!("standard input: {e}"))),
    };
    let asked = value
        .get("cniVersion")
        .and_then(|v| v.as_str())
        .unwrap_or(Version::LATEST.as_str());
    Ok(
        json!({"cniVersion": asked, "supportedVersions": Version::ALL.map(Version::as_str)})
            .to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(vars: &[(&str, &str)], input: &str) -> Result<Option<String>, CniError> {
        run(
            |n| {
                vars.iter()
                    .find(|(k, _)| *k == n)
                    .map(|(_, v)| (*v).to_owned())
            },
            input.as_bytes(),
        )
    }

    #[test]
    fn version_repeats_what_was_asked() {
        let vars = [("CNI_COMMAND", "VERSION")];
        for (input, shown) in [
            ("", "1.1.0"),
            ("{}", "1.1.0"),
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        ] {
            let out: serde_json::Value =
                serde_json::from_str(&run_with(&vars, input).unwrap().unwrap()).unwrap();
            assert_eq!(out["cniVersion"], shown);
            assert_eq!(out["supportedVersions"].as_array().unwrap().len(), 5);
        }
        assert_eq!(run_with(&vars, "{").unwrap_err().code, 6);
    }

    #[test]
    fn a_command_newer_than_the_configuration_is_refused() {
        let conf = r#"{"cniVersion":"0.3.1","name":"n","type":"podswitch"}"#;
        for command in ["CHECK", "STATUS", "GC"] {
            let vars = [
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "c"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", "/x"),
            ];
            assert_eq!(run_with(&vars, conf).unwrap_err().code, 1, "{command}");
        }
    }
}
