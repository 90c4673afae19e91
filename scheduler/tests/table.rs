//! Tables: every state of a run and of a step × every event, one reviewed text each (`table/runs.txt`, `table/steps.txt`).
//!
//! A state or an event that is new breaks the build (the matches have no `_`) or the test (each name must have a scene).
//! `UPDATE=1 cargo test -p holdfast-scheduler --test table` rewrites the texts; read every changed line before it counts.

#![allow(
    missing_docs,
    clippy::wildcard_imports,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::unused_self,
    clippy::assigning_clones,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "tests"
)]

#[path = "stories/story.rs"]
mod story;

use std::{collections::BTreeSet, fmt::Write as _};

use holdfast_scheduler::{
    entry::*,
    ids::*,
    reply::*,
    rows::TypedRows,
    time::{Millis, Timestamp},
    values::{
        run::{Back, Mode, Run},
        step::{Phase, Tries, TryState},
    },
    views::{self, AnyRun},
};
use story::*;

/// A function that names every variant, and the list of its names.
macro_rules! named {
    ($all:ident, $of:ident($type:ty), $($pattern:pat => $name:literal,)*) => {
        const $all: &[&str] = &[$($name),*];
        fn $of(it: &$type) -> &'static str {
            match it { $($pattern => $name,)* }
        }
    };
}

named!(RUN_STATES, run_state((Option<&Mode>, Option<Status>)),
    (None, None) => "none",
    (Some(Mode::Scheduled { .. }), _) => "scheduled",
    (Some(Mode::Live), Some(Status::Ready)) => "ready",
    (Some(Mode::Live), Some(Status::Running)) => "running",
    (Some(Mode::Live), _) => "waiting",
    (Some(Mode::Undoing { .. }), _) => "undoing",
    (Some(Mode::Paused { back: Back::Scheduled { .. }, .. }), _) => "paused before its time",
    (Some(Mode::Paused { back: Back::Live, .. }), _) => "paused",
    (Some(Mode::Paused { back: Back::Undoing { .. }, .. }), _) => "paused while undoing",
    (Some(Mode::Quarantined { back: Back::Scheduled { .. }, .. }), _) => "quarantined before its time",
    (Some(Mode::Quarantined { back: Back::Live, .. }), _) => "quarantined",
    (Some(Mode::Quarantined { back: Back::Undoing { .. }, .. }), _) => "quarantined while undoing",
    (None, Some(Status::Completed)) => "completed",
    (None, Some(Status::Failed)) => "failed",
    (None, Some(Status::Cancelled)) => "cancelled",
    (None, Some(Status::Terminated)) => "terminated",
    (None, Some(Status::TimedOut)) => "timed out",
    (None, Some(Status::Scheduled | Status::Ready | Status::Running | Status::Waiting | Status::Paused
        | Status::Quarantined | Status::Undoing)) => "final and live at once",
);
/// No command leads there: only a command that breaks a rule of ours quarantines a run that has not begun.
const UNREACHED: [&str; 2] = ["quarantined before its time", "final and live at once"];

named!(COMMANDS, command_name(Command),
    Command::Ask(Ask::Start(_)) => "start",
    Command::Ask(Ask::Signal(_)) => "signal",
    Command::Ask(Ask::Cancel(_)) => "cancel",
    Command::Ask(Ask::Terminate(_)) => "terminate",
    Command::Ask(Ask::Pause(_)) => "pause",
    Command::Ask(Ask::Resume(_)) => "resume",
    Command::Ask(Ask::Retry(_)) => "retry",
    Command::Ask(Ask::Attach(_)) => "attach",
    Command::Ask(Ask::Advance(_)) => "advance",
    Command::Ask(Ask::Report(_)) => "report",
    Command::Ask(Ask::Progress(_)) => "progress",
    Command::Ask(Ask::Return(_)) => "return",
    Command::Ask(Ask::Detach(_)) => "detach",
    Command::Ask(Ask::Deploy(_)) => "deploy",
    Command::Ask(Ask::SetLimit(_)) => "set limit",
    Command::Ask(Ask::Noop(_)) => "noop",
    Command::Duty(Duty::Grant(_)) => "grant",
    Command::Duty(Duty::Admit(_)) => "admit",
    Command::Duty(Duty::Expire(Expire::Session { .. })) => "expire session",
    Command::Duty(Duty::Expire(Expire::Attempt { .. })) => "expire attempt",
    Command::Duty(Duty::Expire(Expire::Drive { .. })) => "expire drive",
    Command::Duty(Duty::FireDue { .. }) => "fire due",
    Command::Duty(Duty::Collect(_)) => "collect",
    Command::Duty(Duty::Repair(_)) => "repair",
);

