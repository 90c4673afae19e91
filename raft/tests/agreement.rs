//! What replicas do when their rows differ: a row is flipped on the disk of one, as a bad disk would.
//!
//! Not here: the comparison itself (`raft/src/agreement.rs` has its own tests).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use holdfast_raft::{Freshness, OpenError, ReadError, StorageFault, Verdict};
use support::cluster::{Cluster, new_id, until};
use support::{add, count, flip_count};

/// A cluster that has counted a while.
async fn counting() -> Cluster {
    let cluster = Cluster::formed(1).await;
    for _ in 0..20 {
        cluster.propose(1, &add(new_id())).await;
    }
    cluster.agreed(1).await;
    cluster
}

async fn flipped(cluster: &mut Cluster, node: u64, wrong: u64) {
    cluster.agreed(1).await;
    let node = cluster.node_mut(node);
    node.stop().await;
    flip_count(node.folder(), wrong);
    node.start().await;
}

/// It has stopped, says so to whoever reads, and does not start again.
async fn is_condemned(cluster: &mut Cluster, node: u64) {
    until("it has stopped", || {
        cluster.node(node).status(1).running.is_err()
    })
    .await;
    let replica = cluster.node(node).replica(1);
    assert!(matches!(replica.verdict(), Verdict::Wrong(_)));
    let read = replica.read(Freshness::Stale, |_| ()).await;
    assert!(
        matches!(
            &read,
            Err(ReadError::Storage(StorageFault::Diverged { .. }))
        ),
        "{read:?}"
    );
    drop(replica);
    cluster.node_mut(node).stop().await;
    let again = cluster.node_mut(node).try_start().await.unwrap_err();
    assert!(
        matches!(again, OpenError::Storage(StorageFault::Diverged { .. })),
        "{again}"
    );
    assert!(again.to_string().contains("HF6002"), "{again}");
}

/// The others count on from where they were, and agree.
async fn others_go_on(cluster: &Cluster, from: u64) {
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    for (_, replica) in cluster.seats.replicas(1) {
        let (counted, _) = replica.read(Freshness::Stale, count).await.unwrap();
        assert!(counted > from && counted < 1_000, "{counted}");
        assert!(!matches!(replica.verdict(), Verdict::Wrong(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_flipped_on_a_follower_stops_that_follower_and_no_other() {
    let mut cluster = counting().await;
    let wrong = cluster.follower(1).await;
    flipped(&mut cluster, wrong, 5_000).await;
    let term = cluster.node(cluster.leader(1).await).status(1).term;
    cluster.propose(1, &add(new_id())).await;
    is_condemned(&mut cluster, wrong).await;
    others_go_on(&cluster, 20).await;
    let now = cluster.node(cluster.leader(1).await).status(1).term;
    assert_eq!(term, now, "no election for its sake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_flipped_on_the_leader_stops_the_leader_and_the_others_elect_one_of_them() {
    let mut cluster = counting().await;
    let wrong = cluster.follower(1).await;
    flipped(&mut cluster, wrong, 5_000).await;
    cluster.make_lead(1, wrong).await;
    cluster.propose(1, &add(new_id())).await;
    is_condemned(&mut cluster, wrong).await;
    others_go_on(&cluster, 20).await;
    assert_ne!(cluster.leader(1).await, wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_that_all_differ_accuse_nobody_and_all_live() {
    let mut cluster = counting().await;
    flipped(&mut cluster, 1, 5_000).await;
    flipped(&mut cluster, 2, 7_000).await;
    cluster.propose(1, &add(new_id())).await;
    until("everyone knows of the dispute", || {
        let mut all = cluster.nodes.iter().map(|it| it.replica(1).verdict());
        all.all(|it| matches!(it, Verdict::Disputed(_)))
    })
    .await;
    assert!(cluster.nodes.iter().all(|it| it.status(1).running.is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_have_the_same_rows_are_never_in_dispute_under_load() {
    let cluster = Cluster::formed(1).await;
    let load = support::cluster::Load::on(&cluster.seats, 1, 8, 100);
    for _ in 0..20 {
        load.more(50).await;
        for node in &cluster.nodes {
            assert_eq!(node.replica(1).verdict(), Verdict::InStep);
        }
    }
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}
