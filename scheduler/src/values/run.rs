//! A run: one durable execution, with all that is open in it.
//!
//! Invariants: at most one driver's lease is live; a run that is not final owns a wake source (`Run::wake_source`); a run
//! ends only when nothing is leased and no undo is owed. What follows from a run (order, counters, deadlines) is derived
//! from its row by `index` and `orders`, never written by hand.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    effect::Needs,
    entry::Work,
    ids::{
        AdvanceNo, DeliveryNo, Digest, Fence, Generation, IntentNo, LimitName, Name, ProcessId,
        RequestId, RunId, Seq, SessionId, StepKey, Version,
    },
    reply::{Advanced, End, Status},
    rows::Keeps,
    seeded::{self, Bug},
    time::{Millis, Timestamp},
    values::step::{Owed, Step, StepLease, Tries, TryState},
};

/// A live run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The caller's name for it.
    pub id: RunId,
    /// Which life of that id.
    pub generation: Generation,
    /// What it runs.
    pub workflow: Name,
    /// Pinned when it started.
    pub version: Version,
    /// Where its version was registered.
    pub queue: Name,
    /// Of its input.
    pub digest: Digest,
    /// On the group clock.
    pub started: Timestamp,
    /// Its own timeout.
    pub due: Option<Timestamp>,
    /// Which stretch of its life it is in.
    pub mode: Mode,
    /// Waits for a driver since then; kept through a pause.
    pub ready: Option<Timestamp>,
    /// The driver's lease.
    pub drive: Option<Drive>,
    /// The newest driver's fence ever given: an Advance under an older one is stale.
    pub newest_fence: Option<Fence>,
    /// The number of the next intent.
    pub next_intent: IntentNo,
    /// The number of the next journal row.
    pub next_seq: Seq,
    /// Asked for and not over.
    pub open: BTreeMap<IntentNo, Open>,
    /// Undos owed, oldest first.
    pub undos: Vec<Owed>,
    /// The answer to the last Advance, for its repeat.
    pub last: Option<LastAdvance>,
    /// Who keeps its suspended function.
    pub kept: Option<Kept>,
    /// Processes that died under it since its last checkpoint.
    pub suspects: Vec<ProcessId>,
    /// Panics of the function in a row.
    pub panics: u32,
    /// Asks with no identity of their own that were answered: a repeat is the same ask.
    pub requests: Vec<RequestId>,
    /// Signals buffered, and their bytes.
    pub buffered: (u32, u64),
}

/// Which stretch of its life a run is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// It begins then.
    Scheduled {
        /// When.
        at: Timestamp,
    },
    /// It runs, is ready, or waits: `drive` and `ready` say which.
    Live,
    /// It ends like this, once nothing is leased and every undo that is owed is done.
    Undoing {
        /// How.
        end: End,
    },
    /// Held still.
    Paused {
        /// For people.
        reason: String,
        /// By a person, or by the system.
        by_system: bool,
        /// Where `resume` leads.
        back: Back,
    },
    /// It killed its workers, diverged, or a command on it broke a rule.
    Quarantined {
        /// For people.
        evidence: String,
        /// Where `resume` leads.
        back: Back,
    },
}

/// Where a run that is held still goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// It begins then.
    Scheduled {
        /// When.
        at: Timestamp,
    },
    /// Its function goes on.
    Live,
    /// It goes on undoing.
    Undoing {
        /// To end like this.
        end: End,
    },
}

/// A driver's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drive {
    /// Whose.
    pub session: SessionId,
    /// The number of the grant.
    pub fence: Fence,
    /// Since when.
    pub since: Timestamp,
    /// The last delivery made under it.
    pub delivery: DeliveryNo,
    /// The last delivery that an Advance named.
    pub seen: DeliveryNo,
    /// The journal row of the first delivery not named yet.
    pub unseen_from: Seq,
    /// The first journal row that the driver was not shown before: all of them, unless it kept the function.
    pub shown_from: Seq,
}

/// A function that was suspended and stays in its worker, which needs only the journal's newer rows to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub session: SessionId,
    /// The first journal row that it was not shown.
    pub shown_from: Seq,
}

/// The answer to the last Advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAdvance {
    /// Under which fence.
    pub fence: Fence,
    /// Which one.
    pub number: AdvanceNo,
    /// The answer.
    pub reply: Advanced,
}

