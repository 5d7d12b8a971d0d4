// SPDX-License-Identifier: Apache-2.0
//! Reads the files of `apply` and `policy`: YAML documents or JSON values. To `apply` each is an object, a list of objects, or what
//! `list` and `get` print; a change of the control protocol (`op`) does in place of an object. To `policy` each is a manifest.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use podswitch_api::Key;
use podswitch_api::method::Change;
use podswitch_api::object::Object;
use podswitch_api::strict::Tree;
use podswitch_policy::manifest::ManifestError;
use serde::Deserialize;
use serde_json::Value;

use crate::exit::{Failure, Result};

/// Longest file, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// The changes of a file; `-` is standard input.
pub(crate) fn changes(path: &Path) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (place, document) in documents(path)? {
        collect(document, &place, &mut changes).map_err(|e| Failure::file(path, e))?;
    }
    match changes.is_empty() {
        true => Err(Failure::file(
            path,
            "no object in it; docs/control-protocol.md shows how objects are written",
        )),
        false => Ok(changes),
    }
}

/// What a reader of manifests finds in a file, each key once; `-` is standard input.
pub(crate) fn manifests<T>(
    path: &Path,
    read: impl Fn(&Value) -> std::result::Result<Vec<T>, ManifestError>,
    key: impl Fn(&T) -> Key,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let mut places: HashMap<Key, String> = HashMap::new();
    for (place, document) in documents(path)?.filter(|(_, d)| !d.is_null()) {
        let refuse = |e: &dyn Display| Failure::file(path, format_args!("{place}: {e}"));
        for item in read(&document).map_err(|e| refuse(&e))? {
            let key = key(&item);
            if let Some(first) = places.get(&key) {
                let what = format_args!("{key} is in {first}, too; write it once");
                return Err(refuse(&what));
            }
            places.insert(key, place.clone());
            found.push(item);
        }
    }
    match found.is_empty() {
        true => Err(Failure::file(
            path,
            "no manifest in it; docs/network-policy.md shows how they are written",
        )),
        false => Ok(found),
    }
}

/// The documents of a file, with their places.
fn documents(path: &Path) -> Result<impl Iterator<Item = (String, Value)>> {
    let text = read(path).map_err(|e| Failure::file(path, e))?;
    let documents = parse(&text).map_err(|e| Failure::file(path, e))?;
    let documents = documents.into_iter().enumerate();
    Ok(documents.map(|(number, document)| (format!("document {}", number + 1), document)))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(std::io::stdin().lock()),
        _ => Box::new(std::fs::File::open(path)?),
    };
    source.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// JSON values one after another, or else YAML documents. What begins like JSON may be YAML, too.
fn parse(text: &str) -> std::result::Result<Vec<Value>, String> {
    let json = match text.trim_start().starts_with(['{', '[']) {
        true => match serde_json::Deserializer::from_str(text)
            .into_iter()
            .map(|read| read.map(|Tree(value)| value))
            .collect()
        {
            Ok(values) => return Ok(values),
            Err(e) => Some(e.to_string()),
        },
        false => None,
    };
    let documents = serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Tree::deserialize(document).map(|Tree(value)| value));
    let values: std::result::Result<Vec<Value>, _> = documents.collect();
    values.map_err(|e| match json {
        Some(json) => format!("neither JSON ({json}) nor YAML ({e})"),
        None => format!("not YAML: {e}"),
    })
}

fn collect(value: Value, place: &str, into: &mut Vec<Change>) -> std::result::Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => {
            for (number, item) in items.into_iter().enumerate() {
                collect(item, &format!("{place}, item {}", number + 1), into)?;
            }
            Ok(())
        }
        Value::Object(mut fields) => {
            if fields.contains_key("apiVersion") {
                return Err(format!(
                    "{place}: a manifest of Kubernetes; use `podswitchctl policy apply`"
                ));
            }
            if fields.contains_key("op") {
                into.push(change(Value::Object(fields), place)?);
                return Ok(());
            }
            // An entry of `list` or `get`: what was learned is no object to be set.
            let learned =
                fields.get("status").and_then(|s| s.get("dynamic")) == Some(&Value::Bool(true));
            match fields.remove("object") {
                Some(_) if learned => Ok(()),
                Some(object) => collect(object, place, into),
                None => {
                    let object =
                        Object::read(Value::Object(fields)).map_err(|e| format!("{place}: {e}"))?;
                    into.push(Change::Set { object });
                    Ok(())
                }
            }
        }
        other => Err(format!(
            "{place}: {other} is no object; write `kind: ...` and its fields"
        )),
    }
}

fn change(value: Value, place: &str) -> std::result::Result<Change, String> {
    serde_json::from_value(value).map_err(|e| format!("{place}: {e}"))
}

/// The objects of changes that only set.
pub(crate) fn objects(path: &Path, changes: Vec<Change>) -> Result<Vec<Object>> {
    let object = |change| match change {
        Change::Set { object } => Ok(object),
        Change::Delete { key } => Err(Failure::file(
            path,
            format!(
                "a delete of {key} has no place in a whole state; leave the object out instead"
            ),
        )),
    };
    changes.into_iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> std::result::Result<Vec<Change>, String> {
        let mut changes = Vec::new();
        for (number, document) in parse(text)?.into_iter().enumerate() {
            collect(document, &format!("document {}", number + 1), &mut changes)?;
        }
        Ok(changes)
    }

    #[test]
    fn yaml_documents_lists_and_json_are_the_same() {
        let yaml = "kind: segment\nname: a\nid: 1\n---\n---\n- kind: segment\n  name: b\n  id: 2\n- {kind: segment, name: c, id: 3}\n";
        let json = r#"{"kind":"segment","name":"a","id":1} [{"kind":"segment","name":"b","id":2},
            {"object":{"kind":"segment","name":"c","id":3},"status":{"kind":"segment","ports":0,"entries":0,"learned":0}}]"#;
        let changes = read_text(yaml).unwrap();
        assert_eq!(changes.len(), 3);
        assert_eq!(changes, read_text(json).unwrap());
    }

    #[test]
    fn learned_entries_are_left_out_and_changes_taken() {
        let text = "- object: {kind: fdb, segment: s, mac: '02:00:00:00:00:01', port: p}\n  status: {kind: fdb, dynamic: true}\n\
            - {op: delete, key: {kind: port, name: a}}";
        assert!(matches!(
            read_text(text).unwrap().as_slice(),
            [Change::Delete { .. }]
        ));
    }

    #[test]
    fn errors_name_the_place_and_the_key() {
        let error =
            read_text("kind: segment\nname: a\nid: 1\n---\n- kind: segment\n  name: b\n  idd: 2\n")
                .unwrap_err();
        assert!(
            error.contains("document 2, item 1") && error.contains("idd"),
            "{error}"
        );
        assert!(
            read_text("{\"kind\": \"segment\"")
                .unwrap_err()
                .contains("JSON")
        );
        for twice in [
            "{\"kind\": \"segment\", \"id\": 1, \"id\": 2}",
            "kind: segment\nid: 1\nid: 2",
        ] {
            let error = read_text(twice).unwrap_err();
            assert!(error.contains("\"id\" comes twice"), "{error}");
        }
        let error = read_text("kind: rule\nports: [22, 80]").unwrap_err();
        assert!(
            error.contains("ports") && error.contains("[22,80]"),
            "{error}"
        );
        assert!(read_text("a: b: c").unwrap_err().contains("line 1"));
        assert!(read_text("17").unwrap_err().contains("17 is no object"));
        assert!(read_text("kind: cloud").unwrap_err().contains("cloud"));
    }
}
