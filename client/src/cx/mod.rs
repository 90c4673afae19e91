//! `Cx`: what a workflow function may ask. Deterministic, no IO.
//!
//! Invariant: operations are numbered in the order in which they are first polled, and matched to the journal by key
//! (name and occurrence, taken when the operation is built); a mismatch is divergence, named with expected and got.

mod ops;
mod state;

use std::{
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

pub use ops::{Call, GiveUp, Op, Retry, Wait};
pub(crate) use state::{LocalBody, State};

use crate::{
    error::{Cancelled, StepResult},
    names::{Data, Signal, Step, View},
    step_cx::StepCx,
};

/// What a workflow function may ask. Holds an `Rc`, so the function's future cannot be spawned elsewhere.
///
/// ```
/// use holdfast::{Cx, Fail, Step};
/// const GREET: Step<String, String> = Step::new("greet");
/// async fn hello(cx: Cx, name: String) -> Result<String, Fail> {
///     Ok(cx.step(GREET, name).await?)
/// }
/// ```
#[derive(Clone)]
pub struct Cx(pub(crate) Rc<State>);

impl Cx {
    /// A registered step: here if this worker has it, else on any worker of its queue.
    pub fn step<I: Data, O: Data>(&self, step: Step<I, O>, input: I) -> Call<I, O> {
        Call::step(self.0.clone(), step.name(), &input)
    }

    /// An inline step: the closure runs on the worker that drives the run, under a lease like any other step.
    pub fn run<O: Data, F, Fut>(&self, name: &'static str, body: F) -> Call<(), O>
    where
        F: Fn(StepCx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<O>> + Send + 'static,
    {
        Call::inline(self.0.clone(), name, body)
    }

    /// Waits for a signal.
    pub fn wait<T: Data>(&self, signal: Signal<T>) -> Wait<T> {
        Wait::new(self.0.clone(), signal.name())
    }

    /// A durable timer.
    pub fn sleep(&self, d: Duration) -> Op<Result<(), Cancelled>> {
        ops::timer(self.0.clone(), ms(d), 0)
    }

    /// A durable timer that fires at this time on the group clock.
    pub fn sleep_until(&self, t: SystemTime) -> Op<Result<(), Cancelled>> {
        let at = t.duration_since(UNIX_EPOCH).map_or(1, ms).max(1);
        ops::timer(self.0.clone(), 0, at)
    }

    /// All results in order, or the first failure. The operations run at the same time.
    ///
    /// # Errors
    /// The first failure; the others are withdrawn.
    pub async fn join_all<T, E>(
        &self,
        ops: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
    ) -> Result<Vec<T>, E> {
        futures::future::try_join_all(ops).await
    }

    /// Shows a value to whoever asks, with no worker running.
    pub fn publish<T: Data>(&self, view: View<T>, value: T) {
        self.0.publish(view.name(), &value);
    }

    /// The time, recorded: the same in every replay.
    pub fn now(&self) -> SystemTime {
        let ms: u64 = self.0.record("now", || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, self::ms)
        });
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    /// A random number, recorded.
    pub fn random(&self) -> u64 {
        self.0.record("random", rand::random::<u64>)
    }

    /// A random UUID, recorded.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_u128(self.0.record("uuid", || Uuid::new_v4().as_u128()))
    }

    /// The id of this run.
    pub fn run_id(&self) -> &str {
        &self.0.run
    }
}

/// Whole milliseconds, at most some hundred million years.
pub(crate) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
