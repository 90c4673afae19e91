//! How long one replica takes to apply entries, from their bytes to rows in its database: runs of ten steps, one alone and 64
//! beside each other. Counted in steps.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "a benchmark"
)]

#[path = "../../scheduler/benches/fleet/mod.rs"]
mod fleet;

use std::sync::mpsc::channel;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fleet::{ENTRIES, Fleet, STEPS};
use futures::executor::block_on;
use holdfast_node::machine::{Engine, Proposal};
use holdfast_raft::{
    Encoded, Machine,
    state::{GroupState, StateDb, ToApply},
    types::{EntryKind, GroupId, LogId, NodeId, StoredEntry},
};
use holdfast_scheduler::{entry::Command, ids::LogIndex, reply::Reply};
use uuid::Uuid;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Replica {
    state: GroupState<Engine>,
    at: u64,
}

impl Replica {
    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let item = |command| match Engine::encode(&Proposal::Command(command)) {
            Encoded::Item(item) | Encoded::Entry(item) => item,
        };
        let items: Vec<Bytes> = commands.into_iter().map(item).collect();
        let entry = StoredEntry {
            id: LogId {
                term: 1,
                node: NodeId(1),
                index: self.at,
            },
            kind: EntryKind::Normal,
            payload: Engine::entry(0, self.at, &items),
        };
        self.at += 1;
        let (told, replies) = channel();
        let done = Some(Box::new(move |replies| drop(told.send(replies))) as _);
        block_on(self.state.apply(vec![ToApply { entry, done }])).unwrap();
        replies.recv().unwrap()
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for width in [1, 64] {
        let folder = tempfile::tempdir().unwrap();
        let db = StateDb::open(folder.path(), NodeId(1), Uuid::from_u128(7)).unwrap();
        let state = GroupState::open(&db, GroupId(1), Engine::default()).unwrap();
        let mut effects = state.effects();
        let mut replica = Replica { state, at: 1 };
        let mut fleet = Fleet::new(width);
        fleet.attached(&replica.apply(vec![Fleet::attach()])[0]);
        group.throughput(Throughput::Elements(width as u64 * u64::from(STEPS)));
        group.bench_function(format!("{width} runs of {STEPS} steps"), |b| {
            b.iter(|| {
                for _ in 0..ENTRIES {
                    let replies = replica.apply(fleet.entry(LogIndex(replica.at)));
                    fleet.answered(&replies);
                    while effects.try_next().is_some() {}
                }
            });
        });
        replica.state.close();
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