named!(OUTCOMES, outcome_name(AttemptOutcome),
    AttemptOutcome::Done(_) => "done",
    AttemptOutcome::Retryable { .. } => "retryable",
    AttemptOutcome::Terminal { .. } => "terminal",
    AttemptOutcome::Throttled { .. } => "throttled",
    AttemptOutcome::Panicked(_) => "panicked",
    AttemptOutcome::Stopped => "stopped",
    AttemptOutcome::Absent => "absent",
    AttemptOutcome::Unsure(_) => "unsure",
);

named!(TRY_STATES, try_state(TryState),
    TryState::AtLimit { .. } => "at its limit",
    TryState::Scheduled { .. } => "scheduled",
    TryState::Leased(_) => "leased",
    TryState::Backoff { .. } => "in backoff",
    TryState::Held => "held",
);

/// What is tried: by whom and why decides what its events mean.
const TRIED: [&str; 4] = ["local step", "step of a queue", "probe", "undo"];
/// Probes and undos pass no limit.
const NEVER: [(&str, &str); 2] = [("probe", "at its limit"), ("undo", "at its limit")];

/// A story in which run `r` is in some state.
#[derive(Clone)]
struct Scene {
    story: Story,
    worker: SessionId,
    driven: Option<Driven>,
}

impl Scene {
    fn new() -> Self {
        let mut story = Story::new();
        let worker = story.worker("w1");
        Self {
            story,
            worker,
            driven: None,
        }
    }

    /// Run `r` has started.
    fn started() -> Self {
        let mut scene = Self::new();
        scene.story.start("r");
        scene
    }

    /// Run `r` is driven, and has asked for this.
    fn driven(intents: Vec<IntentKind>) -> Self {
        let mut scene = Self::started();
        scene.drive();
        scene.go_on(vec![], intents)
    }

    fn drive(&mut self) {
        self.driven = Some(self.story.drive(&id(), self.worker));
    }

    fn go_on(mut self, results: Vec<StepResult>, intents: Vec<IntentKind>) -> Self {
        let driven = self.driven.as_mut().unwrap();
        if !(results.is_empty() && intents.is_empty()) {
            self.story.advance(driven, results, intents);
        }
        self
    }

    fn done(&self, intent: u32) -> StepResult {
        self.driven.as_ref().unwrap().done(intent)
    }

    fn also(mut self, command: impl FnOnce(&Self) -> Command) -> Self {
        let command = command(&self);
        let _ = self.tell(command);
        self
    }

    fn tell(&mut self, command: Command) -> Reply {
        self.story.batch(self.story.epoch, vec![command]).remove(0)
    }

    fn after(mut self, ms: u64) -> Self {
        self.story.wait(ms).fire();
        self
    }

    fn any(&self) -> Option<AnyRun> {
        views::run(&self.story.rows, &id()).unwrap()
    }

    fn live(&self) -> Option<std::sync::Arc<Run>> {
        self.story.rows.run(&id()).unwrap()
    }

    fn state(&self) -> &'static str {
        match self.any() {
            Some(AnyRun::Live(run)) => run_state(&(Some(&run.mode), Some(run.status()))),
            any => run_state(&(None, any.map(|any| any.status()))),
        }
    }

    /// The step or undo that the scene is about, and its live fence.
    fn fence(&self) -> Fence {
        let lease = |tries: &Tries| tries.lease().map(|lease| lease.fence);
        let live = self.live();
        let of_step = live.iter().flat_map(|run| run.steps());
        let of_undo = live.iter().flat_map(|run| &run.undos);
        let fences = of_step.map(|(_, step)| &step.tries);
        let mut fences = fences.chain(of_undo.filter_map(|owed| owed.tries.as_ref()));
        fences.find_map(lease).unwrap_or(Fence::from_wire(1))
    }

    fn drive_fence(&self) -> Fence {
        let live = self.live().and_then(|run| run.drive);
        live.map_or(Fence::from_wire(1), |drive| drive.fence)
    }

    /// The Advance that the living driver would send.
    fn advance(&self, results: Vec<StepResult>, intents: Vec<IntentKind>) -> Advance {
        let run = self.live();
        let last = run.as_ref().and_then(|run| run.last.as_ref());
        let fence = self.drive_fence();
        let number = last.filter(|last| last.fence == fence);
        let mut driven = Driven {
            run: id(),
            fence,
            number: number.map_or(0, |last| last.number.0),
            next: run.as_ref().map_or(0, |run| run.next_intent.0),
            seen: run.and_then(|run| run.drive).map_or(0, |it| it.delivery.0),
            grants: Vec::new(),
        };
        driven.next_advance(results, intents)
    }

    /// What people would see of it, in a line.
    fn look(&self) -> String {
        let mut line = self.state().to_owned();
        match self.any() {
            None => {}
            Some(AnyRun::Final(done)) => match &done.end {
                End::Failed { code, .. } => write!(line, " [{code}]").unwrap(),
                End::Terminated { not_undone, .. } if !not_undone.is_empty() => {
                    write!(line, ", not undone: {}", not_undone.join(", ")).unwrap();
                }
                End::Completed(_) | End::Cancelled(_) | End::Terminated { .. } | End::TimedOut => {}
            },
            Some(AnyRun::Live(run)) => {
                if run.drive.is_some() && run.status() != Status::Running {
                    line += ", driven";
                }
                for open in views::open(&run) {
                    let step = run.step(open.intent);
                    let tries = step.map_or(String::new(), |step| tried(&step.tries));
                    let held = step.is_some_and(|step| step.admitted);
                    let place = if held { ", holds its limit" } else { "" };
                    write!(line, "; {} {}{tries}{place}", open.name, open.state).unwrap();
                }
                for owed in &run.undos {
                    let tries = owed.tries.as_ref().map_or(String::new(), tried);
                    let word = views::undo_word(&run, owed);
                    write!(line, "; {} {word}{tries}", owed.undo).unwrap();
                }
                if !run.suspects.is_empty() {
                    write!(line, "; {} died", run.suspects.len()).unwrap();
                }
                if run.buffered.0 > 0 {
                    write!(line, "; {} buffered", run.buffered.0).unwrap();
                }
            }
        }
        line
    }
}

