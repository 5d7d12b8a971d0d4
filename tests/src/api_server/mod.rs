// SPDX-License-Identifier: Apache-2.0
//! A Kubernetes API server as far as an agent sees one: lists with pages, watches with bookmarks, and every way in which they fail. It answers over HTTP with
//! what a real one was recorded to answer, from objects that the test sets.

mod serve;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::netns::Netns;

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
        self.accepting = Some(std::thread::spawn(move || {
            serve::accept(&listener, &shared)
        }));
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
