// SPDX-License-Identifier: Apache-2.0
//! The control socket: a mio loop that reads request lines, hands them to the engine on its own thread, and writes the
//! answers. A slow, silent or dead client costs its own buffers, which are bounded, and nobody else's time.

mod connection;
mod listener;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use podswitch_api::method::Call;
use podswitch_api::rpc::{self, Id};
use podswitch_api::{ErrorCode, RpcError};
use tracing::{debug, info, warn};

use connection::{Connection, Event};
pub use listener::{Access, ListenError, Listener};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_CLIENT: usize = 2;
/// A client that owes the rest of a line or does not take its answer is given up after this long.
const STALL: Duration = Duration::from_secs(30);
/// How often stalled clients are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// One client's connection, never reused in one run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientId(pub u64);

/// What the server tells the engine.
#[derive(Debug)]
pub enum Job {
    /// Serve this and answer.
    Call {
        /// Who asks.
        client: ClientId,
        /// Under which id to answer.
        id: Id,
        /// What.
        call: Box<Call>,
    },
    /// The client has gone; its transactions go with it.
    Gone(ClientId),
}

/// What the engine tells the server.
#[derive(Debug)]
pub enum Answer {
    /// A whole response line.
    Line {
        /// For whom.
        client: ClientId,
        /// With its line feed.
        bytes: Vec<u8>,
    },
    /// Stop serving; answers queued before are still written.
    Stop,
}

/// How much clients may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Connections at one time.
    pub clients: usize,
    /// Bytes of a request line.
    pub request_bytes: usize,
}

impl Bounds {
    /// Bytes that all clients together may hold in buffers.
    fn total(&self) -> usize {
        self.request_bytes.saturating_mul(4).max(64 << 20)
    }
}

/// Lets the engine's thread answer and wake the loop.
#[derive(Clone)]
pub struct Answers {
    sender: Sender<Answer>,
    waker: Arc<Waker>,
}

impl Answers {
    /// Hands an answer over. The server gone means that the process is ending; nobody waits for it then.
    pub fn send(&self, answer: Answer) {
        if self.sender.send(answer).is_ok()
            && let Err(e) = self.waker.wake()
        {
            warn!(error = %e, "the control socket's loop could not be woken");
        }
    }
}

/// The loop.
pub struct Server {
    poll: Poll,
    listener: Listener,
    bounds: Bounds,
    clients: HashMap<u64, Connection>,
    next: u64,
    jobs: Jobs,
    answers: Receiver<Answer>,
}

/// Hands a job to the engine; false when the engine has gone.
pub type Jobs = Box<dyn FnMut(Job) -> bool + Send>;

impl Server {
    /// A server on a socket that listens already, and the engine's way to answer.
    ///
    /// # Errors
    /// What epoll said.
    pub fn new(
        mut listener: Listener,
        bounds: Bounds,
        jobs: Jobs,
    ) -> io::Result<(Server, Answers)> {
        let poll = Poll::new()?;
        poll.registry()
            .register(listener.source(), LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, answers) = std::sync::mpsc::channel();
        let server = Server {
            poll,
            listener,
            bounds,
            clients: HashMap::new(),
            next: 0,
            jobs,
            answers,
        };
        Ok((server, Answers { sender, waker }))
    }

