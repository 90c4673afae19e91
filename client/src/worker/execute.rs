//! `Executor`: step bodies on the user's Tokio runtime, each ended before its lease.
//!
//! Invariant: at most one body begins per fence of a partition; two partitions may mint the same fence. A body is told to stop first, and aborted at the stop margin.

use std::{
    any::Any,
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use holdfast_proto::v1::{self, attempt_outcome::Kind};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    driver::panic_text,
    stream::{ToStream, Up},
    threads::{Down, Drivers},
};
use crate::{
    cx::{LocalBody, ms},
    error::{StepError, StepResult},
    step_cx::{Attempt, StepCx},
};

/// Between being told to stop and being aborted.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// Where a body's outcome goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A local step: to the run's driver.
    Local(u32, String),
    /// A step that came by Execute: a report.
    Report(u32, String),
}

/// Turns a body's result into what is reported: plain, or a probe's finding.
pub(crate) type Judge = fn(Bytes) -> Kind;

/// Partition and fence.
type Lease = (u32, u64);

struct Running {
    run: String,
    entry: u32,
    local: bool,
    stop: CancellationToken,
}

struct Shared {
    handle: Handle,
    app: Option<Arc<dyn Any + Send + Sync>>,
    running: Mutex<HashMap<Lease, Running>>,
    free: Arc<AtomicI64>,
    stop_at: Arc<AtomicU64>,
    clock: Instant,
    up: ToStream,
    drivers: Mutex<Option<Drivers>>,
}

/// Executes bodies.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Shared>);

impl Executor {
    pub(crate) fn new(
        handle: Handle,
        app: Option<Arc<dyn Any + Send + Sync>>,
        free: Arc<AtomicI64>,
        stop_at: Arc<AtomicU64>,
        clock: Instant,
        up: ToStream,
    ) -> Self {
        let (running, drivers) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared {
            handle,
            app,
            running,
            free,
            stop_at,
            clock,
            up,
            drivers,
        }))
    }

    /// Where outcomes of local steps go.
    pub(crate) fn connect(&self, drivers: Drivers) {
        *self.0.drivers.lock() = Some(drivers);
    }

    /// Lets go of the driver thread, which then ends.
    pub(crate) fn disconnect(&self) {
        *self.0.drivers.lock() = None;
    }

    /// Begins a body under a grant, once per fence.
    pub(crate) fn begin(&self, origin: Origin, grant: v1::Grant, body: LocalBody) {
        self.begin_judged(origin, grant, body, Kind::Done);
    }

    pub(crate) fn begin_judged(
        &self,
        origin: Origin,
        grant: v1::Grant,
        body: LocalBody,
        judge: Judge,
    ) {
        let (partition, run, local) = match &origin {
            Origin::Local(partition, run) => (*partition, run.clone(), true),
            Origin::Report(partition, run) => (*partition, run.clone(), false),
        };
        let stop = CancellationToken::new();
        let running = Running {
            run: run.clone(),
            entry: grant.entry,
            local,
            stop: stop.clone(),
        };
        match self.0.running.lock().entry((partition, grant.fence)) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(running),
        };
        self.0.free.fetch_sub(1, Ordering::Relaxed);
        let cx = self.cx(&origin, &grant, run, stop.clone());
        let this = self.clone();
        self.0.handle.spawn(async move {
            let timeout = (grant.timeout_ms > 0).then(|| Duration::from_millis(grant.timeout_ms));
            let kind = attempt(body, cx, stop, timeout, judge).await;
            this.end(origin, &grant, kind);
        });
    }

    fn cx(
        &self,
        origin: &Origin,
        grant: &v1::Grant,
        run: String,
        stop: CancellationToken,
    ) -> StepCx {
        let (up, entry, fence) = (self.0.up.clone(), grant.entry, grant.fence);
        let (Origin::Local(partition, _) | Origin::Report(partition, _)) = origin;
        let (partition, of) = (*partition, run.clone());
        let sink = Arc::new(move |progress: Bytes| {
            let progress = v1::Progress {
                run: of.clone(),
                entry,
                fence,
                progress,
            };
            up.send(Up::Message(
                partition,
                v1::from_worker::Message::Progress(progress),
            ));
        });
        StepCx(Arc::new(Attempt {
            run,
            key: grant.idempotency_key.clone(),
            fence,
            attempt: grant.attempt,
            progress: Some(grant.progress.clone()).filter(|bytes| !bytes.is_empty()),
            stop,
            app: self.0.app.clone(),
            sink,
            last_progress: Mutex::new(None),
            stop_at: Arc::clone(&self.0.stop_at),
            clock: self.0.clock,
        }))
    }

    fn end(&self, origin: Origin, grant: &v1::Grant, kind: Kind) {
        let (Origin::Local(partition, _) | Origin::Report(partition, _)) = &origin;
        self.0.running.lock().remove(&(*partition, grant.fence));
        self.0.free.fetch_add(1, Ordering::Relaxed);
        let outcome = Some(v1::AttemptOutcome { kind: Some(kind) });
        let (entry, fence) = (grant.entry, grant.fence);
        match origin {
            Origin::Local(partition, run) => {
                let result = v1::StepResult {
                    entry,
                    fence,
                    outcome,
                };
                if let Some(drivers) = &*self.0.drivers.lock() {
                    drivers.send(Down::Result(partition, run, result));
                }
            }
            Origin::Report(partition, run) => {
                let report = v1::Report {
                    run,
                    entry,
                    fence,
                    outcome,
                };
                self.0.up.send(Up::Report(partition, report));
            }
        }
    }

    /// Tells one attempt to stop.
    pub(crate) fn stop(&self, partition: u32, fence: u64) {
        if let Some(running) = self.0.running.lock().get(&(partition, fence)) {
            running.stop.cancel();
        }
    }

    /// Tells all local attempts of a run to stop.
    pub(crate) fn stop_run(&self, partition: u32, run: &str) {
        for ((of, _), running) in &*self.0.running.lock() {
            if *of == partition && running.run == run && running.local {
                running.stop.cancel();
            }
        }
    }

    /// The lease of everything of a partition (or of all) is about to end.
    pub(crate) fn stop_all(&self, partition: Option<u32>) {
        for ((of, _), running) in &*self.0.running.lock() {
            if partition.is_none_or(|partition| partition == *of) {
                running.stop.cancel();
            }
        }
    }

    /// How many bodies run.
    pub(crate) fn running(&self) -> usize {
        self.0.running.lock().len()
    }

    /// Steps that came by Execute and still run, for a Hello.
    pub(crate) fn held(&self, partition: u32) -> Vec<v1::HeldStep> {
        let running = self.0.running.lock();
        running
            .iter()
            .filter(|((of, _), it)| *of == partition && !it.local)
            .map(|((_, fence), it)| v1::HeldStep {
                run: it.run.clone(),
                entry: it.entry,
                fence: *fence,
            })
            .collect()
    }
}

