//! Bugs planted on purpose, each caught: a check that holds breaks once the bug is armed.
//!
//! A bug is armed for a whole process, so each check is a test that another one starts in a process of its own, without the
//! bug and with it. Not here: bugs of the node (`node/tests/seeded.rs`) and of the core (`jepsen`).
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/armed.rs"]
mod armed;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use armed::{bug_to_arm, is_caught};
use futures::FutureExt;
use holdfast_raft::log::rocks::{OnFailure, RocksLog};
use holdfast_raft::log::{LogBackend, LogOp};
use holdfast_raft::state::{GroupState, SnapData, StateDb};
use holdfast_raft::types::Vote;
use holdfast_raft::{
    Freshness, GroupId, Keep, NodeId, OpenError, ReadError, StorageFault, Verdict, seeded, testing,
};
use parking_lot::Mutex;
use support::cluster::{Cluster, How, Load, Node, new_id, until, within};
use support::{Command, Register, add, count, entry, image, to_apply};
use tokio::sync::oneshot;
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);
/// Long enough for one answer on a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// In the process of a check: arms what it is to be run with.
fn arm() {
    let Some(name) = bug_to_arm() else { return };
    let bug = seeded::ALL.iter().find(|(known, _)| *known == name);
    seeded::arm_process(bug.unwrap().1);
}

fn open(folder: &Path) -> Result<Arc<RocksLog>, StorageFault> {
    let panicking: OnFailure = Arc::new(|fault| panic!("{fault}"));
    RocksLog::open_with(folder, NodeId(1), panicking)
}

/// Submits and waits until it is told.
async fn put(log: &RocksLog, op: LogOp) {
    let (done, told) = oneshot::channel();
    log.submit(GROUP, op, Box::new(move |result| drop(done.send(result))))
        .await;
    let told = tokio::time::timeout(ANSWER_MAX, told).await;
    told.expect("it is told in time").unwrap().unwrap();
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn a_vote_survives_a_restart() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote {
        term: 7,
        node: NodeId(1),
        committed: false,
    };
    let log = open(folder.path()).unwrap();
    put(&log, LogOp::Vote(vote)).await;
    log.close();
    drop(log);
    assert_eq!(open(folder.path()).unwrap().state(GROUP).vote, Some(vote));
}

#[test]
fn a_vote_that_is_not_persisted_is_caught() {
    is_caught("vote-not-persisted", "a_vote_survives_a_restart");
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn a_log_that_lost_its_end_is_refused() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    for index in 0..5 {
        put(&log, LogOp::Append(vec![entry(1, index)])).await;
    }
    let copy = image(folder.path());
    let files = std::fs::read_dir(copy.path().join("log")).unwrap();
    let files = files.map(|it| it.unwrap().path());
    let wal = files
        .filter(|it| it.extension().is_some_and(|it| it == "log"))
        .max();
    let wal = std::fs::OpenOptions::new()
        .write(true)
        .open(wal.unwrap())
        .unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 1).unwrap();
    let opened = open(copy.path());
    assert!(matches!(opened, Err(StorageFault::LostLog { .. })));
}

#[test]
fn a_watermark_that_is_ignored_is_caught() {
    is_caught("watermark-ignored", "a_log_that_lost_its_end_is_refused");
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn every_completion_comes_after_a_sync_that_began_after_it() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let begun = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&begun);
    testing::on_step(folder.path(), move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
    });
    for index in 0..20 {
        let before = begun.load(Ordering::SeqCst);
        put(&log, LogOp::Append(vec![entry(1, index)])).await;
        assert!(begun.load(Ordering::SeqCst) > before);
    }
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let check = "every_completion_comes_after_a_sync_that_began_after_it";
    is_caught("ack-before-fsync", check);
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn every_append_is_told_of() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    for index in 0..200 {
        put(&log, LogOp::Append(vec![entry(1, index)])).await;
    }
}

