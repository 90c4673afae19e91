//! Bugs planted in the node on purpose, each caught: a check that holds breaks once the bug is armed.
//!
//! A bug is armed for a whole process, so each check is a test that another one starts in a process of its own, without the
//! bug and with it. Not here: bugs of consensus and disk (`raft/tests/seeded.rs`) and of the core (`jepsen`).
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../raft/tests/support/armed.rs"]
mod armed;
#[expect(dead_code, reason = "shared with the other tests")]
mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use armed::{bug_to_arm, holds, is_caught};
use harness::{Cluster, PATIENCE, Worker, advance, charge, hello, http_get, start};
use holdfast_node::{clock::GroupClock, seeded};
use holdfast_proto::v1::{self, to_worker::Message as To};
use holdfast_raft::{Clock, Stamp};
use holdfast_scheduler::time::Timestamp;
use tonic::Code;
use tonic_types::StatusExt;

/// In the process of a check: arms what it is to be run with.
fn arm() {
    if let Some(bug) = bug_to_arm() {
        seeded::arm(&bug).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a check of another test"]
async fn a_run_whose_start_was_acknowledged_is_found_on_every_node() {
    arm();
    let cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    cluster.start("order").await;
    let leader = cluster.leader(1).await;
    // Connections that are there: a read is to arrive before a follower has applied what was acknowledged.
    let mut clients: Vec<_> = (0..3).map(|node| cluster.runs(node)).collect();
    let get = |run: &str| v1::GetRequest {
        run_id: run.into(),
        ..v1::GetRequest::default()
    };
    for client in &mut clients {
        client.get(get("order")).await.unwrap();
    }
    for nth in 0..300 {
        let run = format!("order-{nth}");
        clients[leader].start(start(&run)).await.unwrap();
        for (node, client) in clients.iter_mut().enumerate().rev() {
            let got = client.get(get(&run)).await;
            assert!(got.is_ok(), "{run} on node {node}: {got:?}");
        }
    }
}

#[test]
fn a_follower_that_says_that_there_is_no_such_run_is_caught() {
    let check = "a_run_whose_start_was_acknowledged_is_found_on_every_node";
    is_caught("not-found-from-follower", check);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a check of another test"]
async fn a_signal_that_nobody_could_take_is_not_told_as_sent() {
    arm();
    let mut cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let leader = cluster.leader(1).await;
    let alone = cluster.follower().await;
    let other = (0..3).find(|nth| *nth != leader && *nth != alone).unwrap();
    cluster.nodes[other].kill();
    cluster.nodes[leader].kill();
    let signal = v1::SignalRequest {
        run_id: "order-1".into(),
        name: "approval".into(),
        signal_id: "s1".into(),
        payload: b"true".as_slice().into(),
    };
    let mut runs = cluster.runs(alone);
    let told = tokio::time::timeout(PATIENCE, runs.signal(signal)).await;
    let refused = told.expect("it is answered").unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    let error = details.error_info().expect("it has a code of ours");
    assert_eq!(error.reason, "HF1001", "{refused:?}");
}

#[test]
fn a_signal_that_is_dropped_and_told_as_sent_is_caught() {
    let check = "a_signal_that_nobody_could_take_is_not_told_as_sent";
    is_caught("signal-dropped-on-change", check);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a check of another test"]
async fn a_watched_run_is_shown_to_its_end() {
    arm();
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.runs(0).start(start("order-1")).await.unwrap();
    let request = v1::WatchRequest {
        run_id: "order-1".into(),
    };
    let watch = cluster.runs(cluster.follower().await).watch(request).await;
    let mut shown = watch.unwrap().into_inner();
    let first = tokio::time::timeout(PATIENCE, shown.message()).await;
    assert!(first.unwrap().unwrap().is_some());
    let drive = worker.drive().await;
    worker.finish(&drive).await;
    let mut last = None;
    while let Some(next) = tokio::time::timeout(PATIENCE, shown.message())
        .await
        .expect("it goes on or ends")
        .unwrap()
    {
        last = Some(next.run.unwrap().summary.unwrap().status());
    }
    assert_eq!(last, Some(v1::RunStatus::Completed));
}

#[test]
fn a_watch_that_leaves_a_change_out_is_caught() {
    is_caught(
        "watch-resume-off-by-one",
        "a_watched_run_is_shown_to_its_end",
    );
}

/// Clocks that a test moves.
#[derive(Default)]
struct Hands {
    wall: AtomicU64,
    mono: AtomicU64,
}

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }

    fn mono_ms(&self) -> u64 {
        self.mono.load(Ordering::Relaxed)
    }
}

#[test]
#[ignore = "a check of another test"]
fn a_leader_whose_wall_clock_jumps_stamps_the_time_that_went_by() {
    const HOUR_MS: u64 = 3_600_000;
    arm();
    let hands = Arc::new(Hands::default());
    hands.wall.store(10 * HOUR_MS, Ordering::Relaxed);
    let clock = GroupClock::new(Arc::clone(&hands) as Arc<dyn Clock>);
    clock.lead(7, Timestamp(10 * HOUR_MS));
    for jumped in [9, 11] {
        hands.wall.store(jumped * HOUR_MS, Ordering::Relaxed);
        hands.mono.fetch_add(500, Ordering::Relaxed);
        let expected = 10 * HOUR_MS + hands.mono_ms();
        assert_eq!(clock.stamp(), (7, expected));
        assert_eq!(clock.now(), Some(Timestamp(expected)));
    }
}

#[test]
fn a_timer_on_the_local_clock_is_caught() {
    let check = "a_leader_whose_wall_clock_jumps_stamps_the_time_that_went_by";
    is_caught("timer-on-local-clock", check);
}

/// Reads its figures until replicas are in dispute.
async fn is_in_dispute(cluster: &Cluster, node: usize) {
    let admin = cluster.nodes[node].node().admin();
    let began = Instant::now();
    loop {
        let metrics = http_get(admin, "/metrics").await;
        let mut lines = metrics.lines();
        if lines.any(|it| it.starts_with("holdfast_replica_digest_disputed{") && it.ends_with(" 1"))
        {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no dispute is noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// With a planted bug by which each replica gives the same eight steps out in an order of its own, so that all three differ.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a check of another test"]
async fn nothing_is_given_out_once_three_replicas_all_differ() {
    arm();
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    let leader = cluster.leader(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let steps = (0..8).map(|nth| {
        let mut step = charge(nth);
        step.key.as_mut().unwrap().name = format!("charge-{nth}");
        step
    });
    let advanced = worker
        .advance(advance(&drive, 1, vec![], steps.collect()))
        .await;
    assert_eq!(advanced.grants.len(), 8, "{advanced:?}");
    is_in_dispute(&cluster, leader).await;
    while !matches!(worker.next().await, None | Some(To::Moved(_))) {}
    // It is taken, and nobody is given it.
    cluster.start("order-2").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        for node in 0..3 {
            let Ok(mut worker) = Worker::attach(cluster.channel(node), hello(1)).await else {
                continue;
            };
            let given = tokio::time::timeout(Duration::from_millis(500), worker.next()).await;
            assert!(
                matches!(given, Err(_) | Ok(None | Some(To::Moved(_)))),
                "{given:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let request = v1::GetRequest {
        run_id: "order-2".into(),
        ..v1::GetRequest::default()
    };
    let got = cluster
        .runs(leader)
        .get(request)
        .await
        .unwrap()
        .into_inner();
    let status = got.run.unwrap().summary.unwrap().status();
    assert_eq!(status, v1::RunStatus::Ready);
}

#[test]
fn dispatch_stops_while_no_majority_can_tell_whose_rows_are_right() {
    let check = "nothing_is_given_out_once_three_replicas_all_differ";
    assert!(
        holds(check, "hash-order-in-apply"),
        "something is given out"
    );
    assert!(
        !holds(check, ""),
        "without a difference there is no dispute"
    );
}

/// Every bug of consensus, disk and node has its check here or in `raft/tests/seeded.rs`: none is forgotten.
#[test]
fn every_planted_bug_of_consensus_disk_and_node_has_a_check() {
    let checks = concat!(
        include_str!("seeded.rs"),
        include_str!("../../raft/tests/seeded.rs")
    );
    let checked = |name: &str| checks.contains(&format!("\"{name}\""));
    let bugs = holdfast_raft::seeded::ALL.iter().map(|(name, _)| *name);
    let missed: Vec<&str> = bugs.filter(|name| !checked(name)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
