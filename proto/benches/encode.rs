//! How long keys, rows and entries take to become bytes and back: one sample of each kind per round.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    dead_code,
    unused_imports,
    reason = "a benchmark"
)]

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_proto::domain::{keys, log, rows};

fn benches(criterion: &mut Criterion) {
    let stored = samples::rows();
    let encoded: Vec<_> = stored
        .iter()
        .map(|(key, row)| (key, keys::encode(key), rows::encode(row)))
        .collect();
    let entries = samples::entries();
    let logged: Vec<_> = entries.iter().map(log::encode).collect();

    let mut group = criterion.benchmark_group("stored");
    group.throughput(Throughput::Elements(stored.len() as u64));
    group.bench_function("keys to bytes", |b| {
        b.iter(|| {
            for (key, _) in &stored {
                black_box(keys::encode(black_box(key)));
            }
        });
    });
    group.bench_function("keys from bytes", |b| {
        b.iter(|| {
            for (_, key, _) in &encoded {
                black_box(keys::decode(black_box(key)).unwrap());
            }
        });
    });
    group.bench_function("rows to bytes", |b| {
        b.iter(|| {
            for (_, row) in &stored {
                black_box(rows::encode(black_box(row)));
            }
        });
    });
    group.bench_function("rows from bytes", |b| {
        b.iter(|| {
            for (key, _, row) in &encoded {
                black_box(rows::decode(key, black_box(row)).unwrap());
            }
        });
    });
    group.throughput(Throughput::Elements(entries.len() as u64));
    group.bench_function("entries to bytes", |b| {
        b.iter(|| {
            for entry in &entries {
                black_box(log::encode(black_box(entry)));
            }
        });
    });
    group.bench_function("entries from bytes", |b| {
        b.iter(|| {
            for entry in &logged {
                black_box(log::decode(black_box(entry.clone())).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
