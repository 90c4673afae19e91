//! `Advance`: a driver moves its run. Results of finished steps and the intents of the next share one commit.
//!
//! The fence is judged before anything else, the repeat next. Results count, each by its step's fence; intents unless the
//! run was interrupted; an ending unless deliveries wait, for history decides and speculation never does.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    bounds,
    commands::{common, signal},
    effect::Effect,
    entry::{Advance, AttemptOutcome, Intent, IntentKind, StepSpec, TimerSpec, Trouble},
    ids::{DeliveryNo, IntentNo},
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Rejected, Reply, StepGrant},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    seeded::{self, Bug},
    turn::{Facts, Turn},
    values::{
        run::{Drive, Kept, LastAdvance, OpenKind, Run},
        step::{Phase, Step, Tries, TryState},
    },
};

/// Panics of a function in a row after which its run is quarantined.
const PANICS_IN_A_ROW_MAX: u32 = 3;

/// Judges, then writes.
pub fn apply<R: Rows>(turn: &mut Turn<'_, R>, it: &Advance) -> Result<Reply, Fault> {
    let Some(run) = turn.run(&it.run)? else {
        return ended(turn, it);
    };
    if run.newest_fence != Some(it.fence) {
        return Ok(Rejected::StaleFence(it.fence).into()); // granted anew since: not even its repeat
    }
    if let Some(reply) = repeat(run.last.as_ref(), it, Some(&run)) {
        return Ok(reply);
    }
    let Some(drive) = run.drive.filter(|drive| drive.fence == it.fence) else {
        return Ok(Rejected::StaleFence(it.fence).into());
    };
    if let Err(rejected) = check(&run, &drive, it) {
        return Ok(rejected.into());
    }
    let mut run = Arc::unwrap_or_clone(run);
    let advanced = advance(turn, &mut run, it)?;
    run.last = Some(LastAdvance {
        fence: it.fence,
        number: it.number,
        reply: advanced.clone(),
    });
    let in_flight = run.local_in_flight();
    turn.effect(Effect::Driven {
        run: run.id.clone(),
        fence: it.fence,
        in_flight,
    });
    common::settle(turn, run)?;
    Ok(Reply::Advanced(advanced))
}

/// The run is final: its last Advance still gets its answer.
fn ended<R: Rows>(turn: &Turn<'_, R>, it: &Advance) -> Result<Reply, Fault> {
    let Some(done) = turn.finished(&it.run)? else {
        return Ok(Rejected::NoSuchRun(it.run.clone()).into());
    };
    let repeated = repeat(done.last.as_ref(), it, None);
    Ok(repeated.unwrap_or_else(|| Rejected::StaleFence(it.fence).into()))
}

/// The first answer again, with each grant in it only while that lease lives under the same fence.
fn repeat(last: Option<&LastAdvance>, it: &Advance, run: Option<&Run>) -> Option<Reply> {
    let last = last.filter(|last| last.fence == it.fence && last.number == it.number)?;
    if seeded::armed(Bug::AdvanceAcceptedTwice) {
        return None;
    }
    let mut reply = last.reply.clone();
    let dead = seeded::armed(Bug::RepeatWithDeadGrants);
    reply.grants.retain(|grant| {
        let step = run.and_then(|run| run.step(grant.intent));
        dead || step.is_some_and(|step| step.tries.is_under(grant.fence))
    });
    Some(Reply::Advanced(reply))
}

