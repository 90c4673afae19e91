//! S12 signals once, and in order.
//!
//! Decided from the history, the taps (each acknowledged signal was applied) and what the journals say that waits took.
//! Not exercised by these files: messages between groups.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::story;
use crate::records::{Answer, Call, FinalRun, Op, Outcome, Verdict};

/// A signal as it was sent: run, name, id, serial.
fn signal(op: &Op) -> Option<(&str, &str, &str, u64)> {
    match &op.call {
        Call::Signal {
            run,
            name,
            signal_id,
            serial,
        } => Some((run, name, signal_id, *serial)),
        _ => None,
    }
}

/// S12.
pub fn s12(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let complete = case.log.incomplete().is_none();
    let mut applied: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (_, command) in case.log.commands() {
        if command.kind == "signal"
            && command.answer == "ok"
            && let (Some(run), Some(request)) = (&command.run, &command.request)
        {
            applied.insert((run, request));
        }
    }
    let mut by_run: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in &case.store.history {
        let Some((run, _, id, _)) = signal(op) else {
            continue;
        };
        by_run.entry(run).or_default().push(op);
        if is_done(op) {
            judge.saw();
            if complete && !applied.contains(&(run, id)) {
                let headline =
                    format!("S12: signal {id} to {run} was acknowledged, and no node applied it");
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
    for ((run, _), journal) in case.journals() {
        taken(
            case,
            run,
            journal,
            by_run.get(run).map_or(&[], Vec::as_slice),
            &mut judge,
        );
    }
    judge.verdict()
}

/// Whether the asker was told that it is done.
fn is_done(op: &Op) -> bool {
    let too_late = matches!(op.answer, Some(Answer::Ended { .. } | Answer::NoRun));
    op.outcome == Outcome::Ok && !too_late
}

/// What the waits of one run took: sent, each once, and of one sender in the order sent.
fn taken(case: &Case<'_>, run: &str, journal: &FinalRun, sent: &[&Op], judge: &mut Judge) {
    let intents = journal.journal.iter().flat_map(|row| &row.intents);
    let waits: BTreeMap<u32, &str> = intents
        .filter(|(_, kind, _)| kind == "wait")
        .map(|(number, _, name)| (*number, name.as_str()))
        .collect();
    let mut place: BTreeMap<u64, usize> = BTreeMap::new();
    let received = journal.journal.iter().flat_map(|row| &row.received);
    let received = received.filter(|(entry, _)| waits.contains_key(entry));
    for (nth, (entry, serial)) in received.enumerate() {
        judge.saw();
        if place.insert(*serial, nth).is_some() {
            let headline = format!("S12: {run} took the signal with serial {serial} twice");
            judge.broken(|| story::of_run(case, &headline, run));
        }
        let name = waits[entry];
        let known = sent
            .iter()
            .filter_map(|op| signal(op))
            .any(|(_, sent_as, _, it)| it == *serial && (name.is_empty() || sent_as == name));
        if !known {
            let headline =
                format!("S12: {run} took a signal {name} with serial {serial}, which nobody sent");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    in_order(case, run, &attempts(sent), &place, judge);
}

/// All that was tried to send one signal, and may have been taken: what was refused tells nothing of when its repeat was.
struct Attempts<'a> {
    /// The first of them.
    op: &'a Op,
    name: &'a str,
    from: u64,
    /// When it was known to have been taken.
    by: Option<u64>,
}

/// By serial.
fn attempts<'a>(sent: &[&'a Op]) -> BTreeMap<u64, Attempts<'a>> {
    let mut all: BTreeMap<u64, Attempts<'a>> = BTreeMap::new();
    for op in sent {
        let Some((_, name, _, serial)) = signal(op) else {
            continue;
        };
        if !is_done(op) && op.outcome != Outcome::Info {
            continue;
        }
        let (op, from, by) = (*op, op.t_inv, is_done(op).then_some(op.t_ret));
        let it = all.entry(serial).or_insert(Attempts { op, name, from, by });
        if from < it.from {
            (it.op, it.from) = (op, from);
        }
        it.by = it.by.into_iter().chain(by).min();
    }
    all
}

/// Of one sender, what was known to have been taken before another was sent is taken before it.
fn in_order(
    case: &Case<'_>,
    run: &str,
    attempts: &BTreeMap<u64, Attempts<'_>>,
    place: &BTreeMap<u64, usize>,
    judge: &mut Judge,
) {
    let taken = attempts.iter();
    let taken: Vec<_> = taken
        .filter_map(|(serial, it)| Some((it, place.get(serial)?)))
        .collect();
    for (before, before_at) in &taken {
        for (after, after_at) in &taken {
            let one_sender = before.op.client == after.op.client && before.name == after.name;
            if one_sender && before.by.is_some_and(|by| by < after.from) && after_at < before_at {
                let headline = format!(
                    "S12: client {} sent op {} before op {} to {run}, and they were taken the other way round",
                    before.op.client, before.op.id, after.op.id
                );
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
}
