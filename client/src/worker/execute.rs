//! `Executor`: step bodies on the user's Tokio runtime, each ended before its lease.
//!
//! Invariant: at most one body begins per fence of a partition; two partitions may mint the same fence. The fence of a
//! step that came by Execute is kept until its report is answered, since until then it may be offered again. A body is
//! told to stop first, and aborted at the stop margin.

use std::{
    any::Any,
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use holdfast_proto::v1::{self, attempt_outcome::Kind};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    driver::panic_text,
    stream::{ToStream, Up},
    term::Terms,
    threads::{Down, Drivers},
};
use crate::{
    cx::{LocalBody, ms},
    error::{StepError, StepResult},
    step_cx::{Attempt, StepCx},
};

/// Between being told to stop and being aborted.
pub(crate) const STOP_GRACE: Duration = Duration::from_millis(200);
/// The leader ends the lease of an attempt so long after its timeout.
const OVERDUE_AFTER: Duration = Duration::from_secs(5);

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
    /// Its body has ended; its report is not answered yet.
    over: bool,
    /// When the leader ends its lease whatever beats are echoed: some time after its own timeout.
    ends: Option<Instant>,
    stop: CancellationToken,
}

struct Shared {
    handle: Handle,
    app: Option<Arc<dyn Any + Send + Sync>>,
    running: Mutex<HashMap<Lease, Running>>,
    bodies: watch::Sender<usize>,
    free: Arc<AtomicI64>,
    terms: Terms,
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
        terms: Terms,
        up: ToStream,
    ) -> Self {
        let (running, drivers) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared {
            handle,
            app,
            running,
            bodies: watch::Sender::new(0),
            free,
            terms,
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
        let timeout = (grant.timeout_ms > 0).then(|| Duration::from_millis(grant.timeout_ms));
        let running = Running {
            run: run.clone(),
            entry: grant.entry,
            local,
            over: false,
            ends: timeout.map(|timeout| Instant::now() + timeout + OVERDUE_AFTER),
            stop: stop.clone(),
        };
        match self.0.running.lock().entry((partition, grant.fence)) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(running),
        };
        self.0.free.fetch_sub(1, Ordering::Relaxed);
        self.0.bodies.send_modify(|bodies| *bodies += 1);
        if self.0.terms.watch(partition).is_over() {
            // A worker that was frozen finds grants whose leases have ended meanwhile.
            return self.end(origin, &grant, Kind::Stopped(v1::Empty {}));
        }
        let cx = self.cx(&origin, &grant, run, stop.clone());
        let this = self.clone();
        self.0.handle.spawn(async move {
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
            term: self.0.terms.watch(partition),
        }))
    }

    fn end(&self, origin: Origin, grant: &v1::Grant, kind: Kind) {
        match &origin {
            Origin::Local(partition, _) => {
                self.0.running.lock().remove(&(*partition, grant.fence));
            }
            Origin::Report(partition, _) => {
                if let Some(running) = self.0.running.lock().get_mut(&(*partition, grant.fence)) {
                    running.over = true;
                }
            }
        }
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
        // Last: who waits for the end of all bodies finds their outcomes on the way.
        self.0.bodies.send_modify(|bodies| *bodies -= 1);
    }

    /// A report was answered: its fence is not offered again.
    pub(crate) fn reported(&self, partition: u32, fence: u64) {
        self.0.running.lock().remove(&(partition, fence));
    }

    /// The session of a partition is over, and with it what was left to report.
    pub(crate) fn end_session(&self, partition: u32) {
        self.stop_all(Some(partition));
        let gone = |of: u32, it: &Running| of == partition && it.over;
        self.0.running.lock().retain(|(of, _), it| !gone(*of, it));
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

    /// Tells everything of a partition (or of all) to stop; answers how many bodies run.
    pub(crate) fn stop_all(&self, partition: Option<u32>) -> usize {
        let running = self.0.running.lock();
        let told = running
            .iter()
            .filter(|((of, _), it)| !it.over && partition.is_none_or(|it| it == *of));
        told.map(|(_, it)| it.stop.cancel()).count()
    }

    /// Resolves once no body runs.
    pub(crate) async fn idle(&self) {
        let mut bodies = self.0.bodies.subscribe();
        drop(bodies.wait_for(|bodies| *bodies == 0).await); // it cannot close while this one lives
    }

    /// Bodies of a partition that have not ended, named for people.
    pub(crate) fn still_running(&self, partition: u32) -> Vec<String> {
        self.bodies_of(partition, |_| true)
    }

    /// Those whose own leases have ended by now.
    pub(crate) fn overdue(&self, partition: u32) -> Vec<String> {
        let now = Instant::now();
        self.bodies_of(partition, |it| it.ends.is_some_and(|ends| ends <= now))
    }

    fn bodies_of(&self, partition: u32, which: impl Fn(&Running) -> bool) -> Vec<String> {
        let running = self.0.running.lock();
        let bodies = running
            .iter()
            .filter(|((of, _), it)| *of == partition && !it.over && which(it));
        let mut names: Vec<String> = bodies
            .map(|((_, fence), it)| {
                format!("entry {} of run {} under fence {fence}", it.entry, it.run)
            })
            .collect();
        names.sort();
        names
    }

    /// Steps that came by Execute and whose reports are not answered, for a Hello.
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

#[cfg(test)]
mod tests;
