//! How long the two databases take: entries into the log with their syncs, and the rows of applied entries into the state.

#![allow(missing_docs, dead_code, clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::mpsc::channel;

use bytes::{BufMut, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use holdfast_raft::log::rocks::RocksLog;
use holdfast_raft::log::{LogBackend, LogOp};
use holdfast_raft::state::{GroupState, StateDb};
use holdfast_raft::types::{EntryKind, GroupId, NodeId, StoredEntry};
use support::{Command, Register, entry_of, log_id, to_apply};
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);
/// What one command of a step brings into the log.
const COMMAND_BYTES: usize = 300;
/// Rows live for a while and change: so many different ones.
const ROWS: u64 = 10_000;

/// An entry of so many commands, each of which writes a row.
fn entry(index: u64, commands: u64) -> StoredEntry {
    let ids = (index * commands)..((index + 1) * commands);
    let add = |id| Command::Add {
        id: id % ROWS,
        ballast: COMMAND_BYTES,
    };
    let commands: Vec<Command> = ids.map(add).collect();
    StoredEntry {
        id: log_id(1, index),
        kind: EntryKind::Normal,
        payload: entry_of(&commands),
    }
}

/// Appends one entry and waits until it is durable: a commit's floor on one node.
fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    for commands in [1_u64, 64] {
        let folder = tempfile::tempdir().unwrap();
        let log = RocksLog::open(folder.path(), NodeId(1)).unwrap();
        let mut index = 0;
        group.throughput(Throughput::Elements(commands));
        group.bench_function(format!("{commands} x {COMMAND_BYTES} bytes, synced"), |b| {
            b.iter(|| {
                let (told, durable) = channel();
                let done = Box::new(move |result| drop(told.send(result)));
                let append = LogOp::Append(vec![entry(index, commands)]);
                block_on(log.submit(GROUP, append, done));
                durable.recv().unwrap().unwrap();
                index += 1;
            });
        });
        log.close();
    }
    group.finish();
}

/// The floor beneath that: the same bytes into a file of their own, synced.
fn file_append(criterion: &mut Criterion) {
    use std::io::Write;
    let mut group = criterion.benchmark_group("file append");
    for commands in [1_usize, 64] {
        let folder = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(folder.path().join("file")).unwrap();
        let mut bytes = BytesMut::new();
        bytes.put_bytes(7, commands * COMMAND_BYTES);
        group.throughput(Throughput::Elements(commands as u64));
        group.bench_function(format!("{commands} x {COMMAND_BYTES} bytes, synced"), |b| {
            b.iter(|| {
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
            });
        });
    }
    group.finish();
}

/// Applies one entry: rows into memory, and now and then from there into the database.
fn overlay_commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("overlay commit");
    for commands in [1_u64, 64] {
        let folder = tempfile::tempdir().unwrap();
        let db = StateDb::open(folder.path(), NodeId(1), Uuid::from_u128(7)).unwrap();
        let state = GroupState::open(&db, GROUP, Register::default()).unwrap();
        let mut index = 0;
        group.throughput(Throughput::Elements(commands));
        group.bench_function(format!("{commands} rows"), |b| {
            b.iter(|| {
                block_on(state.apply(vec![to_apply(entry(index, commands))])).unwrap();
                index += 1;
            });
        });
        state.close();
    }
    group.finish();
}

criterion_group!(all, file_append, log_append, overlay_commit);
criterion_main!(all);
