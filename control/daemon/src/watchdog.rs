// SPDX-License-Identifier: Apache-2.0
//! Ends podswitchd when a worker stops that the host's receive hangs on: one that serves queues in zero-copy mode.
//!
//! What a NIC receives by such a queue waits for chunks, also what is the host's, and chunks come from the worker alone. The kernel gives the
//! queue back to the host when its socket is closed, and closes it when the process ends, however that ends. A process that is stopped
//! or hangs does not end, so another one ends it: `podswitchd --watchdog`, which reads a byte from its standard input for each sign
//! of life. In the daemon a thread ([`Guard`]) gives one when all those workers have taken a turn since the last time, so that it stays
//! out when a worker hangs, when that thread does, and when the process is stopped.
//!
//! The watchdog counts its own waits, not time: a machine that was suspended, or a group of processes that was frozen with it in it, costs
//! one wait. It ends when its input does, which is when the daemon ends, and has nothing else of the daemon's.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use podswitch_datapath::WorkerId;
use podswitch_datapath::switch::Heartbeat;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{error, info, warn};

/// Signs of life, and waits of the watchdog, in the time after which it ends the daemon.
const BEATS: u32 = 4;

/// Why a watch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The daemon has ended, or needs it no more.
    Closed,
    /// There was no sign of life for as many waits as there may be.
    Silent,
}

/// The watchdog's process: ends its parent when there is no sign of life on standard input for `limit`.
pub fn run(limit: Duration) -> ExitCode {
    let name = "podswitchd --watchdog";
    // Who stops a service asks all of its processes to end; this one ends after the daemon.
    for signal in [SIGTERM, SIGINT] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))) {
            eprintln!("{name}: {e}");
        }
    }
    let parent = getppid();
    let opened = parent.map(|parent| pidfd_open(parent, PidfdFlags::empty()));
    // A parent that has ended before that has another process as its successor; then the input has ended, too.
    let (Some(Ok(daemon)), true) = (opened, getppid() == parent) else {
        eprintln!("{name}: there is no daemon; podswitchd starts it by itself");
        return ExitCode::FAILURE;
    };
    match watch(io::stdin(), limit / BEATS) {
        Ok(End::Closed) => ExitCode::SUCCESS,
        Ok(End::Silent) => {
            eprintln!(
                "{name}: a worker that serves queues in zero-copy mode has not run for {} ms: ending podswitchd, so that the NIC's \
                 queues are the host's again (xdp.watchdog_ms)",
                limit.as_millis()
            );
            match pidfd_send_signal(&daemon, Signal::KILL) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    eprintln!("{name}: podswitchd could not be ended: {e}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(e) => {
            eprintln!("{name}: standard input: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for bytes, `every` long each time.
fn watch(mut input: impl Read + AsFd, every: Duration) -> io::Result<End> {
    let timeout = Timespec::try_from(every).map_err(io::Error::other)?;
    let mut silent = 0;
    while silent < BEATS {
        let mut fds = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => silent += 1,
            Ok(_) => match input.read(&mut [0; 64])? {
                0 => return Ok(End::Closed),
                _ => silent = 0,
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(End::Silent)
}

/// Has workers watched, as long as it lives.
#[derive(Debug)]
pub struct Guard {
    workers: BTreeSet<WorkerId>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts the watchdog, which ends this process when one of `workers` has taken no turn for `limit`.
    ///
    /// # Errors
    /// When it could not be started. [`io::ErrorKind::Unsupported`] as process 1 of a PID namespace, which nobody within it can end.
    pub fn start(workers: Vec<(WorkerId, Heartbeat)>, limit: Duration) -> io::Result<Guard> {
        if std::process::id() == 1 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "podswitchd is process 1 of its PID namespace, which no other process there can end",
            ));
        }
        let watchdog = Watchdog::start(limit)?;
        let (stop, stopped) = channel();
        let (ids, beats): (BTreeSet<_>, Vec<_>) = workers.into_iter().unzip();
        let thread = std::thread::Builder::new().name("watchdog".into());
        let thread = thread.spawn(move || feed(watchdog, &beats, limit, &stopped))?;
        info!(limit_ms = limit.as_millis() as u64, workers = ?ids, "the workers of queues in zero-copy mode are watched");
        Ok(Guard {
            workers: ids,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whom it has watched.
    pub fn workers(&self) -> &BTreeSet<WorkerId> {
        &self.workers
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Gives signs of life until told to stop.
fn feed(mut watchdog: Watchdog, workers: &[Heartbeat], limit: Duration, stopped: &Receiver<()>) {
    let mut seen = vec![None; workers.len()];
    loop {
        let mut alive = true;
        for (seen, worker) in seen.iter_mut().zip(workers) {
            let turns = Some(worker.turns());
            alive &= *seen != turns;
            *seen = turns;
            // One that sleeps shows until the next time that it can run.
            worker.wake();
        }
        if alive && let Err(e) = watchdog.beat() {
            warn!(error = %e, "the watchdog has ended or is stopped; it is started anew");
            watchdog.end();
            watchdog = match Watchdog::start(limit) {
                Ok(new) => new,
                Err(e) => return error!(error = %e, "the watchdog could not be started anew"),
            };
        }
        match stopped.recv_timeout(limit / BEATS) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return watchdog.end(),
        }
    }
}

/// The watchdog's process, from the daemon's side.
struct Watchdog {
    process: Child,
    input: ChildStdin,
}

impl Watchdog {
    fn start(limit: Duration) -> io::Result<Watchdog> {
        // This program, also if another one has been installed in its place.
        let mut process = Command::new("/proc/self/exe")
            .arg("--watchdog")
            .arg(limit.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A terminal's stop is for the daemon.
            .process_group(0)
            .spawn()?;
        let input = process.stdin.take();
        let input = input.ok_or_else(|| io::Error::other("it has no standard input"))?;
        // One that is stopped itself does not stop whoever feeds it.
        rustix::io::ioctl_fionbio(&input, true)?;
        Ok(Watchdog { process, input })
    }

    fn beat(&mut self) -> io::Result<()> {
        self.input.write_all(&[1])
    }

    /// Ends it, and leaves no zombie.
    fn end(mut self) {
        drop(self.input);
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(e) = ended {
            warn!(error = %e, "the watchdog was not ended in order");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_its_input() {
        let (reader, writer) = io::pipe().unwrap();
        let watching = std::thread::spawn(move || watch(reader, Duration::from_secs(60)));
        (&writer).write_all(&[1, 1]).unwrap();
        drop(writer);
        assert_eq!(watching.join().unwrap().unwrap(), End::Closed);
    }

    #[test]
    fn bytes_put_the_end_off_and_waits_without_any_bring_it() {
        let (reader, writer) = io::pipe().unwrap();
        let every = Duration::from_millis(200);
        let begun = std::time::Instant::now();
        let watching = std::thread::spawn(move || watch(reader, every));
        for _ in 0..8 {
            std::thread::sleep(every / 2);
            (&writer).write_all(&[1]).unwrap();
        }
        assert!(!watching.is_finished());
        assert_eq!(watching.join().unwrap().unwrap(), End::Silent);
        assert!(begun.elapsed() >= 4 * every + BEATS * every);
    }
}
