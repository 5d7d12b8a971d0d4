// SPDX-License-Identifier: Apache-2.0
//! Carries requests out, one at a time, on a thread of its own: it keeps the switch, the store and the kernel equal to
//! the desired state.

mod change;
mod egress;
mod events;
mod found;
mod guard;
mod guests;
mod health;
mod host;
mod links;
mod neighbors;
mod nics;
mod ports;
mod read;
mod sockets;
mod start;
mod stats;
mod why;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use podswitch_api::desired::{DesiredState, Gateway, Model};
use podswitch_api::method::{BeginParams, BeginResult, Call, Problem, PutResult, VersionResult};
use podswitch_api::object::Kind;
use podswitch_api::rpc::{self, Id};
use podswitch_api::{ErrorCode, PROTOCOL_VERSION, RpcError};
use podswitch_datapath::port::xdp::Refusal;
use podswitch_datapath::switch::{Switch, SwitchError};
use podswitch_datapath::tables::{self, Tables};
use podswitch_host::watch::Event as LinkEvent;
use podswitch_state::config::Config;
use podswitch_state::store::{Store, StoreError};
use podswitch_state::teardown::take_apart;
use serde::Serialize;
use tracing::{debug, error, info, warn};

use crate::kernel::{Kernel, nic};
use crate::names::Names;
use crate::neighbors::service::Report;
use crate::policy::Policies;
use crate::server::{Answer, Answers, ClientId, Job};
use crate::watchdog::Guard;
use health::Pulse;
use neighbors::Neighborhood;
use ports::LivePort;

/// Transactions one client may have open.
const TRANSACTIONS_PER_CLIENT: usize = 4;
/// Transactions all clients together may have open: each may hold as much as the whole desired state.
const TRANSACTIONS: usize = 16;
/// How often what is no longer used is freed.
const TIDY: Duration = Duration::from_secs(1);

/// What wakes the engine.
#[derive(Debug)]
pub enum Task {
    /// From the control socket.
    Job(Job),
    /// From the kernel.
    Link(LinkEvent),
    /// From the links of NICs.
    Report(Report),
    /// From the frontend of this port: it has come, or gone, or its driver is ready.
    Guest(String),
    /// A signal: stop, and leave everything in place.
    Stop,
}

impl From<Job> for Task {
    fn from(job: Job) -> Task {
        Task::Job(job)
    }
}

/// How the engine ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By a signal: programs and interfaces stay, closed, for a successor.
    Stopped,
    /// By `teardown`: nothing is left.
    TornDown,
}

/// A desired state in the making.
struct Transaction {
    kinds: Vec<Kind>,
    generation: Option<u64>,
    state: DesiredState,
}

/// The engine.
pub struct Engine {
    config: Config,
    model: Model,
    store: Store,
    /// Who looks after workers that the host's receive hangs on, while there are any. Before the switch, so that nobody misses workers that are
    /// told to stop.
    guard: Option<Guard>,
    switch: Switch,
    kernel: Kernel,
    names: Names,
    neighborhood: Neighborhood,
    /// Another end of what it is given to do.
    tasks: Sender<Task>,
    policies: Policies,
    ports: BTreeMap<String, LivePort>,
    /// What NICs of ports, and the host, were when they were looked at last.
    nics: BTreeMap<String, nic::Facts>,
    /// How the host's own processes come to ports of the node.
    sockets: sockets::Sockets,
    /// Ports that are gone and could not be removed.
    unremoved: BTreeSet<String>,
    start_problems: Vec<Problem>,
    pulse: Pulse,
    transactions: HashMap<(ClientId, u64), Transaction>,
    next_transaction: u64,
    answers: Answers,
    events: events::Log,
    started: Instant,
    kernel_release: String,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel lacks something.
    #[error(transparent)]
    Kernel(#[from] Refusal),
    /// The stored desired state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored desired state is not right under this configuration.
    #[error(
        "the stored desired state does not fit this configuration: {0}; raise the limit it names, or move state_dir away to start with none"
    )]
    State(RpcError),
    /// The workers.
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

