//! Views: what people and clients are shown, read from rows. Pure reading; nothing here changes anything.
//!
//! One question is always answered: why is this run not moving? `explain` gives the sentence, evidence after it.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use crate::{
    effect::Needs,
    entry::Collect,
    ids::{Fence, Generation, IntentNo, LimitName, Name, RunId, Seq, SessionId, Version},
    reply::{End, JournalRow, Status},
    rows::{Alike, Class, Fault, Key, Newest, ReadRows, Row, Stretch, TypedRows},
    time::{Millis, Timestamp},
    values::{
        limit::Limit,
        run::{Finished, Mode, OpenKind, Run, Session, VersionRow},
        step::{Owed, Phase, Step, Tries, TryState},
    },
};

/// A run, live or final.
#[derive(Debug, Clone)]
pub enum AnyRun {
    /// It may still change.
    Live(Arc<Run>),
    /// It never changes.
    Final(Arc<Finished>),
}

impl AnyRun {
    /// As the contract names it.
    pub fn status(&self) -> Status {
        match self {
            Self::Live(run) => run.status(),
            Self::Final(done) => done.end.status(),
        }
    }

    /// Which life of the id.
    pub fn generation(&self) -> Generation {
        match self {
            Self::Live(run) => run.generation,
            Self::Final(done) => done.generation,
        }
    }

    /// One line of a list.
    pub fn summary(&self) -> Summary {
        let (id, workflow, version, started, ended) = match self {
            Self::Live(run) => (&run.id, &run.workflow, run.version, run.started, None),
            Self::Final(done) => (
                &done.id,
                &done.workflow,
                done.version,
                done.started,
                Some(done.ended),
            ),
        };
        Summary {
            id: id.clone(),
            generation: self.generation(),
            workflow: workflow.clone(),
            version,
            status: self.status(),
            started,
            ended,
        }
    }
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The caller's name for it.
    pub id: RunId,
    /// Which life of it.
    pub generation: Generation,
    /// What it runs.
    pub workflow: Name,
    /// The version it is pinned to.
    pub version: Version,
    /// Its status.
    pub status: Status,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// A run, live or final; none: there is no such run.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn run<R: ReadRows + ?Sized>(rows: &R, id: &RunId) -> Result<Option<AnyRun>, Fault> {
    if let Some(run) = rows.run(id)? {
        return Ok(Some(AnyRun::Live(run)));
    }
    Ok(rows.finished(id)?.map(AnyRun::Final))
}

/// Journal rows of a run from `from` on, at most `limit`.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn journal<R: ReadRows + ?Sized>(
    rows: &R,
    id: &RunId,
    generation: Generation,
    from: Seq,
    limit: usize,
) -> Result<Vec<JournalRow>, Fault> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let from = Key::Journal(id.clone(), generation, from);
    rows.scan(&Stretch::from(from, Alike::Two), &mut |_, row| {
        let Row::Journal(row) = row else { return false };
        found.push(Arc::unwrap_or_clone(row));
        found.len() < limit
    })?;
    Ok(found)
}

/// Which runs a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only with this status.
    pub status: Option<Status>,
    /// Only of this workflow.
    pub workflow: Option<Name>,
    /// Only of this version of it.
    pub version: Option<Version>,
}

/// Where a page begins: after this run.
pub type PageStart = Option<(Timestamp, RunId)>;

/// Rows looked at for one page: a rare status among many runs is found over several pages.
const LOOKED_AT_MAX: usize = 5_000;

/// A page of runs, newest first, and where the next one begins.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn list<R: ReadRows + ?Sized>(
    rows: &R,
    filter: &Filter,
    after: &PageStart,
    limit: usize,
) -> Result<(Vec<Summary>, PageStart), Fault> {
    let (ids, mut next) = candidates(rows, filter, after, limit)?;
    let mut page = Vec::new();
    for (started, id) in ids {
        let Some(found) = run(rows, &id)? else {
            continue;
        };
        let summary = found.summary();
        if matches(&summary, filter) {
            page.push(summary);
            if page.len() == limit {
                next = Some((started, id));
                break;
            }
        }
    }
    Ok((page, next))
}

