//! The core beside the reference: each reply, and all that a touched run shows, after each entry.
//!
//! Invariant: nothing is asked of the core that a user could not see; texts for people are the core's own, and only that
//! they are there is compared. Not here: the reference itself (`reference`), what else must hold (`watch`).

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_scheduler::{
    ids::{Fence, Generation, IntentNo, Name, ProcessId, RunId, Seq, SessionId, Version},
    reply::{End, JournalRow, Outcome, Rejected, Reply, Status},
    rows::{Fault, ReadRows},
    time::Timestamp,
    values::{
        run::{Back, Mode, OpenKind, Run},
        step::{self, Phase, TryState},
    },
    views::{self, AnyRun},
};

use super::reference::{Engine, Hold, Life, Stand, Tries, When};

/// A run as both engines can tell it. Texts for people are the core's own.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    status: Status,
    generation: Generation,
    version: Version,
    end: Option<End>,
    rows: usize,
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

fn of_core(any: &AnyRun) -> Picture {
    let (version, end, rows, live) = match any {
        AnyRun::Live(run) => (run.version, None, run.next_seq, Some(live_of_core(run))),
        AnyRun::Final(done) => (done.version, Some(done.end.clone()), done.rows, None),
    };
    Picture {
        status: any.status(),
        generation: any.generation(),
        version,
        end: end.map(untold_end),
        rows: rows.0 as usize,
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
        Back::Undoing { end } => Some(untold_end(end)),
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
        rows: life.journal.len(),
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
        buffered: u32::try_from(life.mail.len()).unwrap_or(u32::MAX),
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
        Reply::Rejected(Rejected::UnknownWorkflow { name, .. }) => {
            let registered = Vec::new();
            Reply::Rejected(Rejected::UnknownWorkflow { name, registered })
        }
        Reply::Rejected(Rejected::Invalid(_)) => Rejected::Invalid(String::new()).into(),
        Reply::Rejected(Rejected::TooLarge { .. }) => Reply::Rejected(Rejected::TooLarge {
            what: String::new(),
            size: 0,
            max: 0,
            cure: String::new(),
        }),
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

/// The replies to one entry; says what differs.
pub fn replies(core: &[Reply], reference: &[Reply]) -> Option<String> {
    let differs = |(core, reference): &(&Reply, &Reply)| {
        core != reference && untold((*core).clone()) != untold((*reference).clone())
    };
    let found = core.iter().zip(reference).position(|it| differs(&it))?;
    let (core, reference) = (&core[found], &reference[found]);
    Some(format!(
        "command {found} is answered {core:?}, the reference answers {reference:?}"
    ))
}

/// What both engines show after one entry; says what differs.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn states<R: ReadRows>(rows: &R, engine: &mut Engine) -> Result<Option<String>, Fault> {
    for id in std::mem::take(&mut engine.touched) {
        let Some(life) = engine.lives.get_mut(&id) else {
            continue;
        };
        if let Some(odd) = one(rows, &id, life)? {
            return Ok(Some(odd));
        }
    }
    if std::mem::take(&mut engine.staffed) {
        let known = views::sessions(rows)?;
        let known: Vec<SessionId> = known.iter().map(|session| session.id).collect();
        if !known.iter().eq(engine.workers.keys()) {
            let expected: Vec<_> = engine.workers.keys().collect();
            return Ok(Some(format!("sessions are {known:?}, not {expected:?}")));
        }
    }
    limits(rows, engine)
}

fn limits<R: ReadRows>(rows: &R, engine: &Engine) -> Result<Option<String>, Fault> {
    for view in views::limits(rows)? {
        let (name, limit) = (&view.name, &view.limit);
        let core = (limit.held, view.waiting, limit.admits(engine.now));
        let held = engine.held(name, None);
        let waiting = engine.line(name, None).len() as u64;
        let reference = (held, waiting, engine.admits(name, None));
        if core != reference {
            return Ok(Some(format!(
                "limit {name} shows {core:?} (held, waiting, admits), the reference {reference:?}"
            )));
        }
    }
    Ok(None)
}

fn one<R: ReadRows>(rows: &R, id: &RunId, life: &mut Life) -> Result<Option<String>, Fault> {
    let Some(any) = views::run(rows, id)? else {
        return Ok(Some(format!("run {id} is not there")));
    };
    if let AnyRun::Live(run) = &any {
        take_over_jitter(life, run);
    }
    let (core, reference) = (of_core(&any), of_reference(life));
    if core != reference {
        return Ok(Some(format!(
            "run {id} shows {core:#?}, the reference {reference:#?}"
        )));
    }
    let from = Seq(u32::try_from(life.compared).unwrap_or(u32::MAX));
    let new = views::journal(rows, id, life.generation, from, usize::MAX)?;
    let told = life.journal[life.compared..].iter();
    if new.len() != told.len() {
        let (core, reference) = (new.len(), told.len());
        return Ok(Some(format!(
            "the journal of {id} has {core} new rows, the reference {reference}"
        )));
    }
    for (core, reference) in new.into_iter().zip(told) {
        let (core, reference) = (untold_row(core), untold_row(JournalRow::clone(reference)));
        if core != reference {
            return Ok(Some(format!(
                "the journal of {id} says {core:#?}, the reference {reference:#?}"
            )));
        }
    }
    life.compared = life.journal.len();
    Ok(None)
}
