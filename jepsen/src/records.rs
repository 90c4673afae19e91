//! What a test run writes down, line by line, and all that checkers ever read.
//!
//! Every file has one kind of line, appended as it happens. Times are nanoseconds of `CLOCK_MONOTONIC`, so that the order of
//! what different processes saw is exact on one machine. Every input, signal and payload carries a serial of its own, so
//! that each observation belongs to one operation. Not here: who writes them (`run`, and `holdfast serve --chaos-tap`), judging.

use serde::{Deserialize, Serialize};

/// Operations of clients: one [`Op`] per line, written when it has returned or was given up.
pub const HISTORY: &str = "history.jsonl";
/// Effects as the sink saw them: one [`Effect`] per line, synced before its caller is answered.
pub const EFFECTS: &str = "effects.jsonl";
/// Bodies of steps as workers ran them: one [`Body`] per line; `workers.NAME.jsonl`, one file per worker process.
pub const WORKERS_PREFIX: &str = "workers.";
/// What each node applied: one [`Applied`] per line; `tap.nN.jsonl`. Written again from where a node begins after a restart.
pub const TAP_PREFIX: &str = "tap.n";
/// Faults: one [`Fault`] per line.
pub const NEMESIS: &str = "nemesis.jsonl";
/// After the heal, every run as each node has it: one [`FinalRun`] per line; `journal.nN.jsonl`.
pub const JOURNAL_PREFIX: &str = "journal.n";
/// How the run was made: one [`Setup`].
pub const SETUP: &str = "setup.json";

/// Where in a log something happened. Ordered within a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The group, from 1.
    pub group: u32,
    /// The log index.
    pub index: u64,
    /// The command within the entry; reads have none and count as after all of them.
    pub slot: u32,
}

/// What is known of an operation's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Nobody knows: a timeout, a lost connection, an answer of "unknown".
    Info,
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Of this history.
    pub id: u64,
    /// Whose: operations of one client follow each other.
    pub client: u32,
    /// The node that was asked, `n1`; empty where the client library chose.
    pub node: String,
    /// What was asked.
    pub call: Call,
    /// When it was sent.
    pub t_inv: u64,
    /// When it returned, or was given up.
    pub t_ret: u64,
    /// What is known of it.
    pub outcome: Outcome,
    /// The answer, if there was one.
    pub answer: Option<Answer>,
    /// The error, if there was one: its code (`HF3001`) or a text.
    pub error: Option<String>,
    /// Where it took effect, or how fresh the read was.
    pub position: Option<Position>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Call {
    /// Start a run; the same id and input again attaches.
    Start {
        /// The run's id.
        run: String,
        /// Which workflow.
        workflow: String,
        /// Serial in the input: another serial under the same id is a conflict.
        serial: u64,
    },
    /// Wait for a run's end.
    Result {
        /// Which run.
        run: String,
    },
    /// Look at a run.
    Get {
        /// Which run.
        run: String,
        /// Whether the node may answer from what it has.
        stale: bool,
        /// Not older than this.
        at_least: Option<Position>,
    },
    /// Send a signal.
    Signal {
        /// To which run.
        run: String,
        /// Its name.
        name: String,
        /// The sender's id of it: a repeat is the same send.
        signal_id: String,
        /// Serial in the payload.
        serial: u64,
    },
    /// Cancel a run.
    Cancel {
        /// Which.
        run: String,
        /// The request's id.
        request: String,
    },
    /// Terminate a run: nothing is undone.
    Terminate {
        /// Which.
        run: String,
        /// The request's id.
        request: String,
    },
    /// Set the version on which new runs of a workflow begin.
    SetCurrent {
        /// Which workflow.
        workflow: String,
        /// To what.
        version: u32,
    },
    /// Read that version.
    GetCurrent {
        /// Which workflow.
        workflow: String,
    },
    /// Declare a limit.
    SetLimit {
        /// Its name.
        limit: String,
        /// Admissions per second; none: no rate.
        rate: Option<u32>,
        /// Bursts.
        burst: Option<u32>,
        /// Places at once.
        concurrency: Option<u32>,
    },
}

