//! The core against a slow, obvious reference over random histories: each reply, and all that a run shows, after each entry.
//!
//! A seed that fails prints itself with the command that replays it. `SEEDS=from..to` looks at others.

#![allow(
    missing_docs,
    clippy::wildcard_imports,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::unused_self,
    dead_code,
    reason = "tests"
)]

mod random;
mod reference;

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_scheduler::{
    apply::apply,
    entry::LimitSpec,
    ids::*,
    orders::Orders,
    reply::*,
    rows::MemRows,
    time::{Millis, Timestamp},
    values::{
        limit::Limit,
        run::{Mode, OpenKind, Run},
        step::{self, Phase, TryState},
    },
    views::{self, AnyRun},
};
use random::{Dice, history, seeds};
use reference::{Engine, Gate, Hold, Life, Stand, Tries, When};

/// A run as both engines can tell it. Texts for people are the core's own.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    status: Status,
    generation: Generation,
    version: Version,
    end: Option<End>,
    journal: Vec<JournalRow>,
    live: Option<Live>,
}

#[derive(Debug, PartialEq, Eq)]
struct Live {
    hold: Option<Hold>,
    ending: Option<End>,
    driver: Option<(SessionId, Fence, u32)>,
    intents: u32,
    open: BTreeMap<IntentNo, Shown>,
    debts: BTreeMap<IntentNo, (Name, bool, Option<Try>)>,
    deaths: Vec<ProcessId>,
    buffered: u32,
}

/// Something open.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Timer(Timestamp),
    Wait(Name, Option<Timestamp>),
    Step {
        step: Name,
        probes: bool,
        has_place: bool,
        tries: Try,
    },
}

/// Where attempts stand.
#[derive(Debug, PartialEq, Eq)]
struct Try {
    stand: &'static str,
    lease: Option<(SessionId, Fence)>,
    due: Option<Timestamp>,
    attempts: u32,
    failures: u32,
    spent: u64,
    progress: Option<Bytes>,
}

fn of_core(rows: &MemRows, any: &AnyRun) -> Picture {
    let (id, version, end, live) = match any {
        AnyRun::Live(run) => (&run.id, run.version, None, Some(live_of_core(run))),
        AnyRun::Final(done) => (&done.id, done.version, Some(done.end.clone()), None),
    };
    let journal = views::journal(rows, id, any.generation(), Seq(0), usize::MAX).unwrap();
    Picture {
        status: any.status(),
        generation: any.generation(),
        version,
        end: end.map(untold_end),
        journal: journal.into_iter().map(untold_row).collect(),
        live,
    }
}

fn live_of_core(run: &Run) -> Live {
    let hold = match &run.mode {
        Mode::Paused {
            by_system: true, ..
        } => Some(Hold::System),
        Mode::Paused { .. } => Some(Hold::Person),
        Mode::Quarantined { .. } => Some(Hold::Quarantine),
        Mode::Scheduled { .. } | Mode::Live | Mode::Undoing { .. } => None,
    };
    let ending = match run.back() {
        holdfast_scheduler::values::run::Back::Undoing { end } => Some(untold_end(end)),
        _ => None,
    };
    let open = run.open.iter().map(|(intent, open)| {
        let shown = match &open.what {
            OpenKind::Timer { due } => Shown::Timer(*due),
            OpenKind::Wait { signal, due, .. } => Shown::Wait(signal.clone(), *due),
            OpenKind::Step(step) => Shown::Step {
                step: step.step.clone(),
                probes: step.phase == Phase::Probe,
                has_place: step.admitted,
                tries: try_of_core(&step.tries),
            },
        };
        (*intent, shown)
    });
    let debts = run.undos.iter().map(|owed| {
        let tries = owed.tries.as_ref().map(try_of_core);
        (owed.intent, (owed.undo.clone(), owed.withdrawn, tries))
    });
    Live {
        hold,
        ending,
        driver: run.drive.map(|it| (it.session, it.fence, it.delivery.0)),
        intents: run.next_intent.0,
        open: open.collect(),
        debts: debts.collect(),
        deaths: run.suspects.clone(),
        buffered: run.buffered.0,
    }
}

fn try_of_core(tries: &step::Tries) -> Try {
    let (stand, due) = match &tries.state {
        TryState::AtLimit { .. } => ("in line", None),
        TryState::Scheduled { .. } => ("waits", None),
        TryState::Leased(_) => ("out", None),
        TryState::Backoff { until, .. } => ("later", Some(*until)),
        TryState::Held => ("stuck", None),
    };
    Try {
        stand,
        lease: tries.lease().map(|lease| (lease.session, lease.fence)),
        due,
        attempts: tries.attempt,
        failures: tries.failures,
        spent: tries.spent.0,
        progress: tries.progress.clone(),
    }
}

