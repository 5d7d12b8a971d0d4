// SPDX-License-Identifier: Apache-2.0
//! Frames that leave by another worker's port.

use podswitch_datapath::counters::Event;
use podswitch_datapath::stage::Rate;
use podswitch_datapath::tables::{Action, Direction, PortSpec, Rule};
use podswitch_datapath::{PortId, WorkerId};

use crate::frames;
use crate::node::*;

#[test]
fn each_worker_judges_its_own_end() {
    let mut w = node_of(2, Rate::UNLIMITED);
    let rule = |name: &str, port| Rule {
        name: name.into(),
        priority: 1,
        source: None,
        destination: None,
        protocol: Some(frames::UDP),
        ports: Some(port..=port),
        action: Action::Deny,
    };
    w.edit(|e| {
        e.set_rule(PortId(1), Direction::Egress, rule("out", 53));
        e.set_rule(PortId(2), Direction::Ingress, rule("in", 123));
    });
    assert_ne!(
        w.tables.port(PortId(1)).unwrap().worker,
        w.tables.port(PortId(2)).unwrap().worker
    );
    for _ in 0..3 {
        let p = udp4(v4(1), v4(2), 80);
        assert_eq!(w.send_one(1, &frame4(1, &p)), sent(2, routed4(&p, mac(2))));
        let p = udp4(v4(1), v4(2), 53);
        assert_eq!(
            w.send_one(1, &frame4(1, &p)),
            dropped("policy_denied_egress")
        );
        let p = udp4(v4(1), v4(2), 123);
        assert_eq!(
            w.send_one(1, &frame4(1, &p)),
            dropped("policy_denied_ingress")
        );
    }
    let [sender, receiver] = [1, 0].map(|n: usize| w.workers[n].counters.snapshot());
    assert_eq!(
        (sender.event(Event::FlowMiss), sender.event(Event::FlowHit)),
        (5, 4)
    );
    assert_eq!(
        (
            receiver.event(Event::FlowMiss),
            receiver.event(Event::FlowHit)
        ),
        (4, 2)
    );
    let count = |c: &podswitch_datapath::counters::Counters| {
        c.rules.values().map(|t| t.packets).sum::<u64>()
    };
    assert_eq!((count(&sender), count(&receiver)), (3, 3));
    w.assert_no_leak();
}

#[test]
fn a_port_that_went_on_its_way_elsewhere_is_gone() {
    use podswitch_datapath::frame::Batch;
    use podswitch_datapath::stage::{self, Context, Heard, Now, RateLimiter};
    use podswitch_datapath::{PortSet, Reason, Verdict};
    let mut w = node_of(2, Rate::UNLIMITED);
    let caps = w.caps;
    let run = |w: &mut crate::world::World, out: u16| {
        let state = &mut w.workers[1];
        let mut batch = Batch::new();
        let frame = state.pool.alloc_bytes(&state.arena, &[0; 60]).unwrap();
        batch.push(frame, PortId(1)).unwrap();
        batch[0].meta.verdict = Verdict::Forward(PortId(out));
        let mut ctx = Context {
            tables: &w.tables,
            counters: &state.counters,
            flows: &mut state.flows,
            fragments: &mut state.fragments,
            nat: &mut state.nat,
            refusals: &mut state.refusals,
            misses: &mut state.misses,
            heard: &mut Heard::default(),
            fdb: &mut state.fdb,
            icmp: &mut RateLimiter::new(Rate::UNLIMITED),
            pool: &mut state.pool,
            superframes: &PortSet::default(),
            extra: &mut Vec::new(),
            now: Now(0),
            me: WorkerId(1),
            caps,
            joins: false,
        };
        stage::run_handoff(&mut ctx, &mut batch);
        let verdict = batch[0].meta.verdict;
        batch.drain().for_each(|p| state.pool.free(p.frame));
        verdict
    };
    assert_eq!(run(&mut w, 1), Verdict::Forward(PortId(1)));
    assert_eq!(
        run(&mut w, 2),
        Verdict::Drop(Reason::PortGone),
        "another worker's"
    );
    assert_eq!(run(&mut w, 77), Verdict::Drop(Reason::PortGone));
    w.edit(|e| {
        e.set_port(PortSpec {
            worker: WorkerId(0),
            ..pod(1)
        });
    });
    assert_eq!(run(&mut w, 1), Verdict::Drop(Reason::PortGone), "moved");
}
