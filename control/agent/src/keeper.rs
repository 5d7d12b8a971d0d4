// SPDX-License-Identifier: Apache-2.0
//! The thread that owns the core and the connection to podswitchd: it hears what the API says, and has the daemon's state follow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podswitch_api::client::ClientError;
use podswitch_api::object::NamespacedName;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

use crate::config::Config;
use crate::conflist;
use crate::core::{Complaint, Core, Input, Mode, Source, Translator};
use crate::daemon::{Daemon, Said};
use crate::link;
use crate::metrics::Metrics;
use crate::watch::Backoff;

/// What comes within this time goes to the daemon together.
const BATCH: Duration = Duration::from_millis(5);
/// How often is looked whether the daemon is still the one it was.
const LOOK: Duration = Duration::from_secs(1);
/// How often the NIC is looked at, and what the daemon refused of the agent's own is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The thread's state.
#[derive(Debug)]
pub struct Keeper {
    core: Core,
    daemon: Daemon,
    config: Config,
    metrics: Arc<Metrics>,
    complaints: Sender<Complaint>,
    backoff: Backoff,
    /// No call before.
    not_before: Instant,
    /// The last call that was answered.
    called: Instant,
    /// The last time that the NIC was looked at.
    retried: Option<Instant>,
    /// The last time that the network configuration was looked at.
    written: Option<Instant>,
    said: Said,
}

impl Keeper {
    /// For the node of this name. What is to be said about objects goes to `complaints`, as long as there is room.
    pub fn new(
        config: Config,
        node: String,
        metrics: Arc<Metrics>,
        complaints: Sender<Complaint>,
        translator: Box<dyn Translator>,
    ) -> Keeper {
        let now = Instant::now();
        Keeper {
            core: Core::new(config.ways(node), translator),
            daemon: Daemon::new(config.socket.clone(), metrics.clone()),
            config,
            metrics,
            complaints,
            backoff: Backoff::new(),
            not_before: now,
            called: now,
            retried: None,
            written: None,
            said: Said::default(),
        }
    }

    /// Works until nobody sends any more.
    pub fn run(mut self, mut inputs: Receiver<Input>, runtime: &Handle) {
        loop {
            match runtime.block_on(async { timeout(self.wait(), inputs.recv()).await }) {
                Ok(Some(input)) => {
                    self.input(input);
                    self.gather(&mut inputs, runtime);
                }
                Ok(None) => return,
                Err(_) => {}
            }
            self.turn();
        }
    }

    /// Everything that comes within a moment.
    fn gather(&mut self, inputs: &mut Receiver<Input>, runtime: &Handle) {
        let end = Instant::now() + BATCH;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let more = runtime.block_on(async { timeout(left, inputs.recv()).await });
            match more {
                Ok(Some(input)) if !left.is_zero() => self.input(input),
                Ok(Some(input)) => return self.input(input),
                _ => return,
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.core.input(input);
    }

    /// How long there is nothing to do, if nothing comes.
    fn wait(&self) -> Duration {
        if !self.core.is_complete() {
            return LOOK;
        }
        let next = match self.daemon.is_connected() {
            true => self.not_before.max(self.called + LOOK),
            false => self.not_before,
        };
        let wait = next.saturating_duration_since(Instant::now());
        wait.clamp(Duration::from_millis(1), LOOK)
    }

    fn turn(&mut self) {
        self.complain();
        if !self.core.is_complete() || Instant::now() < self.not_before {
            return;
        }
        self.retry();
        match self.sync() {
            Ok(()) => {
                self.backoff.reset();
                self.said.clear();
                self.called = Instant::now();
                self.core.settled();
                // What may not be read may be what closes pods to others.
                let whole = self.core.forbidden().next().is_none();
                self.metrics.synced(self.core.refused(), whole);
                if self.metrics.is_ready() {
                    self.conflist();
                }
            }
            Err(error) => self.failed(&error),
        }
        self.complain();
    }

    fn sync(&mut self) -> Result<(), ClientError> {
        if !self.daemon.is_connected() {
            self.daemon.connect()?;
            self.core.lost();
        }
        if self.core.is_whole() {
            self.daemon.replace(&mut self.core)?;
            self.core.replaced();
            return Ok(());
        }
        if self.core.ports_due() {
            self.daemon.ports(&mut self.core)?;
        }
        if self.daemon.apply(&mut self.core)? == 0 && self.called.elapsed() >= LOOK {
            self.daemon.look()?;
        }
        Ok(())
    }

    fn failed(&mut self, error: &ClientError) {
        self.daemon.failed(error);
        // What was under way, nobody knows.
        self.core.lost();
        self.not_before = Instant::now() + self.backoff.pause();
        let text = error.to_string();
        if self.said.anew(&text) {
            tracing::warn!(
                error = text,
                "podswitchd has not got the cluster's state; tried again"
            );
        }
    }

    /// What may be there now that was not before.
    fn retry(&mut self) {
        let due = self.retried.is_none_or(|at| at.elapsed() >= RETRY);
        if self.config.nodes.mode == Mode::None || !due {
            return;
        }
        self.retried = Some(Instant::now());
        match link::find(self.config.nodes.interface.as_deref()) {
            Ok(Some(link)) => self.core.set_link(Some(link)),
            Ok(None) => {
                let text = "there is no default route, and nodes.interface names no NIC: no ways to other nodes are made";
                if self.said.anew(text) {
                    tracing::warn!("{text}");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if self.said.anew(&text) {
                    tracing::warn!(error = text, "the node's NIC is not known");
                }
            }
        }
        self.core.retry();
    }

    fn complain(&mut self) {
        for complaint in self.core.complaints() {
            let NamespacedName { namespace, name } = &complaint.name;
            tracing::warn!(
                kind = complaint.source.map(Source::kind),
                namespace,
                name,
                field = complaint.field,
                closed = complaint.closed,
                "{}",
                complaint.message
            );
            // More than there is room for are in the log alone.
            let _ = self.complaints.try_send(complaint);
        }
        for source in Source::ALL {
            self.metrics.objects(source, self.core.count(source));
        }
    }

    /// The node is ready for pods, and stays so if somebody removes the file.
    fn conflist(&mut self) {
        let due = self.written.is_none_or(|at| at.elapsed() >= RETRY);
        let Some(cni) = self.config.cni.as_ref().filter(|_| due) else {
            return;
        };
        self.written = Some(Instant::now());
        match conflist::write(cni, self.core.own_pods()) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(dir = %cni.dir.display(), name = cni.name, "the network configuration is written")
            }
            Err(error) => {
                let text = error.to_string();
                if self.said.anew(&text) {
                    tracing::error!(error = text, "the network configuration is not written");
                }
            }
        }
    }
}
