// SPDX-License-Identifier: Apache-2.0
//! The blocking client, against a thread that plays the daemon.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use podswitch_api::method::{Change, Filter, GetParams, Health, NoParams, Version};
use podswitch_api::object::{Key, Kind, Object, Segment};
use podswitch_api::{Client, ClientError, ErrorCode};
use serde_json::{Value, json};

const HUNG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

/// What the daemon does with a request: the text to answer with. `None` closes the connection.
type Script = Box<dyn FnMut(Value) -> Option<String> + Send>;

struct Daemon {
    directory: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
    requests: Receiver<Value>,
}

impl Daemon {
    fn start(script: Script) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let (sender, requests) = channel();
        let thread = Some(thread::spawn(move || serve(&listener, script, &sender)));
        Daemon {
            directory,
            thread,
            requests,
        }
    }

    /// Answers every request with the same result.
    fn answering(result: Value) -> Daemon {
        Daemon::start(Box::new(move |r| {
            Some(reply(&r, &json!({"result": result})))
        }))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn client(&self) -> Client {
        Client::connect_timeout(self.socket(), HUNG).unwrap()
    }

    /// Waits for the end of the connection; what it was asked.
    fn requests(mut self) -> Vec<Value> {
        self.thread.take().unwrap().join().unwrap();
        self.requests.try_iter().collect()
    }
}

fn serve(listener: &UnixListener, mut script: Script, requests: &Sender<Value>) {
    let (stream, _) = listener.accept().unwrap();
    let mut out = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_str(&line).unwrap();
        requests.send(request.clone()).unwrap();
        match script(request) {
            Some(text) => out.write_all(text.as_bytes()).unwrap(),
            None => return,
        }
    }
}

fn reply(request: &Value, with: &Value) -> String {
    let mut response = json!({"jsonrpc": "2.0", "id": request["id"]});
    let fields = response.as_object_mut().unwrap();
    with.as_object()
        .unwrap()
        .iter()
        .for_each(|(k, v)| drop(fields.insert(k.clone(), v.clone())));
    format!("{response}\n")
}

fn version() -> Value {
    json!({"version": "1.2.3", "protocol": 1, "pid": 7, "uptime_seconds": 1, "kernel": "6.1.0", "mtu": 1500,
        "gateway": {"ipv4": "169.254.1.1", "ipv6": "fe80::1", "mac": "02:70:6f:64:73:77"}})
}

#[test]
fn calls_are_numbered_and_answered() {
    let daemon = Daemon::answering(version());
    let mut client = daemon.client();
    for _ in 0..3 {
        assert_eq!(client.call::<Version>(&NoParams {}).unwrap().pid, 7);
    }
    drop(client);
    let requests = daemon.requests();
    let ids: Vec<&Value> = requests.iter().map(|r| &r["id"]).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(
        requests[0],
        json!({"jsonrpc": "2.0", "id": 1, "method": "version", "params": {}})
    );
}

#[test]
fn an_answer_in_pieces_is_put_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut line)
            .unwrap();
        let text = reply(
            &serde_json::from_str(&line).unwrap(),
            &json!({"result": version()}),
        );
        for byte in text.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
    });
    let mut client = Client::connect_timeout(&path, HUNG).unwrap();
    assert_eq!(
        client.call::<Version>(&NoParams {}).unwrap().version,
        "1.2.3"
    );
    server.join().unwrap();
}

#[test]
fn the_daemons_error_comes_through_and_the_connection_goes_on() {
    let error =
        json!({"error": {"code": -32003, "message": "taken", "data": {"hint": "choose another"}}});
    let mut first = true;
    let daemon = Daemon::start(Box::new(move |r| {
        let answer = if std::mem::take(&mut first) {
            error.clone()
        } else {
            json!({"result": version()})
        };
        Some(reply(&r, &answer))
    }));
    let mut client = daemon.client();
    let refused = client.call::<Version>(&NoParams {}).unwrap_err();
    assert_eq!(
        refused.rpc().and_then(|e| e.code()),
        Some(ErrorCode::Conflict)
    );
    assert_eq!(refused.to_string(), "taken; choose another");
    assert!(!refused.is_unreachable());
    client.call::<Version>(&NoParams {}).unwrap();
}

#[test]
fn a_refusal_before_the_request_was_read_comes_through() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32005,\"message\":\"too many clients\"}}\n").unwrap();
    });
    let mut client = Client::connect_timeout(&path, HUNG).unwrap();
    server.join().unwrap();
    // Far more than a socket buffers: sending cannot end.
    let changes = (0..100_000)
        .map(|n| {
            Change::delete(Key::Port {
                name: format!("port-{n}"),
            })
        })
        .collect();
    let error = client.apply(changes).unwrap_err();
    assert_eq!(
        error.rpc().and_then(|e| e.code()),
        Some(ErrorCode::Busy),
        "{error}"
    );
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("none");
    let left_over = directory.path().join("dead");
    drop(UnixListener::bind(&left_over).unwrap());
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = directory.path().join("x".repeat(200));
    for path in [&absent, &left_over, &file, &long] {
        let error = Client::connect(path).unwrap_err();
        assert!(
            matches!(error, ClientError::NotRunning { .. }) && error.is_unreachable(),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("is podswitchd running"),
            "{text}"
        );
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect_timeout(&path, SHORT).unwrap();
    let error = client.call::<Health>(&NoParams {}).unwrap_err();
    assert!(
        matches!(&error, ClientError::Timeout { method, .. } if method == "health"),
        "{error:?}"
    );
    assert!(
        error.is_unreachable() && error.to_string().contains("may still carry it out"),
        "{error}"
    );
    // Nobody accepts: the backlog fills up, and connecting is given up, too.
    let given_up = (0..10_000).find_map(|_| Client::connect_timeout(&path, SHORT).err());
    assert!(
        matches!(given_up, Some(ClientError::Timeout { ref method, .. }) if method == "connect"),
        "{given_up:?}"
    );
    drop(listener);
}

