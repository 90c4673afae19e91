//! A worker over a real connection to a node that does as it is told: contract §3, §5 and §6 at the SDK's outside.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc as blocking,
    },
    time::{Duration, Instant},
};

use holdfast::{
    Client, ClientError, Cx, Fail, Step, StepCx, StepResult, Worker, Workflow,
    wire::{
        self, AdvanceOutcome, ReportOutcome, attempt_outcome::Kind as Came,
        from_worker::Message as From, to_worker::Message as To,
    },
};
use parking_lot::Mutex;
use support::{Node, PATIENCE, Stream, TERM, led_by};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

const ORDER: Workflow<u32, u32> = Workflow::new("order");
const CHARGE: Step<u32, u32> = Step::new("charge");

async fn order(cx: Cx, n: u32) -> Result<u32, Fail> {
    Ok(cx.step(CHARGE, n).await?)
}

/// A worker at work, until it is told to stop.
struct Working {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ClientError>>,
}

impl Working {
    fn begin(worker: Worker) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(worker.run_until(async move { drop(stopped.await) }));
        Self { stop, task }
    }

    /// It is over once the node, which the test plays, has let it go.
    async fn ended(self) {
        drop(self.stop);
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("the worker ends").unwrap().unwrap();
    }
}

fn worker<F, Fut>(client: &Client, charge: F) -> Worker
where
    F: Fn(StepCx, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = StepResult<u32>> + Send + 'static,
{
    Worker::new(client, "shop")
        .workflow(ORDER, order)
        .step(CHARGE, charge)
}

fn drive(run: &str, fence: u64) -> To {
    To::Drive(wire::Drive {
        run: run.to_owned(),
        fence,
        workflow: "order".to_owned(),
        version: 1,
        input: "7".into(),
        ..Default::default()
    })
}

fn execute(step: &str, fence: u64, attempt: u32) -> To {
    To::Execute(wire::Execute {
        run: "order-1".to_owned(),
        entry: 0,
        step: step.to_owned(),
        fence,
        attempt,
        idempotency_key: "hf-order-1-0".to_owned(),
        input: "7".into(),
        ..Default::default()
    })
}

fn grant(entry: u32, fence: u64) -> wire::Grant {
    wire::Grant {
        entry,
        fence,
        attempt: 1,
        ..Default::default()
    }
}

fn kind(outcome: Option<wire::AttemptOutcome>) -> Came {
    outcome.unwrap().kind.unwrap()
}

fn done(json: &'static str) -> Came {
    Came::Done(json.into())
}

fn stopped() -> Came {
    Came::Stopped(wire::Empty {})
}

/// Answers what a leaving worker says, until it says goodbye.
async fn let_go(mut stream: Stream) {
    loop {
        match stream.next().await {
            Some(From::Goodbye(_)) | None => return,
            Some(From::Advance(it)) => stream.advanced(&it, AdvanceOutcome::GoesOn, vec![]),
            Some(From::Report(it)) => stream.reported(&it, ReportOutcome::Accepted),
            Some(_) => {}
        }
    }
}

#[tokio::test]
async fn a_run_goes_from_its_drive_to_its_end_over_one_stream() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n + 1)).slots(4).name("w1"));
    let mut stream = node.welcomed(3).await;
    let hello = &stream.hello;
    assert_eq!(
        (hello.queue.as_str(), hello.name.as_str(), hello.slots),
        ("shop", "w1", 4)
    );
    assert_eq!(
        (hello.workflows[0].name.as_str(), hello.workflows[0].version),
        ("order", 1)
    );
    assert_eq!(
        (hello.steps.as_slice(), hello.session),
        (["charge".to_owned()].as_slice(), 0)
    );
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    assert_eq!(
        (first.number, first.intents.len(), first.free_slots),
        (1, 1, 4)
    );
    stream.advanced(&first, AdvanceOutcome::GoesOn, vec![grant(0, 6)]);
    let second = stream.advance().await;
    assert_eq!(kind(second.results[0].outcome.clone()), done("8"));
    let end = second.intents[0].kind.clone();
    assert_eq!(
        end,
        Some(wire::intent::Kind::Complete("8".into())),
        "one commit for both"
    );
    stream.advanced(&second, AdvanceOutcome::Finished, vec![]);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_journal_may_come_in_parts() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let mut stream = node.welcomed(3).await;
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    stream.advanced(&first, AdvanceOutcome::StaleFence, vec![]);
    let To::Drive(whole) = drive("order-1", 9) else {
        unreachable!()
    };
    let asked = wire::JournalRow {
        seen: Some(0),
        intents: first.intents,
        ..Default::default()
    };
    let came = wire::JournalRow {
        seq: 1,
        outcomes: vec![wire::Outcome {
            entry: 0,
            kind: Some(wire::outcome::Kind::Done("8".into())),
        }],
        ..Default::default()
    };
    stream.send(To::Drive(wire::Drive {
        rows: vec![asked],
        more: true,
        ..whole.clone()
    }));
    stream.send(To::Drive(wire::Drive {
        rows: vec![came],
        first_seq: 1,
        ..whole
    }));
    let next = stream.advance().await;
    assert_eq!(
        next.intents[0].kind,
        Some(wire::intent::Kind::Complete("8".into()))
    );
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn an_advance_that_was_not_answered_is_sent_again_unchanged_under_the_same_session() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let mut stream = node.welcomed(3).await;
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    drop(stream);
    let mut stream = node.attached().await;
    assert_eq!(stream.hello.session, 3);
    let held: Vec<_> = stream
        .hello
        .runs
        .iter()
        .map(|it| (it.run.as_str(), it.fence))
        .collect();
    assert_eq!(held, [("order-1", 5)]);
    stream.welcome(3);
    let again = stream.advance().await;
    let without_slots = |it: wire::Advance| wire::Advance {
        free_slots: 0,
        ..it
    };
    assert_eq!(without_slots(again), without_slots(first));
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_report_that_was_not_answered_is_sent_again_and_its_step_does_not_begin_again() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let working = Working::begin(worker(&client, move |_, n| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(n) }
    }));
    let mut stream = node.welcomed(3).await;
    stream.send(execute("charge", 9, 1));
    let report = stream.report().await;
    drop(stream);
    let mut stream = node.attached().await;
    assert_eq!(
        stream.hello.held_steps[0].fence, 9,
        "it is here until its report is answered"
    );
    stream.welcome(3);
    stream.send(execute("charge", 9, 1)); // a leader that does not know better
    assert_eq!(stream.report().await, report);
    stream.reported(&report, ReportOutcome::Unknown);
    assert_eq!(stream.report().await, report, "unknown: the same again");
    stream.reported(&report, ReportOutcome::Accepted);
    stream.send(execute("charge", 11, 2));
    assert_eq!(stream.report().await.fence, 11);
    assert_eq!(begun.load(Ordering::Relaxed), 2, "one body for each fence");
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_step_is_stopped_before_its_lease_ends_though_no_node_can_be_reached() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let working = Working::begin(worker(&client, move |cx: StepCx, n| {
        let tell = tell.clone();
        async move {
            tell.send("begun").unwrap();
            cx.cancelled().await;
            tell.send("told to stop").unwrap();
            Ok(n)
        }
    }));
    let stream = node.welcomed(3).await;
    stream.send(execute("charge", 9, 1));
    assert_eq!(told.recv().await, Some("begun"));
    let alone = Instant::now(); // no beat that was sent after this one is echoed
    stream.deafen();
    drop(stream);
    node.die();
    assert_eq!(
        timeout(PATIENCE, told.recv()).await,
        Ok(Some("told to stop"))
    );
    assert!(
        alone.elapsed() < TERM,
        "the lease has ended: {:?}",
        alone.elapsed()
    );
    assert!(alone.elapsed() > TERM / 2, "not at the first trouble");
    working.ended().await;
}