/// Something that the function asked for and that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Which operation in code.
    pub key: StepKey,
    /// What it is.
    pub what: OpenKind,
}

/// What is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenKind {
    /// A step.
    Step(Arc<Step>),
    /// A timer.
    Timer {
        /// When it fires.
        due: Timestamp,
    },
    /// A wait for a signal.
    Wait {
        /// Which.
        signal: Name,
        /// When it times out.
        due: Option<Timestamp>,
        /// The question put to a person.
        ask: Option<String>,
        /// Since when.
        since: Timestamp,
    },
}

/// A live lease within a run, of whatever kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveLease {
    /// Whose.
    pub session: SessionId,
    /// Under which fence.
    pub fence: Fence,
    /// Of this attempt.
    pub timeout: Option<Millis>,
    /// Longest silence between heartbeats.
    pub heartbeat: Option<Millis>,
}

/// What of a run a lease may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Its function.
    Run,
    /// A step, or its probe.
    Step(IntentNo),
    /// The undo of a step.
    Undo(IntentNo),
}

impl Part {
    /// As work of this run.
    pub fn of(self, run: &RunId) -> Work {
        match self {
            Self::Run => Work::Run(run.clone()),
            Self::Step(intent) => Work::Step(run.clone(), intent),
            Self::Undo(intent) => Work::Undo(run.clone(), intent),
        }
    }
}

/// Work that waits for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyWork {
    /// Who may take it.
    pub needs: Needs,
    /// Since when.
    pub since: Timestamp,
    /// The session that should have it.
    pub prefers: Option<SessionId>,
    /// Only for a worker that holds nothing else.
    pub alone: bool,
}

/// What will move a run that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeSource {
    /// It waits for a worker.
    Ready,
    /// A lease is live.
    Lease,
    /// Something falls due.
    Deadline,
    /// A signal may come.
    Subscription,
    /// A place at a limit.
    Limit,
    /// A person.
    Held,
}

/// Deaths after which a run is given only to a worker that holds nothing else.
const DEATHS_BEFORE_ALONE: usize = 2;
/// Requests remembered for their repeats; a person does not have more under way at one run.
const REQUESTS_REMEMBERED_MAX: usize = 8;

impl Run {
    /// As the contract names it (§2).
    pub fn status(&self) -> Status {
        match &self.mode {
            Mode::Scheduled { .. } => Status::Scheduled,
            Mode::Live if self.drive.is_some() => Status::Running,
            Mode::Live if self.ready.is_some() => Status::Ready,
            Mode::Live => Status::Waiting,
            Mode::Undoing { .. } => Status::Undoing,
            Mode::Paused { .. } => Status::Paused,
            Mode::Quarantined { .. } => Status::Quarantined,
        }
    }

