// SPDX-License-Identifier: Apache-2.0
//! Error codes of the protocol and what an error carries.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_MESSAGE_LENGTH, MAX_SHOWN_LENGTH};

/// Error codes: those of JSON-RPC 2.0 (section 5.1) and podswitch's own from its range for servers, −32000 downwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum ErrorCode {
    /// The line is not JSON.
    ParseError = -32700,
    /// JSON, but not a JSON-RPC 2.0 request; also a batch or a notification, which are not served.
    InvalidRequest = -32600,
    /// No such method.
    MethodNotFound = -32601,
    /// A parameter is missing, unknown, of the wrong type or out of its range.
    InvalidParams = -32602,
    /// A fault of the daemon itself.
    Internal = -32603,
    /// An object is well formed but cannot be: it refers to nothing, or contradicts itself.
    Refused = -32000,
    /// More of something than the limits allow.
    Limit = -32001,
    /// What the request names does not exist.
    NotFound = -32002,
    /// The request contradicts what is there: a taken address, another generation.
    Conflict = -32003,
    /// The desired state could not be stored (disk full, for example); nothing was changed.
    Store = -32004,
    /// Somebody else is at it; try again.
    Busy = -32005,
    /// The daemon or the kernel cannot do it now: starting, stopping, or a device that is not there.
    Unavailable = -32006,
    /// The peer's credentials do not allow it.
    Permission = -32007,
    /// The request line is longer than the daemon reads.
    TooLarge = -32008,
}

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: &'static [ErrorCode] = &[
        Self::ParseError,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::Refused,
        Self::Limit,
        Self::NotFound,
        Self::Conflict,
        Self::Store,
        Self::Busy,
        Self::Unavailable,
        Self::Permission,
        Self::TooLarge,
    ];

    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Stable snake_case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ParseError => "parse_error",
            Self::InvalidRequest => "invalid_request",
            Self::MethodNotFound => "method_not_found",
            Self::InvalidParams => "invalid_params",
            Self::Internal => "internal",
            Self::Refused => "refused",
            Self::Limit => "limit",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Store => "store",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Permission => "permission",
            Self::TooLarge => "too_large",
        }
    }

    /// The code with this number.
    pub fn from_number(number: i32) -> Option<ErrorCode> {
        Self::ALL.iter().copied().find(|c| c.number() == number)
    }
}

/// What an error is about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ErrorData {
    /// Kind of the object, as in its `kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Key of the object, in the short form of messages (a name, or `vrf 0 10.0.0.0/8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The field at fault, as a path: `ports.first`, `changes[3].object`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The value at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The `error` member of a JSON-RPC 2.0 response (section 5.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RpcError {
    /// See [`ErrorCode`].
    pub code: i32,
    /// One sentence that names the thing and the value.
    pub message: String,
    /// Details a program can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<ErrorData>>,
}

impl RpcError {
    /// An error with this code and message and no details yet. A message, and any detail, that repeats something long is cut: an
    /// error is never as long as what caused it.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            message: cut(message.into(), MAX_MESSAGE_LENGTH),
            data: None,
        }
    }

    /// The code, when it is one of ours.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.code)
    }

    /// Names the object it is about.
    pub fn about(mut self, key: &crate::Key) -> Self {
        let data = self.data_mut();
        data.kind = Some(key.kind().name().to_owned());
        data.key = Some(cut(key.short(), MAX_SHOWN_LENGTH));
        self
    }

    /// Names the field at fault.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.data_mut().field = Some(cut(field.into(), MAX_SHOWN_LENGTH));
        self
    }

    /// Names the value at fault.
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.data_mut().value = Some(cut(value.to_string(), MAX_SHOWN_LENGTH));
        self
    }

    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.data_mut().hint = Some(cut(hint.into(), MAX_MESSAGE_LENGTH));
        self
    }

    fn data_mut(&mut self) -> &mut ErrorData {
        self.data.get_or_insert_default()
    }
}

/// Text from outside as an error repeats it: control characters escaped, as it may end up on a terminal, and no more than the
/// first `length` characters of that.
pub fn cut(text: String, length: usize) -> String {
    let short = text.chars().nth(length).is_none();
    if short && !text.contains(char::is_control) {
        return text;
    }
    let mut shown = String::with_capacity(text.len().min(length) + 3);
    let mut left = length;
    for c in text.chars() {
        let escaped = c.is_control().then(|| c.escape_default());
        let size = escaped.as_ref().map_or(1, ExactSizeIterator::len);
        if size > left {
            shown.push_str("...");
            break;
        }
        left -= size;
        match escaped {
            Some(escape) => shown.extend(escape),
            None => shown.push(c),
        }
    }
    shown
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.data.as_ref().and_then(|d| d.hint.as_ref()) {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RpcError {}

crate::by_name!(ErrorData, RpcError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (i, a) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_number(a.number()), Some(*a));
            for b in &ErrorCode::ALL[i + 1..] {
                assert_ne!(a.number(), b.number());
                assert_ne!(a.name(), b.name());
            }
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }

    #[test]
    fn nothing_long_is_repeated_whole() {
        let long = "ä".repeat(1 << 20);
        let e = RpcError::new(ErrorCode::Refused, &long)
            .about(&crate::Key::Port { name: long.clone() })
            .field(&long)
            .value(&long)
            .hint(&long);
        assert!(e.message.ends_with("ä..."), "{e}");
        assert!(serde_json::to_string(&e).unwrap().len() < 8192);
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("abcd".into(), 3), "abc...");
        assert_eq!(cut("ä\u{1b}[2J\0\n".into(), 40), "ä\\u{1b}[2J\\u{0}\\n");
        assert_eq!(cut("a\n\u{1b}b".into(), 6), "a\\n...");
    }

    #[test]
    fn display_ends_with_the_hint() {
        let e = RpcError::new(ErrorCode::Busy, "somebody is at it").hint("try again");
        assert_eq!(e.to_string(), "somebody is at it; try again");
    }
}
