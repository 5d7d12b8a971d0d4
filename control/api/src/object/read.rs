// SPDX-License-Identifier: Apache-2.0
//! Reading objects and keys with errors that say where. A derived reader of a tagged enum knows what is wrong inside a variant,
//! but no longer where; this one reads the tag first.

use serde_json::Value;
use serde_path_to_error::Segment;

use super::{
    ClusterNetworkPolicy, FdbEntry, FdbKey, Group, Key, Kind, Namespace, NamespacedName, Neighbor,
    NeighborKey, NetworkPolicy, Object, Pod, Port, Route, RouteKey, Rule, Service,
};
use crate::error::cut;
use crate::limits::{MAX_MESSAGE_LENGTH, MAX_NAME_LENGTH, MAX_SHOWN_LENGTH};
use crate::strict::read;

/// Why a value is no object or key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}{}", path, if path.is_empty() { "" } else { ": " }, self.explain())]
pub struct ReadError {
    /// The field at fault, as a path; empty for the whole.
    pub path: String,
    /// The value there, its beginning when it is long; a string without quotes.
    pub value: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl ReadError {
    /// Takes a reader's error apart; `whole` is what was read, when it could be.
    pub(crate) fn new<'v>(
        error: serde_path_to_error::Error<serde_json::Error>,
        whole: Option<&'v Value>,
    ) -> ReadError {
        let path = error.path().to_string();
        let inside = |value: &'v Value, segment: &Segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            _ => None,
        };
        let value = whole.and_then(|whole| error.path().iter().try_fold(whole, inside));
        let value = value.map(shown);
        let message = error.into_inner().to_string();
        // The position within one line helps nobody.
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(m, _)| m)
            .to_owned();
        ReadError {
            path: cut(
                if path == "." { String::new() } else { path },
                MAX_SHOWN_LENGTH,
            ),
            value,
            message: cut(message, MAX_MESSAGE_LENGTH),
        }
    }

    /// What is wrong, with the value.
    pub(crate) fn explain(&self) -> String {
        match &self.value {
            Some(value) if self.message.contains(value.as_str()) => self.message.clone(),
            Some(value) if value.starts_with(['[', '{']) => format!("{value}: {}", self.message),
            Some(value) => format!("{value:?}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

/// A value as an error repeats it.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    cut(text, MAX_NAME_LENGTH)
}

impl Object {
    /// Reads an object.
    ///
    /// # Errors
    /// The first field at fault.
    pub fn read(value: Value) -> Result<Object, ReadError> {
        let (kind, fields) = tagged(value)?;
        Ok(match kind {
            Kind::Segment => read::<super::Segment>(&fields)?.into(),
            Kind::Port => read::<Port>(&fields)?.into(),
            Kind::Neighbor => read::<Neighbor>(&fields)?.into(),
            Kind::Route => read::<Route>(&fields)?.into(),
            Kind::Fdb => read::<FdbEntry>(&fields)?.into(),
            Kind::Rule => read::<Rule>(&fields)?.into(),
            Kind::Namespace => read::<Namespace>(&fields)?.into(),
            Kind::Pod => read::<Pod>(&fields)?.into(),
            Kind::NetworkPolicy => read::<NetworkPolicy>(&fields)?.into(),
            Kind::ClusterNetworkPolicy => read::<ClusterNetworkPolicy>(&fields)?.into(),
            Kind::Group => read::<Group>(&fields)?.into(),
            Kind::Service => read::<Service>(&fields)?.into(),
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
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Numbered {
            id: u16,
        }
        let (kind, fields) = tagged(value)?;
        let named = |fields: &Value| read::<Named>(fields).map(|n| n.name);
        Ok(match kind {
            Kind::Segment => Key::Segment {
                name: named(&fields)?,
            },
            Kind::Port => Key::Port {
                name: named(&fields)?,
            },
            Kind::Neighbor => Key::Neighbor(read::<NeighborKey>(&fields)?),
            Kind::Route => Key::Route(read::<RouteKey>(&fields)?),
            Kind::Fdb => Key::Fdb(read::<FdbKey>(&fields)?),
            Kind::Rule => Key::Rule {
                name: named(&fields)?,
            },
            Kind::Namespace => Key::Namespace {
                name: named(&fields)?,
            },
            Kind::Pod => Key::Pod(read::<NamespacedName>(&fields)?),
            Kind::NetworkPolicy => Key::NetworkPolicy(read::<NamespacedName>(&fields)?),
            Kind::ClusterNetworkPolicy => Key::ClusterNetworkPolicy {
                name: named(&fields)?,
            },
            Kind::Group => Key::Group {
                id: read::<Numbered>(&fields)?.id,
            },
            Kind::Service => Key::Service {
                name: named(&fields)?,
            },
        })
    }
}

/// The kind, and the fields without it.
fn tagged(mut value: Value) -> Result<(Kind, Value), ReadError> {
    let error = |path: &str, value: Option<&Value>, message: String| ReadError {
        path: path.to_owned(),
        value: value.map(shown),
        message,
    };
    let Some(fields) = value.as_object_mut() else {
        let what = "not an object with a `kind`".to_owned();
        return Err(error("", Some(&value), what));
    };
    let Some(kind) = fields.remove("kind") else {
        return Err(error("", None, "missing field `kind`".to_owned()));
    };
    let shown_kind = shown(&kind);
    let kind = serde_json::from_value(kind).map_err(|e| ReadError {
        value: Some(shown_kind),
        ..error("kind", None, e.to_string())
    })?;
    Ok((kind, value))
}