    /// Whether its function may go on.
    pub fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live)
    }

    /// Where it would go on if it were held still now.
    pub fn back(&self) -> Back {
        match &self.mode {
            Mode::Scheduled { at } => Back::Scheduled { at: *at },
            Mode::Live => Back::Live,
            Mode::Undoing { end } => Back::Undoing { end: end.clone() },
            Mode::Paused { back, .. } | Mode::Quarantined { back, .. } => back.clone(),
        }
    }

    /// Holds it still, keeping where it was. What holds it already goes on holding it: a person's pause is not the
    /// system's to lift, and a quarantine says more than a pause.
    pub fn pause(&mut self, reason: String, by_system: bool) {
        if matches!(self.mode, Mode::Paused { .. } | Mode::Quarantined { .. }) {
            return;
        }
        self.mode = Mode::Paused {
            reason,
            by_system,
            back: self.back(),
        };
    }

    /// Marks it as dangerous; its driver's lease ends.
    pub fn quarantine(&mut self, evidence: String) {
        self.mode = Mode::Quarantined {
            evidence,
            back: self.back(),
        };
        self.drive = None;
    }

    /// Lets it go on where it was held. Its function is woken, since it may have missed something.
    pub fn resume(&mut self, now: Timestamp) {
        self.mode = match self.back() {
            Back::Scheduled { at } => Mode::Scheduled { at },
            Back::Live => Mode::Live,
            Back::Undoing { end } => Mode::Undoing { end },
        };
        self.suspects.clear();
        self.panics = 0;
        if self.is_live() && self.drive.is_none() {
            self.ready = Some(now);
        }
    }

    /// Something came for its function: the next driver sees it in the journal.
    pub fn wake(&mut self, now: Timestamp) {
        if self.drive.is_none() && self.ready.is_none() {
            self.ready = Some(now);
        }
    }

    /// The step with this number, if it is open.
    pub fn step(&self, intent: IntentNo) -> Option<&Step> {
        match self.open.get(&intent).map(|open| &open.what) {
            Some(OpenKind::Step(step)) => Some(step),
            Some(OpenKind::Timer { .. } | OpenKind::Wait { .. }) | None => None,
        }
    }

    /// The step with this number, to change it.
    pub fn step_mut(&mut self, intent: IntentNo) -> Option<&mut Step> {
        match self.open.get_mut(&intent).map(|open| &mut open.what) {
            Some(OpenKind::Step(step)) => Some(Arc::make_mut(step)),
            Some(OpenKind::Timer { .. } | OpenKind::Wait { .. }) | None => None,
        }
    }

    /// All open steps.
    pub fn steps(&self) -> impl Iterator<Item = (IntentNo, &Step)> {
        self.open
            .iter()
            .filter_map(|(intent, open)| match &open.what {
                OpenKind::Step(step) => Some((*intent, &**step)),
                OpenKind::Timer { .. } | OpenKind::Wait { .. } => None,
            })
    }

    /// The undo that is to be done next: the newest, once its step is over.
    pub fn undo_at_hand(&self) -> Option<&Owed> {
        let oldest_first = seeded::armed(Bug::UndoInWrongOrder);
        let owed = if oldest_first {
            self.undos.iter().find(|owed| self.owes(owed))?
        } else {
            self.undos.iter().rev().find(|owed| self.owes(owed))?
        };
        let early = seeded::armed(Bug::UndoBeforeStepEnded);
        let step_is_over = self.step(owed.intent).is_none();
        (step_is_over || early).then_some(owed)
    }

    /// Whether this undo must be done before the run may end.
    pub fn owes(&self, owed: &Owed) -> bool {
        match &self.back() {
            Back::Undoing {
                end: End::Completed(_),
            } => owed.withdrawn,
            Back::Undoing { .. } => true,
            Back::Live | Back::Scheduled { .. } => false,
        }
    }

    /// Whether any step is executed by a worker now.
    pub fn has_leased_step(&self) -> bool {
        self.steps().any(|(_, step)| step.tries.lease().is_some())
    }

    /// Whether its driver has, or may soon have, a step to execute.
    pub fn has_local_work(&self) -> bool {
        self.steps().any(|(_, step)| {
            step.is_local()
                && matches!(
                    step.tries.state,
                    TryState::Leased(_) | TryState::Scheduled { .. }
                )
        })
    }

    /// Local steps under lease.
    pub fn local_in_flight(&self) -> u32 {
        let leased = self
            .steps()
            .filter(|(_, step)| step.is_local() && step.tries.lease().is_some());
        u32::try_from(leased.count()).unwrap_or(u32::MAX)
    }

    /// Whether this ask was answered before.
    pub fn remembers(&self, request: &RequestId) -> bool {
        self.requests.contains(request)
    }

    /// Remembers an ask that has no identity of its own.
    pub fn remember(&mut self, request: &RequestId) {
        if self.requests.len() == REQUESTS_REMEMBERED_MAX {
            self.requests.remove(0);
        }
        self.requests.push(request.clone());
    }

    /// Whether it may be given only to a worker that holds nothing else.
    pub fn is_alone(&self) -> bool {
        self.suspects.len() >= DEATHS_BEFORE_ALONE
    }

    /// Live leases in it.
    pub fn leases(&self) -> Vec<(Work, LiveLease)> {
        let leases = self.leased_parts();
        leases
            .map(|(part, lease)| (part.of(&self.id), lease))
            .collect()
    }

    /// Live leases in it, in the order of its parts.
    pub fn leased_parts(&self) -> impl Iterator<Item = (Part, LiveLease)> {
        let drive = self.drive.iter().map(|drive| {
            let lease = LiveLease {
                session: drive.session,
                fence: drive.fence,
                timeout: None,
                heartbeat: None,
            };
            (Part::Run, lease)
        });
        let steps = self.steps().filter_map(|(intent, step)| {
            let lease = step.tries.lease()?;
            let live = live(lease, step.timeout, step.heartbeat);
            Some((Part::Step(intent), live))
        });
        let undos = self.undos.iter().filter_map(|owed| {
            let lease = owed.tries.as_ref().and_then(Tries::lease)?;
            Some((Part::Undo(owed.intent), live(lease, None, None)))
        });
        drive.chain(steps).chain(undos)
    }

    /// Work in it that waits for a worker.
    pub fn ready_work(&self) -> Vec<(Work, ReadyWork)> {
        let mut work = Vec::new();
        if let (Mode::Live, None, Some(since)) = (&self.mode, &self.drive, self.ready) {
            let ready = ReadyWork {
                needs: Needs::Workflow(self.workflow.clone(), self.version),
                since,
                prefers: self.kept.map(|kept| kept.session),
                alone: self.is_alone(),
            };
            work.push((Work::Run(self.id.clone()), ready));
        }
        if self.is_live() {
            self.ready_steps(&mut work);
        }
        if matches!(self.mode, Mode::Undoing { .. }) {
            self.ready_undo(&mut work);
        }
        work
    }

    fn ready_steps(&self, work: &mut Vec<(Work, ReadyWork)>) {
        for (intent, step) in self.steps() {
            let TryState::Scheduled { since } = step.tries.state else {
                continue;
            };
            let needs = match (step.is_local(), &self.drive) {
                (true, Some(drive)) => Needs::Session(drive.session),
                (true, None) => continue, // granted along with the run
                (false, _) => Needs::Step {
                    queue: step.queue.clone().unwrap_or_else(|| self.queue.clone()),
                    step: step.executes().clone(),
                },
            };
            let ready = ReadyWork {
                since,
                prefers: None,
                alone: self.is_alone() && !matches!(needs, Needs::Session(_)), // its driver holds the run itself
                needs,
            };
            work.push((Work::Step(self.id.clone(), intent), ready));
        }
    }

    fn ready_undo(&self, work: &mut Vec<(Work, ReadyWork)>) {
        let Some(owed) = self.undo_at_hand() else {
            return;
        };
        if let Some(Tries {
            state: TryState::Scheduled { since },
            ..
        }) = &owed.tries
        {
            let needs = Needs::Step {
                queue: owed.queue.clone(),
                step: owed.undo.clone(),
            };
            let ready = ReadyWork {
                needs,
                since: *since,
                prefers: None,
                alone: false,
            };
            work.push((Work::Undo(self.id.clone(), owed.intent), ready));
        }
    }

    /// Steps that wait for a place at a limit, with their place.
    pub fn limit_waits(&self) -> Vec<(LimitName, (u64, u32), Work)> {
        if !self.is_live() {
            return Vec::new();
        }
        let mut waits = Vec::new();
        for (intent, step) in self.steps() {
            if let TryState::AtLimit { ticket, .. } = step.tries.state {
                let work = Work::Step(self.id.clone(), intent);
                waits.extend(
                    step.limits
                        .iter()
                        .map(|l| (l.clone(), ticket, work.clone())),
                );
            }
        }
        waits
    }

    /// Since when a step waits for a place at its limits.
    pub fn waits_at_limits_since(&self, work: &Work) -> Option<Timestamp> {
        let Work::Step(_, intent) = work else {
            return None;
        };
        match self.step(*intent)?.tries.state {
            TryState::AtLimit { since, .. } => Some(since),
            TryState::Scheduled { .. }
            | TryState::Leased(_)
            | TryState::Backoff { .. }
            | TryState::Held => None,
        }
    }

    /// The next moment at which something in it falls due.
    pub fn next_due(&self) -> Option<Timestamp> {
        let own = match &self.mode {
            Mode::Scheduled { at } => Some(*at),
            Mode::Live => self.due,
            Mode::Paused {
                back: Back::Live, ..
            }
            | Mode::Quarantined {
                back: Back::Live, ..
            }
            | Mode::Undoing { .. }
            | Mode::Paused { .. }
            | Mode::Quarantined { .. } => None,
        };
        let undo = match (
            &self.mode,
            self.undo_at_hand().and_then(|owed| owed.tries.as_ref()),
        ) {
            (
                Mode::Undoing { .. },
                Some(Tries {
                    state: TryState::Backoff { until, .. },
                    ..
                }),
            ) => Some(*until),
            _ => None,
        };
        let open = if self.is_live() {
            self.open.values().filter_map(Open::next_due).min()
        } else {
            None
        };
        [own, undo, open].into_iter().flatten().min()
    }

    /// What will move it; none breaks the wake-source invariant.
    pub fn wake_source(&self) -> Option<WakeSource> {
        match &self.mode {
            Mode::Paused { .. } | Mode::Quarantined { .. } => return Some(WakeSource::Held),
            Mode::Scheduled { .. } | Mode::Live | Mode::Undoing { .. } => {}
        }
        if !self.ready_work().is_empty() {
            return Some(WakeSource::Ready);
        }
        if !self.leases().is_empty() {
            return Some(WakeSource::Lease);
        }
        if self.next_due().is_some() {
            return Some(WakeSource::Deadline);
        }
        if !self.limit_waits().is_empty() {
            return Some(WakeSource::Limit);
        }
        let waits = self.is_live()
            && self
                .open
                .values()
                .any(|open| matches!(open.what, OpenKind::Wait { .. }));
        waits.then_some(WakeSource::Subscription)
    }
}

