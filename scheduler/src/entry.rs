//! All that can enter the log: entries and the commands in them. Data only, no behaviour.
//!
//! An *ask* comes from outside and is judged by its own ids and fences under any epoch. A *duty* comes from the
//! leader's shell alone, and is void under another epoch than the one it was made in.

use bytes::Bytes;

use crate::{
    ids::{
        AdvanceNo, DeliveryNo, Digest, Epoch, FeatureLevel, Fence, IntentNo, LimitName, Name,
        NodeId, ProcessId, RequestId, RunId, SessionId, StepKey, Version,
    },
    rows::Keeps,
    time::{Millis, Timestamp},
};

/// One log index. A level above those known is a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What replicated behaviour this entry relies on.
    pub level: FeatureLevel,
    /// What it carries.
    pub body: Body,
}

/// What an entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A node takes the group over: from here on, epoch = this entry's index.
    BecomeLeader(BecomeLeader),
    /// Commands, applied in order.
    Batch {
        /// The epoch that the proposer acted under; `Epoch(0)` before its own `BecomeLeader` is applied.
        epoch: Epoch,
        /// The group clock as the leader read it; `Timestamp(0)`: no time, asks only.
        proposed_at: Timestamp,
        /// At most `COMMANDS_PER_ENTRY_MAX`.
        commands: Vec<Command>,
    },
}

/// Makes a node the one that acts for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BecomeLeader {
    /// The node.
    pub node: NodeId,
    /// Its incarnation, as text.
    pub incarnation: Name,
    /// Minted at each start of the process: a restarted node is not the one that led before.
    pub boot: Name,
    /// Feature levels it can apply.
    pub levels: (FeatureLevel, FeatureLevel),
    /// Median of a quorum's wall clocks; the group clock never goes back to it.
    pub anchor: Timestamp,
}

/// One item of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// From outside.
    Ask(Ask),
    /// From the leader's shell.
    Duty(Duty),
}

/// What clients, workers and operators may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Start a run, or attach to it.
    Start(Start),
    /// Send a run a signal.
    Signal(Signal),
    /// Ask a run to cancel: it undoes what is owed and ends.
    Cancel(Change),
    /// End a run at once, running nothing.
    Terminate(Change),
    /// Hold a run still.
    Pause(Change),
    /// Let a paused or quarantined run go on.
    Resume(Change),
    /// Try steps again now.
    Retry(Retry),
    /// A worker process attaches, new or again.
    Attach(Attach),
    /// A driver moves its run.
    Advance(Advance),
    /// A worker reports a step that came by Execute.
    Report(Report),
    /// A worker records the progress of an attempt.
    Progress(Progress),
    /// A worker hands leases back.
    Return(Return),
    /// A worker leaves for good: its leases end, no attempt is charged.
    Detach(SessionId),
    /// Move a workflow's `current`.
    Deploy(Deploy),
    /// Declare or change a limit.
    SetLimit(SetLimit),
    /// Changes nothing but the log: for measuring it.
    Noop(Bytes),
}

/// What the leader does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Give a ready run or step to a session.
    Grant(Grant),
    /// Let waiters of a limit pass.
    Admit(Admit),
    /// End leases whose holder is lost.
    Expire(Expire),
    /// Fire what is due: timers, timeouts, retries, scheduled starts, closed limits.
    FireDue {
        /// Nothing due later than this, however far the group clock is.
        up_to: Timestamp,
        /// At most so many runs.
        at_most: u32,
    },
    /// Let go of what is left of runs that ended long ago.
    Collect(Collect),
    /// Give a run without a wake source one.
    Repair(RunId),
}

/// Whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Runs that completed before this.
    pub completed: Timestamp,
    /// Runs that ended otherwise before this.
    pub failed: Timestamp,
    /// How runs ended that did so before this.
    pub ids: Timestamp,
    /// At most so many runs.
    pub at_most: u32,
}

impl Collect {
    /// Each kind with the time before which it goes.
    pub fn bounds(&self) -> [(Keeps, Timestamp); 3] {
        [
            (Keeps::Completed, self.completed),
            (Keeps::Failed, self.failed),
            (Keeps::Id, self.ids),
        ]
    }
}

/// Starts a run, or attaches to the one that has this id and this digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The caller's name for it.
    pub run: RunId,
    /// Which workflow; its current version is taken.
    pub workflow: Name,
    /// At most `INLINE_PAYLOAD_BYTES_MAX`.
    pub input: Bytes,
    /// Of the input.
    pub digest: Digest,
    /// Not before; none: now.
    pub at: Option<Timestamp>,
    /// Of the whole run, from its start.
    pub timeout: Option<Millis>,
    /// When the id belongs to a run that has ended.
    pub if_ended: IfEnded,
    /// Delivered in the same command: name, signal id, payload.
    pub signal: Option<(Name, RequestId, Bytes)>,
}

