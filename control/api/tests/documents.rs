// SPDX-License-Identifier: Apache-2.0
//! docs/control-protocol.md and its schema say what the types say.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use podswitch_api::limits;
use podswitch_api::method::Call;
use podswitch_api::rpc::parse_request;
use podswitch_api::{ErrorCode, Kind, schema};
use serde_json::Value;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The text under a heading, up to the next one of its level or above.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let at = text
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let body = &text[at + heading.len() + 2..];
    let level = heading.split(' ').next().unwrap().len();
    let next = (1..=level)
        .filter_map(|l| body.find(&format!("\n{} ", "#".repeat(l))))
        .min();
    &body[..next.unwrap_or(body.len())]
}

/// First and second cell of every row of the tables in a text, without headings.
fn rows(text: &str) -> Vec<(String, String)> {
    let cells = |line: &str| -> Vec<String> {
        line.split('|')
            .map(|c| c.trim().trim_matches('`').to_owned())
            .collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let body = lines.iter().enumerate().filter(|(i, l)| {
        l.starts_with("| ")
            && !lines
                .get(i + 1)
                .is_some_and(|next| next.starts_with("|---"))
    });
    body.map(|(_, l)| cells(l))
        .map(|c| (c[1].clone(), c[2].clone()))
        .collect()
}

fn examples(text: &str) -> Vec<Value> {
    let blocks = text
        .split("```json\n")
        .skip(1)
        .map(|b| b.split("```").next().unwrap());
    blocks
        .map(|b| serde_json::from_str(b).unwrap_or_else(|e| panic!("{e}: {b}")))
        .collect()
}

#[test]
fn the_checked_in_schema_is_that_of_the_types() {
    let there: Value = serde_json::from_str(&document("control-protocol.schema.json")).unwrap();
    assert!(
        there == schema::protocol(),
        "docs/control-protocol.schema.json differs from the types: run `cargo run -p podswitch-api --example protocol_schema`"
    );
}

#[test]
fn every_method_has_a_section_with_an_example() {
    let text = document("control-protocol.md");
    let methods = section(&text, "## Methods");
    let headings: Vec<&str> = methods
        .lines()
        .filter_map(|l| l.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert_eq!(headings, Call::NAMES);
    let all = examples(&text);
    let shown: BTreeSet<&str> = all.iter().filter_map(|e| e["method"].as_str()).collect();
    assert_eq!(shown, Call::NAMES.iter().copied().collect());
}

#[test]
fn every_example_is_what_the_protocol_says() {
    let definition = |name: &str| jsonschema::validator_for(&schema::definition(name)).unwrap();
    let mut methods: BTreeMap<String, String> = BTreeMap::new();
    let mut results = BTreeSet::new();
    for example in examples(&document("control-protocol.md")) {
        let id = example["id"].to_string();
        let name = if let Some(method) = example["method"].as_str() {
            let request = parse_request(example.to_string().as_bytes());
            assert!(request.is_ok(), "{request:?}");
            methods.insert(id, method.to_owned());
            format!("request_{method}")
        } else if example.get("error").is_some() {
            "response_error".to_owned()
        } else {
            results.insert(id.clone());
            format!(
                "response_{}",
                methods
                    .get(&id)
                    .unwrap_or_else(|| panic!("no request before {example}"))
            )
        };
        let errors: Vec<String> = definition(&name)
            .iter_errors(&example)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {example}");
    }
    assert_eq!(results.len(), methods.len(), "a request has no answer");
}

#[test]
fn every_error_code_is_listed() {
    let text = document("control-protocol.md");
    let wanted: Vec<(String, String)> = ErrorCode::ALL
        .iter()
        .map(|c| (c.number().to_string(), c.name().to_owned()))
        .collect();
    assert_eq!(rows(section(&text, "## Errors")), wanted);
}

#[test]
fn every_field_of_every_object_is_listed() {
    let text = document("control-protocol.md");
    let defs = schema::protocol()["$defs"].clone();
    let mut seen = 0;
    for variant in defs["Object"]["oneOf"].as_array().unwrap() {
        let kind = variant["properties"]["kind"]["const"].as_str().unwrap();
        let required: BTreeSet<&str> = variant["required"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let listed: BTreeMap<String, String> = rows(section(&text, &format!("### `{kind}`")))
            .into_iter()
            .collect();
        let fields: BTreeSet<&String> = variant["properties"]
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| *k != "kind")
            .collect();
        assert_eq!(listed.keys().collect::<BTreeSet<_>>(), fields, "{kind}");
        for (field, default) in &listed {
            assert_eq!(
                default == "required",
                required.contains(field.as_str()),
                "{kind}.{field}: {default}"
            );
            let schema = &variant["properties"][field];
            if let Some(value) = schema.get("default").filter(|d| !d.is_null()) {
                assert_eq!(*default, value.to_string(), "{kind}.{field}");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, Kind::ALL.len());
}

#[test]
fn numbers_are_those_of_the_limits() {
    let text = document("control-protocol.md");
    for number in [
        format!("1 to {} characters", limits::MAX_NAME_LENGTH),
        format!("{} to {}", limits::MIN_MTU, limits::MAX_MTU),
        format!("1 to {}", limits::MAX_VRF),
        format!("1 to {} ", limits::MAX_PAGE).trim_end().to_owned(),
        format!("up to {}, unique", limits::Limits::MAX.addresses_per_port),
        format!("{} MiB", limits::DEFAULT_REQUEST_BYTES >> 20),
    ] {
        assert!(
            text.contains(&number),
            "{number} is not in docs/control-protocol.md"
        );
    }
}