fn check(run: &Run, drive: &Drive, it: &Advance) -> Result<(), Rejected> {
    let expected = run.last.as_ref().filter(|last| last.fence == it.fence);
    let expected = expected.map_or(1, |last| last.number.0 + 1);
    let again = seeded::armed(Bug::AdvanceAcceptedTwice) && it.number.0 + 1 == expected;
    if it.number.0 != expected && !again {
        let (run, number) = (&run.id, it.number);
        return Err(Rejected::Invalid(format!(
            "Advance {number} of run {run} is out of turn, {expected} comes next"
        )));
    }
    if it.seen > drive.delivery {
        let (seen, made) = (it.seen, drive.delivery);
        return Err(Rejected::Invalid(format!(
            "delivery {seen} of run {} was never made, the last one is {made}",
            run.id
        )));
    }
    if it.seen < drive.seen {
        let (seen, before) = (it.seen, drive.seen);
        return Err(Rejected::Invalid(format!(
            "run {} had seen delivery {before}, and now names {seen}",
            run.id
        )));
    }
    check_intents(run, it)
}

fn check_intents(run: &Run, it: &Advance) -> Result<(), Rejected> {
    if it.intents.len() > bounds::INTENTS_PER_ADVANCE_MAX {
        return Err(large(
            "intents in one Advance",
            it.intents.len(),
            bounds::INTENTS_PER_ADVANCE_MAX,
        ));
    }
    let opening = it.intents.iter().filter(|intent| opens(intent)).count();
    let open = run.open.len().saturating_sub(it.results.len()) + opening;
    if opening > 0 && open > bounds::OPEN_INTENTS_MAX {
        return Err(large("open operations", open, bounds::OPEN_INTENTS_MAX));
    }
    for result in &it.results {
        if let AttemptOutcome::Done(output) = &result.outcome
            && output.len() > bounds::INLINE_PAYLOAD_BYTES_MAX
        {
            return Err(large(
                "a step's output",
                output.len(),
                bounds::INLINE_PAYLOAD_BYTES_MAX,
            ));
        }
    }
    for (nth, intent) in (run.next_intent.0..).zip(&it.intents) {
        if intent.number != IntentNo(nth) {
            let found = intent.number;
            return Err(Rejected::Invalid(format!(
                "intent {nth} comes next, not {found}"
            )));
        }
        check_intent(intent)?;
    }
    let endings = it.intents.iter().rposition(|intent| !is_ending(intent));
    let early = it.intents.iter().position(is_ending);
    if early.is_some_and(|ending| endings.is_some_and(|last| ending < last)) {
        return Err(Rejected::Invalid(
            "nothing may come after an ending".to_owned(),
        ));
    }
    Ok(())
}

fn check_intent(intent: &Intent) -> Result<(), Rejected> {
    let (what, bytes) = match &intent.kind {
        IntentKind::Step(spec) if spec.limits.len() > bounds::LIMITS_PER_STEP_MAX => {
            return Err(large(
                "limits of one step",
                spec.limits.len(),
                bounds::LIMITS_PER_STEP_MAX,
            ));
        }
        IntentKind::Step(spec) => ("a step's input", spec.input.len()),
        IntentKind::Record(value) => ("a recorded value", value.len()),
        IntentKind::Publish { value, .. } => ("a view's value", value.len()),
        IntentKind::Complete(output) => ("the run's output", output.len()),
        IntentKind::Timer(_) | IntentKind::Wait { .. } | IntentKind::Fail { .. } => return Ok(()),
    };
    if bytes > bounds::INLINE_PAYLOAD_BYTES_MAX {
        return Err(large(what, bytes, bounds::INLINE_PAYLOAD_BYTES_MAX));
    }
    Ok(())
}

fn large(what: &str, size: usize, max: usize) -> Rejected {
    let cure = "make it smaller, or split the work into several runs".to_owned();
    Rejected::TooLarge {
        what: what.to_owned(),
        size: size as u64,
        max: max as u64,
        cure,
    }
}

/// Whether it stays open until something comes of it.
fn opens(intent: &Intent) -> bool {
    matches!(
        intent.kind,
        IntentKind::Step(_) | IntentKind::Timer(_) | IntentKind::Wait { .. }
    )
}

fn is_ending(intent: &Intent) -> bool {
    matches!(
        intent.kind,
        IntentKind::Complete(_) | IntentKind::Fail { .. }
    )
}