fn matches(it: &Summary, filter: &Filter) -> bool {
    filter.status.is_none_or(|status| it.status == status)
        && filter
            .workflow
            .as_ref()
            .is_none_or(|name| it.workflow == *name)
        && filter.version.is_none_or(|version| it.version == version)
}

type Candidates = (Vec<(Timestamp, RunId)>, PageStart);

/// Ids from the narrowest index, and where to go on if there were too many to look at.
fn candidates<R: ReadRows + ?Sized>(
    rows: &R,
    filter: &Filter,
    after: &PageStart,
    limit: usize,
) -> Result<Candidates, Fault> {
    let (newest, id) = match after {
        Some((started, id)) => (Newest::first(*started), id.clone()),
        None => (Newest::from_number(0), RunId::from_stored("")),
    };
    let (from, alike) = match (&filter.status, &filter.workflow, filter.version) {
        (Some(status), _, _) => (Key::ByClass(Class::from(*status), newest, id), Alike::One),
        (None, Some(name), Some(version)) => (
            Key::ByWorkflow(name.clone(), version, newest, id),
            Alike::Two,
        ),
        (None, _, _) => (Key::ByTime(newest, id), Alike::Kind),
    };
    let mut found = Vec::new();
    let most = LOOKED_AT_MAX.max(limit);
    rows.scan(&Stretch::behind(from, alike), &mut |key, _| {
        let (Key::ByClass(_, newest, id)
        | Key::ByWorkflow(_, _, newest, id)
        | Key::ByTime(newest, id)) = key
        else {
            return false;
        };
        found.push((newest.time(), id));
        found.len() < most
    })?;
    let next = if found.len() >= most {
        found.last().cloned()
    } else {
        None
    };
    Ok((found, next))
}

/// What a run is doing about one thing that it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenView {
    /// Which intent.
    pub intent: IntentNo,
    /// The step's or signal's name, or `sleep`.
    pub name: String,
    /// One word: scheduled, leased, backoff, waits-for-limit, held, timer, wait.
    pub state: &'static str,
    /// Attempts so far.
    pub attempt: u32,
    /// Next attempt, timer or timeout.
    pub due: Option<Timestamp>,
    /// Of the last attempt.
    pub last_error: String,
    /// Which limits it names.
    pub limits: Vec<LimitName>,
    /// The queue it waits on, when not with the driver.
    pub queue: Option<Name>,
    /// Under which lease.
    pub lease: Option<(SessionId, Fence)>,
}

/// Everything open in a live run.
pub fn open(run: &Run) -> Vec<OpenView> {
    run.open
        .iter()
        .map(|(intent, open)| match &open.what {
            OpenKind::Step(step) => open_step(*intent, step),
            OpenKind::Timer { due } => plain(*intent, "sleep".to_owned(), "timer", Some(*due)),
            OpenKind::Wait { signal, due, .. } => plain(*intent, signal.to_string(), "wait", *due),
        })
        .collect()
}

fn plain(intent: IntentNo, name: String, state: &'static str, due: Option<Timestamp>) -> OpenView {
    OpenView {
        intent,
        name,
        state,
        attempt: 0,
        due,
        last_error: String::new(),
        limits: Vec::new(),
        queue: None,
        lease: None,
    }
}

fn open_step(intent: IntentNo, step: &Step) -> OpenView {
    OpenView {
        intent,
        name: step.executes().to_string(),
        state: state_word(&step.tries),
        attempt: step.tries.attempt,
        due: due_of(&step.tries),
        last_error: step.tries.last_error.clone(),
        limits: step.limits.clone(),
        queue: step.queue.clone(),
        lease: step.tries.lease().map(|lease| (lease.session, lease.fence)),
    }
}

/// One word for where attempts stand.
pub fn state_word(tries: &Tries) -> &'static str {
    match &tries.state {
        TryState::AtLimit { .. } => "waits-for-limit",
        TryState::Scheduled { .. } => "scheduled",
        TryState::Leased(_) => "leased",
        TryState::Backoff { .. } => "backoff",
        TryState::Held => "held",
    }
}

fn due_of(tries: &Tries) -> Option<Timestamp> {
    match &tries.state {
        TryState::Backoff { until, .. } => Some(*until),
        TryState::AtLimit { .. }
        | TryState::Scheduled { .. }
        | TryState::Leased(_)
        | TryState::Held => None,
    }
}

