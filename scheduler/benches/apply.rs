//! How long `apply` takes over rows in memory: runs of ten steps, one alone and 64 beside each other. Counted in steps.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "a benchmark"
)]

mod fleet;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fleet::{ENTRIES, Fleet, STEPS};
use holdfast_scheduler::{
    apply::apply, entry::*, ids::*, orders::Orders, reply::Reply, rows::MemRows, time::Timestamp,
};

struct Core {
    rows: MemRows,
    orders: Orders,
    at: u64,
}

impl Core {
    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let body = Body::Batch {
            epoch: Epoch(0),
            proposed_at: Timestamp(self.at),
            commands,
        };
        let level = FeatureLevel(1);
        let entry = Entry { level, body };
        let applied = apply(&mut self.rows, &mut self.orders, LogIndex(self.at), &entry);
        self.at += 1;
        applied.unwrap().replies
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for width in [1, 64] {
        let mut core = Core {
            rows: MemRows::default(),
            orders: Orders::default(),
            at: 1,
        };
        let mut fleet = Fleet::new(width);
        fleet.attached(&core.apply(vec![Fleet::attach()])[0]);
        let empty = core.rows.clone();
        group.throughput(Throughput::Elements(width as u64 * u64::from(STEPS)));
        group.bench_function(format!("{width} runs of {STEPS} steps"), |b| {
            b.iter(|| {
                for _ in 0..ENTRIES {
                    let replies = core.apply(fleet.entry(LogIndex(core.at)));
                    fleet.answered(&replies);
                }
                if core.at % 1_000 < u64::from(ENTRIES) {
                    core.rows = empty.clone(); // finished runs are not what is measured
                }
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