impl Call {
    /// The run it is about, if any.
    pub fn run(&self) -> Option<&str> {
        match self {
            Self::Start { run, .. }
            | Self::Result { run }
            | Self::Get { run, .. }
            | Self::Signal { run, .. }
            | Self::Cancel { run, .. }
            | Self::Terminate { run, .. } => Some(run),
            Self::SetCurrent { .. } | Self::GetCurrent { .. } | Self::SetLimit { .. } => None,
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// A start: whether it made the run, and which life of the id it is.
    Started {
        /// False: it was there.
        created: bool,
        /// The life.
        generation: u32,
    },
    /// A run as it stood.
    Run {
        /// `WAITING`, `COMPLETED`, …, as the contract names them.
        status: String,
        /// The life.
        generation: u32,
        /// The serial that its result carries, once it is completed.
        serial: Option<u64>,
    },
    /// There is no such run.
    NoRun,
    /// Done; `already` when an earlier send of the same request did it.
    Done {
        /// Whether it was a repeat.
        already: bool,
    },
    /// It came too late: the run had this final state.
    Ended {
        /// Which.
        status: String,
    },
    /// A workflow's current version.
    Version {
        /// 0: none was ever set.
        version: u32,
    },
}

/// What the sink made of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// The effect happened.
    Acted,
    /// It had happened under this key; answered the same again.
    Repeated,
    /// A newer fence of the same step was seen: nothing happened.
    Stale,
    /// A question whether an effect happened, answered.
    Probed {
        /// The answer.
        found: bool,
    },
    /// "Come back later": nothing happened.
    Throttled,
    /// The registration of a fence, before any effect.
    Registered,
}

/// One call that the sink received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// In the order judged, from 0.
    pub seq: u64,
    /// When.
    pub t: u64,
    /// For which run.
    pub run: String,
    /// Which life of it.
    pub generation: u32,
    /// Which step, as the idempotency key tells steps of a run apart.
    pub step: String,
    /// Its attempt, from 1.
    pub attempt: u32,
    /// Its fence.
    pub fence: u64,
    /// Its idempotency key.
    pub key: String,
    /// Which worker.
    pub worker: String,
    /// The serial of the payload.
    pub serial: u64,
    /// Whether it undoes what another step did.
    pub undo: bool,
    /// What came of it.
    pub ruling: Ruling,
}

/// One moment of a step's body in a worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// When.
    pub t: u64,
    /// Which worker.
    pub worker: String,
    /// Of which process.
    pub pid: u32,
    /// Which run.
    pub run: String,
    /// Which step, as in [`Effect::step`].
    pub step: String,
    /// Which attempt.
    pub attempt: u32,
    /// Under which fence.
    pub fence: u64,
    /// What happened.
    pub what: BodyMoment,
}

/// What happened to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyMoment {
    /// It began.
    Began,
    /// It returned an output.
    Done,
    /// It returned an error.
    Failed,
    /// It was dropped before it returned: stopped by its worker.
    Stopped,
}

/// A piece of work in the tap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum Work {
    /// Driving a run.
    Drive {
        /// Which.
        run: String,
    },
    /// A step, or its probe.
    Step {
        /// Of which run.
        run: String,
        /// The number of its intent.
        entry: u32,
    },
    /// An undo of a step.
    Undo {
        /// Of which run.
        run: String,
        /// The number of the step's intent.
        entry: u32,
    },
}

