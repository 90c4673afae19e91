//! What the asker is told, as values. A refusal is data, not an error. No status codes here.

use bytes::Bytes;

use crate::{
    entry::{AttemptOutcome, GiveUp, Intent, LimitSpec},
    ids::{
        AdvanceNo, DeliveryNo, Fence, Generation, IntentNo, Name, RunId, Seq, SessionId, Version,
    },
    time::{Millis, Timestamp},
};

/// The answer to one command, in the order of the commands of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, and there is nothing to say (noop, progress, detach, limit set anew …).
    Done,
    /// A duty under another epoch: nothing was changed.
    Void,
    /// A duty that found nothing left to do: somebody else was first.
    Moot,
    /// To a start.
    Started {
        /// Its generation.
        generation: Generation,
        /// The version it is pinned to.
        version: Version,
        /// False: it existed, with the same input.
        created: bool,
    },
    /// To a change of a run (signal, cancel, pause …): its status after it.
    Changed(Status),
    /// To an attach.
    Attached {
        /// Under this session.
        session: SessionId,
        /// What the worker's owner should know.
        warnings: Vec<String>,
    },
    /// To an Advance.
    Advanced(Advanced),
    /// To a report.
    Reported(Reported),
    /// To a duty over many: how many it did, and whether more are left.
    Did {
        /// How many.
        count: u32,
        /// Whether the same duty would find more.
        more: bool,
    },
    /// To a deploy: what was current before.
    Deployed {
        /// It.
        previous: Option<Version>,
    },
    /// To a change of a limit: what it was before, if it was declared.
    LimitSet {
        /// It.
        previous: Option<LimitSpec>,
    },
    /// A refusal: nothing was written.
    Rejected(Rejected),
    /// The command broke a rule of ours; its run is quarantined, nothing else was written.
    Quarantined,
}

impl From<Rejected> for Reply {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

/// The answer to an Advance. Kept in the run row for its repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advanced {
    /// Which one.
    pub number: AdvanceNo,
    /// What becomes of the drive.
    pub outcome: AdvanceOutcome,
    /// Local steps that may begin; in a repeat, those whose lease still lives under the same fence.
    pub grants: Vec<StepGrant>,
    /// Deliveries after the last one that the Advance saw: the journal rows that hold them.
    pub deliveries: Vec<JournalRow>,
}

/// What becomes of a drive after an Advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvanceOutcome {
    /// The lease lives.
    GoesOn,
    /// The lease is over, only rows remain.
    Suspended,
    /// The run is final, or it is undoing: nothing is left to drive.
    Finished,
    /// All kept but the ending: run the function on, then end again.
    DeliveriesWait,
    /// Cancel, terminate or pause came first: results kept, intents refused.
    Interrupted,
    /// The drive is over for this worker: it drops the function, and a driver replays the journal.
    Superseded,
}

/// The right to begin one body of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepGrant {
    /// Which step.
    pub intent: IntentNo,
    /// The fence, larger than any before it.
    pub fence: Fence,
    /// From 1.
    pub attempt: u32,
    /// Of this attempt.
    pub timeout: Option<Millis>,
    /// The last that an earlier attempt had recorded.
    pub progress: Option<Bytes>,
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It counts.
    Accepted,
    /// It counted already.
    Duplicate,
    /// Its lease was lost before: nothing changed.
    Stale,
}

/// The statuses of the contract (§2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It begins later.
    Scheduled,
    /// It waits for a worker.
    Ready,
    /// A worker drives it.
    Running,
    /// It waits for something named.
    Waiting,
    /// It was held still, by a person or by the system.
    Paused,
    /// It killed its workers, diverged, or a command on it broke a rule.
    Quarantined,
    /// It ends, but owes undos.
    Undoing,
    /// Final: done.
    Completed,
    /// Final: its function failed.
    Failed,
    /// Final: cancelled.
    Cancelled,
    /// Final: ended at once, without undoing.
    Terminated,
    /// Final: its own time ran out.
    TimedOut,
}

impl Status {
    /// Whether nothing can change any more.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Terminated | Self::TimedOut
        )
    }
}

