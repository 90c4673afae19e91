//! The order in which things become durable, over a log that is slow to say so: votes, entries, truncations, installs.
//!
//! Not here: the bytes on disk after a crash (`crash`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use holdfast_raft::Member;
use holdfast_raft::log::rocks::RocksLog;
use holdfast_raft::log::{LogBackend, LogOp};
use holdfast_raft::state::{GroupState, SnapData, StateDb};
use holdfast_raft::testing::{self, Sm, Types};
use holdfast_raft::types::{GroupId, NodeId, StoredEntry};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{
    Config, EntryPayload, OptionalSend, Raft, RaftLogReader, RaftNetworkFactory,
    RaftSnapshotBuilder, RaftTypeConfig,
};
use support::delayed::Delayed;
use support::{Register, entry, log_id, to_apply};
use tempfile::TempDir;
use tokio::sync::oneshot;
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);

type CoreLeader = <Types as RaftTypeConfig>::LeaderId;

fn leader(term: u64) -> CoreLeader {
    CoreLeader { term, node_id: 1 }
}

/// An entry without commands, as consensus has it.
fn blank(term: u64, index: u64) -> <Types as RaftTypeConfig>::Entry {
    openraft::Entry {
        log_id: openraft::LogId::new(leader(term), index),
        payload: EntryPayload::Blank,
    }
}

struct Place {
    db: Arc<StateDb>,
    state: GroupState<Register>,
    _folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = StateDb::open(folder.path(), NodeId(1), Uuid::from_u128(1)).unwrap();
        let state = GroupState::open(&db, GROUP, Register::default()).unwrap();
        Self {
            db,
            state,
            _folder: folder,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.close();
    }
}

async fn submit(log: &Delayed, op: LogOp) {
    log.submit(GROUP, op, Box::new(drop)).await;
}

#[tokio::test]
async fn a_vote_is_saved_only_once_it_and_all_before_it_are_durable() {
    let backend = Delayed::new();
    let mut log = testing::log(GROUP, Arc::clone(&backend) as Arc<dyn LogBackend>);
    submit(&backend, LogOp::Append(vec![entry(1, 0)])).await;
    let vote = VoteOf::<Types> {
        leader_id: leader(2),
        committed: false,
    };
    let mut reader = log.clone();
    {
        let saving = log.save_vote(&vote);
        tokio::pin!(saving);
        assert!(futures::poll!(&mut saving).is_pending());
        assert_eq!(
            backend.waiting(),
            ["append", "vote"],
            "it overtakes nothing"
        );
        backend.sync(1);
        assert!(
            futures::poll!(&mut saving).is_pending(),
            "only the append is durable"
        );
        backend.sync(1);
        saving.await.unwrap();
    }
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn an_entry_is_applied_only_once_it_is_durable_in_its_new_form() {
    let (backend, place) = (Delayed::new(), Place::new());
    let log = Arc::clone(&backend) as Arc<dyn LogBackend>;
    let mut sm: Sm = testing::sm(GROUP, &place.state, log);
    submit(&backend, LogOp::Append(vec![entry(1, 0), entry(1, 1)])).await;
    backend.sync(1);
    let first = futures::stream::iter([Ok((blank(1, 0), None))]);
    sm.apply(first).await.unwrap();
    assert_eq!(place.state.digest().0, 0);
    // Index 1 is durable, but not the entry that stands there now.
    submit(&backend, LogOp::Truncate(Some(log_id(1, 0)))).await;
    submit(&backend, LogOp::Append(vec![entry(2, 1)])).await;
    {
        let second = futures::stream::iter([Ok((blank(2, 1), None))]);
        let applying = sm.apply(second);
        tokio::pin!(applying);
        for _ in 0..2 {
            // Neither before the truncation is durable nor after it; nothing else would hold it up for so long.
            let early = tokio::time::timeout(Duration::from_millis(300), &mut applying).await;
            assert!(early.is_err(), "applied before it was durable");
            assert_eq!(place.state.digest().0, 0);
            backend.sync(1);
        }
        applying.await.unwrap();
    }
    assert_eq!(place.state.applied().0, Some(log_id(2, 1)));
}

#[tokio::test]
async fn an_install_waits_until_the_log_before_it_is_durable() {
    let sender = Place::new();
    let entries = (0..40).map(|index| to_apply(entry(1, index)));
    sender.state.apply(entries.collect()).await.unwrap();
    let mut from = testing::sm(GROUP, &sender.state, Delayed::new());
    let mut builder = from.try_create_snapshot_builder(true).await.unwrap();
    let SnapshotOf::<Types, SnapData> { meta, snapshot } = builder.build_snapshot().await.unwrap();
    let SnapData::Local(mut blocks) = snapshot else {
        panic!("a state of one's own is local");
    };

    let (backend, place) = (Delayed::new(), Place::new());
    let log = Arc::clone(&backend) as Arc<dyn LogBackend>;
    let mut sm = testing::sm(GROUP, &place.state, log);
    let mut staging = place.state.stage().unwrap();
    while let Some(block) = blocks.next_block().unwrap() {
        staging.write(&block).unwrap();
    }
    let staged = SnapData::Staged(staging.finish(&blocks.trailer()).unwrap());
    // The conflicting tail goes in memory at once; on disk it is still there.
    submit(&backend, LogOp::Truncate(None)).await;
    let mut submitted = backend.submitted();
    {
        let installing = sm.install_snapshot(&meta, staged);
        tokio::pin!(installing);
        tokio::select! {
            _ = &mut installing => panic!("installed before the truncation was durable"),
            two = submitted.wait_for(|count| *count == 2) => drop(two.unwrap()),
        }
        assert_eq!(backend.waiting(), ["truncate", "barrier"]);
        assert!(futures::poll!(&mut installing).is_pending());
        assert_eq!(place.state.applied().0, None, "the pointer has not moved");
        backend.sync(2);
        installing.await.unwrap();
    }
    assert_eq!(place.state.digest(), sender.state.digest());
}

#[tokio::test]
async fn an_unflushed_state_is_not_offered_as_a_snapshot() {
    let place = Place::new();
    place
        .state
        .apply(vec![to_apply(entry(1, 0))])
        .await
        .unwrap();
    let mut sm = testing::sm(GROUP, &place.state, Delayed::new());
    assert!(sm.get_current_snapshot().await.unwrap().is_none());
    let mut builder = sm.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap();
    assert_eq!(place.state.persisted().await.unwrap(), 0);
    assert!(sm.get_current_snapshot().await.unwrap().is_some());
}

#[tokio::test]
async fn nothing_is_completed_before_a_sync_that_began_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = RocksLog::open(folder.path(), NodeId(1)).unwrap();
    let begun = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&begun);
    testing::on_step(folder.path(), move |step| {
        assert_eq!(step, "syncing");
        counting.fetch_add(1, Ordering::SeqCst);
    });
    let mut told = Vec::new();
    for index in 0..500 {
        let before = begun.load(Ordering::SeqCst);
        let seen = Arc::clone(&begun);
        let (done, answer) = oneshot::channel();
        let completed = move |result: io::Result<()>| {
            result.unwrap();
            done.send((before, seen.load(Ordering::SeqCst))).unwrap();
        };
        let op = match index % 5 {
            4 => LogOp::Barrier,
            _ => LogOp::Append(vec![entry(1, index - index / 5)]),
        };
        log.submit(GROUP, op, Box::new(completed)).await;
        told.push(answer);
        if index % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for answer in told {
        let (before, after) = answer.await.unwrap();
        assert!(after > before, "told at sync {after}, asked at {before}");
    }
    let syncs = begun.load(Ordering::SeqCst);
    assert!(syncs < 500, "one sync serves what has gathered: {syncs}");
}

