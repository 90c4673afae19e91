//! A slow, obvious engine: the contract told once more, over plain lists, to be compared with the core.
//!
//! It shares ids, entries and replies with the core, and no logic: no rows, no orders, no savepoints. Whatever can be
//! counted by looking at every run is counted that way. Not here: judging (`compare`).

mod advance;
mod asks;
mod duties;
mod gate;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use holdfast_scheduler::{
    entry::{Ask, Body, Certainty, Command, Duty, Expire, LimitSpec, RetryPolicy, StepSpec},
    ids::{
        DeliveryNo, Digest, Epoch, Fence, Generation, IntentNo, LimitName, LogIndex, Name,
        ProcessId, RequestId, RunId, Seq, SessionId, Version,
    },
    reply::{Advanced, End, JournalRow, Outcome, Rejected, Reply, Status},
    time::{Millis, Timestamp},
};

pub use gate::Gate;

/// A worker.
#[derive(Debug, Clone)]
pub struct Worker {
    process: ProcessId,
    queue: Name,
    workflows: Vec<(Name, Version)>,
    steps: Vec<Name>,
}

/// When something is tried again: exactly then, or somewhere in the jitter's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Timestamp),
    Between(Timestamp, Timestamp),
}

/// Where the attempts at something stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// In line at its limits, with a number drawn.
    InLine(u64),
    /// For a worker.
    Waits,
    Out {
        session: SessionId,
        fence: Fence,
        since: Timestamp,
    },
    Later {
        when: When,
        since: Timestamp,
    },
    /// A person decides.
    Stuck,
}

/// Attempts at a step or an undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tries {
    pub stand: Stand,
    pub attempts: u32,
    pub failures: u32,
    pub spent: u64,
    pub progress: Option<Bytes>,
}

impl Tries {
    fn new() -> Self {
        Self {
            stand: Stand::Waits,
            attempts: 0,
            failures: 0,
            spent: 0,
            progress: None,
        }
    }

    fn out(&self) -> Option<(SessionId, Fence)> {
        match self.stand {
            Stand::Out { session, fence, .. } => Some((session, fence)),
            Stand::InLine(_) | Stand::Waits | Stand::Later { .. } | Stand::Stuck => None,
        }
    }

    fn is_under(&self, fence: Fence) -> bool {
        self.out().is_some_and(|(_, live)| live == fence)
    }

    fn failed(&self) -> bool {
        matches!(self.stand, Stand::Later { .. } | Stand::Stuck)
    }

    /// Attempts and backoff count toward giving up, waiting does not.
    fn becomes(&mut self, stand: Stand, now: Timestamp) {
        if let Stand::Out { since, .. } | Stand::Later { since, .. } = self.stand {
            self.spent += now.since(since).0;
        }
        self.stand = stand;
    }

    /// One more charged failure; says whether the policy is used up.
    fn fail(&mut self, policy: &RetryPolicy, asked: Option<Millis>, now: Timestamp) -> bool {
        self.becomes(Stand::Stuck, now);
        self.failures += 1;
        let attempts = policy
            .max_attempts
            .is_some_and(|most| self.failures >= most);
        let time = self.failures >= 3 && self.spent >= policy.give_up_after.0;
        if attempts || time {
            return true;
        }
        let mut longest = policy.initial.0;
        for _ in 1..self.failures {
            longest = policy
                .cap
                .0
                .min(longest * u64::from(policy.factor_percent) / 100);
        }
        let jittered = When::Between(now.after(Millis(1)), now.after(Millis(longest)));
        let when = asked.map_or(jittered, |asked| When::At(now.after(asked)));
        self.stand = Stand::Later { when, since: now };
        false
    }

    fn anew(&mut self) {
        (self.failures, self.spent) = (0, 0);
    }
}

/// An open step.
#[derive(Debug, Clone)]
pub struct Job {
    pub spec: Arc<StepSpec>,
    pub asks_probe: bool,
    pub has_place: bool,
    pub tries: Tries,
}