/// One entry as a node applied it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// When.
    pub t: u64,
    /// The group, from 1.
    pub group: u32,
    /// The log index.
    pub index: u64,
    /// The epoch under which duties of this entry were made; of a `BecomeLeader` its own index.
    pub epoch: u64,
    /// The epoch in force after it.
    pub in_force: u64,
    /// The group clock, in milliseconds.
    pub now: u64,
    /// The commands, in order. A `BecomeLeader` is one command of that kind.
    pub commands: Vec<AppliedCommand>,
    /// Rights and states that changed, in order.
    pub events: Vec<TapEvent>,
    /// The running digest of all row changes up to here, in hex; chained from entry to entry.
    pub digest: String,
}

/// One command of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppliedCommand {
    /// Its place.
    pub slot: u32,
    /// `start`, `signal`, `cancel`, `advance`, `report`, `grant`, `expire`, `fire`, `admit`, `become-leader`, … (the core's names).
    pub kind: String,
    /// What came of it: `ok`, `void` (another epoch's duty), `moot`, `quarantined`, or the code of a refusal (`HF2001`).
    pub answer: String,
    /// The run it is about.
    pub run: Option<String>,
    /// Which life of it, after the command.
    pub generation: Option<u32>,
    /// The session it is about or from.
    pub session: Option<u64>,
    /// The fence it names.
    pub fence: Option<u64>,
    /// The id that makes it one request: a signal's, a cancel's.
    pub request: Option<String>,
    /// A name: a signal's, a limit's, a workflow's.
    pub name: Option<String>,
    /// A number: of an Advance, of a version set.
    pub number: Option<u64>,
    /// Results that it brought and that counted.
    pub results: Vec<TapResult>,
    /// Who was admitted at a limit: run and entry.
    pub admitted: Vec<(String, u32)>,
    /// Limits that it declares: of a `set-limit`, and of an `attach`, where it counts only if nobody declared it before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<TapLimit>,
}

/// A limit as a command declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TapLimit {
    /// Its name.
    pub name: String,
    /// So many admissions …
    pub rate_count: Option<u32>,
    /// … in so many milliseconds.
    pub rate_per_ms: u64,
    /// Bursts.
    pub burst: u32,
    /// Places at once.
    pub concurrency: Option<u32>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapResult {
    /// Whose.
    pub work: Work,
    /// Under which fence.
    pub fence: u64,
    /// `done`, `retryable`, `terminal`, `throttled`, `panicked`, `stopped`, `absent`, `unsure`.
    pub outcome: String,
    /// Of a throttle: which limit it closed, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Of a throttle: for how many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_ms: Option<u64>,
}

/// What an entry changed about rights and states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum TapEvent {
    /// A lease began.
    LeaseBegan {
        /// What.
        #[serde(flatten)]
        work: Work,
        /// Whose.
        session: u64,
        /// Its number.
        fence: u64,
        /// Which attempt, of a step or an undo.
        attempt: Option<u32>,
    },
    /// A lease ended, however.
    LeaseEnded {
        /// What.
        #[serde(flatten)]
        work: Work,
        /// Whose.
        session: u64,
        /// Its number.
        fence: u64,
    },
    /// A run's status changed.
    Run {
        /// Which.
        run: String,
        /// To what, as the contract names it.
        status: String,
    },
    /// A session began or came back.
    SessionAttached {
        /// Which.
        session: u64,
        /// The worker's process.
        process: String,
    },
    /// A session ended.
    SessionEnded {
        /// Which.
        session: u64,
    },
}

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultStatus {
    /// It was seen to be in force.
    Installed,
    /// It is over: what it broke works again, or was told to.
    Healed,
    /// This machine cannot, or nothing fitted: it does not count.
    Skipped,
    /// Nobody can tell whether it took effect.
    Indeterminate,
}

/// One fault, or its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub t: u64,
    /// Its name, `kill-leader`.
    pub fault: String,
    /// Whom it hit: `n1`, `w2`, `n1->n2`.
    pub targets: Vec<String>,
    /// What was seen of it.
    pub status: FaultStatus,
    /// For people: what was done and seen.
    pub note: String,
}

