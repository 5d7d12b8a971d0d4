// SPDX-License-Identifier: Apache-2.0
//! Reading objects and keys with errors that say where. A derived reader of a tagged enum knows what is wrong inside a variant,
//! but no longer where; this one reads the tag first.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::{
    FdbEntry, FdbKey, Key, Kind, Neighbor, NeighborKey, Object, Port, Route, RouteKey, Rule,
};
use crate::limits::MAX_NAME_LENGTH;

/// Why a value is no object or key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}{}", path, if path.is_empty() { "" } else { ": " }, self.explain())]
pub struct ReadError {
    /// The field at fault, as a path; empty for the whole.
    pub path: String,
    /// The value there, when it is a string, a number or a boolean.
    pub value: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl ReadError {
    /// Takes a reader's error apart; `whole` is what was read.
    pub(crate) fn new(
        error: serde_path_to_error::Error<serde_json::Error>,
        whole: &Value,
    ) -> ReadError {
        let path = error.path().to_string();
        let value = error
            .path()
            .iter()
            .try_fold(whole, |value, segment| match segment {
                Segment::Seq { index } => value.get(index),
                Segment::Map { key } => value.get(key),
                _ => None,
            });
        let shown = value.and_then(|v| match v {
            Value::String(s) => Some(s.chars().take(MAX_NAME_LENGTH).collect()),
            Value::Number(_) | Value::Bool(_) => Some(v.to_string()),
            _ => None,
        });
        let message = error.into_inner().to_string();
        // The position within one line helps nobody.
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(m, _)| m)
            .to_owned();
        ReadError {
            path: if path == "." { String::new() } else { path },
            value: shown,
            message,
        }
    }

    /// What is wrong, with the value.
    pub(crate) fn explain(&self) -> String {
        match &self.value {
            Some(value) if !self.message.contains(value.as_str()) => {
                format!("{:?}: {}", value, self.message)
            }
            _ => self.message.clone(),
        }
    }
}

impl Object {
    /// Reads an object.
    ///
    /// # Errors
    /// The first field at fault.
    pub fn read(value: Value) -> Result<Object, ReadError> {
        let (kind, fields) = tagged(value)?;
        Ok(match kind {
            Kind::Segment => fields_of::<super::Segment>(fields)?.into(),
            Kind::Port => fields_of::<Port>(fields)?.into(),
            Kind::Neighbor => fields_of::<Neighbor>(fields)?.into(),
            Kind::Route => fields_of::<Route>(fields)?.into(),
            Kind::Fdb => fields_of::<FdbEntry>(fields)?.into(),
            Kind::Rule => fields_of::<Rule>(fields)?.into(),
        })
    }
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// The first field at fault.
    pub fn read(value: Value) -> Result<Key, ReadError> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            name: String,
        }
        let (kind, fields) = tagged(value)?;
        let named = |fields| fields_of::<Named>(fields).map(|n| n.name);
        Ok(match kind {
            Kind::Segment => Key::Segment {
                name: named(fields)?,
            },
            Kind::Port => Key::Port {
                name: named(fields)?,
            },
            Kind::Neighbor => Key::Neighbor(fields_of::<NeighborKey>(fields)?),
            Kind::Route => Key::Route(fields_of::<RouteKey>(fields)?),
            Kind::Fdb => Key::Fdb(fields_of::<FdbKey>(fields)?),
            Kind::Rule => Key::Rule {
                name: named(fields)?,
            },
        })
    }
}

/// The kind, and the fields without it.
fn tagged(mut value: Value) -> Result<(Kind, Value), ReadError> {
    let error = |path: &str, message: String| ReadError {
        path: path.to_owned(),
        value: None,
        message,
    };
    let Some(fields) = value.as_object_mut() else {
        return Err(error("", "not an object with a `kind`".to_owned()));
    };
    let Some(kind) = fields.remove("kind") else {
        return Err(error("", "missing field `kind`".to_owned()));
    };
    let kind = serde_json::from_value(kind).map_err(|e| error("kind", e.to_string()))?;
    Ok((kind, value))
}

fn fields_of<T: DeserializeOwned>(fields: Value) -> Result<T, ReadError> {
    serde_path_to_error::deserialize(&fields).map_err(|e| ReadError::new(e, &fields))
}
