//! Random histories: every command of the core, in every order, from a seed. Used by `replay` and `model`.
//!
//! What is asked next is chosen from the rows, so that most of it fits; some of it is late, repeated or foreign on purpose.
//! Not here: judging (`replay`, `model`).

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_scheduler::{
    apply::{Applied, apply},
    effect::Effect,
    entry::*,
    ids::*,
    invariants,
    orders::Orders,
    reply::*,
    rows::{MemRows, TypedRows},
    time::{Millis, Timestamp},
    values::{
        run::{Mode, Run},
        step::Tries,
    },
    views,
};

/// Entries of one history.
const ENTRIES: usize = 250;

/// Seeds to look at: `SEED=n` for one, `SEEDS=from..to` for many.
pub fn seeds(upto: u64) -> std::ops::Range<u64> {
    let one = chosen("SEED").and_then(|seed| seed.parse::<u64>().ok());
    if let Some(one) = one {
        return one..one + 1;
    }
    let chosen = chosen("SEEDS").unwrap_or_default();
    let (from, to) = chosen.split_once("..").unwrap_or(("", ""));
    from.parse().unwrap_or(0)..to.parse().unwrap_or(upto)
}

#[expect(
    clippy::disallowed_methods,
    reason = "which seeds to look at is no setting of a replica"
)]
fn chosen(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The history of a seed.
pub fn history(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..ENTRIES {
        world.go_on();
    }
    world
}

/// Numbers from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Of 0..n.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// In so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let n = of.len() as u64;
        (n > 0).then(|| of[usize::try_from(self.below(n)).unwrap()].clone())
    }
}

pub fn name(text: &str) -> Name {
    Name::from_stored(text)
}

fn text(of: &str) -> Bytes {
    Bytes::copy_from_slice(of.as_bytes())
}

const LIMITS: [&str; 2] = ["api", "erp"];

/// One entry and what it came to.
pub struct Told {
    pub at: LogIndex,
    pub entry: Entry,
    pub applied: Applied,
}

