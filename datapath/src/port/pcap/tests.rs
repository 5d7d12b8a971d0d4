// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::ids::WorkerId;
use std::path::Path;

const ID: PortId = PortId(5);

fn pool() -> (Pool, Arc<Arena>) {
    let arena = Arc::new(Arena::new(WorkerId(0), 256).unwrap());
    let mut pool = Pool::new(WorkerId(0));
    pool.add_arena(arena.clone());
    (pool, arena)
}

/// Records frames (with a snap length) and returns the status at the end.
fn record(path: &Path, snaplen: u32, frames: &[Vec<u8>]) -> PcapStatus {
    let (mut pool, arena) = pool();
    let spec = PcapSpec {
        record: Some(path.to_owned()),
        snaplen,
        ..PcapSpec::default()
    };
    let mut port = PcapPort::open(&spec, arena.clone()).unwrap();
    let mut outbox = VecDeque::new();
    for frame in frames {
        outbox.extend(pool.alloc_bytes(&arena, frame));
        assert_eq!(port.transmit(&mut pool, &mut outbox), 1);
        port.kick();
    }
    let status = port.status();
    drop(port);
    assert_eq!(pool.audit()[0].free, 256);
    status
}

fn replay(port: &mut PcapPort, pool: &mut Pool) -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    let mut got = Vec::new();
    while port.due_in().is_some() {
        port.receive(ID, pool, &mut batch, 3);
        for packet in batch.drain() {
            assert_eq!(packet.meta.in_port, ID);
            got.push(packet.frame.iter().flatten().copied().collect());
            pool.free(packet.frame);
        }
    }
    got
}

fn frames() -> Vec<Vec<u8>> {
    (0..40u32)
        .map(|i| (0..i * 250).map(|b| (b ^ i) as u8).collect())
        .collect()
}

#[test]
fn what_is_recorded_can_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    let status = record(&path, MAX_FRAME, &frames());
    assert_eq!(status.record().unwrap().recorded(), 40);
    assert_eq!(status.record().unwrap().failed(), None);
    let (mut pool, arena) = pool();
    let spec = PcapSpec {
        replay: Some(path),
        times: 2,
        ..PcapSpec::default()
    };
    let mut port = PcapPort::open(&spec, arena).unwrap();
    let twice: Vec<_> = frames().into_iter().chain(frames()).collect();
    assert_eq!(replay(&mut port, &mut pool), twice);
    assert_eq!(port.status().replayed(), 80);
}

#[test]
fn the_snap_length_cuts_and_the_length_on_the_wire_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    record(&path, 60, &[vec![7; 9000]]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 24 + 16 + 60);
    assert_eq!(bytes[32..40], [60, 0, 0, 0, 0x28, 0x23, 0, 0]);
    assert_eq!(Capture::read(&path).unwrap().frame(0).unwrap().0, [7; 60]);
}

#[test]
fn the_recorded_pace_keeps_the_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    let mut file = format::file_header(60).to_vec();
    for time in [5_000_000_000u64, 5_030_000_000, 4_000_000_000] {
        file.extend(format::record_header(time, 1, 1));
        file.push(1);
    }
    std::fs::write(&path, file).unwrap();
    let (mut pool, arena) = pool();
    let spec = PcapSpec {
        replay: Some(path),
        pace: Pace::Recorded,
        ..PcapSpec::default()
    };
    let mut port = PcapPort::open(&spec, arena).unwrap();
    let mut batch = Batch::new();
    let began = Instant::now();
    assert_eq!(port.receive(ID, &mut pool, &mut batch, 64), 1);
    assert!(port.due_in().unwrap() > Duration::ZERO);
    assert_eq!(port.receive(ID, &mut pool, &mut batch, 64), 0);
    while port.receive(ID, &mut pool, &mut batch, 64) == 0 {
        std::thread::yield_now();
    }
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(
        batch.len(),
        3,
        "a frame older than the one before comes at once"
    );
    assert_eq!(port.due_in(), None);
    for packet in batch.drain() {
        pool.free(packet.frame);
    }
}

#[test]
fn short_memory_delays_a_replay_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    record(&path, MAX_FRAME, &[vec![1; 60], vec![2; 60]]);
    let (mut pool, arena) = pool();
    let spec = PcapSpec {
        replay: Some(path),
        ..PcapSpec::default()
    };
    let mut port = PcapPort::open(&spec, arena.clone()).unwrap();
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc(&arena)).collect();
    let mut batch = Batch::new();
    assert_eq!(port.receive(ID, &mut pool, &mut batch, 64), 0);
    assert_eq!(port.counters().fill_starved, 1);
    for frame in held.drain(..) {
        pool.free(frame);
    }
    assert_eq!(port.receive(ID, &mut pool, &mut batch, 64), 2);
    for packet in batch.drain() {
        pool.free(packet.frame);
    }
}

#[test]
fn bad_files_are_named_when_the_port_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (_, arena) = pool();
    let keep = dir.path().join("keep");
    std::fs::write(&keep, "precious").unwrap();
    let spec = PcapSpec {
        replay: Some(dir.path().join("missing")),
        record: Some(keep.clone()),
        ..PcapSpec::default()
    };
    let error = PcapPort::open(&spec, arena.clone()).unwrap_err();
    assert!(error.to_string().contains("missing: "), "{error}");
    assert_eq!(std::fs::read(&keep).unwrap(), b"precious");
    let spec = PcapSpec {
        record: Some("/dev/full".into()),
        ..PcapSpec::default()
    };
    let error = PcapPort::open(&spec, arena).unwrap_err();
    assert!(
        error.to_string().contains("/dev/full: No space left"),
        "{error}"
    );
}
