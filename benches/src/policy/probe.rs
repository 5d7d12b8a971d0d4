// SPDX-License-Identifier: Apache-2.0
//! What a worker with a thread does, seen by its sources of frames: by which tables it judges, and how long its turns take.
//!
//! An uplink brings frames of pods of other nodes in pairs, one pair a burst: first one of the pod that is asked about, then
//! one of a witness that is always let on. When the second one leaves and the first one has not, the first one was dropped.
//! A clock is a port that never has a frame; the worker looks at it once a round.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use podswitch_api::object::kubernetes::Pod;
use podswitch_datapath::frame::Frame;
use podswitch_datapath::port::FrameSource;
use podswitch_datapath::worker::clock::cycles;
use podswitch_tests::frames::Ends;

use super::flows::Sender;
use crate::traffic::{self, Family, overwrite};
use crate::valve::{Tap, Valve};

/// The source port of an uplink's frames; no flow has it.
const SOURCE: u16 = 60_000;
/// Where a frame has its source address, its source port and its destination port.
const ADDRESS: usize = 26;
const PORTS: usize = 34;
/// How long the worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Turns that a log has room for.
const TURNS: usize = 1 << 18;

/// A pod of another node, and the port it calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its address.
    pub address: Ipv4Addr,
    /// The destination port of its frames.
    pub port: u16,
}

impl Caller {
    /// A pod, by its IPv4 address.
    ///
    /// # Panics
    /// When it has none.
    pub fn of(pod: &Pod, port: u16) -> Caller {
        let v4 = pod.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let address = v4.expect("a pod has addresses of both families");
        Caller { address, port }
    }

    fn word(self) -> u64 {
        u64::from(u32::from(self.address)) << 16 | u64::from(self.port)
    }

    fn of_word(word: u64) -> Caller {
        Caller {
            address: ((word >> 16) as u32).into(),
            port: word as u16,
        }
    }

    /// Whose frame it is, if it is an uplink's.
    #[inline]
    fn of_frame(bytes: &[u8]) -> Option<Caller> {
        let port = |at| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let address: [u8; 4] = *bytes.get(ADDRESS..)?.first_chunk()?;
        (port(PORTS)? == SOURCE).then_some(Caller {
            address: address.into(),
            port: port(PORTS + 2)?,
        })
    }
}

/// Where control asks, and the worker's sources answer.
#[derive(Debug, Default)]
pub struct Board {
    /// The caller that is asked about; 0 for none.
    asked: AtomicU64,
    /// The caller that was let on last, or 0 when it was not; and when that became so, in cycles.
    answer: AtomicU64,
    since: AtomicU64,
    /// Pairs that were answered.
    pairs: AtomicU64,
    /// Frames of callers that came in and went out, and how often the answer changed.
    came: AtomicU64,
    went: AtomicU64,
    answers: AtomicU64,
}

/// What a board has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calls {
    /// Frames of callers that were dropped, if none is on its way.
    pub refused: u64,
    /// How often the answer changed.
    pub answers: u64,
}

/// Adds one to a number that nobody else writes.
pub(super) fn count(number: &AtomicU64) {
    let n = number.load(Ordering::Relaxed);
    number.store(n + 1, Ordering::Relaxed);
}

impl Board {
    /// Asks about a caller from now on.
    pub fn ask(&self, caller: Caller) {
        self.asked.store(caller.word(), Ordering::Relaxed);
    }

