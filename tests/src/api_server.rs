// SPDX-License-Identifier: Apache-2.0
//! A Kubernetes API server as far as an agent sees one: lists with pages, watches with bookmarks, and every way in which they fail. It answers over HTTP with
//! what a real one was recorded to answer, from objects that the test sets.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};
use serde_json::{Value, json};

use crate::netns::Netns;

/// How long a watcher waits for an event before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A recorded file of `tests/data/api`.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/api")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A recorded list, as a value.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn recorded_list(name: &str) -> Value {
    let text = recorded(&format!("list/{name}.json"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Which requests of a kind a fault concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Lists, also as streams.
    List,
    /// Watches.
    Watch,
    /// Both.
    Both,
}

/// An answer that is given instead of the right one.
#[derive(Debug, Clone)]
struct Fault {
    of: Of,
    status: u16,
    body: String,
    /// How often; none: until it is lifted.
    left: Option<u32>,
}

/// An object's namespace, empty where there is none, and name.
type Name = (String, String);

/// All that is there of a kind.
#[derive(Debug, Default)]
struct Kind {
    objects: BTreeMap<Name, Value>,
    /// Events since the last compaction, each with the version that was reached with it.
    events: Vec<(u64, String)>,
    /// Events that were compacted.
    compacted: usize,
    /// A watch from an earlier version is answered with 410.
    oldest: u64,
    faults: Vec<Fault>,
    /// Grows when watches are to break.
    resets: u64,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    kinds: HashMap<String, Kind>,
    /// Lists are given as streams.
    streams: bool,
    /// A compacted version is answered with an event, not with a status.
    gone_as_event: bool,
    stopped: bool,
    requests: Vec<String>,
    created: Vec<Value>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that has failed already does not fail better here.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The server. Dropping it breaks all connections.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// An empty cluster, served in a namespace at a port of the kernel's choice.
    #[track_caller]
    pub fn start(netns: &Netns) -> ApiServer {
        let shared = Arc::new(Shared::default());
        shared.state().version = 100;
        let mut server = ApiServer {
            shared,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            accepting: None,
        };
        server.listen(netns);
        server
    }

    /// One that holds recorded lists: those whose names end with `suffix`.
    #[track_caller]
    pub fn with_recorded(netns: &Netns, suffix: &str) -> ApiServer {
        let server = ApiServer::start(netns);
        for plural in RECORDED {
            server.load(plural, &recorded_list(&format!("{plural}{suffix}")));
        }
        server
    }

    #[track_caller]
    fn listen(&mut self, netns: &Netns) {
        let listener = netns.run(|| TcpListener::bind(self.address));
        let listener = listener.unwrap_or_else(|e| panic!("{}: {e}", self.address));
        self.address = listener.local_addr().expect("its address");
        self.shared.state().stopped = false;
        let shared = self.shared.clone();
        self.accepting = Some(std::thread::spawn(move || accept(&listener, &shared)));
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Its port, at all IPv4 addresses of the namespace.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Goes away: connections break, and nobody listens.
    pub fn stop(&mut self, netns: &Netns) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
        // Whoever accepts is woken by a last connection.
        let address = self.address;
        drop(netns.run(|| TcpStream::connect(address)));
        if let Some(thread) = self.accepting.take() {
            thread.join().expect("the server's thread");
        }
    }

    /// Comes back at the same address, with what was set meanwhile.
    #[track_caller]
    pub fn start_again(&mut self, netns: &Netns) {
        self.listen(netns);
    }

    /// Takes a list as it is, versions included.
    pub fn load(&self, plural: &str, list: &Value) {
        let mut state = self.shared.state();
        let version = version_of(list).max(state.version);
        state.version = version;
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        kind.oldest = version;
        for object in list["items"].as_array().expect("a list has items") {
            kind.objects.insert(name_of(object), object.clone());
        }
    }

    /// Sets an object, as a new version; watchers hear of it.
    pub fn set(&self, plural: &str, mut object: Value) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        let old = kind.objects.insert(name_of(&object), object.clone());
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        kind.events.push((version, event(what, &object)));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Deletes an object; watchers hear of it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        let old = kind
            .objects
            .remove(&(namespace.to_owned(), name.to_owned()));
        let mut old = old.expect("the object is there");
        old["metadata"]["resourceVersion"] = json!(version.to_string());
        kind.events.push((version, event("DELETED", &old)));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Replays a recorded event: the object is what it says, in the version that it has. A bookmark is passed on.
    pub fn replay(&self, plural: &str, line: &str) {
        let said: Value = serde_json::from_str(line).expect("an event");
        let (what, object) = (said["type"].as_str().expect("a type"), &said["object"]);
        let mut state = self.shared.state();
        state.version = state.version.max(version_of(object));
        let version = state.version;
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        match what {
            "ADDED" | "MODIFIED" => drop(kind.objects.insert(name_of(object), object.clone())),
            "DELETED" => drop(kind.objects.remove(&name_of(object))),
            _ => {}
        }
        kind.events.push((version, line.to_owned()));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Sends an event to the watchers of a kind without anything having happened: a second time, or late.
    pub fn send(&self, plural: &str, what: &str, object: &Value) {
        let mut state = self.shared.state();
        let version = state.version;
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        kind.events.push((version, event(what, object)));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// An object as it is now.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Value {
        let state = self.shared.state();
        let objects = state.kinds.get(plural).map(|kind| &kind.objects);
        let object = objects.and_then(|o| o.get(&(namespace.to_owned(), name.to_owned())));
        object.expect("the object is there").clone()
    }

    /// All objects of a kind.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let state = self.shared.state();
        let kind = state.kinds.get(plural);
        kind.map_or(Vec::new(), |kind| kind.objects.values().cloned().collect())
    }

    /// Sends a bookmark to the watchers of a kind.
    pub fn bookmark(&self, plural: &str) {
        let version = self.shared.state().version.to_string();
        let object = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": version}});
        self.send(plural, "BOOKMARK", &object);
    }

    /// From now on answers requests of a kind with a status and a body; so often, or until it is lifted.
    pub fn fail(&self, plural: &str, of: Of, status: u16, body: &str, times: Option<u32>) {
        let mut state = self.shared.state();
        state
            .kinds
            .entry(plural.to_owned())
            .or_default()
            .faults
            .push(Fault {
                of,
                status,
                body: body.to_owned(),
                left: times,
            });
    }

    /// Lifts all faults of a kind.
    pub fn lift(&self, plural: &str) {
        let mut state = self.shared.state();
        state
            .kinds
            .entry(plural.to_owned())
            .or_default()
            .faults
            .clear();
    }

    /// How many answers faults of a kind still have to give; those without an end count as one.
    pub fn faults(&self, plural: &str) -> u32 {
        let state = self.shared.state();
        let faults = state.kinds.get(plural).map(|kind| kind.faults.as_slice());
        faults
            .unwrap_or_default()
            .iter()
            .map(|f| f.left.unwrap_or(1))
            .sum()
    }

    /// Resets the connections of watches of a kind.
    pub fn reset(&self, plural: &str) {
        let mut state = self.shared.state();
        state.kinds.entry(plural.to_owned()).or_default().resets += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Forgets the history of a kind: watches from versions up to now are answered with 410, as an event or as a status.
    pub fn compact(&self, plural: &str, as_event: bool) {
        let mut state = self.shared.state();
        state.gone_as_event = as_event;
        state.version += 1;
        let version = state.version;
        let kind = state.kinds.entry(plural.to_owned()).or_default();
        kind.oldest = version;
        kind.compacted += kind.events.len();
        kind.events.clear();
    }

    /// Lists are given as streams, too, as with etcd from 3.5 on.
    pub fn stream_lists(&self) {
        self.shared.state().streams = true;
    }

    /// Request lines up to now: method and target.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// Objects that were posted.
    pub fn created(&self) -> Vec<Value> {
        self.shared.state().created.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
    }
}

/// Kinds of which there are recorded lists and watches.
pub const RECORDED: [&str; 6] = [
    "nodes",
    "namespaces",
    "pods",
    "services",
    "endpointslices",
    "networkpolicies",
];

fn event(what: &str, object: &Value) -> String {
    json!({"type": what, "object": object}).to_string()
}

fn name_of(object: &Value) -> Name {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"))
}

fn version_of(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        if shared.state().stopped {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // A client that has gone is nobody's fault.
            let _ = converse(&stream, &shared);
        });
    }
}