impl Job {
    fn is_local(&self) -> bool {
        self.spec.queue.is_none() && !self.asks_probe
    }

    fn executes(&self) -> &Name {
        match &self.spec.certainty {
            Certainty::Reconcile(probe) if self.asks_probe => probe,
            _ => &self.spec.step,
        }
    }

    fn limits(&self) -> BTreeSet<LimitName> {
        self.spec.limits.iter().cloned().collect()
    }
}

/// What is owed for a step.
#[derive(Debug, Clone)]
pub struct Debt {
    pub step: Name,
    pub undo: Name,
    pub queue: Name,
    pub withdrawn: bool,
    pub tries: Option<Tries>,
}

#[derive(Debug, Clone, Copy)]
pub struct Driver {
    pub session: SessionId,
    pub fence: Fence,
    pub told: u32,
    pub seen: u32,
    from: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Person,
    System,
    Quarantine,
}

/// The newest life of a run id.
#[derive(Debug, Clone)]
pub struct Life {
    pub id: RunId,
    pub generation: Generation,
    pub workflow: Name,
    pub version: Version,
    queue: Name,
    digest: Digest,
    deadline: Option<Timestamp>,
    /// It has not begun.
    begins: Option<Timestamp>,
    /// It ends like this, once nothing is owed.
    pub ending: Option<End>,
    pub ended: Option<End>,
    pub ended_at: Timestamp,
    /// Its time is over: all but how it ended is gone.
    pub forgotten: bool,
    pub hold: Option<Hold>,
    wants_driver: bool,
    pub driver: Option<Driver>,
    newest_fence: Option<Fence>,
    pub intents: u32,
    pub journal: Vec<Arc<JournalRow>>,
    pub steps: BTreeMap<IntentNo, Job>,
    pub timers: BTreeMap<IntentNo, Timestamp>,
    pub waits: BTreeMap<IntentNo, (Name, Option<Timestamp>)>,
    pub debts: BTreeMap<IntentNo, Debt>,
    answered: Option<(Fence, Advanced)>,
    pub deaths: Vec<ProcessId>,
    panics: u32,
    asked: Vec<RequestId>,
    pub mail: Vec<(Name, Bytes)>,
    heard: BTreeSet<RequestId>,
    /// Rows of the journal that were compared already.
    pub compared: usize,
}

impl Life {
    pub fn status(&self) -> Status {
        if let Some(end) = &self.ended {
            return end.status();
        }
        match self.hold {
            Some(Hold::Quarantine) => return Status::Quarantined,
            Some(Hold::Person | Hold::System) => return Status::Paused,
            None => {}
        }
        if self.ending.is_some() {
            Status::Undoing
        } else if self.begins.is_some() {
            Status::Scheduled
        } else if self.driver.is_some() {
            Status::Running
        } else if self.wants_driver {
            Status::Ready
        } else {
            Status::Waiting
        }
    }

    /// Its function may go on.
    fn goes_on(&self) -> bool {
        self.hold.is_none()
            && self.ending.is_none()
            && self.begins.is_none()
            && self.ended.is_none()
    }

    fn wake(&mut self) {
        self.wants_driver |= self.driver.is_none();
    }

    fn pause(&mut self, hold: Hold) {
        self.hold = self.hold.or(Some(hold));
    }

    fn quarantine(&mut self) {
        self.hold = Some(Hold::Quarantine);
        self.driver = None;
    }

    fn local_out(&self) -> usize {
        let out = |job: &&Job| job.is_local() && job.tries.out().is_some();
        self.steps.values().filter(out).count()
    }

    /// Its driver has a step to execute, or may soon have one.
    fn executes(&self) -> bool {
        let executes = |job: &Job| {
            job.is_local() && matches!(job.tries.stand, Stand::Waits | Stand::Out { .. })
        };
        self.steps.values().any(executes)
    }

    fn owes(&self, debt: &Debt) -> bool {
        match &self.ending {
            None => false,
            Some(End::Completed(_)) => debt.withdrawn,
            Some(_) => true,
        }
    }