/// What came of the parts of one Advance.
#[derive(Default)]
struct Gathered {
    outcomes: Vec<(IntentNo, Outcome)>,
    later: Vec<(IntentNo, Outcome)>,
    superseded: bool,
    ending: Option<End>,
    accepted: Vec<Intent>,
}

fn advance<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    it: &Advance,
) -> Result<Advanced, Fault> {
    let waiting = run.drive.is_some_and(|drive| drive.delivery > it.seen)
        && !seeded::armed(Bug::EndingBesideDeliveries);
    let interrupted = !run.is_live() || was_interrupted(run, it);
    let mut gathered = Gathered::default();
    take_results(turn, run, it, &mut gathered)?;
    let intents_count = !interrupted && !gathered.superseded && it.trouble.is_none();
    if intents_count {
        take_intents(turn, run, it, waiting, &mut gathered)?;
    }
    let has_news = !gathered.outcomes.is_empty() || !gathered.accepted.is_empty();
    let ending_refused = waiting && it.intents.last().is_some_and(is_ending) && intents_count;
    if has_news {
        write_row(turn, run, it, &mut gathered);
    }
    if !gathered.later.is_empty() {
        turn.deliver(run, Facts::outcomes(std::mem::take(&mut gathered.later)));
    }
    if let Some(trouble) = &it.trouble {
        troubled(turn, run, trouble);
    }
    if run.next_seq.0 >= bounds::JOURNAL_ROWS_MAX && run.is_live() {
        let rows = run.next_seq;
        run.pause(
            format!("its journal has {rows} rows; split the work into several runs"),
            true,
        );
    }
    let deliveries = unseen(turn, run, it.seen)?;
    let ended = gathered.ending.is_some();
    if let Some(end) = gathered.ending.take() {
        common::begin_ending(turn, run, end)?;
    }
    let idle = run.drive.is_none() || run.local_in_flight() == 0;
    let outcome = if gathered.superseded || (it.trouble.is_some() && idle) {
        common::lose_drive(turn, run, "the function is replayed")?;
        AdvanceOutcome::Superseded
    } else if interrupted || it.trouble.is_some() || (!run.is_live() && !ended) {
        interrupt(turn, run)?
    } else if ended && run.local_in_flight() > 0 {
        // Its worker may not know of them yet: a grant of a further attempt travels by another way than this answer.
        AdvanceOutcome::Interrupted
    } else if ended {
        AdvanceOutcome::Finished
    } else if ending_refused {
        AdvanceOutcome::DeliveriesWait
    } else {
        AdvanceOutcome::GoesOn
    };
    let grants = next_grants(turn, run, it, &outcome);
    let outcome = match outcome {
        AdvanceOutcome::GoesOn if deliveries.is_empty() && !run.has_local_work() => {
            run.kept = run.drive.take().map(|drive| Kept {
                session: drive.session,
                shown_from: run.next_seq,
            });
            pause_if_nothing_wakes(run);
            if seeded::armed(Bug::TimerWithoutRow) {
                run.open
                    .retain(|_, open| !matches!(open.what, OpenKind::Timer { .. }));
            }
            AdvanceOutcome::Suspended
        }
        other => other,
    };
    Ok(Advanced {
        number: it.number,
        outcome,
        grants,
        deliveries,
    })
}

fn next_grants<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    it: &Advance,
    outcome: &AdvanceOutcome,
) -> Vec<StepGrant> {
    match (outcome, run.drive) {
        (AdvanceOutcome::GoesOn | AdvanceOutcome::DeliveriesWait, Some(drive)) => {
            common::grant_local(turn, run, drive.session, it.free_slots)
        }
        _ => Vec::new(),
    }
}

/// A function that awaits nothing would wait for ever: a person is to look at it.
fn pause_if_nothing_wakes(run: &mut Run) {
    if run.wake_source().is_none() {
        run.pause(
            "its function awaits nothing that could wake it".to_owned(),
            true,
        );
    }
}

