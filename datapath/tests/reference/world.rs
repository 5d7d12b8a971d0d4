// SPDX-License-Identifier: Apache-2.0
//! A switch without threads and devices: the stages, workers' memory, and what dispatch does between them.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use podswitch_datapath::counters::{Counters, WorkerCounters};
use podswitch_datapath::events::{MissReader, Misses, Refusal, Refusals, refusals};
use podswitch_datapath::flow::{Bindings, FlowTable, Fragments, Nat, Timeouts};
use podswitch_datapath::frame::{Arena, Batch, Frame, Packet, Pool};
use podswitch_datapath::port::Caps;
use podswitch_datapath::stage::{self, Context, Heard, Learned, Now, Rate, RateLimiter, segment};
use podswitch_datapath::tables::{Edit, Gateway, NeighborKey, Tables};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::wire::partial;
use podswitch_datapath::{PortId, PortSet, Reason, Verdict, WorkerId};

/// What came of a frame that was sent into the switch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Out {
    /// A frame left by a port.
    Sent(u16, Vec<u8>),
    /// The frame, or a flooded copy of it, was dropped for the reason of this name.
    Dropped(&'static str),
}

pub(crate) struct WorkerState {
    id: WorkerId,
    pub(crate) pool: Pool,
    pub(crate) arena: Arc<Arena>,
    pub(crate) counters: WorkerCounters,
    pub(crate) flows: FlowTable,
    pub(crate) fragments: Fragments,
    pub(crate) nat: Nat,
    pub(crate) refusals: Refusals,
    pub(crate) misses: Misses,
    heard: Heard,
    /// Ports that take TCP superframes.
    pub(crate) superframes: PortSet,
    /// Samples of what was refused; as long as it is there, they can be taken.
    _refused: Receiver<Refusal>,
    pub(crate) fdb: Learned,
    icmp: RateLimiter,
    extra: Vec<Packet>,
}

pub(crate) struct World {
    pub(crate) tables: Tables,
    pub(crate) workers: Vec<WorkerState>,
    misses: MissReader,
    /// Nanoseconds.
    pub(crate) now: u64,
    /// Connections may be joined.
    pub(crate) joins: bool,
    /// Capabilities of every port; of uplinks alone the VLAN.
    pub(crate) caps: Caps,
}

pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0x70, 0x6f, 0x64, 0x73, 0x77]);
pub(crate) const CHUNKS: u32 = 512;

/// The gateway as the switch has it by default: link-local addresses.
pub(crate) fn gateway() -> Gateway {
    Gateway {
        mac: GATEWAY_MAC,
        v4: [169, 254, 1, 1].into(),
        v6: "fe80::1".parse().expect("an address"),
    }
}

impl World {
    pub(crate) fn new(workers: u8, gateway: Gateway, icmp: Rate) -> World {
        let misses = MissReader::new().expect("an eventfd");
        let no_ports =
            |_| Arc::new(Bindings::create(64, RangeInclusive::new(1, 0), 79).expect("memory"));
        let nat = Nat::of_workers((0..workers).map(no_ports).collect());
        let workers = (0..workers).zip(nat).map(|(n, nat)| {
            let id = WorkerId(n);
            let arena = Arc::new(Arena::new(id, CHUNKS).expect("memory"));
            let mut pool = Pool::new(id);
            pool.add_arena(arena.clone());
            let (refusals, refused) = refusals();
            WorkerState {
                id,
                pool,
                arena,
                counters: WorkerCounters::new(),
                flows: FlowTable::create(1024, 0x9e37 + u64::from(n), Timeouts::default())
                    .expect("memory"),
                fragments: Fragments::new(256, 78 + u64::from(n)),
                nat,
                refusals,
                misses: misses.worker(),
                heard: Heard::default(),
                superframes: PortSet::default(),
                _refused: refused,
                fdb: Learned::new(256, 77 + u64::from(n)),
                icmp: RateLimiter::new(icmp),
                extra: Vec::with_capacity(128),
            }
        });
        World {
            tables: Tables::new(gateway),
            workers: workers.collect(),
            misses,
            now: 1_000_000_000,
            joins: false,
            caps: Caps {
                local_sender: true,
                superframes: true,
                takes_partial_checksum: false,
                joins_segments: false,
                takes_any_arena: false,
                takes_lent: false,
                max_segments: 18,
                vlan: None,
            },
        }
    }