    /// The newest undo that is owed, if its step is over.
    fn next_debt(&self) -> Option<IntentNo> {
        let (intent, _) = self.debts.iter().rev().find(|(_, debt)| self.owes(debt))?;
        (!self.steps.contains_key(intent)).then_some(*intent)
    }

    /// What an attempt is about: a step or a debt under this fence.
    fn under(&self, intent: IntentNo, fence: Fence) -> Option<Under> {
        let step = self.steps.get(&intent).map(|job| &job.tries);
        let debt = self.debts.get(&intent).and_then(|debt| debt.tries.as_ref());
        if step.is_some_and(|tries| tries.is_under(fence)) {
            Some(Under::Step)
        } else if debt.is_some_and(|tries| tries.is_under(fence)) {
            Some(Under::Debt)
        } else {
            None
        }
    }

    fn holds_of(&self, session: SessionId) -> bool {
        let of = |tries: &Tries| tries.out().is_some_and(|(whose, _)| whose == session);
        self.driver.is_some_and(|driver| driver.session == session)
            || self.steps.values().any(|job| of(&job.tries))
            || self
                .debts
                .values()
                .any(|debt| debt.tries.as_ref().is_some_and(of))
    }

    fn due(&self) -> Option<Timestamp> {
        if self.hold.is_some() || self.ended.is_some() {
            return None;
        }
        let at = |tries: &Tries| match tries.stand {
            Stand::Later {
                when: When::At(at), ..
            }
            | Stand::Later {
                when: When::Between(at, _),
                ..
            } => Some(at),
            Stand::InLine(_) | Stand::Waits | Stand::Out { .. } | Stand::Stuck => None,
        };
        if self.ending.is_some() {
            let debt = self.debts.get(&self.next_debt()?)?;
            return debt.tries.as_ref().and_then(at);
        }
        if self.begins.is_some() {
            return self.begins;
        }
        let timers = self.timers.values().copied();
        let waits = self.waits.values().filter_map(|(_, due)| *due);
        let steps = self.steps.values().filter_map(|job| at(&job.tries));
        timers.chain(waits).chain(steps).chain(self.deadline).min()
    }
}

enum Under {
    Step,
    Debt,
}

/// The whole of it.
#[derive(Debug, Default)]
pub struct Engine {
    at: u64,
    slot: u32,
    fences: u64,
    tickets: u64,
    pub now: Timestamp,
    epoch: Epoch,
    pub workers: BTreeMap<SessionId, Worker>,
    current: BTreeMap<Name, Version>,
    queues: BTreeMap<(Name, Version), Name>,
    pub lives: BTreeMap<RunId, Life>,
    pub gates: BTreeMap<LimitName, Gate>,
    /// Runs that changed since this was taken last.
    pub touched: BTreeSet<RunId>,
    /// Whether a worker came, changed or went since then.
    pub staffed: bool,
    /// The next command on a single run breaks: its run is quarantined, and nothing else of it counts.
    breaks: bool,
}

impl Engine {
    /// One entry; with `breaks` its first command on a single run breaks a rule of the core.
    pub fn apply(&mut self, at: LogIndex, body: &Body, breaks: bool) -> Vec<Reply> {
        (self.at, self.fences, self.breaks) = (at.0, 0, breaks);
        match body {
            Body::BecomeLeader(it) => {
                self.now = self.now.max(it.anchor);
                self.epoch = Epoch(at.0);
                vec![Reply::Done]
            }
            Body::Batch {
                epoch,
                proposed_at,
                commands,
            } => {
                self.now = self.now.max(*proposed_at);
                let mut replies = Vec::new();
                for (slot, command) in (0..).zip(commands) {
                    self.slot = slot;
                    replies.push(match command {
                        Command::Duty(_) if *epoch != self.epoch => Reply::Void,
                        Command::Duty(duty) => self.duty(duty),
                        Command::Ask(ask) => self.ask(ask),
                    });
                }
                replies
            }
        }
    }