/// One row of a run's journal, never rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Its number.
    pub seq: Seq,
    /// When, on the group clock.
    pub at: Timestamp,
    /// Log index and slot of the command that wrote it.
    pub position: (u64, u32),
    /// The number of the delivery under the driver's fence; none: this row is an Advance, or was written while nobody drove.
    pub delivery: Option<DeliveryNo>,
    /// Of an Advance, and only of one: the last delivery it saw; later ones are read as standing after it.
    pub seen: Option<DeliveryNo>,
    /// What came of earlier intents.
    pub outcomes: Vec<(IntentNo, Outcome)>,
    /// What the function asked for.
    pub intents: Vec<Intent>,
    /// Cancel was asked: every await from here on says so, with this reason.
    pub cancel: Option<String>,
    /// For people: paused, resumed, retried, lease lost …
    pub note: Option<String>,
}

/// What one intent came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A step's output, or a signal's payload.
    Done(Bytes),
    /// A step failed for good.
    Failed {
        /// The user's own code, or ours.
        code: String,
        /// For people.
        message: String,
        /// How many attempts were charged.
        attempts: u32,
    },
    /// A timer fired.
    Fired,
    /// A wait's time ran out.
    TimedOut,
    /// It was withdrawn because the run was asked to cancel.
    Cancelled(String),
}

/// Why an ask was refused: one variant per thing the asker does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Never registered in this cluster.
    #[error("no worker ever registered workflow {name}; registered are: {}", registered.join(", "))]
    UnknownWorkflow {
        /// What was asked for.
        name: Name,
        /// Some that are, the most similar first.
        registered: Vec<String>,
    },
    /// The workflow is known, the version is not.
    #[error("no worker ever registered {name}@v{version}; registered are: {}", registered.join(", "))]
    UnknownVersion {
        /// The workflow.
        name: Name,
        /// What was asked for.
        version: Version,
        /// Those that are.
        registered: Vec<String>,
    },
    /// The id was used with another input.
    #[error("run {0} exists with another input; choose another id")]
    IdConflict(RunId),
    /// The id belongs to a run that has ended, and the start said to refuse that.
    #[error("run {run} has ended as {status:?}")]
    RunEnded {
        /// Which.
        run: RunId,
        /// How.
        status: Status,
    },
    /// There is no such run here.
    #[error("no run {0}")]
    NoSuchRun(RunId),
    /// The change does not fit the state that the run is in.
    #[error("run {run} is {status:?}: {why}")]
    NotNow {
        /// Which.
        run: RunId,
        /// What it is.
        status: Status,
        /// What to do instead.
        why: String,
    },
    /// The lease was lost: nothing changed.
    #[error("the lease under fence {0} is over; drop what it was for")]
    StaleFence(Fence),
    /// The session has expired: its fences and unanswered Advances are void.
    #[error("session {0} has ended; attach anew")]
    SessionEnded(SessionId),
    /// Too many signals wait for this run.
    #[error(
        "{signals} signals ({bytes} bytes) already wait for run {run}; retry when it has taken some"
    )]
    SignalOverflow {
        /// Which.
        run: RunId,
        /// How many wait.
        signals: u32,
        /// Their bytes.
        bytes: u64,
    },
    /// Above a bound of `bounds.rs`.
    #[error("{what} has {size}, at most {max} are allowed; {cure}")]
    TooLarge {
        /// What.
        what: String,
        /// How large it is.
        size: u64,
        /// The most that is allowed.
        max: u64,
        /// What to do.
        cure: String,
    },
    /// It contradicts itself or the run's rows.
    #[error("{0}")]
    Invalid(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this output.
    Completed(Bytes),
    /// Its function failed, or a step gave up with `Fail` or `Compensate`.
    Failed {
        /// The user's own code, or ours.
        code: String,
        /// For people.
        message: String,
    },
    /// Cancelled, for this reason.
    Cancelled(String),
    /// Terminated for this reason; these effects were left as they are.
    Terminated {
        /// Why.
        reason: String,
        /// Steps with an undo that was owed.
        not_undone: Vec<String>,
    },
    /// Its own time ran out.
    TimedOut,
}

impl End {
    /// The status of it.
    pub const fn status(&self) -> Status {
        match self {
            Self::Completed(_) => Status::Completed,
            Self::Failed { .. } => Status::Failed,
            Self::Cancelled(_) => Status::Cancelled,
            Self::Terminated { .. } => Status::Terminated,
            Self::TimedOut => Status::TimedOut,
        }
    }
}

/// What remains of a run policy's verdict, for messages.
impl GiveUp {
    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Fail => "fail",
            Self::Compensate => "compensate",
        }
    }
}

impl AttemptOutcome {
    /// One word for metrics and traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Retryable { .. } => "retryable",
            Self::Terminal { .. } => "terminal",
            Self::Throttled { .. } => "throttled",
            Self::Panicked(_) => "panicked",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Unsure(_) => "unsure",
        }
    }
}
