//! Errors that users meet, by what they do next.

use std::{fmt::Display, time::Duration};

/// A step failed for good; the function decides what follows.
#[derive(Debug, Clone, thiserror::Error)]
#[error("step {step} failed [{code}] after {attempts} attempt(s): {message}")]
#[non_exhaustive]
pub struct StepFailed {
    /// The step's name.
    pub step: String,
    /// The step's own code, or `GAVE_UP`, `PANICKED`, `CANCELLED`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Attempts that were charged.
    pub attempts: u32,
}

impl StepFailed {
    pub(crate) fn new(step: &str, code: String, message: String, attempts: u32) -> Self {
        Self {
            step: step.to_owned(),
            code,
            message,
            attempts,
        }
    }
    /// The run was asked to cancel. Sticky: the next await says so too.
    pub fn is_cancelled(&self) -> bool {
        self.code == "CANCELLED"
    }
}

/// The run was asked to cancel, for this reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cancelled: {0}")]
pub struct Cancelled(pub String);

/// Ends a run as failed; what is owed is undone first. On purpose not `From<E: Error>`; see [`EndsRun`].
///
/// ```
/// # use holdfast::{Cx, Fail, Step};
/// # const STOCK: Step<String, u32> = Step::new("stock");
/// async fn order(cx: Cx, sku: String) -> Result<(), Fail> {
///     if cx.step(STOCK, sku).await? == 0 {
///         return Err(Fail::new("SOLD_OUT", "nothing is left; the customer was told"));
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Fail {
    /// The user's own code.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Fail {
    /// With a code of your own and a sentence for people.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// Errors that `?` may turn into a failed run: only Holdfast's own. Do I/O in a step; map other errors by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot end a run: I/O does not belong in workflow code",
    note = "move the call into a step, or map the error with `Fail::new(code, message)`"
)]
pub trait EndsRun {
    /// The failure that it means for the run.
    fn fail(self) -> Fail;
}
impl EndsRun for StepFailed {
    fn fail(self) -> Fail {
        Fail {
            code: self.code,
            message: format!("{}: {}", self.step, self.message),
        }
    }
}
impl EndsRun for Cancelled {
    fn fail(self) -> Fail {
        Fail::new("CANCELLED", self.0)
    }
}
impl<E: EndsRun> From<E> for Fail {
    fn from(e: E) -> Self {
        e.fail()
    }
}

/// What an attempt of a step may come to, other than done.
#[derive(Debug)]
#[non_exhaustive]
pub enum StepError {
    /// Try again: by policy, or after the span that the callee asked for.
    Retryable {
        /// For people.
        message: String,
        /// What the callee asked for.
        after: Option<Duration>,
    },
    /// Never try again: the function gets `StepFailed` with this code.
    Terminal {
        /// Your own code.
        code: String,
        /// For people.
        message: String,
    },
    /// Closes a limit that the step names, for every run; burns no attempt.
    Throttled {
        /// Which limit.
        limit: String,
        /// For how long.
        after: Duration,
        /// For people.
        message: String,
    },
    /// Lease lost or run cancelled: nothing is recorded against the step.
    Stopped,
}

impl StepError {
    /// Try again by policy.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::Retryable {
            message: message.into(),
            after: None,
        }
    }
    /// Never try again.
    pub fn terminal(code: &str, message: impl Into<String>) -> Self {
        Self::Terminal {
            code: code.into(),
            message: message.into(),
        }
    }
    /// Close a limit that the step names.
    pub fn throttled(limit: impl Into<String>, after: Duration) -> Self {
        Self::Throttled {
            limit: limit.into(),
            after,
            message: String::new(),
        }
    }
}

/// `?` on any standard error means: try again.
impl<E: std::error::Error> From<E> for StepError {
    fn from(e: E) -> Self {
        Self::retryable(e.to_string())
    }
}

/// What a step returns.
pub type StepResult<T> = Result<T, StepError>;

/// Names the other outcomes. On `Display`, so that it also serves `anyhow::Error`, `Box<dyn Error>` and strings.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast::{ResultExt, StepCx, StepResult};
/// # struct Answer { status: u16, body: String }
/// # async fn post(_: &str) -> Result<Answer, std::io::Error> { Ok(Answer { status: 200, body: String::new() }) }
/// async fn charge(cx: StepCx, cents: u64) -> StepResult<String> {
///     let answer = post(cx.idempotency_key()).await?; // an error of the connection: try again by policy
///     match answer.status {
///         200 => Ok(answer.body),
///         402 => Err(answer.body).terminal("CARD_DECLINED"), // the function gets StepFailed
///         429 => Err(answer.body).throttled("payments", Duration::from_secs(2)), // for every run; no attempt is charged
///         _ => Err(answer.body).retry_after(Duration::from_secs(30)),
///     }
/// }
/// ```
pub trait ResultExt<T> {
    /// Try again by policy.
    ///
    /// # Errors
    /// The error itself, as `Retryable`.
    fn retryable(self) -> StepResult<T>;
    /// Try again after this long.
    ///
    /// # Errors
    /// The error itself, as `Retryable`.
    fn retry_after(self, d: Duration) -> StepResult<T>;
    /// Never try again.
    ///
    /// # Errors
    /// The error itself, as `Terminal`.
    fn terminal(self, code: &str) -> StepResult<T>;
    /// Close a limit that the step names.
    ///
    /// # Errors
    /// The error itself, as `Throttled`.
    fn throttled(self, limit: &str, after: Duration) -> StepResult<T>;
}

impl<T, E: Display> ResultExt<T> for Result<T, E> {
    fn retryable(self) -> StepResult<T> {
        self.map_err(|e| StepError::retryable(format!("{e:#}")))
    }
    fn retry_after(self, d: Duration) -> StepResult<T> {
        self.map_err(|e| StepError::Retryable {
            message: format!("{e:#}"),
            after: Some(d),
        })
    }
    fn terminal(self, code: &str) -> StepResult<T> {
        self.map_err(|e| StepError::terminal(code, format!("{e:#}")))
    }
    fn throttled(self, limit: &str, after: Duration) -> StepResult<T> {
        self.map_err(|e| StepError::Throttled {
            limit: limit.to_owned(),
            after,
            message: format!("{e:#}"),
        })
    }
}

/// Why a client's call was not answered as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no such run, workflow or view; nothing was changed.
    #[error("not found: {0}")]
    NotFound(String),
    /// The id was used with another input; choose another id.
    #[error("run {run} exists with another input; choose another id")]
    IdConflict {
        /// Which run.
        run: String,
    },
    /// Refused, and repeating it unchanged will not help; the code has a page in `docs/errors`.
    #[error("[{code}] {message}")]
    Refused {
        /// `HF…`.
        code: String,
        /// What happened and what to do.
        message: String,
    },
    /// Not allowed.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// No node answered: whether it was done is open; call again with the same id.
    #[error("no answer from any endpoint: {0}")]
    Unavailable(String),
    /// Gave up waiting: whether it was done is open; call again with the same id.
    #[error("gave up waiting")]
    TimedOut,
}

/// How a run ended, other than completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its function failed.
    #[error("failed [{}]: {}", .0.code, .0.message)]
    Failed(Fail),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It was ended at once, for this reason.
    #[error("terminated: {0}")]
    Terminated(String),
    /// Its own time ran out.
    #[error("timed out")]
    TimedOut,
    /// Its output is not of the type that was asked for.
    #[error("the output cannot be read: {0}")]
    BadOutput(String),
    /// The question was not answered.
    #[error(transparent)]
    Client(#[from] ClientError),
}
