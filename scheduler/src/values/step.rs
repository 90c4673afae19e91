//! Steps: the life of one unit of user work, `SCHEDULED -> LEASED -> DONE | FAILED -> BACKOFF -> SCHEDULED`.
//!
//! The same attempts serve a step's body, the probe that asks whether it happened, and the undo that takes it back.
//! Invariant: at most one lease is live per step, and each has a larger fence than the one before.

use bytes::Bytes;

use crate::{
    bounds,
    entry::{AttemptOutcome, Certainty, RetryPolicy},
    ids::{Fence, IntentNo, LimitName, Name, RunId, Seq, SessionId},
    seeded::{self, Bug},
    time::{Millis, Timestamp},
    values::retry::Verdict,
};

/// Where the attempts at something stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryState {
    /// Waits for a place at its limits since then; `ticket` orders waiters, first come first.
    AtLimit {
        /// Since when.
        since: Timestamp,
        /// Log index and number within the entry: the place in the queue.
        ticket: (u64, u32),
    },
    /// Waits for a worker since then.
    Scheduled {
        /// Since when.
        since: Timestamp,
    },
    /// A worker executes it.
    Leased(StepLease),
    /// Failed, and is tried again then.
    Backoff {
        /// When.
        until: Timestamp,
        /// Since when.
        since: Timestamp,
    },
    /// Given up or uncertain: a person decides. The run is paused.
    Held,
}

/// A worker's right to try a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLease {
    /// Whose.
    pub session: SessionId,
    /// The number of the grant.
    pub fence: Fence,
    /// Since when.
    pub since: Timestamp,
    /// The attempt outlived its timeout and was told to stop.
    pub stopping: bool,
}

/// All attempts at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tries {
    /// Where they stand.
    pub state: TryState,
    /// Grants so far.
    pub attempt: u32,
    /// Failures that the policy counts.
    pub failures: u32,
    /// Spent in attempts and backoff: what the policy's span is measured against.
    pub spent: Millis,
    /// For people.
    pub last_error: String,
    /// Progress that an attempt recorded last.
    pub progress: Option<Bytes>,
}

impl Tries {
    /// None yet.
    pub fn new(state: TryState) -> Self {
        Self {
            state,
            attempt: 0,
            failures: 0,
            spent: Millis(0),
            last_error: String::new(),
            progress: None,
        }
    }

    /// The live lease, if any.
    pub fn lease(&self) -> Option<&StepLease> {
        match &self.state {
            TryState::Leased(lease) => Some(lease),
            TryState::AtLimit { .. }
            | TryState::Scheduled { .. }
            | TryState::Backoff { .. }
            | TryState::Held => None,
        }
    }

    /// Whether the live lease is under this fence.
    pub fn is_under(&self, fence: Fence) -> bool {
        let any = seeded::armed(Bug::FenceCheckSkipped);
        self.lease()
            .is_some_and(|lease| any || lease.fence == fence)
    }

    /// A worker takes it.
    pub fn grant(&mut self, session: SessionId, fence: Fence, now: Timestamp) {
        self.attempt = self.attempt.saturating_add(1);
        self.state = TryState::Leased(StepLease {
            session,
            fence,
            since: now,
            stopping: false,
        });
    }

    /// Counts the time spent in the state that is left now.
    fn leave(&mut self, now: Timestamp) {
        let since = match &self.state {
            TryState::Leased(lease) => Some(lease.since),
            TryState::Backoff { since, .. } => Some(*since),
            TryState::AtLimit { .. } | TryState::Scheduled { .. } | TryState::Held => None,
        };
        if let Some(since) = since {
            self.spent = Millis(self.spent.0.saturating_add(now.since(since).0));
        }
    }

    /// Waits for a worker, or for its limits first.
    pub fn wait_for_worker(&mut self, limited: bool, ticket: (u64, u32), now: Timestamp) {
        self.leave(now);
        self.state = if limited {
            TryState::AtLimit { since: now, ticket }
        } else {
            TryState::Scheduled { since: now }
        };
    }

    /// A charged failure: backs off, or says that the policy is used up (and is `Held` then).
    pub fn fail(
        &mut self,
        policy: &RetryPolicy,
        whose: (&RunId, IntentNo),
        error: &str,
        asked: Option<Millis>,
        now: Timestamp,
    ) -> Verdict {
        self.leave(now);
        self.failures = self.failures.saturating_add(1);
        self.note(error);
        let verdict = policy.verdict(whose.0, whose.1, self.failures, self.spent, asked);
        self.state = match verdict {
            Verdict::Again(after) => TryState::Backoff {
                until: now.after(after),
                since: now,
            },
            Verdict::UsedUp(_) => TryState::Held,
        };
        verdict
    }

    /// A person decides from here on.
    pub fn hold(&mut self, error: &str, now: Timestamp) {
        self.leave(now);
        self.note(error);
        self.state = TryState::Held;
    }

    /// Keeps the last error, cut to its bound.
    pub fn note(&mut self, error: &str) {
        self.last_error = cut(error);
    }

    /// A person said to try again: the policy starts anew.
    pub fn reset_policy(&mut self) {
        self.failures = 0;
        self.spent = Millis(0);
    }
}

/// Cut to the bound of error texts, at a character's end.
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(bounds::ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// What is executed when a step is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The step itself.
    Body,
    /// The probe that says whether the body happened.
    Probe,
}

