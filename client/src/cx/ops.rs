//! Operations: what `Cx` hands out, built with options and awaited.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use holdfast_proto::v1::{self, intent, outcome};

use super::{ms, state::State};
use crate::{
    digest::{self, Encoded},
    error::{Cancelled, StepError, StepFailed, StepResult},
    journal::Key,
    names::{Data, Found, Probe, Step, Undo},
    step_cx::StepCx,
};

/// A durable operation: awaited once.
#[must_use = "a durable operation does nothing until it is awaited"]
pub struct Op<T> {
    asked: Asked,
    read: fn(&str, outcome::Kind) -> T,
}

/// What was asked for, and under which number once it was.
struct Asked {
    state: Rc<State>,
    key: Key,
    digest: u64,
    kind: Option<intent::Kind>,
    entry: Option<u32>,
    local: Option<super::LocalBody>,
}

impl Asked {
    /// Asks at the first poll, and looks whether there is an outcome.
    fn poll(&mut self, waker: &Waker) -> Poll<outcome::Kind> {
        let entry = match self.entry {
            Some(entry) => entry,
            None => {
                let kind = self.kind.take().expect("an operation is asked for once");
                let entry = self.state.ask(&self.key, self.digest, kind);
                self.entry = Some(entry);
                if let Some(body) = self.local.take() {
                    self.state.inner.borrow_mut().local.insert(entry, body);
                }
                entry
            }
        };
        let outcome = self.state.outcome(entry, waker);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            self.state.forget(entry);
        }
    }
}

impl<T> Future for Op<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let read = self.read;
        let ready = self.asked.poll(cx.waker());
        ready.map(|kind| read(&self.asked.key.1, kind))
    }
}

pub(super) fn timer(state: Rc<State>, delay_ms: u64, at_unix_ms: u64) -> Op<Result<(), Cancelled>> {
    let key = state.key("cx.sleep");
    let kind = intent::Kind::Timer(v1::TimerIntent {
        delay_ms,
        at_unix_ms,
    });
    let asked = Asked {
        state,
        key,
        digest: delay_ms.max(at_unix_ms), // one of them is 0
        kind: Some(kind),
        entry: None,
        local: None,
    };
    Op {
        asked,
        read: read_timer,
    }
}

fn read_timer(_: &str, kind: outcome::Kind) -> Result<(), Cancelled> {
    match kind {
        outcome::Kind::Cancelled(why) => Err(Cancelled(why.message)),
        _ => Ok(()),
    }
}

/// How a step is retried. The defaults: 200 ms, doubling, at most 60 s, given up after 24 h, and then the run pauses.
///
/// ```
/// use std::time::Duration;
/// use holdfast::{GiveUp, Retry};
/// let patient = Retry::exponential(Duration::from_secs(1)).cap(Duration::from_secs(300));
/// let strict = Retry::fixed(Duration::from_secs(5)).max_attempts(3).then(GiveUp::Fail);
/// # drop((patient, strict));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Retry(v1::RetryPolicy);

/// What happens when a policy is used up.
#[derive(Debug, Clone, Copy)]
pub enum GiveUp {
    /// The run waits for a person, nothing is lost. The default.
    Pause,
    /// The function sees `StepFailed`.
    Fail,
    /// The run fails at once and what is owed is undone.
    Compensate,
}

impl Retry {
    /// Waits this long before the second attempt, doubling from then on.
    pub fn exponential(initial: Duration) -> Self {
        Self(v1::RetryPolicy {
            initial_ms: ms(initial).max(1),
            ..Default::default()
        })
    }
    /// Waits this long before each attempt.
    pub fn fixed(every: Duration) -> Self {
        let initial_ms = ms(every).max(1);
        Self(v1::RetryPolicy {
            initial_ms,
            factor_percent: 100,
            cap_ms: initial_ms,
            ..Default::default()
        })
    }
    /// The first failure is the last.
    pub fn never() -> Self {
        Self(v1::RetryPolicy {
            never: true,
            ..Default::default()
        })
        .then(GiveUp::Fail)
    }
    /// No delay is longer.
    #[must_use]
    pub fn cap(mut self, d: Duration) -> Self {
        self.0.cap_ms = ms(d).max(1);
        self
    }
    /// At most so many attempts.
    #[must_use]
    pub fn max_attempts(mut self, n: u32) -> Self {
        self.0.max_attempts = n;
        self
    }
    /// Not counting time spent waiting for a limit or a worker, or while paused.
    #[must_use]
    pub fn give_up_after(mut self, elapsed: Duration) -> Self {
        self.0.give_up_after_ms = ms(elapsed).max(1);
        self
    }
    /// What happens then.
    #[must_use]
    pub fn then(mut self, give_up: GiveUp) -> Self {
        self.0.give_up = match give_up {
            GiveUp::Pause => v1::GiveUp::Pause,
            GiveUp::Fail => v1::GiveUp::Fail,
            GiveUp::Compensate => v1::GiveUp::Compensate,
        }
        .into();
        self
    }
}