/// One attempt: until it is done, its own time is up, or it did not heed its stop.
async fn attempt(
    body: LocalBody,
    cx: StepCx,
    stop: CancellationToken,
    timeout: Option<Duration>,
    judge: Judge,
) -> Kind {
    // The body is made inside, so that a panic before its first await is caught as well.
    let work = AssertUnwindSafe(async move { body(cx).await }).catch_unwind();
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let out_of_time = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => match done {
            Ok(result) => outcome(result, judge),
            Err(panic) => Kind::Panicked(v1::Failure {
                code: "PANICKED".to_owned(),
                message: panic_text(&*panic),
            }),
        },
        () = stopped => Kind::Stopped(v1::Empty {}),
        () = out_of_time => Kind::Retryable(v1::Retryable {
            message: format!("timed out after {:?}", timeout.unwrap_or_default()),
            after_ms: 0,
        }),
    }
}

fn outcome(result: StepResult<Bytes>, judge: Judge) -> Kind {
    match result {
        Ok(output) => judge(output),
        Err(StepError::Retryable { message, after }) => Kind::Retryable(v1::Retryable {
            message,
            after_ms: after.map_or(0, ms),
        }),
        Err(StepError::Terminal { code, message }) => Kind::Terminal(v1::Failure { code, message }),
        Err(StepError::Throttled {
            limit,
            after,
            message,
        }) => Kind::Throttled(v1::Throttled {
            limit,
            after_ms: ms(after),
            message,
        }),
        Err(StepError::Stopped) => Kind::Stopped(v1::Empty {}),
    }
}