/// One word for where an undo stands.
pub fn undo_word(run: &Run, owed: &Owed) -> &'static str {
    match &owed.tries {
        Some(tries) => state_word(tries),
        None if run.step(owed.intent).is_some() => "waits-for-step",
        None => "owed",
    }
}

/// Sessions that have a row.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn sessions<R: ReadRows + ?Sized>(rows: &R) -> Result<Vec<Arc<Session>>, Fault> {
    let mut sessions = Vec::new();
    let all = Stretch::from(Key::Session(SessionId(0)), Alike::Kind);
    rows.scan(&all, &mut |_, row| {
        let Row::Session(session) = row else {
            return false;
        };
        sessions.push(session);
        true
    })?;
    Ok(sessions)
}

/// Why a run is where it is: one sentence, then evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The sentence.
    pub sentence: String,
    /// More, a line each.
    pub evidence: Vec<String>,
}

/// Answers: why is this run not moving?
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn explain<R: ReadRows + ?Sized>(
    rows: &R,
    run: &AnyRun,
    now: Timestamp,
) -> Result<Explanation, Fault> {
    match run {
        AnyRun::Final(done) => Ok(Explanation {
            sentence: ended(done, now),
            evidence: Vec::new(),
        }),
        AnyRun::Live(run) => {
            let sentence = sentence(rows, run, now)?;
            let mut evidence = evidence(run, now);
            evidence.extend(unserved_steps(rows, run)?);
            Ok(Explanation { sentence, evidence })
        }
    }
}

fn ended(done: &Finished, now: Timestamp) -> String {
    let ago = spoken(now.since(done.ended));
    match &done.end {
        End::Completed(_) => format!("completed {ago} ago"),
        End::Failed { code, message } => format!("failed {ago} ago [{code}]: {message}"),
        End::Cancelled(reason) => format!("cancelled {ago} ago: {reason}"),
        End::Terminated { reason, not_undone } if not_undone.is_empty() => {
            format!("terminated {ago} ago: {reason}")
        }
        End::Terminated { reason, not_undone } => {
            format!(
                "terminated {ago} ago: {reason}; not undone: {}",
                not_undone.join(", ")
            )
        }
        End::TimedOut => format!("its own time ran out {ago} ago"),
    }
}

fn sentence<R: ReadRows + ?Sized>(rows: &R, run: &Run, now: Timestamp) -> Result<String, Fault> {
    Ok(match &run.mode {
        Mode::Scheduled { at } => format!("begins in {}", spoken(at.since(now))),
        Mode::Paused {
            reason,
            by_system: true,
            ..
        } => format!("paused by the system: {reason}"),
        Mode::Paused {
            reason,
            by_system: false,
            ..
        } => format!("paused by a person: {reason}"),
        Mode::Quarantined { evidence, .. } => format!("quarantined: {evidence}"),
        Mode::Undoing { end } => undoing(rows, run, end, now)?,
        Mode::Live => match (&run.drive, run.ready) {
            (None, Some(since)) => waits_for_worker(rows, run, since, now)?,
            (Some(drive), _) if run.local_in_flight() > 0 => {
                let steps: Vec<&str> = run
                    .steps()
                    .filter(|(_, step)| step.tries.lease().is_some())
                    .map(|(_, step)| step.executes().as_str())
                    .collect();
                let for_ = spoken(now.since(drive.since));
                format!(
                    "runs {} on {} for {for_}",
                    steps.join(", "),
                    worker(rows, drive.session)?
                )
            }
            (Some(drive), _) => format!("driven by {}", worker(rows, drive.session)?),
            (None, None) => waits(rows, run, now)?,
        },
    })
}

fn worker<R: ReadRows + ?Sized>(rows: &R, session: SessionId) -> Result<String, Fault> {
    Ok(match rows.session(session)? {
        Some(session) => format!("worker {}", session.worker),
        None => format!("a worker of session {session} that is gone"),
    })
}

fn waits_for_worker<R: ReadRows + ?Sized>(
    rows: &R,
    run: &Run,
    since: Timestamp,
    now: Timestamp,
) -> Result<String, Fault> {
    let needs = Needs::Workflow(run.workflow.clone(), run.version);
    let (name, version, queue) = (&run.workflow, run.version, &run.queue);
    let waited = spoken(now.since(since));
    Ok(if !is_served(rows, &needs)? {
        format!("no worker serves {name}@v{version} on queue {queue} (waiting for {waited})")
    } else if run.is_alone() {
        format!("waits for {waited} for a worker that holds nothing else: workers died of it")
    } else {
        format!("ready for {waited}: every worker of {name}@v{version} is busy")
    })
}