    /// Serves until the engine says stop.
    ///
    /// # Errors
    /// What epoll said; a client's failure is never the server's.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(128);
        let mut swept = Instant::now();
        loop {
            match self.poll.poll(&mut events, Some(SWEEP)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    WAKER => {}
                    Token(t) => self.serve((t - FIRST_CLIENT) as u64, now),
                }
            }
            if !self.deliver(now) {
                return Ok(());
            }
            if now.duration_since(swept) >= SWEEP {
                swept = now;
                self.sweep(now);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        loop {
            let stream = match self.listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(e) => {
                    // Descriptors may have run out; the backlog waits, existing clients go on.
                    warn!(error = %e, "accepting a client failed");
                    return;
                }
            };
            let refusal = match self.listener.check_peer(&stream) {
                Err(why) => Some(
                    RpcError::new(ErrorCode::Permission, why)
                        .hint("run as root or as a member of socket_group"),
                ),
                Ok(()) if self.clients.len() >= self.bounds.clients => {
                    let msg = format!(
                        "{} clients are connected, which is the limit",
                        self.clients.len()
                    );
                    Some(
                        RpcError::new(ErrorCode::Busy, msg)
                            .hint("try again, or raise limits.clients in the configuration"),
                    )
                }
                Ok(()) => None,
            };
            let id = self.next;
            self.next += 1;
            let mut connection = Connection::new(stream, now);
            let token = Token(id as usize + FIRST_CLIENT);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(e) = self
                .poll
                .registry()
                .register(&mut connection.stream, token, interest)
            {
                warn!(error = %e, "watching a client failed");
                continue;
            }
            if let Some(error) = refusal {
                info!(error = %error, "client refused");
                connection.answer(&rpc::write_error(None, &error), now);
                connection.closing = true;
                connection.write(now);
                self.forget(connection);
                continue;
            }
            debug!(client = id, "client connected");
            self.clients.insert(id, connection);
            self.serve(id, now);
        }
    }

    /// Reads, takes requests out, writes.
    fn serve(&mut self, id: u64, now: Instant) {
        let held: usize = self.clients.values().map(Connection::held).sum();
        let Some(c) = self.clients.get_mut(&id) else {
            return;
        };
        let event = c.read(self.bounds.request_bytes, now);
        let refused = match event {
            Event::Closed => return self.close(id, "closed by the client"),
            Event::TooLong => Some(
                RpcError::new(ErrorCode::TooLarge, format!("the request is longer than {} bytes", self.bounds.request_bytes))
                    .hint("send large states in pieces with begin, put and commit, or raise limits.request_bytes"),
            ),
            Event::Pending if held > self.bounds.total() => {
                Some(RpcError::new(ErrorCode::Busy, "clients together hold too many bytes of unfinished requests").hint("try again"))
            }
            Event::Pending => None,
        };
        if let Some(error) = refused
            && !c.closing
        {
            c.discard_input();
            c.closing = true;
            c.answer(&rpc::write_error(None, &error), now);
        }
        self.step(id, now);
    }

    /// Gives the engine the client's next request when it has none there, and writes what waits.
    fn step(&mut self, id: u64, now: Instant) {
        let Some(c) = self.clients.get_mut(&id) else {
            return;
        };
        while !c.busy && !c.closing {
            let Some(line) = c.next_line() else { break };
            if line.len() > self.bounds.request_bytes {
                let msg = format!(
                    "the request is longer than {} bytes",
                    self.bounds.request_bytes
                );
                c.answer(
                    &rpc::write_error(None, &RpcError::new(ErrorCode::TooLarge, msg)),
                    now,
                );
                c.closing = true;
                break;
            }
            match rpc::parse_request(&line) {
                Ok(request) => {
                    c.busy = true;
                    let job = Job::Call {
                        client: ClientId(id),
                        id: request.id,
                        call: Box::new(request.call),
                    };
                    if !(self.jobs)(job) {
                        c.closing = true;
                    }
                }
                Err(bad) => c.answer(&rpc::write_error(bad.id.as_ref(), &bad.error), now),
            }
        }
        if !c.write(now) {
            self.close(id, "done");
        }
    }

    /// Writes what the engine answered. False when it said stop.
    fn deliver(&mut self, now: Instant) -> bool {
        loop {
            match self.answers.try_recv() {
                Ok(Answer::Line { client, bytes }) => {
                    if let Some(c) = self.clients.get_mut(&client.0) {
                        c.busy = false;
                        c.answer(&bytes, now);
                        // More of its requests may have been read meanwhile.
                        self.serve(client.0, now);
                    }
                }
                Ok(Answer::Stop) => return false,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        let stalled = |c: &Connection| c.owes() && now.duration_since(c.progress()) >= STALL;
        let ids: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| stalled(c))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            info!(
                client = id,
                seconds = STALL.as_secs(),
                "client stalled in the middle of a request or answer"
            );
            self.close(id, "stalled");
        }
    }

    fn close(&mut self, id: u64, why: &str) {
        if let Some(connection) = self.clients.remove(&id) {
            debug!(client = id, why, "client gone");
            self.forget(connection);
            // The engine gone means that the process is ending.
            (self.jobs)(Job::Gone(ClientId(id)));
        }
    }

    fn forget(&self, mut connection: Connection) {
        if let Err(e) = self.poll.registry().deregister(&mut connection.stream) {
            debug!(error = %e, "a closed client could not be unwatched");
        }
    }
}
