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

use mio::net::UnixStream;
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
/// Bytes of a client's lines, and of the errors they are answered with, before the others have their turn. One line may
/// be longer.
const TAKEN_PER_TURN: usize = 64 << 10;
/// New clients taken in before the others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// A client that holds no more bytes is served also when the others hold too many.
const SMALL: usize = 64 << 10;

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
    /// A client that owes the rest of a line, or does not take its answer, is given up after this long.
    pub stall: Duration,
    /// One that has asked nothing for this long gives way to a new one when there is no room.
    pub idle: Duration,
}

impl Bounds {
    /// Bytes that all clients together may hold in buffers.
    fn total(&self) -> usize {
        self.request_bytes.saturating_mul(4).max(64 << 20)
    }

    /// How often stalled clients are looked for.
    fn sweep(&self) -> Duration {
        self.stall / 6
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
    /// Clients to be served in the next turn.
    ready: Vec<u64>,
    /// There may be clients to be taken in.
    waiting: bool,
    jobs: Jobs,
    answers: Receiver<Answer>,
    /// Held, as what it was woken by last is lost when nobody has it any more.
    _waker: Arc<Waker>,
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
            ready: Vec::new(),
            waiting: false,
            jobs,
            answers,
            _waker: waker.clone(),
        };
        Ok((server, Answers { sender, waker }))
    }

    /// Serves until the engine says stop. Every turn of the loop does a bounded piece of work for each client, so that
    /// one with much to do waits for itself alone.
    ///
    /// # Errors
    /// What epoll said; a client's failure is never the server's.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(128);
        let mut swept = Instant::now();
        loop {
            let wait = if self.ready.is_empty() && !self.waiting {
                self.bounds.sweep()
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.waiting = true,
                    WAKER => {}
                    Token(t) => {
                        let id = (t - FIRST_CLIENT) as u64;
                        if let Some(c) = self.clients.get_mut(&id) {
                            c.may_read();
                        }
                        self.queue(id);
                    }
                }
            }
            if self.waiting {
                self.waiting = self.accept(now);
            }
            let stop = self.deliver(now);
            for id in std::mem::take(&mut self.ready) {
                self.serve(id, now);
            }
            if stop {
                return Ok(());
            }
            if now.duration_since(swept) >= self.bounds.sweep() {
                swept = now;
                self.sweep(now);
            }
        }
    }

    /// Has a client served in this turn, or in the next one when this one's are being served.
    fn queue(&mut self, id: u64) {
        if let Some(c) = self.clients.get_mut(&id)
            && !c.queued
        {
            c.queued = true;
            self.ready.push(id);
        }
    }

    /// Takes new clients in; true when there may be more of them.
    fn accept(&mut self, now: Instant) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok(Some(stream)) => self.admit(stream, now),
                Ok(None) => return false,
                Err(e) => {
                    // Descriptors may have run out. The backlog waits for the next client that goes or the next sweep, as
                    // nothing tells of it a second time; existing clients go on.
                    warn!(error = %e, "accepting a client failed");
                    return false;
                }
            }
        }
        true
    }

    fn admit(&mut self, stream: UnixStream, now: Instant) {
        let refusal = match self.listener.check_peer(&stream) {
            Err(why) => Some(
                RpcError::new(ErrorCode::Permission, why)
                    .hint("run as root or as a member of socket_group"),
            ),
            Ok(()) if self.clients.len() >= self.bounds.clients && !self.make_room(now) => {
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
            return;
        }
        if let Some(error) = refusal {
            info!(error = %error, "client refused");
            connection.answer(&rpc::write_error(None, &error), now);
            connection.closing = true;
            connection.write(now);
            self.forget(connection);
            return;
        }
        debug!(client = id, "client connected");
        self.clients.insert(id, connection);
        self.queue(id);
    }

    /// Closes the client that has been idle longest, if one has been for long enough: whoever holds connections and asks
    /// nothing keeps nobody out.
    fn make_room(&mut self, now: Instant) -> bool {
        let idle = self.clients.iter().filter(|(_, c)| c.idle());
        let longest = idle.min_by_key(|(_, c)| c.progress());
        let Some((id, since)) = longest.map(|(id, c)| (*id, c.progress())) else {
            return false;
        };
        let room = now.duration_since(since) >= self.bounds.idle;
        if room {
            info!(client = id, "idle client gives way to a new one");
            self.close(id, "idle");
        }
        room
    }

    /// Reads, takes requests out, writes.
    fn serve(&mut self, id: u64, now: Instant) {
        let Some(c) = self.clients.get_mut(&id) else {
            return;
        };
        c.queued = false;
        let event = c.read(self.bounds.request_bytes, now);
        let large = c.held() > SMALL;
        let refused = match event {
            Event::Closed => return self.close(id, "closed by the client"),
            Event::TooLong => Some(too_long(self.bounds.request_bytes)),
            Event::Pending if large && self.held() > self.bounds.total() => Some(
                RpcError::new(
                    ErrorCode::Busy,
                    "clients together hold too many bytes of unfinished requests",
                )
                .hint("try again"),
            ),
            Event::Pending => None,
        };
        if let Some(error) = refused
            && let Some(c) = self.clients.get_mut(&id)
            && !c.closing
        {
            c.refuse(&error, now);
        }
        self.step(id, now);
    }

    /// Bytes that all clients hold together.
    fn held(&self) -> usize {
        self.clients.values().map(Connection::held).sum()
    }

    /// Gives the engine the client's next request when it has none there, and writes what waits.
    fn step(&mut self, id: u64, now: Instant) {
        let Some(c) = self.clients.get_mut(&id) else {
            return;
        };
        let mut budget = TAKEN_PER_TURN;
        while let Some(line) = c.next_line(&mut budget, now) {
            if line.len() > self.bounds.request_bytes {
                c.refuse(&too_long(self.bounds.request_bytes), now);
                break;
            }
            match rpc::parse_request(line) {
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
                Err(bad) => {
                    let error = rpc::write_error(bad.id.as_ref(), &bad.error);
                    budget = budget.saturating_sub(error.len());
                    c.answer(&error, now);
                }
            }
        }
        c.compact();
        if !c.write(now) {
            self.close(id, "done");
        } else if c.has_work() {
            self.queue(id);
        }
    }

    /// Takes what the engine answered. True when it said stop.
    fn deliver(&mut self, now: Instant) -> bool {
        loop {
            match self.answers.try_recv() {
                Ok(Answer::Line { client, bytes }) => {
                    if let Some(c) = self.clients.get_mut(&client.0) {
                        c.busy = false;
                        c.answer(&bytes, now);
                        // More of its requests may have been read meanwhile.
                        self.queue(client.0);
                    }
                }
                Ok(Answer::Stop) => return true,
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Gives stalled clients up, and looks for clients that could not be taken in.
    fn sweep(&mut self, now: Instant) {
        let stall = self.bounds.stall;
        let stalled = |c: &Connection| c.owes() && now.duration_since(c.progress()) >= stall;
        let ids: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| stalled(c))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            info!(
                client = id,
                after = ?stall,
                "client stalled in the middle of a request or answer"
            );
            self.close(id, "stalled");
        }
        self.waiting = true;
    }

    fn close(&mut self, id: u64, why: &str) {
        if let Some(connection) = self.clients.remove(&id) {
            debug!(client = id, why, "client gone");
            self.forget(connection);
            // There is a descriptor again.
            self.waiting = true;
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

fn too_long(limit: usize) -> RpcError {
    RpcError::new(
        ErrorCode::TooLarge,
        format!("the request is longer than {limit} bytes"),
    )
    .hint("send large states in pieces with begin, put and commit, or raise limits.request_bytes")
}