fn is_served<R: ReadRows + ?Sized>(rows: &R, needs: &Needs) -> Result<bool, Fault> {
    let serves = |session: &Arc<Session>| crate::commands::grant::serves(session, needs);
    Ok(sessions(rows)?.iter().any(serves))
}

/// For each step that nobody serves, what the workers of its queue did register: most often the name is misspelt.
fn unserved_steps<R: ReadRows + ?Sized>(rows: &R, run: &Run) -> Result<Vec<String>, Fault> {
    let mut lines = Vec::new();
    for (_, step) in run.steps() {
        let TryState::Scheduled { .. } = &step.tries.state else {
            continue;
        };
        let (queue, name) = (step.queue.as_ref().unwrap_or(&run.queue), step.executes());
        let there = sessions(rows)?.into_iter().filter(|it| it.queue == *queue);
        let registered: BTreeSet<Name> = there
            .flat_map(|session| Arc::unwrap_or_clone(session).steps)
            .collect();
        if registered.contains(name) {
            continue;
        }
        let registered: Vec<&str> = registered.iter().map(Name::as_str).collect();
        lines.push(if registered.is_empty() {
            format!("no worker is connected on queue {queue} that registered any step")
        } else {
            format!("registered on queue {queue} are: {}", registered.join(", "))
        });
    }
    Ok(lines)
}

/// Nothing drives it and nothing is ready: the thing that moves next is named, steps before waits before timers.
fn waits<R: ReadRows + ?Sized>(rows: &R, run: &Run, now: Timestamp) -> Result<String, Fault> {
    if let Some((_, step)) = run.steps().next() {
        return step_sentence(rows, run, step, now);
    }
    let mut soonest: Option<(Option<Timestamp>, String)> = None;
    for open in run.open.values() {
        let text = match &open.what {
            OpenKind::Wait {
                signal,
                due,
                ask,
                since,
            } => {
                let waited = spoken(now.since(*since));
                let until = due.map_or(String::new(), |due| {
                    format!(", times out in {}", spoken(due.since(now)))
                });
                let what = if ask.is_some() { "approval" } else { "signal" };
                let what = if signal.as_str() == what {
                    String::new()
                } else {
                    format!("{what} ")
                };
                let kind = if what.is_empty() {
                    "signal ".to_owned()
                } else {
                    what
                };
                format!("waits for {kind}{signal} since {waited}{until}")
            }
            OpenKind::Timer { due } => format!("sleeps for {} more", spoken(due.since(now))),
            OpenKind::Step(_) => continue,
        };
        let due = open.next_due();
        if soonest
            .as_ref()
            .is_none_or(|(earlier, _)| due.is_some() && due < *earlier)
        {
            soonest = Some((due, text));
        }
    }
    let nothing = || "nothing would move it: please report this".to_owned();
    Ok(soonest.map_or_else(nothing, |(_, text)| text))
}

fn step_sentence<R: ReadRows + ?Sized>(
    rows: &R,
    run: &Run,
    step: &Step,
    now: Timestamp,
) -> Result<String, Fault> {
    let (name, attempt) = (step.executes(), step.tries.attempt);
    let error = &step.tries.last_error;
    Ok(match &step.tries.state {
        TryState::Backoff { until, since } => format!(
            "step {name}: attempt {attempt} failed {} ago: {error}; next in {}",
            spoken(now.since(*since)),
            spoken(until.since(now))
        ),
        TryState::AtLimit { since, .. } => {
            let limits: Vec<&str> = step.limits.iter().map(LimitName::as_str).collect();
            let waited = spoken(now.since(*since));
            format!(
                "step {name} waits for limit {} for {waited}",
                limits.join(", ")
            )
        }
        TryState::Scheduled { since } => {
            let queue = step.queue.clone().unwrap_or_else(|| run.queue.clone());
            let needs = Needs::Step {
                queue: queue.clone(),
                step: name.clone(),
            };
            let waited = spoken(now.since(*since));
            if is_served(rows, &needs)? {
                format!("step {name} waits for a free worker on queue {queue} for {waited}")
            } else {
                format!("no worker serves step {name} on queue {queue} (waiting for {waited})")
            }
        }
        TryState::Leased(lease) => {
            let (on, for_) = (worker(rows, lease.session)?, spoken(now.since(lease.since)));
            let what = if step.phase == Phase::Probe {
                "asks probe"
            } else {
                "runs step"
            };
            format!("{what} {name} on {on} for {for_} (attempt {attempt})")
        }
        TryState::Held => format!("step {name} is held: {error}"),
    })
}