/// Attempts and charged failures.
fn tried(tries: &Tries) -> String {
    format!(" ({}/{})", tries.attempt, tries.failures)
}

fn id() -> RunId {
    run("r")
}

fn ask(ask: Ask) -> Command {
    Command::Ask(ask)
}

fn duty(duty: Duty) -> Command {
    Command::Duty(duty)
}

fn work() -> Work {
    Work::Step(id(), IntentNo(0))
}

fn erp() -> LimitName {
    LimitName::new("erp").unwrap()
}

fn request(text: &str) -> RequestId {
    RequestId::new(text).unwrap()
}

fn fail() -> IntentKind {
    let (code, message) = ("NO".to_owned(), "no".to_owned());
    IntentKind::Fail { code, message }
}

fn change(scene: &Scene) -> Change {
    scene.story.change(&id(), "event")
}

fn outcomes() -> Vec<AttemptOutcome> {
    let message = "oh".to_owned();
    vec![
        AttemptOutcome::Done(bytes("1")),
        AttemptOutcome::Retryable {
            message: message.clone(),
            after: None,
        },
        AttemptOutcome::Terminal {
            code: "NO".into(),
            message: message.clone(),
        },
        AttemptOutcome::Throttled {
            limit: erp(),
            after: Millis(300),
            message: message.clone(),
        },
        AttemptOutcome::Panicked(message.clone()),
        AttemptOutcome::Stopped,
        AttemptOutcome::Absent,
        AttemptOutcome::Unsure(message),
    ]
}

type Event = (String, Box<dyn Fn(&Scene) -> Command>);

fn event(name: &str, of: impl Fn(&Scene) -> Command + 'static) -> Event {
    (name.to_owned(), Box::new(of))
}

