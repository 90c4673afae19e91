//! Bodies under grants: one per fence, over before the lease ends, and each end reported for what it is (contract §5, §6).

use std::sync::{
    Mutex as StdMutex,
    atomic::{AtomicBool, AtomicUsize},
    mpsc,
};

use futures::FutureExt;
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};

use super::*;
use crate::{
    error::ResultExt,
    worker::term::{TermWatch, Warden},
};

const MINUTE: Duration = Duration::from_secs(60);
const TERM: Duration = Duration::from_secs(5);
const MARGIN: Duration = Duration::from_millis(900);
/// After the last echoed beat was sent: a term less its margin.
const STOP: Duration = Duration::from_millis(4_100);

/// An executor, and what it says to the stream of partition 1.
struct Bench {
    executor: Executor,
    terms: Terms,
    said: UnboundedReceiver<Up>,
    free: Arc<AtomicI64>,
}

impl Bench {
    fn new() -> Self {
        let (up, mut said) = ToStream::new(2);
        let free = Arc::new(AtomicI64::new(64));
        let terms = Terms::new(2);
        let app: Arc<dyn Any + Send + Sync> = Arc::new("the shop".to_owned());
        let handle = Handle::current();
        let executor = Executor::new(handle, Some(app), Arc::clone(&free), terms.clone(), up);
        let said = said.swap_remove(0);
        Self {
            executor,
            terms,
            said,
            free,
        }
    }

    fn begin<F, Fut>(&self, grant: v1::Grant, body: F)
    where
        F: Fn(StepCx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<Bytes>> + Send + 'static,
    {
        let body: LocalBody = Arc::new(move |cx| body(cx).boxed());
        self.executor.begin(from(1), grant, body);
    }

    /// How the next body ended.
    async fn end(&mut self) -> Kind {
        loop {
            if let Up::Report(_, report) = self.said.recv().await.unwrap() {
                return report.outcome.unwrap().kind.unwrap();
            }
        }
    }

    fn warden(&self, outlived: impl Fn(Vec<String>) + Send + Sync + 'static) -> Warden {
        Warden {
            partition: 1,
            terms: self.terms.clone(),
            executor: self.executor.clone(),
            left: CancellationToken::new(),
            outlived: Arc::new(outlived),
        }
    }
}

fn from(partition: u32) -> Origin {
    Origin::Report(partition, "order-7".to_owned())
}

fn grant(fence: u64) -> v1::Grant {
    v1::Grant {
        entry: 3,
        fence,
        attempt: 2,
        idempotency_key: "hf-order-7-3".to_owned(),
        ..Default::default()
    }
}

fn stopped() -> Kind {
    Kind::Stopped(v1::Empty {})
}

async fn never() -> StepResult<Bytes> {
    std::future::pending().await
}

fn terminal_code(kind: &Kind) -> &str {
    match kind {
        Kind::Terminal(failure) => &failure.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fence_begins_one_body_until_its_report_is_answered() {
    let mut bench = Bench::new();
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let body: LocalBody = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Bytes::new()) }.boxed()
    });
    let begin = |partition, fence| {
        bench
            .executor
            .begin(from(partition), grant(fence), body.clone());
    };
    begin(1, 9);
    begin(1, 9); // while it runs
    bench.executor.idle().await;
    begin(1, 9); // offered again, since its report is not answered
    bench.executor.idle().await;
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    assert_eq!(
        bench.executor.held(1).len(),
        1,
        "a Hello says that it is here"
    );
    begin(2, 9); // partitions mint their fences apart
    begin(1, 11);
    bench.executor.idle().await;
    assert_eq!(begun.load(Ordering::Relaxed), 3);
    bench.executor.reported(1, 9);
    assert_eq!(bench.executor.held(1).len(), 1);
    assert_eq!(bench.end().await, Kind::Done(Bytes::new()));
    assert_eq!(
        bench.free.load(Ordering::Relaxed),
        64,
        "every slot is free again"
    );
}

#[tokio::test]
async fn an_attempt_is_given_its_key_fence_number_run_and_app() {
    let mut bench = Bench::new();
    bench.begin(grant(9), async |cx| {
        let seen = (
            cx.idempotency_key(),
            cx.fence(),
            cx.attempt(),
            cx.run_id(),
            cx.app::<String>(),
        );
        Ok(format!("{seen:?}").into())
    });
    let expected = r#"("hf-order-7-3", 9, 2, "order-7", "the shop")"#;
    assert_eq!(bench.end().await, Kind::Done(expected.into()));
}

