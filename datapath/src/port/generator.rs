// SPDX-License-Identifier: Apache-2.0
//! Ports in memory that make their frames by themselves, for benches.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use super::give;
use crate::frame::{Arena, Batch, Frame, Pool};
use crate::ids::PortId;

/// Writes the frames that a port receives.
pub trait FrameSource: Debug + Send {
    /// Writes the next frame into one of one segment: an empty one, or one that was sent out of the port and still says
    /// what. False when there is none; the frame is freed then.
    fn write(&mut self, frame: &mut Frame) -> bool;

    /// How many frames the port may receive now; asked before each burst.
    fn ready(&self) -> usize {
        usize::MAX
    }

    /// So many frames were received.
    fn received(&mut self, frames: usize) {
        let _ = frames;
    }
}

/// Where the frames are kept.
#[derive(Debug)]
enum Stock {
    /// They circle.
    Circle { frames: u32, queue: VecDeque<Frame> },
    /// Nowhere: each is made when it is received, and freed when it is sent.
    None,
}

/// What a generator port has.
#[derive(Debug)]
pub(super) struct Generator {
    source: Box<dyn FrameSource>,
    stock: Stock,
}

impl Generator {
    /// Of frames that circle.
    pub(super) fn circle(frames: u32, source: Box<dyn FrameSource>) -> Generator {
        let queue = VecDeque::new();
        Generator {
            source,
            stock: Stock::Circle { frames, queue },
        }
    }

    /// Of ever new frames.
    pub(super) fn spring(source: Box<dyn FrameSource>) -> Generator {
        Generator {
            source,
            stock: Stock::None,
        }
    }

    #[inline]
    pub(super) fn has_work(&self) -> bool {
        let stocked = match &self.stock {
            Stock::Circle { frames, queue } => *frames > 0 || !queue.is_empty(),
            Stock::None => true,
        };
        stocked && self.source.ready() > 0
    }

    pub(super) fn receive(
        &mut self,
        id: PortId,
        arena: &Arc<Arena>,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> usize {
        let source = &mut self.source;
        let mut n = budget.min(source.ready());
        if n == 0 {
            return 0;
        }
        match &mut self.stock {
            Stock::Circle { frames, queue } => {
                // They come into being with the first burst.
                if *frames > 0 {
                    let missing = std::mem::take(frames);
                    queue.reserve(missing as usize * 2);
                    let made = std::iter::from_fn(|| write_new(source.as_mut(), arena, pool));
                    queue.extend(made.take(missing as usize));
                }
                n = n.min(queue.len());
                for frame in queue.drain(..n) {
                    give(batch, frame, id, pool);
                }
            }
            Stock::None => {
                let made = (0..n).map_while(|_| {
                    let frame = write_new(source.as_mut(), arena, pool)?;
                    give(batch, frame, id, pool);
                    Some(())
                });
                n = made.count();
            }
        }
        source.received(n);
        n
    }

    /// A frame was sent out of the port.
    #[inline]
    pub(super) fn sent(&mut self, mut frame: Frame, pool: &mut Pool) {
        match &mut self.stock {
            Stock::Circle { queue, .. } if write(self.source.as_mut(), &mut frame) => {
                queue.push_back(frame);
            }
            _ => pool.free(frame),
        }
    }

    pub(super) fn close(self, pool: &mut Pool) {
        if let Stock::Circle { queue, .. } = self.stock {
            queue.into_iter().for_each(|frame| pool.free(frame));
        }
    }
}

#[inline]
fn write(source: &mut dyn FrameSource, frame: &mut Frame) -> bool {
    frame.offload = crate::frame::Offload::default();
    frame.segments() == 1 && source.write(frame)
}

fn write_new(source: &mut dyn FrameSource, arena: &Arc<Arena>, pool: &mut Pool) -> Option<Frame> {
    let mut frame = pool.alloc(arena)?;
    if write(source, &mut frame) {
        return Some(frame);
    }
    pool.free(frame);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WorkerId;

    /// Numbers its frames, up to a last one.
    #[derive(Debug)]
    struct Numbers(u8, u8);

    impl FrameSource for Numbers {
        fn write(&mut self, frame: &mut Frame) -> bool {
            if self.0 == self.1 || !frame.resize(1) {
                return false;
            }
            self.0 += 1;
            frame.bytes_mut()[0] = self.0;
            true
        }
    }

    fn memory() -> (Arc<Arena>, Pool) {
        let arena = Arc::new(Arena::new(WorkerId(0), 8).unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.add_arena(arena.clone());
        (arena, pool)
    }

    /// Receives up to 4 frames and sends them out again; their first bytes.
    fn turn(port: &mut Generator, arena: &Arc<Arena>, pool: &mut Pool) -> Vec<u8> {
        let mut batch = Batch::new();
        let n = port.receive(PortId(1), arena, pool, &mut batch, 4);
        let packets: Vec<_> = batch.drain().collect();
        assert_eq!(packets.len(), n);
        let seen = packets.iter().map(|p| p.frame.bytes()[0]).collect();
        packets.into_iter().for_each(|p| port.sent(p.frame, pool));
        seen
    }

    #[test]
    fn circling_frames_come_oldest_first() {
        let (arena, mut pool) = memory();
        let mut port = Generator::circle(6, Box::new(Numbers(0, 12)));
        assert!(port.has_work());
        let mut seen = Vec::new();
        while port.has_work() {
            seen.extend(turn(&mut port, &arena, &mut pool));
        }
        assert_eq!(seen, Vec::from_iter(1..=12));
        assert_eq!(pool.free_chunks(&arena), 8);
    }

    #[test]
    fn a_spring_gives_new_frames_and_keeps_none() {
        let (arena, mut pool) = memory();
        let mut port = Generator::spring(Box::new(Numbers(0, 6)));
        assert_eq!(turn(&mut port, &arena, &mut pool), [1, 2, 3, 4]);
        assert_eq!(pool.free_chunks(&arena), 8);
        assert_eq!(turn(&mut port, &arena, &mut pool), [5, 6]);
        port.close(&mut pool);
        assert_eq!(pool.free_chunks(&arena), 8);
    }
}