    /// Asks about nobody: no frames come in.
    pub fn hush(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    /// Whether the last answer was that this caller is let on, or nobody.
    pub fn says(&self, caller: Option<Caller>) -> bool {
        self.answer.load(Ordering::Acquire) == caller.map_or(0, Caller::word)
    }

    /// Pairs that were answered.
    pub fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Acquire)
    }

    /// Waits until this caller is let on, or nobody is, by the answer to a pair after so many; says since when it is so, in cycles.
    ///
    /// # Panics
    /// When that does not come about.
    pub fn wait(&self, caller: Option<Caller>, pairs: u64) -> u64 {
        const LOOKS: u32 = 1 << 16;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for _ in 0..LOOKS {
                if self.pairs() > pairs && self.says(caller) {
                    return self.since.load(Ordering::Relaxed);
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        panic!("no frame was judged anew in {PATIENCE:?}: {caller:?}");
    }

    /// What it has counted.
    pub fn calls(&self) -> Calls {
        let came = self.came.load(Ordering::Relaxed);
        Calls {
            refused: came - self.went.load(Ordering::Relaxed),
            answers: self.answers.load(Ordering::Relaxed),
        }
    }
}

/// The source of an uplink.
#[derive(Debug)]
pub struct Uplink {
    board: Arc<Board>,
    pod: usize,
    /// The caller that the first frame is of, as a word.
    asked: u64,
    first: Vec<u8>,
    second: Vec<u8>,
    is_second: bool,
    tap: Tap,
    served: Arc<AtomicBool>,
}

impl Uplink {
    /// To a pod of this node, while the valve is open. `served` is set when its port was served.
    pub fn new(
        board: &Arc<Board>,
        pod: usize,
        witness: Caller,
        valve: &Arc<Valve>,
        served: &Arc<AtomicBool>,
    ) -> Uplink {
        Uplink {
            served: served.clone(),
            board: board.clone(),
            pod,
            asked: 0,
            first: Vec::new(),
            second: call(witness, pod),
            is_second: false,
            tap: Tap::new(valve),
        }
    }

    fn asked(&self) -> u64 {
        self.board.asked.load(Ordering::Relaxed)
    }
}

/// A datagram of a caller to a pod of this node.
fn call(caller: Caller, pod: usize) -> Vec<u8> {
    let ends = Ends {
        from: caller.address.into(),
        ..traffic::ends(pod, pod, Family::V4)
    };
    traffic::datagram(&ends, (SOURCE, caller.port))
}

impl FrameSource for Uplink {
    fn write(&mut self, frame: &mut Frame) -> bool {
        if self.is_second {
            self.is_second = false;
            return overwrite(frame, &self.second);
        }
        let asked = self.asked();
        // Since the burst began nobody may be asked about any more; then it is the last one again.
        if asked != self.asked && asked != 0 {
            (self.asked, self.first) = (asked, call(Caller::of_word(asked), self.pod));
        }
        self.is_second = true;
        count(&self.board.came);
        overwrite(frame, &self.first)
    }

    fn ready(&self) -> usize {
        match self.tap.ready() {
            0 => 0,
            _ if self.asked() == 0 => 0,
            _ => 2,
        }
    }

    fn received(&mut self, _: usize) {
        self.served.store(true, Ordering::Relaxed);
    }
}

/// Sees what of an uplink is let on.
#[derive(Debug)]
pub struct Watch {
    board: Arc<Board>,
    witness: Caller,
    /// Since the last frame of the witness: the caller that was let on, or 0. And what came of the pair before.
    let_on: u64,
    last: u64,
}

impl Watch {
    /// Of a board, with the same witness as the uplink.
    pub fn new(board: &Arc<Board>, witness: Caller) -> Watch {
        Watch {
            board: board.clone(),
            witness,
            let_on: 0,
            last: 0,
        }
    }

    /// A frame of an uplink leaves.
    fn see(&mut self, caller: Caller) {
        if caller != self.witness {
            self.let_on = caller.word();
            return count(&self.board.went);
        }
        let answer = std::mem::take(&mut self.let_on);
        if answer != self.last {
            self.last = answer;
            count(&self.board.answers);
            self.board.since.store(cycles(), Ordering::Relaxed);
            self.board.answer.store(answer, Ordering::Release);
        }
        let pairs = self.board.pairs();
        self.board.pairs.store(pairs + 1, Ordering::Release);
    }
}

/// A pod's source that says when its port was served, and may see what of an uplink gets to the pod: that goes no further.
#[derive(Debug)]
pub struct Watched {
    /// The source.
    pub sender: Sender,
    /// Set when it was.
    pub served: Arc<AtomicBool>,
    /// Who sees.
    pub watch: Option<Watch>,
}

impl FrameSource for Watched {
    #[inline]
    fn write(&mut self, frame: &mut Frame) -> bool {
        if let Some(watch) = &mut self.watch
            && let Some(caller) = Caller::of_frame(frame.bytes())
        {
            watch.see(caller);
            return false;
        }
        self.sender.write(frame)
    }

    fn ready(&self) -> usize {
        self.sender.ready()
    }

    fn received(&mut self, frames: usize) {
        self.served.store(true, Ordering::Relaxed);
        self.sender.received(frames);
    }
}

/// How long turns took that served somebody, in cycles, while it is on.
#[derive(Debug)]
pub struct Turns {
    on: AtomicBool,
    taken: Mutex<Vec<u32>>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            on: AtomicBool::new(false),
            taken: Mutex::new(Vec::with_capacity(TURNS)),
        }
    }
}

