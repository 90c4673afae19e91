//! `StepCx`: what a step may ask. It has no way to start steps.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{StepError, StepResult},
    names::Data,
};

/// Progress is recorded at most this often per lease; the newest wins.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Where heartbeats with progress go.
pub(crate) type ProgressSink = Arc<dyn Fn(Bytes) + Send + Sync>;

/// What one attempt is given.
#[derive(Clone)]
pub struct StepCx(pub(crate) Arc<Attempt>);

pub(crate) struct Attempt {
    pub(crate) run: String,
    pub(crate) key: String,
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) progress: Option<Bytes>,
    pub(crate) stop: CancellationToken,
    pub(crate) app: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) sink: ProgressSink,
    pub(crate) last_progress: Mutex<Option<Instant>>,
    /// When this attempt must be over, in milliseconds on `clock`; beats move it.
    pub(crate) stop_at: Arc<AtomicU64>,
    pub(crate) clock: Instant,
}

impl StepCx {
    /// The same on every attempt, worker and leader, and after a restore; never shared by two steps. Hand it to the API
    /// that you call.
    pub fn idempotency_key(&self) -> &str {
        &self.0.key
    }

    /// Larger on every grant of the same step; bit 63 is never set, so it fits a signed column.
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// From 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// The run that it is a step of.
    pub fn run_id(&self) -> &str {
        &self.0.run
    }

    /// What `Worker::app` was given.
    ///
    /// # Panics
    /// The worker was given no value of this type; the attempt fails with that sentence.
    pub fn app<T: 'static>(&self) -> &T {
        let app = self.0.app.as_ref().and_then(|app| app.downcast_ref::<T>());
        app.unwrap_or_else(|| {
            panic!(
                "the worker was given no {}; see Worker::app",
                std::any::type_name::<T>()
            )
        })
    }

    /// Shows life, and records how far the attempt has come for the next one: at most once a second, the newest wins.
    ///
    /// # Errors
    /// `Stopped`: the lease is lost or the run cancelled; return at once.
    pub async fn heartbeat<T: Data>(&self, progress: T) -> StepResult<()> {
        if self.0.stop.is_cancelled() {
            return Err(StepError::Stopped);
        }
        let due = {
            let mut last = self.0.last_progress.lock();
            let due = last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        if due {
            (self.0.sink)(serde_json::to_vec(&progress)?.into());
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// The last progress that an earlier attempt got recorded. It may lag: what it guards must bear repetition.
    pub fn progress<T: Data>(&self) -> Option<T> {
        let bytes = self.0.progress.as_ref().filter(|bytes| !bytes.is_empty())?;
        serde_json::from_slice(bytes).ok()
    }

    /// Resolves when this attempt should stop.
    pub async fn cancelled(&self) {
        self.0.stop.cancelled().await;
    }

    /// Until when this attempt may work, as of now; beats prolong it.
    pub fn lease_remaining(&self) -> Duration {
        let now = u64::try_from(self.0.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.0.stop_at.load(Ordering::Relaxed).saturating_sub(now))
    }
}
