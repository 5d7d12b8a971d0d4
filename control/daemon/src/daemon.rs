// SPDX-License-Identifier: Apache-2.0
//! Puts the parts together, runs them, and takes them down in order.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use podswitch_host::watch::{Topic, Watch};
use podswitch_state::config::Config;
use podswitch_state::store::Store;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::engine::{Ended, Engine, Task};
use crate::server::{Access, Answer, Bounds, Listener, Server};

/// A client that leaves a line unfinished or an answer unread is given up after this long.
const STALL: Duration = Duration::from_secs(30);
/// A client that asked nothing for this long gives way to a new one when there is no room.
const IDLE: Duration = Duration::from_secs(1);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control socket.
    #[error(transparent)]
    Listen(#[from] crate::server::ListenError),
    /// The stored desired state.
    #[error(transparent)]
    Store(#[from] podswitch_state::store::StoreError),
    /// The engine: memory, programs, workers.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// Something of the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thing of Linux.
    #[error(transparent)]
    Host(#[from] podswitch_host::Error),
}

/// What this machine lacks of what the configuration wants; one sentence each, naming key and value.
pub fn check_machine(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    match podswitch_host::probe::online_cpus() {
        Ok(online) => {
            let missing = config
                .workers
                .iter()
                .filter(|core| !online.contains(&(**core as usize)));
            problems.extend(missing.map(|core| {
                format!("workers: core {core} is not online; this machine has {online:?}")
            }));
        }
        Err(e) => problems.push(format!("workers: the online cores are not known: {e}")),
    }
    if let Some(group) = &config.socket_group
        && group_id(group).is_none()
    {
        problems.push(format!(
            "socket_group: there is no group \"{group}\" in /etc/group; create it with groupadd"
        ));
    }
    problems
}

/// A group by number or by its name in /etc/group (group(5)).
fn group_id(group: &str) -> Option<u32> {
    if let Ok(id) = group.parse() {
        return Some(id);
    }
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// Runs until a signal or `teardown` ends it.
///
/// # Errors
/// [`StartError`]; once everything runs, nothing but a failure of epoll ends it with an error.
pub fn run(config: Config) -> Result<(), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    raise_descriptors();
    // The store comes first: its lock is what keeps two daemons apart.
    let store = Store::open(&config.state_dir)?;
    let access = Access {
        mode: config.socket_mode.0,
        group: config.socket_group.as_deref().and_then(group_id),
    };
    let listener = Listener::bind(&config.socket, access)?;
    let (tasks, inbox) = channel();
    watch_links(tasks.clone())?;
    watch_signals(tasks.clone()).map_err(system("signals"))?;
    let bounds = Bounds {
        clients: config.limits.clients as usize,
        request_bytes: config.limits.request_bytes as usize,
        stall: STALL,
        idle: IDLE,
    };
    let jobs = tasks.clone();
    let (server, answers) = Server::new(
        listener,
        bounds,
        Box::new(move |job| jobs.send(Task::Job(job)).is_ok()),
    )
    .map_err(system("control socket"))?;
    let socket = config.socket.clone();
    let stop = answers.clone();
    let engine = Engine::start(config, store, answers, tasks)?;
    let thread = thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let ended = engine.run(&inbox);
            stop.send(Answer::Stop);
            ended
        })
        .map_err(system("engine thread"))?;
    info!(socket = %socket.display(), pid = std::process::id(), "podswitchd is ready");
    let served = server.run().map_err(system("control socket"));
    match thread.join() {
        Ok(Ended::Stopped) => {
            info!("stopped; ports stay in place, closed, for the next podswitchd")
        }
        Ok(Ended::TornDown) => info!("everything is taken apart"),
        Err(_) => error!("the engine panicked; ports stay in place, closed"),
    }
    served
}

/// Allows this process as many descriptors as it may have (getrlimit(2)); what is usual was chosen for select(2), which
/// nothing here uses. Whether that is enough is said with the other problems of the machine.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        warn!(error = %e, "the limit of open files could not be raised");
    }
}

fn watch_links(tasks: Sender<Task>) -> Result<(), StartError> {
    let mut watch = Watch::open(&[Topic::Links, Topic::Addresses])?;
    let run = move || {
        loop {
            let mut fds = [rustix::event::PollFd::new(
                &watch,
                rustix::event::PollFlags::IN,
            )];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return warn!(error = %e, "links are no longer watched"),
            }
            let mut open = true;
            let drained = watch.drain(|event| open &= tasks.send(Task::Link(event)).is_ok());
            if let Err(e) = drained {
                return warn!(error = %e, "links are no longer watched");
            }
            if !open {
                return;
            }
        }
    };
    spawn("links", run)
}

fn watch_signals(tasks: Sender<Task>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                info!(signal, "asked to stop");
                if tasks.send(Task::Stop).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|source| StartError::System {
            what: "thread",
            source,
        })
}
