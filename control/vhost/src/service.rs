// SPDX-License-Identifier: Apache-2.0
//! The thread of a port: one frontend after another.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use podswitch_datapath::port::vhost::VhostHandle;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::{debug, info, warn};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use crate::patrol::{Watched, lock};
use crate::session::Session;
use crate::socket::{Arrived, Meeting, answer, arrived, connect_to, take};

/// How long the rest of a message, or room for the answer, may take.
const STALL: Duration = Duration::from_secs(2);
/// How often it is looked whether the rest has come.
const LOOK: Duration = Duration::from_millis(10);
/// Between two attempts to connect, and after a connection that was ended here.
const RETRY: Duration = Duration::from_millis(500);
/// How long the end of the thread is waited for.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a port and its frontend stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// No frontend is connected.
    Waiting,
    /// One was, and its connection was ended for this reason.
    Faulted(String),
    /// One is connected.
    Connected {
        /// Its driver can receive.
        ready: bool,
        /// Feature bits that were agreed on.
        features: u64,
    },
}

/// The messages of a port. They end when it is dropped, and the worker is told to serve nothing.
#[derive(Debug)]
pub struct Service {
    state: Arc<Mutex<State>>,
    stop: Arc<OwnedFd>,
    ended: Receiver<()>,
    /// The connection that there is.
    watched: Arc<Mutex<Weak<Watched>>>,
    // Last: the path is free when the thread has ended.
    meeting: Meeting,
}

impl Service {
    /// Starts the thread. `name` is the port's in the log, `pairs` the most pairs of queues that a frontend may use; `changed` is called whenever the
    /// [state](Service::state) is another.
    ///
    /// # Errors
    /// When the kernel gives no eventfd or thread.
    pub fn start(
        name: &str,
        meeting: Meeting,
        pairs: u16,
        handle: VhostHandle,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Service> {
        let work = Work::new(name, meeting.clone(), pairs, handle, changed)?;
        let (state, stop) = (work.state.clone(), work.stop.clone());
        let watched = work.watched.clone();
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("vhost-user".into());
        let thread = thread.spawn(move || {
            work.run();
            drop(end);
        });
        thread?;
        Ok(Service {
            state,
            stop,
            ended,
            watched,
            meeting,
        })
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        // It may be in the middle of a message.
        let watched = lock(&self.watched).upgrade();
        watched.inspect(|watched| watched.give_up());
        // One that is stuck all the same, in a descriptor that is slow to close, goes on without us, and without the path.
        let late = self.ended.recv_timeout(GOODBYE) == Err(RecvTimeoutError::Timeout);
        if let Some(listener) = self.meeting.listener.as_ref().filter(|_| late) {
            listener.unlink();
        }
    }
}

/// Why a connection ended.
pub(crate) enum End {
    /// The service is to end.
    Stop,
    /// The frontend has closed it.
    Closed,
    /// It was closed here.
    Fault(String),
}

impl From<io::Error> for End {
    fn from(e: io::Error) -> End {
        End::Fault(e.to_string())
    }
}

/// What there is to do on a connection.
enum Next {
    End(End),
    Message(u32),
    Alarm,
    /// Another frontend would like to be served.
    Knock,
}

/// A request, as the protocol names it.
struct Request(u32);

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match FrontendReq::try_from(self.0) {
            Ok(known) => write!(f, "{known:?}"),
            Err(_) => write!(f, "request {}", self.0),
        }
    }
}

/// What a port's thread does.
pub(crate) struct Work {
    watched: Arc<Mutex<Weak<Watched>>>,
    name: String,
    meeting: Meeting,
    session: Arc<Mutex<Session>>,
    alarm: OwnedFd,
    stop: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
    changed: Box<dyn Fn() + Send>,
}

