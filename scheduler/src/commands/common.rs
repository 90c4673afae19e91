//! What several commands do to a run: end an attempt, lose a lease, pass a limit, begin an ending, settle.

use std::collections::BTreeSet;

use crate::{
    bounds,
    effect::Effect,
    entry::{AttemptOutcome, GiveUp, Work},
    ids::{Fence, IntentNo, LimitName, Name, SessionId},
    reply::{End, Outcome, Rejected, Reply, StepGrant},
    rows::{Fault, Key, Row, Rows, TypedRows},
    seeded::{self, Bug},
    time::Millis,
    turn::{Facts, Turn},
    values::{
        limit::Limit,
        retry::Verdict,
        run::{Back, Mode, Open, OpenKind, Run},
        step::{AfterLoss, Owed, Phase, Step, StepLease, Tries, TryState, cut, failure_of},
    },
};

/// Deaths of a run's worker at which it is quarantined: the last one held nothing else when it was given the run.
const DEATHS_BEFORE_QUARANTINE: usize = 3;

/// The answer to an ask about a run that is not live: it ended, or there is none.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn not_live<R: Rows>(turn: &Turn<'_, R>, id: &crate::ids::RunId) -> Result<Reply, Fault> {
    Ok(match turn.finished(id)? {
        Some(done) => Reply::Rejected(Rejected::RunEnded {
            run: id.clone(),
            status: done.end.status(),
        }),
        None => Reply::Rejected(Rejected::NoSuchRun(id.clone())),
    })
}

/// Stores a run after a command, or makes it final when it owes nothing any more.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn settle<R: Rows>(turn: &mut Turn<'_, R>, mut run: Run) -> Result<(), Fault> {
    if let Mode::Undoing { end } = &run.mode {
        let end = end.clone();
        if run.local_in_flight() == 0 {
            run.drive = None; // nothing is left to drive; steps elsewhere report by themselves
        }
        begin_undo_at_hand(turn, &mut run);
        let owes = run.undos.iter().any(|owed| run.owes(owed));
        let owes = owes && !seeded::armed(Bug::UndoForgotten);
        if !owes && run.drive.is_none() && !run.has_leased_step() {
            return turn.finish(run, end);
        }
    }
    turn.store_run(run);
    Ok(())
}

fn begin_undo_at_hand<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run) {
    let Some(intent) = run
        .undo_at_hand()
        .filter(|owed| owed.tries.is_none())
        .map(|o| o.intent)
    else {
        return;
    };
    let now = turn.now;
    if let Some(owed) = run.undos.iter_mut().find(|owed| owed.intent == intent) {
        owed.tries = Some(Tries::new(TryState::Scheduled { since: now }));
    }
}

/// The run is to end like this: nothing new begins, what a worker executes is asked to stop, the rest is withdrawn.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn begin_ending<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, end: End) -> Result<(), Fault> {
    let completed = matches!(end, End::Completed(_));
    run.mode = Mode::Undoing { end };
    run.ready = None;
    let open: BTreeSet<IntentNo> = run.steps().map(|(intent, _)| intent).collect();
    for owed in &mut run.undos {
        owed.withdrawn |= completed && open.contains(&owed.intent);
    }
    let driven = run.drive.is_some();
    for intent in open {
        let leased = run
            .step(intent)
            .filter(|step| driven || !step.is_local()) // without its driver nobody would report it
            .and_then(|step| step.tries.lease().copied());
        match leased {
            Some(lease) => turn.effect(Effect::Stop {
                work: Work::Step(run.id.clone(), intent),
                session: lease.session,
                fence: lease.fence,
                why: "the run is ending",
            }),
            None => close_step(turn, run, intent)?,
        }
    }
    run.open
        .retain(|_, open| matches!(open.what, OpenKind::Step(_)));
    Ok(())
}

/// A step is over: its place at its limits is free.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn close_step<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
) -> Result<(), Fault> {
    give_places_back(turn, run, intent)?;
    run.open.remove(&intent);
    Ok(())
}

/// Gives back the places that a step's attempt held at its limits.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn give_places_back<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
) -> Result<(), Fault> {
    let Some(step) = run.step_mut(intent).filter(|step| step.admitted) else {
        return Ok(());
    };
    step.admitted = false;
    for name in step.limits.clone() {
        let Some(mut limit) = turn.limit(&name)? else {
            return Err(Fault(format!(
                "limit {name} is held by {} and has no row",
                run.id
            )));
        };
        limit.release();
        turn.store_limit(name.clone(), limit);
        if turn.orders().waits.contains_key(&name) {
            turn.effect(Effect::LimitWaits {
                limit: name,
                at: turn.now,
            });
        }
    }
    Ok(())
}