impl Open {
    /// When it falls due, if time moves it.
    pub fn next_due(&self) -> Option<Timestamp> {
        match &self.what {
            OpenKind::Timer { due } => Some(*due),
            OpenKind::Wait { due, .. } => *due,
            OpenKind::Step(step) => match &step.tries.state {
                TryState::Backoff { until, .. } => Some(*until),
                TryState::AtLimit { .. }
                | TryState::Scheduled { .. }
                | TryState::Leased(_)
                | TryState::Held => None,
            },
        }
    }
}

fn live(lease: &StepLease, timeout: Option<Millis>, heartbeat: Option<Millis>) -> LiveLease {
    LiveLease {
        session: lease.session,
        fence: lease.fence,
        timeout,
        heartbeat,
    }
}

/// A run once it is final. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The caller's name for it.
    pub id: RunId,
    /// Which life of that id.
    pub generation: Generation,
    /// What it ran.
    pub workflow: Name,
    /// The version it was pinned to.
    pub version: Version,
    /// Of its input.
    pub digest: Digest,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How.
    pub end: End,
    /// Journal rows.
    pub rows: Seq,
    /// The answer to its last Advance, for its repeat.
    pub last: Option<LastAdvance>,
    /// Its time is over: its output, input, journal, views and places in lists are gone.
    pub forgotten: bool,
}

