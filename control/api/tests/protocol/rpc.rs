// SPDX-License-Identifier: Apache-2.0
//! The envelope: what is read, what is refused and how, and that the schema says the same.
use podswitch_api::method::{ApplyParams, Call, Change, GetParams, NoParams};
use podswitch_api::object::{Device, Key, Kind, Object, Port, Rule, Segment};
use podswitch_api::rpc::{
    Id, parse_request, parse_response, write_error, write_request, write_result,
};
use podswitch_api::{ErrorCode, RpcError, schema};
use serde_json::{Value, json};

fn refused(line: &str) -> (Option<Id>, RpcError) {
    let bad = parse_request(line.as_bytes()).unwrap_err();
    (bad.id, bad.error)
}

fn code(line: &str) -> ErrorCode {
    refused(line).1.code().unwrap()
}

#[test]
fn a_request_is_read_and_written() {
    let request = parse_request(br#"{"jsonrpc":"2.0","id":7,"method":"version"}"#).unwrap();
    assert_eq!(
        (request.id, request.call),
        (Id::Number(7), Call::Version(NoParams {}))
    );
    let params = GetParams::all(Kind::Port);
    let line = write_request(3, "get", &params).unwrap();
    assert_eq!(line.last(), Some(&b'\n'));
    let request = parse_request(&line[..line.len() - 1]).unwrap();
    assert_eq!(
        (request.id, request.call),
        (Id::Number(3), Call::Get(params))
    );
}

#[test]
fn what_is_no_request_is_refused_by_name() {
    assert_eq!(code("{"), ErrorCode::ParseError);
    assert_eq!(code(""), ErrorCode::ParseError);
    assert_eq!(code("17"), ErrorCode::InvalidRequest);
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"version"}"#),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"version","id":null}"#),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"version","id":1.5}"#),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(r#"{"jsonrpc":"1.0","method":"version","id":1}"#),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":17,"id":1}"#),
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"fly","id":1}"#),
        ErrorCode::MethodNotFound
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"apply","id":1}"#),
        ErrorCode::InvalidParams
    );
    assert_eq!(
        code(r#"{"jsonrpc":"2.0","method":"version","id":1,"params":[]}"#),
        ErrorCode::InvalidParams
    );
    let long = format!(
        r#"{{"jsonrpc":"2.0","method":"version","id":"{}"}}"#,
        "x".repeat(300)
    );
    assert_eq!(code(&long), ErrorCode::InvalidRequest);
    assert_eq!(
        parse_request(b"\xff\xfe").unwrap_err().error.code(),
        Some(ErrorCode::ParseError)
    );
    let deep = "[".repeat(100_000);
    let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"apply","params":{deep}"#);
    assert_eq!(code(&line), ErrorCode::ParseError);
}

#[test]
fn batches_are_refused_clearly() {
    let (id, error) = refused(r#" [{"jsonrpc":"2.0","id":1,"method":"version"}]"#);
    assert_eq!((id, error.code()), (None, Some(ErrorCode::InvalidRequest)));
    assert!(error.to_string().contains("batches"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    for (line, place, name) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"version","params":{"x":1}}"#,
            "params.x",
            "`x`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"get","params":{"kind":"port","filter":{"nam":"a"}}}"#,
            "params.filter.nam",
            "`nam`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"set","object":{"kind":"segment","name":"a","id":1,"ageing":3}}]}}"#,
            "params.changes[0].object.ageing",
            "`ageing`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"set","object":{"kind":"port","name":"a","device":{"kind":"memory","x":1}}}]}}"#,
            "params.changes[0].object.device",
            "`x`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"delete","key":{"kind":"port","name":"a","x":1}}]}}"#,
            "params.changes[0].key.x",
            "`x`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"sit"}]}}"#,
            "params.changes[0]",
            "`sit`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"set","object":{"kind":"port","name":"a","device":{"kind":"memory"},"mac":"02:00"}}]}}"#,
            "params.changes[0].object.mac",
            "02:00",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"put","params":{"transaction":1,"objects":[{"kind":"segment","name":"a","id":1},{"kind":"rule","name":"a","port":"p","direction":"ingress","priority":1,"action":"deny","ports":{"first":70000,"last":1}}]}}"#,
            "params.objects[1].ports.first",
            "`70000`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"apply","params":{"changes":[{"op":"set","object":{"kind":"cloud"}}]}}"#,
            "params.changes[0].object.kind",
            "`cloud`",
        ),
    ] {
        let (id, error) = refused(line);
        assert_eq!(
            (id, error.code()),
            (Some(Id::Number(1)), Some(ErrorCode::InvalidParams)),
            "{line}"
        );
        let field = error.data.as_ref().unwrap().field.clone().unwrap();
        assert!(field.starts_with(place), "{field} for {line}");
        assert!(error.message.contains(name), "{error} for {line}");
        assert!(!error.message.contains(" at line "), "{error}");
    }
    let (_, error) = refused(r#"{"jsonrpc":"2.0","id":1,"method":"version","extra":1}"#);
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
    assert!(error.message.contains("`extra`"), "{error}");
}