/// Lets a step that waits at its limits pass, if all admit it and, with `in_turn`, nobody waits before it.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn pass_limits<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    in_turn: bool,
) -> Result<bool, Fault> {
    let Some(step) = run.step(intent).filter(|_| run.is_live()) else {
        return Ok(false); // a run that is held still takes no place
    };
    let TryState::AtLimit { ticket, .. } = step.tries.state else {
        return Ok(false);
    };
    let names = step.limits.clone();
    let now = turn.now;
    let mut limits = Vec::with_capacity(names.len());
    for name in &names {
        let limit = turn.limit(name)?.unwrap_or_else(|| Limit::undeclared(now));
        let waits_in_turn = !in_turn || !somebody_waits_before(turn, run, name, ticket);
        if !waits_in_turn || !limit.admits(now) {
            let at = limit.next_admission(now).unwrap_or(now);
            turn.effect(Effect::LimitWaits {
                limit: name.clone(),
                at,
            });
            return Ok(false);
        }
        limits.push(limit);
    }
    for (name, mut limit) in names.into_iter().zip(limits) {
        limit.take(now);
        turn.put(Key::Limit(name), Row::Limit(limit));
    }
    if let Some(step) = run.step_mut(intent) {
        step.admitted = true;
        step.tries.state = TryState::Scheduled { since: now };
    }
    if run.step(intent).is_some_and(Step::is_local) {
        run.wake(now);
    }
    Ok(true)
}

fn somebody_waits_before<R: Rows>(
    turn: &Turn<'_, R>,
    run: &Run,
    name: &LimitName,
    ticket: (u64, u32),
) -> bool {
    let own = |work: &Work| work.run() == &run.id;
    let others = turn
        .orders()
        .waits
        .get(name)
        .is_some_and(|waiters| waiters.range(..ticket).any(|(_, work)| !own(work)));
    let mut mine = run.limit_waits().into_iter();
    others || mine.any(|(limit, other, _)| limit == *name && other < ticket)
}

/// A step may be tried (again): it waits at its limits, or for a worker.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn schedule<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
) -> Result<(), Fault> {
    queue(turn, run, intent)?;
    if run.drive.is_some() && run.step(intent).is_some_and(Step::is_local) {
        pass_limits(turn, run, intent, true)?;
    }
    Ok(())
}

/// As `schedule`, but a place at its limits is given by the leader's next look alone: a step whose worker is missing must
/// not hold a place.
fn queue<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, intent: IntentNo) -> Result<(), Fault> {
    give_places_back(turn, run, intent)?;
    let ticket = turn.next_ticket();
    let now = turn.now;
    let Some(step) = run.step_mut(intent) else {
        return Ok(());
    };
    let limited = step.is_limited();
    let local = step.is_local();
    step.tries.wait_for_worker(limited, ticket, now);
    if limited {
        look_at_limits(turn, run);
    } else if local {
        run.wake(now);
    }
    Ok(())
}

/// Has the leader look at each limit that the run waits at.
pub fn look_at_limits<R: Rows>(turn: &mut Turn<'_, R>, run: &Run) {
    let at = turn.now;
    for (limit, _, _) in run.limit_waits() {
        turn.effect(Effect::LimitWaits { limit, at });
    }
}

/// Grants a step to a session. Its undo is owed from the first grant on.
pub fn grant_step<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    session: SessionId,
) -> Option<StepGrant> {
    let fence = turn.next_fence();
    let now = turn.now;
    let queue = run.queue.clone();
    let step = run.step_mut(intent)?;
    step.tries.grant(session, fence, now);
    let grant = StepGrant {
        intent,
        fence,
        attempt: step.tries.attempt,
        timeout: step.timeout,
        progress: step.tries.progress.clone(),
    };
    let owed = match (&step.undo, step.phase) {
        (Some(undo), Phase::Body) => Some(owed_by(intent, step, undo, queue)),
        _ => None,
    };
    if let Some(owed) = owed.filter(|owed| !run.undos.iter().any(|o| o.intent == owed.intent)) {
        run.undos.push(owed);
        run.undos.sort_by_key(|owed| owed.intent);
    }
    Some(grant)
}

fn owed_by(intent: IntentNo, step: &Step, undo: &Name, run_queue: Name) -> Owed {
    Owed {
        intent,
        step: step.step.clone(),
        undo: undo.clone(),
        queue: step.queue.clone().unwrap_or(run_queue),
        seq: step.seq,
        output: None,
        withdrawn: false,
        tries: None,
    }
}