    fn ask(&mut self, ask: &Ask) -> Reply {
        if let Some(run) = subject(ask)
            && self.broke(run)
        {
            return Reply::Quarantined;
        }
        match ask {
            Ask::Start(it) => self.start(it),
            Ask::Signal(it) => self.signal(&it.run, &it.name, &it.id, &it.payload),
            Ask::Cancel(it) => self.changed(it, Self::cancel),
            Ask::Terminate(it) if it.reason.trim().is_empty() => invalid(),
            Ask::Terminate(it) => self.changed(it, Self::terminate),
            Ask::Pause(it) => self.changed(it, Self::pause),
            Ask::Resume(it) => self.changed(it, Self::resume),
            Ask::Retry(it) => self.retry(it),
            Ask::Attach(it) => self.attach(it),
            Ask::Advance(it) => self.advance(it),
            Ask::Report(it) => self.report(it),
            Ask::Progress(it) => self.progress(it),
            Ask::Return(it) => self.give_back(it),
            Ask::Detach(session) => self.end_session(*session, usize::MAX, false),
            Ask::Deploy(it) => {
                let version = (it.workflow.clone(), it.version);
                if !self.current.contains_key(&it.workflow) {
                    return unknown(&it.workflow);
                }
                if !self.queues.contains_key(&version) {
                    let (name, version) = version;
                    let registered = Vec::new();
                    return Rejected::UnknownVersion {
                        name,
                        version,
                        registered,
                    }
                    .into();
                }
                let previous = self.current.insert(version.0, version.1);
                Reply::Deployed { previous }
            }
            Ask::SetLimit(it) => {
                if admits_nothing(&it.spec) {
                    return invalid();
                }
                let now = self.now;
                let gate = self.gates.entry(it.name.clone()).or_default();
                let previous = gate.spec;
                gate.declare(it.spec, now);
                Reply::LimitSet { previous }
            }
            Ask::Noop(_) => Reply::Done,
        }
    }

    fn duty(&mut self, duty: &Duty) -> Reply {
        match duty {
            Duty::Grant(it) if self.broke(it.work.run()) => Reply::Quarantined,
            Duty::Grant(it) => self.grant(it),
            Duty::Admit(it) => self.admit(&it.limit),
            Duty::Expire(Expire::Session { session, at_most }) => {
                self.end_session(*session, *at_most as usize, true)
            }
            Duty::Expire(Expire::Attempt { work, .. }) if self.broke(work.run()) => {
                Reply::Quarantined
            }
            Duty::Expire(Expire::Drive { run, .. }) if self.broke(run) => Reply::Quarantined,
            Duty::Expire(Expire::Attempt { work, fence }) => self.expire_attempt(work, *fence),
            Duty::Expire(Expire::Drive { run, fence }) => self.expire_drive(run, *fence),
            Duty::FireDue { up_to, at_most } => self.fire(*up_to, *at_most as usize),
            Duty::Collect(it) => self.collect(it),
            Duty::Repair(run) if self.broke(run) => Reply::Quarantined,
            Duty::Repair(_) => Reply::Moot, // each run has something that moves it
        }
    }

    /// Whether the command on this run is the one that breaks; then the run is quarantined.
    fn broke(&mut self, run: &RunId) -> bool {
        let breaks = std::mem::take(&mut self.breaks);
        if breaks && let Some(mut life) = self.take(run) {
            life.quarantine();
            self.keep(life);
        }
        breaks
    }

    fn keep(&mut self, life: Life) {
        self.touched.insert(life.id.clone());
        self.lives.insert(life.id.clone(), life);
    }

    fn fence(&mut self) -> Fence {
        self.fences += 1;
        Fence::from_wire(self.at << 16 | (self.fences - 1))
    }

    /// Takes a life out, to be put back by `settle`.
    fn take(&mut self, id: &RunId) -> Option<Life> {
        let live = self.lives.get(id).filter(|life| life.ended.is_none());
        live.cloned()
    }

