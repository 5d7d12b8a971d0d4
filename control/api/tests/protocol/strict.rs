// SPDX-License-Identifier: Apache-2.0
//! Objects are read by name alone and no key of them comes twice, wherever they are in a request; what is refused is named.
use podswitch_api::limits::MAX_MESSAGE_LENGTH;
use podswitch_api::method::{ApplyParams, Change, PutParams};
use podswitch_api::rpc::{parse_request, parse_response, write_error, write_request};
use podswitch_api::{ErrorCode, Object, RpcError};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::arbitrary;

fn refused(line: &str) -> RpcError {
    match parse_request(line.as_bytes()) {
        Err(bad) => bad.error,
        Ok(request) => panic!("{request:?} was read from {line:.300}"),
    }
}

fn request(method: &str, params: &impl serde::Serialize) -> Value {
    serde_json::from_slice(&write_request(1, method, params).unwrap()).unwrap()
}

/// JSON pointers (RFC 6901) of all objects below, with the path that an error gives each.
pub(crate) fn objects(value: &Value, pointer: &str, path: &str, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            into.push((pointer.to_owned(), path.to_owned()));
            for (key, inner) in fields {
                objects(
                    inner,
                    &format!("{pointer}/{key}"),
                    &format!("{path}.{key}"),
                    into,
                );
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                objects(
                    inner,
                    &format!("{pointer}/{i}"),
                    &format!("{path}[{i}]"),
                    into,
                );
            }
        }
        _ => {}
    }
}

/// JSON text of a value whose object `at` has its first key once more, at its end.
fn with_a_key_twice(value: &Value, pointer: &str, at: &str) -> String {
    match value {
        Value::Object(fields) => {
            let mut parts: Vec<String> = fields
                .iter()
                .map(|(k, v)| {
                    let inner = with_a_key_twice(v, &format!("{pointer}/{k}"), at);
                    format!("{}:{inner}", json!(k))
                })
                .collect();
            if pointer == at {
                parts.extend(parts.first().cloned());
            }
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            let parts: Vec<String> = items
                .iter()
                .enumerate()
                .map(|(i, v)| with_a_key_twice(v, &format!("{pointer}/{i}"), at))
                .collect();
            format!("[{}]", parts.join(","))
        }
        other => other.to_string(),
    }
}

/// Every word of the parameters that is one of a few, as an object: refused.
fn check_words(whole: &Value, pointer: &str, value: &Value) {
    const KEYS: [&str; 9] = [
        "kind",
        "type",
        "mode",
        "action",
        "direction",
        "egress_default",
        "ingress_default",
        "unknown_unicast",
        "op",
    ];
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let pointer = format!("{pointer}/{key}");
                check_words(whole, &pointer, inner);
                if let (true, Value::String(word)) = (KEYS.contains(&key.as_str()), inner) {
                    let mut bad = whole.clone();
                    *bad.pointer_mut(&pointer).unwrap() = json!({word: null});
                    let error = refused(&bad.to_string());
                    assert_eq!(error.code(), Some(ErrorCode::InvalidParams), "{error}");
                }
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                check_words(whole, &format!("{pointer}/{i}"), inner);
            }
        }
        _ => {}
    }
}

/// Every object of the parameters as a list of its values, and with a key twice: refused, and by name.
fn check(whole: &Value) {
    assert!(
        parse_request(whole.to_string().as_bytes()).is_ok(),
        "{whole}"
    );
    check_words(whole, "/params", &whole["params"]);
    let mut all = Vec::new();
    objects(&whole["params"], "/params", "params", &mut all);
    for (pointer, path) in all {
        let mut bad = whole.clone();
        let place = bad.pointer_mut(&pointer).unwrap();
        let list: Value = place.as_object().unwrap().values().cloned().collect();
        *place = list.clone();
        let error = refused(&bad.to_string());
        assert_eq!(error.code(), Some(ErrorCode::InvalidParams), "{error}");
        let data = error.data.clone().unwrap();
        assert_eq!(data.field.as_ref(), Some(&path), "{error}");
        let text = list.to_string();
        let value = data.value.expect("the value is named");
        assert!(
            text.starts_with(value.trim_end_matches("...")),
            "{value} of {text}"
        );
        assert!(
            error.message.contains(&path) && error.message.contains(&value),
            "{error}"
        );

        let fields = whole.pointer(&pointer).unwrap().as_object().unwrap();
        if let Some(key) = fields.keys().next() {
            let error = refused(&with_a_key_twice(whole, "", &pointer));
            assert_eq!(error.code(), Some(ErrorCode::InvalidParams), "{error}");
            let twice = format!("\"{key}\" comes twice");
            let field = error.data.as_ref().and_then(|d| d.field.as_deref());
            assert!(
                field.is_some_and(|f| f.starts_with(&path)),
                "{path}: {error:?}"
            );
            assert!(error.message.contains(&twice), "{twice}: {error}");
        }
    }
}

#[test]
fn parameters_are_read_by_name_alone() {
    for (method, params) in [
        ("version", json!({})),
        ("begin", json!({})),
        ("begin", json!({"generation": 1, "kinds": ["port"]})),
        ("commit", json!({"transaction": 1})),
        ("get", json!({"kind": "port", "filter": {}})),
        (
            "get",
            json!({"kind": "port", "filter": {"name": "a"}, "limit": 1}),
        ),
        ("stats", json!({"port": "a", "sections": ["ports"]})),
        (
            "apply",
            json!({"changes": [
                {"op": "delete", "key": {"kind": "port", "name": "a"}},
                {"op": "delete", "key": {"kind": "route", "prefix": "10.0.0.0/8"}},
                {"op": "delete", "key": {"kind": "neighbor", "address": "10.0.0.1", "vrf": 1}},
                {"op": "delete", "key": {"kind": "fdb", "segment": "a", "mac": "02:00:00:00:00:01"}},
                {"op": "set", "object": {"kind": "port", "name": "a", "device": {"kind": "memory"}}},
            ]}),
        ),
    ] {
        check(&request(method, &params));
    }
}