/// What a start means when the id belongs to a run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfEnded {
    /// Attach to it.
    ReturnResult,
    /// Refuse.
    Reject,
    /// Begin a new life of the id.
    NewGeneration,
}

/// A message to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// To whom.
    pub run: RunId,
    /// Which signal.
    pub name: Name,
    /// Makes a repeat the same send.
    pub id: RequestId,
    /// What it says.
    pub payload: Bytes,
}

/// Cancel, terminate, pause or resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which run.
    pub run: RunId,
    /// For people.
    pub reason: String,
    /// Makes a repeat the same ask.
    pub request: RequestId,
}

/// Tries steps again now, instead of at their next attempt's time or never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Which run.
    pub run: RunId,
    /// Which step, by name; none: all that wait to be retried.
    pub step: Option<Name>,
    /// Makes a repeat the same ask.
    pub request: RequestId,
}

/// A worker process attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Under which session; none: a new one.
    pub session: Option<SessionId>,
    /// Minted when the process began.
    pub process: ProcessId,
    /// For people.
    pub worker: Name,
    /// The queue it serves.
    pub queue: Name,
    /// Workflow versions it can drive.
    pub workflows: Vec<(Name, Version)>,
    /// Steps it can execute.
    pub steps: Vec<Name>,
    /// Limits it declares where there are none.
    pub limits: Vec<(LimitName, LimitSpec)>,
    /// How many steps it executes at once.
    pub slots: u32,
}

/// Moves a run: results of finished steps, intents of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Which run.
    pub run: RunId,
    /// The driver's fence, judged before anything else.
    pub fence: Fence,
    /// Its number under this fence.
    pub number: AdvanceNo,
    /// The last delivery it saw.
    pub seen: DeliveryNo,
    /// Of local steps, each under its own fence.
    pub results: Vec<StepResult>,
    /// What the function wants next, in program order; an ending is the last.
    pub intents: Vec<Intent>,
    /// At most this many local steps are granted in the reply.
    pub free_slots: u32,
    /// The function itself cannot go on.
    pub trouble: Option<Trouble>,
}

/// Why a function cannot go on under its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Replay differs from the journal.
    Diverged {
        /// Where.
        key: StepKey,
        /// What the journal has.
        expected: String,
        /// What the code asked for.
        got: String,
    },
    /// It panicked, with this text.
    Panicked(String),
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// Of which intent.
    pub intent: IntentNo,
    /// Under which fence.
    pub fence: Fence,
    /// What it came to.
    pub outcome: AttemptOutcome,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Done, with this output.
    Done(Bytes),
    /// To be tried again: by policy, or after the span it asks for.
    Retryable {
        /// For people.
        message: String,
        /// What the callee asked for.
        after: Option<Millis>,
    },
    /// Never to be tried again.
    Terminal {
        /// The user's own code.
        code: String,
        /// For people.
        message: String,
    },
    /// A limit that the step names is exhausted at the callee.
    Throttled {
        /// Which.
        limit: LimitName,
        /// For how long.
        after: Millis,
        /// For people.
        message: String,
    },
    /// The body panicked.
    Panicked(String),
    /// Stopped as asked, or handed back: nothing is charged.
    Stopped,
    /// Of a probe: the effect did not happen.
    Absent,
    /// Of a probe: nobody can tell.
    Unsure(String),
}

/// One thing that the function asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its number; must be the run's next.
    pub number: IntentNo,
    /// Which operation in code.
    pub key: StepKey,
    /// Of its arguments.
    pub digest: Digest,
    /// What it asks for.
    pub kind: IntentKind,
}

/// What an intent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentKind {
    /// A step.
    Step(StepSpec),
    /// A durable timer.
    Timer(TimerSpec),
    /// A signal.
    Wait {
        /// Which.
        signal: Name,
        /// How long at most.
        timeout: Option<Millis>,
        /// The question put to a person, when it is an approval.
        ask: Option<String>,
    },
    /// A value that the function made up: now, random, uuid.
    Record(Bytes),
    /// A view.
    Publish {
        /// Which.
        view: Name,
        /// What it shows.
        value: Bytes,
    },
    /// The run is over, with this output.
    Complete(Bytes),
    /// The run failed: what is owed is undone first.
    Fail {
        /// The user's own code.
        code: String,
        /// For people.
        message: String,
    },
}

/// When a timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerSpec {
    /// So long from the command that records it.
    After(Millis),
    /// At this time.
    At(Timestamp),
}