#[tokio::test]
async fn under_an_ended_session_all_is_dropped_before_a_new_one_begins() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let working = Working::begin(worker(&client, move |cx: StepCx, n| {
        let tell = tell.clone();
        async move {
            if n == 7 {
                cx.cancelled().await;
                tell.send(cx.fence()).unwrap();
            }
            Ok(n)
        }
    }));
    let mut stream = node.welcomed(3).await;
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    stream.send(execute("charge", 9, 1));
    stream.send(To::SessionEnded(wire::SessionEnded {
        session: 3,
        why: "no beat came for a whole term".to_owned(),
    }));
    assert_eq!(timeout(PATIENCE, told.recv()).await, Ok(Some(9)));
    let mut stream = node.attached().await;
    assert_eq!((stream.hello.session, stream.hello.runs.len()), (0, 0));
    stream.welcome(4);
    stream.send(drive("order-2", 15));
    let next = loop {
        match stream.next().await {
            Some(From::Report(it)) => assert_eq!(it.fence, 9), // late, and refused by its fence
            Some(From::Advance(it)) => break it,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (next.run.as_str(), first.run.as_str()),
        ("order-2", "order-1")
    );
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_worker_follows_the_leader_and_keeps_its_session() {
    let (mut one, mut two) = (Node::start().await, Node::start().await);
    let client = one.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let stream = one.welcomed(3).await;
    let addresses = [one.address.as_str(), two.address.as_str()];
    *one.told.topology.lock() = led_by(2, &addresses);
    *two.told.topology.lock() = led_by(2, &addresses);
    stream.send(To::Moved(wire::Moved {
        partition: 1,
        address: two.address.clone(),
    }));
    let stream = two.welcomed(3).await;
    assert_eq!(stream.hello.session, 3);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_node_that_welcomes_late_is_given_longer_the_next_time() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let mut left = node.attached().await;
    assert!(left.next().await.is_none(), "the worker tries anew");
    let mut stream = node.attached().await;
    // Longer than the first time, and all that a second worker in line may have to wait.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    stream.welcome(1);
    stream.send(execute("charge", 9, 1));
    let report = stream.report().await;
    assert_eq!(report.fence, 9);
    stream.reported(&report, ReportOutcome::Accepted);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_worker_finds_nodes_that_joined_while_its_stream_stood() {
    let (mut one, mut two) = (Node::start().await, Node::start().await);
    let client = one.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let standing = one.welcomed(1).await;
    let both = [one.address.as_str(), two.address.as_str()];
    *one.told.topology.lock() = led_by(1, &both);
    let asked = || one.told.topologies.load(Ordering::Relaxed);
    let before = asked();
    let learns = async {
        while asked() < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, learns)
        .await
        .expect("it asks now and then");
    *two.told.topology.lock() = led_by(2, &both);
    drop(standing);
    one.die();
    let stream = two.welcomed(1).await;
    assert_eq!(stream.hello.session, 1);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_worker_leaves_a_leader_that_echoes_nothing_once_others_have_elected_another() {
    let (mut one, mut two) = (Node::start().await, Node::start().await);
    let client = one.client().await;
    let addresses = [one.address.as_str(), two.address.as_str()];
    for node in [&one, &two] {
        *node.told.topology.lock() = led_by(1, &addresses);
    }
    let mut elected = led_by(2, &addresses);
    elected.leaders[0].term = 2;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let cut_off = one.welcomed(3).await;
    cut_off.deafen(); // and it goes on to believe that it leads
    *two.told.topology.lock() = elected;
    let stream = two.welcomed(3).await;
    assert_eq!(stream.hello.session, 3);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn what_a_worker_has_not_registered_goes_back_at_once() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let working = Working::begin(worker(&client, async |_, n| Ok(n)));
    let mut stream = node.welcomed(3).await;
    stream.send(execute("refund", 9, 1));
    assert_eq!(stream.returned().await.steps[0].fence, 9);
    let To::Drive(unknown) = drive("order-1", 5) else {
        unreachable!()
    };
    stream.send(To::Drive(wire::Drive {
        version: 2,
        ..unknown
    }));
    assert_eq!(stream.returned().await.runs[0].fence, 5);
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_step_that_blocks_its_thread_costs_no_beat() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let (release, blocked) = blocking::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let working = Working::begin(worker(&client, move |_, n| {
        let blocked = Arc::clone(&blocked);
        async move {
            let _ = blocked.lock().recv();
            Ok(n)
        }
    }));
    let mut stream = node.welcomed(3).await;
    stream.send(execute("charge", 9, 1));
    let seen = stream.beats.load(Ordering::Relaxed);
    let more = async {
        while stream.beats.load(Ordering::Relaxed) < seen + 5 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, more).await.expect("beats go on");
    drop(release);
    assert_eq!(kind(stream.report().await.outcome), done("7"));
    tokio::join!(working.ended(), let_go(stream));
}

#[tokio::test]
async fn a_worker_that_leaves_finishes_what_it_can_and_takes_nothing_new() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(Mutex::new(Some(finished)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let working = Working::begin(worker(&client, move |_, n| {
        let (finished, tell) = (finished.lock().take(), tell.clone());
        async move {
            tell.send(()).unwrap();
            drop(finished.expect("it begins once").await);
            Ok(n)
        }
    }));
    let mut stream = node.welcomed(3).await;
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    stream.advanced(&first, AdvanceOutcome::GoesOn, vec![grant(0, 6)]);
    told.recv().await.unwrap();
    let Working { stop, task } = working;
    drop(stop);
    // It says no word when it begins to leave; what it is offered from then on comes back.
    let mut fence = 20;
    loop {
        fence += 1;
        stream.send(drive("order-2", fence));
        match stream.next().await {
            Some(From::Return(it)) => break assert_eq!(it.runs[0].fence, fence),
            Some(From::Advance(it)) => stream.advanced(&it, AdvanceOutcome::StaleFence, vec![]),
            other => panic!("{other:?}"),
        }
    }
    drop(finish);
    let second = stream.advance().await;
    assert_eq!(kind(second.results[0].outcome.clone()), done("7"));
    assert_eq!(second.free_slots, 0, "no step is to be granted along");
    stream.advanced(&second, AdvanceOutcome::Finished, vec![]);
    assert!(matches!(stream.next().await, Some(From::Return(_))));
    assert!(matches!(stream.next().await, Some(From::Goodbye(_))));
    drop(stream);
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_over_before_it_is_handed_back() {
    let mut node = Node::start().await;
    let client = node.client().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let alive = Arc::new(());
    let inside = Arc::clone(&alive);
    let endless = move |_: StepCx, _: u32| {
        let (tell, inside) = (tell.clone(), Arc::clone(&inside));
        async move {
            tell.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(inside);
            Ok(0)
        }
    };
    let working = Working::begin(worker(&client, endless).grace(Duration::from_millis(10)));
    let mut stream = node.welcomed(3).await;
    stream.send(drive("order-1", 5));
    let first = stream.advance().await;
    stream.advanced(&first, AdvanceOutcome::GoesOn, vec![grant(0, 6)]);
    stream.send(execute("charge", 9, 1));
    told.recv().await.unwrap();
    told.recv().await.unwrap();
    let Working { stop, task } = working;
    drop(stop);
    let mut ends = Vec::new();
    loop {
        match stream.next().await {
            Some(From::Report(it)) => ends.push(kind(it.outcome)),
            Some(From::Advance(it)) => ends.push(kind(it.results[0].outcome.clone())),
            Some(From::Return(it)) => {
                assert_eq!(Arc::strong_count(&alive), 2, "no body runs any more");
                assert_eq!((it.runs[0].run.as_str(), it.steps.len()), ("order-1", 0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        ends,
        [stopped(), stopped()],
        "stopped: no attempt is charged"
    );
    assert!(matches!(stream.next().await, Some(From::Goodbye(_))));
    drop(stream);
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn two_registrations_of_one_name_are_refused_before_anything_begins() {
    let node = Node::start().await;
    let client = node.client().await;
    let twice = worker(&client, async |_, n| Ok(n)).step(CHARGE, async |_, n| Ok(n));
    let refused = twice.run_until(std::future::pending()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("step charge is registered twice"), "{text}");
}