/// A run as one node has it after the heal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRun {
    /// Its id.
    pub run: String,
    /// Which life.
    pub generation: u32,
    /// Which workflow.
    pub workflow: String,
    /// On which version.
    pub version: u32,
    /// Its status, as the contract names it.
    pub status: String,
    /// The serial in its input.
    pub serial: Option<u64>,
    /// The serial in its result, once completed.
    pub result: Option<u64>,
    /// Its journal in order.
    pub journal: Vec<JournalLine>,
}

/// One row of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalLine {
    /// Its place.
    pub seq: u32,
    /// What the function asked for in it: number, kind (`step`, `timer`, `wait`, `complete`, `fail`, …) and name.
    pub intents: Vec<(u32, String, String)>,
    /// What came of earlier intents: number and `done`, `failed`, `fired`, `timed-out`, `cancelled`.
    pub outcomes: Vec<(u32, String)>,
    /// Number of the delivery that brought it, if it came from outside.
    pub delivery: Option<u32>,
    /// Whether it asks the function to end.
    pub cancel: bool,
    /// When it was written, on the group clock, in milliseconds; 0: not recorded.
    pub at_ms: u64,
    /// Log index and slot of the command that wrote it.
    pub position: Option<(u64, u32)>,
    /// Of an Advance: the last delivery that it saw.
    pub seen: Option<u32>,
    /// What more is known of some of its intents.
    pub details: Vec<IntentDetail>,
    /// Serials in the payloads that came with its outcomes, by the number of the intent: of the signals that waits took.
    pub received: Vec<(u32, u64)>,
}

/// What more is known of an intent than its kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IntentDetail {
    /// Its number.
    pub entry: u32,
    /// Of a step: the name of its undo.
    pub undo: Option<String>,
    /// Of a step: `at-least-once`, `at-most-once`, `reconcile`.
    pub certainty: Option<String>,
    /// Of a step: the limits that must admit it.
    pub limits: Vec<String>,
    /// Of a timer: so many milliseconds from the row that holds it.
    pub delay_ms: Option<u64>,
    /// Of a timer: at this time of the group clock, in milliseconds.
    pub due_ms: Option<u64>,
}

/// How a test run was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The command line that repeats it.
    pub command: String,
    /// The seed of schedule and choices.
    pub seed: u64,
    /// Nodes at the start.
    pub nodes: u16,
    /// Partitions.
    pub partitions: u32,
    /// Worker processes.
    pub workers: u16,
    /// Clients.
    pub clients: u32,
    /// The workload.
    pub workload: String,
    /// The faults asked for.
    pub nemeses: Vec<String>,
    /// How the network was made and broken: `proxy`, `netns`; empty: by the proxy.
    pub net: String,
    /// The kind of sink: `idempotent`, `fenced`, `naive`.
    pub sink: String,
    /// A session's term, in milliseconds.
    pub term_ms: u64,
    /// The longest time between two applied entries of a living leader's failover, in milliseconds: the election's bound.
    pub election_ms: u64,
    /// Faults that must have been installed so often, or nothing is known.
    pub require: Vec<(String, u32)>,
    /// When load began, faults began, faults ended, and the run ended.
    pub phases: [u64; 4],
    /// The commit of the binary, if known.
    pub build: String,
    /// The longest that any client waits for one operation, in milliseconds; 0: not recorded.
    pub deadline_ms: u64,
    /// What went wrong with the harness itself, a journal that could not be read among it: then nothing is proven.
    pub troubles: Vec<String>,
    /// What the harness saw a node do that none may do.
    pub seen: Vec<String>,
}

/// What a checker says of one invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It held, so often.
    Valid {
        /// How many things were judged.
        judged: u64,
    },
    /// It did not.
    Violated {
        /// What was seen, the smallest story first.
        stories: Vec<String>,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        why: String,
    },
    /// Nothing in this test run bears on it.
    NotExercised,
}