impl Turns {
    /// Begins anew.
    pub fn begin(&self) {
        self.taken().clear();
        self.on.store(true, Ordering::Relaxed);
    }

    /// Ends once there is one, and says what there was: the first 262,144 turns.
    ///
    /// # Panics
    /// When the worker does not turn.
    pub fn end(&self) -> Vec<u32> {
        let start = Instant::now();
        while self.taken().is_empty() {
            assert!(start.elapsed() < PATIENCE, "the worker does not turn");
            std::thread::yield_now();
        }
        self.on.store(false, Ordering::Relaxed);
        self.taken().clone()
    }

    fn taken(&self) -> MutexGuard<'_, Vec<u32>> {
        self.taken.lock().expect("nobody panics with it")
    }

    /// Never waits, and never takes memory.
    fn add(&self, turn: u64) {
        if self.on.load(Ordering::Relaxed)
            && let Ok(mut taken) = self.taken.try_lock()
            && taken.len() < taken.capacity()
        {
            taken.push(turn.try_into().unwrap_or(u32::MAX));
        }
    }
}

/// The source of a port that is the worker's first: a turn goes from one look at it to the next. A turn has a second round
/// when its first one served nobody, so a look after which nobody was served does not count.
#[derive(Debug)]
pub struct Clock {
    began: Cell<u64>,
    served: Arc<AtomicBool>,
    turns: Arc<Turns>,
}

impl Clock {
    /// Over ports that set `served`.
    pub fn new(served: &Arc<AtomicBool>, turns: &Arc<Turns>) -> Clock {
        Clock {
            began: Cell::new(cycles()),
            served: served.clone(),
            turns: turns.clone(),
        }
    }
}

impl FrameSource for Clock {
    fn write(&mut self, _: &mut Frame) -> bool {
        false
    }

    fn ready(&self) -> usize {
        if self.served.load(Ordering::Relaxed) {
            self.served.store(false, Ordering::Relaxed);
            let now = cycles();
            self.turns.add(now.wrapping_sub(self.began.replace(now)));
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITNESS: Caller = Caller {
        address: Ipv4Addr::new(10, 64, 0, 9),
        port: 9000,
    };
    const CALLER: Caller = Caller {
        address: Ipv4Addr::new(10, 64, 7, 1),
        port: 9001,
    };

    #[test]
    fn frames_say_whose_they_are() {
        assert_eq!(Caller::of_word(CALLER.word()), CALLER);
        assert_eq!(Caller::of_frame(&call(CALLER, 3)), Some(CALLER));
        let flow = traffic::datagram(&traffic::ends(1, 2, Family::V4), (20_000, 9001));
        assert_eq!(Caller::of_frame(&flow), None);
        assert_eq!(Caller::of_frame(&[]), None);
    }

    #[test]
    fn a_watch_answers_when_the_witness_comes_alone_or_not() {
        let board = Arc::new(Board::default());
        let mut watch = Watch::new(&board, WITNESS);
        for _ in 0..3 {
            watch.see(CALLER);
            watch.see(WITNESS);
        }
        let since = board.wait(Some(CALLER), 2);
        assert!(since > 0 && !board.says(None));
        watch.see(WITNESS);
        assert!(board.wait(None, 3) > since);
        assert_eq!(
            (board.answers.load(Ordering::Relaxed), board.pairs()),
            (2, 4)
        );
    }

    #[test]
    fn turns_are_those_that_served_somebody() {
        let (served, turns) = (Arc::default(), Arc::new(Turns::default()));
        let clock = Clock::new(&served, &turns);
        turns.begin();
        for look in [false, true, false, true, true] {
            served.store(look, Ordering::Relaxed);
            assert_eq!(clock.ready(), 0);
        }
        assert_eq!(turns.end().len(), 3);
        served.store(true, Ordering::Relaxed);
        clock.ready();
        assert_eq!(turns.end().len(), 3, "it is off");
    }
}