/// A step that a run asked for and that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The name that workers register.
    pub step: Name,
    /// None: with the driver.
    pub queue: Option<Name>,
    /// The journal row that holds its intent, and so its input.
    pub seq: Seq,
    /// How it is retried.
    pub retry: RetryPolicy,
    /// Of one attempt.
    pub timeout: Option<Millis>,
    /// Longest silence between two heartbeats.
    pub heartbeat: Option<Millis>,
    /// All must admit each attempt.
    pub limits: Vec<LimitName>,
    /// What becomes of it when its lease is lost.
    pub certainty: Certainty,
    /// The step that undoes it.
    pub undo: Option<Name>,
    /// What is executed next or now.
    pub phase: Phase,
    /// Whether it holds a place at its limits.
    pub admitted: bool,
    /// Its attempts.
    pub tries: Tries,
}

/// What a lost lease means for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterLoss {
    /// It may be tried again, with the same key.
    TryAgain,
    /// It may have happened, and nobody may repeat it.
    PauseRun,
    /// The probe is asked first.
    Ask,
}

impl Step {
    /// Whether only the run's driver may execute what comes next.
    pub fn is_local(&self) -> bool {
        self.queue.is_none() && self.phase == Phase::Body
    }

    /// What a lost lease means, by its certainty mode.
    pub fn after_loss(&self) -> AfterLoss {
        match (self.phase, &self.certainty) {
            (Phase::Probe, _) | (Phase::Body, Certainty::AtLeastOnce) => AfterLoss::TryAgain,
            (Phase::Body, Certainty::AtMostOnce) if seeded::armed(Bug::AtMostOnceRerun) => {
                AfterLoss::TryAgain
            }
            (Phase::Body, Certainty::AtMostOnce) => AfterLoss::PauseRun,
            (Phase::Body, Certainty::Reconcile(_)) if seeded::armed(Bug::ReconcileWithoutProbe) => {
                AfterLoss::TryAgain
            }
            (Phase::Body, Certainty::Reconcile(_)) => AfterLoss::Ask,
        }
    }

    /// The name of what is executed next: the step's, or its probe's.
    pub fn executes(&self) -> &Name {
        match (self.phase, &self.certainty) {
            (Phase::Probe, Certainty::Reconcile(probe)) => probe,
            (Phase::Probe | Phase::Body, _) => &self.step,
        }
    }

    /// Whether an attempt must pass its limits first.
    pub fn is_limited(&self) -> bool {
        self.phase == Phase::Body && !self.limits.is_empty()
    }

    /// A throttle may close only a limit that the step names.
    pub fn names_limit(&self, limit: &LimitName) -> bool {
        self.limits.contains(limit)
    }
}

/// An undo that is owed: of a step of which an attempt was ever granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The step that it takes back.
    pub intent: IntentNo,
    /// That step's name.
    pub step: Name,
    /// The undo's name.
    pub undo: Name,
    /// The queue whose workers may run it.
    pub queue: Name,
    /// The journal row that holds the step's input.
    pub seq: Seq,
    /// The journal row that holds the step's output, once it is done.
    pub output: Option<Seq>,
    /// The function gave the step up (it lost a race or a join): undone even when the run completes.
    pub withdrawn: bool,
    /// Its attempts; none: its time has not come.
    pub tries: Option<Tries>,
}

/// What an attempt's outcome is called when the function sees it.
pub fn failure_of(outcome: &AttemptOutcome) -> (String, String) {
    match outcome {
        AttemptOutcome::Terminal { code, message } => (code.clone(), cut(message)),
        AttemptOutcome::Panicked(message) => ("PANICKED".to_owned(), cut(message)),
        AttemptOutcome::Retryable { message, .. } | AttemptOutcome::Throttled { message, .. } => {
            ("GAVE_UP".to_owned(), cut(message))
        }
        AttemptOutcome::Unsure(message) => ("UNSURE".to_owned(), cut(message)),
        AttemptOutcome::Done(_) | AttemptOutcome::Stopped | AttemptOutcome::Absent => (
            "INTERNAL".to_owned(),
            format!("an outcome that is no failure: {}", outcome.name()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries() -> Tries {
        let mut tries = Tries::new(TryState::Scheduled {
            since: Timestamp(0),
        });
        tries.grant(SessionId(1), Fence::from_wire(7), Timestamp(100));
        tries
    }

    #[test]
    fn only_attempts_and_backoff_count_toward_giving_up() {
        let run = RunId::from_stored("r");
        let mut tries = tries();
        let verdict = tries.fail(
            &RetryPolicy::default(),
            (&run, IntentNo(0)),
            "503",
            Some(Millis(50)),
            Timestamp(400),
        );
        assert_eq!(verdict, Verdict::Again(Millis(50)));
        assert_eq!(tries.spent, Millis(300));
        tries.wait_for_worker(false, (1, 0), Timestamp(450));
        assert_eq!(tries.spent, Millis(350));
        tries.grant(SessionId(1), Fence::from_wire(8), Timestamp(9_000));
        tries.hold("stop", Timestamp(9_010));
        assert_eq!(tries.spent, Millis(360));
    }

    #[test]
    fn a_fence_is_live_only_while_its_lease_is() {
        let mut tries = tries();
        assert!(tries.is_under(Fence::from_wire(7)));
        assert!(!tries.is_under(Fence::from_wire(6)));
        tries.hold("gone", Timestamp(200));
        assert!(!tries.is_under(Fence::from_wire(7)));
    }

    #[test]
    fn an_error_text_is_cut_at_a_characters_end() {
        let text = "ä".repeat(bounds::ERROR_TEXT_BYTES_MAX);
        assert!(cut(&text).len() <= bounds::ERROR_TEXT_BYTES_MAX);
    }
}