impl Finished {
    /// What of it is kept now.
    pub fn keeps(&self) -> Keeps {
        match &self.end {
            _ if self.forgotten => Keeps::Id,
            End::Completed(_) => Keeps::Completed,
            End::Failed { .. } | End::Cancelled(_) | End::Terminated { .. } | End::TimedOut => {
                Keeps::Failed
            }
        }
    }
}

/// A worker process as one partition knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
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
    /// How many at once.
    pub slots: u32,
    /// When it attached first.
    pub since: Timestamp,
    /// Its worker has left for good: it gets nothing more, and ends with the last of its leases.
    pub leaving: bool,
}

/// A workflow's name: without this row no run of it can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    /// Its name.
    pub name: Name,
    /// The version that new runs take.
    pub current: Version,
}

/// A registered version, with exact counts of its open runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// Of which workflow.
    pub name: Name,
    /// Its number.
    pub version: Version,
    /// Where it was registered.
    pub queue: Name,
    /// Open runs by status; exact at every position.
    pub open: BTreeMap<Status, u64>,
}

/// A signal that waits until the run takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffered {
    /// Its id.
    pub id: RequestId,
    /// What it says.
    pub payload: Bytes,
}

/// What the group knows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// The group clock: never goes back.
    pub clock: Timestamp,
    /// Log index of the `BecomeLeader` applied last.
    pub epoch: u64,
    /// Of the process that leads.
    pub boot: Option<Name>,
    /// Raised by a restore alone.
    pub incarnation: u8,
}