#[test]
fn a_connection_that_breaks_is_said() {
    let daemon = Daemon::start(Box::new(|_| None));
    let error = daemon.client().call::<Version>(&NoParams {}).unwrap_err();
    assert!(
        matches!(error, ClientError::Broken { .. }) && error.is_unreachable(),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("version") && error.to_string().contains("log of podswitchd"),
        "{error}"
    );
}

#[test]
fn an_answer_that_makes_no_sense_is_said() {
    let result = json!({"result": version()});
    let other_id = move |mut r: Value| {
        r["id"] = json!(99);
        Some(reply(&r, &result))
    };
    let scripts: Vec<Script> = vec![
        Box::new(|_| Some("hello\n".to_owned())),
        Box::new(|_| Some("\n".to_owned())),
        Box::new(|r| Some(reply(&r, &json!({"result": {"version": 1}})))),
        Box::new(|r| {
            Some(reply(
                &r,
                &json!({"result": 1, "error": {"code": 1, "message": ""}}),
            ))
        }),
        Box::new(|r| Some(reply(&r, &json!({"result": {}, "jsonrpc": "1.0"})))),
        Box::new(other_id),
    ];
    for script in scripts {
        let error = Daemon::start(script)
            .client()
            .call::<Version>(&NoParams {})
            .unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains("same version"), "{error}");
    }
}

fn segment(n: u32) -> Object {
    Segment::new(format!("s{n}"), n).into()
}

#[test]
fn all_pages_are_read() {
    let daemon = Daemon::start(Box::new(|r| {
        let page = r["params"]["continue"]
            .as_str()
            .map_or(1, |c| c.parse::<u32>().unwrap());
        let mut result = json!({"generation": 1, "objects": [{"object": segment(page)}]});
        if page < 4 {
            result["continue"] = json!((page + 1).to_string());
        }
        Some(reply(&r, &json!({"result": result})))
    }));
    let mut client = daemon.client();
    let all = client
        .get_all(
            Kind::Segment,
            Filter {
                name: Some("s".into()),
                ..Filter::default()
            },
        )
        .unwrap();
    assert_eq!(
        all.into_iter().map(|e| e.object).collect::<Vec<_>>(),
        (1..5).map(segment).collect::<Vec<_>>()
    );
    drop(client);
    let requests = daemon.requests();
    assert!(
        requests.len() == 4
            && requests
                .iter()
                .all(|r| r["params"]["filter"] == json!({"name": "s"})),
        "{requests:?}"
    );
    assert_eq!(
        serde_json::to_value(GetParams::all(Kind::Port)).unwrap(),
        json!({"kind": "port"})
    );
}

fn transactions(fail: &'static str) -> Daemon {
    Daemon::start(Box::new(move |r| {
        let result = match r["method"].as_str().unwrap() {
            method if method == fail => {
                return Some(reply(
                    &r,
                    &json!({"error": {"code": -32000, "message": "no"}}),
                ));
            }
            "begin" => json!({"transaction": 5, "generation": 1}),
            "put" => json!({"objects": 1}),
            "commit" => json!({"generation": 2, "added": 1, "changed": 0, "removed": 0}),
            _ => json!({}),
        };
        Some(reply(&r, &json!({"result": result})))
    }))
}

fn methods(daemon: Daemon) -> Vec<String> {
    daemon
        .requests()
        .iter()
        .map(|r| r["method"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_whole_state_goes_in_pieces() {
    let daemon = transactions("");
    let objects: Vec<Object> = (1..10_000).map(segment).collect();
    assert_eq!(
        daemon
            .client()
            .replace(Some(vec![Kind::Segment]), objects)
            .unwrap()
            .generation,
        2
    );
    assert_eq!(methods(daemon), ["begin", "put", "put", "put", "commit"]);
}

#[test]
fn a_refused_state_is_aborted_and_the_refusal_comes_through() {
    for (fail, asked) in [
        ("begin", vec!["begin"]),
        ("put", vec!["begin", "put", "abort"]),
    ] {
        let daemon = transactions(fail);
        let error = daemon.client().replace(None, vec![segment(1)]).unwrap_err();
        assert_eq!(error.rpc().and_then(|e| e.code()), Some(ErrorCode::Refused));
        assert_eq!(methods(daemon), asked);
    }
}
