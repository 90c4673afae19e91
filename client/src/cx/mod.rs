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

pub(crate) use ops::output_of;
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
    /// A registered step: here if this worker has it, else on any worker of its queue. Its result is recorded once, and
    /// never asked for again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use holdfast::{Cx, Fail, Found, Probe, Retry, Step, Undo};
    /// # const CHARGE: Step<u64, String> = Step::new("charge");
    /// # const FIND_CHARGE: Step<Probe<u64>, Found<String>> = Step::new("find-charge");
    /// # const REFUND: Step<Undo<u64, String>, ()> = Step::new("refund");
    /// async fn order(cx: Cx, cents: u64) -> Result<String, Fail> {
    ///     let receipt = cx
    ///         .step(CHARGE, cents)
    ///         .retry(Retry::exponential(Duration::from_secs(1)).max_attempts(5))
    ///         .timeout(Duration::from_secs(30))
    ///         .reconcile(FIND_CHARGE)
    ///         .undo(REFUND)
    ///         .limit("payments")
    ///         .await?;
    ///     Ok(receipt)
    /// }
    /// ```
    pub fn step<I: Data, O: Data>(&self, step: Step<I, O>, input: I) -> Call<I, O> {
        Call::step(self.0.clone(), step.name(), &input)
    }

    /// An inline step: the closure runs on the worker that drives the run, under a lease like any other step.
    ///
    /// ```
    /// # use holdfast::{Cx, Fail};
    /// async fn import(cx: Cx, path: String) -> Result<usize, Fail> {
    ///     let count = cx.run("count-lines", move |_| {
    ///         let path = path.clone(); // an attempt may not be the last one
    ///         async move { Ok(tokio::fs::read_to_string(&path).await?.lines().count()) }
    ///     });
    ///     Ok(count.await?)
    /// }
    /// ```
    pub fn run<O: Data, F, Fut>(&self, name: &'static str, body: F) -> Call<(), O>
    where
        F: Fn(StepCx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<O>> + Send + 'static,
    {
        Call::inline(self.0.clone(), name, body)
    }

    /// Waits for a signal. One that came before the wait is kept for it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use holdfast::{Cx, Fail, Signal};
    /// # const APPROVED: Signal<bool> = Signal::new("approved");
    /// async fn order(cx: Cx, id: String) -> Result<bool, Fail> {
    ///     let asked = cx.wait(APPROVED).ask(format!("Ship order {id}?"));
    ///     Ok(asked.timeout(Duration::from_secs(3 * 86_400)).await?.unwrap_or(false))
    /// }
    /// ```
    pub fn wait<T: Data>(&self, signal: Signal<T>) -> Wait<T> {
        Wait::new(self.0.clone(), signal.name())
    }

    /// A durable timer: never early, and at no cost to any worker while it runs.
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
    /// ```
    /// # use holdfast::{Cx, Fail, Step};
    /// # const NOTIFY: Step<String, ()> = Step::new("notify");
    /// async fn tell(cx: Cx, people: Vec<String>) -> Result<usize, Fail> {
    ///     let told = cx.join_all(people.into_iter().map(|it| cx.step(NOTIFY, it))).await?;
    ///     Ok(told.len())
    /// }
    /// ```
    ///
    /// # Errors
    /// The first failure; the others go on, and what comes of them is not used.
    pub async fn join_all<T, E>(
        &self,
        ops: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
    ) -> Result<Vec<T>, E> {
        futures::future::try_join_all(ops).await
    }

    /// Shows a value to whoever asks by [`Run::view`](crate::Run::view), with no worker running; the newest is shown.
    ///
    /// # Panics
    /// The value cannot be written as JSON, or is too large to be recorded; the run is retried, then quarantined.
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
