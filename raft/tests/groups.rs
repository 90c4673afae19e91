//! Three nodes over real gRPC: forming, leaders that leave and die, membership, identity, reads.
//!
//! Not here: what goes wrong on the way (`faults`), one node's log and state (`crash`, `order`, `state`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::peer as wire;
use holdfast_proto::peer::peer_client::PeerClient;
use holdfast_raft::{
    FormError, Formed, Freshness, GroupId, MemberError, NodeId, NodeRef, OpenError, Profile,
    ReadError, Reservation,
};
use prost::Message;
use support::cluster::{AGAIN, Cluster, How, Load, Node, PATIENCE, Seats, new_id, until, within};
use support::{add, count, times};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use uuid::Uuid;

const GROUP: GroupId = GroupId(1);

async fn form_and_agree(partitions: u32) {
    let cluster = Cluster::formed(partitions).await;
    for group in 1..=partitions {
        for _ in 0..50 {
            cluster.propose(group, &add(new_id())).await;
        }
        cluster.agreed(group).await;
        for node in &cluster.nodes {
            let read = node.replica(group).read(Freshness::Stale, count).await;
            assert_eq!(read.unwrap().0, 50, "each group counts for itself");
        }
    }
    let init = |name: &'static str, partitions| {
        let named = cluster.nodes.iter().map(Node::named).collect();
        cluster.nodes[1].groups().init(name, partitions, named)
    };
    assert!(init("test", partitions).await.unwrap().already, "a repeat");
    for refused in [init("other", partitions).await, init("test", 7).await] {
        assert!(
            matches!(refused, Err(FormError::Taken { .. })),
            "{refused:?}"
        );
    }
    let refused = cluster.nodes[2].groups().abandon().await.unwrap_err();
    assert!(refused.to_string().contains("has a log"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_and_agree() {
    form_and_agree(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_of_three_partitions_and_agree_in_each() {
    form_and_agree(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leaves_hands_over_first_and_every_request_is_applied_at_most_once() {
    let mut cluster = Cluster::formed(3).await;
    let loads: Vec<Load> = (1..=3)
        .map(|group| Load::on(&cluster.seats, group, 3, 100))
        .collect();
    for _ in 0..3 {
        for load in &loads {
            load.more(30).await;
        }
        let leader = cluster.leader(1).await;
        let began = Instant::now();
        cluster.node_mut(leader).stop().await;
        loads[0].more(1).await;
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(6),
            "it was not handed over: {took:?}"
        );
        cluster.node_mut(leader).start().await;
    }
    for (load, group) in loads.into_iter().zip(1..) {
        let told = load.stop().await;
        cluster.verify(group, &told).await;
    }
}

/// Until somebody other than `gone` leads and has applied a command.
async fn next_commit(seats: Seats, gone: u64) -> Duration {
    let began = Instant::now();
    loop {
        if let Some((id, leader)) = seats.leader(1)
            && id != gone
            && leader.propose(add(new_id())).await.is_ok()
        {
            return began.elapsed();
        }
        let left = || seats.replicas(1).into_iter().map(|it| it.1.status());
        assert!(
            began.elapsed() < PATIENCE,
            "nobody took over: {:#?}",
            left().collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_process_dies_is_followed_at_once_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::formed(1).await;
    let load = Load::on(&cluster.seats, 1, 4, 100);
    let mut took = Vec::new();
    for _ in 0..5 {
        load.more(50).await;
        let leader = cluster.leader(1).await;
        let commit = next_commit(cluster.seats.clone(), leader);
        let (waited, ()) = tokio::join!(commit, cluster.node_mut(leader).kill());
        took.push(waited);
        cluster.node_mut(leader).start().await;
        until("the killed node has caught up", || {
            let last = cluster
                .seats
                .leader(1)
                .and_then(|(_, it)| it.status().last_log);
            let applied = cluster.node(leader).status(1).applied;
            applied
                .zip(last)
                .is_some_and(|(applied, last)| applied + 500 > last)
        })
        .await;
    }
    let told = load.stop().await;
    cluster.verify(1, &told).await;
    // By timeout alone it takes the lease and an election timeout more: 2.3 s at least.
    took.sort();
    assert!(took[2] < Duration::from_millis(1_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_takeover_a_dead_leader_is_followed_after_its_lease() {
    let how = How {
        takeover: false,
        profile: Profile::Lan,
        ..How::default()
    };
    let mut cluster = Cluster::formed_as(1, how).await;
    // Before that nobody but the leader may know who belongs to the group.
    cluster.propose(1, &add(new_id())).await;
    let leader = cluster.leader(1).await;
    let commit = next_commit(cluster.seats.clone(), leader);
    let (waited, ()) = tokio::join!(commit, cluster.node_mut(leader).kill());
    assert!(
        waited > Duration::from_millis(400),
        "before its lease ended: {waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_the_death_of_all_nodes_at_once() {
    let mut cluster = Cluster::formed(1).await;
    for _ in 0..3 {
        let load = Load::on(&cluster.seats, 1, 8, 200);
        load.more(200).await;
        join_all(cluster.nodes.iter_mut().map(Node::kill)).await;
        let told = load.stop().await;
        for node in &mut cluster.nodes {
            node.start().await;
        }
        cluster.verify(1, &told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_catches_up() {
    let mut cluster = Cluster::formed(1).await;
    let load = Load::on(&cluster.seats, 1, 4, 500);
    for gently in [true, false] {
        let follower = cluster.follower(1).await;
        if gently {
            cluster.node_mut(follower).stop().await;
        } else {
            cluster.node_mut(follower).kill().await;
        }
        load.more(300).await;
        cluster.node_mut(follower).start().await;
    }
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

fn voters(cluster: &Cluster, node: u64) -> Vec<BTreeSet<u64>> {
    let voters = cluster.node(node).status(1).voters;
    voters
        .iter()
        .map(|ids| ids.iter().map(|id| id.0).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_replaced_in_one_step_and_removed_the_leader_only_after_handing_over() {
    let mut cluster = Cluster::formed(1).await;
    let load = Load::on(&cluster.seats, 1, 2, 100);
    load.more(50).await;
    let leader = cluster.leader(1).await;

    let four = cluster.another(4, How::default()).await.address();
    let groups = cluster.node(leader).groups();
    let added = groups.add(GROUP, &four, None, None).await.unwrap();
    assert_eq!(added, NodeId(4));
    assert_eq!(voters(&cluster, leader), [BTreeSet::from([1, 2, 3, 4])]);
    groups.add(GROUP, &four, None, None).await.unwrap(); // a repeat

    let old = (1..=3).find(|id| *id != leader).unwrap();
    let five = cluster.another(5, How::default()).await.address();
    let groups = cluster.node(leader).groups();
    let replaced = groups.add(GROUP, &five, None, Some(NodeId(old))).await;
    assert_eq!(replaced.unwrap(), NodeId(5));
    let mut expected = BTreeSet::from([1, 2, 3, 4, 5]);
    expected.remove(&old);
    assert_eq!(voters(&cluster, leader), [expected.clone()]);

    let own = groups.remove(GROUP, NodeId(leader)).await.unwrap_err();
    assert!(own.to_string().contains("move leadership first"), "{own}");
    groups.transfer(GROUP, Some(NodeId(4))).await.unwrap();
    until("node 4 leads", || {
        cluster.seats.leader(1).is_some_and(|(id, _)| id == 4)
    })
    .await;
    let began = Instant::now();
    loop {
        // Refused until the successor has committed an entry of its own.
        let removed = cluster.node(4).groups().remove(GROUP, NodeId(leader)).await;
        match removed {
            Ok(()) => break,
            Err(MemberError::Change(why)) => assert!(began.elapsed() < PATIENCE, "{why}"),
            Err(why) => panic!("{why}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    expected.remove(&leader);
    assert_eq!(voters(&cluster, 4), [expected]);

    // Those who are out keep what they had and disturb nobody.
    let term = cluster.node(4).status(1).term;
    load.more(100).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    load.more(100).await;
    assert_eq!(cluster.node(4).status(1).term, term);

    // An id is never used again by another disk.
    for id in [old, leader] {
        cluster.node_mut(id).stop().await;
        cluster.node_mut(id).wipe();
    }
    cluster.node_mut(old).start().await;
    let address = cluster.node(old).address();
    let used = cluster
        .node(4)
        .groups()
        .add(GROUP, &address, None, None)
        .await;
    assert!(
        used.unwrap_err()
            .to_string()
            .contains("was used in this cluster")
    );
    cluster.node_mut(old).stop().await;

    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_reads_at_once_under_a_leader_that_joined_later_and_nobody_knows_who_left()
 {
    let mut cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let four = cluster.another(4, How::default()).await.address();
    let groups = cluster.node(leader).groups();
    groups.add(GROUP, &four, None, None).await.unwrap();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.make_lead(1, 4).await;
    cluster.propose(1, &add(new_id())).await;
    cluster.node_mut(follower).stop().await;
    cluster.node_mut(follower).start().await;
    let replica = cluster.node(follower).replica(1);
    let groups = Arc::clone(cluster.node(follower).groups());
    until("a connection to its leader", || {
        groups.connected().contains(&NodeId(4))
    })
    .await;
    let began = Instant::now();
    let found = loop {
        match replica.read(Freshness::Linear, count).await {
            Ok((found, _)) => break found,
            Err(why) => assert!(began.elapsed() < PATIENCE, "{why}"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    assert_eq!(found, 1);

    let gone = (1..=3).find(|id| *id != follower).unwrap();
    let removed = cluster.node(4).groups().remove(GROUP, NodeId(gone)).await;
    removed.unwrap();
    let stay: BTreeSet<u64> = (1..=4).filter(|id| *id != gone).collect();
    for id in &stay {
        let others: BTreeSet<u64> = stay.iter().copied().filter(|it| it != id).collect();
        let groups = Arc::clone(cluster.node(*id).groups());
        until("connections to those who stay alone", || {
            groups
                .connected()
                .iter()
                .map(|it| it.0)
                .eq(others.iter().copied())
        })
        .await;
    }
}

/// The geneses of which some node has a log.
fn living_geneses(cluster: &Cluster) -> BTreeSet<Uuid> {
    let with_log = cluster.nodes.iter().filter(|node| {
        let replicas = node.groups().replicas();
        let replicas = replicas.borrow();
        replicas.iter().any(|it| it.status().last_log.is_some())
    });
    with_log
        .map(|node| node.groups().reservation().unwrap().genesis)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_inits_at_once_at_most_one_genesis_gets_a_log_and_the_other_is_refused_by_name() {
    for round in 0..4 {
        let cluster = Cluster::unformed(4, 1, How::default()).await;
        // Both ask node 2 first in even rounds; each begins with its own in odd ones.
        let (one, two) = match round % 2 {
            0 => ([2, 1, 3], [2, 4, 3]),
            _ => ([1, 2, 3], [4, 3, 2]),
        };
        let named = |ids: [u64; 3]| ids.map(|id| cluster.node(id).named()).to_vec();
        let (one, two) = tokio::join!(
            cluster.node(1).groups().init("one", 1, named(one)),
            cluster.node(4).groups().init("two", 1, named(two)),
        );
        let formed = [&one, &two].into_iter().filter(|it| it.is_ok()).count();
        assert!(formed <= 1, "round {round}: {one:?} and {two:?}");
        for refused in [one.as_ref(), two.as_ref()]
            .into_iter()
            .filter_map(Result::err)
        {
            let said = refused.to_string();
            assert!(matches!(refused, FormError::Taken { .. }), "{said}");
            assert!(
                said.contains("\"one\"") || said.contains("\"two\""),
                "{said}"
            );
        }
        until("the cluster that was formed has a log", || {
            living_geneses(&cluster).len() >= formed
        })
        .await;
        assert_eq!(living_geneses(&cluster).len(), formed, "round {round}");

        // What holds no log is taken back, and what does is not.
        for node in &cluster.nodes {
            let belongs = node.groups().reservation().map(|it| it.genesis);
            let lives = belongs.is_some_and(|it| living_geneses(&cluster).contains(&it));
            if lives {
                until("its log has come", || {
                    node.replica(1).status().last_log.is_some()
                })
                .await;
            }
            let abandoned = node.groups().abandon().await;
            assert_eq!(
                abandoned.is_ok(),
                belongs.is_some() && !lives,
                "{abandoned:?}"
            );
        }
        if formed == 0 {
            let all = cluster.nodes.iter().map(Node::named).collect();
            let formed = cluster.nodes[0].groups().init("three", 1, all).await;
            assert!(!formed.unwrap().already);
            cluster.propose(1, &add(new_id())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_that_was_abandoned_leaves_nothing_behind_in_the_next() {
    let mut cluster = Cluster::unformed(2, 1, How::default()).await;
    let picky = How {
        cluster_name: Some("right".to_owned()),
        ..How::default()
    };
    cluster.another(3, picky).await;
    let init = |name: &'static str| {
        let named = cluster.nodes.iter().map(Node::named).collect();
        cluster.node(1).groups().init(name, 1, named)
    };
    let refused = init("wrong").await.unwrap_err();
    assert!(refused.to_string().contains("\"right\" only"), "{refused}");
    for id in [1, 2] {
        let held = cluster.node(id).groups().reservation().unwrap();
        assert_eq!(held.cluster_id, "wrong");
        cluster.node(id).groups().abandon().await.unwrap();
        assert!(cluster.node(id).groups().reservation().is_none());
    }
    let again = cluster.node(1).groups().abandon().await.unwrap_err();
    assert!(again.to_string().contains("no reservation"), "{again}");

    assert!(!init("right").await.unwrap().already);
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    // Each watches both others, under the genesis that counts now.
    for node in &cluster.nodes {
        let replica = node.replica(1);
        until("it hears the clocks of both", || {
            replica.clock_offsets_ms().len() == 2
        })
        .await;
    }
}

async fn init_all(cluster: &Cluster) -> Result<Formed, FormError> {
    let named = cluster.nodes.iter().map(Node::named).collect();
    cluster.node(1).groups().init("test", 1, named).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_under_the_old_id_is_refused_and_two_of_three_form_no_new_cluster() {
    let mut cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(7)).await;
    let seeds: Vec<String> = cluster.nodes.iter().map(Node::address).collect();
    for node in &mut cluster.nodes {
        node.how.seeds.clone_from(&seeds);
    }
    cluster.agreed(1).await;

    cluster.node_mut(1).stop().await;
    cluster.node_mut(1).wipe();
    let refused = cluster.node_mut(1).try_start().await.unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Wiped {
                node: NodeId(1),
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("new node id"), "{refused}");

    // Two of three are wiped while nobody who knows them is up: they start, and belong to nothing.
    cluster.node_mut(2).stop().await;
    cluster.node_mut(2).wipe();
    cluster.node_mut(3).stop().await;
    cluster.node_mut(1).start().await;
    cluster.node_mut(2).start().await;
    let absent = init_all(&cluster).await.unwrap_err();
    assert!(matches!(absent, FormError::Unreachable { .. }), "{absent}");
    cluster.node_mut(3).start().await;
    let changed = init_all(&cluster).await.unwrap_err();
    assert!(matches!(changed, FormError::Refused(_)), "{changed}");
    for id in [1, 2] {
        assert!(cluster.node(id).groups().reservation().is_none());
        assert!(cluster.node(id).groups().replicas().borrow().is_empty());
    }
    // Nor do they help the third: it leads nothing, and still has what it had.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(cluster.seats.leader(1).is_none());
    let survivor = cluster.node(3).replica(1);
    let kept = survivor.read(Freshness::Stale, |rows| times(rows, 7)).await;
    assert_eq!(kept.unwrap().0, 1);
}

/// Calls every RPC that concerns a group, or needs a cluster, with this address.
async fn call_all(to: &str, address: Option<&wire::Address>) -> Vec<(&'static str, Status)> {
    fn with<T>(message: T, address: Option<&wire::Address>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(address) = address {
            let bytes = MetadataValue::from_bytes(&address.encode_to_vec());
            request
                .metadata_mut()
                .insert_bin("holdfast-peer-bin", bytes);
        }
        request
    }
    let mut peer = PeerClient::connect(format!("http://{to}")).await.unwrap();
    let frames = || tokio_stream::iter([wire::Append::default()]);
    let blocks = || tokio_stream::iter([wire::SnapshotFrame::default()]);
    let mut refused = Vec::new();
    macro_rules! call {
        ($name:literal, $method:ident, $message:expr) => {
            match within(peer.$method(with($message, address))).await {
                Err(status) => refused.push(($name, status)),
                Ok(_) => refused.push(($name, Status::ok("it was taken"))),
            }
        };
    }
    call!("AppendStream", append_stream, frames());
    call!("Heartbeat", heartbeat, wire::Append::default());
    call!("Vote", vote, wire::VoteAsk::default());
    call!("PreVote", pre_vote, wire::VoteAsk::default());
    call!("Transfer", transfer, wire::TransferAsk::default());
    call!("ReadIndex", read_index, wire::ReadIndexAsk {});
    call!("Watch", watch, wire::WatchAsk {});
    call!("Snapshot", snapshot, blocks());
    refused
}

fn node_ref(of: NodeRef) -> wire::NodeRef {
    wire::NodeRef {
        id: of.id.0,
        incarnation: Bytes::copy_from_slice(of.incarnation.as_bytes()),
    }
}

fn right_address(cluster: &Reservation, from: NodeRef, to: NodeRef) -> wire::Address {
    wire::Address {
        cluster_id: cluster.cluster_id.clone(),
        genesis: Bytes::copy_from_slice(cluster.genesis.as_bytes()),
        from: Some(node_ref(from)),
        to: Some(node_ref(to)),
        group: 1,
    }
}

/// Addresses that are wrong in one respect each.
fn wrong_addresses(right: &wire::Address) -> Vec<(&'static str, Option<wire::Address>)> {
    let wrong = |change: fn(&mut wire::Address)| {
        let mut address = right.clone();
        change(&mut address);
        Some(address)
    };
    let other_disk = || Bytes::from(vec![9; 16]);
    let to_node_3 = wrong(|it| it.to.as_mut().unwrap().id = 3);
    let mut wiped_receiver = wrong(|_| {});
    wiped_receiver
        .as_mut()
        .unwrap()
        .to
        .as_mut()
        .unwrap()
        .incarnation = other_disk();
    let mut wiped_sender = wrong(|_| {});
    wiped_sender
        .as_mut()
        .unwrap()
        .from
        .as_mut()
        .unwrap()
        .incarnation = other_disk();
    vec![
        (
            "another cluster",
            wrong(|it| it.cluster_id = "other".into()),
        ),
        (
            "another genesis",
            wrong(|it| it.genesis = vec![1; 16].into()),
        ),
        ("another receiver", to_node_3),
        ("another disk of the receiver", wiped_receiver),
        ("another disk of the sender", wiped_sender),
        ("no sender", wrong(|it| it.from = None)),
        ("no receiver", wrong(|it| it.to = None)),
        ("no address", None),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_meant_for_this_node_is_refused_whatever_it_asks() {
    let mut cluster = Cluster::formed(1).await;
    let outsider = cluster.another(9, How::default()).await.address();
    let reservation = cluster.nodes[0].groups().reservation().unwrap();
    let this = |nth: usize| cluster.nodes[nth].groups().this();
    let right = right_address(&reservation, this(0), this(1));
    let before = cluster.nodes[1].status(1);
    let address = cluster.nodes[1].address();
    for (what, wrong) in wrong_addresses(&right) {
        for (rpc, status) in call_all(&address, wrong.as_ref()).await {
            assert_eq!(
                status.code(),
                Code::PermissionDenied,
                "{what}, {rpc}: {status:?}"
            );
        }
    }
    // A node that belongs to nothing answers nobody, however right the call may look.
    for (rpc, status) in call_all(&outsider, Some(&right)).await {
        assert_eq!(status.code(), Code::PermissionDenied, "{rpc}: {status:?}");
    }
    // The right one passes the door: whatever is refused then is refused for what it says.
    for (rpc, status) in call_all(&address, Some(&right)).await {
        assert_ne!(status.code(), Code::PermissionDenied, "{rpc}: {status:?}");
    }
    let after = cluster.nodes[1].status(1);
    assert_eq!((after.term, after.leader), (before.term, before.leader));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_says_how_fresh_it_is_and_never_less() {
    let mut cluster = Cluster::formed(1).await;
    let id = new_id();
    let at = cluster.propose(1, &add(id)).await;
    for node in &cluster.nodes {
        let replica = node.replica(1);
        let of = move |rows: &holdfast_raft::RowSnapshot<'_>| times(rows, id);
        let (found, seen) = replica
            .read(Freshness::AtLeast(at.index), of)
            .await
            .unwrap();
        assert!(found == 1 && seen.index >= at.index);
        let (found, seen) = replica.read(Freshness::Linear, of).await.unwrap();
        assert!(found == 1 && seen.index >= at.index);
    }
    let ahead = at.index + 1_000;
    let replica = cluster.nodes[0].replica(1);
    let behind = replica.read(Freshness::AtLeast(ahead), count).await;
    assert!(matches!(behind, Err(ReadError::Behind { wanted, .. }) if wanted == ahead));
    drop(replica);

    // Alone, a node answers only what it is asked to answer alone, the leader too.
    let leader = cluster.leader(1).await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node_mut(id).kill().await;
    }
    let replica = cluster.node(leader).replica(1);
    let began = Instant::now();
    let refused = replica.read(Freshness::Linear, count).await;
    assert!(
        matches!(refused, Err(ReadError::NoLeader { .. })),
        "{refused:?}"
    );
    assert!(began.elapsed() < PATIENCE / 2);
    assert_eq!(replica.read(Freshness::Stale, count).await.unwrap().0, 1);
}

/// Reads at one node until it is stopped. Each answer has all that was told before the ask; returns how many there were.
async fn read_on(
    seats: Seats,
    node: u64,
    acked: impl Fn() -> usize + Send + 'static,
    stop: CancellationToken,
) -> usize {
    let mut answers = 0;
    while !stop.is_cancelled() {
        tokio::time::sleep(AGAIN).await;
        let replicas = seats.replicas(1);
        let Some((_, replica)) = replicas.into_iter().find(|(id, _)| *id == node) else {
            continue;
        };
        let before = acked() as u64;
        let read = within(replica.read(Freshness::Linear, count)).await;
        if let Ok((found, _)) = read {
            assert!(found >= before, "node {node}: {found} of {before}");
            answers += 1;
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_not_even_of_a_leader_that_slept_through_its_successors_election() {
    let mut cluster = Cluster::formed(1).await;
    let load = Arc::new(Load::on(&cluster.seats, 1, 3, 10));
    let stop = CancellationToken::new();
    let readers = (1..=3).map(|node| {
        let load = Arc::clone(&load);
        let reading = read_on(
            cluster.seats.clone(),
            node,
            move || load.acked(),
            stop.clone(),
        );
        tokio::spawn(reading)
    });
    let readers: Vec<_> = readers.collect();
    for round in 0..2 {
        load.more(50).await;
        let sleeper = cluster.leader(1).await;
        let term = cluster.node(sleeper).status(1).term;
        if round == 1 {
            // A voter that has just come back has forgotten the lease that it granted.
            let follower = cluster.follower(1).await;
            cluster.node_mut(follower).kill().await;
            cluster.node_mut(follower).start().await;
        }
        cluster.node(sleeper).pause(Duration::from_secs(4));
        until("another one leads", || {
            let leader = cluster.seats.leader(1);
            leader.is_some_and(|(id, it)| id != sleeper && it.status().term > term)
        })
        .await;
        load.more(50).await;
        until("the sleeper knows its successor", || {
            let replica = cluster.node(sleeper).replica(1);
            let hint = *replica.watch_leader().borrow();
            hint.term > term && hint.leader.is_some()
        })
        .await;
    }
    load.more(50).await;
    stop.cancel();
    for reader in readers {
        assert!(reader.await.unwrap() > 20, "a reader read nothing");
    }
    let load = Arc::into_inner(load).expect("the readers have ended");
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}