/// A group with a leader that does its duties when the dice say so.
pub struct World {
    pub dice: Dice,
    pub rows: MemRows,
    pub orders: Orders,
    pub log: Vec<Told>,
    pub now: Timestamp,
    pub epoch: Epoch,
    /// When to look at limits next, as the leader knows it from effects alone.
    pub looks: BTreeMap<LimitName, Timestamp>,
    asked: u64,
    processes: u64,
    last_advance: Option<Advance>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            dice: Dice::new(seed),
            rows: MemRows::default(),
            orders: Orders::default(),
            log: Vec::new(),
            now: Timestamp(1_000_000),
            epoch: Epoch(0),
            looks: BTreeMap::new(),
            asked: 0,
            processes: 0,
            last_advance: None,
        };
        world.new_leader();
        world.ask(Ask::Attach(attach("p0", None)));
        world
    }

    pub fn new_leader(&mut self) {
        self.apply(Body::BecomeLeader(BecomeLeader {
            node: NodeId(1),
            incarnation: name("i"),
            boot: name("b"),
            levels: (FeatureLevel(1), FeatureLevel(1)),
            anchor: self.now,
        }));
        self.epoch = Epoch(self.log.len() as u64);
    }

    /// Applies an entry, checks every invariant, and follows the effects as a leader would.
    pub fn apply(&mut self, body: Body) -> Applied {
        let at = LogIndex(self.log.len() as u64 + 1);
        let level = FeatureLevel(1);
        let entry = Entry { level, body };
        let applied = apply(&mut self.rows, &mut self.orders, at, &entry).unwrap();
        let broken = invariants::check(&self.rows, &self.orders).unwrap();
        assert!(broken.is_empty(), "{broken:#?}\nafter {at}: {entry:#?}");
        assert!(
            !applied.replies.contains(&Reply::Quarantined),
            "a rule of ours was broken at {at}: {entry:#?}"
        );
        for effect in &applied.effects {
            if let Effect::LimitWaits { limit, at } = effect {
                let next = self.looks.entry(limit.clone()).or_insert(*at);
                *next = (*next).min(*at);
            }
        }
        self.log.push(Told {
            at,
            entry,
            applied: applied.clone(),
        });
        applied
    }

    pub fn batch(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let (epoch, proposed_at) = (self.epoch, self.now);
        let body = Body::Batch {
            epoch,
            proposed_at,
            commands,
        };
        self.apply(body).replies
    }

    pub fn ask(&mut self, ask: Ask) -> Reply {
        self.batch(vec![Command::Ask(ask)]).remove(0)
    }

    pub fn duty(&mut self, duty: Duty) -> Reply {
        self.batch(vec![Command::Duty(duty)]).remove(0)
    }

    /// One more entry, of one to three commands.
    pub fn go_on(&mut self) {
        if self.dice.chance(60) {
            let most = if self.dice.chance(5) { 200_000 } else { 700 };
            self.now = self.now.after(Millis(self.dice.below(most)));
        }
        if self.dice.chance(1) {
            return self.new_leader();
        }
        let count = 1 + self.dice.below(3);
        let commands = (0..count).map(|_| self.command()).collect();
        if self.dice.chance(2) {
            let body = Body::Batch {
                epoch: Epoch(self.epoch.0.saturating_sub(1)),
                proposed_at: Timestamp(0),
                commands,
            };
            self.apply(body);
        } else {
            self.batch(commands);
        }
    }

    pub fn runs(&self) -> Vec<std::sync::Arc<Run>> {
        views::live_runs(&self.rows).unwrap()
    }

    fn any_run(&mut self) -> RunId {
        RunId::from_stored(&format!("r{}", self.dice.below(5)))
    }

    fn session(&mut self) -> SessionId {
        let known = views::sessions(&self.rows).unwrap();
        let known: Vec<_> = known.iter().map(|session| session.id).collect();
        self.dice.pick(&known).unwrap_or_default()
    }

    fn request(&mut self) -> RequestId {
        if !self.dice.chance(10) {
            self.asked += 1;
        }
        RequestId::from_stored(&format!("q{}", self.asked))
    }

    fn command(&mut self) -> Command {
        match self.dice.below(100) {
            0..34 => self.grant().map(Command::Duty),
            34..62 => self.advance().map(|it| Command::Ask(Ask::Advance(it))),
            62..70 => self.report().map(|it| Command::Ask(Ask::Report(it))),
            70..82 => Some(Command::Duty(self.upkeep())),
            _ => None,
        }
        .unwrap_or_else(|| Command::Ask(self.other()))
    }

    fn grant(&mut self) -> Option<Duty> {
        let ready: Vec<Work> = self.orders.ready.keys().cloned().collect();
        let work = self.dice.pick(&ready)?;
        let session = match &self.orders.ready[&work].needs {
            holdfast_scheduler::effect::Needs::Session(session) => *session,
            _ => self.session(),
        };
        let free_slots = u32::try_from(self.dice.below(4)).unwrap();
        Some(Duty::Grant(Grant {
            work,
            session,
            free_slots,
        }))
    }

    fn upkeep(&mut self) -> Duty {
        match self.dice.below(10) {
            0..4 => Duty::FireDue {
                up_to: self.now,
                at_most: 1 + u32::try_from(self.dice.below(3)).unwrap(),
            },
            4..7 => {
                let waits: Vec<_> = self.orders.waits.keys().cloned().collect();
                let limit = self.dice.pick(&waits).unwrap_or_else(|| limit("erp"));
                let waiters = Vec::new();
                Duty::Admit(Admit { limit, waiters })
            }
            7 => Duty::Repair(self.any_run()),
            8 => match self.leased() {
                Some((Work::Run(run), fence)) => Duty::Expire(Expire::Drive { run, fence }),
                Some((work, fence)) => Duty::Expire(Expire::Attempt { work, fence }),
                None => Duty::Repair(self.any_run()),
            },
            _ => Duty::Expire(Expire::Session {
                session: self.session(),
                at_most: 1 + u32::try_from(self.dice.below(3)).unwrap(),
            }),
        }
    }

    fn leased(&mut self) -> Option<(Work, Fence)> {
        let leases: Vec<_> = self
            .orders
            .leases
            .values()
            .flatten()
            .map(|(work, lease)| (work.clone(), lease.fence))
            .collect();
        self.dice.pick(&leases)
    }

    fn advance(&mut self) -> Option<Advance> {
        if self.dice.chance(8) && self.last_advance.is_some() {
            return self.last_advance.clone(); // a repeat, or a late one
        }
        let runs = self.runs();
        let driven: Vec<_> = runs.iter().filter(|run| run.drive.is_some()).collect();
        let run = self.dice.pick(&driven)?;
        let it = self.advance_of(run);
        self.last_advance = Some(it.clone());
        Some(it)
    }

    fn advance_of(&mut self, run: &Run) -> Advance {
        let drive = run.drive.unwrap();
        let number = next_number(run);
        let seen = if self.dice.chance(80) {
            drive.delivery
        } else {
            drive.seen
        };
        let mut results = Vec::new();
        for (intent, step) in run.steps().filter(|(_, step)| step.is_local()) {
            if let Some(lease) = step.tries.lease()
                && self.dice.chance(60)
            {
                let fence = lease.fence;
                let outcome = self.outcome();
                results.push(StepResult {
                    intent,
                    fence,
                    outcome,
                });
            }
        }
        let count = self.dice.below(4);
        let mut intents: Vec<IntentKind> = (0..count).map(|_| self.intent()).collect();
        if self.dice.chance(12) {
            intents.push(self.ending());
        }
        let trouble = self.dice.chance(2).then(|| self.trouble());
        Advance {
            run: run.id.clone(),
            fence: drive.fence,
            number,
            seen,
            results,
            intents: numbered(run, intents),
            free_slots: u32::try_from(self.dice.below(4)).unwrap(),
            trouble,
        }
    }

    fn trouble(&mut self) -> Trouble {
        if self.dice.chance(80) {
            return Trouble::Panicked("oh".into());
        }
        let (expected, got) = ("a".to_owned(), "b".to_owned());
        Trouble::Diverged {
            key: key(0),
            expected,
            got,
        }
    }

    fn intent(&mut self) -> IntentKind {
        let any_signal = name(["go", "stop"][usize::try_from(self.dice.below(2)).unwrap()]);
        match self.dice.below(20) {
            0..12 => IntentKind::Step(self.spec()),
            12..15 => IntentKind::Timer(TimerSpec::After(Millis(self.dice.below(2_000)))),
            15..18 => IntentKind::Wait {
                signal: any_signal,
                timeout: self.dice.chance(50).then_some(Millis(1_000)),
                ask: None,
            },
            18 => IntentKind::Record(text("7")),
            _ => IntentKind::Publish {
                view: name("v"),
                value: text("8"),
            },
        }
    }

    fn ending(&mut self) -> IntentKind {
        if self.dice.chance(60) {
            return IntentKind::Complete(text("done"));
        }
        let (code, message) = ("NO".to_owned(), "no".to_owned());
        IntentKind::Fail { code, message }
    }

    fn spec(&mut self) -> StepSpec {
        let give_up = [GiveUp::Pause, GiveUp::Fail, GiveUp::Compensate];
        let retry = RetryPolicy {
            max_attempts: self.dice.chance(40).then_some(2),
            give_up: self.dice.pick(&give_up).unwrap(),
            give_up_after: Millis(if self.dice.chance(20) {
                1_000
            } else {
                86_400_000
            }),
            ..RetryPolicy::default()
        };
        let mut limits = Vec::new();
        for known in LIMITS {
            if self.dice.chance(25) {
                limits.push(limit(known));
            }
        }
        let certainty = match self.dice.below(5) {
            0 => Certainty::AtMostOnce,
            1 => Certainty::Reconcile(name("find")),
            _ => Certainty::AtLeastOnce,
        };
        StepSpec {
            step: name("charge"),
            queue: self.dice.chance(30).then(|| name("q")),
            input: text("{}"),
            retry,
            timeout: None,
            heartbeat: None,
            limits,
            certainty,
            undo: self.dice.chance(40).then(|| name("refund")),
            inline: false,
        }
    }

    pub fn outcome(&mut self) -> AttemptOutcome {
        let message = "oh".to_owned();
        match self.dice.below(20) {
            0..11 => AttemptOutcome::Done(text("ok")),
            11..14 => AttemptOutcome::Retryable {
                message,
                after: self.dice.chance(50).then_some(Millis(50)),
            },
            14 => AttemptOutcome::Terminal {
                code: "NO".into(),
                message,
            },
            15 => AttemptOutcome::Throttled {
                limit: limit(self.dice.pick(&LIMITS).unwrap()),
                after: Millis(300),
                message,
            },
            16 => AttemptOutcome::Panicked(message),
            17 => AttemptOutcome::Stopped,
            18 => AttemptOutcome::Absent,
            _ => AttemptOutcome::Unsure(message),
        }
    }

    fn report(&mut self) -> Option<Report> {
        let runs = self.runs();
        let mut open = Vec::new();
        for run in &runs {
            for (intent, step) in run.steps().filter(|(_, step)| !step.is_local()) {
                let lease = step.tries.lease();
                open.extend(lease.map(|lease| (run.id.clone(), intent, lease.fence)));
            }
            for owed in &run.undos {
                let lease = owed.tries.as_ref().and_then(Tries::lease);
                open.extend(lease.map(|lease| (run.id.clone(), owed.intent, lease.fence)));
            }
        }
        let (run, intent, fence) = self.dice.pick(&open)?;
        let outcome = self.outcome();
        Some(Report {
            run,
            result: StepResult {
                intent,
                fence,
                outcome,
            },
        })
    }

    fn change(&mut self) -> Change {
        Change {
            run: self.any_run(),
            reason: "because".into(),
            request: self.request(),
        }
    }

    fn start(&mut self) -> Start {
        let if_ended = [
            IfEnded::ReturnResult,
            IfEnded::Reject,
            IfEnded::NewGeneration,
            IfEnded::NewGeneration,
        ];
        Start {
            run: self.any_run(),
            workflow: name("order"),
            input: text("1"),
            digest: Digest(u64::from(self.dice.chance(5))),
            at: self.dice.chance(10).then(|| self.now.after(Millis(400))),
            timeout: self.dice.chance(15).then_some(Millis(5_000)),
            if_ended: self.dice.pick(&if_ended).unwrap(),
            signal: self
                .dice
                .chance(20)
                .then(|| (name("go"), self.request(), text("1"))),
        }
    }

    fn other(&mut self) -> Ask {
        match self.dice.below(40) {
            0..10 => Ask::Start(self.start()),
            10..16 => Ask::Signal(Signal {
                run: self.any_run(),
                name: name(["go", "stop"][usize::try_from(self.dice.below(2)).unwrap()]),
                id: self.request(),
                payload: text("1"),
            }),
            16..18 => Ask::Cancel(self.change()),
            18 => Ask::Terminate(self.change()),
            19..22 => Ask::Pause(self.change()),
            22..28 => Ask::Resume(self.change()),
            28..31 => Ask::Retry(Retry {
                run: self.any_run(),
                step: self.dice.chance(50).then(|| name("charge")),
                request: self.request(),
            }),
            31 | 32 => self.attach(),
            33 => self.give_back(),
            34 => Ask::Detach(self.session()),
            35 => Ask::Deploy(Deploy {
                workflow: name("order"),
                version: Version(1 + u32::try_from(self.dice.below(3)).unwrap()),
                request: self.request(),
            }),
            36 => Ask::SetLimit(SetLimit {
                name: limit(self.dice.pick(&LIMITS).unwrap()),
                spec: self.limit_spec(),
                request: self.request(),
            }),
            37 => match self.leased() {
                Some((Work::Step(run, intent) | Work::Undo(run, intent), fence)) => {
                    Ask::Progress(Progress {
                        run,
                        intent,
                        fence,
                        progress: text("half"),
                    })
                }
                _ => Ask::Noop(Bytes::new()),
            },
            _ => Ask::Noop(Bytes::new()),
        }
    }

    fn limit_spec(&mut self) -> LimitSpec {
        LimitSpec {
            rate: self.dice.chance(50).then_some((8, Millis(1_000))), // a quarter of it is whole, too
            burst: 2,
            concurrency: self.dice.chance(60).then_some(2),
        }
    }

    fn attach(&mut self) -> Ask {
        if self.dice.chance(30) {
            let known = views::sessions(&self.rows).unwrap();
            if let Some(known) = self.dice.pick(&known) {
                return Ask::Attach(attach(known.process.as_str(), Some(known.id)));
            }
        }
        self.processes += u64::from(self.dice.chance(80));
        let mut it = attach(&format!("p{}", self.processes), None);
        if self.dice.chance(20) {
            it.queue = name("elsewhere");
        }
        if self.dice.chance(30) {
            let most = 2 + usize::try_from(self.dice.below(2)).unwrap();
            it.workflows.truncate(most - 1);
            it.steps.truncate(most);
        }
        Ask::Attach(it)
    }

    fn give_back(&mut self) -> Ask {
        let (mut runs, mut steps) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            match self.leased() {
                Some((Work::Run(run), fence)) => runs.push((run, fence)),
                Some((Work::Step(run, intent) | Work::Undo(run, intent), fence)) => {
                    steps.push((run, intent, fence));
                }
                None => {}
            }
        }
        Ask::Return(Return { runs, steps })
    }
}

