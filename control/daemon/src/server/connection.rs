// SPDX-License-Identifier: Apache-2.0
//! One client: lines in, one answered at a time, answers out. Bounded on both sides, in memory and in time: what a client
//! has sent beyond its bounds waits in the kernel, and the client with it.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::Instant;

use mio::net::UnixStream;
use podswitch_api::RpcError;
use podswitch_api::rpc;

/// Bytes read of one client before the others have their turn.
const READ_PER_TURN: usize = 1 << 20;
/// Bytes read beyond a line that waits already.
const READ_AHEAD: usize = 64 << 10;
/// Unsent answers in bytes from which on no more of a client's lines are looked at.
const UNSENT: usize = 256 << 10;

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Nothing that ends the connection.
    Pending,
    /// A line is longer than allowed.
    TooLong,
    /// The peer is gone or broken.
    Closed,
}

/// A connected client.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    /// Bytes of `input` that were taken out already.
    taken: usize,
    /// How far `input` has been searched for a line feed.
    searched: usize,
    /// Where the next line feed is, once found.
    line_feed: Option<usize>,
    output: Vec<u8>,
    written: usize,
    /// A request of this client is with the engine.
    pub(super) busy: bool,
    /// Close once everything is written.
    pub(super) closing: bool,
    /// It is among those to be served in this turn.
    pub(super) queued: bool,
    /// There may be more to read: nothing tells a second time (edge-triggered, epoll(7)).
    readable: bool,
    /// The peer has sent its last byte.
    ended: bool,
    /// When the peer last took or sent a byte, or we took a line of it.
    progress: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, now: Instant) -> Connection {
        Connection {
            stream,
            input: Vec::new(),
            taken: 0,
            searched: 0,
            line_feed: None,
            output: Vec::new(),
            written: 0,
            busy: false,
            closing: false,
            queued: false,
            readable: true,
            ended: false,
            progress: now,
        }
    }

    /// Bytes it holds in memory.
    pub(super) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Bytes that were read and not taken out.
    fn unread(&self) -> usize {
        self.input.len() - self.taken
    }

    /// Whether the peer owes us the rest of a line, or us taking an answer: such a client may not wait for ever.
    pub(super) fn owes(&self) -> bool {
        !self.output.is_empty() || (!self.busy && self.unread() > 0)
    }

    /// Whether neither side owes the other anything.
    pub(super) fn idle(&self) -> bool {
        !self.busy && !self.closing && !self.queued && self.unread() == 0 && self.output.is_empty()
    }

    /// When the peer last took or sent a byte, or we took a line of it.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// The kernel says that there is something to read.
    pub(super) fn may_read(&mut self) {
        self.readable = true;
    }

    /// Whether there is something to do for it that no event will tell of.
    pub(super) fn has_work(&mut self) -> bool {
        self.may_take() && (self.readable || self.find_line().is_some())
    }

    fn may_take(&self) -> bool {
        !self.busy && !self.closing && self.output.len() - self.written < UNSENT
    }

    /// Reads what is there, as far as one line of `limit` bytes and a bit.
    pub(super) fn read(&mut self, limit: usize, now: Instant) -> Event {
        let mut piece = [0u8; 32 << 10];
        let mut left = READ_PER_TURN;
        while self.readable && !self.closing && left > 0 {
            let waits = self.find_line().is_some();
            if waits && self.unread() >= READ_AHEAD || self.unread() > limit {
                break;
            }
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.ended = true;
                    self.readable = false;
                }
                Ok(n) => {
                    self.input.extend_from_slice(&piece[..n]);
                    self.progress = now;
                    left = left.saturating_sub(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Event::Closed,
            }
        }
        let line = self.find_line();
        if self.ended && !self.busy && line.is_none() && self.output.is_empty() {
            return Event::Closed;
        }
        match line.is_none() && self.unread() > limit && !self.busy && !self.closing {
            true => Event::TooLong,
            false => Event::Pending,
        }
    }

    /// Where the next line feed is. Looks at every byte once.
    fn find_line(&mut self) -> Option<usize> {
        if self.line_feed.is_none() {
            let found = self.input[self.searched..].iter().position(|b| *b == b'\n');
            self.line_feed = found.map(|i| self.searched + i);
            self.searched = self.line_feed.unwrap_or(self.input.len());
        }
        self.line_feed
    }

    /// Takes the next line out that is not blank, without its line feed, unless `budget` bytes were taken before; what
    /// it takes is subtracted.
    pub(super) fn next_line(&mut self, budget: &mut usize, now: Instant) -> Option<&[u8]> {
        while *budget > 0 && self.may_take() {
            let line = self.take_line()?;
            *budget = budget.saturating_sub(line.len() + 1);
            self.progress = now;
            if !self.input[line.clone()].trim_ascii().is_empty() {
                return Some(&self.input[line]);
            }
        }
        None
    }

    fn take_line(&mut self) -> Option<Range<usize>> {
        let end = self.find_line()?;
        let line = self.taken..end;
        self.taken = end + 1;
        self.searched = self.taken;
        self.line_feed = None;
        Some(line)
    }

    /// Frees what was taken out, once that is the greater part: each byte is moved once or so.
    pub(super) fn compact(&mut self) {
        if self.taken == self.input.len() {
            self.discard_input();
        } else if self.taken > self.input.len() / 2 {
            self.input.drain(..self.taken);
            self.input.shrink_to(2 * self.input.len());
            self.searched -= self.taken;
            self.line_feed = self.line_feed.map(|at| at - self.taken);
            self.taken = 0;
        }
    }

    /// Answers with an error and takes nothing more from it.
    pub(super) fn refuse(&mut self, error: &RpcError, now: Instant) {
        self.discard_input();
        self.closing = true;
        self.answer(&rpc::write_error(None, error), now);
    }

    fn discard_input(&mut self) {
        self.input = Vec::new();
        self.taken = 0;
        self.searched = 0;
        self.line_feed = None;
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, bytes: &[u8], now: Instant) {
        if self.output.is_empty() {
            self.progress = now;
        }
        self.output.extend_from_slice(bytes);
    }

    /// Writes what can be written. False when the connection has ended.
    pub(super) fn write(&mut self, now: Instant) -> bool {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return false,
                Ok(n) => {
                    self.written += n;
                    self.progress = now;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.written > self.output.len() / 2 {
                        self.output.drain(..self.written);
                        self.written = 0;
                    }
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output = Vec::new();
        self.written = 0;
        let done = self.closing || (self.ended && !self.busy && self.find_line().is_none());
        !done
    }
}