/// Everything that may come to a run that is about no attempt.
#[expect(clippy::too_many_lines, reason = "a list")]
fn events() -> Vec<Event> {
    let starts = |if_ended, input: &'static str| {
        move |_: &Scene| {
            let it = start("r", input);
            ask(Ask::Start(Start { if_ended, ..it }))
        }
    };
    let advance = |intents: Vec<IntentKind>| {
        move |scene: &Scene| ask(Ask::Advance(scene.advance(vec![], intents.clone())))
    };
    let trouble = |trouble: Trouble| {
        move |scene: &Scene| {
            let it = scene.advance(vec![], vec![]);
            let trouble = Some(trouble.clone());
            ask(Ask::Advance(Advance { trouble, ..it }))
        }
    };
    let signal = |signal: &'static str| {
        move |_: &Scene| {
            ask(Ask::Signal(Signal {
                run: id(),
                name: name(signal),
                id: request("s1"),
                payload: bytes("1"),
            }))
        }
    };
    let grant = |work: Work| {
        move |scene: &Scene| {
            duty(Duty::Grant(Grant {
                work: work.clone(),
                session: scene.worker,
                free_slots: 10,
            }))
        }
    };
    let attach = |again: bool| {
        move |scene: &Scene| {
            ask(Ask::Attach(Attach {
                session: again.then_some(scene.worker),
                process: ProcessId::new(if again { "w1" } else { "w2" }).unwrap(),
                worker: name("w"),
                queue: name("q"),
                workflows: vec![(name("order"), Version(1))],
                steps: vec![name("charge")],
                limits: vec![],
                slots: 1,
            }))
        }
    };
    let key = StepKey {
        scope: "0".into(),
        name: "op0".into(),
        occurrence: 0,
    };
    let (expected, got) = ("a".to_owned(), "b".to_owned());
    let panicked = Trouble::Panicked("oh".into());
    let diverged = Trouble::Diverged { key, expected, got };
    vec![
        event("start, same input", starts(IfEnded::ReturnResult, "1")),
        event("start, other input", starts(IfEnded::ReturnResult, "2")),
        event("start, or refuse", starts(IfEnded::Reject, "1")),
        event("start, or anew", starts(IfEnded::NewGeneration, "1")),
        event("signal go", signal("go")),
        event("signal stop", signal("stop")),
        event("cancel", |s| ask(Ask::Cancel(change(s)))),
        event("terminate", |s| ask(Ask::Terminate(change(s)))),
        event("terminate, no reason", |s| {
            let reason = " ".to_owned();
            ask(Ask::Terminate(Change {
                reason,
                ..change(s)
            }))
        }),
        event("pause", |s| ask(Ask::Pause(change(s)))),
        event("resume", |s| ask(Ask::Resume(change(s)))),
        event("retry", |_| {
            ask(Ask::Retry(Retry {
                run: id(),
                step: None,
                request: request("event"),
            }))
        }),
        event("attach again", attach(true)),
        event("attach another", attach(false)),
        event("detach", |s| ask(Ask::Detach(s.worker))),
        event("advance, nothing", advance(vec![])),
        event("advance, step", advance(vec![charge()])),
        event("advance, complete", advance(vec![complete()])),
        event("advance, fail", advance(vec![fail()])),
        event("advance, panicked", trouble(panicked)),
        event("advance, diverged", trouble(diverged)),
        event("advance, old fence", |s| {
            let it = s.advance(vec![], vec![]);
            let fence = Fence::from_wire(2);
            ask(Ask::Advance(Advance { fence, ..it }))
        }),
        event("progress", |s| {
            ask(Ask::Progress(Progress {
                run: id(),
                intent: IntentNo(0),
                fence: s.fence(),
                progress: bytes("half"),
            }))
        }),
        event("return drive", |s| {
            let runs = vec![(id(), s.drive_fence())];
            let steps = vec![];
            ask(Ask::Return(Return { runs, steps }))
        }),
        event("return attempt", |s| {
            let runs = vec![];
            let steps = vec![(id(), IntentNo(0), s.fence())];
            ask(Ask::Return(Return { runs, steps }))
        }),
        event("deploy", |_| {
            ask(Ask::Deploy(Deploy {
                workflow: name("order"),
                version: Version(1),
                request: request("event"),
            }))
        }),
        event("set limit", |_| ask(Ask::SetLimit(one_at_a_time(erp())))),
        event("noop", |_| ask(Ask::Noop(bytes("")))),
        event("grant run", grant(Work::Run(id()))),
        event("grant step", grant(work())),
        event("grant undo", grant(Work::Undo(id(), IntentNo(0)))),
        event("admit", admit),
        event("expire session", |s| {
            duty(Duty::Expire(Expire::Session {
                session: s.worker,
                at_most: 9,
            }))
        }),
        event("expire attempt", |s| {
            let undoes = s.live().is_some_and(|run| run.open.is_empty());
            let work = if undoes {
                Work::Undo(id(), IntentNo(0))
            } else {
                work()
            };
            let fence = s.fence();
            duty(Duty::Expire(Expire::Attempt { work, fence }))
        }),
        event("expire drive", |s| {
            let (run, fence) = (id(), s.drive_fence());
            duty(Duty::Expire(Expire::Drive { run, fence }))
        }),
        event("fire due", |s| {
            duty(Duty::FireDue {
                up_to: s.story.now,
                at_most: 9,
            })
        }),
        event("collect", |s| {
            let all = s.story.now;
            duty(Duty::Collect(Collect {
                completed: all,
                failed: all,
                ids: all,
                at_most: 9,
            }))
        }),
        event("repair", |_| duty(Duty::Repair(id()))),
    ]
}

/// Everything that an attempt at intent 0 may come to, as its worker would say it.
fn attempts() -> Vec<Event> {
    let all = outcomes().into_iter();
    all.map(|outcome| {
        let name = outcome_name(&outcome);
        event(name, move |scene: &Scene| {
            let result = StepResult {
                intent: IntentNo(0),
                fence: scene.fence(),
                outcome: outcome.clone(),
            };
            let run = scene.live();
            let local = run.and_then(|run| Some(run.step(IntentNo(0))?.is_local()));
            if local == Some(true) {
                return ask(Ask::Advance(scene.advance(vec![result], vec![])));
            }
            let run = id();
            ask(Ask::Report(Report { run, result }))
        })
    })
    .collect()
}