    /// Gives worker n the ports from 61000 + 100 n on, as many, for masquerading.
    pub(crate) fn reserve_ports(&mut self, each: u16) {
        self.reserve(each, |_, ports| Bindings::create(64, ports, 79));
    }

    /// The same, with what stands in files of a directory.
    pub(crate) fn reserve_ports_in(&mut self, dir: &Path, each: u16) {
        self.reserve(each, |n, ports| {
            let path = dir.join(format!("bindings-{n}"));
            Bindings::in_file(&path, 64, ports, 79, 1)
        });
    }

    fn reserve(
        &mut self,
        each: u16,
        open: impl Fn(u16, RangeInclusive<u16>) -> io::Result<Bindings>,
    ) {
        let bindings = self.workers.iter().map(|worker| {
            let n = u16::from(worker.id.0);
            let first = 61_000 + 100 * n;
            Arc::new(open(n, first..=first + each - 1).expect("memory"))
        });
        let nat = Nat::of_workers(bindings.collect());
        for (worker, nat) in self.workers.iter_mut().zip(nat) {
            worker.nat = nat;
        }
    }

    /// For which neighbors packets have waited since the last call.
    pub(crate) fn missed(&self) -> Vec<NeighborKey> {
        self.misses.read()
    }

    /// Changes the tables.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Edit)) {
        let mut edit = Edit::new(&self.tables, self.tables.generation());
        change(&mut edit);
        self.tables = edit.build().expect("tables that can be built");
        for worker in &self.workers {
            for port in self.tables.ports() {
                worker.counters.prepare_port(port.id);
                for rule in port.egress.rules().iter().chain(port.ingress.rules()) {
                    worker.counters.prepare_rule(rule.id);
                }
            }
        }
    }

    /// Sends frames into a port, as one batch; returns what came of each, sorted.
    pub(crate) fn send(&mut self, port: u16, frames: &[Vec<u8>]) -> Vec<Out> {
        let worker = self
            .tables
            .port(PortId(port))
            .map_or(0, |p| p.worker.index());
        let mut batch = Batch::new();
        for bytes in frames {
            let state = &mut self.workers[worker];
            let frame = state.pool.alloc_bytes(&state.arena, bytes).expect("chunks");
            batch.push(frame, PortId(port)).expect("room");
        }
        let mut out = Vec::new();
        self.stages(worker, &mut batch, false, &mut out);
        self.bring_home();
        out.sort();
        out
    }

    /// As [`World::send`], for one frame.
    pub(crate) fn send_one(&mut self, port: u16, frame: &[u8]) -> Vec<Out> {
        self.send(port, &[frame.to_vec()])
    }

    fn stages(&mut self, worker: usize, batch: &mut Batch, handoff: bool, out: &mut Vec<Out>) {
        let state = &mut self.workers[worker];
        let mut ctx = Context {
            tables: &self.tables,
            counters: &state.counters,
            flows: &mut state.flows,
            fragments: &mut state.fragments,
            nat: &mut state.nat,
            refusals: &mut state.refusals,
            misses: &mut state.misses,
            heard: &mut state.heard,
            fdb: &mut state.fdb,
            icmp: &mut state.icmp,
            pool: &mut state.pool,
            superframes: &state.superframes,
            extra: &mut state.extra,
            now: Now(self.now),
            me: state.id,
            caps: self.caps,
            joins: self.joins,
        };
        if handoff {
            stage::run_handoff(&mut ctx, batch);
        } else {
            stage::run(&mut ctx, batch);
        }
        let mut packets: Vec<Packet> = batch.drain().collect();
        packets.append(&mut state.extra);
        for packet in packets {
            self.dispatch(worker, packet, out);
        }
    }

    fn dispatch(&mut self, worker: usize, packet: Packet, out: &mut Vec<Out>) {
        let in_port = packet.meta.in_port;
        match packet.meta.verdict {
            Verdict::Continue => panic!("a packet without a verdict"),
            Verdict::Drop(reason) => self.drop(worker, packet, reason, out),
            Verdict::Reply => self.put(worker, packet, in_port, out),
            Verdict::Forward(port) => self.forward(worker, packet, port, out),
            Verdict::Flood => {
                let (tables, me) = (self.tables.clone(), self.workers[worker].id);
                let state = &self.workers[worker];
                let copies: Vec<_> =
                    segment::members(&tables, &state.counters, me, &packet).collect();
                for copy in copies {
                    let state = &mut self.workers[worker];
                    let frame = state
                        .pool
                        .copy(&packet.frame, &state.arena)
                        .expect("chunks");
                    let mut copied = Packet {
                        frame,
                        meta: packet.meta,
                    };
                    copied.meta.verdict = copy.verdict;
                    assert!(segment::set_tag(&mut copied, copy.tag));
                    self.dispatch(worker, copied, out);
                }
                self.workers[worker].pool.free(packet.frame);
            }
        }
    }

    fn forward(&mut self, worker: usize, packet: Packet, port: PortId, out: &mut Vec<Out>) {
        match self.tables.port(port).map(|p| p.worker.index()) {
            None => self.drop(worker, packet, Reason::PortGone, out),
            Some(owner) if owner == worker => self.put(worker, packet, port, out),
            Some(owner) => {
                let mut batch = Batch::new();
                batch.push_packet(packet).expect("room");
                self.stages(owner, &mut batch, true, out);
            }
        }
    }

    /// The frame leaves by a port of the worker: a checksum that is still partial is finished, and an uplink's VLAN has its tag.
    fn put(&mut self, worker: usize, packet: Packet, port: PortId, out: &mut Vec<Out>) {
        let Packet { mut frame, meta } = packet;
        if frame.offload.partial_checksum {
            let field = frame.offload.checksum_field();
            assert!(partial::fill(
                field,
                meta.parsed.frame_len(),
                frame.iter_mut()
            ));
        }
        let out_port = self.tables.port(port).expect("a port");
        if let Some(vlan) = self.caps.vlan.filter(|_| out_port.uplink().is_some()) {
            assert!(frame.push_tag(vlan));
        }
        out.push(Out::Sent(port.0, frame.iter().flatten().copied().collect()));
        self.workers[worker].pool.free(frame);
    }

    fn drop(&mut self, worker: usize, packet: Packet, reason: Reason, out: &mut Vec<Out>) {
        let state = &mut self.workers[worker];
        state.counters.dropped(packet.meta.in_port, reason);
        state.pool.free(packet.frame);
        out.push(Out::Dropped(reason.name()));
    }

    fn bring_home(&mut self) {
        for worker in 0..self.workers.len() {
            let frames: Vec<Frame> = self.workers[worker].pool.foreign().drain(..).collect();
            for frame in frames {
                let home = self.workers.iter_mut().find(|w| frame.is_of(&w.arena));
                home.expect("a worker's frame").pool.free(frame);
            }
        }
    }

    /// Counters of all workers together.
    pub(crate) fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for worker in &self.workers {
            all.add(&worker.counters);
        }
        all
    }

    /// Every chunk is back.
    pub(crate) fn assert_no_leak(&self) {
        for worker in &self.workers {
            assert_eq!(
                worker.pool.free_chunks(&worker.arena),
                CHUNKS,
                "chunks of worker {}",
                worker.id
            );
        }
    }
}
