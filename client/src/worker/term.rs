//! How long the leases of a partition certainly live, and who stops their bodies in time.
//!
//! Invariant: a body is told to stop, and then aborted, before its lease can be given to anybody else, whether or not there
//! is a stream. Counted from the sending of the last echoed beat, on this process's monotonic clock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::execute::{Executor, STOP_GRACE};

/// A body that heeds its stop is over this long after it was told, on a busy machine too.
const STOPS_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take until a body whose own lease is over is noticed; twice in a row it counts.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the leases of one partition may count on.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// When the last body must be over.
    stop: Instant,
    /// When the leases end.
    end: Instant,
}

/// The terms of all partitions.
#[derive(Clone)]
pub(crate) struct Terms(Arc<Vec<watch::Sender<Option<Term>>>>);

/// One partition's term, as an attempt sees it.
#[derive(Clone)]
pub(crate) struct TermWatch(watch::Receiver<Option<Term>>);

impl Terms {
    pub(crate) fn new(partitions: u32) -> Self {
        let none = |_| watch::Sender::new(None);
        Self(Arc::new((0..partitions).map(none).collect()))
    }

    /// A beat that was sent `since` has been echoed.
    pub(crate) fn prolong(&self, partition: u32, since: Instant, term: Duration, margin: Duration) {
        let (stop, end) = (since + term.saturating_sub(margin), since + term);
        self.0[partition as usize - 1].send_replace(Some(Term { stop, end }));
    }

    pub(crate) fn watch(&self, partition: u32) -> TermWatch {
        TermWatch(self.0[partition as usize - 1].subscribe())
    }
}

impl TermWatch {
    /// How long a body may still work.
    pub(crate) fn remaining(&self, now: std::time::Instant) -> Duration {
        let term = *self.0.borrow();
        term.map_or(Duration::MAX, |it| {
            it.stop.into_std().saturating_duration_since(now)
        })
    }

    /// Whether it is too late to begin a body.
    pub(crate) fn is_over(&self) -> bool {
        self.remaining(std::time::Instant::now()) <= STOP_GRACE
    }
}

/// Ends the bodies of one partition before their leases end.
pub(crate) struct Warden {
    pub(crate) partition: u32,
    pub(crate) terms: Terms,
    pub(crate) executor: Executor,
    pub(crate) left: CancellationToken,
    /// Called with what still runs when its lease ends.
    pub(crate) outlived: Arc<dyn Fn(Vec<String>) + Send + Sync>,
}

impl Warden {
    /// Until the worker has left.
    pub(crate) async fn run(self) {
        let left = self.left.clone();
        tokio::select! {
            () = self.watch() => {}
            () = self.watch_own_ends() => {}
            () = left.cancelled() => {}
        }
    }

    /// An attempt's timeout ends its lease while beats go on.
    async fn watch_own_ends(&self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Vec::new();
        loop {
            looks.tick().await;
            let overdue = self.executor.overdue(self.partition);
            let still: Vec<String> = overdue
                .iter()
                .filter(|it| before.contains(*it))
                .cloned()
                .collect();
            if !still.is_empty() {
                (self.outlived)(still);
            }
            before = overdue;
        }
    }

    async fn watch(&self) {
        let TermWatch(mut term) = self.terms.watch(self.partition);
        loop {
            let now = *term.borrow_and_update();
            tokio::select! {
                changed = term.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return,
                },
                () = self.end(now) => {}
            }
        }
    }

    /// Never returns: a beat that is echoed after all begins a new term.
    async fn end(&self, term: Option<Term>) {
        if let Some(Term { stop, end }) = term {
            sleep_until(stop.checked_sub(STOP_GRACE).unwrap_or(stop)).await;
            let told = Instant::now();
            if self.executor.stop_all(Some(self.partition)) > 0 {
                let partition = self.partition;
                tracing::warn!(
                    partition,
                    "beats are not echoed: steps are stopped before their leases end"
                );
            }
            // A worker that was frozen meanwhile gives its bodies the time to stop before it judges them.
            sleep_until(end.max(told + STOPS_WITHIN)).await;
            let outlived = self.executor.still_running(self.partition);
            if !outlived.is_empty() {
                (self.outlived)(outlived);
            }
        }
        std::future::pending::<()>().await;
    }
}
