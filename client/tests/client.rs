//! A client against nodes that do as they are told: it finds the leader, follows it, and repeats what it may repeat.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use holdfast::{Client, ClientError, Ended, RunError, Signal, Status, View, Workflow, wire};
use support::{Node, coded, led_by, not_leader};
use tonic::Code;

const ORDER: Workflow<String, String> = Workflow::new("order");
const APPROVAL: Signal<bool> = Signal::new("approval");
const STAGE: View<String> = View::new("stage");

fn started() -> wire::StartReply {
    wire::StartReply {
        created: true,
        ..Default::default()
    }
}

fn run_is(status: wire::RunStatus) -> wire::GetReply {
    let summary = wire::RunSummary {
        status: status.into(),
        ..Default::default()
    };
    wire::GetReply {
        run: Some(wire::RunDescription {
            summary: Some(summary),
            output: r#""shipped""#.into(),
            failure: Some(wire::Failure {
                code: "CARD_DECLINED".to_owned(),
                message: "no money".to_owned(),
            }),
            reason: "a drill".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Two nodes, of which the second leads, and a client that knows the first.
async fn two_nodes() -> (Node, Node, Client) {
    let (one, two) = (Node::start().await, Node::start().await);
    leads(2, &one, &two);
    let client = one.client().await;
    (one, two, client)
}

fn leads(which: usize, one: &Node, two: &Node) {
    let addresses = [one.address.as_str(), two.address.as_str()];
    *one.told.topology.lock() = led_by(which, &addresses);
    *two.told.topology.lock() = led_by(which, &addresses);
}

#[tokio::test]
async fn a_call_goes_to_the_leader_that_any_node_names() {
    let (one, two, client) = two_nodes().await;
    two.told.starts.then(Ok(started()));
    client
        .start(ORDER, "order-1", "1".to_owned())
        .await
        .unwrap();
    assert_eq!(
        (one.told.starts.asked().len(), two.told.starts.asked().len()),
        (0, 1)
    );
}

#[tokio::test]
async fn a_call_follows_the_leader_and_is_the_same_call_everywhere() {
    let (one, two, client) = two_nodes().await;
    two.told.starts.then(Ok(started())).then(Err(not_leader()));
    one.told.starts.then(Ok(started()));
    let start = |id: &str| client.start(ORDER, id, "1".to_owned()).into_future();
    start("order-1").await.unwrap();
    leads(1, &one, &two);
    start("order-2").await.unwrap();
    assert_eq!(
        one.told.starts.asked()[..],
        two.told.starts.asked()[1..],
        "the same call at both"
    );
}

#[tokio::test]
async fn a_client_finds_the_cluster_also_when_no_node_is_left_that_it_was_told_of() {
    let (one, two, client) = two_nodes().await;
    let three = Node::start().await;
    two.told.starts.then(Ok(started())).then(Err(not_leader()));
    three.told.starts.then(Ok(started()));
    let start = |id: &str| client.start(ORDER, id, "1".to_owned()).into_future();
    start("order-1").await.unwrap();
    one.die();
    let left = [two.address.as_str(), three.address.as_str()];
    *two.told.topology.lock() = led_by(2, &left);
    *three.told.topology.lock() = led_by(2, &left);
    start("order-2").await.unwrap();
    assert_eq!(three.told.starts.asked().len(), 1);
}

#[tokio::test]
async fn callers_at_once_share_the_question_who_leads() {
    let node = Node::start().await;
    let client = Client::connect(&[&node.address]).await.unwrap();
    let before = node.told.topologies.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(2_100)).await; // what was known by then is asked anew
    let callers = (0..100).map(|_| client.topology());
    futures::future::try_join_all(callers).await.unwrap();
    let asked = node.told.topologies.load(Ordering::Relaxed) - before;
    assert!((1..=2).contains(&asked), "{asked} times"); // one may be under way as the others come
}

#[tokio::test]
async fn a_refusal_by_the_connection_is_no_refusal_by_the_cluster() {
    let node = Node::start().await;
    let client = node.client().await;
    let calm_down = tonic::Status::new(Code::ResourceExhausted, "h2 protocol error");
    node.told.starts.then(Err(calm_down)).then(Ok(started()));
    client
        .start(ORDER, "order-1", "1".to_owned())
        .await
        .unwrap();
    assert_eq!(node.told.starts.asked().len(), 2);
}

#[tokio::test]
async fn a_result_is_asked_for_at_the_position_of_its_own_start() {
    let node = Node::start().await;
    let client = node.client().await;
    let position = Some(wire::Position {
        group: 1,
        index: 7,
        slot: 3,
    });
    node.told.starts.then(Ok(wire::StartReply {
        position,
        ..started()
    }));
    node.told
        .results
        .then(Ok(run_is(wire::RunStatus::Completed)));
    let run = client
        .start(ORDER, "order-1", "1".to_owned())
        .await
        .unwrap();
    run.result().await.unwrap();
    assert_eq!(node.told.results.asked()[0].at_least, position);
}

#[tokio::test]
async fn while_nobody_leads_a_call_is_repeated_until_somebody_does() {
    let node = Node::start().await;
    let client = node.client().await;
    for _ in 0..3 {
        node.told.signals.then(Err(not_leader()));
    }
    node.told.signals.then(Ok(wire::ChangeReply::default()));
    client
        .run(ORDER, "order-1")
        .signal(APPROVAL, true)
        .await
        .unwrap();
    let ids: Vec<_> = node
        .told
        .signals
        .asked()
        .into_iter()
        .map(|it| it.signal_id)
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(
        ids.iter().all(|id| *id == ids[0]),
        "one signal, however often it is sent: {ids:?}"
    );
}

#[tokio::test]
async fn a_node_that_is_down_is_no_error() {
    let (dead, alive) = (Node::start().await, Node::start().await);
    let addresses = [dead.address.clone(), alive.address.clone()];
    dead.die();
    alive.told.starts.then(Ok(started()));
    let client = Client::connect(&addresses).await.unwrap();
    client
        .start(ORDER, "order-1", "1".to_owned())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_at_once_and_by_what_the_caller_does_next() {
    let node = Node::start().await;
    let client = node.client().await;
    let starts = &node.told.starts;
    starts.then(Err(coded(
        Code::AlreadyExists,
        "HF2001",
        "run order-1 exists with another input",
    )));
    starts.then(Err(coded(
        Code::NotFound,
        "HF3003",
        "no worker ever registered workflow order",
    )));
    starts.then(Err(coded(
        Code::FailedPrecondition,
        "HF2002",
        "run order-1 has ended",
    )));
    let start = || async {
        client
            .start(ORDER, "order-1", "1".to_owned())
            .await
            .err()
            .unwrap()
    };
    assert!(matches!(start().await, ClientError::IdConflict { run } if run == "order-1"));
    assert!(matches!(start().await, ClientError::NotFound(_)));
    assert!(matches!(start().await, ClientError::Refused { code, .. } if code == "HF2002"));
    assert_eq!(starts.asked().len(), 3, "none was repeated");
}

#[tokio::test]
async fn equal_inputs_have_one_digest_and_others_another() {
    let node = Node::start().await;
    let client = node.client().await;
    for input in [r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, r#"{"a":1,"b":3}"#] {
        node.told.starts.then(Ok(started()));
        let input = serde_json::from_str(input).unwrap();
        client.start_json("order", "order-1", &input).await.unwrap();
    }
    let digests: Vec<_> = node
        .told
        .starts
        .asked()
        .into_iter()
        .map(|it| it.digest)
        .collect();
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}

#[tokio::test]
async fn what_a_start_asks_for_is_what_is_sent() {
    let node = Node::start().await;
    let client = node.client().await;
    node.told.starts.then(Ok(started()));
    let start = client.start(ORDER.version(2), "order-1", "1".to_owned());
    let start = start
        .at(UNIX_EPOCH + Duration::from_secs(9))
        .timeout(Duration::from_secs(60));
    start
        .if_ended(Ended::NewGeneration)
        .with_signal(APPROVAL, true)
        .await
        .unwrap();
    let asked = node.told.starts.asked().remove(0);
    assert_eq!(
        (asked.workflow.as_str(), asked.run_id.as_str()),
        ("order", "order-1")
    );
    assert_eq!((asked.at_unix_ms, asked.timeout_ms), (9_000, 60_000));
    assert_eq!(asked.if_ended(), wire::IfEnded::NewGeneration);
    let signal = asked.signal.unwrap();
    assert_eq!(
        (signal.name.as_str(), &signal.payload[..]),
        ("approval", &b"true"[..])
    );
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_before_anything_is_sent() {
    let node = Node::start().await;
    let client = node.client().await;
    let large = "x".repeat(300_000);
    let refused = client
        .start(ORDER, "order-1", large.clone())
        .await
        .err()
        .unwrap();
    let ClientError::Refused { code, message } = refused else {
        panic!("{refused}");
    };
    assert_eq!(code, "HF3001");
    assert!(
        message.contains("300002 bytes") && message.contains("262144"),
        "{message}"
    );
    let note = Signal::<String>::new("note");
    let run = client.run(ORDER, "order-1");
    assert!(matches!(
        run.signal(note, large).await,
        Err(ClientError::Refused { .. })
    ));
    assert_eq!(
        (
            node.told.starts.asked().len(),
            node.told.signals.asked().len()
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn a_result_is_waited_for_until_the_run_has_ended() {
    let node = Node::start().await;
    let client = node.client().await;
    let results = &node.told.results;
    results.then(Ok(run_is(wire::RunStatus::Waiting)));
    results.then(Err(not_leader()));
    results.then(Ok(run_is(wire::RunStatus::Completed)));
    let run = client.run(ORDER, "order-1");
    assert_eq!(run.result().await.unwrap(), "shipped");
    assert!(
        results
            .asked()
            .iter()
            .all(|it| it.wait_ms > 0 && it.wait_ms <= 30_000)
    );
}

#[tokio::test]
async fn a_start_that_waits_is_one_call_and_asks_on_for_a_run_that_lasts() {
    let node = Node::start().await;
    let client = node.client().await;
    let told = &node.told;
    told.starts.then(Err(not_leader()));
    told.starts.then(Ok(wire::StartReply {
        run: run_is(wire::RunStatus::Completed).run,
        ..started()
    }));
    let output = client.start(ORDER, "order-1", "1".to_owned()).result();
    assert_eq!(output.await.unwrap(), "shipped");
    assert!(told.results.asked().is_empty());

    told.starts.then(Ok(started()));
    told.results
        .then(Ok(run_is(wire::RunStatus::Waiting)))
        .then(Ok(run_is(wire::RunStatus::Completed)));
    let output = client.start(ORDER, "order-2", "1".to_owned()).result();
    assert_eq!(output.await.unwrap(), "shipped");
    assert!(told.starts.asked().iter().all(|it| it.wait_ms > 0));
}

#[tokio::test]
async fn a_start_whose_repeat_would_mean_something_else_does_not_wait_in_one_call() {
    let node = Node::start().await;
    let client = node.client().await;
    for ended in [Ended::NewGeneration, Ended::Reject] {
        node.told.starts.then(Ok(started()));
        node.told
            .results
            .then(Ok(run_is(wire::RunStatus::Completed)));
        let start = client.start(ORDER, "order-1", "1".to_owned());
        start.if_ended(ended).result().await.unwrap();
    }
    let asked = node.told.starts.asked();
    assert!(asked.iter().all(|it| it.wait_ms == 0) && asked.len() == 2);
}

#[tokio::test]
async fn a_run_that_did_not_complete_says_how_it_ended() {
    let node = Node::start().await;
    let client = node.client().await;
    let ends = [
        wire::RunStatus::Failed,
        wire::RunStatus::Cancelled,
        wire::RunStatus::Terminated,
        wire::RunStatus::TimedOut,
    ];
    for end in ends {
        node.told.results.then(Ok(run_is(end)));
    }
    let run = client.run(ORDER, "order-1");
    assert!(matches!(run.result().await, Err(RunError::Failed(it)) if it.code == "CARD_DECLINED"));
    assert!(matches!(run.result().await, Err(RunError::Cancelled)));
    assert!(matches!(run.result().await, Err(RunError::Terminated(why)) if why == "a drill"));
    assert!(matches!(run.result().await, Err(RunError::TimedOut)));
    node.told
        .results
        .then(Ok(run_is(wire::RunStatus::Completed)));
    let typed = client.run(Workflow::<String, u32>::new("order"), "order-1");
    assert!(matches!(typed.result().await, Err(RunError::BadOutput(_))));
}

#[tokio::test]
async fn a_result_that_does_not_come_in_time_leaves_the_run_as_it_is() {
    let node = Node::start().await;
    let client = node.client().await;
    node.told.results.then(Ok(run_is(wire::RunStatus::Running)));
    let run = client.run(ORDER, "order-1");
    let late = run.result_within(Duration::ZERO).await;
    assert!(matches!(late, Err(RunError::Client(ClientError::TimedOut))));
}

#[tokio::test]
async fn a_view_is_typed_and_none_until_it_is_published() {
    let node = Node::start().await;
    let client = node.client().await;
    let views = &node.told.views;
    views.then(Ok(wire::GetViewReply::default()));
    let found = |value: &'static str| wire::GetViewReply {
        found: true,
        value: value.into(),
        ..Default::default()
    };
    views.then(Ok(found(r#""charging""#))).then(Ok(found("7")));
    let run = client.run(ORDER, "order-1");
    assert_eq!(run.view(STAGE).await.unwrap(), None);
    assert_eq!(run.view(STAGE).await.unwrap().as_deref(), Some("charging"));
    assert!(matches!(
        run.view(STAGE).await,
        Err(ClientError::Refused { .. })
    ));
}

#[tokio::test]
async fn a_cancel_is_one_request_over_all_its_tries() {
    let node = Node::start().await;
    let client = node.client().await;
    let undoing = wire::ChangeReply {
        status: wire::RunStatus::Undoing.into(),
        ..Default::default()
    };
    node.told.cancels.then(Err(not_leader())).then(Ok(undoing));
    let status = client
        .run(ORDER, "order-1")
        .cancel("a change of mind")
        .await
        .unwrap();
    assert_eq!(status, Status::Undoing);
    let asked = node.told.cancels.asked();
    assert_eq!(
        (asked.len(), asked[0].reason.as_str()),
        (2, "a change of mind")
    );
    assert_eq!(asked[0], asked[1]);
}

#[tokio::test]
async fn a_description_tells_where_a_run_stands() {
    let node = Node::start().await;
    let client = node.client().await;
    node.told.gets.then(Ok(run_is(wire::RunStatus::Paused)));
    node.told.gets.then(Ok(run_is(wire::RunStatus::Paused)));
    let run = client.run(ORDER, "order-1");
    assert_eq!(run.status().await.unwrap(), Status::Paused);
    assert_eq!(run.describe().await.unwrap().reason, "a drill");
}

#[tokio::test]
async fn a_list_goes_on_page_by_page_and_ends() {
    let node = Node::start().await;
    let client = node.client().await;
    let page = |id: &str, next: &str| wire::ListReply {
        runs: vec![wire::RunSummary {
            run_id: id.to_owned(),
            status: wire::RunStatus::Waiting.into(),
            ..Default::default()
        }],
        next_page_token: next.to_owned(),
        ..Default::default()
    };
    node.told
        .lists
        .then(Ok(page("order-2", "more")))
        .then(Ok(page("order-1", "")));
    let mut runs = client
        .runs()
        .workflow("order")
        .status(Status::Waiting)
        .page_size(1);
    let mut ids = Vec::new();
    while let Some(page) = runs.page().await.unwrap() {
        ids.extend(page.into_iter().map(|it| it.id));
    }
    assert_eq!(ids, ["order-2", "order-1"]);
    let tokens: Vec<_> = node
        .told
        .lists
        .asked()
        .into_iter()
        .map(|it| it.page_token)
        .collect();
    assert_eq!(tokens, ["", "more"]);
}
