//! What goes wrong between three nodes and inside of one: cuts, slow disks, blocked threads, purged logs, large entries, panics.
//!
//! Not here: the ordinary life of a cluster (`groups`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use holdfast_raft::{
    Freshness, GroupId, Keep, NodeId, Profile, ProposeError, RowSnapshot, testing,
};
use parking_lot::Mutex;
use support::cluster::{AGAIN, Cluster, How, Load, Node, PATIENCE, Seats, new_id, until, within};
use support::{Command, add, count, counted, image, times};
use tokio_util::sync::CancellationToken;

const GROUP: GroupId = GroupId(1);
const STREAMS: &str = "holdfast_raft_stream_reconnects_total";
const INSTALLED: &str = "holdfast_raft_snapshots_installed_total";

/// A lease long enough to append a while without a quorum.
const PATIENT: Profile = Profile::Custom {
    heartbeat_ms: 100,
    election_min_ms: 1_500,
    election_max_ms: 3_000,
};

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

/// The policy of snapshots and purges at work on every node, far more often than it is.
async fn tend(seats: Seats, stop: CancellationToken) {
    while !stop.is_cancelled() {
        for groups in seats.groups() {
            let replicas = groups.replicas().borrow().clone();
            for replica in &replicas {
                groups.tend_now(replica).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_catches_up_by_snapshot_under_load_while_the_log_is_purged() {
    counted::begin();
    let mut cluster = Cluster::formed_as(1, forgetful()).await;
    let load = Load::on(&cluster.seats, 1, 2, 8_000);
    load.more(300).await;
    let away = cluster.follower(1).await;
    cluster.node_mut(away).kill().await;
    let stop = CancellationToken::new();
    let tending = tokio::spawn(tend(cluster.seats.clone(), stop.clone()));
    let had = cluster.node(cluster.leader(1).await).status(1).last_log;
    until("the log that it needs is gone", || {
        let (_, leader) = cluster.seats.leader(1).unwrap();
        leader.status().purged > had
    })
    .await;
    for groups in cluster.seats.groups() {
        groups.throttle_snapshots(1 << 20); // about three seconds
    }
    let term = cluster.node(cluster.leader(1).await).status(1).term;
    cluster.node_mut(away).start().await;
    until("it has caught up", || {
        let last = cluster
            .seats
            .leader(1)
            .and_then(|(_, it)| it.status().last_log);
        let applied = cluster.node(away).status(1).applied;
        applied
            .zip(last)
            .is_some_and(|(applied, last)| applied + 20 > last)
    })
    .await;
    load.more(100).await;
    let leader = cluster.leader(1).await;
    assert_eq!(
        cluster.node(leader).status(1).term,
        term,
        "no election meanwhile"
    );
    // At the pace of the load a second one would never end if the first had been overtaken.
    assert_eq!(counted::count(INSTALLED), 1);
    stop.cancel();
    tending.await.unwrap();
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_every_legal_size_reach_a_lagging_follower_and_a_larger_one_is_never_proposed() {
    let mut cluster = Cluster::formed(1).await;
    let away = cluster.follower(1).await;
    cluster.node_mut(away).kill().await;
    let sized = |bytes: usize| Command::Add {
        id: new_id(),
        ballast: bytes - 13,
    };
    for _ in 0..30 {
        let (_, leader) = cluster.seats.leader(1).unwrap();
        let ten = (0..10).map(|_| leader.propose(sized(64 << 10)));
        for answer in join_all(ten).await {
            answer.unwrap();
        }
    }
    cluster.propose(1, &sized(1 << 20)).await;
    let (_, leader) = cluster.seats.leader(1).unwrap();
    let last = leader.status().last_log;
    let larger = leader.propose(sized((1 << 20) + 1)).await;
    let bytes = (1 << 20) + 1;
    let bytes_max = 1 << 20;
    assert_eq!(larger, Err(ProposeError::TooLarge { bytes, bytes_max }));
    assert_eq!(leader.status().last_log, last);
    drop(leader);
    cluster.node_mut(away).start().await;
    cluster.agreed(1).await;
}

/// Connections from this machine to these ports, as the kernel lists them: both ends.
fn connections(ports: &BTreeSet<u16>) -> BTreeSet<(u16, u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap(), 16).unwrap();
    let rows = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (port(fields[1]), port(fields[2]), fields[3] == "01")
    });
    rows.filter(|(_, to, established)| *established && ports.contains(to))
        .map(|(from, to, _)| (from, to))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_connects_no_more_keeps_its_quorum_in_sight_and_takes_a_write_at_once() {
    let cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    let port = |node: &Node| node.listens.rsplit(':').next().unwrap().parse().unwrap();
    let ports: BTreeSet<u16> = cluster.nodes.iter().map(port).collect();
    let leader = cluster.leader(1).await;
    let replica = cluster.node(leader).replica(1);
    let term = replica.status().term;
    let before = connections(&ports);
    for to in &ports {
        let own = before.iter().filter(|(_, it)| it == to).count();
        assert!(
            (1..=4).contains(&own),
            "two peers call it, by two connections each: {own}"
        );
    }
    let began = Instant::now();
    let mut oldest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(5) {
        let age = replica
            .quorum_ack_age()
            .expect("it leads and was acknowledged");
        oldest = oldest.max(age);
        tokio::time::sleep(AGAIN).await;
    }
    // A heartbeat that never counts would let it grow to five seconds; one every 100 ms is due.
    assert!(oldest < Duration::from_millis(800), "{oldest:?}");
    replica.propose(add(new_id())).await.unwrap();
    assert_eq!(replica.status().term, term);
    assert_eq!(
        connections(&ports),
        before,
        "nothing connects per call or per beat"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_resumes_each_time_its_connections_are_cut_under_load() {
    let how = How {
        proxied: true,
        ..How::default()
    };
    let cluster = Cluster::formed_as(1, how).await;
    let load = Load::on(&cluster.seats, 1, 4, 1_000);
    load.more(20).await;
    let mut slowest = Duration::ZERO;
    for nth in 0..60 {
        // One way into a node, or all at once.
        for node in cluster
            .nodes
            .iter()
            .filter(|it| nth % 4 == 0 || it.id == 1 + nth % 3)
        {
            node.proxy.as_ref().unwrap().cut();
        }
        let began = Instant::now();
        load.more(10).await;
        slowest = slowest.max(began.elapsed());
    }
    // An election may come of it where all are cut at once; a stream that is never taken up again would stop the load.
    assert!(slowest < Duration::from_secs(6), "{slowest:?}");
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_apply_stops_no_heartbeat_and_what_does_not_fit_is_refused_as_overload() {
    let cluster = Cluster::formed(1).await;
    cluster.propose(1, &add(new_id())).await;
    let leader = cluster.leader(1).await;
    let node = cluster.node(leader);
    let (replica, term) = (node.replica(1), node.status(1).term);
    node.gate.shut();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let propose = |command: Command| {
        let answers = Arc::clone(&answers);
        replica.propose_with(command, move |answer| answers.lock().push(answer.map(drop)));
    };
    propose(Command::Pass);
    let began = Instant::now();
    let mut proposed = 1;
    while began.elapsed() < Duration::from_secs(5) {
        propose(Command::Add {
            id: new_id(),
            ballast: 30_000,
        });
        proposed += 1;
        let age = replica.quorum_ack_age().expect("it leads");
        assert!(age < Duration::from_millis(1_500), "{age:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    {
        let answers = answers.lock();
        assert!(
            !answers.is_empty(),
            "{proposed} commands of 30 kB fit into 8 MiB"
        );
        for answer in &*answers {
            let overloaded = matches!(answer, Err(ProposeError::Overloaded { group: GROUP, .. }));
            assert!(overloaded, "{answer:?}");
        }
    }
    for it in &cluster.nodes {
        assert_eq!(it.status(1).term, term, "nobody campaigned");
    }
    node.gate.open();
    until("all are answered", || answers.lock().len() == proposed).await;
    let taken = answers.lock().iter().filter(|it| it.is_ok()).count();
    let others = answers.lock().iter().filter(|it| it.is_err()).count();
    assert_eq!(taken + others, proposed);
    cluster.propose(1, &add(new_id())).await;
    cluster.agreed(1).await;
    let (found, _) = replica.read(Freshness::Linear, count).await.unwrap();
    assert_eq!(
        found,
        taken as u64 - 1 + 2,
        "all but the one that passed, and the two about them"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_a_node_that_dies_costs_one_failover() {
    let mut cluster = Cluster::formed(1).await;
    let load = Load::on(&cluster.seats, 1, 2, 100);
    load.more(20).await;
    let leader = cluster.leader(1).await;
    let target = cluster.follower(1).await;
    let groups = Arc::clone(cluster.node(leader).groups());
    let transfer = groups.transfer(GROUP, Some(NodeId(target)));
    let (_, ()) = tokio::join!(transfer, cluster.node_mut(target).kill());
    drop(groups);
    let began = Instant::now();
    load.more(20).await;
    // The lease, and an election timeout, twice if the votes split.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    cluster.node_mut(target).start().await;
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

/// The process whose core panics: started by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn panic_inside_a_core() {
    let cluster = Cluster::formed_of(1, 2, How::default()).await;
    cluster.nodes[0].replica(2).panic_in_core().await;
    tokio::time::sleep(PATIENCE).await;
}

#[tokio::test]
async fn a_panic_in_one_core_ends_the_process() {
    let mut child = Process::new("sh")
        .args(["-c", "ulimit -c 0; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "panic_inside_a_core", "--ignored"])
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
            panic!("a process with a dead group lives on");
        }
        tokio::time::sleep(AGAIN).await;
    };
    assert_eq!(ended.signal(), Some(6), "it aborts: {ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_no_replica_can_apply_stops_its_group_alone() {
    let cluster = Cluster::formed(2).await;
    cluster.propose(2, &add(new_id())).await;
    let (_, leader) = cluster.seats.leader(1).unwrap();
    let answer = leader.propose(Command::Poison).await;
    assert_eq!(answer, Err(ProposeError::Unknown));
    // The last one may never learn that the entry is committed: those that knew have stopped, and there is no majority left.
    until("a majority has stopped", || {
        let stopped = |it: &&Node| it.status(1).running.is_err();
        cluster.nodes.iter().filter(stopped).count() >= 2
    })
    .await;
    let again = leader.propose(add(new_id())).await;
    assert!(again.is_err(), "{again:?}");
    for _ in 0..50 {
        cluster.propose(2, &add(new_id())).await;
    }
    cluster.agreed(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_tells_the_term_that_it_knew_from_its_first_word_on() {
    let mut cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    for _ in 0..3 {
        let before = cluster.node(leader).status(1).term;
        cluster.node_mut(leader).kill().await;
        cluster.node_mut(leader).how.starved = true;
        cluster.node_mut(leader).start().await;
        let first = cluster.node(leader).status(1).term;
        assert!(first >= before, "{before}, then {first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_proposal_is_answered_once_whatever_becomes_of_its_leader() {
    let mut cluster = Cluster::formed(1).await;
    let mut answers: Vec<Arc<AtomicU32>> = Vec::new();
    let four = cluster.another(4, How::default()).await.address();
    let mut turn = 7_u64;
    let mut below = |end: u64| {
        turn = turn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (turn >> 33) % end
    };
    for round in 0..400 {
        let replicas = cluster.seats.replicas(1);
        let leader = cluster.seats.leader(1).map(|(_, it)| it);
        // Mostly whoever leads, now and then anybody.
        let replica = match (below(8), leader) {
            (1.., Some(leader)) => leader,
            (_, _) => replicas[usize::try_from(below(replicas.len() as u64)).unwrap()]
                .1
                .clone(),
        };
        for _ in 0..=below(40) {
            let command = match below(10) {
                0 => Command::Pass,
                _ => Command::Add {
                    id: new_id(),
                    ballast: usize::try_from(below(3_000)).unwrap(),
                },
            };
            let answered = Arc::new(AtomicU32::new(0));
            answers.push(Arc::clone(&answered));
            replica.propose_with(command, move |_| {
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop((replica, replicas));
        let leader = cluster.leader(1).await;
        let groups = Arc::clone(cluster.node(leader).groups());
        match round {
            // Refused where leadership has just moved; all that counts here are the answers.
            50 | 120 | 310 => drop(groups.transfer(GROUP, None).await),
            180 => drop(groups.add(GROUP, &four, None, None).await),
            240 => {
                drop(groups);
                cluster.node_mut(leader).stop().await;
                cluster.node_mut(leader).start().await;
            }
            _ => tokio::task::yield_now().await,
        }
    }
    until("all are answered", || {
        answers.iter().all(|it| it.load(Ordering::Relaxed) > 0)
    })
    .await;
    assert!(answers.iter().all(|it| it.load(Ordering::Relaxed) == 1));
    cluster.agreed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_flight_when_a_leader_died_is_answered_as_unknown() {
    let how = How {
        profile: PATIENT,
        ..How::default()
    };
    let mut cluster = Cluster::formed_as(1, how).await;
    cluster.propose(1, &add(new_id())).await;
    let leader = cluster.leader(1).await;
    let others = cluster.nodes.iter_mut().filter(|it| it.id != leader);
    join_all(others.map(Node::kill)).await;
    let (answer, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let replica = cluster.node(leader).replica(1);
    for _ in 0..30 {
        let answer = answer.clone();
        let command = Command::Add {
            id: new_id(),
            ballast: 100_000,
        };
        replica.propose_with(command, move |told| answer.send(told).unwrap());
    }
    drop(answer);
    // Two to an entry, four entries on their way; the others were not appended, and wait.
    until("entries are on their way", || {
        replica.status().last_log > replica.status().committed
    })
    .await;
    drop(replica);
    cluster.node_mut(leader).kill().await;
    let mut told = Vec::new();
    while let Some(answer) = within(answers.recv()).await {
        told.push(answer);
    }
    let unknown = told.iter().filter(|it| **it == Err(ProposeError::Unknown));
    assert!((1..=8).contains(&unknown.count()), "{told:?}");
    assert_eq!(told.len(), 30, "some were forgotten");
    assert!(told.iter().all(Result::is_err));
}

/// One node that keeps little log.
async fn alone() -> Cluster {
    let how = How {
        profile: Profile::Lan,
        ..forgetful()
    };
    Cluster::formed_of(1, 1, how).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_only_as_far_as_the_state_is_on_disk() {
    let mut cluster = alone().await;
    let load = Load::on(&cluster.seats, 1, 4, 100);
    let mut purges = 0;
    for round in 0..8 {
        load.more(100).await;
        let replica = cluster.nodes[0].replica(1);
        let groups = Arc::clone(cluster.nodes[0].groups());
        let before = replica.status();
        // Whatever is asked for, what is not on disk stays in the log.
        replica.purge_now(before.applied.unwrap()).await;
        groups.tend_now(&replica).await;
        load.more(20).await;
        groups.tend_now(&replica).await;
        load.more(20).await;
        let purged = replica.status().purged;
        let persisted = replica.persisted().await;
        assert!(purged <= Some(persisted), "{purged:?} of {persisted}");
        purges += u32::from(purged > before.purged);
        drop((replica, groups));
        if round % 2 == 1 {
            cluster.nodes[0].kill().await;
            cluster.nodes[0].start().await;
        }
    }
    assert!(purges > 3, "it tests nothing");
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_purges_right_after_a_restart_opens_again() {
    let mut cluster = alone().await;
    let load = Load::on(&cluster.seats, 1, 4, 100);
    load.more(300).await;
    let told = load.stop().await;
    for _ in 0..3 {
        cluster.nodes[0].kill().await;
        cluster.nodes[0].start().await;
        let replica = cluster.nodes[0].replica(1);
        until("the log is replayed", || replica.status().applied.is_some()).await;
        // Nothing of what was replayed is on disk: none of it may go.
        replica.purge_now(replica.status().last_log.unwrap()).await;
        cluster.leader(1).await;
        let purged = replica.status().purged;
        assert!(purged <= Some(replica.persisted().await), "{purged:?}");
    }
    cluster.nodes[0].kill().await;
    cluster.nodes[0].start().await;
    cluster.verify(1, &told).await;
}

/// Appends entries to the leader's log that nobody else ever sees; the others are down on return. Returns the last common
/// index, and the id that is lost with them.
async fn append_alone(cluster: &mut Cluster, leader: u64, entries: u64) -> (u64, u64) {
    let (base, ..) = cluster.agreed(1).await;
    let others = cluster.nodes.iter_mut().filter(|it| it.id != leader);
    join_all(others.map(Node::kill)).await;
    let lost = new_id();
    let replica = cluster.node(leader).replica(1);
    for _ in 0..entries {
        // Each an entry of its own: the one before is on its way.
        let last = replica.status().last_log;
        replica.propose_with(add(lost), drop);
        until("it is in the log", || replica.status().last_log > last).await;
    }
    assert_eq!(replica.status().last_log, Some(base + entries));
    (base, lost)
}

/// On every node that lives: nothing is left of the log.
async fn forget_the_log(cluster: &Cluster) -> u64 {
    let (last, ..) = cluster.agreed(1).await;
    for (_, replica) in cluster.seats.replicas(1) {
        replica.snapshot_now().await;
        until("it has a snapshot", || {
            replica.status().snapshot == Some(last)
        })
        .await;
        replica.purge_now(last).await;
        until("it has purged", || replica.status().purged == Some(last)).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_over_a_longer_conflicting_log_leaves_a_node_that_opens_whenever_it_dies() {
    let how = How {
        profile: PATIENT,
        ..forgetful()
    };
    let mut cluster = Cluster::formed_as(1, how).await;
    cluster.propose(1, &add(new_id())).await;
    let old = cluster.leader(1).await;
    let (base, lost) = append_alone(&mut cluster, old, 4).await;
    cluster.node_mut(old).kill().await;

    // The others go on without it, for less long than its tail is, and forget what they had in common.
    for node in cluster.nodes.iter_mut().filter(|it| it.id != old) {
        node.start().await;
    }
    let kept = new_id();
    cluster.propose(1, &add(kept)).await;
    let last = forget_the_log(&cluster).await;
    assert!(last < base + 4, "{last} after {base}");

    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, folder) = (Arc::clone(&images), cluster.node(old).folder().to_owned());
    testing::on_step(cluster.node(old).folder(), move |step| {
        if step != "syncing" {
            taken.lock().push((step, image(&folder)));
        }
    });
    cluster.node_mut(old).start().await;
    cluster.agreed(1).await;
    until("the install is over", || images.lock().len() == 4).await;
    let both = move |rows: &RowSnapshot<'_>| (times(rows, lost), times(rows, kept));
    let replica = cluster.node(old).replica(1);
    let read = replica.read(Freshness::Stale, both).await;
    assert_eq!(read.unwrap().0, (0, 1));

    // Alone: the others would miss what it has acknowledged since.
    drop(replica);
    join_all(cluster.nodes.iter_mut().map(Node::kill)).await;
    let images = std::mem::take(&mut *images.lock());
    let steps: Vec<&str> = images.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, ["ingested", "pointed", "flushed", "dropped"]);
    for (step, folder) in images {
        let node = cluster.node_mut(old);
        node.replace_folder(folder);
        if let Err(why) = node.try_start().await {
            panic!("killed at {step}, it does not open: {why}");
        }
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_open_no_stream_again_and_bring_no_election_about() {
    counted::begin();
    let cluster = Cluster::formed(1).await;
    let slow = Arc::new(AtomicBool::new(false));
    for node in &cluster.nodes {
        let slow = Arc::clone(&slow);
        testing::on_step(node.folder(), move |step| {
            if step == "syncing" && slow.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(150));
            }
        });
    }
    let load = Load::on(&cluster.seats, 1, 4, 100);
    load.more(50).await;
    let term = cluster.node(cluster.leader(1).await).status(1).term;
    let streams = counted::count(STREAMS);
    assert!(streams >= 2, "one to each follower");
    slow.store(true, Ordering::Relaxed);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        load.more(1).await;
    }
    assert_eq!(counted::count(STREAMS), streams);
    for node in &cluster.nodes {
        assert_eq!(node.status(1).term, term);
    }
    slow.store(false, Ordering::Relaxed);
    let told = load.stop().await;
    cluster.verify(1, &told).await;
}
