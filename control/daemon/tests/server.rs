// SPDX-License-Identifier: Apache-2.0
//! The control socket with a real loop and real clients; the engine echoes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podswitch_api::method::Call;
use podswitch_api::rpc;
use podswitchd::server::{Access, Answer, Answers, Bounds, Job, ListenError, Listener, Server};
use serde_json::{Value, json};

/// Says "hung"; every wait ends long before.
const HUNG: Duration = Duration::from_secs(20);

struct Fixture {
    dir: tempfile::TempDir,
    answers: Answers,
    server: Option<JoinHandle<()>>,
    gone: mpsc::Receiver<u64>,
}

impl Fixture {
    fn new(clients: usize, request_bytes: usize) -> Fixture {
        Fixture::with(Bounds {
            clients,
            request_bytes,
            stall: HUNG,
            idle: HUNG,
        })
    }

    fn with(bounds: Bounds) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&dir.path().join("s"), ACCESS).unwrap();
        let (jobs, inbox) = mpsc::channel();
        let (server, answers) = Server::new(
            listener,
            bounds,
            Box::new(move |job| jobs.send(job).is_ok()),
        )
        .unwrap();
        let (left, gone) = mpsc::channel();
        let echo = answers.clone();
        std::thread::spawn(move || {
            for job in inbox {
                match job {
                    // One that is never answered.
                    Job::Call { call, .. } if matches!(*call, Call::Health(_)) => {}
                    Job::Call { client, id, call } => {
                        let size = match *call {
                            Call::Stats(_) => 8 << 20,
                            _ => 1,
                        };
                        let bytes =
                            rpc::write_result(&id, &json!({"said": "x".repeat(size)})).unwrap();
                        echo.send(Answer::Line { client, bytes });
                    }
                    Job::Gone(client) => left.send(client.0).unwrap_or(()),
                }
            }
        });
        let server = std::thread::spawn(move || server.run().unwrap());
        Fixture {
            dir,
            answers,
            server: Some(server),
            gone,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(HUNG)).unwrap();
        stream.set_write_timeout(Some(HUNG)).unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.answers.send(Answer::Stop);
        if let Some(server) = self.server.take() {
            let joined = server.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

const ACCESS: Access = Access {
    mode: 0o660,
    group: None,
};
const VERSION: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"version\"}\n";

fn line(client: &mut BufReader<UnixStream>) -> Value {
    let mut text = String::new();
    client.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}

fn ask(client: &mut BufReader<UnixStream>, bytes: &[u8]) -> Value {
    client.get_mut().write_all(bytes).unwrap();
    line(client)
}

fn ended(client: &mut BufReader<UnixStream>) {
    let mut rest = Vec::new();
    // A reset is an end too: the server does not read what it has refused.
    let _ = client.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn requests_are_answered_in_order_also_when_pipelined_or_split() {
    let f = Fixture::new(4, 1 << 20);
    let mut c = f.connect();
    assert_eq!(ask(&mut c, VERSION)["id"], 7);
    let many: Vec<u8> = (0..200)
        .flat_map(|i| {
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{i},\"method\":\"version\"}}\n\n").into_bytes()
        })
        .collect();
    let (a, b) = many.split_at(many.len() / 2 + 3);
    c.get_mut().write_all(a).unwrap();
    c.get_mut().write_all(b).unwrap();
    for i in 0..200 {
        assert_eq!(line(&mut c)["id"], i);
    }
}

#[test]
fn what_is_no_request_is_answered_and_the_client_stays() {
    let f = Fixture::new(4, 1 << 20);
    let mut c = f.connect();
    for (text, code) in [
        ("{", -32700),
        ("\u{0}\u{1}", -32700),
        ("[]", -32600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"fly\"}", -32601),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"apply\",\"params\":{\"change\":[]}}",
            -32602,
        ),
    ] {
        assert_eq!(
            ask(&mut c, format!("{text}\n").as_bytes())["error"]["code"],
            code,
            "{text}"
        );
    }
    assert_eq!(ask(&mut c, VERSION)["id"], 7);
}