    fn not_live(&self, id: &RunId) -> Reply {
        match self.lives.get(id) {
            Some(life) => {
                let (run, status) = (id.clone(), life.status());
                Rejected::RunEnded { run, status }.into()
            }
            None => Rejected::NoSuchRun(id.clone()).into(),
        }
    }

    /// A row of the journal; a living driver is told of it under the next number.
    fn write(&mut self, life: &mut Life, fill: impl FnOnce(&mut JournalRow), delivered: bool) {
        let mut row = JournalRow {
            seq: Seq(u32::try_from(life.journal.len()).expect("a journal of that many rows")),
            at: self.now,
            position: (self.at, self.slot),
            delivery: None,
            seen: None,
            outcomes: Vec::new(),
            intents: Vec::new(),
            cancel: None,
            note: None,
        };
        fill(&mut row);
        if delivered {
            match &mut life.driver {
                Some(driver) => {
                    driver.told += 1;
                    row.delivery = Some(DeliveryNo(driver.told));
                }
                None => life.wants_driver = true,
            }
        }
        life.journal.push(Arc::new(row));
    }

    fn tell(&mut self, life: &mut Life, outcomes: Vec<(IntentNo, Outcome)>) {
        self.write(life, |row| row.outcomes = outcomes, true);
    }

    fn note(&mut self, life: &mut Life) {
        self.write(life, |row| row.note = Some(String::new()), true);
    }

    /// Ends a run that owes nothing more, and keeps it.
    fn settle(&mut self, mut life: Life) {
        if life.ending.is_some() && life.hold.is_none() && life.ended.is_none() {
            if life.local_out() == 0 {
                life.driver = None;
            }
            if let Some(intent) = life.next_debt() {
                let debt = life.debts.get_mut(&intent);
                debt.map(|debt| debt.tries.get_or_insert_with(Tries::new));
            }
            let owes = life.debts.values().any(|debt| life.owes(debt));
            if !owes && life.steps.is_empty() {
                life.ended = life.ending.clone();
                life.ended_at = self.now;
            }
        }
        if life.ended.is_some() {
            life.steps.clear();
            life.mail.clear();
        }
        self.keep(life);
    }
}

/// The run that an ask is about, where it is about one.
fn subject(ask: &Ask) -> Option<&RunId> {
    match ask {
        Ask::Start(it) => Some(&it.run),
        Ask::Signal(it) => Some(&it.run),
        Ask::Cancel(it) | Ask::Terminate(it) | Ask::Pause(it) | Ask::Resume(it) => Some(&it.run),
        Ask::Retry(it) => Some(&it.run),
        Ask::Advance(it) => Some(&it.run),
        Ask::Report(it) => Some(&it.run),
        Ask::Progress(it) => Some(&it.run),
        Ask::Attach(_)
        | Ask::Return(_)
        | Ask::Detach(_)
        | Ask::Deploy(_)
        | Ask::SetLimit(_)
        | Ask::Noop(_) => None,
    }
}

/// Refusals without their words, which are the core's own.
fn invalid() -> Reply {
    Rejected::Invalid(String::new()).into()
}

fn too_large() -> Reply {
    let (what, cure) = (String::new(), String::new());
    let (size, max) = (0, 0);
    Rejected::TooLarge {
        what,
        size,
        max,
        cure,
    }
    .into()
}

fn unknown(workflow: &Name) -> Reply {
    let (name, registered) = (workflow.clone(), Vec::new());
    Rejected::UnknownWorkflow { name, registered }.into()
}

/// A limit that would never admit anything, in a span that people live through.
fn admits_nothing(spec: &LimitSpec) -> bool {
    let a_year = 366 * 24 * 3_600_000;
    let never = |(count, per): (u32, Millis)| count == 0 || per.0 == 0 || per.0 > a_year;
    spec.rate.is_some_and(never) || spec.concurrency == Some(0)
}