fn of_reference(life: &Life) -> Picture {
    let end = life.ended.clone().map(untold_end);
    let live = end.is_none().then(|| live_of_reference(life));
    Picture {
        status: life.status(),
        generation: life.generation,
        version: life.version,
        end,
        journal: life.journal.iter().cloned().map(untold_row).collect(),
        live,
    }
}

fn live_of_reference(life: &Life) -> Live {
    let mut open = BTreeMap::new();
    for (intent, due) in &life.timers {
        open.insert(*intent, Shown::Timer(*due));
    }
    for (intent, (signal, due)) in &life.waits {
        open.insert(*intent, Shown::Wait(signal.clone(), *due));
    }
    for (intent, job) in &life.steps {
        let shown = Shown::Step {
            step: job.spec.step.clone(),
            probes: job.asks_probe,
            has_place: job.has_place,
            tries: try_of_reference(&job.tries),
        };
        open.insert(*intent, shown);
    }
    let debts = life.debts.iter().map(|(intent, debt)| {
        let tries = debt.tries.as_ref().map(try_of_reference);
        (*intent, (debt.undo.clone(), debt.withdrawn, tries))
    });
    Live {
        hold: life.hold,
        ending: life.ending.clone().map(untold_end),
        driver: life.driver.map(|it| (it.session, it.fence, it.told)),
        intents: life.intents,
        open,
        debts: debts.collect(),
        deaths: life.deaths.clone(),
        buffered: u32::try_from(life.mail.len()).unwrap(),
    }
}

fn try_of_reference(tries: &Tries) -> Try {
    let (stand, lease, due) = match tries.stand {
        Stand::InLine(_) => ("in line", None, None),
        Stand::Waits => ("waits", None, None),
        Stand::Out { session, fence, .. } => ("out", Some((session, fence)), None),
        Stand::Later { when, .. } => match when {
            When::At(at) => ("later", None, Some(at)),
            When::Between(..) => ("later, somewhen", None, None),
        },
        Stand::Stuck => ("stuck", None, None),
    };
    Try {
        stand,
        lease,
        due,
        attempts: tries.attempts,
        failures: tries.failures,
        spent: tries.spent,
        progress: tries.progress.clone(),
    }
}

/// Jitter is the core's choice within its range; what it chose is taken over.
fn take_over_jitter(life: &mut Life, run: &Run) {
    for (intent, job) in &mut life.steps {
        take_over(&mut job.tries, run.step(*intent).map(|step| &step.tries));
    }
    for (intent, debt) in &mut life.debts {
        let owed = run.undos.iter().find(|owed| owed.intent == *intent);
        if let Some(tries) = &mut debt.tries {
            take_over(tries, owed.and_then(|owed| owed.tries.as_ref()));
        }
    }
}

fn take_over(tries: &mut Tries, core: Option<&step::Tries>) {
    if let Stand::Later { when, .. } = &mut tries.stand
        && let When::Between(from, to) = *when
        && let Some(TryState::Backoff { until, .. }) = core.map(|core| &core.state)
        && (from..=to).contains(until)
    {
        *when = When::At(*until);
    }
}

/// Our own words for people are not compared, only that they are there.
fn untold_row(mut row: JournalRow) -> JournalRow {
    row.note = row.note.map(|_| String::new());
    for (_, outcome) in &mut row.outcomes {
        if let Outcome::Failed { code, message, .. } = outcome
            && code != "NO"
        {
            message.clear();
        }
    }
    row
}

fn untold_end(mut end: End) -> End {
    if let End::Failed { code, message } = &mut end
        && code == "GAVE_UP"
    {
        message.clear();
    }
    end
}

fn untold(reply: Reply) -> Reply {
    match reply {
        Reply::Rejected(Rejected::NotNow { run, status, .. }) => {
            let why = String::new();
            Reply::Rejected(Rejected::NotNow { run, status, why })
        }
        Reply::Rejected(Rejected::UnknownVersion { name, version, .. }) => {
            let registered = Vec::new();
            Reply::Rejected(Rejected::UnknownVersion {
                name,
                version,
                registered,
            })
        }
        Reply::Rejected(Rejected::Invalid(_)) => Rejected::Invalid(String::new()).into(),
        Reply::Attached { session, .. } => {
            let warnings = Vec::new();
            Reply::Attached { session, warnings }
        }
        Reply::Advanced(mut advanced) => {
            let rows = advanced.deliveries.into_iter();
            advanced.deliveries = rows.map(untold_row).collect();
            Reply::Advanced(advanced)
        }
        other => other,
    }
}

