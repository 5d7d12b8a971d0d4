// SPDX-License-Identifier: Apache-2.0
//! What a worker does when control asks. Answers may find nobody waiting any more; that is no error.
#![forbid(unsafe_code)]

use super::Worker;
use super::clock::cycles;
use super::mailbox::Request;
use crate::ids::PortId;
use crate::port::Port;
use crate::stage::Now;

impl Worker {
    /// Answers every request in the mailbox.
    #[cold]
    pub(super) fn answer(&mut self) {
        while let Some(request) = self.inbox.next() {
            self.answer_one(request);
        }
        self.stopping = self.inbox.stopped();
    }

    fn answer_one(&mut self, request: Request) {
        let engine = &mut self.engine;
        let pool = &mut engine.outlets.pool;
        match request {
            Request::AddArena(arena, answer) => {
                pool.add_arena(arena);
                let _ = answer.send(());
            }
            Request::RemoveArena(arena, answer) => {
                let _ = answer.send(pool.remove_arena(&arena));
            }
            Request::AddPort(id, port, answer) => {
                let _ = answer.send(self.add_port(id, *port));
            }
            Request::RemovePort(id, answer) => {
                if let Some(at) = engine.outlets.at(id) {
                    self.bed.unwatch(&engine.outlets.slots[at].port);
                }
                engine.drain_peers(self.tables.refresh());
                let _ = answer.send(engine.remove_port(id));
            }
            Request::Settle(released, closing) => {
                released.settle(pool);
                drop(closing);
            }
            Request::Forget(id, answer) => {
                engine.memory.fdb.forget_port(id);
                let _ = answer.send(());
            }
            Request::Pass(answer) => {
                let _ = answer.send(cycles());
            }
            Request::Audit(answer) => {
                let _ = answer.send(pool.audit());
            }
            Request::Learned(from, most, answer) => {
                let now = Now(self.clock.monotonic(cycles()));
                let mut entries = engine.memory.fdb.entries(now).skip(from);
                let page: Vec<_> = entries.by_ref().take(most).collect();
                let next = entries.next().map(|_| from + page.len());
                let _ = answer.send((page, next));
            }
            Request::NeverSleep => self.spin = None,
        }
    }

    fn add_port(&mut self, id: PortId, port: Port) -> std::io::Result<()> {
        self.bed.watch(&port)?;
        self.engine.outlets.add(id, port)
    }
}