#[tokio::test]
async fn a_backlog_is_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let log = RocksLog::open(folder.path(), NodeId(1)).unwrap();
    let (done, told) = oneshot::channel();
    let entries: Vec<StoredEntry> = (0..40)
        .map(|index| StoredEntry {
            payload: vec![1; 256 << 10].into(),
            ..entry(1, index)
        })
        .collect();
    let done = Box::new(move |result: io::Result<()>| drop(done.send(result)));
    log.submit(GROUP, LogOp::Append(entries), done).await;
    told.await.unwrap().unwrap();
    log.close();
    drop(log);

    let log: Arc<dyn LogBackend> = RocksLog::open(folder.path(), NodeId(1)).unwrap();
    assert!(!log.is_cached(GROUP, &(0..40)), "it comes from disk");
    let mut seen = testing::log(GROUP, Arc::clone(&log));
    let part = seen.limited_get_log_entries(0, 40).await.unwrap();
    assert!(
        (1..=4).contains(&part.len()),
        "1 MiB at most: {}",
        part.len()
    );
    let all = seen.entries_stream(3..38).await;
    let indexes: Vec<u64> = all.map(|it| it.unwrap().log_id.index).collect().await;
    assert!(indexes.into_iter().eq(3..38));
    log.close();
}

/// Nobody else is there.
struct Alone;

fn nobody() -> Unreachable<Types> {
    Unreachable::from_string("there is nobody else")
}

impl RaftNetworkFactory<Types> for Alone {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &Member) -> Self {
        Self
    }
}

impl RaftNetworkV2<Types> for Alone {
    type SnapshotData = SnapData;

    async fn append_entries(
        &mut self,
        _ask: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn vote(
        &mut self,
        _ask: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, SnapData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(nobody()))
    }
}

/// A node of one that starts over a log whose syncs come late and several at once.
async fn starts_within_a_second(state: &GroupState<Register>, group: GroupId, delays: u64) {
    let backend = Delayed::new();
    let log: Arc<dyn LogBackend> = Arc::clone(&backend) as Arc<dyn LogBackend>;
    let mut submitted = backend.submitted();
    let syncing = tokio::spawn(async move {
        let mut turn = delays;
        while submitted.changed().await.is_ok() {
            turn += 1;
            if !turn.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(turn % 3)).await;
            }
            while !backend.waiting().is_empty() {
                backend.sync(usize::try_from(1 + turn % 4).unwrap());
            }
        }
    });
    let config = Config {
        heartbeat_interval: 50,
        election_timeout_min: 150,
        election_timeout_max: 300,
        ..Config::default()
    };
    let sm = testing::sm(group, state, Arc::clone(&log));
    let raft = Raft::new(1, Arc::new(config), Alone, testing::log(group, log), sm);
    let raft = raft.await.unwrap();
    let alone = std::collections::BTreeMap::from([(1, Member::default())]);
    raft.initialize(alone).await.unwrap();
    let applied = raft.wait(Some(Duration::from_secs(1)));
    applied
        .applied_index_at_least(Some(1), "its first entry")
        .await
        .unwrap();
    raft.shutdown().await.unwrap();
    syncing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_goes_on_within_a_second_however_late_completions_come() {
    let place = Place::new();
    for round in 0..150 {
        let group = GroupId(100 + round);
        let state = GroupState::open(&place.db, group, Register::default()).unwrap();
        starts_within_a_second(&state, group, u64::from(round)).await;
        let close = move || state.close();
        tokio::task::spawn_blocking(close).await.unwrap();
    }
}