proptest! {
    #[test]
    fn objects_are_read_by_name_alone(objects in vec(arbitrary::object(), 1..4)) {
        let changes = objects.iter().cloned().map(Change::set).collect();
        check(&request("apply", &ApplyParams { changes, expect_generation: None }));
        check(&request("put", &PutParams { transaction: 1, objects }));
    }
}

#[test]
fn a_key_of_the_envelope_that_comes_twice_is_refused() {
    for line in [
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"version"}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"version"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"teardown","method":"version"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"version","params":{},"params":{}}"#,
    ] {
        let error = refused(line);
        assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
        assert!(error.message.contains("duplicate field"), "{error}");
    }
}

#[test]
fn a_response_is_read_by_name_alone() {
    for line in [
        r#"["2.0",1,{},null]"#,
        r#"{"jsonrpc":"2.0","id":1,"error":[-32603,"x"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"x","data":["port"]}}"#,
    ] {
        let error = parse_response::<Value>(line.as_bytes()).unwrap_err();
        assert!(error.contains("an object, its fields by name"), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_field_and_value() {
    let apply = |field: &str, number: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"apply","params":{{"changes":[{{"op":"set","object":
            {{"kind":"segment","name":"a","id":1,"{field}":{number}}}}}]}}}}"#
        )
    };
    for number in [
        "-1",
        "4294967296",
        "1.0",
        "1e2",
        "18446744073709551616",
        "1e400",
        "-1e400",
    ] {
        let error = refused(&apply("max_entries", number));
        assert_eq!(
            error.code(),
            Some(ErrorCode::InvalidParams),
            "{number}: {error}"
        );
        let field = error.data.and_then(|d| d.field).unwrap();
        assert!(field.starts_with("params.changes[0]"), "{number}: {field}");
    }
    let error = refused(&apply("max_entries", "4294967296"));
    assert!(
        error.message.contains("object.max_entries") && error.message.contains("4294967296"),
        "{error}"
    );
    for id in ["1.5", "1e2", "9223372036854775808", "1e400", "[1]", "true"] {
        let error = refused(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"version"}}"#
        ));
        assert!(
            matches!(
                error.code(),
                Some(ErrorCode::InvalidRequest | ErrorCode::ParseError)
            ),
            "{id}: {error}"
        );
    }
}

#[test]
fn deep_nesting_is_refused_wherever_it_is() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(1 << 18);
        let close = if open == "[" { "]" } else { "}" };
        let whole = format!("{deep}1{}", close.repeat(1 << 18));
        for value in [&deep, &whole] {
            for line in [
                value.clone(),
                format!(r#"{{"jsonrpc":"2.0","id":{value},"method":"version"}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":{value}}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"version","params":{value}}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"get","params":{{"kind":{value}}}}}"#),
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"apply","params":{{"changes":[{{"op":"set","object":{value}}}]}}}}"#
                ),
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"apply","params":{{"changes":[{{"op":{value}}}]}}}}"#
                ),
            ] {
                let error = refused(&line);
                assert!(write_error(None, &error).len() < 16 << 10);
            }
        }
    }
}

#[test]
fn what_is_long_or_has_control_characters_is_neither_taken_nor_repeated_whole() {
    let long = "x".repeat(1 << 20);
    for name in [long.as_str(), "a\u{0}b", "a\u{1b}[2J", "a\nb", "a\u{85}b"] {
        let text = json!(name);
        for line in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":{text}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"version",{text}:1}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"version","params":{{{text}:1}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"get","params":{{"kind":{text}}}}}"#),
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"get","params":{{"kind":"port","filter":{{{text}:1}}}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"put","params":{{"transaction":1,"objects":[{{"kind":{text}}}]}}}}"#
            ),
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"put","params":{{"transaction":1,"objects":[{{"kind":"rule",{text}:1}}]}}}}"#
            ),
        ] {
            let error = refused(&line);
            let data = error.data.clone().unwrap_or_default();
            let parts = [
                Some(error.message.clone()),
                data.field,
                data.value,
                data.hint,
            ];
            for part in parts.into_iter().flatten() {
                assert!(!part.contains(char::is_control), "{part:?}");
                assert!(part.chars().count() <= MAX_MESSAGE_LENGTH + 3);
            }
        }
        let segment = json!({"kind": "segment", "name": name, "id": 1});
        let object = Object::read(segment).unwrap();
        let bounds = podswitch_api::desired::Bounds::default();
        let error = podswitch_api::desired::check_object(&object, &bounds).unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
        assert!(write_error(None, &error).len() < 16 << 10);
    }
}

/// It was read once, whatever came last.
#[test]
fn a_note_of_unknown_fields_that_comes_twice_is_refused() {
    let peer = |fields: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"apply","params":{{"changes":[{{"op":"set","object":
            {{"kind":"network_policy","namespace":"a","name":"a","spec":{{"podSelector":{{}},"ingress":[{{"from":[{{{fields}}}]}}]}}}}}}]}}}}"#
        )
    };
    for twice in [
        r#""unknown":true,"unknown":true"#,
        r#""podSelector":{},"unknown":false,"unknown":false"#,
        r#""unknown":false,"podSelector":{},"unknown":true,"serviceSelector":{}"#,
    ] {
        let error = refused(&peer(twice));
        assert!(
            error.message.contains("key \"unknown\" comes twice"),
            "{error}"
        );
    }
    parse_request(peer(r#""unknown":true"#).as_bytes()).unwrap();
}