pub fn limit(of: &str) -> LimitName {
    LimitName::from_stored(of)
}

fn key(n: u32) -> StepKey {
    StepKey {
        scope: "0".into(),
        name: format!("op{n}").as_str().into(),
        occurrence: 0,
    }
}

/// The number of the Advance that its driver may send next.
pub fn next_number(run: &Run) -> AdvanceNo {
    let fence = run.drive.unwrap().fence;
    let last = run.last.as_ref().filter(|last| last.fence == fence);
    AdvanceNo(last.map_or(1, |last| last.number.0 + 1))
}

pub fn numbered(run: &Run, kinds: Vec<IntentKind>) -> Vec<Intent> {
    (run.next_intent.0..)
        .zip(kinds)
        .map(|(n, kind)| Intent {
            number: IntentNo(n),
            key: key(n),
            digest: Digest(0),
            kind,
        })
        .collect()
}

pub fn attach(process: &str, session: Option<SessionId>) -> Attach {
    let steps = ["charge", "refund", "find"];
    Attach {
        session,
        process: ProcessId::from_stored(process),
        worker: name(process),
        queue: name("q"),
        workflows: (1..=2).map(|v| (name("order"), Version(v))).collect(),
        steps: steps.iter().map(|step| name(step)).collect(),
        limits: Vec::new(),
        slots: 10,
    }
}

