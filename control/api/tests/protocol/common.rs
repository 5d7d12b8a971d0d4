// SPDX-License-Identifier: Apache-2.0
//! Objects and changes in short, and what a refusal must be like.

use podswitch_api::desired::{Bounds, Model};
use podswitch_api::method::Change;
use podswitch_api::object::Object;
use podswitch_api::{ErrorCode, RpcError};
use serde_json::{Value, json};

pub(crate) fn object(value: Value) -> Object {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

pub(crate) fn set(value: Value) -> Change {
    Change::Set {
        object: object(value),
    }
}

pub(crate) fn delete(value: Value) -> Change {
    Change::Delete {
        key: serde_json::from_value(value).unwrap(),
    }
}

pub(crate) fn port(name: &str, n: u8) -> Value {
    json!({
        "kind": "port", "name": name, "device": {"kind": "veth", "interface": format!("psw{n}")},
        "mac": format!("02:00:00:00:00:{n:02x}"), "addresses": [format!("10.0.0.{n}"), format!("fd00::{n}")]
    })
}

pub(crate) fn l2_port(name: &str, n: u8, segment: Value) -> Value {
    json!({"kind": "port", "name": name, "device": {"kind": "veth", "interface": format!("psw{n}")}, "segment": segment})
}

pub(crate) fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    base.pointer_mut(parent).unwrap()[last] = value;
    base
}

pub(crate) fn rule(name: &str, port: &str) -> Value {
    json!({"kind": "rule", "name": name, "port": port, "direction": "ingress", "priority": 10, "action": "deny"})
}

pub(crate) fn service(name: &str, address: &str) -> Value {
    json!({"kind": "service", "name": name, "protocol": "tcp", "port": 80, "addresses": [address]})
}

pub(crate) fn model(changes: &[Change]) -> Model {
    let mut model = Model::new(Bounds::default());
    model.apply(changes).unwrap();
    model
}

#[track_caller]
pub(crate) fn refused(
    model: &mut Model,
    changes: &[Change],
    code: ErrorCode,
    words: &[&str],
) -> RpcError {
    let (before, generation) = (model.state().clone(), model.generation());
    let error = model.apply(changes).unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    let text = error.to_string();
    words
        .iter()
        .for_each(|w| assert!(text.contains(w), "{text} lacks {w}"));
    assert!(
        error.data.as_ref().is_some_and(|d| d.hint.is_some()),
        "{error:?} has no hint"
    );
    assert_eq!(
        (model.state(), model.generation()),
        (&before, generation),
        "a refusal changed something"
    );
    error
}