/// Requests of one connection, one after another, until it breaks.
fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line.is_empty() {
            match reader.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) if shared.state().stopped => return reset(stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        stream.set_read_timeout(None)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        shared.state().requests.push(format!("{method} {target}"));
        if !answer(stream, shared, method, target, &body)? {
            return Ok(());
        }
        stream.set_read_timeout(Some(LOOK))?;
    }
}

/// Breaks a connection as a machine does that has lost it.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, Linger, &at_once)?;
    Ok(())
}

/// What a request asks for.
struct Query<'a> {
    plural: &'a str,
    words: HashMap<&'a str, &'a str>,
}

impl<'a> Query<'a> {
    fn read(target: &'a str) -> Query<'a> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Query {
            plural: path.rsplit('/').next().unwrap_or(""),
            words: pairs.collect(),
        }
    }

    fn is(&self, word: &str) -> bool {
        self.words.get(word) == Some(&"true")
    }

    fn number(&self, word: &str) -> Option<u64> {
        self.words.get(word)?.parse().ok()
    }
}

/// Answers one request; whether the connection goes on.
fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    method: &str,
    target: &str,
    body: &[u8],
) -> std::io::Result<bool> {
    let query = Query::read(target);
    if method == "POST" {
        let object = serde_json::from_slice(body).unwrap_or(Value::Null);
        shared.state().created.push(object);
        return write(stream, 201, &String::from_utf8_lossy(body)).map(|()| true);
    }
    if target == "/apis" {
        return write(stream, 200, &groups(shared)).map(|()| true);
    }
    let watches = query.is("watch");
    let streams = query.is("sendInitialEvents");
    if let Some((status, body)) = take_fault(shared, &query, watches && !streams) {
        return write(stream, status, &body).map(|()| true);
    }
    if !watches {
        return write(stream, 200, &list(shared, &query)).map(|()| true);
    }
    if streams && !shared.state().streams {
        write_head(stream)?;
        write_chunk(stream, recorded("errors/watchlist.jsonl").trim_end())?;
        stream.write_all(b"0\r\n\r\n")?;
        return Ok(true);
    }
    watch(stream, shared, &query, streams)
}