fn one_at_a_time(name: LimitName) -> SetLimit {
    let spec = LimitSpec {
        rate: None,
        burst: 1,
        concurrency: Some(1),
    };
    let request = request("l");
    SetLimit {
        name,
        spec,
        request,
    }
}

fn on_queue() -> StepSpec {
    StepSpec {
        queue: Some(name("q")),
        ..step("mail")
    }
}

/// Once, then a person decides.
fn once(spec: StepSpec) -> StepSpec {
    let retry = RetryPolicy {
        max_attempts: Some(1),
        ..RetryPolicy::default()
    };
    StepSpec { retry, ..spec }
}

/// Run `r` fails, and owes the undo of its first step.
fn undoing() -> Scene {
    let scene = Scene::driven(vec![charge()]);
    let done = scene.done(0);
    scene.go_on(vec![done], vec![fail()])
}

fn undo_leased() -> Scene {
    undoing().also(|s| grant_to(Work::Undo(id(), IntentNo(0)), s.worker))
}

fn undo_ends(outcome: AttemptOutcome) -> Scene {
    undo_leased().also(|s| reported(s, outcome))
}

fn grant_to(work: Work, session: SessionId) -> Command {
    duty(Duty::Grant(Grant {
        work,
        session,
        free_slots: 10,
    }))
}

fn reported(scene: &Scene, outcome: AttemptOutcome) -> Command {
    let result = StepResult {
        intent: IntentNo(0),
        fence: scene.fence(),
        outcome,
    };
    ask(Ask::Report(Report { run: id(), result }))
}

fn terminal() -> AttemptOutcome {
    let (code, message) = ("NO".to_owned(), "no".to_owned());
    AttemptOutcome::Terminal { code, message }
}

fn retryable() -> AttemptOutcome {
    let (message, after) = ("503".to_owned(), Some(Millis(100)));
    AttemptOutcome::Retryable { message, after }
}