/// Whether a run is held still, by whom does not matter.
pub fn is_held(run: &Run) -> bool {
    matches!(run.mode, Mode::Paused { .. } | Mode::Quarantined { .. })
}

/// A world without trouble: workers answer, the leader does its duties, people let held runs go on. Every run must end.
pub fn bring_to_an_end(world: &mut World) {
    let Reply::Attached { session, .. } = world.ask(Ask::Attach(attach("last", None))) else {
        panic!("a new worker was refused");
    };
    for (n, _) in (0..400).enumerate() {
        let runs = world.runs();
        if runs.is_empty() {
            return;
        }
        world.now = world.now.after(Millis(30_000));
        let up_to = world.now;
        world.duty(Duty::FireDue {
            up_to,
            at_most: 100,
        });
        let due: Vec<_> = world
            .looks
            .iter()
            .filter(|(_, at)| **at <= up_to)
            .map(|(limit, _)| limit.clone())
            .collect();
        for limit in due {
            world.looks.remove(&limit);
            let waiters = Vec::new();
            world.duty(Duty::Admit(Admit { limit, waiters }));
        }
        for run in runs.iter().filter(|run| is_held(run)) {
            let request = RequestId::from_stored(&format!("end{n}"));
            world.ask(Ask::Resume(Change {
                run: run.id.clone(),
                reason: String::new(),
                request,
            }));
        }
        for (work, ready) in world.orders.ready.clone() {
            let session = match ready.needs {
                holdfast_scheduler::effect::Needs::Session(session) => session,
                _ => session,
            };
            let free_slots = 10;
            world.duty(Duty::Grant(Grant {
                work,
                session,
                free_slots,
            }));
        }
        for run in world.runs() {
            answer_all(world, &run);
        }
    }
    let stuck: Vec<_> = world.runs();
    assert!(stuck.is_empty(), "these never end: {stuck:#?}");
}