/// Compares both engines after one entry.
fn compare(rows: &MemRows, engine: &mut Engine, context: &str) {
    for (id, life) in &mut engine.lives {
        let any = views::run(rows, id).unwrap().unwrap();
        if let AnyRun::Live(run) = &any {
            take_over_jitter(life, run);
        }
        let (core, reference) = (of_core(rows, &any), of_reference(life));
        assert_eq!(core, reference, "run {id}, core and reference, {context}");
    }
    let sessions: Vec<_> = views::sessions(rows).unwrap();
    let sessions = sessions.iter().map(|session| session.id);
    assert!(sessions.eq(engine.workers.keys().copied()), "{context}");
    for view in views::limits(rows).unwrap() {
        let name = &view.name;
        assert_eq!(
            view.limit.held,
            engine.held(name, None),
            "{name}, {context}"
        );
        let waiting = engine.line(name, None).len() as u64;
        assert_eq!(view.waiting, waiting, "{name}, {context}");
        let admits = view.limit.admits(engine.now);
        assert_eq!(admits, engine.admits(name, None), "{name}, {context}");
    }
}

fn judge(seed: u64) {
    let world = history(seed);
    let (mut rows, mut orders) = (MemRows::default(), Orders::default());
    let mut engine = Engine::default();
    for told in &world.log {
        let context = format!("seed {seed}, after {}: {:?}", told.at, told.entry.body);
        apply(&mut rows, &mut orders, told.at, &told.entry).unwrap();
        let core = told.applied.replies.iter().cloned().map(untold);
        let core: Vec<Reply> = core.collect();
        let reference = engine.apply(told.at, &told.entry.body).into_iter();
        let reference: Vec<Reply> = reference.map(untold).collect();
        assert_eq!(core, reference, "core and reference answer, {context}");
        compare(&rows, &mut engine, &context);
    }
}

#[test]
fn the_core_answers_and_shows_what_the_reference_does() {
    let differs = |seed: &u64| std::panic::catch_unwind(|| judge(*seed)).is_err();
    let failed: Vec<u64> = seeds(100).filter(differs).collect();
    let Some(seed) = failed.first() else { return };
    panic!(
        "seeds {failed:?} differ; replay one: SEED={seed} cargo test -p holdfast-scheduler --test model"
    );
}

/// One limit alone, with closings and declarations far more often than runs bring them about.
#[test]
fn a_limit_admits_exactly_when_the_reference_does() {
    for seed in seeds(400) {
        let mut dice = Dice::new(seed);
        let mut now = Timestamp(1_000_000);
        let (mut limit, mut gate) = (Limit::undeclared(now), Gate::default());
        for n in 0..200 {
            let longest = dice.pick(&[1, 200, 2_000, 9_000, 70_000]).unwrap();
            now = now.after(Millis(dice.below(longest)));
            let admits = limit.admits(now);
            let context = format!("SEED={seed}, operation {n} at {now}: {limit:?}, {gate:?}");
            assert_eq!(admits, gate.admits(limit.held, now), "{context}");
            if let Some(next) = limit.next_admission(now).filter(|_| !admits) {
                // The bucket fills at the rate of its beginning, and so does the forecast: never too early.
                let sooner = Timestamp(next.0 - 1).max(now);
                assert!(
                    !gate.admits(limit.held, sooner),
                    "{next} is late, {context}"
                );
                assert!(gate.admits(limit.held, next), "{next} is early, {context}");
            }
            match dice.below(20) {
                0 => {
                    let after = Millis(dice.below(3_000));
                    limit.close(now, after);
                    gate.close(now, after);
                }
                1 => {
                    let spec = LimitSpec {
                        rate: dice
                            .pick(&[None, Some((8, Millis(1_000))), Some((400, Millis(1_000)))])
                            .unwrap(),
                        burst: u32::try_from(dice.below(4)).unwrap(),
                        concurrency: dice.pick(&[None, Some(1), Some(3)]).unwrap(),
                    };
                    limit.redeclare(spec, now);
                    gate.declare(spec, now);
                }
                2..8 if limit.held > 0 => limit.release(),
                _ if admits => {
                    limit.take(now);
                    gate.take(now);
                }
                _ => {}
            }
        }
    }
}
