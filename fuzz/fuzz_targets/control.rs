// SPDX-License-Identifier: Apache-2.0
//! Any bytes on the control socket: each line is read as a request and carried out on a model of the desired state, and read as
//! a response as a client would.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use podswitch_api::desired::{Applied, Bounds, DesiredState, Model, Query};
use podswitch_api::method::{BeginParams, Call, Change, GetParams};
use podswitch_api::rpc::{parse_request, parse_response, write_error, write_request};
use podswitch_api::{ErrorCode, Kind, Object, RpcError, strict};
use serde_json::{Value, json};

/// Longest answer to a request that is refused, in bytes.
const LONGEST_ERROR: usize = 16 << 10;
/// How an object says that it had fields which are not known.
const UNKNOWN: &[u8] = b"\"unknown\":true";

fuzz_target!(|bytes: &[u8]| {
    let mut server = Server::new();
    for line in bytes.split(|b| *b == b'\n').take(16) {
        let _ = parse_response::<Value>(line);
        match parse_request(line) {
            Ok(request) => {
                check_reading(line, &request.call);
                server.carry_out(request.call);
            }
            Err(bad) => {
                let answer = write_error(bad.id.as_ref(), &bad.error);
                let end = answer.iter().position(|b| *b == b'\n');
                assert_eq!(end, Some(answer.len() - 1), "an answer is one line");
                assert!(answer.len() < LONGEST_ERROR, "{}", answer.len());
                check_refusal(&bad.error);
                let read = parse_response::<Value>(&answer);
                assert_eq!(read, Ok((bad.id, Err(bad.error))));
            }
        }
    }
});

/// A refusal of parameters says which.
fn check_refusal(error: &RpcError) {
    let code = error.code().expect("one of our codes");
    assert!(!error.message.is_empty());
    if code == ErrorCode::InvalidParams {
        let field = error.data.as_ref().and_then(|d| d.field.as_deref());
        assert!(field.is_some_and(|f| f.starts_with("params")), "{error:?}");
    }
}

/// What is read is read the same when it is written again; no key of it came twice, and a list in place of an object is refused.
fn check_reading(line: &[u8], call: &Call) {
    let written = write(call);
    assert_eq!(parse_request(&written).map(|r| r.call).as_ref(), Ok(call));
    let mut whole = strict::value(line).expect("no key comes twice");
    // What is in fields that are not known may be anything; as it is written again, there are none.
    if written.windows(UNKNOWN.len()).any(|part| part == UNKNOWN) {
        whole = strict::value(&written).expect("what we write is JSON");
    }
    if let Some(params) = whole.get("params") {
        for bad in with_a_list(params) {
            let mut request = whole.clone();
            request["params"] = bad;
            let refused = parse_request(request.to_string().as_bytes()).expect_err("a list");
            check_refusal(&refused.error);
        }
    }
}

fn write(call: &Call) -> Vec<u8> {
    let name = call.name();
    let mut line = match call {
        Call::Version(p) | Call::Health(p) | Call::Audit(p) | Call::Teardown(p) => {
            write_request(1, name, p)
        }
        Call::Apply(p) => write_request(1, name, p),
        Call::Begin(p) => write_request(1, name, p),
        Call::Put(p) => write_request(1, name, p),
        Call::Commit(p) | Call::Abort(p) => write_request(1, name, p),
        Call::Get(p) => write_request(1, name, p),
        Call::Stats(p) => write_request(1, name, p),
        Call::Why(p) => write_request(1, name, p),
        Call::Events(p) => write_request(1, name, p),
    }
    .expect("a request can be written");
    line.pop();
    line
}

