//! Three nodes in one process: start, attach, drive, finish; and what happens when nodes, workers and clocks do not.

#![expect(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Cluster, PATIENCE, Worker, advance, charge, complete, done, hello, http_get, intent, start,
};
use holdfast_node::{
    serve::Node,
    settings::{Overrides, Settings},
};
use holdfast_proto::v1::{self, from_worker::Message as From, to_worker::Message as To};
use holdfast_scheduler::ids::RunId;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|it| it.reason.clone())
        .unwrap_or_default()
}

fn status_of(run: &v1::RunDescription) -> v1::RunStatus {
    run.summary.as_ref().unwrap().status()
}

/// Workers hear of lost leases quickly here.
fn short_leases(overrides: Overrides) -> Overrides {
    overrides
        .set("lease.beat", "100ms")
        .set("lease.term", "2500ms")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_sends_its_workers_and_callers_to_look_for_another() {
    let mut cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let mut worker = cluster.worker(1).await;
    for other in (0..3).filter(|nth| *nth != leader) {
        cluster.nodes[other].stop().await;
    }
    let nobody = v1::Moved {
        partition: 1,
        address: String::new(),
    };
    assert_eq!(worker.next().await, Some(To::Moved(nobody.clone())));
    assert!(worker.next().await.is_none(), "its stream has ended");
    let again = Worker::attach(cluster.channel(leader), hello(1)).await;
    assert_eq!(again.err(), Some(Some(To::Moved(nobody))));
    let refused = cluster.runs(leader).start(start("order-1")).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "HF1001")
    );
    let told = cluster.admin(leader).topology(v1::TopologyRequest {}).await;
    let told = told.unwrap().into_inner();
    assert_eq!(
        (told.leaders[0].node, told.leaders[0].api.as_str()),
        (0, "")
    );
    let other = (0..3).find(|nth| *nth != leader).unwrap();
    cluster.start_again(other).await;
    cluster.leader(1).await;
    cluster.worker(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_from_start_to_finish() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    let started = cluster.start("order-1").await;
    assert!(started.created && started.position.unwrap().index > 0);
    let drive = worker.drive().await;
    assert_eq!(
        (drive.run.as_str(), drive.input.as_ref()),
        ("order-1", b"1001".as_slice())
    );
    worker.finish(&drive).await;
    let run = cluster.result("order-1").await;
    assert_eq!(status_of(&run), v1::RunStatus::Completed);
    assert_eq!(run.output.as_ref(), b"\"ok\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_answers_how_the_run_ended_at_whatever_node_and_also_when_asked_again() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    for node in 0..3 {
        let request = v1::StartRequest {
            wait_ms: 15_000,
            ..start(&format!("order-{node}"))
        };
        let (mut one, mut two) = (cluster.runs(node), cluster.runs((node + 1) % 3));
        let waits = tokio::spawn({
            let request = request.clone();
            async move { one.start(request).await }
        });
        let drive = worker.drive().await;
        // Attaches while the run goes on; both are woken by its end.
        let also = tokio::spawn(async move { two.start(request).await });
        worker.finish(&drive).await;
        for (answer, created) in [(waits, true), (also, false)] {
            let reply = answer.await.unwrap().unwrap().into_inner();
            assert_eq!(reply.created, created);
            let run = reply.run.unwrap();
            assert_eq!(status_of(&run), v1::RunStatus::Completed);
            assert_eq!(run.output.as_ref(), b"\"ok\"");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_answers_in_time_for_a_run_that_does_not_end() {
    let cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    let request = v1::StartRequest {
        wait_ms: 50,
        ..start("order-1")
    };
    let reply = cluster.runs(cluster.any()).start(request).await.unwrap();
    let reply = reply.into_inner();
    assert!(reply.created && reply.run.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_run_goes_after_its_time_on_every_node_and_its_id_after_that() {
    let short = |overrides: Overrides| {
        overrides
            .set("retention.completed", "1s")
            .set("retention.failed", "1s")
            .set("retention.ids", "6s")
    };
    let cluster = Cluster::formed_with(1, short).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    worker.finish(&drive).await;
    assert_eq!(
        status_of(&cluster.result("order-1").await),
        v1::RunStatus::Completed
    );
    for node in 0..3 {
        let forgotten = cluster.until_refused(node, "order-1", "HF2005").await;
        assert_eq!(forgotten.code(), Code::NotFound);
        assert!(forgotten.message().contains("Completed"), "{forgotten}");
    }
    let mut runs = cluster.runs(cluster.any());
    let listed = runs.list(v1::ListRequest::default()).await.unwrap();
    assert!(listed.into_inner().runs.is_empty());
    let attached = cluster.start("order-1").await;
    assert!(!attached.created, "its id is remembered");
    cluster.until_refused(0, "order-1", "HF3003").await;
    assert!(cluster.start("order-1").await.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_partitions_runs_its_own_runs() {
    let cluster = Cluster::formed(3).await;
    let mut workers = Vec::new();
    for partition in 1..=3 {
        workers.push(cluster.worker(partition).await);
    }
    let mut seen = [0; 3];
    for nth in 0..12 {
        let id = format!("order-{nth}");
        let home = RunId::new(&id).unwrap().partition(3).0;
        assert_eq!(cluster.start(&id).await.position.unwrap().group, home);
        let nth = usize::try_from(home - 1).unwrap();
        let worker = &mut workers[nth];
        let drive = worker.drive().await;
        assert_eq!(drive.run, id);
        worker.finish(&drive).await;
        assert_eq!(
            status_of(&cluster.result(&id).await),
            v1::RunStatus::Completed
        );
        seen[nth] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let list = v1::ListRequest {
        page_size: 5,
        ..v1::ListRequest::default()
    };
    let mut runs = cluster.runs(cluster.any());
    let (mut found, mut token) = (0, String::new());
    loop {
        let request = v1::ListRequest {
            page_token: token,
            ..list.clone()
        };
        let page = runs.list(request).await.unwrap().into_inner();
        found += page.runs.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_leader_is_killed_a_run_goes_on_where_it_was() {
    let mut cluster = Cluster::formed(1).await;
    let hello = hello(1);
    let mut worker = cluster.worker_with(hello.clone()).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let first = worker
        .advance(advance(&drive, 1, vec![], vec![charge(0)]))
        .await;
    let leader = cluster.leader(1).await;
    cluster.nodes[leader].kill();
    // The same process attaches under the same session: it keeps its lease, and its step in flight counts.
    let again = v1::Hello {
        session: worker.welcome.session,
        runs: vec![v1::HeldRun {
            run: drive.run.clone(),
            fence: drive.fence,
            delivery: 0,
        }],
        ..hello
    };
    let mut worker = cluster.worker_with(again).await;
    worker
        .send(From::Advance(advance(
            &drive,
            2,
            vec![done(&first.grants[0])],
            vec![complete(1)],
        )))
        .await;
    let advanced = loop {
        match worker.next().await {
            Some(To::Advanced(advanced)) => break advanced,
            Some(To::News(news)) => assert_eq!(news.grants, first.grants, "offered again"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(advanced.outcome(), v1::AdvanceOutcome::Finished);
    assert_eq!(
        status_of(&cluster.result("order-1").await),
        v1::RunStatus::Completed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_keeps_the_function_is_sent_what_is_new_and_the_whole_journal_when_it_asks() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    assert_eq!((drive.first_seq, drive.rows.len()), (0, 0));
    assert!(!drive.input.is_empty());
    let wait = intent(
        0,
        "approval",
        v1::intent::Kind::Wait(v1::WaitIntent {
            signal: "approval".into(),
            ..v1::WaitIntent::default()
        }),
    );
    let suspended = worker.advance(advance(&drive, 1, vec![], vec![wait])).await;
    assert_eq!(suspended.outcome(), v1::AdvanceOutcome::Suspended);
    let mut runs = cluster.runs(cluster.any());
    runs.signal(approval()).await.unwrap();

    let again = worker.drive().await;
    assert_eq!(again.first_seq, 1, "the row of the wait is there already");
    assert!(again.input.is_empty());
    let [row] = again.rows.as_slice() else {
        panic!("one row is new: {again:?}");
    };
    assert_eq!((row.seq, row.outcomes.len()), (1, 1));

    let need = v1::NeedJournal {
        run: again.run.clone(),
        fence: again.fence,
    };
    worker.send(From::NeedJournal(need)).await;
    let whole = worker.drive().await;
    assert_eq!(whole.fence, again.fence);
    assert_eq!((whole.first_seq, whole.rows.len()), (0, 2));
    assert_eq!(whole.input, drive.input);
}

fn approval() -> v1::SignalRequest {
    v1::SignalRequest {
        run_id: "order-1".into(),
        name: "approval".into(),
        signal_id: "s1".into(),
        payload: b"true".as_slice().into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_advance_gets_its_first_answer() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let ask = advance(&drive, 1, vec![], vec![charge(0)]);
    let first = worker.advance(ask.clone()).await;
    let again = worker.advance(ask).await;
    assert_eq!(first.grants, again.grants);
    assert!(first.position.unwrap().index < again.position.unwrap().index);
    assert!(first.grants[0].idempotency_key.contains("order-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_forwards_what_only_the_leader_can_do_and_reads_for_itself() {
    let cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    let mut follower = cluster.runs(cluster.follower().await);
    let started = follower.start(start("order-1")).await.unwrap().into_inner();
    assert!(started.created);
    let request = v1::GetRequest {
        run_id: "order-1".into(),
        stale: false,
        at_least: started.position,
    };
    let got = follower.get(request).await.unwrap().into_inner();
    assert!(got.position.unwrap().index >= started.position.unwrap().index);
    follower.signal(approval()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_answers_a_work_stream_with_the_way_to_the_leader() {
    let cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let follower = cluster.channel(cluster.follower().await);
    let began = Instant::now();
    let moved = loop {
        match Worker::attach(follower.clone(), hello(1)).await {
            Err(Some(To::Moved(moved))) if !moved.address.is_empty() => break moved,
            Err(Some(To::Moved(_))) => assert!(began.elapsed() < PATIENCE, "it never learns"),
            _ => panic!("a Moved was to come"),
        }
    };
    assert_eq!(
        moved.address,
        cluster.nodes[leader].node().api().to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_fence_changes_nothing() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let stale = v1::Drive {
        fence: drive.fence - 1,
        ..drive.clone()
    };
    let refused = worker
        .advance(advance(&stale, 1, vec![], vec![complete(0)]))
        .await;
    assert_eq!(refused.outcome(), v1::AdvanceOutcome::StaleFence);
    worker.finish(&drive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_falls_silent_loses_its_session_and_its_run_goes_elsewhere() {
    let cluster = Cluster::formed_with(1, short_leases).await;
    let hello = hello(1);
    let mut silent = cluster.worker_with(hello.clone()).await;
    cluster.start("order-1").await;
    let lost = silent.drive().await;
    let ended = silent.next().await;
    assert!(matches!(ended, Some(To::SessionEnded(_))), "{ended:?}");
    let again = v1::Hello {
        session: silent.welcome.session,
        ..hello.clone()
    };
    let leader = cluster.channel(cluster.leader(1).await);
    let refused = Worker::attach(leader, again).await;
    assert!(matches!(refused, Err(Some(To::SessionEnded(_)))));
    let mut other = cluster.worker_with(hello).await;
    let drive = other.drive().await;
    assert!(drive.fence > lost.fence, "a later grant has a larger fence");
    other.finish(&drive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_is_echoed_until_the_leader_is_alone() {
    let mut cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    let leader = cluster.leader(1).await;
    let began = Instant::now();
    loop {
        let number = worker.beat().await;
        if worker.is_echoed(number, Duration::from_millis(500)).await {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no beat was ever echoed");
    }
    for nth in (0..3).filter(|nth| *nth != leader) {
        cluster.nodes[nth].kill();
    }
    // One election lease after the last acknowledgement no beat may be echoed; here it is 1.5 s.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    let number = worker.beat().await;
    assert!(!worker.is_echoed(number, Duration::from_millis(600)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_before_it_is_proposed_and_says_why() {
    let cluster = Cluster::formed(1).await;
    let nobody = cluster.refused(start("order-1")).await;
    assert_eq!(
        (nobody.code(), reason(&nobody).as_str()),
        (Code::NotFound, "HF3003")
    );
    let _worker = cluster.worker(1).await;
    let wrong = v1::StartRequest {
        workflow: "ordre".into(),
        ..start("order-1")
    };
    let unknown = cluster.refused(wrong).await;
    assert!(
        unknown.message().contains("order"),
        "it names what is registered: {unknown}"
    );
    let huge = v1::StartRequest {
        input: vec![b'x'; 300 * 1024].into(),
        ..start("order-1")
    };
    let too_large = cluster.refused(huge).await;
    assert_eq!(
        (too_large.code(), reason(&too_large).as_str()),
        (Code::InvalidArgument, "HF3001")
    );
    for id in ["", "a~b", "a b", "x".repeat(500).as_str()] {
        let bad = cluster.refused(start(id)).await;
        assert_eq!(
            (bad.code(), reason(&bad).as_str()),
            (Code::InvalidArgument, "HF3002"),
            "{id}"
        );
    }
    let unknown_enum = v1::StartRequest {
        if_ended: 99,
        ..start("order-1")
    };
    assert_eq!(
        cluster.refused(unknown_enum).await.code(),
        Code::InvalidArgument
    );
    let waits_for_another_life = v1::StartRequest {
        if_ended: v1::IfEnded::NewGeneration.into(),
        wait_ms: 1_000,
        ..start("order-1")
    };
    let refused = cluster.refused(waits_for_another_life).await;
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "HF3002")
    );
    let absent = v1::GetRequest {
        run_id: "nobody".into(),
        ..v1::GetRequest::default()
    };
    assert_eq!(
        cluster
            .runs(cluster.any())
            .get(absent)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_start_attaches_and_another_input_is_a_conflict() {
    let cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    let first = cluster.start("order-1").await;
    let again = cluster.start("order-1").await;
    assert!(first.created && !again.created);
    assert_eq!(first.generation, again.generation);
    let other = v1::StartRequest {
        input: b"2".as_slice().into(),
        ..start("order-1")
    };
    let conflict = cluster.runs(cluster.any()).start(other).await.unwrap_err();
    assert_eq!(
        (conflict.code(), reason(&conflict).as_str()),
        (Code::AlreadyExists, "HF2001")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_and_a_timer_wake_a_suspended_run() {
    let cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let wait = v1::WaitIntent {
        signal: "approval".into(),
        ..v1::WaitIntent::default()
    };
    let waits = intent(0, "approval", v1::intent::Kind::Wait(wait));
    let suspended = worker
        .advance(advance(&drive, 1, vec![], vec![waits]))
        .await;
    assert_eq!(suspended.outcome(), v1::AdvanceOutcome::Suspended);
    let signal = approval();
    let mut runs = cluster.runs(cluster.any());
    runs.signal(signal.clone()).await.unwrap();
    runs.signal(signal).await.unwrap(); // the same send
    let drive = worker.drive().await;
    let outcomes: Vec<_> = drive.rows.iter().flat_map(|row| &row.outcomes).collect();
    assert_eq!(outcomes.len(), 1, "the signal once: {outcomes:?}");
    let nap = v1::TimerIntent {
        delay_ms: 150,
        at_unix_ms: 0,
    };
    let naps = intent(1, "sleep", v1::intent::Kind::Timer(nap));
    let began = Instant::now();
    let suspended = worker.advance(advance(&drive, 1, vec![], vec![naps])).await;
    assert_eq!(
        suspended.outcome(),
        v1::AdvanceOutcome::Suspended,
        "{suspended:?}"
    );
    let drive = worker.drive().await;
    assert!(began.elapsed() >= Duration::from_millis(140), "never early");
    let last = worker
        .advance(advance(&drive, 1, vec![], vec![complete(2)]))
        .await;
    assert_eq!(last.outcome(), v1::AdvanceOutcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_days_survives_a_restart_of_every_node_and_ends_by_the_group_clock() {
    let mut cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let days = v1::TimerIntent {
        delay_ms: 2 * 86_400_000,
        at_unix_ms: 0,
    };
    let sleeps = intent(0, "sleep", v1::intent::Kind::Timer(days));
    let suspended = worker
        .advance(advance(&drive, 1, vec![], vec![sleeps]))
        .await;
    assert_eq!(suspended.outcome(), v1::AdvanceOutcome::Suspended);
    drop(worker);
    cluster
        .restart_all(|overrides| overrides.set("testing.clock_ahead", "3d"))
        .await;
    let mut worker = cluster.worker(1).await;
    let drive = worker.drive().await;
    assert_eq!(drive.run, "order-1");
    let last = worker
        .advance(advance(&drive, 1, vec![], vec![complete(1)]))
        .await;
    assert_eq!(last.outcome(), v1::AdvanceOutcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_shutdown_hands_leadership_over_and_returns_in_time() {
    let mut cluster = Cluster::formed(1).await;
    let mut worker = cluster.worker(1).await;
    let leader = cluster.leader(1).await;
    let took = cluster.nodes[leader].stop().await;
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_ne!(cluster.leader(1).await, leader);
    let last = worker.next().await;
    assert!(matches!(last, Some(To::Moved(_))), "{last:?}");
    cluster.start("order-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_belongs_to_no_cluster_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = Overrides::default()
        .set("node.id", 1)
        .set("node.data", folder.path().display())
        .set("listen.api", "127.0.0.1:0")
        .set("listen.peer", "127.0.0.1:0")
        .set("listen.admin", "127.0.0.1:0");
    let node = Node::start(Settings::load(&overrides).unwrap())
        .await
        .unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.api()));
    let mut runs = v1::runs_client::RunsClient::new(channel.unwrap().connect_lazy());
    let status = runs.start(start("order-1")).await.unwrap_err();
    assert!(status.message().contains("cluster init"), "{status}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_folder_that_cannot_be_written_are_named_with_their_cure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = Overrides::default()
        .set("node.id", 1)
        .set("listen.peer", "127.0.0.1:0")
        .set("listen.admin", "127.0.0.1:0");
    let overrides = base
        .clone()
        .set("node.data", folder.path().display())
        .set("listen.api", taken.local_addr().unwrap());
    let refused = Node::start(Settings::load(&overrides).unwrap())
        .await
        .err()
        .unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(refused.to_string().contains(&port) && refused.to_string().contains("listen.api"));
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let overrides = base
        .set("listen.api", "127.0.0.1:0")
        .set("node.data", file.join("data").display());
    let refused = Node::start(Settings::load(&overrides).unwrap())
        .await
        .err()
        .unwrap();
    assert!(refused.to_string().contains("--data"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn noops_are_answered_in_whole_messages() {
    let cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let messages = (0..20u64).map(|nth| v1::NoopRequest {
        first: nth * 100,
        count: 100,
        payload: vec![0; 200].into(),
        partition: 0,
    });
    let mut answers = cluster
        .admin(leader)
        .noop(tokio_stream::iter(messages.collect::<Vec<_>>()))
        .await
        .unwrap()
        .into_inner();
    let mut answered = 0;
    while let Some(reply) = answers.message().await.unwrap() {
        assert!(
            reply.error.is_empty() && reply.position.is_some(),
            "{reply:?}"
        );
        answered += reply.count;
        if answered == 2_000 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_another_queue_goes_to_its_worker_and_the_run_waits_without_a_driver() {
    let cluster = Cluster::formed(1).await;
    let mut driver = cluster.worker(1).await;
    let mut bank = cluster
        .worker_with(v1::Hello {
            queue: "bank".into(),
            name: "bank".into(),
            process: "bank-process".into(),
            workflows: vec![],
            ..hello(1)
        })
        .await;
    cluster.start("order-1").await;
    let drive = driver.drive().await;
    let mut remote = charge(0);
    if let Some(v1::intent::Kind::Step(step)) = &mut remote.kind {
        step.queue = "bank".into();
    }
    let suspended = driver
        .advance(advance(&drive, 1, vec![], vec![remote]))
        .await;
    assert_eq!(suspended.outcome(), v1::AdvanceOutcome::Suspended);
    let Some(To::Execute(execute)) = bank.next().await else {
        panic!("an Execute was to come")
    };
    assert_eq!(
        (execute.step.as_str(), execute.purpose()),
        ("charge", v1::Purpose::Step)
    );
    assert_eq!(execute.input.as_ref(), b"1001");
    cluster.until("order-1", v1::RunStatus::Waiting).await;
    let kind = v1::attempt_outcome::Kind::Done(b"\"paid\"".as_slice().into());
    let report = v1::Report {
        run: execute.run.clone(),
        entry: execute.entry,
        fence: execute.fence,
        outcome: Some(v1::AttemptOutcome { kind: Some(kind) }),
    };
    for expected in [v1::ReportOutcome::Accepted, v1::ReportOutcome::Duplicate] {
        bank.send(From::Report(report.clone())).await;
        let Some(To::Reported(reported)) = bank.next().await else {
            panic!("a Reported")
        };
        let is_repeat = expected == v1::ReportOutcome::Duplicate;
        assert!(
            reported.outcome() == expected
                || is_repeat && reported.outcome() == v1::ReportOutcome::Stale,
            "{reported:?}"
        );
    }
    let drive = driver.drive().await;
    let last = driver
        .advance(advance(&drive, 1, vec![], vec![complete(1)]))
        .await;
    assert_eq!(last.outcome(), v1::AdvanceOutcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_undoes_what_it_owes() {
    let cluster = Cluster::formed(1).await;
    let hello = v1::Hello {
        steps: vec!["charge".into(), "refund".into()],
        ..hello(1)
    };
    let mut worker = cluster.worker_with(hello).await;
    cluster.start("order-1").await;
    let drive = worker.drive().await;
    let mut undoable = charge(0);
    if let Some(v1::intent::Kind::Step(step)) = &mut undoable.kind {
        step.undo = "refund".into();
    }
    let first = worker
        .advance(advance(&drive, 1, vec![], vec![undoable]))
        .await;
    let wait = v1::WaitIntent {
        signal: "approval".into(),
        ..v1::WaitIntent::default()
    };
    let waits = intent(1, "approval", v1::intent::Kind::Wait(wait));
    let paid = done(&first.grants[0]);
    worker
        .advance(advance(&drive, 2, vec![paid], vec![waits]))
        .await;
    let cancel = v1::ChangeRequest {
        run_id: "order-1".into(),
        reason: "the customer called".into(),
        request_id: "r1".into(),
    };
    cluster
        .runs(cluster.follower().await)
        .cancel(cancel)
        .await
        .unwrap();
    let Some(To::Execute(undo)) = worker.next().await else {
        panic!("an Execute was to come")
    };
    assert_eq!(
        (undo.step.as_str(), undo.purpose()),
        ("refund", v1::Purpose::Undo)
    );
    assert!(undo.has_output && undo.output.as_ref() == b"\"paid\"");
    assert_eq!(undo.key_asked, first.grants[0].idempotency_key);
    assert_ne!(undo.idempotency_key, undo.key_asked);
    let kind = v1::attempt_outcome::Kind::Done(bytes::Bytes::new());
    let report = v1::Report {
        run: undo.run.clone(),
        entry: undo.entry,
        fence: undo.fence,
        outcome: Some(v1::AttemptOutcome { kind: Some(kind) }),
    };
    worker.send(From::Report(report)).await;
    let run = cluster.result("order-1").await;
    assert_eq!(status_of(&run), v1::RunStatus::Cancelled);
    assert_eq!(run.reason, "the customer called");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_replaced_in_one_step_and_the_cluster_goes_on() {
    let mut cluster = Cluster::formed(1).await;
    let _worker = cluster.worker(1).await;
    cluster.start("order-1").await;
    let leader = cluster.leader(1).await;
    let old = cluster.follower().await;
    let gone = cluster.nodes[old].node().node_id();
    cluster.nodes[old].kill();
    let new = cluster.another(4).await;
    let peer = cluster.nodes[new].node().peer().to_string();
    let request = v1::ReplaceNodeRequest {
        old: gone,
        peer,
        api: String::new(),
    };
    let reply = cluster
        .admin(leader)
        .replace(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.node, 4);
    let again = cluster
        .admin(leader)
        .replace(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.node, 4, "a repeat finds it done");
    let status = cluster
        .admin(leader)
        .status(v1::ClusterStatusRequest {})
        .await
        .unwrap();
    let voters: Vec<u64> = status
        .get_ref()
        .nodes
        .iter()
        .filter(|it| it.voter)
        .map(|it| it.node)
        .collect();
    assert!(voters.contains(&4) && !voters.contains(&gone), "{voters:?}");
    let request = v1::GetRequest {
        run_id: "order-1".into(),
        ..v1::GetRequest::default()
    };
    cluster.runs(new).get(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_probes_are_served() {
    let cluster = Cluster::formed(1).await;
    let leader = cluster.leader(1).await;
    let admin = cluster.nodes[leader].node().admin();
    let _worker = cluster.worker(1).await;
    assert!(http_get(admin, "/livez").await.contains("200 OK"));
    assert!(
        http_get(admin, "/readyz?verbose")
            .await
            .contains("[+] partition 1")
    );
    // A worker may attach before the leader has applied its own `BecomeLeader`, and only then does it act.
    let mut ready = String::new();
    for _ in 0..100 {
        ready = http_get(admin, "/readyz?leader=true&verbose").await;
        if ready.contains("200 OK") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(ready.contains("200 OK"), "{ready}");
    let follower = cluster.nodes[cluster.follower().await].node().admin();
    assert!(
        http_get(follower, "/readyz?leader=true")
            .await
            .contains("503")
    );
    let metrics = http_get(admin, "/metrics").await;
    for name in [
        "holdfast_raft_is_leader",
        "holdfast_raft_committed_index",
        "holdfast_log_fsync_duration_seconds_bucket",
        "holdfast_state_apply_duration_seconds_bucket",
        "holdfast_disk_free_bytes",
        "holdfast_build_info",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
}