impl Engine {
    /// Starts the workers and puts the stored desired state into force. `tasks` is another end of what [`Engine::run`] is given.
    ///
    /// # Errors
    /// [`EngineError`]; nothing runs then.
    pub fn start(
        config: Config,
        store: Store,
        answers: Answers,
        tasks: Sender<Task>,
    ) -> Result<Engine, EngineError> {
        let probe = crate::probe::run();
        let features = probe.features()?;
        let stored = store.load()?;
        let bounds = config.bounds();
        let model =
            Model::load(stored.state, stored.generation, bounds).map_err(EngineError::State)?;
        let gateway = tables::Gateway {
            mac: podswitch_datapath::wire::MacAddr(bounds.gateway.mac.0),
            v4: bounds.gateway.ipv4,
            v6: bounds.gateway.ipv6,
        };
        let had_ports = !model.state().ports.is_empty();
        let switch = Switch::start(
            start::switch_config(&config, features, had_ports),
            Tables::new(gateway),
        )?;
        let mut engine = Engine {
            neighborhood: Neighborhood::new(tasks.clone(), switch.misses()),
            tasks,
            kernel: Kernel::new(config.xdp.mode),
            start_problems: start::problems(&config),
            pulse: Pulse::default(),
            guard: None,
            policies: Policies::new(config.policy.expect),
            config,
            model,
            store,
            switch,
            names: Names::default(),
            ports: BTreeMap::new(),
            nics: BTreeMap::new(),
            sockets: sockets::Sockets::default(),
            unremoved: BTreeSet::new(),
            transactions: HashMap::new(),
            next_transaction: 0,
            answers,
            events: events::Log::default(),
            started: Instant::now(),
            kernel_release: probe.release,
        };
        engine.restore_ports();
        engine.settle_sockets();
        info!(
            ports = engine.ports.len(),
            generation = engine.model.generation(),
            "the stored desired state is in force"
        );
        Ok(engine)
    }

    /// Serves until it is told to stop.
    pub fn run(mut self, tasks: &Receiver<Task>) -> Ended {
        let mut next = Instant::now() + TIDY;
        let mut look = Instant::now();
        loop {
            // Deadlines, so that one who asks all the time does not put them off.
            let now = Instant::now();
            if now >= next {
                self.tidy();
                next = now + TIDY;
            }
            if self.events.is_followed() && now >= look {
                self.answer_followers();
                look = now + events::LOOK;
            }
            let wake = match self.events.is_followed() {
                true => next.min(look),
                false => next,
            };
            let task = match tasks.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(task) => task,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ended::Stopped,
            };
            match task {
                Task::Job(Job::Call { client, id, call }) => {
                    if matches!(*call, Call::Teardown(_)) {
                        return self.teardown(client, &id);
                    }
                    if let Some(bytes) = self.serve(client, &id, *call) {
                        self.answers.send(Answer::Line { client, bytes });
                    }
                }
                Task::Job(Job::Gone(client)) => {
                    self.transactions.retain(|(c, _), _| *c != client);
                    self.events.forget(client);
                }
                Task::Link(event) => self.link(event),
                Task::Report(report) => self.report(report),
                Task::Guest(port) => self.guest_changed(&port),
                Task::Stop => return Ended::Stopped,
            }
        }
    }

    /// Takes everything apart and answers with what came of it.
    fn teardown(self, client: ClientId, id: &Id) -> Ended {
        info!("taking everything apart");
        let Engine {
            guard,
            switch,
            store,
            config,
            ports,
            kernel,
            answers,
            ..
        } = self;
        drop(guard);
        drop(ports);
        drop(kernel);
        switch.stop();
        let report = take_apart(Some(store), &config);
        for failure in &report.failed {
            error!(
                kind = failure.kind,
                name = failure.name,
                message = failure.message,
                "left behind"
            );
        }
        let bytes = answer(id, &report).unwrap_or_else(|e| failed(id, &e));
        answers.send(Answer::Line { client, bytes });
        Ended::TornDown
    }

    fn tidy(&mut self) {
        self.pulse.feel(&self.switch.workers());
        if let Err(e) = self.switch.tidy() {
            warn!(error = %e, "memory no longer used could not be freed");
        }
        self.settle_guard();
        self.collect_refusals();
        self.retry_removals();
        self.retry_host();
        self.retry_guests();
    }

    /// The answer, if it is not one that comes later.
    fn serve(&mut self, client: ClientId, id: &Id, call: Call) -> Option<Vec<u8>> {
        let name = call.name();
        let before = Instant::now();
        let result = match call {
            Call::Events(p) => self.events(client, id, p),
            call => self.dispatch(client, id, call).map(Some),
        };
        let micros = before.elapsed().as_micros() as u64;
        match result {
            Ok(bytes) => {
                debug!(client = client.0, method = name, micros, "served");
                bytes
            }
            Err(e) => {
                info!(client = client.0, method = name, micros, error = %e, code = e.code, "refused");
                Some(failed(id, &e))
            }
        }
    }

    fn dispatch(&mut self, client: ClientId, id: &Id, call: Call) -> Result<Vec<u8>, RpcError> {
        match call {
            Call::Version(_) => answer(id, &self.version()),
            Call::Apply(p) => answer(id, &self.apply(&p)?),
            Call::Begin(p) => answer(id, &self.begin(client, p)?),
            Call::Put(p) => {
                let bounds = *self.model.bounds();
                let transaction = self.transaction(client, p.transaction)?;
                transaction.put(p.objects, &bounds)?;
                answer(
                    id,
                    &PutResult {
                        objects: transaction.state.len() as u64,
                    },
                )
            }
            Call::Commit(p) => {
                self.transaction(client, p.transaction)?;
                let transaction = self.transactions.remove(&(client, p.transaction));
                let transaction = transaction.ok_or_else(|| unknown_transaction(p.transaction))?;
                answer(id, &self.commit(&transaction)?)
            }
            Call::Abort(p) => {
                self.transaction(client, p.transaction)?;
                self.transactions.remove(&(client, p.transaction));
                answer(id, &podswitch_api::method::AbortResult {})
            }
            Call::Get(p) => answer(id, &self.get(&p)?),
            Call::Stats(p) => answer(id, &self.stats(&p)?),
            Call::Health(_) => answer(id, &self.health()),
            Call::Why(p) => answer(id, &self.why(&p)?),
            Call::Audit(_) => answer(id, &self.audit()?),
            Call::Teardown(_) | Call::Events(_) => Err(RpcError::new(
                ErrorCode::Internal,
                "this is served elsewhere",
            )),
        }
    }

    fn begin(&mut self, client: ClientId, params: BeginParams) -> Result<BeginResult, RpcError> {
        self.model.expect(params.generation)?;
        let clients = self.transactions.keys();
        let open = clients.filter(|(c, _)| *c == client).count();
        if open >= TRANSACTIONS_PER_CLIENT {
            let msg =
                format!("{open} transactions are open on this connection, which is the limit");
            return Err(RpcError::new(ErrorCode::Limit, msg).hint("commit or abort one first"));
        }
        if self.transactions.len() >= TRANSACTIONS {
            let msg = format!("{TRANSACTIONS} transactions are open, which is the limit");
            return Err(RpcError::new(ErrorCode::Busy, msg)
                .hint("try again when another client has committed, or has gone"));
        }
        self.next_transaction += 1;
        let new = Transaction {
            kinds: params.kinds.unwrap_or_else(|| Kind::ALL.to_vec()),
            generation: params.generation,
            state: DesiredState::default(),
        };
        self.transactions
            .insert((client, self.next_transaction), new);
        Ok(BeginResult {
            transaction: self.next_transaction,
            generation: self.model.generation(),
        })
    }

    fn transaction(&mut self, client: ClientId, number: u64) -> Result<&mut Transaction, RpcError> {
        self.transactions
            .get_mut(&(client, number))
            .ok_or_else(|| unknown_transaction(number))
    }

    fn version(&self) -> VersionResult {
        VersionResult {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: self.kernel_release.clone(),
            gateway: self.gateway(),
            mtu: self.config.mtu,
        }
    }

    fn gateway(&self) -> Gateway {
        self.model.bounds().gateway
    }
}