#[test]
fn a_request_over_the_limit_is_refused_without_being_read() {
    let f = Fixture::new(4, 64 << 10);
    let mut other = f.connect();
    let mut c = f.connect();
    let mut writer = c.get_ref().try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        // 100 MB, or as much of it as the server takes before it closes.
        (0..100)
            .take_while(|_| writer.write_all(&piece).is_ok())
            .count()
    });
    let error = line(&mut c);
    assert_eq!(error["error"]["code"], -32008);
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("65536"),
        "{error}"
    );
    ended(&mut c);
    assert!(flood.join().unwrap() < 100);
    assert_eq!(ask(&mut other, VERSION)["id"], 7);
}

#[test]
fn a_client_too_many_is_told_so_and_a_place_becomes_free() {
    let f = Fixture::new(2, 1 << 20);
    let mut a = f.connect();
    let mut b = f.connect();
    ask(&mut a, VERSION);
    ask(&mut b, VERSION);
    let mut c = f.connect();
    let refused = line(&mut c);
    assert_eq!(refused["error"]["code"], -32005);
    ended(&mut c);
    drop(a);
    f.gone.recv_timeout(HUNG).unwrap();
    assert_eq!(ask(&mut f.connect(), VERSION)["id"], 7);
}

#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    let f = Fixture::new(4, 1 << 20);
    let mut lazy = f.connect();
    for _ in 0..4 {
        lazy.get_mut()
            .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n")
            .unwrap();
    }
    let mut c = f.connect();
    for _ in 0..100 {
        assert_eq!(ask(&mut c, VERSION)["id"], 7);
    }
    for _ in 0..4 {
        assert_eq!(line(&mut lazy)["id"], 1);
    }
}

#[test]
fn clients_that_stall_are_given_up_and_others_are_not() {
    let f = Fixture::with(Bounds {
        clients: 8,
        request_bytes: 1 << 20,
        stall: Duration::from_millis(600),
        idle: HUNG,
    });
    let (mut unfinished, mut deaf) = (f.connect(), f.connect());
    let (mut idle, mut waits) = (f.connect(), f.connect());
    waits
        .get_mut()
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"health\"}\n")
        .unwrap();
    unfinished.get_mut().write_all(b"{\"jsonrpc\"").unwrap();
    deaf.get_mut()
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n")
        .unwrap();
    let before = Instant::now();
    f.gone.recv_timeout(HUNG).unwrap();
    f.gone.recv_timeout(HUNG).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(500));
    ended(&mut unfinished);
    let mut rest = Vec::new();
    let _ = deaf.read_to_end(&mut rest);
    assert!(rest.len() < 8 << 20, "a part of its answer at most");
    // One that owes nothing, and one that is owed something, may take their time.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(ask(&mut idle, VERSION)["id"], 7);
    assert!(f.gone.try_recv().is_err());
    waits.get_mut().write_all(VERSION).unwrap();
}

#[test]
fn the_longest_idle_client_gives_way_to_a_new_one() {
    let f = Fixture::with(Bounds {
        clients: 3,
        request_bytes: 1 << 20,
        stall: HUNG,
        idle: Duration::from_millis(300),
    });
    // The first is owed an answer, and the second owes the rest of a line: neither is idle.
    let (mut waits, mut unfinished, mut idle) = (f.connect(), f.connect(), f.connect());
    ask(&mut waits, VERSION);
    waits
        .get_mut()
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"health\"}\n")
        .unwrap();
    unfinished.get_mut().write_all(&VERSION[..9]).unwrap();
    ask(&mut idle, VERSION);
    assert_eq!(line(&mut f.connect())["error"]["code"], -32005);
    std::thread::sleep(Duration::from_millis(500));
    let mut new = f.connect();
    assert_eq!(ask(&mut new, VERSION)["id"], 7);
    ended(&mut idle);
    assert_eq!(ask(&mut unfinished, &VERSION[9..])["id"], 7);
    f.gone.recv_timeout(HUNG).unwrap();
    assert!(f.gone.try_recv().is_err(), "no other has gone");
}

