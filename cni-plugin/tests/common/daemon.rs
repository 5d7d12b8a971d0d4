// SPDX-License-Identifier: Apache-2.0
//! A daemon that speaks the control protocol, keeps its rules, remembers what it was asked, and fails when told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use podswitch_api::desired::{Bounds, Model, Query};
use podswitch_api::method::{
    ApplyResult, Call, Entry, GetResult, HealthResult, HealthStatus, PortState, PortStatus,
    Problem, Severity, Status, VersionResult,
};
use podswitch_api::object::Port;
use podswitch_api::rpc::{self, Id};
use podswitch_api::{ErrorCode, Kind, Object, RpcError};

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It is refused with this code, and nothing is done.
    Refuse(ErrorCode),
    /// The connection is closed, and nothing is done.
    Close,
    /// It is carried out, then the connection is closed without an answer.
    CloseAfter,
}

type Hook = Box<dyn FnOnce() + Send>;

struct State {
    model: Model,
    asked: Vec<Call>,
    faults: HashMap<&'static str, (Fault, bool)>,
    hooks: HashMap<&'static str, Hook>,
    health: HealthStatus,
    /// State of every port: this one the first times it is asked for, then up.
    not_up: Option<(PortState, u32)>,
    mtu: u32,
    stopping: bool,
}

/// The daemon. Dropping it closes its socket and ends its threads.
pub struct Daemon {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start(socket: &Path) -> Daemon {
        let state = State {
            model: Model::new(Bounds::default()),
            asked: Vec::new(),
            faults: HashMap::new(),
            hooks: HashMap::new(),
            health: HealthStatus::Ok,
            not_up: None,
            mtu: 1500,
            stopping: false,
        };
        let mut daemon = Daemon {
            state: Arc::new(Mutex::new(state)),
            socket: socket.to_owned(),
            thread: None,
        };
        daemon.listen();
        daemon
    }