impl Transaction {
    /// Takes a piece in, whole or not at all.
    fn put(
        &mut self,
        objects: Vec<podswitch_api::Object>,
        bounds: &podswitch_api::desired::Bounds,
    ) -> Result<(), RpcError> {
        for object in &objects {
            let kind = object.key().kind();
            if !self.kinds.contains(&kind) {
                let msg = format!(
                    "{} is not of a kind that this transaction replaces",
                    object.key()
                );
                return Err(RpcError::new(ErrorCode::Refused, msg).hint("name its kind in `begin`"));
            }
            podswitch_api::desired::check_object(object, bounds)?;
        }
        let mut put = Vec::new();
        for object in objects {
            let key = object.key();
            if let Err(e) = self.state.insert_new(object) {
                for key in &put {
                    self.state.remove(key);
                }
                return Err(RpcError::new(ErrorCode::Conflict, e.to_string()).about(&key));
            }
            put.push(key);
        }
        let fits = self.state.check_limits(&bounds.limits);
        if fits.is_err() {
            put.iter().for_each(|key| drop(self.state.remove(key)));
        }
        fits
    }
}

fn unknown_transaction(number: u64) -> RpcError {
    RpcError::new(
        ErrorCode::NotFound,
        format!("there is no transaction {number} on this connection"),
    )
    .value(number)
    .hint("open one with `begin`; it is forgotten when its connection closes")
}

fn failed(id: &Id, error: &RpcError) -> Vec<u8> {
    rpc::write_error(Some(id), error)
}

fn answer<R: Serialize>(id: &Id, result: &R) -> Result<Vec<u8>, RpcError> {
    rpc::write_result(id, result).map_err(|e| {
        error!(error = %e, "an answer could not be written");
        RpcError::new(
            ErrorCode::Internal,
            format!("the answer could not be written: {e}"),
        )
    })
}