#[test]
fn responses_are_read() {
    let line = write_result(&Id::Number(1), &json!({"a": 1})).unwrap();
    let (id, result) = parse_response::<Value>(&line).unwrap();
    assert_eq!((id, result), (Some(Id::Number(1)), Ok(json!({"a": 1}))));
    let error = RpcError::new(ErrorCode::Busy, "later").field("f").value(3);
    let (id, result) = parse_response::<Value>(&write_error(None, &error)).unwrap();
    assert_eq!((id, result), (None, Err(error)));
    assert!(parse_response::<Value>(br#"{"jsonrpc":"2.0","id":1}"#).is_err());
    assert!(
        parse_response::<Value>(
            br#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}"#
        )
        .is_err()
    );
}

fn port(device: Device) -> Object {
    Object::from(Port {
        name: "a".into(),
        device,
        mac: Some("02:00:00:00:00:01".parse().unwrap()),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        vrf: 3,
        mtu: Some(1500),
        worker: None,
        egress_default: Default::default(),
        ingress_default: Default::default(),
        segment: None,
        node: false,
        pod: None,
        host_ports: Vec::new(),
    })
}

#[test]
fn the_schema_accepts_what_is_read_and_refuses_what_is_not() {
    let validator = jsonschema::validator_for(&schema::definition("request_apply")).unwrap();
    let rule: Rule = serde_json::from_value(json!({
        "name": "r", "port": "a", "direction": "ingress", "priority": 1, "source": "10.0.0.0/8", "protocol": "tcp",
        "ports": {"first": 80, "last": 81}, "action": "deny"
    }))
    .unwrap();
    let changes = vec![
        Change::set(port(Device::Memory {})),
        Change::set(port(Device::Veth {
            interface: "psw1".into(),
            mode: Default::default(),
        })),
        Change::set(Segment::new("s", 7)),
        Change::set(rule),
        Change::delete(Key::Rule { name: "r".into() }),
    ];
    let line = write_request(
        1,
        "apply",
        &ApplyParams {
            changes,
            expect_generation: Some(4),
        },
    )
    .unwrap();
    let request: Value = serde_json::from_slice(&line).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&request)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(parse_request(&line[..line.len() - 1]).is_ok());
    for (pointer, value) in [
        ("/params/changes/0/object/mtuu", json!(1)),
        ("/params/changes/0/object/device/x", json!(1)),
        ("/params/changes/3/object/protocol", json!("tcpp")),
        ("/params/changes/2/object/id", json!("7")),
        ("/params/changes/4/key/x", json!(1)),
        ("/params/changes/4/op", json!("sit")),
        ("/method", json!("fly")),
        ("/params", json!([])),
        ("/x", json!(1)),
    ] {
        let mut bad = request.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[last] = value;
        assert!(
            !validator.is_valid(&bad),
            "{pointer} is accepted by the schema"
        );
        assert!(
            parse_request(bad.to_string().as_bytes()).is_err(),
            "{pointer} is read"
        );
    }
}