/// A step on its way.
#[must_use = "a durable operation does nothing until it is awaited"]
pub struct Call<I, O> {
    asked: Asked,
    types: PhantomData<fn(I) -> O>,
}

impl<I: Data, O: Data> Call<I, O> {
    pub(super) fn step(state: Rc<State>, name: &'static str, input: &I) -> Self {
        let key = state.key(name);
        let Encoded { json, digest } = digest::encode(input)
            .unwrap_or_else(|cause| panic!("the input of step {name} cannot be recorded: {cause}"));
        if let Err(large) = digest::fits(&format!("the input of step {name}"), &json) {
            panic!("{large}");
        }
        let local = (state.bodies)(name, json.clone());
        // A step that this worker does not have goes to any worker of the same queue.
        let queue = if local.is_some() {
            String::new()
        } else {
            state.queue.clone()
        };
        let step = v1::StepIntent {
            step: name.to_owned(),
            queue,
            input: json,
            ..Default::default()
        };
        let kind = Some(intent::Kind::Step(step));
        Self {
            asked: Asked {
                state,
                key,
                digest,
                kind,
                entry: None,
                local,
            },
            types: PhantomData,
        }
    }

    fn spec(mut self, change: impl FnOnce(&mut v1::StepIntent)) -> Self {
        if let Some(intent::Kind::Step(step)) = &mut self.asked.kind {
            change(step);
        }
        self
    }

    /// How it is retried.
    pub fn retry(self, policy: Retry) -> Self {
        self.spec(|step| step.retry = Some(policy.0))
    }
    /// Of one attempt: then it is stopped, and tried again by policy.
    pub fn timeout(self, d: Duration) -> Self {
        self.spec(|step| step.timeout_ms = ms(d).max(1))
    }
    /// Longest silence between two heartbeats of an attempt, after which it is tried again. Heartbeats are sent once a
    /// second at most: 3 s and more make sense.
    pub fn heartbeat(self, d: Duration) -> Self {
        self.spec(|step| step.heartbeat_ms = ms(d).max(1))
    }
    /// May be called several times: all limits must admit.
    pub fn limit(self, name: impl Into<String>) -> Self {
        self.spec(|step| step.limits.push(name.into()))
    }
    /// On any worker of this queue, instead of here.
    ///
    /// # Panics
    /// The step is an inline one, which can only run here.
    pub fn queue(mut self, name: &str) -> Self {
        self.asked.local = None;
        if let Some(intent::Kind::Step(step)) = &self.asked.kind {
            let what = &step.step;
            assert!(
                !step.inline,
                "inline step {what} runs on the driving worker; register it to send it to a queue"
            );
        }
        self.spec(|step| step.queue = name.to_owned())
    }
    /// Journaled with the intent of this step; owed once an attempt was granted, unless a probe answered `Absent`.
    pub fn undo(self, undo: Step<Undo<I, O>, ()>) -> Self {
        self.spec(|step| step.undo = undo.name().to_owned())
    }
    /// Never again by itself once it may have begun: the run pauses with the evidence.
    pub fn at_most_once(self) -> Self {
        self.spec(|step| step.certainty = v1::Certainty::AtMostOnce.into())
    }
    /// Lease lost on the way: ask this probe before running it again.
    pub fn reconcile(self, probe: Step<Probe<I>, Found<O>>) -> Self {
        self.spec(|step| {
            step.certainty = v1::Certainty::Reconcile.into();
            step.probe = probe.name().to_owned();
        })
    }
}