/// Sends as much as the server takes; false when it has taken nothing for a while and something is left.
fn all_taken(client: &UnixStream, mut bytes: &[u8]) -> bool {
    client
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    while let (false, Ok(n)) = (bytes.is_empty(), (&mut &*client).write(bytes)) {
        bytes = &bytes[n..];
    }
    bytes.is_empty()
}

/// Asks again and again as long as `work` runs, and returns its result and the longest time an answer took.
fn meanwhile<T: Send>(f: &Fixture, work: impl FnOnce() -> T + Send) -> (T, Duration) {
    let mut c = f.connect();
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut longest = Duration::ZERO;
        while !work.is_finished() {
            let before = Instant::now();
            assert_eq!(ask(&mut c, VERSION)["id"], 7);
            longest = longest.max(before.elapsed());
        }
        (work.join().unwrap(), longest)
    })
}

#[test]
fn blank_lines_behind_a_request_cost_the_others_nothing() {
    let f = Fixture::new(4, 16 << 20);
    let mut c = f.connect();
    let flood = [VERSION, &vec![b'\n'; 16 << 20], VERSION].concat();
    let (answers, longest) = meanwhile(&f, || {
        let mut writer = c.get_ref().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&flood).unwrap());
            [line(&mut c), line(&mut c)]
        })
    });
    assert!(answers.iter().all(|a| a["id"] == 7), "{answers:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn errors_that_nobody_reads_are_bounded() {
    let f = Fixture::new(4, 16 << 20);
    let mut c = f.connect();
    let flood = [VERSION, &b"0\n".repeat(8 << 20)].concat();
    let (taken, longest) = meanwhile(&f, || all_taken(c.get_ref(), &flood));
    assert!(!taken, "all of them were read, so all answers are held");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // Those that were taken are answered, and as many are taken as answers are.
    assert_eq!(line(&mut c)["id"], 7);
    for _ in 0..100_000 {
        assert_eq!(line(&mut c)["error"]["code"], -32600);
    }
    assert_eq!(ask(&mut f.connect(), VERSION)["id"], 7);
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let f = Fixture::new(4, 1 << 20);
    let mut c = f.connect();
    c.get_mut().write_all(VERSION).unwrap();
    c.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(line(&mut c)["id"], 7);
    ended(&mut c);
}

#[test]
fn the_socket_has_its_mode_and_one_owner() {
    let f = Fixture::new(4, 1 << 20);
    let mode = std::fs::metadata(f.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(
        Listener::bind(&f.path(), ACCESS),
        Err(ListenError::Taken(_))
    ));
    let file = f.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(
        Listener::bind(&file, ACCESS),
        Err(ListenError::NotSocket(_))
    ));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let stale = f.dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    Listener::bind(&stale, ACCESS).unwrap();
}

#[test]
fn a_listener_that_ends_leaves_its_successors_socket_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let old = Listener::bind(&path, ACCESS).unwrap();
    std::fs::remove_file(&path).unwrap();
    let new = Listener::bind(&path, ACCESS).unwrap();
    drop(old);
    UnixStream::connect(&path).unwrap();
    drop(new);
    assert!(!path.exists());
}

/// An engine that has said stop ends at once, and nothing that could wake the loop is left then.
#[test]
fn a_stop_is_heard_also_when_nobody_is_left_who_could_say_more() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&dir.path().join("s"), ACCESS).unwrap();
    let bounds = Bounds {
        clients: 1,
        request_bytes: 1 << 16,
        stall: 1000 * HUNG,
        idle: HUNG,
    };
    let (server, answers) = Server::new(listener, bounds, Box::new(|_| true)).unwrap();
    answers.send(Answer::Stop);
    drop(answers);
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || end.send(server.run().is_ok()));
    assert!(ended.recv_timeout(HUNG).expect("it hears of the stop"));
}
