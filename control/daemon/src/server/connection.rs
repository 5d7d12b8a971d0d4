// SPDX-License-Identifier: Apache-2.0
//! One client: lines in, one answered at a time, answers out. Bounded on both sides.

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::UnixStream;

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Nothing yet that can be acted upon.
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
    /// How far `input` has been searched for a line feed.
    searched: usize,
    output: Vec<u8>,
    written: usize,
    /// A request of this client is with the engine.
    pub(super) busy: bool,
    /// Close once everything is written.
    pub(super) closing: bool,
    /// The peer has sent its last byte.
    ended: bool,
    /// When the peer last took or sent a byte.
    progress: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, now: Instant) -> Connection {
        Connection {
            stream,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            written: 0,
            busy: false,
            closing: false,
            ended: false,
            progress: now,
        }
    }

    /// Bytes it holds in memory.
    pub(super) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Whether the peer owes us the rest of a line, or us taking an answer: such a client may not wait for ever.
    pub(super) fn owes(&self) -> bool {
        !self.output.is_empty() || (!self.busy && !self.input.is_empty())
    }

    /// When the peer last took or sent a byte.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// Reads what is there, as far as one line of `limit` bytes and a bit.
    pub(super) fn read(&mut self, limit: usize, now: Instant) -> Event {
        let mut piece = [0u8; 32 << 10];
        loop {
            if self.closing || self.input.len() > limit {
                return if self.line_waits(limit) {
                    Event::Pending
                } else {
                    Event::TooLong
                };
            }
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.ended = true;
                    return if self.busy || self.has_line() || !self.output.is_empty() {
                        Event::Pending
                    } else {
                        Event::Closed
                    };
                }
                Ok(n) => {
                    self.input.extend_from_slice(&piece[..n]);
                    self.progress = now;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Event::Pending,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Event::Closed,
            }
        }
    }

    fn line_waits(&mut self, limit: usize) -> bool {
        self.closing || self.busy || self.input.iter().take(limit + 1).any(|b| *b == b'\n')
    }

    fn has_line(&self) -> bool {
        self.input[self.searched..].contains(&b'\n')
    }

    /// Takes the next line out, without its line feed; blank lines are passed over.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let found = self.input[self.searched..].iter().position(|b| *b == b'\n');
            let Some(end) = found.map(|i| self.searched + i) else {
                self.searched = self.input.len();
                return None;
            };
            let rest = self.input.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.input, rest);
            line.pop();
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(line);
            }
        }
    }

    /// Forgets what was read; for a client whose line cannot be served.
    pub(super) fn discard_input(&mut self) {
        self.input = Vec::new();
        self.searched = 0;
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
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output = Vec::new();
        self.written = 0;
        let done = self.closing || (self.ended && !self.busy && !self.has_line());
        !done
    }
}
