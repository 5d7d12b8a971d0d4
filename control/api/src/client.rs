// SPDX-License-Identifier: Apache-2.0
//! A blocking client of the control socket.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::RpcError;
use crate::limits::MAX_REPLY_BYTES;
use crate::method::{self, ApplyParams, ApplyResult, Change, Entry, Filter, GetParams, Method};
use crate::object::{Kind, Object};
use crate::rpc::{self, Id};

/// How long a call may take unless said otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Most objects in one `put` of [`Client::replace`], far below the daemon's line limit.
const PUT_OBJECTS: usize = 4096;

/// Why a call had no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon listens on {path}: {source}; is podswitchd running, and is this the `socket` of its configuration?", path = path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error("{path} may not be opened: {source}; run as root or join the group of `socket_group` in the configuration", path = path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time. The request may still be carried out.
    #[error("podswitchd at {path} did not answer {method} within {seconds} s; it may still carry it out: ask `health`, or allow more time", path = path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The method.
        method: String,
        /// The time allowed, in seconds.
        seconds: f64,
    },
    /// The connection broke. The request may still be carried out.
    #[error("the connection to {path} broke during {method}: {source}; see the log of podswitchd", path = path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The method.
        method: String,
        /// What the system said.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the answer to {method} from {path} is not understood: {message}; are client and daemon of the same version?", path = path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// The method.
        method: String,
        /// What is wrong with it.
        message: String,
    },
    /// The daemon refused.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

impl ClientError {
    /// Whether the daemon could not be reached or did not answer: asking again later may help.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NotRunning { .. }
                | Self::Permission { .. }
                | Self::Timeout { .. }
                | Self::Broken { .. }
        )
    }

    /// The daemon's error, when it answered with one.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Self::Rpc(e) => Some(e),
            _ => None,
        }
    }
}

/// A connection to the daemon; one request at a time. After an error other than [`ClientError::Rpc`] it is of no more use.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    next_id: u64,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, with [`DEFAULT_TIMEOUT`].
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], [`ClientError::Permission`], or [`ClientError::Timeout`] when the daemon takes no connection.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ClientError> {
        Self::connect_timeout(path, DEFAULT_TIMEOUT)
    }

    /// Connects; connecting and every call may take as long as `timeout`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_timeout(
        path: impl AsRef<Path>,
        timeout: Duration,
    ) -> Result<Client, ClientError> {
        let path = path.as_ref();
        let timeout = timeout.max(Duration::from_millis(1));
        match open(path, timeout) {
            Ok(stream) => Ok(Client {
                stream,
                path: path.to_owned(),
                timeout,
                next_id: 1,
                buffer: Vec::new(),
            }),
            Err(e) => Err(connect_error(path, timeout, e)),
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls a method and waits for its result.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] when the daemon refuses; others when there is no answer.
    pub fn call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let id = self.next_id;
        self.next_id += 1;
        let line = rpc::write_request(id, M::NAME, params)
            .map_err(|e| self.protocol::<M>(e.to_string()))?;
        let sent = self.send(&line, deadline);
        // A daemon that refuses before it has read everything (too many clients, too long a line) still says why.
        let reply = match (sent, self.receive(deadline)) {
            (Ok(()), reply) => reply,
            (Err(_), Ok(reply)) => Ok(reply),
            (Err(e), Err(_)) => Err(e),
        };
        let reply = reply.map_err(|e| self.io_error::<M>(e))?;
        let (answered, result) =
            rpc::parse_response::<M::Result>(&reply).map_err(|e| self.protocol::<M>(e))?;
        match (answered, result) {
            (Some(Id::Number(n)), result) if u64::try_from(n) == Ok(id) => Ok(result?),
            (None, Err(error)) => Err(error.into()),
            (other, _) => {
                Err(self.protocol::<M>(format!("it has the id {other:?}, the request had {id}")))
            }
        }
    }

    /// `apply`, whatever the generation.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<ApplyResult, ClientError> {
        self.call::<method::Apply>(&ApplyParams {
            changes,
            expect_generation: None,
        })
    }

    /// All pages of `get`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get_all(&mut self, kind: Kind, filter: Filter) -> Result<Vec<Entry>, ClientError> {
        let mut params = GetParams {
            kind,
            filter,
            limit: None,
            resume: None,
        };
        let mut all = Vec::new();
        loop {
            let page = self.call::<method::Get>(&params)?;
            all.extend(page.objects);
            match page.resume {
                None => return Ok(all),
                resume => params.resume = resume,
            }
        }
    }

    /// Replaces all objects of `kinds` (`None`: of all kinds) by `objects`: `begin`, as many `put` as it takes, `commit`.
    ///
    /// # Errors
    /// As [`Client::call`]; the transaction is given up then.
    pub fn replace(
        &mut self,
        kinds: Option<Vec<Kind>>,
        objects: Vec<Object>,
    ) -> Result<method::CommitResult, ClientError> {
        let begun = self.call::<method::Begin>(&method::BeginParams {
            generation: None,
            kinds,
        })?;
        let transaction = begun.transaction;
        let result = self.fill(transaction, objects);
        if let Err(ClientError::Rpc(_)) = result {
            // The refusal is what matters; a connection that broke has lost its transaction anyway.
            drop(self.call::<method::Abort>(&method::TransactionParams { transaction }));
        }
        result
    }

    fn fill(
        &mut self,
        transaction: u64,
        objects: Vec<Object>,
    ) -> Result<method::CommitResult, ClientError> {
        let mut objects = objects.into_iter().peekable();
        while objects.peek().is_some() {
            let piece = objects.by_ref().take(PUT_OBJECTS).collect();
            self.call::<method::Put>(&method::PutParams {
                transaction,
                objects: piece,
            })?;
        }
        self.call::<method::Commit>(&method::TransactionParams { transaction })
    }

    fn send(&mut self, mut line: &[u8], deadline: Instant) -> io::Result<()> {
        while !line.is_empty() {
            self.stream.set_write_timeout(Some(remaining(deadline)?))?;
            match self.stream.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => line = &line[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// One line, without its line feed.
    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        let mut piece = [0; 64 << 10];
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched > MAX_REPLY_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("an answer of more than {MAX_REPLY_BYTES} bytes"),
                ));
            }
            self.stream.set_read_timeout(Some(remaining(deadline)?))?;
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "closed by the daemon before it answered",
                    ));
                }
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn io_error<M: Method>(&self, source: io::Error) -> ClientError {
        let (path, method) = (self.path.clone(), M::NAME.to_owned());
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout {
                path,
                method,
                seconds: self.timeout.as_secs_f64(),
            },
            _ => ClientError::Broken {
                path,
                method,
                source,
            },
        }
    }

    fn protocol<M: Method>(&self, message: String) -> ClientError {
        ClientError::Protocol {
            path: self.path.clone(),
            method: M::NAME.to_owned(),
            message,
        }
    }
}

/// A connected socket. `connect` blocks while the daemon's backlog is full, for as long as the send timeout allows (unix(7)).
fn open(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(socket.as_fd(), Timeout::Send, Some(timeout))?;
    rustix::net::connect(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn connect_error(path: &Path, timeout: Duration, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Permission { path, source },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout {
            path,
            method: "connect".to_owned(),
            seconds: timeout.as_secs_f64(),
        },
        _ => ClientError::NotRunning { path, source },
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}