impl Work {
    pub(crate) fn new(
        name: &str,
        meeting: Meeting,
        pairs: u16,
        handle: VhostHandle,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Work> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Work {
            watched: Arc::new(Mutex::new(Weak::new())),
            name: name.to_owned(),
            meeting,
            alarm: handle.alarm().try_clone_to_owned()?,
            session: Arc::new(Mutex::new(Session::new(handle, pairs))),
            stop: Arc::new(eventfd(0, flags)?),
            state: Arc::new(Mutex::new(State::Waiting)),
            changed: Box::new(changed),
        })
    }

    fn run(self) {
        loop {
            let frontend = self.frontend();
            let begun = Instant::now();
            let end = match frontend {
                Ok(Some(stream)) => self.serve(stream),
                Ok(None) => End::Stop,
                Err(e) => e.into(),
            };
            self.session().clear();
            match end {
                End::Stop => break,
                End::Closed => {
                    info!(port = self.name, "the frontend has gone");
                    self.set(State::Waiting);
                }
                End::Fault(why) => {
                    let again = State::Faulted(why.clone());
                    if *lock(&self.state) != again {
                        warn!(port = self.name, why, "the frontend's connection was ended");
                    }
                    self.set(again);
                }
            }
            // One that comes and goes all the time is not to keep a processor busy.
            if begun.elapsed() < RETRY && self.stopped_within(RETRY) {
                break;
            }
        }
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }

    fn set(&self, state: State) {
        let mut now = lock(&self.state);
        if *now == state {
            return;
        }
        *now = state;
        drop(now);
        (self.changed)();
    }

    /// The next frontend; `None` when the service is to end.
    fn frontend(&self) -> io::Result<Option<UnixStream>> {
        let Some(listener) = &self.meeting.listener else {
            loop {
                if let Some(stream) = connect_to(&self.meeting.path)? {
                    return Ok(Some(stream));
                }
                if self.stopped_within(RETRY) {
                    return Ok(None);
                }
            }
        };
        loop {
            let mut fds = [
                PollFd::new(&*self.stop, PollFlags::IN),
                PollFd::new(&**listener, PollFlags::IN),
            ];
            wait(&mut fds, None)?;
            if !fds[0].revents().is_empty() {
                return Ok(None);
            }
            if let Some(stream) = listener.accept()? {
                return Ok(Some(stream));
            }
        }
    }

    fn stopped_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&*self.stop, PollFlags::IN)];
        if wait(&mut fds, Some(time)).is_err() {
            thread::sleep(time);
        }
        !fds[0].revents().is_empty()
    }

    /// Serves a frontend until its connection ends. What it has set up is still there then.
    pub(crate) fn serve(&self, stream: UnixStream) -> End {
        info!(port = self.name, "a frontend is connected");
        self.session().clear();
        let (own, watched) = match (stream.try_clone(), stream.try_clone()) {
            (Ok(own), Ok(other)) => (own, Watched::new(self.session().handle.calls(), other)),
            (Err(e), _) | (_, Err(e)) => return e.into(),
        };
        *lock(&self.watched) = Arc::downgrade(&watched);
        let mut handler = BackendReqHandler::from_stream(own, self.session.clone());
        loop {
            let session = self.session();
            let (ready, features) = (session.is_ready(), session.features());
            drop(session);
            self.set(State::Connected { ready, features });
            match self.next(&stream) {
                Next::End(end) => return end,
                Next::Alarm => {
                    let broken = self.session().handle.take_broken();
                    if let Some(broken) = broken {
                        return End::Fault(format!("queue {}: {}", broken.queue, broken.fault));
                    }
                }
                Next::Knock => self.turn_away(),
                Next::Message(SET_VRING_ENABLE) => {
                    if let Err(e) = watched.busy(|| self.enable(&stream)) {
                        return End::Fault(format!("{}: {e}", Request(SET_VRING_ENABLE)));
                    }
                }
                Next::Message(request) => match watched.busy(|| handler.handle_request()) {
                    Ok(()) => debug!(port = self.name, "{}", Request(request)),
                    // It has gone while it was answered.
                    Err(Error::Disconnected | Error::SocketBroken(_)) => return End::Closed,
                    Err(Error::ReqHandlerError(e)) => {
                        return End::Fault(format!("{}: {e}", Request(request)));
                    }
                    Err(e) => return End::Fault(format!("{}: {e}", Request(request))),
                },
            }
        }
    }

    /// Enables or disables a queue. QEMU and virtio-user of DPDK do that before they have agreed on what allows them to, for which the library would end the
    /// connection.
    fn enable(&self, stream: &UnixStream) -> io::Result<()> {
        let (flags, [index, enable]) = take(stream)?;
        let mut session = self.session();
        let done = match enable {
            0 | 1 => session.set_vring_enable(index, enable == 1),
            _ => Err(Error::InvalidParam),
        };
        let asked = flags & NEED_REPLY != 0 && session.answers();
        drop(session);
        if asked {
            answer(stream, SET_VRING_ENABLE, done.is_err().into())?;
        }
        done.map_err(|e| match e {
            Error::ReqHandlerError(e) => e,
            e => io::Error::other(e.to_string()),
        })
    }

    /// Waits for what comes next. A message is there as a whole then, and so is room for its answer.
    fn next(&self, stream: &UnixStream) -> Next {
        let mut begun: Option<Instant> = None;
        loop {
            let late = begun.is_some_and(|begun| begun.elapsed() > STALL);
            let ready = match self.look(stream, begun.is_some()) {
                Ok(ready) => ready,
                Err(e) => return Next::End(e.into()),
            };
            match ready {
                Look::Next(next) => return next,
                Look::Quiet => {}
                Look::Part if late => {
                    return Next::End(End::Fault("it stopped in the middle of a message".into()));
                }
                Look::NoRoom if late => {
                    return Next::End(End::Fault("it does not read its answers".into()));
                }
                Look::Part | Look::NoRoom => {
                    begun.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Looks once, at any time for the `rest` of a message that has begun; else when there is something.
    fn look(&self, stream: &UnixStream, rest: bool) -> io::Result<Look> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![readable(self.stop.as_fd()), readable(self.alarm.as_fd())];
        if !rest {
            let knock = self.meeting.listener.as_ref().map(|l| readable(l.as_fd()));
            fds.extend([readable(stream.as_fd())].into_iter().chain(knock));
        }
        wait(&mut fds, rest.then_some(LOOK))?;
        let is = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if is(0) {
            return Ok(Look::Next(Next::End(End::Stop)));
        }
        if is(1) {
            let _ = rustix::io::read(&self.alarm, &mut [0; 8]);
            return Ok(Look::Next(Next::Alarm));
        }
        Ok(match arrived(stream)? {
            Arrived::Whole(request) if has_room(stream)? => Look::Next(Next::Message(request)),
            Arrived::Whole(_) => Look::NoRoom,
            // Nobody is there who could send the rest; it may have come between the two looks.
            Arrived::Part if has_gone(stream)? && arrived(stream)? == Arrived::Part => {
                Look::Next(Next::End(End::Closed))
            }
            Arrived::Part => Look::Part,
            Arrived::End => Look::Next(Next::End(End::Closed)),
            Arrived::Nothing if is(3) => Look::Next(Next::Knock),
            Arrived::Nothing => Look::Quiet,
        })
    }

    /// A port has one frontend.
    fn turn_away(&self) {
        let Some(listener) = &self.meeting.listener else {
            return;
        };
        match listener.accept() {
            // It is still there; descriptors may have run out.
            Err(_) => thread::sleep(LOOK),
            Ok(_) => debug!(
                port = self.name,
                "another frontend was turned away: one is connected"
            ),
        }
    }
}

/// What a look has found.
enum Look {
    Next(Next),
    Quiet,
    /// A part of a message.
    Part,
    /// A message, and no room for its answer.
    NoRoom,
}

/// A request that is known by its number, and the flag of one that is to be answered (vhost-user, "Header").
const SET_VRING_ENABLE: u32 = FrontendReq::SET_VRING_ENABLE as u32;
const NEED_REPLY: u32 = 8;

/// Whether nobody sends anything any more.
fn has_gone(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    wait(&mut fds, Some(Duration::ZERO))?;
    Ok(!fds[0].revents().is_empty())
}

/// Whether an answer can be written without waiting.
fn has_room(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    wait(&mut fds, Some(Duration::ZERO))?;
    Ok(fds[0].revents().contains(PollFlags::OUT))
}

fn wait(fds: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<()> {
    let time = time.map(|t| Timespec::try_from(t).unwrap_or_default());
    match poll(fds, time.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
