// SPDX-License-Identifier: Apache-2.0
//! Kubernetes manifests: what is written for, and read from, the API server, as objects of podswitch.
//!
//! | kind | apiVersion | what is taken |
//! |---|---|---|
//! | `Namespace` | `v1` | name, labels |
//! | `Pod` | `v1` | namespace, name, UID, labels, addresses, ports that have a name, whether it has the node's network |
//! | `NetworkPolicy` | `networking.k8s.io/v1` | namespace, name, spec |
//! | `ClusterNetworkPolicy` | `policy.networking.k8s.io/v1alpha2` | name, spec |
//!
//! Lists of these, `List` among them, stand for their items. The spec of a policy is read whole, and a field of it that is not known is
//! refused; of all else the fields above are read, and others left alone. A field that is null is not there, as in Kubernetes.

mod document;
mod error;

use podswitch_api::object::{Key, Object};
use serde_json::Value;

use document::Document;
pub use error::ManifestError;

/// Kinds that are read, with their versions.
const KINDS: [(&str, &str); 4] = [
    ("Namespace", "v1"),
    ("Pod", "v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
];

/// Reads a manifest: one object, or those of a list.
///
/// # Errors
/// The first document and field at fault. What only a desired state as a whole can say is left to it.
pub fn read(value: &Value) -> Result<Vec<Object>, ManifestError> {
    let mut objects = Vec::new();
    walk(value, "", None, &mut |document| {
        objects.push(document.object()?);
        Ok(())
    })?;
    Ok(objects)
}

/// The keys of a manifest's objects. Of these only kind, version and metadata are read.
///
/// # Errors
/// The first document and field at fault.
pub fn keys(value: &Value) -> Result<Vec<Key>, ManifestError> {
    let mut keys = Vec::new();
    walk(value, "", None, &mut |document| {
        keys.push(document.key()?);
        Ok(())
    })?;
    Ok(keys)
}

type Visit<'v> = dyn FnMut(&Document<'_>) -> Result<(), ManifestError> + 'v;

/// Visits the objects of a value. `at`: its place, empty or with a dot at its end. `typed`: what items of a list are that do not say it.
fn walk(
    value: &Value,
    at: &str,
    typed: Option<(&str, &str)>,
    visit: &mut Visit<'_>,
) -> Result<(), ManifestError> {
    if !value.is_object() {
        return Err(ManifestError::new("a manifest", at, "")
            .value(value)
            .because("not an object", "write apiVersion, kind and metadata"));
    }
    let kind = word(value, at, "kind", typed.map(|t| t.0))?;
    let version = word(value, at, "apiVersion", typed.map(|t| t.1))?;
    if kind == "List" {
        return items(value, at, None, visit);
    }
    if let Some(of) = kind.strip_suffix("List").and_then(known) {
        check(of, version, kind, at)?;
        return items(value, at, Some(of), visit);
    }
    let Some(known) = known(kind) else {
        return Err(unknown(kind, at));
    };
    check(known, version, kind, at)?;
    if typed.is_some_and(|(kind, _)| kind != known.0) {
        return Err(ManifestError::new(kind, at, "kind")
            .value(&Value::from(kind))
            .because(
                "another kind than the list's",
                "make the list one of kind List",
            ));
    }
    visit(&Document::new(known.0, value, at))
}

fn items(
    value: &Value,
    at: &str,
    typed: Option<(&str, &str)>,
    visit: &mut Visit<'_>,
) -> Result<(), ManifestError> {
    let items = match value.get("items") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(ManifestError::new("a list", at, "items")
                .value(other)
                .because("not a list", "write its objects as a list"));
        }
    };
    let mut items = items.iter().enumerate();
    items.try_for_each(|(i, item)| walk(item, &format!("{at}items[{i}]."), typed, visit))
}

fn known(kind: &str) -> Option<(&'static str, &'static str)> {
    KINDS.iter().copied().find(|(known, _)| *known == kind)
}

/// A field of the head.
fn word<'a>(
    value: &'a Value,
    at: &str,
    field: &str,
    typed: Option<&'a str>,
) -> Result<&'a str, ManifestError> {
    match (value.get(field), typed) {
        (Some(Value::String(word)), _) => Ok(word),
        (None | Some(Value::Null), Some(word)) => Ok(word),
        (other, _) => Err(ManifestError::new("a manifest", at, field)
            .value(other.unwrap_or(&Value::Null))
            .because(
                "not a word",
                "write apiVersion and kind as Kubernetes does, such as v1 and Pod",
            )),
    }
}

/// Refuses another version of a kind.
fn check(
    (of, wanted): (&str, &str),
    version: &str,
    kind: &str,
    at: &str,
) -> Result<(), ManifestError> {
    if version == wanted {
        return Ok(());
    }
    Err(ManifestError::new(kind, at, "apiVersion")
        .value(&Value::from(version))
        .because(
            "not known",
            format!("{of} is read as {wanted}: write it so"),
        ))
}

fn unknown(kind: &str, at: &str) -> ManifestError {
    let hint = match kind {
        "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => {
            "write it as a ClusterNetworkPolicy of tier Admin or Baseline".to_owned()
        }
        _ => {
            let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            format!("leave it out: known are {}", known.join(", "))
        }
    };
    ManifestError::new("a manifest", at, "kind")
        .value(&Value::from(kind))
        .because("not known", hint)
}