fn undoing<R: ReadRows + ?Sized>(
    rows: &R,
    run: &Run,
    end: &End,
    now: Timestamp,
) -> Result<String, Fault> {
    let after = match end {
        End::Completed(_) => "completing",
        End::Failed { .. } => "failure",
        End::Cancelled(_) => "cancel",
        End::Terminated { .. } => "terminate",
        End::TimedOut => "timeout",
    };
    if let Some((_, step)) = run.steps().find(|(_, step)| step.tries.lease().is_some()) {
        let owed = run.undos.iter().rev().find(|owed| run.owes(owed));
        let undo = owed.map_or("its end", |owed| owed.undo.as_str());
        return Ok(format!(
            "undoing after {after}: {undo} waits for {}, which is in flight",
            step.step
        ));
    }
    let Some(owed) = run.undo_at_hand() else {
        return Ok(format!("ending after {after}"));
    };
    let (undo, queue) = (&owed.undo, &owed.queue);
    let state = owed.tries.as_ref().map(|tries| &tries.state);
    Ok(match (state, &owed.tries) {
        (Some(TryState::Backoff { until, .. }), Some(tries)) => format!(
            "undoing after {after}: {undo} failed: {}; next in {}",
            tries.last_error,
            spoken(until.since(now))
        ),
        (Some(TryState::Leased(_)), _) => format!("undoing after {after}: {undo} runs"),
        _ => {
            let needs = Needs::Step {
                queue: queue.clone(),
                step: undo.clone(),
            };
            if is_served(rows, &needs)? {
                format!("undoing after {after}: {undo} waits for a free worker on queue {queue}")
            } else {
                format!("undoing after {after}: no worker serves {undo} on queue {queue}")
            }
        }
    })
}

fn evidence(run: &Run, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for view in open(run) {
        let due = view.due.map_or(String::new(), |due| {
            format!(", due in {}", spoken(due.since(now)))
        });
        let error = if view.last_error.is_empty() {
            String::new()
        } else {
            format!(": {}", view.last_error)
        };
        let attempt = if view.attempt == 0 {
            String::new()
        } else {
            format!(", attempt {}", view.attempt)
        };
        lines.push(format!(
            "entry {} {} {}{attempt}{due}{error}",
            view.intent, view.name, view.state
        ));
    }
    for owed in &run.undos {
        let word = undo_word(run, owed);
        lines.push(format!(
            "undo {} of {} (entry {}) {word}",
            owed.undo, owed.step, owed.intent
        ));
    }
    if !run.suspects.is_empty() {
        lines.push(format!(
            "{} worker(s) died with this run in hand",
            run.suspects.len()
        ));
    }
    if run.buffered.0 > 0 {
        lines.push(format!("{} signal(s) buffered", run.buffered.0));
    }
    lines
}

/// A span as people say it: the two largest units.
pub fn spoken(span: Millis) -> String {
    let secs = span.0 / 1000;
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if secs == 0 => format!("{} ms", span.0),
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", secs % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A registered workflow with its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowView {
    /// Its name.
    pub name: Name,
    /// The version that new runs take.
    pub current: Version,
    /// Its versions, and whether a live session serves each.
    pub versions: Vec<(VersionRow, bool)>,
}

impl WorkflowView {
    /// Open runs of a version.
    pub fn open_runs(row: &VersionRow) -> u64 {
        row.open.values().sum()
    }
}

