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
    let mut last: BTreeMap<(u32, &str), (&Op, usize)> = BTreeMap::new();
    for op in sent.iter().filter(|op| op.outcome == Outcome::Ok) {
        let Some((_, name, _, serial)) = signal(op) else {
            continue;
        };
        let Some(at) = place.get(&serial) else {
            continue;
        };
        let sender = (op.client, name);
        if let Some((before, before_at)) = last.get(&sender)
            && before.t_ret < op.t_inv
            && at < before_at
        {
            let headline = format!(
                "S12: client {} sent op {} before op {} to {run}, and they were taken the other way round",
                op.client, before.id, op.id
            );
            judge.broken(|| story::of_run(case, &headline, run));
        }
        if last
            .get(&sender)
            .is_none_or(|(_, before_at)| at > before_at)
        {
            last.insert(sender, (op, *at));
        }
    }
}