/// Every lease in a run comes to something good, and its function to its end.
fn answer_all(world: &mut World, run: &Run) {
    let done = |intent, fence| StepResult {
        intent,
        fence,
        outcome: AttemptOutcome::Done(text("ok")),
    };
    if let Some(drive) = run.drive {
        let local = run.steps().filter(|(_, step)| step.is_local());
        let results =
            local.filter_map(|(intent, step)| Some(done(intent, step.tries.lease()?.fence)));
        let ends = run.steps().next().is_none();
        let intents = if ends && run.is_live() {
            vec![IntentKind::Complete(text("done"))]
        } else {
            Vec::new()
        };
        world.ask(Ask::Advance(Advance {
            run: run.id.clone(),
            fence: drive.fence,
            number: next_number(run),
            seen: drive.delivery,
            results: results.collect(),
            intents: numbered(run, intents),
            free_slots: 10,
            trouble: None,
        }));
    }
    for (work, lease) in run.leases() {
        if let Work::Step(run, intent) | Work::Undo(run, intent) = work {
            let result = done(intent, lease.fence);
            world.ask(Ask::Report(Report { run, result }));
        }
    }
    // A function that waits for a signal and nothing else gets it.
    if let Some(live) = world.rows.run(&run.id).unwrap()
        && live.is_live()
    {
        for signal in ["go", "stop"] {
            world.asked += 1;
            let id = RequestId::from_stored(&format!("end-{}", world.asked));
            world.ask(Ask::Signal(Signal {
                run: run.id.clone(),
                name: name(signal),
                id,
                payload: text("1"),
            }));
        }
    }
}