/// Three workers die, one after the other, with whatever `take` gives them.
fn killer(mut scene: Scene, take: impl Fn(&mut Scene, SessionId)) -> Scene {
    for process in ["p1", "p2", "p3"] {
        let worker = scene.story.worker(process);
        take(&mut scene, worker);
        scene.story.lose(worker);
    }
    scene
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn runs() -> Vec<(&'static str, Scene)> {
    let later = || {
        let mut scene = Scene::new();
        let at = Some(scene.story.now.after(Millis(500)));
        scene.story.ask(Ask::Start(Start {
            at,
            ..start("r", "1")
        }));
        scene
    };
    let pause = |s: &Scene| ask(Ask::Pause(s.story.change(&id(), "pause")));
    let cancel = |s: &Scene| ask(Ask::Cancel(s.story.change(&id(), "cancel")));
    let timed = || {
        let mut scene = Scene::new();
        let timeout = Some(Millis(50));
        scene.story.ask(Ask::Start(Start {
            timeout,
            ..start("r", "1")
        }));
        scene
    };
    vec![
        ("never started", Scene::new()),
        ("begins later", later()),
        ("begins now", later().after(500)),
        ("driven, nothing open", Scene::driven(vec![])),
        ("driven, step in flight", Scene::driven(vec![charge()])),
        ("sleeps", Scene::driven(vec![sleep(1_000)])),
        (
            "waits for a signal",
            Scene::driven(vec![wait_for("go", Some(1_000))]),
        ),
        (
            "waits for a step elsewhere",
            Scene::driven(vec![IntentKind::Step(on_queue())]),
        ),
        ("paused before it began", later().also(pause)),
        ("paused while ready", Scene::started().also(pause)),
        (
            "paused while a step is in flight",
            Scene::driven(vec![charge()]).also(pause),
        ),
        (
            "paused while it sleeps",
            Scene::driven(vec![sleep(1_000)]).also(pause),
        ),
        ("paused by the system", {
            let scene = Scene::driven(vec![IntentKind::Step(once(step("charge")))]);
            let fails = scene.driven.as_ref().unwrap().fails(0);
            scene.go_on(vec![fails], vec![])
        }),
        ("undo stuck", undo_ends(terminal())),
        (
            "paused while a cancelled step is in flight",
            Scene::driven(vec![charge()]).also(cancel).also(pause),
        ),
        (
            "killed three workers",
            killer(Scene::started(), |scene, worker| {
                scene.story.drive(&id(), worker);
            }),
        ),
        (
            "killed three workers by its undo",
            killer(undoing(), |scene, worker| {
                let work = Work::Undo(id(), IntentNo(0));
                scene.story.grant(work, worker);
            }),
        ),
        (
            "cancelled, step in flight",
            Scene::driven(vec![charge()]).also(cancel),
        ),
        ("failed, undo owed", undoing()),
        ("failed, undo in flight", undo_leased()),
        ("its function completed", Scene::driven(vec![complete()])),
        ("its function failed", Scene::driven(vec![fail()])),
        ("cancelled while ready", Scene::started().also(cancel)),
        (
            "was terminated",
            Scene::driven(vec![charge()])
                .also(|s| ask(Ask::Terminate(s.story.change(&id(), "before")))),
        ),
        ("ran out of time", timed().after(50)),
        (
            "completed a while ago",
            Scene::driven(vec![complete()]).after(50),
        ),
        (
            "forgotten",
            Scene::driven(vec![complete()]).after(50).also(|s| {
                let completed = s.story.now;
                duty(Duty::Collect(Collect {
                    completed,
                    failed: completed,
                    ids: Timestamp(0),
                    at_most: 9,
                }))
            }),
        ),
    ]
}

#[derive(Clone, Copy)]
enum At {
    Driver,
    Queue,
}

/// A step of which the first attempt is in flight.
fn leased(at: At, certainty: Certainty, undo: bool) -> Scene {
    let spec = StepSpec {
        certainty,
        undo: undo.then(|| name("refund")),
        ..at.spec()
    };
    at.begun(spec)
}

impl At {
    fn spec(self) -> StepSpec {
        match self {
            Self::Driver => step("charge"),
            Self::Queue => on_queue(),
        }
    }

    fn begun(self, spec: StepSpec) -> Scene {
        let scene = Scene::driven(vec![IntentKind::Step(spec)]);
        match self {
            Self::Driver => scene,
            Self::Queue => scene.also(|s| grant_to(work(), s.worker)),
        }
    }

    /// A step whose attempt came to this.
    fn ended(self, spec: StepSpec, outcome: AttemptOutcome) -> Scene {
        let scene = self.begun(spec);
        match self {
            Self::Driver => {
                let ends = scene.driven.as_ref().unwrap().ends(0, outcome);
                scene.go_on(vec![ends], vec![])
            }
            Self::Queue => scene.also(|s| reported(s, outcome)),
        }
    }

    /// A step that waits for a place at a limit that another run holds.
    fn at_limit(self) -> Scene {
        let mut scene = Scene::new();
        scene.story.ask(Ask::SetLimit(one_at_a_time(erp())));
        let waits = limited(self.spec());
        let other = scene.story.start("other");
        let mut driven = scene.story.drive(&other, scene.worker);
        let holds = limited(step("charge"));
        scene
            .story
            .advance(&mut driven, vec![], vec![IntentKind::Step(holds)]);
        scene.story.start("r");
        scene.drive();
        let mut scene = scene.go_on(vec![], vec![IntentKind::Step(waits)]);
        let done = driven.done(0);
        scene.story.advance(&mut driven, vec![done], vec![]); // the place is free, nobody looked yet
        scene
    }
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn steps() -> Vec<(&'static str, Scene)> {
    let probe = || Certainty::Reconcile(name("find"));
    let probing = |at: At| {
        let scene = leased(at, probe(), true);
        let fence = scene.fence();
        scene.also(move |_| {
            duty(Duty::Expire(Expire::Attempt {
                work: work(),
                fence,
            }))
        })
    };
    let probed = move || probing(At::Queue).also(|s| grant_to(work(), s.worker));
    let no_slot = {
        let mut scene = Scene::started();
        scene.drive();
        let it = scene.advance(vec![], vec![charge()]);
        scene.story.ask(Ask::Advance(Advance {
            free_slots: 0,
            ..it
        }));
        scene
    };
    let lost = leased(At::Driver, Certainty::AtLeastOnce, true).also(|s| {
        let runs = vec![(id(), s.drive_fence())];
        let steps = vec![];
        ask(Ask::Return(Return { runs, steps }))
    });
    let throttled = {
        let outcome = AttemptOutcome::Throttled {
            limit: erp(),
            after: Millis(300),
            message: "429".into(),
        };
        At::Driver.ended(limited(step("charge")), outcome)
    };
    let certain = Certainty::AtLeastOnce;
    vec![
        (
            "local, waits for a place that is free",
            At::Driver.at_limit(),
        ),
        ("local, throttled", throttled),
        ("local, its driver has no slot", no_slot),
        ("local, its driver is gone", lost),
        (
            "local, at least once",
            leased(At::Driver, certain.clone(), true),
        ),
        (
            "local, at most once",
            leased(At::Driver, Certainty::AtMostOnce, true),
        ),
        ("local, with a probe", leased(At::Driver, probe(), true)),
        (
            "local, last attempt then fail",
            At::Driver.begun(give_up(step("charge"), GiveUp::Fail)),
        ),
        (
            "local, last attempt then compensate",
            At::Driver.begun(give_up(charged(), GiveUp::Compensate)),
        ),
        (
            "local, names the limit that throttles",
            At::Driver.begun(limited(step("charge"))),
        ),
        (
            "local, last attempt, paused by a person",
            At::Driver
                .begun(once(step("charge")))
                .also(|s| ask(Ask::Pause(s.story.change(&id(), "pause")))),
        ),
        (
            "local, failed once",
            At::Driver.ended(step("charge"), retryable()),
        ),
        (
            "local, gave up",
            At::Driver.ended(once(step("charge")), retryable()),
        ),
        (
            "of a queue, waits for a place that is free",
            At::Queue.at_limit(),
        ),
        (
            "of a queue, waits for a worker",
            Scene::driven(vec![IntentKind::Step(on_queue())]),
        ),
        (
            "of a queue, at least once",
            leased(At::Queue, certain, true),
        ),
        (
            "of a queue, at most once",
            leased(At::Queue, Certainty::AtMostOnce, true),
        ),
        ("of a queue, with a probe", leased(At::Queue, probe(), true)),
        (
            "of a queue, last attempt then pause",
            At::Queue.begun(once(on_queue())),
        ),
        (
            "of a queue, names the limit that throttles",
            At::Queue
                .at_limit()
                .also(admit)
                .also(|s| grant_to(work(), s.worker)),
        ),
        (
            "of a queue, last attempt, quarantined meanwhile",
            quarantined_meanwhile(),
        ),
        (
            "of a queue, failed once",
            At::Queue.ended(on_queue(), retryable()),
        ),
        (
            "of a queue, gave up",
            At::Queue.ended(once(on_queue()), retryable()),
        ),
        ("probe waits for a worker", probing(At::Driver)),
        ("probe in flight", probed()),
        (
            "probe failed once",
            probed().also(|s| reported(s, retryable())),
        ),
        (
            "probe unsure",
            probed().also(|s| reported(s, AttemptOutcome::Unsure("?".into()))),
        ),
        ("undo waits for a worker", undoing()),
        ("undo in flight", undo_leased()),
        ("undo failed once", undo_ends(retryable())),
        ("undo stuck", undo_ends(terminal())),
    ]
}

/// Its last attempt is in flight elsewhere, with undo, and the run is quarantined meanwhile.
fn quarantined_meanwhile() -> Scene {
    let spec = StepSpec {
        undo: Some(name("refund")),
        ..on_queue()
    };
    let scene = At::Queue.begun(give_up(spec, GiveUp::Compensate));
    let mut scene = scene
        .also(|s| ask(Ask::Pause(s.story.change(&id(), "pause"))))
        .also(|s| ask(Ask::Resume(s.story.change(&id(), "resume"))));
    scene.drive();
    let key = StepKey {
        scope: "0".into(),
        name: "op0".into(),
        occurrence: 0,
    };
    let (expected, got) = ("a".to_owned(), "b".to_owned());
    scene.also(|s| {
        let it = s.advance(vec![], vec![]);
        let trouble = Some(Trouble::Diverged { key, expected, got });
        ask(Ask::Advance(Advance { trouble, ..it }))
    })
}

fn limited(spec: StepSpec) -> StepSpec {
    let limits = vec![erp()];
    StepSpec { limits, ..spec }
}

fn admit(_: &Scene) -> Command {
    let (limit, waiters) = (erp(), vec![]);
    duty(Duty::Admit(Admit { limit, waiters }))
}

fn give_up(spec: StepSpec, give_up: GiveUp) -> StepSpec {
    let spec = once(spec);
    let retry = RetryPolicy {
        give_up,
        ..spec.retry
    };
    StepSpec { retry, ..spec }
}

fn charged() -> StepSpec {
    let undo = Some(name("refund"));
    StepSpec {
        undo,
        ..step("charge")
    }
}

/// A reply in a few words.
fn short(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".into(),
        Reply::Void => "void".into(),
        Reply::Moot => "moot".into(),
        Reply::Started { created: true, .. } => "created".into(),
        Reply::Started { created: false, .. } => "is there".into(),
        Reply::Changed(_) => "changed".into(),
        Reply::Attached { .. } => "attached".into(),
        Reply::Advanced(it) if it.grants.is_empty() => format!("{:?}", it.outcome),
        Reply::Advanced(it) => format!("{:?}, {} granted", it.outcome, it.grants.len()),
        Reply::Reported(it) => format!("{it:?}"),
        Reply::Did { count, .. } => format!("did {count}"),
        Reply::Deployed { .. } => "deployed".into(),
        Reply::LimitSet { .. } => "limit set".into(),
        Reply::Rejected(rejected) => {
            let text = format!("{rejected:?}");
            let end = text.find(|c: char| !c.is_alphanumeric());
            text[..end.unwrap_or(text.len())].to_owned()
        }
        Reply::Quarantined => "QUARANTINED".into(),
    }
}

/// One scene × every event: what changes the run a line each, what does not gathered behind it.
fn block(title: &str, scene: &Scene, events: &[Event], text: &mut String) {
    let before = scene.look();
    writeln!(text, "\n## {title}: {before}").unwrap();
    let mut nothing: Vec<String> = Vec::new();
    for (event, of) in events {
        let mut scene = scene.clone();
        // Later than anything that is due, so that `fire due` finds it; the clock moves with the command.
        scene.story.wait(120_000);
        let rows = scene.live();
        let command = of(&scene);
        let reply = scene.tell(command);
        assert_ne!(reply, Reply::Quarantined, "{title}: {event}");
        let reply = short(&reply);
        if scene.look() == before && scene.live() == rows {
            nothing.push(format!("{event} ({reply})"));
        } else {
            writeln!(text, "{event:<22} {reply:<24} {}", scene.look()).unwrap();
        }
    }
    let mut line = String::from("  nothing:");
    for item in nothing {
        if line.len() + item.len() > 140 {
            writeln!(text, "{line}").unwrap();
            line = String::from("          ");
        }
        write!(line, " {item};").unwrap();
    }
    writeln!(text, "{}", line.trim_end_matches(';')).unwrap();
}

/// Compares with the text that was reviewed, line by line.
fn reviewed(file: &str, text: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table");
    let path = format!("{folder}/{file}");
    if std::env::var("UPDATE").is_ok() {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let mut title = "";
    for (n, (found, expected)) in text.lines().zip(expected.lines()).enumerate() {
        if found.starts_with("##") {
            title = found;
        }
        assert_eq!(
            found,
            expected,
            "{file}:{} under {title}; if it is meant: UPDATE=1 cargo test -p holdfast-scheduler --test table",
            n + 1
        );
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{file}");
}

#[test]
fn every_state_of_a_run_meets_every_event_as_reviewed() {
    let mut text = String::from(
        "Every state of a run x every event. A line: event, reply, the run after it. (attempts/failures)\n",
    );
    let events: Vec<Event> = events().into_iter().chain(attempts()).collect();
    let mut states = BTreeSet::new();
    for (title, scene) in runs() {
        states.insert(scene.state());
        block(title, &scene, &events, &mut text);
    }
    let expected = RUN_STATES.iter().filter(|it| !UNREACHED.contains(it));
    assert_eq!(states, expected.copied().collect());
    let scene = Scene::started();
    let met = events.iter().map(|(_, of)| command_name(&of(&scene)));
    assert_eq!(
        met.collect::<BTreeSet<_>>(),
        COMMANDS.iter().copied().collect()
    );
    reviewed("runs.txt", &text);
}

#[test]
fn every_state_of_a_step_meets_every_event_as_reviewed() {
    let mut text = String::from(
        "Every state of a step, a probe and an undo x every event. A line: event, reply, the run after it. (attempts/failures)\n",
    );
    let events: Vec<Event> = attempts().into_iter().chain(events()).collect();
    let mut states = BTreeSet::new();
    for (title, scene) in steps() {
        states.insert(tried_state(&scene));
        block(title, &scene, &events, &mut text);
    }
    let all = TRIED
        .iter()
        .flat_map(|it| TRY_STATES.iter().map(move |state| (*it, *state)));
    assert_eq!(states, all.filter(|it| !NEVER.contains(it)).collect());
    let met = outcomes().iter().map(outcome_name).collect::<BTreeSet<_>>();
    assert_eq!(met, OUTCOMES.iter().copied().collect());
    reviewed("steps.txt", &text);
}

fn tried_state(scene: &Scene) -> (&'static str, &'static str) {
    let run = scene.live().unwrap();
    let Some(step) = run.step(IntentNo(0)) else {
        let tries = run.undos[0].tries.as_ref().unwrap();
        return ("undo", try_state(&tries.state));
    };
    let what = match (step.phase, step.is_local()) {
        (Phase::Body, true) => "local step",
        (Phase::Body, false) => "step of a queue",
        (Phase::Probe, _) => "probe",
    };
    (what, try_state(&step.tries.state))
}
