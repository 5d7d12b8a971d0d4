// SPDX-License-Identifier: Apache-2.0
//! Records frames into a capture file from a thread of its own: the worker never waits for the disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::format::{PcapError, RECORD_HEADER, file_header, record_header};
use crate::frame::{Frame, MAX_FRAME};

const BLOCK_BYTES: usize = 128 << 10;
const BLOCKS: usize = 16;
const _: () = assert!(BLOCK_BYTES > MAX_FRAME as usize + RECORD_HEADER);

/// Records and the bytes of them, on their way to the file.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    frames: u64,
}

/// How a recording is doing; shared with control.
#[derive(Debug, Default)]
pub struct RecordStatus {
    recorded: AtomicU64,
    lost: AtomicU64,
    failed: OnceLock<String>,
}

impl RecordStatus {
    /// Frames in the file.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Frames not recorded: the disk was too slow, or recording has stopped.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Why recording has stopped, if it has: the file, the place and the error.
    pub fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }
}

/// The worker's end of a recording.
#[derive(Debug)]
pub(super) struct Recorder {
    full: Option<Sender<Block>>,
    empty: Receiver<Block>,
    current: Option<Block>,
    snaplen: u32,
    status: Arc<RecordStatus>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Creates (or empties) the file and starts the thread that writes it.
    pub(super) fn create(path: &Path, snaplen: u32) -> Result<Recorder, PcapError> {
        let fail = |e| PcapError::file(path, e);
        let mut file = File::create(path).map_err(fail)?;
        let snaplen = snaplen.clamp(1, MAX_FRAME);
        file.write_all(&file_header(snaplen)).map_err(fail)?;
        let (full, to_write) = bounded(BLOCKS);
        let (written, empty) = bounded(BLOCKS);
        for _ in 1..BLOCKS {
            // The channel was made with this many places.
            let _ = written.try_send(Block {
                bytes: Vec::with_capacity(BLOCK_BYTES),
                frames: 0,
            });
        }
        let status = Arc::new(RecordStatus::default());
        let writer = Writer {
            path: path.to_owned(),
            file,
            good: super::format::FILE_HEADER as u64,
            status: status.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("pcap-record".into())
            .spawn(move || writer.run(&to_write, &written))
            .map_err(fail)?;
        Ok(Recorder {
            full: Some(full),
            empty,
            current: None,
            snaplen,
            status,
            thread: Some(thread),
        })
    }

    pub(super) fn status(&self) -> &Arc<RecordStatus> {
        &self.status
    }

    /// Now, as records carry it.
    pub(super) fn now() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64)
    }

    /// Takes a copy of a frame's bytes, or counts it as lost when no block is free.
    pub(super) fn record(&mut self, frame: &Frame, time: u64) {
        let captured = frame.len().min(self.snaplen);
        let needed = RECORD_HEADER + captured as usize;
        if let Some(block) = &self.current
            && BLOCK_BYTES - block.bytes.len() < needed
        {
            self.flush();
        }
        if self.current.is_none() {
            self.current = self.empty.try_recv().ok();
        }
        let Some(block) = &mut self.current else {
            self.status.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        block
            .bytes
            .extend_from_slice(&record_header(time, captured, frame.len()));
        let mut left = captured as usize;
        for segment in frame.iter() {
            let n = segment.len().min(left);
            block.bytes.extend_from_slice(&segment[..n]);
            left -= n;
        }
        block.frames += 1;
    }

    /// Whether the writer has nothing to do, so that a block may go before it is full.
    pub(super) fn writer_is_idle(&self) -> bool {
        self.full.as_ref().is_some_and(Sender::is_empty)
    }

    /// Whether records wait to be passed to the writer.
    pub(super) fn has_records(&self) -> bool {
        self.current.is_some()
    }

    /// Passes what was taken so far to the writer.
    pub(super) fn flush(&mut self) {
        if let (Some(block), Some(full)) = (self.current.take(), &self.full) {
            let frames = block.frames;
            // There are no more blocks than places, so only a dead writer refuses one.
            if full.try_send(block).is_err() {
                self.status.lost.fetch_add(frames, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
        self.full = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            let _ = self.status.failed.set("the recording thread died".into());
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    good: u64,
    status: Arc<RecordStatus>,
}

impl Writer {
    fn run(mut self, full: &Receiver<Block>, empty: &Sender<Block>) {
        for mut block in full {
            if self.status.failed().is_none()
                && let Err(error) = self.write(&block)
            {
                self.give_up(&error);
            }
            let count = match self.status.failed() {
                None => &self.status.recorded,
                Some(_) => &self.status.lost,
            };
            count.fetch_add(block.frames, Ordering::Relaxed);
            block.bytes.clear();
            block.frames = 0;
            // There are as many places as blocks.
            let _ = empty.try_send(block);
        }
    }

    fn write(&mut self, block: &Block) -> io::Result<()> {
        self.file.write_all(&block.bytes)?;
        self.good += block.bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file back to its last whole block, so that it stays readable, and says why it ends there.
    fn give_up(&self, error: &io::Error) {
        let tail = match self.file.set_len(self.good) {
            Ok(()) => String::new(),
            Err(e) => format!("; its end is damaged ({e})"),
        };
        let _ = self.status.failed.set(format!(
            "recording to {} stopped after {} bytes: {error}{tail}",
            self.path.display(),
            self.good,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::pcap::Capture;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    fn block(frames: u64) -> Block {
        let mut bytes = Vec::new();
        for _ in 0..frames {
            bytes.extend(record_header(0, 1000, 1000));
            bytes.extend([9; 1000]);
        }
        Block { bytes, frames }
    }

    fn run(file: File, blocks: Vec<Block>) -> Arc<RecordStatus> {
        let (full, to_write) = bounded(BLOCKS);
        let (written, empty) = bounded(BLOCKS);
        let count = blocks.len();
        for block in blocks {
            full.send(block).unwrap();
        }
        drop(full);
        let status = Arc::new(RecordStatus::default());
        let writer = Writer {
            path: "out.pcap".into(),
            file,
            good: 0,
            status: status.clone(),
        };
        writer.run(&to_write, &written);
        assert_eq!(empty.try_iter().count(), count, "every block comes back");
        status
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_says_so() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let status = run(full, vec![block(2), block(3)]);
        assert_eq!((status.recorded(), status.lost()), (0, 5));
        let why = status.failed().unwrap();
        assert!(
            why.contains("out.pcap") && why.contains("No space left"),
            "{why}"
        );
    }

    #[test]
    fn a_file_that_stops_growing_keeps_whole_records() {
        let fd = memfd_create("pcap-test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, 6000).unwrap();
        fcntl_add_seals(&fd, SealFlags::GROW).unwrap();
        let file = File::from(fd);
        let look = file.try_clone().unwrap();
        let status = run(file, vec![block(1), block(2), block(4), block(1)]);
        assert_eq!((status.recorded(), status.lost()), (3, 5));
        let why = status.failed().unwrap();
        assert!(why.contains("stopped after 3048 bytes"), "{why}");
        assert_eq!(look.metadata().unwrap().len(), 3 * 1016);
        let mut bytes = file_header(1000).to_vec();
        std::io::Seek::rewind(&mut &look).unwrap();
        io::Read::read_to_end(&mut &look, &mut bytes).unwrap();
        assert_eq!(Capture::parse(bytes, Path::new("x")).unwrap().len(), 3);
    }
}