impl<O: Data> Call<(), O> {
    pub(super) fn inline<F, Fut>(state: Rc<State>, name: &'static str, body: F) -> Self
    where
        F: Fn(StepCx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StepResult<O>> + Send + 'static,
    {
        let key = state.key(name);
        let step = v1::StepIntent {
            step: name.to_owned(),
            input: Bytes::from_static(b"null"),
            inline: true,
            ..Default::default()
        };
        let local: super::LocalBody = Arc::new(move |cx| {
            let body = body(cx);
            async move { output_of(&body.await?) }.boxed()
        });
        let kind = Some(intent::Kind::Step(step));
        let asked = Asked {
            state,
            key,
            digest: 0,
            kind,
            entry: None,
            local: Some(local),
        };
        Self {
            asked,
            types: PhantomData,
        }
    }
}

impl<I, O: Data> Future for Call<I, O> {
    type Output = Result<O, StepFailed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ready = self.asked.poll(cx.waker());
        ready.map(|kind| read_step(&self.asked.key.1, kind))
    }
}

/// A step's output as it is recorded. The effect has happened: trying again would not make it fit.
pub(crate) fn output_of<O: Data>(output: &O) -> StepResult<Bytes> {
    let json = serde_json::to_vec(output)
        .map_err(|cause| StepError::terminal("OUTPUT_TYPE", cause.to_string()))?;
    digest::fits("the step's output", &json)
        .map_err(|large| StepError::terminal("OUTPUT_TOO_LARGE", large))?;
    Ok(json.into())
}

fn read_step<O: Data>(step: &str, kind: outcome::Kind) -> Result<O, StepFailed> {
    match kind {
        outcome::Kind::Done(output) => serde_json::from_slice(&output).map_err(|cause| {
            let message = format!("its recorded output is of another type: {cause}");
            StepFailed::new(step, "OUTPUT_TYPE".to_owned(), message, 0)
        }),
        outcome::Kind::Failed(it) => Err(StepFailed::new(step, it.code, it.message, it.attempts)),
        outcome::Kind::Cancelled(it) => {
            Err(StepFailed::new(step, "CANCELLED".to_owned(), it.message, 0))
        }
        outcome::Kind::Fired(_) | outcome::Kind::TimedOut(_) => {
            let message = "the journal has no step's outcome here".to_owned();
            Err(StepFailed::new(step, "INTERNAL".to_owned(), message, 0))
        }
    }
}

/// A wait for a signal.
#[must_use = "a durable operation does nothing until it is awaited"]
pub struct Wait<T> {
    asked: Asked,
    types: PhantomData<fn() -> T>,
}

impl<T: Data> Wait<T> {
    pub(super) fn new(state: Rc<State>, signal: &str) -> Self {
        let key = state.key(signal);
        let wait = v1::WaitIntent {
            signal: signal.to_owned(),
            ..Default::default()
        };
        let kind = Some(intent::Kind::Wait(wait));
        let asked = Asked {
            state,
            key,
            digest: 0,
            kind,
            entry: None,
            local: None,
        };
        Self {
            asked,
            types: PhantomData,
        }
    }

    fn spec(mut self, change: impl FnOnce(&mut v1::WaitIntent)) -> Self {
        if let Some(intent::Kind::Wait(wait)) = &mut self.asked.kind {
            change(wait);
        }
        self
    }

    /// Makes it an approval: a question put to a person.
    pub fn ask(self, question: impl Into<String>) -> Self {
        self.spec(|wait| wait.ask = question.into())
    }

    /// `None` when nobody answered in this time.
    pub fn timeout(self, d: Duration) -> Op<Result<Option<T>, Cancelled>> {
        let mut it = self.spec(|wait| wait.timeout_ms = ms(d).max(1));
        it.asked.digest = ms(d);
        Op {
            asked: it.asked,
            read: read_wait,
        }
    }
}

impl<T: Data> Future for Wait<T> {
    type Output = Result<T, Cancelled>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ready = self.asked.poll(cx.waker());
        ready.map(|kind| {
            let signal = &self.asked.key.1;
            let missing = || Cancelled(format!("signal {signal} timed out without a timeout"));
            read_wait::<T>(signal, kind).and_then(|value| value.ok_or_else(missing))
        })
    }
}

fn read_wait<T: Data>(signal: &str, kind: outcome::Kind) -> Result<Option<T>, Cancelled> {
    match kind {
        outcome::Kind::Done(payload) => match serde_json::from_slice(&payload) {
            Ok(value) => Ok(Some(value)),
            // Told as a panic: the run is retried, then quarantined with this sentence, and nothing is lost.
            Err(cause) => panic!("signal {signal} brought a payload of another type: {cause}"),
        },
        outcome::Kind::TimedOut(_) => Ok(None),
        outcome::Kind::Cancelled(why) => Err(Cancelled(why.message)),
        outcome::Kind::Failed(_) | outcome::Kind::Fired(_) => Ok(None),
    }
}