/// A step as the function asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSpec {
    /// The name that workers register.
    pub step: Name,
    /// None: with the driver; else any worker of that queue.
    pub queue: Option<Name>,
    /// What it is given.
    pub input: Bytes,
    /// How it is retried.
    pub retry: RetryPolicy,
    /// Of one attempt.
    pub timeout: Option<Millis>,
    /// Longest silence between two heartbeats of an attempt.
    pub heartbeat: Option<Millis>,
    /// All must admit it.
    pub limits: Vec<LimitName>,
    /// What becomes of it when its lease is lost after it may have begun.
    pub certainty: Certainty,
    /// The step that undoes it.
    pub undo: Option<Name>,
    /// A closure of the function: only a driver can run it.
    pub inline: bool,
}

/// What becomes of a step whose lease was lost after it may have begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certainty {
    /// Again, with the same idempotency key and a larger fence.
    AtLeastOnce,
    /// Never again by itself: the run pauses with the evidence.
    AtMostOnce,
    /// This step is asked whether it happened.
    Reconcile(Name),
}

/// How a step is retried. The defaults are the contract's (§6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub initial: Millis,
    /// 200 doubles the delay each time.
    pub factor_percent: u32,
    /// No delay is longer.
    pub cap: Millis,
    /// None: no attempt limit.
    pub max_attempts: Option<u32>,
    /// Since the first attempt, not counting time waiting for a limit or a worker or while paused.
    pub give_up_after: Millis,
    /// What happens then.
    pub give_up: GiveUp,
}

/// What happens when a policy is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The run waits for a person.
    Pause,
    /// The function sees the failure.
    Fail,
    /// The run fails and what is owed is undone.
    Compensate,
}

/// A step that came by Execute is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which run.
    pub run: RunId,
    /// Intent, fence, outcome.
    pub result: StepResult,
}

/// Progress of an attempt, kept for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which run.
    pub run: RunId,
    /// Which step of it.
    pub intent: IntentNo,
    /// Under which fence.
    pub fence: Fence,
    /// At most `PROGRESS_BYTES_MAX`.
    pub progress: Bytes,
}

/// Leases handed back: no attempt is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// Drives.
    pub runs: Vec<(RunId, Fence)>,
    /// Steps that came by Execute.
    pub steps: Vec<(RunId, IntentNo, Fence)>,
}

/// Moves a workflow's `current`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    /// Which workflow.
    pub workflow: Name,
    /// To which version.
    pub version: Version,
    /// Makes a repeat the same ask.
    pub request: RequestId,
}

/// Declares or changes a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetLimit {
    /// Which.
    pub name: LimitName,
    /// What it admits.
    pub spec: LimitSpec,
    /// Makes a repeat the same ask.
    pub request: RequestId,
}

/// A named rate and concurrency gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSpec {
    /// So many admissions per span; none: no rate.
    pub rate: Option<(u32, Millis)>,
    /// Tokens the bucket holds; at least 1.
    pub burst: u32,
    /// Steps under lease at once; none: any number.
    pub concurrency: Option<u32>,
}

/// What is given to a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The right to drive a run.
    Run(RunId),
    /// One attempt at a step: of the session's queue, a probe, an undo; or a local step of the run that it drives.
    Step(RunId, IntentNo),
    /// One attempt at undoing a step.
    Undo(RunId, IntentNo),
}

impl Work {
    /// The run that it is about.
    pub fn run(&self) -> &RunId {
        match self {
            Self::Run(run) | Self::Step(run, _) | Self::Undo(run, _) => run,
        }
    }
}

/// Gives a ready run or step to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What.
    pub work: Work,
    /// To whom.
    pub session: SessionId,
    /// Of a run: at most this many of its open local steps are granted along.
    pub free_slots: u32,
}

/// Lets waiters of a limit pass, in this order, as far as the limits admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admit {
    /// Which limit the leader looked at.
    pub limit: LimitName,
    /// Waiters whose worker is there, first come first; at most `RUNS_PER_DUTY_MAX`.
    pub waiters: Vec<Work>,
}

/// Ends leases whose holder is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expire {
    /// A worker's beats stopped for a whole term: at most so many of its leases at once; the session ends with the last.
    Session {
        /// Whose.
        session: SessionId,
        /// At most so many runs.
        at_most: u32,
    },
    /// An attempt outlived its timeout, or its heartbeats stopped.
    Attempt {
        /// Of which step.
        work: Work,
        /// Under which fence.
        fence: Fence,
    },
    /// A drive with no local step in flight sent no Advance for too long.
    Drive {
        /// Which run.
        run: RunId,
        /// Under which fence.
        fence: Fence,
    },
}