/// Grants the driver as many of its scheduled local steps as it has room for.
pub fn grant_local<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    session: SessionId,
    free_slots: u32,
) -> Vec<StepGrant> {
    let room = usize::try_from(free_slots).unwrap_or(usize::MAX);
    let mut scheduled: Vec<IntentNo> = run
        .steps()
        .filter(|(_, step)| step.is_local())
        .filter(|(_, step)| matches!(step.tries.state, TryState::Scheduled { .. }))
        .map(|(intent, _)| intent)
        .take(room.min(bounds::GRANTS_PER_COMMAND_MAX))
        .collect();
    if seeded::armed(Bug::HashOrderInApply) {
        seeded::unordered(&mut scheduled);
    }
    scheduled
        .into_iter()
        .filter_map(|i| grant_step(turn, run, i, session))
        .collect()
}

/// Ends a step's attempt; answers what the function sees if the step is over with it.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn end_attempt<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    outcome: &AttemptOutcome,
) -> Result<Option<Outcome>, Fault> {
    let Some(phase) = run.step(intent).map(|step| step.phase) else {
        return Ok(None);
    };
    if matches!(run.back(), Back::Undoing { .. }) {
        return end_withdrawn(turn, run, intent, phase, outcome).map(Some);
    }
    match (phase, outcome) {
        (_, AttemptOutcome::Done(output)) => {
            checkpointed(turn, run, intent, output.clone()).map(Some)
        }
        (_, AttemptOutcome::Stopped) => {
            lose_step(turn, run, intent, "its attempt was stopped").map(|()| None)
        }
        (
            Phase::Body,
            AttemptOutcome::Throttled {
                limit,
                after,
                message,
            },
        ) => throttled(turn, run, intent, (limit, *after, message)),
        (_, AttemptOutcome::Retryable { message, after }) => {
            failed(turn, run, intent, message, *after)
        }
        (Phase::Probe, AttemptOutcome::Throttled { message, after, .. }) => {
            failed(turn, run, intent, message, Some(*after))
        }
        (_, AttemptOutcome::Panicked(message)) => {
            failed(turn, run, intent, &format!("panicked: {message}"), None)
        }
        (Phase::Body, AttemptOutcome::Terminal { .. }) => {
            over_failed(turn, run, intent, failure_of(outcome)).map(Some)
        }
        (Phase::Probe, AttemptOutcome::Absent) => absent(turn, run, intent).map(|()| None),
        (Phase::Probe, AttemptOutcome::Unsure(message)) => {
            hold(
                turn,
                run,
                intent,
                &format!("its probe is unsure: {message}"),
            );
            Ok(None)
        }
        (Phase::Probe, AttemptOutcome::Terminal { message, .. }) => {
            hold(turn, run, intent, &format!("its probe failed: {message}"));
            Ok(None)
        }
        (Phase::Body, AttemptOutcome::Absent | AttemptOutcome::Unsure(_)) => {
            failed(turn, run, intent, "the step answered as a probe does", None)
        }
    }
}

/// A step ends while the run is ending: whatever it came to, it is over.
fn end_withdrawn<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    phase: Phase,
    outcome: &AttemptOutcome,
) -> Result<Outcome, Fault> {
    let seen = match (phase, outcome) {
        (_, AttemptOutcome::Done(output)) => {
            note_output(run, intent);
            Outcome::Done(output.clone())
        }
        (Phase::Probe, AttemptOutcome::Absent) => {
            run.undos.retain(|owed| owed.intent != intent);
            Outcome::Cancelled("it never happened".to_owned())
        }
        (_, AttemptOutcome::Stopped) => Outcome::Cancelled("stopped".to_owned()),
        (_, other) => failed_outcome(run, intent, failure_of(other)),
    };
    close_step(turn, run, intent)?;
    Ok(seen)
}

fn failed_outcome(run: &Run, intent: IntentNo, (code, message): (String, String)) -> Outcome {
    let attempts = run
        .step(intent)
        .map_or(1, |step| step.tries.failures.saturating_add(1));
    Outcome::Failed {
        code,
        message,
        attempts,
    }
}

/// The output of the step stands in the journal row that is written next.
fn note_output(run: &mut Run, intent: IntentNo) {
    let seq = run.next_seq;
    if let Some(owed) = run.undos.iter_mut().find(|owed| owed.intent == intent) {
        owed.output = Some(seq);
    }
}

