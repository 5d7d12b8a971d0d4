// SPDX-License-Identifier: Apache-2.0
//! The JSON-RPC 2.0 envelope. A request and a response are one JSON object on one line each, ended by a line feed (U+000A).
//! Batches and notifications are not served: every request has an `id` and is answered.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{ErrorCode, RpcError};
use crate::method::Call;
use crate::object::{Key, Object, ReadError};
use crate::strict::{self, Tree};

/// The `id` of a request, which its response repeats: a number or a string of at most 256 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// A string.
    Text(String),
}

/// Longest `id`, in bytes.
const MAX_ID_LENGTH: usize = 256;

/// A request as the server sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// The id to answer under.
    pub id: Id,
    /// The method and its parameters.
    pub call: Call,
}

/// A line that is no request. `id` is the one to answer under: `None` is written as `null` (JSON-RPC 2.0 section 5).
#[derive(Clone, PartialEq, Debug)]
pub struct BadRequest {
    /// The id, when it could be read.
    pub id: Option<Id>,
    /// What to answer.
    pub error: RpcError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// Reads one request line, without its line feed.
///
/// # Errors
/// What to answer when the line is no request (`parse_error`, `invalid_request`), names no method (`method_not_found`) or
/// has wrong parameters (`invalid_params`).
pub fn parse_request(line: &[u8]) -> Result<Request, Box<BadRequest>> {
    let bad = |id: Option<Id>, error: RpcError| Box::new(BadRequest { id, error });
    let text = std::str::from_utf8(line).map_err(|e| {
        bad(
            None,
            RpcError::new(
                ErrorCode::ParseError,
                format!("the request is not UTF-8: {e}"),
            ),
        )
    })?;
    if text.trim_start().starts_with('[') {
        let error = RpcError::new(ErrorCode::InvalidRequest, "batches are not served").hint(
            "send each request on a line of its own; for several changes at once use one `apply`",
        );
        return Err(bad(None, error));
    }
    let raw: RawRequest<'_> = strict::from_str(text).map_err(|e| bad(None, envelope_error(&e)))?;
    let id = raw.id.and_then(read_id);
    let Some(id) = id else {
        let error = RpcError::new(ErrorCode::InvalidRequest, "the request has no usable `id`")
            .field("id")
            .hint("give it a whole number or a string of at most 256 bytes; notifications are not served");
        return Err(bad(None, error));
    };
    if raw.jsonrpc.as_deref() != Some("2.0") {
        let error = RpcError::new(ErrorCode::InvalidRequest, "`jsonrpc` is not \"2.0\"")
            .field("jsonrpc")
            .hint("write \"jsonrpc\":\"2.0\"; other versions are not served");
        return Err(bad(Some(id), error));
    }
    let Some(method) = raw
        .method
        .and_then(|m| serde_json::from_str::<String>(m.get()).ok())
    else {
        let error = RpcError::new(
            ErrorCode::InvalidRequest,
            "the request has no `method`, or one that is not a string",
        )
        .field("method");
        return Err(bad(Some(id), error));
    };
    match Call::parse(&method, raw.params.map(RawValue::get)) {
        Some(Ok(call)) => Ok(Request { id, call }),
        Some(Err(error)) => Err(bad(Some(id), error)),
        None => {
            let shown: String = method.chars().take(64).collect();
            let error = RpcError::new(ErrorCode::MethodNotFound, format!("no method \"{shown}\""))
                .field("method")
                .value(shown)
                .hint(format!("the methods are {}", Call::NAMES.join(", ")));
            Err(bad(Some(id), error))
        }
    }
}

fn envelope_error(error: &serde_json::Error) -> RpcError {
    let code = match error.classify() {
        serde_json::error::Category::Data => ErrorCode::InvalidRequest,
        _ => ErrorCode::ParseError,
    };
    let what = match code {
        ErrorCode::ParseError => "the request is not JSON",
        _ => "the request is not a JSON-RPC 2.0 request",
    };
    RpcError::new(code, format!("{what}: {error}"))
        .hint("write one JSON object on one line, with jsonrpc, id, method and params")
}

fn read_id(raw: &RawValue) -> Option<Id> {
    if raw.get().len() > MAX_ID_LENGTH {
        return None;
    }
    serde_json::from_str(raw.get()).ok()
}

/// Reads the parameters of `method`; absent ones count as `{}` where that is allowed.
pub(crate) fn parse_params<T: DeserializeOwned>(
    method: &str,
    params: Option<&str>,
    optional: bool,
) -> Result<T, RpcError> {
    let text = match params {
        Some(text) => text,
        None if optional => "{}",
        None => {
            return Err(RpcError::new(
                ErrorCode::InvalidParams,
                format!("{method} needs `params`"),
            )
            .field("params")
            .hint(format!(
                "docs/control-protocol.md shows what {method} takes"
            )));
        }
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        // A tree says more exactly which key comes twice, and where; it says the same of what is no JSON.
        let mut reader = serde_json::Deserializer::from_str(text);
        let fault = match serde_path_to_error::deserialize(&mut reader) {
            Err(e) => ReadError::new(e, None),
            Ok(Tree(whole)) => {
                let first = ReadError::new(e, Some(&whole));
                closer(whole, &first.path).unwrap_or(first)
            }
        };
        let at = match fault.path.as_str() {
            "" => "params".to_owned(),
            path => format!("params.{path}"),
        };
        let mut error = RpcError::new(
            ErrorCode::InvalidParams,
            format!("{method}: {at}: {}", fault.explain()),
        )
        .field(at)
        .hint(format!(
            "docs/control-protocol.md shows what {method} takes"
        ));
        if let Some(value) = fault.value {
            error = error.value(value);
        }
        error
    })
}

