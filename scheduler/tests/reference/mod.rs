//! A slow, obvious engine: the contract told once more, over plain lists, to be compared with the core.
//!
//! It shares ids, entries and replies with the core, and no logic: no rows, no orders, no savepoints. Whatever can be
//! counted by looking at every run is counted that way. Not here: judging (`model`).

mod gate;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_scheduler::{
    entry::*,
    ids::*,
    reply::*,
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
    pub spec: StepSpec,
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
    pub hold: Option<Hold>,
    wants_driver: bool,
    pub driver: Option<Driver>,
    newest_fence: Option<Fence>,
    pub intents: u32,
    pub journal: Vec<JournalRow>,
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
}

impl Engine {
    pub fn apply(&mut self, at: LogIndex, body: &Body) -> Vec<Reply> {
        (self.at, self.fences) = (at.0, 0);
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
        match ask {
            Ask::Start(it) => self.start(it),
            Ask::Signal(it) => self.signal(&it.run, &it.name, &it.id, &it.payload),
            Ask::Cancel(it) => self.changed(it, Self::cancel),
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
            Duty::Grant(it) => self.grant(it),
            Duty::Admit(it) => self.admit(&it.limit),
            Duty::Expire(Expire::Session { session, at_most }) => {
                self.end_session(*session, *at_most as usize, true)
            }
            Duty::Expire(Expire::Attempt { work, fence }) => self.expire_attempt(work, *fence),
            Duty::Expire(Expire::Drive { run, fence }) => self.expire_drive(run, *fence),
            Duty::FireDue { up_to, at_most } => self.fire(*up_to, *at_most as usize),
            Duty::Repair(_) => Reply::Moot, // each run has something that moves it
        }
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

    fn start(&mut self, it: &Start) -> Reply {
        if let Some(life) = self.lives.get(&it.run) {
            let same = life.digest == it.digest && life.workflow == it.workflow;
            let ended = life.ended.is_some();
            let (generation, version) = (life.generation, life.version);
            match it.if_ended {
                IfEnded::NewGeneration if ended => return self.begin(it, generation.0 + 1),
                IfEnded::Reject if ended => return self.not_live(&it.run),
                _ if !same => return Rejected::IdConflict(it.run.clone()).into(),
                _ => {}
            }
            if let Some((name, id, payload)) = &it.signal {
                let sent = self.signal(&it.run, name, id, payload);
                if matches!(sent, Reply::Rejected(_)) {
                    return sent;
                }
            }
            let created = false;
            return Reply::Started {
                generation,
                version,
                created,
            };
        }
        self.begin(it, 1)
    }

    fn begin(&mut self, it: &Start, generation: u32) -> Reply {
        let version = self.current[&it.workflow];
        let generation = Generation(generation);
        let begins = it.at.filter(|at| *at > self.now);
        let mut life = Life {
            id: it.run.clone(),
            generation,
            workflow: it.workflow.clone(),
            version,
            queue: self.queues[&(it.workflow.clone(), version)].clone(),
            digest: it.digest,
            deadline: it
                .timeout
                .map(|span| begins.unwrap_or(self.now).after(span)),
            begins,
            ending: None,
            ended: None,
            hold: None,
            wants_driver: begins.is_none(),
            driver: None,
            newest_fence: None,
            intents: 0,
            journal: Vec::new(),
            steps: BTreeMap::new(),
            timers: BTreeMap::new(),
            waits: BTreeMap::new(),
            debts: BTreeMap::new(),
            answered: None,
            deaths: Vec::new(),
            panics: 0,
            asked: Vec::new(),
            mail: Vec::new(),
            heard: BTreeSet::new(),
        };
        if let Some((name, id, payload)) = &it.signal {
            life.heard.insert(id.clone());
            life.mail.push((name.clone(), payload.clone()));
        }
        self.lives.insert(it.run.clone(), life);
        Reply::Started {
            generation,
            version,
            created: true,
        }
    }

    fn signal(&mut self, run: &RunId, name: &Name, id: &RequestId, payload: &Bytes) -> Reply {
        let heard = self.lives.get(run).filter(|life| life.heard.contains(id));
        if let Some(life) = heard {
            return Reply::Changed(life.status());
        }
        let Some(mut life) = self.take(run) else {
            return self.not_live(run);
        };
        life.heard.insert(id.clone());
        let waits = life.waits.iter().find(|(_, (signal, _))| signal == name);
        if let Some(intent) = waits.map(|(intent, _)| *intent) {
            life.waits.remove(&intent);
            self.tell(&mut life, vec![(intent, Outcome::Done(payload.clone()))]);
        } else {
            life.mail.push((name.clone(), payload.clone()));
        }
        let status = life.status();
        self.settle(life);
        Reply::Changed(status)
    }

    /// A row of the journal; a living driver is told of it under the next number.
    fn write(&mut self, life: &mut Life, fill: impl FnOnce(&mut JournalRow), delivered: bool) {
        let mut row = JournalRow {
            seq: Seq(u32::try_from(life.journal.len()).unwrap()),
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
        life.journal.push(row);
    }

    fn tell(&mut self, life: &mut Life, outcomes: Vec<(IntentNo, Outcome)>) {
        self.write(life, |row| row.outcomes = outcomes, true);
    }

    fn note(&mut self, life: &mut Life) {
        self.write(life, |row| row.note = Some(String::new()), true);
    }

    fn changed(
        &mut self,
        it: &Change,
        change: impl FnOnce(&mut Self, &mut Life, &str) -> Option<Rejected>,
    ) -> Reply {
        let Some(mut life) = self.take(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.asked.contains(&it.request) {
            return Reply::Changed(life.status());
        }
        remember(&mut life, &it.request);
        if let Some(rejected) = change(self, &mut life, &it.reason) {
            return rejected.into();
        }
        self.settle(life);
        Reply::Changed(self.lives[&it.run].status())
    }

    fn cancel(&mut self, life: &mut Life, reason: &str) -> Option<Rejected> {
        if life.ending.is_none() {
            self.write(life, |row| row.cancel = Some(reason.to_owned()), true);
            self.begin_ending(life, End::Cancelled(reason.to_owned()));
        }
        None
    }

    fn terminate(&mut self, life: &mut Life, reason: &str) -> Option<Rejected> {
        let undone = |(intent, debt): (&IntentNo, &Debt)| {
            format!("{} (entry {intent}, by {})", debt.step, debt.undo)
        };
        life.ended = Some(End::Terminated {
            reason: reason.to_owned(),
            not_undone: life.debts.iter().map(undone).collect(),
        });
        None
    }

    fn pause(&mut self, life: &mut Life, _: &str) -> Option<Rejected> {
        if life.hold.is_none() {
            self.note(life);
            life.pause(Hold::Person);
            if life.local_out() == 0 {
                self.lose_driver(life);
            }
        }
        None
    }

    fn resume(&mut self, life: &mut Life, _: &str) -> Option<Rejected> {
        if life.hold.is_none() {
            let (run, status) = (life.id.clone(), life.status());
            let why = String::new();
            return Some(Rejected::NotNow { run, status, why });
        }
        self.go_on(life);
        None
    }

    fn go_on(&mut self, life: &mut Life) {
        self.note(life);
        life.hold = None;
        life.deaths.clear();
        life.panics = 0;
        if life.goes_on() {
            life.wake();
        }
        let stuck = |job: &Job| job.tries.stand == Stand::Stuck;
        let of = life.steps.iter().filter(|(_, job)| stuck(job));
        let stuck: Vec<IntentNo> = of.map(|(intent, _)| *intent).collect();
        self.lose_orphans(life);
        for intent in stuck {
            if let Some(job) = life.steps.get_mut(&intent) {
                job.tries.anew();
            }
            self.schedule(life, intent);
        }
        for tries in life.debts.values_mut().filter_map(|it| it.tries.as_mut()) {
            if tries.stand == Stand::Stuck {
                tries.anew();
                tries.becomes(Stand::Waits, self.now);
            }
        }
    }

    fn retry(&mut self, it: &Retry) -> Reply {
        let Some(mut life) = self.take(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.asked.contains(&it.request) {
            return Reply::Changed(life.status());
        }
        let named = |name: &Name| it.step.as_ref().is_none_or(|wanted| wanted == name);
        let mut steps: Vec<IntentNo> = life.steps.keys().copied().collect();
        steps.retain(|it| named(&life.steps[it].spec.step) && life.steps[it].tries.failed());
        let mut debts: Vec<IntentNo> = life.debts.keys().copied().collect();
        debts.retain(|it| {
            let debt = &life.debts[it];
            named(&debt.undo) && debt.tries.as_ref().is_some_and(Tries::failed)
        });
        if steps.is_empty() && debts.is_empty() {
            let (run, status) = (life.id.clone(), life.status());
            let why = String::new();
            return Rejected::NotNow { run, status, why }.into();
        }
        remember(&mut life, &it.request);
        if life.hold == Some(Hold::System) {
            self.go_on(&mut life);
        }
        for intent in steps {
            if let Some(job) = life.steps.get_mut(&intent) {
                job.tries.anew();
                if job.tries.failed() {
                    self.schedule(&mut life, intent);
                }
            }
        }
        for intent in debts {
            let tries = life.debts.get_mut(&intent).and_then(|it| it.tries.as_mut());
            if let Some(tries) = tries.filter(|tries| tries.failed()) {
                tries.anew();
                tries.becomes(Stand::Waits, self.now);
            }
        }
        let status = life.status();
        self.settle(life);
        Reply::Changed(status)
    }

    fn attach(&mut self, it: &Attach) -> Reply {
        let session = match it.session {
            None => SessionId(self.fence().number()),
            Some(id) => match self.workers.get(&id) {
                Some(known) if known.process == it.process => id,
                _ => return Rejected::SessionEnded(id).into(),
            },
        };
        let worker = Worker {
            process: it.process.clone(),
            queue: it.queue.clone(),
            workflows: it.workflows.clone(),
            steps: it.steps.clone(),
        };
        self.workers.insert(session, worker);
        let highest = it.workflows.iter().max_by_key(|(_, version)| *version);
        if let Some((name, version)) = highest {
            self.current.entry(name.clone()).or_insert(*version);
        }
        for version in &it.workflows {
            let queue = it.queue.clone();
            self.queues.entry(version.clone()).or_insert(queue);
        }
        for life in self.lives.values_mut().filter(|life| life.ended.is_none()) {
            life.deaths.retain(|process| *process != it.process);
        }
        let warnings = Vec::new();
        Reply::Attached { session, warnings }
    }

    fn advance(&mut self, it: &Advance) -> Reply {
        let stale = Reply::Rejected(Rejected::StaleFence(it.fence));
        let Some(life) = self.lives.get(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.newest_fence != Some(it.fence) {
            return stale;
        }
        let last = life
            .answered
            .as_ref()
            .filter(|(fence, _)| *fence == it.fence);
        if let Some((_, first)) = last.filter(|(_, first)| first.number == it.number) {
            let mut again = first.clone();
            again.grants.retain(|grant| {
                let job = life.steps.get(&grant.intent);
                life.ended.is_none() && job.is_some_and(|job| job.tries.is_under(grant.fence))
            });
            return Reply::Advanced(again);
        }
        let next = last.map_or(1, |(_, first)| first.number.0 + 1);
        let interrupted = last.is_some_and(|(_, it)| it.outcome == AdvanceOutcome::Interrupted);
        let Some(mut life) = self.take(&it.run) else {
            return stale;
        };
        let Some(driver) = life.driver.filter(|driver| driver.fence == it.fence) else {
            return stale;
        };
        let numbers = it.intents.iter().map(|intent| intent.number.0);
        let fits = it.number.0 == next
            && it.seen.0 <= driver.told
            && numbers.eq((life.intents..).take(it.intents.len()));
        if !fits {
            return Rejected::Invalid(String::new()).into();
        }
        let advanced = self.move_on(&mut life, it, driver, interrupted);
        life.answered = Some((it.fence, advanced.clone()));
        self.settle(life);
        Reply::Advanced(advanced)
    }

    fn move_on(
        &mut self,
        life: &mut Life,
        it: &Advance,
        driver: Driver,
        interrupted_before: bool,
    ) -> Advanced {
        let deliveries_wait = driver.told > it.seen.0;
        let interrupted = interrupted_before || !life.goes_on();
        let (mut now_known, mut later, mut foreign) = (Vec::new(), Vec::new(), false);
        for result in &it.results {
            let job = life.steps.get(&result.intent);
            let is_done = matches!(result.outcome, AttemptOutcome::Done(_));
            if !job.is_some_and(|job| job.tries.is_under(result.fence)) {
                foreign |= is_done;
            } else if let Some(outcome) = self.end_attempt(life, result.intent, &result.outcome) {
                let outcome = (result.intent, outcome);
                if is_done {
                    now_known.push(outcome);
                } else {
                    later.push(outcome);
                }
            }
        }
        let (mut accepted, mut end, mut end_waits) = (Vec::new(), None, false);
        if !interrupted && !foreign && it.trouble.is_none() {
            let ends = |kind: &IntentKind| {
                matches!(kind, IntentKind::Complete(_) | IntentKind::Fail { .. })
            };
            end_waits = deliveries_wait && it.intents.last().is_some_and(|it| ends(&it.kind));
            for intent in &it.intents {
                if !life.goes_on() || (deliveries_wait && ends(&intent.kind)) {
                    break;
                }
                life.intents += 1;
                accepted.push(intent.clone());
                self.open(life, intent, &mut later, &mut end);
            }
        }
        if !(now_known.is_empty() && accepted.is_empty()) {
            let fill = |row: &mut JournalRow| {
                row.seen = Some(it.seen);
                row.outcomes = now_known;
                row.intents = accepted;
            };
            self.write(life, fill, false);
        }
        if !later.is_empty() {
            self.tell(life, later);
        }
        match &it.trouble {
            None => {}
            Some(Trouble::Diverged { .. }) => {
                self.write(life, |row| row.note = Some(String::new()), false);
                life.quarantine();
            }
            Some(Trouble::Panicked(_)) => {
                life.panics += 1;
                if life.panics >= 3 {
                    life.quarantine();
                }
            }
        }
        let unseen = |row: &&JournalRow| row.delivery.is_some_and(|number| number > it.seen);
        let deliveries: Vec<JournalRow> = match life.driver {
            None => Vec::new(),
            Some(driver) => life.journal[driver.from..]
                .iter()
                .filter(unseen)
                .cloned()
                .collect(),
        };
        let ends = end.is_some();
        if let Some(end) = end {
            self.begin_ending(life, end);
        }
        let idle = life.driver.is_none() || life.local_out() == 0;
        let mut outcome = AdvanceOutcome::GoesOn;
        if foreign || (it.trouble.is_some() && idle) {
            self.lose_driver(life);
            outcome = AdvanceOutcome::Superseded;
        } else if interrupted || it.trouble.is_some() || (!life.goes_on() && !ends) {
            outcome = AdvanceOutcome::Interrupted;
            if life.local_out() == 0 {
                self.lose_driver(life);
                outcome = AdvanceOutcome::Finished;
            }
        } else if ends {
            outcome = AdvanceOutcome::Finished;
        } else if end_waits {
            outcome = AdvanceOutcome::DeliveriesWait;
        }
        let mut grants = Vec::new();
        if matches!(
            outcome,
            AdvanceOutcome::GoesOn | AdvanceOutcome::DeliveriesWait
        ) && let Some(driver) = life.driver
        {
            grants = self.grant_local(life, driver.session, it.free_slots);
        }
        let executes = |job: &Job| {
            job.is_local() && matches!(job.tries.stand, Stand::Waits | Stand::Out { .. })
        };
        if outcome == AdvanceOutcome::GoesOn
            && deliveries.is_empty()
            && !life.steps.values().any(executes)
        {
            outcome = AdvanceOutcome::Suspended;
            life.driver = None;
            let open = life.steps.len() + life.timers.len() + life.waits.len();
            if open == 0 && life.deadline.is_none() {
                life.pause(Hold::System); // nothing would ever move it
            }
        }
        Advanced {
            number: it.number,
            outcome,
            grants,
            deliveries,
        }
    }

    fn open(
        &mut self,
        life: &mut Life,
        intent: &Intent,
        later: &mut Vec<(IntentNo, Outcome)>,
        end: &mut Option<End>,
    ) {
        let number = intent.number;
        match &intent.kind {
            IntentKind::Step(spec) => {
                let job = Job {
                    spec: spec.clone(),
                    asks_probe: false,
                    has_place: false,
                    tries: Tries::new(),
                };
                life.steps.insert(number, job);
                if !spec.limits.is_empty() {
                    self.schedule(life, number);
                }
            }
            IntentKind::Timer(when) => {
                let due = match when {
                    TimerSpec::After(span) => self.now.after(*span),
                    TimerSpec::At(at) => *at,
                };
                if due > self.now {
                    life.timers.insert(number, due);
                } else {
                    later.push((number, Outcome::Fired));
                }
            }
            IntentKind::Wait {
                signal, timeout, ..
            } => {
                if let Some(nth) = life.mail.iter().position(|(name, _)| name == signal) {
                    let (_, payload) = life.mail.remove(nth);
                    later.push((number, Outcome::Done(payload)));
                } else {
                    let due = timeout.map(|span| self.now.after(span));
                    life.waits.insert(number, (signal.clone(), due));
                }
            }
            IntentKind::Record(_) | IntentKind::Publish { .. } => {}
            IntentKind::Complete(output) => *end = Some(End::Completed(output.clone())),
            IntentKind::Fail { code, message } => {
                let (code, message) = (code.clone(), message.clone());
                *end = Some(End::Failed { code, message });
            }
        }
    }

    fn report(&mut self, it: &Report) -> Reply {
        let StepResult {
            intent,
            fence,
            outcome,
        } = &it.result;
        let Some(mut life) = self.take(&it.run) else {
            return Reply::Reported(Reported::Stale);
        };
        match life.under(*intent, *fence) {
            None => return Reply::Reported(Reported::Stale),
            Some(Under::Debt) => self.end_undo(&mut life, *intent, outcome),
            Some(Under::Step) => {
                let seen = self.end_attempt(&mut life, *intent, outcome);
                // Once the run is ending nobody reads how a step failed.
                let kept =
                    |seen: &Outcome| life.ending.is_none() || matches!(seen, Outcome::Done(_));
                if let Some(seen) = seen.filter(kept) {
                    self.tell(&mut life, vec![(*intent, seen)]);
                }
            }
        }
        self.settle(life);
        Reply::Reported(Reported::Accepted)
    }

    fn progress(&mut self, it: &Progress) -> Reply {
        let stale = Reply::Rejected(Rejected::StaleFence(it.fence));
        let Some(mut life) = self.take(&it.run) else {
            return stale;
        };
        let progress = Some(it.progress.clone());
        match life.under(it.intent, it.fence) {
            None => return stale,
            Some(Under::Step) => life.steps.get_mut(&it.intent).unwrap().tries.progress = progress,
            Some(Under::Debt) => {
                let debt = life.debts.get_mut(&it.intent).unwrap();
                debt.tries.as_mut().unwrap().progress = progress;
            }
        }
        self.lives.insert(it.run.clone(), life);
        Reply::Done
    }

    fn give_back(&mut self, it: &Return) -> Reply {
        let mut count = 0;
        for (run, fence) in &it.runs {
            let life = self.take(run);
            let driven = |life: &Life| life.driver.is_some_and(|driver| driver.fence == *fence);
            if let Some(mut life) = life.filter(driven) {
                self.lose_driver(&mut life);
                self.settle(life);
                count += 1;
            }
        }
        for (run, intent, fence) in &it.steps {
            let Some(mut life) = self.take(run) else {
                continue;
            };
            match life.under(*intent, *fence) {
                None => continue,
                Some(Under::Step) => self.lose_step(&mut life, *intent),
                Some(Under::Debt) => self.end_undo(&mut life, *intent, &AttemptOutcome::Stopped),
            }
            self.settle(life);
            count += 1;
        }
        Reply::Did { count, more: false }
    }

    fn serves(&self, session: SessionId, queue: &Name, step: &Name) -> bool {
        let worker = self.workers.get(&session);
        worker.is_some_and(|worker| worker.queue == *queue && worker.steps.contains(step))
    }

    fn drives(&self, session: SessionId, life: &Life) -> bool {
        let version = (life.workflow.clone(), life.version);
        let worker = self.workers.get(&session);
        worker.is_some_and(|worker| worker.workflows.contains(&version))
    }

    fn grant(&mut self, it: &Grant) -> Reply {
        let Some(mut life) = self.take(it.work.run()) else {
            return Reply::Moot;
        };
        let session = it.session;
        let fits = self.workers.contains_key(&session)
            && match &it.work {
                Work::Run(_) => {
                    let wants = life.wants_driver && life.driver.is_none();
                    life.goes_on() && wants && self.drives(session, &life)
                }
                Work::Step(_, intent) => life.steps.get(intent).is_some_and(|job| {
                    let queue = job.spec.queue.as_ref().unwrap_or(&life.queue);
                    let may = if job.is_local() {
                        life.driver.is_some_and(|driver| driver.session == session)
                    } else {
                        self.serves(session, queue, job.executes())
                    };
                    life.goes_on() && job.tries.stand == Stand::Waits && may
                }),
                Work::Undo(_, intent) => life.debts.get(intent).is_some_and(|debt| {
                    let waits = debt
                        .tries
                        .as_ref()
                        .is_some_and(|it| it.stand == Stand::Waits);
                    let at_hand = life.hold.is_none() && life.next_debt() == Some(*intent);
                    at_hand && waits && self.serves(session, &debt.queue, &debt.undo)
                }),
            };
        if !fits {
            return Reply::Moot;
        }
        match &it.work {
            Work::Run(_) => {
                let fence = self.fence();
                life.driver = Some(Driver {
                    session,
                    fence,
                    told: 0,
                    from: life.journal.len(),
                });
                life.newest_fence = Some(fence);
                life.wants_driver = false;
                self.grant_local(&mut life, session, it.free_slots);
            }
            Work::Step(_, intent) => {
                self.grant_step(&mut life, *intent, session);
            }
            Work::Undo(_, intent) => {
                let (fence, since) = (self.fence(), self.now);
                let debt = life.debts.get_mut(intent).unwrap();
                let tries = debt.tries.as_mut().unwrap();
                tries.attempts += 1;
                let out = Stand::Out {
                    session,
                    fence,
                    since,
                };
                tries.becomes(out, since);
            }
        }
        self.lives.insert(life.id.clone(), life);
        Reply::Done
    }

    fn grant_local(&mut self, life: &mut Life, session: SessionId, slots: u32) -> Vec<StepGrant> {
        let waits = |job: &Job| job.is_local() && job.tries.stand == Stand::Waits;
        let waiting = life.steps.iter().filter(|(_, job)| waits(job));
        let chosen: Vec<IntentNo> = waiting.map(|(it, _)| *it).take(slots as usize).collect();
        let mut grants = Vec::new();
        for intent in chosen {
            grants.push(self.grant_step(life, intent, session));
        }
        grants
    }

    fn grant_step(&mut self, life: &mut Life, intent: IntentNo, session: SessionId) -> StepGrant {
        let (fence, since) = (self.fence(), self.now);
        let job = life.steps.get_mut(&intent).unwrap();
        job.tries.attempts += 1;
        let out = Stand::Out {
            session,
            fence,
            since,
        };
        job.tries.becomes(out, since);
        if let (Some(undo), false) = (&job.spec.undo, job.asks_probe) {
            let debt = Debt {
                step: job.spec.step.clone(),
                undo: undo.clone(),
                queue: job.spec.queue.clone().unwrap_or(life.queue.clone()),
                withdrawn: false,
                tries: None,
            };
            life.debts.entry(intent).or_insert(debt);
        }
        StepGrant {
            intent,
            fence,
            attempt: job.tries.attempts,
            timeout: None,
            progress: job.tries.progress.clone(),
        }
    }

    /// Steps that hold a place at a limit, counted.
    pub fn held(&self, limit: &LimitName, also: Option<&Life>) -> u32 {
        let mut held = 0;
        for life in self.lives.values() {
            // A run that is being changed is looked at as it is now.
            let life = also.filter(|it| it.id == life.id).unwrap_or(life);
            if life.ended.is_none() {
                let holds = |job: &&Job| job.has_place && job.spec.limits.contains(limit);
                held += life.steps.values().filter(holds).count();
            }
        }
        u32::try_from(held).unwrap()
    }

    /// Who waits at a limit, by the number drawn.
    pub fn line(&self, limit: &LimitName, also: Option<&Life>) -> BTreeMap<u64, (RunId, IntentNo)> {
        let mut line = BTreeMap::new();
        for life in self.lives.values() {
            let life = also.filter(|it| it.id == life.id).unwrap_or(life);
            for (intent, job) in life.steps.iter().filter(|_| life.goes_on()) {
                if let Stand::InLine(number) = job.tries.stand
                    && job.spec.limits.contains(limit)
                {
                    line.insert(number, (life.id.clone(), *intent));
                }
            }
        }
        line
    }

    pub fn admits(&self, limit: &LimitName, also: Option<&Life>) -> bool {
        let gate = self.gates.get(limit).cloned().unwrap_or_default();
        gate.admits(self.held(limit, also), self.now)
    }

    /// A step passes if every limit admits it and, unless it is called up, nobody waits before it.
    fn pass(&mut self, life: &mut Life, intent: IntentNo, called_up: bool) -> bool {
        let job = &life.steps[&intent];
        let Stand::InLine(number) = job.tries.stand else {
            return false;
        };
        let limits = job.limits();
        let may = |limit: &LimitName| {
            let line = self.line(limit, Some(life));
            let first = called_up || line.range(..number).next().is_none();
            first && self.admits(limit, Some(life))
        };
        if !life.goes_on() || !limits.iter().all(may) {
            return false;
        }
        for limit in limits {
            let now = self.now;
            self.gates.entry(limit).or_default().take(now);
        }
        let job = life.steps.get_mut(&intent).unwrap();
        job.has_place = true;
        job.tries.stand = Stand::Waits;
        if job.is_local() {
            life.wake();
        }
        true
    }

    fn schedule(&mut self, life: &mut Life, intent: IntentNo) {
        self.queue(life, intent);
        if life.driver.is_some() && life.steps.get(&intent).is_some_and(Job::is_local) {
            self.pass(life, intent, false);
        }
    }

    /// A step may be tried (again).
    fn queue(&mut self, life: &mut Life, intent: IntentNo) {
        let Some(job) = life.steps.get_mut(&intent) else {
            return;
        };
        job.has_place = false;
        self.tickets += 1;
        if !job.asks_probe && !job.spec.limits.is_empty() {
            job.tries.becomes(Stand::InLine(self.tickets), self.now);
        } else {
            job.tries.becomes(Stand::Waits, self.now);
            if job.is_local() {
                life.wake();
            }
        }
    }

    fn admit(&mut self, limit: &LimitName) -> Reply {
        let mut count = 0;
        for (run, intent) in self.line(limit, None).into_values() {
            if !self.admits(limit, None) {
                break;
            }
            let mut life = self.lives[&run].clone();
            let job = &life.steps[&intent];
            let queue = job.spec.queue.as_ref().unwrap_or(&life.queue);
            let is_served = self.workers.keys().any(|session| {
                if job.is_local() {
                    self.drives(*session, &life)
                } else {
                    self.serves(*session, queue, job.executes())
                }
            });
            if is_served && self.pass(&mut life, intent, true) {
                self.settle(life);
                count += 1;
            }
        }
        Reply::Did { count, more: false }
    }

    fn end_session(&mut self, session: SessionId, at_most: usize, died: bool) -> Reply {
        let Some(worker) = self.workers.get(&session).cloned() else {
            return Reply::Moot;
        };
        let live = self.lives.values().filter(|life| life.ended.is_none());
        let holding = live.filter(|life| life.holds_of(session));
        let runs: Vec<RunId> = holding.map(|life| life.id.clone()).collect();
        let more = runs.len() > at_most;
        let mut count = 0;
        for run in runs.iter().take(at_most) {
            let mut life = self.lives[run].clone();
            self.lose_all(&mut life, session);
            if died {
                if !life.deaths.contains(&worker.process) {
                    life.deaths.push(worker.process.clone());
                }
                if life.deaths.len() >= 3 {
                    life.quarantine();
                }
            }
            self.settle(life);
            count += 1;
        }
        if !more {
            self.workers.remove(&session);
        }
        Reply::Did { count, more }
    }

    fn lose_all(&mut self, life: &mut Life, session: SessionId) {
        let of = |tries: &Tries| tries.out().is_some_and(|(whose, _)| whose == session);
        let steps = life.steps.iter().filter(|(_, job)| of(&job.tries));
        let steps: Vec<IntentNo> = steps.map(|(intent, _)| *intent).collect();
        if life.driver.is_some_and(|driver| driver.session == session) {
            self.lose_driver(life);
        }
        for intent in steps {
            if life.steps.get(&intent).is_some_and(|job| of(&job.tries)) {
                self.lose_step(life, intent);
            }
        }
        let debts: Vec<IntentNo> = life.debts.keys().copied().collect();
        for intent in debts {
            if life.debts[&intent].tries.as_ref().is_some_and(of) {
                self.end_undo(life, intent, &AttemptOutcome::Stopped);
            }
        }
    }

    fn expire_attempt(&mut self, work: &Work, fence: Fence) -> Reply {
        let Some(mut life) = self.take(work.run()) else {
            return Reply::Moot;
        };
        let overdue = AttemptOutcome::Retryable {
            message: String::new(),
            after: None,
        };
        match work {
            Work::Run(_) => return Reply::Moot,
            Work::Step(_, intent) => {
                let job = life
                    .steps
                    .get(intent)
                    .filter(|job| job.tries.is_under(fence));
                let Some(job) = job else {
                    return Reply::Moot;
                };
                if job.asks_probe || job.spec.certainty == Certainty::AtLeastOnce {
                    if let Some(seen) = self.end_attempt(&mut life, *intent, &overdue) {
                        self.tell(&mut life, vec![(*intent, seen)]);
                    }
                } else {
                    self.lose_step(&mut life, *intent);
                }
            }
            Work::Undo(_, intent) => {
                let tries = life.debts.get(intent).and_then(|debt| debt.tries.as_ref());
                if !tries.is_some_and(|tries| tries.is_under(fence)) {
                    return Reply::Moot;
                }
                self.end_undo(&mut life, *intent, &overdue);
            }
        }
        self.settle(life);
        Reply::Done
    }

    fn expire_drive(&mut self, run: &RunId, fence: Fence) -> Reply {
        let idle = |life: &Life| {
            life.driver.is_some_and(|driver| driver.fence == fence) && life.local_out() == 0
        };
        let Some(mut life) = self.take(run).filter(idle) else {
            return Reply::Moot;
        };
        self.lose_driver(&mut life);
        self.settle(life);
        Reply::Done
    }

    fn due(&self, until: Timestamp) -> BTreeSet<(Timestamp, RunId)> {
        let due = self
            .lives
            .values()
            .filter_map(|life| Some((life.due()?, life.id.clone())));
        due.filter(|(at, _)| *at <= until).collect()
    }

    fn fire(&mut self, up_to: Timestamp, at_most: usize) -> Reply {
        let until = up_to.min(self.now);
        let mut count = 0;
        for (_, run) in self.due(until).into_iter().take(at_most) {
            let mut life = self.lives[&run].clone();
            if life.ending.is_some() {
                for tries in life.debts.values_mut().filter_map(|it| it.tries.as_mut()) {
                    if let Stand::Later {
                        when: When::At(at), ..
                    } = tries.stand
                        && at <= self.now
                    {
                        tries.becomes(Stand::Waits, self.now);
                    }
                }
            } else if life.begins.is_some() {
                life.begins = None;
                life.wake();
            } else if life.deadline.is_some_and(|due| due <= self.now) {
                self.note(&mut life);
                self.begin_ending(&mut life, End::TimedOut);
            } else {
                self.fire_open(&mut life);
            }
            self.settle(life);
            count += 1;
        }
        let more = !self.due(until).is_empty();
        Reply::Did { count, more }
    }

    fn fire_open(&mut self, life: &mut Life) {
        let mut due: BTreeSet<(Timestamp, IntentNo)> = BTreeSet::new();
        due.extend(life.timers.iter().map(|(intent, at)| (*at, *intent)));
        let waits = life.waits.iter();
        due.extend(waits.filter_map(|(intent, (_, at))| Some(((*at)?, *intent))));
        for (intent, job) in &life.steps {
            if let Stand::Later {
                when: When::At(at), ..
            } = job.tries.stand
            {
                due.insert((at, *intent));
            }
        }
        let mut outcomes = Vec::new();
        let now = self.now;
        for (_, intent) in due.into_iter().filter(|(at, _)| *at <= now) {
            if life.timers.remove(&intent).is_some() {
                outcomes.push((intent, Outcome::Fired));
            } else if life.waits.remove(&intent).is_some() {
                outcomes.push((intent, Outcome::TimedOut));
            } else {
                self.schedule(life, intent);
            }
        }
        if !outcomes.is_empty() {
            self.tell(life, outcomes);
        }
    }

    /// An attempt is over; answers what the function sees if its step is over, too.
    fn end_attempt(
        &mut self,
        life: &mut Life,
        intent: IntentNo,
        outcome: &AttemptOutcome,
    ) -> Option<Outcome> {
        let job = &life.steps[&intent];
        let (probing, attempts) = (job.asks_probe, job.tries.failures + 1);
        let failed = |code: &str, message: &str| Outcome::Failed {
            code: code.to_owned(),
            message: message.to_owned(),
            attempts,
        };
        if life.ending.is_some() {
            life.steps.remove(&intent);
            return Some(match outcome {
                AttemptOutcome::Done(output) => Outcome::Done(output.clone()),
                AttemptOutcome::Absent if probing => {
                    life.debts.remove(&intent);
                    Outcome::Cancelled("it never happened".to_owned())
                }
                AttemptOutcome::Stopped => Outcome::Cancelled("stopped".to_owned()),
                AttemptOutcome::Terminal { code, message } => failed(code, message),
                AttemptOutcome::Panicked(_) => failed("PANICKED", ""),
                AttemptOutcome::Retryable { .. } | AttemptOutcome::Throttled { .. } => {
                    failed("GAVE_UP", "")
                }
                AttemptOutcome::Unsure(_) => failed("UNSURE", ""),
                AttemptOutcome::Absent => failed("INTERNAL", ""),
            });
        }
        match outcome {
            AttemptOutcome::Done(output) => {
                life.deaths.clear();
                life.panics = 0;
                life.steps.remove(&intent);
                Some(Outcome::Done(output.clone()))
            }
            AttemptOutcome::Stopped => {
                self.lose_step(life, intent);
                None
            }
            AttemptOutcome::Throttled { limit, after, .. } => {
                let named = life.steps[&intent].spec.limits.contains(limit);
                if probing || !named {
                    return self.failed(life, intent, Some(*after));
                }
                let now = self.now;
                let gate = self.gates.entry(limit.clone()).or_default();
                gate.close(now, *after);
                self.schedule(life, intent);
                None
            }
            AttemptOutcome::Retryable { after, .. } => self.failed(life, intent, *after),
            AttemptOutcome::Panicked(_) => self.failed(life, intent, None),
            AttemptOutcome::Terminal { code, message } if !probing => {
                life.steps.remove(&intent);
                Some(failed(code, message))
            }
            AttemptOutcome::Absent if probing => {
                life.debts.remove(&intent);
                life.steps.get_mut(&intent).unwrap().asks_probe = false;
                self.schedule(life, intent);
                None
            }
            AttemptOutcome::Terminal { .. } | AttemptOutcome::Unsure(_) if probing => {
                self.stick(life, intent);
                None
            }
            AttemptOutcome::Absent
            | AttemptOutcome::Unsure(_)
            | AttemptOutcome::Terminal { .. } => self.failed(life, intent, None),
        }
    }

    fn failed(
        &mut self,
        life: &mut Life,
        intent: IntentNo,
        asked: Option<Millis>,
    ) -> Option<Outcome> {
        let job = life.steps.get_mut(&intent).unwrap();
        job.has_place = false;
        let policy = job.spec.retry.clone();
        if !job.tries.fail(&policy, asked, self.now) {
            return None;
        }
        let attempts = job.tries.failures;
        if policy.give_up == GiveUp::Pause {
            life.pause(Hold::System);
            return None;
        }
        life.steps.remove(&intent);
        let (code, message) = ("GAVE_UP".to_owned(), String::new());
        if policy.give_up == GiveUp::Compensate {
            let hold = life.hold;
            let (code, message) = (code.clone(), message.clone());
            self.begin_ending(life, End::Failed { code, message });
            life.hold = hold; // it undoes once it is resumed
        }
        Some(Outcome::Failed {
            code,
            message,
            attempts,
        })
    }

    fn stick(&mut self, life: &mut Life, intent: IntentNo) {
        let job = life.steps.get_mut(&intent).unwrap();
        job.has_place = false;
        job.tries.becomes(Stand::Stuck, self.now);
        life.pause(Hold::System);
    }

    /// It may have happened: what follows is what the user chose for it.
    fn lose_step(&mut self, life: &mut Life, intent: IntentNo) {
        if life.ending.is_some() {
            life.steps.remove(&intent);
            return;
        }
        let job = life.steps.get_mut(&intent).unwrap();
        match job.spec.certainty {
            Certainty::AtMostOnce => self.stick(life, intent),
            Certainty::Reconcile(_) => {
                job.asks_probe = true;
                self.queue(life, intent);
            }
            Certainty::AtLeastOnce => self.queue(life, intent),
        }
    }

    fn lose_driver(&mut self, life: &mut Life) {
        life.driver = None;
        self.lose_orphans(life);
        if life.ending.is_none() {
            life.wake();
        }
    }

    /// Nobody reports local steps without their driver.
    fn lose_orphans(&mut self, life: &mut Life) {
        let out = |job: &Job| job.is_local() && job.tries.out().is_some();
        let orphans = life.steps.iter().filter(|(_, job)| out(job));
        let orphans: Vec<IntentNo> = orphans.map(|(intent, _)| *intent).collect();
        if life.driver.is_none() {
            for intent in orphans {
                self.lose_step(life, intent);
            }
        }
    }

    fn end_undo(&mut self, life: &mut Life, intent: IntentNo, outcome: &AttemptOutcome) {
        let now = self.now;
        let Some(tries) = life.debts.get_mut(&intent).and_then(|it| it.tries.as_mut()) else {
            return;
        };
        let asked = match outcome {
            AttemptOutcome::Done(_) => {
                life.debts.remove(&intent);
                life.deaths.clear();
                self.note(life);
                return;
            }
            AttemptOutcome::Stopped => return tries.becomes(Stand::Waits, now),
            AttemptOutcome::Terminal { .. } => {
                tries.becomes(Stand::Stuck, now);
                return life.pause(Hold::System);
            }
            AttemptOutcome::Retryable { after, .. } => *after,
            AttemptOutcome::Throttled { after, .. } => Some(*after),
            AttemptOutcome::Panicked(_) | AttemptOutcome::Absent | AttemptOutcome::Unsure(_) => {
                None
            }
        };
        if tries.fail(&RetryPolicy::default(), asked, now) {
            life.pause(Hold::System);
        }
    }

    /// Nothing new begins; what is out may report; the rest is withdrawn.
    fn begin_ending(&mut self, life: &mut Life, end: End) {
        if matches!(end, End::Completed(_)) {
            for intent in life.steps.keys() {
                if let Some(debt) = life.debts.get_mut(intent) {
                    debt.withdrawn = true;
                }
            }
        }
        life.ending = Some(end);
        (life.hold, life.begins, life.wants_driver) = (None, None, false);
        let driven = life.driver.is_some();
        let reports = |job: &Job| job.tries.out().is_some() && (driven || !job.is_local());
        life.steps.retain(|_, job| reports(job));
        life.timers.clear();
        life.waits.clear();
    }

    /// Ends a run that owes nothing more, and keeps it.
    fn settle(&mut self, mut life: Life) {
        if life.ending.is_some() && life.hold.is_none() && life.ended.is_none() {
            if life.local_out() == 0 {
                life.driver = None;
            }
            if let Some(intent) = life.next_debt() {
                let debt = life.debts.get_mut(&intent).unwrap();
                debt.tries.get_or_insert_with(Tries::new);
            }
            let owes = life.debts.values().any(|debt| life.owes(debt));
            if !owes && life.steps.is_empty() {
                life.ended = life.ending.clone();
            }
        }
        if life.ended.is_some() {
            life.steps.clear();
            life.mail.clear();
        }
        self.lives.insert(life.id.clone(), life);
    }
}

/// A person has at most eight asks under way at one run.
fn remember(life: &mut Life, request: &RequestId) {
    life.asked.push(request.clone());
    if life.asked.len() > 8 {
        life.asked.remove(0);
    }
}