#[tokio::test]
async fn an_app_of_another_type_is_told_as_a_panic_that_names_it() {
    let mut bench = Bench::new();
    bench.begin(grant(9), async |cx| Ok(cx.app::<u64>().to_string().into()));
    let Kind::Panicked(it) = bench.end().await else {
        panic!("it did not panic");
    };
    assert!(
        it.message.contains("u64") && it.message.contains("Worker::app"),
        "{}",
        it.message
    );
}

#[tokio::test]
async fn a_panic_is_reported_with_its_text_before_and_after_the_first_await() {
    let mut bench = Bench::new();
    bench.begin(grant(9), |_| -> std::future::Ready<StepResult<Bytes>> {
        panic!("at once")
    });
    assert!(matches!(bench.end().await, Kind::Panicked(it) if it.message == "at once"));
    bench.begin(grant(10), async |_| {
        tokio::task::yield_now().await;
        panic!("{} late", 1)
    });
    assert!(matches!(bench.end().await, Kind::Panicked(it) if it.message == "1 late"));
    assert_eq!(bench.free.load(Ordering::Relaxed), 64);
}

#[tokio::test]
async fn each_error_is_reported_as_what_it_means() {
    let mut bench = Bench::new();
    let fail = |fence, with: fn() -> StepResult<Bytes>| {
        bench.begin(grant(fence), move |_| async move { with() });
    };
    fail(9, || Err("busy").retry_after(MINUTE));
    fail(10, || Ok(Err::<Bytes, _>(std::io::Error::other("reset"))?));
    fail(11, || Err("no money").terminal("CARD_DECLINED"));
    fail(12, || {
        Err(anyhow::anyhow!("429")).throttled("payments", MINUTE)
    });
    let retryable = |message: &str, after_ms| {
        let message = message.to_owned();
        Kind::Retryable(v1::Retryable { message, after_ms })
    };
    assert_eq!(bench.end().await, retryable("busy", 60_000));
    assert_eq!(bench.end().await, retryable("reset", 0));
    assert_eq!(terminal_code(&bench.end().await), "CARD_DECLINED");
    let throttled = v1::Throttled {
        limit: "payments".to_owned(),
        after_ms: 60_000,
        message: "429".to_owned(),
    };
    assert_eq!(bench.end().await, Kind::Throttled(throttled));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_is_ended_by_its_timeout_and_tried_again() {
    let mut bench = Bench::new();
    let began = Instant::now();
    let limited = v1::Grant {
        timeout_ms: 30_000,
        ..grant(9)
    };
    bench.begin(limited, |_| never());
    assert!(
        matches!(bench.end().await, Kind::Retryable(it) if it.message.contains("timed out after 30s"))
    );
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_heed_its_stop_is_aborted_shortly_after() {
    let mut bench = Bench::new();
    bench.begin(grant(9), |_| never());
    tokio::task::yield_now().await;
    let told = Instant::now();
    bench.executor.stop(1, 9);
    assert_eq!(bench.end().await, stopped());
    assert_eq!(told.elapsed().as_millis(), STOP_GRACE.as_millis());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_heeds_its_stop_may_still_say_what_it_came_to() {
    let mut bench = Bench::new();
    bench.begin(grant(9), async |cx| {
        cx.cancelled().await;
        Ok("half".into())
    });
    bench.begin(grant(10), async |cx| {
        cx.cancelled().await;
        cx.heartbeat(1).await?; // an error by now
        Ok("never".into())
    });
    tokio::task::yield_now().await;
    bench.executor.stop(1, 9);
    assert_eq!(bench.end().await, Kind::Done("half".into()));
    bench.executor.stop(1, 10);
    assert_eq!(bench.end().await, stopped());
}

#[tokio::test(start_paused = true)]
async fn a_body_is_over_before_its_lease_ends_when_beats_are_not_echoed() {
    let mut bench = Bench::new();
    tokio::spawn(
        bench
            .warden(|late| panic!("{late:?} outlived its lease"))
            .run(),
    );
    bench.terms.prolong(1, Instant::now(), TERM, MARGIN);
    let left = Arc::new(StdMutex::new(Duration::ZERO));
    let told = Arc::clone(&left);
    let stubborn = move |cx: StepCx| {
        *told.lock().unwrap() = cx.lease_remaining();
        never()
    };
    bench.begin(grant(9), stubborn);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let echoed = Instant::now();
    bench.terms.prolong(1, echoed, TERM, MARGIN); // the last one
    assert_eq!(bench.end().await, stopped());
    assert_eq!(
        echoed.elapsed().as_millis(),
        STOP.as_millis(),
        "aborted at the margin"
    );
    assert!(*left.lock().unwrap() <= STOP);
    tokio::time::sleep(TERM).await; // nothing outlived it
}

#[tokio::test(start_paused = true)]
async fn beats_that_are_echoed_let_a_body_run_on() {
    let mut bench = Bench::new();
    tokio::spawn(
        bench
            .warden(|late| panic!("{late:?} outlived its lease"))
            .run(),
    );
    bench.terms.prolong(1, Instant::now(), TERM, MARGIN);
    bench.begin(grant(9), async |_| {
        tokio::time::sleep(MINUTE).await;
        Ok(Bytes::new())
    });
    for _ in 0..70 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.terms.prolong(1, Instant::now(), TERM, MARGIN);
    }
    assert_eq!(bench.end().await, Kind::Done(Bytes::new()));
}

#[tokio::test(start_paused = true)]
async fn no_body_begins_under_a_lease_that_has_ended() {
    let mut bench = Bench::new();
    bench.terms.prolong(1, Instant::now(), TERM, MARGIN);
    let begun = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    // The clock of leases is the process's own; a frozen worker finds it moved on.
    bench.terms.prolong(1, Instant::now() - TERM, TERM, MARGIN);
    bench.begin(grant(9), move |_| {
        seen.store(true, Ordering::Relaxed);
        never()
    });
    assert_eq!(bench.end().await, stopped());
    assert!(!begun.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_blocks_its_thread_beyond_its_lease_is_named() {
    let mut bench = Bench::new();
    let (name, mut named) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(bench.warden(move |late| drop(name.send(late))).run());
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(StdMutex::new(blocked));
    let (term, margin) = (Duration::from_millis(600), Duration::from_millis(300));
    bench.terms.prolong(1, Instant::now(), term, margin);
    bench.begin(grant(9), move |_| {
        let blocked = Arc::clone(&blocked);
        async move {
            let _ = blocked.lock().unwrap().recv();
            Ok(Bytes::new())
        }
    });
    let late = named.recv().await.unwrap();
    assert_eq!(late, ["entry 3 of run order-7 under fence 9"]);
    drop(release);
    assert_eq!(
        bench.end().await,
        Kind::Done(Bytes::new()),
        "it is told to the node all the same"
    );
}

#[tokio::test]
async fn progress_is_sent_once_a_second_at_most_and_found_by_the_next_attempt() {
    let mut bench = Bench::new();
    let first = v1::Grant {
        progress: "40".into(),
        ..grant(9)
    };
    bench.begin(first, async |cx| {
        let from = cx.progress::<u32>().unwrap_or(0);
        for unit in from..from + 3 {
            cx.heartbeat(unit + 1).await?;
        }
        Ok(from.to_string().into())
    });
    let Up::Message(1, v1::from_worker::Message::Progress(it)) = bench.said.recv().await.unwrap()
    else {
        panic!("progress comes first");
    };
    assert_eq!((it.entry, it.fence, it.progress), (3, 9, Bytes::from("41")));
    assert_eq!(
        bench.end().await,
        Kind::Done("40".into()),
        "no second progress came before the end"
    );
}

#[tokio::test]
async fn progress_that_is_too_large_is_an_error_of_the_step() {
    let mut bench = Bench::new();
    bench.begin(grant(9), async |cx| {
        cx.heartbeat("x".repeat(20_000)).await?;
        Ok(Bytes::new())
    });
    assert_eq!(terminal_code(&bench.end().await), "PROGRESS_TOO_LARGE");
}

#[tokio::test]
async fn the_end_of_a_session_stops_its_bodies_and_forgets_what_was_left_to_report() {
    let mut bench = Bench::new();
    bench.begin(grant(9), async |_| Ok(Bytes::new()));
    assert_eq!(bench.end().await, Kind::Done(Bytes::new()));
    bench.begin(grant(10), |_| never());
    bench.executor.end_session(1);
    assert_eq!(
        bench.executor.held(1).len(),
        1,
        "the one that is being stopped"
    );
    assert_eq!(bench.end().await, stopped());
}

#[test]
fn without_a_term_yet_nothing_is_too_late() {
    let watch: TermWatch = Terms::new(1).watch(1);
    assert!(!watch.is_over());
}