/// Where in a change or an object the fault is, when `path` ends at one (`changes[3]`, `objects[3]`).
fn closer(mut params: Value, path: &str) -> Option<ReadError> {
    let (list, index) = path.strip_suffix(']')?.split_once('[')?;
    let mut item = params
        .get_mut(list)?
        .get_mut(index.parse::<usize>().ok()?)?
        .take();
    let part = |item: &mut Value, name: &str| item.get_mut(name).map(Value::take);
    let (place, read) = match list {
        "objects" => (path.to_owned(), Object::read(item).err()),
        _ => match (part(&mut item, "object"), part(&mut item, "key")) {
            (Some(object), None) => (format!("{path}.object"), Object::read(object).err()),
            (None, Some(key)) => (format!("{path}.key"), Key::read(key).err()),
            _ => return None,
        },
    };
    let fault = read?;
    let path = if fault.path.is_empty() {
        place
    } else {
        format!("{place}.{}", fault.path)
    };
    Some(ReadError { path, ..fault })
}

/// A request line, with its line feed.
pub fn write_request<P: Serialize>(
    id: u64,
    method: &str,
    params: &P,
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Out<'a, P> {
        jsonrpc: &'static str,
        id: u64,
        method: &'a str,
        params: &'a P,
    }
    let mut line = serde_json::to_vec(&Out {
        jsonrpc: "2.0",
        id,
        method,
        params,
    })?;
    line.push(b'\n');
    Ok(line)
}

/// A response line with a result, with its line feed.
pub fn write_result<R: Serialize>(id: &Id, result: &R) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Out<'a, R> {
        jsonrpc: &'static str,
        id: &'a Id,
        result: &'a R,
    }
    let mut line = serde_json::to_vec(&Out {
        jsonrpc: "2.0",
        id,
        result,
    })?;
    line.push(b'\n');
    Ok(line)
}

/// A response line with an error, with its line feed; `id` is `None` when the request's could not be read.
pub fn write_error(id: Option<&Id>, error: &RpcError) -> Vec<u8> {
    #[derive(Serialize)]
    struct Out<'a> {
        jsonrpc: &'static str,
        id: Option<&'a Id>,
        error: &'a RpcError,
    }
    let mut line = serde_json::to_vec(&Out { jsonrpc: "2.0", id, error })
        .unwrap_or_else(|_| br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the error could not be written"}}"#.to_vec());
    line.push(b'\n');
    line
}

/// Reads one response line.
///
/// # Errors
/// A message when the line is no JSON-RPC 2.0 response or its result is not a `T`.
pub fn parse_response<T: DeserializeOwned>(
    line: &[u8],
) -> Result<(Option<Id>, Result<T, RpcError>), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct In<'a> {
        jsonrpc: String,
        id: Option<Id>,
        #[serde(borrow, default)]
        result: Option<&'a RawValue>,
        #[serde(default)]
        error: Option<RpcError>,
    }
    let text = std::str::from_utf8(line).map_err(|e| e.to_string())?;
    let response: In<'_> = strict::from_str(text).map_err(|e| e.to_string())?;
    if response.jsonrpc != "2.0" {
        return Err("`jsonrpc` is not \"2.0\"".to_owned());
    }
    match (response.result, response.error) {
        (Some(result), None) => {
            let result = serde_json::from_str(result.get()).map_err(|e| format!("result: {e}"))?;
            Ok((response.id, Ok(result)))
        }
        (None, Some(error)) => Ok((response.id, Err(error))),
        _ => Err("neither or both of `result` and `error`".to_owned()),
    }
}
