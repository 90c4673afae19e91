//! `StepCx`: what a step may ask. It has no way to start steps.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    digest,
    error::{StepError, StepResult},
    names::Data,
    worker::TermWatch,
};

/// Progress is recorded at most this often per lease; the newest wins.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Where heartbeats with progress go.
pub(crate) type ProgressSink = Arc<dyn Fn(Bytes) + Send + Sync>;

/// What one attempt is given.
///
/// ```
/// # use holdfast::{StepCx, StepResult};
/// # struct Shop;
/// # impl Shop { async fn charge(&self, _: u64, _key: &str) -> std::io::Result<String> { Ok(String::new()) } }
/// async fn charge(cx: StepCx, cents: u64) -> StepResult<String> {
///     Ok(cx.app::<Shop>().charge(cents, cx.idempotency_key()).await?) // `?` means: try again
/// }
/// ```
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
    /// When this attempt must be over; beats move it.
    pub(crate) term: TermWatch,
}

impl StepCx {
    /// The same on every attempt, worker and leader, and after a restore; never shared by two steps. Hand it to the API
    /// that you call.
    pub fn idempotency_key(&self) -> &str {
        &self.0.key
    }

    /// Larger on every grant of the same step; bit 63 is never set, so it fits a signed column. A receiver that keeps it
    /// in a row keyed by run and step can refuse a late attempt: see `examples/fenced_receiver.rs`.
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

    /// Shows life, and records how far the attempt has come for the next one: at most 16 KiB, at most once a second.
    ///
    /// ```
    /// # use holdfast::{StepCx, StepResult};
    /// # async fn send(_row: &str, _key: &str) -> std::io::Result<()> { Ok(()) }
    /// async fn export(cx: StepCx, rows: Vec<String>) -> StepResult<usize> {
    ///     let done = cx.progress().unwrap_or(0); // of the attempt before
    ///     for (nth, row) in rows.iter().enumerate().skip(done) {
    ///         send(row, &format!("{}/{nth}", cx.idempotency_key())).await?;
    ///         cx.heartbeat(nth + 1).await?;
    ///     }
    ///     Ok(rows.len())
    /// }
    /// ```
    ///
    /// # Errors
    /// `Stopped`: the lease is lost or the run cancelled; return at once. `Terminal` with `PROGRESS_TOO_LARGE`: record
    /// less, or where it is kept.
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
            let json = serde_json::to_vec(&progress)?;
            digest::within("the progress", &json, digest::PROGRESS_BYTES_MAX)
                .map_err(|large| StepError::terminal("PROGRESS_TOO_LARGE", large))?;
            (self.0.sink)(json.into());
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// The last progress that an earlier attempt got recorded. It may lag: what it guards must bear repetition.
    pub fn progress<T: Data>(&self) -> Option<T> {
        let bytes = self.0.progress.as_ref().filter(|bytes| !bytes.is_empty())?;
        serde_json::from_slice(bytes).ok()
    }

    /// Resolves when this attempt should stop. An attempt that does not is aborted a moment later.
    ///
    /// ```
    /// # use holdfast::{StepCx, StepError, StepResult};
    /// # async fn render(_: &str) -> std::io::Result<String> { Ok(String::new()) }
    /// async fn film(cx: StepCx, scene: String) -> StepResult<String> {
    ///     tokio::select! {
    ///         done = render(&scene) => Ok(done?),
    ///         () = cx.cancelled() => Err(StepError::Stopped), // not counted as a failure
    ///     }
    /// }
    /// ```
    pub async fn cancelled(&self) {
        self.0.stop.cancelled().await;
    }

    /// Until when this attempt may work, as of now; beats prolong it.
    pub fn lease_remaining(&self) -> Duration {
        self.0.term.remaining(Instant::now())
    }
}
