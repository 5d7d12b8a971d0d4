// SPDX-License-Identifier: Apache-2.0
//! Real connections between pods whose stacks leave transport checksums to their device: passed on as transmit metadata
//! where the kernel takes it, filled where not. A receiver never sees a wrong sum.

mod xdp_bed;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use podswitch_datapath::frame::{Frame, Offload, Pool};
use podswitch_datapath::port::xdp::{ArenaPlan, Features};
use podswitch_datapath::wire::{self, partial};
use podswitch_host::addr;
use podswitch_host::xdp::Mode;
use xdp_bed::{Attached, Bed, DEADLINE, Pod, features};

const BYTES: usize = 3 << 20;

fn ip(pod: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, pod + 1))
}

/// What a worker does about an unfinished checksum. Says whether there was one.
fn mind_checksum(frame: &mut Frame, passes_on: bool) -> bool {
    let Ok(parsed) = wire::parse(frame.bytes(), frame.len(), false) else {
        return false;
    };
    let Some(at) = partial::detect(frame.bytes(), &parsed) else {
        return false;
    };
    if passes_on {
        frame.offload = Offload {
            partial_checksum: true,
            csum_start: at.start,
            csum_offset: at.offset,
            ..Offload::default()
        };
    } else {
        assert!(partial::fill(at, parsed.frame_len(), frame.iter_mut()));
    }
    true
}

/// Forwards both ways until told to stop; says how many frames had unfinished checksums.
fn switch(
    a: &mut Attached,
    b: &mut Attached,
    pool: &mut Pool,
    passes_on: bool,
    stop: &AtomicBool,
) -> u64 {
    let mut unfinished = 0;
    let (mut to_a, mut to_b) = (VecDeque::new(), VecDeque::new());
    let mut pass = |from: &mut Attached, to: &mut Attached, outbox: &mut VecDeque<Frame>| {
        for mut frame in from.poll(pool) {
            unfinished += u64::from(mind_checksum(&mut frame, passes_on));
            outbox.push_back(frame);
        }
        to.port.transmit(to.id, pool, outbox);
        to.port.kick();
        to.port.reclaim(pool);
    };
    while !stop.load(Ordering::Relaxed) {
        pass(a, b, &mut to_b);
        pass(b, a, &mut to_a);
    }
    to_a.into_iter().chain(to_b).for_each(|f| pool.free(f));
    unfinished
}

/// Errors the stacks of both pods counted: segments and datagrams with wrong sums.
fn checksum_errors(bed: &Bed) -> u64 {
    let read = |pod: &Pod| {
        pod.netns
            .netns()
            .run(|| {
                let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
                ["Tcp:", "Udp:"].map(|proto| {
                    let mut lines = text.lines().filter(|l| l.starts_with(proto));
                    let names = lines.next().unwrap().split(' ');
                    let values = lines.next().unwrap().split(' ');
                    let (_, value) = names
                        .zip(values)
                        .find(|(n, _)| *n == "InCsumErrors")
                        .unwrap();
                    value.parse::<u64>().unwrap()
                })
            })
            .unwrap()
            .iter()
            .sum::<u64>()
    };
    bed.pods.iter().map(read).sum()
}

fn pattern(i: usize) -> u8 {
    (i.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

/// One TCP stream and some datagrams from pod 0 to pod 1, echoed in full.
fn talk(pods: &[Pod]) {
    let (client, server) = (pods[0].netns.netns(), pods[1].netns.netns());
    let listener = server
        .run(|| TcpListener::bind((ip(1), 7)).unwrap())
        .unwrap();
    let receiver = server.run(|| UdpSocket::bind((ip(1), 7)).unwrap()).unwrap();
    let sender = client.run(|| UdpSocket::bind((ip(0), 0)).unwrap()).unwrap();
    let to = SocketAddr::from((ip(1), 7));
    let mut stream = client
        .run(|| TcpStream::connect_timeout(&to, DEADLINE).unwrap())
        .unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    for socket in [&stream, &peer] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
    }
    let sent: Vec<u8> = (0..BYTES).map(pattern).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            let mut left = BYTES;
            while left > 0 {
                let n = peer.read(&mut buffer).unwrap();
                peer.write_all(&buffer[..n]).unwrap();
                left -= n;
            }
        });
        let mut reader = stream.try_clone().unwrap();
        let reading = scope.spawn(move || {
            let mut got = vec![0; BYTES];
            reader.read_exact(&mut got).unwrap();
            got
        });
        stream.write_all(&sent).unwrap();
        assert!(
            reading.join().unwrap() == sent,
            "the stream came back changed"
        );
    });
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 2000];
    for n in 0..50usize {
        sender.send_to(&sent[..20 + 20 * n], to).unwrap();
        let (len, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((len, from.ip()), (20 + 20 * n, ip(0)));
        assert!(buffer[..len] == sent[..len]);
    }
}

fn connections_work(mode: Mode, mtu: u32, features: Features) {
    let plan = ArenaPlan::new(mtu, 2);
    let mut bed = Bed::with(mode, mtu, 2, plan, features);
    for pod in 0..2u8 {
        let mut inside = bed.pods[usize::from(pod)].netns.socket().unwrap();
        let net = format!("{}/24", ip(pod)).parse().unwrap();
        addr::add(&mut inside, "eth0", net, addr::Options::default()).unwrap();
    }
    let mut a = bed.attach(0);
    let mut b = bed.attach(1);
    assert_eq!(a.port.caps().takes_partial_checksum, features.tx_metadata);
    let passes_on = a.port.caps().takes_partial_checksum;
    let stop = AtomicBool::new(false);
    let unfinished = std::thread::scope(|scope| {
        let (a, b, pool, stop) = (&mut a, &mut b, &mut bed.pool, &stop);
        let pods = &bed.pods;
        let switching = scope.spawn(move || switch(a, b, pool, passes_on, stop));
        let talking = scope.spawn(move || talk(pods));
        // Whatever comes of the talk, the switch is to stop.
        let talked = talking.join();
        stop.store(true, Ordering::Relaxed);
        let unfinished = switching.join().unwrap();
        talked.unwrap();
        unfinished
    });
    assert!(
        unfinished > 50,
        "the pods left {unfinished} sums to their devices"
    );
    assert_eq!(checksum_errors(&bed), 0);
    assert_eq!(
        a.port.counters().tx_refused + b.port.counters().tx_refused,
        0
    );
    for port in [&a.port, &b.port] {
        assert_eq!(port.kernel_drops().unwrap().tx_invalid, 0);
    }
    bed.close(a);
    bed.close(b);
    bed.assert_all_free();
}

#[test]
fn passed_on_in_native_mode() {
    connections_work(Mode::Native, 1500, features());
}

#[test]
fn passed_on_in_generic_mode_with_large_frames() {
    connections_work(Mode::Generic, 65_535, features());
}

#[test]
fn passed_on_over_several_chunks() {
    connections_work(Mode::Native, 9000, features());
}

#[test]
fn filled_where_the_kernel_takes_none() {
    let without = Features {
        tx_metadata: false,
        ..features()
    };
    connections_work(Mode::Native, 9000, without);
}