/// An interrupted drive stays so, also when its run was resumed meanwhile: intents of its function were refused, so that
/// it must be replayed before it may go on.
fn was_interrupted(run: &Run, it: &Advance) -> bool {
    let last = run.last.as_ref().filter(|last| last.fence == it.fence);
    last.is_some_and(|last| last.reply.outcome == AdvanceOutcome::Interrupted)
}

/// Cancel, pause or a panic came first: the drive lives on only for its steps in flight.
fn interrupt<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run) -> Result<AdvanceOutcome, Fault> {
    if run.local_in_flight() > 0 {
        return Ok(AdvanceOutcome::Interrupted);
    }
    common::lose_drive(turn, run, "the run was interrupted")?;
    Ok(AdvanceOutcome::Finished)
}

fn take_results<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    it: &Advance,
    gathered: &mut Gathered,
) -> Result<(), Fault> {
    for result in &it.results {
        let live = run
            .step(result.intent)
            .is_some_and(|step| step.tries.is_under(result.fence));
        let done = matches!(result.outcome, AttemptOutcome::Done(_));
        if !live {
            // The function may have run on with a result that does not count.
            gathered.superseded |= done;
            continue;
        }
        let Some(outcome) = common::end_attempt(turn, run, result.intent, &result.outcome)? else {
            continue;
        };
        if done {
            gathered.outcomes.push((result.intent, outcome));
        } else {
            gathered.later.push((result.intent, outcome)); // the driver cannot know it before
        }
    }
    Ok(())
}

fn take_intents<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    it: &Advance,
    deliveries_wait: bool,
    gathered: &mut Gathered,
) -> Result<(), Fault> {
    for intent in &it.intents {
        if !run.is_live() || (is_ending(intent) && deliveries_wait) {
            break;
        }
        run.next_intent.0 += 1;
        gathered.accepted.push(intent.clone());
        match &intent.kind {
            IntentKind::Step(spec) => open_step(turn, run, intent, spec)?,
            IntentKind::Timer(when) => open_timer(turn, run, intent, *when, gathered),
            IntentKind::Wait {
                signal,
                timeout,
                ask,
            } => {
                if let Some(payload) = signal::take_buffered(turn, run, signal)? {
                    gathered.later.push((intent.number, Outcome::Done(payload)));
                } else {
                    let due = timeout.map(|timeout| turn.now.after(timeout));
                    let (signal, ask, since) = (signal.clone(), ask.clone(), turn.now);
                    let what = OpenKind::Wait {
                        signal,
                        due,
                        ask,
                        since,
                    };
                    common::open(run, intent.number, intent.key.clone(), what);
                }
            }
            IntentKind::Record(_) => {}
            IntentKind::Publish { view, value } => {
                turn.put(
                    Key::View(run.id.clone(), view.clone()),
                    Row::Bytes(value.clone()),
                );
            }
            IntentKind::Complete(output) => gathered.ending = Some(End::Completed(output.clone())),
            IntentKind::Fail { code, message } => {
                let (code, message) = (code.clone(), crate::values::step::cut(message));
                gathered.ending = Some(End::Failed { code, message });
            }
        }
    }
    Ok(())
}

fn open_step<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    intent: &Intent,
    spec: &StepSpec,
) -> Result<(), Fault> {
    let mut limits = spec.limits.clone();
    limits.sort();
    limits.dedup();
    let step = Step {
        step: spec.step.clone(),
        queue: spec.queue.clone(),
        seq: run.next_seq, // the row of this very Advance
        retry: spec.retry.clone(),
        timeout: spec.timeout,
        heartbeat: spec.heartbeat,
        limits,
        certainty: spec.certainty.clone(),
        undo: spec.undo.clone(),
        phase: Phase::Body,
        admitted: false,
        tries: Tries::new(TryState::Scheduled { since: turn.now }),
    };
    let what = OpenKind::Step(Arc::new(step));
    common::open(run, intent.number, intent.key.clone(), what);
    if !spec.limits.is_empty() {
        common::schedule(turn, run, intent.number)?;
    }
    Ok(())
}

