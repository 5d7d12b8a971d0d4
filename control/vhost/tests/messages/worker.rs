// SPDX-License-Identifier: Apache-2.0
//! A worker whose port sends back what comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use podswitch_datapath::frame::{Arena, Batch, Pool};
use podswitch_datapath::port::Port;
use podswitch_datapath::port::vhost::{VhostDevice, VhostPort};
use podswitch_datapath::{PortId, WorkerId};

/// A worker with one port.
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(device: VhostDevice) -> Worker {
        const ID: PortId = PortId(0);
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let arena = Arc::new(Arena::new(WorkerId(0), 64).unwrap());
            let mut pool = Pool::new(WorkerId(0));
            pool.add_arena(arena.clone());
            let port = VhostPort::open(device, arena, 512).unwrap();
            let mut port = Port::Vhost(Box::new(port));
            let mut outbox = VecDeque::new();
            while !told.load(Ordering::Relaxed) {
                let mut batch = Batch::new();
                port.receive(ID, &mut pool, &mut batch, 64);
                outbox.extend(batch.drain().map(|packet| packet.frame));
                port.transmit(ID, &mut pool, &mut outbox);
                assert!(outbox.iter_mut().all(|frame| pool.fetch(frame)));
                port.release(&mut pool);
                thread::sleep(Duration::from_micros(100));
            }
            outbox.into_iter().for_each(|frame| pool.free(frame));
        });
        Worker {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}
