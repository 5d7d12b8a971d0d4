// SPDX-License-Identifier: Apache-2.0
//! A successor goes on with the sockets, rings and memory of its predecessor.

mod xdp_bed;

use std::collections::VecDeque;
use std::sync::Arc;

use podswitch_datapath::frame::{Arena, Frame, Pool};
use podswitch_datapath::port::xdp::{Features, Handover, Umem, XdpConfig, XdpPort};
use podswitch_datapath::{PortId, WorkerId};
use podswitch_host::xdp::Mode;
use xdp_bed::{Attached, Bed, bytes, eventually, test_frame};

/// What a successor holds of everything.
struct Successor {
    umem: Umem,
    pool: Pool,
}

impl Successor {
    fn new(arena: &Arena, features: Features, ports: &[PortId]) -> Successor {
        let memfd = arena.memfd().try_clone_to_owned().unwrap();
        // SAFETY: (U5) the tests use the first mapping's pool and ports no more.
        let arena = Arc::new(unsafe { Arena::adopt(memfd) }.unwrap());
        let mut pool = Pool::new(WorkerId(0));
        pool.adopt_arena(arena.clone(), ports);
        Successor {
            umem: Umem::new(arena, features),
            pool,
        }
    }

    fn adopt(&mut self, config: &XdpConfig, handover: Handover) -> XdpPort {
        // SAFETY: (X4, U5) the tests use the first ports no more; the sizes are those they were opened with.
        unsafe { self.umem.adopt(config, handover) }.unwrap()
    }
}

fn send(bed: &mut Bed, a: &mut Attached, numbers: std::ops::Range<u32>) -> VecDeque<Frame> {
    let mut outbox: VecDeque<Frame> = numbers.map(|n| bed.frame(5000, n)).collect();
    a.port.transmit(a.id, &mut bed.pool, &mut outbox);
    outbox
}

#[test]
fn a_successor_goes_on_where_its_predecessor_stopped() {
    let mut bed = Bed::new(Mode::Native, 9000, 2);
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    // Some traffic first, so that no index is where it began.
    for n in 0..30 {
        bed.pods[0].raw.send(&test_frame(5000, n));
        a.forward_one(&mut b, &mut bed.pool);
        assert_eq!(bed.pods[1].raw.receive(), test_frame(5000, n));
    }
    // Left behind: frames received and not taken, frames for the kernel not sent, a frame in userspace.
    for n in 100..105 {
        bed.pods[0].raw.send(&test_frame(5000, n));
    }
    eventually("frames are received", || {
        a.steering.counters().unwrap().redirected == 35
    });
    assert!(send(&mut bed, &mut b, 200..203).is_empty());
    let lost = bed.frame(60, 0);
    let before = bed.audit();
    let (filling, pending) = (a.port.filling(), b.port.pending());
    assert_eq!(pending, 6);

    let mut next = Successor::new(&bed.arena, bed.features, &[PortId(0), PortId(1)]);
    let port_a = next.adopt(&bed.config(0), a.port.handover().unwrap());
    let port_b = next.adopt(&bed.config(1), b.port.handover().unwrap());
    assert_eq!((port_a.filling(), port_b.pending()), (filling, pending));
    assert_eq!((port_a.unaccounted(), port_b.unaccounted()), (0, 0));
    let audit = next.pool.audit()[0];
    assert_eq!(
        (audit.fill, audit.transmit, audit.user),
        (before.fill, before.transmit, 0)
    );
    assert_eq!(
        audit.free,
        before.free + 1,
        "the frame in userspace died with its process"
    );
    // The predecessor is gone: its ends of the rings, its mappings and its descriptors.
    let (steering_a, steering_b) = (a.steering, b.steering);
    drop((a.port, b.port));
    let _ = lost;

    let mut a = Attached {
        id: PortId(0),
        port: port_a,
        steering: steering_a,
    };
    let mut b = Attached {
        id: PortId(1),
        port: port_b,
        steering: steering_b,
    };
    b.port.kick();
    for n in 200..203 {
        assert_eq!(bed.pods[1].raw.receive(), test_frame(5000, n));
    }
    let frames = a.receive(&mut next.pool, 5);
    for (frame, n) in frames.iter().zip(100..) {
        assert_eq!(bytes(frame), test_frame(5000, n));
    }
    b.send(&mut next.pool, frames);
    for n in 100..105 {
        assert_eq!(bed.pods[1].raw.receive(), test_frame(5000, n));
    }
    for n in 300..330 {
        bed.pods[1].raw.send(&test_frame(5000, n));
        b.forward_one(&mut a, &mut next.pool);
        assert_eq!(bed.pods[0].raw.receive(), test_frame(5000, n));
    }
    assert_eq!(next.umem.open_sockets(), 2);
    for attached in [&mut a, &mut b] {
        // SAFETY: (X3) the predecessor's descriptors were closed above.
        unsafe { attached.port.assume_sole() };
    }
    for attached in [a, b] {
        let closing = attached.port.close(attached.id, &mut next.pool);
        let settled = closing.finish(xdp_bed::DEADLINE).settle(&mut next.pool);
        assert_eq!(settled.quarantined, 0);
    }
    let audit = next.pool.audit()[0];
    assert_eq!((audit.free, audit.refused), (audit.chunks, 0), "{audit:?}");
}

#[test]
fn frames_arrive_while_the_rings_change_hands() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let mut a = bed.attach(0);
    let config = bed.config(0);
    let (sent, mut received) = (config.plan.fill - 4, 0);
    // All of it fits the rings, so nothing may be missing whoever reads them.
    let sender = &bed.pods[0].raw;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..sent {
                sender.send(&test_frame(200, n));
            }
        });
        eventually("a third has arrived", || {
            for frame in a.poll(&mut bed.pool) {
                assert_eq!(bytes(&frame), test_frame(200, received));
                received += 1;
                bed.pool.free(frame);
            }
            received >= sent / 3
        });
        let mut next = Successor::new(&bed.arena, bed.features, &[PortId(0)]);
        let port = next.adopt(&config, a.port.handover().unwrap());
        let mut b = Attached {
            id: PortId(0),
            port,
            steering: a.steering,
        };
        drop(a.port);
        eventually("the rest arrives", || {
            for frame in b.poll(&mut next.pool) {
                assert_eq!(bytes(&frame), test_frame(200, received));
                received += 1;
                next.pool.free(frame);
            }
            received == sent
        });
        assert_eq!(b.port.kernel_drops().unwrap(), Default::default());
        assert_eq!(b.port.unaccounted(), 0);
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut bed = Bed::new(Mode::Native, 1500, 1);
    let a = bed.attach(0);
    let mut next = Successor::new(&bed.arena, bed.features, &[PortId(0)]);
    let mut refuse = |config: &XdpConfig, handover| {
        // SAFETY: (X4, U5) as above; refused before anything is used.
        let error = unsafe { next.umem.adopt(config, handover) };
        error.unwrap_err().to_string()
    };
    let null = Handover {
        socket: std::fs::File::open("/dev/null").unwrap().into(),
    };
    let config = bed.config(0);
    assert!(refuse(&config, null).contains("no AF_XDP socket"));
    // Another port's number: the chunks' tags do not say so.
    let other = XdpConfig {
        id: PortId(9),
        ..config
    };
    let error = refuse(&other, a.port.handover().unwrap());
    assert!(
        error.contains("port 9") && error.contains("0 chunks are tagged"),
        "{error}"
    );
    let mut larger = config;
    larger.plan.rings.rx *= 1024;
    let error = refuse(&larger, a.port.handover().unwrap());
    assert!(error.contains("mmap of a ring"), "{error}");
}