fn checkpointed<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    output: bytes::Bytes,
) -> Result<Outcome, Fault> {
    note_output(run, intent);
    run.suspects.clear();
    run.panics = 0;
    close_step(turn, run, intent)?;
    Ok(Outcome::Done(output))
}

fn over_failed<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    failure: (String, String),
) -> Result<Outcome, Fault> {
    let outcome = failed_outcome(run, intent, failure);
    close_step(turn, run, intent)?;
    Ok(outcome)
}

fn failed<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    error: &str,
    asked: Option<Millis>,
) -> Result<Option<Outcome>, Fault> {
    give_places_back(turn, run, intent)?;
    let (id, now) = (run.id.clone(), turn.now);
    let Some(step) = run.step_mut(intent) else {
        return Ok(None);
    };
    let policy = step.retry.clone();
    let verdict = step.tries.fail(&policy, (&id, intent), error, asked, now);
    let (name, failures) = (step.step.clone(), step.tries.failures);
    match verdict {
        Verdict::Again(_) => Ok(None),
        Verdict::UsedUp(GiveUp::Pause) => {
            run.pause(
                format!("{name} gave up after {failures} attempts: {}", cut(error)),
                true,
            );
            Ok(None)
        }
        Verdict::UsedUp(give_up) => {
            close_step(turn, run, intent)?;
            let (code, message) = ("GAVE_UP".to_owned(), cut(error));
            if give_up == GiveUp::Compensate {
                let end = End::Failed {
                    code: code.clone(),
                    message: message.clone(),
                };
                let held = run.mode.clone();
                begin_ending(turn, run, end)?;
                match held {
                    Mode::Paused {
                        reason, by_system, ..
                    } => run.pause(reason, by_system), // it undoes once it is resumed
                    Mode::Quarantined { evidence, .. } => run.quarantine(evidence),
                    Mode::Scheduled { .. } | Mode::Live | Mode::Undoing { .. } => {}
                }
            }
            Ok(Some(Outcome::Failed {
                code,
                message,
                attempts: failures,
            }))
        }
    }
}

/// A callee said to slow down: the limit that the step names closes for every run; no attempt is charged.
fn throttled<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    (limit, after, message): (&LimitName, Millis, &str),
) -> Result<Option<Outcome>, Fault> {
    let named = run.step(intent).is_some_and(|step| step.names_limit(limit));
    if !named {
        let error = format!("throttled by {limit}, a limit that the step does not name: {message}");
        return failed(turn, run, intent, &error, Some(after));
    }
    let now = turn.now;
    let mut row = turn.limit(limit)?.unwrap_or_else(|| Limit::undeclared(now));
    row.close(now, after);
    let at = row.next_admission(now).unwrap_or(now);
    turn.put(Key::Limit(limit.clone()), Row::Limit(row));
    turn.effect(Effect::LimitWaits {
        limit: limit.clone(),
        at,
    });
    if let Some(step) = run.step_mut(intent) {
        step.tries.note(&format!("throttled by {limit}: {message}"));
    }
    schedule(turn, run, intent)?;
    Ok(None)
}

/// The probe says that it never happened: it is tried again, and nothing is owed for it.
fn absent<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, intent: IntentNo) -> Result<(), Fault> {
    run.undos.retain(|owed| owed.intent != intent);
    if let Some(step) = run.step_mut(intent) {
        step.phase = Phase::Body;
    }
    schedule(turn, run, intent)
}

fn hold<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, intent: IntentNo, why: &str) {
    let now = turn.now;
    let Some(step) = run.step_mut(intent) else {
        return;
    };
    step.tries.hold(why, now);
    let name = step.step.clone();
    run.pause(format!("{name}: {why}"), true);
}

/// A step's lease is lost after it may have begun: its certainty mode says what follows.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn lose_step<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    why: &str,
) -> Result<(), Fault> {
    if matches!(run.back(), Back::Undoing { .. }) {
        return close_step(turn, run, intent);
    }
    let Some(step) = run.step_mut(intent) else {
        return Ok(());
    };
    step.tries.note(why);
    match step.after_loss() {
        AfterLoss::TryAgain => queue(turn, run, intent),
        AfterLoss::PauseRun => {
            let attempt = step.tries.attempt;
            give_places_back(turn, run, intent)?;
            let why =
                format!("attempt {attempt} may have happened and must not be repeated: {why}");
            hold(turn, run, intent, &why);
            Ok(())
        }
        AfterLoss::Ask => {
            step.phase = Phase::Probe;
            queue(turn, run, intent)
        }
    }
}

