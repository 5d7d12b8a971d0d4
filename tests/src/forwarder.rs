// SPDX-License-Identifier: Apache-2.0
//! A bad wire: it passes frames on between two devices, loses some and lets some wait until others have passed. The same seed gives
//! the same lots; which frame draws which depends on when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netns::Netns;
use crate::raw::RawSocket;

/// Pause of a wire on which nothing comes.
const IDLE: Duration = Duration::from_micros(200);
/// A late frame waits no longer than this for others to pass.
const LATEST: Duration = Duration::from_millis(3);

/// What the wire does, and has done.
#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    /// Of 1000 frames.
    lose: AtomicU64,
    /// Of 1000 frames.
    delay: AtomicU64,
    lost: AtomicU64,
    overtaken: AtomicU64,
}

/// A running wire; ended when dropped.
#[derive(Debug)]
pub struct Forwarder {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts one that loses and delays nothing yet, between two devices of a namespace.
    #[track_caller]
    pub fn start(netns: &Netns, ends: [&str; 2], seed: u64) -> Forwarder {
        let state = Arc::<State>::default();
        let open = |end| RawSocket::open(netns, end);
        let ways = [(ends[0], ends[1], seed), (ends[1], ends[0], seed ^ 1)];
        let threads = ways.map(|(from, to, seed)| {
            let way = Way {
                from: open(from),
                to: open(to),
                lots: Lots(seed),
                late: Vec::new(),
                state: state.clone(),
            };
            std::thread::spawn(move || way.run())
        });
        Forwarder {
            state,
            threads: threads.into(),
        }
    }

    /// Loses and delays so many of 1000 frames from now on.
    pub fn set(&self, lose: u64, delay: u64) {
        self.state.lose.store(lose, Ordering::Relaxed);
        self.state.delay.store(delay, Ordering::Relaxed);
    }

    /// Frames lost so far, and those that others overtook.
    pub fn done(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.state.lost), read(&self.state.overtaken))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Numbers by xorshift (Marsaglia, 2003).
struct Lots(u64);

impl Lots {
    fn below(&mut self, n: u64) -> u64 {
        // It stays at 0 for ever.
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// A frame that waits for others to pass.
struct Late {
    frame: Vec<u8>,
    /// It goes once so many have passed.
    behind: u64,
    passed: u64,
    since: Instant,
}

/// One direction.
struct Way {
    from: RawSocket,
    to: RawSocket,
    lots: Lots,
    late: Vec<Late>,
    state: Arc<State>,
}

impl Way {
    fn run(mut self) {
        // The first lots of a small seed are small.
        for _ in 0..16 {
            self.lots.below(2);
        }
        while !self.state.stop.load(Ordering::Relaxed) {
            while let Some(frame) = self.from.try_receive() {
                self.take(frame);
            }
            self.release(|late| late.since.elapsed() > LATEST);
            std::thread::sleep(IDLE);
        }
    }

    fn take(&mut self, frame: Vec<u8>) {
        let lose = self.state.lose.load(Ordering::Relaxed);
        let delay = self.state.delay.load(Ordering::Relaxed);
        let lot = self.lots.below(1000);
        if lot < lose {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        } else if lot < lose + delay {
            self.late.push(Late {
                frame,
                behind: 1 + self.lots.below(4),
                passed: 0,
                since: Instant::now(),
            });
        } else {
            self.send(&frame);
            for late in &mut self.late {
                late.passed += 1;
            }
            self.release(|late| late.passed == late.behind);
        }
    }

    /// Sends late frames on.
    fn release(&mut self, which: impl Fn(&Late) -> bool) {
        for late in self
            .late
            .extract_if(.., |late| which(late))
            .collect::<Vec<_>>()
        {
            self.send(&late.frame);
            // One that waited in vain was overtaken by none.
            let overtaken = u64::from(late.passed > 0);
            self.state.overtaken.fetch_add(overtaken, Ordering::Relaxed);
        }
    }

    /// A device that is down or gone loses frames, too.
    fn send(&self, frame: &[u8]) {
        let _ = self.to.try_send(frame);
    }
}
