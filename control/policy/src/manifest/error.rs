// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a manifest.

use podswitch_api::error::cut;
use podswitch_api::limits::{MAX_MESSAGE_LENGTH, MAX_NAME_LENGTH, MAX_SHOWN_LENGTH};
use podswitch_api::object::ReadError;
use serde_json::Value;

/// Why a manifest is not read. What it repeats of one is cut when it is long.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{document}: {}{}{message}; {hint}", self.place(), self.shown())]
pub struct ManifestError {
    /// The document: its kind, namespace and name, as far as they are known.
    pub document: String,
    /// The field at fault, as a path from the beginning of what was read; empty for the whole.
    pub field: String,
    /// The value there, its beginning when it is long; a string without quotes.
    pub value: Option<String>,
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl ManifestError {
    /// An error of a field at a place, which is empty or ends with a dot.
    pub(super) fn new(document: impl Into<String>, at: &str, field: &str) -> ManifestError {
        let field = format!("{at}{field}");
        ManifestError {
            document: cut(document.into(), MAX_SHOWN_LENGTH),
            field: cut(field.trim_end_matches('.').to_owned(), MAX_SHOWN_LENGTH),
            value: None,
            message: String::new(),
            hint: String::new(),
        }
    }

    /// With the value; null stands for none.
    pub(super) fn value(mut self, value: &Value) -> ManifestError {
        self.value = match value {
            Value::Null => None,
            Value::String(text) => Some(cut(text.clone(), MAX_NAME_LENGTH)),
            other => Some(cut(other.to_string(), MAX_NAME_LENGTH)),
        };
        self
    }

    /// With what is wrong and what to do.
    pub(super) fn because(
        mut self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ManifestError {
        self.message = cut(message.into(), MAX_MESSAGE_LENGTH);
        self.hint = hint.into();
        self
    }

    /// A field that cannot be read.
    pub(super) fn read(document: impl Into<String>, at: &str, error: ReadError) -> ManifestError {
        ManifestError {
            value: error.value,
            ..ManifestError::new(document, at, &error.path).because(
                error.message,
                "correct it: docs/network-policy.md says what is read",
            )
        }
    }

    fn place(&self) -> String {
        match self.field.is_empty() {
            true => String::new(),
            false => format!("{}: ", self.field),
        }
    }

    /// The value, unless the message has it.
    fn shown(&self) -> String {
        match &self.value {
            Some(value) if self.message.contains(value.as_str()) => String::new(),
            Some(value) if value.starts_with(['[', '{']) => format!("{value}: "),
            Some(value) => format!("{value:?}: "),
            None => String::new(),
        }
    }
}