fn open_timer<R: Rows>(
    turn: &Turn<'_, R>,
    run: &mut Run,
    intent: &Intent,
    when: TimerSpec,
    gathered: &mut Gathered,
) {
    let due = match when {
        TimerSpec::After(span) => turn.now.after(span),
        TimerSpec::At(at) => at,
    };
    if due <= turn.now {
        gathered.later.push((intent.number, Outcome::Fired));
    } else {
        common::open(
            run,
            intent.number,
            intent.key.clone(),
            OpenKind::Timer { due },
        );
    }
}

/// One row for the whole Advance: these are the checkpoints.
fn write_row<R: Rows>(
    turn: &mut Turn<'_, R>,
    run: &mut Run,
    it: &Advance,
    gathered: &mut Gathered,
) {
    let outcomes = std::mem::take(&mut gathered.outcomes);
    let intents = std::mem::take(&mut gathered.accepted);
    turn.append_journal(run, |row| {
        row.seen = Some(it.seen);
        row.outcomes = outcomes;
        row.intents = intents;
    });
}

/// The deliveries that this Advance has not seen, in order; from here on the rows before them count as seen.
fn unseen<R: Rows>(
    turn: &Turn<'_, R>,
    run: &mut Run,
    seen: DeliveryNo,
) -> Result<Vec<JournalRow>, Fault> {
    let next = run.next_seq;
    let (id, generation) = (run.id.clone(), run.generation);
    let Some(drive) = &mut run.drive else {
        return Ok(Vec::new());
    };
    drive.seen = seen;
    if drive.delivery <= seen {
        drive.unseen_from = next;
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    let from = Key::Journal(id.clone(), generation, drive.unseen_from);
    turn.scan(&Stretch::from(from, Alike::Two), &mut |_, row| {
        let Row::Journal(row) = row else { return false };
        if row.delivery.is_some_and(|number| number > seen) {
            rows.push(Arc::unwrap_or_clone(row));
        }
        true
    })?;
    drive.unseen_from = rows.first().map_or(next, |row: &JournalRow| row.seq);
    Ok(rows)
}

/// The function cannot go on under this driver.
fn troubled<R: Rows>(turn: &mut Turn<'_, R>, run: &mut Run, trouble: &Trouble) {
    match trouble {
        Trouble::Diverged { key, expected, got } => {
            let (expected, got) = (
                crate::values::step::cut(expected),
                crate::values::step::cut(got),
            );
            let evidence = format!(
                "replay diverged at {key}: the journal has {expected}, the code asked for {got}"
            );
            turn.append_journal(run, |row| row.note = Some(evidence.clone()));
            run.quarantine(evidence);
        }
        Trouble::Panicked(text) => {
            run.panics += 1;
            if run.panics >= PANICS_IN_A_ROW_MAX {
                let text = crate::values::step::cut(text);
                run.quarantine(format!(
                    "its function panicked {} times: {text}",
                    run.panics
                ));
            }
        }
    }
}

/// Where the input of a step stands: the intent in the journal row that holds it.
pub fn input_of(row: &JournalRow, intent: IntentNo) -> Option<Bytes> {
    row.intents
        .iter()
        .find(|it| it.number == intent)
        .and_then(|it| match &it.kind {
            IntentKind::Step(spec) => Some(spec.input.clone()),
            IntentKind::Timer(_)
            | IntentKind::Wait { .. }
            | IntentKind::Record(_)
            | IntentKind::Publish { .. }
            | IntentKind::Complete(_)
            | IntentKind::Fail { .. } => None,
        })
}