/// All workflows.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn workflows<R: ReadRows + ?Sized>(rows: &R) -> Result<Vec<WorkflowView>, Fault> {
    let sessions = sessions(rows)?;
    let served: BTreeSet<(Name, Version)> = sessions
        .iter()
        .flat_map(|session| session.workflows.iter().cloned())
        .collect();
    let mut found = Vec::new();
    let all = Stretch::from(Key::Workflow(Name::from_stored("")), Alike::Kind);
    rows.scan(&all, &mut |_, row| {
        let Row::Workflow(row) = row else {
            return false;
        };
        found.push(WorkflowView {
            name: row.name,
            current: row.current,
            versions: Vec::new(),
        });
        true
    })?;
    for view in &mut found {
        let from = Key::Version(view.name.clone(), Version(0));
        rows.scan(&Stretch::from(from, Alike::One), &mut |_, row| {
            let Row::Version(row) = row else { return false };
            let served = served.contains(&(row.name.clone(), row.version));
            view.versions.push((Arc::unwrap_or_clone(row), served));
            true
        })?;
    }
    Ok(found)
}

/// All limits that are declared, closed, held or waited for. Their rows say it all: no run is looked at.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn limits<R: ReadRows + ?Sized>(rows: &R) -> Result<Vec<LimitView>, Fault> {
    let mut found = Vec::new();
    let all = Stretch::from(Key::Limit(LimitName::from_stored("")), Alike::Kind);
    rows.scan(&all, &mut |key, row| {
        let (Key::Limit(name), Row::Limit(limit)) = (key, row) else {
            return false;
        };
        found.push(LimitView {
            name,
            waiting: u64::from(limit.waiting),
            oldest: limit.oldest,
            limit,
        });
        true
    })?;
    Ok(found)
}

/// A limit with its waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitView {
    /// Its name.
    pub name: LimitName,
    /// Its bucket.
    pub limit: Limit,
    /// How many steps wait for it.
    pub waiting: u64,
    /// Since when the first of them waits.
    pub oldest: Option<Timestamp>,
}

/// All live runs.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn live_runs<R: ReadRows + ?Sized>(rows: &R) -> Result<Vec<Arc<Run>>, Fault> {
    let mut found = Vec::new();
    let all = Stretch::from(Key::Run(RunId::from_stored("")), Alike::Kind);
    rows.scan(&all, &mut |_, row| {
        let Row::Run(run) = row else { return false };
        found.push(run);
        true
    })?;
    Ok(found)
}

/// The value of a view that a run published.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn view<R: ReadRows + ?Sized>(
    rows: &R,
    id: &RunId,
    name: &Name,
) -> Result<Option<Bytes>, Fault> {
    rows.view(id, name)
}

/// How many runs are paused, by the system and by people, among the first so many.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn paused<R: ReadRows + ?Sized>(rows: &R, most: usize) -> Result<(u64, u64), Fault> {
    let mut ids = Vec::new();
    let from = Key::ByClass(
        Class::Paused,
        Newest::from_number(0),
        RunId::from_stored(""),
    );
    rows.scan(&Stretch::from(from, Alike::One), &mut |key, _| {
        let Key::ByClass(_, _, id) = key else {
            return false;
        };
        ids.push(id);
        ids.len() < most
    })?;
    let (mut by_system, mut by_person) = (0, 0);
    for id in ids {
        match rows.run(&id)?.map(|run| run.mode.clone()) {
            Some(Mode::Paused {
                by_system: true, ..
            }) => by_system += 1,
            _ => by_person += 1,
        }
    }
    Ok((by_system, by_person))
}

/// Whether the time of anything is over by these bounds.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn is_overripe<R: ReadRows + ?Sized>(rows: &R, it: &Collect) -> Result<bool, Fault> {
    let mut found = false;
    for (keeps, before) in it.bounds() {
        let all = Key::Ended(keeps, Timestamp(0), RunId::from_stored(""));
        rows.scan(&Stretch::from(all, Alike::One), &mut |key, _| {
            found |= matches!(key, Key::Ended(_, ended, _) if ended < before);
            false // the first one is the oldest
        })?;
    }
    Ok(found)
}

/// Runs that nothing would move: must be none.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn without_wake_source<R: ReadRows + ?Sized>(rows: &R) -> Result<Vec<RunId>, Fault> {
    let runs = live_runs(rows)?;
    let stuck = runs.iter().filter(|run| run.wake_source().is_none());
    Ok(stuck.map(|run| run.id.clone()).collect())
}