/// The driver's lease is lost or handed back: the run waits for another driver, which replays it.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn lose_drive<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    why: &'static str,
) -> Result<(), Fault> {
    run.drive = None;
    lose_orphans(turn, run, why)?;
    if !matches!(run.back(), Back::Undoing { .. }) {
        run.wake(turn.now);
    }
    Ok(())
}

/// Local steps are reported by their driver alone: without it their leases are lost.
///
/// # Errors
/// `Fault`: a row cannot be decoded.
pub fn lose_orphans<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    why: &'static str,
) -> Result<(), Fault> {
    if run.drive.is_some() {
        return Ok(());
    }
    let leased = |step: &Step| step.tries.lease().copied().filter(|_| step.is_local());
    let orphans: Vec<(IntentNo, StepLease)> = run
        .steps()
        .filter_map(|(intent, step)| leased(step).map(|lease| (intent, lease)))
        .collect();
    for (intent, lease) in orphans {
        turn.effect(Effect::Stop {
            work: Work::Step(run.id.clone(), intent),
            session: lease.session,
            fence: lease.fence,
            why,
        });
        lose_step(turn, run, intent, why)?;
    }
    Ok(())
}

/// A process died with this run in its hands: the third such death quarantines it.
pub fn suspect(run: &mut Run, process: &crate::ids::ProcessId) {
    if !run.suspects.contains(process) {
        run.suspects.push(process.clone());
    }
    if run.suspects.len() >= DEATHS_BEFORE_QUARANTINE {
        let died: Vec<&str> = run
            .suspects
            .iter()
            .map(crate::ids::ProcessId::as_str)
            .collect();
        run.quarantine(format!(
            "its worker died {} times: {}",
            died.len(),
            died.join(", ")
        ));
    }
}

/// An undo's attempt came to this. Never skipped: it retries by the default policy, then the run pauses.
pub fn end_undo<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: IntentNo,
    outcome: &AttemptOutcome,
) {
    let (id, now) = (run.id.clone(), turn.now);
    let Some(owed) = run.undos.iter_mut().find(|owed| owed.intent == intent) else {
        return;
    };
    let name = owed.undo.clone();
    let Some(tries) = &mut owed.tries else { return };
    let stuck = match outcome {
        AttemptOutcome::Done(_) => {
            run.undos.retain(|owed| owed.intent != intent);
            run.suspects.clear();
            turn.deliver(run, Facts::note(format!("{name} took back entry {intent}")));
            return;
        }
        AttemptOutcome::Stopped => {
            tries.wait_for_worker(false, (0, 0), now);
            return;
        }
        AttemptOutcome::Terminal { code, message } => {
            tries.hold(&format!("[{code}] {message}"), now);
            true
        }
        AttemptOutcome::Retryable { after, .. } => {
            undo_failed(tries, (&id, intent), outcome, *after, now)
        }
        AttemptOutcome::Throttled { after, .. } => {
            undo_failed(tries, (&id, intent), outcome, Some(*after), now)
        }
        AttemptOutcome::Panicked(_) | AttemptOutcome::Absent | AttemptOutcome::Unsure(_) => {
            undo_failed(tries, (&id, intent), outcome, None, now)
        }
    };
    if stuck {
        let error = tries.last_error.clone();
        run.pause(format!("undo stuck: {name}: {error}"), true);
    }
}

fn undo_failed(
    tries: &mut Tries,
    whose: (&crate::ids::RunId, IntentNo),
    outcome: &AttemptOutcome,
    asked: Option<Millis>,
    now: crate::time::Timestamp,
) -> bool {
    let (_, message) = failure_of(outcome);
    let policy = crate::entry::RetryPolicy::default();
    matches!(
        tries.fail(&policy, whose, &message, asked, now),
        Verdict::UsedUp(_)
    )
}

/// The step or undo of a run that is under this fence.
pub fn under_fence(run: &Run, intent: IntentNo, fence: Fence) -> Option<Work> {
    if run
        .step(intent)
        .is_some_and(|step| step.tries.is_under(fence))
    {
        return Some(Work::Step(run.id.clone(), intent));
    }
    let owed = run.undos.iter().find(|owed| owed.intent == intent)?;
    let live = owed
        .tries
        .as_ref()
        .is_some_and(|tries| tries.is_under(fence));
    live.then(|| Work::Undo(run.id.clone(), intent))
}

/// Opens what an intent asks for.
pub fn open(run: &mut Run, intent: IntentNo, key: crate::ids::StepKey, what: OpenKind) {
    let before = run.open.insert(intent, Open { key, what });
    assert!(
        before.is_none(),
        "intent {intent} of run {} was opened twice",
        run.id
    );
}
