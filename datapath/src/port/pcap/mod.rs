// SPDX-License-Identifier: Apache-2.0
//! A port whose frames come from a capture file and go to another.
#![forbid(unsafe_code)]

mod format;
mod record;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use format::{Capture, MAX_REPLAY_BYTES, PcapError};
pub use record::RecordStatus;

use super::{Caps, PortCounters, give};
use crate::frame::{Arena, Batch, Frame, MAX_FRAME, MAX_SEGMENTS, Pool};
use crate::ids::PortId;
use record::Recorder;

/// What a pcap port replays and records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcapSpec {
    /// Capture whose frames come in by the port, as they were captured (also when cut to a snap length).
    pub replay: Option<PathBuf>,
    /// How often it is replayed.
    pub times: u64,
    /// When each frame comes in.
    pub pace: Pace,
    /// File that the frames sent out of the port go to; emptied first.
    pub record: Option<PathBuf>,
    /// Most bytes recorded of a frame.
    pub snaplen: u32,
    /// Whether the capture is of local senders, whose transport checksums may be partial.
    pub local_sender: bool,
}

impl Default for PcapSpec {
    fn default() -> PcapSpec {
        PcapSpec {
            replay: None,
            times: 1,
            pace: Pace::Fast,
            record: None,
            snaplen: MAX_FRAME,
            local_sender: false,
        }
    }
}

/// When replayed frames come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pace {
    /// As fast as the port is served.
    #[default]
    Fast,
    /// With the time between frames that the capture has; a frame older than the one before comes at once.
    Recorded,
}

/// How a pcap port is doing; shared with control.
#[derive(Clone, Debug)]
pub struct PcapStatus {
    replayed: Arc<AtomicU64>,
    record: Option<Arc<RecordStatus>>,
}

impl PcapStatus {
    /// Frames that have come in from the capture.
    pub fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// The recording, if there is one.
    pub fn record(&self) -> Option<&RecordStatus> {
        self.record.as_deref()
    }
}

/// Replays a capture once through.
#[derive(Debug)]
struct Replay {
    capture: Capture,
    pace: Pace,
    rounds_left: u64,
    next: usize,
    /// When the round began, and the capture's time then.
    began: Option<(Instant, u64)>,
}

impl Replay {
    /// Time until the next frame is due; `None` at the end.
    fn due_in(&self, now: Instant) -> Option<Duration> {
        if self.rounds_left == 0 {
            return None;
        }
        let (_, time) = self.capture.frame(self.next)?;
        match (self.pace, self.began) {
            (Pace::Recorded, Some((began, first))) => {
                let at = Duration::from_nanos(time.saturating_sub(first));
                Some(at.saturating_sub(now.saturating_duration_since(began)))
            }
            _ => Some(Duration::ZERO),
        }
    }

    fn advance(&mut self, now: Instant) {
        if self.began.is_none() {
            let first = self.capture.frame(self.next).map_or(0, |(_, time)| time);
            self.began = Some((now, first));
        }
        self.next += 1;
        if self.next == self.capture.len() {
            self.next = 0;
            self.rounds_left -= 1;
            self.began = None;
        }
    }
}

/// A pcap port on its worker.
#[derive(Debug)]
pub struct PcapPort {
    arena: Arc<Arena>,
    caps: Caps,
    replay: Option<Replay>,
    recorder: Option<Recorder>,
    replayed: Arc<AtomicU64>,
    counters: PortCounters,
}

impl PcapPort {
    /// Reads the capture and creates the file to record to. Runs on the control thread.
    ///
    /// # Errors
    /// What is wrong with either file, by name; a file to record to is not touched when the capture is bad.
    pub fn open(spec: &PcapSpec, arena: Arc<Arena>) -> Result<PcapPort, PcapError> {
        let replay = match &spec.replay {
            Some(path) => Some(Replay {
                capture: Capture::read(path)?,
                pace: spec.pace,
                rounds_left: spec.times,
                next: 0,
                began: None,
            }),
            None => None,
        };
        let recorder = match &spec.record {
            Some(path) => Some(Recorder::create(path, spec.snaplen)?),
            None => None,
        };
        Ok(PcapPort {
            arena,
            caps: Caps {
                local_sender: spec.local_sender,
                superframes: false,
                takes_partial_checksum: false,
                joins_segments: false,
                takes_any_arena: false,
                takes_lent: false,
                max_segments: MAX_SEGMENTS,
                vlan: None,
            },
            replay,
            recorder,
            replayed: Arc::default(),
            counters: PortCounters::default(),
        })
    }

    /// What control can look at while the port runs.
    pub fn status(&self) -> PcapStatus {
        PcapStatus {
            replayed: self.replayed.clone(),
            record: self.recorder.as_ref().map(|r| r.status().clone()),
        }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(super) fn caps(&self) -> Caps {
        self.caps
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let Some(replay) = &mut self.replay else {
            return 0;
        };
        let now = Instant::now();
        let mut n = 0;
        while n < budget && batch.room() > 0 && replay.due_in(now) == Some(Duration::ZERO) {
            let Some((bytes, _)) = replay.capture.frame(replay.next) else {
                break;
            };
            // Memory that is short now comes back: the frame is due again next turn.
            let Some(frame) = pool.alloc_bytes(&self.arena, bytes) else {
                self.counters.fill_starved += 1;
                break;
            };
            give(batch, frame, id, pool);
            replay.advance(now);
            n += 1;
        }
        self.replayed.fetch_add(n as u64, Ordering::Relaxed);
        n
    }

    pub(super) fn transmit(&mut self, pool: &mut Pool, outbox: &mut VecDeque<Frame>) -> usize {
        let n = outbox.len();
        let time = match (&self.recorder, n) {
            (Some(_), 1..) => Recorder::now(),
            _ => 0,
        };
        for frame in outbox.drain(..) {
            if let Some(recorder) = &mut self.recorder {
                recorder.record(&frame, time);
            }
            pool.free(frame);
        }
        n
    }

    /// Passes records on while the writer is idle; true while some wait.
    pub(super) fn kick(&mut self) -> bool {
        let Some(recorder) = &mut self.recorder else {
            return false;
        };
        if recorder.writer_is_idle() {
            recorder.flush();
        }
        recorder.has_records()
    }

    pub(super) fn due_in(&self) -> Option<Duration> {
        self.replay.as_ref()?.due_in(Instant::now())
    }

    pub(super) fn counters(&self) -> PortCounters {
        let lost = self.recorder.as_ref().map_or(0, |r| r.status().lost());
        PortCounters {
            record_lost: lost,
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests;
