// SPDX-License-Identifier: Apache-2.0
//! Words of the CNI specification: versions and errors (CNI spec 1.1.0, sections "Version" and "Error").

use std::fmt;

use podswitch_api::error::cut;
use podswitch_api::limits::MAX_MESSAGE_LENGTH;
use serde::Serialize;

/// A version of the CNI specification that the plugin speaks. Ordered: older is smaller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: STATUS and GC
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 5] = [
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    /// The newest.
    pub const LATEST: Version = Version::V1_1_0;

    /// As it is written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version written so.
    ///
    /// # Errors
    /// Code 1 when the plugin does not speak it.
    pub fn parse(text: &str) -> Result<Version, CniError> {
        Version::ALL
            .into_iter()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| {
                CniError::new(
                    Code::IncompatibleVersion,
                    format!("cniVersion \"{text}\" is not supported"),
                )
                .details(format!(
                    "supported: {}",
                    Version::ALL.map(Version::as_str).join(", ")
                ))
            })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error codes of the specification; 100 and above are a plugin's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Code {
    /// Incompatible CNI version.
    IncompatibleVersion = 1,
    /// Unsupported field in the network configuration.
    UnsupportedField = 2,
    /// Container unknown or does not exist.
    UnknownContainer = 3,
    /// Invalid necessary environment variables.
    InvalidEnvironment = 4,
    /// I/O failure.
    Io = 5,
    /// Failed to decode content.
    Decode = 6,
    /// Invalid network config.
    InvalidConfig = 7,
    /// Try again later.
    TryAgain = 11,
    /// The plugin is not available.
    NotAvailable = 50,
    /// The daemon refused the change.
    Refused = 100,
    /// The range of addresses is exhausted.
    Exhausted = 101,
    /// CHECK found the attachment other than it should be.
    Differs = 102,
    /// Something could not be taken back or removed.
    Cleanup = 103,
    /// The kernel refused a part of the pod's network.
    Network = 104,
}

/// An error as it is printed on standard output (section "Error").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CniError {
    /// What kind.
    pub code: u32,
    /// One sentence that names the key and the value.
    pub msg: String,
    /// More, or what to do next.
    pub details: String,
}

impl Code {
    /// Every code, smallest first.
    pub const ALL: [Code; 14] = [
        Code::IncompatibleVersion,
        Code::UnsupportedField,
        Code::UnknownContainer,
        Code::InvalidEnvironment,
        Code::Io,
        Code::Decode,
        Code::InvalidConfig,
        Code::TryAgain,
        Code::NotAvailable,
        Code::Refused,
        Code::Exhausted,
        Code::Differs,
        Code::Cleanup,
        Code::Network,
    ];
}

impl CniError {
    /// An error without details. A message that repeats something long is cut.
    pub fn new(code: Code, msg: impl Into<String>) -> CniError {
        CniError {
            code: code as u32,
            msg: cut(msg.into(), MAX_MESSAGE_LENGTH),
            details: String::new(),
        }
    }

    /// Adds details.
    pub fn details(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// An I/O failure on a named thing.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> CniError {
        CniError::new(Code::Io, format!("{what}: {error}"))
    }

    /// Prefixes the message with what was being done.
    pub fn context(mut self, doing: impl fmt::Display) -> CniError {
        self.msg = format!("{doing}: {}", self.msg);
        self
    }

    /// Whether it has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as u32
    }

    /// Several failures as one; nothing failed when there is none.
    ///
    /// # Errors
    /// A single one as it is; several under code 103, each with its own code and details.
    pub fn all(mut failures: Vec<CniError>) -> Result<(), CniError> {
        if failures.len() < 2 {
            return failures.pop().map_or(Ok(()), Err);
        }
        let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
        let (n, texts) = (failures.len(), texts.join("; "));
        // Every one is reported, however many there are.
        Err(CniError {
            code: Code::Cleanup as u32,
            msg: format!("{n} things could not be removed: {texts}"),
            details: String::new(),
        })
    }

    /// This error after taking things back failed too. It is never code 3 then, which would tell the runtime that no DEL
    /// is needed.
    pub fn and_undoing(mut self, what: &str, also: &CniError) -> CniError {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details
            .push_str(&format!("and {what} could not be taken back: {also}"));
        if self.is(Code::UnknownContainer) {
            self.code = Code::Cleanup as u32;
        }
        self
    }

    /// The JSON object of the specification in this version.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let wire = Wire {
            cni_version: version.as_str(),
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        };
        serde_json::to_string(&wire).unwrap_or_else(|_| format!("{{\"code\":{}}}", self.code))
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if self.details.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.details)
        }
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_round_trip() {
        for pair in Version::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for v in Version::ALL {
            assert_eq!(Version::parse(v.as_str()), Ok(v));
        }
        for bad in ["", "0.2.0", "1.2.0", "1.1", "v1.1.0"] {
            let e = Version::parse(bad).unwrap_err();
            assert_eq!(e.code, 1);
            assert!(e.msg.contains(bad));
        }
    }

    #[test]
    fn the_document_lists_every_code() {
        let document = include_str!("../../docs/cni.md");
        let errors = document.split("## Errors").nth(1).unwrap();
        let cells = errors.lines().filter_map(|l| l.split('|').nth(1));
        let listed: Vec<u32> = cells.filter_map(|c| c.trim().parse().ok()).collect();
        assert_eq!(listed, Code::ALL.map(|c| c as u32));
    }

    #[test]
    fn several_failures_are_all_named() {
        let one = CniError::new(Code::Io, "disk").details("full");
        assert_eq!(CniError::all(vec![]), Ok(()));
        assert_eq!(CniError::all(vec![one.clone()]), Err(one.clone()));
        let both = CniError::all(vec![one, CniError::new(Code::Network, "link")]).unwrap_err();
        assert!(both.is(Code::Cleanup));
        for word in ["2 things", "disk (code 5); full", "link (code 104)"] {
            assert!(both.msg.contains(word), "{both}");
        }
    }

    #[test]
    fn what_could_not_be_taken_back_calls_for_del() {
        let gone = CniError::new(Code::UnknownContainer, "no namespace");
        let e = gone.and_undoing("its addresses", &CniError::new(Code::Io, "disk"));
        assert!(e.is(Code::Cleanup) && e.msg == "no namespace", "{e}");
        assert!(e.details.contains("its addresses") && e.details.contains("disk"));
    }

    #[test]
    fn errors_print_as_the_specification_says() {
        let e = CniError::new(Code::TryAgain, "no \"daemon\"").details("start it");
        let json: serde_json::Value = serde_json::from_str(&e.to_json(Version::V0_4_0)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"cniVersion": "0.4.0", "code": 11, "msg": "no \"daemon\"", "details": "start it"})
        );
    }
}
