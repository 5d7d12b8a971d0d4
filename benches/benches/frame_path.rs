// SPDX-License-Identifier: Apache-2.0
//! Criterion benchmarks of the frame path on ports in memory: the pipelines and loads of `podswitch-bench --only
//! frame-path`, one iteration being one packet.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podswitch_benches::frame_path::{Whole, bare, scenarios};
use podswitch_benches::turned::{Pipeline, frames_beyond_l2};

/// Time for about `packets` packets; the turns move more or fewer, which is put right.
fn time(pipeline: &mut dyn Pipeline, packets: u64) -> Duration {
    let before = pipeline.packets();
    let start = Instant::now();
    let mut moved = 0;
    while moved < packets {
        for _ in 0..256 {
            pipeline.turn();
        }
        moved = pipeline.packets() - before;
    }
    start.elapsed().mul_f64(packets as f64 / moved as f64)
}

fn frame_path(criterion: &mut Criterion) {
    let frames = frames_beyond_l2();
    for scenario in scenarios() {
        let mut group = criterion.benchmark_group(scenario.to_string());
        group.throughput(Throughput::Elements(1));
        let mut whole = Whole::new(&scenario, frames);
        group.bench_function("switch", |b| {
            b.iter_custom(|packets| time(&mut whole, packets));
        });
        whole.check();
        drop(whole);
        let mut plain = bare(&scenario, frames);
        group.bench_function("bare loop", |b| {
            b.iter_custom(|packets| time(&mut plain, packets));
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = frame_path
}
criterion_main!(benches);