    /// Listens (again); what it knows is as before.
    pub fn listen(&mut self) {
        self.lock().stopping = false;
        let listener = UnixListener::bind(&self.socket).unwrap();
        let state = Arc::clone(&self.state);
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.lock().unwrap().stopping {
                    return;
                }
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(&state, stream.unwrap()));
            }
        }));
    }

    /// Goes away; ports stay, as a stored desired state does.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.lock().stopping = true;
        drop(UnixStream::connect(&self.socket));
        thread.join().unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets every call of a method go wrong until [`Daemon::heal`].
    pub fn break_method(&self, method: &'static str, fault: Fault) {
        self.lock().faults.insert(method, (fault, false));
    }

    /// Lets the next call of a method go wrong.
    pub fn break_once(&self, method: &'static str, fault: Fault) {
        self.lock().faults.insert(method, (fault, true));
    }

    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Runs this once, when the method is called next and before anything is done.
    pub fn before(&self, method: &'static str, hook: impl FnOnce() + Send + 'static) {
        self.lock().hooks.insert(method, Box::new(hook));
    }

    pub fn set_health(&self, health: HealthStatus) {
        self.lock().health = health;
    }

    pub fn set_mtu(&self, mtu: u32) {
        self.lock().mtu = mtu;
    }

    /// Ports are in this state the next so many times they are asked for.
    pub fn set_not_up(&self, state: PortState, times: u32) {
        self.lock().not_up = Some((state, times));
    }

    /// Changes the desired state from elsewhere.
    pub fn apply(&self, changes: &[podswitch_api::method::Change]) {
        self.lock().model.apply(changes).unwrap();
    }

    pub fn ports(&self) -> Vec<Port> {
        let state = self.lock();
        let objects = state.model.state().objects(Kind::Port);
        objects
            .filter_map(|o| match o {
                Object::Port(p) => Some(*p),
                _ => None,
            })
            .collect()
    }

    /// Names of the methods called since this was asked last.
    pub fn asked(&self) -> Vec<&'static str> {
        self.lock().asked.drain(..).map(|c| c.name()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(state: &Mutex<State>, stream: UnixStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    let mut line = Vec::new();
    while let Ok(1..) = reader.read_until(b'\n', &mut line) {
        let request = rpc::parse_request(line.strip_suffix(b"\n").unwrap_or(&line)).unwrap();
        line.clear();
        let hook = {
            let mut state = state.lock().unwrap();
            state.asked.push(request.call.clone());
            state.hooks.remove(request.call.name())
        };
        if let Some(hook) = hook {
            hook();
        }
        let Some(answer) = state.lock().unwrap().answer(&request.id, &request.call) else {
            return;
        };
        if writer.write_all(&answer).is_err() {
            return;
        }
    }
}

impl State {
    /// The line to answer, or none: the connection is closed then.
    fn answer(&mut self, id: &Id, call: &Call) -> Option<Vec<u8>> {
        let fault = self.faults.get(call.name()).copied();
        if fault.is_some_and(|(_, once)| once) {
            self.faults.remove(call.name());
        }
        let fault = fault.map(|(fault, _)| fault);
        if fault == Some(Fault::Close) {
            return None;
        }
        let result = match fault {
            Some(Fault::Refuse(code)) => Err(RpcError::new(code, "told to refuse")),
            _ => self.carry_out(id, call),
        };
        match fault {
            Some(Fault::CloseAfter) => None,
            _ => Some(result.unwrap_or_else(|e| rpc::write_error(Some(id), &e))),
        }
    }

    fn carry_out(&mut self, id: &Id, call: &Call) -> Result<Vec<u8>, RpcError> {
        Ok(match call {
            Call::Version(_) => rpc::write_result(id, &self.version()),
            Call::Health(_) => rpc::write_result(id, &self.health()),
            Call::Apply(params) => {
                let applied = self.model.apply(&params.changes)?;
                let result = ApplyResult {
                    generation: applied.generation,
                    changed: applied.delta.len() as u64,
                };
                rpc::write_result(id, &result)
            }
            Call::Get(params) => {
                let page = Query::new(params)?.run(self.model.state());
                let status = self.port_status();
                let entry = |object| Entry {
                    object,
                    status: Some(Status::Port(status.clone())),
                };
                let result = GetResult {
                    generation: self.model.generation(),
                    objects: page.objects.into_iter().map(entry).collect(),
                    resume: page.resume,
                };
                rpc::write_result(id, &result)
            }
            other => panic!("the plugin has no business with {}", other.name()),
        }
        .unwrap())
    }

    fn version(&self) -> VersionResult {
        VersionResult {
            version: "0.0.0".into(),
            protocol: podswitch_api::PROTOCOL_VERSION,
            pid: std::process::id(),
            uptime_seconds: 0,
            kernel: "test".into(),
            gateway: self.model.bounds().gateway,
            mtu: self.mtu,
        }
    }

    fn health(&self) -> HealthResult {
        let problem = Problem {
            severity: Severity::Error,
            subject: "worker 0".into(),
            message: "is gone".into(),
            hint: None,
        };
        HealthResult {
            status: self.health,
            version: "0.0.0".into(),
            uptime_seconds: 0,
            generation: 0,
            workers: Vec::new(),
            ports_up: 0,
            ports: 0,
            problems: match self.health {
                HealthStatus::Ok => Vec::new(),
                _ => vec![problem],
            },
        }
    }

    fn port_status(&mut self) -> PortStatus {
        let state = match &mut self.not_up {
            Some((state, times)) if *times > 0 => {
                *times -= 1;
                *state
            }
            _ => PortState::Up,
        };
        PortStatus {
            state,
            id: 0,
            worker: 0,
            mtu: self.mtu,
            mode: None,
            ifindex: None,
            message: (state == PortState::Faulted).then(|| "the device failed".into()),
            features: Vec::new(),
            queues: Vec::new(),
            addresses: Vec::new(),
            on_host: Vec::new(),
        }
    }
}