/// The groups that are served: that of ClusterNetworkPolicies unless these are answered with 404.
fn groups(shared: &Shared) -> String {
    let mut state = shared.state();
    let kind = state.kinds.entry("clusternetworkpolicies".to_owned());
    let there = !kind.or_default().faults.iter().any(|f| f.status == 404);
    let group = |name: &str, version: &str| {
        let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let mut groups = vec![group("networking.k8s.io", "v1")];
    groups.extend(there.then(|| group("policy.networking.k8s.io", "v1alpha2")));
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string()
}

/// The answer of a fault that concerns a request.
fn take_fault(shared: &Shared, query: &Query<'_>, watches: bool) -> Option<(u16, String)> {
    let mut state = shared.state();
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let of = if watches { Of::Watch } else { Of::List };
    let at = kind
        .faults
        .iter()
        .position(|f| f.of == of || f.of == Of::Both)?;
    let fault = &mut kind.faults[at];
    let answer = (fault.status, fault.body.clone());
    if let Some(left) = &mut fault.left {
        *left -= 1;
        if *left == 0 {
            kind.faults.remove(at);
        }
    }
    Some(answer)
}

/// A page of a list. The token names the first object of the next one.
fn list(shared: &Shared, query: &Query<'_>) -> String {
    let mut state = shared.state();
    let version = state.version.to_string();
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let first = query.number("continue").unwrap_or(0) as usize;
    let limit = query.number("limit").map_or(usize::MAX, |l| l as usize);
    let items: Vec<&Value> = kind.objects.values().skip(first).take(limit).collect();
    let next = first + items.len();
    let mut metadata = json!({"resourceVersion": version});
    if next < kind.objects.len() {
        metadata["continue"] = json!(next.to_string());
        metadata["remainingItemCount"] = json!(kind.objects.len() - next);
    }
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
}

/// Events of a kind, until the connection is to break.
fn watch(
    mut stream: &TcpStream,
    shared: &Shared,
    query: &Query<'_>,
    streams: bool,
) -> std::io::Result<bool> {
    let mut state = shared.state();
    let (now, as_event) = (state.version, state.gone_as_event);
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let from = query.number("resourceVersion").unwrap_or(0);
    let resets = kind.resets;
    let mut lines = Vec::new();
    let mut next = kind.compacted;
    if streams {
        lines.extend(kind.objects.values().map(|object| event("ADDED", object)));
        let end = json!({"metadata": {"resourceVersion": now.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
            "kind": "Bookmark", "apiVersion": "v1"});
        lines.push(event("BOOKMARK", &end));
        next += kind.events.len();
    } else if from < kind.oldest {
        drop(state);
        let gone = recorded("errors/watch-410.jsonl");
        if !as_event {
            return write(stream, 410, &recorded("errors/410.json")).map(|()| true);
        }
        write_head(stream)?;
        write_chunk(stream, gone.trim_end())?;
        stream.write_all(b"0\r\n\r\n")?;
        return Ok(true);
    } else {
        next += kind
            .events
            .iter()
            .take_while(|(version, _)| *version <= from)
            .count();
    }
    drop(state);
    write_head(stream)?;
    for line in lines {
        write_chunk(stream, &line)?;
    }
    loop {
        let mut state = shared.state();
        if state.stopped {
            reset(stream)?;
            return Ok(false);
        }
        let kind = state.kinds.entry(query.plural.to_owned()).or_default();
        if kind.resets != resets {
            reset(stream)?;
            return Ok(false);
        }
        let there = kind.compacted + kind.events.len();
        if next >= there {
            drop(shared.changed.wait_timeout(state, LOOK));
            continue;
        }
        let skip = next.saturating_sub(kind.compacted);
        let lines: Vec<String> = kind
            .events
            .iter()
            .skip(skip)
            .map(|(_, l)| l.clone())
            .collect();
        next = there;
        drop(state);
        for line in lines {
            write_chunk(stream, &line)?;
        }
    }
}

fn write(mut stream: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())
}

fn write_head(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
}

/// A line as a chunk of its own.
fn write_chunk(mut stream: &TcpStream, line: &str) -> std::io::Result<()> {
    let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
    stream.write_all(chunk.as_bytes())
}