/// The value, each time with another one of its objects made a list of what is in it; the first few.
fn with_a_list(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    if let Value::Object(fields) = value {
        all.push(fields.values().cloned().collect());
    }
    let keys: Vec<Value> = match value {
        Value::Object(fields) => fields.keys().map(|k| json!(k)).collect(),
        Value::Array(items) => (0..items.len().min(4)).map(|i| json!(i)).collect(),
        _ => Vec::new(),
    };
    for key in keys {
        let at = |v: &Value| match &key {
            Value::String(k) => v[k].clone(),
            k => v[k.as_u64().unwrap_or_default() as usize].clone(),
        };
        for inner in with_a_list(&at(value)) {
            let mut whole = value.clone();
            match &key {
                Value::String(k) => whole[k] = inner,
                k => whole[k.as_u64().unwrap_or_default() as usize] = inner,
            }
            all.push(whole);
            if all.len() > 16 {
                return all;
            }
        }
    }
    all
}

/// What a daemon does with requests, as far as it needs no machine.
struct Server {
    model: Model,
    transaction: Option<(BeginParams, DesiredState)>,
}

impl Server {
    fn new() -> Server {
        Server {
            model: Model::new(Bounds::default()),
            transaction: None,
        }
    }

    fn carry_out(&mut self, call: Call) {
        match call {
            Call::Apply(params) => {
                for change in &params.changes {
                    if let Change::Set { object } = change {
                        let value = serde_json::to_value(object).expect("an object is written");
                        assert_eq!(Object::read(value).as_ref(), Ok(object));
                    }
                }
                self.change(|model| model.apply(&params.changes));
            }
            Call::Begin(params) => self.transaction = Some((params, DesiredState::default())),
            Call::Put(params) => {
                if let Some((_, state)) = &mut self.transaction {
                    for object in params.objects {
                        state.insert(object);
                    }
                }
            }
            Call::Commit(_) => {
                if let Some((begin, new)) = self.transaction.take() {
                    let kinds = begin.kinds.unwrap_or(Kind::ALL.to_vec());
                    if self.change(|model| model.replace(&kinds, &new)) {
                        let now = self.model.state();
                        for kind in kinds {
                            assert!(now.objects(kind).eq(new.objects(kind)));
                        }
                    }
                }
            }
            Call::Abort(_) => self.transaction = None,
            Call::Get(params) => self.get(&params),
            _ => {}
        }
    }

    /// All or nothing; what was done can be taken back, and is a state that a daemon can start with. True when it was done.
    fn change(&mut self, by: impl Fn(&mut Model) -> Result<Applied, RpcError>) -> bool {
        let (before, generation) = (self.model.state().clone(), self.model.generation());
        match by(&mut self.model) {
            Err(error) => {
                assert_eq!(*self.model.state(), before, "a refusal changed something");
                assert_eq!(self.model.generation(), generation);
                assert!(write_error(None, &error).len() < LONGEST_ERROR);
                false
            }
            Ok(applied) => {
                let after = self.model.state().clone();
                assert_eq!(applied.delta, before.diff(&after));
                let loaded = Model::load(after.clone(), 0, Bounds::default());
                assert!(loaded.is_ok(), "{:?}", loaded.err());
                self.model.revert(&applied);
                assert_eq!(*self.model.state(), before, "a change cannot be taken back");
                assert_eq!(by(&mut self.model).as_ref(), Ok(&applied));
                assert_eq!(*self.model.state(), after);
                true
            }
        }
    }

    /// The pages together are all objects, in order, each once.
    fn get(&self, params: &GetParams) {
        let state = self.model.state();
        let Ok(query) = Query::new(params) else {
            return;
        };
        assert!(
            query
                .run(state)
                .objects
                .iter()
                .all(|o| o.kind() == params.kind)
        );
        let mut page = GetParams {
            limit: params.limit,
            ..GetParams::all(params.kind)
        };
        let mut seen: Vec<Object> = Vec::new();
        loop {
            let query = Query::new(&page).expect("our own page");
            let read = query.run(state);
            assert_eq!(read, query.select(state.objects(params.kind)));
            seen.extend(read.objects);
            page.resume = read.resume;
            if page.resume.is_none() {
                break;
            }
        }
        assert!(state.objects(params.kind).eq(seen));
    }
}
