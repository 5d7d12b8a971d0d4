// SPDX-License-Identifier: Apache-2.0
//! `docs/control-protocol.schema.json`, to which every answer of a daemon under test is held.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::programs::repository;

fn protocol() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = repository().join("docs/control-protocol.schema.json");
        let text = std::fs::read_to_string(path).expect("the schema");
        serde_json::from_str(&text).expect("the schema is JSON")
    })
}

/// The validator of one definition; none when the schema has no such definition.
fn validator(name: &str) -> Option<Arc<Validator>> {
    static MADE: OnceLock<Mutex<HashMap<String, Arc<Validator>>>> = OnceLock::new();
    let defs = &protocol()["$defs"];
    defs.get(name)?;
    let mut made = MADE
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let new = || {
        let schema = json!({"$ref": format!("#/$defs/{name}"), "$defs": defs});
        Arc::new(jsonschema::validator_for(&schema).expect("the schema is a schema"))
    };
    Some(made.entry(name.to_owned()).or_insert_with(new).clone())
}

#[track_caller]
fn hold(name: &str, value: &Value) {
    let validator = validator(name).unwrap_or_else(|| panic!("the schema has no {name}: {value}"));
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{value} is no {name}: {errors:?}");
}

/// Holds an answer to the schema, and a request that was carried out.
///
/// # Panics
/// If the answer is not what the schema says, or the daemon carried out what the schema refuses.
#[track_caller]
pub fn hold_exchange(request: &Value, answer: &Value) {
    if answer.get("error").is_some() {
        hold("response_error", answer);
        return;
    }
    let method = request["method"].as_str().unwrap_or_default();
    hold(&format!("response_{method}"), answer);
    hold(&format!("request_{method}"), request);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_says_is_held_to_it() {
        let request =
            json!({"jsonrpc": "2.0", "id": 1, "method": "abort", "params": {"transaction": 3}});
        hold_exchange(&request, &json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
        hold_exchange(
            &request,
            &json!({"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": "no"}}),
        );
        let more = json!({"jsonrpc": "2.0", "id": 1, "result": {"more": 1}});
        assert!(std::panic::catch_unwind(|| hold_exchange(&request, &more)).is_err());
        let wrong = json!({"jsonrpc": "2.0", "id": 1, "method": "abort", "params": []});
        let fine = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
        assert!(std::panic::catch_unwind(|| hold_exchange(&wrong, &fine)).is_err());
    }
}
