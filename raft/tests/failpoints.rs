//! Failpoints: every one of consensus is reached where it says, and one that is armed to kill ends the process there.
//!
//! Not here: how a point is armed from a text (`raft/src/failpoints.rs`), those of the node.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use holdfast_raft::{Keep, failpoints};
use support::add;
use support::cluster::{AGAIN, Cluster, How, PATIENCE, new_id, until};

/// So little log is kept that a follower that was away for a moment needs a snapshot.
fn forgetful() -> How {
    How {
        keep: Keep {
            snapshot_entries: 50,
            entries: 20,
        },
        ..How::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failpoint_of_consensus_is_reached_in_the_life_of_a_cluster() {
    let ours = |(name, _): &(&'static str, &str)| {
        !["lead", "grant"].contains(&name.split("::").next().unwrap())
    };
    let names: Vec<&str> = failpoints::POINTS
        .iter()
        .filter(|it| ours(it))
        .map(|it| it.0)
        .collect();
    let spec: Vec<String> = names
        .iter()
        .map(|name| format!("{name}=sleep(0)"))
        .collect();
    failpoints::arm(&spec.join(";")).unwrap();
    let mut cluster = Cluster::formed_as(1, forgetful()).await;
    let away = cluster.follower(1).await;
    cluster.node_mut(away).stop().await;
    for _ in 0..200 {
        cluster.propose(1, &add(new_id())).await;
    }
    let leader = cluster.leader(1).await;
    let replica = cluster.node(leader).replica(1);
    replica.snapshot_now().await;
    until("a snapshot is built", || {
        replica.status().snapshot > Some(150)
    })
    .await;
    replica.purge_now(150).await;
    until("the log is purged", || replica.status().purged >= Some(150)).await;
    drop(replica);
    cluster.node_mut(away).start().await;
    cluster.agreed(1).await;
    let missed: Vec<&&str> = names
        .iter()
        .filter(|name| failpoints::reached(name) == 0)
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// The process that is killed: started by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn die_at_the_third_apply() {
    let cluster = Cluster::formed_of(1, 1, How::default()).await;
    failpoints::arm("apply::before=kill@3").unwrap();
    for _ in 0..10 {
        cluster.propose(1, &add(new_id())).await;
    }
}

#[test]
fn a_failpoint_that_is_armed_to_kill_ends_the_process_at_once() {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "die_at_the_third_apply", "--ignored"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if began.elapsed() > PATIENCE * 2 {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it lives on");
        }
        std::thread::sleep(AGAIN.max(Duration::from_millis(5)));
    };
    assert_eq!(ended.signal(), Some(9), "{ended}");
}
