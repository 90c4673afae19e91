//! Bugs planted on purpose, each caught: a check that holds breaks once the bug is armed.
//!
//! A bug is armed for a whole process, so each check is a test that another one starts in a process of its own, without the
//! bug and with it. Not here: bugs that only real processes or a simulated cluster can show (`raft/src/seeded.rs` says which).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_raft::log::rocks::{OnFailure, RocksLog};
use holdfast_raft::log::{LogBackend, LogOp};
use holdfast_raft::types::Vote;
use holdfast_raft::{
    Freshness, GroupId, NodeId, ReadError, StorageFault, Verdict, seeded, testing,
};
use parking_lot::Mutex;
use support::cluster::{AGAIN, Cluster, new_id, until};
use support::{Command, add, count, entry, image};
use tokio::sync::oneshot;

const GROUP: GroupId = GroupId(1);
const ARMED: &str = "SEEDED_BUG_OF_A_TEST";
/// A check takes a few seconds.
const CHECK_MAX: Duration = Duration::from_secs(90);
/// Long enough for one answer on a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Whether a check holds in a process of its own, with this bug or with none.
fn holds(check: &str, bug: &str) -> bool {
    let mut child = Process::new("sh")
        .args(["-c", "ulimit -c 0; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", check, "--ignored"])
        .env(ARMED, bug)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.success();
        }
        if began.elapsed() > CHECK_MAX {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(AGAIN);
    }
}

fn is_caught(bug: &str, check: &str) {
    // One at a time: they start clusters, and a cluster on a busy machine elects when it should not.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    assert!(holds(check, ""), "{check} breaks without any bug");
    assert!(!holds(check, bug), "{check} does not notice {bug}");
}

/// In the process of a check: arms what it is to be run with.
fn arm() {
    let name = std::env::var(ARMED).unwrap();
    if !name.is_empty() {
        let (_, bug) = seeded::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap();
        seeded::arm_process(*bug);
    }
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

/// Where a failure or a moment has to be brought about by a failpoint.
#[cfg(feature = "chaos")]
mod with_failpoints {
    use holdfast_raft::failpoints;
    use holdfast_raft::state::{GroupState, StateDb};
    use support::{Register, to_apply};
    use uuid::Uuid;

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
        let db = StateDb::open(folder.path(), NodeId(1), Uuid::nil()).unwrap();
        let state = GroupState::open(&db, GROUP, Register::default()).unwrap();
        // Well before a sleep ends that begins 100 ms after the first entry.
        failpoints::arm("apply::before-write-out=sleep(3000)@1").unwrap();
        let entries = (1..=20).map(|index| to_apply(entry(1, index))).collect();
        state.apply(entries).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let left = image(folder.path());
        let db = StateDb::open(left.path(), NodeId(1), Uuid::nil()).unwrap();
        let opened = GroupState::open(&db, GROUP, Register::default()).unwrap();
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
