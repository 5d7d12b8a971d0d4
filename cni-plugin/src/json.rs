// SPDX-License-Identifier: Apache-2.0
//! Reading JSON by key, with errors that name key and value, and as programs in Go write it: `null` for an empty list,
//! an empty string for no address, keys called like the fields of a struct.

use std::net::IpAddr;

use podswitch_api::error::cut;
use podswitch_api::strict;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::spec::{CniError, Code};

/// Longest value that an error repeats, in characters.
const SHOWN: usize = 200;

/// A value in an error, cut short when it is long.
pub(crate) fn shown(value: &Value) -> String {
    cut(value.to_string(), SHOWN)
}

/// Code 7: the key is known, its value cannot be.
pub(crate) fn invalid(key: &str, value: &Value, why: impl std::fmt::Display) -> CniError {
    about(Code::InvalidConfig, key, value, why)
}

/// Code 2: nothing can be done with this key, or with this value of it.
pub(crate) fn unsupported(key: &str, value: &Value, why: impl std::fmt::Display) -> CniError {
    about(Code::UnsupportedField, key, value, why)
}

fn about(code: Code, key: &str, value: &Value, why: impl std::fmt::Display) -> CniError {
    named(code, key, &shown(value), why)
}

fn named(code: Code, key: &str, value: &str, why: impl std::fmt::Display) -> CniError {
    CniError::new(
        code,
        format!("network configuration key \"{key}\" = {value}: {why}"),
    )
}

/// Reads one key as a type; `null` counts as absent. `path` is how errors call the key.
///
/// # Errors
/// Code 7 naming the key and its value.
pub(crate) fn take_at<T: DeserializeOwned>(
    object: &Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<Option<T>, CniError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => strict::read(value).map(Some).map_err(|e| {
            let at = below(path, &e.path);
            let inner = e.value.filter(|_| !e.path.is_empty());
            let shown = inner.unwrap_or_else(|| shown(value));
            named(Code::InvalidConfig, &at, &shown, e.message)
        }),
    }
}

/// The path of something at `inner` in what is at `path`.
fn below(path: &str, inner: &str) -> String {
    match inner {
        "" => path.to_owned(),
        _ if inner.starts_with('[') => format!("{path}{inner}"),
        _ => format!("{path}.{inner}"),
    }
}

/// [`take_at`] for a key of the configuration itself.
///
/// # Errors
/// As [`take_at`].
pub(crate) fn take<T: DeserializeOwned>(
    object: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>, CniError> {
    take_at(object, key, key)
}

/// Refuses keys that are not in `known`.
///
/// # Errors
/// Code 2 naming the first such key, below `path`, and its value.
pub(crate) fn only(
    object: &Map<String, Value>,
    known: &[&str],
    path: &str,
) -> Result<(), CniError> {
    match object
        .iter()
        .find(|(key, _)| !known.contains(&key.as_str()))
    {
        Some((key, value)) => {
            let e = unsupported(&format!("{path}{key}"), value, "unknown key");
            Err(e.details(format!("known here: {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// For `#[serde(deserialize_with)]`: `null` is the default.
pub(crate) fn nullable<'de, D, T>(reader: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

/// For `#[serde(deserialize_with)]`: `null` and an empty string are no address.
pub(crate) fn optional_ip<'de, D: Deserializer<'de>>(
    reader: D,
) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(reader)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| D::Error::custom(format!("\"{text}\" is not an IP address"))),
    }
}

/// What a Go program without field tags wrote, as the conventions write it: keys begin in lower case, what is `null` or
/// an empty string is left out. containerd passes capabilities so.
pub(crate) fn from_go(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object
                .into_iter()
                .filter(|(_, v)| !v.is_null() && v.as_str() != Some(""));
            Value::Object(kept.map(|(k, v)| (lower_first(&k), from_go(v))).collect())
        }
        Value::Array(items) => items.into_iter().map(from_go).collect(),
        other => other,
    }
}

fn lower_first(key: &str) -> String {
    let mut chars = key.chars();
    match chars.next() {
        Some(first) => first.to_ascii_lowercase().to_string() + chars.as_str(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_values_are_cut_at_a_character() {
        let long = shown(&json!("ä".repeat(500)));
        assert_eq!(long.chars().count(), SHOWN + 3);
        assert!(long.ends_with("..."));
        assert_eq!(shown(&json!([1])), "[1]");
    }

    #[test]
    fn go_structs_read_like_the_conventions() {
        assert_eq!(
            from_go(json!([{"Subnet": "10.0.0.0/24", "RangeStart": "", "Options": null, "": 1}])),
            json!([{"subnet": "10.0.0.0/24", "": 1}])
        );
    }
}