#[test]
fn a_completion_that_is_lost_is_caught() {
    is_caught("completion-lost", "every_append_is_told_of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn every_proposal_is_answered_in_time() {
    arm();
    let cluster = Cluster::formed_of(1, 1, support::cluster::How::default()).await;
    let (_, leader) = cluster.seats.leader(1).unwrap();
    for _ in 0..200 {
        let answer = tokio::time::timeout(ANSWER_MAX, leader.propose(add(new_id()))).await;
        answer.expect("it is answered").unwrap();
    }
}

#[test]
fn a_responder_that_is_forgotten_is_caught() {
    is_caught("responder-forgotten", "every_proposal_is_answered_in_time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn nothing_is_acknowledged_while_both_followers_stand_still() {
    arm();
    let cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(new_id())).await;
    let leader = cluster.leader(1).await;
    let pause = Duration::from_secs(2);
    for node in cluster.nodes.iter().filter(|it| it.id != leader) {
        node.pause(pause);
    }
    tokio::time::sleep(Duration::from_millis(200)).await; // until they stand still
    let replica = cluster.node(leader).replica(1);
    let asked = replica.propose(add(new_id()));
    let told = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(!matches!(told, Ok(Ok(_))), "{told:?}");
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    let check = "nothing_is_acknowledged_while_both_followers_stand_still";
    is_caught("ack-before-commit", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn a_linearizable_read_of_a_follower_that_lags_never_misses_an_acknowledged_write() {
    arm();
    let cluster = Cluster::formed(1).await;
    let follower = cluster.follower(1).await;
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    cluster.node(follower).gate.shut();
    cluster.propose(1, &Command::Pass).await;
    cluster.propose(1, &add(new_id())).await;
    let read = cluster
        .node(follower)
        .replica(1)
        .read(Freshness::Linear, count)
        .await;
    assert!(
        matches!(read, Ok((2, _)) | Err(ReadError::Behind { .. })),
        "{read:?}"
    );
}

#[test]
fn a_follower_that_reads_without_asking_the_leader_is_caught() {
    let check = "a_linearizable_read_of_a_follower_that_lags_never_misses_an_acknowledged_write";
    is_caught("follower-read-no-barrier", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn a_leader_whose_rows_are_wrong_stops_and_its_followers_do_not() {
    arm();
    let mut cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    let wrong = cluster.follower(1).await;
    let node = cluster.node_mut(wrong);
    node.stop().await;
    support::flip_count(node.folder(), 5_000);
    node.start().await;
    cluster.make_lead(1, wrong).await;
    cluster.propose(1, &add(new_id())).await;
    let is_wrong = |id: u64| matches!(cluster.node(id).replica(1).verdict(), Verdict::Wrong(_));
    until("somebody is found wrong", || (1..=3).any(is_wrong)).await;
    for id in 1..=3 {
        assert_eq!(is_wrong(id), id == wrong, "node {id}");
    }
}

#[test]
fn a_verdict_by_the_leader_alone_is_caught() {
    let check = "a_leader_whose_rows_are_wrong_stops_and_its_followers_do_not";
    is_caught("hash-verdict-by-leader-alone", check);
}

fn open_state(folder: &Path) -> GroupState<Register> {
    let db = StateDb::open(folder, NodeId(1), Uuid::nil()).unwrap();
    GroupState::open(&db, GROUP, Register::default()).unwrap()
}

/// A state that has counted the entries 1 to `last`.
async fn counted(folder: &Path, last: u64) -> GroupState<Register> {
    let state = open_state(folder);
    let entries = (1..=last).map(|index| to_apply(entry(1, index)));
    state.apply(entries.collect()).await.unwrap();
    state
}

/// Sends a snapshot of one state to another, which installs it.
async fn send(from: &GroupState<Register>, to: &GroupState<Register>) {
    let (meta, data) = from.snapshot().await.unwrap();
    let SnapData::Local(mut blocks) = data else {
        panic!("a state of one's own is local")
    };
    let mut staging = to.stage().unwrap();
    while let Some(block) = blocks.next_block().unwrap() {
        staging.write(&block).unwrap();
    }
    let staged = staging.finish(&blocks.trailer()).unwrap();
    let barrier = std::future::ready(Ok(())).boxed();
    to.install(meta, staged, barrier).await.unwrap();
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn a_snapshot_has_the_rows_of_the_index_that_it_names() {
    arm();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, receiver) = (counted(here.path(), 20).await, open_state(there.path()));
    send(&sender, &receiver).await;
    let found = (receiver.digest(), receiver.look(count));
    let expected = (sender.digest(), 20);
    sender.close();
    receiver.close();
    assert_eq!(found, expected);
}

#[test]
fn a_snapshot_of_two_moments_is_caught() {
    let check = "a_snapshot_has_the_rows_of_the_index_that_it_names";
    is_caught("snapshot-of-two-moments", check);
}

#[tokio::test]
#[ignore = "a check of another test"]
async fn an_install_that_is_cut_off_leaves_the_old_rows_or_the_new_ones() {
    arm();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, receiver) = (
        counted(here.path(), 20).await,
        counted(there.path(), 5).await,
    );
    drop(receiver.snapshot().await.unwrap()); // the old rows are on disk
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, folder) = (Arc::clone(&images), there.path().to_owned());
    testing::on_step(there.path(), move |step| {
        taken.lock().push((step, image(&folder)));
    });
    send(&sender, &receiver).await;
    sender.close();
    receiver.close();
    let images = std::mem::take(&mut *images.lock());
    assert_eq!(images.len(), 4);
    for (step, left) in images {
        let state = open_state(left.path());
        let found = (state.digest().0, state.look(count));
        state.close();
        assert!([(5, 5), (20, 20)].contains(&found), "at {step}: {found:?}");
    }
}

#[test]
fn an_install_that_is_not_atomic_is_caught() {
    let check = "an_install_that_is_cut_off_leaves_the_old_rows_or_the_new_ones";
    is_caught("install-not-atomic", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn what_was_acknowledged_survives_a_purge_and_the_death_of_its_only_node() {
    arm();
    let keep = Keep {
        snapshot_entries: 50,
        entries: 20,
    };
    let how = How {
        keep,
        ..How::default()
    };
    let mut cluster = Cluster::formed_of(1, 1, how).await;
    let load = Load::on(&cluster.seats, 1, 4, 100);
    load.more(300).await;
    let replica = cluster.nodes[0].replica(1);
    let groups = Arc::clone(cluster.nodes[0].groups());
    groups.tend_now(&replica).await; // a snapshot is due
    until("a snapshot is built", || {
        replica.status().snapshot > Some(100)
    })
    .await;
    groups.tend_now(&replica).await;
    until("the log is purged", || replica.status().purged > Some(50)).await;
    drop((replica, groups));
    let told = load.stop().await;
    cluster.nodes[0].kill().await;
    cluster.nodes[0].start().await;
    cluster.verify(1, &told).await;
}

#[test]
fn a_purge_past_what_is_persisted_is_caught() {
    let check = "what_was_acknowledged_survives_a_purge_and_the_death_of_its_only_node";
    is_caught("purge-past-persisted-applied", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn a_node_that_lost_its_disk_is_refused_under_its_old_id() {
    arm();
    let mut cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    let seeds: Vec<String> = cluster.nodes.iter().map(Node::address).collect();
    let lost = cluster.follower(1).await;
    let node = cluster.node_mut(lost);
    node.how.seeds = seeds;
    node.stop().await;
    node.wipe();
    let started = node.try_start().await;
    assert!(matches!(started, Err(OpenError::Wiped { .. })));
}

#[test]
fn a_node_id_that_is_used_again_is_caught() {
    let check = "a_node_that_lost_its_disk_is_refused_under_its_old_id";
    is_caught("node-id-reuse-allowed", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn a_follower_that_heard_nobody_for_a_while_comes_back_without_an_election() {
    arm();
    let how = How {
        proxied: true,
        ..How::default()
    };
    let cluster = Cluster::formed_as(1, how).await;
    cluster.propose(1, &add(new_id())).await;
    let (before, _) = cluster.agreed(1).await;
    let leader = cluster.leader(1).await;
    let term = cluster.node(leader).status(1).term;
    let away = cluster.follower(1).await;
    let proxy = cluster.node(away).proxy.as_ref().unwrap();
    // It hears nobody, and everybody hears it.
    proxy.shut();
    tokio::time::sleep(Duration::from_secs(6)).await;
    proxy.open();
    let at = cluster.propose(1, &add(new_id())).await;
    assert!(at.index > before);
    cluster.agreed(1).await;
    for node in &cluster.nodes {
        assert_eq!(node.status(1).term, term, "node {}", node.id);
    }
    assert_eq!(cluster.leader(1).await, leader);
}

#[test]
fn a_promise_of_a_vote_to_whoever_asks_is_caught() {
    let check = "a_follower_that_heard_nobody_for_a_while_comes_back_without_an_election";
    is_caught("prevote-always-grants", check);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a check of another test"]
async fn a_write_after_a_rest_is_taken_under_the_same_leader() {
    arm();
    let cluster = within(Cluster::formed(1)).await;
    within(cluster.propose(1, &add(new_id()))).await;
    cluster.agreed(1).await;
    let leader = cluster.leader(1).await;
    let replica = cluster.node(leader).replica(1);
    let term = replica.status().term;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let age = replica.quorum_ack_age().expect("it leads");
    // A heartbeat that never counts would have let it grow to four seconds.
    assert!(age < Duration::from_millis(800), "{age:?}");
    let answer = tokio::time::timeout(ANSWER_MAX, replica.propose(add(new_id()))).await;
    answer.expect("it is answered").unwrap();
    assert_eq!(replica.status().term, term);
}

#[test]
fn an_append_stream_that_is_left_open_is_caught() {
    let check = "a_write_after_a_rest_is_taken_under_the_same_leader";
    is_caught("append-stream-left-open", check);
}

/// Where a failure or a moment has to be brought about by a failpoint.
#[cfg(feature = "chaos")]
mod with_failpoints {
    use holdfast_raft::failpoints;

    use super::*;

    #[tokio::test]
    #[ignore = "a check of another test"]
    async fn an_append_whose_sync_failed_is_not_told_as_done() {
        arm();
        let folder = tempfile::tempdir().unwrap();
        let survived: OnFailure = Arc::new(|_| {});
        let log = RocksLog::open_with(folder.path(), NodeId(1), survived).unwrap();
        failpoints::arm("log::after-write=error").unwrap();
        let (done, told) = oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        log.submit(GROUP, LogOp::Append(vec![entry(1, 0)]), done)
            .await;
        assert!(told.await.unwrap().is_err());
    }

    #[test]
    fn a_failed_sync_that_is_swallowed_is_caught() {
        let check = "with_failpoints::an_append_whose_sync_failed_is_not_told_as_done";
        is_caught("fsync-error-swallowed", check);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "a check of another test"]
    async fn rows_and_pointer_reach_the_disk_together() {
        arm();
        let folder = tempfile::tempdir().unwrap();
        let state = open_state(folder.path());
        // Well before a sleep ends that begins 100 ms after the first entry.
        failpoints::arm("apply::before-write-out=sleep(3000)@1").unwrap();
        let entries = (1..=20).map(|index| to_apply(entry(1, index))).collect();
        state.apply(entries).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let left = image(folder.path());
        let opened = open_state(left.path());
        assert_eq!(
            opened.digest().0,
            opened.look(count),
            "entries, and commands counted"
        );
        opened.close();
        state.close();
    }

    #[test]
    fn an_applied_index_outside_of_the_batch_is_caught() {
        let check = "with_failpoints::rows_and_pointer_reach_the_disk_together";
        is_caught("applied-index-outside-batch", check);
    }
}
