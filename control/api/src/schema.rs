// SPDX-License-Identifier: Apache-2.0
//! The JSON Schema (draft 2020-12) of the protocol, generated from the types.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::error::{ErrorCode, RpcError};
use crate::method::describe;
use crate::object::{Key, Object};
use crate::rpc::Id;

/// How an IP prefix is written.
pub(crate) struct Prefix;

impl JsonSchema for Prefix {
    fn schema_name() -> Cow<'static, str> {
        "Prefix".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$",
            "description": "An IPv4 or IPv6 prefix: an address, a slash and a length in bits."
        })
    }
}

/// The schema. Its root describes a request line; `$defs` holds, beside the types, `response_error`, and for every method
/// `request_METHOD` and `response_METHOD`.
pub fn protocol() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let id = generator.subschema_for::<Id>().to_value();
    let error = generator.subschema_for::<RpcError>().to_value();
    generator.subschema_for::<Object>();
    generator.subschema_for::<Key>();
    let methods = describe(&mut generator);
    let mut defs: Map<String, Value> = generator.take_definitions(true);
    let mut requests = Vec::new();
    for m in &methods {
        let mut required = vec!["jsonrpc", "id", "method"];
        if !m.params_optional {
            required.push("params");
        }
        let name = m.name;
        requests.push(json!({"$ref": format!("#/$defs/request_{name}")}));
        defs.insert(
            format!("request_{name}"),
            json!({
                "description": m.summary,
                "type": "object",
                "properties": {"jsonrpc": {"const": "2.0"}, "id": id, "method": {"const": name}, "params": m.params},
                "required": required,
                "additionalProperties": false
            }),
        );
        defs.insert(
            format!("response_{name}"),
            json!({
                "type": "object",
                "properties": {"jsonrpc": {"const": "2.0"}, "id": id, "result": m.result},
                "required": ["jsonrpc", "id", "result"],
                "additionalProperties": false
            }),
        );
    }
    defs.insert("response_error".to_owned(), response_error(&id, &error));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "podswitch control protocol",
        "description": "One request or response a line. The root describes a request.",
        "oneOf": requests,
        "$defs": defs
    })
}

fn response_error(id: &Value, error: &Value) -> Value {
    let codes: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|c| format!("{} {}", c.number(), c.name()))
        .collect();
    json!({
        "description": format!("Codes: {}.", codes.join(", ")),
        "type": "object",
        "properties": {"jsonrpc": {"const": "2.0"}, "id": {"anyOf": [id, {"type": "null"}]}, "error": error},
        "required": ["jsonrpc", "id", "error"],
        "additionalProperties": false
    })
}

/// The schema of one definition of [`protocol`], with everything it refers to.
pub fn definition(name: &str) -> Value {
    let mut schema = protocol();
    if let Some(root) = schema.as_object_mut() {
        root.remove("oneOf");
        root.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
    }
    schema
}
